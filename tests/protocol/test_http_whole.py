"""Whole messages, as the base protocol carries them."""

from __future__ import annotations

import pytest

from pico.config import HttpLimits
from pico.errors import RemoteProtocolError
from pico.protocol.http import (
    UNKNOWN_LENGTH,
    Failure,
    RequestHead,
    RequestRejected,
    ResponseHead,
    ResponseRejected,
    encode_whole_request,
    encode_whole_response,
    parse_whole_request,
    parse_whole_response,
)
from tests.rules import covers
from tests.values import but

LIMITS = HttpLimits()
BLOCK = b"Host: ep.example\r\nA: b\r\n"


def request(method: bytes = b"POST", length: int = 0, block: bytes = BLOCK) -> RequestHead:
    return RequestHead(method, b"/x", block, length, b"")


def response(status: int = 200, length: int = UNKNOWN_LENGTH, block: bytes = b"A: b\r\n") -> ResponseHead:
    return ResponseHead(status, b"x", block, length, b"")


@covers("HTTP-57", "HTTP-56")
@pytest.mark.parametrize(
    "head, body, trailers, end",
    [
        (request(b"GET"), b"", b"", b"\r\n"),
        (request(), b"", b"", b"Content-Length: 0\r\n\r\n"),
        (request(length=3), b"abc", b"", b"Content-Length: 3\r\n\r\nabc"),
        (request(b"GET", UNKNOWN_LENGTH), b"abc", b"", b"Content-Length: 3\r\n\r\nabc"),
        (
            request(length=UNKNOWN_LENGTH),
            b"abc",
            b"X-Sum: 1\r\n",
            b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n",
        ),
        (request(), b"", b"X-Sum: 1\r\n", b"Transfer-Encoding: chunked\r\n\r\n0\r\nX-Sum: 1\r\n\r\n"),
    ],
)
def test_a_request_there_and_back(head, body, trailers, end):
    wire = encode_whole_request(head, body, trailers)
    assert wire == head.method + b" /x HTTP/1.1\r\n" + BLOCK + end
    read = parse_whole_request(wire, LIMITS, 1000)
    assert read == (but(head, body_length=len(body)), body, trailers)


@covers("HTTP-57")
def test_a_whole_request_expects_nothing_and_says_nothing_of_its_hop():
    head = request(length=3, block=b"Expect: 100-continue\r\n" + BLOCK + b"X-Expect: a\r\neXPECT: b\r\n")
    wire = encode_whole_request(head, b"abc")
    assert wire == b"POST /x HTTP/1.1\r\n" + BLOCK + b"X-Expect: a\r\nContent-Length: 3\r\n\r\nabc"
    wire = b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nConnection: A\r\n" + BLOCK + b"Content-Length: 1\r\n\r\na"
    assert parse_whole_request(wire, LIMITS, 1)[0].field_block == b"Host: ep.example\r\n"


@covers("HTTP-57")
@pytest.mark.parametrize(
    "wire, failure",
    [
        (b"", Failure.BAD_REQUEST),
        (b"\r\n", Failure.BAD_REQUEST),
        (b"GET / HTTP/1.1\r\nHost: a.b\r\n", Failure.BAD_REQUEST),
        (b"GET / HTTP/1.1\r\n\r\n", Failure.BAD_REQUEST),
        (b"GET / HTTP/1.1\r\nHost: a.b\r\n\r\nx", Failure.BAD_REQUEST),
        (b"POST / HTTP/1.1\r\nHost: a.b\r\nContent-Length: 2\r\n\r\na", Failure.BODY_INCOMPLETE),
        (b"POST / HTTP/1.1\r\nHost: a.b\r\nContent-Length: 2\r\n\r\nabc", Failure.BAD_REQUEST),
        (b"POST / HTTP/1.1\r\nHost: a.b\r\nContent-Length: 6\r\n\r\nabcdef", Failure.BODY_TOO_LARGE),
        (b"POST / HTTP/1.1\r\nHost: a.b\r\nContent-Length: 99999\r\n\r\n", Failure.BODY_TOO_LARGE),
        (
            b"POST / HTTP/1.1\r\nHost: a.b\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nabcdef\r\n0\r\n\r\n",
            Failure.BODY_TOO_LARGE,
        ),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a.b\r\n\r\n", Failure.METHOD_NOT_ALLOWED),
    ],
)
def test_a_payload_that_is_not_one_whole_request(wire, failure):
    with pytest.raises(RequestRejected) as caught:
        parse_whole_request(wire, LIMITS, 5)
    assert caught.value.failure is failure
    assert isinstance(caught.value, RemoteProtocolError)


