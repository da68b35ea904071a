"""Misfortunes of a simulated cluster, one method each, and the peace after them.

Responsible for: making trouble of the kinds that were chosen (a *swarm*: few kinds at once go deeper than all), and
saying what must be so within a stated number of rounds when it has ended. Refuses to know: who chooses. A state machine
does, so that a failure shrinks; or a seed does, for as long as is asked (``python -m tests.simulation``).

Everything is chosen by small numbers taken modulo what there is.
"""

from __future__ import annotations

from random import Random
from typing import Final

from pico.config import GossipLimits, GossipTimers
from pico.errors import LocalProtocolError
from pico.protocol.gossip import PacketCodec, Rank, Record, Records
from pico.protocol.gossip.wire import encode_message
from tests.simulation.checks import Checks, agree, differences
from tests.simulation.world import EPOCH_S, Link, Process, TooLate, World

FAMILIES: Final = (
    "loss",
    "delay",
    "repeat",
    "flip",
    "blocked",
    "cut",
    "crash",
    "clock",
    "address",
    "pause",
    "leave",
    "hundreds",
    "replay",
    "foreign",
    "verdict",
)
"""Kinds of trouble. Writing, waiting and raising the floor are always among them."""

LIMITS: Final = GossipLimits(
    packet_bytes_max=1_024, answer_packets_max=3, tombstones_max=6, dead_state_s=4.0, dead_record_s=12.0
)

KEYS: Final = tuple(b"e:%d" % number for number in range(4))
VALUES: Final = (None, None, b"1", b"2", b"", b"v" * 60, b"v" * 500)
"""A deletion, a number, and the largest entry that there may be."""

PEACE_ROUNDS: Final = 60
"""Of 200 ms, within which up to five nodes agree: an absent one is tried every second, a seed at least every five, and
a snapshot or a new life may need one exchange more for each."""

RETENTION_ROUNDS: Final = 250
"""... after which nobody knows anybody any more who is not there: a suspect has half a minute at most, the dead twelve
seconds in the table."""

QUIET_PACKETS_S: Final = 40.0


