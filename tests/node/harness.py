"""A real node on real sockets, an agent that does what a test tells it, and a client that sees every byte.

Everything runs on the hub of the test's own thread, so nothing here may use blocking sockets of the standard library.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace

import gevent
from gevent import socket
from gevent.event import AsyncResult
from gevent.queue import Queue

from pico.actors.reload import Proposal
from pico.config import HttpLimits, HttpTimers, NodeConfig, RpcLimits, WebSocketLimits
from pico.node.node import Node
from pico.node.proxy_door import BUFFER_BYTES_MAX
from pico.node.system import System
from pico.protocol.http.values import UNKNOWN_LENGTH, ResponseHead
from pico.protocol.rpc import BaseEngine, DataReceived, ResetCode, StreamingEngine, TrailersReceived
from pico.transport.clock import HubClock
from pico.transport.multiplexer import Multiplexer
from pico.transport.stream import RECV_BYTES, SocketStream
from pico.transport.websocket import WebSocketCodec
from tests.cluster_side import Member

DEADLINE_S = 5.0


def until(condition: Callable[[], object], what: str = "the condition", seconds: float = DEADLINE_S) -> None:
    """Wait for a condition, on the hub, with a deadline."""
    with gevent.Timeout(seconds, AssertionError(f"{what} did not come true in {seconds} s")):
        while not condition():
            gevent.sleep(0.002)


def settled(condition: Callable[[], object], what: str = "the condition", quiet_s: float = 0.2) -> None:
    """Wait until a condition holds and goes on holding for a while."""

    def holds() -> bool:
        with gevent.Timeout(quiet_s, False):
            while condition():
                gevent.sleep(0.002)
            return False
        return True

    until(holds, what)


class Call:
    """One request as the agent's side sees it."""

    def __init__(self, agent: Agent, event) -> None:
        self.agent = agent
        self.stream = event.stream
        self.head = event.head
        self.events: Queue = Queue()
        self._body = event.data
        self._ended = event.end
        self.trailers = b""
        event.stream.context = self.events.put

    def field(self, name: bytes) -> list[bytes]:
        lines = self.head.field_block.split(b"\r\n")
        pairs = [line.partition(b": ") for line in lines]
        return [value for key, _, value in pairs if key.lower() == name.lower()]

    def next_event(self):
        return self.events.get(timeout=DEADLINE_S)

    def body(self) -> bytes:
        """The whole body; gives credit back as it goes."""
        mux, body = self.agent.mux, self._body
        mux.consumed(self.stream, len(self._body))
        while not self._ended:
            event = self.next_event()
            if isinstance(event, DataReceived):
                body += event.data
                mux.consumed(self.stream, len(event.data))
                self._ended = event.end
            elif isinstance(event, TrailersReceived):
                self.trailers, self._ended = event.block, True
            else:
                raise AssertionError(event)
        self._body = b""
        return body

    def respond(self, status=200, body=b"", *, block=b"", length=None, end=True, reason=b"OK", upgrade=b"") -> None:
        length = len(body) if length is None else length
        self.agent.mux.send_head(self.stream, ResponseHead(status, reason, block, length, upgrade), body, end)

    def data(self, data: bytes, end: bool = False) -> None:
        with gevent.Timeout(DEADLINE_S, AssertionError("no credit")):
            while data:
                while self.stream.credit == 0:
                    gevent.sleep(0.002)
                piece = data[: self.stream.credit]
                data = data[len(piece) :]
                self.agent.mux.send_data(self.stream, piece, end and not data)
                end = end and bool(data)
        if end:
            self.agent.mux.send_data(self.stream, b"", True)

    def trailers_end(self, block: bytes) -> None:
        self.agent.mux.send_trailers(self.stream, block)

    def reset(self, code: ResetCode, *, untouched: bool = False, message: str = "") -> None:
        self.agent.mux.reset(self.stream, code, untouched=untouched, message=message)


def echo(call: Call) -> None:
    body = call.body()
    call.respond(200, length=len(body), end=False)
    call.data(body, end=True)


