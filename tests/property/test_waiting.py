"""Those who wait for an endpoint: none is forgotten, none is overtaken, and the numbers agree with what there is."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pico.actors.peers import PeerUpstream
from pico.protocol.routing import CALL_AGAIN_S, LeastInFlight
from tests.actors.test_endpoint_pool import One, Waiter
from tests.actors.test_routes import Link, Scene
from tests.compiled import interpreted_only
from tests.rules import covers

ENDPOINTS = ("ep", "other")
names, numbers = st.sampled_from(ENDPOINTS), st.integers(0, 100)


@dataclass(eq=False)
class Asker(Waiter):
    """A request."""

    endpoint_id: str = ""
    until: float = 0.0  # it waits
    on: list = field(default_factory=list)  # what it has a stream of: an upstream, or the link of a peer


class SmallLink(Link):
    """Takes few streams."""

    def __init__(self, streams_max: int) -> None:
        super().__init__()
        self.streams_max = streams_max

    @property
    def streams_free(self) -> int:
        return max(0, self.streams_max - self.in_flight)

    @property
    def may_open(self) -> bool:
        return self.streams_free > 0

    @may_open.setter
    def may_open(self, value: bool) -> None:
        """It follows from the numbers."""


class Few(One):
    """An upstream that takes few streams."""

    @property
    def may_open(self) -> bool:
        return self.streams_free > 0

    @may_open.setter
    def may_open(self, value: bool) -> None:
        """It follows from the numbers."""

    @property
    def streams_free(self) -> int:
        return 0 if self.leaving else max(0, self.streams_max - self.in_flight)


@covers("ROUTING-26", "ROUTING-27", "ROUTING-28", "ROUTING-29", "ROUTING-31")
class WaitingMachine(RuleBasedStateMachine):
    """One node with two peers, requests that come and go, and upstreams and links that do."""

    def __init__(self) -> None:
        super().__init__()
        self.scene = Scene(requests_max=4)
        self.routes = self.scene.routes
        self.here: dict[str, tuple[Few, ...]] = dict.fromkeys(ENDPOINTS, ())
        self.links: dict[str, SmallLink | None] = {"a": None, "b": None}
        self.waiting: list[Asker] = []
        self.called: list[Asker] = []
        self.running: list[Asker] = []

    def look(self) -> None:
        """Who was called by now."""
        for asker in [asker for asker in self.waiting if asker.told]:
            asker.told.clear()
            self.waiting.remove(asker)
            self.called.append(asker)

    def give(self, asker: Asker, chosen: object) -> None:
        if isinstance(chosen, PeerUpstream):
            if not chosen.open:  # it waits for a link, and then for another one
                return
            chosen = chosen.multiplexer
        chosen.in_flight += 1
        asker.on.append(chosen)
        self.running.append(asker)

    # Requests.

    @rule(endpoint_id=names)
    def come(self, endpoint_id: str) -> None:
        asker = Asker(endpoint_id=endpoint_id)
        free = sum(self.routes._room(endpoint_id))
        chosen = self.routes.choose(endpoint_id)
        self.look()
        if chosen is not None:
            assert not [other for other in self.waiting if other.endpoint_id == endpoint_id]
            assert free > len([other for other in self.called if other.endpoint_id == endpoint_id])
            self.give(asker, chosen)
        else:
            asker.until = self.routes.wait(endpoint_id, asker)
            if asker.until:
                self.waiting.append(asker)

    @precondition(lambda self: self.called)
    @rule(number=numbers, refused=st.booleans())
    def take_a_turn(self, number: int, refused: bool) -> None:
        asker = self.called.pop(number % len(self.called))
        self.routes.came(asker.endpoint_id, asker)
        chosen = self.routes.choose(asker.endpoint_id, waited=True)
        if chosen is not None and not refused:
            self.give(asker, chosen)
        else:
            self.waiting.append(asker)
            self.routes.wait_again(asker.endpoint_id, asker, asker.until, refused=chosen is not None)

    @precondition(lambda self: self.waiting or self.called)
    @rule(number=numbers)
    def go_away(self, number: int) -> None:
        asker = [*self.waiting, *self.called][number % (len(self.waiting) + len(self.called))]
        (self.waiting if asker in self.waiting else self.called).remove(asker)
        self.routes.stop_waiting(asker.endpoint_id, asker)

    @precondition(lambda self: self.running)
    @rule(number=numbers, heard=st.booleans())
    def end(self, number: int, heard: bool) -> None:
        asker = self.running.pop(number % len(self.running))
        asker.on.pop().in_flight -= 1
        if heard:
            self.routes.request_over(asker.endpoint_id)

    # Who has the endpoint.

    @rule(endpoint_id=names, sizes=st.lists(st.integers(0, 3), max_size=2))
    def register(self, endpoint_id: str, sizes: list[int]) -> None:
        self.here[endpoint_id] = tuple([Few(endpoint_id, streams_max=size) for size in sizes])
        self.routes.publish(endpoint_id, LeastInFlight(self.here[endpoint_id]))

    @rule(endpoint_id=names)
    def leave(self, endpoint_id: str) -> None:
        for one in self.here[endpoint_id]:
            one.leaving = True

    @rule()
    def clear(self) -> None:
        self.routes.clear()
        self.here = dict.fromkeys(ENDPOINTS, ())

    @rule(name=st.sampled_from("ab"), endpoint_id=names, count=st.integers(0, 2))
    def say(self, name: str, endpoint_id: str, count: int) -> None:
        if count or self.scene.view.version_of(name, endpoint_id):
            self.scene.say(name, endpoint_id, count)

    @rule(name=st.sampled_from("ab"), size=st.integers(0, 3))
    def open_link(self, name: str, size: int) -> None:
        self.links[name] = SmallLink(size)
        self.scene.peers[name].opened(self.links[name])
        self.routes.peer_opened(name)

    @rule(name=st.sampled_from("ab"), reachable=st.booleans())
    def lose_link(self, name: str, reachable: bool) -> None:
        peer, link = self.scene.peers[name], self.links[name]
        if link is not None:
            peer.closed(link)
        if not reachable:
            peer.unreachable()
        self.links[name] = None

    @rule(wait_s=st.sampled_from([0.0, 2.0]), requests_max=st.integers(1, 5))
    def reload(self, wait_s: float, requests_max: int) -> None:
        self.routes.reconfigure(wait_s, requests_max)

    @rule(seconds=st.sampled_from([0.1, 0.3, 2.0]))
    def pass_time(self, seconds: float) -> None:
        self.scene.clock.advance(seconds)

    # What holds.

    @invariant()
    def the_numbers_agree(self) -> None:
        self.look()
        lists = self.routes._lists
        assert self.routes.waiting == sum(map(len, lists.values())) == len(self.waiting)
        assert sum(some.called for some in lists.values()) == len(self.called)
        assert not [name for name, some in lists.items() if some.empty]

    @invariant()
    def who_waits_for_what_somebody_has_is_looked_at(self) -> None:
        for asker in self.waiting:
            if self.routes.registered(asker.endpoint_id):
                assert asker.endpoint_id in self.routes._full
                assert self.scene.clock.next_due() is not None

    def teardown(self) -> None:
        """Where there is room nobody waits for long."""
        self.routes.reconfigure(2.0, 1000)
        for endpoint_id in ENDPOINTS:
            if not self.routes.registered(endpoint_id):
                self.routes.publish(endpoint_id, LeastInFlight((Few(endpoint_id),)))
            for one in self.here[endpoint_id]:
                one.streams_max, one.leaving = 1000, False
        for name in "ab":
            self.open_link(name, 1000)
        for _ in range(len(self.waiting) + 2):
            self.look()
            while self.called:
                self.take_a_turn(0, refused=False)
            self.scene.clock.advance(CALL_AGAIN_S)
        self.look()
        assert not self.waiting
        assert not self.called
        assert not self.routes._lists
        assert not self.routes._full


TestWaiting = interpreted_only(WaitingMachine.TestCase)
