"""Pushes: the tree reaches everyone once, the pusher keeps its window and its rate (``spec/gossip.md``, Pushes)."""

from __future__ import annotations

from bisect import bisect_left
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from pico.config import GossipTimers
from pico.protocol.gossip.pushing import GiveUp, Pusher, SendPush, delegates
from pico.protocol.gossip.table import EVERYBODY, NOBODY
from pico.protocol.gossip.values import Range
from tests.rules import covers

all_names = st.lists(st.text("abz0-", min_size=1, max_size=4), unique=True, min_size=1, max_size=120).map(sorted)


@covers("GOSSIP-67")
@given(all_names, st.integers(1, 12), st.integers(0, 2**32), st.data())
def test_delegates_part_the_names(names, fanout, seed, data):
    teller = data.draw(st.sampled_from(names) | st.text("abz0-", min_size=1, max_size=4))
    others = [name for name in names if name != teller]
    chosen = delegates(teller, others, EVERYBODY, fanout, Random(seed))
    assert len(chosen) <= min(max(2, fanout), len(others) or 0) or not others
    covered = []
    for delegate, range_ in chosen:
        part = [delegate] if range_ == NOBODY else [name for name in others if range_.holds(name)]
        assert delegate in part and not range_.holds(teller)
        covered += part
    assert covered == others


@covers("GOSSIP-67")
@given(all_names, st.integers(1, 12), st.integers(0, 2**32), st.data())
def test_the_tree_reaches_everyone_exactly_once(names, fanout, seed, data):
    root, rng = data.draw(st.sampled_from(names)), Random(seed)
    reached: list[str] = []
    waiting = [(root, EVERYBODY)]
    deepest = 0
    while waiting:
        teller, range_ = waiting.pop()
        if range_ == NOBODY:
            continue
        told = [name for name in names if name != teller and range_.holds(name)]
        chosen = delegates(teller, told, range_, fanout, rng)
        for delegate, part in chosen:
            assert part == NOBODY or (range_.above <= part.above and part.holds(delegate))
            reached.append(delegate)
        waiting += chosen
        deepest += 1
        assert deepest <= len(names)
    assert sorted(reached) == [name for name in names if name != root]


class Bench:
    """A pusher with others who answer, late or never."""

    def __init__(self, others: int, timers: GossipTimers, step: int) -> None:
        self.timers = timers
        self.pusher = Pusher("m", 7, timers, Random(1), now=0.0)
        self.names = [f"n{number:02}" for number in range(others)]
        self.step = step
        self.now = 0.0
        self.applied = 0
        self.sent: list[tuple[float, SendPush, int, bool]] = []  # when, what, up to where, again
        self.open: dict[int, SendPush] = {}
        self.has: dict[str, int] = dict.fromkeys(self.names, 0)
        self.answers: dict[str, set[int]] = {}

    def obey(self) -> None:
        while commands := self.pusher.commands():
            for command in commands:
                if isinstance(command, GiveUp):
                    continue
                again = any(command.sequence == push.sequence for _, push, _, _ in self.sent)
                upto = min(self.applied, command.start + self.step)
                self.sent.append((self.now, command, upto, again))
                self.pusher.sent(command, upto, now=self.now)

    def pass_time(self, seconds: float) -> None:
        until = self.now + seconds
        for _ in range(10_000):
            due = self.pusher.next_timer()
            if due is None or due > until:
                break
            self.now = max(self.now, due)
            self.pusher.handle_timer(self.names, self.applied, now=self.now)
            self.obey()
        else:
            raise AssertionError("timers without end")
        self.now = until

    def answer(self, index: int) -> None:
        if self.sent:
            _, push, upto, _ = self.sent[-1 - index % len(self.sent)]
            if push.start <= self.has[push.node_id]:
                self.has[push.node_id] = max(self.has[push.node_id], upto)
            self.pusher.answered(push.sequence, push.node_id, 7, self.has[push.node_id])
            self.obey()


script = st.lists(
    st.one_of(
        st.tuples(st.just("change"), st.integers(1, 30)),
        st.tuples(st.just("pass"), st.sampled_from([0.001, 0.005, 0.06, 0.2, 1.0])),
        st.tuples(st.just("answer"), st.integers(0, 40)),
        st.tuples(st.just("forget"), st.integers(0, 9)),
        st.tuples(st.just("relay"), st.integers(1, 9)),
    ),
    max_size=40,
)


@covers("GOSSIP-67", "GOSSIP-68")
@given(st.sampled_from([1, 2, 5, 40]), st.integers(1, 20), st.integers(1, 4), st.sampled_from([3.0, 50.0]), script)
def test_a_pusher_keeps_its_window_and_its_rate(others, step, window, rate, steps):
    bench = Bench(others, GossipTimers(push_window=window, packets_rate=rate), step)
    for what, how in steps:
        if what == "change":
            bench.applied += how
            bench.pusher.changed(now=bench.now)
        elif what == "pass":
            bench.pass_time(how)
        elif what == "answer":
            bench.answer(how)
        elif what == "forget":
            bench.pusher.forget(bench.names[how % others])
        else:
            bench.pusher.relay("z", how, Range("", ""), bench.names)
            bench.obey()
        unanswered = [pending.push.node_id for pending in bench.pusher._pending.values() if pending.push.direct]
        assert all(unanswered.count(name) <= window for name in set(unanswered))
        for name, told in bench.pusher._told.items():
            assert told.unanswered == unanswered.count(name) and told.applied <= max(told.upto, told.applied)
        assert set(bench.pusher._told) <= set(bench.names)
    new = [time for time, _, _, again in bench.sent if not again]
    overshoot = min(others, 32) + 12  # one round of all, or one of delegates, begins with one token
    for first, began in enumerate(new):
        within = bisect_left(new, began + 1.0) - first
        assert within <= 2 * rate + 2 * overshoot
    assert all(sum(push.sequence == one.sequence for _, one, _, _ in bench.sent) <= 3 for _, push, _, _ in bench.sent)


@covers("GOSSIP-67", "GOSSIP-68")
@given(st.integers(1, 6), st.integers(1, 20), st.integers(1, 4), st.integers(0, 2**32), script)
def test_who_answers_everything_has_everything_soon(others, step, window, seed, steps):
    """Without loss: whatever was done before, after a while nothing is missing and nothing more is sent."""
    bench = Bench(others, GossipTimers(push_window=window), step)
    for what, how in steps:
        if what == "change":
            bench.applied += how
            bench.pusher.changed(now=bench.now)
        elif what == "pass":
            bench.pass_time(how)
        elif what == "answer":
            bench.answer(how)
    bench.applied += 1
    bench.pusher.changed(now=bench.now)
    done, rng = len(bench.sent), Random(seed)
    bench.pass_time(0.5)  # what nobody answers any more is given up
    bench.applied += 1
    bench.pusher.changed(now=bench.now)
    done = len(bench.sent)
    for _ in range(2_000):
        bench.pass_time(0.005)
        order = list(range(done, len(bench.sent)))
        if not order and bench.pusher.next_timer() is None:
            break
        rng.shuffle(order)
        done = len(bench.sent)
        for index in order:
            bench.answer(len(bench.sent) - 1 - index)
    if len(bench.names) <= 32:
        assert set(bench.has.values()) == {bench.applied}
        assert bench.pusher.acknowledged(bench.names) == bench.applied
