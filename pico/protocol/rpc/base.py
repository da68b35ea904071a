"""The base protocol: each request and each response whole, in one message (``spec/rpc.md``, Base protocol).

Responsible for: the same face as ``StreamingEngine`` over a peer that speaks only the base protocol: bodies are
gathered here up to a limit, and whole messages are taken apart into the same events. Refuses to know: routing, and the
WebSocket below. What the base protocol cannot say (a cancellation, an upgrade, untouched) is either kept on this side
or refused.
"""

from __future__ import annotations

from typing import Any, Final

from pico.config import HttpLimits, RpcLimits
from pico.errors import LocalProtocolError, RemoteProtocolError
from pico.protocol.http import (
    Failure,
    encode_whole_request,
    encode_whole_response,
    failure_response,
    parse_whole_request,
    parse_whole_response,
)
from pico.protocol.http.values import RequestHead, ResponseHead
from pico.protocol.rpc.connection import RpcConnection
from pico.protocol.rpc.events import (
    BodyBytes,
    HeadReceived,
    ResponseShed,
    StreamEvent,
    StreamOpened,
    StreamReset,
    TrailersReceived,
)
from pico.protocol.rpc.failures import failure_of
from pico.protocol.rpc.messages import HEADER_BYTES, RESPONSE, Encoded, MessageType, ResetCode, encode_header
from pico.protocol.rpc.states import BODY, ENDED, Input
from pico.protocol.rpc.stream import UNBOUNDED, RpcStream, body_bytes_of
from pico.protocol.rpc.waiting import WaitingBodies

__all__ = ["BaseEngine"]

GATHERED_BYTES: Final = 128 * 1024
"""A body is gathered in pieces of about this size: one buffer would be moved again and again while it grows."""

TOO_MUCH_WAITS: Final = "bodies that wait take too much memory"


class BaseStream(RpcStream):
    """A call of the base protocol, with the half that is being gathered."""

    method = b""

    def __init__(self, id_: int, opened_here: bool, window_bytes: int, context: Any = None) -> None:
        super().__init__(id_, opened_here, window_bytes, context)
        self.head: RequestHead | ResponseHead | None = None
        self.body: list[bytearray] = []
        self.body_bytes = 0

    def gather(self, data: BodyBytes) -> None:
        """More of the body."""
        self.body_bytes += len(data)
        if self.body and len(self.body[-1]) + len(data) <= GATHERED_BYTES:
            self.body[-1] += data
        else:
            self.body.append(bytearray(data))

    def take_body(self) -> bytes:
        """All that was gathered, and keep nothing of it."""
        body = b"".join(self.body)
        self.forget_body()
        return body

    def forget_body(self) -> None:
        """Keep nothing; an owner may keep the stream for a while."""
        self.body = []
        self.body_bytes = 0


