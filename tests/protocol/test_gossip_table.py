"""What a node makes of a packet: learning, answering, defending itself, forgetting (``spec/gossip.md``)."""

from __future__ import annotations

import pytest

from pico.config import GossipLimits
from pico.protocol.gossip import Delta, Digest, DigestEntry, Entry, Memory, Rank, Record, Records, Snapshot
from pico.protocol.gossip.values import INC_MAX, LIFE_MAX, Range, Summary
from tests.gossip_side import Side, by_stream, digest_of, exchange, settle
from tests.rules import covers

LIFE = 1 << 30
ALIVE = Record(LIFE)
SUSPECT = Record(LIFE, rank=Rank.SUSPECT)
DEAD = Record(LIFE, rank=Rank.DEAD)
LEFT = Record(LIFE, left=True)
NEWER = Record(LIFE + (1 << 22))


def asking(*entries: DigestEntry) -> Digest:
    """A digest that says nothing of those it does not name."""
    return Digest("z", "z", entries)


def delta(*keys: bytes, node_id: str = "b", life: int = LIFE, start: int = 0) -> Delta:
    entries = tuple(Entry(start + number, key, b"1") for number, key in enumerate(keys, 1))
    return Delta(node_id, life, start, 0, entries)


def question(*entries: DigestEntry) -> Digest:
    """What is asked for more about some nodes."""
    return Digest("0", "0", entries)


def a_with_b(**limits: float) -> Side:
    """A node that has met c and b, and knows two entries of b."""
    side = Side("a", **limits).meet("c", "b")
    side.hear("b", delta(b"x", b"y"))
    assert others(side) == {"b": ALIVE} and live(side, "b") == {b"x": b"1", b"y": b"1"}
    return side


def others(side: Side) -> dict[str, Record]:
    """The table but for c, who speaks."""
    return {node_id: record for node_id, record in side.table.members().items() if node_id != "c"}


def live(side: Side, node_id: str) -> dict[bytes, bytes] | None:
    state = side.table.state_of(node_id)
    return None if state is None else state.live()


@covers("GOSSIP-35")
@pytest.mark.parametrize(
    "known, heard, then",
    [
        (ALIVE, SUSPECT, SUSPECT),
        (SUSPECT, ALIVE, SUSPECT),
        (DEAD, ALIVE._replace(inc=1), ALIVE._replace(inc=1)),
        (ALIVE._replace(inc=1), DEAD, ALIVE._replace(inc=1)),
        (LEFT, ALIVE._replace(inc=9), LEFT),
        (DEAD._replace(inc=9), LEFT, LEFT),
        (LEFT, NEWER, NEWER),
        (NEWER, LEFT, NEWER),
        (NEWER, DEAD._replace(inc=9), NEWER),
    ],
)
def test_the_greater_record_stands(known: Record, heard: Record, then: Record) -> None:
    side = a_with_b()
    side.hear("c", Records((("b", known),)))
    side.hear("c", Records((("b", heard),)))
    assert side.table.record_of("b") == then


@covers("GOSSIP-36")
class TestVerdict:
    def test_is_the_judged_record_with_another_rank(self) -> None:
        side = a_with_b()
        assert side.table.judge("b", ALIVE, Rank.SUSPECT, now=0.0)
        assert side.table.record_of("b") == SUSPECT

    def test_loses_when_it_is_late(self) -> None:
        side = a_with_b()
        side.hear("b", Records((("b", NEWER),)))
        assert not side.table.judge("b", ALIVE, Rank.DEAD, now=0.0)
        assert side.table.record_of("b") == NEWER

    def test_makes_nobody_better(self) -> None:
        side = a_with_b()
        side.table.judge("b", ALIVE, Rank.DEAD, now=0.0)
        assert not side.table.judge("b", DEAD, Rank.ALIVE, now=0.0)
        assert side.table.record_of("b") == DEAD

    def test_is_only_about_who_is_in_the_table(self) -> None:
        side = a_with_b()
        assert not side.table.judge("d", ALIVE, Rank.DEAD, now=0.0)
        assert not side.table.judge("a", ALIVE, Rank.DEAD, now=0.0)
        assert side.table.record_of("d") is None and side.table.record == ALIVE


