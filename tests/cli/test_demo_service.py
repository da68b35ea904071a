"""The sample service behaves like an ordinary HTTP server, with and without lengths."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator

import pytest

from pico.cli.demo_service import SampleService, Server


@pytest.fixture
def connection() -> Iterator[http.client.HTTPConnection]:
    with Server(("127.0.0.1", 0), SampleService) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        one = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=10)
        yield one
        one.close()
        server.shutdown()
        thread.join(10)


def test_pages(connection: http.client.HTTPConnection) -> None:
    for path, status, kind in [("/", 200, "text/html; charset=utf-8"), ("/nothing", 404, "text/plain")]:
        connection.request("GET", path)
        response = connection.getresponse()
        assert (response.status, response.headers["Content-Type"]) == (status, kind)
        assert len(response.read()) == int(response.headers["Content-Length"])


def test_time_tells_the_host_it_was_asked_for(connection: http.client.HTTPConnection) -> None:
    connection.request("GET", "/time", headers={"Host": "web.example"})
    assert json.loads(connection.getresponse().read())["host"] == "web.example"


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_comes_back(connection: http.client.HTTPConnection, chunked: bool) -> None:
    body = bytes(range(256)) * 10
    pieces = iter([body[:1], body[1:1000], body[1000:]])
    for _ in range(2):  # the connection is good for another request
        connection.request("POST", "/echo", body=pieces if chunked else body, encode_chunked=chunked)
        assert connection.getresponse().read() == body
        pieces = iter([body])


def test_events_come_in_chunks(connection: http.client.HTTPConnection) -> None:
    connection.request("GET", "/events?count=3&every_ms=1")
    response = connection.getresponse()
    assert response.headers["Transfer-Encoding"] == "chunked"
    assert [line.split()[2] for line in response if line.strip()] == [b"1", b"2", b"3"]


@pytest.mark.parametrize("path", ["/", "/time", "/events", "/nothing"])
def test_head_has_no_body(connection: http.client.HTTPConnection, path: str) -> None:
    connection.request("HEAD", path)
    assert connection.getresponse().read() == b""
    connection.request("GET", "/time")
    assert connection.getresponse().status == 200
