"""The limit of open files, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
from resource import RLIMIT_NOFILE, getrlimit, setrlimit
from pico.transport.open_files import raise_open_files_max
setrlimit(RLIMIT_NOFILE, (50, 70))
print(raise_open_files_max(), *getrlimit(RLIMIT_NOFILE), raise_open_files_max())
"""


def test_the_limit_becomes_what_the_system_allows() -> None:
    said = subprocess.run([sys.executable, "-c", PROGRAM], check=True, timeout=30, capture_output=True, text=True)
    assert said.stdout.split() == ["70", "70", "70", "70"]
