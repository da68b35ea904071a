"""Many clients at one time, in a process of their own.

Run as ``python -m tests.system.load PORT CONNECTIONS REQUESTS METHODS``, methods between commas.

Every request carries a token of its own, and its response must carry the same one, in a field and in the body. The
load goes on until so many requests were answered and ``stop`` was said on standard input. Then it prints one JSON
object: how many were right, what was wrong, and every other outcome by method, with its tokens.

Responsible for: asking and comparing. Refuses to know: Pico, and why an answer is what it is. Raw sockets, because a
library might try again by itself.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import socket
import sys
import threading
from collections import Counter, defaultdict
from typing import BinaryIO

HOST = "127.0.0.1"
WAIT_S = 60.0
BODY_BYTES_MAX = 20_000
WRONG_MAX = 20


def body_of(token: str) -> bytes:
    """The body for a token: of its own length, in its own bytes."""
    block = hashlib.sha256(token.encode()).digest()
    size = int.from_bytes(block[:4], "big") % BODY_BYTES_MAX
    return token.encode() + b" " + (block * (size // len(block) + 1))[:size]


class Load:
    """What all clients share."""

    def __init__(self, port: int, requests: int, methods: list[str]) -> None:
        self._port = port
        self._requests = requests
        self._methods = methods
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._may_stop = threading.Event()
        self.right: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.failed: defaultdict[str, list[str]] = defaultdict(list)

    def run(self, connections: int) -> None:
        clients = [threading.Thread(target=self._client, args=(seed,)) for seed in range(connections)]
        for client in clients:
            client.start()
        sys.stdin.readline()
        self._may_stop.set()
        for client in clients:
            client.join()

    def _client(self, seed: int) -> None:
        rng = random.Random(seed)
        while self._goes_on():
            try:
                self._connection(rng)
            except OSError as error:
                with self._lock:
                    self.wrong.append(f"a connection failed: {error!r}")

    def _goes_on(self) -> bool:
        enough = sum(self.right.values()) >= self._requests and self._may_stop.is_set()
        return not enough and len(self.wrong) < WRONG_MAX

    def _connection(self, rng: random.Random) -> None:
        """Some requests on one connection, until it is closed or chance has had enough."""
        with socket.create_connection((HOST, self._port), timeout=WAIT_S) as sock, sock.makefile("rb") as answers:
            for _ in range(rng.randrange(1, 200)):
                if not self._goes_on() or not self._request(rng.choice(self._methods), sock, answers):
                    return

    def _request(self, method: str, sock: socket.socket, answers: BinaryIO) -> bool:
        token = f"{method}-{next(self._numbers)}"
        head = f"{method} /{token} HTTP/1.1\r\nHost: tokens.test\r\nX-Token: {token}\r\n"
        body = body_of(token) if method == "POST" else b""
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        try:
            sock.sendall(f"{head}{length}\r\n".encode() + body)
            status, fields, got = read_response(answers)
        except (OSError, EOFError) as error:
            self._failed(method, f"broken off: {type(error).__name__}", token)
            return False
        if status == 200:
            self._compare(token, method, fields, got)
        else:
            self._failed(method, f"{status} {fields.get('x-pico-error', '')}", token)
        return fields.get("connection", "").lower() != "close"

    def _compare(self, token: str, method: str, fields: dict[str, str], body: bytes) -> None:
        with self._lock:
            if fields.get("x-token") == token and body == body_of(token):
                self.right[method] += 1
            else:
                self.wrong.append(f"{token} was answered with {fields.get('x-token')}, {body[:40]!r}")

    def _failed(self, method: str, what: str, token: str) -> None:
        with self._lock:
            self.failed[f"{method} {what}"].append(token)


def read_response(answers: BinaryIO) -> tuple[int, dict[str, str], bytes]:
    """One response; ``EOFError`` when it is not whole."""
    lines = []
    while line := read_line(answers):
        lines.append(line)
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    size = int(fields["content-length"])
    body = answers.read(size)
    if len(body) < size:
        raise EOFError("the body is not whole")
    return int(lines[0].split()[1]), fields, body


def read_line(answers: BinaryIO) -> str:
    line = answers.readline()
    if not line.endswith(b"\r\n"):
        raise EOFError("the head is not whole")
    return line[:-2].decode()


def main() -> None:
    port, connections, requests = map(int, sys.argv[1:4])
    load = Load(port, requests, sys.argv[4].split(","))
    load.run(connections)
    json.dump({"right": load.right, "wrong": load.wrong, "failed": load.failed}, sys.stdout)


if __name__ == "__main__":
    main()
