"""One request to a local service and back, against services on real sockets."""

from __future__ import annotations

import gc
import hashlib
import json
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler
from math import inf
from pathlib import Path
from socket import SHUT_WR, SO_LINGER, SO_RCVBUF, SO_SNDBUF, SOL_SOCKET
from typing import Any

import gevent
import pytest
from gevent.event import Event as Signal

from pico.agent.service_exchange import ServiceExchange
from pico.config import RpcLimits
from pico.protocol.rpc import PIECE_BYTES, HeadReceived, ResetCode
from pico.transport.stream import READ_BYTES_MAX
from tests.agent.harness import (
    Bench,
    Call,
    answering,
    bench,
    eventually,
    fields_of,
    read_exactly,
    read_head,
    serving,
)
from tests.compiled import interpreted_only
from tests.rules import covers

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
FULL_BYTES = (
    RpcLimits().window_bytes - PIECE_BYTES
)  # with more than this not taken, there is no credit for a whole piece


def pattern(size: int) -> bytes:
    """Bytes in which a piece that is lost, doubled or moved shows."""
    block = b"".join(number.to_bytes(4, "big") for number in range(4096))
    return (block * (size // len(block) + 1))[:size]


# A request and its response.


def test_a_small_request_and_a_small_response_are_one_message_each() -> None:
    with bench(answering(OK)) as made:
        call = made.node.get(b"/a?b=%zz")
        assert call.head is not None
        assert (call.head.status, call.head.reason, bytes(call.body)) == (200, b"OK", b"hello")
        assert [type(event) for event in call.events] == [HeadReceived]
        assert call.ended
        assert made.metrics.requests_in_flight == 0


def test_the_request_reaches_the_service_as_it_was() -> None:
    seen: list[bytes] = []

    def handle(sock: Any, _: Any) -> None:
        seen.append(sock.recv(65536))
        sock.sendall(OK)

    with bench(handle) as made:
        made.node.get(b"/a%2fb/../c?x=%zz", fields=b"Host: web.example\r\nX-Request-ID: 7\r\nAccept: */*\r\n")
    assert seen == [b"GET /a%2fb/../c?x=%zz HTTP/1.1\r\nHost: web.example\r\nX-Request-ID: 7\r\nAccept: */*\r\n\r\n"]


def test_the_host_is_replaced_when_asked_for() -> None:
    seen: list[str] = []

    def handle(sock: Any, _: Any) -> None:
        seen.append(fields_of(read_head(sock)[0])["host"])
        sock.sendall(OK)

    with bench(handle, host_header="intranet.example") as made:
        made.node.get()
    assert seen == ["intranet.example"]


def test_connections_are_kept_alive_and_the_last_one_is_used_first() -> None:
    with bench(answering(OK)) as made:
        for _ in range(5):
            assert made.node.get().ended
        assert made.metrics.service_connections_opened == 1
        assert made.metrics.service_connections_reused == 4
        assert made.service.idle == 1


@pytest.mark.parametrize(
    "method, answer, status",
    [
        (b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200),
        (b"GET", b"HTTP/1.1 204 No Content\r\n\r\n", 204),
        (b"GET", b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n", 304),
        (b"GET", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200),
    ],
)
def test_a_response_without_a_body_leaves_the_connection_usable(method: bytes, answer: bytes, status: int) -> None:
    with bench(answering(answer)) as made:
        for _ in range(2):
            call = made.node.open(method).done()
            assert call.head is not None
            assert (call.head.status, bytes(call.body), call.reset) == (status, b"", None)
        assert made.metrics.service_connections_opened == 1


@covers("HTTP-51", "HTTP-71")
@pytest.mark.parametrize(
    "method, status_line", [(b"HEAD", b"200 OK"), (b"GET", b"304 Not Modified")], ids=["to HEAD", "with 304"]
)
def test_the_body_that_a_service_sends_behind_a_response_that_has_none_is_nobodys(
    method: bytes, status_line: bytes
) -> None:
    asked_again = Signal()

    def handle(sock: Any, _: Any) -> None:
        head, _ = read_head(sock)
        if head.startswith(b"GET /other"):
            asked_again.set()
            sock.sendall(OK)
            return
        sock.sendall(b"HTTP/1.1 %b\r\nContent-Length: 44\r\n\r\n" % status_line)
        if sock.recv(1):  # used again
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged")

    with bench(handle) as made:
        call = made.node.open(method).done()
        assert call.head is not None
        assert (call.head.status, bytes(call.body)) == (int(status_line[:3]), b"")
        assert bytes(made.node.get(b"/other").body) == b"hello"
        assert asked_again.is_set()


def test_a_chunked_response_comes_with_its_trailers() -> None:
    answer = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n"
        b"3\r\nabc\r\n4;ext=1\r\ndefg\r\n0\r\nX-Sum: 9\r\nContent-Length: 1\r\n\r\n"
    )
    with bench(answering(answer)) as made:
        for _ in range(2):
            call = made.node.get()
            assert (bytes(call.body), call.trailers) == (b"abcdefg", b"X-Sum: 9\r\n")
        assert made.metrics.service_connections_opened == 1


def test_a_response_without_framing_ends_with_the_connection() -> None:
    def handle(sock: Any, _: Any) -> None:
        read_head(sock)
        sock.sendall(b"HTTP/1.1 200 OK\r\n\r\nfirst ")
        gevent.sleep(0)
        sock.sendall(b"second")

    with bench(handle) as made:
        call = made.node.get()
        assert bytes(call.body) == b"first second"
        assert call.ended
        assert made.service.idle == 0


@pytest.mark.parametrize("cut", [1, 3, 17, 60])
def test_a_response_in_pieces_is_the_same_response(cut: int) -> None:
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\nX-Sum: 9\r\n\r\n"

    def handle(sock: Any, _: Any) -> None:
        read_head(sock)
        for start in range(0, len(answer), cut):
            sock.sendall(answer[start : start + cut])
            gevent.sleep(0.0005)

    with bench(handle) as made:
        call = made.node.get()
        assert (bytes(call.body), call.trailers) == (b"hello world", b"X-Sum: 9\r\n")
        eventually(lambda: made.metrics.bytes_out == len(b"hello world"), "the count")


def test_informational_responses_pass_and_the_final_one_follows() -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n"
    with bench(answering(hints + hints + OK)) as made:
        call = made.node.get()
        assert [head.status for head in call.informational] == [103, 103]
        assert call.head is not None
        assert call.head.status == 200


def test_the_expectation_of_100_continue_is_between_client_and_service() -> None:
    def handle(sock: Any, _: Any) -> None:
        head, rest = read_head(sock)
        assert fields_of(head)["expect"] == "100-continue"
        assert rest == b""
        sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = read_exactly(sock, 4)
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n" + body)

    with bench(handle) as made:
        call = made.node.open(b"PUT", fields=b"Host: a\r\nExpect: 100-continue\r\n", length=4, data=b"", end=False)
        call.wait(lambda: call.informational)
        call.send(b"body", end=True)
        assert bytes(call.done().body) == b"body"


# Request bodies.


def echo(sock: Any, _: Any) -> None:
    """Gives back the body, framed as it came."""
    rest = b""
    while True:
        head, rest = read_head(sock, rest)
        if not head:
            return
        fields = fields_of(head)
        if "content-length" in fields:
            size = int(fields["content-length"])
            body = read_exactly(sock, size, rest)
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + body[:size])
            rest = body[size:]
        else:
            while not rest.endswith(b"\r\n\r\n"):
                rest += sock.recv(65536)
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(rest) + rest)
            rest = b""


