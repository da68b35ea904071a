"""The multiplexer on a stream in memory and a clock that is moved by hand."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from pico.config import HttpLimits, PeerLimits, RpcLimits, WebSocketLimits
from pico.protocol.http.values import RequestHead, ResponseHead
from pico.protocol.rpc import (
    BaseEngine,
    DataReceived,
    HeadReceived,
    ResetCode,
    StreamingEngine,
    StreamOpened,
    StreamReset,
)
from pico.protocol.rpc.messages import DATA_TYPE, HEADER, decode_window, encode_header, encode_request_head
from pico.transport.clock import ManualClock
from pico.transport.memory import MemoryStream, memory_pair
from pico.transport.multiplexer import (
    BACKLOG_BYTES,
    BACKLOG_BYTES_MIN,
    FLUSH_BYTES,
    FLUSH_BYTES_MIN,
    GRACE_S,
    PACE_S,
    End,
    Multiplexer,
)
from pico.transport.stream import READ_BYTES_MAX
from pico.transport.websocket import Kind, WebSocketCodec, parse_close
from tests.compiled import interpreted_only
from tests.rpc_side import FIXED_WINDOWS
from tests.rules import covers

GET = RequestHead(b"GET", b"/", b"Host: a.b\r\n", 0, b"")
PUT = RequestHead(b"PUT", b"/", b"Host: a.b\r\n", -1, b"")
OK = ResponseHead(200, b"OK", b"", -1, b"")


class Owner:
    """Records what concerns the connection; answers nothing."""

    def __init__(self) -> None:
        self.opened: list[StreamOpened] = []
        self.goaways: list[str] = []
        self.ended: list[str] = []
        self.sink = lambda event: None

    def stream_opened(self, event) -> None:
        self.opened.append(event)
        event.stream.context = self.sink

    def goaway_received(self, reason: str) -> None:
        self.goaways.append(reason)

    def connection_ended(self, reason: str) -> None:
        self.ended.append(reason)


class Pair:
    """A node's side and an agent's side with a wire between them."""

    def __init__(self, limits: RpcLimits | None = None, capacity_bytes: int = 64 * 1024) -> None:
        self.clock = ManualClock()
        limits = limits or RpcLimits()
        self.ends = memory_pair(self.clock, capacity_bytes=capacity_bytes)
        self.owners = (Owner(), Owner())
        self.node, self.agent = (
            Multiplexer(
                end, WebSocketCodec(role, WebSocketLimits()), StreamingEngine(limits, now=0.0), self.clock, owner
            )
            for end, role, owner in zip(self.ends, ("server", "client"), self.owners, strict=True)
        )
        self.node.start()
        self.agent.start()
        self.clock.advance()


class Wire:
    """One multiplexer, and a peer that is a test: frames in, frames out."""

    def __init__(self, limits: RpcLimits | None = None, capacity_bytes: int = 4096) -> None:
        self.clock, self.owner = ManualClock(), Owner()
        near, self.far = memory_pair(self.clock, capacity_bytes=capacity_bytes)
        self.near = near
        self.reads = 0
        self.codec = WebSocketCodec("client", WebSocketLimits())
        self.got: list = []
        engine = StreamingEngine(limits or RpcLimits(), now=0.0)
        self.mux = Multiplexer(near, WebSocketCodec("server", WebSocketLimits()), engine, self.clock, self.owner)
        self.mux.start()
        self.far.set_receiver(self)
        self.clock.advance()

    def received(self, data: bytes) -> None:
        self.reads += 1
        self.got.extend(self.codec.receive_data(data))

    def ended(self) -> None:
        pass

    def drained(self) -> None:
        pass

    def lost(self, error) -> None:
        pass

    def take(self) -> None:
        """The peer's system takes what there is room for; the peer sees nothing of it."""
        self.far._take()
        self.clock.call_soon(self.near._room_was_made)
        self.clock.advance()

    def send(self, *buffers: bytes) -> None:
        self.far.write(b"".join(buffers))
        self.clock.advance()


