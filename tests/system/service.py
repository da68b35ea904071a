"""A service for tests of real processes: an ordinary threaded HTTP server in the test's own process.

Responsible for: answering in the ways that a proxy could get wrong, and stopping in the middle until the test says go
on, so that a test decides the order of things and need not measure time. Refuses to know: that there is a tunnel.
"""

from __future__ import annotations

import hashlib
import json
import queue
import shutil
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from urllib.parse import parse_qs, urlsplit

__all__ = ["BEGINNING", "Service"]

WAIT_S = 60.0
BEGINNING = 256 * 1024
"""Bytes that a response has sent when it stops to wait."""


class Handler(BaseHTTPRequestHandler):
    """``/hello``, ``/fields``, ``/echo``, ``/digest``, ``/file``, ``/events``, ``/wait``, ``/stuck``, ``/refuse``."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = WAIT_S
    server: _Server

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        answer = getattr(self, f"get_{parts.path[1:]}", None)
        if answer is None:
            self._answer(b"hello\n")
        else:
            answer(query)

    do_HEAD = do_GET  # noqa: N815 - the name is the base class's

    def do_POST(self) -> None:
        if self.path == "/wait":
            body = b"".join(self._body())
            self.server.waiting.release()
            self.server.permissions.get(timeout=WAIT_S)
            self._answer(body)
        elif self.path == "/digest":
            digest, size = hashlib.sha256(), 0
            for piece in self._body():
                digest.update(piece)
                size += len(piece)
            self._answer(json.dumps({"sha256": digest.hexdigest(), "size": size}).encode())
        else:
            self._answer(b"".join(self._body()))

    do_PUT = do_POST  # noqa: N815

    def handle_expect_100(self) -> bool:
        if self.path == "/refuse":
            self.send_response(403)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return False
        return super().handle_expect_100()

    def get_fields(self, query: dict[str, str]) -> None:
        """What has arrived, for the client to look at."""
        self._answer(json.dumps({"path": self.path, "fields": self.headers.items()}).encode())

    def get_file(self, query: dict[str, str]) -> None:
        path = Path(self.server.file)
        self.send_response(200)
        self.send_header("Content-Length", str(path.stat().st_size))
        self.end_headers()
        with path.open("rb") as file:
            shutil.copyfileobj(file, self.wfile, 256 * 1024)

    def get_events(self, query: dict[str, str]) -> None:
        """One event for each permission of the test, and the end with the permission to stop."""
        self._begin_chunks("text/event-stream")
        while (event := self.server.permissions.get(timeout=WAIT_S)) is not None:
            self._chunk(f"data: {event}\n\n".encode())
        self._chunk(b"")

    def get_wait(self, query: dict[str, str]) -> None:
        """No byte before the test permits it."""
        self.server.waiting.release()
        self.server.permissions.get(timeout=WAIT_S)
        self._answer(b"it was worth it\n")

    def get_stuck(self, query: dict[str, str]) -> None:
        """The beginning of a response, and then silence."""
        if query["framing"] == "chunked":
            self._begin_chunks("application/octet-stream")
            self._chunk(bytes(BEGINNING))
        else:
            self.send_response(200)
            self.send_header("Content-Length", str(BEGINNING * 4))
            self.end_headers()
            self.wfile.write(bytes(BEGINNING))
        self.server.waiting.release()
        self.server.permissions.get(timeout=WAIT_S)
        self.close_connection = True

    def get_trailers(self, query: dict[str, str]) -> None:
        self._begin_chunks("text/plain", Trailer="X-Checksum")
        self._chunk(b"body")
        self.wfile.write(b"0\r\nX-Checksum: of-the-response\r\n\r\n")

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Trailers", json.dumps(getattr(self, "trailers", [])))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _begin_chunks(self, kind: str, **fields: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Transfer-Encoding", "chunked")
        for name, value in fields.items():
            self.send_header(name, value)
        self.end_headers()

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def _body(self) -> Iterator[bytes]:
        self.trailers: list[str] = []
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            while line := self.rfile.readline().strip():
                self.trailers.append(line.decode())
        else:
            left = int(self.headers.get("Content-Length", "0"))
            while left and (piece := self.rfile.read(min(left, 256 * 1024))):
                left -= len(piece)
                yield piece

    def log_message(self, format: str, *args: object) -> None: ...


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.permissions: queue.Queue[object] = queue.Queue()
        self.waiting = threading.Semaphore(0)
        self.file = ""

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that go away are meant to."""


class Service:
    """The server in its thread. ``permit`` lets one response go on, ``until_waiting`` returns when one has stopped."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self._server = _Server()
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port: int = self._server.server_address[1]

    def __enter__(self) -> Service:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()

    def serve_file(self, path: Path) -> None:
        self._server.file = str(path)

    def permit(self, what: object = "go on") -> None:
        self._server.permissions.put(what)

    def is_waiting(self) -> bool:
        """Whether one has stopped that nobody has been told of."""
        return self._server.waiting.acquire(blocking=False)

    def until_waiting(self) -> None:
        assert self._server.waiting.acquire(timeout=WAIT_S), "no request has come to the service"