def test_a_body_of_known_length_is_sent_with_it() -> None:
    with bench(echo) as made:
        assert bytes(made.node.open(b"POST", length=4, data=b"four").done().body) == b"four"
        call = made.node.open(b"POST", length=6, data=b"six", end=False)
        call.send(b"six", end=True)
        assert bytes(call.done().body) == b"sixsix"
        assert made.metrics.service_connections_opened == 1


def test_a_body_of_unknown_length_is_sent_in_chunks_with_its_trailers() -> None:
    with bench(echo) as made:
        call = made.node.open(b"POST", length=-1, data=b"abc", end=False)
        eventually(lambda: made.metrics.service_connections_opened, "the request at the service")
        call.send(b"defg")
        made.node.multiplexer.send_trailers(call.stream, b"X-Sum: 9\r\n")
        assert bytes(call.done().body) == b"3\r\nabc\r\n4\r\ndefg\r\n0\r\nX-Sum: 9\r\n\r\n"


def test_an_empty_body_of_unknown_length_is_one_last_chunk() -> None:
    with bench(echo) as made:
        assert bytes(made.node.open(b"POST", length=-1).done().body) == b"0\r\n\r\n"


def test_what_comes_of_a_body_before_there_is_a_connection_is_not_lost() -> None:
    with bench(echo) as made:
        call = made.node.open(b"POST", length=9, data=b"one", end=False)
        made.node.multiplexer.send_data(call.stream, b"two")
        made.node.multiplexer.send_data(call.stream, b"six", True)
        assert bytes(call.done().body) == b"onetwosix"


# Large bodies, and whoever takes nothing.


def test_a_large_download_waits_for_a_client_that_takes_nothing() -> None:
    size = 8 * 1024 * 1024
    body = pattern(size)
    sent: list[int] = [0]

    def handle(sock: Any, _: Any) -> None:
        read_head(sock)
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        for start in range(0, size, 65536):
            sock.sendall(body[start : start + 65536])
            sent[0] = start + 65536

    with bench(handle) as made:
        call = made.node.open(takes=False)
        call.wait(lambda: call.not_taken > FULL_BYTES, "a full window")
        gevent.sleep(0.05)
        other = made.node.open(takes=False)
        other.wait(lambda: other.not_taken > FULL_BYTES, "the other stream's window")
        assert call.not_taken <= made.config.rpc_limits.window_bytes
        assert sent[0] < size, "the service is held back, too"
        (exchange,) = [c.exchange for c in made.service._connections if c.exchange._stream.id == call.stream.id]
        assert len(exchange._held) <= READ_BYTES_MAX  # type: ignore[union-attr]
        other.node.multiplexer.reset(other.stream, ResetCode.CANCELLED)
        call.take()
        call.done()
        assert hashlib.sha256(call.body).digest() == hashlib.sha256(body).digest()


def test_a_large_upload_waits_for_a_service_that_takes_nothing() -> None:
    size = 8 * 1024 * 1024
    body = pattern(size)
    go_on = Signal()
    digest: list[bytes] = []

    def handle(sock: Any, _: Any) -> None:
        _, rest = read_head(sock)
        go_on.wait()
        digest.append(hashlib.sha256(read_exactly(sock, size, rest)).digest())
        sock.sendall(OK)

    with bench(handle) as made:
        call = made.node.open(b"PUT", length=size, end=False)
        upload = gevent.spawn(call.send, body, True)
        eventually(lambda: len(made.service) == 1, "the connection to the service")
        (connection,) = made.service._connections
        eventually(lambda: connection.stream.unsent_bytes and not call.stream.credit, "the end of the credit")
        gevent.sleep(0.05)
        assert not upload.ready()
        assert connection.stream.unsent_bytes <= made.config.rpc_limits.window_bytes + 65536
        go_on.set()
        upload.get(timeout=10)
        assert bytes(call.done().body) == b"hello"
        assert digest == [hashlib.sha256(body).digest()]


def test_both_bodies_flow_at_the_same_time() -> None:
    def handle(sock: Any, _: Any) -> None:
        _, rest = read_head(sock)
        sock.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while not rest.endswith(b"0\r\n\r\n"):
            sock.sendall(rest)
            rest = sock.recv(65536)
        sock.sendall(rest)

    with bench(handle) as made:
        call = made.node.open(b"POST", length=-1, data=b"first", end=False)
        call.wait(lambda: bytes(call.body) == b"first", "the first echo")
        call.send(b"second")
        call.wait(lambda: bytes(call.body) == b"firstsecond", "the second echo")
        call.send(b"", end=True)
        assert bytes(call.done().body) == b"firstsecond"


