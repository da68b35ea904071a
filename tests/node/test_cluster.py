"""Nodes that join each other by gossip are one server: real sockets on the loopback address, in one process."""

from __future__ import annotations

import contextlib
import errno
import math
import os
from collections.abc import Sequence
from dataclasses import replace

import gevent
import pytest
from gevent import socket

from pico.actors.supervisor import ChildDidNotStart
from pico.cli.bench.processes import free_port
from pico.config import GossipTimers, PeerLimits
from pico.node.system import System
from pico.protocol.cluster import Standing
from pico.protocol.gossip.values import Ping
from tests.actors.census import nothing_left_behind
from tests.node.clusters import (
    ANSWER,
    HOST,
    QUICK,
    WITHIN_S,
    alive,
    fall,
    gossip_of,
    know_each_other,
    linked,
    metric,
    places,
    request,
    running_cluster,
    serve,
    with_status,
)
from tests.node.harness import Agent, Client, logged, running_node, settled, until
from tests.node.test_crashes import open_sockets
from tests.rules import covers

OWN = "127.0.1.1"
"""Where the name of a machine may lead on that machine."""


@pytest.fixture
def three():
    with running_cluster(3, endpoint_wait_s=3.0) as nodes:
        yield nodes


# Joining.


def test_nodes_that_were_given_one_of_them_all_know_each_other(three):
    assert [alive(node) for node in three] == [{"node-2", "node-3"}, {"node-1", "node-3"}, {"node-1", "node-2"}]
    until(lambda: all(node.gossip_door.actor.engine.joined for node in three))


def test_nodes_that_start_at_the_same_moment_are_one_cluster():
    ports = [free_port() for _ in range(5)]
    everybody = tuple((HOST, port) for port in ports)
    with contextlib.ExitStack() as stack:
        started = [
            gevent.spawn(
                stack.enter_context, running_node(f"node-{number}", join=everybody, gossip_port=port, gossip_host=HOST)
            )
            for number, port in enumerate(ports)
        ]
        nodes = [one.get(timeout=WITHIN_S) for one in started]
        until(lambda: know_each_other(nodes), "the cluster", WITHIN_S)


def test_a_seed_that_comes_up_later_is_found():
    port = free_port()
    with running_node("first", join=((HOST, port),), gossip_timers=QUICK) as first:
        until(lambda: first.ready()[0])
        assert not first.gossip_door.actor.engine.joined, "a node that reaches only itself has not joined"
        with running_node("second", gossip_port=port, gossip_timers=QUICK) as second:
            until(lambda: know_each_other([first, second]), "the cluster", WITHIN_S)
            assert first.gossip_door.actor.engine.joined


def test_a_seed_that_is_the_node_itself_is_no_trouble():
    port = free_port()
    with running_node("first", gossip_port=port, join=((HOST, port),), gossip_timers=QUICK) as first:
        until(lambda: first.ready()[0])
        assert not first.gossip_door.actor.engine.joined
        with running_node("second", join=gossip_of(first), gossip_timers=QUICK) as second:
            until(lambda: know_each_other([first, second]), "the cluster", WITHIN_S)


class Names(System):
    """A machine whose resolver knows these names only, and may be asked to wait, with all of them or with one."""

    def __init__(self, names: dict[str, Sequence], *, waits: bool = False, slow: str = "") -> None:
        self.names = {name: list(found) for name, found in names.items()}
        self.slow = slow
        self.waiting: list[str] = []
        """Names that somebody waits for."""
        self.answer = gevent.event.Event()
        if not waits and not slow:
            self.answer.set()

    def resolve(self, host, port):
        if not self.slow or host == self.slow:
            self.waiting.append(host)
            try:
                self.answer.wait()
            finally:
                self.waiting.remove(host)
        return list(self.names.get(host, []))

    def own_address_towards(self, address):
        return {HOST: "127.0.0.3", OWN: HOST}.get(address[0], "127.0.0.2")


def test_a_name_stands_for_every_address_that_it_leads_to():
    with running_node("first") as first, running_node("second") as second:
        names = Names({"nodes.test": gossip_of(first, second)})
        with running_node("third", system=names, join=(("nodes.test", 1),)) as third:
            until(lambda: know_each_other([first, second, third]), "the cluster", WITHIN_S)


def test_a_name_is_resolved_by_the_system():
    with running_node("first") as first:
        seed = ("localhost", first.address("gossip-door")[1])
        with running_node("second", join=(seed,)) as second:
            until(lambda: know_each_other([first, second]), "the cluster", WITHIN_S)


def test_a_name_that_leads_nowhere_is_tried_again_beside_one_that_does():
    """The second name must not wait until the first is looked at again, which is half a minute."""
    with running_node("first") as first, running_node("late") as late:
        names = Names({"first.test": gossip_of(first)})
        with running_node("third", system=names, join=(("first.test", 1), ("late.test", 1))) as third:
            until(lambda: know_each_other([first, third]), "the first", WITHIN_S)
            names.names["late.test"] = gossip_of(late)
            until(lambda: know_each_other([first, late, third]), "the second", WITHIN_S)


@pytest.mark.parametrize("other", ["a name", "an address"])
def test_a_name_that_takes_long_holds_up_no_other_and_no_door(other):
    with running_node("first") as first, running_node("slow") as slow:
        names = Names({"first.test": gossip_of(first), "slow.test": gossip_of(slow)}, slow="slow.test")
        join = (("slow.test", 1), ("first.test", 1) if other == "a name" else gossip_of(first)[0])
        with running_node("third", system=names, join=join, gossip_host="") as third:
            until(lambda: know_each_other([first, third]), "the first", WITHIN_S)
            assert third.ready() == (False, "joining"), "one has not been tried"
            names.answer.set()
            until(lambda: know_each_other([first, slow, third]) and third.ready()[0], "the slow one", WITHIN_S)


