"""RPC engines over the frames of a channel over a pipe of bytes that is cut anywhere: nothing changes for a call."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pico.config import ChannelLimits
from pico.transport.channel import ChannelCodec
from pico.transport.websocket import Kind
from tests.channel_side import connect
from tests.channel_slow import side
from tests.property.rpc_calls import STREAMING, Play
from tests.property.test_rpc_interleaving import Plan, take_something
from tests.rpc_side import EVERYTHING, EngineSide, Pair
from tests.rules import covers

KEY = bytes(range(32)).hex()


class FramedPair(Pair):
    """A pair whose messages travel as frames of one link."""

    def __init__(self, left: EngineSide, right: EngineSide, chance: Random, keys: list[str]) -> None:
        super().__init__(left, right)
        self.chance = chance
        near, far = connect(side("a", purpose="LINK", keys=keys), side("b", keys=keys))
        self.codecs = (ChannelCodec(near.frames, ChannelLimits()), ChannelCodec(far.frames, ChannelLimits()))
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
            self.sides[who].receive(payload)
        return True


# Each byte or two is a step of its own here, so an example costs several ordinary ones.
@settings(max_examples=max(25, settings().max_examples // 3))
@covers("CHANNEL-17", "CHANNEL-18", "RPC-12", "RPC-14", "RPC-33")
@pytest.mark.parametrize("keys", [[], [KEY]], ids=["clear", "sealed"])
@given(
    plans=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 90), st.integers(0, 90)), min_size=1, max_size=6),
    seed=st.integers(0, 2**32),
    cut_after=st.one_of(st.none(), st.integers(0, 400)),
)
def test_frames_split_anywhere_change_nothing(
    keys: list[str], plans: list[tuple[int, int, int]], seed: int, cut_after: int | None
) -> None:
    play, chance = Play(STREAMING), Random(seed)
    play.pair = FramedPair(STREAMING.side(), STREAMING.side(), chance, keys)
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
