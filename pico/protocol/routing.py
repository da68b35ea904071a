"""Which upstream a request goes to, and whether it may go to another one afterwards.

Responsible for: the choice among the upstreams of one endpoint, and the rule about trying again. Refuses to know: what
an upstream is beyond how much it has in flight and whether it takes more, and how the others are told.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
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

    @property
    def in_flight(self) -> int:
        """Streams that have not ended, of all candidates."""
        return sum([candidate.in_flight for candidate in self.candidates])

    def _in_turn(self, tried: Collection[C]) -> Iterator[tuple[int, C]]:
        """The free candidates that were not tried, with their places, beginning with the one whose turn it is."""
        candidates = self.candidates
        at = self.turn % len(candidates) if candidates else 0
        for place in (*range(at, len(candidates)), *range(at)):
            candidate = candidates[place]
            if candidate.may_open and candidate not in tried:  # ROUTING-1
                yield place, candidate

    def _take(self, chosen: tuple[int, C] | None) -> C | None:
        """Hand out what was chosen; the turn goes to the one behind it, so that equals take turns."""
        if chosen is None:
            return None
        place, candidate = chosen
        self.turn = place + 1
        return candidate


class LeastInFlight(Balancer[C]):
    """The candidate with the fewest streams in flight; ties take turns (ROUTING-2)."""

    def choose(self, tried: Collection[C] = ()) -> C | None:
        """The upstream for the next request."""
        if len(self.candidates) == 1:
            only = self.candidates[0]
            return only if only.may_open and only not in tried else None
        return self._take(min(self._in_turn(tried), key=_in_flight, default=None))


class RoundRobin(Balancer[C]):
    """Each candidate in turn, whatever it has in flight (ROUTING-3)."""

    def choose(self, tried: Collection[C] = ()) -> C | None:
        """The upstream for the next request."""
        return self._take(next(self._in_turn(tried), None))


def _in_flight(placed: tuple[int, Candidate]) -> int:
    return placed[1].in_flight


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
