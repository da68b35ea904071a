"""The arithmetic of the benchmark."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pico.cli.bench.figures import median, percentile, ratio

SAMPLES = st.lists(st.integers(0, 10**9), min_size=1, max_size=200).map(sorted)
FRACTIONS = st.sampled_from([0.001, 0.5, 0.9, 0.99, 0.999, 1.0])


@pytest.mark.parametrize(
    "count,fraction,expected",
    [(1, 0.5, 1), (1, 0.999, 1), (2, 0.5, 1), (3, 0.5, 2), (100, 0.99, 99), (1000, 0.999, 999), (1000, 0.99, 990)],
)
def test_a_percentile_of_the_first_numbers_is_its_rank(count: int, fraction: float, expected: int) -> None:
    assert percentile(range(1, count + 1), fraction) == expected


def test_nothing_has_no_percentile() -> None:
    assert percentile([], 0.5) is None


@given(SAMPLES, FRACTIONS)
def test_a_percentile_is_the_smallest_sample_that_enough_samples_do_not_exceed(
    samples: list[int], fraction: float
) -> None:
    found = percentile(samples, fraction)
    assert found in samples
    enough = math.ceil(fraction * len(samples) - 1e-9)
    assert sum(sample <= found for sample in samples) >= enough
    assert sum(sample < found for sample in samples) < enough


@pytest.mark.parametrize(
    "values,expected", [([], None), ([None], None), ([3.0], 3.0), ([1.0, None, 2.0], 1.5), ([9.0, 1.0, 5.0], 5.0)]
)
def test_the_median_is_of_what_was_measured(values: list[float | None], expected: float | None) -> None:
    assert median(values) == expected


@pytest.mark.parametrize(
    "value,base,expected", [(3.0, 2.0, 1.5), (None, 2.0, None), (3.0, None, None), (3.0, 0.0, None), (0.0, 2.0, 0.0)]
)
def test_a_ratio_needs_both(value: float | None, base: float | None, expected: float | None) -> None:
    assert ratio(value, base) == expected
