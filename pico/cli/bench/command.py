"""The command ``pico bench``: arguments in, one report out.

Responsible for: reading the arguments, running the plan with progress on a terminal, writing the report, the exit
status, and leaving nothing behind. Refuses to know: how anything is measured or shown.
"""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Container, Iterator, Mapping
from math import inf
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TypeVar

from pico import __version__
from pico.cli.bench.counters import instructions_are_counted, peak_rss_kib, reset_peak_rss
from pico.cli.bench.memory import (
    UPSTREAMS_PER_ENDPOINT,
    Growth,
    measure_idle_upstreams,
    measure_stalled_streams,
    require_descriptors,
)
from pico.cli.bench.plan import FALL_OFF_CONNECTIONS, Cell, Measurement, Plan, Step, cells_of
from pico.cli.bench.processes import Children, LoadProcess, free_port
from pico.cli.bench.report import Memory, Report, bars_of, cell_name, render, to_json
from pico.cli.bench.targets import (
    DIRECTIONS,
    DOMAIN,
    DOWNLOAD,
    SIZES,
    STALL_BYTES,
    Services,
    pico_node,
    start_pico,
    start_targets,
)
from pico.cli.command_line import UsageError
from pico.compiling import is_compiled

__all__ = ["USAGE", "run_bench", "stopped_by_signals"]

USAGE = """\
Measure what a request costs, next to nginx and to the thinnest relay that makes the same system calls.

Usage:
  pico bench [--quick] [--check] [--json=FILE] [--seconds=S] [--rounds=N] [--budget=S] [--connections=LIST]
             [--sizes=LIST] [--directions=LIST] [--targets=LIST] [--idle=N] [--stalled=N]
  pico bench (-h | --help)

Options:
  -h, --help          Print this text.
  --quick             Only what the bars need, within a minute.
  --check             Exit with 1 when a bar was missed or a request failed.
  --json=FILE         Write the figures for machines as well; - is standard output.
  --seconds=S         How long each target is under load in each cell and round [default: 0.3].
  --rounds=N          How often each cell is visited; the figures are medians [default: 5].
  --budget=S          No further round starts after so many seconds [default: 240].
  --connections=LIST  [default: 1,32,128,512] 512 with the empty body only: does throughput fall off?
  --sizes=LIST        Bodies in bytes, of 0, 1024, 65536, 1048576 [default: 0,1024,65536,1048576].
  --directions=LIST   [default: download,upload]
  --targets=LIST      [default: direct,nginx,floor-greenlet,floor,pico]
  --idle=N            Idle upstreams to hold, 0 for none [default: 1000].
  --stalled=N         Clients that read nothing to hold, 0 for none [default: 200].

The access log is on and goes to a file that is dropped. Exit: 0 measured, 1 not, or --check; 2 wrong arguments.
"""

TARGETS = ("direct", "nginx", "floor", "floor-greenlet", "pico")
DESCRIPTORS = 4096
QUICK_BUDGET_S = 25.0  # the rest of the minute is for starting and for the memory
T = TypeVar("T")


def run_bench(arguments: Mapping[str, Any]) -> int:
    """Runs with the arguments of ``USAGE`` and returns the exit status. Raises ``UsageError`` and ``BenchFailed``."""
    plan = plan_of(arguments)
    with stopped_by_signals(), progress() as announce:
        report = measure(plan, announce)
    write(report, arguments["--json"])
    missed = any(bar.passed is False for bar in bars_of(report.measurements, report.memory))
    return 1 if arguments["--check"] and (missed or report.failures()) else 0


# -- arguments --------------------------------------------------------------------------------------------------------


def plan_of(arguments: Mapping[str, Any]) -> Plan:
    """The plan that the arguments ask for, or ``UsageError``."""
    targets = _choices(arguments, "--targets", str, TARGETS)
    directions = _choices(arguments, "--directions", str, DIRECTIONS)
    sizes = _choices(arguments, "--sizes", int, SIZES)
    connections = _choices(arguments, "--connections", int, range(1, FALL_OFF_CONNECTIONS + 1))
    cells = cells_of(directions, sizes, connections)
    if arguments["--quick"]:
        cells = [cell for cell in cells if cell.decides_a_bar or cell.connections == FALL_OFF_CONNECTIONS]
    if not cells:
        raise UsageError("nothing is left to measure: an empty body counts as a download")
    memory = "pico" in targets
    return Plan(
        cells=cells,
        targets=targets,
        seconds=_number(arguments, "--seconds", float, 0.05),
        rounds=_number(arguments, "--rounds", int, 1),
        budget_s=min(_number(arguments, "--budget", float, 0.0), QUICK_BUDGET_S if arguments["--quick"] else inf),
        idle_upstreams=_number(arguments, "--idle", int, 0) if memory else 0,
        stalled_streams=_number(arguments, "--stalled", int, 0) if memory else 0,
    )


def _choices(arguments: Mapping[str, Any], option: str, kind: Callable[[str], T], known: Container[T]) -> list[T]:
    try:
        chosen = [kind(word.strip()) for word in arguments[option].split(",")]
    except ValueError:
        raise UsageError(f"{option} takes numbers separated by commas: {arguments[option]!r}") from None
    for one in chosen:
        if one not in known:
            raise UsageError(f"{option} does not know {one!r}")
    return list(dict.fromkeys(chosen))


def _number(arguments: Mapping[str, Any], option: str, kind: Callable[[str], T], least: float) -> T:
    try:
        number = kind(arguments[option])
    except ValueError:
        raise UsageError(f"{option} takes a number: {arguments[option]!r}") from None
    if not number >= least:  # type: ignore[operator]
        raise UsageError(f"{option} is at least {least:g}")
    return number


