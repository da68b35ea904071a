"""No bytes whatever raise anything but ``RemoteProtocolError``, or make an engine hold more than its limits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pico.errors import RemoteProtocolError
from tests.property.rpc_calls import tagged
from tests.rpc_side import EngineSide, base_side, head_message, request_head, response_head, streaming_side
from tests.rpc_slow import encode, octets
from tests.rules import covers

VECTORS = Path(__file__).parents[2] / "spec" / "vectors"
WINDOW, STREAMS, CONTROL, BASE_BODY = 1024, 3, 2048, 2048


def seeds() -> list[bytes]:
    """Messages to start from: those of the vectors that are written out, and some of the base protocol."""
    vectors = json.loads((VECTORS / "rpc_messages.json").read_text())["vectors"]
    written = [bytes.fromhex("".join(v["bytes"])) for v in vectors if not any("*" in piece for piece in v["bytes"])]
    scripts = json.loads((VECTORS / "rpc_base.json").read_text())["vectors"]
    base = [encode(step["receive"]) for script in scripts for step in script["script"] if "receive" in step]
    return written + base


SEEDS = seeds()
headers = st.builds(
    lambda kind, ident, flags: octets(kind, 2) + octets(ident, 8) + octets(flags, 2),
    st.one_of(st.integers(0, 9), st.integers(0, 65535)),
    st.one_of(st.integers(0, 6), st.sampled_from([2**63, 2**64 - 1])),
    st.sampled_from([0, 1, 0x8000, 0x8001, 0x4000, 0xC000, 0xC001, 0xFFFF]),
)
framed = st.builds(lambda header, payload: header + payload, headers, st.binary(max_size=60))


@st.composite
def mutations(draw: st.DrawFn) -> bytes:
    """A known message with its header exchanged, or some bytes changed, cut, repeated or inserted."""
    message = draw(st.sampled_from(SEEDS))
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, len(message)))
        way = draw(st.sampled_from(["header", "change", "cut", "insert", "repeat"]))
        if way == "header":
            message = draw(headers) + message[12:]
        elif way == "change":
            message = message[:place] + draw(st.binary(min_size=1, max_size=2)) + message[place + 1 :]
        elif way == "cut":
            message = message[:place]
        elif way == "insert":
            message = message[:place] + draw(st.binary(max_size=8)) + message[place:]
        else:
            message = message[:place] + message[place:] * 2
    return message


messages = st.one_of(st.sampled_from(SEEDS), mutations(), framed, st.binary(max_size=40))
sequences = st.integers(1, 25).flatmap(lambda size: st.lists(messages, min_size=size, max_size=size))


def streaming_in_the_middle() -> EngineSide:
    """Streams of both sides, in several states."""
    side = streaming_side(
        window_bytes=WINDOW, streams_max=STREAMS, control_bytes_max=CONTROL, data_bytes_max=WINDOW, head_bytes_max=1024
    )
    for body in ("", "abc"):
        side.open(request_head("POST"), body)
    side.take_sent()
    side.open(request_head(upgrade="x"))
    side.hear(head_message(1, request_head("HEAD")), head_message(2, request_head("PUT", body_length=9), "abc"))
    side.head("theirs:2", response_head(), "answer")
    return side


def base_in_the_middle() -> EngineSide:
    side = base_side(base_body_bytes_max=BASE_BODY, base_streams_max=STREAMS, control_bytes_max=CONTROL)
    for target in ("/a", "/b"):
        side.open(request_head("POST", target), tagged(1, 0, 0, 100), True)
    side.take_sent()
    side.open(request_head("POST"), "gathering")
    side.receive(encode({"type": "PROXY-HTTP", "id": 1, "flags": [], "payload": "GET / HTTP/1.1\r\nHost: a\r\n\r\n"}))
    side.take_events()
    return side


@covers("RPC-2", "RPC-27", "RPC-28", "RPC-47")
@pytest.mark.parametrize("start", [streaming_in_the_middle, base_in_the_middle], ids=["streaming", "base"])
@given(sequence=sequences)
def test_no_bytes_raise_anything_else_or_make_it_hold_more(
    start: Callable[[], EngineSide], sequence: list[bytes]
) -> None:
    side = start()
    bodies = WINDOW if start is streaming_in_the_middle else BASE_BODY
    for message in sequence:
        if not side.engine.wants_reading:
            side.take_sent(0)
        try:
            side.receive(message)
        except RemoteProtocolError as violation:
            assert str(violation)
            break
        side.take_events()
        snapshot = side.engine.snapshot()
        assert snapshot.control_bytes <= CONTROL + 600  # one answer of the base protocol may be added
        assert snapshot.queued_bytes <= 2 * STREAMS * (bodies + 1024 + 100)
        assert snapshot.held_bytes <= STREAMS * 2 * bodies
        assert snapshot.opened <= STREAMS
        assert snapshot.accepted <= STREAMS
    side.engine.outgoing(1 << 30)
    side.lost()
    assert side.engine.open_streams == 0


@covers("RPC-47")
@pytest.mark.parametrize("start", [streaming_in_the_middle, base_in_the_middle], ids=["streaming", "base"])
@given(message=messages)
def test_the_same_message_for_ever_is_bounded_by_stopping_to_read(
    start: Callable[[], EngineSide], message: bytes
) -> None:
    side = start()
    for _ in range(400):
        if not side.engine.wants_reading:
            break
        if message[:2] == octets(3, 2) and len(message) > 12:  # A HEAD has to have a new ID to be taken.
            ident = int.from_bytes(message[2:10], "big")
            message = message[:2] + octets((ident + 1) % 2**64, 8) + message[10:]
        try:
            side.receive(message)
        except RemoteProtocolError:
            break
        side.take_events()
    snapshot = side.engine.snapshot()
    assert snapshot.control_bytes <= CONTROL + 600
    assert snapshot.queued_bytes <= 2 * STREAMS * (max(WINDOW, BASE_BODY) + 1200)
