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
from ipaddress import ip_address
from struct import Struct
from typing import Any, Final, NamedTuple

from pico.config import GossipLimits
from pico.errors import ConfigError, RemoteProtocolError
from pico.protocol.gossip.values import (
    ENTRY_BYTES_MAX,
    NAME_BYTES_MAX,
    Ack,
    Address,
    Delta,
    Digest,
    DigestEntry,
    Entry,
    Message,
    Nack,
    Ping,
    PingRequest,
    Push,
    Pushed,
    Range,
    Rank,
    Record,
    Records,
    Snapshot,
    Summary,
    valid_name,
)
from pico.protocol.seal import ClearSeal, KeySeal, OtherVersion, Seal

__all__ = [
    "PACKET_BYTES_MAX",
    "PACKET_BYTES_MIN",
    "PUSH_HEAD_BYTES_MAX",
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
    "encode_message",
    "encode_records",
    "encode_snapshot",
    "encode_summary_part",
    "entry_bytes",
    "push_head_bytes",
    "snapshot_head_bytes",
]

U64: Final = Struct(">Q")
SECTION: Final = Struct(">BI")
RECORD: Final = Struct(">QBI")
DELTA: Final = Struct(">QQQ")
SNAPSHOT: Final = Struct(">QQ")
ENTRY: Final = Struct(">QHH")

SEQUENCE: Final = Struct(">I")
PUSHED: Final = Struct(">IQQ")
PORT: Final = Struct(">H")

RANKS: Final = 0x03
LEFT: Final = 0x04
HEARSAY: Final = 0x08  # in a digest
WITNESSED: Final = 0x10  # of a suspect, in records
TOMBSTONE: Final = 0xFFFF

PACKET_BYTES_MIN: Final = 1_024
"""The least ``packet_bytes_max``: with the longest names, the largest entry fits the packet of every node."""

PACKET_BYTES_MAX: Final = 65_507
"""The largest payload of UDP over IPv4."""

NAME_FIELD_BYTES_MAX: Final = 1 + NAME_BYTES_MAX
SEAL_BYTES_MAX: Final = max(ClearSeal.overhead_bytes, KeySeal.overhead_bytes)
ENVELOPE_BYTES_MAX: Final = SEAL_BYTES_MAX + 2 * NAME_FIELD_BYTES_MAX + U64.size
DELTA_BYTES_MAX: Final = SECTION.size + NAME_FIELD_BYTES_MAX + DELTA.size + ENTRY.size + ENTRY_BYTES_MAX
PUSH_HEAD_BYTES_MAX: Final = SEQUENCE.size + 2 * NAME_FIELD_BYTES_MAX
assert ENVELOPE_BYTES_MAX + PUSH_HEAD_BYTES_MAX + DELTA_BYTES_MAX <= PACKET_BYTES_MIN, "an entry that fits no packet"


class MessageType(IntEnum):
    """The first field of every message."""

    RECORDS = 1
    DIGEST = 2
    DELTA = 3
    SNAPSHOT = 4
    SUMMARY = 5
    PING = 6
    ACK = 7
    PING_REQUEST = 8
    NACK = 9
    PUSH = 10
    PUSHED = 11


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


def push_head_bytes(range_: Range) -> int:
    """The size of a push without its delta."""
    return SEQUENCE.size + 2 + len(range_.above) + len(range_.upto)


def snapshot_head_bytes(node_id: str) -> int:
    """The size of a snapshot without entries."""
    return 1 + len(node_id) + SNAPSHOT.size


# Values to bytes: the payload of one message.


def encode_message(message: Message) -> tuple[MessageType, bytes]:
    """The type and the payload of any message."""
    type_, encode = _ENCODERS[type(message)]
    return type_, encode(message)


def encode_records(records: Records) -> bytes:
    return b"".join(
        _name(node_id) + _record(record, WITNESSED if node_id in records.witnessed else 0)
        for node_id, record in records.records
    )


def encode_digest(digest: Digest) -> bytes:
    return _name(digest.above) + _name(digest.upto) + b"".join(map(encode_digest_entry, digest.entries))


def encode_digest_entry(entry: DigestEntry) -> bytes:
    flag = HEARSAY if entry.hearsay else 0
    return _name(entry.node_id) + _record(entry.record, flag) + U64.pack(entry.applied)


def encode_delta(delta: Delta) -> bytes:
    head = DELTA.pack(delta.life, delta.start, delta.floor)
    return _name(delta.node_id) + head + _entries(delta.entries)


def encode_snapshot(snapshot: Snapshot) -> bytes:
    head = SNAPSHOT.pack(snapshot.life, snapshot.floor)
    return _name(snapshot.node_id) + head + _entries(snapshot.entries)


def encode_summary(summary: Summary) -> bytes:
    return b"".join(map(encode_summary_part, summary.parts))


def encode_summary_part(part: tuple[Range, int]) -> bytes:
    range_, hash_ = part
    return _range(range_) + U64.pack(hash_)


def encode_ping(ping: Ping) -> bytes:
    return SEQUENCE.pack(ping.sequence) + _name(ping.node_id)


def encode_ack(ack: Ack) -> bytes:
    return SEQUENCE.pack(ack.sequence) + _name(ack.node_id) + U64.pack(ack.life)


def encode_ping_request(request: PingRequest) -> bytes:
    host, port = request.address
    return SEQUENCE.pack(request.sequence) + _name(request.node_id) + _name(host) + PORT.pack(port)


def encode_nack(nack: Nack) -> bytes:
    return SEQUENCE.pack(nack.sequence)


def encode_push(push: Push) -> bytes:
    return SEQUENCE.pack(push.sequence) + _range(push.range) + encode_delta(push.delta)


