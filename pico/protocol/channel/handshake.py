"""How a channel begins (``spec/channel.md``, Handshake).

Responsible for: saying hello, judging the peer's, deriving the keys, and proving them to each other before anything
else is believed. Refuses to know: sockets, the clock, where random bytes come from, and what the frames will carry.

Each side says one hello and then one empty frame, its *confirmation*. A hello is only a claim. The keys of the frames
are derived from both hellos, so a confirmation that opens was made by somebody who has the key of the cluster, saw
exactly these two hellos, and did so after our random bytes were drawn: nothing of an earlier channel opens here.

The side that is dialled says hello before it judges, so that the other one finds the same fault by itself.
"""

from __future__ import annotations

from enum import Enum
from hashlib import sha256
from typing import Final, NamedTuple

from pico.config import ChannelLimits
from pico.errors import LocalProtocolError, RemoteProtocolError
from pico.protocol.channel.failures import ChannelViolation, ConnectedToSelf, NoAnswer, OtherNode, SameName
from pico.protocol.channel.frames import ClearFrames, Frames, SealedFrames
from pico.protocol.channel.hello import (
    ANSWER,
    HEAD,
    SEALED,
    Head,
    Hello,
    Identity,
    Purpose,
    decode_head,
    decode_hello,
    encode_hello,
)
from pico.protocol.gossip.packets import ForeignCluster
from pico.protocol.seal import NoKey, OtherVersion, UnknownKey, Unsealed, derive_key

__all__ = ["Channel", "Handshake", "HandshakeState"]

CHANNEL_LABEL: Final = b"pico channel"
TO_DIALLED: Final = b"\x00"
TO_DIALLER: Final = b"\x01"


class HandshakeState(Enum):
    """What is waited for."""

    HELLO = "hello"
    CONFIRMATION = "confirmation"
    OPEN = "open"
    FAILED = "failed"


class Channel(NamedTuple):
    """A channel that is open."""

    purpose: Purpose
    node_id: str
    life: int
    version: int
    frames: Frames
    leftover: bytes
    """What arrived behind the handshake; the first bytes for ``frames``."""


