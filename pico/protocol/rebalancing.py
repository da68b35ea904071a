"""Evening out the upstreams of a cluster, gently (``spec/rebalancing.md``).

Responsible for: how many upstreams a node asks to move now, which ones, and whether a node refuses an agent that would
rather be at another one. Refuses to know: how counts are learned, how an agent is asked, and where it then goes.

Every node decides for itself, from its own count and those that the others say. It gives away only what it has above
its share, so that however many nodes do so at one time, none of them falls below, and who gets it is kept from rising
above: a node that has its share refuses an agent on the move, as long as it knows of one that has less.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor
from typing import Protocol

from pico.config import RebalanceLimits

__all__ = ["Counts", "Rebalancer", "choose_movers", "is_better_elsewhere"]


class Chance(Protocol):
    """What is asked of a random generator: ``random.Random`` has it."""

    def random(self) -> float:
        """At least 0 and below 1, each equally likely."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Upstreams of this node, and of the others that new work is given to."""

    own: int
    others: Mapping[str, int]

    @property
    def mean(self) -> float:
        """What each would have."""
        return (self.own + sum(self.others.values())) / (1 + len(self.others))

    @property
    def excess(self) -> int:
        """What this node has above its share (BALANCE-2)."""
        return max(0, self.own - self.share(min(self.others.values(), default=self.own)))

    def share(self, least: int) -> int:
        """What a node may keep while one of those that could take more has ``least``: the mean, rounded up.

        Or rounded down, if ``least`` is less by more than one: else several nodes might each keep a part of one, and
        that node might never get anything.
        """
        mean = self.mean
        return floor(mean) if least < mean - 1.0 else ceil(mean)

    def is_uneven(self, slack: float) -> bool:
        """Whether a node has clearly more or less than the mean (BALANCE-1)."""
        mean = self.mean
        allowed = max(1.0, slack * mean)
        return any(abs(count - mean) > allowed for count in (self.own, *self.others.values()))


class Rebalancer:
    """When to ask how many; ``rng`` keeps nodes from doing it in step."""

    def __init__(self, limits: RebalanceLimits, rng: Chance) -> None:
        self._limits = limits
        self._rng = rng
        self._uneven_since: float | None = None
        self._interval_s = limits.interval_s
        self._next = 0.0
        self._asked = 0
        self._own_before = 0

    def decide(self, counts: Counts, *, pending: int, calm: bool, now: float) -> int:
        """How many upstreams to ask to move now; ``pending`` were asked before and are still here."""
        limits = self._limits
        if not calm or not counts.excess:  # BALANCE-2, BALANCE-5
            self.rest()
            return 0
        if self._uneven_since is None:
            if not counts.is_uneven(limits.slack):  # BALANCE-1
                return 0
            self._uneven_since = now
        if now < self._uneven_since + limits.settle_s or now < self._next or pending:  # BALANCE-3, BALANCE-4
            return 0
        self._learn(counts.own)
        fruitless = self._interval_s > limits.interval_s
        self._next = now + self._interval_s * (1.0 + self._rng.random() / 2)
        self._asked = 1 if fruitless else min(counts.excess, max(1, int(limits.rate * limits.interval_s)))  # BALANCE-4
        self._own_before = counts.own
        return self._asked

    def rest(self) -> None:
        """This node has no excess: the next time begins anew."""
        self._uneven_since = None
        self._asked = 0
        self._interval_s = self._limits.interval_s

    def _learn(self, own: int) -> None:
        """BALANCE-6: asking that brings nothing is done ever more seldom."""
        if self._asked and 2 * (self._own_before - own) < self._asked:
            self._interval_s = min(2 * self._interval_s, self._limits.interval_max_s)
        else:
            self._interval_s = self._limits.interval_s


def choose_movers(upstreams: Sequence[tuple[str, str]], count: int, rng: Chance) -> list[str]:
    """Whom to ask, of pairs of upstream and endpoint: by chance, from the endpoints with the most here (BALANCE-7)."""
    by_endpoint: defaultdict[str, list[str]] = defaultdict(list)
    for upstream, endpoint in sorted(upstreams, key=lambda _: rng.random()):
        by_endpoint[endpoint].append(upstream)
    most = [(-len(held), rng.random(), endpoint) for endpoint, held in by_endpoint.items()]
    heapq.heapify(most)
    chosen: list[str] = []
    while most and len(chosen) < count:
        _, chance, endpoint = heapq.heappop(most)
        held = by_endpoint[endpoint]
        chosen.append(held.pop())
        if held:
            heapq.heappush(most, (-len(held), chance, endpoint))
    return chosen


def is_better_elsewhere(counts: Counts, named: Collection[str], node_id: str, *, by_share: bool) -> bool:
    """Whether an agent that named these nodes is to be refused here, because it will be taken at another one.

    ``by_share``: whether this node refuses what is above its share, too (BALANCE-9).
    """
    room = [count for node, count in counts.others.items() if node not in named]
    if not room:
        return False
    if node_id in named:  # BALANCE-8
        return True
    least = min(room)
    return by_share and counts.own >= counts.share(least) and least < counts.mean
