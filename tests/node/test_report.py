"""What the live page is told: real nodes, and ten thousand endpoints in slices."""

from __future__ import annotations

import json
import time

import gevent
import pytest

from pico.actors.heap import Heap
from pico.node.live import View
from pico.node.report import ROWS_MAX, Report
from pico.observability.merge_patch import difference
from tests.node.harness import Agent, Client, running_node, until
from tests.node.test_status import row

SLICE_S = 0.005


def reporting(node, **changes) -> Report:
    return Report(node.status, node.history, node.clock, time.time, **changes)


@pytest.fixture
def pair():
    """Two nodes that have found each other by gossip."""
    with running_node("node-a") as one, running_node("node-b", join=(one.address("gossip-door"),)) as other:
        for node, peer in ((one, other), (other, one)):
            until(lambda node=node, peer=peer: row(node, peer.node_id).get("link") == "open", "the link")
        yield one, other


def test_it_tells_of_nodes_endpoints_and_upstreams(pair):
    one, other = pair
    here, _ = Agent(one, "web"), Agent(other, "shop")
    until(lambda: one.routes.served("shop"))
    report = reporting(one)(View())
    assert report["node"]["node"] == "node-a"
    assert report["counts"] == {"nodes": 2, "alive": 2, "endpoints": 2, "upstreams": 1}
    assert [(name, row["status"], row["self"]) for name, row in report["nodes"].items()] == [
        ("node-a", "alive", True),
        ("node-b", "alive", False),
    ]
    assert {name: row["nodes"] for name, row in report["endpoints"].items()} == {
        "shop": {"node-b": 1},
        "web": {"node-a": 1},
    }
    assert [row["endpoint"] for row in report["upstreams"].values()] == ["web"]
    here.close()


def test_nothing_in_it_is_null_so_that_a_patch_can_take_away(pair):
    one, _ = pair
    agent = Agent(one, "web")

    def members(value: object) -> list[object]:
        return (
            [value, *(one for part in value.values() for one in members(part))] if isinstance(value, dict) else [value]
        )

    for view in (View(), View(endpoint="web"), View(endpoint="nobody"), View(filter="w")):
        report = reporting(one)(view)
        assert None not in members(report)
        json.dumps(report, allow_nan=False)
    agent.close()


def test_a_quiet_node_has_little_to_tell(pair):
    one, _ = pair
    agents = [Agent(one, f"e{number}") for number in range(20)]
    report = reporting(one)
    before = report(View())
    patch = difference(before, report(View()))
    assert "endpoints" not in patch and "counts" not in patch
    assert len(json.dumps(patch)) < 1000
    for agent in agents:
        agent.close()


def test_the_filter_finds_part_of_a_name(pair):
    one, _ = pair
    agents = [Agent(one, name) for name in ("orders-eu", "orders-us", "web")]
    report = reporting(one)(View(filter="s-u"))
    assert list(report["endpoints"]) == ["orders-us"]
    assert (report["counts"]["endpoints"], report["counts"]["matching"]) == (3, 1)
    for agent in agents:
        agent.close()


def test_one_endpoint_with_its_latest_requests(pair):
    one, _ = pair
    agent, client = Agent(one, "ep"), Client(one)
    assert client.get(b"/first?token=secret").status == 200
    assert client.get(b"/<script>").status == 200
    until(lambda: one.services.recent.of("ep"))
    report = reporting(one)(View(endpoint="ep"))
    assert report["endpoint"]["requests"] == 2
    assert report["nodes"] == {"node-a": {"status": "alive", "draining": False, "upstreams": 1}}
    assert [(row["method"], row["path"], row["status"], row["outcome"]) for row in report["requests"].values()] == [
        ("GET", "/<script>", 200, "ok"),
        ("GET", "/first", 200, "ok"),
    ]
    assert "secret" not in json.dumps(report)
    client.close()
    agent.close()


def test_an_endpoint_that_nobody_has_is_told_as_such(pair):
    one, _ = pair
    report = reporting(one)(View(endpoint="nobody"))
    assert (report["endpoint"], report["nodes"], report["upstreams"]) == ({}, {}, {})


def test_ten_thousand_endpoints_block_nobody_and_the_busiest_are_told(pair):
    one, other = pair
    agents = [Agent(one, "web"), Agent(other, "web")]
    for node, letter in ((one, "a"), (other, "b")):
        balancer = node.routes._balancers["web"]
        for number in range(5_000):
            node.routes.publish(f"{letter}{number:04}", balancer)
    until(lambda: one.routes.served("b4999") and len(one.status.endpoints.names()) == 10_001, "the endpoints", 30.0)
    recent = one.services.recent
    for name in (*one.status.endpoints.names(), "b0042"):
        recent.finished(one.clock.now(), "r", name, "", b"GET", b"/", 200, "ok", 0.1, 0.1, 0, 0, "u", "", "")

    slices: list[float] = []
    began = 0.0

    def breathe() -> None:
        nonlocal began
        slices.append(time.thread_time() - began)  # of this thread only: the machine may have others to run
        gevent.sleep(0.0)
        began = time.thread_time()

    report = reporting(one, breathe=breathe)
    heap = Heap(one.clock)
    heap.settle()  # as a node does: what this process has besides is not the report's to look at
    for view in (View(), View(filter="00"), View(endpoint="web")):
        for _ in range(3):
            began = time.thread_time()
            told = report(view)
            slices.append(time.thread_time() - began)
            patch_began = time.thread_time()
            json.dumps(difference({}, told))
            slices.append(time.thread_time() - patch_began)
        if view == View():
            assert told["counts"]["endpoints"] == 10_001
            assert len(told["endpoints"]) == ROWS_MAX
            assert next(iter(told["endpoints"])) == "b0042"
            assert len(json.dumps(told)) < 60_000
    heap.close()
    assert max(slices) < SLICE_S
    print(f"longest slice {max(slices) * 1000:.2f} ms of {len(slices)}")
    for agent in agents:
        agent.close()
