"""What a balancer says before the first byte of its client: the header of the PROXY protocol at a door.

Responsible for: waiting for it in time, and giving the connection the name that is in it. Refuses to know: what a
header looks like (``pico.protocol.proxy_protocol``), and what the client says then.
"""

from __future__ import annotations

from math import inf
from typing import Final, NamedTuple

from pico.errors import ConnectionLost
from pico.protocol.proxy_protocol import read_proxy_header
from pico.transport.blocking_reader import BlockingReader
from pico.transport.clock import Clock
from pico.transport.stream import SocketStream

__all__ = ["NO_PREFACE", "Preface", "read_preface"]


class Preface(NamedTuple):
    """What is known of a connection before its client has said a word."""

    rest: bytes = b""
    """The beginning of what the client says, where it came with the header."""

    scheme: str = "http"
    tls_version: str = ""
    head_until: float = inf
    """When the client's first head has to be complete, on the clock of the door."""


NO_PREFACE: Final = Preface()


def read_preface(stream: SocketStream, clock: Clock, timeout_s: float) -> Preface:
    """Read a header; from now on the stream's peer is the one that it names. Blocks the calling greenlet.

    Raises ``RemoteProtocolError``, ``TransportTimeout`` and ``ConnectionLost``; the caller closes then.
    """
    until = clock.now() + timeout_s
    reader = BlockingReader(stream, clock)
    data = b""
    while (found := read_proxy_header(data)) is None:
        piece = reader.receive(max(0.001, until - clock.now()))
        if not piece:
            raise ConnectionLost("the connection ended before its PROXY header was complete")
        data += piece
    header, size = found
    if header.source is not None:
        stream.peer_host, stream.peer_port = header.source  # PROXY-15
    rest = data[size:] + reader.detach()  # PROXY-12
    return Preface(rest, "https" if header.tls else "http", header.tls_version, until)
