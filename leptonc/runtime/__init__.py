"""leptonc.runtime."""
