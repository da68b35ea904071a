"""Standard input, output and error are there, whoever started the program.

Responsible for: what a caller has closed. Refuses to know: what is written there.

Python has nothing in place of a stream that was closed, and the system gives its number to the next file that is
opened: what is meant for standard error would reach that file, which may be a connection.
"""

from __future__ import annotations

import os
import sys

__all__ = ["open_closed_streams"]


def open_closed_streams() -> None:
    """Have ``/dev/null`` in place of each that is closed. To be called before anything else opens a file."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = open(os.devnull, mode, errors="replace")  # noqa: SIM115  # the lowest number that is free, which is its own
            os.set_inheritable(stream.fileno(), True)
            setattr(sys, name, stream)
