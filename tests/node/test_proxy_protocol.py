"""The PROXY protocol at the doors of a node, on real sockets: ``spec/proxy_protocol.md``."""

from __future__ import annotations

import ssl
import struct
from pathlib import Path

import gevent
import gevent.ssl
import pytest

from pico.config import HttpTimers
from pico.errors import ConfigError
from pico.node.node import Node
from tests.certificates import Authority
from tests.node.harness import Agent, Client, connect, handshake, logged, read_head, running_node, until
from tests.rules import covers

HERE = ("127.0.0.1",)
LINE = b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n"
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
ADDRESSES = bytes((192, 0, 2, 7, 198, 51, 100, 1)) + struct.pack(">HH", 56324, 443)
OVER_TLS = b"\x20\0\x0f\x01\0\0\0\0\x21\0\x07TLSv1.3"
REQUEST = b"GET / HTTP/1.1\r\nHost: ep.example.com\r\n"


def binary(command: int = 0x21, block: bytes = ADDRESSES) -> bytes:
    return SIGNATURE + struct.pack(">BBH", command, 0x11, len(block)) + block


def fields(call) -> None:
    """Answers with what has come."""
    call.respond(200, call.head.field_block)


def behind_balancers(doors: str = "both", **changes):
    return running_node(proxy_protocol=doors, trusted_proxies=HERE, **changes)


def addresses(node: Node) -> list[str]:
    """Where the registered upstreams are, as the node sees it."""
    door = node.upstream_door
    return [upstream.address for upstream in map(door.find, door.ids()) if upstream is not None]


@covers("PROXY-12", "PROXY-15")
@pytest.mark.parametrize("header", [LINE, binary()], ids=["1", "2"])
@pytest.mark.parametrize("pieces", ["together", "apart", "byte by byte"])
def test_the_client_is_the_one_that_the_header_names(header: bytes, pieces: str) -> None:
    with behind_balancers() as node:
        Agent(node, "ep", fields, before=header)
        client = Client(node)
        request = REQUEST + b"X-Forwarded-For: 10.0.0.1\r\nX-Forwarded-Proto: https\r\n\r\n"
        if pieces == "together":
            client.send(header + request)
        elif pieces == "apart":
            accepted = node.metrics.proxy_headers.count("accepted")
            client.send(header)
            until(lambda: node.metrics.proxy_headers.count("accepted") > accepted, "the header")
            client.send(request)
        else:
            for at in range(len(header)):
                client.send(header[at : at + 1])
                gevent.sleep(0)
            client.send(request)
        body = client.response().body
        assert b"X-Forwarded-For: 192.0.2.7\r\n" in body, "who is not trusted is not believed, whoever passed it on"
        assert b"X-Forwarded-Proto: http\r\n" in body
        assert client.get().status == 200, "one header for a connection"
        assert [line["remote"] for line in logged(node)] == ["192.0.2.7"] * 2
        assert addresses(node) == ["192.0.2.7"]


@covers("PROXY-11")
def test_a_client_that_came_to_the_balancer_by_tls_came_by_https() -> None:
    with behind_balancers("proxy") as node:
        Agent(node, "ep", fields)
        body = Client(node).send(binary(block=ADDRESSES + OVER_TLS), REQUEST, b"\r\n").response().body
        assert b"X-Forwarded-Proto: https\r\n" in body
        (line,) = logged(node)
        assert line["scheme"] == "https"
        assert "TLSv1.3" in line.values()


@covers("PROXY-15")
def test_the_forwarding_fields_of_a_trusted_client_are_believed() -> None:
    """A balancer of requests behind a balancer of connections."""
    with running_node(proxy_protocol="proxy", trusted_proxies=("127.0.0.1", "192.0.2.0/24")) as node:
        Agent(node, "ep", fields)
        body = Client(node).send(LINE, REQUEST, b"X-Forwarded-For: 10.0.0.1\r\n\r\n").response().body
        assert b"X-Forwarded-For: 10.0.0.1, 192.0.2.7\r\n" in body


@covers("PROXY-5", "PROXY-9")
@pytest.mark.parametrize("header", [b"PROXY UNKNOWN\r\n", binary(0x20)], ids=["unknown", "itself"])
def test_a_balancer_may_speak_for_itself(header: bytes) -> None:
    with behind_balancers("proxy") as node:
        Agent(node, "ep", fields)
        assert Client(node).send(header, REQUEST, b"\r\n").response().status == 200
        assert [line["remote"] for line in logged(node)] == ["127.0.0.1"]


@covers("PROXY-2")
def test_a_header_of_anybody_else_is_no_request() -> None:
    with running_node(proxy_protocol="both", trusted_proxies=("192.0.2.1",)) as node:
        Agent(node, "ep", fields)
        assert Client(node).get().status == 200
        assert Client(node).send(LINE, REQUEST, b"\r\n").response().status == 400
        assert {line["remote"] for line in logged(node)} == {"127.0.0.1"}


@covers("PROXY-2")
def test_a_header_at_a_door_where_none_is_read_is_no_request() -> None:
    with behind_balancers("upstream") as node:
        assert Client(node).send(LINE, REQUEST, b"\r\n").response().status == 400
    with behind_balancers("proxy") as node:
        Agent(node, "ep", fields)
        sock = connect(node, "upstream-door")
        sock.sendall(LINE + handshake("ep"))
        assert read_head(sock)[0].startswith(b"HTTP/1.1 400")
        sock.close()


