"""What a program shows on a terminal, as a picture.

Responsible for: a terminal of a given size, the last whole frame of a program that draws in place, and that frame as an
SVG without anything from elsewhere. Refuses to know: the program.
"""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Sequence

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

__all__ = ["frame_of", "picture_of"]

HOME, END_OF_LINE, END_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"

# As rich has it, without the font that a browser would ask another host for.
SVG = """\
<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: {char_height}px; line-height: {line_height}px; font-variant-east-asian: full-width; }}
.{unique_id}-title {{ font-size: 18px; font-weight: bold; font-family: ui-sans-serif, system-ui, sans-serif; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/>
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def frame_of(command: Sequence[str], *, columns: int, lines: int, frames: int = 3, within_s: float = 30.0) -> str:
    """What stands on the terminal after so many frames, with its colours; then the program gets Ctrl-C."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(columns), "LINES": str(lines)}
    environment.pop("NO_COLOR", None)
    said = b""
    with subprocess.Popen(command, stdin=follower, stdout=follower, stderr=follower, env=environment) as program:
        os.close(follower)
        until = time.monotonic() + within_s
        while said.count(END_OF_SCREEN.encode()) < frames:
            ready, _, _ = select.select([leader], [], [], max(0.0, until - time.monotonic()))
            assert ready, f"{command} has drawn too little: {said[-500:]!r}"
            said += os.read(leader, 65536)
        program.send_signal(signal.SIGINT)
        program.wait(10.0)
    os.close(leader)
    frame = said.decode().split(HOME)[frames].partition(END_OF_SCREEN)[0]
    return frame.replace(END_OF_LINE, "").replace("\r\n", "\n").rstrip()


def picture_of(typed: str, frame: str, *, columns: int) -> str:
    """An SVG of a terminal in which ``typed`` shows ``frame``."""
    console = Console(record=True, width=columns, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text(f"$ {typed}", style="bold"))
    console.print(Text.from_ansi(frame))
    svg = console.export_svg(title="", theme=MONOKAI, code_format=SVG, unique_id="terminal")
    return re.sub(r"[ \t]+$", "", svg, flags=re.MULTILINE)
