"""Helpers of ``layout``, ``fuse`` and ``partition``: axes, groups of ops, units."""
