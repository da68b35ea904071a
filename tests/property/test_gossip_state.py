"""The algebra of copies: any order, repeats, cuts, starts and relays (``spec/gossip.md``, Deltas and snapshots)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pico.config import GossipLimits
from pico.protocol.gossip import Delta, OwnState, Replica, Snapshot
from pico.protocol.gossip.wire import entry_bytes
from tests.property.gossip_history import KEYS, History, try_put, writes
from tests.rules import covers


def one_history() -> History:
    return History(OwnState(1, GossipLimits(tombstones_max=1_000)))


def told(state: OwnState | Replica, start: int, rooms: list[int]) -> list[Delta | Snapshot]:
    """What a copy says to whoever is at ``start``, when its packets have these rooms and then a large one."""
    if start < state.floor:
        return [state.snapshot("n")]
    waiting = list(rooms)

    def room_for(least_bytes: int) -> int:
        return max(least_bytes, waiting.pop(0) if waiting else 10_000)

    return list(state.deltas("n", start, room_for))


def give(copy: Replica, message: Delta | Snapshot) -> None:
    if isinstance(message, Delta):
        copy.apply_delta(message)
    else:
        copy.apply_snapshot(message)


@covers("GOSSIP-2", "GOSSIP-3", "GOSSIP-7", "GOSSIP-9")
@given(st.lists(st.one_of(writes, st.integers(0, 40)), max_size=60))
def test_what_is_live_at_the_owner_is_its_history_wherever_the_floor_is(steps):
    history, compacted = one_history(), OwnState(1, GossipLimits(tombstones_max=1))
    for step in steps:
        if isinstance(step, int):
            compacted.compact(step)
        else:
            what, key, value = step
            history.write(what, key, value)
            compacted.put(key, value) if what == "put" else compacted.delete(key)
        assert history.own.live() == compacted.live() == history.model()
        assert history.own.applied == compacted.applied
        assert [entry.version for entry in compacted.entries.values()] == sorted(
            entry.version for entry in compacted.entries.values()
        )
        assert not any(e.value is None and e.version <= compacted.floor for e in compacted.entries.values())


@covers("GOSSIP-6", "GOSSIP-12", "GOSSIP-13", "GOSSIP-16", "GOSSIP-17", "GOSSIP-18", "GOSSIP-21")
@given(st.data())
def test_copies_fed_in_any_order_from_any_start_by_anyone_hold_only_what_was_said(data):
    history = one_history()
    copies = [Replica(1) for _ in range(3)]
    speakers: list[OwnState | Replica] = [history.own, *copies]
    bag: list[Delta | Snapshot] = []
    steps = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 1000), st.integers(0, 1000)), max_size=60)
    for what, one, other in data.draw(steps):
        if what < 3:
            history.write(*data.draw(writes))
        elif what < 4:
            history.own.compact(one % (history.own.applied + 1))
        elif what < 6:
            speaker = speakers[one % 4]
            bag += told(speaker, other % (speaker.applied + 1), [other % 97, one % 61])
        elif what < 9 and bag:
            copy = copies[one % 3]
            applied, floor, entries = copy.applied, copy.floor, dict(copy.entries)
            give(copy, bag[other % len(bag)])  # It stays in the bag: repeats come by themselves.
            assert copy.applied >= applied and copy.floor >= floor
            for key, entry in entries.items():
                assert key not in copy.entries or copy.entries[key].version >= entry.version
            history.check(copy)
        elif bag:
            give(copies[one % 3], bag[-1])
    for copy, relay in zip(copies, (history.own, *copies), strict=False):
        while copy.applied < history.own.applied:
            for message in told(relay, copy.applied, [40, 70]):
                give(copy, message)
                history.check(copy)
        assert copy.live() == history.model()


@covers("GOSSIP-12", "GOSSIP-17")
@given(st.lists(writes, min_size=1, max_size=30), st.data())
def test_a_delta_cut_at_any_entry_is_a_delta(steps, data):
    history = one_history()
    for step in steps:
        history.write(*step)
    start = data.draw(st.integers(0, history.own.applied))
    pieces = told(history.own, start, data.draw(st.lists(st.integers(0, 200), max_size=8)))
    copy, whole = Replica(1), Replica(1)
    for message in told(history.own, 0, []):
        if start:
            give(copy, message)
    copy.applied = start  # From any starting version; what is above it is said again.
    copy.entries = {k: e for k, e in copy.entries.items() if e.version <= start}
    copy.floor = 0
    at = start
    for piece in pieces:
        assert isinstance(piece, Delta) and piece.start == at and piece.entries
        versions = [entry.version for entry in piece.entries]
        assert versions == [e.version for e in history.own.entries.values() if at < e.version <= piece.upto]
        at = piece.upto
        give(copy, piece)
        history.check(copy)
    assert at == history.own.applied
    for message in told(history.own, 0, []):
        give(whole, message)
    assert copy.live() == whole.live() == history.model()


@covers("GOSSIP-17", "GOSSIP-18")
@given(st.lists(st.one_of(writes, st.integers(0, 30)), min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_repeats_change_nothing(steps, rng):
    history = one_history()
    said: list[Delta | Snapshot] = []
    once, often = Replica(1), Replica(1)
    for step in steps:
        if isinstance(step, int):
            history.own.compact(min(step, history.own.applied))
            continue
        history.write(*step)
        said += told(history.own, once.applied, [20])
        for message in said[-2:]:
            give(once, message)
            give(often, message)
        for message in rng.sample(said, len(said)):
            give(often, message)
        history.check(often)
        assert (often.applied, often.entries) == (once.applied, once.entries)


@covers("GOSSIP-4", "GOSSIP-5")
@given(st.lists(st.tuples(st.sampled_from(KEYS), st.integers(0, 600)), max_size=30), st.integers(20, 1_500))
def test_a_state_never_outgrows_its_limit_and_a_refusal_changes_nothing(puts, state_bytes_max):
    own = OwnState(1, GossipLimits(state_bytes_max=state_bytes_max))
    for key, size in puts:
        before = dict(own.entries)
        taken = try_put(own, key, b"v" * size)
        assert sum(map(entry_bytes, own.entries.values())) <= state_bytes_max
        assert taken or own.entries == before
        assert not taken or len(key) + size <= 512
