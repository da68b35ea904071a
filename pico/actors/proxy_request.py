"""One request in flight: the actor that takes it from the client to an upstream and the response back.

Responsible for: routing, deadlines, trying again where that is safe, relaying both bodies, and the outcome: one status,
one log line, one count. Refuses to know: sockets (the door's ``Client``), what happens inside a tunnel or a peer link
(the ``Multiplexer``), and the rules of HTTP and of trying again, which are functions of the protocol floor.

Its loop runs in the client connection's own greenlet. It blocks on nothing but its inbox: both bodies move at the same
time, driven by messages from the tunnel and from the client's connection.
"""

from __future__ import annotations

import logging
from math import inf
from typing import TYPE_CHECKING, Any, Final, Protocol

import pykka

from pico.actors.messages import (
    ClientDrained,
    ClientEnded,
    ClientLost,
    ClientReadable,
    DeadlinePassed,
    EndpointAppeared,
    NodeStops,
    PeerReady,
    PeerUnreachable,
)
from pico.actors.peers import PeerUpstream
from pico.actors.request_services import RequestServices
from pico.actors.runtime import InlineActor
from pico.actors.upstream import Upstream
from pico.compiling import plain_class
from pico.protocol.cluster import EntryVersion
from pico.protocol.http import (
    CHUNKED,
    CLOSE,
    LAST_CHUNK,
    NO_BODY,
    Failure,
    Request,
    RequestRejected,
    client_response_head,
    encode_chunk,
    endpoint_of,
    failure_response,
    last_chunk,
    options_response,
    request_head,
    request_id_of,
)
from pico.protocol.http.values import RequestHead
from pico.protocol.routing import DETOURS_MAX, Held, addressed, held_with, may_try_again
from pico.protocol.rpc import (
    BodyBytes,
    CreditReceived,
    DataReceived,
    HeadReceived,
    ResetCode,
    ResponseShed,
    RpcStream,
    StreamEvent,
    StreamReset,
    TrailersReceived,
)
from pico.protocol.rpc.failures import failure_of
from pico.transport.multiplexer import Multiplexer

if TYPE_CHECKING:
    from pico.observability.tracing import Traced

__all__ = ["Client", "ProxyExchange", "ProxyRequest"]

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

_log = logging.getLogger("pico.proxy")


class Client(Protocol):
    """The client's connection, as far as one request may use it."""

    host: str
    scheme: str
    tls_version: str

    @property
    def unsent_bytes(self) -> int:
        """Bytes that wait for room towards the client."""

    @property
    def untaken_bytes(self) -> int:
        """These, and those that are on their way to it."""

    @property
    def trailer_block(self) -> bytes:
        """Trailers of the request, once its body has ended."""

    def write(self, data: bytes | memoryview) -> None:
        """Send, without blocking."""

    def read_body(self) -> tuple[bytes, bool]:
        """Body bytes that are there, and whether they are the last; raises ``RequestRejected``."""

    def switch_protocol(self) -> None:
        """From now on ``read_body`` gives opaque bytes, and ends when the client half-closes."""

    def half_close(self) -> None:
        """No more bytes will be written."""

    def abort(self) -> None:
        """Reset the connection, so that the client notices that the response is not complete."""


@plain_class
class ProxyRequest(InlineActor):
    """The actor of one request: its inbox and its life, and the ``exchange`` that does the work."""

    def __init__(self, services: RequestServices, client: Client, request: Request) -> None:
        super().__init__()
        self.exchange = ProxyExchange(self, services, client, request)

    def on_start(self) -> None:
        """Find out where the request goes, and send it there."""
        self.exchange.begin()

    def on_receive(self, message: Any) -> None:
        """Go on with what has happened."""
        self.exchange.handle(message)

    def on_exit(self, reason: BaseException | None) -> None:
        """Leave nothing open, whatever the way out."""
        self.exchange.abandon()

    def deadline_passed(self, now: float) -> None:
        """Called in the hub, when the sweep of deadlines comes by the client's connection."""
        self.post(DeadlinePassed(now))


