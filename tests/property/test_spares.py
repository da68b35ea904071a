"""Whoever is spared has waited longest of those that are quiet, and the numbers agree with who is there."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pico.actors.spares import LOOK_AGAIN_S, LOOKS_MAX, SPARED_S, Spares
from pico.transport.clock import ManualClock
from tests.rules import covers

numbers = st.integers(0, 100)


@dataclass(eq=False)
class One:
    quiet: bool = True
    given_up: bool = False

    def give_up(self) -> None:
        assert not self.given_up
        self.given_up = True


@covers("HTTP-72", "TUN-44", "CHANNEL-21")
class SparesMachine(RuleBasedStateMachine):
    """One door: connections are served, wait, and end, and others want their place."""

    def __init__(self) -> None:
        super().__init__()
        self.clock, self.given_up, self.came, self.wanted = ManualClock(), 0, 0, False
        self.spares = Spares(self.clock, self.count)
        self.spares.came = self.come_again
        self.busy: list[One] = []
        self.waiting: dict[One, float] = {}  # since when, in that order
        self.leaving: list[One] = []

    def count(self) -> None:
        self.given_up += 1

    def come_again(self) -> None:
        assert self.wanted
        self.wanted = False

    @rule(several=st.sampled_from([1, 2, LOOKS_MAX + 1]), quiet=st.booleans())
    def open(self, several: int, quiet: bool) -> None:
        for _ in range(several):
            self.add(One(quiet))

    @precondition(lambda self: self.busy)
    @rule(number=numbers)
    def wait_again(self, number: int) -> None:
        self.add(self.busy.pop(number % len(self.busy)))

    def add(self, one: One) -> None:
        self.spares.add(one, self.clock.now())
        self.waiting[one] = self.clock.now()
        assert not self.wanted

    @precondition(lambda self: self.waiting)
    @rule(number=numbers)
    def ask_something(self, number: int) -> None:
        one = list(self.waiting)[number % len(self.waiting)]
        self.spares.discard(one)
        del self.waiting[one]
        self.busy.append(one)

    @precondition(lambda self: self.waiting)
    @rule(number=numbers)
    def keep_its_place(self, number: int) -> None:
        self.spares.add(list(self.waiting)[number % len(self.waiting)], self.clock.now())

    @precondition(lambda self: self.leaving or self.busy)
    @rule(number=numbers)
    def end(self, number: int) -> None:
        several = self.leaving or self.busy
        one = several.pop(number % len(several))
        for _ in range(2):
            self.spares.discard(one)

    @precondition(lambda self: self.waiting)
    @rule(number=numbers)
    def be_heard(self, number: int) -> None:
        one = list(self.waiting)[number % len(self.waiting)]
        one.quiet = not one.quiet

    @rule(seconds=st.sampled_from([0.25, 1.0, 5.0]))
    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule()
    def make_room(self) -> None:
        now, before = self.clock.now(), self.given_up
        wait_s = self.spares.make_room()
        for _ in range(LOOKS_MAX):
            one = next(iter(self.waiting), None)
            if one is None:
                assert wait_s == inf
                self.wanted = True
                return
            since = self.waiting[one]
            if since + SPARED_S > now:
                assert wait_s == since + SPARED_S - now
                return
            del self.waiting[one]
            if one.quiet:
                assert (wait_s, self.given_up) == (0.0, before + 1)
                assert one.given_up
                self.leaving.append(one)
                return
            self.waiting[one] = now
        assert wait_s == LOOK_AGAIN_S

    @invariant()
    def the_numbers_agree(self) -> None:
        assert len(self.spares) == len(self.waiting)
        assert self.spares.leaving == len(self.leaving)
        assert not any(one.given_up for one in (*self.busy, *self.waiting))


TestSpares = SparesMachine.TestCase
