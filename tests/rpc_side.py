"""An RPC engine behind the words of ``tests/rpc_slow.py``, and two of them joined by queues of messages.

Responsible for: turning commands given as plain values into calls of the engine's public face, and its events and
messages back into plain values, so that a script or a machine can drive the engine and the slow model alike. Refuses to
know: the rules; nothing is judged here. ``Pair`` is an imaginary wire: whoever holds it says which message arrives
next, and when the wire is cut.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from pico.config import HttpLimits, RpcLimits
from pico.protocol.http.values import RequestHead, ResponseHead
from pico.protocol.rpc import (
    BaseEngine,
    CreditReceived,
    DataReceived,
    Event,
    GoawayReceived,
    HeadReceived,
    PeerSilent,
    ResetCode,
    RpcStream,
    StreamingEngine,
    StreamOpened,
    StreamReset,
    TrailersReceived,
)
from pico.protocol.rpc.messages import Encoded
from tests import rpc_slow
from tests.rpc_slow import Value

Engine = StreamingEngine | BaseEngine
EVERYTHING = 1 << 40
FIXED_WINDOWS = RpcLimits(window_bytes_max=RpcLimits().window_bytes)
"""The limits of a side whose peer's windows never grow."""


def request_head(
    method: str = "GET", target: str = "/", block: str = "Host: a.example\r\n", body_length: int = -1, upgrade: str = ""
) -> Value:
    return {"method": method, "target": target, "block": block, "body_length": body_length, "upgrade": upgrade}


def response_head(
    status: int = 200, reason: str = "OK", block: str = "", body_length: int = -1, upgrade: str = ""
) -> Value:
    return {"status": status, "reason": reason, "block": block, "body_length": body_length, "upgrade": upgrade}


def whole(sent: Encoded) -> bytes:
    """The bytes of a message that an engine has given to be sent."""
    return sent if isinstance(sent, bytes) else b"".join(sent)


def message(type_: str | int, ident: int, *flags: str, **more: Any) -> Value:
    """A message in the words of the slow decoder."""
    return {"type": type_, "id": ident, "flags": list(flags), **more}


def head_message(ident: int, head: Value, body: str = "", *flags: str) -> Value:
    """A HEAD; RESPONSE follows from the head, END is to be given."""
    return message("HEAD", ident, *(["RESPONSE"] if "status" in head else []), *flags, head=head, body=body)


def engine_head(head: Value) -> Any:
    """The head as the engine takes it."""
    block, upgrade = rpc_slow.raw(head["block"]), rpc_slow.raw(head["upgrade"])
    if "status" in head:
        return ResponseHead(head["status"], rpc_slow.raw(head["reason"]), block, head["body_length"], upgrade)
    return RequestHead(rpc_slow.raw(head["method"]), rpc_slow.raw(head["target"]), block, head["body_length"], upgrade)


def plain_head(head: RequestHead | ResponseHead) -> Value:
    """The head as ``rpc_slow`` writes it."""
    common: Value = {
        "block": rpc_slow.text(head.field_block),
        "body_length": head.body_length,
        "upgrade": rpc_slow.text(head.upgrade),
    }
    if isinstance(head, ResponseHead):
        return {"status": head.status, "reason": rpc_slow.text(head.reason), **common}
    return {"method": rpc_slow.text(head.method), "target": rpc_slow.text(head.target), **common}


def name_of(stream: RpcStream) -> str:
    return f"{'ours' if stream.opened_here else 'theirs'}:{stream.id}"


