"""The proxy door and ``ProxyRequest`` on real sockets: what only both together can show of ``spec/http.md``."""

from __future__ import annotations

import json
import logging
import socket as blocking_socket
import ssl

import gevent
import pytest
from gevent.ssl import SSLContext

from pico.actors.spares import SPARED_S
from pico.config import HttpLimits, HttpTimers, RpcLimits
from pico.node.proxy_door import BUFFER_BYTES_MAX, ClientConnection
from pico.observability.access_log import VALUE_CHARS_MAX
from pico.protocol.http import Failure
from pico.protocol.rpc import ResetCode, StreamReset
from pico.transport.clock import HubClock
from pico.transport.memory import memory_pair
from tests.actors.census import found_by_the_collector
from tests.certificates import Authority
from tests.node.harness import (
    UNKNOWN_LENGTH,
    UPLOAD_BYTES_HELD_MAX,
    Agent,
    Client,
    Response,
    bytes_in_kernel,
    connect,
    echo,
    ends_with_reset,
    logged,
    running_node,
    send_until_blocked,
    settled,
    until,
)
from tests.rpc_side import FIXED_WINDOWS
from tests.rules import covers


@pytest.fixture
def node():
    with running_node() as node:
        yield node


@pytest.fixture
def node_with_fixed_windows():
    with running_node(rpc_limits=FIXED_WINDOWS) as node:
        yield node


def small(body: bytes = b"hello"):
    return lambda call: call.respond(200, body)


# Naming the endpoint.


@covers("HTTP-18")
def test_the_endpoint_is_named_by_the_field_or_by_the_first_label_of_the_host(node):
    Agent(node, "one", small(b"1"))
    Agent(node, "two", small(b"2"))
    client = Client(node)
    assert client.get(host=b"one.example.com").body == b"1"
    assert client.get(host=b"two.example.com").body == b"2"
    assert client.get(b"/", b"one.example.com", b"x-pico-endpoint: two\r\n").body == b"2"
    assert client.get(b"/", b"127.0.0.1:8000", b"x-pico-endpoint: ONE\r\n").body == b"1"


@covers("HTTP-19")
@pytest.mark.parametrize("host", [b"127.0.0.1:8000", b"localhost", b"[::1]:80"])
def test_an_address_and_a_name_without_a_dot_name_no_endpoint(node, host):
    response = Client(node).get(host=host)
    assert (response.status, response.error()) == (400, "endpoint_missing")


def test_an_endpoint_that_is_not_registered_is_502_and_the_connection_goes_on(node):
    client = Client(node)
    for _ in range(2):
        response = client.get(host=b"nobody.example.com")
        assert (response.status, response.error()) == (502, "endpoint_not_found")


# Bodies.


def test_a_body_of_declared_length_travels_both_ways(node):
    Agent(node, "ep")
    client = Client(node).send(b"POST / HTTP/1.1\r\nHost: ep.x\r\nContent-Length: 5\r\n\r\nhello")
    response = client.response()
    assert (response.status, response.body) == (200, b"hello")
    assert response.fields(b"content-length") == [b"5"]


@covers("HTTP-26", "HTTP-27")
def test_a_chunked_body_with_trailers_travels_both_ways(node):
    def handler(call):
        body = call.body()
        call.respond(200, body, length=UNKNOWN_LENGTH, end=False)
        call.trailers_end(call.trailers)

    Agent(node, "ep", handler)
    client = Client(node).send(
        b"POST / HTTP/1.1\r\nHost: ep.x\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"5;ext=1\r\nhello\r\n1\r\n!\r\n0\r\nX-Sum: 7\r\n\r\n",
    )
    response = client.response()
    assert (response.body, response.trailers) == (b"hello!", b"X-Sum: 7\r\n")


def test_five_megabytes_each_way_at_the_same_time(node):
    def handler(call):
        call.respond(200, length=UNKNOWN_LENGTH, end=False)
        total = 0
        while not call._ended or call._body:
            if call._body:
                piece, call._body = call._body, b""
            else:
                event = call.next_event()
                if not hasattr(event, "data"):
                    continue
                piece, call._ended = event.data, event.end
            call.data(piece)
            call.agent.mux.consumed(call.stream, len(piece))
            total += len(piece)
        call.data(b"", end=True)

    Agent(node, "ep", handler)
    body = bytes(range(256)) * 20480
    client = Client(node)
    sender = gevent.spawn(client.send, b"POST / HTTP/1.1\r\nHost: ep.x\r\nContent-Length: %d\r\n\r\n" % len(body), body)
    response = client.response()
    sender.get()
    assert response.complete
    assert response.body == body


def test_a_client_that_does_not_read_stalls_only_itself_and_holds_no_more_than_its_window(node_with_fixed_windows):
    node = node_with_fixed_windows
    window = node.config.rpc_limits.window_bytes

    def handler(call):
        if call.head.target == b"/big":
            call.respond(200, length=64 << 20, end=False)
            for _ in range(1024):
                call.data(b"x" * 65536)
        else:
            call.respond(200, b"quick")

    agent = Agent(node, "ep", handler)
    stalled = Client(node).send(b"GET /big HTTP/1.1\r\nHost: ep.x\r\n\r\n")
    settled(lambda: agent.calls and agent.calls[0].stream.credit == 0)
    assert Client(node).get(b"/quick").body == b"quick"
    (connection,) = [one for one in node.services.connections if one.unsent_bytes]
    assert connection.unsent_bytes <= window
    stalled.close()


def test_an_upload_that_the_service_does_not_take_is_not_read_any_further(node):
    agent = Agent(node, "ep", lambda call: gevent.sleep(60))
    client = Client(node).send(b"POST / HTTP/1.1\r\nHost: ep.x\r\nContent-Length: 100000000\r\n\r\n")
    sent = send_until_blocked(client.sock, b"x" * 65536)
    assert sent - bytes_in_kernel(client.sock) <= node.config.rpc_limits.window_bytes + UPLOAD_BYTES_HELD_MAX
    (call,) = agent.calls
    assert call.stream.held_bytes <= node.config.rpc_limits.window_bytes
    client.close()


