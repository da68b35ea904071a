"""Actors built but not started, messages handed to them; and the runtime with real greenlets."""
