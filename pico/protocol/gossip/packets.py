"""Packets of gossip: messages in order, and who says them (``spec/gossip.md``, Bytes).

Responsible for: the cluster and the sender in front, telling one message from the next, and never making a packet that
is larger than the limit. Refuses to know: the envelope around it all (``pico.protocol.seal``), and what stands within
a message (``pico.protocol.gossip.wire``).
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import Final, NamedTuple

from pico.config import GossipLimits
from pico.errors import ConfigError, RemoteProtocolError
from pico.protocol.gossip.values import NAME_BYTES_MAX, Message, valid_name
from pico.protocol.gossip.wire import (
    DELTA_BYTES_MAX,
    NAME_FIELD_BYTES_MAX,
    PUSH_HEAD_BYTES_MAX,
    U64,
    FieldReader,
    MessageType,
    decode_message,
    encode_message,
    encode_name,
)
from pico.protocol.seal import ClearSeal, KeySeal, Seal

__all__ = [
    "PACKET_BYTES_MAX",
    "PACKET_BYTES_MIN",
    "ForeignCluster",
    "Packet",
    "PacketBuilder",
    "PacketCodec",
]

SECTION: Final = Struct(">BI")
"""In front of each message: its type and its size."""

PACKET_BYTES_MIN: Final = 1_024
"""The least ``packet_bytes_max``: with the longest names, the largest entry fits the packet of every node."""

PACKET_BYTES_MAX: Final = 65_507
"""The largest payload of UDP over IPv4."""

SEAL_BYTES_MAX: Final = max(ClearSeal.overhead_bytes, KeySeal.overhead_bytes)
ENVELOPE_BYTES_MAX: Final = SEAL_BYTES_MAX + 2 * NAME_FIELD_BYTES_MAX + U64.size
assert ENVELOPE_BYTES_MAX + SECTION.size + PUSH_HEAD_BYTES_MAX + DELTA_BYTES_MAX <= PACKET_BYTES_MIN, (
    "an entry that fits no packet"
)


class ForeignCluster(RemoteProtocolError):
    """A packet of another cluster: not broken, but not for us."""


class Packet(NamedTuple):
    """What one packet says, and who says it."""

    sender: str
    life: int
    messages: tuple[Message, ...]
    unknown: int
    """Messages of a type that has no name here."""


class PacketCodec:
    """The packets of one node in one cluster, by default in the clear.

    Raises ``ConfigError`` for names and limits with which no packet could be made.
    """

    def __init__(self, cluster: str, node_id: str, limits: GossipLimits, seal: Seal | None = None) -> None:
        for field, name in (("cluster_name", cluster), ("node_id", node_id)):
            if not valid_name(name):  # GOSSIP-33
                raise ConfigError(field, name, f"1 to {NAME_BYTES_MAX} of A-Z a-z 0-9 . _ -")
        if not PACKET_BYTES_MIN <= limits.packet_bytes_max <= PACKET_BYTES_MAX:  # GOSSIP-33
            raise ConfigError("packet_bytes_max", limits.packet_bytes_max, f"{PACKET_BYTES_MIN} to {PACKET_BYTES_MAX}")
        self.node_id = node_id
        self.packet_bytes_max = limits.packet_bytes_max
        self._seal: Seal = seal if seal is not None else ClearSeal()
        self._cluster = encode_name(cluster)
        self._names = self._cluster + encode_name(node_id)
        self.body_head_bytes = len(self._names) + U64.size
        self.envelope_bytes = self._seal.overhead_bytes + self.body_head_bytes

    def encode(self, life: int, messages: Sequence[tuple[MessageType, bytes]]) -> bytes:
        """One packet with these payloads, whatever its size."""
        return self._seal.seal(self.encode_body(life, messages))

    def encode_body(self, life: int, messages: Sequence[tuple[MessageType, bytes]]) -> bytes:
        """The packet without its envelope, for a stream that has one itself."""
        sections = [SECTION.pack(type_, len(payload)) + payload for type_, payload in messages]
        return b"".join((self._names, U64.pack(life), *sections))

    def decode(self, data: bytes) -> Packet:
        """What a packet says. Raises ``RemoteProtocolError`` or one of its named kinds, here and in ``seal``."""
        return self.decode_body(self._seal.open(data))

    def is_snapshot(self, body: bytes) -> bool:
        """Whether a body says a snapshot and nothing else, by its first message; nothing behind that is looked at."""
        reader = FieldReader("packet", body)
        reader.at = len(self._cluster)
        reader.name()
        reader.fields(U64)
        type_, size = reader.fields(SECTION)
        return bool(type_ == MessageType.SNAPSHOT and reader.at + size == len(body))

    def decode_body(self, body: bytes) -> Packet:
        """What a packet without its envelope says. Raises ``RemoteProtocolError``; ``ForeignCluster`` has its name."""
        reader = FieldReader("packet", body)
        if not body.startswith(self._cluster):  # GOSSIP-27
            raise ForeignCluster(f"packet: of the cluster {reader.name()}")
        reader.at += len(self._cluster)
        sender, life = reader.name(), reader.life(reader.fields(U64)[0])
        messages, unknown = [], 0
        while reader.more:
            type_, size = reader.fields(SECTION)
            payload = reader.bytes(size)
            message = decode_message(type_, payload)
            if message is None:  # GOSSIP-28
                unknown += 1
            else:
                messages.append(message)
        return Packet(sender, life, tuple(messages), unknown)


class PacketBuilder:
    """Messages in order, in as few packets as they fill; no packet is larger than the limit.

    For a stream it makes bodies of up to ``stream_bytes_max``, which need no envelope.
    """

    def __init__(self, codec: PacketCodec, life: int, packets_max: int, *, stream_bytes_max: int = 0) -> None:
        self._codec = codec
        self._life = life
        self._packets_max = packets_max
        self._packets: list[bytes] = []
        self._messages: list[tuple[MessageType, bytes]] = []
        self.is_stream = stream_bytes_max > 0
        self._room_bytes = self._whole_room_bytes = (
            stream_bytes_max - codec.body_head_bytes
            if self.is_stream
            else codec.packet_bytes_max - codec.envelope_bytes
        )

    def room_for(self, least_bytes: int) -> int:
        """How large the next payload may be: at least so large, if need be in a new packet; 0 when all are full."""
        if self._room_bytes - SECTION.size < least_bytes:
            self._end_packet()
        if len(self._packets) >= self._packets_max:  # GOSSIP-23; more, when some stand alone
            return 0
        assert self._room_bytes - SECTION.size >= least_bytes, "a message that fits no packet"
        return self._room_bytes - SECTION.size

    @property
    def has_messages(self) -> bool:
        """Whether the packet that is being filled says something already."""
        return bool(self._messages)

    @property
    def spare_bytes(self) -> int:
        """How large the next payload may be without a new packet."""
        return self._room_bytes - SECTION.size

    @property
    def whole_room_bytes(self) -> int:
        """How large the only payload of a packet may be."""
        return self._whole_room_bytes - SECTION.size

    def add(self, type_: MessageType, payload: bytes) -> None:
        """One message, of a size that there is room for."""
        self._messages.append((type_, payload))
        self._room_bytes -= SECTION.size + len(payload)

    def say(self, message: Message) -> None:
        """One message that is small, in a new packet if need be; it is left out when all are full."""
        type_, payload = encode_message(message)
        if self.room_for(len(payload)):
            self.add(type_, payload)

    def add_alone(self, type_: MessageType, payload: bytes) -> None:
        """One message of any size in a body of its own."""
        assert self.is_stream, "a datagram has a limit"
        self._end_packet()
        self._packets.append(self._codec.encode_body(self._life, [(type_, payload)]))

    def packets(self) -> list[bytes]:
        """All of them; nothing can be added after this."""
        self._end_packet()
        return self._packets

    def _end_packet(self) -> None:
        if not self._messages:
            return
        if self.is_stream:
            packet = self._codec.encode_body(self._life, self._messages)
        else:
            packet = self._codec.encode(self._life, self._messages)
            assert len(packet) <= self._codec.packet_bytes_max, "a packet over the limit"  # GOSSIP-22
        self._packets.append(packet)
        self._messages = []
        self._room_bytes = self._whole_room_bytes
