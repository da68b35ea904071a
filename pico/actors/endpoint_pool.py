"""The upstreams of this node, by endpoint.

Responsible for: one ``EndpointPool`` actor per endpoint that has a local upstream, the ``Endpoints`` actor that starts
and stops them, and the ``Routes`` that they publish and every request reads. Refuses to know: how an upstream is
chosen (``pico.protocol.routing``) and what travels on it.

Messages change things, snapshots are read: a request never asks an actor where to go.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Final

import pykka

from pico.actors.messages import EndpointAppeared, PoolFailed, UpstreamJoined, UpstreamLeft
from pico.actors.runtime import GeventActor, tell
from pico.protocol.routing import BALANCERS, Balancer
from pico.transport.clock import Clock
from pico.transport.multiplexer import Multiplexer

__all__ = ["EndpointPool", "Endpoints", "Routes", "Upstream"]

VANISHED_MAX: Final = 10_000
"""Endpoints without an upstream that are remembered, so that a request may wait for their return."""

WAITERS_MAX: Final = 10_000
"""Requests that wait for an endpoint at one time, over all endpoints."""


class Upstream:
    """One registered connection from a service, as requests see it."""

    __slots__ = ("address", "agent", "endpoint_id", "id", "multiplexer", "since", "streaming")

    def __init__(
        self,
        id_: str,
        endpoint_id: str,
        multiplexer: Multiplexer,
        *,
        streaming: bool,
        address: str,
        agent: str,
        since: float,
    ) -> None:
        self.id = id_
        self.endpoint_id = endpoint_id
        self.multiplexer = multiplexer
        self.streaming = streaming
        self.address = address
        self.agent = agent
        self.since = since

    @property
    def in_flight(self) -> int:
        """Streams that have not ended."""
        return self.multiplexer.in_flight

    @property
    def may_open(self) -> bool:
        """Whether it takes another stream now."""
        return self.multiplexer.may_open

    @property
    def leaving(self) -> bool:
        """Whether it will take no stream any more, though its pool may not know yet."""
        return self.multiplexer.leaving


class Routes:
    """What pools have published: endpoint → balancer. Read by every request; written only by ``Endpoints``."""

    def __init__(self, clock: Clock, endpoint_wait_s: float, requests_max: int) -> None:
        self._clock = clock
        self._endpoint_wait_s = endpoint_wait_s
        self._requests_max = requests_max  # in flight for one endpoint
        self._balancers: dict[str, Balancer[Upstream]] = {}
        self._vanished: dict[str, float] = {}
        self._waiters: dict[str, list[pykka.ActorRef[Any]]] = {}
        self._waiting = 0

    def choose(self, endpoint_id: str, tried: Collection[Upstream] = ()) -> Upstream | None:
        """The upstream for a request, or None when none takes it now."""
        balancer = self._balancers.get(endpoint_id)
        if balancer is None or balancer.in_flight >= self._requests_max:
            return None
        return balancer.choose(tried)

    def knows(self, endpoint_id: str) -> bool:
        """Whether an upstream is registered for the endpoint, busy or not; one about to leave the pool does not count.

        A request that was lost with its tunnel, or crossed a goaway, asks before the pool has heard of either.
        """
        balancer = self._balancers.get(endpoint_id)
        return balancer is not None and not all(one.leaving for one in balancer.candidates)

    def wait(self, endpoint_id: str, waiter: pykka.ActorRef[Any]) -> float:
        """Until when ``waiter`` waits for an endpoint that vanished moments ago; 0.0 when it should not (ROUTING-7).

        It is told ``EndpointAppeared`` when the endpoint is back.
        """
        leaves_now = endpoint_id in self._balancers and not self.knows(endpoint_id)
        vanished_at = self._clock.now() if leaves_now else self._vanished.get(endpoint_id)
        until = 0.0 if vanished_at is None else vanished_at + self._endpoint_wait_s
        if until <= self._clock.now() or self._waiting >= WAITERS_MAX:
            return 0.0
        self._waiters.setdefault(endpoint_id, []).append(waiter)
        self._waiting += 1
        return until

    def publish(self, endpoint_id: str, balancer: Balancer[Upstream]) -> None:
        """Replace what is known of one endpoint; a balancer without candidates removes it."""
        if balancer.candidates:
            self._balancers[endpoint_id] = balancer
            self._vanished.pop(endpoint_id, None)
            self._wake(endpoint_id)
        elif self._balancers.pop(endpoint_id, None) is not None:
            self._remember(endpoint_id)

    def clear(self) -> None:
        """Nothing is registered any more."""
        for endpoint_id in list(self._balancers):
            del self._balancers[endpoint_id]
            self._remember(endpoint_id)

    @property
    def endpoints(self) -> int:
        """Endpoints with at least one upstream."""
        return len(self._balancers)

    @property
    def streams(self) -> int:
        """Streams open on all upstreams that may be chosen."""
        return sum(one.in_flight for balancer in self._balancers.values() for one in balancer.candidates)

    def _wake(self, endpoint_id: str) -> None:
        waiters = self._waiters.pop(endpoint_id, [])
        self._waiting -= len(waiters)
        for waiter in waiters:
            tell(waiter, EndpointAppeared())

    def _remember(self, endpoint_id: str) -> None:
        self._vanished.pop(endpoint_id, None)
        self._vanished[endpoint_id] = self._clock.now()
        while len(self._vanished) > VANISHED_MAX:
            del self._vanished[next(iter(self._vanished))]

    def stop_waiting(self, endpoint_id: str, waiter: pykka.ActorRef[Any]) -> None:
        """Forget a waiter whose time has passed or whose client has gone."""
        waiters = self._waiters.get(endpoint_id, [])
        if waiter in waiters:
            waiters.remove(waiter)
            self._waiting -= 1
            if not waiters:
                del self._waiters[endpoint_id]


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
    members: dict[int, Upstream]


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
        pool.members[id(upstream)] = upstream
        tell(pool.ref, message)

    def _leave(self, message: UpstreamLeft) -> None:
        endpoint_id = message.upstream.endpoint_id
        pool = self._pools.get(endpoint_id)
        if pool is None or pool.members.pop(id(message.upstream), None) is None:
            return
        tell(pool.ref, message)
        if not pool.members:
            del self._pools[endpoint_id]
            pool.ref.stop(block=False)

    def _replace(self, endpoint_id: str) -> None:
        pool = self._pools.get(endpoint_id)
        if pool is not None and not pool.ref.is_alive():
            pool.ref = self._start_pool(endpoint_id, tuple(pool.members.values()))

    def _start_pool(self, endpoint_id: str, upstreams: tuple[Upstream, ...] = ()) -> pykka.ActorRef[EndpointPool]:
        return EndpointPool.start(endpoint_id, self._balance, self._routes, self._pool_failed, upstreams)

    def _pool_failed(self, endpoint_id: str) -> None:
        tell(self.actor_ref, PoolFailed(endpoint_id))