class TestOnesSelf:
    @covers("GOSSIP-37", "GOSSIP-38")
    @pytest.mark.parametrize(
        "accused, inc", [(SUSPECT, 1), (DEAD, 1), (DEAD._replace(inc=5), 6), (ALIVE._replace(inc=5), 6)]
    )
    def test_an_accusation_is_contradicted(self, accused: Record, inc: int) -> None:
        side = Side("a").meet("b")
        assert side.hear("b", Records((("a", accused),))) == [Records((("a", ALIVE._replace(inc=inc)),))]
        assert side.table.record == ALIVE._replace(inc=inc)

    @covers("GOSSIP-35", "GOSSIP-38")
    def test_an_old_accusation_changes_nothing_and_is_answered(self) -> None:
        side = Side("a")
        side.hear("b", Records((("a", DEAD),)))
        assert side.hear("b", Records((("a", DEAD),))) == [Records((("a", ALIVE._replace(inc=1)),))]
        assert side.hear("b", Records((("a", ALIVE._replace(inc=1)),))) == []
        assert side.table.record == ALIVE._replace(inc=1)

    @covers("GOSSIP-39")
    @pytest.mark.parametrize("heard", [NEWER, LEFT, ALIVE._replace(inc=INC_MAX)])
    def test_a_past_life_is_left_behind(self, heard: Record) -> None:
        side = Side("a").meet("b")
        side.table.own.put(b"x", b"1")
        side.table.own.delete(b"x")
        side.table.own.put(b"y", b"1")
        [said] = side.hear("b", Records((("a", heard),)))
        assert said == Records((("a", side.table.record),))
        assert side.table.record.life >> 22 == (heard.life >> 22) + 1 and side.table.record.inc == 0
        assert side.table.own.live() == {b"y": b"1"} and side.table.own.applied == 1

    @covers("GOSSIP-39")
    def test_a_packet_of_another_process_of_the_same_name_is_heard_as_a_life_and_nothing_else(self) -> None:
        side = a_with_b()
        assert side.hear("a", Records((("b", DEAD),)), life=LIFE + (9 << 22)) == []
        assert side.table.own.life >> 22 == (LIFE >> 22) + 10
        assert side.table.record_of("b") == ALIVE
        life = side.table.own.life
        side.hear("a", life=life)
        side.hear("a", life=LIFE)
        assert side.table.own.life == life

    @covers("GOSSIP-40")
    def test_versions_that_were_never_given_are_left_behind(self) -> None:
        side = Side("a")
        side.table.own.put(b"x", b"1")
        side.hear("b", asking(DigestEntry("a", ALIVE, 1)))
        assert side.table.own.life == LIFE
        side.hear("b", asking(DigestEntry("a", ALIVE, 2)))
        assert side.table.own.life > LIFE and side.table.own.live() == {b"x": b"1"}

    @covers("GOSSIP-41")
    def test_a_name_that_another_process_fights_for_is_given_up_loudly(self) -> None:
        side = Side("a", lives_max=2)
        for expected in (False, False, True):
            life = side.table.own.life
            side.hear("b", Records((("a", Record(life + (1 << 22))),)))
            assert side.table.contested is expected
        assert side.table.own.life == life and side.table.contested

    @covers("GOSSIP-79")
    def test_who_gives_way_lets_its_successor_have_the_name(self) -> None:
        side = Side("a")
        side.table.gives_way = True
        side.hear("b", Records((("a", DEAD),)))
        assert side.table.record.inc == 1 and not side.table.contested, "until there is one it is there"
        side.hear("b", Records((("a", NEWER),)))
        assert side.table.own.life == LIFE and side.table.contested

    @covers("GOSSIP-41")
    def test_there_is_no_life_above_the_highest(self) -> None:
        side = Side("a")
        side.hear("b", Records((("a", Record(LIFE_MAX)),)))
        assert side.table.contested and side.table.own.life == LIFE

    @covers("GOSSIP-19")
    def test_nobody_else_writes_what_a_node_says(self) -> None:
        side = Side("a")
        side.table.own.put(b"x", b"1")
        side.hear("b", delta(b"evil", b"x", node_id="a", start=1), Snapshot("a", LIFE, 0, (Entry(9, b"evil", b"1"),)))
        assert side.table.own.live() == {b"x": b"1"} and side.table.own.applied == 1
        side.hear("b", delta(b"evil", node_id="a", life=NEWER.life))
        assert side.table.own.live() == {b"x": b"1"} and side.table.own.life > NEWER.life