def test_names_that_all_take_long_say_later_by_which_address_the_node_is_reached():
    with running_node("first") as first:
        names = Names({"first.test": gossip_of(first)}, slow="first.test")
        with running_node("second", system=names, join=(("first.test", 1),), gossip_host="") as second:
            assert second.gossip_door.actor.card.gossip.startswith("127.0.0.2:")
            names.answer.set()
            until(lambda: know_each_other([first, second]), "the cluster", WITHIN_S)
            assert second.gossip_door.actor.card.gossip.startswith("127.0.0.3:")
            until(lambda: first.gossip_door.actor.engine.address_of("second")[0] == "127.0.0.3")


@covers("CLUSTER-22")
@pytest.mark.parametrize("slow", ["", "first.test"])
def test_a_name_that_leads_to_the_node_itself_does_not_say_where_others_reach_it(slow):
    """Debian's installer writes the name of a machine into its /etc/hosts with a loopback address."""
    with running_node("first") as first:
        names = Names({"own.test": [(OWN, 1)], "first.test": gossip_of(first)}, slow=slow)
        join = (("own.test", 1), ("first.test", 1))
        with running_node("second", system=names, join=join, gossip_host="") as second:
            found = HOST if slow else "127.0.0.3"
            assert second.gossip_door.actor.card.gossip.startswith(f"{found}:")
            names.answer.set()
            until(lambda: know_each_other([first, second]), "the cluster", WITHIN_S)
            until(lambda: first.gossip_door.actor.engine.address_of("second")[0] == "127.0.0.3")


@covers("CLUSTER-22")
def test_nodes_of_one_machine_that_name_each_other_by_its_loopback_address_stay_there():
    with running_node("first") as first, running_node("second", join=gossip_of(first), gossip_host="") as second:
        until(lambda: know_each_other([first, second]), "the cluster", WITHIN_S)
        second.gossip_door._tell_seeds()
        assert second.gossip_door.actor.card.gossip.startswith(f"{HOST}:")


class Moving(System):
    """A machine with one address, which may become another one."""

    host = HOST

    def own_address_towards(self, address):
        return self.host

    def has_address(self, host):
        return host == self.host


@covers("CLUSTER-20")
def test_a_node_whose_address_has_gone_says_where_it_is_now(caplog):
    machine = Moving()
    with (
        running_node("first", gossip_timers=QUICK) as first,
        running_node("second", system=machine, join=gossip_of(first), gossip_host="", gossip_timers=QUICK) as second,
    ):
        until(lambda: know_each_other([first, second]), "the cluster", WITHIN_S)
        machine.host = ""  # gone, and there is no other one yet
        second.gossip_door._tell_seeds()
        assert second.gossip_door.actor.card.gossip.startswith(f"{HOST}:")
        machine.host = "127.0.0.2"
        until(lambda: first.gossip_door.actor.engine.address_of("second")[0] == "127.0.0.2", "the card", WITHIN_S)
        until(lambda: know_each_other([first, second]), "the links", WITHIN_S)
        Agent(second, "ep", serve)
        until(lambda: places(first) == {"second"})
        assert request(first).status == 200
    assert f"others reach this node at 127.0.0.2 now, and no more at {HOST}" in caplog.messages


@covers("CLUSTER-20")
def test_an_address_that_was_only_away_is_said_again():
    """Meanwhile the way to the others led through another network, whose address the machine has all the time."""
    machine = Moving()
    machine.host = "127.0.0.2"
    with (
        running_node("first", gossip_timers=QUICK) as first,
        running_node("second", system=machine, join=gossip_of(first), gossip_host="", gossip_timers=QUICK) as second,
    ):
        until(lambda: know_each_other([first, second]), "the cluster", WITHIN_S)
        assert second.gossip_door.actor.card.gossip.startswith("127.0.0.2:")
        machine.host = "127.0.0.3"
        until(lambda: second.gossip_door.actor.card.gossip.startswith("127.0.0.3:"), "the way round", WITHIN_S)
        machine.has_address = lambda host: True
        machine.host = "127.0.0.2"
        until(
            lambda: (first.gossip_door.actor.engine.address_of("second") or ("",))[0] == "127.0.0.2",
            "the way back",
            WITHIN_S,
        )


@covers("CLUSTER-20")
@pytest.mark.parametrize("named", ["", HOST])
def test_an_address_that_was_named_or_is_still_there_stays(named):
    """Also where the machine would speak to the others by another one of its addresses."""
    machine = Moving()
    machine.host = "127.0.0.2"
    said = named or machine.host
    with (
        running_node("first", gossip_timers=QUICK) as first,
        running_node("second", system=machine, join=gossip_of(first), gossip_host=named, gossip_timers=QUICK) as second,
    ):
        until(lambda: know_each_other([first, second]), "the cluster", WITHIN_S)
        machine.host = "127.0.0.3"
        machine.has_address = lambda host: not named
        second.gossip_door._tell_seeds()
        assert second.gossip_door.actor.card.gossip.startswith(f"{said}:")


class Apart(System):
    """A machine whose way to everywhere, if there is one, is not the one by which the others come."""

    def __init__(self, everywhere, here):
        self.everywhere, self.here = everywhere, here

    def own_address_towards(self, address):
        return self.here if address[0] == HOST else self.everywhere


class Dialling(System):
    """A machine that remembers whom it dialled."""

    def __init__(self):
        self.dialled = []

    def dial(self, address, timeout_s):
        self.dialled.append(address)
        return super().dial(address, timeout_s)


