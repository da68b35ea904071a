"""Exchanges between engines over streams in memory: their limits, their deadline, and every way in which they end."""

from __future__ import annotations

from random import Random

import gevent
import pytest
from gevent.event import AsyncResult

from pico.actors.gossip_exchanges import WAITING_MAX, GossipExchanges
from pico.actors.messages import BeginExchange, ExchangeDone, TakeBody, TakeTurn
from pico.actors.runtime import GeventActor
from pico.config import ChannelLimits, GossipLimits, GossipTimers, PeerLimits
from pico.errors import ConnectFailed
from pico.observability.metrics import NodeMetrics
from pico.protocol.channel import ConnectedToSelf, Purpose
from pico.protocol.gossip import PacketCodec
from pico.protocol.gossip.engine import STREAM_BODIES_MAX, GossipEngine
from pico.protocol.gossip.events import ExchangeWanted
from pico.protocol.gossip.exchange import Exchange
from pico.transport.clock import ManualClock
from pico.transport.memory import memory_pair
from tests.actors.census import let_others_run, nothing_left_behind
from tests.actors.meshes import channel
from tests.rules import covers

HERE, THERE = ("10.0.0.1", 8003), ("10.0.0.2", 8003)
WANTED = ExchangeWanted(THERE, "two", 7)
NODES_MAX = 20
BODY = PacketCodec("test", "one", GossipLimits()).encode_body(1, [])
"""It says that the node one is there, and no more."""


class Member(GeventActor):
    """Stands for the cluster's actor: it has an engine, and notes what it is told."""

    def __init__(self, name: str, clock: ManualClock) -> None:
        super().__init__()
        limits = GossipLimits(nodes_max=NODES_MAX)
        codec = PacketCodec("test", name, limits)
        self.engine = GossipEngine(
            codec, 1, limits, GossipTimers(), Random(name), locate=lambda card: None, now=clock.now()
        )
        self.engine.put(b"card", name.encode(), now=clock.now())
        self.clock = clock
        self.done: list[ExchangeDone] = []
        self.bodies = 0
        self.fails = ""

    def on_receive(self, message):
        if self.fails == type(message).__name__:
            raise RuntimeError("seeded fault")
        if isinstance(message, BeginExchange):
            exchange = Exchange(self.engine)
            return exchange, exchange.open() if message.opens else []
        if isinstance(message, TakeBody):
            self.bodies += 1
            message.exchange.receive_body(message.body, now=self.clock.now())
            return None
        if isinstance(message, TakeTurn):
            return message.exchange.end_turn()
        assert isinstance(message, ExchangeDone)
        self.done.append(message)
        return None

    def knows(self, name: str) -> bool:
        return name in self.engine.table.members()


class Side:
    """One node's exchanges, and its member."""

    def __init__(self, name: str, clock: ManualClock, limits: PeerLimits) -> None:
        self.clock = clock
        self.member = Member(name, clock)
        self.ref = self.member.launch()
        self.metrics = NodeMetrics(node_id=name, version="1", failure_codes=[], actors=[])
        self.dials = 0
        self.outcome: object = ConnectFailed("nobody is there")
        self.exchanges = GossipExchanges(self.dial, lambda: self.ref, clock, GossipTimers(), limits, self.metrics, name)

    def dial(self, address, node_id):
        self.dials += 1
        outcome = self.outcome
        if isinstance(outcome, AsyncResult):
            outcome = outcome.get(timeout=5)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome()

    def count(self, result: str) -> int:
        return self.metrics.cluster.exchanges.count(result)


class Stage:
    def __init__(self, limits: PeerLimits | None = None) -> None:
        self.clock = ManualClock()
        limits = limits or PeerLimits()
        self.one, self.two = Side("one", self.clock, limits), Side("two", self.clock, limits)
        self.one.outcome = self.connect
        self.streams: list = []

    def connect(self):
        near, far = memory_pair(self.clock)
        self.streams += [near, far]
        gevent.spawn_raw(self.two.exchanges.serve, far, open_channel("one"))
        return near, open_channel("two")

    def serve_raw(self):
        """An exchange that the test speaks itself: its stream and its frames."""
        near, far = memory_pair(self.clock)
        self.streams += [near, far]
        gevent.spawn_raw(self.two.exchanges.serve, far, open_channel("one"))
        return near, open_channel("two").frames

    def answer_raw(self):
        """As ``serve_raw``, of one that the first node begins."""
        near, far = memory_pair(self.clock)
        self.streams += [near, far]
        self.one.outcome = lambda: (near, open_channel("two"))
        self.one.exchanges.begin(WANTED)
        self.run()
        return far, open_channel("one").frames

    def run(self, seconds: float = 0.0) -> None:
        for _ in range(12):
            self.clock.advance(seconds / 12)
            let_others_run()

    def stop(self) -> None:
        for side in (self.one, self.two):
            side.ref.stop(block=False)
        self.run(20.0)