class TestAnswering:
    @covers("GOSSIP-10")
    def test_who_is_not_named_in_the_range_is_told_with_all_its_entries(self) -> None:
        side = a_with_b()
        side.table.own.put(b"own", b"1")
        entry = (Entry(1, b"own", b"1"),)
        records, *deltas = side.hear("c", Digest("", "", ()))
        assert records == Records((("a", ALIVE), ("b", ALIVE), ("c", ALIVE)))
        assert sorted(deltas) == [Delta("a", LIFE, 0, 0, entry), delta(b"x", b"y")]  # type: ignore[type-var]
        assert side.hear("c", Digest("", "a", ())) == [Records((("a", ALIVE),)), Delta("a", LIFE, 0, 0, entry)]
        assert side.hear("c", Digest("a", "aa", ())) == []
        assert side.hear("c", Digest("b", "bb", ())) == [], "a range begins after its first name"
        assert side.hear("c", Digest("a", "b", ()))[0] == Records((("b", ALIVE),))

    @covers("GOSSIP-10", "GOSSIP-11", "GOSSIP-12")
    def test_who_is_named_is_told_what_is_new(self) -> None:
        side = a_with_b()
        assert side.hear("c", asking(DigestEntry("b", ALIVE, 2))) == []
        assert side.hear("c", asking(DigestEntry("b", ALIVE, 1))) == [delta(b"y", start=1)]

    @covers("GOSSIP-11")
    def test_of_a_lower_life_nothing_counts_as_applied(self) -> None:
        side = a_with_b()
        older = Record(LIFE - 1)
        assert side.hear("c", asking(DigestEntry("b", older, 2))) == [Records((("b", ALIVE),)), delta(b"x", b"y")]

    @covers("GOSSIP-11", "GOSSIP-16")
    def test_who_knows_more_is_asked(self) -> None:
        side = a_with_b()
        assert side.hear("c", asking(DigestEntry("b", ALIVE, 3))) == [question(DigestEntry("b", ALIVE, 2))]
        assert side.hear("c", asking(DigestEntry("b", NEWER, 1))) == [question(DigestEntry("b", NEWER, 0, True))]
        assert side.hear("c", asking(DigestEntry("b", NEWER, 0))) == []

    @covers("GOSSIP-11", "GOSSIP-41")
    def test_nothing_is_said_under_a_life_that_is_lower_than_the_one_named(self) -> None:
        side = Side("a", lives_max=0).meet("c")
        side.table.own.put(b"x", b"1")
        assert side.hear("c", asking(DigestEntry("a", NEWER, 0))) == []

    @covers("GOSSIP-13", "GOSSIP-22")
    def test_who_is_behind_the_floor_gets_a_snapshot_in_a_packet_if_it_fits(self) -> None:
        side = Side("a").meet("b")
        side.table.own.put(b"x", b"1")
        side.table.own.delete(b"x")
        side.table.own.compact(2)
        side.table.own.put(b"y", b"1")
        told = Snapshot("a", LIFE, 2, (Entry(3, b"y", b"1"),))
        assert side.hear("b", asking(DigestEntry("a", ALIVE, 1))) == [told]
        assert side.hear("b", asking(DigestEntry("a", ALIVE, 2))) == [Delta("a", LIFE, 2, 2, told.entries)]
        for number in range(9):
            side.table.own.put(b"%d" % number, b"v" * 200)
        assert side.hear("b", asking(DigestEntry("a", ALIVE, 1))) == []
        assert side.answer.behind == ["a"]
        [stream] = side.snapshots()
        assert len(stream) > side.limits.packet_bytes_max
        other = Side("b")
        other.receive(stream)
        assert live(other, "a") == side.table.own.live()

    @covers("GOSSIP-22")
    def test_a_snapshot_goes_into_a_packet_up_to_the_last_byte(self) -> None:
        for extra, behind in ((0, []), (1, ["a"])):
            side = Side("a", packet_bytes_max=1_024).meet("b")
            head_bytes = side.codec.envelope_bytes + 5 + 2 + 16
            side.table.own.put(b"y", b"v" * 511)
            side.table.own.put(b"z", b"v" * (1_024 - head_bytes - 12 - 512 - 12 - 1 + extra))
            side.table.own.compact(1)
            side.hear("b", asking(DigestEntry("a", ALIVE, 0)))
            assert side.answer.behind == behind
            assert [len(packet) for packet in side.answer.packets] == [1_024] * (1 - extra)

    @covers("GOSSIP-42")
    def test_there_is_no_snapshot_of_the_gone_or_the_unknown(self) -> None:
        side = a_with_b()
        assert by_stream(side.table, "d") == [] and by_stream(side.table, "b") != []
        side.table.judge("b", ALIVE, Rank.DEAD, now=0.0)
        assert by_stream(side.table, "b") == []

    @covers("GOSSIP-23")
    def test_what_does_not_fit_an_answer_is_left_for_the_next(self) -> None:
        side = Side("a", answer_packets_max=1).meet("b", *(f"{number:02}" * 32 for number in range(40)))
        side.table.own.put(b"x", b"1")
        side.table.own.delete(b"x")
        side.table.own.compact(2)
        said = side.hear("b", Digest("", "", ()))
        assert len(side.answer.packets) == 1 and len(said) == 1 and isinstance(said[0], Records)
        assert side.answer.behind == []
        side.hear("b", Summary(((Range("", "10"), 1),)), Digest("", "", ()))
        assert len(side.answer.packets) == 1, "nor is a digest told for which there is no room"

    @covers("GOSSIP-11", "GOSSIP-42")
    def test_the_answer_is_by_what_is_known_when_the_packet_is_read(self) -> None:
        side = a_with_b()
        assert side.hear("c", asking(DigestEntry("b", ALIVE, 3)), delta(b"z", start=2)) == []
        assert side.hear("c", asking(DigestEntry("b", ALIVE, 1)), Records((("b", DEAD),))) == []

    @covers("GOSSIP-16")
    def test_a_gap_is_answered_with_a_question(self) -> None:
        side = a_with_b()
        assert side.hear("c", delta(b"z", start=3)) == [question(DigestEntry("b", ALIVE, 2))]
        assert live(side, "b") == {b"x": b"1", b"y": b"1"}
        assert side.hear("c", delta(b"z", start=2)) == []

    @covers("GOSSIP-14", "GOSSIP-20")
    @pytest.mark.parametrize(
        "message", [delta(b"z", life=NEWER.life), Snapshot("b", NEWER.life, 0, (Entry(1, b"z", b"1"),))]
    )
    def test_a_higher_life_replaces_all_of_the_lower(self, message: Delta | Snapshot) -> None:
        side = a_with_b()
        side.table.judge("b", ALIVE, Rank.DEAD, now=0.0)
        assert side.hear("c", message) == []
        assert live(side, "b") == {b"z": b"1"} and side.table.record_of("b") == NEWER

    @covers("GOSSIP-14")
    def test_a_record_of_a_higher_life_empties_the_copy(self) -> None:
        side = a_with_b()
        assert side.hear("c", Records((("b", NEWER),))) == [question(DigestEntry("b", NEWER, 0, True))]
        assert live(side, "b") == {}

    @covers("GOSSIP-15", "GOSSIP-38")
    def test_a_lower_life_is_corrected(self) -> None:
        side = a_with_b()
        assert side.hear("c", delta(b"z", life=LIFE - 1)) == [Records((("b", ALIVE),))]
        assert live(side, "b") == {b"x": b"1", b"y": b"1"}

    @covers("GOSSIP-38")
    def test_an_entry_from_who_does_not_know_the_latest_inc_is_no_reason_to_answer(self) -> None:
        side = a_with_b()
        side.hear("b", Records((("b", ALIVE._replace(inc=3)),)))
        assert side.hear("c", delta(b"z", start=2)) == []
        assert side.hear("c", Records((("b", ALIVE),))) == [Records((("b", ALIVE._replace(inc=3)),))]

    @covers("GOSSIP-20")
    def test_a_delta_makes_its_node_known(self) -> None:
        side = Side("a").meet("c")
        side.hear("c", delta(b"x"))
        assert others(side) == {"b": ALIVE} and live(side, "b") == {b"x": b"1"}

    @covers("GOSSIP-28")
    def test_messages_without_a_name_are_counted(self) -> None:
        side = a_with_b()
        packet = side.codec.encode(5, [(99, b""), (100, b"?")])  # type: ignore[list-item]
        side.table.learn(side.codec.decode(packet)._replace(sender="b"), now=0.0)
        assert side.table.unknown_messages == 2

    @covers("GOSSIP-23")
    def test_an_answer_has_so_many_packets_and_the_rest_comes_with_the_next_digest(self) -> None:
        full, empty = Side("a", answer_packets_max=2), Side("b")
        for number in range(10):
            full.table.own.put(b"%d" % number, b"v" * 500)
        applied = []
        while not applied or applied[-1] < 10:
            [digest] = digest_of(empty.table)
            full.receive(digest)
            assert len(full.answer.packets) <= 2
            for packet in full.answer.packets:
                empty.receive(packet)
            applied.append(empty.table.state_of("a").applied)  # type: ignore[union-attr]
        assert applied == [4, 8, 10]

    @covers("GOSSIP-23")
    def test_a_node_with_much_to_say_does_not_hide_the_others(self) -> None:
        side = Side("a", answer_packets_max=1).meet("x")
        for node_id in "bcd":
            entries = tuple(Entry(number, b"%d" % number, b"v" * 400) for number in range(1, 9))
            side.hear(node_id, Delta(node_id, LIFE, 0, 0, entries))
        first = set()
        for _ in range(40):
            said = side.hear("x", *(asking(DigestEntry(node_id, ALIVE, 0)) for node_id in "bcd"))
            first.add(next(message.node_id for message in said if isinstance(message, Delta)))
        assert first == {"b", "c", "d"}


