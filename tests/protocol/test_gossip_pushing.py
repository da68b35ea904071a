"""Telling changes at once: to whom, how far, again, and not too much (``spec/gossip.md``, Pushes)."""

from __future__ import annotations

from random import Random

import pytest

from pico.config import GossipTimers
from pico.protocol.gossip.pushing import GiveUp, Pusher, SendPush, delegates
from pico.protocol.gossip.table import EVERYBODY, NOBODY
from pico.protocol.gossip.values import Range
from tests.rules import covers

LIFE = 7


class Desk:
    """A pusher, its clock, the other nodes, and how much there is to say; a packet holds ``step`` versions."""

    def __init__(self, *names: str, step: int = 100, **timers: float) -> None:
        self.timers = GossipTimers(**timers)  # type: ignore[arg-type]
        self.pusher = Pusher("a", LIFE, self.timers, Random(1), now=0.0)
        self.names = sorted(names)
        self.applied = 0
        self.step = step
        self.now = 0.0

    def change(self, count: int = 1) -> None:
        self.applied += count
        self.pusher.changed(now=self.now)

    def obey(self) -> list[SendPush | GiveUp]:
        done = []
        while commands := self.pusher.commands():
            for command in commands:
                done.append(command)
                if isinstance(command, SendPush):
                    upto = min(self.applied, command.start + self.step)
                    self.pusher.sent(command, upto, now=self.now)
        return done

    def pass_time(self, seconds: float) -> list[tuple[float, SendPush | GiveUp]]:
        until, done = self.now + seconds, []
        while (due := self.pusher.next_timer()) is not None and due <= until:
            self.now = max(self.now, due)
            self.pusher.handle_timer(self.names, self.applied, now=self.now)
            done += [(round(self.now, 4), command) for command in self.obey()]
        self.now = until
        return done

    def pushes(self, seconds: float) -> list[SendPush]:
        return [command for _, command in self.pass_time(seconds) if isinstance(command, SendPush)]

    def answer(self, push: SendPush, applied: int | None = None) -> list[SendPush | GiveUp]:
        upto = min(self.applied, push.start + self.step) if applied is None else applied
        self.pusher.answered(push.sequence, push.node_id, LIFE, upto)
        return self.obey()


