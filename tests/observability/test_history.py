"""Counters become rates, and buckets percentiles."""

from __future__ import annotations

from bisect import bisect_left

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pico.observability.history import SAMPLES_MAX, History, Totals, percentile
from pico.observability.metrics import DURATION_BOUNDS_S, NodeMetrics
from pico.transport.clock import ManualClock


def a_history(now: float = 0.0) -> tuple[ManualClock, NodeMetrics, History]:
    clock = ManualClock(now)
    metrics = NodeMetrics(node_id="n", version="1", failure_codes=["late"])
    history = History(clock, metrics.totals, DURATION_BOUNDS_S)
    history.start()
    return clock, metrics, history


def finished(metrics: NodeMetrics, status: int = 200, seconds: float = 0.004) -> None:
    metrics.request_started()
    metrics.request_finished(b"GET", status, seconds, seconds, 10, 20)


def test_a_sample_tells_what_happened_since_the_one_before() -> None:
    clock, metrics, history = a_history()
    for status in (200, 200, 404, 502):
        finished(metrics, status)
    metrics.request_started()
    clock.advance(1.0)
    clock.advance(1.0)
    first, second = history.samples
    assert (first.rate, first.errors, first.in_flight) == (4.0, 1.0, 1)
    assert (second.rate, second.errors, second.in_flight) == (0.0, 0.0, 1)


def test_a_sample_is_taken_as_a_second_begins_and_rates_are_of_the_time_since_the_one_before() -> None:
    clock, metrics, history = a_history(0.25)
    for status in (200, 200, 502):
        finished(metrics, status)
    clock.advance(0.75)
    (first,) = history.samples
    assert (first.rate, first.errors) == (4.0, 1.0 / 0.75)


def test_a_sample_that_was_late_does_not_make_all_later_ones_late() -> None:
    clock, metrics, history = a_history()
    finished(metrics)
    clock._now = 1.25  # nothing ran: what was due at 1.0 comes now
    clock.advance()
    assert [sample.rate for sample in history.samples] == [0.8]
    clock.advance(0.75)
    assert history.taken == 2, "as the next second begins"


def test_percentiles_are_of_the_last_ten_seconds() -> None:
    clock, metrics, history = a_history()
    clock.advance(1.0)
    assert history.samples[-1].p50_s is None
    for _ in range(98):
        finished(metrics, seconds=0.004)
    for _ in range(2):
        finished(metrics, seconds=0.2)
    clock.advance(10.0)
    p50_s, p99_s = history.samples[-1].p50_s, history.samples[-1].p99_s
    assert p50_s is not None and 0.0025 < p50_s <= 0.005
    assert p99_s is not None and 0.1 < p99_s <= 0.25
    clock.advance(1.0)
    assert history.samples[-1].p99_s is None


def test_it_remembers_so_much_and_counts_on() -> None:
    clock, _, history = a_history()
    clock.advance(SAMPLES_MAX + 7.0)
    assert (len(history.samples), history.taken) == (SAMPLES_MAX, SAMPLES_MAX + 7)
    history.stop()
    clock.advance(5.0)
    assert history.taken == SAMPLES_MAX + 7


@given(st.lists(st.floats(0.0, 400.0), min_size=1), st.sampled_from([0.5, 0.9, 0.99]))
def test_a_percentile_is_in_the_bucket_of_the_true_one(durations: list[float], share: float) -> None:
    counts = [0] * (len(DURATION_BOUNDS_S) + 1)
    for seconds in durations:
        counts[bisect_left(DURATION_BOUNDS_S, seconds)] += 1
    rank = max(1, -int(-share * len(durations) // 1))
    true = min(sorted(durations)[rank - 1], DURATION_BOUNDS_S[-1])
    found = percentile(counts, DURATION_BOUNDS_S, share)
    assert found is not None
    at = bisect_left(DURATION_BOUNDS_S, true)
    lower = DURATION_BOUNDS_S[at - 1] if at else 0.0
    assert lower <= found <= DURATION_BOUNDS_S[at]


def test_what_exceeds_every_bound_is_told_as_the_last() -> None:
    assert percentile([0, 0, 3], [1.0, 2.0], 0.5) == 2.0
    assert percentile([0, 0, 0], [1.0, 2.0], 0.5) is None


def test_totals_of_several_kinds_of_requests_add_up() -> None:
    _, metrics, _ = a_history()
    finished(metrics, 200)
    finished(metrics, 500)
    metrics.request_started()
    metrics.request_finished(b"NONSENSE", 599, 0.0, 0.0, 0, 0)
    totals = metrics.totals()
    assert isinstance(totals, Totals)
    assert (totals.requests, totals.errors, sum(totals.durations)) == (3, 2, pytest.approx(3))
