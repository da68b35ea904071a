"""Who answers: rounds, probes, suspicion, health and pauses, one input at a time (``spec/gossip.md``, Probing)."""

from __future__ import annotations

from itertools import pairwise
from math import inf
from random import Random

import pytest

from pico.config import GossipTimers
from pico.protocol.gossip import Rank, Record
from pico.protocol.gossip.probing import (
    AskDirectly,
    AskHelpers,
    AskOverStream,
    Command,
    FailureDetector,
    Verdict,
    suspicion_s,
)
from tests.rules import covers

ALIVE = Record(7)
SUSPECT = Record(7, rank=Rank.SUSPECT)
DEAD = Record(7, rank=Rank.DEAD)


class Watch:
    """A detector, its clock, and what it wants."""

    def __init__(self, *node_ids: str, seed: int = 1, **timers: float) -> None:
        self.timers = GossipTimers(**timers)  # type: ignore[arg-type]
        self.detector = FailureDetector("a", self.timers, Random(seed), now=0.0)
        self.now = 0.0
        self.done: list[tuple[float, Command]] = []
        for node_id in node_ids:
            self.detector.update(node_id, ALIVE, now=0.0)

    def wants(self) -> list[Command]:
        return self.detector.commands()

    def pass_time(self, seconds: float) -> list[tuple[float, Command]]:
        """Every timer when it is due; what was wanted, and when."""
        until, wanted = self.now + seconds, []
        while (due := self.detector.next_timer()) <= until:
            self.now = max(self.now, due)
            self.detector.handle_timer(now=self.now)
            wanted += [(round(self.now, 3), command) for command in self.wants()]
        self.now = until
        return wanted

    def ask(self, node_id: str = "b") -> int:
        """A probe out of turn; its sequence."""
        self.detector.probe(node_id, now=self.now)
        [command] = self.wants()
        assert isinstance(command, AskDirectly) and command.node_id == node_id
        return command.sequence

    def answer(self, command: Command) -> bool:
        assert isinstance(command, AskDirectly)
        return self.detector.answered(command.sequence, command.node_id, now=self.now)


def silent(*node_ids: str, **timers: float) -> Watch:
    """One that begins no round of its own."""
    watch = Watch(*node_ids, **timers)
    watch.detector._next_round = inf
    return watch


@covers("GOSSIP-65")
class TestRounds:
    def rounds(self, watch: Watch, count: int) -> list[str]:
        asked = []
        while len(asked) < count:
            for _, command in watch.pass_time(0.01):
                if isinstance(command, AskDirectly):
                    asked.append(command.node_id)
                    watch.answer(command)
        return asked

    def test_ask_everybody_before_anybody_again(self) -> None:
        asked = self.rounds(Watch(*"bcdefg"), 60)
        passes = [asked[start : start + 6] for start in range(0, 60, 6)]
        assert all(sorted(one) == list("bcdefg") for one in passes)
        assert len({tuple(one) for one in passes}) > 5, "in another order each time"

    def test_come_every_half_second(self) -> None:
        watch = Watch("b", "c")
        times = []
        for _ in range(100):
            for time, command in watch.pass_time(0.05):
                times.append(time)
                watch.answer(command)
        assert {round(two - one, 2) for one, two in pairwise(times)} == {0.5}

    @pytest.mark.parametrize("seed", range(8))
    def test_pass_nobody_over_when_somebody_goes(self, seed: int) -> None:
        watch = Watch(*"bcdefg", seed=seed)
        asked = self.rounds(watch, 6) + self.rounds(watch, 3)
        watch.detector.update(asked[-3], None, now=watch.now)
        assert sorted(asked[-3:] + self.rounds(watch, 3)) == list("bcdefg")

    @pytest.mark.parametrize("seed", range(8))
    def test_ask_nobody_again_when_somebody_comes(self, seed: int) -> None:
        watch = Watch(*"bcdefg", seed=seed)
        asked = self.rounds(watch, 3)
        watch.detector.update("h", ALIVE, now=watch.now)
        rest = self.rounds(watch, 3 + (watch.detector._ring.index("h") >= 3))
        assert sorted({*asked, *rest} - {"h"}) == list("bcdefg")

    def test_ask_nobody_when_there_is_nobody(self) -> None:
        assert Watch().pass_time(10) == []

    def test_ask_nobody_who_is_asked_already(self) -> None:
        watch = Watch("b", "c", probe_timeout_s=5.0)
        watch.detector.probe("b", now=0.0)
        watch.wants()
        assert {command.node_id for _, command in watch.pass_time(4)} == {"c"}

    @pytest.mark.parametrize("record", [None, DEAD, Record(7, left=True)])
    def test_do_not_ask_the_gone(self, record: Record | None) -> None:
        watch = Watch("b")
        watch.detector.update("b", record, now=0.0)
        assert watch.pass_time(5) == [] and watch.detector.answers("b")