@pytest.fixture(autouse=True)
def quiet(caplog):
    caplog.set_level(logging.CRITICAL)


def test_a_call_travels_and_every_event_reaches_its_own_sink():
    pair, events = Pair(), ([], [])
    pair.owners[1].sink = lambda event: None
    for number in range(2):
        pair.node.open(PUT, b"%d" % number, True, events[number].append)
    pair.clock.advance()
    for opened in pair.owners[1].opened:
        pair.agent.send_head(opened.stream, OK, b"answer " + opened.data, True)
    pair.clock.advance()
    for number in range(2):
        (event,) = events[number]
        assert isinstance(event, HeadReceived)
        assert event.data == b"answer %d" % number
    assert pair.node.in_flight == pair.agent.in_flight == 0


@interpreted_only
def test_what_is_queued_in_one_turn_leaves_in_one_write(monkeypatch):
    pair = Pair()
    writes: list[int] = []
    original = type(pair.ends[0]).writev
    monkeypatch.setattr(
        type(pair.ends[0]), "writev", lambda self, buffers: (writes.append(len(buffers)), original(self, buffers))
    )
    for _ in range(10):
        pair.node.open(GET, b"", True, lambda event: None)
    pair.clock.advance()
    assert len(writes) == 1
    assert len(pair.owners[1].opened) == 10


def test_each_side_counts_the_bytes_that_the_other_one_sent():
    pair = Pair()
    pair.node.open(PUT, bytes(1000), False, lambda event: None)
    pair.clock.advance()
    assert pair.agent.bytes_received == pair.node.bytes_sent > 1000
    assert pair.node.bytes_received == pair.agent.bytes_sent


