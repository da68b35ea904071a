"""Whatever comes to the gossip port that should not: it is counted and dropped, it is bounded, and the node goes on.

Most of it comes in the clear, where whoever can reach the port could as well behave; what a key keeps out is in
``test_cluster.py``.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from dataclasses import replace
from random import Random
from types import SimpleNamespace

import gevent
import pytest
from gevent import socket

from pico.actors.runtime import depth
from pico.config import ChannelLimits, GossipLimits, PeerLimits, RpcLimits
from pico.errors import LocalProtocolError
from pico.protocol.channel import Channel, Handshake, Identity, Purpose
from pico.protocol.gossip import PacketCodec, Rank, Record, Records, first_life
from pico.protocol.gossip.packets import PacketBuilder
from pico.protocol.gossip.values import Ping
from pico.protocol.http import RequestHead
from pico.protocol.routing import addressed
from pico.protocol.rpc import ResetCode, StreamingEngine
from pico.protocol.seal import ClearSeal
from pico.transport.channel import ChannelCodec, shake_hands
from pico.transport.clock import HubClock
from pico.transport.multiplexer import Multiplexer
from pico.transport.stream import SocketStream
from tests.node.clusters import (
    ANSWER,
    HOST,
    alive,
    linked,
    metric,
    places,
    request,
    running_cluster,
    serve,
    with_status,
)
from tests.node.harness import Agent, Client, plain_socket, running_node, settled, until
from tests.rules import covers

GET = RequestHead(b"GET", b"/", b"Host: a.b\r\n", 0, b"")
LIMITS = PeerLimits(channel_limits=ChannelLimits(handshake_s=0.5), connections_max=40)
NODES_MAX = 50


@pytest.fixture
def nodes():
    """The one that is attacked, and its friend, which has the upstream; they are one cluster afterwards as well."""
    with running_cluster(2, peer_limits=LIMITS, gossip_limits=GossipLimits(nodes_max=NODES_MAX)) as both:
        Agent(both[1], "ep", serve)
        until(lambda: places(both[0]) == {"node-2"})
        opened = linked(both[0])
        yield both
        until(lambda: alive(both[0]) >= {"node-2"} and opened == {"node-2"} <= linked(both[0]), "the friend", 10.0)
        until(lambda: places(both[0]) == {"node-2"})
        assert request(both[0]).body == ANSWER
        assert depth(both[0].gossip_door.actor.actor_ref) < 100
        assert not both[0].failed.is_set()
        assert metric(both[0], 'pico_actor_restarts_total{actor="cluster"}') == 0
        assert metric(both[0], 'pico_connection_failures_total{listener="gossip"}') == 0


@pytest.fixture
def udp(nodes):
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.connect((HOST, nodes[0].address("gossip-door")[1]))
        yield sock


def packet(*messages, cluster: str = "pico", sender: str = "mallory", life: int = 0) -> bytes:
    codec = PacketCodec(cluster, sender, GossipLimits(), ClearSeal())
    builder = PacketBuilder(codec, life or first_life(1_760_000_000.0, Random(sender)), 1)
    for message in messages:
        builder.say(message)
    (data,) = builder.packets()
    return data


def ping(node_id: str = "node-1", **changes) -> bytes:
    return packet(Ping(1, node_id), **changes)


def violations(node, reason: str) -> int:
    return int(metric(node, f'pico_gossip_violations_total{{reason="{reason}"}}'))


def channels(node, result: str) -> int:
    return int(metric(node, f'pico_gossip_channels_total{{result="{result}"}}'))


def raw(node) -> socket.socket:
    return socket.create_connection((HOST, node.address("gossip-door")[1]), timeout=5)


def dial(node, purpose: Purpose, name: str = "mallory") -> tuple[SocketStream, Channel]:
    """A channel that the node has accepted."""
    clock, stream = HubClock(), SocketStream(plain_socket(raw(node)))
    identity = Identity("pico", name, first_life(1_760_000_000.0, Random(name)), None)
    handshake = Handshake(identity, ChannelLimits(), os.urandom(16), purpose=purpose, now=clock.now())
    return stream, shake_hands(stream, handshake, clock)


class Link:
    """The dialling side of a link."""

    def __init__(self, node, limits: RpcLimits | None = None, name: str = "mallory") -> None:
        clock = HubClock()
        self.stream, channel = dial(node, Purpose.LINK, name)
        self.ended = ""
        self.resets: list = []
        engine = StreamingEngine(limits or RpcLimits(streams_max=10_000_000), now=clock.now())
        self.frames = channel.frames
        codec = ChannelCodec(channel.frames, ChannelLimits())
        self.multiplexer = Multiplexer(self.stream, codec, engine, clock, self)
        self.multiplexer.start(channel.leftover)

    def open(self, endpoint: str = "ep", *, head: RequestHead | None = None) -> None:
        self.multiplexer.open(head or addressed(GET, endpoint), b"", True, self.resets.append)

    def stream_opened(self, event) -> None:
        raise AssertionError("the accepting side opens nothing")

    def goaway_received(self, reason: str) -> None:
        pass

    def connection_ended(self, reason: str) -> None:
        self.ended = reason or "ended"

    def close(self) -> None:
        self.multiplexer.abort("the test is over")


def resident_bytes() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * 4096


# Datagrams.


def test_datagrams_that_are_no_packets_are_counted_and_dropped(nodes, udp):
    rng, good = Random(1), ping()
    sent = [rng.randbytes(size) for size in (1, 2, 10, 100, 1200, 9000, 60_000)]
    sent += [good[:size] for size in range(len(good))]
    for bit in range(0, len(good) * 8, 3):
        spoilt = bytearray(good)
        spoilt[bit // 8] ^= 1 << bit % 8
        sent.append(bytes(spoilt))
    before = sum(nodes[0].gossip_door.standing().violations.values())
    for number, data in enumerate(sent):
        udp.send(data)
        if number % 50 == 0:
            gevent.sleep(0.01)
    until(lambda: sum(nodes[0].gossip_door.standing().violations.values()) - before >= len(sent) - 1)
    assert violations(nodes[0], "malformed") > 0
    assert alive(nodes[0]) == {"node-2"}


def test_packets_of_another_cluster_are_counted_and_dropped(nodes, udp):
    udp.send(ping(cluster="other"))
    until(lambda: violations(nodes[0], "cluster") == 1)
    udp.settimeout(0.1)
    with pytest.raises(TimeoutError):
        udp.recv(2000)


def test_a_stranger_is_answered_and_is_no_candidate(nodes, udp):
    """It may well be a node that is about to join: it is known, and asked, and no request goes there."""
    udp.send(ping())
    udp.settimeout(2)
    assert udp.recv(2000)
    settled(lambda: linked(nodes[0]) == {"node-2"})


def test_forged_names_fill_no_table(nodes, udp):
    for number in range(2_000):
        udp.send(ping(sender=f"nobody-{number}"))
        if number % 20 == 0:
            gevent.sleep(0.002)
    records = [(f"made-up-{number}", Record(1 << 60 | number, False, 0, Rank.ALIVE)) for number in range(1_000)]
    for first in range(0, 1_000, 10):
        udp.send(packet(Records(tuple(sorted(records[first : first + 10])), frozenset())))
        gevent.sleep(0.001)
    until(lambda: depth(nodes[0].gossip_door.actor.actor_ref) == 0)
    snapshot = nodes[0].gossip_door.actor.engine.snapshot()
    assert len(snapshot.records) <= NODES_MAX
    assert len(nodes[0].gossip_door.actor._peers) <= NODES_MAX
    assert linked(nodes[0]) == {"node-2"}


def test_a_node_that_is_said_to_be_dead_is_alive_again_because_it_says_so(nodes, udp):
    record = nodes[0].gossip_door.actor.engine.table.members()["node-2"]
    dead = Record(record.life, False, record.inc + 1, Rank.DEAD)
    udp.send(packet(Records((("node-2", dead),), frozenset())))
    until(lambda: nodes[0].gossip_door.actor.engine.table.members()["node-2"] != record, "that it was believed")
    until(lambda: alive(nodes[0]) >= {"node-2"}, "its contradiction")
    until(lambda: places(nodes[0]) == {"node-2"})


def test_a_packet_in_the_name_of_the_node_itself_changes_nothing(nodes, udp):
    record = nodes[0].gossip_door.actor.engine.table.record
    udp.send(ping(sender="node-1", life=record.life))
    gevent.sleep(0.2)
    assert nodes[0].gossip_door.actor.engine.table.record == record


FLOOD = """
import socket, sys, time
sock = socket.socket(type=socket.SOCK_DGRAM)
sock.connect((sys.argv[1], int(sys.argv[2])))
datagrams = [bytes.fromhex(word) for word in sys.argv[4:]]
until, sent = time.monotonic() + float(sys.argv[3]), 0
while time.monotonic() < until:
    for data in datagrams * 20:
        try:
            sent += bool(sock.send(data))
        except OSError:
            pass
