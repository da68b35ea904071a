"""Which upstream or peer a request goes to, and whether it may go to another one afterwards.

Responsible for: the choice among the upstreams of one endpoint, the choice among the peers that have it, who of those
that wait for it is called, the line that tells a peer which endpoint is meant, or that the node itself is, and the rule
about trying again. Refuses to know: what an upstream or a peer is beyond how much it has in flight and whether it takes
more, and how the others are told.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from math import inf
from typing import Any, Final, Generic, Protocol, TypeAlias, TypeVar

from pico.protocol.cluster import Standing
from pico.protocol.http.values import RequestHead
from pico.protocol.rpc import ResetCode

__all__ = [
    "BALANCERS",
    "CALLED_PER_UPSTREAM_MAX",
    "CALL_AGAIN_S",
    "DETOURS_MAX",
    "HELD_BYTES_MAX",
    "IDEMPOTENT_METHODS",
    "QUESTION_BYTES_MAX",
    "Balancer",
    "Chance",
    "Held",
    "LeastInFlight",
    "PeerChoice",
    "RoundRobin",
    "WaitingList",
    "address_of",
    "addressed",
    "choose_peer",
    "held_with",
    "is_question",
    "may_try_again",
    "question",
    "question_of",
]

DETOURS_MAX: Final = 16
"""Times that one request comes to somebody in vain without an attempt: unreachable, without the endpoint, or full."""

CALLED_PER_UPSTREAM_MAX: Final = 1024
"""Streams that an upstream of a peer seems to have free: as many as a tunnel has, unless it is told otherwise."""

CALLED_AFTER_END_MAX: Final = 2
"""Called when a request has ended, where somebody was refused: with more than one their number can grow."""

CALL_AGAIN_S: Final = 0.25
"""How often those who wait are looked at although nothing has happened."""

HELD_BYTES_MAX: Final = 64 * 1024
"""Request body that is kept so that it can be sent again (``held_bytes_max``)."""

IDEMPOTENT_METHODS: Final = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"))
"""RFC 9110 §9.2.2."""

Held: TypeAlias = bytes | bytearray
"""What was sent of a request's body; a ``bytearray`` belongs to whoever keeps it."""

_TRY_ELSEWHERE: Final = frozenset(
    (ResetCode.LOST, ResetCode.UPSTREAM_LOST, ResetCode.SERVICE_CLOSED, ResetCode.NO_ENDPOINT)
)
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
        self._in_flight_max: float = inf  # more are not in flight; for certain, and without counting

    def choose(self, tried: Collection[C] = ()) -> C | None:
        """The upstream for the next request."""
        raise NotImplementedError

    @property
    def in_flight(self) -> int:
        """Streams that have not ended, of all candidates."""
        return sum([candidate.in_flight for candidate in self.candidates])

    def is_full(self, requests_max: int) -> bool:
        """Whether so many are in flight. A choice adds one at most, so they are counted only where it might be."""
        if self._in_flight_max >= requests_max:
            self._in_flight_max = self.in_flight
        return self._in_flight_max >= requests_max

    def _in_turn(self) -> Iterator[tuple[int, C]]:
        """The candidates with their places, beginning with the one whose turn it is."""
        candidates = self.candidates
        at = self.turn % len(candidates) if candidates else 0
        for place in chain(range(at, len(candidates)), range(at)):
            yield place, candidates[place]

    def _take(self, place: int) -> C:
        """Hand out who is there; the turn goes to the one behind it, so that equals take turns."""
        self.turn = place + 1
        self._in_flight_max += 1
        return self.candidates[place]


class LeastInFlight(Balancer[C]):
    """The candidate with the fewest streams in flight; ties take turns (ROUTING-2)."""

    def choose(self, tried: Collection[C] = ()) -> C | None:
        """The upstream for the next request."""
        if len(self.candidates) == 1:  # as most endpoints have it
            return self._take(0) if _is_free(self.candidates[0], tried) else None
        chosen, fewest = -1, inf
        for place, candidate in self._in_turn():
            in_flight = candidate.in_flight
            if in_flight < fewest and _is_free(candidate, tried):
                chosen, fewest = place, in_flight
                if not in_flight:
                    break  # nobody has fewer
        return self._take(chosen) if chosen >= 0 else None


