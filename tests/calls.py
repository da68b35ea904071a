"""What something costs, in calls: the same on every machine, however busy it is.

Responsible for: counting them. Refuses to know: how many are too many.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable

__all__ = ["calls_of"]


def calls_of(function: Callable[[], object]) -> int:
    """How many functions are called on the way."""
    count = 0

    def note(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    gc.disable()  # a collection calls whoever wants to know of it
    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(None)
        gc.enable()
    return count
