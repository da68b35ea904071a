"""``Routes`` with peers, and the peers themselves: built and asked, without a node around them."""

from __future__ import annotations

from math import inf
from random import Random

import pytest

from pico.actors.messages import EndpointAppeared, PeerReady, PeerUnreachable
from pico.actors.peers import PeerUpstream
from pico.actors.routes import Routes
from pico.config import GossipLimits
from pico.protocol.cluster import ClusterView, Condition, endpoint_key
from pico.protocol.gossip.state import OwnState
from pico.protocol.routing import CALL_AGAIN_S, LeastInFlight
from pico.transport.clock import ManualClock
from tests.actors.test_endpoint_pool import One, Waiter
from tests.calls import calls_of
from tests.compiled import interpreted_only
from tests.rules import covers

pytestmark = interpreted_only  # its tunnels are stand-ins

FINE = Condition(verified=True)


def told(waiters: list[Waiter]) -> list[int]:
    """How often each was told that it is its turn."""
    return [len(waiter.told) for waiter in waiters]


class Link:
    """Stands for a multiplexer."""

    def __init__(self) -> None:
        self.may_open, self.leaving, self.in_flight = True, False, 0

    @property
    def streams_free(self) -> int:
        return 10_000 - self.in_flight if self.may_open and not self.leaving else 0


class Scene:
    """The routes of one node with the peers ``a`` and ``b``, which have what a test says."""

    def __init__(self, requests_max: int = 100) -> None:
        self.clock, self.dials, self.told = ManualClock(), [], []
        self.routes = Routes(self.clock, 2.0, requests_max)
        self.view = ClusterView("me")
        self.states = {name: OwnState(1, GossipLimits()) for name in "ab"}
        self.peers = {
            name: PeerUpstream(name, lambda name=name: self.dials.append(name), self.clock, 1.0) for name in "ab"
        }
        self.routes.join(self.view, self.peers, Random(1), lambda *told: self.told.append(told))

    def say(self, name: str, endpoint_id: str, count: int, condition: Condition = FINE) -> None:
        state, key = self.states[name], endpoint_key(endpoint_id)
        state.put(key, b"%d" % count) if count else state.delete(key)
        self.consider(name, condition)

    def consider(self, name: str, condition: Condition) -> None:
        self.view.follow(name, self.states[name], condition)
        self.routes.cluster_changed()

    def link(self, name: str) -> Link:
        link = Link()
        self.peers[name].opened(link)
        return link


# Where a request goes.


@covers("ROUTING-9")
def test_a_peer_is_chosen_only_when_no_upstream_here_takes_the_request():
    scene, near = Scene(), One()
    scene.link("a")
    scene.say("a", "ep", 3)
    scene.routes.publish("ep", LeastInFlight((near,)))
    assert scene.routes.choose("ep") is near
    assert scene.routes.choose("ep", (near,)) is scene.peers["a"]
    near.may_open = False
    assert scene.routes.choose("ep") is scene.peers["a"]
    assert scene.routes.choose_here("ep") is None


@covers("ROUTING-9")
def test_the_limit_of_requests_for_an_endpoint_is_no_reason_to_forward():
    scene, near = Scene(requests_max=1), One(in_flight=1)
    scene.link("a")
    scene.say("a", "ep", 3)
    scene.routes.publish("ep", LeastInFlight((near,)))
    assert scene.routes.choose("ep") is None
    assert scene.routes.choose_here("ep") is None


@covers("ROUTING-10", "ROUTING-11")
def test_a_peer_that_was_tried_or_is_not_there_is_not_chosen():
    scene = Scene()
    scene.link("a")
    for name in "ab":
        scene.say(name, "ep", 1)
    a = scene.peers["a"]
    assert scene.routes.choose("ep") is a
    assert scene.routes.choose("ep", (a,)) is scene.peers.pop("b")
    assert scene.routes.choose("ep", (a,)) is None
    assert scene.routes.choose("other") is None


