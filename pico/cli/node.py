"""``pico-node``: the console entry point.

Responsible for: standard streams that are open, patching the standard library before any other part of the program is
imported, and the exit code. Refuses to know: the options, and what a node does.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Final

from pico.cli.standard_streams import open_closed_streams

__all__ = ["main"]

INTERRUPTED: Final = 130
"""As of ``pico.cli.command_line``, which is not loaded yet."""


def main() -> int:
    """Run until stopped. Exit code: 0 stopped cleanly, 1 failed, 2 misused, 130 interrupted before it ran."""
    open_closed_streams()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something to reload
    # Until there is something to drain. An exception is no way out: what is being imported may print it or swallow it.
    signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))

    from gevent import monkey

    monkey.patch_all()

    from pico.cli.command_line import guarded

    return guarded("pico-node", _run)


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
