"""The connections to one service: kept, bounded, given out and closed."""

from __future__ import annotations

import json
import struct
from socket import SHUT_WR, SO_LINGER, SOL_SOCKET
from typing import Any

import gevent
import pytest
from gevent.event import Event as Signal

from pico.agent.service import DIALS_MAX, ServiceConnection
from pico.config import AgentConfig
from pico.errors import ConnectFailed
from pico.protocol.rpc import ResetCode
from pico.transport.stream import Stream
from tests.agent.harness import CLOCK, Bench, answering, bench, eventually, fields_of, read_exactly, read_head, serving
from tests.rules import covers

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


def in_parallel(made: Bench, count: int) -> list[Any]:
    calls = [made.node.open() for _ in range(count)]
    return [call.done() for call in calls]


def hold_dials(monkeypatch: pytest.MonkeyPatch) -> Signal:
    """No dial ends from now on, until the signal is set."""
    from pico.agent import service

    real, held = service.dial, Signal()

    def slow(*args: Any, **more: Any) -> Stream:
        held.wait()
        return real(*args, **more)

    monkeypatch.setattr(service, "dial", slow)
    return held


def becomes_idle_and_is_closed(made: Bench) -> None:
    """A request leaves its connection idle, and after a while there is none."""
    made.node.get()
    assert made.service.idle == 1
    eventually(lambda: made.service.idle == 0, "the close of the idle connection")
    assert len(made.service) == 0


def test_idle_connections_are_closed_after_a_while() -> None:
    with bench(answering(OK), idle_connection_s=0.1) as made:
        becomes_idle_and_is_closed(made)


@covers("HTTP-73")
def test_a_connection_is_closed_before_the_service_closes_it() -> None:
    with bench(answering(b"HTTP/1.1 200 OK\r\nKeep-Alive: timeout=1\r\nContent-Length: 5\r\n\r\nhello")) as made:
        becomes_idle_and_is_closed(made)


@covers("HTTP-73")
def test_a_connection_whose_time_is_over_is_not_used_again_though_it_is_still_there() -> None:
    with bench(answering(b"HTTP/1.1 200 OK\r\nKeep-Alive: timeout=0\r\nContent-Length: 5\r\n\r\nhello")) as made:
        for _ in range(3):
            assert bytes(made.node.get().body) == b"hello"
        assert made.metrics.service_connections_opened == 3


def test_more_idle_connections_than_allowed_are_kept_only_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pico.agent.service.SURPLUS_S", 0.1)
    together = Signal()
    waiting: list[int] = []

    def handle(sock: Any, address: Any) -> None:
        read_head(sock)
        waiting.append(1)
        if len(waiting) == 6:
            together.set()
        together.wait()
        sock.sendall(OK)
        answering(OK)(sock, address)

    with bench(handle, idle_connections_max=2) as made:
        assert all(call.ended for call in in_parallel(made, 6))
        assert made.service.idle == 6
        eventually(lambda: made.service.idle == 2, "the close of the surplus")
        assert made.node.get().ended
        assert made.metrics.service_connections_opened == 6


@covers("HTTP-55")
def test_where_none_is_to_be_kept_each_request_has_a_connection_of_its_own() -> None:
    said: list[str] = []

    def handle(sock: Any, _: Any) -> None:
        while True:
            head, _ = read_head(sock)
            if not head:
                return
            said.append(fields_of(head).get("connection", ""))
            sock.sendall(OK)  # it would keep the connection

    with bench(handle, idle_connections_max=0) as made:
        for _ in range(3):
            assert made.node.get().ended
            assert len(made.service) == 0
        assert all(call.ended for call in in_parallel(made, 50))
    assert said == ["close"] * 53


@covers("HTTP-55")
def test_a_reload_may_end_the_keeping_of_connections_and_begin_it() -> None:
    with bench(answering(OK)) as made:
        assert made.node.get().ended
        assert made.service.idle == 1
        made.service.reconfigure(AgentConfig(servers=(), endpoints=(), idle_connections_max=0), None)
        assert len(made.service) == 0
        assert made.node.get().ended
        assert len(made.service) == 0
        made.service.reconfigure(AgentConfig(servers=(), endpoints=()), None)
        assert made.node.get().ended
        assert made.service.idle == 1


