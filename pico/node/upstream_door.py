"""The upstream door: from an accepted socket to a registered upstream, or a refusal with its reason.

Responsible for: the opening handshake under a deadline, the limits on connections, starting the
``UpstreamConnection`` that takes the socket over, and knowing all of these: which there are, and what they hold of
messages and bodies (TUN-42, RPC-64). Refuses to know: what makes a request a registration (``pico.protocol.tunnel``),
what travels on the tunnel afterwards, and which requests go there.

The head is read and judged by our own parser. gevent-websocket then writes the acceptance; its frame code never touches
the connection, because it has no size limit, takes unmasked frames and does not lock its writer.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from io import BytesIO
from itertools import count
from types import SimpleNamespace
from typing import Any, Final

import pykka
from geventwebsocket.handler import WebSocketHandler

from pico.actors.endpoint_pool import Endpoints
from pico.actors.messages import CloseUpstream, DrainUpstream, MoveUpstream
from pico.actors.runtime import tell
from pico.actors.spares import Spares
from pico.actors.upstream import Upstream
from pico.actors.upstream_connection import UpstreamConnection
from pico.config import NodeConfig, websocket_limits
from pico.errors import ConnectionLost, TransportError
from pico.node.proxy_protocol import NO_PREFACE, Preface
from pico.observability.metrics import HANDSHAKE_RESULTS, NodeMetrics
from pico.protocol.http import Request, RequestReader, RequestRejected
from pico.protocol.rpc import BaseEngine, StreamEvent, StreamingEngine, WaitingBodies
from pico.protocol.tunnel import (
    ELSEWHERE,
    NODE_FIELD,
    SUBPROTOCOL,
    Registration,
    RegistrationRefused,
    Unfinished,
    check_registration,
    printable,
    refusal_response,
)
from pico.transport.blocking_reader import BlockingReader
from pico.transport.clock import Clock
from pico.transport.stream import Stream
from pico.transport.websocket import WebSocketCodec

__all__ = ["UpstreamDoor"]

RETRY_AFTER: Final = (("Retry-After", "2"),)
AGENT_CHARACTERS_MAX: Final = 100

_log = logging.getLogger("pico.upstream")


class UpstreamDoor:
    """Turns accepted connections into upstreams, and knows those that there are."""

    def __init__(
        self,
        config: NodeConfig,
        clock: Clock,
        endpoints: Callable[[], pykka.ActorRef[Endpoints]],
        metrics: NodeMetrics,
        *,
        node_id: str,
    ) -> None:
        self._config = config
        self._clock = clock
        self._endpoints = endpoints
        self._metrics = metrics
        self._node_id = node_id
        self._numbers = count(1)
        self._connections: dict[str, UpstreamConnection] = {}
        self._by_endpoint: dict[str, dict[str, UpstreamConnection]] = {}
        self._by_address: Counter[str] = Counter()
        self._unfinished = Unfinished(config.unfinished_bytes_max, config.websocket_limits.message_bytes_max)
        self._waiting = WaitingBodies(config.base_waiting_bytes_max, self._call_shed)
        self.handshakes = Spares(clock, lambda: metrics.connections_given_up.add("upstream"))
        """Connections that have not registered yet (TUN-44)."""
        self.draining = False
        self.better_elsewhere: Callable[[Sequence[str]], bool] = lambda named: False
        """Whether an agent that named these nodes is to try another one; set by whoever knows the others."""

    def reconfigure(self, config: NodeConfig) -> None:
        """What counts for whoever connects from now on."""
        self._config = config
        self._unfinished.bytes_max = config.unfinished_bytes_max
        self._waiting.bytes_max = config.base_waiting_bytes_max

    @property
    def upstreams(self) -> int:
        """Registered upstreams."""
        return len(self._connections)

    @property
    def unfinished_bytes(self) -> int:
        """Held of messages that have not ended, as far as TUN-42 counts it."""
        return self._unfinished.held_bytes

    @property
    def waiting_bytes(self) -> int:
        """Held of bodies of the base protocol that wait, as far as RPC-64 counts it."""
        return self._waiting.waiting_bytes

    def ids(self) -> list[str]:
        """The names of all of them, in the order in which they came: ``number_of`` grows."""
        return list(self._connections)

    def ids_of(self, endpoint_id: str) -> list[str]:
        """Those of one endpoint, in the same order; who is about to leave is one of them, too."""
        return list(self._by_endpoint.get(endpoint_id, ()))

    def has(self, endpoint_id: str) -> bool:
        """Whether an upstream is registered for the endpoint, be it about to leave."""
        return endpoint_id in self._by_endpoint

    def in_flight_of(self, endpoint_id: str) -> int:
        """Streams on the upstreams of one endpoint."""
        return sum([one.upstream.in_flight for one in self._by_endpoint.get(endpoint_id, {}).values()])

    def loads(self) -> Iterator[tuple[str, int, int]]:
        """Each endpoint with its upstreams and the streams on them; others may run in between."""
        # Only names are kept meanwhile: pairs would survive collections, and hasten the one that looks at everything.
        for endpoint_id in list(self._by_endpoint):
            upstreams = self._by_endpoint.get(endpoint_id)
            if upstreams is not None:
                yield endpoint_id, len(upstreams), self.in_flight_of(endpoint_id)

    @staticmethod
    def number_of(upstream_id: str) -> int:
        """Which one of this node's it is; -1 for what is no upstream's name."""
        node_id, _, number = upstream_id.rpartition("-u")
        return int(number) if node_id and number.isascii() and number.isdecimal() and len(number) < 20 else -1

    def find(self, upstream_id: str) -> Upstream | None:
        """The upstream of that name; None when it has gone."""
        connection = self._connections.get(upstream_id)
        return None if connection is None else connection.upstream

    def disconnect(self, upstream_id: str, reason: str, *, force: bool) -> bool:
        """Have its agent move and let go of it when nothing is in flight, or cut it off; False when there is none."""
        connection = self._connections.get(upstream_id)
        if connection is None:
            return False
        tell(connection.actor_ref, CloseUpstream(reason) if force else DrainUpstream(reason))
        return True

    def handle(self, stream: Stream, preface: Preface = NO_PREFACE) -> None:
        """Register the connection or refuse it; runs in the connection's greenlet, which may end afterwards."""
        reader = BlockingReader(stream, self._clock)
        try:
            registration, request, leftover = self._read_registration(reader, preface)
            self._check_limits(registration.endpoint_id, stream.peer_host)
            self._check_others(registration)
        except RegistrationRefused as refused:
            self._refuse(stream, refused.status, refused.code, str(refused), refused.fields)
        except RequestRejected as rejected:
            self._refuse(stream, rejected.failure.status, rejected.failure.code, str(rejected))
        except TransportError as error:
            self._metrics.handshakes.add("lost")
            _log.debug("a handshake from %s was not completed: %s", stream.peer_host, error)
            stream.close()
        else:
            self._register(stream, registration, request, leftover)

    def movable(self) -> list[Upstream]:
        """Upstreams that were not asked to move or to leave, and whose agents understand it."""
        return [
            one.upstream
            for one in self._connections.values()
            if one.upstream.streaming and not (one.upstream.leaving or one.upstream.multiplexer.engine.goaway_sent)
        ]

    def move(self, upstream_id: str) -> None:
        """Ask its agent to move, which takes as long as it takes; harmless when it has gone."""
        connection = self._connections.get(upstream_id)
        if connection is not None:
            self._metrics.moves += 1
            tell(connection.actor_ref, MoveUpstream())

    def drain(self, reason: str) -> None:
        """Refuse new upstreams and have the agents of the others move."""
        self.draining = True
        for connection in self._connections.values():
            tell(connection.actor_ref, DrainUpstream(reason))

    def close(self, reason: str) -> None:
        """End every upstream with a closing handshake."""
        for connection in list(self._connections.values()):
            tell(connection.actor_ref, CloseUpstream(reason))

    def _read_registration(self, reader: BlockingReader, preface: Preface) -> tuple[Registration, Request, bytes]:
        until = min(self._clock.now() + self._config.handshake_s, preface.head_until)  # PROXY-14
        heads = RequestReader(self._config.http_limits)
        if preface.rest:
            heads.receive_data(preface.rest)
        while (request := heads.next_head()) is None:
            data = reader.receive(max(0.001, until - self._clock.now()))
            if not data:
                raise ConnectionLost("the connection ended before the handshake was complete")
            heads.receive_data(data)
        if reader.stream.closed:
            raise ConnectionLost("the connection was lost as soon as the handshake was complete")
        return check_registration(request), request, heads.take_rest() + reader.detach()

    def _check_limits(self, endpoint_id: str, address: str) -> None:
        config = self._config
        if self.draining:
            # Whoever is asked next under this address may be another node: to wait would only cost time.
            raise RegistrationRefused(503, "draining", "this node is going away")
        for held, most, what in (
            (len(self._connections), config.upstreams_max, "on this node"),
            (len(self._by_endpoint.get(endpoint_id, ())), config.upstreams_per_endpoint_max, "for this endpoint"),
            (self._by_address[address], config.upstreams_per_address_max, "from this address"),
        ):
            if held >= most:
                upstreams = "1 upstream is" if held == 1 else f"{held} upstreams are"
                raise RegistrationRefused(503, "too_many", f"{upstreams} connected {what}", RETRY_AFTER)

    def _check_others(self, registration: Registration) -> None:
        if registration.elsewhere and self.better_elsewhere(registration.elsewhere):  # TUN-36
            raise RegistrationRefused(503, ELSEWHERE, "another node has room for this agent")

    def _refuse(
        self, stream: Stream, status: int, code: str, sentence: str, fields: tuple[tuple[str, str], ...] = ()
    ) -> None:
        self._metrics.handshakes.add(code if code in HANDSHAKE_RESULTS else "bad_request")
        _log.info("refused an upstream from %s with %d: %s", stream.peer_host, status, sentence)
        stream.write(refusal_response(status, code, sentence, fields))
        stream.half_close()
        stream.close()

    def _register(self, stream: Stream, registration: Registration, request: Request, leftover: bytes) -> None:
        config = self._config
        engine = self._engine_for(registration)
        limits = websocket_limits(
            config.websocket_limits, config.rpc_limits, config.http_limits, streaming=registration.streaming
        )
        Acceptance(stream, registration, self._node_id).write_head()
        upstream_id = f"{self._node_id}-u{next(self._numbers)}"
        address = stream.peer_host
        codec = WebSocketCodec("server", limits)
        actor = UpstreamConnection(
            stream,
            codec,
            engine,
            upstream_id=upstream_id,
            endpoint_id=registration.endpoint_id,
            agent=_agent_of(request),
            leftover=leftover,
            clock=self._clock,
            endpoints=self._endpoints(),
            metrics=self._metrics,
            on_gone=partial(self._gone, upstream_id, registration.endpoint_id, address),
            # No message of the streaming extension is ever counted.
            held_changed=None if registration.streaming else partial(self._count, upstream_id, stream, codec),
        )
        self._metrics.handshakes.add("accepted")
        self._by_endpoint.setdefault(registration.endpoint_id, {})[upstream_id] = actor
        self._by_address[address] += 1
        self._connections[upstream_id] = actor
        actor.launch()

    def _engine_for(self, registration: Registration) -> StreamingEngine | BaseEngine:
        config, now = self._config, self._clock.now()
        if registration.streaming:
            return StreamingEngine(config.rpc_limits, now=now)
        return BaseEngine(
            config.rpc_limits,
            config.http_limits,
            now=now,
            waiting=self._waiting,
            endpoint_id=registration.endpoint_id,
        )

    def _count(self, upstream_id: str, stream: Stream, codec: WebSocketCodec) -> None:
        """Count what a tunnel holds of messages both ways, and end those that must be for it (TUN-42)."""
        arriving, leaving = codec.unfinished_bytes, stream.unsent_bytes
        for loser in self._unfinished.hold(upstream_id, stream.peer_host, arriving=arriving, leaving=leaving):
            connection = self._connections[loser]
            _log.warning(
                "upstream %s from %s is ended: messages that have not ended take too much memory",
                loser,
                connection.upstream.address,
            )
            connection.shed("messages that have not ended take too much memory")

    def _call_shed(self, event: StreamEvent) -> None:
        self._metrics.calls_shed += 1
        self._clock.call_soon(partial(_tell_owner, event))

    def _gone(self, upstream_id: str, endpoint_id: str, address: str) -> None:
        del self._connections[upstream_id]
        self._unfinished.release(upstream_id, address)
        upstreams = self._by_endpoint[endpoint_id]
        del upstreams[upstream_id]
        if not upstreams:
            del self._by_endpoint[endpoint_id]
        self._by_address[address] -= 1
        if not self._by_address[address]:
            del self._by_address[address]


