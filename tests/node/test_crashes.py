"""A fault in each kind of actor, at each of its steps: nothing stays open, and the others go on."""

from __future__ import annotations

import logging
import os

import gevent
import pytest

from pico.actors import proxy_request, relay
from pico.actors.endpoint_pool import EndpointPool, Endpoints
from pico.actors.listener import STOP_WAIT_S
from pico.actors.messages import LinkChanged
from pico.actors.proxy_request import ProxyExchange
from pico.actors.relay import Forwarding, Relay
from pico.actors.runtime import tell
from pico.actors.upstream_connection import UpstreamConnection
from pico.protocol.rpc import ResetCode
from tests.actors.census import nothing_left_behind
from tests.compiled import interpreted_only
from tests.node.harness import (
    UNKNOWN_LENGTH,
    Agent,
    Client,
    connect,
    ends_with_reset,
    handshake,
    running_node,
    running_nodes,
    until,
)


def boom(*_args, **_kwargs):
    raise RuntimeError("seeded fault")


def open_sockets() -> int:
    links = (os.path.join("/proc/self/fd", name) for name in os.listdir("/proc/self/fd"))
    return sum(os.path.exists(link) and os.readlink(link).startswith("socket:") for link in links)


@pytest.fixture(autouse=True)
def clean(caplog):
    caplog.set_level(logging.CRITICAL)
    with running_node():
        pass  # the hub's own threads and descriptors are there from now on
    before = open_sockets()
    with nothing_left_behind():
        yield
    assert open_sockets() <= before


def serve(call) -> None:
    """An agent that goes through every kind of event, as the target asks."""
    kind = call.head.target
    if kind == b"/trailers":
        call.respond(200, length=UNKNOWN_LENGTH, end=False)
        call.trailers_end(b"X: y\r\n")
    elif kind == b"/stream":
        call.respond(200, length=UNKNOWN_LENGTH, end=False)
        call.data(b"more")
        call.data(b"x" * 300_000, end=True)
    elif kind == b"/reset":
        call.reset(ResetCode.SERVICE_TIMEOUT)
    elif kind == b"/echo":
        call.respond(200, call.body())
    elif kind == b"/never":
        pass
    else:
        call.respond(200, b"fine")


def get(node, target: bytes) -> None:
    client = Client(node)
    client.send(b"GET " + target + b" HTTP/1.1\r\nHost: ep.x\r\n\r\n")
    while client._more():
        pass


def upload(node, _: bytes) -> None:
    client = Client(node).send(b"POST /echo HTTP/1.1\r\nHost: ep.x\r\nContent-Length: 400000\r\n\r\n")
    gevent.sleep(0.02)
    for _ in range(100):
        try:
            client.send(b"x" * 4000)
        except OSError:
            break
    while client._more():
        pass


def go_away(node, _: bytes) -> None:
    client = Client(node).send(b"GET /never HTTP/1.1\r\nHost: ep.x\r\n\r\n")
    gevent.sleep(0.02)
    client.reset()


def end_early(node, _: bytes) -> None:
    client = Client(node).send(b"GET /never HTTP/1.1\r\nHost: ep.x\r\n\r\n")
    gevent.sleep(0.02)
    client.sock.shutdown(1)
    while client._more():
        pass


SCENES = {
    "begin": (get, b"/"),
    "_attempt": (get, b"/"),
    "_open": (get, b"/"),
    "_on_head": (get, b"/"),
    "_relay": (get, b"/"),
    "_settle": (get, b"/"),
    "_end_response": (get, b"/"),
    "_finish": (get, b"/"),
    "_on_data": (get, b"/stream"),
    "_on_trailers": (get, b"/trailers"),
    "_on_reset": (get, b"/reset"),
    "_on_credit": (upload, b""),
    "_on_client_readable": (upload, b""),
    "_send_body": (upload, b""),
    "_on_client_lost": (go_away, b""),
    "_on_client_ended": (end_early, b""),
}


@interpreted_only
@pytest.mark.parametrize("step", SCENES)
def test_a_request_that_fails_at_any_step_leaves_nothing_open(step, monkeypatch):
    scene, target = SCENES[step]
    with running_node() as node:
        agent = Agent(node, "ep", serve)
        with monkeypatch.context() as patch:
            original = getattr(ProxyExchange, step)
            patch.setattr(ProxyExchange, step, boom)
            for kind, handler in proxy_request._HANDLERS.items():
                if handler is original:
                    patch.setitem(proxy_request._HANDLERS, kind, boom)
            scene(node, target)
            until(lambda: not node.services.connections, "the end of the connection")
        until(lambda: agent.mux.in_flight == 0)
        until(lambda: all(one.in_flight == 0 for one in node.routes._balancers["ep"].candidates))
        assert len(node.services.deadlines) == 0
        assert Client(node).get().body == b"fine"


