"""One member: what it says when, and what it makes of what it hears (``spec/gossip.md``)."""

from __future__ import annotations

from itertools import pairwise

import pytest

from pico.config import GossipLimits, GossipTimers
from pico.protocol.gossip import Delta, Digest, DigestEntry, Entry, PacketCodec, Rank, Record, Records
from pico.protocol.gossip.events import Contested, ExchangeWanted, NodeChanged
from pico.protocol.gossip.helping import HELPED_MAX
from pico.protocol.gossip.probing import Verdict
from pico.protocol.gossip.pushing import SendPush
from pico.protocol.gossip.table import EVERYBODY, NOBODY
from pico.protocol.gossip.values import CARD, Ack, Nack, Ping, PingRequest, Push, Pushed, Range, Summary
from pico.protocol.gossip.wire import encode_message
from tests.gossip_side import LIFE, Member, at, card, introduce, take_datagram, talk, turn_after
from tests.rules import covers

ALIVE = Record(LIFE)
SUSPECT = Record(LIFE, rank=Rank.SUSPECT)
DEAD = Record(LIFE, rank=Rank.DEAD)
LEFT = Record(LIFE, left=True)
NEWER = Record(LIFE + (1 << 22))


def delta(node_id: str, *values: bytes, key: bytes = b"k%d", start: int = 0, life: int = LIFE) -> Delta:
    entries = (Entry(start + count, key % count, value) for count, value in enumerate(values, 1))
    return Delta(node_id, life, start, 0, tuple(entries))


def card_of(node_id: str, life: int = LIFE) -> Delta:
    return Delta(node_id, life, 0, 0, (Entry(1, CARD, card(node_id)),))


def records(node_id: str, record: Record, *, witnessed: bool = False) -> Records:
    return Records(((node_id, record),), frozenset({node_id} if witnessed else ()))


def wanted(member: Member) -> list[ExchangeWanted]:
    member.sent()
    events, member.events = member.events, []
    return [event for event in events if isinstance(event, ExchangeWanted)]


def changed(member: Member) -> list[str]:
    member.sent()
    events, member.events = member.events, []
    return [event.node_id for event in events if isinstance(event, NodeChanged)]


@covers("GOSSIP-51")
class TestFirstHand:
    def test_whoever_speaks_is_known_and_asked_for_more(self) -> None:
        member = Member("a")
        member.hear("b")
        assert member.record_of("b") == ALIVE and member.engine.table.verified("b")
        assert member.engine.address_of("b") == at("b")
        assert ("b", Digest(*NOBODY, (DigestEntry("b", ALIVE, 0),))) in member.said()

    def test_its_card_says_better_where_it_is(self) -> None:
        member = Member("a")
        member.hear("b", card_of("b"), source=("10.9.9.9", 1))
        assert member.engine.address_of("b") == at("b")
        member.hear("c", source=("10.9.9.9", 1))
        assert member.engine.address_of("c") == ("10.9.9.9", 1)
        member.hear("c", source=("10.9.9.9", 2))
        assert member.engine.address_of("c") == ("10.9.9.9", 2)
        assert member.engine.address_of("d") is None
        turn_after(member.engine, [PacketCodec("prod", "c", GossipLimits()).encode_body(LIFE, [])], now=0.0)
        assert member.engine.address_of("c") == ("10.9.9.9", 2), "a stream does not say where datagrams go"

    def test_a_card_that_says_nothing_is_no_address(self) -> None:
        member = Member("a")
        for number, value in enumerate((b"nothing", None), 1):
            member.hear("c", Delta("b", LIFE, number - 1, 0, (Entry(number, CARD, value),)))
            assert member.engine.address_of("b") is None

    def test_a_life_that_is_over_is_no_evidence(self) -> None:
        member = Member("a").meet("b")
        member.hear("b", life=NEWER.life)
        member.hear("b", source=("10.9.9.9", 1))
        assert member.record_of("b") == NEWER and member.engine.address_of("b") == at("b")


@covers("GOSSIP-50")
def test_a_push_is_the_delta_that_it_holds() -> None:
    member = Member("a").meet("b")
    member.hear("b", Push(1, NOBODY, delta("b", b"1", b"2")))
    state = member.engine.table.state_of("b")
    assert state is not None and state.applied == 2
    assert next(event for event in member.engine.events() if isinstance(event, NodeChanged)).entries == (
        Entry(1, b"k1", b"1"),
        Entry(2, b"k2", b"2"),
    )
    member.hear("b", Push(2, NOBODY, delta("b", b"4", start=3)))
    assert member.said()[-1] == ("b", Pushed(2, LIFE, 2)), "its owner sees that it came too early"
    member.meet("c").hear("c", Push(3, NOBODY, delta("b", b"4", start=3)))
    assert ("c", Digest(*NOBODY, (DigestEntry("b", ALIVE, 2),))) in member.said(), "who passes it on is asked"


