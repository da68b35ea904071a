"""What was measured, as values, as a table and as JSON.

Responsible for: the figures of each cell, the ratios to the floor, the bars and whether they were met, and how all of
it is shown. Refuses to know: how anything was measured.

A bar is judged on the median of the ratios of the rounds, each taken between two measurements that stood next to each
other. A bar for which something is missing is neither passed nor missed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pico.cli.bench.figures import median, percentile, ratio
from pico.cli.bench.load import Outcome
from pico.cli.bench.memory import Growth
from pico.cli.bench.plan import BAR_CONNECTIONS, FALL_OFF_CONNECTIONS, MIB, Cell, Measurement
from pico.cli.bench.targets import DOWNLOAD

__all__ = ["Bar", "Figures", "Memory", "Report", "bars_of", "cell_name", "figures_of", "render", "to_json"]

WINDOW_KIB = 256
Measurements = Mapping[tuple[Cell, str], Measurement]
Cost = Callable[[Outcome], float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One line of the table. Costs are per request and by part: node and agent, or proxy, or service."""

    requests: int
    requests_per_s: float | None
    mb_per_s: float | None  # of bodies; 10^6 bytes
    p50_ms: float | None
    p99_ms: float | None
    p999_ms: float | None
    cpu_us: dict[str, float | None]
    kilo_instructions: dict[str, float | None] | None
    peak_rss_mib: dict[str, float]
    failures: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One promise. ``passed`` is None when this run did not measure it."""

    name: str
    value: float | None
    limit: float
    at_most: bool = True
    stretch: float | None = None
    note: str = ""

    @property
    def passed(self) -> bool | None:
        if self.value is None:
            return None
        return self.value <= self.limit if self.at_most else self.value >= self.limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What memory grew by; None where it was not measured."""

    idle_upstreams: Growth | None = None
    idle_endpoints: Growth | None = None  # the same with an endpoint for each upstream
    stalled_streams: dict[str, Growth] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One whole run."""

    machine: dict[str, Any]
    seconds: float
    rounds: int
    elapsed_s: float
    measurements: dict[tuple[Cell, str], Measurement]
    memory: Memory

    def cells(self) -> list[Cell]:
        return list(dict.fromkeys(cell for cell, _ in self.measurements))

    def targets_of(self, cell: Cell) -> list[str]:
        return [target for other, target in self.measurements if other == cell]

    def failures(self) -> int:
        outcomes = (outcome for each in self.measurements.values() for outcome in each.outcomes.values())
        return sum(sum(outcome.failures.values()) for outcome in outcomes)


# -- figures ----------------------------------------------------------------------------------------------------------


def figures_of(cell: Cell, measurement: Measurement) -> Figures:
    """The medians of the rounds; percentiles over the requests of all rounds together."""
    outcomes = list(measurement.outcomes.values())
    latencies = sorted(latency for outcome in outcomes for latency in outcome.latencies_us)
    per_second = median(ratio(outcome.work, outcome.elapsed_s) for outcome in outcomes)
    parts = list(outcomes[0].cpu_ns) if outcomes else []
    counted = any(outcome.instructions for outcome in outcomes)
    return Figures(
        requests=sum(outcome.requests for outcome in outcomes),
        requests_per_s=per_second,
        mb_per_s=None if per_second is None else per_second * cell.body_bytes / 1e6,
        p50_ms=_milliseconds(percentile(latencies, 0.50)),
        p99_ms=_milliseconds(percentile(latencies, 0.99)),
        p999_ms=_milliseconds(percentile(latencies, 0.999)),
        cpu_us={part: median(map(cpu_us(part), outcomes)) for part in parts},
        kilo_instructions={part: median(map(kilo_instructions(part), outcomes)) for part in parts} if counted else None,
        peak_rss_mib={part: kib / 1024 for part, kib in measurement.peak_rss_kib.items()},
        failures=_sum_failures(outcomes),
    )


def cpu_us(*parts: str) -> Cost:
    """The CPU time of these parts together, in microseconds per request."""

    def cost(outcome: Outcome) -> float | None:
        return ratio(sum(outcome.cpu_ns[part] for part in parts) / 1000, outcome.work)

    return cost


def kilo_instructions(*parts: str) -> Cost:
    def cost(outcome: Outcome) -> float | None:
        if outcome.instructions is None:
            return None
        return ratio(sum(outcome.instructions[part] for part in parts) / 1000, outcome.work)

    return cost


def throughput(outcome: Outcome) -> float | None:
    return ratio(outcome.work, outcome.elapsed_s)


def _milliseconds(microseconds: float | None) -> float | None:
    return None if microseconds is None else microseconds / 1000


def _sum_failures(outcomes: Iterable[Outcome]) -> dict[str, int]:
    total: dict[str, int] = {}
    for outcome in outcomes:
        for reason, count in outcome.failures.items():
            total[reason] = total.get(reason, 0) + count
    return total


# -- bars -------------------------------------------------------------------------------------------------------------


def bars_of(measurements: Measurements, memory: Memory) -> list[Bar]:
    """Every bar of the product, in the order of the table."""
    small = Cell(DOWNLOAD, 0, BAR_CONNECTIONS)
    large = Cell(DOWNLOAD, MIB, BAR_CONNECTIONS)
    many = Cell(DOWNLOAD, 0, FALL_OFF_CONNECTIONS)

    def to_floor(cell: Cell, *parts: str, floor: str = "floor") -> float | None:
        return median_ratio(measurements.get((cell, "pico")), measurements.get((cell, floor)), cpu_us(*parts))

    def small_bar(part: str) -> Bar:
        plain = to_floor(small, part, floor="floor-greenlet")
        note = "" if plain is None else f"{plain:.2f} × a plain greenlet relay"
        return Bar(
            name=f"{part} CPU per small request, × floor",
            value=to_floor(small, part),
            limit=2.0,
            stretch=1.5,
            note=note,
        )

    shares = [(part, to_floor(large, part)) for part in ("node", "agent")]
    return [
        small_bar("node"),
        small_bar("agent"),
        Bar(
            name="CPU per 1 MiB response, × floor",
            value=to_floor(large, "node", "agent"),
            limit=1.3,
            note=", ".join(f"{part} {share:.2f}" for part, share in shares if share is not None),
        ),
        Bar(
            name=f"requests/s at {FALL_OFF_CONNECTIONS} against {BAR_CONNECTIONS} connections",
            value=median_ratio(measurements.get((many, "pico")), measurements.get((small, "pico")), throughput),
            limit=0.9,
            at_most=False,
            note=_fall_off_of_floor(measurements, many, small),
        ),
        *_memory_bars(memory),
    ]


def median_ratio(mine: Measurement | None, base: Measurement | None, cost: Cost) -> float | None:
    """The median over the rounds in which both were measured."""
    if mine is None or base is None:
        return None
    rounds = mine.outcomes.keys() & base.outcomes.keys()
    return median(ratio(cost(mine.outcomes[number]), cost(base.outcomes[number])) for number in rounds)


def _fall_off_of_floor(measurements: Measurements, many: Cell, few: Cell) -> str:
    value = median_ratio(measurements.get((many, "floor")), measurements.get((few, "floor")), throughput)
    return "" if value is None else f"the floor {value:.2f}"


def _memory_bars(memory: Memory) -> list[Bar]:
    idle, apart, stalled = memory.idle_upstreams, memory.idle_endpoints, memory.stalled_streams
    node, agent = stalled.get("node"), stalled.get("agent")
    return [
        Bar(
            name="node KiB per idle upstream",
            value=idle.kib_each if idle else None,
            limit=24.0,
            note=f"{apart.kib_each:.1f} with an endpoint each" if apart else "",
        ),
        Bar(
            name="node KiB per stalled stream beyond its window",
            value=node.kib_each - WINDOW_KIB if node else None,
            limit=64.0,
            note=f"the agent {agent.kib_each - WINDOW_KIB:.1f}" if agent else "",
        ),
    ]


# -- table ------------------------------------------------------------------------------------------------------------

_HEADINGS = (
    *("target", "requests/s", "MB/s", "p50 ms", "p99 ms", "p99.9 ms"),
    *("CPU µs", "× floor", "kIns", "peak RSS MiB", "failed"),
)


def render(report: Report) -> str:
    """The whole report as text, for a terminal or a file."""
    lines = [_title(report), ""]
    for cell in report.cells():
        rows = [_row(report.measurements, cell, target) for target in report.targets_of(cell)]
        lines += [cell_name(cell), *_aligned([_HEADINGS, *rows]), ""]
    lines += _memory_lines(report.memory)
    lines += ["bars", *_aligned([_bar_row(bar) for bar in bars_of(report.measurements, report.memory)])]
    return "\n".join(lines) + "\n"


def cell_name(cell: Cell) -> str:
    plural = "s" if cell.connections > 1 else ""
    what = f"{cell.direction} {size_name(cell.body_bytes)}" if cell.body_bytes else "empty body"
    return f"{what}, {cell.connections} connection{plural}"


def size_name(size: int) -> str:
    for unit, name in ((MIB, "MiB"), (1024, "KiB")):
        if size and size % unit == 0:
            return f"{size // unit} {name}"
    return f"{size} B"


def _title(report: Report) -> str:
    machine = ", ".join(f"{name} {value}" for name, value in report.machine.items())
    parts = "CPU, kIns and RSS: node + agent, the proxy, or the service"
    return f"{machine}\n{report.rounds} rounds of {report.seconds:g} s, {report.elapsed_s:.0f} s in all. {parts}"


def _row(measurements: Measurements, cell: Cell, target: str) -> tuple[str, ...]:
    figures = figures_of(cell, measurements[cell, target])
    parts = list(figures.cpu_us)
    floor = measurements.get((cell, "floor"))
    of_floor = [
        median_ratio(measurements[cell, target], floor, cpu_us(part)) if part in ("node", "agent") else None
        for part in parts
    ]
    instructions = figures.kilo_instructions or {}
    return (
        target,
        _number(figures.requests_per_s, 0),
        _number(figures.mb_per_s or None, 1),
        *(_number(value, 2) for value in (figures.p50_ms, figures.p99_ms, figures.p999_ms)),
        " + ".join(_number(figures.cpu_us[part], 1) for part in parts),
        " + ".join(_number(value, 2) for value in of_floor if value is not None) or "-",
        " + ".join(_number(instructions.get(part), 0) for part in parts) if instructions else "-",
        " + ".join(_number(figures.peak_rss_mib.get(part), 0) for part in parts),
        str(sum(figures.failures.values())),
    )


def _memory_lines(memory: Memory) -> list[str]:
    named = [
        ("idle upstreams, node", memory.idle_upstreams),
        ("idle upstreams with an endpoint each, node", memory.idle_endpoints),
        *((f"stalled streams, {part}", growth) for part, growth in memory.stalled_streams.items()),
    ]
    rows = [
        (
            name,
            str(growth.count),
            f"{growth.before_kib / 1024:.1f}",
            f"{growth.after_kib / 1024:.1f}",
            f"{growth.kib_each:.1f}",
        )
        for name, growth in named
        if growth is not None
    ]
    if not rows:
        return []
    return ["memory", *_aligned([("what", "count", "MiB before", "MiB after", "KiB each"), *rows]), ""]


def _bar_row(bar: Bar) -> tuple[str, ...]:
    verdict = {None: "not measured", True: "pass", False: "MISS"}[bar.passed]
    if bar.stretch is not None and bar.value is not None and bar.value <= bar.stretch:
        verdict = "pass, and the stretch"
    relation = "at most" if bar.at_most else "at least"
    return (bar.name, _number(bar.value, 2), f"{relation} {bar.limit:g}", verdict, bar.note)


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns of equal width, the first to the left, figures to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  " + "  ".join(
            text.ljust(width) if number == 0 or not _is_figure(text) else text.rjust(width)
            for number, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]  # fmt: skip


def _is_figure(text: str) -> bool:
    return text.replace(" + ", "").replace(".", "").replace("-", "").isdigit() or text in (*_HEADINGS, "-")


# -- JSON -------------------------------------------------------------------------------------------------------------


def to_json(report: Report) -> str:
    """The same for machines; every key is always there, and null is what was not measured."""
    memory = report.memory
    document = {
        "version": 1,
        "machine": report.machine,
        "seconds": report.seconds,
        "rounds": report.rounds,
        "elapsed_s": report.elapsed_s,
        "cells": [_json_cell(report, cell) for cell in report.cells()],
        "memory": {
            "idle_upstreams": _json_growth(memory.idle_upstreams),
            "idle_endpoints": _json_growth(memory.idle_endpoints),
            "stalled_streams": {part: _json_growth(growth) for part, growth in memory.stalled_streams.items()},
        },
        "bars": [{**asdict(bar), "passed": bar.passed} for bar in bars_of(report.measurements, memory)],
    }
    return json.dumps(document, indent=2) + "\n"


def _json_cell(report: Report, cell: Cell) -> dict[str, Any]:
    floor = report.measurements.get((cell, "floor"))
    targets: dict[str, Any] = {}
    for target in report.targets_of(cell):
        measurement = report.measurements[cell, target]
        figures = figures_of(cell, measurement)
        shared = [part for part in figures.cpu_us if part in ("node", "agent")]
        of_floor = {part: median_ratio(measurement, floor, cpu_us(part)) for part in shared}
        targets[target] = {**asdict(figures), "cpu_of_floor": of_floor}
    return {**cell._asdict(), "targets": targets}


def _json_growth(growth: Growth | None) -> dict[str, float] | None:
    return None if growth is None else {**asdict(growth), "kib_each": growth.kib_each}
