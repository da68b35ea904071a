"""The processes that the benchmark and the demo start, and that must be gone when these end.

Responsible for: free ports, starting children with their output in files, talking to the load's process, ending every
child by its own process ID on every way out. Refuses to know: what the children are for.

A child gets a signal from the kernel when whoever started it dies, so even SIGKILL leaves nothing behind.
"""

from __future__ import annotations

import ctypes
import dataclasses
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from pico.cli.bench.load import Job, Outcome
from pico.cli.settings import PREFIX
from pico.errors import PicoError

__all__ = ["BenchFailed", "Child", "Children", "LoadProcess", "free_port", "wait_until"]

STOP_S = 3.0
START_S = 20.0
_PR_SET_PDEATHSIG = 1


class BenchFailed(PicoError):
    """Whoever started the processes cannot go on; the message says which part failed."""


class Child:
    """One running process."""

    def __init__(self, name: str, process: subprocess.Popen[str], output: Path) -> None:
        self.name = name
        self.pid = process.pid
        self.process = process
        self._output = output

    def require_alive(self) -> None:
        status = self.process.poll()
        if status is not None:
            raise BenchFailed(f"{self.name} ended with status {status}: {self.last_words()}")

    def last_words(self) -> str:
        """The end of what it wrote, on one line."""
        with suppress(OSError):
            return " | ".join(self._output.read_text(errors="replace").strip().splitlines()[-3:])
        return ""

    def stop(self) -> None:
        """Asks, then insists. The drain of a node is of no interest here, so it gets no long time for it."""
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        for ask in (self.process.terminate, self.process.kill):
            if self.process.poll() is None:
                ask()
                with suppress(subprocess.TimeoutExpired):
                    self.process.wait(STOP_S)


class Children:
    """Starts children; leaving the ``with`` block ends them, the last one first."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._children: list[Child] = []

    def __enter__(self) -> Children:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for child in reversed(self._children):
            child.stop()

    def start(self, name: str, command: Sequence[str]) -> Child:
        """Standard output goes to ``NAME.out``, errors to ``NAME.err`` in the directory of the run."""
        with self._file(f"{name}.out") as out:
            return self._start(name, command, stdin=subprocess.DEVNULL, stdout=out)

    def start_with_pipes(self, name: str, command: Sequence[str]) -> Child:
        return self._start(name, command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def stop(self, *children: Child) -> None:
        for child in children:
            child.stop()
            self._children.remove(child)

    def _file(self, name: str) -> IO[str]:
        return (self.directory / name).open("w")

    def _start(self, name: str, command: Sequence[str], *, stdin: int, stdout: IO[str] | int) -> Child:
        # What is set here for nodes and agents is meant for others: their ports, say, or their cluster.
        environment = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
        with self._file(f"{name}.err") as err:
            try:
                process = subprocess.Popen(
                    command,
                    stdin=stdin,
                    stdout=stdout,
                    stderr=err,
                    env=environment,
                    text=True,
                    preexec_fn=_die_with(os.getpid()),  # noqa: PLW1509 - this process has no threads
                )
            except OSError as error:
                raise BenchFailed(f"{name} cannot be started: {error}") from error
        child = Child(name, process, self.directory / f"{name}.err")
        self._children.append(child)
        return child


class LoadProcess:
    """The load, in its own process: one job at a time."""

    def __init__(self, children: Children) -> None:
        self._child = children.start_with_pipes("load", [sys.executable, "-m", "pico.cli.bench.load"])

    def run(self, job: Job) -> Outcome:
        stdin, stdout = self._child.process.stdin, self._child.process.stdout
        assert stdin is not None
        assert stdout is not None
        with suppress(BrokenPipeError):
            stdin.write(json.dumps(dataclasses.asdict(job)) + "\n")
            stdin.flush()
        line = stdout.readline()
        if not line:
            self._child.process.wait(STOP_S)
            self._child.require_alive()
            raise BenchFailed("the load stopped answering")
        answer: dict[str, Any] = json.loads(line)
        return Outcome(**answer)


_ports = iter(random.sample(range(20_000, 32_000), 12_000))


def free_port() -> int:
    """Free for TCP and UDP, given once, and below what the system gives to outgoing connections: it stays free."""
    for port in _ports:
        with suppress(OSError), socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
            tcp.bind(("", port))
            udp.bind(("", port))
            return port
    raise BenchFailed("no port is free")


def wait_until(ready: Callable[[], bool], what: str, *children: Child, timeout_s: float = START_S) -> None:
    """Asks again and again until ``ready``; a child that ends, or the time limit, is a ``BenchFailed``."""
    deadline = time.monotonic() + timeout_s
    while not ready():
        for child in children:
            child.require_alive()
        if time.monotonic() > deadline:
            words = "; ".join(filter(None, (child.last_words() for child in children)))
            raise BenchFailed(f"{what} is not ready after {timeout_s:.0f} s {words}".rstrip())
        time.sleep(0.05)


def _die_with(parent: int) -> Callable[[], None]:
    """What the child does before it becomes the program: ask for SIGTERM at its parent's death."""
    prctl = ctypes.CDLL(None).prctl

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)

    return ask
