"""The programs as a person runs them: real processes, ports that the kernel chose, deadlines instead of sleeps.

Responsible for: starting nodes and agents, knowing when they are ready, what they said and how much memory they took,
ending each by its process ID on every way out, and one claim about all of them: no traceback, ever. Refuses to know:
what a test wants of them.

A child is killed by the kernel when the thread that started it ends, so even a test run that dies leaves nothing
behind; for the same reason only the main thread starts children.
"""

from __future__ import annotations

import http.client
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TypeVar

__all__ = ["HOST", "Agent", "Node", "Program", "Programs", "curl", "until"]

HOST = "127.0.0.1"
START_S = 30.0
STOP_S = 5.0
CURL_S = 60
POLL_S = 0.01
TRACEBACK = "Traceback (most recent call last)"

Given = TypeVar("Given")
Fetch = Callable[[int, str, str], tuple[int, str]]


def until(condition: Callable[[], Given | None], what: str, within_s: float = START_S) -> Given:
    """What ``condition`` gives as soon as it is true; fails after a deadline."""
    deadline = time.monotonic() + within_s
    while not (given := condition()):
        assert time.monotonic() < deadline, f"{what} did not come within {within_s:.0f} s"
        time.sleep(POLL_S)
    return given


class Program:
    """One process with its output in files."""

    def __init__(self, name: str, command: Sequence[str], directory: Path, descriptors: Sequence[int] = ()) -> None:
        assert threading.current_thread() is threading.main_thread(), "its end would end the child"
        self.name = name
        self._out, self._err = directory / f"{name}.out", directory / f"{name}.err"
        tied = [path, "--pdeathsig", "KILL", "--"] if (path := shutil.which("setpriv")) else []
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [*tied, *command], stdin=subprocess.DEVNULL, stdout=out, stderr=err, pass_fds=descriptors
            )
        self.pid = self.process.pid

    @property
    def output(self) -> str:
        """What it has written to standard output."""
        return self._out.read_text(errors="replace")

    @property
    def errors(self) -> str:
        """What it has written to standard error: its log."""
        return self._err.read_text(errors="replace")

    def until_said(self, pattern: str, within_s: float = START_S) -> re.Match[str]:
        """Wait for something in its log."""
        return until(lambda: self._said(pattern), f"{pattern!r} in the log of {self.name}", within_s)

    def _said(self, pattern: str) -> re.Match[str] | None:
        found = re.search(pattern, self.errors)
        assert found or self.process.poll() is None, f"{self.name} ended with {self.process.returncode}: {self.errors}"
        return found

    def wait(self, within_s: float = 20.0) -> int:
        """Its exit code, once it has ended by itself."""
        return self.process.wait(within_s)

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def peak_rss_bytes(self) -> int:
        """The most memory that it has ever had."""
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{self.pid}/status").read_text())
        assert found
        return int(found[1]) * 1024

    def stop(self) -> None:
        """Twice asked is without a drain; what does not listen is killed."""
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
            if self.process.poll() is None:
                self.send(number)
                with suppress(subprocess.TimeoutExpired):
                    self.process.wait(STOP_S if number == signal.SIGKILL else 1.0)


class Node(Program):
    """``pico-node`` on ports of its own, unless it is told others; its ports are known once it is ``ready``."""

    DOORS = ("proxy", "admin", "upstream", "gossip")

    def __init__(
        self,
        name: str,
        directory: Path,
        options: Sequence[str],
        host: str = HOST,
        within: Sequence[str] = (),
        descriptors: Sequence[int] = (),
    ) -> None:
        """``within`` stands before the command: what runs it elsewhere; ``descriptors`` stay open for it."""
        self.host = host
        self.options = tuple(options)
        self.fetch: Fetch = answer_of
        """How its admin door is asked; replaced where this process cannot reach it."""
        told = {option.partition("=")[0] for option in options}
        chosen = {f"--{door}-host": host for door in self.DOORS} | {f"--{door}-port": "0" for door in self.DOORS}
        defaults = [f"{flag}={value}" for flag, value in chosen.items() if flag not in told]
        super().__init__(
            name, [*within, sys.executable, "-m", "pico.cli.node", *defaults, *options], directory, descriptors
        )

    def ready(self) -> Node:
        """Wait until its doors are open and it has tried each node that it was told of."""
        self.opened().until_said("is ready")
        return self

    def opened(self) -> Node:
        """Wait until its doors are open."""
        self.proxy_port, self.admin_port, self.upstream_port, self.gossip_port = (
            int(self.until_said(rf"--{door}-port listens on \S+:(\d+)")[1]) for door in self.DOORS
        )
        return self

    @property
    def same_ports(self) -> list[str]:
        """The options of a node that takes its place."""
        return [f"--{door}-port={getattr(self, f'{door}_port')}" for door in self.DOORS]

    @property
    def upstream_url(self) -> str:
        return f"http://{self.host}:{self.upstream_port}"

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.proxy_port}"

    def admin(self, path: str) -> tuple[int, str]:
        """Status and body of the admin door's answer."""
        return self.fetch(self.admin_port, path, self.host)

    def metric(self, name: str) -> float:
        """One sample of ``/metrics``, by its name and labels as they are written there."""
        found = re.search(rf"^{re.escape(name)} (\S+)$", self.admin("/metrics")[1], re.MULTILINE)
        assert found, f"{name} is not in /metrics"
        return float(found[1])


