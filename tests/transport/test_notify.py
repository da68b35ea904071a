"""What a service manager hears, on a real socket."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from pico.errors import ConfigError
from pico.transport.clock import ManualClock
from pico.transport.notify import Notifier


@contextmanager
def manager(address: str) -> Iterator[socket.socket]:
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as listening:
        listening.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        listening.settimeout(5)
        yield listening


def heard(listening: socket.socket) -> list[str]:
    """All that has arrived."""
    said = []
    listening.setblocking(False)
    while True:
        try:
            said.append(listening.recv(4096).decode())
        except BlockingIOError:
            return said


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_each_state_is_one_datagram(tmp_path: Path, kind: str) -> None:
    address = str(tmp_path / "notify") if kind == "path" else f"@pico-test-{tmp_path.name}-{time.monotonic_ns()}"
    environment = {"NOTIFY_SOCKET": address, "HOME": "/"}
    with manager(address) as listening:
        notifier = Notifier.from_environment(environment, 7)
        assert notifier.wanted
        notifier.ready("serving")
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        notifier.reloading()
        notifier.reloaded()
        after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        notifier.status("well")
        notifier.stopping("draining")
        ready, reloading, again, status, stopping = heard(listening)
    assert ready == again == "READY=1\nSTATUS=serving"
    first, moment, _ = reloading.splitlines()
    assert first == "RELOADING=1"
    assert before <= int(moment.removeprefix("MONOTONIC_USEC=")) <= after
    assert status == "STATUS=well"
    assert stopping == "STOPPING=1\nSTATUS=draining"
    assert environment == {"HOME": "/"}, "children do not speak in our name"


def test_signs_of_life_come_twice_in_the_time_that_is_allowed(tmp_path: Path) -> None:
    address, clock = str(tmp_path / "notify"), ManualClock()
    environment = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "7"}
    with manager(address) as listening:
        Notifier.from_environment(environment, 7).watch(clock)
        assert heard(listening) == ["WATCHDOG=1"]
        clock.advance(1.4)
        assert heard(listening) == []
        clock.advance(0.2)
        assert heard(listening) == ["WATCHDOG=1"]
        clock.advance(6.0)
        assert heard(listening) == ["WATCHDOG=1"] * 4


@pytest.mark.parametrize("asked", [{}, {"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "8"}], ids=["none", "another's"])
def test_nobody_waits_for_signs_of_life(tmp_path: Path, asked: dict[str, str]) -> None:
    address, clock = str(tmp_path / "notify"), ManualClock()
    with manager(address) as listening:
        Notifier.from_environment({"NOTIFY_SOCKET": address, **asked}, 7).watch(clock)
        clock.advance(60.0)
        assert heard(listening) == []


def test_a_reload_makes_nothing_ready_that_was_not(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    with manager(address) as listening:
        notifier = Notifier(address)
        notifier.reloading()
        notifier.reloaded()
        notifier.stopping("draining")
        notifier.reloading()
        notifier.reloaded()
        assert heard(listening) == ["STOPPING=1\nSTATUS=draining"]


def test_without_a_manager_nothing_is_said() -> None:
    notifier = Notifier.from_environment({}, 7)
    assert not notifier.wanted
    notifier.ready("serving")
    notifier.watch(ManualClock())


def test_a_manager_that_is_gone_is_one_line_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    notifier = Notifier.from_environment({"NOTIFY_SOCKET": str(tmp_path / "nobody")}, 7)
    notifier.ready("serving")
    notifier.stopping("draining")
    assert [record.getMessage() for record in caplog.records] == [
        "the service manager is not told of READY=1: No such file or directory"
    ]


@pytest.mark.parametrize(
    "environment",
    [{"NOTIFY_SOCKET": "run/notify"}, {"NOTIFY_SOCKET": "@"}, {"WATCHDOG_USEC": "often"}, {"WATCHDOG_USEC": "0"}],
    ids=str,
)
def test_a_wrong_variable_is_named(environment: dict[str, str]) -> None:
    name = next(iter(environment))
    with pytest.raises(ConfigError, match=name):
        Notifier.from_environment(environment, 7)
