"""The RPC protocol between a node and whoever opened a connection to it (``spec/rpc.md``)."""

from pico.protocol.rpc.base import BaseEngine
from pico.protocol.rpc.connection import RpcSnapshot
from pico.protocol.rpc.events import (
    BodyBytes,
    CreditReceived,
    DataReceived,
    Event,
    GoawayReceived,
    HeadReceived,
    PeerSilent,
    ResponseShed,
    StreamEvent,
    StreamOpened,
    StreamReset,
    TrailersReceived,
)
from pico.protocol.rpc.messages import MessageType, ResetCode
from pico.protocol.rpc.states import HALF, HalfState, Input
from pico.protocol.rpc.stream import RpcStream
from pico.protocol.rpc.streaming import PIECE_BYTES, StreamingEngine
from pico.protocol.rpc.waiting import WaitingBodies

__all__ = [
    "HALF",
    "PIECE_BYTES",
    "BaseEngine",
    "BodyBytes",
    "CreditReceived",
    "DataReceived",
    "Event",
    "GoawayReceived",
    "HalfState",
    "HeadReceived",
    "Input",
    "MessageType",
    "PeerSilent",
    "ResetCode",
    "ResponseShed",
    "RpcSnapshot",
    "RpcStream",
    "StreamEvent",
    "StreamOpened",
    "StreamReset",
    "StreamingEngine",
    "TrailersReceived",
    "WaitingBodies",
]
