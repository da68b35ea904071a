"""What bodies that wait make a node hold, and whose call is ended for it: engines of several tunnels, one account."""

from __future__ import annotations

import pytest

from pico.config import HttpLimits, NodeConfig, RpcLimits
from pico.protocol.http.values import RequestHead
from pico.protocol.rpc import BaseEngine, HeadReceived, ResetCode, ResponseShed, RpcStream, StreamReset, WaitingBodies
from pico.protocol.rpc.messages import RESPONSE, MessageType, encode_header
from tests.rules import covers

POST = RequestHead(b"POST", b"/a", b"Host: a.example\r\n", -1, b"")
LIMITS = RpcLimits(ahead_bytes=10, base_body_bytes_max=100, base_streams_max=8)
EVERYTHING = 1 << 30


class Node:
    """The tunnels of a node, each the only one of its endpoint."""

    def __init__(self, bytes_max: int = 100) -> None:
        self.told: list[StreamReset | ResponseShed] = []
        self.waiting = WaitingBodies(bytes_max, self.told.append)

    def tunnel(self, endpoint_id: str = "a") -> BaseEngine:
        return BaseEngine(LIMITS, HttpLimits(), now=0.0, waiting=self.waiting, endpoint_id=endpoint_id)

    def ended(self) -> list[RpcStream]:
        """Whose calls were ended since the last look."""
        streams = [event.stream for event in self.told]
        self.told.clear()
        return streams


def upload(engine: BaseEngine, size: int, end: bool = False) -> RpcStream:
    return engine.open(POST, bytes(size), end)


def answer(engine: BaseEngine, stream: RpcStream, size: int) -> None:
    payload = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size)
    engine.receive_message(encode_header(MessageType.PROXY_HTTP, stream.id, RESPONSE) + payload, now=0.0)


def asked(engine: BaseEngine) -> RpcStream:
    stream = upload(engine, 0, end=True)
    assert engine.outgoing(EVERYTHING)
    return stream


def answered(engine: BaseEngine, size: int) -> RpcStream:
    stream = asked(engine)
    answer(engine, stream, size)
    return stream


@covers("RPC-64")
def test_small_bodies_are_not_counted() -> None:
    node = Node()
    for number in range(100):
        tunnel = node.tunnel(f"e{number}")
        upload(tunnel, 10)
        upload(tunnel, 10, end=True)
        answered(tunnel, 10)
    assert node.waiting.waiting_bytes == 0
    assert node.told == []


@covers("RPC-64")
def test_a_request_is_counted_until_its_message_has_left() -> None:
    node = Node()
    tunnel = node.tunnel()
    first = upload(tunnel, 30)
    assert node.waiting.waiting_bytes == 30
    tunnel.send_data(first, bytes(5))
    assert node.waiting.waiting_bytes == 35
    tunnel.send_data(first, bytes(5), True)
    second = upload(tunnel, 20, end=True)
    assert node.waiting.waiting_bytes == 60
    assert len(tunnel.outgoing(1)) == 1
    assert node.waiting.waiting_bytes == 20
    assert len(tunnel.outgoing(1)) == 1
    assert node.waiting.waiting_bytes == 0
    assert not (first.ended or second.ended or node.told)


@covers("RPC-64")
def test_a_response_is_counted_until_its_owner_is_done() -> None:
    node = Node()
    tunnel = node.tunnel()
    stream = answered(tunnel, 40)
    assert node.waiting.waiting_bytes == 40
    tunnel.consumed(stream, 39)  # views keep the whole of it
    tunnel.lost()
    assert node.waiting.waiting_bytes == 40
    tunnel.release(stream)
    tunnel.release(stream)
    assert node.waiting.waiting_bytes == 0


@covers("RPC-64")
@pytest.mark.parametrize("end", [False, True])
@pytest.mark.parametrize("how", ["reset", "lost", "too large"])
def test_nothing_is_counted_of_a_request_that_has_ended_otherwise(end: bool, how: str) -> None:
    node = Node(150)
    tunnel = node.tunnel()
    stream = upload(tunnel, 40, end)
    assert node.waiting.waiting_bytes == 40
    if how == "reset":
        tunnel.reset(stream, ResetCode.CANCELLED)
    elif how == "lost":
        tunnel.lost()
    else:
        stream = upload(tunnel, 99)
        tunnel.send_data(stream, bytes(2))
        assert node.waiting.waiting_bytes == 40
        tunnel.lost()
    assert node.waiting.waiting_bytes == 0
    assert node.told == []


@covers("RPC-65")
def test_the_endpoint_that_holds_most_loses_its_oldest_call() -> None:
    node = Node()
    a, b = node.tunnel("a"), node.tunnel("b")
    light = upload(b, 40)
    heavy = upload(a, 30)
    newest = answered(a, 30)
    assert node.told == []
    upload(b, 11)
    assert node.ended() == [heavy]
    assert node.waiting.waiting_bytes == 81
    upload(a, 20)
    assert node.ended() == [light]
    assert newest.waiting_bytes == 30


