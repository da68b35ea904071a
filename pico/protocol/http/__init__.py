"""HTTP/1.1 without I/O: requests, responses, and what one hop changes in them (``spec/http.md``)."""

from pico.protocol.http.endpoint import InvalidEndpoint, endpoint_id, endpoint_of
from pico.protocol.http.failures import Failure, Rejected, failure_response
from pico.protocol.http.forwarding import (
    TrustedProxies,
    client_response_head,
    options_response,
    request_head,
    request_id_of,
)
from pico.protocol.http.framing import CHUNKED, CLOSE, LAST_CHUNK, NO_BODY, Framing, encode_chunk, last_chunk
from pico.protocol.http.request import Request, RequestReader, RequestRejected
from pico.protocol.http.response import ResponseReader, ResponseRejected, may_be_left_unread, service_request
from pico.protocol.http.trace import trace_fields, trace_id_of, with_trace_fields
from pico.protocol.http.values import UNKNOWN_LENGTH, RequestHead, ResponseHead, valid_field_block
from pico.protocol.http.whole import (
    encode_whole_request,
    encode_whole_response,
    parse_whole_request,
    parse_whole_response,
)

__all__ = [
    "CHUNKED",
    "CLOSE",
    "LAST_CHUNK",
    "NO_BODY",
    "UNKNOWN_LENGTH",
    "Failure",
    "Framing",
    "InvalidEndpoint",
    "Rejected",
    "Request",
    "RequestHead",
    "RequestReader",
    "RequestRejected",
    "ResponseHead",
    "ResponseReader",
    "ResponseRejected",
    "TrustedProxies",
    "client_response_head",
    "encode_chunk",
    "encode_whole_request",
    "encode_whole_response",
    "endpoint_id",
    "endpoint_of",
    "failure_response",
    "last_chunk",
    "may_be_left_unread",
    "options_response",
    "parse_whole_request",
    "parse_whole_response",
    "request_head",
    "request_id_of",
    "service_request",
    "trace_fields",
    "trace_id_of",
    "valid_field_block",
    "with_trace_fields",
]
