"""The messages of the RPC protocol: bytes to values and values to bytes (``spec/rpc.md``, Bytes).

Responsible for: the header, the layout of each payload, and whether one message is valid by itself. Refuses to know:
what came before it, and whether it is allowed now.
"""

from __future__ import annotations

import re
from enum import IntEnum
from struct import Struct
from typing import Final, NamedTuple, TypeAlias

from pico.config import RpcLimits
from pico.errors import RemoteProtocolError
from pico.protocol.http.values import RequestHead, ResponseHead, valid_field_block

__all__ = [
    "DATA_TYPE",
    "END",
    "HEADER",
    "HEADER_BYTES",
    "HEAD_TYPE",
    "RESPONSE",
    "UNSUPPORTED",
    "Encoded",
    "LongData",
    "MessageType",
    "Reset",
    "ResetCode",
    "cut_data",
    "decode_request_head",
    "decode_reset",
    "decode_response_head",
    "decode_window",
    "encode_header",
    "encode_request_head",
    "encode_reset",
    "encode_response_head",
    "encode_window",
    "size_of",
]

RESPONSE: Final = 0x8000
UNSUPPORTED: Final = 0x4000
END: Final = 0x0001

HEADER: Final = Struct(">HQH")
HEADER_BYTES: Final = HEADER.size
REQUEST_HEAD: Final = Struct(">qBBHI")
RESPONSE_HEAD: Final = Struct(">qHBBI")
HEAD_BYTES_MIN: Final = HEADER_BYTES + REQUEST_HEAD.size
RESET: Final = Struct(">HB")
WINDOW: Final = Struct(">I")

_METHOD = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,255}").fullmatch
_TARGET = re.compile(rb"(?:/[!-~\x80-\xff]*+|\*)").fullmatch
_REASON = re.compile(rb"[\t -~\x80-\xff]*+").fullmatch
_UPGRADE = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z/]{0,255}").fullmatch


LongData: TypeAlias = tuple[bytes, memoryview]
"""DATA with a long body: its header, and a view of the body."""

Encoded: TypeAlias = bytes | LongData
"""A message ready to be sent, as its bytes or in these two pieces."""


def size_of(message: Encoded) -> int:
    """The bytes of a message."""
    return len(message) if isinstance(message, bytes) else len(message[0]) + len(message[1])


class MessageType(IntEnum):
    """The first field of every message."""

    HEARTBEAT = 1
    PROXY_HTTP = 2
    HEAD = 3
    DATA = 4
    TRAILERS = 5
    RESET = 6
    WINDOW = 7
    GOAWAY = 8


class ResetCode(IntEnum):
    """Why a stream ended before it was complete."""

    CANCELLED = 1
    REFUSED = 2
    NO_ENDPOINT = 3
    SERVICE_UNREACHABLE = 4
    SERVICE_TIMEOUT = 5
    SERVICE_MALFORMED = 6
    SERVICE_CLOSED = 7
    TOO_LARGE = 8
    DEADLINE = 9
    INTERNAL = 10
    NOT_WANTED = 11
    LOST = 12
    """The connection ended. Made up by the side that noticed, never sent."""
    UPSTREAM_LOST = 13
    """What a node says on a link when the connection to the upstream ended."""


# Looking a member up in its class takes longer than packing the header.
HEAD_TYPE: Final = int(MessageType.HEAD)
DATA_TYPE: Final = int(MessageType.DATA)

_ON_THE_WIRE = {int(code): code for code in ResetCode if code is not ResetCode.LOST}


class Reset(NamedTuple):
    """The payload of RESET."""

    code: ResetCode
    untouched: bool
    reason: str


encode_header = HEADER.pack


def cut_data(message: LongData, size: int) -> tuple[LongData, LongData]:
    """DATA with the first ``size`` bytes, less than all, and DATA with the rest, which keeps END."""
    header, body = message
    kind, id_, flags = HEADER.unpack(header)
    return (HEADER.pack(kind, id_, flags & ~END), body[:size]), (header, body[size:])


def encode_request_head(id_: int, head: RequestHead, data: bytes | memoryview, end: bool) -> bytes:
    """One HEAD message that opens a stream."""
    method, target, block, upgrade = head.method, head.target, head.field_block, head.upgrade
    return b"".join(
        (
            HEADER.pack(HEAD_TYPE, id_, END if end else 0),
            REQUEST_HEAD.pack(head.body_length, len(method), len(upgrade), len(target), len(block)),
            method,
            upgrade,
            target,
            block,
            data,
        )
    )


def encode_response_head(id_: int, head: ResponseHead, data: bytes, end: bool) -> bytes:
    """One HEAD message that answers."""
    reason, block, upgrade = head.reason, head.field_block, head.upgrade
    return b"".join(
        (
            HEADER.pack(HEAD_TYPE, id_, RESPONSE | END if end else RESPONSE),
            RESPONSE_HEAD.pack(head.body_length, head.status, len(reason), len(upgrade), len(block)),
            reason,
            upgrade,
            block,
            data,
        )
    )