@covers("CLUSTER-21")
@pytest.mark.parametrize("everywhere, guess", [("", HOST), ("127.0.0.3", "127.0.0.3")])
def test_a_node_that_could_only_guess_its_address_takes_the_one_at_which_another_has_come(everywhere, guess):
    patient = replace(QUICK, exchange_s=1_000.0)
    machine = Dialling()
    with running_node("first", system=Apart(everywhere, "127.0.0.2"), gossip_host="") as first:
        assert first.gossip_door.actor.card.gossip.startswith(f"{guess}:")
        (seed,) = gossip_of(first)
        with running_node("second", system=machine, join=(seed,), gossip_timers=patient) as second:
            until(lambda: know_each_other([first, second]), "the cluster", WITHIN_S)
            assert first.gossip_door.actor.card.gossip == f"127.0.0.2:{seed[1]}"
        assert machine.dialled[0] == seed
        assert set(machine.dialled[1:]) == {("127.0.0.2", seed[1])}, "the first card that was heard was the right one"


@covers("CLUSTER-21")
def test_who_comes_from_the_same_machine_says_nothing_of_how_others_come():
    machine = Apart("127.0.0.2", HOST)
    with (
        running_node("first", system=machine, gossip_host="") as first,
        running_node("second", join=gossip_of(first)) as second,
    ):
        until(lambda: know_each_other([first, second]), "the cluster", WITHIN_S)
        assert first.gossip_door.actor.card.gossip.startswith("127.0.0.2:")
        machine.here = "127.0.0.3"
        with running_node("third", join=gossip_of(first)) as third:
            until(lambda: know_each_other([first, second, third]), "the cluster", WITHIN_S)
            assert first.gossip_door.actor.card.gossip.startswith("127.0.0.3:")
        machine.here = "127.0.0.4"
        with running_node("fourth", join=gossip_of(first)) as fourth:
            until(lambda: know_each_other([first, second, fourth]), "the cluster", WITHIN_S)
            assert first.gossip_door.actor.card.gossip.startswith("127.0.0.3:"), "one is enough"


@covers("CLUSTER-20", "CLUSTER-21")
def test_an_address_that_was_shown_by_who_came_is_found_again_in_the_same_way():
    machine = Apart("127.0.0.5", "127.0.0.2")
    with (
        running_node("first", system=machine, gossip_host="") as first,
        running_node("second", join=gossip_of(first)) as second,
    ):
        until(lambda: know_each_other([first, second]), "the cluster", WITHIN_S)
        machine.has_address = lambda host: host != "127.0.0.2"
        machine.here = "127.0.0.3"
        first.gossip_door._tell_seeds()
        until(lambda: second.gossip_door.actor.engine.address_of("first")[0] == "127.0.0.3", "the card", WITHIN_S)
        machine.here = "127.0.0.4"
        with running_node("third", join=gossip_of(first)) as third:
            until(lambda: know_each_other([first, second, third]), "the cluster", WITHIN_S)
            assert first.gossip_door.actor.card.gossip.startswith("127.0.0.3:"), "it is no guess any more"


@covers("CLUSTER-21")
def test_a_node_that_has_found_no_address_looks_again():
    machine = Moving()
    machine.host = ""
    machine.has_address = lambda host: True  # the loopback address never goes
    with running_node("first", system=machine, gossip_host="", gossip_timers=QUICK) as first:
        assert first.gossip_door.actor.card.gossip.startswith(f"{HOST}:")
        machine.host = "127.0.0.2"
        until(lambda: first.gossip_door.actor.card.gossip.startswith("127.0.0.2:"), "the card", WITHIN_S)


def test_a_machine_knows_its_addresses():
    assert System().has_address(HOST) and System().has_address("127.0.0.2")
    assert not System().has_address("192.0.2.1")


def test_no_address_is_lost_where_none_can_be_looked_for(monkeypatch):
    def exhausted(*_):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("pico.node.system.socket.socket", exhausted)
    assert System().has_address("192.0.2.1")


def test_other_names_are_looked_up_while_one_that_is_named_no_more_takes_long():
    with running_node("first") as first:
        names = Names({"first.test": gossip_of(first)}, slow="slow.test")
        with running_node("second", system=names, join=(("slow.test", 1),)) as second:
            second.reconfigure(replace(second.config, join=(("first.test", 1),)))
            until(lambda: know_each_other([first, second]) and second.ready()[0], "the cluster", WITHIN_S)


def test_a_node_is_joining_until_each_seed_has_been_tried():
    with running_node("first") as first:
        names = Names({"first.test": gossip_of(first)}, waits=True)
        with running_node("second", system=names, join=(("first.test", 1),)) as second:
            assert second.ready() == (False, "joining")
            names.answer.set()
            readiness = []
            until(lambda: readiness.append(second.ready()[0]) or readiness[-1])
            until(lambda: know_each_other([first, second]), "the cluster", WITHIN_S)
            assert second.gossip_door.actor.engine.joined


def test_a_node_that_is_ready_stays_so_when_a_name_leads_to_one_more_address():
    with running_node("first") as first:
        names = Names({"nodes.test": gossip_of(first)})
        timers = GossipTimers(resolve_s=0.05)
        with running_node("second", system=names, join=(("nodes.test", 1),), gossip_timers=timers) as second:
            until(lambda: second.ready()[0])
            with socket.socket() as silent:
                silent.bind((HOST, 0))
                silent.listen()
                names.names["nodes.test"].append(silent.getsockname())
                search = second.gossip_door.actor.engine._search
                until(lambda: not search.seeds_tried, "the new address")
                assert second.ready() == (True, "")


