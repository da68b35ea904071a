"""The actor of one peer: built and handed what a dial brings, on streams in memory and a clock moved by hand."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from gevent.event import AsyncResult

from pico.actors.gossip_peer import FORMER_LOOK_S, GossipPeer
from pico.actors.messages import DialLink, PeerReady, PeerUnreachable, RetirePeer
from pico.actors.runtime import tell
from pico.config import PeerLimits
from pico.errors import ConnectFailed
from pico.protocol.channel import Purpose
from pico.protocol.http import RequestHead, ResponseHead
from pico.protocol.rpc import ResetCode, StreamReset
from pico.transport.clock import ManualClock
from pico.transport.memory import memory_pair
from tests.actors.census import let_others_run, nothing_left_behind
from tests.actors.meshes import Accepted, channel
from tests.actors.test_endpoint_pool import Waiter
from tests.rules import covers

LIMITS = PeerLimits()
ADDRESS = ("10.0.0.2", 8003)
GET = RequestHead(b"GET", b"/", b"Host: a.b\r\n", 0, b"")


@dataclass
class Stage:
    """A peer's actor, and what its dials come to."""

    clock: ManualClock = field(default_factory=ManualClock)
    outcomes: list = field(default_factory=list)  # of dials: "link", an error, or an AsyncResult that blocks
    dials: list = field(default_factory=list)
    accepted: list[Accepted] = field(default_factory=list)
    streams: list = field(default_factory=list)
    changes: list = field(default_factory=list)
    exits: list = field(default_factory=list)
    changed_raises: bool = False

    def start(self, *outcomes) -> Stage:
        self.outcomes += outcomes
        self.actor = GossipPeer("other", ADDRESS, self.dial, self.clock, LIMITS, self.changed)
        self.actor.exit_listener = lambda ref, reason: self.exits.append(reason)
        self.actor.launch()
        self.run()
        return self

    def dial(self, address, node_id):
        self.dials.append(self.clock.now())
        assert (address, node_id) == (ADDRESS, "other")
        outcome = self.outcomes.pop(0) if self.outcomes else ConnectFailed("nobody is there")
        if isinstance(outcome, AsyncResult):
            outcome = outcome.get(timeout=5)
        if isinstance(outcome, BaseException):
            raise outcome
        near, far = memory_pair(self.clock)
        self.accepted.append(Accepted(far, self.clock, LIMITS))
        self.streams.append(near)
        return near, channel(Purpose.LINK, "other")

    def changed(self, node_id: str, up: bool) -> None:
        if self.changed_raises:
            raise RuntimeError("seeded fault")
        assert node_id == "other"
        self.changes.append(up)

    def run(self, seconds: float = 0.0) -> None:
        for _ in range(3):
            self.clock.advance()
            let_others_run()
        while seconds > 0:
            step = min(seconds, 0.01)
            seconds -= step
            self.clock.advance(step)
            let_others_run(3)

    def stop(self) -> None:
        self.actor.actor_ref.stop(block=False)
        self.run(0.1)


def pauses_between(times: list[float]) -> list[float]:
    return [later - earlier for earlier, later in pairwise(times)]


@pytest.fixture
def stage():
    with nothing_left_behind():
        made = Stage()
        yield made
        made.stop()
        made.run(PeerLimits().channel_limits.close_s + 0.1)
        del made.actor


def test_a_peer_is_dialled_at_once_and_its_link_carries_requests(stage):
    stage.start("link")
    upstream = stage.actor.upstream
    assert stage.dials == [0.0]
    assert stage.changes == [True]
    assert upstream.open and upstream.may_open and not upstream.leaving
    events = []
    upstream.multiplexer.open(GET, b"", True, events.append)
    stage.run()
    assert upstream.in_flight == stage.accepted[0].multiplexer.in_flight == 1


def test_a_link_that_lived_for_a_while_is_dialled_again_at_once(stage):
    stage.start("link", "link")
    stage.run(LIMITS.link_stable_s + 0.1)
    stage.accepted[0].stream.abort()
    stage.run()
    assert stage.changes == [True, False, True]
    assert stage.actor.upstream.open
    assert stage.dials[1] == stage.clock.now()


