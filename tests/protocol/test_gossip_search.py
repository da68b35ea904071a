"""Whom a member looks for, one thing after the other."""

from __future__ import annotations

from random import Random

from pico.config import GossipLimits, GossipTimers
from pico.protocol.gossip.search import Search, TryAbsent, TrySeed
from pico.protocol.gossip.values import Address
from tests.rules import covers

A, B = ("10.0.0.1", 8003), ("10.0.0.2", 8003)


class Near:
    """Who lives, and where."""

    node_id = "me"

    def __init__(self) -> None:
        self.living: dict[str, Address] = {}

    @property
    def alone(self) -> bool:
        return not self.living

    def lives(self, node_id: str) -> bool:
        return node_id in self.living

    def is_taken(self, address: Address) -> bool:
        return address in self.living.values()


class Desk:
    def __init__(self, **limits: int) -> None:
        self.near, self.now = Near(), 0.0
        self.search = Search(self.near, GossipLimits(**limits), GossipTimers(), Random(1), now=0.0)

    def tried(self, seconds: float) -> list[TryAbsent | TrySeed]:
        """What is tried in so long, at the very moments at which it wants to be called."""
        until, tried = self.now + seconds, []
        while (due := self.search.next_timer()) is not None and due <= until:
            self.now = max(self.now, due)
            tried += self.search.handle_timer(now=self.now)
        self.now = until
        return tried


@covers("GOSSIP-69")
class TestSeeds:
    def test_are_tried_at_once_and_then_ever_more_seldom_for_ever(self) -> None:
        desk = Desk()
        desk.search.set_seeds([A, A], now=0.0)
        assert not desk.search.seeds_tried
        assert desk.tried(0.01) == [TrySeed(A)]
        desk.search.seed_tried(A, None)
        assert desk.search.seeds_tried
        assert 5 <= len(desk.tried(10)) <= 8
        assert 15 <= len(desk.tried(100)) <= 27, "every five seconds, give or take a quarter"

    def test_rest_while_somebody_who_lives_is_behind_them(self) -> None:
        desk = Desk()
        desk.search.set_seeds([A], now=0.0)
        desk.tried(0.01)
        desk.near.living["b"] = B  # it answers under another address
        desk.search.seed_tried(A, "b")
        assert desk.tried(60) == []
        del desk.near.living["b"]
        assert TrySeed(A) in desk.tried(6)

    def test_whose_address_is_known_need_not_be_tried(self) -> None:
        desk = Desk()
        desk.near.living["b"] = A
        desk.search.set_seeds([A], now=0.0)
        assert desk.search.seeds_tried
        assert desk.tried(60) == []

    def test_that_turn_out_to_be_this_node_are_tried_again_only_while_it_is_alone(self) -> None:
        desk = Desk()
        desk.search.set_seeds([A], now=0.0)
        desk.tried(0.01)
        desk.search.seed_tried(A, "me")
        assert desk.tried(20)
        desk.near.living["b"] = B
        assert desk.tried(60) == []

    def test_keep_their_state_when_names_are_looked_up_again(self) -> None:
        desk = Desk()
        desk.search.set_seeds([A], now=0.0)
        desk.tried(10)
        desk.search.set_seeds([A, B], now=10.0)
        assert desk.tried(0.01) == [TrySeed(B)]

    def test_that_are_no_seeds_any_more_are_forgotten(self) -> None:
        desk = Desk()
        desk.search.set_seeds([A], now=0.0)
        desk.search.set_seeds([], now=0.0)
        desk.search.seed_tried(A, "b")
        assert desk.search.next_timer() is None and desk.tried(60) == []


@covers("GOSSIP-69")
class TestAbsent:
    def test_are_tried_in_turn_one_a_second(self) -> None:
        desk = Desk()
        desk.search.miss("a", A)
        desk.search.miss("b", B)
        assert desk.tried(3.5) == [TryAbsent("a", A), TryAbsent("b", B), TryAbsent("a", A), TryAbsent("b", B)]

    def test_are_not_tried_any_more_when_they_are_back(self) -> None:
        desk = Desk()
        desk.search.miss("a", A)
        desk.search.miss_no_more("a")
        desk.search.miss_no_more("a")
        assert desk.search.absent == [] and desk.tried(60) == []

    def test_are_given_up_when_another_node_is_where_they_were(self) -> None:
        desk = Desk()
        desk.search.miss("a", A)
        desk.near.living["b"] = A
        assert desk.tried(60) == [] and desk.search.absent == []

    def test_are_not_more_than_the_limit(self) -> None:
        desk = Desk(memory_nodes_max=2)
        for name in "abc":
            desk.search.miss(name, A)
        assert desk.search.absent == ["b", "c"]