class BaseEngine(RpcConnection):
    """One side of a connection that speaks the base protocol.

    A stream's credit is one byte more than ``base_body_bytes_max``, so that an owner notices by sending that its body
    is over the limit: the stream then ends as TOO_LARGE.

    What the calls that it opens hold is counted in ``waiting``, as part of what those of ``endpoint_id`` hold.
    """

    _stream_type = BaseStream

    def __init__(
        self,
        limits: RpcLimits,
        http_limits: HttpLimits,
        *,
        now: float,
        waiting: WaitingBodies | None = None,
        endpoint_id: str = "",
    ) -> None:
        super().__init__(limits, limits.base_streams_max, now=now)
        self.first_bytes_max = limits.base_body_bytes_max + 1
        self._http_limits = http_limits
        self._handlers = _HANDLERS
        self._waiting = waiting
        self._endpoint_id = endpoint_id
        self._leaving: dict[int, RpcStream] = {}  # requests that are counted, complete, and have not left

    def _opening_type(self) -> MessageType:
        return MessageType.PROXY_HTTP

    # What our side wants.

    def open(self, head: RequestHead, data: BodyBytes = b"", end: bool = False, *, context: Any = None) -> RpcStream:
        """Open a call; it leaves when its body is complete."""
        stream = self._open(context, self.limits.base_body_bytes_max + 1)
        assert isinstance(stream, BaseStream)
        stream.method = head.method
        stream.head = head
        stream.sending = BODY
        stream.send_left = head.body_length
        if head.upgrade:  # RPC-23
            self._refuse(stream, ResetCode.REFUSED, "the base protocol carries no upgrade")
        elif head.body_length > self.limits.base_body_bytes_max:  # RPC-20
            self._refuse(stream, ResetCode.TOO_LARGE, "the body is too large for the base protocol")
        else:
            try:
                self._gather(stream, data, end)
            except LocalProtocolError:
                self._end(stream)
                raise
        return stream

    def send_head(self, stream: RpcStream, head: ResponseHead, data: bytes = b"", end: bool = False) -> None:
        """Answer a call; informational heads cannot be carried and are left out."""
        if stream.ended:
            return
        if stream.opened_here or head.status == 101:  # RPC-23
            raise LocalProtocolError(f"this head may not be sent on {stream!r}")
        if head.status < 200:
            return
        assert isinstance(stream, BaseStream)
        self._step_sending(stream, Input.HEAD)
        stream.head = head
        stream.send_left = body_bytes_of(stream, head)
        self._gather(stream, data, end)

    def send_data(self, stream: RpcStream, data: BodyBytes, end: bool = False) -> None:
        """Gather body bytes; ``end`` sends the message."""
        if stream.ended:
            return
        assert isinstance(stream, BaseStream)
        self._step_sending(stream, Input.DATA)
        self._gather(stream, data, end)

    def send_trailers(self, stream: RpcStream, block: bytes) -> None:
        """End our half with trailers."""
        if stream.ended:
            return
        assert isinstance(stream, BaseStream)
        self._step_sending(stream, Input.TRAILERS)
        self._complete(stream, block)

    def reset(self, stream: RpcStream, code: ResetCode, *, untouched: bool = False, message: str = "") -> None:
        """End the call for our side; a request that was taken is answered with the error that the code stands for."""
        if stream.ended:
            return
        if stream.opened_here:
            self._end(stream)
            self._discard(stream)
        else:  # RPC-24
            self._answer(stream, failure_response(failure_of(code)))

    def consumed(self, stream: RpcStream, size: int) -> None:
        """Nothing to give back: the base protocol has no credit."""

    def release(self, stream: RpcStream) -> None:
        """The owner is done with a stream that has ended, and holds none of its bytes."""
        stream.context = None
        if stream.waiting_bytes:
            self._wait_no_more(stream)

    def shed(self, stream: RpcStream) -> StreamEvent:
        """End a call of ours, or its response, for what it makes the node hold; for its owner (RPC-66)."""
        if stream.ended:
            self._wait_no_more(stream)
            return ResponseShed(stream, TOO_MUCH_WAITS)
        self._end(stream)
        self._discard(stream)
        return StreamReset(stream, ResetCode.REFUSED, True, TOO_MUCH_WAITS)

    def goaway(self, message: str = "") -> None:
        """Take no new calls; the base protocol cannot say so, they are answered with 503."""
        self.goaway_sent = True

    def _gather(self, stream: BaseStream, data: BodyBytes, end: bool) -> None:
        if len(data) > stream.credit:
            raise LocalProtocolError(f"{len(data)} bytes may not be sent with a credit of {stream.credit}")
        stream.credit -= len(data)
        if data:
            stream.gather(data)
        if stream.body_bytes > self.limits.base_body_bytes_max:  # RPC-20
            self._too_large(stream)
        elif end:
            self._complete(stream, b"")
        elif stream.opened_here:
            self._wait(stream, stream.body_bytes)

    def _wait(self, stream: RpcStream, size: int) -> bool:
        """So much of a body of a call of ours waits now (RPC-64); False when the call was ended for it."""
        if self._waiting is None or size <= self.limits.ahead_bytes:
            return True
        self._waiting.hold(self._endpoint_id, stream, self, size)
        return stream.waiting_bytes > 0

    def _wait_no_more(self, stream: RpcStream) -> None:
        assert isinstance(stream, BaseStream)
        assert self._waiting is not None
        self._waiting.release(self._endpoint_id, stream)
        self._leaving.pop(stream.id, None)
        stream.forget_body()

    def _over(self, stream: RpcStream) -> None:
        if stream.waiting_bytes:
            self._wait_no_more(stream)

    def _too_large(self, stream: BaseStream) -> None:
        stream.forget_body()
        if stream.opened_here:
            self._refuse(stream, ResetCode.TOO_LARGE, "the body is too large for the base protocol")
            return
        self._answer(stream, failure_response(Failure.RESPONSE_TOO_LARGE, "too large for the base protocol"))
        self._events.append(StreamReset(stream, ResetCode.TOO_LARGE, False, "too large for the base protocol"))

    def _refuse(self, stream: RpcStream, code: ResetCode, reason: str) -> None:
        """End a call of ours of which nothing has left."""
        self._end(stream)
        self._events.append(StreamReset(stream, code, True, reason))

    def _complete(self, stream: BaseStream, trailers: bytes) -> None:
        if stream.send_left not in (UNBOUNDED, stream.body_bytes):  # RPC-34, RPC-38
            raise LocalProtocolError("the body is not as long as its head declared")
        head, body = stream.head, stream.take_body()
        stream.sending = ENDED
        if isinstance(head, RequestHead):
            payload = encode_whole_request(head, body, trailers)
            self._send_on(stream, encode_header(MessageType.PROXY_HTTP, stream.id, 0) + payload)
            if body:
                self._wait(stream, len(body))
                if stream.waiting_bytes:
                    self._leaving[stream.id] = stream
        elif isinstance(head, ResponseHead):
            self._answer(stream, encode_whole_response(head, body, trailers, stream.method))

    def _answer(self, stream: RpcStream, payload: bytes) -> None:
        self._send_on(stream, encode_header(MessageType.PROXY_HTTP, stream.id, RESPONSE) + payload)
        stream.sending = ENDED
        self._end(stream)

    def outgoing(self, bytes_max: int) -> list[Encoded]:
        """See ``RpcConnection.outgoing``."""
        messages = super().outgoing(bytes_max)
        if self._leaving:
            for left in [one for one in self._leaving.values() if not one.queued]:
                self._wait_no_more(left)
        return messages

    # What the peer said.

    def _receive_proxy_http(self, id_: int, flags: int, message: bytes) -> None:
        if flags & RESPONSE:
            self._receive_response(id_, message[HEADER_BYTES:])
        else:
            self._receive_request(id_, message[HEADER_BYTES:])

    def _receive_response(self, id_: int, payload: bytes) -> None:
        stream = self._opened.get(id_)
        if stream is None or not stream.head_left:  # RPC-13
            self.late_messages += 1
            return
        assert isinstance(stream, BaseStream)
        self._end(stream)
        try:
            heads, body, trailers = parse_whole_response(payload, stream.method, self._http_limits)
        except RemoteProtocolError as violation:  # RPC-21
            self._events.append(StreamReset(stream, ResetCode.SERVICE_MALFORMED, False, str(violation)))
            return
        if len(body) > self.limits.base_body_bytes_max:  # RPC-20
            self._events.append(StreamReset(stream, ResetCode.TOO_LARGE, False, "the response is too large"))
            return
        if not self._wait(stream, len(body)):
            return
        for head in heads[:-1]:
            self._events.append(HeadReceived(stream, head, b"", False))
        self._events.append(HeadReceived(stream, heads[-1], body, not trailers))
        if trailers:
            self._events.append(TrailersReceived(stream, trailers))

    def _receive_request(self, id_: int, payload: bytes) -> None:
        if id_ in self._accepted:  # RPC-19
            raise RemoteProtocolError(f"PROXY-HTTP: a second request with the ID {id_}")
        if not self._may_accept:  # RPC-25, RPC-54
            self._refuse_request(id_, failure_response(Failure.OVERLOADED, "too many calls are open"))
            return
        try:
            head, body, trailers = parse_whole_request(payload, self._http_limits, self.limits.base_body_bytes_max)
        except RemoteProtocolError as violation:  # RPC-22
            self._refuse_request(id_, failure_response(Failure.BAD_REQUEST, str(violation)))
            return
        stream = BaseStream(id_, False, self.limits.base_body_bytes_max + 1)
        stream.method = head.method
        stream.is_head_request = head.method == b"HEAD"
        stream.receiving = ENDED
        self._accepted[id_] = stream
        self._events.append(StreamOpened(stream, head, body, not trailers))
        if trailers:
            self._events.append(TrailersReceived(stream, trailers))

    def _refuse_request(self, id_: int, payload: bytes) -> None:
        """Answer a request that never became a call; as control, so that a peer cannot pile these up (RPC-47)."""
        self._send_control(encode_header(MessageType.PROXY_HTTP, id_, RESPONSE) + payload)


_HANDLERS: Final[dict[int, Any]] = {
    MessageType.HEARTBEAT: BaseEngine._receive_heartbeat,
    MessageType.PROXY_HTTP: BaseEngine._receive_proxy_http,
}