@covers("HTTP-57")
def test_an_upgrade_is_seen_so_that_it_can_be_refused():
    wire = b"GET / HTTP/1.1\r\nHost: a.b\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"
    assert parse_whole_request(wire, LIMITS, 5)[0] == RequestHead(b"GET", b"/", b"Host: a.b\r\n", UNKNOWN_LENGTH, b"x")


@covers("HTTP-57", "HTTP-51")
@pytest.mark.parametrize(
    "head, body, trailers, method, end, length",
    [
        (response(), b"abc", b"", b"GET", b"Content-Length: 3\r\n\r\nabc", 3),
        (response(), b"", b"", b"GET", b"Content-Length: 0\r\n\r\n", 0),
        (response(length=7), b"", b"", b"HEAD", b"Content-Length: 7\r\n\r\n", 7),
        (response(length=0), b"", b"", b"HEAD", b"Content-Length: 0\r\n\r\n", 0),
        (response(), b"", b"", b"HEAD", b"\r\n", UNKNOWN_LENGTH),
        (response(304, 7), b"", b"", b"GET", b"Content-Length: 7\r\n\r\n", 7),
        (response(304), b"", b"", b"GET", b"\r\n", UNKNOWN_LENGTH),
        (response(204, 0), b"", b"", b"GET", b"\r\n", 0),
        (response(204, 0), b"", b"", b"HEAD", b"\r\n", 0),
        (
            response(),
            b"abc",
            b"X-Sum: 1\r\n",
            b"GET",
            b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n",
            UNKNOWN_LENGTH,
        ),
    ],
)
def test_a_response_there_and_back(head, body, trailers, method, end, length):
    wire = encode_whole_response(head, body, trailers, method)
    assert wire == b"HTTP/1.1 %d x\r\nA: b\r\n" % head.status + end
    assert parse_whole_response(wire, method, LIMITS) == ([but(head, body_length=length)], body, trailers)


@covers("HTTP-57", "HTTP-45")
def test_informational_responses_come_before_the_final_one():
    wire = b"HTTP/1.1 103 x\r\nA: b\r\n\r\nHTTP/1.1 200 x\r\n\r\nuntil the end"
    heads, body, trailers = parse_whole_response(wire, b"GET", LIMITS)
    assert heads == [response(103, 0), response(block=b"")]
    assert (body, trailers) == (b"until the end", b"")


@covers("HTTP-57", "HTTP-31")
@pytest.mark.parametrize(
    "wire, failure",
    [
        (b"", Failure.SERVICE_CLOSED),
        (b"HTTP/1.1 103 x\r\n\r\n", Failure.SERVICE_CLOSED),
        (b"HTTP/1.1 200 x\r\nContent-Length: 2\r\n\r\na", Failure.SERVICE_CLOSED),
        (b"HTTP/1.1 200 x\r\nContent-Length: 1\r\n\r\nab", Failure.SERVICE_MALFORMED),
        (b"HTTP/1.1 204 x\r\n\r\nab", Failure.SERVICE_MALFORMED),
        (b"HTTP/1.1 101 x\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", Failure.SERVICE_MALFORMED),
        (b"nonsense\r\n\r\n", Failure.SERVICE_MALFORMED),
    ],
)
def test_a_payload_that_is_not_one_whole_response(wire, failure):
    with pytest.raises(ResponseRejected) as caught:
        parse_whole_response(wire, b"GET", LIMITS)
    assert caught.value.failure is failure
    assert isinstance(caught.value, RemoteProtocolError)
