"""Ordinary clients through a node and an agent: curl, requests, and raw sockets for what curl cannot send."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import pytest
import requests
from websockets.sync.client import connect
from websockets.sync.server import ServerConnection, serve

from tests.system.processes import CURL_S, HOST, Node, Programs, curl, curling
from tests.system.service import Service

ENDPOINT = "my-endpoint"


@pytest.fixture(scope="module")
def node(shared_programs: Programs, service: Service) -> Node:
    node = shared_programs.node()
    shared_programs.agent(node.upstream_url, ENDPOINT, service.port).registered()
    return node


NAMING = {
    "header": ["-H", f"x-pico-endpoint: {ENDPOINT}", "http://127.0.0.1:PORT/fields?a=1&a=2"],
    "header in capitals": ["-H", "X-Pico-Endpoint: My-Endpoint", "http://localhost:PORT/fields?a=1&a=2"],
    "host of the url": [f"http://{ENDPOINT}.localhost:PORT/fields?a=1&a=2"],
    "host field": ["-H", f"Host: {ENDPOINT}.example.com", "http://127.0.0.1:PORT/fields?a=1&a=2"],
    "resolved name": [
        "--resolve", f"{ENDPOINT}.pico.test:PORT:127.0.0.1", f"http://{ENDPOINT}.pico.test:PORT/fields?a=1&a=2",
    ],
    "absolute form, as to a proxy": ["-x", "http://127.0.0.1:PORT", f"http://{ENDPOINT}.test/fields?a=1&a=2"],
    "HTTP/1.0": ["-0", "-H", f"x-pico-endpoint: {ENDPOINT}", "http://127.0.0.1:PORT/fields?a=1&a=2"],
}  # fmt: skip


@pytest.mark.parametrize("words", NAMING.values(), ids=NAMING.keys())
def test_curl_names_the_endpoint_in_each_way(node: Node, words: list[str]) -> None:
    noproxy = ["--noproxy", ""] if "-x" in words else []
    done = curl("--fail", *noproxy, *(word.replace("PORT", str(node.proxy_port)) for word in words))
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    fields = {name.lower(): value for name, value in seen["fields"]}
    assert seen["path"] == "/fields?a=1&a=2"
    assert fields["x-forwarded-for"] == HOST
    assert fields["x-forwarded-proto"] == "http"
    assert "x-pico-endpoint" not in fields


@pytest.mark.parametrize(
    "words,status,code",
    [
        (["http://127.0.0.1:PORT/"], 400, "endpoint_missing"),
        (["-H", "x-pico-endpoint: -bad-", "http://127.0.0.1:PORT/"], 400, "invalid_endpoint"),
        (["http://nobody.localhost:PORT/"], 502, "endpoint_not_found"),
    ],
)
def test_curl_is_told_what_is_wrong(node: Node, words: list[str], status: int, code: str) -> None:
    done = curl("-w", "\n%{http_code}", *(word.replace("PORT", str(node.proxy_port)) for word in words))
    body, _, seen = done.stdout.decode().rpartition("\n")
    assert (int(seen), json.loads(body)["error"]["code"]) == (status, code)


def test_events_arrive_as_they_are_sent(node: Node, service: Service) -> None:
    # The service sends an event only after the client has got the one before it: one held back anywhere ends all.
    with curling(f"http://{ENDPOINT}.localhost:{node.proxy_port}/events") as running:
        assert running.stdout is not None
        for number in range(5):
            service.permit(f"event {number}")
            assert running.stdout.readline() == b"data: event %d\n" % number
            assert running.stdout.readline() == b"\n"
        service.permit(None)
        assert running.stdout.read() == b""
        assert running.wait(CURL_S) == 0


def test_curl_waits_for_100_continue_and_gets_it(node: Node) -> None:
    done = curl(
        "-v", "--expect100-timeout", "30", "-H", "Expect: 100-continue", "-H", f"x-pico-endpoint: {ENDPOINT}",
        "-T", "-", f"{node.url}/echo", input_=b"the body",
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, b"the body"), done.stderr
    said = done.stderr.decode()
    assert said.index("< HTTP/1.1 100 Continue") < said.index("< HTTP/1.1 200 OK")


def test_curl_does_not_send_a_body_that_the_service_refuses(node: Node) -> None:
    done = curl(
        "-v", "--expect100-timeout", "30", "-H", "Expect: 100-continue", "-H", f"x-pico-endpoint: {ENDPOINT}",
        "--data-binary", "the body", "-w", "%{http_code} %{size_upload}", f"{node.url}/refuse",
    )  # fmt: skip
    assert done.stdout == b"403 0", done.stderr
    assert b"100 Continue" not in done.stderr


@contextmanager
def opened(node: Node) -> Iterator[tuple[socket.socket, BinaryIO]]:
    with socket.create_connection((HOST, node.proxy_port), timeout=CURL_S) as sock, sock.makefile("rb") as answers:
        yield sock, answers


def read_head(answers: BinaryIO) -> list[str]:
    lines = []
    while line := answers.readline().decode().rstrip("\r\n"):
        lines.append(line)
    return lines


def test_the_body_is_not_sent_before_the_service_has_said_100(node: Node) -> None:
    with opened(node) as (sock, answers):
        sock.sendall(
            b"POST /echo HTTP/1.1\r\nHost: my-endpoint.test\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"
        )
        assert read_head(answers)[0] == "HTTP/1.1 100 Continue"
        sock.sendall(b"body")
        assert read_head(answers)[0] == "HTTP/1.1 200 OK"
        assert answers.read(4) == b"body"


def test_a_chunked_upload_keeps_its_trailers(node: Node) -> None:
    with opened(node) as (sock, answers):
        sock.sendall(
            b"POST /echo HTTP/1.1\r\nHost: my-endpoint.test\r\nTransfer-Encoding: chunked\r\n"
            b"Trailer: X-Checksum, X-Other\r\n\r\n"
            b"5;ext=1\r\nhello\r\n6\r\n world\r\n"
        )
        sock.sendall(b"0\r\nX-Checksum: abc\r\nAuthorization: never\r\nX-Other: two words\r\n\r\n")
        head = read_head(answers)
        assert head[0] == "HTTP/1.1 200 OK"
        assert 'X-Trailers: ["X-Checksum: abc", "X-Other: two words"]' in head
        assert answers.read(11) == b"hello world"
        sock.sendall(b"GET /hello HTTP/1.1\r\nHost: my-endpoint.test\r\n\r\n")
        assert read_head(answers)[0] == "HTTP/1.1 200 OK", "the connection goes on"


def test_trailers_of_a_response_arrive(node: Node) -> None:
    with opened(node) as (sock, answers):
        sock.sendall(
            b"GET /trailers HTTP/1.1\r\nHost: my-endpoint.test\r\nTE: trailers\r\nConnection: TE, close\r\n\r\n"
        )
        assert "Trailer: X-Checksum" in read_head(answers)
        assert answers.read() == b"4\r\nbody\r\n0\r\nX-Checksum: of-the-response\r\n\r\n"


def test_requests_is_a_client_like_any_other(node: Node) -> None:
    with requests.Session() as session:
        session.trust_env = False
        session.headers["x-pico-endpoint"] = ENDPOINT
        assert session.get(f"{node.url}/hello").text == "hello\n"
        assert session.head(f"{node.url}/hello").headers["Content-Length"] == "6"
        assert session.post(f"{node.url}/echo", data=b"x" * 300_000).content == b"x" * 300_000
        pieces = [b"one", b"two", b"three" * 50_000]
        assert session.post(f"{node.url}/echo", data=iter(pieces)).content == b"".join(pieces)
        assert session.get(f"{node.url}/trailers").text == "body"
        session.headers["x-pico-endpoint"] = "nobody"
        assert session.get(f"{node.url}/hello").headers["x-pico-error"] == "endpoint_not_found"


def echo(connection: ServerConnection) -> None:
    for message in connection:
        connection.send(message)


def test_a_websocket_passes_both_ways(programs: Programs, node: Node) -> None:
    with serve(echo, HOST, 0, max_size=None) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        programs.agent(node.upstream_url, "chat", server.socket.getsockname()[1]).registered()
        with connect(
            f"ws://{HOST}:{node.proxy_port}/", additional_headers={"x-pico-endpoint": "chat"}, max_size=None, proxy=None
        ) as chat:
            for message in ("a line", b"\0\xff", "x" * 1_000_000):
                chat.send(message)
                assert chat.recv(timeout=CURL_S) == message
        server.shutdown()
