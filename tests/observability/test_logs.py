"""Log set-up: one line per record, nothing in it that a peer could use, and no flood."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pico.observability.logs import (
    EACH,
    PLACES_MAX,
    RECORDS_MAX,
    REPEAT_INTERVAL_S,
    REPEATS_MAX,
    JsonFormatter,
    KeyValueFormatter,
    RepeatFilter,
    configure,
)


def record(
    message: str, *args: object, level: int = logging.INFO, line: int = 1, error: bool = False
) -> logging.LogRecord:
    exc_info = None
    if error:
        try:
            raise ValueError("first\nsecond\x1b[31m\u202e\u2028")
        except ValueError:
            exc_info = sys.exc_info()
    made = logging.LogRecord("pico.test", level, "file.py", line, message, args, exc_info)
    made.created, made.msecs = 1_700_000_000.123, 123.9
    return made


class TestFormats:
    def test_key_value(self) -> None:
        line = KeyValueFormatter().format(record("%s listens on %s", "--proxy-port", "*:8000"))
        assert line == (
            'time=2023-11-14T22:13:20.123Z level=info logger=pico.test message="--proxy-port listens on *:8000"'
        )

    def test_json(self) -> None:
        assert json.loads(JsonFormatter().format(record('a "quoted" %s', "thing"))) == {
            "time": "2023-11-14T22:13:20.123Z",
            "level": "info",
            "logger": "pico.test",
            "message": 'a "quoted" thing',
        }

    def test_a_traceback_is_a_field_of_the_same_line(self) -> None:
        as_json = JsonFormatter().format(record("failed", error=True))
        line = KeyValueFormatter().format(record("failed", error=True))
        head, _, traceback = line.partition(" message=failed traceback=")
        assert head.endswith("logger=pico.test")
        for found in (json.loads(as_json)["traceback"], json.loads(traceback)):
            assert found.startswith("Traceback")
            assert found.endswith("ValueError: first\nsecond\x1b[31m\u202e\u2028")
        assert all(re.fullmatch("[ -~]+", one) for one in (as_json, line))

    @given(st.text(max_size=40))
    @example("\x1b]0;title\x07\x1b[31m\x7f\x9b2J")
    @example("\r\n\u0085\u2028\u2029time=2023-11-14T22:13:20.123Z level=error")
    @example("\u202e\u2066\u200b\ufeff\U000e0041")  # written backwards, or not to be seen
    @example("caf\u00e9 \udcff")
    def test_no_message_forges_a_line_or_reaches_a_terminal(self, message: str) -> None:
        for formatter in (KeyValueFormatter(), JsonFormatter()):
            line = formatter.format(record("%s", message))
            assert re.fullmatch("[ -~]+", line), "one line of printable ASCII"
        assert json.loads(JsonFormatter().format(record("%s", message)))["message"] == message
        text = KeyValueFormatter().format(record("%s", message)).split(" message=", 1)[1]
        assert (json.loads(text) if text.startswith('"') else text) == message


class TestRepeats:
    def test_the_same_complaint_is_written_a_few_times_and_then_counted(self) -> None:
        now = [0.0]
        repeats = RepeatFilter(lambda: now[0])
        passed = [repeats.filter(record("trouble", level=logging.ERROR)) for _ in range(REPEATS_MAX + 5)]
        assert passed == [True] * REPEATS_MAX + [False] * 5
        now[0] = REPEAT_INTERVAL_S
        later = record("trouble", level=logging.ERROR)
        assert repeats.filter(later)
        assert "suppressed=5" in KeyValueFormatter().format(later)
        again = record("trouble", level=logging.ERROR)
        assert repeats.filter(again)
        assert "suppressed" not in KeyValueFormatter().format(again)

    def test_each_thing_is_told_of_however_much_is_said_of_others(self) -> None:
        now = [0.0]
        repeats = RepeatFilter(lambda: now[0])
        names = [f"e{number}" for number in range(RECORDS_MAX // REPEATS_MAX + 1)]
        passed = [
            [repeats.filter(record("endpoint %s is down", name, level=logging.WARNING)) for _ in range(REPEATS_MAX + 2)]
            for name in names
        ]
        assert passed[:-1] == [[True] * REPEATS_MAX + [False] * 2] * (len(names) - 1)
        assert not any(passed[-1]), "one place has a limit, whatever it tells of"
        now[0] = REPEAT_INTERVAL_S
        later = record("endpoint %s is down", "e1", level=logging.WARNING)
        assert repeats.filter(later)
        left_out = 2 * (len(names) - 1) + REPEATS_MAX + 2
        assert KeyValueFormatter().format(later).endswith(f" suppressed={left_out}")

    def test_a_mapping_as_argument_is_no_thing(self) -> None:
        repeats = RepeatFilter(lambda: 0.0)
        passed = [repeats.filter(record("%(a)s", {"a": n}, level=logging.ERROR)) for n in range(REPEATS_MAX + 1)]
        assert passed == [True] * REPEATS_MAX + [False]

    def test_of_what_an_operator_wants_each_is_written(self, caplog: pytest.LogCaptureFixture) -> None:
        repeats = RepeatFilter(lambda: 0.0)
        for _ in range(REPEATS_MAX + 1):
            logging.getLogger("pico.admin").warning("the operator wants this", extra=EACH)
        assert all(repeats.filter(one) for one in caplog.records)
        assert len(caplog.records) == REPEATS_MAX + 1

    def test_other_places_and_mere_information_pass(self) -> None:
        repeats = RepeatFilter(lambda: 0.0)
        for _ in range(REPEATS_MAX + 1):
            repeats.filter(record("trouble", level=logging.ERROR))
        assert repeats.filter(record("trouble", level=logging.ERROR, line=2))
        assert all(repeats.filter(record("news")) for _ in range(REPEATS_MAX + 1))

    def test_the_memory_of_places_is_bounded(self) -> None:
        repeats = RepeatFilter(lambda: 0.0)
        for line in range(3 * PLACES_MAX):
            repeats.filter(record("trouble", level=logging.ERROR, line=line))
        assert len(repeats._places) <= PLACES_MAX


@pytest.fixture
def own_root() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()
    yield
    for handler in root.handlers:
        handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)


def written(path: Path) -> str:
    """What has reached the file."""
    for handler in logging.getLogger().handlers:
        handler.flush()
    return path.read_text()


@pytest.mark.usefixtures("own_root")
class TestConfigure:
    @pytest.mark.parametrize("format", ["keyvalue", "json"])
    def test_every_logger_writes_to_the_stream_from_the_level_on(self, format: str, tmp_path: Path) -> None:
        with (tmp_path / "log").open("w") as stream:
            configure(format, "info", stream)
            logging.getLogger("pico.anything").info("hello")
            logging.getLogger("someone.else").debug("too quiet")
            text = written(tmp_path / "log")
        assert text.count("\n") == 1
        assert "hello" in text

    def test_it_replaces_what_was_set_up_before(self, tmp_path: Path) -> None:
        with (tmp_path / "first").open("w") as first, (tmp_path / "second").open("w") as second:
            configure("json", "info", first)
            configure("json", "warning", second)
            logging.getLogger("pico").warning("hello")
            assert written(tmp_path / "second").count("hello") == 1
            assert (tmp_path / "first").read_text() == ""

    def test_what_writes_to_the_stream_already_goes_on_in_another_format(self, tmp_path: Path) -> None:
        with (tmp_path / "log").open("w") as stream:
            configure("keyvalue", "info", stream)
            (handler,) = logging.getLogger().handlers
            logging.getLogger("pico").info("first")
            configure("json", "info", stream)
            logging.getLogger("pico").info("second")
            assert logging.getLogger().handlers == [handler]
            first, second = written(tmp_path / "log").splitlines()
        assert first.endswith("message=first")
        assert json.loads(second)["message"] == "second"

    def test_a_reader_that_has_stopped_holds_nobody_up(self) -> None:
        reading, writing = os.pipe()
        with os.fdopen(writing, "w") as stream:
            configure("json", "info", stream)
            for _ in range(10):
                logging.getLogger("pico").info("x" * 20_000)
            with os.fdopen(reading) as lines:
                assert sum("x" * 20_000 in lines.readline() for _ in range(10)) == 10
