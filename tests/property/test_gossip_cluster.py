"""A cluster of tables in virtual time: trouble first, then peace (``spec/gossip.md``)."""

from __future__ import annotations

import functools
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pico.protocol.gossip import Rank, Record, Records
from tests.gossip_side import Side
from tests.property.gossip_cluster import ROUND_S, Network, World
from tests.rules import covers

PEACE_ROUNDS = 40
"""Rounds of one digest to one node by chance within which up to five nodes agree after the trouble has ended. By
theory some ten are enough with certainty for all that a test will ever see; a snapshot may need one more for each."""

records = st.builds(Record, st.integers(1, 3), st.booleans(), st.integers(0, 2), st.sampled_from(Rank))


@covers("GOSSIP-35", "GOSSIP-45", "GOSSIP-46")
@given(st.lists(records, min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_what_is_known_of_a_node_is_the_greatest_evidence_in_whatever_order(evidence, rng):
    side = Side("a")
    order = evidence + rng.choices(evidence, k=3)
    rng.shuffle(order)
    for record in order:
        side.hear("c", Records((("b", record),)))
    assert side.table.record_of("b") == max(evidence)
    member = side.table.members().get("b")
    assert member is None or member == max(evidence)


@covers("GOSSIP-76")
@given(st.lists(records, min_size=1, max_size=8), st.sets(st.integers(0, 7)))
def test_forgetting_at_any_moment_brings_nobody_back_and_hides_nobody(evidence, forgets):
    side = Side("a")
    for number, record in enumerate(evidence):
        side.hear("c", Records((("b", record),)))
        if number in forgets:
            side.table.forget("b", now=side.now)
        known = max(evidence[: number + 1])
        assert side.table.record_of("b") == known
        assert ("b" in side.table.members()) or known.gone


@covers("GOSSIP-35")
@given(records, records, records)
def test_records_are_a_lattice_of_which_the_join_is_the_greater(one, two, three):
    assert len({functools.reduce(max, order) for order in itertools.permutations((one, two, three))}) == 1
    for left, inc in itertools.product((False, True), range(2)):
        assert Record(one.life + 1) > Record(one.life, left, inc, Rank.DEAD)


@covers("GOSSIP-37", "GOSSIP-39", "GOSSIP-41")
@given(st.lists(records, max_size=12))
def test_whatever_is_said_of_a_node_it_ends_above_it_or_says_that_it_cannot(said):
    side = Side("a", life=2)
    side.table.own.put(b"x", b"1")
    for record in said:
        own = side.table.record
        side.hear("b", Records((("a", record),)))
        assert side.table.contested or side.table.record > record or record == own
        assert side.table.own.live() == {b"x": b"1"}


networks = st.builds(
    Network,
    st.sampled_from([0.0, 0.1, 0.5]),
    st.sampled_from([0.0, 0.3]),
    st.sampled_from([0.005, ROUND_S, 5 * ROUND_S]),
)
troubles = st.lists(
    st.tuples(
        st.sampled_from(["write", "write", "write", "burst", "compact", "wait", "restart", "accuse", "crash"]),
        st.integers(0, 4),
        st.integers(0, 4),
    ),
    max_size=25,
)


@covers("GOSSIP-6", "GOSSIP-9", "GOSSIP-14", "GOSSIP-19", "GOSSIP-21", "GOSSIP-38")
@given(st.integers(0, 2**32), st.integers(2, 5), networks, troubles)
def test_a_cluster_in_trouble_says_nothing_false_and_agrees_when_it_is_left_in_peace(seed, count, network, steps):
    world = World(seed, count, network, packet_bytes_max=1_024, answer_packets_max=2)
    nodes = list(world.nodes.values())
    for what, one, other in steps:
        node, another = nodes[one % count], nodes[other % count]
        if not node.up:
            node.start()
        elif what == "write":
            world.write(node)
        elif what == "burst":
            for _ in range(12):
                world.write(node)
        elif what == "compact":
            world.compact(node)
        elif what == "wait":
            world.run((other + 1) * ROUND_S)
        elif what == "restart":
            node.start()
        elif what == "crash":
            node.up = False
        elif node is not another:
            world.judge(node, another.node_id, Rank.DEAD if seed % 2 else Rank.SUSPECT)
    for node in nodes:
        if not node.up:
            node.start()
    world.network = Network()
    world.run(PEACE_ROUNDS * ROUND_S)
    assert world.agree()


def test_the_same_seed_gives_the_same_log() -> None:
    logs = []
    for _ in range(2):
        world = World(7, 4, Network(loss=0.1, repeat=0.2, delay_s=ROUND_S))
        for node in world.up():
            world.write(node)
        world.run(20 * ROUND_S)
        logs.append(world.log)
    assert logs[0] == logs[1] and len(logs[0]) > 100


@covers("GOSSIP-44", "GOSSIP-45", "GOSSIP-46")
@pytest.mark.parametrize("seed", range(4))
def test_the_dead_are_forgotten_by_all_and_never_come_back(seed: int) -> None:
    """Each expires the dead one at its own moment, and hears of it from the next that has not."""
    world = World(seed, 4, Network(loss=0.2, repeat=0.2, delay_s=2 * ROUND_S), dead_state_s=2.0, dead_record_s=6.0)
    for node in world.up():
        world.write(node)
    world.run(20 * ROUND_S)
    dead, first = world.nodes["n0"], world.nodes["n1"]
    dead.up = False
    world.judge(first, "n0", Rank.DEAD)
    world.run(60 * ROUND_S)
    tables = [node.table for node in world.up()]
    assert all("n0" not in table.members() for table in tables)
    for _ in range(20):
        world.run(10 * ROUND_S)
        assert all("n0" not in table.members() for table in tables)
    dead.start()
    world.network = Network()
    world.run(PEACE_ROUNDS * ROUND_S)
    assert world.agree(), "a new process of the same name is welcome"


@covers("GOSSIP-37", "GOSSIP-38", "GOSSIP-46")
@pytest.mark.parametrize("seed", range(4))
def test_who_was_forgotten_wrongly_hears_of_it_and_comes_back_in_the_same_life(seed: int) -> None:
    world = World(seed, 3, Network(), dead_state_s=2.0, dead_record_s=6.0)
    world.write(world.nodes["n0"])
    world.run(20 * ROUND_S)
    cut_off = world.nodes["n0"]
    life = cut_off.table.own.life
    cut_off.up = False  # As if no packet passed.
    for name in ("n1", "n2"):
        world.judge(world.nodes[name], "n0", Rank.DEAD)
    world.run(60 * ROUND_S)
    assert all("n0" not in node.table.members() for node in world.up())
    cut_off.up = True
    world.run(PEACE_ROUNDS * ROUND_S)
    assert world.agree() and cut_off.table.own.life == life


@covers("GOSSIP-8", "GOSSIP-9")
def test_copies_follow_an_owner_whose_endpoints_come_and_go_by_the_hundred() -> None:
    world = World(3, 3, Network(loss=0.2), tombstones_max=16)
    owner = world.nodes["n0"]
    for turn in range(300):
        key = b"e:%03d" % (turn % 90)
        owner.histories[-1].write("put" if turn % 180 < 90 else "delete", key, b"1")
        if turn % 30 == 0:
            world.run(ROUND_S)
    world.network = Network()
    world.run(PEACE_ROUNDS * ROUND_S)
    assert world.agree() and owner.table.own.floor > 0
    tombstones = [entry for entry in owner.table.own.entries.values() if entry.value is None]
    assert len(tombstones) <= max(16, len(owner.table.own.live()))