class TestDigest:
    @covers("GOSSIP-10")
    def test_names_all_that_are_in_the_table_in_order(self) -> None:
        side = Side("a").meet("b", "0")
        side.hear("b", Records((("dead", DEAD), ("said", ALIVE))), delta(b"x", b"y"))
        side.table.judge("b", ALIVE, Rank.DEAD, now=0.0)
        side.table.own.put(b"x", b"1")
        [packet] = digest_of(side.table)
        entries = (DigestEntry("0", ALIVE, 0), DigestEntry("a", ALIVE, 1), DigestEntry("b", DEAD, 2))
        entries += (DigestEntry("said", ALIVE, 0, hearsay=True),)
        assert side.codec.decode(packet).messages == (Digest("", "", entries),)

    @covers("GOSSIP-10", "GOSSIP-22")
    def test_is_cut_into_ranges_that_cover_all_names(self) -> None:
        side = Side("node-050").meet(*(f"node-{number:03}" for number in range(100) if number != 50))
        packets = digest_of(side.table)
        assert len(packets) > 2
        parts = [side.codec.decode(packet).messages[0] for packet in packets]
        bounds = [(part.above, part.upto) for part in parts if isinstance(part, Digest)]
        assert [above for above, _ in bounds] == ["", *(upto for _, upto in bounds[:-1])] and bounds[-1][1] == ""
        for part in parts:
            assert isinstance(part, Digest)
            assert all(Range(part.above, part.upto).holds(entry.node_id) for entry in part.entries)
        assert sum(len(part.entries) for part in parts if isinstance(part, Digest)) == 100
        assert all(len(packet) > 1_000 for packet in packets[:-1]), "packets are filled"


