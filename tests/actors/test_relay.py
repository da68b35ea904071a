"""A relay between a link and a tunnel: real multiplexers on streams in memory, and a clock moved by hand."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pico.actors import relay
from pico.actors.relay import Forwarding
from pico.actors.routes import Routes
from pico.actors.upstream import Upstream
from pico.config import HttpLimits, RpcLimits, WebSocketLimits
from pico.observability.metrics import NodeMetrics
from pico.protocol.http import UNKNOWN_LENGTH, RequestHead, ResponseHead
from pico.protocol.routing import HELD_BYTES_MAX, LeastInFlight, addressed
from pico.protocol.rpc import (
    BaseEngine,
    DataReceived,
    HeadReceived,
    ResetCode,
    StreamingEngine,
    StreamOpened,
    StreamReset,
    TrailersReceived,
)
from pico.protocol.rpc.messages import RESPONSE, encode_header
from pico.transport.clock import ManualClock
from pico.transport.memory import memory_pair
from pico.transport.multiplexer import Multiplexer
from pico.transport.websocket import WebSocketCodec
from tests.actors.test_endpoint_pool import Waiter
from tests.rules import covers
from tests.values import but

SMALL = RpcLimits(window_bytes=100, window_bytes_max=100, data_bytes_max=40, base_body_bytes_max=1000)
PUT = RequestHead(b"PUT", b"/a", b"Host: a.b\r\n", UNKNOWN_LENGTH, b"")
POST = but(PUT, method=b"POST")
GET = RequestHead(b"GET", b"/a", b"Host: a.b\r\n", 0, b"")
SWITCH = RequestHead(b"GET", b"/a", b"Host: a.b\r\n", UNKNOWN_LENGTH, b"echo")
OK = ResponseHead(200, b"OK", b"", UNKNOWN_LENGTH, b"")
SWITCHED = ResponseHead(101, b"Switching Protocols", b"", UNKNOWN_LENGTH, b"echo")


class End:
    """One end of a connection: what comes on its one stream, and what is given back for it."""

    def __init__(self) -> None:
        self.multiplexer: Multiplexer | None = None
        self.stream = None
        self.opened: list[StreamOpened] = []
        self.events: list = []
        self.got = b""
        self.untaken = 0
        self.over = False
        self.trailers = b""
        self.reset: StreamReset | None = None

    def stream_opened(self, event) -> None:
        self.opened.append(event)
        self.stream, event.stream.context = event.stream, self.sink
        self.got, self.untaken, self.over = event.data, len(event.data), event.end

    def goaway_received(self, reason: str) -> None:
        self.events.append(reason)

    def connection_ended(self, reason: str) -> None:
        self.events.append(reason)

    def sink(self, event) -> None:
        self.events.append(event)
        if isinstance(event, (HeadReceived, DataReceived)):
            self.got += event.data
            self.untaken += len(event.data)
            self.over = event.end
        elif isinstance(event, TrailersReceived):
            self.trailers, self.over = event.block, True
        elif isinstance(event, StreamReset):
            self.reset = event

    def take(self) -> None:
        if self.untaken and not self.stream.ended:
            self.multiplexer.consumed(self.stream, self.untaken)
        self.untaken = 0

    def heads(self) -> list[int]:
        return [event.head.status for event in self.events if isinstance(event, HeadReceived)]


class World:
    """An entry node's end of a link, the owner, and the agents of its upstreams."""

    def __init__(self, upstreams: int = 1, *, limits: RpcLimits = SMALL, streaming: bool = True) -> None:
        self.clock, self.limits = ManualClock(), limits
        self.told: list[tuple[str, int]] = []
        self.routes = Routes(self.clock, 2.0, 100)
        self.routes._on_count = lambda *told: self.told.append(told)
        self.metrics = NodeMetrics(node_id="n", version="0", failure_codes=[])
        self.forwarding = Forwarding(self.routes, self.metrics, attempts_max=3, informational_max=16)
        self.entry, self.agents, self.tunnels, self.upstreams = End(), [], [], []
        self.near, far = memory_pair(self.clock)
        self.entry.multiplexer = self.build(self.near, "client", self.entry)
        self.link = self.forwarding.accept("entry", lambda owner: self.build(far, "server", owner))
        self.entry.multiplexer.start()
        self.link.multiplexer.start()
        for _ in range(upstreams):
            self.add_upstream(streaming)
        self.clock.advance()

    def build(self, stream, role, owner, streaming: bool = True) -> Multiplexer:
        engine = (
            StreamingEngine(self.limits, now=self.clock.now())
            if streaming
            else BaseEngine(self.limits, HttpLimits(), now=self.clock.now())
        )
        return Multiplexer(stream, WebSocketCodec(role, WebSocketLimits()), engine, self.clock, owner)

    def add_upstream(self, streaming: bool) -> None:
        agent, near, far = End(), *memory_pair(self.clock)
        tunnel = self.build(near, "server", End(), streaming)
        agent.multiplexer = self.build(far, "client", agent, streaming)
        tunnel.start()
        agent.multiplexer.start()
        self.agents.append(agent)
        self.tunnels.append(tunnel)
        self.upstreams.append(
            Upstream(str(len(self.agents)), "ep", tunnel, streaming=streaming, address="", agent="", since=0.0)
        )
        self.routes.publish("ep", LeastInFlight(tuple(self.upstreams)))

    def open(self, head: RequestHead = GET, data: bytes = b"", end: bool = True, endpoint_id: str = "ep") -> None:
        mux = self.entry.multiplexer
        self.entry.stream = mux.open(addressed(head, endpoint_id), data, end, self.entry.sink)
        self.clock.advance()

    @property
    def agent(self) -> End:
        """The one that has the request."""
        (agent,) = [agent for agent in self.agents if agent.opened]
        return agent

    def send(self, end: End, data: bytes, last: bool = False) -> int:
        size = min(len(data), end.stream.credit)
        last = last and size == len(data)
        if size or last:
            end.multiplexer.send_data(end.stream, data[:size], last)
        self.clock.advance()
        return size

    def nothing_open(self) -> bool:
        ends = [self.entry.multiplexer, self.link.multiplexer, *self.tunnels]
        return not any(mux.in_flight for mux in ends) and self.forwarding.relays == 0


