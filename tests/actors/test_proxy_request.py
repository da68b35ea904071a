"""``ProxyRequest`` built and handed messages, with a client and a tunnel that only record what is asked of them."""

from __future__ import annotations

import json
from random import Random

import pytest

from pico.actors.messages import (
    ClientDrained,
    ClientLost,
    ClientReadable,
    DeadlinePassed,
    EndpointAppeared,
    PeerReady,
    PeerUnreachable,
)
from pico.actors.peers import PeerUpstream
from pico.actors.proxy_request import ProxyRequest
from pico.actors.request_services import RequestServices
from pico.actors.routes import Routes
from pico.config import GossipLimits, HttpLimits, HttpTimers, NodeConfig
from pico.observability.access_log import AccessLog
from pico.observability.metrics import NodeMetrics
from pico.protocol.cluster import ClusterView, Condition, endpoint_key
from pico.protocol.gossip.state import OwnState
from pico.protocol.http import UNKNOWN_LENGTH, Failure, RequestReader, ResponseHead
from pico.protocol.routing import DETOURS_MAX, LeastInFlight
from pico.protocol.rpc import CreditReceived, DataReceived, HeadReceived, ResetCode, StreamReset
from pico.transport.clock import ManualClock
from tests.actors.test_endpoint_pool import Waiter
from tests.compiled import interpreted_only
from tests.rules import covers

pytestmark = interpreted_only  # its tunnels are stand-ins

GET = b"GET /a HTTP/1.1\r\nHost: ep.x\r\n\r\n"
LONG = b"POST /a HTTP/1.1\r\nHost: ep.x\r\nContent-Length: 100000\r\n\r\n"
POST = b"POST /a HTTP/1.1\r\nHost: ep.x\r\nContent-Length: 10\r\n\r\n"


class Stream:
    def __init__(self, credit: int) -> None:
        self.credit, self.ended, self.context = credit, False, None


class Tunnel:
    """Stands for a multiplexer."""

    def __init__(self, credit: int = 1000) -> None:
        self.log: list[tuple] = []
        self.credit = credit
        self.may_open, self.in_flight, self.first_bytes_max, self.streams_max = True, 0, 1000, 1000
        self.leaving = False
        self.heads: list = []
        self.streams: list[Stream] = []

    @property
    def streams_free(self) -> int:
        return self.streams_max if self.may_open and not self.leaving else 0

    def open(self, head, data, end, sink):
        self.log.append(("open", head.method, data, end))
        self.heads.append(head)
        self.streams.append(Stream(self.credit - len(data)))
        self.streams[-1].context = sink
        return self.streams[-1]

    def release(self, stream):
        stream.context = None

    def room(self, stream, wanted):
        return min(wanted, stream.credit)

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
    streams_free = property(lambda self: self.multiplexer.streams_free)


class Client:
    host, scheme, tls_version, trailer_block = "192.0.2.1", "http", "", b""

    def __init__(self, data: bytes) -> None:
        self.reader = RequestReader(HttpLimits())
        self.reader.receive_data(data)
        self.request = self.reader.next_head()
        self.written, self.unsent_bytes, self.aborted = b"", 0, False
        self.flying_bytes = 0

    @property
    def untaken_bytes(self) -> int:
        return self.unsent_bytes + self.flying_bytes

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
        self.prepare()
        self.client = Client(request)
        self.actor = ProxyRequest(self.services, self.client, self.client.request)
        self.actor.on_start()

    def prepare(self) -> None:
        """What must be there before the request."""

    @property
    def log(self) -> list[tuple]:
        return [entry for upstream in self.upstreams for entry in upstream.multiplexer.log]

    @property
    def streams(self) -> list[Stream]:
        return [stream for upstream in self.upstreams for stream in upstream.multiplexer.streams]

    def tell(self, event, *rest) -> None:
        self.actor.on_receive(event(self.streams[-1], *rest))

    def error(self) -> str:
        return json.loads(self.client.written.rpartition(b"\r\n\r\n")[2])["error"]["code"]

    @property
    def ended(self) -> bool:
        return self.actor.actor_stopped.is_set()