class Agent:
    """Registers an endpoint with a node and hands each request to ``handler``, in a greenlet."""

    def __init__(
        self,
        node: Node,
        endpoint: str,
        handler: Callable[[Call], None] = echo,
        *,
        streaming: bool = True,
        before: bytes = b"",
    ):
        self.handler = handler
        self.node = node
        node.testers.append(self)
        self.ended: AsyncResult = AsyncResult()
        self.goaway: AsyncResult = AsyncResult()
        self.calls: list[Call] = []
        self._greenlets: list[gevent.Greenlet] = []
        sock = connect(node, "upstream-door")
        sock.sendall(before + handshake(endpoint, streaming=streaming))
        head, leftover = read_head(sock)
        assert head.startswith(b"HTTP/1.1 101"), head
        raw = plain_socket(sock)
        clock, limits = HubClock(), node.config.rpc_limits
        engine = (
            StreamingEngine(limits, now=clock.now()) if streaming else BaseEngine(limits, HttpLimits(), now=clock.now())
        )
        websocket_limits = replace(WebSocketLimits(), message_bytes_max=16 << 20)
        codec = WebSocketCodec("client", websocket_limits)
        self.transport = SocketStream(raw)
        self.mux = Multiplexer(self.transport, codec, engine, clock, self)
        self.mux.start(leftover)
        until(lambda: node.routes.served(endpoint.lower()), "the registration")

    def stream_opened(self, event) -> None:
        call = Call(self, event)
        self.calls.append(call)
        self._greenlets.append(gevent.spawn(self.handler, call))

    def goaway_received(self, reason: str) -> None:
        self.goaway.set(reason)

    def connection_ended(self, reason: str) -> None:
        self.ended.set(reason)

    def kill(self) -> None:
        """As when the process is killed."""
        self.transport.abort()

    def close(self) -> None:
        self.mux.abort("the test is over")
        gevent.killall(self._greenlets)


def handshake(endpoint: str, *, streaming: bool = True, **changes: str) -> bytes:
    fields = {
        "Host": "node",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
    }
    if streaming:
        fields["Sec-WebSocket-Protocol"] = "pico.stream.v1"
    fields.update({name.replace("_", "-"): value for name, value in changes.items()})
    lines = [f"GET /pico/v1/listener/{endpoint} HTTP/1.1", *(f"{n}: {v}" for n, v in fields.items() if v), "", ""]
    return "\r\n".join(lines).encode()


def connect(node: Node, door: str = "proxy-door") -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", node.address(door)[1]), timeout=DEADLINE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def plain_socket(sock: socket.socket):
    """The same connection as a non-blocking socket of the standard library."""
    import gevent.monkey

    cls = gevent.monkey.get_original("socket", "socket")
    return cls(fileno=sock.detach())


def send_until_blocked(sock: socket.socket, data: bytes, quiet_s: float = 0.3) -> int:
    """Send ``data`` again and again until nobody takes any of it for a while; how many bytes were taken."""
    sock.settimeout(quiet_s)
    total = 0
    rest = data
    try:
        while True:
            sent = sock.send(rest)
            total += sent
            rest = rest[sent:] or data
    except TimeoutError:
        return total


def bytes_in_kernel(sock: socket.socket) -> int:
    """What both ends of an IPv4 connection of this machine have sent and not read, wherever the kernel keeps it.

    How much that may be is the kernel's own matter: it fits the buffers to the traffic, up to some tens of MiB.
    """
    ends = {sock.getsockname()[1], sock.getpeername()[1]}
    held = 0
    with open("/proc/net/tcp") as lines:
        next(lines)
        for line in lines:
            _, local, remote, _, queues, *_ = line.split()
            if {int(end.split(":")[1], 16) for end in (local, remote)} == ends:
                held += sum(int(queue, 16) for queue in queues.split(":"))
    return held


UPLOAD_BYTES_HELD_MAX = 2 * (BUFFER_BYTES_MAX + RECV_BYTES)
"""What a node holds of an upload besides windows: a buffer and what filled it in one turn, once taken and once more."""


def ends_with_reset(sock: socket.socket) -> bool:
    """Read to the end; whether the end is a reset."""
    try:
        while sock.recv(65536):
            pass
    except ConnectionResetError:
        return True
    return False


