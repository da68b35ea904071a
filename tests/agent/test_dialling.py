"""One dial with its handshake."""

from __future__ import annotations

import socket
import time
from typing import Any

import pytest

from pico.agent.dialling import Connected, Server, connect, server_of
from pico.config import HttpLimits
from pico.errors import ConfigError
from pico.protocol.tunnel import Refusal
from tests.agent.harness import accept_of, fields_of, read_head, serving
from tests.node.harness import running_node
from tests.rules import covers

GOOD = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Protocol": "pico.stream.v1"}


def dialled(handle: Any, timeout_s: float = 5.0) -> Any:
    with serving(handle) as server:
        address = Server("127.0.0.1", server.server_port, False)
        return connect(address, "web", timeout_s=timeout_s, tls=None, limits=HttpLimits())


def answering(status: str, fields: dict[str, str], behind: bytes = b"", pieces: int = 1 << 20) -> Any:
    """Answers a handshake; ``{accept}`` in a value stands for the right one."""

    def handle(sock: Any, _: Any) -> None:
        accept = accept_of(fields_of(read_head(sock)[0])["sec-websocket-key"])
        lines = [f"HTTP/1.1 {status}", *(f"{name}: {value.format(accept=accept)}" for name, value in fields.items())]
        answer = "\r\n".join([*lines, "", ""]).encode() + behind
        for start in range(0, len(answer), pieces):
            sock.sendall(answer[start : start + pieces])
        sock.recv(1)

    return handle


def accepting(**changes: str) -> dict[str, str]:
    fields = {**GOOD, "Sec-WebSocket-Accept": "{accept}"}
    for name, value in changes.items():
        fields.pop(name.replace("_", "-"), None)
        if value:
            fields[name.replace("_", "-")] = value
    return fields


@covers("TUN-1", "TUN-6")
def test_the_agent_asks_as_the_specification_says() -> None:
    heads: list[bytes] = []

    def handle(sock: Any, _: Any) -> None:
        heads.append(read_head(sock)[0])

    for _ in range(2):
        dialled(handle)
    fields = fields_of(heads[0])
    assert heads[0].startswith(b"GET /pico/v1/listener/web HTTP/1.1\r\n")
    assert fields["host"].startswith("127.0.0.1:")
    assert (fields["upgrade"], fields["connection"]) == ("websocket", "Upgrade")
    assert (fields["sec-websocket-version"], fields["sec-websocket-protocol"]) == ("13", "pico.stream.v1")
    assert fields["sec-websocket-key"] != fields_of(heads[1])["sec-websocket-key"]


@covers("TUN-6", "TUN-9")
@pytest.mark.parametrize(
    "fields, streaming",
    [(accepting(), True), (accepting(Sec_WebSocket_Protocol=""), False), (accepting(Upgrade="WebSocket"), True)],
)
def test_an_acceptance_is_with_or_without_the_streaming_extension(fields: dict[str, str], streaming: bool) -> None:
    outcome = dialled(answering("101 Switching Protocols", fields))
    assert isinstance(outcome, Connected)
    assert outcome.streaming is streaming
    assert outcome.leftover == b""
    outcome.stream.abort()


@covers("TUN-34")
@pytest.mark.parametrize(
    "named, node",
    [
        ({"x-pico-node": "node-7"}, "node-7"),
        ({"X-Pico-Node": "node-7"}, "node-7"),
        ({"x-pico-node": "no node"}, ""),
        ({"x-pico-node": "a", "X-Pico-Node": "b"}, ""),
        ({}, ""),
    ],
)
def test_an_acceptance_says_at_which_node_the_tunnel_is(named: dict[str, str], node: str) -> None:
    outcome = dialled(answering("101 Switching Protocols", accepting() | named))
    assert isinstance(outcome, Connected)
    assert outcome.node == node
    outcome.stream.abort()


@covers("TUN-34")
def test_a_real_door_is_understood_when_it_says_which_node_it_is() -> None:
    with running_node("node-7") as node:
        address = Server("127.0.0.1", node.address("upstream-door")[1], False)
        outcome = connect(address, "web", timeout_s=5.0, tls=None, limits=HttpLimits())
        assert isinstance(outcome, Connected)
        assert outcome.node == "node-7"
        outcome.stream.abort()


@covers("TUN-10")
@pytest.mark.parametrize("pieces", [1 << 20, 50, 7])
def test_bytes_behind_the_handshake_belong_to_the_tunnel(pieces: int) -> None:
    outcome = dialled(answering("101 Switching Protocols", accepting(), b"\x82\x03abc", pieces))
    assert isinstance(outcome, Connected)
    late = b""
    if len(outcome.leftover) < 5:
        from pico.transport.blocking_reader import BlockingReader

        reader = BlockingReader(outcome.stream)
        while len(outcome.leftover + late) < 5:
            late += reader.receive(5)
    assert outcome.leftover + late == b"\x82\x03abc"
    outcome.stream.abort()