class Handshake:
    """One side of the beginning of one channel; the side that dials has a ``purpose``, and may say whom it ``wants``.

    ``random`` is 16 bytes of chance, fresh for each handshake.
    """

    def __init__(
        self,
        me: Identity,
        limits: ChannelLimits,
        random: bytes,
        *,
        purpose: Purpose | None = None,
        wanted: str = "",
        now: float,
    ) -> None:
        self.state = HandshakeState.HELLO
        self._me = me
        self._limits = limits
        self._purpose = purpose
        self._wanted = wanted
        self._dials = purpose is not None
        self._deadline = now + limits.handshake_s
        self._own_hello = encode_hello(me, random, purpose, wanted)
        self._outgoing = [self._own_hello] if self._dials else []
        self._answered = self._dials
        self._received = b""
        self._version = 0
        self._peer: Hello | None = None
        self._frames: Frames | None = None

    def outgoing(self) -> list[bytes]:
        """What is to be sent; after a violation too, so that the peer can learn why."""
        buffers, self._outgoing = self._outgoing, []
        return buffers

    def receive_data(self, data: bytes, *, now: float) -> Channel | None:
        """Take bytes as they came; the channel when it is open, after which nothing may come here.

        Raises ``RemoteProtocolError``, of one of the named kinds where it has one; nothing more is taken then.
        """
        if self.state is HandshakeState.OPEN:
            raise LocalProtocolError("the channel is open: its frames take what comes")
        self.handle_timer(now=now)
        if self.state is HandshakeState.FAILED:
            return None
        self._received += data
        try:
            return self._advance()
        except RemoteProtocolError:
            self._fail()
            raise

    def next_timer(self) -> float | None:
        """When ``handle_timer`` wants to be called; None when nothing is waited for."""
        return self._deadline if self.state in (HandshakeState.HELLO, HandshakeState.CONFIRMATION) else None

    def handle_timer(self, *, now: float) -> None:
        """Raises ``NoAnswer`` when the peer is late."""
        at = self.next_timer()
        if at is not None and now >= at:  # CHANNEL-14
            state = self.state
            self._fail()
            is_stranger = self._dials and not self._wanted and state is HandshakeState.HELLO
            hint = ", perhaps it is no gossip port" if is_stranger else ""
            raise NoAnswer(f"channel: no {state.value} in {self._limits.handshake_s:g} s{hint}")

    def _fail(self) -> None:
        self.state = HandshakeState.FAILED
        self._received = b""

    def _advance(self) -> Channel | None:
        if self.state is HandshakeState.HELLO:
            self._take_hello()
        if self.state is HandshakeState.CONFIRMATION:
            return self._take_confirmation()
        return None

    # Hellos.

    def _take_hello(self) -> None:
        if len(self._received) < HEAD.size:
            return
        head = decode_head(self._received[: HEAD.size])
        if not self._answered:  # CHANNEL-3
            self._answered = True
            self._outgoing.append(self._own_hello)
        self._check_head(head)
        if len(self._received) < head.size:
            return
        hello, self._received = self._received[: head.size], self._received[head.size :]
        self._peer = decode_hello(hello)
        self._check_peer(self._peer)
        if not self._dials:
            self._purpose = Purpose(head.purpose)
        self._version = min(self._me.version_max, head.version_max)  # CHANNEL-5
        self._frames = self._make_frames(self._peer, hello)
        self._outgoing += self._frames.encode(b"")  # CHANNEL-12
        self.state = HandshakeState.CONFIRMATION

    def _check_head(self, head: Head) -> None:
        if not 1 <= head.version_min <= head.version_max:  # CHANNEL-4
            raise ChannelViolation(f"hello: versions from {head.version_min} to {head.version_max}")
        if head.version_max < self._me.version_min or head.version_min > self._me.version_max:  # CHANNEL-5
            raise OtherVersion(f"hello: versions {head.version_min} to {head.version_max}")
        if head.flags & ~SEALED:  # CHANNEL-2
            raise ChannelViolation(f"hello: flags {head.flags:#04x} that have no meaning")
        if self._me.keys is not None and not head.flags:  # CHANNEL-6
            raise Unsealed("hello: in the clear, and a key is required here")
        if self._me.keys is None and head.flags:  # CHANNEL-6
            raise NoKey("hello: sealed, and there is no key here")
        if head.purpose not in ((ANSWER,) if self._dials else tuple(Purpose)):  # CHANNEL-2
            raise ChannelViolation(f"hello: the purpose {head.purpose}, which is not for this side")
        if head.size > self._limits.hello_bytes_max:  # CHANNEL-7
            raise ChannelViolation(f"hello: {head.size} bytes, more than {self._limits.hello_bytes_max}")

    def _check_peer(self, peer: Hello) -> None:
        me = self._me
        if peer.cluster != me.cluster:  # CHANNEL-8
            raise ForeignCluster(f"hello: of the cluster {peer.cluster}")
        if me.keys is not None and peer.key_id not in me.keys.by_id:  # CHANNEL-9
            raise UnknownKey(f"hello: the key {peer.key_id.hex()} is not known")
        if peer.node_id == me.node_id:  # CHANNEL-10
            if peer.life == me.life:
                raise ConnectedToSelf("hello: of this process")
            raise SameName(f"hello: of another process with the name {peer.node_id}")
        if self._wanted not in ("", peer.node_id):  # CHANNEL-11
            raise OtherNode(f"hello: of {peer.node_id}, and {self._wanted} was wanted")
        if peer.wanted not in ("", me.node_id):  # CHANNEL-11
            raise OtherNode(f"hello: from {peer.node_id}, which wants {peer.wanted}")

    # Frames.

    def _make_frames(self, peer: Hello, peer_hello: bytes) -> Frames:
        link = self._purpose is Purpose.LINK
        bytes_max = self._limits.link_frame_bytes_max if link else self._limits.exchange_frame_bytes_max
        keys = self._me.keys
        if keys is None:
            return ClearFrames(bytes_max)
        hellos = (self._own_hello, peer_hello) if self._dials else (peer_hello, self._own_hello)
        sends, receives = (TO_DIALLED, TO_DIALLER) if self._dials else (TO_DIALLER, TO_DIALLED)
        info = CHANNEL_LABEL + bytes((self._version,)) + sha256(b"".join(hellos)).digest()  # CHANNEL-13
        sending_key = derive_key(keys.primary, info + sends)
        return SealedFrames(bytes_max, sending_key, derive_key(keys.by_id[peer.key_id], info + receives))

    def _take_confirmation(self) -> Channel | None:
        frames, peer, purpose = self._frames, self._peer, self._purpose
        assert frames is not None and peer is not None and purpose is not None
        size = frames.overhead_bytes
        if len(self._received) < size:
            return None
        confirmation, leftover = self._received[:size], self._received[size:]
        if frames.receive_data(confirmation) != [b""]:  # CHANNEL-12
            raise ChannelViolation("channel: the first frame is not empty")
        self.state = HandshakeState.OPEN
        return Channel(purpose, peer.node_id, peer.life, self._version, frames, leftover)
