"""The proxy door: one client connection, its requests one after the other.

Responsible for: reading heads under their deadlines, running one ``ProxyRequest`` at a time in the connection's own
greenlet, keeping or closing the connection afterwards, and answering what is not a valid request. Refuses to know:
where a request goes and how its response comes about.
"""

from __future__ import annotations

from collections import deque
from math import inf
from typing import Final

from pico.actors.messages import ClientDrained, ClientEnded, ClientLost, ClientReadable, NodeStops
from pico.actors.proxy_request import ProxyRequest
from pico.actors.request_services import RequestServices
from pico.actors.runtime import tell
from pico.errors import ConnectionLost
from pico.node.proxy_protocol import NO_PREFACE, Preface
from pico.protocol.http import Failure, Request, RequestReader, RequestRejected, failure_response, request_id_of
from pico.protocol.rpc import PIECE_BYTES
from pico.transport.parking import Parking, give_way
from pico.transport.stream import Piece, Stream, keep_piece

__all__ = ["BUFFER_BYTES_MAX", "ClientConnection"]

BUFFER_BYTES_MAX: Final = PIECE_BYTES
"""Bytes of a client that are held before its socket is no longer read, and those of one read."""


class ClientConnection:
    """Serves one client connection; ``run`` returns when it is closed."""

    def __init__(
        self, stream: Stream, services: RequestServices, preface: Preface = NO_PREFACE, *, tls_version: str = ""
    ) -> None:
        """``tls_version`` says that the client came to this door by TLS; then ``preface.rest`` is not its own."""
        self.host = stream.peer_host
        self.scheme = "https" if tls_version else preface.scheme
        self.tls_version = tls_version or preface.tls_version
        self._first_head_until = preface.head_until
        self._own_deadline = inf
        self._stream = stream
        self._services = services
        self._reader = RequestReader(services.http_limits)
        if preface.rest and not tls_version:
            self._reader.receive_data(preface.rest)
        self._parking = Parking()
        self._request: ProxyRequest | None = None
        self._wants_body = False
        self._paused = False
        self._switched = False
        self._raw: deque[Piece] = deque()  # opaque bytes that came
        self._raw_bytes = 0
        self._ended = False
        self._lost = False
        self._late = False
        self._given_up = False
        self._stopping = False
        self._head_deadline = inf
        self._head_began_at = inf
        self._discarding = 0
        self._closing = False

    def run(self) -> None:
        """Serve requests until the connection ends; runs in the connection's greenlet."""
        self._services.deadlines.add(self)
        self._services.connections[self] = None
        try:
            self._stream.read_bytes_max = BUFFER_BYTES_MAX  # a large body goes on in fewer and larger pieces
            self._stream.set_receiver(self)
            while self._serve_next():
                pass
            self._linger()
        finally:
            self._services.connections.pop(self, None)
            self._services.deadlines.discard(self)
            self._stream.close()

    @property
    def idle(self) -> bool:
        """Whether nothing is in progress, and another request may come."""
        return self._request is None and not self._reader.started and not self._closing

    @property
    def may_ask(self) -> bool:
        """Whether another request may come or is on its way; not where a response has said that it is the last."""
        return not self._closing and (self._request is None or self._request.exchange.keep_alive)

    def last_call(self) -> None:
        """Draining: where nothing is in progress, one more request may come for a while; in the hub (HTTP-67)."""
        if self.idle and not self._stream.unsent_bytes:  # else it has its time for these first
            self._own_deadline = min(self._own_deadline, self._services.clock.now() + self._services.timers.last_call_s)

    @property
    def quiet(self) -> bool:
        """Whether nothing of the client's waits to be read."""
        return self._stream.quiet

    def give_up(self) -> None:
        """Make room for another client: end as if the time for the next head were over, but at once (HTTP-72)."""
        self._given_up = True
        self._late = True
        self._parking.unpark()

    def shut_down(self) -> None:
        """The node stops: end the connection, and with it the request that may be in progress."""
        if self._request is None:
            self._stream.abort()
            self.lost(ConnectionLost("the node stops"))
        else:
            self._stopping = True
            tell(self._request.actor_ref, NodeStops())

    def _serve_next(self) -> bool:
        if self._stream.unsent_bytes and not self._client_takes():
            return False
        try:
            request = self._next_request()
        except RequestRejected as rejected:
            self._reject(rejected)
            return False
        finally:
            self._services.spares.discard(self)
        if request is None:
            return False
        actor = ProxyRequest(self._services, self, request)
        self._request = actor
        self._wants_body = False
        if self._ended and self._services.abort_on_close:
            actor.post(ClientEnded())
        try:
            actor.run()
        finally:
            self._request = None
        if actor.exchange.answered_here and self._reader.started:
            give_way(self._services.clock)  # what is answered at once must not be so for a whole buffer of requests
        return actor.exchange.keep_alive and not (self._lost or self._stopping)

    def _client_takes(self) -> bool:
        """Wait until our answers are out; False when the client is lost or takes nothing in time (HTTP-62)."""
        stream = self._stream
        untaken_bytes: int | None = None
        self._late = True
        while stream.unsent_bytes and not self._lost:
            if self._late:
                if untaken_bytes is not None and stream.untaken_bytes >= untaken_bytes:
                    self.abort()
                    break
                untaken_bytes, self._late = stream.untaken_bytes, False
                self._own_deadline = self._services.clock.now() + self._services.timers.write_stall_s
            self._parking.park()
        self._own_deadline = inf
        return not self._lost

    def _next_request(self) -> Request | None:
        """The next head, or None when there will be none."""
        self._head_deadline, self._first_head_until = self._first_head_until, inf
        self._head_began_at = inf
        self._late = False
        while True:
            request = self._reader.next_head()
            if request is not None:
                self._own_deadline = inf
                return request
            if self._ended or self._lost or (self._late and not self._reader.started):
                return None
            if self._late:
                raise self._head_is_late()
            if self._paused:
                self._resume_reading()
            self._own_deadline = self._next_deadline()
            self._parking.park()

    def _head_is_late(self) -> RequestRejected:
        """To be raised; a frame that is raised through and has it by name would keep it, and it that frame."""
        late = RequestRejected(Failure.HEADER_TIMEOUT, "")
        late.request = self._reader.what_is_there()
        return late

    def _next_deadline(self) -> float:
        services = self._services
        now, timers = services.clock.now(), services.timers
        if not self._reader.started:
            services.spares.add(self, now)
            # A response that began before the node drained did not say that it is the last (HTTP-67).
            idle_until = now + (timers.last_call_s if services.leaving else timers.keep_alive_s)
            return self._head_deadline if self._head_deadline < idle_until else idle_until  # PROXY-14
        if self._head_began_at == inf:
            self._head_began_at = now
            services.spares.discard(self)  # the rest of it has its time
            services.spares.add(self, now)
        self._head_deadline = min(self._head_deadline, now + timers.request_head_s)
        return self._head_deadline

    def _reject(self, rejected: RequestRejected) -> None:
        services, request = self._services, rejected.request or Request()
        now = services.clock.now()
        trusted = services.trusted_proxies.contains(self.host)
        request_id = request_id_of(request, trusted=trusted, generated=services.new_request_id())
        response = failure_response(
            rejected.failure,
            str(rejected),
            keep_alive=False,
            request_id=request_id,
            method=request.method,
            date=services.date(now),
        )
        self._stream.write(response)
        services.request_rejected(self, rejected, request_id, now - min(self._head_began_at, now), now)

    def _linger(self) -> None:
        """Let the client read our last response before the socket is closed under it (RFC 9112 §9.6)."""
        self._closing = True
        if self._lost or self._given_up or self._stream.closed:
            return
        self._stream.half_close()
        self._discarding = self._services.http_limits.discard_bytes_max
        self._stream.resume_reading()  # whatever is held: nobody will read it
        self._discard(0)
        self._late = self._stopping
        self._own_deadline = self._services.clock.now() + self._services.timers.linger_s
        while self._lingers():
            self._parking.park()

    def _lingers(self) -> bool:
        if self._lost or self._late:
            return False
        return self._stream.unsent_bytes > 0 or not self._ended

    def _discard(self, size: int) -> None:
        """Drop what came; beyond the limit the rest waits unread."""
        self._discarding -= size
        if self._discarding <= 0:  # not closed: a client whose write fails may never look at what we said (HTTP-61)
            self._stream.pause_reading()

    # What a request may do with the connection (``pico.actors.proxy_request.Client``).

    @property
    def unsent_bytes(self) -> int:
        """Bytes that wait for room towards the client."""
        return self._stream.unsent_bytes

    @property
    def untaken_bytes(self) -> int:
        """These, and those that are on their way to it."""
        return self._stream.untaken_bytes

    @property
    def trailer_block(self) -> bytes:
        """Trailers of the request."""
        return self._reader.trailer_block

    def write(self, data: bytes | memoryview) -> None:
        """Send, without blocking."""
        self._stream.write(data)

    def read_body(self) -> tuple[bytes, bool]:
        """Body bytes that are there, and whether they are the last."""
        data, end = self._read_raw() if self._switched else self._reader.next_body()
        self._wants_body = not end
        if self._paused:
            self._resume_reading()
        return data, end

    def switch_protocol(self) -> None:
        """From now on bytes are opaque."""
        self._switched = True
        rest = self._reader.take_rest()
        if rest:
            self._raw.append(rest)
            self._raw_bytes = len(rest)

    def half_close(self) -> None:
        """No more bytes will be written."""
        self._stream.half_close()

    def abort(self) -> None:
        """Reset the connection."""
        self._lost = True
        self._stream.abort()

    def _read_raw(self) -> tuple[bytes, bool]:
        data = b"".join(self._raw)
        self._raw.clear()
        self._raw_bytes = 0
        return data, self._ended

    def _resume_reading(self) -> None:
        if self._paused and self._held_bytes() < BUFFER_BYTES_MAX:
            self._paused = False
            self._stream.resume_reading()

    def _held_bytes(self) -> int:
        return self._raw_bytes if self._switched else self._reader.buffered

    # What the stream says; called in the hub.

    def received(self, data: bytes) -> None:
        """Bytes from the client."""
        if self._closing:
            self._discard(len(data))
            return
        if self._switched:
            keep_piece(self._raw, data)
            self._raw_bytes += len(data)
        else:
            self._reader.receive_data(data)
        if self._held_bytes() >= BUFFER_BYTES_MAX:
            self._paused = True
            self._stream.pause_reading()
        self._notify_readable()

    def _notify_readable(self) -> None:
        if self._request is None:
            self._parking.unpark()
        elif self._wants_body:
            self._wants_body = False
            tell(self._request.actor_ref, ClientReadable())

    def ended(self) -> None:
        """The client half-closed; a request that is complete is still answered."""
        self._ended = True
        self._reader.receive_eof()
        if self._request is None:
            self._parking.unpark()
        else:
            tell(self._request.actor_ref, ClientEnded())

    def lost(self, error: ConnectionLost) -> None:
        """The connection broke."""
        self._lost = True
        if self._request is None:
            self._parking.unpark()
        else:
            tell(self._request.actor_ref, ClientLost())

    def drained(self) -> None:
        """The client took everything."""
        if self._request is None:
            self._parking.unpark()
        else:
            tell(self._request.actor_ref, ClientDrained())

    @property
    def deadline(self) -> float:
        """When something is late: the request in progress, else the connection itself."""
        return self._own_deadline if self._request is None else self._request.exchange.deadline

    def deadline_passed(self, now: float) -> None:
        """The request is late; or the connection is idle, slow with its head, or lingering for too long."""
        if self._request is not None:
            self._request.deadline_passed(now)
            return
        self._late = True
        self._own_deadline = inf
        self._parking.unpark()
