"""Whole nodes in virtual time: the production ``Node`` with all its actors, on machines and a network that are made up.

Responsible for: time, the machines, what travels between them and the trouble on the way, and the services and visitors
at both ends. Refuses to know: how a node works, and what must hold (``test_actors``).

The greenlets are real and so is the hub, which runs what is to run in the order in which it was asked to; that order is
all it decides. Time passes only when nothing is left to run, and then to the next timer, of which there is one heap. No
socket, no clock and no chance of the machine underneath is touched: one seed gives one run, and ``World.digest`` is the
hash of every byte that arrived anywhere and when.

Pausing is as SIGSTOP: what is for the process waits at its door. A crash is as SIGKILL: the kernel resets what the
process had open; with ``dark`` the machine goes with it and says nothing. What a killed process still does while its
actors are put away reaches nobody.
"""

from __future__ import annotations

import errno
import heapq
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import blake2b
from math import inf
from random import Random
from typing import Any

import gevent
from gevent.hub import get_hub

from pico.actors.messages import LinkChanged, StopAccepting
from pico.actors.runtime import GeventActor, tell
from pico.config import NodeConfig
from pico.errors import ConnectFailed, ConnectionLost, LocalProtocolError, TransportTimeout
from pico.node.node import Node
from pico.node.system import System
from pico.protocol.http.values import ResponseHead
from pico.protocol.rpc import DataReceived, StreamingEngine, StreamReset
from pico.transport.clock import Callback
from pico.transport.datagrams import DatagramCounts, DatagramReceiver
from pico.transport.memory import CAPACITY_BYTES, MemoryStream
from pico.transport.multiplexer import Multiplexer
from pico.transport.parking import Parking
from pico.transport.websocket import WebSocketCodec, pooled_masks

Address = tuple[str, int]

EPOCH_S = 1_750_000_000.0
PROXY, ADMIN, UPSTREAM, GOSSIP = 8000, 8001, 8002, 8003
HELD_DATAGRAMS_MAX = 500  # at the door of a process that is paused
RETRANSMISSION_S = 0.2
SYN_REPEAT_S = 1.0
KEY = b"dGhlIHNhbXBsZSBub25jZQ=="


# Time.


class Timer:
    """See ``pico.transport.clock.Timer``; its ticket says which entry of the heap is meant."""

    __slots__ = ("_callback", "_clock", "ticket")

    def __init__(self, clock: ProcessClock, callback: Callback) -> None:
        self._clock = clock
        self._callback = callback
        self.ticket = -1

    def start(self, delay_s: float) -> None:
        self.ticket = self._clock.world.push(max(0.0, delay_s) / self._clock.rate, self)

    def stop(self) -> None:
        self.ticket = -1

    def fire(self, ticket: int) -> None:
        clock = self._clock
        if self.ticket != ticket:
            return
        if clock.paused:
            clock.held.append(partial(self.fire, ticket))
            return
        self.ticket = -1
        if not clock.dead:
            self._callback()


class ProcessClock:
    """The clock of one process: it has an offset and a rate of its own, and is stopped with it."""

    def __init__(self, world: World, *, offset_s: float = 0.0, rate: float = 1.0) -> None:
        self.world = world
        self.offset_s = offset_s
        self.rate = rate
        self.paused = False
        self.dead = False
        self.held: deque[Callback] = deque()
        self._run_callback = get_hub().loop.run_callback

    def now(self) -> float:
        return self.offset_s + self.world.now * self.rate

    def call_soon(self, callback: Callback) -> None:
        self._run_callback(self.run, callback)

    def timer(self, callback: Callback) -> Timer:
        return Timer(self, callback)

    def run(self, callback: Callback) -> None:
        """In the hub."""
        if self.dead:
            return
        if self.paused:
            self.held.append(callback)
            return
        try:
            callback()
        except BaseException as error:
            self.world.fail(error)

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        """What was held comes now, in order and before anything new."""
        self.paused = False
        held, self.held = self.held, deque()
        for callback in held:
            self.call_soon(callback)


