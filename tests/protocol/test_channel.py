"""What a side of a channel may be, how long it waits, and how much it keeps (``spec/channel.md``, Rules)."""

from __future__ import annotations

import re
import tracemalloc
from dataclasses import fields
from pathlib import Path

import pytest

from pico.actors.spares import SPARED_S
from pico.config import ChannelLimits
from pico.errors import ConfigError, LocalProtocolError
from pico.protocol.channel import ChannelViolation, HandshakeState, Identity, NoAnswer, Purpose
from pico.protocol.seal import UnknownKey
from tests.channel_side import begin, connect
from tests.channel_slow import frames, hello, number, side
from tests.rules import covers

SPEC = (Path(__file__).parents[2] / "spec" / "channel.md").read_text()

KEYS = [bytes(range(32)).hex(), bytes(range(32, 64)).hex()]
DIALS, DIALLED = side("a", purpose="EXCHANGE"), side("b")
SEALED = ({**DIALS, "keys": KEYS[:1]}, {**DIALLED, "keys": KEYS[:1]})


def test_the_parameters_of_the_document_are_those_of_the_configuration() -> None:
    written = dict(re.findall(r"^\| `(\w+)` \| .*? \| ([\d,]+) ", SPEC, re.M))
    assert {name: float(value.replace(",", "")) for name, value in written.items()} == {
        **{field.name: field.default for field in fields(ChannelLimits)},
        "spared_s": SPARED_S,
    }


class TestIdentity:
    @covers("CHANNEL-4")
    @pytest.mark.parametrize("versions", [(0, 1), (2, 1), (1, 256), (-1, -1)])
    def test_versions_that_nobody_could_agree_on_are_refused(self, versions: tuple[int, int]) -> None:
        with pytest.raises(ConfigError) as caught:
            Identity("prod", "a", 7, None, *versions)
        assert caught.value.field == "channel_versions"

    @covers("CHANNEL-7")
    @pytest.mark.parametrize("name", ["", "a b", "n" * 65])
    def test_names_that_no_hello_could_say_are_refused(self, name: str) -> None:
        with pytest.raises(ConfigError) as caught:
            Identity(name, "a", 7)
        assert caught.value.field == "cluster_name"
        with pytest.raises(ConfigError) as caught:
            Identity("prod", name, 7)
        assert caught.value.field == "node_id"

    @covers("CHANNEL-4")
    def test_but_not_the_bounds(self) -> None:
        assert Identity("prod", "a", 7, None, 1, 255).version_max == 255


class TestTime:
    @covers("CHANNEL-14")
    @pytest.mark.parametrize(
        "me, said",
        [
            (DIALS, "channel: no hello in 5 s, perhaps it is no gossip port"),
            ({**DIALS, "wanted": "b"}, "channel: no hello in 5 s"),
            (DIALLED, "channel: no hello in 5 s"),
        ],
        ids=["dialling anybody", "dialling somebody", "dialled"],
    )
    def test_a_peer_that_says_nothing_is_given_up(self, me: dict[str, object], said: str) -> None:
        handshake = begin(me, now=100.0)
        assert handshake.next_timer() == 105.0
        handshake.handle_timer(now=104.9)
        with pytest.raises(NoAnswer) as caught:
            handshake.handle_timer(now=105.0)
        assert str(caught.value) == said
        assert handshake.state is HandshakeState.FAILED and handshake.next_timer() is None
        handshake.handle_timer(now=200.0)

    @covers("CHANNEL-14")
    def test_so_is_one_that_proves_nothing(self) -> None:
        handshake = begin(DIALLED)
        handshake.receive_data(hello(DIALS), now=4.0)
        assert handshake.next_timer() == 5.0, "what comes does not move the deadline"
        with pytest.raises(NoAnswer, match="no confirmation"):
            handshake.handle_timer(now=5.0)

    @covers("CHANNEL-14")
    def test_an_answer_after_the_deadline_is_none(self) -> None:
        handshake = begin(DIALLED)
        with pytest.raises(NoAnswer):
            handshake.receive_data(hello(DIALS) + frames(None), now=5.0)
        assert handshake.receive_data(hello(DIALS) + frames(None), now=5.0) is None

    @covers("CHANNEL-14")
    def test_an_open_channel_waits_for_nothing(self) -> None:
        handshake = begin(DIALLED)
        assert handshake.receive_data(hello(DIALS) + frames(None), now=1.0) is not None
        assert handshake.next_timer() is None
        handshake.handle_timer(now=9.0)


