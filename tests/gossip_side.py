"""A gossip table as a test speaks to it: packets are always encoded and decoded on the way."""

from __future__ import annotations

from random import Random

from pico.config import GossipLimits
from pico.protocol.gossip import (
    Answer,
    DigestEntry,
    GossipTable,
    PacketCodec,
    Record,
)
from pico.protocol.gossip.values import Message
from pico.protocol.gossip.wire import encode_message

CLUSTER = "prod"


class Side:
    """One node. ``now`` is its clock, moved by hand."""

    def __init__(self, node_id: str, *, life: int = 1 << 30, seed: int = 0, **limits: float) -> None:
        self.limits = GossipLimits(**limits)  # type: ignore[arg-type]
        self.codec = PacketCodec(CLUSTER, node_id, self.limits)
        self.table = GossipTable(self.codec, life, self.limits, Random(seed))
        self.now = 0.0
        self.answer = Answer([], [])

    @property
    def node_id(self) -> str:
        return self.table.node_id

    def receive(self, data: bytes) -> list[Message]:
        """One packet; what is answered to it, decoded. The bytes are in ``answer``."""
        self.answer = self.table.receive(self.codec.decode(data), now=self.now)
        return [said for packet in self.answer.packets for said in self.codec.decode(packet).messages]

    def snapshots(self) -> list[bytes]:
        """What the last answer has for a stream."""
        return [packet for node in self.answer.behind if (packet := self.table.snapshot_of(node)) is not None]

    def hear(self, sender: str, *messages: Message, life: int = 1 << 30) -> list[Message]:
        """Messages of a node that is not there; what is answered."""
        return self.receive(PacketCodec(CLUSTER, sender, self.limits).encode(life, list(map(encode_message, messages))))

    def meet(self, *node_ids: str) -> Side:
        """Have heard of each of them by itself that it is there: it is asked nothing more for that."""
        for node_id in node_ids:
            self.hear(node_id)
        return self

    def told(self, node_id: str, record: Record, applied: int = 0) -> DigestEntry:
        return DigestEntry(node_id, record, applied)

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.table.handle_timer(now=self.now)


def settle(*sides: Side, rounds: int = 4) -> None:
    """Everybody tells everybody everything, and nothing is lost."""
    for _ in range(rounds):
        for one in sides:
            for other in sides:
                if one is not other:
                    exchange(one, other)


def exchange(one: Side, other: Side) -> int:
    """One says its digest to the other, and both go on until there is nothing to say; how many packets it took."""
    waiting = [(other, one, packet) for packet in one.table.digest()]
    packets = 0
    while waiting:
        to, back, packet = waiting.pop(0)
        packets += 1
        assert packets < 1000, "an exchange that does not end"
        to.receive(packet)
        waiting += [(back, to, answer) for answer in to.answer.packets + to.snapshots()]
    return packets
