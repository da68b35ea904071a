"""``pico status``: what a person types and reads, asked of real nodes at a real admin door."""

from __future__ import annotations

import json
import re

import gevent
import pytest

from pico.cli import status as command
from pico.cli.admin_client import NoAnswer
from pico.cli.command_line import UsageError, parse
from pico.cli.status import PAGES, run_status
from pico.errors import ConfigError
from tests.agent.harness import read_head, serving
from tests.node.harness import Agent, Client, running_node, until


def run(*words: str) -> int:
    """The command as a person types it, in a thread, since the node runs on this one."""
    arguments = parse(command.USAGE, words, program="pico status")
    code: int = gevent.get_hub().threadpool.apply(run_status, (arguments,))
    return code


def url(node) -> str:
    host, port = node.address("admin-door")
    return f"http://{host}:{port}"


@pytest.fixture
def node():
    with running_node("node-a") as node:
        yield node


@pytest.fixture
def shown(node, capsys):
    """What is shown for some words, as lines."""

    def show(*words: str) -> list[str]:
        assert run(*words, f"--admin={url(node)}") == 0
        return capsys.readouterr().out.splitlines()

    return show


def test_a_node_tells_of_itself(shown):
    told = json.loads("\n".join(shown("node", "--json")))
    assert (told["node"], told["ready"], told["upstreams"]) == ("node-a", True, 0)
    lines = dict(line.split(maxsplit=1) for line in shown("node"))
    assert (lines["node"], lines["ready"], lines["reason"]) == ("node-a", "yes", "-")


def test_a_door_may_be_named_without_a_scheme(node, capsys):
    host, port = node.address("admin-door")
    assert run(f"--admin={host}:{port}") == 0
    assert "node-a" in capsys.readouterr().out


@pytest.mark.parametrize("answer", ['{"items": "abc"}', '{"items": [1]}', '{"items": [{"since_s": "x"}]}'])
def test_an_answer_that_is_no_node_s_is_told_as_such(answer):
    body = f"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{answer}".encode()

    def handle(sock, _):
        read_head(sock)
        sock.sendall(body)

    with serving(handle) as server, pytest.raises(NoAnswer, match="what answers there is no node"):
        run(f"--admin=http://127.0.0.1:{server.server_port}")


