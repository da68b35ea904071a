"""What may follow what on one half of a stream.

Everything about the order of messages is in the table below and nowhere else; this file does not know which side we
play, who sends and who receives, and what a message carries. A half is one direction of a stream. It begins with a
head, may be preceded by informational heads when it is a response, goes on with body bytes and is ended by the END flag
on any of these, or by trailers. ``spec/rpc.md`` shows the same table; a test compares the two.
"""

from __future__ import annotations

from enum import IntEnum

__all__ = ["BODY", "ENDED", "HALF", "HEAD", "HalfState", "Input"]


class HalfState(IntEnum):
    """Where one half of a stream stands."""

    HEAD = 0
    BODY = 1
    ENDED = 2


# For the engines: in Python 3.11 to look a member up in its class takes 0.1 us, and every message needs several.
HEAD, BODY, ENDED = HalfState


class Input(IntEnum):
    """What is sent or received on a half; the END flag is applied after the table."""

    INFORMATIONAL = 0
    HEAD = 1
    DATA = 2
    TRAILERS = 3


HALF: dict[HalfState, dict[Input, HalfState]] = {
    HalfState.HEAD: {Input.INFORMATIONAL: HalfState.HEAD, Input.HEAD: HalfState.BODY},
    HalfState.BODY: {Input.DATA: HalfState.BODY, Input.TRAILERS: HalfState.ENDED},
    HalfState.ENDED: {},
}
"""The next state; an input that is missing is a violation (RPC-37)."""
