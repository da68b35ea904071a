"""Node and agent under a service manager, which the tests play: its socket for notifications, its listening sockets.

The units themselves are judged by ``systemd-analyze`` where there is one.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path

import pytest

from pico.cli.node_options import NODE
from pico.cli.sources import check_file
from tests.system.processes import HOST, Program, Programs, answer_of, curl, until
from tests.system.service import Service

UNITS = Path(__file__).resolve().parents[2] / "deploy" / "systemd"
ASK = ("--fail", "-H", "x-pico-endpoint: web")

LAUNCHER = """
import os, sys
names, *rest = sys.argv[1:]
given = [int(word) for word in rest[: rest.index("--")]]
# To safe numbers first, since one may stand where another is to be.
kept = [os.dup2(fd, 100 + at) for at, fd in enumerate(given)]
for at, fd in enumerate(kept):
    os.dup2(fd, 3 + at)
    os.close(fd)
os.closerange(3 + len(given), 100)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(given)), "LISTEN_FDNAMES": names}
command = rest[rest.index("--") + 1 :]
os.execvp(command[0], command)
"""


class Manager:
    """Hears what processes say of themselves."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setblocking(False)
        self.said: list[str] = []
        self.asks = ["env", f"NOTIFY_SOCKET={path}", "WATCHDOG_USEC=200000"]

    def close(self) -> None:
        self._socket.close()

    def has_heard(self, assignment: str) -> bool:
        with suppress(BlockingIOError):
            while True:
                self.said += self._socket.recv(4096).decode().splitlines()
        return assignment in self.said

    def until_heard(self, assignment: str) -> None:
        until(lambda: self.has_heard(assignment), f"{assignment} among {self.said}")


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    with closing(Manager(tmp_path / "notify")) as listening:
        yield listening


def handing_over(names: str, sockets: Sequence[socket.socket]) -> list[str]:
    return [sys.executable, "-c", LAUNCHER, names, *(str(one.fileno()) for one in sockets), "--"]


def test_a_node_says_what_it_does(programs: Programs, manager: Manager) -> None:
    node = programs.node_begun("--node-id=here", "--drain-delay=0", within=manager.asks).ready()
    manager.until_heard("READY=1")
    manager.until_heard("STATUS=serving as here")
    assert "STOPPING=1" not in manager.said
    signs = manager.said.count("WATCHDOG=1")
    until(lambda: manager.has_heard("") or manager.said.count("WATCHDOG=1") > signs + 3, "signs of life")
    node.send(signal.SIGTERM)
    manager.until_heard("STOPPING=1")
    assert node.wait() == 0


def test_a_reload_is_announced_and_its_end_too(programs: Programs, manager: Manager, tmp_path: Path) -> None:
    path = tmp_path / "node.yaml"
    path.write_text("")
    node = programs.node_begun(f"--config={path}", within=manager.asks).ready()
    manager.until_heard("READY=1")
    for text in ("fields_max: 5", "frob: 1"):  # good and bad
        manager.said.clear()
        path.write_text(text)
        node.send(signal.SIGHUP)
        manager.until_heard("READY=1")
        words = [one.partition("=")[0] for one in manager.said if not one.startswith("WATCHDOG")]
        assert words == ["RELOADING", "MONOTONIC_USEC", "STATUS", "READY", "STATUS"]


def test_a_node_is_ready_only_when_it_has_joined(programs: Programs, manager: Manager) -> None:
    """Its doors are open, and a node that it was told of says nothing: neither yes nor that it is not there."""
    with closing(socket.create_server((HOST, 0))) as silent, closing(socket.socket(type=socket.SOCK_DGRAM)) as datagram:
        port = silent.getsockname()[1]
        datagram.bind((HOST, port))
        node = programs.node_begun(f"--join={HOST}:{port}", within=manager.asks).opened()
        manager.until_heard("STATUS=joining")
        assert node.admin("/readyz")[0] == 503
        assert not manager.has_heard("READY=1")
        until(lambda: node.admin("/readyz")[0] == 200, "the end of its patience")
        manager.until_heard("READY=1")


def test_a_blocked_process_gives_no_sign_of_life(programs: Programs, manager: Manager) -> None:
    node = programs.node_begun(within=manager.asks).ready()
    manager.until_heard("WATCHDOG=1")
    node.send(signal.SIGSTOP)
    until(lambda: Path(f"/proc/{node.pid}/stat").read_text().split()[2] == "T", "its halt")
    manager.has_heard("")
    manager.said.clear()
    with pytest.raises(AssertionError, match="did not come"):
        until(lambda: manager.has_heard("WATCHDOG=1"), "a sign", within_s=1.0)
    node.send(signal.SIGCONT)
    manager.until_heard("WATCHDOG=1")