RESET = (SOL_SOCKET, SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")  # when it is closed


def test_a_client_that_has_its_answer_early_and_stops_sending_is_not_waited_for() -> None:
    with bench(answering(OK), response_idle_s=0.05) as made:
        call = made.node.open(b"PUT", length=8, data=b"half", end=False).done()
        assert bytes(call.body) == b"hello"
        call.wait(lambda: call.reset, "the end of the request")
        assert call.reset is not None and call.reset.code is ResetCode.NOT_WANTED


def test_a_service_that_resets_its_connection_behind_an_early_response_ends_the_request() -> None:
    answered = Signal()

    def handle(sock: Any, _: Any) -> None:
        read_head(sock)
        sock.sendall(OK)
        answered.wait()
        sock.setsockopt(*RESET)

    with bench(handle) as made:
        call = made.node.open(b"PUT", length=8, data=b"half", end=False).done()
        answered.set()
        call.wait(lambda: call.reset, "the end of the request")
        assert call.reset is not None and call.reset.code is ResetCode.NOT_WANTED


@pytest.mark.parametrize("early", [False, True])
def test_the_end_of_a_request_that_a_service_has_not_all_taken_is_not_that_of_its_response(early: bool) -> None:
    go_on, answer, over = Signal(), Signal(), Signal()
    sent = 0

    def handle(sock: Any, _: Any) -> None:
        sock.setsockopt(SOL_SOCKET, SO_RCVBUF, 65536)
        _, rest = read_head(sock)
        go_on.wait()
        if not early:
            read_exactly(sock, sent, rest)
        answer.wait()
        sock.sendall(OK)
        over.wait()

    with bench(handle) as made:
        window = made.config.rpc_limits.window_bytes
        call = made.node.open(b"PUT", length=-1, end=False)
        eventually(lambda: len(made.service) == 1, "the connection to the service")
        (connection,) = made.service._connections
        while not connection.stream.unsent_bytes:
            call.send(bytes(65536))
            sent += 65536
            eventually(lambda: connection.stream.unsent_bytes or call.stream.credit > window // 2, "room")
        exchange = connection.exchange
        call.send(b"", end=True)
        eventually(lambda: exchange._request_ended, "the client's end")  # type: ignore[union-attr]
        go_on.set()
        if not early:
            eventually(lambda: not connection.stream.unsent_bytes, "the request at the service")
        answer.set()
        assert bytes(call.done().body) == b"hello"
        eventually(lambda: made.metrics.requests_in_flight == 0, "the end of the request")
        assert made.service.idle == (0 if early else 1), "it is not used again before it has taken the request"
        over.set()


def test_an_early_response_is_delivered_and_the_rest_of_the_request_dropped() -> None:
    def handle(sock: Any, _: Any) -> None:
        read_head(sock)
        sock.sendall(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nno!")

    with bench(handle) as made:
        call = made.node.open(b"PUT", length=10_000_000, data=pattern(1000), end=False)
        call.wait(lambda: call.ended, "the response")
        assert call.head is not None
        assert (call.head.status, bytes(call.body)) == (413, b"no!")
        made.node.multiplexer.send_data(call.stream, pattern(1000))
        call.wait(lambda: call.reset, "the end of the request")
        assert call.reset is not None
        assert call.reset.code is ResetCode.NOT_WANTED


def go_on_without_the_service(call: Call, closed: Signal) -> None:
    """A client that takes nothing of a response goes on sending when the service has closed, and then takes all."""
    call.wait(lambda: call.not_taken > FULL_BYTES, "a full window")
    closed.wait()
    for _ in range(5):
        call.send(b"x" * 1000)
        gevent.sleep(0.02)
    call.take()


def test_a_long_early_response_is_delivered_though_the_service_has_gone_and_the_client_goes_on_sending() -> None:
    size, closed = 600_000, Signal()

    def handle(sock: Any, _: Any) -> None:
        read_head(sock)
        sock.sendall(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: %d\r\n\r\n" % size + pattern(size))
        sock.close()  # with a part of the request unread: a reset
        closed.set()

    with bench(handle) as made:
        call = made.node.open(b"POST", length=100_000, data=b"x" * 1000, end=False, takes=False)
        go_on_without_the_service(call, closed)
        call.wait(lambda: len(call.body) == size or call.reset, "the rest")
        assert bytes(call.body) == pattern(size)


@pytest.mark.parametrize("end", ["data", "trailers"])
def test_a_request_ends_though_its_service_has_gone_and_its_response_has_not_left(end: str) -> None:
    size, others = 200_000, 4  # less than a window; together more than what has left can be

    def handle(sock: Any, _: Any) -> None:
        read_head(sock)
        answer = b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
        sock.sendall(answer % size + pattern(size))

    with bench(handle) as made:
        made.node.stream.pause_reading()
        before = [made.node.open() for _ in range(others)]
        eventually(lambda: made.metrics.service_connections_opened == others, "the others")
        eventually(lambda: made.metrics.requests_in_flight == 0, "the end of the others")
        call = made.node.open(b"POST", length=-1, end=False)
        eventually(lambda: made.metrics.service_connections_opened == others + 1, "the connection")
        eventually(lambda: not len(made.service), "the end of the service")
        assert made.metrics.requests_in_flight == 1, "its response has not left"
        if end == "data":
            made.node.multiplexer.send_data(call.stream, b"last", True)
        else:
            made.node.multiplexer.send_trailers(call.stream, b"X-Sum: 7\r\n")
        eventually(lambda: made.metrics.requests_in_flight == 0, "the end of the exchange")
        made.node.stream.resume_reading()
        assert all(bytes(one.done().body) == pattern(size) for one in (*before, call))
        assert call.reset is None


def test_a_connection_that_answered_early_is_not_used_again_and_what_else_it_says_is_nobodys() -> None:
    impatient, said, got = Signal(), Signal(), []

    def handle(sock: Any, _: Any) -> None:
        _, rest = read_head(sock)
        sock.sendall(OK)
        impatient.wait()
        sock.sendall(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
        said.set()
        got.append(read_exactly(sock, 8, rest))
        sock.recv(1)

    with bench(handle) as made:
        call = made.node.open(b"PUT", length=8, data=b"half", end=False)
        call.wait(lambda: call.ended, "the response")
        (connection,) = made.service._connections
        impatient.set()
        said.wait()
        eventually(lambda: connection.stream.quiet, "that the agent has read it")
        made.node.multiplexer.send_data(call.stream, b"half", True)
        eventually(lambda: made.metrics.requests_in_flight == 0, "the end of the exchange")
        assert made.service.idle == 0
        eventually(lambda: got == [b"halfhalf"], "the whole request")
        assert call.reset is None


# What goes wrong.


def test_a_service_that_refuses_is_unreachable_and_the_request_untouched() -> None:
    with serving(answering(OK)) as server:
        port = server.server_port
    made = Bench(port)
    try:
        call = made.node.open(b"POST", length=4, data=b"four").done()
        assert call.reset is not None
        assert (call.reset.code, call.reset.untouched) == (ResetCode.SERVICE_UNREACHABLE, True)
        assert "refused" in call.reset.reason
        assert made.metrics.failures.count("service_unreachable") == 1
    finally:
        made.close()


def test_a_name_that_does_not_exist_is_unreachable() -> None:
    made = Bench(1, host="does-not-exist.invalid")
    try:
        call = made.node.get()
        assert call.reset is not None
        assert (call.reset.code, call.reset.untouched) == (ResetCode.SERVICE_UNREACHABLE, True)
    finally:
        made.close()


def test_a_service_that_does_not_answer_is_late_and_was_touched() -> None:
    with bench(lambda sock, _: sock.recv(65536) and gevent.sleep(5), response_head_s=0.1) as made:
        call = made.node.get()
        assert call.reset is not None
        assert (call.reset.code, call.reset.untouched) == (ResetCode.SERVICE_TIMEOUT, False)
        assert len(made.service) == 0


def test_a_service_that_does_not_answer_an_upgrade_is_late() -> None:
    with bench(lambda sock, _: sock.recv(65536) and gevent.sleep(5), response_head_s=0.1) as made:
        call = made.node.open(length=-1, end=False, upgrade=b"chat")
        call.done()
        assert call.reset is not None
        assert call.reset.code is ResetCode.SERVICE_TIMEOUT
        assert len(made.service) == 0


def test_a_service_that_takes_a_long_request_slowly_is_not_late() -> None:
    size = 16 * 1024 * 1024

    def handle(sock: Any, _: Any) -> None:
        sock.setsockopt(SOL_SOCKET, SO_RCVBUF, 65536)
        _, rest = read_head(sock)
        left = size - len(rest)
        for _ in range(40):
            left -= len(sock.recv(65536))
            gevent.sleep(0.03)
        read_exactly(sock, left)
        sock.sendall(OK)

    with bench(handle, response_head_s=0.3) as made:
        call = made.node.open(b"PUT", length=size, end=False)
        upload = gevent.spawn(call.send, pattern(size), True)
        call.wait(lambda: call.ended or call.reset, "the response")
        upload.kill()
        assert bytes(call.body) == b"hello"


def test_a_service_that_takes_nothing_of_a_long_request_is_late() -> None:
    with bench(lambda sock, _: read_head(sock) and gevent.sleep(5), response_head_s=0.1) as made:
        call = made.node.open(b"PUT", length=16 * 1024 * 1024, end=False)
        upload = gevent.spawn(call.send, pattern(16 * 1024 * 1024), True)
        call.wait(lambda: call.reset, "the end of the patience")
        upload.kill()
        assert call.reset is not None
        assert call.reset.code is ResetCode.SERVICE_TIMEOUT


def test_a_service_that_took_a_long_request_and_does_not_answer_is_late() -> None:
    size = 8 * 1024 * 1024

    def handle(sock: Any, _: Any) -> None:
        _, rest = read_head(sock)
        read_exactly(sock, size, rest)
        sock.recv(1)

    with bench(handle, response_head_s=0.1) as made:
        call = made.node.open(b"PUT", length=size, end=False)
        call.send(bytes(size), end=True)
        call.done()
        assert call.reset is not None
        assert call.reset.code is ResetCode.SERVICE_TIMEOUT


def test_a_slow_service_gives_credit_as_it_takes_and_not_only_when_it_has_taken_all() -> None:
    """However large the window: else the node would hear nothing for as long as all of it takes."""
    asked, go_on, over = Signal(), Signal(), Signal()
    grown = 3 * 1024 * 1024

    def handle(sock: Any, _: Any) -> None:
        sock.setsockopt(SOL_SOCKET, SO_RCVBUF, 65536)
        read_head(sock)
        asked.set()
        go_on.wait()
        while not over.is_set() and sock.recv(65536):
            gevent.sleep(0.01)

    with bench(handle, limits=RpcLimits(), response_head_s=0.3) as made:
        call = made.node.open(b"PUT", length=-1, end=False)
        assert asked.wait(5)
        (connection,) = made.service._connections
        connection.stream._sock.setsockopt(SOL_SOCKET, SO_SNDBUF, 65536)  # type: ignore[attr-defined] # what is not taken stays here
        exchange = connection.exchange
        exchange._multiplexer.engine._grow(exchange._stream, grown)  # type: ignore[union-attr] # as over a long path
        sent = idle_turns = 0
        while idle_turns < 50:  # what the kernel takes gives credit once more
            idle_turns += 1
            if call.stream.credit:
                size = min(call.stream.credit, 65536)
                made.node.multiplexer.send_data(call.stream, bytes(size))
                sent += size
            if call.stream.credit or exchange.bytes_in < sent:  # type: ignore[union-attr]
                idle_turns = 0
            gevent.sleep(0.001)
        assert connection.stream.unsent_bytes > grown // 2
        assert not call.stream.credit
        go_on.set()
        eventually(lambda: connection.stream.unsent_bytes and call.stream.credit, "more of it")
        over.set()


def test_a_client_that_is_slow_with_its_request_is_not_the_services_delay() -> None:
    with bench(echo, response_head_s=0.1) as made:
        call = made.node.open(b"POST", length=8, data=b"half", end=False)
        gevent.sleep(0.3)
        call.send(b"half", end=True)
        assert bytes(call.done().body) == b"halfhalf"


def test_a_response_that_stops_is_late() -> None:
    def handle(sock: Any, _: Any) -> None:
        read_head(sock)
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        gevent.sleep(5)

    with bench(handle, response_idle_s=0.1) as made:
        call = made.node.get()
        assert not call.ended
        assert call.reset is not None
        assert call.reset.code is ResetCode.SERVICE_TIMEOUT


def test_a_client_that_takes_nothing_is_not_the_services_delay() -> None:
    nearly = RpcLimits().window_bytes - 100  # for what is left no piece is sent, and so all that comes is held
    go_on = Signal()

    def handle(sock: Any, _: Any) -> None:
        read_head(sock)
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + pattern(nearly))
        go_on.wait()
        sock.sendall(pattern(1000000)[nearly:])

    with bench(handle, response_idle_s=0.1) as made:
        call = made.node.open(takes=False)
        call.wait(lambda: call.not_taken == nearly, "nearly a window")
        go_on.set()
        gevent.sleep(0.3)
        call.take()
        call.done()
        assert call.reset is None, call.reset
        assert bytes(call.body) == pattern(1000000)


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 1\n\na",
        b"HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\n\r\n" * 100,
    ],
)
def test_an_answer_that_is_not_http_is_malformed(answer: bytes) -> None:
    with bench(answering(answer)) as made:
        call = made.node.get()
        assert call.reset is not None
        assert (call.reset.code, call.reset.untouched) == (ResetCode.SERVICE_MALFORMED, False)
        assert len(made.service) == 0


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nnot all",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
    ],
)
def test_a_response_that_is_cut_short_never_looks_complete(answer: bytes) -> None:
    def handle(sock: Any, _: Any) -> None:
        read_head(sock)
        sock.sendall(answer)

    with bench(handle) as made:
        call = made.node.get()
        assert not call.ended
        assert call.reset is not None
        assert call.reset.code is ResetCode.SERVICE_CLOSED