@covers("ROUTING-20")
def test_a_request_that_comes_before_the_node_knows_the_cluster_waits_for_it():
    with running_node("first") as first:
        Agent(first, "ep", serve)
        names = Names({"first.test": gossip_of(first)}, waits=True)
        with running_node("second", system=names, join=(("first.test", 1),), endpoint_wait_s=3.0) as second:
            client = Client(second).send(b"GET / HTTP/1.1\r\nHost: ep.x\r\n\r\n")
            until(lambda: second.routes.waiting, "the request")
            names.answer.set()
            assert client.response().body == ANSWER


@pytest.mark.parametrize("named", [False, True])
@covers("ROUTING-20")
def test_a_request_for_what_left_before_the_node_came_waits_for_its_return(named: bool):
    with running_node("other") as other:
        join = gossip_of(other) if named else ()
        with running_node("restarted", join=join, endpoint_wait_s=3.0) as node:
            until(lambda: node.gossip_door.caught_up_at() < math.inf, "the cluster")
            client = Client(node).send(b"GET / HTTP/1.1\r\nHost: ep.x\r\n\r\n")
            until(lambda: node.routes.waiting, "the request")
            Agent(node, "ep", serve)
            assert client.response().body == ANSWER


def test_a_node_whose_seeds_are_all_dead_serves_its_own_upstreams():
    with running_node("alone", join=((HOST, free_port()),), gossip_timers=QUICK) as node:
        Agent(node, "ep", serve)
        assert request(node).body == ANSWER
        until(lambda: node.ready()[0])


# Where a request goes.


def test_an_endpoint_of_one_is_served_by_every_other(three):
    Agent(three[1], "ep", serve)
    for node in three:
        until(lambda node=node: node is three[1] or places(node) == {"node-2"}, "the place")
        response = request(node)
        assert (response.status, response.body, response.fields(b"x-node")) == (200, ANSWER, [b"node-2"])
    assert metric(three[1], 'pico_forwarded_requests_total{direction="in"}') == 2
    assert metric(three[0], "pico_remote_endpoints") == 1


def test_a_new_endpoint_is_seen_by_the_others_within_milliseconds(three):
    """Not measured here, only that the push works: rounds alone would take a fifth of a second and more."""
    took = []
    for number in range(20):
        began = three[0].clock.now()
        agent = Agent(three[0], f"e{number}", serve)
        until(lambda number=number: all(places(node, f"e{number}") for node in three[1:]))
        took.append(three[0].clock.now() - began)
        agent.kill()
    assert sorted(took)[10] < 0.15, took


def test_an_upstream_that_leaves_takes_its_route_with_it_and_its_return_is_waited_for(three):
    agent = Agent(three[0], "ep", serve)
    until(lambda: places(three[2]) == {"node-1"})
    agent.kill()
    until(lambda: not places(three[2]), "the end of the route")
    client = Client(three[2]).send(b"GET / HTTP/1.1\r\nHost: ep.x\r\n\r\n")
    until(lambda: three[2].routes.waiting, "the request")
    Agent(three[1], "ep", serve)
    assert client.response().fields(b"x-node") == [b"node-2"]


def test_several_upstreams_are_counted_and_shared(three):
    for node in (three[0], three[0], three[0], three[1]):
        Agent(node, "ep", serve)
    view = three[2].gossip_door.actor.view
    until(lambda: [place.upstreams for place in view.places.get("ep", ())] == [3, 1], "the numbers")
    served = [request(three[2]).fields(b"x-node")[0] for _ in range(40)]
    assert set(served) == {b"node-1", b"node-2"}


def test_a_peer_that_has_the_endpoint_no_more_is_corrected(three, monkeypatch):
    agent = Agent(three[0], "ep", serve)
    until(lambda: places(three[2]) == {"node-1"})
    cluster = three[0].gossip_door.actor
    with monkeypatch.context() as patch:
        patch.setattr(cluster, "_pump", lambda: None)  # it tells nobody for a moment
        agent.kill()
        until(lambda: not three[0].routes.served("ep"))
        Agent(three[1], "ep", serve)
        until(lambda: places(three[2]) == {"node-1", "node-2"})
        for _ in range(8):
            assert request(three[2]).fields(b"x-node") == [b"node-2"]
        assert places(three[2]) == {"node-2"}
    assert metric(three[2], "pico_view_corrections_total") == 1
    cluster._pump()
    settled(lambda: places(three[2]) == {"node-2"})


# Leaving, and worse.


def test_a_node_that_drains_loses_no_request_and_leaves(three):
    leaving, others = three[0], three[1:]
    Agent(leaving, "ep", serve)
    slow = Agent(leaving, "slow", lambda call: None)
    until(lambda: places(others[0], "slow") and places(others[0]))
    client = Client(others[0]).send(b"GET / HTTP/1.1\r\nHost: slow.x\r\n\r\n")
    until(lambda: slow.calls)
    drained = gevent.spawn(leaving.drain)
    standing = others[0].gossip_door.actor.view.standing
    until(lambda: standing("node-1") is Standing.LAST_RESORT, "the draining")
    until(lambda: others[0].gossip_door.actor._upstreams["node-1"].leaving, "the goaway on the link")
    Agent(others[1], "ep", serve)
    until(lambda: places(others[0]) >= {"node-3"})
    for _ in range(10):
        assert request(others[0]).fields(b"x-node") == [b"node-3"]
    slow.calls[0].respond(200, b"the last one")
    assert client.response().body == b"the last one"
    drained.get(timeout=WITHIN_S)
    assert with_status(others[0], "left") == with_status(others[1], "left") == {"node-1"}
    leaving.stop()
    settled(lambda: all(linked(node) == {other.node_id for other in others} - {node.node_id} for node in others))
    assert metric(others[0], 'pico_gossip_nodes{status="left"}') == 1


