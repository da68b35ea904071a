"""Drives one RPC engine over one WebSocket, or over one channel between nodes, over one byte stream.

Responsible for: moving bytes, messages and time between the three, coalescing what is written in one turn of the hub
into one send, and the closing handshake. Refuses to know: what a stream is for. Every callback runs in the
hub and must not block; the owner's are called from there too.

Each stream's ``context`` is its *sink*: a callable that takes the events of that stream. A sink that raises is a bug of
its owner: the stream is reset, the fault is reported, the other streams go on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from enum import Enum
from typing import Final, Protocol

from pico.errors import ConnectionLost, RemoteProtocolError
from pico.protocol.channel import ChannelViolation
from pico.protocol.http.values import RequestHead, ResponseHead
from pico.protocol.rpc import (
    PIECE_BYTES,
    BaseEngine,
    BodyBytes,
    GoawayReceived,
    PeerSilent,
    ResetCode,
    RpcStream,
    StreamEvent,
    StreamingEngine,
    StreamOpened,
)
from pico.transport.channel import ChannelCodec
from pico.transport.clock import Clock, Timer
from pico.transport.stream import READ_BYTES_MAX, Stream
from pico.transport.websocket import BINARY, NO_CODE, Kind, WebSocketCodec, WebSocketViolation, parse_close

__all__ = ["GRACE_S", "End", "Multiplexer", "MultiplexerOwner", "Sink"]

Sink = Callable[[StreamEvent], None]

GRACE_S: Final = 0.05
"""How much later than it has to be the engine is asked whether a heartbeat is due.

The next one is due so long after the answer to the last one, and the timer is started before that comes: with this it
need not be started again for an answer that came as fast as that, and an idle connection wakes the process once.
"""

FLUSH_BYTES: Final = PIECE_BYTES
FLUSH_BYTES_MIN: Final = 8 * 1024
FLUSH_S: Final = 0.005
"""What is handed to the byte stream at a time, at most and at least, and for how long it may keep the path busy.

What was handed over cannot be overtaken: control messages, and what goes ahead (RPC-61), wait for it.
"""

BACKLOG_BYTES: Final = 64 * 1024
BACKLOG_BYTES_MIN: Final = 16 * 1024
BACKLOG_S: Final = 0.02
"""The same for what the system keeps that it has not sent. It must last until the next turn of the hub."""

PACE_S: Final = 0.1
"""How often the rate of the path is looked at, while more is to be sent than it takes."""

DEFERRALS_MAX: Final = 3
"""Reads that credit waits for, one after the other, while it is certain that the next one will bring something."""

CLOSE_NORMAL: Final = 1000
CLOSE_GOING_AWAY: Final = 1001
CLOSE_PROTOCOL_ERROR: Final = 1002
CLOSE_RELIEVED: Final = 1013

_log = logging.getLogger("pico.tunnel")


class End(Enum):
    """How a connection ended; the sentence of ``connection_ended`` has the rest. Values are metrics' words."""

    LOST = "lost"
    CLOSED = "closed"  # by the peer, with or without a closing handshake
    SILENT = "silent"
    PROTOCOL_ERROR = "protocol_error"
    SHED = "shed"  # by us, to be relieved of it


class MultiplexerOwner(Protocol):
    """Who is told what concerns the connection as a whole."""

    def stream_opened(self, event: StreamOpened) -> None:
        """The peer opened a stream; set ``event.stream.context`` to its sink."""

    def goaway_received(self, reason: str) -> None:
        """The peer takes no new streams."""

    def connection_ended(self, reason: str) -> None:
        """The connection is over, once; every stream has had its last event."""


class _Nobody:
    """The owner of a connection that has ended: the two, like a timer and what it calls, would else keep each other.

    Only the garbage collector could free them, and what lived long it seldom looks at (``pico.actors.heap``).
    """

    def stream_opened(self, event: StreamOpened) -> None:
        """What had come behind the end is dropped with the connection."""

    def goaway_received(self, reason: str) -> None:
        """Likewise."""

    def connection_ended(self, reason: str) -> None:
        """The owner was told."""