@covers("ROUTING-11", "CLUSTER-10")
def test_a_lowered_peer_is_chosen_when_there_is_no_other():
    scene = Scene()
    for name in "ab":
        scene.link(name)
        scene.say(name, "ep", 1)
    scene.consider("a", Condition(verified=True, lowered=True))
    assert {scene.routes.choose("ep") for _ in range(20)} == {scene.peers["b"]}
    scene.say("b", "ep", 0)
    assert scene.routes.choose("ep") is scene.peers["a"]


@covers("ROUTING-19")
def test_an_endpoint_is_known_while_somebody_who_is_not_about_to_leave_has_it():
    scene, near = Scene(), One(leaving=True)
    assert not scene.routes.served("ep")
    scene.say("a", "ep", 1)
    assert scene.routes.served("ep")
    link = scene.link("a")
    link.leaving = True
    assert not scene.routes.served("ep")
    scene.routes.publish("ep", LeastInFlight((near,)))
    assert not scene.routes.served("ep")
    near.leaving = False
    assert scene.routes.served("ep")
    scene.routes.publish("ep", LeastInFlight(()))
    scene.peers["a"].closed(link)
    assert scene.routes.served("ep")
    scene.peers["a"].unreachable()
    assert not scene.routes.served("ep")


# Waiting.


@covers("ROUTING-7", "CLUSTER-14")
@pytest.mark.parametrize("where", ["here", "there"])
def test_an_endpoint_that_vanished_elsewhere_is_waited_for_and_may_return_anywhere(where):
    scene, waiter = Scene(), Waiter()
    scene.say("a", "ep", 1)
    scene.say("a", "ep", 0)
    scene.clock.advance(0.5)
    assert scene.routes.wait("ep", waiter) == 2.0
    assert not waiter.told
    if where == "here":
        scene.routes.publish("ep", LeastInFlight((One(),)))
    else:
        scene.say("b", "ep", 1)
    assert waiter.told == [EndpointAppeared()]
    assert scene.routes._waiting == 0
    assert not scene.routes._vanished


@covers("ROUTING-20")
def test_what_may_have_left_before_the_cluster_was_known_is_waited_for_and_nothing_else():
    scene = Scene()
    assert scene.routes.wait("ep", Waiter()) == 0.0
    scene.routes.caught_up_at = lambda: inf
    scene.clock.advance(1.0)
    assert scene.routes.wait("ep", Waiter()) == 3.0
    scene.routes.caught_up_at = lambda: 1.0
    scene.clock.advance(1.5)
    assert scene.routes.wait("ep", Waiter()) == 3.0
    scene.say("a", "late", 1)
    scene.say("a", "late", 0)
    assert scene.routes.wait("late", Waiter()) == 4.5
    scene.clock.advance(0.5)
    assert scene.routes.wait("ep", Waiter()) == 0.0


@covers("ROUTING-7")
def test_what_vanished_elsewhere_while_it_was_here_is_not_what_is_waited_for():
    scene = Scene()
    scene.routes.publish("ep", LeastInFlight((One(),)))
    scene.say("a", "ep", 1)
    scene.consider("a", Condition(verified=True, gone=True))
    assert not scene.routes._vanished
    scene.clock.advance(5.0)
    scene.routes.publish("ep", LeastInFlight(()))
    assert scene.routes.wait("ep", Waiter()) == 7.0


@covers("ROUTING-7", "ROUTING-19")
def test_one_place_more_wakes_whoever_waits_although_another_one_is_still_there():
    """A node has died and the view does not know yet, while the agent has come back elsewhere."""
    scene, waiter = Scene(), Waiter()
    scene.say("a", "ep", 1)
    scene.peers["a"].unreachable()
    assert scene.routes.wait("ep", waiter) == 2.0
    scene.say("b", "ep", 1)
    assert waiter.told == [EndpointAppeared()]


