"""Counters, gauges and histograms of a node and of an agent.

Responsible for: their names, their meaning, and their text at ``/metrics``. Refuses to know: who serves that text, and
where the things counted happen.

On the hot path there are plain integers: everything runs in one thread, and a labelled counter of prometheus_client
costs more than parsing a small request does. Families are built when somebody scrapes. Label values come from closed
sets; what is not in the set counts as ``other`` (methods: ``OTHER``), so no visitor can add a time series.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from pico.observability.actor_metrics import ActorMetrics
from pico.observability.cluster_metrics import ClusterMetrics
from pico.observability.endpoint_metrics import EndpointMetrics
from pico.observability.history import Totals
from pico.observability.process_metrics import ProcessMetrics
from pico.observability.reload_metrics import ReloadMetrics
from pico.observability.rendering import COUNTED_AT_ONCE, text_of
from pico.observability.tally import ANY_REASON, Tally

__all__ = [
    "DURATION_BOUNDS_S",
    "HANDSHAKE_RESULTS",
    "METHODS",
    "PROTOCOLS",
    "TUNNEL_END_REASONS",
    "AgentMetrics",
    "Histogram",
    "NodeMetrics",
    "Tally",
]

Gauge = Callable[[], float]
"""Reads a value at scrape time from whoever owns it."""

DURATION_BOUNDS_S: Final = (
    # OpenTelemetry's advice for HTTP durations (0.005 to 10), finer below for a proxy, wider above for long polls.
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 30.0, 60.0, 300.0,
)  # fmt: skip

HANDSHAKE_RESULTS: Final = (
    "accepted", "bad_request", "invalid_endpoint", "not_found", "draining", "too_many", "elsewhere", "timeout", "lost",
)  # fmt: skip

LISTENERS: Final = ("proxy", "upstream", "gossip")
"""The doors of a node whose connections are counted."""

TLS_LISTENERS: Final = ("proxy", "upstream", "admin")
"""Who can be given a certificate; between nodes there is no TLS."""

PROTOCOLS: Final = ("http", "rpc", "websocket", "channel")

TUNNEL_END_REASONS: Final = (
    "connect_failed", "refused", "goaway", "moved", "closed", "lost", "silent", "protocol_error", "failed",
)  # fmt: skip

METHODS: Final = ("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH")
"""Those that are told by name; a visitor may make up others."""

_METHODS: Final = {name.encode(): name for name in METHODS}
_ANY_METHOD: Final = "OTHER"


def _zero() -> float:
    return 0.0


class Histogram:
    """How often a duration was at most so long."""

    __slots__ = ("_counts", "_sum_s")

    def __init__(self) -> None:
        self._counts = [0] * (len(DURATION_BOUNDS_S) + 1)
        self._sum_s = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        self._counts[bisect_left(DURATION_BOUNDS_S, seconds)] += 1
        self._sum_s += seconds

    def counts(self) -> list[int]:
        """How many so far, bucket by bucket; the last one is of what exceeded every bound."""
        return list(self._counts)

    def family(self, name: str, documentation: str) -> Metric:
        """What Prometheus gets: counts add up from bound to bound."""
        bounds = [*(f"{bound:g}" for bound in DURATION_BOUNDS_S), "+Inf"]
        buckets = list(zip(bounds, accumulate(self._counts), strict=True))
        return HistogramMetricFamily(name, documentation, buckets=buckets, sum_value=self._sum_s)


class _Metrics:
    """What a node and an agent have in common."""

    __slots__ = (
        "_process",
        "_request_s",
        "_upstream_s",
        "access_log_dropped",
        "actor_restarts",
        "actors",
        "bytes_in",
        "bytes_out",
        "failures",
        "hub_blocked_s",
        "late_messages",
        "protocol_errors",
        "ready",
        "reloads",
        "requests_in_flight",
        "streams",
    )

    def __init__(self, version: str, failure_codes: Iterable[str], actors: Iterable[str]) -> None:
        self.bytes_in = 0
        self.bytes_out = 0
        self.requests_in_flight = 0
        self.failures = Tally(failure_codes)
        self.protocol_errors = Tally(PROTOCOLS)
        self.actor_restarts = Tally(actors)
        self.late_messages = 0
        self.hub_blocked_s = 0.0
        self.access_log_dropped: Gauge = _zero
        self.reloads = ReloadMetrics()
        self.actors = ActorMetrics()
        self.ready: Gauge = _zero
        self.streams: Callable[[], Iterable[int]] = tuple
        """Streams open on one tunnel after the other."""
        self._request_s = Histogram()
        self._upstream_s = Histogram()
        self._process = ProcessMetrics(version)

    def request_started(self) -> None:
        """A request has been read; ``request_finished`` must follow."""
        self.requests_in_flight += 1

    def request_failed(self, code: str) -> None:
        """A request ended with this failure of our own; counted beside ``request_finished``."""
        self.failures.add(code)

    def connection_ended(self, late_messages: int, violated: str) -> None:
        """A tunnel or link is over: what came on it too late, and the protocol that its peer broke, if it did."""
        self.late_messages += late_messages
        if violated:
            self.protocol_errors.add(violated)

    def hub_blocked(self, seconds: float) -> None:
        """The hub ran late by so much."""
        self.hub_blocked_s += seconds

    def render(self) -> bytes:
        """Prometheus' text format 0.0.4, in one go."""
        return b"".join(self.slices())

    def slices(self) -> Iterator[bytes]:
        """The same in pieces, whose making takes some hundred microseconds each, however much there is to tell."""
        for family in self.collect():
            yield text_of(family)
        yield from self._counted()

    def _counted(self) -> Iterator[bytes]:
        """What takes longer the more of it there is."""
        streams = 0
        for number, open_streams in enumerate(self.streams()):
            streams += open_streams
            if number % COUNTED_AT_ONCE == 0:
                yield b""
        yield text_of(GaugeMetricFamily("pico_streams", "Streams open in all tunnels together.", streams))
        yield from self.actors.slices()

    def collect(self) -> Iterator[Metric]:
        """What costs little; each kind of process adds its own."""
        yield GaugeMetricFamily("pico_ready", "1 while new work is welcome.", self.ready())
        yield GaugeMetricFamily(
            "pico_requests_in_flight", "Requests that have begun and not ended.", self.requests_in_flight
        )
        yield self._bytes()
        yield self.failures.family("pico_request_failures_total", "Requests that failed on the way.", "reason")
        yield self.protocol_errors.family(
            "pico_protocol_errors_total", "Connections ended because the peer broke a protocol.", "protocol"
        )
        yield CounterMetricFamily(
            "pico_rpc_late_messages_total", "Messages for streams that had ended already.", self.late_messages
        )
        yield self.actor_restarts.family("pico_actor_restarts_total", "Restarts of parts by a supervisor.", "actor")
        yield CounterMetricFamily(
            "pico_hub_blocked_seconds_total", "Time by which the event loop ran late.", self.hub_blocked_s
        )
        yield CounterMetricFamily(
            "pico_access_log_dropped_total", "Access log lines lost to a slow writer.", self.access_log_dropped()
        )
        yield from self.reloads.collect()
        yield from self._process.collect()

    def _bytes(self) -> Metric:
        family = CounterMetricFamily(
            "pico_bytes_total", "Body bytes of requests (in) and of responses (out).", labels=["direction"]
        )
        family.add_metric(["in"], self.bytes_in)
        family.add_metric(["out"], self.bytes_out)
        return family


