"""The actor of the cluster: several of them on one clock that is moved by hand, and a fault at each of its steps."""

from __future__ import annotations

from typing import Never

import gevent
import pytest
from gevent.event import AsyncResult

from pico.actors.cluster import Cluster
from pico.actors.endpoint_pool import EndpointPool
from pico.actors.gossip_peer import GossipPeer
from pico.actors.messages import (
    DrainCluster,
    GossipTimerDue,
    LeaveCluster,
    LinkChanged,
    PacketReceived,
    SeedsResolved,
    UpstreamJoined,
    UpstreamLeft,
)
from pico.actors.runtime import depth, tell
from pico.actors.supervisor import Child, Supervisor
from pico.config import GossipTimers, PeerLimits
from pico.errors import ConnectFailed
from pico.protocol.cluster import COUNT_INTERVAL_S, Standing, endpoint_key
from pico.protocol.gossip.packets import PacketCodec
from pico.protocol.gossip.values import Ping, Rank
from pico.protocol.http import RequestHead
from tests.actors.census import let_others_run, nothing_left_behind
from tests.actors.meshes import PORT, STEP_S, Machine, Mesh
from tests.actors.test_endpoint_pool import One
from tests.compiled import interpreted_only
from tests.rules import covers

GET = RequestHead(b"GET", b"/", b"Host: a.b\r\n", 0, b"")


@pytest.fixture
def mesh():
    with nothing_left_behind():
        made = Mesh()
        yield made
        made.stop()
        made.machines.clear()
        made.clock.advance(60.0)
        del made


def register(machine: Machine, endpoint: str = "ep") -> One:
    one = One(endpoint)
    EndpointPool(endpoint, "round-robin", machine.routes, lambda endpoint_id: None).on_receive(UpstreamJoined(one))
    return one


def ranks(machine: Machine) -> dict[str, Rank]:
    return {node_id: record.rank for node_id, record in machine.actor.engine.table.members().items()}


def refuse(*_) -> Never:
    raise ConnectFailed("nobody takes links here")


# What it does.


def test_nodes_that_join_know_and_link_each_other_within_a_fraction_of_a_second(mesh):
    began = mesh.clock.now()
    machines = mesh.cluster("one", "two", "three")
    assert mesh.clock.now() - began < 1.0
    assert ranks(machines[0]) == {"two": Rank.ALIVE, "three": Rank.ALIVE}


def test_an_endpoint_is_seen_by_the_others_within_a_few_steps(mesh):
    one, two, three = mesh.cluster("one", "two", "three")
    built = EndpointPool("ep", "round-robin", one.routes, lambda endpoint_id: None)
    upstream = One()
    built.on_receive(UpstreamJoined(upstream))
    assert mesh.until(lambda: two.places("ep") == three.places("ep") == {"one"}) < 0.05
    built.on_receive(UpstreamLeft(upstream))
    assert mesh.until(lambda: not two.places("ep") and not three.places("ep")) < 0.05


def test_a_lost_link_lowers_the_peer_until_there_is_one_again(mesh):
    one, two, _ = mesh.cluster("one", "two", "three")
    standing = one.actor.view.standing
    tell(one.ref, LinkChanged("two", False))
    let_others_run()
    assert standing("two") is Standing.LAST_RESORT
    assert ranks(one)["two"] is Rank.ALIVE, "that alone says nothing to others"
    tell(one.ref, LinkChanged("two", True))
    let_others_run()
    assert standing("two") is Standing.ROUTABLE
    tell(one.ref, LinkChanged("nobody", False))
    tell(one.ref, LinkChanged("nobody", True))
    let_others_run()
    assert not one.ref.actor_stopped.is_set()
    assert two.linked()


def test_a_link_that_breaks_lowers_its_peer_before_any_probe_could_and_one_that_opens_raises_it(mesh):
    one, two = mesh.cluster("one", "two")
    register(two)
    mesh.until(lambda: one.places("ep"))
    dial, one._dial = one._dial, refuse
    probes = GossipTimers()
    one.actor._peers["two"].actor._link.abort("cut")
    lowered = mesh.until(lambda: one.actor.view.standing("two") is Standing.LAST_RESORT)
    assert lowered < probes.probe_timeout_s
    assert one.actor.link_of("two") == "down"
    mesh.run(probes.probe_s + probes.probe_timeout_s)
    assert one.actor.view.standing("two") is Standing.LAST_RESORT, "it answers, but there is no link"
    one._dial = dial
    mesh.until(lambda: one.linked() == {"two"})
    assert mesh.until(lambda: one.actor.view.standing("two") is Standing.ROUTABLE) < probes.probe_timeout_s


