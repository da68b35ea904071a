"""What a connection passes before its door speaks with it: who is calling, and TLS.

Responsible for: the header of a balancer where one is expected, and the handshake where there is a certificate, at the
proxy door and at the upstream door. Refuses to know: how connections are accepted, and what is spoken afterwards
(``pico.node.proxy_door``, ``pico.node.upstream_door``).
"""

from __future__ import annotations

import logging
from ssl import SSLContext

from pico.actors.request_services import RequestServices
from pico.config import NodeConfig
from pico.errors import RemoteProtocolError, TransportError
from pico.node.materials import NodeMaterials
from pico.node.proxy_door import ClientConnection
from pico.node.proxy_protocol import NO_PREFACE, Preface, read_preface
from pico.node.upstream_door import UpstreamDoor
from pico.transport.stream import SocketStream
from pico.transport.tls import TlsStream, accept_tls

__all__ = ["Entrances"]

_log = logging.getLogger("pico.node")


class Entrances:
    """One per node. What serves a connection runs in its greenlet, and blocks no other."""

    def __init__(
        self, config: NodeConfig, materials: NodeMaterials, services: RequestServices, upstream_door: UpstreamDoor
    ) -> None:
        self._config = config
        self._materials = materials
        self._services = services
        self._upstream_door = upstream_door

    def reconfigure(self, config: NodeConfig, materials: NodeMaterials) -> None:
        """What counts for whoever connects from now on."""
        self._config = config
        self._materials = materials

    def serve_client(self, stream: SocketStream) -> None:
        """One connection at the proxy door, to its end."""
        preface = self._preface("proxy", stream, self._config.http_timers.request_head_s)
        if preface is None:
            return
        tls = self._materials.proxy_tls
        secure = None if tls is None else self._accept_tls("proxy", stream, tls, preface)
        self._services.spares.discard(stream)  # from now on its connection says when it can be spared
        if secure is not None:
            ClientConnection(secure, self._services, preface, tls_version=secure.version).run()
        elif tls is None:
            ClientConnection(stream, self._services, preface).run()

    def serve_upstream(self, stream: SocketStream) -> None:
        """One connection at the upstream door, until it is an upstream or was refused."""
        preface = self._preface("upstream", stream, self._config.handshake_s)
        if preface is None:
            return
        tls = self._materials.upstream_tls
        if tls is None:
            self._upstream_door.handle(stream, preface)
            return
        secure = self._accept_tls("upstream", stream, tls, preface)
        if secure is not None:
            self._upstream_door.handle(secure, preface._replace(rest=b""))

    def _preface(self, door: str, stream: SocketStream, timeout_s: float) -> Preface | None:
        """What a balancer says where one has to; None when the connection was closed, because it has not."""
        services, balancer = self._services, stream.peer_host
        if self._config.proxy_protocol not in (door, "both"):
            return NO_PREFACE
        if not services.trusted_proxies.contains(balancer):  # PROXY-2
            return NO_PREFACE
        try:
            preface = read_preface(stream, services.clock, timeout_s)
        except (RemoteProtocolError, TransportError) as error:  # PROXY-13
            stream.close()
            services.metrics.proxy_headers.add("refused" if isinstance(error, RemoteProtocolError) else "lost")
            _log.info("a connection from %s, which was to say who is calling, was closed: %s", balancer, error)
            return None
        services.metrics.proxy_headers.add("accepted")
        return preface

    def _accept_tls(self, door: str, stream: SocketStream, context: SSLContext, preface: Preface) -> TlsStream | None:
        """The stream that is spoken on; None when the handshake has failed, and the connection is closed."""
        services, timeout_s = self._services, self._config.http_timers.tls_handshake_s
        try:
            return accept_tls(stream, context, timeout_s, clock=services.clock, received=preface.rest)
        except TransportError as error:
            services.metrics.tls_handshake_failures.add(door)
            _log.info("the TLS handshake with %s at the %s door failed: %s", stream.peer_host, door, error)
            return None