class Acceptance(WebSocketHandler):
    """Has gevent-websocket answer a handshake that was found valid, on a stream in place of a socket."""

    def __init__(self, stream: Stream, registration: Registration, node_id: str) -> None:
        subprotocol = SUBPROTOCOL if registration.streaming else ""
        application = SimpleNamespace(app_protocol=lambda _path: subprotocol)
        server = SimpleNamespace(application=application, logger=_log)
        # pywsgi sends a bytearray, which a compiled stream does not take for bytes.
        sock = SimpleNamespace(sendall=lambda data: stream.write(bytes(data)))
        super().__init__(sock, (stream.peer_host, 0), server, BytesIO())
        self.application = application
        self._node_id = node_id
        self.request_version = "HTTP/1.1"
        self.environ: dict[str, Any] = {
            "REQUEST_METHOD": "GET",
            "PATH_INFO": "/",
            "HTTP_UPGRADE": "websocket",
            "HTTP_CONNECTION": "upgrade",
            "HTTP_SEC_WEBSOCKET_VERSION": "13",
            "HTTP_SEC_WEBSOCKET_KEY": registration.key.decode("ascii"),
            "HTTP_SEC_WEBSOCKET_PROTOCOL": subprotocol,
        }

    def start_response(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        """Say besides who has accepted (TUN-34)."""
        return super().start_response(status, [*headers, (NODE_FIELD, self._node_id)], exc_info)

    def write_head(self) -> None:
        """Write the 101; the WebSocket object that the package makes beside it is left without its stream."""
        self.upgrade_websocket()
        self.write("")
        self.websocket.closed, self.websocket.stream = True, None  # its destructor would write to the connection
        self.environ.clear()  # it holds that object, which holds it
        self.websocket.handler = None


def _tell_owner(event: StreamEvent) -> None:
    if event.stream.context is not None:
        event.stream.context(event)


def _agent_of(request: Request) -> str:
    for _, lower, value in request.fields:
        if lower == b"user-agent":
            return printable(value.decode("latin-1"))[:AGENT_CHARACTERS_MAX]
    return ""