@covers("CLUSTER-7")
def test_a_count_that_was_not_said_at_once_is_said_as_soon_as_it_may_be(mesh):
    mesh.timers = GossipTimers(probe_s=60.0, round_s=60.0, quiet_round_s=60.0)  # nothing else wakes the actor soon
    one = mesh.machine("one").start()
    mesh.run(1.0)
    built, entries = EndpointPool("ep", "round-robin", one.routes, lambda endpoint_id: None), one.actor.engine.table.own
    for _ in range(3):
        built.on_receive(UpstreamJoined(One()))
        let_others_run()
    assert entries.live()[endpoint_key("ep")] == b"2"
    mesh.run(COUNT_INTERVAL_S + 2 * STEP_S)
    assert entries.live()[endpoint_key("ep")] == b"3"


@covers("CLUSTER-7")
def test_a_count_that_waits_to_be_said_holds_up_nothing_that_is_due_before(mesh):
    mesh.timers = GossipTimers(probe_s=60.0, round_s=60.0, quiet_round_s=60.0)
    one, two = mesh.cluster("one", "two")
    mesh.run(1.0)
    built = EndpointPool("ep", "round-robin", one.routes, lambda endpoint_id: None)
    for _ in range(3):
        built.on_receive(UpstreamJoined(One()))
        let_others_run()
    assert mesh.until(lambda: two.places("ep")) < COUNT_INTERVAL_S / 2


def test_a_draining_node_is_asked_last_and_one_that_left_not_at_all(mesh):
    one, two, three = mesh.cluster("one", "two", "three")
    register(one)
    mesh.until(lambda: two.places("ep"))
    tell(one.ref, DrainCluster())
    mesh.until(lambda: two.actor.view.standing("one") is three.actor.view.standing("one") is Standing.LAST_RESORT)
    left = one.ref.ask(LeaveCluster(), block=False)
    let_others_run()
    again = one.ref.ask(LeaveCluster(), block=False)
    let_others_run()
    mesh.until(lambda: left.get(timeout=1).done() and again.get(timeout=1).done())
    assert not two.places("ep") and not three.places("ep")
    assert two.linked() == {"three"}
    handled, handle = [], one.actor._handle

    def note(message):
        handled.append(message)
        return handle(message)

    one.actor._handle = note
    mesh.run(3.0)
    assert not [message for message in handled if isinstance(message, GossipTimerDue)], "it rests"


def test_a_node_that_leaves_alone_has_left_soon(mesh):
    one = mesh.machine("one").start()
    left = one.ref.ask(LeaveCluster(), block=False)
    let_others_run()
    mesh.until(lambda: left.get(timeout=1).done(), within_s=2.0)


def test_whoever_waits_for_the_end_of_a_leave_is_not_forgotten_when_the_actor_stops(mesh):
    one, *_ = mesh.cluster("one", "two")
    left = one.ref.ask(LeaveCluster(), block=False)
    let_others_run()
    one.stop()
    assert left.get(timeout=1).done()


@interpreted_only
def test_a_node_that_is_cut_off_keeps_its_own_upstreams_and_comes_back(mesh):
    one, two, three = mesh.cluster("one", "two", "three")
    upstream = register(one)
    mesh.until(lambda: two.places("ep"))
    for other in (two, three):
        mesh.cut(one, other)
    for link in (*one.accepted, *two.accepted, *three.accepted):
        link.stream.cut()
    mesh.until(lambda: set(ranks(one).values()) == {Rank.DEAD}, within_s=30.0)
    assert one.routes.choose("ep") is upstream
    mesh.until(lambda: not two.places("ep"), within_s=30.0)
    assert two.linked() == {"three"}
    for other in (two, three):
        mesh.cut(one, other, cut=False)
    mesh.until(lambda: all(m.linked() == {"one", "two", "three"} - {m.node_id} for m in (one, two, three)), 10.0)
    mesh.until(lambda: two.places("ep") == three.places("ep") == {"one"})


