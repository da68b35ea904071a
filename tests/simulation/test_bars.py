"""A sample of the figures of the cluster in virtual time: the whole is ``python -m tests.simulation.bars``."""

from __future__ import annotations

import pytest

from tests.simulation import bars
from tests.simulation.bars import LOSSES, after_deletions_s, ghosts, grown, healed_s, many_s, measure, misses
from tests.simulation.bars import restarted_s as restarted


@pytest.mark.parametrize("nodes, runs", [(3, 30), (10, 6)])
def test_small_clusters_reach_their_bars(nodes: int, runs: int) -> None:
    assert misses(measure(nodes, runs)) == []


def test_a_cluster_that_pushes_along_a_tree_reaches_its_bars() -> None:
    assert misses(measure(50, 1)) == []


@pytest.mark.parametrize("what", LOSSES)
@pytest.mark.parametrize("nodes, seconds", [(3, 600.0), (10, 200.0)])
def test_the_living_are_not_declared_dead(what: str, nodes: int, seconds: float) -> None:
    dead, _ = bars.false_deaths(nodes, nodes, seconds, LOSSES[what], stalls=True)
    assert dead == 0


def test_the_crashed_never_come_back_and_are_forgotten() -> None:
    assert ghosts(1) == 0


@pytest.mark.parametrize("nodes", [3, 9])
def test_a_partition_of_ten_minutes_heals(nodes: int) -> None:
    assert healed_s(grown(1, nodes), 600.0) <= 10.0


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("down_s", [0.05, 0.9])
def test_a_process_of_the_same_name_is_seen_at_once_and_nothing_of_the_one_before(seed: int, down_s: float) -> None:
    assert restarted(grown(seed, 5), down_s) <= 0.25


@pytest.mark.parametrize("nodes", [3, 40])
def test_endpoints_by_the_thousand_and_one_after_as_many_have_gone(nodes: int) -> None:
    world = grown(1, nodes)
    assert many_s(world, 5_000 if nodes < 10 else 1_000) <= 2.0
    assert after_deletions_s(world, 1_000 if nodes < 10 else 500) <= 0.25
