"""What a client is told when a stream was reset: from the tunnel's codes to the table of failures.

Responsible for: this one mapping. Refuses to know: statuses and sentences (``pico.protocol.http.failures`` has those).
"""

from __future__ import annotations

from pico.protocol.http import Failure
from pico.protocol.rpc.messages import ResetCode

__all__ = ["failure_of"]

_FAILURES = {
    ResetCode.CANCELLED: Failure.CLIENT_CLOSED,
    ResetCode.REFUSED: Failure.OVERLOADED,
    ResetCode.NO_ENDPOINT: Failure.ENDPOINT_NOT_FOUND,
    ResetCode.SERVICE_UNREACHABLE: Failure.SERVICE_UNREACHABLE,
    ResetCode.SERVICE_TIMEOUT: Failure.SERVICE_TIMEOUT,
    ResetCode.SERVICE_MALFORMED: Failure.SERVICE_MALFORMED,
    ResetCode.SERVICE_CLOSED: Failure.SERVICE_CLOSED,
    ResetCode.TOO_LARGE: Failure.BODY_TOO_LARGE,
    ResetCode.DEADLINE: Failure.RESPONSE_TIMEOUT,
    ResetCode.INTERNAL: Failure.INTERNAL,
    ResetCode.NOT_WANTED: Failure.SERVICE_CLOSED,
    ResetCode.LOST: Failure.TUNNEL_LOST,
    ResetCode.UPSTREAM_LOST: Failure.TUNNEL_LOST,
}


def failure_of(code: ResetCode, *, untouched: bool = False) -> Failure:
    """The failure that a reset with this code means to the client.

    TOO_LARGE speaks of the request when it is untouched, and of the response otherwise.
    """
    if code is ResetCode.TOO_LARGE and not untouched:
        return Failure.RESPONSE_TOO_LARGE
    return _FAILURES[code]
