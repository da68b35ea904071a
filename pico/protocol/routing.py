"""Which upstream a request goes to, and whether it may go to another one afterwards.

Responsible for: the choice among the upstreams of one endpoint, and the rule about trying again. Refuses to know: what
an upstream is beyond how much it has in flight and whether it takes more, and how the others are told.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final, Generic, Protocol, TypeVar

from pico.protocol.rpc import ResetCode

__all__ = ["BALANCERS", "Balancer", "LeastInFlight", "RoundRobin", "may_try_again"]

IDEMPOTENT_METHODS: Final = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"))
"""RFC 9110 §9.2.2."""

_TRY_ELSEWHERE: Final = frozenset((ResetCode.LOST, ResetCode.SERVICE_CLOSED))
_NOT_ELSEWHERE: Final = frozenset((ResetCode.TOO_LARGE, ResetCode.CANCELLED))


class Candidate(Protocol):
    """What a balancer looks at."""

    @property
    def in_flight(self) -> int:
        """Streams that have not ended."""

    @property
    def may_open(self) -> bool:
        """Whether it takes another stream now."""


C = TypeVar("C", bound=Candidate)


class Balancer(Generic[C]):
    """The upstreams of one endpoint, in the order in which they joined, and whose turn it is.

    ``choose`` gives an upstream that takes a stream now and is not in ``tried``, or None.
    """

    def __init__(self, candidates: tuple[C, ...], turn: int = 0) -> None:
        self.candidates = candidates
        self.turn = turn

    def choose(self, tried: Collection[C] = ()) -> C | None:
        """The upstream for the next request."""
        raise NotImplementedError

    def in_turn(self) -> tuple[C, ...]:
        """All candidates, beginning with the one whose turn it is; the next call begins one further."""
        at = self.turn % len(self.candidates)
        self.turn = at + 1
        return self.candidates[at:] + self.candidates[:at]


class LeastInFlight(Balancer[C]):
    """The candidate with the fewest streams in flight; ties take turns (ROUTING-2)."""

    def choose(self, tried: Collection[C] = ()) -> C | None:
        """The upstream for the next request."""
        if len(self.candidates) == 1:
            only = self.candidates[0]
            return only if only.may_open and only not in tried else None
        free = [candidate for candidate in self.in_turn() if candidate.may_open and candidate not in tried]
        return min(free, key=_in_flight, default=None)


class RoundRobin(Balancer[C]):
    """Each candidate in turn, whatever it has in flight (ROUTING-3)."""

    def choose(self, tried: Collection[C] = ()) -> C | None:
        """The upstream for the next request."""
        for candidate in self.in_turn():
            if candidate.may_open and candidate not in tried:
                return candidate
        return None


def _in_flight(candidate: Candidate) -> int:
    return candidate.in_flight


BALANCERS: Final[dict[str, type[Balancer[Any]]]] = {
    "least-in-flight": LeastInFlight,
    "round-robin": RoundRobin,
}
"""The values of ``--balance``."""


def may_try_again(method: bytes, code: ResetCode, *, untouched: bool, body_held: bool) -> bool:
    """Whether a request may be sent to another upstream after a reset and before any byte of a response.

    ``body_held``: all body bytes that were sent are still at hand. Source: RFC 9110 §9.2.2, ROUTING-5, ROUTING-6.
    """
    if not body_held or code in _NOT_ELSEWHERE:
        return False
    return untouched or (code in _TRY_ELSEWHERE and method in IDEMPOTENT_METHODS)
