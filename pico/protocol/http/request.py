"""Requests: from the bytes of a client's connection to one ``Request`` after the other.

Responsible for: the grammar of a request's head, its target and Host, its framing, and what it asks of this hop alone
(RFC 9112 §2-§7, RFC 9110 §7). Refuses to know: where a request goes and what is added to it on the way.

One possessive regular expression accepts the usual head in one pass; one loop over its lines then looks up each name
and keeps what matters. Whatever the expression does not match, or is large, is read line by line, which accepts the
same heads and says what is wrong with the others.
"""

from __future__ import annotations

import re
from typing import ClassVar, Final

from pico.compiling import plain_class
from pico.config import HttpLimits
from pico.errors import LocalProtocolError, RemoteProtocolError
from pico.protocol.http.failures import Failure, Rejected
from pico.protocol.http.fields import (
    FIELD_LINES,
    OWS,
    REQUEST_KINDS,
    TOKEN,
    Kind,
    connection_options,
    is_token,
    kind_in_request,
    may_be_nominated,
)
from pico.protocol.http.framing import CHUNKED, LENGTH, NO_BODY
from pico.protocol.http.reading import MessageReader
from pico.protocol.http.values import UNKNOWN_LENGTH

__all__ = ["Request", "RequestReader", "RequestRejected"]

_HEAD = re.compile(rb"(" + TOKEN + rb"++) (/[!-~\x80-\xff]*+) HTTP/1\.([0-9])\r\n(" + FIELD_LINES + rb")\r\n").match
_CAN_BEGIN = re.compile(TOKEN + rb"|\r\Z").match
"""A first byte that cannot begin a method needs no more waiting: TLS on the plain port, most often."""
_FIRST_LINE = re.compile(rb"(" + TOKEN + rb"++) ([!-~\x80-\xff]++) HTTP/([0-9])\.([0-9])").fullmatch
_ABSOLUTE = re.compile(rb"(?i:https?)://([^/?#]*)([!-~\x80-\xff]*+)").fullmatch
_PORT: Final = rb"(?::(?:[0-5]?[0-9]{0,4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]))?"
_AUTHORITY = re.compile(rb"(?:[0-9A-Za-z\-._~]{1,255}+|\[[0-9A-Fa-f:.]{2,45}\])" + _PORT).fullmatch
_USER_INFORMATION = re.compile(rb"\A((?:[A-Za-z][0-9A-Za-z+.\-]*://)?)[^/?#]*@")
_BEGINNING = re.compile(rb"(" + TOKEN + rb"++) ([!-~\x80-\xff]*+)").match
_PROTOCOL = re.compile(TOKEN + rb"++(?:/" + TOKEN + rb"++)?").fullmatch

_KEEP_ALIVE: Final = frozenset((b"keep-alive", b"Keep-Alive"))
_REFUSED_METHODS: Final = frozenset((b"CONNECT", b"TRACE"))
_LENGTH_DIGITS_MAX: Final = 19
_LENGTH_MAX: Final = 2**63 - 1
_UPGRADE_BYTES_MAX: Final = 255


@plain_class
class RequestRejected(Rejected):
    """The client's bytes are not an acceptable request: answer with ``failure`` and close."""

    request: Request | None = None
    """What could be read of it, for whoever writes down that it was refused; None where nothing could."""


