"""The failure detector: its formula, its patience, and any order of answers (``spec/gossip.md``, Probing)."""

from __future__ import annotations

from math import log10
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pico.config import GossipTimers
from pico.protocol.gossip import Rank, Record
from pico.protocol.gossip.probing import (
    AskDirectly,
    AskHelpers,
    AskOverStream,
    FailureDetector,
    Verdict,
    suspicion_s,
)
from tests.rules import covers

ALIVE = Record(7)
NAMES = "bcde"


@covers("GOSSIP-64")
@given(
    st.integers(1, 10_000),
    st.integers(0, 9),
    st.floats(1, 10),
    st.floats(1, 10),
    st.integers(0, 5),
    st.floats(0.01, 5),
)
def test_a_suspicion_is_the_shorter_the_more_witnesses_and_has_bounds(nodes, others, factor, stretch, wanted, probe_s):
    timers = GossipTimers(
        suspicion_factor=factor, suspicion_stretch=stretch, suspicion_confirmations=wanted, probe_s=probe_s
    )
    shortest = factor * max(1, log10(nodes)) * probe_s
    times = [suspicion_s(timers, nodes, confirmations) for confirmations in range(others + 1)]
    assert times == sorted(times, reverse=True)
    assert all(shortest * 0.999 <= seconds <= shortest * stretch * 1.001 for seconds in times)
    assert suspicion_s(timers, nodes, wanted) == pytest.approx(shortest)
    assert suspicion_s(timers, nodes + 1, others) >= suspicion_s(timers, nodes, others) * 0.999


steps = st.lists(
    st.one_of(
        st.tuples(st.just("pass"), st.sampled_from([0.01, 0.1, 0.3, 0.5, 1.0, 3.0])),
        st.tuples(st.just("answer"), st.integers(0, 9)),
        st.tuples(st.just("nack"), st.integers(0, 9)),
        st.tuples(st.just("unsent"), st.sampled_from(NAMES)),
        st.tuples(st.just("probe"), st.sampled_from(NAMES)),
        st.tuples(st.just("soon"), st.sampled_from(NAMES)),
        st.tuples(st.just("gone"), st.sampled_from(NAMES)),
        st.tuples(st.just("there"), st.sampled_from(NAMES)),
        st.tuples(st.just("contradicts"), st.sampled_from(NAMES)),
        st.tuples(st.just("witness"), st.tuples(st.sampled_from(NAMES), st.sampled_from("cdexyz"))),
        st.tuples(st.just("accused"), st.none()),
        st.tuples(st.just("pause"), st.sampled_from([1.1, 7.0])),
    ),
    max_size=40,
)


class Run:
    """A detector, a table of records that obeys it, and what it may and may not do after each step."""

    def __init__(self, seed: int) -> None:
        self.timers = GossipTimers()
        self.detector = FailureDetector("a", self.timers, Random(seed), now=0.0)
        self.now = 0.0
        self.known: dict[str, Record] = {}
        self.asked: list[tuple[int, str, float]] = []
        self.answered: set[int] = set()
        self.suspected_at: dict[str, float] = {}
        self.resumed_at = 0.0
        self.paused_s = 0.0
        for name in NAMES:
            self.update(name, ALIVE)

    def update(self, name: str, record: Record) -> None:
        if self.known.get(name) != record:
            self.suspected_at.pop(name, None)
            if record.rank is Rank.SUSPECT:
                self.suspected_at[name] = self.now
        self.known[name] = record
        self.detector.update(name, record, now=self.now)

    def obey(self) -> None:
        for command in self.detector.commands():
            name = command.node_id
            if self.known[name].gone:
                continue  # since a verdict that came before in the same moment
            if isinstance(command, AskDirectly):
                self.asked.append((command.sequence, name, self.now))
            elif isinstance(command, AskHelpers):
                well = {
                    one
                    for one, record in self.known.items()
                    if one != name and record.rank is Rank.ALIVE and self.detector.answers(one)
                }
                assert set(command.helpers) <= well and len(command.helpers) == min(3, len(well))
            elif isinstance(command, Verdict):
                self.judge(command)
            else:
                assert isinstance(command, AskOverStream)

    def judge(self, verdict: Verdict) -> None:
        name, judged, rank = verdict
        assert self.now >= self.resumed_at + self.timers.probe_s or not self.resumed_at, "a verdict within a pause"
        if rank is Rank.SUSPECT:
            sequence, asked, at = next(one for one in reversed(self.asked) if one[1] == name)
            assert asked == name and sequence not in self.answered and self.now - at >= 0.4 - 1e-9
        else:
            shortest = suspicion_s(self.timers, len(self.detector._ring) + 1, 9)
            assert judged.rank is Rank.SUSPECT
            assert self.now - self.suspected_at[name] >= shortest - 1e-6, "a suspect without its time"
        record = judged._replace(rank=rank)
        if record > self.known[name]:
            self.update(name, record)
        self.detector.confirm(name, record, "a")

    def pass_time(self, seconds: float) -> None:
        until = self.now + seconds
        for _ in range(10_000):
            due = self.detector.next_timer()
            if due > until:
                break
            self.now = max(self.now, due)
            self.detector.handle_timer(now=self.now)
            self.obey()
        else:
            raise AssertionError("timers without end")
        self.now = until

    def step(self, what: str, how: object) -> None:
        if what == "pass":
            assert isinstance(how, float)
            self.pass_time(how)
        elif what == "answer" and self.asked:
            assert isinstance(how, int)
            sequence, name, _ = self.asked[-1 - how % len(self.asked)]
            taken = self.detector.answered(sequence, name, now=self.now)
            assert not (taken and sequence in self.answered), "one answer counts once"
            assert taken is False or self.detector.answers(name)
            self.answered |= {sequence} if taken else set()
        elif what == "nack" and self.asked:
            assert isinstance(how, int)
            self.detector.helper_answered(self.asked[-1 - how % len(self.asked)][0])
        elif what == "accused":
            self.detector.accused()
        elif what == "pause":
            assert isinstance(how, float)
            self.now = self.resumed_at = self.now + how
            self.detector.paused(how, now=self.now)
            for name in self.suspected_at:
                self.suspected_at[name] += how
        elif isinstance(how, tuple):
            self.detector.confirm(how[0], self.known[how[0]], how[1])
        elif isinstance(how, str):
            self.about(what, how)

    def about(self, what: str, name: str) -> None:
        record = self.known[name]
        if what == "unsent":
            self.detector.could_not_send(name, now=self.now)
        elif what == "probe":
            self.detector.probe(name, now=self.now)
        elif what == "soon":
            self.detector.probe_soon(name, now=self.now)
        elif what == "gone":
            self.update(name, record._replace(rank=Rank.DEAD))
        else:
            self.update(name, record._replace(inc=record.inc + 1, rank=Rank.ALIVE))