@covers("GOSSIP-67")
class TestFew:
    def test_each_is_told_what_is_new(self) -> None:
        desk = Desk("b", "c")
        desk.change()
        pushes = desk.pass_time(0.04)
        assert [(time, push[:4]) for time, push in pushes] == [
            (0.005, ("b", "a", 0, NOBODY)),
            (0.005, ("c", "a", 0, NOBODY)),
        ]
        for _, push in pushes:
            assert isinstance(push, SendPush) and desk.answer(push) == []
        desk.change()
        assert [push.start for push in desk.pushes(0.04)] == [1, 1]

    @covers("GOSSIP-68")
    def test_what_changes_within_a_moment_is_told_together(self) -> None:
        desk = Desk("b")
        desk.change()
        assert desk.pass_time(0.004) == []
        desk.change()
        [(time, _)] = desk.pass_time(0.01)
        assert time == 0.005

    def test_what_is_on_its_way_is_not_told_again(self) -> None:
        desk = Desk("b")
        desk.change(3)
        desk.pushes(0.01)
        desk.change()
        assert [push.start for push in desk.pushes(0.01)] == [3]
        desk.pusher.changed(now=desk.now)
        assert desk.pushes(0.01) == []

    def test_who_has_said_how_far_it_is_is_told_the_rest(self) -> None:
        desk = Desk("b")
        desk.change(9)
        desk.pusher.has_applied("b", 5)
        desk.pusher.has_applied("b", 4)
        assert [push.start for push in desk.pushes(0.01)] == [5]

    def test_long_news_fill_packets_up_to_the_window(self) -> None:
        desk = Desk("b", step=10, push_window=3)
        desk.change(100)
        pushes = desk.pushes(0.01)
        assert [push.start for push in pushes] == [0, 10, 20]
        assert [push.start for push in desk.answer(pushes[1]) if isinstance(push, SendPush)] == [30]
        assert desk.answer(pushes[1]) == [], "an answer counts once"

    def test_who_does_not_answer_is_told_again_and_then_given_up(self) -> None:
        desk = Desk("b")
        desk.change()
        [(_, first), *rest] = desk.pass_time(9)
        assert rest == [(0.045, first), (0.125, first), (0.325, GiveUp("b"))]
        assert isinstance(first, SendPush) and desk.answer(first) == []
        desk.change()
        assert [push.start for push in desk.pushes(0.01)] == [0], "it has not said that it has anything"

    def test_who_answers_is_not_told_again(self) -> None:
        desk = Desk("b")
        desk.change()
        [push] = desk.pushes(0.1)[:1]
        desk.answer(push)
        assert desk.pass_time(9) == []

    def test_an_answer_counts_for_its_push_only(self) -> None:
        desk = Desk("b", "c")
        desk.change()
        one, two = desk.pushes(0.01)
        desk.pusher.answered(one.sequence, "c", LIFE, 1)
        desk.pusher.answered(two.sequence + 1, "c", LIFE, 1)
        assert len(desk.pushes(0.06)) == 2, "both again"
        desk.pusher.answered(one.sequence, "b", LIFE + 1, 5)
        assert desk.pusher.acknowledged(["b"]) == 0, "of another life of ours"

    def test_who_says_that_it_has_less_is_not_believed_to_have_more(self) -> None:
        desk = Desk("b")
        desk.change(5)
        [push] = desk.pushes(0.01)
        desk.answer(push, applied=0)
        assert desk.pusher.acknowledged(["b"]) == 0
        assert desk.pushes(9) == [], "nor told again at once: it would go on for ever"
        desk.change()
        assert [push.start for push in desk.pushes(0.04)] == [0]

    def test_what_came_in_another_order_is_told_again_from_where_it_is(self) -> None:
        desk = Desk("b", step=1)
        desk.change(3)
        first, second, third = desk.pushes(0.01)
        assert desk.answer(second, 0) == [] and desk.answer(third, 0) == [], "they came too early"
        assert desk.answer(first, 1) == [second]
        assert desk.answer(second, 2) == [third]
        assert desk.answer(third, 3) == [] and desk.pass_time(9) == []

    def test_who_says_again_that_it_came_too_early_is_not_told_again_for_that(self) -> None:
        desk = Desk("b")
        desk.change(5)
        desk.pusher.has_applied("b", 5)
        desk.change()
        [push] = desk.pushes(0.01)
        assert [desk.answer(push, applied) for applied in (0, 0, 3, 4)] == [[]] * 4
        assert desk.pass_time(9)[-1][1] == GiveUp("b"), "it is repeated and given up as one that was not answered"

    def test_who_goes_is_told_nothing_more(self) -> None:
        desk = Desk("b", "c")
        desk.change()
        desk.pushes(0.01)
        desk.pusher.forget("b")
        desk.pusher.forget("b")
        assert {push.node_id for push in desk.pushes(0.1)} == {"c"}
        assert desk.pusher.acknowledged(["b"]) == 0

    def test_a_new_life_is_told_from_its_beginning(self) -> None:
        desk = Desk("b")
        desk.change(5)
        [push] = desk.pushes(0.01)
        desk.answer(push)
        desk.applied = 2
        desk.pusher.life_began(LIFE + 1, now=desk.now)
        assert [push.start for push in desk.pushes(0.04)] == [0]
        desk.pusher.answered(push.sequence, "b", LIFE, 5)
        assert desk.pusher.acknowledged(["b"]) == 0, "an answer to the life before"

    def test_nobody_is_told_when_nobody_is_there(self) -> None:
        desk = Desk()
        desk.change()
        assert desk.pass_time(9) == [] and desk.pusher.next_timer() is None


@covers("GOSSIP-75")
def test_acknowledged_is_what_all_have() -> None:
    desk = Desk("b", "c")
    desk.change(9)
    assert desk.pusher.acknowledged(["b", "c"]) == desk.pusher.acknowledged([]) == 0
    desk.pusher.has_applied("b", 4)
    desk.pusher.has_applied("c", 7)
    assert desk.pusher.acknowledged(["b", "c"]) == 4
    assert desk.pusher.acknowledged(["b", "c", "d"]) == 0


