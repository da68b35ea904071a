"""The grammar of an endpoint ID; the two places that name one are among the vectors."""

from __future__ import annotations

import pytest

from pico.errors import RemoteProtocolError
from pico.protocol.http import Failure, InvalidEndpoint, Request, endpoint_id, endpoint_of
from tests.rules import covers


@covers("HTTP-18")
@pytest.mark.parametrize("raw", ["a", "0", "my-endpoint", "a--b", "x" * 63, "1-2"])
def test_a_label_is_an_endpoint_id_in_both_spellings_and_types(raw):
    assert endpoint_id(raw) == endpoint_id(raw.upper()) == endpoint_id(raw.encode()) == raw


@covers("HTTP-18")
@pytest.mark.parametrize(
    "raw, reason",
    [
        ("", "not empty"),
        ("x" * 64, "at most 63"),
        ("-a", "begins nor ends"),
        ("a-", "begins nor ends"),
        ("-", "begins nor ends"),
        ("a.b", "made of"),
        ("a_b", "made of"),
        ("a b", "made of"),
        ("a\n", "made of"),
        ("ä", "made of"),
        ("\u212a", "made of"),  # the Kelvin sign, which str.lower() would make a k
        (b"\xff", "made of"),
        ("\ud800", "made of"),
    ],
)
def test_anything_else_is_refused_with_its_reason(raw, reason):
    with pytest.raises(InvalidEndpoint, match=reason) as caught:
        endpoint_id(raw)
    assert isinstance(caught.value, RemoteProtocolError)


@covers("HTTP-18", "HTTP-19")
def test_an_empty_authority_names_nothing_and_an_empty_field_names_something_that_is_not_valid():
    request = Request()
    assert endpoint_of(request) is Failure.ENDPOINT_MISSING
    request.endpoint_field = b""
    assert endpoint_of(request) is Failure.INVALID_ENDPOINT
