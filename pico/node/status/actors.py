"""The actors of the process, and what waits for them.

Responsible for: telling them by kind, and letting others have their turn meanwhile. Refuses to know: what they do.
Several nodes in one process, as in tests, are told together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from pico.actors.runtime import inboxes
from pico.node.status.lists import Row
from pico.observability.actor_metrics import Census
from pico.observability.metrics import NodeMetrics

__all__ = ["ActorPages"]


class ActorPages:
    """One per node. ``restarted``: which parts are started again; ``breathe`` lets others have their turn."""

    def __init__(self, metrics: NodeMetrics, restarted: Sequence[str], breathe: Callable[[], None]) -> None:
        self._metrics = metrics
        self._restarted = restarted
        self._breathe = breathe

    def restarts(self) -> dict[str, int]:
        """How often each part was started again."""
        return {name: self._metrics.actor_restarts.count(name) for name in self._restarted}

    def rows(self) -> Iterator[Row]:
        """One for each kind."""
        census = Census()
        for _ in census.take(inboxes()):
            self._breathe()
        for kind, (count, waiting, deepest) in census.rows():
            yield {"actor": kind, "count": count, "waiting": waiting, "deepest": deepest}
