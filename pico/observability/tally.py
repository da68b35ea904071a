"""Counters with one label.

Responsible for: keeping the values of a label to a closed set. Refuses to know: what is counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from prometheus_client.core import CounterMetricFamily, Metric

__all__ = ["ANY_REASON", "Tally", "counter_family"]

ANY_REASON: Final = "other"


class Tally:
    """A counter with one label whose values are known beforehand; any other value counts as ``other``."""

    __slots__ = ("_counts",)

    def __init__(self, known: Iterable[str]) -> None:
        self._counts = dict.fromkeys([*known, ANY_REASON], 0)

    def add(self, value: str, amount: int = 1) -> None:
        """Count ``amount`` more."""
        self._counts[value if value in self._counts else ANY_REASON] += amount

    def count(self, value: str) -> int:
        """How many so far."""
        return self._counts[value]

    def family(self, name: str, documentation: str, label: str) -> Metric:
        """One sample for each value, those never seen included, so that the first one shows as an increase."""
        return counter_family(name, documentation, label, self._counts)


def counter_family(name: str, documentation: str, label: str, counts: Mapping[str, int]) -> Metric:
    """A counter with one label, by its values."""
    family = CounterMetricFamily(name, documentation, labels=[label])
    for value, count in counts.items():
        family.add_metric([value], count)
    return family
