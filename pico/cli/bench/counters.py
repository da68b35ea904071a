"""What a process has cost so far: CPU time, instructions, memory.

Responsible for: reading the kernel's counters of other processes, as finely as this host allows. Refuses to know: what
the processes do, and what the figures are divided by.

CPU time comes in nanoseconds from ``schedstat`` of every thread, or in clock ticks from ``stat`` where the kernel keeps
no scheduler statistics. Instructions come from ``perf_event_open``; many virtual machines have no such counter, and
then there is none: ``None``, never a guess.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

__all__ = ["Counters", "Sample", "instructions_are_counted", "peak_rss_kib", "reset_peak_rss", "rss_kib"]

PROC = Path("/proc")
_PERF_EVENT_OPEN = {"x86_64": 298, "aarch64": 241}  # the number of the system call
_ATTRIBUTE = struct.Struct("=IIQQQQQ80x")  # type, size, config, period, sample type, read format, flags; 128 bytes
_HARDWARE, _INSTRUCTIONS, _INHERIT = 0, 1, 1 << 1


class Sample(NamedTuple):
    """The counters of each group of processes at one moment."""

    cpu_ns: dict[str, int]
    instructions: dict[str, int] | None


class Counters:
    """Reads named groups of processes. A process that has ended counts nothing."""

    def __init__(self, groups: Mapping[str, Iterable[int]]) -> None:
        self._groups = {name: tuple(pids) for name, pids in groups.items()}
        self._perf = _open_perf(self._groups)

    def read(self) -> Sample:
        cpu_ns = {name: sum(map(_cpu_ns, pids)) for name, pids in self._groups.items()}
        if self._perf is None:
            return Sample(cpu_ns, None)
        return Sample(cpu_ns, {name: sum(map(_read_perf, fds)) for name, fds in self._perf.items()})

    def close(self) -> None:
        for fds in (self._perf or {}).values():
            for fd in fds:
                os.close(fd)
        self._perf = None


def instructions_are_counted() -> bool:
    """Whether this host lets us count the instructions of our own processes."""
    fd = _perf_event_open(os.getpid())
    if fd is None:
        return False
    os.close(fd)
    return True


def rss_kib(pid: int) -> int:
    return _status_kib(pid, "VmRSS:")


def peak_rss_kib(pid: int) -> int:
    """The most since the process began, or since ``reset_peak_rss``."""
    return _status_kib(pid, "VmHWM:")


def reset_peak_rss(pid: int) -> None:
    """Starts the peak afresh; where the kernel refuses, the peak stays the one of the process's whole life."""
    with suppress(OSError):
        (PROC / str(pid) / "clear_refs").write_text("5")


def _status_kib(pid: int, key: str) -> int:
    with suppress(OSError):
        for line in (PROC / str(pid) / "status").read_text().splitlines():
            if line.startswith(key):
                return int(line.split()[1])
    return 0


def _cpu_ns(pid: int) -> int:
    try:
        return sum(int((task / "schedstat").read_bytes().split()[0]) for task in (PROC / str(pid) / "task").iterdir())
    except OSError:
        return _cpu_ticks_ns(pid)


def _cpu_ticks_ns(pid: int) -> int:
    try:
        after_name = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return (int(after_name[11]) + int(after_name[12])) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def _threads(pid: int) -> list[int]:
    try:
        return [int(task.name) for task in (PROC / str(pid) / "task").iterdir()]
    except OSError:
        return []


def _open_perf(groups: Mapping[str, Iterable[int]]) -> dict[str, list[int]] | None:
    """One counter per thread, None when any of them is refused: half a figure is none."""
    opened: dict[str, list[int]] = {name: [] for name in groups}
    for name, pids in groups.items():
        for thread in (thread for pid in pids for thread in _threads(pid)):
            fd = _perf_event_open(thread)
            if fd is None:
                for other in (fd for fds in opened.values() for fd in fds):
                    os.close(other)
                return None
            opened[name].append(fd)
    return opened


def _perf_event_open(thread: int) -> int | None:
    number = _PERF_EVENT_OPEN.get(platform.machine())
    if number is None:
        return None
    attribute = _ATTRIBUTE.pack(_HARDWARE, _ATTRIBUTE.size, _INSTRUCTIONS, 0, 0, 0, _INHERIT)
    syscall = ctypes.CDLL(None, use_errno=True).syscall
    syscall.restype = ctypes.c_long
    any_cpu, no_group, flags = ctypes.c_int(-1), ctypes.c_int(-1), ctypes.c_ulong(0)
    fd = int(syscall(ctypes.c_long(number), attribute, ctypes.c_int(thread), any_cpu, no_group, flags))
    return fd if fd >= 0 else None


def _read_perf(fd: int) -> int:
    return int.from_bytes(os.read(fd, 8), "little")
