"""Real processes and real ports; few."""