class Trouble:
    """A cluster, and what befalls it."""

    def __init__(self, seed: int, nodes: int, families: frozenset[str], *, timers: GossipTimers | None = None) -> None:
        self.families = families
        self.checks = Checks()
        self.world = World(seed, limits=LIMITS, timers=timers, checks=self.checks)
        self.world.keeps_past = bool(families & {"replay", "flip"})
        self.names = [f"n{number}" for number in range(nodes)]
        self.seeds = tuple(self.names[:2])
        self._addresses = 0
        for name in self.names:
            self._start(name, 0, 0)
        self.world.run(1.0)

    def _start(self, name: str, back: int, elsewhere: int) -> Process:
        world = self.world
        back_s = (0.0, 5.0, 3_600.0, 1e8)[back % 4] if "clock" in self.families else 0.0
        drift = (0.0, -0.02, 0.02)[back % 3] if "clock" in self.families else 0.0
        host = ""
        if elsewhere % 2 and "address" in self.families:
            self._addresses += 1
            host = f"10.1.{self._addresses // 250}.{self._addresses % 250 + 1}"
        wall_s = EPOCH_S + world.now - back_s
        return world.start(
            name, seeds=self.seeds, host=host, wall_s=wall_s, clock_offset_s=back_s / 10, clock_rate=1.0 + drift
        )

    def process(self, index: int) -> Process | None:
        """One of the living that has not left."""
        living = [process for process in self.world.up() if not process.left]
        return living[index % len(living)] if living else None

    # What is always among it.

    def wait(self, seconds: float) -> None:
        self.world.run(seconds)

    def burst(self, index: int, writes: list[tuple[int, int]]) -> None:
        process = self.process(index)
        if process is not None:
            for key, value in writes:
                self._write(process, KEYS[key % len(KEYS)], VALUES[value % len(VALUES)])
            self.world.pump(process)

    def _write(self, process: Process, key: bytes, value: bytes | None) -> None:
        if process.paused:
            return
        if value is None:
            self.world.delete(process, key, pump=False)
            return
        try:
            self.world.put(process, key, value, pump=False)
        except LocalProtocolError:
            process.written.pop(key, None)
            raise

    def raise_floor(self, index: int, share: int) -> None:
        process = self.process(index)
        if process is not None:
            own = process.engine.table.own
            own.compact(own.applied * (share % 5) // 4)
            self.world.pump(process)

    def collect(self, index: int, key: int) -> None:
        """What a key that comes back needs: all have it, it is deleted, the floor passes, it is written again."""
        process = self.process(index)
        if process is None:
            return
        link, self.world.link = self.world.link, Link()
        for value in (b"1", None):
            self.burst(index, [(key, VALUES.index(value))])
            self.world.run(0.5)
        self.raise_floor(index, 4)
        self.burst(index, [(key + 1, VALUES.index(b"2"))])
        self.world.run(0.5)
        self.world.link = link

    # What may be among it.

    def network(self, kind: int) -> None:
        """A worse network, as far as its kinds are chosen."""
        level = (0.0, 0.1, 0.3, 0.6)[kind % 4]
        had = self.families
        self.world.link = Link(
            loss=1.0 if "blocked" in had and kind % 5 == 4 else level if "loss" in had else 0.0,
            stream_loss=level / 2 if "loss" in had else 0.0,
            repeat=level if "repeat" in had else 0.0,
            flip=level / 4 if "flip" in had else 0.0,
            spread_s=(0.0004, 0.05, 0.3, 1.0)[kind // 4 % 4] if "delay" in had else 0.0004,
        )

    def cut(self, one: int, other: int, *, one_way: bool) -> None:
        names = self.names
        if names[one % len(names)] != names[other % len(names)]:
            self.world.cut(names[one % len(names)], names[other % len(names)], one_way=one_way)

    def isolate(self, index: int) -> None:
        self.world.isolate(self.names[index % len(self.names)])

    def heal(self) -> None:
        self.world.heal()

    def crash(self, index: int, *, refuses: bool) -> None:
        process = self.process(index)
        if process is not None:
            self.world.crash(process.name, refuses=refuses)

    def restart(self, index: int, back: int, elsewhere: int) -> None:
        """Whether it was up or not; under the same name always."""
        self._start(self.names[index % len(self.names)], back, elsewhere)

    def pause(self, index: int, seconds: float) -> None:
        process = self.process(index)
        if process is not None:
            self.world.pause(process.name, seconds)

    def leave(self, index: int) -> None:
        process = self.process(index)
        if process is not None and not process.paused and len(self.world.up()) > 1:
            self.world.leave(process.name)

    def hundreds(self, index: int, count: int, *, come: bool) -> None:
        process = self.process(index)
        if process is not None:
            for number in range(count):
                self._write(process, b"h:%d" % number, b"1" if come else None)
            self.world.pump(process)

    def replay(self, index: int, count: int) -> None:
        """Datagrams of any time, to whom they were for and to others."""
        past, living = self.world.past, self.world.up()
        for step in range(count if past and living else 0):
            source, address, data = past[(index + 7 * step) % len(past)]
            self.world.send(source, address if step % 2 else living[step % len(living)].address, data)

    def flip(self, index: int, bit: int) -> None:
        past = self.world.past
        if past:
            source, address, data = past[index % len(past)]
            at = bit % (8 * len(data))
            data = data[: at // 8] + bytes((data[at // 8] ^ 1 << at % 8,)) + data[at // 8 + 1 :]
            self.world.send(source, address, data, spoiled=True)

    def foreign(self, one: int, other: int) -> None:
        """A node of another cluster under a name of ours says that all of ours are dead."""
        to, liar = self.process(one), self.process(other)
        if to is None or liar is None:
            return
        codec = PacketCodec("other", liar.name, LIMITS)
        life = liar.engine.table.own.life + (1 << 22)
        records = Records(tuple((name, Record(life, False, 9, Rank.DEAD)) for name in self.names))
        self.world.send(liar, to.address, codec.encode(life, [encode_message(records)]), spoiled=True)

    def verdict(self, one: int, other: int, rank: Rank) -> None:
        """A detector that is wrong."""
        judge, judged = self.process(one), self.names[other % len(self.names)]
        if judge is None or judge.paused or judge.name == judged:
            return
        table = judge.engine.table
        record = table.record_of(judged)
        if record is not None:
            type(table).judge(table, judged, record, rank, now=self.world.clock(judge))
            self.world.do(judge, lambda engine, now: engine._settle())

    # Peace.

    def peace(self) -> None:
        """The trouble ends, who is down is started again, and what must follow follows."""
        world = self.world
        world.link = Link()
        world.links.clear()
        for number, name in enumerate(self.names):
            process = world.processes[name]
            if not process.up and not (process.left and number % 2):
                self._start(name, 0, 0)
        world.resolve(self.seeds)
        self._rest_of_pauses()
        round_s = world.timers.round_s
        try:
            world.run_until(lambda: agree(world), PEACE_ROUNDS * round_s, round_s)
        except TooLate:
            raise AssertionError(f"L1-L6: after {PEACE_ROUNDS} rounds {list(differences(world))[:4]}") from None
        self._check_quiet()
        world.run(RETENTION_ROUNDS * round_s)
        living = {process.name for process in world.up()}
        for process in world.up():
            known = process.engine.table.members().keys() | {process.name}
            assert known == living, f"L7: {process.name} knows {known}, living are {living}"
        assert agree(world), f"L4: {list(differences(world))[:4]}"

    def _rest_of_pauses(self) -> None:
        for _ in range(100):
            if not any(process.paused or process.left for process in self.world.up()):
                return
            self.world.run(0.5)

    def _check_quiet(self) -> None:
        """Nothing echoes: in a cluster that agrees a node sends what its intervals ask for."""
        world = self.world
        world.run(1.0)
        before = {process.number: process.sent_packets for process in world.up()}
        world.run(2.0)
        for process in world.up():
            rate_s = (process.sent_packets - before[process.number]) / 2.0
            assert rate_s < QUIET_PACKETS_S, f"S13: {process.name} sends {rate_s} packets a second, and nothing happens"


def befall(trouble: Trouble, rng: Random) -> None:
    """One misfortune by chance: writing and waiting most often."""
    number = rng.getrandbits(16)
    other = rng.getrandbits(8)
    had = trouble.families
    what = rng.choice(("burst", "burst", "wait", "wait", "floor", "network", "heal", "restart", *sorted(had)))
    if what == "burst":
        trouble.burst(number, [(rng.getrandbits(8), rng.getrandbits(8)) for _ in range(rng.randint(1, 5))])
    elif what == "wait":
        trouble.wait(rng.choice((0.01, 0.1, 0.5, 2.0, 5.0)))
    elif what == "floor":
        trouble.collect(number, other) if other % 2 else trouble.raise_floor(number, other)
    elif what == "heal":
        trouble.heal()
    elif what == "restart" and had & {"crash", "clock", "address"}:
        trouble.restart(number, other, other >> 2)
    elif what == "cut":
        if other % 4:
            trouble.cut(number, other, one_way=bool(number % 3))
        else:
            trouble.isolate(number)
    elif what == "crash":
        trouble.crash(number, refuses=bool(other % 2))
    elif what == "pause":
        trouble.pause(number, rng.choice((0.3, 1.0, 1.5, 8.0)))
    elif what == "leave" and other % 4 == 0:
        trouble.leave(number)
    elif what == "hundreds":
        trouble.hundreds(number, 100 + other, come=bool(other % 2))
    elif what == "replay":
        trouble.replay(number, 1 + other % 30)
    elif what == "flip":
        trouble.flip(number, other)
    elif what == "foreign":
        trouble.foreign(number, other)
    elif what == "verdict":
        trouble.verdict(number, other, Rank.DEAD if other % 2 else Rank.SUSPECT)
    else:
        trouble.network(number)
