"""``pico status --watch`` on a terminal, while things happen to a real cluster.

With ``PICO_SCREENSHOTS=DIRECTORY`` the picture of the documentation is made, too: ``make screenshots``.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from pathlib import Path
from xml.etree import ElementTree

from tests.system.processes import Node, Programs, until
from tests.system.screen import Screen
from tests.system.service import Service
from tests.system.test_cluster import cluster

SEEN_S = 15.0
PICTURES = os.environ.get("PICO_SCREENSHOTS", "")


def watching(node: Node, *words: str) -> Screen:
    admin = f"--admin=http://{node.host}:{node.admin_port}"
    command = [sys.executable, "-m", "pico.cli.pico", "status", *words, "--watch", "--interval=200ms", admin]
    return Screen(command)


def row(screen: Screen, name: str) -> list[str]:
    """The words of the row that begins with this one."""
    return next((words for line in screen.lines if (words := line.split())[:1] == [name]), [])


def test_the_death_of_a_node_is_seen_in_place(programs: Programs, service: Service) -> None:
    nodes = cluster(programs, 3)
    programs.agent(nodes[0].upstream_url, "web", service.port).registered()
    with watching(nodes[0]) as screen:
        for number in (1, 2, 3):
            until(lambda n=number: row(screen, f"node-{n}")[1:2] == ["alive"], f"node-{number} on the screen", SEEN_S)
        nodes[2].send(signal.SIGKILL)
        until(lambda: row(screen, "node-3")[1:2] == ["dead"], "its death on the screen", SEEN_S)
        assert row(screen, "node-2")[1] == "alive"
        assert screen.lines[0].split()[:3] == ["NODE", "STATUS", "SINCE"]
        assert len(screen.lines) == 4  # in place, and not one below the other
        picture = screen.picture()
    assert "".join(ElementTree.fromstring(picture).itertext()).count("node-") == 3
    assert re.search(r'class="red">dead *<', picture)
    if PICTURES:
        Path(PICTURES).mkdir(parents=True, exist_ok=True)
        (Path(PICTURES) / "status-watch.svg").write_text(picture)


def test_a_node_that_is_gone_does_not_end_the_watching(programs: Programs) -> None:
    node = programs.node("--node-id=alone")
    with watching(node, "node") as screen:
        until(lambda: row(screen, "node") == ["node", "alone"], "the node on the screen", SEEN_S)
        node.stop()
        until(lambda: row(screen, "error"), "that it does not answer", SEEN_S)