@covers("ROUTING-19")
def test_a_peer_that_can_be_reached_again_wakes_whoever_waits_for_what_it_has():
    scene, waiters = Scene(), [Waiter(), Waiter()]
    for name, endpoint_id in ("a", "ep"), ("b", "other"):
        scene.say(name, endpoint_id, 1)
        scene.peers[name].unreachable()
    for endpoint_id, waiter in zip(("ep", "other"), waiters, strict=True):
        assert scene.routes.wait(endpoint_id, waiter)
    scene.link("a")
    scene.routes.peer_opened("a")
    assert [len(waiter.told) for waiter in waiters] == [1, 0]


@covers("ROUTING-28", "ROUTING-29")
def test_no_more_are_told_than_there_are_free_streams_and_one_for_each_that_ends():
    scene, one, waiters = Scene(), One(streams_max=2), [Waiter() for _ in range(5)]
    scene.routes.publish("ep", LeastInFlight((one,)))
    scene.routes.publish("ep", LeastInFlight(()))
    for waiter in waiters:
        assert scene.routes.wait("ep", waiter) == 2.0
    scene.routes.publish("ep", LeastInFlight((one,)))
    assert told(waiters) == [1, 1, 0, 0, 0]
    for waiter in waiters[:2]:
        scene.routes.came("ep", waiter)
        assert scene.routes.choose("ep", waited=True) is one
        one.in_flight += 1
    scene.routes.request_over("ep")  # of one that was not here
    assert told(waiters) == [1, 1, 0, 0, 0]
    one.in_flight -= 1
    scene.routes.request_over("ep")
    assert told(waiters) == [1, 1, 1, 0, 0]
    scene.routes.stop_waiting("ep", waiters[3])
    scene.routes.stop_waiting("ep", waiters[2])  # though it was its turn
    assert told(waiters) == [1, 1, 1, 0, 1]
    scene.routes.came("ep", waiters[4])
    assert scene.routes.waiting == 0
    assert not scene.routes._lists


@covers("ROUTING-27", "ROUTING-29")
def test_who_has_not_waited_does_not_overtake_those_who_find_the_endpoint_full():
    scene, one, waiters = Scene(), One(streams_max=1), [Waiter(), Waiter()]
    scene.routes.publish("ep", LeastInFlight((one,)))
    scene.routes.publish("ep", LeastInFlight(()))
    for waiter in waiters:
        scene.routes.wait("ep", waiter)
    scene.routes.publish("ep", LeastInFlight((one,)))
    assert scene.routes.choose("ep") is None
    assert scene.routes.choose("other") is None
    scene.routes.came("ep", waiters[0])
    one.in_flight = 1
    one.in_flight = 0  # nobody has said so yet
    assert scene.routes.choose("ep") is None, "it is for the one that is on the way"
    assert told(waiters) == [1, 1]
    one.streams_max = 2
    assert scene.routes.choose("ep") is one, "there is another one"
    one.in_flight = 1
    scene.routes.came("ep", waiters[1])
    assert scene.routes.choose("ep", waited=True) is one


@covers("ROUTING-29", "ROUTING-31")
def test_who_waits_behind_one_that_was_called_is_called_though_nothing_is_heard_of_an_end():
    scene, one, waiters = Scene(), One(streams_max=1), [Waiter(), Waiter()]
    scene.routes.publish("ep", LeastInFlight((one,)))
    scene.routes.publish("ep", LeastInFlight(()))
    scene.routes.wait("ep", waiters[0])
    scene.routes.publish("ep", LeastInFlight((one,)))
    assert scene.routes.choose("ep") is None
    assert scene.routes.wait("ep", waiters[1]) == 2.0
    scene.routes.came("ep", waiters[0])
    one.in_flight = 1
    scene.clock.advance(CALL_AGAIN_S)
    assert told(waiters) == [1, 0]
    one.in_flight = 0
    scene.clock.advance(CALL_AGAIN_S)
    assert told(waiters) == [1, 1]