class NodeMetrics(_Metrics):
    """Of one node. Integers are counted up by whoever knows; gauges are set once by their owner."""

    __slots__ = (
        "_node_id",
        "_requests",
        "_version",
        "base_waiting_bytes",
        "by_endpoint",
        "calls_shed",
        "client_connections",
        "client_connections_max",
        "cluster",
        "connection_failures",
        "connections",
        "connections_given_up",
        "endpoints",
        "forwarded_in",
        "forwarded_out",
        "handshakes",
        "moves",
        "parse_rejects",
        "proxy_headers",
        "relays_in_flight",
        "requests_waiting",
        "retries",
        "tls_handshake_failures",
        "tls_not_after",
        "unfinished_bytes",
        "upstreams",
        "upstreams_max",
        "upstreams_shed",
    )

    def __init__(
        self,
        *,
        node_id: str,
        version: str,
        failure_codes: Iterable[str],
        actors: Iterable[str] = (),
        endpoint_series_max: int = 0,
    ) -> None:
        codes = tuple(failure_codes)
        super().__init__(version, codes, actors)
        self._node_id = node_id
        self._version = version
        self._requests: dict[tuple[bytes, int], int] = {}
        self.retries = 0
        self.moves = 0
        self.upstreams_shed = 0
        self.calls_shed = 0
        self.cluster = ClusterMetrics()
        self.by_endpoint = EndpointMetrics(endpoint_series_max)
        self.forwarded_in = 0
        self.forwarded_out = 0
        self.parse_rejects = Tally(codes)
        self.handshakes = Tally(HANDSHAKE_RESULTS)
        self.proxy_headers = Tally(("accepted", "refused", "lost"))
        self.connections = Tally(LISTENERS)
        self.connections_given_up = Tally(LISTENERS)
        self.connection_failures = Tally(LISTENERS)
        self.tls_handshake_failures = Tally(TLS_LISTENERS)
        self.client_connections: Gauge = _zero
        self.client_connections_max = 0
        self.endpoints: Gauge = _zero
        self.relays_in_flight: Gauge = _zero
        self.requests_waiting: Gauge = _zero
        self.tls_not_after: Callable[[], dict[str, float]] = dict
        """By listener, in seconds since 1970: until when the certificate in use is valid."""
        self.unfinished_bytes: Gauge = _zero
        self.base_waiting_bytes: Gauge = _zero
        self.upstreams: Gauge = _zero
        self.upstreams_max = 0

    def request_finished(
        self, method: bytes, status: int, seconds: float, upstream_seconds: float, bytes_in: int, bytes_out: int
    ) -> None:
        """Count one request that ended; ``upstream_seconds`` is 0 when it reached no upstream."""
        try:
            self._requests[method, status] += 1
        except KeyError:
            self._first_of_its_kind(method, status)
        self._request_s.observe(seconds)
        if upstream_seconds > 0.0:
            self._upstream_s.observe(upstream_seconds)
        self.bytes_in += bytes_in
        self.bytes_out += bytes_out
        self.requests_in_flight -= 1

    def totals(self) -> Totals:
        """What ``History`` samples."""
        requests = self._requests.items()
        return Totals(
            requests=sum(count for _, count in requests),
            errors=sum(count for (_, status), count in requests if status >= 500),
            in_flight=self.requests_in_flight,
            durations=self._request_s.counts(),
        )

    def _first_of_its_kind(self, method: bytes, status: int) -> None:
        key = (method if method in _METHODS else b"", status if 100 <= status <= 599 else 0)
        self._requests[key] = self._requests.get(key, 0) + 1

    def collect(self) -> Iterator[Metric]:
        """Everything a node tells."""
        info = GaugeMetricFamily("pico_node_info", "Always 1; who this node is.", labels=["node", "version"])
        info.add_metric([self._node_id, self._version], 1)
        yield info
        yield self._requests_family()
        yield self._request_s.family("pico_request_duration_seconds", "From the request's head to its end.")
        yield self._upstream_s.family(
            "pico_upstream_duration_seconds",
            "From sending a request into the last of its tunnels to the response's head.",
        )
        yield from super().collect()
        yield CounterMetricFamily("pico_retries_total", "Requests tried again on another upstream.", self.retries)
        yield CounterMetricFamily(
            "pico_upstreams_moved_total", "Upstreams asked to move to a node that has fewer.", self.moves
        )
        yield CounterMetricFamily(
            "pico_upstreams_shed_total",
            "Tunnels ended because messages that have not ended took too much memory.",
            self.upstreams_shed,
        )
        yield GaugeMetricFamily(
            "pico_unfinished_bytes",
            "Held of messages that have not ended, beyond what each tunnel may hold anyway.",
            self.unfinished_bytes(),
        )
        yield CounterMetricFamily(
            "pico_calls_shed_total",
            "Requests of the base protocol ended because bodies that wait took too much memory.",
            self.calls_shed,
        )
        yield GaugeMetricFamily(
            "pico_base_waiting_bytes",
            "Held of bodies of the base protocol that wait, small ones left out.",
            self.base_waiting_bytes(),
        )
        yield self._forwarded_family()
        yield from self.cluster.collect()
        yield self.parse_rejects.family("pico_parse_rejects_total", "Requests that were not valid HTTP.", "reason")
        yield self.handshakes.family("pico_upstream_handshakes_total", "Agents at the upstream door.", "result")
        yield self.proxy_headers.family("pico_proxy_headers_total", "Headers of the PROXY protocol.", "result")
        yield self.connections.family("pico_connections_total", "Connections accepted.", "listener")
        yield self.connections_given_up.family(
            "pico_connections_given_up_total",
            "Connections without a request that ended at a full door to make room for another.",
            "listener",
        )
        yield self.connection_failures.family(
            "pico_connection_failures_total", "Connections ended by an error of our own.", "listener"
        )
        yield self.tls_handshake_failures.family(
            "pico_tls_handshake_failures_total", "TLS handshakes that did not come to their end.", "listener"
        )
        yield GaugeMetricFamily("pico_client_connections", "Client connections open.", self.client_connections())
        yield GaugeMetricFamily(
            "pico_client_connections_max", "Client connections that are accepted.", self.client_connections_max
        )
        yield GaugeMetricFamily("pico_endpoints", "Endpoints with an upstream here.", self.endpoints())
        yield GaugeMetricFamily("pico_upstreams", "Tunnels registered here.", self.upstreams())
        yield GaugeMetricFamily("pico_upstreams_max", "Tunnels that are accepted.", self.upstreams_max)
        yield GaugeMetricFamily(
            "pico_requests_waiting", "Requests that wait for an endpoint to return.", self.requests_waiting()
        )
        yield GaugeMetricFamily(
            "pico_relays_in_flight", "Requests of peers that are served by upstreams here.", self.relays_in_flight()
        )
        yield self._certificates_family()

    def _counted(self) -> Iterator[bytes]:
        yield from super()._counted()
        yield from self.by_endpoint.slices()

    def _certificates_family(self) -> Metric:
        family = GaugeMetricFamily(
            "pico_tls_not_after_timestamp_seconds", "Until when a door's certificate is valid.", labels=["listener"]
        )
        for listener, not_after in self.tls_not_after().items():
            family.add_metric([listener], not_after)
        return family

    def _forwarded_family(self) -> Metric:
        family = CounterMetricFamily(
            "pico_forwarded_requests_total",
            "Requests taken from a peer (in) and given to one (out).",
            labels=["direction"],
        )
        family.add_metric(["in"], self.forwarded_in)
        family.add_metric(["out"], self.forwarded_out)
        return family

    def _requests_family(self) -> Metric:
        family = CounterMetricFamily("pico_requests_total", "Requests that ended.", labels=["method", "code"])
        for (method, status), count in sorted(self._requests.items()):
            family.add_metric([_METHODS.get(method, _ANY_METHOD), str(status) if status else ANY_REASON], count)
        return family


