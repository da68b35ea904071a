"""Clients of a whole cluster, in a process of their own.

Run as ``python -m tests.system.cluster_load HOST:PORT,... CONNECTIONS METHODS``, methods between commas.

Each client goes from node to node as a balancer would: a door that refuses a connection is passed over, and nothing
else is tried again. Every request carries a token of its own, and its response must carry the same one. The load goes
on until ``stop`` is said on standard input, and prints one JSON object: how many were right by method, what was wrong,
every other outcome by method with its tokens, how often a door was closed, and the longest time without any answer.

A connection that is used again may be closed by the node while a request is on its way to it, as HTTP allows: then not
a byte of an answer comes. That is an outcome of its own (``stale``), which a client may try again if the method is
idempotent; with ``fresh`` as a fourth word each request has a connection of its own, and there is no such outcome.

Responsible for: asking and comparing. Refuses to know: Pico, and why an answer is what it is.
"""

from __future__ import annotations

import itertools
import json
import random
import socket
import sys
import threading
import time
from collections import Counter, defaultdict

from tests.system.load import WAIT_S, body_of, read_response

PAUSE_S = 0.005
CONNECT_S = 2.0


class Load:
    """What all clients share."""

    def __init__(self, doors: list[tuple[str, int]], methods: list[str], *, fresh: bool) -> None:
        self._doors = doors
        self._methods = methods
        self._fresh = fresh
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._answered_at = time.monotonic()
        self.quiet_s = 0.0
        self.right: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.failed: defaultdict[str, list[str]] = defaultdict(list)
        self.refused = 0
        self.slowest_s = 0.0

    def run(self, connections: int) -> None:
        clients = [threading.Thread(target=self._client, args=(seed,)) for seed in range(connections)]
        for client in clients:
            client.start()
        sys.stdin.readline()
        self._stopped.set()
        for client in clients:
            client.join()

    def _client(self, seed: int) -> None:
        rng = random.Random(seed)
        while not self._stopped.is_set():
            door = rng.choice(self._doors)
            try:
                sock = socket.create_connection(door, timeout=CONNECT_S)
            except OSError:
                with self._lock:
                    self.refused += 1
                time.sleep(PAUSE_S)
                continue
            sock.settimeout(WAIT_S)
            with sock, sock.makefile("rb") as answers:
                for number in range(1 if self._fresh else rng.randrange(1, 200)):
                    if self._stopped.is_set() or not self._request(rng.choice(self._methods), sock, answers, number):
                        break
                    time.sleep(PAUSE_S)

    def _request(self, method: str, sock: socket.socket, answers, number: int) -> bool:
        token = f"{method}-{next(self._numbers)}"
        head = f"{method} /{token} HTTP/1.1\r\nHost: tokens.test\r\nX-Token: {token}\r\n"
        body = body_of(token) if method == "POST" else b""
        fields = (f"Content-Length: {len(body)}\r\n" if body else "") + ("Connection: close\r\n" if self._fresh else "")
        began = time.monotonic()
        try:
            sock.sendall(f"{head}{fields}\r\n".encode() + body)
            if not answers.peek(1):
                raise ConnectionResetError
        except OSError:
            self._failed(method, "stale" if number else "no answer", token)
            return False
        try:
            status, said, got = read_response(answers)
        except (OSError, EOFError) as error:
            self._failed(method, f"broken off: {type(error).__name__}", token)
            return False
        self._note(method, token, status, said, got, time.monotonic() - began)
        return said.get("connection", "").lower() != "close"

    def _note(self, method: str, token: str, status: int, said: dict[str, str], got: bytes, took_s: float) -> None:
        with self._lock:
            self.slowest_s = max(self.slowest_s, took_s)
            if status != 200:
                self.failed[f"{method} {status} {said.get('x-pico-error', '')}"].append(token)
                return
            now = time.monotonic()
            self.quiet_s, self._answered_at = max(self.quiet_s, now - self._answered_at), now
            if said.get("x-token") == token and got == body_of(token):
                self.right[method] += 1
            else:
                self.wrong.append(f"{token} was answered with {said.get('x-token')}, {got[:40]!r}")

    def _failed(self, method: str, what: str, token: str) -> None:
        with self._lock:
            self.failed[f"{method} {what}"].append(token)


def main() -> None:
    doors = [(host, int(port)) for host, _, port in (door.rpartition(":") for door in sys.argv[1].split(","))]
    load = Load(doors, sys.argv[3].split(","), fresh=sys.argv[4:] == ["fresh"])
    load.run(int(sys.argv[2]))
    shown = ("right", "wrong", "failed", "refused", "quiet_s", "slowest_s")
    json.dump({name: getattr(load, name) for name in shown}, sys.stdout)


if __name__ == "__main__":
    main()