def all_ended(*members) -> bool:
    """No stream is open on a link or a tunnel of any of them."""
    links = [link.multiplexer for member in members for links in member.links.values() for link in links]
    accepted = [link.multiplexer for member in members for link in member.forwarding._links]
    streams = [sum(member.machine.metrics.streams()) for member in members]
    return not any([multiplexer.in_flight for multiplexer in (*links, *accepted)] + streams)


def break_step(patch, owner, tables, step: str) -> None:
    original = getattr(owner, step)
    patch.setattr(owner, step, boom)
    for table in tables:
        for kind, handler in table.items():
            if handler is original:
                patch.setitem(table, kind, boom)


def forwarded(scene, target: bytes, owner, tables, step: str, monkeypatch) -> None:
    """A scene that enters at one node and is served at another, with a fault at one step of ``owner``."""
    with running_nodes() as (entry, other):
        agent = Agent(other.machine, "ep", serve)
        with monkeypatch.context() as patch:
            break_step(patch, owner, tables, step)
            scene(entry.machine, target)
            until(lambda: not entry.machine.services.connections, "the end of the connection")
            until(lambda: all_ended(entry, other), "the end of every stream")
        until(lambda: agent.mux.in_flight == 0)
        assert len(entry.machine.services.deadlines) == 0
        assert other.forwarding.relays == 0
        assert not entry.peers["node-2"]._waiters
        assert Client(entry.machine).get().body == b"fine"


@interpreted_only
@pytest.mark.parametrize("step", [*SCENES, "_forward", "_on_peer_ready"])
def test_a_forwarded_request_that_fails_at_any_step_leaves_nothing_open(step, monkeypatch):
    scene, target = SCENES.get(step, (get, b"/"))
    forwarded(scene, target, ProxyExchange, [proxy_request._HANDLERS], step, monkeypatch)


def get_whole(node, target: bytes) -> None:
    """The response is there before the fault is."""
    client = Client(node)
    assert client.get(target).complete
    client.close()


RELAY_SCENES = {
    "_find_upstream": (get, b"/"),
    "_open": (get, b"/"),
    "_on_head": (get, b"/"),
    "_end_response": (get_whole, b"/"),
    "_on_response_data": (get, b"/stream"),
    "_on_response_trailers": (get, b"/trailers"),
    "_pass_response": (get, b"/stream"),
    "_flow_response": (get, b"/stream"),
    "_on_link_credit": (get, b"/stream"),
    "_on_upstream_reset": (get, b"/reset"),
    "_try_again": (get, b"/reset"),
    "_on_request_data": (upload, b""),
    "_pass_request": (upload, b""),
    "_on_upstream_credit": (upload, b""),
    "_on_link_reset": (go_away, b""),
}


@interpreted_only
@pytest.mark.parametrize("step", RELAY_SCENES)
def test_a_relay_that_fails_at_any_step_leaves_nothing_open(step, monkeypatch):
    scene, target = RELAY_SCENES[step]
    tables = [relay._FROM_LINK, relay._FROM_UPSTREAM]
    forwarded(scene, target, Relay, tables, step, monkeypatch)


@interpreted_only
@pytest.mark.parametrize("step", ["first", "flow", "add", "_send", "_take"])
@pytest.mark.parametrize("scene, target", [(upload, b""), (get, b"/stream")])
def test_a_half_that_fails_takes_both_streams_of_its_relay_with_it(step, scene, target, monkeypatch):
    forwarded(scene, target, relay._Half, [], step, monkeypatch)


@pytest.mark.parametrize(
    "owner, step",
    [
        (ProxyExchange, "_take_back"),
        (ProxyExchange, "_detour"),
        (ProxyExchange, "_wait_for_endpoint"),
        (Relay, "_deny"),
        (Relay, "_refuse"),
    ],
)
def test_a_fault_on_the_way_from_a_peer_without_the_endpoint_leaves_nothing_open(owner, step, monkeypatch):
    with running_nodes(endpoint_wait_s=0.2) as (entry, other):
        other.count("gone", 1)
        with monkeypatch.context() as patch:
            patch.setattr(owner, step, boom)
            assert Client(entry.machine).get(host=b"gone.x").status in (500, 502)
            until(lambda: not entry.machine.routes.waiting)
            until(lambda: all_ended(entry, other))
        assert other.forwarding.relays == 0