class Agent(Program):
    """``pico-agent``; ``registered`` waits until the node knows it."""

    def __init__(self, name: str, directory: Path, options: Sequence[str], within: Sequence[str] = ()) -> None:
        super().__init__(name, [*within, sys.executable, "-m", "pico.cli.agent", *options], directory)

    def registered(self) -> Agent:
        self.until_said("is registered at")
        return self


class Programs:
    """Starts programs; leaving the ``with`` block ends them, the last one first, and reads what they said."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._started: list[Program] = []

    def __enter__(self) -> Programs:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()
        for program in self._started:
            print(f"--- {program.name}, {program.process.returncode}\n{program.errors[-4000:]}")
        for program in self._started:
            assert TRACEBACK not in program.errors, f"{program.name}: {program.errors}"

    def stop(self) -> None:
        """End all of them now: they are asked together, and then again one by one."""
        for program in reversed(self._started):
            if program.process.poll() is None:
                program.send(signal.SIGTERM)
        for program in reversed(self._started):
            program.stop()

    def node(self, *options: str) -> Node:
        """A node that is ready, and leaves without delay unless it is told one."""
        return self.node_begun(*options).ready()

    def node_begun(
        self, *options: str, host: str = HOST, within: Sequence[str] = (), descriptors: Sequence[int] = ()
    ) -> Node:
        """The same, not yet ready."""
        delay = [] if any(option.startswith("--drain-delay") for option in options) else ["--drain-delay=0"]
        return self.add(Node(self._name("node"), self._directory, [*delay, *options], host, within, descriptors))

    def agent(self, server: str, endpoint: str, service_port: int, *options: str) -> Agent:
        """An agent for one endpoint with a service on this machine; not yet registered."""
        return self.agent_of(f"--server={server}", f"--endpoint={endpoint}={HOST}:{service_port}", *options)

    def agent_of(self, *options: str, within: Sequence[str] = ()) -> Agent:
        """An agent that is told everything; not yet registered."""
        return self.add(Agent(self._name("agent"), self._directory, options, within))

    def program(self, module: str, *words: str, within: Sequence[str] = ()) -> Program:
        """Any module of this tree as a program."""
        return self.add(Program(self._name(module), [*within, sys.executable, "-m", module, *words], self._directory))

    def run(self, program: str, *words: str, within_s: float = 20.0) -> tuple[int, str]:
        """``node`` or ``agent`` until it ends by itself: exit code and what it said."""
        started = self.program(f"pico.cli.{program}", *words)
        return started.wait(within_s), started.errors

    def _name(self, program: str) -> str:
        return f"{program}-{len(self._started) + 1}"

    def add(self, program: Given) -> Given:
        """One more to end and to read: any ``Program``."""
        assert isinstance(program, Program)
        self._started.append(program)
        return program


def answer_of(port: int, path: str, host: str = HOST) -> tuple[int, str]:
    """Status and body of a plain GET, on this machine unless it is told another."""
    with closing(http.client.HTTPConnection(host, port, timeout=10)) as connection:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()


def curl(*words: str, input_: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """curl with its messages, without a proxy and with a deadline."""
    return subprocess.run([*CURL, *words], input=input_, capture_output=True, timeout=CURL_S + 10)


CURL = ["curl", "-sS", "--noproxy", "*", "--max-time", str(CURL_S)]


@contextmanager
def curling(*words: str, input_: bytes = b"") -> Iterator[subprocess.Popen[bytes]]:
    """curl while it runs, its output in a pipe and its input in a file; it has ended when the block is left."""
    with tempfile.TemporaryFile() as given:
        given.write(input_)
        given.seek(0)
        with subprocess.Popen(
            [*CURL, "-N", *words], stdin=given, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as running:
            try:
                yield running
            finally:
                if running.poll() is None:
                    running.kill()
