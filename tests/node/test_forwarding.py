"""Requests that enter at one node and are served by an upstream of another, on real sockets."""

from __future__ import annotations

import gevent
import pytest

from pico.config import RpcLimits
from pico.protocol.cluster import Condition
from pico.protocol.routing import HELD_BYTES_MAX
from pico.protocol.rpc import DataReceived, ResetCode, StreamReset
from tests.node.harness import (
    UNKNOWN_LENGTH,
    UPLOAD_BYTES_HELD_MAX,
    Agent,
    Client,
    bytes_in_kernel,
    echo,
    logged,
    running_nodes,
    send_until_blocked,
    settled,
    until,
)
from tests.rpc_side import FIXED_WINDOWS
from tests.rules import covers

GET = b"GET / HTTP/1.1\r\nHost: ep.x\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: ep.x\r\nContent-Length: 5\r\n\r\nhello"
MIB = bytes(range(256)) * 4096
SMALL = RpcLimits(window_bytes=5000, data_bytes_max=3000)


@pytest.fixture
def nodes():
    with running_nodes(endpoint_wait_s=2.0) as members:
        yield members


def post(body: bytes, method: bytes = b"POST") -> bytes:
    return method + b" / HTTP/1.1\r\nHost: ep.x\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def nothing_in_flight(*members) -> bool:
    return not any(
        [member.forwarding.relays for member in members]
        + [sum(member.machine.metrics.streams()) for member in members]
        + [link.multiplexer.in_flight for member in members for links in member.links.values() for link in links]
    )


@covers("ROUTING-13")
def test_a_request_is_answered_by_an_upstream_of_another_node(nodes):
    entry, owner = nodes
    agent = Agent(owner.machine, "ep", lambda call: call.respond(200, b"from afar", block=b"A: b\r\n"))
    client = Client(entry.machine)
    response = client.get(b"/x?y", b"ep.example.com", b"x-pico-endpoint: ep\r\nX: 1\r\n")
    assert (response.status, response.body, response.fields(b"a")) == (200, b"from afar", [b"b"])
    (call,) = agent.calls
    assert (call.head.target, call.field(b"x"), call.field(b"host")) == (b"/x?y", [b"1"], [b"ep.example.com"])
    assert call.field(b"x-pico-endpoint") == []
    assert call.field(b"via") == [b"1.1 node-1"]
    assert client.get().status == 200
    assert len(entry.links["node-2"]) == 1
    (line, _) = logged(entry.machine)
    assert (line["peer"], line["upstream"], line["outcome"]) == ("node-2", "", "ok")
    assert entry.machine.metrics.forwarded_out == owner.machine.metrics.forwarded_in == 2
    assert nothing_in_flight(entry, owner)


@covers("ROUTING-9")
def test_upstreams_of_the_own_node_come_first(nodes):
    entry, owner = nodes
    far, near = Agent(owner.machine, "ep"), Agent(entry.machine, "ep")
    for _ in range(5):
        assert Client(entry.machine).send(POST).response().body == b"hello"
    assert (len(far.calls), len(near.calls)) == (0, 5)


@covers("ROUTING-9")
def test_a_node_whose_upstreams_are_full_forwards_but_not_when_its_own_limit_is_reached():
    for limit, status in ((100, 200), (1, 503)):
        with running_nodes(requests_per_endpoint_max=limit, rpc_limits=RpcLimits(streams_max=1)) as (entry, owner):
            near = Agent(entry.machine, "ep", lambda call: None)
            Agent(owner.machine, "ep")
            first = Client(entry.machine).send(GET)
            until(lambda near=near: near.calls)
            assert Client(entry.machine).send(POST).response().status == status
            first.close()


@covers("ROUTING-14")
def test_a_forwarded_request_goes_no_further():
    with running_nodes(3) as (entry, owner, third):
        agent = Agent(third.machine, "ep")
        third.tells = False
        entry.consider(third, Condition())  # it knows only of the second node, which has nothing
        owner.count("ep", 1)
        assert Client(entry.machine).get().error() == "endpoint_not_found"
        assert not agent.calls
        assert owner.machine.metrics.forwarded_in == 1