@covers("HTTP-29")
def test_a_body_over_the_limit_is_413_declared_or_counted():
    with running_node(http_limits=HttpLimits(body_bytes_max=10)) as node:
        agent = Agent(node, "ep")
        declared = Client(node).send(b"POST / HTTP/1.1\r\nHost: ep.x\r\nContent-Length: 11\r\n\r\n").response()
        assert (declared.status, declared.error()) == (413, "body_too_large")
        assert not agent.calls
        client = Client(node).send(
            b"POST / HTTP/1.1\r\nHost: ep.x\r\nTransfer-Encoding: chunked\r\n\r\n6\r\n123456\r\n"
        )
        until(lambda: agent.calls)
        counted = client.send(b"6\r\n123456\r\n0\r\n\r\n").response()
        assert (counted.status, counted.error()) == (413, "body_too_large")


# Connections.


@covers("HTTP-59")
def test_pipelined_requests_are_answered_in_order_whatever_comes_first(node):
    def handler(call):
        if call.head.target == b"/slow":
            gevent.sleep(0.05)
        call.respond(200, call.head.target)

    Agent(node, "ep", handler)
    client = Client(node)
    client.send(*(b"GET %b HTTP/1.1\r\nHost: ep.x\r\n\r\n" % target for target in (b"/slow", b"/b", b"/c")))
    assert [client.response().body for _ in range(3)] == [b"/slow", b"/b", b"/c"]


@covers("HTTP-58")
def test_connections_are_kept_or_closed_as_the_client_says(node):
    Agent(node, "ep", small())
    client = Client(node)
    response = client.get(b"/", b"ep.x", b"Connection: close\r\n")
    assert response.fields(b"connection") == [b"close"]
    assert client.at_end()
    client = Client(node).send(b"GET / HTTP/1.0\r\nHost: ep.x\r\n\r\n")
    assert client.response().complete
    assert client.at_end()
    client = Client(node)
    for _ in range(2):
        client.send(b"GET / HTTP/1.0\r\nHost: ep.x\r\nConnection: keep-alive\r\n\r\n")
        response = client.response()
        assert (response.body, response.fields(b"connection")) == (b"hello", [b"keep-alive"])


@covers("HTTP-60")
def test_a_client_that_half_closes_after_its_request_still_gets_the_response(node):
    def handler(call):
        gevent.sleep(0.05)
        call.respond(200, b"late")

    Agent(node, "ep", handler)
    client = Client(node).send(b"GET / HTTP/1.1\r\nHost: ep.x\r\n\r\n")
    client.sock.shutdown(1)
    assert client.response().body == b"late"
    assert client.at_end()


@covers("HTTP-60", "HTTP-66")
@pytest.mark.parametrize("when", ["with its request", "later"])
def test_a_client_that_half_closes_is_taken_for_gone_where_that_is_asked_for(when):
    with running_node(abort_on_close="on") as node:
        agent = Agent(node, "ep", lambda call: None)
        client = Client(node).send(b"GET / HTTP/1.1\r\nHost: ep.x\r\n\r\n")
        if when == "later":
            until(lambda: agent.calls)
        client.sock.shutdown(1)
        event = agent.calls[0].next_event() if when == "later" else None
        assert event is None or event.code is ResetCode.CANCELLED
        until(lambda: logged(node))
        assert [(line["status"], line["outcome"]) for line in logged(node)] == [(499, "client_closed")]
        until(lambda: not node.services.connections)


@covers("HTTP-28", "HTTP-60")
def test_a_body_that_its_client_does_not_end_is_incomplete_also_where_a_half_close_is_an_abort():
    with running_node(abort_on_close="on") as node:
        agent = Agent(node, "ep", lambda call: None)
        client = Client(node).send(b"POST / HTTP/1.1\r\nHost: ep.x\r\nContent-Length: 10\r\n\r\nhalf")
        until(lambda: agent.calls)
        client.sock.shutdown(1)
        assert client.response().error() == "body_incomplete"


@covers("HTTP-60", "HTTP-66")
def test_a_client_that_goes_away_cancels_its_stream_and_is_logged_as_499(node):
    agent = Agent(node, "ep", lambda call: None)
    client = Client(node).send(b"GET / HTTP/1.1\r\nHost: ep.x\r\n\r\n")
    until(lambda: agent.calls)
    client.reset()
    event = agent.calls[0].next_event()
    assert isinstance(event, StreamReset)
    assert event.code is ResetCode.CANCELLED
    until(lambda: logged(node))
    assert [(line["status"], line["outcome"]) for line in logged(node)] == [(499, "client_closed")]


@covers("HTTP-28")
def test_a_client_that_ends_in_the_middle_of_its_body_cancels_the_request(node):
    agent = Agent(node, "ep", lambda call: None)
    client = Client(node).send(b"POST / HTTP/1.1\r\nHost: ep.x\r\nContent-Length: 10\r\n\r\nhalf")
    until(lambda: agent.calls)
    client.sock.shutdown(1)
    assert isinstance(agent.calls[0].next_event(), StreamReset)
    assert client.response().error() == "body_incomplete"