class World:
    """Everything there is."""

    def __init__(self, seed: int, config: NodeConfig | None = None) -> None:
        self.rng = Random(seed)
        self.now = 0.0
        # Services of this world choose their nodes by themselves, so that it comes to rest where they are.
        self.config = config or NodeConfig(access_log="off", rebalance="off")
        self.ether = ProcessClock(self)
        self.network = Network(self)
        self.members: dict[str, Member] = {}
        self.services: list[Service] = []
        self.calls: list[Call] = []
        self.deliveries: dict[str, list[str]] = {}
        """By token: the services that were given the request."""
        self.counts: Counter[str] = Counter()
        self._heap: list[tuple[float, int, Timer]] = []
        self._tickets = 0
        self._hash = blake2b()
        self.log: list[str] | None = None
        """Set to a list to see what the hash is of."""
        self.visitor_s = 30.0
        """How long a visitor waits for a response."""
        self.patience_s = 2.0
        """How long trouble may be felt after it is over."""
        self.lossy_patience_s = 8.0
        """... while packets are lost: a lost SYN costs a second, and so may those of the next attempts."""
        self._until = 0.0
        self._driver = Parking()
        self._ghosts: list[gevent.Greenlet] = []
        self._error: BaseException | None = None

    # Time.

    def push(self, delay_s: float, timer: Timer) -> int:
        self._tickets += 1
        heapq.heappush(self._heap, (self.now + delay_s, self._tickets, timer))
        return self._tickets

    def at(self, delay_s: float, event: Callback) -> None:
        """Whatever happens to any process."""
        Timer(self.ether, event).start(delay_s)

    def run(self, seconds: float = 0.0) -> None:
        """Let so much time pass; whatever is due until then has happened, and nothing is left to run."""
        self._until = self.now + seconds
        self._loop = get_hub().loop
        self._loop.run_callback(self._turn)
        self._driver.park()
        error, self._error = self._error, None
        if error is not None:
            raise error

    def run_until(self, condition: Callable[[], object], within_s: float, step_s: float = 0.05) -> float:
        """How long it took; fails when it took longer than ``within_s``."""
        began = self.now
        while not condition():
            assert self.now - began < within_s, (f"not within {within_s} s", self.wrong())
            self.run(step_s)
        return self.now - began

    def do(self, action: Callable[[], Any]) -> Any:
        """Something that blocks its greenlet but takes no time."""
        greenlet = gevent.spawn(action)
        self.run()
        assert greenlet.dead, "it takes time"
        return greenlet.get()

    def fail(self, error: BaseException) -> None:
        """A callback has raised: ``run`` raises it."""
        self._error = self._error or error

    def _turn(self) -> None:
        """In the hub: behind everything that is to run, and then once more, until nothing is."""
        heap, pending = self._heap, self._loop._callbacks
        while self._error is None:
            if pending:
                self._loop.run_callback(self._turn)
                return
            if not heap or heap[0][0] > self._until:
                self.now = self._until
                break
            due, ticket, timer = heapq.heappop(heap)
            if timer.ticket == ticket:
                self.now = due
                self.counts["events"] += 1
                self._fire(timer, ticket)
        self._driver.unpark()

    def _fire(self, timer: Timer, ticket: int) -> None:
        try:
            timer.fire(ticket)
        except BaseException as error:
            self.fail(error)

    def running_timers(self) -> int:
        """Timers that will fire."""
        return sum(1 for _, ticket, timer in self._heap if timer.ticket == ticket and not timer._clock.dead)

    # What happened.

    def record(self, what: str, data: bytes = b"") -> None:
        line = f"{self.now!r} {what} "
        self._hash.update(line.encode() + data)
        if self.log is not None:
            self.log.append(line + data.hex())

    def digest(self) -> str:
        return self._hash.hexdigest()[:32]

    # Nodes.

    def start(self, name: str, *, join: tuple[str, ...] = (), config: NodeConfig | None = None) -> Member:
        """A new process under that name; what ran there before must be gone."""
        before = self.members.get(name)
        assert before is None or before.process.gone, f"{name} runs"
        number = len(self.members) if before is None else before.number
        host = f"10.0.{number // 200}.{number % 200 + 1}"
        seeds = tuple((self.members[seed].process.host, GOSSIP) for seed in join)
        process = Process(self, name, host, Random(self.rng.getrandbits(64)))
        member = self.members[name] = Member(self, number, process, replace(config or self.config, join=seeds))
        self.network.machines[host] = process
        self.record(f"start {name}")
        self.do(member.node.start)
        return member

    def crash(self, name: str, *, dark: bool = False) -> None:
        """Kill the process; with ``dark`` its machine loses its power as well."""
        self.record(f"crash {name} {dark}")
        member = self.members[name]
        self.network.unplug(member.process, dark=dark)
        member.process.clock.resume()
        self._ghosts.append(gevent.spawn(member.node.stop))
        self.run()

    def stop(self) -> None:
        """End all services and nodes, and let everything come to its end."""
        for service in self.services:
            service.stop()
        self.run(1.0)
        for member in self.up():
            self._ghosts.append(gevent.spawn(member.node.stop))
        self.run(60.0)
        for ghost in self._ghosts:
            assert ghost.dead, "a node did not stop"
            ghost.get()

    def pause(self, name: str, seconds: float) -> None:
        """As SIGSTOP, and SIGCONT after a while."""
        member = self.members[name]
        clock = member.process.clock
        self.record(f"pause {name} {seconds}")

        def resume() -> None:
            if clock.paused:
                clock.resume()
                member.troubled_at = self.now

        member.troubled_at = self.now
        clock.pause()
        self.at(seconds, resume)

    def crash_cluster(self, name: str) -> None:
        """A bug in the cluster's actor: it gets what it cannot handle."""
        self.record(f"crash the cluster of {name}")
        member = self.members[name]
        member.troubled_at = self.now
        tell(member.cluster.actor_ref, LinkChanged([], True))  # type: ignore[arg-type]
        self.run()

    def up(self) -> list[Member]:
        return [member for member in self.members.values() if not member.process.gone]

    def whole(self) -> bool:
        """Whether every node has a link to every other, and knows where everything is that is anywhere."""
        return not self.wrong()

    def wrong(self) -> list[str]:
        """What is not as it should be, of the first node that has something to be said of."""
        names = {member.name for member in self.up()}
        truth: dict[str, Counter[str]] = {}
        for service in self.services:
            places = truth.setdefault(service.endpoint, Counter())
            if service.node is not None and not service.node.process.gone:
                places[service.node.name] += 1
        for member in self.up():
            wrong = [f"{member.name}: no link to {name}" for name in sorted(names - {member.name} - member.knows())]
            for endpoint, places in truth.items():
                if (seen := member.places(endpoint)) != places:
                    wrong.append(f"{member.name}: {endpoint} at {dict(sorted(seen.items()))}, not {dict(places)}")
            if wrong:
                return wrong
        return []

    def left_over(self) -> dict[str, int]:
        """What is there although no request is: nothing."""
        counts: Counter[str] = Counter()
        for member in self.up():
            node = member.node
            counts["in flight"] += node.metrics.requests_in_flight
            counts["connections of visitors"] += len(node.services.connections)
            counts["deadlines"] += len(node.services.deadlines)
            counts["relays"] += node.gossip_door.forwarding.relays
            counts["requests that wait"] += node.routes.waiting + len(node.routes._lists)
            counts["streams on tunnels"] += sum(node.metrics.streams())
            for peer in member.cluster._upstreams.values():
                counts["streams on links"] += peer.in_flight
                counts["requests that wait for links"] += len(peer._waiters)
            links = node.gossip_door.forwarding.links
            counts["links too many"] += max(0, links - len(self.up()) + 1)
        return {what: count for what, count in counts.items() if count}

    def might_have_served(self, call: Call, patience_s: float) -> Service | None:
        """Who was in undisturbed reach of the call's entry node from ``patience_s`` before the call to its end."""
        since, entry = call.began - patience_s, call.entry
        if self.network.link.loss or self.network.lossy_until > since:
            since -= self.lossy_patience_s
        for service in self.services:
            node = service.node
            if service.endpoint != call.endpoint or node is None or service.since > since:
                continue
            ways = [(entry.process.host, node.process.host), (node.process.host, entry.process.host)]
            fine = all(
                member.troubled_at <= since and not member.process.gone and not member.process.clock.paused
                for member in (entry, node)
            )
            if fine and all(
                self.network.disturbed.get(way, -1.0) <= since and not self.network.link_of(*way).cut for way in ways
            ):
                return service
        return None

    # Services and visitors.

    def serve(self, endpoint: str, at: tuple[str, ...] = ()) -> Service:
        """A service that registers ``endpoint`` at one of those nodes, or at any, again and again."""
        service = Service(self, len(self.services), endpoint, at)
        self.services.append(service)
        service.connect()
        return service

    def call(
        self, endpoint: str, entry: str, *, method: bytes = b"GET", body: bytes = b"", leave_s: float = 0.0
    ) -> Call:
        """A request that enters at that node; with ``leave_s`` it is not answered, and its visitor leaves then."""
        call = Call(self, len(self.calls), endpoint, self.members[entry], method, body, leave_s)
        self.calls.append(call)
        call.begin()
        return call