@covers("HTTP-55")
@pytest.mark.parametrize("before, after", [(4, 0), (0, 4)])
def test_a_request_that_is_under_way_in_a_reload_leaves_no_connection_where_none_is_kept(
    before: int, after: int
) -> None:
    go_on = Signal()

    def handle(sock: Any, address: Any) -> None:
        read_head(sock)
        go_on.wait()
        sock.sendall(OK)
        answering(OK)(sock, address)  # it would keep the connection

    with bench(handle, idle_connections_max=before) as made:
        call = made.node.open()
        eventually(lambda: len(made.service) == 1, "the connection")
        made.service.reconfigure(AgentConfig(servers=(), endpoints=(), idle_connections_max=after), None)
        go_on.set()
        assert call.done().ended
        assert len(made.service) == 0


@pytest.mark.parametrize("reset", [False, True])
def test_an_idle_connection_that_the_service_closes_or_resets_is_forgotten(
    reset: bool, caplog: pytest.LogCaptureFixture
) -> None:
    go_on = Signal()

    def handle(sock: Any, _: Any) -> None:
        read_head(sock)
        sock.sendall(OK)
        if reset:
            go_on.wait()
            sock.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))

    with bench(handle, idle_connection_s=60.0) as made:
        assert made.node.get().ended
        go_on.set()
        eventually(lambda: len(made.service) == 0, "the end of the connection")
        assert len(made.service._deadlines) == 0, "and nobody waits for its time"
        assert not caplog.records
        assert made.node.open(b"POST").done().ended
        assert made.metrics.service_connections_opened == 2


def test_bytes_that_nobody_asked_for_end_an_idle_connection(caplog: pytest.LogCaptureFixture) -> None:
    go_on = Signal()

    def handle(sock: Any, _: Any) -> None:
        read_head(sock)
        sock.sendall(OK)
        go_on.wait()
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged")
        sock.recv(1)

    with bench(handle, idle_connection_s=60.0) as made:
        assert made.node.get().ended
        go_on.set()
        eventually(lambda: len(made.service) == 0, "the end of the connection")
        assert not caplog.records


@covers("HTTP-31", "HTTP-55")
@pytest.mark.parametrize("method, upgrade", [(b"POST", b""), (b"GET", b"websocket")])
@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged"])
def test_what_has_arrived_on_an_idle_connection_ends_it_before_the_hub_has_come_to_it(
    said: bytes, method: bytes, upgrade: bytes
) -> None:
    idle: list[Any] = []

    def handle(sock: Any, _: Any) -> None:
        read_head(sock)
        sock.sendall(OK)
        idle.append(sock)
        Signal().wait()

    with bench(handle) as made:
        assert made.node.get().ended
        (connection,) = made.service._connections
        connection.stream.pause_reading()
        idle[0].sendall(said) if said else idle[0].shutdown(SHUT_WR)
        call = made.node.open(method, upgrade=upgrade).done()
        assert bytes(call.body) == b"hello"
        assert made.metrics.service_connections_opened == 2
        assert made.metrics.service_connections_reused == 0


@covers("HTTP-55")
def test_a_connection_that_has_ended_by_the_time_it_is_free_is_not_for_who_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    go_on = Signal()

    def handle(sock: Any, _: Any) -> None:
        read_head(sock)
        go_on.wait()
        sock.sendall(OK)
        sock.shutdown(SHUT_WR)

    with bench(handle) as made:
        first = made.node.open()
        eventually(lambda: len(made.service) == 1, "the connection")
        dials = hold_dials(monkeypatch)
        second = made.node.open(b"POST")
        eventually(lambda: made.metrics.requests_in_flight == 2, "the second request")
        go_on.set()
        assert first.done().ended
        dials.set()
        assert bytes(second.done().body) == b"hello"


