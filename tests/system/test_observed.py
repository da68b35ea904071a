"""What an operator sees: a line for each request without a secret in it, metrics that parse, probes that are true."""

from __future__ import annotations

import json
import signal

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.system.processes import Agent, Node, Programs, answer_of, curl, until
from tests.system.service import Service

SECRET = "s3cr3t-that-nobody-logs"


@pytest.fixture(scope="module")
def node(shared_programs: Programs) -> Node:
    return shared_programs.node("--endpoint-wait=0")


@pytest.fixture(scope="module")
def agent(shared_programs: Programs, node: Node, service: Service) -> Agent:
    return shared_programs.agent(
        node.upstream_url, "web", service.port, "--access-log=json", "--log-level=debug"
    ).registered()


def lines_of(program: Node | Agent, count: int, after: int = 0) -> list[dict[str, object]]:
    """The lines of the access log behind the first so many, once there are ``count``."""
    until(lambda: program.output.count("\n") >= after + count, f"{count} lines")
    return [json.loads(line) for line in program.output.splitlines()[after:]]


def test_each_request_is_one_line_and_no_secret_is_in_any(node: Node, agent: Agent) -> None:
    secrets = ["-H", f"Authorization: Bearer {SECRET}", "-H", f"Cookie: session={SECRET}", "-u", f"user:{SECRET}"]
    for path in ("/fields", f"/fields?token={SECRET}", "/echo"):
        assert curl("--fail", "-H", "x-pico-endpoint: web", *secrets, f"{node.url}{path}").returncode == 0
    curl("-H", "x-pico-endpoint: nobody", *secrets, f"{node.url}/")
    curl("-H", "x-pico-endpoint: web", "-A", 'a "name"\\', *secrets, "-d", "x" * 100, f"{node.url}/echo")
    curl("-X", "NONSENSE-THAT-IS-FAR-TOO-LONG-FOR-A-METHOD", *secrets, f"{node.url}/")
    lines = lines_of(node, 6)
    assert len(lines) == 6
    assert [(line["method"], line["path"], line["status"]) for line in lines[:5]] == [
        ("GET", "/fields", 200),
        ("GET", "/fields", 200),
        ("GET", "/echo", 200),
        ("GET", "/", 502),
        ("POST", "/echo", 200),
    ]
    assert lines[3]["outcome"] == "endpoint_not_found"
    assert (lines[4]["bytes_in"], lines[4]["bytes_out"], lines[4]["user_agent"]) == (100, 100, 'a "name"\\')
    assert len(lines_of(agent, 4)) == 4
    assert {line["request_id"] for line in lines_of(agent, 4)} <= {line["request_id"] for line in lines}
    for said in (node.output, node.errors, agent.output, agent.errors):
        assert SECRET not in said


def test_a_line_cannot_be_forged(node: Node, agent: Agent) -> None:
    before = node.output.count("\n")
    done = curl("-H", "x-pico-endpoint: web", "-A", 'x\t"}\x1b[31m', f"{node.url}/%0a%0dfields\"'")
    assert done.returncode == 0
    curl("--fail", "-H", "x-pico-endpoint: web", f"{node.url}/")
    assert len(lines_of(node, 2, before)) == 2
    assert "\x1b" not in node.output


COUNTED = (
    'pico_requests_total{code="200",method="GET"}',
    'pico_requests_total{code="502",method="GET"}',
    "pico_request_duration_seconds_count",
    'pico_request_failures_total{reason="endpoint_not_found"}',
)


def test_metrics_parse_and_count(node: Node, agent: Agent) -> None:
    def ask() -> list[float]:
        for endpoint in ("web", "web", "web", "nobody"):
            curl("-H", f"x-pico-endpoint: {endpoint}", f"{node.url}/")
        return [node.metric(name) for name in COUNTED]

    assert [after - before for before, after in zip(ask(), ask(), strict=True)] == [3, 1, 4, 1]
    status, text = node.admin("/metrics")
    assert status == 200
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert families.keys() >= {"pico_requests", "pico_streams", "pico_client_connections", "process_open_fds"}
    assert node.metric("pico_upstreams") == 1
    assert sum(sample.value for sample in families["pico_actors"].samples) >= 5


def test_what_visitors_send_makes_no_series(node: Node, agent: Agent) -> None:
    curl("-H", "x-pico-endpoint: web", f"{node.url}/")
    before = len(node.admin("/metrics")[1].splitlines())
    for number in range(10):
        curl("-H", f"x-pico-endpoint: nobody-{number}", f"{node.url}/{number}")
        curl("-X", f"M{number}", "-H", "x-pico-endpoint: web", f"{node.url}/{number}")
    text = node.admin("/metrics")[1]
    assert len(text.splitlines()) <= before + 4, text
    assert "nobody-" not in text


@pytest.mark.parametrize(
    "path,answer", [("/livez", "live"), ("/health", "live"), ("/readyz", "ready"), ("/ready", "ready")]
)
def test_probes(node: Node, path: str, answer: str) -> None:
    status, body = node.admin(path)
    assert (status, json.loads(body)) == (200, {"status": answer})
    assert answer_of(node.admin_port, "/else")[0] == 404


def test_readiness_ends_before_the_door_closes(programs: Programs) -> None:
    node = programs.node("--drain-delay=1s")
    node.send(signal.SIGTERM)
    until(lambda: node.admin("/readyz")[0] == 503, "the end of readiness")
    assert curl("-w", "%{http_code}", f"{node.url}/").stdout.endswith(b"400"), "the door is still open"
    assert node.wait() == 0
