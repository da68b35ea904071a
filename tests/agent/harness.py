"""What the agent's tests stand on: the node's end of a tunnel, local services, and a door that follows a script.

Responsible for: real sockets on loopback, and waits that have a deadline. Refuses to know: what is tested.
"""

from __future__ import annotations

import socket
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha1
from typing import Any

import gevent
from gevent.event import Event as Signal
from gevent.server import StreamServer

from pico.agent.service import Service
from pico.agent.service_exchange import Forwarder
from pico.config import AgentConfig, EndpointTarget, RpcLimits, WebSocketLimits, websocket_limits
from pico.observability.access_log import AccessLog
from pico.observability.metrics import AgentMetrics
from pico.protocol.http import Failure
from pico.protocol.http.values import RequestHead, ResponseHead
from pico.protocol.rpc import (
    BaseEngine,
    DataReceived,
    HeadReceived,
    ResetCode,
    RpcStream,
    StreamEvent,
    StreamingEngine,
    StreamOpened,
    StreamReset,
    TrailersReceived,
)
from pico.transport.clock import HubClock
from pico.transport.deadlines import Deadlines
from pico.transport.multiplexer import Multiplexer
from pico.transport.stream import SocketStream
from pico.transport.websocket import WebSocketCodec
from tests.rpc_side import FIXED_WINDOWS

WAIT_S = 10.0
CLOCK = HubClock()

Handle = Callable[[Any, Any], None]


class News:
    """Something that others wait for; whoever changes it says so."""

    def __init__(self) -> None:
        self._changed = Signal()

    def changed(self) -> None:
        self._changed.set()

    def wait(self, condition: Callable[[], object], what: str = "what was waited for") -> None:
        with gevent.Timeout(WAIT_S, AssertionError(f"{what} did not happen")):
            while not condition():
                self._changed.clear()
                self._changed.wait()


def eventually(condition: Callable[[], object], what: str = "what was waited for") -> None:
    """For what says nothing when it changes."""
    with gevent.Timeout(WAIT_S, AssertionError(f"{what} did not happen")):
        while not condition():
            gevent.sleep(0.002)


class Call(News):
    """The node's side of one stream: what has come, and credit given back when the test says so."""

    def __init__(self, node: NodeSide, *, takes: bool = True) -> None:
        super().__init__()
        self.node = node
        self.takes = takes
        self.events: list[StreamEvent] = []
        self.informational: list[ResponseHead] = []
        self.head: ResponseHead | None = None
        self.body = bytearray()
        self.not_taken = 0
        self.trailers = b""
        self.ended = False
        self.reset: StreamReset | None = None
        self.stream: RpcStream

    def sink(self, event: StreamEvent) -> None:
        self.events.append(event)
        if isinstance(event, HeadReceived) and event.head.status < 200 and event.head.status != 101:
            self.informational.append(event.head)
        elif isinstance(event, HeadReceived):
            self.head = event.head
            self._take(event.data, event.end)
        elif isinstance(event, DataReceived):
            self._take(event.data, event.end)
        elif isinstance(event, TrailersReceived):
            self.trailers = event.block
            self.ended = True
        elif isinstance(event, StreamReset):
            self.reset = event
        self.changed()

    def _take(self, data: bytes, end: bool) -> None:
        self.body += data
        self.ended = self.ended or end
        self.not_taken += len(data)
        if self.takes:
            self.take()

    def take(self) -> None:
        """Take what has come, now and from now on."""
        self.takes = True
        size, self.not_taken = self.not_taken, 0
        if size:
            self.node.multiplexer.consumed(self.stream, size)

    def send(self, data: bytes, end: bool = False) -> None:
        """Send a body piece by piece, as credit allows; blocks."""
        multiplexer = self.node.multiplexer
        while data:
            self.wait(lambda: self.stream.credit or self.stream.ended, "credit")
            piece, data = data[: self.stream.credit], data[self.stream.credit :]
            multiplexer.send_data(self.stream, piece, end and not data)
            gevent.sleep(0)
        if end and not self.stream.ended and not piece_sent(self.stream):
            multiplexer.send_data(self.stream, b"", True)

    def done(self) -> Call:
        self.wait(lambda: self.ended or self.reset, "the end of the stream")
        return self


def piece_sent(stream: RpcStream) -> bool:
    return stream.sending.name == "ENDED"


