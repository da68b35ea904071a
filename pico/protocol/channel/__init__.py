"""One TCP connection between two nodes: how it begins, and its frames (``spec/channel.md``)."""

from pico.protocol.channel.failures import (
    ChannelViolation,
    ConnectedToSelf,
    ForgedFrame,
    FrameTooLarge,
    NoAnswer,
    OtherNode,
    SameName,
)
from pico.protocol.channel.frames import ClearFrames, Frames, SealedFrames
from pico.protocol.channel.handshake import Channel, Handshake, HandshakeState
from pico.protocol.channel.hello import Identity, Purpose

__all__ = [
    "Channel",
    "ChannelViolation",
    "ClearFrames",
    "ConnectedToSelf",
    "ForgedFrame",
    "FrameTooLarge",
    "Frames",
    "Handshake",
    "HandshakeState",
    "Identity",
    "NoAnswer",
    "OtherNode",
    "Purpose",
    "SameName",
    "SealedFrames",
]