@covers("GOSSIP-53")
class TestHearsay:
    def heard(self, record: Record = ALIVE) -> Member:
        """A member that has heard of x from b, with its card."""
        member = Member("a").meet("b", "c")
        member.hear("b", records("x", record))
        return member

    def test_who_hears_of_a_node_asks_who_spoke_of_it(self) -> None:
        member = self.heard()
        assert member.said() == [("b", Digest(*NOBODY, (DigestEntry("x", ALIVE, 0, hearsay=True),)))]
        assert not member.engine.table.verified("x")

    def test_it_is_probed_as_soon_as_it_is_known_where_it_is(self) -> None:
        member = self.heard()
        member.sent()
        member.hear("b", card_of("x"))
        [(to, ping)] = member.said()
        assert to == "x" and isinstance(ping, Ping) and ping.node_id == "x"

    def test_it_is_true_when_the_node_answers_itself_or_through_a_helper(self) -> None:
        for sender in "xc":
            member = self.heard()
            member.hear("b", card_of("x"))
            [ping] = [said for _, said in member.said() if isinstance(said, Ping)]
            member.hear(sender, Ack(ping.sequence, "x", LIFE))
            assert member.engine.table.verified("x") and "x" in changed(member)

    def test_an_answer_of_another_life_makes_nothing_true(self) -> None:
        member = self.heard()
        member.hear("b", card_of("x"))
        [ping] = [said for _, said in member.said() if isinstance(said, Ping)]
        member.hear("c", Ack(ping.sequence, "x", LIFE - 1))
        assert not member.engine.table.verified("x")

    def test_it_is_not_told_on_and_not_taken_from_a_digest(self) -> None:
        member = self.heard()
        member.hear("b", card_of("x"))
        member.sent()
        member.hear("c", Digest("w", "y", ()))
        assert member.sent() == [] and "x" not in member.engine._rumours
        member.hear("c", Digest("", "", (DigestEntry("y", ALIVE, 1, hearsay=True),)))
        assert member.record_of("y") is None

    def test_it_is_told_on_when_it_is_true(self) -> None:
        member = self.heard()
        member.hear("x")
        assert member.engine._rumours["x"] > 0
        member.sent()
        member.hear("c", Digest("w", "y", ()))
        assert records("x", ALIVE) in [said for _, said in member.said()]

    def test_hearsay_of_less_than_is_known_is_corrected(self) -> None:
        member = self.heard()
        member.hear("x", records("x", DEAD))
        member.sent()
        member.hear("c", Digest(*NOBODY, (DigestEntry("x", ALIVE, 0, hearsay=True),)))
        assert ("c", records("x", DEAD)) in member.said()

    def test_a_new_life_is_hearsay_again_and_so_are_rumours_of_it(self) -> None:
        member = Member("a").meet("b", "c")
        member.hear("b", records("b", SUSPECT._replace(inc=3)))
        assert "b" in member.engine._rumours
        member.hear("c", records("b", NEWER))
        assert not member.engine.table.verified("b")
        member.sent()
        member.hear("c", Ping(1, "a"))
        assert member.said() == [("c", Ack(1, "a", LIFE))]
        assert "b" not in member.engine._rumours

    def test_a_suspicion_of_it_is_not_told_on_but_a_verdict_is(self) -> None:
        member = Member("a", probe_s=0.5).meet("b", "c")
        member.hear("b", records("x", ALIVE), card_of("x"))
        said = []
        for _ in range(2_000):
            member.pass_time(0.05)
            for to, message in member.said():
                if isinstance(message, Ping) and message.node_id != "x":
                    member.hear(message.node_id, Ack(message.sequence, message.node_id, LIFE))
                if isinstance(message, Records) and to != "x":
                    said += [record.rank for node_id, record in message.records if node_id == "x"]
        assert member.record_of("x") == DEAD and set(said) == {Rank.DEAD}

    def test_a_node_of_which_nobody_knows_where_it_is_does_not_stay(self) -> None:
        member = Member("a", probe_s=0.5).meet("b", "c")
        member.hear("b", records("x", ALIVE))
        for _ in range(400):
            member.pass_time(0.05)
            for _, message in member.said():
                assert not (isinstance(message, Ping) and message.node_id == "x")
                if isinstance(message, Ping):
                    member.hear(message.node_id, Ack(message.sequence, message.node_id, LIFE))
        assert member.record_of("x") == DEAD

    @covers("GOSSIP-73")
    def test_that_nobody_could_ask_it_says_nothing_about_us(self) -> None:
        member = Member("a", probe_s=0.5).meet("b", "c")
        member.engine.detector._next_round = 1e9
        member.hear("b", records("x", ALIVE))
        member.engine.failed("x", now=0.0)
        member.pass_time(0.6)
        assert member.record_of("x") == SUSPECT and member.engine.detector.health == 0


@covers("GOSSIP-54")
class TestSummaries:
    def hash_of(self, member: Member, range_: Range = EVERYBODY) -> Summary:
        return Summary(((range_, member.engine.table.summary(range_)),))

    def test_who_agrees_is_not_answered(self) -> None:
        member = Member("a").meet("b", "c")
        member.hear("b", self.hash_of(member))
        assert member.sent() == []

    def test_of_few_nodes_that_differ_a_digest_is_told(self) -> None:
        member = Member("a").meet("b", "c")
        member.hear("b", Summary(((EVERYBODY, 1),)))
        [(_, digest)] = member.said()
        assert digest == Digest("", "", tuple(DigestEntry(name, ALIVE, 0) for name in "abc"))

    def test_of_many_that_differ_the_hashes_of_parts_are_told(self) -> None:
        member = Member("a").meet(*(f"n{number:02}" for number in range(40)))
        member.hear("n00", Summary(((EVERYBODY, 1),)))
        [(_, summary)] = member.said()
        assert isinstance(summary, Summary) and len(summary.parts) == 16
        ranges = [range_ for range_, _ in summary.parts]
        assert [ranges[0].above, *(range_.upto for range_ in ranges)] == [*(range_.above for range_ in ranges), ""]
        assert all(hash_ == member.engine.table.summary(range_) for range_, hash_ in summary.parts)

    def test_of_one_packet_so_many_ranges_are_looked_at(self) -> None:
        member = Member("a").meet("b")
        member.hear("b", Summary(((EVERYBODY, 1),) * 100), Summary(((EVERYBODY, 1),) * 100))
        digests = [said for _, said in member.said() if isinstance(said, Digest) and not said.above]
        assert len(digests) == 128, "but for those that packets have cut"

    def test_the_gone_and_hearsay_do_not_count(self) -> None:
        one, other = Member("a").meet("b", "c"), Member("a").meet("b")
        one.hear("b", records("c", LEFT))
        assert one.engine.table.summary() == other.engine.table.summary()
        one.hear("b", records("x", ALIVE))
        other.hear("x")
        assert one.engine.table.summary() == other.engine.table.summary()
        other.hear("x", records("x", SUSPECT))
        assert one.engine.table.summary() != other.engine.table.summary()

    def test_who_agrees_has_all_of_ours(self) -> None:
        member = Member("a").meet("b")
        member.engine.put(b"x", b"1", now=0.0)
        member.hear("b", self.hash_of(member, Range("a", "")))
        assert member.engine._pusher.acknowledged(["b"]) == 0
        member.hear("b", self.hash_of(member))
        assert member.engine._pusher.acknowledged(["b"]) == 1


@covers("GOSSIP-55")
@pytest.mark.parametrize("record, life", [(SUSPECT, LIFE), (DEAD, LIFE), (LEFT, LIFE), (NEWER, LIFE)])
def test_whoever_speaks_is_told_what_is_wrong_with_it(record: Record, life: int) -> None:
    member = Member("a").meet("b", "c")
    member.hear("c", records("b", record))
    member.sent()
    member.engine._rumours.clear()
    member.hear("b", life=life)
    assert records("b", record) in [said for to, said in member.said() if to == "b"]


@covers("GOSSIP-55")
def test_two_that_leave_at_once_do_not_tell_each_other_for_ever() -> None:
    a, b = Member("a"), Member("b")
    introduce(a, b)
    for member in (a, b):
        member.engine.leave(now=0.0)
    assert talk(a, b) < 10
    assert a.record_of("b") == b.record_of("a") == LEFT


