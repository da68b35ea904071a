"""The table of failures is the one in the specification, and each row is one whole response."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from pico.config import HttpLimits, HttpTimers
from pico.protocol.http import Failure, ResponseReader, failure_response
from tests.rules import covers

SPEC = (Path(__file__).parents[2] / "spec/http.md").read_text()
SENT = [failure for failure in Failure if failure.status != 499]


def read(data: bytes, method: bytes = b"GET") -> tuple[int, dict[bytes, bytes], bytes, bool]:
    reader = ResponseReader(HttpLimits())
    reader.begin(method)
    reader.receive_data(data)
    head = reader.next_head()
    assert head is not None
    body, end = reader.next_body()
    assert end
    assert not reader.excess
    fields = dict(line.split(b": ", 1) for line in data.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:])
    return head.status, fields, body, reader.reusable


@covers("HTTP-64")
def test_the_table_is_the_one_in_the_specification():
    section = SPEC.partition("## Failures")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (\d{3}) \| `([a-z_]+)` \| (.+?) \| ", section, re.MULTILINE)
    assert rows == [(str(failure.status), failure.code, failure.message) for failure in Failure]


def test_the_parameters_are_those_of_the_code_with_their_defaults():
    limits, timers = HttpLimits(), HttpTimers()
    rows = dict(re.findall(r"^\| `(\w+)` \| [^|]+ \| ([0-9,.]+) \|", SPEC, re.MULTILINE))
    for holder in (limits, timers):
        for name in holder.__dataclass_fields__:
            if name != "body_rate_bytes_min":
                assert float(rows.pop(name).replace(",", "")) == getattr(holder, name), name
    assert not rows
    assert f"`body_rate_bytes_min` ({timers.body_rate_bytes_min} B/s)" in SPEC


@covers("HTTP-64")
@pytest.mark.parametrize("failure", SENT, ids=lambda failure: failure.name)
def test_every_failure_is_a_whole_response_in_json(failure):
    status, fields, body, reusable = read(failure_response(failure, request_id="r", date=b"now"))
    assert status == failure.status
    assert json.loads(body) == {"error": {"code": failure.code, "message": failure.message}}
    assert fields[b"x-pico-error"] == failure.code.encode()
    assert fields[b"Content-Type"] == b"application/json"
    assert fields[b"Cache-Control"] == b"no-store"
    assert (fields[b"X-Request-Id"], fields[b"Date"]) == (b"r", b"now")
    assert (b"Retry-After" in fields) is (status == 503)
    assert (b"Allow" in fields) is (status == 405)
    assert b"Connection" not in fields
    assert reusable


@covers("HTTP-64")
def test_values_of_the_optional_fields():
    assert read(failure_response(Failure.OVERLOADED))[1][b"Retry-After"] == b"1"
    fields = read(failure_response(Failure.METHOD_NOT_ALLOWED))[1]
    assert fields[b"Allow"] == b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
    assert not {b"X-Request-Id", b"Date"} & set(fields)


@covers("HTTP-11", "HTTP-64")
def test_a_detail_is_told_without_becoming_anything_else():
    data = failure_response(Failure.BAD_REQUEST, 'a "quoted"\r\nX: \xe9', keep_alive=False)
    _, fields, body, reusable = read(data)
    assert json.loads(body)["error"]["message"] == 'The request is not valid HTTP/1.1. (a "quoted"\r\nX: \xe9)'
    assert fields[b"Connection"] == b"close"
    assert body.count(b"\n") == 1
    assert not reusable


@covers("HTTP-64", "HTTP-51")
def test_head_gets_the_same_head_and_no_body():
    whole = failure_response(Failure.OVERLOADED, method=b"GET")
    assert failure_response(Failure.OVERLOADED, method=b"HEAD") == whole[: whole.index(b"{")]


@covers("HTTP-58")
@pytest.mark.parametrize(
    "keep_alive, minor, connection",
    [(True, 1, None), (True, 0, b"keep-alive"), (False, 1, b"close"), (False, 0, b"close")],
)
def test_whether_the_connection_goes_on_is_said(keep_alive, minor, connection):
    fields = read(failure_response(Failure.OVERLOADED, keep_alive=keep_alive, minor=minor))[1]
    assert fields.get(b"Connection") == connection
