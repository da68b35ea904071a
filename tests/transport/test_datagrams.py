"""Datagrams: one suite for sockets and memory, then what only one of them has."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import gevent
import pytest
from gevent import socket
from gevent.event import Event

from pico.transport.clock import HubClock, ManualClock
from pico.transport.datagrams import (
    DATAGRAM_BYTES_MAX,
    Address,
    Datagrams,
    DatagramSocket,
    LinkQuality,
    MemoryDatagrams,
    MemoryNetwork,
)
from tests.transport.recorder import DEADLINE_S, open_files, settle

Bind = Callable[..., Datagrams]


class Inbox:
    """Remembers what came, in order, and lets a test wait for it."""

    def __init__(self) -> None:
        self.got: list[tuple[bytes, Address]] = []
        self.then: Callable[[bytes], object] = lambda data: None
        self._changed = Event()

    def __call__(self, data: bytes, source: Address) -> None:
        self.got.append((data, source))
        self._changed.set()
        self.then(data)

    @property
    def data(self) -> list[bytes]:
        return [data for data, _ in self.got]

    def wait(self, count: int) -> list[bytes]:
        with gevent.Timeout(DEADLINE_S, False):
            while len(self.got) < count:
                self._changed.clear()
                self._changed.wait()
        assert len(self.got) >= count, f"in vain: {self.data}"
        return self.data


@pytest.fixture(params=["socket", "memory"])
def bind(request: pytest.FixtureRequest) -> Iterator[Bind]:
    network = MemoryNetwork(HubClock(), Random(1))
    opened: list[Datagrams] = []

    def bound(received: Any, port: int = 0, **limits: int) -> Datagrams:
        make: Any = DatagramSocket if request.param == "socket" else network.bind
        opened.append(make("127.0.0.1", port, received, **limits))
        return opened[-1]

    yield bound
    for datagrams in opened:
        datagrams.close()


def test_a_datagram_arrives_with_the_address_to_answer_to(bind: Bind) -> None:
    one, other = Inbox(), Inbox()
    near, far = bind(one), bind(other)
    assert near.address[0] == "127.0.0.1" and near.address != far.address
    assert near.send(b"ping", far.address)
    assert other.wait(1) == [b"ping"] and other.got[0][1] == near.address
    assert far.send(b"pong", other.got[0][1])
    assert one.wait(1) == [b"pong"]
    assert (near.counts.sent, near.counts.received, far.counts.sent, far.counts.received) == (1, 1, 1, 1)


def test_each_is_one_call_also_an_empty_one_and_more_than_a_turn_has(bind: Bind) -> None:
    inbox = Inbox()
    near, far = bind(Inbox()), bind(inbox)
    sent = [b"x" * (number % 3) + b"%d" % number if number else b"" for number in range(150)]
    for data in sent:
        assert near.send(data, far.address)
    assert inbox.wait(len(sent)) == sent
    assert far.counts.received == len(sent)


def test_one_may_send_to_oneself(bind: Bind) -> None:
    inbox = Inbox()
    near = bind(inbox)
    near.send(b"me", near.address)
    assert inbox.wait(1) == [b"me"] and inbox.got[0][1] == near.address


def test_the_largest_datagram_passes_and_a_larger_one_does_not_leave(bind: Bind) -> None:
    inbox = Inbox()
    near, far = bind(Inbox()), bind(inbox)
    largest = bytes(DATAGRAM_BYTES_MAX)
    assert near.send(largest, far.address)
    assert not near.send(largest + b"x", far.address)
    assert inbox.wait(1) == [largest]
    assert (near.counts.sent, near.counts.oversized, near.counts.send_failures) == (1, 1, 0)


def test_what_is_larger_than_the_own_limit_is_counted_and_dropped(bind: Bind) -> None:
    inbox = Inbox()
    near, far = bind(Inbox()), bind(inbox, bytes_max=10)
    near.send(bytes(11), far.address)
    near.send(bytes(10), far.address)
    assert inbox.wait(1) == [bytes(10)]
    assert (far.counts.oversized, far.counts.received) == (1, 1)
    assert not far.send(bytes(11), near.address)
    assert far.counts.oversized == 2


def test_a_receiver_that_fails_gets_the_next_one_all_the_same(bind: Bind, caplog: pytest.LogCaptureFixture) -> None:
    inbox = Inbox()
    near, far = bind(Inbox()), bind(inbox)

    def fail(data: bytes) -> None:
        if data == b"bad":
            raise gevent.Timeout(1)  # a BaseException, which must not escape either

    inbox.then = fail
    with caplog.at_level(logging.ERROR, logger="pico.transport"):
        near.send(b"bad", far.address)
        near.send(b"good", far.address)
        assert inbox.wait(2) == [b"bad", b"good"]
    assert "receiver of datagrams" in caplog.text


def test_nobody_at_the_address_is_nobody_s_fault(bind: Bind) -> None:
    inbox = Inbox()
    near, gone = bind(inbox), bind(Inbox())
    gone.close()
    for _ in range(3):
        assert near.send(b"hello?", gone.address)
        settle()
    near.send(b"still here", near.address)
    assert inbox.wait(1) == [b"still here"]
    assert near.counts.receive_errors == 0


def test_after_the_end_nothing_is_sent_or_received(bind: Bind) -> None:
    inbox = Inbox()
    near, far = bind(Inbox()), bind(inbox)
    near.send(b"too late", far.address)
    far.close()
    far.close()
    settle()
    assert inbox.data == []
    assert not far.send(b"x", near.address)
    assert far.counts.send_failures == 1 and far.counts.sent == 0


def test_a_receiver_may_end_it_from_within(bind: Bind) -> None:
    inbox = Inbox()
    near, far = bind(Inbox()), bind(inbox)
    inbox.then = lambda data: far.close()
    for _ in range(3):
        near.send(b"x", far.address)
    inbox.wait(1)
    settle()
    assert inbox.data == [b"x"] and far.counts.receive_errors == 0


def test_an_address_has_one_owner_at_a_time(bind: Bind) -> None:
    inbox = Inbox()
    near, far = bind(Inbox()), bind(Inbox())
    with pytest.raises(OSError):
        bind(inbox, far.address[1])
    far.close()
    again = bind(inbox, far.address[1])
    far.close()
    near.send(b"new", again.address)
    assert inbox.wait(1) == [b"new"]


# Sockets.


@pytest.fixture
def opened() -> Iterator[list[DatagramSocket]]:
    sockets: list[DatagramSocket] = []
    yield sockets
    for datagrams in sockets:
        datagrams.close()


def test_no_host_is_every_address_of_both_families(opened: list[DatagramSocket]) -> None:
    inbox, replies = Inbox(), Inbox()
    opened.append(every := DatagramSocket("", 0, inbox))
    opened.append(four := DatagramSocket("127.0.0.1", 0, replies))
    four.send(b"4", ("127.0.0.1", every.address[1]))
    assert inbox.wait(1) == [b"4"] and inbox.got[0][1] == four.address, "an IPv4 address as one"
    every.send(b"re: 4", four.address)
    assert replies.wait(1) == [b"re: 4"]
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    opened.append(six := DatagramSocket("::1", 0, replies))
    six.send(b"6", ("::1", every.address[1]))
    assert inbox.wait(2) == [b"4", b"6"]
    every.send(b"re: 6", inbox.got[1][1])
    assert replies.wait(2) == [b"re: 4", b"re: 6"]


@pytest.mark.parametrize(
    "address",
    [
        ("::1", 9),
        ("localhost", 9),
        ("node.example", 9),
        ("", 9),
        ("a" * 300, 9),
        ("ä..b", 9),
        ("\0", 9),
        ("127.0.0.1", 1 << 20),
    ],
    ids=lambda address: address[0][:12].encode("unicode_escape").decode(),
)
def test_what_cannot_be_sent_is_a_failure_and_asks_nobody(opened: list[DatagramSocket], address: Address) -> None:
    opened.append(near := DatagramSocket("127.0.0.1", 0, Inbox()))
    start = time.monotonic()
    assert not near.send(b"x", address)
    assert time.monotonic() - start < 0.5
    assert near.counts.send_failures == 1 and near.counts.sent == 0


def test_a_refusal_by_the_network_is_counted_and_receiving_goes_on(opened: list[DatagramSocket]) -> None:
    inbox = Inbox()
    opened.append(near := DatagramSocket("127.0.0.1", 0, inbox))
    opened.append(far := DatagramSocket("127.0.0.1", 0, Inbox()))
    far.close()
    near._sock.connect(far.address)  # only of a connected socket does the system say what ICMP said
    near._sock.send(b"x")
    with gevent.Timeout(DEADLINE_S):
        while not near.counts.receive_errors:
            gevent.sleep(0.001)
    opened.append(back := DatagramSocket("127.0.0.1", far.address[1], Inbox()))
    back.send(b"here again", near.address)
    assert inbox.wait(1) == [b"here again"]


def test_one_turn_of_the_hub_brings_a_few(opened: list[DatagramSocket]) -> None:
    inbox = Inbox()
    opened.append(near := DatagramSocket("127.0.0.1", 0, inbox, turn_max=2))
    for _ in range(5):
        near.send(b"x", near.address)
    turns = []
    inbox.then = lambda data: near._reader is not None and HubClock().call_soon(lambda: turns.append(len(inbox.got)))
    inbox.wait(5)
    settle()
    assert turns == [2, 2, 4, 4, 5]


def test_nothing_is_left_behind() -> None:
    DatagramSocket("", 0, Inbox()).close()
    files = open_files()
    for _ in range(3):
        DatagramSocket("", 0, Inbox()).close()
        with pytest.raises(OSError):
            DatagramSocket("192.0.2.1", 0, Inbox())
    assert open_files() <= files


# Memory.


class World:
    """Two addresses on a clock that is moved by hand."""

    def __init__(self, seed: int = 1, **quality: Any) -> None:
        self.clock = ManualClock()
        self.network = MemoryNetwork(self.clock, Random(seed), LinkQuality(**quality))
        self.inboxes = (Inbox(), Inbox())
        self.ends: list[MemoryDatagrams] = [
            self.network.bind(host, 8003, inbox)
            for host, inbox in zip(("10.0.0.1", "10.0.0.2"), self.inboxes, strict=True)
        ]

    @property
    def way(self) -> tuple[Address, Address]:
        return self.ends[0].address, self.ends[1].address

    def send(self, *sent: bytes) -> list[bool]:
        return [self.ends[0].send(data, self.ends[1].address) for data in sent]

    def got(self) -> list[bytes]:
        return self.inboxes[1].data


def test_a_network_delays() -> None:
    world = World(delay_s=0.5)
    world.send(b"x")
    world.clock.advance(0.49)
    assert world.got() == []
    world.clock.advance(0.01)
    assert world.got() == [b"x"]


def test_nothing_arrives_within_the_call_that_sends() -> None:
    world = World()
    world.send(b"x")
    assert world.got() == []
    world.clock.advance()
    assert world.got() == [b"x"]


def test_a_network_loses_and_repeats_as_much_as_it_is_told() -> None:
    sent = [b"%d" % number for number in range(400)]
    for quality, least, most in (
        ({"loss": 1.0}, 0, 0),
        ({"loss": 0.25}, 250, 350),
        ({"duplication": 1.0}, 800, 800),
        ({"duplication": 0.25}, 450, 550),
        ({"loss": 0.5, "duplication": 1.0}, 300, 500),
        ({}, 400, 400),
    ):
        world = World(**quality)
        assert all(world.send(*sent)), "a sender sees nothing of it"
        world.clock.advance()
        assert least <= len(world.got()) <= most
        assert set(world.got()) <= set(sent)


def test_a_network_with_jitter_lets_them_overtake() -> None:
    world = World(delay_s=0.1, jitter_s=1.0)
    sent = [b"%d" % number for number in range(20)]
    world.send(*sent)
    world.clock.advance(0.1)
    assert len(world.got()) < 5
    world.clock.advance(1.0)
    assert world.got() != sent and sorted(world.got()) == sorted(sent)


def test_a_cut_takes_what_is_on_its_way_and_is_one_way() -> None:
    world = World(delay_s=1.0)
    world.send(b"under way")
    world.network.links[world.way] = LinkQuality(cut=True)
    world.send(b"cut")
    world.ends[1].send(b"back", world.ends[0].address)
    world.clock.advance(1.0)
    assert world.got() == [] and world.inboxes[0].data == [b"back"]
    world.send(b"still cut")
    del world.network.links[world.way]
    world.clock.advance(1.0)
    assert world.got() == []
    world.send(b"healed")
    world.clock.advance(1.0)
    assert world.got() == [b"healed"]


def test_a_sender_sees_that_the_network_is_unreachable() -> None:
    world = World()
    world.network.links[world.way] = LinkQuality(unreachable=True)
    assert world.send(b"x") == [False]
    assert world.ends[0].counts.send_failures == 1
    assert world.ends[1].send(b"x", world.ends[0].address)


def test_what_is_on_its_way_reaches_whoever_has_the_address_then() -> None:
    world, inbox = World(delay_s=1.0), Inbox()
    world.send(b"x", b"y")
    world.ends[1].close()
    again = world.network.bind(*world.ends[1].address, inbox)
    world.clock.advance(1.0)
    assert world.got() == [] and inbox.data == [b"x", b"y"]
    again.close()
    world.send(b"z")
    world.clock.advance(1.0)
    assert len(inbox.data) == 2


def test_the_same_seed_is_the_same_run() -> None:
    def run(seed: int) -> list[tuple[float, bytes]]:
        world = World(seed, loss=0.2, duplication=0.2, delay_s=0.01, jitter_s=0.1)
        log: list[tuple[float, bytes]] = []
        world.inboxes[1].then = lambda data: log.append((world.clock.now(), data))
        for number in range(50):
            world.send(b"%d" % number)
            world.clock.advance(0.01)
        world.clock.advance(1.0)
        return log

    assert run(3) == run(3)
    assert run(3) != run(4)
