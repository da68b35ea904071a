"""Freed memory is kept: seen in the page faults of a process that frees much and takes it again."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from pico.transport.allocator import KEPT_BYTES, MAPPED_BYTES

FAULTS = """
import resource, sys
from pico.transport.allocator import keep_freed
if sys.argv[1] == "kept":
    assert keep_freed()
size, pieces = int(sys.argv[2]), int(sys.argv[3])
def turn():
    held = [b"x" * size for _ in range(pieces)]
    held.reverse()
turn()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    turn()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")


def faults(how: str, size: int, pieces: int) -> int:
    """Page faults while that many pieces of that size are taken and freed, twenty times."""
    command = [sys.executable, "-c", FAULTS, how, str(size), str(pieces)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout)


def test_pieces_of_bodies_come_back_without_a_fault() -> None:
    half = KEPT_BYTES // 2
    assert faults("kept", 64 * 1024, half // (64 * 1024)) < 100
    assert faults("kept", 256 * 1024, half // (256 * 1024)) < 100


def test_without_it_they_do_not() -> None:
    assert faults("given back", 64 * 1024, KEPT_BYTES // 2 // (64 * 1024)) > 10_000


def test_what_is_very_large_is_given_back() -> None:
    assert faults("kept", 2 * MAPPED_BYTES, 4) > 10_000
