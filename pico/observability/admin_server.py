"""The server of the admin door.

Responsible for: its limits: how many connections, how long one may take, that no answer and no idle connection keeps
others from their turn, and that it waits while the system has no room for a connection. Refuses to know: what is
answered.

The server is gevent's own. It is meant for operators, Prometheus and probes on a trusted network.
"""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Any, Final

import gevent
import gevent.socket
from gevent.pool import Pool
from gevent.pywsgi import WSGIHandler, WSGIServer
from gevent.ssl import SSLContext

from pico.observability.admin import AdminApp, LastingBody
from pico.transport.accepting import OF_ONE_CONNECTION, TROUBLE_PAUSE_S
from pico.transport.tls import PLAIN_HTTP_ANSWER, is_plain_http, tls_reason

__all__ = ["OPTION", "AdminServer"]

OPTION: Final = "--admin-port"
"""What the log calls the door."""

CONNECTIONS_MAX: Final = 64

REQUEST_S: Final = 30.0
"""From the end of one response to the end of the next; a connection that needs longer, or idles, is closed."""

STREAM_WRITE_S: Final = 10.0
"""For one piece of an answer without an end to leave: so long may a reader sleep."""

STREAM_LOOK_S: Final = 1.0
"""From one look at whether the reader of such an answer is still there to the next."""

TLS_HANDSHAKE_S: Final = 5.0

READ_BYTES: Final = 64 * 1024

BREATH_S: Final = 0.002
"""Between two pieces of one answer: long enough that everything that waits has its turn first."""

TCP_ESTABLISHED: Final = 1

TLS_HANDSHAKE: Final = "\x16\x03"
"""How a client of HTTPS begins."""

FAULT_CHARACTERS_MAX: Final = 200
"""In the log, of what is wrong with a request."""

_log = logging.getLogger("pico.admin")


class AdminServer(WSGIServer):
    """Serves an ``AdminApp`` on a listening socket, which it owns; ``start`` and ``stop`` are its interface."""

    def __init__(
        self,
        listening: socket.socket,
        app: AdminApp,
        context: SSLContext | None = None,
        *,
        tls_failed: Callable[[], None] = lambda: None,
    ) -> None:
        """``tls_failed`` is called for each handshake that fails."""
        self._tls_failed = tls_failed
        self.idle: dict[Any, None] = {}
        """Connections on which no request has begun, the longest idle first."""
        self._places = Pool(CONNECTIONS_MAX)
        super().__init__(  # type: ignore[no-untyped-call]  # here and below: gevent has no types
            listening,
            app,
            spawn=self._places,
            log=None,
            error_log=None,  # see ``log_error`` of the handler
            handler_class=_Handler,
            # Given here so that nobody is asked for the host's name.
            environ={"SERVER_NAME": "pico-admin"},
            **({} if context is None else {"ssl_context": context}),
        )

    def renew(self, context: SSLContext) -> None:
        """Shake hands with this certificate from now on."""
        self.wrap_socket = context.wrap_socket

    def do_read(self) -> Any:
        """Socket and address of who comes next, or nothing; what is raised here, gevent prints with its traceback."""
        try:
            accepted = super().do_read()  # type: ignore[no-untyped-call]
        except OSError as error:
            if error.errno not in OF_ONE_CONNECTION:
                self._pause_accepting(error)
            return None
        if accepted is not None and self._places.free_count() <= 1 and self.idle:
            _shut_down(next(iter(self.idle)))  # whoever was accepted takes the last place
        return accepted

    def _pause_accepting(self, error: OSError) -> None:
        _log.warning("%s accepts nobody for a moment: %s", OPTION, error.strerror)
        self.stop_accepting()  # type: ignore[no-untyped-call]
        self._timer = self.loop.timer(TROUBLE_PAUSE_S)
        self._timer.start(self._start_accepting_if_started)

    def wrap_socket_and_handle(self, client_socket: socket.socket, address: Any) -> None:
        """Make the TLS handshake in the connection's greenlet, in time; a client of plain HTTP is told so."""
        try:
            client_socket.getpeername()  # of a client that has gone already gevent would leave the socket open
            wrapped = self.wrap_socket(client_socket, do_handshake_on_connect=False, **self.ssl_args)
        except OSError as error:
            self._handshake_failed(address, error)
            return
        with closing(wrapped):
            try:
                with gevent.Timeout(TLS_HANDSHAKE_S):
                    wrapped.do_handshake()
            except (OSError, gevent.Timeout) as error:
                self._handshake_failed(address, error)
                if is_plain_http(error):
                    _answer_plainly(wrapped)
                return
            self.handle(wrapped, address)  # type: ignore[no-untyped-call]

    def _handshake_failed(self, address: Any, error: OSError | gevent.Timeout) -> None:
        self._tls_failed()
        _log.info("the TLS handshake with %s failed: %s", address[0], _why(error))


def _why(error: OSError | gevent.Timeout) -> str:
    if isinstance(error, gevent.Timeout):
        return f"it was not complete within {TLS_HANDSHAKE_S:g} s"
    return tls_reason(error) if isinstance(error, ssl.SSLError) else error.strerror or str(error)


