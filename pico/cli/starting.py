"""How ``pico-node`` and ``pico-agent`` start.

Responsible for: standard streams that are open, signals that arrive and what they do while nothing is there that they
could mean, patching the standard library before any other part of the program is imported, and the exit code. Refuses
to know: the options, and what is run.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Final

from pico.cli.standard_streams import open_closed_streams

__all__ = ["start"]

INTERRUPTED: Final = 130
"""As of ``pico.cli.command_line``, which is not loaded yet."""


def start(program: str, run: Callable[[], int]) -> int:
    """Run until stopped; ``run`` imports what it needs.

    Exit code: 0 stopped cleanly, 1 failed, 2 misused, 130 interrupted before it ran.
    """
    open_closed_streams()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something to reload
    for number in (signal.SIGUSR1, signal.SIGUSR2):  # other servers reopen logs or print statistics: it must end nobody
        signal.signal(number, signal.SIG_IGN)
    # Until there is something to drain. An exception is no way out: what is being imported may print it or swallow it.
    signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # by itself it would do nothing to process 1 of a container
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # what the caller has blocked would reach nobody

    from gevent import monkey

    monkey.patch_all()

    from pico.cli.command_line import guarded

    try:
        return guarded(program, run)
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):  # it is ending already, and its exit code says how
            signal.signal(number, signal.SIG_IGN)
