"""Small requests beside large bodies, on a path that is slower than either side: the agent's line, as so often."""

from __future__ import annotations

import os
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.system.processes import HOST, Programs, curl, curling, until
from tests.system.service import Service

RATE = 2_000_000  # bytes per second, each way
BULK = 8
WINDOW_BYTES = 256 * 1024
PIECE = 8192
ROUNDS = 15

pytestmark = pytest.mark.timeout(120)


class SlowPath:
    """A relay between agent and node that takes ``RATE`` each way, and holds next to nothing itself."""

    def __init__(self, port: int) -> None:
        self._target = (HOST, port)
        self.passed = {"up": 0, "down": 0}
        self._sockets: list[socket.socket] = []
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2 * PIECE)
        self._listener.bind((HOST, 0))
        self._listener.listen()
        self.url = f"http://{HOST}:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        try:
            while True:
                agent, _ = self._listener.accept()
                node = socket.socket()
                node.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2 * PIECE)
                node.connect(self._target)
                self._sockets += [agent, node]
                for source, target, way in ((agent, node, "down"), (node, agent, "up")):
                    source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    threading.Thread(target=self._pump, args=(source, target, way), daemon=True).start()
        except OSError:
            pass  # closed

    def _pump(self, source: socket.socket, target: socket.socket, way: str) -> None:
        free_at = time.monotonic()
        try:
            while data := source.recv(PIECE):
                free_at = max(free_at, time.monotonic()) + len(data) / RATE
                time.sleep(max(0.0, free_at - time.monotonic()))
                target.sendall(data)
                self.passed[way] += len(data)
        except OSError:
            pass  # one of the two has gone

    def close(self) -> None:
        for each in (self._listener, *self._sockets):
            each.close()


@pytest.fixture
def sparse(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "large"
    path.touch()
    os.truncate(path, 1 << 30)
    yield path
    path.unlink()


@pytest.mark.parametrize("way", ["down", "up"])
def test_a_small_request_does_not_wait_for_the_bodies_of_others(
    way: str, programs: Programs, service: Service, sparse: Path
) -> None:
    """In turn with the others it would wait for the rest of the window of each, and that is a second."""
    node = programs.node()
    path = SlowPath(int(node.upstream_url.rpartition(":")[2]))
    programs.agent(path.url, "slow", service.port).registered()
    service.serve_file(sparse)
    words = ["-H", "x-pico-endpoint: slow"]
    bulk = [*words, "-o", os.devnull, f"{node.url}/file"] if way == "down" else [*words, "-T", str(sparse), node.url]
    with ExitStack() as stack:
        stack.callback(path.close)
        for _ in range(BULK):
            stack.enter_context(curling(*bulk))
        until(lambda: path.passed[way] > 2 * RATE, "two seconds of large bodies")
        took, before, began = [], path.passed[way], time.monotonic()
        for _ in range(ROUNDS):
            at = time.monotonic()
            assert curl(*words, "--fail", f"{node.url}/fields").returncode == 0
            took.append(time.monotonic() - at)
        rate = (path.passed[way] - before) / (time.monotonic() - began)
    print(
        f"{way}: small requests {statistics.median(took) * 1e3:.0f} ms, worst {max(took) * 1e3:.0f} ms, {rate:.0f} B/s"
    )
    assert statistics.median(took) < BULK * WINDOW_BYTES / RATE / 4
    assert rate > RATE * 0.8, "the large ones go on"
