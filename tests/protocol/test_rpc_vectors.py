"""Every vector of ``spec/vectors/rpc_*.json``, against the slow decoder and against the engines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pico.errors import RemoteProtocolError
from tests import rpc_slow
from tests.rpc_side import EngineSide, base_side, request_head, streaming_side
from tests.rpc_slow import Broken, SlowSide, Value, agrees, decode, encode
from tests.rules import covers

VECTORS = Path(__file__).parents[2] / "spec" / "vectors"


def load(name: str) -> list[Value]:
    vectors: list[Value] = json.loads((VECTORS / name).read_text())["vectors"]
    return vectors


MESSAGES = load("rpc_messages.json")
STREAMING = load("rpc_streaming.json")
BASE = load("rpc_base.json")


def name_of(vector: Value) -> str:
    return vector["name"].replace(" ", "-")


def joined(pieces: list[str]) -> bytes:
    """``["00ff", "61*3"]`` is six bytes."""
    return b"".join(bytes.fromhex(hex_) * int(count or 1) for hex_, _, count in (p.partition("*") for p in pieces))


def spelled(value: Any) -> Any:
    """The value with repeated text, a list of pieces and counts, written out."""
    if isinstance(value, dict):
        return {key: inner if key == "flags" else spelled(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return "".join(piece * count for piece, count in zip(value[::2], value[1::2], strict=True))
    return value


def test_vectors_have_names_of_their_own_and_name_their_rules() -> None:
    for vectors in (MESSAGES, STREAMING, BASE):
        assert len({vector["name"] for vector in vectors}) == len(vectors)
        assert all(vector["rules"] for vector in vectors)


# One message.


@pytest.mark.parametrize("vector", MESSAGES, ids=name_of)
def test_the_slow_decoder_reads_the_message(vector: Value) -> None:
    message = joined(vector["bytes"])
    if "value" in vector:
        value = spelled(vector["value"])
        assert decode(message) == value
        assert vector.get("decode_only") or encode(value) == message
    else:
        with pytest.raises(Broken) as caught:
            SlowListener().receive(message)
        assert caught.value.rule in vector["rules"]


class SlowListener(SlowSide):
    """The side that the vectors of messages speak of."""

    def __init__(self) -> None:
        super().__init__()
        self.open(request_head())
        self.take_sent()
        self.receive(encode({"type": "HEAD", "id": 1, "flags": [], "head": request_head(), "body": ""}))
        self.take_events()


def listener() -> EngineSide:
    side = streaming_side()
    side.open(request_head())
    side.take_sent()
    side.receive(encode({"type": "HEAD", "id": 1, "flags": [], "head": request_head(), "body": ""}))
    side.take_events()
    return side


@pytest.mark.parametrize("vector", [v for v in MESSAGES if "violation" in v], ids=name_of)
@covers("RPC-1", "RPC-2", "RPC-26", "RPC-27", "RPC-28", "RPC-30", "RPC-32", "RPC-35", "RPC-36", "RPC-37", "RPC-41")
@covers("RPC-51", "RPC-56")
def test_the_engine_raises_on_a_broken_message(vector: Value) -> None:
    side = listener()
    with pytest.raises(RemoteProtocolError):
        side.receive(joined(vector["bytes"]))
    assert side.take_events() == []


@pytest.mark.parametrize("vector", [v for v in MESSAGES if "value" in v], ids=name_of)
@covers("RPC-5", "RPC-8", "RPC-26", "RPC-27", "RPC-28", "RPC-29", "RPC-30", "RPC-33", "RPC-36", "RPC-51")
def test_the_engine_tells_of_a_good_message_what_the_slow_side_tells(vector: Value) -> None:
    side, slow, message = listener(), SlowListener(), joined(vector["bytes"])
    if vector["value"]["type"] == "WINDOW":  # There must be something to give credit for.
        side.data("ours:1", "a" * 65536)
        slow.data("ours:1", "a" * 65536)
    side.receive(message)
    slow.receive(message)
    assert side.take_events() == slow.take_events()
    assert side.take_sent() == slow.take_sent()
    assert side.engine.late_messages == slow.late


@pytest.mark.parametrize(
    "vector",
    [v for v in MESSAGES if "value" in v and v["value"]["type"] == "HEAD" and not v.get("decode_only")],
    ids=name_of,
)
@covers("RPC-5", "RPC-6")
def test_the_engine_writes_a_head_as_the_vector_has_it(vector: Value) -> None:
    """But for the ID, which is the engine's to choose."""
    value = spelled(vector["value"])
    side = listener()
    end = "END" in value["flags"]
    if "status" in value["head"]:
        side.head("theirs:1", value["head"], value["body"], end)
    else:
        side.open(value["head"], value["body"], end)
    [message] = side.engine.outgoing(1)
    assert message[:2] + message[10:] == joined(vector["bytes"])[:2] + joined(vector["bytes"])[10:]


