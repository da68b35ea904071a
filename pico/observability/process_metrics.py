"""What the kernel and the interpreter say of the process.

Responsible for: ``process_...`` and ``python_...`` under the names that every client library of Prometheus uses,
``pico_build_info``, and what became of the log. What the kernel does not say, as where no ``/proc`` is mounted, is left
out. Refuses to know: whose process it is.

The library's own collector lists all open files one by one, which takes 10 ms with ten thousand connections; the kernel
is asked for their number instead.
"""

from __future__ import annotations

import os
import platform
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import gevent
from gevent.hub import get_hub
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from pico.compiling import is_compiled
from pico.observability.log_handler import lines_dropped

__all__ = ["ProcessMetrics", "open_files"]

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_FILES: Final = "/proc/self/fd"
_STAT: Final = Path("/proc/self/stat")


class ProcessMetrics:
    """Read anew for each scrape, except what never changes."""

    def __init__(self, version: str) -> None:
        self._version = version
        self._compiled = "yes" if is_compiled() else "no"
        try:
            self._began_at = time.time() - _age_s()
        except OSError:
            self._began_at = time.time()  # not much later
        registry = CollectorRegistry()
        self._collectors = (PlatformCollector(registry=registry), GCCollector(registry=registry))

    def collect(self) -> Iterator[Metric]:
        """What prometheus_client calls a collector."""
        build = GaugeMetricFamily(
            "pico_build_info",
            "Always 1; what the process is made of.",
            labels=["version", "python", "gevent", "compiled"],
        )
        build.add_metric([self._version, platform.python_version(), gevent.__version__, self._compiled], 1)
        yield build
        yield CounterMetricFamily("pico_log_dropped_total", "Lines of the log lost to a slow reader.", lines_dropped())
        yield from self._process()
        for collector in self._collectors:
            yield from collector.collect()

    def _process(self) -> Iterator[Metric]:
        used = os.times()
        yield CounterMetricFamily(
            "process_cpu_seconds_total", "User and system time of the processor.", used.user + used.system
        )
        yield from _memory()
        yield GaugeMetricFamily(
            "process_start_time_seconds", "When the process began, in seconds since 1970.", self._began_at
        )
        yield from _files()
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        yield GaugeMetricFamily("process_max_fds", "How many open files and sockets there may be.", most)


def open_files() -> int:
    """How many files and sockets the process has open; an older kernel is asked in a thread, which takes longer."""
    counted = os.stat(_FILES).st_size  # since Linux 6.2
    return counted or len(get_hub().threadpool.apply(os.listdir, (_FILES,)))


def _files() -> Iterator[Metric]:
    try:
        count = open_files()
    except (OSError, RuntimeError):  # of the latter kind when the system has no thread left to count in
        return
    yield GaugeMetricFamily("process_open_fds", "Open files and sockets.", count)


def _memory() -> Iterator[Metric]:
    try:
        fields = _fields()
    except OSError:  # no open file is left, say: then the rest is wanted all the more
        return
    yield GaugeMetricFamily("process_virtual_memory_bytes", "Size of the address space.", int(fields[20]))
    yield GaugeMetricFamily("process_resident_memory_bytes", "Memory in use.", int(fields[21]) * _PAGE_BYTES)


def _fields() -> list[bytes]:
    # The second field is the program's name in parentheses, in which anything may stand: the third comes first here.
    return _STAT.read_bytes().rpartition(b")")[2].split()


def _age_s() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(_fields()[19]) / _TICKS
