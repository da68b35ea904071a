"""How many actors there are and what waits for them.

Responsible for: adding up by kind. Refuses to know: where actors are registered and what they do.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from prometheus_client.core import GaugeMetricFamily

from pico.observability.rendering import text_of

__all__ = ["ActorMetrics", "kind_of"]

COUNTED_AT_ONCE: Final = 200

_WORD = re.compile(r"(?<=[a-z])(?=[A-Z])")


class ActorMetrics:
    """``inboxes`` is set by whoever knows the actors."""

    def __init__(self) -> None:
        self.inboxes: Callable[[], Iterable[tuple[type, int]]] = tuple
        """One actor after the other: its class, and the messages that wait for it."""

    def slices(self) -> Iterator[bytes]:
        """Their text; there may be several actors for each endpoint and request, so it comes in pieces."""
        actors, waiting, deepest = Counter[type](), Counter[type](), Counter[type]()
        for number, (kind, depth) in enumerate(self.inboxes()):
            actors[kind] += 1
            if depth:
                waiting[kind] += depth
                deepest[kind] = max(deepest[kind], depth)
            if number % COUNTED_AT_ONCE == 0:
                yield b""
        for name, documentation, counts in (
            ("pico_actors", "Actors alive, by kind.", actors),
            ("pico_actor_inbox_messages", "Messages that wait for actors of a kind, together.", waiting),
            ("pico_actor_inbox_depth", "Messages that wait for one actor: the most of its kind.", deepest),
        ):
            family = GaugeMetricFamily(name, documentation, labels=["actor"])
            for kind in sorted(actors, key=kind_of):
                family.add_metric([kind_of(kind)], counts[kind])
            yield text_of(family)


def kind_of(actor: type) -> str:
    """``LinkActor`` is a ``link``, and ``UpstreamConnection`` an ``upstream-connection``."""
    return _WORD.sub("-", actor.__name__.removesuffix("Actor")).lower()
