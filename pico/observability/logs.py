"""How the programs write their logs.

Responsible for: one line per record, as key=value for people or as JSON for machines, and for not writing the same
complaint a thousand times. Lines are pure ASCII without a control character, as those of the access log are: what a
peer has said neither forges a line nor reaches a terminal. Refuses to know: who logs what, and how a line reaches its
reader (``pico.observability.log_handler``). Only the console entry points call ``configure``: a program that uses Pico
as a library owns its logging itself.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable
from typing import Any, Final, TextIO

from pico.observability.log_handler import LogHandler

__all__ = ["EACH", "JsonFormatter", "KeyValueFormatter", "RepeatFilter", "configure"]

REPEATS_MAX: Final = 10
"""Records from one place about one thing that pass in one interval."""

RECORDS_MAX: Final = 100
"""Records from one place that pass in one interval, whatever they are about: others may choose that."""

REPEAT_INTERVAL_S: Final = 10.0

PLACES_MAX: Final = 1024
"""Places that are counted at one time; past it the count begins anew."""

EACH: Final = {"each": True}
"""The ``extra`` of a record of which each one is written."""

_is_bare = re.compile(r"[!#-<>-\[\]-~]++").fullmatch


def configure(format: str, level: str, stream: TextIO) -> None:
    """Have every logger of the process write to ``stream``; what was set up before is replaced."""
    formatter: logging.Formatter = JsonFormatter() if format == "json" else KeyValueFormatter()
    handler = _handler(stream)
    handler.setFormatter(formatter)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def _handler(stream: TextIO) -> LogHandler:
    """Not in use: a new one, or that which writes there already, so that its lines and later ones stay in order."""
    root = logging.getLogger()
    for handler in root.handlers:
        if isinstance(handler, LogHandler) and handler.stream is stream:
            root.removeHandler(handler)
            return handler
    handler = LogHandler(stream)
    handler.addFilter(RepeatFilter())
    return handler


class RepeatFilter(logging.Filter):
    """Lets ``REPEATS_MAX`` records from one place about one thing pass in an interval, and ``RECORDS_MAX`` in all.

    What a record is about is its first argument. The first that passes in a later interval carries the number of those
    from that place that did not, as ``suppressed``.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._places: dict[tuple[str, int, int], _Place] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is written; below WARNING every one is."""
        if record.levelno < logging.WARNING or hasattr(record, "each"):
            return True
        now = self._clock()
        key = (record.pathname, record.lineno, record.levelno)
        place = self._places.get(key)
        if place is None or now - place.began_at >= REPEAT_INTERVAL_S:
            record.suppressed = 0 if place is None else place.suppressed
            if len(self._places) >= PLACES_MAX:
                self._places.clear()
            self._places[key] = place = _Place(now)
        return place.passes(str(record.args[0]) if isinstance(record.args, tuple) and record.args else "")


class _Place:
    """What one line of the source has logged in one interval."""

    __slots__ = ("_passed", "_subjects", "began_at", "suppressed")

    def __init__(self, now: float) -> None:
        self.began_at = now
        self.suppressed = 0
        self._passed = 0
        self._subjects: dict[str, int] = {}

    def passes(self, subject: str) -> bool:
        records = self._subjects.get(subject, 0)
        if records >= REPEATS_MAX or self._passed >= RECORDS_MAX:
            self.suppressed += 1
            return False
        self._subjects[subject] = records + 1
        self._passed += 1
        return True


class KeyValueFormatter(logging.Formatter):
    """``time=... level=... logger=... message="..."``; a value that is not a plain word is written as in JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Give one record as text."""
        return " ".join(f"{key}={_value(str(value))}" for key, value in _fields(record).items())


class JsonFormatter(logging.Formatter):
    """One JSON object per record."""

    def format(self, record: logging.LogRecord) -> str:
        """Give one record as text."""
        return _json(_fields(record))


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    second = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    fields: dict[str, Any] = {
        "time": f"{second}.{int(record.msecs):03d}Z",
        "level": record.levelname.lower(),
        "logger": record.name,
        "message": record.getMessage(),
    }
    suppressed = getattr(record, "suppressed", 0)
    if suppressed:
        fields["suppressed"] = suppressed
    if record.exc_info:
        fields["traceback"] = logging.Formatter().formatException(record.exc_info)
    return fields


def _value(text: str) -> str:
    return text if _is_bare(text) else _json(text)


def _json(value: object) -> str:
    """Of printable ASCII alone."""
    return json.dumps(value, ensure_ascii=True)
