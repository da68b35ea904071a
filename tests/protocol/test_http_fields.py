"""The table of names: a short cut that says the same as the long way, for requests and for responses."""

from __future__ import annotations

import pytest

from pico.protocol.http.fields import (
    REQUEST_KINDS,
    RESPONSE_KINDS,
    Kind,
    kind_in_request,
    kind_in_response,
    may_be_nominated,
    may_be_trailer,
)
from tests.rules import covers


@covers("HTTP-33", "HTTP-35")
@pytest.mark.parametrize("table, kind_of", [(REQUEST_KINDS, kind_in_request), (RESPONSE_KINDS, kind_in_response)])
def test_every_spelling_in_the_table_has_the_kind_of_its_name(table, kind_of):
    assert len(table) > 50
    for name, kind in table.items():
        assert kind_of(name) == kind_of(name.lower()) == kind, name


def test_the_usual_spellings_are_in_the_table():
    for name in (b"Host", b"host", b"User-Agent", b"Content-Length", b"TE", b"te", b"Sec-Fetch-Site", b"cookie"):
        assert name in REQUEST_KINDS
    for name in (b"Server", b"date", b"Content-Type", b"Set-Cookie", b"content-length", b"Connection"):
        assert name in RESPONSE_KINDS


@covers("HTTP-37", "HTTP-39", "HTTP-20")
@pytest.mark.parametrize(
    "name, kind",
    [
        (b"X-Forwarded-Anything", Kind.FORWARDING),
        (b"X-FORWARDED", Kind.ORDINARY),
        (b"x_forwarded_anything", Kind.HOP),
        (b"forwarded", Kind.FORWARDING),
        (b"x_request-id", Kind.HOP),
        (b"X-Pico-Anything", Kind.HOP),
        (b"x_pico_anything", Kind.HOP),
        (b"x-pico", Kind.ORDINARY),
        (b"content_length", Kind.ORDINARY),
    ],
)
def test_kinds_by_prefix_and_underscore(name, kind):
    assert kind_in_request(name) == kind


@covers("HTTP-34", "HTTP-27")
def test_names_that_pico_answers_for_are_neither_nominated_nor_trailers():
    for name in (b"x-forwarded-for", b"x-forwarded-user", b"x-pico-endpoint", b"forwarded", b"authorization", b"via"):
        assert not may_be_nominated(name)
        assert not may_be_trailer(name.upper())
    for name in (
        b"www-authenticate",
        b"content-security-policy",
        b"content-length",
        b"etag",
        b"vary",
        b"if-match",
        b"range",
    ):
        assert not may_be_nominated(name)
    assert may_be_nominated(b"x-foo")
    assert may_be_trailer(b"x-foo")
    assert not may_be_trailer(b"x_forwarded_for")
