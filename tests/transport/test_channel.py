"""Channels on streams: the handshake of one greenlet, and a multiplexer over a peer link."""

from __future__ import annotations

import logging

import gevent
import pytest

from pico.config import ChannelLimits, RpcLimits
from pico.errors import ConnectionLost, LocalProtocolError
from pico.protocol.channel import Channel, ForgedFrame, Handshake, NoAnswer
from pico.protocol.gossip import ForeignCluster
from pico.protocol.http.values import RequestHead, ResponseHead
from pico.protocol.rpc import DataReceived, HeadReceived, StreamingEngine
from pico.transport.channel import ChannelCodec, shake_hands
from pico.transport.clock import HubClock, ManualClock
from pico.transport.memory import MemoryStream, memory_pair
from pico.transport.multiplexer import Multiplexer
from pico.transport.stream import Stream
from pico.transport.websocket import Kind
from tests.channel_side import begin, connect
from tests.channel_slow import Value, frames, hello, number, side
from tests.rules import covers
from tests.transport.recorder import Recorder, settle, socket_pair
from tests.transport.test_multiplexer import Owner

KEY = bytes(range(32)).hex()
GET = RequestHead(b"GET", b"/", b"Host: a.b\r\n", 0, b"")
OK = ResponseHead(200, b"OK", b"", -1, b"")

MODES = pytest.mark.parametrize("keys", [[], [KEY]], ids=["clear", "sealed"])


def sides(keys: list[str]) -> tuple[Value, Value]:
    return side("a", purpose="LINK", keys=keys), side("b", keys=keys)


def pair_of(kind: str) -> tuple[Stream, Stream]:
    return socket_pair() if kind == "socket" else memory_pair(HubClock())


def fresh(said: Value, **limits: float) -> Handshake:
    return begin(said, now=HubClock.now(), **limits)


@MODES
@pytest.mark.parametrize("kind", ["socket", "memory"])
@covers("CHANNEL-1")
def test_two_nodes_shake_hands(kind: str, keys: list[str]) -> None:
    near, far = pair_of(kind)
    dials, dialled = sides(keys)
    accepting = gevent.spawn(shake_hands, far, fresh(dialled), HubClock())
    one = shake_hands(near, fresh(dials), HubClock())
    other: Channel = accepting.get(timeout=10.0)
    assert (one.node_id, other.node_id) == ("b", "a")
    near.writev(one.frames.encode(b"hello"))
    expected = len(b"hello") + one.frames.overhead_bytes
    data = Recorder(far).wait_for_bytes(expected)
    assert other.frames.receive_data(other.leftover + data) == [b"hello"]
    for stream in (near, far):
        stream.abort()


@covers("CHANNEL-19")
def test_what_comes_behind_the_handshake_is_not_lost() -> None:
    near, far = pair_of("memory")
    dials, dialled = sides([])
    near.write(hello(dials) + frames(None, b"early", b"bird")[:-3])
    channel = shake_hands(far, fresh(dialled), HubClock())
    assert channel.frames.receive_data(channel.leftover) == [b"early"]
    assert channel.frames.receive_data(b"ird") == [b"bird"]


@covers("CHANNEL-3", "CHANNEL-8")
def test_both_sides_learn_why_they_cannot_speak() -> None:
    near, far = pair_of("memory")
    accepting = gevent.spawn(shake_hands, far, fresh(side("b", cluster="test")), HubClock())
    with pytest.raises(ForeignCluster, match="test"):
        shake_hands(near, fresh(sides([])[0]), HubClock())
    with pytest.raises(ForeignCluster, match="prod"):
        accepting.get(timeout=10.0)
    assert near.closed and far.closed


@covers("CHANNEL-14")
def test_a_peer_that_is_silent_is_given_up() -> None:
    near, _ = pair_of("memory")
    with pytest.raises(NoAnswer):
        shake_hands(near, fresh(sides([])[0], handshake_s=0.01), HubClock())
    assert near.closed


@pytest.mark.parametrize("end", ["close", "abort", "half_close"])
def test_a_peer_that_goes_away_is_a_loss(end: str) -> None:
    near, far = pair_of("memory")
    getattr(far, end)()
    with pytest.raises(ConnectionLost):
        shake_hands(near, fresh(sides([])[0]), HubClock())
    settle()
    assert near.closed