@pytest.fixture(autouse=True)
def quiet(caplog):
    caplog.set_level(logging.CRITICAL)


# The usual.


@covers("ROUTING-13")
def test_a_small_exchange_is_one_message_each_way_on_each_side():
    world = World()
    world.open()
    (opened,) = world.agent.opened
    assert (opened.head, opened.data, opened.end) == (GET, b"", True)
    world.agent.multiplexer.send_head(world.agent.stream, OK, b"hello", True)
    world.clock.advance()
    (event,) = world.entry.events
    assert (event.head, event.data, event.end) == (OK, b"hello", True)
    assert world.nothing_open()
    assert world.metrics.forwarded_in == 1


@covers("ROUTING-13")
def test_a_stream_without_an_address_is_reset_untouched():
    world = World()
    mux = world.entry.multiplexer
    world.entry.stream = mux.open(GET, b"", True, world.entry.sink)
    world.clock.advance()
    assert (world.entry.reset.code, world.entry.reset.untouched) == (ResetCode.INTERNAL, True)
    assert world.nothing_open()
    assert world.metrics.forwarded_in == 0


@covers("ROUTING-14", "CLUSTER-8")
def test_an_endpoint_that_is_not_here_is_denied_untouched_and_the_cluster_is_told():
    world = World()
    world.told.clear()
    world.open(endpoint_id="other")
    assert (world.entry.reset.code, world.entry.reset.untouched) == (ResetCode.NO_ENDPOINT, True)
    assert world.told == [("other", 0)]
    assert world.nothing_open()


@covers("ROUTING-14", "CLUSTER-8")
def test_an_endpoint_whose_every_upstream_is_about_to_leave_is_denied():
    world = World()
    world.agents[0].multiplexer.goaway("moving")
    world.clock.advance()
    world.told.clear()
    world.open(POST, b"body")
    assert (world.entry.reset.code, world.entry.reset.untouched) == (ResetCode.NO_ENDPOINT, True)
    assert world.told == [("ep", 0)]


@covers("ROUTING-14")
def test_where_no_upstream_is_free_the_request_is_refused_untouched():
    world = World(limits=RpcLimits(streams_max=2))
    world.open()
    world.open()
    full = World(limits=RpcLimits(base_streams_max=0), streaming=False)
    full.open()
    assert (full.entry.reset.code, full.entry.reset.untouched) == (ResetCode.REFUSED, True)
    assert full.nothing_open()
    assert len(world.agents[0].opened) == 2


