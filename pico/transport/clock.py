"""Time as seen by the floors that do I/O.

Responsible for: what time it is, running something soon, and running something later; once on the hub of the current
thread and once by hand, for tests and simulators. Refuses to know: what is late, and the time of day.

Every callback runs in the hub and must not block. Times are seconds of a monotonic clock. A timer never fires early:
engines that are asked too soon would have nothing to do and would ask again.
"""

from __future__ import annotations

import heapq
import time
from collections import deque
from collections.abc import Callable
from itertools import count
from typing import Any, Final, Protocol

from gevent.hub import get_hub

__all__ = ["Callback", "Clock", "HubClock", "ManualClock", "Timer", "until_tick"]

Callback = Callable[[], object]

SOON_MAX: Final = 1_000_000
"""Callbacks that one ``ManualClock.advance`` runs before it takes them for an endless loop."""


def until_tick(now: float, interval_s: float) -> float:
    """Seconds from ``now`` to a multiple of an interval: the next one, or that after it when the next is near.

    For what is done again and again and need not be done at a certain moment: all of it that is done so happens in the
    same turns of the hub, and an idle process is woken once for all.
    """
    left_s = interval_s - now % interval_s
    return left_s if left_s >= interval_s / 2 else left_s + interval_s


class Timer(Protocol):
    """Calls its callback once, some time after it was started."""

    def start(self, delay_s: float) -> None:
        """Fire once in ``delay_s``; an earlier start that has not fired is forgotten."""

    def stop(self) -> None:
        """Do not fire; nothing happens when it is not running."""


class Clock(Protocol):
    """What time it is, and what happens then."""

    def now(self) -> float:
        """Seconds; never goes back."""

    def call_soon(self, callback: Callback) -> None:
        """Run ``callback`` in the hub after what runs now, in the order of the calls."""

    def timer(self, callback: Callback) -> Timer:
        """A stopped timer. One that is dropped while it runs still fires."""


class HubClock:
    """The real time, on the hub of the thread that makes the clock.

    An exception that a callback raises goes to ``on_error``, by default to the hub's own ``handle_error``, which prints
    it; the loop goes on either way.
    """

    __slots__ = ("_loop", "_on_error")

    now = staticmethod(time.monotonic)

    def __init__(self, on_error: Callable[[BaseException], None] | None = None) -> None:
        self._loop: Any = get_hub().loop
        self._on_error = on_error

    def call_soon(self, callback: Callback) -> None:
        """See ``Clock``."""
        if self._on_error is None:
            self._loop.run_callback(callback)
        else:
            self._loop.run_callback(_guarded, callback, self._on_error)

    def timer(self, callback: Callback) -> Timer:
        """See ``Clock``."""
        return _HubTimer(self._loop, callback, self._on_error)


class _HubTimer:
    """A timer of the loop takes its delay when it is made, so each start makes one: 0.2 us."""

    __slots__ = ("_callback", "_due", "_loop", "_on_error", "_watcher")

    def __init__(self, loop: Any, callback: Callback, on_error: Callable[[BaseException], None] | None) -> None:
        self._loop = loop
        self._callback = callback
        self._on_error = on_error
        self._watcher: Any = None
        self._due = 0.0

    def start(self, delay_s: float) -> None:
        self.stop()
        self._due = time.monotonic() + delay_s
        self._arm(delay_s)

    def _arm(self, delay_s: float) -> None:
        self._watcher = self._loop.timer(max(0.0, delay_s))
        # The loop's own time may be stale by as long as this turn of the hub has lasted.
        self._watcher.start(self._fire, update=True)

    def stop(self) -> None:
        if self._watcher is not None:
            self._watcher.close()
            self._watcher = None

    def _fire(self) -> None:
        self.stop()
        left_s = self._due - time.monotonic()
        if left_s > 0.0:  # the loop reads its clock at another moment than we do
            self._arm(left_s)
        elif self._on_error is None:
            self._callback()
        else:
            _guarded(self._callback, self._on_error)


def _guarded(callback: Callback, on_error: Callable[[BaseException], None]) -> None:
    try:
        callback()
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        on_error(error)


class ManualClock:
    """A time that passes only in ``advance``; exceptions of callbacks come out there.

    Everything happens in a fixed order: timers by time and then by the order of their starts, and what is to run soon
    runs before the next timer. So a run can be repeated exactly.
    """

    def __init__(self, now: float = 0.0) -> None:
        self._now = now
        self._soon: deque[Callback] = deque()
        self._heap: list[tuple[float, int, _ManualTimer]] = []
        self._sequence = count()

    def now(self) -> float:
        """See ``Clock``."""
        return self._now

    def call_soon(self, callback: Callback) -> None:
        """See ``Clock``; it runs in the next ``advance``, which may be of no seconds."""
        self._soon.append(callback)

    def timer(self, callback: Callback) -> Timer:
        """See ``Clock``."""
        return _ManualTimer(self, callback)

    def advance(self, seconds: float = 0.0) -> None:
        """Let ``seconds`` pass, and run all that is due on the way and at the end."""
        until = self._now + seconds
        self._run_soon()
        while (due := self.next_due()) is not None and due <= until:
            _, _, timer = heapq.heappop(self._heap)
            self._now = max(self._now, due)
            timer.fire()
            self._run_soon()
        self._now = until

    def next_due(self) -> float | None:
        """When the next timer fires; None when none runs."""
        while self._heap and not self._heap[0][2].runs_as(self._heap[0][1]):
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def _run_soon(self) -> None:
        for _ in range(SOON_MAX):
            if not self._soon:
                return
            self._soon.popleft()()
        raise AssertionError(f"more than {SOON_MAX} callbacks without any time passing")

    def _push(self, due: float, timer: _ManualTimer) -> int:
        ticket = next(self._sequence)
        heapq.heappush(self._heap, (due, ticket, timer))
        return ticket


class _ManualTimer:
    """Its ticket says which entry of the heap is meant; a stale entry is skipped."""

    __slots__ = ("_callback", "_clock", "_ticket")

    def __init__(self, clock: ManualClock, callback: Callback) -> None:
        self._clock = clock
        self._callback = callback
        self._ticket = -1

    def start(self, delay_s: float) -> None:
        self._ticket = self._clock._push(self._clock.now() + max(0.0, delay_s), self)

    def stop(self) -> None:
        self._ticket = -1

    def runs_as(self, ticket: int) -> bool:
        return self._ticket == ticket

    def fire(self) -> None:
        self._ticket = -1
        self._callback()
