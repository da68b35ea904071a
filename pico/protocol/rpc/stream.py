"""One stream of an RPC connection: its two halves, its credit, and what is queued for it.

Responsible for: being the handle that owners hold and engines keep their state in. Refuses to know: bytes on the wire
and the other streams. Only ``id``, ``credit``, ``context``, ``ended``, ``sending`` and ``receiving`` are for owners,
and of these only ``context`` is theirs to change.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final

from pico.protocol.http.values import ResponseHead
from pico.protocol.rpc.messages import Encoded
from pico.protocol.rpc.states import HEAD, HalfState

__all__ = ["SWITCHING_PROTOCOLS", "UNBOUNDED", "RpcStream", "body_bytes_of"]

UNBOUNDED: Final = -1
SWITCHING_PROTOCOLS: Final = 101
_BODILESS: Final = frozenset((204, 304))


class RpcStream:
    """One request with its response.

    Defaults stand on the class: an instance sets only what differs, which is most of what making one would cost.
    """

    ended = False
    sending: HalfState = HEAD
    receiving: HalfState = HEAD
    held_bytes = 0  # received, and not yet taken by the owner
    waiting_bytes = 0  # base protocol: of its body, as far as the node counts it
    taken_bytes = 0  # taken by the owner, and not yet given back as credit
    arrived_bytes = 0  # of the body, in all
    growth_bytes = 0  # of the window that the peer has, beyond that with which a stream opens
    send_left = UNBOUNDED  # of the declared body
    receive_left = UNBOUNDED
    is_head_request = False
    upgrade_asked = False
    queued = False  # has a message in a queue of the connection
    message: Encoded  # while it has: that one
    ahead_left = 0  # while it has: bytes that may still go ahead of the turns; below zero it takes turns
    head_left = False  # its first message was handed to the transport
    backlog: deque[tuple[Encoded, int]] | None = None  # behind the message that is queued, with its body bytes
    backlog_bytes = 0  # of bodies among these
    lift_bytes = 0  # by how much credit and backlog were above the first window when that was last looked at

    def __init__(self, id_: int, opened_here: bool, window_bytes: int, context: Any = None) -> None:
        self.id = id_
        self.opened_here = opened_here
        self.context = context
        self.credit = window_bytes  # body bytes that we may still send
        self.window_left = window_bytes  # body bytes that the peer may still send

    def __repr__(self) -> str:
        who = "ours" if self.opened_here else "theirs"
        return f"<RpcStream {self.id} {who} sending={self.sending.name} receiving={self.receiving.name}>"


def body_bytes_of(stream: RpcStream, head: ResponseHead) -> int:
    """How many body bytes must follow this final head, or ``UNBOUNDED`` (RPC-34)."""
    if head.status == SWITCHING_PROTOCOLS:  # RPC-32
        return UNBOUNDED
    return 0 if stream.is_head_request or head.status in _BODILESS else head.body_length