@covers("HTTP-45")
def test_informational_heads_pass_and_are_no_response():
    world = World(2)
    world.open(POST, b"x", False)
    first = world.agent
    hints = ResponseHead(103, b"Early Hints", b"Link: x\r\n", UNKNOWN_LENGTH, b"")
    first.multiplexer.send_head(first.stream, hints)
    first.multiplexer.reset(first.stream, ResetCode.REFUSED, untouched=True)
    world.clock.advance()
    second = next(agent for agent in world.agents if agent is not first)
    assert second.got == b"x"
    second.multiplexer.send_head(second.stream, OK, b"", True)
    world.clock.advance()
    assert world.entry.heads()[-1] == 200


@covers("HTTP-45")
def test_more_informational_heads_than_allowed_end_the_request():
    world = World()
    world.open(POST, b"x", False)
    hints = ResponseHead(103, b"", b"", UNKNOWN_LENGTH, b"")
    for _ in range(16):
        world.agent.multiplexer.send_head(world.agent.stream, hints)
    world.clock.advance()
    assert world.entry.heads() == [103] * 16
    assert world.entry.reset is None
    world.agent.multiplexer.send_head(world.agent.stream, hints)
    world.clock.advance()
    assert world.entry.heads() == [103] * 16
    assert world.entry.reset.code is ResetCode.SERVICE_MALFORMED
    assert not world.entry.reset.untouched
    assert world.agent.reset.code is ResetCode.CANCELLED
    assert world.nothing_open()


@pytest.mark.parametrize("side", ["link", "upstream"])
def test_a_fault_in_a_relay_ends_both_of_its_streams_and_is_told(side, monkeypatch, caplog):
    caplog.set_level(logging.ERROR)
    world = World()
    world.open(POST, b"x", False)
    monkeypatch.setitem(relay._FROM_UPSTREAM, HeadReceived, lambda *_: 1 / 0)
    monkeypatch.setitem(relay._FROM_LINK, DataReceived, lambda *_: 1 / 0)
    if side == "link":
        world.send(world.entry, b"y")
    else:
        world.agent.multiplexer.send_head(world.agent.stream, OK, b"", True)
    world.clock.advance()
    assert (world.entry.reset.code, world.entry.reset.untouched) == (ResetCode.INTERNAL, False)
    assert world.agent.stream.ended
    assert world.nothing_open()
    assert "ZeroDivisionError" in caplog.text


@covers("ROUTING-5")
@pytest.mark.parametrize("size, again", [(HELD_BYTES_MAX, True), (HELD_BYTES_MAX + 1, False)])
def test_what_is_kept_to_be_sent_again_is_bounded(size, again):
    world = World(2, limits=RpcLimits())
    world.open(POST, b"", False)
    first = world.agent
    world.send(world.entry, b"x" * size)
    first.multiplexer.reset(first.stream, ResetCode.REFUSED, untouched=True)
    world.clock.advance()
    second = next(agent for agent in world.agents if agent is not first)
    assert (second.got == b"x" * size) is again
    assert (world.entry.reset is None) is again


@covers("ROUTING-5")
@pytest.mark.parametrize("pieces", [[b"x" * 5], [b"x" * 40, b"y" * 40, b"z"]])
@pytest.mark.parametrize("trailers", [b"", b"X-Sum: 7\r\n"])
def test_a_request_that_had_come_to_its_end_is_sent_again_to_its_end_and_no_further(pieces, trailers):
    world = World(2)
    world.open(PUT, b"", False)
    first = world.agent
    for piece in pieces[:-1]:
        world.send(world.entry, piece)
    world.send(world.entry, pieces[-1], last=not trailers)
    if trailers:
        world.entry.multiplexer.send_trailers(world.entry.stream, trailers)
        world.clock.advance()
    first.multiplexer.reset(first.stream, ResetCode.REFUSED, untouched=True)
    world.clock.advance()
    (second,) = (agent for agent in world.agents if agent is not first)
    assert (second.got, second.trailers, second.over) == (b"".join(pieces), trailers, True)


@covers("ROUTING-15")
def test_no_more_upstreams_are_tried_than_attempts_max():
    world = World(5)
    world.open(POST, b"x", False)
    for number in range(3):
        (agent,) = [agent for agent in world.agents if agent.opened and not agent.stream.ended]
        assert world.entry.reset is None
        assert world.metrics.retries == number
        agent.multiplexer.reset(agent.stream, ResetCode.REFUSED, untouched=True)
        world.clock.advance()
    assert (world.entry.reset.code, world.entry.reset.untouched) == (ResetCode.REFUSED, True)


