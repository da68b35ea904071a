"""The streaming engine against the slow model of the tests: the same commands and messages, compared after each.

Commands that are a fault of the caller and messages that are a violation are generated as gladly as good ones: both
sides must refuse the same ones.
"""

from __future__ import annotations

import copy
import copyreg
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pico.errors import LocalProtocolError, RemoteProtocolError
from tests.compiled import interpreted_only
from tests.rpc_side import EngineSide, head_message, message, request_head, response_head, streaming_side
from tests.rpc_slow import Broken, SlowSide, Value, agrees, encode
from tests.rules import covers

# An engine that is copied may have views of cut bodies in its queue.
copyreg.pickle(memoryview, lambda view: (memoryview, (bytes(view),)))

LIMITS: dict[str, Any] = {
    "window_bytes": 12,
    "window_bytes_max": 40,
    "growth_bytes_max": 30,
    "probe_s": 1.0,
    "ahead_bytes": 35,
    "data_bytes_max": 8,
    "head_bytes_max": 1024,
    "trailer_bytes_max": 16,
    "reason_bytes_max": 4,
    "streams_max": 2,
    "control_bytes_max": 1024,
}
# What one side may hold: streams of both sides, each with a window, a head and the headers of single bytes.
HEAD_BYTES = 12 + 16 + 200
QUEUED_MAX = 4 * (12 + 12 * 13 + 3 * HEAD_BYTES + 100) + 30 * 13
HELD_MAX = 4 * 12 + 30

idents = st.integers(1, 4)
ends = st.booleans()
bodies = st.text("ab", max_size=9)
request_heads = st.builds(
    request_head,
    method=st.sampled_from(["GET", "HEAD", "PUT"]),
    body_length=st.sampled_from([-1, -1, 0, 3]),
    upgrade=st.sampled_from(["", "", "x"]),
)
response_heads = st.sampled_from(
    [
        response_head(),
        response_head(body_length=0),
        response_head(body_length=3),
        response_head(204),
        response_head(304, body_length=3),
        response_head(103),
        response_head(101, upgrade="x"),
    ]
)
blocks = st.sampled_from(["", "A: b\r\n", "A: " + "b" * 20 + "\r\n"])
codes = st.sampled_from(["CANCELLED", "REFUSED", "SERVICE_CLOSED", "DEADLINE", "NOT_WANTED"])


# What is received is drawn without knowing what is open, and aimed at an open stream only when it is its turn.
KINDS = ["NEW", "HEAD", "HEAD", "DATA", "DATA", "DATA", "TRAILERS", "RESET", "WINDOW", "WINDOW", "ELSE"]
Aim = int | None
aims = st.one_of(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3), st.none())


@st.composite
def messages(draw: st.DrawFn) -> Value:
    """A message that may well be valid. With an ID of zero, HEAD opens the next stream."""
    kind = draw(
        st.sampled_from(["NEW", "HEAD", "HEAD", "DATA", "DATA", "TRAILERS", "RESET", "WINDOW", "WINDOW", "ELSE"])
    )
    ident, side = draw(idents), draw(st.sampled_from([[], ["RESPONSE"]]))
    end = ["END"] if draw(ends) else []
    if kind == "NEW":
        return head_message(0, draw(request_heads), draw(bodies), *end)
    if kind == "HEAD":
        head = draw(response_heads)
        informational = head["status"] == 103
        return head_message(ident, head, "" if informational else draw(bodies), *([] if informational else end))
    if kind == "DATA":
        return message("DATA", ident, *side, *end, body=draw(bodies))
    if kind == "TRAILERS":
        return message("TRAILERS", ident, *side, *end, block=draw(blocks))
    if kind == "RESET":
        reason = draw(st.text("é", max_size=2))
        return message("RESET", ident, *side, code=draw(codes), untouched=draw(ends), reason=reason)
    if kind == "WINDOW":
        return message("WINDOW", ident, *side, credit=draw(st.integers(0, 6)))
    return draw(
        st.sampled_from(
            [
                message("GOAWAY", 0, reason=""),
                message("GOAWAY", 0, reason="rrrrr"),
                message("GOAWAY", 1, reason=""),
                message("PROXY-HTTP", ident, *side, payload="GET / HTTP/1.1\r\n\r\n"),
                message("HEARTBEAT", ident, *side),
                message(77, ident, *side),
                head_message(ident, request_head()),
                head_message(ident, response_head(103), "", *end),
                head_message(ident, response_head(), "") | {"flags": ["RESPONSE", "UNSUPPORTED"]},
            ]
        )
    )


@st.composite
def spoilers(draw: st.DrawFn) -> tuple[str, int, bytes]:
    """A way to spoil one thing of a message."""
    return draw(st.sampled_from(["cut", "flip", "append"])), draw(st.integers(0, 200)), draw(st.binary(min_size=1))


