"""What both protocols share: the header, heartbeats, unknown types, and who is sent next.

Responsible for: everything of ``spec/rpc.md`` that does not depend on what a call looks like. Refuses to know: heads,
bodies and credit; the two engines that extend it do. Time is an argument, and there is no I/O.

Three queues leave here. *Control* messages go first, then what little a stream has to send that had nothing waiting:
that goes *ahead*. Everything else waits in the *ring*. Each stream has at most one message in one of the two and the
rest behind it in its own backlog, so streams take turns and the order within one is kept. The queues hold the streams.
One whose message was discarded is not searched for: it keeps its place, *dead*, until that is the first one, or until
dead ones are in the majority.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from math import inf
from typing import Any, ClassVar, Final

from pico.config import RpcLimits
from pico.errors import LocalProtocolError, RemoteProtocolError
from pico.protocol.rpc.events import Event, GoawayReceived, PeerSilent, StreamReset
from pico.protocol.rpc.messages import (
    HEADER,
    HEADER_BYTES,
    RESPONSE,
    UNSUPPORTED,
    Encoded,
    LongData,
    MessageType,
    ResetCode,
    cut_data,
    encode_header,
    size_of,
)
from pico.protocol.rpc.states import ENDED, HALF, HEAD, Input
from pico.protocol.rpc.stream import RpcStream

__all__ = ["RpcConnection", "RpcSnapshot"]

CUT_BYTES_MIN: Final = 4096
"""No long body is cut into less, however little is asked for."""

_RESPONSE_AND_UNSUPPORTED = RESPONSE | UNSUPPORTED


@dataclass(frozen=True, slots=True)
class RpcSnapshot:
    """What one connection holds at this moment, for status and for tests of its bounds."""

    opened: int
    accepted: int
    queued_bytes: int
    control_bytes: int
    held_bytes: int
    late_messages: int
    round_trip_s: float | None
    goaway_sent: bool
    goaway_received: bool


class RpcConnection:
    """The common part of both engines; use ``StreamingEngine`` or ``BaseEngine``."""

    first_bytes_max: int
    """Body bytes that ``open`` takes at most."""
    _handlers: dict[int, Any]
    """By type; functions, because methods of its own would have a connection keep itself."""
    _piece_bytes = 1
    _stream_type: ClassVar[type[RpcStream]] = RpcStream

    def __init__(self, limits: RpcLimits, streams_max: int, *, now: float) -> None:
        self.limits = limits
        self.streams_max = streams_max
        self.late_messages = 0
        self.goaway_sent = False
        self.goaway_received = False
        self.round_trip_s: float | None = None
        self.least_round_trip_s: float | None = None
        self._opened: dict[int, RpcStream] = {}
        self._accepted: dict[int, RpcStream] = {}
        self._opened_leaving = 0  # complete, but their last message has not left
        self._accepted_leaving = 0
        self._events: list[Event] = []
        self._control: deque[bytes] = deque()
        self._control_bytes = 0
        self._ahead: deque[RpcStream] = deque()  # the first one is never dead
        self._ahead_bytes = 0  # that went ahead of the ring and were not made up for by its turns
        self._ring: deque[RpcStream] = deque()  # likewise
        self._dead = 0  # in both of them
        self._queued_bytes = 0
        self._next_id = 1
        self._received_at = now  # the last sign of life
        self.asked_at: float | None = None  # when the first heartbeat since then was sent
        self._answer_s = min(limits.heartbeat_s, limits.silence_s - limits.heartbeat_s)
        self._heartbeat_at = now + limits.heartbeat_s
        self._heartbeat_id = 0
        self._heartbeat_sent_at = 0.0
        self._silent = False

    def release(self, stream: RpcStream) -> None:
        """The owner is done with a stream that has ended, and holds none of its bytes."""
        stream.context = None

    def room(self, stream: RpcStream, wanted: int) -> int:
        """How many of ``wanted`` body bytes to send now: all, if there is credit for them, else whole pieces.

        Zero asks to wait for the next ``CreditReceived``, which is certain to come (RPC-57).
        """
        credit = stream.credit
        return wanted if wanted <= credit else credit - credit % self._piece_bytes

    # What the peer said.

    def heard(self, *, now: float) -> None:
        """The peer lives though no whole message came: a part of one did, or its system takes more (RPC-10)."""
        self._received_at = now  # RPC-10
        self.asked_at = None

    def receive_message(self, message: bytes, *, now: float) -> None:
        """Take one whole binary message; raises ``RemoteProtocolError`` on a violation (RPC-2)."""
        self.heard(now=now)
        if len(message) < HEADER_BYTES:  # RPC-1
            raise RemoteProtocolError(f"a message of {len(message)} bytes is shorter than the header")
        kind, id_, flags = HEADER.unpack_from(message)
        if flags & UNSUPPORTED:
            self._receive_unsupported(kind, id_, flags)
            return
        handler = self._handlers.get(kind)
        if handler is not None:
            handler(self, id_, flags, message)
        elif flags & RESPONSE:  # RPC-4
            self.late_messages += 1
        else:  # RPC-3, RPC-6
            self._send_control(encode_header(kind, id_, _RESPONSE_AND_UNSUPPORTED))

    def events(self) -> list[Event]:
        """What happened since the last call."""
        if not self._events:
            return []
        events, self._events = self._events, []
        return events

    @property
    def has_events(self) -> bool:
        """Whether ``events`` has something to give."""
        return bool(self._events)

    def _receive_heartbeat(self, id_: int, flags: int, message: bytes) -> None:
        if not flags & RESPONSE:  # RPC-8
            self._send_control(encode_header(MessageType.HEARTBEAT, id_, RESPONSE))
        elif id_ == self._heartbeat_id and id_ != 0:  # IDs of ours begin with 1; zero is: none is asked
            self._heartbeat_id = 0
            self._round_trip_measured(max(0.0, self._received_at - self._heartbeat_sent_at))
        else:  # RPC-11
            self.late_messages += 1

    def _round_trip_measured(self, seconds: float) -> None:
        self.round_trip_s = seconds
        if self.least_round_trip_s is None or seconds < self.least_round_trip_s:
            self.least_round_trip_s = seconds

    def _receive_unsupported(self, kind: int, id_: int, flags: int) -> None:
        stream = self._opened.get(id_)
        if flags & RESPONSE and stream is not None and kind == self._opening_type():  # RPC-16
            untouched = stream.receiving is HEAD
            self._end(stream)
            self._discard(stream)
            self._events.append(StreamReset(stream, ResetCode.REFUSED, untouched, "not supported by the peer"))
        else:
            self.late_messages += 1

    def _opening_type(self) -> MessageType:
        raise NotImplementedError

    # Time.

    def next_timer(self) -> float | None:
        """When ``handle_timer`` wants to be called next; None when the peer was given up."""
        if self._silent:
            return None
        return min(max(self._heartbeat_at, self._received_at + self.limits.heartbeat_s), self._silence_at())

    def handle_timer(self, *, now: float) -> None:
        """Send a heartbeat or give the peer up, when it is time."""
        if self._silent:
            return
        if now >= self._silence_at():
            self._silent = True
            self._events.append(PeerSilent(now - self._received_at))
        elif now >= self._heartbeat_at and now >= self._received_at + self.limits.heartbeat_s:  # RPC-9
            self._send_heartbeat(now)

    def _send_heartbeat(self, now: float) -> None:
        if self.asked_at is None:
            self.asked_at = now
        self._heartbeat_at = now + self.limits.heartbeat_s
        self._heartbeat_id = self._take_id()
        self._heartbeat_sent_at = now
        self._send_control(encode_header(MessageType.HEARTBEAT, self._heartbeat_id, 0))

    def _silence_at(self) -> float:
        if self.asked_at is None:  # nobody is blamed for no answer to what was not asked
            return inf
        return max(self._received_at + self.limits.silence_s, self.asked_at + self._answer_s)  # RPC-10

    # Opening and ending.

    @property
    def may_open(self) -> bool:
        """Whether ``open`` is allowed now."""
        return len(self._opened) + self._opened_leaving < self.streams_max and not self.goaway_received

    @property
    def streams_free(self) -> int:
        """How many may be opened now."""
        return max(0, self.streams_max - len(self._opened) - self._opened_leaving) if self.may_open else 0

    @property
    def open_streams(self) -> int:
        """Streams that have not ended, of both sides."""
        return len(self._opened) + len(self._accepted)

    @property
    def _may_accept(self) -> bool:
        """Whether one stream more of the peer is within the limits.

        A stream counts until its last message has left: else a peer that asks much and reads nothing would make us hold
        its responses without end.
        """
        return len(self._accepted) + self._accepted_leaving < self.streams_max and not self.goaway_sent

    def lost(self) -> None:
        """The connection is gone: every stream ends, and each owner hears of it (RPC-15)."""
        self._forget_queues()
        for stream in [*self._opened.values(), *self._accepted.values()]:
            untouched = stream.opened_here and not stream.head_left
            self._end(stream)
            self._events.append(StreamReset(stream, ResetCode.LOST, untouched, "the connection was lost"))

    def _open(self, context: Any, window_bytes: int) -> RpcStream:
        if not self.may_open:  # RPC-17, RPC-55
            raise LocalProtocolError("no stream may be opened on this connection now")
        id_ = self._take_id()
        stream = self._opened[id_] = self._stream_type(id_, True, window_bytes, context)
        return stream

    def _take_id(self) -> int:
        id_ = self._next_id  # RPC-7
        self._next_id += 1
        return id_

    def _end(self, stream: RpcStream) -> None:
        stream.ended = True
        (self._opened if stream.opened_here else self._accepted).pop(stream.id, None)
        if stream.queued:
            self._count_leaving(stream, 1)
        else:
            self._over(stream)

    def _count_leaving(self, stream: RpcStream, change: int) -> None:
        if stream.opened_here:
            self._opened_leaving += change
        else:
            self._accepted_leaving += change
        if change < 0:
            self._over(stream)

    def _over(self, stream: RpcStream) -> None:
        """The stream has ended, and nothing is queued for it: its last message has left, or never will."""

    def _step_sending(self, stream: RpcStream, given: Input) -> None:
        state = HALF[stream.sending].get(given)
        if state is None:
            raise LocalProtocolError(f"{given.name} may not be sent on {stream!r}")
        stream.sending = state

    def _end_if_complete(self, stream: RpcStream) -> None:
        if stream.sending is ENDED and stream.receiving is ENDED:
            self._end(stream)

    def _discard(self, stream: RpcStream) -> None:
        """Nothing that is queued for the stream, which has ended, may leave any more (RPC-49)."""
        if not stream.queued:
            return
        self._queued_bytes -= size_of(stream.message) + sum(size_of(each) for each, _ in stream.backlog or ())
        self._forget_queued(stream)
        self._dead += 1
        self._drop_dead()
        if not self._ring:
            self._ahead_bytes = 0
        self._count_leaving(stream, -1)

    def _forget_queued(self, stream: RpcStream) -> None:
        stream.message = b""
        stream.backlog = None
        stream.backlog_bytes = 0
        stream.queued = False

    def _drop_dead(self) -> None:
        """Those that have come to the front; all of them, once they are more than the others."""
        ahead, ring = self._ahead, self._ring
        while ahead and not ahead[0].queued:
            ahead.popleft()
            self._dead -= 1
        while ring and not ring[0].queued:
            ring.popleft()
            self._dead -= 1
        if 2 * self._dead > len(ahead) + len(ring):
            self._ahead = deque([stream for stream in ahead if stream.queued])
            self._ring = deque([stream for stream in ring if stream.queued])
            self._dead = 0

    def _forget_queues(self) -> None:
        for stream in (*self._ahead, *self._ring):
            self._forget_queued(stream)
        self._ahead.clear()
        self._ring.clear()
        self._dead = 0
        self._control.clear()
        self._queued_bytes = self._control_bytes = 0
        self._opened_leaving = self._accepted_leaving = 0

    # What is sent next.

    def outgoing(self, bytes_max: int) -> list[Encoded]:
        """Whole messages in the order in which they must leave: all control, then about ``bytes_max`` of streams.

        DATA that is longer is cut for it. A long one comes in two pieces, so that nobody copies its body just to put
        the header in front.
        """
        messages: list[Encoded] = []
        if self._control:  # RPC-44
            messages.extend(self._control)
            self._control.clear()
            self._control_bytes = 0
        size = 0
        ahead, ring = self._ahead, self._ring
        cut_bytes = max(bytes_max, CUT_BYTES_MIN)
        while (ahead or ring) and size < bytes_max:
            if ahead and (not ring or self._ahead_bytes < self.limits.data_bytes_max):  # RPC-61, RPC-62
                stream = ahead.popleft()
                message = stream.message
                message_bytes = size_of(message)
                self._ahead_bytes = self._ahead_bytes + message_bytes if ring else 0
            else:
                stream = ring.popleft()
                message = stream.message
                if not isinstance(message, bytes) and len(message[1]) > cut_bytes:
                    message = self._cut(stream, message, cut_bytes)
                message_bytes = size_of(message)
                self._ahead_bytes = max(0, self._ahead_bytes - message_bytes)
            size += message_bytes
            self._queued_bytes -= message_bytes
            stream.head_left = True
            messages.append(message)
            if stream.backlog:  # RPC-45, RPC-46
                message, body_bytes = stream.backlog.popleft()
                stream.backlog_bytes -= body_bytes
                self._enqueue(stream, message, stream.ahead_left - size_of(message))
            else:
                stream.queued = False
                stream.message = b""
                if stream.ended:
                    self._count_leaving(stream, -1)
            if self._dead:
                self._drop_dead()
                ahead, ring = self._ahead, self._ring
            if not ring:
                self._ahead_bytes = 0
        return messages

    def _cut(self, stream: RpcStream, message: LongData, size: int) -> LongData:
        """The first ``size`` body bytes; the rest is what the stream sends next."""
        first, rest = cut_data(message, size)
        self._queued_bytes += HEADER_BYTES
        if stream.backlog is None:
            stream.backlog = deque()
        stream.backlog.appendleft((rest, 0))  # counted again where it leaves the backlog, at once
        return first

    @property
    def has_outgoing(self) -> bool:
        """Whether ``outgoing`` has something to give."""
        return bool(self._control or self._ahead or self._ring)

    @property
    def queued_bytes(self) -> int:
        """What of the streams waits to leave."""
        return self._queued_bytes

    @property
    def has_only_control(self) -> bool:
        """Whether control messages are all that ``outgoing`` has to give, or there is nothing."""
        return not self._ahead and not self._ring

    @property
    def wants_reading(self) -> bool:
        """False while the peer must first take the answers that it caused (RPC-47)."""
        return self._control_bytes <= self.limits.control_bytes_max

    def _send_control(self, message: bytes) -> None:
        self._control.append(message)
        self._control_bytes += len(message)

    def _send_first(self, stream: RpcStream, message: Encoded) -> None:
        """Send the HEAD that opens a stream: these keep the order of their IDs, whatever their sizes (RPC-26)."""
        size = size_of(message)
        self._queued_bytes += size
        stream.queued = True
        self._enqueue(stream, message, max(0, self.limits.ahead_bytes - size))

    def _send_on(self, stream: RpcStream, message: Encoded, body_bytes: int = 0) -> None:
        size = size_of(message)
        self._queued_bytes += size
        if not stream.queued:
            stream.queued = True
            self._enqueue(stream, message, self.limits.ahead_bytes - size)
            return
        if stream.backlog is None:
            stream.backlog = deque()
        stream.backlog.append((message, body_bytes))
        stream.backlog_bytes += body_bytes

    def _enqueue(self, stream: RpcStream, message: Encoded, ahead_left: int) -> None:
        stream.ahead_left = ahead_left
        stream.message = message
        (self._ring if ahead_left < 0 else self._ahead).append(stream)  # RPC-45, RPC-61

    def snapshot(self) -> RpcSnapshot:
        """What this connection holds now."""
        streams = [*self._opened.values(), *self._accepted.values()]
        return RpcSnapshot(
            opened=len(self._opened),
            accepted=len(self._accepted),
            queued_bytes=self._queued_bytes,
            control_bytes=self._control_bytes,
            held_bytes=sum(stream.held_bytes for stream in streams),
            late_messages=self.late_messages,
            round_trip_s=self.round_trip_s,
            goaway_sent=self.goaway_sent,
            goaway_received=self.goaway_received,
        )

    def _goaway_received(self, reason: str) -> None:
        if not self.goaway_received:  # RPC-56
            self.goaway_received = True
            self._events.append(GoawayReceived(reason))
