"""What every proxy request of a node shares.

Responsible for: being the one argument that carries it, the name and the date of a request, and what is noted of one
that has ended: counts, a row of the recent requests, a line of the access log, a span. Refuses to know: how a request
comes to its end, and how what is carried works.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from email.utils import formatdate
from itertools import count
from math import inf
from typing import TYPE_CHECKING, Protocol

from pico.actors.routes import Routes
from pico.actors.spares import Spares
from pico.config import NodeConfig
from pico.observability.access_log import AccessLog
from pico.observability.metrics import NodeMetrics
from pico.observability.recent import Recent
from pico.protocol.http import Request, TrustedProxies, endpoint_of, trace_id_of
from pico.transport.clock import Clock
from pico.transport.deadlines import Deadlines

if TYPE_CHECKING:
    from pico.actors.proxy_request import Client, ProxyExchange
    from pico.observability.tracing import Traced, Tracing
    from pico.protocol.http import RequestRejected

__all__ = ["RequestServices"]


class Connection(Protocol):
    """A client connection, as far as it is drained, and noted where what came on it was no valid request."""

    host: str
    scheme: str
    tls_version: str

    @property
    def idle(self) -> bool:
        """Whether nothing is in progress, and another request may come."""

    @property
    def may_ask(self) -> bool:
        """Whether another request may come, or is on its way."""

    def last_call(self) -> None:
        """The node drains: one more request may come for a while, then end it."""

    def shut_down(self) -> None:
        """End it now."""


class RequestServices:
    """One per node."""

    def __init__(
        self,
        config: NodeConfig,
        clock: Clock,
        routes: Routes,
        metrics: NodeMetrics,
        access_log: AccessLog,
        *,
        node_id: str,
        request_id_prefix: str,
        time_of_day: Callable[[], float] = time.time,
        tracing: Tracing | None = None,
    ) -> None:
        self.clock = clock
        self.tracing = tracing
        self.routes = routes
        self.metrics = metrics
        self.access_log = access_log
        self.recent = Recent(clock.now, time_of_day)
        self.node_id = node_id
        self.deadlines = Deadlines(clock)
        self.reconfigure(config)
        self.via = f"1.1 {node_id}".encode()
        self.draining = False
        self.leaving = False  # no connection is kept any more
        self.connections: dict[Connection, None] = {}
        self.spares = Spares(clock, lambda: metrics.connections_given_up.add("proxy"))
        """Client connections on which no request is in progress."""
        self._time_of_day = time_of_day
        self._request_id_form = request_id_prefix.replace("%", "%%") + "-%x"
        self._request_numbers = count(1)
        self._date_until = -inf
        self._date = b""

    def reconfigure(self, config: NodeConfig) -> None:
        """What counts for the next request, and of the timers for what begins from now on."""
        self.timers = config.http_timers
        self.http_limits = config.http_limits
        self.attempts_max = config.attempts_max
        self.abort_on_close = config.abort_on_close == "on"
        self.trusted_proxies = TrustedProxies(config.trusted_proxies)

    def new_request_id(self) -> str:
        """A name for one request, unique over nodes and restarts."""
        return self._request_id_form % next(self._request_numbers)

    def trace(self, request: Request, client: Client, client_host: str, request_id: str) -> Traced | None:
        """Begin the request's span where somebody wants it; ``request_finished`` ends it."""
        if self.tracing is None:
            return None
        return self.tracing.request_came(
            request.method,
            request.field_block(),
            {
                "url.scheme": client.scheme,
                "server.address": request.authority.decode("latin-1"),
                "client.address": client_host,
                "network.protocol.version": f"1.{request.minor}",
                "user_agent.original": request.user_agent.decode("latin-1"),
                "pico.node": self.node_id,
                "pico.request_id": request_id,
            },
        )

    def request_finished(
        self, request: Request, client: Client, exchange: ProxyExchange, outcome: str, now: float
    ) -> None:
        """Count a request that has ended, keep it for a while and log it: the one place for all that were valid."""
        total_s = now - exchange.began_at
        upstream_id, peer_id = exchange.gone_to
        self.metrics.request_finished(
            request.method, exchange.status, total_s, exchange.upstream_s, exchange.bytes_in, exchange.bytes_out
        )
        self.recent.finished(
            now,
            exchange.request_id,
            exchange.endpoint_id,
            exchange.client_host,
            request.method,
            request.target,
            exchange.status,
            outcome,
            total_s,
            exchange.upstream_s,
            exchange.bytes_in,
            exchange.bytes_out,
            upstream_id,
            peer_id,
            exchange.reason,
        )
        if exchange.traced is not None and self.tracing is not None:
            self.tracing.ended(
                exchange.traced,
                exchange.status,
                outcome,
                {"pico.endpoint": exchange.endpoint_id, "pico.upstream": upstream_id, "pico.peer": peer_id},
            )
        if self.access_log.enabled:
            self.access_log.record(
                exchange.request_id,
                exchange.client_host,
                client.scheme,
                request.authority,
                exchange.endpoint_id,
                request.method,
                request.target,
                exchange.status,
                exchange.bytes_in,
                exchange.bytes_out,
                total_s,
                exchange.upstream_s,
                upstream_id,
                peer_id,
                outcome,
                client.tls_version,
                request.user_agent,
                trace_id_of(request.traceparent) if request.traceparent else "",
                request.minor,
            )

    def request_rejected(
        self, client: Connection, rejected: RequestRejected, request_id: str, total_s: float, now: float
    ) -> None:
        """Count, keep and log what was not a valid request, with as much of it as could be read."""
        failure = rejected.failure
        request = rejected.request or Request()
        client_host = self.trusted_proxies.client_of(request, client.host)
        named = endpoint_of(request)
        endpoint_id = named if isinstance(named, str) else ""
        self.metrics.request_started()
        self.metrics.parse_rejects.add(failure.code)
        # How long a client takes over its head is not how long requests take.
        self.metrics.request_finished(request.method, failure.status, 0.0, 0.0, 0, 0)
        self.recent.finished(
            now,
            request_id,
            endpoint_id,
            client_host,
            request.method,
            request.target,
            failure.status,
            failure.code,
            total_s,
            0.0,
            0,
            0,
            "",
            "",
            str(rejected),
        )
        if self.access_log.enabled:
            self.access_log.record(
                request_id,
                client_host,
                client.scheme,
                request.authority,
                endpoint_id,
                request.method,
                request.target,
                failure.status,
                0,
                0,
                total_s,
                0.0,
                "",
                "",
                failure.code,
                client.tls_version,
                request.user_agent,
                trace_id_of(request.traceparent) if request.traceparent else "",
                request.minor,
            )

    def date(self, now: float) -> bytes:
        """The value of a ``Date`` field at ``now`` on the services' clock (RFC 9110 §5.6.7)."""
        if now >= self._date_until:
            time_of_day = self._time_of_day()
            self._date_until = now + 1.0 - time_of_day % 1.0
            self._date = formatdate(time_of_day, usegmt=True).encode()
        return self._date
