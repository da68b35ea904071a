"""Sockets from a service manager: which are taken, and what is said of the others."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from pico.errors import ConfigError
from pico.transport.inherited import Inherited

PID = 4711


class Manager:
    """Opens sockets at consecutive descriptors, as a service manager does."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.first = 200

    def hand_over(self, *sockets: socket.socket, names: str, pid: int = PID) -> dict[str, str]:
        for number, one in enumerate(sockets, self.first):
            self._stack.enter_context(one)
            os.dup2(one.fileno(), number, inheritable=True)
            self._stack.callback(closed, number)
        return {"LISTEN_PID": str(pid), "LISTEN_FDS": str(len(sockets)), "LISTEN_FDNAMES": names}


def closed(descriptor: int) -> None:
    try:
        os.close(descriptor)
    except OSError:
        pass  # whoever took it over has closed it


@pytest.fixture
def manager() -> Iterator[Manager]:
    with ExitStack() as stack:
        yield Manager(stack)


def tcp(port: int = 0, listens: bool = True) -> socket.socket:
    one = socket.socket()
    one.bind(("127.0.0.1", port))
    if listens:
        one.listen()
    return one


def udp(port: int = 0) -> socket.socket:
    one = socket.socket(type=socket.SOCK_DGRAM)
    one.bind(("127.0.0.1", port))
    return one


def pair() -> tuple[socket.socket, socket.socket]:
    while True:
        stream = tcp()
        try:
            return stream, udp(stream.getsockname()[1])
        except OSError:
            stream.close()


def test_every_door_by_its_name(manager: Manager) -> None:
    proxy, admin, (stream, datagram) = tcp(), tcp(), pair()
    environment = manager.hand_over(stream, admin, datagram, proxy, names="gossip:admin:gossip:proxy")
    environment["HOME"] = "/"
    inherited = Inherited.from_environment(environment, PID, manager.first)
    assert environment == {"HOME": "/"}
    for name, one in {"proxy": proxy, "admin": admin, "gossip": stream}.items():
        assert inherited.address(name) == one.getsockname()
        copy = inherited.stream(name)
        assert copy.getsockname() == one.getsockname()
        assert not copy.getblocking()
        assert not os.get_inheritable(copy.fileno())
        copy.close()
    copy = inherited.datagram("gossip")
    assert copy.getsockname() == datagram.getsockname()
    copy.close()
    assert inherited.stream("upstream") is None
    assert inherited.address("upstream") is None
    assert not any(os.get_inheritable(manager.first + number) for number in range(4)), "no child gets them"


@pytest.mark.parametrize("environment", [{}, {"LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "proxy"}])
def test_what_is_meant_for_another_process_is_left_alone(environment: dict[str, str]) -> None:
    inherited = Inherited.from_environment(environment, PID)
    assert not inherited.streams
    assert not inherited.datagrams


def unix() -> socket.socket:
    one = socket.socket(socket.AF_UNIX)
    one.bind(f"\0pico-test-{os.getpid()}")
    one.listen()
    return one


WRONG = {
    "unknown name": (lambda: [tcp()], "web", "LISTEN_FDNAMES: 'web'"),
    "too few names": (lambda: [tcp(), tcp()], "proxy", "LISTEN_FDNAMES: 'proxy'"),
    "no names": (lambda: [tcp()], "", "LISTEN_FDNAMES: ''"),
    "twice": (lambda: [tcp(), tcp()], "proxy:proxy", "one TCP socket for each door"),
    "does not listen": (lambda: [tcp(listens=False)], "proxy", "a listening TCP socket for proxy"),
    "unix": (lambda: [unix()], "proxy", "a listening TCP socket for proxy"),
    "datagrams": (lambda: [udp()], "proxy", "one UDP socket for gossip"),
    "half of gossip": (lambda: [tcp()], "gossip", "on the same port"),
    "two ports": (lambda: [tcp(), udp()], "gossip:gossip", "on the same port"),
}


@pytest.mark.parametrize("sockets,names,said", WRONG.values(), ids=WRONG.keys())
def test_a_wrong_socket_is_named(manager: Manager, sockets: object, names: str, said: str) -> None:
    assert callable(sockets)
    environment = manager.hand_over(*sockets(), names=names)
    with pytest.raises(ConfigError, match=said):
        Inherited.from_environment(environment, PID, manager.first)


@pytest.mark.parametrize("given", ["-1", "many", "65"])
def test_a_wrong_number_is_named(given: str) -> None:
    environment = {"LISTEN_PID": str(PID), "LISTEN_FDS": given, "LISTEN_FDNAMES": "proxy"}
    with pytest.raises(ConfigError, match="LISTEN_FDS"):
        Inherited.from_environment(environment, PID)


def test_nothing_where_a_socket_should_be() -> None:
    environment = {"LISTEN_PID": str(PID), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "proxy"}
    with pytest.raises(ConfigError, match="descriptor 250: Bad file descriptor"):
        Inherited.from_environment(environment, PID, 250)