@covers("GOSSIP-55", "GOSSIP-46")
def test_so_is_who_was_forgotten() -> None:
    member = Member("a").meet("b", "c")
    member.hear("c", records("b", DEAD))
    member.pass_time(601)
    assert member.engine.table.member("b") is None
    member.sent()
    member.hear("b")
    assert member.said() == [("b", records("b", DEAD))]


@covers("GOSSIP-56")
class TestRumours:
    def test_go_with_whatever_is_sent_so_often_and_no_more(self) -> None:
        member = Member("a").meet(*"bcdefghi")
        member.hear("b", records("c", ALIVE._replace(inc=2)))
        member.sent()
        told = 0
        for number in range(20):
            member.hear("d", Ping(number, "a"))
            told += records("c", ALIVE._replace(inc=2)) in [said for _, said in member.said()]
        assert told == 4 and not member.engine._rumours

    def test_are_told_more_often_when_there_are_more_to_tell(self) -> None:
        member = Member("a").meet(*(f"n{number:03}" for number in range(99)))
        member.hear("n000", records("n001", ALIVE._replace(inc=1)))
        assert member.engine._rumours["n001"] == 12

    def test_that_were_told_least_are_told_first_and_not_too_many_at_once(self) -> None:
        names = [f"n{number:02}" for number in range(20)]
        member = Member("a").meet(*names)
        for name in names:
            member.hear(name, records(name, ALIVE._replace(inc=1)))
        member.sent()
        member.engine._rumours = {name: 5 - (number < 10) for number, name in enumerate(names)}
        member.hear("n00", Ping(1, "a"))
        told = [node_id for _, said in member.said() if isinstance(said, Records) for node_id, _ in said.records]
        assert len(told) == 8 and set(told) <= set(names[10:])

    def test_that_do_not_fit_wait(self) -> None:
        member = Member("a").meet("b", "n" * 64)
        member.hear("n" * 64, records("n" * 64, ALIVE._replace(inc=1)))
        before = member.engine._rumours["n" * 64]
        builder = member.engine.table.builder(packets_max=1)
        builder.say(delta("b", b"v" * 500, b"v" * 500))
        builder.say(Summary(((Range("n" * 40, "n" * 40), 1),)))
        assert builder.spare_bytes < 70
        member.sent()
        member.engine._send_all(builder, at("b"), "b")
        assert member.engine._rumours["n" * 64] == before and len(member.said()) == 2

    def test_end_with_who_they_are_about(self) -> None:
        member = Member("a").meet("b")
        member.engine._rumours["nobody"] = 3
        member.hear("b", Ping(1, "a"))
        assert member.engine._rumours == {}

    def test_a_contradiction_is_told_at_once_to_all(self) -> None:
        member = Member("a").meet("b", "c", "d")
        member.hear("b", records("a", SUSPECT))
        assert member.record_of("a") == ALIVE._replace(inc=1)
        assert {to for to, said in member.said() if said == records("a", ALIVE._replace(inc=1))} == set("bcd")
        assert member.engine.detector.health == 1

    def test_of_many_some_are_told_at_once(self) -> None:
        member = Member("a").meet(*(f"n{number:02}" for number in range(40)))
        member.hear("n00", records("a", SUSPECT))
        assert len({address for address, _ in member.sent()} - {at("n00")}) in (3, 4)

    def test_the_rank_of_another_is_told_at_once_to_some_when_there_are_many(self) -> None:
        for others, at_once in ((10, 0), (40, 4)):
            member = Member("a").meet(*(f"n{number:02}" for number in range(others)))
            member.hear("n00", records("n01", DEAD))
            assert len([said for _, said in member.said() if said == records("n01", DEAD)]) == at_once

    def test_ones_own_verdict_is_told_at_once_to_some_once(self) -> None:
        names = [f"n{number:02}" for number in range(40)]
        member = Member("a").meet(*names)
        member.engine._judge(Verdict("n01", ALIVE, Rank.SUSPECT))
        told = member.sent()
        assert len(told) in (3, 4)
        assert all(said == [records("n01", SUSPECT, witnessed=True)] for _, said in told)


