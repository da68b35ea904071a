"""What may follow what in the life of an agent's link.

Everything about the order of things is in the table below and nowhere else; this file does not know how long anything
lasts, which server is next, and how many tunnels there are. A *link* is an agent's wish to have one endpoint
registered. It waits, dials, and holds an open tunnel; a node's goaway sends it dialling again while the old tunnel
still serves what it has, so the old one is no state of the link. The link ends when it was stopped and its last tunnel
is gone, or when it gave up. ``spec/tunnel.md`` shows the same table; a test compares the two.
"""

from __future__ import annotations

from enum import Enum

__all__ = ["LINK", "LinkInput", "LinkState"]


class LinkState(Enum):
    """Where a link stands."""

    WAITING = "waiting"
    DIALLING = "dialling"
    OPEN = "open"
    DRAINING = "draining"
    CLOSED = "closed"
    GIVEN_UP = "given up"


class LinkInput(Enum):
    """What happens to a link."""

    DUE = "due"
    ACCEPTED = "accepted"
    FAILED = "failed"
    HOPELESS = "hopeless"
    GOAWAY = "goaway"
    ENDED = "ended"
    STOP = "stop"
    EMPTIED = "emptied"


LINK: dict[LinkState, dict[LinkInput, LinkState]] = {
    LinkState.WAITING: {LinkInput.DUE: LinkState.DIALLING, LinkInput.STOP: LinkState.DRAINING},
    LinkState.DIALLING: {
        LinkInput.ACCEPTED: LinkState.OPEN,
        LinkInput.FAILED: LinkState.WAITING,
        LinkInput.HOPELESS: LinkState.GIVEN_UP,
        LinkInput.STOP: LinkState.DRAINING,
    },
    LinkState.OPEN: {
        LinkInput.GOAWAY: LinkState.WAITING,
        LinkInput.ENDED: LinkState.WAITING,
        LinkInput.STOP: LinkState.DRAINING,
    },
    LinkState.DRAINING: {LinkInput.EMPTIED: LinkState.CLOSED},
    LinkState.CLOSED: {},
    LinkState.GIVEN_UP: {},
}
"""The next state. What is missing cannot happen there, or is no news: the link ignores it (TUN-20)."""
