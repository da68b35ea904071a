"""What a cluster of real processes does in how long: ``python -m bench.cluster``.

Responsible for: starting nodes and upstreams on the loopback address, killing, stopping and restarting them, and
measuring what others see of it; at the end one table with the bars. Refuses to know: how nodes come to know anything;
it has command lines, sockets, signals and metrics. What takes hundreds of nodes is measured in virtual time by
``python -m tests.simulation.bars``.

An upstream here is a few lines on the base protocol (``spec/rpc.md``): it answers each request with its own name, so a
client sees who has served it. Everything is bounded in time, and every process is ended by its own ID.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import re
import signal
import statistics
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import gevent
from gevent import socket

from pico.cli.bench.counters import Counters
from pico.cli.bench.load import Job
from pico.cli.bench.processes import BenchFailed, Child, Children, LoadProcess, free_port, wait_until
from pico.cli.bench.targets import answers, pico_agent

HOST = "127.0.0.1"
ANSWER_S = 30.0
RPC = struct.Struct("!HQH")
HEARTBEAT, PROXY_HTTP, RESPONSE = 1, 2, 0x8000


# -- nodes, upstreams, clients ----------------------------------------------------------------------------------------


@dataclass
class NodeProcess:
    """One ``pico-node``."""

    name: str
    proxy: int
    admin: int
    upstream: int
    gossip: int
    child: Child

    def metric(self, name: str) -> float:
        """One sample, 0 when it is not there."""
        text = fetch(self.admin, "/metrics")
        found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.child.pid, number)


class Nodes:
    """A cluster; ``with`` ends it."""

    def __init__(self, children: Children, count: int, *flags: str) -> None:
        self.children = children
        self.flags = flags
        ports = [[free_port() for _ in range(4)] for _ in range(count)]
        self._seed = f"{HOST}:{ports[0][3]}"
        self.nodes = [self._start(f"n{number}", *four) for number, four in enumerate(ports)]
        for node in self.nodes:
            wait_until(lambda: answers(node.admin, HOST, "/readyz"), node.name, node.child)  # noqa: B023
        self.settle(count - 1)

    def _start(self, name: str, proxy: int, admin: int, upstream: int, gossip: int) -> NodeProcess:
        command = [sys.executable, "-m", "pico.cli.node", f"--node-id={name}", f"--join={self._seed}"]
        command += [f"--{door}-host={HOST}" for door in ("proxy", "admin", "upstream", "gossip")]
        command += [f"--proxy-port={proxy}", f"--admin-port={admin}", f"--upstream-port={upstream}"]
        command += [f"--gossip-port={gossip}", "--drain-delay=0", "--upstreams-per-address-max=20000", *self.flags]
        return NodeProcess(name, proxy, admin, upstream, gossip, self.children.start(name, command))

    def settle(self, others: int, *nodes: NodeProcess) -> None:
        """Until each knows so many others, with a link to each."""
        for node in nodes or self.nodes:
            wait_until(lambda: node.metric('pico_peer_links{direction="out"}') == others, f"links of {node.name}")  # noqa: B023

    def restart(self, node: NodeProcess) -> NodeProcess:
        """The same name on the same ports, at once."""
        self.children.stop(node.child)
        fresh = self._start(node.name, node.proxy, node.admin, node.upstream, node.gossip)
        self.nodes[self.nodes.index(node)] = fresh
        return fresh

    def stop(self) -> None:
        for node in self.nodes:
            with contextlib.suppress(ProcessLookupError):
                node.signal(signal.SIGCONT)
            node.child.process.kill()
        self.children.stop(*(node.child for node in self.nodes))


@contextlib.contextmanager
def cluster(count: int, *flags: str) -> Iterator[Nodes]:
    with tempfile.TemporaryDirectory(prefix="pico-cluster-") as directory, Children(Path(directory)) as children:
        nodes = Nodes(children, count, *flags)
        try:
            yield nodes
        finally:
            nodes.stop()


class Upstream:
    """Registers an endpoint and answers every request with its own name; ``registered_at`` is when it was accepted."""

    def __init__(self, node: NodeProcess, endpoint: str, name: str = "") -> None:
        self.name = (name or node.name).encode()
        self._sock = socket.create_connection((HOST, node.upstream), timeout=ANSWER_S)
        key = base64.b64encode(os.urandom(16)).decode()
        head = f"GET /pico/v1/listener/{endpoint} HTTP/1.1\r\nHost: {HOST}\r\nUpgrade: websocket\r\n"
        head += f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
        self._sock.sendall(head.encode())
        self._received = b""
        while b"\r\n\r\n" not in self._received:
            self._received += self._take()
        answer, _, self._received = self._received.partition(b"\r\n\r\n")
        if b" 101 " not in answer:
            raise BenchFailed(f"{endpoint} was refused by {node.name}: {answer.decode(errors='replace')}")
        self.registered_at = time.monotonic()
        self._serving = gevent.spawn(self._serve)

    def close(self) -> None:
        self._serving.kill()
        self._sock.close()

    def _take(self) -> bytes:
        data: bytes = self._sock.recv(65536)
        if not data:
            raise OSError("the node ended the tunnel")
        return data

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            self._sock.settimeout(None)
            while True:
                message = self._message()
                type_, id_, _ = RPC.unpack_from(message)
                body = b"" if type_ == HEARTBEAT else self._response()
                self._send(RPC.pack(type_, id_, RESPONSE) + body)

    def _response(self) -> bytes:
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(self.name), self.name)

    def _message(self) -> bytes:
        self._need(2)
        length, at = self._received[1] & 0x7F, 2
        if length >= 126:
            at = 4 if length == 126 else 10
            self._need(at)
            length = int.from_bytes(self._received[2:at], "big")
        self._need(at + length)
        message, self._received = self._received[at : at + length], self._received[at + length :]
        return message

    def _need(self, size: int) -> None:
        while len(self._received) < size:
            self._received += self._take()

    def _send(self, message: bytes) -> None:
        size = len(message)
        head = bytes((0x82, 0x80 | size)) if size < 126 else bytes((0x82, 0xFE)) + size.to_bytes(2, "big")
        self._sock.sendall(head + bytes(4) + message)  # a mask of zeros


def ask(node: NodeProcess, endpoint: str, method: str = "GET", timeout_s: float = ANSWER_S) -> tuple[int, bytes]:
    """Status and body; status 0 when the connection failed or no answer came."""
    body = b"x" if method == "POST" else b""
    request = f"{method} / HTTP/1.1\r\nHost: {endpoint}.x\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    try:
        with socket.create_connection((HOST, node.proxy), timeout=timeout_s) as sock:
            sock.sendall(request.encode() + body)
            answer = b""
            while data := sock.recv(65536):
                answer += data
    except OSError:
        return 0, b""
    head, _, body = answer.partition(b"\r\n\r\n")
    return (int(head[9:12]), body) if head.startswith(b"HTTP/1.1 ") else (0, b"")


def serves(node: NodeProcess, endpoint: str) -> bool:
    """Whether a request comes back from an upstream."""
    return ask(node, endpoint)[0] == 200


def fetch(port: int, path: str) -> str:
    with socket.create_connection((HOST, port), timeout=ANSWER_S) as sock:
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
        text = b""
        while data := sock.recv(65536):
            text += data
    return text.decode(errors="replace")


def until(condition: Callable[[], bool], what: str, timeout_s: float = ANSWER_S, pause_s: float = 0.001) -> float:
    """When it came true; fails after ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise BenchFailed(f"{what}: not within {timeout_s:g} s")
        gevent.sleep(pause_s)
    return time.monotonic()


