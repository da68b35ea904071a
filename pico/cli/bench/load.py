"""The load: so many persistent connections, each with one request under way at any time.

Responsible for: sending requests as fast as they are answered, checking status and length of every response, noting
each latency, and reading the counters of the measured processes at the very moments between which it counts. Refuses
to know: what it measures, and what the figures mean.

It runs in a process of its own (``python -m pico.cli.bench.load``), without gevent, one epoll and raw sockets, because
it shares the cores with what it measures. Jobs come as one JSON object per line on standard input, results go back as
one per line on standard output.

Work is counted in requests. Where a body is large, it is counted in the bytes that moved, divided by those of one
request: in a short window many requests are under way at both ends of it, and whole ones would be a coarse measure.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import re
import select
import socket
import sys
import time
from array import array
from collections import Counter
from collections.abc import Callable
from typing import Any

from pico.cli.bench.counters import Counters, Sample

__all__ = ["Job", "Load", "Outcome", "serve"]

HOST = "127.0.0.1"
RECEIVE_BYTES = 64 * 1024
FRACTIONAL_BYTES_MIN = 64 * 1024  # bodies from this size on are counted in bytes
SEND_BUFFER_BYTES = 256 * 1024  # what the kernel may hold of an upload: keeps "sent" close to "received"
FAILURES_MAX = 200
CONNECT_S = 10.0
DRAIN_S = 20.0
WARM_UP_MAX_S = 10.0
STRETCH_MAX = 4.0  # a window may last so many times what was asked, until each connection was answered once

_OK = (b"HTTP/1.1 200 ", b"HTTP/1.0 200 ")
_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)[ \t]*\r\n", re.IGNORECASE)
_DISCARD = bytearray(256 * 1024)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One load on one target."""

    port: int
    authority: str  # the Host field
    target: str
    connections: int
    body_bytes: int = 0  # of the request; 0: a GET
    response_bytes: int = 0  # of the body that every response must have
    seconds: float = 1.0
    warm_up_s: float = 0.1
    groups: dict[str, list[int]] = dataclasses.field(default_factory=dict)  # processes whose counters are read

    def request(self) -> bytes:
        fields = f"Host: {self.authority}\r\nUser-Agent: pico-bench\r\nAccept: */*\r\n"
        if not self.body_bytes:
            return f"GET {self.target} HTTP/1.1\r\n{fields}\r\n".encode()
        head = f"POST {self.target} HTTP/1.1\r\n{fields}Content-Length: {self.body_bytes}\r\n\r\n"
        return head.encode() + bytes(self.body_bytes)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What happened between the two readings of the counters."""

    elapsed_s: float
    requests: int  # answered in full
    work: float  # the same in fractions of requests where bodies are large
    latencies_us: list[int]
    failures: dict[str, int]
    cpu_ns: dict[str, int]
    instructions: dict[str, int] | None


class Load:
    """Runs one job. The connections share the counts, which the window sets to nothing when it opens."""

    def __init__(self, job: Job) -> None:
        self.request = memoryview(job.request())
        self.response_bytes = job.response_bytes
        self.epoll = select.epoll()
        self.latencies_ns = array("q")
        self.received = 0  # bytes of response bodies
        self.sent = 0
        self.failures: Counter[str] = Counter()
        self.sending = True
        self.under_way = 0
        self._job = job
        self._connections: dict[int, _Connection] = {}

    def run(self) -> Outcome:
        """The whole job, bounded in time: connect, warm up, measure, let what is under way finish."""
        counters = Counters(self._job.groups)
        try:
            for _ in range(self._job.connections):
                self.open()
            self._warm_up()
            outcome = self._measure(counters)
            self._drain()
            return dataclasses.replace(outcome, failures=dict(self.failures))
        finally:
            counters.close()
            self._close()

    def open(self) -> None:
        """One more connection, with its first request on the way."""
        try:
            sock = socket.create_connection((HOST, self._job.port), timeout=CONNECT_S)
        except OSError as error:
            self.failures[f"connect: {error.strerror or error}"] += 1
            return
        connection = _Connection(self, sock)
        self._connections[sock.fileno()] = connection
        try:
            connection.start()
        except OSError as error:
            self.failed(connection, f"connection: {error.strerror or error}")

    def failed(self, connection: _Connection, reason: str) -> None:
        """A connection that broke a rule is closed and, unless too many did, replaced."""
        self.failures[reason] += 1
        self.under_way -= 1
        del self._connections[connection.sock.fileno()]
        connection.sock.close()
        if self.sending and not self._hopeless():
            self.open()

    def _hopeless(self) -> bool:
        return self.failures.total() >= FAILURES_MAX or (not self._connections and bool(self.failures))

    def _turn_until(self, enough: Callable[[float], bool]) -> None:
        poll, connections, clock = self.epoll.poll, self._connections, time.perf_counter
        while not enough(clock()) and not self._hopeless():
            for fd, events in poll(0.02):
                connections[fd].ready(events)

    def _warm_up(self) -> None:
        start, wanted = time.perf_counter(), self._job.connections
        soonest, latest = start + self._job.warm_up_s, start + WARM_UP_MAX_S
        self._turn_until(lambda now: now >= latest or (now >= soonest and len(self.latencies_ns) >= wanted))

    def _measure(self, counters: Counters) -> Outcome:
        wanted = self._job.connections
        self.latencies_ns, self.received, self.sent = array("q"), 0, 0
        before, start = counters.read(), time.perf_counter()
        soonest, latest = start + self._job.seconds, start + self._job.seconds * STRETCH_MAX
        self._turn_until(lambda now: now >= latest or (now >= soonest and len(self.latencies_ns) >= wanted))
        elapsed_s = time.perf_counter() - start
        after = counters.read()
        return Outcome(
            elapsed_s=elapsed_s,
            requests=len(self.latencies_ns),
            work=self._work(),
            latencies_us=[latency // 1000 for latency in self.latencies_ns],
            failures={},
            cpu_ns={name: after.cpu_ns[name] - before.cpu_ns[name] for name in after.cpu_ns},
            instructions=_instructions(before, after),
        )

    def _work(self) -> float:
        if self._job.body_bytes >= FRACTIONAL_BYTES_MIN:
            return self.sent / len(self.request)
        if self.response_bytes >= FRACTIONAL_BYTES_MIN:
            return self.received / self.response_bytes
        return float(len(self.latencies_ns))

    def _drain(self) -> None:
        self.sending = False
        deadline = time.perf_counter() + DRAIN_S
        self._turn_until(lambda now: now >= deadline or not self.under_way)
        if self.under_way:
            self.failures["not answered in time"] += self.under_way

    def _close(self) -> None:
        for connection in self._connections.values():
            connection.sock.close()
        self.epoll.close()


class _Connection:
    """One request after the other, each sent when the one before is answered in full."""

    __slots__ = ("_head", "_left", "_load", "_started_ns", "_unsent", "sock")

    def __init__(self, load: Load, sock: socket.socket) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        self.sock = sock
        self._load = load
        self._head = b""  # of a response, as long as it is incomplete
        self._left = 0  # of its body
        self._started_ns = 0
        self._unsent = memoryview(b"")
        load.epoll.register(sock.fileno(), select.EPOLLIN)

    def start(self) -> None:
        self._load.under_way += 1
        self._started_ns = time.perf_counter_ns()
        self._send(self._load.request)

    def ready(self, events: int) -> None:
        try:
            if events & select.EPOLLOUT:
                self._send(self._unsent)
            if events & ~select.EPOLLOUT:
                self._receive()
        except BlockingIOError:
            return
        except OSError as error:
            self._load.failed(self, f"connection: {error.strerror or error}")

    def _send(self, data: memoryview) -> None:
        waited = bool(self._unsent)
        try:
            sent = self.sock.send(data)
        except BlockingIOError:
            sent = 0
        self._load.sent += sent
        self._unsent = data[sent:]
        if bool(self._unsent) != waited:
            writing = select.EPOLLOUT if self._unsent else 0
            self._load.epoll.modify(self.sock.fileno(), select.EPOLLIN | writing)

    def _receive(self) -> None:
        if self._left:
            count = self.sock.recv_into(_DISCARD)
            if not count:
                self._load.failed(self, "response: cut short")
            else:
                self._body(count)
            return
        data = self.sock.recv(RECEIVE_BYTES)
        if not data:
            self._load.failed(self, "connection: closed by the server")
        else:
            self._begin(self._head + data if self._head else data)

    def _begin(self, data: bytes) -> None:
        end = data.find(b"\r\n\r\n")
        if end < 0:
            self._head = data
            return
        self._head = b""
        length = _CONTENT_LENGTH.search(data, 0, end + 2)
        if not data.startswith(_OK):
            self._load.failed(self, f"status: {data[9:12].decode('latin-1')}")
        elif length is None or int(length[1]) != self._load.response_bytes:
            self._load.failed(self, "response: not of the length that was asked for")
        else:
            self._left = self._load.response_bytes
            self._body(len(data) - end - 4)

    def _body(self, count: int) -> None:
        self._load.received += count
        self._left -= count
        if self._left < 0:
            self._load.failed(self, "response: more than its length")
        elif not self._left:
            self._finish()

    def _finish(self) -> None:
        load = self._load
        load.latencies_ns.append(time.perf_counter_ns() - self._started_ns)
        load.under_way -= 1
        if load.sending:
            self.start()


def _instructions(before: Sample, after: Sample) -> dict[str, int] | None:
    if before.instructions is None or after.instructions is None:
        return None
    return {name: after.instructions[name] - before.instructions[name] for name in after.instructions}


def serve() -> None:
    """Runs the jobs that come on standard input, until it ends."""
    gc.freeze()
    for line in sys.stdin:
        job: dict[str, Any] = json.loads(line)
        outcome = Load(Job(**job)).run()
        print(json.dumps(dataclasses.asdict(outcome)), flush=True)


if __name__ == "__main__":
    serve()
