"""What clients notice while nodes and agents are restarted, killed and added: ``python -m bench.rollout``.

Responsible for: three nodes behind a balancer from its recipe in ``deploy/``, agents that come through the same
balancer, a load that goes on meanwhile, and one table with the bars. Refuses to know: how a node or an agent does it.

    restart   each node in turn: SIGTERM, wait for its end, start it again, wait until it is ready
    kill      the same with SIGKILL
    agents    each agent in turn, two agents for each endpoint
    scale     a third node comes to two that have 300 upstreams

A request fails here when its answer is not 200 with the right body; the load tries nothing again. Where a balancer
does, its recipe says so: a request that could not be handed over at all, or one of an idempotent method without an
answer. Everything is bounded in time, and every process is ended by its own ID.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple

from pico.cli.bench.processes import free_port
from tests.system.balancers import Balancer, Haproxy, Nginx, three_nodes, until_one
from tests.system.processes import HOST, TRACEBACK, Agent, Programs, until

BALANCERS: Final[dict[str, type[Balancer]]] = {"haproxy": Haproxy, "nginx": Nginx}
RATE: Final = 200.0
NODE_OPTIONS: Final = ("--access-log=off", "--drain-delay=1s", f"--trusted-proxies={HOST}")
FIRST_SUCCESS_S: Final = 1.5
EVEN: Final = 0.1
EVEN_WITHIN_S: Final = 60.0


class Row(NamedTuple):
    """One request; ``why`` it failed is empty when it did not. Times are of one clock on this machine."""

    kind: str
    endpoint: str
    began: float
    ended: float
    why: str


class Moment(NamedTuple):
    """Of a node: when it was told to end, and when it had ended."""

    told: float
    ended: float


@dataclass
class Result:
    """One line of the table."""

    name: str
    bar: str
    found: str
    kept: bool


class Quiet(Programs):
    """The same without their logs, of which there are many; a traceback in one is an error all the same."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()
        for program in self._started:
            if TRACEBACK in program.errors:
                raise AssertionError(f"{program.name}: {program.errors[-3000:]}")


class Scene:
    """Three nodes, a balancer, agents and a service."""

    def __init__(
        self,
        programs: Programs,
        directory: Path,
        balancer: type[Balancer],
        agents: int,
        endpoints: int,
        copies: int = 1,
    ) -> None:
        self.programs = programs
        self.nodes = three_nodes(programs, *NODE_OPTIONS)
        self.balancer = programs.add(balancer(directory, self.nodes)).ready()
        self.service_port = free_port()
        programs.program("bench.steady", "service", str(self.service_port))
        self._agents, self._each, self._copies = agents, endpoints, copies
        self.agents: list[Agent] = []

    @property
    def endpoints(self) -> list[str]:
        return [name for group in range(self._agents) for name in self._names(group)]

    def start_agents(self) -> None:
        self.agents = [self._agent(number % self._agents) for number in range(self._agents * self._copies)]
        for agent in self.agents:
            until_registered(agent, self._each)

    def restart_node(self, number: int, how: signal.Signals) -> Moment:
        """Back when it is ready again."""
        moment = self.stop_node(number, how)
        self.start_node(number)
        return moment

    def stop_node(self, number: int, how: signal.Signals) -> Moment:
        node, told = self.nodes[number], time.monotonic()
        node.send(how)
        # Without a deadline it is seen to the millisecond; a drain has one.
        status = node.process.wait() if how is signal.SIGKILL else node.wait(60.0)
        moment = Moment(told, time.monotonic())
        assert status == (0 if how is signal.SIGTERM else -how), f"{node.name} ended with {status}"
        return moment

    def start_node(self, number: int) -> None:
        old = self.nodes[number]
        others = ",".join(f"{node.host}:{node.gossip_port}" for node in self.nodes if node is not old)
        options = (f"--node-id=node-{number + 1}", f"--join={others}", *old.same_ports, *NODE_OPTIONS)
        fresh = self.programs.node_begun(*options, host=old.host).ready()
        self.nodes[number] = fresh
        until(lambda: fresh.admin("/readyz")[0] == 200, "readiness")

    def restart_agent(self, number: int) -> None:
        self.agents[number].send(signal.SIGTERM)
        status = self.agents[number].wait(60.0)
        assert status == 0, f"an agent ended with {status}"
        self.agents[number] = until_registered(self._agent(number % self._agents), self._each)

    def upstreams(self, *numbers: int) -> list[int]:
        return [int(self.nodes[number].metric("pico_upstreams")) for number in numbers]

    def _names(self, group: int) -> list[str]:
        return [f"g{group}e{number}" for number in range(self._each)]

    def _agent(self, group: int) -> Agent:
        targets = [f"--endpoint={name}={HOST}:{self.service_port}" for name in self._names(group)]
        return self.programs.agent_of(f"--server={self.balancer.upstream_url}", *targets)


