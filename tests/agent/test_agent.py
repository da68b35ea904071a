"""A whole agent: its endpoints, its admin door, its signals and its exit code."""

from __future__ import annotations

import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import gevent
import pytest
from gevent import socket, subprocess
from gevent.event import Event as Signal

from pico.actors.runtime import inboxes, tell
from pico.agent.agent import Agent
from pico.agent.messages import TunnelGoaway
from pico.agent.process import _announce
from pico.config import AgentConfig, EndpointTarget, LinkTimers
from pico.errors import ConfigError, NoFileLeft
from pico.observability.hub import INTERVAL_S
from pico.protocol.tunnel import LinkState
from pico.transport.notify import Notifier
from tests.agent.harness import Door, answering, eventually, fields_of, read_head, serving
from tests.rules import covers

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
TIMERS = LinkTimers(backoff_first_s=0.01, backoff_max_s=0.05, linger_s=0.02, grace_period_s=5.0)
REFUSAL_BODY = '{"error": {"code": "invalid_endpoint", "message": "a label does not end with a hyphen"}}'

REFUSED = f"HTTP/1.1 400 Bad Request\r\nContent-Length: {len(REFUSAL_BODY)}\r\n\r\n{REFUSAL_BODY}"


@contextmanager
def running(
    doors: list[Door],
    port: int,
    names: str = "web",
    write_access_log: Callable[[str], None] = lambda text: None,
    **config: Any,
) -> Iterator[Agent]:
    targets = tuple(EndpointTarget(endpoint_id=name, host="127.0.0.1", port=port) for name in names.split())
    made = Agent(
        AgentConfig(servers=tuple(door.url for door in doors), endpoints=targets, link_timers=TIMERS, **config),
        write_access_log=write_access_log,
        rng=Random(1),
    )
    made.start()
    try:
        yield made
    finally:
        made.stop()
        made.stop()
        assert made.ended.wait(5)
        made.close()


@contextmanager
def door(*script: str, node: str = "") -> Iterator[Door]:
    made = Door(*script, node=node)
    try:
        yield made
    finally:
        made.stop()


@contextmanager
def holding() -> Iterator[tuple[Any, Callable[[], None]]]:
    """A service that answers when it is let; ``requests`` are the heads that it has."""
    released = Signal()

    def handle(sock: Any, address: Any) -> None:
        server.requests.append(read_head(sock)[0])
        released.wait()
        sock.sendall(OK)
        answering(OK)(sock, address)

    with serving(handle) as server:
        server.requests = []
        yield server, released.set


def free_port() -> int:
    with closing(socket.socket()) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def admin(port: int, path: str) -> tuple[int, bytes]:
    with closing(socket.create_connection(("127.0.0.1", port))) as sock:
        sock.sendall(b"GET %b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" % path.encode())
        answer = b""
        while data := sock.recv(65536):
            answer += data
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


def test_each_endpoint_has_a_tunnel_of_its_own() -> None:
    with (
        serving(answering(OK)) as server,
        door("stream") as node,
        running([node], server.server_port, "web api") as made,
    ):
        eventually(lambda: made.ready()[0], "readiness")
        paths = {head.split()[1] for head in node.heads}
        assert paths == {b"/pico/v1/listener/web", b"/pico/v1/listener/api"}
        assert all(bytes(tunnel.get().body) == b"hello" for tunnel in node.tunnels)
        assert b"pico_service_connections 2.0" in made.metrics.render()


def test_the_last_lines_of_its_access_log_are_written_before_it_ends_and_lost_ones_are_counted() -> None:
    lines: list[str] = []
    refuses = True

    def write(text: str) -> None:
        if refuses:
            raise OSError(28, "No space left on device")
        gevent.sleep(0.01)  # as a disk does
        lines.append(text)

    with serving(answering(OK)) as server, door("stream") as node:
        with running([node], server.server_port, write_access_log=write, access_log="json") as made:
            eventually(lambda: made.ready()[0], "readiness")
            node.tunnels[0].get()
            eventually(lambda: b"pico_access_log_dropped_total 1.0" in made.metrics.render(), "the loss")
            refuses = False
            node.tunnels[0].get()
        assert "".join(lines).count("\n") == 1


