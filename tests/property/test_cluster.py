"""The view against one that is made anew from the copies, and the two ends of an entry against each other."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pico.config import GossipLimits
from pico.protocol.cluster import (
    COUNT_INTERVAL_S,
    DRAINING,
    ClusterView,
    Condition,
    EndpointVanished,
    EntryVersion,
    LocalEndpoints,
    Place,
    PlaceGained,
    Standing,
    decode_card,
    decode_count,
    endpoint_key,
    endpoint_of_key,
    standing_of,
)
from pico.protocol.gossip.state import NodeState, OwnState, Replica
from tests.rules import covers

NAMES = ("a", "b", "c")
ENDPOINTS = ("x", "y", "z")

nodes = st.sampled_from(NAMES)
endpoints = st.sampled_from(ENDPOINTS)
conditions = st.just(Condition(verified=True)) | st.builds(Condition, *[st.booleans()] * 4)


@covers("CLUSTER-2", "CLUSTER-3")
@given(st.binary(max_size=80), st.binary(max_size=80))
def test_any_bytes_mean_something_or_nothing(key, value):
    decode_card(value)
    assert decode_count(value) >= 0
    assert endpoint_of_key(key) == "" or endpoint_key(endpoint_of_key(key)) == key


@covers("CLUSTER-6", "CLUSTER-7")
@given(st.lists(st.tuples(endpoints, st.integers(0, 4), st.sampled_from([0.0, 0.1, 0.3])), max_size=40))
def test_what_is_said_follows_the_numbers_and_is_not_said_too_often(changes):
    state, now = OwnState(1, GossipLimits()), 0.0
    local, wanted, changed_at = LocalEndpoints(state), {}, []
    for endpoint_id, count, wait_s in changes:
        now += wait_s
        local.handle_timer(now=now)
        between = state.live()
        local.set(endpoint_id, count, now=now)
        wanted[endpoint_id] = count
        said = state.live()
        assert said.keys() == {endpoint_key(name) for name, number in wanted.items() if number}
        if any(said.get(key, value) != value for key, value in between.items()):
            changed_at.append(now)
    assert all(late - early >= COUNT_INTERVAL_S for early, late in pairwise(changed_at))
    local.handle_timer(now=now + COUNT_INTERVAL_S)
    assert state.live() == {endpoint_key(name): b"%d" % number for name, number in wanted.items() if number}
    assert local.next_timer() is None


class FollowedCluster(RuleBasedStateMachine):
    """Owners write, copies of them move on in every way that gossip has, and the view follows."""

    def __init__(self) -> None:
        super().__init__()
        self.view = ClusterView("me")
        self.owners = {name: OwnState(1, GossipLimits(tombstones_max=1)) for name in NAMES}
        self.copies: dict[str, NodeState] = {}
        self.conditions: dict[str, Condition] = {}
        self.corrected: dict[tuple[str, str], EntryVersion] = {}
        self.reported: dict[str, int] = {}

    def follow(self, name: str) -> None:
        copy = self.copies[name]
        self.view.follow(name, copy, self.conditions.get(name, Condition()))
        for owner, endpoint_id in list(self.corrected):
            if owner == name and endpoint_key(endpoint_id) not in copy.live():
                del self.corrected[owner, endpoint_id]

    @rule(name=nodes, endpoint_id=endpoints, value=st.sampled_from([b"1", b"2", b"0", b"?", None]))
    def write(self, name, endpoint_id, value):
        owner, key = self.owners[name], endpoint_key(endpoint_id)
        owner.delete(key) if value is None else owner.put(key, value)

    @rule(name=nodes, on=st.booleans())
    def drain(self, name, on):
        self.owners[name].put(DRAINING, b"") if on else self.owners[name].delete(DRAINING)

    @rule(name=nodes, share=st.floats(0, 1))
    def compact(self, name, share):
        self.owners[name].compact(int(self.owners[name].applied * share))

    @rule(name=nodes)
    def restart(self, name):
        self.owners[name] = OwnState(self.owners[name].life + 1, GossipLimits(tombstones_max=1))

    @rule(name=nodes, condition=conditions)
    def judge(self, name, condition):
        self.conditions[name] = condition
        if name in self.copies:
            self.follow(name)

    @rule(name=nodes, size=st.integers(1, 200))
    def learn(self, name, size):
        """A delta, perhaps cut, or a snapshot where only that helps; a higher life replaces the copy."""
        owner = self.owners[name]
        copy = self.copies.get(name)
        if copy is None or copy.life != owner.life:
            copy = self.copies[name] = Replica(owner.life)
        assert isinstance(copy, Replica)
        if copy.applied < owner.floor:
            copy.apply_snapshot(owner.snapshot(name))
        else:
            for delta in list(owner.deltas(name, copy.applied, lambda least: max(least, size)))[:1]:
                copy.apply_delta(delta)
        self.follow(name)

    @rule(name=nodes)
    def take_whole(self, name):
        owner = self.owners[name]
        copy = self.copies[name] = Replica(owner.life)
        copy.apply_snapshot(owner.snapshot(name))
        self.follow(name)

    @rule(name=nodes)
    def lose_copy(self, name):
        if name in self.copies:
            self.copies[name] = Replica(self.copies[name].life)
            self.follow(name)

    @rule(name=nodes)
    def forget(self, name):
        self.copies.pop(name, None)
        self.view.forget(name)
        self.corrected = {key: entry for key, entry in self.corrected.items() if key[0] != name}

    @rule(name=nodes, endpoint_id=endpoints, late=st.booleans())
    def deny(self, name, endpoint_id, late):
        entry = self.view.version_of(name, endpoint_id)
        if entry is not None and late:
            assert not self.view.absent(name, endpoint_id, entry._replace(version=entry.version - 1))
        elif entry is not None:
            self.view.absent(name, endpoint_id, entry)
            self.corrected[name, endpoint_id] = entry

    @covers("CLUSTER-9", "CLUSTER-11", "CLUSTER-12", "CLUSTER-13")
    @invariant()
    def the_view_is_the_one_that_would_be_made_anew(self):
        anew: dict[str, list[Place]] = {}
        for name, copy in sorted(self.copies.items()):
            if not self.conditions.get(name, Condition()).admitted:
                continue
            for key, entry in copy.entries.items():
                endpoint_id, count = endpoint_of_key(key), decode_count(entry.value)
                wrong = self.corrected.get((name, endpoint_id)) == EntryVersion(copy.life, entry.version)
                if endpoint_id and count and not wrong:
                    anew.setdefault(endpoint_id, []).append(Place(name, count))
        assert self.view.places == {endpoint_id: tuple(places) for endpoint_id, places in anew.items()}

    @covers("CLUSTER-10")
    @invariant()
    def everyone_stands_as_its_condition_says(self):
        for name, copy in self.copies.items():
            draining = DRAINING in copy.live()
            wanted = standing_of(self.conditions.get(name, Condition()), draining=draining)
            assert self.view.standing(name) is wanted
            assert (wanted is Standing.NOT) or self.conditions[name].admitted

    @covers("CLUSTER-14")
    @invariant()
    def whoever_listens_to_the_events_knows_which_endpoints_are_there(self):
        for event in self.view.events():
            if isinstance(event, PlaceGained):
                self.reported[event.endpoint_id] = 1
            else:
                assert isinstance(event, EndpointVanished)
                assert self.reported.pop(event.endpoint_id)
        assert self.reported.keys() == self.view.places.keys()


TestFollowedCluster = FollowedCluster.TestCase
