"""What a link asks of its owner.

The counterpart of the calls that the owner makes on the link: there, what happened; here, what is to be done. A tunnel
is named by its number, which is the number of the dial that made it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

__all__ = ["Abort", "Announce", "Change", "Close", "Command", "Dial", "GiveUp", "Goaway", "Serve"]


@dataclass(frozen=True, slots=True)
class Dial:
    """Connect to a server and register; tell the link ``accepted``, ``refused`` or ``failed`` with this number."""

    tunnel: int
    server: int
    elsewhere: tuple[str, ...] = ()
    """Nodes at which the link would rather not be (TUN-35)."""


@dataclass(frozen=True, slots=True)
class Serve:
    """Begin to read this tunnel, and to serve what comes on it."""

    tunnel: int


@dataclass(frozen=True, slots=True)
class Goaway:
    """Say to the node that this tunnel takes no new streams; tell the link when it is ``idle``."""

    tunnel: int


@dataclass(frozen=True, slots=True)
class Close:
    """Begin the closing handshake with this code; tell the link when the tunnel has ``ended``."""

    tunnel: int
    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class Abort:
    """End this tunnel, or forget this dial, now; nothing need be told."""

    tunnel: int


class Change(Enum):
    """A change of state that an operator wants to know of."""

    REGISTERED = "registered"
    GOING_AWAY = "going away"
    MOVING = "moving"
    LOST = "lost"
    RETRYING = "retrying"
    STOPPING = "stopping"
    CLOSED = "closed"
    GIVEN_UP = "given up"


@dataclass(frozen=True, slots=True)
class Announce:
    """Log this change, once."""

    change: Change
    server: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Every server refused in a way that will not change; the endpoint will not be served."""

    server: int
    reason: str


Command: TypeAlias = Dial | Serve | Goaway | Close | Abort | Announce | GiveUp
