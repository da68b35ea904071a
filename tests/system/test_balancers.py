"""The recipes of ``deploy/`` for balancers, in front of three real nodes.

Each test is skipped where its balancer is not installed; ``.ci/run`` installs them.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.certificates import Authority
from tests.system.balancers import Balancer, Caddy, Haproxy, Nginx, NginxStream, three_nodes, until_one
from tests.system.processes import HOST, Node, Programs, curl, curling, until
from tests.system.service import BEGINNING, Service

ASK = ("--fail", "-H", "x-pico-endpoint: web")
ELSEWHERE = "127.9.9.9"
"""A client whose address is not the balancer's."""

BALANCERS = [Haproxy, Nginx, Caddy]
MIB = 1024 * 1024
KEY = b"dGhlIHNhbXBsZSBub25jZQ=="

pytestmark = pytest.mark.timeout(240)


class Cluster:
    """Three nodes behind a balancer, and an agent that came through it."""

    def __init__(self, programs: Programs, nodes: list[Node], balancer: Balancer, service: Service) -> None:
        self.programs = programs
        self.nodes = nodes
        self.balancer = balancer
        self.killed: list[Node] = []
        programs.agent(balancer.upstream_url, "web", service.port, "--backoff-max=500ms").registered()
        until(lambda: curl(*ASK, f"{balancer.url}/").stdout == b"hello\n", "the first answer")

    def entered(self) -> Node:
        """Where the one request that is under way has come in."""
        return until(
            lambda: next((node for node in self.nodes if node.metric("pico_requests_in_flight") > 0), None), "a request"
        )

    def kill(self, node: Node) -> None:
        node.send(signal.SIGKILL)
        node.wait()
        self.nodes.remove(node)
        self.killed.append(node)

    def _reaches(self, node: Node) -> bool:
        curl(*ASK, f"{self.balancer.url}/")
        return node.metric('pico_connections_total{listener="proxy"}') > 0

    def revive(self) -> None:
        """Start again what was killed; the cluster is whole then, in the eyes of the balancer, too."""
        while self.killed:
            node = self.killed.pop()
            self.nodes.append(self.programs.node_begun(*node.options, host=node.host).ready())
            until(lambda: self._reaches(self.nodes[-1]), "a request to the node that is back")
        until_one(self.nodes)
        self.nodes.sort(key=lambda node: node.host)


@pytest.fixture(scope="module", params=BALANCERS, ids=lambda kind: kind.program)
def shared(
    request: pytest.FixtureRequest,
    shared_programs: Programs,
    service: Service,
    tmp_path_factory: pytest.TempPathFactory,
) -> Cluster:
    folder = tmp_path_factory.mktemp("balancer")
    tls = Authority(folder).issue("web.test")
    nodes = three_nodes(shared_programs, f"--trusted-proxies={HOST}")
    balancer = shared_programs.add(request.param(folder, nodes, tls=tls))
    return Cluster(shared_programs, nodes, balancer.ready(), service)


@pytest.fixture
def cluster(shared: Cluster) -> Iterator[Cluster]:
    """Whole again after each test."""
    yield shared
    shared.revive()


def logged(cluster: Cluster) -> list[dict[str, Any]]:
    """The access logs of the nodes, as far as their lines are whole."""
    lines = [line for node in cluster.nodes for line in node.output.splitlines(keepends=True)]
    return [json.loads(line) for line in lines if line.endswith("\n")]


def fields_of(answer: bytes) -> dict[str, str]:
    return {name.lower(): value for name, value in json.loads(answer)["fields"]}


def test_who_is_calling_is_said_by_the_balancer(cluster: Cluster) -> None:
    url = f"{cluster.balancer.url}/a%2Fb//c;d?x=%20&y"
    forged = ("X-Forwarded-For: 10.9.8.7", "X-Forwarded-Proto: gopher", "Forwarded: for=10.9.8.7", "X-Request-Id: mine")
    said = curl(*ASK, *(word for field in forged for word in ("-H", field)), url.replace("/a%2Fb//c;d", "/fields"))
    fields = fields_of(said.stdout)
    assert json.loads(said.stdout)["path"] == "/fields?x=%20&y"
    assert fields["host"] == cluster.balancer.url.removeprefix("http://")
    assert fields["x-forwarded-host"] == fields["host"]
    assert fields["x-forwarded-proto"] == "http"
    assert fields["x-forwarded-for"] == f"{HOST}, {HOST}", "the client, and the balancer"
    assert fields["x-request-id"] != "mine"
    assert "forwarded" not in fields
    assert "accept-encoding" not in fields
    assert curl(*ASK, "--interface", ELSEWHERE, "-H", forged[0], f"{cluster.balancer.url}/logged").stdout == b"hello\n"
    until(lambda: [line["remote"] for line in logged(cluster) if line["path"] == "/logged"] == [ELSEWHERE], "its line")
    assert curl(*ASK, "--path-as-is", url).stdout == b"hello\n"
    until(lambda: any(line["path"] == "/a%2Fb//c;d" for line in logged(cluster)), "the target as it was sent")