class PeerScene(Scene):
    """No upstream here; the peers named have the endpoint, those of ``linked`` a link."""

    def __init__(self, request: bytes = GET, peers: str = "a", linked: str = "a", **settings) -> None:
        self.peer_names, self.linked, self.dials = peers, linked, []
        super().__init__(request, upstreams=0, **settings)

    def prepare(self) -> None:
        self.tunnels = {name: Tunnel() for name in self.peer_names}
        self.states = {name: OwnState(1, GossipLimits()) for name in self.peer_names}
        self.peers = {name: PeerUpstream(name, self.dial, self.clock, 1.0) for name in self.peer_names}
        for name in self.linked:
            self.peers[name].opened(self.tunnels[name])
        self.view = ClusterView("n")
        self.services.routes.join(self.view, self.peers, Random(1), lambda *_: None)
        for name in self.peer_names:
            self.say(name)

    def dial(self) -> None:
        self.dials.append(self.clock.now())

    def say(self, name: str) -> None:
        self.states[name].delete(endpoint_key("ep"))
        self.states[name].put(endpoint_key("ep"), b"1")
        self.view.follow(name, self.states[name], Condition(verified=True))
        self.services.routes.cluster_changed()

    def peer_tells(self, name: str, event, *rest) -> None:
        self.actor.on_receive(event(self.tunnels[name].streams[-1], *rest))

    def opened(self) -> str:
        return "".join(name * len(tunnel.streams) for name, tunnel in self.tunnels.items())


OK = ResponseHead(200, b"OK", b"", 5, b"")
ENDLESS = ResponseHead(200, b"OK", b"", UNKNOWN_LENGTH, b"")


def test_a_small_exchange_is_one_message_each_way_and_one_write():
    scene = Scene()
    assert scene.log == [("open", b"GET", b"", True)]
    scene.tell(HeadReceived, OK, b"hello", True)
    assert scene.client.written.endswith(b"Content-Length: 5\r\n\r\nhello")
    assert scene.ended
    assert scene.actor.exchange.keep_alive


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


def test_a_request_lets_go_of_each_stream_that_it_had():
    """Else the two would keep each other until the garbage collector comes."""
    scene = Scene(upstreams=2)
    (first,) = scene.streams
    scene.tell(StreamReset, ResetCode.REFUSED, True, "full")
    (second,) = (stream for stream in scene.streams if stream is not first)
    assert first.context is None and second.context is not None
    scene.actor.on_receive(HeadReceived(second, OK, b"hello", True))
    assert scene.ended
    assert second.context is None


@covers("ROUTING-7")
def test_it_waits_for_an_endpoint_that_has_left_until_a_deadline():
    scene = Scene()
    scene.services.routes.publish("ep", LeastInFlight(()))
    scene.tell(StreamReset, ResetCode.LOST, True, "")
    assert scene.actor.exchange.deadline == scene.clock.now() + 2.0
    scene.services.routes.publish("ep", LeastInFlight((Upstream("new"),)))
    scene.actor.on_receive(EndpointAppeared())
    assert not scene.ended
    assert scene.actor.exchange.deadline == scene.clock.now() + scene.services.timers.response_head_s


@covers("ROUTING-26")
def test_who_lost_its_tunnel_and_waits_until_its_time_is_over_is_told_that_the_endpoint_is_full():
    scene, full = Scene(), Upstream("full")
    full.multiplexer.may_open = False
    scene.services.routes.publish("ep", LeastInFlight(()))
    scene.tell(StreamReset, ResetCode.LOST, True, "")
    scene.services.routes.publish("ep", LeastInFlight((full,)))
    scene.actor.on_receive(EndpointAppeared())
    assert not scene.ended
    scene.actor.on_receive(DeadlinePassed(2.0))
    assert scene.error() == "overloaded"


@pytest.mark.parametrize(
    "request_bytes, seconds, code",
    [(GET, 60.0, "response_timeout"), (POST + b"01", 30.0, "body_timeout")],
)
@covers("HTTP-62")
def test_a_deadline_that_passes_names_what_was_late(request_bytes, seconds, code):
    scene = Scene(request_bytes)
    assert scene.actor.exchange.deadline == scene.clock.now() + seconds
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
    assert scene.actor.exchange.deadline == 30.0
    scene.actor.on_receive(DeadlinePassed(30.0))
    assert scene.error() == "body_timeout"