print(sent)
"""


@contextlib.contextmanager
def flooded(node, seconds: float, *datagrams: bytes):
    """Another process sends these as fast as it can; the list has how many, afterwards."""
    where = (HOST, str(node.address("gossip-door")[1]), str(seconds))
    command = [sys.executable, "-c", FLOOD, *where, *(data.hex() for data in datagrams)]
    sent: list[int] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE) as running:
        try:
            yield sent
            until(lambda: running.poll() is not None, "the end of the flood", seconds + 10.0)
            sent.append(int(running.communicate()[0]))
        finally:
            running.kill()


def test_a_flood_is_bounded_and_the_friend_is_not_forgotten(nodes):
    """Pings that must be answered, summaries that must be compared, and junk."""
    victim, ref = nodes[0], nodes[0].gossip_door.actor.actor_ref
    received, took_s, deepest, before = _received(victim), [], 0, resident_bytes()
    with flooded(victim, 3.0, ping(), os.urandom(300), ping(sender="eve")) as sent:
        until_ = victim.clock.now() + 3.0
        while victim.clock.now() < until_:
            began = victim.clock.now()
            assert request(victim).body == ANSWER
            took_s.append(victim.clock.now() - began)
            deepest = max(deepest, depth(ref))
            assert alive(victim) | with_status(victim, "suspect") >= {"node-2"}
    grown, received = resident_bytes() - before, _received(victim) - received
    print(
        f"{sent[0]} datagrams in 3 s, {received} of them read, {victim.metrics.cluster.dropped} dropped, "
        f"at most {deepest} waited, {grown / 1e6:.1f} MB more memory; "
        f"{len(took_s)} requests meanwhile, the slowest took {max(took_s) * 1000:.0f} ms"
    )
    assert received > 1_000
    assert deepest <= LIMITS.inbox_max + 1
    assert grown < 30e6
    assert max(took_s) < 2.0


def _received(node) -> int:
    return int(metric(node, 'pico_gossip_datagrams_total{direction="received"}'))


# Connections.


def test_connections_that_say_nothing_are_closed_and_keep_nobody_out(nodes):
    """As many as the port takes at one time: who comes then waits until they are given up."""
    quiet = [raw(nodes[0]) for _ in range(LIMITS.connections_max)]
    until(lambda: channels(nodes[0], "no_answer") == len(quiet), "the end of all of them")
    for sock in quiet:
        assert sock.recv(1) == b""
        sock.close()
    stream, channel = dial(nodes[0], Purpose.LINK)
    assert channel.node_id == "node-1"
    stream.abort()


@covers("CHANNEL-21")
def test_at_a_full_port_the_oldest_handshake_makes_room_and_no_channel():
    with running_node(peer_limits=PeerLimits(connections_max=3)) as node:
        exchange, _ = dial(node, Purpose.EXCHANGE, "first")
        until(lambda: channels(node, "exchange") == 1)
        silent = [raw(node) for _ in range(2)]
        until(lambda: node.metrics.connections.count("gossip") == 3, "all of them")
        link = Link(node)
        assert silent[0].recv(1) == b""
        assert node.metrics.connections_given_up.count("gossip") == 1
        until(lambda: channels(node, "link") == 1)
        second = [raw(node) for _ in range(2)]
        assert silent[1].recv(1) == b""
        assert not exchange.closed and not link.ended
        assert node.metrics.connections_given_up.count("gossip") == 2
        for one in (exchange, link, *silent, *second):
            one.close()


def test_a_hello_byte_by_byte_is_as_late_as_none(nodes):
    sock = raw(nodes[0])
    began = nodes[0].clock.now()
    for byte in b"pc\x01\x01\x00\x02\x00\xff" + bytes(200):
        try:
            sock.send(bytes([byte]))
        except OSError:
            break
        gevent.sleep(0.05)
    until(lambda: channels(nodes[0], "no_answer") == 1)
    assert nodes[0].clock.now() - began < 2.0
    sock.close()


@pytest.mark.parametrize(
    "data, result",
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "malformed"),
        (bytes(64), "malformed"),
        (b"pc\x02\x09\x00\x02\x00\x50" + bytes(72), "version"),
        (b"pc\x01\x01\x00\x02\xff\xff" + bytes(100), "malformed"),
        (b"pc\x01\x01\x00\x07\x00\x50" + bytes(72), "malformed"),
        (b"pc\x01\x01\x01\x02\x00\x50" + bytes(72), "no_key"),
        (b"", "connection_lost"),
        (b"pc", "connection_lost"),
    ],
)
def test_what_is_no_hello_is_counted_and_closed(nodes, data, result):
    sock = raw(nodes[0])
    sock.sendall(data)
    if result == "connection_lost":
        sock.shutdown(socket.SHUT_WR)
    until(lambda: channels(nodes[0], result) == 1)
    try:
        while sock.recv(1000):
            pass
    except ConnectionResetError:
        pass
    sock.close()


def test_random_bytes_on_many_connections_end_each_of_them(nodes):
    rng = Random(2)
    for _ in range(30):
        sock = raw(nodes[0])
        try:
            sock.sendall(rng.randbytes(rng.randrange(1, 5000)))
        except OSError:
            pass
        sock.close()
    gevent.sleep(0.1)
    settled(lambda: linked(nodes[0]) == {"node-2"})


def test_a_channel_in_the_name_of_the_node_itself_is_refused(nodes):
    with pytest.raises(Exception, match="node-1"):
        dial(nodes[0], Purpose.LINK, "node-1")
    until(lambda: channels(nodes[0], "same_name") == 1)


@pytest.mark.parametrize("purpose", list(Purpose))
@pytest.mark.parametrize(
    "data", [b"\0\0\0\7" + bytes(64), b"\xff\xff\xff\xff" + bytes(64)], ids=["no checksum", "huge"]
)
def test_garbage_after_a_good_handshake_ends_the_channel(nodes, purpose, data):
    stream, _ = dial(nodes[0], purpose)
    forwarding = nodes[0].gossip_door.forwarding
    if purpose is Purpose.EXCHANGE:
        stream.write(data)
        until(lambda: metric(nodes[0], 'pico_gossip_exchanges_total{result="failed"}') == 1)
    else:
        until(lambda: forwarding.links == 2)
        stream.write(data)
        until(lambda: forwarding.links == 1, "the end of the link")
        assert metric(nodes[0], 'pico_protocol_errors_total{protocol="channel"}') == 1
    stream.close()


@pytest.mark.parametrize("spoil", ["random bodies", "a packet cut short", "another turn at once", "no turn at all"])
def test_exchanges_of_garbage_fail_alone(nodes, spoil):
    failed = 'pico_gossip_exchanges_total{result="failed"}'
    stream, channel = dial(nodes[0], Purpose.EXCHANGE)
    codec = PacketCodec("pico", "mallory", GossipLimits(), ClearSeal())
    body = codec.encode_body(7, [])
    if spoil == "random bodies":
        stream.writev(channel.frames.encode(*(os.urandom(500) for _ in range(100)), b""))
    elif spoil == "a packet cut short":
        stream.writev(channel.frames.encode(body[:-1], b""))
    elif spoil == "another turn at once":
        for _ in range(50):
            stream.writev(channel.frames.encode(os.urandom(10), b""))
    else:
        stream.close()
    until(lambda: metric(nodes[0], failed) == 1)
    stream.close()


def test_a_link_of_garbage_messages_is_ended_and_counted(nodes):
    link = Link(nodes[0])
    link.stream.writev(link.frames.encode(b"\1"))
    until(lambda: link.ended)
    assert metric(nodes[0], 'pico_protocol_errors_total{protocol="rpc"}') == 1
    link.close()


def test_a_link_that_opens_more_streams_than_it_may_is_bounded():
    """At the limit of the link; whether it is ended or refused, no more are remembered."""
    most = 50
    limits = replace(LIMITS, rpc_limits=replace(LIMITS.rpc_limits, streams_max=most))
    with running_cluster(2, peer_limits=limits) as nodes:
        held, link = Agent(nodes[0], "held", lambda call: None), Link(nodes[0])
        for _ in range(most + 200):
            link.open("held")
        forwarding = nodes[0].gossip_door.forwarding
        until(lambda: link.ended or len(link.resets) >= 200, "an end or refusals")
        assert len(held.calls) <= most
        assert forwarding.relays <= most
        link.close()
        until(lambda: forwarding.relays == held.mux.in_flight == 0, "the end of every relay")


def test_a_link_whose_requests_fill_the_upstream_is_refused_untouched(nodes):
    """The limit of a peer's link is higher than that of a tunnel: what finds no room is for the entry node to say."""
    most = nodes[0].config.rpc_limits.streams_max
    held, link = Agent(nodes[0], "held", lambda call: None), Link(nodes[0])
    for number in range(most + 500):
        link.open("held")
        if number % 500 == 0:
            gevent.sleep(0)
    until(lambda: len(link.resets) == 500, "the refusals", 20.0)
    assert {(event.code, event.untouched) for event in link.resets} == {(ResetCode.REFUSED, True)}
    forwarding = nodes[0].gossip_door.forwarding
    assert forwarding.relays == most
    link.close()
    until(lambda: forwarding.relays == held.mux.in_flight == 0, "the end of every relay", 10.0)


