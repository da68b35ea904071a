"""Requests at an even rate, each checked to the byte, and the service that answers them; each in a process of its own.

    python -m bench.steady service PORT
    python -m bench.steady load URL ENDPOINTS RATE SERVICE-PORT

A request has a connection of its own and is never tried again here: what fails, fails. Every request carries a token,
its body, if it is a POST, and the body of its response follow from it. GET, POST and a response that takes two seconds
come in turn. The load goes on until ``stop`` is said on standard input, lets what is in flight come to its end, and
prints one JSON object: a row for each request, and the tokens of POSTs that the service got more than once.

Responsible for: asking, answering and comparing. Refuses to know: Pico, balancers, and what happens to them meanwhile.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import sys
import time
from collections import Counter
from typing import Any, Final
from urllib.parse import urlsplit

import gevent
from gevent import socket
from gevent.event import Event
from gevent.fileobject import FileObjectPosix
from gevent.server import StreamServer

HOST: Final = "127.0.0.1"
WAIT_S: Final = 40.0
KINDS: Final = ("GET", "POST", "LONG", "GET", "POST")
LONG_S: Final = 2.0
LONG_PIECES: Final = 8
BODY_BYTES_MAX: Final = 20_000


def body_of(token: str) -> bytes:
    """The body for a token: of its own length, in its own bytes."""
    block = hashlib.sha256(token.encode()).digest()
    size = int.from_bytes(block[:4], "big") % BODY_BYTES_MAX
    return token.encode() + b" " + (block * (size // len(block) + 1))[:size]


# The service.


class Service:
    """Answers by the token in the target; counts how often each has come."""

    def __init__(self) -> None:
        self._seen: Counter[str] = Counter()

    def serve(self, sock: Any, _: Any) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        reader = sock.makefile("rb")
        try:
            while self._answer(sock, reader):
                pass
        except OSError:
            pass  # the client has gone
        finally:
            reader.close()
            sock.close()

    def _answer(self, sock: Any, reader: Any) -> bool:
        target, fields = read_head(reader)
        if not target:
            return False
        token = target.split(" ")[1].lstrip("/")
        got = reader.read(int(fields.get("content-length", "0")))
        if token == "twice":
            body = json.dumps(
                [one for one, times in self._seen.items() if times > 1 and one.startswith("POST")]
            ).encode()
        elif token.startswith("POST") and got != body_of(token):
            body = b"the body of the request is not what it should be"
        else:
            self._seen[token] += 1
            body = body_of(token)
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
        pieces = LONG_PIECES if token.startswith("LONG") else 1
        size = len(body) // pieces + 1
        for at in range(0, len(body), size):
            if pieces > 1:
                gevent.sleep(LONG_S / pieces)
            sock.sendall(body[at : at + size])
        return True


# The load.


class Load:
    """Sends one request after the other, whatever becomes of those before."""

    def __init__(self, url: str, endpoints: list[str], rate: float, service_port: int) -> None:
        parts = urlsplit(url)
        self._door = (parts.hostname or HOST, parts.port or 80)
        self._endpoints = endpoints
        self._rate = rate
        self._service_port = service_port
        self._rows: list[tuple[str, str, float, float, str]] = []

    def run(self, stopped: Event) -> dict[str, Any]:
        began, running, run = time.monotonic(), [], os.urandom(4).hex()
        for number in itertools.count():
            if stopped.wait(max(0.0, began + number / self._rate - time.monotonic())):
                break
            kind = KINDS[number % len(KINDS)]
            endpoint = self._endpoints[number * 7 % len(self._endpoints)]
            running.append(gevent.spawn(self._one, f"{kind}-{run}-{number}", kind, endpoint))
        gevent.joinall(running)
        _, _, twice = self._ask((HOST, self._service_port), "GET", "twice", "-", b"")
        return {"rows": self._rows, "twice": json.loads(twice)}

    def _one(self, token: str, kind: str, endpoint: str) -> None:
        began = time.monotonic()
        method = "POST" if kind == "POST" else "GET"
        try:
            status, fields, body = self._ask(
                self._door, method, token, endpoint, body_of(token) if kind == "POST" else b""
            )
            wrong = "" if body == body_of(token) else f"another body: {body[:60]!r}"
            why = f"{status} {fields.get('x-pico-error', '')}" if status != 200 else wrong
        except (OSError, ValueError) as error:
            why = str(error) or type(error).__name__
        self._rows.append((kind, endpoint, began, time.monotonic(), why))

    def _ask(
        self, door: tuple[str, int], method: str, token: str, endpoint: str, body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        with socket.create_connection(door, timeout=WAIT_S) as sock:
            length = f"Content-Length: {len(body)}\r\n" if body else ""
            head = f"{method} /{token} HTTP/1.1\r\nHost: {endpoint}.example\r\nConnection: close\r\n{length}\r\n"
            sock.sendall(head.encode() + body)
            with sock.makefile("rb") as reader:
                status, fields = read_head(reader)
                if not status:
                    raise OSError("no answer")
                return int(status.split(" ")[1]), fields, read_body(reader, fields)


# Both.


def read_head(reader: Any) -> tuple[str, dict[str, str]]:
    """The first line and the fields; nothing when the connection ended before."""
    lines = []
    while (line := reader.readline()) not in (b"\r\n", b""):
        lines.append(line.decode("latin-1").rstrip("\r\n"))
    if line == b"" or not lines:
        return "", {}
    fields = (one.partition(":") for one in lines[1:])
    return lines[0], {name.lower(): value.strip() for name, _, value in fields}


def read_body(reader: Any, fields: dict[str, str]) -> bytes:
    """The whole body, counted or in chunks; ``OSError`` when it breaks off."""
    if fields.get("transfer-encoding") == "chunked":
        body = b""
        while size := int(reader.readline() or b"x", 16):
            body += reader.read(size)
            reader.readline()
        return body
    size = int(fields["content-length"])
    body = reader.read(size)
    if len(body) < size:
        raise OSError("broken off in the body")
    return body


def main(words: list[str]) -> None:
    if words[0] == "service":
        StreamServer((HOST, int(words[1])), Service().serve, backlog=1024).serve_forever()
        return
    stopped = Event()
    load = Load(words[1], words[2].split(","), float(words[3]), int(words[4]))
    said = FileObjectPosix(sys.stdin.buffer.raw, "rb")
    gevent.spawn(said.readline).link(lambda _: stopped.set())
    json.dump(load.run(stopped), sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1:])