class Request:
    """One request as its client sent it.

    The defaults are in the class and only what differs is set on an instance, which costs a third of what filling
    slots does.
    """

    method: bytes = b""
    target: bytes = b""
    """In origin-form or ``*``, byte for byte; absolute-form is reduced to it."""
    minor: int = 1
    authority: bytes = b""
    """Host and port as the client named them; empty only in HTTP/1.0."""
    body_length: int = 0
    keep_alive: bool = True
    expect_continue: bool = False
    upgrade: bytes = b""
    te_trailers: bool = False
    endpoint_field: bytes | None = None
    user_agent: bytes = b""
    traceparent: bytes | None = None
    """As it came; empty when it came more than once."""
    max_forwards: int = -1
    """Of OPTIONS; -1 where it was not said."""
    lines: list[bytes]
    """Every field line, without its CRLF."""
    forwarding: list[tuple[int, bytes]] | tuple[()] = ()
    """Index and kind of the fields that tell a service who is calling, and of ``Via``."""
    block: bytes = b""
    dropped: list[int] | tuple[()] = ()
    replaced: dict[int, bytes] | None = None

    @property
    def fields(self) -> list[tuple[bytes, bytes, bytes]]:
        """Name, lower-cased name and value of every field, in order."""
        parts = (line.partition(b":") for line in self.lines)
        return [(name, name.lower(), value.strip(OWS)) for name, _, value in parts]

    def value(self, index: int) -> bytes:
        """The value of one field line."""
        return self.lines[index].partition(b":")[2].strip(OWS)

    def drop(self, indices: list[int]) -> None:
        """Take these lines out of the end-to-end fields."""
        self.dropped = [*self.dropped, *indices]

    def replace(self, index: int, line: bytes) -> None:
        """Pass another line on instead of this one."""
        self.replaced = {**(self.replaced or {}), index: line}

    def field_block(self, dropped_too: tuple[int, ...] = ()) -> bytes:
        """The end-to-end fields as they came, without those at the given indices."""
        if not self.dropped and self.replaced is None and not dropped_too:
            return self.block
        lines = self.lines.copy()
        for index, line in (self.replaced or {}).items():
            lines[index] = line
        for index in sorted((*self.dropped, *dropped_too), reverse=True):
            del lines[index]
        return b"\r\n".join((*lines, b""))


