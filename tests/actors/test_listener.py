"""The listener: accepting, its limit, its errors, and the two steps of closing. Real sockets on loopback."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import gevent.socket
import pykka
import pytest
from gevent.event import Event

from pico.actors.listener import STOP_WAIT_S, CannotListen, Listener
from pico.actors.messages import StopAccepting
from pico.actors.spares import SPARED_S, Spares
from pico.config import address_text
from pico.errors import ConnectionLost
from pico.transport.accepting import TROUBLE_PAUSE_S
from pico.transport.blocking_reader import BlockingReader
from pico.transport.clock import HubClock, ManualClock
from pico.transport.stream import SocketStream
from tests.actors.census import let_others_run, nothing_left_behind

DEADLINE_S = 5.0


class Door:
    """A listener whose handler greets, then waits until it is let go."""

    def __init__(self, **settings: Any) -> None:
        self.greeted: list[tuple[str, int]] = []
        self.go = Event()
        self.accepted = 0
        self.failed = 0
        self.clients: list[Any] = []
        settings = {"host": "127.0.0.1", "port": 0, "handler": self.greet, "connections_max": 10} | settings
        kind = settings.pop("kind", Listener)
        self.listener: Listener = kind(
            clock=settings.pop("clock", HubClock()),
            option="--proxy-port",
            accepted=self._count_accepted,
            failed=self._count_failed,
            **settings,
        )
        self.ref = self.listener.launch()

    def greet(self, connection: socket.socket, address: tuple[str, int]) -> None:
        self.greeted.append(address)
        connection.send(b"hello")
        try:
            self.go.wait(DEADLINE_S)
        finally:
            connection.close()

    def open(self) -> Door:
        self.listener.started.get(timeout=DEADLINE_S)
        return self

    def connect(self) -> Any:
        client = gevent.socket.create_connection(self.listener.address, timeout=DEADLINE_S)
        self.clients.append(client)
        return client

    def close(self) -> None:
        self.go.set()
        self.ref.stop(timeout=DEADLINE_S)
        for client in self.clients:
            client.close()

    def _count_accepted(self) -> None:
        self.accepted += 1

    def _count_failed(self) -> None:
        self.failed += 1


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    gevent.socket.getaddrinfo("127.0.0.1", 1)  # the hub and its resolver are there before anything is counted
    descriptors = len(os.listdir("/proc/self/fd"))
    with nothing_left_behind():
        yield
    assert len(os.listdir("/proc/self/fd")) <= descriptors


@pytest.fixture
def make_door() -> Iterator[Callable[..., Door]]:
    doors: list[Door] = []

    def make(**settings: Any) -> Door:
        doors.append(Door(**settings))
        return doors[-1].open()

    yield make
    for door in doors:
        door.close()


def turn_the_loop(turns: int = 5) -> None:
    """Let the hub look for events, so that what would happen at once has happened."""
    for _ in range(turns):
        gevent.sleep(0.001)


def wait_until(condition: Callable[[], bool]) -> None:
    with gevent.Timeout(DEADLINE_S):
        while not condition():
            gevent.sleep(0.001)


class TestAccepting:
    def test_the_handler_gets_a_non_blocking_socket_and_the_peer(self, make_door: Callable[..., Door]) -> None:
        kinds: list[Any] = []

        def look(connection: socket.socket, address: tuple[str, int]) -> None:
            kinds.append((type(connection), connection.getblocking(), address))
            connection.close()

        door = make_door(handler=look)
        client = door.connect()
        assert client.recv(1) == b""
        assert kinds == [(socket.socket, False, client.getsockname())]
        assert door.accepted == 1

    def test_port_0_becomes_the_port_that_the_system_chose(self, make_door: Callable[..., Door]) -> None:
        host, port = make_door().listener.address
        assert host == "127.0.0.1"
        assert port > 0

    def test_connections_are_served_at_the_same_time(self, make_door: Callable[..., Door]) -> None:
        door = make_door()
        clients = [door.connect() for _ in range(5)]
        assert [client.recv(5) for client in clients] == [b"hello"] * 5
        assert door.listener.connections == 5
        door.go.set()
        assert [client.recv(5) for client in clients] == [b""] * 5
        wait_until(lambda: door.listener.connections == 0)

    def test_at_the_limit_nobody_is_accepted_until_one_ends(self, make_door: Callable[..., Door]) -> None:
        releases: list[Event] = []

        def hold(connection: socket.socket, address: tuple[str, int]) -> None:
            releases.append(Event())
            releases[-1].wait(DEADLINE_S)
            connection.close()

        door = make_door(handler=hold, connections_max=2)
        clients = [door.connect() for _ in range(4)]
        wait_until(lambda: len(releases) == 2)
        turn_the_loop()
        assert door.listener.connections == 2
        releases[0].set()
        wait_until(lambda: len(releases) == 3)
        assert clients[0].recv(1) == b""
        assert door.listener.connections == 2
        for _ in range(2):
            for release in releases:
                release.set()
            wait_until(lambda: len(releases) == 4)
        releases[-1].set()

    def test_another_limit_counts_for_who_comes_and_ends_nobody(self, make_door: Callable[..., Door]) -> None:
        door = make_door(connections_max=1)
        for _ in range(4):
            door.connect()
        wait_until(lambda: len(door.greeted) == 1)
        door.listener.limit(3)
        wait_until(lambda: len(door.greeted) == 3)
        turn_the_loop()
        door.listener.limit(1)
        turn_the_loop()
        assert (len(door.greeted), door.listener.connections) == (3, 3)

    @pytest.mark.parametrize("error", [ValueError("a bug"), gevent.Timeout(1), KeyboardInterrupt()])
    def test_a_handler_that_fails_hurts_its_own_connection_only(
        self, make_door: Callable[..., Door], error: BaseException, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail(connection: socket.socket, address: tuple[str, int]) -> None:
            raise error

        door = make_door(handler=fail)
        for expected in (1, 2):
            assert door.connect().recv(1) == b""
            assert door.failed == expected
        assert door.listener.connections == 0
        assert len([record for record in caplog.records if record.exc_info]) == 2

    def test_a_handler_that_is_killed_is_no_failure(self, make_door: Callable[..., Door]) -> None:
        def end(connection: socket.socket, address: tuple[str, int]) -> None:
            raise gevent.GreenletExit

        door = make_door(handler=end)
        assert door.connect().recv(1) == b""
        assert door.failed == 0

    def test_a_socket_that_was_handed_on_stays_open(self, make_door: Callable[..., Door]) -> None:
        kept: list[socket.socket] = []
        door = make_door(handler=lambda connection, address: kept.append(connection))
        client = door.connect()
        wait_until(lambda: len(kept) == 1)
        wait_until(lambda: door.listener.connections == 0)
        door.ref.stop(timeout=DEADLINE_S)
        kept[0].send(b"still here")
        assert client.recv(10) == b"still here"
        kept[0].close()

    def test_every_address_is_of_both_families_and_ipv4_peers_are_written_as_such(
        self, make_door: Callable[..., Door]
    ) -> None:
        door = make_door(host="")
        port = door.listener.address[1]
        client = gevent.socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S)
        door.clients.append(client)
        assert client.recv(5) == b"hello"
        assert door.greeted == [client.getsockname()]

    def test_a_name_is_resolved(self, make_door: Callable[..., Door]) -> None:
        assert make_door(host="localhost").listener.address[0] in ("127.0.0.1", "::1")


class FullDoor(Door):
    """One whose connections can be spared, on a clock that the test moves."""

    def __init__(self, **settings: Any) -> None:
        self.clock = ManualClock()
        self.given_up = 0
        self.spares = Spares(self.clock, self._count_given_up)
        super().__init__(**{"spares": self.spares, "clock": self.clock} | settings)

    def greet(self, connection: socket.socket, address: tuple[str, int]) -> None:
        """As the doors do it: the stream hears that it was given up."""
        self.greeted.append(address)
        stream = SocketStream(connection, address)
        self.spares.add(stream, self.clock.now())
        try:
            BlockingReader(stream, self.clock).receive(1_000.0)
        except ConnectionLost:
            pass
        finally:
            self.spares.discard(stream)
            stream.close()

    def grow_old(self) -> None:
        self.clock.advance(SPARED_S)

    def close(self) -> None:
        self.listener.limit(len(self.greeted) + len(self.clients))  # who waits is taken, and sees its end, too
        for client in self.clients:
            client.close()
        wait_until(lambda: self.listener.connections == 0)
        super().close()

    def _count_given_up(self) -> None:
        self.given_up += 1


@pytest.fixture
def make_full_door() -> Iterator[Callable[..., FullDoor]]:
    doors: list[FullDoor] = []

    def make(connections_max: int, **settings: Any) -> FullDoor:
        """With as many connections as it may have."""
        door = FullDoor(connections_max=connections_max, **settings)
        doors.append(door)
        door.open()
        for number in range(connections_max):
            door.connect()
            wait_until(lambda number=number: len(door.greeted) == number + 1)
        return door

    yield make
    for door in doors:
        door.close()


def few_descriptors(door: Door) -> None:
    """The next client takes the last one that is for strangers, so that there is none for its connection."""
    free = os.dup(0)
    os.close(free)
    door.listener._descriptors_max = free + 1
    door.listener._few_once = True  # as if the last one before it had been seen to go


class TestFewDescriptors:
    """Each client of these tests is in this process, too."""

    def test_who_has_been_here_longest_ends_for_who_comes(
        self, make_full_door: Callable[..., FullDoor], caplog: pytest.LogCaptureFixture
    ) -> None:
        door = make_full_door(3)
        door.listener.limit(100)
        few_descriptors(door)
        door.connect()
        turn_the_loop()
        assert len(door.greeted) == 3
        assert caplog.messages == []
        door.grow_old()
        wait_until(lambda: len(door.greeted) == 4)
        assert door.clients[0].recv(1) == b""
        assert (door.given_up, door.listener.connections) == (1, 3)

    def test_where_nobody_can_be_spared_who_comes_waits_for_a_descriptor_of_whoever_has_it(
        self, make_door: Callable[..., Door], caplog: pytest.LogCaptureFixture
    ) -> None:
        clock = ManualClock()
        door = make_door(clock=clock)
        another = os.dup(0)
        few_descriptors(door)
        client = door.connect()
        turn_the_loop()
        assert door.greeted == []
        assert caplog.messages == ["--proxy-port accepts nobody for a moment: Too many open files"]
        os.close(another)
        clock.advance(TROUBLE_PAUSE_S)
        assert client.recv(5) == b"hello"

    def test_a_low_descriptor_that_became_free_does_not_mean_that_there_are_more(
        self, make_door: Callable[..., Door]
    ) -> None:
        door = make_door(clock=ManualClock())
        low = [os.dup(0) for _ in range(3)]
        few_descriptors(door)
        door.listener._few_once = False
        assert door.connect().recv(5) == b"hello", "the one that shows it"
        for descriptor in low:
            os.close(descriptor)
        assert door.connect().recv(5) == b"hello"
        door.connect()
        turn_the_loop()
        assert len(door.greeted) == 2


class TestMakingRoom:
    def test_who_has_been_here_longest_ends_for_who_comes(self, make_full_door: Callable[..., FullDoor]) -> None:
        door = make_full_door(3)
        door.grow_old()
        newcomers = [door.connect() for _ in range(2)]
        wait_until(lambda: len(door.greeted) == 5)
        assert [client.recv(1) for client in door.clients[:2]] == [b"", b""]
        wait_until(lambda: door.listener.connections == 3)
        assert door.greeted[3:] == [client.getsockname() for client in newcomers]
        assert (door.given_up, door.spares.leaving) == (2, 0)

    def test_many_who_come_at_once_are_all_taken(self, make_full_door: Callable[..., FullDoor]) -> None:
        door = make_full_door(20)
        door.grow_old()
        for _ in range(20):
            door.connect()
        wait_until(lambda: len(door.greeted) == 40)
        wait_until(lambda: door.listener.connections == 20)
        assert door.given_up == 20

    def test_nobody_ends_for_nobody(self, make_full_door: Callable[..., FullDoor]) -> None:
        door = make_full_door(2)
        door.grow_old()
        turn_the_loop()
        door.connect()
        wait_until(lambda: len(door.greeted) == 3)
        turn_the_loop()
        assert (door.given_up, door.listener.connections) == (1, 2)

    def test_who_has_just_come_keeps_its_place_for_a_while(self, make_full_door: Callable[..., FullDoor]) -> None:
        door = make_full_door(1)
        door.connect()
        turn_the_loop()
        assert (len(door.greeted), door.given_up) == (1, 0)
        door.clock.advance(SPARED_S * 0.9)
        turn_the_loop()
        assert (len(door.greeted), door.given_up) == (1, 0)
        door.clock.advance(SPARED_S * 0.1)
        wait_until(lambda: len(door.greeted) == 2)
        assert door.given_up == 1

    def test_where_none_can_be_spared_who_comes_waits_and_the_door_does_not_spin(
        self, make_full_door: Callable[..., FullDoor]
    ) -> None:
        door = make_full_door(1)
        (busy,) = door.spares._waiting
        door.spares.discard(busy)
        door.grow_old()
        door.connect()
        turn_the_loop()
        assert len(door.greeted) == 1
        assert not door.listener._watcher.active
        door.spares.add(busy, door.clock.now() - SPARED_S)
        wait_until(lambda: len(door.greeted) == 2)
        assert door.given_up == 1

    def test_where_none_can_be_spared_the_end_of_one_is_enough(self, make_full_door: Callable[..., FullDoor]) -> None:
        door = make_full_door(1)
        (busy,) = door.spares._waiting
        door.spares.discard(busy)
        door.connect()
        turn_the_loop()
        assert len(door.greeted) == 1
        door.clients[0].close()
        wait_until(lambda: len(door.greeted) == 2)
        assert door.given_up == 0

    def test_a_door_above_its_limit_comes_down_to_it_as_others_come(
        self, make_full_door: Callable[..., FullDoor]
    ) -> None:
        door = make_full_door(4)
        door.grow_old()
        door.listener.limit(2)
        turn_the_loop()
        assert door.listener.connections == 4
        door.connect()
        wait_until(lambda: len(door.greeted) == 5)
        wait_until(lambda: door.listener.connections == 2)
        assert door.given_up == 3

    def test_while_the_port_closes_nobody_makes_room(self, make_full_door: Callable[..., FullDoor]) -> None:
        door = make_full_door(1)
        door.grow_old()
        waiting = socket.create_connection(door.listener.address)  # the hub has had no turn to accept it
        door.listener.on_receive(StopAccepting())
        turn_the_loop()
        assert (door.given_up, door.listener.connections, len(door.greeted)) == (0, 1, 1)
        waiting.close()


class Troubled(Listener):
    """A listener whose next accepts fail as it is told."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.errors: list[int] = []
        self.attempts = 0

    def _accept(self) -> tuple[int, Any]:
        self.attempts += 1
        if self.errors:
            number = self.errors.pop(0)
            raise OSError(number, os.strerror(number))
        return super()._accept()


