"""What an operator types: ``pico status`` and what a node can be asked to do, with real processes and a terminal."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.system.processes import TRACEBACK, Agent, Node, Programs, curl, until
from tests.system.service import Service

WITHIN_S = 20.0
PICO = [sys.executable, "-m", "pico.cli.pico"]


def pico(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command with its messages, in a pipe."""
    env = {**os.environ, **environment}
    done = subprocess.run([*PICO, *words], capture_output=True, text=True, timeout=60, env=env)
    assert TRACEBACK not in done.stderr
    return done


def told(node: Node, *words: str) -> dict:
    done = pico("status", *words, "--json", f"--admin=http://{node.host}:{node.admin_port}")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def act(node: Node, *words: str) -> str:
    done = pico(*words, f"--admin=http://{node.host}:{node.admin_port}")
    assert done.returncode == 0, done.stderr
    return done.stdout


class Terminal:
    """A command on a terminal of 100 columns."""

    def __init__(self, *words: str, **environment: str) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
        env = {**os.environ, "TERM": "xterm", **environment}
        self.process = subprocess.Popen(
            [*PICO, *words], stdin=slave, stdout=slave, stderr=slave, env=env, start_new_session=True
        )
        os.close(slave)
        self.shown = ""

    def until_shown(self, pattern: str, within_s: float = WITHIN_S) -> None:
        deadline = time.monotonic() + within_s
        while not re.search(pattern, self.shown, re.DOTALL):
            ready, _, _ = select.select([self.master], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"{pattern!r} is not in {self.shown!r}"
            self._read()

    def rest(self) -> str:
        """To the end."""
        code = self.process.wait(WITHIN_S)
        while select.select([self.master], [], [], 0)[0] and self._read():
            pass
        assert code is not None
        return self.shown

    def _read(self) -> bool:
        try:
            piece = os.read(self.master, 65536)
        except OSError:  # the other side has gone
            return False
        self.shown += piece.decode()
        return bool(piece)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)


@contextmanager
def on_terminal(*words: str, **environment: str) -> Iterator[Terminal]:
    terminal = Terminal(*words, **environment)
    try:
        yield terminal
    finally:
        terminal.close()


@pytest.fixture
def nodes(programs: Programs) -> tuple[Node, Node]:
    return two_nodes(programs)


@pytest.fixture(scope="module")
def lasting_nodes(shared_programs: Programs) -> tuple[Node, Node]:
    """For whoever only looks."""
    return two_nodes(shared_programs)


def two_nodes(programs: Programs) -> tuple[Node, Node]:
    one = programs.node("--node-id=one")
    other = programs.node("--node-id=other", f"--join={one.host}:{one.gossip_port}")
    until(lambda: all(told(node, "nodes")["total"] == 2 for node in (one, other)), "both")
    return one, other


@pytest.fixture
def agent(programs: Programs, nodes: tuple[Node, Node], service: Service) -> Agent:
    one, other = nodes
    return programs.agent(one.upstream_url, "web", service.port, f"--server={other.upstream_url}").registered()


def test_a_day_of_an_operator(nodes: tuple[Node, Node], agent: Agent) -> None:
    one, other = nodes
    until(lambda: '"web"' in other.admin("/status/endpoints")[1], "word of the endpoint")
    for _ in range(3):
        assert curl("--fail", "-H", "x-pico-endpoint: web", f"{other.url}/fields?secret=1").returncode == 0
    web = told(other, "endpoint", "web")
    assert (web["requests"], web["errors"], web["upstreams"]) == (3, 0, 1)
    owner = next(iter(web["nodes"]))
    (upstream,) = told(other, "upstreams", f"--node={owner}")["items"]
    assert (upstream["endpoint"], upstream["upstream"]) == ("web", f"{owner}-u1")
    assert {row["path"] for row in told(other, "requests")["items"]} == {"/fields"}

    home = one if owner == "one" else other
    assert act(home, "disconnect", upstream["upstream"]) == f"upstream {upstream['upstream']} is about to leave\n"
    until(lambda: told(other, "endpoint", "web")["upstreams"] and not old_one(home, upstream["upstream"]), "the move")
    assert curl("--fail", "-H", "x-pico-endpoint: web", f"{other.url}/fields").returncode == 0

    act(one, "log-level", "debug", "pico.cluster")
    assert {"logger": "pico.cluster", "level": "debug", "effective": "debug"} in told(one, "logs")["items"]

    other.process.kill()
    until(lambda: told(one, "node", "other")["status"] == "dead", "its death")
    refused = pico("status", "--node=other", f"--admin=http://{one.host}:{one.admin_port}")
    assert (refused.returncode, refused.stderr) == (1, "pico status: other: it is dead (502 node_unreachable)\n")
    assert act(one, "forget", "other") == "node other is forgotten\n"
    assert [row["node"] for row in told(one, "nodes")["items"]] == ["one"]

    assert act(one, "drain") == "the node drains\n"
    assert one.wait() == 0


