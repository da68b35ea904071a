"""The limit of open files, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
from resource import RLIMIT_NOFILE, getrlimit, setrlimit
from pico.transport.open_files import descriptors_for_strangers, raise_open_files_max
setrlimit(RLIMIT_NOFILE, (50, 1000))
print(descriptors_for_strangers())
print(raise_open_files_max(), *getrlimit(RLIMIT_NOFILE), raise_open_files_max())
print(descriptors_for_strangers())
"""


def test_the_limit_becomes_what_the_system_allows_and_some_are_kept() -> None:
    said = subprocess.run([sys.executable, "-c", PROGRAM], check=True, timeout=30, capture_output=True, text=True)
    assert said.stdout.split() == ["38", "1000", "1000", "1000", "1000", "968"]
