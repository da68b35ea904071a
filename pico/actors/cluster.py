"""The membership of this node, and its view of the cluster.

Responsible for: owning the gossip engine and the datagrams that go in and out, one ``GossipPeer`` for each node that
may be asked, the view that requests read, and saying which endpoints are here. Refuses to know: what is said when and
to whom (``pico.protocol.gossip``), what entries mean (``pico.protocol.cluster``), and how an exchange travels
(``pico.actors.gossip_exchanges``).

The failure detector, the pushes and the rounds are one engine in this one actor, and not spread over the peers' actors:
they share the node's health, its helpers, the order of its probes and its packet rate, and the simulator runs exactly
this composition. What belongs to one peer alone, its link, is its actor's.

A ping is answered where the datagram is read, before any mailbox: how busy this actor is must not look like death.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Any, Final

from pico.actors.gossip_peer import DialPeer, GossipPeer
from pico.actors.messages import (
    BeginExchange,
    DrainCluster,
    EndpointCount,
    ExchangeDone,
    ForgetNode,
    GossipTimerDue,
    LeaveCluster,
    LinkChanged,
    PacketReceived,
    RetirePeer,
    SeedsResolved,
    TakeBody,
    TakeTurn,
)
from pico.actors.peers import PeerUpstream
from pico.actors.routes import Routes
from pico.actors.runtime import GeventActor, GeventFuture, depth, tell
from pico.config import PeerLimits
from pico.observability.cluster_metrics import ClusterStanding
from pico.observability.metrics import NodeMetrics
from pico.protocol.cluster import (
    CARD,
    DRAINING,
    Card,
    ClusterView,
    Condition,
    LocalEndpoints,
    NodeStatus,
    StatusNews,
    encode_card,
    status_of,
)
from pico.protocol.gossip import Rank
from pico.protocol.gossip.engine import GossipEngine
from pico.protocol.gossip.events import Contested, ExchangeWanted, NodeChanged
from pico.protocol.gossip.exchange import Exchange
from pico.protocol.gossip.values import Address, Chance
from pico.transport.clock import Clock
from pico.transport.datagrams import DatagramCounts, Datagrams

__all__ = ["GOSSIP_PEER", "Cluster", "ClusterParts"]

GOSSIP_PEER: Final = "gossip-peer"
"""By which name the restarts of peers' actors are counted."""

PEER_RESTART_S: Final = 1.0
"""From the failure of a peer's actor to the next one, which may fail as well, and as fast as it can."""

FORMER_PEERS_MAX: Final = 64
"""Processes that are their nodes no more and on whose links something is in flight (CLUSTER-23)."""

_log = logging.getLogger("pico.cluster")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterParts:
    """What the composition of a node gives to its ``Cluster``; a new actor after a failure gets the same."""

    build_engine: Callable[[], GossipEngine]
    open_datagrams: Callable[[Callable[[bytes, Address], None]], Datagrams]
    card: Callable[[], Card]
    dial_peer: DialPeer
    begin_exchange: Callable[[ExchangeWanted], None]
    """Make the exchange, without blocking; tell ``ExchangeDone`` afterwards."""
    routes: Routes
    clock: Clock
    metrics: NodeMetrics
    limits: PeerLimits
    rng: Chance
    contested: Callable[[], None]
    """Another process has this node's ID."""


@dataclass(slots=True)
class _Peer:
    actor: GossipPeer
    life: int
    address: Address
    link_failed: bool = False

    @property
    def upstream_open(self) -> bool:
        return self.actor.upstream.open


