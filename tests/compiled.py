"""For the few tests that only interpreted code can pass (``setup.py``)."""

from __future__ import annotations

import pytest

from pico.compiling import is_compiled

__all__ = ["interpreted_only"]

interpreted_only = pytest.mark.skipif(is_compiled(), reason="it replaces a method, and compiled code looks none up")