class AgentMetrics(_Metrics):
    """Of one agent. Endpoints are label values here: they are the operator's own list."""

    __slots__ = (
        "_reconnects",
        "_requests",
        "_tunnels",
        "_version",
        "service_connections",
        "service_connections_opened",
        "service_connections_reused",
    )

    def __init__(
        self,
        *,
        version: str,
        endpoints: Iterable[str],
        failure_codes: Iterable[str],
        actors: Iterable[str] = (),
    ) -> None:
        super().__init__(version, failure_codes, actors)
        self._version = version
        self._requests: dict[int, int] = {}
        self._tunnels = dict.fromkeys(endpoints, 0)
        self._reconnects = Tally(TUNNEL_END_REASONS)
        self.service_connections_opened = 0
        self.service_connections_reused = 0
        self.service_connections: Gauge = _zero

    def request_finished(
        self, status: int, seconds: float, service_seconds: float, bytes_in: int, bytes_out: int
    ) -> None:
        """Count one request that ended, 0 as status when it has none; ``service_seconds`` is 0 without a response."""
        status = status if 100 <= status <= 599 else 0
        self._requests[status] = self._requests.get(status, 0) + 1
        self._request_s.observe(seconds)
        if service_seconds > 0.0:
            self._upstream_s.observe(service_seconds)
        self.bytes_in += bytes_in
        self.bytes_out += bytes_out
        self.requests_in_flight -= 1

    def add_endpoint(self, endpoint_id: str) -> None:
        """One more is to be served; it has no tunnel yet, unless it is here already."""
        self._tunnels.setdefault(endpoint_id, 0)

    def drop_endpoint(self, endpoint_id: str) -> None:
        """It is served no more."""
        self._tunnels.pop(endpoint_id, None)

    def tunnel_up(self, endpoint_id: str) -> None:
        """A link of the endpoint is registered at a node."""
        assert endpoint_id in self._tunnels, "endpoints are made known before they are served"
        self._tunnels[endpoint_id] += 1

    def tunnel_down(self, endpoint_id: str) -> None:
        """It is no longer."""
        if endpoint_id in self._tunnels:  # else it is not served any more
            self._tunnels[endpoint_id] -= 1

    def tunnel_ended(self, reason: str) -> None:
        """A tunnel ended, or an attempt to make one failed; the agent will try again."""
        self._reconnects.add(reason)

    def collect(self) -> Iterator[Metric]:
        """Everything an agent tells."""
        info = GaugeMetricFamily("pico_agent_info", "Always 1; which agent this is.", labels=["version"])
        info.add_metric([self._version], 1)
        yield info
        yield self._requests_family()
        yield self._request_s.family("pico_agent_request_duration_seconds", "From a stream's head to its end.")
        yield self._upstream_s.family(
            "pico_agent_service_duration_seconds", "From the request sent to the head of the service's response."
        )
        yield from super().collect()
        yield self._tunnels_family()
        yield self._reconnects.family("pico_tunnel_reconnects_total", "Tunnels that ended or failed.", "reason")
        yield self._service_family()
        yield GaugeMetricFamily(
            "pico_service_connections", "Connections open to local services.", self.service_connections()
        )

    def _requests_family(self) -> Metric:
        family = CounterMetricFamily("pico_agent_requests_total", "Requests that ended.", labels=["code"])
        for status, count in sorted(self._requests.items()):
            family.add_metric([str(status) if status else ANY_REASON], count)
        return family

    def _tunnels_family(self) -> Metric:
        family = GaugeMetricFamily("pico_tunnel_up", "1 while the endpoint has a tunnel.", labels=["endpoint"])
        for endpoint_id, up in self._tunnels.items():
            family.add_metric([endpoint_id], min(1, up))
        return family

    def _service_family(self) -> Metric:
        family = CounterMetricFamily(
            "pico_service_connections_used_total", "Requests by the connection they took.", labels=["connection"]
        )
        family.add_metric(["opened"], self.service_connections_opened)
        family.add_metric(["reused"], self.service_connections_reused)
        return family
