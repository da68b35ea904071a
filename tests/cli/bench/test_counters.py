"""The kernel's figures, read of our own process."""

from __future__ import annotations

import os
import time

from pico.cli.bench.counters import Counters, instructions_are_counted, peak_rss_kib, reset_peak_rss, rss_kib

ENDED = 2**22 + 1  # above the highest process ID that Linux gives


def test_cpu_time_grows_with_work_by_about_the_work() -> None:
    counters = Counters({"us": [os.getpid()]})
    before, start_ns = counters.read(), time.process_time_ns()
    while time.process_time_ns() - start_ns < 50_000_000:
        pass
    after = counters.read()
    counters.close()
    assert 40_000_000 <= after.cpu_ns["us"] - before.cpu_ns["us"] <= 500_000_000


def test_a_process_that_has_ended_counts_nothing() -> None:
    assert Counters({"gone": [ENDED]}).read().cpu_ns == {"gone": 0}
    assert rss_kib(ENDED) == peak_rss_kib(ENDED) == 0
    reset_peak_rss(ENDED)


def test_instructions_are_counted_or_absent_but_never_guessed() -> None:
    counters = Counters({"us": [os.getpid()]})
    sample = counters.read()
    counters.close()
    assert (sample.instructions is not None) == instructions_are_counted()


def test_resident_memory_is_read_and_its_peak_is_not_below_it() -> None:
    assert 1024 < rss_kib(os.getpid()) <= peak_rss_kib(os.getpid())
