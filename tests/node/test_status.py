"""What a node tells its operator: real nodes, a real admin door."""

from __future__ import annotations

import itertools

import gevent
import pytest
import requests

from pico.node.status import lists
from tests.node.harness import Agent, Client, connect, running_node, until
from tests.rules import covers


def get(node, path: str) -> requests.Response:
    """Asked in a thread, since the node runs on this one."""
    host, port = node.address("admin-door")
    return gevent.get_hub().threadpool.apply(requests.get, (f"http://{host}:{port}/status/{path}",), {"timeout": 5})


def told(node, path: str) -> dict:
    answer = get(node, path)
    assert answer.status_code == 200, answer.text
    return answer.json()


def items(node, path: str) -> list[dict]:
    return told(node, path)["items"]


def refusal(node, path: str) -> tuple[int, str]:
    answer = get(node, path)
    return answer.status_code, answer.json()["error"]["code"]


@pytest.fixture
def pair():
    """Two nodes that have found each other by gossip."""
    with running_node("node-a") as one, running_node("node-b", join=(one.address("gossip-door"),)) as other:
        for node, peer in ((one, other), (other, one)):
            until(lambda node=node, peer=peer: row(node, peer.node_id).get("link") == "open", "the link")
        yield one, other


def row(node, node_id: str) -> dict:
    return node.status.nodes.row(node_id) or {}


class TestNodes:
    def test_a_node_tells_of_itself(self, pair):
        one, _ = pair
        own = told(one, "node")
        assert (own["node"], own["ready"], own["reason"], own["upstreams"]) == ("node-a", True, "", 0)
        assert own["up_s"] > 0
        assert own["proxy"] == f"127.0.0.1:{one.address('proxy-door')[1]}"

    def test_a_node_tells_of_the_others(self, pair):
        one, other = pair
        page = told(one, "nodes")
        assert (page["total"], page["next"]) == (2, None)
        first, second = page["items"]
        assert (first["node"], first["self"], second["node"], second["self"]) == ("node-a", True, "node-b", False)
        assert (second["status"], second["standing"]) == ("alive", "routable")
        assert second["gossip"] == f"127.0.0.1:{other.address('gossip-door')[1]}"
        assert second["life"] == told(other, "node")["life"]
        assert told(one, "nodes/node-b")["gossip"] == second["gossip"]
        assert refusal(one, "nodes/node-c") == (404, "unknown_node")

    def test_what_another_node_has_is_its_load(self, pair):
        one, other = pair
        agents = [Agent(other, name) for name in ("web", "web", "shop")]
        until(lambda: row(one, "node-b")["upstreams"] == 3)
        assert row(one, "node-b")["endpoints"] == 2
        agents[0].kill()
        until(lambda: row(one, "node-b")["upstreams"] == 2)
        assert row(other, "node-b")["upstreams"] == 2

    @covers("CLUSTER-18")
    def test_a_node_that_has_left_is_told_as_such(self, pair):
        one, other = pair
        until(lambda: row(one, "node-b")["since_s"] > 0.05)
        began = one.clock.now()
        draining = gevent.spawn(other.drain)
        until(lambda: row(one, "node-b")["status"] == "left", "the leave")
        assert row(one, "node-b")["standing"] == "not"
        assert row(one, "node-b")["since_s"] <= one.clock.now() - began + 0.001, "it began anew"
        draining.get()

    def test_gossip_is_told(self, pair):
        one, other = pair
        until(lambda: told(one, "gossip")["rounds"] > 0)
        said = told(one, "gossip")
        assert (said["joined"], said["health"], said["links_in"], said["nodes"]) == (True, 0, 1, {"alive": 1})
        until(lambda: items(one, "gossip")[0]["version"] == told(other, "gossip")["version"])
        (known,) = items(one, "gossip")
        assert (known["node"], known["status"], known["answers"]) == ("node-b", "alive", True)
        assert known["entries"] == told(other, "gossip")["entries"]


class TestEndpoints:
    def test_they_are_told_with_the_nodes_that_have_them(self, pair):
        one, other = pair
        agents = [Agent(node, "web", lambda call: call.respond(200, b"")) for node in (one, one, other)]
        only = Agent(other, "only-there")
        until(lambda: one.routes.served("only-there"))
        until(lambda: [row["upstreams"] for row in items(one, "endpoints")] == [1, 3])
        there, web = items(one, "endpoints")
        assert (there["endpoint"], there["nodes"]) == ("only-there", {"node-b": 1})
        assert (web["endpoint"], web["nodes"]) == ("web", {"node-a": 2, "node-b": 1})
        assert items(one, "endpoints?where=here") == [web]
        assert told(one, "endpoints/web") == web
        for agent in agents:
            agent.kill()
        until(lambda: [row["endpoint"] for row in items(one, "endpoints")] == ["only-there"])
        assert refusal(one, "endpoints/web") == (404, "unknown_endpoint")
        del only

    def test_what_becomes_of_requests_is_counted_where_they_entered(self, pair):
        one, other = pair
        del one.lines[:]
        Agent(other, "web", lambda call: call.respond(503 if b"bad" in call.head.target else 200, b""))
        until(lambda: one.routes.served("web"))
        client = Client(one)
        for target in (b"/good?token=secret", b"/bad", b"/good"):
            client.get(target, b"web.example")
        told_of = told(one, "endpoints/web")
        assert (told_of["requests"], told_of["errors"], told_of["in_flight"]) == (3, 1, 0)
        assert told_of["requests_per_s"] >= 0.3
        assert told(other, "endpoints/web")["requests"] == 0

    def test_a_request_in_flight_is_told(self, pair):
        one, _ = pair
        agent = Agent(one, "web", lambda call: None)
        Client(one).send(b"GET / HTTP/1.1\r\nHost: web.example\r\n\r\n")
        until(lambda: agent.calls)
        assert told(one, "endpoints/web")["in_flight"] == 1
        assert told(one, "node")["in_flight"] == 1
        assert items(one, "upstreams")[0]["in_flight"] == 1


