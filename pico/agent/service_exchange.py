"""One request from the tunnel to the local service, and its response back.

Responsible for: relaying both bodies at the pace of whoever takes them, the service's deadlines, trying again where
that is safe, and naming what went wrong. Refuses to know: how connections are made and kept (``pico.agent.service``),
HTTP's framing and the tunnel's messages (the protocol floor), and which tunnel it is.

There is no greenlet for a request. Everything here runs in callbacks of the hub: events of the stream on one side, the
service's bytes on the other. What does not fit into the credit of the stream is held, at most one read of it, and the
connection is not read until it has left; credit is given back only for what the service's socket took.
"""

from __future__ import annotations

import logging
from math import inf
from typing import TYPE_CHECKING, Any, Final

from pico.agent.service import Service, ServiceConnection
from pico.config import AgentConfig
from pico.errors import ConnectionLost
from pico.observability.access_log import AccessLog
from pico.observability.metrics import AgentMetrics
from pico.protocol.http import (
    CHUNKED,
    NO_BODY,
    Failure,
    ResponseRejected,
    encode_chunk,
    last_chunk,
    may_be_left_unread,
    service_request,
    trace_id_of,
)
from pico.protocol.http.values import ResponseHead
from pico.protocol.routing import IDEMPOTENT_METHODS
from pico.protocol.rpc import (
    BodyBytes,
    CreditReceived,
    DataReceived,
    ResetCode,
    StreamEvent,
    StreamingEngine,
    StreamOpened,
    StreamReset,
    TrailersReceived,
)
from pico.protocol.rpc.failures import failure_of
from pico.transport.clock import Clock
from pico.transport.multiplexer import Multiplexer

if TYPE_CHECKING:
    from pico.observability.tracing import Traced, Tracing

__all__ = ["Forwarder", "ServiceExchange"]

SWITCHING_PROTOCOLS: Final = 101

_CODES: Final = {
    Failure.SERVICE_CLOSED: ResetCode.SERVICE_CLOSED,
    Failure.RESPONSE_TOO_LARGE: ResetCode.TOO_LARGE,
}

_log = logging.getLogger("pico.agent")


class Forwarder:
    """Gives each stream of an endpoint its exchange."""

    def __init__(
        self,
        service: Service,
        config: AgentConfig,
        clock: Clock,
        metrics: AgentMetrics,
        access_log: AccessLog,
        tracing: Tracing | None = None,
    ) -> None:
        self.tracing = tracing
        self.now = clock.now
        self.metrics = metrics
        self.access_log = access_log
        self.endpoint_id = service.target.endpoint_id
        self.reconfigure(service, config)

    def reconfigure(self, service: Service, config: AgentConfig) -> None:
        """Where the next request goes, and how."""
        self.service = service
        self.host_header = config.host_header.encode()
        self.response_head_s = config.response_head_s
        self.response_idle_s = config.response_idle_s

    def forward(self, multiplexer: Multiplexer, event: StreamOpened) -> None:
        """Serve a request that has arrived; called in the hub."""
        exchange = ServiceExchange(self, multiplexer, event)
        event.stream.context = exchange.tunnel_said
        if self.tracing is not None:
            exchange.trace(self.tracing)
        self.metrics.requests_in_flight += 1
        if event.head.upgrade and not isinstance(multiplexer.engine, StreamingEngine):  # RPC-23
            exchange.fail(ResetCode.REFUSED, "the base protocol carries no upgrade", untouched=True)
        else:
            self.service.want(exchange)


