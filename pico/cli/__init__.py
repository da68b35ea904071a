"""Floor 5: what a person types. Only the console entry points on this floor patch the standard library."""
