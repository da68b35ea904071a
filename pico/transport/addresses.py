"""How the address of a socket is told.

Responsible for: an IPv4 address that is always written as one. Refuses to know: whose address it is.
"""

from __future__ import annotations

from typing import Any, Final

__all__ = ["readable"]

_MAPPED: Final = "::ffff:"  # before an IPv4 address at a socket that serves both families


def readable(address: tuple[Any, ...]) -> tuple[str, int]:
    """Host and port of an address as the system has it, of either family."""
    host: str = address[0]
    return (host[len(_MAPPED) :] if host.startswith(_MAPPED) and "." in host else host), address[1]
