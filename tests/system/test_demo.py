"""``pico demo`` as a person runs it: it answers, it stays, and it leaves nothing behind on any way out."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from pico.cli import demo
from pico.cli.demo import DemoFailed

DEADLINE_S = 60.0


class Demo:
    """One run, whose processes carry a mark so that they are found again after it has ended."""

    def __init__(self, directory: Path, *words: str, **environment: str) -> None:
        self.directory = directory
        self.mark = f"MARK_OF_THE_TEST={uuid.uuid4()}"
        name, _, value = self.mark.partition("=")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pico.cli.pico", "demo", *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | environment | {name: value, "TMPDIR": str(directory)},
        )
        self.said = ""

    def until(self, text: str) -> None:
        """Read what it says until ``text`` is there; its silence is ended by the timeout of the test."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said += line
            if text in line:
                return
        pytest.fail(f"it never said {text!r}:\n{self.said}")

    def end(self) -> int:
        try:
            rest, _ = self.process.communicate(timeout=DEADLINE_S)
            self.said += rest
            return self.process.returncode
        finally:
            self.process.kill()  # if it is still there

    def left_behind(self) -> list[str]:
        """The command lines of processes with the mark that are still there after a moment of grace."""
        deadline = time.monotonic() + 10
        while (found := list(self._marked())) and time.monotonic() < deadline:
            time.sleep(0.05)
        return found

    def _marked(self) -> Iterator[str]:
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if self.mark.encode() in (process / "environ").read_bytes().split(b"\0"):
                    yield (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()


Begin = Callable[..., Demo]


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Begin]:
    """Starts a demo with such words; what is still running at the end of the test is killed."""
    running: list[Demo] = []

    def start(*words: str) -> Demo:
        running.append(Demo(tmp_path, *words))
        return running[-1]

    yield start
    for one in running:
        if one.process.poll() is None:
            one.process.kill()
        one.process.communicate(timeout=DEADLINE_S)


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """A run to its end. What the environment says to nodes and agents is for others: none of these could start so."""
    run = Demo(tmp_path_factory.mktemp("demo"), "--once", PICO_CONFIG="/nowhere.yaml", PICO_LOG_LEVEL="loud")
    assert run.end() == 0, run.said
    return run


def test_once_shows_every_request_and_exits_well(once: Demo) -> None:
    assert re.findall(r"^   < (\d+) ", once.said, re.MULTILINE) == ["200"] * 5 + ["502"] + ["200"] * 3
    assert "a body that comes back" in once.said
    assert once.left_behind() == []


def test_the_death_of_the_node_with_the_tunnel_is_survived(once: Demo) -> None:
    killed = once.said.index("is killed (SIGKILL)")
    assert re.findall(r"^\d+\. (.+)$", once.said[killed:], re.MULTILINE) == [
        "through node-2, after the death of node-1",
        "through node-3, after the death of node-1",
        "through node-1, which is back",
    ]


def test_events_are_shown_when_they_come_and_not_at_the_end(once: Demo) -> None:
    times = [float(seconds) for seconds in re.findall(r"after ([0-9.]+) s  data: event", once.said)]
    assert len(times) == 4
    assert times[0] < 0.25 * 3 <= times[3] + 0.05


@pytest.mark.parametrize("number,code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_it_stays_until_it_is_stopped_and_leaves_nothing_behind(
    begin: Begin, number: signal.Signals, code: int
) -> None:
    run = begin()
    run.until("Ctrl-C stops everything")
    if shutil.which("curl"):
        assert '"time"' in the_curl_line_works(run.said)
    assert run.process.poll() is None
    run.process.send_signal(number)
    assert run.end() == code, run.said
    assert "Traceback" not in run.said
    assert run.left_behind() == []
    assert not list(run.directory.iterdir()), "nor a file"


def the_curl_line_works(said: str) -> str:
    """Run the second line that it invites to type, word by word."""
    line = re.search(r"^  curl -H '(.+)' (\S+)$", said, re.MULTILINE)
    assert line
    command = ["curl", "-sS", "--noproxy", "*", "--max-time", "20", "-H", line[1], line[2]]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout


def test_nothing_survives_a_demo_that_is_killed(begin: Begin) -> None:
    run = begin()
    run.until("Ctrl-C stops everything")
    run.process.kill()
    run.end()
    assert run.left_behind() == []


def test_a_part_that_cannot_start_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "node_flags", lambda ports, index: ["--frob"])
    with pytest.raises(DemoFailed, match=r"node-\d ended with status 2: pico-node: unknown option --frob"):
        demo.run_demo({"--once": True})