@covers("ROUTING-8")
@pytest.mark.parametrize("status", [103, 200])
def test_nothing_is_tried_again_once_a_response_has_begun(status):
    world = World(2)
    world.open(GET)
    world.agent.multiplexer.send_head(world.agent.stream, but(OK, status=status), b"part" if status == 200 else b"")
    world.clock.advance()
    world.agent.multiplexer.reset(world.agent.stream, ResetCode.SERVICE_CLOSED)
    world.clock.advance()
    assert world.entry.reset.code is ResetCode.SERVICE_CLOSED
    assert sum(len(agent.opened) for agent in world.agents) == 1


def test_what_has_ended_is_kept_alive_by_nobody():
    world = World()
    world.open()
    world.agent.multiplexer.send_head(world.agent.stream, OK, b"", True)
    accepted = world.link.multiplexer.engine._accepted[1]
    ours = world.tunnels[0].engine._opened[1]
    world.clock.advance()
    assert accepted.context is None
    assert ours.context is None


# The base protocol.


@covers("RPC-18", "RPC-40")
def test_many_short_pieces_that_wait_for_credit_are_kept_as_few():
    world, body = World(), bytearray()
    world.open()
    half = relay._Half(world.agent.multiplexer, world.agent.stream, keep=False)
    for piece in (b"a", b"b", b"c"):
        half.add(piece, False)
    assert [half.first(size)[0] for size in (1, 9)] == [b"a", b"bc"]
    half.add(b"d", False)
    half.add(b"e", False)
    assert [type(half.first(1)[0]) for _ in "de"] == [bytes, bytes]
    for number in range(200_000):
        piece = b"%c" % (number % 251) if number != 100_000 else b"long" * 2000
        half.add(piece, False)
        body += piece
    assert len(half._waiting) < 10
    got = bytearray()
    for size in (1, 4096, 70_000, 1 << 20):
        piece, _ = half.first(size)
        assert isinstance(piece, (bytes, memoryview))
        got += piece
    assert got == body


@pytest.mark.parametrize("window, piece, size", [(100, 40, 60), (20, 40, 30), (100, 40, 40), (40, 40, 40)])
def test_a_whole_response_goes_with_its_head_only_where_it_fits(window, piece, size):
    limits = RpcLimits(window_bytes=window, window_bytes_max=window, data_bytes_max=piece, base_body_bytes_max=1000)
    world, body = World(streaming=False, limits=limits), b"x" * size
    world.open(GET)
    world.agent.multiplexer.send_head(world.agent.stream, but(OK, body_length=size), body, True)
    world.clock.advance()
    with_head = next(event for event in world.entry.events if isinstance(event, HeadReceived)).data
    assert len(with_head) == (size if size <= min(window, piece) else 0)
    while not world.entry.over and world.entry.untaken:
        world.entry.take()
        world.clock.advance()
    assert (world.entry.got, world.entry.over) == (body, True)
    assert world.nothing_open()


def test_a_whole_response_leaves_in_pieces_as_the_link_has_credit():
    world = World(streaming=False)
    world.open(PUT, b"0123456789", True)
    agent, body = world.agent, bytes(range(250)) * 4
    assert agent.got == b"0123456789"
    agent.multiplexer.send_head(agent.stream, but(OK, body_length=len(body)), body, True)
    world.clock.advance()
    assert world.entry.got == body[:80], "whole pieces of the window"
    while not world.entry.over:
        world.entry.take()
        world.clock.advance()
    assert world.entry.got == body
    assert world.nothing_open()


@covers("HTTP-46")
@pytest.mark.parametrize(
    "expectation, told", [(b"Expect: 100-continue\r\n", [100]), (b"X-Expect: 100-continue\r\n", [])]
)
def test_an_expectation_is_met_by_the_owner_where_the_protocol_needs_the_whole_body(expectation, told):
    world = World(streaming=False)
    world.open(but(POST, field_block=b"Host: a.b\r\n" + expectation), b"", False)
    assert world.entry.heads() == told
    world.send(world.entry, b"body", True)
    assert world.agent.got == b"body"


def test_an_expectation_is_the_services_where_it_can_be():
    world = World()
    world.open(but(POST, field_block=b"Expect: 100-continue\r\n"), b"", False)
    assert world.entry.heads() == []


