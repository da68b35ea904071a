"""The choice among upstreams, and the rule about trying again (``spec/routing.md``)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from pico.protocol.cluster import Standing
from pico.protocol.http.values import RequestHead, valid_field_block
from pico.protocol.routing import (
    CALLED_PER_UPSTREAM_MAX,
    HELD_BYTES_MAX,
    LeastInFlight,
    PeerChoice,
    RoundRobin,
    WaitingList,
    address_of,
    addressed,
    choose_peer,
    held_with,
    is_question,
    may_try_again,
    question,
    question_of,
)
from pico.protocol.rpc import ResetCode
from tests.calls import calls_of
from tests.rules import covers
from tests.values import but

VECTORS = json.loads((Path(__file__).parents[2] / "spec/vectors/routing.json").read_text())


@dataclass(eq=False)
class One:
    name: str
    in_flight: int = 0
    may_open: bool = True
    may_connect: bool = False


class Draws:
    """Chance that was decided beforehand."""

    def __init__(self, *draws: float) -> None:
        self.draws = list(draws)

    def random(self) -> float:
        return self.draws.pop(0)


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


class Looked:
    """Counts how often somebody looks at what it has in flight."""

    may_open = True
    looks = 0

    def __init__(self, in_flight: int = 0) -> None:
        self.now = in_flight

    @property
    def in_flight(self) -> int:
        Looked.looks += 1
        return self.now


@pytest.mark.parametrize("kind", [LeastInFlight, RoundRobin])
def test_a_choice_costs_the_same_with_two_idle_upstreams_and_with_many(kind):
    looks = []
    for count in (2, 256):
        balancer = kind(tuple(Looked() for _ in range(count)))
        assert not balancer.is_full(10_000)
        Looked.looks = 0
        for _ in range(2):
            assert not balancer.is_full(10_000)
            balancer.choose().now += 1
        looks.append(Looked.looks)
    assert looks[0] == looks[1]


@pytest.mark.parametrize("kind", [LeastInFlight, RoundRobin])
@pytest.mark.parametrize("count", [1, 3])
def test_a_balancer_is_full_at_its_limit_and_no_longer_when_a_request_has_ended(kind, count):
    upstreams = tuple(Looked() for _ in range(count))
    balancer = kind(upstreams)
    for _ in range(5):
        assert not balancer.is_full(5)
        balancer.choose().now += 1
    assert balancer.is_full(5)
    assert not balancer.is_full(6), "another limit counts at once"
    upstreams[0].now -= 1
    assert not balancer.is_full(5)
    balancer.choose().now += 1
    assert balancer.is_full(5)


@covers("ROUTING-5", "ROUTING-6")
@pytest.mark.parametrize("vector", VECTORS["may_try_again"], ids=lambda vector: vector["because"])
def test_trying_again(vector):
    code = ResetCode[vector["code"]]
    answer = may_try_again(
        vector["method"].encode(), code, untouched=vector["untouched"], body_held=vector["body_held"]
    )
    assert answer is vector["again"]


def test_what_is_held_of_a_body_that_comes_byte_by_byte_is_not_copied_each_time():
    first = held_with(b"", b"a")
    assert first == b"a"
    second = held_with(first, b"b")
    assert held_with(second, memoryview(b"c")) is second
    assert second == b"abc"
    assert first == b"a", "bytes of somebody else stay as they are"


def test_no_more_of_a_body_is_held_than_is_kept_for_another_attempt():
    held = held_with(b"x" * (HELD_BYTES_MAX - 1), b"y")
    assert len(held) == HELD_BYTES_MAX
    assert held_with(held, b"z") is None
    assert held_with(b"", b"x" * (HELD_BYTES_MAX + 1)) is None


# Peers.

LAST = Standing.LAST_RESORT


@covers("ROUTING-11")
def test_a_routable_peer_comes_before_the_last_resort_and_an_open_link_before_one_to_be_made():
    closed, last = One("closed", may_open=False, may_connect=True), One("last")
    opened = [One("opened", in_flight=50), One("full", may_open=False)]
    choices = [PeerChoice(closed, 1), PeerChoice(last, 1, LAST), *(PeerChoice(one, 1) for one in opened)]
    assert choose_peer(choices, Draws()) is opened[0]
    assert choose_peer(choices[:2], Draws()) is closed
    assert choose_peer(choices[1:2], Draws()) is last


@covers("ROUTING-11")
def test_a_peer_that_takes_nothing_is_no_choice():
    assert choose_peer([], Draws()) is None
    assert choose_peer([PeerChoice(One("full", may_open=False), 1)], Draws()) is None


@covers("ROUTING-12")
@pytest.mark.parametrize(
    "in_flight, draws, chosen",
    [
        ((0, 0, 0), (0.0, 0.0), "a"),
        ((0, 0, 0), (0.25, 0.0), "b"),
        ((0, 0, 0), (0.99, 0.0), "c"),
        ((0, 0, 0), (1.0, 0.0), "c"),  # as rounding may have it
        ((1, 5, 0), (0.0, 0.0), "a"),  # 1 of one, 5 of four
        ((2, 5, 0), (0.0, 0.0), "b"),
        ((2, 9, 0), (0.0, 0.99), "c"),
        ((1, 4, 9), (0.3, 0.0), "b"),  # equal: the first one drawn
    ],
)
def test_the_better_one_of_two_draws(in_flight, draws, chosen):
    """a has one upstream, b four, c three."""
    choices = [
        PeerChoice(One(*of), weight) for of, weight in zip(zip("abc", in_flight, strict=True), (1, 4, 3), strict=True)
    ]
    assert choose_peer(choices, Draws(*draws)).name == chosen


@covers("ROUTING-13")
def test_the_line_that_names_the_endpoint_is_written_first_and_taken_out_again():
    head = RequestHead(b"GET", b"/a?b", b"Host: a.b\r\n", 3, b"websocket")
    written = addressed(head, "web")
    assert written.field_block == b"x-pico-endpoint: web\r\nHost: a.b\r\n"
    assert valid_field_block(written.field_block)
    assert address_of(written) == ("web", head)
    assert but(written, field_block=b"") == but(head, field_block=b"")


@covers("ROUTING-13")
@pytest.mark.parametrize(
    "block", [b"", b"Host: a.b\r\n", b"x-pico-endpoint: Web\r\n", b"Host: a\r\nx-pico-endpoint: web\r\n"]
)
def test_a_head_without_that_line_in_front_is_addressed_to_nobody(block):
    assert address_of(RequestHead(b"GET", b"/", block, 0, b"")) is None


@covers("ROUTING-21")
def test_a_question_is_told_from_a_request_and_comes_back():
    head = question("/status/nodes?limit=3")
    assert head is not None and is_question(head)
    assert question_of(head) == "/status/nodes?limit=3"
    assert not is_question(addressed(head, "web"))
    for target in ("/", "/metrics", "/status/\n", "/status/ x", "/status/" + "x" * 1017):
        assert question(target) is None, target
    assert question("/status/" + "x" * 1016) is not None


# Waiting.


def waiting(names: str) -> WaitingList[str]:
    some: WaitingList[str] = WaitingList()
    for name in names:
        some.add(name, 1.0)
    return some


def call(some: WaitingList[str], here: int, there: int = 0) -> str:
    """Who is called, and comes at once."""
    called = some.call(here, there)
    for name in called:
        some.came(name)
    return "".join(called)


@covers("ROUTING-28")
def test_as_many_are_called_as_there_are_free_streams_and_in_the_order_in_which_they_came():
    some = waiting("abcdef")
    assert call(some, 0) == ""
    assert call(some, 2) == "ab"
    some.left("c")
    assert call(some, 1) == "d"
    assert len(some) == 2
    assert call(some, 5) == "ef"
    assert some.empty


@covers("ROUTING-28")
def test_who_was_called_in_vain_is_called_before_the_others_and_in_order():
    some = waiting("abcd")
    assert call(some, 2) == "ab"
    for name in "ab":
        some.add_again(name, 1.0, refused=False)
    assert call(some, 3) == "abc"


@covers("ROUTING-29")
def test_who_was_called_has_a_stream_until_it_comes_or_goes():
    some = waiting("abcd")
    assert some.call(2, 0) == ["a", "b"]
    assert some.call(2, 0) == []
    assert not some.left("a")
    assert some.call(2, 0) == ["c"]
    some.came("b")  # ... and takes one of the two
    assert some.call(1, 0) == []
    assert some.left("d")
    assert not some.empty
    some.came("c")
    assert some.empty


@covers("ROUTING-28")
def test_peers_get_what_their_upstreams_seem_to_take_and_then_two_for_each_that_has_ended():
    some: WaitingList[int] = WaitingList()
    for number in range(3 * CALLED_PER_UPSTREAM_MAX):
        some.add(number, 1.0)
    assert some.call(0, 99_999) == [], "nobody is known to have the endpoint"
    some.appeared(2)
    for number in some.call(0, 99_999):
        some.came(number)
    assert len(some) == CALLED_PER_UPSTREAM_MAX
    assert some.call(0, 99_999) == []
    some.ended()
    assert some.call(0, 99_999) == [2 * CALLED_PER_UPSTREAM_MAX, 2 * CALLED_PER_UPSTREAM_MAX + 1]


@covers("ROUTING-28")
def test_no_more_are_called_for_peers_than_their_links_take():
    some = waiting("abcdef")
    some.appeared(1)
    assert call(some, 1, 2) == "abc"
    assert call(some, 0, 1) == "d"


@covers("ROUTING-30")
@pytest.mark.parametrize("here, there", [(9, 0), (0, 9)])
def test_after_a_refusal_two_are_called_for_each_that_has_ended_until_the_endpoint_appears_again(here, there):
    some = waiting("abcdefgh")
    some.appeared(1)
    assert call(some, 1 if here else 0, 1 if there else 0) == "a"
    some.ended()
    some.add_again("a", 1.0, refused=True)
    assert call(some, here, there) == ""
    some.ended()
    assert call(some, here, there) == "ab"
    assert call(some, here, there) == ""
    some.appeared(1)
    assert call(some, here, there) == "cdefgh"


@covers("ROUTING-31")
def test_one_is_called_although_nothing_has_happened_and_only_where_something_is_free():
    some = waiting("abc")
    some.appeared(1)
    some.add_again("z", 1.0, refused=True)
    some.nothing_happened()
    assert call(some, 0, 0) == ""
    assert call(some, 0, 9) == "z"
    for _ in range(2):
        some.nothing_happened()
    assert call(some, 9, 9) == "a"


def test_calling_one_of_many_costs_the_same_however_many_wait():
    costs = []
    for size in (10, 10_000):
        some: WaitingList[int] = WaitingList()
        for number in range(size):
            some.add(number, 1.0)
        for _ in range(size // 2):
            some.call(1, 0)
            some.left(next(iter(some._called)))
        costs.append(calls_of(lambda some=some: some.call(1, 0)))
    assert costs[0] == costs[1]