def test_what_was_sealed_once_is_not_taken_twice_nor_spoilt(tmp_path):
    """Without the key even the packets of members are worth nothing."""
    (tmp_path / "key").write_text(os.urandom(32).hex())
    with running_cluster(2, cluster_key_file=str(tmp_path / "key")) as (victim, friend):
        sent: list[bytes] = []
        datagrams = friend.gossip_door.actor._datagrams
        real = datagrams.send
        friend.gossip_door.actor._datagrams = SimpleNamespace(
            send=lambda data, address: sent.append(data) or real(data, address),
            close=datagrams.close,
            counts=datagrams.counts,
        )
        until(lambda: len(sent) >= 5)
        before = victim.gossip_door.actor.engine.table.members()
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            sock.connect((HOST, victim.address("gossip-door")[1]))
            for data in sent[:5] * 20:
                sock.send(data)
            until(lambda: violations(victim, "replayed") >= 100, "the replays")
            for data in sent[:5]:
                sock.send(data[:-1] + bytes([data[-1] ^ 1]))
            until(lambda: violations(victim, "forged") == 5, "the forgeries")
            for data in (b"", ping(), os.urandom(500)):
                sock.send(data)
            until(lambda: violations(victim, "unsealed") == 1)
        assert victim.gossip_door.actor.engine.table.members() == before
        assert alive(victim) == {"node-2"}


