"""Pictures as SVG, from tables.

Responsible for: boxes on a grid, arrows between them, lanes with messages, and colours that can be read on light and
dark pages. Refuses to know: what is drawn.

The same table gives the same bytes, so that a test can tell whether a picture is still that of its table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import hypot
from xml.sax.saxutils import escape

__all__ = ["Arrow", "Column", "Message", "columns", "sequence", "states"]

BOX_WIDTH, BOX_HEIGHT = 132, 40
CELL_WIDTH, CELL_HEIGHT = 250, 120
MARGIN = 24
LINE = 17
LETTER = 7.2

STYLE = """
  .page { fill: #ffffff; stroke: #d0d7de; }
  .box { fill: #eaf2fb; stroke: #4a78a8; stroke-width: 1.5; }
  .end { fill: #f1f1f1; stroke: #6e7781; stroke-width: 1.5; }
  .line { fill: none; stroke: #57606a; stroke-width: 1.5; }
  .lane { stroke: #8c959f; stroke-dasharray: 3 4; }
  .head { fill: #57606a; }
  text { font: 13px system-ui, sans-serif; fill: #1f2328; }
  text.name { font-weight: 600; text-anchor: middle; }
  text.label { text-anchor: middle; stroke: #ffffff; stroke-width: 4px; paint-order: stroke; }
  text.code { font: 12px ui-monospace, monospace; }
  @media (prefers-color-scheme: dark) {
    .page { fill: #161b22; stroke: #3d444d; }
    .box { fill: #1c2f45; stroke: #6ca4dc; }
    .end { fill: #2a2f36; stroke: #8c959f; }
    .line { stroke: #9aa4af; }
    .lane { stroke: #6e7781; }
    .head { fill: #9aa4af; }
    text { fill: #e6edf3; }
    text.label { stroke: #161b22; }
  }
"""

Point = tuple[float, float]


@dataclass(frozen=True)
class Arrow:
    """From one box to another, or to the same."""

    source: str
    target: str
    label: str


@dataclass(frozen=True)
class Message:
    """From one lane to another; within one lane it is a remark."""

    source: str
    target: str
    label: str


@dataclass(frozen=True)
class Column:
    """One part, and what is said of it, line by line."""

    name: str
    lines: tuple[str, ...]


def states(places: Mapping[str, Point], arrows: Iterable[Arrow], *, start: str, ends: Iterable[str], title: str) -> str:
    """Boxes where ``places`` says, in columns and rows, and the arrows between them; one label for all of one pair."""
    labels: dict[tuple[str, str], list[str]] = {}
    for arrow in arrows:
        labels.setdefault((arrow.source, arrow.target), []).append(arrow.label)
    centres = {name: _centre(place) for name, place in places.items()}
    parts = [_arrow_in(centres[start])]
    above: list[str] = []
    for (source, target), several in labels.items():
        bend = 34 if (target, source) in labels else 0
        line, label = _arrow(centres[source], centres[target], bend, several)
        parts += line
        above += label
    final = frozenset(ends)
    parts += [_box(centre, name, "end" if name in final else "box") for name, centre in centres.items()]
    parts += above
    width = max(x for x, _ in centres.values()) + BOX_WIDTH / 2 + MARGIN
    height = max(y for _, y in centres.values()) + BOX_HEIGHT / 2 + MARGIN
    return _page(width, height, title, parts)


def sequence(lanes: Sequence[str], messages: Iterable[Message], *, title: str, lane_width: int = 190) -> str:
    """One lane for each part, time goes down."""
    at = {name: MARGIN + lane_width / 2 + number * lane_width for number, name in enumerate(lanes)}
    top = MARGIN + BOX_HEIGHT
    parts: list[str] = []
    y = top + 34.0
    for message in messages:
        source, target = at[message.source], at[message.target]
        lines = message.label.split("\n")
        y += (len(lines) - 1) * LINE
        if message.source == message.target:
            parts += _label((source, y - 4), lines)
        else:
            way = 1 if target > source else -1
            parts.append(f'<path class="line" d="M{source:.0f} {y:.0f}H{target - way * 7:.0f}"/>')
            parts.append(_head((target, y), (way, 0)))
            parts += _label(((source + target) / 2, y - (len(lines) - 1) * LINE / 2 - 8), lines)
        y += 38
    under = [f'<path class="lane" d="M{x:.0f} {top:.0f}V{y - 14:.0f}"/>' for x in at.values()]
    boxes = [_box((x, MARGIN + BOX_HEIGHT / 2), name, "box") for name, x in at.items()]
    return _page(2 * MARGIN + lane_width * len(lanes), y, title, [*under, *boxes, *parts])


def columns(given: Sequence[Column], *, title: str) -> str:
    """Parts side by side in the order in which a request meets them, each with its lines below."""
    width = max(len(line) for column in given for line in column.lines) * LETTER + MARGIN
    width = max(width, BOX_WIDTH + MARGIN)
    parts: list[str] = []
    for number, column in enumerate(given):
        x = MARGIN + width / 2 + number * width
        parts.append(_box((x, MARGIN + BOX_HEIGHT / 2), column.name, "box"))
        if number:
            y = MARGIN + BOX_HEIGHT / 2
            parts.append(
                f'<path class="line" d="M{x - width + BOX_WIDTH / 2:.0f} {y:.0f}H{x - BOX_WIDTH / 2 - 7:.0f}"/>'
            )
            parts.append(_head((x - BOX_WIDTH / 2, y), (1, 0)))
        for row, line in enumerate(column.lines):
            y = MARGIN + BOX_HEIGHT + 28 + row * 20
            left = x - width / 2 + MARGIN / 2
            parts.append(f'<text class="code" x="{left:.0f}" y="{y:.0f}">{escape(line)}</text>')
    height = MARGIN + BOX_HEIGHT + 28 + max(len(column.lines) for column in given) * 20
    return _page(2 * MARGIN + width * len(given), height, title, parts)


def _centre(place: Point) -> Point:
    column, row = place
    return MARGIN + BOX_WIDTH / 2 + 20 + column * CELL_WIDTH, MARGIN + BOX_HEIGHT + row * CELL_HEIGHT


def _box(centre: Point, name: str, kind: str) -> str:
    x, y = centre
    left, top = x - BOX_WIDTH / 2, y - BOX_HEIGHT / 2
    return (
        f'<rect class="{kind}" x="{left:.0f}" y="{top:.0f}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="8"/>'
        f'<text class="name" x="{x:.0f}" y="{y + 5:.0f}">{escape(name)}</text>'
    )


def _arrow_in(centre: Point) -> str:
    x, y = centre
    edge = x - BOX_WIDTH / 2
    return f'<path class="line" d="M{edge - 30:.0f} {y:.0f}H{edge - 7:.0f}"/>' + _head((edge, y), (1, 0))


def _arrow(source: Point, target: Point, bend: float, label: Sequence[str]) -> tuple[list[str], list[str]]:
    """The line, and the label, which is to lie above every line."""
    if source == target:
        return _loop(source, label)
    (ax, ay), (bx, by) = source, target
    length = hypot(bx - ax, by - ay)
    across = (-(by - ay) / length, (bx - ax) / length)
    control = ((ax + bx) / 2 - across[0] * 2 * bend, (ay + by) / 2 - across[1] * 2 * bend)
    begin, end = _border(source, control), _border(target, control)
    away = hypot(control[0] - end[0], control[1] - end[1])
    toward = ((end[0] - control[0]) / away, (end[1] - control[1]) / away)
    tip = (end[0] - toward[0] * 7, end[1] - toward[1] * 7)
    path = f"M{begin[0]:.1f} {begin[1]:.1f}Q{control[0]:.1f} {control[1]:.1f} {tip[0]:.1f} {tip[1]:.1f}"
    x, y = _along(0.5 if ay == by or bend else 0.3, begin, control, end)
    return [f'<path class="line" d="{path}"/>', _head(end, toward)], _label((x, y + 4), label)


def _along(part: float, begin: Point, control: Point, end: Point) -> Point:
    """A point of the curve."""
    one, two, three = (1 - part) ** 2, 2 * part * (1 - part), part**2
    return (
        one * begin[0] + two * control[0] + three * end[0],
        one * begin[1] + two * control[1] + three * end[1],
    )


def _loop(centre: Point, label: Sequence[str]) -> tuple[list[str], list[str]]:
    x, y = centre
    top = y - BOX_HEIGHT / 2
    path = f"M{x - 18:.0f} {top:.0f}C{x - 24:.0f} {top - 26:.0f} {x + 24:.0f} {top - 26:.0f} {x + 19:.0f} {top - 7:.0f}"
    line = [f'<path class="line" d="{path}"/>', _head((x + 18, top), (-0.16, 0.98))]
    return line, _label((x, top - 26 - (len(label) - 1) * LINE / 2), label)


def _border(centre: Point, outside: Point) -> Point:
    """Where the straight line from the centre of a box to a point outside leaves the box."""
    dx, dy = outside[0] - centre[0], outside[1] - centre[1]
    scale = min(BOX_WIDTH / 2 / abs(dx) if dx else 1e9, BOX_HEIGHT / 2 / abs(dy) if dy else 1e9)
    return centre[0] + dx * scale, centre[1] + dy * scale


def _head(tip: Point, toward: Point) -> str:
    (x, y), (dx, dy) = tip, toward
    left = (x - dx * 10 - dy * 5, y - dy * 10 + dx * 5)
    right = (x - dx * 10 + dy * 5, y - dy * 10 - dx * 5)
    return f'<path class="head" d="M{x:.1f} {y:.1f}L{left[0]:.1f} {left[1]:.1f}L{right[0]:.1f} {right[1]:.1f}Z"/>'


def _label(middle: Point, lines: Sequence[str]) -> list[str]:
    x, y = middle
    first = y - (len(lines) - 1) * LINE / 2
    return [
        f'<text class="label" x="{x:.0f}" y="{first + row * LINE:.0f}">{escape(line)}</text>'
        for row, line in enumerate(lines)
    ]


def _page(width: float, height: float, title: str, parts: Iterable[str]) -> str:
    w, h = round(width), round(height)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w} {h}" width="{w}" height="{h}" role="img">',
            f"<title>{escape(title)}</title>",
            f"<style>{STYLE}</style>",
            f'<rect class="page" x="0.5" y="0.5" width="{w - 1}" height="{h - 1}" rx="6"/>',
            *parts,
            "</svg>\n",
        ]
    )
