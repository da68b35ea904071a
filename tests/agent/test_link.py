"""The actor that keeps a tunnel open, against doors that follow a script."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from random import Random
from typing import Any

import gevent
import pytest
from gevent.event import Event as Signal

from pico.actors.runtime import tell
from pico.agent.dialling import server_of
from pico.agent.link import IDLE_POLL_S, LinkActor
from pico.agent.messages import StopLink
from pico.config import LinkTimers, RpcLimits
from pico.protocol.rpc import ResetCode
from pico.protocol.tunnel import LinkState
from tests.agent.harness import CLOCK, Bench, Door, NodeSide, eventually, read_head, serving
from tests.rules import covers

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
TIMERS = LinkTimers(dial_s=2.0, backoff_first_s=0.01, backoff_max_s=0.05, stable_s=0.0, linger_s=0.05, abort_s=1.0)


class Setup:
    """A service, a door and a link between them."""

    def __init__(self, port: int, doors: list[Door], timers: LinkTimers, **config: Any) -> None:
        self.base = Bench(port, link_timers=timers, **config)
        self.doors = doors
        self.door = doors[0]
        self.gave_up: list[str] = []
        self.ended = Signal()
        self.actor = LinkActor(
            self.base.forwarder,
            [server_of(door.url) for door in doors],
            self.base.config,
            CLOCK,
            Random(1),
            self.base.metrics,
            None,
            gave_up=self.gave_up.append,
            ended=self.ended.set,
        )
        self.ref = self.actor.launch()

    def state(self, state: LinkState) -> None:
        eventually(lambda: self.actor.state is state, f"the state {state}")

    def stop(self) -> None:
        tell(self.ref, StopLink())

    def close(self) -> None:
        self.stop()
        self.stop()
        assert self.ended.wait(5)
        for door in self.doors:
            door.stop()
        self.base.close()


@contextmanager
def linked(
    *scripts: tuple[str, ...], timers: LinkTimers = TIMERS, handle: Callable[..., None] | None = None, **config: Any
) -> Iterator[Setup]:
    def answer(sock: Any, _: Any) -> None:
        rest = b""
        while True:
            head, rest = read_head(sock, rest)
            if not head:
                return
            sock.sendall(OK)

    with serving(handle or answer) as server:
        made = Setup(server.server_port, [Door(*script) for script in scripts], timers, **config)
        try:
            yield made
        finally:
            made.close()


def test_an_endpoint_is_registered_and_its_requests_are_served() -> None:
    with linked(("stream",)) as made:
        tunnel = made.door.tunnel(0)
        for _ in range(3):
            assert bytes(tunnel.get().body) == b"hello"
        assert made.actor.state is LinkState.OPEN
        assert made.door.heads[0].startswith(b"GET /pico/v1/listener/web HTTP/1.1")
        assert b'pico_tunnel_up{endpoint="web"} 1.0' in made.base.metrics.render()


@covers("TUN-6")
def test_a_server_without_the_streaming_extension_is_served_in_the_base_protocol() -> None:
    with linked(("base",)) as made:
        assert bytes(made.door.tunnel(0).get().body) == b"hello"


@covers("TUN-10")
def test_a_message_in_the_segment_of_the_acceptance_is_heard() -> None:
    with linked(("stream+goaway", "stream")) as made:
        assert bytes(made.door.tunnel(1).get().body) == b"hello"


@covers("TUN-19", "TUN-33")
def test_it_goes_on_until_a_server_accepts_and_says_each_thing_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    refusal = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
    with linked((refusal,), ("close", "close", "close", "stream")) as made:
        tunnel = made.doors[1].tunnel(0)
        assert tunnel.get().ended
        assert made.doors[0].dials == made.doors[1].dials == 4
        counted = made.base.metrics._reconnects.count
        assert (counted("refused"), counted("connect_failed"), counted("moved")) == (4, 3, 0)
        first, second = (door.url.removeprefix("http://") for door in made.doors)
    assert [message for message in caplog.messages if "registered" in message] == [
        f"endpoint web is not registered at {first}: 503 Service Unavailable; retrying",
        f"endpoint web is not registered at {second}: the server closed the connection during the handshake; retrying",
        f"endpoint web is registered at {second}",
    ]


def test_what_becomes_of_a_tunnel_is_told_with_its_server_and_its_node(caplog: pytest.LogCaptureFixture) -> None:
    """The server may be a balancer with many nodes behind it."""
    caplog.set_level("INFO")
    with linked(("stream", "stream+goaway", "stream")) as made:
        made.door.node = "a"
        assert made.door.tunnel(0).get().ended
        made.door.tunnel(0).multiplexer.abort("the node dies")
        assert made.door.tunnel(2).get().ended
        where = made.door.url.removeprefix("http://")
    told = [re.sub(r"lost its tunnel to (.*?\)): .*", r"lost its tunnel to \1", one) for one in caplog.messages]
    assert [one for one in told if "127.0.0.1" in one] == [
        f"endpoint web is registered at {where} (node a)",
        f"endpoint web lost its tunnel to {where} (node a)",
        f"endpoint web is registered at {where} (node a)",
        f"endpoint web moves: {where} (node a) goes away (bye)",
        f"endpoint web is registered at {where} (node a)",
    ]


@covers("TUN-26")
def test_what_cannot_heal_ends_the_link_with_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    body = '{"error": {"code": "unauthorized", "message": "the token has expired"}}'
    with linked((f"HTTP/1.1 401 Unauthorized\r\nContent-Length: {len(body)}\r\n\r\n{body}",)) as made:
        assert made.ended.wait(5)
        assert made.actor.state is LinkState.GIVEN_UP
        assert len(made.gave_up) == 1
        assert "401 the token has expired" in made.gave_up[0]
        where = made.door.url.removeprefix("http://")
    assert f"endpoint web gives up at {where}: 401 the token has expired" in caplog.messages


@covers("TUN-27")
def test_a_balancer_that_says_404_in_the_middle_of_a_deployment_is_asked_again() -> None:
    nobody = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
    with linked(("stream", nobody, nobody, "stream")) as made:
        made.door.tunnel(0).multiplexer.abort("restart")
        assert made.door.tunnel(1).get().ended
        assert not made.gave_up


def test_a_lost_tunnel_is_replaced() -> None:
    with linked(("stream",)) as made:
        for number in range(3):
            tunnel = made.door.tunnel(number)
            assert tunnel.get().ended
            tunnel.multiplexer.abort("lost")
        made.door.tunnel(3)
        assert made.base.metrics._reconnects.count("lost") == 3
        made.state(LinkState.OPEN)
        assert (len(made.actor._tunnels), len(made.actor._arrived)) == (1, 0), "nothing is kept of those that were lost"


def test_the_gauge_falls_while_there_is_no_tunnel() -> None:
    def gauge() -> bytes:
        return re.findall(rb"^pico_tunnel_up.* (\S+)$", made.base.metrics.render(), re.MULTILINE)[0]

    with linked(("stream", "503"), timers=replace(TIMERS, backoff_first_s=60.0, backoff_max_s=60.0)) as made:
        eventually(lambda: gauge() == b"1.0", "the tunnel")
        made.door.tunnel(0).multiplexer.abort("lost")
        eventually(lambda: gauge() == b"0.0", "its end")


def test_a_link_that_waits_is_not_woken_before_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    woken: list[int] = []
    with linked(("503 is no answer",), timers=replace(TIMERS, backoff_first_s=60.0, backoff_max_s=60.0)) as made:
        made.door.wait(lambda: made.door.dials == 1, "the dial")
        made.state(LinkState.WAITING)
        real = made.actor._link.handle_timer
        monkeypatch.setattr(made.actor._link, "handle_timer", lambda *, now: (woken.append(1), real(now=now)))
        gevent.sleep(0.1)
        assert not woken


def test_a_tunnel_that_the_node_closes_is_replaced() -> None:
    with linked(("stream",)) as made:
        made.door.tunnel(0).multiplexer.close(1001, "maintenance")
        made.door.tunnel(1).stream.close()
        made.door.tunnel(2)
        assert made.base.metrics._reconnects.count("closed") == 2


def test_a_node_that_falls_silent_is_left() -> None:
    with linked(("stream",), rpc_limits=RpcLimits(heartbeat_s=0.05, silence_s=0.15)) as made:
        made.door.tunnel(0).stream.pause_reading()
        made.door.tunnel(1)
        assert made.base.metrics._reconnects.count("silent") == 1


@covers("TUN-14")
def test_a_node_that_breaks_the_protocol_is_left() -> None:
    with linked(("stream",)) as made:
        tunnel = made.door.tunnel(0)
        tunnel.stream.write(b"\x81\x02hi")  # text
        tunnel.wait(lambda: tunnel.end_reason, "the end of the tunnel")
        assert "1002" in tunnel.end_reason
        assert made.door.tunnel(1).get().ended
        assert made.base.metrics.protocol_errors.count("rpc") == 1
        assert made.base.metrics._reconnects.count("protocol_error") == 1


@covers("TUN-24", "TUN-28")
def test_after_a_goaway_the_next_tunnel_is_open_before_the_old_one_closes() -> None:
    release = Signal()

    def handle(sock: Any, _: Any) -> None:
        head, _ = read_head(sock)
        if b"/slow" in head:
            release.wait()
        sock.sendall(OK)

    with linked(("stream",), handle=handle) as made:
        old = made.door.tunnel(0)
        slow = old.open(target=b"/slow")
        eventually(lambda: made.actor.streams == 1, "the request at the agent")
        old.multiplexer.goaway("leaving")
        new = made.door.tunnel(1)
        assert new.get().ended
        gevent.sleep(0.15)
        assert not old.end_reason, "the old tunnel still has a stream"
        assert made.actor.streams == 1
        release.set()
        assert bytes(slow.done().body) == b"hello"
        old.wait(lambda: old.end_reason, "the end of the old tunnel")
        assert "1000" in old.end_reason
        assert new.get().ended


@covers("TUN-24", "TUN-29")
def test_goaways_without_end_do_not_make_it_spin() -> None:
    timers = LinkTimers(backoff_first_s=0.05, backoff_max_s=0.2, stable_s=30.0, draining_max=2)
    with linked(("stream+goaway",), timers=timers) as made:
        made.door.tunnel(0)
        gevent.sleep(0.5)
        assert 2 <= made.door.dials < 40
        assert len(made.actor._tunnels) <= 1 + 2 + 3


@covers("TUN-30")
def test_a_stop_finishes_what_is_in_flight_and_refuses_what_crosses_it() -> None:
    release = Signal()

    def handle(sock: Any, _: Any) -> None:
        read_head(sock)
        release.wait()
        sock.sendall(OK)

    with linked(("stream",), handle=handle) as made:
        tunnel = made.door.tunnel(0)
        call = tunnel.open()
        eventually(lambda: made.actor.streams == 1, "the request at the agent")
        tunnel.stream.pause_reading()
        made.stop()
        made.state(LinkState.DRAINING)
        crossing = tunnel.open()
        tunnel.multiplexer._flush()
        tunnel.stream.resume_reading()
        crossing.done()
        assert crossing.reset is not None
        assert (crossing.reset.code, crossing.reset.untouched) == (ResetCode.REFUSED, True)
        assert tunnel.goaway_reason
        release.set()
        assert bytes(call.done().body) == b"hello"
        tunnel.wait(lambda: tunnel.end_reason, "the end of the tunnel")
        assert "1001" in tunnel.end_reason
        assert made.ended.wait(5)
        assert made.actor.state is LinkState.CLOSED


@covers("TUN-30")
def test_a_stop_waits_for_responses_that_are_complete_and_have_not_left() -> None:
    body = bytes(200_000)

    def handle(sock: Any, _: Any) -> None:
        read_head(sock)
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    with linked(("stream",), handle=handle) as made:
        tunnel = made.door.tunnel(0)
        calls = [tunnel.open() for _ in range(20)]
        tunnel.multiplexer._flush()
        tunnel.stream.pause_reading()
        eventually(lambda: made.base.metrics.service_connections_opened, "the requests at the agent")
        eventually(lambda: made.actor.streams == made.base.metrics.requests_in_flight == 0, "the end of each")
        made.stop()
        made.state(LinkState.DRAINING)
        gevent.sleep(TIMERS.linger_s + 2 * IDLE_POLL_S)
        tunnel.stream.resume_reading()
        assert {len(call.done().body) for call in calls} == {len(body)}
        assert made.ended.wait(5)


@covers("TUN-31")
def test_a_stop_does_not_wait_longer_than_the_grace_period() -> None:
    def handle(sock: Any, _: Any) -> None:
        read_head(sock)
        sock.recv(1)

    timers = LinkTimers(grace_period_s=0.2, linger_s=0.05)
    with linked(("stream",), handle=handle, timers=timers) as made:
        call = made.door.tunnel(0).open()
        eventually(lambda: made.actor.streams == 1, "the request at the agent")
        made.stop()
        assert call.done().reset is not None
        assert made.ended.wait(5)


@covers("TUN-32")
def test_a_second_stop_ends_at_once() -> None:
    def handle(sock: Any, _: Any) -> None:
        read_head(sock)
        sock.recv(1)

    with linked(("stream",), handle=handle) as made:
        made.door.tunnel(0).open()
        eventually(lambda: made.actor.streams == 1, "the request at the agent")
        made.stop()
        made.stop()
        assert made.ended.wait(1)
        eventually(lambda: len(made.base.service) == 0, "the end of the connection to the service")


@covers("TUN-21")
def test_a_dial_that_is_accepted_too_late_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    from pico.agent import link

    real, held = link.connect, Signal()

    def late(*args: Any, **more: Any) -> Any:
        outcome = real(*args, **more)
        held.wait(5)
        return outcome

    monkeypatch.setattr(link, "connect", late)
    timers = LinkTimers(dial_s=0.1, backoff_first_s=5.0, backoff_max_s=5.0)
    with linked(("stream",), timers=timers) as made:
        tunnel: NodeSide = made.door.tunnel(0)
        made.state(LinkState.WAITING)
        held.set()
        tunnel.wait(lambda: tunnel.end_reason, "the end of the late tunnel")
        assert not made.actor._tunnels


def test_a_dial_that_outlives_its_link_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    from pico.agent import link

    real, held = link.connect, Signal()

    def late(*args: Any, **more: Any) -> Any:
        outcome = real(*args, **more)
        held.wait(5)
        return outcome

    monkeypatch.setattr(link, "connect", late)
    with linked(("stream",)) as made:
        tunnel = made.door.tunnel(0)
        made.stop()
        assert made.ended.wait(5)
        held.set()
        tunnel.wait(lambda: tunnel.end_reason, "the end of the late tunnel")


def test_a_tunnel_that_arrives_behind_the_stop_of_its_link_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from pico.agent import link

    real = link.connect

    def connect(*args: Any, **more: Any) -> Any:
        outcome = real(*args, **more)
        made.stop()
        made.stop()  # the link ends before it comes to what was dialled
        return outcome

    monkeypatch.setattr(link, "connect", connect)
    with linked(("stream",)) as made:
        tunnel = made.door.tunnel(0)
        assert made.ended.wait(5)
        tunnel.wait(lambda: tunnel.end_reason, "the end of the tunnel")


def test_a_fault_in_the_link_leaves_no_tunnel_open(caplog: pytest.LogCaptureFixture) -> None:
    with linked(("stream",)) as made:
        tunnel = made.door.tunnel(0)
        made.state(LinkState.OPEN)
        made.actor._link.goaway = None  # type: ignore[method-assign,assignment]
        tunnel.multiplexer.goaway("leaving")
        tunnel.wait(lambda: tunnel.end_reason, "the end of the tunnel")
        assert not made.ended.is_set(), "it failed: whoever started it starts it again"
        made.ended.set()
