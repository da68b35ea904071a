"""Which connection makes room at a full door, and when it is too early for any of them."""

from __future__ import annotations

from math import inf

import pytest

from pico.actors.spares import LOOK_AGAIN_S, LOOKS_MAX, SPARED_S, Spares
from pico.transport.clock import ManualClock


class Waiting:
    """A connection on which nothing has been asked, or something waits to be read."""

    def __init__(self, quiet: bool = True) -> None:
        self.quiet = quiet
        self.given_up = 0

    def give_up(self) -> None:
        self.given_up += 1


class Door:
    def __init__(self) -> None:
        self.clock = ManualClock(1000.0)
        self.given_up = 0
        self.came = 0
        self.spares = Spares(self.clock, self._count_given_up)
        self.spares.came = self._count_came

    def _count_given_up(self) -> None:
        self.given_up += 1

    def _count_came(self) -> None:
        self.came += 1

    def takes(self, *ones: Waiting, after_s: float = 0.0) -> None:
        for one in ones:
            self.clock.advance(after_s)
            self.spares.add(one, self.clock.now())


@pytest.fixture
def door() -> Door:
    return Door()


def test_the_one_that_has_waited_longest_goes_first(door: Door) -> None:
    first, second, third = ones = [Waiting() for _ in range(3)]
    door.takes(*ones, after_s=0.1)
    door.clock.advance(SPARED_S)
    assert door.spares.make_room() == 0.0
    assert [one.given_up for one in ones] == [1, 0, 0]
    door.spares.discard(second)
    assert door.spares.make_room() == 0.0
    assert [one.given_up for one in ones] == [1, 0, 1]
    assert (door.given_up, len(door.spares)) == (2, 0)
    assert third not in (first, second)


def test_each_has_its_time_before(door: Door) -> None:
    one = Waiting()
    door.takes(one)
    assert door.spares.make_room() == SPARED_S
    door.clock.advance(SPARED_S / 4)
    assert door.spares.make_room() == 3 * SPARED_S / 4
    assert not one.given_up
    door.clock.advance(3 * SPARED_S / 4)
    assert door.spares.make_room() == 0.0
    assert one.given_up


def test_one_that_waits_already_keeps_its_place(door: Door) -> None:
    first, second = Waiting(), Waiting()
    door.takes(first, second, first, after_s=SPARED_S)
    door.clock.advance(SPARED_S)
    door.spares.make_room()
    assert (first.given_up, second.given_up) == (1, 0)


def test_one_that_was_discarded_begins_anew(door: Door) -> None:
    first, second = Waiting(), Waiting()
    door.takes(first, second)
    door.spares.discard(first)
    door.takes(first)
    door.clock.advance(SPARED_S)
    door.spares.make_room()
    assert (first.given_up, second.given_up) == (0, 1)


def test_where_there_is_none_it_is_said_once_when_one_comes(door: Door) -> None:
    door.takes(one := Waiting())
    door.spares.discard(one)
    assert door.came == 0
    assert door.spares.make_room() == inf
    assert door.came == 0
    door.takes(Waiting(), Waiting())
    assert door.came == 1


def test_one_whose_peer_has_said_something_is_passed_over(door: Door) -> None:
    speaks, silent = Waiting(quiet=False), Waiting()
    door.takes(speaks, silent)
    door.clock.advance(SPARED_S)
    assert door.spares.make_room() == 0.0
    assert (speaks.given_up, silent.given_up) == (0, 1)
    assert door.spares.make_room() == SPARED_S, "it waits anew"


def test_where_all_have_said_something_the_search_ends(door: Door) -> None:
    ones = [Waiting(quiet=False) for _ in range(LOOKS_MAX)]
    last = Waiting()
    door.takes(*ones, last)
    door.clock.advance(SPARED_S)
    assert door.spares.make_room() == LOOK_AGAIN_S
    assert not last.given_up
    assert door.spares.make_room() == 0.0
    assert last.given_up


def test_one_that_was_given_up_is_leaving_until_it_is_discarded(door: Door) -> None:
    one = Waiting()
    door.takes(one)
    door.clock.advance(SPARED_S)
    assert door.spares.leaving == 0
    door.spares.make_room()
    assert door.spares.leaving == 1
    door.spares.discard(Waiting())
    assert door.spares.leaving == 1
    door.spares.discard(one)
    assert door.spares.leaving == 0
    assert one.given_up == 1
