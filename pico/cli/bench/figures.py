"""The arithmetic of the benchmark: percentiles, medians, ratios.

Responsible for: turning samples into the figures of the table. Refuses to know: where the samples come from and how
the figures are shown.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

__all__ = ["median", "percentile", "ratio"]


def percentile(ordered: Sequence[float], fraction: float) -> float | None:
    """The smallest sample that at least ``fraction`` of all samples do not exceed. None without samples.

    ``ordered`` must be sorted. No interpolation: every figure in the table was really measured.
    """
    if not ordered:
        return None
    rank = math.ceil(fraction * len(ordered) - 1e-9)  # 0.999 * 1000 must be the 999th in spite of binary fractions
    return ordered[max(rank, 1) - 1]


def median(values: Iterable[float | None]) -> float | None:
    """The middle of what was measured, the mean of the two middle ones; None when nothing was."""
    ordered = sorted(value for value in values if value is not None)
    if not ordered:
        return None
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def ratio(value: float | None, base: float | None) -> float | None:
    """``value / base`` when both were measured and the base is not nothing."""
    return value / base if value is not None and base else None
