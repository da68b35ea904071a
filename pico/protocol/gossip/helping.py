"""Pings for others: whoever has no answer from a node asks a third one to try (``spec/gossip.md``, GOSSIP-60).

Responsible for: which ping was sent for whom, passing on its answer, and saying in time that there is none. Refuses to
know: packets, and who judges whom.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

from pico.config import GossipTimers
from pico.protocol.gossip.values import Ack, Address, Chance, Nack, Ping, PingRequest

__all__ = ["HELPED_MAX", "Answer", "Helping"]

HELPED_MAX: Final = 1_024
"""Pings that were sent for others and have not been answered."""


class Answer(NamedTuple):
    """What to tell the node that has asked."""

    address: Address
    message: Ack | Nack


@dataclass(slots=True)
class _Helped:
    origin: Address
    sequence: int
    node_id: str
    nack_at: float


class Helping:
    """What one member does for others."""

    def __init__(self, timers: GossipTimers, rng: Chance) -> None:
        self._timers = timers
        self._rng = rng
        self._helped: dict[int, _Helped] = {}

    def begin(self, request: PingRequest, origin: Address, *, now: float) -> Ping | None:
        """The ping to send for the node at ``origin``; None when there are too many already."""
        if len(self._helped) >= HELPED_MAX:
            return None
        sequence = self._rng.getrandbits(32)
        self._helped[sequence] = _Helped(origin, request.sequence, request.node_id, now + self._timers.probe_timeout_s)
        return Ping(sequence, request.node_id)

    def answered(self, ack: Ack) -> Answer | None:
        """What to pass on, if it is the answer to a ping that was sent for another."""
        helped = self._helped.get(ack.sequence)
        if helped is None or helped.node_id != ack.node_id:
            return None
        del self._helped[ack.sequence]
        return Answer(helped.origin, Ack(helped.sequence, ack.node_id, ack.life))

    def next_timer(self) -> float | None:
        """When ``handle_timer`` wants to be called."""
        return min((helped.nack_at for helped in self._helped.values()), default=None)

    def handle_timer(self, *, now: float) -> list[Answer]:
        """Say of those that are late that there is no answer."""
        late = [(sequence, helped) for sequence, helped in self._helped.items() if now >= helped.nack_at]
        for sequence, _ in late:
            del self._helped[sequence]
        return [Answer(helped.origin, Nack(helped.sequence)) for _, helped in late]
