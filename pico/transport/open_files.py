"""How many files and sockets a process may have open.

Responsible for: raising that as far as the system lets a process do by itself, and how many of them are kept from those
who would take them all. Refuses to know: what they are for.

The limit that counts is low by default (1024) for the sake of programs that look at their descriptors with ``select``,
and below what the system allows each program to set. A relay needs a descriptor for each connection.
"""

from __future__ import annotations

import sys
from resource import RLIM_INFINITY, RLIMIT_NOFILE, getrlimit, setrlimit
from typing import Final

__all__ = ["FILES_KEPT", "descriptors_for_strangers", "raise_open_files_max"]

FILES_KEPT: Final = 32
"""That strangers do not get, however many connect: for probes and metrics, links to other nodes, and names."""


def raise_open_files_max() -> int:
    """Allow this process as many as it may have; returns the limit that counts from now on, -1 where there is none."""
    now, most = getrlimit(RLIMIT_NOFILE)
    if now != most:
        try:
            setrlimit(RLIMIT_NOFILE, (most, most))
        except (OSError, ValueError):
            return now
    return most


def descriptors_for_strangers() -> int:
    """Those below this number; the rest of what this process may have now is kept. Of very few, a quarter."""
    now, _ = getrlimit(RLIMIT_NOFILE)
    return sys.maxsize if now == RLIM_INFINITY else now - min(FILES_KEPT, now // 4)
