"""What every process of Pico answers at its admin door.

Responsible for: ``/metrics``, and whether the process lives and welcomes work. Refuses to know: what is counted, and
what makes a process ready.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Final

from pico.observability.admin import Answer, Request, Route, json_answer, reads
from pico.observability.rendering import timely

__all__ = ["process_routes"]

METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


def process_routes(
    metrics_text: Callable[[], Iterator[bytes]], readiness: Callable[[], tuple[bool, str]]
) -> tuple[Route, ...]:
    """``readiness`` says whether new work is welcome, and if not, why; ``metrics_text`` makes Prometheus' in slices."""

    def metrics(_: Request) -> Answer:
        pieces = timely(metrics_text())
        first = next(pieces)  # now: what fails here can still be answered with an error
        return Answer(chain((first,), pieces), METRICS_TYPE)

    def live(_: Request) -> Answer:
        return json_answer({"status": "live"})

    def ready(_: Request) -> Answer:
        is_ready, reason = readiness()
        if is_ready:
            return json_answer({"status": "ready"})
        return json_answer({"status": "not ready", "reason": reason}, 503)

    return (
        reads("/metrics", metrics),
        reads("/livez", live),
        reads("/health", live),
        reads("/readyz", ready),
        reads("/ready", ready),
    )
