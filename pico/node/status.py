"""What a node says of itself and of the cluster to whoever operates it.

Responsible for: reading the parts of one node and making plain values of them, in the words of the glossary. Refuses to
know: HTTP, JSON and tables; nothing here changes anything, asks an actor or waits.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from pico import __version__
from pico.actors.cluster import Cluster
from pico.actors.runtime import depth
from pico.node.gossip_door import GossipDoor
from pico.node.upstream_door import UpstreamDoor
from pico.observability.admin import Answer, Request, Route, json_answer, reads
from pico.observability.metrics import NodeMetrics
from pico.protocol.cluster import Card, NodeStatus, NodeView, status_of
from pico.protocol.gossip import Record
from pico.transport.clock import Clock

__all__ = ["Status"]

Value = dict[str, Any] | list[dict[str, Any]]


class Status:
    """One per node. Times are seconds; ``..._s`` that say for how long count from now backwards."""

    def __init__(
        self,
        node_id: str,
        clock: Clock,
        metrics: NodeMetrics,
        gossip_door: GossipDoor,
        upstream_door: UpstreamDoor,
        ready: Callable[[], tuple[bool, str]],
    ) -> None:
        self._node_id = node_id
        self._clock = clock
        self._metrics = metrics
        self._gossip_door = gossip_door
        self._upstream_door = upstream_door
        self._ready = ready
        self._began_at = clock.now()

    def routes(self) -> tuple[Route, ...]:
        """What of it is told at the admin door."""
        pages = {
            "node": self.node,
            "nodes": self.nodes,
            "endpoints": self.endpoints,
            "upstreams": self.upstreams,
            "gossip": self.gossip,
        }
        return tuple(reads(f"/status/{name}", partial(_page, page)) for name, page in pages.items())

    def node(self) -> Value:
        """This node."""
        ready, reason = self._ready()
        upstreams = self._upstream_door.registered()
        return {
            "node": self._node_id,
            "version": __version__,
            "up_s": round(self._clock.now() - self._began_at, 3),
            "ready": ready,
            "reason": reason,
            "upstreams": len(upstreams),
            "endpoints": len({upstream.endpoint_id for upstream in upstreams}),
            "requests_in_flight": self._metrics.requests_in_flight,
            "relays_in_flight": self._gossip_door.forwarding.relays,
        }

    def nodes(self) -> Value:
        """Every node that is known, this one first (CLUSTER-17)."""
        cluster = self._gossip_door.actor
        if cluster is None:
            return []
        seen = cluster.view.nodes()
        others = sorted(cluster.engine.table.members().items())
        rows = (self._row(cluster, node_id, record, seen.get(node_id)) for node_id, record in others)
        return [self._own_row(cluster), *rows]

    def endpoints(self) -> Value:
        """Every endpoint that somebody has, with the nodes that have it."""
        cluster = self._gossip_door.actor
        places: dict[str, dict[str, int]] = {}
        for upstream in self._upstream_door.registered():
            here = places.setdefault(upstream.endpoint_id, {})
            here[self._node_id] = here.get(self._node_id, 0) + 1
        for endpoint_id, elsewhere in cluster.view.places.items() if cluster is not None else ():
            places.setdefault(endpoint_id, {}).update(elsewhere)
        return [
            {"endpoint": endpoint_id, "upstreams": sum(nodes.values()), "nodes": nodes}
            for endpoint_id, nodes in sorted(places.items())
        ]

    def upstreams(self) -> Value:
        """Every tunnel that is registered here."""
        now = self._clock.now()
        return [
            {
                "upstream": upstream.id,
                "endpoint": upstream.endpoint_id,
                "address": upstream.address,
                "agent": upstream.agent,
                "protocol": "streaming" if upstream.streaming else "base",
                "up_s": round(now - upstream.since, 3),
                "in_flight": upstream.in_flight,
                "leaving": upstream.leaving,
                "bytes_received": upstream.multiplexer.bytes_received,
                "bytes_sent": upstream.multiplexer.bytes_sent,
                "round_trip_s": upstream.multiplexer.engine.round_trip_s,
            }
            for upstream in self._upstream_door.registered()
        ]

    def gossip(self) -> Value:
        """How this node stands with the others."""
        cluster = self._gossip_door.actor
        if cluster is None:
            return {}
        snapshot, own = cluster.engine.snapshot(), cluster.engine.table.own
        return {
            "life": own.life,
            "inc": snapshot.record.inc,
            "version": own.applied,
            "floor": own.floor,
            "entries": len(own.entries),
            "joined": snapshot.joined,
            "health": snapshot.health,
            "absent": snapshot.absent,
            "datagrams_received": snapshot.received,
            "violations": snapshot.violations,
            "mailbox": depth(cluster.actor_ref),
            "links_out": cluster.links_out,
            "links_in": self._gossip_door.forwarding.links,
        }

    def _own_row(self, cluster: Cluster) -> dict[str, Any]:
        return {
            "node": self._node_id,
            "status": NodeStatus.ALIVE.value,
            "self": True,
            "life": cluster.engine.table.own.life,
            **_told_by(cluster.card),
            "endpoints": len({upstream.endpoint_id for upstream in self._upstream_door.registered()}),
        }

    @staticmethod
    def _row(cluster: Cluster, node_id: str, record: Record, seen: NodeView | None) -> dict[str, Any]:
        engine = cluster.engine
        return {
            "node": node_id,
            "status": status_of(record, verified=engine.table.verified(node_id)).value,
            "self": False,
            "life": record.life,
            **_told_by(seen.card if seen is not None else None),
            "endpoints": seen.endpoints if seen is not None else 0,
            "standing": seen.standing.value if seen is not None else "not",
            "draining": seen.draining if seen is not None else False,
            "link": cluster.link_of(node_id),
            "round_trip_s": engine.detector.round_trip_s(node_id),
        }


def _page(page: Callable[[], Value], request: Request) -> Answer:
    request.allow()
    return json_answer(page())


def _told_by(card: Card | None) -> dict[str, str]:
    """What a row takes from a card; empty for a node of which there is none."""
    return {name: getattr(card, name, "") for name in ("version", "gossip", "proxy", "upstream", "admin")}
