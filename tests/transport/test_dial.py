"""Dialling: names, addresses, and which step failed."""

from __future__ import annotations

import _socket
import errno
import os
import resource
import threading
import time
from collections.abc import Callable, Iterator

import gevent
import pytest
from gevent import socket
from gevent.hub import get_hub

from pico.errors import ConnectFailed, NoFileLeft, TransportTimeout
from pico.transport import dial as dial_module
from pico.transport.dial import dial
from pico.transport.names import LOOK_UPS_MAX
from tests.transport.recorder import DEADLINE_S, Recorder, listen, open_files

Address = tuple[int, int, int, str, tuple[str, int]]


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with listen() as listener:
        yield listener


def addresses(*hosts: str) -> list[Address]:
    return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, 0)) for host in hosts]


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> Iterator[System]:
    """It knows every name as this machine, and nothing is held back when the test is over."""
    made = System(monkeypatch, addresses("127.0.0.1"))
    yield made
    made.let_go()


class System:
    """Answers for names what it was given, or raises it, and remembers what it was asked; holds back what it is to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answer: list[Address] | BaseException) -> None:
        self.asked: list[object] = []
        self.held: dict[object, threading.Event] = {}
        self._answer = answer
        self._real = _socket.getaddrinfo
        monkeypatch.setattr(_socket, "getaddrinfo", self._getaddrinfo)

    def hold(self, *names: bytes) -> None:
        self.held |= {name: threading.Event() for name in names}

    def let_go(self) -> None:
        for event in self.held.values():
            event.set()

    def _getaddrinfo(self, host: object, *arguments: object) -> list[Address]:
        """In a thread of the look-up, but for addresses."""
        if socket.AI_NUMERICHOST in arguments:
            return self._real(host, *arguments)  # type: ignore[arg-type, return-value]
        self.asked.append(host)
        if host in self.held:
            self.held[host].wait(DEADLINE_S)
        if isinstance(self._answer, BaseException):
            raise self._answer
        return self._answer


def wait_until(condition: Callable[[], object]) -> None:
    with gevent.Timeout(DEADLINE_S, AssertionError("it did not happen")):
        while not condition():
            gevent.sleep(0.002)


def free_port() -> int:
    with listen() as listener:
        return int(listener.getsockname()[1])


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_name_and_an_address_are_dialled(listener: socket.socket, host: str) -> None:
    port = listener.getsockname()[1]
    stream = dial(host, port, timeout_s=DEADLINE_S)
    accepted, _ = listener.accept()
    stream.write(b"x")
    assert accepted.recv(1) == b"x"
    assert (stream.peer_host, stream.peer_port) == ("127.0.0.1", port)
    accepted.sendall(b"y")
    assert Recorder(stream).wait_for_bytes(1) == b"y"
    stream.close()
    accepted.close()


def test_an_ipv6_address_is_dialled() -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6")
    try:
        listener = listen("::1", socket.AF_INET6)
    except OSError:
        pytest.skip("no IPv6 on loopback")
    with listener:
        stream = dial("::1", listener.getsockname()[1], timeout_s=DEADLINE_S)
        assert stream.peer_host == "::1"
        stream.abort()


def test_an_address_asks_no_resolver(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    system = System(monkeypatch, OSError("not to be asked"))
    dial("127.0.0.1", listener.getsockname()[1], timeout_s=DEADLINE_S).abort()
    assert system.asked == []


def test_the_next_address_is_tried_when_one_refuses(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    files = open_files()
    port = listener.getsockname()[1]
    System(monkeypatch, addresses("127.0.0.2", "127.0.0.1"))
    stream = dial("two.example", port, timeout_s=DEADLINE_S)
    assert (stream.peer_host, stream.peer_port) == ("127.0.0.1", port)
    stream.abort()
    assert open_files() <= files


def test_a_silent_address_leaves_time_for_the_next(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    """The silent one is played by the waiting itself: no network can be relied on to say nothing."""
    waits: list[float] = []
    wait_connected = dial_module._wait_connected

    def first_is_silent(sock: object, timeout_s: float) -> int:
        waits.append(timeout_s)
        return errno.ETIMEDOUT if len(waits) == 1 else wait_connected(sock, timeout_s)  # type: ignore[arg-type]

    monkeypatch.setattr(dial_module, "_wait_connected", first_is_silent)
    System(monkeypatch, addresses("127.0.0.1", "127.0.0.1"))
    dial("two.example", listener.getsockname()[1], timeout_s=4.0).abort()
    assert 1.5 < waits[0] <= 2.0 < waits[1] <= 4.0


def test_the_wait_for_a_connection_has_its_deadline() -> None:
    """A backlog that is full does not answer."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        where = listener.getsockname()
        waiting = [dial(*where, timeout_s=DEADLINE_S)]
        start = time.monotonic()
        try:
            with pytest.raises(TransportTimeout, match="timed out"):
                waiting.extend(dial(*where, timeout_s=0.05) for _ in range(8))
        finally:
            for stream in waiting:
                stream.abort()
        assert time.monotonic() - start < DEADLINE_S


def test_a_refusal_says_so_for_each_address(monkeypatch: pytest.MonkeyPatch) -> None:
    files = open_files()
    port = free_port()
    with pytest.raises(ConnectFailed, match=f"cannot connect to 127.0.0.1 port {port}: connection refused"):
        dial("127.0.0.1", port, timeout_s=DEADLINE_S)
    System(monkeypatch, addresses("127.0.0.1", "127.0.0.2"))
    with pytest.raises(ConnectFailed, match="two.example.*127.0.0.1 connection refused, 127.0.0.2 connection refused"):
        dial("two.example", port, timeout_s=DEADLINE_S)
    assert open_files() <= files


