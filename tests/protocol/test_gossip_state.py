"""What an owner says, and the deltas and snapshots of it (``spec/gossip.md``, What a node says)."""

from __future__ import annotations

from random import Random

import pytest

from pico.config import GossipLimits
from pico.errors import LocalProtocolError
from pico.protocol.gossip import Applied, Delta, Entry, OwnState, Replica, first_life, next_life
from pico.protocol.gossip.state import cut
from pico.protocol.gossip.wire import entry_bytes
from tests.rules import covers


def own(**limits: int) -> OwnState:
    return OwnState(7, GossipLimits(**limits))


def rows(state: OwnState | Replica) -> list[tuple[int, bytes, bytes | None]]:
    return [tuple(entry) for entry in state.entries.values()]


class Fixed:
    """A generator whose every bit is known."""

    def __init__(self, bits: int) -> None:
        self.bits = bits

    def getrandbits(self, bits: int, /) -> int:
        return self.bits & ((1 << bits) - 1)


@covers("GOSSIP-1")
class TestFirstLife:
    def test_is_the_clock_in_milliseconds_and_chance(self) -> None:
        assert first_life(1_800_000_000.25, Fixed(5)) == 1_800_000_000_250 << 22 | 5
        assert first_life(1.0, Fixed(-1)) == (1000 << 22) + (1 << 22) - 1

    def test_is_above_the_stored_one_when_the_clock_went_back(self) -> None:
        assert first_life(1.0, Fixed(5), stored=2000 << 22 | 9) == 2001 << 22 | 5
        assert first_life(2.0, Fixed(5), stored=2000 << 22 | 9) == 2001 << 22 | 5
        assert first_life(3.0, Fixed(5), stored=2000 << 22 | 9) == 3000 << 22 | 5

    @pytest.mark.parametrize("wall_s", [-1.0, -5e10, 2**42 / 1000, 6e9, 5e11])
    def test_a_clock_that_does_not_fit_counts_as_zero(self, wall_s: float) -> None:
        """Others say which life is the next one: the node takes it, and needs no right clock."""
        assert first_life(wall_s, Fixed(5)) == next_life(0, Fixed(5))
        assert first_life(wall_s, Fixed(5), stored=2000 << 22 | 9) == 2001 << 22 | 5

    def test_the_last_clock_that_fits_gives_a_life_that_a_packet_holds(self) -> None:
        assert first_life((2**42 - 0.5) / 1000, Fixed(-1)) == 2**64 - 1

    def test_two_processes_that_follow_the_same_life_differ(self) -> None:
        rng = Random(1)
        assert len({next_life(2000 << 22, rng) for _ in range(100)}) == 100


@covers("GOSSIP-2")
def test_each_change_takes_the_next_version() -> None:
    state = own()
    assert state.put(b"a", b"1") and state.put(b"b", b"1") and state.put(b"a", b"2") and state.delete(b"b")
    assert rows(state) == [(3, b"a", b"2"), (4, b"b", None)]
    assert state.applied == 4


@covers("GOSSIP-3")
def test_what_changes_nothing_takes_no_version() -> None:
    state = own()
    state.put(b"a", b"")
    assert not state.put(b"a", b"")
    assert not state.delete(b"b")
    assert state.delete(b"a") and not state.delete(b"a")
    assert state.applied == 2
    assert state.put(b"a", b""), "an empty value after a deletion is news"
    assert rows(state) == [(3, b"a", b"")]


@covers("GOSSIP-4")
@pytest.mark.parametrize("key, value", [(b"", b"v"), (b"k" * 12, b"v" * 501), (b"k" * 513, b"")])
def test_an_entry_that_no_packet_could_carry_is_refused_when_it_is_made(key: bytes, value: bytes) -> None:
    state = own()
    state.put(b"a", b"1")
    with pytest.raises(LocalProtocolError):
        state.put(key, value)
    assert rows(state) == [(1, b"a", b"1")] and state.applied == 1


@covers("GOSSIP-4")
def test_the_largest_entry_is_taken() -> None:
    assert own().put(b"k" * 12, b"v" * 500)
    assert own().put(b"k" * 512, b"")


@covers("GOSSIP-5")
def test_a_state_that_no_snapshot_could_carry_is_refused_when_it_is_made() -> None:
    state = own(state_bytes_max=2 * (12 + 10))
    state.put(b"a", b"v" * 9)
    state.put(b"b", b"v" * 9)
    for key, value in ((b"b", b"v" * 10), (b"c", b"")):
        with pytest.raises(LocalProtocolError):
            state.put(key, value)
    assert rows(state) == [(1, b"a", b"v" * 9), (2, b"b", b"v" * 9)]
    state.delete(b"a")
    assert state.put(b"b", b"v" * 18)
    with pytest.raises(LocalProtocolError):
        state.put(b"a", b"v")
    state.compact(3)
    assert state.put(b"a", b"")


@covers("GOSSIP-7", "GOSSIP-9")
def test_the_floor_rises_only_and_not_above_the_last_version() -> None:
    state = own()
    state.put(b"a", b"1")
    state.delete(b"a")
    state.put(b"b", b"1")
    live = state.live()
    state.compact(1)
    assert state.floor == 1 and rows(state) == [(2, b"a", None), (3, b"b", b"1")]
    state.compact(99)
    assert state.floor == 3 and rows(state) == [(3, b"b", b"1")]
    state.compact(2)
    assert state.floor == 3
    assert state.live() == live


