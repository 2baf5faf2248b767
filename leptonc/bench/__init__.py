"""leptonc.bench."""
