"""Cells, their order, and the limit on the run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pico.cli.bench.command import USAGE, plan_of
from pico.cli.bench.plan import Cell, Plan, cells_of
from pico.cli.bench.targets import Route, Target
from pico.cli.command_line import UsageError, parse


def plan(*words: str) -> Plan:
    return plan_of(parse(USAGE, words, program="pico bench"))


def target(name: str) -> Target:
    route = Route(8000, {"node": [1], "agent": [2]})
    return Target(name, {"download": route, "upload": route})


def test_by_default_everything_that_was_promised_is_measured() -> None:
    cells = plan().cells
    for connections in (1, 32, 128):
        assert Cell("download", 0, connections) in cells
        for size in (1024, 64 * 1024, 1024 * 1024):
            assert Cell("download", size, connections) in cells
            assert Cell("upload", size, connections) in cells
    assert [cell for cell in cells if cell.connections == 512] == [Cell("download", 0, 512)]


def test_an_empty_body_is_measured_once() -> None:
    assert cells_of(["download", "upload"], [0], [1]) == [Cell("download", 0, 1)]


def test_quick_keeps_what_the_bars_need() -> None:
    assert plan("--quick").cells == [
        Cell("download", 0, 32), Cell("download", 0, 512), Cell("download", 1024 * 1024, 32)
    ]  # fmt: skip


def test_memory_is_measured_only_of_pico() -> None:
    assert plan("--targets=floor").idle_upstreams == 0
    assert plan("--targets=pico", "--idle=7").idle_upstreams == 7


@pytest.mark.parametrize(
    "words",
    [
        ("--targets=apache",), ("--sizes=7",), ("--sizes=x",), ("--connections=0",), ("--connections=513",),
        ("--seconds=0",), ("--seconds=x",), ("--rounds=0",), ("--idle=-1",), ("--directions=upload", "--sizes=0"),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_named(words: tuple[str, ...]) -> None:
    with pytest.raises(UsageError):
        plan(*words)


def test_a_round_visits_every_cell_with_its_targets_side_by_side() -> None:
    steps = list(plan("--rounds=2", "--connections=1,32", "--sizes=0").steps([target("floor"), target("pico")]))
    once = [(1, "floor"), (1, "pico"), (32, "pico"), (32, "floor")]
    assert [(step.round, step.cell.connections, step.target.name) for step in steps] == [
        (number, *step) for number in (0, 1) for step in once
    ]


@pytest.mark.parametrize("words", [("--sizes=0",), ("--quick",)])
def test_512_connections_are_measured_directly_after_32(words: tuple[str, ...]) -> None:
    steps = list(plan("--rounds=1", *words).steps([target("floor"), target("pico")]))
    seen = [(step.cell.connections, step.target.name) for step in steps if not step.cell.body_bytes]
    assert seen.index((512, "pico")) - seen.index((32, "pico")) == 1


def test_the_floor_of_greenlets_stands_only_where_a_bar_is_decided() -> None:
    chosen = plan("--connections=1,32", "--sizes=0", "--rounds=1", "--targets=floor-greenlet")
    assert [step.cell.connections for step in chosen.steps([target("floor-greenlet")])] == [32]
    assert chosen.count() == 1


def test_when_the_time_is_up_the_first_round_is_finished_and_no_other_begins() -> None:
    def clock() -> Iterator[float]:
        now = 0.0
        while True:
            yield now
            now += 100.0

    chosen = plan("--rounds=5", "--connections=1,32", "--sizes=0")
    steps = list(chosen.steps([target("pico")], clock().__next__))
    assert [step.cell.connections for step in steps if step.round == 0] == [1, 32]
    assert len(steps) < 10


def test_the_job_of_an_upload_expects_the_length_as_the_answer() -> None:
    job = Cell("upload", 1024, 3).job(target("pico"), 0.5)
    assert (job.body_bytes, job.response_bytes, job.authority) == (1024, 4, "upload.pico.example")
    request = job.request()
    assert request.startswith(b"POST /upload HTTP/1.1\r\n")
    assert request.endswith(b"\r\nContent-Length: 1024\r\n\r\n" + bytes(1024))


def test_the_job_of_a_download_asks_for_the_size() -> None:
    job = Cell("download", 1024, 3).job(target("pico"), 0.5)
    assert job.request().startswith(b"GET /1024 HTTP/1.1\r\nHost: download.pico.example\r\n")
    assert job.response_bytes == 1024
