"""Spans of OpenTelemetry, for those who ask for them.

Responsible for: one span for each request where it enters the cluster and one where it reaches the service, their names
and attributes, and the trace that they belong to. Refuses to know: where spans go, which the standard ``OTEL_``
variables say, and what becomes of a request.

Nothing imports this file unless tracing is on: its packages are those of the extra ``otel``. A path or a query is in no
span, for tokens live there. The exporter sends from a thread of its own, which in a patched process is a greenlet.
"""

from __future__ import annotations

import os
from typing import Final, NamedTuple

import gevent
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import Span, SpanKind, StatusCode
from opentelemetry.trace.propagation import set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from pico import __version__
from pico.observability.metrics import METHODS
from pico.protocol.http import trace_fields, with_trace_fields

__all__ = ["Traced", "Tracing"]

CLOSE_S: Final = 5.0
"""For the spans that are left when the process ends."""

Value = str | int


class Traced(NamedTuple):
    """A span that has begun, and what says so to whoever is next."""

    span: Span
    fields: bytes
    """``traceparent``, perhaps ``tracestate``: lines of a field block."""

    def mark(self, block: bytes) -> bytes:
        """The field block with these in place of what it said of its trace."""
        return with_trace_fields(block, self.fields)


class Tracing:
    """One per process. Without ``exporter`` spans go by OTLP over HTTP to where the environment says."""

    def __init__(self, service: str, instance: str, exporter: SpanExporter | None = None) -> None:
        if exporter is None:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

            exporter = OTLPSpanExporter()
        known = {"service.version": __version__, "service.instance.id": instance}
        if "OTEL_SERVICE_NAME" not in os.environ:
            known["service.name"] = service
        self._provider = TracerProvider(resource=Resource.create(known), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("pico", __version__)
        self._propagator = TraceContextTextMapPropagator()

    def request_came(self, method: bytes, block: bytes, attributes: dict[str, Value]) -> Traced:
        """A client asks; ``ended`` must follow."""
        return self._begin(SpanKind.SERVER, method, block, attributes)

    def request_goes(self, method: bytes, block: bytes, attributes: dict[str, Value]) -> Traced:
        """A service is asked; ``ended`` must follow."""
        return self._begin(SpanKind.CLIENT, method, block, attributes)

    def ended(self, traced: Traced, status: int, outcome: str, attributes: dict[str, Value]) -> None:
        """The request has ended; ``outcome`` is ``ok`` or the code of a failure."""
        span = traced.span
        if span.is_recording():
            for name, value in attributes.items():
                if value != "":
                    span.set_attribute(name, value)
            if status:
                span.set_attribute("http.response.status_code", status)
            if outcome != "ok" or status >= 500:
                span.set_attribute("error.type", outcome if outcome != "ok" else str(status))
                span.set_status(StatusCode.ERROR)
        span.end()

    def close(self) -> None:
        """Send what is left, for at most ``CLOSE_S``."""
        with gevent.Timeout(CLOSE_S, False):
            self._provider.shutdown()

    def _begin(self, kind: SpanKind, method: bytes, block: bytes, attributes: dict[str, Value]) -> Traced:
        name = method.decode("latin-1")
        known = name if name in METHODS else "_OTHER"
        span = self._tracer.start_span(
            known if known != "_OTHER" else "HTTP",
            self._propagator.extract(trace_fields(block)),
            kind,
            {"http.request.method": known, **{key: value for key, value in attributes.items() if value != ""}},
        )
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, set_span_in_context(span))
        fields = "".join(f"{name}: {value}\r\n" for name, value in carrier.items())
        return Traced(span, fields.encode("latin-1", "replace"))
