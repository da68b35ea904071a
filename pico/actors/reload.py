"""Settings are read again while the process runs.

Responsible for: one attempt at a time, its outcome in the log, in the metrics and in the answer of the admin door, and
that none of them ends the process. Refuses to know: where settings come from (whoever gives ``read``), and what it
takes to live by them (whoever gives ``apply``).

A signal that comes while an attempt waits for another is the same wish: what is read then is newer than both.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import gevent
from gevent.hub import get_hub
from gevent.lock import BoundedSemaphore

from pico.errors import ConfigError, PicoError
from pico.observability.admin import Answer, Refused, Request, Route, acts, json_answer
from pico.observability.logs import EACH
from pico.observability.reload_metrics import ReloadMetrics

__all__ = ["Proposal", "Reload"]

Config = TypeVar("Config")

_log = logging.getLogger("pico.config")


@dataclass(frozen=True, slots=True)
class Proposal(Generic[Config]):
    """Settings that were read and found good. Names are for people: a setting, as it is called in a file."""

    config: Config
    """What counts now, with the changes that need no restart."""
    changed: tuple[str, ...]
    needs_restart: tuple[str, ...]
    accept: Callable[[], None]
    """Called when ``config`` counts."""
    named: Callable[[str], str] = lambda key: key
    """How whoever set the setting of a key has called it, for complaints."""


class Reload(Generic[Config]):
    """``read`` raises ``PicoError`` for settings that are wrong; ``apply`` does, too, and has changed nothing then."""

    def __init__(
        self,
        read: Callable[[], Proposal[Config]],
        apply: Callable[[Proposal[Config]], None],
        metrics: ReloadMetrics,
        *,
        time_of_day: Callable[[], float] = time.time,
        announce: Callable[[bool], None] = lambda begins: None,
    ) -> None:
        """``announce`` is told when an attempt begins, and when it has ended."""
        self._read = read
        self._apply = apply
        self._metrics = metrics
        self._time_of_day = time_of_day
        self._announce = announce
        self._one_at_a_time = BoundedSemaphore(1)
        self._waiting = False
        metrics.last_good_at = time_of_day()

    def ask(self) -> None:
        """Begin an attempt, unless one is about to begin; does not wait. Called in the hub, for a signal."""
        if not self._waiting:
            self._waiting = True
            gevent.spawn_raw(self._attempt_quietly)

    def attempt(self) -> Proposal[Config]:
        """Read and apply. Raises ``PicoError`` for settings that are wrong, and blocks the calling greenlet only."""
        with self._one_at_a_time:
            self._waiting = False
            self._announce(True)
            result = "failed"
            try:
                proposal = self._read_aside()
                self._apply_named(proposal)
                proposal.accept()
                result = "applied"
            except PicoError as error:
                result = "refused"
                _log.error("the new settings are refused, and the old ones stay: %s", error, extra=EACH)
                raise
            finally:
                self._metrics.ended(result, self._time_of_day())
                self._announce(False)
            _tell(proposal)
            return proposal

    def route(self) -> Route:
        """POST ``/-/reload``."""
        return acts("/-/reload", self._act)

    def _act(self, request: Request) -> Answer:
        request.arguments()
        try:
            proposal = self.attempt()
        except PicoError as error:
            raise Refused(422, "bad_settings", str(error)) from error
        changed, needs_restart = list(proposal.changed), list(proposal.needs_restart)
        return json_answer({"status": "applied", "changed": changed, "needs_restart": needs_restart})

    def _attempt_quietly(self) -> None:
        try:
            self.attempt()
        except PicoError:
            pass  # it is in the log
        except Exception:
            _log.exception("reading the settings again failed")

    def _apply_named(self, proposal: Proposal[Config]) -> None:
        try:
            self._apply(proposal)
        except ConfigError as error:
            raise error.renamed(proposal.named) from error

    def _read_aside(self) -> Proposal[Config]:
        """In a thread: a large file takes a while, and requests must not wait for it."""
        outcome = get_hub().threadpool.apply(_outcome, (self._read,))
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome  # type: ignore[no-any-return]


def _outcome(read: Callable[[], Any]) -> Any:
    """What was read or raised: the pool would print what is raised."""
    try:
        return read()
    except Exception as error:
        return error


def _tell(proposal: Proposal[Any]) -> None:
    changed = ", ".join(proposal.changed) or "nothing"
    _log.info("the settings were read again: %s changed", changed)
    if proposal.needs_restart:
        _log.warning("these settings wait for a restart: %s", ", ".join(proposal.needs_restart), extra=EACH)
