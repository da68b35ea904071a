"""A sample of each bar of ``bench/rollout.py``: one round, with less load; ``make rollout`` has the whole."""

from __future__ import annotations

import pytest

from bench import rollout
from tests.system.balancers import needed

pytestmark = pytest.mark.timeout(240)

RATE = 50.0
BALANCERS = pytest.mark.parametrize("balancer", list(rollout.BALANCERS))


@pytest.fixture(autouse=True)
def balancer_is_there(balancer: str) -> None:
    needed(rollout.BALANCERS[balancer].program)


@BALANCERS
def test_nodes_restarted_in_turn(balancer: str) -> None:
    kept(rollout.restart(balancer, 1, RATE, 1.0))


@BALANCERS
def test_nodes_killed_in_turn(balancer: str) -> None:
    kept(rollout.kill(balancer, 1, RATE, 1.0))


@pytest.mark.parametrize("balancer", ["haproxy"])
def test_agents_restarted_in_turn(balancer: str) -> None:
    kept(rollout.agents(balancer, 1, RATE, 1.0))


@pytest.mark.parametrize("balancer", ["haproxy"])
def test_a_third_node_gets_its_share(balancer: str) -> None:
    kept(rollout.scale(balancer, RATE, upstreams=60))


def kept(result: rollout.Result) -> None:
    assert result.kept, f"{result.name}: {result.found}"
