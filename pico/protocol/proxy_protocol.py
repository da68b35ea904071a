"""The header of the PROXY protocol, versions 1 and 2 (``spec/proxy_protocol.md``).

Responsible for: which bytes are a header, where it ends, and who it says is calling. Refuses to know: whose word is
taken for that, and how long anyone waits for it.

A header is small and comes once in the life of a connection, so there is no state: the bytes that there are, are looked
at again when more have come.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final

from pico.errors import RemoteProtocolError

__all__ = ["HEADER_BYTES_MAX", "LINE_BYTES_MAX", "ProxyHeader", "read_proxy_header"]

LINE_BYTES_MAX: Final = 107
"""A header of version 1, with its CRLF."""

HEADER_BYTES_MAX: Final = 2048
"""A header of version 2, with what stands behind the addresses."""

TLS_VERSION_CHARACTERS_MAX: Final = 16

_SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
_WORD: Final = b"PROXY "
_PREFIX_BYTES: Final = 16  # of version 2: signature, version and command, family and transport, length
_LINE = re.compile(rb"PROXY (TCP4|TCP6) ([!-~]+) ([!-~]+) (0|[1-9][0-9]{0,4}) (0|[1-9][0-9]{0,4})\r\n").fullmatch
_UNKNOWN = re.compile(rb"PROXY UNKNOWN(?: [^\r\n]*)?\r\n").fullmatch
_VISIBLE = re.compile(rb"[!-~]*").fullmatch

_LOCAL, _PROXY = 0x0, 0x1
_FAMILIES_MAX, _TRANSPORTS_MAX = 0x3, 0x2
_ADDRESS_BYTES: Final = {0x0: 0, 0x1: 12, 0x2: 36, 0x3: 216}  # by family: none, IPv4, IPv6, Unix
_STREAMS: Final = {0x11: 4, 0x21: 16}  # TCP over IPv4 and over IPv6: bytes of one address
_TYPE_TLS, _SUBTYPE_VERSION = 0x20, 0x21
_OVER_TLS: Final = 0x01


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """Who is calling; without a ``source`` it is the one at the other end of the connection itself."""

    source: tuple[str, int] | None = None
    tls: bool = False
    tls_version: str = ""


def read_proxy_header(data: bytes) -> tuple[ProxyHeader, int] | None:
    """The header at the beginning of ``data`` and its length, or None when it is not complete.

    Raises ``RemoteProtocolError`` as soon as the bytes cannot become one.
    """
    if _SIGNATURE.startswith(data[: len(_SIGNATURE)]):  # PROXY-1
        return _read_binary(data) if len(data) >= _PREFIX_BYTES else None
    if _WORD.startswith(data[: len(_WORD)]):
        return _read_line(data)
    raise RemoteProtocolError("no PROXY header")


def _read_line(data: bytes) -> tuple[ProxyHeader, int] | None:
    size = data.find(b"\n", 0, LINE_BYTES_MAX) + 1
    if not size:
        if len(data) >= LINE_BYTES_MAX:  # PROXY-4
            raise RemoteProtocolError(f"a PROXY line of more than {LINE_BYTES_MAX} bytes")
        return None
    line = data[:size]
    if _UNKNOWN(line):  # PROXY-5
        return ProxyHeader(), size
    match = _LINE(line)
    if match is None:
        raise RemoteProtocolError("a malformed PROXY line")
    family, source, destination, port, other_port = match.groups()
    _numeric(family, destination)
    if int(other_port) > 65535 or int(port) > 65535:
        raise RemoteProtocolError("a PROXY line with a port above 65535")
    return ProxyHeader((_numeric(family, source), int(port))), size


def _numeric(family: bytes, address: bytes) -> str:
    """PROXY-3."""
    text = address.decode("ascii")
    try:
        if family == b"TCP4":
            return str(IPv4Address(text))
        if "%" not in text:
            return _shown(IPv6Address(text))
    except AddressValueError:
        pass
    raise RemoteProtocolError(f"a PROXY line with no address of {family.decode()}")


def _shown(address: IPv6Address) -> str:
    """An IPv4 address in the clothes of IPv6 is written as what it is."""
    return str(address.ipv4_mapped or address)


def _read_binary(data: bytes) -> tuple[ProxyHeader, int] | None:
    version, command = divmod(data[12], 16)
    family, transport = divmod(data[13], 16)
    length = int.from_bytes(data[14:16])
    if version != 2 or command not in (_LOCAL, _PROXY):  # PROXY-6
        raise RemoteProtocolError("a PROXY header of a version or with a command that there is not")
    if family > _FAMILIES_MAX or transport > _TRANSPORTS_MAX:
        raise RemoteProtocolError("a PROXY header of a family or transport that there is not")
    if _PREFIX_BYTES + length > HEADER_BYTES_MAX:  # PROXY-7, before any of it is waited for
        raise RemoteProtocolError(f"a PROXY header of more than {HEADER_BYTES_MAX} bytes")
    if command == _PROXY and length < _ADDRESS_BYTES[family]:  # PROXY-8
        raise RemoteProtocolError("a PROXY header that is shorter than its addresses")
    size = _PREFIX_BYTES + length
    if len(data) < size:
        return None
    address_bytes = _STREAMS.get(data[13])
    if command == _LOCAL or address_bytes is None:  # PROXY-9
        return ProxyHeader(), size
    source = data[16 : 16 + address_bytes]
    ports = 16 + 2 * address_bytes
    host = str(IPv4Address(source)) if address_bytes == 4 else _shown(IPv6Address(source))
    tls, tls_version = _tls(data[ports + 4 : size])
    return ProxyHeader((host, int.from_bytes(data[ports : ports + 2])), tls, tls_version), size


def _tls(block: bytes) -> tuple[bool, str]:
    """PROXY-11: whether the client came over TLS, and by which version."""
    value = _extensions(block).get(_TYPE_TLS)
    if value is None:
        return False, ""
    if len(value) < 5:
        raise RemoteProtocolError("a PROXY header whose word on TLS is cut short")
    if not value[0] & _OVER_TLS:
        return False, ""
    version = _extensions(value[5:]).get(_SUBTYPE_VERSION, b"")
    known = len(version) <= TLS_VERSION_CHARACTERS_MAX and _VISIBLE(version)
    return True, version.decode("ascii") if known else ""


def _extensions(block: bytes) -> dict[int, bytes]:
    """By their type, the last of each. PROXY-10."""
    found: dict[int, bytes] = {}
    at = 0
    while at < len(block):
        end = at + 3 + int.from_bytes(block[at + 1 : at + 3])
        if end > len(block):  # also where the length itself is cut short
            raise RemoteProtocolError("a PROXY header whose extensions do not fit into it")
        found[block[at]] = block[at + 3 : end]
        at = end
    return found
