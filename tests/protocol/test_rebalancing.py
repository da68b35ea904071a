"""Evening out: how many, when, whom, and who is sent elsewhere."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest

from pico.config import RebalanceLimits
from pico.protocol.rebalancing import Counts, Rebalancer, choose_movers, is_better_elsewhere
from tests.rules import covers

SPEC = Path(__file__).parents[2] / "spec"
VECTORS: dict[str, Any] = json.loads((SPEC / "vectors" / "rebalancing.json").read_text())
UNEVEN = Counts(150, {"b": 150, "c": 0})
EVEN = Counts(100, {"b": 100, "c": 100})


class Always:
    """Chance that is not."""

    def random(self) -> float:
        return 0.0


class Asked:
    """A rebalancer and a time that the test moves."""

    def __init__(self, **limits: float) -> None:
        self.rebalancer = Rebalancer(RebalanceLimits(**limits), Always())
        self.now = 0.0

    def after(self, seconds: float, counts: Counts = UNEVEN, pending: int = 0, calm: bool = True) -> int:
        self.now += seconds
        return self.rebalancer.decide(counts, pending=pending, calm=calm, now=self.now)


def test_the_parameters_in_the_specification_are_those_of_the_configuration() -> None:
    rows = re.findall(r"^\| `([a-z_]+)` \| .* \| ([0-9.,]+) \| .* \|$", (SPEC / "rebalancing.md").read_text(), re.M)
    assert {name: float(value) for name, value in rows} == dataclasses.asdict(RebalanceLimits())


@covers("BALANCE-1", "BALANCE-2")
@pytest.mark.parametrize("vector", VECTORS["counts"], ids=lambda vector: vector["name"])
def test_counts_of_the_vectors(vector: dict[str, Any]) -> None:
    counts = Counts(vector["own"], vector["others"])
    assert counts.excess == vector["excess"]
    assert counts.is_uneven(0.1) is vector["uneven"]


@covers("BALANCE-8", "BALANCE-9")
@pytest.mark.parametrize("vector", VECTORS["doors"], ids=lambda vector: vector["name"])
def test_doors_of_the_vectors(vector: dict[str, Any]) -> None:
    counts = Counts(vector["own"], vector["others"])
    assert is_better_elsewhere(counts, vector["named"], "a", by_share=True) is vector["elsewhere"]


@covers("BALANCE-9")
def test_a_door_without_rebalancing_sends_away_only_who_has_named_it() -> None:
    counts = Counts(9, {"b": 0, "c": 9})
    assert not is_better_elsewhere(counts, ["c"], "a", by_share=False)
    assert is_better_elsewhere(counts, ["a"], "a", by_share=False)


@covers("BALANCE-3", "BALANCE-4")
def test_it_asks_after_a_while_so_many_a_second_and_never_while_some_are_pending() -> None:
    asked = Asked(settle_s=5.0, rate=10.0, interval_s=1.0)
    assert asked.after(0.0) == 0
    assert asked.after(4.9) == 0
    assert asked.after(0.2) == 10
    assert asked.after(0.5) == 0, "the interval"
    assert asked.after(0.6, Counts(141, {"b": 140, "c": 19}), pending=1) == 0
    assert asked.after(0.1, Counts(140, {"b": 140, "c": 20})) == 10


@covers("BALANCE-1", "BALANCE-2")
def test_it_goes_on_to_its_share_and_begins_only_when_it_is_clearly_above() -> None:
    asked = Asked(settle_s=0.0)
    assert asked.after(0.0, Counts(109, {"b": 91})) == 0
    assert asked.after(1.0, Counts(112, {"b": 88})) == 10
    assert asked.after(2.0, Counts(102, {"b": 98})) == 2
    assert asked.after(2.0, Counts(100, {"b": 100})) == 0
    assert asked.after(2.0, Counts(102, {"b": 98})) == 0


@covers("BALANCE-3")
def test_what_is_uneven_for_a_moment_is_nothing() -> None:
    asked = Asked(settle_s=5.0)
    assert [asked.after(4.0), asked.after(4.0, EVEN), asked.after(4.0), asked.after(4.0)] == [0, 0, 0, 0]


@covers("BALANCE-5")
def test_it_asks_nobody_while_the_cluster_is_not_calm() -> None:
    asked = Asked(settle_s=5.0)
    assert [asked.after(0.0), asked.after(6.0, calm=False), asked.after(1.0), asked.after(5.0)] == [0, 0, 0, 10]


@covers("BALANCE-6")
def test_asking_in_vain_is_done_ever_more_seldom_until_it_helps() -> None:
    asked = Asked(settle_s=0.0, interval_s=1.0, interval_max_s=4.0)
    times = []
    for _ in range(200):
        if count := asked.after(0.25):
            times.append((asked.now, count))
    gaps = [later - earlier for (earlier, _), (later, _) in itertools.pairwise(times)]
    assert gaps[:3] == [1.0, 2.0, 4.0]
    assert set(gaps[3:]) == {4.0}
    assert {count for _, count in times[1:]} == {1}
    helped = Counts(149, {"b": 150, "c": 1})
    assert next(filter(None, (asked.after(0.25, helped) for _ in range(20)))) == 10


@covers("BALANCE-7")
def test_those_are_asked_whose_endpoint_has_the_most_here() -> None:
    upstreams = [(f"u{number}", "many") for number in range(5)] + [("v0", "two"), ("v1", "two"), ("w0", "one")]
    chosen = choose_movers(upstreams, 3, Random(1))
    assert len(chosen) == 3
    assert all(name.startswith("u") for name in chosen)
    assert len(choose_movers(upstreams, 99, Random(1))) == len(upstreams)


@covers("BALANCE-7")
def test_among_equals_it_is_chance() -> None:
    upstreams = [(f"u{number}", f"e{number}") for number in range(4)]
    times = Counter(name for seed in range(400) for name in choose_movers(upstreams, 1, Random(seed)))
    assert all(60 < times[name] < 140 for name, _ in upstreams)