class TestUpstreams:
    def test_those_of_this_node_are_told(self, pair):
        one, other = pair
        [Agent(node, name) for node, name in ((one, "a"), (other, "a"), (one, "b"), (one, "a"))]
        assert [row["endpoint"] for row in items(one, "upstreams")] == ["a", "b", "a"]
        first, last = items(one, "upstreams?endpoint=a")
        assert (first["upstream"], last["upstream"]) == ("node-a-u1", "node-a-u3")
        assert (first["address"], first["protocol"], first["leaving"]) == ("127.0.0.1", "streaming", False)
        assert told(one, "upstreams/node-a-u3")["endpoint"] == "a"
        assert refusal(one, "upstreams/node-a-u4") == (404, "unknown_upstream")
        assert items(one, "upstreams?endpoint=nobody") == []

    def test_one_that_leaves_is_told_of_everywhere_until_its_requests_have_ended(self, pair):
        one, _ = pair
        leaving = Agent(one, "web", lambda call: None)
        client = Client(one).send(b"GET / HTTP/1.1\r\nHost: web.example\r\n\r\n")
        until(lambda: leaving.calls)
        Agent(one, "web")
        one.upstream_door.disconnect("node-a-u1", "it is to leave", force=False)
        until(lambda: len(one.routes.upstreams_of("web")) == 1)
        rows = items(one, "upstreams?endpoint=web")
        assert [(row["upstream"], row["leaving"], row["in_flight"]) for row in rows] == [
            ("node-a-u1", True, 1),
            ("node-a-u2", False, 0),
        ]
        web = told(one, "endpoints/web")
        assert (web["upstreams"], web["in_flight"]) == (1, 1)
        text = one.metrics.render().decode()
        assert "\npico_streams 1.0\n" in text
        assert "\npico_upstreams 2.0\n" in text
        assert list(one.upstream_door.loads()) == [("web", 2, 1)]
        leaving.calls[0].respond(200, b"")
        client.response()
        until(lambda: told(one, "endpoints/web")["in_flight"] == 0)
        leaving.kill()
        until(lambda: [row["upstream"] for row in items(one, "upstreams?endpoint=web")] == ["node-a-u2"])


class TestLists:
    def test_a_page_is_followed_by_the_next(self, pair):
        one, _ = pair
        [Agent(one, name) for name in "abcde"]
        seen, after = [], ""
        while True:
            page = told(one, f"endpoints?limit=2{after}")
            assert page["total"] == 5
            seen.append([row["endpoint"] for row in page["items"]])
            if page["next"] is None:
                break
            after = f"&after={page['next']}"
        assert seen == [["a", "b"], ["c", "d"], ["e"]]

    def test_of_upstreams_too_when_one_has_gone(self, pair):
        one, _ = pair
        agents = [Agent(one, "web") for _ in range(12)]
        assert told(one, "upstreams?limit=10")["next"] == "node-a-u10"
        agents[9].kill()
        until(lambda: len(items(one, "upstreams")) == 11)
        page = told(one, "upstreams?limit=10&after=node-a-u10")
        assert [row["upstream"] for row in page["items"]] == ["node-a-u11", "node-a-u12"]

    def test_a_page_after_the_last_is_empty(self, pair):
        assert told(pair[0], "endpoints?after=zzz") == {"total": 0, "next": None, "items": []}

    @pytest.mark.parametrize(
        "query",
        ["limit=0", "limit=-1", "limit=x", "limit=1e3", f"limit={'9' * 30}", "limit=", "limt=3", "limit=1&limit=2"],
    )
    def test_a_query_that_makes_no_sense_is_refused(self, pair, query):
        assert refusal(pair[0], f"endpoints?{query}") == (400, "bad_query")

    @pytest.mark.parametrize("path", ["upstreams?after=x", "endpoints?where=there", "node?x=1", "nodes/node-a?limit=1"])
    def test_so_is_one_that_this_page_has_not(self, pair, path):
        assert refusal(pair[0], path) == (400, "bad_query")

    @pytest.mark.parametrize(
        "path,expected",
        [
            ("nodes?foo=1", "limit, after, node"),
            ("nodes?foo=1&node=node-a", "limit, after, node"),
            ("node?foo=1", "node"),
        ],
    )
    def test_it_is_said_what_a_query_may_have(self, pair, path, expected):
        message = get(pair[0], path).json()["error"]["message"]
        assert message == f"foo: unknown; expected one of {expected}"

    def test_rows_are_made_a_few_at_a_time(self):
        made = itertools.count()
        answer = lists.listing({}, ({"number": next(made)} for _ in range(1000)))
        assert b'"number": 0' in next(answer.body)
        assert next(made) == lists.ROWS_AT_ONCE


