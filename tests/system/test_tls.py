"""HTTPS on every hop: the proxy door, the upstream door, the admin door, and the service behind the agent."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator

import pytest
import requests

from pico.config import TlsFiles
from tests.certificates import Authority
from tests.system.processes import HOST, Node, Programs, curl
from tests.system.service import Service


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def files(authority: Authority) -> TlsFiles:
    return authority.issue("localhost", "web.pico.test", HOST)


@pytest.fixture(scope="module")
def https_service(files: TlsFiles) -> Iterator[Service]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files.certificate, files.key)
    with Service(context) as serving:
        yield serving


@pytest.fixture(scope="module")
def node(shared_programs: Programs, files: TlsFiles, authority: Authority, https_service: Service) -> Node:
    doors = ("proxy", "upstream", "admin")
    node = shared_programs.node(
        *(f"--{door}-tls-cert={files.certificate}" for door in doors),
        *(f"--{door}-tls-key={files.key}" for door in doors),
    )
    shared_programs.agent_of(
        f"--server=https://localhost:{node.upstream_port}",
        f"--ca-file={authority.ca_file}",
        f"--endpoint=web=https://localhost:{https_service.port}",
        f"--service-ca-file={authority.ca_file}",
    ).registered()
    return node


def test_curl_through_four_hops_with_tls(node: Node, authority: Authority) -> None:
    port = node.proxy_port
    done = curl(
        "--fail", "--cacert", authority.ca_file, "--resolve", f"web.pico.test:{port}:{HOST}",
        f"https://web.pico.test:{port}/fields",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    fields = {name.lower(): value for name, value in json.loads(done.stdout)["fields"]}
    assert fields["x-forwarded-proto"] == "https"
    assert fields["host"] == f"web.pico.test:{port}"


def test_long_bodies_both_ways_with_tls(node: Node, authority: Authority) -> None:
    body = bytes(range(256)) * 20_000
    url = f"https://localhost:{node.proxy_port}/echo"
    with requests.Session() as session:
        session.trust_env = False
        answer = session.post(url, data=body, headers={"x-pico-endpoint": "web"}, verify=authority.ca_file)
        assert answer.content == body
        answer = session.post(url, data=iter([body] * 2), headers={"x-pico-endpoint": "web"}, verify=authority.ca_file)
        assert answer.content == body * 2


def test_the_admin_door_has_tls_too(node: Node, authority: Authority) -> None:
    done = curl("--fail", "--cacert", authority.ca_file, f"https://{HOST}:{node.admin_port}/readyz")
    assert json.loads(done.stdout) == {"status": "ready"}


def test_a_client_without_tls_at_a_door_with_tls_is_told_so_and_the_door_stays(
    node: Node, authority: Authority
) -> None:
    done = curl(f"http://{HOST}:{node.proxy_port}/")
    assert b"HTTPS" in done.stdout
    assert b"hello" not in done.stdout
    assert curl("--fail", "--cacert", authority.ca_file, f"https://localhost:{node.proxy_port}/").returncode != 0
    done = curl(
        "--fail", "-H", "x-pico-endpoint: web", "--cacert", authority.ca_file, f"https://{HOST}:{node.proxy_port}/"
    )
    assert done.stdout == b"hello\n"


def test_an_agent_that_does_not_know_the_authority_says_so_and_goes_on_trying(programs: Programs, node: Node) -> None:
    agent = programs.agent_of(f"--server=https://localhost:{node.upstream_port}", "--endpoint=other=3000")
    assert "certificate" in agent.until_said(r"is not registered at .*retrying")[0].lower()
    assert agent.process.poll() is None


def test_a_service_whose_authority_is_not_known_is_unreachable(
    programs: Programs, node: Node, authority: Authority, https_service: Service
) -> None:
    programs.agent_of(
        f"--server=https://localhost:{node.upstream_port}",
        f"--ca-file={authority.ca_file}",
        f"--endpoint=doubt=https://localhost:{https_service.port}",
    ).registered()
    done = curl(
        "--cacert", authority.ca_file, "-H", "x-pico-endpoint: doubt", "-w", "%{http_code}",
        f"https://localhost:{node.proxy_port}/",
    )  # fmt: skip
    assert done.stdout.endswith(b"502")
    assert b"service_unreachable" in done.stdout