# -- what is measured -------------------------------------------------------------------------------------------------


@dataclass
class Result:
    """One line of the table; ``values`` are seconds unless ``unit`` says otherwise."""

    name: str
    bar: str
    values: list[float]
    kept: bool
    unit: str = "ms"
    note: str = ""

    def shown(self) -> str:
        factor = 1000.0 if self.unit == "ms" else 1.0
        values = [value * factor for value in self.values]
        if len(values) == 1:
            return f"{values[0]:.4g} {self.unit}"
        return f"median {statistics.median(values):.3g}, worst {max(values):.3g} {self.unit} ({len(values)} runs)"


def registration(runs: int) -> list[Result]:
    """A new endpoint on one of three nodes, until both others route to it."""
    seconds: list[float] = []
    with cluster(3) as nodes:
        for run in range(runs):
            endpoint, owner = f"fresh{run}", nodes.nodes[run % 3]
            others = [node for node in nodes.nodes if node is not owner]
            upstream = Upstream(owner, endpoint)
            waits = [
                gevent.spawn(until, partial(serves, node, endpoint), f"{endpoint} at {node.name}") for node in others
            ]
            seconds += [wait.get() - upstream.registered_at for wait in waits]
            upstream.close()
    kept = statistics.median(seconds) <= 0.020 and max(seconds) <= 0.250
    return [
        Result(
            "endpoint registered → routable from every other of 3 nodes", "median ≤ 20, worst ≤ 250 ms", seconds, kept
        )
    ]


