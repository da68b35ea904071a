"""One exchange over a stream: whose turn it is, when it is over, and what it brings (``spec/gossip.md``, Exchanges)."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from pico.config import GossipLimits
from pico.errors import RemoteProtocolError
from pico.protocol.gossip import Delta, Digest, Entry, ForeignCluster, PacketCodec, Record, Records, Snapshot
from pico.protocol.gossip.engine import STREAM_BODIES_MAX, STREAM_BODY_BYTES_MAX, GossipEngine
from pico.protocol.gossip.exchange import TURNS_MAX, Exchange
from pico.protocol.gossip.packets import PacketBuilder
from pico.protocol.gossip.table import EVERYBODY
from pico.protocol.gossip.values import CARD, Ping, Summary
from pico.protocol.gossip.wire import MessageType, encode_message
from tests.gossip_side import LIFE, Member, card, introduce, turn_after
from tests.rules import covers

FOREIGN = PacketCodec("test", "b", GossipLimits()).encode_body(1, [])


def converse(opener: Member, answerer: Member) -> list[list[bytes]]:
    """A whole exchange as its drivers hold it; the turns, the last one too."""
    sides = [Exchange(answerer.engine), Exchange(opener.engine)]
    turns = [sides[1].open()]
    while turns[-1]:
        side = sides[0] if len(turns) % 2 else sides[1]
        for body in turns[-1]:
            side.receive_body(body, now=0.0)
        turns.append(side.end_turn())
        assert side.over == (not turns[-1])
    last = sides[len(turns) % 2 == 0]
    assert last.end_turn() == [] and last.over
    assert len(turns) <= TURNS_MAX
    return turns


class Talkative(GossipEngine):
    """One that always has something to say."""

    def __init__(self) -> None:
        self.nodes_max = 3
        self.asked = 0

    def open_exchange(self) -> list[bytes]:
        return [b"hello"]

    def answer_builder(self) -> PacketBuilder:
        self.asked += 1
        return SimpleNamespace(packets=lambda: [b"and"])  # type: ignore[return-value]

    def receive_body(self, body: bytes, answer: PacketBuilder, *, now: float) -> None:
        pass


def live(member: Member, node_id: str) -> dict[bytes, bytes] | None:
    state = member.engine.table.state_of(node_id)
    return None if state is None else state.live()


@covers("GOSSIP-71")
class TestTurns:
    def test_two_that_agree_have_two(self) -> None:
        a, b = Member("a"), Member("b")
        introduce(a, b)
        first, last = converse(a, b)
        assert len(first) == 1 and last == []
        [digest] = a.codec.decode_body(first[0]).messages
        assert isinstance(digest, Digest) and [entry.node_id for entry in digest.entries] == ["a", "b"]

    def test_two_strangers_know_all_of_each_other_after_one(self) -> None:
        a, b = Member("a"), Member("b")
        for member in (a, b):
            for number in range(300):
                member.engine.put(b"%03d" % number, member.node_id.encode() * 200, now=0.0)
        turns = converse(a, b)
        assert live(a, "b") == b.engine.table.own.live() and live(b, "a") == a.engine.table.own.live()
        assert a.engine.table.verified("b") and b.engine.table.verified("a")
        assert len(turns) == 4 and turns[-1] == []
        assert all(len(body) <= 64 * 1024 for turn in turns for body in turn)

    def test_one_that_does_not_want_to_end_is_ended(self) -> None:
        one, other = Talkative(), Talkative()
        sides = [Exchange(other), Exchange(one)]
        turn, turns = sides[1].open(), 1
        while turn:
            side = sides[0] if turns % 2 else sides[1]
            for body in turn:
                side.receive_body(body, now=0.0)
            turn = side.end_turn()
            turns += 1
        assert turns == TURNS_MAX and one.asked + other.asked == TURNS_MAX - 1

    def test_it_is_over_when_a_turn_without_bodies_was_taken(self) -> None:
        side = Exchange(Talkative())
        side.open()
        assert not side.over
        side.end_turn()
        assert side.over

    def test_nothing_follows_the_last(self) -> None:
        side = Exchange(Talkative())
        side.end_turn()
        with pytest.raises(RemoteProtocolError):
            side.receive_body(b"and", now=0.0)

    @pytest.mark.parametrize("beside", [(), (MessageType.SNAPSHOT, MessageType.SUMMARY), (MessageType.SUMMARY,)])
    def test_only_a_snapshot_is_larger_than_other_bodies(self, beside: tuple[MessageType, ...]) -> None:
        a, b = Member("a"), Member("b")
        snapshot = encode_message(Snapshot("b", LIFE, 0, tuple(Entry(n, b"%d" % n, b"v" * 400) for n in range(1, 200))))
        summary = encode_message(Summary(((EVERYBODY, 7),) * 10_000))
        said = {MessageType.SNAPSHOT: snapshot, MessageType.SUMMARY: summary}
        body = b.codec.encode_body(LIFE, [said[type_] for type_ in beside] or [snapshot])
        assert len(body) > STREAM_BODY_BYTES_MAX
        side = Exchange(a.engine)
        if beside:
            with pytest.raises(RemoteProtocolError, match="no snapshot"):
                side.receive_body(body, now=0.0)
            assert a.record_of("b") is None and a.engine.snapshot().violations == {"malformed": 1}
        else:
            side.receive_body(body, now=0.0)
            assert len(live(a, "b") or ()) == 199

    def test_one_turn_has_so_many_bodies(self) -> None:
        side = Exchange(Talkative())
        for _ in range(STREAM_BODIES_MAX + 3 + 1):
            side.receive_body(b"x", now=0.0)
        with pytest.raises(RemoteProtocolError):
            side.receive_body(b"x", now=0.0)


@covers("GOSSIP-71", "GOSSIP-23")
def test_an_answer_has_no_more_bodies_than_may_be_received() -> None:
    a, b = Member("a"), Member("b")
    names = [f"n{number:02}" for number in range(20)]
    for name in names:
        a.hear(name)
        state = a.engine.table.state_of(name)
        assert state is not None
        state.floor = state.applied = 5  # all are to be told by a snapshot, each in a body of its own
    for number in range(20):
        a.engine.put(b"%d" % number, b"v" * 500, now=0.0)
    builder = a.engine.table.builder(packets_max=4, stream_bytes_max=1_200)
    reply = a.engine.table.learn(b.codec.decode_body(b.engine.open_exchange()[0]), now=0.0)
    assert a.engine.table.answer(reply, builder) == []
    assert len(builder.packets()) <= 4 + len(names) + 1


@covers("GOSSIP-22", "GOSSIP-13")
def test_what_fits_no_datagram_comes_whole() -> None:
    a, b = Member("a"), Member("b")
    for number in range(200):
        a.engine.put(b"%03d" % number, b"v" * 500, now=0.0)
    a.engine.delete(b"000", now=0.0)
    a.engine.table.own.compact(201)
    turns = converse(b, a)
    assert any(
        isinstance(message, Snapshot) and message.node_id == "a"
        for body in turns[1]
        for message in a.codec.decode_body(body).messages
    )
    assert live(b, "a") == a.engine.table.own.live()


@covers("GOSSIP-71", "GOSSIP-27", "GOSSIP-30")
@pytest.mark.parametrize(
    "body, kind, counted",
    [
        (b"nonsense", RemoteProtocolError, "malformed"),
        (FOREIGN, ForeignCluster, "cluster"),
    ],
)
def test_what_cannot_be_read_ends_it_and_what_was_read_before_counts(
    body: bytes, kind: type[RemoteProtocolError], counted: str
) -> None:
    a, b = Member("a").meet("z"), Member("b")
    b.engine.put(b"x", b"1", now=0.0)
    said = list(
        map(encode_message, (Records((("y", Record(LIFE)),)), Delta("y", LIFE, 0, 0, (Entry(1, CARD, card("y")),))))
    )
    side = Exchange(a.engine)
    for one in (*b.engine.open_exchange(), b.codec.encode_body(LIFE, said)):
        side.receive_body(one, now=0.0)
    with pytest.raises(RemoteProtocolError) as caught:
        side.receive_body(body, now=0.0)
    assert type(caught.value) is kind
    assert a.engine.snapshot().violations == {counted: 1}
    assert a.engine.table.verified("b") and "b" in a.engine._live
    [(to, ping)] = [(to, said) for to, said in a.said() if isinstance(said, Ping)]
    assert to == ping.node_id == "y", "it is followed up"


@covers("GOSSIP-71")
def test_what_changed_meanwhile_is_told_at_the_next() -> None:
    a, b = Member("a"), Member("b")
    introduce(a, b)
    side = Exchange(b.engine)
    opened = Exchange(a.engine).open()
    b.engine.put(b"late", b"1", now=0.0)
    for body in opened:
        side.receive_body(body, now=0.0)
    for body in side.end_turn():
        turn_after(a.engine, [body], now=0.0)
    assert live(a, "b") == b.engine.table.own.live()
    assert b.engine.table.own.life == LIFE
