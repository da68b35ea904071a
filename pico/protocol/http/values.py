"""The heads of requests and responses as they travel between the doors, the tunnel and the agent.

Responsible for: the two value types that every floor above passes along, and what may be in their field block.
Refuses to know: how they were parsed and how they are written. They are NamedTuples because one of each is made for
every request, and a NamedTuple costs a third of a frozen dataclass.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

__all__ = ["UNKNOWN_LENGTH", "RequestHead", "ResponseHead", "valid_field_block"]

UNKNOWN_LENGTH: Final = -1

_HOP = (
    rb"connection|keep-alive|proxy-connection|transfer-encoding|content-length|upgrade|te(?!:[\t ]*+trailers[\t ]*+\r)"
)
_FIELD_BLOCK = re.compile(  # the look at one letter spares nearly every line the look at all the names
    rb"(?:(?!(?=[CcKkPpTtUu])(?i:" + _HOP + rb"):)[!#$%&'*+\-.^_`|~0-9A-Za-z]++:[\t -~\x80-\xff]*+\r\n)*+"
).fullmatch


class RequestHead(NamedTuple):
    """The head of one request, stripped of everything that concerns a single hop."""

    method: bytes
    target: bytes
    """Byte for byte what the client sent, in origin-form or ``*``."""
    field_block: bytes
    """``Name: value CRLF`` lines, end-to-end fields only: no framing, no hop-by-hop field."""
    body_length: int
    """The declared length of the body in bytes, or ``UNKNOWN_LENGTH``."""
    upgrade: bytes
    """The protocol that the client asks to switch to, or nothing."""


class ResponseHead(NamedTuple):
    """The head of one response; a status below 200 other than 101 is informational."""

    status: int
    reason: bytes
    field_block: bytes
    """``Name: value CRLF`` lines, end-to-end fields only: no framing, no hop-by-hop field."""
    body_length: int
    """What ``Content-Length`` said, also where no body follows (HEAD, 304); else ``UNKNOWN_LENGTH``."""
    upgrade: bytes
    """With status 101, the protocol that was switched to; else nothing."""


def valid_field_block(block: bytes) -> bool:
    """Whether ``block`` is any number of whole, valid field lines of which none concerns a single hop (HTTP-36).

    ``TE`` may be in it with the one value ``trailers``.
    """
    return _FIELD_BLOCK(block) is not None
