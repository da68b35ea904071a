"""``pico-agent``: the console entry point.

Responsible for: patching the standard library before any other part of the program is imported, and the exit code.
Refuses to know: the options, and what an agent does.
"""

from __future__ import annotations

import os
import sys

__all__ = ["main"]


def main() -> int:
    """Run until stopped. Exit code: 0 stopped in good order, 1 failed, 2 misused, 130 interrupted before it ran."""
    from gevent import monkey

    monkey.patch_all()

    from pico.cli.command_line import guarded

    return guarded("pico-agent", _run)


def _run() -> int:
    from pico.cli.agent_options import AGENT
    from pico.cli.sources import read_settings

    reading = read_settings(AGENT, sys.argv[1:], os.environ)
    config = reading.config

    # Only now the rest: a wrong word on the command line is answered without loading it.
    import logging

    from pico.agent.agent import run_agent
    from pico.observability.logs import configure

    configure(config.log_format, config.log_level, sys.stderr)
    for warning in reading.warnings:
        logging.getLogger("pico.config").warning("%s", warning)
    return run_agent(config)


if __name__ == "__main__":
    sys.exit(main())