class NodeSide(News):
    """A node's end of a tunnel, on any connected socket."""

    def __init__(self, sock: socket.socket, *, streaming: bool = True, limits: RpcLimits = FIXED_WINDOWS) -> None:
        super().__init__()
        config = AgentConfig(servers=(), endpoints=())
        engine: StreamingEngine | BaseEngine
        if streaming:
            engine = StreamingEngine(limits, now=CLOCK.now())
        else:
            engine = BaseEngine(limits, config.http_limits, now=CLOCK.now())
        sizes = websocket_limits(WebSocketLimits(), limits, config.http_limits, streaming=streaming)
        self.goaway_reason: str | None = None
        self.end_reason = ""
        self.stream = SocketStream(sock)
        self.multiplexer = Multiplexer(self.stream, WebSocketCodec("server", sizes), engine, CLOCK, self)

    def open(
        self,
        method: bytes = b"GET",
        target: bytes = b"/",
        *,
        fields: bytes = b"Host: web.example\r\n",
        length: int = 0,
        data: bytes = b"",
        end: bool = True,
        upgrade: bytes = b"",
        takes: bool = True,
    ) -> Call:
        call = Call(self, takes=takes)
        head = RequestHead(method, target, fields, length, upgrade)
        call.stream = self.multiplexer.open(head, data, end, call.sink)
        return call

    def get(self, target: bytes = b"/", **more: Any) -> Call:
        return self.open(b"GET", target, **more).done()

    def stream_opened(self, event: StreamOpened) -> None:
        self.multiplexer.reset(event.stream, ResetCode.REFUSED, untouched=True)

    def goaway_received(self, reason: str) -> None:
        self.goaway_reason = reason
        self.changed()

    def connection_ended(self, reason: str) -> None:
        self.end_reason = reason
        self.changed()


class AgentSide:
    """The agent's end of a tunnel without a link: whatever is opened is forwarded."""

    def __init__(
        self, sock: socket.socket, forwarder: Forwarder, *, streaming: bool = True, limits: RpcLimits = FIXED_WINDOWS
    ) -> None:
        config = AgentConfig(servers=(), endpoints=())
        engine: StreamingEngine | BaseEngine
        if streaming:
            engine = StreamingEngine(limits, now=CLOCK.now())
        else:
            engine = BaseEngine(limits, config.http_limits, now=CLOCK.now())
        sizes = websocket_limits(WebSocketLimits(), limits, config.http_limits, streaming=streaming)
        self.forwarder = forwarder
        self.multiplexer = Multiplexer(SocketStream(sock), WebSocketCodec("client", sizes), engine, CLOCK, self)

    def stream_opened(self, event: StreamOpened) -> None:
        self.forwarder.forward(self.multiplexer, event)

    def goaway_received(self, reason: str) -> None:
        pass

    def connection_ended(self, reason: str) -> None:
        pass


class Bench:
    """A node's end, an agent's end, and the forwarder between the latter and a service."""

    def __init__(
        self,
        port: int,
        *,
        streaming: bool = True,
        tls: Any = None,
        host: str = "127.0.0.1",
        limits: RpcLimits = FIXED_WINDOWS,
        **config: Any,
    ) -> None:
        """Windows stay as they are: how fast the machine is must not decide how much is on its way."""
        target = EndpointTarget(endpoint_id="web", host=host, port=port, tls=tls is not None)
        self.config = AgentConfig(servers=(), endpoints=(target,), **config)
        self.metrics = AgentMetrics(version="0", endpoints=["web"], failure_codes=[f.code for f in Failure])
        self.lines: list[str] = []
        self.access_log = AccessLog(self.config.access_log, self.lines.append, CLOCK, node_id="")
        self.service = Service(target, self.config, CLOCK, Deadlines(CLOCK, 0.02), self.metrics, tls)
        self.forwarder = Forwarder(self.service, self.config, CLOCK, self.metrics, self.access_log)
        ours, theirs = socket.socketpair()
        for sock in (ours, theirs):
            sock.setblocking(False)
        self.node = NodeSide(theirs, streaming=streaming, limits=limits)
        self.agent = AgentSide(ours, self.forwarder, streaming=streaming, limits=limits)
        self.node.multiplexer.start()
        self.agent.multiplexer.start()

    def close(self) -> None:
        self.node.multiplexer.abort("the test is over")
        eventually(lambda: self.metrics.requests_in_flight == 0, "the end of every exchange")
        self.agent.multiplexer.abort("the test is over")
        self.service.close()
        eventually(lambda: len(self.service) == 0, "the end of every connection to the service")