def lost_node(count: int, runs: int, how: signal.Signals, name: str, bar_s: float) -> Result:
    """Since when no other node gives a new request to one that is gone.

    Two nodes have the endpoint, one of them is lost. POSTs come at every other node all the time: one that fails, or
    that waits for longer than a tenth of a second, had been given to the lost one.
    """
    seconds: list[float] = []
    for run in range(runs):
        with cluster(count) as nodes:
            lost, stays, *others = nodes.nodes
            upstreams = [Upstream(lost, "both"), Upstream(stays, "both")]
            for node in others:
                until(lambda: {ask(node, "both")[1] for _ in range(8)} == {b"n0", b"n1"}, "both upstreams in use")  # noqa: B023
            given: list[float] = []
            over = False

            def load(node: NodeProcess) -> None:
                while not over:  # noqa: B023
                    began = time.monotonic()
                    gevent.spawn(one, node, began)
                    gevent.sleep(0.01)

            def one(node: NodeProcess, began: float) -> None:
                status, _ = ask(node, "both", "POST")
                if status != 200 or time.monotonic() - began > 0.1:
                    given.append(began)  # noqa: B023

            loads = [gevent.spawn(load, node) for node in others]
            gevent.sleep(0.5)
            given.clear()
            at = time.monotonic()
            lost.signal(how)
            gevent.sleep(bar_s + 3.0)
            over = True
            gevent.joinall(loads)
            seconds.append(max([0.0, *(began - at for began in given)]))
            for upstream in upstreams:
                upstream.close()
        del run
    return Result(f"{name}, {count} nodes", f"≤ {bar_s * 1000:g} ms", seconds, max(seconds) <= bar_s)


def many_endpoints(amount: int, dropped: int) -> list[Result]:
    """Endpoints as fast as one node takes them; then, when many have gone at once, a new one."""
    with cluster(3) as nodes:
        owner, *others = nodes.nodes
        upstreams: list[Upstream] = []

        def register(numbers: range) -> None:
            upstreams.extend(Upstream(owner, f"e{number}") for number in numbers)

        began = time.monotonic()
        step = amount // 16
        gevent.joinall(
            [gevent.spawn(register, range(at, min(at + step, amount))) for at in range(0, amount, step)],
            raise_error=True,
        )
        last = max(upstream.registered_at for upstream in upstreams)
        seen = [
            until(lambda: node.metric("pico_remote_endpoints") == amount, f"all endpoints at {node.name}", pause_s=0.02)  # noqa: B023
            for node in others
        ]
        took = [max(0.0, at - last) for at in seen]
        rate = amount / (last - began)
        for upstream in upstreams[:dropped]:
            upstream.close()
        fresh = Upstream(owner, "fresh")
        waits = [gevent.spawn(until, partial(serves, node, "fresh"), f"fresh at {node.name}") for node in others]
        visible = [wait.get() - fresh.registered_at for wait in waits]
    return [
        Result(
            f"{amount:,} endpoints registered on one node → all visible after the last",
            "≤ 2000 ms",
            took,
            max(took) <= 2.0,
            note=f"{rate:.0f} registrations a second",
        ),
        Result(
            f"a new endpoint right after {dropped:,} upstreams disconnected", "≤ 250 ms", visible, max(visible) <= 0.25
        ),
    ]


