"""Nodes that know each other without gossip: what one has reaches the others by a call, links are made on demand.

It stands for the cluster and the peers' actors: entries are really written, followed and looked up, and a link is a
real pair of multiplexers on whatever pair of streams a test gives.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, Protocol

from pico.actors.peers import PeerUpstream
from pico.actors.relay import Forwarding
from pico.actors.routes import Routes
from pico.config import GossipLimits, RpcLimits, WebSocketLimits
from pico.observability.metrics import NodeMetrics
from pico.protocol.cluster import ClusterView, Condition, LocalEndpoints
from pico.protocol.gossip.state import OwnState
from pico.protocol.rpc import StreamingEngine
from pico.transport.clock import Clock
from pico.transport.multiplexer import Multiplexer
from pico.transport.stream import Stream
from pico.transport.websocket import WebSocketCodec

CONNECT_S = 1.0
FINE = Condition(verified=True)

StreamPair = Callable[[], tuple[Stream, Stream]]


class Machine(Protocol):
    """What a member is made of: ``Node`` has it."""

    node_id: str
    routes: Routes
    metrics: NodeMetrics
    clock: Clock


class DialledLink:
    """Owner of the dialling side."""

    def __init__(self, peer: PeerUpstream, build: Callable[[Any], Multiplexer]) -> None:
        self.peer = peer
        self.multiplexer = build(self)

    def stream_opened(self, event) -> None:
        raise AssertionError("the accepting side opens nothing")

    def goaway_received(self, reason: str) -> None:
        pass

    def connection_ended(self, reason: str) -> None:
        self.peer.closed(self.multiplexer)


class Member:
    """One node in the little cluster."""

    def __init__(self, machine: Machine, stream_pair: StreamPair, limits: RpcLimits | None = None) -> None:
        self.machine, self.node_id = machine, machine.node_id
        self.forwarding = Forwarding(machine.routes, machine.metrics, attempts_max=3, informational_max=16)
        self.view = ClusterView(machine.node_id)
        self.state = OwnState(1, GossipLimits())
        self.local = LocalEndpoints(self.state)
        self.peers: dict[str, PeerUpstream] = {}
        self.links: dict[str, list[DialledLink]] = {}
        self.conditions: dict[str, Condition] = {}
        self.others: list[Member] = []
        self.dials: list[str] = []
        self.answers_dials = True
        self.tells = True
        self._stream_pair = stream_pair
        self._limits = limits or RpcLimits()
        machine.routes.join(self.view, self.peers, Random(1), self.count)

    def knows(self, *others: Member) -> None:
        for other in others:
            self.others.append(other)
            other.others.append(self)
            for one, two in ((self, other), (other, self)):
                one.links[two.node_id] = []
                one.peers[two.node_id] = PeerUpstream(
                    two.node_id, lambda one=one, two=two: one.dial(two), one.machine.clock, CONNECT_S
                )
                two.tell(one)

    def count(self, endpoint_id: str, count: int) -> None:
        self.local.set(endpoint_id, count, now=self.machine.clock.now())
        if self.tells:
            for other in self.others:
                self.tell(other)

    def tell(self, other: Member) -> None:
        other.view.follow(self.node_id, self.state, other.conditions.get(self.node_id, FINE))
        other.machine.routes.cluster_changed()

    def consider(self, other: Member, condition: Condition) -> None:
        self.conditions[other.node_id] = condition
        other.tell(self)

    def dial(self, other: Member) -> None:
        """Asked again and again, answered soon."""
        self.dials.append(other.node_id)
        if len(self.dials) > 1 and self.dials[-2] == other.node_id and not self.answers_dials:
            return
        self.machine.clock.call_soon(lambda: self.connect(other))

    def connect(self, other: Member) -> None:
        peer = self.peers[other.node_id]
        if not self.answers_dials:
            return
        if not other.answers_dials:
            peer.unreachable()
            return
        if peer.may_open:
            return
        near, far = self._stream_pair()
        dialled = DialledLink(peer, lambda owner: self._multiplexer(near, "client", owner))
        accepted = other.forwarding.accept(self.node_id, lambda owner: self._multiplexer(far, "server", owner))
        accepted.multiplexer.start()
        dialled.multiplexer.start()
        self.links[other.node_id].append(dialled)
        peer.opened(dialled.multiplexer)
        self.machine.routes.peer_opened(other.node_id)

    def link_to(self, other: Member) -> Multiplexer:
        return self.links[other.node_id][-1].multiplexer

    def _multiplexer(self, stream: Stream, role: Any, owner: Any) -> Multiplexer:
        clock = self.machine.clock
        engine = StreamingEngine(self._limits, now=clock.now())
        return Multiplexer(stream, WebSocketCodec(role, WebSocketLimits()), engine, clock, owner)

    def close(self) -> None:
        self.forwarding.close("the test is over")
        for links in self.links.values():
            for link in links:
                link.multiplexer.abort("the test is over")