@covers("HTTP-62")
def test_a_body_that_is_fast_enough_may_take_its_time():
    scene = Scene(LONG, credit=100_000)
    for _ in range(3):
        scene.clock.advance(10.0)
        scene.client.reader.receive_data(b"x" * 10_000)
        scene.actor.on_receive(ClientReadable())
    assert scene.actor.exchange.deadline == 60.0


@covers("HTTP-62")
def test_the_time_of_a_body_that_was_waited_with_begins_when_its_client_is_told_to_go_on():
    scene = Scene(POST[:-2] + b"Expect: 100-continue\r\n\r\n")
    scene.clock.advance(20.0)
    scene.tell(HeadReceived, ResponseHead(100, b"Continue", b"", UNKNOWN_LENGTH, b""), b"", False)
    assert scene.client.written.startswith(b"HTTP/1.1 100 ")
    assert scene.actor.exchange.deadline == 50.0


@covers("HTTP-62")
def test_a_client_of_which_the_service_takes_nothing_is_not_late_with_its_body():
    scene = Scene(LONG, credit=10)
    scene.clock.advance(10.0)
    scene.client.reader.receive_data(b"x" * 100)
    scene.actor.on_receive(ClientReadable())
    assert scene.actor.exchange.deadline == 10.0 + HttpTimers().response_idle_s


@covers("HTTP-62")
def test_a_client_that_takes_some_bytes_is_slow_and_one_that_takes_none_is_stalled():
    scene = Scene()
    scene.client.unsent_bytes = 1000
    scene.tell(HeadReceived, ENDLESS, b"abc", False)
    scene.client.unsent_bytes = 999
    scene.clock.advance(60.0)
    scene.actor.on_receive(DeadlinePassed(60.0))
    assert not scene.ended
    assert scene.actor.exchange.deadline == 120.0
    scene.actor.on_receive(DeadlinePassed(120.0))
    assert scene.client.aborted
    assert scene.ended


@covers("HTTP-62")
@pytest.mark.parametrize("last", [False, True])
def test_a_client_that_goes_on_sending_and_takes_nothing_is_stalled(last):
    scene = Scene(POST)
    scene.client.unsent_bytes = 1000
    scene.tell(HeadReceived, ENDLESS, b"abc", False)
    scene.clock.advance(30.0)
    scene.client.reader.receive_data(b"0123456789" if last else b"01234")
    scene.actor.on_receive(ClientReadable())
    assert scene.actor.exchange.deadline == 60.0
    scene.actor.on_receive(DeadlinePassed(60.0))
    assert scene.client.aborted
    assert scene.ended


@covers("HTTP-62")
def test_bytes_that_are_on_their_way_to_a_client_tell_slow_from_stalled_as_well():
    scene = Scene()
    scene.client.unsent_bytes, scene.client.flying_bytes = 1000, 5000
    scene.tell(HeadReceived, ENDLESS, b"abc", False)
    for number in range(1, 4):
        scene.client.flying_bytes -= 1
        scene.clock.advance(60.0)
        scene.actor.on_receive(DeadlinePassed(60.0 * number))
        assert not scene.ended
    scene.actor.on_receive(DeadlinePassed(240.0))
    assert scene.ended


@covers("HTTP-62")
def test_a_service_has_its_time_from_when_its_client_has_taken_everything():
    scene = Scene()
    scene.client.unsent_bytes = 3
    scene.tell(HeadReceived, ENDLESS, b"abc", False)
    assert scene.actor.exchange.deadline == scene.services.timers.write_stall_s
    scene.clock.advance(50.0)
    scene.client.unsent_bytes = 0
    scene.actor.on_receive(ClientDrained())
    assert scene.actor.exchange.deadline == 50.0 + scene.services.timers.response_idle_s


@covers("HTTP-48")
def test_a_client_that_has_taken_an_early_hint_is_not_asked_for_a_body_before_the_101():
    scene = Scene(b"GET /a HTTP/1.1\r\nHost: ep.x\r\nConnection: upgrade\r\nUpgrade: chat\r\n\r\n")
    scene.client.unsent_bytes = 10
    scene.tell(HeadReceived, ResponseHead(103, b"Early Hints", b"Link: </a>\r\n", UNKNOWN_LENGTH, b""), b"", False)
    scene.client.unsent_bytes = 0
    scene.actor.on_receive(ClientDrained())
    assert not scene.ended
    scene.tell(HeadReceived, OK, b"hello", True)
    assert scene.client.written.endswith(b"hello")