def old_one(node: Node, upstream: str) -> bool:
    return upstream in [row["upstream"] for row in told(node, "upstreams")["items"]]


def test_a_table_on_a_terminal_has_colours_unless_they_are_not_wanted(lasting_nodes: tuple[Node, Node]) -> None:
    one, _ = lasting_nodes
    admin = f"--admin=http://{one.host}:{one.admin_port}"
    with on_terminal("status", admin) as terminal:
        shown = terminal.rest()
        assert terminal.process.returncode == 0
        assert "\x1b[32malive" in shown
        assert max(map(len, re.sub(r"\x1b\[[0-9;]*m", "", shown).splitlines())) <= 100
    for words, environment in ((["--no-color"], {}), ([], {"NO_COLOR": "1"})):
        with on_terminal("status", admin, *words, **environment) as terminal:
            shown = terminal.rest()
            assert "alive" in shown and "\x1b" not in shown


def test_watching_is_in_place_and_outlives_a_node_that_is_away(nodes: tuple[Node, Node], programs: Programs) -> None:
    one, other = nodes
    with on_terminal("status", f"--admin=http://{one.host}:{one.admin_port}", "--watch", "--interval=50ms") as terminal:
        terminal.until_shown(r"one.*other.*\x1b\[H.*one.*other")
        assert terminal.shown.count("\x1b[2J") == 1
        other.send(signal.SIGTERM)
        terminal.until_shown("left")
        one.send(signal.SIGTERM)
        terminal.until_shown("connection refused")
        programs.node("--node-id=again", *one.same_ports)
        terminal.until_shown("again.*alive")
        os.killpg(terminal.process.pid, signal.SIGINT)
        terminal.rest()
        assert terminal.process.returncode == 130


def test_watching_in_a_pipe_is_one_line_for_each_answer(lasting_nodes: tuple[Node, Node]) -> None:
    one, _ = lasting_nodes
    admin = f"--admin=http://{one.host}:{one.admin_port}"
    with subprocess.Popen(
        [*PICO, "status", "--json", "--watch", "--interval=10ms", admin], stdout=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        try:
            for _ in range(3):
                assert json.loads(running.stdout.readline())["total"] == 2
        finally:
            running.send_signal(signal.SIGINT)
        assert running.wait(WITHIN_S) == 130


@pytest.mark.parametrize(
    "words,code,said",
    [
        (["status", "--admin=http://127.0.0.1:1"], 1, "no answer from http://127.0.0.1:1/status/nodes: connection re"),
        (["status", "frob"], 2, "unknown page frob"),
        (["drain", "--admin=https://localhost:1", "--ca-file=/nope"], 2, "--ca-file: '/nope' is not usable"),
        (["drain", "--admin=http://127.0.0.1:1"], 1, "no answer from http://127.0.0.1:1/-/drain: connection refused"),
        (["forget"], 2, "the node is missing"),
    ],
)
def test_what_goes_wrong_is_one_line(words: list[str], code: int, said: str) -> None:
    """What can go wrong with words and values is told apart in ``tests/cli``."""
    done = pico(*words)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (code, "", 1)
    assert done.stderr.startswith(f"pico {words[0]}: ") and said in done.stderr