def until(stage, condition) -> None:
    for _ in range(100):
        if condition():
            return
        stage.run()
    raise AssertionError("it did not happen")


def open_channel(node_id: str):
    return channel(Purpose.EXCHANGE, node_id, bytes_max=ChannelLimits().exchange_frame_bytes_max)


@pytest.fixture
def stage():
    with nothing_left_behind():
        made = Stage()
        yield made
        made.stop()
        assert all(stream.closed for stream in made.streams)
        del made


def test_both_sides_know_each_other_afterwards(stage):
    stage.one.exchanges.begin(WANTED)
    stage.run()
    assert stage.one.member.knows("two") and stage.two.member.knows("one")
    assert stage.one.member.done == [ExchangeDone(WANTED, "two")]
    assert (stage.one.count("begun"), stage.two.count("served")) == (1, 1)
    assert all(stream.closed for stream in stage.streams)


def test_one_that_cannot_be_dialled_has_failed(stage):
    stage.one.outcome = ConnectFailed("nobody is there")
    stage.one.exchanges.begin(WANTED)
    stage.run()
    assert stage.one.member.done == [ExchangeDone(WANTED, None)]
    assert stage.one.count("failed") == 1


def test_a_seed_that_is_the_node_itself_is_reported_as_such(stage):
    stage.one.outcome = ConnectedToSelf("of this process")
    stage.one.exchanges.begin(WANTED)
    stage.run()
    assert stage.one.member.done == [ExchangeDone(WANTED, "one")]


def busy(stage):
    """The first node has as many under way as it may; what it dials then is answered by whatever is set."""
    answer = stage.one.outcome = AsyncResult()
    for number in range(PeerLimits().exchanges_max):
        stage.one.exchanges.begin(ExchangeWanted(("10.0.1.1", number + 1), "", None))
    stage.run()
    assert stage.one.dials == PeerLimits().exchanges_max
    return answer


def test_one_too_many_waits_until_another_is_over(stage):
    answer = busy(stage)
    stage.one.exchanges.begin(WANTED)
    stage.run()
    assert stage.one.dials == PeerLimits().exchanges_max
    assert stage.one.member.done == []
    stage.one.outcome = stage.connect
    answer.set(ConnectFailed("nobody is there"))
    stage.run()
    assert stage.one.member.done[-1] == ExchangeDone(WANTED, "two")
    assert not stage.one.exchanges._waiting


def test_each_node_and_each_seed_waits_once(stage):
    answer = busy(stage)
    seed = ExchangeWanted(THERE, "", None)
    for wanted in (WANTED._replace(sequence=None), seed, WANTED, WANTED._replace(sequence=None), seed):
        stage.one.exchanges.begin(wanted)
    answer.set(ConnectFailed("nobody is there"))
    stage.run()
    assert stage.one.member.done[-2:] == [ExchangeDone(WANTED, None), ExchangeDone(seed, None)], "a probe is answered"
    assert stage.one.dials == PeerLimits().exchanges_max + 2


def test_not_too_many_nodes_wait_and_every_seed_does(stage):
    answer = busy(stage)
    wanted = [ExchangeWanted(THERE, f"n{number}", None) for number in range(WAITING_MAX + 1)]
    seeds = [ExchangeWanted(("10.0.2.1", number + 1), "", None) for number in range(WAITING_MAX + 1)]
    for one in (*wanted, *seeds):
        stage.one.exchanges.begin(one)
    stage.run()
    assert stage.one.member.done == [ExchangeDone(wanted[-1], None)]
    answer.set(ConnectFailed("nobody is there"))
    until(stage, lambda: len(stage.one.member.done) == PeerLimits().exchanges_max + len(wanted) + len(seeds))
    assert stage.one.member.done[-len(seeds) :] == [ExchangeDone(seed, None) for seed in seeds]


def test_many_seeds_that_wait_keep_no_node_from_waiting(stage):
    answer = busy(stage)
    for number in range(WAITING_MAX + 1):
        stage.one.exchanges.begin(ExchangeWanted(("10.0.2.1", number + 1), "", None))
    stage.one.exchanges.begin(WANTED)
    stage.run()
    assert stage.one.member.done == []
    answer.set(ConnectFailed("nobody is there"))
    until(stage, lambda: len(stage.one.member.done) == PeerLimits().exchanges_max + WAITING_MAX + 2)


