"""A terminal that shows one screen again and again, and what stands on it.

Responsible for: running a program on a pseudo-terminal of a given size, the last whole screen as lines, and a picture
of it. Refuses to know: the program, and everything that a terminal can do besides: a screen begins at the top left,
each line ends with the rest of it erased, and the last one with everything below.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
import threading
from collections.abc import Sequence
from types import TracebackType
from xml.sax.saxutils import escape

__all__ = ["Screen"]

TOP_LEFT, END_OF_LINE, END_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"
LETTER, LINE, MARGIN = 8.4, 20, 16
COLOURS = {"0": "", "1": "bold", "2": "dim", "31": "red", "32": "green", "33": "yellow"}

_colour = re.compile(r"\x1b\[([0-9;]*)m")

STYLE = """
  .page { fill: #161b22; } text { font: 14px ui-monospace, monospace; fill: #e6edf3; white-space: pre; }
  .bold { font-weight: 700; } .dim { fill: #8b949e; } .red { fill: #ff7b72; } .green { fill: #56d364; }
  .yellow { fill: #e3b341; }
"""


class Screen:
    """One program on a terminal of its own; leaving the ``with`` block ends it."""

    def __init__(self, command: Sequence[str], *, columns: int = 110, rows: int = 12) -> None:
        self._columns = columns
        self._said = ""
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        environment = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS")}
        self._process = subprocess.Popen(
            command,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment | {"TERM": "xterm-256color"},
            start_new_session=True,
        )
        os.close(theirs)
        self._reader = threading.Thread(target=self._read, args=(ours,), daemon=True)
        self._reader.start()

    def __enter__(self) -> Screen:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.terminate()
        self._process.wait(10)
        self._reader.join(10)

    @property
    def lines(self) -> list[str]:
        """The last whole screen, without colours."""
        return [_colour.sub("", line) for line in self._painted()]

    def picture(self) -> str:
        """The same with its colours, as SVG."""
        lines = self._painted()
        width, height = round(2 * MARGIN + self._columns * LETTER), 2 * MARGIN + len(lines) * LINE
        texts = [
            f'<text x="{MARGIN}" y="{MARGIN + LINE * (number + 0.75):.0f}">{_spans(line)}</text>'
            for number, line in enumerate(lines)
        ]
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}">',
                f"<style>{STYLE}</style>",
                f'<rect class="page" width="{width}" height="{height}" rx="8"/>',
                *texts,
                "</svg>\n",
            ]
        )

    def _painted(self) -> list[str]:
        whole, end, _ = self._said.rpartition(END_OF_SCREEN)
        return whole.rpartition(TOP_LEFT)[2].replace(END_OF_LINE, "").splitlines() if end else []

    def _read(self, ours: int) -> None:
        """Until the program has ended: its terminal is gone then, which reading tells by an error."""
        with os.fdopen(ours, "rb", buffering=0) as terminal:
            try:
                while data := terminal.read(65536):
                    self._said = (self._said + data.decode())[-65536:]
            except OSError:
                pass


def _spans(line: str) -> str:
    spans, kind = [], ""
    for number, part in enumerate(_colour.split(line)):
        if number % 2:
            kind = COLOURS.get(part.rpartition(";")[2] or "0", "")
        elif part:
            spans.append(f'<tspan class="{kind}">{escape(part)}</tspan>' if kind else escape(part))
    return "".join(spans)
