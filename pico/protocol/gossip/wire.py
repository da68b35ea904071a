"""Packets of gossip: values to bytes and bytes to values (``spec/gossip.md``, Bytes).

Responsible for: the cluster and the sender in front, the layout of each message, whether one message is valid by
itself, and never making a packet that is larger than the limit. Refuses to know: the envelope around it all
(``pico.protocol.seal``), what came before, and what a message means to whoever receives it.

Whatever the bytes, ``decode`` gives a packet or raises ``RemoteProtocolError``. A size that was received is compared
with the bytes that are there before it is used, and nothing is allocated from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from enum import IntEnum
from struct import Struct
from typing import Final, NamedTuple

from pico.config import GossipLimits
from pico.errors import ConfigError, RemoteProtocolError
from pico.protocol.gossip.values import (
    ENTRY_BYTES_MAX,
    NAME_BYTES_MAX,
    Delta,
    Digest,
    DigestEntry,
    Entry,
    Message,
    Rank,
    Record,
    Records,
    Snapshot,
    valid_name,
)
from pico.protocol.seal import ClearSeal, KeySeal, OtherVersion, Seal

__all__ = [
    "PACKET_BYTES_MAX",
    "PACKET_BYTES_MIN",
    "ForeignCluster",
    "MessageType",
    "OtherVersion",
    "Packet",
    "PacketBuilder",
    "PacketCodec",
    "delta_head_bytes",
    "digest_entry_bytes",
    "encode_delta",
    "encode_digest",
    "encode_digest_entry",
    "encode_records",
    "encode_snapshot",
    "entry_bytes",
    "snapshot_head_bytes",
]

U64: Final = Struct(">Q")
SECTION: Final = Struct(">BI")
RECORD: Final = Struct(">QBI")
DELTA: Final = Struct(">QQQ")
SNAPSHOT: Final = Struct(">QQ")
ENTRY: Final = Struct(">QHH")

LEFT: Final = 0x04
RANKS: Final = 0x03
TOMBSTONE: Final = 0xFFFF

PACKET_BYTES_MIN: Final = 1_024
"""The least ``packet_bytes_max``: with the longest names, the largest entry fits the packet of every node."""

PACKET_BYTES_MAX: Final = 65_507
"""The largest payload of UDP over IPv4."""

NAME_FIELD_BYTES_MAX: Final = 1 + NAME_BYTES_MAX
SEAL_BYTES_MAX: Final = max(ClearSeal.overhead_bytes, KeySeal.overhead_bytes)
ENVELOPE_BYTES_MAX: Final = SEAL_BYTES_MAX + 2 * NAME_FIELD_BYTES_MAX + U64.size
DELTA_BYTES_MAX: Final = SECTION.size + NAME_FIELD_BYTES_MAX + DELTA.size + ENTRY.size + ENTRY_BYTES_MAX
assert ENVELOPE_BYTES_MAX + DELTA_BYTES_MAX <= PACKET_BYTES_MIN, "an entry that fits no packet"


class MessageType(IntEnum):
    """The first field of every message."""

    RECORDS = 1
    DIGEST = 2
    DELTA = 3
    SNAPSHOT = 4


class ForeignCluster(RemoteProtocolError):
    """A packet of another cluster: not broken, but not for us."""


class Packet(NamedTuple):
    """What one packet says, and who says it."""

    sender: str
    life: int
    messages: tuple[Message, ...]
    unknown: int
    """Messages of a type that has no name here."""


# Sizes, known before a byte is written.


def entry_bytes(entry: Entry) -> int:
    """The size of one entry in a delta or a snapshot."""
    return ENTRY.size + len(entry.key) + len(entry.value or b"")


def digest_entry_bytes(entry: DigestEntry) -> int:
    """The size of one entry of a digest."""
    return 1 + len(entry.node_id) + RECORD.size + U64.size


def delta_head_bytes(node_id: str) -> int:
    """The size of a delta without entries."""
    return 1 + len(node_id) + DELTA.size


def snapshot_head_bytes(node_id: str) -> int:
    """The size of a snapshot without entries."""
    return 1 + len(node_id) + SNAPSHOT.size


# Values to bytes: the payload of one message.


def encode_records(records: Iterable[tuple[str, Record]]) -> bytes:
    return b"".join(_name(node_id) + _record(record) for node_id, record in records)


def encode_digest(digest: Digest) -> bytes:
    return _name(digest.above) + _name(digest.upto) + b"".join(map(encode_digest_entry, digest.entries))


def encode_digest_entry(entry: DigestEntry) -> bytes:
    return _name(entry.node_id) + _record(entry.record) + U64.pack(entry.applied)


def encode_delta(delta: Delta) -> bytes:
    head = DELTA.pack(delta.life, delta.start, delta.floor)
    return _name(delta.node_id) + head + _entries(delta.entries)


def encode_snapshot(snapshot: Snapshot) -> bytes:
    head = SNAPSHOT.pack(snapshot.life, snapshot.floor)
    return _name(snapshot.node_id) + head + _entries(snapshot.entries)


def _name(name: str) -> bytes:
    data = name.encode("ascii")
    return bytes((len(data),)) + data


def _record(record: Record) -> bytes:
    return RECORD.pack(record.life, record.rank | (LEFT if record.left else 0), record.inc)


def _entries(entries: Iterable[Entry]) -> bytes:
    parts = []
    for version, key, value in entries:
        parts.append(ENTRY.pack(version, len(key), TOMBSTONE if value is None else len(value)))
        parts.append(key)
        parts.append(value or b"")
    return b"".join(parts)


# Bytes to values.


class _Reader:
    """Takes fields from the front of a payload; every fault is the sender's."""

    __slots__ = ("at", "data", "what")

    def __init__(self, what: str, data: bytes) -> None:
        self.what = what
        self.data = data
        self.at = 0

    def fault(self, fault: str) -> RemoteProtocolError:
        return RemoteProtocolError(f"{self.what}: {fault}")

    @property
    def more(self) -> bool:
        return self.at < len(self.data)

    def bytes(self, size: int) -> bytes:
        end = self.at + size
        if end > len(self.data):  # GOSSIP-30
            raise self.fault(f"{size} bytes at {self.at}, past the end")
        taken = self.data[self.at : end]
        self.at = end
        return taken

    def fields(self, layout: Struct) -> tuple[int, ...]:
        return layout.unpack(self.bytes(layout.size))

    def name(self, *, may_be_empty: bool = False) -> str:
        name = self.bytes(self.bytes(1)[0]).decode("latin-1")
        if not (valid_name(name) or (may_be_empty and not name)):  # GOSSIP-29
            raise self.fault("a name that is not valid")
        return name

    def life(self, life: int) -> int:
        if not life:  # GOSSIP-32
            raise self.fault("the life zero")
        return life

    def record(self) -> Record:
        life, state, inc = self.fields(RECORD)
        if state & ~(LEFT | RANKS) or state & RANKS > Rank.DEAD:
            raise self.fault(f"a state {state:#04x} that has no name")  # GOSSIP-32
        return Record(self.life(life), bool(state & LEFT), inc, Rank(state & RANKS))

    def entries(self, start: int) -> tuple[Entry, ...]:
        """To the end: versions above ``start``, growing, no key twice."""
        found: dict[bytes, Entry] = {}
        while self.more:
            version, key_size, value_size = self.fields(ENTRY)
            is_tombstone = value_size == TOMBSTONE
            if version <= start:  # GOSSIP-31
                raise self.fault(f"the version {version} after {start}")
            if not key_size or key_size + (0 if is_tombstone else value_size) > ENTRY_BYTES_MAX:
                raise self.fault(f"an entry of {key_size} and {value_size} bytes")
            key = self.bytes(key_size)
            if key in found:
                raise self.fault(f"the key {key!r} twice")
            found[key] = Entry(version, key, None if is_tombstone else self.bytes(value_size))
            start = version
        return tuple(found.values())