class TestTrouble:
    @pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.EINVAL])
    def test_out_of_descriptors_it_pauses_and_does_not_spin(self, make_door: Callable[..., Door], number: int) -> None:
        clock = ManualClock()
        door = make_door(kind=Troubled, clock=clock)
        troubled: Any = door.listener
        troubled.errors = [number, number]
        client = door.connect()
        wait_until(lambda: troubled.attempts == 1)
        turn_the_loop()
        assert troubled.attempts == 1
        for attempts in (2, 3):
            clock.advance(TROUBLE_PAUSE_S)
            wait_until(lambda attempts=attempts: troubled.attempts >= attempts)
        assert client.recv(5) == b"hello"

    def test_a_port_that_closes_while_it_pauses_leaves_no_timer(self, make_door: Callable[..., Door]) -> None:
        clock = ManualClock()
        door = make_door(kind=Troubled, clock=clock)
        troubled: Any = door.listener
        troubled.errors = [errno.EMFILE]
        client = door.connect()
        wait_until(lambda: clock.next_due() is not None)
        door.ref.ask(StopAccepting(), timeout=DEADLINE_S)
        assert client.recv(5) == b"hello", "it had come before"
        assert clock.next_due() is None

    @pytest.mark.parametrize("number", [errno.ECONNABORTED, errno.EPROTO])
    def test_a_connection_that_broke_while_it_waited_is_skipped(
        self, make_door: Callable[..., Door], number: int
    ) -> None:
        door = make_door(kind=Troubled)
        troubled: Any = door.listener
        troubled.errors = [number]
        assert door.connect().recv(5) == b"hello"

    def test_a_port_that_is_taken_is_one_sentence_with_address_and_option(self, make_door: Callable[..., Door]) -> None:
        host, port = make_door().listener.address
        second = Door(host=host, port=port)
        with pytest.raises(CannotListen) as caught:
            second.open()
        assert str(caught.value) == f"--proxy-port: cannot listen on {host}:{port}: Address already in use"
        assert not second.ref.is_alive()

    @pytest.mark.parametrize("host", ["192.0.2.1", "no-such-name.invalid", "x" * 64])
    def test_an_address_that_is_not_ours(self, host: str) -> None:
        with pytest.raises(CannotListen, match=f"--proxy-port: cannot listen on {host}:0: "):
            Door(host=host).open()