class RoundRobin(Balancer[C]):
    """Each candidate in turn, whatever it has in flight (ROUTING-3)."""

    def choose(self, tried: Collection[C] = ()) -> C | None:
        """The upstream for the next request."""
        for place, candidate in self._in_turn():
            if _is_free(candidate, tried):
                return self._take(place)
        return None


def _is_free(candidate: C, tried: Collection[C]) -> bool:
    return candidate.may_open and candidate not in tried  # ROUTING-1


BALANCERS: Final[dict[str, type[Balancer[Any]]]] = {
    "least-in-flight": LeastInFlight,
    "round-robin": RoundRobin,
}
"""The values of ``--balance``."""


# Peers.


class Peer(Candidate, Protocol):
    """What the choice among peers looks at: streams and link are those of this node towards the peer."""

    @property
    def may_connect(self) -> bool:
        """Whether there is no link yet, and one can be waited for."""


P = TypeVar("P", bound=Peer)


class Chance(Protocol):
    """What is asked of a random generator: ``random.Random`` has it."""

    def random(self) -> float:
        """At least 0 and below 1, each equally likely."""


@dataclass(slots=True)
class PeerChoice(Generic[P]):
    """A peer that has the endpoint, with so many upstreams."""

    peer: P
    upstreams: int
    standing: Standing = Standing.ROUTABLE

    @property
    def load(self) -> float:
        """Streams of this node for each of its upstreams."""
        return self.peer.in_flight / self.upstreams


def choose_peer(choices: Sequence[PeerChoice[P]], rng: Chance) -> P | None:
    """The peer for a request, perhaps one that must be connected to first; None when none takes it (ROUTING-11)."""
    if len(choices) == 1 and choices[0].standing is not Standing.NOT:  # most endpoints are at one node
        peer = choices[0].peer
        return peer if peer.may_open or peer.may_connect else None
    for standing in (Standing.ROUTABLE, Standing.LAST_RESORT):
        able = [choice for choice in choices if choice.standing is standing]
        ready = [choice for choice in able if choice.peer.may_open]
        if ready or (ready := [choice for choice in able if choice.peer.may_connect]):
            return _better_of_two(ready, rng).peer
    return None


def _better_of_two(choices: list[PeerChoice[P]], rng: Chance) -> PeerChoice[P]:
    """ROUTING-12: two draws, without putting back, the chance of each in proportion to its upstreams."""
    if len(choices) == 1:
        return choices[0]
    first = _draw(choices, rng)
    second = _draw([choice for choice in choices if choice is not first], rng)
    return second if second.load < first.load else first


def _draw(choices: list[PeerChoice[P]], rng: Chance) -> PeerChoice[P]:
    at = rng.random() * sum([choice.upstreams for choice in choices])
    for choice in choices:
        at -= choice.upstreams
        if at < 0.0:
            return choice
    return choices[-1]  # what rounding has left over


_ADDRESS_LINE = re.compile(rb"x-pico-endpoint: ([0-9a-z](?:[0-9a-z-]{0,61}[0-9a-z])?)\r\n").match


def addressed(head: RequestHead, endpoint_id: str) -> RequestHead:
    """The head as it travels to a peer: its first line says which endpoint is meant (ROUTING-13)."""
    block = b"x-pico-endpoint: " + endpoint_id.encode("ascii") + b"\r\n" + head.field_block
    return head.with_fields(block)


def address_of(head: RequestHead) -> tuple[str, RequestHead] | None:
    """The endpoint that a head from a peer is addressed to, and the head without that line; None without one."""
    match = _ADDRESS_LINE(head.field_block)
    if match is None:
        return None
    block = head.field_block[match.end() :]
    return match[1].decode("ascii"), head.with_fields(block)


# Questions about a node itself.

QUESTION_BYTES_MAX: Final = 1024
_QUESTION_LINE: Final = b"x-pico-status: 1\r\n"
_QUESTION = re.compile(rb"/status/[!-~]*").fullmatch


def question(target: str) -> RequestHead | None:
    """The head with which a node asks a peer for what its admin door says there; None for what cannot be asked."""
    head = RequestHead(b"GET", target.encode("utf-8", "surrogatepass"), _QUESTION_LINE, 0, b"")
    return None if question_of(head) is None else head


def is_question(head: RequestHead) -> bool:
    """Whether a head from a peer means the node itself, not an endpoint; if it is a valid one, is another matter."""
    return head.field_block.startswith(b"x-pico-status:")


