"""What went wrong in programs of this kind, one script for each, under all the checks of safety.

The names in brackets are those of the reports from which a script comes.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from pico.config import GossipLimits, GossipTimers
from pico.errors import LocalProtocolError
from pico.protocol.gossip import MessageType, PacketCodec, Rank, Record, Records
from pico.protocol.gossip.wire import encode_message
from tests.gossip_side import digest_of
from tests.simulation.bars import (
    SEEDS,
    dead_s,
    grown,
    healed_s,
    name_of,
    others,
    present,
    stall,
    together,
    until_each,
    visible_s,
)
from tests.simulation.checks import Checks, agree, differences, knows, routable
from tests.simulation.world import EPOCH_S, Link, World

BRIEF = GossipLimits(dead_state_s=4.0, dead_record_s=12.0)
"""So that forgetting does not take ten minutes."""

HARSH = Link(loss=0.2, stream_loss=0.1, repeat=0.2, spread_s=0.3)

EXCHANGES_2_S = 0.5 + 2 * 0.2
"""Two rounds of a small cluster, and the delays of a harsh network."""


def cluster(seed: int, nodes: int, **options) -> World:  # type: ignore[no-untyped-def]
    return grown(seed, nodes, checks=Checks(), **options)


def verdicts(world: World) -> list[tuple[str, str, Rank]]:
    """What is judged from now on."""
    found: list[tuple[str, str, Rank]] = []
    world.checks.judged = lambda process, node_id, rank: found.append((process.name, node_id, rank))  # type: ignore
    return found


def dead(found: list[tuple[str, str, Rank]]) -> list[tuple[str, str, Rank]]:
    return [verdict for verdict in found if verdict[2] is Rank.DEAD]


def packets_s(world: World, seconds: float = 10.0) -> float:
    """What a node sends in a second, in packets."""
    before = sum(process.sent_packets for process in world.up())
    world.run(seconds)
    return (sum(process.sent_packets for process in world.up()) - before) / seconds / len(world.up())


QUIET_PACKETS_S = 40.0
"""Five rounds and two probes a second, each with its answers, and the attempts to reach the absent."""


# The dead.


@pytest.mark.parametrize("seed", range(3))
def test_a_ghost_does_not_go_around_between_those_who_forget_it_one_after_the_other(seed: int) -> None:
    """[piko 314, chitchat 23, 94, 108, 155, 161, quickwit 5135]"""
    world = cluster(seed, 5, limits=BRIEF)
    world.link = HARSH
    dead_s(world)
    gone = next(name for name in world.processes if not world.processes[name].up)
    world.run(30.0)
    for _ in range(60):
        world.run(5.0)
        assert not any(present(process, gone) for process in world.up())
        assert not any(gone in process.engine.table.members() for process in world.up())


def test_the_dead_leave_the_digest_and_their_number_does_not_make_packets_larger() -> None:
    """[quickwit 4986, 6653]"""
    world = cluster(1, 20, limits=BRIEF)
    for number in range(5, 20):
        world.crash(name_of(number))
    until_each(world, world.up(), lambda one: len(one.engine.table.members()) == 4, 60.0)
    together(world)
    # (The memory is not told: what is left is the bytes of five.)
    assert sum(len(packet) for packet in digest_of(world.up()[0].engine.table)) < 400


def test_what_the_dead_one_said_before_does_not_bring_it_back() -> None:
    """A delayed packet of the living, and of the dead [al8n memberlist 197, chitchat 132]."""
    world = cluster(2, 4, limits=BRIEF)
    world.keeps_past = True
    world.run(5.0)
    past = list(world.past)
    world.crash("n003")
    until_each(world, world.up(), lambda one: not present(one, "n003"), 10.0)
    for wait_s in (0.0, 3.0, 3.0, 10.0, 10.0):
        world.run(wait_s)
        for source, address, data in past:
            world.send(source, address, data)
        world.run(0.2)
        assert not any(present(process, "n003") for process in world.up())


def test_a_late_verdict_of_the_old_process_does_not_touch_the_new_one() -> None:
    """[scylla 18257]"""
    world = cluster(3, 4)
    old = world.processes["n003"].engine.table.record
    world.crash("n003")
    world.run(0.5)
    world.start("n003", seeds=SEEDS)
    together(world)
    witness = world.processes["n000"]
    for rank in (Rank.SUSPECT, Rank.DEAD):
        record = Records((("n003", old._replace(rank=rank, inc=7)),))
        data = witness.engine._codec.encode(witness.engine.table.own.life, [encode_message(record)])
        for process in others(world, "n003"):
            world.send(witness, process.address, data)
    world.run(0.3)
    assert agree(world)


def test_what_others_say_of_an_unknown_node_carries_no_request_and_is_not_told_on() -> None:
    """[chitchat 132, piko 314]"""
    world = cluster(4, 4, limits=BRIEF)
    teller, listener = world.processes["n000"], world.processes["n001"]
    data = teller.engine._codec.encode(teller.engine.table.own.life, [encode_message(Records((("ghost", Record(5)),)))])
    world.send(teller, listener.address, data)
    world.run(1.0)
    for process in world.up():
        assert not routable(process, "ghost")
        assert process is listener or "ghost" not in process.engine.table.members()
    health = []
    for _ in range(40):
        world.run(0.5)
        health.append(listener.engine.detector.health)
    assert max(health) == 0, "a ghost makes nobody doubt itself"
    world.run(30.0)
    assert not any("ghost" in process.engine.table.members() for process in world.up())


# Lives.


def test_a_process_of_the_same_name_has_nothing_of_the_one_before() -> None:
    """[chitchat 94, 103, scylla 3798]"""
    world = cluster(5, 4)
    old = world.processes["n003"]
    for number in range(40):
        world.put(old, b"e:old-%d" % number, b"1")
    together(world)
    world.crash("n003", refuses=True)
    world.run(0.8)
    new = world.start("n003", seeds=SEEDS)
    world.put(new, b"e:new", b"1")
    until_each(world, others(world, "n003"), lambda one: knows(one, "n003", b"e:new") is not None, 0.25)
    for process in others(world, "n003"):
        state = process.engine.table.state_of("n003")
        assert state is not None and not any(key.startswith(b"e:old") for key in state.live())


@pytest.mark.parametrize("ahead_s", [365 * 86_400.0, 40 * 365 * 86_400.0])
def test_a_life_far_ahead_of_the_last_one_is_a_life(ahead_s: float) -> None:
    """[cassandra 10969, scylla 5164, 5195, 6083]"""
    world = cluster(6, 3)
    world.start("n002", seeds=SEEDS, wall_s=EPOCH_S + ahead_s)
    assert together(world, 5.0) < EXCHANGES_2_S


@pytest.mark.parametrize("back_s", [0.0, 3_600.0, EPOCH_S - 1.0])
def test_a_process_whose_clock_went_back_is_followed_all_the_same(back_s: float) -> None:
    """[scylla 2419, 3331, 5801, memberlist 311]"""
    world = cluster(7, 4)
    world.run(5.0)
    process = world.start("n002", seeds=SEEDS, wall_s=EPOCH_S - back_s)
    world.put(process, b"e:new", b"1")
    assert together(world, 5.0) < EXCHANGES_2_S
    assert all(knows(one, "n002", b"e:new") for one in others(world, "n002"))


def test_all_are_restarted_at_once_with_their_clocks_back_and_are_remembered_as_dead() -> None:
    """[memberlist 311, its pull request 345]"""
    world = cluster(8, 9, limits=BRIEF)
    for number in range(1, 9):
        world.crash(name_of(number))
    until_each(world, world.up(), lambda one: not one.engine.table.members(), 300.0)  # (all alone it doubts itself)
    for number in range(1, 9):
        world.start(name_of(number), seeds=SEEDS, wall_s=EPOCH_S - 10_000.0)
    assert together(world, 10.0) < 3.0


def test_the_same_name_from_a_new_address() -> None:
    """[memberlist 157, 171, consul 733, 1580, 3902, 6897]"""
    world = cluster(9, 4)
    world.crash("n003")
    world.run(0.5)
    new = world.start("n003", seeds=SEEDS, host="10.9.9.9")
    assert together(world, 5.0) < EXCHANGES_2_S
    assert all(one.engine.address_of("n003") == new.address for one in others(world, "n003"))


def test_another_node_at_the_address_of_a_dead_one() -> None:
    world = cluster(10, 4)
    old = world.processes["n003"]
    world.crash("n003")
    world.run(1.0)
    world.start("m", seeds=SEEDS, host=old.address[0])
    world.run(10.0)
    assert all(not present(one, "n003") and routable(one, "m") for one in others(world, "m"))
    together(world, 1.0)
    assert packets_s(world) < QUIET_PACKETS_S


def test_two_processes_of_one_name_end_loudly_and_with_one_of_them_at_most() -> None:
    """[memberlist 157 and what came of it]"""
    world = cluster(11, 4)
    one = world.processes["n003"]
    two = world.start("n003", seeds=SEEDS, host="10.9.9.9", twin=True)
    world.run_until(lambda: one.contested or two.contested, 60.0)
    world.run(30.0)
    if not (one.contested and two.contested):
        assert list(differences(world)) == []
    assert packets_s(world) < QUIET_PACKETS_S


# Probing.


def test_the_only_helper_is_asked_every_time() -> None:
    """[memberlist 350]"""
    world = cluster(12, 3)
    found = verdicts(world)
    world.links["n000", "n001"] = Link(loss=1.0, stream_loss=1.0)
    world.links["n001", "n000"] = Link(loss=1.0, stream_loss=1.0)
    world.run(300.0)
    assert not found
    assert [process.engine.detector.health for process in world.up()] == [0, 0, 0]


def test_a_datagram_that_cannot_leave_is_a_probe_without_an_answer_and_not_silence() -> None:
    """[memberlist 242]"""
    world = cluster(13, 3)
    found = verdicts(world)
    world.links["n000", "n001"] = Link(unsendable=True)
    world.run(60.0)
    assert not found, "the helper and the stream have answered"
    world.crash("n001")
    took_s = until_each(world, world.up(), lambda one: not present(one, "n001"), 10.0)
    assert took_s < 4.5


@pytest.mark.parametrize("nodes", [3, 9])
@pytest.mark.parametrize("seed", range(3))
def test_who_did_not_run_for_20_s_declares_nobody_dead(nodes: int, seed: int) -> None:
    """[restate 5156, 5155, 5181, cassandra's rule of the local pause]"""
    world = cluster(14 + seed, nodes)
    found = verdicts(world)
    world.pause("n000", 20.0)
    world.run(60.0)
    assert not [verdict for verdict in found if verdict[0] == "n000"]
    together(world, 5.0)


@pytest.mark.parametrize("nodes", [3, 10])
def test_one_node_that_stalls_again_and_again_is_not_declared_dead(nodes: int) -> None:
    world = cluster(15, nodes)
    found = verdicts(world)
    stall(world)
    world.run(300.0)
    assert not dead(found)


def test_all_that_went_unheard_is_no_evidence_when_datagrams_do_not_pass_at_all() -> None:
    """UDP is blocked everywhere, streams pass: everything goes on, within a second or two."""
    world = cluster(16, 5)
    found = verdicts(world)
    world.link = Link(loss=1.0)
    world.run(60.0)
    assert not dead(found)
    assert visible_s(world) < 1.5
    world.start("n007", seeds=SEEDS)
    world.run_until(lambda: agree(world), 10.0)


@pytest.mark.parametrize("nodes", [3, 5])
def test_one_direction_of_one_link_is_cut(nodes: int) -> None:
    world = cluster(17, nodes)
    found = verdicts(world)
    world.cut("n000", "n001", one_way=True)
    world.run(120.0)
    assert not dead(found)
    assert visible_s(world) < 1.0
    together(world, 1.0)


@pytest.mark.parametrize("hears", [True, False])
def test_who_can_only_hear_or_only_speak_hears_of_its_death_and_comes_back(hears: bool) -> None:
    world = cluster(18, 5)
    for other in others(world, "n004"):
        pair = ("n004", other.name) if hears else (other.name, "n004")
        world.cut(*pair, one_way=True)
    world.run(60.0)
    assert sum(process.engine.table.record.inc for process in world.up()) < 100
    assert packets_s(world) < 2 * QUIET_PACKETS_S
    world.heal()
    assert together(world, 10.0) < 5.0


def test_health_comes_back() -> None:
    world = cluster(19, 5)
    world.isolate("n000")
    world.run(30.0)
    assert world.processes["n000"].engine.detector.health > 0
    world.heal()
    world.run(30.0)
    assert [process.engine.detector.health for process in world.up()] == [0] * 5


# Partitions, seeds, joining.


@pytest.mark.parametrize("nodes", [2, 5])
@pytest.mark.parametrize("limits", [BRIEF, replace(BRIEF, memory_s=60.0)])
def test_a_partition_longer_than_anything_is_remembered_heals(nodes: int, limits: GossipLimits) -> None:
    """[piko, ringpop, antrea 4491, consul 3902]"""
    world = grown(20, nodes, limits=limits)
    assert healed_s(world, 600.0) < 10.0
    assert packets_s(world) < QUIET_PACKETS_S


def test_seeds_that_are_down_at_boot_are_found_when_they_come() -> None:
    world = World(21, checks=Checks())
    first = world.start("n003", seeds=SEEDS)
    world.run(120.0)
    assert not first.engine.joined and first.engine.seeds_tried
    world.start("n001", seeds=SEEDS)
    assert together(world, 10.0) <= 1.25 * world.timers.seed_max_s + 1.0
    assert first.engine.joined


def test_a_node_that_is_its_own_only_seed_is_a_cluster_of_one_and_has_not_joined() -> None:
    world = World(22, checks=Checks())
    alone = world.start("n000", seeds=("n000",))
    world.put(alone, b"e:x", b"1")
    world.run(30.0)
    assert not alone.engine.joined
    assert packets_s(world) == 0.0


def test_an_address_that_stands_for_many_answers_with_this_node_first_and_with_another_then() -> None:
    """The address of a service that is balanced over all nodes is the only seed."""
    world = World(22, checks=Checks())
    service = ("10.7.7.7", 8003)
    one = world.start("n000")
    world.by_address[service] = one
    world.do(one, lambda engine, now: engine.set_seeds([service], now=now))
    world.run(3.0)
    two = world.start("n001")
    world.do(two, lambda engine, now: engine.set_seeds([service], now=now))
    world.by_address[service] = two
    together(world, 10.0)


def test_those_who_found_each_other_at_such_an_address_find_the_others_too() -> None:
    """Two clusters, each with a node that was behind the address of the service when the other node asked."""
    world = World(22, checks=Checks())
    service = ("10.7.7.7", 8003)
    for first, second in (("n000", "n001"), ("n002", "n003")):
        for name in (first, second):
            process = world.start(name)
            world.by_address[service] = world.processes[first]
            world.do(process, lambda engine, now: engine.set_seeds([service], now=now))
            world.run(1.0)
        assert all(len(process.engine.table.members()) == 1 for process in world.up())
    together(world, 2.2 * world.timers.exchange_s)


@pytest.mark.parametrize("seed", range(3))
def test_nodes_that_start_at_the_same_moment_are_one_cluster(seed: int) -> None:
    world = World(seed, checks=Checks(), link=Link(loss=0.1))
    for number in range(9):
        world.start(name_of(number), seeds=tuple(map(name_of, range(9))))
    assert together(world, 10.0) < 2.0


def test_another_cluster_at_our_address_does_not_become_ours() -> None:
    """[tempo 2766, loki 10172, mimir 6187, garnet 391]"""
    world = cluster(23, 4)
    address = world.processes["n003"].address
    world.crash("n003")
    stranger = world.start("n003", cluster="other", host=address[0], seeds=SEEDS)
    world.put(stranger, b"e:stolen", b"1")
    world.run(30.0)
    for process in others(world, "n003"):
        assert not present(process, "n003")
        world.send(stranger, process.address, digest_of(stranger.engine.table)[0], spoiled=True)
    world.run(1.0)
    for process in world.up():
        assert process.engine.snapshot().violations["cluster"] > 0
    assert world.counts["broken exchanges"] > 0
    assert not stranger.engine.table.members()


def test_bits_that_flip_are_noticed() -> None:
    """[the outage of S3 in July 2008]"""
    world = cluster(24, 5)
    world.link = Link(flip=0.3)
    for number in range(50):
        world.put(world.processes["n000"], b"e:%d" % number, b"%d" % number)
        world.run(0.1)
    together(world, 5.0)
    assert all(process.engine.snapshot().violations["malformed"] > 0 for process in world.up())


# Entries.


def test_the_largest_entry_passes_the_smallest_packet_and_holds_nothing_up() -> None:
    """[piko]"""
    world = cluster(25, 3, limits=GossipLimits(packet_bytes_max=1_024))
    owner = world.processes["n000"]
    for number in range(20):
        world.put(owner, b"large-%d" % number, b"v" * (512 - 9))
        world.put(owner, b"e:%d" % number, b"1")
    with pytest.raises(LocalProtocolError):
        world.put(owner, b"k", b"v" * 512)
    together(world, 1.0)


def test_packets_of_different_limits_in_one_cluster() -> None:
    """[piko]"""
    world = World(26, checks=Checks())
    for number, limit in enumerate((1_024, 1_200, 9_000, 65_507)):
        world.start(name_of(number), seeds=SEEDS, limits=GossipLimits(packet_bytes_max=limit))
    together(world, 5.0)
    for process in world.up():
        for number in range(500):
            world.put(process, b"e:%d" % number, b"1", pump=False)
        world.put(process, b"e:last", b"1")
    assert together(world, 5.0) < 1.0


def test_an_empty_value_after_a_deletion_arrives() -> None:
    """[piko]"""
    world = cluster(27, 3)
    owner = world.processes["n000"]
    for value in (b"1", None, b"", None, b""):
        if value is None:
            world.delete(owner, b"e:x")
        else:
            world.put(owner, b"e:x", value)
        world.run(0.3)
        assert {knows(process, "n000", b"e:x") for process in world.up()} == {value}


def test_who_has_little_to_say_is_heard_beside_who_has_much() -> None:
    """[chitchat 120]"""
    world = grown(28, 4)
    loud, quiet = world.processes["n000"], world.processes["n001"]
    for number in range(5_000):
        world.put(loud, b"e:%d" % number, b"v" * 300, pump=False)
    world.put(loud, b"e:last", b"1")
    world.put(quiet, b"e:quiet", b"1")
    until_each(world, others(world, "n001"), lambda one: knows(one, "n001", b"e:quiet") is not None, 0.1)
    together(world, 10.0)


@pytest.mark.parametrize("seed", range(3))
def test_what_was_deleted_stays_deleted_for_who_was_away(seed: int) -> None:
    """The floor has passed what the absent one has [chitchat 110, 121, 178, 179, 176, 180]."""
    world = cluster(29 + seed, 4, limits=GossipLimits(tombstones_max=8))
    owner = world.processes["n000"]
    for number in range(60):
        world.put(owner, b"e:%d" % number, b"1")
    together(world)
    world.isolate("n003")
    for number in range(60):
        world.delete(owner, b"e:%d" % number)
        if number % 10 == 0:
            world.run(0.3)
    assert owner.engine.table.own.floor > 0
    world.put(owner, b"e:one", b"1")
    world.heal()
    together(world, 10.0)


# Leaving.


def test_who_leaves_is_gone_everywhere_within_a_moment_and_does_not_come_back() -> None:
    """[serf 510, 638, 640, consul 3706]"""
    world = cluster(33, 9)
    world.leave("n004")
    took_s = until_each(world, others(world, "n004"), lambda one: not present(one, "n004"), 1.0)
    assert took_s < 0.1
    world.run(60.0)
    for process in others(world, "n004"):
        record = process.engine.table.record_of("n004")
        assert record is not None and record.left
    assert not world.processes["n004"].up


def test_a_leave_that_half_of_them_cannot_hear_is_carried_through() -> None:
    """[serf 638: an error on the way ended it]"""
    world = cluster(34, 6)
    for number in range(3):
        world.links["n005", name_of(number)] = Link(unsendable=True, stream_loss=1.0)
    world.leave("n005")
    until_each(world, others(world, "n005"), lambda one: not present(one, "n005"), 2.0)
    world.run(10.0)
    assert not world.processes["n005"].up
    assert all(one.engine.table.record_of("n005").left for one in world.up())  # type: ignore[union-attr]


def test_two_leave_at_once_and_nothing_echoes() -> None:
    """[serf 606]"""
    world = cluster(35, 5)
    world.leave("n003")
    world.leave("n004")
    world.run(10.0)
    assert all(not present(one, "n003") and not present(one, "n004") for one in world.up())
    assert packets_s(world) < QUIET_PACKETS_S
    world.run(10.0)
    assert not any(process.engine._rumours for process in world.up()), "it is told on for ever"
    together(world, 1.0)


def test_who_left_and_was_started_again_is_welcome() -> None:
    world = cluster(36, 4)
    world.leave("n003")
    world.run(6.0)
    world.start("n003", seeds=SEEDS, wall_s=EPOCH_S - 100.0)
    assert together(world, 5.0) < EXCHANGES_2_S


# Much of it.


def test_accusations_do_not_flood() -> None:
    """[foca 0.12]"""
    world = cluster(37, 12)
    names = sorted(world.processes)
    for _ in range(3):
        world.partition(names[:6], names[6:])
        world.run(20.0)
        world.heal()
        before = sum(process.sent_packets for process in world.up())
        together(world, 10.0)
        world.run(5.0)
        sent = sum(process.sent_packets for process in world.up()) - before
        assert sent < 12 * 15 * QUIET_PACKETS_S
    assert packets_s(world) < QUIET_PACKETS_S


def test_many_that_never_come_back_do_not_make_it_slow_to_see_one_that_does() -> None:
    """The absent are tried in turn: forty dead, and one that was cut off."""
    world = grown(38, 45, limits=BRIEF)
    for number in range(5, 45):
        world.crash(name_of(number))
    world.isolate("n004")
    world.run(60.0)
    world.heal()
    assert together(world, 60.0) < 15.0


def test_clocks_that_run_apart_change_nothing() -> None:
    world = World(39, checks=Checks())
    for number in range(5):
        world.start(name_of(number), seeds=SEEDS, clock_offset_s=1_000.0 * number, clock_rate=0.95 + 0.025 * number)
    together(world, 5.0)
    found = verdicts(world)
    world.run(120.0)
    assert not found
    assert visible_s(world) < 0.02


def test_a_node_that_answers_again_is_chosen_again() -> None:
    world = cluster(40, 4, timers=GossipTimers())
    world.isolate("n003")
    until_each(world, others(world, "n003"), lambda one: not routable(one, "n003"), 3.0)
    world.heal()
    until_each(world, others(world, "n003"), lambda one: routable(one, "n003"), 5.0)


@pytest.mark.parametrize("what", ["restart", "stall", "cut"])
def test_and_at_once_also_among_many(what: str) -> None:
    """When all agree that it is there, nobody waits for its turn to ask it."""
    world = cluster(41, 20)
    if what == "restart":
        world.crash("n019", refuses=True)
        world.run(2.0)
        world.start("n019", seeds=SEEDS)
    elif what == "stall":
        world.pause("n019", 2.0)
        world.run(2.0)
    else:
        world.isolate("n019")
        world.run(2.0)
        world.heal()
    together(world, 5.0)
    until_each(world, others(world, "n019"), lambda one: routable(one, "n019"), 0.5)


# Versions.


class YoungerCodec(PacketCodec):
    """Speaks as a later revision might: a message more, and more at the end of those that may grow."""

    GROWING = frozenset(
        (MessageType.PING, MessageType.ACK, MessageType.PING_REQUEST, MessageType.NACK, MessageType.PUSHED)
    )

    def encode_body(self, life, messages):  # type: ignore[no-untyped-def]
        """With what only the younger know, where there is room."""
        grown = [(type_, payload + b"later" if type_ in self.GROWING else payload) for type_, payload in messages]
        body = super().encode_body(life, [*grown, (200, b"of a later revision")])
        return body if len(body) < self.packet_bytes_max - 64 else super().encode_body(life, messages)


def test_older_and_younger_nodes_are_one_cluster_and_lose_nothing_of_each_other() -> None:
    """S16: unknown messages and what is appended are skipped, unknown keys are kept and told on [memberlist 178]."""
    world = cluster(41, 6)
    younger = [world.processes[name] for name in ("n001", "n004")]
    for process in younger:
        engine = process.engine
        engine._codec = engine.table._codec = YoungerCodec("prod", process.name, world.limits)
        world.put(process, b"feature", b"of a later revision")
    together(world)
    # What the one says reaches a newcomer by whoever it meets: by the older ones, too.
    world.cut("n001", "n006")
    world.start("n006", seeds=("n000",))
    until_each(world, others(world, "n001"), lambda one: knows(one, "n001", b"feature") is not None, 5.0)
    world.crash("n004")
    until_each(world, others(world, "n004"), lambda one: not present(one, "n004"), 10.0)
    assert world.processes["n000"].engine.table.unknown_messages > 0