@covers("TUN-37", "TUN-39")
def test_a_tunnel_that_came_to_the_node_of_another_one_serves_until_it_has_found_a_second_node() -> None:
    with (
        serving(answering(OK)) as server,
        door("stream", "stream", "hang", node="node-1") as node,
        running([node], server.server_port, connections=2) as made,
    ):
        assert bytes(node.tunnel(0).get().body) == b"hello"
        assert bytes(node.tunnel(1).get().body) == b"hello"
        node.wait(lambda: node.dials == 3, "a dial for another node")
        assert fields_of(node.heads[2])["x-pico-elsewhere"] == "node-1"
        assert bytes(node.tunnel(1).get().body) == b"hello"
        assert made.metrics.actor_restarts.count("link") == 0
        assert not made.failed.is_set()


def test_where_no_open_file_is_left_idle_connections_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    from pico.agent import service

    real = service.dial

    def dial(*where: Any, **more: Any) -> Any:
        if made.metrics.service_connections() >= 3:
            raise NoFileLeft("too many open files")
        return real(*where, **more)

    with (
        holding() as (server, release),
        door("stream") as node,
        running([node], server.server_port, "web api") as made,
    ):
        eventually(lambda: made.ready()[0], "readiness")
        calls = [node.tunnel(0).open() for _ in range(3)]
        eventually(lambda: len(server.requests) == 3, "the requests at the service")
        monkeypatch.setattr(service, "dial", dial)
        crowded = node.tunnel(1).open().done()
        assert crowded.reset is not None, "nothing was idle"
        release()
        assert all(call.done().ended for call in calls)
        assert bytes(node.tunnel(1).get().body) == b"hello"
        eventually(lambda: made.metrics.service_connections() == 1, "the end of those that were idle")


def test_it_is_ready_when_every_endpoint_is_registered() -> None:
    port = free_port()
    with (
        serving(answering(OK)) as server,
        door("stream", "hang") as node,
        running([node], server.server_port, "web api", admin_port=port) as made,
    ):
        eventually(lambda: node.dials == 2, "both dials")
        eventually(lambda: any(one.registered for one in made._served.values()), "one registration")
        status, body = admin(port, "/readyz")
        assert (status, b"not registered: " in body) == (503, True)
        assert admin(port, "/livez")[0] == 200
        assert b"pico_agent_info" in admin(port, "/metrics")[1]


def test_its_admin_door_is_open_when_it_has_started_and_closed_when_it_is_closed() -> None:
    port = free_port()
    with door("stream") as node, running([node], 1, admin_port=port):
        assert admin(port, "/livez")[0] == 200
    with pytest.raises(ConnectionRefusedError):
        admin(port, "/livez")


def test_a_loop_that_is_blocked_is_seen() -> None:
    with door("stream") as node, running([node], 1) as made:
        time.sleep(1.5 * INTERVAL_S + 0.1)  # past the moment at which it wanted to be woken
        eventually(lambda: made.metrics.hub_blocked_s > 0.0, "how late the loop was")


def test_what_it_serves_is_in_its_metrics() -> None:
    with holding() as (server, release), door("stream") as node, running([node], server.server_port, "a b") as made:

        def samples() -> dict[str, str]:
            lines = made.metrics.render().decode().splitlines()
            return dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))

        eventually(lambda: samples()["pico_ready"] == "1.0", "readiness")
        node.tunnel(0).open()
        eventually(lambda: sorted(made.metrics.streams()) == [0, 1], "the request")
        release()


def test_when_it_is_closed_it_looks_at_nothing_any_more() -> None:
    with door("stream") as node, running([node], 1) as made:
        timer = made._hub_watch._timer
        assert timer._watcher is not None  # type: ignore[attr-defined]
    assert timer._watcher is None  # type: ignore[attr-defined]


def test_it_is_ready_no_longer_when_it_stops() -> None:
    with serving(answering(OK)) as server, door("stream") as node, running([node], server.server_port) as made:
        eventually(lambda: made.ready()[0], "readiness")
        assert made.ready() == (True, "")
        made.stop()
        eventually(lambda: not made.ready()[0], "the end of readiness")
        assert made.ended.wait(5)
        assert not made.failed.is_set()


