"""At which nodes the links of one endpoint are.

Responsible for: what the links of one endpoint, of one agent, know of each other. Refuses to know: what a link makes of
that.
"""

from __future__ import annotations

from typing import Final

__all__ = ["MOVE", "Spread"]

MOVE: Final = "move"
"""The reason of a GOAWAY that asks an agent to move, and no more: the node still gives the tunnel streams (TUN-40)."""


class Spread:
    """Shared by the links of one endpoint; each has a place of its own in it."""

    def __init__(self) -> None:
        self._nodes: dict[int, str] = {}

    def hold(self, place: int, node: str) -> None:
        """The link's current tunnel is at this node; one that does not say who it is counts for nothing."""
        self._nodes[place] = node

    def release(self, place: int) -> None:
        """The link has no current tunnel."""
        self._nodes.pop(place, None)

    def others(self, place: int) -> set[str]:
        """Where the other links are."""
        return {node for held, node in self._nodes.items() if held != place and node}