# The network.


@dataclass(frozen=True)
class Link:
    """The way from one machine to another."""

    delay_s: float = 0.0003  # the least
    spread_s: float = 0.0004  # on top, by chance
    loss: float = 0.0  # of datagrams, and of segments, which are sent again
    repeat: float = 0.0  # of datagrams
    cut: bool = False


@dataclass(eq=False)
class Process:
    """One process on its machine, as the system underneath sees it."""

    world: World
    name: str
    host: str
    rng: Random
    gone: bool = False
    dark: bool = False
    clock: ProcessClock = field(init=False)
    streams: dict[SimulatedStream, None] = field(default_factory=dict)
    listeners: dict[int, Callable[[SimulatedStream], None]] = field(default_factory=dict)
    datagrams: dict[int, SimulatedDatagrams] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.clock = ProcessClock(self.world)


class Network:
    """Ways from machine to machine; ``links`` names those that are not as ``link``."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.rng = Random(world.rng.getrandbits(64))
        self.lossy_until = -inf
        self._link = Link()
        self.links: dict[tuple[str, str], Link] = {}
        self.machines: dict[str, Process] = {}
        self.disturbed: dict[tuple[str, str], float] = {}
        """When a way was last cut or healed."""
        self._stalled: dict[tuple[str, str], list[Way]] = {}

    @property
    def link(self) -> Link:
        """What each way is like that ``links`` does not name."""
        return self._link

    @link.setter
    def link(self, link: Link) -> None:
        if self._link.loss:
            self.lossy_until = self.world.now
        self._link = link

    def link_of(self, source: str, target: str) -> Link:
        return self.links.get((source, target), self.link)

    def delay(self, link: Link) -> float:
        return link.delay_s + link.spread_s * self.rng.random()

    # Trouble; nodes are named.

    def set(self, one: str, other: str, link: Link) -> None:
        source, target = (self.world.members[name].process.host for name in (one, other))
        before = self.link_of(source, target)
        self.links[source, target] = link
        if before.cut != link.cut:
            self.disturbed[source, target] = self.world.now
            if not link.cut:
                for way in self._stalled.pop((source, target), []):
                    self.world.at(self.rng.random(), way.flow)

    def cut(self, one: str, other: str, *, one_way: bool = False) -> None:
        members = self.world.members
        for a, b in [(one, other)] if one_way else [(one, other), (other, one)]:
            link = self.link_of(members[a].process.host, members[b].process.host)
            self.set(a, b, replace(link, cut=True))
        self.world.record(f"cut {one} {other} {one_way}")

    def isolate(self, name: str) -> None:
        """No packet to or from any other node: a black hole."""
        for other in self.world.members:
            if other != name:
                self.cut(name, other)

    def partition(self, group: list[str]) -> None:
        """Between these nodes and all others."""
        for one in group:
            for other in self.world.members:
                if other not in group:
                    self.cut(one, other)

    def heal(self, but: str = "") -> None:
        """Every way is whole again, except those of one node."""
        names = {member.process.host: name for name, member in self.world.members.items()}
        self.world.record("heal")
        for (source, target), link in list(self.links.items()):
            if link.cut and but not in (names[source], names[target]):
                self.set(names[source], names[target], replace(link, cut=False))

    def unplug(self, process: Process, *, dark: bool) -> None:
        """Whatever the process does from now on reaches nobody."""
        for stream in process.streams:
            if not dark:
                stream.way.carry(stream.peer_was_reset)
        process.gone, process.dark = True, dark
        process.listeners.clear()
        for datagrams in list(process.datagrams.values()):
            datagrams.close()
        for stream in list(process.streams):
            stream._break_soon(ConnectionLost("the connection was lost: the process was killed"))

    # Datagrams.

    def carry(self, source: SimulatedDatagrams, target: Address, data: bytes) -> None:
        link, rng = self.link_of(source.address[0], target[0]), self.rng
        if link.cut or rng.random() < link.loss:
            return
        for _ in range(2 if rng.random() < link.repeat else 1):
            self.world.at(self.delay(link), partial(self._arrive, source.address, target, data))

    def _arrive(self, source: Address, target: Address, data: bytes) -> None:
        process = self.machines.get(target[0])
        bound = process.datagrams.get(target[1]) if process is not None else None
        if bound is None or self.link_of(source[0], target[0]).cut:
            return
        clock = bound.process.clock
        if clock.paused and len(clock.held) >= HELD_DATAGRAMS_MAX:
            return
        self.world.counts["datagrams"] += 1
        self.world.record(f"datagram {source[0]} {target[0]}", data)
        clock.run(partial(bound.deliver, data, source))

    # Connections.

    def dial(self, process: Process, address: Address, timeout_s: float) -> SimulatedStream:
        """Blocks the calling greenlet."""
        parking, outcome = Parking(), []

        def answered(stream: SimulatedStream | None) -> None:
            if outcome == ["late"]:
                if stream is not None:
                    stream.abort()
                return
            outcome.append(stream)
            process.clock.call_soon(parking.unpark)

        def late() -> None:
            if not outcome:
                outcome.append("late")
                parking.unpark()

        if process.gone:
            raise ConnectFailed("the network is down")
        timer = process.clock.timer(late)
        timer.start(timeout_s)
        self.connect(process, address, answered)
        if not outcome:
            parking.park()
        timer.stop()
        if outcome == ["late"]:
            raise TransportTimeout(f"cannot connect to {address}: timed out")
        if outcome[0] is None:
            raise ConnectFailed(f"cannot connect to {address}: connection refused")
        return outcome[0]

    def connect(self, process: Process, address: Address, answered: Callable[[SimulatedStream | None], None]) -> None:
        """``answered`` gets the stream, or None when it was refused; nothing when nobody is there."""
        source, target = process.host, address[0]

        def synchronize(attempt: int) -> None:
            link = self.link_of(source, target)
            if process.gone or attempt > 5:
                return
            if link.cut or self.rng.random() < link.loss:
                self.world.at(SYN_REPEAT_S * 2**attempt, lambda: synchronize(attempt + 1))
            else:
                self.world.at(self.delay(link), arrive)

        def arrive() -> None:
            machine, back = self.machines.get(target), self.link_of(target, source)
            if machine is None or machine.dark or back.cut or process.gone:
                return
            accept = machine.listeners.get(address[1])
            if accept is None:
                self.world.at(self.delay(back), lambda: answered(None))
                return
            near, far = self._pair(process, machine, address[1])
            machine.clock.run(lambda: accept(far))
            self.world.at(self.delay(back), lambda: answered(near))

        synchronize(0)

    def _pair(self, process: Process, machine: Process, port: int) -> tuple[SimulatedStream, SimulatedStream]:
        near, far = SimulatedStream(process, machine.host, port), SimulatedStream(machine, process.host, 0)
        near._peer, far._peer = far, near
        self.world.counts["connections"] += 1
        return near, far

    def stall(self, way: Way) -> None:
        self._stalled.setdefault((way.source.host, way.target_host), []).append(way)


class Way:
    """One direction of a connection: in order, late where something was lost, for ever while the way is cut."""

    def __init__(self, network: Network, source: Process, target_host: str) -> None:
        self.network = network
        self.source = source
        self.target_host = target_host
        self._items: deque[Callback] = deque()
        self._last_due = 0.0
        self._there = 0  # items whose time has come
        self._stalled = False

    def carry(self, item: Callback) -> None:
        if self.source.gone:
            return
        network, world = self.network, self.network.world
        link = network.link_of(self.source.host, self.target_host)
        due = world.now + network.delay(link)
        while link.loss and network.rng.random() < link.loss:
            due += RETRANSMISSION_S
        self._last_due = due = max(self._last_due, due)
        self._items.append(item)
        world.at(due - world.now, self._arrive)

    def _arrive(self) -> None:
        self._there += 1
        if not self._stalled:
            self.flow()

    def flow(self) -> None:
        self._stalled = self.network.link_of(self.source.host, self.target_host).cut
        if self._stalled:
            self.network.stall(self)
            return
        there, self._there = self._there, 0
        for _ in range(there):
            self._items.popleft()()


class SimulatedStream(MemoryStream):
    """One end of a connection between two machines; what it says takes time to get to the other end."""

    def __init__(self, process: Process, peer_host: str, peer_port: int) -> None:
        super().__init__(process.clock, CAPACITY_BYTES, peer_port)
        self.peer_host = peer_host
        self.process = process
        self.way = Way(process.world.network, process, peer_host)
        self._flying_bytes = 0
        self._label = f"bytes {process.host} {peer_host} {peer_port}"
        process.streams[self] = None

    @property
    def untaken_bytes(self) -> int:
        return super().untaken_bytes + self._flying_bytes

    def write(self, data: bytes) -> None:
        if self.closed or self._error is not None:
            return
        if self._shut:
            raise LocalProtocolError("write after half_close")
        if data:
            self._unsent.append(bytes(data))
            self.unsent_bytes += len(data)
            self._push()

    def close(self) -> None:
        super().close()
        self._forget_if_done()

    def abort(self) -> None:
        self._receiver = None
        self.closed = True
        self._forget()
        self.way.carry(self.peer_was_reset)
        self.process.streams.pop(self, None)

    def peer_was_reset(self) -> None:
        """The reset has arrived at the other end."""
        self._peer._break_soon(ConnectionLost("the connection was lost: connection reset by peer"))

    def _push(self) -> None:
        peer = self._peer
        while self._unsent and (room := self._capacity_bytes - self._flying_bytes - peer._inbox_bytes) > 0:
            piece = self._unsent.popleft()
            if len(piece) > room:
                self._unsent.appendleft(piece[room:])
                piece = piece[:room]
            self._flying_bytes += len(piece)
            self.unsent_bytes -= len(piece)
            self.way.carry(partial(self._arrive, piece))
        if self._fin_wanted and not self._unsent:
            self._fin_wanted = False
            self.way.carry(self._arrive_end)

    def _arrive(self, piece: bytes) -> None:
        """At the other end."""
        self._flying_bytes -= len(piece)
        peer = self._peer
        if peer.process.dark:
            return
        if peer.closed or peer.process.gone:  # nobody takes it any more
            peer.way.carry(peer.peer_was_reset)
            return
        world = self.process.world
        world.record(self._label, piece)
        peer._inbox.append(piece)
        peer._inbox_bytes += len(piece)
        if not peer._scheduled:
            peer._scheduled = True
            peer._clock.run(peer._deliver)

    def _arrive_end(self) -> None:
        self._peer._peer_ended = True
        self._peer._schedule()
        self._peer._forget_if_done()
        self._forget_if_done()

    def _deliver(self) -> None:
        self._scheduled = False
        receiver = self._receiver
        if receiver is None:
            return
        if not self._inbox or self._paused or self._error is not None:
            super()._deliver()
            return
        data = self._take()
        if self._peer._unsent:  # it waits to hear of the room
            self.way.carry(self._peer._room_was_made)
        if self._inbox or self._peer_ended:
            self._schedule()
        self._tell(receiver.received, data)

    def _break_soon(self, error: ConnectionLost) -> None:
        super()._break_soon(error)
        self.process.streams.pop(self, None)

    def _forget_if_done(self) -> None:
        if self.closed and not self._unsent and not self._fin_wanted:
            self.process.streams.pop(self, None)


class SimulatedDatagrams:
    """See ``pico.transport.datagrams.Datagrams``."""

    def __init__(self, process: Process, port: int, received: DatagramReceiver) -> None:
        if port in process.datagrams:
            raise OSError(errno.EADDRINUSE, "Address already in use")
        self.process = process
        self.address: Address = (process.host, port)
        self.counts = DatagramCounts()
        self._received = received
        process.datagrams[port] = self

    def send(self, data: bytes, address: Address) -> bool:
        if self.process.gone:
            self.counts.send_failures += 1
            return False
        self.counts.sent += 1
        self.process.world.network.carry(self, address, data)
        return True

    def deliver(self, data: bytes, source: Address) -> None:
        self.counts.received += 1
        self._received(data, source)

    def close(self) -> None:
        if self.process.datagrams.get(self.address[1]) is self:
            del self.process.datagrams[self.address[1]]


# Nodes.


class SimulatedSystem(System):
    """What a node asks of its machine."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.time_of_day = lambda: EPOCH_S + process.world.now
        self.random_bytes = process.rng.randbytes

    def dial(self, address: Address, timeout_s: float) -> SimulatedStream:
        return self._process.world.network.dial(self._process, address, timeout_s)

    def bind_datagrams(self, host: str, port: int, received: DatagramReceiver) -> SimulatedDatagrams:
        return SimulatedDatagrams(self._process, port, received)

    def resolve(self, host: str, port: int) -> list[Address]:
        return [(host, port)]

    def own_address_towards(self, address: Address) -> str:
        return self._process.host

    def has_address(self, host: str) -> bool:
        return host == self._process.host


