"""Where a request goes: what pools and the cluster have published, and who waits for more.

Responsible for: reading the balancers of this node's endpoints and the view of the cluster for each request, telling
the cluster what this node has, and the requests that wait for an endpoint. Refuses to know: how a choice is made
(``pico.protocol.routing``), how the view is kept (``pico.protocol.cluster``), and what travels on an upstream.

Messages change things, snapshots are read: a request never asks an actor where to go.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from math import inf
from typing import Any, Final

import pykka

from pico.actors.messages import EndpointAppeared
from pico.actors.peers import Peers, PeerUpstream
from pico.actors.runtime import tell
from pico.actors.upstream import Upstream
from pico.protocol.cluster import ClusterView, EntryVersion, Place, PlaceGained, Standing
from pico.protocol.routing import CALL_AGAIN_S, Balancer, Chance, PeerChoice, WaitingList, choose_peer
from pico.transport.clock import Clock

__all__ = ["Routes"]

VANISHED_MAX: Final = 10_000
"""Endpoints that nobody has any more which are remembered, so that a request may wait for their return."""

WAITERS_MAX: Final = 10_000
"""Requests that wait for an endpoint at one time, over all endpoints."""


def _nobody_listens(endpoint_id: str, count: int) -> None:
    """A node without a cluster."""


class Routes:
    """Endpoint → balancer of this node's upstreams, and the view of the cluster. Read by every request.

    Balancers are written only by ``Endpoints`` and its pools, the view only by the cluster.
    """

    def __init__(self, clock: Clock, endpoint_wait_s: float, requests_max: int) -> None:
        self._clock = clock
        self._endpoint_wait_s = endpoint_wait_s
        self._requests_max = requests_max  # in flight for one endpoint
        self._balancers: dict[str, Balancer[Upstream]] = {}
        self._vanished: dict[str, float] = {}
        self._lists: dict[str, WaitingList[pykka.ActorRef[Any]]] = {}
        self._waiting = 0  # in all of these
        self._full: dict[str, None] = {}  # endpoints that somebody has while others wait
        self._full_timer = clock.timer(self._call_again)
        self._view = ClusterView("")
        self._peers: Peers = {}
        self._rng: Chance | None = None
        self._on_count: Callable[[str, int], None] = _nobody_listens
        self.upstreams = 0
        """Upstreams here that requests may be given to; written here only."""
        self.changes = 0
        """Grows whenever an endpoint appears or vanishes, here or elsewhere."""
        self.caught_up_at: Callable[[], float] = lambda: -inf
        """When all was known here that the cluster has; infinity as long as it is not. Set by whoever knows."""

    def reconfigure(self, endpoint_wait_s: float, requests_max: int) -> None:
        """What counts for the next request."""
        self._endpoint_wait_s = endpoint_wait_s
        self._requests_max = requests_max

    # Where a request goes.

    def choose(
        self, endpoint_id: str, tried: Collection[Any] = (), *, waited: bool = False
    ) -> Upstream | PeerUpstream | None:
        """The upstream for a request, else a peer, perhaps one to be connected to first; None when none takes it.

        Nor does anybody take one that has not ``waited`` while others wait (ROUTING-27).
        """
        if self._lists and not waited and self._others_wait(endpoint_id):
            return None
        balancer = self._balancers.get(endpoint_id)
        if balancer is not None:
            if balancer.is_full(self._requests_max):  # ROUTING-9
                return None
            chosen = balancer.choose(tried)
            if chosen is not None:
                return chosen
        places = self._view.places.get(endpoint_id)
        return None if places is None else self._choose_peer(places, tried)

    def choose_here(self, endpoint_id: str, tried: Collection[Any] = ()) -> Upstream | None:
        """The upstream of this node for a request that has been forwarded to it (ROUTING-14)."""
        balancer = self._balancers.get(endpoint_id)
        if balancer is None or balancer.is_full(self._requests_max):
            return None
        return balancer.choose(tried)

    def served(self, endpoint_id: str) -> bool:
        """Whether somebody serves the endpoint, busy or not; whoever is about to leave does not any more (ROUTING-19).

        A request that was lost with its tunnel or link, or crossed a goaway, asks before the pool or the view has heard
        of either.
        """
        return self.served_here(endpoint_id) or any(
            not peer.leaving for place in self._places(endpoint_id) if (peer := self._peers.get(place.node_id))
        )

    def registered(self, endpoint_id: str) -> bool:
        """Whether an upstream anywhere is registered for the endpoint, as far as is known here."""
        return endpoint_id in self._balancers or endpoint_id in self._view.places

    def served_here(self, endpoint_id: str) -> bool:
        """Whether an upstream of this node serves the endpoint, as ``served`` means it."""
        balancer = self._balancers.get(endpoint_id)
        return balancer is not None and not all(one.leaving for one in balancer.candidates)

    def _choose_peer(self, places: tuple[Place, ...], tried: Collection[Any]) -> PeerUpstream | None:
        view, peers, choices = self._view, self._peers, []
        for node_id, upstreams in places:
            peer = peers.get(node_id)
            if peer is not None and peer not in tried:  # ROUTING-10
                choices.append(PeerChoice(peer, upstreams, view.standing(node_id)))
        assert self._rng is not None, "places come with a cluster"
        return choose_peer(choices, self._rng)

    def _places(self, endpoint_id: str) -> tuple[Place, ...]:
        return self._view.places.get(endpoint_id, ())

    # Waiting.

    def wait(self, endpoint_id: str, waiter: pykka.ActorRef[Any]) -> float:
        """Until when ``waiter`` waits for an endpoint that vanished moments ago, or behind those who do; 0.0: not.

        It is told ``EndpointAppeared`` when it is its turn: the endpoint is back, here or elsewhere, and seems to have
        room. Then it says ``came``, and ``wait_again`` when that was in vain.
        """
        now = self._clock.now()
        until = self._wait_until(endpoint_id, now)
        if until <= now or self._waiting >= WAITERS_MAX:
            return 0.0
        self._list_of(endpoint_id).add(waiter, until)
        self._waiting += 1
        self._call(endpoint_id)  # nobody else may have waited, and whoever was called may leave something
        return until

    def _wait_until(self, endpoint_id: str, now: float) -> float:
        if self.served(endpoint_id):
            waiting = self._lists.get(endpoint_id)
            return 0.0 if waiting is None else waiting.until  # ROUTING-27
        if self.registered(endpoint_id):  # ROUTING-19
            return now + self._endpoint_wait_s
        before = min(now, self.caught_up_at())  # ROUTING-20: what has left before that is not known here
        return max(before, self._vanished.get(endpoint_id, -inf)) + self._endpoint_wait_s  # ROUTING-7

    def wait_again(self, endpoint_id: str, waiter: pykka.ActorRef[Any], until: float, *, refused: bool) -> bool:
        """Wait for another turn; ``refused``: by somebody who seemed to have room. False when it should not."""
        if self._waiting >= WAITERS_MAX:
            return False
        self._list_of(endpoint_id).add_again(waiter, until, refused=refused)
        self._waiting += 1
        self._call(endpoint_id)  # for what has become free meanwhile
        return True

    def came(self, endpoint_id: str, waiter: pykka.ActorRef[Any]) -> None:
        """Who was told that it is its turn looks for a stream now."""
        waiting = self._lists.get(endpoint_id)
        if waiting is not None:
            waiting.came(waiter)
            self._forget_if_empty(endpoint_id, waiting)

    def stop_waiting(self, endpoint_id: str, waiter: pykka.ActorRef[Any]) -> None:
        """Forget a waiter whose time has passed or whose client has gone."""
        waiting = self._lists.get(endpoint_id)
        if waiting is None:
            return
        if waiting.left(waiter):
            self._waiting -= 1
        else:
            self._call(endpoint_id)  # ROUTING-29
        self._forget_if_empty(endpoint_id, waiting)

    def request_over(self, endpoint_id: str) -> None:
        """A request that was given to an upstream or a peer has ended, and its stream with it."""
        waiting = self._lists.get(endpoint_id)
        if waiting is not None:
            waiting.ended()
            self._call(endpoint_id)

    def _list_of(self, endpoint_id: str) -> WaitingList[pykka.ActorRef[Any]]:
        waiting = self._lists.get(endpoint_id)
        if waiting is None:
            waiting = self._lists[endpoint_id] = WaitingList()
        return waiting

    def _forget_if_empty(self, endpoint_id: str, waiting: WaitingList[pykka.ActorRef[Any]]) -> None:
        if waiting.empty:
            del self._lists[endpoint_id]

    def _others_wait(self, endpoint_id: str) -> bool:
        """Whether all that is free is for those who have waited; whoever was called has a stream (ROUTING-29)."""
        self._call(endpoint_id)
        waiting = self._lists.get(endpoint_id)
        return waiting is not None and (len(waiting) > 0 or sum(self._room(endpoint_id)) <= waiting.called)

    def _appeared(self, endpoint_id: str) -> None:
        waiting = self._lists.get(endpoint_id)
        if waiting is not None:
            waiting.appeared(sum([place.upstreams for place in self._places(endpoint_id)]))
            self._call(endpoint_id)

    def _call(self, endpoint_id: str) -> None:
        """Tell as many of those who wait as there seems to be room for that it is their turn."""
        waiting = self._lists.get(endpoint_id)
        if waiting is None or not waiting:
            return
        for waiter in waiting.call(*self._room(endpoint_id)):
            self._waiting -= 1
            tell(waiter, EndpointAppeared())
        if waiting and endpoint_id not in self._full and self.registered(endpoint_id):
            self._full[endpoint_id] = None
            if len(self._full) == 1:
                self._full_timer.start(CALL_AGAIN_S)

    def _room(self, endpoint_id: str) -> tuple[int, int]:
        """How many streams are free here, and at most so many at peers."""
        here = 0
        balancer = self._balancers.get(endpoint_id)
        if balancer is not None:
            left = self._requests_max - balancer.in_flight
            if left <= 0:  # ROUTING-9
                return 0, 0
            here = min(left, sum([one.streams_free for one in balancer.candidates]))
        there = 0
        for node_id, _ in self._places(endpoint_id):
            peer = self._peers.get(node_id)
            if peer is not None and self._view.standing(node_id) is not Standing.NOT:
                there += peer.streams_free
        return here, there

    def _call_again(self) -> None:
        """ROUTING-31. Those who still wait after that are noted again."""
        full, self._full = self._full, {}
        for endpoint_id in full:
            waiting = self._lists.get(endpoint_id)
            if waiting and self.registered(endpoint_id):
                waiting.nothing_happened()
                self._call(endpoint_id)

    def _remember(self, endpoint_id: str) -> None:
        self._vanished.pop(endpoint_id, None)
        self._vanished[endpoint_id] = self._clock.now()
        while len(self._vanished) > VANISHED_MAX:
            del self._vanished[next(iter(self._vanished))]

    # What this node has.

    def publish(self, endpoint_id: str, balancer: Balancer[Upstream]) -> None:
        """Replace what is known of one endpoint; a balancer without candidates removes it."""
        before = self._balancers.get(endpoint_id)
        self.upstreams += len(balancer.candidates) - (len(before.candidates) if before is not None else 0)
        if balancer.candidates:
            self.changes += endpoint_id not in self._balancers
            self._balancers[endpoint_id] = balancer
            self._vanished.pop(endpoint_id, None)
            self._appeared(endpoint_id)
        elif self._balancers.pop(endpoint_id, None) is not None:
            self.changes += 1
            self._remember(endpoint_id)
        self._on_count(endpoint_id, len(balancer.candidates))

    def clear(self) -> None:
        """Nothing is registered any more."""
        self.changes += 1
        self.upstreams = 0
        for endpoint_id in list(self._balancers):
            del self._balancers[endpoint_id]
            self._remember(endpoint_id)
            self._on_count(endpoint_id, 0)

    def deny(self, endpoint_id: str) -> None:
        """A peer was told that the endpoint is not here; the next number said of it must be newer (CLUSTER-8)."""
        self._on_count(endpoint_id, 0)

    @property
    def endpoints(self) -> int:
        """Endpoints with at least one upstream here."""
        return len(self._balancers)

    @property
    def waiting(self) -> int:
        """Requests that wait for an endpoint; those whose turn it is wait no more."""
        return self._waiting

    # What there is, for status.

    def here(self) -> Collection[str]:
        """The endpoints with an upstream here; to be read at once."""
        return self._balancers.keys()

    def elsewhere(self) -> Collection[str]:
        """The endpoints that other nodes have; to be read at once."""
        return self._view.places.keys()

    def upstreams_of(self, endpoint_id: str) -> tuple[Upstream, ...]:
        """The upstreams of this node that may be chosen for it."""
        balancer = self._balancers.get(endpoint_id)
        return () if balancer is None else tuple(balancer.candidates)

    def places_of(self, endpoint_id: str) -> tuple[Place, ...]:
        """The other nodes that may be asked for it."""
        return self._places(endpoint_id)

    # What the cluster has.

    def join(self, view: ClusterView, peers: Peers, rng: Chance, on_count: Callable[[str, int], None]) -> None:
        """From now on read this view; ``on_count`` is told of every endpoint here how many upstreams it has.

        It is called in whatever greenlet publishes, so it must only tell onward, in order and leaving nothing out. A
        view before this one ends: what only its nodes had has vanished now.
        """
        before, self._view = self._view, view
        self.changes += 1
        self._peers, self._rng, self._on_count = peers, rng, on_count
        for endpoint_id in before.places:
            if endpoint_id not in self._balancers and endpoint_id not in view.places:
                self._remember(endpoint_id)
        for endpoint_id, balancer in self._balancers.items():
            on_count(endpoint_id, len(balancer.candidates))
        self.cluster_changed()

    def cluster_changed(self) -> None:
        """To be called after each change of the view: calls who waits for what has appeared."""
        for event in self._view.events():
            self.changes += 1
            if isinstance(event, PlaceGained):
                self._vanished.pop(event.endpoint_id, None)
                self._appeared(event.endpoint_id)
            elif event.endpoint_id not in self._balancers:
                self._remember(event.endpoint_id)

    def peer_opened(self, node_id: str) -> None:
        """A peer that was about to leave or could not be reached has a link again: calls who waits for what it has."""
        for endpoint_id in list(self._lists):
            if any(place.node_id == node_id for place in self._places(endpoint_id)):
                self._appeared(endpoint_id)

    def entry_of(self, node_id: str, endpoint_id: str) -> EntryVersion | None:
        """Because of which entry a request goes to that peer."""
        return self._view.version_of(node_id, endpoint_id)

    def absent(self, node_id: str, endpoint_id: str, entry: EntryVersion | None) -> None:
        """The peer has denied what that entry says (ROUTING-16)."""
        if entry is not None and self._view.absent(node_id, endpoint_id, entry):
            self.cluster_changed()
