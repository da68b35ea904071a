"""What the last minutes were like: one sample a second of what is counted anyway.

Responsible for: turning counters into rates and buckets into percentiles, and keeping them for a while. Refuses to
know: who counts, and who looks.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Final, NamedTuple

from pico.transport.clock import Clock, until_tick

__all__ = ["SAMPLES_MAX", "History", "Sample", "Totals", "percentile"]

INTERVAL_S: Final = 1.0
SAMPLES_MAX: Final = 300
PERCENTILES_OVER: Final = 10
"""Samples whose requests a percentile is taken of."""


class Totals(NamedTuple):
    """What has been counted until now, and how much is under way."""

    requests: int
    errors: int
    in_flight: int
    durations: Sequence[int]
    """How many requests took at most so long, bucket by bucket."""


class Sample(NamedTuple):
    """One second. Rates are per second; a percentile is None while no request has ended."""

    rate: float
    errors: float
    in_flight: int
    p50_s: float | None
    p99_s: float | None


class History:
    """``samples`` are the latest ``SAMPLES_MAX``, the last one the newest; ``start`` begins to take them."""

    def __init__(self, clock: Clock, read: Callable[[], Totals], bounds_s: Sequence[float]) -> None:
        self.samples: deque[Sample] = deque(maxlen=SAMPLES_MAX)
        self.taken = 0
        """Samples, those that are not kept any more included."""
        self._clock = clock
        self._read = read
        self._bounds_s = bounds_s
        self._timer = clock.timer(self._take)
        self._totals: deque[tuple[float, Totals]] = deque(maxlen=PERCENTILES_OVER + 1)

    def start(self) -> None:
        """Begin to sample."""
        now = self._clock.now()
        self._totals.append((now, self._read()))
        self._timer.start(until_tick(now, INTERVAL_S))

    def stop(self) -> None:
        """Sample no longer."""
        self._timer.stop()

    def _take(self) -> None:
        now, after = self._clock.now(), self._read()
        before_at, before = self._totals[-1]
        self._totals.append((now, after))
        seconds = now - before_at
        counts = [new - old for old, new in zip(self._totals[0][1].durations, after.durations, strict=True)]
        self.samples.append(
            Sample(
                rate=(after.requests - before.requests) / seconds,
                errors=(after.errors - before.errors) / seconds,
                in_flight=after.in_flight,
                p50_s=percentile(counts, self._bounds_s, 0.5),
                p99_s=percentile(counts, self._bounds_s, 0.99),
            )
        )
        self.taken += 1
        self._timer.start(until_tick(now, INTERVAL_S))


def percentile(counts: Sequence[int], bounds_s: Sequence[float], share: float) -> float | None:
    """What ``share`` of the counted durations did not exceed, as near as buckets tell it; None without any.

    ``counts`` has one bucket more than there are bounds, for what exceeded all of them.
    """
    upto = list(accumulate(counts))
    if not upto[-1]:
        return None
    rank = share * upto[-1]
    at = bisect_left(upto, rank)
    if at == len(bounds_s):
        return bounds_s[-1]
    lower = bounds_s[at - 1] if at else 0.0
    below = upto[at - 1] if at else 0
    return lower + (bounds_s[at] - lower) * (rank - below) / counts[at]
