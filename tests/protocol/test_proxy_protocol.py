"""Every vector of ``spec/vectors/proxy_protocol.json``, whole and byte by byte."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pico.errors import RemoteProtocolError
from pico.protocol.proxy_protocol import ProxyHeader, read_proxy_header
from tests.rules import covers

Vector = dict[str, Any]

VECTORS: list[Vector] = json.loads(
    (Path(__file__).parents[2] / "spec" / "vectors" / "proxy_protocol.json").read_text()
)["vectors"]


def those_that(kind: str) -> pytest.MarkDecorator:
    chosen = [vector for vector in VECTORS if kind in vector]
    assert chosen
    return pytest.mark.parametrize("vector", chosen, ids=lambda vector: vector["name"])


@covers("PROXY-3", "PROXY-5", "PROXY-8", "PROXY-9", "PROXY-10", "PROXY-11", "PROXY-12")
@those_that("header_bytes")
def test_a_header_says_who_is_calling(vector: Vector) -> None:
    data, size = bytes.fromhex(vector["bytes"]), vector["header_bytes"]
    source = tuple(vector["source"]) if vector["source"] else None
    assert read_proxy_header(data) == (ProxyHeader(source, vector["tls"], vector["tls_version"]), size)
    for end in range(size):
        assert read_proxy_header(data[:end]) is None, f"{end} of {size} bytes are no header"


@covers("PROXY-1", "PROXY-3", "PROXY-4", "PROXY-6", "PROXY-7", "PROXY-8", "PROXY-10", "PROXY-11")
@those_that("refused")
def test_anything_else_is_refused(vector: Vector) -> None:
    with pytest.raises(RemoteProtocolError, match="PROXY"):
        read_proxy_header(bytes.fromhex(vector["bytes"]))


@covers("PROXY-4", "PROXY-7")
@those_that("incomplete")
def test_what_may_become_a_header_is_waited_for(vector: Vector) -> None:
    assert read_proxy_header(bytes.fromhex(vector["bytes"])) is None


@covers("PROXY-1")
@pytest.mark.parametrize("data", [b"X", b"PROXZ", b"\r\n\r\n\0\r\nQUIX", b"P\r", b"\r\r"])
def test_the_first_wrong_byte_is_enough(data: bytes) -> None:
    assert read_proxy_header(data[:-1]) is None
    with pytest.raises(RemoteProtocolError):
        read_proxy_header(data)


def test_nothing_may_become_everything() -> None:
    assert read_proxy_header(b"") is None
