"""What the load is put on: the service itself, nginx, the floor, and Pico.

Responsible for: starting each as real processes on free ports of loopback, from the command lines that a person would
type, and saying which process IDs make up which part. Refuses to know: load and figures.

Downloads are served by nginx from files where it is installed, else by ``bench/service.py``; uploads always by the
latter, which reads a body to its end before it answers. Every target reaches the same two services.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
import urllib.request
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pico.cli.bench.processes import BenchFailed, Child, Children, free_port, wait_until

__all__ = [
    "DIRECTIONS",
    "DOMAIN",
    "DOWNLOAD",
    "SIZES",
    "STALL_BYTES",
    "UPLOAD",
    "Pico",
    "Route",
    "Services",
    "Target",
    "pico_agent",
    "pico_node",
    "source_directory",
    "start_pico",
    "start_targets",
]

DOWNLOAD, UPLOAD = "download", "upload"
DIRECTIONS = (DOWNLOAD, UPLOAD)
SIZES = (0, 1024, 64 * 1024, 1024 * 1024)
STALL_BYTES = 4 * 1024 * 1024
HOST = "127.0.0.1"
DOMAIN = "pico.example"  # the first label of Host names the endpoint: download.pico.example

_NGINX_COMMON = """\
daemon off;
master_process off;
pid {directory}/{name}.pid;
error_log stderr crit;
{user}
events {{ worker_connections 8192; }}
http {{
  access_log {access_log};
  default_type application/octet-stream;
  sendfile on;
  tcp_nodelay on;
  keepalive_requests 1000000000;
  keepalive_timeout 600s;
  client_max_body_size 0;
  client_body_temp_path {directory}/{name}-body;
  proxy_temp_path {directory}/{name}-proxy;
  fastcgi_temp_path {directory}/{name}-fastcgi;
  uwsgi_temp_path {directory}/{name}-uwsgi;
  scgi_temp_path {directory}/{name}-scgi;
{servers}
}}
"""
_NGINX_FILES = """\
  open_file_cache max=64;
  server {{ listen {host}:{port} backlog=4096; root {directory}/files; }}
"""
_NGINX_PROXY = """\
  upstream service {{ server {host}:{service}; keepalive 1024; keepalive_requests 1000000000; }}
  server {{
    listen {host}:{port} backlog=4096;
    location / {{
      proxy_pass http://service;
      proxy_http_version 1.1;
      proxy_request_buffering off;
      proxy_max_temp_file_size 0;
      proxy_set_header Connection "";
      proxy_set_header Host $host;
      proxy_set_header X-Forwarded-For $remote_addr;
    }}
  }}
"""


@dataclass(frozen=True, slots=True)
class Route:
    """One way to the service: where clients connect, and which processes make up which part of it."""

    port: int
    parts: dict[str, list[int]]


@dataclass(frozen=True, slots=True)
class Target:
    """One column of the table, with its route for either direction."""

    name: str
    routes: dict[str, Route]


class Services:
    """The services behind every target."""

    def __init__(self, children: Children) -> None:
        self.ports: dict[str, int] = {}
        self._pids: dict[str, list[int]] = {}
        port = free_port()
        own = children.start("service", [sys.executable, str(source_directory() / "service.py"), f"--port={port}"])
        wait_until(lambda: listens(port), "the service", own)
        self._add(own, port, DIRECTIONS)
        if shutil.which("nginx"):
            files_port = free_port()
            self._add(start_nginx_files(children, files_port), files_port, [DOWNLOAD])

    def _add(self, child: Child, port: int, directions: Iterable[str]) -> None:
        for direction in directions:
            self.ports[direction] = port
            self._pids[direction] = [child.pid]

    def target(self) -> Target:
        """The services themselves, reached directly."""
        routes = {name: Route(port, {"service": self._pids[name]}) for name, port in self.ports.items()}
        return Target("direct", routes)


@dataclass(frozen=True, slots=True)
class Pico:
    """A running node with an agent for both endpoints."""

    node: Child
    agent: Child
    proxy_port: int

    def target(self) -> Target:
        route = Route(self.proxy_port, {"node": [self.node.pid], "agent": [self.agent.pid]})
        return Target("pico", dict.fromkeys(DIRECTIONS, route))


def source_directory() -> Path:
    """The ``bench`` directory of the source tree, which is not part of an installed package."""
    directory = Path(__file__).resolve().parents[3] / "bench"
    if not (directory / "floor.py").is_file():
        raise BenchFailed("the benchmark needs the source tree (bench/floor.py): run it from a checkout")
    return directory


def start_targets(children: Children, services: Services, names: Iterable[str]) -> list[Target]:
    """The targets of these names that this machine has, in the order given, each answering requests."""
    targets: list[Target] = []
    for name in names:
        if name == "direct":
            targets.append(services.target())
        elif name == "nginx":
            if shutil.which("nginx"):
                targets.append(start_nginx_proxies(children, services))
        elif name in ("floor", "floor-greenlet"):
            targets.append(start_floor(children, services, name))
        else:
            targets.append(start_pico(children, services).target())
    return targets


# -- nginx ------------------------------------------------------------------------------------------------------------


def start_nginx_files(children: Children, port: int) -> Child:
    files = children.directory / "files"
    files.mkdir()
    for size in (*SIZES, STALL_BYTES):
        (files / str(size)).write_bytes(bytes(size))
    servers = _NGINX_FILES.format(host=HOST, port=port, directory=children.directory)
    return _start_nginx(children, "nginx-files", port, servers, access_log=False)


def start_nginx_proxies(children: Children, services: Services) -> Target:
    routes: dict[str, Route] = {}
    for direction, service in services.ports.items():
        port = free_port()
        servers = _NGINX_PROXY.format(host=HOST, port=port, service=service)
        child = _start_nginx(children, f"nginx-{direction}", port, servers, access_log=True)
        routes[direction] = Route(port, {"proxy": [child.pid]})
    return Target("nginx", routes)


def _start_nginx(children: Children, name: str, port: int, servers: str, *, access_log: bool) -> Child:
    """One process, without a master; it writes nowhere but in the directory of the run."""
    directory = children.directory
    configuration = directory / f"{name}.conf"
    configuration.write_text(
        _NGINX_COMMON.format(
            directory=directory,
            name=name,
            user="user root;" if os.geteuid() == 0 else "",  # the directory is ours alone
            access_log=f"{directory}/{name}.log" if access_log else "off",
            servers=servers,
        )
    )
    command = ["nginx", "-p", str(directory), "-c", str(configuration), "-e", "stderr"]
    child = children.start(name, command)
    wait_until(lambda: listens(port), name, child)
    return child


# -- the floor --------------------------------------------------------------------------------------------------------


def start_floor(children: Children, services: Services, name: str) -> Target:
    """One pair of processes for each service, since the floor's agent knows only one."""
    style = "greenlet" if name == "floor-greenlet" else "callback"
    routes = {
        direction: _start_floor_pair(children, f"{name}-{direction}", style, service)
        for direction, service in services.ports.items()
    }
    return Target(name, routes)


