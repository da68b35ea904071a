"""Every vector of ``spec/vectors/channel.json``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from pico.errors import RemoteProtocolError
from pico.protocol.channel import Channel
from tests.channel_side import KINDS, begin, channel_value
from tests.channel_slow import Value
from tests.rules import covers

FILE = Path(__file__).parents[2] / "spec" / "vectors" / "channel.json"
VECTORS: list[Value] = json.loads(FILE.read_text())["vectors"]


def name_of(vector: Value) -> str:
    return vector["name"].replace(" ", "-").replace(",", "")


def pieces(data: bytes, how: str) -> Iterator[bytes]:
    """Whole, byte by byte, and halved."""
    if how == "bytes":
        yield from (data[at : at + 1] for at in range(len(data)))
    else:
        middle = len(data) // 2 if how == "halves" else 0
        yield from filter(None, (data[:middle], data[middle:]))


class Played:
    """What one side made of one vector."""

    def __init__(self, vector: Value, how: str) -> None:
        self.sent = b""
        self.channel: Channel | None = None
        self.payloads: list[bytes] = []
        self.violation: RemoteProtocolError | None = None
        self.handshake = begin(vector["me"])
        try:
            for piece in pieces(bytes.fromhex(vector["receives"]), how):
                self.receive(piece)
        except RemoteProtocolError as violation:
            self.violation = violation
            self.payloads += getattr(violation, "frames", [])
        self.sent += b"".join(self.handshake.outgoing())

    def receive(self, piece: bytes) -> None:
        if self.channel is not None:
            self.payloads += self.channel.frames.receive_data(piece)
            return
        self.channel = self.handshake.receive_data(piece, now=0.0)
        if self.channel is not None and self.channel.leftover:
            self.payloads += self.channel.frames.receive_data(self.channel.leftover)


def test_vectors_have_names_of_their_own_and_name_their_rules() -> None:
    assert len({vector["name"] for vector in VECTORS}) == len(VECTORS)
    assert all(vector["rules"] for vector in VECTORS)


@covers("CHANNEL-1", "CHANNEL-2", "CHANNEL-3", "CHANNEL-4", "CHANNEL-5", "CHANNEL-6", "CHANNEL-7", "CHANNEL-8")
@covers("CHANNEL-9", "CHANNEL-10", "CHANNEL-11", "CHANNEL-12", "CHANNEL-13", "CHANNEL-15", "CHANNEL-16", "CHANNEL-17")
@covers("CHANNEL-19", "CHANNEL-20")
@pytest.mark.parametrize("how", ["whole", "bytes", "halves"])
@pytest.mark.parametrize("vector", VECTORS, ids=name_of)
def test_a_channel_is_opened_or_refused(vector: Value, how: str) -> None:
    played = Played(vector, how)
    assert played.sent.hex() == vector["sends"]
    assert (channel_value(played.channel) if played.channel else None) == vector.get("channel")
    assert [payload.hex() for payload in played.payloads] == vector.get("payloads", [])
    assert type(played.violation) is KINDS.get(vector.get("violation", ""), type(None))
    if "says" in vector:
        assert played.channel is not None
        assert b"".join(played.channel.frames.encode(b"hello")).hex() == vector["says"]
