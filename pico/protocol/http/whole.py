"""Whole messages: one request or one response in wire format, as the base protocol carries them.

Responsible for: both directions of that. Refuses to know: the message around it, and how many are in flight.
"""

from __future__ import annotations

import re

from pico.config import HttpLimits
from pico.protocol.http.failures import Failure
from pico.protocol.http.framing import encode_chunk, last_chunk
from pico.protocol.http.request import RequestReader, RequestRejected
from pico.protocol.http.response import SENDS_CONTENT, ResponseReader, ResponseRejected
from pico.protocol.http.values import UNKNOWN_LENGTH, RequestHead, ResponseHead

__all__ = ["encode_whole_request", "encode_whole_response", "parse_whole_request", "parse_whole_response"]

_EXPECT_LINE = re.compile(rb"(?<![^\n])[Ee][Xx][Pp][Ee][Cc][Tt]:[^\r]*+\r\n")


def encode_whole_request(head: RequestHead, body: bytes, trailer_block: bytes = b"") -> bytes:
    """One request in wire format; an expectation is left out, because the body is there already."""
    block = _EXPECT_LINE.sub(b"", head.field_block)
    has_body = bool(body) or head.method in SENDS_CONTENT
    return b"%b %b HTTP/1.1\r\n%b%b" % (head.method, head.target, block, _framed(body, trailer_block, has_body))


def encode_whole_response(head: ResponseHead, body: bytes, trailer_block: bytes = b"", method: bytes = b"") -> bytes:
    """One final response, to a request with ``method``, in wire format."""
    start = b"HTTP/1.1 %d %b\r\n%b" % (head.status, head.reason, head.field_block)
    if head.status == 204:
        return start + b"\r\n"
    if method == b"HEAD" or head.status == 304:
        return start + (b"Content-Length: %d\r\n\r\n" % head.body_length if head.body_length >= 0 else b"\r\n")
    return start + _framed(body, trailer_block, True)


def _framed(body: bytes, trailer_block: bytes, has_body: bool) -> bytes:
    if trailer_block:
        chunk = encode_chunk(body) if body else b""
        return b"Transfer-Encoding: chunked\r\n\r\n" + chunk + last_chunk(trailer_block)
    return b"Content-Length: %d\r\n\r\n%b" % (len(body), body) if has_body else b"\r\n"


def parse_whole_request(payload: bytes, limits: HttpLimits, body_bytes_max: int) -> tuple[RequestHead, bytes, bytes]:
    """Head, body and trailers of a payload that is one whole request; raises ``RequestRejected``."""
    reader = RequestReader(limits)
    reader.receive_data(payload)
    reader.receive_eof()
    request = reader.next_head()
    if request is None:
        raise RequestRejected(Failure.BAD_REQUEST, "the message is empty")
    if request.body_length > body_bytes_max:
        raise RequestRejected(Failure.BODY_TOO_LARGE, f"more than {body_bytes_max} bytes")
    body = _whole_body(reader)
    if len(body) > body_bytes_max:
        raise RequestRejected(Failure.BODY_TOO_LARGE, f"more than {body_bytes_max} bytes")
    if reader.buffered:
        raise RequestRejected(Failure.BAD_REQUEST, "something follows the request")
    block = _EXPECT_LINE.sub(b"", request.field_block())
    length = UNKNOWN_LENGTH if request.upgrade else len(body)
    return RequestHead(request.method, request.target, block, length, request.upgrade), body, reader.trailer_block


def parse_whole_response(payload: bytes, method: bytes, limits: HttpLimits) -> tuple[list[ResponseHead], bytes, bytes]:
    """Heads, the final one last, body and trailers of a payload that is one whole response to ``method``.

    Raises ``ResponseRejected``.
    """
    reader = ResponseReader(limits)
    reader.begin(method)
    reader.receive_data(payload)
    reader.receive_eof()
    heads: list[ResponseHead] = []
    while not heads or heads[-1].status < 200:
        head = reader.next_head()
        assert head is not None  # at its end the reader gives a head or raises
        heads.append(head)
    body = _whole_body(reader)
    if reader.excess:
        raise ResponseRejected(Failure.SERVICE_MALFORMED, "something follows the response")
    return heads, body, reader.trailer_block


def _whole_body(reader: RequestReader | ResponseReader) -> bytes:
    """Everything is there: what the first call does not end is cut short, and the second says so."""
    body, end = reader.next_body()
    if not end:
        reader.next_body()
    return body
