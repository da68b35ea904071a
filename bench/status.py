"""What looking at a node costs its requests: ``python -m bench.status``.

Responsible for: a node with ten thousand endpoints and a steady load, in turns left alone and looked at, and comparing
how long requests take. Refuses to know: how pages are made; it has a command line, sockets and the admin door.

The load is open: requests are due at fixed times, whether the one before was answered or not, and each is measured from
when it was due. So a node that stands still for a moment is noticed by every request that was due in that moment. The
kinds of round take turns, because the machine is never the same for long; the figures are medians over the rounds.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import socket as plain_socket
import statistics
import sys
import time
from dataclasses import dataclass, field
from urllib.request import urlopen

import gevent
from gevent import socket

from bench.cluster import HOST, NodeProcess, cluster
from pico.cli.bench.memory import IdleUpstreams, require_descriptors
from pico.cli.bench.processes import BenchFailed, Child, Children, free_port, wait_until
from pico.cli.bench.targets import answers, listens, source_directory

RATIO_MAX = 1.2
"""p99 of requests while pages are asked for, against p99 without."""

SELF = (sys.executable, "-m", "bench.status")
CONNECTIONS = 16
REQUEST = b"GET /100 HTTP/1.1\r\nHost: web.example\r\n\r\n"
LATE_S = 30.0
READY_S = 120.0

KINDS = {
    "alone": (),
    "/metrics": ("/metrics",),
    "/status/endpoints": ("/status/endpoints?limit=100000",),
    "/status/upstreams": ("/status/upstreams?limit=100000",),
    "all pages": (
        "/metrics",
        "/status/node",
        "/status/nodes",
        "/status/endpoints?limit=100000",
        "/status/upstreams?limit=100000",
        "/status/gossip",
        "/status/actors",
        "/status/requests?limit=1000",
        "/status/errors",
    ),
}


@dataclass
class Round:
    """One round of one kind: the latencies of its requests, and how long its pages took."""

    latencies_ms: list[float] = field(default_factory=list)
    failures: int = 0
    pages_ms: list[float] = field(default_factory=list)
    page_bytes: int = 0

    def quantile(self, share: float) -> float:
        ordered = sorted(self.latencies_ms)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


# -- the load, in a process of its own ---------------------------------------------------------------------------------


def run_load(port: int, rate: int, seconds: float) -> None:
    """Send, and print the latencies in milliseconds as one line of JSON."""
    gc.disable()
    latencies, failures = [], 0
    total = int(rate * seconds)
    began = time.monotonic() + 0.1
    numbers = iter(range(total))

    def work() -> None:
        nonlocal failures
        sock = socket.create_connection((HOST, port), timeout=LATE_S)
        sock.setsockopt(plain_socket.IPPROTO_TCP, plain_socket.TCP_NODELAY, 1)
        for number in numbers:
            due = began + number / rate
            wait_s = due - time.monotonic()
            if wait_s > 0:
                gevent.sleep(wait_s)
            sock.sendall(REQUEST)
            answer = b""
            while not (answer.endswith(bytes(100)) and b"\r\n\r\n" in answer):
                data = sock.recv(4096)
                if not data:
                    failures += 1
                    return
                answer += data
            failures += not answer.startswith(b"HTTP/1.1 200 ")
            latencies.append((time.monotonic() - due) * 1000)

    gevent.joinall([gevent.spawn(work) for _ in range(CONNECTIONS)], raise_error=True)
    print(json.dumps({"latencies_ms": latencies, "failures": failures + total - len(latencies)}), flush=True)


def hold(port: int, count: int) -> None:
    """Register so many endpoints, say so, and answer what the node asks until the end."""
    require_descriptors(count + 100)
    with IdleUpstreams(port) as upstreams:
        upstreams.open(count, 1)
        print("held", flush=True)
        while not upstreams.ended:
            upstreams.serve(1.0)
    raise BenchFailed(f"the node ended {upstreams.ended} upstreams")


# -- rounds ------------------------------------------------------------------------------------------------------------


def looked_at(node: NodeProcess, paths: tuple[str, ...], every_s: float, load: Child, result: Round) -> None:
    """Ask for each of the pages at that pace while the load runs."""
    due = time.monotonic() + 0.3
    while load.process.poll() is None:
        if not paths or time.monotonic() < due:
            time.sleep(0.01)
            continue
        due = time.monotonic() + every_s
        began = time.monotonic()
        for path in paths:
            with urlopen(f"http://{HOST}:{node.admin}{path}", timeout=LATE_S) as answer:
                result.page_bytes = max(result.page_bytes, len(answer.read()))
        result.pages_ms.append((time.monotonic() - began) * 1000)


def one_round(children: Children, node: NodeProcess, kind: str, options: argparse.Namespace) -> Round:
    name = f"load-{time.monotonic_ns()}"
    words = ["--role=load", f"--port={node.proxy}", f"--rate={options.rate}", f"--seconds={options.seconds}"]
    load = children.start(name, [*SELF, *words])
    if options.realtime:
        first_of_all(load)
    result = Round()
    looked_at(node, KINDS[kind], options.every, load, result)
    if load.process.returncode:
        raise BenchFailed(f"the load ended with {load.process.returncode}: {load.last_words()}")
    said = json.loads((children.directory / f"{name}.out").read_text())
    result.latencies_ms, result.failures = said["latencies_ms"], said["failures"]
    return result


def first_of_all(*children: Child) -> None:
    """Have them run before everything else on the machine."""
    for child in children:
        os.sched_setscheduler(child.pid, os.SCHED_RR, os.sched_param(1))


def measure(options: argparse.Namespace) -> dict[str, list[Round]]:
    rounds: dict[str, list[Round]] = {kind: [] for kind in KINDS}
    flags = [f"--upstreams-max={options.endpoints + 10}", "--access-log=off"]
    require_descriptors(options.endpoints + 1000)
    with cluster(1, *flags) as nodes:
        node = nodes.nodes[0]

        children = nodes.children
        port = free_port()
        service = [sys.executable, str(source_directory() / "service.py"), f"--port={port}"]
        behind = children.start("service", service)
        wait_until(lambda: listens(port), "the service", behind)
        server, endpoint = f"--server=http://{HOST}:{node.upstream}", f"--endpoint=web={HOST}:{port}"
        agent = children.start("agent", [sys.executable, "-m", "pico.cli.agent", server, endpoint])
        wait_until(lambda: answers(node.proxy, "web.example", "/100"), "the agent", agent)
        words = ["--role=hold", f"--port={node.upstream}", f"--count={options.endpoints}"]
        holder = children.start("holder", [*SELF, *words])
        wait_for_endpoints(node, options.endpoints + 1, holder)
        if options.realtime:
            first_of_all(node.child, behind, agent, holder)
        one_round(children, node, "alone", options)  # what only the first round costs
        for number in range(options.rounds):
            for kind, some in rounds.items():
                print(f"round {number + 1} of {options.rounds}: {kind}", file=sys.stderr, flush=True)
                some.append(one_round(children, node, kind, options))
                holder.require_alive()
    return rounds


def wait_for_endpoints(node: NodeProcess, count: int, holder: Child) -> None:
    until = time.monotonic() + READY_S
    while node.metric("pico_endpoints") < count:
        holder.require_alive()
        if time.monotonic() > until:
            raise BenchFailed(f"{count} endpoints were not registered within {READY_S:g} s")
        time.sleep(0.5)


# -- the table ---------------------------------------------------------------------------------------------------------


def report(rounds: dict[str, list[Round]]) -> bool:
    """Print it; whether the bar is kept."""
    kept = True
    print("| while asked for | p50 | p99 | worst | p99 to alone | failed | all its pages | largest |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    alone = statistics.median(one.quantile(0.99) for one in rounds["alone"])
    for kind, some in rounds.items():
        p50, p99, worst = (statistics.median(one.quantile(share) for one in some) for share in (0.5, 0.99, 1.0))
        failed = sum(one.failures for one in some)
        pages = [ms for one in some for ms in one.pages_ms]
        shown = f"{statistics.median(pages):.0f} ms" if pages else "-"
        largest = f"{max(one.page_bytes for one in some) / 1024:.0f} KiB" if pages else "-"
        kept = kept and p99 <= RATIO_MAX * alone and not failed
        figures = f"{p50:.2f} ms | {p99:.2f} ms | {worst:.1f} ms | {p99 / alone:.2f} | {failed}"
        print(f"| {kind} | {figures} | {shown} | {largest} |")
    print(f"\nbar: p99 at most {RATIO_MAX} times that of alone, nothing failed: {'kept' if kept else 'missed'}")
    return kept


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--endpoints", type=int, default=10_000)
    parser.add_argument("--rate", type=int, default=500, help="requests a second")
    parser.add_argument("--seconds", type=float, default=5.0, help="of one round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--every", type=float, default=1.0, help="seconds from one look at the pages to the next")
    parser.add_argument("--realtime", action="store_true", help="measured before all else on this machine; needs root")
    parser.add_argument("--check", action="store_true", help="exit with 1 when the bar is missed")
    for name in ("--role", "--port", "--count"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role == "load":
        run_load(int(options.port), options.rate, options.seconds)
        return 0
    if options.role == "hold":
        hold(int(options.port), int(options.count))
        return 0
    kept = report(measure(options))
    return 0 if kept or not options.check else 1


if __name__ == "__main__":
    sys.exit(main())
