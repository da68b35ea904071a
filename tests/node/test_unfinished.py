"""Messages of the base protocol that do not end, on real sockets: what they may cost, and whom."""

from __future__ import annotations

import struct
from dataclasses import replace

from gevent import socket

from pico.config import RpcLimits
from pico.protocol.rpc.messages import HEADER, RESPONSE
from tests.node.harness import Agent, Client, handshake, read_head, running_node, until
from tests.rules import covers

MIB = 1024 * 1024
HELD = {"unfinished_bytes_max": 4 * MIB, "rpc_limits": RpcLimits(base_body_bytes_max=MIB)}


class Talker:
    """An agent of the base protocol, at an address of its own, that says its messages bit by bit."""

    def __init__(self, node, endpoint: str, address: str = "127.0.0.1") -> None:
        node.testers.append(self)
        self.sock = socket.create_connection(
            ("127.0.0.1", node.address("upstream-door")[1]), timeout=5.0, source_address=(address, 0)
        )
        self.sock.sendall(handshake(endpoint, streaming=False))
        head, self.rest = read_head(self.sock)
        assert head.startswith(b"HTTP/1.1 101")
        until(lambda: node.routes.served(endpoint))

    def begin(self, size: int, id_: int = 1) -> None:
        """All but the last bytes of a response whose message has ``size`` bytes."""
        head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"
        body_bytes = size - HEADER.size - len(head % size)
        message = HEADER.pack(2, id_, RESPONSE) + head % body_bytes + bytes(body_bytes)
        frame = b"\x82\xff" + struct.pack(">Q", len(message)) + bytes(4) + message
        self.sock.sendall(frame[:-10])
        self.rest_of_message = frame[-10:]

    def end(self) -> None:
        self.sock.sendall(self.rest_of_message)

    def call(self) -> int:
        """The ID of the next request."""
        while len(self.rest) < 4 or len(self.rest) < (size := 4 + int.from_bytes(self.rest[2:4], "big")):
            self.rest += self.sock.recv(65536)
        kind, id_, _ = HEADER.unpack(self.rest[4:16])
        self.rest = self.rest[size:]
        assert kind == 2
        return id_

    def shed(self) -> bool:
        """Whether the node ends the tunnel to be relieved; waits for an end."""
        data = self.rest
        try:
            while piece := self.sock.recv(65536):
                data += piece
        except ConnectionResetError:  # the node had not read all of it
            pass
        return data[2:4] == (1013).to_bytes(2, "big")

    def open(self) -> bool:
        self.sock.settimeout(0.0)
        try:
            return bool(self.sock.recv(1, socket.MSG_PEEK))
        except BlockingIOError:
            return True
        except ConnectionResetError:
            return False
        finally:
            self.sock.settimeout(5.0)

    def close(self) -> None:
        self.sock.close()


@covers("TUN-42", "TUN-43")
def test_messages_that_do_not_end_cost_their_own_address_its_oldest_tunnels_and_nobody_else():
    with running_node(**HELD) as node:
        slow, small = Talker(node, "slow", "127.0.0.2"), Talker(node, "small")
        streaming = Agent(node, "other", lambda call: call.respond(200, b"fine"))
        client = Client(node).send(
            b"GET / HTTP/1.1\r\nHost: slow.x\r\nX-Filler: " + bytes(200).replace(b"\0", b"x") + b"\r\n\r\n"
        )
        slow.begin(MIB, slow.call())  # before all others
        small.begin(200_000)
        until(lambda: node.upstream_door.unfinished_bytes > 0)
        hostile = []
        for number in range(12):
            hostile.append(Talker(node, f"hostile-{number}"))
            before = node.upstream_door.unfinished_bytes, node.metrics.upstreams_shed
            hostile[-1].begin(MIB)
            until(lambda before=before: before != (node.upstream_door.unfinished_bytes, node.metrics.upstreams_shed))
            assert node.upstream_door.unfinished_bytes <= 4 * MIB
        # Of each 0.8 MiB count: five fit, one of which is not hostile.
        until(lambda: node.metrics.upstreams_shed == 8)
        assert [one.shed() for one in hostile[:8]] == [True] * 8
        assert all(one.open() for one in [*hostile[8:], slow, small])
        assert node.upstream_door.upstreams == 4 + 3
        told = dict(line.rsplit(" ", 1) for line in node.metrics.render().decode().splitlines())
        assert float(told["pico_upstreams_shed_total"]) == 8
        assert float(told["pico_unfinished_bytes"]) == node.upstream_door.unfinished_bytes
        slow.end()
        assert len(client.response().body) > MIB - 1000
        small.end()
        assert Client(node).get(host=b"other.x").body == b"fine"
        assert not streaming.ended.ready()
        for one in hostile[8:]:
            one.close()
        until(lambda: node.upstream_door.upstreams == 3)
        assert node.upstream_door.unfinished_bytes == 0