def decode_request_head(message: bytes, limits: RpcLimits) -> tuple[RequestHead, bytes]:
    """The head of a request and the first bytes of its body; raises ``RemoteProtocolError``."""
    if len(message) < HEAD_BYTES_MIN:
        raise RemoteProtocolError(f"HEAD: a message of {len(message)} bytes is shorter than {HEAD_BYTES_MIN}")
    length, method_size, upgrade_size, target_size, block_size = REQUEST_HEAD.unpack_from(message, HEADER_BYTES)
    _check_head_size(method_size + upgrade_size + target_size + block_size, length, message, limits)
    upgrade_at = HEAD_BYTES_MIN + method_size
    target_at = upgrade_at + upgrade_size
    block_at = target_at + target_size
    body_at = block_at + block_size
    method = message[HEAD_BYTES_MIN:upgrade_at]
    upgrade = message[upgrade_at:target_at]
    target = message[target_at:block_at]
    block = message[block_at:body_at]
    if _METHOD(method) is None or _TARGET(target) is None or (upgrade and _UPGRADE(upgrade) is None):  # RPC-27
        raise RemoteProtocolError("HEAD: the method, the target or the upgrade is not valid")
    if not valid_field_block(block):  # RPC-27
        raise RemoteProtocolError("HEAD: the field block is not valid")
    return RequestHead(method, target, block, length, upgrade), message[body_at:]


def decode_response_head(message: bytes, limits: RpcLimits) -> tuple[ResponseHead, bytes]:
    """The head of a response and the first bytes of its body; raises ``RemoteProtocolError``."""
    if len(message) < HEAD_BYTES_MIN:
        raise RemoteProtocolError(f"HEAD: a message of {len(message)} bytes is shorter than {HEAD_BYTES_MIN}")
    length, status, reason_size, upgrade_size, block_size = RESPONSE_HEAD.unpack_from(message, HEADER_BYTES)
    _check_head_size(reason_size + upgrade_size + block_size, length, message, limits)
    upgrade_at = HEAD_BYTES_MIN + reason_size
    block_at = upgrade_at + upgrade_size
    body_at = block_at + block_size
    reason = message[HEAD_BYTES_MIN:upgrade_at]
    upgrade = message[upgrade_at:block_at]
    block = message[block_at:body_at]
    if not 100 <= status <= 599:
        raise RemoteProtocolError(f"HEAD: the status {status} is not between 100 and 599")
    if _REASON(reason) is None or (upgrade and _UPGRADE(upgrade) is None) or (upgrade != b"") != (status == 101):
        raise RemoteProtocolError("HEAD: the reason or the upgrade is not valid")
    if not valid_field_block(block):  # RPC-27
        raise RemoteProtocolError("HEAD: the field block is not valid")
    return ResponseHead(status, reason, block, length, upgrade), message[body_at:]


def _check_head_size(size: int, length: int, message: bytes, limits: RpcLimits) -> None:
    if size > limits.head_bytes_max:  # RPC-28
        raise RemoteProtocolError(f"HEAD: {size} bytes of head, at most {limits.head_bytes_max} are allowed")
    body_size = len(message) - HEAD_BYTES_MIN - size
    if body_size < 0:  # RPC-27
        raise RemoteProtocolError("HEAD: its sizes do not fit the message")
    if body_size > limits.data_bytes_max:  # RPC-35
        raise RemoteProtocolError(f"HEAD: {body_size} body bytes, at most {limits.data_bytes_max} are allowed")
    if length < -1:
        raise RemoteProtocolError(f"HEAD: a body length of {length} is below -1")


def encode_reset(id_: int, flags: int, code: ResetCode, untouched: bool, reason: str, limits: RpcLimits) -> bytes:
    """One RESET message; the reason is cut to the limit."""
    text = reason.encode("utf-8", "replace")[: limits.reason_bytes_max]
    return (
        HEADER.pack(MessageType.RESET, id_, flags)
        + RESET.pack(
            code,
            untouched,
        )
        + text
    )


def decode_reset(message: bytes, limits: RpcLimits) -> Reset:
    """The payload of RESET; raises ``RemoteProtocolError``."""
    size = len(message) - HEADER_BYTES
    if not RESET.size <= size <= RESET.size + limits.reason_bytes_max:  # RPC-51
        raise RemoteProtocolError(f"RESET: a payload of {size} bytes is not valid")
    code, untouched = RESET.unpack_from(message, HEADER_BYTES)
    reason = message[HEADER_BYTES + RESET.size :].decode("utf-8", "replace")
    return Reset(_ON_THE_WIRE.get(code, ResetCode.INTERNAL), untouched == 1, reason)


def encode_window(id_: int, flags: int, credit: int) -> bytes:
    """One WINDOW message."""
    return HEADER.pack(MessageType.WINDOW, id_, flags) + WINDOW.pack(credit)


def decode_window(message: bytes) -> int:
    """The credit in bytes; raises ``RemoteProtocolError``."""
    if len(message) != HEADER_BYTES + WINDOW.size:
        raise RemoteProtocolError(f"WINDOW: a payload of {len(message) - HEADER_BYTES} bytes, not {WINDOW.size}")
    credit: int = WINDOW.unpack_from(message, HEADER_BYTES)[0]
    if credit == 0:  # RPC-41
        raise RemoteProtocolError("WINDOW: a credit of zero")
    return credit