class TestProbe:
    @covers("GOSSIP-61")
    def test_goes_from_direct_to_helpers_and_a_stream_to_a_suspicion(self) -> None:
        watch = silent("b", "c", "d", probe_helpers=1)
        sequence = watch.ask()
        [(first, helpers), (second, stream), (third, verdict)] = watch.pass_time(9)
        assert first == second == 0.2 and third == 0.5
        assert isinstance(helpers, AskHelpers) and helpers[:2] == ("b", sequence)
        assert len(helpers.helpers) == 1 and helpers.helpers[0] in "cd"
        assert stream == AskOverStream("b", sequence)
        assert verdict == Verdict("b", ALIVE, Rank.SUSPECT)
        assert not watch.detector.answers("b") and watch.detector.answers("c")

    @covers("GOSSIP-61")
    def test_waits_longer_for_who_is_far(self) -> None:
        watch = silent("b", probe_s=9.0)
        sequence = watch.ask()
        watch.now = 0.15
        assert watch.detector.answered(sequence, "b", now=watch.now)
        assert watch.detector.round_trip_s("b") == pytest.approx(0.15)
        watch.ask()
        assert watch.pass_time(5)[0] == (0.75, AskOverStream("b", sequence + 1))

    @covers("GOSSIP-61")
    def test_lasts_twice_as_long_as_the_direct_part_at_least(self) -> None:
        watch = silent("b", probe_timeout_s=2.0)
        watch.ask()
        assert [time for time, _ in watch.pass_time(9)] == [2.0, 4.0]

    @covers("GOSSIP-61")
    def test_of_one_node_is_one_at_a_time(self) -> None:
        watch = silent("b")
        watch.ask()
        watch.detector.probe("b", now=0.1)
        watch.detector.probe_soon("b", now=0.1)
        watch.detector.probe("nobody", now=0.1)
        watch.detector.probe_soon("nobody", now=0.1)
        assert watch.wants() == []

    @covers("GOSSIP-61")
    @pytest.mark.parametrize("after_s", [0.0, 0.19, 0.21, 0.49])
    def test_ends_with_an_answer_by_whatever_way(self, after_s: float) -> None:
        watch = silent("b", "c")
        sequence = watch.ask()
        watch.pass_time(after_s)
        assert watch.detector.answered(sequence, "b", now=watch.now)
        assert watch.pass_time(20) == [] and watch.detector.answers("b")
        assert (watch.detector.round_trip_s("b") is not None) == (after_s < 0.2), "a way around is not measured"

    @covers("GOSSIP-58", "GOSSIP-61")
    @pytest.mark.parametrize("sequence, node_id", [(0, "c"), (1, "b"), (-1, "b")])
    def test_is_not_answered_by_another_node_or_for_another_probe(self, sequence: int, node_id: str) -> None:
        watch = silent("b", "c")
        sequence += watch.ask()
        assert not watch.detector.answered(sequence, node_id, now=0.1)
        assert isinstance(watch.pass_time(1)[-1][1], Verdict)

    @covers("GOSSIP-61")
    def test_is_not_answered_twice_or_too_late(self) -> None:
        watch = silent("b")
        first = watch.ask()
        assert watch.detector.answered(first, "b", now=0.0)
        assert not watch.detector.answered(first, "b", now=0.0)
        second = watch.ask()
        watch.pass_time(0.6)
        assert not watch.detector.answered(second, "b", now=0.6)
        assert not watch.detector.answers("b")

    @covers("GOSSIP-59")
    def test_that_could_not_be_sent_is_a_missed_one_at_once(self) -> None:
        watch = silent("b", "c")
        sequence = watch.ask()
        watch.now = 0.1
        watch.detector.could_not_send("b", now=0.1)
        watch.detector.could_not_send("c", now=0.1)
        assert [time for time, _ in watch.pass_time(5)] == [0.1, 0.1, 0.5]
        assert not watch.detector.answered(sequence, "b", now=5.0)

    @covers("GOSSIP-61", "GOSSIP-73")
    def test_that_nobody_could_ask_says_nothing_about_us(self) -> None:
        watch = silent("b", "c")
        sequence = watch.ask()
        watch.pass_time(0.3)
        watch.detector.could_not_ask(sequence)
        watch.detector.could_not_ask(sequence + 1)
        assert [command for _, command in watch.pass_time(1)] == [Verdict("b", ALIVE, Rank.SUSPECT)]
        assert watch.detector.health == 0

    @covers("GOSSIP-36", "GOSSIP-61")
    def test_judges_the_process_that_was_asked(self) -> None:
        watch = silent("b")
        watch.ask()
        watch.detector.update("b", Record(9), now=0.1)
        verdicts = [one for one in watch.pass_time(1) if isinstance(one[1], Verdict)]
        assert verdicts == [(0.5, Verdict("b", ALIVE, Rank.SUSPECT))]

    @covers("GOSSIP-61")
    def test_ends_without_a_word_when_the_node_goes(self) -> None:
        watch = silent("b")
        sequence = watch.ask()
        watch.detector.update("b", DEAD, now=0.1)
        assert watch.pass_time(9) == [] and not watch.detector.answered(sequence, "b", now=9)
        watch.detector.helper_answered(sequence)
        watch.detector.update("b", DEAD, now=0.1)

    @covers("GOSSIP-60")
    def test_is_helped_by_those_who_are_well(self) -> None:
        watch = silent(*"bcdef")
        watch.detector.update("c", SUSPECT, now=0.0)
        watch.ask("d")
        watch.pass_time(0.6)
        watch.ask("b")
        [helpers] = [command for _, command in watch.pass_time(1) if isinstance(command, AskHelpers)]
        assert sorted(helpers.helpers) == ["e", "f"]

    @covers("GOSSIP-60")
    @pytest.mark.parametrize("wanted, helpers", [(0, 0), (1, 1), (2, 2), (3, 3), (9, 4)])
    def test_has_as_many_helpers_as_are_wanted_and_there(self, wanted: int, helpers: int) -> None:
        watch = silent(*"bcdef", probe_helpers=wanted)
        watch.ask()
        asked = [one for _, command in watch.pass_time(0.3) if isinstance(command, AskHelpers) for one in command[2]]
        assert len(set(asked)) == len(asked) == helpers


