"""The number of open files, from the kernel at once, from an older one by counting; what is told without ``/proc``."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path
from types import SimpleNamespace

import gevent
import gevent.threadpool
import pytest
from gevent.threadpool import ThreadPool

from pico.observability import process_metrics
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


def test_an_older_kernel_without_a_thread_to_count_in_tells_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_thread(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    process = ProcessMetrics("0.1.0")
    before = {family.name for family in process.collect()}
    with monkeypatch.context() as context:
        context.setattr(os, "stat", lambda path: SimpleNamespace(st_size=0))
        context.setattr(gevent.get_hub(), "_threadpool", ThreadPool(1))
        context.setattr(gevent.threadpool, "start_new_thread", no_thread)
        told = {family.name for family in process.collect()}
    assert before - told == {"process_open_fds"}


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


def test_without_proc_the_rest_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = {family.name: family for family in ProcessMetrics("0.1.0").collect()}
    monkeypatch.setattr(process_metrics, "_FILES", str(tmp_path / "fd"))
    monkeypatch.setattr(process_metrics, "_STAT", tmp_path / "stat")
    began_at = time.time()
    told = {family.name: family for family in ProcessMetrics("0.1.0").collect()}
    memory = {"process_virtual_memory_bytes", "process_resident_memory_bytes"}
    assert before.keys() - told.keys() == {*memory, "process_open_fds"}
    assert began_at <= told["process_start_time_seconds"].samples[0].value <= time.time()