def _decode_records(reader: _Reader) -> Records:
    records = []
    while reader.more:
        records.append((reader.name(), reader.record()))
    return Records(tuple(records))


def _decode_digest(reader: _Reader) -> Digest:
    above, upto = reader.name(may_be_empty=True), reader.name(may_be_empty=True)
    if upto and upto < above:
        raise reader.fault("a range that ends before it begins")
    entries: list[DigestEntry] = []
    while reader.more:
        entries.append(DigestEntry(reader.name(), reader.record(), reader.fields(U64)[0]))
        if len(entries) > 1 and entries[-2].node_id >= entries[-1].node_id:  # GOSSIP-31
            raise reader.fault("nodes that are not in order")
    return Digest(above, upto, tuple(entries))


def _decode_delta(reader: _Reader) -> Delta:
    node_id = reader.name()
    life, start, floor = reader.fields(DELTA)
    if floor > start or not reader.more:  # GOSSIP-31
        raise reader.fault(f"from {start} with the floor {floor}, or without entries")
    return Delta(node_id, reader.life(life), start, floor, reader.entries(start))


def _decode_snapshot(reader: _Reader) -> Snapshot:
    node_id = reader.name()
    life, floor = reader.fields(SNAPSHOT)
    entries = reader.entries(0)
    if any(entry.value is None and entry.version <= floor for entry in entries):  # GOSSIP-31
        raise reader.fault(f"a tombstone up to the floor {floor}")
    return Snapshot(node_id, reader.life(life), floor, entries)