def test_a_switch_of_protocols_brings_what_the_service_said_first():
    world = World()
    world.open(SWITCH, b"", False)
    world.agent.multiplexer.send_head(world.agent.stream, SWITCHED, b"hello", False)
    world.clock.advance()
    assert world.entry.heads() == [101]
    assert world.entry.got == b"hello"


@covers("RPC-23")
def test_an_upgrade_is_refused_untouched_by_the_base_protocol():
    world = World(streaming=False)
    world.open(SWITCH, b"", False)
    assert (world.entry.reset.code, world.entry.reset.untouched) == (ResetCode.REFUSED, True)
    assert world.nothing_open()


# Ends.


@covers("ROUTING-15")
@pytest.mark.parametrize("untouched", [True, False])
@pytest.mark.parametrize(
    "code", [code for code in ResetCode if code not in (ResetCode.LOST, ResetCode.CANCELLED, ResetCode.NOT_WANTED)]
)
def test_a_reset_is_passed_on_as_it_is(code, untouched):
    world = World()
    world.open(POST, b"x", False)
    world.agent.multiplexer.reset(world.agent.stream, code, untouched=untouched, message="why")
    world.clock.advance()
    reset = world.entry.reset
    assert (reset.code, reset.untouched, reset.reason) == (code, untouched, "why")
    assert world.nothing_open()


@covers("ROUTING-15", "RPC-50")
@pytest.mark.parametrize("head, begun, code", [(POST, False, 13), (GET, True, 13), (GET, False, 3)])
def test_a_tunnel_that_is_lost_is_never_untouched_and_named_by_what_is_left(head, begun, code):
    world = World()
    world.open(head, b"", head is GET)
    if begun:
        world.agent.multiplexer.send_head(world.agent.stream, OK, b"half")
        world.clock.advance()
    world.agent.multiplexer.abort("killed")
    world.clock.advance()
    assert (world.entry.reset.code, world.entry.reset.untouched) == (ResetCode(code), False)
    assert world.nothing_open()


@covers("RPC-15")
def test_a_link_that_is_lost_cancels_at_the_agent(caplog):
    caplog.set_level(logging.ERROR)
    world = World()
    world.open(POST, b"x", False)
    world.entry.multiplexer.abort("cut")
    world.clock.advance()
    assert world.agent.reset.code is ResetCode.CANCELLED
    assert world.nothing_open()
    assert world.forwarding.links == 0
    assert caplog.records == []


def test_what_a_link_brought_too_late_or_against_the_rules_is_counted_at_its_end():
    world = World()
    codec = world.entry.multiplexer._codec
    for message in (encode_header(999, 1, RESPONSE), b"short"):
        assert world.forwarding.links == 1
        world.near.writev(codec.encode(message))
        world.clock.advance()
    assert world.forwarding.links == 0
    assert world.metrics.late_messages == 1
    assert world.metrics.protocol_errors.count("rpc") == 1


@covers("RPC-48")
@pytest.mark.parametrize("code", [ResetCode.CANCELLED, ResetCode.DEADLINE])
def test_what_the_entry_node_gives_up_is_given_up_at_the_agent(code):
    world = World()
    world.open(POST, b"x", False)
    world.entry.multiplexer.reset(world.entry.stream, code)
    world.clock.advance()
    assert world.agent.reset.code is code
    assert world.nothing_open()


@covers("RPC-53")
def test_a_tunnel_that_is_lost_after_a_whole_response_costs_only_the_rest_of_the_request():
    world = World()
    world.open(POST, b"x", False)
    world.agent.multiplexer.send_head(world.agent.stream, OK, b"done", True)
    world.clock.advance()
    world.agent.multiplexer.abort("cut")
    world.clock.advance()
    assert (world.entry.got, world.entry.over) == (b"done", True)
    assert world.entry.reset.code is ResetCode.NOT_WANTED
    assert world.nothing_open()


