"""One line for each request.

Responsible for: the fields, their escaping, and bringing the lines to a writer that may be slow. Refuses to know:
where the lines go, and what became of the request.

Written are the fields named here and nothing else: of the request's header fields only ``User-Agent``, of its target
only the path. Tokens and cookies live in what is left out. Lines are pure ASCII without a control character, so that
a visitor can neither forge a line nor reach a terminal.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import time
from collections.abc import Callable
from json.encoder import encode_basestring_ascii
from typing import TYPE_CHECKING, Final

import gevent
from gevent.event import Event
from gevent.hub import get_hub
from gevent.socket import wait_write  # type: ignore[attr-defined]  # made at run time

if TYPE_CHECKING:
    from pico.transport.clock import Clock

__all__ = ["FIELDS", "FORMATS", "AccessLog", "Write", "cooperative_writer"]

FORMATS: Final = ("json", "keyvalue", "combined", "off")

FLUSH_INTERVAL_S: Final = 0.1
FLUSH_CHARS: Final = 64 * 1024
BACKLOG_CHARS_MAX: Final = 1024 * 1024
"""Lines that wait for a slow writer; past it lines are dropped and counted."""

VALUE_CHARS_MAX: Final = 4096
"""What is kept of a value that the visitor chose."""

FIELDS: Final = (
    ("time", "%s"),  # RFC 3339, UTC, when the request ended
    ("request_id", "%s"),
    ("remote", "%s"),
    ("scheme", "%s"),
    ("host", "%s"),
    ("endpoint", "%s"),
    ("method", "%s"),
    ("path", "%s"),
    ("status", "%d"),
    ("bytes_in", "%d"),
    ("bytes_out", "%d"),
    ("total_ms", "%.3f"),
    ("upstream_ms", "%.3f"),
    ("node", "%s"),
    ("upstream", "%s"),  # of this node
    ("peer", "%s"),  # the node that it was forwarded to, whose upstream is not known here
    ("outcome", "%s"),
    ("tls", "%s"),
    ("user_agent", "%s"),
    ("trace_id", "%s"),  # of a valid traceparent
)

Write = Callable[[str], None]

_JSON: Final = "{" + ",".join(f'"{name}":{form}' for name, form in FIELDS) + "}\n"
_KEYVALUE: Final = " ".join(f"{name}={form}" for name, form in FIELDS) + "\n"

_COMBINED: Final = '%s - - [%s] "%s" %d %d "-" "%s"\n'
"""What Apache calls so. The referrer is one of the fields that are never written."""

# Not those of the locale.
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

_log = logging.getLogger("pico.access")
_not_plain = re.compile(r"[^ !#-\[\]-~]").sub
_is_bare = re.compile(r"[!#-<>-\[\]-~]++").fullmatch  # printable, without space, quote, equals sign and backslash


def cooperative_writer(fd: int) -> Write:
    """A writer to a file descriptor that may be a pipe nobody reads: waits in a thread, so only its greenlet waits.

    Raises ``OSError``; what is written after that begins on a line of its own.
    """
    torn = False  # the last line has no end

    def write(text: str) -> None:
        nonlocal torn
        rest = text.encode("ascii", "backslashreplace")
        if torn:
            rest = b"\n" + rest
        while rest:
            written = _written_apart(fd, rest)
            if isinstance(written, BlockingIOError):  # whoever shares the descriptor has made it so
                wait_write(fd)
            elif isinstance(written, OSError):
                raise written
            else:
                torn = rest[written - 1 : written] != b"\n"
                rest = rest[written:]

    return write


def _written_apart(fd: int, data: bytes) -> int | OSError:
    pool = get_hub().threadpool
    try:
        pool.size = pool.size or 1  # first: without any thread what is to be done would stay there, to be done later
        return pool.apply(_written, (fd, data))  # type: ignore[no-any-return]
    except RuntimeError as error:  # the system has no thread left
        return OSError(errno.ENOMEM, str(error))


def _written(fd: int, data: bytes) -> int | OSError:
    """How many bytes were written, or why none was: the pool would print a traceback of what is raised."""
    try:
        return os.write(fd, data)
    except OSError as error:
        return error


class AccessLog:
    """Collects lines and hands them to ``write``, at most ``FLUSH_INTERVAL_S`` after they were recorded.

    ``write`` is called in a greenlet of its own, one call at a time, with whole lines; it may block that greenlet.
    """

    def __init__(
        self,
        format: str,
        write: Write,
        clock: Clock,
        *,
        node_id: str,
        wall_clock: Callable[[], float] = time.time,
        backlog_chars_max: int = BACKLOG_CHARS_MAX,
    ) -> None:
        self.dropped = 0
        self._write = write
        self._wall_clock = wall_clock
        self._node_id = node_id
        self.change_format(format)
        self._backlog_chars_max = backlog_chars_max
        self._lines: list[str] = []
        self._chars = 0
        self._timer = clock.timer(self.flush)
        self._writing = 0  # lines in the hands of the writer
        self._written = Event()
        self._complained = False
        self._second = self._millisecond = -1
        self._second_text = self._time = ""

    def change_format(self, format: str) -> None:
        """How lines are written from now on, or that none are; those that wait stay as they are."""
        assert format in FORMATS
        self.enabled = format != "off"
        # Formatting by template and json's own C function for strings takes a third of what json.dumps would.
        self._combined = format == "combined"
        self._template = _JSON if format == "json" else _KEYVALUE
        self._quoted = encode_basestring_ascii if format == "json" else _keyvalue
        self._node = self._quoted(self._node_id)
        self._millisecond = -1  # the time will be quoted in another way

    def record(
        self,
        request_id: str,
        remote: str,
        scheme: str,
        host: bytes,
        endpoint: str,
        method: bytes,
        target: bytes,
        status: int,
        bytes_in: int,
        bytes_out: int,
        total_s: float,
        upstream_s: float,
        upstream: str,
        peer: str,
        outcome: str,
        tls: str,
        user_agent: bytes,
        trace_id: str = "",
        minor: int = 1,
    ) -> None:
        """Write one line, soon. ``upstream_s`` is 0 when no upstream answered; the query of ``target`` is left out."""
        if not self.enabled:
            return
        if self._chars >= self._backlog_chars_max:
            self.dropped += 1
            return
        if self._combined:
            self._add(self._combined_line(remote, method, target, minor, status, bytes_out, user_agent))
            return
        quoted = self._quoted
        line = self._template % (
            self._now(),
            quoted(request_id),
            quoted(remote),
            quoted(scheme),
            quoted(_text(host)),
            quoted(endpoint),
            quoted(_text(method)),
            quoted(_text(target.partition(b"?")[0])),
            status,
            bytes_in,
            bytes_out,
            total_s * 1000.0,
            upstream_s * 1000.0,
            self._node,
            quoted(upstream),
            quoted(peer),
            quoted(outcome),
            quoted(tls),
            quoted(_text(user_agent)),
            quoted(trace_id),
        )
        self._add(line)

    def _add(self, line: str) -> None:
        if not self._lines and not self._writing:
            self._timer.start(FLUSH_INTERVAL_S)
        self._lines.append(line)
        self._chars += len(line)
        if self._chars >= FLUSH_CHARS and not self._writing:
            self.flush()

    def flush(self) -> None:
        """Begin to write what is there; does not wait."""
        if self._lines and not self._writing:
            self._timer.stop()
            self._writing = len(self._lines)
            self._written.clear()
            gevent.spawn_raw(self._write_batch)

    def close(self, timeout_s: float) -> None:
        """Write what is there, for at most so long; nothing is recorded afterwards.

        What the writer has not finished with by then counts as dropped, though it may yet come through.
        """
        self.enabled = False
        self.flush()
        if self._writing and not self._written.wait(timeout_s):
            self.dropped += self._writing + len(self._lines)

    def _write_batch(self) -> None:
        lines, self._lines, self._chars = self._lines, [], 0
        self._writing = len(lines)
        try:
            self._write_lines(lines)
        finally:
            self._writing = 0
            self._go_on()
            if not self._writing:
                self._written.set()

    def _go_on(self) -> None:
        """See to what was recorded meanwhile: a batch at a time, never line by line."""
        if not self.enabled or self._chars >= FLUSH_CHARS:
            self.flush()
        elif self._lines:
            self._timer.start(FLUSH_INTERVAL_S)

    def _write_lines(self, lines: list[str]) -> None:
        try:
            self._write("".join(lines))
            self._complained = False
        except OSError as error:
            self.dropped += len(lines)
            if not self._complained:
                self._complained = True
                _log.error("the access log cannot be written: %s", (error.strerror or str(error)).lower())

    def _now(self) -> str:
        """The time as a line has it; several requests may end in one millisecond."""
        millisecond = int(self._wall_clock() * 1000.0)
        if millisecond != self._millisecond:
            self._millisecond = millisecond
            second, rest = divmod(millisecond, 1000)
            if second != self._second:
                self._second = second
                self._second_text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            self._time = self._quoted(f"{self._second_text}.{rest:03d}Z")
        return self._time

    def _combined_line(
        self, remote: str, method: bytes, target: bytes, minor: int, status: int, bytes_out: int, user_agent: bytes
    ) -> str:
        now = time.gmtime(self._wall_clock())
        when = f"{now.tm_mday:02d}/{_MONTHS[now.tm_mon - 1]}/{time.strftime('%Y:%H:%M:%S', now)} +0000"
        path = target.partition(b"?")[0][:VALUE_CHARS_MAX]
        request = f"{_apache(method)} {_apache(path)} HTTP/1.{minor}" if method else "-"
        agent = _apache(user_agent[:VALUE_CHARS_MAX]) or "-"
        address = _apache(remote.encode("ascii", "backslashreplace")).replace(" ", "") or "-"
        return _COMBINED % (address, when, request, status, bytes_out, agent)


def _apache(value: bytes) -> str:
    """As Apache writes what a visitor chose: quotes and backslashes marked, what is not printable in hexadecimal."""
    return _not_plain(_in_hexadecimal, value.decode("latin-1"))


def _in_hexadecimal(match: re.Match[str]) -> str:
    one = match[0]
    return f"\\{one}" if one in '"\\' else f"\\x{ord(one):02x}"


def _text(value: bytes) -> str:
    """UTF-8 where it is that, else every byte as one character."""
    if len(value) > VALUE_CHARS_MAX:
        value = value[:VALUE_CHARS_MAX]
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _keyvalue(value: str) -> str:
    """Bare where nothing in it could be misread, else quoted as in JSON."""
    return value if _is_bare(value) else encode_basestring_ascii(value)
