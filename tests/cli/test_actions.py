"""``pico drain``, ``disconnect``, ``forget`` and ``log-level``, asked of a real node at a real admin door."""

from __future__ import annotations

import json
import logging

import gevent
import pytest

from pico.cli import actions
from pico.cli.admin_client import NoAnswer
from pico.cli.command_line import UsageError, parse
from pico.cli.pico import COMMANDS
from pico.errors import ConfigError
from tests.node.harness import Agent, running_node


def run(name: str, *words: str) -> int:
    """The command as a person types it, in a thread, since the node runs on this one."""
    command = COMMANDS[name]
    arguments = parse(getattr(actions, command.usage), words, program=f"pico {name}")
    code: int = gevent.get_hub().threadpool.apply(getattr(actions, command.function), (arguments,))
    return code


@pytest.fixture
def act(capsys):
    with running_node("node-a") as node:
        host, port = node.address("admin-door")

        def act(name: str, *words: str) -> str:
            assert run(name, *words, f"--admin=http://{host}:{port}") == 0
            said: str = capsys.readouterr().out
            return said

        act.node = node  # type: ignore[attr-defined]
        yield act


def test_a_node_drains(act):
    assert act("drain") == "the node drains\n"
    assert act.node.asked.is_set()
    assert json.loads(act("drain", "--json")) == {"status": "draining"}


def test_an_upstream_is_disconnected(act):
    agents = [Agent(act.node, "web") for _ in range(2)]
    assert act("disconnect", "node-a-u1") == "upstream node-a-u1 is about to leave\n"
    assert agents[0].goaway.get(timeout=5)
    assert act("disconnect", "node-a-u2", "--force") == "upstream node-a-u2 is cut off\n"
    agents[1].ended.get(timeout=5)


def test_what_the_node_refuses_is_one_sentence(act):
    with pytest.raises(NoAnswer, match=r"node-a-u9: there is no such upstream here \(404 unknown_upstream\)"):
        act("disconnect", "node-a-u9")
    with pytest.raises(NoAnswer, match=r"node-a: only a node that is dead or has left can be forgotten"):
        act("forget", "node-a")
    with pytest.raises(NoAnswer, match=r"logger: 'pico.nowhere' is not there: .*\(404 unknown_logger\)"):
        act("log-level", "debug", "pico.nowhere")


def test_a_level_that_there_is_not_is_a_wrong_word():
    with pytest.raises(ConfigError, match=r"the level: 'loud' is not usable: expected one of debug, info, .*, default"):
        run("log-level", "loud", "pico.node")


def test_a_log_level_is_changed(act):
    logger = logging.getLogger("pico.tunnel")
    try:
        assert act("log-level", "error", "pico.tunnel") == "pico.tunnel writes from error on\n"
        assert logger.level == logging.ERROR
        above = logging.getLevelName(logging.getLogger("pico").getEffectiveLevel()).lower()
        said = f"pico.tunnel writes from {above} on, as the logger above does\n"
        assert act("log-level", "default", "pico.tunnel") == said
        assert logger.level == logging.NOTSET
    finally:
        logger.setLevel(logging.NOTSET)


@pytest.mark.parametrize("name,words", [("disconnect", ()), ("forget", ("a", "b")), ("drain", ("now",))])
def test_a_word_too_few_or_too_many(name, words):
    with pytest.raises(UsageError):
        run(name, *words)
