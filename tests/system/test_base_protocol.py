"""The base protocol between a real program and a peer written from ``spec/rpc.md`` alone.

The peer is a plain WebSocket of another implementation, a header by ``struct`` and HTTP messages written by hand:
nothing of it comes from the product. Once it plays the agent of a real node, once the node of a real agent.
"""

from __future__ import annotations

import json
import queue
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.sync.connection import Connection
from websockets.sync.server import ServerConnection, serve

from tests.rules import covers
from tests.system.processes import HOST, Agent, Node, Programs, curl, curling, until
from tests.system.service import Service

HEADER = struct.Struct(">HQH")
HEARTBEAT, PROXY_HTTP, UNKNOWN = 1, 2, 77
RESPONSE, UNSUPPORTED = 0x8000, 0x4000
BODY_BYTES_MAX = 4 * 1024 * 1024
WAIT_S = 20.0
QUICK = ("--heartbeat=300ms", "--silence=10s")


class Message(NamedTuple):
    type: int
    id: int
    flags: int
    payload: bytes = b""

    def encode(self) -> bytes:
        return HEADER.pack(self.type, self.id, self.flags) + self.payload


def decode(data: str | bytes) -> Message:
    assert isinstance(data, bytes), "messages are binary"
    kind, id_, flags = HEADER.unpack_from(data)
    return Message(kind, id_, flags, data[HEADER.size :])


