"""Many calls at one time, in any order and with any delay: none sees a byte of another, and each ends once."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.property.rpc_calls import BASE, STREAMING, Binding, Call, Play
from tests.rules import covers

bindings = pytest.mark.parametrize("binding", [STREAMING, BASE], ids=lambda binding: binding.name)
plans = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 90), st.integers(0, 90)), min_size=1, max_size=12)
# A schedule takes hundreds of choices; drawn one by one they would be too large an example. What shrinks is the plans.
seeds = st.integers(0, 2**32)


class Plan:
    """What one call wants: so many bytes in each direction, as soon as it may."""

    def __init__(self, opener: int, request: int, response: int) -> None:
        self.opener = opener
        self.request = request
        self.response = response
        self.call: Call | None = None

    def advance(self, play: Play, chance: Random) -> None:
        if self.call is None:
            before = len(play.calls)
            play.open(self.opener, min(self.request, 16), self.request <= 16, chance.random() < 0.5)
            if len(play.calls) > before:
                self.call = play.calls[-1]
            return
        call = self.call
        piece = chance.randrange(1, 20)
        if chance.random() < 0.5:
            left = self.request - call.request.given
            play.send_request(call, min(piece, left), left <= piece and call_credit(play, call, self.opener) >= left)
        elif not call.heads:
            play.send_head(call, 200, 0, False)
        else:
            left = self.response - call.response.given
            play.send_response(call, min(piece, left), left <= piece and call_credit(play, call, call.acceptor) >= left)

    def over(self) -> bool:
        return self.call is not None and self.call.over[self.opener] is not None and self.call.request.ended


def call_credit(play: Play, call: Call, who: int) -> int:
    name = call.names[who]
    return play.pair.sides[who].streams[name].credit if name else 0


def take_something(play: Play, chance: Random) -> None:
    for who in (0, 1):
        for name in list(play.untaken[who]):
            play.take(who, name, chance.randrange(0, 40))


@covers("RPC-12", "RPC-14", "RPC-19", "RPC-33", "RPC-46")
@bindings
@given(plans=plans, seed=seeds)
def test_any_number_of_calls_in_any_order_with_any_delay(
    binding: Binding, plans: list[tuple[int, int, int]], seed: int
) -> None:
    play, chance = Play(binding), Random(seed)
    calls = [Plan(*plan) for plan in plans]
    turns = 0
    while not all(plan.over() for plan in calls):
        turns += 1
        assert turns < 10_000, "some call does not end"
        chance.choice(calls).advance(play, chance)
        if chance.random() < 0.5:
            play.post(chance.randrange(2), chance.choice([0, 1, 100]))
        if chance.random() < 0.7:
            play.deliver(chance.randrange(2))
        if chance.random() < 0.3:
            take_something(play, chance)
    play.settle()
    for plan in calls:
        assert plan.call is not None
        assert plan.call.over[plan.opener] == "complete"
        assert len(plan.call.request.seen) == plan.request
        assert len(plan.call.response.seen) == plan.response
    play.finish()


@covers("RPC-6", "RPC-14")
@bindings
@given(order=st.permutations(range(3)), answers=st.permutations(range(3)))
def test_responses_may_overtake_each_other(binding: Binding, order: list[int], answers: list[int]) -> None:
    play = Play(binding)
    for _ in range(3):
        play.open(0, 8, True, True)
    play.post(0, 1 << 30)
    while play.deliver(1):
        pass
    for number in order:
        play.send_head(play.calls[number], 200, 7, False)
    for number in answers:
        play.send_response(play.calls[number], 9, True)
    play.post(1, 1 << 30)
    while play.deliver(0):
        pass
    assert [call.over[0] for call in play.calls] == ["complete"] * 3
    play.finish()
