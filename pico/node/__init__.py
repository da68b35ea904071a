"""A node: its doors and what holds them together."""
