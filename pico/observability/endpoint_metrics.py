"""Metrics with an endpoint for a label, for those who ask for them.

Responsible for: their text, in slices; who gets a series of its own while there are more endpoints than series; and
that an endpoint's series end with it. Refuses to know: what counts requests (``pico.observability.recent``) and where
an endpoint is.

Nothing here is asked by a request: what was counted is read when somebody scrapes. An endpoint ID is a DNS label, so it
needs no escaping. What is not an endpoint's own series is added up as ``__other__``, which is no endpoint ID.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final, Protocol

from pico.observability.rendering import COUNTED_AT_ONCE

__all__ = ["OTHER", "Counted", "EndpointMetrics"]

OTHER: Final = "__other__"


class Counted(Protocol):
    """What has been counted of one endpoint."""

    @property
    def requests(self) -> int:
        """Requests that ended."""

    @property
    def errors(self) -> int:
        """Requests that entered here and were errors."""


class EndpointMetrics:
    """``loads``, ``counted`` and ``exists`` are set by whoever knows."""

    def __init__(self, series_max: int) -> None:
        self._series_max = series_max
        self._named: dict[str, None] = {}
        self._before: dict[str, tuple[int, int]] = {}  # what __other__ has of each endpoint
        self._other_requests = self._other_errors = 0
        self.loads: Callable[[], Iterable[tuple[str, int, int]]] = tuple
        """Each endpoint here, its upstreams and the streams on them."""
        self.counted: Callable[[], Iterable[tuple[str, Counted]]] = tuple
        """Each endpoint to which a request went from here."""
        self.exists: Callable[[str], bool] = bool
        """Whether somebody has the endpoint, here or elsewhere."""

    def slices(self) -> Iterator[bytes]:
        """Nothing, unless there may be series."""
        if not self._series_max:
            return
        requests = _Family("pico_endpoint_requests_total", "counter", "Requests that entered here, by endpoint.")
        errors = _Family("pico_endpoint_errors_total", "counter", "Requests that entered here and were errors.")
        upstreams = _Family("pico_endpoint_upstreams", "gauge", "Tunnels registered here, by endpoint.")
        streams = _Family("pico_endpoint_streams", "gauge", "Streams open on tunnels registered here, by endpoint.")
        yield from self._forget_the_gone()
        yield from self._take_loads(upstreams, streams)
        yield from self._take_counts(requests, errors)
        for family in (requests, errors, upstreams, streams):
            yield from family.pieces()

    def _forget_the_gone(self) -> Iterator[bytes]:
        for known in (self._named, self._before):
            for number, endpoint in enumerate(list(known)):
                if not self.exists(endpoint):
                    del known[endpoint]
                if number % COUNTED_AT_ONCE == 0:
                    yield b""

    def _has_series(self, endpoint: str) -> bool:
        """Whoever has one keeps it, and whoever has none gets one only before it is part of ``__other__``."""
        if endpoint in self._named:
            return True
        if len(self._named) >= self._series_max or endpoint in self._before:
            return False
        self._named[endpoint] = None
        return True

    def _take_loads(self, upstreams: _Family, streams: _Family) -> Iterator[bytes]:
        other_upstreams = other_streams = 0
        for number, (endpoint, registered, in_flight) in enumerate(self.loads()):
            if self._has_series(endpoint):
                upstreams.add(endpoint, registered)
                streams.add(endpoint, in_flight)
            else:
                self._before.setdefault(endpoint, (0, 0))
                other_upstreams += registered
                other_streams += in_flight
            if number % COUNTED_AT_ONCE == 0:
                yield b""
        upstreams.add(OTHER, other_upstreams)
        streams.add(OTHER, other_streams)

    def _take_counts(self, requests: _Family, errors: _Family) -> Iterator[bytes]:
        for number, (endpoint, counted) in enumerate(self.counted()):
            if not self.exists(endpoint):
                pass
            elif self._has_series(endpoint):
                requests.add(endpoint, counted.requests)
                errors.add(endpoint, counted.errors)
            else:
                self._add_to_other(endpoint, counted.requests, counted.errors)
            if number % COUNTED_AT_ONCE == 0:
                yield b""
        requests.add(OTHER, self._other_requests)
        errors.add(OTHER, self._other_errors)

    def _add_to_other(self, endpoint: str, requests: int, errors: int) -> None:
        """What is new since the last time, so that the sum only grows, whoever comes and goes."""
        requests_before, errors_before = self._before.get(endpoint, (0, 0))
        self._before[endpoint] = (requests, errors)
        self._other_requests += max(0, requests - requests_before)
        self._other_errors += max(0, errors - errors_before)


class _Family:
    """The text of one metric. Nothing but text is kept of it: a tuple for each line would hasten Python's collector."""

    def __init__(self, name: str, kind: str, documentation: str) -> None:
        self._name = name
        self._pieces = [f"# HELP {name} {documentation}\n# TYPE {name} {kind}\n"]
        self._lines: list[str] = []

    def add(self, endpoint: str, value: int) -> None:
        """One series."""
        self._lines.append(f'{self._name}{{endpoint="{endpoint}"}} {value}\n')
        if len(self._lines) == COUNTED_AT_ONCE:
            self._end_piece()

    def pieces(self) -> Iterator[bytes]:
        """All of it."""
        self._end_piece()
        return map(str.encode, self._pieces)

    def _end_piece(self) -> None:
        self._pieces.append("".join(self._lines))
        self._lines.clear()
