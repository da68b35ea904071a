"""The nodes, and how they know of one another.

Responsible for: reading the cluster's actor and making plain values of it, in the words of the glossary. Refuses to
know: HTTP and lists; nothing here changes anything, asks an actor or waits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from pico import __version__
from pico.actors.cluster import Cluster
from pico.actors.runtime import depth
from pico.node.gossip_door import GossipDoor
from pico.node.status.lists import Row
from pico.node.upstream_door import UpstreamDoor
from pico.observability.metrics import NodeMetrics
from pico.protocol.cluster import Card, NodeStatus, status_of
from pico.protocol.gossip import Record
from pico.transport.clock import Clock

__all__ = ["NodePages"]


class NodePages:
    """One per node. Times are seconds; ``..._s`` that say for how long count from now backwards."""

    def __init__(
        self,
        node_id: str,
        clock: Clock,
        metrics: NodeMetrics,
        gossip_door: GossipDoor,
        upstream_door: UpstreamDoor,
        endpoints: Callable[[], int],
        ready: Callable[[], tuple[bool, str]],
    ) -> None:
        self.node_id = node_id
        self._clock = clock
        self._metrics = metrics
        self._gossip_door = gossip_door
        self._upstream_door = upstream_door
        self._endpoints = endpoints
        self._ready = ready
        self._began_at = clock.now()

    def own(self) -> Row:
        """This node."""
        ready, reason = self._ready()
        return {
            **self._own_row(self._gossip_door.actor),
            "up_s": self._for(self._began_at),
            "ready": ready,
            "reason": reason,
        }

    def names(self) -> list[str]:
        """Every node that is known, this one among them (CLUSTER-18), in order."""
        cluster = self._gossip_door.actor
        others = cluster.engine.table.members() if cluster is not None else ()
        return sorted([*others, self.node_id])

    def row(self, node_id: str) -> Row | None:
        """One of them; None for one that is not known."""
        cluster = self._gossip_door.actor
        if node_id == self.node_id:
            return self._own_row(cluster)
        record = cluster.engine.table.member(node_id) if cluster is not None else None
        return None if cluster is None or record is None else self._row(cluster, node_id, record)

    def gossip(self) -> Row:
        """How this node stands with the others."""
        cluster = self._gossip_door.actor
        if cluster is None:
            return {}
        snapshot, standing, exchanges = cluster.engine.snapshot(), cluster.standing(), self._metrics.cluster.exchanges
        return {
            "node": self.node_id,
            **_state(cluster, self.node_id),
            "inc": snapshot.record.inc,
            "joined": snapshot.joined,
            "health": snapshot.health,
            "nodes": standing.nodes,
            "absent": snapshot.absent,
            "rounds": snapshot.rounds,
            "exchanges_begun": exchanges.count("begun"),
            "exchanges_served": exchanges.count("served"),
            "exchanges_failed": exchanges.count("failed"),
            "datagrams_sent": standing.datagrams_sent,
            "datagrams_received": snapshot.received,
            "violations": snapshot.violations,
            "corrections": cluster.view.corrections,
            "mailbox": depth(cluster.actor_ref),
            "links_out": standing.links_out,
            "links_in": self._gossip_door.forwarding.links,
        }

    def gossip_rows(self) -> Iterator[Row]:
        """What is known of each of the others."""
        cluster = self._gossip_door.actor
        for node_id, record in sorted(cluster.engine.table.members().items()) if cluster is not None else ():
            assert cluster is not None
            yield {
                "node": node_id,
                "status": status_of(record, verified=cluster.engine.table.verified(node_id)).value,
                "since_s": self._since(cluster, node_id),
                "inc": record.inc,
                **_state(cluster, node_id),
                "round_trip_s": cluster.engine.detector.round_trip_s(node_id),
                "answers": cluster.engine.detector.answers(node_id),
            }

    def _own_row(self, cluster: Cluster | None) -> Row:
        record = cluster.engine.table.record if cluster is not None else Record(0)
        return {
            "node": self.node_id,
            "status": NodeStatus.ALIVE.value,
            "self": True,
            "since_s": self._for(self._began_at),
            "life": record.life,
            "inc": record.inc,
            **_told_by(cluster.card if cluster is not None else None),
            "version": __version__,
            "endpoints": self._endpoints(),
            "upstreams": self._upstream_door.upstreams,
            "in_flight": self._metrics.requests_in_flight,
            "relays": self._gossip_door.forwarding.relays,
            "draining": self._upstream_door.draining,
        }

    def _row(self, cluster: Cluster, node_id: str, record: Record) -> Row:
        engine, seen, peer = cluster.engine, cluster.view.node(node_id), cluster.upstream_of(node_id)
        return {
            "node": node_id,
            "status": status_of(record, verified=engine.table.verified(node_id)).value,
            "self": False,
            "since_s": self._since(cluster, node_id),
            "life": record.life,
            "inc": record.inc,
            **_told_by(seen.card if seen is not None else None),
            "endpoints": seen.endpoints if seen is not None else 0,
            "upstreams": seen.upstreams if seen is not None else 0,
            "draining": seen.draining if seen is not None else False,
            "standing": seen.standing.value if seen is not None else "not",
            "link": cluster.link_of(node_id),
            "forwarded": peer.in_flight if peer is not None else 0,
            "round_trip_s": engine.detector.round_trip_s(node_id),
        }

    def _since(self, cluster: Cluster, node_id: str) -> float | None:
        known = cluster.status_of(node_id)
        return None if known is None else self._for(known[1])

    def _for(self, since: float) -> float:
        return round(self._clock.now() - since, 3)


def _state(cluster: Cluster, node_id: str) -> dict[str, int]:
    """Of what a node says of itself, how much of it is here."""
    state = cluster.engine.table.state_of(node_id)
    if state is None:
        return {"life": 0, "version": 0, "floor": 0, "entries": 0}
    return {"life": state.life, "version": state.applied, "floor": state.floor, "entries": len(state.entries)}


def _told_by(card: Card | None) -> dict[str, Any]:
    """What a row takes from a card; empty for a node of which there is none."""
    return {name: getattr(card, name, "") for name in ("version", "gossip", "proxy", "upstream", "admin")}
