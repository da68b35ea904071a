"""The admin door as a part of a process: it is started, stopped and restarted like the others.

Responsible for: its port, and the certificate there. Refuses to know: what it answers (``pico.observability.admin``).
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable
from typing import Any

import gevent.socket
from gevent.ssl import SSLContext

from pico.actors.listener import listening_socket
from pico.actors.runtime import GeventActor
from pico.config import TlsFiles, address_text
from pico.observability.admin import AdminApp
from pico.observability.admin_server import OPTION, AdminServer
from pico.transport.addresses import readable
from pico.transport.certificates import server_context

__all__ = ["AdminDoor", "admin_context"]

_log = logging.getLogger("pico.admin")


class AdminDoor(GeventActor):
    """Serves from ``on_start`` until it is stopped; ``on_start`` raises ``CannotListen`` when it cannot."""

    def __init__(
        self,
        host: str,
        port: int,
        app: AdminApp,
        *,
        tls: SSLContext | None = None,
        tls_failed: Callable[[], None] = lambda: None,
        inherited: Any = None,
    ) -> None:
        """``inherited`` is a socket that listens already: then ``host`` and ``port`` are not looked at.

        ``tls_failed`` is called for each handshake of TLS that fails.
        """
        super().__init__()
        self.address: tuple[str, int] = (host, port)
        self._app = app
        self._tls = tls
        self._tls_failed = tls_failed
        self._inherited = inherited
        self._server: Any = None

    def on_start(self) -> None:
        """Bind and serve."""
        listening = self._inherited or listening_socket(*self.address, option=OPTION)
        self.address = readable(listening.getsockname())
        self._server = AdminServer(_cooperative(listening), self._app, self._tls, tls_failed=self._tls_failed)
        self._server.start()
        _log.info("%s listens on %s", OPTION, address_text(*self.address))

    def renew(self, tls: SSLContext) -> None:
        """From now on who connects gets this certificate, at a door that had one before."""
        assert self._tls is not None, "a door begins with TLS or has none"
        self._tls = tls
        if self._server is not None:
            self._server.renew(tls)

    def on_exit(self, reason: BaseException | None) -> None:
        """Close the port and its connections, idle ones above all."""
        if self._server is not None:
            self._server.stop(timeout=0)


def admin_context(files: TlsFiles) -> SSLContext:
    """For an admin door; raises ``ConfigError`` that names the file at fault."""
    server_context(files)  # finds what is wrong with them
    # gevent's own, so that a handshake waits in its greenlet only, in an unpatched program, too.
    context = SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    return context


def _cooperative(listening: Any) -> Any:
    family, kind, number = listening.family, listening.type, listening.proto
    return gevent.socket.socket(family, kind, number, fileno=listening.detach())  # type: ignore[attr-defined]  # made at run time