def until_registered(agent: Agent, endpoints: int) -> Agent:
    """Until each of its endpoints has been registered at least once."""
    name = re.compile(r"endpoint (\S+) is registered at")
    until(lambda: len(set(name.findall(agent.errors))) >= endpoints, f"the endpoints of {agent.name}")
    return agent


@contextmanager
def scene(balancer: str, agents: int = 4, endpoints: int = 8, copies: int = 1) -> Iterator[Scene]:
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pico-rollout-")))
        yield Scene(stack.enter_context(Quiet(directory)), directory, BALANCERS[balancer], agents, endpoints, copies)


@contextmanager
def loaded(made: Scene, rate: float) -> Iterator[list[Row]]:
    """Requests run meanwhile; the list has them all once the block is left."""
    where = (made.balancer.url, ",".join(made.endpoints), str(rate), str(made.service_port))
    rows: list[Row] = []
    with subprocess.Popen(
        [sys.executable, "-m", "bench.steady", "load", *where], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as running:
        try:
            time.sleep(1.0)
            yield rows
            time.sleep(1.0)
            said: dict[str, Any] = json.loads(running.communicate("stop\n", timeout=90)[0])
        finally:
            if running.poll() is None:
                running.kill()
    assert said["twice"] == [], f"delivered more than once: {said['twice'][:5]}"
    rows += [Row(*row) for row in said["rows"]]


def failures(rows: Sequence[Row], since: float = 0.0) -> list[str]:
    """What failed and why, one line each."""
    return [f"{r.kind} {r.endpoint} +{r.began - since:.3f}…{r.ended - since:.3f} s: {r.why}" for r in rows if r.why]


def counted(rows: Sequence[Row]) -> str:
    failed = Counter(f"{row.kind} {row.why}" for row in rows if row.why)
    text = ", ".join(f"{times}× {what}" for what, times in failed.items())
    return f"{sum(failed.values())} of {len(rows)} failed{f' ({text})' if text else ''}"


# -- the bars ---------------------------------------------------------------------------------------------------------


def restart(balancer: str, rounds: int, rate: float, pause_s: float) -> Result:
    def each(made: Scene) -> None:
        for number in range(len(made.nodes)):
            made.restart_node(number, signal.SIGTERM)
            time.sleep(pause_s)

    with scene(balancer) as made:
        return nobody_notices("restart", balancer, "rolling restart of 3 nodes", made, each, rounds, rate)


def nobody_notices(
    bar: str, balancer: str, what: str, made: Scene, each: Callable[[Scene], None], rounds: int, rate: float
) -> Result:
    """So many rounds of ``each`` under load, of which no request may fail."""
    made.start_agents()
    everything: list[Row] = []
    for turn in range(rounds):
        with loaded(made, rate) as rows:
            began = time.monotonic()
            each(made)
        everything += rows
        say(f"{bar}, {balancer}, round {turn + 1}: {counted(rows)} in {time.monotonic() - began:.0f} s")
        show(failures(rows, began))
    name = f"{what} behind {balancer}, {rounds} times"
    return Result(name, "0 failed", counted(everything), not failures(everything))


def kill(balancer: str, rounds: int, rate: float, pause_s: float) -> Result:
    unexcused: list[str] = []
    excused, slowest_s, total = 0, 0.0, 0
    with scene(balancer) as made:
        made.start_agents()
        for turn in range(rounds):
            times: list[Moment] = []
            with loaded(made, rate) as rows:
                for number in range(len(made.nodes)):
                    times.append(made.restart_node(number, signal.SIGKILL))
                    time.sleep(pause_s)
            total += len(rows)
            for row in rows:
                if row.why and not in_flight_and_unsafe(row, times):
                    at = max([time_ for time_ in times if time_.told <= row.ended], default=times[0])
                    unexcused += failures([row], at.told)
                excused += bool(row.why) and in_flight_and_unsafe(row, times)
            firsts = [min(row.ended for row in rows if not row.why and row.began >= at.ended) - at.told for at in times]
            slowest_s = max(slowest_s, *firsts)
            say(f"kill, {balancer}, round {turn + 1}: {counted(rows)}; first success after {max(firsts) * 1000:.0f} ms")
            show(unexcused)
    return Result(
        f"SIGKILL of 3 nodes in turn behind {balancer}, {rounds} times",
        f"only in flight and unsafe to repeat; first success ≤ {FIRST_SUCCESS_S:g} s",
        f"{excused} of {total} in flight and unsafe, {len(unexcused)} others; "
        f"first success ≤ {slowest_s * 1000:.0f} ms",
        not unexcused and slowest_s <= FIRST_SUCCESS_S,
    )


def in_flight_and_unsafe(row: Row, times: Sequence[Moment]) -> bool:
    """A request that was under way when a node ended, and is a POST or had got the beginning of its answer."""
    begun = row.kind == "POST" or row.why.startswith("broken off")
    return begun and any(row.began <= at.ended and at.told <= row.ended for at in times)


def agents(balancer: str, rounds: int, rate: float, pause_s: float) -> Result:
    def each(made: Scene) -> None:
        for number in range(len(made.agents)):
            made.restart_agent(number)
            time.sleep(pause_s / 4)

    with scene(balancer, copies=2) as made:
        what = "rolling restart of 8 agents, two for each endpoint,"
        return nobody_notices("agents", balancer, what, made, each, rounds, rate)


def scale(balancer: str, rate: float, upstreams: int = 300) -> Result:
    with scene(balancer, agents=4, endpoints=upstreams // 4) as made:
        made.stop_node(2, signal.SIGTERM)
        made.start_agents()
        until(lambda: sum(made.upstreams(0, 1)) == upstreams, f"{upstreams} upstreams")
        before, took_s = made.upstreams(0, 1), EVEN_WITHIN_S
        with loaded(made, rate) as rows:
            made.start_node(2)
            until_one(made.nodes)
            began = time.monotonic()
            while time.monotonic() < began + EVEN_WITHIN_S and took_s == EVEN_WITHIN_S:
                counts = made.upstreams(0, 1, 2)
                if sum(counts) == upstreams and is_even(counts):
                    took_s = time.monotonic() - began
                time.sleep(0.1)
            time.sleep(5.0)
            after = made.upstreams(0, 1, 2)
        show(failures(rows, began))
    return Result(
        f"2 → 3 nodes behind {balancer}, {upstreams} upstreams",
        f"within 10 % of even in ≤ {EVEN_WITHIN_S:g} s, 0 failed",
        f"{before} → {after} in {took_s:.1f} s; {counted(rows)}",
        is_even(after) and took_s < EVEN_WITHIN_S and not failures(rows),
    )


def is_even(counts: Sequence[int]) -> bool:
    mean = sum(counts) / len(counts)
    return all(abs(count - mean) <= EVEN * mean for count in counts)


def say(text: str) -> None:
    print(text, flush=True)


def show(lines: Sequence[str], most: int = 10) -> None:
    for line in [*lines[:most], *([f"… and {len(lines) - most} more"] if len(lines) > most else [])]:
        say(f"    {line}")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bars", nargs="*", help="restart, kill, agents, scale; default: all")
    parser.add_argument("--balancer", choices=[*BALANCERS, "both"], default="both")
    parser.add_argument("--rounds", type=int, default=10, help="of restart; of kill and agents a third as many")
    parser.add_argument("--rate", type=float, default=RATE, help="requests a second")
    parser.add_argument("--pause", type=float, default=1.0, help="seconds from one restart to the next")
    asked = parser.parse_args()
    names = asked.bars or ["restart", "kill", "agents", "scale"]
    third = max(1, asked.rounds // 3)
    table: dict[str, Callable[[str], Result]] = {
        "restart": lambda balancer: restart(balancer, asked.rounds, asked.rate, asked.pause),
        "kill": lambda balancer: kill(balancer, third, asked.rate, asked.pause),
        "agents": lambda balancer: agents(balancer, third, asked.rate, asked.pause),
        "scale": lambda balancer: scale(balancer, asked.rate),
    }
    unknown = [name for name in names if name not in table]
    if unknown:
        parser.error(f"{unknown[0]} is none of {', '.join(table)}")
    chosen = list(BALANCERS) if asked.balancer == "both" else [asked.balancer]
    results = [table[name](balancer) for name in names for balancer in chosen]
    say("\n| what | bar | found | |\n| --- | --- | --- | --- |")
    for result in results:
        say(f"| {result.name} | {result.bar} | {result.found} | {'kept' if result.kept else 'missed'} |")
    return 0 if all(result.kept for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
