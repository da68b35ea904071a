"""A node and its agents under trouble, for as long as is asked: ``python -m tests.soak --seconds 600 [--seed N]``.

Clients send, stall, cut off and go away as a seed says; agents are killed and come back. Two claims are checked. While
there is trouble: no byte is ever wrong, whatever arrives complete is right, and the endpoint whose agent is left alone
never fails. And in the peace after each round: everything is given back, so that the last round ends with as many
greenlets, actors and sockets as the first, and without a stream.

Responsible for: the trouble and the two claims. Refuses to know: anything inside node and agent but their counts.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from pico.cli.bench.processes import free_port

HOST = "127.0.0.1"
CLIENTS = 12
KILLED_AGENTS = 3
ROUNDS_MIN = 2
ROUND_S = 30.0
WAIT_S = 40.0
BODY_BYTES_MAX = 3 * 1024 * 1024
GROWTH_MAX = {"greenlets": 3, "actors": 0, "descriptors": 3, "sockets": 2}
RSS_GROWTH_KIB_MAX = 24 * 1024

CALM, SHAKY = "calm", "shaky"  # the endpoint whose agent lives, and the one whose agents are killed


def body_of(token: str, size: int) -> bytes:
    """The one right body for a token; so a byte of another stream is noticed."""
    block = hashlib.sha256(token.encode()).digest()
    return (block * (size // len(block) + 1))[:size]


class Service(BaseHTTPRequestHandler):
    """``GET /TOKEN/SIZE`` with a length or in chunks, ``POST /TOKEN`` gives the body back, ``GET /hang`` never ends."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        if self.path == "/hang":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for _ in range(100):
                self.wfile.write(b"5\r\nalive\r\n")
                time.sleep(0.1)
            self.close_connection = True
            return
        _, token, size = self.path.split("/")
        body = body_of(token, int(size))
        if token.startswith("c"):
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for start in range(0, len(body), 50_000):
                piece = body[start : start + 50_000]
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")
        else:
            self._answer(body)

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers["Content-Length"])))

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None: ...


class ServiceServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request: object, client_address: object) -> None: ...


class SoakFailed(Exception):
    """A claim did not hold."""


@dataclass
class Part:
    """One process under test."""

    process: subprocess.Popen[bytes]
    counts_file: Path
    log: Path

    def counts(self) -> dict[str, int]:
        self.counts_file.unlink(missing_ok=True)
        self.process.send_signal(signal.SIGRTMIN)
        until(self.counts_file.exists, "the counts of a process")
        counted: dict[str, int] = json.loads(self.counts_file.read_text())
        return counted

    def rss_kib(self) -> int:
        found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{self.process.pid}/status").read_text())
        return int(found[1]) if found else 0

    def stop(self) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self.process.poll() is None:
                self.process.send_signal(number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(5)


@dataclass
class World:
    """The processes, and what the clients have seen."""

    directory: Path
    seed: int
    service_port: int
    proxy_port: int = 0
    admin_port: int = 0
    upstream_port: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    running: threading.Event = field(default_factory=threading.Event)
    starts: int = 0

    def __post_init__(self) -> None:
        self.proxy_port, self.admin_port, self.upstream_port, gossip_port = (free_port() for _ in range(4))
        self.node = self.start(
            "node",
            *(f"--{door}-host={HOST}" for door in ("proxy", "admin", "upstream", "gossip")),
            f"--proxy-port={self.proxy_port}",
            f"--admin-port={self.admin_port}",
            f"--upstream-port={self.upstream_port}",
            f"--gossip-port={gossip_port}",
            "--keep-alive-timeout=2s",
        )
        until(lambda: accepts(self.admin_port), "the node", self.node)
        self.calm = self.start_agent(CALM)
        self.shaky = [self.start_agent(SHAKY) for _ in range(KILLED_AGENTS)]

    def parts(self) -> list[Part]:
        return [self.node, self.calm, *self.shaky]

    def start(self, program: str, *options: str) -> Part:
        self.starts += 1
        counts_file = self.directory / f"{program}-{self.starts}.json"
        log = self.directory / f"{program}-{self.starts}.log"
        command = [sys.executable, "-m", "tests.soak_process", program, str(counts_file), *options]
        with log.open("wb") as err:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=err)
        return Part(process, counts_file, log)

    def start_agent(self, endpoint: str) -> Part:
        server, target = f"http://{HOST}:{self.upstream_port}", f"{endpoint}={HOST}:{self.service_port}"
        return self.start("agent", f"--server={server}", f"--endpoint={target}", "--idle-connection-timeout=2s")

    def gauge(self, name: str) -> float:
        with contextlib.closing(http.client.HTTPConnection(HOST, self.admin_port, timeout=10)) as connection:
            connection.request("GET", "/metrics")
            text = connection.getresponse().read().decode()
        found = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    def stop(self) -> None:
        self.running.clear()
        for part in self.parts()[::-1]:
            part.stop()