class ServiceExchange:
    """One request and its response: the sink of the stream's events, and the receiver of the service's bytes."""

    # Defaults stand on the class: an instance sets only what differs, which is most of what making one would cost.
    over = False
    status = 0
    bytes_in = 0
    bytes_out = 0
    _traced: Traced | None = None
    _sent_at = 0.0  # when the service was last given it, or the first of it
    _answered_at = 0.0  # when the final head came
    _connection: ServiceConnection | None = None
    _early: bytearray | None = None  # more of the body, that came before there was a connection
    _framing = NO_BODY
    _request_trailers = b""
    _response_trailers = b""
    _uncredited = 0
    _untaken_bytes = 0  # when the service was last seen to take something
    _touched = False  # a byte of the request may have reached the service
    _answered = False  # a byte of the response has come
    _final = False  # the final head has come
    _switched = False
    _response_ended = False
    _service_gone = False
    _held: BodyBytes = b""  # a view, once it is cut
    _held_end = False
    _paused = False

    def __init__(self, forwarder: Forwarder, multiplexer: Multiplexer, event: StreamOpened) -> None:
        self._forwarder = forwarder
        self._multiplexer = multiplexer
        self._stream, self._head, self._body, self._request_ended = event.stream, event.head, event.data, event.end
        # The body is what the service has not been sent yet; the first of it is kept where it may be sent again.
        self._came_whole, self._first = event.end, event.data
        self._now = forwarder.now
        self.asked_at = forwarder.now()

    def trace(self, tracing: Tracing) -> None:
        """Begin a span, of which the service will hear."""
        target = self._forwarder.service.target
        self._traced = tracing.request_goes(
            self._head.method,
            self._head.field_block,
            {
                "server.address": target.host,
                "server.port": target.port,
                "url.scheme": "https" if target.tls else "http",
                "pico.endpoint": target.endpoint_id,
            },
        )
        self._head = self._head.with_fields(self._traced.mark(self._head.field_block))

    # What the service's connections say.

    def connected(self, connection: ServiceConnection, now: float) -> None:
        """Send what has come of the request."""
        self._connection = connection
        self._touched = True
        self._sent_at = now
        head = self._head
        connection.reader.begin(head.method, head.upgrade)
        if self._request_ended and not head.body_length and connection.kept:  # nearly all there are
            written, _ = service_request(head, host_header=self._forwarder.host_header)
            connection.stream.write(written)
            connection.deadline = now + self._forwarder.response_head_s
            return
        host_header, close = self._forwarder.host_header, not connection.kept
        written, self._framing = service_request(head, host_header=host_header, close=close)
        body, self._body = self._body, b""
        if self._early is not None:
            body, self._early = b"".join((body, self._early)), None
        self._write(written, body, self._request_ended)
        if not self._may_be_sent_again:
            self._first = b""

    def unreachable(self, reason: str) -> None:
        """Where nothing was sent, the request may go elsewhere, whatever its method."""
        self.fail(ResetCode.SERVICE_UNREACHABLE, reason, untouched=not self._touched)

    def late(self) -> None:
        """The service let its deadline pass."""
        connection = self._connection
        assert connection is not None
        if connection.stream.untaken_bytes < self._untaken_bytes:
            self._settle(connection)  # slow, but it takes some
        elif self._response_ended:
            self._lose_service()
        else:
            what = "its response stopped" if self._final else "no response"
            self.fail(ResetCode.SERVICE_TIMEOUT, f"{what} in time")

    # What the tunnel says.

    def tunnel_said(self, event: StreamEvent) -> None:
        """The sink of the stream."""
        if not self.over:
            _HANDLERS[type(event)](self, event)

    def _on_data(self, event: DataReceived) -> None:
        self._request_ended = event.end
        if self._connection is not None:
            self._write(b"", event.data, event.end)
        elif self._service_gone:
            self._drop(len(event.data), event.end)
        elif event.data:  # bounded by the window: no credit is given back
            if self._early is None:
                self._early = bytearray()
            self._early += event.data

    def _on_trailers(self, event: TrailersReceived) -> None:
        self._request_trailers = event.block
        self._request_ended = True
        if self._connection is not None:
            self._write(b"", b"", True)
        elif self._service_gone:
            self._drop(0, True)

    def _on_credit(self, _: CreditReceived) -> None:
        if self._paused:
            self._send_held()

    def _on_reset(self, event: StreamReset) -> None:
        """The client went away, or all that was left was a request that nobody wants."""
        if not self._response_ended:
            self._forwarder.metrics.request_failed(failure_of(event.code).code)
        self._abort()
        self._finish("ok" if self._response_ended else failure_of(event.code).code)

    # Towards the service.

    def _write(self, head: bytes, body: BodyBytes, end: bool) -> None:
        connection = self._connection
        assert connection is not None
        stream = connection.stream
        if body:
            self._uncredited += len(body)
            self.bytes_in += len(body)
            if self._framing is CHUNKED:
                body = encode_chunk(body)
        end_of_body = b""
        if end and self._framing is CHUNKED:
            end_of_body = last_chunk(self._request_trailers)
        if head or end_of_body:
            stream.write(b"".join((head, body, end_of_body)))
        elif body:
            stream.write(body)
        if end and self._switched:
            stream.half_close()
        if end and self._response_ended:
            self._end_both(reuse=False)  # it answered before it had the request: who knows where it stands
        else:
            self._settle(connection)

    def _settle(self, connection: ServiceConnection) -> None:
        """What follows from how much the service has taken: credit, and how long it has from now."""
        taken = self._uncredited - connection.stream.unsent_bytes
        if taken > 0:
            self._uncredited -= taken
            self._multiplexer.consumed(self._stream, taken)
        self._set_deadline(connection)

    def _set_deadline(self, connection: ServiceConnection) -> None:
        if self.bytes_in:
            self._untaken_bytes = connection.stream.untaken_bytes
        if self._request_ended and self._response_ended:  # but the service has not taken all
            connection.deadline = self._now() + self._forwarder.response_idle_s
        elif self._switched or self._paused:
            connection.deadline = inf
        elif self._final:
            connection.deadline = self._now() + self._forwarder.response_idle_s
        elif connection.stream.unsent_bytes or self._request_ended or self._head.upgrade:
            # What follows the head of an upgrade waits for its answer.
            connection.deadline = self._now() + self._forwarder.response_head_s
        else:
            connection.deadline = inf  # it is the client that is waited for

    def drained(self) -> None:
        """The service took everything."""
        connection = self._connection
        assert connection is not None
        self._settle(connection)
        if self._request_ended and self._response_ended:
            self._end_both(reuse=False)

    # Towards the tunnel.

    def received(self, data: bytes) -> None:
        """Bytes of the response; none, when only its end has become known."""
        connection = self._connection
        assert connection is not None
        self._answered = True
        if self._switched:
            self._relay(None, data, False)
            return
        if self._response_ended:
            return  # what comes behind its end is nobody's
        reader = connection.reader
        reader.receive_data(data)
        head = None
        try:
            while not self._final:
                head = reader.next_head()
                if head is None:
                    return
                status = head.status
                if status >= 200 or status == SWITCHING_PROTOCOLS:
                    self.status = status
                    self._final = True
                    self._answered_at = self._now()
                else:
                    self._multiplexer.send_head(self._stream, head)
            if self.status == SWITCHING_PROTOCOLS:
                self._switched = True
                if self._request_ended:  # before there was anything to end (RPC-32)
                    connection.stream.half_close()
                self._relay(head, reader.take_rest(), False)
                return
            body, end = reader.next_body()
        except ResponseRejected as rejected:
            self.fail(_CODES.get(rejected.failure, ResetCode.SERVICE_MALFORMED), str(rejected))
            return
        if not end:
            self._relay(head, body, False)
            return
        self._response_trailers = reader.trailer_block
        size = len(body)
        whole = self._request_ended and not reader.trailer_block
        if head is None or not whole or size > self._multiplexer.first_bytes_max:
            self._relay(head, body, True)
            return
        self._multiplexer.send_head(self._stream, head, body, True)  # one message, as nearly always
        self.bytes_out = size
        self._complete(self._answered_at, reuse=True)

    def _relay(self, head: ResponseHead | None, data: bytes, end: bool) -> None:
        """Send as much as there is credit for; hold the rest and read no more."""
        stream = self._stream
        size = len(data)
        if head is not None:
            if size <= self._multiplexer.first_bytes_max:
                self._multiplexer.send_head(stream, head, data, end and not self._response_trailers)
                self._sent(size, end)
                return
            self._multiplexer.send_head(stream, head)
        if size <= stream.credit:
            self._send(data, end)
        else:
            self._hold(data, end)

    def _send(self, data: BodyBytes, end: bool) -> None:
        last = end and not self._response_trailers
        if data or last:
            self._multiplexer.send_data(self._stream, data, last)
        self._sent(len(data), end)

    def _sent(self, size: int, end: bool) -> None:
        self.bytes_out += size
        if end:
            if self._response_trailers:
                self._multiplexer.send_trailers(self._stream, self._response_trailers)
            self._note_response_ended()
        else:
            connection = self._connection
            assert connection is not None
            self._set_deadline(connection)

    def _hold(self, data: bytes, end: bool) -> None:
        self._held, self._held_end = data, end
        connection = self._connection
        assert connection is not None
        if not self._paused:
            self._paused = True
            connection.stream.pause_reading()
            self._set_deadline(connection)  # it is the client that is waited for
        self._send_held()

    def _send_held(self) -> None:
        data = self._held
        room = self._multiplexer.room(self._stream, len(data))
        if len(data) > room:
            view = memoryview(data)
            self._held = view[room:]
            if room:
                self._send(view[:room], False)
            return
        connection, end = self._connection, self._held_end
        assert connection is not None
        self._held = b""
        self._paused = self._held_end = False
        self._send(data, end)
        connection.stream.resume_reading()  # also when it has gone to another exchange by now

    def _note_response_ended(self) -> None:
        self._response_ended = True
        if self._request_ended:
            self._end_both(reuse=not self._switched)
        else:
            connection = self._connection
            assert connection is not None
            self._set_deadline(connection)

    def _end_both(self, *, reuse: bool) -> None:
        """Request and response are over, but for what the service of a switched connection has not been sent yet."""
        connection = self._connection
        assert connection is not None
        if self._switched and connection.stream.unsent_bytes:
            self._set_deadline(connection)
        else:
            self._complete(self._now(), reuse=reuse)

    # When a connection ends.

    def crashed(self, error: BaseException) -> None:
        """A fault of our own: the tunnel's stream must not stay open for ever."""
        _log.error("an exchange with %s failed", self._forwarder.endpoint_id, exc_info=error)
        self.fail(ResetCode.INTERNAL, "internal error")

    def ended(self) -> None:
        """The service will send nothing more."""
        connection = self._connection
        assert connection is not None
        if self._response_ended:
            self._lose_service()
        elif self._switched:  # the client may go on: half-close
            self._relay(None, b"", True)
        elif not self._answered:
            self._cut_short("the service closed the connection without a response")
        else:
            connection.reader.receive_eof()
            self.received(b"")

    def lost(self, error: ConnectionLost) -> None:
        """The service reset the connection."""
        if self._response_ended and not self._switched:
            self._lose_service()
        else:
            self._cut_short(str(error))

    def _cut_short(self, reason: str) -> None:
        connection = self._connection
        assert connection is not None
        if self._may_be_sent_again and not connection.fresh and not self._answered:
            self._try_again(connection)
        else:
            self.fail(ResetCode.SERVICE_CLOSED, reason)

    @property
    def _may_be_sent_again(self) -> bool:
        at_hand = self._came_whole or not self.bytes_in
        return at_hand and self._head.method in IDEMPOTENT_METHODS

    def _try_again(self, connection: ServiceConnection) -> None:
        """A connection that was kept alive was closed as the request reached it; a fresh one cannot be."""
        connection.abort()
        self._connection = None
        self._body = self._first
        self._uncredited -= len(self._body)
        self.bytes_in = 0
        self._forwarder.service.want_new(self)

    def _lose_service(self) -> None:
        """The response is complete and the service gone: the rest of the request goes nowhere."""
        self._service_gone = True
        connection = self._connection
        assert connection is not None
        if connection.stream.unsent_bytes:
            self._abort()
        else:  # an end for its end: a reset would be an error at a service that has done all well
            self._connection = None
            connection.discard()
        self._drop(self._uncredited, self._request_ended)

    def _drop(self, size: int, end: bool) -> None:
        if size:
            self._multiplexer.consumed(self._stream, size)
        if end:
            self._finish("ok")
        elif not self._stream.queued:  # a reset would overtake what is left of the response
            self._multiplexer.reset(self._stream, ResetCode.NOT_WANTED)
            self._finish("ok")

    # The outcome.

    def fail(self, code: ResetCode, reason: str, *, untouched: bool = False) -> None:
        """End the stream and say why."""
        if self.over:
            return
        failure = failure_of(code, untouched=untouched)
        _log.debug("a request to %s failed: %s: %s", self._forwarder.endpoint_id, failure.code, reason)
        self._multiplexer.reset(self._stream, code, untouched=untouched, message=reason)
        self._forwarder.metrics.request_failed(failure.code)
        self._abort()
        self._finish(failure.code)

    def _complete(self, now: float, *, reuse: bool) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            reuse = reuse and connection.reader.reusable and not connection.stream.unsent_bytes
            if reuse and not may_be_left_unread(self._head, self.status, self._request_trailers):
                connection.release(now)
            else:
                connection.discard()
        self._finish("ok", now)

    def _abort(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()

    def _finish(self, outcome: str, now: float = 0.0) -> None:
        self.over = True
        self._multiplexer.release(self._stream)  # else it and this would keep each other until garbage is collected
        forwarder = self._forwarder
        seconds = (now or self._now()) - self.asked_at
        service_s = self._answered_at - self._sent_at if self._final else 0.0
        forwarder.metrics.request_finished(self.status, seconds, service_s, self.bytes_in, self.bytes_out)
        if self._traced is not None and forwarder.tracing is not None:
            forwarder.tracing.ended(self._traced, self.status, outcome, {})
        if forwarder.access_log.enabled:
            self._record(outcome, seconds, service_s)

    def _record(self, outcome: str, seconds: float, service_s: float) -> None:
        fields = _fields_of(self._head.field_block)
        self._forwarder.access_log.record(
            fields.get(b"x-request-id", b"").decode("latin-1"),
            fields.get(b"x-forwarded-for", b"").decode("latin-1"),
            fields.get(b"x-forwarded-proto", b"").decode("latin-1"),
            fields.get(b"host", b""),
            self._forwarder.endpoint_id,
            self._head.method,
            self._head.target,
            self.status,
            self.bytes_in,
            self.bytes_out,
            seconds,
            service_s,
            "",
            "",
            outcome,
            "",
            fields.get(b"user-agent", b""),
            trace_id_of(fields.get(b"traceparent", b"")),
        )


def _fields_of(block: bytes) -> dict[bytes, bytes]:
    """For the access log only: the last of each name."""
    lines = (line.partition(b":") for line in block.split(b"\r\n") if line)
    return {name.lower(): value.strip(b" \t") for name, _, value in lines}


_HANDLERS: Final[dict[type[Any], Any]] = {
    DataReceived: ServiceExchange._on_data,
    TrailersReceived: ServiceExchange._on_trailers,
    CreditReceived: ServiceExchange._on_credit,
    StreamReset: ServiceExchange._on_reset,
}