def test_before_a_node_that_drains_closes_a_door_the_others_avoid_it():
    with running_cluster(2, drain_delay_s=60.0) as (leaving, other):
        Agent(leaving, "ep", serve)
        until(lambda: places(other))
        drained = gevent.spawn(leaving.drain)
        until(lambda: other.gossip_door.actor.view.standing("node-1") is Standing.LAST_RESORT, "the draining")
        assert leaving.ready() == (False, "draining")
        assert request(leaving).status == 200, "whoever has not noticed is served"
        assert not leaving.services.leaving
        drained.kill()


def test_a_link_that_comes_while_its_node_stops_is_ended_too(monkeypatch):
    with running_cluster(2) as (leaving, other):
        Agent(leaving, "ep", serve)
        until(lambda: places(other))
        forwarding, close = leaving.gossip_door.forwarding, leaving.upstream_door.close

        def after_a_link_came(reason):
            client = Client(other).send(b"GET / HTTP/1.1\r\nHost: ep.x\r\n\r\n")
            until(lambda: forwarding.links, "another link, those that there were have been closed")
            client.close()
            close(reason)

        monkeypatch.setattr(leaving.upstream_door, "close", after_a_link_came)
        leaving.stop()
        monkeypatch.undo()
        assert forwarding.links == 0


def refused(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address).close()
    except ConnectionRefusedError:
        return True
    return False


def test_a_node_of_which_a_part_fails_while_it_drains_opens_no_door_again_and_leaves(three, caplog):
    leaving, other = three[:2]
    slow = Agent(leaving, "slow", lambda call: None)
    client = Client(leaving).send(b"GET / HTTP/1.1\r\nHost: slow.x\r\n\r\n")
    until(lambda: slow.calls)
    drained = gevent.spawn(leaving.drain)
    until(lambda: leaving.services.leaving)
    failed = leaving.gossip_door.actor
    break_once(failed, "_handle")
    until(lambda: leaving.gossip_door.actor is not failed, "another actor")
    seen = other.gossip_door.actor
    life = failed.engine.table.own.life
    until(lambda: seen.engine.table.members()["node-1"].life > life, "the other life", WITHIN_S)
    settled(lambda: seen.view.node("node-1").draining)
    until(lambda: leaving._supervisor.ref("admin-door"), "the last of its parts")
    for door in ("proxy-door", "upstream-door"):
        until(lambda door=door: refused(leaving.address(door)), f"the end of the {door}")
    slow.calls[0].respond(200, b"the last one")
    assert client.response().body == b"the last one"
    drained.get(timeout=WITHIN_S)
    assert with_status(other, "left") == {"node-1"}


def test_a_node_that_has_left_rests(three):
    """Until it stops it only answers probes; nothing makes its timer fire again and again."""
    three[0].drain()
    cluster = three[0].gossip_door.actor
    handled = []
    real = cluster._handle
    cluster._handle = lambda message: handled.append(message) or real(message)
    gevent.sleep(0.3)
    assert len(handled) < 100


@covers("CLUSTER-19")
def test_what_becomes_of_other_nodes_is_logged_once_and_death_is_a_warning(caplog):
    """The three nodes share the log; they tell the same of each other."""
    caplog.set_level("INFO", logger="pico.cluster")
    with running_cluster(3, gossip_timers=QUICK) as nodes:
        nodes[0].drain()
        until(lambda: with_status(nodes[1], "left") == with_status(nodes[2], "left") == {"node-1"}, "that it left")
        nodes[0].stop()  # else it could find the next one dead, too
        fall(nodes[1])
        until(lambda: with_status(nodes[2], "dead") == {"node-2"}, "its death", WITHIN_S)
    told = [(one.levelname, one.getMessage()) for one in caplog.records if one.getMessage().startswith("node ")]
    alive = [("INFO", f"node node-{number} is alive") for number in (1, 2, 3)]
    assert [told.count(one) for one in alive] == [2, 2, 2]
    assert told.count(("INFO", "node node-1 has left")) == 2
    assert told.count(("WARNING", "node node-2 is dead: it fell silent without having left")) == 1
    assert len(told) == 9


def test_a_node_that_falls_is_avoided_at_once_and_found_dead():
    with running_cluster(3, gossip_timers=QUICK) as nodes:
        for node in nodes[:2]:
            Agent(node, "ep", serve)
        until(lambda: places(nodes[2]) == {"node-1", "node-2"})
        fall(nodes[0])
        for _ in range(10):
            assert request(nodes[2]).fields(b"x-node") == [b"node-2"]
        until(
            lambda: with_status(nodes[2], "dead") == with_status(nodes[1], "dead") == {"node-1"}, "its death", WITHIN_S
        )
        assert places(nodes[2]) == {"node-2"}
        assert linked(nodes[2]) == {"node-2"}


def test_a_node_that_believes_all_others_dead_serves_its_own_upstreams():
    with running_cluster(3, gossip_timers=QUICK) as nodes:
        Agent(nodes[0], "ep", serve)
        for node in nodes[1:]:
            fall(node)
        until(lambda: with_status(nodes[0], "dead") == {"node-2", "node-3"}, "their death", WITHIN_S)
        assert request(nodes[0]).body == ANSWER
        assert nodes[0].ready()[0]


