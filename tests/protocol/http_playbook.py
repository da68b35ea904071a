"""Bytes in, messages out: how the tests of HTTP feed a reader and write down what it made of them.

Responsible for: feeding one input in several ways and for the values that can be compared afterwards. Refuses to know:
what is right.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

from pico.config import HttpLimits
from pico.protocol.http import (
    Rejected,
    Request,
    RequestReader,
    ResponseHead,
    ResponseReader,
    endpoint_of,
)

LIMITS = HttpLimits()


@dataclass(frozen=True)
class ReadRequest:
    """One request and its body, as far as it came."""

    request: Request
    body: bytes
    trailers: bytes
    complete: bool

    def seen(self) -> dict[str, object]:
        """Everything that a vector may ask for."""
        request = self.request
        endpoint = endpoint_of(request)
        return {
            "method": request.method.decode("latin-1"),
            "target": request.target.decode("latin-1"),
            "minor": request.minor,
            "authority": request.authority.decode("latin-1"),
            "endpoint": endpoint if isinstance(endpoint, str) else {"failure": endpoint.code},
            "length": request.body_length,
            "block": request.field_block().decode("latin-1"),
            "keep_alive": request.keep_alive,
            "expect_continue": request.expect_continue,
            "upgrade": request.upgrade.decode("latin-1"),
            "body": self.body.decode("latin-1"),
            "trailers": self.trailers.decode("latin-1"),
        }


@dataclass(frozen=True)
class Outcome:
    """What a reader made of its input: messages, and the failure at which it stopped, if any."""

    messages: list[dict[str, object]]
    failure: str | None
    left: int = 0


def cuts(data: bytes, seed: int = 0) -> Iterator[tuple[str, list[bytes]]]:
    """The same bytes in several pieces: whole, one by one, by line, and cut at random."""
    yield "whole", [data]
    yield "byte by byte", [data[at : at + 1] for at in range(len(data))]
    yield "line by line", data.splitlines(keepends=True)
    rng = Random(seed)
    for number in range(4):
        places = sorted(rng.choices(range(len(data) + 1), k=rng.randint(1, 8)))
        yield (
            f"random {number}",
            [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True)],
        )


def read_requests(pieces: Iterable[bytes], limits: HttpLimits = LIMITS, *, eof: bool = True) -> Outcome:
    """Every request that a reader finds in ``pieces``."""
    reader, feed = RequestReader(limits), iter(pieces)
    found: list[ReadRequest] = []
    try:
        while (request := _next(reader, feed, eof=eof)) is not None:
            body, complete = _body(reader, feed, eof=eof)
            found.append(ReadRequest(request, body, reader.trailer_block if complete else b"", complete))
            if not complete:
                break
    except Rejected as rejected:
        return Outcome([one.seen() for one in found], rejected.failure.code)
    return Outcome([one.seen() for one in found], None, reader.buffered)


def read_response(
    pieces: Iterable[bytes],
    method: bytes = b"GET",
    upgrade: bytes = b"",
    limits: HttpLimits = LIMITS,
    *,
    eof: bool = True,
) -> Outcome:
    """The one response, with the informational ones before it, that a reader finds in ``pieces``."""
    reader, feed = ResponseReader(limits), iter(pieces)
    reader.begin(method, upgrade)
    heads: list[ResponseHead] = []
    body = b""
    try:
        while not heads or (heads[-1].status < 200 and heads[-1].status != 101):
            head = _next(reader, feed, eof=eof)
            if head is None:
                return Outcome([_response_seen(one) for one in heads], None, reader.buffered)
            heads.append(head)
        body, _ = _body(reader, feed, eof=eof)
        for rest in feed:
            reader.receive_data(rest)
    except Rejected as rejected:
        return Outcome([_response_seen(one) for one in heads], rejected.failure.code)
    seen = [_response_seen(one) for one in heads]
    seen[-1] |= {
        "body": body.decode("latin-1"),
        "trailers": reader.trailer_block.decode("latin-1"),
        "reusable": reader.reusable,
    }
    return Outcome(seen, None, reader.excess)


def _response_seen(head: ResponseHead) -> dict[str, object]:
    return {
        "status": head.status,
        "reason": head.reason.decode("latin-1"),
        "block": head.field_block.decode("latin-1"),
        "length": head.body_length,
        "upgrade": head.upgrade.decode("latin-1"),
    }


def _feed(reader: RequestReader | ResponseReader, feed: Iterator[bytes], *, eof: bool) -> bool:
    """Give the reader the next piece, or the end of file; False when there is nothing to give."""
    piece = next(feed, None)
    if piece is not None:
        reader.receive_data(piece)
    elif eof and not reader.at_eof:
        reader.receive_eof()
    else:
        return False
    return True


def _next(reader, feed, *, eof):  # type: ignore[no-untyped-def]
    while (head := reader.next_head()) is None:
        if not _feed(reader, feed, eof=eof):
            return None
    return head


def _body(reader: RequestReader | ResponseReader, feed: Iterator[bytes], *, eof: bool) -> tuple[bytes, bool]:
    body = b""
    while True:
        data, end = reader.next_body()
        body += data
        if end:
            return body, True
        if not data and not _feed(reader, feed, eof=eof):
            return body, False


def vector_bytes(value: str | Sequence[str | list[object]]) -> bytes:
    """The input of a vector: a string of bytes, or a list of such and of ``[string, times]``."""
    if isinstance(value, str):
        return value.encode("latin-1")
    return b"".join(
        part.encode("latin-1") if isinstance(part, str) else str(part[0]).encode("latin-1") * int(str(part[1]))
        for part in value
    )