_DECODERS: Final[dict[int, Callable[[_Reader], Message]]] = {
    MessageType.RECORDS: _decode_records,
    MessageType.DIGEST: _decode_digest,
    MessageType.DELTA: _decode_delta,
    MessageType.SNAPSHOT: _decode_snapshot,
}


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
        self._cluster = _name(cluster)
        self._names = self._cluster + _name(node_id)
        self.envelope_bytes = self._seal.overhead_bytes + len(self._names) + U64.size

    def encode(self, life: int, messages: Sequence[tuple[MessageType, bytes]]) -> bytes:
        """One packet with these payloads, whatever its size."""
        return self._seal.seal(self.encode_body(life, messages))

    def encode_body(self, life: int, messages: Sequence[tuple[MessageType, bytes]]) -> bytes:
        """The same without its envelope, for a channel, which has one of its own."""
        sections = [SECTION.pack(type_, len(payload)) + payload for type_, payload in messages]
        return b"".join((self._names, U64.pack(life), *sections))

    def decode(self, data: bytes) -> Packet:
        """What a packet says. Raises ``RemoteProtocolError`` or one of its named kinds, here and in ``seal``."""
        return self.decode_body(self._seal.open(data))

    def decode_body(self, body: bytes) -> Packet:
        """What a packet without its envelope says. Raises ``RemoteProtocolError``; ``ForeignCluster`` has its name."""
        reader = _Reader("packet", body)
        if not body.startswith(self._cluster):  # GOSSIP-27
            raise ForeignCluster(f"packet: of the cluster {reader.name()}")
        reader.at += len(self._cluster)
        sender, life = reader.name(), reader.life(reader.fields(U64)[0])
        messages, unknown = [], 0
        while reader.more:
            type_, size = reader.fields(SECTION)
            payload = reader.bytes(size)
            decode = _DECODERS.get(type_)
            if decode is None:  # GOSSIP-28
                unknown += 1
            else:
                messages.append(decode(_Reader(MessageType(type_).name, payload)))
        return Packet(sender, life, tuple(messages), unknown)


class PacketBuilder:
    """Messages in order, in as few packets as they fill; no packet is larger than the limit."""

    def __init__(self, codec: PacketCodec, life: int, packets_max: int) -> None:
        self._codec = codec
        self._life = life
        self._packets_max = packets_max
        self._packets: list[bytes] = []
        self._messages: list[tuple[MessageType, bytes]] = []
        self._room_bytes = self._whole_room_bytes = codec.packet_bytes_max - codec.envelope_bytes

    def room_for(self, least_bytes: int) -> int:
        """How large the next payload may be: at least so large, if need be in a new packet; 0 when all are full."""
        if self._room_bytes - SECTION.size < least_bytes:
            self._end_packet()
        if len(self._packets) == self._packets_max:  # GOSSIP-23
            return 0
        assert self._room_bytes - SECTION.size >= least_bytes, "a message that fits no packet"
        return self._room_bytes - SECTION.size

    @property
    def whole_room_bytes(self) -> int:
        """How large the only payload of a packet may be."""
        return self._whole_room_bytes - SECTION.size

    def add(self, type_: MessageType, payload: bytes) -> None:
        """One message, of a size that there is room for."""
        self._messages.append((type_, payload))
        self._room_bytes -= SECTION.size + len(payload)

    def packets(self) -> list[bytes]:
        """All of them; nothing can be added after this."""
        self._end_packet()
        return self._packets

    def _end_packet(self) -> None:
        if self._messages:
            packet = self._codec.encode(self._life, self._messages)
            assert len(packet) <= self._codec.packet_bytes_max, "a packet over the limit"  # GOSSIP-22
            self._packets.append(packet)
            self._messages = []
            self._room_bytes = self._whole_room_bytes
