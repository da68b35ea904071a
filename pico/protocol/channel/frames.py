"""The frames of a channel, both directions, once its handshake is done (``spec/channel.md``, Frames).

Responsible for: bytes to whole payloads, strictly and within a limit, and payloads to bytes; in the clear with a
checksum, or sealed with one key for each direction and a counter that nobody sends. Refuses to know: what a payload
means, and who needs it by when.

A size is judged when it is declared, before anything is kept. What is kept between two calls is one frame that has not
arrived whole. Every forwarded request passes here, so a frame that is whole costs one unpacking and one checksum or
decryption, and nothing is copied twice.
"""

from __future__ import annotations

from struct import Struct
from typing import Final
from zlib import crc32

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from pico.errors import LocalProtocolError
from pico.protocol.channel.failures import ChannelViolation, ForgedFrame, FrameTooLarge
from pico.protocol.seal import NONCE, TAG_BYTES

__all__ = ["ClearFrames", "Frames", "SealedFrames"]

SIZE: Final = Struct(">I")
CLEAR_HEAD: Final = Struct(">II")

# From this size on a slice costs more than the memoryview that saves it.
_VIEW_BYTES_MIN: Final = 1024


class Frames:
    """In the clear or sealed. After a violation whatever still comes is discarded."""

    __slots__ = ("_done", "_need", "_partial", "frame_bytes_max")

    _head_bytes: int
    _tail_bytes: int

    def __init__(self, frame_bytes_max: int) -> None:
        self.frame_bytes_max = frame_bytes_max
        self._partial: bytearray | None = None  # the beginning of a frame
        self._need = 0  # bytes of it that must be there before it is looked at again
        self._done = False

    @property
    def overhead_bytes(self) -> int:
        """What a frame adds to its payload."""
        return self._head_bytes + self._tail_bytes

    def receive_data(self, data: bytes) -> list[bytes]:
        """Take bytes as they came, and give the payloads that are whole now.

        Raises ``ChannelViolation``; nothing more is taken then.
        """
        frames: list[bytes] = []
        if self._done:
            return frames
        try:
            self._receive(data, self._complete_partial(data, frames) if self._partial else 0, frames)
        except ChannelViolation as violation:
            self._done = True
            self._partial = None
            violation.frames = frames
            raise
        return frames

    def encode(self, *payloads: bytes) -> list[bytes]:
        """The buffers of so many frames; a payload over ``frame_bytes_max`` is a ``LocalProtocolError``."""
        raise NotImplementedError

    def _open(self, data: bytes | bytearray, position: int, end: int) -> bytes:
        """The payload of the whole frame between."""
        raise NotImplementedError

    def _receive(self, data: bytes | bytearray, position: int, frames: list[bytes]) -> None:
        """Take every whole frame from ``position`` on; what is left over becomes the partial frame."""
        size = len(data)
        overhead_bytes, frame_bytes_max = self._head_bytes + self._tail_bytes, self.frame_bytes_max
        while position < size:
            if size - position < SIZE.size:
                return self._keep(data, position, SIZE.size)
            (payload_bytes,) = SIZE.unpack_from(data, position)
            if payload_bytes > frame_bytes_max:  # CHANNEL-15
                raise FrameTooLarge(f"frame: {payload_bytes} bytes, more than {frame_bytes_max}")
            end = position + overhead_bytes + payload_bytes
            if end > size:
                return self._keep(data, position, end - position)
            frames.append(self._open(data, position, end))
            position = end
        return None

    def _keep(self, data: bytes | bytearray, position: int, need: int) -> None:
        self._partial = bytearray(memoryview(data)[position:])
        self._need = need

    def _complete_partial(self, data: bytes, frames: list[bytes]) -> int:
        """Give the partial frame what it needs, and no more, so that nothing is copied twice; how much that was."""
        taken = 0
        view = memoryview(data)
        while (partial := self._partial) is not None:
            missing = self._need - len(partial)
            partial += view[taken : taken + missing]
            taken += missing
            if len(partial) < self._need:
                break
            self._partial = None
            self._receive(partial, 0, frames)  # its size was not known yet: comes back as a partial frame
        return taken

    def _check_size(self, payload: bytes) -> None:
        if len(payload) > self.frame_bytes_max:
            raise LocalProtocolError(f"a frame holds {self.frame_bytes_max} bytes, not {len(payload)}")


class ClearFrames(Frames):
    """Size and checksum, then the payload."""

    __slots__ = ()

    _head_bytes = CLEAR_HEAD.size
    _tail_bytes = 0

    def encode(self, *payloads: bytes) -> list[bytes]:
        """See ``Frames``."""
        buffers: list[bytes] = []
        for payload in payloads:
            self._check_size(payload)
            buffers += (CLEAR_HEAD.pack(len(payload), crc32(payload)), payload)
        return buffers

    def _open(self, data: bytes | bytearray, position: int, end: int) -> bytes:
        start = position + CLEAR_HEAD.size
        payload = bytes(memoryview(data)[start:end]) if end - start >= _VIEW_BYTES_MIN else bytes(data[start:end])
        if crc32(payload) != CLEAR_HEAD.unpack_from(data, position)[1]:  # CHANNEL-16
            raise ChannelViolation("frame: a checksum that does not hold")
        return payload


class SealedFrames(Frames):
    """Size, then ciphertext and tag."""

    __slots__ = ("_decrypt", "_encrypt", "_received", "_sent")

    _head_bytes = SIZE.size
    _tail_bytes = TAG_BYTES

    def __init__(self, frame_bytes_max: int, sending_key: bytes, receiving_key: bytes) -> None:
        super().__init__(frame_bytes_max)
        self._encrypt = AESGCM(sending_key).encrypt
        self._decrypt = AESGCM(receiving_key).decrypt
        self._sent = 0
        self._received = 0

    def encode(self, *payloads: bytes) -> list[bytes]:
        """See ``Frames``."""
        buffers: list[bytes] = []
        for payload in payloads:
            self._check_size(payload)
            nonce = NONCE.pack(0, self._sent)
            self._sent += 1  # CHANNEL-17
            buffers += (SIZE.pack(len(payload)), self._encrypt(nonce, payload, None))
        return buffers

    def _open(self, data: bytes | bytearray, position: int, end: int) -> bytes:
        start = position + SIZE.size
        sealed = memoryview(data)[start:end] if end - start >= _VIEW_BYTES_MIN else data[start:end]
        try:
            payload = self._decrypt(NONCE.pack(0, self._received), sealed, None)
        except InvalidTag:
            raise ForgedFrame("frame: a tag that does not hold") from None  # CHANNEL-17
        self._received += 1
        return payload
