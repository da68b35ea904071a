"""Messages of gossip: values to bytes and bytes to values (``spec/gossip.md``, Bytes).

Responsible for: the layout of each message, how large it becomes, and whether one message is valid by itself. Refuses
to know: the packet that carries it (``pico.protocol.gossip.packets``), what came before, and what a message means to
whoever receives it.

Whatever the bytes, ``decode_message`` gives a message or raises ``RemoteProtocolError``. A size that was received is
compared with the bytes that are there before it is used, and nothing is allocated from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import IntEnum
from ipaddress import ip_address
from struct import Struct
from typing import Any, Final

from pico.errors import RemoteProtocolError
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

__all__ = [
    "DELTA_BYTES_MAX",
    "NAME_FIELD_BYTES_MAX",
    "PUSH_HEAD_BYTES_MAX",
    "U64",
    "FieldReader",
    "MessageType",
    "decode_message",
    "delta_head_bytes",
    "digest_entry_bytes",
    "encode_delta",
    "encode_digest",
    "encode_digest_entry",
    "encode_message",
    "encode_name",
    "encode_records",
    "encode_snapshot",
    "encode_summary_part",
    "entry_bytes",
    "push_head_bytes",
    "snapshot_head_bytes",
]

U64: Final = Struct(">Q")
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

NAME_FIELD_BYTES_MAX: Final = 1 + NAME_BYTES_MAX
DELTA_BYTES_MAX: Final = NAME_FIELD_BYTES_MAX + DELTA.size + ENTRY.size + ENTRY_BYTES_MAX
PUSH_HEAD_BYTES_MAX: Final = SEQUENCE.size + 2 * NAME_FIELD_BYTES_MAX


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
        encode_name(node_id) + _record(record, WITNESSED if node_id in records.witnessed else 0)
        for node_id, record in records.records
    )


def encode_digest(digest: Digest) -> bytes:
    return encode_name(digest.above) + encode_name(digest.upto) + b"".join(map(encode_digest_entry, digest.entries))


def encode_digest_entry(entry: DigestEntry) -> bytes:
    flag = HEARSAY if entry.hearsay else 0
    return encode_name(entry.node_id) + _record(entry.record, flag) + U64.pack(entry.applied)


def encode_delta(delta: Delta) -> bytes:
    head = DELTA.pack(delta.life, delta.start, delta.floor)
    return encode_name(delta.node_id) + head + _entries(delta.entries)


def encode_snapshot(snapshot: Snapshot) -> bytes:
    head = SNAPSHOT.pack(snapshot.life, snapshot.floor)
    return encode_name(snapshot.node_id) + head + _entries(snapshot.entries)


def encode_summary(summary: Summary) -> bytes:
    return b"".join(map(encode_summary_part, summary.parts))


def encode_summary_part(part: tuple[Range, int]) -> bytes:
    range_, hash_ = part
    return _range(range_) + U64.pack(hash_)


def encode_ping(ping: Ping) -> bytes:
    return SEQUENCE.pack(ping.sequence) + encode_name(ping.node_id)


def encode_ack(ack: Ack) -> bytes:
    return SEQUENCE.pack(ack.sequence) + encode_name(ack.node_id) + U64.pack(ack.life)


def encode_ping_request(request: PingRequest) -> bytes:
    host, port = request.address
    return SEQUENCE.pack(request.sequence) + encode_name(request.node_id) + encode_name(host) + PORT.pack(port)


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


def encode_name(name: str) -> bytes:
    data = name.encode("ascii")
    return bytes((len(data),)) + data


def _range(range_: Range) -> bytes:
    return encode_name(range_.above) + encode_name(range_.upto)


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


class FieldReader:
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


def _decode_records(reader: FieldReader) -> Records:
    records, witnessed = [], []
    while reader.more:
        node_id = reader.name()
        record, witness = reader.record(WITNESSED)
        records.append((node_id, record))
        if witness:
            witnessed.append(node_id)
    return Records(tuple(records), frozenset(witnessed))


def _decode_digest(reader: FieldReader) -> Digest:
    range_ = reader.range()
    entries: list[DigestEntry] = []
    while reader.more:
        node_id = reader.name()
        record, hearsay = reader.record(HEARSAY)
        entries.append(DigestEntry(node_id, record, reader.fields(U64)[0], hearsay))
        if len(entries) > 1 and entries[-2].node_id >= entries[-1].node_id:  # GOSSIP-31
            raise reader.fault("nodes that are not in order")
    return Digest(*range_, tuple(entries))


def _decode_delta(reader: FieldReader) -> Delta:
    node_id = reader.name()
    life, start, floor = reader.fields(DELTA)
    if floor > start or not reader.more:  # GOSSIP-31
        raise reader.fault(f"from {start} with the floor {floor}, or without entries")
    return Delta(node_id, reader.life(life), start, floor, reader.entries(start))


def _decode_snapshot(reader: FieldReader) -> Snapshot:
    node_id = reader.name()
    life, floor = reader.fields(SNAPSHOT)
    entries = reader.entries(0)
    if any(entry.value is None and entry.version <= floor for entry in entries):  # GOSSIP-31
        raise reader.fault(f"a tombstone up to the floor {floor}")
    return Snapshot(node_id, reader.life(life), floor, entries)


def _decode_summary(reader: FieldReader) -> Summary:
    parts = []
    while reader.more:
        parts.append((reader.range(), reader.fields(U64)[0]))
    return Summary(tuple(parts))


# What a later revision appends to the following messages is skipped (GOSSIP-52).


def _decode_ping(reader: FieldReader) -> Ping:
    return Ping(reader.fields(SEQUENCE)[0], reader.name())


def _decode_ack(reader: FieldReader) -> Ack:
    return Ack(reader.fields(SEQUENCE)[0], reader.name(), reader.life(reader.fields(U64)[0]))


def _decode_ping_request(reader: FieldReader) -> PingRequest:
    return PingRequest(reader.fields(SEQUENCE)[0], reader.name(), reader.address())


def _decode_nack(reader: FieldReader) -> Nack:
    return Nack(reader.fields(SEQUENCE)[0])


def _decode_push(reader: FieldReader) -> Push:
    return Push(reader.fields(SEQUENCE)[0], reader.range(), _decode_delta(reader))


def _decode_pushed(reader: FieldReader) -> Pushed:
    sequence, life, applied = reader.fields(PUSHED)
    return Pushed(sequence, reader.life(life), applied)


_DECODERS: Final[dict[int, Callable[[FieldReader], Message]]] = {
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


def decode_message(type_: int, payload: bytes) -> Message | None:
    """What one message says; None for a type that has no name here. Raises ``RemoteProtocolError``."""
    decode = _DECODERS.get(type_)
    return None if decode is None else decode(FieldReader(MessageType(type_).name, payload))
