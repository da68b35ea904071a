"""Packets: any bytes, any values, and never above the limit (``spec/gossip.md``, Packets)."""

from __future__ import annotations

from random import Random

from hypothesis import example, given
from hypothesis import strategies as st

from pico.config import GossipLimits
from pico.errors import RemoteProtocolError
from pico.protocol.gossip import (
    Delta,
    Digest,
    DigestEntry,
    Entry,
    GossipTable,
    Packet,
    PacketCodec,
    Rank,
    Record,
    Records,
    Snapshot,
)
from pico.protocol.gossip.values import Ack, Message, Nack, Ping, PingRequest, Push, Pushed, Range, Summary
from pico.protocol.gossip.wire import encode_message
from tests.gossip_side import Side, answered, digest_of, exchange
from tests.gossip_slow import decode, encode, envelope, name, number, value_of
from tests.rules import covers

CODEC = PacketCodec("prod", "a", GossipLimits())

names = st.text("abz09._-AZ", min_size=1, max_size=64)
u64 = st.integers(0, 2**64 - 1)
lives = st.integers(1, 2**64 - 1)
records = st.builds(Record, lives, st.booleans(), st.integers(0, 2**32 - 1), st.sampled_from(Rank))


@st.composite
def entries(draw: st.DrawFn, start: int, min_size: int) -> tuple[Entry, ...]:
    keys = draw(st.lists(st.binary(min_size=1, max_size=9), unique=True, min_size=min_size, max_size=6))
    found, version = [], start
    for key in keys:
        version += draw(st.integers(1, 1_000))
        found.append(Entry(version, key, draw(st.none() | st.binary(max_size=500))))
    return tuple(found)


@st.composite
def deltas(draw: st.DrawFn) -> Delta:
    start = draw(st.integers(0, 2**63))
    return Delta(draw(names), draw(lives), start, draw(st.integers(0, start)), draw(entries(start, 1)))


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    floor = draw(st.integers(0, 2_000))
    kept = [entry for entry in draw(entries(0, 0)) if entry.value is not None or entry.version > floor]
    return Snapshot(draw(names), draw(lives), floor, tuple(kept))


@st.composite
def digests(draw: st.DrawFn) -> Digest:
    above, upto = sorted((draw(names | st.just("")), draw(names | st.just(""))))
    named = sorted(draw(st.dictionaries(names, st.tuples(records, u64, st.booleans()), max_size=6)).items())
    whole = draw(st.booleans())
    return Digest(above, "" if whole else upto, tuple(DigestEntry(key, *told) for key, told in named))


@st.composite
def rumours(draw: st.DrawFn) -> Records:
    known = draw(st.lists(st.tuples(names, records), max_size=6, unique_by=lambda one: one[0]))
    witnessed = draw(st.sets(st.sampled_from([node_id for node_id, _ in known]))) if known else set()
    return Records(tuple(known), frozenset(witnessed))


@st.composite
def ranges(draw: st.DrawFn) -> Range:
    above, upto = sorted((draw(names | st.just("")), draw(names | st.just(""))))
    return Range(above, draw(st.sampled_from([upto, ""])))


sequences = st.integers(0, 2**32 - 1)
addresses = st.tuples(st.ip_addresses().map(str), st.integers(1, 65_535))
messages: st.SearchStrategy[Message] = st.one_of(
    rumours(),
    digests(),
    deltas(),
    snapshots(),
    st.builds(Summary, st.lists(st.tuples(ranges(), u64), max_size=4).map(tuple)),
    st.builds(Ping, sequences, names),
    st.builds(Ack, sequences, names, lives),
    st.builds(PingRequest, sequences, names, addresses),
    st.builds(Nack, sequences),
    st.builds(Push, sequences, ranges(), deltas()),
    st.builds(Pushed, sequences, lives, u64),
)
packets = st.tuples(names, lives, st.lists(messages, max_size=3).map(tuple))


def written(cluster: str, sender: str, life: int, said: tuple[Message, ...]) -> bytes:
    return PacketCodec(cluster, sender, GossipLimits()).encode(life, list(map(encode_message, said)))


@covers("GOSSIP-12", "GOSSIP-24", "GOSSIP-31", "GOSSIP-34", "GOSSIP-49")
@given(names, packets)
def test_what_is_written_is_what_is_read_and_what_the_document_says(cluster, said):
    data = written(cluster, *said)
    packet = PacketCodec(cluster, "reader", GossipLimits()).decode(data)
    assert packet == Packet(*said, 0)
    value = value_of(packet, cluster)
    assert encode(value) == data and decode(data) == value


def receives(data: bytes) -> None:
    """Nothing but a ``RemoteProtocolError``, in the decoder; nothing at all in the table."""
    try:
        packet = CODEC.decode(data)
    except RemoteProtocolError:
        return
    table = GossipTable(CODEC, 5, GossipLimits(), Random(1))
    table.own.put(b"x", b"1")
    for _ in range(2):
        for answer in answered(table, packet, packets_max=16, now=0.0).packets:
            assert len(answer) <= 1_200
            CODEC.decode(answer)