def test_an_agent_is_ready_when_it_is_registered(programs: Programs, service: Service, manager: Manager) -> None:
    with closing(socket.socket()) as reserved:
        reserved.bind((HOST, 0))
        port = reserved.getsockname()[1]
        agent = programs.agent_of(
            f"--server=http://{HOST}:{port}",
            f"--endpoint=web={HOST}:{service.port}",
            "--backoff-max=200ms",
            within=manager.asks,
        )
        manager.until_heard("STATUS=not registered: web")
        assert "READY=1" not in manager.said
    programs.node(f"--upstream-port={port}")
    manager.until_heard("READY=1")
    manager.until_heard("STATUS=serving web")
    manager.until_heard("WATCHDOG=1")
    agent.send(signal.SIGTERM)
    manager.until_heard("STOPPING=1")
    assert agent.wait() == 0


def started_by(unit: str, config: Path) -> list[str]:
    """What the unit runs, with this file for its settings."""
    found = re.search(r"^ExecStart=/opt/pico/bin/(\S+) --config=\S+$", (UNITS / unit).read_text(), re.MULTILINE)
    assert found
    return [f"pico.cli.{found[1].removeprefix('pico-')}", f"--config={config}"]


def test_the_settings_are_read_again(programs: Programs, manager: Manager, service: Service, tmp_path: Path) -> None:
    """Both programs as their units start them. The manager hears of it also while an agent is not registered."""
    file = tmp_path / "node.yaml"
    settings = "".join(f"{door}_host: {HOST}\n{door}_port: 0\n" for door in ("proxy", "admin", "upstream", "gossip"))
    file.write_text(f"{settings}drain_delay: 0\n")
    node = programs.program(*started_by("pico-node.service", file), within=manager.asks)
    manager.until_heard("READY=1")
    upstream = node.until_said(r"--upstream-port listens on ([0-9.:]+)")[1]
    reload(manager, node)
    file.write_text("nonsense: 1\n")
    reload(manager, node)
    file = tmp_path / "agent.yaml"
    file.write_text(f"servers: [http://{upstream}]\nendpoints: [web={HOST}:{service.port}]\n")
    manager.said.clear()
    agent = programs.program(*started_by("pico-agent@.service", file), within=manager.asks)
    manager.until_heard("STATUS=serving web")
    node.send(signal.SIGTERM)
    assert node.wait() == 0
    agent.until_said("retrying")
    manager.said.clear()
    reload(manager, agent)


def reload(manager: Manager, program: Program) -> None:
    manager.said.clear()
    program.send(signal.SIGHUP)
    manager.until_heard("RELOADING=1")
    manager.until_heard("READY=1")
    assert [line for line in manager.said if line.startswith("MONOTONIC_USEC=")]


@pytest.fixture
def sockets() -> Iterator[list[socket.socket]]:
    """For proxy, upstream, admin and twice for gossip."""
    opened = [socket.create_server((HOST, 0)) for _ in range(4)]
    opened.append(socket.socket(type=socket.SOCK_DGRAM))
    opened[4].bind(opened[3].getsockname())
    yield opened
    for one in opened:
        one.close()


def test_doors_that_were_opened_before(programs: Programs, service: Service, sockets: list[socket.socket]) -> None:
    """Clients wait while the process is exchanged: the sockets stay, and who comes before the agent waits for it."""
    proxy, upstream, admin, gossip = (one.getsockname()[1] for one in sockets[:4])
    within = handing_over("proxy:upstream:admin:gossip:gossip", sockets)
    descriptors = [one.fileno() for one in sockets]
    url = f"http://{HOST}:{proxy}"
    first = programs.node_begun("--node-id=one", "--drain-delay=0", within=within, descriptors=descriptors).ready()
    assert (first.proxy_port, first.upstream_port, first.admin_port, first.gossip_port) == (
        proxy,
        upstream,
        admin,
        gossip,
    )
    programs.agent(first.upstream_url, "web", service.port, "--backoff-max=200ms").registered()
    other = programs.node("--node-id=other", f"--join={HOST}:{gossip}")
    until(lambda: curl(*ASK, f"{other.url}/").stdout == b"hello\n", "an answer by way of the other node")
    assert curl(*ASK, f"{url}/").stdout == b"hello\n"
    first.send(signal.SIGTERM)
    assert first.wait() == 0
    with closing(socket.create_connection((HOST, proxy), timeout=30)) as waiting:
        waiting.sendall(b"GET / HTTP/1.1\r\nHost: web.test\r\nConnection: close\r\n\r\n")
        programs.node_begun("--node-id=one", within=within, descriptors=descriptors).ready()
        assert waiting.recv(65536).startswith(b"HTTP/1.1 200 ")
    assert curl(*ASK, f"{url}/").stdout == b"hello\n"
    assert answer_of(admin, "/livez")[0] == 200


