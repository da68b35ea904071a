"""Cluster actors of several nodes on a clock that is moved by hand: datagrams and connections in memory.

Responsible for: what a node's composition does for its ``Cluster``, without a socket and without a handshake. Refuses
to know: what a test wants of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from random import Random

import gevent

from pico.actors.cluster import Cluster, ClusterParts
from pico.actors.gossip_exchanges import GossipExchanges
from pico.actors.messages import SeedsResolved
from pico.actors.routes import Routes
from pico.actors.runtime import tell
from pico.config import ChannelLimits, GossipLimits, GossipTimers, PeerLimits
from pico.errors import ConnectFailed
from pico.observability.metrics import NodeMetrics
from pico.protocol.channel import Channel, ClearFrames, Purpose
from pico.protocol.cluster import Card, gossip_address_of
from pico.protocol.gossip import PacketCodec, first_life
from pico.protocol.gossip.engine import GossipEngine
from pico.protocol.gossip.values import Address
from pico.protocol.rpc import StreamingEngine
from pico.transport.channel import ChannelCodec
from pico.transport.clock import ManualClock
from pico.transport.datagrams import LinkQuality, MemoryNetwork
from pico.transport.memory import MemoryStream, memory_pair
from pico.transport.multiplexer import Multiplexer
from tests.actors.census import let_others_run

PORT = 8003
STEP_S = 0.01
LINK_BYTES_MAX = 256 * 1024


def channel(purpose: Purpose, node_id: str, life: int = 1, bytes_max: int = LINK_BYTES_MAX) -> Channel:
    """One end of a channel whose handshake is over."""
    return Channel(purpose, node_id, life, 1, ClearFrames(bytes_max), b"")


class Accepted:
    """The side of a link that was dialled: it notes what happens."""

    def __init__(self, stream: MemoryStream, clock: ManualClock, limits: PeerLimits) -> None:
        engine = StreamingEngine(limits.rpc_limits, now=clock.now())
        codec = ChannelCodec(ClearFrames(LINK_BYTES_MAX), ChannelLimits())
        self.stream = stream
        self.ended = ""
        self.multiplexer = Multiplexer(stream, codec, engine, clock, self)
        self.multiplexer.start()

    def stream_opened(self, event) -> None:
        pass

    def goaway_received(self, reason: str) -> None:
        pass

    def connection_ended(self, reason: str) -> None:
        self.ended = reason


class Machine:
    """One node."""

    def __init__(self, mesh: Mesh, name: str, host: str, limits: PeerLimits) -> None:
        self.mesh = mesh
        self.node_id, self.host = name, host
        self.limits = limits
        self.rng = Random(name)
        self.metrics = NodeMetrics(node_id=name, version="1", failure_codes=[], actors=["cluster", "gossip-peer"])
        self.routes = Routes(mesh.clock, 2.0, 100)
        self.exchanges = GossipExchanges(
            self._dial_exchange, lambda: self.ref, mesh.clock, mesh.timers, limits, self.metrics, name
        )
        self.accepted: list[Accepted] = []
        self.contested = 0
        self.dials: list[tuple[Address, str]] = []
        self.actors: list[Cluster] = []
        self.ref = None
        self.seeds: tuple[Address, ...] = ()
        self._life = 0

    @property
    def actor(self) -> Cluster:
        """As it runs now."""
        return self.actors[-1]

    def build(self) -> Cluster:
        """A new actor, not started; what a supervisor asks for."""
        parts = ClusterParts(
            build_engine=self._build_engine,
            open_datagrams=lambda received: self.mesh.network.bind(self.host, PORT, received),
            card=self._card,
            dial_peer=self._dial_link,
            begin_exchange=self.exchanges.begin,
            routes=self.routes,
            clock=self.mesh.clock,
            metrics=self.metrics,
            limits=self.limits,
            rng=self.rng,
            contested=self._contested,
        )
        self.actors.append(Cluster(parts))
        self.ref = self.actor.actor_ref
        told = SeedsResolved(self.seeds)
        self.mesh.clock.call_soon(lambda ref=self.ref: tell(ref, told))
        return self.actor

    def start(self, *seeds: str) -> Machine:
        self.seeds = tuple((self.mesh.machines[seed].host, PORT) for seed in seeds)
        self.build().launch()
        let_others_run()
        return self

    def stop(self) -> None:
        if self.ref is not None:
            self.ref.stop(block=False)
            let_others_run()

    def linked(self) -> set[str]:
        return {node_id for node_id, upstream in self.actor._upstreams.items() if upstream.open}

    def places(self, endpoint: str) -> set[str]:
        return {place.node_id for place in self.actor.view.places.get(endpoint, ())}

    def _contested(self) -> None:
        self.contested += 1

    def _card(self) -> Card:
        where = f"{self.host}:{PORT}"
        return Card(gossip=where, proxy="", admin="", upstream="", wire_min=1, wire_max=1, version="1")

    def _build_engine(self) -> GossipEngine:
        mesh = self.mesh
        self._life = first_life(1_750_000_000 + mesh.clock.now(), self.rng, stored=self._life)
        return GossipEngine(
            PacketCodec("test", self.node_id, mesh.gossip_limits),
            self._life,
            mesh.gossip_limits,
            mesh.timers,
            self.rng,
            locate=gossip_address_of,
            now=mesh.clock.now(),
        )

    def _dial_link(self, address: Address, node_id: str) -> tuple[MemoryStream, Channel]:
        self.dials.append((address, node_id))
        other, near, far = self._dial(address, node_id)
        other.accepted.append(Accepted(far, self.mesh.clock, other.limits))
        return near, channel(Purpose.LINK, other.node_id)

    def _dial_exchange(self, address: Address, node_id: str) -> tuple[MemoryStream, Channel]:
        other, near, far = self._dial(address, node_id)
        bytes_max = ChannelLimits().exchange_frame_bytes_max
        gevent.spawn_raw(other.exchanges.serve, far, channel(Purpose.EXCHANGE, self.node_id, bytes_max=bytes_max))
        return near, channel(Purpose.EXCHANGE, other.node_id, bytes_max=bytes_max)

    def _dial(self, address: Address, node_id: str) -> tuple[Machine, MemoryStream, MemoryStream]:
        mesh = self.mesh
        other = next((one for one in mesh.machines.values() if (one.host, PORT) == address), None)
        down = other is None or other.ref is None or other.ref.actor_stopped.is_set()
        if other is None or down or mesh.network.quality_of((self.host, PORT), address).cut:
            raise ConnectFailed("nobody is there")
        if node_id not in ("", other.node_id):
            raise ConnectFailed(f"{other.node_id} is there")
        return other, *memory_pair(mesh.clock)


class Mesh:
    """The machines, the time and the network."""

    def __init__(self, timers: GossipTimers | None = None, gossip_limits: GossipLimits | None = None) -> None:
        self.clock = ManualClock(100.0)
        self.timers = timers or GossipTimers()
        self.gossip_limits = gossip_limits or GossipLimits()
        self.network = MemoryNetwork(self.clock, Random(1), LinkQuality(delay_s=0.001))
        self.machines: dict[str, Machine] = {}
        self._numbers = itertools.count(1)

    def machine(self, name: str, limits: PeerLimits | None = None) -> Machine:
        made = Machine(self, name, f"10.0.0.{next(self._numbers)}", limits or PeerLimits())
        self.machines[name] = made
        return made

    def cluster(self, *names: str) -> list[Machine]:
        """Machines that know each other."""
        machines = [self.machine(name) for name in names]
        machines[0].start()
        for one in machines[1:]:
            one.start(names[0])
        self.until(lambda: all(one.linked() == set(names) - {one.node_id} for one in machines))
        return machines

    def run(self, seconds: float) -> None:
        until = self.clock.now() + seconds
        while self.clock.now() < until:
            self.clock.advance(STEP_S)
            let_others_run(4)

    def until(self, condition: Callable[[], object], within_s: float = 10.0) -> float:
        """How much of its own time it took."""
        began = self.clock.now()
        while not condition():
            assert self.clock.now() - began < within_s, f"not within {within_s} s"
            self.run(STEP_S)
        return self.clock.now() - began

    def cut(self, one: Machine, other: Machine, *, cut: bool = True) -> None:
        for source, target in ((one, other), (other, one)):
            self.network.links[(source.host, PORT), (target.host, PORT)] = LinkQuality(delay_s=0.001, cut=cut)

    def stop(self) -> None:
        for machine in self.machines.values():
            machine.stop()
        self.run(0.05)