@covers("GOSSIP-67")
class TestMany:
    NAMES = tuple(f"n{number:02}" for number in range(40))

    def test_delegates_are_told_for_their_ranges(self) -> None:
        desk = Desk(*self.NAMES)
        desk.change()
        pushes = desk.pushes(0.01)
        assert len(pushes) == 8 and all(push.owner == "a" and push.start == 0 for push in pushes)
        for push in pushes:
            assert push.range.holds(push.node_id)
        reached = [[name for name in self.NAMES if push.range.holds(name)] for push in pushes]
        assert [name for part in reached for name in part] == list(self.NAMES)

    def test_the_rest_of_long_news_follows_from_where_the_first_packets_end(self) -> None:
        desk = Desk(*self.NAMES, step=10)
        desk.change(25)
        assert [push.start for push in desk.pushes(0.03)] == [0] * 8 + [10] * 8 + [20] * 8

    def test_only_what_is_new_is_told_the_next_time(self) -> None:
        desk = Desk(*self.NAMES)
        desk.change(3)
        for push in desk.pushes(0.01):
            assert desk.answer(push) == []
        desk.pusher.changed(now=desk.now)
        assert desk.pushes(0.04) == []
        desk.change()
        assert {push.start for push in desk.pushes(0.04)} == {3}

    def test_who_were_few_before_are_not_told_all_again(self) -> None:
        desk = Desk(*self.NAMES[:32])
        desk.change(5)
        for push in desk.pushes(0.01):
            desk.answer(push)
        desk.names = list(self.NAMES)
        desk.change()
        assert {push.start for push in desk.pushes(0.04)} == {5}

    def test_a_delegate_that_does_not_answer_is_told_again_and_given_up(self) -> None:
        desk = Desk(*self.NAMES)
        desk.change()
        first = desk.pushes(0.01)
        for push in first[1:]:
            desk.answer(push)
        assert [command for _, command in desk.pass_time(9)] == [first[0], first[0], GiveUp(first[0].node_id)]

    def test_news_of_another_node_are_told_on(self) -> None:
        desk = Desk(*self.NAMES)
        desk.pusher.relay("z", 4, Range("n", "n02"), ["n00", "n01", "n02"])
        pushes = [command for command in desk.obey() if isinstance(command, SendPush)]
        assert [push[:4] for push in pushes] == [(name, "z", 4, NOBODY) for name in ("n00", "n01", "n02")]
        desk.pusher.answered(pushes[0].sequence, "n00", LIFE, 99)
        assert desk.pusher.acknowledged(["n00"]) == 0, "it is not our own"
        assert [command for _, command in desk.pass_time(9)][-1] == GiveUp("n02")
        assert "n00" not in desk.pusher._told

    def test_to_nobody_is_told_on_nothing(self) -> None:
        desk = Desk()
        desk.pusher.relay("z", 4, EVERYBODY, [])
        assert desk.obey() == []


@covers("GOSSIP-68")
class TestRate:
    def test_without_a_token_nothing_new_is_told(self) -> None:
        desk = Desk("b", "c", packets_rate=2.0)
        desk.change()
        for push in desk.pushes(0.01):
            desk.answer(push)
        desk.change()
        assert desk.pushes(0.4) == []
        desk.change()
        pushes = desk.pass_time(0.2)
        assert [push.start for _, push in pushes if isinstance(push, SendPush)][:2] == [1, 1], "both changes together"

    def test_repeats_cost_tokens_too(self) -> None:
        desk = Desk("b", packets_rate=2.0)
        desk.change()
        desk.pass_time(0.4)
        desk.change()
        assert next(round(time, 1) for time, _ in desk.pass_time(1)) == 1.0

    def test_a_window_goes_on_when_there_are_tokens_again(self) -> None:
        desk = Desk("b", step=1, push_window=2, packets_rate=10.0)
        desk.change(30)
        starts = set()
        for _ in range(500):
            for push in desk.pushes(0.01):
                starts.add(push.start)
                starts |= {more.start for more in desk.answer(push) if isinstance(more, SendPush)}
        assert len(starts) >= 29

    def test_news_of_others_are_not_told_on_without_a_token(self) -> None:
        desk = Desk("b", "c", packets_rate=1.0)
        desk.pusher.relay("z", 0, EVERYBODY, ["b", "c"])
        assert len(desk.obey()) == 2
        desk.pusher.relay("z", 1, EVERYBODY, ["b", "c"])
        assert desk.obey() == []


@covers("GOSSIP-67")
@pytest.mark.parametrize("teller, parts", [("a", 3), ("m", 4), ("z", 3)])
def test_no_part_has_the_teller_between_its_names(teller: str, parts: int) -> None:
    names = ["b", "c", "d", "n", "o", "p", "q"]
    chosen = delegates(teller, names, EVERYBODY, 3, Random(1))
    assert len(chosen) <= parts and not any(range_.holds(teller) for _, range_ in chosen)
