"""Real processes that send their spans to a collector, and what they load when nobody wants spans."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tests.system.processes import Programs, curl, until
from tests.system.service import Service

pytest.importorskip("opentelemetry.proto", reason="the packages of pico-tunnel[otel] are not installed")

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


class Collector(HTTPServer):
    """Takes spans by OTLP over HTTP."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.spans: list[tuple[str, str, str]] = []


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            names = {pair.key: pair.value.string_value for pair in resource.resource.attributes}
            for scope in resource.scope_spans:
                for span in scope.spans:
                    self.server.spans.append((names["service.name"], span.name, span.trace_id.hex()))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    made = Collector()
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{made.server_port}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
    monkeypatch.setenv("NO_PROXY", "*")
    try:
        yield made
    finally:
        made.shutdown()
        thread.join()
        made.server_close()


def test_spans_of_a_node_and_an_agent_reach_a_collector(
    programs: Programs, service: Service, collector: Collector
) -> None:
    node = programs.node("--tracing=otlp")
    programs.agent(node.upstream_url, "web", service.port, "--tracing=otlp").registered()
    traced = ["-H", "x-pico-endpoint: web", "-H", f"traceparent: 00-{TRACE}-00f067aa0ba902b7-01"]
    assert curl("--fail", *traced, f"{node.url}/").returncode == 0
    wanted = {("pico-node", "GET", TRACE), ("pico-agent", "GET", TRACE)}
    until(lambda: wanted <= set(collector.spans), f"both spans, of {collector.spans}")


def test_nothing_of_it_is_loaded_when_it_is_off() -> None:
    unwanted = ("opentelemetry", "google", "pico.observability.tracing")
    look = (
        "import sys; import pico.node.process, pico.agent.process; "
        f"print([name for name in sys.modules if name.startswith({unwanted})])"
    )
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
