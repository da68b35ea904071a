"""The supervisor: order, restarts, budget, escalation."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pykka
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pico.actors.messages import ChildExited
from pico.actors.runtime import GeventActor, GeventFuture, tell
from pico.actors.supervisor import (
    Child,
    ChildDidNotStart,
    Restart,
    RestartsExhausted,
    Supervisor,
)
from pico.errors import LocalProtocolError, TransportError
from tests.actors.census import let_others_run, nothing_left_behind

DEADLINE_S = 5.0


class Part(GeventActor):
    """A part that writes down its starts and ends, and can be told to do anything."""

    def __init__(self, name: str, diary: list[str], on_start: Callable[[], object] = lambda: None) -> None:
        super().__init__()
        self.name = name
        self.diary = diary
        self._on_start = on_start

    def on_start(self) -> None:
        self._on_start()
        self.diary.append(f"+{self.name}")

    def on_receive(self, message: Any) -> Any:
        return message()

    def on_exit(self, reason: BaseException | None) -> None:
        self.diary.append(f"-{self.name}")


class World:
    """A supervisor over parts named by letters, with a clock that the test moves."""

    def __init__(self, names: str = "abc", **policies: Restart) -> None:
        self.diary: list[str] = []
        self.time = 0.0
        self.escalated: list[BaseException] = []
        self.restarted: list[str] = []
        self.starts: dict[str, Callable[[], object]] = {}
        self.greenlet: Any = None  # the supervisor's
        self.supervisor = Supervisor(
            [self.child(name, policies.get(name, Restart.PERMANENT)) for name in names],
            now=lambda: self.time,
            escalate=self.escalated.append,
            restarted=self.restarted.append,
        )

    def child(self, name: str, restart: Restart) -> Child:
        def build() -> Part:
            self.greenlet = gevent.getcurrent()
            return Part(name, self.diary, self.starts.get(name, lambda: None))

        return Child(
            name=name,
            build=build,
            restart=restart,
            start_s=0.05,
            stop_s=0.05,
        )

    def start(self) -> pykka.ActorRef[Supervisor]:
        ref = self.supervisor.launch()
        self.supervisor.started.get(timeout=DEADLINE_S)
        return ref

    def ref(self, name: str) -> pykka.ActorRef[Any]:
        ref = self.supervisor.ref(name)
        assert ref is not None
        return ref

    def crash(self, name: str, error: BaseException | None = None) -> None:
        """Let a part fail and the supervisor see to it."""
        tell(self.ref(name), _raiser(error or ValueError(f"{name} broke")))
        self.settle()

    def end(self, name: str) -> None:
        """Let a part stop by itself."""
        self.ref(name).stop(timeout=DEADLINE_S)
        self.settle()

    def settle(self) -> None:
        let_others_run(40)

    def stop(self) -> None:
        self.supervisor.actor_ref.stop(timeout=DEADLINE_S)


def _raiser(error: BaseException) -> Callable[[], Any]:
    def raise_it() -> Any:
        raise error

    return raise_it


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    with nothing_left_behind():
        yield


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    world.start()
    world.diary.clear()
    yield world
    world.stop()


class TestOrder:
    def test_parts_start_in_order_and_stop_in_reverse(self) -> None:
        world = World()
        world.start()
        world.stop()
        assert world.diary == ["+a", "+b", "+c", "-c", "-b", "-a"]
        assert world.escalated == []

    def test_a_part_starts_only_when_the_one_before_has_started(self) -> None:
        world = World()
        world.starts["a"] = lambda: let_others_run(5)
        world.start()
        world.stop()
        assert world.diary[:3] == ["+a", "+b", "+c"]

    def test_a_part_that_does_not_stop_in_time_does_not_keep_the_others(
        self, world: World, caplog: pytest.LogCaptureFixture
    ) -> None:
        held: GeventFuture[None] = GeventFuture()
        tell(world.ref("b"), held.get)
        let_others_run()
        world.stop()
        assert world.diary == ["-c", "-a"]
        assert "b did not stop" in caplog.text
        held.set(None)
        world.settle()
        assert world.diary == ["-c", "-a", "-b"]

    def test_parts_are_found_by_their_names(self, world: World) -> None:
        assert world.ref("b").actor_class is Part
        with pytest.raises(LocalProtocolError, match="z"):
            world.supervisor.ref("z")


class TestRestart:
    def test_the_one_that_failed_and_the_rest_are_started_anew(self, world: World) -> None:
        first = world.ref("a")
        world.crash("b")
        assert world.diary == ["-b", "-c", "+b", "+c"]
        assert world.ref("a") is first
        assert world.restarted == ["b"]

    @pytest.mark.parametrize("error", [gevent.Timeout(1), SystemExit(3), TransportError("expected")])
    def test_whatever_was_raised(self, world: World, error: BaseException) -> None:
        world.crash("c", error)
        assert world.diary == ["-c", "+c"]

    def test_a_kill_counts_as_a_failure(self, world: World) -> None:
        greenlet = world.ref("c").ask(gevent.getcurrent, timeout=DEADLINE_S)
        gevent.kill(greenlet)
        world.settle()
        assert world.diary == ["-c", "+c"]

    def test_a_permanent_part_is_restarted_after_an_orderly_end_too(self, world: World) -> None:
        world.end("a")
        assert world.diary == ["-a", "-c", "-b", "+a", "+b", "+c"]

    def test_a_transient_part_only_after_a_failure(self) -> None:
        world = World(a=Restart.TRANSIENT)
        world.start()
        world.crash("a")
        assert world.diary[-3:] == ["+a", "+b", "+c"]
        world.end("a")
        assert world.diary[-1] == "-a"
        assert world.supervisor.ref("a") is None
        world.stop()

    def test_a_part_that_has_ended_for_good_is_not_started_with_the_rest(self) -> None:
        world = World(b=Restart.TRANSIENT)
        world.start()
        world.diary.clear()
        world.end("b")
        assert world.diary == ["-b"]
        world.crash("a")
        assert world.diary == ["-b", "-a", "-c", "+a", "+c"]
        world.stop()

    def test_two_that_fail_at_once_are_both_seen_to(self, world: World) -> None:
        tell(world.ref("b"), _raiser(ValueError("one")))
        tell(world.ref("c"), _raiser(ValueError("other")))
        world.settle()
        assert world.diary[-2:] == ["+b", "+c"]
        assert all(world.ref(name).is_alive() for name in "abc")
        assert world.restarted == ["b"]

    def test_news_of_a_part_that_was_replaced_is_no_news(self, world: World) -> None:
        old = world.ref("c")
        world.crash("c")
        world.diary.clear()
        tell(world.supervisor.actor_ref, ChildExited(old, ValueError("late")))
        world.settle()
        assert world.diary == []


class TestBudget:
    def test_past_five_restarts_in_thirty_seconds_the_failure_climbs(self, world: World) -> None:
        for _ in range(5):
            world.crash("c")
            world.time += 1.0
        assert world.escalated == []
        world.crash("c")
        (reason,) = world.escalated
        assert isinstance(reason, RestartsExhausted)
        assert isinstance(reason.__cause__, ValueError)
        assert world.diary[-2:] == ["-b", "-a"]
        assert not world.supervisor.actor_ref.is_alive()

    def test_slower_failures_go_on_for_ever(self, world: World) -> None:
        for _ in range(12):
            world.crash("c")
            world.time += 6.01
        assert world.escalated == []
        assert world.ref("c").is_alive()

    def test_a_part_that_cannot_start_again_uses_the_budget_up(self, world: World) -> None:
        world.starts["b"] = _raiser(TransportError("no"))
        world.crash("b")
        assert len(world.restarted) == 5
        (reason,) = world.escalated
        assert isinstance(reason, RestartsExhausted)

    def test_a_part_that_starts_again_at_the_second_attempt(self, world: World) -> None:
        attempts = []

        def second_time() -> None:
            attempts.append(1)
            if len(attempts) < 2:
                raise TransportError("no")

        world.starts["c"] = second_time
        world.crash("b")
        assert world.restarted == ["b", "c"]
        assert all(world.ref(name).is_alive() for name in "abc")


class TestStart:
    @pytest.mark.parametrize("error", [TransportError("the port is taken"), ValueError("bug"), gevent.Timeout(1)])
    def test_a_failing_on_start_reaches_the_supervisor_and_what_ran_is_stopped(self, error: BaseException) -> None:
        world = World()
        world.starts["b"] = _raiser(error)
        with pytest.raises(ChildDidNotStart, match="b did not start"):
            world.start()
        world.settle()
        assert world.diary == ["+a", "-b", "-a"]
        assert [type(reason) for reason in world.escalated] == [ChildDidNotStart]
        assert world.restarted == []

    def test_the_reason_is_one_sentence_and_its_traceback_is_nowhere(self, caplog: pytest.LogCaptureFixture) -> None:
        world = World()
        world.starts["a"] = _raiser(TransportError("the port is taken"))
        with pytest.raises(ChildDidNotStart, match="^a did not start: the port is taken$"):
            world.start()
        assert caplog.records == [], "whoever waits for the start is told, and says it once"

    def test_a_bug_in_on_start_shows_its_traceback_once(self, caplog: pytest.LogCaptureFixture) -> None:
        world = World()
        world.starts["a"] = _raiser(ValueError("bug"))
        with pytest.raises(ChildDidNotStart):
            world.start()
        assert sum(record.exc_info is not None for record in caplog.records) == 1

    def test_a_part_that_takes_too_long_is_given_up_and_ends_when_it_gets_there(self) -> None:
        world = World()
        held: GeventFuture[None] = GeventFuture()
        world.starts["b"] = held.get
        with pytest.raises(ChildDidNotStart, match="not within"):
            world.start()
        held.set(None)
        world.settle()
        assert world.diary == ["+a", "-a", "+b", "-b"]

    def test_a_part_that_cannot_be_built_is_a_bug_and_ends_it_all(self) -> None:
        world = World()

        def build() -> GeventActor:
            raise KeyError("wiring")

        broken = Child(name="z", build=build)
        supervisor = Supervisor(
            [world.child("a", Restart.PERMANENT), broken],
            now=lambda: 0.0,
            escalate=world.escalated.append,
            restarted=world.restarted.append,
        )
        supervisor.launch()
        with pytest.raises(KeyError):
            supervisor.started.get(timeout=DEADLINE_S)
        assert world.diary == ["+a", "-a"]

    def test_a_bug_in_the_supervisor_itself_stops_the_parts(self, world: World) -> None:
        tell(world.supervisor.actor_ref, "not a message of its own")
        world.settle()
        assert world.diary == ["-c", "-b", "-a"]
        assert isinstance(world.escalated[0], AssertionError)

    def test_so_does_a_kill_of_its_greenlet(self, world: World) -> None:
        gevent.kill(world.greenlet)
        world.settle()
        assert world.diary == ["-c", "-b", "-a"]
        assert isinstance(world.escalated[0], gevent.GreenletExit)


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.floats(0.0, 20.0)), max_size=12))
def test_after_any_crashes_either_all_live_or_none_does(crashes: list[tuple[str, float]]) -> None:
    logging.getLogger("pico.actors").disabled = True
    world = World("abcd")
    world.start()
    times: list[float] = []
    for name, pause_s in crashes:
        if world.escalated:
            break
        world.time += pause_s
        times = [time for time in times if time > world.time - 30.0]
        world.crash(name)
        assert bool(world.escalated) == (len(times) >= 5)
        times.append(world.time)
    alive = [ref is not None and ref.is_alive() for ref in map(world.supervisor.ref, "abcd")]
    assert alive == [not world.escalated] * 4
    world.stop()
    assert sorted(entry[1] for entry in world.diary if entry[0] == "+") == sorted(
        entry[1] for entry in world.diary if entry[0] == "-"
    )
    logging.getLogger("pico.actors").disabled = False
