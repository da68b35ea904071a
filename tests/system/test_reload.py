"""SIGHUP and ``/-/reload`` with real processes: what changes counts at once, and no connection is lost for it."""

from __future__ import annotations

import http.client
import json
import shutil
import signal
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from cryptography import x509

from pico.config import TlsFiles
from tests.certificates import Authority
from tests.system.processes import HOST, Programs, answer_of, curl, until
from tests.system.service import Service
from tests.system.upstreams import BareUpstream, serial_of

UPSTREAMS = 1_000
PER_ENDPOINT = 100
DOORS = ("proxy", "upstream", "admin")
READ_AGAIN = r"the settings were read again: (.*) changed"
REFUSED = "the new settings are refused"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    folder = tmp_path / "authority"
    folder.mkdir()
    return Authority(folder)


def install(files: TlsFiles, folder: Path) -> int:
    """Put a certificate where the node reads it; its serial number."""
    for source, name in ((files.key, "door.key"), (files.certificate, "door.pem")):
        shutil.copy(source, folder / name)
    return x509.load_pem_x509_certificate(Path(files.certificate).read_bytes()).serial_number


def settings(folder: Path, **more: object) -> Path:
    path = folder / "node.yaml"
    doors = "".join(f"{door}_tls_cert: {folder}/door.pem\n{door}_tls_key: {folder}/door.key\n" for door in DOORS)
    path.write_text(doors + "".join(f"{key}: {value}\n" for key, value in more.items()))
    return path


def shown_at(port: int, context: ssl.SSLContext) -> int:
    with (
        socket.create_connection((HOST, port), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname=HOST) as sock,
    ):
        return serial_of(sock)


