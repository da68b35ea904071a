"""The heads of requests and responses as they travel between the doors, the tunnel and the agent.

Responsible for: the two value types that every floor above passes along, and what may be in their field block.
Refuses to know: how they were parsed and how they are written.
"""

from __future__ import annotations

import re
from typing import Final

from pico.protocol.value import Value

__all__ = ["UNKNOWN_LENGTH", "RequestHead", "ResponseHead", "valid_field_block"]

UNKNOWN_LENGTH: Final = -1

_HOP = (
    rb"connection|keep-alive|proxy-connection|transfer-encoding|content-length|upgrade|te(?!:[\t ]*+trailers[\t ]*+\r)"
)
_FIELD_BLOCK = re.compile(  # the look at one letter spares nearly every line the look at all the names
    rb"(?:(?!(?=[CcKkPpTtUu])(?i:" + _HOP + rb"):)[!#$%&'*+\-.^_`|~0-9A-Za-z]++:[\t -~\x80-\xff]*+\r\n)*+"
).fullmatch


class RequestHead(Value):
    """The head of one request, stripped of everything that concerns a single hop."""

    __match_args__ = ("method", "target", "field_block", "body_length", "upgrade")

    def __init__(self, method: bytes, target: bytes, field_block: bytes, body_length: int, upgrade: bytes) -> None:
        self.method: Final = method
        self.target: Final = target
        """Byte for byte what the client sent, in origin-form or ``*``."""
        self.field_block: Final = field_block
        """``Name: value CRLF`` lines, end-to-end fields only: no framing, no hop-by-hop field."""
        self.body_length: Final = body_length
        """The declared length of the body in bytes, or ``UNKNOWN_LENGTH``."""
        self.upgrade: Final = upgrade
        """The protocol that the client asks to switch to, or nothing."""

    def with_fields(self, field_block: bytes) -> RequestHead:
        """The same with this field block."""
        return RequestHead(self.method, self.target, field_block, self.body_length, self.upgrade)


class ResponseHead(Value):
    """The head of one response; a status below 200 other than 101 is informational."""

    __match_args__ = ("status", "reason", "field_block", "body_length", "upgrade")

    def __init__(self, status: int, reason: bytes, field_block: bytes, body_length: int, upgrade: bytes) -> None:
        self.status: Final = status
        self.reason: Final = reason
        self.field_block: Final = field_block
        """``Name: value CRLF`` lines, end-to-end fields only: no framing, no hop-by-hop field."""
        self.body_length: Final = body_length
        """What ``Content-Length`` said, also where no body follows (HEAD, 304); else ``UNKNOWN_LENGTH``."""
        self.upgrade: Final = upgrade
        """With status 101, the protocol that was switched to; else nothing."""


def valid_field_block(block: bytes) -> bool:
    """Whether ``block`` is any number of whole, valid field lines of which none concerns a single hop (HTTP-36).

    ``TE`` may be in it with the one value ``trailers``.
    """
    return _FIELD_BLOCK(block) is not None