def encode_pushed(pushed: Pushed) -> bytes:
    return PUSHED.pack(*pushed)


_ENCODERS: Final[dict[type[Any], tuple[MessageType, Callable[[Any], bytes]]]] = {
    Records: (MessageType.RECORDS, encode_records),
    Digest: (MessageType.DIGEST, encode_digest),
    Delta: (MessageType.DELTA, encode_delta),
    Snapshot: (MessageType.SNAPSHOT, encode_snapshot),
    Summary: (MessageType.SUMMARY, encode_summary),
    Ping: (MessageType.PING, encode_ping),
    Ack: (MessageType.ACK, encode_ack),
    PingRequest: (MessageType.PING_REQUEST, encode_ping_request),
    Nack: (MessageType.NACK, encode_nack),
    Push: (MessageType.PUSH, encode_push),
    Pushed: (MessageType.PUSHED, encode_pushed),
}


def _name(name: str) -> bytes:
    data = name.encode("ascii")
    return bytes((len(data),)) + data


def _range(range_: Range) -> bytes:
    return _name(range_.above) + _name(range_.upto)


def _record(record: Record, flag: int = 0) -> bytes:
    return RECORD.pack(record.life, record.rank | (LEFT if record.left else 0) | flag, record.inc)


def _entries(entries: Iterable[Entry]) -> bytes:
    parts = []
    for version, key, value in entries:
        parts.append(ENTRY.pack(version, len(key), TOMBSTONE if value is None else len(value)))
        parts.append(key)
        parts.append(value or b"")
    return b"".join(parts)


# Bytes to values.


def _is_ip_address(host: str) -> bool:
    """Whether it is one in its text form, so that nobody has to be asked what the name means."""
    try:
        return "%" not in host and bool(ip_address(host))
    except ValueError:
        return False


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

    def range(self) -> Range:
        above, upto = self.name(may_be_empty=True), self.name(may_be_empty=True)
        if upto and upto < above:  # GOSSIP-31
            raise self.fault("a range that ends before it begins")
        return Range(above, upto)

    def record(self, flag: int) -> tuple[Record, bool]:
        """The record, and whether the one flag that may stand beside it does."""
        life, state, inc = self.fields(RECORD)
        if state & ~(LEFT | RANKS | flag) or state & RANKS > Rank.DEAD:
            raise self.fault(f"a state {state:#04x} that has no name")  # GOSSIP-32
        return Record(self.life(life), bool(state & LEFT), inc, Rank(state & RANKS)), bool(state & flag)

    def address(self) -> Address:
        host, (port,) = self.bytes(self.bytes(1)[0]).decode("latin-1"), self.fields(PORT)
        if not (port and _is_ip_address(host)):  # GOSSIP-49
            raise self.fault("an address that is not valid")
        return host, port

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
    records, witnessed = [], []
    while reader.more:
        node_id = reader.name()
        record, witness = reader.record(WITNESSED)
        records.append((node_id, record))
        if witness:
            witnessed.append(node_id)
    return Records(tuple(records), frozenset(witnessed))


def _decode_digest(reader: _Reader) -> Digest:
    range_ = reader.range()
    entries: list[DigestEntry] = []
    while reader.more:
        node_id = reader.name()
        record, hearsay = reader.record(HEARSAY)
        entries.append(DigestEntry(node_id, record, reader.fields(U64)[0], hearsay))
        if len(entries) > 1 and entries[-2].node_id >= entries[-1].node_id:  # GOSSIP-31
            raise reader.fault("nodes that are not in order")
    return Digest(*range_, tuple(entries))


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


def _decode_summary(reader: _Reader) -> Summary:
    parts = []
    while reader.more:
        parts.append((reader.range(), reader.fields(U64)[0]))
    return Summary(tuple(parts))


# What a later revision appends to the following messages is skipped (GOSSIP-52).


def _decode_ping(reader: _Reader) -> Ping:
    return Ping(reader.fields(SEQUENCE)[0], reader.name())


def _decode_ack(reader: _Reader) -> Ack:
    return Ack(reader.fields(SEQUENCE)[0], reader.name(), reader.life(reader.fields(U64)[0]))


def _decode_ping_request(reader: _Reader) -> PingRequest:
    return PingRequest(reader.fields(SEQUENCE)[0], reader.name(), reader.address())


def _decode_nack(reader: _Reader) -> Nack:
    return Nack(reader.fields(SEQUENCE)[0])


def _decode_push(reader: _Reader) -> Push:
    return Push(reader.fields(SEQUENCE)[0], reader.range(), _decode_delta(reader))


def _decode_pushed(reader: _Reader) -> Pushed:
    sequence, life, applied = reader.fields(PUSHED)
    return Pushed(sequence, reader.life(life), applied)


_DECODERS: Final[dict[int, Callable[[_Reader], Message]]] = {
    MessageType.RECORDS: _decode_records,
    MessageType.DIGEST: _decode_digest,
    MessageType.DELTA: _decode_delta,
    MessageType.SNAPSHOT: _decode_snapshot,
    MessageType.SUMMARY: _decode_summary,
    MessageType.PING: _decode_ping,
    MessageType.ACK: _decode_ack,
    MessageType.PING_REQUEST: _decode_ping_request,
    MessageType.NACK: _decode_nack,
    MessageType.PUSH: _decode_push,
    MessageType.PUSHED: _decode_pushed,
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
        reader = _Reader("packet", body)
        reader.at = len(self._cluster)
        reader.name()
        reader.fields(U64)
        type_, size = reader.fields(SECTION)
        return bool(type_ == MessageType.SNAPSHOT and reader.at + size == len(body))

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