@covers("ROUTING-27")
def test_who_comes_while_others_wait_for_a_free_stream_waits_behind_them_for_as_long_as_they_do():
    scene, one, waiters = Scene(), One(streams_max=1), [Waiter() for _ in range(4)]
    scene.routes.publish("ep", LeastInFlight((one,)))
    scene.routes.publish("ep", LeastInFlight(()))
    scene.clock.advance(0.5)
    assert [scene.routes.wait("ep", waiter) for waiter in waiters[:2]] == [2.0, 2.0]
    scene.clock.advance(0.5)
    scene.routes.publish("ep", LeastInFlight((one,)))
    assert scene.routes.wait("ep", waiters[2]) == 2.0
    scene.routes.came("ep", waiters[0])
    one.in_flight = 1
    scene.clock.advance(1.0)
    assert scene.routes.wait("ep", waiters[3]) == 0.0, "too much to do for ever is another matter"
    for waiter in waiters[1:3]:
        scene.routes.stop_waiting("ep", waiter)
    assert told(waiters) == [1, 0, 0, 0]
    assert not scene.routes._lists
    assert scene.routes.wait("ep", waiters[3]) == 0.0


@covers("ROUTING-19", "ROUTING-27")
def test_who_comes_when_a_lost_peer_may_be_tried_again_waits_behind_those_who_wait_for_it():
    scene, waiters = Scene(), [Waiter(), Waiter(), Waiter()]
    link = scene.link("a")
    scene.say("a", "ep", 1)
    link.leaving, link.may_open = True, False
    assert [scene.routes.wait("ep", waiter) for waiter in waiters[:2]] == [2.0, 2.0]
    scene.clock.advance(0.5)
    scene.peers["a"].closed(link)
    assert scene.routes.served("ep")
    assert scene.routes.choose("ep") is None
    assert scene.routes.wait("ep", waiters[2]) == 2.0


@covers("ROUTING-27")
def test_others_wait_behind_those_whom_a_peer_refused_after_all_of_them_were_called():
    scene, waiters = Scene(), [Waiter() for _ in range(4)]
    scene.link("a")
    scene.say("a", "ep", 1)
    scene.say("a", "ep", 0)
    scene.routes.wait("ep", waiters[0])
    scene.clock.advance(1.0)
    scene.say("a", "ep", 1)
    scene.routes.came("ep", waiters[0])
    assert scene.routes.choose("ep") is scene.peers["a"], "nobody waits"
    assert scene.routes.wait("ep", waiters[1]) == 0.0, "nor then"
    scene.clock.advance(0.5)
    scene.routes.wait_again("ep", waiters[0], 2.0, refused=True)
    assert scene.routes.choose("ep") is None
    assert scene.routes.wait("ep", waiters[2]) == 2.0
    scene.clock.advance(0.5)
    assert scene.routes.wait("ep", waiters[3]) == 0.0


@covers("ROUTING-9", "ROUTING-28")
def test_the_limit_of_requests_for_an_endpoint_holds_for_those_who_waited():
    scene, waiters = Scene(requests_max=3), [Waiter() for _ in range(5)]
    scene.link("a")
    scene.say("a", "ep", 1)
    scene.say("a", "ep", 0)
    for waiter in waiters:
        scene.routes.wait("ep", waiter)
    one = One(in_flight=3)
    scene.routes.publish("ep", LeastInFlight((one,)))
    scene.say("a", "ep", 1)
    assert told(waiters) == [0, 0, 0, 0, 0]
    scene.say("a", "ep", 0)
    one.in_flight = 1
    scene.routes.request_over("ep")
    assert told(waiters) == [1, 1, 0, 0, 0]


