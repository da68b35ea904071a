"""Nodes of one cluster as real processes: killed, restarted, stopped and cut off while requests run.

What takes longer than a test of every commit should is there with ``PICO_SYSTEM_LONG=1``.
"""

from __future__ import annotations

import http.client
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from typing import Any

import pytest

from pico.cli.bench.processes import free_port
from tests.system.networks import HUB, Network, why_not
from tests.system.processes import HOST, Agent, Node, Programs, answer_of, until
from tests.system.tokens import TokenService

LONG = pytest.mark.skipif(not os.environ.get("PICO_SYSTEM_LONG"), reason="long: set PICO_SYSTEM_LONG=1")
CONNECTIONS = 8
METHODS = "GET,GET,GET,POST"

pytestmark = pytest.mark.timeout(240)


class Ways:
    """One address that leads to several doors: the first ``crowd`` connections to the same one, then in turn."""

    def __init__(self, ports: Sequence[int], crowd: int) -> None:
        self._ports = itertools.chain(itertools.repeat(ports[0], crowd), itertools.cycle(ports))
        self._listener = socket.create_server((HOST, 0))
        self.url = f"http://{HOST}:{self._listener.getsockname()[1]}"
        self._sockets = [self._listener]
        self._threads: list[threading.Thread] = []
        self._run(self._accept)

    def _run(self, function: Callable[..., None], *arguments: socket.socket) -> None:
        self._threads.append(threading.Thread(target=function, args=arguments))
        self._threads[-1].start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                node = socket.create_connection((HOST, next(self._ports)))
                self._sockets += (client, node)
                self._run(self._carry, client, node)
                self._run(self._carry, node, client)

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        for sock in self._sockets:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for sock in self._sockets:
            sock.close()


@pytest.fixture
def tokens() -> Iterator[TokenService]:
    with TokenService() as serving:
        yield serving


def cluster(programs: Programs, count: int, *options: str) -> list[Node]:
    """Nodes that know each other."""
    first = programs.node("--node-id=node-1", *options)
    rest = [programs.node_begun(f"--node-id=node-{number}", joining(first), *options) for number in range(2, count + 1)]
    nodes = [first, *(node.ready() for node in rest)]
    until_one(nodes)
    return nodes


def joining(*nodes: Node) -> str:
    return "--join=" + ",".join(f"{node.host}:{node.gossip_port}" for node in nodes)


def until_one(nodes: Sequence[Node], within_s: float = 15.0) -> None:
    """Wait until each knows every other as alive, and has a link to it."""
    for node in nodes:
        until(lambda node=node: others(node) == len(nodes) - 1, f"the cluster as {node.name} sees it", within_s)


def others(node: Node) -> int:
    """How many others are alive and linked."""
    links, alive = node.metric('pico_peer_links{direction="out"}'), nodes_with(node, "alive")
    return int(alive) if links == alive else -1


def nodes_with(node: Node, status: str) -> int:
    return int(node.metric(f'pico_gossip_nodes{{status="{status}"}}'))


def agent_of(
    programs: Programs, nodes: Sequence[Node], tokens: TokenService, *options: str, within: Sequence[str] = ()
) -> Agent:
    """An agent that knows all of these nodes."""
    servers = [f"--server={node.upstream_url}" for node in nodes]
    target = f"--endpoint=tokens={HOST}:{tokens.port}"
    return programs.agent_of(*servers, target, "--backoff-max=500ms", *options, within=within).registered()


def holders(nodes: Sequence[Node]) -> list[Node]:
    """Which nodes have an upstream."""
    return [node for node in nodes if node.metric("pico_upstreams") > 0]


def serves(node: Node) -> bool:
    """Whether a request that enters here is answered."""
    return ask(node.host, node.proxy_port)[0] == 200


def ask(host: str, port: int, method: str = "GET") -> tuple[int, float]:
    """Status of a request of its own, and how long its answer took."""
    token, began = f"{method}-0", time.monotonic()
    with closing(http.client.HTTPConnection(host, port, timeout=30)) as connection:
        connection.request(method, f"/{token}", headers={"Host": "tokens.test", "X-Token": token})
        response = connection.getresponse()
        response.read()
        return response.status, time.monotonic() - began


class Outcome:
    """What clients saw."""

    def __init__(self, said: dict[str, Any], what: str) -> None:
        self.right: dict[str, int] = said["right"]
        self.wrong: list[str] = said["wrong"]
        self.failed: dict[str, list[str]] = said["failed"]
        self.slowest_s: float = said["slowest_s"]
        failed = {what: len(which) for what, which in self.failed.items()}
        print(
            f"{what}: {sum(self.right.values())} right, {len(self.wrong)} wrong, failed: {failed or 'none'}, "
            f"{said['refused']} connections refused; nobody answered for {said['quiet_s'] * 1000:.0f} ms at most, "
            f"the slowest answer took {said['slowest_s'] * 1000:.0f} ms"
        )

    def failures(self, *methods: str) -> dict[str, int]:
        return {what: len(which) for what, which in self.failed.items() if what.split()[0] in methods}


