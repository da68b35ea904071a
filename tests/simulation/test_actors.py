"""Whole nodes under the simulator: what must hold of a cluster that is in trouble, and of one that is left in peace.

``PICO_ACTORS_NODES`` and ``PICO_ACTORS_SEEDS`` say how large the large one is and how many runs there are of the small
ones; a run that fails is found again by its seed.
"""

from __future__ import annotations

import gc
import logging
import math
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from random import Random

import pytest

from pico.actors.runtime import install_registry
from pico.config import NodeConfig, PeerLimits
from tests.actors.census import nothing_left_behind
from tests.rules import covers
from tests.simulation.actors import Call, Link, World

NODES = int(os.environ.get("PICO_ACTORS_NODES", "100"))
SEEDS = int(os.environ.get("PICO_ACTORS_SEEDS", "3"))
FIRST_SEED = int(os.environ.get("PICO_ACTORS_FIRST_SEED", "0"))

BLACK_HOLE_S = 3.0
"""From the first packet that is dropped to the last new request for the node behind."""

MISFORTUNES = (
    *("crash", "start", "start", "pause", "cluster", "service"),
    *("cut", "cut-one-way", "isolate", "partition", "heal", "heal", "heal", "lossy", "clear"),
)

PEACE_S = 20.0
"""For a cluster that was in any trouble."""


@pytest.fixture(autouse=True, scope="module")
def _registry() -> None:
    install_registry()


@pytest.fixture
def world(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[..., World]]:
    """Makes worlds, and ends each in good order: no fault of our own, and nothing left behind."""
    worlds: list[World] = []

    def make(seed: int, config: NodeConfig | None = None) -> World:
        worlds.append(World(seed, config))
        return worlds[-1]

    caplog.set_level(logging.WARNING, "pico")
    with nothing_left_behind():
        gc.disable()  # half of the time would go into looking at what lives on
        try:
            yield make
            for one in worlds:
                one.stop()
                assert one.running_timers() == 0
                assert not any(member.process.streams for member in one.members.values())
        finally:
            gc.enable()
        worlds.clear()
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


def cluster(world: World, nodes: int, *, upstreams: int, endpoints: int) -> list[str]:
    """So many nodes that know each other, and endpoints with as many upstreams each as are left, anywhere."""
    names = [f"n{number}" for number in range(nodes)]
    for number, name in enumerate(names):
        world.start(name, join=tuple(names[: min(number, 2)]))
    for number in range(upstreams):
        world.serve(f"ep{number % endpoints}")
    world.run_until(lambda: all(service.node for service in world.services) and world.whole(), 10.0)
    return names


class Visitors:
    """Requests that enter anywhere, until they are told to stop."""

    def __init__(self, world: World, rate: float, endpoints: int) -> None:
        self.world = world
        self.rng = Random(world.rng.getrandbits(64))
        self.interval_s = 1.0 / rate
        self.endpoints = endpoints
        self.calls: list[Call] = []
        self.stopped = False
        world.at(0.0, self.visit)

    def visit(self) -> None:
        if self.stopped:
            return
        world, rng = self.world, self.rng
        entry = rng.choice([member.name for member in world.up()])
        method = rng.choice([b"GET", b"GET", b"POST"])
        body = rng.randbytes(rng.choice([0, 10, 30_000])) if method == b"POST" else b""
        leave_s = rng.random() if rng.random() < 0.03 else 0.0
        endpoint = f"ep{rng.randrange(self.endpoints)}"
        self.calls.append(world.call(endpoint, entry, method=method, body=body, leave_s=leave_s))
        world.at(self.interval_s * 2 * rng.random(), self.visit)

    def judged(self) -> Counter[int]:
        """How the calls ended; fails when one ended as it must not."""
        self.stopped = True
        self.world.run_until(lambda: all(call.done for call in self.calls), 90.0)
        for call in self.calls:
            judge(self.world, call)
        return Counter(call.status for call in self.calls)


