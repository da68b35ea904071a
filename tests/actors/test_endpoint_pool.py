"""Pools, routes and upstream connections: built and handed messages, without a loop of their own."""

from __future__ import annotations

from dataclasses import dataclass, field

import pykka

from pico.actors.endpoint_pool import EndpointPool, Endpoints
from pico.actors.messages import EndpointAppeared, UpstreamJoined, UpstreamLeft
from pico.actors.routes import Routes
from pico.transport.clock import ManualClock
from tests.actors.census import let_others_run, nothing_left_behind
from tests.compiled import interpreted_only
from tests.rules import covers

pytestmark = interpreted_only  # its tunnels are stand-ins


@dataclass(eq=False)
class One:
    endpoint_id: str = "ep"
    in_flight: int = 0
    may_open: bool = True
    leaving: bool = False
    streams_max: int = 1000

    @property
    def streams_free(self) -> int:
        return self.streams_max - self.in_flight if self.may_open and not self.leaving else 0


@dataclass(eq=False)
class Waiter:
    """Stands for the reference of a request that waits."""

    told: list = field(default_factory=list)
    stopped: bool = False

    @property
    def actor_stopped(self):
        return self

    @property
    def actor_inbox(self):
        return self

    def is_set(self) -> bool:
        return self.stopped

    def put(self, envelope) -> None:
        self.told.append(envelope.message)


def routes(wait_s: float = 2.0) -> tuple[Routes, ManualClock]:
    clock = ManualClock()
    return Routes(clock, wait_s, 100), clock


def pool(published: Routes) -> EndpointPool:
    return EndpointPool("ep", "round-robin", published, lambda endpoint_id: None)


@covers("ROUTING-3", "ROUTING-4")
def test_a_pool_publishes_a_new_balancer_with_each_change_and_keeps_the_turn():
    published, _ = routes()
    built, ones = pool(published), [One(), One(), One()]
    for one in ones:
        built.on_receive(UpstreamJoined(one))
    assert [published.choose("ep") for _ in range(4)] == [*ones, ones[0]]
    before = published._balancers["ep"]
    built.on_receive(UpstreamLeft(ones[1]))
    assert before.candidates == tuple(ones)
    assert published._balancers["ep"].candidates == (ones[0], ones[2])


def test_the_last_to_leave_takes_the_endpoint_with_it_and_leaving_twice_is_no_news():
    published, _ = routes()
    built, one = pool(published), One()
    built.on_receive(UpstreamJoined(one))
    for _ in range(2):
        built.on_receive(UpstreamLeft(one))
    assert not published.served("ep")
    assert published.choose("ep") is None


@covers("ROUTING-7")
def test_an_endpoint_whose_every_upstream_is_about_to_leave_is_waited_for():
    """A request that was lost with its tunnel asks again before the pool has heard of the loss."""
    published, clock = routes()
    built, ones, waiter = pool(published), [One(), One()], Waiter()
    for one in ones:
        built.on_receive(UpstreamJoined(one))
    ones[0].leaving = True
    assert published.served("ep")
    ones[1].leaving = True
    assert not published.served("ep")
    assert published.wait("ep", waiter) == clock.now() + 2.0
    for one in ones:
        built.on_receive(UpstreamLeft(one))
    waiter.told.clear()
    built.on_receive(UpstreamJoined(One()))
    published.stop_waiting("ep", waiter)
    assert published._waiting == 0


@covers("ROUTING-7")
def test_waiters_are_told_once_when_the_endpoint_returns():
    published, clock = routes()
    built, one, waiter = pool(published), One(), Waiter()
    assert published.wait("ep", waiter) == 0.0
    built.on_receive(UpstreamJoined(one))
    built.on_receive(UpstreamLeft(one))
    assert published.wait("ep", waiter) == clock.now() + 2.0
    built.on_receive(UpstreamJoined(one))
    built.on_receive(UpstreamJoined(One()))
    assert waiter.told == [EndpointAppeared()]


@covers("ROUTING-7")
def test_an_endpoint_that_left_long_ago_is_not_waited_for():
    published, clock = routes()
    built, one = pool(published), One()
    built.on_receive(UpstreamJoined(one))
    built.on_receive(UpstreamLeft(one))
    clock.advance(2.0)
    assert published.wait("ep", Waiter()) == 0.0


def test_what_is_remembered_of_endpoints_that_left_is_bounded(monkeypatch):
    monkeypatch.setattr("pico.actors.routes.VANISHED_MAX", 3)
    published, _ = routes()
    for number in range(10):
        built = EndpointPool(f"ep{number}", "round-robin", published, lambda endpoint_id: None)
        one = One(f"ep{number}")
        built.on_receive(UpstreamJoined(one))
        built.on_receive(UpstreamLeft(one))
    assert list(published._vanished) == ["ep7", "ep8", "ep9"]


def test_the_number_of_waiters_is_bounded_and_comes_back(monkeypatch):
    monkeypatch.setattr("pico.actors.routes.WAITERS_MAX", 2)
    published, _ = routes()
    built, one, waiters = pool(published), One(), [Waiter(), Waiter(), Waiter()]
    built.on_receive(UpstreamJoined(one))
    built.on_receive(UpstreamLeft(one))
    assert [bool(published.wait("ep", waiter)) for waiter in waiters] == [True, True, False]
    published.stop_waiting("ep", waiters[0])
    published.stop_waiting("ep", waiters[0])
    assert published.wait("ep", waiters[2])
    assert published._waiting == 2


def test_pools_live_as_long_as_their_endpoint_has_an_upstream():
    published, _ = routes()
    with nothing_left_behind():
        endpoints = Endpoints.start(published, "least-in-flight")
        ones = [One("a"), One("a"), One("b")]
        for one in ones:
            endpoints.tell(UpstreamJoined(one))
        let_others_run()
        assert len(pykka.ActorRegistry.get_by_class(EndpointPool)) == 2
        for one in (ones[0], ones[2], ones[2]):
            endpoints.tell(UpstreamLeft(one))
        let_others_run()
        assert len(pykka.ActorRegistry.get_by_class(EndpointPool)) == 1
        assert published.served("a")
        endpoints.stop()