@covers("GOSSIP-73")
class TestHealth:
    def fail(self, watch: Watch, nacks: int = 0) -> None:
        sequence = watch.ask()
        watch.pass_time(0.2 * (1 + watch.detector.health))
        for _ in range(nacks):
            watch.detector.helper_answered(sequence)
        watch.pass_time(9)

    @pytest.mark.parametrize("others, nacks, health", [("", 0, 1), ("cde", 0, 3), ("cde", 2, 1), ("cde", 3, 0)])
    def test_is_worse_for_each_helper_that_says_nothing(self, others: str, nacks: int, health: int) -> None:
        watch = silent("b", *others)
        self.fail(watch, nacks)
        assert watch.detector.health == health

    def test_is_not_better_for_more_nacks_than_helpers(self) -> None:
        watch = silent("b", "c")
        self.fail(watch, nacks=5)
        assert watch.detector.health == 0

    def test_is_better_with_each_answer_and_worse_with_each_accusation(self) -> None:
        watch = silent("b")
        watch.detector.accused()
        watch.detector.accused()
        assert watch.detector.health == 2
        for health in (1, 0, 0):
            watch.detector.answered(watch.ask(), "b", now=0.0)
            assert watch.detector.health == health

    def test_has_an_end(self) -> None:
        watch = silent("b", health_max=2)
        for _ in range(5):
            watch.detector.accused()
        assert watch.detector.health == 2

    def test_makes_waits_longer(self) -> None:
        watch = silent("b")
        watch.detector.accused()
        watch.ask()
        assert [time for time, _ in watch.pass_time(3)] == [0.4, 1.0]

    def test_makes_rounds_rarer(self) -> None:
        watch = Watch("b", "c", "d", "e")
        for _ in range(3):
            watch.detector.accused()
        watch.pass_time(0.5)
        assert watch.detector._next_round - watch.now <= 2.0
        due = watch.detector.next_timer()
        assert due <= watch.now + 2.0

    def test_is_good_again_when_nobody_is_left(self) -> None:
        watch = silent("b")
        watch.detector.accused()
        watch.detector.update("b", DEAD, now=0.0)
        assert watch.detector.health == 0


