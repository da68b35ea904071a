"""Every way in which a request can fail, and the answer that its client gets.

Responsible for: the one table of failures (``spec/http.md``, Failures) and the response made from a row of it. Refuses
to know: who noticed the failure, and whether a response can still be sent.
"""

from __future__ import annotations

import json
from enum import Enum
from typing import Final

from pico.errors import RemoteProtocolError

__all__ = ["ALLOWED_METHODS", "REASONS", "Failure", "Rejected", "failure_response"]

ALLOWED_METHODS: Final = b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
"""What ``Allow`` says; every other method but CONNECT and TRACE is passed on, too."""

REASONS: Final = {
    400: b"Bad Request",
    405: b"Method Not Allowed",
    408: b"Request Timeout",
    413: b"Content Too Large",
    414: b"URI Too Long",
    417: b"Expectation Failed",
    431: b"Request Header Fields Too Large",
    499: b"Client Closed Request",
    500: b"Internal Server Error",
    501: b"Not Implemented",
    502: b"Bad Gateway",
    503: b"Service Unavailable",
    504: b"Gateway Timeout",
    505: b"HTTP Version Not Supported",
    508: b"Loop Detected",
}


class Failure(Enum):
    """A row of the table: status, code, sentence, and the seconds after which to try again (0: not said)."""

    BAD_REQUEST = (400, "bad_request", "The request is not valid HTTP/1.1.")
    BODY_INCOMPLETE = (400, "body_incomplete", "The connection ended before the request body was complete.")
    ENDPOINT_MISSING = (
        400,
        "endpoint_missing",
        "The request names no endpoint: set x-pico-endpoint or a host name whose first label is the endpoint.",
    )
    INVALID_ENDPOINT = (400, "invalid_endpoint", "The endpoint that the request names is not a valid endpoint ID.")
    METHOD_NOT_ALLOWED = (405, "method_not_allowed", "CONNECT and TRACE are not served here.")
    HEADER_TIMEOUT = (408, "header_timeout", "The request head was not complete in time.")
    BODY_TIMEOUT = (408, "body_timeout", "The request body did not arrive in time.")
    BODY_TOO_LARGE = (413, "body_too_large", "The request body is larger than what is allowed here.")
    TARGET_TOO_LONG = (414, "target_too_long", "The request line is longer than what is allowed here.")
    EXPECTATION_FAILED = (417, "expectation_failed", "The only expectation that can be met is 100-continue.")
    FIELDS_TOO_LARGE = (431, "fields_too_large", "The request's fields are larger or more than what is allowed here.")
    INTERNAL = (500, "internal", "Pico failed while it served the request.")
    NOT_IMPLEMENTED = (501, "not_implemented", "The request uses a method or a transfer coding that is not known here.")
    ENDPOINT_NOT_FOUND = (
        502,
        "endpoint_not_found",
        "No upstream is registered for the endpoint: check that its agent is connected.",
    )
    TUNNEL_LOST = (
        502,
        "tunnel_lost",
        "The connection to the endpoint's agent was lost before the response was complete.",
    )
    NODE_STOPPED = (502, "node_stopped", "The node stopped before the response was complete.")
    SERVICE_UNREACHABLE = (502, "service_unreachable", "The agent could not connect to the service.")
    SERVICE_MALFORMED = (502, "service_malformed", "The service answered with something that is not valid HTTP/1.1.")
    SERVICE_CLOSED = (502, "service_closed", "The service closed the connection before its response was complete.")
    RESPONSE_TOO_LARGE = (
        502,
        "response_too_large",
        "The response is larger than what the connection to the agent can carry.",
    )
    OVERLOADED = (503, "overloaded", "The endpoint has more requests than it can take: try again.", 1)
    SERVICE_TIMEOUT = (504, "service_timeout", "The service did not answer in time.")
    RESPONSE_TIMEOUT = (504, "response_timeout", "The response did not arrive in time.")
    VERSION_NOT_SUPPORTED = (505, "version_not_supported", "Only HTTP/1.1 and HTTP/1.0 are spoken here.")
    LOOP_DETECTED = (508, "loop_detected", "The request has passed this node too often.")
    CLIENT_CLOSED = (499, "client_closed", "The client went away before its response was complete.")
    CLIENT_STALLED = (499, "client_stalled", "The client took no byte of its response for too long.")

    def __init__(self, status: int, code: str, message: str, retry_after_s: int = 0) -> None:
        self.status = status
        self.code = code
        self.message = message
        self.retry_after_s = retry_after_s


class Rejected(RemoteProtocolError):
    """The peer's message is not acceptable; ``failure`` says what that means, ``str()`` says what was wrong."""

    def __init__(self, failure: Failure, detail: str) -> None:
        super().__init__(detail)
        self.failure = failure


def failure_response(
    failure: Failure,
    detail: str = "",
    *,
    keep_alive: bool = True,
    request_id: str = "",
    method: bytes = b"",
    minor: int = 1,
    date: bytes = b"",
) -> bytes:
    """One whole, self-delimiting response; without its body when ``method`` is HEAD."""
    message = f"{failure.message} ({detail})" if detail else failure.message
    body = json.dumps({"error": {"code": failure.code, "message": message}}).encode() + b"\n"
    lines = [
        b"HTTP/1.1 %d %b" % (failure.status, REASONS[failure.status]),
        b"Content-Type: application/json",
        b"Content-Length: %d" % len(body),
        b"Cache-Control: no-store",
        b"x-pico-error: " + failure.code.encode(),
        *_optional_lines(failure, request_id, date),
        *_connection_line(keep_alive, minor),
        b"\r\n",
    ]
    return b"\r\n".join(lines) + (b"" if method == b"HEAD" else body)


def _optional_lines(failure: Failure, request_id: str, date: bytes) -> list[bytes]:
    lines = []
    if date:
        lines.append(b"Date: " + date)
    if request_id:
        lines.append(b"X-Request-Id: " + request_id.encode())
    if failure.retry_after_s:
        lines.append(b"Retry-After: %d" % failure.retry_after_s)
    if failure is Failure.METHOD_NOT_ALLOWED:
        lines.append(b"Allow: " + ALLOWED_METHODS)
    return lines


def _connection_line(keep_alive: bool, minor: int) -> list[bytes]:
    if not keep_alive:
        return [b"Connection: close"]
    return [b"Connection: keep-alive"] if minor == 0 else []