@covers("ROUTING-8")
def test_a_request_is_not_tried_again_when_an_informational_response_was_given_to_its_client():
    scene = Scene(upstreams=2)
    scene.tell(HeadReceived, ResponseHead(103, b"Early Hints", b"Link: </a>\r\n", UNKNOWN_LENGTH, b""), b"", False)
    scene.tell(StreamReset, ResetCode.LOST, False, "")
    assert [entry[0] for entry in scene.log].count("open") == 1
    assert scene.error() == "tunnel_lost"


def test_a_response_that_has_begun_is_not_begun_again_though_its_upstream_says_that_nothing_was_touched():
    scene = Scene(upstreams=2)
    scene.tell(HeadReceived, OK, b"h", False)
    scene.tell(StreamReset, ResetCode.REFUSED, True, "")
    assert [entry[0] for entry in scene.log].count("open") == 1
    assert scene.client.aborted
    assert scene.ended


@covers("HTTP-62")
def test_the_total_time_of_a_request_can_be_bounded():
    scene = Scene(timers=HttpTimers(request_total_s=5.0))
    assert scene.actor.exchange.deadline == 5.0
    scene.actor.on_receive(DeadlinePassed(5.0))
    assert scene.error() == "response_timeout"


def test_requests_in_flight_for_one_endpoint_are_bounded():
    scene = Scene()
    multiplexer, choose = scene.upstreams[0].multiplexer, scene.services.routes.choose
    while multiplexer.in_flight < 100:
        assert choose("ep") is not None
        multiplexer.in_flight += 1
    assert choose("ep") is None
    multiplexer.in_flight = 99
    assert choose("ep") is not None


@covers("HTTP-66")
def test_a_client_that_is_gone_gets_no_answer_and_its_stream_is_reset():
    scene = Scene()
    scene.actor.on_receive(ClientLost())
    assert scene.client.written == b""
    assert scene.log[-1] == ("reset", ResetCode.CANCELLED)
    assert scene.actor.exchange.status == 499
    assert scene.services.metrics.failures.count("client_closed") == 1


def test_nothing_happens_after_the_end():
    scene = Scene()
    scene.tell(HeadReceived, OK, b"hello", True)
    before = scene.client.written
    scene.tell(DataReceived, b"more", True)
    scene.actor.on_receive(ClientLost())
    assert scene.client.written == before


# By way of a peer.


@covers("ROUTING-13")
def test_a_request_is_forwarded_with_the_endpoint_in_front_of_its_fields():
    scene = PeerScene()
    (head,) = scene.tunnels["a"].heads
    assert head.field_block.startswith(b"x-pico-endpoint: ep\r\nHost: ep.x\r\n")
    assert scene.actor.exchange.gone_to == ("", "a")
    scene.peer_tells("a", HeadReceived, OK, b"hello", True)
    assert scene.ended
    assert scene.services.metrics.forwarded_out == 1


@covers("ROUTING-17")
def test_a_request_waits_for_the_link_of_a_peer_and_then_goes_there():
    scene = PeerScene(POST + b"0123", linked="")
    assert scene.dials == [0.0]
    assert scene.actor.exchange.deadline == 1.0
    scene.client.reader.receive_data(b"456789")
    scene.actor.on_receive(ClientReadable())
    scene.peers["a"].opened(scene.tunnels["a"])
    scene.actor.on_receive(PeerReady("other"))
    assert not scene.opened()
    scene.actor.on_receive(PeerReady("a"))
    assert scene.tunnels["a"].log == [("open", b"POST", b"0123", False), ("data", b"456789", True)]
    scene.actor.on_receive(PeerUnreachable("a"))
    assert scene.opened() == "a"


@covers("ROUTING-17")
@pytest.mark.parametrize("message", [PeerUnreachable("a"), DeadlinePassed(1.0)])
def test_a_peer_that_cannot_be_reached_is_passed_over_and_was_no_attempt(message):
    scene = PeerScene(linked="")
    scene.tunnels["b"], scene.peers["b"] = Tunnel(), PeerUpstream("b", scene.dial, scene.clock, 1.0)
    scene.states["b"] = OwnState(1, GossipLimits())
    scene.peers["b"].opened(scene.tunnels["b"])
    scene.say("b")
    scene.actor.on_receive(message)
    assert scene.opened() == "b"
    assert scene.actor.exchange._attempts == 1
    assert not scene.peers["a"]._waiters


