"""A node that lives by other settings from one request to the next, with every connection that it had."""

from __future__ import annotations

import contextlib
import os
import ssl
from dataclasses import replace
from pathlib import Path

import pytest
from gevent import socket
from gevent.ssl import SSLContext

from pico.config import TlsFiles
from pico.errors import ConfigError
from pico.node.node import Node
from tests.certificates import Authority
from tests.node.clusters import WITHIN_S, gossip_of, know_each_other
from tests.node.harness import (
    DEADLINE_S,
    Agent,
    Client,
    connect,
    echo,
    handshake,
    logged,
    read_head,
    running_node,
    settled,
    until,
)
from tests.node.test_cluster import Names


def serial(node: Node, door: str, authority: Authority) -> int:
    context = SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(authority.ca_file)
    plain = socket.create_connection(("127.0.0.1", node.address(door)[1]), timeout=DEADLINE_S)
    with context.wrap_socket(plain, server_hostname="localhost") as sock:
        return int(str(sock.getpeercert()["serialNumber"]), 16)


def test_each_door_shows_its_new_certificate(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    one, two = authority.issue("localhost"), authority.issue("localhost")
    tls = {f"{door}_tls": one for door in ("proxy", "upstream", "admin")}
    with running_node(**tls) as node:
        doors = ("proxy-door", "upstream-door", "admin-door")
        first = [serial(node, door, authority) for door in doors]
        node.reconfigure(replace(node.config, proxy_tls=two, upstream_tls=two, admin_tls=two))
        second = [serial(node, door, authority) for door in doors]
        assert len(set(first)) == len(set(second)) == 1
        assert first != second


@pytest.mark.parametrize("matter,made", [("has expired", {"expired": True}), ("is not valid yet", {"early": True})])
def test_a_certificate_that_is_not_valid_now_is_said_at_the_start_and_at_each_reload(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, matter: str, made: dict[str, bool]
) -> None:
    authority = Authority(tmp_path)
    bad, good = authority.issue("localhost", **made), authority.issue("localhost")
    said = f"--upstream-tls-cert: the certificate {matter}: whoever verifies it refuses to connect"
    with running_node(proxy_tls=good, upstream_tls=bad) as node:
        assert caplog.messages.count(said) == 1
        node.reconfigure(node.config)
        assert caplog.messages.count(said) == 2
        node.reconfigure(replace(node.config, upstream_tls=good))
        assert sum("the certificate" in line for line in caplog.messages) == 2


def test_a_bad_file_changes_nothing(tmp_path: Path) -> None:
    with running_node() as node:
        before = node.config
        nowhere = TlsFiles(certificate="/nowhere", key="/nowhere")
        with pytest.raises(ConfigError, match="upstream_tls_cert: "):
            node.reconfigure(replace(before, upstream_tls=nowhere, endpoint_wait_s=9.0))
        assert node.config is before
        assert node.routes._endpoint_wait_s == before.endpoint_wait_s


def test_what_waits_for_a_restart_is_kept_although_its_files_are_gone(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    one, two = authority.issue("localhost"), authority.issue("localhost")
    file = tmp_path / "keys"
    with running_node(proxy_tls=one, upstream_tls=one, cluster_key_file=keys(file, os.urandom(32))) as node:
        before, first = node._materials, serial(node, "proxy-door", authority)
        for path in (one.certificate, one.key, file):
            Path(path).unlink()
        other = replace(node.config, upstream_tls=two, endpoint_wait_s=9.0)
        node.reconfigure(other, ("proxy_tls_cert", "proxy_tls_key", "cluster_key_file"))
        assert serial(node, "proxy-door", authority) == first != serial(node, "upstream-door", authority)
        assert node._materials.cluster_keys is before.cluster_keys
        assert node._materials.not_after.keys() == before.not_after.keys()
        with pytest.raises(ConfigError, match="proxy_tls_cert: "):
            node.reconfigure(node.config)


def test_limits_of_requests_count_for_the_next_connection_and_what_is_open_stays() -> None:
    request = b"POST / HTTP/1.1\r\nHost: ep.x\r\nContent-Length: 3\r\n\r\nabc"
    with running_node() as node:
        agent, before = Agent(node, "ep", echo), Client(node)
        assert before.send(request).response().status == 200
        limits = replace(node.config.http_limits, body_bytes_max=2)
        node.reconfigure(replace(node.config, http_limits=limits))
        after = Client(node)
        assert after.send(request).response().status == 413
        assert before.send(request).response().status == 200
        for one in (before, after, agent):
            one.close()


def test_what_is_asked_for_each_request_counts_at_once() -> None:
    with running_node(access_log="off") as node:
        agent, client = Agent(node, "ep", echo), Client(node)
        believed = (b"X-Forwarded-For: 192.0.2.1\r\n",)
        client.get(b"/", b"ep.x", *believed)
        node.reconfigure(replace(node.config, trusted_proxies=("127.0.0.0/8",), access_log="json", endpoint_wait_s=0.0))
        client.get(b"/", b"ep.x", *believed)
        first, second = (call.field(b"x-forwarded-for") for call in agent.calls)
        assert first == [b"127.0.0.1"]
        assert second == [b"192.0.2.1, 127.0.0.1"]
        assert client.get(b"/", b"none.x").status == 502
        until(lambda: len(logged(node)) == 2, "the two lines since then")
        client.close()
        agent.close()


def test_an_upstream_stays_when_there_may_be_fewer(tmp_path: Path) -> None:
    with running_node() as node:
        first = Agent(node, "ep", echo)
        node.reconfigure(replace(node.config, upstreams_max=1))
        sock = connect(node, "upstream-door")
        sock.sendall(handshake("ep"))
        assert b" 503 " in read_head(sock)[0]
        node.reconfigure(replace(node.config, upstreams_max=2))
        second = Agent(node, "ep", echo)
        assert not first.ended.ready()
        sock.close()
        first.close()
        second.close()


def test_the_proxy_door_takes_as_many_as_it_may() -> None:
    with running_node(client_connections_max=1) as node:
        agent = Agent(node, "ep", lambda call: None)
        first = Client(node).send(b"GET / HTTP/1.1\r\nHost: ep.x\r\n\r\n")
        until(lambda: agent.calls, "the request, whose connection makes room for nobody")
        second = Client(node)
        settled(lambda: len(node.services.connections) == 1)
        node.reconfigure(replace(node.config, client_connections_max=2))
        assert node.metrics.client_connections_max == 2
        until(lambda: len(node.services.connections) == 2, "the one who waited")
        for client in (first, second):
            client.close()


def keys(path: Path, *ring: bytes) -> str:
    path.write_text("".join(f"{key.hex()}\n" for key in ring))
    return str(path)


def test_the_keys_of_a_cluster_change_while_it_runs(tmp_path: Path) -> None:
    """Known everywhere, then used, then alone: no node loses another, and one without the new key stays outside."""
    old, new = os.urandom(32), os.urandom(32)
    file = tmp_path / "keys"
    with (
        running_node("first", cluster_key_file=keys(file, old)) as first,
        running_node("second", cluster_key_file=keys(file, old), join=gossip_of(first)) as second,
    ):
        until(lambda: know_each_other([first, second]), "the cluster", WITHIN_S)
        for ring in ((old, new), (new, old), (new,)):
            keys(file, *ring)
            for node in (first, second):
                node.reconfigure(node.config)
            heard = [node.gossip_door.standing().datagrams_received for node in (first, second)]
            # What was sealed before the step is still to be opened after it.
            until(
                lambda heard=heard: all(
                    node.gossip_door.standing().datagrams_received >= before + 3
                    for node, before in zip((first, second), heard, strict=True)
                ),
                "datagrams of after the step",
                WITHIN_S,
            )
        with running_node("third", cluster_key_file=keys(file, new), join=gossip_of(first)) as third:
            until(lambda: know_each_other([first, second, third]), "the cluster with the new key", WITHIN_S)
        assert not any(first.gossip_door.standing().violations.values())


def test_a_node_is_told_of_others_while_it_runs() -> None:
    with running_node("first") as first, running_node("second") as second:
        second.reconfigure(replace(second.config, join=gossip_of(first)))
        until(lambda: know_each_other([first, second]), "the cluster", WITHIN_S)


def test_a_name_that_is_new_is_looked_up_while_one_that_was_taken_out_still_hangs(caplog) -> None:
    with running_node("first") as first:
        names = Names({"first.test": gossip_of(first)}, slow="slow.test")
        with running_node("second", system=names, join=(("slow.test", 1),)) as second:
            until(lambda: names.waiting, "the look-up of the slow name")
            second.reconfigure(replace(second.config, join=(("first.test", 1),)))
            until(lambda: know_each_other([first, second]), "the cluster", WITHIN_S)
            assert not names.waiting, "nobody wants to know any more"
    assert "slow.test" not in caplog.text


def test_where_a_name_led_before_is_known_as_long_as_it_is_among_those_that_are_named() -> None:
    with running_node("first") as first:
        (address,) = gossip_of(first)
        names = Names({"first.test": [address], "other.test": []})
        named, other = ("first.test", 1), ("other.test", 1)
        with running_node("second", system=names, join=(named,)) as second:
            search = second.gossip_door.actor.engine._search  # type: ignore[union-attr]
            until(lambda: list(search._seeds) == [address])
            names.names["first.test"] = []
            second.reconfigure(replace(second.config, join=(named, other)))
            until(lambda: second.gossip_door._seeds._found.get(other) == [], "the look-up of the other name")
            until(lambda: second.gossip_door._seeds._looking.dead)
            assert list(search._seeds) == [address]
            second.reconfigure(replace(second.config, join=(other,)))
            until(lambda: not search._seeds)
            second.reconfigure(replace(second.config, join=(named, other)))
            until(lambda: second.gossip_door._seeds._found.get(named) == [], "a name that leads nowhere")


def test_a_node_stays_ready_while_it_looks_for_one_who_says_nothing() -> None:
    with running_node() as node, contextlib.closing(socket.socket()) as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        assert node.ready() == (True, "")
        node.reconfigure(replace(node.config, join=(silent.getsockname(),)))
        silent.settimeout(DEADLINE_S)
        dialled, _ = silent.accept()
        assert not node.gossip_door.actor.seeds_tried  # type: ignore[union-attr]
        assert node.ready() == (True, "")
        dialled.close()
