"""Chunks on the way out, and the bounds of the decoder; what a chunked body may look like is among the vectors."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pico.config import HttpLimits
from pico.protocol.http import LAST_CHUNK, RequestReader, RequestRejected, encode_chunk, last_chunk
from pico.protocol.http.framing import ChunkedDecoder
from tests.rules import covers

START = b"POST / HTTP/1.1\r\nHost: a.b\r\nTransfer-Encoding: chunked\r\n\r\n"


@covers("HTTP-26")
def test_a_chunk_says_its_size_in_hexadecimal():
    assert encode_chunk(b"hello") == b"5\r\nhello\r\n"
    assert encode_chunk(b"x" * 26) == b"1a\r\n" + b"x" * 26 + b"\r\n"
    assert last_chunk() == last_chunk(b"") == LAST_CHUNK == b"0\r\n\r\n"


@covers("HTTP-27")
def test_trailers_lose_the_names_that_no_trailer_may_have_also_on_the_way_out():
    block = b"X-Sum: 1\r\nset-cookie: a:b\r\nHost: evil\r\nX-Pico-Error: x\r\nDate: x\r\ngrpc-status: 0\r\n"
    assert last_chunk(block) == b"0\r\nX-Sum: 1\r\ngrpc-status: 0\r\n\r\n"


@covers("HTTP-26", "HTTP-24")
def test_what_is_encoded_can_be_decoded():
    wire = encode_chunk(b"hello") + encode_chunk(b"\r\n0\r\n\r\n") + last_chunk(b"X-Sum: 1\r\n")
    decoder = ChunkedDecoder(HttpLimits())
    assert decoder.decode(wire + b"rest", 0) == (b"hello\r\n0\r\n\r\n", len(wire), True)
    assert decoder.trailers == [b"X-Sum: 1\r\n"]


@covers("HTTP-63")
def test_body_bytes_are_handed_out_at_once_and_only_a_line_is_held():
    reader = RequestReader(HttpLimits())
    reader.receive_data(START)
    assert reader.next_head() is not None
    reader.receive_data(b"400\r\n" + b"x" * 1000)
    assert reader.next_body() == (b"x" * 1000, False)
    assert reader.buffered == 0
    reader.receive_data(b"y" * 24 + b"\r\n5;" + b"z" * 1000)
    assert reader.next_body() == (b"y" * 24, False)
    assert reader.buffered == 1002
    reader.receive_data(b"z" * 22)
    assert reader.next_body() == (b"", False)
    reader.receive_data(b"z")
    with pytest.raises(RequestRejected):
        reader.next_body()
    assert reader.buffered == 0


@covers("HTTP-63")
@pytest.mark.parametrize(
    "message, body_bytes",
    [
        (b"POST / HTTP/1.1\r\nHost: a.b\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000, 100_000),
        (START + b"186a0\r\n" + b"x" * 100_000 + b"\r\n0\r\n\r\n", 100_000),
        (b"GET / HTTP/1.1\r\nHost: a.b\r\nA: %b\r\n\r\n" % (b"x" * 8000), 0),
    ],
    ids=["length", "chunked", "none"],
)
def test_of_a_read_that_was_used_to_its_end_nothing_is_held(message, body_bytes):
    reader = RequestReader(HttpLimits())
    reader.receive_data(message)
    assert reader.next_head() is not None
    body, end = reader.next_body()
    assert (len(body), end) == (body_bytes, True)
    assert (len(reader._buffer), reader.started) == (0, False)
    reader.receive_data(message)
    assert reader.next_head() is not None


@covers("HTTP-27", "HTTP-63")
def test_a_trailer_section_is_bounded_over_all_its_lines():
    limits = replace(HttpLimits(), trailer_bytes_max=20)
    line = b"A: 3456\r\n"  # 9 bytes
    for lines, good in ((2, True), (3, False)):
        decoder = ChunkedDecoder(limits)
        wire = b"0\r\n" + line * lines + b"\r\n"
        if good:
            assert decoder.decode(wire, 0) == (b"", len(wire), True)
        else:
            with pytest.raises(Exception, match="trailer section"):
                decoder.decode(wire, 0)


@covers("HTTP-27")
def test_a_trailer_section_may_be_as_large_as_the_limit():
    limits = replace(HttpLimits(), trailer_bytes_max=9, fields_max=1)
    assert ChunkedDecoder(limits).decode(b"0\r\nA: 3456\r\n\r\n", 0)[2]
    with pytest.raises(Exception, match="trailer section"):
        ChunkedDecoder(limits).decode(b"0\r\nA: 345678\r\n\r\n", 0)


@covers("HTTP-25")
@pytest.mark.parametrize("extension, good", [(1019, True), (1020, False)])
def test_a_chunk_line_may_be_as_long_as_the_limit(extension, good):
    decoder = ChunkedDecoder(HttpLimits())
    wire = b"a;" + b"x" * (extension + 1) + b"\r\n" + b"0123456789\r\n"
    if good:
        assert decoder.decode(wire, 0)[0] == b"0123456789"
    else:
        with pytest.raises(Exception, match="too long"):
            decoder.decode(wire, 0)


@covers("HTTP-25")
def test_overhead_is_forgiven_by_data():
    decoder = ChunkedDecoder(HttpLimits())
    chunk = b"200;" + b"x" * 1000 + b"\r\n" + b"y" * 512 + b"\r\n"  # 1,008 bytes of framing, 16 + 1,024 allowed
    for _ in range(100):
        assert decoder.decode(chunk, 0) == (b"y" * 512, len(chunk), False)


@covers("HTTP-25")
def test_overhead_gathers_over_chunks():
    decoder = ChunkedDecoder(HttpLimits())
    chunk = b"1;" + b"x" * 1000 + b"\r\ny\r\n"  # 1,006 bytes of framing, 18 allowed: 988 remain
    for _ in range(16):
        decoder.decode(chunk, 0)
    with pytest.raises(Exception, match="proportion"):
        decoder.decode(chunk, 0)


@covers("HTTP-29")
@pytest.mark.parametrize("framing", [b"Content-Length: 11\r\n", b"Transfer-Encoding: chunked\r\n"])
def test_a_body_over_the_limit(framing):
    reader = RequestReader(replace(HttpLimits(), body_bytes_max=10))
    reader.receive_data(b"POST / HTTP/1.1\r\nHost: a.b\r\n" + framing + b"\r\n")
    if b"Length" in framing:
        with pytest.raises(RequestRejected) as caught:
            reader.next_head()
    else:
        assert reader.next_head() is not None
        reader.receive_data(b"a\r\n0123456789\r\n")
        assert reader.next_body() == (b"0123456789", False)
        reader.receive_data(b"1\r\n0\r\n")
        with pytest.raises(RequestRejected) as caught:
            reader.next_body()
    assert caught.value.failure.status == 413


@covers("HTTP-29")
@pytest.mark.parametrize(
    "framing, body",
    [(b"Content-Length: 10\r\n", b"0123456789"), (b"Transfer-Encoding: chunked\r\n", b"a\r\n0123456789\r\n0\r\n\r\n")],
)
def test_a_body_as_large_as_the_limit(framing, body):
    reader = RequestReader(replace(HttpLimits(), body_bytes_max=10))
    reader.receive_data(b"POST / HTTP/1.1\r\nHost: a.b\r\n" + framing + b"\r\n" + body)
    assert reader.next_head() is not None
    assert reader.next_body() == (b"0123456789", True)
