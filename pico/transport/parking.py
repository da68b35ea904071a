"""A place where one greenlet waits until a callback of the hub lets it go on.

Responsible for: the switch there and back. Refuses to know: why it waits. There is no timeout here: whoever parks a
greenlet also has a deadline that unparks it (``pico.transport.deadlines``).
"""

from __future__ import annotations

from typing import Any, Final

import gevent
from gevent.hub import get_hub

from pico.transport.clock import Clock

__all__ = ["Parking", "give_way", "sleep"]

BREATH_S: Final = 0.001
"""Long enough that everything that waits has its turn first."""


class Parking:
    """Holds at most one greenlet, of the hub that it was made in."""

    __slots__ = ("_greenlet", "_hub")

    def __init__(self) -> None:
        self._greenlet: Any = None
        self._hub: Any = get_hub()

    def park(self) -> None:
        """Wait in the calling greenlet until ``unpark``."""
        assert self._greenlet is None, "one greenlet at a time"
        self._greenlet = gevent.getcurrent()
        try:
            self._hub.switch()
        finally:
            self._greenlet = None

    def unpark(self) -> None:
        """Let the greenlet go on: at once when called in the hub, else soon. Nothing happens when none waits."""
        if self._greenlet is None:
            return
        if gevent.getcurrent() is self._hub:
            self._greenlet.switch()
        else:
            self._hub.loop.run_callback(self.unpark)


def sleep(clock: Clock, delay_s: float) -> None:
    """Let the calling greenlet, and no other, wait for so long on that clock."""
    parking = Parking()
    timer = clock.timer(parking.unpark)
    timer.start(delay_s)
    try:
        parking.park()
    finally:
        timer.stop()


def give_way(clock: Clock) -> None:
    """Between two pieces of something long: let everybody else have a turn."""
    sleep(clock, BREATH_S)