@covers("GOSSIP-31")
def test_questions_are_asked_in_the_order_of_names_whatever_the_order_of_what_was_missed():
    missed = tuple(Delta(name, 1, 1, 0, (Entry(2, b"k", None),)) for name in ("c", "b"))
    packet = CODEC.decode(written("prod", "sender", 1, missed))
    table = GossipTable(CODEC, 5, GossipLimits(), Random(1))
    table.learn(packet._replace(messages=()), now=0.0)
    (answer,) = answered(table, packet, packets_max=16, now=0.0).packets
    (digest,) = [message for message in CODEC.decode(answer).messages if isinstance(message, Digest)]
    assert [entry.node_id for entry in digest.entries] == ["b", "c"]


@covers("GOSSIP-24", "GOSSIP-26", "GOSSIP-30")
@given(st.binary(max_size=200))
@example(b"pg\x01\x00")
def test_any_bytes_are_a_packet_or_a_violation(data):
    receives(data)
    receives(envelope(data))
    receives(envelope(name("prod") + name("b") + number(7, 8) + data))


@covers("GOSSIP-30", "GOSSIP-31")
@given(st.lists(st.tuples(st.integers(0, 12), st.binary(max_size=80)), max_size=4))
def test_any_payloads_are_messages_or_a_violation(sections):
    body = b"".join(number(type_, 1) + number(len(payload), 4) + payload for type_, payload in sections)
    receives(envelope(name("prod") + name("b") + number(7, 8) + body))


@covers("GOSSIP-6", "GOSSIP-19", "GOSSIP-22", "GOSSIP-50")
@given(st.lists(st.tuples(st.sampled_from("bc"), messages), max_size=8), st.data())
def test_whatever_is_said_a_table_stands(said, data):
    """Also what no honest node says: each message is valid by itself, and made to be about few nodes and lives."""
    side = Side("a", life=2)
    side.table.own.put(b"x", b"1")
    few = st.sampled_from("abc")
    for sender, message in said:
        life = data.draw(st.integers(1, 4))
        if isinstance(message, Delta | Snapshot):
            message = message._replace(node_id=data.draw(few), life=life)
        elif isinstance(message, Records):
            named = [(data.draw(few), record._replace(life=life)) for _, record in message.records]
            message = Records(tuple(named))
        elif isinstance(message, Push):
            message = message._replace(delta=message.delta._replace(node_id=data.draw(few), life=life))
        elif isinstance(message, Digest):
            known = {data.draw(few): told for told in message.entries}
            told = [known[node_id]._replace(node_id=node_id) for node_id in sorted(known)]
            message = message._replace(entries=tuple(told))
        side.hear(sender, message)
        assert all(len(packet) <= 1_200 for packet in side.answer.packets)
        assert side.table.own.live() == {b"x": b"1"}
        for node_id, record in side.table.members().items():
            state = side.table.state_of(node_id)
            assert state is not None and state.life == record.life and state.floor <= state.applied
        side.snapshots()


@covers("GOSSIP-26", "GOSSIP-30", "GOSSIP-31")
@given(packets, st.data())
def test_a_packet_spoilt_at_one_place_is_a_packet_or_a_violation(said, data):
    whole = written("prod", *said)
    at = data.draw(st.integers(0, len(whole) - 1))
    bit = 1 << data.draw(st.integers(0, 7))
    spoilt = whole[:at] + bytes((whole[at] ^ bit,)) + whole[at + 1 :]
    try:
        CODEC.decode(spoilt)
    except RemoteProtocolError:
        pass
    else:
        raise AssertionError("a flipped bit that nobody saw")
    receives(envelope(spoilt[8:]))  # With a checksum that holds.
    receives(envelope(whole[8:at] if at > 8 else whole[:at]))


@covers("GOSSIP-10", "GOSSIP-22", "GOSSIP-23")
@given(
    st.integers(1_024, 1_500),
    st.lists(st.tuples(names, st.lists(st.integers(0, 508), max_size=12)), max_size=12, unique_by=lambda one: one[0]),
    st.integers(1, 4),
    st.sampled_from(["a", "n" * 64]),
)
def test_no_packet_is_above_the_limit_and_everything_arrives(packet_bytes_max, nodes, answer_packets_max, own_id):
    limits = {"packet_bytes_max": packet_bytes_max, "answer_packets_max": answer_packets_max}
    full, empty = Side(own_id, **limits), Side("reader", **limits)
    sources = []
    for node_id, sizes in nodes:
        if node_id not in (own_id, "reader"):
            source = Side(node_id)
            for count, size in enumerate(sizes):
                source.table.own.put(b"%04d" % count, b"v" * size)
            full.meet(node_id)
            exchange(source, full)
            sources.append(source)
    for packet in digest_of(full.table):
        assert len(packet) <= packet_bytes_max
    for _ in range(sum(len(sizes) for _, sizes in nodes) + len(nodes) + 2):
        for packet in digest_of(empty.table):
            full.receive(packet)
            assert len(full.answer.packets) <= answer_packets_max
            for answer in full.answer.packets:
                assert len(answer) <= packet_bytes_max
                empty.receive(answer)
    for source in sources:
        state = empty.table.state_of(source.node_id)
        assert state is not None and state.live() == source.table.own.live()
