"""What an RPC engine tells its owner.

Each event that concerns a stream has it as its first field. They are NamedTuples because several are made for every
request.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from pico.protocol.http.values import RequestHead, ResponseHead
from pico.protocol.rpc.messages import ResetCode
from pico.protocol.rpc.stream import RpcStream

__all__ = [
    "BodyBytes",
    "CreditReceived",
    "DataReceived",
    "Event",
    "GoawayReceived",
    "HeadReceived",
    "PeerSilent",
    "StreamEvent",
    "StreamOpened",
    "StreamReset",
    "TrailersReceived",
]


BodyBytes: TypeAlias = bytes | memoryview
"""A piece of a body: its bytes, or where they are many a view of the message that brought them."""


class StreamOpened(NamedTuple):
    """The peer opened a stream: a request has arrived."""

    stream: RpcStream
    head: RequestHead
    data: bytes
    end: bool


class HeadReceived(NamedTuple):
    """A response head, final or informational, with the first bytes of the body."""

    stream: RpcStream
    head: ResponseHead
    data: bytes
    end: bool


class DataReceived(NamedTuple):
    """Body bytes; the owner gives credit back with ``consumed`` once it has taken them."""

    stream: RpcStream
    data: BodyBytes
    end: bool


class TrailersReceived(NamedTuple):
    """The trailers that end the peer's half."""

    stream: RpcStream
    block: bytes


class StreamReset(NamedTuple):
    """The stream ended early. After a complete response it only says that the rest of the request is not wanted."""

    stream: RpcStream
    code: ResetCode
    untouched: bool
    reason: str


class CreditReceived(NamedTuple):
    """The peer took body bytes: ``stream.credit`` has grown."""

    stream: RpcStream


class GoawayReceived(NamedTuple):
    """The peer takes no new streams on this connection."""

    reason: str


class PeerSilent(NamedTuple):
    """Nothing came from the peer for the whole silence limit: the connection is to be given up."""

    silent_s: float


StreamEvent: TypeAlias = StreamOpened | HeadReceived | DataReceived | TrailersReceived | StreamReset | CreditReceived
Event: TypeAlias = StreamEvent | GoawayReceived | PeerSilent