class _OwnEntries:
    """What this node says of itself, as ``LocalEndpoints`` writes it."""

    def __init__(self, engine: GossipEngine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock

    def put(self, key: bytes, value: bytes, /) -> None:
        self._engine.put(key, value, now=self._clock.now())

    def delete(self, key: bytes, /) -> None:
        self._engine.delete(key, now=self._clock.now())


class Cluster(GeventActor):
    """One per node."""

    def __init__(self, parts: ClusterParts) -> None:
        super().__init__()
        self._parts = parts
        self._clock = parts.clock
        self.engine = parts.build_engine()
        """Read by status; changed here only."""
        self.view = ClusterView(self.engine.node_id)
        self._endpoints = LocalEndpoints(_OwnEntries(self.engine, parts.clock))
        self._datagrams: Datagrams | None = None
        self._timer = parts.clock.timer(lambda: self.post(GossipTimerDue()))
        self._due = inf  # for which the timer was started, until it has fired
        self._peers: dict[str, _Peer] = {}
        self._upstreams: dict[str, PeerUpstream] = {}
        self._former: dict[Any, None] = {}  # peers' actors that are retired, the oldest first
        self._resting: dict[str, float] = {}  # until when there is no new actor for a peer whose actor has failed
        self._statuses: dict[str, tuple[NodeStatus, float]] = {}  # of the other nodes, and since when
        self._news = StatusNews()
        self._leavers: list[GeventFuture[None]] = []
        self._seeds_known = False
        self._caught_up_at = inf

    # The actor's life.

    def on_start(self) -> None:
        """Open the port, and say who this node is."""
        self._datagrams = self._parts.open_datagrams(self._received)
        self._parts.routes.join(self.view, self._upstreams, self._parts.rng, self._count)
        self._say_card()
        self._pump()

    def on_receive(self, message: Any) -> Any:
        """Hand it to the engine, and see to what follows."""
        answer = self._handle(message)
        self._pump()
        return answer

    def on_exit(self, reason: BaseException | None) -> None:
        """Close everything; requests find no other node any more."""
        self._timer.stop()
        if self._datagrams is not None:
            self._datagrams.close()
        for node_id in list(self._peers):
            self._drop_peer(node_id)
        for former in list(self._former):
            former.stop(block=False)
        for node_id in list(self.view.nodes()):
            self.view.forget(node_id)
        self._parts.routes.cluster_changed()
        self._release_leavers()

    def _handle(self, message: Any) -> Any:
        engine, now = self.engine, self._clock.now()
        if isinstance(message, PacketReceived):
            engine.receive_packet(message.packet, message.source, now=now, acked=message.acked)
        elif isinstance(message, GossipTimerDue):
            self._due = inf
            engine.handle_timer(now=now)
            self.caught_up_at()
            self._endpoints.handle_timer(now=now)
        elif isinstance(message, EndpointCount):
            self._endpoints.set(message.endpoint_id, message.count, now=now)
        elif isinstance(message, LinkChanged):
            self._link_changed(message)
        elif isinstance(message, SeedsResolved):
            self._say_card()
            engine.set_seeds(message.addresses, now=now)
            self._seeds_known = message.complete
        elif isinstance(message, BeginExchange):
            exchange = Exchange(engine)
            return exchange, exchange.open() if message.opens else []
        elif isinstance(message, TakeBody):
            message.exchange.receive_body(message.body, now=now)
        elif isinstance(message, TakeTurn):
            return message.exchange.end_turn()
        elif isinstance(message, ExchangeDone):
            engine.exchange_ended(message.wanted, message.node_id, now=now)
        elif isinstance(message, DrainCluster):
            engine.table.gives_way = True
            engine.put(DRAINING, b"", now=now)
        elif isinstance(message, ForgetNode):
            return engine.forget(message.node_id, now=now)
        elif isinstance(message, LeaveCluster):
            return self._leave()
        return None

    def _say_card(self) -> None:
        self.engine.put(CARD, encode_card(self._parts.card()), now=self._clock.now())

    def _leave(self) -> GeventFuture[None]:
        left: GeventFuture[None] = GeventFuture()
        self._leavers.append(left)
        self.engine.leave(now=self._clock.now())
        return left

    # Called in the hub, or in whatever greenlet changes an endpoint: only told onward.

    def _received(self, data: bytes, source: Address) -> None:
        """A datagram: answer its pings, and queue the rest unless too much waits already."""
        packet = self.engine.decode(data)
        if packet is None:
            return
        answer = self.engine.quick_answer(packet)
        if answer is not None and self._datagrams is not None:
            self._datagrams.send(answer, source)
        if depth(self.actor_ref) >= self._parts.limits.inbox_max:
            self._parts.metrics.cluster.dropped += 1
            return
        self.post(PacketReceived(packet, source, answer is not None))

    def _count(self, endpoint_id: str, count: int) -> None:
        self.post(EndpointCount(endpoint_id, count))

    # After each message.

    def _pump(self) -> None:
        """Send, follow what has changed, and ask to be woken."""
        engine = self.engine
        changed: dict[str, None] = {}
        busy = True
        while busy:
            busy = self._send()
            for event in engine.events():
                busy = True
                if isinstance(event, NodeChanged):
                    changed[event.node_id] = None
                elif isinstance(event, ExchangeWanted):
                    self._parts.begin_exchange(event)
                elif isinstance(event, Contested):
                    self._contested()
        for node_id in changed:
            self._follow(node_id)
        if changed:
            self._parts.routes.cluster_changed()
        if engine.left:
            self._release_leavers()
        else:  # nothing is begun any more after that, and pings are answered where they arrive
            self._set_timer()

    def _send(self) -> bool:
        """Whether there was anything to send."""
        assert self._datagrams is not None
        datagrams = self.engine.outgoing()
        for address, data, node_id in datagrams:
            if not self._datagrams.send(data, address) and node_id:
                self.engine.unsent(node_id, now=self._clock.now())
        return bool(datagrams)

    def _contested(self) -> None:
        if self.engine.table.gives_way:
            _log.info("another process is node %s now, before this one has ended", self.engine.node_id)
        else:
            _log.error("another process calls itself %s as well, and does not give way", self.engine.node_id)
        self._parts.contested()

    def _set_timer(self) -> None:
        due = self.engine.next_timer()
        endpoints_due = self._endpoints.next_timer()
        if endpoints_due is not None:
            due = min(due, endpoints_due)
        if due != self._due:
            self._due = due
            self._timer.start(max(0.0, due - self._clock.now()))

    def _release_leavers(self) -> None:
        leavers, self._leavers = self._leavers, []
        for leaver in leavers:
            leaver.set(None)

    # What others read.

    @property
    def seeds_tried(self) -> bool:
        """Whether it is known where the named nodes are, and each has been tried: readiness waits for it."""
        return self._seeds_known and self.engine.seeds_tried

    def caught_up_at(self) -> float:
        """When each of the named nodes was tried, and everybody whom they know was heard (ROUTING-20); else infinity.

        It is noticed with the next round, or when somebody asks before that.
        """
        if self._caught_up_at == inf and self.seeds_tried:
            table = self.engine.table
            hearsay = (name for name, record in table.members().items() if not record.gone and not table.verified(name))
            if next(hearsay, None) is None:
                self._caught_up_at = self._clock.now()
        return self._caught_up_at

    @property
    def card(self) -> Card:
        """Who this node is."""
        return self._parts.card()

    def link_of(self, node_id: str) -> str:
        """How it stands with the link to a peer: ``open``, ``down`` or ``none``."""
        peer = self._peers.get(node_id)
        if peer is None:
            return "none"
        return "open" if peer.upstream_open else "down"

    def status_of(self, node_id: str) -> tuple[NodeStatus, float] | None:
        """How another node is doing, and since when; None for one that is not known (CLUSTER-18)."""
        return self._statuses.get(node_id)

    def upstream_of(self, node_id: str) -> PeerUpstream | None:
        """The peer as requests see it; None for one that is not to be asked."""
        return self._upstreams.get(node_id)

    @property
    def links_out(self) -> int:
        """Links that this node has dialled and that are open."""
        return sum(peer.upstream_open for peer in self._peers.values()) + len(self._former)

    def standing(self) -> ClusterStanding:
        """How the cluster looks from here, for metrics."""
        snapshot = self.engine.snapshot()
        counts = self._datagrams.counts if self._datagrams is not None else DatagramCounts()
        return ClusterStanding(
            nodes=dict(
                Counter(
                    status_of(record, verified=self.engine.table.verified(node_id)).value
                    for node_id, record in snapshot.records.items()
                )
            ),
            remote_endpoints=len(self.view.places),
            health=snapshot.health,
            joined=snapshot.joined,
            links_out=self.links_out,
            datagrams_sent=counts.sent,
            datagrams_received=snapshot.received,
            datagrams_not_sent=counts.send_failures,
            datagrams_not_received=counts.receive_errors,
            datagrams_too_large=counts.oversized,
            violations=snapshot.violations,
            nodes_refused=self.engine.table.nodes_refused,
            messages_not_understood=self.engine.table.unknown_messages,
            cards_not_understood=self.view.broken_cards,
        )

    # The other nodes.

    def _follow(self, node_id: str) -> None:
        """Bring the view and the peer up to what the engine knows of a node."""
        engine = self.engine
        if node_id == engine.node_id:
            return
        record, state = engine.table.members().get(node_id), engine.table.state_of(node_id)
        if record is None or state is None:
            self._drop_peer(node_id)
            self._resting.pop(node_id, None)
            self._statuses.pop(node_id, None)
            self._news.forget(node_id)
            self.view.forget(node_id)
            return
        verified = engine.table.verified(node_id)
        status = status_of(record, verified=verified)
        if node_id not in self._statuses or self._statuses[node_id][0] is not status:
            self._statuses[node_id] = status, self._clock.now()
            self._say_news(node_id, status)
        if verified and not record.gone:
            self._keep_peer(node_id, record.life)
        elif record.left or self.link_of(node_id) != "open":  # CLUSTER-16
            self._drop_peer(node_id)
        peer = self._peers.get(node_id)
        condition = Condition(
            verified=verified,
            gone=record.gone,
            suspect=record.rank is Rank.SUSPECT,
            lowered=not engine.detector.answers(node_id) or (peer is not None and peer.link_failed),
        )
        self.view.follow(node_id, state, condition)

    def _say_news(self, node_id: str, status: NodeStatus) -> None:
        news = self._news.follow(node_id, status)  # CLUSTER-19
        if news is NodeStatus.DEAD:
            _log.warning("node %s is dead: it fell silent without having left", node_id)
        elif news is NodeStatus.LEFT:
            _log.info("node %s has left", node_id)
        elif news is NodeStatus.ALIVE:
            _log.info("node %s is alive", node_id)

    def _keep_peer(self, node_id: str, life: int) -> None:
        """One actor for each process: another life or address is another one."""
        address = self.engine.address_of(node_id)
        peer = self._peers.get(node_id)
        if self._clock.now() < self._resting.get(node_id, 0.0):
            return
        if address is None or (peer is not None and (peer.life, peer.address) == (life, address)):
            return
        if peer is not None:
            self._retire_peer(node_id, peer)
        parts = self._parts
        actor = GossipPeer(node_id, address, parts.dial_peer, self._clock, parts.limits, self._tell_link_changed)
        actor.exit_listener = partial(self._peer_exited, node_id)
        self._peers[node_id] = _Peer(actor, life, address)
        self._upstreams[node_id] = actor.upstream
        actor.launch()

    def _tell_link_changed(self, node_id: str, up: bool) -> None:
        self.post(LinkChanged(node_id, up))

    def _drop_peer(self, node_id: str) -> None:
        peer = self._peers.pop(node_id, None)
        if peer is not None:
            del self._upstreams[node_id]
            peer.actor.actor_ref.stop(block=False)

    def _retire_peer(self, node_id: str, peer: _Peer) -> None:
        """What is in flight there goes on: the process may be draining, with another one in its place (CLUSTER-23)."""
        if not peer.actor.upstream.in_flight:
            self._drop_peer(node_id)
            return
        ref = peer.actor.actor_ref
        if len(self._former) == FORMER_PEERS_MAX:
            oldest = next(iter(self._former))
            del self._former[oldest]
            oldest.stop(block=False)
        self._former[ref] = None
        del self._peers[node_id], self._upstreams[node_id]
        tell(ref, RetirePeer())

    def _peer_exited(self, node_id: str, ref: Any, reason: BaseException | None) -> None:
        """A peer's actor that failed is replaced when its node is looked at next."""
        self._former.pop(ref, None)
        peer = self._peers.get(node_id)
        if peer is not None and peer.actor.actor_ref is ref and reason is not None:
            self._parts.metrics.actor_restarts.add(GOSSIP_PEER)
            del self._peers[node_id], self._upstreams[node_id]
            self._resting[node_id] = self._clock.now() + PEER_RESTART_S
            self._clock.timer(partial(tell, self.actor_ref, LinkChanged(node_id, False))).start(PEER_RESTART_S)

    def _link_changed(self, message: LinkChanged) -> None:
        node_id = message.node_id
        peer = self._peers.get(node_id)
        if peer is not None:
            peer.link_failed = not message.up
        if message.up:
            self._parts.routes.peer_opened(node_id)
        else:
            self.engine.failed(node_id, now=self._clock.now())
        self._follow(node_id)
        self._parts.routes.cluster_changed()
