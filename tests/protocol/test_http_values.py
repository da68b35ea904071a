"""What may stand in the field block of a head that travels."""

from __future__ import annotations

import pytest

from pico.protocol.http import valid_field_block
from tests.rules import covers


@covers("HTTP-36")
@pytest.mark.parametrize(
    "block",
    [
        b"",
        b"A: b\r\n",
        b"a:\r\n",
        b"!#$%&'*+-.^_`|~09AZaz: \t \xff\x80~\r\nB:c\r\n",
        b"TE: trailers\r\n",
        b"te:\tTrailers \r\n",
        b"Trailer: x\r\n",
        (
            b"Connections: x\r\nX-Connection: y\r\nUpgrade-Insecure-Requests: 1\r\nKeep-Alive-Too: z\r\n"
            b"T: u\r\nTest: v\r\n"
        ),
        b"A: Connection: close\r\n",
    ],
)
def test_blocks_that_are_valid(block):
    assert valid_field_block(block)
    assert valid_field_block(b"X: y\r\n" + block + b"Z: z\r\n")


@covers("HTTP-36")
@pytest.mark.parametrize(
    "block",
    [
        b"A: b",
        b"A: b\n",
        b"A: b\r",
        b"\r\n",
        b"A: b\r\n\r\n",
        b": b\r\n",
        b"A\r\n",
        b"A : b\r\n",
        b" A: b\r\n",
        b"A: b\r\n c\r\n",
        b"A: \x00\r\n",
        b"A: \x7f\r\n",
        b"A: b\rc\r\n",
        b"A: b\nC: d\r\n",
        b"\xff: b\r\n",
        b"Connection: x\r\n",
        b"CONNECTION:x\r\n",
        b"keep-alive: x\r\n",
        b"Proxy-Connection: x\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"transfer-encoding: chunked\r\n",
        b"Content-Length: 3\r\n",
        b"content-lengtH: 3\r\n",
        b"Upgrade: x\r\n",
        b"TE: gzip\r\n",
        b"TE: trailers, gzip\r\n",
        b"te:\r\n",
        b"TE: trailersx\r\n",
    ],
)
def test_blocks_that_are_not(block):
    assert not valid_field_block(block)
    assert not valid_field_block(b"X: y\r\n" + block)
