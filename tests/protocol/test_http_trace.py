"""Trace IDs: read from a valid ``traceparent``, and from nothing else."""

from __future__ import annotations

import pytest

from pico.config import HttpLimits
from pico.protocol.http import RequestReader, trace_fields, trace_id_of, with_trace_fields
from tests.rules import covers

TRACE = b"4bf92f3577b34da6a3ce929d0e0e4736"
VALID = b"00-" + TRACE + b"-00f067aa0ba902b7-01"


@pytest.mark.parametrize("value", [VALID, VALID[:-1] + b"0", b"01" + VALID[2:], b"cc" + VALID[2:] + b"-later"])
def test_a_valid_field_names_its_trace(value: bytes) -> None:
    assert trace_id_of(value) == TRACE.decode()


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"ff" + VALID[2:],
        VALID + b"-more",
        VALID + b"-",
        VALID + b"0",
        b"01" + VALID[2:] + b".later",
        VALID.upper(),
        VALID[:-1],
        VALID[1:],
        VALID.replace(TRACE, b"0" * 32),
        VALID.replace(b"00f067aa0ba902b7", b"0" * 16),
        VALID.replace(b"-", b"_"),
        VALID + b"\n",
        b"x" * 5000,
    ],
)
def test_any_other_names_none(value: bytes) -> None:
    assert trace_id_of(value) == ""


def read(*lines: bytes):
    reader = RequestReader(HttpLimits())
    reader.receive_data(b"GET / HTTP/1.1\r\nHost: a.b\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n")
    return reader.next_head()


@covers("HTTP-69")
@pytest.mark.parametrize("name", [b"traceparent", b"Traceparent", b"TraceParent", b"TRACEPARENT"])
def test_the_field_is_noted_and_travels_as_it_is(name: bytes) -> None:
    request = read(name + b":  " + VALID + b" ", b"tracestate: a=1,,b=2", b"tracestate: c=3")
    assert request.traceparent == VALID
    assert request.field_block().endswith(name + b":  " + VALID + b" \r\ntracestate: a=1,,b=2\r\ntracestate: c=3\r\n")


@covers("HTTP-69")
def test_one_that_came_twice_names_no_trace_and_travels_twice() -> None:
    request = read(b"traceparent: " + VALID, b"traceparent: " + VALID)
    assert trace_id_of(request.traceparent) == ""
    assert request.field_block().count(VALID) == 2


def test_without_the_field_nothing_is_noted() -> None:
    assert read().traceparent is None


BLOCK = b"a: b\r\nTraceParent:  x \r\nx-tracestate: no\r\ntracestate: c=1\r\nTRACESTATE: d=2\r\ntraceparents: no\r\n"


def test_what_a_block_says_of_its_trace() -> None:
    assert trace_fields(BLOCK) == {"traceparent": ["x"], "tracestate": ["c=1", "d=2"]}
    assert trace_fields(b"a: b\r\n") == {}


def test_what_a_block_says_of_its_trace_is_replaced_and_nothing_else() -> None:
    assert with_trace_fields(BLOCK, b"traceparent: y\r\n") == (
        b"a: b\r\nx-tracestate: no\r\ntraceparents: no\r\ntraceparent: y\r\n"
    )
