"""Whom a member looks for, one thing after the other."""

from __future__ import annotations

from random import Random

from pico.config import GossipLimits, GossipTimers
from pico.protocol.gossip.search import Search, TryAbsent, TrySeed
from pico.protocol.gossip.values import Address
from tests.rules import covers

A, B = ("10.0.0.1", 8003), ("10.0.0.2", 8003)
NOT_YET = "not yet"


class Near:
    """Who lives, and where."""

    node_id = "me"

    def __init__(self) -> None:
        self.living: dict[str, Address] = {}
        self.asked = 0  # where all of them are

    @property
    def alone(self) -> bool:
        return not self.living

    def lives(self, node_id: str) -> bool:
        return node_id in self.living

    def taken(self) -> set[Address]:
        self.asked += 1
        return set(self.living.values())


class Desk:
    def __init__(self, **limits: int) -> None:
        self.near, self.now = Near(), 0.0
        self.search = Search(self.near, GossipLimits(**limits), GossipTimers(), Random(1), now=0.0)

    def tried(self, seconds: float, answer: str | None = NOT_YET) -> list[TryAbsent | TrySeed]:
        """What is tried in so long, at the very moments at which it wants to be called; who answers at each seed."""
        until, tried = self.now + seconds, []
        while (due := self.search.next_timer()) is not None and due <= until:
            self.now = max(self.now, due)
            targets = self.search.handle_timer(now=self.now)
            tried += targets
            for target in targets:
                if isinstance(target, TrySeed) and answer != NOT_YET:
                    self.end(target.address, answer)
        self.now = until
        return tried

    def end(self, address: Address, node_id: str | None) -> None:
        """An exchange with a seed is over."""
        self.search.seed_tried(address, node_id, now=self.now)


@covers("GOSSIP-69")
class TestSeeds:
    def test_are_tried_at_once_and_then_ever_more_seldom_for_ever(self) -> None:
        desk = Desk()
        desk.search.set_seeds([A, A], now=0.0)
        assert not desk.search.seeds_tried
        assert desk.tried(0.01) == [TrySeed(A)]
        desk.end(A, None)
        assert desk.search.seeds_tried
        assert 5 <= len(desk.tried(10, None)) <= 8
        assert 15 <= len(desk.tried(100, None)) <= 27, "every five seconds, give or take a quarter"

    def test_are_not_tried_again_while_they_are_being_tried(self) -> None:
        desk = Desk()
        desk.search.set_seeds([A], now=0.0)
        assert desk.tried(60) == [TrySeed(A)]
        assert not desk.search.seeds_tried, "an exchange that may not have begun yet is no attempt"
        desk.end(A, None)
        assert desk.tried(0.07) == [] and desk.tried(0.06) == [TrySeed(A)], "what comes next is counted from its end"

    def test_rest_while_somebody_who_lives_is_behind_them(self) -> None:
        desk = Desk()
        desk.search.set_seeds([A], now=0.0)
        desk.tried(0.01)
        desk.near.living["b"] = B  # it answers under another address
        desk.end(A, "b")
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
        desk.end(A, "me")
        assert len(desk.tried(20, "me")) > 5
        desk.near.living["b"] = B
        assert desk.tried(60) == []

    def test_that_are_many_do_not_each_ask_where_everybody_is(self) -> None:
        """A name may stand for the whole cluster, and where a node is is not for nothing."""
        desk = Desk()
        seeds = [(f"10.0.{number // 250}.{number % 250}", 8003) for number in range(500)]
        desk.near.living = {f"n{number}": seed for number, seed in enumerate(seeds)}
        desk.search.set_seeds(seeds, now=0.0)
        assert desk.search.seeds_tried and desk.near.asked == 1
        assert desk.tried(0.01) == [] and desk.near.asked == 2
        assert desk.search.any_seed() is None and desk.near.asked == 3

    def test_keep_their_state_when_names_are_looked_up_again(self) -> None:
        desk = Desk()
        desk.search.set_seeds([A], now=0.0)
        desk.tried(10, None)
        desk.search.set_seeds([A, B], now=10.0)
        assert desk.tried(0.01) == [TrySeed(B)]

    def test_that_are_no_seeds_any_more_are_forgotten(self) -> None:
        desk = Desk()
        desk.search.set_seeds([A], now=0.0)
        desk.search.set_seeds([], now=0.0)
        desk.end(A, "b")
        assert desk.search.next_timer() is None and desk.tried(60) == []


@covers("GOSSIP-77")
class TestAnySeed:
    def test_is_one_by_chance_whoever_answered_there_before(self) -> None:
        desk = Desk()
        assert desk.search.any_seed() is None
        desk.search.set_seeds([A, B], now=0.0)
        desk.near.living["c"] = ("10.0.0.3", 8003)
        tried = set()
        for _ in range(50):
            desk.tried(0.01, "c")
            seed = desk.search.any_seed()
            assert seed is not None
            tried.add(seed.address)
            desk.end(seed.address, "c")
        assert tried == {A, B}

    def test_is_none_at_whose_address_a_node_lives(self) -> None:
        desk = Desk()
        desk.search.set_seeds([A], now=0.0)
        desk.near.living["b"] = A
        assert desk.tried(60) == [] and desk.search.any_seed() is None

    def test_is_none_that_is_being_tried(self) -> None:
        desk = Desk()
        desk.search.set_seeds([A], now=0.0)
        assert desk.search.any_seed() == TrySeed(A)
        assert desk.search.any_seed() is None and desk.tried(60) == []
        desk.end(A, None)
        assert TrySeed(A) in desk.tried(6)


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

    def test_one_is_chosen_by_chance_for_what_is_seldom(self) -> None:
        desk = Desk()
        assert desk.search.any_absent() is None
        desk.search.miss("a", A)
        desk.search.miss("b", B)
        assert {desk.search.any_absent() for _ in range(50)} == {TryAbsent("a", A), TryAbsent("b", B)}
        desk.near.living["c"] = A
        assert {desk.search.any_absent() for _ in range(50)} == {None, TryAbsent("b", B)}

    def test_are_not_more_than_the_limit(self) -> None:
        desk = Desk(memory_nodes_max=2)
        for name in "abc":
            desk.search.miss(name, A)
        assert desk.search.absent == ["b", "c"]
