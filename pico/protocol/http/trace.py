"""The trace that a request belongs to, as its ``traceparent`` field says (W3C Trace Context).

Responsible for: reading the trace ID of a valid field, and replacing what a block of fields says of its trace. Refuses
to know: what is traced. The fields travel as they are, valid or not (HTTP-69), unless this hop takes part in the trace.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["trace_fields", "trace_id_of", "with_trace_fields"]

VERSION_00_BYTES: Final = 55

_TRACEPARENT = re.compile(rb"([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:\Z|-)").match
"""An ID of zeros alone is none."""


def trace_id_of(traceparent: bytes) -> str:
    """Thirty-two hexadecimal digits, or nothing when the field is not valid."""
    match = _TRACEPARENT(traceparent)
    if match is None or match[1] == b"ff":
        return ""
    if match[1] == b"00" and len(traceparent) != VERSION_00_BYTES:
        return ""  # a later version may say more
    return match[2].decode("ascii")


_LINES = re.compile(rb"(?im)^(traceparent|tracestate):([^\r\n]*)\r\n")


def trace_fields(block: bytes) -> dict[str, list[str]]:
    """What a block of ``Name: value CRLF`` lines says of its trace, by name in lower case."""
    found: dict[str, list[str]] = {}
    for name, value in _LINES.findall(block):
        found.setdefault(name.lower().decode("ascii"), []).append(value.strip(b" \t").decode("latin-1"))
    return found


def with_trace_fields(block: bytes, fields: bytes) -> bytes:
    """The block with ``fields``, lines of the same kind, in place of what it says of its trace."""
    return _LINES.sub(b"", block) + fields