def test_nobody_notices_that_a_node_was_killed(cluster: Cluster) -> None:
    """Every node is killed in its turn and started again; each request in between is answered."""
    ways: list[tuple[str, ...]] = [(), ("-d", "body"), ("-X", "PUT", "-d", "body")]
    if isinstance(cluster.balancer, Caddy):
        ways = [(), ("-I",)]  # what its recipe says of bodies
    for node in list(cluster.nodes):
        cluster.kill(node)
        for words in ways * 7:
            answer = curl("-i", *ASK[1:], *words, f"{cluster.balancer.url}/").stdout
            assert answer.startswith(b"HTTP/1.1 200"), (node.host, words, answer)
        cluster.revive()


def test_a_request_that_may_have_been_served_is_not_sent_again(cluster: Cluster, service: Service) -> None:
    with curling("-i", "-d", "order", *ASK[1:], f"{cluster.balancer.url}/wait") as running:
        service.until_waiting()
        cluster.kill(cluster.entered())
        status = running.communicate(timeout=60)[0].split(b" ", 2)[1]
        assert status in (b"502", b"503"), status
        assert not service.is_waiting(), "it was sent once"
    service.permit()


def test_a_request_that_may_be_repeated_is_sent_again(cluster: Cluster, service: Service) -> None:
    with curling(*ASK, f"{cluster.balancer.url}/wait") as running:
        service.until_waiting()
        cluster.kill(cluster.entered())
        service.until_waiting()
        service.permit()
        service.permit()
        assert running.communicate(timeout=60)[0] == b"it was worth it\n"


def test_events_pass_at_once(cluster: Cluster, service: Service) -> None:
    with curling(*ASK, f"{cluster.balancer.url}/events") as running:
        assert running.stdout is not None
        for number in range(3):
            service.permit(number)
            assert running.stdout.readline() == b"data: %d\n" % number
            assert running.stdout.readline() == b"\n"
        service.permit(None)
        assert running.wait(10) == 0


@pytest.mark.parametrize("framing", ["chunked", "length"])
def test_the_beginning_of_a_response_does_not_wait_for_its_end(
    cluster: Cluster, service: Service, framing: str
) -> None:
    with curling(*ASK, f"{cluster.balancer.url}/stuck?framing={framing}") as running:
        service.until_waiting()
        assert running.stdout is not None
        got = 0
        while got < BEGINNING:
            piece = running.stdout.read1(BEGINNING - got)
            assert piece
            got += len(piece)
    service.permit()


def test_the_beginning_of_a_request_does_not_wait_for_its_end(cluster: Cluster) -> None:
    port = int(cluster.balancer.url.rpartition(":")[2])
    with closing(socket.create_connection((HOST, port), timeout=30)) as uploading:
        uploading.sendall(b"POST / HTTP/1.1\r\nHost: web.test\r\nContent-Length: 20000\r\n\r\n" + bytes(10_000))
        cluster.entered()
        uploading.sendall(bytes(10_000))
        assert uploading.recv(100).startswith(b"HTTP/1.1 200")


