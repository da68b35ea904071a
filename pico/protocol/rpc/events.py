"""What an RPC engine tells its owner.

Each event that concerns a stream has it as its first part.
"""

from __future__ import annotations

from typing import Final, TypeAlias

from pico.protocol.http.values import RequestHead, ResponseHead
from pico.protocol.rpc.messages import ResetCode
from pico.protocol.rpc.stream import RpcStream
from pico.protocol.value import Value

__all__ = [
    "BodyBytes",
    "CreditReceived",
    "DataReceived",
    "Event",
    "GoawayReceived",
    "HeadReceived",
    "PeerSilent",
    "ResponseShed",
    "StreamEvent",
    "StreamOpened",
    "StreamReset",
    "TrailersReceived",
]


BodyBytes: TypeAlias = bytes | memoryview
"""A piece of a body: its bytes, or where they are many a view of the message that brought them."""


class StreamOpened(Value):
    """The peer opened a stream: a request has arrived."""

    __match_args__ = ("stream", "head", "data", "end")

    def __init__(self, stream: RpcStream, head: RequestHead, data: bytes, end: bool) -> None:
        self.stream: Final = stream
        self.head: Final = head
        self.data: Final = data
        self.end: Final = end


class HeadReceived(Value):
    """A response head, final or informational, with the first bytes of the body."""

    __match_args__ = ("stream", "head", "data", "end")

    def __init__(self, stream: RpcStream, head: ResponseHead, data: bytes, end: bool) -> None:
        self.stream: Final = stream
        self.head: Final = head
        self.data: Final = data
        self.end: Final = end


class DataReceived(Value):
    """Body bytes; the owner gives credit back with ``consumed`` once it has taken them."""

    __match_args__ = ("stream", "data", "end")

    def __init__(self, stream: RpcStream, data: BodyBytes, end: bool) -> None:
        self.stream: Final = stream
        self.data: Final = data
        self.end: Final = end


class TrailersReceived(Value):
    """The trailers that end the peer's half."""

    __match_args__ = ("stream", "block")

    def __init__(self, stream: RpcStream, block: bytes) -> None:
        self.stream: Final = stream
        self.block: Final = block


class StreamReset(Value):
    """The stream ended early. After a complete response it only says that the rest of the request is not wanted."""

    __match_args__ = ("stream", "code", "untouched", "reason")

    def __init__(self, stream: RpcStream, code: ResetCode, untouched: bool, reason: str) -> None:
        self.stream: Final = stream
        self.code: Final = code
        self.untouched: Final = untouched
        self.reason: Final = reason


class ResponseShed(Value):
    """What is left of a response, which had come whole, must not be held any longer; it may not have begun."""

    __match_args__ = ("stream", "reason")

    def __init__(self, stream: RpcStream, reason: str) -> None:
        self.stream: Final = stream
        self.reason: Final = reason


class CreditReceived(Value):
    """The peer took body bytes: ``stream.credit`` has grown."""

    __match_args__ = ("stream",)

    def __init__(self, stream: RpcStream) -> None:
        self.stream: Final = stream


class GoawayReceived(Value):
    """The peer takes no new streams on this connection."""

    __match_args__ = ("reason",)

    def __init__(self, reason: str) -> None:
        self.reason: Final = reason


class PeerSilent(Value):
    """Nothing came from the peer for the whole silence limit: the connection is to be given up."""

    __match_args__ = ("silent_s",)

    def __init__(self, silent_s: float) -> None:
        self.silent_s: Final = silent_s


StreamEvent: TypeAlias = (
    StreamOpened | HeadReceived | DataReceived | TrailersReceived | StreamReset | ResponseShed | CreditReceived
)
Event: TypeAlias = StreamEvent | GoawayReceived | PeerSilent