def judge(world: World, call: Call) -> None:
    deliveries = world.deliveries.get(call.token, [])
    if call.status == 200:
        token, endpoint, service, size = call.answer.split(" ")
        assert (token, endpoint, int(size)) == (call.token, call.endpoint, len(call.body))
        assert service in deliveries
    assert len(deliveries) <= (1 if call.method == b"POST" else 9), (call.token, deliveries)
    if call.method == b"GET":  # safe to send again
        assert call.reachable is None, (
            call.token,
            call.status,
            call.answer,
            call.began,
            call.ended_at,
            call.entry.name,
        )


def comes_to_rest(world: World) -> float:
    """How long it takes until everything is as it should be, and stays so."""
    world.network.heal()
    world.network.link = Link()
    took = world.run_until(world.whole, PEACE_S, 0.1)
    world.run(2.0)
    assert world.wrong() == []
    assert world.left_over() == {}
    return took


class TestThreeNodes:
    def test_every_endpoint_answers_at_every_node(self, world) -> None:
        here = world(1)
        names = cluster(here, 3, upstreams=4, endpoints=2)
        calls = [
            here.call(f"ep{number % 2}", names[number % 3], method=method, body=body)
            for number in range(60)
            for method, body in ((b"GET", b""), (b"POST", b"x" * 200_000))
        ]
        here.run(5.0)
        for call in calls:
            judge(here, call)
            assert call.status == 200
            assert len(here.deliveries[call.token]) == 1
        assert here.left_over() == {}

    def test_a_node_that_crashes_is_not_missed_and_comes_back(self, world) -> None:
        here = world(2)
        names = cluster(here, 3, upstreams=6, endpoints=2)
        visitors = Visitors(here, 200, 2)
        here.run(1.0)
        here.crash(names[1])
        here.run(3.0)
        here.start(names[1], join=(names[0],))
        here.run(3.0)
        statuses = visitors.judged()
        assert statuses[200] > 0.9 * statuses.total()
        comes_to_rest(here)

    def test_a_cluster_actor_that_fails_is_replaced(self, world, caplog: pytest.LogCaptureFixture) -> None:
        here = world(3)
        names = cluster(here, 3, upstreams=6, endpoints=2)
        visitors = Visitors(here, 200, 2)
        here.run(1.0)
        here.crash_cluster(names[1])
        failures = [record for record in caplog.records if record.levelno >= logging.ERROR]
        assert len(failures) == 1
        assert failures[0].exc_info is not None
        caplog.clear()
        here.run(3.0)
        visitors.judged()
        comes_to_rest(here)


class TestJoining:
    @pytest.mark.parametrize("dark", [0, 12, 20])
    @covers("ROUTING-20", "GOSSIP-69")
    def test_a_node_has_caught_up_when_each_seed_was_tried_once(self, world, dark: int) -> None:
        """Also where more of them are dark than exchanges may be under way, and the one that answers is the last."""
        here = world(5)
        names = [f"n{number}" for number in range(dark + 1)]
        for name in names:
            here.start(name)
        for name in names[:-1]:
            here.crash(name, dark=True)
        here.serve("ep", at=(names[-1],))
        here.run_until(lambda: here.services[0].node, 5.0)
        new = here.start("new", join=tuple(names))
        call = here.call("ep", "new")
        here.run_until(lambda: new.node.ready()[0], math.ceil((dark + 1) / PeerLimits().exchanges_max) + 0.5, 0.01)
        assert new.cluster.engine.joined and new.cluster.caught_up_at() < math.inf
        here.run(1.0)
        assert call.status == 200

    def test_nor_before_the_seeds_in_another_region_have_answered(self, world) -> None:
        here = world(6)
        names = cluster(here, 8, upstreams=1, endpoints=1)
        here.run(5.0)
        here.network.link = Link(delay_s=0.1)
        new = here.start("new", join=tuple(names))
        here.run_until(lambda: new.node.ready()[0], 2.0, 0.01)
        assert new.cluster.engine.joined
        call = here.call("ep0", "new")
        here.run(3.0)
        assert call.status == 200