class TestActors:
    def test_they_are_told_by_kind(self, pair):
        one, _ = pair
        Agent(one, "web")
        page = told(one, "actors")
        assert set(page["restarts"].values()) == {0}
        kinds = {row["actor"]: row for row in page["items"]}
        assert kinds["cluster"]["count"] >= 2 and kinds["upstream-connection"]["count"] >= 1
        assert kinds["endpoint-pool"]["deepest"] >= 0

    def test_restarts_are_told_of_each_part_in_the_order_in_which_they_start(self, pair):
        restarts = told(pair[0], "actors")["restarts"]
        doors = ["upstream-door", "proxy-door", "admin-door"]
        assert list(restarts) == ["endpoints", "cluster", "gossip-door", *doors, "gossip-peer"]


class TestRecent:
    def test_the_last_requests_are_told_without_secrets(self, pair):
        one, _ = pair
        Agent(one, "web", lambda call: call.respond(200, b"hello"))
        Agent(one, "shop", lambda call: call.respond(200, b""))
        client = Client(one)
        client.get(b"/first?token=secret", b"web.example", b"Authorization: secret\r\n")
        client.get(b"/second", b"shop.example")
        newest, oldest = items(one, "requests")
        assert (newest["path"], newest["endpoint"], newest["upstream"]) == ("/second", "shop", "node-a-u2")
        assert (oldest["path"], oldest["status"], oldest["bytes_out"]) == ("/first", 200, 5)
        assert "secret" not in get(one, "requests").text
        assert items(one, "requests?endpoint=web") == [oldest]
        assert items(one, "requests?limit=1") == [newest]
        assert items(one, "errors") == []

    def test_the_last_errors_are_told_with_what_is_known_of_them(self, pair):
        one, _ = pair
        Client(one).get(b"/", b"nobody.example")
        sock = connect(one)
        sock.sendall(b"nonsense\r\n\r\n")
        assert sock.recv(100)
        sock.close()
        malformed, unknown = items(one, "errors")
        assert (unknown["outcome"], unknown["endpoint"], unknown["status"]) == ("endpoint_not_found", "nobody", 502)
        assert (malformed["status"], malformed["endpoint"]) == (400, "")
        assert malformed["reason"]
        assert items(one, "errors?endpoint=nobody") == [unknown]
        assert refusal(one, "errors?limit=201") == (400, "bad_query")


class TestElsewhere:
    def test_another_node_tells_the_same_as_at_its_own_door(self, pair):
        one, other = pair
        Agent(other, "web")
        for path in ("upstreams", "nodes/node-a", "endpoints?limit=1", "upstreams/node-b-u1"):
            here = told(other, path)
            there = told(one, path + ("&" if "?" in path else "?") + "node=node-b")
            assert without_time(there) == without_time(here), path
        assert told(one, "node?node=node-a")["node"] == "node-a"
        assert told(one, "node?node=node-b")["node"] == "node-b"

    def test_its_refusals_are_its_own(self, pair):
        one, _ = pair
        assert refusal(one, "upstreams/node-b-u1?node=node-b") == (404, "unknown_upstream")
        assert refusal(one, "nodes?limit=0&node=node-b") == (400, "bad_query")

    @covers("ROUTING-22")
    def test_it_is_not_asked_further(self, pair):
        one, other = pair
        answer = other.gossip_door.forwarding.questions._answer("/status/node?node=node-a")
        assert answer.status == 400
        del one

    def test_why_a_node_does_not_answer_is_said(self, pair):
        one, other = pair
        assert refusal(one, "node?node=node-c") == (404, "unknown_node")
        assert refusal(one, f"endpoints?node=node-b&after={'x' * 1100}") == (400, "node_too_long")
        other.gossip_door.forwarding.questions = None
        assert refusal(one, "node?node=node-b") == (502, "node_too_old")
        draining = gevent.spawn(other.drain)
        until(lambda: row(one, "node-b")["status"] == "left", "the leave")
        answer = get(one, "node?node=node-b")
        assert (answer.status_code, answer.json()["error"]["code"]) == (502, "node_unreachable")
        assert answer.json()["error"]["message"] == "node-b: it is left"
        draining.get()


def without_time(said):
    """Without what differs from one moment to the next."""
    if isinstance(said, list):
        return [without_time(one) for one in said]
    if isinstance(said, dict):
        moving = ("since_s", "up_s", "bytes_sent", "bytes_received", "round_trip_s")
        return {name: without_time(value) for name, value in said.items() if name not in moving}
    return said
