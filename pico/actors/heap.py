"""How long Python's garbage collector may stop a process.

Responsible for: putting aside what lives long, so that a full collection looks at little, and looking at what is young
seldom. Refuses to know: what lives.

A full collection looks at every object, and all stand still meanwhile: 0.3 s with ten thousand upstreams. What has
survived one that took long is *frozen*: the collector looks at it no more. Reference counts go on freeing almost
everything; what only the collector can find among the frozen waits until there are twice as many of them as were found
alive the last time, and then all are looked at once. So the garbage is never more than the living.

Collections of what is young come when some hundred objects have been added, as Python sets out. Five hundred requests
in flight have some ten thousand, which come and go with each turn of the loop and leave no cycles: such a node spent a
tenth of its time on finding none. So they come when more have been added than that.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from pico.transport.clock import Clock

__all__ = ["Heap"]

PAUSE_S: Final = 0.01
"""A full collection that took longer has its survivors frozen."""

GROWTH_MAX: Final = 2
"""Frozen objects, in terms of those that were alive when all were looked at."""

OLDEST: Final = 2

THRESHOLDS: Final = (20_000, 4, 1)
"""Objects added before the young are looked at, and how often a generation is before the next older one is, too. Such a
collection takes about one millisecond, one of the middle generation up to five."""


class Heap:
    """One per process; ``settle`` when what stays has been built, ``close`` in the end."""

    def __init__(self, clock: Clock, *, timer: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._timer = timer
        self._began = 0.0
        self._alive = 0
        self._wanted = False
        self._thresholds = gc.get_threshold()

    def settle(self) -> None:
        """Look at everything once, and freeze what is alive. Blocks for as long as that takes."""
        gc.unfreeze()
        gc.collect()
        gc.freeze()
        gc.set_threshold(*THRESHOLDS)
        self._alive = gc.get_freeze_count()
        if self._collecting not in gc.callbacks:
            gc.callbacks.append(self._collecting)

    def close(self) -> None:
        """Leave everything to the collector again."""
        if self._collecting in gc.callbacks:
            gc.callbacks.remove(self._collecting)
        gc.set_threshold(*self._thresholds)
        gc.unfreeze()

    def _collecting(self, phase: str, about: Mapping[str, Any]) -> None:
        """Called by the collector, wherever it begins to run; nothing else is done here."""
        if about["generation"] < OLDEST:
            return
        if phase == "start":
            self._began = self._timer()
        elif not self._wanted and self._timer() - self._began > PAUSE_S:
            self._wanted = True
            self._clock.call_soon(self._freeze)

    def _freeze(self) -> None:
        gc.freeze()
        if gc.get_freeze_count() > GROWTH_MAX * self._alive:
            self.settle()
        self._wanted = False
