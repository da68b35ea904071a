"""The recipes of ``deploy/`` for balancers, in front of three real nodes.

Each test is skipped where its balancer is not installed; ``.ci/run`` installs them.
"""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.system.balancers import Balancer, Haproxy, three_nodes
from tests.system.processes import HOST, Node, Programs, curl, until
from tests.system.service import Service

ASK = ("--fail", "-H", "x-pico-endpoint: web")
BALANCERS = [Haproxy]


class Cluster:
    """Three nodes behind a balancer, and an agent that came through it."""

    def __init__(self, programs: Programs, nodes: list[Node], balancer: Balancer) -> None:
        self.programs = programs
        self.nodes = nodes
        self.balancer = balancer


@pytest.fixture(params=BALANCERS, ids=lambda kind: kind.program)
def cluster(request: pytest.FixtureRequest, programs: Programs, service: Service, tmp_path: Path) -> Cluster:
    nodes = three_nodes(programs, f"--trusted-proxies={HOST}")
    balancer = programs.add(request.param(tmp_path, nodes)).ready()
    programs.agent(balancer.upstream_url, "web", service.port, "--backoff-max=500ms").registered()
    until(lambda: curl(*ASK, f"{balancer.url}/").stdout == b"hello\n", "the first answer")
    return Cluster(programs, nodes, balancer)


def test_a_request_and_its_answer(cluster: Cluster) -> None:
    said = json.loads(curl(*ASK, "-H", "X-Forwarded-For: 10.9.8.7", f"{cluster.balancer.url}/fields?a=%2f").stdout)
    fields = {name.lower(): value for name, value in said["fields"]}
    assert said["path"] == "/fields?a=%2f"
    assert fields["x-forwarded-proto"] == "http"
    assert fields["x-forwarded-host"] == fields["host"] == cluster.balancer.url.removeprefix("http://")
    assert fields["x-forwarded-for"].split(", ")[0] == HOST, "what a stranger says of itself is not passed on"
    assert "10.9.8.7" not in fields["x-forwarded-for"]


def test_nobody_notices_that_a_node_was_killed(cluster: Cluster) -> None:
    """Every node is killed in its turn and started again; each request in between is answered."""
    for node in list(cluster.nodes):
        node.send(signal.SIGKILL)
        node.wait()
        for _ in range(20):
            assert curl(*ASK, f"{cluster.balancer.url}/").stdout == b"hello\n"
        back = cluster.programs.node_begun(*node.options, host=node.host).ready()
        until(lambda back=back: back.admin("/readyz")[0] == 200, "its readiness")