def restart(runs: int) -> list[Result]:
    """The same name again at once: its new endpoint is there, the old one is not."""
    seconds: list[float] = []
    stale = 0
    with cluster(3) as nodes:
        for run in range(runs):
            node, *others = nodes.nodes
            old = Upstream(node, f"old{run}")
            for other in others:
                until(lambda: ask(other, f"old{run}")[0] == 200, "the old endpoint")  # noqa: B023
            node.signal(signal.SIGKILL)
            old.close()
            node = nodes.restart(node)
            until(lambda: ready(node.upstream), "the node that was started again")  # noqa: B023
            fresh = Upstream(node, f"new{run}")
            waits = [gevent.spawn(until, partial(serves, other, f"new{run}"), f"new{run}") for other in others]
            seconds += [wait.get() - fresh.registered_at for wait in waits]
            stale += sum(ask(other, f"old{run}")[0] == 200 for other in others)
            fresh.close()
    kept = max(seconds) <= 0.25 and not stale
    return [
        Result(
            "restart under the same name → its new endpoint visible", "≤ 250 ms, none of the old", seconds, kept,
            note=f"{stale} old endpoints answered",
        )
    ]  # fmt: skip


def ready(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1.0):
        return True
    return False


def idle(seconds: float) -> list[Result]:
    """What doing nothing costs."""
    with cluster(3) as nodes:
        counters = Counters({node.name: [node.child.pid] for node in nodes.nodes})
        gevent.sleep(2.0)
        before = counters.read().cpu_ns
        gevent.sleep(seconds)
        after = counters.read().cpu_ns
        counters.close()
    shares = [(after[name] - before[name]) / seconds / 1e7 for name in before]
    return [Result("CPU of an idle node in a cluster of 3", "≤ 0.5 % of a core", shares, max(shares) <= 0.5, unit="%")]


def idle_among_many(count: int, seconds: float) -> list[Result]:
    """The same in a large cluster, whose other nodes share one process: theirs is not what is measured."""
    with cluster(1) as nodes:
        (node,) = nodes.nodes
        crowd = [sys.executable, str(Path(__file__).with_name("crowd.py")), f"--nodes={count - 1}"]
        child = nodes.children.start("crowd", [*crowd, f"--join={HOST}:{node.gossip}"])
        links = 'pico_peer_links{direction="out"}'
        wait_until(lambda: node.metric(links) == count - 1, f"{count} nodes", child, timeout_s=60.0)
        gevent.sleep(5.0)
        counters = Counters({node.name: [node.child.pid]})
        before = counters.read().cpu_ns[node.name]
        gevent.sleep(seconds)
        share = (counters.read().cpu_ns[node.name] - before) / seconds / 1e7
        counters.close()
    return [Result(f"CPU of an idle node in a cluster of {count}", "≤ 3 % of a core", [share], share <= 3.0, unit="%")]


def forwarded_cpu(seconds: float, rounds: int) -> list[Result]:
    """CPU per request on the entry node and on the owner, against the same load on the local path."""
    with cluster(3) as nodes:
        entry, owner, _ = nodes.nodes
        children = nodes.children
        port = free_port()
        service = children.start(
            "service", [sys.executable, str(Path(__file__).with_name("service.py")), f"--port={port}"]
        )
        wait_until(lambda: ready(port), "the service", service)
        pico_agent(children, "agent", owner.upstream, {"web": port})
        until(lambda: ask(entry, "web")[0] in (200, 404), "the endpoint at the entry node")
        load = LoadProcess(children)
        groups = {"entry": [entry.child.pid], "owner": [owner.child.pid]}
        ratios: dict[str, list[float]] = {"entry": [], "owner": []}
        local_us: list[float] = []
        for _ in range(rounds):
            local = cpu_us(load, owner.proxy, groups, seconds)["owner"]
            forwarded = cpu_us(load, entry.proxy, groups, seconds)
            local_us.append(local)
            for name, values in ratios.items():
                values.append(forwarded[name] / local)
    note = f"local path {statistics.median(local_us):.1f} µs"
    return [
        Result(
            f"CPU per forwarded request, {name} / local path (32 connections)", "≤ 1.15",
            [statistics.median(values)], statistics.median(values) <= 1.15, unit="×", note=note,
        )
        for name, values in ratios.items()
    ]  # fmt: skip


