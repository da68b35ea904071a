"""The gossip door: what other nodes say to this one, and how it reaches them.

Responsible for: putting the cluster's actor, the datagrams, the channels that others dial and those that this node
dials together, and what this node says of itself: its name, its keys and where its doors are. Refuses to know: what is
said on any of them, how the nodes are found that were named (``pico.node.seeds``), and how a node finds out at which
address it is reached (``pico.node.own_address``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from math import inf
from random import Random
from typing import Any, Final

import pykka

from pico import __version__
from pico.actors.cluster import Cluster, ClusterParts
from pico.actors.gossip_exchanges import GossipExchanges
from pico.actors.listener import CannotListen, listening_socket
from pico.actors.messages import SeedsResolved
from pico.actors.relay import Forwarding
from pico.actors.routes import Routes
from pico.actors.runtime import tell
from pico.actors.spares import Spares
from pico.config import NodeConfig, address_text
from pico.errors import PicoError, RemoteProtocolError, TransportError
from pico.node.own_address import OwnAddress
from pico.node.seeds import Seeds
from pico.node.system import System
from pico.observability.cluster_metrics import ClusterStanding
from pico.observability.metrics import NodeMetrics
from pico.protocol.channel import (
    Channel,
    ConnectedToSelf,
    ForgedFrame,
    FrameTooLarge,
    Handshake,
    Identity,
    NoAnswer,
    OtherNode,
    Purpose,
    SameName,
)
from pico.protocol.cluster import Card, gossip_address_of
from pico.protocol.gossip import PacketCodec, first_life
from pico.protocol.gossip.engine import GossipEngine, kind_of_violation
from pico.protocol.gossip.values import Address
from pico.protocol.rpc import StreamingEngine
from pico.protocol.seal import ClearSeal, KeyRing, KeySeal, Seal
from pico.transport.channel import ChannelCodec, shake_hands
from pico.transport.clock import Clock
from pico.transport.datagrams import Datagrams
from pico.transport.multiplexer import Multiplexer, MultiplexerOwner
from pico.transport.stream import Stream

__all__ = ["GossipDoor"]

WIRE_VERSION: Final = 1

CARDS_LOCATED_MAX: Final = 1_024
"""Cards of which it is remembered where they say that the node is."""

PORTS_TRIED_MAX: Final = 16
"""That the system chooses for datagrams; that others have each of these for streams is no chance any more."""

_RESULTS: Final[dict[type[PicoError], str]] = {
    ConnectedToSelf: "connected_to_self",
    ForgedFrame: "forged",
    FrameTooLarge: "frame_too_large",
    NoAnswer: "no_answer",
    OtherNode: "other_node",
    SameName: "same_name",
}

_log = logging.getLogger("pico.cluster")


class GossipDoor:
    """What a node needs of a cluster; ``build_cluster`` makes the actor, ``serve`` takes a connection."""

    def __init__(
        self,
        config: NodeConfig,
        clock: Clock,
        routes: Routes,
        metrics: NodeMetrics,
        *,
        node_id: str,
        cluster: Callable[[], pykka.ActorRef[Any] | None],
        door_address: Callable[[str], Address | None],
        contested: Callable[[], None],
        keys: KeyRing | None,
        system: System,
    ) -> None:
        self._config = config
        self._clock = clock
        self._system = system
        self._routes = routes
        self._metrics = metrics
        self._node_id = node_id
        self._cluster = cluster
        self._door_address = door_address
        self._contested = contested
        self._rng = Random(self._system.random_bytes(16))
        self._keys = keys
        self._bind_host, self._port = self._system.inherited.address("gossip") or (
            config.gossip_host,
            config.gossip_port,
        )
        self._life = 0
        self._own = OwnAddress(self._system)
        self._seeds = Seeds(config, clock, self._system, self._tell_seeds)
        self.handshakes = Spares(clock, lambda: metrics.connections_given_up.add("gossip"))
        """Connections of others that are no channel yet (CHANNEL-21)."""
        self.forwarding = Forwarding(routes, metrics, config.attempts_max, config.http_limits.informational_max)
        self.exchanges = GossipExchanges(
            self._dial_exchange,
            cluster,
            clock,
            config.gossip_timers,
            config.peer_limits,
            metrics,
            node_id,
        )
        self._actor: Cluster | None = None
        self._ready_actor: Cluster | None = None
        self._key_seal: KeySeal | None = None
        self._started = False
        routes.caught_up_at = self.caught_up_at
        metrics.cluster.corrections = lambda: 0 if self._actor is None else self._actor.view.corrections

    def reconfigure(self, config: NodeConfig, keys: KeyRing | None) -> None:
        """Other nodes to look for, and other keys where there were some; links stay as they are."""
        self._stay_ready()
        self._config = config
        self.forwarding.attempts_max = config.attempts_max
        if keys is not None and self._key_seal is not None and keys != self._keys:
            self._keys = keys
            self._key_seal.rotate(keys)
        self._seeds.reconfigure(config)

    # The actor.

    def build_cluster(self) -> Cluster:
        """A new process in the eyes of the others, with a life of its own."""
        if not self._own.host:
            self._own.find(_split(self._config.advertise_gossip, 0)[0] or self._bind_host, self._seeds)
        self._actor = Cluster(
            ClusterParts(
                build_engine=self._build_engine,
                open_datagrams=self._open_datagrams,
                card=self._card,
                dial_peer=self._dial_link,
                begin_exchange=self.exchanges.begin,
                routes=self._routes,
                clock=self._clock,
                metrics=self._metrics,
                limits=self._config.peer_limits,
                rng=self._rng,
                contested=self._contested,
            )
        )
        if self._started:
            self._seeds.look_soon()  # it knows none of them yet
        return self._actor

    @property
    def port(self) -> int:
        """The port of the gossip door, as the system chose it when 0 was wanted."""
        return self._port

    @property
    def actor(self) -> Cluster | None:
        """The cluster's actor as it runs now, to be read for status and metrics."""
        return self._actor

    @property
    def ready(self) -> bool:
        """Whether each of the nodes that were named has been tried, so that what is known of the cluster is known."""
        if not self._config.join:
            return True
        return self._actor is not None and (self._actor is self._ready_actor or self._actor.seeds_tried)

    def _stay_ready(self) -> None:
        """Whoever is named now, and wherever a name leads now: what was known of the cluster is known."""
        if self.ready:
            self._ready_actor = self._actor

    def caught_up_at(self) -> float:
        """When all was known here that others know; infinity as long as it is not (ROUTING-20)."""
        return inf if self._actor is None else self._actor.caught_up_at()

    def standing(self) -> ClusterStanding:
        """For metrics."""
        if self._actor is None:
            return ClusterStanding()
        return replace(self._actor.standing(), links_in=self.forwarding.links)

    def start(self) -> None:
        """Begin to look for the nodes that were named: not before the door is open, for they dial back at once."""
        self._started = True
        self._seeds.look()

    def stop(self) -> None:
        """Look for nobody any more, and end what others have dialled."""
        self._seeds.stop()
        self.forwarding.close("the node is going away")

    def _tell_seeds(self) -> None:
        self._stay_ready()
        found = self._seeds.addresses
        self._own.look_again(found)
        ref = self._cluster()
        if ref is not None:
            tell(ref, SeedsResolved(found, self._seeds.complete))

    def _build_engine(self) -> GossipEngine:
        config = self._config
        self._life = first_life(self._system.time_of_day(), self._rng, stored=self._life)
        codec = PacketCodec(config.cluster_name, self._node_id, config.gossip_limits, self._seal())
        return GossipEngine(
            codec,
            self._life,
            config.gossip_limits,
            config.gossip_timers,
            self._rng,
            # Asked with each datagram that is sent, and the same for a node's whole life.
            locate=lru_cache(CARDS_LOCATED_MAX)(gossip_address_of),
            now=self._clock.now(),
        )

    def _seal(self) -> Seal:
        if self._keys is None:
            return ClearSeal()
        self._key_seal = KeySeal(self._keys, self._config.cluster_name, self._system.random_bytes(16))
        return self._key_seal

    def _open_datagrams(self, received: Callable[[bytes, Address], None]) -> Datagrams:
        host = self._bind_host
        try:
            if self._port:
                return self._system.bind_datagrams(host, self._port, received)
            datagrams = self._on_any_port(host, received)
        except OSError as error:
            where = address_text(host, self._port)
            raise TransportError(f"--gossip-port: cannot listen on {where} (UDP): {error.strerror}") from error
        self._port = datagrams.address[1]
        return datagrams

    def _on_any_port(self, host: str, received: Callable[[bytes, Address], None]) -> Datagrams:
        """A port that the system chooses for datagrams is wanted for streams, too."""
        tried = 0
        while True:
            datagrams = self._system.bind_datagrams(host, 0, received)
            try:
                listening_socket(host, datagrams.address[1], option="--gossip-port").close()
                return datagrams
            except CannotListen:
                datagrams.close()
                tried += 1
                if tried == PORTS_TRIED_MAX:
                    raise

    def _card(self) -> Card:
        config = self._config
        return Card(
            # The host as an address, also where a name was asked for: nobody looks up a name that gossip brings.
            gossip=address_text(self._own.host, _split(config.advertise_gossip, self._port)[1]),
            proxy=self._door(config.advertise_proxy, "proxy-door"),
            admin=self._door(config.advertise_admin, "admin-door"),
            upstream=self._door(config.advertise_upstream, "upstream-door"),
            wire_min=WIRE_VERSION,
            wire_max=WIRE_VERSION,
            version=__version__,
        )

    def _door(self, advertised: str, name: str) -> str:
        """Nothing while the door has no port: the card is said again when it has."""
        address = self._door_address(name)
        return _advertised(advertised, self._own.host, address[1]) if address is not None and address[1] else ""

    # Channels.

    def _identity(self) -> Identity:
        life = self._actor.engine.table.own.life if self._actor is not None else 1
        return Identity(self._config.cluster_name, self._node_id, life, self._keys)

    def _dial_link(self, address: Address, node_id: str) -> tuple[Stream, Channel]:
        return self._dial(address, node_id, Purpose.LINK)

    def _dial_exchange(self, address: Address, node_id: str) -> tuple[Stream, Channel]:
        return self._dial(address, node_id, Purpose.EXCHANGE)

    def _dial(self, address: Address, node_id: str, purpose: Purpose) -> tuple[Stream, Channel]:
        limits = self._config.peer_limits
        now = self._clock.now()  # before the dial, which takes its part of the same time
        stream = self._system.dial(address, limits.dial_s)
        patience = replace(limits.channel_limits, handshake_s=limits.dial_s)
        handshake = Handshake(
            self._identity(), patience, self._system.random_bytes(16), purpose=purpose, wanted=node_id, now=now
        )
        return stream, shake_hands(stream, handshake, self._clock)

    def serve(self, stream: Stream) -> None:
        """One connection that another node has made; runs in its greenlet, which may end afterwards."""
        limits = self._config.peer_limits.channel_limits
        handshake = Handshake(self._identity(), limits, self._system.random_bytes(16), now=self._clock.now())
        try:
            channel = shake_hands(stream, handshake, self._clock)
        except PicoError as error:
            self._metrics.cluster.channels.add(_result(error))
            _log.info("refused a channel from %s: %s", stream.peer_host, error)
            return
        self.handshakes.discard(stream)
        if channel.purpose is Purpose.LINK and self.forwarding.links >= self._config.peer_limits.connections_max:
            self._metrics.cluster.channels.add("too_many")
            stream.close()
            return
        self._metrics.cluster.channels.add(channel.purpose.name.lower())
        if self._own.is_guess and self._own.look_again([(stream.peer_host, stream.peer_port)]):
            self._tell_seeds()  # CLUSTER-21: the card comes before what is said on this channel
        if channel.purpose is Purpose.LINK:
            self._serve_link(stream, channel)
        else:
            self.exchanges.serve(stream, channel)

    def _serve_link(self, stream: Stream, channel: Channel) -> None:
        limits = self._config.peer_limits

        def build(owner: MultiplexerOwner) -> Multiplexer:
            engine = StreamingEngine(limits.accepted_rpc_limits, now=self._clock.now())
            return Multiplexer(stream, ChannelCodec(channel.frames, limits.channel_limits), engine, self._clock, owner)

        self.forwarding.accept(channel.node_id, build).multiplexer.start(channel.leftover)


def _result(error: PicoError) -> str:
    """By which word a channel that was refused is counted: that of datagrams, where they know the same fault."""
    if isinstance(error, RemoteProtocolError):
        return _RESULTS.get(type(error)) or kind_of_violation(error)
    return "connection_lost"


def _advertised(advertised: str, host: str, port: int) -> str:
    """``host:port`` as others read it; ``advertised`` is what was asked for: nothing, a host, or both."""
    named, number = _split(advertised, port)
    return address_text(named or host, number)


def _split(advertised: str, port: int) -> tuple[str, int]:
    """Host and port of ``host`` or ``host:port``, by default ``port``; an IPv6 address without its brackets."""
    if ":" in advertised and not advertised.endswith("]"):
        host, _, number = advertised.rpartition(":")
        return host.strip("[]"), int(number)
    return advertised.strip("[]"), port