# -- clients -----------------------------------------------------------------------------------------------------------


@dataclass
class Client:
    """One client in its own thread, with its own chance."""

    world: World
    name: str
    rng: random.Random
    requests: int = 0

    def run(self, until_s: float) -> None:
        acts: list[Callable[[str], str]] = [self.get, self.get, self.post, self.leave, self.stall, self.half, self.hang]
        while time.monotonic() < until_s:
            endpoint = self.rng.choice((CALM, SHAKY))
            act = self.rng.choice(acts)
            try:
                outcome = act(endpoint)
            except (http.client.HTTPException, OSError) as error:
                outcome = f"{type(error).__name__}"
                if endpoint == CALM:
                    self.world.wrong.append(f"{endpoint} {act.__name__}: {error!r}")
            self.world.outcomes[f"{endpoint} {act.__name__} {outcome}"] += 1

    def token(self) -> str:
        self.requests += 1
        return f"{self.rng.choice('cl')}-{self.name}-{self.requests}"

    def size(self) -> int:
        return self.rng.choice((0, 1, 100, 10_000, 300_000, self.rng.randrange(BODY_BYTES_MAX)))

    def get(self, endpoint: str) -> str:
        """Several requests on one connection, each with its own right answer."""
        with self.connected() as connection:
            for _ in range(self.rng.randrange(1, 5)):
                token, size = self.token(), self.size()
                connection.request("GET", f"/{token}/{size}", headers={"Host": f"{endpoint}.test"})
                outcome = self.check(endpoint, token, connection.getresponse(), body_of(token, size))
                if outcome != "200":
                    return outcome
        return "200"

    def post(self, endpoint: str) -> str:
        token, size = self.token(), self.size()
        body = body_of(token, size)
        with self.connected() as connection:
            connection.request("POST", f"/{token}", body=body, headers={"Host": f"{endpoint}.test"})
            return self.check(endpoint, token, connection.getresponse(), body)

    def check(self, endpoint: str, token: str, response: http.client.HTTPResponse, expected: bytes) -> str:
        """The status, and what is said to have failed."""
        body = response.read()
        if response.status == 200 and body != expected:
            self.world.wrong.append(f"{endpoint} {token}: {len(body)} bytes instead of {len(expected)}, or other ones")
        if response.status != 200 and endpoint == CALM:
            self.world.wrong.append(f"{endpoint} {token}: {response.status} {body[:200]!r}")
        return " ".join(filter(None, (str(response.status), response.headers["x-pico-error"])))

    def leave(self, endpoint: str) -> str:
        """Goes away in the middle of a response, politely or with a reset."""
        with self.opened(endpoint, f"/{self.token()}/{BODY_BYTES_MAX}") as sock:
            wanted = self.rng.randrange(400_000)
            while wanted > 0 and (data := sock.recv(65536)):
                wanted -= len(data)
            if self.rng.random() < 0.5:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return "left"

    def stall(self, endpoint: str) -> str:
        """Takes nothing for a while, then all of it or none."""
        with self.opened(endpoint, f"/{self.token()}/{BODY_BYTES_MAX}") as sock:
            time.sleep(self.rng.random())
            while self.rng.random() < 0.9 and sock.recv(65536):
                pass
        return "stalled"

    def half(self, endpoint: str) -> str:
        """Announces a body and sends a part of it."""
        with self.opened(endpoint, "/half", method="POST", fields="Content-Length: 500000\r\n") as sock:
            sock.sendall(bytes(self.rng.randrange(400_000)))
        return "left"

    def hang(self, endpoint: str) -> str:
        """Listens to a response without an end, and leaves."""
        with self.opened(endpoint, "/hang") as sock:
            sock.recv(65536)
            time.sleep(self.rng.random() / 2)
        return "left"

    @contextlib.contextmanager
    def connected(self) -> Iterator[http.client.HTTPConnection]:
        with contextlib.closing(http.client.HTTPConnection(HOST, self.world.proxy_port, timeout=60)) as connection:
            yield connection

    @contextlib.contextmanager
    def opened(self, endpoint: str, path: str, *, method: str = "GET", fields: str = "") -> Iterator[socket.socket]:
        with socket.create_connection((HOST, self.world.proxy_port), timeout=60) as sock:
            sock.sendall(f"{method} {path} HTTP/1.1\r\nHost: {endpoint}.test\r\n{fields}\r\n".encode())
            yield sock


