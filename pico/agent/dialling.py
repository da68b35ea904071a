"""From a server's address to a registered connection, or to the reason why there is none.

Responsible for: one dial with its handshake, under one deadline. Refuses to know: when to dial and whom next
(``pico.protocol.tunnel``), and what the handshake must say (likewise).
"""

from __future__ import annotations

import os
import time
from base64 import b64encode
from collections.abc import Sequence
from ssl import SSLContext
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from pico import __version__
from pico.config import HttpLimits, address_text
from pico.errors import ConfigError, PicoError, RemoteProtocolError, TransportError
from pico.protocol.http import ResponseReader
from pico.protocol.http.values import ResponseHead
from pico.protocol.tunnel import Refusal, check_acceptance, node_of, refusal_of, registration_request
from pico.transport.blocking_reader import BlockingReader
from pico.transport.dial import dial
from pico.transport.stream import Stream

__all__ = ["Connected", "Server", "connect", "server_of"]

PORTS: Final = {"http": 80, "https": 443}
KEY_BYTES: Final = 16
REFUSAL_BYTES_MAX: Final = 8 * 1024
"""Body of a refusal that is read for its sentence."""

REFUSAL_S: Final = 1.0
"""How long that body is waited for."""

SWITCHING_PROTOCOLS: Final = 101


class Server(NamedTuple):
    """One upstream door that was given, or the balancer in front of several."""

    host: str
    port: int
    tls: bool

    def __str__(self) -> str:
        return address_text(self.host, self.port)


class Connected(NamedTuple):
    """A tunnel that was accepted and whose stream nobody reads yet."""

    stream: Stream
    leftover: bytes
    """What arrived behind the handshake (TUN-10)."""
    streaming: bool
    node: str = ""
    """Which node it leads to; empty when it did not say so."""


def server_of(url: str) -> Server:
    """The server that a URL names; raises ``ConfigError``."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ConfigError("--server", url, "a URL such as http://node.example:8002") from None
    if parts.scheme not in PORTS or not parts.hostname:
        raise ConfigError("--server", url, "a URL such as http://node.example:8002")
    return Server(parts.hostname, port if port is not None else PORTS[parts.scheme], parts.scheme == "https")


def connect(
    server: Server,
    endpoint_id: str,
    *,
    timeout_s: float,
    tls: SSLContext | None,
    limits: HttpLimits,
    elsewhere: Sequence[str] = (),
) -> Connected | Refusal | str:
    """Register at a server; a sentence says what failed. Blocks the calling greenlet only.

    ``elsewhere``: nodes that are asked to refuse, if they know another one.
    """
    until = time.monotonic() + timeout_s
    try:
        stream = dial(server.host, server.port, timeout_s=timeout_s, tls=tls)
    except TransportError as error:
        return str(error)
    kept = False
    try:
        outcome = _register(stream, server, endpoint_id, until, limits, elsewhere)
        kept = isinstance(outcome, Connected)
        return outcome
    except PicoError as error:
        return str(error)
    finally:
        if not kept:
            stream.abort()


def _register(
    stream: Stream, server: Server, endpoint_id: str, until: float, limits: HttpLimits, elsewhere: Sequence[str]
) -> Connected | Refusal:
    key = b64encode(os.urandom(KEY_BYTES))
    reader, answer = BlockingReader(stream), ResponseReader(limits, of_node=True)
    answer.begin(b"GET", b"websocket")
    agent = f"pico-agent/{__version__}"
    stream.write(registration_request(endpoint_id, host=str(server), key=key, agent=agent, elsewhere=elsewhere))
    while True:
        head = _next_head(reader, answer, until)
        if head.status == SWITCHING_PROTOCOLS:
            streaming = check_acceptance(head, key)
            return Connected(stream, answer.take_rest() + reader.detach(), streaming, node_of(head))
        if head.status >= 200:
            return refusal_of(head, _body_of_refusal(reader, answer, until))


def _next_head(reader: BlockingReader, answer: ResponseReader, until: float) -> ResponseHead:
    while (head := answer.next_head()) is None:
        data = reader.receive(max(0.0, until - time.monotonic()))
        if not data:
            raise RemoteProtocolError("the server closed the connection during the handshake")
        answer.receive_data(data)
    return head


def _body_of_refusal(reader: BlockingReader, answer: ResponseReader, until: float) -> bytes:
    """As much of it as comes soon; it is only for the log."""
    until = min(until, time.monotonic() + REFUSAL_S)
    body = b""
    try:
        while len(body) < REFUSAL_BYTES_MAX:
            data, end = answer.next_body()
            body += data
            if end:
                break
            if not data:
                data = reader.receive(max(0.0, until - time.monotonic()))
                answer.receive_data(data) if data else answer.receive_eof()
    except PicoError:
        pass
    return body