def test_json_that_is_watched_has_nothing_else_in_it(node, capsys, monkeypatch):
    def end(seconds):
        raise NoAnswer("enough")

    monkeypatch.setattr(command.sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr(command.time, "sleep", end)
    with pytest.raises(NoAnswer, match="enough"):
        run("node", "--watch", "--json", f"--admin={url(node)}")
    assert json.loads(capsys.readouterr().out)["node"] == "node-a"


def test_nodes_are_a_table(shown):
    title, row = shown()
    assert title.split()[:3] == ["NODE", "STATUS", "SINCE"]
    assert row.split()[:2] == ["node-a", "alive"]
    assert re.fullmatch(r"\d+s", row.split()[2])


def test_endpoints_are_told_with_the_nodes_that_have_them(node, shown):
    Agent(node, "web")
    Agent(node, "shop")
    Client(node).get(b"/", b"shop.example")
    _, shop, web = shown("endpoints")
    assert web.split()[:4] == ["web", "1", "node-a=1", "0"]
    assert shop.split()[4:] == ["1", "0.1/s", "0", "0.0/s"]
    assert "requests        1" in shown("endpoint", "shop")
    assert [line.split()[0] for line in shown("endpoints", "--limit=1")] == ["ENDPOINT", "shop", "..."]
    assert shown("endpoints", "--limit=1")[2] == "... 1 of 2: --limit=N shows more"


def test_upstreams_are_told(node, shown):
    for name in ("web", "shop"):
        Agent(node, name)
    assert [line.split()[:2] for line in shown("upstreams")[1:]] == [["node-a-u1", "web"], ["node-a-u2", "shop"]]
    assert [line.split()[0] for line in shown("upstreams", "--endpoint=shop")[1:]] == ["node-a-u2"]
    assert "endpoint        web" in shown("upstream", "node-a-u1")


def test_what_somebody_else_chose_is_not_obeyed_by_the_terminal(node, shown):
    agent = Agent(node, "web", lambda call: call.reset(10, message="\x1b[31mred\x9b\u202e"))
    Client(node).get(b"/path%1b?secret=1", b"web.example")
    _, line = shown("errors")
    assert "\x1b" not in line and "\x9b" not in line and "?[31mred" in line
    assert "/path%1b " in line and "secret" not in line
    assert [row.split()[1] for row in shown("requests")[1:]] == ["web"]
    del agent


def test_gossip_is_told_with_what_is_known_of_the_others(node, shown):
    with running_node("node-b", join=(node.address("gossip-door"),)) as other:
        until(lambda: node.status.nodes.names() == ["node-a", "node-b"])
        lines = shown("gossip")
        assert ["node", "node-a"] in [line.split() for line in lines]
        assert lines[-2].split()[:2] == ["NODE", "STATUS"] and lines[-1].split()[0] == "node-b"
        Agent(other, "far")
        until(lambda: node.routes.served("far"))
        assert shown("endpoints")[1].split()[:3] == ["far", "1", "node-b=1"]
        assert shown("endpoints", "--here") == ["nothing"]
        until(lambda: node.status.nodes.row("node-b")["link"] == "open")
        assert shown("node", "--node=node-b")[0].split() == ["node", "node-b"]
        assert shown("node", "node-b")[1].split() == ["status", "alive"]


def test_nothing_is_said_to_be_nothing(shown):
    assert shown("upstreams") == ["nothing"]
    assert shown("upstreams", "--json")[0] == "{"


@pytest.mark.parametrize("what", [what for what, page in PAGES.items() if not page.takes_id])
def test_every_page_is_there(shown, what):
    assert shown(what)
    json.loads("\n".join(shown(what, "--json")))


@pytest.mark.parametrize(
    "words,why",
    [
        (("frob",), "unknown page frob: one of node, nodes"),
        (("nodes", "node-a"), "nodes takes no ID"),
        (("endpoint",), "endpoint needs an ID"),
        (("endpoint", "../node"), "'../node' is not an ID"),
        (("endpoint", ".."), "'..' is not an ID"),
        (("gossip", "--limit=3"), "gossip takes no --limit"),
        (("nodes", "--endpoint=x"), "nodes takes no --endpoint"),
        (("nodes", "--here"), "nodes takes no --here"),
    ],
)
def test_a_wrong_word_is_named(node, words, why):
    with pytest.raises(UsageError, match=why):
        run(*words, f"--admin={url(node)}")


@pytest.mark.parametrize(
    "words,error,why",
    [
        (("nodes", "--limit=x"), ConfigError, "--limit: 'x' is not usable: expected a whole number, 1 or more"),
        (
            ("nodes", "--interval=0s"),
            ConfigError,
            "--interval: '0s' is not usable: expected a duration such as 500ms, 10s or 5m",
        ),
        (("nodes", "--limit=0"), ConfigError, "--limit: '0' is not usable: expected a whole number, 1 or more"),
        (("nodes", "--limit=100001"), UsageError, "limit: '100001' is not usable: expected a number from 1 to 100000"),
        (("requests", "--endpoint=" + "a" * 101), UsageError, "endpoint: expected at most 100 characters"),
    ],
)
def test_a_value_that_can_never_be_good_is_a_wrong_word(node, words, error, why):
    with pytest.raises(error) as caught:
        run(*words, f"--admin={url(node)}")
    assert str(caught.value) == why


@pytest.mark.parametrize(
    "words,why",
    [
        (("endpoint", "nobody"), r"nobody: there is no such endpoint here \(404 unknown_endpoint\)"),
        (("nodes", "--node=node-z"), r"node-z: there is no such node here"),
    ],
)
def test_what_the_node_refuses_is_one_sentence(node, words, why):
    with pytest.raises(NoAnswer, match=why):
        run(*words, f"--admin={url(node)}")


def test_a_node_that_is_not_there_is_one_sentence():
    with pytest.raises(NoAnswer, match="no answer from http://127.0.0.1:1/status/nodes: connection refused"):
        run("--admin=http://127.0.0.1:1")


@pytest.mark.parametrize("door,whose", [("proxy-door", "clients"), ("upstream-door", "agents")])
def test_another_door_of_a_node_is_named(node, door, whose):
    with pytest.raises(NoAnswer, match=f"this is a node's port for {whose}; its admin port is 8001 by default"):
        run(f"--admin=http://127.0.0.1:{node.address(door)[1]}")