@covers("GOSSIP-8")
def test_an_owner_with_too_many_tombstones_drops_the_older_half() -> None:
    state = own(tombstones_max=4)
    for number in range(8):
        state.put(b"%d" % number, b"")
    for number in range(4):
        state.delete(b"%d" % number)
    assert state.floor == 0, "as many as there may be"
    state.delete(b"4")
    assert state.floor == 11
    assert [key for _, key, _ in rows(state)] == [b"5", b"6", b"7", b"3", b"4"]
    assert state.live() == {b"5": b"", b"6": b"", b"7": b""}


@covers("GOSSIP-8")
def test_an_owner_may_keep_as_many_tombstones_as_it_has_live_entries() -> None:
    state = own(tombstones_max=1)
    for number in range(6):
        state.put(b"%d" % number, b"")
    for number in range(3):
        state.delete(b"%d" % number)
    assert state.floor == 0
    state.delete(b"3")
    assert state.floor == 9 and state.live() == {b"4": b"", b"5": b""}


@covers("GOSSIP-39")
def test_a_new_life_says_what_is_live_again_from_version_one() -> None:
    state = own()
    for key in (b"a", b"b", b"c"):
        state.put(key, b"1")
    state.delete(b"b")
    state.compact(4)
    state.put(b"a", b"2")
    live = state.live()
    state.begin_life(8)
    assert (state.life, state.applied, state.floor) == (8, 2, 0)
    assert rows(state) == [(1, b"c", b"1"), (2, b"a", b"2")] and state.live() == live


def told(state: OwnState, start: int, *rooms: int) -> list[Delta]:
    """The deltas when the packets have these rooms for entries."""
    waiting = list(rooms)
    return list(state.deltas("n", start, lambda least: waiting.pop(0) if waiting else 0))


@covers("GOSSIP-12")
class TestDeltas:
    def state(self) -> OwnState:
        state = own()
        for key in (b"a", b"b", b"c"):
            state.put(key, b"1")
        state.delete(b"a")
        return state

    def test_hold_all_above_the_start_oldest_first(self) -> None:
        assert told(self.state(), 0, 1000) == [
            Delta("n", 7, 0, 0, (Entry(2, b"b", b"1"), Entry(3, b"c", b"1"), Entry(4, b"a", None)))
        ]
        assert told(self.state(), 2, 1000) == [Delta("n", 7, 2, 0, (Entry(3, b"c", b"1"), Entry(4, b"a", None)))]
        assert told(self.state(), 4, 1000) == []

    def test_are_cut_where_the_room_ends_and_go_on_from_there(self) -> None:
        whole = 12 + 2
        first, second = told(self.state(), 1, 2 * whole - 1, 2 * whole)
        assert first == Delta("n", 7, 1, 0, (Entry(2, b"b", b"1"),)) and first.upto == 2
        assert second == Delta("n", 7, 2, 0, (Entry(3, b"c", b"1"), Entry(4, b"a", None))) and second.upto == 4

    def test_end_with_the_room(self) -> None:
        assert len(told(self.state(), 0, 12 + 2)) == 1
        assert told(self.state(), 0, 12 + 1) == []

    def test_an_entry_that_just_fits_is_in(self) -> None:
        entries = list(self.state().entries.values())
        size = sum(map(entry_bytes, entries))
        assert cut(entries, 0, size) == 3
        assert cut(entries, 0, size - 1) == 2
        assert cut(entries, 3, 0) == 3


@covers("GOSSIP-13")
def test_nobody_below_the_floor_gets_a_delta() -> None:
    state = own()
    state.put(b"a", b"1")
    state.delete(b"a")
    state.put(b"b", b"1")
    state.compact(2)
    with pytest.raises(LocalProtocolError):
        told(state, 1, 1000)
    assert told(state, 2, 1000) == [Delta("n", 7, 2, 2, (Entry(3, b"b", b"1"),))]
    assert state.snapshot("n").entries == (Entry(3, b"b", b"1"),)


@covers("GOSSIP-6", "GOSSIP-16", "GOSSIP-17")
def test_a_copy_that_went_back_would_be_noticed() -> None:
    """The assertion behind the guards: entries that a guard should have skipped."""
    replica = Replica(7)
    assert replica.apply_delta(Delta("n", 7, 0, 0, (Entry(1, b"a", b"1"), Entry(5, b"b", b"1")))) is Applied.NEWS
    replica.applied = 2  # As if a guard had let it happen.
    with pytest.raises(AssertionError):
        replica.apply_delta(Delta("n", 7, 2, 0, (Entry(3, b"b", b"0"),)))


@covers("GOSSIP-75", "GOSSIP-7")
def test_the_floor_rises_only_when_there_is_a_deletion_to_drop() -> None:
    state = own()
    state.put(b"x", b"1")
    state.delete(b"x")
    state.put(b"y", b"1")
    state.collect(1)
    assert state.floor == 0 and len(state.entries) == 2
    state.collect(2)
    assert state.floor == 2 and rows(state) == [(3, b"y", b"1")]
    state.collect(3)
    assert state.floor == 2
