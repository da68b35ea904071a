"""``pico demo``: three nodes, an agent and a sample service, and requests that travel through all of them.

Responsible for: starting them as a person would, showing what goes in and what comes out, also when the node that the
agent is connected to dies, and leaving nothing behind. Refuses to know: how any of it works inside; it has what every
user has, command lines and sockets.
"""

from __future__ import annotations

import http.client
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pico.cli.bench.command import stopped_by_signals
from pico.cli.bench.processes import BenchFailed, Child, Children, free_port, wait_until
from pico.errors import PicoError

__all__ = ["USAGE", "run_demo"]

USAGE = """\
pico demo: three nodes, an agent and a sample service on this machine, with requests through all of them.

Usage:
  pico demo [--once]

  --once         exit when the requests were answered: 0 if all were answered well
  -h, --help     print this text

Ports are 8000 to 8003, 8010 to 8013, 8020 to 8023 and 3000, or free ones where those are taken. Only this machine can
reach them.
"""

HOST = "127.0.0.1"
ENDPOINT = "demo"
TIME = b'"time"'  # stands in the answer to /time
READY_S = 30.0
ANSWER_S = 10.0
BODY_SHOWN_MAX = 160


class DemoFailed(PicoError):
    """Says what did not come as it should."""


@dataclass(frozen=True, slots=True)
class NodePorts:
    """Where one node listens."""

    proxy: int
    admin: int
    upstream: int
    gossip: int


@dataclass(frozen=True, slots=True)
class Ports:
    """Where everything listens."""

    nodes: tuple[NodePorts, ...]
    service: int

    @classmethod
    def choose(cls) -> Ports:
        """The usual port where it is free, else any free one."""
        usual = (*range(8000, 8004), *range(8010, 8014), *range(8020, 8024), 3000)
        chosen = [port if _is_free(port) else free_port() for port in usual]
        return cls(tuple(NodePorts(*chosen[at : at + 4]) for at in (0, 4, 8)), chosen[12])


class Request(NamedTuple):
    """One request to show: what it is to show, to which node it goes, and what must come back."""

    purpose: str
    node: NodePorts
    method: str
    path: str
    fields: Mapping[str, str]
    status: int = 200
    body: bytes | None = None
    expected: bytes = b""  # stands somewhere in the response body


def requests_of(ports: Ports) -> list[Request]:
    first, second, third = ports.nodes
    body = b"a body that comes back"
    return [
        Request("through the node that has the tunnel", first, "GET", "/time", _by_host(first), expected=TIME),
        Request("through another node", second, "GET", "/time", _by_host(second), expected=TIME),
        Request("the endpoint named by a header", third, "GET", "/time", _by_field(third), expected=TIME),
        Request("a body, there and back", third, "POST", "/echo", _by_host(third), body=body, expected=body),
        Request(
            "events, shown when they come",
            second,
            "GET",
            "/events?count=4&every_ms=250",
            _by_host(second),
            expected=b"event 4",
        ),
        Request(
            "an endpoint that nobody registered",
            second,
            "GET",
            "/",
            _by_host(second, "nobody"),
            status=502,
            expected=b"endpoint_not_found",
        ),
    ]


def requests_afterwards(ports: Ports) -> list[Request]:
    """When the node with the tunnel is dead, and the agent has found another one."""
    return [
        Request(
            f"through node-{number}, after the death of node-1",
            node,
            "GET",
            "/time",
            _by_host(node),
            expected=TIME,
        )
        for number, node in enumerate(ports.nodes[1:], 2)
    ]


def request_at_last(ports: Ports) -> Request:
    """When the dead node is back."""
    first = ports.nodes[0]
    return Request("through node-1, which is back", first, "GET", "/time", _by_host(first), expected=TIME)


def _by_host(node: NodePorts, endpoint: str = ENDPOINT) -> dict[str, str]:
    return {"Host": f"{endpoint}.localhost:{node.proxy}"}


def _by_field(node: NodePorts) -> dict[str, str]:
    return {"Host": f"{HOST}:{node.proxy}", "x-pico-endpoint": ENDPOINT}