def test_an_upgrade_that_meets_a_connection_about_to_be_closed_goes_to_a_fresh_one() -> None:
    connections: list[int] = []

    def handle(sock: Any, _: Any) -> None:
        connections.append(1)
        read_head(sock)
        if len(connections) > 1:
            sock.sendall(SWITCH + b"hello")
            return
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        read_head(sock)  # and closes

    with bench(handle) as made:
        assert made.node.get().head.status == 200
        call = made.node.open(length=-1, end=False, upgrade=b"chat")
        call.wait(lambda: call.body, "opaque bytes")
        assert (call.head.status, bytes(call.body), len(connections)) == (101, b"hello", 2)


def test_an_upgrade_of_which_a_closed_connection_has_had_bytes_is_not_sent_again_without_them() -> None:
    with bench(once_for_each_connection) as made:
        assert made.node.get().ended
        call = made.node.open(length=-1, data=b"hello", end=False, upgrade=b"chat").done()
        assert call.reset is not None
        assert (call.reset.code, made.metrics.service_connections_opened) == (ResetCode.SERVICE_CLOSED, 1)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Le"])
def test_a_fresh_connection_that_closes_without_a_response_is_not_tried_again(answer: bytes) -> None:
    connections: list[int] = []

    def handle(sock: Any, _: Any) -> None:
        connections.append(1)
        read_head(sock)
        sock.sendall(answer)

    with bench(handle) as made:
        call = made.node.get()
        assert call.reset is not None
        assert (call.reset.code, call.reset.untouched) == (ResetCode.SERVICE_CLOSED, False)
    assert len(connections) == 1


