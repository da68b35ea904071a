"""What is counted of reading settings again.

Responsible for: how often, with what result, and when what counts now was read. Refuses to know: what was read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from pico.observability.tally import Tally

__all__ = ["ReloadMetrics"]

RESULTS: Final = ("applied", "refused", "failed")


class ReloadMetrics:
    """Of one process; the start counts as good."""

    __slots__ = ("last_good_at", "results", "succeeded")

    def __init__(self) -> None:
        self.results = Tally(RESULTS)
        self.succeeded = True
        self.last_good_at = 0.0
        """Seconds since 1970."""

    def ended(self, result: str, at: float) -> None:
        """Count one attempt: applied, refused because the settings were wrong, or failed by a fault of our own."""
        self.results.add(result)
        self.succeeded = result == "applied"
        if self.succeeded:
            self.last_good_at = at

    def collect(self) -> Iterator[Metric]:
        """For Prometheus."""
        yield GaugeMetricFamily(
            "pico_config_reload_success", "1 when the last attempt to read the settings was good.", int(self.succeeded)
        )
        yield GaugeMetricFamily(
            "pico_config_last_reload_timestamp_seconds", "When the settings that count were read.", self.last_good_at
        )
        yield self.results.family("pico_config_reloads_total", "Attempts to read the settings again.", "result")
