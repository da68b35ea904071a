"""Faults that others have shipped, seeded in this tree, each to be found by the nearest test."""