class TestProbes:
    @covers("GOSSIP-57", "GOSSIP-62")
    def test_who_hears_of_a_suspicion_asks_the_suspect_at_once_and_says_why(self) -> None:
        member = Member("a").meet("b", "c")
        member.hear("c", records("b", SUSPECT, witnessed=True))
        assert [said for to, said in member.said() if to == "b"][1:] == [records("b", SUSPECT)]
        member.hear("c", records("b", SUSPECT))
        assert member.sent() == [], "it is being asked"

    @covers("GOSSIP-57")
    def test_who_is_not_suspected_is_only_asked(self) -> None:
        member = Member("a").meet("b")
        member.engine.failed("b", now=0.0)
        [(to, ping)] = member.said()
        assert to == "b" and isinstance(ping, Ping)

    @covers("GOSSIP-58")
    def test_a_ping_is_answered_by_the_process_of_that_name_before_anything_else(self) -> None:
        member = Member("a").meet("b")
        member.hear("b", records("b", SUSPECT), Summary(((EVERYBODY, 1),)), Ping(5, "a"), Ping(6, "c"))
        assert member.said()[0] == ("b", Ack(5, "a", LIFE))
        member.hear("b", Ping(6, "c"))
        assert not [said for _, said in member.said() if isinstance(said, Ack)]

    @covers("GOSSIP-58")
    def test_it_can_be_answered_without_looking_at_anything_else(self) -> None:
        member = Member("a").meet("b")
        writer = PacketCodec("prod", "b", GossipLimits())
        for messages, acks in (([Ping(5, "a"), Ping(6, "a")], [5, 6]), ([Ping(5, "b")], None), ([], None)):
            packet = member.engine.decode(writer.encode(LIFE, list(map(encode_message, messages))))
            assert packet is not None
            answer = member.engine.quick_answer(packet)
            if acks is None:
                assert answer is None
            else:
                assert answer is not None
                assert member.codec.decode(answer).messages == tuple(Ack(number, "a", LIFE) for number in acks)
                member.engine.receive_packet(packet, at("b"), now=0.0, acked=True)
                assert member.sent() == [], "not twice"
                assert member.engine.quick_answer(packet._replace(sender="a")) is None

    @covers("GOSSIP-58")
    def test_our_own_packet_that_comes_back_is_not_answered(self) -> None:
        member = Member("a").meet("b")
        member.hear("a", Ping(5, "a"), records("b", SUSPECT, witnessed=True))
        assert member.sent() == [] and member.record_of("b") == ALIVE

    @covers("GOSSIP-59")
    def test_a_ping_that_could_not_be_sent_is_missed(self) -> None:
        member = Member("a").meet("b", "c")
        member.engine.failed("b", now=0.0)
        member.sent()
        member.engine.unsent("b", now=0.0)
        member.pass_time(0)
        assert [(to, type(said)) for to, said in member.said()] == [("c", PingRequest)]
        assert [event.node_id for event in wanted(member)] == ["b"]

    @covers("GOSSIP-61", "GOSSIP-57")
    def test_from_a_ping_to_a_verdict(self) -> None:
        member = Member("a", probe_s=0.5, suspicion_factor=1.0)
        member.engine.detector._next_round = 1e9
        member.meet("b", "c", "d")
        member.engine.failed("b", now=0.0)
        [(_, ping)] = member.said()
        assert isinstance(ping, Ping)
        member.pass_time(0.2)
        assert {(to, said) for to, said in member.said()} == {
            (helper, PingRequest(ping.sequence, "b", at("b"))) for helper in "cd"
        }
        assert wanted(member) == [ExchangeWanted(at("b"), "b", ping.sequence)]
        member.hear("c", Nack(ping.sequence))
        member.hear("d", Nack(ping.sequence))
        member.pass_time(0.3)
        said = member.said()
        assert {to for to, one in said if one == records("b", SUSPECT, witnessed=True)} == {"b", "c", "d"}
        assert member.record_of("b") == SUSPECT and "b" in changed(member)
        member.hear("c", records("b", SUSPECT, witnessed=True))
        member.hear("d", records("b", SUSPECT, witnessed=True))
        member.pass_time(0.49)
        assert member.record_of("b") == SUSPECT
        member.sent()
        member.pass_time(0.02)
        assert member.record_of("b") == DEAD
        assert [to for to, one in member.said() if one == records("b", DEAD) and to != "b"] == ["c", "d"]

    def test_an_answer_is_news_only_of_a_node_that_has_not_answered(self) -> None:
        member = Member("a", probe_s=0.5).meet("b", "c")
        member.engine.detector._next_round = 1e9
        for silent, news in ((False, []), (True, ["b"]), (False, [])):
            member.engine.failed("b", now=member.now)
            if silent:
                member.pass_time(0.6)  # and it is asked again by the one that suspects it
            ping = [said for to, said in member.said() if to == "b" and isinstance(said, Ping)][-1]
            member.events.clear()
            member.hear("b", Ack(ping.sequence, "b", LIFE))
            assert changed(member) == news

    @covers("GOSSIP-64")
    def test_who_brings_the_suspicion_counts_as_its_witness(self) -> None:
        member = Member("a").meet("b", "c", "d", "e")
        member.hear("c", records("b", SUSPECT, witnessed=True))
        member.hear("d", records("b", SUSPECT))
        assert member.engine.detector._suspicions["b"].witnesses == {"c"}

    @covers("GOSSIP-61")
    def test_an_exchange_answers_the_probe_if_the_right_node_was_there(self) -> None:
        for node_id, answered in (("b", True), ("c", False), (None, False)):
            member = Member("a").meet("b", "c")
            member.engine.failed("b", now=0.0)
            member.pass_time(0.2)
            [event] = wanted(member)
            member.engine.exchange_ended(event, node_id, now=0.2)
            assert (not member.engine.detector._probes) == answered

    @covers("GOSSIP-55", "GOSSIP-64")
    def test_who_answers_late_hears_of_it_and_is_well_again(self) -> None:
        a, b = Member("a", probe_s=0.5), Member("b")
        introduce(a, b)
        a.engine.detector._next_round = 1e9
        a.engine.failed("b", now=0.0)
        late = a.engine.outgoing()
        a.pass_time(0.6)
        a.engine.outgoing()
        b.now = a.now
        for datagram in late:
            take_datagram(b.engine, datagram.data, at("a"), now=b.now)
        assert a.record_of("b") == SUSPECT
        talk(a, b)
        assert a.record_of("b") == ALIVE._replace(inc=1) == b.record_of("b")

    @covers("GOSSIP-65")
    def test_a_suspicion_is_not_heard_after_it_was_contradicted(self) -> None:
        member = Member("a").meet("b", "c")
        member.hear("b", records("b", ALIVE._replace(inc=1)))
        member.hear("c", records("b", SUSPECT, witnessed=True))
        assert member.record_of("b") == ALIVE._replace(inc=1)
        assert records("b", ALIVE._replace(inc=1)) in [said for to, said in member.said() if to == "c"]


@covers("GOSSIP-60")
class TestHelping:
    def request(self, member: Member, sequence: int = 9, node_id: str = "x") -> Ping | None:
        member.hear("b", PingRequest(sequence, node_id, at("x")))
        pings = [(to, said) for to, said in member.said() if isinstance(said, Ping)]
        if not pings:
            return None
        [(to, ping)] = pings
        assert to == "x" and ping.node_id == node_id and isinstance(ping, Ping)
        return ping

    def test_an_answer_is_passed_on(self) -> None:
        member = Member("a").meet("b", "c")
        ping = self.request(member)
        assert ping is not None
        member.hear("x", Ack(ping.sequence, "x", 77))
        assert ("b", Ack(9, "x", 77)) in member.said()
        member.hear("x", Ack(ping.sequence, "x", 77))
        assert Ack(9, "x", 77) not in [said for _, said in member.said()], "once"

    def test_without_an_answer_that_is_said(self) -> None:
        member = Member("a").meet("b")
        ping = self.request(member)
        assert ping is not None and member.engine.next_timer() <= 0.2
        member.pass_time(0.19)
        assert member.sent() == []
        member.pass_time(0.02)
        assert member.said() == [("b", Nack(9))]
        member.hear("x", Ack(ping.sequence, "x", 77))
        assert Ack(9, "x", 77) not in [said for _, said in member.said()], "too late"

    def test_an_answer_of_another_node_is_none(self) -> None:
        member = Member("a").meet("b", "c")
        ping = self.request(member)
        assert ping is not None
        member.hear("c", Ack(ping.sequence, "c", 77))
        member.pass_time(0.3)
        assert ("b", Nack(9)) in member.said()

    def test_we_do_not_ask_ourselves(self) -> None:
        assert self.request(Member("a").meet("b"), node_id="a") is None

    def test_there_is_an_end_to_it(self) -> None:
        member = Member("a").meet("b")
        for sequence in range(HELPED_MAX):
            assert self.request(member, sequence) is not None
        assert self.request(member, 5_000) is None

    def test_a_helper_that_has_no_answer_either_is_counted(self) -> None:
        member = Member("a").meet("b", "c")
        member.engine.failed("b", now=0.0)
        member.pass_time(0.2)
        [request] = [said for _, said in member.said() if isinstance(said, PingRequest)]
        member.hear("c", Nack(request.sequence))
        assert next(iter(member.engine.detector._probes.values())).nacks_missing == 0