@interpreted_only
def test_a_link_whose_owner_fails_resets_the_stream_and_goes_on(monkeypatch):
    with running_nodes() as (entry, other):
        Agent(other.machine, "ep", serve)
        with monkeypatch.context() as patch:
            patch.setattr(Relay, "begin", boom)
            assert Client(entry.machine).get().status == 500
        assert Client(entry.machine).get().body == b"fine"
        assert len(entry.links["node-2"]) == 1


@interpreted_only
def test_a_link_that_cannot_be_built_is_not_kept():
    forwarding = Forwarding(None, None, 3, 16)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError):
        forwarding.accept("node-2", boom)
    assert forwarding.links == 0


@pytest.mark.parametrize("step", ["on_start", "on_receive"])
def test_an_upstream_that_fails_is_gone_and_its_agent_sees_it(step, monkeypatch):
    with running_node() as node:
        with monkeypatch.context() as patch:
            if step == "on_start":
                patch.setattr(UpstreamConnection, step, boom)
                sock = connect(node, "upstream-door")
                sock.sendall(handshake("ep"))
                assert ends_with_reset(sock)
                sock.close()
            else:
                patch.setattr(UpstreamConnection, step, boom)
                agent = Agent(node, "ep", serve)
                client = Client(node).send(b"GET /never HTTP/1.1\r\nHost: ep.x\r\n\r\n")
                until(lambda: agent.calls)
                agent.mux.goaway("to make it receive something")
                agent.ended.get(timeout=5)
                assert client.response().status == 502
        until(lambda: node.upstream_door.upstreams == 0)
        until(lambda: not node.routes.served("ep"))
        Agent(node, "ep", serve)
        assert Client(node).get().body == b"fine"


def test_a_pool_that_fails_is_replaced_with_its_upstreams(monkeypatch):
    with running_node() as node:
        Agent(node, "ep", serve)
        with monkeypatch.context() as patch:
            patch.setattr(EndpointPool, "on_receive", boom)
            failed = node.routes._balancers["ep"]
            agent = Agent(node, "ep", serve)  # its joining hits the fault
            until(lambda: node.routes._balancers["ep"] is not failed)
        assert len(node.routes._balancers["ep"].candidates) == 2
        agent.kill()
        until(lambda: len(node.routes._balancers["ep"].candidates) == 1)
        assert Client(node).get().body == b"fine"


def test_endpoints_that_fail_start_anew_and_the_agents_come_back(monkeypatch):
    with running_node() as node:
        first = Agent(node, "ep", serve)
        with monkeypatch.context() as patch:
            patch.setattr(Endpoints, "_leave", boom)
            first.mux.goaway("to make them receive something")
            first.ended.get(timeout=5)
        until(lambda: node.upstream_door.upstreams == 0)
        until(lambda: not node.routes.served("ep"))
        until(lambda: node._supervisor.ref("admin-door") is not None)
        Agent(node, "ep", serve)
        assert Client(node).get().body == b"fine"
        assert not node.failed.is_set()


def test_a_handler_that_fails_closes_its_connection_only(monkeypatch):
    with running_node() as node:
        Agent(node, "ep", serve)
        other = Client(node)
        assert other.get().body == b"fine"
        with monkeypatch.context() as patch:
            patch.setattr("pico.node.entrances.ClientConnection", boom)
            assert Client(node).at_end()
        assert other.get().body == b"fine"


def is_open(node) -> bool:
    try:
        connect(node).close()
    except ConnectionRefusedError:
        return False
    return True


def test_a_cluster_that_fails_keeps_the_doors_closed_for_a_moment_only():
    """It takes the doors with it; who is connected, perhaps idle, must not delay them."""
    with running_node() as node:
        Agent(node, "ep", serve)
        idle = Client(node)
        assert idle.get().body == b"fine"
        before = node._cluster()
        with gevent.Timeout(0.9 * STOP_WAIT_S):
            tell(before, LinkChanged([], True))
            until(lambda: node._cluster() not in (None, before), "another one")
            until(lambda: is_open(node), "the door")
        assert Client(node).get().body == b"fine"
        assert idle.get().body == b"fine"
