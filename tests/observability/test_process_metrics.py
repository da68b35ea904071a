"""The number of open files: from the kernel at once, from an older one by counting."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from pico.observability.process_metrics import open_files


def test_a_file_more_is_one_more() -> None:
    before = open_files()
    with Path("/dev/null").open("rb"):
        assert open_files() == before + 1
    assert open_files() == before


def test_an_older_kernel_has_its_list_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(os, "stat", lambda path: SimpleNamespace(st_size=0))
    assert abs(open_files() - before) <= 4, "the thread that counts may need some of its own"