def test_those_that_wait_are_given_up_with_the_actor_that_wanted_them(stage):
    answer = busy(stage)
    stage.one.exchanges.begin(WANTED)
    ref, stage.one.ref = stage.one.ref, None
    answer.set(ConnectFailed("nobody is there"))
    stage.run()
    stage.one.ref = ref
    assert stage.one.dials == PeerLimits().exchanges_max
    assert not stage.one.exchanges._waiting


def test_one_that_is_wanted_while_the_actor_is_being_stopped_is_none(stage):
    ref, stage.one.ref = stage.one.ref, None
    stage.one.exchanges.begin(WANTED)
    stage.run()
    stage.one.ref = ref
    assert stage.one.dials == 0


def test_a_peer_that_says_nothing_is_given_up_at_the_deadline(stage):
    far, _ = stage.answer_raw()
    stage.run(GossipTimers().exchange_timeout_s - 0.5)
    assert not stage.one.member.done
    stage.run(1.0)
    assert stage.one.member.done == [ExchangeDone(WANTED, None)]
    assert stage.one.count("failed") == 1
    far.close()


def test_the_deadline_is_of_the_whole_and_not_of_each_byte(stage):
    near, frames = stage.serve_raw()
    stage.run()
    for _ in range(30):
        near.writev(frames.encode(b"x"))
        stage.run(0.5)
        if stage.two.count("failed"):
            break
    assert stage.two.count("failed") == 1
    assert stage.clock.now() < GossipTimers().exchange_timeout_s + 1.0
    near.close()


@pytest.mark.parametrize("how", ["close", "abort", "half a frame"])
def test_a_peer_that_ends_in_the_middle_of_a_turn_has_failed(stage, how):
    far, frames = stage.answer_raw()
    if how == "half a frame":
        far.write(b"".join(frames.encode(b"x" * 100))[:50])
        stage.run()
        far.close()
    else:
        getattr(far, how)()
    stage.run()
    assert stage.one.member.done == [ExchangeDone(WANTED, None)]
    assert stage.one.count("failed") == 1
    far.close()


def test_bodies_that_cannot_be_read_end_it_and_nothing_else(stage):
    near, frames = stage.serve_raw()
    near.writev(frames.encode(b"no packet", b""))
    stage.run()
    assert stage.two.count("failed") == 1
    assert not stage.two.ref.actor_stopped.is_set()
    near.close()
    stage.one.exchanges.begin(WANTED)
    stage.run()
    assert stage.two.count("served") == 1


def test_a_spoilt_frame_ends_it(stage):
    near, frames = stage.serve_raw()
    data = bytearray(b"".join(frames.encode(b"some body", b"")))
    data[-1] ^= 1
    near.write(bytes(data))
    stage.run()
    assert stage.two.count("failed") == 1
    near.close()


def test_a_frame_that_says_it_is_huge_is_not_waited_for(stage):
    near, _ = stage.serve_raw()
    near.write(b"\xff\xff\xff\xff" + bytes(100))
    stage.run()
    assert stage.two.count("failed") == 1
    near.close()


def test_a_turn_of_too_many_bodies_is_not_read_to_its_end(stage):
    near, frames = stage.serve_raw()
    near.writev(frames.encode(*[BODY] * (STREAM_BODIES_MAX + NODES_MAX + 200)))
    until(stage, lambda: stage.two.count("failed") == 1)
    assert stage.two.member.bodies < STREAM_BODIES_MAX + NODES_MAX + 5
    near.close()


@covers("GOSSIP-71", "CHANNEL-20")
@pytest.mark.parametrize("end", ["close", "abort", "a spoilt frame", "a frame that is too large"])
def test_what_came_of_a_turn_that_breaks_off_counts(stage, end):
    near, frames = stage.serve_raw()
    data = b"".join(frames.encode(BODY))
    if end == "a spoilt frame":
        near.write(data + data[:-1] + bytes([data[-1] ^ 1]))
    elif end == "a frame that is too large":
        near.write(data + b"\xff" * 8)
    else:
        near.write(data + data[:-1])
        stage.run()
        assert stage.two.member.knows("one"), "before the turn is over"
        getattr(near, end)()
    stage.run()
    assert stage.two.member.knows("one") and stage.two.member.bodies == 1
    assert stage.two.count("failed") == 1
    near.close()


