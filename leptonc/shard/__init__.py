"""Sharding: placements, rules per kind, the planner, and the program that every rank runs."""
