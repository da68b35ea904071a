"""Bodies of the base protocol that wait in a node, on real sockets: what they may cost, and whom."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace

import pytest
from gevent import socket

from pico.config import RpcLimits
from tests.node.harness import Agent, Client, ends_with_reset, logged, running_node, running_nodes, until
from tests.rules import covers

MIB = 1024 * 1024
HELD = {"base_waiting_bytes_max": 16 * MIB, "rpc_limits": RpcLimits(base_body_bytes_max=12 * MIB)}
LARGE = bytes(12 * MIB)  # more than the system takes of it


def agent(node, endpoint: str) -> Agent:
    respond = lambda call: call.respond(200, LARGE if call.head.method == b"GET" else b"")  # noqa: E731
    return Agent(node, endpoint, respond, streaming=False)


def upload(node, endpoint: bytes, size: int) -> Client:
    """All but the last bytes of a body."""
    head = b"POST / HTTP/1.1\r\nHost: %s.x\r\nContent-Length: %d\r\n\r\n" % (endpoint, size)
    return Client(node).send(head + bytes(size - 10))


def takes_nothing(node, endpoint: bytes) -> Client:
    """A client that asks for a large response, and does not read it."""
    client = Client(node)
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # nor does its system take much
    return client.send(b"GET / HTTP/1.1\r\nHost: %s.x\r\n\r\n" % endpoint)


@pytest.fixture(params=["here", "by way of a peer"])
def nodes(request):
    """The node that clients come to, and the one that agents come to."""
    with ExitStack() as stack:
        if request.param == "here":
            node = stack.enter_context(running_node(**HELD))
            yield node, node
        else:
            entry, owner = stack.enter_context(running_nodes(**HELD))
            yield entry.machine, owner.machine


@covers("RPC-64", "RPC-65", "RPC-66")
def test_uploads_that_do_not_end_cost_the_oldest_of_their_own_service_and_nobody_else(nodes):
    entry, owner = nodes
    agents = [agent(owner, "slow"), agent(owner, "other")]
    other = upload(entry, b"other", 4 * MIB)
    until(lambda: owner.upstream_door.waiting_bytes > 4 * MIB - 300_000)
    slow = []
    for number in range(8):
        slow.append(upload(entry, b"slow", 4 * MIB))
        until(lambda number=number: owner.upstream_door.waiting_bytes > min(number + 2, 4) * 4 * MIB - 1_500_000)
        assert owner.upstream_door.waiting_bytes <= 16 * MIB
    until(lambda: owner.metrics.calls_shed >= 5)
    for client in slow[:5]:
        response = client.response()
        assert (response.status, response.error(), response.fields(b"retry-after")) == (503, "overloaded", [b"1"])
    until(lambda: len(logged(entry)) >= 5)
    assert {line["outcome"] for line in logged(entry)} == {"overloaded"}
    told = dict(line.rsplit(" ", 1) for line in owner.metrics.render().decode().splitlines())
    assert float(told["pico_calls_shed_total"]) == owner.metrics.calls_shed == 5
    assert float(told["pico_base_waiting_bytes"]) == owner.upstream_door.waiting_bytes
    for client in (other, slow[-1]):
        client.send(bytes(10))
        assert client.response().status == 200
    for client in slow:
        client.close()
    until(lambda: owner.upstream_door.waiting_bytes == 0)
    assert all(one.ended.ready() is False for one in agents)


@covers("RPC-64", "RPC-66")
def test_a_response_that_nobody_takes_is_broken_off_for_others(nodes):
    entry, owner = nodes
    tunnel = agent(owner, "ep")
    stalled = takes_nothing(entry, b"ep")
    until(lambda: owner.upstream_door.waiting_bytes == len(LARGE))
    assert Client(entry).get(host=b"ep.x").body == LARGE
    assert owner.metrics.calls_shed == 1
    assert ends_with_reset(stalled.sock)
    until(lambda: owner.upstream_door.waiting_bytes == 0)
    assert not tunnel.ended.ready()


@covers("RPC-64")
def test_a_response_that_waits_is_counted_after_its_tunnel_was_lost_until_its_client_has_gone():
    with running_node(**HELD) as node:
        tunnel = agent(node, "ep")
        stalled = takes_nothing(node, b"ep")
        until(lambda: node.upstream_door.waiting_bytes == len(LARGE))
        tunnel.close()
        until(lambda: node.upstream_door.upstreams == 0)
        assert node.upstream_door.waiting_bytes == len(LARGE)
        another = agent(node, "other")
        assert Client(node).get(host=b"other.x").body == LARGE
        assert ends_with_reset(stalled.sock)
        until(lambda: node.upstream_door.waiting_bytes == 0)
        assert not another.ended.ready()


@covers("RPC-64")
def test_a_limit_that_is_lowered_counts_for_the_calls_that_are_open():
    with running_node(**HELD) as node:
        agent(node, "ep")
        first = upload(node, b"ep", 2 * MIB)
        until(lambda: node.upstream_door.waiting_bytes == 2 * MIB - 10)
        node.reconfigure(replace(node.config, base_waiting_bytes_max=MIB))
        upload(node, b"ep", MIB // 2)
        assert first.response().status == 503
        until(lambda: node.upstream_door.waiting_bytes == MIB // 2 - 10)