def spoil(octets: bytes, way: str, place: int, more: bytes) -> bytes:
    place %= len(octets)
    if way == "cut":
        return octets[:place]
    if way == "append":
        return octets + more
    if place in (2, 3, 4, 5):  # The ID is not to become enormous: nobody would ever use a higher one.
        place = 11
    return octets[:place] + bytes([octets[place] ^ (1 << more[0] % 8)]) + octets[place + 1 :]


def aimed(value: Value, aim: Aim, slow: SlowSide) -> Value:
    if value["type"] == "HEAD" and value["id"] == 0:
        return value | {"id": slow.highest + 1}
    fitting = [name for name in slow.streams if value["type"] != "HEAD" or name.startswith("ours")]
    if aim is None or value["id"] == 0 or not fitting:
        return value
    name = fitting[aim % len(fitting)]
    flags = [flag for flag in value["flags"] if flag != "RESPONSE"]
    return value | {
        "id": int(name.partition(":")[2]),
        "flags": ["RESPONSE", *flags] if name.startswith("ours") else flags,
    }


targets = st.integers(0, 3)
COMMANDS: dict[str, st.SearchStrategy[Any]] = {
    "receive": st.tuples(messages(), aims, st.none()),
    "receive spoiled": st.tuples(messages(), aims, spoilers()),
    "answer the heartbeat": st.tuples(),
    "leave": st.tuples(st.sampled_from([1, 1, 2, None])),
    "open": st.tuples(request_heads, bodies, ends),
    "head": st.tuples(targets, response_heads, st.one_of(st.just(""), bodies), ends),
    "data": st.tuples(targets, bodies, ends),
    "trailers": st.tuples(targets, blocks),
    "reset": st.tuples(targets, codes, ends, st.text("r", max_size=4)),
    "consumed": st.tuples(targets, st.integers(0, 12)),
    # Quarters are exact: both sides must agree on what is due.
    "timer": st.tuples(st.one_of(st.integers(0, 4), st.integers(2, 24)).map(lambda quarters: quarters / 4)),
    "goaway": st.tuples(st.text("r", max_size=4)),
    "lost": st.tuples(),
}
OFTEN = {
    "receive": 20,
    "receive spoiled": 3,
    "leave": 5,
    "answer the heartbeat": 3,
    "timer": 3,
    "open": 3,
    "head": 5,
    "data": 4,
    "consumed": 4,
}
WEIGHTED = [what for what in COMMANDS for _ in range(OFTEN.get(what, 1))]


@st.composite
def steps(draw: st.DrawFn) -> tuple[str, Any]:
    what = draw(st.sampled_from(WEIGHTED))
    return what.partition(" ")[0], draw(COMMANDS[what])


# Long ones on purpose: a list drawn without a size is five steps long on average.
sequences = st.integers(1, 50).flatmap(lambda size: st.lists(steps(), min_size=size, max_size=size))


@interpreted_only
@covers("RPC-2", "RPC-12", "RPC-13", "RPC-14", "RPC-26", "RPC-27", "RPC-34", "RPC-37", "RPC-39", "RPC-40", "RPC-41")
@covers("RPC-44", "RPC-45", "RPC-46", "RPC-49", "RPC-50", "RPC-51", "RPC-53", "RPC-58", "RPC-59", "RPC-60")
@covers("RPC-61", "RPC-62")
@given(sequences)
def test_the_engine_does_what_the_slow_model_does(sequence: list[tuple[str, Any]]) -> None:
    side, slow = streaming_side(**LIMITS), SlowSide(LIMITS)
    for what, arguments in sequence:
        if what == "answer":
            answered = message("HEARTBEAT", slow.asked or 0, "RESPONSE")
            alive = receive(side, slow, answered, None, None)
        elif what == "receive":
            alive = receive(side, slow, *arguments)
        elif what == "leave":
            alive = leave(side, slow, *arguments)
        else:
            alive = command(side, slow, what, arguments)
        if not alive:
            break
        compare(side, slow)


# Two streams of the peer with bodies without end: only credit, time and heartbeats decide.
flows = st.lists(
    st.one_of(
        st.tuples(st.just("arrives"), st.integers(1, 2), st.integers(1, 8)),
        st.tuples(st.just("arrives"), st.just(1), st.just(8)),
        st.tuples(st.just("taken"), st.integers(1, 2), st.integers(1, 40)),
        st.tuples(st.just("credit"), st.integers(1, 2), st.integers(1, 12)),
        st.tuples(st.just("sent"), st.integers(1, 2), st.integers(1, 12)),
        st.tuples(st.just("leave"), st.just(0), st.integers(1, 3)),
        st.tuples(st.just("time"), st.just(0), st.integers(0, 4)),
        st.tuples(st.just("answer"), st.just(0), st.just(0)),
    ),
    min_size=20,
    max_size=60,
)