def test_a_node_that_is_restarted_under_its_name_has_its_new_endpoints_and_none_of_the_old():
    with running_cluster(3) as nodes:
        Agent(nodes[0], "old", serve)
        until(lambda: places(nodes[2], "old") == {"node-1"})
        life = nodes[0].gossip_door.actor.engine.table.own.life
        fall(nodes[0])
        with running_node("node-1", join=gossip_of(nodes[1])) as again:
            assert again.gossip_door.actor.engine.table.own.life > life
            Agent(again, "new", serve)
            until(lambda: places(nodes[2], "new") == {"node-1"}, "the new endpoint")
            assert not places(nodes[2], "old")
            assert request(nodes[2], b"new.x").body == ANSWER
            until(lambda: know_each_other([again, *nodes[1:]]), "the links", WITHIN_S)
            settled(lambda: not places(nodes[1], "old") and not places(nodes[2], "old"))


def test_whoever_hears_of_a_node_can_dial_it():
    port, could_dial = free_port(), []

    class Watching(System):
        """Looks whether the node's own gossip door is open when it begins to look for others."""

        def dial(self, address, timeout_s):
            try:
                socket.create_connection((HOST, port), WITHIN_S).close()
            except ConnectionRefusedError:
                could_dial.append(False)
            else:
                could_dial.append(True)
            return super().dial(address, timeout_s)

    with (
        running_node("node-1") as first,
        running_node("node-2", join=gossip_of(first), gossip_port=port, system=Watching()) as second,
    ):
        until(lambda: know_each_other([first, second]), "the cluster", WITHIN_S)
        assert could_dial[0]


def test_a_node_that_stops_without_a_word_is_gone_for_the_others_too():
    with running_cluster(2, gossip_timers=QUICK) as nodes:
        nodes[0].stop()
        until(lambda: not linked(nodes[1]), "the end of the link")
        assert nodes[0].gossip_door.forwarding.links == 0
        until(lambda: with_status(nodes[1], "dead") == {"node-1"}, "its death", WITHIN_S)


# Who is let in.


def test_a_node_of_another_cluster_is_not_listened_to():
    with running_node("first") as first, running_node("second", cluster_name="other", join=gossip_of(first)) as second:
        until(lambda: metric(first, 'pico_gossip_channels_total{result="cluster"}'), "a refusal")
        until(lambda: metric(second, 'pico_gossip_exchanges_total{result="failed"}'), "the news of it")
        assert not alive(first) | alive(second)
        assert second.ready()[0]


def write_keys(path, *keys: bytes) -> str:
    path.write_text("".join(f"{key.hex()}\n" for key in keys))
    return str(path)


def test_nodes_with_the_key_of_the_cluster_are_one(tmp_path):
    file = write_keys(tmp_path / "key", os.urandom(32))
    with running_cluster(3, cluster_key_file=file) as nodes:
        Agent(nodes[0], "ep", serve)
        until(lambda: places(nodes[2]) == {"node-1"})
        assert request(nodes[2]).body == ANSWER
        assert not any(nodes[0].gossip_door.standing().violations.values())


@pytest.mark.parametrize(
    "mine, theirs, reason", [("key", "", "unsealed"), ("", "key", "no_key"), ("key", "other", "unknown_key")]
)
def test_a_node_without_the_right_key_stays_outside(tmp_path, mine, theirs, reason):
    files = {name: write_keys(tmp_path / name, os.urandom(32)) for name in ("key", "other")} | {"": ""}
    with (
        running_node("first", cluster_key_file=files[mine]) as first,
        running_node("second", cluster_key_file=files[theirs], join=gossip_of(first)) as second,
    ):
        until(lambda: metric(first, f'pico_gossip_channels_total{{result="{reason}"}}'), "a refusal")
        packet = second.gossip_door.actor.engine.table.builder(packets_max=1)
        packet.say(Ping(1, "first"))
        second.gossip_door.actor._datagrams.send(packet.packets()[0], gossip_of(first)[0])
        until(lambda: metric(first, f'pico_gossip_violations_total{{reason="{reason}"}}'), "the count")
        assert not alive(first) | alive(second)


def test_keys_are_changed_without_a_moment_of_separation(tmp_path):
    """The new key is known everywhere before it is used anywhere."""
    old, new = os.urandom(32), os.urandom(32)
    rotated, young = write_keys(tmp_path / "both", new, old), write_keys(tmp_path / "old", old, new)
    with (
        running_node("first", cluster_key_file=young) as first,
        running_node("second", cluster_key_file=rotated, join=gossip_of(first)) as second,
    ):
        until(lambda: know_each_other([first, second]), "the cluster", WITHIN_S)
        Agent(first, "ep", serve)
        until(lambda: places(second) == {"first"})
        assert request(second).body == ANSWER


def test_of_two_processes_with_one_name_one_stops_and_says_why(caplog):
    with running_node("first") as first, running_node("twin", join=gossip_of(first)) as older:
        until(lambda: know_each_other([first, older]), "the cluster", WITHIN_S)
        with running_node("twin", join=gossip_of(first)) as younger:
            until(lambda: older.failed.is_set() or younger.failed.is_set(), "a loser", 20.0)
            assert "another process calls itself twin" in caplog.text
            assert not (older.failed.is_set() and younger.failed.is_set())
            settled(lambda: alive(first) == {"twin"})


