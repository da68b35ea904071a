"""Responses: from the bytes of a service's connection to heads and bodies, and requests written to it.

Responsible for: the grammar of a response's head, its framing, and what a service may answer (RFC 9112 §4-§7, RFC 9110
§15); the head of a request as it is written to a service. Refuses to know: connections, pools and deadlines.
"""

from __future__ import annotations

import re
from math import inf
from typing import ClassVar, Final

from pico.compiling import plain_class
from pico.config import HttpLimits
from pico.errors import LocalProtocolError, RemoteProtocolError
from pico.protocol.http.failures import Failure, Rejected
from pico.protocol.http.fields import (
    FIELD_LINES,
    OWS,
    RESPONSE_KINDS,
    Kind,
    connection_options,
    kind_in_response,
    may_be_nominated,
)
from pico.protocol.http.framing import CHUNKED, CLOSE, LENGTH, NO_BODY, Framing
from pico.protocol.http.reading import MessageReader
from pico.protocol.http.values import UNKNOWN_LENGTH, RequestHead, ResponseHead

__all__ = ["SENDS_CONTENT", "ResponseReader", "ResponseRejected", "may_be_left_unread", "service_request"]

_STATUS_LINE: Final = rb"HTTP/1\.([0-9]) ([1-5][0-9][0-9])(?: ([\t -~\x80-\xff]*+))?"
_HEAD = re.compile(_STATUS_LINE + rb"\r\n(" + FIELD_LINES + rb")\r\n").match
_FIRST_LINE = re.compile(_STATUS_LINE).fullmatch

REASON_BYTES_MAX: Final = 255
"""What goes on of a reason phrase, which clients ought to ignore (RFC 9112 §4)."""

_SWITCHING_PROTOCOLS: Final = 101
_NO_CONTENT: Final = 204
_RESET_CONTENT: Final = 205
_NOT_MODIFIED: Final = 304
_WITHOUT_BODY: Final = (_NO_CONTENT, _NOT_MODIFIED)
_LENGTH_DIGITS_MAX: Final = 18

_OF_A_CONNECTION = re.compile(rb"(?i)(?:\A|,)[ \t]*(?:ntlm|negotiate)(?![^ \t,])").search
"""A challenge of a scheme that authenticates the connection rather than a request."""

_TIMEOUT = re.compile(rb"(?i)(?:\A|,)[ \t]*timeout=([0-9]{1,9})(?![^ \t,])").search

USABLE_SHARE: Final = 0.8
"""Of the time that a service keeps an idle connection: the rest is for a request to reach it."""

_HOST_LINE = re.compile(rb"(?<![^\n])[Hh][Oo][Ss][Tt]:[^\r]*+\r\n")
_TE_LINE = re.compile(rb"(?<![^\n])TE: trailers\r\n").search
SENDS_CONTENT: Final = frozenset((b"POST", b"PUT", b"PATCH"))
"""As a rule with a body: where there is none, a length of 0 says so (RFC 9110 §8.6)."""

_SENDS_NONE: Final = frozenset((b"GET", b"HEAD", b"DELETE", b"OPTIONS"))
"""As a rule without: a body is allowed, and many a service does not look for it."""


@plain_class
class ResponseRejected(Rejected):
    """The service's bytes are not an acceptable response: the client gets ``failure``."""