@covers("ROUTING-7", "ROUTING-17")
def test_a_peer_that_was_passed_over_is_chosen_once_its_link_is_back():
    scene = PeerScene(linked="")
    scene.peers["a"].unreachable()
    scene.actor.on_receive(PeerUnreachable("a"))
    assert not scene.ended
    scene.peers["a"].opened(scene.tunnels["a"])
    scene.actor.on_receive(EndpointAppeared())
    assert scene.opened() == "a"


@covers("ROUTING-17")
def test_a_peer_that_was_passed_over_is_not_waited_for_again():
    scene = PeerScene(linked="")
    scene.actor.on_receive(DeadlinePassed(1.0))
    assert scene.error() == "overloaded"
    assert scene.dials == [0.0]


@covers("ROUTING-5", "ROUTING-10")
def test_a_peer_that_refused_is_tried_and_the_next_one_gets_the_same_body():
    scene = PeerScene(POST + b"0123", peers="ab", linked="ab")
    first = scene.opened()
    scene.peer_tells(first, StreamReset, ResetCode.REFUSED, True, "full")
    assert sorted(scene.opened()) == ["a", "b"]
    second = "ab".replace(first, "")
    scene.client.reader.receive_data(b"45")
    scene.actor.on_receive(ClientReadable())
    assert scene.tunnels[second].log == [("open", b"POST", b"0123", False), ("data", b"45", False)]
    scene.peer_tells(second, StreamReset, ResetCode.REFUSED, True, "full")
    assert scene.error() == "overloaded"


@covers("ROUTING-16")
def test_a_peer_without_the_endpoint_is_no_attempt_and_may_get_the_request_when_it_has_it_again():
    scene = PeerScene()
    for number in range(5):
        scene.peer_tells("a", StreamReset, ResetCode.NO_ENDPOINT, True, "")
        assert "ep" not in scene.view.places
        assert scene.actor.exchange.deadline == 2.0  # it waits
        scene.say("a")
        scene.actor.on_receive(EndpointAppeared())
        assert len(scene.opened()) == number + 2
    assert scene.actor.exchange._attempts == 1
    assert not scene.ended


@covers("ROUTING-16", "CLUSTER-13")
def test_a_denial_that_comes_after_newer_news_corrects_nothing():
    scene = PeerScene()
    scene.say("a")
    scene.peer_tells("a", StreamReset, ResetCode.NO_ENDPOINT, True, "")
    assert "ep" in scene.view.places
    assert scene.opened() == "aa"


@covers("ROUTING-18")
def test_detours_are_bounded():
    scene = PeerScene()
    for _ in range(DETOURS_MAX + 1):
        assert not scene.ended
        scene.say("a")
        scene.peer_tells("a", StreamReset, ResetCode.NO_ENDPOINT, True, "")
    assert scene.error() == "endpoint_not_found"
    assert len(scene.opened()) == DETOURS_MAX + 1


@covers("ROUTING-6", "ROUTING-16")
@pytest.mark.parametrize("request_bytes, ended", [(GET, False), (POST + b"0123456789", True)])
def test_an_owner_that_lost_the_endpoint_with_the_request_is_an_attempt(request_bytes, ended):
    scene = PeerScene(request_bytes)
    scene.peer_tells("a", StreamReset, ResetCode.NO_ENDPOINT, False, "")
    assert scene.ended is ended
    assert "ep" not in scene.view.places
    assert scene.actor.exchange._attempts == 1


def end_waiting(scene: PeerScene, waits_for: str) -> None:
    """The endpoint is back at a peer, or the link to that is open."""
    if waits_for == "endpoint":
        scene.say("a")
        scene.actor.on_receive(EndpointAppeared())
    else:
        scene.peers["a"].opened(scene.tunnels["a"])
        scene.actor.on_receive(PeerReady("a"))


