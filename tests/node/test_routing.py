"""Trying again, waiting for an endpoint, balancing, and agents of the base protocol, on real sockets."""

from __future__ import annotations

import gevent
import pytest

from pico.config import RpcLimits
from pico.protocol.rpc import ResetCode
from tests.node.harness import UNKNOWN_LENGTH, Agent, Client, echo, logged, running_node, until
from tests.rules import covers

POST = b"POST / HTTP/1.1\r\nHost: ep.x\r\nContent-Length: 5\r\n\r\nhello"


@pytest.fixture
def node():
    with running_node() as node:
        yield node


def refuse(call) -> None:
    call.reset(ResetCode.SERVICE_UNREACHABLE, untouched=True, message="connection refused")


@covers("ROUTING-5", "RPC-50")
@pytest.mark.parametrize("request_bytes", [POST, b"GET / HTTP/1.1\r\nHost: ep.x\r\n\r\n"])
def test_an_untouched_request_is_given_to_another_upstream_with_its_body(node, request_bytes):
    Agent(node, "ep", refuse)
    Agent(node, "ep", echo)
    for _ in range(4):
        assert Client(node).send(request_bytes).response().status == 200
    assert 1 <= node.metrics.retries <= 4


@covers("ROUTING-1", "HTTP-68")
def test_when_every_upstream_has_refused_the_last_reason_is_told(node):
    for _ in range(2):
        Agent(node, "ep", refuse)
    response = Client(node).send(POST).response()
    assert (response.status, response.error()) == (502, "service_unreachable")
    assert b"connection refused" not in response.body  # what is behind the agent is nobody's business


@covers("ROUTING-6")
def test_an_idempotent_request_survives_the_loss_of_its_agent_and_another_does_not():
    with running_node() as node:
        for method, survives in ((b"GET", True), (b"PUT", True), (b"POST", False)):
            agents = [Agent(node, "ep", lambda call: call.agent.kill()), Agent(node, "ep", echo)]
            request = POST.replace(b"POST", method)
            response = Client(node).send(request).response()
            if agents[0].calls:
                assert (response.status == 200) is survives
                if not survives:
                    assert response.error() == "tunnel_lost"
            for agent in agents:
                agent.kill()
            until(lambda: node.upstream_door.upstreams == 0 and not node.routes.served("ep"))


@covers("ROUTING-8")
def test_nothing_is_tried_again_once_the_response_has_begun(node):
    def begin(call):
        call.respond(200, b"part", length=100, end=False)
        until(lambda: not call.stream.queued)
        gevent.sleep(0.05)
        call.reset(ResetCode.SERVICE_CLOSED, untouched=True)

    first, second = Agent(node, "ep", begin), Agent(node, "ep", begin)
    assert not Client(node).get().complete
    assert len(first.calls) + len(second.calls) == 1


@covers("ROUTING-5")
def test_a_body_that_is_too_long_to_keep_is_not_sent_twice(node):
    def refuse_late(call):
        call.next_event()
        call.reset(ResetCode.REFUSED, untouched=True)

    agents = [Agent(node, "ep", refuse_late), Agent(node, "ep", refuse_late)]
    body = b"x" * 200_000
    client = Client(node).send(b"POST / HTTP/1.1\r\nHost: ep.x\r\nContent-Length: 200000\r\n\r\n", body)
    assert client.response().error() == "overloaded"
    assert sum(len(agent.calls) for agent in agents) == 1


def test_no_more_upstreams_are_tried_than_attempts_max():
    with running_node(attempts_max=2) as node:
        agents = [Agent(node, "ep", refuse) for _ in range(4)]
        assert Client(node).send(POST).response().status == 502
        assert sum(len(agent.calls) for agent in agents) == 2


@covers("ROUTING-7")
def test_a_request_waits_for_an_endpoint_that_has_just_left():
    with running_node(endpoint_wait_s=3.0) as node:
        agent = Agent(node, "ep")
        agent.kill()
        until(lambda: not node.routes.served("ep"))
        client = Client(node).send(POST)
        gevent.sleep(0.05)
        Agent(node, "ep", echo)
        assert client.response().body == b"hello"


@covers("ROUTING-7")
def test_it_waits_only_so_long_and_not_for_an_endpoint_that_never_was():
    with running_node(endpoint_wait_s=0.2) as node:
        assert Client(node).get(host=b"never.x").error() == "endpoint_not_found"
        Agent(node, "ep").kill()
        until(lambda: not node.routes.served("ep"))
        assert Client(node).get().error() == "endpoint_not_found"
        assert not node.routes.waiting


@covers("ROUTING-7")
def test_a_client_that_goes_away_waits_no_longer():
    with running_node(endpoint_wait_s=5.0) as node:
        Agent(node, "ep").kill()
        until(lambda: not node.routes.served("ep"))
        client = Client(node).send(POST)
        until(lambda: node.routes.waiting)
        client.reset()
        until(lambda: not node.routes.waiting)


@covers("ROUTING-2")
def test_the_upstream_with_less_in_flight_gets_the_next_request(node):
    busy, idle = Agent(node, "ep", lambda call: None), Agent(node, "ep", lambda call: None)
    clients = [Client(node).send(b"GET / HTTP/1.1\r\nHost: ep.x\r\n\r\n") for _ in range(6)]
    until(lambda: len(busy.calls) + len(idle.calls) == 6)
    assert (len(busy.calls), len(idle.calls)) == (3, 3)
    for client in clients:
        client.close()


@covers("ROUTING-3")
def test_round_robin_gives_each_its_turn():
    with running_node(balance="round-robin") as node:
        agents = [Agent(node, "ep", echo) for _ in range(3)]
        for _ in range(6):
            Client(node).get()
        assert [len(agent.calls) for agent in agents] == [2, 2, 2]


