"""The number of open files: from the kernel at once, from an older one by counting."""

from __future__ import annotations

import os
import resource
from pathlib import Path
from types import SimpleNamespace

import pytest

from pico.observability.process_metrics import ProcessMetrics, open_files


def test_a_file_more_is_one_more() -> None:
    before = open_files()
    with Path("/dev/null").open("rb"):
        assert open_files() == before + 1
    assert open_files() == before


def test_an_older_kernel_has_its_list_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(os, "stat", lambda path: SimpleNamespace(st_size=0))
    assert abs(open_files() - before) <= 4, "the thread that counts may need some of its own"


def test_without_a_file_for_it_only_the_memory_is_missing() -> None:
    """Then a scrape is wanted most: it tells that no file is left."""
    process = ProcessMetrics("0.1.0")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = [family.name for family in process.collect()]
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
    try:
        missing = set(before) - {family.name for family in process.collect()}
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert missing == {"process_virtual_memory_bytes", "process_resident_memory_bytes"}