def test_one_endpoint_that_is_refused_for_good_takes_no_other_with_it(caplog: pytest.LogCaptureFixture) -> None:
    with (
        serving(answering(OK)) as server,
        door(REFUSED, "stream") as node,
        running([node], server.server_port, "web api") as made,
    ):
        assert bytes(node.tunnel(0).get().body) == b"hello"
        eventually(lambda: made.settled, "the refusal")
        assert not made.failed.is_set()
        assert not made.ended.is_set()
        assert re.fullmatch("not registered: (web|api)", made.ready()[1])
        assert b"} 0.0" in made.metrics.render()
        assert bytes(node.tunnel(0).get().body) == b"hello"
    said = [record.getMessage() for record in caplog.records if "other endpoints" in record.getMessage()]
    assert len(said) == 1
    assert re.search("endpoint (web|api) was refused for good by 127.0.0.1:.*hyphen", said[0])


def test_an_agent_fails_when_no_endpoint_is_left_and_says_why() -> None:
    with (
        serving(answering(OK)) as server,
        door(REFUSED) as node,
        running([node], server.server_port, "web api", connections=2) as made,
    ):
        assert made.failed.wait(5)
        assert node.dials == 4
        assert re.search("endpoint (web|api) was refused for good by 127.0.0.1:.*hyphen", made.failure)


def test_a_service_manager_does_not_wait_for_an_endpoint_that_was_refused_for_good(tmp_path: Path) -> None:
    with (
        serving(answering(OK)) as server,
        door(REFUSED, "stream") as node,
        running([node], server.server_port, "web api") as made,
        closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as manager,
    ):
        manager.bind(str(tmp_path / "notify"))
        notifier = Notifier.from_environment({"NOTIFY_SOCKET": str(tmp_path / "notify")}, 0)
        with gevent.Timeout(5):
            _announce(made, notifier)
            while b"READY=1" not in (said := manager.recv(4096)):
                pass
        assert b"not registered: " in said


def test_an_endpoint_of_which_one_link_is_refused_for_good_is_served_by_the_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with (
        serving(answering(OK)) as server,
        door(REFUSED, "stream") as node,
        running([node], server.server_port, connections=2) as made,
    ):
        assert bytes(node.tunnel(0).get().body) == b"hello"
        eventually(lambda: any(link.state is LinkState.GIVEN_UP for link in made._served["web"].links.values()))
        assert made.ready()[0]
        assert not made.failed.is_set()
    assert "other endpoints" not in caplog.text


@covers("TUN-30")
def test_an_agent_that_stops_has_ended_when_the_last_tunnel_of_an_endpoint_has() -> None:
    with (
        holding() as (server, release),
        door("stream") as node,
        running([node], server.server_port, connections=2) as made,
    ):
        node.tunnel(1)
        call = node.tunnel(0).open()
        eventually(lambda: server.requests, "the request at the service")
        made.stop()
        node.tunnel(1).wait(lambda: node.tunnel(1).end_reason, "the end of the idle one")
        eventually(lambda: len(made._served["web"]._over) == 1, "the end of its link")
        assert not made.ended.is_set()
        release()
        assert bytes(call.done().body) == b"hello"
        assert made.ended.wait(5)


def test_a_link_that_fails_is_started_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        serving(answering(OK)) as server,
        door("stream", "stream", "hang") as node,
        running([node], server.server_port) as made,
    ):
        node.tunnel(0)
        eventually(lambda: made.ready()[0], "readiness")
        made._served["web"].links[0]._link.goaway = None  # type: ignore[method-assign,assignment]
        node.tunnel(0).multiplexer.goaway("leaving")
        assert bytes(node.tunnel(1).get().body) == b"hello"
        assert made.metrics.actor_restarts.count("link") == 1
        node.tunnel(1).multiplexer.abort("lost")
        eventually(lambda: b'pico_tunnel_up{endpoint="web"} 0.0' in made.metrics.render(), "the end of both")


def test_a_link_that_fails_again_and_again_fails_the_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pico.agent.link.LinkActor.on_receive", lambda *_: 1 // 0)
    with serving(answering(OK)) as server, door("stream") as node, running([node], server.server_port) as made:
        assert made.failed.wait(5)
        assert made.ended.wait(5)
        assert "endpoint web: link ended again" in made.failure


