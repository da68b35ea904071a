"""The upstream door on real sockets: registrations, refusals, limits, and what a hostile agent can do."""

from __future__ import annotations

import json
import os
import struct

import gevent
import pytest
from gevent import socket
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Ping, Pong, Request

from pico.actors.spares import SPARED_S
from pico.config import RpcLimits, WebSocketLimits
from pico.node.proxy_protocol import Preface
from pico.protocol.rpc import ResetCode, StreamReset
from pico.protocol.rpc.messages import END, HEADER, RESPONSE
from tests.actors.census import found_by_the_collector
from tests.node.harness import (
    Agent,
    Client,
    connect,
    handshake,
    read_head,
    running_node,
    send_until_blocked,
    settled,
    socket_pair,
    until,
)
from tests.rules import covers


@pytest.fixture
def node():
    with running_node() as node:
        yield node


class Peer:
    """An agent built on wsproto, which knows nothing of Pico."""

    def __init__(self, node, endpoint: str = "ep", subprotocols=("pico.stream.v1",)) -> None:
        node.testers.append(self)
        self.sock = connect(node, "upstream-door")
        self.ws = WSConnection(ConnectionType.CLIENT)
        target = f"/pico/v1/listener/{endpoint}"
        self.sock.sendall(self.ws.send(Request(host="node", target=target, subprotocols=list(subprotocols))))
        self.inbox: list = []
        accepted = self.next(AcceptConnection)
        self.subprotocol = accepted.subprotocol
        until(lambda: node.routes.served(endpoint))

    def send(self, event) -> None:
        self.sock.sendall(self.ws.send(event))

    def next(self, kind):
        """The next event of this kind; others are left out."""
        while True:
            for event in self.inbox:
                if isinstance(event, kind):
                    self.inbox.remove(event)
                    return event
            data = self.sock.recv(65536)
            self.ws.receive_data(data or None)
            self.inbox.extend(self.ws.events())
            assert data or self.inbox, "the node closed without a word"

    def close(self) -> None:
        self.sock.close()


@covers("TUN-6")
def test_the_extension_is_accepted_when_it_is_offered_and_only_then(node):
    assert Peer(node, "a").subprotocol == "pico.stream.v1"
    assert Peer(node, "b", ["other", "pico.stream.v1"]).subprotocol == "pico.stream.v1"
    assert Peer(node, "c", ["pico.stream.v10"]).subprotocol is None
    assert Peer(node, "d", []).subprotocol is None


REFUSALS = [
    (handshake("Bad_Name"), 400, "invalid_endpoint"),
    (handshake("-a"), 400, "invalid_endpoint"),
    (handshake("a" * 64), 400, "invalid_endpoint"),
    (handshake("ep", Sec_WebSocket_Version="8"), 426, "version_not_supported"),
    (handshake("ep", Sec_WebSocket_Key=""), 400, "bad_request"),
    (handshake("ep", Sec_WebSocket_Key="short"), 400, "bad_request"),
    (handshake("ep", Connection="keep-alive, upgraded"), 400, "bad_request"),
    (handshake("ep", Upgrade="websockets"), 400, "bad_request"),
    (handshake("ep").replace(b"HTTP/1.1", b"HTTP/1.0"), 400, "bad_request"),
    (handshake("ep").replace(b"GET", b"POST", 1), 400, "bad_request"),
    (handshake("ep").replace(b"/pico/v1/listener", b"/other", 1), 404, "not_found"),
    (b"nonsense\r\n\r\n", 400, "bad_request"),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 100_000 + b"\r\n\r\n", 431, "bad_request"),
]


@covers("TUN-2", "TUN-3", "TUN-4", "TUN-5", "TUN-8")
@pytest.mark.parametrize("request_bytes, status, code", REFUSALS)
def test_a_handshake_that_is_not_a_registration_is_refused_with_its_reason(node, request_bytes, status, code):
    sock = connect(node, "upstream-door")
    try:
        sock.sendall(request_bytes)
        head, body = read_head(sock)
        assert int(head.split()[1]) == status
        while piece := sock.recv(65536):
            body += piece
        error = json.loads(body)["error"]
        assert error["message"]
        if status != 431:
            assert error["code"] == code
        if status == 426:
            assert b"Sec-WebSocket-Version: 13\r\n" in head
        assert f"x-pico-error: {error['code']}".encode() in head
    finally:
        sock.close()
    assert node.upstream_door.upstreams == 0


