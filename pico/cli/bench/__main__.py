"""``python -m pico.cli.bench``: the command without the rest of ``pico``."""

from __future__ import annotations

import sys

from docopt import docopt

from pico.cli.bench.command import USAGE, run_bench

if __name__ == "__main__":
    sys.exit(run_bench(docopt(USAGE, argv=["bench", *sys.argv[1:]])))
