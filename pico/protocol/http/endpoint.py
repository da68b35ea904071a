"""Which endpoint a request names.

Responsible for: the grammar of an endpoint ID and the two places where a request may name one. Refuses to know: whether
anybody serves it.
"""

from __future__ import annotations

import re
from typing import Final

from pico.compiling import plain_class
from pico.errors import RemoteProtocolError
from pico.protocol.http.failures import Failure
from pico.protocol.http.request import Request

__all__ = ["InvalidEndpoint", "endpoint_id", "endpoint_of"]

ENDPOINT_BYTES_MAX: Final = 63

_ENDPOINT = re.compile(rb"[0-9a-z](?:[0-9a-z-]*[0-9a-z])?").fullmatch
_USUAL_HOST = re.compile(
    rb"([0-9a-z](?:[0-9a-z-]{0,61}[0-9a-z])?)\.(?:[0-9a-z\-_~]+\.)*[a-z][0-9a-z\-_~]*\.?(?::[0-9]*)?"
).fullmatch


@plain_class
class InvalidEndpoint(RemoteProtocolError):
    """What was given is not an endpoint ID; the text says why."""


def endpoint_id(raw: bytes | str) -> str:
    """The endpoint ID in its one spelling: a DNS label in lower case; raises ``InvalidEndpoint``."""
    name = (raw.encode("utf-8", "replace") if isinstance(raw, str) else bytes(raw)).lower()
    if not name:
        raise InvalidEndpoint("an endpoint ID is not empty")
    if len(name) > ENDPOINT_BYTES_MAX:
        raise InvalidEndpoint(f"an endpoint ID has at most {ENDPOINT_BYTES_MAX} characters")
    if _ENDPOINT(name) is None:
        raise InvalidEndpoint("an endpoint ID is made of a-z, 0-9 and -, and neither begins nor ends with -")
    return name.decode("ascii")


def endpoint_of(request: Request) -> str | Failure:
    """The endpoint that ``request`` names (HTTP-18): by ``x-pico-endpoint``, else by the first label of its host."""
    if request.endpoint_field is None:
        match = _USUAL_HOST(request.authority)
        if match is not None:
            return match[1].decode("ascii")
        label = _first_label(request.authority.lower())
        if not label:
            return Failure.ENDPOINT_MISSING
    else:
        label = request.endpoint_field
    try:
        return endpoint_id(label)
    except InvalidEndpoint:
        return Failure.INVALID_ENDPOINT


def _first_label(authority: bytes) -> bytes:
    """HTTP-19: an address, and a name without a dot, has none."""
    if authority[:1] == b"[":
        return b""
    host = authority.partition(b":")[0]
    labels = (host[:-1] if host.endswith(b".") else host).split(b".")
    if len(labels) < 2 or _is_number(labels[-1]):
        return b""
    return labels[0] or b"."


def _is_number(label: bytes) -> bool:
    """Whether a name that ends so is an address, in any of the spellings that a resolver takes for one."""
    return label.isdigit() or label.startswith(b"0x")
