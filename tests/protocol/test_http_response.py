"""The reader of responses as its owner uses it, and requests written to a service."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import pytest

from pico.config import HttpLimits
from pico.errors import LocalProtocolError
from pico.protocol.http import (
    UNKNOWN_LENGTH,
    Failure,
    Framing,
    RequestHead,
    RequestReader,
    ResponseReader,
    ResponseRejected,
    may_be_left_unread,
    service_request,
)
from tests.rules import covers

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def reader_with(data: bytes, method: bytes = b"GET", upgrade: bytes = b"") -> ResponseReader:
    reader = ResponseReader(HttpLimits())
    reader.begin(method, upgrade)
    reader.receive_data(data)
    return reader


def body_of(reader: ResponseReader) -> bytes:
    assert reader.next_head() is not None
    body, end = reader.next_body()
    assert end
    return body


@covers("HTTP-55")
def test_one_connection_carries_one_response_after_the_other():
    reader = ResponseReader(HttpLimits())
    assert reader.reusable
    for method, data, body in ((b"GET", OK, b"ok"), (b"PUT", OK, b"ok"), (b"GET", OK, b"ok")):
        reader.begin(method)
        assert not reader.reusable
        reader.receive_data(data)
        assert body_of(reader) == body
        assert reader.reusable


@covers("HTTP-51")
@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
@pytest.mark.parametrize(
    "length, reusable",
    [
        (b"", True),
        (b"Content-Length: 0\r\n", True),
        (b"Content-Length: 6\r\n", False),
        (b"Transfer-Encoding: chunked\r\n", False),
    ],
)
def test_a_response_without_content_that_announces_some_ends_the_use_of_its_connection(status, length, reusable):
    reader = reader_with(b"HTTP/1.1 " + status + b"\r\n" + length + b"\r\n")
    assert body_of(reader) == b""
    assert reader.reusable is reusable


@covers("HTTP-71")
@pytest.mark.parametrize(
    "head, reusable",
    [
        (b"200 OK\r\nContent-Length: 6", False),
        (b"200 OK\r\nTransfer-Encoding: chunked", False),
        (b"200 OK\r\nServer: some", False),
        (b"404 Not Found\r\nContent-Length: 6", False),
        (b"200 OK\r\nContent-Length: 0", True),
        (b"204 No Content\r\nServer: some", True),
        (b"204 No Content\r\nContent-Length: 6", False),
        (b"304 Not Modified\r\nContent-Length: 6", False),
        (b"304 Not Modified\r\nServer: some", True),
    ],
)
def test_a_connection_on_which_the_body_of_a_get_may_follow_a_response_to_head_is_not_used_again(head, reusable):
    reader = reader_with(b"HTTP/1.1 " + head + b"\r\n\r\n", b"HEAD")
    assert body_of(reader) == b""
    assert reader.reusable is reusable


@covers("HTTP-70")
@pytest.mark.parametrize(
    "field, reusable",
    [
        (b"WWW-Authenticate: NTLM", False),
        (b"WWW-Authenticate: NTLM TlRMTVNTUAACAAAA", False),
        (b"www-authenticate:negotiate oYG2MIGz", False),
        (b'Www-authenticate: Basic realm="a" ,\tNegotiate', False),
        (b'WWW-Authenticate: Basic realm="of NTLM"', True),
        (b'WWW-Authenticate: Digest realm="a", nonce=ntlm', True),
        (b"WWW-Authenticate: NTLMv3", True),
        (b"X-Authenticate: NTLM", True),
    ],
)
def test_a_connection_on_which_the_service_may_know_who_asks_is_not_used_for_another(field, reusable):
    for status in (b"401 Unauthorized", b"200 OK"):
        reader = reader_with(b"HTTP/1.1 " + status + b"\r\n" + field + b"\r\nContent-Length: 0\r\n\r\n")
        head = reader.next_head()
        assert head is not None and head.field_block == field + b"\r\n"
        assert reader.next_body() == (b"", True)
        assert reader.reusable is reusable


@covers("HTTP-73")
@pytest.mark.parametrize(
    "field, idle_s",
    [
        (b"Keep-Alive: timeout=5", 4.0),
        (b"Keep-Alive: timeout=5, max=100", 4.0),
        (b"keep-alive:max=100 ,\tTIMEOUT=10", 8.0),
        (b"Keep-Alive: timeout=0", 0.0),
        (b"Keep-Alive: max=100", inf),
        (b"Keep-Alive: timeout=5s", inf),
        (b"Keep-Alive: xtimeout=5", inf),
        (b"Proxy-Connection: timeout=5", inf),
        (b"X-Keep-Alive: timeout=5", inf),
    ],
)
def test_how_long_a_connection_may_be_idle_is_what_the_service_says_less_a_fifth(field, idle_s):
    reader = reader_with(b"HTTP/1.1 200 OK\r\n" + field + b"\r\nContent-Length: 0\r\n\r\n")
    assert reader.next_head() is not None
    assert reader.next_body() == (b"", True)
    assert (reader.idle_s, reader.reusable) == (idle_s, True)
    reader.begin(b"GET")
    reader.receive_data(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    assert reader.next_head() is not None
    assert reader.idle_s == inf  # of the last response only


@covers("HTTP-44")
def test_what_is_said_of_pico_counts_only_where_a_node_says_it():
    answer = b"HTTP/1.1 200 OK\r\nX-Pico-Node: a\r\nKeep-Alive: 5\r\nA: b\r\nContent-Length: 0\r\n\r\n"
    for of_node, block in ((False, b"A: b\r\n"), (True, b"X-Pico-Node: a\r\nA: b\r\n")):
        reader = ResponseReader(HttpLimits(), of_node=of_node)
        reader.begin(b"GET")
        reader.receive_data(answer)
        head = reader.next_head()
        assert head is not None and head.field_block == block


@covers("HTTP-31", "HTTP-55")
def test_bytes_that_nobody_asked_for_end_the_use_of_a_connection():
    reader = reader_with(OK + b"x")
    assert body_of(reader) == b"ok"
    assert reader.excess == 1
    assert not reader.reusable
    idle = reader_with(OK)
    assert body_of(idle) == b"ok"
    idle.receive_data(OK)
    assert idle.excess == len(OK)
    assert not idle.reusable
    with pytest.raises(LocalProtocolError):
        idle.begin(b"GET")


@covers("HTTP-55")
def test_an_end_of_file_behind_a_response_ends_the_use_of_a_connection():
    reader = reader_with(OK)
    assert body_of(reader) == b"ok"
    reader.receive_eof()
    assert not reader.reusable


@covers("HTTP-55")
def test_a_connection_that_cannot_be_used_again_is_not():
    reader = reader_with(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
    with pytest.raises(LocalProtocolError):
        reader.begin(b"GET")
    assert body_of(reader) == b""
    assert not reader.reusable
    with pytest.raises(LocalProtocolError):
        reader.begin(b"GET")


def test_heads_and_bodies_are_asked_for_in_turn():
    reader = ResponseReader(HttpLimits())
    with pytest.raises(LocalProtocolError):
        reader.next_head()
    reader.begin(b"GET")
    with pytest.raises(LocalProtocolError):
        reader.begin(b"GET")
    with pytest.raises(LocalProtocolError):
        reader.next_body()
    reader.receive_data(OK)
    assert reader.next_head() is not None
    with pytest.raises(LocalProtocolError):
        reader.next_head()
    assert reader.next_body() == (b"ok", True)
    with pytest.raises(LocalProtocolError):
        reader.next_head()


@covers("HTTP-53")
def test_what_was_refused_stays_refused():
    reader = reader_with(b"HTTP/1.1 200 OK\r\nX y: z\r\n\r\n")
    for _ in range(2):
        with pytest.raises(ResponseRejected) as caught:
            reader.next_head()
        assert caught.value.failure is Failure.SERVICE_MALFORMED
    assert not reader.reusable
    assert reader.excess == 0


@covers("HTTP-45")
def test_informational_responses_are_counted_for_each_request():
    limits = replace(HttpLimits(), informational_max=1)
    reader = ResponseReader(limits)
    for _ in range(3):
        reader.begin(b"GET")
        reader.receive_data(b"HTTP/1.1 103 x\r\n\r\n" + OK)
        assert (head := reader.next_head()) is not None
        assert head.status == 103
        assert body_of(reader) == b"ok"


@covers("HTTP-49")
def test_bytes_behind_a_switch_come_as_they_are_until_the_end():
    reader = reader_with(
        b"HTTP/1.1 101 x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nHTTP/1.1 ", upgrade=b"websocket"
    )
    assert (head := reader.next_head()) is not None
    assert head.status == 101
    assert reader.next_body() == (b"HTTP/1.1 ", False)
    reader.receive_data(b"\x00\xff")
    assert reader.next_body() == (b"\x00\xff", False)
    reader.receive_eof()
    assert reader.next_body() == (b"", True)
    assert not reader.reusable
    with pytest.raises(LocalProtocolError):
        reader.next_head()
    with pytest.raises(LocalProtocolError):
        reader.begin(b"GET")


@covers("HTTP-53", "HTTP-8")
@pytest.mark.parametrize("size, good", [(0, True), (1, False)])
def test_a_head_may_be_as_large_as_the_limit(size, good):
    limits = replace(HttpLimits(), head_bytes_max=len(OK) - 2)
    reader = ResponseReader(limits)
    reader.begin(b"GET")
    reader.receive_data(OK.replace(b"OK", b"OK" + b"x" * size))
    if good:
        assert reader.next_head() is not None
    else:
        with pytest.raises(ResponseRejected):
            reader.next_head()


@covers("HTTP-29")
def test_the_limit_on_request_bodies_is_none_on_responses():
    reader = ResponseReader(replace(HttpLimits(), body_bytes_max=1))
    reader.begin(b"GET")
    reader.receive_data(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    assert body_of(reader) == b"ok"
    reader.begin(b"GET")
    reader.receive_data(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")
    assert body_of(reader) == b"ok"


# Requests to a service.

BLOCK = b"Host: ep.example\r\nA: b\r\n"


@covers("HTTP-56")
@pytest.mark.parametrize(
    "method, length, upgrade, end, framing",
    [
        (b"GET", 0, b"", b"", Framing.NONE),
        (b"DELETE", 0, b"", b"", Framing.NONE),
        (b"POST", 0, b"", b"Content-Length: 0\r\n", Framing.NONE),
        (b"PUT", 0, b"", b"Content-Length: 0\r\n", Framing.NONE),
        (b"PATCH", 0, b"", b"Content-Length: 0\r\n", Framing.NONE),
        (b"POST", 7, b"", b"Content-Length: 7\r\n", Framing.LENGTH),
        (b"GET", 1, b"", b"Connection: close\r\nContent-Length: 1\r\n", Framing.LENGTH),
        (b"GET", 7, b"", b"Connection: close\r\nContent-Length: 7\r\n", Framing.LENGTH),
        (b"POST", UNKNOWN_LENGTH, b"", b"Transfer-Encoding: chunked\r\n", Framing.CHUNKED),
        (b"GET", UNKNOWN_LENGTH, b"websocket", b"Upgrade: websocket\r\nConnection: upgrade\r\n", Framing.NONE),
    ],
)
def test_a_request_to_a_service_has_one_framing(method, length, upgrade, end, framing):
    head = RequestHead(method, b"/a?b", BLOCK, length, upgrade)
    assert service_request(head) == (method + b" /a?b HTTP/1.1\r\n" + BLOCK + end + b"\r\n", framing)


def test_the_host_can_be_another():
    block = b"A: b\r\nhOST: ep.example\r\nX-Host: c\r\nB: Host: d\r\n"
    wire, _ = service_request(RequestHead(b"GET", b"/", block, 0, b""), host_header=b"local:1")
    assert wire == b"GET / HTTP/1.1\r\nHost: local:1\r\nA: b\r\nX-Host: c\r\nB: Host: d\r\n\r\n"


def test_of_a_long_reason_the_beginning_goes_on():
    for status in (103, 200):
        head = reader_with(b"HTTP/1.1 %d %b\r\nContent-Length: 0\r\n\r\n" % (status, b"r" * 300)).next_head()
        assert head is not None
        assert head.reason == b"r" * 255


@covers("HTTP-33")
def test_te_is_nominated_where_it_goes_on():
    block = BLOCK + b"TE: trailers\r\n"
    wire, _ = service_request(RequestHead(b"GET", b"/", block, 0, b""))
    assert wire == b"GET / HTTP/1.1\r\n" + block + b"Connection: TE\r\n\r\n"
    wire, _ = service_request(RequestHead(b"GET", b"/", block, -1, b"x"))
    assert wire.count(b"Connection:") == 1
    for line in (b"X-TE: trailers\r\n", b"X: TE: trailers\r\n"):
        wire, _ = service_request(RequestHead(b"GET", b"/", BLOCK + line, 0, b""))
        assert b"Connection:" not in wire


@covers("HTTP-55")
def test_a_service_is_told_that_a_connection_carries_one_request():
    wire, _ = service_request(RequestHead(b"POST", b"/", BLOCK, 3, b""), close=True)
    assert wire == b"POST / HTTP/1.1\r\n" + BLOCK + b"Connection: close\r\nContent-Length: 3\r\n\r\n"
    wire, _ = service_request(RequestHead(b"GET", b"/", BLOCK + b"TE: trailers\r\n", 0, b""), close=True)
    assert b"\r\nConnection: close\r\nConnection: TE\r\n" in wire
    wire, _ = service_request(RequestHead(b"GET", b"/", BLOCK, -1, b"websocket"), close=True)
    assert b"close" not in wire


@covers("HTTP-74")
@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"DELETE", b"OPTIONS", b"POST", b"PUT", b"PATCH", b"get"])
@pytest.mark.parametrize("length", [0, 3, UNKNOWN_LENGTH])
def test_a_service_that_may_not_look_for_the_body_is_to_close(method, length):
    wire, _ = service_request(RequestHead(method, b"/", BLOCK, length, b""))
    usually_without = method in (b"GET", b"HEAD", b"DELETE", b"OPTIONS")
    assert (b"\r\nConnection: close\r\n" in wire) is (usually_without and length != 0)


@covers("HTTP-74", "HTTP-75")
@pytest.mark.parametrize(
    "method, length, status, trailers, left",
    [
        (b"POST", 3, 200, b"", False),
        (b"POST", UNKNOWN_LENGTH, 299, b"", False),
        (b"POST", 3, 300, b"", True),
        (b"PUT", UNKNOWN_LENGTH, 404, b"", True),
        (b"POST", 0, 404, b"", False),
        (b"GET", 3, 200, b"", True),
        (b"HEAD", 3, 200, b"", True),
        (b"DELETE", UNKNOWN_LENGTH, 204, b"", True),
        (b"OPTIONS", 3, 200, b"", True),
        (b"GET", 0, 404, b"", False),
        (b"POST", UNKNOWN_LENGTH, 200, b"A: b\r\n", True),
    ],
)
def test_what_a_service_may_have_left_of_a_request(method, length, status, trailers, left):
    assert may_be_left_unread(RequestHead(method, b"/", BLOCK, length, b""), status, trailers) is left


@covers("HTTP-74")
def test_a_request_for_an_upgrade_has_no_body_to_leave():
    assert not may_be_left_unread(RequestHead(b"GET", b"/", BLOCK, UNKNOWN_LENGTH, b"websocket"), 426, b"")


@covers("HTTP-26")
def test_a_service_reads_what_was_written():
    head = RequestHead(b"POST", b"/\xff?%zz", BLOCK, 3, b"")
    reader = RequestReader(HttpLimits())
    reader.receive_data(service_request(head)[0] + b"abc")
    request = reader.next_head()
    assert request is not None
    assert (request.method, request.target, request.body_length, request.field_block()) == (
        head.method,
        head.target,
        3,
        BLOCK,
    )
    assert reader.next_body() == (b"abc", True)
