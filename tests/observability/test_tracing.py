"""Spans of OpenTelemetry, with the real SDK: one where a request enters, one where it leaves for the service."""

from __future__ import annotations

from contextlib import contextmanager
from random import Random

import pytest

pytest.importorskip("opentelemetry.sdk", reason="the packages of pico-tunnel[otel] are not installed")

from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from pico.agent.agent import Agent
from pico.config import AgentConfig, EndpointTarget
from pico.errors import ConfigError
from pico.observability.traces import start_tracing
from pico.observability.tracing import Tracing
from pico.protocol.http import trace_fields
from tests.agent.harness import read_head, serving
from tests.node.clusters import HOST, running_cluster
from tests.node.harness import Client, until

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = "00f067aa0ba902b7"
PARENT = f"traceparent: 00-{TRACE}-{CALLER}-01\r\ntracestate: a=1,b=2\r\n".encode()


class Stage:
    """Two nodes, an agent and a service; the request enters where the endpoint is not."""

    def __init__(self, entry, heads: list[bytes], spans: list[InMemorySpanExporter], tracings: list[Tracing]) -> None:
        self.entry, self.heads, self.spans, self.tracings = entry, heads, spans, tracings

    def finished(self):
        for tracing in self.tracings:
            tracing.close()
        return [span for exporter in self.spans for span in exporter.get_finished_spans()]


@contextmanager
def stage(status: bytes = b"200 OK"):
    heads: list[bytes] = []
    spans = [InMemorySpanExporter(), InMemorySpanExporter()]
    tracings = [Tracing("pico-node", "n", spans[0]), Tracing("pico-agent", "a", spans[1])]

    def answer(sock, _) -> None:
        rest = b""
        while True:
            head, rest = read_head(sock, rest)
            if not head:
                return
            heads.append(head)
            sock.sendall(b"HTTP/1.1 " + status + b"\r\nContent-Length: 2\r\n\r\nok")

    with serving(answer) as server, running_cluster(2) as (entry, owner):
        entry.services.tracing = tracings[0]
        agent = Agent(
            AgentConfig(
                servers=(f"http://{HOST}:{owner.address('upstream-door')[1]}",),
                endpoints=(EndpointTarget(endpoint_id="ep", host=HOST, port=server.server_port),),
            ),
            write_access_log=lambda text: None,
            rng=Random(1),
            tracing=tracings[1],
        )
        agent.start()
        try:
            until(lambda: entry.routes.served("ep"), "the endpoint at the other node")
            yield Stage(entry, heads, spans, tracings)
        finally:
            agent.stop()
            agent.stop()
            assert agent.ended.wait(5)
            agent.close()


def test_a_request_is_one_trace_from_its_client_to_the_service() -> None:
    with stage() as made:
        response = Client(made.entry).get(b"/secret/path?token=1", b"ep.example.com", PARENT)
        assert response.status == 200
        until(lambda: made.entry.metrics.requests_in_flight == 0, "the end of the request")
        server, client = made.finished()
    assert (server.kind, client.kind) == (SpanKind.SERVER, SpanKind.CLIENT)
    assert format(server.context.trace_id, "032x") == format(client.context.trace_id, "032x") == TRACE
    assert format(server.parent.span_id, "016x") == CALLER
    assert client.parent.span_id == server.context.span_id
    said = trace_fields(made.heads[0] + b"\r\n")
    assert said == {"traceparent": [f"00-{TRACE}-{client.context.span_id:016x}-01"], "tracestate": ["a=1,b=2"]}
    assert server.name == client.name == "GET"
    assert server.attributes["http.request.method"] == "GET"
    assert server.attributes["http.response.status_code"] == client.attributes["http.response.status_code"] == 200
    assert server.attributes["pico.endpoint"] == client.attributes["pico.endpoint"] == "ep"
    assert client.attributes["server.address"] == HOST
    for span in (server, client):
        assert "secret" not in span.to_json()
        assert "token" not in span.to_json()
        assert span.status.status_code is StatusCode.UNSET


def test_a_request_without_a_trace_begins_one() -> None:
    with stage() as made:
        Client(made.entry).get(b"/", b"ep.example.com", b"traceparent: 00-nonsense\r\n")
        until(lambda: made.entry.metrics.requests_in_flight == 0, "the end of the request")
        server, client = made.finished()
    assert server.parent is None
    assert client.parent.span_id == server.context.span_id
    assert len(trace_fields(made.heads[0] + b"\r\n")["traceparent"]) == 1


def test_what_fails_is_an_error_with_the_code_of_the_failure() -> None:
    with stage(b"503 Busy") as made:
        client = Client(made.entry)
        client.get(b"/", b"ep.example.com")
        client.send(b"BREW / HTTP/1.1\r\nHost: nobody.example.com\r\n\r\n").response()
        until(lambda: made.entry.metrics.requests_in_flight == 0, "the end of the requests")
        spans = [span for span in made.finished() if span.kind is SpanKind.SERVER]
    assert [span.attributes["error.type"] for span in spans] == ["503", "endpoint_not_found"]
    assert all(span.status.status_code is StatusCode.ERROR for span in spans)
    assert (spans[1].name, spans[1].attributes["http.request.method"]) == ("HTTP", "_OTHER")


def test_off_is_nothing_and_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert start_tracing("off", "pico-node", "n") is None
    monkeypatch.setitem(__import__("sys").modules, "pico.observability.tracing", None)
    with pytest.raises(ConfigError, match=r"tracing.*pico-tunnel\[otel\]"):
        start_tracing("otlp", "pico-node", "n")