class ResponseReader(MessageReader):
    """The responses on one connection to a service, or to a node; ``begin`` comes before each request.

    What a node says of itself in ``x-pico-...`` is kept; what a service says there is not (HTTP-44).
    """

    _rejected = ResponseRejected
    _translated: ClassVar[dict[Failure, Failure]] = {
        Failure.BAD_REQUEST: Failure.SERVICE_MALFORMED,
        Failure.FIELDS_TOO_LARGE: Failure.SERVICE_MALFORMED,
    }
    _cut_short = Failure.SERVICE_CLOSED

    def __init__(self, limits: HttpLimits, *, of_node: bool = False) -> None:
        super().__init__(limits)
        self._of_node = of_node
        self._method = b""
        self._upgrade = b""
        self._awaits_head = False
        self._informational = 0
        self._keep_alive = True
        self.idle_s = inf
        """How long the connection may be idle and yet carry another request, as the last response has it (HTTP-73)."""

    def begin(self, method: bytes, upgrade: bytes = b"") -> None:
        """A request with this method, asking for this upgrade or none, is about to be written."""
        if not self.reusable:
            raise LocalProtocolError("the connection cannot carry another request")
        self._method = method
        self._upgrade = upgrade
        self._awaits_head = True
        self._informational = 0

    @property
    def excess(self) -> int:
        """Bytes that came after the end of the response, or before any request: never part of a response."""
        return 0 if self._awaits_head or self._in_body else self.buffered

    @property
    def reusable(self) -> bool:
        """Whether the connection can carry another request: nothing is left, nothing is wrong, both sides keep it."""
        return self._keep_alive and not (
            self._awaits_head or self._in_body or self.at_eof or self._at < len(self._buffer) or self._failed
        )

    def next_head(self) -> ResponseHead | None:
        """The next head, informational ones too, or None when more bytes are needed; raises ``ResponseRejected``.

        After a final head, 101 among them, the body is read with ``next_body`` up to its end.
        """
        if self._failed is not None:
            self._fail(*self._failed)
        if not self._awaits_head:
            raise LocalProtocolError("no response is awaited")
        match = None if self._checked else _HEAD(self._buffer, self._at)
        if match is not None and match.end() - self._at <= self._plain_bytes_max:
            lines = match[4].split(b"\r\n")
            lines.pop()
            if len(lines) <= self._limits.fields_max:
                self._at = match.end()
                return self._interpret(match, lines, match[4])
        return self._next_unusual_head()

    def _next_unusual_head(self) -> ResponseHead | None:
        head = self._read_lines(Failure.SERVICE_MALFORMED)
        if head is None:
            if self.at_eof:
                self._fail(Failure.SERVICE_CLOSED, "the connection ended before the response head was complete")
            return None
        first, lines = head
        match = _FIRST_LINE(first)
        assert match is not None
        return self._interpret(match, lines, b"\r\n".join((*lines, b"")))

    def _check_first_line(self, line: bytes) -> None:
        if _FIRST_LINE(line) is None:
            self._fail(Failure.SERVICE_MALFORMED, "the first line is not a status line of HTTP/1.1")

    # What a valid head means.

    def _interpret(self, match: re.Match[bytes], lines: list[bytes], block: bytes) -> ResponseHead:
        self._checked = self._lines_checked = 0
        status, reason = int(match[2]), (match[3] or b"")[:REASON_BYTES_MAX]
        keep_alive = match[1] != b"0"
        length: bytes | None = None
        coding: bytes | None = None
        upgrade: bytes | None = None
        options: tuple[bytes, ...] = ()
        of_a_user = False
        idle_s = inf
        dropped: list[int] = []
        kinds = RESPONSE_KINDS
        for index, line in enumerate(lines):
            colon = line.index(b":")
            name = line[:colon]
            kind = kinds.get(name)
            if kind is None:
                kind = kind_in_response(name)
            if kind == Kind.ORDINARY or (kind == Kind.PICO and self._of_node):
                continue
            value = line[colon + 1 :].strip(OWS)
            if kind == Kind.AUTHENTICATE:
                of_a_user = of_a_user or _OF_A_CONNECTION(value) is not None
                continue
            dropped.append(index)
            if kind == Kind.CONTENT_LENGTH:
                if length is not None:
                    self._fail(Failure.SERVICE_MALFORMED, "there is more than one Content-Length field")
                length = value
            elif kind == Kind.CONNECTION:
                options += self._options(value)
            elif kind == Kind.TRANSFER_ENCODING:
                coding = value if coding is None else coding + b"," + value
            elif kind == Kind.UPGRADE:
                upgrade = value if upgrade is None else upgrade + b"," + value
            elif kind == Kind.HOP and name.lower() == b"keep-alive":
                idle_s = _usable_s(value)
        if options:
            keep_alive = b"close" not in options and (keep_alive or b"keep-alive" in options)
            if options not in _OF_THE_CONNECTION:
                dropped = _with_nominated(lines, options, dropped)
        if dropped:
            kept = lines.copy()
            for index in reversed(dropped):
                del kept[index]
            block = b"\r\n".join((*kept, b""))
        if status < 200:
            return self._informational_head(status, reason, block, options, upgrade)
        self._keep_alive = keep_alive and not of_a_user  # HTTP-70
        self.idle_s = idle_s
        self._awaits_head = False
        size = self._final_framing(status, length, coding, match[1] != b"0")
        return ResponseHead(status, reason, block, size, b"")

    def _options(self, value: bytes) -> tuple[bytes, ...]:
        if value == b"keep-alive":
            return (value,)
        try:
            return connection_options(value)
        except RemoteProtocolError as error:
            self._fail(Failure.SERVICE_MALFORMED, str(error))

    def _informational_head(
        self, status: int, reason: bytes, block: bytes, options: tuple[bytes, ...], upgrade: bytes | None
    ) -> ResponseHead:
        if status == _SWITCHING_PROTOCOLS:
            return self._switching_head(reason, block, options, upgrade)
        self._informational += 1
        if self._informational > self._limits.informational_max:
            self._fail(Failure.SERVICE_MALFORMED, "there are too many informational responses")
        return ResponseHead(status, reason, block, 0, b"")

    def _switching_head(
        self, reason: bytes, block: bytes, options: tuple[bytes, ...], upgrade: bytes | None
    ) -> ResponseHead:
        """HTTP-48: a switch only to what was asked for."""
        named = upgrade is not None and upgrade.lower() == self._upgrade.lower()
        if not self._upgrade or not named or b"upgrade" not in options:
            self._fail(Failure.SERVICE_MALFORMED, "the service switched to a protocol that was not asked for")
        self._awaits_head = self._keep_alive = False
        self._begin_body(CLOSE)
        return ResponseHead(_SWITCHING_PROTOCOLS, reason, block, UNKNOWN_LENGTH, self._upgrade)

    def _final_framing(self, status: int, length: bytes | None, coding: bytes | None, version_1_1: bool) -> int:
        """Begin the body (RFC 9112 §6.3); what ``Content-Length`` said."""
        size = UNKNOWN_LENGTH if length is None else self._content_length(length)
        if coding is not None and (length is not None or not version_1_1 or coding.lower() != b"chunked"):
            self._fail(Failure.SERVICE_MALFORMED, "the framing of the response is not valid")
        if self._method == b"HEAD" or status in _WITHOUT_BODY:
            self._begin_body(NO_BODY)
            announced = size > 0 or coding is not None  # the service may think that it has sent a body, or will
            if announced or (size != 0 and status not in _WITHOUT_BODY):  # HTTP-51, HTTP-71
                self._keep_alive = False
            return 0 if status == _NO_CONTENT else size
        self._must_be_empty = status == _RESET_CONTENT  # HTTP-51
        if self._must_be_empty and size > 0:
            self._fail(Failure.SERVICE_MALFORMED, "a response that must be empty has a body")
        if coding is not None:
            self._begin_body(CHUNKED)
        elif length is not None:
            self._begin_body(LENGTH if size else NO_BODY, size)
        else:
            self._keep_alive = False
            self._begin_body(CLOSE)
        return size

    def _content_length(self, value: bytes) -> int:
        if not value.isdigit() or len(value) > _LENGTH_DIGITS_MAX:
            self._fail(Failure.SERVICE_MALFORMED, "the Content-Length field is not valid")
        return int(value)


