"""A cluster of gossip engines in virtual time, on a network that can be worse than life.

Responsible for: a heap of what happens when, moving datagrams and exchanges between the production engines, and the
trouble that they get into on the way. Refuses to know: what an engine does, and what must hold (``checks``).

One seed gives one run: nothing reads a clock or a chance of its own, and ``trace`` is a hash of all that arrived. Every
packet is really encoded and decoded, and a process is driven as the node drives it: pings are answered before anything
else is looked at, what arrived while it did not run comes before its timers.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from random import Random
from typing import TYPE_CHECKING

from pico.config import GossipLimits, GossipTimers
from pico.errors import RemoteProtocolError
from pico.protocol.gossip import PacketCodec, first_life
from pico.protocol.gossip.engine import GossipEngine
from pico.protocol.gossip.events import Contested, Datagram, ExchangeWanted
from pico.protocol.gossip.exchange import Exchange
from pico.protocol.gossip.values import CARD, Address

if TYPE_CHECKING:
    from tests.simulation.checks import Checks

EPOCH_S = 1_750_000_000.0
PORT = 8003
QUEUE_MAX = 500
"""Of a process that does not run: what a socket buffer holds."""
PAST_MAX = 256
SPINS_MAX = 100


def address_text(address: Address) -> bytes:
    return f"{address[0]}:{address[1]}".encode()


def locate(card: bytes) -> Address | None:
    host, _, port = card.decode("latin-1").rpartition(":")
    return (host, int(port)) if host and port.isdigit() else None


class TooLate(AssertionError):
    """What was waited for did not happen in time."""


@dataclass
class Link:
    """What may happen on the way from one node to another."""

    loss: float = 0.0  # of datagrams
    stream_loss: float = 0.0  # of whole turns of an exchange, which then fails
    repeat: float = 0.0
    flip: float = 0.0  # one bit of a datagram
    delay_s: float = 0.0003  # the least
    spread_s: float = 0.0004  # on top, by chance: more than a round reorders everything
    cut: bool = False
    unsendable: bool = False  # the socket itself refuses


@dataclass
class Process:
    """One process of a node; a restart is another one."""

    number: int
    name: str
    cluster: str
    address: Address
    engine: GossipEngine
    started_at: float
    up: bool = True
    refuses: bool = False  # its host lives and refuses connections
    paused: bool = False
    paused_at: float = 0.0
    resumed_at: float = -1e9  # by its own clock
    left: bool = False
    contested: bool = False
    clock_offset_s: float = 0.0
    clock_rate: float = 1.0
    wake_at: float | None = None
    woken: tuple[float, int] = (0.0, 0)  # how often at this moment
    queue: list[Callable[[], None]] = field(default_factory=list)
    written: dict[bytes, bytes] = field(default_factory=dict)
    """What it has to say, as the harness told it to."""
    sent_bytes: int = 0
    sent_packets: int = 0
    exchanges: int = 0


class World:
    """Time, the processes and what is on its way."""

    def __init__(
        self,
        seed: int,
        *,
        limits: GossipLimits | None = None,
        timers: GossipTimers | None = None,
        link: Link | None = None,
        checks: Checks | None = None,
    ) -> None:
        self.rng = Random(seed)
        self.now = 0.0
        self.limits = limits or GossipLimits()
        self.timers = timers or GossipTimers()
        self.link = link or Link()
        self.links: dict[tuple[str, str], Link] = {}
        self.processes: dict[str, Process] = {}
        """The newest of each name."""
        self.living: list[Process] = []
        self.by_address: dict[Address, Process] = {}
        self.counts: Counter[str] = Counter()
        self.past: list[tuple[Process, Address, bytes]] = []
        """Some of all the datagrams that there ever were, to be sent again."""
        self.keeps_past = False
        self.checks = checks
        self.judged: list[Callable[[Process, str, int], None]] = []
        self._trace = blake2b(digest_size=16)
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = 0
        self._numbers: dict[str, int] = {}
        self._started = 0
        if checks is not None:
            checks.world = self

    @property
    def trace(self) -> str:
        """A hash of all that arrived, with its time."""
        return self._trace.hexdigest()

    # Time.

    def at(self, delay_s: float, event: Callable[[], None]) -> None:
        self._sequence += 1
        heapq.heappush(self._heap, (self.now + delay_s, self._sequence, event))

    def run(self, seconds: float) -> None:
        until = self.now + seconds
        while self._heap and self._heap[0][0] <= until:
            self.now, _, event = heapq.heappop(self._heap)
            event()
        self.now = until

    def run_until(self, condition: Callable[[], object], within_s: float, step_s: float = 0.005) -> float:
        """How long it took; fails when it took longer than ``within_s``."""
        began = self.now
        while not condition():
            if self.now - began >= within_s:
                raise TooLate(f"not within {within_s} s")
            self.run(step_s)
        return self.now - began

    # Processes.

    def start(
        self,
        name: str,
        *,
        seeds: tuple[str, ...] = (),
        host: str = "",
        cluster: str = "prod",
        wall_s: float | None = None,
        clock_offset_s: float = 0.0,
        clock_rate: float = 1.0,
        twin: bool = False,
        limits: GossipLimits | None = None,
    ) -> Process:
        """A new process of that name; what ran under it is killed, unless this is to be its twin."""
        if name in self.processes and not twin:
            self.crash(name)
        address = (host, PORT) if host else self.address_of(name)
        rng = Random(self.rng.getrandbits(64))
        limits = limits or self.limits
        codec = PacketCodec(cluster, name, limits)
        life = first_life(EPOCH_S + self.now if wall_s is None else wall_s, rng)
        now = clock_offset_s + self.now * clock_rate
        engine = GossipEngine(codec, life, limits, self.timers, rng, locate=locate, now=now)
        self._started += 1
        process = Process(self._started, name, cluster, address, engine, self.now)
        process.clock_offset_s, process.clock_rate = clock_offset_s, clock_rate
        self.processes[name] = self.by_address[address] = process
        self.living.append(process)
        if self.judged or self.checks is not None:
            self._watch_verdicts(process)
        if self.checks is not None:
            self.checks.started(process)
        self.put(process, CARD, address_text(address), pump=False)
        engine.set_seeds([self.address_of(seed) for seed in seeds], now=self.clock(process))
        self.pump(process)
        return process

    def _watch_verdicts(self, process: Process) -> None:
        judge = process.engine.table.judge

        def watched(node_id, judged, rank, *, now):  # type: ignore[no-untyped-def]
            if self.checks is not None:
                self.checks.judged(process, node_id, rank)
            for hear in self.judged:
                hear(process, node_id, rank)
            return judge(node_id, judged, rank, now=now)

        process.engine.table.judge = watched  # type: ignore[method-assign]

    def resolve(self, seeds: tuple[str, ...]) -> None:
        """The names of the seeds are looked up again."""
        addresses = [
            self.processes[seed].address if seed in self.processes else self.address_of(seed) for seed in seeds
        ]
        for process in self.up():
            process.engine.set_seeds(addresses, now=self.clock(process))
            self.pump(process)

    def address_of(self, name: str) -> Address:
        number = self._numbers.setdefault(name, len(self._numbers) + 1)
        return (f"10.0.{number // 250}.{number % 250 + 1}", PORT)

    def clock(self, process: Process) -> float:
        """The process's own clock."""
        return process.clock_offset_s + self.now * process.clock_rate

    def crash(self, name: str, *, refuses: bool = False) -> None:
        """``refuses``: only the process is gone, so that connections to its host fail at once."""
        process = self.processes[name]
        process.up, process.refuses = False, refuses
        self.living = [one for one in self.living if one is not process]

    def pause(self, name: str, seconds: float) -> None:
        process = self.processes[name]
        if not process.paused:
            process.paused, process.paused_at = True, self.now
            self.at(seconds, lambda: self._resume(process))

    def _resume(self, process: Process) -> None:
        if not process.up:
            return
        process.paused = False
        if self.now - process.paused_at > self.timers.pause_s + 0.05:
            process.resumed_at = self.clock(process)
        queue, process.queue = process.queue, []
        for event in queue:
            self._run_in(process, event)
        self._wake(process)

    def up(self) -> list[Process]:
        return list(self.living)

    def do(self, process: Process, action: Callable[[GossipEngine, float], None]) -> None:
        """Something that the process does of its own accord."""
        if process.up:
            action(process.engine, self.clock(process))
            self.pump(process)

    def put(self, process: Process, key: bytes, value: bytes, *, pump: bool = True) -> None:
        process.engine.put(key, value, now=self.clock(process))
        process.written[key] = value
        self._wrote(process, pump)

    def delete(self, process: Process, key: bytes, *, pump: bool = True) -> None:
        process.engine.delete(key, now=self.clock(process))
        process.written.pop(key, None)
        self._wrote(process, pump)

    def leave(self, name: str) -> None:
        """It leaves, lingers and ends."""
        process = self.processes[name]
        process.left = True
        self.do(process, lambda engine, now: engine.leave(now=now))

        def end() -> None:
            if process.up and process.engine.left:
                self.crash(name) if self.processes[name] is process else None
            elif process.up:
                self.at(0.5, end)

        self.at(self.timers.linger_s, end)

    def _wrote(self, process: Process, pump: bool) -> None:
        if self.checks is not None:
            self.checks.wrote(process)
        if pump:
            self.pump(process)

    def _run_in(self, process: Process, event: Callable[[], None]) -> None:
        """Something reaches a process: at once, later when it is paused, never when it is down."""
        if not process.up:
            return
        if process.paused:
            if len(process.queue) < QUEUE_MAX:
                process.queue.append(event)
            return
        event()
        self.pump(process)

    def pump(self, process: Process) -> None:
        """What a driver does after each call."""
        engine = process.engine
        datagrams, events = engine.outgoing(), engine.events()
        for datagram in datagrams:
            self._send_one(process, datagram)
        for event in events:
            if isinstance(event, ExchangeWanted):
                self._exchange(process, event)
            elif isinstance(event, Contested):
                process.contested = True
                self.living = [one for one in self.living if one is not process]
                process.up = False
        if self.checks is not None:
            self.checks.after_event(process, datagrams, events)
        due = engine.next_timer()
        if process.wake_at is None or due < process.wake_at:
            process.wake_at = due
            delay_s = max(0.0, (due - self.clock(process)) / process.clock_rate)
            self.at(delay_s, lambda: self._wake(process, due))

    def _wake(self, process: Process, due: float | None = None) -> None:
        if due is not None and process.wake_at != due:
            return  # another wake-up was set in its place
        if process.up and not process.paused:
            process.wake_at = None
            at, times = process.woken
            process.woken = (self.now, times + 1 if at == self.now else 1)
            assert process.woken[1] < SPINS_MAX, "a timer that is due again and again"
            process.engine.handle_timer(now=max(self.clock(process), due or 0.0))
            self.pump(process)

    # The network.

    def link_of(self, source: str, to: str) -> Link:
        return self.links.get((source, to), self.link)

    def cut(self, one: str, other: str, *, one_way: bool = False) -> None:
        """No packet from one to the other, nor back."""
        self.links[one, other] = replace(self.link_of(one, other), cut=True)
        if not one_way:
            self.cut(other, one, one_way=True)

    def isolate(self, name: str) -> None:
        """Nothing to or from it: a black hole."""
        self.partition([name], [other for other in self.processes if other != name])

    def heal(self) -> None:
        for key, link in list(self.links.items()):
            self.links[key] = replace(link, cut=False)

    def partition(self, *groups: list[str]) -> None:
        for group in groups:
            for other in groups:
                if group is not other:
                    for one in group:
                        for two in other:
                            self.cut(one, two, one_way=True)

    def _delay(self, link: Link) -> float:
        return link.delay_s + link.spread_s * self.rng.random()

    def _send_one(self, source: Process, datagram: Datagram) -> None:
        source.sent_bytes += len(datagram.data)
        source.sent_packets += 1
        if self.keeps_past:
            self._keep(source, datagram.address, datagram.data)
        to = self.by_address.get(datagram.address)
        if to is not None and self.link_of(source.name, to.name).unsendable:
            self.at(0.0, lambda: self._run_in(source, lambda: self._cannot_send(source, datagram.node_id)))
        else:
            self.send(source, datagram.address, datagram.data)

    def _cannot_send(self, source: Process, node_id: str) -> None:
        source.engine.unsent(node_id, now=self.clock(source))

    def _keep(self, source: Process, address: Address, data: bytes) -> None:
        self.counts["kept"] += 1
        if len(self.past) < PAST_MAX:
            self.past.append((source, address, data))
        else:
            at = self.rng.randrange(self.counts["kept"])
            if at < PAST_MAX:
                self.past[at] = source, address, data

    def send(self, source: Process, address: Address, data: bytes, *, spoiled: bool = False) -> None:
        """On its way, if there is one; ``spoiled``: nobody may make anything of it."""
        self.counts["datagrams"] += 1
        to = self.by_address.get(address)
        if to is None:
            return
        link = self.link_of(source.name, to.name)
        if link.cut:
            return
        for _ in range(1 + (link.repeat > 0 and self.rng.random() < link.repeat)):
            if link.loss and self.rng.random() < link.loss:
                continue
            if link.flip and self.rng.random() < link.flip:
                spoiled, bit = True, self.rng.randrange(8 * len(data))
                data = data[: bit // 8] + bytes((data[bit // 8] ^ 1 << bit % 8,)) + data[bit // 8 + 1 :]
            self._arrive_later(source, address, data, self._delay(link), spoiled)

    def _arrive_later(self, source: Process, address: Address, data: bytes, delay_s: float, spoiled: bool) -> None:
        self.at(delay_s, lambda: self._arrive(source, self.by_address[address], data, spoiled))

    def _arrive(self, source: Process, to: Process, data: bytes, spoiled: bool) -> None:
        self._trace.update(b"%.6f %s %s " % (self.now, source.name.encode(), to.name.encode()))
        self._trace.update(data)
        self._run_in(to, lambda: self._receive(source, to, data, spoiled))

    def _receive(self, source: Process, to: Process, data: bytes, spoiled: bool) -> None:
        """As the receive loop of a node does it."""
        engine, before = to.engine, None
        if spoiled and self.checks is not None:
            before = self.checks.fingerprint(to)
        packet = engine.decode(data)
        if packet is not None:
            answer = engine.quick_answer(packet)
            if answer is not None:
                self._send_one(to, Datagram(source.address, answer, packet.sender))
            engine.receive_packet(packet, source.address, now=self.clock(to), acked=answer is not None)
            if self.checks is not None:
                self.checks.received(to, packet)
        if before is not None and self.checks is not None:
            self.checks.spoiled(to, before)

    # Exchanges: turns on an ordered stream.

    def _exchange(self, opener: Process, wanted: ExchangeWanted) -> None:
        self.counts["exchanges"] += 1
        opener.exchanges += 1
        answerer = self.by_address.get(wanted.address)
        conversation = _Conversation(self, opener, wanted)
        if answerer is opener or (answerer is not None and answerer.up and answerer.name == opener.name):
            self.at(self.link.delay_s, lambda: conversation.end(opener.name))
            return
        self.at(self.timers.exchange_timeout_s, lambda: conversation.end(None))
        if answerer is not None:
            conversation.begin(answerer)

    def stream_passes(self, one: Process, other: Process) -> bool:
        there, back = self.link_of(one.name, other.name), self.link_of(other.name, one.name)
        if there.cut or back.cut:
            return False
        return not there.stream_loss or self.rng.random() >= there.stream_loss


class _Conversation:
    """An exchange as its opener sees it: a turn that is lost ends it, and the opener learns that after the deadline."""

    def __init__(self, world: World, opener: Process, wanted: ExchangeWanted) -> None:
        self.world = world
        self.opener = opener
        self.wanted = wanted
        self.over = False
        self.sides: dict[str, Exchange] = {}

    def begin(self, answerer: Process) -> None:
        if not answerer.up and answerer.refuses:
            self.world.at(self.world.link.delay_s, lambda: self.end(None))
            return
        self.sides = {"opener": Exchange(self.opener.engine), "answerer": Exchange(answerer.engine)}
        self._say(self.opener, answerer, "answerer", self.sides["opener"].open())

    def _say(self, source: Process, to: Process, side: str, bodies: list[bytes]) -> None:
        source.sent_bytes += sum(map(len, bodies))
        world = self.world
        if not self.over and source.up and world.stream_passes(source, to):
            delay_s = world.link_of(source.name, to.name).delay_s * 2
            world.at(delay_s, lambda: world._run_in(to, lambda: self._hear(source, to, side, bodies)))

    def _hear(self, source: Process, to: Process, side: str, bodies: list[bytes]) -> None:
        if self.over:
            return
        exchange, checks = self.sides[side], self.world.checks
        before = checks.fingerprint(to) if checks is not None and source.cluster != to.cluster else None
        try:
            for body in bodies:
                exchange.receive_body(body, now=self.world.clock(to))
            answer = exchange.end_turn()
        except RemoteProtocolError:
            self.world.counts["broken exchanges"] += 1
            if checks is not None and before is not None:
                checks.spoiled(to, before)
            return  # the opener learns of it by the deadline
        if checks is not None:
            checks.heard(to, bodies)
        if bodies:
            self._say(to, source, "opener" if side == "answerer" else "answerer", answer)
        if side == "opener" and exchange.over:
            self.end(source.name)

    def end(self, node_id: str | None) -> None:
        """The opener learns who was there."""
        if self.over:
            return
        self.over = True
        opener, world = self.opener, self.world
        world._run_in(opener, lambda: opener.engine.exchange_ended(self.wanted, node_id, now=world.clock(opener)))