class ProxyExchange:
    """Takes one request to its end; afterwards ``keep_alive`` says whether the connection can carry another.

    An object of its own beside the actor, because an actor extends a class of pykka and cannot be compiled whole.
    """

    # Defaults stand on the class: an instance sets only what differs, which is most of what making one would cost.
    keep_alive = False
    status = 0
    endpoint_id = ""
    bytes_in = 0
    bytes_out = 0
    upstream_s = 0.0
    reason = ""  # of the failure, if more is known than its code; for the operator only
    traced: Traced | None = None
    _head: RequestHead | None = None
    _upstream: Upstream | PeerUpstream | None
    _multiplexer: Multiplexer | None = None  # that of the stream: a peer may have another one by now
    _stream: RpcStream | None = None
    _tried: tuple[Upstream | PeerUpstream, ...] = ()
    _passed_over: tuple[PeerUpstream, ...] = ()  # peers without a link, until one opens
    _attempts = 0  # upstreams and peers that were given the request
    _opened_at = 0.0  # the last of them
    _detours = 0  # peers that it came to without being given to an upstream
    _entry: EntryVersion | None = None  # because of which a peer has the request
    _refusal = Failure.OVERLOADED  # what the upstream that had the request last stands for
    _waiting = False  # for the endpoint to return, for a free stream, or for the link of a peer
    _connecting: PeerUpstream | None = None  # the peer whose link is waited for
    _wait_until = inf  # for the endpoint, however often it appears and is of no use; finite from its first wait on
    _refused = False  # since it was its turn
    _pending = b""  # read from the client, not sent yet
    _body_read = False  # the client's body has been read to its end
    _request_sent = False
    _held: Held | None = b""  # what was sent of the body, while it is short enough to be sent again
    _framing = NO_BODY
    _continued = False
    _informational = 0  # responses before the final one
    _relayed = False  # one of them was given to the client
    _response_started = False
    _response_ended = False
    _switched = False
    _uncredited = 0  # written to the client, and not yet given back as credit
    _client_deadline = inf
    _service_deadline = inf
    _total_deadline = inf
    _untaken_bytes = 0  # when the client was last seen to take something
    _finished = False

    def __init__(self, actor: ProxyRequest, services: RequestServices, client: Client, request: Request) -> None:
        self._actor: ProxyRequest | None = actor  # until the end, else the two would keep each other
        self._services = services
        self._client = client
        self._request = request
        self.client_host = client.host
        self._upstream = None  # mypyc passes over such a default of a union of three
        self.request_id = services.new_request_id()
        # The time of what is being handled: it is read once for each message, not by everyone who needs it.
        self._now = self.began_at = self._body_from = services.clock.now()
        if services.timers.request_total_s:
            self._total_deadline = self.began_at + services.timers.request_total_s

    def begin(self) -> None:
        """Find out where the request goes, and send it there."""
        request = self._request
        self._services.metrics.request_started()
        trusted_proxies = self._services.trusted_proxies
        trusted = trusted_proxies.contains(self._client.host)
        if request.forwarding:
            self.client_host = trusted_proxies.client_of(request, self._client.host)
        if self._services.tracing is not None:
            self.traced = self._services.trace(request, self._client, self.client_host, self.request_id)
        self.request_id = request_id_of(request, trusted=trusted, generated=self.request_id)
        self._read_body()
        if self._finished:
            return
        endpoint = endpoint_of(request)
        if isinstance(endpoint, Failure):
            self._give_up(endpoint)
            return
        self.endpoint_id = endpoint
        try:
            self._head = self._forwarded_head(trusted=trusted)
        except RequestRejected as rejected:
            self._give_up(rejected.failure, str(rejected))
            return
        if self._head.upgrade:
            self._body_read = False  # it ends with the opaque bytes, if the service switches
        if self._head.method == b"OPTIONS" and request.max_forwards == 0:
            self._answer_options()
        else:
            self._attempt()

    def _answer_options(self) -> None:
        """The client asks the node itself (RFC 9110 §7.6.2)."""
        self.status = 204
        self.keep_alive = self._request.keep_alive and self._body_read and not self._services.draining
        date = self._services.date(self._now)
        self._client.write(
            options_response(self._request, keep_alive=self.keep_alive, request_id=self.request_id, date=date)
        )
        self._finish("ok")

    def _forwarded_head(self, *, trusted: bool) -> RequestHead:
        head = request_head(
            self._request,
            client_host=self._client.host,
            scheme=self._client.scheme,
            trusted=trusted,
            request_id=self.request_id,
            via=self._services.via,
        )
        return head if self.traced is None else head.with_fields(self.traced.mark(head.field_block))

    def handle(self, message: Any) -> None:
        """Go on with what has happened."""
        if not self._finished:
            self._now = self._services.clock.now()
            _HANDLERS[type(message)](self, message)

    def abandon(self) -> None:
        """The actor ends: leave nothing open, if that was not its end."""
        if not self._finished:
            self._give_up(Failure.INTERNAL)

    @property
    def answered_here(self) -> bool:
        """Whether no attempt was made: the answer is the node's own."""
        return self._attempts == 0

    @property
    def gone_to(self) -> tuple[str, str]:
        """To whom the request was given last, if anybody: the upstream of this node, or the peer."""
        upstream = self._upstream
        if upstream is None:
            return "", ""
        return ("", upstream.id) if isinstance(upstream, PeerUpstream) else (upstream.id, "")

    @property
    def deadline(self) -> float:
        """When something is late, on the services' clock."""
        return min(self._client_deadline, self._service_deadline, self._total_deadline)

    @property
    def _has_waited(self) -> bool:
        """Whether it had to wait for the endpoint, and none that it came to since has failed it."""
        return self._wait_until < inf

    @property
    def _ref(self) -> pykka.ActorRef[Any]:
        assert self._actor is not None, "only who has not finished waits for something"
        return self._actor.actor_ref

    # Towards the service.

    def _attempt(self) -> None:
        """Send the request to an upstream or a peer that has not had it yet."""
        assert self._head is not None
        services = self._services
        tried = self._tried + self._passed_over if self._passed_over else self._tried
        upstream = services.routes.choose(self.endpoint_id, tried, waited=self._has_waited)
        if upstream is None:
            if self._has_waited:
                self._wait_again()
            else:
                self._wait_for_endpoint()
        elif isinstance(upstream, PeerUpstream):
            self._forward(upstream)
        else:
            self._open(upstream, self._head)

    def _wait_for_endpoint(self) -> None:
        until = self._services.routes.wait(self.endpoint_id, self._ref)
        if until > 0.0:
            self._wait_until = until
            self._note_waiting()
        else:
            self._give_up_waiting()

    def _wait_again(self) -> None:
        """Its turn came, and in vain (ROUTING-26)."""
        refused, self._refused = self._refused, False
        self._tried = ()  # they may have room by then
        routes, until = self._services.routes, self._wait_until
        if self._now < until and routes.wait_again(self.endpoint_id, self._ref, until, refused=refused):
            self._note_waiting()
        else:
            self._give_up_waiting()

    def _note_waiting(self) -> None:
        self._waiting = True
        self._service_deadline = self._wait_until
        self._client_deadline = inf  # nobody reads on while nobody takes it

    def _give_up_waiting(self) -> None:
        if not self._services.routes.served(self.endpoint_id):
            self._give_up(Failure.ENDPOINT_NOT_FOUND)
        elif self._has_waited or self._refusal is Failure.ENDPOINT_NOT_FOUND:  # a peer's, and others have it
            self._give_up(Failure.OVERLOADED)  # ROUTING-26
        else:
            self._give_up(self._refusal)

    def _open(self, upstream: Upstream | PeerUpstream, head: RequestHead) -> None:
        self._upstream = upstream
        self._tried = (*self._tried, upstream)
        if self._attempts:
            self._services.metrics.retries += 1
        self._attempts += 1
        self._opened_at = self._now
        if self._request.expect_continue and not upstream.streaming and not self._body_read:
            self._send_continue()
        multiplexer = self._multiplexer = upstream.multiplexer
        data = self._take_pending(multiplexer.first_bytes_max) if self._pending else b""
        end = self._at_request_end()
        self._stream = multiplexer.open(head, data, end, self._sink)
        if end:
            self._note_request_sent()
        elif head.upgrade:
            self._service_deadline = self._now + self._services.timers.response_head_s
        else:
            self._send_body()
            if self._awaits_continue:
                self._service_deadline = self._now + self._services.timers.response_head_s

    # By way of a peer.

    def _forward(self, peer: PeerUpstream) -> None:
        assert self._head is not None
        if peer.open:  # it was chosen because it takes a stream, or else because it can be connected to
            self._services.metrics.forwarded_out += 1
            self._entry = self._services.routes.entry_of(peer.id, self.endpoint_id)
            self._open(peer, addressed(self._head, self.endpoint_id))
        else:
            self._waiting, self._connecting = True, peer
            self._service_deadline = peer.connect(self._ref)
            self._client_deadline = inf

    def _on_peer_ready(self, message: PeerReady) -> None:
        if self._connecting is not None and self._connecting.id == message.node_id:
            self._stop_waiting()
            self._attempt()

    def _on_peer_unreachable(self, message: PeerUnreachable) -> None:
        if self._connecting is not None and self._connecting.id == message.node_id:
            self._pass_over(self._connecting)

    def _pass_over(self, peer: PeerUpstream) -> None:
        """ROUTING-17."""
        self._stop_waiting()
        self._passed_over = (*self._passed_over, peer)
        self._detour()

    def _detour(self) -> None:
        self._detours += 1
        if self._detours <= DETOURS_MAX:  # ROUTING-18
            self._attempt()
        else:
            self._give_up(self._refusal)

    def _stop_waiting(self) -> None:
        if self._connecting is not None:
            self._connecting.stop_waiting(self._ref)
        else:
            self._services.routes.stop_waiting(self.endpoint_id, self._ref)
        self._waiting, self._connecting = False, None
        self._service_deadline = inf
        self._body_from = self._now

    # The request's body.

    def _sink(self, event: StreamEvent) -> None:
        """Called in the hub with each event of the stream."""
        actor = self._actor
        if (actor is None or not actor.post(event)) and self._multiplexer is not None:
            self._multiplexer.reset(event.stream, ResetCode.CANCELLED)

    def _read_body(self) -> None:
        """Take what the client has sent of the body."""
        try:
            data, self._body_read = self._client.read_body()
        except RequestRejected as rejected:
            self._give_up(rejected.failure, str(rejected))
            return
        if data:
            self.bytes_in += len(data)
            self._pending = self._pending + data if self._pending else data
        if self._response_started and self._client.unsent_bytes:
            return  # that it sends is no sign that it takes: the deadline for that stands
        if data:
            self._client_deadline = inf
        if not self._body_read and not self._pending:
            self._client_deadline = self._body_deadline()
        elif self._body_read:
            self._client_deadline = inf

    def _body_deadline(self) -> float:
        """By when the next byte must come: not idle for too long, and not too slow on the average."""
        timers = self._services.timers
        if self._switched:
            return self._now + timers.upgrade_idle_s
        if self._response_started or self._awaits_continue:  # then nothing says that the client should go on
            return inf
        too_slow_s = max(timers.body_rate_grace_s, self.bytes_in / timers.body_rate_bytes_min)
        return min(self._now + timers.body_idle_s, self._body_from + too_slow_s)

    @property
    def _awaits_continue(self) -> bool:
        """Whether the client may be waiting for the service to say that it wants the body (RFC 9110 §10.1.1)."""
        return self._request.expect_continue and not self._continued and not self.bytes_in

    @property
    def _waits_for_101(self) -> bool:
        """Whether what the client sends may turn out to be its next request."""
        return self._request.upgrade != b"" and not self._switched

    def _send_body(self) -> None:
        """Send what there is credit for; more comes with credit or with bytes from the client."""
        multiplexer, stream = self._multiplexer, self._stream
        while multiplexer is not None and stream is not None and not self._request_sent and not self._finished:
            if not self._has_body():
                return
            room = multiplexer.room(stream, len(self._pending))
            if self._pending and not room:
                if not self._client.unsent_bytes:
                    self._service_deadline = self._now + self._response_wait_s()
                return
            self._send_piece(multiplexer, stream, room)

    def _has_body(self) -> bool:
        """Whether there is something to send, asking the client's connection if need be."""
        if not self._pending and not self._body_read:
            self._read_body()
        return bool(self._pending) or self._body_read

    def _send_piece(self, multiplexer: Multiplexer, stream: RpcStream, room: int) -> None:
        data = self._take_pending(room)
        end = self._at_request_end()
        if data or end:
            multiplexer.send_data(stream, data, end)
            if not self._response_started:
                self._service_deadline = inf
        if end:
            self._note_request_sent()
        elif self._body_read and not self._pending:
            multiplexer.send_trailers(stream, self._client.trailer_block)
            self._note_request_sent()

    def _take_pending(self, size: int) -> bytes:
        data = self._pending
        if len(data) > size:
            data, self._pending = data[:size], data[size:]
        else:
            self._pending = b""
        if self._held is not None and data:
            self._held = held_with(self._held, data)
        return data

    def _at_request_end(self) -> bool:
        return self._body_read and not self._pending and (self._switched or not self._client.trailer_block)

    def _note_request_sent(self) -> None:
        self._request_sent = True
        if not self._response_started:
            self._service_deadline = self._now + self._services.timers.response_head_s
        elif self._switched and self._response_ended:
            self._settle(self._client.unsent_bytes)  # the service had ended first

    def _send_continue(self) -> None:
        if self._request.minor >= 1 and not self._continued:
            self._client.write(CONTINUE)
            self._note_continued()

    # Towards the client.

    def _on_head(self, event: HeadReceived) -> None:
        if event.stream is not self._stream:
            return
        status = event.head.status
        if status < 200 and status != 101:
            self._relay_informational(event)
            return
        if status != 101 and self._request.upgrade and not self._request_sent:
            self._end_request()
        services = self._services
        self.upstream_s = self._now - self._opened_at
        self._response_started = True
        self._held = None
        self.status = status
        self.keep_alive = self._request.keep_alive and not services.draining and (self._body_read or not event.end)
        head, self._framing = client_response_head(
            event.head,
            self._request,
            keep_alive=self.keep_alive,
            request_id=self.request_id,
            date=services.date(self._now),
        )
        self.keep_alive = self.keep_alive and self._framing is not CLOSE
        if status == 101:
            self._switch_protocol(head, event)
        else:
            self._relay(head, event.data, event.end)

    def _relay_informational(self, event: HeadReceived) -> None:
        self._informational += 1
        if self._informational > self._services.http_limits.informational_max:  # HTTP-45
            self._give_up(Failure.SERVICE_MALFORMED)
            return
        if self._request.minor >= 1 and not (event.head.status == 100 and self._continued):
            self._relayed = True
            if event.head.status == 100:
                self._note_continued()
            head, _ = client_response_head(
                event.head, self._request, keep_alive=True, request_id=self.request_id, date=b""
            )
            self._client.write(head)

    def _note_continued(self) -> None:
        """The client has been told to send the body: its time begins now."""
        self._continued = True
        self._body_from = self._now
        if not self._body_read and not self._pending and not self._waits_for_101:
            self._client_deadline = self._body_deadline()
            self._service_deadline = inf

    def _on_data(self, event: DataReceived) -> None:
        if event.stream is self._stream:
            if self._switched and not self._body_read:
                self._client_deadline = self._now + self._services.timers.upgrade_idle_s
            self._relay(b"", event.data, event.end)

    def _response_wait_s(self) -> float:
        timers = self._services.timers
        return timers.upgrade_idle_s if self._switched else timers.response_idle_s

    def _relay(self, head: bytes, data: BodyBytes, end: bool) -> None:
        """Write with the framing of the client's hop; credit goes back when the client has taken it."""
        size = len(data)
        self.bytes_out += size
        chunked = self._framing is CHUNKED
        out: BodyBytes = encode_chunk(data) if size and chunked else data
        if head:  # else compiled code would copy what it adds nothing to
            out = head + out
        if end and chunked:
            out = b"".join((out, LAST_CHUNK))
        client = self._client
        client.write(out)
        self._uncredited += size
        if end:
            self._note_response_ended()
        self._settle(client.unsent_bytes)

    def _note_response_ended(self) -> None:
        self._response_ended = True
        self._service_deadline = inf

    def _settle(self, unsent_bytes: int) -> None:
        """What follows from how much the client has taken."""
        if unsent_bytes:
            self._untaken_bytes = self._client.untaken_bytes
            self._client_deadline = self._now + self._services.timers.write_stall_s
            if self._response_started:
                self._service_deadline = inf  # it may have no credit: it is the client that is waited for
            return
        if self._uncredited and self._multiplexer is not None and self._stream is not None:
            self._multiplexer.consumed(self._stream, self._uncredited)
            self._uncredited = 0
        if self._response_ended:
            self._end_response()
            return
        if self._response_started:
            self._service_deadline = self._now + self._response_wait_s()
        if self._body_read or (self._response_started and not self._switched):
            self._client_deadline = inf

    def _on_trailers(self, event: TrailersReceived) -> None:
        if event.stream is not self._stream:
            return
        if self._framing is CHUNKED:
            self._client.write(last_chunk(event.block))
        self._note_response_ended()
        self._settle(self._client.unsent_bytes)

    def _end_response(self) -> None:
        if self._switched:
            self._client.half_close()
            if not self._request_sent:
                return
        self.keep_alive = self.keep_alive and self._body_read  # HTTP-30
        self._finish("ok")

    # A protocol other than HTTP.

    def _switch_protocol(self, head: bytes, event: HeadReceived) -> None:
        self.keep_alive = False
        self._switched = True
        self._client.switch_protocol()
        self._relay(head, event.data, event.end)
        self._send_body()

    def _end_request(self) -> None:
        """The upgrade was not accepted: what the client sends next is not part of this request."""
        assert self._multiplexer is not None
        assert self._stream is not None
        self._body_read = True
        self._multiplexer.send_data(self._stream, b"", True)
        self._request_sent = True

    # What else happens.

    def _on_reset(self, event: StreamReset) -> None:
        if event.stream is not self._stream:
            return
        if self._response_ended:
            if self._switched and not self._request_sent:  # nobody is left for what the client still sends
                self._request_sent = True
                self._settle(self._client.unsent_bytes)
            return
        # The reason may name hosts and ports behind the agent: for the operator only (HTTP-68).
        self.reason = event.reason
        by_peer = isinstance(self._upstream, PeerUpstream)
        what = "peer" if by_peer else "upstream"
        _log.info("request %s: %s %s gave it up: %s", self.request_id, what, "".join(self.gone_to), event.reason)
        self._refusal = failure_of(event.code, untouched=event.untouched)
        if by_peer and event.code is ResetCode.NO_ENDPOINT:
            self._services.routes.absent(self.gone_to[1], self.endpoint_id, self._entry)
        if not (self._response_started or self._relayed) and may_try_again(
            self._request.method, event.code, untouched=event.untouched, body_held=self._held is not None
        ):
            self._try_again(event, by_peer=by_peer)
        else:
            self._give_up(self._refusal)

    def _try_again(self, event: StreamReset, *, by_peer: bool) -> None:
        full = event.code is ResetCode.REFUSED and self._has_waited and not self._waits_for_101
        denied = by_peer and event.code is ResetCode.NO_ENDPOINT
        if full or (denied and event.untouched):
            self._attempts -= 1  # it was none
        if self._attempts >= self._services.attempts_max:
            self._give_up(self._refusal)
            return
        self._take_back()
        if full:  # ROUTING-30
            self._refused = True
            self._detour()
            return
        self._wait_until = inf
        if denied or (by_peer and event.code is ResetCode.LOST):
            self._tried = self._tried[:-1]  # it may have the endpoint, or a link, again soon (ROUTING-10)
        if denied:
            self._detour()
        else:
            self._attempt()

    def _on_response_shed(self, event: ResponseShed) -> None:
        if event.stream is self._stream:
            self.reason = event.reason
            self._give_up(Failure.OVERLOADED)

    def _take_back(self) -> None:
        """What was sent of the request waits to be sent again."""
        assert self._held is not None
        assert self._stream is not None
        assert self._multiplexer is not None
        self._multiplexer.release(self._stream)
        self._stream = None
        self._pending = b"".join((self._held, self._pending))
        self._held = b""
        self._request_sent = False
        self._service_deadline = inf

    def _on_credit(self, event: CreditReceived) -> None:
        if event.stream is self._stream:
            self._send_body()

    def _on_client_readable(self, _: ClientReadable) -> None:
        if self._stream is not None and not self._waits_for_101:
            if self._switched:
                self._service_deadline = self._now + self._services.timers.upgrade_idle_s
            self._send_body()

    def _on_client_drained(self, _: ClientDrained) -> None:
        self._settle(self._client.unsent_bytes)
        if not self._finished and not self._body_read:
            self._client_deadline = inf
            if not self._waits_for_101:
                self._send_body()

    def _on_client_ended(self, _: ClientEnded) -> None:
        """The client half-closed: no abort, unless it owes a body or the node was told to take it for one (HTTP-60)."""
        if self._services.abort_on_close and not self._switched and (self._body_read or self._waits_for_101):
            self._cancel(Failure.CLIENT_CLOSED)
        elif not self._body_read and not self._waits_for_101:
            self._send_body()

    def _on_client_lost(self, _: ClientLost) -> None:
        self._cancel(Failure.CLIENT_CLOSED)

    def _on_node_stops(self, _: NodeStops) -> None:
        self._give_up(Failure.NODE_STOPPED)

    def _on_endpoint_appeared(self, _: EndpointAppeared) -> None:
        self._services.routes.came(self.endpoint_id, self._ref)
        self._waiting = False
        self._service_deadline = inf
        self._body_from = self._now
        self._passed_over = ()  # it may be one of them that has a link again
        self._attempt()

    def _on_deadline(self, message: DeadlinePassed) -> None:
        if message.now >= self._client_deadline:
            self._client_late()
        elif message.now >= self._service_deadline:
            self._service_late()
        elif message.now >= self._total_deadline:
            self._give_up(Failure.RESPONSE_TIMEOUT)

    def _client_late(self) -> None:
        unsent_bytes = self._client.unsent_bytes
        if not unsent_bytes and self._switched:  # nothing moves any more
            self._client.half_close()
            self._finish("ok")
        elif not unsent_bytes:
            self._give_up(Failure.BODY_TIMEOUT)
        elif self._client.untaken_bytes < self._untaken_bytes:
            self._settle(unsent_bytes)  # slow, but it takes some
        else:
            self._cancel(Failure.CLIENT_STALLED)

    def _service_late(self) -> None:
        if self._connecting is not None:
            self._pass_over(self._connecting)
        elif self._waiting:
            self._give_up_waiting()
        else:
            self._give_up(Failure.RESPONSE_TIMEOUT)

    # The outcome.

    def _give_up(self, failure: Failure, detail: str = "") -> None:
        """Answer with the failure, or break the response off where one has begun."""
        self.reason = detail or self.reason
        if self._response_started:
            self.keep_alive = False
            self._client.abort()
        else:
            self.status = failure.status
            sound = self._body_read and failure.status not in (400, 500)
            self.keep_alive = self._request.keep_alive and sound and not self._services.draining  # HTTP-67
            response = failure_response(
                failure,
                detail,
                keep_alive=self.keep_alive,
                request_id=self.request_id,
                method=self._request.method,
                minor=self._request.minor,
                date=self._services.date(self._now),
            )
            self._client.write(response)
        self._services.metrics.request_failed(failure.code)
        self._finish(failure.code)

    def _cancel(self, failure: Failure) -> None:
        """The client is gone: nobody is left to answer."""
        self.status = self.status if self._response_started else failure.status
        self.keep_alive = False
        self._client.abort()
        self._services.metrics.request_failed(failure.code)
        self._finish(failure.code)

    def _finish(self, outcome: str) -> None:
        self._finished = True
        if self._waiting:
            self._stop_waiting()
        stream = self._stream
        if stream is not None and self._multiplexer is not None:
            if not stream.ended:
                self._multiplexer.reset(stream, ResetCode.CANCELLED)
            self._multiplexer.release(stream)  # else it and this actor would keep each other until garbage is collected
            self._services.routes.request_over(self.endpoint_id)
        self._services.request_finished(self._request, self._client, self, outcome, self._now)
        actor = self._actor
        if actor is not None:
            self._actor = None
            actor.finish()


_HANDLERS: Final[dict[type[Any], Any]] = {
    HeadReceived: ProxyExchange._on_head,
    DataReceived: ProxyExchange._on_data,
    TrailersReceived: ProxyExchange._on_trailers,
    StreamReset: ProxyExchange._on_reset,
    ResponseShed: ProxyExchange._on_response_shed,
    CreditReceived: ProxyExchange._on_credit,
    ClientReadable: ProxyExchange._on_client_readable,
    ClientDrained: ProxyExchange._on_client_drained,
    ClientEnded: ProxyExchange._on_client_ended,
    ClientLost: ProxyExchange._on_client_lost,
    NodeStops: ProxyExchange._on_node_stops,
    EndpointAppeared: ProxyExchange._on_endpoint_appeared,
    PeerReady: ProxyExchange._on_peer_ready,
    PeerUnreachable: ProxyExchange._on_peer_unreachable,
    DeadlinePassed: ProxyExchange._on_deadline,
}
