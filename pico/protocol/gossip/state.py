"""What one node says of itself: its own copy, and the replicas that the others hold.

Responsible for: entries with their versions, deltas and snapshots of them, and when one may be applied. Refuses to
know: whether the node lives, who else holds a copy, and bytes on the wire beyond the size of an entry.

The owner numbers its changes; a key holds its last write. Every copy, the owner's too, is the entries with two
numbers, *applied* and *floor*, and for each key means one of three things: it holds the last write up to ``applied``;
or that write was a deletion up to ``floor`` and is gone; or the owner has written the key again since. A delta extends
that meaning by one stretch without a gap, a snapshot replaces it, and nothing else changes a copy: so whatever the
order, the repeats and the relays, what is learned once is not unlearned. The copy of a key never goes back; the copy as
a whole is **not** what the owner had at one moment.

A dict keeps the order in which keys were put, and each change puts its key at the end: so entries are in the order of
their versions without being sorted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from itertools import takewhile

from pico.config import GossipLimits
from pico.errors import LocalProtocolError
from pico.protocol.gossip.values import Delta, Entry, Snapshot, check_entry
from pico.protocol.gossip.wire import entry_bytes

__all__ = ["Applied", "NodeState", "OwnState", "Replica", "cut"]


class Applied(Enum):
    """What became of a delta or a snapshot."""

    NEWS = "applied"
    KNOWN = "nothing new"
    GAP = "starts after what is here"
    OTHER_LIFE = "of a life that is not this one"


def cut(entries: Sequence[Entry], start: int, room_bytes: int) -> int:
    """The index after the last entry, from ``start`` on, that still fits the room with all before it."""
    for index in range(start, len(entries)):
        room_bytes -= entry_bytes(entries[index])
        if room_bytes < 0:
            return index
    return len(entries)


class NodeState:
    """One copy of what one life of a node says."""

    __slots__ = ("applied", "entries", "floor", "life")

    def __init__(self, life: int) -> None:
        self.life = life
        self.applied = 0
        self.floor = 0
        self.entries: dict[bytes, Entry] = {}

    def live(self) -> dict[bytes, bytes]:
        """What the node says now, as far as this copy knows."""
        return {entry.key: entry.value for entry in self.entries.values() if entry.value is not None}

    def after(self, version: int) -> list[Entry]:
        """The entries above a version, oldest first."""
        newest_first = takewhile(lambda entry: entry.version > version, reversed(self.entries.values()))
        return list(newest_first)[::-1]

    def deltas(self, node_id: str, start: int, room_for: Callable[[int], int]) -> Iterator[Delta]:
        """Deltas from ``start`` on, one after the other, for as long as there is room.

        ``room_for(least_bytes)`` says how many bytes of entries the next delta may have; it ends here when that is less
        than what it was asked for.
        """
        if start < self.floor:  # GOSSIP-13
            raise LocalProtocolError(f"{node_id}: a delta from {start} below the floor {self.floor}")
        entries = self.after(start)
        index = 0
        while start < self.applied:
            least_bytes = entry_bytes(entries[index])
            room_bytes = room_for(least_bytes)
            if room_bytes < least_bytes:
                return
            end = cut(entries, index, room_bytes)
            delta = Delta(node_id, self.life, start, self.floor, tuple(entries[index:end]))  # GOSSIP-12
            yield delta
            index, start = end, delta.upto

    def snapshot(self, node_id: str) -> Snapshot:
        """Everything, to be applied in one step."""
        return Snapshot(node_id, self.life, self.floor, tuple(self.entries.values()))

    def _drop_tombstones(self) -> None:
        """Forget the deletions up to the floor; they are the oldest entries but for the live ones between."""
        old = takewhile(lambda entry: entry.version <= self.floor, self.entries.values())
        for key in [entry.key for entry in old if entry.value is None]:
            del self.entries[key]


class OwnState(NodeState):
    """The owner's own copy: the only one that is written."""

    __slots__ = ("_bytes", "_limits", "_tombstones")

    def __init__(self, life: int, limits: GossipLimits) -> None:
        super().__init__(life)
        self._limits = limits
        self._bytes = 0
        self._tombstones = 0

    def put(self, key: bytes, value: bytes) -> bool:
        """Say that ``key`` is ``value``; False when that was said already.

        Raises ``LocalProtocolError``, and changes nothing, for what could not be told to everyone.
        """
        check_entry(key, value)
        known = self.entries.get(key)
        if known is not None and known.value == value:  # GOSSIP-3
            return False
        entry = Entry(self.applied + 1, key, value)
        size_bytes = self._bytes + entry_bytes(entry) - (entry_bytes(known) if known else 0)
        if size_bytes > self._limits.state_bytes_max:  # GOSSIP-5
            raise LocalProtocolError(
                f"a state of {size_bytes} bytes, at most {self._limits.state_bytes_max} are allowed"
            )
        self._write(entry)
        return True

    def delete(self, key: bytes) -> bool:
        """Say that ``key`` is no more; False when it was not there."""
        known = self.entries.get(key)
        if known is None or known.value is None:  # GOSSIP-3
            return False
        self._write(Entry(self.applied + 1, key, None))
        if self._tombstones > max(self._limits.tombstones_max, len(self.entries) - self._tombstones):  # GOSSIP-8
            versions = [entry.version for entry in self.entries.values() if entry.value is None]
            self.compact(versions[len(versions) // 2])
        return True

    def compact(self, version: int) -> None:
        """Raise the floor to ``version``, never above what was given and never down, and drop what it covers."""
        self.floor = max(self.floor, min(version, self.applied))  # GOSSIP-7
        self._drop_tombstones()
        self._tombstones = sum(entry.value is None for entry in self.entries.values())
        self._bytes = sum(map(entry_bytes, self.entries.values()))

    def collect(self, version: int) -> None:
        """Everybody who matters has what was said up to ``version``: its deletions are not needed any more."""
        if any(entry.value is None and entry.version <= version for entry in self.entries.values()):
            self.compact(version)

    def begin_life(self, life: int) -> None:
        """Say all that is live again, as another process would."""
        assert life > self.life, "a life that is not higher"
        live = self.live()
        self.life, self.applied, self.floor, self.entries = life, 0, 0, {}
        self._bytes = self._tombstones = 0
        for key, value in live.items():
            self.put(key, value)

    def _write(self, entry: Entry) -> None:
        known = self.entries.pop(entry.key, None)
        if known is not None:
            self._bytes -= entry_bytes(known)
            self._tombstones -= known.value is None
        self.entries[entry.key] = entry
        self._bytes += entry_bytes(entry)
        self._tombstones += entry.value is None
        self.applied = entry.version  # GOSSIP-2


class Replica(NodeState):
    """A copy held by another node."""

    __slots__ = ()

    def apply_delta(self, delta: Delta) -> Applied:
        """Extend the copy, or leave it as it is."""
        if delta.life != self.life:  # GOSSIP-15
            return Applied.OTHER_LIFE
        if delta.start > self.applied:  # GOSSIP-16
            return Applied.GAP
        if delta.upto <= self.applied:  # GOSSIP-17
            return Applied.KNOWN
        before = self.applied, self.floor
        for entry in delta.entries:
            if entry.version > self.applied:  # GOSSIP-17
                known = self.entries.pop(entry.key, None)
                assert known is None or known.version < entry.version, "a version went back"
                self.entries[entry.key] = entry
        self.applied = delta.upto
        if delta.floor > self.floor:
            self.floor = delta.floor
            self._drop_tombstones()
        self._check_grown(before)
        return Applied.NEWS

    def apply_snapshot(self, snapshot: Snapshot) -> Applied:
        """Replace the copy in one step, or leave it as it is."""
        if snapshot.life != self.life:  # GOSSIP-15
            return Applied.OTHER_LIFE
        if snapshot.upto <= self.applied:  # GOSSIP-18
            return Applied.KNOWN
        before = self.applied, self.floor
        self.entries = {entry.key: entry for entry in snapshot.entries}
        self.applied = snapshot.upto
        self.floor = max(self.floor, snapshot.floor)
        self._drop_tombstones()
        self._check_grown(before)
        return Applied.NEWS

    def _check_grown(self, before: tuple[int, int]) -> None:
        applied, floor = before
        assert applied < self.applied and floor <= self.floor, "a copy went back"  # GOSSIP-6
        last = self.entries[next(reversed(self.entries))].version if self.entries else 0
        assert self.applied == max(self.floor, last), "a copy says that it has more than it has"
