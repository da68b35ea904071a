"""The envelope, the limits of packets, and what is refused before there is one (``spec/gossip.md``, Packets)."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from pico.config import GossipLimits, GossipTimers
from pico.errors import ConfigError, RemoteProtocolError
from pico.protocol.gossip import Delta, Entry, GossipTable, MessageType, PacketBuilder, PacketCodec, Snapshot
from pico.protocol.gossip.packets import PACKET_BYTES_MAX, PACKET_BYTES_MIN
from pico.protocol.gossip.values import ENTRY_BYTES_MAX, LIFE_MAX, Nack
from pico.protocol.gossip.wire import encode_delta, encode_message
from tests.rules import covers

SPEC = (Path(__file__).parents[2] / "spec" / "gossip.md").read_text()


class Never:
    """A generator that nobody asks."""

    def getrandbits(self, bits: int, /) -> int:
        raise AssertionError


def codec(packet_bytes_max: int = 1_200, cluster: str = "prod", node_id: str = "a") -> PacketCodec:
    return PacketCodec(cluster, node_id, GossipLimits(packet_bytes_max=packet_bytes_max))


def test_the_parameters_of_the_document_are_those_of_the_configuration() -> None:
    rows = re.findall(r"^\| `(\w+)` \| .*? \| ([^|]+) \| [^|]+ \|$", SPEC, re.M)
    written = {name: default.replace(",", "") for name, default in rows}
    assert len(rows) == len(written)
    assert written == {
        field.name: text_of(field.default) for values in (GossipLimits, GossipTimers) for field in fields(values)
    }


def text_of(default: object) -> str:
    if isinstance(default, tuple):
        return " ".join(map(text_of, default))
    return f"{default:g}" if isinstance(default, float) and default < 1e5 else str(default)


@covers("GOSSIP-33")
class TestRefused:
    @pytest.mark.parametrize("name", ["", "a b", "a/b", "ä", "n" * 65, "a\n"])
    def test_a_name_that_is_not_valid(self, name: str) -> None:
        with pytest.raises(ConfigError) as caught:
            codec(node_id=name)
        assert caught.value.field == "node_id"
        with pytest.raises(ConfigError) as caught:
            codec(cluster=name)
        assert caught.value.field == "cluster_name"

    @pytest.mark.parametrize("size", [0, PACKET_BYTES_MIN - 1, PACKET_BYTES_MAX + 1])
    def test_a_limit_with_which_no_packet_could_be_made(self, size: int) -> None:
        with pytest.raises(ConfigError) as caught:
            codec(size)
        assert caught.value.field == "packet_bytes_max"

    @pytest.mark.parametrize("size", [PACKET_BYTES_MIN, PACKET_BYTES_MAX])
    def test_but_not_the_bounds(self, size: int) -> None:
        assert codec(size).packet_bytes_max == size

    @pytest.mark.parametrize("dead_state_s", [0.0, -1.0, 601.0])
    def test_a_time_with_which_no_node_could_be_forgotten_in_order(self, dead_state_s: float) -> None:
        with pytest.raises(ConfigError) as caught:
            GossipTable(codec(), 7, GossipLimits(dead_state_s=dead_state_s), Never())
        assert caught.value.field == "dead_state_s"


@covers("GOSSIP-4", "GOSSIP-22")
def test_the_largest_entry_fits_the_smallest_packet_of_every_node() -> None:
    names = "n" * 64
    small = codec(PACKET_BYTES_MIN, names, names)
    builder = PacketBuilder(small, LIFE_MAX, 1)
    entry = Entry(2**64 - 1, b"k", b"v" * (ENTRY_BYTES_MAX - 1))
    payload = encode_delta(Delta(names, LIFE_MAX, 2**64 - 2, 0, (entry,)))
    assert builder.room_for(len(payload))
    builder.add(MessageType.DELTA, payload)
    [packet] = builder.packets()
    assert len(packet) == 764
    [message] = small.decode(packet).messages
    assert isinstance(message, Delta) and message.entries == (entry,)


@covers("GOSSIP-22")
def test_a_packet_is_filled_to_the_last_byte_and_not_beyond() -> None:
    builder = PacketBuilder(codec(), 7, 2)
    room = builder.room_for(1)
    assert room == 1_200 - codec().envelope_bytes - 5
    assert builder.whole_room_bytes == room
    builder.add(MessageType.RECORDS, b"x" * (room - 6))
    assert builder.room_for(1) == 1, "five bytes of the next message, and one of its own"
    builder.add(MessageType.RECORDS, b"x")
    assert builder.room_for(room) == room
    builder.add(MessageType.RECORDS, b"x" * room)
    assert builder.room_for(1) == 0
    assert list(map(len, builder.packets())) == [1_200, 1_200]


@covers("GOSSIP-22", "GOSSIP-23")
def test_a_builder_makes_no_more_packets_than_it_may() -> None:
    builder = PacketBuilder(codec(), 7, 1)
    builder.add(MessageType.RECORDS, b"x" * 900)
    assert builder.room_for(900) == 0
    assert builder.room_for(1) == 0, "what follows does not overtake"
    assert len(builder.packets()) == 1
    assert PacketBuilder(codec(), 7, 1).packets() == []


@covers("GOSSIP-23")
def test_a_message_for_which_there_is_no_room_is_left_out() -> None:
    builder = PacketBuilder(codec(), 7, 1)
    builder.add(MessageType.RECORDS, b"x" * builder.room_for(1))
    assert builder.has_messages and builder.spare_bytes < 0
    builder.say(Nack(1))
    assert not builder.has_messages and len(builder.packets()) == 1


@covers("GOSSIP-23", "GOSSIP-71")
def test_bodies_that_stand_alone_count_too() -> None:
    builder = PacketBuilder(codec(), 7, 2, stream_bytes_max=1_200)
    builder.say(Nack(1))
    for _ in range(3):
        builder.add_alone(MessageType.SNAPSHOT, b"x" * 5_000)
    assert builder.room_for(1) == 0
    assert [len(body) > 5_000 for body in builder.packets()] == [False, True, True, True]


@covers("GOSSIP-34")
@covers("GOSSIP-71")
def test_a_body_with_a_snapshot_and_nothing_else_is_known_by_its_first_message() -> None:
    one = codec()
    said = encode_message(Snapshot("a", 1, 0, (Entry(1, b"x", b"1"),)))
    assert one.is_snapshot(one.encode_body(1, [said]))
    for other in ([said, said], [encode_message(Nack(1)), said], [(MessageType.DELTA, said[1])]):
        assert not one.is_snapshot(one.encode_body(1, other))
    for body in (b"", b"nonsense", one.encode_body(1, []), one.encode_body(1, [said])[:12]):
        with pytest.raises(RemoteProtocolError):
            one.is_snapshot(body)


def test_a_packet_is_accepted_whatever_the_own_limit() -> None:
    payload = encode_delta(Delta("b", 7, 0, 0, tuple(Entry(n, b"%d" % n, b"v" * 400) for n in range(1, 150))))
    packet = codec(PACKET_BYTES_MAX).encode(7, [(MessageType.DELTA, payload)])
    assert len(packet) > 60_000
    [message] = codec(PACKET_BYTES_MIN).decode(packet).messages
    assert isinstance(message, Delta) and len(message.entries) == 149
