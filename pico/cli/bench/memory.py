"""What a node's memory grows by: idle upstreams, and clients that do not read.

Responsible for: opening so many idle tunnels to a node and keeping them alive, holding so many responses that nobody
takes, and reading the resident memory before and after. Refuses to know: what the agent does; an idle tunnel is held
here by a few lines written from ``spec/rpc.md``, so that a thousand cost little.
"""

from __future__ import annotations

import base64
import os
import resource
import selectors
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass

from pico.cli.bench.counters import rss_kib
from pico.cli.bench.processes import BenchFailed, Child

__all__ = [
    "UPSTREAMS_PER_ENDPOINT",
    "Growth",
    "IdleUpstreams",
    "StalledClients",
    "measure_idle_upstreams",
    "measure_stalled_streams",
    "require_descriptors",
]

HOST = "127.0.0.1"
SUBPROTOCOL = "pico.stream.v1"
UPSTREAMS_PER_ENDPOINT = 100
WARM_UP_UPSTREAMS = 50  # what the first ones cost once for all: imports, arenas, tables
WARM_UP_CLIENTS = 4
HANDSHAKE_S = 10.0
SETTLE_S = 0.5
SETTLE_MAX_S = 15.0
SETTLE_FRACTION = 0.005  # two readings this close: it has settled
STALLED_RECEIVE_BUFFER_BYTES = 4096

_RPC_HEADER = struct.Struct("!HQH")
_HEARTBEAT, _RESPONSE = 1, 0x8000
_BINARY, _CLOSE, _PING, _PONG = 0x2, 0x8, 0x9, 0xA


@dataclass(frozen=True, slots=True)
class Growth:
    """Resident memory of one process before and after ``count`` things were added."""

    count: int
    before_kib: int
    after_kib: int

    @property
    def kib_each(self) -> float:
        return (self.after_kib - self.before_kib) / self.count


def measure_idle_upstreams(node: Child, upstream_port: int, count: int, *, per_endpoint: int) -> Growth:
    """What the node grows by for each of ``count`` registered upstreams that carry nothing."""
    require_descriptors(2 * (count + WARM_UP_UPSTREAMS))
    with IdleUpstreams(upstream_port) as upstreams:
        upstreams.open(WARM_UP_UPSTREAMS, per_endpoint)
        before = settled_rss_kib(node, upstreams.serve)
        upstreams.open(count, per_endpoint)
        after = settled_rss_kib(node, upstreams.serve)
        if upstreams.ended:
            raise BenchFailed(f"the node ended {upstreams.ended} of {count} idle upstreams")
        return Growth(count, before, after)


def measure_stalled_streams(
    parts: dict[str, Child], proxy_port: int, authority: str, target: str, count: int
) -> dict[str, Growth]:
    """What node and agent each grow by for a response whose client takes nothing of it."""
    require_descriptors(2 * (count + WARM_UP_CLIENTS))
    with StalledClients(proxy_port, authority, target) as clients:
        clients.open(WARM_UP_CLIENTS)
        before = {name: settled_rss_kib(child, time.sleep) for name, child in parts.items()}
        clients.open(count)
        after = {name: settled_rss_kib(child, time.sleep) for name, child in parts.items()}
    return {name: Growth(count, before[name], after[name]) for name in parts}


def settled_rss_kib(child: Child, wait: Callable[[float], None]) -> int:
    """The resident memory once it stands still. ``wait`` passes the time."""
    deadline = time.monotonic() + SETTLE_MAX_S
    wait(SETTLE_S)
    last = rss_kib(child.pid)
    while time.monotonic() < deadline:
        wait(SETTLE_S)
        now = rss_kib(child.pid)
        if abs(now - last) <= last * SETTLE_FRACTION:
            return now
        last = now
    return last