_OF_THE_CONNECTION: Final = ((b"keep-alive",), (b"close",))
"""Options of nearly every response, which nominate no field."""


def _usable_s(keep_alive: bytes) -> float:
    timeout = _TIMEOUT(keep_alive)
    return inf if timeout is None else int(timeout[1]) * USABLE_SHARE


def _with_nominated(lines: list[bytes], options: tuple[bytes, ...], dropped: list[int]) -> list[int]:
    nominated = set(filter(may_be_nominated, options))
    if not nominated:
        return dropped
    names = [line.partition(b":")[0].lower() for line in lines]
    return [index for index, name in enumerate(names) if name in nominated or index in dropped]


def service_request(head: RequestHead, *, host_header: bytes = b"", close: bool = False) -> tuple[bytes, Framing]:
    """The head as it is written to a service, and how its body is to be framed.

    ``host_header`` replaces the value of Host. ``close`` tells the service that its connection carries nothing else; so
    it is told, too, where it may not look for the body (HTTP-74). Where an upgrade is asked for nothing is framed:
    bytes wait for the 101.
    """
    method, block, length, upgrade = head.method, head.field_block, head.body_length, head.upgrade
    if host_header:
        block = b"Host: %b\r\n%b" % (host_header, _HOST_LINE.sub(b"", block))
    if (close or (length and method in _SENDS_NONE)) and not upgrade:
        block += b"Connection: close\r\n"
    if b"TE: trailers\r\n" in block and not upgrade and _TE_LINE(block):
        block += b"Connection: TE\r\n"  # RFC 9110 §10.1.4
    if upgrade:
        end, framing = b"Upgrade: %b\r\nConnection: upgrade\r\n\r\n" % upgrade, NO_BODY
    elif length > 0:
        end, framing = b"Content-Length: %d\r\n\r\n" % length, LENGTH
    elif length == 0:
        end, framing = b"Content-Length: 0\r\n\r\n" if method in SENDS_CONTENT else b"\r\n", NO_BODY
    else:
        end, framing = b"Transfer-Encoding: chunked\r\n\r\n", CHUNKED
    return b"%b %b HTTP/1.1\r\n%b%b" % (method, head.target, block, end), framing


def may_be_left_unread(head: RequestHead, status: int, trailer_block: bytes) -> bool:
    """Whether a service that answered with ``status`` may not have read the request to its end.

    What it has left it reads as the next request on that connection (HTTP-74, HTTP-75).
    """
    if not head.body_length or head.upgrade:
        return False
    return status >= 300 or trailer_block != b"" or head.method in _SENDS_NONE
