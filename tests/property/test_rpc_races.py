"""Cancel, failure, goaway, deadline and loss against everything else, at every point: all of them, one by one.

One call is played through its steps. At each point between two steps one misfortune happens, and the wire is in one of
several moods: prompt, holding back what goes to one side or to both, or letting one message pass at each step.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.property.rpc_calls import BASE, STREAMING, Binding, Call, Play
from tests.rules import covers

Step = Callable[[Play, Call], None]

STEPS: list[Step] = [
    lambda play, call: play.send_request(call, 8, False),
    lambda play, call: play.send_head(call, 103, 0, False),
    lambda play, call: play.send_request(call, 4, True),
    lambda play, call: play.send_head(call, 200, 6, False),
    lambda play, call: play.send_response(call, 20, False),
    lambda play, call: play.send_response(call, 3, True),
]
MISFORTUNES: dict[str, Step] = {
    "none": lambda play, call: None,
    "cancel": lambda play, call: play.cancel(call, "CANCELLED"),
    "deadline": lambda play, call: play.cancel(call, "DEADLINE"),
    "failure": lambda play, call: play.fail(call, "SERVICE_CLOSED", False),
    "refusal": lambda play, call: play.fail(call, "SERVICE_UNREACHABLE", True),
    "not wanted": lambda play, call: play.fail(call, "NOT_WANTED", False),
    "goaway of the opener": lambda play, call: play.goaway(call.opener),
    "goaway of the acceptor": lambda play, call: play.goaway(call.acceptor),
    "loss": lambda play, call: play.lose(),
}
MOODS: dict[str, tuple[tuple[int, int], tuple[int, int]]] = {  # messages posted and delivered, for each side
    "prompt": ((99, 99), (99, 99)),
    "the acceptor hears nothing": ((99, 0), (99, 99)),
    "the opener hears nothing": ((99, 99), (99, 0)),
    "nobody hears anything": ((99, 0), (99, 0)),
    "nothing leaves": ((0, 0), (0, 0)),
    "one message at a time": ((1, 1), (1, 1)),
}
POINTS = range(len(STEPS) + 1)


def breathe(play: Play, mood: str) -> None:
    for who in (0, 1):
        post, deliver = MOODS[mood][who]
        if post:
            play.post(who, 1 if post == 1 else 1 << 30)
        for _ in range(deliver):
            play.deliver(1 - who)


def race(binding: Binding, misfortunes: dict[int, str], mood: str) -> None:
    play = Play(binding)
    play.open(0, 5, False, False)
    call = play.calls[0]
    breathe(play, mood)
    for point in POINTS:
        MISFORTUNES[misfortunes.get(point, "none")](play, call)
        breathe(play, mood)
        if point < len(STEPS):
            STEPS[point](play, call)
            breathe(play, mood)
    play.open(0, 5, True, True)
    play.open(1, 5, True, True)
    play.finish()


@covers("RPC-12", "RPC-13", "RPC-15", "RPC-48", "RPC-49", "RPC-50", "RPC-52", "RPC-53", "RPC-54", "RPC-55")
@pytest.mark.parametrize("binding", [STREAMING, BASE], ids=lambda binding: binding.name)
@pytest.mark.parametrize("mood", MOODS)
def test_every_misfortune_at_every_point(binding: Binding, mood: str) -> None:
    for misfortune, point in itertools.product(MISFORTUNES, POINTS):
        race(binding, {point: misfortune}, mood)


@covers("RPC-12", "RPC-15", "RPC-52")
@pytest.mark.parametrize("binding", [STREAMING, BASE], ids=lambda binding: binding.name)
@given(
    misfortunes=st.dictionaries(st.sampled_from(POINTS), st.sampled_from(sorted(MISFORTUNES)), min_size=2),
    mood=st.sampled_from(sorted(MOODS)),
)
def test_several_misfortunes(binding: Binding, misfortunes: dict[int, str], mood: str) -> None:
    race(binding, misfortunes, mood)