def test_a_hundred_megabytes_pass_through_and_are_not_kept(cluster: Cluster, service: Service, tmp_path: Path) -> None:
    file = tmp_path / "large"
    digest = hashlib.sha256()
    with file.open("wb") as out:
        for number in range(100):
            piece = hashlib.sha256(b"%d" % number).digest() * (MIB // 32)
            digest.update(piece)
            out.write(piece)
    service.serve_file(file)
    before = memory_bytes(cluster.balancer)
    up = curl(*ASK, "-H", "Expect:", "-T", str(file), f"{cluster.balancer.url}/digest")
    assert json.loads(up.stdout) == {"sha256": digest.hexdigest(), "size": 100 * MIB}
    down = subprocess.run(
        f"curl -sS --noproxy '*' -m 60 --fail -H 'x-pico-endpoint: web' {cluster.balancer.url}/file | sha256sum",
        shell=True,
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert down.stdout.split()[0] == digest.hexdigest()
    assert memory_bytes(cluster.balancer) - before < 50 * MIB


def memory_bytes(balancer: Balancer) -> int:
    """The most that it and its workers have ever had."""
    found = subprocess.run(
        ["pgrep", "-P", str(balancer.pid)], capture_output=True, text=True, timeout=10
    ).stdout.split()
    total = 0
    for pid in (str(balancer.pid), *found):
        peak = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
        assert peak
        total += int(peak[1]) * 1024
    return total


@contextmanager
def upgrading_service() -> Iterator[int]:
    """Agrees to any upgrade and then gives back what it gets."""
    with socket.create_server((HOST, 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                said = b""
                while b"\r\n\r\n" not in said:
                    said += connection.recv(65536)
                # The answer to the key, which HAProxy checks.
                accept = base64.b64encode(hashlib.sha1(KEY + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
                connection.sendall(
                    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"
                    b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
                )
                while data := connection.recv(65536):
                    connection.sendall(data)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
    thread.join(5)


def test_an_upgrade_passes(cluster: Cluster) -> None:
    port = int(cluster.balancer.url.rpartition(":")[2])
    with upgrading_service() as service_port:
        cluster.programs.agent(cluster.balancer.upstream_url, "chat", service_port).registered()
        for node in cluster.nodes:
            until(lambda node=node: '"chat"' in node.admin("/status/endpoints")[1], f"word of it at {node.name}")
        with closing(socket.create_connection((HOST, port), timeout=30)) as talking:
            talking.sendall(
                b"GET / HTTP/1.1\r\nHost: chat.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + KEY + b"\r\n\r\n"
            )
            head = b""
            while b"\r\n\r\n" not in head:
                head += talking.recv(1)
            assert head.startswith(b"HTTP/1.1 101 ")
            for word in (b"one", b"two"):
                talking.sendall(word)
                assert talking.recv(100) == word


def test_https_ends_at_the_balancer(cluster: Cluster) -> None:
    port = cluster.balancer.ports[443]
    there = ("-k", "--connect-to", f"web.test:443:{HOST}:{port}")
    fields = fields_of(curl("--fail", *there, "https://web.test/fields").stdout)
    assert fields["x-forwarded-proto"] == "https"
    assert fields["x-forwarded-host"] == fields["host"] == "web.test"


UNCOMMENTED = {"    # default-server send-proxy-v2": "    default-server send-proxy-v2"}


@pytest.mark.parametrize(
    "kind,changes", [(Haproxy, UNCOMMENTED), (NginxStream, {})], ids=["haproxy version 2", "nginx version 1"]
)
def test_by_the_proxy_protocol_the_client_is_known(
    kind: Any, changes: dict[str, str], programs: Programs, service: Service, tmp_path: Path
) -> None:
    nodes = three_nodes(programs, f"--trusted-proxies={HOST}", "--proxy-protocol=both")
    balancer = programs.add(kind(tmp_path, nodes, changes=changes))
    cluster = Cluster(programs, nodes, balancer.ready(), service)
    answer = curl(*ASK, "--interface", ELSEWHERE, "-H", "X-Forwarded-For: 10.9.8.7", f"{balancer.url}/fields")
    fields = fields_of(answer.stdout)
    assert fields["x-forwarded-for"] == ELSEWHERE
    lines = until(
        lambda: [line for node in nodes for line in node.output.splitlines() if "/fields" in line], "the access log"
    )
    assert [json.loads(line)["remote"] for line in lines] == [ELSEWHERE]
    cluster.kill(nodes[0])
    for _ in range(10):
        assert curl(*ASK, f"{balancer.url}/").stdout == b"hello\n"


def test_by_the_proxy_protocol_https_at_haproxy_is_known(programs: Programs, service: Service, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    nodes = three_nodes(programs, f"--trusted-proxies={HOST}", "--proxy-protocol=both")
    balancer = programs.add(Haproxy(tmp_path, nodes, tls=authority.issue("web.test"), changes=UNCOMMENTED))
    Cluster(programs, nodes, balancer.ready(), service)
    there = ("--cacert", authority.ca_file, "--connect-to", f"web.test:443:{HOST}:{balancer.ports[443]}")
    fields = fields_of(curl("--fail", "--interface", ELSEWHERE, *there, "https://web.test/fields?secure").stdout)
    assert fields["x-forwarded-proto"] == "https"
    assert fields["x-forwarded-for"] == ELSEWHERE
