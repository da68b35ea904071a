"""The streaming extension, ``pico.stream.v1``: heads, bodies with credit, resets, goaway (``spec/rpc.md``).

Responsible for: the streams of one connection, in both roles. Refuses to know: HTTP framing, who routes where, and the
WebSocket below. The owner gives it messages and commands, then takes ``events()`` and ``outgoing()``.

Sending on a stream that the peer has just reset is not a mistake (the reset may not have reached the caller yet), so
such a call does nothing. Any other misuse raises ``LocalProtocolError``.
"""

from __future__ import annotations

from typing import Any, Final

from pico.config import RpcLimits
from pico.errors import LocalProtocolError, RemoteProtocolError
from pico.protocol.http.values import RequestHead, ResponseHead, valid_field_block
from pico.protocol.rpc.connection import RpcConnection
from pico.protocol.rpc.events import (
    BodyBytes,
    CreditReceived,
    DataReceived,
    HeadReceived,
    StreamOpened,
    StreamReset,
    TrailersReceived,
)
from pico.protocol.rpc.messages import (
    DATA_TYPE,
    END,
    HEADER_BYTES,
    RESPONSE,
    MessageType,
    ResetCode,
    decode_request_head,
    decode_reset,
    decode_response_head,
    decode_window,
    encode_header,
    encode_request_head,
    encode_reset,
    encode_response_head,
    encode_window,
)
from pico.protocol.rpc.states import BODY, ENDED, HALF, HEAD, Input
from pico.protocol.rpc.stream import SWITCHING_PROTOCOLS, UNBOUNDED, RpcStream, body_bytes_of

__all__ = ["PIECE_BYTES", "StreamingEngine"]

PIECE_BYTES: Final = 127 * 1024
"""How a long body is cut. A piece with its headers fits two segments of the size that TCP hands on at a time, 64 KiB
less headers; 128 KiB would leave a third one for what is over, which costs as much as the others."""

JOINED_BYTES_MAX: Final = 4096
"""Body bytes up to which DATA that waits behind other messages of its stream is joined."""

_VIEW_BYTES_MIN: Final = 4096
"""From this length on a view of a message costs less than a copy of what it brings."""

_GIVEN_HEAD: Final = Input.HEAD  # as in the table of states: looked up once
_GIVEN_DATA: Final = Input.DATA


