"""What the admin door answers, for a node and for an agent alike.

Responsible for: ``/metrics``, ``/livez``, ``/readyz`` and pages of status as a WSGI application, and the server around
it with its limits. Refuses to know: what is counted, what is told, and what makes a process ready.

The server is gevent's own. It is meant for operators, Prometheus and probes on a trusted network; nothing here takes a
request body or changes anything.
"""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from functools import partial
from typing import Any, Final

import gevent
from gevent.pool import Pool
from gevent.pywsgi import LoggingLogAdapter, WSGIHandler, WSGIServer
from gevent.ssl import SSLContext

__all__ = ["AdminApp", "AdminServer"]

CONNECTIONS_MAX: Final = 64

REQUEST_S: Final = 30.0
"""From the end of one response to the end of the next; a connection that needs longer, or idles, is closed."""

TLS_HANDSHAKE_S: Final = 5.0

METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
JSON_TYPE: Final = "application/json"

Answer = tuple[str, str, bytes]  # status line, content type, body
StartResponse = Callable[[str, list[tuple[str, str]]], object]

_log = logging.getLogger("pico.admin")


class AdminApp:
    """The WSGI application.

    ``readiness`` says whether new work is welcome, and if not, why; ``render_metrics`` gives Prometheus' text; each of
    ``pages`` gives what is told as JSON at ``/status/NAME``.
    """

    def __init__(
        self,
        render_metrics: Callable[[], bytes],
        readiness: Callable[[], tuple[bool, str]],
        pages: Mapping[str, Callable[[], object]] | None = None,
    ) -> None:
        self._render_metrics = render_metrics
        self._readiness = readiness
        self._answers: dict[str, Callable[[], Answer]] = {
            "/metrics": self._metrics,
            "/livez": self._live,
            "/health": self._live,
            "/readyz": self._ready,
            "/ready": self._ready,
            **{f"/status/{name}": partial(self._page, page) for name, page in (pages or {}).items()},
        }

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        status, content_type, body = self._answer(environ["REQUEST_METHOD"], environ["PATH_INFO"])
        fields = [
            ("Content-Type", content_type),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
        ]
        if status.startswith("405"):
            fields.append(("Allow", "GET, HEAD"))
        if "CONTENT_LENGTH" in environ or "HTTP_TRANSFER_ENCODING" in environ:
            fields.append(("Connection", "close"))  # the body is nobody's, so what follows it is not looked for
        start_response(status, fields)
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    def _answer(self, method: str, path: str) -> Answer:
        answer = self._answers.get(path)
        if answer is None:
            return _error("404 Not Found", "not_found", f"one of {', '.join(sorted(self._answers))}")
        if method not in ("GET", "HEAD"):
            return _error("405 Method Not Allowed", "method_not_allowed", "GET or HEAD")
        try:
            return answer()
        except Exception:
            _log.exception("the answer to %s failed", path)
            return _error("500 Internal Server Error", "internal", "the log has more")

    def _metrics(self) -> Answer:
        return "200 OK", METRICS_TYPE, self._render_metrics()

    @staticmethod
    def _page(page: Callable[[], object]) -> Answer:
        return "200 OK", JSON_TYPE, _json(page())

    def _live(self) -> Answer:
        return "200 OK", JSON_TYPE, _json({"status": "live"})

    def _ready(self) -> Answer:
        ready, reason = self._readiness()
        if ready:
            return "200 OK", JSON_TYPE, _json({"status": "ready"})
        return "503 Service Unavailable", JSON_TYPE, _json({"status": "not ready", "reason": reason})


def _error(status: str, code: str, message: str) -> Answer:
    return status, JSON_TYPE, _json({"error": {"code": code, "message": message}})


def _json(value: object) -> bytes:
    return json.dumps(value).encode() + b"\n"


class AdminServer(WSGIServer):
    """Serves an ``AdminApp`` on a listening socket, which it owns; ``start`` and ``stop`` are its interface."""

    def __init__(self, listening: socket.socket, app: AdminApp, context: SSLContext | None = None) -> None:
        super().__init__(  # type: ignore[no-untyped-call]  # here and below: gevent has no types
            listening,
            app,
            spawn=Pool(CONNECTIONS_MAX),
            log=None,
            error_log=LoggingLogAdapter(_log, logging.INFO),  # requests that are not valid
            handler_class=_Handler,
            # Given here so that nobody is asked for the host's name.
            environ={"SERVER_NAME": "pico-admin"},
            **({} if context is None else {"ssl_context": context}),
        )

    def wrap_socket_and_handle(self, client_socket: socket.socket, address: Any) -> None:
        """Make the TLS handshake in the connection's greenlet, in time."""
        with closing(self.wrap_socket(client_socket, do_handshake_on_connect=False, **self.ssl_args)) as wrapped:
            try:
                with gevent.Timeout(TLS_HANDSHAKE_S):
                    wrapped.do_handshake()
            except (OSError, gevent.Timeout) as error:
                _log.info("the TLS handshake with %s failed: %s", address[0], error)
                return
            self.handle(wrapped, address)  # type: ignore[no-untyped-call]


class _Handler(WSGIHandler):
    def handle(self) -> None:
        # Head and body leave in two pieces: without this the second waits for the other side's delayed acknowledgement.
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().handle()  # type: ignore[no-untyped-call]

    def handle_one_request(self) -> Any:
        # Not a gevent.Timeout: the base class would take it for an error of the application.
        timer = self.server.loop.timer(REQUEST_S)
        timer.start(_shut_down, self.socket)
        try:
            return super().handle_one_request()  # type: ignore[no-untyped-call]
        finally:
            timer.close()


def _shut_down(connection: Any) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # gone already
