"""How late the hub runs.

Responsible for: noticing that something kept the event loop from turning. Refuses to know: what it was.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from pico.transport.clock import Clock, until_tick

__all__ = ["HubWatch"]

INTERVAL_S: Final = 0.5
TOLERANCE_S: Final = 0.02
"""Lateness of a timer that is nobody's fault."""


class HubWatch:
    """Asks to be woken again and again, and calls ``blocked`` with the time by which that came late."""

    def __init__(self, clock: Clock, blocked: Callable[[float], None]) -> None:
        self._clock = clock
        self._blocked = blocked
        self._timer = clock.timer(self._woken)
        self._due = 0.0

    def start(self) -> None:
        """Begin to watch."""
        now = self._clock.now()
        delay_s = until_tick(now, INTERVAL_S)
        self._due = now + delay_s
        self._timer.start(delay_s)

    def stop(self) -> None:
        """Watch no longer."""
        self._timer.stop()

    def _woken(self) -> None:
        late_s = self._clock.now() - self._due
        if late_s > TOLERANCE_S:
            self._blocked(late_s)
        self.start()
