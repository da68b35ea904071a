"""Many deadlines on one timer."""

from __future__ import annotations

from math import inf

from pico.transport.clock import ManualClock
from pico.transport.deadlines import INTERVAL_S, Deadlines


class Thing:
    def __init__(self, name: int, deadline: float, told: list[int]) -> None:
        self.name, self.deadline, self.told = name, deadline, told

    def deadline_passed(self, now: float) -> None:
        self.told.append(self.name)
        self.deadline = inf


def test_who_is_late_is_told_in_the_order_of_coming() -> None:
    clock, told = ManualClock(), []
    deadlines = Deadlines(clock)
    things = [Thing(name, 1.0 if name % 2 else inf, told) for name in range(200)]  # a set would mix so many
    for thing in things:
        deadlines.add(thing)
    clock.advance(1.0 - INTERVAL_S)
    assert told == []
    clock.advance(2 * INTERVAL_S)
    assert told == list(range(1, 200, 2))


def test_the_timer_rests_when_nothing_is_watched() -> None:
    clock = ManualClock()
    deadlines, thing = Deadlines(clock), Thing(0, inf, [])
    deadlines.add(thing)
    deadlines.discard(thing)
    deadlines.discard(thing)
    assert len(deadlines) == 0
    clock.advance(INTERVAL_S)
    assert clock.next_due() is None
    deadlines.add(thing)
    assert clock.next_due() is not None
