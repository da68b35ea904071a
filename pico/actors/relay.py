"""What a peer link brings: requests that entered the cluster at another node and are served by upstreams of this one.

Responsible for: relaying each of them, stream to stream, between the link and a local upstream: both bodies at the pace
of whoever takes them, resets with what they say about the service, and another upstream where that is safe. Refuses to
know: HTTP's framing, clients and deadlines (the entry node has those and cancels), how the link came about, and any
upstream that is not of this node.

There is neither actor nor greenlet for a relay: nothing it does blocks. It moves in callbacks of the hub, as events of
the one stream become calls on the other, so a request that passes through costs no switch. What has no credit on the
far side is held, and its own credit is not given back before it has left: so a relay holds no more than the windows of
its two streams, and what it keeps so that it can be sent again.
"""

from __future__ import annotations

import logging
import re
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from pico.actors.questions import Questions
from pico.actors.routes import Routes
from pico.actors.upstream import Upstream
from pico.observability.metrics import NodeMetrics
from pico.protocol.http import UNKNOWN_LENGTH, RequestHead, ResponseHead
from pico.protocol.routing import Held, address_of, held_with, is_question, may_try_again
from pico.protocol.rpc import (
    BodyBytes,
    CreditReceived,
    DataReceived,
    HeadReceived,
    ResetCode,
    ResponseShed,
    RpcStream,
    StreamEvent,
    StreamOpened,
    StreamReset,
    TrailersReceived,
)
from pico.transport.multiplexer import Multiplexer, MultiplexerOwner
from pico.transport.stream import Piece, keep_piece

__all__ = ["AcceptedLink", "Forwarding", "Relay"]

CONTINUE: Final = ResponseHead(100, b"Continue", b"", UNKNOWN_LENGTH, b"")

_expects_continue = re.compile(rb"(?:^|\n)expect:[\t ]*100-continue[\t ]*\r", re.IGNORECASE).search

_log = logging.getLogger("pico.forwarding")


class Forwarding:
    """The links that peers have dialled, and what they bring. One per node."""

    def __init__(self, routes: Routes, metrics: NodeMetrics, attempts_max: int, informational_max: int) -> None:
        self.routes = routes
        self.metrics = metrics
        self.attempts_max = attempts_max
        self.informational_max = informational_max
        self.questions: Questions | None = None
        """Who answers what peers ask about this node; set by its composition."""
        self.relays = 0
        """Requests in flight that came from peers."""
        self._links: dict[AcceptedLink, None] = {}
        self._leaves_because = ""

    def accept(self, node_id: str, build: Callable[[MultiplexerOwner], Multiplexer]) -> AcceptedLink:
        """Serve the requests of a link that the peer ``node_id`` has dialled.

        ``build`` makes its multiplexer with the owner that it is given; ``start`` it afterwards.
        """
        link = AcceptedLink(self, node_id, build)
        self._links[link] = None
        if self._leaves_because:
            link.multiplexer.goaway(self._leaves_because)
        return link

    def drain(self, reason: str) -> None:
        """Take no more requests from peers, on links to come as well; those in flight go on."""
        self._leaves_because = reason
        for link in self._links:
            link.multiplexer.goaway(reason)

    @property
    def busy(self) -> bool:
        """Whether a relay goes on, or a peer has not taken all of those that are over: ``close`` would lose it."""
        return self.relays > 0 or not all(link.multiplexer.all_taken for link in self._links)

    def close(self, reason: str) -> None:
        """End every link now."""
        for link in tuple(self._links):
            link.multiplexer.abort(reason)

    def ended(self, link: AcceptedLink) -> None:
        """A link is over."""
        self._links.pop(link, None)

    @property
    def links(self) -> int:
        """Links that peers have dialled."""
        return len(self._links)


class AcceptedLink:
    """Owner of the multiplexer of one link: whatever the peer opens on it becomes a relay."""

    def __init__(self, forwarding: Forwarding, node_id: str, build: Callable[[MultiplexerOwner], Multiplexer]) -> None:
        self.node_id = node_id
        self._forwarding = forwarding
        self.multiplexer = build(self)

    def stream_opened(self, event: StreamOpened) -> None:
        """A request has been forwarded to this node; or the node itself is meant, which is rare."""
        questions = self._forwarding.questions
        if questions is not None and is_question(event.head):
            questions.begin(self.multiplexer, event)
        else:
            Relay.begin(self._forwarding, self.multiplexer, event)

    def goaway_received(self, reason: str) -> None:
        """Nothing is opened from this side anyway."""

    def connection_ended(self, reason: str) -> None:
        """Every relay has heard of it by its stream."""
        _log.info("the link from %s ended: %s", self.node_id, reason)
        self._forwarding.metrics.connection_ended(self.multiplexer.engine.late_messages, self.multiplexer.violated)
        self._forwarding.ended(self)