@covers("TUN-3")
def test_the_endpoint_id_is_lower_cased(node):
    Agent(node, "EP", lambda call: call.respond(200, b"it is me"))
    assert Client(node).get(host=b"ep.x").body == b"it is me"


@covers("TUN-7")
@pytest.mark.parametrize("limit", ["upstreams_max", "upstreams_per_endpoint_max", "upstreams_per_address_max"])
def test_at_a_limit_the_door_answers_503_and_lets_in_the_next_after_one_has_left(limit):
    with running_node(**{limit: 1}) as node:
        agent = Agent(node, "ep")
        sock = connect(node, "upstream-door")
        sock.sendall(handshake("ep"))
        head, body = read_head(sock)
        while piece := sock.recv(1000):
            body += piece
        sock.close()
        assert json.loads(body)["error"]["message"].startswith("1 upstream is connected ")
        assert head.startswith(b"HTTP/1.1 503 ")
        assert b"Retry-After: " in head
        agent.kill()
        until(lambda: node.upstream_door.upstreams == 0)
        Agent(node, "ep")


@covers("TUN-7")
def test_a_door_that_leaves_refuses_a_handshake_under_way_and_asks_for_no_patience(node):
    sock = connect(node, "upstream-door")
    sock.sendall(handshake("ep")[:-2])
    until(lambda: node.metrics.connections.count("upstream") == 1)
    node.drain()
    sock.sendall(handshake("ep")[-2:])
    head, body = read_head(sock)
    while piece := sock.recv(1000):
        body += piece
    sock.close()
    assert head.startswith(b"HTTP/1.1 503 ")
    assert json.loads(body)["error"]["code"] == "draining"
    assert b"retry-after" not in head.lower()


@covers("TUN-45")
def test_a_tunnel_of_the_base_protocol_is_closed_when_it_is_idle_while_the_node_drains(node):
    Agent(node, "stays", lambda call: None)
    idle, busy = Agent(node, "idle", streaming=False), Agent(node, "busy", lambda call: None, streaming=False)
    clients = [Client(node).send(b"GET / HTTP/1.1\r\nHost: %s.x\r\n\r\n" % name) for name in (b"stays", b"busy")]
    until(lambda: node.metrics.requests_in_flight == 2 and busy.calls)
    draining = gevent.spawn(node.drain)
    assert "1001" in idle.ended.get(timeout=5)
    settled(lambda: not busy.ended.ready(), "what has a request")
    busy.calls[0].respond(200, b"the last")
    assert clients[1].response().body == b"the last"
    assert "1001" in busy.ended.get(timeout=5)
    assert not draining.ready()


@covers("TUN-45")
def test_one_whose_client_has_gone_is_idle_too(node):
    busy = Agent(node, "busy", lambda call: None, streaming=False)
    client = Client(node).send(b"GET / HTTP/1.1\r\nHost: busy.x\r\n\r\n")
    until(lambda: busy.calls)
    gevent.spawn(node.drain)
    until(lambda: node.upstream_door.draining)
    settled(lambda: not busy.ended.ready(), "what has a request")
    client.reset()
    assert "1001" in busy.ended.get(timeout=2), "long before the next heartbeat"


@covers("TUN-11")
def test_a_handshake_that_is_not_complete_in_time_is_dropped():
    with running_node(handshake_s=0.1) as node:
        sock = connect(node, "upstream-door")
        sock.sendall(b"GET /pico")
        assert sock.recv(100) == b""
        sock.close()


