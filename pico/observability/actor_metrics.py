"""How many actors there are and what waits for them.

Responsible for: adding up by kind. Refuses to know: where actors are registered and what they do.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from prometheus_client.core import GaugeMetricFamily

from pico.observability.rendering import COUNTED_AT_ONCE, text_of

__all__ = ["ActorMetrics", "Census", "kind_of"]

_WORD = re.compile(r"(?<=[a-z])(?=[A-Z])")


class Census:
    """What one look at all actors adds up to, by kind."""

    def __init__(self) -> None:
        self._actors, self._waiting, self._deepest = Counter[type](), Counter[type](), Counter[type]()

    def take(self, inboxes: Iterable[tuple[type, int]]) -> Iterator[None]:
        """Look at them; comes back now and then, since there may be one for each endpoint and request."""
        for number, (kind, depth) in enumerate(inboxes, 1):
            self._actors[kind] += 1
            if depth:
                self._waiting[kind] += depth
                self._deepest[kind] = max(self._deepest[kind], depth)
            if number % COUNTED_AT_ONCE == 0:
                yield

    def rows(self) -> Iterator[tuple[str, tuple[int, int, int]]]:
        """Each kind with its actors, the messages that wait for them together, and the most that wait for one."""
        for kind in sorted(self._actors, key=kind_of):
            yield kind_of(kind), (self._actors[kind], self._waiting[kind], self._deepest[kind])


class ActorMetrics:
    """``inboxes`` is set by whoever knows the actors."""

    def __init__(self) -> None:
        self.inboxes: Callable[[], Iterable[tuple[type, int]]] = tuple
        """One actor after the other: its class, and the messages that wait for it."""

    def slices(self) -> Iterator[bytes]:
        """Their text, in pieces."""
        census = Census()
        for _ in census.take(self.inboxes()):
            yield b""
        rows = list(census.rows())
        for column, (name, documentation) in enumerate(
            (
                ("pico_actors", "Actors alive, by kind."),
                ("pico_actor_inbox_messages", "Messages that wait for actors of a kind, together."),
                ("pico_actor_inbox_depth", "Messages that wait for one actor: the most of its kind."),
            )
        ):
            family = GaugeMetricFamily(name, documentation, labels=["actor"])
            for kind, figures in rows:
                family.add_metric([kind], figures[column])
            yield text_of(family)


def kind_of(actor: type) -> str:
    """``LinkActor`` is a ``link``, and ``UpstreamConnection`` an ``upstream-connection``."""
    return _WORD.sub("-", actor.__name__.removesuffix("Actor")).lower()