class _Half:
    """One direction of a relay: what has come on the one stream and waits for credit on the other."""

    __slots__ = (
        "_ended",
        "_kept",
        "_owed_bytes",
        "_sink",
        "_sink_stream",
        "_source",
        "_source_stream",
        "_trailers",
        "_waiting",
        "_waiting_bytes",
        "over",
    )

    def __init__(self, source: Multiplexer, source_stream: RpcStream, *, keep: bool) -> None:
        self._source = source
        self._source_stream = source_stream
        self._sink: Multiplexer | None = None
        self._sink_stream: RpcStream | None = None
        self._waiting: deque[Piece] = deque()
        self._waiting_bytes = 0
        self._owed_bytes = 0  # at the end of what waits: their credit has not been given back
        self._ended = False
        self._trailers = b""
        self._kept: Held | None = b"" if keep else None  # what has left, while it is little enough to be sent again
        self.over = False
        """The end has been passed on."""

    @property
    def whole(self) -> bool:
        """Whether its end has come."""
        return self._ended

    @property
    def may_repeat(self) -> bool:
        """Whether all that has left could be sent again."""
        return self._kept is not None

    def add(self, data: BodyBytes, end: bool, trailers: bytes = b"") -> None:
        """Something has come."""
        if data:
            keep_piece(self._waiting, data)
            self._waiting_bytes += len(data)
        self._owed_bytes += len(data)
        self._ended = end
        self._trailers = trailers

    def first(self, size: int) -> tuple[BodyBytes, bool]:
        """What goes with the head that opens the stream."""
        piece = self._take(size)
        self.over = self._ended and not self._waiting and not self._trailers
        return piece, self.over

    def flow_to(self, sink: Multiplexer, stream: RpcStream) -> None:
        """From now on pass everything on to that stream."""
        self._sink, self._sink_stream = sink, stream
        self.flow()

    def flow(self) -> None:
        """Pass on as much as there is credit for, and give back as much credit."""
        sink, stream = self._sink, self._sink_stream
        if sink is None or stream is None:
            return
        if not self.over:
            self._send(sink, stream)
        taken = self._owed_bytes - self._waiting_bytes
        if taken > 0:
            self._owed_bytes -= taken
            self._source.consumed(self._source_stream, taken)

    def rewind(self) -> None:
        """Begin anew: ``first`` and ``flow_to`` with another stream come next. Only while ``may_repeat``."""
        assert self._kept is not None
        if self._kept:
            self._waiting.appendleft(self._kept)
            self._waiting_bytes += len(self._kept)
        self._kept = b""

    def stop(self) -> None:
        """Pass nothing on any more."""
        self._sink = self._sink_stream = None

    def keep_no_more(self) -> None:
        """It will not be sent again."""
        self._kept = None

    def _send(self, sink: Multiplexer, stream: RpcStream) -> None:
        piece = self._take(sink.room(stream, self._waiting_bytes))
        end = self._ended and not self._waiting
        if piece or (end and not self._trailers):
            sink.send_data(stream, piece, end and not self._trailers)
        if end and self._trailers:
            sink.send_trailers(stream, self._trailers)
        self.over = end

    def _take(self, size: int) -> BodyBytes:
        piece = self._take_waiting(size)
        if piece and self._kept is not None:
            self._kept = held_with(self._kept, piece)
        return piece

    def _take_waiting(self, size: int) -> BodyBytes:
        waiting = self._waiting
        pieces: list[Piece] = []
        size = min(size, self._waiting_bytes)
        self._waiting_bytes -= size
        while size:
            piece = waiting.popleft()
            if len(piece) > size:
                waiting.appendleft(memoryview(piece)[size:])
                piece = memoryview(piece)[:size]
            pieces.append(piece)
            size -= len(piece)
        first = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        return bytes(first) if isinstance(first, bytearray) else first


