"""The trace that a request belongs to, as its ``traceparent`` field says (W3C Trace Context).

Responsible for: reading the trace ID of a valid field. Refuses to know: what is traced. The field itself travels as it
is, valid or not (HTTP-69).
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["trace_id_of"]

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