@pytest.mark.parametrize("names", ["proxy:upstream:admin:gossip:web", "proxy:upstream:admin:admin:gossip"])
def test_a_wrong_socket_is_one_line(programs: Programs, sockets: list[socket.socket], names: str) -> None:
    node = programs.node_begun(within=handing_over(names, sockets), descriptors=[one.fileno() for one in sockets])
    assert node.wait() == 2
    assert len(node.errors.splitlines()) == 1
    assert node.errors.startswith("pico-node: LISTEN_FD")


def test_a_wrong_variable_is_one_line(programs: Programs) -> None:
    node = programs.node_begun(within=["env", "NOTIFY_SOCKET=nowhere"])
    assert node.wait() == 2
    assert re.fullmatch(r"pico-node: NOTIFY_SOCKET: .*\n", node.errors)


def test_the_units(tmp_path: Path) -> None:
    """As systemd reads them, with the programs where the tests have them."""
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    true = shutil.which("true")
    for unit in UNITS.iterdir():
        if unit.is_file():
            text = re.sub(r"^(ExecStart=)/opt/pico/bin/pico-\w+", rf"\1{true}", unit.read_text(), flags=re.MULTILINE)
            (tmp_path / unit.name.replace("@", "@web")).write_text(text)
    (tmp_path / "pico-node@web.service").write_text(template().replace("/opt/pico/bin/pico-node", str(true)))
    names = sorted(str(path) for path in tmp_path.glob("*.*"))
    assert len(names) == 7
    verified = subprocess.run(
        [analyze, "verify", "--man=no", *names],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"LC_ALL": "C"},
    )
    complaints = [line for line in verified.stderr.splitlines() if str(tmp_path) in line or "pico-" in line]
    assert not complaints
    assert verified.returncode == 0, verified.stderr


def template() -> str:
    """What ``deploy/README.md`` makes of the unit of a node, for several nodes on one machine."""
    page = (UNITS.parent / "README.md").read_text()
    typed = re.search(r"^sed '([^']+)' deploy/systemd/pico-node\.service >", page, re.MULTILINE)
    assert typed
    command = ["sed", typed[1], str(UNITS / "pico-node.service")]
    made = subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout
    assert "--config=/etc/pico/node-%i.yaml" in made
    return made


def test_the_key_that_a_unit_hands_over_is_found_by_a_check_of_the_file_too(tmp_path: Path) -> None:
    etc, handed_over, file = tmp_path / "etc", tmp_path / "credentials", tmp_path / "node.yaml"
    unit = (UNITS / "pico-node.service").read_text().replace("/etc/pico", str(etc))
    name, source = re.search(r"LoadCredential=([^:]+):([^,]+),", unit).groups()  # type: ignore[union-attr]
    file.write_text(re.search(r"^# (cluster_key_file: .+)$", unit, re.MULTILINE)[1])  # type: ignore[index]
    for folder in (etc, handed_over):
        folder.mkdir()
        (folder / name).write_text("key")
    assert source == str(etc / name)
    for environment, found in (({}, etc), ({"CREDENTIALS_DIRECTORY": str(handed_over)}, handed_over)):
        config, faults = check_file(NODE, str(file), environment)
        assert (config.cluster_key_file, faults) == (str(found / name), [])


@pytest.mark.parametrize("unit", ["pico-node.service", "pico-agent@.service"])
def test_little_is_left_to_a_process_that_was_taken_over(unit: str, tmp_path: Path) -> None:
    """By the points that systemd gives from 0, the best, to 10."""
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    file = tmp_path / unit.replace("@", "@web")
    file.write_text((UNITS / unit).read_text())
    command = [analyze, "security", "--offline=true", "--threshold=20", "--no-pager", str(file)]
    judged = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert judged.returncode == 0, judged.stdout + judged.stderr


def test_units_stop_later_than_their_programs_may_take() -> None:
    for unit, needs in (("pico-node.service", 31), ("pico-agent@.service", 30)):
        found = re.search(r"^TimeoutStopSec=(\d+)s$", (UNITS / unit).read_text(), re.MULTILINE)
        assert found
        assert int(found[1]) >= needs + 10
