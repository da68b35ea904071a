"""What is measured, in which order, and for how long.

Responsible for: the cells of the table, which of them the bars need, the order of the rounds, the limit on the whole
run. Refuses to know: processes.

The machine's other tenants come and go within seconds, so what is compared is measured side by side: a round visits
every cell once, and in a cell one target directly after the other. Every second cell takes its targets in the opposite
order, so that the last target of one cell is the first of the next: 512 connections are measured directly after 32.
Ratios are taken within a round, and the table shows their median.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from pico.cli.bench.load import Job, Outcome
from pico.cli.bench.targets import DOMAIN, DOWNLOAD, UPLOAD, Target

__all__ = ["BAR_CONNECTIONS", "FALL_OFF_CONNECTIONS", "MIB", "Cell", "Measurement", "Plan", "Step", "cells_of"]

FALL_OFF_CONNECTIONS = 512
BAR_CONNECTIONS = 32
MIB = 1024 * 1024


class Cell(NamedTuple):
    """One kind of load."""

    direction: str
    body_bytes: int
    connections: int

    def job(self, target: Target, seconds: float) -> Job:
        route = target.routes[self.direction]
        upload = self.direction == UPLOAD
        return Job(
            port=route.port,
            authority=f"{self.direction}.{DOMAIN}",
            target="/upload" if upload else f"/{self.body_bytes}",
            connections=self.connections,
            body_bytes=self.body_bytes if upload else 0,
            response_bytes=len(str(self.body_bytes)) if upload else self.body_bytes,
            seconds=seconds,
            groups=route.parts,
        )

    @property
    def decides_a_bar(self) -> bool:
        return self.direction == DOWNLOAD and self.connections == BAR_CONNECTIONS and self.body_bytes in (0, MIB)


class Step(NamedTuple):
    """One cell on one target in one round."""

    round: int
    cell: Cell
    target: Target


@dataclass(slots=True)
class Measurement:
    """All rounds of one cell on one target. A round that was not reached is missing."""

    outcomes: dict[int, Outcome] = field(default_factory=dict)
    peak_rss_kib: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The choices of one run."""

    cells: list[Cell]
    targets: list[str]
    seconds: float
    rounds: int
    budget_s: float
    idle_upstreams: int
    stalled_streams: int

    def steps(self, targets: Iterable[Target], clock: Callable[[], float] = time.monotonic) -> Iterator[Step]:
        """Round by round. The first is always whole; later ones end where the time does."""
        deadline = clock() + self.budget_s
        targets = list(targets)
        for number in range(self.rounds):
            for index, cell in enumerate(self.cells):
                if number and clock() > deadline:
                    return
                here = [target for target in targets if wanted(cell, target.name)]
                for target in reversed(here) if index % 2 else here:
                    yield Step(number, cell, target)

    def count(self) -> int:
        each_round = sum(wanted(cell, target) for cell in self.cells for target in self.targets)
        return self.rounds * each_round


def wanted(cell: Cell, target: str) -> bool:
    """The floor of greenlets is there to be compared with the thin one, where it matters."""
    return target != "floor-greenlet" or cell.decides_a_bar


def cells_of(directions: Iterable[str], sizes: Iterable[int], connections: Iterable[int]) -> list[Cell]:
    """Every combination. An empty body has no direction, and counts as a download; the many connections of the
    fall-off bar go with it alone."""
    cells = [
        Cell(direction, size, number)
        for direction in directions
        for size in sizes
        for number in connections
        if (size or direction == DOWNLOAD) and (number < FALL_OFF_CONNECTIONS or (size, direction) == (0, DOWNLOAD))
    ]
    return sorted(cells, key=_turn)


def _turn(cell: Cell) -> tuple[str, int, bool, int]:
    """By direction and size, and the two whose requests per second are compared next to each other."""
    compared = cell.connections in (BAR_CONNECTIONS, FALL_OFF_CONNECTIONS)
    return cell.direction, cell.body_bytes, compared, cell.connections