def require_descriptors(count: int) -> None:
    """Raises the soft limit of open files, which the children inherit, as far as it may be raised."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count and soft != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard if hard == resource.RLIM_INFINITY else max(soft, hard), hard))
    if hard != resource.RLIM_INFINITY and hard < count:
        raise BenchFailed(f"{count} open files are needed, and the limit of this session is {hard}")


class StalledClients:
    """Connections that ask for something large and read nothing of the answer."""

    def __init__(self, port: int, authority: str, target: str) -> None:
        self._port = port
        self._request = f"GET {target} HTTP/1.1\r\nHost: {authority}\r\n\r\n".encode()
        self._sockets: list[socket.socket] = []

    def __enter__(self) -> StalledClients:
        return self

    def __exit__(self, *_: object) -> None:
        for sock in self._sockets:
            sock.close()

    def open(self, count: int) -> None:
        for _ in range(count):
            sock = socket.socket()
            self._sockets.append(sock)
            # The kernel's share is kept small, so that the response waits in the processes that are measured.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, STALLED_RECEIVE_BUFFER_BYTES)
            sock.settimeout(HANDSHAKE_S)
            sock.connect((HOST, self._port))
            sock.sendall(self._request)


class IdleUpstreams:
    """Registered tunnels that do nothing but answer heartbeats and pings, while ``serve`` runs."""

    def __init__(self, port: int) -> None:
        self.ended = 0
        self._port = port
        self._opened = 0
        self._selector = selectors.DefaultSelector()

    def __enter__(self) -> IdleUpstreams:
        return self

    def __exit__(self, *_: object) -> None:
        for key in list(self._selector.get_map().values()):
            key.data.sock.close()
        self._selector.close()

    def open(self, count: int, per_endpoint: int = UPSTREAMS_PER_ENDPOINT) -> None:
        """Registers ``count`` more, and serves the earlier ones in between."""
        for _ in range(count):
            try:
                upstream = IdleUpstream(self._port, f"idle-{self._opened // per_endpoint}")
            except OSError as error:
                raise BenchFailed(f"the idle upstream {self._opened + 1} cannot register: {error}") from error
            self._selector.register(upstream.sock, selectors.EVENT_READ, upstream)
            self._opened += 1
            if self._opened % UPSTREAMS_PER_ENDPOINT == 0:
                self.serve(0.0)

    def serve(self, seconds: float) -> None:
        """Answers what the node asks, for so long; ``ended`` counts the tunnels that it closed."""
        deadline = time.monotonic() + seconds
        while True:
            left_s = max(deadline - time.monotonic(), 0.0)
            for key, _ in self._selector.select(left_s):
                if not key.data.answer():
                    self.ended += 1
                    self._selector.unregister(key.fileobj)
                    key.data.sock.close()
            if not left_s:
                return


class IdleUpstream:
    """One tunnel: the handshake of ``spec/tunnel.md``, then heartbeats."""

    def __init__(self, port: int, endpoint: str) -> None:
        self.sock = socket.create_connection((HOST, port), timeout=HANDSHAKE_S)
        try:
            self._received = self._handshake(endpoint)
        except (OSError, BenchFailed):
            self.sock.close()
            raise

    def _handshake(self, endpoint: str) -> bytes:
        key = base64.b64encode(os.urandom(16)).decode()
        self.sock.sendall(
            f"GET /pico/v1/listener/{endpoint} HTTP/1.1\r\nHost: {HOST}\r\n"
            f"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Protocol: {SUBPROTOCOL}\r\n\r\n".encode()
        )
        answer = b""
        while b"\r\n\r\n" not in answer:
            data = self.sock.recv(4096)
            if not data:
                raise BenchFailed("the node closed the connection of an idle upstream during the handshake")
            answer += data
        head, _, rest = answer.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101 "):
            raise BenchFailed(f"the node refused an idle upstream: {head.splitlines()[0].decode('latin-1')}")
        return rest

    def answer(self) -> bool:
        """Reads what is there and answers it. False: the tunnel has ended."""
        try:
            data = self.sock.recv(65536)
        except OSError:
            return False
        self._received += data
        closed = not data
        while (frame := self._next_frame()) is not None:
            opcode, payload = frame
            closed = closed or opcode == _CLOSE
            self._answer_frame(opcode, payload)
        return not closed

    def _next_frame(self) -> tuple[int, bytes] | None:
        """One whole frame from the node, which does not mask. Nothing that it sends to an idle upstream is long."""
        received = self._received
        if len(received) < 2:
            return None
        size = received[1] & 0x7F
        if size > 125:
            raise BenchFailed("the node sent a long frame to an idle upstream")
        if len(received) < 2 + size:
            return None
        self._received = received[2 + size :]
        return received[0] & 0x0F, received[2 : 2 + size]

    def _answer_frame(self, opcode: int, payload: bytes) -> None:
        if opcode == _PING:
            self._send_frame(_PONG, payload)
        elif opcode == _BINARY and len(payload) >= _RPC_HEADER.size:
            kind, number, flags = _RPC_HEADER.unpack_from(payload)
            if kind == _HEARTBEAT and not flags & _RESPONSE:
                self._send_frame(_BINARY, _RPC_HEADER.pack(kind, number, _RESPONSE))

    def _send_frame(self, opcode: int, payload: bytes) -> None:
        mask = bytes(4)  # a mask of zeros is a mask, and leaves the payload as it is
        self.sock.sendall(bytes((0x80 | opcode, 0x80 | len(payload))) + mask + payload)
