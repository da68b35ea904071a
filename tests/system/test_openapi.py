"""``docs/openapi.yaml`` is what a real node does: asked by schemathesis, of a cluster of two with an agent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import schemathesis
import yaml
from hypothesis import HealthCheck, Phase, settings

from tests.node.harness import running_node
from tests.system.processes import Agent, Node, Programs, answer_of, curl, until
from tests.system.service import Service

DOCUMENT = Path(__file__).parents[2] / "docs" / "openapi.yaml"

EXAMPLES = 15
"""Of each operation; all of it takes some twenty seconds."""

API = schemathesis.openapi.from_path(DOCUMENT)
bounded = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def nodes(shared_programs: Programs, service: Service) -> tuple[Node, Node]:
    """Both have something to tell of everything."""
    one = shared_programs.node("--node-id=one", "--endpoint-wait=0")
    other = shared_programs.node("--node-id=other", f"--join={one.host}:{one.gossip_port}")
    agent: Agent = shared_programs.agent(one.upstream_url, "web", service.port)
    agent.registered()
    until(lambda: "other" in answer_of(one.admin_port, "/status/nodes/other")[1], "the other node")
    for endpoint in ("web", "nobody"):
        curl("-H", f"x-pico-endpoint: {endpoint}", f"{one.url}/fields?x=1")
    return one, other


@API.exclude(path=["/-/drain", "/status/events"]).parametrize()
@bounded
def test_what_is_described_is_what_happens(case: schemathesis.Case, nodes: tuple[Node, Node]) -> None:
    case.call_and_validate(base_url=f"http://{nodes[0].host}:{nodes[0].admin_port}")


def test_settings_that_are_refused_are_described(shared_programs: Programs, tmp_path: Path) -> None:
    path = tmp_path / "node.yaml"
    path.write_text("log_level: info\n")
    node = shared_programs.node(f"--config={path}")
    path.write_text("log_level: loud\n")
    case = API["/-/reload"]["POST"].Case(body={}, media_type="application/json")
    response = case.call_and_validate(base_url=f"http://{node.host}:{node.admin_port}")
    assert response.status_code == 422


TOLD = {
    "/status/node": "",
    "/status/nodes": "",
    "/status/nodes/{id}": "other",
    "/status/endpoints": "",
    "/status/endpoints/{id}": "web",
    "/status/upstreams": "",
    "/status/upstreams/{id}": "one-u1",
    "/status/gossip": "",
    "/status/actors": "",
    "/status/requests": "",
    "/status/errors": "",
}


@pytest.mark.parametrize("path", TOLD)
@pytest.mark.parametrize("query", [{}, {"node": "one"}, {"node": "other"}])
def test_what_there_is_to_tell_is_described(path: str, query: dict[str, str], nodes: tuple[Node, Node]) -> None:
    """Chance hardly ever finds an ID."""
    one, other = nodes
    case = API[path]["GET"].Case(path_parameters={"id": TOLD[path]} if TOLD[path] else {}, query=query)
    asked = one if query.get("node") != "other" else other
    node = one if path.startswith("/status/upstreams/") else asked
    response = case.call_and_validate(base_url=f"http://{node.host}:{node.admin_port}")
    assert response.status_code == 200 or query


def test_every_route_of_a_node_is_described() -> None:
    """But for the live page itself, which is for browsers."""
    described: dict[str, Any] = yaml.safe_load(DOCUMENT.read_text())["paths"]
    with running_node("node-a") as node:
        routes = {(route.path, route.method.lower()) for route in node._admin_routes()}
    told = {(path, method) for path, methods in described.items() for method in methods}
    assert {(path, method) for path, method in routes if path != "/" and not path.startswith("/page/")} == told
