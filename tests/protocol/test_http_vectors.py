"""Every vector of HTTP, valid and invalid, fed whole, byte by byte, line by line, cut at random, and with a tail."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.protocol.http_playbook import Outcome, cuts, read_requests, read_response, vector_bytes
from tests.rules import covers

VECTORS = json.loads((Path(__file__).parents[2] / "spec/vectors/http.json").read_text())
REQUESTS, RESPONSES = VECTORS["requests"], VECTORS["responses"]
TAIL = b"GET /tail HTTP/1.1\r\nHost: tail.example\r\n\r\n"


def by_name(vector):
    return vector["name"]


def check(vector, outcome: Outcome, how: str) -> None:
    assert outcome.failure == vector.get("failure"), how
    assert len(outcome.messages) == len(vector["messages"]), how
    for seen, wanted in zip(outcome.messages, vector["messages"], strict=True):
        assert {name: seen[name] for name in wanted} == wanted, how


@covers("HTTP-1", "HTTP-2", "HTTP-3", "HTTP-4", "HTTP-5", "HTTP-6", "HTTP-7", "HTTP-8", "HTTP-9", "HTTP-10")
@covers("HTTP-12", "HTTP-13", "HTTP-14", "HTTP-15", "HTTP-16", "HTTP-17", "HTTP-18", "HTTP-19", "HTTP-20")
@covers("HTTP-21", "HTTP-22", "HTTP-23", "HTTP-24", "HTTP-25", "HTTP-27", "HTTP-28", "HTTP-32", "HTTP-33", "HTTP-34")
@covers("HTTP-11", "HTTP-39", "HTTP-43", "HTTP-46", "HTTP-47", "HTTP-54", "HTTP-58", "HTTP-59")
@pytest.mark.parametrize("vector", REQUESTS, ids=by_name)
def test_a_request_however_it_is_cut(vector):
    data = vector_bytes(vector["input"])
    for how, pieces in cuts(data, len(data)):
        check(vector, read_requests(pieces, eof=vector.get("eof", True)), how)


@covers("HTTP-10", "HTTP-59")
@pytest.mark.parametrize(
    "vector", [one for one in REQUESTS if "failure" not in one and one.get("eof", True)], ids=by_name
)
def test_a_request_with_another_behind_it(vector):
    data = vector_bytes(vector["input"])
    for how, pieces in cuts(data + TAIL, len(data)):
        outcome = read_requests(pieces)
        *before, last = outcome.messages
        check(vector, Outcome(before, outcome.failure), how)
        assert (last["target"], last["endpoint"]) == ("/tail", "tail"), how


@covers("HTTP-11")
@pytest.mark.parametrize(
    "vector",
    [one for one in REQUESTS if one.get("failure") not in (None, "body_incomplete") and "HTTP-14" not in one["rules"]],
    ids=by_name,
)
def test_nothing_is_read_behind_a_request_that_is_refused(vector):
    data = vector_bytes(vector["input"])
    if data.endswith(b"\n"):  # else the tail would become part of what is refused
        for how, pieces in cuts(data + TAIL, len(data)):
            check(vector, read_requests(pieces), how)


@covers("HTTP-24", "HTTP-26", "HTTP-28", "HTTP-31", "HTTP-35", "HTTP-44", "HTTP-45", "HTTP-48", "HTTP-49", "HTTP-51")
@covers("HTTP-53", "HTTP-54", "HTTP-55", "HTTP-71")
@pytest.mark.parametrize("vector", RESPONSES, ids=by_name)
def test_a_response_however_it_is_cut(vector):
    data = vector_bytes(vector["input"])
    method, upgrade = vector.get("method", "GET").encode(), vector.get("upgrade", "").encode()
    for how, pieces in cuts(data, len(data)):
        outcome = read_response(pieces, method, upgrade, eof=vector.get("eof", True))
        check(vector, outcome, how)
        if "failure" not in vector and vector["messages"]:
            assert outcome.left == vector.get("left", 0), how


def test_the_rules_of_the_decorators_are_those_of_the_vectors():
    for test, vectors in ((test_a_request_however_it_is_cut, REQUESTS), (test_a_response_however_it_is_cut, RESPONSES)):
        assert set(test.covered_rules) == {rule for vector in vectors for rule in vector["rules"]}
