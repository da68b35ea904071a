"""How much each part of the process writes to its log, read and changed while it runs.

Responsible for: the loggers below ``pico``, one for each part. Refuses to know: what they write, and who may change it.
"""

from __future__ import annotations

import logging
from typing import Any, Final

from pico.observability.admin import Answer, Refused, Request, Route, acts, json_answer, reads
from pico.observability.logs import EACH

__all__ = ["DEFAULT", "LEVELS", "ROOT", "log_routes"]

ROOT: Final = "pico"

LEVELS: Final = ("debug", "info", "warning", "error")

DEFAULT: Final = "default"
"""The level of the logger above."""

_log = logging.getLogger("pico.admin")


def log_routes() -> tuple[Route, ...]:
    """``/status/logs``, and ``/-/log-level`` with a ``logger`` and its new ``level``."""
    return reads("/status/logs", _levels), acts("/-/log-level", _change)


def _levels(request: Request) -> Answer:
    request.allow()
    return json_answer({"items": [_row(name) for name in _names()]})


def _change(request: Request) -> Answer:
    said = request.arguments("logger", "level")
    name, level = said.get("logger", ROOT), said.get("level")
    names = _names()
    if name not in names:
        expected = ", ".join(names)
        raise Refused(404, "unknown_logger", f"logger: {str(name)[:40]!r} is not there: expected one of {expected}")
    if level not in (*LEVELS, DEFAULT):
        expected = ", ".join((*LEVELS, DEFAULT))
        raise Refused(400, "bad_body", f"level: {str(level)[:40]!r} is not usable: expected one of {expected}")
    logging.getLogger(name).setLevel(logging.NOTSET if level == DEFAULT else level.upper())
    row = _row(name)
    _log.warning("%s writes from level %s on, as the operator wants it", name, row["effective"], extra=EACH)
    return json_answer(row)


def _names() -> list[str]:
    known = (name for name in logging.root.manager.loggerDict if name.startswith(f"{ROOT}."))
    return [ROOT, *sorted(known)]


def _row(name: str) -> dict[str, Any]:
    logger = logging.getLogger(name)
    own = logging.getLevelName(logger.level).lower() if logger.level else DEFAULT
    return {"logger": name, "level": own, "effective": logging.getLevelName(logger.getEffectiveLevel()).lower()}
