"""The first message of each side of a channel: who it is, and what it speaks (``spec/channel.md``, Bytes).

Responsible for: the layout of a hello, and whether one is valid by itself. Refuses to know: whether it is for us.

Its first eight bytes are the same in every version, so that two nodes that share none can still tell each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from struct import Struct
from typing import Final, NamedTuple
from zlib import crc32

from pico.errors import ConfigError
from pico.protocol.channel.failures import ChannelViolation
from pico.protocol.gossip.values import NAME_BYTES_MAX, valid_name
from pico.protocol.seal import KEY_ID_BYTES, KeyRing, key_id

__all__ = [
    "ANSWER",
    "HEAD",
    "RANDOM_BYTES",
    "SEALED",
    "Head",
    "Hello",
    "Identity",
    "Purpose",
    "decode_head",
    "decode_hello",
    "encode_hello",
]

MAGIC: Final = b"pc"
SEALED: Final = 0x01
ANSWER: Final = 0
RANDOM_BYTES: Final = 16
VERSION_MAX: Final = 255

HEAD: Final = Struct(">2sBBBBH")
FIELDS: Final = Struct(f">{RANDOM_BYTES}s{KEY_ID_BYTES}sQ")
CHECKSUM: Final = Struct(">I")


class Purpose(IntEnum):
    """What a channel is for; the side that dials says it."""

    EXCHANGE = 1
    """One exchange of gossip, in turns."""

    LINK = 2
    """RPC messages, until one side has no further use for it."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What a node says of itself when a channel begins. Raises ``ConfigError`` for what no hello could say."""

    cluster: str
    node_id: str
    life: int
    keys: KeyRing | None = None
    version_min: int = 1
    version_max: int = 1

    def __post_init__(self) -> None:
        for field, name in (("cluster_name", self.cluster), ("node_id", self.node_id)):
            if not valid_name(name):
                raise ConfigError(field, name, f"1 to {NAME_BYTES_MAX} of A-Z a-z 0-9 . _ -")
        if not 1 <= self.version_min <= self.version_max <= VERSION_MAX:  # CHANNEL-4
            versions = f"{self.version_min} to {self.version_max}"
            raise ConfigError("channel_versions", versions, f"1 to {VERSION_MAX}, the lower one first")


class Head(NamedTuple):
    """The part of a hello that never changes."""

    version_min: int
    version_max: int
    flags: int
    purpose: int
    size: int
    """Of the whole hello."""


class Hello(NamedTuple):
    """What the peer says of itself, and of us."""

    random: bytes
    key_id: bytes
    life: int
    cluster: str
    node_id: str
    wanted: str
    """Whom the sender expects to reach; empty when anyone will do."""


def encode_hello(me: Identity, random: bytes, purpose: Purpose | None, wanted: str) -> bytes:
    """What ``me`` says; a side that answers has no purpose of its own."""
    assert len(random) == RANDOM_BYTES, "random bytes of another size"
    id_ = key_id(me.keys.primary) if me.keys is not None else bytes(KEY_ID_BYTES)
    fields = FIELDS.pack(random, id_, me.life) + b"".join(map(_name, (me.cluster, me.node_id, wanted)))
    flags = SEALED if me.keys is not None else 0
    size = len(fields) + CHECKSUM.size
    hello = HEAD.pack(MAGIC, me.version_min, me.version_max, flags, purpose or ANSWER, size) + fields
    return hello + CHECKSUM.pack(crc32(hello))


def decode_head(data: bytes) -> Head:
    """The first bytes of a hello. Raises ``ChannelViolation`` when they are none."""
    magic, version_min, version_max, flags, purpose, size = HEAD.unpack(data)
    if magic != MAGIC:  # CHANNEL-2
        raise ChannelViolation("hello: no channel between nodes")
    return Head(version_min, version_max, flags, purpose, HEAD.size + size)


def decode_hello(data: bytes) -> Hello:
    """A whole hello whose head is known. Raises ``ChannelViolation``; what a later version adds is not looked at."""
    end = len(data) - CHECKSUM.size
    names_at = HEAD.size + FIELDS.size
    if end < names_at:  # CHANNEL-7
        raise ChannelViolation("hello: cut in its fields")
    if crc32(data[:end]) != CHECKSUM.unpack_from(data, end)[0]:  # CHANNEL-7
        raise ChannelViolation("hello: a checksum that does not hold")
    random, id_, life = FIELDS.unpack_from(data, HEAD.size)
    cluster, at = _name_at(data[:end], names_at)
    node_id, at = _name_at(data[:end], at)
    wanted, at = _name_at(data[:end], at)
    if not (life and valid_name(cluster) and valid_name(node_id) and (not wanted or valid_name(wanted))):  # CHANNEL-7
        raise ChannelViolation("hello: the life zero, or a name that is not valid")
    return Hello(random, id_, life, cluster, node_id, wanted)


def _name(name: str) -> bytes:
    data = name.encode("ascii")
    return bytes((len(data),)) + data


def _name_at(data: bytes, at: int) -> tuple[str, int]:
    end = at + 1 + data[at] if at < len(data) else at + 1
    if end > len(data):  # CHANNEL-7
        raise ChannelViolation("hello: a name past its end")
    return data[at + 1 : end].decode("latin-1"), end