@covers("GOSSIP-79", "CLUSTER-23")
def test_a_node_that_drains_gives_way_to_its_successor_and_finishes_what_it_has(caplog):
    """It is in its drain delay, which would take longer than anybody waits for an endpoint. Both entrances are used."""
    caplog.set_level("INFO", "pico.cluster")
    with (
        running_node("first") as first,
        running_node("twin", join=gossip_of(first), drain_delay_s=1_000.0) as older,
    ):
        slow, quick = Agent(older, "slow", lambda call: None), Agent(older, "ep", serve)
        Agent(first, "elsewhere", serve)
        until(lambda: know_each_other([first, older]) and places(first), "the cluster", WITHIN_S)
        until(lambda: places(older, "elsewhere"), "the endpoint elsewhere", WITHIN_S)
        clients = [Client(node).send(b"GET / HTTP/1.1\r\nHost: slow.x\r\n\r\n") for node in (older, first)]
        until(lambda: len(slow.calls) == 2)
        drained = gevent.spawn(older.drain)
        until(lambda: first.gossip_door.actor.view.standing("twin") is Standing.LAST_RESORT, "the draining")
        with running_node("twin", join=gossip_of(first)) as younger:
            until(quick.goaway.ready, "the word to the agents", WITHIN_S)
            until(lambda: know_each_other([first, younger]), "the cluster with the successor", WITHIN_S)
            assert not older.failed.is_set() and not younger.failed.is_set()
            response = Client(older).get(host=b"elsewhere.x")
            assert response.status == 200, "its balancer may not have noticed yet"
            for call in slow.calls:
                call.respond(200, b"the last one")
            assert [client.response().body for client in clients] == [b"the last one"] * 2
            assert not drained.ready()
            drained.kill()
            older.config = replace(older.config, drain_delay_s=0.0)  # now they have noticed
            older.drain()
            older.stop()
            settled(lambda: linked(first) == {"twin"} and not with_status(first, "left"))
    assert "another process is node twin now, before this one has ended" in caplog.messages


def test_a_port_that_the_system_chooses_is_free_for_both_protocols():
    """UDP gets one that is free, and another program may have its twin of TCP."""
    taken = []
    other = socket.socket()

    class Crowded(System):
        def bind_datagrams(self, host, port, received):
            datagrams = super().bind_datagrams(host, port, received)
            if not taken:
                taken.append(datagrams.address[1])
                with contextlib.suppress(OSError):  # another program has it already: as good
                    other.bind((HOST, taken[0]))
                    other.listen()
            return datagrams

    with contextlib.closing(other), running_node(system=Crowded()) as node:
        assert node.address("gossip-door")[1] != taken[0]


def test_a_node_that_gets_no_port_for_both_protocols_says_so():
    """No open file is left, say: it must not try for ever, deaf to every signal."""
    with contextlib.ExitStack() as others:
        bound = []

        class Full(System):
            def bind_datagrams(self, host, port, received):
                assert len(bound) < 100, "it would go on"
                bound.append(super().bind_datagrams(host, port, received))
                other = others.enter_context(contextlib.closing(socket.socket()))
                # As the door does: else what is left of a connection is in this one's way and not in the door's.
                other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                with contextlib.suppress(OSError):
                    other.bind(bound[-1].address)
                    other.listen()
                return bound[-1]

        with pytest.raises(ChildDidNotStart, match="--gossip-port: cannot listen on .*: Address already in use"):
            others.enter_context(running_node(system=Full()))
        for datagrams in bound:
            assert not datagrams.send(b"", datagrams.address), "each is closed"


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_a_node_that_listens_everywhere_does_not_say_that_it_is_everywhere(host):
    with (
        running_node("first") as first,
        running_node("second", gossip_host=host, join=gossip_of(first)) as second,
    ):
        until(lambda: know_each_other([first, second]), "the cluster", WITHIN_S)
        card = first.gossip_door.actor.view.node("second").card
        assert card.gossip == f"{HOST}:{second.address('gossip-door')[1]}"


def test_the_access_log_says_which_peer_served(three):
    Agent(three[1], "ep", serve)
    until(lambda: places(three[0]) == {"node-2"})
    assert request(three[0]).status == 200
    assert logged(three[0])[-1]["peer"] == "node-2"


def test_what_is_counted_of_a_cluster(three):
    for node in three:
        assert metric(node, 'pico_gossip_nodes{status="alive"}') == 2
        until(lambda node=node: metric(node, "pico_gossip_joined") == 1)
        assert metric(node, 'pico_peer_links{direction="out"}') == 2
        until(lambda node=node: metric(node, 'pico_peer_links{direction="in"}') == 2, "the links of the others")
        for direction in (
            "sent",
            "received",
        ):  # they came to know each other over streams, maybe before the first of these
            name = f'pico_gossip_datagrams_total{{direction="{direction}"}}'
            until(lambda node=node, name=name: metric(node, name) > 0, f"datagrams {direction}")
        assert metric(node, 'pico_gossip_channels_total{result="link"}') == 2
    assert metric(three[0], 'pico_gossip_exchanges_total{result="served"}') >= 2
    assert metric(three[1], 'pico_gossip_exchanges_total{result="begun"}') >= 1


@pytest.mark.parametrize("waits", [True, False])
def test_names_are_not_looked_at_any_more_after_the_stop(waits):
    names = Names({}, waits=waits)
    with running_node(system=names, join=(("nowhere.test", 1),)) as node:
        door = node.gossip_door
        until(lambda: names.waiting == ["nowhere.test"] if waits else door._seeds._timer._watcher is not None)
    until(lambda: not names.waiting, "the end of the look-up that nobody answers")
    assert door._seeds._looking.dead
    assert door._seeds._timer._watcher is None


# Faults of our own.


def break_once(actor, step: str) -> None:
    real = getattr(actor, step)

    def fail(*arguments):
        setattr(actor, step, real)
        raise RuntimeError("seeded fault")

    setattr(actor, step, fail)