def read_head(sock) -> tuple[bytes, bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = sock.recv(65536)
        if not piece:
            return data, b""
        data += piece
    head, _, rest = data.partition(b"\r\n\r\n")
    return head + b"\r\n\r\n", rest


class Response:
    def __init__(self, head: bytes, body: bytes, complete: bool, trailers: bytes = b"") -> None:
        self.head, self.body, self.complete, self.trailers = head, body, complete, trailers
        self.status = int(head.split(b" ", 2)[1])

    def fields(self, name: bytes) -> list[bytes]:
        pairs = [line.partition(b":") for line in self.head.split(b"\r\n")[1:]]
        return [value.strip() for key, _, value in pairs if key.lower() == name.lower()]

    def error(self) -> str:
        code = json.loads(self.body)["error"]["code"]
        assert self.fields(b"x-pico-error") == [code.encode()]
        return code


class Client:
    """A raw connection to the proxy door that parses responses with as little cleverness as it can."""

    def __init__(self, node: Node) -> None:
        self.sock = connect(node)
        self.rest = b""
        node.testers.append(self)

    def send(self, *data: bytes) -> Client:
        self.sock.sendall(b"".join(data))
        return self

    def get(self, target: bytes = b"/", host: bytes = b"ep.example.com", *lines: bytes) -> Response:
        self.send(b"GET " + target + b" HTTP/1.1\r\nHost: " + host + b"\r\n", *lines, b"\r\n")
        return self.response()

    def read_head(self) -> bytes:
        while b"\r\n\r\n" not in self.rest:
            if not self._more():
                raise AssertionError(f"the connection ended in {self.rest!r}")
        head, _, self.rest = self.rest.partition(b"\r\n\r\n")
        return head + b"\r\n\r\n"

    def response(self, method: bytes = b"GET") -> Response:
        """The next final response, whole, or as much of it as came."""
        head = self.read_head()
        response = Response(head, b"", True)
        if response.status < 200 and response.status != 101:
            return self.response(method)
        if method == b"HEAD" or response.status in (101, 204, 304):
            return response
        if response.fields(b"transfer-encoding") == [b"chunked"]:
            return self._chunked(response)
        length = response.fields(b"content-length")
        return self._counted(response, int(length[0])) if length else self._closed(response)

    def at_end(self) -> bool:
        """Whether the node closes the connection now without another byte."""
        return not self.rest and not self._more()

    def close(self) -> None:
        self.sock.close()

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.sock.close()

    def _more(self) -> bool:
        try:
            piece = self.sock.recv(65536)
        except ConnectionResetError:
            return False
        self.rest += piece
        return bool(piece)

    def _counted(self, response: Response, length: int) -> Response:
        while len(self.rest) < length and self._more():
            pass
        response.body, self.rest = self.rest[:length], self.rest[length:]
        response.complete = len(response.body) == length
        return response

    def _closed(self, response: Response) -> Response:
        while self._more():
            pass
        response.body, self.rest = self.rest, b""
        return response

    def _chunked(self, response: Response) -> Response:
        while True:
            line = self._line()
            if line is None:
                response.complete = False
                return response
            size = int(line, 16)
            if size == 0:
                response.trailers = self._trailers()
                return response
            while len(self.rest) < size + 2:
                if not self._more():
                    response.body += self.rest
                    response.complete = False
                    return response
            response.body += self.rest[:size]
            assert self.rest[size : size + 2] == b"\r\n"
            self.rest = self.rest[size + 2 :]

    def _line(self) -> bytes | None:
        while b"\r\n" not in self.rest:
            if not self._more():
                return None
        line, _, self.rest = self.rest.partition(b"\r\n")
        return line

    def _trailers(self) -> bytes:
        lines = []
        while line := self._line():
            lines.append(line + b"\r\n")
        return b"".join(lines)


def socket_pair() -> tuple[SocketStream, SocketStream]:
    """Two streams that are joined."""
    near, far = socket.socketpair()
    return SocketStream(plain_socket(near)), SocketStream(plain_socket(far))


@contextlib.contextmanager
def running_nodes(count: int = 2, link_limits: RpcLimits | None = None, **changes) -> Iterator[list[Member]]:
    """Nodes that know each other, each with ``machine``, its node."""
    with contextlib.ExitStack() as stack:
        members = []
        for number in range(count):
            node = stack.enter_context(running_node(f"node-{number + 1}", **changes))
            members.append(Member(node, socket_pair, link_limits))
            stack.callback(members[-1].close)
        for number, member in enumerate(members):
            member.knows(*members[number + 1 :])
        yield members


@contextlib.contextmanager
def running_node(node_id: str = "node-1", *, system: System | None = None, **changes) -> Iterator[Node]:
    """A node on free ports of the loopback address; ``node.lines`` collects its access log."""
    ports = {f"{door}_port": 0 for door in ("proxy", "upstream", "admin", "gossip")}
    hosts = {f"{door}_host": "127.0.0.1" for door in ("proxy", "upstream", "admin", "gossip")}
    timers = HttpTimers(linger_s=0.2)
    settings = {
        "http_timers": timers,
        "drain_delay_s": 0.0,
        "grace_period_s": 2.0,
        "endpoint_wait_s": 0.0,
        **ports,
        **hosts,
        **changes,
    }
    lines: list[str] = []
    node = Node(
        NodeConfig(**settings),
        node_id=node_id,
        write_access_log=lines.append,
        system=system,
        read_settings=lambda: Proposal(node.config, (), (), lambda: None),
    )
    node.lines = lines  # type: ignore[attr-defined]
    node.testers = []  # type: ignore[attr-defined]
    node.start()
    try:
        yield node
    finally:
        for tester in node.testers:  # type: ignore[attr-defined]
            tester.close()
        node.stop()


def logged(node) -> list[dict]:
    """The access log so far."""
    node.access_log.flush()
    gevent.sleep(0.01)
    return [json.loads(line) for text in node.lines for line in text.splitlines()]


__all__ = [
    "UNKNOWN_LENGTH",
    "UPLOAD_BYTES_HELD_MAX",
    "Agent",
    "Call",
    "Client",
    "Response",
    "RpcLimits",
    "bytes_in_kernel",
    "connect",
    "echo",
    "ends_with_reset",
    "handshake",
    "logged",
    "plain_socket",
    "read_head",
    "running_node",
    "running_nodes",
    "send_until_blocked",
    "settled",
    "until",
]