def test_much_leaves_at_once_and_little_with_the_turn():
    pair = Pair(capacity_bytes=1 << 20)
    pair.owners[1].sink = lambda event: None
    stream = pair.node.open(PUT, b"", False, lambda event: None)
    pair.clock.advance()
    sent = pair.node.bytes_sent
    pair.node.send_data(stream, bytes(FLUSH_BYTES // 2))
    assert pair.node.bytes_sent == sent
    pair.node.send_data(stream, bytes(FLUSH_BYTES // 2))
    assert pair.node.bytes_sent > sent + FLUSH_BYTES
    pair.clock.advance()
    assert stream.credit == RpcLimits().window_bytes - FLUSH_BYTES


def uploads(wire: Wire, sizes: list[int]) -> bytes:
    """A request for each size, whose body is as long; each is taken as it comes."""

    def sink(event: DataReceived) -> None:
        wire.mux.consumed(event.stream, len(event.data))

    wire.owner.sink = sink
    messages: list[bytes] = []
    for number, size in enumerate(sizes, 1):
        messages.append(encode_request_head(number, PUT, b"", False))
        for at in range(0, size, 64 * 1024):
            messages.append(encode_header(DATA_TYPE, number, 0) + bytes(min(64 * 1024, size - at)))
    return b"".join(wire.codec.encode(*messages))


def credit(wire: Wire) -> int:
    return sum(decode_window(message.payload) for message in wire.got)


@covers("RPC-40")
def test_credit_waits_for_that_of_the_next_reads_where_more_is_there_already():
    wire = Wire(FIXED_WINDOWS, capacity_bytes=64 * READ_BYTES_MAX)
    window = RpcLimits().window_bytes
    sent = uploads(wire, [window] * 32)
    wire.send(sent)
    reads = len(sent) // READ_BYTES_MAX + 1
    for _ in range(4 * reads):
        wire.clock.advance()
    assert credit(wire) == 32 * window
    assert reads == 33
    # It is sent after every fourth read, and whoever hears it here reads half as often: 17, if it never waited.
    assert 4 <= wire.reads <= 5


@covers("RPC-40")
def test_credit_waits_for_no_read_that_may_not_come():
    wire = Wire(FIXED_WINDOWS, capacity_bytes=16 * READ_BYTES_MAX)
    size = READ_BYTES_MAX - 1000
    sent = uploads(wire, [size])
    while (left := READ_BYTES_MAX - len(sent)) > 262:
        sent += wire.codec.encode_ping(bytes(125))
    sent += wire.codec.encode_ping(bytes(left // 2 - 6)) + wire.codec.encode_ping(bytes(left - left // 2 - 6))
    assert len(sent) == READ_BYTES_MAX, "one read takes all, and it fills its room"
    wire.send(sent)
    for _ in range(4):
        wire.clock.advance()
    wire.got = [message for message in wire.got if message.kind is Kind.BINARY]
    assert credit(wire) > size - RpcLimits().window_bytes // 4


@covers("RPC-40", "RPC-56")
def test_what_waits_for_the_next_read_leaves_before_the_connection_is_closed():
    wire = Wire(FIXED_WINDOWS, capacity_bytes=16 * READ_BYTES_MAX)
    sent = uploads(wire, [RpcLimits().window_bytes] * 8)
    take = wire.owner.sink

    def sink(event: DataReceived) -> None:
        take(event)
        wire.mux.goaway("enough")
        wire.mux.close()

    wire.owner.sink = sink
    wire.send(sent)
    for _ in range(20):
        wire.clock.advance()
    kinds = [message.kind for message in wire.got]
    assert kinds[-1] is Kind.CLOSE
    assert b"enough" in [message.payload[HEADER.size :] for message in wire.got]


@covers("RPC-43", "RPC-44")
def test_a_peer_that_reads_nothing_makes_us_hold_no_more_than_windows_and_one_flush():
    pair = Pair(capacity_bytes=4096)
    pair.ends[1].pause_reading()
    stream = pair.node.open(PUT, b"", False, lambda event: None)
    while stream.credit:
        pair.node.send_data(stream, b"x" * min(stream.credit, 65536))
    pair.clock.advance()
    held = pair.ends[0].unsent_bytes + pair.node.engine.snapshot().queued_bytes
    assert held <= RpcLimits().window_bytes + 4096
    pair.ends[1].resume_reading()
    pair.clock.advance()
    assert sum(len(opened.data) for opened in pair.owners[1].opened) == 0
    assert pair.ends[0].unsent_bytes == 0


class Paced:
    """A wire on a path that takes so many bytes a second, by what its system says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, rate: int | None, limits: RpcLimits = FIXED_WINDOWS) -> None:
        self.backlogs: list[int] = []
        self.monkeypatch = monkeypatch
        self.say(rate)
        monkeypatch.setattr(MemoryStream, "limit_backlog", lambda stream, size: self.backlogs.append(size))
        self.wire = Wire(limits)
        self.wire.far.pause_reading()
        self.unsent = 0

    def say(self, rate: int | None) -> None:
        self.monkeypatch.setattr(MemoryStream, "delivery_rate", rate)

    def send(self, size: int = 200_000) -> list[int]:
        """Body bytes of the messages of one long body, after the path has been looked at."""
        self.wire.clock.advance(PACE_S)
        stream = self.wire.mux.open(PUT, b"", False, lambda event: None)
        self.wire.mux.send_data(stream, b"x" * size, True)
        self.wire.clock.advance()
        self.unsent = self.wire.near.unsent_bytes
        self.wire.got.clear()
        self.wire.far.resume_reading()
        self.wire.clock.advance()
        self.wire.far.pause_reading()
        return [len(message.payload) - HEADER.size for message in self.wire.got if message.payload[1] == DATA_TYPE]


@pytest.mark.parametrize(
    "rate, size, backlog",
    [
        (None, FLUSH_BYTES, None),
        (1, FLUSH_BYTES_MIN, BACKLOG_BYTES_MIN),
        (2_500_000, 12_500, 50_000),
        (1_000_000_000, FLUSH_BYTES, BACKLOG_BYTES),
    ],
)
def test_what_is_handed_over_at_a_time_is_as_much_as_the_path_takes_in_five_milliseconds(
    rate, size, backlog, monkeypatch
):
    paced = Paced(monkeypatch, rate)
    paced.send()
    assert max(paced.send()) == size
    assert paced.unsent <= size, "and no more than that at a time"
    assert paced.wire.mux.first_bytes_max == size
    assert paced.backlogs[0] == BACKLOG_BYTES
    assert paced.backlogs[1:] == [] or paced.backlogs[-1] == backlog


def test_a_path_that_gets_faster_is_noticed_and_looked_at_no_more_often_than_that(monkeypatch):
    paced = Paced(monkeypatch, 2_500_000)
    paced.send()
    paced.say(1_000_000_000)
    paced.send()
    assert max(paced.send()) == FLUSH_BYTES
    looked = len(paced.backlogs)
    for _ in range(10):
        paced.wire.clock.advance(PACE_S / 20)
        paced.wire.mux.send_data(paced.wire.mux.open(PUT, b"", False, lambda event: None), b"x" * 200_000)
    assert len(paced.backlogs) <= looked + 1


def test_a_path_that_takes_everything_at_once_is_looked_at_while_it_is_thought_slow(monkeypatch):
    paced = Paced(monkeypatch, 2_500_000)
    paced.send()
    paced.say(1_000_000_000)
    paced.wire.far.resume_reading()
    paced.wire.clock.advance(PACE_S)
    paced.wire.mux.open(GET, b"", True, lambda event: None)
    paced.wire.clock.advance()
    assert paced.wire.near.unsent_bytes == 0
    assert paced.wire.mux.first_bytes_max == FLUSH_BYTES


@covers("RPC-35")
def test_no_rate_makes_more_go_with_a_head_than_the_engine_allows(monkeypatch):
    paced = Paced(monkeypatch, 1_000_000_000, replace(FIXED_WINDOWS, data_bytes_max=9000))
    paced.send()
    paced.send()
    assert paced.wire.mux.first_bytes_max == 9000


def test_all_is_taken_when_nothing_waits_and_the_peer_has_it():
    wire = Wire()
    assert wire.mux.all_taken
    wire.far.pause_reading()
    wire.mux.open(GET, b"", True, lambda event: None)
    assert not wire.mux.all_taken, "it leaves at the end of this turn"
    wire.clock.advance()
    assert not wire.mux.all_taken
    assert not wire.mux.engine.has_outgoing
    wire.far.resume_reading()
    wire.clock.advance()
    assert wire.mux.all_taken


@covers("RPC-57")
def test_on_a_slow_path_a_whole_piece_is_not_waited_for(monkeypatch):
    paced = Paced(monkeypatch, None)
    stream = paced.wire.mux.open(PUT, b"", False, lambda event: None)
    paced.wire.mux.send_data(stream, b"x" * 62_144)
    assert paced.wire.mux.room(stream, 250_000) == FLUSH_BYTES
    paced.say(2_500_000)
    paced.send()
    assert paced.wire.mux.room(stream, 250_000) == 200_000
    assert paced.wire.mux.room(stream, 100) == 100


def test_a_sink_that_raises_costs_its_own_stream_only():
    pair, events = Pair(), []

    def broken(event):
        raise RuntimeError("seeded fault")

    pair.node.open(GET, b"", True, broken)
    pair.node.open(GET, b"", True, events.append)
    pair.clock.advance()
    resets: list = []
    for opened in pair.owners[1].opened:
        opened.stream.context = resets.append
        pair.agent.send_head(opened.stream, OK, b"", False)
    pair.clock.advance()
    assert [event.code for event in resets if isinstance(event, StreamReset)] == [ResetCode.INTERNAL]
    pair.agent.send_data(pair.owners[1].opened[1].stream, b"more", True)
    pair.clock.advance()
    assert isinstance(events[-1], DataReceived)
    assert not pair.owners[0].ended


@covers("RPC-15", "RPC-12")
def test_the_loss_of_the_connection_ends_every_stream_and_then_tells_the_owner_once():
    pair, events = Pair(), []
    pair.node.open(GET, b"", True, events.append)
    pair.clock.advance()
    pair.ends[1].abort()
    pair.clock.advance()
    assert [(type(event), event.code) for event in events] == [(StreamReset, ResetCode.LOST)]
    assert len(pair.owners[0].ended) == 1
    assert not pair.node.may_open
    pair.node.abort("again")
    assert len(pair.owners[0].ended) == 1


@covers("RPC-54", "RPC-55", "RPC-56")
def test_goaway_is_told_to_the_owner_and_stops_new_streams():
    pair = Pair()
    pair.agent.goaway("moving house")
    pair.clock.advance()
    assert pair.owners[0].goaways == ["moving house"]
    assert not pair.node.may_open


@covers("RPC-54")
def test_a_goaway_that_comes_together_with_the_end_is_told_before_it():
    pair, told = Pair(), []
    pair.owners[1].goaway_received = told.append
    pair.owners[1].connection_ended = lambda reason: told.append("the end")
    pair.node.goaway("the node is going away")
    pair.node.close(1001, "the node is going away")
    pair.clock.advance()
    assert told == ["the node is going away", "the end"]


@covers("TUN-18")
def test_the_closing_handshake_ends_both_sides_and_a_silent_peer_is_dropped_after_a_deadline():
    pair = Pair()
    pair.node.close(1001, "bye")
    pair.clock.advance()
    assert len(pair.owners[0].ended) == len(pair.owners[1].ended) == 1
    assert pair.agent.end is End.CLOSED
    wire = Wire()
    wire.mux.close(1000)
    wire.clock.advance()
    assert [message.kind for message in wire.got] == [Kind.CLOSE]
    assert not wire.owner.ended
    wire.clock.advance(WebSocketLimits().close_s)
    assert len(wire.owner.ended) == 1


@covers("RPC-9", "RPC-10")
def test_heartbeats_keep_a_quiet_pair_alive_and_a_silent_peer_is_given_up():
    pair = Pair()
    pair.clock.advance(100.0)
    assert not pair.owners[0].ended
    wire = Wire()
    wire.clock.advance(RpcLimits().silence_s - 0.1)
    assert [message.kind for message in wire.got] == [Kind.BINARY] * 2
    assert not wire.owner.ended
    wire.clock.advance(0.1 + GRACE_S)
    assert len(wire.owner.ended) == 1
    assert wire.mux.end is End.SILENT


@covers("RPC-10")
def test_a_message_that_takes_long_to_arrive_is_a_sign_of_life():
    wire = Wire()
    frame = b"".join(wire.codec.encode(HEADER.pack(99, 1, 0) + bytes(100)))
    for place in range(len(frame)):
        wire.far.write(frame[place : place + 1])
        wire.clock.advance(1.0)
    assert not wire.owner.ended
    wire.clock.advance(RpcLimits().silence_s + GRACE_S)
    assert len(wire.owner.ended) == 1


@covers("RPC-10")
def test_a_peer_whose_system_takes_what_left_before_the_question_is_not_silent():
    wire = Wire(capacity_bytes=1024)
    wire.far.pause_reading()
    stream = wire.mux.open(PUT, b"", False, lambda event: None)
    wire.mux.send_data(stream, bytes(100_000))
    for _ in range(60):  # it takes 1,024 bytes a second, and says nothing
        wire.clock.advance(1.0)
        wire.take()
    assert not wire.owner.ended
    wire.clock.advance(2 * RpcLimits().silence_s)  # it takes no more
    assert len(wire.owner.ended) == 1


@covers("RPC-10")
def test_a_peer_whose_system_takes_what_left_behind_the_question_may_be_silent():
    wire = Wire(capacity_bytes=1024)
    wire.far.pause_reading()
    stream = wire.mux.open(PUT, b"", False, lambda event: None)
    wire.clock.advance(RpcLimits().heartbeat_s - 0.1)
    wire.mux.send_data(stream, b"first")
    wire.clock.advance(0.1 + GRACE_S)
    wire.mux.send_data(stream, bytes(50_000))
    for _ in range(10):
        wire.take()
        wire.clock.advance(1.0)
    assert len(wire.owner.ended) == 1


@covers("RPC-10")
def test_what_a_process_that_did_not_run_has_not_read_is_a_sign_of_life():
    wire = Wire()
    wire.clock.advance(RpcLimits().heartbeat_s + GRACE_S)
    wire.near.pause_reading()  # as if it did not run
    _, id_, _ = HEADER.unpack(wire.got[-1].payload)
    wire.send(*wire.codec.encode(HEADER.pack(1, id_, 0x8000)))
    wire.clock.advance(2 * RpcLimits().silence_s)
    assert not wire.owner.ended


@covers("RPC-10", "RPC-47")
def test_what_is_not_read_on_purpose_is_none():
    wire = Wire(RpcLimits(control_bytes_max=0))
    wire.far.pause_reading()
    for _ in range(600):
        wire.send(*wire.codec.encode(HEADER.pack(99, 1, 0)))
    assert wire.near.unread_bytes
    wire.clock.advance(2 * RpcLimits().silence_s)
    assert len(wire.owner.ended) == 1


@covers("TUN-17", "RPC-47")
@pytest.mark.parametrize("question", ["ping", "heartbeat", "unknown type"])
def test_a_peer_that_asks_and_never_reads_is_bounded(question):
    wire = Wire(RpcLimits(control_bytes_max=2000))
    wire.far.pause_reading()
    frame = {
        "ping": lambda: wire.codec.encode_ping(b"x" * 100),
        "heartbeat": lambda: b"".join(wire.codec.encode(HEADER.pack(1, 1, 0))),
        "unknown type": lambda: b"".join(wire.codec.encode(HEADER.pack(99, 1, 0))),
    }[question]
    for _ in range(3000):
        wire.send(frame())
    held = wire.near.unsent_bytes + wire.mux.engine.snapshot().control_bytes
    assert held < 30_000
    assert not wire.owner.ended


@covers("RPC-1", "RPC-2")
@pytest.mark.parametrize(
    "frame, code",
    [
        (b"\x82\x85\0\0\0\0short", 1002),
        (b"\x81\x84\0\0\0\0text", 1002),
        (b"\x82\x05plain", 1002),
        (b"\xc2\x80\0\0\0\0", 1002),
    ],
)
def test_a_violation_is_said_with_its_code_and_ends_the_connection(frame, code):
    wire = Wire()
    wire.send(frame)
    (message,) = wire.got
    assert message.kind is Kind.CLOSE
    assert int.from_bytes(message.payload[:2], "big") == code
    assert len(wire.owner.ended) == 1
    assert wire.mux.violated in ("rpc", "websocket")
    assert wire.mux.end is End.PROTOCOL_ERROR


@covers("TUN-42")
def test_who_is_shed_is_told_why_once_and_hears_nothing_more():
    wire, events = Wire(), []
    stream = wire.mux.open(PUT, b"", False, events.append)
    wire.clock.advance()
    wire.got.clear()
    wire.mux.shed("too much")
    wire.mux.shed("too much")
    wire.clock.advance()
    (message,) = wire.got
    assert parse_close(message.payload) == (1013, "too much")
    assert wire.owner.ended == ["too much"]
    assert wire.mux.end is End.SHED
    assert [(event.stream, event.code) for event in events] == [(stream, ResetCode.LOST)]


@covers("TUN-18")
def test_who_is_shed_in_the_closing_handshake_gets_no_second_close_frame():
    wire, arrived = Wire(), []
    wire.received = arrived.append  # the codec would discard a second one
    wire.mux.close(1001, "bye")
    wire.mux.shed("too much")
    wire.clock.advance()
    assert b"".join(arrived) == WebSocketCodec("server", WebSocketLimits()).encode_close(1001, "bye")
    assert wire.near.closed


def test_who_wants_to_know_is_called_after_each_read_but_not_after_the_end():
    wire = Wire()
    clock, owner, calls = ManualClock(), Owner(), []
    near, far = memory_pair(clock)
    engine = StreamingEngine(RpcLimits(), now=0.0)
    codec = WebSocketCodec("server", WebSocketLimits())
    mux = Multiplexer(near, codec, engine, clock, owner, lambda: calls.append(codec.unfinished_bytes))
    mux.start()
    (header, rest) = wire.codec.encode(HEADER.pack(1, 1, 0))
    for data, told in (
        (header + rest[:5], [len(header) + 5]),
        (rest[5:], [len(header) + 5, 0]),
        (b"\x81\x84\0\0\0\0text", [len(header) + 5, 0]),
    ):
        far.write(data)
        clock.advance()
        assert calls == told
    assert len(owner.ended) == 1


def test_who_wants_to_know_is_called_when_a_write_leaves_something_and_when_that_is_gone():
    clock, calls = ManualClock(), []
    near, far = memory_pair(clock, capacity_bytes=1000)
    far.set_receiver(Wire())  # reads
    engine = BaseEngine(RpcLimits(), HttpLimits(), now=0.0)
    codec = WebSocketCodec("server", WebSocketLimits())
    mux = Multiplexer(near, codec, engine, clock, Owner(), lambda: calls.append(near.unsent_bytes))
    mux.start()
    mux.open(PUT, bytes(100), True, lambda event: None)
    clock.advance()
    assert calls == []
    far.pause_reading()
    mux.open(PUT, bytes(5000), True, lambda event: None)
    clock.advance()
    assert len(calls) == 1
    assert calls[0] == near.unsent_bytes > 4000
    far.resume_reading()
    clock.advance()
    assert calls[1:] == [0]


@covers("TUN-42")
def test_nothing_is_kept_of_what_waits_to_be_sent_to_who_is_shed():
    wire, events = Wire(capacity_bytes=100), []
    wire.far.pause_reading()
    wire.mux.open(PUT, bytes(5000), True, events.append)
    wire.clock.advance()
    assert wire.near.unsent_bytes > 4000
    wire.mux.shed("too much")
    assert wire.near.unsent_bytes == 0
    assert wire.near.closed
    assert wire.owner.ended == ["too much"]
    assert wire.mux.end is End.SHED
    assert [event.code for event in events] == [ResetCode.LOST]


@covers("TUN-42")
def test_who_is_shed_by_what_its_close_frame_waits_for_is_not_closed_again():
    wire = Wire(capacity_bytes=100)
    wire.far.pause_reading()
    wire.mux.open(PUT, bytes(5000), True, lambda event: None)
    wire.mux._held_changed = lambda: wire.mux.shed("too much")
    wire.mux.close(1001, "bye")
    assert wire.owner.ended == ["too much"]
    assert wire.clock.next_due() is None


@interpreted_only
def test_a_heartbeat_that_was_answered_fast_is_followed_by_the_next_without_waking_between(monkeypatch):
    woken_at = []
    handle_timer = StreamingEngine.handle_timer
    monkeypatch.setattr(
        StreamingEngine, "handle_timer", lambda engine, *, now: (woken_at.append(now), handle_timer(engine, now=now))[1]
    )
    wire = Wire()
    wire.clock.advance(RpcLimits().heartbeat_s + GRACE_S)
    for count in range(1, 6):
        assert len(wire.got) == len(woken_at) == count
        _, id_, _ = HEADER.unpack(wire.got[-1].payload)
        wire.clock.advance(0.02)
        wire.send(*wire.codec.encode(HEADER.pack(1, id_, 0x8000)))
        wire.clock.advance(RpcLimits().heartbeat_s + GRACE_S - 0.019)


def test_of_two_ends_of_a_link_that_hear_nothing_one_asks():
    clock, limits = ManualClock(), PeerLimits()
    dialled, accepted = (
        Multiplexer(end, WebSocketCodec(role, WebSocketLimits()), StreamingEngine(of, now=0.0), clock, Owner())
        for end, role, of in zip(
            memory_pair(clock), ("client", "server"), (limits.rpc_limits, limits.accepted_rpc_limits), strict=True
        )
    )
    dialled.start()
    accepted.start()
    clock.advance(100.0)
    assert dialled.engine.round_trip_s is not None
    assert accepted.engine.round_trip_s is None
