"""Upstreams over two real nodes: who is sent elsewhere, who is asked to move, and what a moving one still gets."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

from pico.agent.agent import Agent as RealAgent
from pico.config import AgentConfig, EndpointTarget, LinkTimers, RebalanceLimits
from tests.agent.harness import serving
from tests.node.clusters import answers, running_cluster
from tests.node.harness import Agent, connect, handshake, read_head, settled, until
from tests.rules import covers

AT_ONCE = RebalanceLimits(settle_s=0.0, interval_s=0.1, rate=100.0)


def answer_to(node, request: bytes) -> bytes:
    """The head with which the upstream door answers; the connection is closed."""
    with connect(node, "upstream-door") as sock:
        sock.sendall(request)
        return read_head(sock)[0]


@covers("TUN-34", "TUN-36", "BALANCE-8")
def test_an_agent_that_would_rather_be_elsewhere_is_refused_as_long_as_there_is_another_node():
    with running_cluster(2) as (first, second):
        request = handshake("ep", **{"x-pico-elsewhere": first.node_id})
        refused = answer_to(first, request)
        assert refused.startswith(b"HTTP/1.1 503 ")
        assert b"x-pico-error: elsewhere\r\n" in refused
        assert b"Retry-After" not in refused
        accepted = answer_to(second, request)
        assert accepted.startswith(b"HTTP/1.1 101 ")
        assert b"x-pico-node: " + second.node_id.encode() + b"\r\n" in accepted
        both = handshake("ep", **{"x-pico-elsewhere": f"{first.node_id}, {second.node_id}"})
        assert answer_to(first, both).startswith(b"HTTP/1.1 101 ")


@covers("BALANCE-2", "BALANCE-7", "TUN-40")
def test_those_above_the_share_are_asked_to_move_and_get_requests_until_they_have():
    with running_cluster(2, rebalance_limits=AT_ONCE) as (first, second):
        agents = [Agent(first, "ep") for _ in range(8)]
        base = Agent(first, "old", streaming=False)
        until(lambda: sum(map(is_asked, agents)) == 5, "the excess")
        settled(lambda: sum(map(is_asked, agents)) == 5)
        assert first.routes.upstreams == 9
        assert first.metrics.moves == 5
        assert all(answers(node) for node in (first, second) for _ in range(20))
        assert not is_asked(base)
        for agent in (*agents, base):
            agent.close()


def test_without_rebalancing_nobody_is_asked_until_it_is_switched_on():
    with running_cluster(2, rebalance="off", rebalance_limits=AT_ONCE) as (first, _):
        agents = [Agent(first, "ep") for _ in range(8)]
        settled(lambda: not any(map(is_asked, agents)), quiet_s=1.5)
        first.reconfigure(replace(first.config, rebalance="on"))
        until(lambda: any(map(is_asked, agents)), "the first who is asked")
        first.reconfigure(replace(first.config, rebalance="off"))
        asked = sum(map(is_asked, agents))
        agents += [Agent(first, "ep") for _ in range(8)]
        settled(lambda: sum(map(is_asked, agents)) == asked, quiet_s=1.5)
        for agent in agents:
            agent.close()


def is_asked(agent) -> bool:
    return agent.mux.engine.goaway_received


# With real agents.


@contextmanager
def real_agent(*servers, names: str = "ep", **config):
    def answer(sock, _):
        while b"\r\n\r\n" in read_head(sock)[0]:
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    with serving(answer) as service:
        targets = tuple(
            EndpointTarget(endpoint_id=n, host="127.0.0.1", port=service.server_port) for n in names.split()
        )
        urls = tuple("http://{}:{}".format(*node.address("upstream-door")) for node in servers)
        agent = RealAgent(
            AgentConfig(servers=urls, endpoints=targets, link_timers=LinkTimers(linger_s=0.1), **config),
            write_access_log=lambda line: None,
        )
        agent.start()
        try:
            yield agent
        finally:
            agent.stop()
            agent.stop()
            agent.ended.wait(5)
            agent.close()


@covers("TUN-37", "TUN-39", "TUN-41")
def test_the_connections_of_an_endpoint_are_at_different_nodes():
    with running_cluster(3) as nodes, real_agent(*nodes, connections=3) as agent:
        until(lambda: counts(*nodes) == [1, 1, 1], "a tunnel at each node")
        until(lambda: agent.ready()[0], "readiness")


@covers("TUN-38", "TUN-39")
def test_a_connection_more_than_there_are_nodes_is_at_any():
    with running_cluster(2) as nodes, real_agent(*nodes, connections=3):
        until(lambda: sorted(node.upstream_door.upstreams for node in nodes) == [1, 2], "three tunnels")


@covers("TUN-40", "BALANCE-9")
def test_agents_move_from_a_node_with_too_many_and_then_stay():
    names = " ".join(f"ep{number}" for number in range(12))
    with running_cluster(2, rebalance="off") as nodes, real_agent(*nodes, names=names) as agent:
        first, _ = nodes
        until(lambda: counts(*nodes) == [12, 0], "all at one node")
        until(lambda: agent.ready()[0], "readiness")
        for upstream in first.upstream_door.movable()[:6]:
            first.upstream_door.move(upstream.id)
        until(lambda: counts(*nodes) == [6, 6], "an even share")
        assert agent.ready() == (True, "")
        settled(lambda: counts(*nodes) == [6, 6])


@covers("BALANCE-1", "BALANCE-4")
def test_a_cluster_of_real_agents_becomes_even():
    names = " ".join(f"ep{number}" for number in range(20))
    with running_cluster(2, rebalance_limits=AT_ONCE) as nodes, real_agent(*nodes, names=names):
        until(lambda: counts(*nodes) == [10, 10], "an even share")
        settled(lambda: counts(*nodes) == [10, 10], quiet_s=1.0)


def counts(*nodes) -> list[int]:
    return [node.upstream_door.upstreams for node in nodes]
