"""Balancers as a person runs them, from the recipes in ``deploy/``, in front of nodes of the test.

Responsible for: nodes on addresses of their own with the same ports, which is how recipes name them; and a balancer
from its recipe, changed in nothing but where things stand. Refuses to know: what a test wants of them.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from pico.cli.bench.processes import free_port
from pico.config import TlsFiles
from tests.system.processes import HOST, Node, Program, Programs, until

__all__ = [
    "DEPLOY",
    "Balancer",
    "Caddy",
    "Haproxy",
    "Nginx",
    "NginxStream",
    "needed",
    "three_nodes",
    "until_one",
]

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
DEFAULT_PORTS = {"proxy": 8000, "admin": 8001, "upstream": 8002}


def needed(program: str) -> str:
    """Where it is; the test is skipped where it is not."""
    path = shutil.which(program, path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    if path is None:
        pytest.skip(f"{program} is not installed")
    return path


def three_nodes(programs: Programs, *options: str) -> list[Node]:
    """Nodes that know each other: each on an address of its own, their ports the same."""
    first, second = random.randrange(16, 255), random.randrange(256)
    doors = [f"--{door}-port={free_port()}" for door in (*DEFAULT_PORTS, "gossip")]
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
    return re.sub(r"(port) (8001)\b", lambda found: f"{found[1]} {ports[int(found[2])]}", recipe)


class Balancer(Program):
    """One balancer, from a recipe in ``deploy/`` with ``changes``, exact replacements of its text.

    Subclasses say how it is run and how it is told where to listen.
    """

    program: str
    files: tuple[str, ...]
    files_for_tls: tuple[str, ...]
    listens: str
    """How a recipe says on which port to listen; the port is the last group."""

    def __init__(
        self,
        directory: Path,
        nodes: Sequence[Node],
        *,
        tls: TlsFiles | None = None,
        changes: Mapping[str, str] | None = None,
    ) -> None:
        path = needed(self.program)
        self.ports: dict[int, int] = {}
        """The port of the test for each port of the recipe."""
        self.folder = directory / f"{self.program}-{free_port()}"
        self.folder.mkdir()
        changes = dict(changes or {})
        if tls is not None:
            changes |= self._certificates(tls)
        names = (*self.files, *(self.files_for_tls if tls is not None else ()))
        recipes = {name: (DEPLOY / self.program / name).read_text() for name in names}
        for before, after in changes.items():
            assert any(before in recipe for recipe in recipes.values()), f"{before!r} is in no recipe"
            recipes = {name: recipe.replace(before, after) for name, recipe in recipes.items()}
        for name, recipe in recipes.items():
            placed_here = re.sub(self.listens, self._listen_here, placed(recipe, nodes), flags=re.MULTILINE)
            (self.folder / name).write_text(placed_here)
        command = self.command(path, [self.folder / name for name in recipes])
        super().__init__(self.folder.name, command, directory)

    def command(self, path: str, files: Sequence[Path]) -> list[str]:
        """How it is run, in the foreground."""
        raise NotImplementedError

    def here(self, found: re.Match[str], port: int) -> str:
        """The line that listens on this port of the loopback address."""
        return f"{found[1]}{HOST}:{port}"

    def ready(self) -> Balancer:
        """Wait until it listens."""
        for port in self.ports.values():
            until(lambda port=port: self._listens_on(port), f"port {port} of {self.program}")
        return self

    @property
    def url(self) -> str:
        """For clients."""
        return f"http://{HOST}:{self.ports[80]}"

    @property
    def upstream_url(self) -> str:
        """For agents."""
        return f"http://{HOST}:{self.ports[8002]}"

    def _certificates(self, tls: TlsFiles) -> dict[str, str]:
        both = self.folder / "both.pem"
        both.write_text(Path(tls.certificate).read_text() + Path(tls.key).read_text())
        certificate = str(both if self.program == "haproxy" else tls.certificate)
        changes = {f"/etc/{self.program}/pico.pem": certificate}
        return changes if self.program == "haproxy" else changes | {f"/etc/{self.program}/pico.key": tls.key}

    def _listen_here(self, found: re.Match[str]) -> str:
        return self.here(found, self.ports.setdefault(int(found[found.re.groups]), free_port()))

    def _listens_on(self, port: int) -> bool:
        assert self.process.poll() is None, f"{self.program} ended: {self.errors}"
        with suppress(OSError), socket.create_connection((HOST, port), timeout=1):
            return True
        return False


class Haproxy(Balancer):
    program = "haproxy"
    files = ("haproxy.cfg",)
    files_for_tls = ("tls.cfg",)
    listens = r"^(\s+bind ):(\d+)"

    def command(self, path: str, files: Sequence[Path]) -> list[str]:
        return [path, "-db", *(word for file in files for word in ("-f", str(file)))]


class Nginx(Balancer):
    program = "nginx"
    files = ("pico.conf",)
    files_for_tls = ("pico-tls.inc",)
    listens = r"^(\s*listen )(\d+)"
    context = "http"
    SCRATCH = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")

    def modules(self) -> list[str]:
        """What has to be loaded."""
        return []

    def command(self, path: str, files: Sequence[Path]) -> list[str]:
        scratch = "".join(f"{name}_temp_path {self.folder}/{name};\n" for name in self.SCRATCH)
        main = self.folder / "nginx.conf"
        main.write_text(
            f"pid {self.folder}/pid;\nerror_log stderr;\n"
            + "".join(f"load_module {module};\n" for module in self.modules())
            + ("user root;\n" if os.getuid() == 0 else "")
            + "events { worker_connections 1024; }\n"
            + f"{self.context} {{\n{scratch if self.context == 'http' else ''}"
            + ("access_log off;\n" if self.context == "http" else "")
            + f"include {files[0]};\n}}\n"
        )
        return [path, "-p", str(self.folder), "-c", str(main), "-e", "stderr", "-g", "daemon off;"]


class NginxStream(Nginx):
    files = ("pico-stream.conf",)
    context = "stream"

    def modules(self) -> list[str]:
        module = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
        if not module.exists():
            pytest.skip("nginx has no stream module")
        return [str(module)]


class Caddy(Balancer):
    program = "caddy"
    files = ("Caddyfile",)
    files_for_tls = ("pico-tls.caddy",)
    listens = r"^:(\d+) {"

    def here(self, found: re.Match[str], port: int) -> str:
        return f":{port} {{\n\tbind {HOST}"

    def command(self, path: str, files: Sequence[Path]) -> list[str]:
        home = [f"{name}={self.folder}" for name in ("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME")]
        return ["env", *home, path, "run", "--adapter", "caddyfile", "--config", str(files[0])]
