"""Properties of the choice among upstreams (``spec/routing.md``)."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from pico.config import GossipLimits
from pico.protocol.cluster import ClusterView, Condition, Standing, endpoint_key
from pico.protocol.gossip.state import OwnState
from pico.protocol.http.values import RequestHead
from pico.protocol.routing import (
    LeastInFlight,
    PeerChoice,
    RoundRobin,
    address_of,
    addressed,
    choose_peer,
    question,
    question_of,
)
from tests.calls import calls_of
from tests.rules import covers


@dataclass(eq=False)
class One:
    in_flight: int
    may_open: bool
    may_connect: bool = False


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


peers = st.builds(One, st.integers(0, 5), st.booleans(), st.booleans())
choices = st.lists(
    st.builds(
        PeerChoice, peers, st.integers(1, 9), st.sampled_from([Standing.ROUTABLE, Standing.LAST_RESORT, Standing.NOT])
    ),
    max_size=8,
)


def rank(choice) -> int:
    """The lower the better; 9: not at all."""
    if choice.standing is Standing.NOT or not (choice.peer.may_open or choice.peer.may_connect):
        return 9
    return 2 * (choice.standing is Standing.LAST_RESORT) + (not choice.peer.may_open)


@covers("ROUTING-10", "ROUTING-11", "ROUTING-12")
@given(choices, st.integers(0, 1000))
def test_the_peer_is_of_the_best_rank_and_the_worst_of_that_rank_only_when_it_is_alone(choices, seed):
    chosen = choose_peer(choices, Random(seed))
    best = [choice for choice in choices if rank(choice) == min(map(rank, choices)) < 9]
    assert (chosen is None) is (not best)
    if chosen is not None:
        (choice,) = [choice for choice in best if choice.peer is chosen]
        assert len(best) == 1 or any(choice.load <= other.load for other in best if other is not choice)


@covers("ROUTING-12")
@given(st.lists(st.integers(1, 9), min_size=2, max_size=5), st.integers(0, 1000))
def test_idle_peers_are_chosen_in_proportion_to_their_upstreams(weights, seed):
    rng, draws = Random(seed), 2000
    choices = [PeerChoice(One(0, True), weight) for weight in weights]
    counts = {id(choice.peer): 0 for choice in choices}
    for _ in range(draws):
        counts[id(choose_peer(choices, rng))] += 1
    for choice in choices:
        share = choice.upstreams / sum(weights)
        assert abs(counts[id(choice.peer)] - draws * share) < 6 * (draws * share * (1 - share)) ** 0.5  # six sigma


@covers("ROUTING-12")
@given(st.lists(st.integers(1, 9), min_size=2, max_size=5), st.integers(0, 1000))
def test_requests_that_stay_spread_in_proportion_to_the_upstreams(weights, seed):
    rng, requests = Random(seed), 300
    choices = [PeerChoice(One(0, True), weight) for weight in weights]
    for _ in range(requests):
        choose_peer(choices, rng).in_flight += 1
    for choice in choices:
        assert abs(choice.load - requests / sum(weights)) <= 5  # for each upstream; one by one it would be unbounded


@covers("ROUTING-12")
def test_a_choice_costs_the_same_with_one_and_with_ten_thousand_endpoints_on_the_peer():
    costs = []
    for size in (1, 10_000):
        view, owner = ClusterView("me"), OwnState(1, GossipLimits())
        for number in range(size):
            owner.put(endpoint_key(f"ep{number}"), b"1")
        view.follow("a", owner, Condition(verified=True))
        peer = One(0, True)

        def choose(view=view, peer=peer):
            choices = [PeerChoice(peer, place.upstreams, view.standing(place.node_id)) for place in view.places["ep0"]]
            return choose_peer(choices, Random(1))

        assert choose() is peer
        costs.append(calls_of(choose))
    assert costs[0] == costs[1]


@covers("ROUTING-13")
@given(st.from_regex(r"[0-9a-z]([0-9a-z-]{0,61}[0-9a-z])?", fullmatch=True), st.binary(max_size=50))
def test_whatever_the_block_the_address_comes_back(endpoint_id, block):
    head = RequestHead(b"GET", b"/", block, 0, b"")
    assert address_of(addressed(head, endpoint_id)) == (endpoint_id, head)


@covers("ROUTING-21")
@given(st.text(max_size=40))
def test_whatever_is_asked_comes_back_or_is_not_asked(rest):
    head = question(f"/status/{rest}")
    assert (head is None) is (not all("!" <= letter <= "~" for letter in rest))
    assert head is None or question_of(head) == f"/status/{rest}"