@covers("GOSSIP-63")
class TestPause:
    def test_a_process_that_did_not_run_blames_nobody(self) -> None:
        member = Member("a", probe_s=0.5, pause_s=1.0).meet("b", "c")
        member.engine.failed("b", now=0.0)
        member.now = 1.5
        member.engine.handle_timer(now=1.5)
        assert member.record_of("b") == ALIVE and member.engine.detector.health == 2

    def test_whatever_wakes_it(self) -> None:
        member = Member("a", probe_s=0.5).meet("b", "c")
        member.engine.failed("b", now=0.0)
        member.now = 1.5
        member.hear("c")
        member.engine.handle_timer(now=1.5)
        assert member.record_of("b") == ALIVE

    def test_a_process_that_had_nothing_to_do_was_not_paused(self) -> None:
        member = Member("a", probe_s=0.5, health_max=7)
        member.engine.detector.health = 7
        member.engine.detector._next_round = 1e9
        member.pass_time(60)
        assert member.engine.detector.health == 7 and member.engine.detector._quiet_until == 0.0

    def test_a_process_that_was_a_little_late_does(self) -> None:
        member = Member("a", probe_s=0.5).meet("b", "c")
        member.engine.failed("b", now=0.0)
        for now in (0.9, 1.8):
            member.engine.handle_timer(now=now)
        assert member.record_of("b") == SUSPECT


@covers("GOSSIP-65")
def test_rounds_compare_with_each_of_the_others_in_turn() -> None:
    member = Member("a", round_s=0.2, quiet_round_s=0.2).meet(*"bcdefg")
    asked: list[str] = []
    while len(asked) < 60:
        member.pass_time(0.05)
        for to, said in member.said():
            assert said == Summary(((EVERYBODY, member.engine.table.summary()),))
            asked.append(to)
    assert 60 * 0.18 < member.now < 60 * 0.23
    passes = [asked[start : start + 6] for start in range(0, 60, 6)]
    assert all(sorted(one) == list("bcdefg") for one in passes) and len(set(map(tuple, passes))) > 5
    member.hear("b", records("c", LEFT))
    member.pass_time(3)
    assert {to for to, said in member.said() if isinstance(said, Summary)} == set("bdefg")


@covers("GOSSIP-65")
def test_rounds_are_seldom_while_nothing_changes_and_begin_again_at_once() -> None:
    member = Member("a", round_s=0.2, quiet_round_s=1.0, busy_s=2.0).meet("b")

    def rounds(seconds: float) -> int:
        member.said()
        count = 0
        for _ in range(round(seconds / 0.05)):
            member.pass_time(0.05)
            count += sum(isinstance(said, Summary) for _, said in member.said())
        return count

    assert rounds(2) >= 8
    rounds(2)
    assert 4 <= rounds(5) <= 6
    member.engine.put(b"x", b"1", now=member.now)
    assert rounds(1) >= 4
    rounds(4)
    member.hear("b", Summary(((EVERYBODY, 1),)))
    assert rounds(1) >= 4, "somebody differs"


@covers("GOSSIP-65")
def test_a_round_without_others_says_nothing() -> None:
    member = Member("a", round_s=0.2)
    member.pass_time(3)
    assert member.sent() == []


class TestExchanges:
    @covers("GOSSIP-66")
    def test_there_is_one_from_time_to_time_with_one_of_the_others(self) -> None:
        member = Member("a", exchange_s=30.0).meet("b", "c")
        member.pass_time(300)
        assert {event.node_id for event in wanted(member)} == {"b", "c"}
        member = Member("a", exchange_s=30.0)
        member.pass_time(300)
        assert wanted(member) == []

    @covers("GOSSIP-66")
    def test_the_rarer_the_more_there_are(self) -> None:
        counts = []
        for others in (8, 128):
            member = Member("a", exchange_s=30.0).meet(*(f"n{number:03}" for number in range(others)))
            member.pass_time(900)
            counts.append(len(wanted(member)))
        assert 27 <= counts[0] <= 33 and 9 <= counts[1] <= 11

    @covers("GOSSIP-66", "GOSSIP-22")
    def test_what_fits_no_datagram_is_told_over_a_stream_not_again_and_again(self) -> None:
        member = Member("a").meet("b")
        for number in range(20):
            member.engine.put(b"%d" % number, b"v" * 500, now=0.0)
        member.engine.delete(b"0", now=0.0)
        member.engine.table.own.compact(99)
        asking = Digest(*NOBODY, (DigestEntry("a", ALIVE, 1),))
        member.hear("b", asking)
        member.hear("b", asking)
        assert wanted(member) == [ExchangeWanted(at("b"), "b", None)]
        member.pass_time(1.0)
        wanted(member)
        member.pass_time(1.0)
        member.hear("b", asking)
        assert wanted(member) == [ExchangeWanted(at("b"), "b", None)]

    @covers("GOSSIP-66", "GOSSIP-42")
    def test_not_with_who_is_gone(self) -> None:
        member = Member("a").meet("b", "c")
        member.hear("c", records("b", DEAD))
        wanted(member)
        member.engine._want_exchange("b")
        member.engine._want_exchange("nobody")
        assert wanted(member) == [] and not member.engine._exchanged_at

    @covers("GOSSIP-67", "GOSSIP-66")
    def test_who_does_not_answer_pushes_is_reached_by_one(self) -> None:
        member = Member("a").meet("b")
        member.engine.put(b"x", b"1", now=0.0)
        member.pass_time(0.4)
        assert [type(said) for _, said in member.said()] == [Push] * 3
        assert wanted(member) == [ExchangeWanted(at("b"), "b", None)]

    @covers("GOSSIP-13", "GOSSIP-66")
    def test_so_is_who_is_behind_the_floor(self) -> None:
        member = Member("a").meet("b")
        member.engine.put(b"x", b"1", now=0.0)
        member.engine.delete(b"x", now=0.0)
        member.engine.table.own.compact(2)
        member.engine.put(b"y", b"1", now=0.0)
        member.pass_time(0.01)
        assert member.said() == [] and wanted(member) == [ExchangeWanted(at("b"), "b", None)]

    @covers("GOSSIP-75")
    def test_deletions_that_all_have_are_collected_then(self) -> None:
        member = Member("a", exchange_s=30.0).meet("b", "c")
        member.engine.put(b"x", b"1", now=0.0)
        member.engine.delete(b"x", now=0.0)
        member.engine.put(b"y", b"1", now=0.0)
        own = member.engine.table.own
        for node_id in "bc":
            assert own.floor == 0
            member.hear(node_id, Digest(*NOBODY, (DigestEntry("a", ALIVE, 2),)))
            member.pass_time(34)
        assert own.floor == 2 and own.live() == {b"y": b"1"}
        member.hear("b", Digest(*NOBODY, (DigestEntry("a", ALIVE, 3),)))
        member.hear("c", Digest(*NOBODY, (DigestEntry("a", ALIVE, 3),)))
        member.pass_time(34)
        assert own.floor == 2, "there is nothing more to collect"


