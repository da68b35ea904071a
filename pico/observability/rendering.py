"""Long texts, made without keeping the hub.

Responsible for: the text of one family of metrics, and for making a text in slices between which everyone else has a
turn. Refuses to know: what the text says and who reads it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Final

import gevent
from prometheus_client import generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

__all__ = ["COUNTED_AT_ONCE", "text_of", "timely"]

COUNTED_AT_ONCE: Final = 64
"""Actors, endpoints or tunnels that are looked at for one slice: a tenth of a millisecond."""

PIECE_S: Final = 0.0002
"""How long the hub is kept for one piece."""

PAUSE_S: Final = 0.003
"""Until the next piece: requests come first, and whoever scrapes has seconds."""


def timely(slices: Iterable[bytes]) -> Iterator[bytes]:
    """The slices put together to pieces that took ``PIECE_S`` each to make; the calling greenlet rests between them.

    Whoever makes the slices yields at least once in a few hundred microseconds, an empty slice if there is no text yet.
    """
    made, began = [], time.perf_counter()
    for one in slices:
        made.append(one)
        if time.perf_counter() - began >= PIECE_S:
            yield b"".join(made)
            gevent.sleep(PAUSE_S)
            made, began = [], time.perf_counter()
    yield b"".join(made)


def text_of(family: Metric) -> bytes:
    """Prometheus' text format 0.0.4."""
    return generate_latest(_Alone(family))


class _Alone(Collector):
    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> Iterator[Metric]:
        yield self._family