class MemoryListener(GeventActor):
    """In the place of ``Listener``: a port of a machine that is made up."""

    def __init__(self, process: Process, port: int, serve: Callable[[SimulatedStream], None]) -> None:
        super().__init__()
        self.address: Address = (process.host, port)
        self._process = process
        self._serve = serve

    def on_start(self) -> None:
        self._process.listeners[self.address[1]] = self._accept

    def on_receive(self, message: Any) -> None:
        if isinstance(message, StopAccepting):
            self._process.listeners.pop(self.address[1], None)

    def on_exit(self, reason: BaseException | None) -> None:
        """The connections go on, as those do that a stream has taken over from a real one."""
        self._process.listeners.pop(self.address[1], None)

    def _accept(self, stream: SimulatedStream) -> None:
        gevent.spawn_raw(self._run, stream)

    def _run(self, stream: SimulatedStream) -> None:
        try:
            self._serve(stream)
        except BaseException as error:
            self._process.world.fail(error)


class Idle(GeventActor):
    """In the place of the admin door."""

    address = ("127.0.0.1", ADMIN)


class SimulatedNode(Node):
    """A node whose ports are those of a machine that is made up; everything else is as it is."""

    def __init__(self, process: Process, config: NodeConfig) -> None:
        self._process = process
        super().__init__(
            config,
            node_id=process.name,
            write_access_log=lambda text: None,
            clock=process.clock,
            system=SimulatedSystem(process),
        )

    def _listener(self, name, serve, spares, connections_max, *, port=None):
        listener = MemoryListener(self._process, getattr(self.config, f"{name}_port"), serve)
        self._listening[f"{name}-door"] = listener
        return listener

    def _build_admin_door(self):
        return Idle()


