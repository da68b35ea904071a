"""What reading a request and reading a response have in common.

Responsible for: the bytes that have arrived and are not used yet, the lines of a head, and the four ways in which a
body ends. Refuses to know: what a head means; ``RequestReader`` and ``ResponseReader`` say which framing follows it.

A reader holds at most one head, or one line inside a chunked body, and what was fed in one go: body bytes leave it with
the next ``next_body``. Whoever feeds it bounds it by not feeding.

What was refused stays refused: after an error nothing is read any more, because nobody can say where the next message
begins (HTTP-11).
"""

from __future__ import annotations

from typing import ClassVar, NoReturn

from pico.config import HttpLimits
from pico.errors import LocalProtocolError
from pico.protocol.http.failures import Failure, Rejected
from pico.protocol.http.fields import is_field_line
from pico.protocol.http.framing import CHUNKED, LENGTH, NO_BODY, ChunkedDecoder, Framing

__all__ = ["MessageReader"]


class MessageReader:
    """The base of both readers: feed it, then ask it for heads and bodies in turn."""

    _rejected: ClassVar[type[Rejected]]
    _translated: ClassVar[dict[Failure, Failure]]
    """What the failures of a request are called where it is a response that is read."""
    _cut_short: ClassVar[Failure]

    def __init__(self, limits: HttpLimits, body_bytes_max: int = 0) -> None:
        self._limits = limits
        self._body_bytes_max = body_bytes_max
        self._buffer = b""
        self._at = 0
        self._checked = 0  # bytes of the next head whose lines were looked at already
        self._lines_checked = 0
        self._in_body = False
        self._framing = NO_BODY
        self._left = 0
        self._received = 0
        self._must_be_empty = False
        self._decoder: ChunkedDecoder | None = None
        # Not the exception: its traceback leads to the frames that hold this reader, and both would stay until the
        # garbage collector finds them.
        self._failed: tuple[Failure, str] | None = None
        self._plain_bytes_max = min(limits.head_bytes_max, limits.field_line_bytes_max, limits.request_line_bytes_max)
        self.at_eof = False
        self.trailer_block = b""

    def receive_data(self, data: bytes) -> None:
        """Take bytes from the peer; what they mean is found by ``next_head`` and ``next_body``."""
        if self._failed is not None:
            return
        if self._at == len(self._buffer):
            self._buffer = data
        else:
            self._buffer = self._buffer[self._at :] + data
        self._at = 0

    def receive_eof(self) -> None:
        """The peer will send nothing more."""
        self.at_eof = True

    @property
    def buffered(self) -> int:
        """Bytes that are held."""
        return len(self._buffer) - self._at

    @property
    def started(self) -> bool:
        """Whether a byte of the next head is there, or a body is being read."""
        return self._in_body or self._at < len(self._buffer)

    def take_rest(self) -> bytes:
        """Everything that is held, for whoever speaks another protocol from now on."""
        rest = self._buffer[self._at :]
        self._buffer, self._at = b"", 0
        self._in_body = False
        return rest

    def next_body(self) -> tuple[bytes, bool]:
        """The body bytes that are there, and whether they are the last; afterwards ``trailer_block`` is set.

        ``(b"", False)`` means that more bytes are needed. Raises the reader's kind of ``Rejected``.
        """
        if not self._in_body:
            if self._failed is not None:
                self._fail(*self._failed)
            raise LocalProtocolError("there is no body to read")
        framing = self._framing
        if framing is NO_BODY:
            self._in_body = False
            self._advance(self._at)
            return b"", True
        if framing is LENGTH:
            return self._next_of_length()
        return self._next_chunks() if framing is CHUNKED else self._next_until_close()

    def _begin_body(self, framing: Framing, length: int = 0) -> None:
        self._in_body = True
        self._framing = framing
        self._left = length
        self._received = 0
        self.trailer_block = b""
        self._checked = self._lines_checked = 0
        if framing is CHUNKED:
            self._decoder = ChunkedDecoder(self._limits)

    def _advance(self, at: int) -> None:
        """What is before ``at`` has been used; of what has been used whole nothing is held."""
        if at == len(self._buffer):
            self._buffer, self._at = b"", 0
        else:
            self._at = at

    def _next_of_length(self) -> tuple[bytes, bool]:
        buffer, at = self._buffer, self._at
        if at == 0 and len(buffer) <= self._left:
            data = buffer
            self._buffer = b""
        else:
            data = buffer[at : at + self._left]
            self._advance(at + len(data))
        self._left -= len(data)
        if self._left:
            self._check_cut_short(data)
            return data, False
        self._in_body = False
        return data, True

    def _next_chunks(self) -> tuple[bytes, bool]:
        assert self._decoder is not None
        try:
            data, at, end = self._decoder.decode(self._buffer, self._at)
        except Rejected as rejected:
            self._fail(rejected.failure, str(rejected))
        self._advance(at)
        self._received += len(data)
        if 0 < self._body_bytes_max < self._received:  # HTTP-29
            self._fail(Failure.BODY_TOO_LARGE, f"more than {self._body_bytes_max} bytes")
        self._check_empty(data)
        if end:
            self._in_body = False
            self.trailer_block = b"".join(self._decoder.trailers)
            self._decoder = None
        else:
            self._check_cut_short(data)
        return data, end

    def _next_until_close(self) -> tuple[bytes, bool]:
        data = self._buffer[self._at :] if self._at else self._buffer
        self._buffer, self._at = b"", 0
        self._check_empty(data)
        self._in_body = not self.at_eof
        return data, self.at_eof

    def _check_empty(self, data: bytes) -> None:
        if data and self._must_be_empty:
            self._fail(Failure.BAD_REQUEST, "a response that must be empty has a body")

    def _check_cut_short(self, data: bytes) -> None:
        if self.at_eof and not data:
            self._fail(self._cut_short, "the connection ended in the middle of a body")

    def _fail(self, failure: Failure, detail: str) -> NoReturn:
        """Refuse what arrived, now and for ever."""
        failure = self._translated.get(failure, failure)
        self._failed = (failure, detail)
        self._buffer, self._at = b"", 0
        self._in_body = False
        raise self._rejected(failure, detail) from None

    # A head, line by line: for one that arrives in pieces, is large, or is not valid. What is found does not depend on
    # how the bytes were cut, because each line is judged when it is whole and only the limits before that.

    def _read_lines(self, too_long: Failure) -> tuple[bytes, list[bytes]] | None:
        """The first line and the field lines of the next head, or None; raises the reader's kind of ``Rejected``."""
        buffer, start = self._buffer, self._at
        at = start + self._checked
        while True:
            feed = buffer.find(b"\n", at)
            end = feed + 1 if feed >= 0 else len(buffer)
            self._check_sizes(at - start, end - at, too_long)
            if feed < 0:
                return None
            if at > start and end - at == 2 and buffer[at] == 0x0D:
                self._at = end
                first, *lines = buffer[start:at].split(b"\r\n")
                lines.pop()
                return first, lines
            self._check_line(buffer[at:end], at == start)
            at = end
            self._checked = at - start
            self._lines_checked += 1

    def _check_sizes(self, before: int, size: int, too_long: Failure) -> None:
        """Before anything is copied: HTTP-8."""
        limits = self._limits
        if before == 0:
            if size > limits.request_line_bytes_max:
                self._fail(too_long, f"the first line is longer than {limits.request_line_bytes_max} bytes")
        elif size > limits.field_line_bytes_max:
            self._fail(Failure.FIELDS_TOO_LARGE, f"a field is longer than {limits.field_line_bytes_max} bytes")
        if before + size > limits.head_bytes_max:
            self._fail(Failure.FIELDS_TOO_LARGE, f"the head is longer than {limits.head_bytes_max} bytes")
        if self._lines_checked > limits.fields_max and size > 2:
            self._fail(Failure.FIELDS_TOO_LARGE, f"there are more than {limits.fields_max} fields")

    def _check_line(self, line: bytes, first: bool) -> None:
        if not line.endswith(b"\r\n"):
            self._fail(Failure.BAD_REQUEST, "a line ends in LF alone")
        if first:
            self._check_first_line(line[:-2])
        elif is_field_line(line, 0, len(line) - 2) is None:
            self._fail(Failure.BAD_REQUEST, _fault_of_field(line[:-2]))

    def _check_first_line(self, line: bytes) -> None:
        raise NotImplementedError


def _fault_of_field(line: bytes) -> str:
    """What is wrong with a field line, without repeating what the peer sent."""
    name, colon, _ = line.partition(b":")
    if line[:1] in (b" ", b"\t"):
        return "a field line begins with whitespace"
    if not colon:
        return "a field line has no colon"
    if name[-1:] in (b" ", b"\t"):
        return "there is whitespace before the colon of a field"
    if is_field_line(name + b":") is None:
        return "the name of a field is not a token"
    return "the value of a field holds a control character"
