"""Channels between nodes on byte streams (``spec/channel.md``).

Responsible for: running a handshake over a stream for one greenlet, and giving the frames of a peer link the face of
WebSocket messages, so that the same multiplexer drives both. Refuses to know: who dials whom, and what for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pico.config import ChannelLimits
from pico.errors import ConnectionLost, LocalProtocolError, PicoError, TransportTimeout
from pico.protocol.channel import Channel, Frames, Handshake
from pico.transport.blocking_reader import BlockingReader
from pico.transport.clock import Clock
from pico.transport.stream import Stream
from pico.transport.websocket import BINARY, Kind, Message, Payload

__all__ = ["ChannelCodec", "shake_hands"]

_CLOSE: Final = Message(Kind.CLOSE, b"")
_END: Final = b""

_new_tuple = tuple.__new__  # the generated constructor takes twice as long


def shake_hands(stream: Stream, handshake: Handshake, clock: Clock) -> Channel:
    """The channel that both sides agreed on; the stream has no receiver then.

    Raises ``RemoteProtocolError`` or one of its named kinds, or ``ConnectionLost``; the stream is closed then, and the
    peer has been told what it needs to find the same fault. Blocks the calling greenlet only.
    """
    reader = BlockingReader(stream, clock)
    try:
        channel = None
        while channel is None:
            stream.writev(handshake.outgoing())
            channel = handshake.receive_data(_receive(reader, handshake, clock), now=clock.now())
        stream.writev(handshake.outgoing())
    except PicoError:
        stream.writev(handshake.outgoing())
        stream.close()
        raise
    return channel._replace(leftover=channel.leftover + reader.detach())


def _receive(reader: BlockingReader, handshake: Handshake, clock: Clock) -> bytes:
    """What has arrived; nothing when the handshake is late, which is for it to say."""
    at = handshake.next_timer()
    assert at is not None, "a handshake that waits for nothing"
    try:
        data = reader.receive(max(0.0, at - clock.now()))
    except TransportTimeout:
        return b""
    if not data:
        raise ConnectionLost("the peer closed the connection in the handshake")
    return data


class ChannelCodec:
    """The messages of a peer link: one a frame, and an empty frame closes (CHANNEL-18)."""

    __slots__ = ("_closed", "_frames", "limits")

    def __init__(self, frames: Frames, limits: ChannelLimits) -> None:
        self.limits = limits
        self._frames = frames
        self._closed = False  # by the peer

    def receive_data(self, data: bytes) -> list[Message]:
        """Take bytes as they came, and give the messages that are whole now.

        Raises ``ChannelViolation``; the codec then takes nothing more.
        """
        frames = [] if self._closed else self._frames.receive_data(data)
        if _END not in frames:
            return [_new_tuple(Message, (BINARY, frame)) for frame in frames]
        self._closed = True
        whole = frames.index(_END)
        return [Message(BINARY, frame) for frame in frames[:whole]] + [_CLOSE]

    def encode(self, *payloads: Payload) -> Sequence[bytes | memoryview]:
        """The buffers of so many messages; an empty one would close."""
        assert all(payloads), "a message without a byte"
        return self._frames.encode(*(one if isinstance(one, bytes) else b"".join(one) for one in payloads))

    def encode_close(self, code: int = 1000, reason: str = "") -> bytes:
        """The end of what we send; a channel says neither code nor reason."""
        return b"".join(self._frames.encode(_END))

    def encode_pong(self, payload: bytes) -> bytes:
        """Nobody asks for one: a channel has no pings."""
        raise LocalProtocolError("a channel has no pongs")