def cpu_us(load: LoadProcess, port: int, groups: dict[str, list[int]], seconds: float) -> dict[str, float]:
    job = Job(port=port, authority="web.x", target="/0", connections=32, seconds=seconds, warm_up_s=0.5, groups=groups)
    outcome = load.run(job)
    if outcome.failures:
        raise BenchFailed(f"requests failed: {outcome.failures}")
    return {name: cpu_ns / 1000 / outcome.requests for name, cpu_ns in outcome.cpu_ns.items()}


@dataclass
class Tally:
    """Outcomes of one load."""

    right: int = 0
    failed: dict[str, int] = field(default_factory=dict)


def lost_under_load(count: int, upstreams: int, seconds: float) -> list[Result]:
    """Ten nodes, many upstreams, one node lost under load: only what was in flight there and unsafe to retry fails."""
    with cluster(count, "--access-log=off") as nodes:
        registered = [Upstream(nodes.nodes[number % count], f"e{number // 2 % 50}") for number in range(upstreams)]
        for node in nodes.nodes:
            until(lambda: node.metric("pico_remote_endpoints") >= 49, f"endpoints at {node.name}", pause_s=0.05)  # noqa: B023
        lost, *others = nodes.nodes
        tally, over = Tally(), False

        def client(number: int) -> None:
            turn = number
            while not over:
                method = "POST" if turn % 4 == 0 else "GET"
                status, _ = ask(others[turn % len(others)], f"e{turn % 50}", method, 10.0)
                if status == 200:
                    tally.right += 1
                else:
                    kind = f"{method} {status}"
                    tally.failed[kind] = tally.failed.get(kind, 0) + 1
                turn += 7

        clients = [gevent.spawn(client, number) for number in range(32)]
        gevent.sleep(seconds / 2)
        lost.signal(signal.SIGKILL)
        gevent.sleep(seconds / 2)
        over = True
        gevent.joinall(clients)
        for upstream in registered:
            upstream.close()
    safe = sum(amount for kind, amount in tally.failed.items() if kind.startswith("GET"))
    unsafe = sum(tally.failed.values()) - safe
    return [
        Result(
            f"{upstreams:,} upstreams and {count} nodes losing one under load: requests safe to retry that failed", "0",
            [float(safe)], safe == 0 and unsafe <= 32, unit="failed",
            note=f"{tally.right} right, {unsafe} POST in flight failed",
        )
    ]  # fmt: skip


SUITES: dict[str, Callable[[bool], list[Result]]] = {
    "registration": lambda quick: registration(4 if quick else 10),
    "killed": lambda quick: [
        lost_node(count, 1 if quick else runs, signal.SIGKILL, "SIGKILL of a node → no new request to it", 0.25)
        for count, runs in ((3, 10), (9, 5))
    ],
    "silent": lambda quick: [
        lost_node(count, 1 if quick else 3, signal.SIGSTOP, "a node falls silent (SIGSTOP) → no new request to it", 3.0)
        for count in (3, 9)
    ],
    "endpoints": lambda quick: many_endpoints(1_000 if quick else 5_000, 200 if quick else 1_000),
    "restart": lambda quick: restart(2 if quick else 10),
    "idle": lambda quick: idle(5.0 if quick else 30.0),
    "crowd": lambda quick: idle_among_many(20 if quick else 50, 5.0 if quick else 30.0),
    "cpu": lambda quick: forwarded_cpu(1.0, 2 if quick else 24),
    "load": lambda quick: lost_under_load(4 if quick else 10, 100 if quick else 1_000, 4.0 if quick else 10.0),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("suites", nargs="*", choices=[[], *SUITES], help="all when none is named")
    parser.add_argument("--quick", action="store_true", help="fewer runs, smaller clusters")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    results: list[Result] = []
    for name in arguments.suites or SUITES:
        print(f"{name} ...", file=sys.stderr, flush=True)
        results += SUITES[name](arguments.quick)
    if arguments.json:
        print(json.dumps([vars(result) for result in results], indent=2))
    else:
        print_table(results)
    return 0 if all(result.kept for result in results) else 1


def print_table(results: list[Result]) -> None:
    print("| what | bar | measured | |\n| --- | --- | --- | --- |")
    for result in results:
        note = f"; {result.note}" if result.note else ""
        print(f"| {result.name} | {result.bar} | {result.shown()}{note} | {'kept' if result.kept else '**missed**'} |")


if __name__ == "__main__":
    sys.exit(main())