def test_an_endpoint_whose_link_failed_once_too_often_is_no_longer_registered() -> None:
    with serving(answering(OK)) as server, door("stream") as node, running([node], server.server_port, "web a") as made:
        web = made._served["web"]
        while not web.given_up:
            eventually(lambda: made.ready()[0], "readiness")
            link = web.links[0]
            link._link.goaway = None  # type: ignore[method-assign,assignment]
            tell(link.actor_ref, TunnelGoaway(1, "leaving"))
            eventually(lambda link=link: web.given_up or web.links[0] is not link, "its end")
        assert made.ready() == (False, "not registered: web")
        assert b'pico_tunnel_up{endpoint="web"} 0.0' in made.metrics.render()
        assert not made.failed.is_set(), "the other one is served"


def test_a_stop_that_comes_before_the_links_exist_reaches_them() -> None:
    with serving(answering(OK)) as server, door("hang") as node, running([node], server.server_port) as made:
        assert made._served["web"].links == {}
        made.stop()
        assert made.ended.wait(5)
        assert made.ready() == (False, "not registered: web")


# The process.


@contextmanager
def process(*words: str, stdout: Any = subprocess.DEVNULL) -> Iterator[Any]:
    command = [sys.executable, "-m", "pico.cli.agent", *words]
    made = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=stdout)
    try:
        yield made
    finally:
        if made.poll() is None:
            made.kill()
            made.wait()
        made.stderr.close()


def ends(made: Any) -> tuple[int, str]:
    with gevent.Timeout(20):
        text = made.stderr.read().decode()
        return made.wait(), text


@covers("TUN-30")
def test_a_signal_lets_requests_in_flight_finish_and_the_exit_code_is_zero() -> None:
    release: list[int] = []

    def handle(sock: Any, _: Any) -> None:
        read_head(sock)
        eventually(lambda: release, "the release")
        sock.sendall(OK)

    with (
        serving(handle) as server,
        door("stream") as node,
        process("--server", node.url, "--endpoint", f"web={server.server_port}") as agent,
    ):
        tunnel = node.tunnel(0)
        call = tunnel.open()
        gevent.sleep(0.1)
        agent.send_signal(signal.SIGTERM)
        tunnel.wait(lambda: tunnel.goaway_reason, "the goaway")
        release.append(1)
        assert bytes(call.done().body) == b"hello"
        code, log = ends(agent)
    assert code == 0
    assert "endpoint web is registered" in log
    assert "the agent stopped" in log


@covers("TUN-32")
def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    def handle(sock: Any, _: Any) -> None:
        read_head(sock)
        sock.recv(1)

    with (
        serving(handle) as server,
        door("stream") as node,
        (tmp_path / "lines").open("wb") as lines,
        process(
            "--server", node.url, "--endpoint", f"web={server.server_port}", "--access-log=json", stdout=lines
        ) as agent,
    ):
        tunnel = node.tunnel(0)
        tunnel.open()
        gevent.sleep(0.1)
        agent.send_signal(signal.SIGINT)
        tunnel.wait(lambda: tunnel.goaway_reason, "the goaway")
        agent.send_signal(signal.SIGINT)
        code, _log = ends(agent)
    assert code == 0
    assert "tunnel_lost" in (tmp_path / "lines").read_text(), "the line of what it cut off is written"