class Member:
    """A node of the world."""

    def __init__(self, world: World, number: int, process: Process, config: NodeConfig) -> None:
        self.number = number
        self.name = process.name
        self.process = process
        self.world = world
        self.troubled_at = world.now
        """When it was started, paused, woken, or lost a part of itself."""
        self.node = SimulatedNode(process, config)

    @property
    def cluster(self):
        """Its cluster's actor as it runs now."""
        return self.node.gossip_door.actor

    def knows(self) -> set[str]:
        """The other nodes that it would send a request to, if they had what is wanted."""
        return {name for name, peer in self.cluster._upstreams.items() if peer.may_open}

    def places(self, endpoint: str) -> dict[str, int]:
        """Where it takes the endpoint to be, and how often."""
        places = dict(self.cluster.view.places.get(endpoint, ()))
        balancer = self.node.routes._balancers.get(endpoint)
        return places | ({self.name: len(balancer.candidates)} if balancer is not None else {})


# Both ends.


class Service:
    """A service behind a real tunnel: answers with the token that came, and where; comes back when its node goes."""

    def __init__(self, world: World, number: int, endpoint: str, at: tuple[str, ...]) -> None:
        host = f"10.1.{number // 200}.{number % 200 + 1}"
        self.world = world
        self.name = f"service-{number}"
        self.endpoint = endpoint
        self.process = Process(world, self.name, host, Random(world.rng.getrandbits(64)))
        world.network.machines[host] = self.process
        self.node: Member | None = None
        """The node it is registered at."""
        self.since = 0.0
        self.stopped = False
        self.think_s = 0.005
        self._at = at
        self._masks = pooled_masks(self.process.rng.randbytes)
        self._mux: Multiplexer | None = None
        self._stream: SimulatedStream | None = None
        self._target: Member | None = None
        self._head = b""
        self._attempt = 0

    def connect(self) -> None:
        if self.stopped:
            return
        world, rng = self.world, self.process.rng
        names = [name for name in self._at or tuple(world.members) if not world.members[name].process.gone]
        self._attempt += 1
        attempt, self._head = self._attempt, b""
        self.process.clock.timer(lambda: self._late(attempt)).start(3.0)
        if names:
            self._target = target = world.members[rng.choice(names)]
            world.network.connect(
                self.process, (target.process.host, UPSTREAM), lambda stream: self._connected(attempt, stream)
            )

    def stop(self) -> None:
        """As when its process is killed."""
        self.stopped = True
        if self._stream is not None:
            self._stream.abort()
            if self._mux is not None:
                self._mux.abort("the service stopped")
        self._again()

    def _late(self, attempt: int) -> None:
        if attempt == self._attempt and self._mux is None:
            self._again()

    def _connected(self, attempt: int, stream: SimulatedStream | None) -> None:
        if attempt != self._attempt:
            if stream is not None:
                stream.abort()
        elif stream is None:
            self._again()
        else:
            self._stream = stream
            stream.set_receiver(self)
            stream.write(
                b"GET /pico/v1/listener/"
                + self.endpoint.encode()
                + b" HTTP/1.1\r\nHost: node\r\nUpgrade: websocket\r\n"
                b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + KEY + b"\r\n"
                b"Sec-WebSocket-Protocol: pico.stream.v1\r\n\r\n"
            )

    def _again(self) -> None:
        """The tunnel is no more: another one, soon."""
        self._attempt += 1
        self.node = self._mux = None
        if self._stream is not None:
            self._stream.abort()
            self._stream = None
        if not self.stopped:
            self.process.clock.timer(self.connect).start(0.1 + 0.2 * self.process.rng.random())

    # Receiver, until the handshake is over.

    def received(self, data: bytes) -> None:
        self._head += data
        head, found, rest = self._head.partition(b"\r\n\r\n")
        if not found:
            return
        if not head.startswith(b"HTTP/1.1 101"):
            self._again()
            return
        config, clock = self.world.config, self.process.clock
        codec = WebSocketCodec("client", config.websocket_limits, self._masks)
        engine = StreamingEngine(config.rpc_limits, now=clock.now())
        assert self._stream is not None
        self._mux = Multiplexer(self._stream, codec, engine, clock, self)
        self.node, self.since = self._target, self.world.now
        self._mux.start(rest)

    def ended(self) -> None:
        self._again()

    def lost(self, error: ConnectionLost) -> None:
        self._again()

    def drained(self) -> None:
        pass

    # Owner of the tunnel.

    def stream_opened(self, event) -> None:
        token = event.head.target.rpartition(b"/")[2].decode()
        self.world.record(f"delivered {token} {self.name}")
        self.world.deliveries.setdefault(token, []).append(self.name)
        _Answer(self, self._mux, event, token)

    def goaway_received(self, reason: str) -> None:
        mux = self._mux
        if mux is not None:
            self.process.clock.timer(mux.close).start(1.0)

    def connection_ended(self, reason: str) -> None:
        self._again()


