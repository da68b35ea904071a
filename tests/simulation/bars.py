"""The figures of gossip in virtual time: ``python -m tests.simulation.bars [--nodes 3,10,50] [--runs N]``, and
``--claims SEEDS --minutes M`` for what is promised besides.

Responsible for: measuring clusters of the production engines with their default intervals, one number for each run, and
the bars that the numbers are held to. Refuses to know: what causes them, and real time. The program prints a table for
``docs/cluster.md``; ``test_bars`` runs a sample of the same.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from pico.config import GossipLimits, GossipTimers
from pico.protocol.gossip import Rank
from tests.simulation.checks import Checks, agree, differences, knows, routable
from tests.simulation.world import Link, Process, TooLate, World

SEEDS = ("n000", "n001", "n002")
NEVER_S = 1e9


@dataclass(frozen=True)
class Bar:
    """What a cluster of so many nodes has to reach: GOSSIP-80 names the intervals, ``docs/cluster.md`` the figures."""

    nodes: int
    visible_s: float
    visible_lossy_s: float  # at a loss of 10 %
    dead_s: float
    black_hole_s: float
    healed_s: float
    idle_bytes_s: float
    runs: int  # of which the worst counts, when fewer than a hundred


BARS = {
    bar.nodes: bar
    for bar in (
        Bar(3, 0.010, 0.150, 4.5, 3.0, 2.0, 4_000, 200),
        Bar(10, 0.010, 0.300, 5.0, 3.0, 3.0, 6_000, 200),
        Bar(50, 0.060, 0.500, 8.0, 5.0, 5.0, 8_000, 40),
        Bar(100, 0.080, 0.700, 8.0, 6.0, 6.0, 8_000, 20),
        Bar(500, 0.150, 1.500, 10.0, 10.0, 12.0, 10_000, 3),
    )
}


def name_of(number: int) -> str:
    return f"n{number:03d}"


def grown(
    seed: int,
    nodes: int,
    *,
    link: Link | None = None,
    timers: GossipTimers | None = None,
    limits: GossipLimits | None = None,
    checks: Checks | None = None,
    judged: Callable[[Process, str, int], None] | None = None,
) -> World:
    """A cluster that has found itself, each node with one endpoint."""
    world = World(seed, timers=timers, limits=limits, checks=checks)
    if judged is not None:
        world.judged.append(judged)
    for number in range(nodes):
        process = world.start(name_of(number), seeds=SEEDS[:nodes])
        world.put(process, b"e:%d" % number, b"1")
    together(world)
    world.run(world.rng.uniform(1.0, 2.0))
    world.link = link or world.link
    return world


def together(world: World, within_s: float = 60.0) -> float:
    """How long it takes until all agree."""
    try:
        return world.run_until(lambda: agree(world), within_s, 0.05)
    except TooLate as late:
        raise AssertionError(f"{late}: {list(differences(world))[:5]}") from None


def until_each(world: World, processes: Sequence[Process], seen: Callable[[Process], bool], within_s: float) -> float:
    """How long it takes until each has seen it once."""
    waiting = list(processes)

    def everybody() -> bool:
        while waiting and seen(waiting[-1]):
            waiting.pop()
        return not waiting

    return world.run_until(everybody, within_s, 0.001)


def others(world: World, name: str) -> list[Process]:
    return [process for process in world.up() if process.name != name]


# One number each.


def visible_s(world: World, key: bytes = b"e:new", value: bytes = b"1") -> float:
    """From a change on some node until all have it."""
    owner = world.rng.choice(world.up())
    world.put(owner, key, value)
    return until_each(world, others(world, owner.name), lambda one: knows(one, owner.name, key) == value, 30.0)


def dead_s(world: World) -> float:
    """From a crash until the node is dead in every table."""
    name = world.rng.choice(world.up()).name
    world.crash(name)
    return until_each(world, world.up(), lambda one: not present(one, name), 60.0)


def present(process: Process, name: str) -> bool:
    record = process.engine.table.members().get(name)
    return record is not None and not record.gone


def black_hole_s(world: World) -> float:
    """From the moment at which nothing passes to or from a node until nobody would choose it."""
    name = world.rng.choice(world.up()).name
    world.isolate(name)
    return until_each(world, others(world, name), lambda one: not routable(one, name), 60.0)


def healed_s(world: World, cut_s: float = 60.0) -> float:
    """From the end of a partition into halves, both of which went on writing, until all agree."""
    names = sorted(world.processes)
    world.rng.shuffle(names)
    world.partition(names[: len(names) // 2], names[len(names) // 2 :])
    world.run(cut_s / 2)
    for process in world.up():
        world.put(process, b"e:meanwhile", process.name.encode())
    world.run(cut_s / 2)
    world.heal()
    return together(world)


def idle_bytes_s(world: World, seconds: float = 30.0) -> float:
    """What one node sends in a second when nothing happens, streams too."""
    processes = world.up()
    before = sum(process.sent_bytes for process in processes)
    world.run(seconds)
    return (sum(process.sent_bytes for process in processes) - before) / seconds / len(processes)


LOSSES = {
    "10 % of datagrams and of turns on streams": Link(loss=0.1, stream_loss=0.1),
    "30 % of datagrams": Link(loss=0.3),
    "nothing, but one node stalls for 1 s every 15 s": Link(),
}


def false_deaths(seed: int, nodes: int, seconds: float, link: Link, *, stalls: bool) -> tuple[int, int]:
    """How often the living were declared dead, and suspected, in such a network."""
    verdicts = {Rank.SUSPECT: 0, Rank.DEAD: 0}

    def judged(process: Process, node_id: str, rank: int) -> None:
        verdicts[Rank(rank)] += 1

    world = grown(seed, nodes, judged=judged)
    verdicts[Rank.SUSPECT] = verdicts[Rank.DEAD] = 0
    world.link = link
    if stalls:
        stall(world)
    world.run(seconds)
    return verdicts[Rank.DEAD], verdicts[Rank.SUSPECT]


def stall(world: World, name: str = "n001", seconds: float = 1.0, every_s: float = 15.0) -> None:
    """The process does not run for a while, again and again."""

    def again() -> None:
        world.pause(name, seconds)
        world.at(every_s, again)

    again()


def restarted_s(world: World, down_s: float = 0.9) -> float:
    """From the start of a process, under the name of one that was killed, until all have its new endpoint."""
    name = world.rng.choice(world.up()).name
    world.crash(name, refuses=True)
    world.run(down_s)
    process = world.start(name, seeds=SEEDS)
    world.put(process, b"e:restarted", b"1")
    took_s = until_each(world, others(world, name), lambda one: knows(one, name, b"e:restarted") is not None, 10.0)
    old = b"e:%d" % int(name[1:])
    assert not any(knows(one, name, old) for one in others(world, name)), "an endpoint of the process before"
    return took_s


def many_s(world: World, endpoints: int = 5_000) -> float:
    """From the last of many endpoints, put on one node within a second, until all have all of them."""
    owner = world.up()[0]
    for number in range(endpoints):
        if number % 50 == 0:
            world.run(0.01)
        world.put(owner, b"e:many-%d" % number, b"1")
    last = owner.engine.table.own.applied
    return until_each(world, others(world, owner.name), lambda one: has(one, owner.name) >= last, 30.0)


def after_deletions_s(world: World, deletions: int = 1_000) -> float:
    """The same world: from an endpoint right after many have gone, until all have it."""
    owner = world.up()[0]
    world.run(3.0)
    for number in range(deletions):
        world.delete(owner, b"e:many-%d" % number)
    world.put(owner, b"e:after", b"1")
    return until_each(world, others(world, owner.name), lambda one: bool(knows(one, owner.name, b"e:after")), 30.0)


def has(process: Process, name: str) -> int:
    state = process.engine.table.state_of(name)
    return 0 if state is None else state.applied


def ghosts(seed: int, minutes: float = 30.0) -> int:
    """How often a crashed node was seen again by any of five others, once they had all seen it dead; and at the end."""
    world = grown(seed, 6)
    name = name_of(seed % 6)
    world.crash(name)
    until_each(world, world.up(), lambda one: not present(one, name), 30.0)
    seen = 0
    for _ in range(int(minutes * 60)):
        world.run(1.0)
        seen += any(present(one, name) for one in world.up())
    known = sum(name in one.engine.table.members() for one in world.up())
    return seen + known


def rounds(seed: int, nodes: int) -> float:
    """How many rounds a change takes that is told by rounds alone."""
    timers = replace(GossipTimers(), push_delay_s=NEVER_S)
    world = grown(seed, nodes, timers=timers)
    return visible_s(world) / timers.round_s


# The table.


def worst(values: list[float]) -> float:
    """All but the worst in a hundred are at most so much."""
    return sorted(values)[max(0, -(-99 * len(values) // 100) - 1)]


def median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


@dataclass
class Figures:
    """What was measured of one size, by the name of the measure."""

    nodes: int
    values: dict[str, list[float]]

    def add(self, measure: str, value: float) -> None:
        self.values.setdefault(measure, []).append(value)


def measure(nodes: int, runs: int, *, first_seed: int = 1) -> Figures:
    """So many numbers of each kind. Changes are several to a world, everything that destroys has its own."""
    figures = Figures(nodes, {})
    changes = min(10, runs)
    for index in range(runs):
        seed = first_seed + index
        if index % changes == 0:
            for what, link in (("visible", Link()), ("visible, loss", Link(loss=0.1))):
                world = grown(seed, nodes, link=link)
                for change in range(min(changes, runs - index)):
                    figures.add(what, visible_s(world, b"e:new", b"%d" % change))
                    world.run(1.0)
                if what == "visible":
                    figures.add("idle", idle_bytes_s(world))
        figures.add("rounds", rounds(seed, nodes))
        figures.add("black hole", black_hole_s(grown(seed, nodes)))
        figures.add("dead", dead_s(grown(seed, nodes)))
        figures.add("healed", healed_s(grown(seed, nodes)))
    return figures


def misses(figures: Figures) -> list[str]:
    """Which bars were not reached."""
    bar = BARS[figures.nodes]
    held = {
        "visible": bar.visible_s,
        "visible, loss": bar.visible_lossy_s,
        "dead": bar.dead_s,
        "black hole": bar.black_hole_s,
        "healed": bar.healed_s,
        "idle": bar.idle_bytes_s,
    }
    found = []
    for what, most in held.items():
        value = worst(figures.values[what])
        if value > most:
            found.append(f"{figures.nodes} nodes, {what}: {value:.4g}, at most {most}")
    return found


COLUMNS = (
    ("visible", "visible, no loss", 1000.0, "ms"),
    ("visible, loss", "visible, 10 % loss", 1000.0, "ms"),
    ("rounds", "rounds without pushes", 1.0, ""),
    ("black hole", "black hole: not chosen", 1.0, "s"),
    ("dead", "crash: dead everywhere", 1.0, "s"),
    ("healed", "60 s partition: agreed", 1.0, "s"),
    ("idle", "idle, sent by a node", 0.001, "kB/s"),
)


def row(figures: Figures) -> str:
    cells = [str(figures.nodes), str(len(figures.values["dead"]))]
    for what, _, scale, unit in COLUMNS:
        values = [value * scale for value in figures.values[what]]
        if what == "idle":
            cells.append(f"{max(values):.2f} {unit}")
        else:
            cells.append(f"{median(values):.3g} / {worst(values):.3g} {unit}".rstrip())
    return "| " + " | ".join(cells) + " |"


def heading() -> str:
    titles = ["nodes", "runs", *(title for _, title, _, _ in COLUMNS)]
    return "| " + " | ".join(titles) + " |\n" + "| ---: " * len(titles) + "|"


def claims(seeds: int, minutes: float) -> list[tuple[str, str, bool]]:
    """What the cluster promises besides: the claim, the worst of what was measured, and whether it holds."""
    runs = range(1, seeds + 1)
    rows = []

    def claim(what: str, value: float, most: float, unit: str) -> None:
        rows.append((what, f"{value:.4g} {unit} (at most {most:g})".replace("  ", " "), value <= most))
        print(f"| {what} | {rows[-1][1]} |", flush=True)

    for nodes in (3, 9):
        healed = max(healed_s(grown(seed, nodes), 600.0) for seed in runs)
        claim(f"a partition of {nodes} nodes for 10 min: one cluster again", healed, 10.0, "s")
        holes = max(black_hole_s(grown(seed, nodes)) for seed in runs)
        claim(f"one of {nodes} nodes is a black hole: nobody chooses it", holes, 3.0, "s")
    restarts = max(restarted_s(grown(seed, 5)) for seed in runs)
    claim("restart under the same name within 1 s: the new endpoint, none of the old", 1000 * restarts, 250.0, "ms")
    for nodes in (3, 50):
        world = grown(1, nodes)
        claim(f"5,000 endpoints on one of {nodes} nodes: all seen after the last", 1000 * many_s(world), 2000.0, "ms")
        late = after_deletions_s(world)
        claim(f"an endpoint after 1,000 deletions there, {nodes} nodes", 1000 * late, 250.0, "ms")
    back = sum(ghosts(seed) for seed in runs)
    claim(f"a crashed node, 5 others, 30 min, {seeds} seeds: seen again, or not forgotten", back, 0.0, "times")
    for what, link in LOSSES.items():
        for nodes in (10, 50):
            dead, suspected = false_deaths(1, nodes, 60.0 * minutes, link, stalls=True)
            text = f"{nodes} nodes, {minutes:g} min, lost: {what}; one stalls: the living declared dead"
            claim(f"{text} ({suspected} times suspected)", dead, 0.0, "times")
    return rows


def main(arguments: list[str]) -> int:
    options = dict(zip(arguments[::2], arguments[1::2], strict=True))
    if "--claims" in options:
        print("| what | worst |\n| --- | --- |")
        return int(not all(holds for _, _, holds in claims(int(options["--claims"]), float(options["--minutes"]))))
    sizes = [int(size) for size in options.get("--nodes", "3,10,50,100,500").split(",")]
    missed: list[str] = []
    print(heading(), flush=True)
    for nodes in sizes:
        began = time.monotonic()
        figures = measure(nodes, int(options.get("--runs", BARS[nodes].runs)))
        print(row(figures), flush=True)
        print(f"{nodes} nodes: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        missed += misses(figures)
    for miss in missed:
        print(f"missed: {miss}", file=sys.stderr)
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
