"""The node's admin door: the one that every process of Pico has. What it answers comes from the node's composition."""

from pico.actors.admin_door import AdminDoor
from pico.observability.admin import AdminApp

__all__ = ["AdminApp", "AdminDoor"]
