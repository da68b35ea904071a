"""What an owner has ever said, and what a copy of it may hold: the oracle of the gossip properties."""

from __future__ import annotations

from hypothesis import strategies as st

from pico.errors import LocalProtocolError
from pico.protocol.gossip import Entry, NodeState, OwnState

KEYS = (b"a", b"b", b"c", b"d")
VALUES = (b"", b"1", b"v" * 60)

writes = st.one_of(
    st.tuples(st.just("put"), st.sampled_from(KEYS), st.sampled_from(VALUES)),
    st.tuples(st.just("delete"), st.sampled_from(KEYS), st.none()),
)


class History:
    """An owner and every write it took, by life."""

    def __init__(self, own: OwnState) -> None:
        self.own = own
        self.writes: dict[int, list[Entry]] = {}

    def write(self, what: str, key: bytes, value: bytes | None) -> None:
        if what == "put":
            assert value is not None
            taken = self.own.put(key, value)
        else:
            taken = self.own.delete(key)
        if taken:
            self.note()

    def note(self) -> None:
        """Remember what the owner has now that was not remembered, as after a new life."""
        known = self.writes.setdefault(self.own.life, [])
        known += [entry for entry in self.own.entries.values() if entry.version > len(known)]
        assert [entry.version for entry in known] == list(range(1, self.own.applied + 1))

    def model(self) -> dict[bytes, bytes]:
        """What is live, by replaying every write."""
        live: dict[bytes, bytes] = {}
        for entry in self.writes.get(self.own.life, []):
            live.pop(entry.key, None)
            if entry.value is not None:
                live[entry.key] = entry.value
        return live

    def check(self, copy: NodeState) -> None:
        """A copy holds what it may hold, and nothing that it must have is missing."""
        said = self.writes.get(copy.life, [])
        assert copy.floor <= copy.applied <= len(said)
        for entry in copy.entries.values():
            assert entry.version <= copy.applied and entry == said[entry.version - 1]
        for key in {entry.key for entry in said}:
            versions = [entry.version for entry in said if entry.key == key]
            known = [version for version in versions if version <= copy.applied]
            if not known or versions[-1] > copy.applied:
                continue
            last = said[known[-1] - 1]
            gone = last.value is None and last.version <= copy.floor
            assert copy.entries.get(key) == (None if gone else last)


def try_put(own: OwnState, key: bytes, value: bytes) -> bool:
    """False when it was refused."""
    try:
        own.put(key, value)
    except LocalProtocolError:
        return False
    return True
