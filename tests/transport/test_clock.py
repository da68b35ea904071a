"""The clock of the hub and the one turned by hand."""

from __future__ import annotations

import time
from collections.abc import Callable

import gevent
import pytest
from gevent.event import Event
from gevent.hub import get_hub

from pico.transport.clock import Clock, HubClock, ManualClock, Timer, until_tick

DEADLINE_S = 5.0


class Calls:
    """Remembers what was called, and when."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.made: list[tuple[str, float]] = []
        self.happened = Event()

    def __call__(self, name: str) -> Callable[[], None]:
        def call() -> None:
            self.made.append((name, self.clock.now()))
            self.happened.set()

        return call

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.made]


def test_the_hub_runs_things_soon_in_order_and_not_at_once() -> None:
    calls = Calls(clock := HubClock())
    for name in "abc":
        clock.call_soon(calls(name))
    assert calls.made == []
    gevent.sleep(0)
    assert calls.names == ["a", "b", "c"]


def test_a_timer_of_the_hub_fires_once_and_never_early() -> None:
    calls = Calls(clock := HubClock())
    time.sleep(0.005)  # the loop's own time is stale now, which must not count as time that has passed
    for _ in range(20):
        due = clock.now() + 0.002
        clock.timer(calls("t")).start(0.002)
        assert calls.happened.wait(DEADLINE_S)
        calls.happened.clear()
        assert calls.made[-1][1] >= due
    gevent.sleep(0.005)
    assert len(calls.made) == 20


def test_a_timer_of_the_hub_is_started_again_and_stopped() -> None:
    calls = Calls(clock := HubClock())
    later, stopped, never = clock.timer(calls("later")), clock.timer(calls("stopped")), clock.timer(calls("never"))
    start = clock.now()
    later.start(0.001)
    later.start(0.02)
    stopped.start(0.001)
    stopped.stop()
    stopped.stop()
    never.stop()
    assert calls.happened.wait(DEADLINE_S)
    assert calls.names == ["later"] and calls.made[0][1] - start >= 0.02
    stopped.start(-1.0)
    calls.happened.clear()
    assert calls.happened.wait(DEADLINE_S)
    assert calls.names == ["later", "stopped"]


def test_a_timer_may_start_itself_again() -> None:
    clock, done, times = HubClock(), Event(), list[float]()

    def again() -> None:
        times.append(clock.now())
        done.set() if len(times) == 3 else timer.start(0.001)

    timer = clock.timer(again)
    timer.start(0.001)
    assert done.wait(DEADLINE_S)


def fail() -> None:
    raise ValueError("a bug")


@pytest.mark.parametrize("how", ["soon", "timer"])
def test_a_fault_in_a_callback_goes_to_whoever_was_named(how: str) -> None:
    errors, told = list[BaseException](), Event()

    def on_error(error: BaseException) -> None:
        errors.append(error)
        told.set()

    clock = HubClock(on_error)
    clock.call_soon(fail) if how == "soon" else clock.timer(fail).start(0.001)
    assert told.wait(DEADLINE_S)
    assert [str(error) for error in errors] == ["a bug"]


@pytest.mark.parametrize("how", ["soon", "timer"])
def test_a_fault_in_a_callback_goes_to_the_hub_when_nobody_was_named(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    errors, told = list[type[BaseException]](), Event()

    def handle_error(context: object, kind: type[BaseException], error: BaseException, traceback: object) -> None:
        errors.append(kind)
        told.set()

    monkeypatch.setattr(get_hub(), "handle_error", handle_error, raising=False)
    clock = HubClock()
    clock.call_soon(fail) if how == "soon" else clock.timer(fail).start(0.001)
    assert told.wait(DEADLINE_S)
    assert errors == [ValueError]


def test_a_manual_clock_moves_only_by_hand() -> None:
    calls = Calls(clock := ManualClock(100.0))
    clock.timer(calls("b")).start(2.0)
    clock.timer(calls("a")).start(1.0)
    clock.timer(calls("c")).start(2.0)
    clock.timer(calls("d")).start(5.0)
    assert clock.next_due() == 101.0
    clock.advance(0.5)
    assert calls.made == [] and clock.now() == 100.5
    clock.advance(1.5)
    assert calls.made == [("a", 101.0), ("b", 102.0), ("c", 102.0)]
    clock.advance(10)
    assert calls.made[3:] == [("d", 105.0)]
    assert clock.now() == 112.0 and clock.next_due() is None


def test_what_is_to_run_soon_runs_before_the_next_timer() -> None:
    calls = Calls(clock := ManualClock())

    def first() -> None:
        calls("first")()
        clock.call_soon(calls("soon"))
        clock.call_soon(lambda: clock.call_soon(calls("sooner or later")))

    clock.timer(first).start(1.0)
    clock.timer(calls("second")).start(1.0)
    clock.call_soon(calls("before"))
    clock.advance()
    assert calls.names == ["before"]
    clock.advance(1.0)
    assert calls.names == ["before", "first", "soon", "sooner or later", "second"]


def test_a_manual_timer_is_started_again_and_stopped() -> None:
    calls = Calls(clock := ManualClock())
    timer: Timer = clock.timer(calls("t"))
    timer.start(1.0)
    timer.start(3.0)
    clock.advance(2.0)
    assert calls.made == []
    clock.advance(1.0)
    assert calls.made == [("t", 3.0)]
    timer.start(1.0)
    timer.stop()
    assert clock.next_due() is None
    clock.advance(5.0)
    assert len(calls.made) == 1


def test_a_manual_timer_that_starts_itself_fires_as_often_as_time_allows() -> None:
    clock, times = ManualClock(), list[float]()

    def again() -> None:
        times.append(clock.now())
        timer.start(1.0)

    timer = clock.timer(again)
    timer.start(1.0)
    clock.advance(3.5)
    assert times == [1.0, 2.0, 3.0]


def test_a_fault_under_a_manual_clock_comes_out_of_advance() -> None:
    clock = ManualClock()
    clock.timer(fail).start(1.0)
    with pytest.raises(ValueError, match="a bug"):
        clock.advance(2.0)
    clock.call_soon(fail)
    with pytest.raises(ValueError, match="a bug"):
        clock.advance()


def test_an_endless_loop_under_a_manual_clock_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pico.transport.clock.SOON_MAX", 100)
    clock = ManualClock()

    def for_ever() -> None:
        clock.call_soon(for_ever)

    clock.call_soon(for_ever)
    with pytest.raises(AssertionError):
        clock.advance()


def test_what_is_done_every_so_often_falls_together_whenever_it_began() -> None:
    clock = ManualClock(17.3)
    fired: set[float] = set()

    def every(interval_s: float) -> None:
        def tick() -> None:
            fired.add(round(clock.now(), 6))
            timer.start(until_tick(clock.now(), interval_s))

        timer = clock.timer(tick)
        timer.start(until_tick(clock.now(), interval_s))

    for began_after_s in (0.0, 0.123, 0.321):
        clock.advance(began_after_s)
        every(0.5)
        every(1.0)
    clock.advance(5.0)
    assert sorted(fired) == [18.0 + 0.5 * turn for turn in range(len(fired))]
    assert len(fired) == 10


@pytest.mark.parametrize("now", [0.0, 0.25, 0.3, 0.4999999999, 0.5, 7.7, 1e9 + 1e-7])
def test_a_tick_is_neither_at_once_nor_far(now: float) -> None:
    assert 0.25 <= until_tick(now, 0.5) < 0.75 + 1e-9