@covers("RPC-54", "RPC-55", "ROUTING-4")
def test_an_agent_that_goes_away_gets_nothing_new_and_finishes_what_it_has(node):
    leaving = Agent(node, "ep", lambda call: None)
    client = Client(node).send(POST)
    until(lambda: leaving.calls)
    leaving.mux.goaway("moving")
    until(lambda: not node.routes.served("ep"))
    Agent(node, "ep", lambda call: call.respond(200, b"the next one"))
    assert Client(node).get().body == b"the next one"
    leaving.calls[0].respond(200, b"the old one")
    assert client.response().body == b"the old one"


def test_a_full_upstream_is_passed_over_and_a_full_endpoint_is_overloaded():
    with running_node(rpc_limits=RpcLimits(streams_max=1)) as node:
        agent = Agent(node, "ep", lambda call: None)
        first = Client(node).send(POST)
        until(lambda: agent.calls)
        response = Client(node).send(POST).response()
        assert (response.status, response.error()) == (503, "overloaded")
        assert response.fields(b"retry-after")
        other = Agent(node, "ep", echo)
        assert Client(node).send(POST).response().status == 200
        assert len(other.calls) == 1
        first.close()


@covers("ROUTING-26", "ROUTING-27", "ROUTING-28", "ROUTING-29")
def test_those_who_waited_for_an_endpoint_get_what_is_free_one_after_the_other():
    with running_node(rpc_limits=RpcLimits(streams_max=2), endpoint_wait_s=20.0) as node:
        Agent(node, "ep").kill()
        until(lambda: not node.routes.served("ep"))
        clients = []
        for number in range(7):
            clients.append(Client(node).send(b"GET /%d HTTP/1.1\r\nHost: ep.x\r\n\r\n" % number))
            until(lambda number=number: node.routes.waiting == number + 1)
        agent = Agent(node, "ep", lambda call: None)
        until(lambda: len(agent.calls) == 2)
        assert node.routes.waiting == 5
        clients.append(Client(node).send(b"GET /7 HTTP/1.1\r\nHost: ep.x\r\n\r\n"))  # behind the others
        until(lambda: node.routes.waiting == 6)
        agent.calls[1].respond(200, b"")
        assert clients[1].response().status == 200
        until(lambda: len(agent.calls) == 3)
        clients[3].reset()
        until(lambda: node.routes.waiting == 4)
        clients[0].reset()  # which has a stream
        until(lambda: len(agent.calls) == 4)
        for number, at in ((2, 2), (4, 3), (5, 4), (6, 5), (7, 6)):
            until(lambda at=at: len(agent.calls) > at)
            agent.calls[at].respond(200, b"")
            assert clients[number].response().status == 200
        assert [call.head.target for call in agent.calls] == [b"/%d" % number for number in (0, 1, 2, 4, 5, 6, 7)]
        assert not node.routes._lists


@covers("ROUTING-30", "ROUTING-31")
def test_those_who_waited_and_are_refused_by_an_agent_with_less_room_are_all_served():
    with running_node(endpoint_wait_s=20.0) as node:
        Agent(node, "ep").kill()
        until(lambda: not node.routes.served("ep"))
        clients = [Client(node).send(POST) for _ in range(8)]
        until(lambda: node.routes.waiting == 8)
        served = []

        def one_at_a_time(call) -> None:
            if served and not served[-1].stream.ended:
                call.reset(ResetCode.REFUSED, untouched=True)
            else:
                served.append(call)
                echo(call)

        Agent(node, "ep", one_at_a_time)
        assert [client.response().status for client in clients] == [200] * 8
        assert len(served) == 8


# The base protocol.


def base(node, handler=echo) -> Agent:
    return Agent(node, "ep", handler, streaming=False)


@covers("RPC-18")
def test_an_agent_of_the_base_protocol_serves_requests(node):
    base(node)
    client = Client(node)
    assert client.get().status == 200
    assert client.send(POST).response().body == b"hello"
    chunked = b"POST / HTTP/1.1\r\nHost: ep.x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    assert client.send(chunked).response().body == b"abc"
    assert [line["outcome"] for line in logged(node)] == ["ok"] * 3


@covers("RPC-20")
@pytest.mark.parametrize("framing", [b"Content-Length: 3000", b"Transfer-Encoding: chunked"])
def test_a_body_that_the_base_protocol_cannot_carry_is_413(framing):
    with running_node(rpc_limits=RpcLimits(base_body_bytes_max=2000)) as node:
        agent = base(node)
        body = b"x" * 3000 if b"Length" in framing else b"bb8\r\n" + b"x" * 3000 + b"\r\n0\r\n\r\n"
        client = Client(node).send(b"POST / HTTP/1.1\r\nHost: ep.x\r\n" + framing + b"\r\n\r\n" + body)
        response = client.response()
        assert (response.status, response.error()) == (413, "body_too_large")
        assert not agent.calls


def test_an_expectation_is_met_by_the_node_where_the_protocol_needs_the_whole_body(node):
    base(node)
    client = Client(node).send(b"POST / HTTP/1.1\r\nHost: ep.x\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
    assert client.read_head().startswith(b"HTTP/1.1 100 ")
    assert client.send(b"body").response().body == b"body"


@covers("RPC-23")
def test_the_base_protocol_refuses_an_upgrade(node):
    base(node)
    client = Client(node).send(b"GET / HTTP/1.1\r\nHost: ep.x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
    assert client.response().status == 503


def test_a_large_response_of_the_base_protocol_reaches_a_slow_client(node):
    body = bytes(range(256)) * 8192
    base(node, lambda call: (call.respond(200, length=UNKNOWN_LENGTH, end=False), call.data(body, end=True)))
    response = Client(node).get()
    assert response.body == body