@covers("TUN-42")
def test_a_request_that_waits_for_a_message_of_a_tunnel_that_is_ended_fails_at_once():
    with running_node(**HELD) as node:
        first = Talker(node, "first")
        client = Client(node).send(b"GET / HTTP/1.1\r\nHost: first.x\r\nX: " + b"x" * 200 + b"\r\n\r\n")
        first.begin(MIB, first.call())
        until(lambda: node.upstream_door.unfinished_bytes > 0)
        for number in range(5):
            Talker(node, f"other-{number}").begin(MIB)
        assert first.shed()
        assert client.response().status == 502


@covers("TUN-42", "TUN-43")
def test_messages_that_agents_do_not_take_cost_their_own_address_its_oldest_tunnels_and_nobody_else():
    body = bytes(8 * MIB)  # much more than the system takes of it
    limits = {"unfinished_bytes_max": 20 * MIB, "rpc_limits": RpcLimits(base_body_bytes_max=8 * MIB)}
    with running_node(**limits) as node:
        slow = Talker(node, "slow", "127.0.0.2")
        hostile = [Talker(node, f"hostile-{number}") for number in range(4)]
        clients = []
        for count, name in enumerate(["slow", *(f"hostile-{number}" for number in range(4))]):
            head = b"POST / HTTP/1.1\r\nHost: %s.x\r\nContent-Length: %d\r\n\r\n" % (name.encode(), len(body))
            clients.append(Client(node).send(head, body))
            least = min(count + 1, 3) * 3 * MIB
            until(lambda least=least: node.upstream_door.unfinished_bytes > least)
            assert node.upstream_door.unfinished_bytes <= 20 * MIB
        lost = node.metrics.upstreams_shed
        assert 1 <= lost <= 3
        for client in clients[1 : 1 + lost]:
            assert client.response().error() == "tunnel_lost"
        until(lambda: node.upstream_door.upstreams == 5 - lost)
        assert not any(node.upstream_door.has(f"hostile-{number}") for number in range(lost))
        assert node.upstream_door.has("slow")
        before, taken = node.upstream_door.unfinished_bytes, 0
        while taken < len(body):
            taken += len(slow.sock.recv(65536))
        until(lambda: node.upstream_door.unfinished_bytes < before)
        for one in [*hostile, slow]:
            one.close()
        until(lambda: node.upstream_door.unfinished_bytes == 0)


@covers("TUN-43")
def test_who_takes_nothing_is_no_younger_for_what_it_says_now_and_then():
    size = 8 * MIB  # much more than the system takes of it
    with running_node(unfinished_bytes_max=64 * MIB, rpc_limits=RpcLimits(base_body_bytes_max=size)) as node:
        door = node.upstream_door

        def upload(name: str) -> Talker:
            before, talker = door.unfinished_bytes, Talker(node, name)
            head = b"POST / HTTP/1.1\r\nHost: %s.x\r\nContent-Length: %d\r\n\r\n" % (name.encode(), size)
            Client(node).send(head, bytes(size))
            until(lambda: door.unfinished_bytes > before or node.metrics.upstreams_shed)
            return talker

        hostile, _ = upload("hostile"), upload("slow")
        for heartbeat in [b"\x82\x8c" + bytes(4) + HEADER.pack(1, 1, 0)] * 2:
            for part in (heartbeat[:10], heartbeat[10:]):
                before = door.unfinished_bytes
                hostile.sock.sendall(part)
                until(lambda before=before: door.unfinished_bytes != before)
        node.reconfigure(replace(node.config, unfinished_bytes_max=door.unfinished_bytes + MIB))
        upload("another")
        until(lambda: node.metrics.upstreams_shed == 1 and door.upstreams == 2)
        assert door.has("slow") and not door.has("hostile")


@covers("TUN-42")
def test_a_limit_that_is_lowered_counts_for_the_tunnels_that_are_open():
    with running_node(**HELD) as node:
        first, second = Talker(node, "first"), Talker(node, "second")
        first.begin(MIB)
        until(lambda: node.upstream_door.unfinished_bytes > 700_000)
        (connection,) = [one for one in node.upstream_door._connections.values() if one.upstream.endpoint_id == "first"]
        assert connection._codec.unfinished_bytes > 700_000
        node.reconfigure(replace(node.config, unfinished_bytes_max=MIB))
        second.begin(MIB)
        assert first.shed()
        assert connection._codec.unfinished_bytes == 0  # whoever still has the tunnel
        until(lambda: node.upstream_door.upstreams == 1)
        assert second.open()