class LinkPair:
    """Two multiplexers over one peer link on a clock that is moved by hand."""

    def __init__(self, keys: list[str], limits: RpcLimits | None = None) -> None:
        limits = limits or RpcLimits(heartbeat_s=0.5, silence_s=2.0)
        self.clock = ManualClock()
        self.ends: tuple[MemoryStream, MemoryStream] = memory_pair(self.clock)
        self.owners = (Owner(), Owner())
        self.channels = connect(*sides(keys))
        self.near, self.far = (
            Multiplexer(
                end,
                ChannelCodec(channel.frames, ChannelLimits()),
                StreamingEngine(limits, now=0.0),
                self.clock,
                owner,
            )
            for end, channel, owner in zip(self.ends, self.channels, self.owners, strict=True)
        )
        self.near.start()
        self.far.start()
        self.clock.advance()

    def call(self, body: bytes) -> bytes:
        """The body of one response."""
        got: list[object] = []
        self.near.open(GET, b"", True, got.append)
        self.clock.advance()
        stream = self.owners[1].opened[-1].stream
        self.far.send_head(stream, OK, body, True)
        self.clock.advance()
        assert isinstance(got[0], HeadReceived)
        return got[0].data + b"".join(event.data for event in got[1:] if isinstance(event, DataReceived))


@MODES
@covers("CHANNEL-18")
def test_calls_travel_over_a_peer_link(keys: list[str]) -> None:
    pair = LinkPair(keys)
    assert [pair.call(b"x" * size) for size in (0, 1, 60_000)] == [b"x" * size for size in (0, 1, 60_000)]
    pair.clock.advance(60.0)
    assert pair.owners[0].ended == pair.owners[1].ended == [], "heartbeats keep it open"
    assert pair.call(b"later") == b"later"


@MODES
@covers("CHANNEL-18")
def test_a_peer_link_is_closed_with_an_empty_frame_each_way(keys: list[str]) -> None:
    pair = LinkPair(keys)
    pair.near.close(1001, "the node stops")
    pair.clock.advance(0.1)
    assert pair.owners[1].ended == ["the peer closed the connection"]
    assert pair.owners[0].ended == ["the node stops"]
    assert all(end.closed for end in pair.ends)


@covers("CHANNEL-18")
def test_a_peer_that_does_not_answer_the_close_is_dropped() -> None:
    pair = LinkPair([], RpcLimits())
    pair.ends[1].set_receiver(None)
    pair.near.close()
    pair.clock.advance(4.9)
    assert pair.owners[0].ended == []
    pair.clock.advance(0.2)
    assert pair.owners[0].ended == ["closed with 1000"]


@covers("CHANNEL-16", "CHANNEL-17")
@MODES
def test_a_spoilt_frame_ends_the_link(keys: list[str], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    pair = LinkPair(keys)
    pair.ends[0].write(number(1, 4) + bytes(21))
    pair.clock.advance(0.1)
    [reason] = pair.owners[1].ended
    assert reason.startswith("protocol violation: frame: ")
    assert pair.far.violated == "channel"
    assert pair.owners[0].ended == ["the peer closed the connection"]


@covers("CHANNEL-18")
def test_a_codec_looks_at_nothing_behind_the_end() -> None:
    near, far = connect(*sides([]))
    codec = ChannelCodec(far.frames, ChannelLimits())
    data = b"".join(near.frames.encode(b"last", b"", b"late"))
    assert codec.receive_data(data) == [(Kind.BINARY, b"last"), (Kind.CLOSE, b"")]
    assert codec.receive_data(data) == []


def test_a_message_in_two_pieces_is_the_frame_of_the_whole() -> None:
    near, far = connect(*sides([KEY]))
    buffers = ChannelCodec(near.frames, ChannelLimits()).encode((b"its 12 bytes", memoryview(b"the rest")), b"one")
    wire = b"".join(buffers)
    got = ChannelCodec(far.frames, ChannelLimits()).receive_data(wire)
    assert got == [(Kind.BINARY, b"its 12 bytesthe rest"), (Kind.BINARY, b"one")]


def test_a_codec_is_not_asked_for_what_channels_do_not_have() -> None:
    codec = ChannelCodec(connect(*sides([]))[0].frames, ChannelLimits())
    with pytest.raises(LocalProtocolError):
        codec.encode_pong(b"")
    with pytest.raises(AssertionError):
        codec.encode(b"message", b"")


def test_a_codec_raises_what_the_frames_raise() -> None:
    codec = ChannelCodec(connect(*sides([KEY]))[1].frames, ChannelLimits())
    with pytest.raises(ForgedFrame):
        codec.receive_data(bytes(20))
