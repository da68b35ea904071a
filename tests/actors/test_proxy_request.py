"""``ProxyRequest`` built and handed messages, with a client and a tunnel that only record what is asked of them."""

from __future__ import annotations

import json

import pytest

from pico.actors.messages import ClientDrained, ClientLost, ClientReadable, DeadlinePassed, EndpointAppeared
from pico.actors.proxy_request import ProxyRequest
from pico.actors.request_services import RequestServices
from pico.actors.routes import Routes
from pico.config import HttpLimits, HttpTimers, NodeConfig
from pico.observability.access_log import AccessLog
from pico.observability.metrics import NodeMetrics
from pico.protocol.http import UNKNOWN_LENGTH, Failure, RequestReader, ResponseHead
from pico.protocol.routing import LeastInFlight
from pico.protocol.rpc import CreditReceived, DataReceived, HeadReceived, ResetCode, StreamReset
from pico.transport.clock import ManualClock
from tests.rules import covers

GET = b"GET /a HTTP/1.1\r\nHost: ep.x\r\n\r\n"
LONG = b"POST /a HTTP/1.1\r\nHost: ep.x\r\nContent-Length: 100000\r\n\r\n"
POST = b"POST /a HTTP/1.1\r\nHost: ep.x\r\nContent-Length: 10\r\n\r\n"


class Stream:
    def __init__(self, credit: int) -> None:
        self.credit, self.ended = credit, False


class Tunnel:
    """Stands for a multiplexer."""

    def __init__(self, credit: int = 1000) -> None:
        self.log: list[tuple] = []
        self.credit = credit
        self.may_open, self.in_flight, self.first_bytes_max = True, 0, 1000
        self.streams: list[Stream] = []

    def open(self, head, data, end, sink):
        self.log.append(("open", head.method, data, end))
        self.streams.append(Stream(self.credit - len(data)))
        return self.streams[-1]

    def send_data(self, stream, data, end=False):
        stream.credit -= len(data)
        self.log.append(("data", data, end))

    def consumed(self, stream, size):
        self.log.append(("consumed", size))

    def reset(self, stream, code, **_):
        stream.ended = True
        self.log.append(("reset", code))


class Upstream:
    streaming = True

    def __init__(self, name: str, **settings) -> None:
        self.id, self.multiplexer = name, Tunnel(**settings)

    may_open = property(lambda self: self.multiplexer.may_open)
    leaving = False
    in_flight = property(lambda self: self.multiplexer.in_flight)


class Client:
    host, scheme, tls_version, trailer_block = "192.0.2.1", "http", "", b""

    def __init__(self, data: bytes) -> None:
        self.reader = RequestReader(HttpLimits())
        self.reader.receive_data(data)
        self.request = self.reader.next_head()
        self.written, self.unsent_bytes, self.aborted = b"", 0, False

    def write(self, data: bytes) -> None:
        self.written += data

    def read_body(self):
        return self.reader.next_body()

    def abort(self) -> None:
        self.aborted = True


class Scene:
    def __init__(self, request: bytes = GET, upstreams: int = 1, timers: HttpTimers | None = None, **settings) -> None:
        self.clock, self.lines = ManualClock(), []
        metrics = NodeMetrics(node_id="n", version="0", failure_codes=[failure.code for failure in Failure])
        self.services = RequestServices(
            NodeConfig(http_timers=timers or HttpTimers()),
            self.clock,
            Routes(self.clock, 2.0, 100),
            metrics,
            AccessLog("json", self.lines.append, self.clock, node_id="n"),
            node_id="n",
            request_id_prefix="r",
        )
        self.upstreams = tuple(Upstream(str(number), **settings) for number in range(upstreams))
        self.services.routes.publish("ep", LeastInFlight(self.upstreams))
        self.client = Client(request)
        self.actor = ProxyRequest(self.services, self.client, self.client.request)
        self.actor.on_start()

    @property
    def log(self) -> list[tuple]:
        return [entry for upstream in self.upstreams for entry in upstream.multiplexer.log]

    def tell(self, event, *rest) -> None:
        stream = [stream for upstream in self.upstreams for stream in upstream.multiplexer.streams][-1]
        self.actor.on_receive(event(stream, *rest))

    def error(self) -> str:
        return json.loads(self.client.written.rpartition(b"\r\n\r\n")[2])["error"]["code"]

    @property
    def ended(self) -> bool:
        return self.actor.actor_stopped.is_set()


OK = ResponseHead(200, b"OK", b"", 5, b"")
ENDLESS = ResponseHead(200, b"OK", b"", UNKNOWN_LENGTH, b"")


def test_a_small_exchange_is_one_message_each_way_and_one_write():
    scene = Scene()
    assert scene.log == [("open", b"GET", b"", True)]
    scene.tell(HeadReceived, OK, b"hello", True)
    assert scene.client.written.endswith(b"Content-Length: 5\r\n\r\nhello")
    assert scene.ended
    assert scene.actor.keep_alive


@covers("RPC-40")
def test_credit_goes_back_only_when_the_client_has_taken_the_bytes():
    scene = Scene()
    scene.client.unsent_bytes = 3
    scene.tell(HeadReceived, ENDLESS, b"abc", False)
    scene.tell(DataReceived, b"defg", False)
    assert ("consumed", 7) not in scene.log
    scene.client.unsent_bytes = 0
    scene.actor.on_receive(ClientDrained())
    assert scene.log[-1] == ("consumed", 7)
    assert not scene.ended


