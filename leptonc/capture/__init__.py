"""leptonc.capture."""
