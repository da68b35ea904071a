"""``pico-node``: the console entry point.

Responsible for: patching the standard library before any other part of the program is imported, and the exit code.
Refuses to know: the options, and what a node does.
"""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> int:
    """Run until stopped. Exit code: 0 stopped in good order, 1 failed, 2 misused, 130 interrupted before it ran."""
    from gevent import monkey

    monkey.patch_all()

    from pico.cli.command_line import guarded
    from pico.cli.node_options import PROGRAM

    return guarded(PROGRAM, _run)


def _run() -> int:
    from pico.cli.node_options import config_of

    config = config_of(sys.argv[1:])

    # Only now the rest: a wrong word on the command line is answered without loading it.
    from pico.node.server import run_node
    from pico.observability.logs import configure

    configure(config.log_format, config.log_level, sys.stderr)
    return run_node(config)


if __name__ == "__main__":
    sys.exit(main())
