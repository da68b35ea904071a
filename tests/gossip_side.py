"""A gossip table, and a whole member, as a test speaks to them: packets are always encoded and decoded on the way."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random
from typing import NamedTuple

from pico.config import GossipLimits, GossipTimers
from pico.protocol.gossip import (
    DigestEntry,
    GossipTable,
    Packet,
    PacketCodec,
    Record,
)
from pico.protocol.gossip.engine import STREAM_BODY_BYTES_MAX, GossipEngine
from pico.protocol.gossip.events import Event
from pico.protocol.gossip.table import EVERYBODY, Reply
from pico.protocol.gossip.values import CARD, Address, Message
from pico.protocol.gossip.wire import encode_message
from pico.protocol.seal import ClearSeal

CLUSTER = "prod"


class Answer(NamedTuple):
    """What is answered to one packet."""

    packets: list[bytes]
    behind: list[str]
    """The nodes of which only a snapshot can help that is too large for a datagram."""


def answered(table: GossipTable, packet: Packet, *, packets_max: int, now: float) -> Answer:
    """One packet, as a member takes it."""
    reply = table.learn(packet, now=now)
    builder = table.builder(packets_max=packets_max)
    behind = table.answer(reply, builder)
    return Answer(builder.packets(), behind)


def digest_of(table: GossipTable) -> list[bytes]:
    """All that is known of everybody, in as few packets as it fills."""
    builder = table.builder(packets_max=len(table.members()) + 1)
    table.answer(Reply(digests=[EVERYBODY]), builder)
    return builder.packets()


def by_stream(table: GossipTable, node_id: str) -> list[bytes]:
    """What an exchange brings to who knows nothing that a node says; in envelopes, as datagrams of any size."""
    builder = table.builder(packets_max=1, stream_bytes_max=STREAM_BODY_BYTES_MAX)
    table.answer(Reply(claims={node_id: (0, 0)}), builder)
    return [ClearSeal().seal(body) for body in builder.packets()]


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
        packets_max = self.limits.answer_packets_max
        self.answer = answered(self.table, self.codec.decode(data), packets_max=packets_max, now=self.now)
        return [said for packet in self.answer.packets for said in self.codec.decode(packet).messages]

    def snapshots(self) -> list[bytes]:
        """What the last answer has for a stream."""
        return [packet for node_id in self.answer.behind for packet in by_stream(self.table, node_id)]

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
    waiting = [(other, one, packet) for packet in digest_of(one.table)]
    packets = 0
    while waiting:
        to, back, packet = waiting.pop(0)
        packets += 1
        assert packets < 1000, "an exchange that does not end"
        to.receive(packet)
        waiting += [(back, to, answer) for answer in to.answer.packets + to.snapshots()]
    return packets


LIFE = 1 << 30
NEVER_S = 1e6


def at(node_id: str) -> Address:
    """Where a node with a short name is."""
    return ("10." + ".".join(map(str, node_id.encode()[-3:].rjust(3, b"\0"))), 8003)


def card(node_id: str) -> bytes:
    """What its card says."""
    return f"{at(node_id)[0]} {at(node_id)[1]}".encode()


def locate(value: bytes) -> Address | None:
    host, _, port = value.decode().partition(" ")
    return (host, int(port)) if port else None


def take_datagram(engine: GossipEngine, data: bytes, source: Address, *, now: float) -> None:
    """One datagram, whatever it is, as the node's loop hands it in."""
    packet = engine.decode(data)
    if packet is not None:
        engine.receive_packet(packet, source, now=now)


class Member:
    """A whole member in the hands of a test. It is silent of its own accord but for what ``timers`` names."""

    def __init__(self, node_id: str, *, life: int = LIFE, seed: int = 0, now: float = 0.0, **timers: float) -> None:
        silent = {"probe_s": NEVER_S, "round_s": NEVER_S, "exchange_s": NEVER_S} | timers
        self.limits, self.timers = GossipLimits(), GossipTimers(**silent)  # type: ignore[arg-type]
        self.codec = PacketCodec(CLUSTER, node_id, self.limits)
        self.now = now
        self.engine = GossipEngine(
            self.codec, life, self.limits, self.timers, Random(seed), locate=locate, now=self.now
        )
        self.node_id = node_id
        self.events: list[Event] = []

    def record_of(self, node_id: str) -> Record | None:
        return self.engine.table.record_of(node_id)

    def sent(self) -> list[tuple[Address, list[Message]]]:
        """What went out since this was asked, decoded."""
        self.events += self.engine.events()
        packets = self.engine.outgoing()
        assert all(len(one.data) <= self.limits.packet_bytes_max for one in packets)
        return [(one.address, list(self.codec.decode(one.data).messages)) for one in packets]

    def said(self) -> list[tuple[str, Message]]:
        """The same, message by message, with the last part of the address as the name of the node that it is for."""
        return [(chr(int(host.rpartition(".")[2])), said) for (host, _), packet in self.sent() for said in packet]

    def hear(self, sender: str, *messages: Message, life: int = LIFE, source: Address | None = None) -> None:
        """One packet of a node that is not there."""
        data = PacketCodec(CLUSTER, sender, self.limits).encode(life, list(map(encode_message, messages)))
        take_datagram(self.engine, data, source or at(sender), now=self.now)

    def meet(self, *node_ids: str) -> Member:
        """Know each of them at first hand, without a word or an event left of it."""
        for node_id in node_ids:
            self.hear(node_id)
        self.sent()
        self.engine._rumours.clear()
        self.events.clear()
        return self

    def pass_time(self, seconds: float) -> None:
        """Each timer when it is due."""
        until = self.now + seconds
        for _ in range(100_000):
            due = self.engine.next_timer()
            if due > until:
                break
            assert due >= self.now or due == self.engine.next_timer()
            self.now = max(self.now, due)
            self.engine.handle_timer(now=self.now)
        else:
            raise AssertionError("timers without end")
        self.now = until


def turn_after(engine: GossipEngine, bodies: Iterable[bytes], *, now: float) -> list[bytes]:
    """What is answered to one turn of an exchange."""
    answer = engine.answer_builder()
    for body in bodies:
        engine.receive_body(body, answer, now=now)
    return answer.packets()


def talk(*members: Member) -> int:
    """Deliver what they have to say until nobody says anything; how many packets it took."""
    by_address = {at(member.node_id): member for member in members}
    packets = 0
    while waiting := [(one, datagram) for one in members for datagram in one.engine.outgoing()]:
        for one, datagram in waiting:
            packets += 1
            assert packets < 10_000, "a conversation that does not end"
            assert len(datagram.data) <= one.limits.packet_bytes_max
            to = by_address.get(datagram.address)
            if to is not None:
                take_datagram(to.engine, datagram.data, at(one.node_id), now=to.now)
    return packets


def introduce(*members: Member) -> None:
    """Each knows each at first hand and has its card."""
    for member in members:
        member.engine.put(CARD, card(member.node_id), now=member.now)
    for member in members:
        member.engine.set_seeds([], now=member.now)
        for other in members:
            if other is not member:
                member.hear(other.node_id, life=other.engine.table.own.life)
    talk(*members)
