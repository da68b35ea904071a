"""What has passed through a node lately: counts and rates by endpoint, the last requests, the last errors.

Responsible for: keeping that in bounded memory at a small price for each request. Refuses to know: where requests end,
and who wants to see them.

A request is counted and kept where it entered the cluster. Of its target only the path is ever told, and none of its
fields: tokens and cookies live in the rest. What a visitor makes up is not counted: an endpoint gets a counter with the
first request that found somebody to go to.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from math import inf
from typing import Any, Final, NamedTuple

__all__ = ["ERRORS_MAX", "REQUESTS_MAX", "EndpointCounter", "Recent", "is_error"]

REQUESTS_MAX: Final = 1000
ERRORS_MAX: Final = 200

ENDPOINTS_MAX: Final = 100_000
"""Endpoints that are counted; past it the one whose counter is the oldest is counted anew."""

WINDOW_S: Final = 10.0
"""Over which a rate is taken."""

TEXT_MAX: Final = 256
"""What is kept of a value that somebody else chose."""

OF_THE_CLIENT: Final = frozenset(
    {"client_closed", "client_stalled", "body_incomplete", "body_timeout", "body_too_large"}
)
"""Outcomes that nobody here can do anything about."""


def is_error(outcome: str, status: int) -> bool:
    """Whether something is wrong with the endpoint or on the way to it."""
    return status >= 500 or (outcome != "ok" and outcome not in OF_THE_CLIENT)


class EndpointCounter:
    """Requests of one endpoint that ended. ``count`` is all that a request does."""

    __slots__ = ("_errors", "_errors_before", "_requests", "_requests_before", "_until", "errors_so_far", "so_far")

    def __init__(self) -> None:
        self.so_far = self.errors_so_far = 0  # without those of the present window
        self._requests = self._errors = 0
        self._requests_before = self._errors_before = 0
        self._until = -inf

    def count(self, now: float, error: bool) -> None:
        """One more."""
        if now >= self._until:
            self._turn(now)
        self._requests += 1
        if error:
            self._errors += 1

    @property
    def requests(self) -> int:
        """So many in all."""
        return self.so_far + self._requests

    @property
    def errors(self) -> int:
        """So many of them were errors."""
        return self.errors_so_far + self._errors

    def rates(self, now: float) -> tuple[float, float]:
        """Requests and errors a second, of late: this window, and of the one before what is within ``WINDOW_S``."""
        if now >= self._until:
            self._turn(now)
        share = max(0.0, self._until - now) / WINDOW_S
        return (
            (self._requests_before * share + self._requests) / WINDOW_S,
            (self._errors_before * share + self._errors) / WINDOW_S,
        )

    def _turn(self, now: float) -> None:
        fresh = now < self._until + WINDOW_S
        self._requests_before = self._requests if fresh else 0
        self._errors_before = self._errors if fresh else 0
        self.so_far += self._requests
        self.errors_so_far += self._errors
        self._requests = self._errors = 0
        self._until = self._until + WINDOW_S if fresh else now + WINDOW_S


class _Entry(NamedTuple):
    """One request as it is kept; ``time`` is of the clock that only goes forward."""

    time: float
    request_id: str
    endpoint: str
    remote: str
    method: bytes
    target: bytes
    status: int
    outcome: str
    total_s: float
    upstream_s: float
    bytes_in: int
    bytes_out: int
    upstream: str
    peer: str
    reason: str


class Recent:
    """One per node."""

    def __init__(self, now: Callable[[], float], time_of_day: Callable[[], float] = time.time) -> None:
        self._now = now
        self._time_of_day = time_of_day
        self._endpoints: dict[str, EndpointCounter] = {}
        self._requests: deque[tuple[Any, ...]] = deque(maxlen=REQUESTS_MAX)
        self._errors: deque[tuple[Any, ...]] = deque(maxlen=ERRORS_MAX)

    def finished(
        self,
        now: float,
        request_id: str,
        endpoint: str,
        remote: str,
        method: bytes,
        target: bytes,
        status: int,
        outcome: str,
        total_s: float,
        upstream_s: float,
        bytes_in: int,
        bytes_out: int,
        upstream: str,
        peer: str,
        reason: str,
    ) -> None:
        """A request has ended; ``reason`` is what is known of an error beyond its outcome."""
        if len(target) > TEXT_MAX:
            target = target[:TEXT_MAX]
        error = (outcome != "ok" or status >= 500) and is_error(outcome, status)
        counter = self._endpoints.get(endpoint)
        if counter is not None:
            counter.count(now, error)
        elif upstream or peer:
            self._first_of(endpoint).count(now, error)
        # A plain tuple: a named one costs more to make than all the rest here, and is made when somebody looks.
        entry = (
            now, request_id, endpoint, remote, method, target, status, outcome, total_s, upstream_s, bytes_in,
            bytes_out, upstream, peer, reason,
        )  # fmt: skip
        self._requests.append(entry)
        if error:
            self._errors.append(entry)

    def _first_of(self, endpoint: str) -> EndpointCounter:
        if len(self._endpoints) >= ENDPOINTS_MAX:
            del self._endpoints[next(iter(self._endpoints))]
        counter = self._endpoints[endpoint] = EndpointCounter()
        return counter

    def counted(self) -> Iterator[tuple[str, EndpointCounter]]:
        """Every endpoint that has a counter; others may run in between."""
        for endpoint in list(self._endpoints):
            counter = self._endpoints.get(endpoint)
            if counter is not None:
                yield endpoint, counter

    def of(self, endpoint: str) -> EndpointCounter | None:
        """The counter of an endpoint; None before its first request."""
        return self._endpoints.get(endpoint)

    def requests(self, endpoint: str = "", limit: int = REQUESTS_MAX) -> Iterator[dict[str, Any]]:
        """The last requests, the newest first; only of one endpoint if it is named."""
        return self._shown(tuple(self._requests), endpoint, limit)

    def errors(self, endpoint: str = "", limit: int = ERRORS_MAX) -> Iterator[dict[str, Any]]:
        """The last of them that were errors."""
        return self._shown(tuple(self._errors), endpoint, limit)

    def _shown(self, entries: tuple[tuple[Any, ...], ...], endpoint: str, limit: int) -> Iterator[dict[str, Any]]:
        began = self._time_of_day() - self._now()
        for fields in reversed(entries):
            if limit <= 0:
                return
            entry = _Entry(*fields)
            if not endpoint or entry.endpoint == endpoint:
                limit -= 1
                yield _row(entry, began + entry.time)


def _row(entry: _Entry, time_of_day: float) -> dict[str, Any]:
    second = int(time_of_day)
    return {
        "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(second))}.{int((time_of_day - second) * 1000):03d}Z",
        "request": entry.request_id,
        "endpoint": entry.endpoint,
        "remote": entry.remote,
        "method": _text(entry.method),
        "path": _text(entry.target.partition(b"?")[0]),
        "status": entry.status,
        "outcome": entry.outcome,
        "total_s": round(entry.total_s, 6),
        "upstream_s": round(entry.upstream_s, 6),
        "bytes_in": entry.bytes_in,
        "bytes_out": entry.bytes_out,
        "upstream": entry.upstream,
        "peer": entry.peer,
        "reason": entry.reason[:TEXT_MAX],
    }


def _text(value: bytes) -> str:
    return value[:TEXT_MAX].decode("utf-8", "replace")