@covers("GOSSIP-21")
def test_three_nodes_agree_also_through_a_relay() -> None:
    a, b, c = Side("a"), Side("b"), Side("c")
    for number in range(100):
        a.table.own.put(b"%d" % number, b"v" * 50)
    a.table.own.delete(b"7")
    exchange(a, b)
    exchange(b, c)
    assert live(c, "a") == a.table.own.live()
    settle(a, b, c)
    assert exchange(a, b) == exchange(b, c) == exchange(c, a) == 1, "who agrees has nothing to say"
    assert a.table.members() == {"b": ALIVE, "c": ALIVE}


class TestTheDead:
    @covers("GOSSIP-42")
    def test_of_the_gone_only_the_record_is_told_and_nothing_is_taken(self) -> None:
        side = a_with_b()
        side.table.judge("b", ALIVE, Rank.DEAD, now=0.0)
        assert side.hear("c", asking(DigestEntry("b", ALIVE, 0))) == [Records((("b", DEAD),))]
        assert side.hear("c", asking(DigestEntry("b", DEAD, 9))) == []
        assert side.hear("c", delta(b"z", start=2)) == [Records((("b", DEAD),))]
        assert live(side, "b") == {b"x": b"1", b"y": b"1"}

    @covers("GOSSIP-42", "GOSSIP-43")
    def test_who_contradicts_in_time_goes_on_with_a_delta(self) -> None:
        side = a_with_b()
        side.table.judge("b", ALIVE, Rank.DEAD, now=0.0)
        side.pass_time(59.9)
        side.hear("b", Records((("b", ALIVE._replace(inc=1)),)), delta(b"z", start=2))
        assert live(side, "b") == {b"x": b"1", b"y": b"1", b"z": b"1"}
        side.pass_time(1_000)
        assert others(side) == {"b": ALIVE._replace(inc=1)} and side.table.next_timer() is None

    @covers("GOSSIP-43")
    def test_entries_of_the_dead_are_dropped_after_a_while(self) -> None:
        side = a_with_b()
        side.now = 5.0
        side.hear("c", Records((("b", DEAD),)))
        assert side.table.next_timer() == 65.0
        side.pass_time(59.9)
        assert live(side, "b") == {b"x": b"1", b"y": b"1"}
        side.pass_time(0.2)
        state = side.table.state_of("b")
        assert state is not None and (state.applied, state.floor, state.entries) == (0, 0, {})
        side.hear("b", Records((("b", ALIVE._replace(inc=1)),)), delta(b"z", start=2))
        assert live(side, "b") == {}, "what was dropped is not there, and is not claimed"
        assert side.table.next_timer() is None

    @covers("GOSSIP-43")
    def test_entries_of_who_left_are_dropped_at_once(self) -> None:
        side = a_with_b()
        side.hear("b", Records((("b", LEFT),)))
        state = side.table.state_of("b")
        assert state is not None and (state.applied, state.entries) == (0, {})
        assert side.table.next_timer() == 600.0

    @covers("GOSSIP-44", "GOSSIP-45", "GOSSIP-46")
    def test_the_gone_move_to_the_memory(self) -> None:
        side = a_with_b()
        side.hear("c", Records((("b", DEAD),)))
        side.pass_time(599.9)
        assert "b" in side.table.members()
        assert side.table.next_timer() == 600.0
        side.pass_time(0.2)
        assert others(side) == {} and side.table.record_of("b") == DEAD and side.table.state_of("b") is None
        assert side.hear("c", Digest("", "b", (DigestEntry("a", ALIVE, 0),))) == []

    @covers("GOSSIP-35", "GOSSIP-44")
    def test_who_is_gone_again_is_kept_from_then_on(self) -> None:
        side = a_with_b()
        side.hear("c", Records((("b", DEAD),)))
        side.pass_time(500)
        side.hear("c", Records((("b", DEAD._replace(inc=1)),)))
        side.hear("c", Records((("b", DEAD),)))
        side.pass_time(599)
        assert "b" in side.table.members()
        side.pass_time(1)
        assert "b" not in side.table.members()

    @covers("GOSSIP-38", "GOSSIP-46")
    def test_the_remembered_come_back_only_with_news_and_are_told_why(self) -> None:
        side = a_with_b()
        side.hear("c", Records((("b", DEAD._replace(inc=2)),)))
        side.pass_time(601)
        accusation = [Records((("b", DEAD._replace(inc=2)),))]
        assert side.hear("b", Records((("b", ALIVE._replace(inc=2)),))) == accusation
        assert side.hear("b", asking(DigestEntry("b", ALIVE, 2))) == accusation
        assert side.hear("b", delta(b"x")) == accusation
        assert side.hear("c", Records((("b", DEAD._replace(inc=2)),))) == []
        assert others(side) == {}
        side.hear("b", Records((("b", ALIVE._replace(inc=3)),)))
        assert others(side) == {"b": ALIVE._replace(inc=3)} and len(side.table._memory) == 0

    @covers("GOSSIP-46")
    def test_a_higher_life_of_a_remembered_node_is_news(self) -> None:
        side = a_with_b()
        side.hear("c", Records((("b", LEFT),)))
        side.pass_time(601)
        side.hear("b", delta(b"z", life=NEWER.life))
        assert others(side) == {"b": NEWER} and live(side, "b") == {b"z": b"1"}

    @covers("GOSSIP-76")
    @pytest.mark.parametrize("gone", [DEAD, LEFT])
    def test_the_gone_are_forgotten_when_the_operator_wants_it(self, gone: Record) -> None:
        side = a_with_b()
        assert not side.table.forget("b", now=0.0) and not side.table.forget("nobody", now=0.0)
        assert not side.table.forget("a", now=0.0)
        assert others(side) == {"b": ALIVE}
        side.hear("c", Records((("b", gone),)))
        side.table.changes()
        assert side.table.forget("b", now=0.0) and not side.table.forget("b", now=0.0)
        assert [change.node_id for change in side.table.changes()] == ["b"]
        assert others(side) == {} and len(side.table._memory) == 1
        for evidence in (Records((("b", gone),)), Records((("b", ALIVE),)), delta(b"x")):
            side.hear("c", evidence)
            assert others(side) == {}
        side.hear("b", life=NEWER.life)
        assert others(side) == {"b": NEWER}

    @covers("GOSSIP-76")
    def test_who_was_forgotten_by_mistake_contradicts_and_is_back(self) -> None:
        side = a_with_b()
        side.hear("c", Records((("b", DEAD),)))
        assert side.table.forget("b", now=0.0)
        assert side.hear("b") == [Records((("b", DEAD),))]
        side.hear("b", Records((("b", ALIVE._replace(inc=1)),)))
        assert others(side) == {"b": ALIVE._replace(inc=1)}

    @covers("GOSSIP-45")
    @pytest.mark.parametrize("gone", [DEAD, LEFT])
    def test_who_is_gone_before_it_was_known_is_only_remembered(self, gone: Record) -> None:
        side = Side("a").meet("c")
        assert side.hear("c", Records((("b", gone),)), asking(DigestEntry("b", gone, 5))) == []
        assert others(side) == {} and side.table.record_of("b") == gone
        side.hear("c", Records((("b", ALIVE),)))
        assert others(side) == {}

    @covers("GOSSIP-45")
    def test_the_gone_are_not_told_to_who_does_not_name_them(self) -> None:
        side = a_with_b()
        side.table.judge("b", ALIVE, Rank.DEAD, now=0.0)
        assert side.hear("c", Digest("a", "b", ())) == []

    @covers("GOSSIP-48")
    def test_the_table_has_an_end(self) -> None:
        side = a_with_b(nodes_max=2)  # b and c
        side.hear("c", Records((("c", ALIVE), ("d", ALIVE), ("e", DEAD))), delta(b"x", node_id="d"))
        assert sorted(side.table.members()) == ["b", "c"]
        assert side.table.record_of("d") is None and side.table.state_of("d") is None
        assert side.table.nodes_refused == 2  # a record of d and a delta; of who is gone there is only a memory
        side.hear("c", Records((("b", SUSPECT),)))
        assert (side.table.members()["b"], side.table.nodes_refused) == (SUSPECT, 2)


