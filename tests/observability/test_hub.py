"""The watch on the hub."""

from __future__ import annotations

from collections.abc import Callable

from pico.observability.hub import INTERVAL_S, TOLERANCE_S, HubWatch
from pico.transport.clock import ManualClock, Timer


class BlockedClock(ManualClock):
    """Its timers fire when the test says so, whatever the time."""

    def __init__(self) -> None:
        super().__init__()
        self.time = 0.0
        self.waiting: list[tuple[Callable[[], None], float]] = []

    def now(self) -> float:
        return self.time

    def timer(self, callback: Callable[[], None]) -> Timer:
        return _HeldTimer(self, callback)

    def fire(self, late_s: float) -> None:
        callback, delay_s = self.waiting.pop()
        self.time += delay_s + late_s
        callback()


class _HeldTimer:
    def __init__(self, clock: BlockedClock, callback: Callable[[], None]) -> None:
        self._clock = clock
        self._callback = callback

    def start(self, delay_s: float) -> None:
        assert INTERVAL_S / 2 <= delay_s < 1.5 * INTERVAL_S
        self._clock.waiting = [(self._callback, delay_s)]

    def stop(self) -> None:
        self._clock.waiting = []


def test_a_hub_that_turns_is_not_complained_of() -> None:
    clock, complaints = ManualClock(), list[float]()
    watch = HubWatch(clock, complaints.append)
    watch.start()
    clock.advance(INTERVAL_S * 10)
    assert complaints == []


def test_lateness_is_told_each_time_and_a_little_of_it_is_nobodys_fault() -> None:
    clock, complaints = BlockedClock(), list[float]()
    HubWatch(clock, complaints.append).start()
    clock.fire(late_s=2.0)
    clock.fire(late_s=TOLERANCE_S / 2)
    clock.fire(late_s=0.25)
    assert [round(late_s, 6) for late_s in complaints] == [2.0, 0.25]


def test_it_stops() -> None:
    clock, complaints = BlockedClock(), list[float]()
    watch = HubWatch(clock, complaints.append)
    watch.start()
    watch.stop()
    assert clock.waiting == []
