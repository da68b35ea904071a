"""``pico-agent``: the console entry point.

Responsible for: reading the settings, and running with them. Refuses to know: how a program starts
(``pico.cli.starting``), the options, and what an agent does.
"""

from __future__ import annotations

import os
import sys

from pico.cli.starting import start

__all__ = ["main"]


def main() -> int:
    """Run until stopped; the exit code is that of ``start``."""
    return start("pico-agent", _run)


def _run() -> int:
    from pico.cli.agent_options import AGENT
    from pico.cli.sources import read_settings

    words = sys.argv[1:]
    reading = read_settings(AGENT, words, os.environ)

    # Only now the rest: a wrong word on the command line is answered without loading it.
    from pico.agent.process import run_agent
    from pico.cli.reloading import Reloading

    settings = Reloading(AGENT, words, os.environ, reading)
    settings.begin()
    with reading.naming():
        return run_agent(settings.config, settings.propose)


if __name__ == "__main__":
    sys.exit(main())