def run_demo(arguments: Mapping[str, Any]) -> int:
    """Runs with the arguments of ``USAGE``. Exit code: 0 all well; 130 after Ctrl-C; raises ``DemoFailed``."""
    try:
        with (
            stopped_by_signals(),
            tempfile.TemporaryDirectory(prefix="pico-demo-") as directory,
            Children(Path(directory)) as children,
        ):
            ports = Ports.choose()
            running = start(children, ports)
            introduce(ports)
            requests = requests_of(ports)
            for number, request in enumerate(requests, 1):
                show(number, request)
            number = lose_a_node(children, running, ports, len(requests))
            bring_it_back(children, running, ports, number + 1)
            if not arguments["--once"]:
                invite(ports)
                stay(running)
    except BenchFailed as failed:
        raise DemoFailed(str(failed)) from failed
    return 0


def start(children: Children, ports: Ports) -> list[Child]:
    """All processes, the nodes first, when a request has travelled through each node."""
    service = children.start("service", [sys.executable, "-m", "pico.cli.demo_service", str(ports.service)])
    wait_until(lambda: not _is_free(ports.service), "the sample service", service)
    nodes = [start_node(children, ports, number) for number in range(len(ports.nodes))]
    wait_until(lambda: not _is_free(ports.nodes[0].upstream), "node-1", *nodes, timeout_s=READY_S)
    agent = children.start("pico-agent", [sys.executable, "-m", "pico.cli.agent", *agent_flags(ports)])
    running = [*nodes, agent, service]
    for node in ports.nodes:
        wait_until(lambda: _answers(node), "the way through nodes and agent", *running, timeout_s=READY_S)  # noqa: B023
    return running


def start_node(children: Children, ports: Ports, index: int) -> Child:
    name = f"node-{index + 1}"
    return children.start(name, [sys.executable, "-m", "pico.cli.node", *node_flags(ports, index)])


def node_flags(ports: Ports, index: int) -> list[str]:
    node = ports.nodes[index]
    doors = {"proxy": node.proxy, "admin": node.admin, "upstream": node.upstream, "gossip": node.gossip}
    flags = [flag for door, port in doors.items() for flag in (f"--{door}-host={HOST}", f"--{door}-port={port}")]
    others = ",".join(f"{HOST}:{other.gossip}" for other in ports.nodes if other is not node)
    return [*flags, f"--node-id=node-{index + 1}", f"--join={others}", "--drain-delay=0", "--grace-period=1s"]


def agent_flags(ports: Ports) -> list[str]:
    servers = [f"--server=http://{HOST}:{node.upstream}" for node in ports.nodes]
    return [*servers, f"--endpoint={ENDPOINT}={HOST}:{ports.service}", "--grace-period=1s"]


def lose_a_node(children: Children, running: list[Child], ports: Ports, shown: int) -> int:
    """SIGKILL for the node with the tunnel; the others go on when the agent has found one of them."""
    say(bold("Now node-1, which has the tunnel, is killed (SIGKILL)") + ". The agent looks for another node.\n")
    dead = running.pop(0)
    dead.process.kill()
    children.stop(dead)
    began = time.perf_counter()
    for node in ports.nodes[1:]:
        wait_until(lambda: _answers(node), "the way around the dead node", *running, timeout_s=READY_S)  # noqa: B023
    took_ms = (time.perf_counter() - began) * 1000
    say(f"   both other nodes have answered, {took_ms:.0f} ms after its death\n")
    for request in requests_afterwards(ports):
        shown += 1
        show(shown, request)
    return shown


def bring_it_back(children: Children, running: list[Child], ports: Ports, number: int) -> None:
    """The same node again, as whoever looks after it would start it."""
    running.insert(0, start_node(children, ports, 0))
    wait_until(lambda: _answers(ports.nodes[0]), "node-1, started again", *running, timeout_s=READY_S)
    show(number, request_at_last(ports))


