"""Many upstreams in one process, each a socket and nothing else: what speaks the base protocol by hand.

Responsible for: registering, and finding out whether a tunnel carries a message each way. Refuses to know: TLS contexts
and nodes; the test gives both.
"""

from __future__ import annotations

import base64
import os
import socket
import ssl
from struct import Struct

__all__ = ["BareUpstream"]

WAIT_S = 20.0
HEARTBEAT = 1
RESPONSE = 0x8000
HEADER = Struct(">HQH")
BINARY = 0x82
MASKED = 0x80


class BareUpstream:
    """One registration of an endpoint, by a WebSocket over TLS."""

    def __init__(self, host: str, port: int, endpoint: str, context: ssl.SSLContext) -> None:
        plain = socket.create_connection((host, port), timeout=WAIT_S)
        self._sock = context.wrap_socket(plain, server_hostname=host)
        self.serial = serial_of(self._sock)
        key = base64.b64encode(os.urandom(16)).decode()
        self._sock.sendall(
            f"GET /pico/v1/listener/{endpoint} HTTP/1.1\r\nHost: node\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
        )
        self._rest = b""
        while b"\r\n\r\n" not in self._rest:
            self._rest += self._receive()
        head, _, self._rest = self._rest.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 "), head

    def answers(self, number: int) -> bool:
        """Whether a heartbeat of ours comes back."""
        message = HEADER.pack(HEARTBEAT, number, 0)
        self._sock.sendall(bytes((BINARY, MASKED | len(message))) + bytes(4) + message)
        while len(self._rest) < 2 + len(message):
            self._rest += self._receive()
        frame, self._rest = self._rest[: 2 + len(message)], self._rest[2 + len(message) :]
        return frame == bytes((BINARY, len(message))) + HEADER.pack(HEARTBEAT, number, RESPONSE)

    def close(self) -> None:
        self._sock.close()

    def _receive(self) -> bytes:
        data = self._sock.recv(65536)
        assert data, "the node has ended the connection"
        return data


def serial_of(sock: ssl.SSLSocket) -> int:
    """Of the certificate that the peer has shown."""
    shown = sock.getpeercert()
    assert shown is not None
    return int(str(shown["serialNumber"]), 16)