class TestClosing:
    def test_stop_accepting_closes_the_port_and_the_connections_go_on(self, make_door: Callable[..., Door]) -> None:
        door = make_door()
        client = door.connect()
        assert client.recv(5) == b"hello"
        address = door.listener.address
        door.ref.ask(StopAccepting(), timeout=DEADLINE_S)
        with pytest.raises(ConnectionRefusedError):
            gevent.socket.create_connection(address, timeout=DEADLINE_S)
        assert door.listener.connections == 1
        door.go.set()
        assert client.recv(5) == b""

    def test_who_waited_already_is_still_taken(self, make_door: Callable[..., Door]) -> None:
        door = make_door()
        address = door.listener.address
        waiting = []
        for _ in range(3):  # connected by the system; the hub has had no turn to accept them
            client = socket.create_connection(address)
            waiting.append(client)
        door.listener.on_receive(StopAccepting())
        assert door.listener.connections == 3
        door.go.set()
        let_others_run()
        for client in waiting:
            client.close()

    def test_stop_accepting_again_changes_nothing(self, make_door: Callable[..., Door]) -> None:
        door = make_door()
        for _ in range(2):
            door.ref.ask(StopAccepting(), timeout=DEADLINE_S)
        assert door.ref.is_alive()

    def test_stop_ends_the_connections_that_are_left(
        self, make_door: Callable[..., Door], caplog: pytest.LogCaptureFixture
    ) -> None:
        ended: list[bytes] = []

        def read(connection: socket.socket, address: tuple[str, int]) -> None:
            connection.send(b"hello")
            gevent.socket.wait_read(connection.fileno(), timeout=DEADLINE_S)
            ended.append(connection.recv(1))
            connection.close()

        door = make_door(handler=read)
        with door.connect() as before:
            assert before.recv(5) == b"hello"
        wait_until(lambda: door.listener.connections == 0)
        client = door.connect()
        assert client.recv(5) == b"hello"
        assert door.ref.stop(timeout=DEADLINE_S)
        assert ended == [b"", b""]
        assert client.recv(1) == b""
        assert caplog.text == ""

    def test_a_connection_that_a_stream_has_taken_over_goes_on_and_is_not_waited_for(
        self, make_door: Callable[..., Door], caplog: pytest.LogCaptureFixture
    ) -> None:
        streams: list[SocketStream] = []
        door = make_door(handler=lambda connection, address: (streams.append(SocketStream(connection)), door.go.wait()))
        client = door.connect()
        wait_until(lambda: streams)
        with gevent.Timeout(STOP_WAIT_S / 2):
            assert door.ref.stop(timeout=DEADLINE_S)
        assert caplog.text == ""
        streams[0].write(b"here")
        assert client.recv(5) == b"here"
        door.go.set()
        streams[0].close()
        wait_until(lambda: door.listener.connections == 0)

    def test_a_handler_that_does_not_end_keeps_stop_for_a_moment_only(
        self, make_door: Callable[..., Door], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr("pico.actors.listener.STOP_WAIT_S", 0.01)
        door = make_door()
        assert door.connect().recv(5) == b"hello"
        assert door.ref.stop(timeout=DEADLINE_S)
        assert "1 connections go on" in caplog.text
        door.go.set()
        wait_until(lambda: door.listener.connections == 0)

    def test_a_crash_closes_the_port(self, make_door: Callable[..., Door]) -> None:
        door = make_door()
        address = door.listener.address
        with pytest.raises(TypeError):
            door.ref.ask(pykka.messages.ProxyCall(("on_receive",), (), {}), timeout=DEADLINE_S)
        assert not door.ref.is_alive()
        with pytest.raises(ConnectionRefusedError):
            gevent.socket.create_connection(address, timeout=DEADLINE_S)


def test_addresses_are_written_for_people() -> None:
    assert address_text("", 80) == "*:80"
    assert address_text("192.0.2.1", 80) == "192.0.2.1:80"
    assert address_text("::1", 80) == "[::1]:80"
