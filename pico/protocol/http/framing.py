"""How the end of a body is marked: the kinds of framing, and the chunked coding in both directions.

Responsible for: RFC 9112 §6.3 as four words, §7.1 as bytes, and what may be in a trailer section. Refuses to know:
whose message it is, and which framing a message has.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Final

from pico.config import HttpLimits
from pico.protocol.http.failures import Failure, Rejected
from pico.protocol.http.fields import VALUE, is_field_line, may_be_trailer

__all__ = [
    "CHUNKED",
    "CLOSE",
    "LAST_CHUNK",
    "LENGTH",
    "NO_BODY",
    "ChunkedDecoder",
    "Framing",
    "encode_chunk",
    "last_chunk",
]

LAST_CHUNK: Final = b"0\r\n\r\n"
CRLF: Final = b"\r\n"

OVERHEAD_BYTES_MAX: Final = 16 * 1024
"""Framing of a chunked body beyond 16 bytes for each chunk and two for each byte of data: Go's bound, taken over."""

_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;" + VALUE + rb"*+)?\r\n").match
"""Fifteen digits stay below 63 bits. No space before the extension, whose content is not looked at."""


class Framing(Enum):
    """How the end of a body is marked."""

    NONE = "none"
    """There is no body."""
    LENGTH = "length"
    """``Content-Length`` says how long it is."""
    CHUNKED = "chunked"
    CLOSE = "close"
    """The connection's end is its end; also the opaque bytes after an upgrade."""


# In Python 3.11 to look a member up in its class takes 0.1 us, and every message needs several.
NO_BODY, LENGTH, CHUNKED, CLOSE = Framing


def encode_chunk(data: bytes | memoryview) -> bytes:
    """One chunk; ``data`` is not empty, because an empty chunk would be the last one."""
    return b"".join((b"%x\r\n" % len(data), data, CRLF))


def last_chunk(trailer_block: bytes = b"") -> bytes:
    """The end of a chunked body, with those trailers of a valid field block that may go on."""
    lines = trailer_block.splitlines(keepends=True)
    kept = b"".join(line for line in lines if may_be_trailer(line.partition(b":")[0]))  # HTTP-27
    return b"0\r\n%b\r\n" % kept


class ChunkedDecoder:
    """One chunked body, decoded as it arrives.

    Holds no bytes of the body: what it cannot use yet stays with the caller, and is at most one chunk line or one
    line of the trailer section.
    """

    __slots__ = (
        "_awaits_crlf",
        "_in_trailers",
        "_left",
        "_limits",
        "_overhead",
        "_trailer_bytes",
        "_trailer_lines",
        "trailers",
    )

    def __init__(self, limits: HttpLimits) -> None:
        self._limits = limits
        self._left = 0  # data bytes of the present chunk that are still to come
        self._awaits_crlf = False
        self._in_trailers = False
        self._overhead = 0
        self._trailer_bytes = 0
        self._trailer_lines = 0
        self.trailers: list[bytes] = []

    def decode(self, buffer: bytes, at: int) -> tuple[bytes, int, bool]:
        """The data in ``buffer`` from ``at``, where to go on, and whether the body has ended; raises ``Rejected``."""
        pieces: list[bytes] = []
        size = len(buffer)
        while not self._in_trailers and at < size:
            if self._left:
                piece = buffer[at : at + self._left]
                pieces.append(piece)
                at += len(piece)
                self._left -= len(piece)
                self._awaits_crlf = not self._left
            elif self._awaits_crlf:
                if size - at < 2:
                    break
                if not buffer.startswith(CRLF, at):
                    raise Rejected(Failure.BAD_REQUEST, "the data of a chunk is not followed by CRLF")
                self._awaits_crlf = False
                at += 2
            else:
                after = self._read_chunk_line(buffer, at)
                if after == at:
                    break
                at = after
        end = False
        if self._in_trailers:
            at, end = self._read_trailers(buffer, at)
        return b"".join(pieces), at, end

    def _read_chunk_line(self, buffer: bytes, at: int) -> int:
        line = _CHUNK_LINE(buffer, at)
        if line is None:
            self._check_partial_line(buffer, at)
            return at
        length = line.end() - at
        if length > self._limits.chunk_line_bytes_max:
            raise Rejected(Failure.BAD_REQUEST, "a chunk line is too long")
        self._left = int(line[1], 16)
        self._in_trailers = not self._left
        self._overhead = max(0, self._overhead + length + 2 - 16 - 2 * self._left)
        if self._overhead > OVERHEAD_BYTES_MAX:
            raise Rejected(Failure.BAD_REQUEST, "the framing of the chunked body is out of proportion")
        return line.end()

    def _check_partial_line(self, buffer: bytes, at: int) -> None:
        if buffer.find(b"\n", at) >= 0:
            raise Rejected(Failure.BAD_REQUEST, "a chunk line is not valid")
        if len(buffer) - at > self._limits.chunk_line_bytes_max:
            raise Rejected(Failure.BAD_REQUEST, "a chunk line is too long")

    def _read_trailers(self, buffer: bytes, at: int) -> tuple[int, bool]:
        while True:
            feed = buffer.find(b"\n", at)
            length = (feed + 1 if feed >= 0 else len(buffer)) - at
            if self._trailer_bytes + length > self._limits.trailer_bytes_max + 2:
                raise Rejected(Failure.FIELDS_TOO_LARGE, "the trailer section is too large")
            if feed < 0:
                return at, False
            line = buffer[at : feed + 1]
            at = feed + 1
            self._trailer_bytes += length
            if line == CRLF:
                return at, True
            self._take_trailer(line)

    def _take_trailer(self, line: bytes) -> None:
        if not line.endswith(CRLF) or is_field_line(line[:-2]) is None:
            raise Rejected(Failure.BAD_REQUEST, "a trailer field is not valid")
        self._trailer_lines += 1
        if self._trailer_lines > self._limits.fields_max:
            raise Rejected(Failure.FIELDS_TOO_LARGE, "there are too many trailer fields")
        if may_be_trailer(line.partition(b":")[0]):
            self.trailers.append(line)