@covers("TUN-44")
def test_at_a_full_door_the_oldest_handshake_makes_room_and_no_tunnel(monkeypatch):
    monkeypatch.setattr("pico.node.node.HANDSHAKES_MAX", 3)
    with running_node() as node:
        first = Agent(node, "first")
        begun = [connect(node, "upstream-door") for _ in range(3)]
        begun[1].sendall(b"GET /pico")
        until(lambda: node.metrics.connections.count("upstream") == 4, "all of them")
        settled(lambda: node.metrics.connections_given_up.count("upstream") == 0, "nobody for nobody", SPARED_S + 0.2)
        for number in (1, 2):
            Agent(node, f"ep-{number}")
            assert begun[number - 1].recv(1) == b"", "without an answer"
            assert node.metrics.connections_given_up.count("upstream") == number
            assert node.metrics.handshakes.count("lost") == number
            begun.append(connect(node, "upstream-door"))
            came = 4 + 2 * number
            until(lambda came=came: node.metrics.connections.count("upstream") == came, "a full door again")
        assert not first.ended.ready()
        for sock in begun:
            sock.close()


def test_what_was_given_up_as_its_handshake_became_complete_is_no_upstream(node):
    near, far = socket_pair()
    near.give_up()
    node.upstream_door.handle(near, Preface(handshake("ep")))
    assert node.upstream_door.upstreams == 0
    assert node.metrics.handshakes.count("lost") == 1
    far.close()


@pytest.mark.parametrize("begun", [b"", b"GET /pico"])
def test_a_connection_that_ends_before_its_handshake_is_let_go(node, begun):
    sock = connect(node, "upstream-door")
    sock.sendall(begun)
    sock.close()
    until(lambda: node.metrics.handshakes.count("lost") == 1)


@covers("TUN-10")
def test_bytes_right_behind_the_handshake_belong_to_the_tunnel(node):
    sock = connect(node, "upstream-door")
    heartbeat = HEADER.pack(1, 5, 0)
    mask = b"\0\0\0\0"
    sock.sendall(handshake("ep") + bytes((0x82, 0x80 | len(heartbeat))) + mask + heartbeat)
    _, rest = read_head(sock)
    while len(rest) < 14:
        rest += sock.recv(100)
    assert rest == bytes((0x82, 12)) + HEADER.pack(1, 5, RESPONSE)
    sock.close()


def raw_frame(opcode: int, payload: bytes, *, fin: bool = True, masked: bool = True, reserved: int = 0) -> bytes:
    first = (0x80 if fin else 0) | reserved | opcode
    size = len(payload)
    header = (
        bytes((first, (0x80 if masked else 0) | size))
        if size < 126
        else (bytes((first, (0x80 if masked else 0) | 126)) + struct.pack(">H", size))
    )
    return header + (b"\0\0\0\0" if masked else b"") + payload


VIOLATIONS = [
    ("a frame without a mask", raw_frame(2, HEADER.pack(1, 1, 0), masked=False), 1002),
    ("a text message", raw_frame(1, b"hello, this is text"), 1002),
    ("a message shorter than the header", raw_frame(2, b"short"), 1002),
    ("a reserved bit", raw_frame(2, HEADER.pack(1, 1, 0), reserved=0x40), 1002),
    ("an unknown opcode", raw_frame(3, b""), 1002),
    ("a ping in fragments", raw_frame(9, b"", fin=False), 1002),
    ("a continuation of nothing", raw_frame(0, b"x"), 1002),
    ("a message that is too large", bytes((0x82, 0xFF)) + struct.pack(">Q", 1 << 40) + b"\0\0\0\0", 1009),
    ("data for a stream that was never opened", raw_frame(2, HEADER.pack(4, 9, RESPONSE | END)), 1002),
    ("credit of nothing", raw_frame(2, HEADER.pack(7, 9, RESPONSE) + b"\0\0\0\0"), 1002),
]


@covers("TUN-12", "TUN-13", "TUN-14", "TUN-15", "RPC-1", "RPC-2")
@pytest.mark.parametrize("what, frame, code", VIOLATIONS, ids=[one[0] for one in VIOLATIONS])
def test_a_violation_ends_the_tunnel_with_its_code_and_nothing_else(node, what, frame, code):
    bystander = Agent(node, "other", lambda call: call.respond(200, b"fine"))
    peer = Peer(node)
    peer.sock.sendall(frame)
    assert peer.next(CloseConnection).code == code
    until(lambda: node.upstream_door.upstreams == 1)
    assert Client(node).get(host=b"other.x").body == b"fine"
    assert not bystander.ended.ready()
    text = node.metrics.render().decode()
    assert (
        sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith("pico_protocol_errors_total")) == 1
    )