@covers("RPC-39")
def test_body_bytes_that_come_later_are_sent_when_they_come():
    scene = Scene(POST + b"0123", credit=6)
    assert scene.log == [("open", b"POST", b"0123", False)]
    scene.client.reader.receive_data(b"456789")
    scene.actor.on_receive(ClientReadable())
    assert scene.log[1:] == [("data", b"45", False)]
    scene.upstreams[0].multiplexer.streams[0].credit = 100
    scene.tell(CreditReceived)
    assert scene.log[2:] == [("data", b"6789", True)]


@covers("ROUTING-5", "ROUTING-8")
def test_an_untouched_reset_sends_what_was_sent_to_the_next_upstream():
    scene = Scene(POST + b"0123", upstreams=2)
    scene.tell(StreamReset, ResetCode.REFUSED, True, "full")
    opened = [entry for entry in scene.log if entry[0] == "open"]
    assert opened == [("open", b"POST", b"0123", False)] * 2
    scene.tell(HeadReceived, OK, b"he", False)
    scene.tell(StreamReset, ResetCode.REFUSED, True, "full")
    assert scene.client.aborted
    assert scene.ended


def test_events_of_an_earlier_attempt_are_not_taken_for_the_present_one():
    scene = Scene(upstreams=2)
    first = next(one for one in scene.upstreams if one.multiplexer.streams).multiplexer.streams[0]
    scene.actor.on_receive(StreamReset(first, ResetCode.LOST, True, ""))
    scene.actor.on_receive(HeadReceived(first, OK, b"wrong", True))
    scene.actor.on_receive(DataReceived(first, b"wrong", True))
    scene.actor.on_receive(StreamReset(first, ResetCode.INTERNAL, False, ""))
    assert scene.client.written == b""
    assert not scene.ended


@covers("ROUTING-7")
def test_it_waits_for_an_endpoint_that_has_left_until_a_deadline():
    scene = Scene()
    scene.services.routes.publish("ep", LeastInFlight(()))
    scene.tell(StreamReset, ResetCode.LOST, True, "")
    assert scene.actor.deadline == scene.clock.now() + 2.0
    scene.services.routes.publish("ep", LeastInFlight((Upstream("new"),)))
    scene.actor.on_receive(EndpointAppeared())
    assert not scene.ended
    assert scene.actor.deadline == scene.clock.now() + scene.services.timers.response_head_s


@pytest.mark.parametrize(
    "request_bytes, seconds, code",
    [(GET, 60.0, "response_timeout"), (POST + b"01", 30.0, "body_timeout")],
)
@covers("HTTP-62")
def test_a_deadline_that_passes_names_what_was_late(request_bytes, seconds, code):
    scene = Scene(request_bytes)
    assert scene.actor.deadline == scene.clock.now() + seconds
    scene.actor.on_receive(DeadlinePassed(scene.clock.now() + seconds))
    assert scene.error() == code
    assert scene.log[-1] == ("reset", ResetCode.CANCELLED)


@covers("HTTP-62")
def test_a_body_that_comes_too_slowly_is_given_up_however_steadily_it_comes():
    scene = Scene(LONG, credit=100_000)
    for _ in range(2):  # 2,000 bytes every 10 s are 200 B/s
        scene.clock.advance(10.0)
        scene.client.reader.receive_data(b"x" * 2000)
        scene.actor.on_receive(ClientReadable())
    assert scene.actor.deadline == 30.0
    scene.actor.on_receive(DeadlinePassed(30.0))
    assert scene.error() == "body_timeout"


@covers("HTTP-62")
def test_a_body_that_is_fast_enough_may_take_its_time():
    scene = Scene(LONG, credit=100_000)
    for _ in range(3):
        scene.clock.advance(10.0)
        scene.client.reader.receive_data(b"x" * 10_000)
        scene.actor.on_receive(ClientReadable())
    assert scene.actor.deadline == 60.0


@covers("HTTP-62")
def test_a_client_that_takes_some_bytes_is_slow_and_one_that_takes_none_is_stalled():
    scene = Scene()
    scene.client.unsent_bytes = 1000
    scene.tell(HeadReceived, ENDLESS, b"abc", False)
    scene.client.unsent_bytes = 999
    scene.clock.advance(60.0)
    scene.actor.on_receive(DeadlinePassed(60.0))
    assert not scene.ended
    assert scene.actor.deadline == 120.0
    scene.actor.on_receive(DeadlinePassed(120.0))
    assert scene.client.aborted
    assert scene.ended


@covers("HTTP-62")
def test_the_total_time_of_a_request_can_be_bounded():
    scene = Scene(timers=HttpTimers(request_total_s=5.0))
    assert scene.actor.deadline == 5.0
    scene.actor.on_receive(DeadlinePassed(5.0))
    assert scene.error() == "response_timeout"


def test_requests_in_flight_for_one_endpoint_are_bounded():
    scene = Scene()
    scene.upstreams[0].multiplexer.in_flight = 99
    assert scene.services.routes.choose("ep") is not None
    scene.upstreams[0].multiplexer.in_flight = 100
    assert scene.services.routes.choose("ep") is None


@covers("HTTP-66")
def test_a_client_that_is_gone_gets_no_answer_and_its_stream_is_reset():
    scene = Scene()
    scene.actor.on_receive(ClientLost())
    assert scene.client.written == b""
    assert scene.log[-1] == ("reset", ResetCode.CANCELLED)
    assert scene.actor.status == 499


def test_nothing_happens_after_the_end():
    scene = Scene()
    scene.tell(HeadReceived, OK, b"hello", True)
    before = scene.client.written
    scene.tell(DataReceived, b"more", True)
    scene.actor.on_receive(ClientLost())
    assert scene.client.written == before