@covers("PROXY-1", "PROXY-13")
@pytest.mark.parametrize("door", ["proxy-door", "upstream-door"])
@pytest.mark.parametrize(
    "said", [REQUEST + b"\r\n", b"\x16\x03\x01", LINE[:20], b"PROXY TCP4 a b 1 2\r\n", binary()[:20]]
)
def test_what_does_not_begin_with_a_header_ends_without_an_answer(door: str, said: bytes) -> None:
    with behind_balancers() as node:
        sock = connect(node, door)
        sock.sendall(said)
        sock.shutdown(1)
        assert sock.recv(100) == b""
        sock.close()
        refused, lost = (node.metrics.proxy_headers.count(result) for result in ("refused", "lost"))
        assert (refused, lost) == ((0, 1) if said in (LINE[:20], binary()[:20]) else (1, 0))


@covers("PROXY-14")
@pytest.mark.parametrize("door", ["proxy-door", "upstream-door"])
@pytest.mark.parametrize("said", [b"", LINE[:9], LINE, LINE + REQUEST], ids=["nothing", "half", "all", "more"])
def test_a_header_and_the_first_head_have_one_time_together(door: str, said: bytes) -> None:
    timers = HttpTimers(request_head_s=0.3, keep_alive_s=60.0, linger_s=0.1)
    with behind_balancers(http_timers=timers, handshake_s=0.3) as node:
        sock = connect(node, door)
        sock.sendall(said)
        with gevent.Timeout(3.0, AssertionError("the connection is still there")):
            answer = sock.recv(1000)
            assert answer == b"" or answer.startswith(b"HTTP/1.1 408"), answer
            assert bool(answer) == (said == LINE + REQUEST and door == "proxy-door")
        sock.close()
        assert node.metrics.proxy_headers.count("lost") == (said in (b"", LINE[:9]))


@covers("PROXY-14")
@pytest.mark.parametrize("door", ["proxy-door", "upstream-door"])
def test_a_late_header_leaves_the_head_what_is_left(door: str) -> None:
    timers = HttpTimers(request_head_s=2.0, keep_alive_s=60.0, linger_s=0.1)
    with behind_balancers(http_timers=timers, handshake_s=2.0) as node:
        began = node.clock.now()
        sock = connect(node, door)
        until(lambda: node.clock.now() > began + 1.6, "the greater part of the time")
        sock.sendall(LINE)
        assert sock.recv(1000) == b""
        assert node.clock.now() - began < 3.2, "it has not got as much again"
        sock.close()


@covers("PROXY-14")
def test_later_heads_have_their_own_time() -> None:
    timers = HttpTimers(request_head_s=0.3, keep_alive_s=60.0, linger_s=0.1)
    with behind_balancers("proxy", http_timers=timers) as node:
        Agent(node, "ep", fields)
        client = Client(node)
        assert client.send(LINE, REQUEST, b"\r\n").response().status == 200
        connection = next(iter(node.services.connections))
        until(lambda: connection.deadline > node.clock.now() + 30.0, "the wait for another request")


@covers("PROXY-12")
def test_tls_begins_behind_the_header(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    files = authority.issue("localhost")
    context = gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(authority.ca_file)
    with behind_balancers(proxy_tls=files, upstream_tls=files) as node:
        for door in ("proxy-door", "upstream-door"):
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            session = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
            sock = connect(node, door)
            said = LINE  # and the beginning of TLS with it, in one segment
            while True:
                try:
                    session.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    sock.sendall(said + outgoing.read())
                    said = b""
                    incoming.write(sock.recv(65536))
            session.write(REQUEST + b"\r\n" if door == "proxy-door" else handshake("ep"))
            sock.sendall(outgoing.read())
            answer = b""
            while not answer:
                incoming.write(sock.recv(65536))
                try:
                    answer = session.read(65536)
                except ssl.SSLWantReadError:
                    pass
            assert answer.startswith(b"HTTP/1.1 502" if door == "proxy-door" else b"HTTP/1.1 101")
            if door == "upstream-door":
                assert addresses(node) == ["192.0.2.7"]
            sock.close()
        (line,) = logged(node)
        assert (line["remote"], line["scheme"]) == ("192.0.2.7", "https")


@covers("PROXY-15")
def test_limits_for_each_address_count_the_agent_and_not_the_balancer() -> None:
    with behind_balancers("upstream", upstreams_per_address_max=1) as node:
        answers = []
        socks = []
        for number in (7, 7, 8):
            sock = connect(node, "upstream-door")
            sock.sendall(b"PROXY TCP4 192.0.2.%d 198.51.100.1 1 2\r\n" % number + handshake("ep"))
            answers.append(read_head(sock)[0].split()[1])
            socks.append(sock)
        assert answers == [b"101", b"503", b"101"]
        for sock in socks:
            sock.close()


def test_nobody_is_asked_when_nobody_is_trusted() -> None:
    from pico.cli.node_options import NODE
    from pico.cli.sources import read_settings

    words = ["--proxy-protocol=proxy", "--trusted-proxies=10.0.0.0/8"]
    assert read_settings(NODE, words, {}).config.proxy_protocol == "proxy"
    with pytest.raises(ConfigError, match="--proxy-protocol.*--trusted-proxies"):
        read_settings(NODE, ["--proxy-protocol=proxy"], {})