class TestWithoutDatagrams:
    def test_a_change_is_known_everywhere_after_the_last_repeat_of_its_push(self, world) -> None:
        here = world(7)
        here.network.carry = lambda *_: None
        names = [f"n{number}" for number in range(16)]
        for number, name in enumerate(names):
            here.start(name, join=tuple(names[: min(number, 2)]))
        here.run(30.0)
        service = here.serve("ep", at=("n1",))
        here.run_until(lambda: service.node, 5.0, 0.01)
        took = here.run_until(lambda: all(member.places("ep") for member in here.up()), 5.0, 0.01)
        assert took < sum(here.config.gossip_timers.push_repeats_s) + 0.1

    def test_a_partition_heals_when_nobody_names_the_other_side(self, world) -> None:
        here = world(8)
        here.network.carry = lambda *_: None
        names = cluster(here, 4, upstreams=4, endpoints=4)
        for member in here.up():
            member.node.gossip_door.reconfigure(replace(member.node.config, join=()), None)
        here.network.partition(names[:2])
        here.run(60.0)
        assert [member.knows() for member in here.up()] == [{"n1"}, {"n0"}, {"n3"}, {"n2"}]
        here.network.heal()
        here.run_until(here.whole, 2.2 * here.config.gossip_timers.exchange_s)


class TestTrouble:
    @pytest.mark.parametrize("seed", range(FIRST_SEED, FIRST_SEED + SEEDS))
    def test_whatever_happens_heals(self, world, seed: int, caplog: pytest.LogCaptureFixture) -> None:
        here = world(seed)
        trouble(here)
        caplog.clear()  # of the actors that were made to fail

    def test_a_black_hole_gets_no_new_requests(self, world) -> None:
        here = world(4)
        names = cluster(here, 10, upstreams=30, endpoints=10)
        hole = here.services[0].node.name
        others = [name for name in names if name != hole]
        visitors = Visitors(here, 500, 10)
        here.run(0.5)
        here.network.isolate(hole)
        here.run(BLACK_HOLE_S)
        for _ in range(100):
            here.run(0.05)
            for name in others:
                peer = here.members[name].cluster._upstreams.get(hole)
                assert peer is None or (peer.in_flight == 0 and not peer._waiters)
        own = [here.call(service.endpoint, hole) for service in here.services if service.node.name == hole]
        here.run(1.0)
        assert {call.status for call in own} == {200}  # it believes the others dead and serves its own
        visitors.judged()
        comes_to_rest(here)


def trouble(world: World, seconds: float = 20.0) -> dict[str, object]:
    """Eight nodes, every kind of misfortune, then peace."""
    rng = Random(world.rng.getrandbits(64))
    names = cluster(world, 8, upstreams=24, endpoints=8)
    visitors = Visitors(world, 100, 8)
    until = world.now + seconds
    happened: Counter[str] = Counter()
    crashes = 0
    while world.now < until:
        world.run(rng.random() * 1.5)
        up = [member.name for member in world.up()]
        down = [name for name in names if name not in up]
        what = rng.choice(MISFORTUNES)
        if what == "crash" and len(up) > 4:
            world.crash(rng.choice(up), dark=rng.random() < 0.5)
        elif what == "start" and down:
            world.start(one := rng.choice(down), join=tuple(name for name in names if name != one))
        elif what in ("cut", "cut-one-way"):
            world.network.cut(*rng.sample(up, 2), one_way=what == "cut-one-way")
        elif what == "isolate":
            world.network.isolate(rng.choice(up))
        elif what == "partition":
            world.network.partition(rng.sample(names, rng.randrange(2, 5)))
        elif what == "heal":
            world.network.heal()
        elif what == "pause" and not world.members[one := rng.choice(up)].process.clock.paused:
            world.pause(one, rng.choice([0.3, 2.0, 4.0]))
        elif what == "cluster" and crashes < 4:
            crashes += 1
            world.crash_cluster(rng.choice(up))
        elif what in ("lossy", "clear"):
            loss = 0.1 if what == "lossy" else 0.0
            world.network.link = Link(loss=loss, repeat=loss, spread_s=0.02 if loss else 0.0004)
        elif what == "service":
            rng.choice(world.services).stop()
        else:
            continue
        happened[what] += 1
    world.network.heal()
    world.network.link = Link()
    world.run_until(lambda: not any(member.process.clock.paused for member in world.up()), 5.0)
    for name in [name for name in names if world.members[name].process.gone]:
        world.start(name, join=tuple(other for other in names if other != name))
    took = world.run_until(world.whole, PEACE_S, 0.1)
    statuses = visitors.judged()
    comes_to_rest(world)
    return {"statuses": dict(statuses), "rest_s": took, "happened": dict(happened), "digest": world.digest()}