# -- the run -----------------------------------------------------------------------------------------------------------


def soak(seconds: float, seed: int, directory: Path, say: Callable[[str], None]) -> Counter[str]:
    """Rounds of trouble and peace. Raises ``SoakFailed`` when a claim does not hold."""
    rounds = max(ROUNDS_MIN, round(seconds / ROUND_S))
    rng = random.Random(seed)
    service = ServiceServer((HOST, 0), Service)
    threading.Thread(target=service.serve_forever, daemon=True).start()
    world = World(directory, seed, service.server_address[1])
    try:
        first: list[dict[str, int]] = []
        until(lambda: world.gauge("pico_upstreams") == 1 + KILLED_AGENTS, "every agent", world.node)
        for number in range(1, rounds + 1):
            trouble(world, rng, seconds / rounds, number)
            seen = peace(world)
            say(f"round {number} of {rounds}: {sum(world.outcomes.values())} requests, {seen}")
            first = first or seen  # the first round has filled every cache and pool
            compare(first, seen)
        return world.outcomes
    finally:
        world.stop()
        service.shutdown()
        service.server_close()


def trouble(world: World, rng: random.Random, seconds: float, number: int) -> None:
    """One round: all clients at work, and an agent killed about every second."""
    until_s = time.monotonic() + seconds
    clients = [Client(world, f"{number}-{one}", random.Random(rng.getrandbits(64))) for one in range(CLIENTS)]
    threads = [threading.Thread(target=client.run, args=(until_s,), daemon=True) for client in clients]
    for thread in threads:
        thread.start()
    while time.monotonic() < until_s:
        time.sleep(0.5 + rng.random())
        which = rng.randrange(KILLED_AGENTS)
        world.shaky[which].process.send_signal(rng.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM)))
        with contextlib.suppress(subprocess.TimeoutExpired):
            world.shaky[which].process.wait(10)
        world.shaky[which].stop()
        world.shaky[which] = world.start_agent(SHAKY)
    for thread in threads:
        thread.join(WAIT_S * 2)
        if thread.is_alive():
            raise SoakFailed("a client waits for ever")
    if world.wrong:
        raise SoakFailed("; ".join(world.wrong[:10]))


def peace(world: World) -> list[dict[str, int]]:
    """What node and calm agent hold when nobody asks for anything any more."""
    until(lambda: world.gauge("pico_upstreams") == 1 + KILLED_AGENTS, "the agents' return", world.node)
    for gauge in ("pico_requests_in_flight", "pico_streams", "pico_client_connections"):
        until(lambda gauge=gauge: world.gauge(gauge) == 0, f"{gauge} 0", world.node)  # type: ignore[misc]
    time.sleep(2.5)  # kept-alive connections to the service have an idle time of two seconds
    return [part.counts() | {"rss_kib": part.rss_kib()} for part in (world.node, world.calm)]


def compare(first: list[dict[str, int]], seen: list[dict[str, int]]) -> None:
    for part, before, now in zip(("node", "agent"), first, seen, strict=True):
        for name, growth_max in (GROWTH_MAX | {"rss_kib": RSS_GROWTH_KIB_MAX}).items():
            if now[name] - before[name] > growth_max:
                raise SoakFailed(f"{part}: {name} grew from {before[name]} to {now[name]}")


def until(condition: Callable[[], object], what: str, part: Part | None = None) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        if part is not None and part.process.poll() is not None:
            raise SoakFailed(f"a process ended with status {part.process.returncode}: {part.log.read_text()[-2000:]}")
        if time.monotonic() > deadline:
            raise SoakFailed(f"{what} did not come within {WAIT_S:.0f} s")
        time.sleep(0.05)


def accepts(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1):
        return True
    return False


def main(words: list[str]) -> int:
    given = dict(zip(words[::2], words[1::2], strict=True))
    seed = int(given.get("--seed", os.getpid() * 1_000_003 + time.time_ns() % 1_000_003))
    print(f"soak: seed {seed}, {commit()}", flush=True)
    with tempfile.TemporaryDirectory(prefix="pico-soak-") as directory:
        try:
            outcomes = soak(
                float(given.get("--seconds", "600")), seed, Path(directory), lambda text: print(text, flush=True)
            )
        except SoakFailed as failed:
            print(f"soak failed, --seed {seed}, {commit()}: {failed}")
            return 1
    for outcome, number in sorted(outcomes.items()):
        print(f"{number:8}  {outcome}")
    return 0


def commit() -> str:
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, timeout=10
        )
    except OSError:
        return "commit unknown"
    return f"commit {described.stdout.strip() or 'unknown'}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