class RequestReader(MessageReader):
    """The requests of one client connection, in order; what is pipelined waits for its turn."""

    _rejected = RequestRejected
    _translated: ClassVar[dict[Failure, Failure]] = {}
    _cut_short = Failure.BODY_INCOMPLETE

    def __init__(self, limits: HttpLimits) -> None:
        super().__init__(limits, limits.body_bytes_max)
        self._blank_lines_max = 1

    def next_head(self) -> Request | None:
        """The next request, or None when more bytes are needed; raises ``RequestRejected``.

        Its body is read with ``next_body`` up to the end, also where there is none, before the next head.
        """
        if self._failed is not None:
            self._fail(*self._failed)
        if self._in_body:
            raise LocalProtocolError("the body of the last request has not been read to its end")
        if self._at == len(self._buffer):
            return None
        match = None if self._checked else _HEAD(self._buffer, self._at)
        if match is None or match.end() - self._at > self._plain_bytes_max:
            return self._next_unusual_head()
        method, target, minor, block = match.groups()
        lines = block.split(b"\r\n")
        lines.pop()
        if len(lines) > self._limits.fields_max or len(method) > self._limits.method_bytes_max:
            return self._next_unusual_head()
        self._at = match.end()
        request = Request()
        request.method = method
        request.target = target
        if minor == b"0":
            request.minor = 0
        request.block = block
        request.lines = lines
        self._understand(request)
        return request

    def what_is_there(self) -> Request:
        """What can be read of a head that has not come to its end: to be written down, and for nothing else."""
        return _beginning_of(self._buffer[self._at :], self._limits)

    def _next_unusual_head(self) -> Request | None:
        self._skip_blank_lines()
        if self._at == len(self._buffer):
            return None
        if not self._checked and not _CAN_BEGIN(self._buffer, self._at):
            self._fail(Failure.BAD_REQUEST, "the first byte is not the beginning of a method")
        buffer, at = self._buffer, self._at
        try:
            head = self._read_lines(Failure.TARGET_TOO_LONG)
            if head is None:
                if self.at_eof:
                    self._fail(Failure.BAD_REQUEST, "the connection ended in the middle of a head")
                return None
        except RequestRejected as rejected:
            rejected.request = _beginning_of(buffer[at:], self._limits)
            raise
        first, lines = head
        match = _FIRST_LINE(first)
        assert match is not None
        request = Request()
        request.method, request.target = match[1], match[2]
        if match[4] == b"0":
            request.minor = 0
        request.lines = lines
        request.block = b"\r\n".join((*lines, b""))
        self._understand(request)
        return request

    def _skip_blank_lines(self) -> None:
        """HTTP-2: one before the first request, two after a body."""
        if self._checked:
            return
        while self._blank_lines_max and self._buffer.startswith(b"\r\n", self._at):
            self._blank_lines_max -= 1
            self._at += 2

    def _check_first_line(self, line: bytes) -> None:
        method = line.partition(b" ")[0]
        if len(method) > self._limits.method_bytes_max and is_token(method):
            self._fail(Failure.NOT_IMPLEMENTED, f"the method is longer than {self._limits.method_bytes_max} bytes")
        match = _FIRST_LINE(line)
        if match is None:
            self._fail(Failure.BAD_REQUEST, "the first line is not a request line")
        if match[3] != b"1":
            self._fail(Failure.VERSION_NOT_SUPPORTED, "the major version is not 1")

    # What a valid head means.

    def _understand(self, request: Request) -> None:
        try:
            self._interpret(request)
        except RequestRejected as rejected:
            _note_caller(request)
            rejected.request = request
            raise

    def _interpret(self, request: Request) -> None:
        """Fill ``request`` from its lines, and begin its body."""
        host: bytes | None = None
        host_index = -1
        length: bytes | None = None
        coding: bytes | None = None
        connection: bytes | None = None
        upgrade: bytes | None = None
        expect: list[int] = []
        te: list[int] = []
        dropped: list[int] = []
        forwarding: list[tuple[int, bytes]] = []
        kinds = REQUEST_KINDS
        # Long, because it is the one loop over all fields; each arm only notes what it finds.
        for index, line in enumerate(request.lines):
            name, _, value = line.partition(b":")
            kind = kinds.get(name)
            if kind is None:
                kind = kind_in_request(name)
            if kind == Kind.ORDINARY:
                continue
            value = value.strip(OWS)
            if kind == Kind.HOST:
                if host is not None:
                    self._fail(Failure.BAD_REQUEST, "there is more than one Host field")
                host, host_index = value, index
                continue
            if kind == Kind.USER_AGENT:
                request.user_agent = value
                continue
            if kind == Kind.TRACEPARENT:
                request.traceparent = value if request.traceparent is None else b""
                continue
            if kind == Kind.FORWARDING or kind == Kind.VIA:
                forwarding.append((index, name.lower()))
                continue
            if kind == Kind.MAX_FORWARDS:
                self._note_max_forwards(request, index, value)
                continue
            if kind == Kind.EXPECT:
                expect.append(index)
                continue
            dropped.append(index)
            if kind == Kind.CONNECTION:
                connection = value if connection is None else connection + b"," + value
            elif kind == Kind.CONTENT_LENGTH:
                if length is not None:
                    self._fail(Failure.BAD_REQUEST, "there is more than one Content-Length field")
                length = value
            elif kind == Kind.TRANSFER_ENCODING:
                coding = value if coding is None else coding + b"," + value
            elif kind == Kind.UPGRADE:
                upgrade = value if upgrade is None else upgrade + b"," + value
            elif kind == Kind.TE:
                te.append(index)
            elif kind == Kind.ENDPOINT:
                if request.endpoint_field is not None:
                    self._fail(Failure.BAD_REQUEST, "there is more than one x-pico-endpoint field")
                request.endpoint_field = value
        request.dropped = dropped
        if forwarding:
            request.forwarding = forwarding
        if host is not None and _AUTHORITY(host):
            request.authority = host
        elif host is not None or request.minor:
            self._fail(Failure.BAD_REQUEST, "the Host field is missing or not valid")
        if request.target[:1] != b"/" or request.method in _REFUSED_METHODS:
            self._check_target(request, host_index)
        self._note_framing(request, length, coding)
        if connection is not None:
            self._note_connection(request, connection)
        elif not request.minor:
            request.keep_alive = False
        if upgrade is not None:
            self._note_upgrade(request, upgrade, connection)
        if expect:
            self._note_expectations(request, expect)
        if te:
            self._note_te(request, te)

    def _note_framing(self, request: Request, length: bytes | None, coding: bytes | None) -> None:
        self._blank_lines_max = 2
        if coding is not None:
            self._check_coding(request, length, coding)
            request.body_length = UNKNOWN_LENGTH
            self._begin_body(CHUNKED)
        elif length is not None:
            size = self._content_length(length)
            request.body_length = size
            self._begin_body(LENGTH if size else NO_BODY, size)
        else:
            self._begin_body(NO_BODY)

    def _content_length(self, value: bytes) -> int:
        """HTTP-23."""
        if not value.isdigit() or len(value) > _LENGTH_DIGITS_MAX or (value[0] == 0x30 and len(value) > 1):
            self._fail(Failure.BAD_REQUEST, "the Content-Length field is not valid")
        size = int(value)
        if size > _LENGTH_MAX:
            self._fail(Failure.BAD_REQUEST, "the Content-Length field is not valid")
        if 0 < self._body_bytes_max < size:  # HTTP-29
            self._fail(Failure.BODY_TOO_LARGE, f"more than {self._body_bytes_max} bytes")
        return size

    def _check_coding(self, request: Request, length: bytes | None, coding: bytes) -> None:
        if length is not None:
            self._fail(Failure.BAD_REQUEST, "there are both Transfer-Encoding and Content-Length")
        if not request.minor:
            self._fail(Failure.BAD_REQUEST, "there is a Transfer-Encoding in HTTP/1.0")
        codings = [one.strip(OWS) for one in coding.lower().split(b",")]
        if codings == [b"chunked"]:
            return
        if b"chunked" in codings[:-1] or not all(map(is_token, codings)):
            self._fail(Failure.BAD_REQUEST, "the Transfer-Encoding field is not valid")
        self._fail(Failure.NOT_IMPLEMENTED, "the only transfer coding that is known is chunked")

    def _check_target(self, request: Request, host_index: int) -> None:
        if request.method in _REFUSED_METHODS:
            self._fail(Failure.METHOD_NOT_ALLOWED, "")
        if request.target == b"*" and request.method == b"OPTIONS":
            return
        absolute = _ABSOLUTE(request.target)
        if absolute is None or not _AUTHORITY(absolute[1]):
            self._fail(Failure.BAD_REQUEST, "the form of the target is not valid for the method")
        self._reduce_target(request, host_index, absolute[1], absolute[2])

    def _reduce_target(self, request: Request, host_index: int, authority: bytes, rest: bytes) -> None:
        """HTTP-16: the target's authority replaces Host."""
        request.authority = authority
        if not rest:
            request.target = b"*" if request.method == b"OPTIONS" else b"/"
        else:
            request.target = rest if rest[:1] == b"/" else b"/" + rest
        line = b"Host: " + authority
        if host_index >= 0:
            request.replace(host_index, line)
        else:  # HTTP/1.0 need not say it
            request.lines.append(line)
            request.block += line + b"\r\n"

    def _note_connection(self, request: Request, connection: bytes) -> None:
        if connection in _KEEP_ALIVE:
            return
        try:
            options = connection_options(connection)
        except RemoteProtocolError as error:
            self._fail(Failure.BAD_REQUEST, str(error))
        request.keep_alive = b"close" not in options and (request.minor > 0 or b"keep-alive" in options)
        nominated = set(filter(may_be_nominated, options))
        if nominated:
            self._drop_nominated(request, nominated)

    def _drop_nominated(self, request: Request, nominated: set[bytes]) -> None:
        """HTTP-32, HTTP-34."""
        names = (line.partition(b":")[0].lower() for line in request.lines)
        indices = (index for index, name in enumerate(names) if name in nominated)
        request.drop([index for index in indices if index not in request.dropped])

    def _note_upgrade(self, request: Request, upgrade: bytes, connection: bytes | None) -> None:
        """HTTP-47: only where everything that an upgrade needs is there; else it is dropped like any hop's field."""
        if connection is None or b"upgrade" not in connection_options(connection):
            return
        if request.method != b"GET" or not request.minor or request.body_length:
            return
        protocols = [one.strip(OWS) for one in upgrade.split(b",")]
        if not all(map(_PROTOCOL, protocols)):
            self._fail(Failure.BAD_REQUEST, "the Upgrade field is not valid")
        wanted = [one for one in protocols if one.lower() not in (b"h2c", b"h2")]
        request.upgrade = wanted[0] if wanted and len(wanted[0]) <= _UPGRADE_BYTES_MAX else b""

    def _note_expectations(self, request: Request, indices: list[int]) -> None:
        """HTTP-46: passed on where a body is announced; HTTP/1.0 knows none, and without a body there is none."""
        if request.minor and any(request.value(index).lower() != b"100-continue" for index in indices):
            self._fail(Failure.EXPECTATION_FAILED, "")
        request.expect_continue = request.minor > 0 and request.body_length != 0
        request.drop(indices[1:] if request.expect_continue else indices)

    def _note_te(self, request: Request, indices: list[int]) -> None:
        """HTTP-33: all that is said of it to the next hop is that trailers are welcome."""
        values = b",".join(map(request.value, indices)).lower()
        request.te_trailers = b"trailers" in [one.strip(OWS) for one in values.split(b",")]
        if request.te_trailers:
            request.dropped = [index for index in request.dropped if index != indices[0]]
            request.replace(indices[0], b"TE: trailers")

    def _note_max_forwards(self, request: Request, index: int, value: bytes) -> None:
        """HTTP-43."""
        if request.method != b"OPTIONS":
            return
        if not value.isdigit() or len(value) > _LENGTH_DIGITS_MAX or request.max_forwards >= 0:
            self._fail(Failure.BAD_REQUEST, "the Max-Forwards field is not valid")
        request.max_forwards = int(value)
        request.replace(index, b"Max-Forwards: %d" % max(0, request.max_forwards - 1))


