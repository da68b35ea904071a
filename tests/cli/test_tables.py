"""Rows as text: plain lines for pipes, drawn ones for a terminal."""

from __future__ import annotations

import re

import pytest

from pico.cli.tables import Column, age, amount, round_trip, table, text, things

COLUMNS = (Column("NODE", "node"), Column("STATUS", "status"), Column("COUNT", "count", right=True))
ROWS = [{"node": "a", "status": "alive", "count": 7, "more": 1}, {"node": "[bold]b", "status": "dead", "count": None}]


@pytest.mark.parametrize(
    "seconds,shown",
    [(0, "0s"), (59.9, "59s"), (60, "1m00s"), (3599, "59m59s"), (3600, "1h00m"), (90061, "1d01h"), (None, "-")],
)
def test_ages(seconds: float | None, shown: str) -> None:
    assert age(seconds) == shown


@pytest.mark.parametrize("size,shown", [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 40, "5.0 TiB")])
def test_amounts(size: int, shown: str) -> None:
    assert amount(size) == shown


@pytest.mark.parametrize(
    "value,shown",
    [
        (None, "-"),
        ("", "-"),
        (True, "yes"),
        (0.5, "0.5"),
        ({"a": 1, "b": False}, "a=1 b=no"),
        ({}, "-"),
        ("\x1b[2J", "?[2J"),
        ({"\x1b[2J": "\x9b2J"}, "?[2J=?2J"),
    ],
)
def test_values(value: object, shown: str) -> None:
    assert text(value) == shown


def test_a_round_trip_that_is_not_known() -> None:
    assert (round_trip(None), round_trip(0.00123)) == ("-", "1.2 ms")


def test_plain_lines_are_one_for_each_row() -> None:
    assert table(ROWS, COLUMNS, width=None, colour=True).splitlines() == [
        "NODE     STATUS  COUNT",
        "a        alive   7",
        "[bold]b  dead    -",
    ]
    assert things({"node": "a", "ready": True}, width=None, colour=True) == "node   a\nready  yes\n"


def test_on_a_terminal_words_have_colours_and_no_markup_is_obeyed() -> None:
    drawn = table(ROWS, COLUMNS, width=80, colour=True)
    assert "\x1b[32malive" in drawn and "\x1b[31mdead" in drawn and "[bold]b" in drawn


def test_without_colours_it_is_only_text() -> None:
    for drawn in (table(ROWS, COLUMNS, width=80, colour=False), things(ROWS[0], width=80, colour=False)):
        assert "\x1b" not in drawn
        assert re.search(r"^(a|node) +(alive|a)", drawn, re.MULTILINE)


def test_a_narrow_terminal_loses_nothing() -> None:
    drawn = table([{"node": "x" * 50, "status": "alive", "count": 1}], COLUMNS, width=40, colour=False)
    assert max(map(len, drawn.splitlines())) <= 40
    assert drawn.count("x") == 50