@covers("ROUTING-28", "ROUTING-30", "ROUTING-31")
def test_those_whom_a_peer_refused_are_told_one_by_one_as_time_passes():
    scene, waiters = Scene(), [Waiter() for _ in range(4)]
    scene.link("a")
    scene.say("a", "ep", 1)
    scene.say("a", "ep", 0)
    for waiter in waiters[:3]:
        scene.routes.wait("ep", waiter)
    scene.say("a", "ep", 1)
    assert told(waiters) == [1, 1, 1, 0]
    for waiter in waiters[:3]:
        scene.routes.came("ep", waiter)
        assert scene.routes.wait_again("ep", waiter, 60.0, refused=True)
    assert told(waiters) == [1, 1, 1, 0]
    scene.clock.advance(CALL_AGAIN_S)
    assert told(waiters) == [2, 1, 1, 0]
    scene.routes.came("ep", waiters[0])
    scene.routes.request_over("ep")
    assert told(waiters) == [2, 2, 2, 0]
    for waiter in waiters[1:3]:
        scene.routes.came("ep", waiter)
    scene.clock.advance(1.0)
    assert scene.clock.next_due() is None


def test_no_more_wait_on_than_may_wait(monkeypatch):
    monkeypatch.setattr("pico.actors.routes.WAITERS_MAX", 1)
    scene = Scene()
    assert scene.routes.wait_again("ep", Waiter(), 60.0, refused=False)
    assert not scene.routes.wait_again("ep", Waiter(), 60.0, refused=False)


# What is told to the cluster, and what it changes.


@covers("CLUSTER-8")
def test_the_cluster_is_told_every_number_and_every_denial_in_order():
    scene, one = Scene(), One()
    scene.routes.publish("ep", LeastInFlight((one,)))
    scene.routes.publish("ep", LeastInFlight((one, One())))
    scene.routes.deny("ep")
    scene.routes.publish("ep", LeastInFlight((one,)))
    scene.routes.publish("ep", LeastInFlight(()))
    scene.routes.publish("x", LeastInFlight((one,)))
    scene.routes.clear()
    assert scene.told == [("ep", 1), ("ep", 2), ("ep", 0), ("ep", 1), ("ep", 0), ("x", 1), ("x", 0)]


@covers("ROUTING-16", "CLUSTER-13")
def test_a_denial_by_a_peer_is_seen_at_once_and_one_that_comes_late_changes_nothing():
    scene = Scene()
    scene.say("a", "ep", 1)
    entry = scene.routes.entry_of("a", "ep")
    scene.routes.absent("a", "ep", entry)
    assert scene.routes.choose("ep") is None
    assert scene.routes.wait("ep", Waiter()) == 2.0
    scene.say("a", "ep", 2)
    scene.routes.absent("a", "ep", entry)
    scene.routes.absent("a", "ep", None)
    assert scene.routes.choose("ep") is scene.peers["a"]


def test_another_view_takes_the_place_of_the_one_before_it():
    scene, waiter = Scene(), Waiter()
    for endpoint_id in ("gone", "still"):
        scene.say("a", endpoint_id, 1)
    scene.routes.publish("here", LeastInFlight((One(),)))
    view, state, told = ClusterView("me"), OwnState(2, GossipLimits()), []
    state.put(endpoint_key("still"), b"1")
    view.follow("a", state, FINE)
    scene.routes.join(view, scene.peers, Random(1), lambda *what: told.append(what))
    assert told == [("here", 1)]
    assert scene.routes.choose("gone") is None
    assert scene.routes.choose("still") is scene.peers["a"]
    assert scene.routes.wait("gone", waiter) == 2.0


# A peer.


def peer(connect_s: float = 1.0) -> tuple[PeerUpstream, list[int], ManualClock]:
    clock, dials = ManualClock(), []
    return PeerUpstream("a", lambda: dials.append(1), clock, connect_s), dials, clock


def state_of(one: PeerUpstream) -> tuple[bool, bool, bool, int]:
    return one.may_open, one.may_connect, one.leaving, one.in_flight


