"""Brings the lines of the log to a reader that may have stopped reading.

Responsible for: that nobody who logs waits for whoever reads, and that all is written that there is time and room for,
the lines of the end above all. Refuses to know: what the lines say, and which records get here.

A thread of the system writes, not a greenlet: the log tells of the time before the hub runs, of a hub that does not get
on, and of the end, when none runs any more.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Any, Final, TextIO

from gevent import monkey

__all__ = ["LogHandler", "lines_dropped"]

BACKLOG_BYTES_MAX: Final = 1024 * 1024
"""Lines that wait for a slow reader; past it lines are dropped and counted until half of them are written."""

FLUSH_S: Final = 2.0
"""So long the end of the process waits for whoever reads its log."""

# Of threads of the system, whether the program is patched or not.
_SimpleQueue: Final[Callable[[], Any]] = monkey.get_original("queue", "SimpleQueue")
_start_thread, _make_lock = monkey.get_original("_thread", ["start_new_thread", "allocate_lock"])
_poll: Final[Callable[[], Any]] = monkey.get_original("select", "poll")
_POLLOUT: Final = 4


class LogHandler(logging.Handler):
    """Writes to the descriptor of ``stream``, in the order in which records come."""

    def __init__(self, stream: TextIO, backlog_bytes_max: int = BACKLOG_BYTES_MAX) -> None:
        super().__init__()
        self.stream = stream
        self._backlog_bytes_max = backlog_bytes_max
        self._refused = self._untold = 0  # lines for which there was no room; of them those that no line has told of
        self._lost = 0  # that could not be written; like the next one counted by the thread only
        self._done_bytes = self._given_bytes = 0
        self._ended = False
        self._queue = _SimpleQueue()
        _start_thread(_write_in_turn, (self, stream.fileno(), self._queue))

    @property
    def dropped(self) -> int:
        """So many lines were not written: there was no room, or nobody who reads."""
        return self._refused + self._lost

    @property
    def waiting_bytes(self) -> int:
        """Of lines that are yet to be written."""
        return self._given_bytes - self._done_bytes

    def emit(self, record: logging.LogRecord) -> None:
        """Have the record written, soon; does not wait."""
        try:
            line = self._line(record)
        except Exception:
            self.handleError(record)
            return
        if self._ended:
            self._refused += 1
            return
        room = self._backlog_bytes_max // 2 if self._untold else self._backlog_bytes_max
        if self.waiting_bytes + len(line) > room:
            self._refused += 1
            self._untold += 1
            return
        self._tell_refused()
        self._give(line)

    def flush(self) -> None:
        """Wait until what was logged is written, for at most ``FLUSH_S``; called at the end of the process."""
        if self._ended:
            return
        self._tell_refused()
        reached = _make_lock()
        reached.acquire()
        self._queue.put(reached.release)
        reached.acquire(timeout=FLUSH_S)

    def close(self) -> None:
        """What was logged before is still written; does not wait."""
        super().close()
        self._ended = True
        self._queue.put(None)

    def done(self, line: bytes, error: OSError | None) -> None:
        """Called in the thread that writes: the line is written, or never will be."""
        self._done_bytes += len(line)
        if error is not None:
            self._lost += 1

    def _tell_refused(self) -> None:
        if self._untold:
            message = "%d lines of the log were dropped here: whoever reads it is too slow"
            args, self._untold = (self._untold,), 0
            self._give(self._line(logging.LogRecord("pico.log", logging.WARNING, __file__, 0, message, args, None)))

    def _line(self, record: logging.LogRecord) -> bytes:
        return f"{self.format(record)}\n".encode(self.stream.encoding, "backslashreplace")

    def _give(self, line: bytes) -> None:
        self._given_bytes += len(line)
        self._queue.put(line)


def lines_dropped() -> int:
    """How many lines of the log of this process were not written."""
    return sum(one.dropped for one in logging.getLogger().handlers if isinstance(one, LogHandler))


def _write_in_turn(handler: LogHandler, fd: int, queue: Any) -> None:
    """Until the handler is closed: lines, and in between calls for whoever waits until it is their turn."""
    torn = False  # the last line has no end, as on a full disk
    while (item := queue.get()) is not None:
        if isinstance(item, bytes):
            data = b"\n" + item if torn else item
            rest, error = _write(fd, data)
            written = len(data) - len(rest)
            if written:
                torn = data[written - 1 : written] != b"\n"
            handler.done(item, error)
        else:
            item()


def _write(fd: int, data: bytes) -> tuple[bytes, OSError | None]:
    """What is left of it, and why."""
    while data:
        try:
            data = data[os.write(fd, data) :]
        except BlockingIOError:  # another process of the terminal has made it so
            poll = _poll()
            poll.register(fd, _POLLOUT)
            poll.poll()
        except OSError as error:
            return data, error
    return data, None