@covers("HTTP-11", "HTTP-61")
def test_a_refusal_can_be_read_although_the_client_is_still_sending(node):
    client = Client(node).send(b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", b"x" * 100_000)
    response = client.response()
    assert (response.status, response.fields(b"connection")) == (400, [b"close"])
    assert response.error() == "bad_request"
    assert client.at_end()


@covers("HTTP-30")
def test_a_response_before_the_end_of_the_request_ends_the_connection_in_good_order(node):
    agent = Agent(node, "ep", lambda call: call.respond(403, b"no", reason=b"Forbidden"))
    client = Client(node).send(b"POST / HTTP/1.1\r\nHost: ep.x\r\nContent-Length: 1000\r\n\r\nfirst")
    response = client.response()
    assert (response.status, response.body, response.fields(b"connection")) == (403, b"no", [b"close"])
    assert client.at_end()
    until(lambda: agent.calls[0].stream.ended)


@covers("HTTP-30", "HTTP-61")
@pytest.mark.parametrize("more", [b"", b"x" * 200_000])
def test_a_response_in_pieces_before_the_end_of_the_request_ends_the_connection_in_good_order(node, caplog, more):
    def handler(call):
        call.respond(403, b"first ", length=UNKNOWN_LENGTH, end=False, reason=b"Forbidden")
        until(lambda: seen)
        call.data(b"last", end=True)

    seen: list[bytes] = []
    agent = Agent(node, "ep", handler)
    client = Client(node).send(b"POST / HTTP/1.1\r\nHost: ep.x\r\nContent-Length: 1000000\r\n\r\nfirst")
    until(lambda: agent.calls)
    client.send(more)
    while b"first " not in client.rest:
        assert client._more()
    seen.append(client.rest)
    response = client.response()
    assert (response.status, response.body, response.complete) == (403, b"first last", True)
    assert client.at_end()
    until(lambda: logged(node))
    assert [line["outcome"] for line in logged(node)] == ["ok"]
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


@covers("HTTP-61")
def test_a_lingering_close_reads_on_however_much_is_held():
    limits = HttpLimits(discard_bytes_max=1_000_000)
    with running_node(http_timers=HttpTimers(linger_s=20.0), http_limits=limits) as node:

        def full() -> bool:
            return any(one._held_bytes() >= BUFFER_BYTES_MAX for one in node.services.connections)

        agent = Agent(node, "ep", lambda call: until(full) or call.respond(413, b"no"))
        client = Client(node).send(b"POST / HTTP/1.1\r\nHost: ep.x\r\nContent-Length: 1000000\r\n\r\n", b"x" * 800_000)
        assert client.response().body == b"no"
        client.sock.shutdown(1)
        until(lambda: not node.services.connections, "the end of the connection")
        assert len(agent.calls) == 1


@covers("HTTP-61")
@pytest.mark.parametrize("discard_bytes_max", [0, 100_000])
def test_a_lingering_close_reads_no_more_than_its_limit_but_leaves_the_client_its_time(discard_bytes_max):
    limits = HttpLimits(discard_bytes_max=discard_bytes_max)
    with running_node(http_timers=HttpTimers(linger_s=60.0), http_limits=limits) as node:
        client = Client(node).send(b"POST / HTTP/1.1\r\nHost: a b\r\n\r\n")
        send_until_blocked(client.sock, b"x" * 65536)  # as nginx does, which looks at no answer once a write has failed
        assert client.response().status == 400
        assert client.at_end()
        assert len(node.services.connections) == 1


@covers("HTTP-61")
def test_a_lingering_close_ends_with_its_time_though_the_client_goes_on_sending():
    with running_node(http_timers=HttpTimers(linger_s=0.2)) as node:
        client = Client(node).send(b"POST / HTTP/1.1\r\nHost: a b\r\n\r\n", b"x" * 1_000_000)
        assert client.response().status == 400
        until(lambda: not node.services.connections, "the end of the connection")


# Responses.


@covers("HTTP-51")
def test_bodiless_responses_leave_the_connection_usable(node):
    def handler(call):
        if call.head.method == b"HEAD":
            call.respond(200, length=1234)
        else:
            call.respond(int(call.head.target[1:]), length=UNKNOWN_LENGTH)

    Agent(node, "ep", handler)
    client = Client(node).send(b"HEAD / HTTP/1.1\r\nHost: ep.x\r\n\r\n")
    response = client.response(b"HEAD")
    assert response.fields(b"content-length") == [b"1234"]
    for status in (204, 304):
        assert client.get(b"/%d" % status).status == status


@covers("HTTP-52")
def test_a_body_of_unknown_length_is_chunked_or_ended_by_closing(node):
    def handler(call):
        call.respond(200, b"first ", length=UNKNOWN_LENGTH, end=False)
        call.data(b"second", end=True)

    Agent(node, "ep", handler)
    response = Client(node).get()
    assert response.fields(b"transfer-encoding") == [b"chunked"]
    assert response.body == b"first second"
    client = Client(node).send(b"GET / HTTP/1.0\r\nHost: ep.x\r\nConnection: keep-alive\r\n\r\n")
    response = client.response()
    assert (response.body, response.fields(b"connection")) == (b"first second", [b"close"])


def test_each_piece_is_sent_on_as_it_comes(node):
    def handler(call):
        call.respond(200, length=UNKNOWN_LENGTH, end=False, block=b"Content-Type: text/event-stream\r\n")
        for number in range(3):
            call.data(b"data: %d\n\n" % number)
            until(lambda number=number: seen > number)

    seen = 0
    Agent(node, "ep", handler)
    client = Client(node).send(b"GET / HTTP/1.1\r\nHost: ep.x\r\n\r\n")
    client.read_head()
    while seen < 3:
        while b"data: %d\n\n" % seen not in client.rest:
            assert client._more()
        seen += 1


@covers("HTTP-65")
@pytest.mark.parametrize("length", [100, UNKNOWN_LENGTH])
def test_a_tunnel_lost_in_the_middle_of_a_body_is_seen_by_the_client(node, length):
    agent = Agent(node, "ep", lambda call: call.respond(200, b"part", length=length, end=False))
    client = Client(node).send(b"GET / HTTP/1.1\r\nHost: ep.x\r\n\r\n")
    until(lambda: agent.calls and agent.calls[0].stream.sending == 1)
    gevent.sleep(0.02)
    agent.kill()
    assert not client.response().complete
    until(lambda: logged(node))
    assert logged(node)[-1]["outcome"] == "tunnel_lost"


@covers("HTTP-65")
def test_a_body_ended_by_closing_is_cut_with_a_reset(node):
    agent = Agent(node, "ep", lambda call: call.respond(200, b"part", length=UNKNOWN_LENGTH, end=False))
    client = Client(node).send(b"GET / HTTP/1.0\r\nHost: ep.x\r\n\r\n")
    client.read_head()
    agent.kill()
    assert ends_with_reset(client.sock)


# Informational responses, expectations, upgrades.


@covers("HTTP-45")
def test_informational_responses_are_relayed_but_not_to_http_1_0(node):
    def handler(call):
        call.respond(103, block=b"Link: </a>\r\n", length=UNKNOWN_LENGTH, end=False, reason=b"Early Hints")
        call.respond(200, b"done")

    Agent(node, "ep", handler)
    client = Client(node).send(b"GET / HTTP/1.1\r\nHost: ep.x\r\n\r\n")
    assert client.read_head() == b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    assert client.response().body == b"done"
    client = Client(node).send(b"GET / HTTP/1.0\r\nHost: ep.x\r\n\r\n")
    assert client.read_head().startswith(b"HTTP/1.1 200")


@covers("HTTP-45")
def test_informational_responses_without_end_are_not_relayed_without_end(node):
    def handler(call):
        while not call.stream.ended:
            call.respond(103, length=UNKNOWN_LENGTH, end=False, reason=b"Early Hints")
            gevent.sleep(0)

    Agent(node, "ep", handler)
    client = Client(node)
    assert client.get().error() == "service_malformed"


@covers("HTTP-66", "RPC-51")
def test_an_agent_cannot_make_the_node_say_499(node):
    Agent(node, "ep", lambda call: call.reset(ResetCode.CANCELLED))
    assert Client(node).get().error() == "internal"


@covers("HTTP-46", "HTTP-50")
def test_an_expectation_is_met_by_the_service_and_the_head_does_not_wait_for_the_body(node):
    def handler(call):
        assert call.field(b"expect") == [b"100-continue"]
        call.respond(100, length=UNKNOWN_LENGTH, end=False, reason=b"Continue")
        call.respond(200, call.body())

    Agent(node, "ep", handler)
    client = Client(node).send(b"POST / HTTP/1.1\r\nHost: ep.x\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
    assert client.read_head().startswith(b"HTTP/1.1 100 ")
    assert client.send(b"body").response().body == b"body"


@covers("HTTP-46")
def test_a_refused_expectation_ends_the_connection(node):
    Agent(node, "ep", lambda call: call.respond(417, b"", reason=b"Expectation Failed"))
    client = Client(node).send(b"POST / HTTP/1.1\r\nHost: ep.x\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
    response = client.response()
    assert (response.status, response.fields(b"connection")) == (417, [b"close"])
    assert client.at_end()


UPGRADE = b"GET /chat HTTP/1.1\r\nHost: ep.x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


@covers("HTTP-48", "HTTP-49")
def test_after_a_101_bytes_are_opaque_both_ways_also_those_right_behind_the_heads(node):
    def handler(call):
        assert call.head.upgrade == b"websocket"
        call.respond(
            101, b"first", length=UNKNOWN_LENGTH, end=False, upgrade=b"websocket", reason=b"Switching Protocols"
        )
        while not (event := call.next_event()).end:
            call.agent.mux.consumed(call.stream, len(event.data))
            call.data(event.data[::-1])
        call.data(b"bye", end=True)

    Agent(node, "ep", handler)
    client = Client(node).send(UPGRADE, b"GET not http")
    head = client.read_head()
    assert head.startswith(b"HTTP/1.1 101 ")
    assert b"Upgrade: websocket\r\n" in head
    assert b"Connection: upgrade\r\n" in head
    while len(client.rest) < 17:
        assert client._more()
    assert client.rest == b"firstptth ton TEG"
    client.rest = b""
    client.sock.shutdown(1)
    while client._more():
        pass
    assert client.rest == b"bye"


def switch(call):
    call.respond(101, length=UNKNOWN_LENGTH, end=False, upgrade=b"websocket", reason=b"Switching Protocols")


def test_short_pieces_of_a_client_that_the_service_does_not_take_are_held_as_their_bytes_and_no_more(node):
    agent = Agent(node, "ep", switch)
    client = Client(node).send(UPGRADE)
    client.read_head()
    window_bytes = node.config.rpc_limits.window_bytes
    client.send(b"x" * window_bytes)
    until(lambda: agent.calls[0].stream.held_bytes == window_bytes)
    (connection,) = node.services.connections
    client.send(b"y")
    settled(lambda: not connection._held_bytes(), "that the request has taken what it cannot send")
    for number in range(1, 101):
        client.send(b"ab")
        until(lambda number=number: connection._held_bytes() == 2 * number)
    assert len(connection._raw) <= 2, "a piece by itself takes many times its bytes"


def upgraded_and_ended(node) -> tuple[Agent, Client]:
    """A client that got to the end of what its service had to say."""

    def handler(call):
        switch(call)
        call.data(b"bye", end=True)

    agent = Agent(node, "ep", handler)
    client = Client(node).send(UPGRADE)
    client.read_head()
    while client._more():
        pass
    return agent, client


@covers("HTTP-49")
def test_what_a_client_sends_after_its_service_has_ended_an_upgrade_arrives(node):
    agent, client = upgraded_and_ended(node)
    client.send(b"and more").sock.shutdown(1)
    assert agent.calls[0].body() == b"and more"


@covers("HTTP-49")
@pytest.mark.parametrize("last", ["the client closes", "the client half-closes", "the service resets"])
def test_a_service_that_ends_an_upgrade_first_leaves_nothing_behind(node, last):
    agent, client = upgraded_and_ended(node)
    assert client.rest == b"bye"
    if last == "the client closes":
        client.close()
    elif last == "the client half-closes":
        client.sock.shutdown(1)
    else:
        agent.calls[0].reset(ResetCode.SERVICE_CLOSED)
    until(lambda: logged(node))
    assert [line["outcome"] for line in logged(node)] == ["ok"]
    until(lambda: not node.services.connections)
    assert node.services.metrics.requests_in_flight == 0


@covers("HTTP-48")
def test_an_upgrade_that_the_service_does_not_take_is_an_ordinary_request(node):
    Agent(node, "ep", lambda call: call.respond(200, call.head.target))
    client = Client(node).send(UPGRADE, b"GET /next HTTP/1.1\r\nHost: ep.x\r\n\r\n")
    assert client.response().body == b"/chat"
    assert client.response().body == b"/next"


# What is refused.


@pytest.mark.parametrize(
    "method, rest, status",
    [
        (b"TRACE", b"", 405),
        (b"CONNECT", b"", 405),
        (b"GET", b"Expect: more\r\n", 417),
        (b"GET", b"Cookie: " + b"c" * 20_000 + b"\r\n", 431),
        (b"GET", b"X: y\r\n" * 200, 431),
        (b"GET", b"Content-Length: x\r\n", 400),
    ],
)
def test_the_log_has_what_could_be_read_of_a_request_that_was_refused(node, method, rest, status):
    head = method + b" /a?secret=1 HTTP/1.1\r\nHost: ep.x\r\nUser-Agent: \xe9[31m\r\n" + rest
    assert Client(node).send(head + b"\r\n").response().status == status
    (line,) = logged(node)
    assert (line["status"], line["method"], line["path"]) == (status, method.decode(), "/a")
    assert (line["host"], line["endpoint"], line["user_agent"]) == ("ep.x", "ep", "\xe9[31m")
    (kept,) = node.services.recent.requests()
    assert (kept["method"], kept["path"], kept["endpoint"]) == (method.decode(), "/a", "ep")


def test_the_log_has_no_more_than_its_limit_of_a_target_that_is_too_long(node):
    assert Client(node).send(b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: ep.x\r\n\r\n").response().status == 414
    (line,) = logged(node)
    assert (line["method"], line["path"][:3], len(line["path"])) == ("GET", "/aa", VALUE_CHARS_MAX)


def test_the_log_has_nothing_of_what_is_no_http(node):
    assert Client(node).send(b"\x16\x03\x01\x02\x00").response().status == 400
    (line,) = logged(node)
    assert (line["method"], line["path"], line["host"]) == ("", "", "")


# Time.


def with_timers(**timers):
    return running_node(http_timers=HttpTimers(linger_s=0.3, **timers))


@covers("HTTP-62")
def test_a_head_that_does_not_come_to_its_end_is_408():
    with with_timers(request_head_s=0.2) as node:
        client = Client(node).send(b"GET / HTTP/1.1\r\n")
        trickle = gevent.spawn(lambda: [(gevent.sleep(0.05), client.send(b"A: b\r\n")) for _ in range(6)])
        response = client.response()
        trickle.kill()
        assert (response.status, response.error()) == (408, "header_timeout")
        assert json.loads(response.body)["error"]["message"] == Failure.HEADER_TIMEOUT.message, "said once"


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: ep.x\r\nA B: c\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: ep.x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET / HTTP/1.1\r\nHost: ep.x\r\n",
    ],
    ids=["no first line", "no host", "no field", "no chunk", "late"],
)
def test_of_a_request_that_was_refused_nothing_waits_for_the_garbage_collector(sent):
    """Such requests cost their sender nothing: a node under many of them would stand still to collect."""

    def be_refused() -> None:
        client = Client(node).send(sent)
        assert client.response().status in (400, 408)
        client.close()
        node.testers.remove(client)
        settled(lambda: not node.services.connections)

    with with_timers(request_head_s=0.2) as node:
        be_refused()  # what is made once is made
        with found_by_the_collector() as found:
            be_refused()
    of_a_client = {"ClientConnection", "SocketStream", "RequestReader", "RequestRejected", "ProxyRequest"}
    assert not of_a_client & found.keys()  # what an earlier node had may be found meanwhile


def test_of_a_head_that_is_late_the_log_has_what_came_and_how_long_it_took():
    with with_timers(request_head_s=0.2) as node:
        client = Client(node).send(b"GET /slow?secret HTTP/1.1\r\nHost: ep.x\r\nUser-Agent: u\r\nX-Cut")
        assert client.response().status == 408
        (line,) = logged(node)
        assert (line["method"], line["path"], line["host"], line["endpoint"]) == ("GET", "/slow", "ep.x", "ep")
        assert (line["user_agent"], line["outcome"]) == ("u", "header_timeout")
        assert line["total_ms"] >= 150  # deadlines are looked at a few times a second


@covers("HTTP-62")
def test_an_idle_connection_is_closed_without_a_word():
    with with_timers(keep_alive_s=0.1) as node:
        assert Client(node).at_end()


@covers("HTTP-72")
def test_at_a_full_door_who_has_waited_longest_without_a_request_makes_room():
    with running_node(client_connections_max=3) as node:
        Agent(node, "ep", small())
        silent = Client(node)
        served = Client(node)
        assert served.get().body == b"hello"
        begun = Client(node).send(b"GET /slow HTTP/1.1\r\n")
        until(lambda: len(node.services.connections) == 3, "the full door")
        newcomers = []
        for number, oldest in enumerate((silent, served, begun), start=1):
            newcomers.append(Client(node))
            assert newcomers[-1].get().body == b"hello"
            if oldest is begun:
                assert (response := begun.response()).status == 408
                assert response.error() == "header_timeout"
            assert oldest.at_end(), "without a word"
            assert node.metrics.connections_given_up.count("proxy") == number
        assert [newcomer.get().body for newcomer in newcomers] == [b"hello"] * 3


@covers("HTTP-72")
def test_a_head_that_begins_has_its_time_from_then_on():
    with running_node(client_connections_max=2) as node:
        Agent(node, "ep", small())
        first, second = Client(node), Client(node)
        settled(lambda: len(node.services.spares) == 2, "both", SPARED_S)
        first.send(b"GET / HTTP/1.1\r\n")
        newcomer = Client(node)
        assert newcomer.get().body == b"hello"
        assert second.at_end()
        first.send(b"Host: ep.x\r\n\r\n")
        assert first.response().body == b"hello"


@covers("HTTP-72")
def test_requests_in_progress_and_upgraded_connections_never_make_room():
    def handler(call):
        if call.head.upgrade:
            switch(call)

    with running_node(client_connections_max=2) as node:
        agent = Agent(node, "ep", handler)
        upgraded = Client(node).send(UPGRADE)
        assert upgraded.read_head().startswith(b"HTTP/1.1 101 ")
        busy = Client(node).send(b"GET / HTTP/1.1\r\nHost: ep.x\r\n\r\n")
        until(lambda: len(agent.calls) == 2)
        newcomer = Client(node).send(b"GET / HTTP/1.1\r\nHost: ep.x\r\n\r\n")
        settled(lambda: len(agent.calls) == 2, "nobody makes room", SPARED_S + 0.5)
        agent.calls[1].respond(200, b"at last")
        assert busy.response().body == b"at last"
        until(lambda: len(agent.calls) == 3, "the newcomer, once the other one is idle")
        assert busy.at_end()
        agent.calls[2].respond(200, b"me, too")
        assert newcomer.response().body == b"me, too"
        upgraded.send(b"still here")
        assert agent.calls[0].next_event().data == b"still here"
        assert node.metrics.connections_given_up.count("proxy") == 1


@covers("HTTP-72")
@pytest.mark.parametrize("request_first", [True, False])
def test_a_request_that_has_arrived_is_answered_though_its_connection_was_to_make_room(request_first):
    with running_node(client_connections_max=1) as node:
        Agent(node, "ep", small())
        client = Client(node)
        settled(lambda: len(node.services.spares) == 1, "one who can make room", SPARED_S)
        # The hub has no turn in between, and then comes to both in the order that it likes.
        if request_first:
            client.send(b"GET / HTTP/1.1\r\nHost: ep.x\r\n\r\n")
        waiting = blocking_socket.create_connection(node.address("proxy-door"))
        if not request_first:
            client.send(b"GET / HTTP/1.1\r\nHost: ep.x\r\n\r\n")
        assert client.response().body == b"hello"
        waiting.close()


@covers("HTTP-72")
def test_at_a_full_door_of_tls_a_client_makes_room_before_its_handshake_and_after(tmp_path):
    authority = Authority(tmp_path)
    context = SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(authority.ca_file)
    with running_node(client_connections_max=1, proxy_tls=authority.issue("localhost")) as node:
        silent = connect(node)
        until(lambda: len(node.services.spares) == 1, "its connection")
        clients = []
        for _ in range(2):
            clients.append(context.wrap_socket(connect(node), server_hostname="localhost", suppress_ragged_eofs=False))
            clients[-1].sendall(b"GET / HTTP/1.1\r\nHost: nobody.x\r\n\r\n")
            assert clients[-1].recv(12) == b"HTTP/1.1 502"
        assert silent.recv(1) == b""
        while clients[0].recv(4096):  # to its end by TLS, which a connection that breaks does not have
            pass
        assert node.metrics.connections_given_up.count("proxy") == 2
        for sock in (silent, *clients):
            sock.close()


@covers("HTTP-62")
def test_a_body_that_stops_is_408():
    with with_timers(body_idle_s=0.1) as node:
        agent = Agent(node, "ep", lambda call: None)
        client = Client(node).send(b"POST / HTTP/1.1\r\nHost: ep.x\r\nContent-Length: 9\r\n\r\nhalf")
        assert client.response().error() == "body_timeout"
        assert isinstance(agent.calls[0].next_event(), StreamReset)


@covers("HTTP-62")
def test_a_service_that_does_not_answer_is_504():
    with with_timers(response_head_s=0.1) as node:
        Agent(node, "ep", lambda call: None)
        client = Client(node)
        assert client.get().error() == "response_timeout"
        assert client.get().error() == "response_timeout"


@covers("HTTP-62", "HTTP-65")
def test_a_response_that_stops_is_cut():
    with with_timers(response_idle_s=0.1) as node:
        Agent(node, "ep", lambda call: call.respond(200, b"part", length=9, end=False))
        assert not Client(node).get().complete


@covers("HTTP-62")
def test_a_client_that_takes_nothing_is_given_up():
    with with_timers(write_stall_s=0.3) as node:

        def handler(call):
            call.respond(200, length=64 << 20, end=False)
            while not call.stream.ended:
                if call.stream.credit:
                    call.agent.mux.send_data(call.stream, b"x" * min(65536, call.stream.credit))
                gevent.sleep(0.001)

        agent = Agent(node, "ep", handler)
        client = Client(node).send(b"GET / HTTP/1.1\r\nHost: ep.x\r\n\r\n")
        until(lambda: agent.calls and agent.calls[0].stream.ended)
        until(lambda: logged(node))
        assert logged(node)[-1]["outcome"] == "client_stalled"
        client.close()


NOBODY = b"GET / HTTP/1.1\r\nHost: nobody.x\r\n\r\n"


class NearbyClient:
    """A connection in memory, where little is on its way; reads only what it is told to."""

    def __init__(self, node) -> None:
        near, self.far = memory_pair(HubClock(), capacity_bytes=64)
        self.connection = ClientConnection(near, node.services)
        self.got, self.lost_at_last = b"", False
        self.far.set_receiver(self)
        self.far.pause_reading()
        gevent.spawn(self.connection.run)

    def received(self, data: bytes) -> None:
        self.got += data
        self.far.pause_reading()

    def ended(self) -> None:
        pass

    def drained(self) -> None:
        pass

    def lost(self, error: Exception) -> None:
        self.lost_at_last = True


@covers("HTTP-62")
def test_a_client_that_reads_no_answer_is_not_read_any_further_and_is_given_up():
    with with_timers(write_stall_s=0.3) as node:
        client = NearbyClient(node)
        client.far.write(1000 * NOBODY)
        until(lambda: client.connection.unsent_bytes)
        answered = len(logged(node))
        until(lambda: client.lost_at_last)
        assert answered == len(logged(node)) < 10
        assert not node.services.connections


@covers("HTTP-62")
def test_a_client_that_reads_its_answers_slowly_is_given_up_only_when_it_stops():
    with with_timers(write_stall_s=0.3) as node:
        client = NearbyClient(node)
        client.far.write(1000 * NOBODY)
        for _ in range(10):
            until(lambda: client.connection.unsent_bytes)
            gevent.sleep(0.1)
            client.far.resume_reading()
        assert not client.lost_at_last
        assert b" 502 " in client.got
        until(lambda: client.lost_at_last)


def test_answers_that_the_node_gives_by_itself_leave_others_their_turn(node):
    Agent(node, "ep", small())
    other = Client(node)
    assert other.get().body == b"hello"
    client = Client(node).send(2000 * NOBODY)
    until(lambda: len(logged(node)) > 1)
    assert other.get().body == b"hello"
    assert len(logged(node)) < 1000
    for _ in range(2000):
        assert client.response().status == 502


@covers("HTTP-62")
def test_an_upgrade_that_nobody_answers_is_504():
    with with_timers(response_head_s=0.1) as node:
        agent = Agent(node, "ep", lambda call: None)
        assert Client(node).send(UPGRADE).response().error() == "response_timeout"
        assert isinstance(agent.calls[0].next_event(), StreamReset)


# What is told about it.


@covers("HTTP-64")
@pytest.mark.parametrize("line", [b"Expect: foo", b"Content-Length: +3"])
def test_a_refusal_of_a_head_request_has_a_date_and_no_body(node, line):
    client = Client(node).send(b"HEAD / HTTP/1.1\r\nHost: ep.x\r\n" + line + b"\r\n\r\n")
    response = client.response(b"HEAD")
    assert response.status in (400, 417)
    assert len(response.fields(b"date")) == 1
    assert client.at_end()


@covers("HTTP-41")
@pytest.mark.parametrize("line", [b"Expect: foo", b"X: y"])
@pytest.mark.parametrize("trusted", [True, False])
def test_a_refusal_has_the_request_id_of_a_trusted_peer(line, trusted):
    with running_node(trusted_proxies=("127.0.0.1",) if trusted else ()) as node:
        client = Client(node).send(b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: mine\r\n" + line + b"\r\n\r\n")
        response = client.response()
        assert response.status in (400, 417)
        assert (response.fields(b"x-request-id") == [b"mine"]) is trusted
        assert (logged(node)[0]["request_id"] == "mine") is trusted


@covers("HTTP-76")
@pytest.mark.parametrize("trusted", [True, False])
def test_the_client_behind_a_trusted_balancer_is_the_one_that_is_logged(trusted):
    """What is refused is logged so, too: it is what one wants to block."""
    said = b"X-Forwarded-For: 6.6.6.6, 203.0.113.9\r\n"
    with running_node(trusted_proxies=("127.0.0.1",) if trusted else ()) as node:
        Agent(node, "ep", small())
        assert Client(node).get(b"/", b"ep.x", said).status == 200
        refused = Client(node).send(b"GET / HTTP/1.1\r\nHost: ep.x\r\n", said, b"Expect: x\r\n\r\n")
        assert refused.response().status == 417
        client = "203.0.113.9" if trusted else "127.0.0.1"
        assert [line["remote"] for line in logged(node)] == [client, client]
        assert {shown["remote"] for shown in node.services.recent.requests()} == {client}


def test_the_time_of_the_upstream_is_counted_from_when_it_had_the_request():
    with running_node(endpoint_wait_s=5.0) as node:
        Agent(node, "ep", small()).close()
        until(lambda: not node.routes.served_here("ep"))
        client = Client(node).send(b"GET / HTTP/1.1\r\nHost: ep.x\r\n\r\n")
        until(lambda: node.routes.waiting)
        gevent.sleep(0.2)
        Agent(node, "ep", small())
        assert client.response().body == b"hello"
        (line,) = logged(node)
        assert line["total_ms"] >= 200 > line["upstream_ms"]


@covers("HTTP-41", "HTTP-42")
def test_one_line_for_each_request_and_the_counts(node):
    Agent(node, "ep", small())
    client = Client(node)
    response = client.get(b"/a/b?token=secret", b"ep.x", b"User-Agent: me\r\nCookie: secret\r\n")
    assert response.fields(b"date")
    client.get(host=b"nobody.x")
    lines = logged(node)
    assert [line["status"] for line in lines] == [200, 502]
    assert lines[0]["path"] == "/a/b"
    assert lines[0]["request_id"] == response.fields(b"x-request-id")[0].decode()
    assert (lines[0]["endpoint"], lines[0]["outcome"], lines[0]["bytes_out"], lines[0]["user_agent"]) == (
        "ep",
        "ok",
        5,
        "me",
    )
    assert "secret" not in repr(lines)
    text = node.metrics.render().decode()
    assert 'pico_requests_total{code="200",method="GET"} 1.0' in text or 'method="GET",code="200"' in text
    assert "pico_requests_in_flight 0.0" in text


@covers("HTTP-67")
def test_while_the_node_drains_responses_say_close_and_idle_connections_end(node):
    def handler(call):
        gevent.sleep(0.1)
        call.respond(200, b"last")

    agent = Agent(node, "ep", handler)
    idle, busy = Client(node), Client(node).send(b"GET / HTTP/1.1\r\nHost: ep.x\r\n\r\n")
    assert idle.get(host=b"nobody.x").status == 502
    until(lambda: agent.calls)
    draining = gevent.spawn(node.drain)
    response = busy.response()
    assert (response.body, response.fields(b"connection")) == (b"last", [b"close"])
    assert idle.at_end()
    assert agent.goaway.get(timeout=5)
    draining.get(timeout=5)
    assert node.ready() == (False, "draining")


@covers("HTTP-67")
def test_a_connection_that_is_open_gets_one_more_request_answered_while_the_node_drains(node):
    agent = Agent(node, "ep", small())
    new, kept, silent = Client(node), Client(node), Client(node)
    assert kept.get().body == b"hello"
    until(lambda: len(node.services.connections) == 3)
    draining = gevent.spawn(node.drain)
    until(lambda: node.services.leaving)
    for client in (new, kept):
        response = client.get()
        assert (response.status, response.fields(b"connection")) == (200, [b"close"]), "the agent is still there"
    settled(lambda: not (draining.ready() or agent.goaway.ready()), "somebody who may still ask")
    assert silent.at_end()
    assert agent.goaway.get(timeout=5)
    draining.get(timeout=5)


@covers("HTTP-67")
def test_so_does_one_that_waits_at_the_door_when_it_closes(node):
    agent = Agent(node, "ep", small())
    late = blocking_socket.create_connection(node.address("proxy-door"))  # nothing else runs before the drain begins
    draining = gevent.spawn(node.drain)
    until(lambda: node.services.leaving)
    settled(lambda: not agent.goaway.ready(), "somebody who may still ask")
    with gevent.socket.socket(fileno=late.detach()) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: ep.x\r\n\r\n")
        assert client.recv(12) == b"HTTP/1.1 200"
    assert agent.goaway.get(timeout=5)
    draining.get(timeout=5)


@covers("HTTP-67")
def test_so_does_one_whose_handshake_is_not_complete(tmp_path):
    authority = Authority(tmp_path)
    context = SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(authority.ca_file)
    with running_node(proxy_tls=authority.issue("localhost")) as node:
        agent = Agent(node, "ep", small())
        client = Client(node)
        until(lambda: node.services.spares)
        draining = gevent.spawn(node.drain)
        until(lambda: node.services.leaving)
        settled(lambda: not agent.goaway.ready(), "somebody who may still ask")
        client.sock = context.wrap_socket(client.sock, server_hostname="localhost")
        assert client.get().status == 200
        assert agent.goaway.get(timeout=5)
        draining.get(timeout=5)


@covers("HTTP-67")
def test_so_does_one_whose_head_is_on_its_way(node):
    agent = Agent(node, "ep", small())
    client = Client(node).send(b"GET / HTTP/1.1\r\n")
    until(lambda: any(connection._reader.started for connection in node.services.connections), "the head")
    draining = gevent.spawn(node.drain)
    until(lambda: node.services.leaving)
    settled(lambda: not agent.goaway.ready(), "a head that is on its way")
    assert client.send(b"Host: ep.x\r\n\r\n").response().body == b"hello"
    assert agent.goaway.get(timeout=5)
    draining.get(timeout=5)


@covers("HTTP-67")
def test_a_response_that_began_before_the_drain_may_be_followed_by_one_more_request(node):
    agent = Agent(node, "ep", lambda call: call.respond(200, b"", length=4, end=False))
    once, twice = (Client(node).send(b"GET / HTTP/1.1\r\nHost: ep.x\r\n\r\n") for _ in range(2))
    heads = [Response(client.read_head(), b"", True) for client in (once, twice)]
    assert [head.fields(b"connection") for head in heads] == [[], []]
    draining = gevent.spawn(node.drain)
    until(lambda: node.services.leaving)
    settled(lambda: not agent.goaway.ready(), "responses that did not say that they are the last")
    for call in agent.calls:
        call.data(b"body", end=True)
    for client, head in zip((once, twice), heads, strict=True):
        assert client._counted(head, 4).body == b"body"
    assert not (draining.ready() or agent.goaway.ready())
    assert twice.get(host=b"nobody.x").fields(b"connection") == [b"close"]
    assert once.at_end() and twice.at_end(), "and nobody can ask again"
    draining.get(timeout=5)
    assert [line["status"] for line in logged(node)] == [200, 200, 502]


def test_what_is_not_http_is_refused_and_logged(node):
    response = Client(node).send(b"\x16\x03\x01\x02\x00\x01\x00").response()
    assert response.status == 400
    assert logged(node)[-1]["outcome"] == "bad_request"


def test_a_small_window_works_as_well():
    with running_node(rpc_limits=RpcLimits(window_bytes=1000, data_bytes_max=300)) as node:
        Agent(node, "ep", echo)
        body = b"0123456789" * 1000
        client = Client(node).send(b"POST / HTTP/1.1\r\nHost: ep.x\r\nContent-Length: 10000\r\n\r\n", body)
        assert client.response().body == body


@covers("HTTP-62")
def test_a_service_is_not_late_while_its_client_takes_nothing():
    with with_timers(response_idle_s=0.2) as node:
        sent = 8 << 20

        def handler(call):
            call.respond(200, length=sent, end=False)
            for at in range(0, sent, 65536):
                call.data(b"x" * 65536, end=at + 65536 == sent)

        Agent(node, "ep", handler)
        client = Client(node).send(b"GET / HTTP/1.1\r\nHost: ep.x\r\n\r\n")
        settled(lambda: any(one.unsent_bytes for one in node.services.connections), quiet_s=0.6)
        response = client.response()
        assert response.complete
        assert len(response.body) == sent


@covers("HTTP-62")
def test_a_client_that_takes_a_little_all_the_time_is_not_stalled():
    with with_timers(write_stall_s=0.3) as node:

        def handler(call):
            call.respond(200, length=64 << 20, end=False)
            for _ in range(1024):
                call.data(b"x" * 65536)

        Agent(node, "ep", handler)
        client = Client(node).send(b"GET / HTTP/1.1\r\nHost: ep.x\r\n\r\n")
        until(lambda: any(one.unsent_bytes for one in node.services.connections))
        for _ in range(40):
            assert client.sock.recv(65536)
            gevent.sleep(0.03)
        assert logged(node) == []
        gevent.sleep(0.1)
        until(lambda: logged(node), "the end of a client that takes nothing any more")
        assert [line["outcome"] for line in logged(node)] == ["client_stalled"]


@covers("HTTP-62")
@pytest.mark.parametrize("who", ["service", "client"])
def test_an_upgrade_is_idle_when_neither_side_says_anything(who):
    with with_timers(upgrade_idle_s=0.3) as node:

        def handler(call):
            switch(call)
            while who == "service" and len(talk) < 10:
                gevent.sleep(0.1)
                talk.append("service")
                call.data(b"x")

        talk: list[str] = []
        Agent(node, "ep", handler)
        client = Client(node).send(UPGRADE)
        client.read_head()
        while who == "client" and len(talk) < 10:
            gevent.sleep(0.1)
            talk.append("client")
            client.send(b"x")
        until(lambda: len(talk) == 10)
        assert logged(node) == []
        until(lambda: logged(node))
        assert logged(node)[0]["outcome"] == "ok"


@covers("HTTP-46", "HTTP-62")
def test_a_client_that_waits_for_100_owes_no_body():
    with with_timers(body_idle_s=0.1, response_head_s=5.0) as node:

        def handler(call):
            gevent.sleep(0.3)
            call.respond(100, length=UNKNOWN_LENGTH, end=False, reason=b"Continue")
            call.respond(200, call.body())

        Agent(node, "ep", handler)
        client = Client(node).send(
            b"POST / HTTP/1.1\r\nHost: ep.x\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
        )
        assert client.read_head().startswith(b"HTTP/1.1 100 ")
        assert client.send(b"body").response().body == b"body"
        client.send(b"POST / HTTP/1.1\r\nHost: ep.x\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
        assert client.read_head().startswith(b"HTTP/1.1 100 ")
        assert client.response().error() == "body_timeout"


@covers("HTTP-46", "HTTP-62")
def test_nothing_more_of_a_body_is_demanded_once_the_response_has_begun():
    with with_timers(body_idle_s=0.1, body_rate_grace_s=0.1) as node:

        def handler(call):
            call.respond(200, length=UNKNOWN_LENGTH, end=False)
            for _ in range(5):
                gevent.sleep(0.1)
                call.data(b"x")
            call.data(b"", end=True)

        Agent(node, "ep", handler)
        client = Client(node).send(b"POST / HTTP/1.1\r\nHost: ep.x\r\nContent-Length: 4\r\n\r\nab")
        response = client.response()
        assert (response.body, response.complete) == (b"xxxxx", True)