def test_a_peer_through_its_life():
    one, _, _ = peer()
    assert state_of(one) == (False, True, False, 0)
    link = Link()
    link.in_flight = 3
    one.opened(link)
    assert state_of(one) == (True, False, False, 3)
    assert one.multiplexer is link
    link.may_open = False  # full
    assert state_of(one) == (False, False, False, 3)
    link.leaving = True
    assert state_of(one) == (False, False, True, 3)
    second = Link()
    one.opened(second)
    one.closed(link)  # late: the second one has taken its place
    assert state_of(one) == (True, False, False, 0)
    one.closed(second)
    assert state_of(one) == (False, True, False, 0)
    one.unreachable()
    assert state_of(one) == (False, False, True, 0)
    one.opened(Link())
    assert state_of(one) == (True, False, False, 0)


@pytest.mark.parametrize("reachable", [True, False])
def test_whoever_waits_for_a_link_is_told_once_what_became_of_it(reachable):
    one, dials, clock = peer(connect_s=1.5)
    clock.advance(10.0)
    waiters = [Waiter(), Waiter(), Waiter()]
    assert [one.connect(waiter) for waiter in waiters] == [11.5] * 3
    assert len(dials) == 3
    one.stop_waiting(waiters[2])
    one.stop_waiting(waiters[2])
    for _ in range(2):
        one.opened(Link()) if reachable else one.unreachable()
    message = PeerReady("a") if reachable else PeerUnreachable("a")
    assert [waiter.told for waiter in waiters] == [[message], [message], []]


def test_the_number_of_waiters_is_bounded_and_comes_back(monkeypatch):
    monkeypatch.setattr("pico.actors.peers.LINK_WAITERS_MAX", 2)
    one, _, _ = peer()
    waiters = [Waiter(), Waiter()]
    for waiter in waiters:
        assert one.may_connect
        one.connect(waiter)
    assert not one.may_connect
    one.stop_waiting(waiters[0])
    assert one.may_connect


# What it costs.


class Compared(Waiter):
    """Notices when somebody looks for another one."""

    def __eq__(self, other) -> bool:
        raise AssertionError("one waiter was searched for among the others")

    __hash__ = Waiter.__hash__


def test_that_one_of_many_waits_no_longer_costs_the_same_however_many_there_are():
    scene, (one, _, _) = Scene(), peer()
    scene.say("a", "ep", 1)
    scene.say("a", "ep", 0)
    waiters = [Compared() for _ in range(3)]
    for waiter in waiters:
        assert scene.routes.wait("ep", waiter)
        one.connect(waiter)
    for waiter in reversed(waiters):
        scene.routes.stop_waiting("ep", waiter)
        one.stop_waiting(waiter)
    assert scene.routes.waiting == 0


def test_a_choice_among_peers_costs_the_same_with_one_endpoint_there_and_with_a_hundred_thousand() -> None:
    costs = []
    for size in (1, 100_000):
        scene = Scene()
        for name in "ab":
            for number in range(size):
                scene.states[name].put(endpoint_key(f"e{number}"), b"1")
            scene.consider(name, FINE)
            scene.link(name)
        assert scene.routes.choose("e0") in scene.peers.values()
        costs.append(calls_of(lambda scene=scene: scene.routes.choose("e0")))
    assert costs[0] == costs[1] < 60


def test_upstreams_are_counted_as_they_come_and_go() -> None:
    routes, rng = Scene().routes, Random(1)
    for _ in range(200):
        routes.publish(rng.choice("abc"), LeastInFlight(tuple(One() for _ in range(rng.randrange(4)))))
        assert routes.upstreams == sum(len(routes.upstreams_of(name)) for name in routes.here())
    assert routes.upstreams
    routes.clear()
    assert routes.upstreams == 0
    routes.publish("a", LeastInFlight((One(),)))
    assert routes.upstreams == 1