@covers("RPC-33", "RPC-39", "RPC-40")
@pytest.mark.parametrize("window", ["link", "tunnel", "both"])
def test_a_mebibyte_goes_both_ways_through_small_windows(window):
    link, tunnel = SMALL if window != "tunnel" else RpcLimits(), SMALL if window != "link" else RpcLimits()
    with running_nodes(link_limits=link, rpc_limits=tunnel) as (entry, owner):
        Agent(owner.machine, "ep")
        client = Client(entry.machine)
        sender = gevent.spawn(client.send, post(MIB))
        assert client.response().body == MIB
        sender.get(timeout=5)
        chunked = b"POST / HTTP/1.1\r\nHost: ep.x\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % len(MIB)
        sender = gevent.spawn(client.send, chunked + MIB + b"\r\n0\r\n\r\n")
        assert client.response().body == MIB
        sender.get(timeout=5)
        until(lambda: nothing_in_flight(entry, owner))


@pytest.fixture
def nodes_with_fixed_windows():
    with running_nodes(link_limits=FIXED_WINDOWS, rpc_limits=FIXED_WINDOWS) as members:
        yield members


@covers("RPC-40")
def test_a_client_that_takes_nothing_makes_nobody_hold_more_than_windows(nodes_with_fixed_windows):
    entry, owner = nodes_with_fixed_windows
    sent = 0

    def pour(call) -> None:
        nonlocal sent
        call.respond(200, length=UNKNOWN_LENGTH, end=False)
        while not call.stream.ended:
            call.data(b"x" * 10_000)
            sent += 10_000

    Agent(owner.machine, "ep", pour)
    client = Client(entry.machine).send(GET)
    until(lambda: sent)
    settled(lambda before=[0]: (sent == before[0], before.__setitem__(0, sent))[0], "the end of the pouring")
    assert sent - bytes_in_kernel(client.sock) <= 2 * RpcLimits().window_bytes
    (link,) = owner.forwarding._links
    assert link.multiplexer.engine.snapshot().queued_bytes <= RpcLimits().window_bytes + 1000
    client.reset()
    until(lambda: nothing_in_flight(entry, owner))


@covers("RPC-40")
def test_a_service_that_takes_nothing_stops_the_client(nodes_with_fixed_windows):
    entry, owner = nodes_with_fixed_windows
    agent = Agent(owner.machine, "ep", lambda call: None)
    client = Client(entry.machine).send(b"POST / HTTP/1.1\r\nHost: ep.x\r\nContent-Length: 1000000000\r\n\r\n")
    until(lambda: agent.calls)
    sent = send_until_blocked(client.sock, b"x" * 65536)
    assert sent - bytes_in_kernel(client.sock) <= 2 * RpcLimits().window_bytes + UPLOAD_BYTES_HELD_MAX
    agent.kill()
    until(lambda: nothing_in_flight(entry, owner))


