"""How many files and sockets a process may have open.

Responsible for: raising that as far as the system lets a process do by itself. Refuses to know: what they are for.

The limit that counts is low by default (1024) for the sake of programs that look at their descriptors with ``select``,
and below what the system allows each program to set. A relay needs a descriptor for each connection.
"""

from __future__ import annotations

from resource import RLIMIT_NOFILE, getrlimit, setrlimit

__all__ = ["raise_open_files_max"]


def raise_open_files_max() -> int:
    """Allow this process as many as it may have; returns the limit that counts from now on, -1 where there is none."""
    now, most = getrlimit(RLIMIT_NOFILE)
    if now != most:
        try:
            setrlimit(RLIMIT_NOFILE, (most, most))
        except (OSError, ValueError):
            return now
    return most