@covers("RPC-53")
def test_not_wanted_waits_for_what_is_left_of_the_response():
    world = World()
    world.open(POST, b"x" * 40, False)
    agent, body = world.agent, b"y" * 180
    agent.multiplexer.send_head(agent.stream, OK, body[:40])
    for at, size in ((40, 60), (100, 80)):
        assert world.send(agent, body[at : at + size]) == size
    world.send(world.entry, b"x" * 30)
    agent.multiplexer.send_data(agent.stream, b"", True)
    agent.multiplexer.reset(agent.stream, ResetCode.NOT_WANTED)
    world.clock.advance()
    credit = world.entry.stream.credit
    assert world.send(world.entry, b"x" * 30) == 30, "who has not heard of it goes on"
    assert world.entry.stream.credit == credit - 30, "and gets no credit for it"
    for _ in range(3):
        assert world.entry.reset is None
        world.entry.take()
        world.clock.advance()
        if world.entry.over:
            break
    assert world.entry.got == body
    assert world.entry.reset.code is ResetCode.NOT_WANTED
    assert world.nothing_open()


# Draining.


def test_a_relay_that_is_over_keeps_its_node_busy_until_the_peer_has_taken_all_of_it():
    world = World(limits=RpcLimits())
    world.open()
    assert world.forwarding.busy
    world.near.pause_reading()
    world.agent.multiplexer.send_head(world.agent.stream, OK)
    world.clock.advance()
    assert world.send(world.agent, b"x" * 200_000, True) == 200_000
    assert world.forwarding.relays == 0
    assert world.forwarding.busy
    world.near.resume_reading()
    world.clock.advance()
    assert len(world.entry.got) == 200_000
    assert not world.forwarding.busy


@covers("RPC-54")
def test_a_draining_owner_says_goaway_on_every_link_and_finishes_what_it_has():
    world = World()
    world.open()
    world.forwarding.drain("leaving")
    world.clock.advance()
    assert world.entry.events == ["leaving"]
    assert not world.entry.multiplexer.may_open
    assert world.forwarding.relays == 1
    world.agent.multiplexer.send_head(world.agent.stream, OK, b"", True)
    world.clock.advance()
    assert world.entry.heads() == [200]
    assert world.nothing_open()
    near, far = memory_pair(world.clock)
    late = End()
    late.multiplexer = world.build(near, "client", late)
    link = world.forwarding.accept("late", lambda owner: world.build(far, "server", owner))
    late.multiplexer.start()
    link.multiplexer.start()
    world.clock.advance()
    assert late.events == ["leaving"]
    assert world.forwarding.links == 2
    world.forwarding.close("over")
    world.clock.advance()
    assert world.forwarding.links == 0


# Anything, in any order.


