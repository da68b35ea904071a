"""RPC engines over WebSocket frames over a pipe of bytes that is cut anywhere: nothing changes for a call."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pico.config import WebSocketLimits
from pico.transport.websocket import Kind, WebSocketCodec
from tests.property.rpc_calls import BASE, STREAMING, Binding, Play
from tests.property.test_rpc_interleaving import Plan, take_something
from tests.rpc_side import EVERYTHING, EngineSide, Pair
from tests.rules import covers


def masks() -> Iterator[bytes]:
    return (number.to_bytes(4, "big") for number in count(0x01020304, 0x01030507))


class FramedPair(Pair):
    """A pair whose messages travel as frames: the left side is the server, the right side the client, which masks."""

    def __init__(self, left: EngineSide, right: EngineSide, chance: Random) -> None:
        super().__init__(left, right)
        source = masks()
        self.chance = chance
        self.codecs = (
            WebSocketCodec("server", WebSocketLimits()),
            WebSocketCodec("client", WebSocketLimits(), lambda: next(source)),
        )
        self.pipes = (bytearray(), bytearray())

    def post(self, who: int, bytes_max: int = EVERYTHING) -> list[bytes]:
        messages = super().post(who, bytes_max)
        for message in messages:
            self.pipes[1 - who].extend(b"".join(self.codecs[who].encode(message)))
        self.wires[1 - who].clear()
        return messages

    def deliver(self, who: int) -> bool:
        """Some bytes arrive, wherever that leaves the frames."""
        pipe = self.pipes[who]
        if self.cut or not pipe:
            return False
        size = self.chance.choice([1, 1, 2, 3, 7, 13, 14, 40, 10_000])
        piece = bytes(pipe[:size])
        del pipe[:size]
        for kind, payload in self.codecs[who].receive_data(piece):
            assert kind is Kind.BINARY
            self.sides[who].receive(bytes(payload))
        return True


# Each byte or two is a step of its own here, so an example costs several ordinary ones.
@settings(max_examples=max(25, settings().max_examples // 3))
@covers("RPC-1", "RPC-12", "RPC-14", "RPC-33")
@pytest.mark.parametrize("binding", [STREAMING, BASE], ids=lambda binding: binding.name)
@given(
    plans=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 90), st.integers(0, 90)), min_size=1, max_size=6),
    seed=st.integers(0, 2**32),
    cut_after=st.one_of(st.none(), st.integers(0, 400)),
)
def test_frames_split_anywhere_change_nothing(
    binding: Binding, plans: list[tuple[int, int, int]], seed: int, cut_after: int | None
) -> None:
    play, chance = Play(binding), Random(seed)
    play.pair = FramedPair(binding.side(), binding.side(), chance)
    calls = [Plan(*plan) for plan in plans]
    for turn in range(20_000):
        if all(plan.over() for plan in calls) or turn == cut_after:
            break
        chance.choice(calls).advance(play, chance)
        play.post(chance.randrange(2), chance.choice([0, 1, EVERYTHING]))
        for _ in range(chance.randrange(30)):
            play.deliver(chance.randrange(2))
        take_something(play, chance)
    if cut_after is not None:
        play.lose()
    else:
        assert all(plan.over() for plan in calls)
    play.finish()
