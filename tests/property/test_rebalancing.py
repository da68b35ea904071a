"""From any distribution to an even one: bounded, without loss, and then quiet."""

from __future__ import annotations

from collections import Counter
from math import floor
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from pico.config import RebalanceLimits
from pico.protocol.rebalancing import Counts, Rebalancer, choose_movers, is_better_elsewhere
from tests.rules import covers

LIMITS = RebalanceLimits()
STEP_S = 0.5
CHOOSY_MAX = 8


class Cluster:
    """Nodes that decide by what they heard a moment ago, and agents that come back through a blind balancer."""

    def __init__(self, counts: list[int], seed: int, lag: int) -> None:
        self.rng = Random(seed)
        self.counts = {f"n{number}": count for number, count in enumerate(counts)}
        self.heard = [dict(self.counts)] * (lag + 1)
        self.nodes = {name: Rebalancer(LIMITS, Random(seed + number)) for number, name in enumerate(self.counts)}
        self.now = 0.0
        self.asked: list[tuple[float, str, int]] = []

    def seen_by(self, node: str) -> Counts:
        heard = self.heard[0]
        return Counts(self.counts[node], {name: count for name, count in heard.items() if name != node})

    def step(self) -> None:
        self.now += STEP_S
        moving: Counter[str] = Counter()
        for name, rebalancer in self.nodes.items():
            count = rebalancer.decide(self.seen_by(name), pending=0, calm=True, now=self.now)
            if count:
                self.asked.append((self.now, name, count))
                moving[name] += count
        for name, count in moving.items():
            for _ in range(count):
                self.counts[self.place_from(name)] += 1
                self.counts[name] -= 1
        self.heard = [*self.heard[1:], dict(self.counts)]

    def place_from(self, left: str) -> str:
        """Where an agent ends that was asked to move: the balancer draws, the doors refuse, and at last do not."""
        for _ in range(CHOOSY_MAX):
            name = self.rng.choice(list(self.counts))
            if not is_better_elsewhere(self.seen_by(name), [left], name, by_share=True):
                return name
        return self.rng.choice(list(self.counts))

    def deviation(self) -> float:
        mean = sum(self.counts.values()) / len(self.counts)
        return max(abs(count - mean) - max(1.0, 0.1 * mean) for count in self.counts.values())


@covers("BALANCE-1", "BALANCE-2", "BALANCE-4", "BALANCE-6", "BALANCE-8", "BALANCE-9")
@given(
    counts=st.lists(st.integers(0, 200), min_size=2, max_size=8),
    seed=st.integers(0, 2**32),
    lag=st.integers(0, 2),
)
def test_any_distribution_becomes_even_and_stays_so(counts: list[int], seed: int, lag: int) -> None:
    cluster = Cluster(counts, seed, lag)
    was_even = cluster.deviation() <= 0
    # The whole excess at half the rate, what a stretch of bad luck costs, and the time to settle.
    limit_s = 2 * max(counts) / LIMITS.rate * 2 + 150.0
    while cluster.now < limit_s:
        cluster.step()
        assert sum(cluster.counts.values()) == sum(counts), "none is lost"
        assert min(cluster.counts.values()) >= 0
    assert cluster.deviation() <= 0
    if was_even:
        assert cluster.asked == [], "what is even is left alone"
    for at, name, count in cluster.asked:
        window = sum(c for time, other, c in cluster.asked if other == name and at <= time < at + 1.0)
        assert count <= window <= LIMITS.rate * LIMITS.interval_s
    asked = len(cluster.asked)
    for _ in range(200):
        cluster.step()
    assert len(cluster.asked) == asked, "and then nobody is asked any more"


@covers("BALANCE-2")
@given(own=st.integers(0, 500), others=st.lists(st.integers(0, 500), max_size=8))
def test_nobody_gives_away_what_would_leave_it_below_its_share(own: int, others: list[int]) -> None:
    counts = Counts(own, {f"n{number}": count for number, count in enumerate(others)})
    assert own - counts.excess >= min(own, floor(counts.mean))


@covers("BALANCE-7")
@given(upstreams=st.lists(st.integers(0, 5), max_size=40), count=st.integers(0, 50), seed=st.integers(0, 2**32))
def test_each_is_chosen_once_and_none_from_an_endpoint_that_another_outnumbers(
    upstreams: list[int], count: int, seed: int
) -> None:
    named = [(f"u{number}", f"e{endpoint}") for number, endpoint in enumerate(upstreams)]
    chosen = choose_movers(named, count, Random(seed))
    assert len(chosen) == len(set(chosen)) == min(count, len(named))
    before, taken = Counter(endpoint for _, endpoint in named), Counter(dict(named)[name] for name in chosen)
    for endpoint, times in taken.items():
        assert before[endpoint] - times + 1 >= max(before[other] - taken[other] for other in before)


@covers("BALANCE-8")
@given(
    own=st.integers(0, 50),
    others=st.dictionaries(st.sampled_from("bcdef"), st.integers(0, 50)),
    named=st.sets(st.sampled_from("abcdef")),
)
def test_nobody_is_sent_away_who_has_nowhere_to_go(own: int, others: dict[str, int], named: set[str]) -> None:
    if is_better_elsewhere(Counts(own, others), named, "a", by_share=True):
        assert set(others) - named
