"""The log on its way out: whoever logs never waits, and what can be written is written, whole and in order."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import TextIO

import pytest

from pico.observability import log_handler
from pico.observability.log_handler import LogHandler, lines_dropped

DEADLINE_S = 5.0
BACKLOG_BYTES_MAX = 200_000  # more than a pipe holds
LINE = "x" * 999


class Desk:
    """A handler, and whoever reads from it in the hands of the test."""

    def __init__(self, stream: TextIO, reading: int) -> None:
        self.handler = LogHandler(stream, BACKLOG_BYTES_MAX)
        self.reading = reading
        self.read = b""

    def log(self, message: str = LINE) -> None:
        self.handler.handle(logging.LogRecord("pico.test", logging.INFO, "file.py", 1, message, None, None))

    def overflow(self) -> int:
        """Log until a line is dropped; gives how many were not."""
        for number in range(10_000):
            self.log()
            if self.handler.dropped:
                return number
        raise AssertionError("nothing was dropped")

    def reads_until(self, count: int, at_a_time: int = 65_536) -> list[str]:
        """Lines, once there are so many."""
        deadline = time.monotonic() + DEADLINE_S
        while self.read.count(b"\n") < count:
            assert time.monotonic() < deadline
            self.read += os.read(self.reading, at_a_time)
        return self.read.decode().splitlines()


@pytest.fixture
def desk() -> Iterator[Desk]:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream:
        desk = Desk(stream, reading)
        yield desk
        desk.handler.close()
        os.set_blocking(reading, False)
        while desk.handler.waiting_bytes:  # its thread must not write to what the descriptor is used for next
            with suppress(BlockingIOError):
                os.read(reading, 65_536)
    os.close(reading)


def test_lines_come_in_order_and_flush_waits_for_them(desk: Desk) -> None:
    for number in range(50):
        desk.log(f"line {number} \u00e9")
    desk.handler.flush()
    os.set_blocking(desk.reading, False)
    assert os.read(desk.reading, 65_536).decode().splitlines() == [f"line {number} \u00e9" for number in range(50)]


def test_whoever_logs_does_not_wait_for_a_reader_that_has_stopped(desk: Desk) -> None:
    began = time.monotonic()
    kept = desk.overflow()
    desk.log()
    assert time.monotonic() - began < DEADLINE_S
    assert kept * len(LINE) < BACKLOG_BYTES_MAX + 2 * 65_536
    assert desk.handler.dropped == 2
    assert desk.reads_until(kept) == [LINE] * kept


def test_once_there_is_room_again_a_line_says_how_many_were_dropped(desk: Desk) -> None:
    kept = desk.overflow()
    desk.log()
    desk.reads_until(kept)
    desk.log("after it")
    gap, after = desk.reads_until(kept + 2)[kept:]
    assert gap == "2 lines of the log were dropped here: whoever reads it is too slow"
    assert after == "after it"
    assert desk.handler.dropped == 2


def test_a_little_room_is_not_enough_so_that_gaps_are_few(desk: Desk) -> None:
    kept = desk.overflow()
    desk.reads_until(10, 10 * len(LINE))
    desk.log()
    assert desk.handler.dropped == 2
    assert desk.reads_until(kept) == [LINE] * kept


def test_the_end_waits_so_long_and_no_longer(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_handler, "FLUSH_S", 0.05)
    kept = desk.overflow()
    began = time.monotonic()
    desk.handler.flush()
    assert 0.05 <= time.monotonic() - began < DEADLINE_S
    assert "1 lines of the log were dropped here" in desk.reads_until(kept + 1)[kept]


def test_after_its_end_nothing_waits(desk: Desk) -> None:
    desk.overflow()
    desk.handler.close()
    began = time.monotonic()
    desk.handler.flush()
    assert time.monotonic() - began < log_handler.FLUSH_S


def test_what_is_logged_after_its_end_is_counted(desk: Desk) -> None:
    desk.handler.close()
    desk.log()
    assert desk.handler.dropped == 1
    assert not desk.handler.waiting_bytes


def test_behind_half_a_line_the_next_one_begins_anew(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    write, failures = os.write, [OSError(28, "No space left on device")]

    def of_a_full_disk(fd: int, data: bytes) -> int:
        if data.startswith(b"half"):
            return write(fd, data[:4])
        if failures and fd == desk.handler.stream.fileno():
            raise failures.pop()
        return write(fd, data)

    monkeypatch.setattr(log_handler.os, "write", of_a_full_disk)
    desk.log("half a line")
    desk.log("whole")
    desk.handler.flush()
    assert [line[-5:] for line in desk.reads_until(2)] == ["half", "whole"]
    assert desk.handler.dropped == 1


def test_a_descriptor_that_does_not_block_is_waited_for(desk: Desk) -> None:
    os.set_blocking(desk.handler.stream.fileno(), False)
    for _ in range(150):
        desk.log()
    assert desk.reads_until(150) == [LINE] * 150
    assert desk.handler.dropped == 0


def test_lines_that_nobody_will_read_are_counted(desk: Desk) -> None:
    nobody = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nobody, desk.reading)
    os.close(nobody)
    desk.log()
    desk.handler.flush()
    assert desk.handler.dropped == 1


def test_any_thread_may_log(desk: Desk) -> None:
    threads = [threading.Thread(target=desk.log, args=(f"line {number}",)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert sorted(desk.reads_until(10)) == [f"line {number}" for number in range(10)]


def test_what_was_dropped_is_told_of_the_handlers_in_use(desk: Desk) -> None:
    before = lines_dropped()
    desk.overflow()
    logging.getLogger().addHandler(desk.handler)
    try:
        assert lines_dropped() == before + 1
    finally:
        logging.getLogger().removeHandler(desk.handler)


@pytest.mark.parametrize("end", ["", "raise SystemExit(3)", "raise ValueError('crash')"])
def test_the_last_lines_of_a_patched_program_come_out_whatever_its_end(end: str) -> None:
    program = f"""
    from gevent import monkey
    monkey.patch_all()
    import logging, sys
    from pico.observability.logs import configure
    configure("keyvalue", "info", sys.stderr)
    for number in range(1000):
        logging.info("line %d", number)
    {end}
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], stderr=subprocess.PIPE, text=True, timeout=60
    )
    assert re.findall(r'message="line (\d+)"', done.stderr) == [str(number) for number in range(1000)]


def test_what_was_logged_stands_above_the_reason_of_the_end() -> None:
    program = """
    import logging, sys
    from pico.cli.command_line import guarded
    from pico.observability.logs import configure

    def command():
        configure("keyvalue", "info", sys.stderr)
        for number in range(1000):
            logging.info("line %d", number)
        raise OSError(28, "No space left on device")

    sys.exit(guarded("pico-node", command))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], stderr=subprocess.PIPE, text=True, timeout=60
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "pico-node: No space left on device"
    assert done.stderr.count("\n") == 1001
