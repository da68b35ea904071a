"""Many deadlines on one timer."""

from __future__ import annotations

from math import inf

import pytest

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


def test_one_that_fails_keeps_no_other_from_being_told(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(Thing):
        def deadline_passed(self, now: float) -> None:
            super().deadline_passed(now)
            self.deadline = 0.0
            raise ValueError("a fault of ours")

    clock, told = ManualClock(), []
    deadlines = Deadlines(clock)
    for thing in (Failing(1, 1.0, told), Thing(2, 1.0, told), Thing(3, 2.0, told)):
        deadlines.add(thing)
    clock.advance(1.0 + INTERVAL_S)
    assert told == [1, 2]
    clock.advance(1.0 + INTERVAL_S)
    assert told == [1, 2, 3]
    assert [record.getMessage() for record in caplog.records] == ["what is late could not be told so"]


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
