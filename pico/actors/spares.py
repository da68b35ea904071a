"""Connections that a full door can spare: those on which nothing has been asked yet, or not asked again.

Responsible for: which of them makes room when another one waits at the door, and that each is first given a fair time.
Refuses to know: what a connection waits for, how it ends, and what a door is.

Whoever opens connections and says nothing would otherwise keep everybody else out of a door until the timers of all of
them have run out. Here the one that has waited longest goes first, so those that come and ask are served, and only a
door that is full costs anybody a connection.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from math import inf
from typing import Any, Final, Protocol

from pico.transport.clock import Clock

__all__ = ["LOOKS_MAX", "LOOK_AGAIN_S", "SPARED_S", "Spare", "Spares"]

SPARED_S: Final = 1.0
"""A connection keeps its place for so long: what it waits for is on its way, or waits for a turn of this process."""

LOOKS_MAX: Final = 64
"""Connections that are looked at to find one; each that is passed over has something to be read, and is so at once."""

LOOK_AGAIN_S: Final = 0.01
"""After these: by then it has been read."""


class Spare(Protocol):
    """A connection that may be closed for another one."""

    @property
    def quiet(self) -> bool:
        """Whether nothing of the peer's waits to be read."""

    def give_up(self) -> None:
        """End it now, or in this turn of the hub: whoever serves it discards it and returns. Called in the hub."""


class Spares:
    """Those of one door. ``add`` and ``discard`` are called by whoever serves a connection, the rest by the door."""

    def __init__(self, clock: Clock, given_up: Callable[[], None]) -> None:
        """``given_up`` is called for each one that made room."""
        self._clock = clock
        self._given_up = given_up
        self._waiting: OrderedDict[Any, float] = OrderedDict()  # a dict would pass over all that were first before
        self._leaving: set[Any] = set()
        self._wanted = False
        self.came: Callable[[], None] = _nobody_waits
        """Called when there is one to spare again, after ``make_room`` has found none."""

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def leaving(self) -> int:
        """Those that were given up and are still served, until their greenlets have had a turn."""
        return len(self._leaving)

    def add(self, one: Spare, now: float) -> None:
        """It can be spared from now on; one that is there already keeps its place."""
        self._waiting.setdefault(one, now)
        if self._wanted:
            self._wanted = False
            self.came()

    def discard(self, one: object) -> None:
        """It cannot be spared any more, or has ended; nothing happens when it is not there."""
        self._waiting.pop(one, None)
        if self._leaving:
            self._leaving.discard(one)

    def make_room(self) -> float:
        """Give up the one that has waited longest; 0 when that was done, else the seconds until it is worth asking.

        That is infinity when there is none: then ``came`` says when. Takes constant time, however many there are.
        """
        now = self._clock.now()
        for _ in range(LOOKS_MAX):
            if not self._waiting:
                self._wanted = True
                return inf
            first: Spare = next(iter(self._waiting))
            since = self._waiting[first]
            if since + SPARED_S > now:
                return since + SPARED_S - now
            del self._waiting[first]
            if first.quiet:
                self._leaving.add(first)
                self._given_up()
                first.give_up()
                return 0.0
            self._waiting[first] = now
        return LOOK_AGAIN_S


def _nobody_waits() -> None:
    pass
