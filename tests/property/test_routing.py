"""Properties of the choice among upstreams (``spec/routing.md``)."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from pico.protocol.routing import LeastInFlight, RoundRobin
from tests.rules import covers


@dataclass(eq=False)
class One:
    in_flight: int
    may_open: bool


candidates = st.lists(st.builds(One, st.integers(0, 5), st.booleans()), min_size=1, max_size=8).map(tuple)
kinds = st.sampled_from([LeastInFlight, RoundRobin])


@covers("ROUTING-1", "ROUTING-2")
@given(kinds, candidates, st.integers(0, 100), st.data())
def test_a_choice_is_free_untried_and_exists_when_one_does(kind, ones, turn, data):
    tried = data.draw(st.lists(st.sampled_from(ones), max_size=4))
    chosen = kind(ones, turn).choose(tried)
    eligible = [one for one in ones if one.may_open and one not in tried]
    assert chosen in eligible if eligible else chosen is None
    if chosen is not None and kind is LeastInFlight:
        assert chosen.in_flight == min(one.in_flight for one in eligible)


@covers("ROUTING-2", "ROUTING-3")
@given(kinds, st.integers(1, 7), st.integers(0, 50), st.integers(1, 5))
def test_equals_are_chosen_equally_often(kind, count, turn, rounds):
    ones = tuple(One(0, True) for _ in range(count))
    balancer = kind(ones, turn)
    chosen = [balancer.choose() for _ in range(count * rounds)]
    assert all(chosen.count(one) == rounds for one in ones)
