"""The names of fields, and which of them concern a single hop, the framing, or Pico itself.

Responsible for: the grammar of a field line, and one table from the name of a field to what Pico does with it. Refuses
to know: what a field's value means.

The table is looked up with the name as it was spelled, because nearly every client spells the usual names in one of
two ways and one look-up in a dictionary is the cheapest thing that can be done with a name. Only a name that is not
found is checked and lower-cased.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from pico.errors import RemoteProtocolError

__all__ = [
    "FIELD_LINES",
    "OWS",
    "REQUEST_KINDS",
    "RESPONSE_KINDS",
    "TOKEN",
    "VALUE",
    "Kind",
    "connection_options",
    "is_field_line",
    "is_token",
    "kind_in_request",
    "kind_in_response",
    "may_be_nominated",
    "may_be_trailer",
]

TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
VALUE: Final = rb"[\t -~\x80-\xff]"
FIELD_LINES: Final = rb"(?:" + TOKEN + rb"++:" + VALUE + rb"*+\r\n)*+"
OWS: Final = b" \t"

is_token = re.compile(TOKEN + rb"++").fullmatch
is_field_line = re.compile(TOKEN + rb"++:" + VALUE + rb"*+").fullmatch


class Kind:
    """What Pico does with a field. Plain integers, because they are compared for every field of every message."""

    ORDINARY: Final = 0  # passed on
    HOST: Final = 1
    USER_AGENT: Final = 2
    CONTENT_LENGTH: Final = 3
    CONNECTION: Final = 4
    TRANSFER_ENCODING: Final = 5
    EXPECT: Final = 6
    UPGRADE: Final = 7
    TE: Final = 8
    ENDPOINT: Final = 9  # x-pico-endpoint
    HOP: Final = 10  # always removed
    FORWARDING: Final = 11  # believed only from a trusted peer
    VIA: Final = 12
    MAX_FORWARDS: Final = 13
    TRACEPARENT: Final = 14
    PICO: Final = 15  # x-pico-... of a response
    AUTHENTICATE: Final = 16  # passed on; may bind the connection to a user


_HOP_NAMES = (
    b"keep-alive",
    b"proxy-connection",
    b"proxy-authenticate",
    b"proxy-authorization",
    b"proxy-authentication-info",
    b"http2-settings",
)
_FRAMING = {
    b"content-length": Kind.CONTENT_LENGTH,
    b"transfer-encoding": Kind.TRANSFER_ENCODING,
    b"connection": Kind.CONNECTION,
    b"upgrade": Kind.UPGRADE,
    **dict.fromkeys(_HOP_NAMES, Kind.HOP),
}
_IDENTITY = (b"forwarded", b"x-real-ip", b"x-request-id")
_IDENTITY_PREFIX: Final = b"x-forwarded-"
_PICO_PREFIX: Final = b"x-pico-"

_REQUEST_NAMES: Final[dict[bytes, int]] = {
    **_FRAMING,
    **dict.fromkeys(_IDENTITY, Kind.FORWARDING),
    b"host": Kind.HOST,
    b"user-agent": Kind.USER_AGENT,
    b"expect": Kind.EXPECT,
    b"te": Kind.TE,
    b"x-pico-endpoint": Kind.ENDPOINT,
    b"via": Kind.VIA,
    b"max-forwards": Kind.MAX_FORWARDS,
    b"traceparent": Kind.TRACEPARENT,
}
_RESPONSE_NAMES: Final[dict[bytes, int]] = {**_FRAMING, b"te": Kind.HOP, b"www-authenticate": Kind.AUTHENTICATE}

_USUAL_IN_REQUESTS = (
    b"accept accept-encoding accept-language authorization cache-control content-encoding content-type cookie dnt "
    b"if-match if-modified-since if-none-match if-range if-unmodified-since origin pragma priority purpose "
    b"range referer sec-ch-ua sec-ch-ua-mobile sec-ch-ua-platform sec-fetch-dest sec-fetch-mode sec-fetch-site "
    b"sec-fetch-user sec-gpc sec-websocket-extensions sec-websocket-key sec-websocket-protocol sec-websocket-version "
    b"trailer tracestate upgrade-insecure-requests x-requested-with"
).split()
_USUAL_IN_RESPONSES = (
    b"accept-ranges access-control-allow-origin age cache-control content-disposition content-encoding "
    b"content-language content-security-policy content-type date etag expires last-modified link location "
    b"referrer-policy server set-cookie strict-transport-security trailer vary x-content-type-options "
    b"x-frame-options x-powered-by x-request-id x-xss-protection"
).split()


_OWN_SPELLINGS = (
    b"ETag TE DNT Sec-CH-UA Sec-CH-UA-Mobile Sec-CH-UA-Platform Sec-GPC Sec-WebSocket-Extensions Sec-WebSocket-Key "
    b"Sec-WebSocket-Protocol Sec-WebSocket-Version WWW-Authenticate X-Request-ID X-XSS-Protection"
).split()


def _spellings(names: dict[bytes, int], usual: Iterable[bytes]) -> dict[bytes, int]:
    """The table by spelling: each name in lower case, With-Capitals, and as its own specification writes it."""
    table = dict.fromkeys(usual, Kind.ORDINARY) | names
    own = {name: table[name.lower()] for name in _OWN_SPELLINGS if name.lower() in table}
    return table | {name.title(): kind for name, kind in table.items()} | own


REQUEST_KINDS: Final = _spellings(_REQUEST_NAMES, _USUAL_IN_REQUESTS)
RESPONSE_KINDS: Final = _spellings(_RESPONSE_NAMES, _USUAL_IN_RESPONSES)


def kind_in_request(name: bytes) -> int:
    """The kind of a field of a request, whatever its spelling.

    An underscore makes no other name of a field by which Pico tells a service who is calling: to many services
    ``X_Forwarded_For`` and ``X-Forwarded-For`` are one (HTTP-39).
    """
    lower = name.lower()
    kind = _REQUEST_NAMES.get(lower)
    if kind is not None:
        return kind
    dashed = lower.replace(b"_", b"-")
    if dashed.startswith(_PICO_PREFIX):
        return Kind.HOP
    identity = dashed in _IDENTITY or dashed.startswith(_IDENTITY_PREFIX)
    if identity:
        return Kind.FORWARDING if dashed == lower else Kind.HOP
    return Kind.ORDINARY


def kind_in_response(name: bytes) -> int:
    """The kind of a field of a response, whatever its spelling."""
    lower = name.lower()
    kind = _RESPONSE_NAMES.get(lower)
    if kind is not None:
        return kind
    return Kind.PICO if lower.startswith(_PICO_PREFIX) else Kind.ORDINARY


def connection_options(value: bytes) -> tuple[bytes, ...]:
    """The lower-cased options of a ``Connection`` field; raises ``RemoteProtocolError`` when one is not a token."""
    options = tuple(option.strip(OWS) for option in value.lower().split(b",") if option.strip(OWS))
    if not all(map(is_token, options)):
        raise RemoteProtocolError("the Connection field is not a list of tokens")
    return options


_NEVER_NOMINATED: Final = frozenset(
    (
        b"host transfer-encoding authorization www-authenticate authentication-info cookie set-cookie "
        b"forwarded x-real-ip x-request-id via max-forwards expect date location te trailer close keep-alive upgrade "
        b"age cache-control etag expires last-modified pragma vary warning "
        b"range if-match if-none-match if-modified-since if-unmodified-since if-range"
    ).split()
)
_CONTENT_PREFIX: Final = b"content-"


def may_be_nominated(name: bytes) -> bool:
    """Whether a ``Connection`` option removes the field of this lower-cased name (HTTP-34)."""
    return name not in _NEVER_NOMINATED and not name.startswith((_CONTENT_PREFIX, _IDENTITY_PREFIX, _PICO_PREFIX))


_NEVER_TRAILERS: Final = frozenset(
    (
        b"connection content-length transfer-encoding upgrade te trailer host keep-alive proxy-connection "
        b"proxy-authenticate proxy-authorization proxy-authentication-info http2-settings "
        b"authorization authentication-info www-authenticate cookie set-cookie "
        b"content-encoding content-type content-range expect max-forwards cache-control pragma range "
        b"if-match if-none-match if-modified-since if-unmodified-since if-range "
        b"age date expires location retry-after vary warning "
        b"forwarded x-real-ip x-request-id via"
    ).split()
)


def may_be_trailer(name: bytes) -> bool:
    """Whether a trailer field of this name is passed on (HTTP-27)."""
    lower = name.lower().replace(b"_", b"-")
    return lower not in _NEVER_TRAILERS and not lower.startswith((_IDENTITY_PREFIX, _PICO_PREFIX))
