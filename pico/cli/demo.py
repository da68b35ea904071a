"""``pico demo``: a node, an agent and a sample service, and requests that travel through all of them.

Responsible for: starting the three as a person would, showing what goes in and what comes out, and leaving nothing
behind. Refuses to know: how any of it works inside; it has what every user has, command lines and sockets.
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
pico demo: a node, an agent and a sample service on this machine, with requests through all of them.

Usage:
  pico demo [--once]

  --once         exit when the requests were answered: 0 if all were answered well
  -h, --help     print this text

Ports are the usual ones, 8000 to 8003 and 3000, or free ones where those are taken. Only this machine can reach them.
"""

HOST = "127.0.0.1"
ENDPOINT = "demo"
READY_S = 30.0
ANSWER_S = 10.0
BODY_SHOWN_MAX = 160


class DemoFailed(PicoError):
    """Says what did not come as it should."""


@dataclass(frozen=True, slots=True)
class Ports:
    """Where everything listens."""

    proxy: int
    admin: int
    upstream: int
    gossip: int
    service: int

    @classmethod
    def choose(cls) -> Ports:
        """The usual port where it is free, else any free one."""
        chosen: list[int] = []
        for usual in (8000, 8001, 8002, 8003, 3000):
            number = usual if _is_free(usual) else free_port()
            while number in chosen:
                number = free_port()
            chosen.append(number)
        return cls(*chosen)


class Request(NamedTuple):
    """One request to show: what it is to show, and what must come back."""

    purpose: str
    method: str
    path: str
    fields: Mapping[str, str]
    status: int = 200
    body: bytes | None = None
    expected: bytes = b""  # stands somewhere in the response body


def requests_of(ports: Ports) -> list[Request]:
    by_host = {"Host": f"{ENDPOINT}.localhost:{ports.proxy}"}
    by_field = {"Host": f"{HOST}:{ports.proxy}", "x-pico-endpoint": ENDPOINT}
    nobody = {"Host": f"nobody.localhost:{ports.proxy}"}
    body = b"a body that comes back"
    return [
        Request("the endpoint named by the first label of the host", "GET", "/time", by_host, expected=b'"time"'),
        Request("the endpoint named by a header", "GET", "/time", by_field, expected=b'"time"'),
        Request("a body, there and back", "POST", "/echo", by_host, body=body, expected=body),
        Request("events, shown when they come", "GET", "/events?count=4&every_ms=250", by_host, expected=b"event 4"),
        Request("an endpoint that nobody registered", "GET", "/", nobody, status=502, expected=b"endpoint_not_found"),
    ]


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
            for number, request in enumerate(requests_of(ports), 1):
                show(number, request, ports.proxy)
            if not arguments["--once"]:
                invite(ports)
                stay(running)
    except BenchFailed as failed:
        raise DemoFailed(str(failed)) from failed
    return 0


def start(children: Children, ports: Ports) -> Sequence[Child]:
    """The three processes, when a request travels through all of them."""
    service = children.start("service", [sys.executable, "-m", "pico.cli.demo_service", str(ports.service)])
    wait_until(lambda: not _is_free(ports.service), "the sample service", service)
    node = children.start("pico-node", [sys.executable, "-m", "pico.cli.node", *node_flags(ports)])
    agent = children.start("pico-agent", [sys.executable, "-m", "pico.cli.agent", *agent_flags(ports)])
    running = (service, node, agent)
    wait_until(lambda: _answers(ports), "the way through node and agent", *running, timeout_s=READY_S)
    return running


def node_flags(ports: Ports) -> list[str]:
    doors = {"proxy": ports.proxy, "admin": ports.admin, "upstream": ports.upstream, "gossip": ports.gossip}
    flags = [flag for door, port in doors.items() for flag in (f"--{door}-host={HOST}", f"--{door}-port={port}")]
    return [*flags, "--drain-delay=0", "--grace-period=1s"]


def agent_flags(ports: Ports) -> list[str]:
    server, target = f"http://{HOST}:{ports.upstream}", f"{ENDPOINT}={HOST}:{ports.service}"
    return [f"--server={server}", f"--endpoint={target}", "--grace-period=1s"]


def stay(running: Sequence[Child]) -> None:
    """Until Ctrl-C, or until one of them ends by itself."""
    while True:
        for child in running:
            child.require_alive()
        time.sleep(0.5)


# -- what a person sees ------------------------------------------------------------------------------------------------


def introduce(ports: Ports) -> None:
    say(f"""
{bold("Pico demo")}: client → node → tunnel → agent → service, each a process of its own on this machine

  node     proxy door http://{HOST}:{ports.proxy}, metrics at http://{HOST}:{ports.admin}/metrics
  agent    connected to the node's upstream door {HOST}:{ports.upstream}, registered the endpoint {bold(ENDPOINT)}
  service  http://{HOST}:{ports.service}, an ordinary HTTP server
""")


def show(number: int, request: Request, port: int) -> None:
    """Send one request and print it with its answer. Raises ``DemoFailed`` when another answer comes."""
    host = request.fields["Host"]
    named = f"   x-pico-endpoint: {request.fields['x-pico-endpoint']}" if "x-pico-endpoint" in request.fields else ""
    say(f"{number}. {bold(request.purpose)}\n   > {request.method} http://{host}{request.path}{named}")
    if request.body:
        say(f"   > {_excerpt(request.body)}")
    with closing(http.client.HTTPConnection(HOST, port, timeout=ANSWER_S)) as connection:
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
    say(f"""{bold("Now you")}, from another terminal or a browser:

  curl http://{ENDPOINT}.localhost:{ports.proxy}/time
  curl -H 'x-pico-endpoint: {ENDPOINT}' http://{HOST}:{ports.proxy}/time
  curl -N http://{ENDPOINT}.localhost:{ports.proxy}/events

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


def _answers(ports: Ports) -> bool:
    with closing(http.client.HTTPConnection(HOST, ports.proxy, timeout=1)) as connection, suppress(Exception):
        connection.request("GET", "/time", headers={"Host": f"{ENDPOINT}.localhost"})
        return connection.getresponse().status == 200
    return False