@covers("TUN-9")
@pytest.mark.parametrize(
    "fields",
    [
        accepting(Sec_WebSocket_Accept=""),
        accepting(Sec_WebSocket_Accept="AAAAAAAAAAAAAAAAAAAAAAAAAAA="),
        accepting(Sec_WebSocket_Protocol="chat"),
        accepting(Sec_WebSocket_Protocol="pico.stream.v1, chat"),
        accepting(Sec_WebSocket_Extensions="permessage-deflate"),
        accepting(Upgrade=""),
        accepting(Upgrade="h2c"),
        accepting(Connection=""),
        accepting(Connection="keep-alive"),
    ],
)
def test_any_other_101_accepts_nothing(fields: dict[str, str]) -> None:
    outcome = dialled(answering("101 Switching Protocols", fields))
    assert isinstance(outcome, str)
    assert outcome


@covers("TUN-26", "TUN-27", "TUN-8")
def test_a_refusal_of_a_node_says_why() -> None:
    body = b'{"error": {"code": "invalid_endpoint", "message": "a label ends with a\\nhyphen"}}'
    fields = {"Content-Type": "application/json", "Content-Length": str(len(body)), "x-pico-error": "invalid_endpoint"}
    outcome = dialled(answering("400 Bad Request", fields, body))
    assert outcome == Refusal(400, "a label ends with a?hyphen", None, by_node=True, code="invalid_endpoint")


@covers("TUN-27")
@pytest.mark.parametrize(
    "body",
    [
        b"<html>no such host</html>",
        b"{}",
        b'{"error": "not_found"}',
        b'{"error": {"message": 7, "code": ""}}',
        b"[" * 5000,
    ],
)
def test_a_refusal_of_somebody_else_is_told_apart(body: bytes) -> None:
    outcome = dialled(answering("404 Not Found", {"Content-Length": str(len(body))}, body))
    assert outcome == Refusal(404, "Not Found", None, by_node=False)


@covers("TUN-25")
@pytest.mark.parametrize("value, seconds", [("7", 7.0), ("soon", None)])
def test_a_refusal_may_ask_for_patience(value: str, seconds: float | None) -> None:
    outcome = dialled(answering("503 Service Unavailable", {"Retry-After": value, "Content-Length": "0"}))
    assert outcome == Refusal(503, "Service Unavailable", seconds)


def test_a_refusal_whose_body_never_comes_is_known_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pico.agent.dialling.REFUSAL_S", 0.05)
    outcome = dialled(answering("500 Oops", {"Content-Length": "100"}, b"half"))
    assert outcome == Refusal(500, "Oops")


def test_a_refusal_without_end_is_not_read_to_its_end() -> None:
    outcome = dialled(answering("500 Oops", {"Content-Length": "10000000"}, b"x" * 100_000))
    assert outcome == Refusal(500, "Oops")


@covers("TUN-11")
def test_a_server_that_does_not_answer_is_given_up_in_time() -> None:
    began = time.monotonic()
    outcome = dialled(lambda sock, _: sock.recv(65536) and sock.recv(1), timeout_s=0.1)
    assert isinstance(outcome, str)
    assert time.monotonic() - began < 2.0


@covers("TUN-11")
def test_an_answer_without_end_is_not_collected() -> None:
    def handle(sock: Any, _: Any) -> None:
        read_head(sock)
        while True:
            sock.sendall(b"X-Filler: " + b"a" * 1000 + b"\r\n")

    def begun(sock: Any, address: Any) -> None:
        sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\n")
        handle(sock, address)

    outcome = dialled(begun)
    assert isinstance(outcome, str)
    assert "longer" in outcome or "more than" in outcome


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 101 Switch", b"SSH-2.0-x\r\n\r\n"])
def test_a_server_that_is_none_is_a_failure_with_a_sentence(answer: bytes) -> None:
    def handle(sock: Any, _: Any) -> None:
        read_head(sock)
        sock.sendall(answer)

    outcome = dialled(handle)
    assert isinstance(outcome, str)
    assert outcome


def test_a_port_where_nobody_listens_is_a_failure_with_a_sentence() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    outcome = connect(Server("127.0.0.1", port, False), "web", timeout_s=1.0, tls=None, limits=HttpLimits())
    assert isinstance(outcome, str)
    assert "refused" in outcome


@pytest.mark.parametrize(
    "url, server, shown",
    [
        ("http://node:8002", Server("node", 8002, False), "node:8002"),
        ("https://node.example", Server("node.example", 443, True), "node.example:443"),
        ("http://[::1]:8002", Server("::1", 8002, False), "[::1]:8002"),
        ("http://node", Server("node", 80, False), "node:80"),
    ],
)
def test_a_server_is_a_url(url: str, server: Server, shown: str) -> None:
    assert server_of(url) == server
    assert str(server) == shown


@pytest.mark.parametrize("url", ["node:8002", "ftp://node", "http://", "http://node:99999", "http://node:x"])
def test_what_is_no_url_is_no_server(url: str) -> None:
    with pytest.raises(ConfigError):
        server_of(url)
