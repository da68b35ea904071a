"""Why a channel was refused or broken, each kind under its own name, so that it can be counted.

Responsible for: the names that channels have of their own; ``ForeignCluster``, ``OtherVersion``, ``Unsealed``,
``NoKey`` and ``UnknownKey`` mean here what they mean for packets. Refuses to know: who raises them.
"""

from __future__ import annotations

from pico.errors import RemoteProtocolError
from pico.protocol.seal import Forged

__all__ = [
    "ChannelViolation",
    "ConnectedToSelf",
    "ForgedFrame",
    "FrameTooLarge",
    "NoAnswer",
    "OtherNode",
    "SameName",
]


class ChannelViolation(RemoteProtocolError):
    """The peer broke the rules of channels."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.frames: list[bytes] = []
        """Whole frames that came before the violation in the same call."""


class FrameTooLarge(ChannelViolation):
    """A frame that declares more than the purpose of its channel allows."""


class ForgedFrame(ChannelViolation, Forged):
    """A frame whose tag does not hold: spoilt, out of its order, or made by somebody without the key."""


class OtherNode(ChannelViolation):
    """Whoever answers at this address, or was asked for, is another node."""


class ConnectedToSelf(ChannelViolation):
    """Both ends are this process."""


class SameName(ChannelViolation):
    """Another process has our node ID."""


class NoAnswer(ChannelViolation):
    """The handshake was not complete in time."""
