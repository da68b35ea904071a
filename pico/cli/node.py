"""``pico-node``: the console entry point.

Responsible for: reading the settings, and running with them. Refuses to know: how a program starts
(``pico.cli.starting``), the options, and what a node does.
"""

from __future__ import annotations

import os
import sys

from pico.cli.starting import start

__all__ = ["main"]


def main() -> int:
    """Run until stopped; the exit code is that of ``start``."""
    return start("pico-node", _run)


def _run() -> int:
    from pico.cli.node_options import NODE
    from pico.cli.sources import read_settings

    words = sys.argv[1:]
    reading = read_settings(NODE, words, os.environ)

    # Only now the rest: a wrong word on the command line is answered without loading it.
    from pico.cli.reloading import Reloading
    from pico.node.process import run_node

    settings = Reloading(NODE, words, os.environ, reading)
    settings.begin()
    with reading.naming():
        return run_node(settings.config, settings.propose)


if __name__ == "__main__":
    sys.exit(main())
