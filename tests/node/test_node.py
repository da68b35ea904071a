"""What a node says of the machine that it is given, and what it counts at all of its doors."""

from __future__ import annotations

import contextlib
import logging
import time
from pathlib import Path

import gevent
import pytest
from gevent import socket

from pico.config import NodeConfig
from pico.errors import TransportError
from pico.node.process import _announce, warn_of_open_files
from pico.node.system import System
from pico.transport.notify import Notifier
from tests.certificates import Authority
from tests.node.clusters import metric
from tests.node.harness import (
    DEADLINE_S,
    Agent,
    Client,
    connect,
    handshake,
    logged,
    read_head,
    running_node,
    settled,
    until,
)


@pytest.mark.parametrize("files_max,said", [(29, True), (30, False), (-1, False)])
def test_too_few_open_files_for_the_connections_that_it_allows_are_said(
    caplog: pytest.LogCaptureFixture, files_max: int, said: bool
) -> None:
    warn_of_open_files(NodeConfig(client_connections_max=20, upstreams_max=10), files_max)
    line = "the limit of open files is 29, and --client-connections-max and --upstreams-max together need 30"
    assert caplog.messages == ([line] if said else [])


def test_a_node_says_that_it_is_ready_when_it_is(caplog: pytest.LogCaptureFixture) -> None:
    """And not before each node that it was told of was tried."""
    caplog.set_level(logging.INFO, "pico.node")
    with contextlib.closing(socket.socket()) as silent:
        silent.settimeout(DEADLINE_S)
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with running_node(join=(silent.getsockname(),)) as node:
            announcing = gevent.spawn(_announce, node, Notifier())
            dialled, _ = silent.accept()
            settled(lambda: not node.ready()[0] and "node node-1 is ready" not in caplog.messages)
            dialled.close()
            announcing.get(timeout=DEADLINE_S)
            assert node.ready() == (True, "")
            assert caplog.messages[-1] == "node node-1 is ready"


def test_a_node_without_a_network_is_not_misused() -> None:
    """A service manager starts it anew, which it does not after a wrong option."""
    system = System()
    system.own_address_towards = lambda address: ""  # type: ignore[method-assign]
    with (
        pytest.raises(TransportError, match="no address was found .*: --advertise-gossip names one"),
        running_node(system=system, gossip_host="", join=(("192.0.2.1", 8003),)),
    ):
        pass


def test_a_handshake_of_tls_that_fails_is_counted_at_its_door_and_logged_with_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "pico.node")
    files = Authority(tmp_path).issue("localhost")
    with running_node(**{f"{door}_tls": files for door in ("proxy", "upstream", "admin")}) as node:
        for count, door in enumerate(("proxy", "upstream", "admin"), start=1):
            for _ in range(count):
                sock = connect(node, f"{door}-door")
                sock.sendall(b"GET / HTTP/1.1\r\nHost: web.x\r\n\r\n")
                sock.close()
        for count, door in enumerate(("proxy", "upstream", "admin"), start=1):
            name = f'pico_tls_handshake_failures_total{{listener="{door}"}}'
            until(lambda name=name, count=count: metric(node, name) == count, name)
    for door in ("proxy", "upstream"):
        said = f"the TLS handshake with 127.0.0.1 at the {door} door failed: plain HTTP to a port that speaks HTTPS"
        assert said in caplog.messages


def test_what_the_parts_of_a_node_know_is_in_its_metrics(tmp_path: Path) -> None:
    with running_node(proxy_tls=Authority(tmp_path).issue("localhost")) as node:
        until(lambda: metric(node, "pico_ready") == 1)
        assert metric(node, 'pico_tls_not_after_timestamp_seconds{listener="proxy"}') > time.time()
        assert metric(node, 'pico_actors{actor="cluster"}') == 1
        assert metric(node, "pico_relays_in_flight") == 0
        node.services.draining = True
        assert metric(node, "pico_ready") == 0
        node.gossip_door.forwarding.relays = 3
        assert metric(node, "pico_relays_in_flight") == 3
        node.gossip_door.forwarding.relays = 0


def test_when_the_stop_returns_everybody_has_been_told_and_the_log_is_written(caplog: pytest.LogCaptureFixture) -> None:
    """The process may end then, so nothing is left to what the hub would do next."""
    with running_node() as node:
        agent = Agent(node, "ep", lambda call: None)
        client = Client(node).send(b"GET / HTTP/1.1\r\nHost: ep.x\r\n\r\n")
        other = connect(node, "upstream-door")
        other.sendall(handshake("other"))
        _, began = read_head(other)
        until(lambda: agent.calls and node.routes.served("other"))
        node.testers.clear()  # type: ignore[attr-defined] # they stay
    for sock in (client.sock, other):
        sock.settimeout(0.0)
    assert [line["outcome"] for line in logged(node)] == ["node_stopped"]
    assert client.response().error() == "node_stopped"
    assert b"the node is going away" in began + other.recv(65536)
    assert "1 requests are cut off by the stop" in caplog.messages
    assert not node.access_log.enabled, "and no more is written"
    assert (
        agent.ended.get(timeout=DEADLINE_S) == "the peer closed the connection with code 1001: the node is going away"
    )
    for tester in (agent, client, other):
        tester.close()


def test_a_node_that_has_stopped_looks_at_nothing_any_more() -> None:
    with running_node() as node:
        timers = [node.history._timer, node._hub_watch._timer, node._rebalancing._timer]
        assert all(timer._watcher is not None for timer in timers)  # type: ignore[attr-defined]
    assert all(timer._watcher is None for timer in timers)  # type: ignore[attr-defined]
