"""What actors tell each other, grouped by receiver.

Values only: frozen, with slots. The events of a stream (``pico.protocol.rpc.events``) reach a ``ProxyRequest`` as they
are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pykka

    from pico.actors.upstream import Upstream
    from pico.protocol.channel import Channel
    from pico.protocol.gossip.events import ExchangeWanted
    from pico.protocol.gossip.exchange import Exchange
    from pico.protocol.gossip.packets import Packet
    from pico.protocol.gossip.values import Address
    from pico.transport.multiplexer import Multiplexer
    from pico.transport.stream import Stream

__all__ = [
    "AgentGoesAway",
    "BeginExchange",
    "ChildExited",
    "ClientDrained",
    "ClientEnded",
    "ClientLost",
    "ClientReadable",
    "CloseUpstream",
    "DeadlinePassed",
    "DialLink",
    "DrainCluster",
    "DrainUpstream",
    "EndpointAppeared",
    "EndpointCount",
    "ExchangeDone",
    "ForgetNode",
    "GossipTimerDue",
    "LeaveCluster",
    "LinkChanged",
    "LinkDialled",
    "LinkEnded",
    "LinkNotDialled",
    "MoveUpstream",
    "NodeStops",
    "PacketReceived",
    "PeerReady",
    "PeerUnreachable",
    "PoolFailed",
    "RetirePeer",
    "SeedsResolved",
    "StopAccepting",
    "TakeBody",
    "TakeTurn",
    "TunnelEnded",
    "UpstreamJoined",
    "UpstreamLeft",
]


# To Endpoints, and on to an EndpointPool.


@dataclass(frozen=True, slots=True)
class UpstreamJoined:
    """A service has registered."""

    upstream: Upstream


@dataclass(frozen=True, slots=True)
class UpstreamLeft:
    """An upstream takes no new requests; told again, it changes nothing."""

    upstream: Upstream


@dataclass(frozen=True, slots=True)
class PoolFailed:
    """A pool ended by a fault; its upstreams are still there."""

    endpoint_id: str


# To an UpstreamConnection.


@dataclass(frozen=True, slots=True)
class AgentGoesAway:
    """The agent finishes what it has and takes nothing new."""


@dataclass(frozen=True, slots=True)
class TunnelEnded:
    """The tunnel is over; every stream on it has had its last event."""

    reason: str


@dataclass(frozen=True, slots=True)
class DrainUpstream:
    """The node goes away: have the agent move, finish what is in flight."""

    reason: str


@dataclass(frozen=True, slots=True)
class MoveUpstream:
    """Ask the agent to move; it gets requests until it has."""


@dataclass(frozen=True, slots=True)
class CloseUpstream:
    """End the tunnel with a closing handshake."""

    reason: str


# To a ProxyRequest.


@dataclass(frozen=True, slots=True)
class ClientReadable:
    """More of the request body is there, after ``read_body`` had found nothing."""


@dataclass(frozen=True, slots=True)
class ClientDrained:
    """The client took everything that was written."""


@dataclass(frozen=True, slots=True)
class ClientEnded:
    """The client half-closed its connection."""


@dataclass(frozen=True, slots=True)
class ClientLost:
    """The client's connection broke."""


@dataclass(frozen=True, slots=True)
class NodeStops:
    """The node has waited for the request as long as it may, and stops now."""


@dataclass(frozen=True, slots=True)
class EndpointAppeared:
    """It is the turn of a request that waits: somebody has the endpoint, and seems to take it."""


@dataclass(frozen=True, slots=True)
class PeerReady:
    """The peer whose link the request waits for has one."""

    node_id: str


@dataclass(frozen=True, slots=True)
class PeerUnreachable:
    """The peer whose link the request waits for cannot be connected to."""

    node_id: str


@dataclass(frozen=True, slots=True)
class DeadlinePassed:
    """Something was late at ``now``."""

    now: float


# To a GossipPeer.


@dataclass(frozen=True, slots=True)
class DialLink:
    """A link is wanted, now."""


@dataclass(frozen=True, slots=True)
class RetirePeer:
    """The node is another process now, or elsewhere: take nothing new, and end when nothing is in flight."""


@dataclass(frozen=True, slots=True)
class LinkDialled:
    """A channel to the peer is open."""

    stream: Stream
    channel: Channel


@dataclass(frozen=True, slots=True)
class LinkNotDialled:
    """The peer could not be reached, or is not who was wanted."""

    reason: str


@dataclass(frozen=True, slots=True)
class LinkEnded:
    """A link is over; every stream on it has had its last event."""

    link: Multiplexer
    reason: str


# To the Cluster.


@dataclass(frozen=True, slots=True)
class PacketReceived:
    """A datagram that could be read; ``acked`` when its pings were answered already."""

    packet: Packet
    source: Address
    acked: bool


@dataclass(frozen=True, slots=True)
class GossipTimerDue:
    """It is time for something."""


@dataclass(frozen=True, slots=True)
class EndpointCount:
    """So many upstreams of this node serve the endpoint now."""

    endpoint_id: str
    count: int


@dataclass(frozen=True, slots=True)
class LinkChanged:
    """Whether there is a link to a peer now."""

    node_id: str
    up: bool


@dataclass(frozen=True, slots=True)
class SeedsResolved:
    """Where the names that were given with ``--join`` lead; ``complete``: each of them has been looked up."""

    addresses: tuple[Address, ...]
    complete: bool = True


@dataclass(frozen=True, slots=True)
class BeginExchange:
    """Asked; the answer is one side of an exchange, and its first turn if it ``opens``."""

    opens: bool


@dataclass(frozen=True, slots=True)
class TakeBody:
    """Asked; one body of the other side's turn of an exchange, so that everybody else has a turn between two."""

    exchange: Exchange
    body: bytes


@dataclass(frozen=True, slots=True)
class TakeTurn:
    """Asked; the other side's turn of an exchange is over, the answer is ours."""

    exchange: Exchange


@dataclass(frozen=True, slots=True)
class ExchangeDone:
    """An exchange that this node has begun is over; ``node_id`` is who was there, None when it failed."""

    wanted: ExchangeWanted
    node_id: str | None


@dataclass(frozen=True, slots=True)
class DrainCluster:
    """Say that this node takes no new work."""


@dataclass(frozen=True, slots=True)
class ForgetNode:
    """The operator wants to hear no more of a node that is gone. Asked; the answer is whether there was one."""

    node_id: str


@dataclass(frozen=True, slots=True)
class LeaveCluster:
    """Asked; the answer is a future that is set when everybody who could has heard that this node leaves."""


# To a Listener.


@dataclass(frozen=True, slots=True)
class StopAccepting:
    """Take who is waiting already, then close the port; the connections go on."""


# To a Supervisor.


@dataclass(frozen=True, slots=True)
class ChildExited:
    """A child has ended; ``reason`` is None after an orderly stop."""

    ref: pykka.ActorRef[Any]
    reason: BaseException | None
