"""Gossip: what the nodes of a cluster know of each other, and how they come to agree (``spec/gossip.md``)."""

from pico.protocol.gossip.memory import Memory
from pico.protocol.gossip.packets import ForeignCluster, Packet, PacketBuilder, PacketCodec
from pico.protocol.gossip.state import Applied, NodeState, OwnState, Replica
from pico.protocol.gossip.table import GossipTable
from pico.protocol.gossip.values import (
    Delta,
    Digest,
    DigestEntry,
    Entry,
    Rank,
    Record,
    Records,
    Snapshot,
    first_life,
    next_life,
)
from pico.protocol.gossip.wire import MessageType
from pico.protocol.seal import OtherVersion

__all__ = [
    "Applied",
    "Delta",
    "Digest",
    "DigestEntry",
    "Entry",
    "ForeignCluster",
    "GossipTable",
    "Memory",
    "MessageType",
    "NodeState",
    "OtherVersion",
    "OwnState",
    "Packet",
    "PacketBuilder",
    "PacketCodec",
    "Rank",
    "Record",
    "Records",
    "Replica",
    "Snapshot",
    "first_life",
    "next_life",
]