class TestMemory:
    def memory(self) -> Memory:
        return Memory(GossipLimits(memory_nodes_max=2, memory_s=10.0))

    @covers("GOSSIP-47")
    def test_forgets_after_its_time(self) -> None:
        memory = self.memory()
        assert memory.next_timer() is None
        memory.bury("b", DEAD, now=1.0)
        memory.bury("c", DEAD, now=2.0)
        assert memory.next_timer() == 11.0
        memory.expire(now=10.9)
        assert len(memory) == 2
        memory.expire(now=11.0)
        assert memory.recall("b") is None and memory.recall("c") == DEAD and memory.next_timer() == 12.0

    @covers("GOSSIP-47")
    def test_the_oldest_makes_room(self) -> None:
        memory = self.memory()
        memory.bury("b", DEAD, now=1.0)
        memory.bury("c", DEAD, now=2.0)
        memory.bury("b", LEFT, now=3.0)
        memory.bury("d", DEAD, now=4.0)
        assert memory.recall("c") is None and memory.recall("b") == LEFT and memory.recall("d") == DEAD

    @covers("GOSSIP-47")
    def test_of_a_table_ends_in_time_too(self) -> None:
        side = a_with_b(memory_s=1_000.0)
        side.hear("c", Records((("b", DEAD),)))
        side.pass_time(600)
        assert side.table.next_timer() == 1_600.0
        side.pass_time(1_000)
        assert side.table.record_of("b") is None and side.table.next_timer() is None

    @covers("GOSSIP-46")
    def test_what_is_remembered_never_goes_back(self) -> None:
        memory = self.memory()
        memory.bury("b", LEFT, now=1.0)
        with pytest.raises(AssertionError):
            memory.bury("b", DEAD, now=2.0)