_NOBODY: Final = _Nobody()


class Multiplexer:
    """Many streams on one connection."""

    __slots__ = (
        "_asked_at",
        "_clock",
        "_close_timer",
        "_closing",
        "_codec",
        "_deferrals",
        "_ended",
        "_engine",
        "_flush_bytes",
        "_flush_scheduled",
        "_held_changed",
        "_last_words",
        "_owner",
        "_paced_at",
        "_paused",
        "_sent_before",
        "_stream",
        "_taken_bytes",
        "_timer",
        "bytes_received",
        "bytes_sent",
        "end",
        "violated",
    )

    def __init__(
        self,
        stream: Stream,
        codec: WebSocketCodec | ChannelCodec,
        engine: StreamingEngine | BaseEngine,
        clock: Clock,
        owner: MultiplexerOwner,
        held_changed: Callable[[], None] | None = None,
    ) -> None:
        """``held_changed`` is called when codec and byte stream may hold more or less than before, until the end.

        That is when the messages that a read brought were taken, when a write left something, and when that is gone.
        """
        self._held_changed = held_changed
        self._stream = stream
        self._codec = codec
        self._engine = engine
        self._clock = clock
        self._owner = owner
        self._flush_bytes = FLUSH_BYTES
        self._flush_scheduled = False
        self._paced_at = clock.now()
        self._deferrals = 0  # reads that control messages have waited for
        self._paused = False
        self._last_words: tuple[int, str] | None = None  # of the close frame that is sent once no stream is open
        self._closing = ""  # why our close frame was sent
        self._ended = False
        self._asked_at: float | None = None
        self._sent_before = 0  # the question of that time left
        self._taken_bytes = 0  # by the peer's system, at the last look
        self._timer: Timer | None = clock.timer(self._on_timer)  # until the end, as the owner
        self._close_timer: Timer | None = None
        self.bytes_received = 0
        self.bytes_sent = 0
        self.violated = ""  # the protocol that the peer broke, if it did
        self.end = End.LOST  # how it ended, once it has

    def start(self, leftover: bytes = b"") -> None:
        """Begin to read; ``leftover`` is what arrived behind the handshake."""
        # Several messages at a time, so that what they cause, credit above all, leaves in one send.
        self._stream.read_bytes_max = READ_BYTES_MAX
        self._stream.limit_backlog(BACKLOG_BYTES)
        self._stream.set_receiver(self)
        self._arm()
        if leftover:
            self.received(leftover)

    # What owners ask for. Each is the engine's own operation, followed by a flush at the end of this turn of the hub.

    @property
    def may_open(self) -> bool:
        """Whether a stream may be opened now."""
        return not self._ended and not self._closing and self._engine.may_open

    @property
    def streams_free(self) -> int:
        """How many streams may be opened now."""
        return self._engine.streams_free if self.may_open else 0

    @property
    def leaving(self) -> bool:
        """Whether no stream can be opened any more; whoever has told the owner so may not have been heard yet."""
        return self._ended or bool(self._closing) or self._engine.goaway_received

    @property
    def in_flight(self) -> int:
        """Streams that have not ended."""
        return self._engine.open_streams

    @property
    def first_bytes_max(self) -> int:
        """Body bytes that go with a head at most."""
        return min(self._engine.first_bytes_max, self._flush_bytes)

    @property
    def all_taken(self) -> bool:
        """Whether all that was to be sent is with the peer's system, or never will be."""
        return not (self._engine.has_outgoing or self._stream.untaken_bytes)

    @property
    def engine(self) -> StreamingEngine | BaseEngine:
        """The engine, for snapshots and counters."""
        return self._engine

    def open(self, head: RequestHead, data: BodyBytes, end: bool, sink: Sink) -> RpcStream:
        """Open a stream whose events go to ``sink``."""
        stream = self._engine.open(head, data, end, context=sink)
        self._schedule_flush()
        return stream

    def send_head(self, stream: RpcStream, head: ResponseHead, data: bytes = b"", end: bool = False) -> None:
        """Answer a stream that the peer opened."""
        self._engine.send_head(stream, head, data, end)
        self._schedule_flush()

    def room(self, stream: RpcStream, wanted: int) -> int:
        """How many of ``wanted`` body bytes to send now; see ``RpcConnection.room``.

        Where pieces are small anyway, to wait for a whole one (RPC-57) would only leave credit unused.
        """
        if self._flush_bytes < FLUSH_BYTES:
            return min(wanted, stream.credit)
        return self._engine.room(stream, wanted)

    def send_data(self, stream: RpcStream, data: BodyBytes, end: bool = False) -> None:
        """Send at most ``stream.credit`` body bytes."""
        self._engine.send_data(stream, data, end)
        if self._engine.queued_bytes >= FLUSH_BYTES:
            self._send()  # while the bytes are still in the processor's cache
        self._schedule_flush()

    def send_trailers(self, stream: RpcStream, block: bytes) -> None:
        """End our half with trailers."""
        self._engine.send_trailers(stream, block)
        self._schedule_flush()

    def reset(self, stream: RpcStream, code: ResetCode, *, untouched: bool = False, message: str = "") -> None:
        """End the stream at once."""
        self._engine.reset(stream, code, untouched=untouched, message=message)
        self._schedule_flush()

    def consumed(self, stream: RpcStream, size: int) -> None:
        """Give credit back for body bytes that were taken."""
        self._engine.consumed(stream, size)
        if not self._flush_scheduled and self._engine.has_outgoing:
            self._schedule_flush()

    def release(self, stream: RpcStream) -> None:
        """Forget the sink of a stream that has ended: its owner is done, and holds none of its bytes."""
        self._engine.release(stream)

    def goaway(self, message: str = "") -> None:
        """Take no new streams."""
        self._engine.goaway(message)
        self._schedule_flush()

    def close(self, code: int = CLOSE_NORMAL, reason: str = "") -> None:
        """Begin the closing handshake; the connection ends when the peer answers or a deadline passes."""
        if self._ended or self._closing:
            return
        self._deferrals = DEFERRALS_MAX  # what waits must leave now
        self._flush()
        if self._stream.closed:  # what that would have left was too much
            return
        self._closing = reason or f"closed with {code}"
        self._stream.write(self._codec.encode_close(code, reason))
        self._close_timer = self._clock.timer(self._on_close_deadline)
        self._close_timer.start(self._codec.limits.close_s)

    def close_when_idle(self, code: int, reason: str) -> None:
        """The same as soon as no stream is open; for who opens none any more."""
        self._last_words = (code, reason)
        self._close_if_idle()

    def abort(self, reason: str) -> None:
        """End the connection now."""
        self._abort(reason, End.LOST)

    def shed(self, reason: str) -> None:
        """End the connection now, to be relieved of it and of all that waits to be sent on it.

        The peer is told so, unless it would have to take the rest of a message first; its answer is not waited for.
        """
        if self._ended:
            return
        if self._stream.unsent_bytes:
            self._stream.abort()
        else:
            if not self._closing:
                self._stream.write(self._codec.encode_close(CLOSE_RELIEVED, reason))
            self._stream.close()
        self._end(reason, End.SHED)

    # What the byte stream says.

    def received(self, data: bytes) -> None:
        """Bytes from the peer."""
        self.bytes_received += len(data)
        now = self._clock.now()
        self._engine.heard(now=now)
        try:
            for kind, payload in self._codec.receive_data(data):
                if kind is BINARY:
                    self._engine.receive_message(payload, now=now)
                else:
                    self._receive_other(kind, payload)
        except RemoteProtocolError as violation:
            self._violation(violation)
        self._pump()
        if self._held_changed is not None and not self._ended:
            self._held_changed()

    def ended(self) -> None:
        """The peer closed its side without a closing handshake."""
        self._stream.close()
        self._end(self._closing or "the peer closed the connection", End.CLOSED)

    def lost(self, error: ConnectionLost) -> None:
        """The byte stream broke."""
        self._end(self._closing or str(error), End.LOST)

    def drained(self) -> None:
        """The byte stream took everything: there is room for more."""
        if self._held_changed is not None:
            self._held_changed()
        self._flush()

    def _receive_other(self, kind: Kind, payload: bytes) -> None:
        if kind is Kind.PING:
            # RFC 6455 §5.5.3 lets answers to earlier pings be left out: a peer that reads nothing gets none.
            if self._stream.unsent_bytes <= self._engine.limits.control_bytes_max:
                self._stream.write(self._codec.encode_pong(payload))
        elif kind is Kind.CLOSE:
            self._receive_close(payload)
        elif kind is Kind.TEXT:  # RPC-1
            raise RemoteProtocolError("a text message, only binary ones are allowed")

    def _receive_close(self, payload: bytes) -> None:
        code, reason = parse_close(payload)
        if not self._closing:
            self._stream.write(self._codec.encode_close(CLOSE_NORMAL, ""))
        self._stream.close()
        said = "the peer closed the connection"
        if code != NO_CODE:
            said += f" with code {code}"
        if reason:
            said += f": {reason}"
        self._end(self._closing or said, End.CLOSED)

    def _violation(self, violation: RemoteProtocolError) -> None:
        """The peer broke the protocol: say so and end the connection (RPC-2)."""
        if self._ended:
            return
        sentence, code = str(violation), CLOSE_PROTOCOL_ERROR
        if isinstance(violation, WebSocketViolation):
            self.violated, code = "websocket", violation.close_code
        else:
            self.violated = "channel" if isinstance(violation, ChannelViolation) else "rpc"
        _log.warning("protocol violation by %s: %s", self._stream.peer_host, sentence)
        self._stream.write(self._codec.encode_close(code, sentence[:120]))
        self._stream.close()
        self._end(f"protocol violation: {sentence}", End.PROTOCOL_ERROR)

    # Turning the engine's events into calls, its messages into bytes, its wishes into timers.

    def _pump(self) -> None:
        for event in self._engine.events():
            if isinstance(event, (GoawayReceived, PeerSilent)):
                self._dispatch(event)
            else:
                self._dispatch_to_stream(event)
        if not self._flush_scheduled and self._engine.has_outgoing:
            self._schedule_flush()
        if self._last_words is not None:
            self._close_if_idle()

    def _close_if_idle(self) -> None:
        words = self._last_words
        if words is not None and not self._engine.open_streams:
            self._last_words = None
            self.close(words[0], words[1])

    def _dispatch(self, event: GoawayReceived | PeerSilent) -> None:
        if isinstance(event, GoawayReceived):
            self._owner.goaway_received(event.reason)
        else:
            self._abort(f"the peer was silent for {event.silent_s:.1f} s", End.SILENT)

    def _dispatch_to_stream(self, event: StreamEvent) -> None:
        stream = event.stream
        try:
            if isinstance(event, StreamOpened):
                self._owner.stream_opened(event)
            elif stream.context is not None:
                stream.context(event)
        except Exception:
            _log.exception("the owner of a stream failed on %s", type(event).__name__)
            self._engine.reset(stream, ResetCode.INTERNAL, message="internal error")

    def _schedule_flush(self) -> None:
        if not self._flush_scheduled and not self._ended:
            self._flush_scheduled = True
            self._clock.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_scheduled = False
        if self._may_defer():
            self._deferrals += 1
            return
        self._deferrals = 0
        self._send()
        self._regulate_reading()
        if self._engine.has_events:
            self._pump()
        if self._last_words is not None:
            self._close_if_idle()
        if self._held_changed is not None and self._stream.unsent_bytes and not self._ended:
            self._held_changed()

    def _send(self) -> None:
        """Give the byte stream as much as it takes at once."""
        engine, stream = self._engine, self._stream
        while engine.has_outgoing and not stream.unsent_bytes and not self._ended and not self._closing:
            buffers = self._codec.encode(*engine.outgoing(self._flush_bytes))
            self.bytes_sent += sum(map(len, buffers))
            stream.writev(buffers)
        if engine.has_outgoing or self._flush_bytes < FLUSH_BYTES:
            self._pace()

    def _pace(self) -> None:
        """Hand over as much at a time as the path takes in ``FLUSH_S``."""
        now = self._clock.now()
        if now < self._paced_at + PACE_S:
            return
        self._paced_at = now
        rate = self._stream.delivery_rate
        if rate is not None:
            self._flush_bytes = min(FLUSH_BYTES, max(FLUSH_BYTES_MIN, int(rate * FLUSH_S)))
            self._stream.limit_backlog(min(BACKLOG_BYTES, max(BACKLOG_BYTES_MIN, int(rate * BACKLOG_S))))

    def _may_defer(self) -> bool:
        """Whether credit may wait for the credit that the next read causes: one send for both costs half."""
        if self._deferrals >= DEFERRALS_MAX or self._paused or self._ended or self._closing:
            return False
        engine = self._engine
        return engine.has_only_control and engine.wants_reading and self._stream.more_waits  # RPC-47

    def _regulate_reading(self) -> None:
        paused = not self._engine.wants_reading  # RPC-47
        if paused != self._paused:
            self._paused = paused
            (self._stream.pause_reading if paused else self._stream.resume_reading)()

    def _on_timer(self) -> None:
        engine, now = self._engine, self._clock.now()
        if engine.asked_at is not None and self._shows_life():
            engine.heard(now=now)
        engine.handle_timer(now=now)
        if engine.asked_at is not None:
            self._note_taken(engine.asked_at)
        self._pump()
        self._arm()

    def _shows_life(self) -> bool:
        """Whether a peer that was asked and has not answered lives all the same (RPC-10).

        Something of it waits here: it is we who did not run. Or the question waits behind what its system takes.
        What left behind the question shows nothing: the system of a process that hangs takes that, too.
        """
        if not self._paused and self._stream.unread_bytes:
            return True
        taken_bytes = self.bytes_sent - self._stream.untaken_bytes
        return self._taken_bytes < taken_bytes < self._sent_before

    def _note_taken(self, asked_at: float) -> None:
        if asked_at != self._asked_at:
            self._asked_at = asked_at
            self._sent_before = self.bytes_sent
        self._taken_bytes = self.bytes_sent - self._stream.untaken_bytes

    def _arm(self) -> None:
        at = self._engine.next_timer()
        if at is not None and self._timer is not None:
            self._timer.start(max(0.0, at - self._clock.now()) + GRACE_S)

    def _on_close_deadline(self) -> None:
        self._abort(self._closing, End.LOST)

    def _abort(self, reason: str, end: End) -> None:
        if not self._ended:
            self._stream.abort()
            self._end(reason, end)

    def _end(self, reason: str, end: End) -> None:
        if self._ended:
            return
        self._ended, self.end = True, end
        self._forget_timers()
        self._engine.lost()
        for event in self._engine.events():
            if isinstance(event, GoawayReceived):  # it came in one read with the end, and says why that is
                self._owner.goaway_received(event.reason)
            elif not isinstance(event, PeerSilent):
                self._dispatch_to_stream(event)
        owner, self._owner = self._owner, _NOBODY
        owner.connection_ended(reason)

    def _forget_timers(self) -> None:
        for timer in (self._timer, self._close_timer):
            if timer is not None:
                timer.stop()
        self._timer = self._close_timer = None
