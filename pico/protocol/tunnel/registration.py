"""The opening handshake of a tunnel: what the agent asks, what the door answers, what an answer means.

Responsible for: the path that names the endpoint, the checks that make a request a registration, the refusals with
their statuses and their form, and whether a refusal may pass. Refuses to know: how heads are parsed
(``pico.protocol.http``), how an acceptance is written, and the limits of a door.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Iterable, Sequence
from hashlib import sha1
from typing import Final, NamedTuple, Protocol

from pico.errors import RemoteProtocolError
from pico.protocol.gossip.values import valid_name
from pico.protocol.http.endpoint import endpoint_id
from pico.protocol.http.failures import REASONS
from pico.protocol.http.values import ResponseHead

__all__ = [
    "ELSEWHERE",
    "HOPELESS_STATUSES",
    "LISTENER_PATH",
    "NODE_FIELD",
    "PROXY_CODES",
    "SUBPROTOCOL",
    "Refusal",
    "Registration",
    "RegistrationRefused",
    "check_acceptance",
    "check_registration",
    "listener_path",
    "node_of",
    "printable",
    "refusal_of",
    "refusal_response",
    "registration_request",
    "retry_after_s",
    "told",
]

LISTENER_PATH: Final = "/pico/v1/listener/"
SUBPROTOCOL: Final = "pico.stream.v1"
NODE_FIELD: Final = "x-pico-node"
ELSEWHERE_FIELD: Final = "x-pico-elsewhere"
ELSEWHERE_MAX: Final = 16
"""Nodes named in one handshake; what stands behind them is not looked at."""

ELSEWHERE: Final = "elsewhere"
"""The code of a refusal by a node that knows a better one (TUN-36)."""

VERSION: Final = b"13"
REASON_CHARACTERS_MAX: Final = 200
ACCEPT_SALT: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
"""RFC 6455 §1.3."""

HOPELESS_STATUSES: Final = frozenset((400, 401, 403, 404))
"""Answers to a registration that asking again does not change (TUN-26)."""

NOT_THERE_STATUSES: Final = frozenset((404, 405))
"""What a server says that does not know the path of a registration; 401 and 5xx may come from a balancer in front."""

PROXY_CODES: Final = frozenset(("endpoint_missing", "endpoint_not_found"))
"""What only the proxy door of a node says."""

ADMIN_CODE: Final = "not_found"
"""What an upstream door does not say to an agent, whose path is always right; an admin door does."""

OTHER_DOOR: Final = "this is a node's port for clients; agents connect to its upstream port, 8002 by default"
ADMIN_DOOR: Final = (
    "this is an admin port, or no port of a node; agents connect to a node's upstream port, 8002 by default"
)
NO_DOOR: Final = "said by something that is no upstream port of a node"

_REASONS: Final = {**REASONS, 404: b"Not Found", 426: b"Upgrade Required"}

_DELTA_SECONDS = re.compile(rb"[0-9]{1,9}")
_KEY = re.compile(rb"[A-Za-z0-9+/]{22}==")  # 16 bytes in base64


class Registration(NamedTuple):
    """A valid wish to serve an endpoint."""

    endpoint_id: str
    key: bytes
    """``Sec-WebSocket-Key``, to be answered in ``Sec-WebSocket-Accept``."""
    streaming: bool
    """Whether the streaming extension was offered; it is then accepted (TUN-6)."""
    elsewhere: tuple[str, ...] = ()
    """Nodes at which the agent would rather not be; it will take no for an answer if there are any (TUN-35)."""


class RegistrationRefused(RemoteProtocolError):
    """The door says no: ``status``, a machine-readable ``code``, and the sentence that is the error's text."""

    def __init__(self, status: int, code: str, detail: str, fields: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.fields = fields
        """Fields that the answer must carry beside those of every refusal."""


class Refusal(NamedTuple):
    """An answer other than 101 that the agent got."""

    status: int
    reason: str
    retry_after_s: float | None = None
    by_node: bool = False
    """Whether a node said so, in the form of TUN-8, and not something in front of it."""
    code: str = ""
    """The node's word for it."""


class _Handshake(Protocol):
    """What is looked at of a parsed request (``pico.protocol.http.Request``)."""

    @property
    def method(self) -> bytes: ...

    @property
    def target(self) -> bytes: ...

    @property
    def minor(self) -> int: ...

    @property
    def fields(self) -> list[tuple[bytes, bytes, bytes]]: ...


def listener_path(endpoint: str) -> str:
    """The path at which a valid endpoint ID is registered (TUN-1)."""
    return LISTENER_PATH + endpoint


def check_registration(request: _Handshake) -> Registration:
    """The registration that this request is; raises ``RegistrationRefused`` when it is none."""
    endpoint = _endpoint(request.target)
    _check_upgrade(request)
    key = _only(request, b"sec-websocket-key")
    if not _KEY.fullmatch(key):  # TUN-2
        raise _bad("Sec-WebSocket-Key is not 16 bytes in base64")
    streaming = SUBPROTOCOL.encode() in _tokens(request, b"sec-websocket-protocol")  # TUN-6
    return Registration(endpoint, key, streaming, _nodes_in(request))


def _nodes_in(request: _Handshake) -> tuple[str, ...]:
    """TUN-35; what is no node ID is passed over."""
    named = (token.decode("latin-1") for token in _tokens(request, ELSEWHERE_FIELD.encode()))
    return tuple(name for name in named if valid_name(name))[:ELSEWHERE_MAX]


def _endpoint(target: bytes) -> str:
    path = target.partition(b"?")[0]
    prefix = LISTENER_PATH.encode()
    if not path.startswith(prefix):  # TUN-4
        raise RegistrationRefused(404, "not_found", f"only {LISTENER_PATH}<endpoint ID> is served on this port")
    try:
        return endpoint_id(path[len(prefix) :])
    except RemoteProtocolError as invalid:  # TUN-3
        raise RegistrationRefused(400, "invalid_endpoint", str(invalid)) from invalid


def _check_upgrade(request: _Handshake) -> None:
    if request.method != b"GET":  # TUN-2
        raise _bad("the method of a WebSocket handshake is GET")
    if request.minor < 1:
        raise _bad("a WebSocket handshake needs HTTP/1.1")
    if b"upgrade" not in _lower_tokens(request, b"connection"):
        raise _bad("Connection does not list upgrade")
    if _lower_tokens(request, b"upgrade") != [b"websocket"]:
        raise _bad("Upgrade does not ask for websocket")
    if _only(request, b"sec-websocket-version") != VERSION:  # TUN-5
        raise RegistrationRefused(
            426, "version_not_supported", "WebSocket version 13 is needed", (("Sec-WebSocket-Version", "13"),)
        )


def _bad(detail: str) -> RegistrationRefused:
    return RegistrationRefused(400, "bad_request", detail)


def _values(request: _Handshake, name: bytes) -> list[bytes]:
    return [value for _, lower, value in request.fields if lower == name]


def _only(request: _Handshake, name: bytes) -> bytes:
    values = _values(request, name)
    if len(values) != 1:
        raise _bad(f"{name.decode()} must be there exactly once")
    return values[0]


def _tokens(request: _Handshake, name: bytes) -> list[bytes]:
    members = b",".join(_values(request, name)).split(b",")
    return [token for token in (member.strip(b" \t") for member in members) if token]


def _lower_tokens(request: _Handshake, name: bytes) -> list[bytes]:
    return [token.lower() for token in _tokens(request, name)]


def refusal_response(status: int, code: str, sentence: str, fields: Iterable[tuple[str, str]] = ()) -> bytes:
    """The answer of a door that refuses; the connection must end after it (TUN-8)."""
    body = json.dumps({"error": {"code": code, "message": sentence}}).encode() + b"\n"
    lines = [
        b"HTTP/1.1 %d %b" % (status, _REASONS[status]),
        b"Content-Type: application/json",
        b"Content-Length: %d" % len(body),
        b"x-pico-error: " + code.encode(),
        b"Connection: close",
        *(f"{name}: {value}".encode("latin-1") for name, value in fields),
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


# The agent's side.


def registration_request(endpoint: str, *, host: str, key: bytes, agent: str, elsewhere: Sequence[str] = ()) -> bytes:
    """The head that asks for a tunnel (TUN-1, TUN-6); ``key`` is ``Sec-WebSocket-Key``, fresh and in base64."""
    nodes = ", ".join(elsewhere[:ELSEWHERE_MAX])
    lines = (
        f"GET {listener_path(endpoint)} HTTP/1.1",
        f"Host: {host}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key.decode('ascii')}",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Protocol: {SUBPROTOCOL}",
        f"User-Agent: {agent}",
        *([f"{ELSEWHERE_FIELD}: {nodes}"] if nodes else []),  # TUN-35
        "\r\n",
    )
    return "\r\n".join(lines).encode("latin-1")


def check_acceptance(head: ResponseHead, key: bytes) -> bool:
    """Whether an answer with 101 accepts the streaming extension; raises ``RemoteProtocolError`` if it accepts nothing.

    That it switches to the WebSocket protocol was checked by who read it (TUN-9).
    """
    expected = b64encode(sha1(key + ACCEPT_SALT, usedforsecurity=False).digest())
    if _values_in(head.field_block, b"sec-websocket-accept") != [expected]:
        raise RemoteProtocolError("the answer to the handshake has not the right Sec-WebSocket-Accept")
    if _values_in(head.field_block, b"sec-websocket-extensions"):
        raise RemoteProtocolError("the server chose an extension that was not offered")
    chosen = _values_in(head.field_block, b"sec-websocket-protocol")
    if chosen not in ([], [SUBPROTOCOL.encode()]):
        raise RemoteProtocolError("the server chose a subprotocol that was not offered")
    return bool(chosen)


def node_of(head: ResponseHead) -> str:
    """Which node has accepted; nothing when it does not say so in a way that can be understood (TUN-34)."""
    named = [value.decode("latin-1") for value in _values_in(head.field_block, NODE_FIELD.encode())]
    return named[0] if len(named) == 1 and valid_name(named[0]) else ""


def refusal_of(head: ResponseHead, body: bytes) -> Refusal:
    """What an answer other than 101 says; ``body`` may be cut short."""
    retry_after = _values_in(head.field_block, b"retry-after")
    code, sentence = _error_in(body)
    return Refusal(
        head.status,
        printable(sentence or head.reason.decode("latin-1")),
        retry_after_s(retry_after[0]) if len(retry_after) == 1 else None,
        by_node=bool(sentence),
        code=code,
    )


def told(refusal: Refusal) -> str:
    """What is said of a refusal to whoever runs the agent."""
    said = f"{refusal.status} {refusal.reason}".strip()
    foreign = refusal.status < 400 or refusal.status in NOT_THERE_STATUSES
    return printable(f"{said}, {NO_DOOR}" if foreign and not refusal.by_node else said)


def _error_in(body: bytes) -> tuple[str, str]:
    """Code and sentence of a node's refusal (TUN-8), or nothing."""
    try:
        error = json.loads(body)["error"]
        code, sentence = error["code"], error["message"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return "", ""
    if not isinstance(code, str) or not isinstance(sentence, str):
        return "", ""
    if code == ADMIN_CODE:
        return code, ADMIN_DOOR
    return code, OTHER_DOOR if code in PROXY_CODES else sentence


def _values_in(block: bytes, name: bytes) -> list[bytes]:
    lines = (line.partition(b":") for line in block.split(b"\r\n"))
    return [value.strip(b" \t") for field, _, value in lines if field.lower() == name]


def retry_after_s(value: bytes | None) -> float | None:
    """The seconds of a ``Retry-After`` field; None for a date or for anything else (TUN-25)."""
    return float(value) if value is not None and _DELTA_SECONDS.fullmatch(value) else None


def printable(text: str) -> str:
    """A text of the peer's as a log may have it: one short line, nothing that a terminal obeys (TUN-33)."""
    return "".join(c if c.isprintable() else "?" for c in text[:REASON_CHARACTERS_MAX])