def test_endpoints_that_nobody_has_leave_no_trace(nodes):
    own = nodes[0].gossip_door.actor.engine.table.own
    entries, link = len(own.entries), Link(nodes[0])
    for number in range(5_000):
        link.open(f"nobody-{number}")
        if number % 200 == 0:
            gevent.sleep(0)
    until(lambda: len(link.resets) == 5_000, "all the answers", 10.0)
    assert {event.code for event in link.resets} == {ResetCode.NO_ENDPOINT}
    assert len(own.entries) == entries
    assert nodes[0].gossip_door.forwarding.relays == 0
    link.close()


def test_a_request_without_an_endpoint_is_reset_and_the_link_goes_on(nodes):
    link = Link(nodes[0])
    link.open(head=GET)
    link.open("nobody")
    until(lambda: len(link.resets) == 2)
    assert [event.code for event in link.resets] == [ResetCode.INTERNAL, ResetCode.NO_ENDPOINT]
    assert not link.ended
    link.close()


def test_links_beyond_the_limit_are_turned_away(nodes):
    links = []
    for number in range(LIMITS.connections_max + 20):
        links.append(Link(nodes[0], name=f"mallory-{number}"))
        gevent.sleep(0)
    until(lambda: channels(nodes[0], "too_many") >= 20)
    assert nodes[0].gossip_door.forwarding.links <= LIMITS.connections_max
    until(lambda: sum(bool(link.ended) for link in links) >= 20)
    for link in links:
        link.close()
    until(lambda: nodes[0].gossip_door.forwarding.links == 1, "their end")


