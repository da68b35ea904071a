"""The words of gossip as values: records, entries, and the messages made of them (``spec/gossip.md``, Terms).

Responsible for: what a node may be called, what may be an entry, how two records of one node compare, and where a new
life comes from. Refuses to know: bytes on the wire, and who holds what.

A *record* says which process of a node is meant and how it is doing. Records compare as tuples, and the greater one is
right: so merging is ``max``, and the order in which evidence arrives, its repeats and its losses cannot matter.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import IntEnum
from typing import Any, Final, NamedTuple, Protocol, TypeVar

from pico.errors import LocalProtocolError

__all__ = [
    "CARD",
    "ENTRY_BYTES_MAX",
    "INC_MAX",
    "LIFE_MAX",
    "NAME_BYTES_MAX",
    "Ack",
    "Address",
    "Chance",
    "Delta",
    "Digest",
    "DigestEntry",
    "Entry",
    "Message",
    "Nack",
    "Ping",
    "PingRequest",
    "Push",
    "Pushed",
    "Range",
    "Rank",
    "Record",
    "Records",
    "Snapshot",
    "Summary",
    "check_entry",
    "first_life",
    "next_life",
    "valid_name",
]

NAME_BYTES_MAX: Final = 64
"""Of a node ID and of a cluster name: each is in every packet."""

ENTRY_BYTES_MAX: Final = 512
"""Key and value together. Fixed, so that an entry fits the packets of every node that may have to relay it."""

CARD: Final = b"card"
"""The key under which a node says, among other things, where its gossip port is; the rest is for others to read."""

CLOCK_BITS: Final = 42
CHANCE_BITS: Final = 22
"""The low bits of a life. Two processes that take a life in the same millisecond, or by the same rule after the same
news, would otherwise mix their histories."""

LIFE_MAX: Final = (1 << 64) - 1
INC_MAX: Final = (1 << 32) - 1

Address = tuple[str, int]
"""Where datagrams and connections for a node go: an IP address in its text form, and a port."""

T = TypeVar("T")

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}").fullmatch


class Chance(Protocol):
    """What is asked of a random generator: ``random.Random`` has it."""

    def getrandbits(self, bits: int, /) -> int:
        """A number of so many bits."""

    def random(self) -> float:
        """From 0, below 1."""

    def shuffle(self, items: list[Any], /) -> None:
        """Another order, in place."""

    def sample(self, items: Sequence[T], count: int, /) -> list[T]:
        """So many of them, none twice."""


class Rank(IntEnum):
    """How a process is doing, as far as is known."""

    ALIVE = 0
    SUSPECT = 1
    DEAD = 2


class Record(NamedTuple):
    """What is known of the process behind a node ID. The order of the fields is the order of their weight."""

    life: int
    left: bool = False
    inc: int = 0
    rank: Rank = Rank.ALIVE

    @property
    def gone(self) -> bool:
        """Dead, or left: nothing is told or learned about its entries."""
        return self.left or self.rank is Rank.DEAD


class Entry(NamedTuple):
    """One thing that a node says of itself."""

    version: int
    key: bytes
    value: bytes | None
    """None: deleted, a *tombstone*."""


class DigestEntry(NamedTuple):
    """What the sender knows of one node."""

    node_id: str
    record: Record
    applied: int
    hearsay: bool = False
    """The sender has it from others, and not from the node itself."""


class Range(NamedTuple):
    """The node IDs with ``above < node_id <= upto``; an empty ``upto`` is the end of all names."""

    above: str = ""
    upto: str = ""

    def holds(self, node_id: str) -> bool:
        """Whether the node is in it."""
        return self.above < node_id and (not self.upto or node_id <= self.upto)


class Digest(NamedTuple):
    """What the sender knows of all nodes with ``above < node_id <= upto``, and of those named besides.

    An empty ``upto`` is the end of all names. In the range, a node that is not named is not known to the sender.
    """

    above: str
    upto: str
    entries: tuple[DigestEntry, ...]


class Summary(NamedTuple):
    """Hashes of what a digest of each of these ranges would say of the nodes that are not gone."""

    parts: tuple[tuple[Range, int], ...]


class Records(NamedTuple):
    """What the sender knows of some nodes."""

    records: tuple[tuple[str, Record], ...]
    witnessed: frozenset[str] = frozenset()
    """Those suspects of which the sender itself had no answer."""


class Delta(NamedTuple):
    """What is next to say of one node to whoever has applied its versions up to ``start``; never without entries."""

    node_id: str
    life: int
    start: int
    floor: int
    entries: tuple[Entry, ...]

    @property
    def upto(self) -> int:
        """What is applied with it."""
        return self.entries[-1].version


class Snapshot(NamedTuple):
    """The whole state of one node as the sender has it."""

    node_id: str
    life: int
    floor: int
    entries: tuple[Entry, ...]

    @property
    def upto(self) -> int:
        """What is applied with it: the last version is that of an entry, unless it was a deletion and is gone."""
        return max(self.floor, self.entries[-1].version if self.entries else 0)


class Ping(NamedTuple):
    """A question to the node of that name alone: is it there?"""

    sequence: int
    node_id: str


class Ack(NamedTuple):
    """The answer to a ping, by the process that was asked or passed on by a helper."""

    sequence: int
    node_id: str
    life: int


class PingRequest(NamedTuple):
    """Ask that node for me: I had no answer."""

    sequence: int
    node_id: str
    address: Address


class Nack(NamedTuple):
    """A helper's answer when it had none: the helper at least is there."""

    sequence: int


class Push(NamedTuple):
    """A change, told at once; the receiver tells it on to the nodes of the range."""

    sequence: int
    range: Range
    delta: Delta


class Pushed(NamedTuple):
    """A push came; ``applied`` is what its receiver has now of that life of its owner."""

    sequence: int
    life: int
    applied: int


Message = Records | Digest | Delta | Snapshot | Summary | Ping | Ack | PingRequest | Nack | Push | Pushed


def valid_name(name: str) -> bool:
    """Whether it may be a node ID or the name of a cluster."""
    return _NAME(name) is not None


def check_entry(key: bytes, value: bytes) -> None:
    """Raises ``LocalProtocolError`` for an entry that some packet could not carry."""
    if not key or len(key) + len(value) > ENTRY_BYTES_MAX:  # GOSSIP-4
        raise LocalProtocolError(
            f"{key[:64]!r}, {len(value)} bytes: an entry has a key, and with it at most {ENTRY_BYTES_MAX} bytes"
        )


def first_life(wall_s: float, rng: Chance, *, stored: int = 0) -> int:
    """The life of a process that starts now by the clock on the wall, above the one that was stored, if any."""
    clock_ms = int(wall_s * 1000)
    if clock_ms >> CLOCK_BITS:  # a clock that was never set; a negative number has these bits, too
        clock_ms = 0
    return max(clock_ms << CHANCE_BITS | rng.getrandbits(CHANCE_BITS), next_life(stored, rng))  # GOSSIP-1


def next_life(heard: int, rng: Chance) -> int:
    """A life above one that was heard of."""
    return (heard >> CHANCE_BITS) + 1 << CHANCE_BITS | rng.getrandbits(CHANCE_BITS)  # GOSSIP-39