@covers("CLUSTER-16")
def test_what_others_say_of_a_node_ends_no_link_to_it(mesh):
    """Where only datagrams are lost the link lives, and so does what is in flight on it."""
    one, two, three = mesh.cluster("one", "two", "three")
    register(one)
    mesh.until(lambda: two.places("ep"))
    peer = two.actor.upstream_of("one")
    link = peer.multiplexer
    for other in (two, three):
        mesh.cut(one, other)
    mesh.until(lambda: ranks(two)["one"] is Rank.DEAD, within_s=30.0)
    mesh.run(5.0)
    assert not two.places("ep"), "nothing new is sent there"
    for other in (two, three):
        mesh.cut(one, other, cut=False)
    mesh.until(lambda: two.places("ep"), within_s=30.0)
    assert two.actor.upstream_of("one") is peer
    assert peer.multiplexer is link


@covers("CLUSTER-23")
def test_what_is_in_flight_with_a_node_that_drains_is_not_lost_to_its_successors(mesh, monkeypatch):
    monkeypatch.setattr("pico.actors.cluster.FORMER_PEERS_MAX", 2)
    one, two = mesh.cluster("one", "two")
    machines, links = [two], []
    for number in (1, 2, 3):
        former = one.actor.upstream_of("two")
        links.append(former.multiplexer)
        former.multiplexer.open(GET, b"", True, lambda event: None)
        tell(machines[-1].ref, DrainCluster())
        machines.append(Machine(mesh, "two", f"10.0.1.{number}", PeerLimits()))
        mesh.machines[f"twin-{number}"] = machines[-1].start("one")
        mesh.until(lambda former=former: one.actor.upstream_of("two") is not former and one.linked() == {"two"})
        mesh.run(1.0)
        assert former.leaving and not former.may_connect, "nothing new goes there"
        assert [link.leaving for link in links] == [number == 3, False, False][:number], "the oldest made room"
        assert one.actor.links_out == min(number, 2) + 1
    links[1].abort("cut")
    mesh.until(lambda: one.actor.links_out == 2)
    assert one.linked() == {"two"}
    one.stop()
    assert all(link.leaving for link in links)


def test_two_machines_with_one_name_do_not_both_go_on(mesh):
    one, two = mesh.cluster("one", "two")
    twin = Machine(mesh, "two", "10.0.0.99", PeerLimits())
    mesh.machines["twin"] = twin
    twin.start("one")
    mesh.until(lambda: two.contested or twin.contested, within_s=30.0)
    assert one.contested == 0


# When it is busy.


def held(machine: Machine) -> AsyncResult:
    """Have the actor hang in its next message until the result is set."""
    actor, answer = machine.actor, AsyncResult()
    real = actor._handle

    def hang(message):
        actor._handle = real
        answer.get(timeout=20)
        return real(message)

    actor._handle = hang
    tell(machine.ref, LinkChanged("nobody", True))
    let_others_run()
    return answer


@covers("GOSSIP-58")
def test_pings_are_answered_although_the_actor_does_not_run(mesh):
    one, two, three = mesh.cluster("one", "two", "three")
    answer = held(one)
    for _ in range(60):
        mesh.run(0.1)
        assert ranks(two)["one"] is ranks(three)["one"] is Rank.ALIVE
    assert depth(one.ref) > 0
    answer.set(None)
    mesh.run(0.5)
    assert depth(one.ref) == 0
    assert ranks(one) == {"two": Rank.ALIVE, "three": Rank.ALIVE}