class EngineSide:
    """One engine; streams are named ``ours:<id>`` and ``theirs:<id>``."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.streams: dict[str, RpcStream] = {}
        self.now = 0.0

    # Commands.

    def open(self, head: Value, body: str = "", end: bool = False) -> str:
        stream = self.engine.open(engine_head(head), rpc_slow.raw(body), end)
        self.streams[name_of(stream)] = stream
        return name_of(stream)

    def head(self, name: str, head: Value, body: str = "", end: bool = False) -> None:
        self.engine.send_head(self.streams[name], engine_head(head), rpc_slow.raw(body), end)

    def data(self, name: str, body: str = "", end: bool = False) -> None:
        self.engine.send_data(self.streams[name], rpc_slow.raw(body), end)

    def trailers(self, name: str, block: str) -> None:
        self.engine.send_trailers(self.streams[name], rpc_slow.raw(block))

    def reset(self, name: str, code: str, untouched: bool = False, reason: str = "") -> None:
        self.engine.reset(self.streams[name], ResetCode[code], untouched=untouched, message=reason)

    def consumed(self, name: str, size: int) -> None:
        self.engine.consumed(self.streams[name], size)

    def goaway(self, reason: str = "") -> None:
        self.engine.goaway(reason)

    def lost(self) -> None:
        self.engine.lost()

    def timer(self, now: float) -> None:
        self.now = now
        self.engine.handle_timer(now=now)

    def receive(self, received: bytes) -> None:
        self.engine.receive_message(received, now=self.now)

    def hear(self, *messages: Value) -> list[Value]:
        """Receive messages given as values; what is reported of them."""
        for value in messages:
            self.receive(rpc_slow.encode(value))
        return self.take_events()

    # What came of it.

    def take_sent(self, bytes_max: int = EVERYTHING) -> list[Value]:
        """Messages that leave now, decoded by the slow decoder."""
        return [rpc_slow.decode(whole(sent)) for sent in self.engine.outgoing(bytes_max)]

    def take_events(self) -> list[Value]:
        return [self._plain(event) for event in self.engine.events()]

    def _plain(self, event: Event) -> Value:
        match event:
            case StreamOpened(stream, head, data, end):
                self.streams[name_of(stream)] = stream
                more = {"event": "opened", "head": plain_head(head), "body": rpc_slow.text(data), "end": end}
            case HeadReceived(stream, head, data, end):
                more = {"event": "head", "head": plain_head(head), "body": rpc_slow.text(data), "end": end}
            case DataReceived(stream, data, end):
                more = {"event": "data", "body": rpc_slow.text(data), "end": end}
            case TrailersReceived(stream, block):
                more = {"event": "trailers", "block": rpc_slow.text(block)}
            case StreamReset(stream, code, untouched, reason):
                assert isinstance(reason, str)
                more = {"event": "reset", "code": code.name, "untouched": untouched, "reason": reason}
            case CreditReceived(stream):
                more = {"event": "credit"}
            case GoawayReceived(reason):
                return {"event": "goaway", "reason": reason}
            case PeerSilent(silent_s):
                assert silent_s >= self.engine.limits.silence_s
                return {"event": "silent"}
            case _:
                raise AssertionError(f"an event that the interface does not list: {event!r}")
        return {**more, "stream": name_of(stream)}


def streaming_side(**limits: Any) -> EngineSide:
    """With the limits that are given; a window that is given does not grow unless it is said how far."""
    if "window_bytes" in limits:
        limits.setdefault("window_bytes_max", limits["window_bytes"])
    return EngineSide(StreamingEngine(RpcLimits(**limits), now=0.0))


def base_side(**limits: Any) -> EngineSide:
    return EngineSide(BaseEngine(RpcLimits(**limits), HttpLimits(), now=0.0))


class Pair:
    """Two sides and the messages between them; nothing moves until it is told to."""

    def __init__(self, left: EngineSide, right: EngineSide) -> None:
        self.sides = (left, right)
        self.wires: tuple[deque[bytes], deque[bytes]] = (deque(), deque())  # messages towards left, towards right
        self.cut = False

    def post(self, who: int, bytes_max: int = EVERYTHING) -> list[bytes]:
        """Put what a side has to send on the wire."""
        messages = [] if self.cut else [whole(sent) for sent in self.sides[who].engine.outgoing(bytes_max)]
        self.wires[1 - who].extend(messages)
        return messages

    def deliver(self, who: int) -> bool:
        """Let the next message arrive at a side; False when none is under way."""
        if self.cut or not self.wires[who]:
            return False
        self.sides[who].receive(self.wires[who].popleft())
        return True

    def lose(self) -> None:
        """Cut the wire: what is under way is gone, and both sides notice."""
        if not self.cut:
            self.cut = True
            for side, wire in zip(self.sides, self.wires, strict=True):
                wire.clear()
                side.lost()

    def in_flight(self, towards: int) -> list[Value]:
        return [rpc_slow.decode(sent) for sent in self.wires[towards]]


__all__ = [
    "EVERYTHING",
    "FIXED_WINDOWS",
    "EngineSide",
    "Pair",
    "base_side",
    "engine_head",
    "head_message",
    "message",
    "name_of",
    "plain_head",
    "request_head",
    "response_head",
    "streaming_side",
]
