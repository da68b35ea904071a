"""Many deadlines, one timer.

Responsible for: telling whoever is late, within ``interval_s`` of its deadline. Refuses to know: what is late and what
follows. A deadline moves with every piece of a body; arming a timer each time would cost more than the piece. Here
moving a deadline is one assignment by its owner, and a sweep looks at all of them a few times a second.
"""

from __future__ import annotations

import logging
from typing import Final, Protocol

from pico.transport.clock import Clock

__all__ = ["Deadlines", "HasDeadline"]

INTERVAL_S: Final = 0.25

_log = logging.getLogger("pico.transport")


class HasDeadline(Protocol):
    """Something that can be late."""

    @property
    def deadline(self) -> float:
        """A time on the clock; infinity for none."""

    def deadline_passed(self, now: float) -> None:
        """Called in the hub at each sweep while ``deadline`` is in the past; must not block.

        One that raises is watched no longer: that is a bug of ours.
        """


class Deadlines:
    """The things that can be late, and the sweep over them."""

    def __init__(self, clock: Clock, interval_s: float = INTERVAL_S) -> None:
        self._clock = clock
        self._interval_s = interval_s
        self._things: dict[HasDeadline, None] = {}  # in the order in which they were added
        self._timer = clock.timer(self._sweep)
        self._armed = False

    def add(self, thing: HasDeadline) -> None:
        """Watch ``thing`` until it is discarded."""
        self._things[thing] = None
        if not self._armed:
            self._armed = True
            self._timer.start(self._interval_s)

    def discard(self, thing: HasDeadline) -> None:
        """Watch it no longer; nothing happens when it is not watched."""
        self._things.pop(thing, None)

    def __len__(self) -> int:
        return len(self._things)

    def _sweep(self) -> None:
        now = self._clock.now()
        for thing in [thing for thing in self._things if thing.deadline <= now]:
            try:
                thing.deadline_passed(now)
            except Exception:  # the others are late all the same
                _log.exception("what is late could not be told so")
                self.discard(thing)
        self._armed = bool(self._things)
        if self._armed:
            self._timer.start(self._interval_s)