def tunnels(nodes: Sequence[Node]) -> list[int]:
    """How many upstreams each has."""
    return [int(node.metric("pico_upstreams")) for node in nodes]


@contextmanager
def loading(
    nodes: Sequence[Node], what: str, *words: str, methods: str = METHODS, within: Sequence[str] = ()
) -> Iterator[list[Outcome]]:
    """Clients go from node to node; the list has what they saw once the block is left."""
    doors = ",".join(f"{node.host}:{node.proxy_port}" for node in nodes)
    command = [*within, sys.executable, "-m", "tests.system.cluster_load", doors, str(CONNECTIONS), methods, *words]
    outcomes: list[Outcome] = []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        try:
            yield outcomes
            said, _ = running.communicate("stop\n", timeout=90)
            outcomes.append(Outcome(json.loads(said), what))
        finally:
            if running.poll() is None:
                running.kill()


def let_requests_run(tokens: TokenService, requests: int) -> None:
    """Until so many more have reached the service."""
    enough = tokens.seen.total() + requests
    until(lambda: tokens.seen.total() >= enough, f"{requests} requests", 60.0)


def check_tokens(tokens: TokenService, outcome: Outcome) -> None:
    """Nothing is mixed up, and no POST came twice."""
    assert outcome.wrong == [] and tokens.wrong == []
    assert all(count == 1 for token, count in tokens.seen.items() if token.startswith("POST"))


# Coming.


def test_five_nodes_that_start_at_once_are_one_cluster(programs: Programs, tokens: TokenService) -> None:
    ports = [free_port() for _ in range(5)]
    everybody = "--join=" + ",".join(f"{HOST}:{port}" for port in ports)
    began = time.monotonic()
    nodes = [
        programs.node_begun(f"--node-id=node-{number}", f"--gossip-port={port}", everybody)
        for number, port in enumerate(ports)
    ]
    for node in nodes:
        node.ready()
    ready = time.monotonic()
    until_one(nodes)
    print(f"five nodes: started in {ready - began:.1f} s, one cluster {time.monotonic() - ready:.2f} s later")
    for node in nodes:
        until(lambda node=node: node.admin("/readyz")[0] == 200, "readiness")
    agent_of(programs, nodes[2:3], tokens)
    for node in nodes:
        until(lambda node=node: serves(node), "an answer")


def test_the_tunnels_of_an_agent_behind_one_address_find_a_node_each(programs: Programs, tokens: TokenService) -> None:
    nodes = cluster(programs, 3)
    with closing(Ways([node.upstream_port for node in nodes], crowd=3)) as ways:
        target = f"--endpoint=tokens={HOST}:{tokens.port}"
        agent = programs.agent_of(f"--server={ways.url}", target, "--connections=3").registered()
        until(lambda: tunnels(nodes) == [1, 1, 1], "a tunnel at each node")
        assert all(serves(node) for node in nodes)
        assert "another tunnel is at this node already" in agent.errors


def test_a_node_is_restarted_under_its_name_within_a_second(programs: Programs, tokens: TokenService) -> None:
    nodes = cluster(programs, 3)
    victim, *rest = nodes
    victim.send(signal.SIGKILL)
    victim.wait()
    again = programs.node("--node-id=node-1", joining(rest[0]), *victim.same_ports)
    began = time.monotonic()
    agent_of(programs, [again], tokens)
    until(lambda: all(node.metric("pico_remote_endpoints") == 1 for node in rest), "the new endpoint")
    print(f"an endpoint of the restarted node is visible {time.monotonic() - began:.2f} s after its agent was started")
    until_one([again, *rest])
    assert all(serves(node) for node in (again, *rest))
    assert all(nodes_with(node, "dead") == 0 for node in rest)


# Going.


def test_the_node_with_the_upstream_is_killed_under_load(programs: Programs, tokens: TokenService) -> None:
    """What was in flight on it and must not be repeated fails; a GET fails only where its client was connected."""
    nodes = cluster(programs, 3)
    agent_of(programs, nodes, tokens)
    let_everybody_serve(nodes)
    (victim,) = holders(nodes)
    rest = [node for node in nodes if node is not victim]
    with loading(rest, "the node with the upstream is killed") as outcomes:
        let_requests_run(tokens, 300)
        victim.send(signal.SIGKILL)
        let_requests_run(tokens, 600)
    (outcome,) = outcomes
    check_tokens(tokens, outcome)
    assert outcome.failures("GET") == {}
    assert set(outcome.failures("POST")) <= {"POST 502 tunnel_lost"}
    for node in rest:
        until(lambda node=node: nodes_with(node, "dead") == 1, "its death")