def test_packets_beyond_what_may_wait_are_dropped_and_counted_and_pings_are_still_answered(mesh):
    one, two = mesh.machine("one", PeerLimits(inbox_max=20)).start(), mesh.machine("two").start("one")
    mesh.until(lambda: one.linked() and two.linked())
    answer = held(one)
    builder = two.actor.engine.table.builder(packets_max=1)
    builder.say(Ping(7, "one"))
    (ping,) = builder.packets()
    sent = one.actor._datagrams.counts.sent
    for _ in range(100):
        two.actor._datagrams.send(ping, (one.host, PORT))
    mesh.run(0.05)
    assert depth(one.ref) <= 21
    assert one.metrics.cluster.dropped >= 75
    assert one.actor._datagrams.counts.sent - sent >= 100
    answer.set(None)
    mesh.run(0.1)
    dropped = one.metrics.cluster.dropped
    mesh.run(2.0)
    assert one.metrics.cluster.dropped == dropped
    assert ranks(one) == {"two": Rank.ALIVE}


def test_what_is_no_packet_reaches_no_inbox(mesh):
    one = mesh.machine("one").start()
    stranger = mesh.network.bind("10.9.9.9", 1, lambda data, source: None)
    for data in (b"", b"x", bytes(1500), b"PICO" * 50):
        stranger.send(data, (one.host, PORT))
    handled = []
    one.actor._handle = handled.append
    mesh.run(0.05)
    assert not [message for message in handled if isinstance(message, PacketReceived)]
    assert sum(one.actor.standing().violations.values()) == 4


# When it fails.


class Supervised:
    """A machine whose actor is restarted."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.escalated: list = []
        self.supervisor = Supervisor(
            [Child(name="cluster", build=machine.build)],
            now=machine.mesh.clock.now,
            escalate=self.escalated.append,
            restarted=machine.metrics.actor_restarts.add,
        )
        self.supervisor.launch()
        let_others_run()

    def stop(self) -> None:
        self.supervisor.actor_ref.stop(block=False)
        let_others_run(30)


def boom(*_, **__):
    raise RuntimeError("seeded fault")


def break_once(actor: Cluster, step: str) -> None:
    """The next call fails; what the actor does on its way out works."""
    real = getattr(actor, step)

    def fail(*arguments):
        setattr(actor, step, real)
        boom()

    setattr(actor, step, fail)


STEPS = [
    "_handle",
    "_say_card",
    "_link_changed",
    "_leave",
    "_pump",
    "_send",
    "_follow",
    "_keep_peer",
    "_retire_peer",
    "_drop_peer",
]


def provoke(mesh: Mesh, machine: Machine, step: str) -> None:
    """Make every step happen at the machine's present actor."""
    ref = machine.ref
    mesh.machine("late").start(machine.node_id)
    tell(ref, SeedsResolved(()))
    tell(ref, LinkChanged("two", False))
    if step == "_leave":
        tell(ref, LeaveCluster())
    if step == "_drop_peer":
        tell(mesh.machines["three"].ref, LeaveCluster())
        mesh.run(0.5)
    mesh.machines["three"].stop()
    if step == "_retire_peer":
        mesh.machines["three"].start("two")
    mesh.run(0.5)


@pytest.mark.parametrize("step", STEPS)
def test_an_actor_that_fails_at_any_step_is_replaced_by_one_with_a_new_life(mesh, step, caplog, capsys):
    one, two = mesh.machine("one"), mesh.machine("two").start()
    one.seeds = ((two.host, PORT),)
    supervised = Supervised(one)
    three = mesh.machine("three").start("two")
    mesh.until(lambda: one.linked() == {"two", "three"} and two.linked() == {"one", "three"})
    register(one, "here")
    register(two, "there")
    mesh.until(lambda: one.places("there") and two.places("here"))
    failed = one.actor
    life, links = failed.engine.table.own.life, [peer.actor._link for peer in failed._peers.values()]
    break_once(failed, step)
    provoke(mesh, one, step)
    mesh.until(failed.actor_stopped.is_set, within_s=20.0)
    assert failed.actor_stopped.is_set()
    assert len(one.actors) == 2 and not one.ref.actor_stopped.is_set() and not supervised.escalated
    assert one.metrics.actor_restarts.count("cluster") == 1
    assert one.actor.engine.table.own.life > life
    mesh.until(lambda: "two" in one.linked() and "one" in two.linked(), within_s=20.0)
    mesh.until(lambda: one.places("there") == {"two"} and two.places("here") == {"one"})
    assert all(link is None or link._ended or link._closing for link in links)
    assert not failed._peers and not failed._former
    assert one.routes._view is one.actor.view
    supervised.stop()
    three.stop()