def _answer_plainly(wrapped: Any) -> None:
    """Say that this is no door for plain HTTP, beneath the TLS that has failed; the connection is closed then."""
    family, kind, number = wrapped.family, wrapped.type, wrapped.proto
    plain: Any = gevent.socket.socket(family, kind, number, fileno=wrapped.detach())  # type: ignore[attr-defined]  # made at run time
    with closing(plain), gevent.Timeout(TLS_HANDSHAKE_S, False), suppress(OSError):
        plain.sendall(PLAIN_HTTP_ANSWER)
        plain.shutdown(socket.SHUT_WR)
        while plain.recv(READ_BYTES):  # what is not read when we close would reset the connection, answer and all
            pass


class _Handler(WSGIHandler):
    _timer: Any = None

    def handle(self) -> None:
        # Head and body leave in two pieces: without this the second waits for the other side's delayed acknowledgement.
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            super().handle()  # type: ignore[no-untyped-call]
        except OSError as error:  # a client that has gone gets no refusal either
            self._broke_off(error)

    def handle_error(self, kind: type[BaseException], error: BaseException, traceback: Any) -> None:
        """What broke an answer goes to the log; gevent would print it past it."""
        if isinstance(error, OSError) and (self.code or 0) < 0:  # gevent's sign that it could not be sent
            self.close_connection = True
            self._broke_off(error)
            return
        if not isinstance(error, gevent.GreenletExit):
            _log.error("the answer to %s %s failed", self.command, str(self.path).partition("?")[0], exc_info=error)
        self._send_error_response_if_possible(500)  # type: ignore[no-untyped-call]

    def _handle_client_error(self, error: Exception) -> Any:
        """The answer to what is no request, None to who has gone; gevent would print what it does not know."""
        if isinstance(error, OSError):
            self._broke_off(error)
            return None
        known = error if isinstance(error, ValueError) else ValueError(str(error))
        return super()._handle_client_error(known)  # type: ignore[no-untyped-call]

    def log_error(self, msg: str, *args: Any) -> None:
        """What was no request, in one line; gevent would write how it sees the socket, and all that has come."""
        is_tls = str(self.requestline).startswith(TLS_HANDSHAKE)
        fault = "HTTPS to a port that speaks plain HTTP" if is_tls else str(args[-1] if args else msg)
        _log.info("the request of %s is not valid: %s", self.client_address[0], fault[:FAULT_CHARACTERS_MAX])

    def _broke_off(self, error: OSError) -> None:
        _log.debug("the connection of %s broke off: %s", self.client_address[0], _why(error))

    def read_requestline(self) -> Any:
        """Until it has come the connection idles, and is closed when another needs its place."""
        idle, connection = self.server.idle, self.socket
        idle[connection] = None
        try:
            return super().read_requestline()  # type: ignore[no-untyped-call]
        finally:
            del idle[connection]

    def handle_one_request(self) -> Any:
        # Not a gevent.Timeout: the base class would take it for an error of the application.
        self._timer = self._shut_down_after(REQUEST_S)
        try:
            return super().handle_one_request()  # type: ignore[no-untyped-call]
        finally:
            self._timer.close()

    def finalize_headers(self) -> None:
        """To HEAD no length is told that GET would not tell: gevent would tell that of the body, which is not there."""
        if self.command == "HEAD" and self.provided_content_length is None:
            self.provided_content_length = "unknown"
        super().finalize_headers()  # type: ignore[no-untyped-call]

    def process_result(self) -> None:
        """Send what the application has answered."""
        if isinstance(self.result, LastingBody):
            self._send_lasting(self.result)
        elif not isinstance(self.result, list):
            self.result = _with_breaths(self.result)
        super().process_result()  # type: ignore[no-untyped-call]

    def _send_lasting(self, body: LastingBody) -> None:
        """Return when the body has ended after all."""
        self._timer.stop()
        look = self.server.loop.timer(STREAM_LOOK_S, STREAM_LOOK_S)
        look.start(_end_if_gone, self.socket, gevent.getcurrent())
        try:
            self.write(b"")  # type: ignore[no-untyped-call]  # the head, whenever the first piece comes
            for piece in body:
                self._write_in_time(piece)
        finally:
            look.close()

    def _write_in_time(self, piece: bytes) -> None:
        timer = self._shut_down_after(STREAM_WRITE_S)
        try:
            self.write(piece)  # type: ignore[no-untyped-call]
        finally:
            timer.close()

    def _shut_down_after(self, seconds: float) -> Any:
        timer = self.server.loop.timer(seconds)
        timer.start(_shut_down, self.socket)
        return timer


def _with_breaths(pieces: Any) -> Any:
    try:
        for piece in pieces:
            yield piece
            gevent.sleep(BREATH_S)
    finally:
        close = getattr(pieces, "close", None)
        if close is not None:
            close()


def _end_if_gone(connection: Any, greenlet: Any) -> None:
    """A client that will read no more has closed its side; asking the kernel costs nothing and reads nothing."""
    try:
        state = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
    except OSError:
        state = 0
    if state != TCP_ESTABLISHED:
        greenlet.kill(block=False)


def _shut_down(connection: Any) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # gone already
