"""What lives long is put aside, and what dies there is found."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from pico.actors import heap
from pico.actors.heap import Heap
from pico.transport.clock import ManualClock


class Knot:
    """Garbage that only the collector finds."""

    def __init__(self) -> None:
        self.itself = self


class Timer:
    """Each full collection takes ``pause_s``."""

    def __init__(self) -> None:
        self.pause_s = 1.0
        self._calls = 0

    def __call__(self) -> float:
        self._calls += 1
        return self._calls * self.pause_s


@pytest.fixture
def timer() -> Timer:
    return Timer()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def settled(clock: ManualClock, timer: Timer) -> Iterator[Heap]:
    one = Heap(clock, timer=timer)
    one.settle()
    yield one
    one.close()
    assert not gc.get_freeze_count()
    gc.collect()


def is_looked_at(value: object) -> bool:
    return any(one is value for one in gc.get_objects())


def test_what_lives_when_it_is_settled_is_looked_at_no_more(settled: Heap):
    assert gc.get_freeze_count() > 10_000
    assert not is_looked_at(settled) and not is_looked_at(heap.__dict__)


def test_the_survivors_of_a_long_collection_are_put_aside(settled: Heap, clock: ManualClock):
    later = [[] for _ in range(100)]
    gc.collect()
    assert is_looked_at(later)  # not within the collection
    clock.advance(0.0)
    assert not is_looked_at(later) and not any(map(is_looked_at, later[:3]))


def test_those_of_a_short_one_are_not(settled: Heap, clock: ManualClock, timer: Timer):
    timer.pause_s = heap.PAUSE_S
    later: list[object] = []
    gc.collect()
    clock.advance(0.0)
    assert is_looked_at(later)


def test_those_of_a_collection_of_the_young_are_not(settled: Heap, clock: ManualClock):
    later: list[object] = []
    gc.collect(1)
    clock.advance(0.0)
    assert is_looked_at(later)


def test_what_has_died_among_them_is_found_when_they_are_twice_as_many(settled: Heap, clock: ManualClock):
    knot = Knot()
    gone = weakref.ref(knot)
    gc.collect()
    clock.advance(0.0)
    del knot
    gc.collect()
    clock.advance(0.0)
    assert gone() is not None  # put aside
    # Not by how many are frozen now: some of those that were alive when all were looked at may have gone since.
    ballast = [[] for _ in range(heap.GROWTH_MAX * settled._alive)]
    gc.collect()
    clock.advance(0.0)
    assert gone() is None
    assert not is_looked_at(ballast)


def test_what_comes_and_goes_with_hundreds_of_requests_is_not_looked_at(settled: Heap):
    before = gc.get_stats()[0]["collections"]
    for _ in range(100):
        turn = [[] for _ in range(heap.THRESHOLDS[0] // 2)]
        turn.clear()
    assert gc.get_stats()[0]["collections"] - before <= 1


def test_garbage_that_only_the_collector_finds_is_found_by_itself(settled: Heap):
    gone = weakref.ref(Knot())
    ballast = [[] for _ in range(heap.THRESHOLDS[0] + 1_000)]
    assert gone() is None
    assert ballast


def test_it_works_with_the_collections_that_come_by_themselves(clock: ManualClock, timer: Timer):
    one = Heap(clock, timer=timer)
    one.settle()
    try:
        before = gc.get_freeze_count()
        ballast: list[object] = []
        for _ in range(400):
            ballast.append([[] for _ in range(1_000)])
            clock.advance(0.0)
        assert gc.get_freeze_count() > before + 10_000
    finally:
        one.close()
    assert one._collecting not in gc.callbacks


def test_the_collector_is_left_as_it_was_found(clock: ManualClock):
    found = gc.get_threshold()
    gc.set_threshold(701, 11, 12)
    try:
        one = Heap(clock)
        one.settle()
        assert gc.get_threshold() == heap.THRESHOLDS
        one.close()
        assert gc.get_threshold() == (701, 11, 12)
    finally:
        gc.set_threshold(*found)


def test_who_never_settled_can_be_closed(clock: ManualClock):
    Heap(clock).close()
