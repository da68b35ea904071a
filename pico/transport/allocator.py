"""How the C library treats the memory of large pieces that was freed.

Responsible for: having a process keep some of it. Refuses to know: what it is used for.

glibc gives memory at the end of its heap back to the system as soon as half a megabyte of it is free, and a relay that
moves large bodies has that much free many times a second: each time every page comes back through a fault, filled with
zeros. It did so up to 58 times for each MiB that an agent moved, for a tenth of its CPU.
"""

from __future__ import annotations

from typing import Final

__all__ = ["keep_freed"]

KEPT_BYTES: Final = 16 * 1024 * 1024
"""Free memory at the end of the heap that a process keeps."""

MAPPED_BYTES: Final = 1024 * 1024
"""What is at least so large never comes from the heap, so it goes back to the system when it is freed."""

_TRIM_THRESHOLD: Final = -1  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
_MMAP_THRESHOLD: Final = -3


def keep_freed() -> bool:
    """For this process, from now on; False where the C library cannot be told so, and then nothing is different."""
    try:
        import ctypes

        mallopt = ctypes.CDLL(None).mallopt
    except (ImportError, AttributeError, OSError):
        return False
    # Both, because setting one ends the library's own judgement of the other.
    return bool(mallopt(_TRIM_THRESHOLD, KEPT_BYTES)) and bool(mallopt(_MMAP_THRESHOLD, MAPPED_BYTES))
