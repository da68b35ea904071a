"""The actors of the process, and what waits for them.

Responsible for: adding up by kind, a few at a time, since there may be one for each upstream and each request. Refuses
to know: what they do. Several nodes in one process, as in tests, are told together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final

from pico.actors.runtime import inboxes
from pico.actors.supervisor import NODE_ORDER
from pico.node.status.lists import Row
from pico.observability.actor_metrics import kind_of
from pico.observability.metrics import NodeMetrics

__all__ = ["ActorPages"]

COUNTED_AT_ONCE: Final = 500


class ActorPages:
    """One per node. ``breathe`` lets others have their turn."""

    def __init__(self, metrics: NodeMetrics, breathe: Callable[[], None]) -> None:
        self._metrics = metrics
        self._breathe = breathe

    def restarts(self) -> dict[str, int]:
        """How often each part was started again."""
        return {name: self._metrics.actor_restarts.count(name) for name in (*NODE_ORDER, "gossip-peer")}

    def rows(self) -> Iterator[Row]:
        """One for each kind."""
        actors, waiting, deepest = Counter[type](), Counter[type](), Counter[type]()
        for number, (kind, depth) in enumerate(inboxes(), 1):
            actors[kind] += 1
            if depth:
                waiting[kind] += depth
                deepest[kind] = max(deepest[kind], depth)
            if number % COUNTED_AT_ONCE == 0:
                self._breathe()
        for kind in sorted(actors, key=kind_of):
            yield {
                "actor": kind_of(kind),
                "count": actors[kind],
                "waiting": waiting[kind],
                "deepest": deepest[kind],
            }
