"""``pico status``: what a person types and reads, asked of real nodes at a real admin door."""

from __future__ import annotations

import json

import gevent
import pytest

from pico.cli import status as command
from pico.cli.command_line import UsageError, parse
from pico.cli.status import NoStatus, run_status
from tests.node.harness import Agent, running_node, until


def ask(node, *words: str) -> int:
    """The command as a person types it, in a thread, since the node runs on this one."""
    host, port = node.address("admin-door")
    arguments = parse(command.USAGE, [*words, f"--admin=http://{host}:{port}"], program="pico status")
    code: int = gevent.get_hub().threadpool.apply(run_status, (arguments,))
    return code


@pytest.fixture
def node():
    with running_node("node-a") as node:
        yield node


def test_a_node_tells_of_itself(node, capsys):
    assert ask(node, "node", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["node"], told["ready"], told["upstreams"]) == ("node-a", True, 0)


def test_nodes_are_a_table(node, capsys):
    assert ask(node) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:2] == ["NODE", "STATUS"]
    assert lines[1].split()[:2] == ["node-a", "alive"]


def test_endpoints_are_told_with_the_nodes_that_have_them(node, capsys):
    Agent(node, "web")
    until(lambda: node.routes.knows("web"))
    assert ask(node, "endpoints") == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:3] == ["web", "1", "node-a=1"]


def test_nothing_is_said_to_be_nothing(node, capsys):
    assert ask(node, "upstreams") == 0
    assert capsys.readouterr().out == "nothing\n"


def test_a_page_that_is_none_is_a_wrong_word(node):
    with pytest.raises(UsageError, match="unknown page frob: one of node, nodes"):
        ask(node, "frob")


def test_a_node_that_is_not_there_is_named():
    arguments = parse(command.USAGE, ["--admin=http://127.0.0.1:1"], program="pico status")
    with pytest.raises(NoStatus, match="no status from http://127.0.0.1:1/status/nodes: connection refused"):
        gevent.get_hub().threadpool.apply(run_status, (arguments,))