@pytest.mark.parametrize("which", [0, 1])
def test_a_cluster_actor_that_fails_is_started_anew_with_its_port_and_its_seeds(which, caplog):
    """Also that of the node whom nobody told whom to join: the others come to it."""
    with running_cluster(3) as nodes:
        hit = nodes[which]
        Agent(hit, "ep", serve)
        other = nodes[1 - which]
        until(lambda: places(other) == {hit.node_id})
        port, failed = hit.address("gossip-door")[1], hit.gossip_door.actor
        break_once(failed, "_handle")
        until(lambda: hit.gossip_door.actor is not failed, "another actor")
        until(lambda: know_each_other(nodes), "the cluster", WITHIN_S)
        until(lambda: places(other) == {hit.node_id}, "the endpoint, said by the new one")
        assert request(other).body == ANSWER
        assert hit.address("gossip-door")[1] == port
        assert not hit.failed.is_set()
        assert metric(hit, 'pico_actor_restarts_total{actor="cluster"}') == 1


def test_a_cluster_actor_that_is_started_anew_is_told_at_once_what_is_known_while_a_name_takes_long(caplog):
    with running_node("first") as first:
        names = Names({}, slow="slow.test")
        with running_node("second", system=names, join=(("slow.test", 1), *gossip_of(first))) as second:
            until(lambda: know_each_other([first, second]), "the cluster", WITHIN_S)
            failed = second.gossip_door.actor
            break_once(failed, "_handle")
            until(lambda: second.gossip_door.actor is not failed, "another actor")
            until(lambda: second.gossip_door.actor.engine._search._seeds, "its seeds")
            names.answer.set()


def test_a_peer_actor_that_fails_is_started_anew(caplog):
    with running_cluster(2) as nodes:
        failed = nodes[0].gossip_door.actor._peers["node-2"].actor
        break_once(failed, "_dial")
        nodes[0].gossip_door.actor._upstreams["node-2"]._dial()
        until(failed.actor_stopped.is_set, "the fault")
        until(lambda: know_each_other(nodes), "the link", WITHIN_S)
        assert metric(nodes[0], 'pico_actor_restarts_total{actor="gossip-peer"}') == 1


def live_and_stop() -> None:
    with running_cluster(3) as nodes:
        Agent(nodes[0], "ep", serve)
        until(lambda: places(nodes[2]))
        assert request(nodes[2]).body == ANSWER


def test_a_cluster_that_stops_leaves_nothing_behind():
    live_and_stop()  # the hub's own threads and descriptors are there from now on
    before = open_sockets()
    with nothing_left_behind():
        live_and_stop()
        gevent.sleep(0.1)
    assert open_sockets() <= before


def test_a_door_without_a_port_yet_is_not_on_the_card():
    """Names may be looked up sooner than the system has chosen the ports."""
    with running_node("first") as node:
        chosen = node._listening["admin-door"].address
        node._listening["admin-door"].address = (chosen[0], 0)
        assert node.gossip_door._card().admin == ""
        node._listening["admin-door"].address = chosen
        assert node.gossip_door._card().admin == f"{HOST}:{chosen[1]}"


def test_who_cannot_join_says_why_once_and_when_it_is_over(tmp_path, caplog):
    """A seed that is not there, then one that asks for a key, then one that takes the node in."""
    caplog.set_level("INFO", logger="pico.cluster")
    with running_node("first") as first:
        ports = {"gossip_port": gossip_of(first)[0][1]}
        seed = gossip_of(first)
    key = write_keys(tmp_path / "key", os.urandom(32))

    def said(text: str) -> int:
        return sum(text in record.getMessage() for record in caplog.records)

    with running_node("second", join=seed, gossip_timers=GossipTimers(seed_max_s=0.2)):
        until(lambda: said("connection refused; retrying"), "the first reason")
        with running_node("first", cluster_key_file=key, **ports):
            until(lambda: said("cannot join the node at 127.0.0.1") == 2, "the second reason")
        with running_node("first", **ports):
            until(lambda: said("answers now"), "the end of it")
    assert said("connection refused; retrying") <= 2


@pytest.mark.parametrize("family, host, shown", [(socket.AF_INET, HOST, HOST), (socket.AF_INET6, "::1", "[::1]")])
def test_a_port_that_says_nothing_is_complained_of_once_with_the_time_that_was_set(caplog, family, host, shown):
    """The time that the dial itself has taken would make a new reason of each attempt."""
    caplog.set_level("INFO", logger="pico.cluster")
    with contextlib.closing(socket.socket(family)) as silent:
        silent.bind((host, 0))
        silent.listen()  # the system takes the connections, and nobody says anything on them
        port = silent.getsockname()[1]
        seed = ((host, port),)
        limits, timers = PeerLimits(dial_s=0.1), GossipTimers(seed_max_s=0.1)
        with running_node("alone", join=seed, peer_limits=limits, gossip_timers=timers) as node:
            until(lambda: metric(node, 'pico_gossip_exchanges_total{result="failed"}') >= 3, "three attempts")
    (line,) = (message for message in caplog.messages if message.startswith("cannot join"))
    reason = "channel: no hello in 0.1 s, perhaps it is no gossip port"
    assert line == f"cannot join the node at {shown}:{port}: {reason}; retrying"


@pytest.mark.parametrize(
    "advertised, told",
    [
        ("localhost", "127.0.0.1:{port}"),
        ("localhost:9", "127.0.0.1:9"),
        ("[::1]", "[::1]:{port}"),
        ("[::1]:9", "[::1]:9"),
    ],
)
def test_what_is_advertised_of_gossip_is_told_as_an_address(monkeypatch, advertised, told):
    """A name would have to be looked up by whoever hears of it."""
    monkeypatch.setattr(System, "resolve", staticmethod(lambda host, port: [(HOST, port)]))
    with running_node("first", advertise_gossip=advertised) as node:
        assert node.gossip_door._card().gossip == told.format(port=node.address("gossip-door")[1])