def ask_for_reload(port: int, context: ssl.SSLContext | None = None) -> tuple[int, dict[str, object]]:
    made: http.client.HTTPConnection = (
        http.client.HTTPConnection(HOST, port, timeout=20)
        if context is None
        else http.client.HTTPSConnection(HOST, port, timeout=20, context=context)
    )
    with closing(made) as connection:
        connection.request("POST", "/-/reload", headers={"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, json.loads(response.read())


def test_new_certificates_with_a_thousand_upstreams_open(
    programs: Programs, authority: Authority, tmp_path: Path, service: Service
) -> None:
    first = install(authority.issue(HOST), tmp_path)
    node = programs.node(f"--config={settings(tmp_path)}", "--heartbeat=10m", "--silence=1h")
    programs.agent_of(
        f"--server=https://{HOST}:{node.upstream_port}", f"--ca-file={authority.ca_file}",
        f"--endpoint=web={HOST}:{service.port}",
    ).registered()  # fmt: skip
    context = ssl.create_default_context(cafile=authority.ca_file)
    with ExitStack() as left:
        upstreams = [
            BareUpstream(HOST, node.upstream_port, f"ep{number // PER_ENDPOINT}", context)
            for number in range(UPSTREAMS)
        ]
        for upstream in upstreams:
            left.callback(upstream.close)
        assert {upstream.serial for upstream in upstreams} == {first}
        client = http.client.HTTPSConnection(HOST, node.proxy_port, timeout=30, context=context)
        left.callback(client.close)
        client.request("POST", "/wait", b"in flight", {"x-pico-endpoint": "web"})
        service.until_waiting()

        second = install(authority.issue(HOST), tmp_path)
        node.send(signal.SIGHUP)
        said = node.until_said(READ_AGAIN)[1]
        assert set(said.split(", ")) == {f"{door}_tls_{part}" for door in DOORS for part in ("cert", "key")}

        doors = (node.proxy_port, node.upstream_port, node.admin_port)
        assert [shown_at(port, context) for port in doors] == [second] * 3
        late = BareUpstream(HOST, node.upstream_port, "late", context)
        left.callback(late.close)
        assert late.serial == second
        service.permit()
        assert client.getresponse().read() == b"in flight"
        client.request("GET", "/", headers={"x-pico-endpoint": "web"})  # on the connection that it has had
        assert client.getresponse().read() == b"hello\n"
        assert all(upstream.answers(number) for number, upstream in enumerate([*upstreams, late]))

        (tmp_path / "door.pem").write_text("no certificate")
        node.send(signal.SIGHUP)
        node.until_said(REFUSED)
        assert [shown_at(port, context) for port in doors] == [second] * 3
        status, answer = ask_for_reload(node.admin_port, context)
        assert (status, answer["error"]["code"]) == (422, "bad_settings")  # type: ignore[index]
        assert "node.yaml:1: proxy_tls_cert: " in answer["error"]["message"]  # type: ignore[index]
        assert all(upstream.answers(number) for number, upstream in enumerate([*upstreams, late], UPSTREAMS * 2))


def test_a_file_that_is_wrong_is_refused_whole(programs: Programs, tmp_path: Path) -> None:
    path = tmp_path / "node.yaml"
    path.write_text("fields_max: 50\n")
    node = programs.node(f"--config={path}")
    before = node.metric("pico_config_last_reload_timestamp_seconds")
    path.write_text("fields_max: 5\nlog_level: loud\n")
    status, answer = ask_for_reload(node.admin_port)
    assert status == 422
    assert f"{path}:2: log_level: 'loud' is not usable" in answer["error"]["message"]  # type: ignore[index]
    assert node.metric("pico_config_reload_success") == 0
    assert node.metric('pico_config_reloads_total{result="refused"}') == 1
    assert node.metric("pico_config_last_reload_timestamp_seconds") == before
    many = [word for number in range(20) for word in ("-H", f"x-{number}: 1")]
    code = ("-o", "/dev/null", "-w", "%{http_code}")
    assert curl(*code, *many, "-H", "x-pico-endpoint: none", f"{node.url}/").stdout == b"502"
    path.write_text("fields_max: 5\n")
    assert ask_for_reload(node.admin_port) == (
        200,
        {"status": "applied", "changed": ["fields_max"], "needs_restart": []},
    )
    assert curl(*code, *many, "-H", "x-pico-endpoint: none", f"{node.url}/").stdout == b"431"
    assert node.metric("pico_config_reload_success") == 1
    assert node.metric("pico_config_last_reload_timestamp_seconds") > before


def test_what_needs_a_restart_is_named_each_time(programs: Programs, tmp_path: Path) -> None:
    path = tmp_path / "node.yaml"
    path.write_text("")
    node = programs.node(f"--config={path}")
    path.write_text("cluster_name: other\ngrace_period: 7s\n")
    assert ask_for_reload(node.admin_port)[1] == {
        "status": "applied", "changed": ["grace_period"], "needs_restart": ["cluster_name"]
    }  # fmt: skip
    node.until_said("these settings wait for a restart: cluster_name")
    assert ask_for_reload(node.admin_port)[1] == {"status": "applied", "changed": [], "needs_restart": ["cluster_name"]}
    command = programs.program("pico.cli.pico", "reload", f"--admin={HOST}:{node.admin_port}")
    assert (command.wait(), command.output) == (0, "changed: nothing\nneeds a restart: cluster_name\n")
    path.write_text("frob: 1")
    command = programs.program("pico.cli.pico", "reload", f"--admin={HOST}:{node.admin_port}")
    assert command.wait() == 1
    assert f"{path}:1: 'frob' is not usable" in command.errors


def test_a_reload_asked_for_twice_quickly_and_while_starting_ends_nobody(programs: Programs, tmp_path: Path) -> None:
    node = programs.node_begun()
    until(lambda: ignores_or_catches(node.pid, signal.SIGHUP), "its first word about signals")
    node.send(signal.SIGHUP)
    node.ready()
    for _ in range(5):
        node.send(signal.SIGHUP)
    node.until_said(READ_AGAIN)
    assert answer_of(node.admin_port, "/readyz")[0] == 200
    node.send(signal.SIGTERM)
    assert node.wait() == 0


def ignores_or_catches(pid: int, number: signal.Signals) -> bool:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    masks = [int(line.split()[1], 16) for line in lines if line.startswith(("SigIgn", "SigCgt"))]
    return any(mask >> number - 1 & 1 for mask in masks)


def test_the_log_and_the_access_log_change(programs: Programs, tmp_path: Path) -> None:
    path = tmp_path / "node.yaml"
    path.write_text("access_log: off\n")
    node = programs.node(f"--config={path}")
    ask = ("-H", "x-pico-endpoint: none", f"{node.url}/first")
    assert curl(*ask).returncode == 0
    path.write_text("access_log: keyvalue\nlog_format: json\n")
    node.send(signal.SIGHUP)
    node.until_said(f'"logger": "pico.config", "message": "{READ_AGAIN}')
    assert curl(*ask[:-1], f"{node.url}/second").returncode == 0
    until(lambda: "path=/second" in node.output, "a line of the access log")
    assert "/first" not in node.output


@pytest.fixture
def others() -> Iterator[list[Service]]:
    with Service() as one, Service() as two:
        yield [one, two]


def test_endpoints_of_an_agent_come_go_and_move(programs: Programs, tmp_path: Path, others: list[Service]) -> None:
    one, two = (f"{HOST}:{service.port}" for service in others)
    for service, name in zip(others, ("one", "two"), strict=True):
        (tmp_path / name).write_text(name)
        service.serve_file(tmp_path / name)
    node = programs.node()
    path = tmp_path / "agent.yaml"

    def write(**endpoints: str) -> None:
        items = "".join(f"- endpoint: {name}\n  service: {where}\n" for name, where in endpoints.items())
        path.write_text(f"servers: ['{node.upstream_url}']\nendpoints:\n{items}")

    def answer(endpoint: str) -> bytes:
        return curl("-H", f"x-pico-endpoint: {endpoint}", f"{node.url}/file").stdout

    write(stays=one, moves=one, goes=one)
    agent = programs.agent_of(f"--config={path}")
    until(lambda: node.metric("pico_upstreams") == 3, "three upstreams")
    assert (answer("moves"), answer("goes")) == (b"one", b"one")
    opened = node.metric('pico_upstream_handshakes_total{result="accepted"}')

    write(stays=one, moves=two, comes=two)
    agent.send(signal.SIGHUP)
    agent.until_said("the settings were read again: endpoints changed")
    until(lambda: answer("comes") == b"two", "the new endpoint")
    until(lambda: node.metric("pico_upstreams") == 3, "the end of the old one")
    assert node.metric('pico_upstream_handshakes_total{result="accepted"}') == opened + 1, "others kept their tunnels"
    assert (answer("stays"), answer("moves")) == (b"one", b"two")
    assert b"endpoint_not_found" in answer("goes")

    path.write_text(f"servers: ['{node.upstream_url}']\nendpoints: []\n")
    agent.send(signal.SIGHUP)
    agent.until_said(REFUSED)
    assert answer("stays") == b"one"


def test_an_agent_believes_another_authority_from_its_next_dial_on(
    programs: Programs, authority: Authority, tmp_path: Path, service: Service
) -> None:
    install(authority.issue(HOST), tmp_path)
    node = programs.node(f"--config={settings(tmp_path)}")
    (tmp_path / "other").mkdir()
    ca_file = tmp_path / "ca.pem"
    shutil.copy(Authority(tmp_path / "other").ca_file, ca_file)
    with closing(socket.create_server((HOST, 0))) as free:
        port = free.getsockname()[1]
    agent = programs.agent_of(
        f"--server=https://{HOST}:{node.upstream_port}", f"--ca-file={ca_file}", f"--admin-port={port}",
        f"--endpoint=web={HOST}:{service.port}", "--backoff-max=200ms",
    )  # fmt: skip
    agent.until_said("certificate verify failed|unable to get local issuer")
    ca_file.write_text("nobody")
    assert ask_for_reload(port)[0] == 422
    shutil.copy(authority.ca_file, ca_file)
    assert ask_for_reload(port) == (200, {"status": "applied", "changed": ["ca_file"], "needs_restart": []})
    agent.registered()
    assert 'pico_config_reloads_total{result="applied"} 1.0' in answer_of(port, "/metrics")[1]
