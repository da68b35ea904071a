"""What a node tells its operator, and how ``pico status`` shows it: real nodes, a real admin door."""

from __future__ import annotations

import json

import gevent
import pytest

from pico.cli import status as command
from pico.cli.command_line import UsageError, parse
from pico.cli.status import NoStatus, run_status
from tests.node.harness import Agent, running_node, until
from tests.rules import covers


def ask(node, *words: str) -> int:
    """The command as a person types it, in a thread, since the node runs on this one."""
    host, port = node.address("admin-door")
    arguments = parse(command.USAGE, [*words, f"--admin=http://{host}:{port}"], program="pico status")
    code: int = gevent.get_hub().threadpool.apply(run_status, (arguments,))
    return code


@pytest.fixture
def pair():
    """Two nodes that have found each other by gossip."""
    with running_node("node-a") as one, running_node("node-b", join=(one.address("gossip-door"),)) as other:
        for node, peer in ((one, other), (other, one)):
            until(lambda node=node, peer=peer: row(node, peer.node_id).get("link") == "open", "the link")
        yield one, other


def row(node, node_id: str) -> dict:
    return next((row for row in node.status.nodes() if row["node"] == node_id), {})


def test_a_node_tells_of_itself(pair, capsys):
    one, _ = pair
    assert ask(one, "node", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["node"], told["ready"], told["upstreams"]) == ("node-a", True, 0)


def test_a_node_tells_of_the_others(pair, capsys):
    one, other = pair
    first, second = one.status.nodes()
    assert (first["node"], first["self"]) == ("node-a", True)
    assert (second["node"], second["status"], second["standing"]) == ("node-b", "alive", "routable")
    assert second["gossip"] == f"127.0.0.1:{other.address('gossip-door')[1]}"
    assert ask(one) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["NODE", "STATUS", "VERSION"]
    assert lines[2].split()[:2] == ["node-b", "alive"]


@covers("CLUSTER-17")
def test_a_node_that_has_left_is_told_as_such(pair):
    one, other = pair
    other.drain()
    until(lambda: row(one, "node-b")["status"] == "left", "the leave")
    assert row(one, "node-b")["standing"] == "not"


def test_endpoints_are_told_with_the_nodes_that_have_them(pair, capsys):
    one, other = pair
    agents = [Agent(node, "web", lambda call: call.respond(200, b"")) for node in (one, one, other)]
    until(lambda: one.status.endpoints() == [{"endpoint": "web", "upstreams": 3, "nodes": {"node-a": 2, "node-b": 1}}])
    assert ask(one, "endpoints") == 0
    assert capsys.readouterr().out.splitlines()[1].split() == ["web", "3", "node-a=2", "node-b=1"]
    assert {row["endpoint"] for row in one.status.upstreams()} == {"web"}
    assert len(one.status.upstreams()) == 2
    del agents


def test_gossip_is_told(pair, capsys):
    one, _ = pair
    assert ask(one, "gossip") == 0
    told = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert (told["joined"], told["health"], told["links_in"]) == ("yes", "0", "1")


def test_nothing_is_said_to_be_nothing(pair, capsys):
    assert ask(pair[0], "upstreams") == 0
    assert capsys.readouterr().out == "nothing\n"


def test_a_page_that_is_none_is_a_wrong_word(pair):
    with pytest.raises(UsageError, match="unknown page frob: one of node, nodes"):
        ask(pair[0], "frob")


def test_a_node_that_is_not_there_is_named():
    arguments = parse(command.USAGE, ["--admin=http://127.0.0.1:1"], program="pico status")
    with pytest.raises(NoStatus, match="no status from http://127.0.0.1:1/status/nodes: connection refused"):
        gevent.get_hub().threadpool.apply(run_status, (arguments,))