@covers("ROUTING-7", "HTTP-62")
@pytest.mark.parametrize("waits_for", ["endpoint", "link"])
def test_a_client_is_not_late_with_its_body_while_its_request_waits(waits_for):
    timers = HttpTimers(body_idle_s=0.5, body_rate_grace_s=0.5)
    scene = PeerScene(POST, linked="a" if waits_for == "endpoint" else "", timers=timers)
    if waits_for == "endpoint":
        scene.peer_tells("a", StreamReset, ResetCode.NO_ENDPOINT, True, "")
    scene.client.reader.receive_data(b"0123456789")
    scene.actor.on_receive(ClientReadable())
    scene.clock.advance(0.9)
    assert scene.actor.exchange.deadline > 0.9
    end_waiting(scene, waits_for)
    assert scene.tunnels["a"].log[-1] == ("data", b"0123456789", True)


@covers("ROUTING-7", "HTTP-62")
@pytest.mark.parametrize("waits_for", ["endpoint", "link"])
def test_the_time_of_a_body_begins_when_its_request_waits_no_more(waits_for):
    scene = PeerScene(POST, linked="a" if waits_for == "endpoint" else "", timers=HttpTimers(body_rate_grace_s=5.0))
    if waits_for == "endpoint":
        scene.peer_tells("a", StreamReset, ResetCode.NO_ENDPOINT, True, "")
    scene.clock.advance(0.9)
    end_waiting(scene, waits_for)
    assert scene.actor.exchange.deadline == 5.9


@covers("ROUTING-7")
def test_an_endpoint_that_appears_in_vain_does_not_prolong_the_waiting():
    scene = PeerScene()
    scene.peer_tells("a", StreamReset, ResetCode.NO_ENDPOINT, True, "")
    scene.clock.advance(1.5)
    scene.say("a")
    scene.peers["a"].closed(scene.tunnels["a"])
    scene.peers["a"].unreachable()
    scene.actor.on_receive(EndpointAppeared())
    assert scene.actor.exchange.deadline == 2.0
    scene.clock.advance(0.5)
    scene.actor.on_receive(DeadlinePassed(2.0))
    assert scene.error() == "endpoint_not_found"
    assert not scene.services.routes._lists


class WaitingScene(Scene):
    """A request that waits for an endpoint which was here."""

    def prepare(self) -> None:
        self.services.routes.publish("ep", LeastInFlight(()))

    def return_with(self, *upstreams, taken: bool = False) -> None:
        """``taken``: others, of another node perhaps, have what was free by the time that it comes."""
        self.upstreams = upstreams
        self.services.routes.publish("ep", LeastInFlight(upstreams))
        for upstream in upstreams:
            upstream.multiplexer.may_open = not taken
        self.handle_next()

    def handle_next(self) -> None:
        message = self.actor.actor_inbox.get().message
        assert message == EndpointAppeared()
        self.actor.on_receive(message)


@covers("ROUTING-26")
def test_who_has_waited_and_finds_everybody_full_waits_on_until_somebody_is_free():
    scene, upstream = WaitingScene(POST + b"0123456789"), Upstream("new")
    scene.return_with(upstream, taken=True)
    assert not scene.ended
    assert scene.actor.exchange.deadline == 2.0
    upstream.multiplexer.may_open = True
    scene.clock.advance(0.5)
    scene.services.routes.request_over("ep")
    scene.handle_next()
    assert scene.log == [("open", b"POST", b"0123456789", True)]
    assert not scene.services.routes._lists


@covers("ROUTING-26")
@pytest.mark.parametrize("gone", [False, True])
def test_who_has_waited_in_vain_is_told_why(gone):
    scene, upstream = WaitingScene(), Upstream("new")
    scene.return_with(upstream, taken=True)
    if gone:
        scene.services.routes.publish("ep", LeastInFlight(()))
    scene.clock.advance(2.0)
    scene.actor.on_receive(DeadlinePassed(2.0))
    assert scene.error() == ("endpoint_not_found" if gone else "overloaded")
    assert not scene.services.routes._lists


@covers("ROUTING-27")
def test_who_has_not_waited_is_refused_at_once():
    class Full(Scene):
        def prepare(self) -> None:
            self.upstreams[0].multiplexer.may_open = False

    assert Full().error() == "overloaded"


def someone_behind() -> tuple[WaitingScene, Waiter, Upstream]:
    """A request that waits, one who waits behind it, and an upstream that takes one of them."""
    scene, waiter, upstream = WaitingScene(), Waiter(), Upstream("new")
    scene.services.routes.wait("ep", waiter)
    upstream.multiplexer.streams_max = 1
    return scene, waiter, upstream


