"""The connections to one local service.

Responsible for: dialling, keeping idle connections alive and bounded, and giving each exchange one. Refuses to know:
what an exchange sends and reads (``pico.agent.service_exchange``).

Nothing blocks but the dials, each in a greenlet of its own and only so many at one time. The connection that was used
last is used first: the others grow old and are closed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import inf
from ssl import SSLContext
from typing import Final, Protocol

import gevent

from pico.config import AgentConfig, EndpointTarget
from pico.errors import ConnectionLost, NoFileLeft, TransportError
from pico.observability.metrics import AgentMetrics
from pico.protocol.http import ResponseReader
from pico.protocol.rpc import PIECE_BYTES
from pico.transport.clock import Clock
from pico.transport.deadlines import Deadlines
from pico.transport.dial import dial
from pico.transport.open_files import descriptors_for_strangers
from pico.transport.stream import Stream

__all__ = ["Service", "ServiceConnection", "Tenant"]

READ_BYTES: Final = 2 * PIECE_BYTES
"""Bytes of one read: as many whole pieces as a window admits."""

DIALS_MAX: Final = 32
"""Dials to one service at one time."""

SURPLUS_S: Final = 1.0
"""How long an idle connection beyond ``idle_connections_max`` is kept: a burst may need it again at once."""


class Tenant(Protocol):
    """An exchange that wants a connection, or has one; what comes on it, it is told."""

    @property
    def asked_at(self) -> float:
        """When it began to want one."""

    @property
    def over(self) -> bool:
        """It wants none any more."""

    def connected(self, connection: ServiceConnection, now: float) -> None:
        """This connection is its own from ``now`` on."""

    def unreachable(self, reason: str) -> None:
        """There is none to be had."""

    def late(self) -> None:
        """``deadline`` of its connection has passed."""

    def received(self, data: bytes) -> None:
        """As of ``pico.transport.stream.Receiver``, like the four below."""

    def ended(self) -> None:
        """The service will send nothing more."""

    def lost(self, error: ConnectionLost) -> None:
        """The connection broke."""

    def drained(self) -> None:
        """The service took everything."""

    def crashed(self, error: BaseException) -> None:
        """One of these raised."""


class ServiceConnection:
    """One connection to the service, and the receiver of its bytes for whoever has it.

    That costs a call for each read. Handing the stream to each exchange in turn would cost more.
    """

    __slots__ = ("_service", "deadline", "exchange", "fresh", "kept", "reader", "stream")

    def __init__(self, service: Service, stream: Stream, reader: ResponseReader, *, kept: bool) -> None:
        self._service = service
        self.stream = stream
        self.reader = reader
        self.exchange: Tenant | None = None
        self.fresh = True
        """Made for the exchange that has it: the service cannot have grown tired of it."""
        self.kept = kept
        """Meant for more than one request."""
        self.deadline = inf

    def deadline_passed(self, now: float) -> None:
        """Idle for too long, or the service is late."""
        if self.exchange is not None:
            self.exchange.late()
        else:
            self.discard()

    def release(self, now: float) -> None:
        """The exchange on it is complete; it goes back to its own service, whatever the endpoint's is by now."""
        self._service.release(self, now)

    def discard(self) -> None:
        """Close it; it is nobody's any more."""
        self._service.forget(self)
        self.stream.close()

    def abort(self) -> None:
        """Reset it; it is nobody's any more."""
        self._service.forget(self)
        self.stream.abort()

    # What the stream says. While it is idle, nothing good.

    def received(self, data: bytes) -> None:
        """Bytes of a response; those that nobody asked for could begin anyone's."""
        exchange = self.exchange
        if exchange is not None:
            exchange.received(data)
        else:
            self.discard()

    def ended(self) -> None:
        """The service will send nothing more."""
        if self.exchange is not None:
            self.exchange.ended()
        else:
            self.discard()

    def lost(self, error: ConnectionLost) -> None:
        """The connection broke."""
        if self.exchange is not None:
            self.exchange.lost(error)
        else:
            self._service.forget(self)

    def drained(self) -> None:
        """The service took everything."""
        if self.exchange is not None:
            self.exchange.drained()

    def crashed(self, error: BaseException) -> None:
        """A fault of our own."""
        if self.exchange is not None:
            self.exchange.crashed(error)
        self._service.forget(self)