@pytest.mark.parametrize("options", [["--connections=2"], ["--heartbeat=500ms", "--silence=2s"]], ids=" ".join)
def test_a_node_with_an_upstream_hangs_under_load(programs: Programs, tokens: TokenService, options: list[str]) -> None:
    """Its connections stay, and no GET fails: the agent is elsewhere as well, or within ``--endpoint-wait``."""
    nodes = cluster(programs, 3)
    agent_of(programs, nodes, tokens, *options)
    until(lambda: len(holders(nodes)) == (2 if "--connections=2" in options else 1), "the tunnels")
    let_everybody_serve(nodes)
    victim = holders(nodes)[0]
    rest = [node for node in nodes if node is not victim]
    with loading(rest, f"a node with an upstream hangs, {' '.join(options)}") as outcomes:
        let_requests_run(tokens, 300)
        victim.send(signal.SIGSTOP)
        try:
            for node in rest:
                until(lambda node=node: nodes_with(node, "dead") == 1, "its death")
            let_requests_run(tokens, 300)
        finally:
            victim.send(signal.SIGCONT)
    (outcome,) = outcomes
    check_tokens(tokens, outcome)
    assert outcome.failures("GET") == {}
    assert set(outcome.failures("POST")) <= {"POST 502 tunnel_lost"}
    until_one(nodes)


def let_everybody_serve(nodes: Sequence[Node]) -> None:
    for node in nodes:
        until(lambda node=node: serves(node), f"an answer of {node.name}")


@pytest.mark.parametrize("connections", ["fresh", pytest.param("kept", marks=LONG)])
def test_all_nodes_are_restarted_in_turn_while_requests_run(
    programs: Programs, tokens: TokenService, connections: str
) -> None:
    """No request fails that came on a connection of its own, nor one of a method that may be repeated."""
    nodes = cluster(programs, 3, "--drain-delay=300ms")
    for first in range(2):
        agent_of(programs, nodes[first:] + nodes[:first], tokens)
    let_everybody_serve(nodes)
    words = ["fresh"] if connections == "fresh" else []
    with loading(nodes, f"rolling restart, {connections} connections", *words) as outcomes:
        for place, node in enumerate(nodes):
            let_requests_run(tokens, 200)
            node.send(signal.SIGTERM)
            assert node.wait() == 0
            others_ = [other for other in nodes if other is not node]
            nodes[place] = programs.node(
                f"--node-id=node-{place + 1}", joining(*others_), "--drain-delay=300ms", *node.same_ports
            )
            until_one(nodes)
        let_requests_run(tokens, 200)
    (outcome,) = outcomes
    check_tokens(tokens, outcome)
    assert outcome.failures("GET", "POST").keys() <= {"GET stale", "POST stale"}
    assert connections == "kept" or not outcome.failed
    for node in nodes:
        assert nodes_with(node, "dead") == 0
    assert answer_of(nodes[0].admin_port, "/readyz")[0] == 200


@LONG
def test_a_node_that_was_stopped_for_a_while_declares_nobody_dead_and_is_alive_again(
    programs: Programs, tokens: TokenService
) -> None:
    nodes = cluster(programs, 3)
    stopped, *rest = nodes
    agent_of(programs, [stopped], tokens)
    let_everybody_serve(nodes)
    stopped.send(signal.SIGSTOP)
    try:
        for node in rest:
            until(lambda node=node: nodes_with(node, "dead") == 1, "its death")
        time.sleep(20.0)  # nothing can be waited for: it must be long
    finally:
        stopped.send(signal.SIGCONT)
    began = time.monotonic()
    while time.monotonic() < began + 3.0:
        assert nodes_with(stopped, "dead") == 0
        time.sleep(0.05)
    until_one(nodes)
    let_everybody_serve(nodes)
    print(f"one cluster again {time.monotonic() - began:.1f} s after the stop, 3 s of which were watching")
    assert all(nodes_with(node, "dead") == 0 for node in nodes)


# Cut off: namespaces of the network.


@pytest.fixture(scope="module")
def may_cut() -> None:
    if reason := why_not():
        pytest.skip(reason)