class StreamingEngine(RpcConnection):
    """One side of a connection that speaks the streaming extension."""

    def __init__(self, limits: RpcLimits, *, now: float) -> None:
        super().__init__(limits, limits.streams_max, now=now)
        self._cut_bytes = min(PIECE_BYTES, limits.data_bytes_max)
        self._piece_bytes = min(self._cut_bytes, max(1, limits.window_bytes // 2))  # RPC-57
        self.first_bytes_max = min(self._cut_bytes, limits.window_bytes)
        self._highest_accepted = 0
        self._give_back_bytes = max(1, limits.window_bytes // 4)
        self._growth_bytes = 0  # of all windows that the peer has
        self._lift_bytes = 0  # of all windows that it has given us, as last looked at
        self._probed: RpcStream | None = None  # whose bytes are counted for one round trip
        self._probed_from = 0
        self._probe_at = now
        self._handlers = _HANDLERS

    def _opening_type(self) -> MessageType:
        return MessageType.HEAD

    # What our side wants.

    def open(self, head: RequestHead, data: BodyBytes = b"", end: bool = False, *, context: Any = None) -> RpcStream:
        """Open a stream with a request head and the first body bytes.

        ``data`` is at most ``data_bytes_max`` and ``window_bytes`` long; ``end`` says that it is the whole body.
        """
        stream = self._open(context, self.limits.window_bytes)
        stream.is_head_request = head.method == b"HEAD"
        stream.upgrade_asked = head.upgrade != b""
        stream.send_left = head.body_length
        stream.sending = BODY
        if data or end:
            try:
                self._account_first(stream, data, end)
            except LocalProtocolError:
                self._end(stream)
                raise
        self._send_first(stream, encode_request_head(stream.id, head, data, end))
        return stream

    def send_head(self, stream: RpcStream, head: ResponseHead, data: bytes = b"", end: bool = False) -> None:
        """Answer with a head, informational or final, and the first body bytes."""
        if stream.ended:
            return
        informational = head.status < 200 and head.status != SWITCHING_PROTOCOLS
        if stream.opened_here or (informational and (data or end)):  # RPC-30
            raise LocalProtocolError(f"this head may not be sent on {stream!r}")
        if head.status == SWITCHING_PROTOCOLS and not stream.upgrade_asked:  # RPC-32
            raise LocalProtocolError("101 answers only a request that asked for an upgrade")
        self._step_sending(stream, Input.INFORMATIONAL if informational else _GIVEN_HEAD)
        if not informational:
            stream.send_left = body_bytes_of(stream, head)
            self._account_first(stream, data, end)
        if head.status == SWITCHING_PROTOCOLS:  # RPC-32
            stream.receive_left = UNBOUNDED
        self._send_on(stream, encode_response_head(stream.id, head, data, end), len(data))
        self._end_if_complete(stream)

    def send_data(self, stream: RpcStream, data: BodyBytes, end: bool = False) -> None:
        """Send body bytes, at most ``stream.credit`` of them; ``end`` ends our half."""
        if stream.ended:
            return
        self._step_sending(stream, _GIVEN_DATA)
        self._account_sent(stream, data, end)
        flags = 0 if stream.opened_here else RESPONSE
        size_max = self._cut_bytes
        header, size = encode_header(DATA_TYPE, stream.id, flags), len(data)
        at, view = 0, memoryview(data)  # a slice of the bytes themselves would be one more copy
        while size - at > size_max:  # RPC-35
            self._send_on(stream, (header, view[at : at + size_max]), size_max)
            at += size_max
        if data or end:
            last = encode_header(DATA_TYPE, stream.id, flags | END) if end else header
            rest = view[at:]
            if not (stream.backlog and self._joined(stream, header, last, rest)):
                message = b"".join((last, rest)) if len(rest) < _VIEW_BYTES_MIN else (last, rest)
                self._send_on(stream, message, len(rest))
        self._end_if_complete(stream)

    def _joined(self, stream: RpcStream, header: bytes, last: bytes, rest: memoryview) -> bool:
        """Whether ``rest`` went into the message that waits last, both being short (RPC-63)."""
        assert stream.backlog is not None
        message, body_bytes = stream.backlog[-1]
        if body_bytes + len(rest) > min(JOINED_BYTES_MAX, self._cut_bytes) or not isinstance(message, bytes):
            return False
        if not message.startswith(header):
            return False
        stream.backlog[-1] = b"".join((last, message[HEADER_BYTES:], rest)), body_bytes + len(rest)
        stream.backlog_bytes += len(rest)
        self._queued_bytes += len(rest)
        return True

    def send_trailers(self, stream: RpcStream, block: bytes) -> None:
        """End our half with trailers, a valid field block of at most ``trailer_bytes_max``."""
        if stream.ended:
            return
        if len(block) > self.limits.trailer_bytes_max:  # RPC-36
            raise LocalProtocolError(f"{len(block)} bytes of trailers, at most {self.limits.trailer_bytes_max}")
        self._step_sending(stream, Input.TRAILERS)
        self._account_sent(stream, b"", True)
        flags = END if stream.opened_here else RESPONSE | END
        self._send_on(stream, encode_header(MessageType.TRAILERS, stream.id, flags) + block)
        self._end_if_complete(stream)

    def reset(self, stream: RpcStream, code: ResetCode, *, untouched: bool = False, message: str = "") -> None:
        """End the stream now; nothing happens when it has ended already.

        A response that has been given whole stands: the reset leaves behind it, and says that the rest of the request
        is not wanted (RPC-53).
        """
        if code is ResetCode.LOST:
            raise LocalProtocolError("LOST is never sent")
        if stream.ended:
            return
        if stream.queued and not stream.opened_here and stream.sending is ENDED:  # RPC-53
            self._send_on(stream, encode_reset(stream.id, RESPONSE, code, untouched, message, self.limits))
            self._end(stream)
            return
        self._end(stream)
        self._discard(stream)
        if stream.head_left or not stream.opened_here:  # RPC-49
            self._send_reset(stream.id, 0 if stream.opened_here else RESPONSE, code, untouched, message)

    def consumed(self, stream: RpcStream, size: int) -> None:
        """The owner has taken ``size`` received body bytes and has room for as many more."""
        if size > stream.held_bytes:
            raise LocalProtocolError(f"{size} bytes were taken of {stream.held_bytes} that are held")
        grown = stream.growth_bytes != 0
        slow = grown and stream.held_bytes >= 2 * self.limits.window_bytes
        stream.held_bytes -= size
        if stream.ended:
            if grown:
                self._free_growth(stream)
            return
        if slow:
            size = self._shrink(stream, size)
        stream.taken_bytes += size
        if stream.receiving is ENDED or stream.taken_bytes < self._give_back_bytes:
            return
        self._give_credit(stream, stream.taken_bytes)  # RPC-40
        stream.taken_bytes = 0

    def release(self, stream: RpcStream) -> None:
        """The owner is done with a stream that has ended, and holds none of its bytes."""
        stream.context = None
        if stream.growth_bytes:
            stream.held_bytes = 0
            self._free_growth(stream)

    def goaway(self, message: str = "") -> None:
        """Take no new streams from the peer; those that are open go on."""
        if self.goaway_sent:
            return
        self.goaway_sent = True
        reason = message.encode("utf-8", "replace")[: self.limits.reason_bytes_max]
        self._send_control(encode_header(MessageType.GOAWAY, 0, 0) + reason)  # RPC-56

    def _account_first(self, stream: RpcStream, data: BodyBytes, end: bool) -> None:
        """Take account of the body bytes that go with a head, which are not cut into pieces."""
        if len(data) > self.limits.data_bytes_max:  # RPC-35
            raise LocalProtocolError(f"{len(data)} body bytes with a head, at most {self.limits.data_bytes_max}")
        self._account_sent(stream, data, end)

    def _account_sent(self, stream: RpcStream, data: BodyBytes, end: bool) -> None:
        size = len(data)
        if size > stream.credit:  # RPC-39
            raise LocalProtocolError(f"{size} bytes may not be sent with a credit of {stream.credit}")
        stream.credit -= size
        if stream.send_left != UNBOUNDED:  # RPC-34
            stream.send_left -= size
            if stream.send_left < 0 or (end and stream.send_left):
                raise LocalProtocolError("the body is not as long as its head declared")
        if end:
            stream.sending = ENDED

    def _send_reset(self, id_: int, flags: int, code: ResetCode, untouched: bool, reason: str) -> None:
        self._send_control(encode_reset(id_, flags, code, untouched, reason, self.limits))

    # How much the peer may send.

    def _give_credit(self, stream: RpcStream, size: int) -> None:
        self._send_control(encode_window(stream.id, 0 if stream.opened_here else RESPONSE, size))
        stream.window_left += size

    def _probe(self, stream: RpcStream, size: int) -> None:
        """Count what arrives of a long body, these ``size`` bytes first, until the answer to a heartbeat is here.

        With nothing to count, only the round trip is measured: before there is a queue on the way that makes it longer.
        """
        self._send_heartbeat(self._received_at)
        self._probed = stream if size else None
        self._probed_from = stream.arrived_bytes - size
        self._probe_at = self._received_at + self.limits.probe_s

    def _send_heartbeat(self, now: float) -> None:
        super()._send_heartbeat(now)
        self._probed = None  # the answer to an earlier one is not waited for any more

    def _round_trip_measured(self, seconds: float) -> None:
        super()._round_trip_measured(seconds)
        stream, self._probed = self._probed, None
        if stream is None or stream.ended or stream.receiving is ENDED:
            return
        if 2 * stream.held_bytes > self.limits.window_bytes:  # RPC-59
            return
        window = self.limits.window_bytes + stream.growth_bytes
        arrived = stream.arrived_bytes - self._probed_from
        least = self.least_round_trip_s or 0.0
        if 3 * arrived >= 2 * window and 3 * arrived * least >= 2 * window * seconds:  # RPC-58
            room = min(self.limits.window_bytes_max - window, self.limits.growth_bytes_max - self._growth_bytes)
            self._grow(stream, min(window, room))

    def _grow(self, stream: RpcStream, size: int) -> None:
        if size > 0:
            stream.growth_bytes += size
            self._growth_bytes += size
            self._give_credit(stream, size)

    def _shrink(self, stream: RpcStream, size: int) -> int:
        """Keep back half of ``size`` bytes that were taken, up to what the window had grown; returns the rest.

        Half, so that a sender who waits hears that something is taken.
        """
        kept = min(size // 2, stream.growth_bytes)  # RPC-59
        stream.growth_bytes -= kept
        self._growth_bytes -= kept
        return size - kept

    def _over(self, stream: RpcStream) -> None:
        if stream.lift_bytes:
            self._lift_bytes -= stream.lift_bytes
            stream.lift_bytes = 0
        if stream.growth_bytes:
            self._free_growth(stream)

    def _free_growth(self, stream: RpcStream) -> None:
        """Let others have what the window of a stream that has ended had grown, but for what its owner still holds."""
        if stream.queued:  # the peer has not been told, and counts it
            return
        kept = min(stream.growth_bytes, max(0, stream.held_bytes - self.limits.window_bytes))
        self._growth_bytes -= stream.growth_bytes - kept
        stream.growth_bytes = kept

    # What the peer said.

    def _receive_head(self, id_: int, flags: int, message: bytes) -> None:
        if flags & RESPONSE:
            self._receive_response_head(id_, flags, message)
        else:
            self._receive_request_head(id_, flags, message)

    def _receive_request_head(self, id_: int, flags: int, message: bytes) -> None:
        if id_ <= self._highest_accepted:  # RPC-26
            raise RemoteProtocolError(f"HEAD: the ID {id_} is not higher than {self._highest_accepted}")
        self._highest_accepted = id_
        head, data = decode_request_head(message, self.limits)
        end = bool(flags & END)
        if not self._may_accept:  # RPC-31, RPC-54
            reason = "going away" if self.goaway_sent else "too many open streams"
            self._send_reset(id_, RESPONSE, ResetCode.REFUSED, True, reason)
            return
        stream = RpcStream(id_, False, self.limits.window_bytes)
        stream.is_head_request = head.method == b"HEAD"
        stream.upgrade_asked = head.upgrade != b""
        stream.receive_left = head.body_length
        stream.receiving = BODY
        self._account_received(stream, data, end)
        self._accepted[id_] = stream
        self._events.append(StreamOpened(stream, head, data, end))

    def _receive_response_head(self, id_: int, flags: int, message: bytes) -> None:
        stream = self._receiving_stream(id_, flags)
        if stream is None:
            return
        head, data = decode_response_head(message, self.limits)
        end = bool(flags & END)
        if head.status < 200 and head.status != SWITCHING_PROTOCOLS:
            if data or end:  # RPC-30
                raise RemoteProtocolError(f"HEAD: the informational status {head.status} with a body or END")
            self._step_receiving(stream, Input.INFORMATIONAL)
        else:
            if head.status == SWITCHING_PROTOCOLS and not stream.upgrade_asked:  # RPC-32
                raise RemoteProtocolError("HEAD: the status 101 answers a request that asked for no upgrade")
            self._step_receiving(stream, _GIVEN_HEAD)
            stream.receive_left = body_bytes_of(stream, head)
            self._account_received(stream, data, end)
            if head.status == SWITCHING_PROTOCOLS:
                stream.send_left = UNBOUNDED
        self._events.append(HeadReceived(stream, head, data, end))
        self._end_if_complete(stream)

    def _receive_data(self, id_: int, flags: int, message: bytes) -> None:
        stream = self._receiving_stream(id_, flags)
        if stream is None:
            return
        few = len(message) < _VIEW_BYTES_MIN
        data: BodyBytes = message[HEADER_BYTES:] if few else memoryview(message)[HEADER_BYTES:]
        end = bool(flags & END)
        if len(data) > self.limits.data_bytes_max or not (data or end):  # RPC-35
            raise RemoteProtocolError(f"DATA: {len(data)} bytes in one message")
        self._step_receiving(stream, _GIVEN_DATA)
        self._account_received(stream, data, end)
        self._events.append(DataReceived(stream, data, end))
        self._end_if_complete(stream)
        long = stream.arrived_bytes >= self.limits.window_bytes
        if (long or self.least_round_trip_s is None) and self._may_probe(stream):  # RPC-58
            self._probe(stream, len(data) if long else 0)

    def _may_probe(self, stream: RpcStream) -> bool:
        """Whether it is time, and the stream's window may grow."""
        if self._heartbeat_id or self._received_at < self._probe_at or stream.receiving is ENDED:
            return False
        limits = self.limits
        return stream.growth_bytes < limits.window_bytes_max - limits.window_bytes and not stream.ended

    def _receive_trailers(self, id_: int, flags: int, message: bytes) -> None:
        stream = self._receiving_stream(id_, flags)
        if stream is None:
            return
        block = message[HEADER_BYTES:]
        if len(block) > self.limits.trailer_bytes_max or not valid_field_block(block):  # RPC-36
            raise RemoteProtocolError(f"TRAILERS: a block of {len(block)} bytes that is not valid")
        self._step_receiving(stream, Input.TRAILERS)
        self._account_received(stream, b"", True)
        self._events.append(TrailersReceived(stream, block))
        self._end_if_complete(stream)

    def _receive_reset(self, id_: int, flags: int, message: bytes) -> None:
        reset = decode_reset(message, self.limits)
        stream = self._receiving_stream(id_, flags)
        if stream is None:  # RPC-52
            return
        untouched = reset.untouched and stream.opened_here and stream.receiving is HEAD  # RPC-50
        code = reset.code
        if stream.opened_here and code is ResetCode.CANCELLED:  # RPC-51
            code = ResetCode.INTERNAL
        self._end(stream)
        self._discard(stream)
        self._events.append(StreamReset(stream, code, untouched, reset.reason))

    def _receive_window(self, id_: int, flags: int, message: bytes) -> None:
        credit = decode_window(message)
        stream = self._receiving_stream(id_, flags)
        if stream is None or stream.sending is ENDED:  # RPC-42
            return
        stream.credit += credit
        ahead = stream.credit + stream.backlog_bytes
        if ahead > self.limits.window_bytes_max:  # RPC-41
            raise RemoteProtocolError(f"WINDOW: {credit} bytes lift the credit above {self.limits.window_bytes_max}")
        if ahead > self.limits.window_bytes or stream.lift_bytes:
            self._note_lift(stream)
            if self._lift_bytes > self.limits.growth_bytes_max and self._lift_in_all() > self.limits.growth_bytes_max:
                raise RemoteProtocolError(f"WINDOW: more than {self.limits.growth_bytes_max} bytes beyond all windows")
        self._events.append(CreditReceived(stream))

    def _note_lift(self, stream: RpcStream) -> None:
        """See how much more than a first window we may be made to hold of what our owner sends on the stream."""
        credit = 0 if stream.sending is ENDED else stream.credit
        lift = max(0, credit + stream.backlog_bytes - self.limits.window_bytes)
        self._lift_bytes += lift - stream.lift_bytes
        stream.lift_bytes = lift

    def _lift_in_all(self) -> int:
        """The same for all streams, looked at now: what was noted is the most, since it shrinks as bytes leave."""
        leaving = [stream for stream in (*self._ahead, *self._ring) if stream.ended]
        for stream in [*self._opened.values(), *self._accepted.values(), *leaving]:
            if stream.lift_bytes:
                self._note_lift(stream)
        return self._lift_bytes

    def _receive_goaway(self, id_: int, flags: int, message: bytes) -> None:
        size = len(message) - HEADER_BYTES
        if id_ != 0 or size > self.limits.reason_bytes_max:  # RPC-56
            raise RemoteProtocolError(f"GOAWAY: the ID {id_} or a reason of {size} bytes is not valid")
        self._goaway_received(message[HEADER_BYTES:].decode("utf-8", "replace"))

    def _receiving_stream(self, id_: int, flags: int) -> RpcStream | None:
        stream = (self._opened if flags & RESPONSE else self._accepted).get(id_)
        if stream is not None:
            return stream
        highest = self._next_id - 1 if flags & RESPONSE else self._highest_accepted
        if id_ > highest:  # RPC-37
            raise RemoteProtocolError(f"a message for the stream {id_}, which was never opened")
        self.late_messages += 1  # RPC-13
        return None

    def _step_receiving(self, stream: RpcStream, given: Input) -> None:
        state = HALF[stream.receiving].get(given)
        if state is None:  # RPC-37
            raise RemoteProtocolError(f"{given.name} may not follow on {stream!r}")
        stream.receiving = state

    def _account_received(self, stream: RpcStream, data: BodyBytes, end: bool) -> None:
        size = len(data)
        if size > stream.window_left:  # RPC-39
            raise RemoteProtocolError(f"{size} bytes with a credit of {stream.window_left}")
        stream.window_left -= size
        stream.held_bytes += size
        stream.arrived_bytes += size
        if stream.receive_left != UNBOUNDED:  # RPC-34
            stream.receive_left -= size
            if stream.receive_left < 0 or (end and stream.receive_left):
                raise RemoteProtocolError("the body is not as long as its head declared")
        if end:
            stream.receiving = ENDED


_HANDLERS: Final[dict[int, Any]] = {
    MessageType.HEARTBEAT: StreamingEngine._receive_heartbeat,
    MessageType.HEAD: StreamingEngine._receive_head,
    MessageType.DATA: StreamingEngine._receive_data,
    MessageType.TRAILERS: StreamingEngine._receive_trailers,
    MessageType.RESET: StreamingEngine._receive_reset,
    MessageType.WINDOW: StreamingEngine._receive_window,
    MessageType.GOAWAY: StreamingEngine._receive_goaway,
}