def _start_floor_pair(children: Children, name: str, style: str, service: int) -> Route:
    program = [sys.executable, str(source_directory() / "floor.py")]
    client_port, agent_port = free_port(), free_port()
    ports = [f"--client-port={client_port}", f"--agent-port={agent_port}"]
    node = children.start(f"{name}-node", [*program, "node", *ports, f"--style={style}"])
    addresses = [f"--server={HOST}:{agent_port}", f"--service={HOST}:{service}"]
    agent = children.start(f"{name}-agent", [*program, "agent", *addresses, f"--style={style}"])
    wait_until(lambda: answers(client_port, "localhost"), name, node, agent)
    return Route(client_port, {"node": [node.pid], "agent": [agent.pid]})


# -- Pico -------------------------------------------------------------------------------------------------------------


def start_pico(children: Children, services: Services, name: str = "pico") -> Pico:
    """A node and an agent with their defaults: metrics and the access log are on."""
    proxy_port, upstream_port = free_port(), free_port()
    node = pico_node(children, f"{name}-node", proxy_port, upstream_port)
    agent = pico_agent(children, f"{name}-agent", upstream_port, services.ports)
    for endpoint in services.ports:
        authority = f"{endpoint}.{DOMAIN}"
        wait_until(lambda: answers(proxy_port, authority), f"{name} for {authority}", node, agent)  # noqa: B023
    return Pico(node, agent, proxy_port)


def pico_node(children: Children, name: str, proxy_port: int, upstream_port: int) -> Child:
    admin_port = free_port()
    child = children.start(
        name,
        [
            *_program("pico-node"),
            f"--proxy-port={proxy_port}",
            f"--upstream-port={upstream_port}",
            f"--admin-port={admin_port}",
            f"--gossip-port={free_port()}",
            "--access-log=json",
        ],
    )
    wait_until(lambda: answers(admin_port, HOST, "/readyz"), name, child)
    return child


def pico_agent(children: Children, name: str, upstream_port: int, services: dict[str, int]) -> Child:
    endpoints = [f"--endpoint={endpoint}={HOST}:{port}" for endpoint, port in services.items()]
    server = f"--server=http://{HOST}:{upstream_port}"
    return children.start(name, [*_program("pico-agent"), server, f"--admin-port={free_port()}", *endpoints])


def _program(name: str) -> list[str]:
    """The console script next to this interpreter, else the module it would run."""
    script = Path(sys.executable).with_name(name)
    if script.is_file():
        return [str(script)]
    return [sys.executable, "-m", "pico.cli." + name.removeprefix("pico-")]


# -- readiness --------------------------------------------------------------------------------------------------------


def listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection((HOST, port), timeout=1.0):
        return True
    return False


def answers(port: int, authority: str, target: str = "/0") -> bool:
    """Whether a request comes back with 200: an open port says too little."""
    request = urllib.request.Request(f"http://{HOST}:{port}{target}", headers={"Host": authority})
    with suppress(OSError), urllib.request.urlopen(request, timeout=5.0) as response:
        return bool(response.status == 200)
    return False