def once_for_each_connection(sock: Any, _: Any) -> None:
    """Keeps its connections open in words, and closes each when the second request has come."""
    _, rest = read_head(sock)
    sock.sendall(OK)
    read_head(sock, rest)


@pytest.mark.parametrize(
    "method, body, again",
    [
        (b"GET", b"", True),
        (b"PUT", b"four", True),
        (b"DELETE", b"", True),
        (b"POST", b"four", False),
        (b"PATCH", b"", False),
    ],
)
def test_a_kept_connection_that_closes_is_made_anew_only_for_what_may_happen_twice(
    method: bytes, body: bytes, again: bool
) -> None:
    with bench(once_for_each_connection) as made:
        assert made.node.get().ended
        call = made.node.open(method, length=len(body), data=body).done()
        if again:
            assert call.reset is None
            assert bytes(call.body) == b"hello"
            assert made.metrics.service_connections_opened == 2
        else:
            assert call.reset is not None
            assert (call.reset.code, call.reset.untouched) == (ResetCode.SERVICE_CLOSED, False)
            assert made.metrics.service_connections_opened == 1


def test_what_is_sent_again_is_whole_and_counted_once() -> None:
    bodies: list[bytes] = []

    def handle(sock: Any, address: Any) -> None:
        head, rest = read_head(sock)
        if head.startswith(b"GET"):
            sock.sendall(OK)
            head, rest = read_head(sock, rest)
        bodies.append(read_exactly(sock, 4, rest))
        if len(bodies) == 2:
            sock.sendall(OK)

    with bench(handle, access_log="json") as made:
        assert made.node.get().ended
        assert made.node.open(b"PUT", length=4, data=b"four").done().ended
        assert bodies == [b"four", b"four"]
        eventually(lambda: "PUT" in "".join(made.lines), "the line")
        (line,) = (line for line in map(json.loads, "".join(made.lines).splitlines()) if line["method"] == "PUT")
        assert line["bytes_in"] == 4


def test_a_service_that_does_not_answer_what_is_sent_again_is_late() -> None:
    connections: list[int] = []

    def handle(sock: Any, address: Any) -> None:
        connections.append(1)
        if len(connections) == 1:
            once_for_each_connection(sock, address)
        else:
            read_head(sock)
            sock.recv(1)

    with bench(handle, response_head_s=0.1) as made:
        assert made.node.get().ended
        call = made.node.open(b"PUT", length=4, data=b"four").done()
        assert call.reset is not None
        assert (call.reset.code, len(connections)) == (ResetCode.SERVICE_TIMEOUT, 2)


def test_a_request_of_whose_body_nothing_has_come_is_sent_again_and_the_body_behind_it() -> None:
    """It may be long in coming: the client waits for 100 (Continue)."""
    connections: list[int] = []

    def handle(sock: Any, address: Any) -> None:
        connections.append(1)
        if len(connections) == 1:
            once_for_each_connection(sock, address)
        else:
            _, rest = read_head(sock)
            sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n" + read_exactly(sock, 4, rest))

    with bench(handle) as made:
        assert made.node.get().ended
        call = made.node.open(b"PUT", fields=b"Host: a\r\nExpect: 100-continue\r\n", length=4, end=False)
        call.wait(lambda: call.informational or call.reset, "the word to go on")
        call.send(b"four", end=True)
        assert bytes(call.done().body) == b"four"
        assert len(connections) == 2


def test_what_a_service_has_begun_to_answer_is_not_sent_again() -> None:
    heads: list[bytes] = []
    begun = Signal()

    def handle(sock: Any, _: Any) -> None:
        heads.append(read_head(sock)[0])
        sock.sendall(OK)
        heads.append(read_head(sock)[0])
        sock.sendall(OK[:-1])
        begun.wait()
        sock.setsockopt(*RESET)

    with bench(handle) as made:
        assert made.node.get().ended
        call = made.node.open()
        call.wait(lambda: call.body, "the beginning")
        begun.set()
        call.done()
        assert call.reset is not None and call.reset.code is ResetCode.SERVICE_CLOSED
        assert len(heads) == 2


def test_a_body_that_is_not_at_hand_is_not_sent_again() -> None:
    with bench(once_for_each_connection) as made:
        assert made.node.get().ended
        call = made.node.open(b"PUT", length=8, data=b"half", end=False)
        call.done()
        assert call.reset is not None
        assert (call.reset.code, call.reset.untouched) == (ResetCode.SERVICE_CLOSED, False)


def test_when_the_second_try_finds_no_service_the_request_was_still_touched() -> None:
    with serving(once_for_each_connection) as server:
        made = Bench(server.server_port)
        assert made.node.get().ended
        server.close()  # the port; its connections go on
        call = made.node.get()
        assert call.reset is not None
        assert (call.reset.code, call.reset.untouched) == (ResetCode.SERVICE_UNREACHABLE, False)
        made.close()


