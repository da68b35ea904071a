"""Command lines and what they turn into."""
