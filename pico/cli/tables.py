"""Rows and single things as text for people.

Responsible for: columns, units and colours. Refuses to know: what is shown. On a terminal rich draws it, loaded only
then; elsewhere it is plain text of which each line is one row, for ``grep`` and ``awk``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from io import StringIO
from typing import Any, Final, NamedTuple

__all__ = ["Column", "age", "amount", "printable", "rate", "round_trip", "table", "text", "things"]

Row = Mapping[str, Any]

COLOURS: Final = {
    "alive": "green", "yes": "green", "open": "green", "ok": "green", "suspect": "yellow", "hearsay": "yellow",
    "down": "red", "dead": "red", "left": "dim", "no": "dim",
}  # fmt: skip


_without_control: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]").sub
"""Others chose some of the words that are shown, and a terminal is not to obey them."""


def printable(said: Any) -> str:
    """For a terminal."""
    return _without_control("?", str(said))


class Column(NamedTuple):
    """One column: its title, and how its text comes from a row."""

    title: str
    key: str
    show: Callable[[Any], str] | None = None
    right: bool = False


def text(value: Any) -> str:
    """A plain value."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}" if value < 1000 else f"{value:.0f}"
    if isinstance(value, dict):
        return " ".join(f"{printable(name)}={text(one)}" for name, one in value.items()) or "-"
    return printable(value)


def age(seconds: Any) -> str:
    """``3s``, ``4m05s``, ``2h10m``, ``3d04h``."""
    if seconds is None:
        return "-"
    whole = int(seconds)
    for size, unit, smaller, name in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // smaller:02d}{name}"
    return f"{whole}s"


def amount(size: Any) -> str:
    """Bytes."""
    number = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"


def rate(value: Any) -> str:
    """So many in a second."""
    return f"{value:.1f}/s"


def round_trip(seconds: Any) -> str:
    """Milliseconds."""
    return "-" if seconds is None else f"{seconds * 1000:.1f} ms"


def table(rows: Sequence[Row], columns: Sequence[Column], *, width: int | None, colour: bool) -> str:
    """All rows; for a terminal of that width, or as plain lines."""
    if not rows:
        return "nothing\n"
    lines = [[(column.show or text)(row.get(column.key)) for column in columns] for row in rows]
    titles = [column.title for column in columns]
    if width is None:
        return _plain([titles, *lines])
    from rich.table import Table

    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        drawn.add_column(column.title, justify="right" if column.right else "left", overflow="fold")
    for line in lines:
        drawn.add_row(*map(_coloured, line))
    return _drawn(drawn, width, colour)


def things(row: Row, *, width: int | None, colour: bool) -> str:
    """One thing, a line for each name and value."""
    names = [printable(name) for name in row]
    lines = [[printable(name), text(value)] for name, value in row.items()]
    if width is None:
        longest = max(map(len, names), default=0)
        return "".join(f"{name:<{longest}}  {value}\n" for name, value in lines)
    from rich.table import Table

    drawn = Table(box=None, pad_edge=False, show_header=False)
    drawn.add_column(style="bold")
    drawn.add_column(overflow="fold")
    for name, value in lines:
        drawn.add_row(name, _coloured(value))
    return _drawn(drawn, width, colour)


def _plain(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "".join(
        "  ".join(cell.ljust(size) for cell, size in zip(line, widths, strict=True)).rstrip() + "\n" for line in lines
    )


def _coloured(value: str) -> Any:
    from rich.text import Text  # what a node tells is text, not markup

    return Text(value, style=COLOURS.get(value, ""))


def _drawn(drawn: Any, width: int, colour: bool) -> str:
    from rich.console import Console

    out = StringIO()
    system = "standard" if colour else None
    Console(file=out, width=width, force_terminal=colour, color_system=system, legacy_windows=False).print(drawn)  # type: ignore[arg-type]
    return out.getvalue()