@covers("GOSSIP-64")
class TestSuspicion:
    @pytest.mark.parametrize(
        "nodes, confirmations, seconds",
        [(1, 0, 2), (3, 0, 2), (4, 0, 12), (4, 2, 2), (4, 9, 2), (10, 0, 12), (100, 2, 4), (100, 0, 24), (1000, 2, 6)],
    )
    def test_lasts(self, nodes: int, confirmations: int, seconds: float) -> None:
        assert suspicion_s(GossipTimers(), nodes, confirmations) == pytest.approx(seconds)

    def suspected(self, *witnesses: str) -> Watch:
        watch = silent(*"bcdefg")
        watch.detector.update("b", SUSPECT, now=0.0)
        for witness in witnesses:
            assert watch.detector.confirm("b", SUSPECT, witness)
        return watch

    @pytest.mark.parametrize(
        "witnesses, seconds", [("", 12.0), ("c", 12.0), ("cd", 5.691), ("cde", 2.0), ("cdefg", 2.0)]
    )
    def test_ends_with_a_verdict_the_sooner_the_more_have_seen_it(self, witnesses: str, seconds: float) -> None:
        watch = self.suspected(*witnesses)
        assert watch.pass_time(seconds + 0.01)[:1] == [(seconds, Verdict("b", SUSPECT, Rank.DEAD))]
        assert watch.detector.witnessed("b") is False

    def test_counts_each_witness_once_and_only_of_this_suspicion(self) -> None:
        watch = self.suspected("c")
        assert not watch.detector.confirm("b", SUSPECT, "c")
        assert not watch.detector.confirm("b", SUSPECT._replace(inc=1), "d")
        assert not watch.detector.confirm("c", SUSPECT, "d")
        assert watch.detector.confirm("b", SUSPECT, "a") and watch.detector.witnessed("b")

    def test_ends_when_it_is_contradicted(self) -> None:
        watch = self.suspected("c", "d", "e")
        watch.pass_time(1.9)
        watch.detector.update("b", ALIVE._replace(inc=1), now=watch.now)
        assert watch.pass_time(20) == []

    def test_does_not_begin_again_with_the_same_record(self) -> None:
        watch = self.suspected("c", "d", "e")
        watch.pass_time(1.9)
        watch.detector.update("b", SUSPECT, now=watch.now)
        assert [time for time, _ in watch.pass_time(0.11)] == [2.0]

    def test_begins_again_with_another(self) -> None:
        watch = self.suspected("c", "d", "e")
        watch.pass_time(1.9)
        watch.detector.update("b", SUSPECT._replace(inc=1), now=watch.now)
        assert watch.pass_time(11.9) == []
        assert watch.pass_time(0.2)[0][0] == 13.9

    def test_is_longer_for_who_hears_nobody(self) -> None:
        watch = silent("b", "c")
        for node_id in "bc":
            watch.ask(node_id)
        watch.pass_time(0.5)
        health = watch.detector.health
        assert health > 0
        watch.detector.update("b", SUSPECT, now=0.5)
        assert watch.pass_time(2 * (1 + health) - 0.1) == []
        assert [command.rank for _, command in watch.pass_time(0.2) if isinstance(command, Verdict)][:1] == [Rank.DEAD]


@covers("GOSSIP-63")
class TestPause:
    def test_ends_all_probes_without_a_word(self) -> None:
        watch = silent("b", "c")
        sequence = watch.ask()
        watch.now = 5.0
        watch.detector.paused(5.0, now=5.0)
        watch.detector._next_round = inf
        assert watch.pass_time(9) == []
        assert not watch.detector.answered(sequence, "b", now=9.0)

    def test_gives_suspects_the_time_that_was_lost(self) -> None:
        watch = silent("b", "c")
        watch.detector.update("b", SUSPECT, now=0.0)
        watch.pass_time(1.0)
        watch.now = 6.0
        watch.detector.paused(5.0, now=6.0)
        watch.detector._next_round = inf
        assert [time for time, _ in watch.pass_time(1.1)] == [7.0]

    def test_is_followed_by_quiet(self) -> None:
        watch = silent("b", "c")
        watch.detector.update("b", SUSPECT, now=0.0)
        watch.pass_time(1.99)
        watch.now = 4.0
        watch.detector.paused(2.0, now=4.0)
        watch.detector._next_round = inf
        assert [time for time, _ in watch.pass_time(1.0)] == [4.5], "half a second, though the time was over at 4.0"

    @covers("GOSSIP-73")
    def test_is_a_sign_of_bad_health(self) -> None:
        watch = silent("b")
        watch.detector.paused(5.0, now=5.0)
        assert watch.detector.health == 2

    def test_is_followed_by_a_round_at_once(self) -> None:
        watch = Watch("b")
        watch.detector.paused(5.0, now=5.0)
        watch.now = 5.0
        assert watch.detector.next_timer() == 5.0
        assert watch.pass_time(0)[0] == (5.0, AskDirectly("b", watch.detector._sequence))