def test_an_unreachable_network_says_so() -> None:
    with pytest.raises(ConnectFailed, match=r"cannot connect to 255\.255\.255\.255 port 80: [a-z ]+$"):
        dial("255.255.255.255", 80, timeout_s=DEADLINE_S)


@pytest.mark.parametrize(
    "fault,sentence",
    [
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "cannot resolve some.example: .* not known"),
        (socket.gaierror(socket.EAI_AGAIN, "Temporary failure"), "cannot resolve some.example: temporary failure"),
        (OSError(errno.EMFILE, "Too many open files"), "cannot resolve some.example: too many open files"),
    ],
)
def test_a_name_that_cannot_be_resolved_says_so(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], fault: BaseException, sentence: str
) -> None:
    System(monkeypatch, fault)
    with pytest.raises(ConnectFailed, match=sentence) as raised:
        dial("some.example", 80, timeout_s=DEADLINE_S)
    assert (type(raised.value) is NoFileLeft) == (fault.args[0] == errno.EMFILE)
    assert capfd.readouterr().err == "", "the thread says nothing"


@pytest.mark.parametrize("host", ["a..b", "x" * 64 + ".example", "", "-\ud800-"])
def test_what_is_no_name_says_so(host: str) -> None:
    with pytest.raises(ConnectFailed, match="cannot resolve"):
        dial(host, 80, timeout_s=DEADLINE_S)


def test_the_last_descriptors_are_left_to_others(listener: socket.socket) -> None:
    before = open_files()
    with open("/dev/null") as lowest:
        free = lowest.fileno()
    host, port = listener.getsockname()
    with pytest.raises(NoFileLeft, match="too many open files"):
        dial(host, port, timeout_s=DEADLINE_S, descriptors_max=free)
    assert open_files() <= before
    dial(host, port, timeout_s=DEADLINE_S, descriptors_max=free + 1).close()


def test_where_no_open_file_is_left_the_error_says_so(system: System) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        with pytest.raises(NoFileLeft, match="too many open files"):
            dial("127.0.0.1", 80, timeout_s=DEADLINE_S)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_connection_of_a_port_with_itself_is_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Played by asking for the port: the system gives it by chance."""

    class Socket(_socket.socket):
        def connect_ex(self, where: tuple[str, int]) -> int:  # type: ignore[override]
            self.bind(where)
            return super().connect_ex(where)

    files, port = open_files(), free_port()
    monkeypatch.setattr(_socket, "socket", Socket)
    with pytest.raises(ConnectFailed, match="connection refused"):
        dial("127.0.0.1", port, timeout_s=DEADLINE_S)
    assert open_files() <= files


def test_a_slow_resolver_is_given_up(system: System) -> None:
    system.hold(b"some.example")
    with pytest.raises(TransportTimeout, match="some.example was not resolved in time"):
        dial("some.example", 80, timeout_s=0.01)


def refused(name: str, port: int, timeout_s: float = DEADLINE_S) -> bool:
    """Whether a dial comes as far as to a port where nothing listens."""
    with pytest.raises(ConnectFailed, match="127.0.0.1 connection refused"):
        dial(name, port, timeout_s=timeout_s)
    return True


def test_a_name_that_hangs_is_asked_for_once_and_holds_up_nothing_else(system: System) -> None:
    system.hold(b"hangs.example")
    port = free_port()
    dials = [gevent.spawn(refused, "hangs.example", port) for _ in range(40)]
    wait_until(lambda: system.asked == [b"hangs.example"])
    assert get_hub().threadpool.apply(len, ("abc",)) == 3
    assert refused("other.example", port)
    assert system.asked == [b"hangs.example", b"other.example"]
    system.let_go()
    assert all(one.get(timeout=DEADLINE_S) for one in dials)
    assert len(system.asked) == 2
    assert refused("hangs.example", port)
    assert len(system.asked) == 3, "nothing is kept: what a name means may change"


def test_look_ups_at_one_time_are_bounded(system: System) -> None:
    hanging = [f"name-{number}.example" for number in range(LOOK_UPS_MAX)]
    system.hold(*(name.encode() for name in hanging))
    port = free_port()
    dials = [gevent.spawn(refused, name, port) for name in hanging]
    wait_until(lambda: len(system.asked) == LOOK_UPS_MAX)
    with pytest.raises(TransportTimeout, match="one.more was not resolved in time"):
        dial("one.more", port, timeout_s=0.05)
    system.let_go()
    assert all(one.get(timeout=DEADLINE_S) for one in dials)
    assert refused("one.more", port)


def test_a_name_is_resolved_without_blocking_the_hub(listener: socket.socket) -> None:
    ticks = []
    ticking = gevent.spawn(lambda: [ticks.append(gevent.sleep(0)) for _ in range(3)])
    dial("localhost", listener.getsockname()[1], timeout_s=DEADLINE_S).abort()
    ticking.join(DEADLINE_S)
    assert len(ticks) == 3


def test_a_foreign_timeout_does_not_escape(system: System) -> None:
    files = open_files()
    system.hold(b"some.example")
    with pytest.raises(TransportTimeout), gevent.Timeout(0.01):
        dial("some.example", 80, timeout_s=DEADLINE_S)
    assert open_files() <= files
