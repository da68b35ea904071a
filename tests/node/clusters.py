"""Real nodes in one process that find each other by gossip on the loopback address.

Responsible for: starting them, knowing when they know each other, and ending them well or badly. Refuses to know: what
a test wants of them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Never

from pico.actors.listener import Listener
from pico.config import GossipTimers
from pico.errors import ConnectFailed
from pico.node.node import Node
from tests.node.harness import Client, running_node, until

HOST = "127.0.0.1"
QUICK = GossipTimers(
    probe_s=0.1,
    probe_timeout_s=0.05,
    suspicion_factor=4.0,
    pause_s=0.5,
    round_s=0.1,
    reconnect_s=0.2,
    seed_first_s=0.05,
    seed_max_s=0.2,
    linger_s=0.2,
    resolve_s=0.5,
)
"""As the defaults, only sooner: for tests in which somebody has to be found dead."""

WITHIN_S = 10.0
ANSWER = b"hello"


def gossip_of(*nodes: Node) -> tuple[tuple[str, int], ...]:
    """What to give to ``join``."""
    return tuple((HOST, node.address("gossip-door")[1]) for node in nodes)


@contextlib.contextmanager
def running_cluster(count: int = 3, **changes) -> Iterator[list[Node]]:
    """Nodes that joined the first, and know each other."""
    with contextlib.ExitStack() as stack:
        nodes = [stack.enter_context(running_node("node-1", **changes))]
        for number in range(1, count):
            node = running_node(f"node-{number + 1}", **{"join": gossip_of(nodes[0]), **changes})
            nodes.append(stack.enter_context(node))
        until(lambda: know_each_other(nodes), "the cluster", WITHIN_S)
        yield nodes


def know_each_other(nodes: Sequence[Node]) -> bool:
    """Whether each has a link to every other, and none to anybody else."""
    names = {node.node_id for node in nodes}
    return all(linked(node) == names - {node.node_id} for node in nodes)


def linked(node: Node) -> set[str]:
    """To which others there is a link."""
    cluster = node.gossip_door.actor
    assert cluster is not None
    return {node_id for node_id, upstream in cluster._upstreams.items() if upstream.open}


def alive(node: Node) -> set[str]:
    """Which others are alive in the eyes of the node."""
    return with_status(node, "alive")


def with_status(node: Node, status: str) -> set[str]:
    cluster = node.gossip_door.actor
    assert cluster is not None
    members = cluster.engine.snapshot().records
    return {
        node_id
        for node_id, record in members.items()
        if ("left" if record.left else record.rank.name.lower()) == status
    }


def places(node: Node, endpoint: str = "ep") -> set[str]:
    """Which others have the endpoint."""
    cluster = node.gossip_door.actor
    assert cluster is not None
    return {place.node_id for place in cluster.view.places.get(endpoint, ())}


def request(node: Node, host: bytes = b"ep.x", method: bytes = b"GET"):
    """One request on a connection of its own."""
    client = Client(node)
    try:
        client.send(method + b" / HTTP/1.1\r\nHost: " + host + b"\r\nContent-Length: 0\r\n\r\n")
        return client.response()
    finally:
        client.close()
        node.testers.remove(client)


def answers(node: Node) -> bool:
    return request(node).status == 200


def serve(call) -> None:
    """An agent's handler: the same answer to everybody, said by whom."""
    call.body()
    call.respond(200, ANSWER, block=b"X-Node: " + call.agent.node.node_id.encode() + b"\r\n")


def metric(node: Node, name: str) -> float:
    """One sample as it is scraped."""
    for line in node.metrics.render().decode().splitlines():
        sample, _, value = line.rpartition(" ")
        if sample == name:
            return float(value)
    raise AssertionError(f"{name} is not in the metrics")


def fall(node: Node) -> None:
    """End it as a killed process ends: not a word to anybody, every connection reset, every port closed."""
    cluster = node.gossip_door.actor
    assert cluster is not None and cluster._datagrams is not None
    cluster._timer.stop()
    cluster._datagrams.close()
    silent = SimpleNamespace(send=lambda data, address: True, close=lambda: None, counts=cluster._datagrams.counts)
    cluster._datagrams = silent  # type: ignore[assignment]
    for listening in node._listening.values():
        if isinstance(listening, Listener):
            listening._close_port()
    for link in tuple(node.gossip_door.forwarding._links):
        link.multiplexer._stream.abort()
    node.gossip_door._dial = _nobody_is_there  # type: ignore[method-assign]
    for peer in cluster._peers.values():
        if peer.actor._link is not None:
            peer.actor._link._stream.abort()
    for tester in list(node.testers):  # type: ignore[attr-defined]
        tester.close()
    node.testers.clear()  # type: ignore[attr-defined]


def _nobody_is_there(*_: object) -> Never:
    raise ConnectFailed("this node has fallen")


def quick(**changes) -> GossipTimers:
    return replace(QUICK, **changes)