# One connection.


def play(side: EngineSide | SlowSide, vector: Value) -> None:
    """Follow the script step by step, and compare at each."""
    for number, step in enumerate(vector["script"], 1):
        where = f"step {number} of {vector['name']!r}: {step}"
        if "do" in step:
            arguments = {key: value for key, value in step.items() if key != "do"}
            if "stream" in arguments:
                arguments["name"] = arguments.pop("stream")
            if not (isinstance(side, SlowSide) and step["do"] == "data" and arguments["name"] not in side.streams):
                getattr(side, step["do"])(**arguments)
        elif "violation" in step:
            violates(side, step)
        elif "receive" in step:
            side.receive(encode(step["receive"]))
        elif "sent" in step:
            sent = side.take_sent()
            assert sent_agrees(step["sent"], sent), f"{where}\nsent {sent}"
        elif "events" in step:
            events = side.take_events()
            assert agrees(step["events"], events), f"{where}\nevents {events}"
        elif "late" in step:
            assert step["late"] == (side.late if isinstance(side, SlowSide) else side.engine.late_messages), where
        else:
            assert isinstance(side, SlowSide) or step["may_open"] == side.engine.may_open, where
    if "violation" not in step:
        assert side.take_events() == [], "an event that the script does not speak of"


def violates(side: EngineSide | SlowSide, step: Value) -> None:
    if isinstance(side, SlowSide):
        with pytest.raises(Broken) as caught:
            side.receive(encode(step["receive"]))
        assert caught.value.rule == step["violation"]
    else:
        with pytest.raises(RemoteProtocolError):
            side.receive(encode(step["receive"]))


def sent_agrees(expected: list[Value], sent: list[Value]) -> bool:
    return len(expected) == len(sent) and all(map(message_agrees, expected, sent))


def message_agrees(expected: Value, message: Value) -> bool:
    if "http" not in expected:
        return agrees(expected, message)
    wanted, parts = expected["http"], rpc_slow.split_http(message["payload"])
    return (
        all(expected[key] == message[key] for key in ("type", "id", "flags"))
        and agrees(wanted["start"], parts["start"])
        and all(tuple(field) in parts["fields"] for field in wanted["fields"])
        and agrees(wanted["body"], parts["body"])
    )


@pytest.mark.parametrize("vector", STREAMING, ids=name_of)
def test_the_slow_side_follows_the_script(vector: Value) -> None:
    play(SlowSide(vector["limits"]), vector)


@pytest.mark.parametrize("vector", STREAMING, ids=name_of)
@covers(
    "RPC-3", "RPC-4", "RPC-6", "RPC-7", "RPC-8", "RPC-9", "RPC-10", "RPC-11", "RPC-12", "RPC-13", "RPC-14", "RPC-15"
)
@covers("RPC-16", "RPC-26", "RPC-29", "RPC-30", "RPC-31", "RPC-32", "RPC-34", "RPC-36", "RPC-37", "RPC-39")
@covers("RPC-40", "RPC-41", "RPC-42", "RPC-44", "RPC-45", "RPC-46", "RPC-48", "RPC-49", "RPC-50", "RPC-52", "RPC-53")
@covers("RPC-54", "RPC-55", "RPC-56")
def test_the_streaming_engine_follows_the_script(vector: Value) -> None:
    play(streaming_side(**vector["limits"]), vector)


@pytest.mark.parametrize("vector", BASE, ids=name_of)
@covers("RPC-3", "RPC-8", "RPC-12", "RPC-13", "RPC-14", "RPC-15", "RPC-16", "RPC-18", "RPC-19", "RPC-20", "RPC-21")
@covers("RPC-22", "RPC-23", "RPC-24", "RPC-25", "RPC-49", "RPC-54")
def test_the_base_engine_follows_the_script(vector: Value) -> None:
    play(base_side(**vector["limits"]), vector)