def test_who_has_waited_for_a_connection_has_the_whole_time_for_its_response(monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = Signal()

    def handle(sock: Any, _: Any) -> None:
        read_head(sock)
        sock.sendall(OK[:-1])
        go_on.wait()
        sock.sendall(OK[-1:])
        read_head(sock)
        gevent.sleep(0.1)  # longer than a sweep over the deadlines
        sock.sendall(OK)

    with bench(handle, response_head_s=0.2, access_log="json") as made:
        first = made.node.open()
        first.wait(lambda: first.head, "the head")
        hold_dials(monkeypatch)
        second = made.node.open(b"POST")
        eventually(lambda: made.metrics.requests_in_flight == 2, "the second request")
        began = CLOCK.now()
        eventually(lambda: CLOCK.now() - began > 0.3, "more time than a response has")
        go_on.set()
        assert first.done().ended
        assert bytes(second.done().body) == b"hello"
        eventually(lambda: "POST" in "".join(made.lines), "the line")
        (line,) = (line for line in map(json.loads, "".join(made.lines).splitlines()) if line["method"] == "POST")
        assert line["total_ms"] > 300
        assert 100 <= line["upstream_ms"] < 300, "from when it was sent"


def test_what_comes_of_a_body_while_its_connection_is_made_arrives_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    bodies: list[bytes] = []

    def handle(sock: Any, _: Any) -> None:
        _, rest = read_head(sock)
        bodies.append(read_exactly(sock, 6, rest))
        sock.sendall(OK)

    dials = hold_dials(monkeypatch)
    with bench(handle) as made:
        call = made.node.open(b"POST", length=6, end=False)
        for number, piece in enumerate((b"ab", b"cd"), 1):
            made.node.multiplexer.send_data(call.stream, piece)
            eventually(
                lambda size=2 * number: made.agent.multiplexer.engine.snapshot().held_bytes == size, "its arrival"
            )
        dials.set()
        made.node.multiplexer.send_data(call.stream, b"ef", True)
        assert bytes(call.done().body) == b"hello"
    assert bodies == [b"abcdef"]


def test_bytes_behind_a_response_end_its_connection() -> None:
    with bench(answering(OK + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged")) as made:
        for _ in range(3):
            assert bytes(made.node.get().body) == b"hello"
        assert made.metrics.service_connections_opened == 3


def test_dials_at_one_time_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    from pico.agent import service

    dialling = [0, 0]
    real = service.dial

    def slow(*args: Any, **more: Any) -> Stream:
        dialling[0] += 1
        dialling[1] = max(dialling)
        gevent.sleep(0.01)
        try:
            return real(*args, **more)
        finally:
            dialling[0] -= 1

    monkeypatch.setattr(service, "dial", slow)
    with bench(answering(OK)) as made:
        assert all(call.ended for call in in_parallel(made, 100))
        assert dialling[1] <= DIALS_MAX


def test_a_connection_that_becomes_free_serves_who_waits() -> None:
    with bench(answering(OK)) as made:
        assert all(call.ended for call in in_parallel(made, 100))
        assert made.metrics.service_connections_opened <= 100
        assert made.metrics.service_connections_opened + made.metrics.service_connections_reused >= 100


def test_who_has_waited_for_as_long_as_a_dial_may_take_fails_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from pico.agent import service

    def failing(*_: Any, timeout_s: float, **__: Any) -> Stream:
        gevent.sleep(timeout_s)
        raise ConnectFailed("no route")

    monkeypatch.setattr(service, "dial", failing)
    monkeypatch.setattr(service, "DIALS_MAX", 1)
    with serving(answering(OK)) as server:
        made = Bench(server.server_port, connect_s=0.1)
        calls = in_parallel(made, 20)
        assert {call.reset.code for call in calls} == {ResetCode.SERVICE_UNREACHABLE}
        assert all(call.reset.untouched for call in calls)
        made.close()


def test_a_connection_that_nobody_waits_for_any_more_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    held = hold_dials(monkeypatch)
    with bench(answering(OK)) as made:
        call = made.node.open()
        eventually(lambda: made.metrics.requests_in_flight, "the request at the agent")
        made.node.multiplexer.reset(call.stream, ResetCode.CANCELLED)
        eventually(lambda: not made.metrics.requests_in_flight, "the end of the request")
        held.set()
        eventually(lambda: made.service.idle == 1, "the connection that nobody waits for")
        assert made.node.get().ended
        assert made.metrics.service_connections_opened == 1


def test_a_service_that_is_closed_keeps_nothing() -> None:
    with bench(answering(OK)) as made:
        call = made.node.open()
        made.service.close()
        assert call.done().ended
        assert made.node.get().ended
        assert made.service.idle == 0


def test_forgetting_twice_is_harmless() -> None:
    with bench(answering(OK)) as made:
        made.node.get()
        (connection,) = made.service._connections
        assert isinstance(connection, ServiceConnection)
        connection.discard()
        connection.abort()
        connection.drained()
        assert len(made.service) == 0
