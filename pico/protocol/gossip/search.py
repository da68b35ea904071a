"""Where nodes may be that are not known to live: seeds, and the dead (``spec/gossip.md``, GOSSIP-69).

Responsible for: whom to look for, when, and never giving up. Refuses to know: how a node is asked, and who lives: that
is asked of whoever has the table.

A seed stands for any node that may answer there, and is tried while nobody who lives is behind it, never twice at one
time; now and then all the same, unless a node that lives is known to be at that very address: behind a balancer are
many nodes, and those who met there may be only some of them. A node that died is *absent*: it may only have been cut
off, so it is looked for where it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import NamedTuple, Protocol

from pico.config import GossipLimits, GossipTimers
from pico.protocol.gossip.values import Address, Chance

__all__ = ["Neighbourhood", "Search", "TryAbsent", "TrySeed"]


class TrySeed(NamedTuple):
    """Make an exchange with whoever is there; call ``seed_tried`` afterwards, whatever came of it."""

    address: Address


class TryAbsent(NamedTuple):
    """Ask whether the node is back."""

    node_id: str
    address: Address


class Neighbourhood(Protocol):
    """Who lives, as far as is known."""

    node_id: str

    @property
    def alone(self) -> bool:
        """Whether no other node lives."""

    def lives(self, node_id: str) -> bool:
        """Whether it is another node that is not gone."""

    def taken(self) -> set[Address]:
        """Where this node and the others that live are."""


@dataclass(slots=True)
class _Seed:
    due: float  # never while it is being tried
    wait_s: float
    node_id: str = ""  # who was there
    tried: bool = False


class Search:
    """What one member looks for."""

    def __init__(
        self, near: Neighbourhood, limits: GossipLimits, timers: GossipTimers, rng: Chance, *, now: float
    ) -> None:
        self._near = near
        self._limits = limits
        self._timers = timers
        self._rng = rng
        self._absent: dict[str, Address] = {}  # the next to be tried comes first
        self._next_absent = now
        self._seeds: dict[Address, _Seed] = {}

    # Whom to look for.

    @property
    def absent(self) -> list[str]:
        """Those who died and are still being looked for, the next one first."""
        return list(self._absent)

    def any_absent(self) -> TryAbsent | None:
        """One of them by chance, unless another node is there now; None when there is nobody to be looked for."""
        node_id = self._rng.sample(list(self._absent), 1)[0] if self._absent else ""
        if not node_id or self._absent[node_id] in self._near.taken():
            return None
        return TryAbsent(node_id, self._absent[node_id])

    def any_seed(self) -> TrySeed | None:
        """One by chance, to be tried as another is, though a node may have answered there that lives (GOSSIP-77).

        None when at the address of each there is this node or one that lives, or it is being tried.
        """
        taken = self._near.taken()
        open_ = [address for address, seed in self._seeds.items() if seed.due < inf and address not in taken]
        if not open_:
            return None
        address = self._rng.sample(open_, 1)[0]
        self._seeds[address].due = inf
        return TrySeed(address)

    @property
    def seeds_tried(self) -> bool:
        """Whether each seed was tried at least once, or need not be: this node or one that is known is there."""
        untried = [(address, seed) for address, seed in self._seeds.items() if not seed.tried]
        taken = self._near.taken() if untried else set()
        return not any(self._is_needed(address, seed, taken) for address, seed in untried)

    def set_seeds(self, addresses: Sequence[Address], *, now: float) -> None:
        """Where others may be; known ones keep their state."""
        known = self._seeds
        self._seeds = {
            address: known.get(address) or _Seed(now, self._timers.seed_first_s) for address in dict.fromkeys(addresses)
        }

    def miss(self, node_id: str, address: Address) -> None:
        """The node has died, and was there."""
        self._absent[node_id] = address
        if len(self._absent) > self._limits.memory_nodes_max:
            del self._absent[next(iter(self._absent))]

    def miss_no_more(self, node_id: str) -> None:
        """The node is back, or will not come back."""
        self._absent.pop(node_id, None)

    def seed_tried(self, address: Address, node_id: str | None, *, now: float) -> None:
        """An exchange with a seed is over: who was there, or None when there was none."""
        seed = self._seeds.get(address)
        if seed is None:
            return
        seed.tried = True
        seed.node_id = node_id or ""
        if node_id is not None and node_id != self._near.node_id:
            seed.wait_s = self._timers.seed_first_s
        seed.due = now + seed.wait_s * (0.75 + 0.5 * self._rng.random())
        seed.wait_s = min(2 * seed.wait_s, self._timers.seed_max_s)

    # Time.

    def next_timer(self) -> float | None:
        """When ``handle_timer`` wants to be called."""
        dues = [seed.due for seed in self._seeds.values()]
        return min([*dues, self._next_absent] if self._absent else dues, default=None)

    def handle_timer(self, *, now: float) -> list[TryAbsent | TrySeed]:
        """Whom to try now."""
        return [*self._try_absent(now), *self._try_seeds(now)]

    def _try_absent(self, now: float) -> list[TryAbsent]:
        """One of them in turn."""
        if not self._absent or now < self._next_absent:
            return []
        self._next_absent = now + self._timers.reconnect_s
        node_id, address = next(iter(self._absent.items()))
        del self._absent[node_id]
        if address in self._near.taken():  # another node is there now
            return []
        self._absent[node_id] = address
        return [TryAbsent(node_id, address)]

    def _try_seeds(self, now: float) -> list[TrySeed]:
        """Those that are due and needed."""
        due = [(address, seed) for address, seed in self._seeds.items() if now >= seed.due]
        taken = self._near.taken() if due else set()  # once for all: a name may stand for the whole cluster
        tries = []
        for address, seed in due:
            if self._is_needed(address, seed, taken):
                seed.due = inf
                tries.append(TrySeed(address))
            else:
                seed.due, seed.wait_s, seed.tried = now + self._timers.seed_max_s, self._timers.seed_first_s, True
        return tries

    def _is_needed(self, address: Address, seed: _Seed, taken: set[Address]) -> bool:
        """Whether nobody who is known to live is behind the seed."""
        if seed.node_id == self._near.node_id:
            return self._near.alone  # one address may stand for many nodes, and another may answer the next time
        return not (self._near.lives(seed.node_id) if seed.node_id else address in taken)