@covers("TUN-26")
@pytest.mark.parametrize("status", ["400 Bad Request", "401 Unauthorized", "403 Forbidden", "404 Not Found"])
def test_a_refusal_that_cannot_heal_is_an_exit_code_of_one_and_a_line(status: str) -> None:
    with (
        door(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n") as node,
        process("--server", node.url, "--endpoint", "web=1") as agent,
    ):
        code, log = ends(agent)
    assert code == 1
    assert f"endpoint web was refused for good by {node.url.removeprefix('http://')}: {status}" in log


# Other settings while it runs.


def target(name: str, port: int) -> EndpointTarget:
    return EndpointTarget(endpoint_id=name, host="127.0.0.1", port=port)


def test_an_endpoint_moves_to_another_service_on_the_tunnel_that_it_has() -> None:
    other = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nother"
    with (
        serving(answering(OK, OK)) as one,
        serving(answering(other)) as two,
        door("stream") as node,
        running([node], one.server_port) as made,
    ):
        tunnel = node.tunnel(0)
        assert bytes(tunnel.get().body) == b"hello"
        made.reconfigure(replace(made.config, endpoints=(target("web", two.server_port),)))
        assert bytes(tunnel.get().body) == b"other"
        assert node.dials == 1
        assert made._served["web"].service_connections == 1, "those to the service before are closed"


def test_an_endpoint_that_moves_finishes_what_the_service_before_has_and_gives_it_nothing_more() -> None:
    go_on = Signal()
    other = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nother"

    def slow(sock: Any, address: Any) -> None:
        read_head(sock)
        go_on.wait()
        sock.sendall(OK)
        answering(OK)(sock, address)

    with (
        serving(slow) as one,
        serving(answering(other, other)) as two,
        door("stream") as node,
        running([node], one.server_port) as made,
    ):
        tunnel, served = node.tunnel(0), made._served["web"]
        call = tunnel.open()
        eventually(lambda: served.service_connections == 1, "the request")
        made.reconfigure(replace(made.config, endpoints=(target("web", two.server_port),)))
        assert served.service_connections == 1, "it is counted still"
        assert bytes(tunnel.get().body) == b"other"
        assert served.service_connections == 2
        go_on.set()
        assert bytes(call.done().body) == b"hello"
        assert bytes(tunnel.get().body) == b"other"
        eventually(lambda: served.service_connections == 1, "the end of the connection to the service before")


def test_endpoints_come_and_go_and_the_others_keep_their_tunnels() -> None:
    with (
        serving(answering(OK)) as server,
        door("stream") as node,
        running([node], server.server_port, "stays goes") as made,
    ):
        eventually(lambda: made.ready()[0], "readiness")
        stays = made._served["stays"]
        wanted = (target("stays", server.server_port), target("comes", server.server_port))
        made.reconfigure(replace(made.config, endpoints=wanted))
        eventually(lambda: made.ready()[0] and not made._leaving, "the change")
        assert made._served["stays"] is stays
        assert node.dials == 3
        text = made.metrics.render().decode()
        assert 'pico_tunnel_up{endpoint="comes"} 1.0' in text
        assert 'endpoint="goes"' not in text
        assert not made.ended.is_set()


@covers("TUN-30", "TUN-32")
def test_a_stop_is_the_first_one_for_what_has_just_been_taken_out_of_the_settings() -> None:
    with holding() as (server, release), door("stream") as node, running([node], server.server_port, "a b") as made:
        eventually(lambda: made.ready()[0], "readiness")
        calls = [tunnel.open() for tunnel in node.tunnels]
        eventually(lambda: made.metrics.requests_in_flight == 2, "the requests at the agent")
        made.reconfigure(replace(made.config, endpoints=made.config.endpoints[:1]))
        made.stop()
        for tunnel in node.tunnels:
            tunnel.wait(lambda tunnel=tunnel: tunnel.goaway_reason, "the goaway")
        release()
        assert [bytes(call.done().body) for call in calls] == [b"hello", b"hello"]
        assert made.ended.wait(5)


@covers("TUN-32")
def test_the_second_stop_ends_what_was_taken_out_of_the_settings_at_once() -> None:
    with holding() as (server, _), door("stream") as node, running([node], server.server_port, "a b") as made:
        eventually(lambda: made.ready()[0], "readiness")
        for tunnel in node.tunnels:
            tunnel.open()
        eventually(lambda: made.metrics.requests_in_flight == 2, "the requests at the agent")
        made.reconfigure(replace(made.config, endpoints=made.config.endpoints[:1]))
        made.stop()
        made.stop()
        assert made.ended.wait(0.5 * TIMERS.grace_period_s)


def test_a_reload_after_the_stop_brings_nothing() -> None:
    with holding() as (server, release), door("stream") as node, running([node], server.server_port) as made:
        eventually(lambda: made.ready()[0], "readiness")
        call = node.tunnel(0).open()
        eventually(lambda: made.metrics.requests_in_flight, "the request at the agent")
        made.stop()
        made.reconfigure(replace(made.config, endpoints=(*made.config.endpoints, target("new", server.server_port))))
        release()
        assert bytes(call.done().body) == b"hello"
        assert made.ended.wait(5)


@covers("TUN-30", "TUN-31")
@pytest.mark.parametrize("signals", [0, 1])
def test_an_agent_that_ends_because_it_was_refused_lets_requests_in_flight_finish(signals: int) -> None:
    with holding() as (server, release), door("stream", REFUSED) as node:
        with process("--server", node.url, "--endpoint", f"web={server.server_port}") as agent:
            tunnel = node.tunnel(0)
            call = tunnel.open()
            eventually(lambda: server.requests, "the request at the service")
            tunnel.multiplexer.goaway("leaving")
            tunnel.wait(lambda: tunnel.goaway_reason, "the goaway of the agent")
            for _ in range(signals):
                agent.send_signal(signal.SIGTERM)
                gevent.sleep(0.2)
            release()
            assert bytes(call.done().body) == b"hello"
            code, log = ends(agent)
        assert code == 1
        assert "the agent ends: endpoint web was refused for good" in log


def test_an_endpoint_that_goes_and_comes_back_at_once_is_served() -> None:
    with (
        serving(answering(OK)) as server,
        door("stream") as node,
        running([node], server.server_port, "a b") as made,
    ):
        eventually(lambda: made.ready()[0], "readiness")
        both = made.config
        made.reconfigure(replace(both, endpoints=both.endpoints[:1]))
        made.reconfigure(both)
        eventually(lambda: made.ready()[0] and not made._leaving, "both")
        assert 'pico_tunnel_up{endpoint="b"} 1.0' in made.metrics.render().decode()


def test_a_new_endpoint_that_is_refused_for_good_takes_no_other_with_it_and_is_asked_for_by_the_next_reload() -> None:
    with (
        serving(answering(OK)) as server,
        door("stream", REFUSED, "stream") as node,
        running([node], server.server_port) as made,
    ):
        eventually(lambda: made.ready()[0], "readiness")
        both = (target("web", server.server_port), target("new", server.server_port))
        made.reconfigure(replace(made.config, endpoints=both))
        eventually(lambda: made._served["new"].given_up, "the refusal")
        assert made.ready() == (False, "not registered: new")
        assert bytes(node.tunnel(0).get().body) == b"hello"
        made.reconfigure(made.config)
        eventually(lambda: made.ready()[0] and not made._leaving, "both")
        assert not made.failed.is_set()
        assert 'pico_tunnel_up{endpoint="new"} 1.0' in made.metrics.render().decode()
        made.reconfigure(replace(made.config, endpoints=both[:1]))
        eventually(lambda: not made._leaving, "the end of the new one")
        assert not made.ended.is_set(), "the other is served"


def test_a_place_of_an_endpoint_that_was_refused_for_good_is_asked_for_by_the_next_reload() -> None:
    with (
        serving(answering(OK)) as server,
        door(REFUSED, "stream") as node,
        running([node], server.server_port, connections=2) as made,
    ):
        served = made._served["web"]
        eventually(lambda: made.ready()[0] and served._over, "one link, and the refusal of the other")
        made.reconfigure(made.config)
        assert bytes(node.tunnel(1).get().body) == b"hello"
        assert node.dials == 3
        assert bytes(node.tunnel(0).get().body) == b"hello", "the one that was there stayed"
        assert made._served["web"] is served
        assert not served._over
        node.script = [REFUSED]
        node.tunnel(0).multiplexer.goaway("leaving")
        eventually(lambda: any(link.state is LinkState.GIVEN_UP for link in served.links.values()), "the refusal")
        assert not made.failed.is_set(), "the other serves"
        assert bytes(node.tunnel(1).get().body) == b"hello"


def test_a_stop_in_the_middle_of_a_reload_reaches_what_the_reload_brings() -> None:
    with (
        serving(answering(OK)) as server,
        door(REFUSED, "stream") as node,
        running([node], server.server_port, connections=2) as made,
    ):
        eventually(lambda: made.ready()[0] and made._served["web"]._over, "one link, and the refusal of the other")
        gevent.spawn(made.stop)  # as soon as the reload lets others run
        made.reconfigure(replace(made.config, endpoints=(*made.config.endpoints, target("new", server.server_port))))
        assert made.ended.wait(5)


def test_a_reload_that_leaves_the_service_where_it_is_leaves_its_connections() -> None:
    with serving(answering(OK)) as server, door("stream") as node, running([node], server.server_port) as made:
        assert bytes(node.tunnel(0).get().body) == b"hello"
        made.reconfigure(replace(made.config, response_head_s=5.0))
        assert bytes(node.tunnel(0).get().body) == b"hello"
        assert made.metrics.service_connections_opened == 1
        made.reconfigure(replace(made.config, idle_connections_max=0))
        assert bytes(node.tunnel(0).get().body) == b"hello"
        assert made.metrics.service_connections() == 0, "it counts from then on"


def test_other_times_reach_the_links_that_are_there() -> None:
    with holding() as (server, _), door("stream") as node, running([node], server.server_port) as made:
        call = node.tunnel(0).open()
        eventually(lambda: server.requests, "the request at the service")
        made.reconfigure(replace(made.config, link_timers=replace(TIMERS, grace_period_s=0.05)))
        made.stop()
        assert made.ended.wait(2), "a request that is never answered has its five seconds no more"
        assert call.done().reset is not None


def test_reloads_leave_nothing_of_what_they_replace() -> None:
    ended: list[int] = []

    def handle(sock: Any, address: Any) -> None:
        answering(OK)(sock, address)
        ended.append(1)

    def actors() -> int:
        return sum(1 for _ in inboxes())

    with serving(handle) as server, serving(handle) as other, door(REFUSED, "stream") as node:
        before = actors()
        with running([node], server.server_port, "web", connections=2, idle_connection_s=60.0) as made:
            eventually(lambda: made.ready()[0] and made._served["web"]._over, "one link, and the refusal of the other")
            made.reconfigure(made.config)
            eventually(lambda: actors() == before + 4, "two links and what watches over them")
            for port in (other.server_port, server.server_port) * 3:
                made.reconfigure(replace(made.config, endpoints=(target("web", port), target("goes", port))))
            eventually(lambda: made.ready()[0], "both")
            assert len(made._served["web"]._services) == 1
            goes = next(one for one, head in zip(node.tunnels, node.heads[1:], strict=True) if b"/goes" in head)
            assert bytes(goes.get().body) == b"hello"
            made.reconfigure(replace(made.config, endpoints=made.config.endpoints[:1]))
            eventually(lambda: ended and not made._leaving, "the end of the idle connection of what was taken out")
            eventually(lambda: actors() == before + 4, "the end of its actors")
        eventually(lambda: actors() == before, "the end of all actors")


def test_an_endpoint_that_was_refused_for_good_leaves_nothing_when_it_is_taken_out() -> None:
    with (
        serving(answering(OK)) as server,
        door("stream", REFUSED) as node,
        running([node], server.server_port) as made,
    ):
        eventually(lambda: made.ready()[0], "readiness")
        before = made.config
        both = (*before.endpoints, target("new", server.server_port))
        made.reconfigure(replace(before, endpoints=both))
        eventually(lambda: made._served["new"].over, "the refusal")
        refused = made._served["new"]
        made.reconfigure(replace(before, endpoints=both))
        eventually(lambda: made._served["new"].over, "the refusal again")
        eventually(lambda: not any(one.actor_ref.is_alive() for one in refused._supervisors), "the end of the first")
        made.reconfigure(before)
        eventually(lambda: made.ready()[0] and not made._leaving, "the end of the other")
        assert b'endpoint="new"' not in made.metrics.render()
        assert not made.ended.is_set()


def test_a_reload_while_the_agent_starts_begins_nothing_twice_and_ends_what_it_takes_out() -> None:
    with door("stream") as node:
        config = AgentConfig(
            servers=(node.url,),
            endpoints=(target("stays", 1), target("goes", 1)),
            link_timers=TIMERS,
            admin_port=free_port(),
        )
        made = Agent(config, write_access_log=lambda text: None, rng=Random(1))
        wanted = (target("stays", 1), target("comes", 1))
        gevent.spawn(lambda: made.reconfigure(replace(config, endpoints=wanted)))  # while the admin door opens
        made.start()
        assert set(made._served) == {"stays", "comes"}
        eventually(lambda: made.ready()[0] and not made._leaving, "both, and the end of the other")
        assert {head.split()[1].rpartition(b"/")[2] for head in node.heads} == {b"stays", b"comes"}
        assert node.dials == 2
        made.stop()
        assert made.ended.wait(5)
        made.close()
        eventually(lambda: all(tunnel.end_reason for tunnel in node.tunnels), "the end of every tunnel")


def test_settings_that_are_wrong_change_nothing() -> None:
    with serving(answering(OK)) as server, door("stream") as node, running([node], server.server_port) as made:
        eventually(lambda: made.ready()[0], "readiness")
        before = made.config
        secure = replace(target("web", 1), tls=True)
        with pytest.raises(ConfigError, match="service_ca_file"):
            made.reconfigure(replace(before, endpoints=(secure,), service_ca_file="/nowhere"))
        assert made.config is before
        assert bytes(node.tunnel(0).get().body) == b"hello"