@covers("TUN-17")
def test_a_ping_is_answered_with_its_payload(node):
    peer = Peer(node)
    peer.send(Ping(payload=b"are you there"))
    assert peer.next(Pong).payload == b"are you there"


@covers("TUN-18")
def test_a_close_is_answered_and_ends_the_upstream(node):
    peer = Peer(node)
    peer.send(CloseConnection(code=1000))
    assert peer.next(CloseConnection).code == 1000
    until(lambda: node.upstream_door.upstreams == 0)


@covers("TUN-18")
def test_a_peer_that_does_not_answer_a_close_is_dropped():
    with running_node(websocket_limits=WebSocketLimits(close_s=0.1)) as node:
        peer = Peer(node)
        node.upstream_door.close("bye")
        assert peer.next(CloseConnection).code == 1001
        until(lambda: node.upstream_door.upstreams == 0)


@covers("RPC-8", "RPC-9", "RPC-10")
def test_heartbeats_are_asked_and_answered_and_a_silent_agent_is_given_up():
    with running_node(rpc_limits=RpcLimits(heartbeat_s=0.1, silence_s=1.0)) as node:
        peer = Peer(node)
        for _ in range(12):
            beat = bytes(peer.next(BytesMessage).data)
            kind, id_, flags = HEADER.unpack(beat)
            assert (kind, flags) == (1, 0)
            peer.send(BytesMessage(HEADER.pack(1, id_, RESPONSE)))
        assert node.upstream_door.upstreams == 1
        until(lambda: node.upstream_door.upstreams == 0)


def test_an_agent_may_not_open_streams(node):
    from pico.protocol.http.values import RequestHead

    agent = Agent(node, "ep")
    events: list = []
    agent.mux.open(RequestHead(b"GET", b"/", b"", 0, b""), b"", True, events.append)
    until(lambda: events)
    (event,) = events
    assert isinstance(event, StreamReset)
    assert (event.code, event.untouched) == (ResetCode.REFUSED, True)


def test_random_bytes_after_the_handshake_harm_nobody_else(node):
    bystander = Agent(node, "other", lambda call: call.respond(200, b"fine"))
    for _ in range(20):
        sock = connect(node, "upstream-door")
        sock.sendall(handshake("ep"))
        read_head(sock)
        sock.sendall(os.urandom(500))
        sock.close()
    until(lambda: node.upstream_door.upstreams == 1)
    assert Client(node).get(host=b"other.x").body == b"fine"
    assert not bystander.ended.ready()


@covers("RPC-47", "TUN-17")
@pytest.mark.parametrize("frame", [raw_frame(2, HEADER.pack(1, 1, 0)), raw_frame(9, b"x" * 125)])
def test_a_flood_of_questions_by_an_agent_that_does_not_read_is_bounded(node, frame):
    peer = Peer(node)
    peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    with gevent.Timeout(3.0, False):
        send_until_blocked(peer.sock, frame * 500)
    (upstream,) = node.routes._balancers["ep"].candidates
    assert upstream.multiplexer.engine.snapshot().control_bytes < 256 * 1024
    assert upstream.multiplexer._stream.unsent_bytes < 512 * 1024
    gevent.sleep(0)


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize("ends", ["agent", "node"])
def test_of_a_tunnel_that_has_ended_nothing_waits_for_the_garbage_collector(node, streaming, ends):
    def live_and_end() -> None:
        sock = connect(node, "upstream-door")
        sock.sendall(handshake("ep", streaming=streaming))
        assert read_head(sock)[0].startswith(b"HTTP/1.1 101")
        until(lambda: node.routes.served("ep"))
        if ends == "node":
            node.upstream_door.close("the test is over")
            sock.recv(100)
        sock.close()
        until(lambda: not node.upstream_door.upstreams)

    live_and_end()  # what is made once is made
    with found_by_the_collector() as found:
        live_and_end()
    assert not found
