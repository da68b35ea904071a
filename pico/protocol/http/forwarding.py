"""What one hop changes: the heads that leave for the tunnel and for the client.

Responsible for: the fields that say who is calling and by which way (HTTP-37 to HTTP-44, HTTP-76), and the framing of
the client's hop. Refuses to know: where a request goes, and clocks: the date is an argument.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Final

from pico.errors import ConfigError
from pico.protocol.http.failures import ALLOWED_METHODS, Failure
from pico.protocol.http.framing import CHUNKED, CLOSE, LENGTH, NO_BODY, Framing
from pico.protocol.http.request import Request, RequestRejected
from pico.protocol.http.values import UNKNOWN_LENGTH, RequestHead, ResponseHead

__all__ = ["TrustedProxies", "client_response_head", "options_response", "request_head", "request_id_of"]

PASSES_MAX: Final = 3
"""How often a request may have passed this node before; a service behind Pico may well call Pico again."""

PROXIES_MAX: Final = 16
"""Elements of ``X-Forwarded-For`` that are looked at: more than the proxies that any request passes."""

ADDRESS_BYTES_MAX: Final = 64
"""Of such an element: the longest IPv6 address in brackets, with a port."""

REMEMBERED_HOSTS_MAX: Final = 1024

_REQUEST_ID = re.compile(rb"[0-9A-Za-z._~+/=:@-]{1,128}").fullmatch
_MAPPED: Final = "::ffff:"
_NO_ADDRESS: Final = 0
_STRANGER: Final = 1
_TRUSTED: Final = 2


class TrustedProxies:
    """The networks whose word is taken for who is calling."""

    def __init__(self, networks: Iterable[str] = ()) -> None:
        self._networks = tuple(map(_network, networks))
        self._known: dict[str, int] = {}

    def contains(self, host: str) -> bool:
        """Whether ``host``, a numeric address, is one of them."""
        return bool(self._networks) and self._standing(host) == _TRUSTED

    def client_of(self, request: Request, peer: str) -> str:
        """Who is calling (HTTP-76): an address, that of ``peer`` where it is none of them."""
        if not self.contains(peer):
            return peer
        client = peer
        looks = 0
        for index, name in reversed(request.forwarding):
            if name != b"x-forwarded-for":
                continue
            rest, comma = request.value(index), b","
            while comma:
                rest, comma, element = rest.rpartition(b",")
                host = _host_of(element)
                standing = self._standing(host)
                looks += 1
                if standing == _NO_ADDRESS or looks > PROXIES_MAX:
                    return client
                client = host
                if standing == _STRANGER:
                    return client
        return client

    def _standing(self, host: str) -> int:
        known = self._known.get(host)
        if known is None:
            if len(self._known) >= REMEMBERED_HOSTS_MAX:
                self._known.clear()
            known = self._known[host] = self._look_up(host)
        return known

    def _look_up(self, host: str) -> int:
        try:
            address = ip_address(_plain_host(host))
        except ValueError:
            return _NO_ADDRESS
        return _TRUSTED if any(address in network for network in self._networks) else _STRANGER


def _host_of(element: bytes) -> str:
    """The address in an element of ``X-Forwarded-For``, without a port; empty where it cannot be one."""
    element = element.strip(b" \t")
    if len(element) > ADDRESS_BYTES_MAX or b"%" in element:  # a zone may be any text
        return ""
    if element[:1] == b"[":
        element = element[1:].partition(b"]")[0]
    elif element.count(b":") == 1:
        element = element.partition(b":")[0]
    return _plain_host(element.decode("latin-1"))


def _network(text: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(text.strip(), strict=False)
    except ValueError:
        raise ConfigError("trusted_proxies", text, "an address or a network in CIDR notation") from None


def _plain_host(host: str) -> str:
    """An IPv4 address that came over an IPv6 socket is written as what it is."""
    return host[len(_MAPPED) :] if host.startswith(_MAPPED) and "." in host else host


def request_id_of(request: Request, *, trusted: bool, generated: str) -> str:
    """The name of the request: what a trusted peer called it, if that is one short word, else ``generated``."""
    if trusted and request.forwarding:
        given = [index for index, name in request.forwarding if name == b"x-request-id"]
        if len(given) == 1 and _REQUEST_ID(request.value(given[0])):
            return request.value(given[0]).decode("ascii")
    return generated


def request_head(
    request: Request, *, client_host: str, scheme: str, trusted: bool, request_id: str, via: bytes
) -> RequestHead:
    """The head as it travels on; raises ``RequestRejected`` for a request that goes round in circles.

    ``request_id`` is what ``request_id_of`` gave; ``via`` is ``1.1`` and the pseudonym of this node.
    """
    authority = request.authority
    host = _plain_host(client_host).encode()
    if request.minor == 0:
        via = b"1.0" + via[3:]
    if request.forwarding or not authority:
        block = _forwarded(request, host, scheme.encode(), trusted, request_id.encode(), via)
    else:
        block = (
            b"%bX-Forwarded-For: %b\r\nX-Forwarded-Proto: %b\r\nX-Forwarded-Host: %b\r\nX-Request-Id: %b\r\nVia: %b\r\n"
            % (request.field_block(), host, scheme.encode(), authority, request_id.encode(), via)
        )
    length = UNKNOWN_LENGTH if request.upgrade else request.body_length
    return RequestHead(request.method, request.target, block, length, request.upgrade)


def _forwarded(request: Request, host: bytes, scheme: bytes, trusted: bool, request_id: bytes, via: bytes) -> bytes:
    """The block where the request says itself who is calling, or names no host."""
    given = [(index, name) for index, name in request.forwarding if name != b"via"]
    _check_loop(request, via)
    names = {name for _, name in given} if trusted else set()
    rewritten = (b"x-forwarded-for", b"x-request-id")
    dropped = tuple(index for index, name in given if not trusted or name in rewritten)
    before = [request.value(index) for index, name in given if trusted and name == b"x-forwarded-for"]
    lines = [b"X-Forwarded-For: " + b", ".join((*filter(None, before), host))]
    if b"x-forwarded-proto" not in names:
        lines.append(b"X-Forwarded-Proto: " + scheme)
    if b"x-forwarded-host" not in names and request.authority:
        lines.append(b"X-Forwarded-Host: " + request.authority)
    if not request.authority:
        lines.append(b"Host: " + (request.endpoint_field or b""))
    lines += [b"X-Request-Id: " + request_id, b"Via: " + via, b""]
    return request.field_block(dropped) + b"\r\n".join(lines)


def _check_loop(request: Request, via: bytes) -> None:
    """HTTP-40."""
    pseudonym = via[4:].lower()
    passed = 0
    for index, name in request.forwarding:
        if name == b"via":
            elements = request.value(index).lower().split(b",")
            passed += sum(element.split()[1:2] == [pseudonym] for element in elements)
    if passed > PASSES_MAX:
        raise RequestRejected(Failure.LOOP_DETECTED, "")


_PICO_LINES = re.compile(
    rb"(?<![^\n])[Xx]-(?:[Rr][Ee][Qq][Uu][Ee][Ss][Tt]-[Ii][Dd]|[Pp][Ii][Cc][Oo]-(?!(?i:error):)[^:]*+):[^\r]*+\r\n"
)


def client_response_head(
    head: ResponseHead, request: Request, *, keep_alive: bool, request_id: str, date: bytes = b""
) -> tuple[bytes, Framing]:
    """The bytes of a response's head for the client, and how its body must be written.

    ``date`` is used where the service gave none. With ``Framing.CLOSE`` the connection must be closed at the end of the
    body, whatever ``keep_alive`` was. An informational head for an HTTP/1.0 client is empty.
    """
    status, block, length = head.status, head.field_block, head.body_length
    lower = block.lower()
    if b"x-request-id" in lower or b"x-pico-" in lower:
        block = _PICO_LINES.sub(b"", block)
    if status < 200:
        return _informational_head(head, block, request.minor)
    if date and b"\ndate:" not in lower and not lower.startswith(b"date:"):
        block = b"%bDate: %b\r\n" % (block, date)
    framing = _framing(status, length, request)
    if length >= 0 and status != 204:
        delimiter = b"Content-Length: %d\r\n" % length
    else:
        delimiter = b"Transfer-Encoding: chunked\r\n" if framing is CHUNKED else b""
    if framing is CLOSE or not keep_alive:
        connection = b"Connection: close\r\n"
    else:
        connection = b"" if request.minor else b"Connection: keep-alive\r\n"
    return (
        b"HTTP/1.1 %d %b\r\n%bX-Request-Id: %b\r\n%b%b\r\n"
        % (status, head.reason, block, request_id.encode(), delimiter, connection),
        framing,
    )


def _framing(status: int, length: int, request: Request) -> Framing:
    """HTTP-51, HTTP-52."""
    if status in (204, 304) or request.method == b"HEAD":
        return NO_BODY
    if length >= 0:
        return LENGTH
    return CHUNKED if request.minor else CLOSE


def _informational_head(head: ResponseHead, block: bytes, minor: int) -> tuple[bytes, Framing]:
    if head.status == 101:
        end, framing = b"Upgrade: %b\r\nConnection: upgrade\r\n" % head.upgrade, CLOSE
    elif minor == 0:
        return b"", NO_BODY
    else:
        end, framing = b"", NO_BODY
    return b"HTTP/1.1 %d %b\r\n%b%b\r\n" % (head.status, head.reason, block, end), framing


def options_response(request: Request, *, keep_alive: bool, request_id: str, date: bytes = b"") -> bytes:
    """The node's own answer to OPTIONS with ``max_forwards`` zero, which must not be passed on (HTTP-43)."""
    fields = b"Allow: " + ALLOWED_METHODS + b"\r\n"
    head = ResponseHead(204, b"No Content", fields, UNKNOWN_LENGTH, b"")
    return client_response_head(head, request, keep_alive=keep_alive, request_id=request_id, date=date)[0]