def test_an_actor_that_cannot_start_leaves_nothing_and_ends_the_supervisor(mesh, caplog):
    one = mesh.machine("one")
    mesh.network.bind(one.host, PORT, lambda data, source: None)
    supervised = Supervised(one)
    assert len(supervised.escalated) == 1
    assert not one.actor._peers


def test_a_peer_that_fails_is_replaced(mesh, monkeypatch, caplog):
    one, _ = mesh.cluster("one", "two")
    failed = one.actor._peers["two"].actor
    failed._dial = boom
    one.actor._upstreams["two"]._dial()
    mesh.until(lambda: one.actor._peers.get("two") and one.actor._peers["two"].actor is not failed)
    mesh.until(lambda: one.linked() == {"two"})
    assert one.metrics.actor_restarts.count("gossip-peer") == 1
    assert one.actor.view.standing("two") is Standing.ROUTABLE


def test_a_peer_that_fails_again_and_again_does_not_take_the_node_with_it(mesh, monkeypatch, caplog):
    monkeypatch.setattr(GossipPeer, "on_start", boom)
    one, two = mesh.machine("one").start(), mesh.machine("two").start("one")
    mesh.run(10.0)
    assert not one.ref.actor_stopped.is_set() and not two.ref.actor_stopped.is_set()
    assert ranks(one) == {"two": Rank.ALIVE}
    assert 5 < one.metrics.actor_restarts.count("gossip-peer") < 50


def test_an_actor_that_is_stopped_with_exchanges_wanted_ends_in_good_order(mesh, caplog):
    one, two = mesh.cluster("one", "two")
    reasons = []
    one.actor.exit_listener = lambda ref, reason: reasons.append(reason)
    ref, one.ref = one.ref, None  # as in the supervisor, which forgets before it stops
    for _ in range(3):
        one.actor.engine._exchanged_at.clear()
        one.actor.engine._want_exchange("two")
        tell(ref, GossipTimerDue())
    ref.stop(block=False)
    mesh.run(0.05)
    assert reasons == [None]
    assert not two.ref.actor_stopped.is_set()


def test_a_new_view_takes_the_places_of_the_old_one(mesh):
    """The routes read one view; when that of a failed actor ends, requests may wait for what it had."""
    one, two = mesh.cluster("one", "two")
    register(two)
    mesh.until(lambda: one.places("ep"))
    one.stop()
    assert not one.routes.served("ep")
    assert one.routes._vanished
    one.start("two")
    mesh.until(lambda: one.routes.served("ep"))


def test_what_went_wrong_with_datagrams_and_words_is_told(mesh):
    one, two = mesh.cluster("one", "two")
    two.actor.engine.put(b"card", b"no card at all", now=mesh.clock.now())
    tell(two.ref, LinkChanged("nobody", True))
    mesh.run(1.0)
    codec = PacketCodec("test", "two", mesh.gossip_limits)
    later = codec.encode(two.actor.engine.table.own.life, [(99, b"?")])  # type: ignore[list-item]
    two.actor._datagrams.send(later, (one.host, PORT))
    mesh.run(0.1)
    standing = one.actor.standing()
    assert (standing.messages_not_understood, standing.cards_not_understood) == (1, 1)
    assert (standing.datagrams_not_sent, standing.datagrams_not_received, standing.datagrams_too_large) == (0, 0, 0)
    one.actor._datagrams.send(bytes(100_000), (two.host, PORT))
    standing = one.actor.standing()
    assert (standing.datagrams_not_sent, standing.datagrams_not_received, standing.datagrams_too_large) == (0, 0, 1)


def test_the_worst_that_a_card_may_say_is_no_address_of_ours(mesh):
    one, two = mesh.cluster("one", "two")
    two.actor.engine.put(b"card", b"no card at all", now=mesh.clock.now())
    tell(two.ref, LinkChanged("nobody", True))
    mesh.run(1.0)
    assert not one.ref.actor_stopped.is_set()
    assert ranks(one) == {"two": Rank.ALIVE}
    assert isinstance(one.actor, Cluster)
    gevent.sleep(0)