def test_empty_frames_are_the_end_of_a_link_and_of_turns(nodes):
    """That they come by the hundred makes no difference."""
    for purpose in Purpose:
        stream, _ = dial(nodes[0], purpose)
        stream.write(bytes(8 * 500))
        stream.close()
    until(lambda: nodes[0].gossip_door.forwarding.links == 1)
    gevent.sleep(0.1)
    assert nodes[0].gossip_door.exchanges._served == 0


def test_a_link_that_falls_silent_is_given_up(nodes):
    stream, _ = dial(nodes[0], Purpose.LINK)
    until(lambda: nodes[0].gossip_door.forwarding.links == 2)
    until(lambda: nodes[0].gossip_door.forwarding.links == 1, "its end", 10.0)
    stream.abort()


def flood_back(call) -> None:
    with contextlib.suppress(AssertionError, LocalProtocolError):  # nobody takes it
        call.respond(200, length=200_000, end=False)
        call.data(b"x" * 200_000, end=True)


def test_a_link_that_reads_nothing_holds_little(nodes):
    """The answers wait within the windows of its streams; it is ended when it does not answer heartbeats either."""
    big = Agent(nodes[0], "big", flood_back)
    link = Link(nodes[0])
    link.stream.pause_reading()
    before = resident_bytes()
    for _ in range(100):
        link.open("big")
    gevent.sleep(0.5)
    assert resident_bytes() - before < 60e6
    until(lambda: nodes[0].gossip_door.forwarding.links == 1, "the end of the link", 10.0)
    until(lambda: big.mux.in_flight == 0)
    link.close()
    big.close()


def test_a_client_cannot_forge_where_its_request_goes(nodes):
    """The line that names the endpoint on a link is the entry node's, whatever the client says."""
    client = Client(nodes[0])
    response = client.get(b"/", b"ep.x", b"x-pico-endpoint: ep\r\nX-Pico-Endpoint: other\r\n")
    assert response.status == 400
    assert client.at_end() or client.get().status in (200, 400)