class Relay:
    """One forwarded request and its response: the sink of the events of both its streams."""

    # Defaults stand on the class: an instance sets only what differs, which is most of what making one would cost.
    over = False
    _multiplexer: Multiplexer | None = None  # that of the upstream that has the request
    _stream: RpcStream | None = None
    _tried: tuple[Upstream, ...] = ()
    _response: _Half | None = None  # made when something of it must wait
    _informational = 0  # of its 1xx responses
    _response_ended = False  # its end has come
    _response_over = False  # ... and has been passed on
    _unwanted = False  # the rest of the request goes nowhere

    def __init__(
        self, forwarding: Forwarding, link: Multiplexer, event: StreamOpened, endpoint_id: str, head: RequestHead
    ) -> None:
        self._forwarding = forwarding
        self._link = link
        self._link_stream = event.stream
        self._endpoint_id = endpoint_id
        self._head = head
        self._request = _Half(link, event.stream, keep=True)
        self._request.add(event.data, event.end)

    @classmethod
    def begin(cls, forwarding: Forwarding, link: Multiplexer, event: StreamOpened) -> None:
        """Serve what a peer has opened; called in the hub."""
        addressed = address_of(event.head)
        if addressed is None:  # ROUTING-13
            link.reset(event.stream, ResetCode.INTERNAL, untouched=True, message="no endpoint is named")
            return
        relay = cls(forwarding, link, event, *addressed)
        event.stream.context = relay.link_said
        forwarding.metrics.forwarded_in += 1
        forwarding.relays += 1
        relay._guard(Relay._find_upstream)

    # Towards the upstream.

    def _find_upstream(self) -> None:
        routes = self._forwarding.routes
        upstream = routes.choose_here(self._endpoint_id)  # ROUTING-14
        if upstream is not None:
            self._open(upstream)
        elif routes.served_here(self._endpoint_id):
            self._refuse(ResetCode.REFUSED, "every upstream is busy", untouched=True)
        else:
            self._deny(untouched=True)

    def _deny(self, *, untouched: bool) -> None:
        self._forwarding.routes.deny(self._endpoint_id)  # CLUSTER-8
        self._refuse(ResetCode.NO_ENDPOINT, "no upstream here", untouched=untouched)

    def _open(self, upstream: Upstream) -> None:
        self._tried = (*self._tried, upstream)
        multiplexer = self._multiplexer = upstream.multiplexer
        request = self._request
        if not upstream.streaming and not request.whole and _expects_continue(self._head.field_block):
            self._link.send_head(self._link_stream, CONTINUE)  # the base protocol waits for the whole body
        data, end = request.first(multiplexer.first_bytes_max)
        self._stream = multiplexer.open(self._head, data, end, self.upstream_said)
        request.flow_to(multiplexer, self._stream)

    # What the link says.

    def link_said(self, event: StreamEvent) -> None:
        """The sink of the link's stream."""
        if not self.over:
            self._guard(_FROM_LINK[type(event)], event)

    def _on_request_data(self, event: DataReceived) -> None:
        self._pass_request(event.data, event.end)

    def _on_request_trailers(self, event: TrailersReceived) -> None:
        self._pass_request(b"", True, event.block)

    def _pass_request(self, data: BodyBytes, end: bool, trailers: bytes = b"") -> None:
        self._request.add(data, end, trailers)
        self._request.flow()
        self._finish_if_complete()

    def _on_link_credit(self, _: CreditReceived) -> None:
        if self._response is not None:
            self._flow_response(self._response)

    def _on_link_reset(self, event: StreamReset) -> None:
        """The client or its node has gone, or does not want it any more."""
        self._drop_upstream(ResetCode.CANCELLED if event.code is ResetCode.LOST else event.code)
        self._finish()

    # What the upstream says.

    def upstream_said(self, event: StreamEvent) -> None:
        """The sink of the upstream's stream; a reset is the last thing that it hears of one."""
        if not self.over:
            self._guard(_FROM_UPSTREAM[type(event)], event)

    def _on_head(self, event: HeadReceived) -> None:
        head, data = event.head, event.data
        self._request.keep_no_more()  # ROUTING-8
        if head.status < 200 and head.status != 101:
            self._pass_informational(head)
            return
        size = len(data)
        if size > self._link.first_bytes_max:
            self._link.send_head(self._link_stream, head)
            self._pass_response(data, event.end)
            return
        self._link.send_head(self._link_stream, head, data, event.end)  # one message, as nearly always
        if data:
            assert self._multiplexer is not None
            self._multiplexer.consumed(event.stream, size)
        if event.end:
            self._response_ended = True
            self._end_response()

    def _pass_informational(self, head: ResponseHead) -> None:
        """They need no credit, so the link would have to hold as many as an agent sends."""
        self._informational += 1
        if self._informational > self._forwarding.informational_max:  # HTTP-45
            self._drop_upstream(ResetCode.CANCELLED)
            self._refuse(ResetCode.SERVICE_MALFORMED, "too many informational responses", untouched=False)
        else:
            self._link.send_head(self._link_stream, head)

    def _on_response_data(self, event: DataReceived) -> None:
        self._pass_response(event.data, event.end)

    def _on_response_trailers(self, event: TrailersReceived) -> None:
        self._pass_response(b"", True, event.block)

    def _pass_response(self, data: BodyBytes, end: bool, trailers: bytes = b"") -> None:
        response = self._response
        if response is None:
            assert self._multiplexer is not None
            assert self._stream is not None
            response = self._response = _Half(self._multiplexer, self._stream, keep=False)
            response.flow_to(self._link, self._link_stream)
        self._response_ended = end
        response.add(data, end, trailers)
        self._flow_response(response)

    def _flow_response(self, response: _Half) -> None:
        response.flow()
        if response.over:
            self._end_response()

    def _on_upstream_credit(self, _: CreditReceived) -> None:
        self._request.flow()
        self._finish_if_complete()

    def _on_upstream_reset(self, event: StreamReset) -> None:
        if self._response_ended:
            self._unwanted = True
            self._request.stop()
            self._finish_if_complete()
        elif not self._try_again(event):
            code = ResetCode.UPSTREAM_LOST if event.code is ResetCode.LOST else event.code  # ROUTING-15
            self._refuse(code, event.reason, untouched=event.untouched)

    def _on_response_shed(self, event: ResponseShed) -> None:
        self._refuse(ResetCode.REFUSED, event.reason, untouched=False)

    def _try_again(self, event: StreamReset) -> bool:
        """Give the request to another upstream, or say that there is none any more; False when neither is right."""
        forwarding, held = self._forwarding, self._request.may_repeat
        if not may_try_again(self._head.method, event.code, untouched=event.untouched, body_held=held):
            return False
        upstream = None
        if len(self._tried) < forwarding.attempts_max:
            upstream = forwarding.routes.choose_here(self._endpoint_id, self._tried)
        if upstream is not None:
            forwarding.metrics.retries += 1
            self._request.rewind()
            self._open(upstream)
        elif forwarding.routes.served_here(self._endpoint_id):
            return False
        else:  # it is for the entry node to wait, or to go elsewhere
            self._deny(untouched=event.untouched)
        return True

    # The outcome.

    def _end_response(self) -> None:
        self._response_over = True
        self._finish_if_complete()

    def _finish_if_complete(self) -> None:
        if self._response_over and self._unwanted:
            self._link.reset(self._link_stream, ResetCode.NOT_WANTED)
            self._finish()
        elif self._response_over and self._request.over:
            self._finish()

    def _refuse(self, code: ResetCode, reason: str, *, untouched: bool) -> None:
        """Pass on that the request has failed; nothing is left at the upstream."""
        self._link.reset(self._link_stream, code, untouched=untouched, message=reason)
        self._finish()

    def _guard(self, handler: Callable[..., None], *arguments: Any) -> None:
        """A fault of our own must leave neither stream open; it is the multiplexer that reports it."""
        try:
            handler(self, *arguments)
        except Exception:
            self._link.reset(self._link_stream, ResetCode.INTERNAL, message="internal error")
            self._drop_upstream(ResetCode.CANCELLED)
            self._finish()
            raise

    def _drop_upstream(self, code: ResetCode) -> None:
        if self._multiplexer is not None and self._stream is not None:
            self._multiplexer.reset(self._stream, code)

    def _finish(self) -> None:
        if self.over:
            return
        self.over = True
        self._forwarding.relays -= 1
        # Else they and this relay would keep each other until the garbage collector comes.
        self._link.release(self._link_stream)
        if self._stream is not None and self._multiplexer is not None:
            self._multiplexer.release(self._stream)
            self._forwarding.routes.request_over(self._endpoint_id)


_FROM_LINK: Final[dict[type[Any], Any]] = {
    DataReceived: Relay._on_request_data,
    TrailersReceived: Relay._on_request_trailers,
    CreditReceived: Relay._on_link_credit,
    StreamReset: Relay._on_link_reset,
}

_FROM_UPSTREAM: Final[dict[type[Any], Any]] = {
    HeadReceived: Relay._on_head,
    DataReceived: Relay._on_response_data,
    TrailersReceived: Relay._on_response_trailers,
    CreditReceived: Relay._on_upstream_credit,
    StreamReset: Relay._on_upstream_reset,
    ResponseShed: Relay._on_response_shed,
}