def test_links_that_are_dropped_as_soon_as_they_are_made_are_dialled_with_growing_pauses(stage):
    stage.start(*["link"] * 100)
    for _ in range(400):
        if stage.actor.upstream.open:
            stage.accepted[-1].stream.abort()
        stage.run(0.02)
    pauses = pauses_between(stage.dials)
    assert 4 <= len(pauses) <= 9
    assert pauses[0] < 0.2
    assert pauses[-1] > 1.0


def test_a_peer_that_cannot_be_reached_is_dialled_with_growing_pauses_up_to_the_longest(stage):
    stage.start()
    stage.run(12.0)
    pauses = pauses_between(stage.dials)
    assert pauses[:4] == pytest.approx([0.1, 0.2, 0.4, 0.8], abs=0.03)
    assert max(pauses) == pytest.approx(LIMITS.redial_max_s, abs=0.03)
    assert set(stage.changes) == {False}
    upstream = stage.actor.upstream
    assert not upstream.open and not upstream.may_open and not upstream.may_connect and upstream.leaving


def test_after_a_success_the_pauses_begin_anew(stage):
    stage.start(*[ConnectFailed("not yet")] * 4, "link")
    stage.run(3.0)
    assert stage.actor.upstream.open
    stage.accepted[0].stream.abort()
    stage.run(0.35)
    assert pauses_between(stage.dials[5:]) == pytest.approx([0.1, 0.2], abs=0.03)


def test_a_request_that_wants_a_link_does_not_wait_for_the_pause(stage):
    stage.start("link", "link")
    stage.accepted[0].stream.abort()
    stage.run()
    waiter = Waiter()
    upstream = stage.actor.upstream
    assert upstream.may_connect
    assert upstream.connect(waiter) == stage.clock.now() + LIMITS.dial_s
    stage.run()
    assert waiter.told == [PeerReady("other")]


def test_a_request_that_waits_hears_that_the_peer_cannot_be_reached(stage):
    answer = AsyncResult()
    stage.start(answer)
    waiter = Waiter()
    stage.actor.upstream.connect(waiter)
    stage.run()
    assert not waiter.told
    assert len(stage.dials) == 1, "one dial at a time"
    answer.set(ConnectFailed("nobody is there"))
    stage.run()
    assert waiter.told == [PeerUnreachable("other")]


def test_a_peer_that_goes_away_takes_nothing_new_and_keeps_what_it_has(stage):
    stage.start("link")
    upstream, events = stage.actor.upstream, []
    upstream.multiplexer.open(GET, b"", True, events.append)
    stage.run()
    stage.accepted[0].multiplexer.goaway("leaving")
    stage.run()
    assert upstream.leaving and not upstream.may_open and upstream.open
    assert upstream.in_flight == 1 and not events


def test_a_link_that_falls_silent_is_lost(stage):
    stage.start("link")
    stage.accepted[0].multiplexer._timer.stop()
    stage.accepted[0].multiplexer._stream.pause_reading()  # it hears nothing and says nothing any more
    stage.run(LIMITS.rpc_limits.silence_s + 1.0)
    assert stage.changes[:2] == [True, False]
    assert not stage.actor.upstream.open


def test_whoever_accepts_a_link_opens_nothing_on_it(stage):
    stage.start("link")
    events = []
    stage.accepted[0].multiplexer.open(GET, b"", True, events.append)
    stage.run()
    (reset,) = events
    assert (reset.code, reset.untouched) == (ResetCode.REFUSED, True)
    assert stage.actor.upstream.open


def test_its_end_closes_the_link_and_lets_nobody_wait(stage):
    stage.start("link")
    stage.stop()
    assert stage.exits == [None]
    assert stage.accepted[0].ended
    assert stage.streams[0].closed
    assert stage.actor.upstream.leaving and not stage.actor.upstream.open
    stage.run(5.0)
    assert stage.dials == [0.0], "it does not dial any more"


