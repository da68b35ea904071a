"""The other nodes, as requests see them.

Responsible for: the face of a peer, which is that of an upstream, and the requests that wait for its link. Refuses to
know: how a link is dialled and kept, and what the cluster thinks of the peer: the peer's actor does, and says here what
became of the link.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

import pykka

from pico.actors.messages import PeerReady, PeerUnreachable
from pico.actors.runtime import tell
from pico.transport.clock import Clock
from pico.transport.multiplexer import Multiplexer

__all__ = ["LINK_WAITERS_MAX", "PeerUpstream", "Peers"]

LINK_WAITERS_MAX: Final = 1_000
"""Requests that wait for the link of one peer at one time."""


class PeerUpstream:
    """One peer; it outlives its links. Belongs to the peer's actor, read by every request."""

    streaming = True

    def __init__(self, id_: str, dial: Callable[[], None], clock: Clock, connect_s: float) -> None:
        """``dial`` asks, without blocking, for a link; it is asked again and again while requests want one.

        The answer is ``opened`` or ``unreachable``, within ``connect_s``.
        """
        self.id = id_
        self._dial = dial
        self._clock = clock
        self._connect_s = connect_s
        self._link: Multiplexer | None = None
        self._failed = False  # the last attempt to dial
        self._waiters: dict[pykka.ActorRef[Any], None] = {}  # in the order in which they came

    # What requests ask.

    @property
    def multiplexer(self) -> Multiplexer:
        """The link that is open; streams stay with the one on which they were opened."""
        assert self._link is not None, "only a peer that may open has a link for sure"
        return self._link

    @property
    def in_flight(self) -> int:
        """Streams that have not ended on the present link."""
        return 0 if self._link is None else self._link.in_flight

    @property
    def may_open(self) -> bool:
        """Whether it takes another stream now."""
        return self._link is not None and self._link.may_open

    @property
    def streams_free(self) -> int:
        """How many requests may be given to it now, or may wait for its link."""
        if self._link is not None:
            return self._link.streams_free
        return LINK_WAITERS_MAX - len(self._waiters) if self.may_connect else 0

    @property
    def may_connect(self) -> bool:
        """Whether there is no link, and one can be waited for."""
        return self._link is None and not self._failed and len(self._waiters) < LINK_WAITERS_MAX

    @property
    def open(self) -> bool:
        """Whether there is a link."""
        return self._link is not None

    @property
    def leaving(self) -> bool:
        """Whether it will take no stream any more, or cannot be reached, though the view may not know yet."""
        return self._failed if self._link is None else self._link.leaving

    def connect(self, waiter: pykka.ActorRef[Any]) -> float:
        """Until when ``waiter`` waits for a link; it is told ``PeerReady`` or ``PeerUnreachable``.

        To be called only when ``may_connect``; whoever waits no longer says so with ``stop_waiting``.
        """
        self._waiters[waiter] = None
        self._dial()
        return self._clock.now() + self._connect_s

    def stop_waiting(self, waiter: pykka.ActorRef[Any]) -> None:
        """Forget a waiter whose time has passed or whose client has gone."""
        self._waiters.pop(waiter, None)

    # What the peer's actor says.

    def opened(self, link: Multiplexer) -> None:
        """Requests go here from now on; streams on a link before this one go on there."""
        self._link, self._failed = link, False
        self._tell_waiters(PeerReady(self.id))

    def closed(self, link: Multiplexer) -> None:
        """That link is over; dialling again may well succeed. Nothing happens when it is not the present one."""
        if link is self._link:
            self._link = None

    def unreachable(self) -> None:
        """Dialling has failed, or makes no sense now: requests go elsewhere until there is a link."""
        self._failed = True
        self._tell_waiters(PeerUnreachable(self.id))

    def _tell_waiters(self, message: PeerReady | PeerUnreachable) -> None:
        waiters, self._waiters = self._waiters, {}
        for waiter in waiters:
            tell(waiter, message)


class Peers(Protocol):
    """The known peers; a dict has this face."""

    def get(self, node_id: str, /) -> PeerUpstream | None:
        """The peer of that name; None when there is none, or none that can be dialled yet."""