class TestOrder:
    @covers("CHANNEL-1")
    def test_each_thing_is_sent_once(self) -> None:
        one, other = begin(DIALS), begin(DIALLED)
        assert other.outgoing() == []
        [said] = one.outgoing()
        assert one.outgoing() == []
        other.receive_data(said, now=0.0)
        answer = b"".join(other.outgoing())
        assert answer == hello(DIALLED) + frames(None) and other.outgoing() == []
        assert one.receive_data(answer, now=0.0) is not None
        assert b"".join(one.outgoing()) == frames(None)

    @covers("CHANNEL-12")
    def test_nobody_is_open_before_the_peer_has_proven_the_key(self) -> None:
        dials, dialled = SEALED
        one, other = begin(dials), begin(dialled)
        other.receive_data(b"".join(one.outgoing()), now=0.0)
        answer = b"".join(other.outgoing())
        assert one.receive_data(answer[:-1], now=0.0) is None
        assert one.state is HandshakeState.CONFIRMATION
        channel = one.receive_data(answer[-1:], now=0.0)
        assert channel is not None and channel.leftover == b""
        assert other.state is HandshakeState.CONFIRMATION

    @covers("CHANNEL-3", "CHANNEL-9")
    def test_a_side_that_refuses_has_said_who_it_is(self) -> None:
        dialled = {**DIALLED, "keys": KEYS[:1]}
        other = begin(dialled)
        with pytest.raises(UnknownKey):
            other.receive_data(hello({**DIALS, "keys": KEYS[::-1]}), now=0.0)
        assert other.state is HandshakeState.FAILED and other.next_timer() is None
        assert other.outgoing() == [hello(dialled)]
        assert other.receive_data(b"more", now=0.0) is None and other.outgoing() == []

    @covers("CHANNEL-19")
    def test_what_comes_behind_the_handshake_is_for_the_frames(self) -> None:
        handshake = begin(DIALLED)
        channel = handshake.receive_data(hello(DIALS) + frames(None, b"early"), now=0.0)
        assert channel is not None and handshake.state is HandshakeState.OPEN
        assert channel.frames.receive_data(channel.leftover) == [b"early"]
        with pytest.raises(LocalProtocolError):
            handshake.receive_data(b"x", now=0.0)


class TestSizes:
    @covers("CHANNEL-15")
    @pytest.mark.parametrize("purpose,bytes_max", [("EXCHANGE", 17 << 20), ("LINK", 1 << 18)])
    def test_a_frame_may_be_as_large_as_its_purpose_allows(self, purpose: str, bytes_max: int) -> None:
        near, far = connect({**DIALS, "purpose": purpose}, DIALLED)
        assert near.purpose is far.purpose is Purpose[purpose]
        assert far.frames.frame_bytes_max == bytes_max
        payload = bytes(bytes_max)
        assert far.frames.receive_data(b"".join(near.frames.encode(payload))) == [payload]
        with pytest.raises(LocalProtocolError):
            near.frames.encode(b"x", payload + b"x")

    @covers("CHANNEL-15")
    @pytest.mark.parametrize("sides", [(DIALS, DIALLED), SEALED], ids=["clear", "sealed"])
    def test_nothing_is_allocated_from_a_size(self, sides: tuple[dict[str, object], dict[str, object]]) -> None:
        _, far = connect(*sides)
        start = number(17 << 20, 4)
        tracemalloc.start()
        try:
            assert far.frames.receive_data(start) == far.frames.receive_data(bytes(100)) == []
            assert tracemalloc.get_traced_memory()[1] < 10_000
        finally:
            tracemalloc.stop()

    @covers("CHANNEL-20")
    def test_after_a_violation_nothing_counts(self) -> None:
        near, far = connect(DIALS, DIALLED)
        good, bad = b"".join(near.frames.encode(b"good")), number(5, 4) + bytes(9)
        with pytest.raises(ChannelViolation) as caught:
            far.frames.receive_data(good + bad + good)
        assert caught.value.frames == [b"good"]
        assert far.frames.receive_data(good) == []

    @covers("CHANNEL-17")
    @pytest.mark.parametrize("sides,bytes_more", [((DIALS, DIALLED), 8), (SEALED, 20)], ids=["clear", "sealed"])
    def test_a_frame_is_a_little_larger_than_its_payload(self, sides, bytes_more: int) -> None:
        near, _ = connect(*sides)
        assert near.frames.overhead_bytes == bytes_more
        assert len(b"".join(near.frames.encode(b"hello"))) == 5 + bytes_more