def question_of(head: RequestHead) -> str | None:
    """The target of a question; None for one that breaks a rule (ROUTING-21)."""
    if head.method != b"GET" or head.field_block != _QUESTION_LINE or head.body_length or head.upgrade:
        return None
    if len(head.target) > QUESTION_BYTES_MAX or not _QUESTION(head.target):
        return None
    return head.target.decode("ascii")


# Waiting.

W = TypeVar("W")


class WaitingList(Generic[W]):
    """Those who wait for one endpoint, and those who were called and have not come yet; nobody is searched for.

    Whoever ``call`` gives must say ``came`` before it looks for a stream, or ``left``. What is free here is known, what
    is free at peers is tried out. That takes *trust*: each that ends gives some of it, and a refusal takes all away.
    """

    __slots__ = ("_called", "_first", "_refused", "_trust", "_waiting", "until")

    def __init__(self) -> None:
        self._waiting: OrderedDict[W, None] = OrderedDict()  # in the order in which they came
        self._first: OrderedDict[W, None] = OrderedDict()  # were called in vain: before all the others
        self._called: dict[W, None] = {}
        self._refused = False  # nor is here as much free as it seemed
        self._trust = 0
        self.until = 0.0
        """Until when the last of them waits, and whoever comes behind them (ROUTING-27)."""

    def __len__(self) -> int:
        """How many wait; who was called does not."""
        return len(self._waiting) + len(self._first)

    @property
    def called(self) -> int:
        """How many were called and have not come yet."""
        return len(self._called)

    @property
    def empty(self) -> bool:
        """Whether nobody waits, and nobody is on the way."""
        return not (self._waiting or self._first or self._called)

    def add(self, waiter: W, until: float) -> None:
        """Behind all the others; who has waited so long says ``left``."""
        self._waiting[waiter] = None
        self.until = max(self.until, until)

    def add_again(self, waiter: W, until: float, *, refused: bool) -> None:
        """Who was called in vain; ``refused``: by somebody who seemed to have room (ROUTING-30)."""
        self._first[waiter] = None
        self.until = max(self.until, until)
        if refused:
            self._refused, self._trust = True, 0

    def came(self, waiter: W) -> None:
        """Who was called looks for a stream now, and takes it at once if there is one."""
        self._called.pop(waiter, None)

    def left(self, waiter: W) -> bool:
        """Forget it, called or not; whether it waited."""
        for several in (self._first, self._waiting):
            if waiter in several:
                del several[waiter]
                return True
        self._called.pop(waiter, None)
        return False

    def appeared(self, upstreams: int) -> None:
        """There is news of who has the endpoint: peers with so many upstreams, in all."""
        self._refused, self._trust = False, upstreams * CALLED_PER_UPSTREAM_MAX

    def ended(self) -> None:
        """A request for the endpoint has ended: where there was one stream, there may be two."""
        self._trust += CALLED_AFTER_END_MAX

    def nothing_happened(self) -> None:
        """For ``call_again_s``: an end may have escaped this node (ROUTING-31)."""
        self._trust = max(self._trust, 1)

    def call(self, here: int, there: int) -> list[W]:
        """Whose turn it is, with so many streams free here, and at most so many at peers (ROUTING-28)."""
        sure, perhaps = (0, here + there) if self._refused else (here, there)
        sure -= len(self._called)  # ROUTING-29
        called: list[W] = []
        for several in (self._first, self._waiting):
            while several and len(called) < sure + min(perhaps, self._trust):
                called.append(several.popitem(last=False)[0])
        self._trust -= max(0, len(called) - max(0, sure))
        self._called.update(dict.fromkeys(called))
        return called


# Trying again.


def may_try_again(method: bytes, code: ResetCode, *, untouched: bool, body_held: bool) -> bool:
    """Whether a request may be sent to another upstream after a reset and before any byte of a response.

    ``body_held``: all body bytes that were sent are still at hand. Source: RFC 9110 §9.2.2, ROUTING-5, ROUTING-6.
    """
    if not body_held or code in _NOT_ELSEWHERE:
        return False
    return untouched or (code in _TRY_ELSEWHERE and method in IDEMPOTENT_METHODS)


def held_with(held: Held, piece: bytes | memoryview) -> Held | None:
    """What is kept of a body after one piece more; None once it is too much. A body may come byte by byte."""
    if len(held) + len(piece) > HELD_BYTES_MAX:
        return None
    if not held:
        return bytes(piece)
    longer = held if isinstance(held, bytearray) else bytearray(held)
    longer += piece
    return longer
