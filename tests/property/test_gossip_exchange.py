"""Two nodes come to agree: by an exchange however it is cut, and by hashes of ranges (``spec/gossip.md``)."""

from __future__ import annotations

from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st

from pico.protocol.gossip import Delta, Digest, DigestEntry, Entry, Rank, Record, Records
from pico.protocol.gossip import engine as engine_module
from pico.protocol.gossip.exchange import TURNS_MAX, Exchange
from pico.protocol.gossip.table import DIGEST_NODES_MAX, SUMMARY_PARTS
from pico.protocol.gossip.values import Summary
from pico.protocol.gossip.wire import MessageType, encode_message
from tests.gossip_side import LIFE, Member, Side
from tests.rules import covers

node_names = st.text("abcxyz", min_size=2, max_size=5)
knowledge = st.dictionaries(
    node_names, st.tuples(st.integers(0, 6), st.sampled_from([0, 0, 0, 1, 2]), st.integers(0, 3)), max_size=12
)
"""Of each node: versions, rank, inc."""


def teach(side: Side | Member, known: dict[str, tuple[int, int, int]], *, value_bytes: int = 3) -> None:
    for name, (versions, rank, inc) in known.items():
        entries = tuple(Entry(count, b"k%d" % count, b"v" * value_bytes) for count in range(1, versions + 1))
        said = [Delta(name, LIFE, 0, 0, entries)] if entries else []
        side.hear(name, *said)
        side.hear(name, Records(((name, Record(LIFE, False, inc, Rank(rank))),)))


def contents(member: Member) -> dict[str, tuple[Record, dict[bytes, bytes]]]:
    """All that is known of those who are not gone."""
    table = member.engine.table
    known = {**table.members(), member.node_id: table.record}
    return {
        node_id: (record, state.live())
        for node_id, record in known.items()
        if not record.gone and (state := table.state_of(node_id)) is not None
    }


@covers("GOSSIP-71", "GOSSIP-21", "GOSSIP-53")
@given(knowledge, knowledge, st.integers(1_000, 9_000), st.integers(0, 3), st.sampled_from([3, 400]))
def test_an_exchange_ends_in_time_and_both_agree_however_its_bodies_are_cut(one, other, bytes_max, compacted, size):
    a, b = Member("a"), Member("b")
    teach(a, one, value_bytes=size)
    teach(b, other, value_bytes=size)
    for number in range(compacted):
        a.engine.put(b"x", b"%d" % number, now=0.0)
        a.engine.delete(b"x", now=0.0)
        a.engine.table.own.compact(number + 1)
    b.engine.put(b"y", b"1", now=0.0)
    with patch.object(engine_module, "STREAM_BODY_BYTES_MAX", bytes_max):
        sides = [Exchange(b.engine), Exchange(a.engine)]
        turns, turn = 1, sides[1].open()
        while turn:
            side = sides[0] if turns % 2 else sides[1]
            for body in turn:
                assert len(body) <= bytes_max or MessageType.SNAPSHOT in kinds(a, body)
                side.receive_body(body, now=0.0)
            turn, turns = side.end_turn(), turns + 1
    assert turns <= TURNS_MAX
    assert contents(a) == contents(b)


def kinds(member: Member, body: bytes) -> set[MessageType]:
    return {encode_message(message)[0] for message in member.codec.decode_body(body).messages}


def converse(one: Side, other: Side) -> tuple[int, list[object]]:
    """From the hash of all names on until there is nothing to say; the packets, and what they said."""
    builder = one.table.builder(packets_max=1)
    builder.say(Summary(((engine_module.EVERYBODY, one.table.summary()),)))
    waiting = [(other, one, packet) for packet in builder.packets()]
    packets, said = 0, []
    while waiting:
        to, back, packet = waiting.pop(0)
        packets += 1
        assert packets < 2_000, "a conversation that does not end"
        said += to.codec.decode(packet).messages
        to.receive(packet)
        waiting += [(back, to, answer) for answer in to.answer.packets]
    return packets, said


big = st.integers(0, 200)
changes = st.lists(
    st.tuples(
        st.integers(0, 210), st.sampled_from(["more", "record", "missing here", "missing there"]), st.integers(1, 3)
    ),
    max_size=8,
    unique_by=lambda one: one[0],
)


@covers("GOSSIP-54", "GOSSIP-21", "GOSSIP-11")
@given(big, changes)
def test_hashes_find_what_differs_and_nothing_else(nodes, differences):
    one, other = Side("m", seed=1), Side("n", seed=2)
    one.table.own.put(b"x", b"1")
    other.table.own.put(b"x", b"1")
    same = {f"n{number:03}": (2, 0, 0) for number in range(nodes)}
    here, there = dict(same), dict(same)
    for number, what, how in differences:
        name = f"n{number:03}"
        here[name] = there[name] = (2, 0, 0)
        if what == "more":
            (here if how % 2 else there)[name] = (2 + how, 0, 0)
        elif what == "record":
            (here if how % 2 else there)[name] = (2, 1, how)
        else:
            del (here if what == "missing here" else there)[name]
    teach(one, here)
    teach(other, there)
    for side, peer in ((one, other), (other, one)):  # they know each other
        side.hear(peer.node_id, Delta(peer.node_id, LIFE, 0, 0, (Entry(1, b"x", b"1"),)))
    packets, said = converse(one, other)
    assert one.table.summary() == other.table.summary()
    for name in {*here, *there}:
        states = [side.table.state_of(name) for side in (one, other)]
        assert states[0].live() == states[1].live(), name  # type: ignore[union-attr]
        assert one.table.record_of(name) == other.table.record_of(name)
    assert converse(one, other)[0] == converse(other, one)[0] == 1, "who agrees has nothing to say"
    lacking = {f"n{number:03}" for number, what, _ in differences if what != "record"}
    assert {message.node_id for message in said if isinstance(message, Delta)} == lacking
    differ = len(differences)
    if not differ:
        assert packets == 1
    parts = 2 + (nodes + 11) // DIGEST_NODES_MAX  # packets of one pass of summaries, and of the digests below them
    assert packets <= 3 + 6 * differ + SUMMARY_PARTS * min(differ, parts), "as many as differ, not as there are nodes"


@covers("GOSSIP-53", "GOSSIP-36")
@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.booleans(), st.integers(0, 3), st.sampled_from(Rank)), max_size=9)
)
def test_no_verdict_comes_by_hearsay(said):
    side = Side("a").meet("b", "c")
    before = (side.table.record, side.table.members())
    for name, left, inc, rank in said:
        side.hear("b", Digest("0", "0", (DigestEntry(name, Record(LIFE + inc, left, inc, rank), 0, hearsay=True),)))
        assert (side.table.record, side.table.members()) == before


@covers("GOSSIP-9", "GOSSIP-75")
@given(
    st.lists(st.tuples(st.sampled_from([b"a", b"b", b"c"]), st.booleans()), max_size=30),
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 40)), max_size=6),
)
def test_collecting_changes_nothing_that_can_be_seen(writes, collections):
    plain, collected = Side("a"), Side("a")
    for index, (key, put) in enumerate(writes):
        for side in (plain, collected):
            side.table.own.put(key, b"%d" % index) if put else side.table.own.delete(key)
        for at, version in collections:
            if at == index:
                collected.table.own.collect(version)
        assert collected.table.own.live() == plain.table.own.live()
        assert collected.table.summary() == plain.table.summary()
        assert collected.table.own.floor <= collected.table.own.applied == plain.table.own.applied
