"""The sample service of ``pico demo``: an ordinary HTTP server that knows nothing of Pico.

Responsible for: answering a few paths in ways that a proxy could get wrong (a length, no length, events one by one, a
body that comes back). Refuses to know: who asks. Run as ``python -m pico.cli.demo_service PORT``.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

__all__ = ["serve"]

BODY_BYTES_MAX = 16 * 1024 * 1024
EVENTS_MAX = 100_000

PAGE = """\
<!doctype html>
<meta charset="utf-8">
<title>Pico demo</title>
<h1>It works</h1>
<p>This page came through a node, a tunnel and an agent. Events, as the service sends them:</p>
<pre id="events"></pre>
<script>
  new EventSource("/events").onmessage = event => {
    document.getElementById("events").textContent += event.data + "\\n";
  };
</script>
"""


class SampleService(BaseHTTPRequestHandler):
    """``/``, ``/time``, ``/echo`` and ``/events``."""

    protocol_version = "HTTP/1.1"
    server_version = "sample-service"
    disable_nagle_algorithm = True  # an event leaves when it is written
    timeout = 60  # a connection without a request does not hold its thread for ever

    def do_GET(self) -> None:
        path, query = self._target()
        if path == "/":
            self._answer(PAGE.encode(), "text/html; charset=utf-8")
        elif path == "/time":
            now = {"time": time.strftime("%H:%M:%S"), "host": self.headers["Host"], "via": self.headers["Via"]}
            self._answer(json.dumps(now).encode() + b"\n", "application/json")
        elif path == "/events":
            self._stream(_events(_count(query, "count", EVENTS_MAX), _count(query, "every_ms", 1000) / 1000))
        else:
            self._answer(b"no such page\n", "text/plain", HTTPStatus.NOT_FOUND)

    do_HEAD = do_GET  # noqa: N815 - the name is the base class's

    def do_POST(self) -> None:
        body = b"".join(self._body())
        if self._target()[0] == "/echo":
            self._answer(body, self.headers.get("Content-Type", "application/octet-stream"))
        else:
            self._answer(b"no such page\n", "text/plain", HTTPStatus.NOT_FOUND)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the node's access log says it all."""

    def _target(self) -> tuple[str, dict[str, list[str]]]:
        parts = urlsplit(self.path)
        return parts.path, parse_qs(parts.query)

    def _answer(self, body: bytes, kind: str, status: HTTPStatus = HTTPStatus.OK) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _stream(self, pieces: Iterator[bytes]) -> None:
        """A body of no known length: chunks, each sent when it is there."""
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Cache-Control", "no-cache")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if self.command != "HEAD":
            for piece in pieces:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")

    def _body(self) -> Iterator[bytes]:
        """The request body, by its length or by its chunks; what is too long is cut off with the connection."""
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            room = BODY_BYTES_MAX
            while (length := int(self.rfile.readline(1024).partition(b";")[0], 16)) and length <= room:
                yield self.rfile.read(length)
                self.rfile.readline(8)
                room -= length
            while self.rfile.readline(1024).strip():
                pass
            self.close_connection = bool(length)
        else:
            yield self.rfile.read(min(int(self.headers.get("Content-Length", "0")), BODY_BYTES_MAX))


class Server(ThreadingHTTPServer):
    """Ends at once, and says nothing about a client that leaves in the middle."""

    daemon_threads = True
    allow_reuse_address = True

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


def _events(count: int, every_s: float) -> Iterator[bytes]:
    for number in range(1, count + 1):
        yield f"data: event {number} at {time.strftime('%H:%M:%S')}\n\n".encode()
        if number < count:
            time.sleep(every_s)


def _count(query: dict[str, list[str]], name: str, default: int) -> int:
    with suppress(KeyError, ValueError):
        return min(max(int(query[name][0]), 0), EVENTS_MAX)
    return default


def serve(port: int) -> None:
    """Serve on the loopback address until the process ends."""
    with suppress(KeyboardInterrupt):
        Server(("127.0.0.1", port), SampleService).serve_forever()


if __name__ == "__main__":
    serve(int(sys.argv[1]))