def test_what_came_with_the_handshake_is_the_beginning_of_the_turn(stage):
    near, far = memory_pair(stage.clock)
    stage.streams += [near, far]
    frames = open_channel("two").frames
    leftover = b"".join(frames.encode(BODY))
    gevent.spawn_raw(stage.two.exchanges.serve, far, open_channel("one")._replace(leftover=leftover))
    near.writev(frames.encode(b"", b""))  # the end of that turn, and another one
    until(stage, lambda: stage.two.count("served") == 1)
    assert stage.two.member.bodies == 1
    near.close()


def test_what_was_taken_in_is_held_no_more():
    """So a turn may be larger than what may be held, and half of a frame is held to the byte."""
    with nothing_left_behind():
        stage = Stage(PeerLimits(exchange_bytes_max=1_000))
        near, frames = stage.serve_raw()
        data = b"".join(frames.encode(BODY))
        for _ in range(100):
            near.write(data + data[:10])
            stage.run()
            assert stage.two.exchanges._held_bytes == 10
            near.write(data[10:])
            stage.run()
        near.writev(frames.encode(b""))
        stage.run()
        assert stage.two.exchanges._held_bytes == 0
        assert (stage.two.member.bodies, stage.two.count("failed")) == (200, 0)
        near.close()
        stage.stop()


def test_as_many_bodies_as_a_turn_may_have_are_taken(stage):
    """Also when each node's whole state comes in a body of its own: the actor judges them, and not their number."""
    near, frames = stage.serve_raw()
    near.writev(frames.encode(*[BODY] * (STREAM_BODIES_MAX + NODES_MAX), b""))
    until(stage, lambda: stage.two.member.bodies == STREAM_BODIES_MAX + NODES_MAX)
    assert not stage.two.count("failed")
    near.close()


def test_everybody_else_has_a_turn_between_two_bodies(stage):
    near, frames = stage.serve_raw()
    near.writev(frames.encode(*[BODY] * 100, b""))
    seen = set()
    for _ in range(10_000):
        stage.clock.advance(0.0)
        gevent.sleep(0)
        seen.add(stage.two.member.bodies)
        if 100 in seen:
            break
    assert len(seen) > 50
    near.close()


def test_what_all_exchanges_hold_together_is_bounded():
    with nothing_left_behind():
        stage = Stage(PeerLimits(exchange_bytes_max=100_000))
        openers = [stage.serve_raw() for _ in range(4)]
        for part in range(4):
            for near, frames in openers:
                near.write(b"".join(frames.encode(b"x" * 40_000))[10_000 * part : 10_000 * (part + 1)])
            stage.run()
        assert 0 < stage.two.count("failed") < 4
        for near, frames in openers:
            near.write(b"".join(frames.encode(b"x" * 40_000))[40_000:])
        stage.run()
        assert stage.two.count("failed") == 4, "nor can any of the others be read"
        stage.one.exchanges.begin(WANTED)
        stage.run()
        assert stage.two.count("served") == 1, "nothing is held any more"
        for near, _ in openers:
            near.close()
        stage.stop()


def test_one_more_than_may_be_served_is_turned_away():
    with nothing_left_behind():
        stage = Stage(PeerLimits(exchanges_served_max=3))
        openers = [stage.serve_raw()[0] for _ in range(3)]
        stage.run()
        late, _ = stage.serve_raw()
        stage.run()
        assert stage.two.count("failed") == 1
        for near in (*openers, late):
            near.close()
        stage.run()
        stage.one.exchanges.begin(WANTED)
        stage.run()
        assert stage.two.count("served") == 1
        stage.stop()


@pytest.mark.parametrize("side", ["one", "two"])
@pytest.mark.parametrize("step", ["BeginExchange", "TakeTurn"])
def test_an_actor_that_fails_meanwhile_leaves_no_exchange(stage, side, step, caplog, capsys):
    getattr(stage, side).member.fails = step
    stage.one.exchanges.begin(WANTED)
    stage.run()
    stage.run(GossipTimers().exchange_timeout_s + 1.0)
    assert stage.one.exchanges._under_way == stage.two.exchanges._served == 0
    assert all(stream.closed for stream in stage.streams)


def test_an_actor_that_has_stopped_serves_nothing(stage):
    stage.two.ref.stop(block=False)
    stage.run()
    stage.one.exchanges.begin(WANTED)
    stage.run()
    assert stage.two.count("failed") == 1
    assert stage.one.member.done == [ExchangeDone(WANTED, None)]