class TestALargeCluster:
    @pytest.mark.timeout(600)
    def test_a_hundred_nodes(self, world) -> None:
        """Crashes, of processes and of machines, restarts, a partition and a black hole, under load; then peace."""
        large(world(100, LARGE))


# Half as many heartbeats as a node sends by itself: each of 9,900 links has them, and they cost more than all the rest.
LARGE = NodeConfig(
    access_log="off",
    peer_limits=PeerLimits(rpc_limits=replace(PeerLimits().rpc_limits, heartbeat_s=1.0, silence_s=3.0)),
)
LARGE_BLACK_HOLE_S = 4.0


def large(world: World) -> dict[str, object]:
    rng = Random(world.rng.getrandbits(64))
    endpoints = NODES
    names = cluster(world, NODES, upstreams=3 * NODES, endpoints=endpoints)
    world.visitor_s = 5.0
    visitors = Visitors(world, 500, endpoints)
    world.run(0.3)
    dark, *killed, hole = rng.sample(names, 5)
    world.crash(dark, dark=True)
    for name in killed:
        world.crash(name)
    world.network.isolate(hole)
    isolated_at = world.now
    world.run(1.0)
    seeds = tuple(name for name in names[:8] if not world.members[name].process.gone)[:2]
    for name in killed:
        world.start(name, join=seeds)
    world.network.partition(rng.sample([name for name in names if name not in (dark, hole)], NODES // 10))
    world.run(1.0)
    world.network.heal(but=hole)
    world.run(isolated_at + LARGE_BLACK_HOLE_S - world.now)
    for _ in range(3):
        for member in world.up():
            peer = member.cluster._upstreams.get(hole)
            assert peer is None or (peer.in_flight == 0 and not peer._waiters)
        world.run(0.2)
    world.crash(hole, dark=True)
    for name in (dark, hole):
        world.network.heal()
        world.start(name, join=seeds)
    took = world.run_until(world.whole, PEACE_S, 0.25)
    visitors.stopped = True
    everywhere = [world.call(f"ep{rng.randrange(endpoints)}", name) for name in names]
    world.run(1.0)
    assert {call.status for call in everywhere} == {200}
    statuses = visitors.judged()
    assert world.left_over() == {}
    return {"statuses": dict(statuses), "rest_s": took, "virtual_s": world.now, "digest": world.digest()}


class TestOneSeedOneRun:
    def test_another_process_does_the_same(self) -> None:
        """To the byte and the nanosecond, whatever it makes of hashes and addresses."""
        script = (
            "from tests.simulation.test_actors import *\n"
            "install_registry(); logging.disable(logging.CRITICAL)\n"
            "print([trouble(World(seed), 5.0)['digest'] for seed in range(3)])"
        )
        runs = [
            subprocess.run(
                [sys.executable, "-c", script],
                env=os.environ | {"PYTHONHASHSEED": number},
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            for number in ("1", "2")
        ]
        assert runs[0] == runs[1]
        assert runs[0].count("'") == 6
