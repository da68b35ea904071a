"""The doors with a memory transport."""
