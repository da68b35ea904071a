"""One exchange over a stream: two nodes tell each other in turns what the other one lacks.

Responsible for: whose turn it is, when it is over, and how much one turn may bring. Refuses to know: the stream, and
what is said; the engine of each side reads the bodies of a turn and gives the next.

Who opens it says what it knows of everybody. A turn with bodies is answered with a turn; one without is the last.
"""

from __future__ import annotations

from typing import Final

from pico.errors import RemoteProtocolError
from pico.protocol.gossip.engine import STREAM_BODIES_MAX, GossipEngine
from pico.protocol.gossip.packets import PacketBuilder

__all__ = ["TURNS_MAX", "Exchange"]

TURNS_MAX: Final = 6
"""Digest, what is missing and questions, what was asked for, and once more for what changed meanwhile."""


class Exchange:
    """One side of it. Raises ``RemoteProtocolError`` for what the other side may not do; the exchange is over then."""

    def __init__(self, engine: GossipEngine) -> None:
        self.over = False
        self._engine = engine
        self._answer: PacketBuilder | None = None
        self._bodies = 0  # of the other side's turn
        self._turns = 0

    def open(self) -> list[bytes]:
        """The first turn."""
        self._turns = 1
        return self._engine.open_exchange()

    def receive_body(self, body: bytes, *, now: float) -> None:
        """One body of the other side's turn; one after the other, so that what is long can be done in pieces."""
        if self.over or self._bodies > STREAM_BODIES_MAX + self._engine.nodes_max:  # GOSSIP-71
            raise RemoteProtocolError(f"exchange: a body after {self._bodies} of a turn")
        self._bodies += 1
        if self._answer is None:
            self._answer = self._engine.answer_builder()
        self._engine.receive_body(body, self._answer, now=now)

    def end_turn(self) -> list[bytes]:
        """The other side's turn is over; the bodies of ours, which is over with them.

        A turn that had bodies is answered even with none, which is said and ends the exchange. A turn that had none
        was the last, and nothing is to be said. ``over`` is set either way.
        """
        builder, self._answer, self._bodies = self._answer, None, 0
        self._turns += 1
        if builder is None:
            self.over = True
            return []
        self._turns += 1
        answer = builder.packets() if self._turns < TURNS_MAX else []  # GOSSIP-71
        self.over = not answer
        return answer