@covers("ROUTING-29")
def test_a_client_that_goes_when_it_is_its_turn_gives_it_to_the_next():
    scene, waiter, upstream = someone_behind()
    scene.services.routes.publish("ep", LeastInFlight((upstream,)))
    assert not waiter.told
    scene.actor.on_receive(ClientLost())
    assert waiter.told == [EndpointAppeared()]


@covers("ROUTING-30", "ROUTING-18")
def test_a_refusal_after_waiting_is_no_attempt_and_ends_no_waiting():
    scene = WaitingScene(POST + b"0123456789")
    scene.return_with(Upstream("a"), Upstream("b"))
    for number in range(DETOURS_MAX + 1):
        assert not scene.ended
        assert scene.actor.exchange.deadline > 2.0
        scene.actor.on_receive(StreamReset(scene.actor.exchange._stream, ResetCode.REFUSED, True, "full"))
        if number % 2:  # both of them
            assert scene.actor.exchange.deadline == 2.0
            assert scene.actor.exchange.answered_here
            scene.services.routes.request_over("ep")
            scene.handle_next()
    assert scene.error() == "overloaded"
    assert scene.log == [("open", b"POST", b"0123456789", True)] * (DETOURS_MAX + 1)


@covers("ROUTING-28")
@pytest.mark.parametrize("ends_with", ["a response", "a reset"])
def test_when_a_request_has_ended_it_is_the_next_ones_turn(ends_with):
    scene, waiter, upstream = someone_behind()
    scene.return_with(upstream)
    upstream.multiplexer.streams_max = 0
    scene.services.routes.request_over("ep")
    assert not waiter.told
    upstream.multiplexer.streams_max = 1
    if ends_with == "a response":
        scene.tell(HeadReceived, OK, b"hello", True)
    else:
        scene.tell(StreamReset, ResetCode.SERVICE_CLOSED, False, "")
    assert waiter.told == [EndpointAppeared()]


@covers("ROUTING-30")
def test_after_a_refusal_nobody_else_is_called_until_a_request_has_ended():
    scene, waiter, upstream = someone_behind()
    scene.return_with(upstream)
    upstream.multiplexer.streams_max = 9
    scene.tell(StreamReset, ResetCode.REFUSED, True, "full")
    assert scene.actor.exchange.deadline == 2.0
    assert not waiter.told
    scene.services.routes.request_over("ep")
    assert waiter.told == [EndpointAppeared()]


@covers("ROUTING-30")
@pytest.mark.parametrize(
    "code, error", [(ResetCode.REFUSED, "overloaded"), (ResetCode.SERVICE_UNREACHABLE, "service_unreachable")]
)
def test_other_refusals_are_attempts(code, error):
    upgrade = GET[:-2] + b"Connection: upgrade\r\nUpgrade: x\r\n\r\n"
    scene = WaitingScene(upgrade if code is ResetCode.REFUSED else GET)
    scene.return_with(Upstream("a"))
    scene.tell(StreamReset, code, True, "")
    assert scene.error() == error


def test_body_bytes_that_come_while_a_request_waits_to_be_tried_again_are_not_lost():
    scene = PeerScene(POST + b"0123")
    scene.peer_tells("a", StreamReset, ResetCode.NO_ENDPOINT, True, "")
    scene.client.reader.receive_data(b"456789")
    scene.actor.on_receive(ClientReadable())
    scene.say("a")
    scene.actor.on_receive(EndpointAppeared())
    assert scene.tunnels["a"].log[1:] == [("open", b"POST", b"0123", False), ("data", b"456789", True)]


@covers("ROUTING-4")
def test_what_concerns_a_stream_goes_to_the_link_on_which_it_was_opened():
    scene, other = PeerScene(LONG), Tunnel()
    scene.peers["a"].opened(other)
    scene.client.reader.receive_data(b"more")
    scene.actor.on_receive(ClientReadable())
    scene.actor.on_receive(ClientLost())
    assert [entry[0] for entry in scene.tunnels["a"].log] == ["open", "data", "reset"]
    assert not other.log


def test_whoever_has_gone_waits_for_no_link():
    scene = PeerScene(linked="")
    scene.actor.on_receive(ClientLost())
    assert not scene.peers["a"]._waiters
