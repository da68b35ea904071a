"""The endpoints of the cluster, and the upstreams of this node.

Responsible for: reading the routes, the upstream door and the counters, and making plain values of them. Refuses to
know: HTTP and lists; nothing here changes anything, asks an actor or waits.
"""

from __future__ import annotations

from pico.actors.routes import Routes
from pico.actors.upstream import Upstream
from pico.node.status.lists import Row
from pico.node.upstream_door import UpstreamDoor
from pico.observability.recent import Recent
from pico.transport.clock import Clock

__all__ = ["EndpointPages"]


class EndpointPages:
    """One per node."""

    def __init__(self, node_id: str, clock: Clock, routes: Routes, upstream_door: UpstreamDoor, recent: Recent) -> None:
        self._node_id = node_id
        self._clock = clock
        self._routes = routes
        self._upstream_door = upstream_door
        self._recent = recent
        self._names: list[str] = []
        self._names_of = -1  # the state of the routes

    def names(self) -> list[str]:
        """Every endpoint that somebody has, in order; sorted anew only when one has come or gone."""
        routes = self._routes
        if self._names_of != routes.changes:
            self._names_of = routes.changes
            now = {*routes.here(), *routes.elsewhere()}
            kept = [name for name in self._names if name in now]
            # Nearly in order already, which sorting makes use of.
            self._names = sorted([*kept, *sorted(now.difference(kept))])
        return self._names

    def names_here(self) -> list[str]:
        """Those that this node has, in order."""
        here = self._routes.here()
        return [name for name in self.names() if name in here]

    def row(self, endpoint_id: str) -> Row | None:
        """One of them; None for one that nobody has."""
        upstreams, places = self._routes.upstreams_of(endpoint_id), self._routes.places_of(endpoint_id)
        if not upstreams and not places:
            return None
        nodes = {self._node_id: len(upstreams)} if upstreams else {}
        nodes.update(places)
        counter = self._recent.of(endpoint_id)
        requests_per_s, errors_per_s = counter.rates(self._clock.now()) if counter is not None else (0.0, 0.0)
        return {
            "endpoint": endpoint_id,
            "upstreams": sum(nodes.values()),
            "nodes": nodes,
            "in_flight": self._upstream_door.in_flight_of(endpoint_id),
            "requests": counter.requests if counter is not None else 0,
            "errors": counter.errors if counter is not None else 0,
            "requests_per_s": round(requests_per_s, 3),
            "errors_per_s": round(errors_per_s, 3),
        }

    def upstream_names(self) -> list[str]:
        """Every tunnel that is registered here, in the order in which they came."""
        return self._upstream_door.ids()

    def upstream_names_of(self, endpoint_id: str) -> list[str]:
        """Those of one endpoint, in the same order."""
        return self._upstream_door.ids_of(endpoint_id)

    def upstream(self, upstream_id: str) -> Row | None:
        """One of them; None for one that has gone."""
        upstream = self._upstream_door.find(upstream_id)
        return None if upstream is None else self._upstream_row(upstream)

    def _upstream_row(self, upstream: Upstream) -> Row:
        round_trip_s = upstream.multiplexer.engine.round_trip_s
        return {
            "upstream": upstream.id,
            "endpoint": upstream.endpoint_id,
            "address": upstream.address,
            "agent": upstream.agent,
            "protocol": "streaming" if upstream.streaming else "base",
            "up_s": round(self._clock.now() - upstream.since, 3),
            "in_flight": upstream.in_flight,
            "leaving": upstream.leaving or upstream.multiplexer.engine.goaway_sent,
            "bytes_received": upstream.multiplexer.bytes_received,
            "bytes_sent": upstream.multiplexer.bytes_sent,
            "round_trip_s": round_trip_s,
        }
