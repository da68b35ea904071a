"""Who owns what, who restarts whom: the actors of a node. No protocol rule is in here."""
