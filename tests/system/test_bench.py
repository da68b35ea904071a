"""``pico bench`` from its command line: what it writes is plausible, and nothing that it started outlives it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

BENCH = [sys.executable, "-m", "pico.cli.bench"]
SHORT = ("--seconds=0.3", "--rounds=1", "--connections=1,4", "--idle=20", "--stalled=3")
TIMEOUT_S = 50


def bench(tmp_path: Path, *arguments: str) -> dict[str, Any]:
    file = tmp_path / "figures.json"
    done = subprocess.run([*BENCH, *arguments, f"--json={file}"], capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stderr
    assert "bars" in done.stdout
    document: dict[str, Any] = json.loads(file.read_text())
    return document


def test_the_floor_and_the_service_are_measured_in_both_directions(tmp_path: Path) -> None:
    document = bench(tmp_path, *SHORT, "--targets=direct,floor", "--sizes=0,65536")
    assert document["version"] == 1
    assert [(cell["direction"], cell["body_bytes"], cell["connections"]) for cell in document["cells"]] == [
        (direction, size, connections)
        for direction, size in (("download", 0), ("download", 65536), ("upload", 65536))
        for connections in (1, 4)
    ]
    for cell in document["cells"]:
        assert list(cell["targets"]) == ["direct", "floor"]
        for figures in cell["targets"].values():
            assert_plausible(figures, cell["body_bytes"])
        assert cell["targets"]["floor"]["cpu_of_floor"] == {"node": 1.0, "agent": 1.0}


def test_pico_is_measured_next_to_the_floor_with_its_memory(tmp_path: Path) -> None:
    document = bench(tmp_path, *SHORT, "--targets=floor,pico", "--sizes=0,1024")
    for cell in document["cells"]:
        assert_plausible(cell["targets"]["pico"], cell["body_bytes"])
        assert all(ratio > 0.5 for ratio in cell["targets"]["pico"]["cpu_of_floor"].values())
    memory = document["memory"]
    assert memory["idle_upstreams"]["count"] == memory["idle_endpoints"]["count"] == 20
    assert list(memory["stalled_streams"]) == ["node", "agent"]
    assert memory["stalled_streams"]["node"]["count"] == 3


def assert_plausible(figures: dict[str, Any], body_bytes: int) -> None:
    assert figures["failures"] == {}
    assert figures["requests"] > 0
    assert 0 < figures["p50_ms"] <= figures["p99_ms"] <= figures["p999_ms"] < 10_000
    assert figures["requests_per_s"] > 10
    assert figures["mb_per_s"] == pytest.approx(figures["requests_per_s"] * body_bytes / 1e6)
    assert all(0 < cpu < 100_000 for cpu in figures["cpu_us"].values())
    assert all(1 < rss < 500 for rss in figures["peak_rss_mib"].values())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_nothing_outlives_a_benchmark_that_is_stopped(tmp_path: Path, number: signal.Signals) -> None:
    command = [*BENCH, "--targets=direct,floor", "--sizes=0", "--connections=1", "--seconds=20"]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, start_new_session=True, env=environment
    ) as running:
        assert running.stderr is not None
        for line in running.stderr:
            if "floor" in line or "direct" in line:
                break  # every process is up, and the load runs
        running.send_signal(number)
        running.wait(15)
        assert gone(running.pid, within_s=10.0)
    assert number == signal.SIGKILL or not list(tmp_path.iterdir()), "its files are gone, too, if it could see to that"


def gone(group: int, *, within_s: float) -> bool:
    """Whether the process group becomes empty."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False