@interpreted_only
@covers("RPC-40", "RPC-41", "RPC-58", "RPC-59", "RPC-60")
@given(flows, st.text("ab", max_size=8))
def test_windows_grow_and_shrink_as_in_the_slow_model(flow: list[tuple[str, int, int]], first: str) -> None:
    side, slow = streaming_side(**LIMITS), SlowSide(LIMITS)
    for ident in (1, 2):
        receive(side, slow, head_message(ident, request_head(), first), None, None)
        side.take_events()
        slow.take_events()
        command(side, slow, "head", (ident - 1, response_head(), "", False))
    for what, ident, size in flow:
        name = f"theirs:{ident}"
        if what == "arrives":
            size = min(size, slow.streams[name].receiving.credit)
            if size:
                receive(side, slow, message("DATA", ident, body="x" * size), None, None)
        elif what == "taken":
            command(side, slow, "consumed", (ident - 1, min(size, slow.streams[name].held)))
        elif what == "credit":
            receive(side, slow, message("WINDOW", ident, credit=size), None, None)
        elif what == "sent":
            command(side, slow, "data", (ident - 1, "x" * min(size, slow.streams[name].sending.credit), False))
        elif what == "leave":
            leave(side, slow, size)
        elif what == "time":
            command(side, slow, "timer", (size / 4,))
        else:
            receive(side, slow, message("HEARTBEAT", slow.asked or 0, "RESPONSE"), None, None)
        compare(side, slow)
        grown = [stream.window - LIMITS["window_bytes"] for stream in slow.streams.values()]
        assert sum(grown) <= LIMITS["growth_bytes_max"]
        assert all(stream.window <= LIMITS["window_bytes_max"] for stream in slow.streams.values())


def receive(side: EngineSide, slow: SlowSide, value: Value, aim: Aim, ruin: tuple[str, int, bytes] | None) -> bool:
    """Give the same message to both; a violation is given to copies, else most examples would end too soon."""
    octets = encode(aimed(value, aim, slow))
    if ruin is not None:
        octets = spoil(octets, *ruin)
    try:
        copy.deepcopy(slow).receive(octets)
    except Broken as broken:
        try:
            copy.deepcopy(side).receive(octets)
        except RemoteProtocolError:
            return True
        raise AssertionError(f"the engine took what is against {broken.rule}: {octets.hex()}") from broken
    slow.receive(octets)
    side.receive(octets)
    return True


def leave(side: EngineSide, slow: SlowSide, turns: int | None) -> bool:
    """``turns`` messages of the streams leave; one at a time, as far as the engine is concerned."""
    sent = side.take_sent() if turns is None else [value for _ in range(turns) for value in side.take_sent(1)]
    assert agrees(slow.take_sent(turns), sent)
    return True


def command(side: EngineSide, slow: SlowSide, what: str, arguments: tuple[Any, ...]) -> bool:
    """Give the same command to both; one that is a fault is given to a copy of the engine. False after a loss."""
    if what == "timer":
        arguments = (slow.now + arguments[0],)
    elif what in ("head", "data", "trailers", "reset", "consumed"):
        names = list(slow.streams)
        if not names:
            return True
        arguments = (names[arguments[0] % len(names)], *arguments[1:])
    elif what == "open" and not slow.may_open and not side.engine.may_open:
        return True  # It would end too many examples.
    tried = copy.deepcopy(slow)
    try:
        getattr(tried, what)(*arguments)
    except Broken as broken:
        try:
            getattr(copy.deepcopy(side), what)(*arguments)
        except LocalProtocolError:
            return True
        raise AssertionError(f"the engine did what is against {broken.rule}: {what}{arguments}") from broken
    getattr(slow, what)(*arguments)
    getattr(side, what)(*arguments)
    return what != "lost" or same_end(side, slow)


def same_end(side: EngineSide, slow: SlowSide) -> bool:
    assert agrees([{**event, "reason": None} for event in slow.take_events()], side.take_events())
    assert side.engine.open_streams == 0
    return False


def compare(side: EngineSide, slow: SlowSide) -> None:
    events, told = slow.take_events(), side.take_events()
    assert agrees(events, told), f"\nexpected {events}\ntold     {told}"
    assert side.engine.late_messages == slow.late
    assert side.engine.may_open == slow.may_open
    assert side.engine.open_streams == len(slow.streams)
    for name, stream in slow.streams.items():
        engine_stream = side.streams[name]
        assert engine_stream.credit == stream.sending.credit
        assert engine_stream.window_left == stream.receiving.credit
        assert (engine_stream.sending.name, engine_stream.receiving.name) == (
            stream.sending.state,
            stream.receiving.state,
        )
    snapshot = side.engine.snapshot()
    assert snapshot.held_bytes == sum(stream.held for stream in slow.streams.values())
    assert snapshot.queued_bytes == sum(len(encode(value)) for queue in slow.queues.values() for value in queue)
    assert snapshot.queued_bytes <= QUEUED_MAX
    assert snapshot.held_bytes <= HELD_MAX
    assert side.engine.has_outgoing == bool(slow.control or any(slow.queues.values()))