def http_response(body: bytes, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


class Peer:
    """One side of a tunnel: answers heartbeats, and sorts what else comes into queues by type."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.requests: queue.Queue[Message] = queue.Queue()
        self.answers: queue.Queue[Message] = queue.Queue()
        self.heartbeats: queue.Queue[Message] = queue.Queue()

    def run(self) -> None:
        """Until the connection ends."""
        try:
            for data in self._connection:
                self._take(decode(data))
        except ConnectionClosed:
            pass

    def _take(self, message: Message) -> None:
        if message.flags & RESPONSE:
            self.answers.put(message)
        elif message.type == HEARTBEAT:
            self.heartbeats.put(message)
            self.send(HEARTBEAT, message.id, RESPONSE)
        else:
            self.requests.put(message)

    def send(self, kind: int, id_: int, flags: int, payload: bytes = b"") -> None:
        self._connection.send(Message(kind, id_, flags, payload).encode())

    def next_request(self) -> Message:
        message = self.requests.get(timeout=WAIT_S)
        assert (message.type, message.flags) == (PROXY_HTTP, 0)
        return message

    def answer(self, request: Message, payload: bytes) -> None:
        self.send(PROXY_HTTP, request.id, RESPONSE, payload)


# -- an agent of the base protocol at a real node ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def node(shared_programs: Programs) -> Node:
    return shared_programs.node(*QUICK)


@contextmanager
def registered(node: Node, endpoint: str) -> Iterator[Peer]:
    url = f"ws://{HOST}:{node.upstream_port}/pico/v1/listener/{endpoint}"
    with connect(url, max_size=None, proxy=None) as connection:
        assert connection.subprotocol is None
        peer = Peer(connection)
        reading = threading.Thread(target=peer.run, daemon=True)
        reading.start()
        yield peer
    reading.join(WAIT_S)
    until(lambda: node.metric("pico_upstreams") == 0, "the node's notice")


@pytest.fixture
def peer(node: Node) -> Iterator[Peer]:
    with registered(node, "base") as peer:
        yield peer


def ask(node: Node, path: str, *words: str) -> list[str]:
    return ["--fail-with-body", "-H", "x-pico-endpoint: base", *words, f"{node.url}{path}"]


@covers("RPC-1", "RPC-6", "RPC-18")
def test_a_get_is_one_message_each_way(node: Node, peer: Peer) -> None:
    with curling(*ask(node, "/a/b?c=d", "-H", "X-Mine: kept")) as running:
        request = peer.next_request()
        head, _, body = request.payload.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        assert lines[0] == "GET /a/b?c=d HTTP/1.1"
        assert "X-Mine: kept" in lines
        assert body == b""
        peer.answer(request, http_response(b"from an afternoon's work\n"))
        assert running.communicate(timeout=WAIT_S)[0] == b"from an afternoon's work\n"
        assert running.returncode == 0


@covers("RPC-18")
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_post_brings_its_body_and_takes_one_back(node: Node, peer: Peer, framing: str) -> None:
    chunked = ["-H", "Transfer-Encoding: chunked"] if framing == "chunked" else []
    sent = b"0123456789" * 50_000
    posting = ask(node, "/post", *chunked, "--data-binary", sent[:100_000].decode())
    with curling(*posting) as running:
        request = peer.next_request()
        head, _, body = request.payload.partition(b"\r\n\r\n")
        assert head.startswith(b"POST /post HTTP/1.1\r\n")
        assert body == sent[:100_000], "one whole message: its length is known by now"
        peer.answer(request, http_response(body[::-1]))
        assert running.communicate(timeout=WAIT_S)[0] == sent[:100_000][::-1]


@covers("RPC-7", "RPC-19")
def test_calls_at_one_time_are_answered_out_of_order(node: Node, peer: Peer) -> None:
    with (
        curling(*ask(node, "/1")) as first,
        curling(*ask(node, "/2")) as second,
        curling(*ask(node, "/3")) as third,
    ):
        requests = [peer.next_request() for _ in range(3)]
        ids = [request.id for request in requests]
        assert ids == sorted(set(ids)), "growing, and never twice"
        for request in (requests[2], requests[0], requests[1]):
            path = request.payload.split()[1]
            peer.answer(request, http_response(b"answer to " + path))
        got = [running.communicate(timeout=WAIT_S)[0] for running in (first, second, third)]
        assert got == [b"answer to /1", b"answer to /2", b"answer to /3"]


@covers("RPC-8", "RPC-9")
def test_heartbeats_go_both_ways(node: Node, peer: Peer) -> None:
    beat = peer.heartbeats.get(timeout=WAIT_S)
    assert (beat.flags, beat.payload) == (0, b"")
    peer.send(HEARTBEAT, 4711, 0, b"a payload is ignored")
    assert peer.answers.get(timeout=WAIT_S) == Message(HEARTBEAT, 4711, RESPONSE)


@covers("RPC-3", "RPC-4", "RPC-11")
def test_unknown_types_and_answers_that_nobody_asked_for_do_no_harm(node: Node, peer: Peer) -> None:
    peer.send(UNKNOWN, 1, 0, b"from a later version")
    assert peer.answers.get(timeout=WAIT_S) == Message(UNKNOWN, 1, RESPONSE | UNSUPPORTED)
    peer.send(UNKNOWN, 2, RESPONSE)
    peer.send(HEARTBEAT, 99_999, RESPONSE)
    peer.send(HEARTBEAT, 3, 0)
    assert peer.answers.get(timeout=WAIT_S) == Message(HEARTBEAT, 3, RESPONSE), "the only thing that is answered"


@covers("RPC-16")
def test_a_peer_that_does_not_know_calls_is_not_asked_for_a_body_twice(node: Node, peer: Peer) -> None:
    with curling(*ask(node, "/")) as running:
        request = peer.next_request()
        peer.send(PROXY_HTTP, request.id, RESPONSE | UNSUPPORTED)
        body = running.communicate(timeout=WAIT_S)[0]
        assert json.loads(body)["error"]["code"] in ("overloaded", "service_unreachable")


@covers("RPC-20")
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_request_body_over_the_limit_is_413_and_never_sent(node: Node, peer: Peer, framing: str) -> None:
    chunked = ["-H", "Transfer-Encoding: chunked"] if framing == "chunked" else []
    body = bytes(BODY_BYTES_MAX + 1)
    done = curl(*ask(node, "/", *chunked, "--data-binary", "@-", "-H", "Expect:", "-w", "%{http_code}"), input_=body)
    assert done.stdout.endswith(b"413"), done
    assert b"body_too_large" in done.stdout
    assert peer.requests.empty()
    with curling(*ask(node, "/", "-X", "POST", "--data-binary", "@-"), input_=body[:-1]) as running:
        request = peer.next_request()
        assert request.payload.endswith(body[:-1])
        peer.answer(request, http_response(b"as much as fits"))
        assert running.communicate(timeout=WAIT_S)[0] == b"as much as fits"


@covers("RPC-21")
@pytest.mark.parametrize(
    "payload,code",
    [
        (b"not HTTP at all", "service_malformed"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfour", "service_malformed"),
        (http_response(b"and") + b"more", "service_malformed"),
        (http_response(bytes(BODY_BYTES_MAX + 1)), "response_too_large"),
    ],
    ids=["no HTTP", "too short", "too much", "over the limit"],
)
def test_a_response_that_is_none_ends_its_own_call_and_nothing_else(
    node: Node, peer: Peer, payload: bytes, code: str
) -> None:
    with curling(*ask(node, "/bad", "-w", "%{http_code}")) as bad, curling(*ask(node, "/good")) as good:
        requests = {request.payload.split()[1]: request for request in (peer.next_request(), peer.next_request())}
        peer.answer(requests[b"/bad"], payload)
        body = bad.communicate(timeout=WAIT_S)[0]
        assert body.endswith(b"502")
        assert code.encode() in body
        peer.answer(requests[b"/good"], http_response(b"still here"))
        assert good.communicate(timeout=WAIT_S)[0] == b"still here"


@covers("RPC-13")
def test_an_answer_that_comes_too_late_is_dropped(node: Node, peer: Peer) -> None:
    with socket.create_connection((HOST, node.proxy_port), timeout=WAIT_S) as sock:
        sock.sendall(b"GET /impatient HTTP/1.1\r\nHost: base.test\r\n\r\n")
        request = peer.next_request()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset: nobody is waiting
    until(lambda: node.metric("pico_streams") == 0, "the end of the call")
    peer.answer(request, http_response(b"too late"))
    peer.send(HEARTBEAT, 5, 0)
    assert peer.answers.get(timeout=WAIT_S).id == 5


@covers("RPC-2")
def test_a_message_without_a_header_ends_the_connection_and_no_other(node: Node, peer: Peer) -> None:
    with registered_twice(node) as other:
        other.send(b"short")
        Peer(other).run()
        assert other.close_code == 1002
    peer.send(HEARTBEAT, 6, 0)
    assert peer.answers.get(timeout=WAIT_S).id == 6


@contextmanager
def registered_twice(node: Node) -> Iterator[Connection]:
    url = f"ws://{HOST}:{node.upstream_port}/pico/v1/listener/base"
    with connect(url, max_size=None, proxy=None) as connection:
        yield connection


@pytest.mark.parametrize("path,status", [("/pico/v1/listener/-no-", 400), ("/elsewhere", 404)])
def test_a_door_says_why_it_refuses(node: Node, path: str, status: int) -> None:
    with pytest.raises(InvalidStatus) as refused, connect(f"ws://{HOST}:{node.upstream_port}{path}", proxy=None):
        pass
    assert refused.value.response.status_code == status
    assert refused.value.response.headers["x-pico-error"]


# -- a real agent at a server of the base protocol --------------------------------------------------------------------


class BaseNode:
    """A server that takes any agent and speaks the base protocol with it."""

    def __init__(self) -> None:
        self._server = serve(self._serve, HOST, 0, max_size=None)
        self.port: int = self._server.socket.getsockname()[1]
        self.arrived: queue.Queue[tuple[str, Peer]] = queue.Queue()
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def _serve(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        peer = Peer(connection)
        self.arrived.put((connection.request.path, peer))
        peer.run()

    def stop(self) -> None:
        self._server.shutdown()


@pytest.fixture
def base_node() -> Iterator[BaseNode]:
    serving = BaseNode()
    yield serving
    serving.stop()


@pytest.fixture
def agent(programs: Programs, base_node: BaseNode, service: Service) -> Agent:
    return programs.agent(f"http://{HOST}:{base_node.port}", "web", service.port, *QUICK).registered()


@pytest.fixture
def tunnel(base_node: BaseNode, agent: Agent) -> Peer:
    path, peer = base_node.arrived.get(timeout=WAIT_S)
    assert path == "/pico/v1/listener/web"
    return peer


def call(tunnel: Peer, id_: int, request: bytes) -> bytes:
    tunnel.send(PROXY_HTTP, id_, 0, request)
    return answer_to(tunnel, id_)


def answer_to(tunnel: Peer, id_: int) -> bytes:
    answer = tunnel.answers.get(timeout=WAIT_S)
    assert answer[:3] == (PROXY_HTTP, id_, RESPONSE)
    return answer.payload


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: web.test\r\n\r\n".encode()


@covers("RPC-18")
def test_an_agent_answers_whole_requests_with_whole_responses(tunnel: Peer) -> None:
    answer = call(tunnel, 1, get("/hello"))
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"Content-Length: 6\r\n" in answer
    assert answer.endswith(b"\r\n\r\nhello\n")
    body = b"there and back"
    answer = call(tunnel, 2, b"POST /echo HTTP/1.1\r\nHost: web.test\r\nContent-Length: 14\r\n\r\n" + body)
    assert answer.endswith(b"\r\n\r\n" + body)
    answer = call(tunnel, 3, get("/trailers"))
    assert answer.partition(b"\r\n\r\n")[2].startswith(b"4\r\nbody\r\n0\r\n") or answer.endswith(b"\r\n\r\nbody")


@covers("RPC-19")
def test_an_agent_answers_what_is_ready_first(tunnel: Peer, service: Service) -> None:
    tunnel.send(PROXY_HTTP, 1, 0, get("/wait"))
    service.until_waiting()
    assert call(tunnel, 2, get("/hello")).endswith(b"hello\n")
    service.permit()
    assert answer_to(tunnel, 1).endswith(b"it was worth it\n")


@covers("RPC-3", "RPC-8", "RPC-9")
def test_an_agent_sends_and_answers_heartbeats_and_does_not_know_what_is_new(tunnel: Peer) -> None:
    assert tunnel.heartbeats.get(timeout=WAIT_S).payload == b""
    tunnel.send(HEARTBEAT, 1, 0)
    assert tunnel.answers.get(timeout=WAIT_S) == Message(HEARTBEAT, 1, RESPONSE)
    tunnel.send(UNKNOWN, 2, 0, b"new")
    assert tunnel.answers.get(timeout=WAIT_S) == Message(UNKNOWN, 2, RESPONSE | UNSUPPORTED)


@covers("RPC-22")
def test_an_agent_answers_400_to_what_is_no_request(tunnel: Peer) -> None:
    assert call(tunnel, 1, b"GET / HTTP/1.1\r\n").startswith(b"HTTP/1.1 400 ")
    assert call(tunnel, 2, get("/hello")).endswith(b"hello\n")


@covers("RPC-20")
def test_an_agent_does_not_send_a_response_over_the_limit(
    tunnel: Peer, service: Service, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("file") / "large"
    path.write_bytes(bytes(BODY_BYTES_MAX + 1))
    service.serve_file(path)
    answer = call(tunnel, 1, get("/file"))
    assert answer.startswith(b"HTTP/1.1 502 ")
    assert b"response_too_large" in answer
    path.write_bytes(bytes(BODY_BYTES_MAX))
    assert len(call(tunnel, 2, get("/file")).partition(b"\r\n\r\n")[2]) == BODY_BYTES_MAX


@covers("RPC-24")
def test_an_agent_without_its_service_says_so(programs: Programs, base_node: BaseNode) -> None:
    programs.agent(f"http://{HOST}:{base_node.port}", "nothing", 1).registered()
    tunnel = base_node.arrived.get(timeout=WAIT_S)[1]
    answer = call(tunnel, 1, get("/"))
    assert answer.startswith(b"HTTP/1.1 502 ")
    assert b"service_unreachable" in answer