class _Answer:
    """One request at a service."""

    def __init__(self, service: Service, mux: Multiplexer, event, token: str) -> None:
        self._service, self._mux, self._stream = service, mux, event.stream
        self._token, self._body, self._lost = token, event.data, False
        event.stream.context = self._said
        self._never = event.head.target.startswith(b"/never/")
        if event.end:
            self._think()

    def _said(self, event) -> None:
        if isinstance(event, DataReceived):
            self._body += event.data
            self._mux.consumed(self._stream, len(event.data))
            if event.end:
                self._think()
        elif isinstance(event, StreamReset):
            self._lost = True

    def _think(self) -> None:
        service = self._service
        service.process.clock.timer(self._respond).start(service.think_s * (0.5 + service.process.rng.random()))

    def _respond(self) -> None:
        if self._never or self._lost or self._service._mux is not self._mux:
            return
        service = self._service
        body = f"{self._token} {service.endpoint} {service.name} {len(self._body)}".encode()
        self._mux.send_head(self._stream, ResponseHead(200, b"OK", b"", len(body), b""), body, True)


class Call:
    """One request as its visitor sees it."""

    def __init__(
        self, world: World, number: int, endpoint: str, entry: Member, method: bytes, body: bytes, leave_s: float
    ) -> None:
        self.world = world
        self.token = f"t{number}"
        self.endpoint = endpoint
        self.entry = entry
        self.method = method
        self.body = body
        self.leave_s = leave_s
        self.began = world.now
        self.ended_at: float | None = None
        self.status = 0
        """0: no response, because the entry node refused or lost the connection."""
        self.answer = ""
        self.reachable: Service | None = None
        """When it failed: who could have answered it."""
        self.process = world.network.machines.setdefault(
            "10.2.0.1", Process(world, "visitors", "10.2.0.1", Random(world.rng.getrandbits(64)))
        )
        self._data = b""
        self._stream: SimulatedStream | None = None

    @property
    def done(self) -> bool:
        return self.ended_at is not None

    def begin(self) -> None:
        self.world.network.connect(self.process, (self.entry.process.host, PROXY), self._connected)
        self._timer = self.process.clock.timer(self._end)
        self._timer.start(self.leave_s or self.world.visitor_s)

    def _connected(self, stream: SimulatedStream | None) -> None:
        if stream is None or self.done:
            if stream is not None:
                stream.abort()
            self._end()
            return
        self._stream = stream
        stream.set_receiver(self)
        length = b"Content-Length: %d\r\n" % len(self.body) if self.body else b""
        stream.write(
            self.method
            + (b" /never/" if self.leave_s else b" /calls/")
            + self.token.encode()
            + b" HTTP/1.1\r\nHost: "
            + self.endpoint.encode()
            + b".example.com\r\nConnection: close\r\n"
            + length
            + b"\r\n"
            + self.body
        )

    def received(self, data: bytes) -> None:
        self._data += data

    def ended(self) -> None:
        self._end()

    def lost(self, error: ConnectionLost) -> None:
        self._end()

    def drained(self) -> None:
        pass

    def _end(self) -> None:
        if self.done:
            return
        self.ended_at = self.world.now
        self._timer.stop()
        if self._stream is not None:
            (self._stream.abort if self.leave_s else self._stream.close)()
        head, whole, body = self._data.partition(b"\r\n\r\n")
        if whole:
            self.status = int(head.split(b" ", 2)[1])
            self.answer = body.decode()
        world = self.world
        world.record(f"answered {self.token} {self.status} {self.answer}")
        if self.status != 200 and not self.leave_s:
            self.reachable = world.might_have_served(self, world.patience_s)