@covers("GOSSIP-74")
class TestOutOfTurn:
    def test_many_are_asked_one_after_the_other(self) -> None:
        names = [f"n{number:03}" for number in range(100)]
        watch = silent(*names, probe_timeout_s=9.0)
        for name in names:
            watch.detector.probe_soon(name, now=0.0)
        at_once = [command.node_id for command in watch.wants()]
        assert at_once == names[:10]
        wanted = watch.pass_time(0.2)
        assert [command.node_id for _, command in wanted] == names[10:50]
        assert [command.node_id for _, command in watch.pass_time(1)] == names[50:]

    def test_who_goes_meanwhile_is_not_asked(self) -> None:
        watch = silent("b", "c", probe_rate=1.0)
        watch.detector.probe_soon("b", now=0.0)
        watch.detector.probe_soon("c", now=0.0)
        watch.wants()
        watch.detector.update("c", DEAD, now=0.0)
        watch.detector.answered(watch.detector._sequence, "b", now=0.0)
        assert watch.detector.next_timer() == inf
        assert watch.pass_time(9) == []

    def test_whose_turn_comes_meanwhile_is_asked_once(self) -> None:
        watch = silent("b", "c", probe_rate=1.0, probe_timeout_s=9.0)
        watch.detector.probe_soon("b", now=0.0)
        watch.detector.probe_soon("c", now=0.0)
        watch.wants()
        watch.ask("c")
        assert watch.pass_time(5) == []


@covers("GOSSIP-78")
class TestAskedAgain:
    def unanswered(self) -> Watch:
        watch = silent("b", "c", "d")
        self.no_answer(watch)
        watch.detector.update("b", SUSPECT, now=watch.now)
        assert watch.wants() == [] and not watch.detector.answers("b") and not watch.detector.health
        return watch

    def no_answer(self, watch: Watch) -> list[Command]:
        """To a probe, of which both helpers say so."""
        sequence = watch.ask()
        watch.pass_time(0.2)
        for _ in "cd":
            watch.detector.helper_answered(sequence)
        return [command for _, command in watch.pass_time(0.3)]

    def asked(self, watch: Watch) -> list[Command]:
        return [command for command in watch.wants() if isinstance(command, AskDirectly)]

    @pytest.mark.parametrize("record", [ALIVE._replace(inc=1), Record(8)], ids=["it contradicts", "another process"])
    def test_at_once_is_who_did_not_answer_and_is_alive_all_the_same(self, record: Record) -> None:
        watch = self.unanswered()
        watch.detector.update("b", record, now=watch.now)
        [command] = self.asked(watch)
        assert watch.answer(command) and watch.detector.answers("b")

    def test_is_who_contradicted_while_it_was_being_asked(self) -> None:
        watch = silent("b", "c", "d")
        sequence = watch.ask()
        watch.pass_time(0.2)
        for _ in "cd":
            watch.detector.helper_answered(sequence)
        watch.detector.update("b", ALIVE._replace(inc=1), now=watch.now)
        assert watch.wants() == []
        verdict, again = (command for _, command in watch.pass_time(0.3))
        assert verdict == Verdict("b", ALIVE, Rank.SUSPECT) and isinstance(again, AskDirectly)

    def test_is_nobody_twice_before_it_has_answered(self) -> None:
        watch = self.unanswered()
        watch.detector.update("b", ALIVE._replace(inc=1), now=watch.now)
        [command] = self.asked(watch)
        watch.pass_time(0.2)
        for _ in "cd":
            watch.detector.helper_answered(command.sequence)
        watch.pass_time(0.3)
        watch.detector.update("b", ALIVE._replace(inc=2), now=watch.now)
        assert self.asked(watch) == [] and not watch.detector.health
        watch.detector.answered(watch.ask(), "b", now=watch.now)
        self.no_answer(watch)
        watch.detector.update("b", ALIVE._replace(inc=3), now=watch.now)
        assert len(self.asked(watch)) == 1

    def test_is_nobody_before_its_health_is_good(self) -> None:
        watch = self.unanswered()
        watch.detector.accused()
        watch.detector.update("b", ALIVE._replace(inc=1), now=watch.now)
        assert watch.wants() == []
        watch.detector.answered(watch.ask("c"), "c", now=watch.now)
        assert len(self.asked(watch)) == 1
