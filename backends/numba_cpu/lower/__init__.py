"""Lowerings by topic: how each kind the backend claims becomes kernel calls."""
