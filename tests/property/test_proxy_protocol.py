"""Headers of the PROXY protocol as a balancer writes them, and any bytes at all (``spec/proxy_protocol.md``)."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address

from hypothesis import given
from hypothesis import strategies as st

from pico.errors import RemoteProtocolError
from pico.protocol.proxy_protocol import HEADER_BYTES_MAX, ProxyHeader, read_proxy_header
from tests.rules import covers

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"

ports = st.integers(0, 65535)
version_4 = st.integers(0, 2**32 - 1).map(IPv4Address)
version_6 = st.integers(2**64, 2**128 - 1).map(IPv6Address)
ends = st.one_of(st.tuples(version_4, version_4), st.tuples(version_6, version_6))
extensions = st.lists(
    st.tuples(st.integers(0, 255).filter(lambda kind: kind != 0x20), st.binary(max_size=40)), max_size=4
)


def as_line(source, destination, port, other) -> bytes:
    family = "TCP4" if source.version == 4 else "TCP6"
    return f"PROXY {family} {source} {destination} {port} {other}\r\n".encode()


def extension(kind: int, value: bytes) -> bytes:
    return struct.pack(">BH", kind, len(value)) + value


def as_bytes(source, destination, port, other, block: bytes = b"") -> bytes:
    family = 0x11 if source.version == 4 else 0x21
    body = source.packed + destination.packed + struct.pack(">HH", port, other) + block
    return SIGNATURE + struct.pack(">BBH", 0x21, family, len(body)) + body


@covers("PROXY-3", "PROXY-12")
@given(ends, ports, ports, st.binary(max_size=20))
def test_a_line_is_read_as_it_was_written(ends, port, other, rest):
    line = as_line(*ends, port, other)
    assert read_proxy_header(line + rest) == (ProxyHeader((str(ends[0]), port)), len(line))


@covers("PROXY-10", "PROXY-11", "PROXY-12")
@given(ends, ports, ports, extensions, st.none() | st.sampled_from(["", "TLSv1.2", "TLSv1.3"]), st.binary(max_size=20))
def test_bytes_are_read_as_they_were_written(ends, port, other, more, tls, rest):
    block = b"".join(extension(*one) for one in more)
    if tls is not None:
        block += extension(0x20, b"\x01" + bytes(4) + extension(0x21, tls.encode()))
    header = as_bytes(*ends, port, other, block)
    expected = ProxyHeader((str(ends[0]), port), tls is not None, tls or "")
    assert read_proxy_header(header + rest) == (expected, len(header))


@covers("PROXY-1")
@given(ends, ports, ports, st.booleans(), st.data())
def test_a_beginning_is_waited_for(ends, port, other, binary, data):
    header = (as_bytes if binary else as_line)(*ends, port, other)
    assert read_proxy_header(header[: data.draw(st.integers(0, len(header) - 1))]) is None


@covers("PROXY-1", "PROXY-3", "PROXY-6", "PROXY-8", "PROXY-10")
@given(
    st.one_of(
        st.binary(max_size=120),
        st.binary(max_size=60).map(lambda rest: b"PROXY " + rest),
        st.binary(max_size=120).map(lambda rest: SIGNATURE + rest),
        st.binary(max_size=80).map(lambda body: SIGNATURE + b"\x21\x11" + struct.pack(">H", len(body)) + body),
    )
)
def test_any_bytes_are_a_header_or_not_yet_one_or_refused(data):
    """And more bytes change nothing of what was said of fewer, unless that was not yet."""
    try:
        answer = read_proxy_header(data)
    except RemoteProtocolError:
        answer = "refused"
    else:
        if answer is not None:
            assert answer[1] <= min(len(data), HEADER_BYTES_MAX)
    if answer is not None:
        try:
            again = read_proxy_header(data + b"more")
        except RemoteProtocolError:
            again = "refused"
        assert again == answer
