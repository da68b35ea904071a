"""The choice among upstreams, and the rule about trying again (``spec/routing.md``)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from pico.protocol.routing import LeastInFlight, RoundRobin, may_try_again
from pico.protocol.rpc import ResetCode
from tests.rules import covers

VECTORS = json.loads((Path(__file__).parents[2] / "spec/vectors/routing.json").read_text())


@dataclass(eq=False)
class One:
    name: str
    in_flight: int = 0
    may_open: bool = True


def names(balancer, times):
    return "".join(balancer.choose().name for _ in range(times))


@covers("ROUTING-2")
def test_the_fewest_in_flight_is_chosen():
    balancer = LeastInFlight((One("a", 2), One("b", 1), One("c", 3)))
    assert names(balancer, 3) == "bbb"


@covers("ROUTING-2")
def test_equals_take_turns():
    assert names(LeastInFlight((One("a"), One("b"), One("c", 1))), 4) == "abab"
    assert sorted(names(LeastInFlight((One("a"), One("b"), One("c"))), 6)) == list("aabbcc")


@covers("ROUTING-3")
def test_round_robin_ignores_what_is_in_flight():
    assert names(RoundRobin((One("a", 9), One("b"), One("c", 4))), 6) == "abcabc"


@covers("ROUTING-1")
@pytest.mark.parametrize("kind", [LeastInFlight, RoundRobin])
def test_only_a_free_candidate_that_was_not_tried(kind):
    full, tried, free = One("full", may_open=False), One("tried"), One("free", 7)
    balancer = kind((full, tried, free))
    assert all(balancer.choose([tried]) is free for _ in range(5))
    assert balancer.choose([tried, free]) is None


@covers("ROUTING-1")
@pytest.mark.parametrize("kind", [LeastInFlight, RoundRobin])
def test_a_single_candidate_follows_the_same_rule(kind):
    only = One("only")
    assert kind((only,)).choose() is only
    assert kind((only,)).choose([only]) is None
    only.may_open = False
    assert kind((only,)).choose() is None


@covers("ROUTING-3")
def test_the_turn_is_carried_over_to_the_next_balancer():
    a, b, c = One("a"), One("b"), One("c")
    before = RoundRobin((a, b, c))
    assert names(before, 2) == "ab"
    assert names(RoundRobin((a, b, c), before.turn), 1) == "c"


@covers("ROUTING-5", "ROUTING-6")
@pytest.mark.parametrize("vector", VECTORS["may_try_again"], ids=lambda vector: vector["because"])
def test_trying_again(vector):
    code = ResetCode[vector["code"]]
    answer = may_try_again(
        vector["method"].encode(), code, untouched=vector["untouched"], body_held=vector["body_held"]
    )
    assert answer is vector["again"]
