"""Figures, bars, table and JSON from measurements made by hand."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pico.cli.bench.load import Outcome
from pico.cli.bench.memory import Growth
from pico.cli.bench.plan import MIB, Cell, Measurement
from pico.cli.bench.report import Bar, Memory, Report, bars_of, cell_name, figures_of, render, size_name, to_json

SMALL, LARGE, MANY = Cell("download", 0, 32), Cell("download", MIB, 32), Cell("download", 0, 512)


def outcome(work: float = 100.0, node_us: float = 10.0, agent_us: float = 20.0, **changes: Any) -> Outcome:
    values: dict[str, Any] = {
        "elapsed_s": 1.0,
        "requests": int(work),
        "work": work,
        "latencies_us": [1000, 2000, 3000],
        "failures": {},
        "cpu_ns": {"node": int(node_us * 1000 * work), "agent": int(agent_us * 1000 * work)},
        "instructions": None,
    }
    return Outcome(**{**values, **changes})


def rounds(*outcomes: Outcome) -> Measurement:
    return Measurement(dict(enumerate(outcomes)), {"node": 2048, "agent": 1024})


def report_of(measurements: dict[tuple[Cell, str], Measurement], memory: Memory | None = None) -> Report:
    return Report(
        machine={"cores": 2},
        seconds=0.5,
        rounds=3,
        elapsed_s=12.0,
        measurements=measurements,
        memory=memory or Memory(),
    )


def bar(measurements: dict[tuple[Cell, str], Measurement], word: str, memory: Memory | None = None) -> Bar:
    (found,) = [bar for bar in bars_of(measurements, memory or Memory()) if word in bar.name]
    return found


def test_figures_are_the_medians_of_the_rounds_and_percentiles_of_all_requests() -> None:
    measurement = rounds(outcome(100), outcome(300), outcome(200, failures={"status: 502": 2}))
    figures = figures_of(Cell("download", 1024, 32), measurement)
    assert figures.requests_per_s == 200
    assert figures.mb_per_s == pytest.approx(0.2048)
    assert (figures.p50_ms, figures.p99_ms) == (2.0, 3.0)
    assert figures.cpu_us == {"node": 10.0, "agent": 20.0}
    assert figures.kilo_instructions is None
    assert figures.peak_rss_mib == {"node": 2.0, "agent": 1.0}
    assert figures.failures == {"status: 502": 2}


def test_instructions_are_shown_where_they_are_counted() -> None:
    counted = outcome(10, instructions={"node": 1_000_000, "agent": 2_000_000})
    assert figures_of(SMALL, rounds(counted)).kilo_instructions == {"node": 100.0, "agent": 200.0}


def test_a_round_without_an_answer_has_no_cost() -> None:
    figures = figures_of(SMALL, rounds(outcome(0, latencies_us=[])))
    assert figures.cpu_us == {"node": None, "agent": None}
    assert figures.p50_ms is None


def test_the_small_bars_are_medians_of_ratios_within_a_round() -> None:
    measurements = {
        (SMALL, "floor"): rounds(outcome(node_us=10), outcome(node_us=20), outcome(node_us=40)),
        (SMALL, "pico"): rounds(outcome(node_us=30), outcome(node_us=36), outcome(node_us=64)),
    }
    node = bar(measurements, "node CPU")
    assert node.value == pytest.approx(1.8)
    assert node.passed is True
    assert bar(measurements, "agent CPU").value == pytest.approx(1.0)


def test_rounds_that_one_target_missed_are_left_out() -> None:
    floor, pico = rounds(outcome(node_us=10)), rounds(outcome(node_us=15), outcome(node_us=90))
    assert bar({(SMALL, "floor"): floor, (SMALL, "pico"): pico}, "node CPU").value == pytest.approx(1.5)


def test_the_body_bar_counts_node_and_agent_together() -> None:
    measurements = {(LARGE, "floor"): rounds(outcome()), (LARGE, "pico"): rounds(outcome(node_us=10, agent_us=35))}
    body = bar(measurements, "1 MiB")
    assert body.value == pytest.approx(1.5)
    assert body.passed is False
    assert body.note == "node 1.00, agent 1.75"


@pytest.mark.parametrize("many,passed", [(95, True), (90, True), (89, False)])
def test_the_fall_off_bar(many: int, passed: bool) -> None:
    measurements = {(SMALL, "pico"): rounds(outcome(100)), (MANY, "pico"): rounds(outcome(many))}
    assert bar(measurements, "512").passed is passed


def test_the_memory_bars() -> None:
    memory = Memory(
        idle_upstreams=Growth(1000, 30_000, 54_000),
        stalled_streams={"node": Growth(100, 0, 32_100), "agent": Growth(100, 0, 26_000)},
    )
    assert bar({}, "idle", memory).passed is True
    stalled = bar({}, "stalled", memory)
    assert stalled.value == pytest.approx(65.0)
    assert stalled.passed is False
    assert stalled.note == "the agent 4.0"


def test_what_was_not_measured_is_neither_passed_nor_missed() -> None:
    assert {bar.passed for bar in bars_of({}, Memory())} == {None}
    assert "not measured" in render(report_of({}))


def test_the_table_shows_each_target_of_each_cell_and_every_bar() -> None:
    measurements = {(SMALL, "floor"): rounds(outcome()), (SMALL, "pico"): rounds(outcome(node_us=14, agent_us=60))}
    lines = render(report_of(measurements)).splitlines()
    assert "empty body, 32 connections" in lines
    (pico,) = [line for line in lines if line.startswith("  pico ")]
    assert "14.0 + 60.0" in pico
    assert "1.40 + 3.00" in pico
    (node,) = [line for line in lines if line.startswith("  node CPU")]
    assert "pass, and the stretch" in node
    (agent,) = [line for line in lines if line.startswith("  agent CPU")]
    assert "MISS" in agent


def test_the_columns_of_a_table_stand_under_their_headings() -> None:
    measurements = {(SMALL, "floor"): rounds(outcome()), (SMALL, "pico"): rounds(outcome(123456))}
    lines = render(report_of(measurements)).splitlines()
    first = lines.index("empty body, 32 connections")
    ends = [line.index(word) + len(word) for line, word in zip(lines[first + 1 :], ("requests/s", "100"), strict=False)]
    assert len(set(ends)) == 1


def test_the_json_has_every_figure_of_the_table() -> None:
    measurements = {(SMALL, "floor"): rounds(outcome()), (SMALL, "pico"): rounds(outcome(node_us=20))}
    document = json.loads(to_json(report_of(measurements, Memory(idle_upstreams=Growth(10, 100, 300)))))
    (cell,) = document["cells"]
    assert (cell["direction"], cell["body_bytes"], cell["connections"]) == ("download", 0, 32)
    assert cell["targets"]["pico"]["cpu_of_floor"] == {"node": 2.0, "agent": 1.0}
    assert document["memory"]["idle_upstreams"]["kib_each"] == 20.0
    assert document["memory"]["stalled_streams"] == {}
    assert [bar["passed"] for bar in document["bars"]] == [True, True, None, None, True, None]


@pytest.mark.parametrize(
    "cell,name",
    [
        (Cell("download", 0, 1), "empty body, 1 connection"),
        (Cell("upload", 64 * 1024, 32), "upload 64 KiB, 32 connections"),
    ],
)
def test_the_name_of_a_cell(cell: Cell, name: str) -> None:
    assert cell_name(cell) == name


@pytest.mark.parametrize("size,name", [(0, "0 B"), (1000, "1000 B"), (1024, "1 KiB"), (MIB, "1 MiB")])
def test_the_name_of_a_size(size: int, name: str) -> None:
    assert size_name(size) == name
