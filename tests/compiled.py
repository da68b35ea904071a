"""For the few tests that only interpreted code can pass (``setup.py``)."""

from __future__ import annotations

import pytest

from pico.compiling import is_compiled

__all__ = ["interpreted_only"]

REASON = "it replaces, copies or leaves out what compiled code counts on"
interpreted_only = pytest.mark.skipif(is_compiled(), reason=REASON)
