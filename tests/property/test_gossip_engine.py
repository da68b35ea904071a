"""A whole member under whatever it hears: bounded, within its limits, and true to what it says of itself."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from pico.protocol.gossip import Delta, Digest, DigestEntry, Entry, Rank, Record, Records
from pico.protocol.gossip.table import EVERYBODY, NOBODY
from pico.protocol.gossip.values import Ack, Message, Nack, Ping, PingRequest, Push, Pushed, Range, Summary
from tests.gossip_side import LIFE, Member, at, introduce, take_datagram, talk, turn_after
from tests.rules import covers

few = st.sampled_from("abcdef")
lives = st.integers(LIFE, LIFE + 2)
ranks = st.sampled_from(Rank)
known = st.builds(Record, lives, st.booleans(), st.integers(0, 3), ranks)
sequences = st.integers(0, 20)
ranges = st.sampled_from([EVERYBODY, NOBODY, Range("a", "d"), Range("c", "")])


@st.composite
def deltas(draw: st.DrawFn) -> Delta:
    start, count = draw(st.integers(0, 3)), draw(st.integers(1, 3))
    entries = tuple(
        Entry(start + one, b"k%d" % one, b"v" * draw(st.sampled_from([0, 9, 500]))) for one in range(1, 1 + count)
    )
    return Delta(draw(few), draw(lives), start, 0, entries)


@st.composite
def digests(draw: st.DrawFn) -> Digest:
    named = draw(st.dictionaries(few, st.tuples(known, st.integers(0, 5), st.booleans()), max_size=5))
    return Digest(*draw(ranges), tuple(DigestEntry(name, *named[name]) for name in sorted(named)))


@st.composite
def rumours(draw: st.DrawFn) -> Records:
    named = draw(st.dictionaries(few, known, max_size=5))
    return Records(
        tuple(named.items()), frozenset(draw(st.sets(st.sampled_from(sorted(named))))) if named else frozenset()
    )


messages: st.SearchStrategy[Message] = st.one_of(
    rumours(),
    digests(),
    deltas(),
    st.builds(Summary, st.lists(st.tuples(ranges, st.integers(0, 9)), max_size=3).map(tuple)),
    st.builds(Ping, sequences, few),
    st.builds(Ack, sequences, few, lives),
    st.builds(PingRequest, sequences, few, few.map(at)),
    st.builds(Nack, sequences),
    st.builds(Push, sequences, ranges, deltas()),
    st.builds(Pushed, sequences, lives, st.integers(0, 9)),
)
inputs = st.lists(
    st.one_of(
        st.tuples(st.sampled_from("abcdef"), lives, st.lists(messages, max_size=6)),
        st.sampled_from([0.005, 0.1, 0.6, 2.0, 13.0, 700.0]),
        st.sampled_from(["put", "delete", "failed", "unsent", "exchange", "seeds", "stall"]),
    ),
    max_size=25,
)


@covers("GOSSIP-19", "GOSSIP-22", "GOSSIP-23", "GOSSIP-56", "GOSSIP-60", "GOSSIP-63", "GOSSIP-68", "GOSSIP-74")
@given(inputs, st.integers(0, 2**32))
def test_whatever_is_heard_a_member_stands_and_sends_only_what_it_may(script, seed):
    member = Member("a", seed=seed, probe_s=0.5, round_s=0.2, exchange_s=30.0)
    said: dict[bytes, bytes] = {}
    for number, one in enumerate(script):
        if isinstance(one, float):
            member.pass_time(one)
        elif isinstance(one, tuple):
            sender, life, heard = one
            member.hear(sender, *heard, life=life)
            assert len(member.engine._datagrams) <= 16 + 12 * (2 + len(heard)) * 5, "bounded work"
        elif one == "put":
            said[b"k%d" % (number % 3)] = b"v" * number * 7
            member.engine.put(b"k%d" % (number % 3), b"v" * number * 7, now=member.now)
        elif one == "delete":
            said.pop(b"k0", None)
            member.engine.delete(b"k0", now=member.now)
        elif one == "seeds":
            member.engine.set_seeds([at("s"), at("b")], now=member.now)
        elif one == "exchange":
            for body in turn_after(member.engine, member.engine.open_exchange(), now=member.now):
                assert len(body) <= 64 * 1024
        elif one == "stall":
            member.now += 5.0
        else:
            getattr(member.engine, one)("b", now=member.now)
        member.sent()  # each within the limit, and readable
        engine = member.engine
        assert engine.table.own.live() == said
        assert engine._live == sorted(name for name, record in engine.table.members().items() if not record.gone)
        assert set(engine.detector._records) == set(engine._live) >= set(engine._pusher._told)
        assert set(engine._records) == set(engine.table.members())
        assert set(engine._told) | set(engine._exchanged_at) <= set(engine._records)
        assert "a" not in engine._live and "a" not in engine._search.absent
        assert all(0 < count <= 4 for count in engine._rumours.values())


@covers("GOSSIP-72")
@given(inputs, inputs)
def test_who_has_left_stays_so_and_sleeps_in_the_end(before, after):
    member = Member("a", probe_s=0.5, round_s=0.2, exchange_s=30.0)
    for script in (before, after):
        for one in script:
            if isinstance(one, tuple):
                member.hear(one[0], *one[2], life=one[1])
            elif isinstance(one, float):
                member.pass_time(min(one, 2.0))
            elif one in ("put", "seeds"):
                member.engine.put(b"k", b"%d" % len(member.events), now=member.now)
        member.sent()
        if script is before:
            member.engine.leave(now=member.now)
            life = member.engine.table.own.life
    assert member.engine.table.record.left and member.engine.table.own.life == life
    member.pass_time(4.0)
    assert member.engine.left
    wakes = 0
    while (due := member.engine.next_timer()) < member.now + 500:
        member.engine.handle_timer(now=due)
        wakes += 1
        assert wakes < 40, "it does not come to rest"


@covers("GOSSIP-21", "GOSSIP-54", "GOSSIP-65", "GOSSIP-67")
@given(st.integers(2, 5), st.integers(0, 2**32), st.floats(0, 0.6))
def test_members_agree_in_the_end_whatever_is_lost(count, seed, loss):
    """With losses for a while, then without: what each says is with each other one, and nobody is dead."""
    rng = Random(seed)
    members = [Member(name, seed=seed + number, round_s=0.2) for number, name in enumerate("abcdef"[:count])]
    introduce(*members)
    by_address = {at(member.node_id): member for member in members}
    for step in range(80):
        now = step * 0.05
        if step < 40:
            rng.choice(members).engine.put(b"k%d" % rng.randrange(4), b"%d" % step, now=now)
        for member in members:
            member.pass_time(max(0.0, now - member.now))
        waiting = [(one, data) for one in members for data in one.engine.outgoing()]
        while waiting:
            source, datagram = waiting.pop(rng.randrange(len(waiting)))
            if step < 40 and rng.random() < loss:
                continue
            to = by_address[datagram.address]
            take_datagram(to.engine, datagram.data, at(source.node_id), now=to.now)
            waiting += [(to, data) for data in to.engine.outgoing()]
    talk(*members)
    for one in members:
        for other in members:
            assert one.engine.table.state_of(other.node_id).live() == other.engine.table.own.live()  # type: ignore[union-attr]
            assert one is other or one.record_of(other.node_id) == other.engine.table.record
