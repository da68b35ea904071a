"""What a link is told.

Values only: frozen, with slots. A tunnel is named by the number that the link's engine gave to its dial.
"""

from __future__ import annotations

from dataclasses import dataclass

from pico.agent.dialling import Connected
from pico.protocol.tunnel import Refusal

__all__ = ["DialEnded", "StopLink", "TimerFired", "TunnelEnded", "TunnelGoaway"]


@dataclass(frozen=True, slots=True)
class DialEnded:
    """A dial has its outcome: a connection, the server's refusal, or the sentence that says what failed."""

    tunnel: int
    outcome: Connected | Refusal | str


@dataclass(frozen=True, slots=True)
class TunnelGoaway:
    """The node takes no new streams on this tunnel."""

    tunnel: int
    reason: str


@dataclass(frozen=True, slots=True)
class TunnelEnded:
    """The tunnel is over; every stream on it has had its last event."""

    tunnel: int
    reason: str


@dataclass(frozen=True, slots=True)
class TimerFired:
    """It is the time that the engine asked for, or time to look whether a tunnel is idle."""


@dataclass(frozen=True, slots=True)
class StopLink:
    """Finish what is in flight and end; told again, end at once."""
