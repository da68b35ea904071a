"""What the entries of a node mean (``spec/cluster.md``)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pico.config import GossipLimits
from pico.errors import LocalProtocolError
from pico.protocol.cluster import (
    CARD,
    DRAINING,
    Card,
    ClusterView,
    Condition,
    EndpointVanished,
    EntryVersion,
    LocalEndpoints,
    NodeStatus,
    Place,
    PlaceGained,
    Standing,
    StatusNews,
    decode_card,
    decode_count,
    encode_card,
    endpoint_key,
    endpoint_of_key,
    gossip_address_of,
    status_of,
)
from pico.protocol.gossip import Delta, Rank, Record, Snapshot
from pico.protocol.gossip.state import Applied, OwnState, Replica
from tests.calls import calls_of
from tests.rules import covers

VECTORS = json.loads((Path(__file__).parents[2] / "spec/vectors/cluster.json").read_text())
FINE = Condition(verified=True)
A_CARD = Card(**VECTORS["cards"][0]["card"])


def vectors(name: str):
    return pytest.mark.parametrize("vector", VECTORS[name], ids=lambda vector: vector.get("because"))


# Keys and values.


@covers("CLUSTER-1")
@vectors("cards")
def test_a_card_is_these_bytes(vector):
    card = Card(**vector["card"])
    assert encode_card(card) == vector["value"].encode()
    assert decode_card(vector["value"].encode()) == card


@covers("CLUSTER-2")
@vectors("later_cards")
def test_what_stands_behind_a_card_is_ignored(vector):
    assert decode_card(vector["value"].encode()) == Card(**vector["card"])


@covers("CLUSTER-2")
@vectors("broken_cards")
def test_a_broken_card_is_none_and_counted(vector):
    view, owner = ClusterView("me"), OwnState(1, GossipLimits())
    owner.put(CARD, encode_card(A_CARD))
    view.follow("a", owner, FINE)
    assert view.node("a").card == A_CARD
    owner.put(CARD, vector["value"].encode("latin-1"))
    view.follow("a", owner, FINE)
    assert view.node("a").card is None
    assert view.broken_cards == 1


@covers("CLUSTER-1")
@pytest.mark.parametrize(
    "change",
    [
        {"gossip": ""},
        {"gossip": "h:0"},
        {"proxy": "no port"},
        {"wire_min": 2},
        {"wire_max": 256},
        {"version": ""},
        {"version": "ä"},
        {"version": "1\n2"},
        {"admin": "h" * 250 + ":1", "upstream": "h" * 250 + ":1"},
    ],
)
def test_a_card_that_no_reader_would_take_is_refused(change):
    with pytest.raises(LocalProtocolError):
        encode_card(replace(A_CARD, **change))


@pytest.mark.parametrize(
    "gossip, located",
    [
        ("10.0.0.1:8003", ("10.0.0.1", 8003)),
        ("[2001:db8::1]:1", ("2001:db8::1", 1)),
        ("name.test:8003", None),
    ],
)
def test_where_a_card_says_that_the_gossip_port_is(gossip, located):
    assert gossip_address_of(encode_card(replace(A_CARD, gossip=gossip))) == located
    assert gossip_address_of(b"no card") is None


@covers("CLUSTER-3")
@vectors("counts")
def test_a_count(vector):
    assert decode_count(vector["value"].encode()) == vector["count"]


@covers("CLUSTER-3")
@vectors("keys")
def test_a_key_of_an_endpoint(vector):
    assert endpoint_of_key(vector["key"].encode()) == vector["endpoint"]
    if vector["endpoint"]:
        assert endpoint_key(vector["endpoint"]) == vector["key"].encode()


# What this node says.


class Entries:
    def __init__(self) -> None:
        self.log: list[tuple] = []

    def put(self, key, value):
        self.log.append((key, value))

    def delete(self, key):
        self.log.append((key, None))


@covers("CLUSTER-6")
def test_the_first_upstream_and_the_last_one_are_said_at_once():
    entries = Entries()
    local = LocalEndpoints(entries)
    for count in (1, 0, 1, 0):
        local.set("a", count, now=0.0)
    local.set("b", 0, now=0.0)
    assert entries.log == [(b"e:a", b"1"), (b"e:a", None)] * 2
    assert local.next_timer() is None


@covers("CLUSTER-7")
def test_other_numbers_are_said_together_and_not_too_often():
    entries = Entries()
    local = LocalEndpoints(entries)
    for endpoint_id in "ab":
        local.set(endpoint_id, 1, now=10.0)
    local.set("a", 2, now=10.0)
    assert entries.log[2:] == [(b"e:a", b"2")]
    for count in (3, 4, 5):
        local.set("a", count, now=10.1)
        local.set("b", count, now=10.1)
    assert local.next_timer() == 10.25
    local.handle_timer(now=10.2)
    assert len(entries.log) == 3
    local.handle_timer(now=10.25)
    assert entries.log[3:] == [(b"e:a", b"5"), (b"e:b", b"5")]
    assert local.next_timer() is None
    local.handle_timer(now=99.0)
    assert len(entries.log) == 5


@covers("CLUSTER-6", "CLUSTER-7")
def test_a_number_that_came_back_is_not_said_and_none_outlives_the_last_upstream():
    entries = Entries()
    local = LocalEndpoints(entries)
    for count in (1, 2, 3, 2):
        local.set("a", count, now=1.0)
    assert local.next_timer() is None
    local.set("a", 3, now=1.0)
    local.set("a", 0, now=1.0)
    local.handle_timer(now=2.0)
    assert entries.log == [(b"e:a", b"1"), (b"e:a", b"2"), (b"e:a", None)]


@covers("CLUSTER-8")
def test_a_denied_endpoint_is_said_again_under_a_newer_version():
    """What is denied is told as 0, so the next number is said although it is the one that was said before."""
    state = OwnState(1, GossipLimits())
    local = LocalEndpoints(state)
    local.set("a", 1, now=0.0)
    denied_at = state.applied
    local.set("a", 0, now=0.0)
    local.set("a", 1, now=0.0)
    assert state.entries[b"e:a"].version > denied_at
    assert state.live() == {b"e:a": b"1"}


# The view.


def owner_of(*endpoints: str, life: int = 1) -> OwnState:
    owner = OwnState(life, GossipLimits())
    for endpoint_id in endpoints:
        owner.put(endpoint_key(endpoint_id), b"1")
    return owner


@covers("CLUSTER-9", "CLUSTER-10")
@pytest.mark.parametrize(
    "condition, standing",
    [
        (Condition(), Standing.NOT),
        (Condition(verified=True), Standing.ROUTABLE),
        (Condition(verified=True, suspect=True), Standing.LAST_RESORT),
        (Condition(verified=True, lowered=True), Standing.LAST_RESORT),
        (Condition(verified=True, gone=True), Standing.NOT),
        (Condition(gone=True), Standing.NOT),
        (Condition(suspect=True), Standing.NOT),
    ],
)
def test_a_condition_is_a_standing_and_only_whoever_stands_has_places(condition, standing):
    view, owner = ClusterView("me"), owner_of("ep")
    view.follow("a", owner, condition)
    assert view.standing("a") is standing
    assert ("ep" in view.places) is (standing is not Standing.NOT)
    assert view.nodes()["a"].endpoints == 1


@covers("CLUSTER-9")
def test_this_node_and_one_that_is_not_known_have_no_place():
    view = ClusterView("me")
    view.follow("me", owner_of("ep"), FINE)
    assert not view.places
    assert view.standing("me") is view.standing("nobody") is Standing.NOT


@covers("CLUSTER-5", "CLUSTER-10")
@pytest.mark.parametrize("value", [b"", b"whatever"])
def test_a_draining_node_is_the_last_resort(value):
    view, owner = ClusterView("me"), owner_of("ep")
    owner.put(DRAINING, value)
    view.follow("a", owner, FINE)
    assert view.standing("a") is Standing.LAST_RESORT
    assert view.places["ep"] == (Place("a", 1),)
    owner.delete(DRAINING)
    view.follow("a", owner, FINE)
    assert view.standing("a") is Standing.ROUTABLE


@covers("CLUSTER-3", "CLUSTER-4")
def test_what_means_nothing_changes_nothing():
    view, owner = ClusterView("me"), owner_of("ep")
    for key, value in ((b"e:Not-One", b"1"), (b"x", b"1"), (b"e", b"1"), (b"e:none", b"0")):
        owner.put(key, value)
    view.follow("a", owner, FINE)
    assert list(view.places) == ["ep"]
    owner.put(b"e:ep", b"many")
    view.follow("a", owner, FINE)
    assert not view.places


@covers("CLUSTER-12")
def test_a_higher_life_takes_the_places_of_the_lower_one_away():
    view = ClusterView("me")
    view.follow("a", owner_of("old", "both"), FINE)
    view.follow("a", owner_of("both", "new", life=2), FINE)
    assert sorted(view.places) == ["both", "new"]
    view.follow("a", Replica(3), FINE)
    assert not view.places


@covers("CLUSTER-12")
def test_a_copy_that_was_dropped_or_replaced_is_followed_from_its_beginning():
    view, owner = ClusterView("me"), owner_of("a", "b", "c")
    view.follow("x", owner, FINE)
    view.follow("x", Replica(1), FINE)
    assert not view.places
    view.follow("x", owner, FINE)
    owner.delete(endpoint_key("b"))
    owner.put(endpoint_key("d"), b"2")
    owner.compact(owner.applied)  # the deletion is gone: only the whole copy says that b is not there
    view.follow("x", owner, FINE)
    assert sorted(view.places) == ["a", "c", "d"]
    view.forget("x")
    view.forget("x")
    assert not view.places
    assert not view.nodes()


@covers("CLUSTER-11", "CLUSTER-12")
def test_a_copy_that_was_replaced_in_the_middle_has_no_place_that_is_not_there_any_more():
    """The snapshot is of one that lacks an entry because its owner has written the key again since."""
    view, owner, replica = ClusterView("me"), owner_of("a", "b", "c"), Replica(1)
    replica.apply_delta(Delta("x", 1, 0, 0, tuple(owner.after(0))))
    view.follow("x", replica, FINE)
    owner.put(endpoint_key("d"), b"1")
    kept = [entry for entry in owner.after(0) if entry.key != endpoint_key("c")]
    assert replica.apply_snapshot(Snapshot("x", 1, 2, tuple(kept))) is Applied.NEWS
    view.follow("x", replica, FINE)
    assert sorted(view.places) == ["a", "b", "d"]


@covers("CLUSTER-11")
def test_what_was_deleted_does_not_come_back_with_its_node():
    view, owner = ClusterView("me"), owner_of("ep", "gone")
    view.follow("a", owner, FINE)
    owner.delete(endpoint_key("gone"))
    for condition in (FINE, Condition(), FINE):
        view.follow("a", owner, condition)
    assert list(view.places) == ["ep"]
    assert view.version_of("a", "gone") is None


@covers("CLUSTER-12")
def test_another_life_has_not_the_card_of_the_one_before_and_does_not_drain():
    view, owner = ClusterView("me"), owner_of("ep")
    owner.put(CARD, encode_card(A_CARD))
    owner.put(DRAINING, b"")
    view.follow("a", owner, FINE)
    view.follow("a", owner_of("ep", life=2), FINE)
    assert view.node("a").card is None
    assert view.standing("a") is Standing.ROUTABLE


@covers("CLUSTER-13")
def test_a_correction_holds_until_a_newer_version_comes():
    view, owner = ClusterView("me"), owner_of("ep")
    view.follow("a", owner, FINE)
    entry = view.version_of("a", "ep")
    assert entry == EntryVersion(1, 1)
    assert view.absent("a", "ep", entry)
    assert not view.absent("a", "ep", entry)
    owner.put(b"other", b"")
    view.follow("a", owner, Condition(verified=True, lowered=True))
    view.follow("a", owner, Condition())
    view.follow("a", owner, FINE)
    assert not view.places
    owner.put(endpoint_key("ep"), b"2")
    view.follow("a", owner, FINE)
    assert view.places == {"ep": (Place("a", 2),)}
    assert view.corrections == 1
    assert not view._nodes["a"].absent


@covers("CLUSTER-13")
def test_a_correction_outlives_a_copy_that_is_replaced_but_no_life():
    view, owner = ClusterView("me"), owner_of("ep", "gone")
    view.follow("a", owner, FINE)
    for endpoint_id, version in (("ep", 1), ("gone", 2)):
        view.absent("a", endpoint_id, EntryVersion(1, version))
    owner.delete(endpoint_key("gone"))
    owner.put(b"more", b"")
    owner.compact(owner.applied)
    view.follow("a", owner, FINE)
    assert not view.places
    assert list(view._nodes["a"].absent) == ["ep"]
    view.follow("a", owner_of("ep", life=2), FINE)
    assert list(view.places) == ["ep"]


@covers("CLUSTER-13")
def test_a_late_correction_does_not_touch_a_newer_entry_or_life():
    view, owner = ClusterView("me"), owner_of("ep")
    view.follow("a", owner, FINE)
    old = view.version_of("a", "ep")
    owner.delete(endpoint_key("ep"))
    owner.put(endpoint_key("ep"), b"1")
    view.follow("a", owner, FINE)
    assert not view.absent("a", "ep", old)
    view.follow("a", owner_of("ep", life=2), FINE)
    assert not view.absent("a", "ep", EntryVersion(1, 1))
    assert not view.absent("nobody", "ep", EntryVersion(1, 1))
    assert not view.absent("a", "never", EntryVersion(1, 1))
    assert view.places == {"ep": (Place("a", 1),)}


@covers("CLUSTER-14")
def test_what_appears_and_vanishes_is_reported_in_order():
    view, a, b = ClusterView("me"), owner_of("ep"), owner_of("ep")
    view.follow("a", a, FINE)
    view.follow("b", b, FINE)
    a.put(endpoint_key("ep"), b"7")
    view.follow("a", a, FINE)
    view.forget("a")
    b.delete(endpoint_key("ep"))
    view.follow("b", b, FINE)
    b.put(endpoint_key("ep"), b"1")
    view.follow("b", b, FINE)
    view.absent("b", "ep", view.version_of("b", "ep"))
    gained, vanished = PlaceGained("ep"), EndpointVanished("ep")
    assert view.events() == [gained, gained, vanished, gained, vanished]
    assert view.events() == []


@covers("CLUSTER-14")
def test_what_comes_with_a_node_that_goes_is_not_reported():
    view, owner = ClusterView("me"), owner_of("ep")
    view.follow("a", owner, FINE)
    view.events()
    owner.put(endpoint_key("late"), b"1")
    view.follow("a", owner, Condition(verified=True, gone=True))
    assert view.events() == [EndpointVanished("ep")]


@covers("CLUSTER-15")
def test_a_change_costs_the_same_with_ten_endpoints_and_with_ten_thousand():
    costs = []
    for size in (10, 10_000):
        view, owner = ClusterView("me"), owner_of(*(f"ep{number}" for number in range(size)))
        view.follow("a", owner, FINE)
        view.events()
        owner.put(endpoint_key("ep3"), b"2")
        owner.delete(endpoint_key("ep5"))
        owner.put(endpoint_key("new"), b"1")
        costs.append(calls_of(lambda view=view, owner=owner: view.follow("a", owner, FINE)))
        assert view.events() == [EndpointVanished("ep5"), PlaceGained("new")]
    assert costs[0] == costs[1]


@covers("CLUSTER-17")
@pytest.mark.parametrize(
    "record,verified,status",
    [
        (Record(1), True, NodeStatus.ALIVE),
        (Record(1), False, NodeStatus.HEARSAY),
        (Record(1, rank=Rank.SUSPECT), True, NodeStatus.SUSPECT),
        (Record(1, rank=Rank.SUSPECT), False, NodeStatus.HEARSAY),
        (Record(1, rank=Rank.DEAD), True, NodeStatus.DEAD),
        (Record(1, rank=Rank.DEAD), False, NodeStatus.DEAD),
        (Record(1, left=True), True, NodeStatus.LEFT),
        (Record(1, left=True, rank=Rank.DEAD), False, NodeStatus.LEFT),
    ],
)
def test_a_node_is_shown_under_one_word(record: Record, verified: bool, status: NodeStatus) -> None:
    assert status_of(record, verified=verified) is status


ALIVE, SUSPECT, HEARSAY, DEAD, LEFT = NodeStatus


@covers("CLUSTER-19")
@pytest.mark.parametrize(
    "statuses,told",
    [
        ([HEARSAY, ALIVE, SUSPECT, ALIVE, SUSPECT, DEAD], [None, ALIVE, None, None, None, DEAD]),
        ([ALIVE, LEFT, HEARSAY, ALIVE], [ALIVE, LEFT, None, ALIVE]),
        ([ALIVE, DEAD, LEFT], [ALIVE, DEAD, LEFT]),
        ([ALIVE, HEARSAY, DEAD], [ALIVE, None, DEAD]),  # another life, of which nothing was heard
        ([SUSPECT, DEAD], [ALIVE, DEAD]),
        ([HEARSAY, DEAD, HEARSAY, LEFT], [None, None, None, None]),
        ([DEAD, ALIVE, DEAD], [None, ALIVE, DEAD]),
    ],
)
def test_what_becomes_of_a_node_that_was_heard_is_told_once(
    statuses: list[NodeStatus], told: list[NodeStatus | None]
) -> None:
    news = StatusNews()
    assert [news.follow("a", status) for status in statuses] == told
    assert news.follow("a", statuses[-1]) is None


@covers("CLUSTER-19")
def test_nothing_is_kept_of_a_node_that_is_forgotten() -> None:
    news = StatusNews()
    assert news.follow("a", ALIVE) is ALIVE
    news.forget("a")
    assert news.follow("a", DEAD) is None
    news.forget("a")