@covers("CLUSTER-23")
def test_what_is_in_flight_on_the_link_to_a_former_process_ends_before_the_link(stage):
    stage.start("link")
    upstream, events, opened = stage.actor.upstream, [], []
    stage.accepted[0].stream_opened = opened.append
    upstream.multiplexer.open(GET, b"", True, events.append)
    stage.run()
    tell(stage.actor.actor_ref, RetirePeer())
    stage.run(1.0)
    assert upstream.leaving and not upstream.may_connect and not upstream.open, "nothing new"
    assert not stage.exits and not events
    stage.accepted[0].multiplexer.send_head(opened[0].stream, ResponseHead(200, b"OK", b"", 0, b""), end=True)
    stage.run(2 * FORMER_LOOK_S)
    assert len(events) == 1 and not isinstance(events[0], StreamReset)
    assert stage.exits == [None]
    assert stage.accepted[0].ended
    assert (stage.changes, stage.dials) == ([True], [0.0])


@covers("CLUSTER-23")
@pytest.mark.parametrize("ends", ["before", "while it is kept"])
def test_a_link_to_a_former_process_that_ends_is_not_dialled_again(stage, ends):
    stage.start("link")
    events, waiter = [], Waiter()
    if ends == "before":
        stage.accepted[0].stream.abort()
        stage.run()
        assert stage.actor.upstream.connect(waiter)
    else:
        stage.actor.upstream.multiplexer.open(GET, b"", True, events.append)
    tell(stage.actor.actor_ref, RetirePeer())
    stage.run()
    if ends != "before":
        assert not stage.exits
        stage.accepted[0].stream.abort()
        stage.run()
        assert [event.code for event in events] == [ResetCode.LOST]
    assert stage.exits == [None]
    dialled = len(stage.dials)
    stage.run(5.0)
    assert len(stage.dials) == dialled


@covers("CLUSTER-23")
def test_a_link_to_a_former_process_on_which_nothing_is_in_flight_is_closed_at_once(stage):
    stage.start("link")
    tell(stage.actor.actor_ref, RetirePeer())
    stage.run()
    assert stage.exits == [None]
    assert stage.accepted[0].ended


def test_a_dial_that_comes_back_after_the_end_is_closed(stage):
    answer = AsyncResult()
    stage.start(answer)
    stage.stop()
    answer.set("link")
    stage.run()
    assert stage.streams[0].closed
    assert not stage.changes


def test_a_stop_that_overtakes_the_message_of_a_dial_leaves_no_stream(stage):
    stage.start(ConnectFailed("not yet"))
    near, far = memory_pair(stage.clock)
    actor = stage.actor
    actor._dial_peer = lambda address, node_id: (near, channel(Purpose.LINK, "other"))
    actor.actor_ref.stop(block=False)
    actor._run_dial()  # before the actor has read the stop
    stage.run()
    assert near.closed
    assert not stage.actor.upstream.open
    far.abort()


@pytest.mark.parametrize("step", ["_dial", "_open", "_lose", "_try_later", "changed"])
def test_a_fault_at_any_step_ends_the_actor_and_leaves_nothing_open(stage, step, monkeypatch, caplog):
    stage.start("link" if step == "_lose" else ConnectFailed("not yet"))
    if step == "changed":
        stage.changed_raises = True
    else:
        monkeypatch.setattr(stage.actor, step, _boom)
    stage.outcomes += [ConnectFailed("again") if step == "_try_later" else "link"]
    if step == "_lose":
        stage.accepted[0].stream.abort()
    else:
        tell(stage.actor.actor_ref, DialLink())
    stage.run(0.1)
    (reason,) = stage.exits
    assert isinstance(reason, RuntimeError)
    assert all(stream.closed for stream in stage.streams)
    assert not stage.actor.upstream.open
    stage.run(5.0)
    assert len(stage.dials) <= 2


def _boom(*_, **__):
    raise RuntimeError("seeded fault")


def test_a_fault_of_the_dialler_is_reported_and_the_peer_is_dialled_again(stage, capsys):
    stage.start(RuntimeError("seeded fault"), "link")
    stage.run(0.2)
    assert "seeded fault" in capsys.readouterr().err
    assert stage.actor.upstream.open


def test_what_was_in_flight_on_a_lost_link_is_lost(stage):
    stage.start("link")
    events = []
    stage.actor.upstream.multiplexer.open(GET, b"", True, events.append)
    stage.run()
    stage.accepted[0].stream.abort()
    stage.run()
    (reset,) = events
    assert reset.code is ResetCode.LOST
    assert stage.changes == [True, False]
