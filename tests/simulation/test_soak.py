"""The same seed gives the same run, in whatever process."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.simulation.__main__ import live, main


def test_the_same_seed_gives_the_same_trace_in_two_processes() -> None:
    traces = []
    for hash_seed in ("1", "2"):
        command = [sys.executable, "-c", "from tests.simulation.__main__ import live; print(live(7))"]
        environment = os.environ | {"PYTHONHASHSEED": hash_seed}
        traces.append(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    assert traces[0] == traces[1] and len(traces[0]) > 30


def test_another_seed_gives_another() -> None:
    assert live(8) != live(9)


def test_the_command_says_what_to_repeat(capsys) -> None:  # type: ignore[no-untyped-def]
    assert main(["--seed", "7", "--nodes", "3"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("seed 7\ntrace ") and "1 lives" in said
