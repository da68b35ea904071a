"""The upstreams of this node, by endpoint.

Responsible for: one ``EndpointPool`` actor per endpoint that has a local upstream, and the ``Endpoints`` actor that
starts and stops them. Refuses to know: who reads what they publish (``pico.actors.routes``), how an upstream is chosen
(``pico.protocol.routing``) and what travels on it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pykka

from pico.actors.messages import PoolFailed, UpstreamJoined, UpstreamLeft
from pico.actors.routes import Routes
from pico.actors.runtime import GeventActor, tell
from pico.actors.upstream import Upstream
from pico.protocol.routing import BALANCERS

__all__ = ["EndpointPool", "Endpoints"]


class EndpointPool(GeventActor):
    """The upstreams of one endpoint; publishes a new balancer after each change."""

    def __init__(
        self,
        endpoint_id: str,
        balance: str,
        routes: Routes,
        on_failure: Callable[[str], None],
        upstreams: tuple[Upstream, ...] = (),
    ) -> None:
        super().__init__()
        self._endpoint_id = endpoint_id
        self._balancer_type = BALANCERS[balance]
        self._routes = routes
        self._on_failure = on_failure
        self._balancer = self._balancer_type(upstreams)

    def on_start(self) -> None:
        """Publish what a pool before this one has left."""
        self._routes.publish(self._endpoint_id, self._balancer)

    def on_receive(self, message: Any) -> None:
        """Take a change of membership."""
        upstreams = tuple(one for one in self._balancer.candidates if one is not message.upstream)
        if isinstance(message, UpstreamJoined):
            upstreams = (*upstreams, message.upstream)
        self._balancer = self._balancer_type(upstreams, self._balancer.turn)
        self._routes.publish(self._endpoint_id, self._balancer)

    def on_exit(self, reason: BaseException | None) -> None:
        """A pool that failed is replaced by its owner."""
        if reason is not None:
            self._on_failure(self._endpoint_id)


@dataclass(slots=True)
class _Pool:
    ref: pykka.ActorRef[EndpointPool]
    members: dict[Upstream, None]


class Endpoints(GeventActor):
    """Owns the pools: starts one with an endpoint's first upstream, stops it after the last has left."""

    def __init__(self, routes: Routes, balance: str) -> None:
        super().__init__()
        self._routes = routes
        self._balance = balance
        self._pools: dict[str, _Pool] = {}

    def on_start(self) -> None:
        """Whoever registered before has to register again."""
        self._routes.clear()

    def on_receive(self, message: Any) -> None:
        """Pass a change of membership to the pool of its endpoint; replace a pool that failed."""
        if isinstance(message, UpstreamJoined):
            self._join(message)
        elif isinstance(message, UpstreamLeft):
            self._leave(message)
        elif isinstance(message, PoolFailed):
            self._replace(message.endpoint_id)

    def on_exit(self, reason: BaseException | None) -> None:
        """Stop every pool."""
        for pool in self._pools.values():
            pool.ref.stop(block=False)

    def _join(self, message: UpstreamJoined) -> None:
        upstream = message.upstream
        pool = self._pools.get(upstream.endpoint_id)
        if pool is None:
            pool = self._pools[upstream.endpoint_id] = _Pool(self._start_pool(upstream.endpoint_id), {})
        pool.members[upstream] = None
        tell(pool.ref, message)

    def _leave(self, message: UpstreamLeft) -> None:
        endpoint_id = message.upstream.endpoint_id
        pool = self._pools.get(endpoint_id)
        if pool is None or message.upstream not in pool.members:
            return
        del pool.members[message.upstream]
        tell(pool.ref, message)
        if not pool.members:
            del self._pools[endpoint_id]
            pool.ref.stop(block=False)

    def _replace(self, endpoint_id: str) -> None:
        pool = self._pools.get(endpoint_id)
        if pool is not None and not pool.ref.is_alive():
            pool.ref = self._start_pool(endpoint_id, tuple(pool.members))

    def _start_pool(self, endpoint_id: str, upstreams: tuple[Upstream, ...] = ()) -> pykka.ActorRef[EndpointPool]:
        return EndpointPool.start(endpoint_id, self._balance, self._routes, self._pool_failed, upstreams)

    def _pool_failed(self, endpoint_id: str) -> None:
        tell(self.actor_ref, PoolFailed(endpoint_id))