@covers("GOSSIP-60", "GOSSIP-61", "GOSSIP-63", "GOSSIP-64", "GOSSIP-73")
@given(st.integers(0, 2**32), steps)
def test_whatever_comes_in_whatever_order_nobody_is_judged_before_its_time(seed, script):
    run = Run(seed)
    for what, how in script:
        run.step(what, how)
        run.obey()
        detector = run.detector
        assert 0 <= detector.health <= 7
        assert {probe.node_id: key for key, probe in detector._probes.items()} == detector._probed
        assert set(detector._suspicions) <= {name for name, record in run.known.items() if not record.gone}
        assert sorted(detector._ring) == sorted(name for name, record in run.known.items() if not record.gone)
        assert 0 <= detector._turn <= len(detector._ring)


@covers("GOSSIP-61", "GOSSIP-64")
@given(st.integers(0, 2**32), steps)
def test_in_the_end_who_never_answers_is_dead_and_who_does_is_not(seed, script):
    run = Run(seed)
    for what, how in script:
        run.step(what, how)
        run.obey()
    run.about("there", "b")
    run.about("there", "c")
    run.obey()
    for _ in range(3_000):
        run.pass_time(0.05)
        for sequence, name, _ in run.asked[-8:]:
            if name != "b" and sequence not in run.answered and run.detector.answered(sequence, name, now=run.now):
                run.answered.add(sequence)
        for name in "cde":
            if run.known[name].rank is Rank.SUSPECT:  # it hears of it, and contradicts
                run.about("there", name)
        run.obey()
    assert run.known["b"].gone and not run.known["c"].gone


@covers("GOSSIP-65")
@given(st.integers(0, 2**32), st.lists(st.tuples(st.sampled_from("bcdefgh"), st.booleans()), max_size=60))
def test_who_stays_is_asked_in_each_pass_whoever_comes_and_goes(seed, script):
    """Between two questions to one node no other one that was there all the time is asked three times."""
    detector = FailureDetector("a", GossipTimers(), Random(seed), now=0.0)
    detector.update("stays", ALIVE, now=0.0)
    detector.update("too", ALIVE, now=0.0)
    now, asked = 0.0, []
    for name, there in [*script, *[("b", True)] * 20]:
        detector.update(name, ALIVE if there else None, now=now)
        now += 0.5
        detector.handle_timer(now=now)
        for command in detector.commands():
            if isinstance(command, AskDirectly):
                asked.append(command.node_id)
                detector.answered(command.sequence, command.node_id, now=now)
    both = [name for name in asked if name in ("stays", "too")]
    assert all(both[at : at + 3] != [both[at]] * 3 for at in range(len(both) - 2))