# What is known of a head that is refused. Nothing of it has to be valid: it is written down and never acted upon.


def _beginning_of(head: bytes, limits: HttpLimits) -> Request:
    """Method and target as far as they came, and the fields that are whole; all of it within the limits."""
    first, *lines = head[: limits.head_bytes_max].split(b"\r\n", limits.fields_max + 1)
    request = Request()
    match = _BEGINNING(first)
    if match is not None:
        request.method, request.target = match[1][: limits.method_bytes_max], match[2]
    lines = lines[:-1]  # the last one is cut, or empty
    end = lines.index(b"") if b"" in lines else -1
    request.lines = lines if end < 0 else lines[:end]  # what follows the head is no part of it
    _note_caller(request)
    if end < 0:  # HTTP-76
        request.forwarding = [field for field in request.forwarding if field[1] != b"x-forwarded-for"]
    return request


def _note_caller(request: Request) -> None:
    """Host, endpoint and user agent, the first of each that is not noted yet, and what says its name and its client.

    The rest is let go, and of the target the name and the password of a user, which are in no log.
    """
    request.target = _USER_INFORMATION.sub(rb"\1", request.target)
    named: list[bytes] = []
    forwarding: list[tuple[int, bytes]] = []
    for line in request.lines:
        name, _, value = line.partition(b":")
        name = name.lower()
        if name == b"x-request-id" or name == b"x-forwarded-for":
            forwarding.append((len(named), name))
            named.append(line)
        kind = kind_in_request(name)
        value = value.strip(OWS)
        if kind == Kind.HOST and not request.authority and _AUTHORITY(value):
            request.authority = value
        elif kind == Kind.USER_AGENT and not request.user_agent:
            request.user_agent = value
        elif kind == Kind.ENDPOINT and request.endpoint_field is None:
            request.endpoint_field = value
    request.lines, request.block = named, b""
    request.forwarding = forwarding
