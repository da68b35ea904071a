"""The product's side of a channel, made from the plain values of ``tests/channel_slow.py``."""

from __future__ import annotations

from typing import Any

from pico.config import ChannelLimits
from pico.errors import RemoteProtocolError
from pico.protocol.channel import (
    Channel,
    ChannelViolation,
    ConnectedToSelf,
    ForgedFrame,
    FrameTooLarge,
    Handshake,
    Identity,
    NoAnswer,
    OtherNode,
    Purpose,
    SameName,
)
from pico.protocol.gossip import ForeignCluster
from pico.protocol.seal import KeyRing, NoKey, OtherVersion, UnknownKey, Unsealed
from tests.channel_slow import Value

KINDS: dict[str, type[RemoteProtocolError]] = {
    "violation": ChannelViolation,
    "version": OtherVersion,
    "unsealed": Unsealed,
    "no key": NoKey,
    "unknown key": UnknownKey,
    "cluster": ForeignCluster,
    "other node": OtherNode,
    "self": ConnectedToSelf,
    "same name": SameName,
    "no answer": NoAnswer,
    "too large": FrameTooLarge,
    "forged": ForgedFrame,
}


def identity(said: Value) -> Identity:
    keys = tuple(map(bytes.fromhex, said.get("keys", [])))
    ring = KeyRing(keys) if keys else None
    return Identity(said["cluster"], said["node"], said["life"], ring, *said.get("versions", [1, 1]))


def begin(said: Value, *, now: float = 0.0, **limits: Any) -> Handshake:
    return Handshake(
        identity(said),
        ChannelLimits(**limits),
        bytes.fromhex(said["random"]),
        purpose=Purpose[said["purpose"]] if said.get("purpose") else None,
        wanted=said.get("wanted", ""),
        now=now,
    )


def connect(dials: Value, dialled: Value, **limits: Any) -> tuple[Channel, Channel]:
    """Both ends of an open channel."""
    one, other = begin(dials, **limits), begin(dialled, **limits)
    assert other.receive_data(b"".join(one.outgoing()), now=0.0) is None
    near = one.receive_data(b"".join(other.outgoing()), now=0.0)
    far = other.receive_data(b"".join(one.outgoing()), now=0.0)
    assert near is not None and far is not None
    return near, far


def channel_value(channel: Channel) -> Value:
    return {
        "purpose": channel.purpose.name,
        "node": channel.node_id,
        "life": channel.life,
        "version": channel.version,
    }
