"""leptonc.cost."""