class Site:
    """Three nodes on machines of their own, and clients, agents and the service on the hub."""

    def __init__(self, programs: Programs, network: Network, tokens: TokenService) -> None:
        self.network = network
        self.tokens = tokens
        self.nodes: list[Node] = []
        self._programs = programs
        for name in network.names[1:]:
            self._start(name)
        until_one(self.nodes)

    def _start(self, name: str) -> None:
        options = [f"--node-id={name}", *([joining(self.nodes[0])] if self.nodes else [])]
        network = self.network
        node = self._programs.node_begun(*options, host=network.host(name), within=network.within(name))
        node.fetch = lambda port, path, host: network.call(answer_of, port, path, host)
        self.nodes.append(node.ready())

    def agent(self, *nodes: Node) -> Agent:
        return agent_of(self._programs, nodes, self.tokens, within=self.network.within(HUB))

    def ask(self, node: Node, method: str = "GET") -> tuple[int, float]:
        return self.network.call(ask, node.host, node.proxy_port, method)

    def until_served(self, *nodes: Node, within_s: float = 15.0) -> None:
        for node in nodes:
            until(lambda node=node: self.ask(node)[0] == 200, f"an answer of {node.name}", within_s)


@pytest.fixture
def site(programs: Programs, may_cut: None) -> Iterator[Site]:
    with Network(["one", "two", "three"]) as network, TokenService(network.enter_hub) as tokens:
        yield Site(programs, network, tokens)
        programs.stop()


def test_a_node_that_is_black_holed_under_load_is_routed_around(site: Site) -> None:
    """No packet of its comes through, nor one to it, and nobody is told: its links fall silent."""
    one, two, three = site.nodes
    site.agent(one)
    site.agent(two)
    site.until_served(*site.nodes)
    within = site.network.within(HUB)
    with loading([three], "a node is black-holed", within=within) as outcomes:
        let_requests_run(site.tokens, 200)
        site.network.isolate("one")
        began = time.monotonic()
        until(lambda: three.metric('pico_gossip_nodes{status="alive"}') == 1, "the suspicion")
        suspected = time.monotonic() - began
        until(lambda: nodes_with(three, "dead") == 1, "its death")
        dead = time.monotonic() - began
        let_requests_run(site.tokens, 300)
    (outcome,) = outcomes
    print(f"suspected after {suspected:.1f} s, dead after {dead:.1f} s")
    check_tokens(site.tokens, outcome)
    assert outcome.failures("GET") == {}
    assert set(outcome.failures("POST")) <= {"POST 502 tunnel_lost"}
    assert outcome.slowest_s < 4.0
    site.network.heal()
    until_one(site.nodes, 20.0)


@LONG
def test_a_partition_of_half_a_minute_heals(site: Site) -> None:
    """Each side serves what it has; afterwards it is one cluster again."""
    one, two, three = site.nodes
    site.agent(one)
    site.agent(two)
    site.until_served(*site.nodes)
    site.network.isolate("one", "two", "three")
    cut = time.monotonic()
    until(lambda: nodes_with(two, "dead") == nodes_with(three, "dead") == 1, "the death of the one", 30.0)
    print(f"two nodes have buried the third after {time.monotonic() - cut:.1f} s")
    while time.monotonic() < cut + 30.0:
        for node in site.nodes:
            status, took_s = site.ask(node)
            assert (status, took_s < 1.0) == (200, True), f"{node.name}: {status} after {took_s:.1f} s"
        time.sleep(0.2)
    # Whom nobody answers takes its time: it is itself in trouble more likely than all the others.
    until(lambda: nodes_with(one, "dead") == 2, "the death of the two")
    site.network.heal()
    healed = time.monotonic()
    until_one(site.nodes, 20.0)
    print(f"one cluster again {time.monotonic() - healed:.1f} s after the healing")
    assert time.monotonic() - healed < 10.0
    until(lambda: all(node.metric("pico_remote_endpoints") == 1 for node in site.nodes), "the endpoints")
    site.until_served(*site.nodes)


@LONG
def test_a_way_that_is_cut_in_one_direction_kills_nobody(site: Site) -> None:
    """The third node can reach both, and says so: whom only one cannot hear is not dead."""
    site.agent(site.nodes[2])
    site.until_served(*site.nodes)
    site.network.cut("one", "two")
    until_ = time.monotonic() + 10.0
    deaths, slowest_s = 0, 0.0
    while time.monotonic() < until_:
        deaths = max(deaths, *(nodes_with(node, "dead") for node in site.nodes))
        for node in site.nodes:
            status, took_s = site.ask(node)
            slowest_s = max(slowest_s, took_s)
            assert status == 200
        time.sleep(0.1)
    print(f"cut in one direction: {deaths} deaths, the slowest answer took {slowest_s * 1000:.0f} ms")
    assert deaths == 0
    site.network.heal()
    until_one(site.nodes, 20.0)