def stay(running: Sequence[Child]) -> None:
    """Until Ctrl-C, or until one of them ends by itself."""
    while True:
        for child in running:
            child.require_alive()
        time.sleep(0.5)


# -- what a person sees ------------------------------------------------------------------------------------------------


def introduce(ports: Ports) -> None:
    nodes = "\n".join(
        f"  node-{number}   proxy door http://{HOST}:{node.proxy}, live page http://{HOST}:{node.admin}/"
        for number, node in enumerate(ports.nodes, 1)
    )
    say(f"""
{bold("Pico demo")}: client → any node → tunnel → agent → service, each a process of its own on this machine

{nodes}
  agent    connected to the upstream door of node-1, {HOST}:{ports.nodes[0].upstream}; its endpoint is {bold(ENDPOINT)}
  service  http://{HOST}:{ports.service}, an ordinary HTTP server
""")


def show(number: int, request: Request) -> None:
    """Send one request and print it with its answer. Raises ``DemoFailed`` when another answer comes."""
    host = request.fields["Host"]
    named = f"   x-pico-endpoint: {request.fields['x-pico-endpoint']}" if "x-pico-endpoint" in request.fields else ""
    say(f"{number}. {bold(request.purpose)}\n   > {request.method} http://{host}{request.path}{named}")
    if request.body:
        say(f"   > {_excerpt(request.body)}")
    with closing(http.client.HTTPConnection(HOST, request.node.proxy, timeout=ANSWER_S)) as connection:
        began = time.perf_counter()
        try:
            connection.request(request.method, request.path, body=request.body, headers=dict(request.fields))
            response = connection.getresponse()
            took_ms = (time.perf_counter() - began) * 1000
            say(f"   < {response.status} {response.reason}, {took_ms:.1f} ms")
            body = b"".join(_lines_shown(response, lambda: time.perf_counter() - began))
        except (OSError, http.client.HTTPException) as error:
            raise DemoFailed(
                f"request {number} got no whole answer: {type(error).__name__} {error}".rstrip()
            ) from error
    say()
    if response.status != request.status or request.expected not in body:
        raise DemoFailed(
            f"request {number} got another answer than {request.status} with {request.expected.decode()!r}"
        )


def invite(ports: Ports) -> None:
    first, second, third = ports.nodes
    say(f"""{bold("Now you")}, from another terminal or a browser:

  curl http://{ENDPOINT}.localhost:{first.proxy}/time
  curl -H 'x-pico-endpoint: {ENDPOINT}' http://{HOST}:{second.proxy}/time
  curl -N http://{ENDPOINT}.localhost:{third.proxy}/events

Ctrl-C stops everything.""")


def say(text: str = "") -> None:
    print(text, flush=True)


def bold(text: str) -> str:
    plain = not sys.stdout.isatty() or "NO_COLOR" in os.environ
    return text if plain else f"\x1b[1m{text}\x1b[0m"


def _lines_shown(response: http.client.HTTPResponse, elapsed: Callable[[], float]) -> Iterator[bytes]:
    """The lines of a body, each shown when it comes, with its time when the length was not told beforehand."""
    streamed = response.length is None
    for line in response:
        if line.strip():
            at = f"after {elapsed():.2f} s  " if streamed else ""
            say(f"   < {at}{_excerpt(line)}")
        yield line


def _excerpt(body: bytes) -> str:
    text = body.decode(errors="replace").strip()
    shown = "".join(letter if letter.isprintable() else "�" for letter in text[:BODY_SHOWN_MAX])
    return shown + ("…" if len(text) > BODY_SHOWN_MAX else "")


# -- sockets -----------------------------------------------------------------------------------------------------------


def _is_free(port: int) -> bool:
    """Nobody listens there, on this address or on every address."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((HOST, port))
        except OSError:
            return False
        return True


def _answers(node: NodePorts) -> bool:
    with closing(http.client.HTTPConnection(HOST, node.proxy, timeout=5)) as connection, suppress(Exception):
        connection.request("GET", "/time", headers={"Host": f"{ENDPOINT}.localhost"})
        return connection.getresponse().status == 200
    return False