class TestPushes:
    @covers("GOSSIP-67")
    def test_a_change_is_with_the_others_at_once(self) -> None:
        a, b, c = Member("a"), Member("b"), Member("c")
        introduce(a, b, c)
        a.engine.put(b"e:web", b"1", now=0.0)
        a.pass_time(0.005)
        assert talk(a, b, c) == 4, "to each of two, and their answers"
        for other in (b, c):
            assert other.engine.table.state_of("a").live()[b"e:web"] == b"1"  # type: ignore[union-attr]
        a.engine.delete(b"e:web", now=a.now)
        a.engine.delete(b"never", now=a.now)
        a.pass_time(0.005)
        assert talk(a, b, c) == 4
        assert b"e:web" not in b.engine.table.state_of("a").live()  # type: ignore[union-attr]

    @covers("GOSSIP-67")
    def test_a_push_is_answered_with_what_its_receiver_has(self) -> None:
        member = Member("a").meet("b")
        for push, applied in (
            (Push(1, NOBODY, delta("b", b"1", b"2")), 2),
            (Push(2, NOBODY, delta("b", b"4", start=3)), 2),
            (Push(3, NOBODY, delta("b", b"1")), 2),
            (Push(4, NOBODY, delta("b", b"1", life=LIFE - 1)), 0),
        ):
            member.hear("b", push)
            assert ("b", Pushed(push.sequence, push.delta.life, applied)) in member.said()

    @covers("GOSSIP-67")
    def test_what_is_news_is_told_on_once(self) -> None:
        member = Member("m").meet(*"bcnop")
        push = Push(1, Range("", ""), delta("b", b"1"))
        member.hear("b", push)
        told = [(to, said.range, said.delta) for to, said in member.said() if isinstance(said, Push)]
        assert [(to, delta) for to, _, delta in told] == [(to, push.delta) for to in "cnop"]
        assert all(range_ == NOBODY for _, range_, _ in told)
        member.hear("b", push)
        assert [said for _, said in member.said() if isinstance(said, Push)] == [], "a repeat"

    @covers("GOSSIP-67")
    def test_what_the_teller_has_not_got_itself_it_does_not_tell_on(self) -> None:
        member = Member("m").meet(*"bcnop")
        member.hear("b", Push(1, Range("", ""), delta("b", b"9", start=8)))
        assert [said for _, said in member.said() if isinstance(said, Push)] == []

    @covers("GOSSIP-67")
    @pytest.mark.parametrize("count", [2, 33, 60])
    def test_everybody_hears_of_a_change_exactly_once(self, count: int) -> None:
        names = [f"n{number:02}" for number in range(count)]
        members = {name: Member(name, seed=number) for number, name in enumerate(names)}
        for name, member in members.items():
            member.meet(*(other for other in names if other != name))
        teller = members[names[count // 2]]
        teller.engine.put(b"x", b"1", now=0.0)
        teller.pass_time(0.005)
        waiting, pushed = [(teller, one) for one in teller.engine.outgoing()], 0
        by_address = {at(name): member for name, member in members.items()}
        while waiting:
            source, datagram = waiting.pop()
            to = by_address[datagram.address]
            packet = to.codec.decode(datagram.data)
            pushed += sum(isinstance(message, Push) for message in packet.messages)
            take_datagram(to.engine, datagram.data, at(source.node_id), now=0.0)
            waiting += [(to, one) for one in to.engine.outgoing()]
        assert pushed == count - 1
        for member in members.values():
            assert member.engine.table.state_of(teller.node_id).live() == {b"x": b"1"}  # type: ignore[union-attr]

    @covers("GOSSIP-68")
    def test_who_went_in_the_same_moment_is_told_nothing(self) -> None:
        member = Member("a").meet("b", "c")
        member.engine.put(b"x", b"1", now=0.0)
        member.hear("c", records("b", DEAD))
        member.sent()
        member.engine._obey_pusher(SendPush("b", "a", 0, NOBODY, 1, True))
        assert member.sent() == [] and "b" not in member.engine._pusher._told

    @covers("GOSSIP-68")
    def test_the_pusher_keeps_nothing_of_who_is_gone(self) -> None:
        member = Member("a").meet("b", "c")
        member.engine.put(b"x", b"1", now=0.0)
        member.pass_time(0.01)
        member.hear("c", records("b", DEAD))
        member.hear("b", Digest(*NOBODY, (DigestEntry("a", ALIVE, 1),)))
        member.hear("b", Pushed(1, LIFE, 1))
        member.pass_time(0.5)
        assert set(member.engine._pusher._told) == {"c"}

    @covers("GOSSIP-67", "GOSSIP-39")
    def test_a_new_life_is_told_at_once(self) -> None:
        a, b = Member("a"), Member("b")
        introduce(a, b)
        a.hear("b", records("a", NEWER))
        a.pass_time(0.005)
        talk(a, b)
        assert a.engine.table.own.life > NEWER.life
        assert b.engine.table.state_of("a").live() == a.engine.table.own.live()  # type: ignore[union-attr]

    @covers("GOSSIP-67")
    def test_another_process_of_a_node_is_told_from_the_beginning(self) -> None:
        member = Member("a").meet("b")
        member.engine.put(b"x", b"1", now=0.0)
        member.hear("b", Digest(*NOBODY, (DigestEntry("a", ALIVE, 1),)))
        member.hear("b", life=NEWER.life)
        assert member.engine._pusher.acknowledged(["b"]) == 0


@covers("GOSSIP-69")
class TestSeedsAndAbsent:
    def test_seeds_are_tried_for_ever_and_ever_more_rarely(self) -> None:
        member = Member("a")
        member.engine.set_seeds([at("s"), at("s"), at("t")], now=0.0)
        assert not member.engine.seeds_tried
        times: list[float] = []
        for _ in range(3_000):
            member.pass_time(0.02)
            for event in wanted(member):
                member.engine.exchange_ended(event, None, now=member.now)
                if event == ExchangeWanted(at("s"), "", None):
                    times.append(member.now)
        assert member.engine.seeds_tried and not member.engine.joined
        waits = [after - before for before, after in pairwise(times)]
        assert 0.07 < waits[0] < 0.15 and 3.7 < waits[-1] < 6.3 and len(times) < 25
        assert member.now - times[-1] < 6.3

    def test_not_while_who_is_there_is_known_to_live(self) -> None:
        member = Member("a").meet("b")
        member.engine.set_seeds([at("s")], now=0.0)
        member.pass_time(0.01)
        [event] = wanted(member)
        member.engine.exchange_ended(event, "b", now=0.0)
        member.pass_time(60)
        assert wanted(member) == []
        member.hear("c", records("b", DEAD))
        member.pass_time(6)
        assert ExchangeWanted(at("s"), "", None) in wanted(member)

    def test_not_when_it_is_this_node(self) -> None:
        member = Member("a").meet("b")
        member.engine.set_seeds([at("s")], now=0.0)
        member.pass_time(0.01)
        [event] = wanted(member)
        member.engine.exchange_ended(event, "a", now=0.0)
        member.pass_time(2)
        assert not any(event.address == at("s") for event in wanted(member)) and member.engine.seeds_tried

    def test_again_when_it_is_this_node_and_nobody_else_is_known(self) -> None:
        """One address may stand for many nodes."""
        member = Member("a")
        member.engine.set_seeds([at("s")], now=0.0)
        member.pass_time(0.01)
        [event] = wanted(member)
        member.engine.exchange_ended(event, "a", now=0.0)
        assert not member.engine.joined and member.engine.seeds_tried
        member.pass_time(10)
        assert [event.address for event in wanted(member)] == [at("s")]

    @covers("GOSSIP-77")
    def test_now_and_then_whoever_is_there_for_one_address_may_stand_for_many_nodes(self) -> None:
        member = Member("a", exchange_s=30.0).meet("b")
        member.engine.put(CARD, card("a"), now=0.0)
        member.engine.set_seeds([at("s"), at("a"), at("b")], now=0.0)
        tried: list[float] = []
        for _ in range(300):
            member.pass_time(1.0)
            for event in wanted(member):
                if not event.node_id:
                    assert event.address == at("s"), "at the others it is known who is there"
                    tried.append(member.now)
                    member.engine.exchange_ended(event, "b", now=member.now)
        assert 9 <= len(tried) <= 13

    def test_an_exchange_with_a_node_is_no_attempt_with_the_seed_where_it_is(self) -> None:
        member = Member("a")
        member.engine.set_seeds([at("s")], now=0.0)
        member.pass_time(0.01)
        member.engine.exchange_ended(ExchangeWanted(at("s"), "b", None), None, now=0.01)
        assert not member.engine.seeds_tried

    def test_an_address_that_is_known_need_not_be_tried(self) -> None:
        member = Member("a").meet("b")
        member.engine.put(CARD, card("a"), now=0.0)
        member.engine.set_seeds([at("a"), at("b")], now=0.0)
        member.pass_time(1)
        assert {event.node_id for event in wanted(member)} <= {"b"} and member.engine.seeds_tried

    def test_known_seeds_keep_their_state(self) -> None:
        member = Member("a")
        member.engine.set_seeds([at("s")], now=0.0)
        member.pass_time(0.01)
        [event] = wanted(member)
        member.engine.exchange_ended(event, "a", now=0.0)
        member.engine.set_seeds([at("s")], now=0.0)
        assert member.engine.seeds_tried
        member.engine.set_seeds([at("t")], now=0.0)
        member.engine.exchange_ended(event, None, now=0.0)
        assert not member.engine.seeds_tried

    def absent(self, record: Record = DEAD) -> Member:
        member = Member("a").meet("b", "c")
        member.hear("c", records("b", record))
        member.sent()
        return member

    def test_the_dead_are_contacted_for_ever(self) -> None:
        member = self.absent()
        member.pass_time(2_000)
        said = [said for to, said in member.said() if to == "b"]
        assert member.engine.table.member("b") is None and member.engine.snapshot().absent == 1
        assert {type(one) for one in said} == {Ping, Records, Summary} and len(said) > 5_000
        assert records("b", DEAD) in said[-3:]

    def test_now_and_then_by_an_exchange_for_datagrams_may_not_pass(self) -> None:
        member = Member("a", exchange_s=30.0).meet("b")
        member.hear("c", records("b", DEAD))
        member.events.clear()
        member.pass_time(300)
        tried = [event for event in wanted(member) if event.node_id == "b"]
        assert tried[0] == ExchangeWanted(at("b"), "b", None) and 9 <= len(tried) <= 11

    def test_one_after_the_other(self) -> None:
        member = Member("a").meet("b", "c", "d")
        member.hear("d", records("b", DEAD), records("c", DEAD))
        member.sent()
        member.pass_time(10)
        pings = [to for to, said in member.said() if isinstance(said, Ping)]
        assert pings[:4] in (list("bcbc"), list("cbcb"))

    def test_who_left_is_not(self) -> None:
        member = self.absent(LEFT)
        member.pass_time(5)
        assert member.sent() == []

    @pytest.mark.parametrize("after_s", [1, 700])
    def test_nor_who_left_after_all(self, after_s: float) -> None:
        member = self.absent()
        member.pass_time(after_s)
        member.hear("c", records("b", LEFT))
        member.sent()
        member.pass_time(5)
        assert [said for to, said in member.said() if to == "b"] == []

    @covers("GOSSIP-76")
    def test_nor_whom_the_operator_wants_forgotten(self) -> None:
        member = self.absent()
        assert not member.engine.forget("c", now=member.now)
        assert member.engine.forget("b", now=member.now)
        assert member.engine.snapshot().absent == 0 and member.record_of("b") == DEAD
        member.pass_time(5)
        assert [said for to, said in member.said() if to == "b"] == []
        assert not member.engine.forget("b", now=member.now)

    def test_nor_where_another_node_is_now(self) -> None:
        member = self.absent()
        member.hear("d", source=at("b"))
        member.pass_time(5)
        assert member.engine.snapshot().absent == 0

    def test_until_it_is_known_where_they_are_now(self) -> None:
        member = self.absent()
        member.pass_time(700)
        back = ALIVE._replace(inc=1)
        member.hear("c", records("b", back))
        assert member.record_of("b") == back and member.engine.address_of("b") is None
        member.sent()
        member.pass_time(2)
        assert Ping in [type(said) for to, said in member.said() if to == "b"]
        member.hear("c", Delta("b", LIFE, 0, 0, (Entry(1, CARD, card("b")),)))
        assert member.engine.snapshot().absent == 0

    def test_where_their_card_said_and_not_where_a_translated_packet_came_from(self) -> None:
        """Also when the card is dropped, with all that the dead one said, or it was another process that died."""
        member = Member("a").meet("c")
        member.hear("b", card_of("b"), source=("10.9.9.9", 1))
        member.hear("c", records("b", DEAD))
        member.pass_time(100)
        member.hear("c", records("b", NEWER._replace(rank=Rank.DEAD)))
        member.sent()
        member.pass_time(10)
        assert {address for address, _ in member.sent()} == {at("b")}

    def test_who_is_there_again_hears_why_it_was_not(self) -> None:
        a, b, c = Member("a"), Member("b"), Member("c")
        introduce(a, b, c)
        a.hear("c", records("b", DEAD))
        a.pass_time(700)
        b.now = a.now
        talk(a, b)
        assert a.record_of("b") == ALIVE._replace(inc=1) and a.engine.snapshot().absent == 0
        assert a.engine.table.state_of("b").live() == b.engine.table.own.live()  # type: ignore[union-attr]

    def test_there_is_an_end_to_memory(self) -> None:
        member = Member("a")
        member.engine._search._limits = GossipLimits(memory_nodes_max=2)
        member.meet(*"bcdef")
        for node_id in "cdef":
            member.hear("b", records(node_id, DEAD))
        assert member.engine._search.absent == ["e", "f"]


@covers("GOSSIP-70")
class TestJoined:
    def test_is_who_has_heard_another_node_itself(self) -> None:
        member = Member("a")
        member.engine.exchange_ended(ExchangeWanted(at("a"), "", None), "a", now=0.0)
        assert not member.engine.joined
        member.meet("b")
        assert member.engine.joined and member.engine.snapshot().joined

    def test_is_not_who_has_only_itself_left(self) -> None:
        member = Member("a").meet("b")
        member.hear("b", records("b", LEFT))
        assert not member.engine.joined and not member.engine.snapshot().joined


@covers("GOSSIP-72")
class TestLeave:
    def left(self) -> Member:
        member = Member("a").meet("b", "c")
        member.engine.put(b"x", b"1", now=0.0)
        member.engine.leave(now=0.0)
        return member

    def test_is_told_to_all_at_once_and_again(self) -> None:
        member = self.left()
        member.engine.leave(now=0.0)
        assert sorted(member.said()) == [("b", records("a", LEFT)), ("c", records("a", LEFT))]
        member.pass_time(1)
        assert len([said for _, said in member.said() if said == records("a", LEFT)]) >= 6

    def test_is_told_over_streams_too(self) -> None:
        assert sorted(event.node_id for event in wanted(self.left())) == ["b", "c"]

    def test_is_over_when_everybody_could_have_heard_it(self) -> None:
        member = self.left()
        for _ in range(10):
            assert not member.engine.left
            member.pass_time(0.0999)
        member.pass_time(0.02)
        assert member.engine.left

    def test_what_was_to_be_done_before_does_not_keep_it_awake(self) -> None:
        member = Member("a").meet("b", "c")
        member.engine.set_seeds([at("s")], now=0.0)
        member.engine.failed("b", now=0.0)
        member.engine.put(b"x", b"1", now=0.0)
        member.engine.leave(now=0.0)
        wakes = 0
        while (due := member.engine.next_timer()) < 100:
            member.engine.handle_timer(now=due)
            wakes += 1
            assert wakes < 20
        assert member.engine.left

    def test_probes_are_answered_and_nothing_is_begun(self) -> None:
        member = self.left()
        member.sent()
        member.engine._rumours.clear()
        member.hear("b", Ping(1, "a"))
        assert member.said() == [("b", Ack(1, "a", LIFE))]
        member.hear("b", records("c", SUSPECT), records("x", ALIVE), card_of("x"))
        member.engine.failed("b", now=0.0)
        member.engine.put(b"y", b"1", now=0.0)
        assert [said for _, said in member.said() if isinstance(said, (Ping, Push, PingRequest))] == []

    @pytest.mark.parametrize("heard", [SUSPECT, DEAD, LEFT, NEWER, DEAD._replace(inc=9)])
    def test_nothing_that_is_heard_brings_it_back(self, heard: Record) -> None:
        member = self.left()
        member.hear("b", records("a", heard), Digest(*NOBODY, (DigestEntry("a", ALIVE, 99),)))
        member.hear("a", life=heard.life)
        assert member.record_of("a") == LEFT and not member.engine.table.contested

    def test_the_others_know_at_once(self) -> None:
        a, b, c = Member("a"), Member("b"), Member("c")
        introduce(a, b, c)
        a.engine.leave(now=0.0)
        talk(a, b, c)
        assert b.record_of("a") == c.record_of("a") == LEFT
        assert b.engine.snapshot().absent == 0


class TestDatagrams:
    @covers("GOSSIP-25", "GOSSIP-26", "GOSSIP-27")
    def test_what_cannot_be_read_is_counted_by_its_kind(self) -> None:
        member = Member("a")
        foreign = PacketCodec("test", "b", GossipLimits()).encode(1, [])
        for data in (foreign, b"pg\x02\0....", b"nonsense", b""):
            take_datagram(member.engine, data, at("b"), now=0.0)
        member.hear("b")
        snapshot = member.engine.snapshot()
        assert snapshot.violations == {"cluster": 1, "version": 1, "malformed": 2} and snapshot.received == 5
        assert snapshot.records == {"b": ALIVE} and snapshot.record == ALIVE and snapshot.health == 0

    @covers("GOSSIP-41")
    def test_a_name_that_is_contested_is_said_once(self) -> None:
        member = Member("a").meet("b")
        member.hear("b", records("a", Record((1 << 64) - 1)))
        member.hear("b")
        member.sent()
        assert member.events.count(Contested()) == 1


def test_the_defaults_are_in_order() -> None:
    timers = GossipTimers()
    assert timers.probe_timeout_s * 2 < timers.probe_s <= timers.pause_s
    assert list(timers.push_repeats_s) == sorted(timers.push_repeats_s)