class Conversation:
    """Random steps of both ends, and what must hold after each."""

    def __init__(self, head: RequestHead) -> None:
        self.world = World(2)
        self.sent = {"entry": b"", "agent": b""}
        self.ended = {"entry": False, "agent": False}
        self.trailers = {"entry": b"", "agent": b""}
        self.switched = head is SWITCH
        self.world.open(head, b"first", False)
        self.sent["entry"] = b"first"
        self.answered = self.broken = self.refused = False

    @property
    def agent(self) -> End | None:
        opened = [agent for agent in self.world.agents if agent.opened and agent.stream and not agent.stream.ended]
        return opened[0] if opened else None

    def step(self, action: str, size: int) -> None:
        who, _, what = action.partition(" ")
        end = self.world.entry if who == "entry" else self.agent
        too_early = who == "agent" and what in ("data", "end", "trailers") and not self.answered
        if end is None or end.stream.ended or too_early:
            return
        getattr(self, f"do_{what}")(who, end, size)
        self.world.clock.advance()

    def do_answer(self, who: str, end: End, size: int) -> None:
        if not self.answered and who == "agent":
            self.answered = True
            end.multiplexer.send_head(end.stream, SWITCHED if self.switched else OK)

    def do_data(self, who: str, end: End, size: int) -> None:
        if not self.ended[who]:
            data = bytes(number % 251 for number in range(len(self.sent[who]), len(self.sent[who]) + size))
            self.sent[who] += data[: self.world.send(end, data)]

    def do_end(self, who: str, end: End, size: int) -> None:
        if not self.ended[who]:
            self.ended[who] = True
            end.multiplexer.send_data(end.stream, b"", True)

    def do_trailers(self, who: str, end: End, size: int) -> None:
        if not self.ended[who]:
            self.ended[who] = True
            self.trailers[who] = b"X: y\r\n"
            end.multiplexer.send_trailers(end.stream, self.trailers[who])

    def do_take(self, who: str, end: End, size: int) -> None:
        end.take()

    def do_refuse(self, who: str, end: End, size: int) -> None:
        """Before the answer it goes to the other upstream, whole, or comes back untouched."""
        if who == "agent" and not self.answered:
            self.refused = True
            end.multiplexer.reset(end.stream, ResetCode.REFUSED, untouched=True)

    def do_reset(self, who: str, end: End, size: int) -> None:
        self.broken = True
        end.multiplexer.reset(end.stream, ResetCode.INTERNAL)

    def do_lose(self, who: str, end: End, size: int) -> None:
        self.broken = True
        end.multiplexer.abort("lost")

    def check(self) -> None:
        world, agent = self.world, self.agent
        if agent is not None:
            assert self.sent["entry"].startswith(agent.got)
            assert not agent.over or (agent.got == self.sent["entry"] and self.ended["entry"])
            assert not agent.over or agent.trailers == self.trailers["entry"]
        assert self.sent["agent"].startswith(world.entry.got)
        assert not world.entry.over or (world.entry.got == self.sent["agent"] and self.ended["agent"])
        assert not world.entry.over or world.entry.trailers == self.trailers["agent"]
        for mux in (world.link.multiplexer, *world.tunnels):
            snapshot = mux.engine.snapshot()
            assert snapshot.held_bytes <= SMALL.window_bytes
            assert snapshot.queued_bytes <= 2 * SMALL.window_bytes
        for stream in world.link.multiplexer.engine._accepted.values():
            relay = stream.context.__self__
            halves = [half for half in (relay._response, None if self.refused else relay._request) if half]
            assert all(half._waiting_bytes <= SMALL.window_bytes for half in halves)

    def settle(self) -> None:
        """Both ends take everything: what has been sent must arrive."""
        world = self.world
        for _ in range(50):
            for end in (world.entry, *world.agents):
                if end.stream is not None:
                    end.take()
            world.clock.advance()
        agent = self.agent
        if not world.entry.stream.ended and agent is not None:
            assert agent.got == self.sent["entry"]
            assert world.entry.got == self.sent["agent"]
            assert self.ended["entry"] or world.entry.stream.credit > SMALL.window_bytes * 3 // 4
            assert self.ended["agent"] or agent.stream.credit > SMALL.window_bytes * 3 // 4
        if all(self.ended.values()) and not self.broken and world.entry.reset is None:
            assert world.nothing_open()
        elif not world.entry.stream.ended:
            world.entry.multiplexer.reset(world.entry.stream, ResetCode.CANCELLED)
            world.clock.advance()
        assert world.nothing_open()
        assert all(agent.stream is None or agent.stream.ended for agent in world.agents)


def steps_of(*actions: str):
    return st.lists(st.tuples(st.sampled_from(actions), st.integers(1, 150)), max_size=20)


both = [f"{who} {what}" for who in ("entry", "agent") for what in ("data", "data", "take")]
misfortunes = ("agent refuse", "entry reset", "agent reset", "entry lose", "agent lose")


@covers("RPC-14", "RPC-33", "RPC-38", "RPC-39", "RPC-40", "RPC-43", "ROUTING-5", "ROUTING-15")
@given(
    st.sampled_from([PUT, SWITCH]),
    steps_of("entry data", "entry data", "agent take"),
    st.booleans(),
    steps_of(*both),
    st.permutations(["entry end", "agent end"]) | st.permutations(["entry trailers", "agent trailers"]),
    steps_of(*both),
    st.none() | st.sampled_from(misfortunes),
)
def test_whatever_both_ends_do_bytes_arrive_in_order_once_and_bounded_and_nothing_stays_open(
    head, before, refused, middle, ends, between, misfortune
):
    if head is SWITCH:
        ends = [end.replace("trailers", "end") for end in ends]
    conversation = Conversation(head)
    early = [*before, ("agent refuse" if refused else "agent take", 0), ("agent answer", 0)]
    for action, size in [*early, *middle, (ends[0], 0), *between, (misfortune or ends[1], 0)]:
        conversation.step(action, size)
        conversation.check()
    conversation.settle()


@covers("ROUTING-28")
def test_when_a_relay_is_over_it_is_the_turn_of_who_waits_for_the_endpoint_here():
    world, waiters = World(limits=replace(SMALL, streams_max=1)), [Waiter(), Waiter()]
    world.open()
    for waiter in waiters:
        assert world.routes.wait_again("ep", waiter, 60.0, refused=False)
    assert not waiters[0].told
    world.agent.multiplexer.send_head(world.agent.stream, OK, b"", True)
    world.clock.advance()
    assert [len(waiter.told) for waiter in waiters] == [1, 0]
