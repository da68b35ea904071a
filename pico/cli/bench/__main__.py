"""``python -m pico.cli.bench``: the command without the rest of ``pico``, and without patching anything."""

from __future__ import annotations

import sys

from pico.cli.bench.command import USAGE, run_bench
from pico.cli.command_line import guarded, parse

if __name__ == "__main__":
    sys.exit(guarded("pico bench", lambda: run_bench(parse(USAGE, sys.argv[1:], program="pico bench"))))
