"""A cluster of gossip engines in virtual time, on a network that can be worse than life.

Responsible for: a heap of what happens when, moving datagrams and exchanges between the production engines, and the
trouble that they get into on the way. Refuses to know: what an engine does, and what must hold (``checks``).

One seed gives one run: nothing reads a clock or a chance of its own. Every packet is really encoded and decoded.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random

from pico.config import GossipLimits, GossipTimers
from pico.protocol.gossip import PacketCodec, first_life
from pico.protocol.gossip.engine import CARD, ExchangeWanted, GossipEngine
from pico.protocol.gossip.exchange import Exchange
from pico.protocol.gossip.values import Address

EPOCH_S = 1_750_000_000.0
PORT = 8003


def address_text(address: Address) -> bytes:
    return f"{address[0]}:{address[1]}".encode()


def locate(card: bytes) -> Address | None:
    host, _, port = card.decode("latin-1").rpartition(":")
    return (host, int(port)) if host and port.isdigit() else None


@dataclass
class Link:
    """What may happen on the way from one node to another."""

    loss: float = 0.0  # of datagrams
    stream_loss: float = 0.0  # of whole turns of an exchange, which then fails
    repeat: float = 0.0
    delay_s: float = 0.0003  # the least
    spread_s: float = 0.0004  # on top, by chance
    cut: bool = False


@dataclass
class Process:
    """One process of a node; a restart is another one."""

    world: World
    name: str
    address: Address
    engine: GossipEngine
    up: bool = True
    paused: bool = False
    clock_offset_s: float = 0.0
    clock_rate: float = 1.0
    wake_at: float | None = None
    queue: list[Callable[[], None]] = field(default_factory=list)
    sent_bytes: int = 0
    sent_packets: int = 0

    def now(self) -> float:
        """Its own clock."""
        return self.clock_offset_s + self.world.now * self.clock_rate


class World:
    """Time, the processes and what is on its way."""

    def __init__(
        self,
        seed: int,
        *,
        limits: GossipLimits | None = None,
        timers: GossipTimers | None = None,
        link: Link | None = None,
    ) -> None:
        self.rng = Random(seed)
        self.now = 0.0
        self.limits = limits or GossipLimits()
        self.timers = timers or GossipTimers()
        self.link = link or Link()
        self.links: dict[tuple[str, str], Link] = {}
        self.processes: dict[str, Process] = {}
        self.by_address: dict[Address, Process] = {}
        self.counts: Counter[str] = Counter()
        self.after_event: Callable[[Process], None] = lambda process: None
        self.log: list[str] = []
        self.logging = False
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = 0
        self._numbers: dict[str, int] = {}

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

    def run_until(self, condition: Callable[[], bool], within_s: float, step_s: float = 0.005) -> float:
        """How long it took; fails when it took longer than ``within_s``."""
        began = self.now
        while not condition():
            assert self.now - began < within_s, f"not within {within_s} s"
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
    ) -> Process:
        """A new process of that name; what ran under it before must be down."""
        number = self._numbers.setdefault(name, len(self._numbers) + 1)
        address = (host or f"10.0.{number // 250}.{number % 250 + 1}", PORT)
        rng = Random(self.rng.getrandbits(64))
        codec = PacketCodec(cluster, name, self.limits)
        life = first_life(EPOCH_S + self.now if wall_s is None else wall_s, rng)
        engine = GossipEngine(codec, life, self.limits, self.timers, rng, locate=locate, now=self.now)
        process = Process(self, name, address, engine)
        self.processes[name] = self.by_address[address] = process
        engine.put(CARD, address_text(address), now=process.now())
        engine.set_seeds([self.address_of(seed) for seed in seeds], now=process.now())
        self.pump(process)
        return process

    def address_of(self, name: str) -> Address:
        number = self._numbers.setdefault(name, len(self._numbers) + 1)
        return (f"10.0.{number // 250}.{number % 250 + 1}", PORT)

    def crash(self, name: str) -> None:
        self.processes[name].up = False

    def pause(self, name: str, seconds: float) -> None:
        process = self.processes[name]
        process.paused = True
        self.at(seconds, lambda: self._resume(process))

    def _resume(self, process: Process) -> None:
        process.paused = False
        queue, process.queue = process.queue, []
        for event in queue:
            self._run_in(process, event)
        self._wake(process)

    def up(self) -> list[Process]:
        return [process for process in self.processes.values() if process.up]

    def do(self, process: Process, action: Callable[[GossipEngine, float], None]) -> None:
        """Something that the process does of its own accord."""
        action(process.engine, process.now())
        self.pump(process)

    def _run_in(self, process: Process, event: Callable[[], None]) -> None:
        """Something reaches a process: at once, later when it is paused, never when it is down."""
        if not process.up or self.processes.get(process.name) is not process:
            return
        if process.paused:
            if len(process.queue) < 500:
                process.queue.append(event)
            return
        event()
        self.pump(process)

    def pump(self, process: Process) -> None:
        """What a driver does after each call."""
        engine = process.engine
        for datagram in engine.outgoing():
            process.sent_bytes += len(datagram.data)
            process.sent_packets += 1
            self._send(process, datagram.address, datagram.data)
        for event in engine.events():
            if isinstance(event, ExchangeWanted):
                self._exchange(process, event)
        self.after_event(process)
        due = engine.next_timer()
        if process.wake_at is None or due < process.wake_at:
            process.wake_at = due
            delay_s = max(0.0, (due - process.now()) / process.clock_rate)
            self.at(delay_s, lambda: self._wake(process, due))

    def _wake(self, process: Process, due: float | None = None) -> None:
        if due is not None and process.wake_at != due:
            return  # another wake-up was set in its place
        if process.up and not process.paused and self.processes.get(process.name) is process:
            process.wake_at = None
            process.engine.handle_timer(now=max(process.now(), due or 0.0))
            self.pump(process)

    # The network.

    def link_of(self, source: str, to: str) -> Link:
        return self.links.get((source, to), self.link)

    def cut(self, one: str, other: str, *, one_way: bool = False) -> None:
        """No packet from one to the other, nor back."""
        self.links[one, other] = replace(self.link_of(one, other), cut=True)
        if not one_way:
            self.cut(other, one, one_way=True)

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

    def _send(self, source: Process, address: Address, data: bytes) -> None:
        self.counts["datagrams"] += 1
        to = self.by_address.get(address)
        if to is None:
            return
        link = self.link_of(source.name, to.name)
        if link.cut:
            return
        for _ in range(1 + (self.rng.random() < link.repeat)):
            if self.rng.random() >= link.loss:
                self.at(self._delay(link), lambda: self._arrive(source, to.address, data))

    def _arrive(self, source: Process, address: Address, data: bytes) -> None:
        to = self.by_address[address]
        if self.logging:
            self.log.append(f"{self.now:.6f} {source.name}>{to.name} {data.hex()}")

        def receive() -> None:
            to.engine.receive_datagram(data, source.address, now=to.now())

        self._run_in(to, receive)

    # Exchanges: turns on an ordered stream.

    def _exchange(self, opener: Process, wanted: ExchangeWanted) -> None:
        self.counts["exchanges"] += 1
        answerer = self.by_address.get(wanted.address)
        conversation = _Conversation(self, opener, wanted)
        self.at(self.timers.exchange_timeout_s, conversation.time_out)
        if answerer is not None:
            conversation.begin(answerer)

    def stream_passes(self, one: Process, other: Process) -> bool:
        there, back = self.link_of(one.name, other.name), self.link_of(other.name, one.name)
        return not there.cut and not back.cut and self.rng.random() >= there.stream_loss


class _Conversation:
    """An exchange as its opener sees it: a turn that is lost ends it, and the opener learns that after the deadline."""

    def __init__(self, world: World, opener: Process, wanted: ExchangeWanted) -> None:
        self.world = world
        self.opener = opener
        self.wanted = wanted
        self.told = False
        self.sides: dict[str, Exchange] = {}

    def begin(self, answerer: Process) -> None:
        if answerer.engine.node_id == self.opener.engine.node_id:
            return  # ourselves
        self.sides = {"opener": Exchange(self.opener.engine), "answerer": Exchange(answerer.engine)}
        self._say(self.opener, answerer, "answerer", self.sides["opener"].open())

    def time_out(self) -> None:
        self._end(None)

    def _say(self, source: Process, to: Process, side: str, bodies: list[bytes]) -> None:
        source.sent_bytes += sum(map(len, bodies))
        world = self.world
        if not self.told and source.up and world.stream_passes(source, to):
            delay_s = world.link_of(source.name, to.name).delay_s * 2
            world.at(delay_s, lambda: world._run_in(to, lambda: self._hear(source, to, side, bodies)))

    def _hear(self, source: Process, to: Process, side: str, bodies: list[bytes]) -> None:
        if self.told:
            return
        exchange = self.sides[side]
        for body in bodies:
            exchange.receive_body(body)
        answer = exchange.end_turn(now=to.now())
        if bodies:
            self._say(to, source, "opener" if side == "answerer" else "answerer", answer)
        if side == "opener" and exchange.over:
            self._end(source.name)

    def _end(self, node_id: str | None) -> None:
        if self.told:
            return
        self.told = True
        opener = self.opener
        if opener.up and self.world.processes.get(opener.name) is opener:
            self.world._run_in(opener, lambda: opener.engine.exchange_ended(self.wanted, node_id, now=opener.now()))