# -- the run ----------------------------------------------------------------------------------------------------------

Announce = Callable[[int, int, str], None]  # done, of so many, what comes now


def measure(plan: Plan, announce: Announce) -> Report:
    """Everything of the plan. Nothing that was started is left running, whatever happens."""
    require_descriptors(DESCRIPTORS)
    started = time.monotonic()
    machine = machine_of()
    with tempfile.TemporaryDirectory(prefix="pico-bench-") as directory, Children(Path(directory)) as children:
        services = Services(children)
        measurements = measure_cells(plan, children, services, announce)
        memory = measure_memory(plan, children, services, announce)
    return Report(
        machine=machine,
        seconds=plan.seconds,
        rounds=plan.rounds,
        elapsed_s=time.monotonic() - started,
        measurements=measurements,
        memory=memory,
    )


def measure_cells(
    plan: Plan, children: Children, services: Services, announce: Announce
) -> dict[tuple[Cell, str], Measurement]:
    """The rounds. The targets stay up from the first to the last, and those not under load are idle."""
    announce(0, plan.count(), "starting")
    targets = start_targets(children, services, plan.targets)
    load = LoadProcess(children)
    measurements: dict[tuple[Cell, str], Measurement] = {}
    for done, step in enumerate(plan.steps(targets)):
        announce(done, plan.count(), f"{cell_name(step.cell)}: {step.target.name}")
        measure_step(load, step, plan.seconds, measurements.setdefault((step.cell, step.target.name), Measurement()))
    order = [target.name for target in targets]
    return dict(sorted(measurements.items(), key=lambda item: (item[0][0], order.index(item[0][1]))))


def measure_step(load: LoadProcess, step: Step, seconds: float, measurement: Measurement) -> None:
    parts = step.target.routes[step.cell.direction].parts
    for pid in (pid for pids in parts.values() for pid in pids):
        reset_peak_rss(pid)
    measurement.outcomes[step.round] = load.run(step.cell.job(step.target, seconds))
    for part, pids in parts.items():
        peak = sum(map(peak_rss_kib, pids))
        measurement.peak_rss_kib[part] = max(peak, measurement.peak_rss_kib.get(part, 0))


def measure_memory(plan: Plan, children: Children, services: Services, announce: Announce) -> Memory:
    """On fresh nodes, since a node that has worked holds memory that it would use again."""
    idle = apart = None
    stalled: dict[str, Growth] = {}
    if plan.idle_upstreams:
        announce(plan.count(), plan.count(), f"{plan.idle_upstreams} idle upstreams")
        idle = measure_idle(children, plan.idle_upstreams, UPSTREAMS_PER_ENDPOINT)
        apart = measure_idle(children, plan.idle_upstreams, 1)
    if plan.stalled_streams:
        announce(plan.count(), plan.count(), f"{plan.stalled_streams} stalled streams")
        stalled = measure_stalled(children, services, plan.stalled_streams)
    return Memory(idle_upstreams=idle, idle_endpoints=apart, stalled_streams=stalled)


def measure_idle(children: Children, count: int, per_endpoint: int) -> Growth:
    upstream_port = free_port()
    node = pico_node(children, f"idle-{per_endpoint}-node", free_port(), upstream_port)
    try:
        return measure_idle_upstreams(node, upstream_port, count, per_endpoint=per_endpoint)
    finally:
        children.stop(node)


def measure_stalled(children: Children, services: Services, count: int) -> dict[str, Growth]:
    pico = start_pico(children, services, "stalled")
    parts = {"node": pico.node, "agent": pico.agent}
    try:
        return measure_stalled_streams(parts, pico.proxy_port, f"{DOWNLOAD}.{DOMAIN}", f"/{STALL_BYTES}", count)
    finally:
        children.stop(pico.agent, pico.node)


def machine_of() -> dict[str, Any]:
    return {
        "pico": f"{__version__}, {'compiled' if is_compiled() else 'interpreted'}",
        "Python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load average": round(os.getloadavg()[0], 2),
        "instructions": "counted" if instructions_are_counted() else "not counted",
    }


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


# -- the surroundings -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP unwind the stack as Ctrl-C does, so that every ``with`` block ends its children."""

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        del frame
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def progress() -> Iterator[Announce]:
    """A bar on a terminal; else a line for every tenth part."""
    if not sys.stderr.isatty():
        yield _plain_progress()
        return
    from rich.console import Console
    from rich.progress import Progress

    # Without its own refresh there is no thread, and none runs beside what is measured.
    with Progress(console=Console(stderr=True), transient=True, auto_refresh=False) as bar:
        task = bar.add_task("starting")
        yield lambda done, total, what: bar.update(task, completed=done, total=total, description=what, refresh=True)


def _plain_progress() -> Announce:
    told = -1

    def announce(done: int, total: int, what: str) -> None:
        nonlocal told
        tenth = 10 * done // total
        if tenth > told or done in (0, total):
            told = tenth
            print(f"pico bench: {done}/{total} {what}", file=sys.stderr, flush=True)

    return announce


def write(report: Report, json_file: str | None) -> None:
    """The table to standard output, unless that is where the JSON goes."""
    table = sys.stderr if json_file == "-" else sys.stdout
    print(render(report), end="", file=table)
    if json_file == "-":
        sys.stdout.write(to_json(report))
    elif json_file is not None:
        Path(json_file).write_text(to_json(report))
