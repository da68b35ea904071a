"""The upstreams of this node beside those of the others: who is asked to move, and who is sent elsewhere.

Responsible for: giving the rules (``pico.protocol.rebalancing``) what the cluster's view and the upstream door know, at
regular times, and asking whom they choose. Refuses to know: the rules.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from random import Random
from typing import Final

from pico.config import NodeConfig
from pico.node.gossip_door import GossipDoor
from pico.node.upstream_door import UpstreamDoor
from pico.protocol.cluster import Standing
from pico.protocol.rebalancing import Counts, Rebalancer, choose_movers, is_better_elsewhere
from pico.transport.clock import Clock, until_tick

__all__ = ["Rebalancing"]

LOOK_S: Final = 0.5
"""From one look at the counts to the next."""

_log = logging.getLogger("pico.rebalancing")


class Rebalancing:
    """One per node; ``start``, then ``stop``."""

    def __init__(
        self,
        config: NodeConfig,
        clock: Clock,
        gossip_door: GossipDoor,
        upstream_door: UpstreamDoor,
        *,
        node_id: str,
        own: Callable[[], int],
        settled: Callable[[], bool],
        rng: Random,
    ) -> None:
        self._on = config.rebalance == "on"
        self._move_s = config.rebalance_limits.move_s
        self._clock = clock
        self._gossip_door = gossip_door
        self._upstream_door = upstream_door
        self._node_id = node_id
        self._own = own
        self._settled = settled
        self._rng = rng
        self._rebalancer = Rebalancer(config.rebalance_limits, rng)
        self._asked: dict[str, float] = {}
        self._timer = clock.timer(self._look)
        upstream_door.better_elsewhere = self._is_better_elsewhere

    def start(self) -> None:
        """Begin to look, if that is wanted."""
        if self._on:
            self._timer.start(until_tick(self._clock.now(), LOOK_S))

    def reconfigure(self, config: NodeConfig) -> None:
        """Whether to look is asked anew; how, is as it was."""
        begins = config.rebalance == "on" and not self._on
        self._on = config.rebalance == "on"
        if begins:
            self.start()
        elif not self._on:
            self.stop()

    def stop(self) -> None:
        """Ask nobody any more."""
        self._timer.stop()

    def _look(self) -> None:
        now = self._clock.now()
        self._timer.start(until_tick(now, LOOK_S))
        if not self._own():  # nothing that could be too much
            self._rebalancer.rest()
            return
        counts, calm = self._counts()
        wanted = self._rebalancer.decide(counts, pending=self._pending(now), calm=calm, now=now)
        if not wanted:
            return
        movable = [(one.id, one.endpoint_id) for one in self._upstream_door.movable()]
        chosen = choose_movers(movable, wanted, self._rng)
        _log.info("%d upstreams here, %.1f on average: %d are asked to move", counts.own, counts.mean, len(chosen))
        for upstream_id in chosen:
            self._asked[upstream_id] = now
            self._upstream_door.move(upstream_id)

    def _pending(self, now: float) -> int:
        """How many were asked of late and get requests here still."""
        find = self._upstream_door.find
        self._asked = {
            upstream_id: at
            for upstream_id, at in self._asked.items()
            if at + self._move_s > now and (one := find(upstream_id)) is not None and not one.leaving
        }
        return len(self._asked)

    def _counts(self) -> tuple[Counts, bool]:
        """What everybody has, and whether the cluster is calm."""
        cluster = self._gossip_door.actor
        nodes = cluster.view.nodes() if cluster is not None else {}
        others = {name: node.upstreams for name, node in nodes.items() if node.standing is Standing.ROUTABLE}
        troubled = any(
            not node.condition.gone and (node.condition.suspect or node.condition.lowered) for node in nodes.values()
        )
        return Counts(self._own(), others), self._settled() and not troubled

    def _is_better_elsewhere(self, named: Sequence[str]) -> bool:
        counts, _ = self._counts()
        return is_better_elsewhere(counts, named, self._node_id, by_share=self._on)
