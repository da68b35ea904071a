"""What it means that the system gave no connection.

Responsible for: telling a connection that broke while it waited from a system that is out of something, and how long to
leave that one alone. Refuses to know: who accepts, and what for.
"""

from __future__ import annotations

import errno
from typing import Final

__all__ = ["OF_ONE_CONNECTION", "TROUBLE_PAUSE_S"]

OF_ONE_CONNECTION: Final = frozenset({errno.ECONNABORTED, errno.EPROTO, errno.EPERM, errno.EINTR})
"""Errors of the one connection that was to be taken: the next one may be sound."""

TROUBLE_PAUSE_S: Final = 0.1
"""Without accepting, when the system is out of descriptors or memory; the port would stay readable and spin."""
