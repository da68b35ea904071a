"""Balancers as a person runs them, from the recipes in ``deploy/``, in front of nodes of the test.

Responsible for: nodes on addresses of their own with the same ports, which is how recipes name them; and a balancer
from its recipe, changed in nothing but where things stand. Refuses to know: what a test wants of them.
"""

from __future__ import annotations

import random
import re
import shutil
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from tests.system.processes import HOST, Node, Program, Programs, until

__all__ = ["DEPLOY", "Balancer", "Haproxy", "needed", "quiet_port", "three_nodes", "until_one"]

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
DEFAULT_PORTS = {"proxy": 8000, "admin": 8001, "upstream": 8002}


def needed(program: str) -> str:
    """Where it is; the test is skipped where it is not."""
    path = shutil.which(program, path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    if path is None:
        pytest.skip(f"{program} is not installed")
    return path


def quiet_port() -> int:
    """Free, and below those that the system gives to outgoing connections: so it stays free."""
    while True:
        port = random.randrange(20_000, 32_000)
        with suppress(OSError), socket.socket() as tcp:
            tcp.bind(("", port))
            return port


def three_nodes(programs: Programs, *options: str) -> list[Node]:
    """Nodes that know each other: each on an address of its own, their ports the same."""
    first, second = random.randrange(16, 255), random.randrange(256)
    doors = [f"--{door}-port={quiet_port()}" for door in (*DEFAULT_PORTS, "gossip")]
    nodes: list[Node] = []
    for number in (1, 2, 3):
        join = [f"--join={node.host}:{node.gossip_port}" for node in nodes[:1]]
        begun = programs.node_begun(
            f"--node-id=node-{number}", *doors, *join, *options, host=f"127.{first}.{second}.{number}"
        )
        nodes.append(begun.ready())
    until_one(nodes)
    return nodes


def until_one(nodes: Sequence[Node]) -> None:
    """Wait until each has a link to every other."""
    for node in nodes:
        until(
            lambda node=node: node.metric('pico_peer_links{direction="out"}') == len(nodes) - 1,
            f"the cluster as {node.name} sees it",
        )


def placed(recipe: str, nodes: Sequence[Node]) -> str:
    """The recipe with the nodes of the test in place of node-1, node-2 and node-3 on the default ports."""
    ports = {default: getattr(nodes[0], f"{door}_port") for door, default in DEFAULT_PORTS.items()}
    recipe = re.sub(
        r"\bnode-(\d):(\d+)\b", lambda found: f"{nodes[int(found[1]) - 1].host}:{ports[int(found[2])]}", recipe
    )
    return re.sub(r"\b(port) (8001)\b", lambda found: f"{found[1]} {ports[int(found[2])]}", recipe)


class Balancer(Program):
    """One balancer. Subclasses say how it is run; ``clients``, ``agents`` and the like are the ports it listens on."""

    program: str
    files: tuple[str, ...]
    listens: str
    """How the recipe says on which port to listen, with ``{}`` where the port stands; the address goes before it."""

    def __init__(
        self, directory: Path, nodes: Sequence[Node], files: Sequence[str], changes: Mapping[str, str] | None = None
    ) -> None:
        path = needed(self.program)
        self.ports: dict[int, int] = {}
        """The port of the test for each port of the recipe."""
        own = directory / self.program
        own.mkdir()
        written = []
        for name in files:
            recipe = (DEPLOY / self.program / name).read_text()
            for before, after in (changes or {}).items():
                assert before in recipe, f"{before!r} is not in {name}"
                recipe = recipe.replace(before, after)
            written.append(own / name)
            written[-1].write_text(self._listening(placed(recipe, nodes)))
        super().__init__(self.program, self.command(path, written), directory)

    def ready(self) -> Balancer:
        """Wait until it listens."""
        for port in self.ports.values():
            until(lambda port=port: self._listens_on(port), f"port {port} of {self.program}")
        return self

    def command(self, path: str, files: Sequence[Path]) -> list[str]:
        raise NotImplementedError

    @property
    def url(self) -> str:
        """For clients."""
        return f"http://{HOST}:{self.ports[80]}"

    @property
    def upstream_url(self) -> str:
        """For agents."""
        return f"http://{HOST}:{self.ports[8002]}"

    def _listening(self, recipe: str) -> str:
        def here(found: re.Match[str]) -> str:
            port = self.ports.setdefault(int(found[2]), quiet_port())
            return f"{found[1]}{HOST}:{port}"

        return re.sub(self.listens, here, recipe, flags=re.MULTILINE)

    def _listens_on(self, port: int) -> bool:
        assert self.process.poll() is None, f"{self.program} ended: {self.errors}"
        with suppress(OSError), socket.create_connection((HOST, port), timeout=1):
            return True
        return False


class Haproxy(Balancer):
    """HAProxy from its recipe; ``changes`` are exact replacements of its text."""

    program = "haproxy"
    listens = r"^(\s+bind ):(\d+)"

    def __init__(
        self,
        directory: Path,
        nodes: Sequence[Node],
        files: Sequence[str] = ("haproxy.cfg",),
        changes: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(directory, nodes, files, changes)

    def command(self, path: str, files: Sequence[Path]) -> list[str]:
        return [path, "-db", *(word for file in files for word in ("-f", str(file)))]
