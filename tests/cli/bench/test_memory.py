"""An idle upstream keeps its tunnel alive, frame by frame."""

from __future__ import annotations

import socket
import struct
import threading

import pytest

from pico.cli.bench.memory import Growth, IdleUpstream, IdleUpstreams
from pico.cli.bench.processes import BenchFailed

ACCEPTED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"
HEARTBEAT = struct.pack("!HQH", 1, 7, 0)


def upstream(answer: bytes = ACCEPTED) -> tuple[IdleUpstream, socket.socket]:
    """An idle upstream and the node's end of its connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepted: list[socket.socket] = []

        def accept() -> None:
            sock, _ = listener.accept()
            accepted.append(sock)
            request = sock.recv(4096)
            assert request.startswith(b"GET /pico/v1/listener/idle-3 HTTP/1.1\r\n")
            sock.sendall(answer)

        node = threading.Thread(target=accept)
        node.start()
        try:
            opened = IdleUpstream(listener.getsockname()[1], "idle-3")
        except BenchFailed:
            accepted[0].close()
            raise
        finally:
            node.join(5)
        return opened, accepted[0]


def frame(opcode: int, payload: bytes) -> bytes:
    return bytes((0x80 | opcode, len(payload))) + payload


def masked(opcode: int, payload: bytes) -> bytes:
    return bytes((0x80 | opcode, 0x80 | len(payload))) + bytes(4) + payload


@pytest.mark.parametrize("cuts", [1, 3, 100])
def test_heartbeats_and_pings_are_answered_however_they_arrive(cuts: int) -> None:
    ours, node = upstream()
    sent = frame(2, HEARTBEAT) + frame(9, b"hi") + frame(2, struct.pack("!HQH", 1, 9, 0x8000))
    with ours.sock, node:
        for start in range(0, len(sent), cuts):
            node.sendall(sent[start : start + cuts])
            assert ours.answer()
        expected = masked(2, struct.pack("!HQH", 1, 7, 0x8000)) + masked(10, b"hi")
        assert node.makefile("rb").read(len(expected)) == expected


@pytest.mark.parametrize("last", [frame(8, b""), b""])
def test_a_close_from_the_node_ends_the_tunnel(last: bytes) -> None:
    ours, node = upstream()
    with ours.sock:
        node.sendall(last)
        node.close()
        assert not ours.answer()


def test_a_frame_that_came_with_the_handshake_is_kept() -> None:
    ours, node = upstream(ACCEPTED + frame(2, HEARTBEAT))
    with ours.sock, node:
        node.sendall(frame(9, b""))
        assert ours.answer()
        assert node.recv(4096).startswith(masked(2, struct.pack("!HQH", 1, 7, 0x8000)))


def test_a_refused_handshake_says_what_the_node_said() -> None:
    with pytest.raises(BenchFailed, match="400 Bad Request"):
        upstream(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def test_a_tunnel_that_the_node_closes_is_counted() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, IdleUpstreams(listener.getsockname()[1]) as upstreams:

        def refuse() -> None:
            sock, _ = listener.accept()
            with sock:
                sock.recv(4096)
                sock.sendall(ACCEPTED)

        node = threading.Thread(target=refuse)
        node.start()
        upstreams.open(1)
        node.join(5)
        upstreams.serve(0.2)
        assert upstreams.ended == 1


def test_growth_is_shared_by_what_was_added() -> None:
    assert Growth(10, 100, 350).kib_each == 25.0
