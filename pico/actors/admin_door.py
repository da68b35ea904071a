"""The admin door as a part of a process: it is started, stopped and restarted like the others.

Responsible for: its port. Refuses to know: what it answers (``pico.observability.admin``).
"""

from __future__ import annotations

import logging
import ssl
from typing import Any

import gevent.socket
from gevent.ssl import SSLContext

from pico.actors.listener import listening_socket, readable, shown
from pico.actors.messages import GetBoundAddress
from pico.actors.runtime import GeventActor
from pico.config import TlsFiles
from pico.observability.admin import AdminApp
from pico.observability.admin_server import AdminServer

__all__ = ["AdminDoor"]

_log = logging.getLogger("pico.admin")


class AdminDoor(GeventActor):
    """Serves from ``on_start`` until it is stopped; ``on_start`` raises ``CannotListen`` when it cannot."""

    def __init__(
        self,
        host: str,
        port: int,
        app: AdminApp,
        *,
        option: str = "--admin-port",
        tls: TlsFiles | None = None,
        inherited: Any = None,
    ) -> None:
        """``inherited`` is a socket that listens already: then ``host`` and ``port`` are not looked at."""
        super().__init__()
        self.address: tuple[str, int] = (host, port)
        self._app = app
        self._option = option
        self._tls = tls
        self._inherited = inherited
        self._server: Any = None

    def on_start(self) -> None:
        """Bind and serve."""
        context = _server_context(self._tls) if self._tls is not None else None
        listening = self._inherited or listening_socket(*self.address, option=self._option)
        self.address = readable(listening.getsockname())
        self._server = AdminServer(_cooperative(listening), self._app, context)
        self._server.start()
        _log.info("%s listens on %s", self._option, shown(*self.address))

    def on_receive(self, message: Any) -> Any:
        """Answer."""
        return self.address if isinstance(message, GetBoundAddress) else None

    def on_exit(self, reason: BaseException | None) -> None:
        """Close the port and its connections, idle ones above all."""
        if self._server is not None:
            self._server.stop(timeout=0)


def _server_context(files: TlsFiles) -> SSLContext:
    # gevent's own, so that a handshake waits in its greenlet only, in an unpatched program, too.
    context = SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    return context


def _cooperative(listening: Any) -> Any:
    family, kind, number = listening.family, listening.type, listening.proto
    return gevent.socket.socket(family, kind, number, fileno=listening.detach())  # type: ignore[attr-defined]  # made at run time