@contextmanager
def serving(handle: Handle, **options: Any) -> Iterator[StreamServer]:
    """A service on loopback; ``handle(socket, address)`` runs for each connection."""

    def closing(sock: Any, address: Any) -> None:
        try:
            handle(sock, address)
        except (ConnectionError, BrokenPipeError):
            pass
        finally:
            sock.close()

    server = StreamServer(("127.0.0.1", 0), closing, **options)
    server.start()
    try:
        yield server
    finally:
        server.stop(timeout=0)


@contextmanager
def bench(handle: Handle, **options: Any) -> Iterator[Bench]:
    """A service, and a tunnel that leads to it. Nothing may be left when it is over."""
    with serving(handle) as server:
        made = Bench(server.server_port, **options)
        try:
            yield made
        finally:
            made.close()


def read_head(sock: Any, rest: bytes = b"") -> tuple[bytes, bytes]:
    """A request head and what came behind it; empty at the end of the connection."""
    while b"\r\n\r\n" not in rest:
        data = sock.recv(65536)
        if not data:
            return b"", b""
        rest += data
    head, _, rest = rest.partition(b"\r\n\r\n")
    return head + b"\r\n", rest


def read_exactly(sock: Any, size: int, rest: bytes = b"") -> bytes:
    """``size`` bytes, the first of which may have come already."""
    pieces, have = [rest], len(rest)
    while have < size:
        data = sock.recv(65536)
        assert data, "the request was cut short"
        pieces.append(data)
        have += len(data)
    return b"".join(pieces)


def answering(*answers: bytes) -> Handle:
    """Gives the answers one after the other, over as many connections; the last again and again."""
    left = list(answers)

    def handle(sock: Any, _: Any) -> None:
        rest = b""
        while True:
            head, rest = read_head(sock, rest)
            if not head:
                return
            sock.sendall(left.pop(0) if len(left) > 1 else left[0])

    return handle


def accept_of(key: str) -> str:
    return b64encode(sha1(key.encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()).decode()


def fields_of(head: bytes) -> dict[str, str]:
    lines = head.decode("latin-1").split("\r\n")[1:]
    return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines) if name}


class Door(News):
    """A node's door that follows a script: each dial gets the next word of it, the last again and again.

    ``stream`` and ``base`` accept; a text with a blank is written as it is; ``hang`` never answers; ``close`` closes.
    Who accepts says that it is ``node``, where that is given.
    """

    def __init__(self, *script: str, node: str = "") -> None:
        super().__init__()
        self.node = node
        self.script = list(script)
        self.heads: list[bytes] = []
        self.tunnels: list[NodeSide] = []
        self.dials = 0
        self._server = StreamServer(("127.0.0.1", 0), self._handle)
        self._server.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def stop(self) -> None:
        self._server.stop(timeout=0)
        for tunnel in self.tunnels:
            tunnel.multiplexer.abort("the test is over")

    def tunnel(self, number: int) -> NodeSide:
        """The tunnel that was accepted in this place, counted from 0."""
        self.wait(lambda: len(self.tunnels) > number, f"tunnel {number}")
        return self.tunnels[number]

    def _handle(self, sock: Any, _: Any) -> None:
        self.dials += 1
        word = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        head, _rest = read_head(sock)
        self.heads.append(head)
        self.changed()
        if word == "hang":
            sock.recv(1)
        elif word in ("stream", "base", "stream+goaway"):
            self._accept(sock, head, word)
            return
        elif word != "close":
            sock.sendall(word.encode())
        sock.close()

    def _accept(self, sock: Any, head: bytes, word: str) -> None:
        lines = [
            "HTTP/1.1 101 Switching Protocols",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Accept: {accept_of(fields_of(head)['sec-websocket-key'])}",
        ]
        if word != "base":
            lines.append("Sec-WebSocket-Protocol: pico.stream.v1")
        if self.node:
            lines.append(f"x-pico-node: {self.node}")
        answer = "\r\n".join([*lines, "", ""]).encode()
        if word == "stream+goaway":  # in one segment with the answer
            answer += b"\x82\x0f" + (8).to_bytes(2, "big") + bytes(10) + b"bye"
        sock.sendall(answer)
        raw = socket.socket(fileno=sock.detach())
        raw.setblocking(False)
        tunnel = NodeSide(raw, streaming=word != "base")
        self.tunnels.append(tunnel)
        tunnel.multiplexer.start()
        self.changed()
