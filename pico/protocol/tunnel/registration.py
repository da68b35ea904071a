"""The opening handshake of a tunnel: what the agent asks, what the door answers, what an answer means.

Responsible for: the path that names the endpoint, the checks that make a request a registration, the refusals with
their statuses, and whether a refusal can heal. Refuses to know: how heads are parsed and written
(``pico.protocol.http`` and the WebSocket code of the transport floor), and the limits of a door.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple, Protocol

from pico.errors import RemoteProtocolError
from pico.protocol.http.endpoint import endpoint_id

__all__ = [
    "HOPELESS_STATUSES",
    "LISTENER_PATH",
    "SUBPROTOCOL",
    "Refusal",
    "Registration",
    "RegistrationRefused",
    "check_registration",
    "listener_path",
    "printable",
    "retry_after_s",
]

LISTENER_PATH: Final = "/pico/v1/listener/"
SUBPROTOCOL: Final = "pico.stream.v1"
VERSION: Final = b"13"
REASON_CHARACTERS_MAX: Final = 200

HOPELESS_STATUSES: Final = frozenset((400, 401, 403, 404))
"""Answers to a registration that asking again does not change (TUN-26)."""

_DELTA_SECONDS = re.compile(rb"[0-9]{1,9}")
_KEY = re.compile(rb"[A-Za-z0-9+/]{22}==")  # 16 bytes in base64


class Registration(NamedTuple):
    """A valid wish to serve an endpoint."""

    endpoint_id: str
    key: bytes
    """``Sec-WebSocket-Key``, to be answered in ``Sec-WebSocket-Accept``."""
    streaming: bool
    """Whether the streaming extension was offered; it is then accepted (TUN-6)."""


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
    """Whether a node said so (it names its reason in ``x-pico-error``), and not something in front of it."""


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
    return Registration(endpoint, key, SUBPROTOCOL.encode() in _tokens(request, b"sec-websocket-protocol"))  # TUN-6


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


def retry_after_s(value: bytes | None) -> float | None:
    """The seconds of a ``Retry-After`` field; None for a date or for anything else (TUN-25)."""
    return float(value) if value is not None and _DELTA_SECONDS.fullmatch(value) else None


def printable(text: str) -> str:
    """A text of the peer's as it may stand in a log: one short line, nothing that a terminal obeys (TUN-33)."""
    return "".join(c if c.isprintable() else "?" for c in text[:REASON_CHARACTERS_MAX])