@covers("RPC-36")
def test_trailers_go_both_ways(nodes):
    entry, owner = nodes

    def answer(call) -> None:
        call.respond(200, call.body(), length=UNKNOWN_LENGTH, end=False)
        call.trailers_end(call.trailers)

    Agent(owner.machine, "ep", answer)
    client = Client(entry.machine)
    client.send(b"POST / HTTP/1.1\r\nHost: ep.x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
    gevent.sleep(0.02)
    response = client.send(b"0\r\nX-Sum: 7\r\n\r\n").response()
    assert (response.body, response.trailers) == (b"abc", b"X-Sum: 7\r\n")
    assert nothing_in_flight(entry, owner)


@covers("RPC-32")
def test_an_upgrade_streams_over_the_link_and_each_side_ends_by_itself(nodes):
    entry, owner = nodes

    def talk(call) -> None:
        assert call.head.upgrade == b"echo"
        call.respond(101, upgrade=b"echo", length=UNKNOWN_LENGTH, end=False)
        while True:
            event = call.next_event()
            if isinstance(event, DataReceived):
                call.agent.mux.consumed(call.stream, len(event.data))
                call.data(event.data.upper())
                if event.end:
                    call.data(b" bye", end=True)
                    return

    Agent(owner.machine, "ep", talk)
    client = Client(entry.machine)
    client.send(b"GET / HTTP/1.1\r\nHost: ep.x\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n")
    assert client.read_head().startswith(b"HTTP/1.1 101 ")
    client.send(b"hello")
    until(lambda: client.rest == b"HELLO" or client._more())
    client.sock.shutdown(1)
    while client._more():
        pass
    assert client.rest == b"HELLO bye"
    until(lambda: nothing_in_flight(entry, owner))


def test_an_upgrade_that_is_not_accepted_is_an_ordinary_response(nodes):
    entry, owner = nodes
    Agent(owner.machine, "ep", lambda call: call.respond(200, b"no"))
    client = Client(entry.machine)
    client.send(b"GET / HTTP/1.1\r\nHost: ep.x\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n")
    assert client.response().body == b"no"
    until(lambda: nothing_in_flight(entry, owner))


@covers("RPC-53")
def test_a_response_before_the_end_of_the_request_stands(nodes):
    entry, owner = nodes
    body = b"y" * 600_000

    def early(call) -> None:
        call.respond(413, length=len(body), end=False)
        call.data(body, end=True)
        call.reset(ResetCode.NOT_WANTED)

    Agent(owner.machine, "ep", early)
    client = Client(entry.machine).send(
        b"POST / HTTP/1.1\r\nHost: ep.x\r\nContent-Length: 900000\r\n\r\n", b"x" * 90_000
    )
    response = client.response()
    assert (response.status, response.complete, response.body) == (413, True, body)
    until(lambda: nothing_in_flight(entry, owner))


# The base protocol behind the owner.


@covers("RPC-18")
def test_an_agent_of_the_base_protocol_serves_forwarded_requests(nodes):
    entry, owner = nodes
    Agent(owner.machine, "ep", streaming=False)
    client = Client(entry.machine)
    assert client.send(POST).response().body == b"hello"
    sender = gevent.spawn(client.send, post(MIB))
    assert client.response().body == MIB
    sender.get(timeout=5)
    expecting = b"POST / HTTP/1.1\r\nHost: ep.x\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
    assert client.send(expecting).read_head().startswith(b"HTTP/1.1 100 ")
    assert client.send(b"body").response().body == b"body"
    client.send(b"GET / HTTP/1.1\r\nHost: ep.x\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n")
    assert client.response().error() == "overloaded"
    until(lambda: nothing_in_flight(entry, owner))


@covers("RPC-20")
def test_a_body_that_is_too_large_for_the_base_protocol_is_413_also_by_way_of_a_peer():
    with running_nodes(rpc_limits=RpcLimits(base_body_bytes_max=2000)) as (entry, owner):
        Agent(owner.machine, "ep", streaming=False)
        assert Client(entry.machine).send(post(b"x" * 3000)).response().error() == "body_too_large"
        until(lambda: nothing_in_flight(entry, owner))


# When something breaks.


def hang(call) -> None:
    """Answer nothing."""


def begin(call) -> None:
    """Answer half."""
    call.respond(200, b"half", length=8, end=False)


def resets_of(call) -> list:
    return [event for event in call.events.queue if isinstance(event, StreamReset)]


@covers("HTTP-66")
def test_a_client_that_goes_away_cancels_the_stream_of_the_agent(nodes):
    entry, owner = nodes
    agent = Agent(owner.machine, "ep", hang)
    client = Client(entry.machine).send(GET)
    until(lambda: agent.calls)
    client.reset()
    until(lambda: resets_of(agent.calls[0]))
    assert [event.code for event in resets_of(agent.calls[0])] == [ResetCode.CANCELLED]
    until(lambda: nothing_in_flight(entry, owner))


@covers("HTTP-65")
def test_a_link_that_is_lost_in_the_middle_of_a_response_is_never_its_end(nodes):
    entry, owner = nodes
    agent = Agent(owner.machine, "ep", begin)
    client = Client(entry.machine).send(GET)
    until(lambda: client._more() and b"half" in client.rest)
    entry.link_to(owner).abort("cut")
    response = client.response()
    assert (response.body, response.complete) == (b"half", False)
    until(lambda: resets_of(agent.calls[0]))
    until(lambda: nothing_in_flight(entry, owner))
    assert logged(entry.machine)[0]["outcome"] == "tunnel_lost"


@covers("HTTP-65", "ROUTING-15")
def test_an_upstream_that_is_lost_in_the_middle_of_a_response_is_never_its_end(nodes):
    entry, owner = nodes
    agent = Agent(owner.machine, "ep", begin)
    client = Client(entry.machine).send(GET)
    until(lambda: client._more() and b"half" in client.rest)
    agent.kill()
    assert not client.response().complete
    until(lambda: nothing_in_flight(entry, owner))
    assert logged(entry.machine)[0]["outcome"] == "tunnel_lost"


@covers("ROUTING-6", "ROUTING-15")
@pytest.mark.parametrize("method, survives", [(b"PUT", True), (b"POST", False)])
def test_a_request_that_was_lost_with_the_agent_is_tried_again_where_that_is_safe(nodes, method, survives):
    entry, owner = nodes
    bad = Agent(owner.machine, "ep", lambda call: call.agent.kill())
    Agent(owner.machine, "ep", echo)
    response = Client(entry.machine).send(post(b"hello", method)).response()
    if bad.calls:
        assert (response.body == b"hello") is survives
        assert survives or response.error() == "tunnel_lost"
    assert entry.machine.metrics.retries == 0
    until(lambda: nothing_in_flight(entry, owner))


@covers("ROUTING-5", "ROUTING-15")
@pytest.mark.parametrize("pieces", [1, 3])
def test_an_untouched_refusal_is_tried_again_by_the_owner_with_all_of_the_body(nodes, pieces):
    entry, owner = nodes
    refused = []

    def refuse(call) -> None:
        until(lambda: pieces == 1 or not call.events.empty())
        refused.append(call)
        call.reset(ResetCode.REFUSED, untouched=True, message="going away")

    Agent(owner.machine, "ep", refuse)
    Agent(owner.machine, "ep", echo)
    body = b"0123456789" * 300
    for _ in range(2):
        client = Client(entry.machine).send(b"POST / HTTP/1.1\r\nHost: ep.x\r\nContent-Length: 3000\r\n\r\n")
        for number in range(pieces):
            client.send(body[number * len(body) // pieces : (number + 1) * len(body) // pieces])
            gevent.sleep(0.02)
        assert client.response().body == body
    assert refused
    assert entry.machine.metrics.retries == 0


@covers("ROUTING-5", "ROUTING-15")
def test_a_body_that_is_too_long_to_keep_is_not_repeated_by_anyone(nodes):
    entry, owner = nodes

    def refuse(call) -> None:
        size = 0
        while size <= 2 * HELD_BYTES_MAX:
            data = call.next_event().data
            size += len(data)
            call.agent.mux.consumed(call.stream, len(data))
        call.reset(ResetCode.REFUSED, untouched=True)

    agents = [Agent(owner.machine, "ep", refuse) for _ in range(2)]
    client = Client(entry.machine).send(b"POST / HTTP/1.1\r\nHost: ep.x\r\nContent-Length: 200000\r\n\r\n")
    gevent.sleep(0.02)
    assert client.send(b"x" * 200_000).response().error() == "overloaded"
    assert sum(len(agent.calls) for agent in agents) == 1


@covers("ROUTING-26", "ROUTING-28", "ROUTING-30", "ROUTING-31")
def test_those_who_waited_at_two_nodes_are_all_served_by_the_one_upstream_that_returns():
    with running_nodes(2, rpc_limits=RpcLimits(streams_max=3), endpoint_wait_s=20.0) as nodes:
        entry, owner = nodes
        agent = Agent(owner.machine, "ep")
        assert Client(entry.machine).send(POST).response().status == 200
        agent.kill()
        until(lambda: not any(node.machine.routes.served("ep") for node in nodes))
        clients = [Client(nodes[number % 2].machine).send(POST) for number in range(20)]
        until(lambda: [node.machine.routes.waiting for node in nodes] == [10, 10])
        Agent(owner.machine, "ep")
        assert [client.response().body for client in clients] == [b"hello"] * 20
        assert not any(node.machine.routes._lists for node in nodes)


@covers("ROUTING-14")
def test_an_owner_whose_upstreams_are_busy_is_passed_over_and_stays_in_the_view():
    with running_nodes(3, rpc_limits=RpcLimits(streams_max=1)) as (entry, full, free):
        agent = Agent(full.machine, "ep", hang)
        first = Client(entry.machine).send(GET)
        until(lambda: agent.calls)
        assert Client(entry.machine).send(POST).response().error() == "overloaded"
        Agent(free.machine, "ep")
        for _ in range(4):
            assert Client(entry.machine).send(POST).response().body == b"hello"
        assert len(entry.view.places["ep"]) == 2
        first.close()


@covers("ROUTING-16")
def test_an_endpoint_that_a_peer_denies_and_that_is_full_here_is_overloaded_and_not_unknown():
    with running_nodes(2, rpc_limits=RpcLimits(streams_max=1)) as (entry, stale):
        agent = Agent(stale.machine, "ep")
        stale.tells = False
        agent.kill()
        until(lambda: not stale.machine.routes.served("ep"))
        busy = Agent(entry.machine, "ep", hang)
        first = Client(entry.machine).send(GET)
        until(lambda: busy.calls)
        response = Client(entry.machine).send(POST).response()
        assert (response.status, response.error()) == (503, "overloaded")
        assert stale.machine.metrics.forwarded_in == 1
        first.close()


@covers("ROUTING-14", "ROUTING-16", "CLUSTER-8", "CLUSTER-13")
def test_a_peer_without_the_endpoint_is_corrected_and_the_request_goes_elsewhere():
    with running_nodes(3) as (entry, stale, right):
        agent = Agent(stale.machine, "ep")
        stale.tells = False
        agent.kill()
        until(lambda: not stale.machine.routes.served("ep"))
        Agent(right.machine, "ep")
        for _ in range(8):
            assert Client(entry.machine).send(POST).response().body == b"hello"
        assert stale.machine.metrics.forwarded_in == 1
        assert [place.node_id for place in entry.view.places["ep"]] == ["node-3"]
        stale.tells = True
        Agent(stale.machine, "ep")
        assert [place.node_id for place in entry.view.places["ep"]] == ["node-2", "node-3"]


@covers("ROUTING-7", "ROUTING-16", "ROUTING-19")
@pytest.mark.parametrize("method", [b"GET", b"POST"])
def test_a_request_waits_for_an_endpoint_that_vanished_elsewhere_and_is_woken_where_it_appears(method):
    with running_nodes(3, endpoint_wait_s=3.0) as (entry, before, after):
        before.tells = False
        agent = Agent(before.machine, "ep")
        before.tells = True
        before.count("ep", 1)
        before.tells = False  # so that the entry node learns it from the answer
        agent.kill()
        until(lambda: not before.machine.routes.served("ep"))
        client = Client(entry.machine).send(post(b"hello", method))
        until(lambda: entry.machine.routes.waiting)
        Agent(after.machine, "ep")
        assert client.response().body == b"hello"
        assert logged(entry.machine)[0]["peer"] == "node-3"


@covers("ROUTING-7", "ROUTING-19")
def test_a_request_lost_with_the_last_agent_of_the_owner_waits_for_its_return_there():
    with running_nodes(endpoint_wait_s=3.0) as (entry, owner):
        dying = Agent(owner.machine, "ep", lambda call: call.agent.kill())
        client = Client(entry.machine).send(GET)
        until(lambda: dying.calls)
        until(lambda: entry.machine.routes.waiting)
        Agent(owner.machine, "ep", lambda call: call.respond(200, b"again"))
        assert client.response().body == b"again"


@covers("ROUTING-6", "ROUTING-16")
def test_a_request_that_kills_each_agent_is_given_to_no_more_than_attempts_max():
    with running_nodes(endpoint_wait_s=3.0) as (entry, owner):
        agents = [Agent(owner.machine, "ep", lambda call: call.agent.kill())]
        client = Client(entry.machine).send(GET)
        for _ in range(2):
            until(lambda: entry.machine.routes.waiting)
            agents.append(Agent(owner.machine, "ep", lambda call: call.agent.kill()))
            until(lambda: agents[-1].calls)
        assert client.response().status == 502
        assert sum(len(agent.calls) for agent in agents) == 3


# Links.


@covers("ROUTING-17")
def test_a_peer_that_cannot_be_reached_costs_little_and_the_request_goes_elsewhere():
    with running_nodes(3) as (entry, dead, alive):
        Agent(dead.machine, "ep")
        Agent(alive.machine, "ep")
        dead.answers_dials = False
        for _ in range(6):
            assert Client(entry.machine).send(POST).response().body == b"hello"
        assert entry.dials.count("node-2") <= 1


@covers("ROUTING-17", "ROUTING-19")
def test_a_request_for_an_endpoint_of_an_unreachable_peer_waits_until_it_is_elsewhere():
    with running_nodes(3, endpoint_wait_s=3.0) as (entry, dead, other):
        Agent(dead.machine, "ep")
        dead.answers_dials = False
        client = Client(entry.machine).send(POST)
        until(lambda: entry.machine.routes.waiting)
        Agent(other.machine, "ep")
        assert client.response().body == b"hello"


@covers("ROUTING-17", "ROUTING-19")
def test_a_request_is_woken_when_the_peer_can_be_reached_again():
    with running_nodes(endpoint_wait_s=3.0) as (entry, owner):
        Agent(owner.machine, "ep")
        owner.answers_dials = False
        entry.peers["node-2"].unreachable()
        client = Client(entry.machine).send(POST)
        until(lambda: entry.machine.routes.waiting)
        owner.answers_dials = True
        entry.connect(owner)
        assert client.response().body == b"hello"


@covers("ROUTING-5", "ROUTING-6", "ROUTING-10")
@pytest.mark.parametrize("method, body", [(b"GET", b"again"), (b"POST", b"")])
def test_a_request_lost_with_the_link_to_the_only_owner_is_sent_over_the_next_link(method, body):
    with running_nodes(endpoint_wait_s=3.0) as (entry, owner):
        agent = Agent(owner.machine, "ep", lambda call: len(agent.calls) > 1 and call.respond(200, b"again"))
        client = Client(entry.machine).send(post(b"hello", method))
        until(lambda: agent.calls)
        entry.peers["node-2"].multiplexer.abort("the cable is cut")
        response = client.response()
        assert response.status == (200 if body else 502)
        assert response.body == body or response.error() == "tunnel_lost"


@covers("ROUTING-17")
def test_a_peer_that_does_not_answer_is_given_up_at_its_deadline():
    with running_nodes() as (entry, owner):
        Agent(owner.machine, "ep")
        entry.answers_dials = False  # the dial never ends
        assert Client(entry.machine).get().error() == "overloaded"
        assert not entry.peers["node-2"]._waiters


def test_a_client_that_goes_away_waits_for_no_link_any_more():
    with running_nodes() as (entry, owner):
        Agent(owner.machine, "ep")
        entry.answers_dials = False
        client = Client(entry.machine).send(GET)
        until(lambda: entry.peers["node-2"]._waiters)
        client.reset()
        until(lambda: not entry.peers["node-2"]._waiters)


@covers("RPC-54", "RPC-55")
def test_a_draining_node_takes_nothing_new_and_finishes_what_it_has():
    with running_nodes(3) as (entry, leaving, staying):
        agent = Agent(leaving.machine, "ep", hang)
        client = Client(entry.machine).send(GET)
        until(lambda: agent.calls)
        leaving.forwarding.drain("leaving")
        Agent(staying.machine, "ep")
        until(lambda: entry.peers["node-2"].leaving)
        for _ in range(4):
            assert Client(entry.machine).send(POST).response().body == b"hello"
        assert leaving.forwarding.relays == 1
        agent.calls[0].respond(200, b"the last one")
        assert client.response().body == b"the last one"
        assert leaving.forwarding.relays == 0
        entry.connect(leaving)
        until(lambda: entry.link_to(leaving).leaving)


@covers("ROUTING-4")
def test_a_stream_stays_with_the_link_on_which_it_was_opened(nodes):
    """The old link drains while a new one is there: bytes of the request must not go to the new one."""
    entry, owner = nodes
    Agent(owner.machine, "ep")
    client = Client(entry.machine).send(b"POST / HTTP/1.1\r\nHost: ep.x\r\nContent-Length: 10\r\n\r\nhello")
    until(lambda: owner.forwarding.relays)
    old = entry.link_to(owner)
    (accepted,) = owner.forwarding._links
    accepted.multiplexer.goaway("a newer one comes")
    until(lambda: old.leaving)
    entry.connect(owner)
    assert entry.link_to(owner) is not old
    assert Client(entry.machine).send(POST).response().body == b"hello"
    assert client.send(b"world").response().body == b"helloworld"
    until(lambda: nothing_in_flight(entry, owner))
