"""WebSocket frames (RFC 6455 §5-§7), both roles, without I/O.

Responsible for: bytes to whole messages, strictly and within limits, and messages to bytes. Refuses to know: the
opening handshake (``pico.protocol.tunnel``), when to answer a ping, and the states of the closing handshake: those
are the owner's (``pico.transport.multiplexer``). There are no extensions, so every reserved bit is a violation.

A length is judged when it is declared, before anything is kept. What is kept between two calls is one frame that has
not arrived whole, and the fragments of one message that has not ended; both stay under ``message_bytes_max``.

The usual case, a whole binary message in one frame, has a path of its own through ``receive_data``; everything else
goes through ``_receive_frame``. Text is not checked for being UTF-8, since every owner refuses it (TUN-14).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from enum import Enum
from struct import Struct
from typing import Final, Literal, NamedTuple, TypeAlias

from pico.compiling import plain_class
from pico.config import WebSocketLimits
from pico.errors import LocalProtocolError, RemoteProtocolError

__all__ = [
    "BINARY",
    "NO_CODE",
    "Kind",
    "MaskSource",
    "Message",
    "Payload",
    "WebSocketCodec",
    "WebSocketViolation",
    "mask_implementation",
    "parse_close",
    "pooled_masks",
]


def _mask_with_integers(data: bytes | bytearray | memoryview, mask: bytes) -> bytes:
    """XOR as one operation on two long integers: 0.3 ms for 64 KiB, where a loop takes 14."""
    size = len(data)
    repeated = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(data, "little") ^ int.from_bytes(repeated, "little")).to_bytes(size, "little")


_apply_mask: Callable[[bytes | bytearray | memoryview, bytes], bytes]
try:
    from websockets.speedups import apply_mask
except ImportError:  # built without a C compiler
    _apply_mask = _mask_with_integers
else:
    _apply_mask = apply_mask


def mask_implementation() -> str:
    """Which masking was loaded: ``"c"``, or ``"python"``, which is some seventy times slower on large messages."""
    return "python" if _apply_mask is _mask_with_integers else "c"


class Kind(Enum):
    """What a message is; the value is its opcode."""

    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10


# Looking a member up in its class costs more than the rest of building a message.
BINARY: Final = Kind.BINARY
_KINDS: Final = {kind.value: kind for kind in Kind}
_CONTINUATION: Final = 0

VIOLATION: Final = 1002
NOT_UTF8: Final = 1007
TOO_BIG: Final = 1009

CONTROL_BYTES_MAX: Final = 125
FIN: Final = 0x80
FIN_BINARY: Final = FIN | Kind.BINARY.value

REASON_BYTES_MAX: Final = CONTROL_BYTES_MAX - 2
NO_CODE: Final = 1005  # stands for a CLOSE without a code, and never travels

# From this length on a slice costs more than the memoryview that saves it.
_VIEW_BYTES_MIN: Final = 1024

_MEDIUM: Final = Struct(">BBH")
_LONG: Final = Struct(">BBQ")


class Message(NamedTuple):
    """One whole message; the payload of a CLOSE is empty, or a code in two bytes and a reason in UTF-8."""

    kind: Kind
    payload: bytes


Payload: TypeAlias = bytes | tuple[bytes, memoryview]
"""Of a message to be sent: its bytes, or two pieces of them, the first of which has a multiple of four bytes."""

_new_tuple = tuple.__new__  # the generated constructor takes twice as long


@plain_class
class WebSocketViolation(RemoteProtocolError):
    """The peer broke the rules of frames; ``close_code`` is what to close with."""

    def __init__(self, close_code: int, message: str) -> None:
        super().__init__(message)
        self.close_code = close_code
        self.messages: list[Message] = []
        """Whole messages that came before the violation in the same call."""


MaskSource = Callable[[], bytes]
"""Gives four fresh unpredictable bytes at each call."""

_MASK_POOL_BYTES: Final = 1024


def pooled_masks(random_bytes: Callable[[int], bytes] = os.urandom) -> MaskSource:
    """Masks out of a pool that is filled by ``random_bytes``; one source may serve many connections."""

    def masks() -> Iterator[bytes]:
        while True:
            pool = random_bytes(_MASK_POOL_BYTES)
            for start in range(0, _MASK_POOL_BYTES, 4):
                yield pool[start : start + 4]

    return masks().__next__


def parse_close(payload: bytes) -> tuple[int, str]:
    """Code and reason of a CLOSE that the codec gave; 1005 when it had none."""
    return (int.from_bytes(payload[:2], "big"), payload[2:].decode()) if payload else (NO_CODE, "")


def _may_travel(code: int) -> bool:
    """§7.4 and the registry of IANA: not 1004, 1005, 1006 and 1015, nor what nobody has defined."""
    return 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999


class WebSocketCodec:
    """The frames of one connection. After a CLOSE or a violation whatever still comes is discarded (§1.4)."""

    __slots__ = (
        "_done",
        "_fragments",
        "_header_bytes",
        "_mask_bit",
        "_mask_source",
        "_message_bytes",
        "_message_bytes_max",
        "_message_kind",
        "_need",
        "_partial",
        "limits",
    )

    def __init__(
        self,
        role: Literal["server", "client"],
        limits: WebSocketLimits,
        mask_source: MaskSource | None = None,
    ) -> None:
        """A client takes its masks from ``mask_source``, by default from the system's randomness."""
        self.limits = limits
        self._message_bytes_max = limits.message_bytes_max
        self._mask_source = (mask_source or pooled_masks()) if role == "client" else None
        # Of frames that we receive (TUN-12).
        self._mask_bit = 0x80 if role == "server" else 0
        self._header_bytes = 6 if role == "server" else 2
        self._partial: bytearray | None = None  # the beginning of a frame
        self._need = 0  # bytes of it that must be there before it is looked at again
        self._fragments: list[bytes] = []
        self._message_bytes = 0  # in them
        self._message_kind: Kind | None = None  # of the fragmented message that has begun
        self._done = False

    # Receiving.

    def receive_data(self, data: bytes) -> list[Message]:
        """Take bytes as they came, and give the messages that are whole now.

        Raises ``WebSocketViolation``; the codec then takes nothing more.
        """
        messages: list[Message] = []
        if self._done:
            return messages
        try:
            self._receive(data, self._complete_partial(data, messages) if self._partial else 0, messages)
        except WebSocketViolation as violation:
            self.discard()
            violation.messages = messages
            raise
        return messages

    def _receive(self, data: bytes | bytearray, position: int, messages: list[Message]) -> None:
        """Take every whole frame from ``position`` on; what is left over becomes the partial frame."""
        size = len(data)
        mask_bit, header_bytes = self._mask_bit, self._header_bytes
        while position < size:
            if size - position < 2:
                return self._keep(data, position, 2)
            first = data[position]
            length = data[position + 1] - mask_bit
            start = position + header_bytes
            if not 0 <= length <= CONTROL_BYTES_MAX:
                length, length_bytes = self._long_length(data, position, length)
                start += length_bytes
                if length < 0:
                    return self._keep(data, position, 2 + length_bytes)
            if first != FIN_BINARY or self._message_kind is not None or length > self._message_bytes_max:
                self._check(first, length)
            end = start + length
            if end > size:
                return self._keep(data, position, end - position)
            payload = data[start:end] if length < _VIEW_BYTES_MIN else memoryview(data)[start:end]
            whole = _apply_mask(payload, bytes(data[start - 4 : start])) if mask_bit else bytes(payload)
            if first == FIN_BINARY:
                messages.append(_new_tuple(Message, (BINARY, whole)))
            else:
                self._receive_frame(first, whole, messages)
                if self._done:
                    return None
            position = end
        return None

    def _keep(self, data: bytes | bytearray, position: int, need: int) -> None:
        self._partial = bytearray(memoryview(data)[position:])
        self._need = need

    def _complete_partial(self, data: bytes, messages: list[Message]) -> int:
        """Give the partial frame what it needs, and no more, so that nothing is copied twice; how much that was."""
        taken = 0
        view = memoryview(data)
        while (partial := self._partial) is not None:
            missing = self._need - len(partial)
            partial += view[taken : taken + missing]
            taken = min(taken + missing, len(data))
            if len(partial) < self._need:
                break
            self._partial = None
            self._receive(partial, 0, messages)  # its length was not known yet: comes back as a partial frame
        return len(data) if self._done else taken

    def _long_length(self, data: bytes | bytearray, position: int, marker: int) -> tuple[int, int]:
        """The length and the bytes it takes behind the second; -1 when they have not arrived. TUN-12, TUN-13."""
        if not 0 <= marker <= 127:
            raise WebSocketViolation(VIOLATION, "the frame is not masked" if marker < 0 else "the frame is masked")
        length_bytes = 2 if marker == 126 else 8
        start = position + 2
        if len(data) < start + length_bytes:
            return -1, length_bytes
        length = int.from_bytes(data[start : start + length_bytes], "big")
        if length <= (CONTROL_BYTES_MAX if marker == 126 else 0xFFFF):
            raise WebSocketViolation(VIOLATION, "the length of a frame is not in its shortest form")
        if length >> 63:
            raise WebSocketViolation(VIOLATION, "the length of a frame has its highest bit set")
        return length, length_bytes

    def _check(self, first: int, length: int) -> None:
        """What a frame may be in this state, before its payload is there. TUN-13, TUN-15, TUN-16."""
        opcode = first & 0x0F
        if first & 0x70:
            raise WebSocketViolation(VIOLATION, "a reserved bit is set")
        if opcode >= Kind.CLOSE.value:
            self._check_control(first, length)
        elif opcode not in _KINDS and opcode != _CONTINUATION:
            raise WebSocketViolation(VIOLATION, f"opcode {opcode} is not defined")
        elif (opcode == _CONTINUATION) != (self._message_kind is not None):
            wrong = "no message has begun" if opcode == _CONTINUATION else "the last message has not ended"
            raise WebSocketViolation(VIOLATION, f"a frame with opcode {opcode} though {wrong}")
        elif self._message_bytes + length > self._message_bytes_max:
            raise WebSocketViolation(TOO_BIG, f"a message of more than {self._message_bytes_max} bytes")
        elif len(self._fragments) >= self.limits.fragments_max:
            raise WebSocketViolation(TOO_BIG, f"a message in more than {self.limits.fragments_max} frames")

    def _check_control(self, first: int, length: int) -> None:
        opcode = first & 0x0F
        if opcode not in _KINDS:
            raise WebSocketViolation(VIOLATION, f"opcode {opcode} is not defined")
        if not first & FIN:
            raise WebSocketViolation(VIOLATION, "a control frame in fragments")
        if length > CONTROL_BYTES_MAX:
            raise WebSocketViolation(VIOLATION, f"a control frame of more than {CONTROL_BYTES_MAX} bytes")

    def _receive_frame(self, first: int, payload: bytes, messages: list[Message]) -> None:
        """A whole frame that is allowed, and is not a whole binary message."""
        opcode = first & 0x0F
        if opcode >= Kind.CLOSE.value:
            if opcode == Kind.CLOSE.value:
                _check_close(payload)
                self.discard()
            messages.append(Message(_KINDS[opcode], payload))
            return
        if opcode != _CONTINUATION:
            self._message_kind = _KINDS[opcode]
        self._fragments.append(payload)
        self._message_bytes += len(payload)
        if first & FIN and self._message_kind is not None:
            messages.append(Message(self._message_kind, b"".join(self._fragments)))
            self._forget_fragments()

    def _forget_fragments(self) -> None:
        self._fragments = []
        self._message_bytes = 0
        self._message_kind = None

    @property
    def unfinished_bytes(self) -> int:
        """What is kept of a message that has not ended, and of a frame that has not arrived whole."""
        return self._message_bytes + (len(self._partial) if self._partial is not None else 0)

    def discard(self) -> None:
        """Keep nothing, and discard whatever still comes."""
        self._done = True
        self._partial = None
        self._forget_fragments()

    # Sending.

    def encode(self, *payloads: Payload) -> list[bytes | memoryview]:
        """The buffers of so many binary messages, each in one frame."""
        source = self._mask_source
        buffers: list[bytes | memoryview] = []
        for payload in payloads:
            if not isinstance(payload, bytes):
                self._encode_pieces(payload[0], payload[1], buffers)
            elif source is None:
                buffers += (_header(FIN_BINARY, 0, len(payload)), payload)
            else:
                mask = source()
                buffers += (_header(FIN_BINARY, 0x80, len(payload)) + mask, _apply_mask(payload, mask))
        return buffers

    def _encode_pieces(self, first: bytes, rest: memoryview, buffers: list[bytes | memoryview]) -> None:
        """Two pieces as one frame, without a copy of both; the mask of four bytes begins anew with the second."""
        assert len(first) % 4 == 0, "the mask would be out of step"
        size = len(first) + len(rest)
        if self._mask_source is None:
            buffers += (_header(FIN_BINARY, 0, size) + first, rest)
        else:
            mask = self._mask_source()
            buffers += (_header(FIN_BINARY, 0x80, size) + mask + _apply_mask(first, mask), _apply_mask(rest, mask))

    def encode_ping(self, payload: bytes = b"") -> bytes:
        """A ping with at most 125 bytes."""
        return self._encode_control(Kind.PING, payload)

    def encode_pong(self, payload: bytes) -> bytes:
        """The answer to a ping, with its payload (TUN-17)."""
        return self._encode_control(Kind.PONG, payload)

    def encode_close(self, code: int = 1000, reason: str = "") -> bytes:
        """The end of what we send; a long reason is cut, a code that never travels is a ``LocalProtocolError``."""
        if not _may_travel(code):
            raise LocalProtocolError(f"close code {code} may not be sent")
        short = reason.encode(errors="replace")[:REASON_BYTES_MAX].decode(errors="ignore").encode()
        return self._encode_control(Kind.CLOSE, code.to_bytes(2, "big") + short)

    def _encode_control(self, kind: Kind, payload: bytes) -> bytes:
        length = len(payload)
        if length > CONTROL_BYTES_MAX:
            raise LocalProtocolError(f"a control frame holds {CONTROL_BYTES_MAX} bytes, not {length}")
        source = self._mask_source
        if source is None:
            return _header(FIN | kind.value, 0, length) + payload
        mask = source()
        return _header(FIN | kind.value, 0x80, length) + mask + _apply_mask(payload, mask)


def _header(first: int, mask_bit: int, length: int) -> bytes:
    """A header with the length in its shortest form, without the mask."""
    if length <= CONTROL_BYTES_MAX:
        return bytes((first, mask_bit | length))
    if length <= 0xFFFF:
        return _MEDIUM.pack(first, mask_bit | 126, length)
    return _LONG.pack(first, mask_bit | 127, length)


def _check_close(payload: bytes) -> None:
    """§5.5.1 and TUN-18: nothing, or a code that may travel and a reason in UTF-8."""
    if not payload:
        return
    if len(payload) == 1:
        raise WebSocketViolation(VIOLATION, "a close frame with one byte")
    code = int.from_bytes(payload[:2], "big")
    if not _may_travel(code):
        raise WebSocketViolation(VIOLATION, f"close code {code} may not be sent")
    try:
        payload[2:].decode()
    except UnicodeDecodeError:
        raise WebSocketViolation(NOT_UTF8, "the reason of a close frame is not UTF-8") from None
