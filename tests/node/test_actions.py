"""What an operator can have a node do: real nodes, a real admin door."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import gevent
import pytest
import requests

from pico.observability.logs import REPEATS_MAX, RepeatFilter
from tests.node.harness import Agent, Client, echo, running_node, until


def act(node, action: str, body: object = None, **fields: str) -> requests.Response:
    """Asked in a thread, since the node runs on this one."""
    host, port = node.address("admin-door")
    settings = {"json": {} if body is None else body, "timeout": 5, "headers": fields}
    url = f"http://{host}:{port}/-/{action}"
    return gevent.get_hub().threadpool.apply(requests.post, (url,), settings)


def refusal(node, action: str, body: object = None) -> tuple[int, str]:
    answer = act(node, action, body)
    return answer.status_code, answer.json()["error"]["code"]


@pytest.fixture
def node() -> Iterator:
    with running_node("node-a") as node:
        yield node


def test_a_node_is_asked_to_drain(node):
    assert not node.asked.is_set()
    for _ in range(2):
        answer = act(node, "drain")
        assert (answer.status_code, answer.json()) == (202, {"status": "draining"})
        assert node.asked.is_set()


@pytest.mark.parametrize("action", ["drain", "disconnect", "forget", "log-level"])
def test_no_action_travels_and_none_is_taken_here_that_was_meant_for_another_node(node, action):
    answer = act(node, f"{action}?node=node-b", {})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "bad_query")
    assert not node.asked.is_set()


def test_each_action_is_in_the_log_however_many_there_are(node, caplog):
    repeats = RepeatFilter()
    for _ in range(REPEATS_MAX + 2):
        act(node, "drain")
        act(node, "log-level", {"logger": "pico.admin", "level": "default"})
    said = [one.getMessage() for one in caplog.records if "operator" in one.getMessage() and repeats.filter(one)]
    assert len(said) == 2 * (REPEATS_MAX + 2)


def test_a_page_of_another_site_may_not(node):
    answer = act(node, "drain", Origin="http://evil.example")
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "cross_site")
    assert not node.asked.is_set()


class TestDisconnect:
    def test_an_agent_is_asked_to_move_and_what_is_in_flight_goes_on(self, node):
        agent = Agent(node, "web", lambda call: None)
        client = Client(node).send(b"GET / HTTP/1.1\r\nHost: web.example\r\n\r\n")
        until(lambda: agent.calls)
        answer = act(node, "disconnect", {"upstream": "node-a-u1"})
        assert (answer.status_code, answer.json()) == (202, {"upstream": "node-a-u1", "status": "leaving"})
        assert agent.goaway.get(timeout=5) == "the operator disconnects it"
        until(lambda: not node.routes.served("web"))
        agent.calls[0].respond(200, b"late")
        assert client.response().body == b"late"
        assert not agent.ended.ready()

    def test_by_force_it_is_cut_off(self, node):
        agent = Agent(node, "web", lambda call: None)
        client = Client(node).send(b"POST / HTTP/1.1\r\nHost: web.example\r\nContent-Length: 1\r\n\r\nx")
        until(lambda: agent.calls)
        assert act(node, "disconnect", {"upstream": "node-a-u1", "force": True}).json()["status"] == "cut"
        agent.ended.get(timeout=5)
        assert client.response().status == 502
        until(lambda: node.upstream_door.upstreams == 0)

    def test_an_agent_of_the_base_protocol_knows_no_goodbye(self, node):
        Agent(node, "web", echo, streaming=False)
        assert refusal(node, "disconnect", {"upstream": "node-a-u1"}) == (409, "base_protocol")
        assert act(node, "disconnect", {"upstream": "node-a-u1", "force": True}).status_code == 202

    @pytest.mark.parametrize(
        "body,status,code",
        [
            ({"upstream": "node-a-u9"}, 404, "unknown_upstream"),
            ({}, 400, "bad_body"),
            ({"upstream": 7}, 400, "bad_body"),
            ({"upstream": "node-a-u1", "force": "yes"}, 400, "bad_body"),
            ({"upstraem": "node-a-u1"}, 400, "bad_body"),
        ],
    )
    def test_what_makes_no_sense_is_refused(self, node, body, status, code):
        assert refusal(node, "disconnect", body) == (status, code)


class TestForget:
    def test_a_node_that_has_left_is_forgotten_and_stays_so(self, node):
        with (
            running_node("node-b", join=(node.address("gossip-door"),)) as leaver,
            running_node("node-c", join=(node.address("gossip-door"),)) as other,
        ):
            nodes = node.status.nodes
            until(lambda: nodes.names() == ["node-a", "node-b", "node-c"])
            assert refusal(node, "forget", {"node": "node-b"}) == (409, "not_gone")
            assert refusal(node, "forget", {"node": "node-a"}) == (409, "not_gone")
            leaver.drain()
            until(lambda: all(one.status.nodes.row("node-b")["status"] == "left" for one in (node, other)))
            assert act(node, "forget", {"node": "node-b"}).json() == {"node": "node-b", "status": "forgotten"}
            assert nodes.names() == ["node-a", "node-c"]
            rounds = node.status.nodes.gossip()["rounds"]
            until(lambda: node.status.nodes.gossip()["rounds"] > rounds + 2)
            assert nodes.names() == ["node-a", "node-c"]
            assert "node-b" in other.status.nodes.names()
            assert act(node, "forget", {"node": "node-b"}).status_code == 200

    def test_one_that_was_never_known_is_not(self, node):
        assert refusal(node, "forget", {"node": "node-z"}) == (404, "unknown_node")
        assert refusal(node, "forget") == (400, "bad_body")


class TestLogLevel:
    @pytest.fixture(autouse=True)
    def as_before(self) -> Iterator[None]:
        logger = logging.getLogger("pico.cluster")
        before = logger.level
        yield
        logger.setLevel(before)

    def level(self, node) -> dict:
        host, port = node.address("admin-door")
        url = f"http://{host}:{port}/status/logs"
        items = gevent.get_hub().threadpool.apply(requests.get, (url,), {"timeout": 5}).json()["items"]
        return {row["logger"]: row for row in items}["pico.cluster"]

    def test_a_logger_that_is_not_there(self, node):
        for name in ("root", "", 3, "pico.nothing"):
            body = {"logger": name, "level": "info"}
            assert refusal(node, "log-level", body) == (404, "unknown_logger")

    def test_it_is_changed_and_changed_back(self, node):
        before = self.level(node)
        assert before["level"] == "default"
        answer = act(node, "log-level", {"logger": "pico.cluster", "level": "error"})
        assert answer.json() == {"logger": "pico.cluster", "level": "error", "effective": "error"}
        assert self.level(node) == answer.json()
        assert not logging.getLogger("pico.cluster").isEnabledFor(logging.WARNING)
        assert act(node, "log-level", {"logger": "pico.cluster", "level": "default"}).json() == before

    @pytest.mark.parametrize("body", [{"logger": "pico.cluster"}, {"level": "loud"}, {"level": 3}, []])
    def test_what_makes_no_sense_is_refused(self, node, body):
        assert refusal(node, "log-level", body) == (400, "bad_body")
