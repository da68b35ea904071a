"""What holds for any input, interleaving and cut."""