class Service:
    """The service behind one endpoint."""

    def __init__(
        self,
        target: EndpointTarget,
        config: AgentConfig,
        clock: Clock,
        deadlines: Deadlines,
        metrics: AgentMetrics,
        tls: SSLContext | None = None,
        make_room: Callable[[], None] = lambda: None,
    ) -> None:
        """``make_room`` closes what idle connections there are, of all services, where no open file is left."""
        self.target = target
        self._make_room = make_room
        self._clock = clock
        self._deadlines = deadlines
        self._metrics = metrics
        self._idle: list[ServiceConnection] = []
        self._connections: set[ServiceConnection] = set()
        self._waiting: deque[Tenant] = deque()
        self._dials = 0
        self._closed = False
        self.reconfigure(config, tls)

    def reconfigure(self, config: AgentConfig, tls: SSLContext | None) -> None:
        """For connections that are made or become idle from now on."""
        self._config = config
        self._tls = tls
        self._idle_max = config.idle_connections_max
        self._idle_s = config.idle_connection_s
        if not self._idle_max:
            self.close_idle()

    def __len__(self) -> int:
        """Connections that are open, idle ones included."""
        return len(self._connections)

    @property
    def idle(self) -> int:
        """Connections that nobody uses."""
        return len(self._idle)

    def want(self, exchange: Tenant) -> None:
        """Give ``exchange``, which begins now, a connection: at once when one is idle, else when one is free or made.

        On a connection whose service has gone, or has said something that nobody asked for, a request would be lost or
        get that for an answer (HTTP-55); and lost where the service is about to go (HTTP-73).
        """
        idle = self._idle
        while idle:
            connection = idle.pop()
            if connection.deadline > exchange.asked_at and connection.stream.quiet:
                self._metrics.service_connections_reused += 1
                connection.exchange = exchange
                exchange.connected(connection, exchange.asked_at)
                return
            connection.discard()
        self.want_new(exchange)

    def want_new(self, exchange: Tenant) -> None:
        """Give ``exchange`` a connection that nobody has used."""
        self._waiting.append(exchange)
        self._dial_for_waiting()

    def release(self, connection: ServiceConnection, now: float) -> None:
        """The exchange on this connection is complete, and the service keeps it open."""
        connection.exchange = None
        connection.fresh = False
        if not (connection.kept and self._idle_max) or (self._waiting and not connection.stream.quiet):
            connection.discard()
        elif self._waiting and (waiting := self._next_waiting()) is not None:
            self._metrics.service_connections_reused += 1
            connection.exchange = waiting
            waiting.connected(connection, now)
        elif self._closed:
            connection.discard()
        else:
            self._idle.append(connection)
            surplus = len(self._idle) > self._idle_max
            connection.deadline = now + min(SURPLUS_S if surplus else self._idle_s, connection.reader.idle_s)

    def forget(self, connection: ServiceConnection) -> None:
        """The connection is no more."""
        self._connections.discard(connection)
        self._deadlines.discard(connection)
        if connection.exchange is None and connection in self._idle:
            self._idle.remove(connection)
        connection.exchange = None

    def close(self) -> None:
        """Close what is idle, and what becomes idle from now on."""
        self._closed = True
        self.close_idle()

    def close_idle(self) -> None:
        """Close what nobody uses."""
        for connection in list(self._idle):
            connection.discard()

    # Dialling.

    def _next_waiting(self) -> Tenant | None:
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.over:
                return waiting
        return None

    def _dial_for_waiting(self) -> None:
        if self._dials < min(len(self._waiting), DIALS_MAX):
            self._dials += 1
            gevent.spawn_raw(self._dial)

    def _dial(self) -> None:
        """Runs in a greenlet of its own."""
        try:
            stream = self._connect()
        except TransportError as error:
            self._not_connected(str(error))
        else:
            self._connected(stream)
        finally:
            self._dials -= 1
            self._dial_for_waiting()

    def _connect(self) -> Stream:
        target, timeout_s = self.target, self._config.connect_s
        most = descriptors_for_strangers()  # else no tunnel could be dialled, and no probe be answered
        try:
            return dial(target.host, target.port, timeout_s=timeout_s, tls=self._tls, descriptors_max=most)
        except NoFileLeft:
            self._make_room()
            return dial(target.host, target.port, timeout_s=timeout_s, tls=self._tls, descriptors_max=most)

    def _connected(self, stream: Stream) -> None:
        stream.read_bytes_max = READ_BYTES  # fewer and larger pieces of a large response
        stream.patient = True  # a service that answers early and closes has its answer heard
        reader = ResponseReader(self._config.http_limits)
        connection = ServiceConnection(self, stream, reader, kept=self._idle_max > 0)
        self._connections.add(connection)
        self._deadlines.add(connection)
        self._metrics.service_connections_opened += 1
        stream.set_receiver(connection)
        waiting, now = self._next_waiting(), self._clock.now()
        if waiting is not None:
            connection.exchange = waiting
            waiting.connected(connection, now)
        else:
            self.release(connection, now)

    def _not_connected(self, reason: str) -> None:
        """The oldest bears the failure, and with it whoever has waited for as long as a dial may take."""
        waiting = self._next_waiting()
        too_long_ago = self._clock.now() - self._config.connect_s
        while waiting is not None:
            waiting.unreachable(reason)
            more = bool(self._waiting) and self._waiting[0].asked_at <= too_long_ago
            waiting = self._next_waiting() if more else None
