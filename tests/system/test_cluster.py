"""Nodes of one cluster as real processes: killed, restarted, stopped and cut off while requests run.

What takes longer than a test of every commit should is there with ``PICO_SYSTEM_LONG=1``.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from tests.system.processes import HOST, Agent, Node, Programs, answer_of, until
from tests.system.tokens import TokenService

LONG = pytest.mark.skipif(not os.environ.get("PICO_SYSTEM_LONG"), reason="long: set PICO_SYSTEM_LONG=1")
CONNECTIONS = 8
METHODS = "GET,GET,GET,POST"

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def tokens() -> Iterator[TokenService]:
    with TokenService() as serving:
        yield serving


def cluster(programs: Programs, count: int, *options: str) -> list[Node]:
    """Nodes that know each other."""
    nodes = [programs.node("--node-id=node-1", *options)]
    for number in range(2, count + 1):
        nodes.append(programs.node(f"--node-id=node-{number}", joining(nodes[0]), *options))
    until_one(nodes)
    return nodes


def joining(*nodes: Node) -> str:
    return "--join=" + ",".join(f"{HOST}:{node.gossip_port}" for node in nodes)


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


def agent_of(programs: Programs, nodes: Sequence[Node], tokens: TokenService, *options: str) -> Agent:
    """An agent that knows all of these nodes."""
    servers = [f"--server={node.upstream_url}" for node in nodes]
    target = f"--endpoint=tokens={HOST}:{tokens.port}"
    return programs.agent_of(*servers, target, "--backoff-max=500ms", *options).registered()


def holders(nodes: Sequence[Node]) -> list[Node]:
    """Which nodes have an upstream."""
    return [node for node in nodes if node.metric("pico_upstreams") > 0]


def serves(node: Node, port: int | None = None) -> bool:
    """Whether a request that enters here is answered."""
    token = "GET-0"
    import http.client

    with_closing = http.client.HTTPConnection(HOST, node.proxy_port, timeout=10)
    try:
        with_closing.request("GET", f"/{token}", headers={"Host": "tokens.test", "X-Token": token})
        return with_closing.getresponse().status == 200
    finally:
        with_closing.close()


class Outcome:
    """What clients saw."""

    def __init__(self, said: dict[str, Any], what: str) -> None:
        self.right: dict[str, int] = said["right"]
        self.wrong: list[str] = said["wrong"]
        self.failed: dict[str, list[str]] = said["failed"]
        failed = {what: len(which) for what, which in self.failed.items()}
        print(
            f"{what}: {sum(self.right.values())} right, {len(self.wrong)} wrong, failed: {failed or 'none'}, "
            f"{said['refused']} connections refused; nobody answered for {said['quiet_s'] * 1000:.0f} ms at most, "
            f"the slowest answer took {said['slowest_s'] * 1000:.0f} ms"
        )

    def failures(self, *methods: str) -> dict[str, int]:
        return {what: len(which) for what, which in self.failed.items() if what.split()[0] in methods}


@contextmanager
def loading(nodes: Sequence[Node], what: str, *words: str, methods: str = METHODS) -> Iterator[list[Outcome]]:
    """Clients go from node to node; the list has what they saw once the block is left."""
    doors = ",".join(f"{HOST}:{node.proxy_port}" for node in nodes)
    command = [sys.executable, "-m", "tests.system.cluster_load", doors, str(CONNECTIONS), methods, *words]
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
    ports = free_ports(5)
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


def free_ports(count: int) -> list[int]:
    import socket

    held = [socket.create_server((HOST, 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


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


def let_everybody_serve(nodes: Sequence[Node]) -> None:
    for node in nodes:
        until(lambda node=node: serves(node), f"an answer of {node.name}")


@pytest.mark.parametrize("connections", ["fresh", "kept"])
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