@interpreted_only
def test_a_fault_of_our_own_ends_the_stream(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    with bench(answering(OK)) as made:
        monkeypatch.setattr("pico.agent.service.ResponseReader.next_head", lambda *_: 1 // 0)
        call = made.node.get()
        assert call.reset is not None
        assert call.reset.code is ResetCode.INTERNAL
    assert "ZeroDivisionError" in caplog.text


# Whoever goes away.


def test_a_client_that_goes_away_takes_its_connection_with_it() -> None:
    gone = Signal()

    def handle(sock: Any, _: Any) -> None:
        read_head(sock)
        try:
            while True:
                sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n" + bytes(65536))
        except OSError:
            gone.set()
            raise

    with bench(handle, access_log="json") as made:
        call = made.node.open()
        call.wait(lambda: len(call.body) > 100_000, "the beginning")
        made.node.multiplexer.reset(call.stream, ResetCode.CANCELLED)
        assert gone.wait(5)
        assert len(made.service) == 0
        assert made.metrics.failures.count("client_closed") == 1
        eventually(lambda: made.lines, "the line")
        line = json.loads(made.lines[0])
        assert line["outcome"] == "client_closed"
        assert 0 <= line["upstream_ms"] <= line["total_ms"] < 60_000


def test_a_node_that_wants_no_more_of_a_request_that_is_answered_is_no_failure() -> None:
    with bench(answering(OK), access_log="json") as made:
        call = made.node.open(b"PUT", length=8, data=b"half", end=False).done()
        made.node.multiplexer.reset(call.stream, ResetCode.NOT_WANTED)
        eventually(lambda: made.lines, "the line")
        assert json.loads(made.lines[0])["outcome"] == "ok"
        assert len(made.service) == 0


def test_a_request_that_is_cancelled_while_it_waits_for_a_connection_reaches_nobody() -> None:
    with bench(answering(OK)) as made:
        call = made.node.open()
        made.node.multiplexer.reset(call.stream, ResetCode.CANCELLED)
        other = made.node.open()
        made.node.multiplexer._flush()
        made.node.multiplexer.reset(other.stream, ResetCode.CANCELLED)
        eventually(lambda: made.metrics.requests_in_flight == 0, "the end of both")
        assert made.node.get().ended


def test_a_tunnel_that_is_lost_takes_its_connections_with_it() -> None:
    with bench(lambda sock, _: sock.recv(65536) and sock.recv(1)) as made:
        made.node.open()
        eventually(lambda: len(made.service) == 1, "the request at the service")
        made.node.multiplexer.abort("lost")
        eventually(lambda: len(made.service) == 0, "the end of its connection")
        assert made.metrics.failures.count("tunnel_lost") == 1


# Another protocol.


SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: chat\r\nConnection: upgrade\r\n\r\n"


def switching(sock: Any, _: Any) -> None:
    """Switches, says hello in the same segment, echoes, and says goodbye after the client's end."""
    head, rest = read_head(sock)
    fields = fields_of(head)
    assert (fields["upgrade"], fields["connection"].lower(), rest) == ("chat", "upgrade", b"")
    sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: chat\r\nConnection: upgrade\r\n\r\nhello")
    while data := sock.recv(65536):
        sock.sendall(data)
    sock.sendall(b"goodbye")


def test_an_upgrade_carries_opaque_bytes_both_ways_with_half_close() -> None:
    with bench(switching) as made:
        call = made.node.open(length=-1, end=False, upgrade=b"chat")
        call.wait(lambda: bytes(call.body) == b"hello", "the bytes behind the 101")
        assert call.head is not None
        assert (call.head.status, call.head.upgrade) == (101, b"chat")
        body = pattern(300_000)
        call.send(body)
        call.wait(lambda: len(call.body) == 5 + len(body), "the echo")
        assert not call.ended
        made.node.multiplexer.send_data(call.stream, b"", True)
        assert bytes(call.done().body) == b"hello" + body + b"goodbye"
        assert call.reset is None
        eventually(lambda: len(made.service) == 0, "the end of the connection")


def test_after_an_upgrade_the_service_may_end_first() -> None:
    got: list[bytes] = []

    def handle(sock: Any, _: Any) -> None:
        read_head(sock)
        sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: chat\r\nConnection: upgrade\r\n\r\n")
        sock.shutdown(1)
        got.append(read_exactly(sock, 4))
        assert sock.recv(1) == b""
        got.append(b"end")

    with bench(handle) as made:
        call = made.node.open(length=-1, end=False, upgrade=b"chat")
        call.wait(lambda: call.ended, "the service's end")
        call.send(b"more", end=True)
        eventually(lambda: got == [b"more", b"end"], "the client's end")


@pytest.mark.parametrize("first", ["the service", "the client"])
def test_whoever_has_not_ended_an_upgrade_may_be_silent_for_longer_than_a_response(first: str) -> None:
    go_on, got = Signal(), []

    def handle(sock: Any, _: Any) -> None:
        read_head(sock)
        sock.sendall(SWITCH)
        if first == "the service":
            sock.shutdown(SHUT_WR)
            got.append(sock.recv(4))
        else:
            got.append(sock.recv(1))
            go_on.wait()
            sock.sendall(b"more")

    with bench(handle, response_idle_s=0.05) as made:
        call = made.node.open(length=-1, end=False, upgrade=b"chat")
        call.wait(lambda: call.head, "the 101")
        if first == "the service":
            call.wait(lambda: call.ended, "the service's end")
        else:
            call.send(b"", end=True)
            eventually(lambda: got == [b""], "the client's end")
        gevent.sleep(0.2)
        go_on.set()
        if first == "the service":
            call.send(b"more", end=True)
            eventually(lambda: got == [b"more"], "what the client sends")
        else:
            assert bytes(call.done().body) == b"more"


@covers("RPC-32")
def test_the_end_of_a_client_that_came_before_the_101_reaches_the_service() -> None:
    go_on, got = Signal(), []

    def handle(sock: Any, _: Any) -> None:
        read_head(sock)
        go_on.wait()
        sock.sendall(SWITCH)
        got.append(sock.recv(1))
        sock.sendall(b"goodbye")

    with bench(handle) as made:
        call = made.node.open(length=-1, end=False, upgrade=b"chat")
        eventually(lambda: len(made.service) == 1, "the connection to the service")
        (connection,) = made.service._connections
        exchange = connection.exchange
        made.node.multiplexer.send_data(call.stream, b"", True)
        eventually(lambda: exchange._request_ended, "the client's end")  # type: ignore[union-attr]
        go_on.set()
        assert bytes(call.done().body) == b"goodbye"
        assert got == [b""]


@pytest.mark.parametrize("first", ["the service", "the client", "the service, long before"])
def test_what_an_upgrade_has_not_brought_to_the_service_outlives_both_ends(first: str) -> None:
    go_on, ended = Signal(), Signal()
    got: list[bytes] = []

    def handle(sock: Any, _: Any) -> None:
        sock.setsockopt(SOL_SOCKET, SO_RCVBUF, 65536)
        read_head(sock)
        sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: chat\r\nConnection: upgrade\r\n\r\n")
        if first == "the client":
            ended.wait()
        sock.shutdown(1)
        go_on.wait()
        got.extend(iter(lambda: sock.recv(1 << 20), b""))

    with bench(handle) as made:
        window = made.config.rpc_limits.window_bytes
        call = made.node.open(length=-1, end=False, upgrade=b"chat")
        call.wait(lambda: call.head, "the 101")
        if first != "the client":
            call.wait(lambda: call.ended, "the service's end")
        (connection,) = made.service._connections
        sent = b""
        while not connection.stream.unsent_bytes:
            sent += pattern(65536)
            call.send(pattern(65536))
            eventually(lambda: connection.stream.unsent_bytes or call.stream.credit > window // 2, "room")
        if first == "the service, long before":
            go_on.set()
            eventually(lambda: not connection.stream.unsent_bytes, "that it has taken all")
            call.send(b"more")
            sent += b"more"
        call.send(b"", end=True)
        ended.set()
        call.wait(lambda: call.ended and call.stream.ended, "both ends")
        if not go_on.is_set():
            gevent.sleep(0.05)
            assert len(made.service) == 1
            assert connection.deadline < inf
        go_on.set()
        eventually(lambda: len(made.service) == 0, "the end of the connection")
        eventually(lambda: len(b"".join(got)) == len(sent), "all bytes")
        assert b"".join(got) == sent


def test_an_upgrade_that_both_have_ended_is_over_when_the_service_takes_no_more_and_the_node_nothing() -> None:
    go_on, over = Signal(), Signal()

    def handle(sock: Any, _: Any) -> None:
        sock.setsockopt(SOL_SOCKET, SO_RCVBUF, 65536)
        read_head(sock)
        sock.sendall(SWITCH)
        go_on.wait()
        sock.sendall(bytes(PIECE_BYTES))
        sock.shutdown(1)
        over.wait()

    with bench(handle, response_idle_s=0.2) as made:
        window = made.config.rpc_limits.window_bytes
        call = made.node.open(length=-1, end=False, upgrade=b"chat")
        call.wait(lambda: call.head, "the 101")
        (connection,) = made.service._connections
        while not connection.stream.unsent_bytes:
            call.send(bytes(65536))
            eventually(lambda: connection.stream.unsent_bytes or call.stream.credit > window // 2, "room")
        call.send(b"", end=True)
        exchange = connection.exchange
        eventually(lambda: exchange._request_ended, "the client's end")  # type: ignore[union-attr]
        made.node.stream.pause_reading()
        filler = made.agent.multiplexer._stream
        eventually(lambda: filler.write(bytes(65536)) or filler.unsent_bytes, "a tunnel that is full")
        go_on.set()
        eventually(lambda: exchange._response_ended, "the service's end")  # type: ignore[union-attr]
        eventually(lambda: not made.metrics.requests_in_flight, "the end of the request")
        assert exchange._stream.queued  # type: ignore[union-attr]
        over.set()


def test_an_upgrade_outlives_the_idle_limit_and_is_reset_with_the_connection() -> None:
    def handle(sock: Any, _: Any) -> None:
        read_head(sock)
        sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: chat\r\nConnection: upgrade\r\n\r\n")
        assert sock.recv(9) == b"now"
        sock.setsockopt(*RESET)

    with bench(handle, response_idle_s=0.05, response_head_s=0.05) as made:
        call = made.node.open(length=-1, end=False, upgrade=b"chat")
        call.wait(lambda: call.head, "the 101")
        gevent.sleep(0.2)
        assert call.reset is None
        call.send(b"now")
        call.done()
        assert call.reset is not None
        assert call.reset.code is ResetCode.SERVICE_CLOSED


def test_an_upgrade_whose_service_has_ended_and_takes_no_more_is_broken_off() -> None:
    def handle(sock: Any, _: Any) -> None:
        read_head(sock)
        sock.sendall(SWITCH)
        sock.shutdown(SHUT_WR)
        assert sock.recv(3) == b"one"
        sock.setsockopt(*RESET)

    with bench(handle) as made:
        call = made.node.open(length=-1, end=False, upgrade=b"chat")
        call.wait(lambda: call.ended, "the service's end")
        call.send(b"one")
        eventually(lambda: not made.node.stream.unsent_bytes, "that it has left")
        while call.reset is None:
            made.node.multiplexer.send_data(call.stream, b"two")  # the loss shows when something is written
            gevent.sleep(0.002)
        assert call.reset.code is ResetCode.SERVICE_CLOSED


@pytest.mark.parametrize("head", [SWITCH, b"HTTP/1.1 200 OK\r\n\r\n"], ids=["upgrade", "until it closes"])
def test_what_a_service_has_cut_off_never_looks_complete_though_a_write_noticed_it(head: bytes) -> None:
    size, closed = 600_000, Signal()

    def handle(sock: Any, _: Any) -> None:
        read_head(sock)
        sock.sendall(head + pattern(size))
        sock.close()  # with bytes of the client unread: a reset
        closed.set()

    with bench(handle) as made:
        upgrade = b"chat" if head is SWITCH else b""
        call = made.node.open(b"POST", length=-1, data=b"x" * 1000, end=False, upgrade=upgrade, takes=False)
        go_on_without_the_service(call, closed)
        call.wait(lambda: call.ended or call.reset, "the end")
        assert call.reset is not None
        assert call.reset.code is ResetCode.SERVICE_CLOSED


def test_an_upgrade_that_is_not_accepted_is_an_ordinary_response() -> None:
    with bench(answering(b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 2\r\n\r\nno")) as made:
        call = made.node.open(length=-1, end=False, upgrade=b"chat")
        call.wait(lambda: call.ended, "the response")
        made.node.multiplexer.send_data(call.stream, b"", True)
        assert call.head is not None
        assert (call.head.status, bytes(call.body)) == (426, b"no")
        eventually(lambda: made.metrics.requests_in_flight == 0, "the end of the exchange")


@pytest.mark.parametrize("upgrade", [b"chat", b""])
def test_a_service_that_answers_and_ends_in_good_order_is_not_reset(upgrade: bytes) -> None:
    """Some programs end on such a reset: one has no handler for errors of a socket whose upgrade it refused."""
    seen: list[bytes | OSError] = []

    def handle(sock: Any, _: Any) -> None:
        read_head(sock)
        sock.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
        sock.shutdown(SHUT_WR)
        try:
            seen.append(sock.recv(1))
        except OSError as error:
            seen.append(error)

    with bench(handle) as made:
        call = made.node.open(length=-1, end=False, upgrade=upgrade)
        eventually(lambda: seen, "the end of the connection")
        assert seen == [b""]
        assert call.head is not None
        assert (call.head.status, bytes(call.body)) == (403, b"no")


# The base protocol.


def test_the_base_protocol_gets_its_responses_whole() -> None:
    with bench(echo, streaming=False) as made:
        call = made.node.open(b"POST", length=4, data=b"four").done()
        assert bytes(call.body) == b"four"


@covers("RPC-53")
def test_a_service_that_has_answered_and_takes_no_more_of_a_request_has_not_failed() -> None:
    def handle(sock: Any, _: Any) -> None:
        read_head(sock)
        sock.sendall(OK)
        Signal().wait()

    size = 32 * 1024 * 1024
    with bench(handle, response_idle_s=0.1, access_log="json") as made:
        call = made.node.open(b"POST", length=size, end=False)
        upload = gevent.spawn(call.send, bytes(size), True)
        call.wait(lambda: call.reset, "the end of the request")
        upload.kill()
        assert (bytes(call.body), call.ended) == (b"hello", True)
        assert call.reset is not None and call.reset.code is ResetCode.NOT_WANTED
        eventually(lambda: made.lines, "the line")
        assert json.loads(made.lines[0])["outcome"] == "ok"


@pytest.mark.parametrize("size", [4096, 4097])
def test_no_more_of_a_response_goes_with_its_head_than_a_message_may_have(size: int) -> None:
    limits = RpcLimits(data_bytes_max=4096, window_bytes_max=RpcLimits().window_bytes)
    response = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + pattern(size)
    with bench(answering(response), limits=limits) as made:
        call = made.node.get()
        assert bytes(call.body) == pattern(size)
        (with_head,) = (event.data for event in call.events if isinstance(event, HeadReceived))
        assert len(with_head) == (size if size <= 4096 else 0)


@covers("RPC-23")
def test_an_upgrade_that_a_server_of_the_base_protocol_passes_on_is_refused_and_the_service_not_asked() -> None:
    asks = b"Host: web.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    with bench(answering(OK), streaming=False) as made:
        call = made.node.get(fields=asks)
        assert call.head is not None
        assert (call.head.status, made.metrics.service_connections_opened) == (503, 0)
        assert made.node.get().ended


def test_failures_on_the_base_protocol_are_responses_that_say_which_part_failed() -> None:
    with serving(answering(OK)) as server:
        port = server.server_port
    made = Bench(port, streaming=False)
    try:
        call = made.node.get()
        assert call.head is not None
        assert call.head.status == 502
        assert json.loads(call.body)["error"]["code"] == "service_unreachable"
    finally:
        made.close()


def test_a_slow_service_on_the_base_protocol_is_a_504() -> None:
    with bench(lambda sock, _: sock.recv(65536) and gevent.sleep(5), streaming=False, response_head_s=0.1) as made:
        call = made.node.get()
        assert call.head is not None
        assert call.head.status == 504


def test_a_response_that_is_too_large_for_the_base_protocol_is_a_502() -> None:
    size = 5 * 1024 * 1024
    with bench(
        answering(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size)), streaming=False
    ) as made:
        call = made.node.get()
        assert call.head is not None
        assert call.head.status == 502
        eventually(lambda: len(made.service) == 0, "the end of the connection")


# What is counted and logged.


def test_a_request_is_counted_and_logged_without_its_query() -> None:
    with bench(echo, access_log="json") as made:
        fields = (
            b"Host: web.example\r\nX-Request-Id: abc-1\r\nX-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: https\r\n"
        )
        made.node.open(b"POST", b"/a?token=secret", fields=fields, length=4, data=b"four").done()
        eventually(lambda: made.lines, "the line")
        line = json.loads("".join(made.lines))
        assert (line["request_id"], line["remote"], line["scheme"]) == ("abc-1", "192.0.2.7", "https")
        assert (line["endpoint"], line["path"], line["status"], line["outcome"]) == ("web", "/a", 200, "ok")
        assert (line["bytes_in"], line["bytes_out"]) == (4, 4)
        assert "secret" not in "".join(made.lines)
        assert (made.metrics.bytes_in, made.metrics.bytes_out) == (4, 4)


def test_a_request_that_is_over_leaves_nothing_to_the_garbage_collector() -> None:
    def exchanges() -> int:
        return sum(type(one) is ServiceExchange for one in gc.get_objects())

    with bench(answering(OK)) as made:
        gc.collect()
        gc.disable()
        try:
            before = exchanges()
            for _ in range(3):
                made.node.get()
            eventually(lambda: exchanges() == before, "the end of the exchanges")
        finally:
            gc.enable()


# What a service has not read of a request.

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: web.example\r\nX-Rest: "
"""The beginning of a request, which the next one on the connection would end."""


def careless(sock: Any, _: Any) -> None:
    """Answers with the method and the target of each head that it finds, and looks for no body."""
    rest = b""
    while True:
        head, rest = read_head(sock, rest)
        if not head:
            return
        method, target, _ = head.split(b" ", 2)
        status = b"404 Not Found" if target == b"/missing" else b"200 OK"
        body = b"%b %b" % (method, target)
        sock.sendall(b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body))


@covers("HTTP-74")
@pytest.mark.parametrize(
    "method, target", [(b"GET", b"/"), (b"DELETE", b"/"), (b"OPTIONS", b"/"), (b"POST", b"/missing")]
)
def test_a_body_that_the_service_did_not_read_is_not_the_request_of_another(method: bytes, target: bytes) -> None:
    with bench(careless) as made:
        first = made.node.open(method, target, length=len(SMUGGLED), data=SMUGGLED).done()
        assert bytes(first.body) == method + b" " + target
        assert bytes(made.node.get(b"/mine").body) == b"GET /mine"
        assert made.metrics.service_connections_opened == 2


@covers("HTTP-75")
def test_trailers_that_the_service_did_not_read_are_not_the_request_of_another() -> None:
    def knows_no_trailers(sock: Any, address: Any) -> None:
        """As some do: a chunked body ends with the line of the last chunk and what seems to be an empty one."""
        head, rest = read_head(sock)
        if head.startswith(b"POST"):
            while not rest.endswith(b"\r\n\r\n"):
                rest += sock.recv(65536)
            sock.sendall(OK)
            if sock.recv(1):  # used again
                sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged")
        elif head:
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nmine")

    with bench(knows_no_trailers) as made:
        call = made.node.open(b"POST", length=-1, data=b"abc", end=False)
        made.node.multiplexer.send_trailers(call.stream, b"X: /smuggled HTTP/1.1\r\nA: b\r\n")
        assert bytes(call.done().body) == b"hello"
        assert bytes(made.node.get(b"/mine").body) == b"mine"


# The standard library's own server, as a stranger.


@covers("HTTP-74")
def test_a_get_with_a_body_at_the_standard_library_is_one_request(tmp_path: Path) -> None:
    (tmp_path / "mine").write_bytes(b"mine")
    (tmp_path / "smuggled").write_bytes(b"smuggled")

    class Handler(SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Server:
        server_name = "test"
        server_port = 0

    def handle(sock: Any, address: Any) -> None:
        Handler(sock, address, Server(), directory=str(tmp_path))  # type: ignore[arg-type]

    with bench(handle) as made:
        first = made.node.open(b"GET", b"/mine", length=len(SMUGGLED), data=SMUGGLED).done()
        assert bytes(first.body) == b"mine"
        assert bytes(made.node.get(b"/mine").body) == b"mine"


def test_the_servers_of_the_standard_library_are_served() -> None:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(201)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Server:
        server_name = "test"
        server_port = 0

    with bench(lambda sock, address: Handler(sock, address, Server()) and None) as made:  # type: ignore[arg-type]
        for number in range(3):
            body = pattern(100_000 + number)
            call = made.node.open(b"POST", length=len(body), end=False)
            call.send(body, end=True)
            assert bytes(call.done().body) == body
        assert made.metrics.service_connections_opened == 1
