"""The envelope of one packet: that it is whole, and with a key that a member made it, unread and not long ago.

Responsible for: the bytes around a body, in the clear and sealed with a key of the ring, and what is in a file of
keys (``spec/seal.md``). Refuses to know: what is in a body, where chance comes from, and who is waiting for a packet.

Each process seals under a key of its own, derived from the shared one and from chance that it took when it began. So a
counter is nonce enough, and a receiver that remembers the last counters of each process sees what comes again.

Whatever the bytes, ``open`` gives a body or raises ``RemoteProtocolError``. What does not carry a tag that holds
leaves no trace: who has no key can make a receiver forget nothing.
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from struct import Struct
from typing import Final, Protocol
from zlib import crc32

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from pico.config import SealLimits
from pico.errors import ConfigError, RemoteProtocolError

__all__ = [
    "BOOT_ID_BYTES",
    "KEY_BYTES",
    "KEY_ID_BYTES",
    "NONCE",
    "TAG_BYTES",
    "ClearSeal",
    "Forged",
    "KeyRing",
    "KeySeal",
    "NoKey",
    "OtherVersion",
    "Replayed",
    "Seal",
    "UnknownKey",
    "Unsealed",
    "derive_key",
    "key_id",
    "parse_key_file",
]

MAGIC: Final = b"pg"
VERSION: Final = 1
SEALED: Final = 0x01

HEAD: Final = Struct(">2sBB")
HEAD_BYTES: Final = HEAD.size
CLEAR_HEADER: Final = Struct(">2sBBI")
SEALED_HEADER: Final = Struct(">2sBB4s16sQ")
NONCE: Final = Struct(">IQ")
"""Of AES-GCM, everywhere: zero, and a counter."""

KEY_BYTES: Final = 32
KEY_ID_BYTES: Final = 4
BOOT_ID_BYTES: Final = 16
TAG_BYTES: Final = 16

PACKET_LABEL: Final = b"pico packet"

_HEXADECIMAL = re.compile(r"[0-9A-Fa-f]{64}").fullmatch


class OtherVersion(RemoteProtocolError):
    """In a version of the protocol that is not spoken here."""


class Unsealed(RemoteProtocolError):
    """In the clear, where a key is required."""


class NoKey(RemoteProtocolError):
    """Sealed, where no key is configured."""


class UnknownKey(RemoteProtocolError):
    """Sealed with a key that is not in the ring."""


class Forged(RemoteProtocolError):
    """The tag does not hold: spoilt, of another cluster, or made by somebody without the key."""


class Replayed(RemoteProtocolError):
    """It was here before, or is too old to tell; or it is one of our own."""


class Seal(Protocol):
    """The envelope of one node."""

    overhead_bytes: int
    """What it adds to a body."""

    def seal(self, body: bytes) -> bytes:
        """The packet with this body."""

    def open(self, data: bytes) -> bytes:
        """The body of a packet. Raises ``RemoteProtocolError`` or one of its named kinds."""


# Keys.


def key_id(key: bytes) -> bytes:
    """What a key is called where everyone can read it."""
    return sha256(key).digest()[:KEY_ID_BYTES]  # SEAL-5


def derive_key(key: bytes, info: bytes) -> bytes:
    """A key for one purpose, by which the other one cannot be found."""
    return HKDF(SHA256(), KEY_BYTES, salt=None, info=info).derive(key)  # SEAL-2


@dataclass(frozen=True, slots=True)
class KeyRing:
    """The keys of a cluster; the first is the primary one, with which we seal. It is replaced whole, never changed.

    Raises ``ConfigError`` for a ring that could not be used. Its ``repr`` has no key in it.
    """

    keys: tuple[bytes, ...] = field(repr=False)
    by_id: Mapping[bytes, bytes] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        by_id = {key_id(key): key for key in self.keys}
        if not self.keys or len(by_id) < len(self.keys) or any(len(key) != KEY_BYTES for key in self.keys):  # SEAL-5
            raise ConfigError(
                "cluster_keys", f"{len(self.keys)} keys", f"different keys of {KEY_BYTES} bytes, one or more"
            )
        object.__setattr__(self, "by_id", by_id)

    @property
    def primary(self) -> bytes:
        """The key with which we seal."""
        return self.keys[0]


def parse_key_file(text: str) -> KeyRing:
    """The ring in a file: one key a line, the primary one first, ``#`` begins a comment (SEAL-13).

    Raises ``ConfigError``, which names the line and shows nothing of it.
    """
    keys: list[bytes] = []
    for number, line in enumerate(text.splitlines(), 1):
        word = line.partition("#")[0].strip()
        if word:
            key = _key_of(word)
            if key is None or key in keys:
                wanted = f"a key of {KEY_BYTES} bytes in base64 or hexadecimal, none of them twice"
                raise ConfigError("cluster_key_file", f"line {number}", wanted)
            keys.append(key)
    if not keys:
        raise ConfigError("cluster_key_file", "a file without keys", "one key a line")
    return KeyRing(tuple(keys))


def _key_of(word: str) -> bytes | None:
    if _HEXADECIMAL(word):
        return bytes.fromhex(word)
    try:
        key = b64decode(word, validate=True)
    except ValueError:
        return None
    return key if len(key) == KEY_BYTES else None


# Envelopes.


class ClearSeal:
    """Without a key: a checksum that finds accidents."""

    overhead_bytes = CLEAR_HEADER.size

    def seal(self, body: bytes) -> bytes:
        """See ``Seal``."""
        head = HEAD.pack(MAGIC, VERSION, 0)
        return head + crc32(body, crc32(head)).to_bytes(4, "big") + body

    def open(self, data: bytes) -> bytes:
        """See ``Seal``."""
        if _flags_of(data):  # SEAL-7
            raise NoKey("packet: sealed, and there is no key here")
        _check_size(data, CLEAR_HEADER.size)
        body = data[CLEAR_HEADER.size :]
        if crc32(body, crc32(data[:HEAD_BYTES])) != CLEAR_HEADER.unpack_from(data)[3]:  # GOSSIP-26
            raise RemoteProtocolError("packet: a checksum that does not hold")
        return body


class _Sender:
    """A process that has sealed a packet: its key, and which of its last counters were here."""

    __slots__ = ("cipher", "highest", "key_id", "seen")

    def __init__(self) -> None:
        self.key_id = b""
        self.cipher: AESGCM | None = None
        self.highest = -1
        self.seen = 0  # a bit for each counter up to the highest, that one first

    def take(self, counter: int, window: int) -> bool:
        """Whether the counter is new, which it is once."""
        above = counter - self.highest
        if above > 0:
            kept = (self.seen << above) & ((1 << window) - 1) if above < window else 0
            self.highest, self.seen = counter, kept | 1
            return True
        if above <= -window or self.seen >> -above & 1:  # SEAL-9
            return False
        self.seen |= 1 << -above
        return True


class KeySeal:
    """With a ring of keys. ``boot_id`` is 16 bytes of chance that no other process, and none before, has had."""

    overhead_bytes = SEALED_HEADER.size + TAG_BYTES

    def __init__(self, keys: KeyRing, cluster: str, boot_id: bytes, limits: SealLimits | None = None) -> None:
        assert len(boot_id) == BOOT_ID_BYTES, "a boot ID of another size"
        self._limits = limits or SealLimits()
        self._cluster = cluster.encode()
        self._boot_id = boot_id
        self._counter = 0
        self._senders: OrderedDict[bytes, _Sender] = OrderedDict()  # those heard last come last
        self.rotate(keys)

    def rotate(self, keys: KeyRing) -> None:
        """From now on these keys and no others; counters go on, and what was here stays known (SEAL-12)."""
        self.keys = keys
        self._key_id = key_id(keys.primary)
        self._cipher = self._cipher_for(keys.primary, self._boot_id)

    def seal(self, body: bytes) -> bytes:
        """See ``Seal``."""
        counter, self._counter = self._counter, self._counter + 1  # SEAL-4
        header = SEALED_HEADER.pack(MAGIC, VERSION, SEALED, self._key_id, self._boot_id, counter)
        return header + self._cipher.encrypt(NONCE.pack(0, counter), body, header + self._cluster)

    def open(self, data: bytes) -> bytes:
        """See ``Seal``."""
        if not _flags_of(data):  # SEAL-7
            raise Unsealed("packet: in the clear, and a key is required here")
        _check_size(data, SEALED_HEADER.size + TAG_BYTES)
        _, _, _, id_, boot_id, counter = SEALED_HEADER.unpack_from(data)
        key = self.keys.by_id.get(id_)
        if key is None:  # SEAL-6
            raise UnknownKey(f"packet: the key {id_.hex()} is not known")
        if boot_id == self._boot_id:  # SEAL-10
            raise Replayed("packet: one of our own")
        sender = self._senders.get(boot_id) or _Sender()
        cipher = sender.cipher if sender.cipher is not None and sender.key_id == id_ else self._cipher_for(key, boot_id)
        header = data[: SEALED_HEADER.size]
        try:
            body = cipher.decrypt(NONCE.pack(0, counter), data[SEALED_HEADER.size :], header + self._cluster)
        except InvalidTag:
            raise Forged("packet: a tag that does not hold") from None  # SEAL-8
        if not sender.take(counter, self._limits.window_counters):  # SEAL-9
            raise Replayed(f"packet: the counter {counter} again, or too old")
        sender.key_id, sender.cipher = id_, cipher
        self._remember(boot_id, sender)
        return body

    def _cipher_for(self, key: bytes, boot_id: bytes) -> AESGCM:
        return AESGCM(derive_key(key, PACKET_LABEL + bytes((VERSION,)) + boot_id + self._cluster))

    def _remember(self, boot_id: bytes, sender: _Sender) -> None:
        self._senders[boot_id] = sender
        self._senders.move_to_end(boot_id)
        if len(self._senders) > self._limits.senders_max:  # SEAL-11
            self._senders.popitem(last=False)


def _flags_of(data: bytes) -> int:
    """The flags of a packet that is one; in the clear and sealed, all begin alike."""
    _check_size(data, HEAD_BYTES)
    magic, version, flags = HEAD.unpack_from(data)
    if magic != MAGIC:  # GOSSIP-24
        raise RemoteProtocolError("packet: no packet of gossip")
    if version != VERSION:  # GOSSIP-25
        raise OtherVersion(f"packet: of version {version}")
    if flags & ~SEALED:  # GOSSIP-24
        raise RemoteProtocolError(f"packet: flags {flags:#04x} that have no meaning")
    return int(flags)


def _check_size(data: bytes, least: int) -> None:
    if len(data) < least:  # GOSSIP-30
        raise RemoteProtocolError(f"packet: {len(data)} bytes, less than its envelope")