@covers("RPC-65")
def test_tunnels_of_one_endpoint_are_charged_together() -> None:
    node = Node()
    calls = [upload(node.tunnel("a"), 20) for _ in range(3)]
    upload(node.tunnel("b"), 50)
    assert node.ended() == [calls[0]]


@covers("RPC-65")
def test_who_holds_less_than_half_of_the_average_is_passed_over() -> None:
    node = Node()
    tunnel = node.tunnel()
    small, half = upload(tunnel, 14), upload(tunnel, 15)
    large = [upload(tunnel, size) for size in (30, 31)]
    assert node.told == []
    upload(tunnel, 60)
    assert node.ended() == [half, large[0], large[1]]
    assert small.waiting_bytes == 14


@covers("RPC-65")
def test_a_call_that_grows_stays_as_old_as_it_is() -> None:
    node = Node()
    tunnel = node.tunnel()
    first, second = upload(tunnel, 20), upload(tunnel, 20)
    tunnel.send_data(first, bytes(20))
    upload(tunnel, 41)
    assert node.ended() == [first]
    assert second.waiting_bytes == 20


@covers("RPC-66")
@pytest.mark.parametrize("end", [False, True], ids=["not whole", "whole, and waits for its turn"])
def test_a_request_that_is_ended_is_refused_untouched_and_not_sent(end: bool) -> None:
    node = Node()
    tunnel = node.tunnel()
    loser = upload(tunnel, 60, end)
    winner = upload(node.tunnel(), 50)
    (event,) = node.told
    assert event == StreamReset(loser, ResetCode.REFUSED, True, "bodies that wait take too much memory")
    assert loser.ended
    assert not winner.ended
    assert loser.body_bytes == len(loser.body) == tunnel.open_streams == 0
    tunnel.send_data(loser, bytes(10), True)
    assert tunnel.outgoing(EVERYTHING) == []
    assert tunnel.events() == []
    assert tunnel.streams_free == LIMITS.base_streams_max
    tunnel.release(loser)
    assert node.waiting.waiting_bytes == 50


@covers("RPC-66")
def test_the_owner_of_a_response_is_told_to_let_go_of_it() -> None:
    node = Node()
    tunnel = node.tunnel()
    loser = answered(tunnel, 60)
    tunnel.events()
    upload(tunnel, 50)
    assert node.told == [ResponseShed(loser, "bodies that wait take too much memory")]
    assert node.waiting.waiting_bytes == 50
    tunnel.release(loser)
    assert node.waiting.waiting_bytes == 50


@covers("RPC-66")
def test_a_response_that_is_too_much_when_it_comes_is_not_given_to_anybody() -> None:
    node = Node()
    tunnel = node.tunnel()
    loser = asked(tunnel)
    for name in "bcdef":
        upload(node.tunnel(name), 20)
    answer(tunnel, loser, 30)
    assert node.told == [ResponseShed(loser, "bodies that wait take too much memory")]
    assert tunnel.events() == []
    winner = answered(tunnel, 10)
    assert [type(event) for event in tunnel.events()] == [HeadReceived]
    assert winner.waiting_bytes == 0


@covers("RPC-64")
def test_a_limit_that_is_lowered_counts_with_the_next_body() -> None:
    node = Node()
    tunnel = node.tunnel()
    first = upload(tunnel, 50)
    node.waiting.bytes_max = 40
    upload(tunnel, 11)
    assert node.ended() == [first]


def test_without_an_account_nothing_is_counted() -> None:
    tunnel = BaseEngine(LIMITS, HttpLimits(), now=0.0)
    assert upload(tunnel, 50).waiting_bytes == 0
    assert answered(tunnel, 50).waiting_bytes == 0


@covers("RPC-65")
def test_as_many_endpoints_are_needed_to_end_a_whole_body_as_the_specification_says() -> None:
    assert NodeConfig().base_waiting_bytes_max // RpcLimits().base_body_bytes_max == 64


@covers("RPC-18")
def test_a_body_that_was_gathered_in_many_pieces_leaves_whole() -> None:
    tunnel = BaseEngine(RpcLimits(), HttpLimits(), now=0.0)
    pieces = [
        bytes([number % 251]) * size
        for number, size in enumerate([1, 0, 1000, *[777] * 400, 200_000, 1, 131_072, 131_072])
    ]
    stream = tunnel.open(POST, pieces[0])
    for piece in pieces[1:]:
        tunnel.send_data(stream, memoryview(piece))
    assert len(stream.body) < 10
    tunnel.send_data(stream, b"end", True)
    (message,) = tunnel.outgoing(EVERYTHING)
    assert message.partition(b"\r\n\r\n")[2] == b"".join(pieces) + b"end"
    assert stream.body_bytes == len(stream.body) == 0
