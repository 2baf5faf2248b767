"""Mutation harness: seeded faults, and whether tests and self-check see them.

``python -m mutation.run`` (with ``tests`` on the path) works on copies of the checkout, never in
it.
"""
