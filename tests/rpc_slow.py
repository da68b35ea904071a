"""The RPC protocol once more, slowly: a decoder, an encoder and a model of one side, from ``spec/rpc.md`` alone.

Responsible for: being obviously right. Plain integers, slicing and dictionaries; nothing is shared with
``pico.protocol.rpc``, nothing is fast, nothing is clever. Refuses to know: the engines, time, and what a WebSocket is.

A message, a head and an event are dictionaries here, in the same words and shapes as in ``spec/vectors/rpc*.json``:
text for what is text on the wire (Latin-1), names for codes and flags. ``Broken`` carries the number of the rule.
"""

from __future__ import annotations

from math import inf
from typing import Any

Value = dict[str, Any]

TYPES = {1: "HEARTBEAT", 2: "PROXY-HTTP", 3: "HEAD", 4: "DATA", 5: "TRAILERS", 6: "RESET", 7: "WINDOW", 8: "GOAWAY"}
CODES = {
    1: "CANCELLED",
    2: "REFUSED",
    3: "NO_ENDPOINT",
    4: "SERVICE_UNREACHABLE",
    5: "SERVICE_TIMEOUT",
    6: "SERVICE_MALFORMED",
    7: "SERVICE_CLOSED",
    8: "TOO_LARGE",
    9: "DEADLINE",
    10: "INTERNAL",
    11: "NOT_WANTED",
    13: "UPSTREAM_LOST",
}
FLAGS = {"RESPONSE": 0x8000, "UNSUPPORTED": 0x4000, "END": 0x0001}
LIMITS = {
    "window_bytes": 262_144,
    "window_bytes_max": 4_194_304,
    "growth_bytes_max": 16_777_216,
    "probe_s": 0.05,
    "ahead_bytes": 16_384,
    "data_bytes_max": 131_072,
    "head_bytes_max": 81_920,
    "trailer_bytes_max": 16_384,
    "reason_bytes_max": 256,
    "streams_max": 1_024,
    "control_bytes_max": 65_536,
    "base_body_bytes_max": 4_194_304,
    "base_streams_max": 64,
    "heartbeat_s": 5.0,
    "silence_s": 15.0,
}
HALF_TABLE = {
    ("HEAD", "INFORMATIONAL"): "HEAD",
    ("HEAD", "HEAD"): "BODY",
    ("BODY", "DATA"): "BODY",
    ("BODY", "TRAILERS"): "ENDED",
}
TOKEN = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
# Fields that concern one hop only, and framing: they never travel.
HOP_BY_HOP = ("connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "content-length")


class Broken(Exception):
    """A violation; ``rule`` is the first rule that it breaks."""

    def __init__(self, rule: str) -> None:
        super().__init__(rule)
        self.rule = rule


def need(condition: bool, rule: str) -> None:
    if not condition:
        raise Broken(rule)


# Integers and text.


def number(octets: bytes) -> int:
    total = 0
    for octet in octets:
        total = total * 256 + octet
    return total


def signed(octets: bytes) -> int:
    value = number(octets)
    return value - 256 ** len(octets) if value >= 256 ** len(octets) // 2 else value


def octets(value: int, size: int) -> bytes:
    if value < 0:
        value += 256**size
    out = []
    for _ in range(size):
        out.insert(0, value % 256)
        value //= 256
    assert value == 0, "the number does not fit its field"
    return bytes(out)


def text(raw: bytes | memoryview) -> str:
    return bytes(raw).decode("latin-1")


def raw(string: str) -> bytes:
    return string.encode("latin-1")


def agrees(expected: Any, actual: Any) -> bool:
    """Equality, but for what the document leaves to the speaker, which is written as null: the words of a reason."""
    if isinstance(expected, dict) and isinstance(actual, dict):
        return expected.keys() == actual.keys() and all(agrees(expected[key], actual[key]) for key in expected)
    if isinstance(expected, list) and isinstance(actual, list):
        return len(expected) == len(actual) and all(map(agrees, expected, actual))
    return expected is None or bool(expected == actual)


# What is valid by itself.


def valid_token(string: str) -> bool:
    return string != "" and all(character in TOKEN for character in string)


def valid_target(string: str) -> bool:
    return string == "*" or (string.startswith("/") and all(33 <= ord(c) != 127 for c in string))


def valid_reason(string: str) -> bool:
    return all(c == "\t" or (ord(c) >= 32 and ord(c) != 127) for c in string)


def valid_block(string: str) -> bool:
    if string == "":
        return True
    if not string.endswith("\r\n"):
        return False
    return all(valid_line(line) for line in string[:-2].split("\r\n"))


def valid_line(line: str) -> bool:
    name, colon, value = line.partition(":")
    if colon == "" or not valid_token(name) or not valid_reason(value):
        return False
    if name.lower() == "te":
        return value.strip(" \t").lower() == "trailers"
    return name.lower() not in HOP_BY_HOP


# One message.


def decode(message: bytes, limits: dict[str, Any] | None = None) -> Value:
    """The value of one message; raises ``Broken`` when it is not valid by itself."""
    bounds = {**LIMITS, **(limits or {})}
    need(len(message) >= 12, "RPC-1")
    kind, ident, flags = number(message[0:2]), number(message[2:10]), number(message[10:12])
    value: Value = {
        "type": TYPES.get(kind, kind),
        "id": ident,
        "flags": [name for name, bit in FLAGS.items() if flags // bit % 2 == 1],
    }
    payload = message[12:]
    if "UNSUPPORTED" in value["flags"]:
        return value  # Its payload says nothing.
    if kind == 2:
        value["payload"] = text(payload)
    elif kind == 3:
        value.update(decode_head(payload, "RESPONSE" in value["flags"], bounds))
        need(not (informational(value["head"]) and (value["body"] or "END" in value["flags"])), "RPC-30")
    elif kind == 4:
        need(len(payload) > 0 or "END" in value["flags"], "RPC-35")
        need(len(payload) <= bounds["data_bytes_max"], "RPC-35")
        value["body"] = text(payload)
    elif kind == 5:
        need(len(payload) <= bounds["trailer_bytes_max"], "RPC-36")
        need(valid_block(text(payload)), "RPC-36")
        value["block"] = text(payload)
    elif kind == 6:
        need(3 <= len(payload) <= 3 + bounds["reason_bytes_max"], "RPC-51")
        value["code"] = CODES.get(number(payload[0:2]), "INTERNAL")
        value["untouched"] = payload[2] == 1
        value["reason"] = payload[3:].decode("utf-8", "replace")
    elif kind == 7:
        need(len(payload) == 4, "RPC-41")
        value["credit"] = number(payload)
        need(value["credit"] > 0, "RPC-41")
    elif kind == 8:
        need(ident == 0, "RPC-56")
        need(len(payload) <= bounds["reason_bytes_max"], "RPC-56")
        value["reason"] = payload.decode("utf-8", "replace")
    return value


def decode_head(payload: bytes, response: bool, bounds: dict[str, Any]) -> Value:
    need(len(payload) >= 16, "RPC-27")
    length = signed(payload[0:8])
    need(length >= -1, "RPC-27")
    if response:
        status = number(payload[8:10])
        sizes = [("reason", payload[10]), ("upgrade", payload[11]), ("block", number(payload[12:16]))]
        head: Value = {"status": status}
    else:
        sizes = [
            ("method", payload[8]),
            ("upgrade", payload[9]),
            ("target", number(payload[10:12])),
            ("block", number(payload[12:16])),
        ]
        head = {}
    need(sum(size for _, size in sizes) <= bounds["head_bytes_max"], "RPC-28")
    position = 16
    for name, size in sizes:
        need(position + size <= len(payload), "RPC-27")
        head[name] = text(payload[position : position + size])
        position += size
    head["body_length"] = length
    check_head(head)
    need(len(payload) - position <= bounds["data_bytes_max"], "RPC-35")
    return {"head": head, "body": text(payload[position:])}


def check_head(head: Value) -> None:
    if "status" in head:
        need(100 <= head["status"] <= 599, "RPC-27")
        need(valid_reason(head["reason"]), "RPC-27")
        need((head["upgrade"] != "") == (head["status"] == 101), "RPC-27")
    else:
        need(valid_token(head["method"]), "RPC-27")
        need(valid_target(head["target"]), "RPC-27")
    need(head["upgrade"] == "" or all(valid_token(part) for part in head["upgrade"].split("/")), "RPC-27")
    need(valid_block(head["block"]), "RPC-27")


def informational(head: Value) -> bool:
    return head.get("status", 200) < 200 and head["status"] != 101


def encode(value: Value) -> bytes:
    """The bytes of one message."""
    kinds = {name: kind for kind, name in TYPES.items()}
    codes = {name: code for code, name in CODES.items()}
    kind = kinds.get(value["type"], value["type"])
    header = octets(kind, 2) + octets(value["id"], 8) + octets(sum(FLAGS[name] for name in value["flags"]), 2)
    if "UNSUPPORTED" in value["flags"]:
        return header
    if kind == 2:
        return header + raw(value["payload"])
    if kind == 3:
        return header + encode_head(value["head"]) + raw(value["body"])
    if kind == 4:
        return header + raw(value["body"])
    if kind == 5:
        return header + raw(value["block"])
    if kind == 6:
        return header + octets(codes[value["code"]], 2) + octets(value["untouched"], 1) + value["reason"].encode()
    if kind == 7:
        return header + octets(value["credit"], 4)
    if kind == 8:
        return header + value["reason"].encode()
    return header


def encode_head(head: Value) -> bytes:
    length = octets(head["body_length"], 8)
    if "status" in head:
        fixed = octets(head["status"], 2) + octets(len(head["reason"]), 1) + octets(len(head["upgrade"]), 1)
        names = ["reason", "upgrade", "block"]
    else:
        fixed = octets(len(head["method"]), 1) + octets(len(head["upgrade"]), 1) + octets(len(head["target"]), 2)
        names = ["method", "upgrade", "target", "block"]
    return length + fixed + octets(len(head["block"]), 4) + b"".join(raw(head[name]) for name in names)


# One half of a stream.


class SlowHalf:
    """One direction of a stream: where it stands, what it may still carry, what credit is left for it."""

    def __init__(self, state: str, window: int) -> None:
        self.state = state
        self.credit = window
        self.left: int | None = None  # of the declared length

    def step(self, given: str, end: bool) -> None:
        """What the state table says, END included (RPC-37)."""
        need((self.state, given) in HALF_TABLE, "RPC-37")
        self.state = HALF_TABLE[self.state, given]
        if end:
            self.state = "ENDED"

    def carry(self, size: int) -> None:
        """Take account of body bytes: credit (RPC-39), then the declared length (RPC-34)."""
        need(size <= self.credit, "RPC-39")
        self.credit -= size
        if self.left is not None:
            need(size <= self.left, "RPC-34")
            self.left -= size
        need(self.state != "ENDED" or not self.left, "RPC-34")


class SlowStream:
    """Both halves of one stream, seen from one side."""

    def __init__(self, name: str, request: Value, window: int) -> None:
        self.name = name
        self.ours = name.startswith("ours")
        self.id = int(name.split(":")[1])
        self.request = request
        self.sending = SlowHalf("HEAD", window)
        self.receiving = SlowHalf("HEAD", window)
        self.window = window  # of the peer
        self.arrived = 0  # of its body
        self.taken = 0  # by the owner, and not yet given back
        self.held = 0  # received, and not yet taken
        self.head_left = False
        self.final_head = False
        request_half = self.sending if self.ours else self.receiving
        request_half.left = None if request["body_length"] < 0 else request["body_length"]

    @property
    def request_half(self) -> SlowHalf:
        return self.sending if self.ours else self.receiving

    @property
    def response_half(self) -> SlowHalf:
        return self.receiving if self.ours else self.sending

    def response_head(self, head: Value) -> None:
        """Note what the final head says about the body that follows (RPC-32, RPC-34)."""
        if head["status"] == 101:
            need(self.request["upgrade"] != "", "RPC-32")
            self.response_half.left = self.request_half.left = None
        elif self.request["method"] == "HEAD" or head["status"] in (204, 304):
            self.response_half.left = 0
        elif head["body_length"] >= 0:
            self.response_half.left = head["body_length"]


# One side of a connection that speaks the streaming extension.


class SlowSide:
    """Commands and received messages in; ``events``, ``control`` and ``queues`` out, to be looked at and emptied."""

    def __init__(self, limits: dict[str, Any] | None = None) -> None:
        self.limits = {**LIMITS, **(limits or {})}
        self.streams: dict[str, SlowStream] = {}  # those that are open
        self.events: list[Value] = []
        self.control: list[Value] = []
        self.queues: dict[str, list[Value]] = {}  # what each stream has still to send
        self.allowance: dict[str, int] = {}  # for those with something: how much of it may go ahead of the turns
        self.went_ahead = 0  # of those that wait, more than these have sent since
        self.leaving: dict[str, SlowStream] = {}  # those that have ended with something in their queue
        self.gone: list[SlowStream] = []  # all that have ended
        self.late = 0
        self.next_id = 1
        self.highest = 0  # of the IDs of the peer's streams
        self.goaway_sent = False
        self.goaway_received = False
        self.now = 0.0
        self.received_at = 0.0
        self.asked_at = 0.0
        self.questions: list[float] = []  # when heartbeats were sent since the last sign of life
        self.least: float | None = None  # of the round trips
        self.counted: tuple[SlowStream, int] | None = None  # what had come of it when the heartbeat was sent
        self.counted_at = -inf
        self.asked: int | None = None  # the last heartbeat, until it is answered
        self.silent = False

    @property
    def may_open(self) -> bool:
        mine = {name for name in [*self.streams, *self.queues] if name.startswith("ours")}
        return len(mine) < self.limits["streams_max"] and not self.goaway_received

    # Commands.

    def open(self, head: Value, body: str = "", end: bool = False) -> str:
        need(self.may_open, "RPC-17")
        need(len(body) <= self.limits["data_bytes_max"], "RPC-35")
        name = f"ours:{self.next_id}"
        self.next_id += 1
        stream = self.streams[name] = SlowStream(name, head, self.limits["window_bytes"])
        self.queues[name] = []
        stream.sending.step("HEAD", end)
        stream.sending.carry(len(body))
        self.say(stream, "HEAD", end, head=head, body=body)
        self.allowance[name] = max(0, self.allowance[name])  # In the order of the IDs, whatever its size.
        return name

    def head(self, name: str, head: Value, body: str = "", end: bool = False) -> None:
        stream = self.streams[name]
        need(not stream.ours, "RPC-37")
        need(len(body) <= self.limits["data_bytes_max"], "RPC-35")
        need(not (informational(head) and (body or end)), "RPC-30")
        stream.sending.step("INFORMATIONAL" if informational(head) else "HEAD", end)
        if not informational(head):
            stream.response_head(head)
            stream.sending.carry(len(body))
        self.say(stream, "HEAD", end, head=head, body=body)
        self.end_if_complete(stream)

    def data(self, name: str, body: str, end: bool = False) -> None:
        stream = self.streams[name]
        stream.sending.step("DATA", end)
        stream.sending.carry(len(body))
        while len(body) > self.limits["data_bytes_max"]:
            self.say(stream, "DATA", False, body=body[: self.limits["data_bytes_max"]])
            body = body[self.limits["data_bytes_max"] :]
        if (body or end) and not self.joined(name, body, end):
            self.say(stream, "DATA", end, body=body)
        self.end_if_complete(stream)

    def joined(self, name: str, body: str, end: bool) -> bool:
        """RPC-63."""
        last = self.queues[name][-1] if len(self.queues[name]) > 1 else None
        if last is None or last["type"] != "DATA" or "END" in last["flags"]:
            return False
        if len(last["body"]) + len(body) > min(4_096, self.limits["data_bytes_max"]):
            return False
        last["body"] += body
        last["flags"] += ["END"] if end else []
        return True

    def trailers(self, name: str, block: str) -> None:
        stream = self.streams[name]
        need(len(block) <= self.limits["trailer_bytes_max"], "RPC-36")
        stream.sending.step("TRAILERS", False)
        stream.sending.carry(0)
        self.say(stream, "TRAILERS", True, block=block)
        self.end_if_complete(stream)

    def reset(self, name: str, code: str, untouched: bool = False, reason: str = "") -> None:
        if name not in self.streams:
            return
        stream = self.streams.pop(name)
        self.gone.append(stream)
        if not stream.ours and stream.sending.state == "ENDED" and self.queues[name]:
            self.say(stream, "RESET", False, code=code, untouched=untouched, reason=reason)  # RPC-53
            self.leaving[name] = stream
            return
        del self.queues[name]
        self.forget_who_went_ahead()
        if stream.head_left or not stream.ours:
            flags = [] if stream.ours else ["RESPONSE"]
            self.answer("RESET", stream.id, flags, code=code, untouched=untouched, reason=reason)

    def consumed(self, name: str, size: int) -> None:
        if name not in self.streams:
            return
        stream = self.streams[name]
        need(size <= stream.held, "RPC-40")
        slow = stream.held >= 2 * self.limits["window_bytes"]
        stream.held -= size
        if slow:  # RPC-59
            kept = min(size // 2, stream.window - self.limits["window_bytes"])
            stream.window -= kept
            size -= kept
        stream.taken += size
        if stream.taken > 0 and stream.taken * 4 >= self.limits["window_bytes"] and stream.receiving.state != "ENDED":
            self.answer("WINDOW", stream.id, [] if stream.ours else ["RESPONSE"], credit=stream.taken)
            stream.receiving.credit += stream.taken
            stream.taken = 0

    def goaway(self, reason: str = "") -> None:
        if not self.goaway_sent:
            self.goaway_sent = True
            self.answer("GOAWAY", 0, [], reason=reason)

    def lost(self) -> None:
        for stream in sorted(self.streams.values(), key=lambda stream: not stream.ours):
            untouched = stream.ours and not stream.head_left
            self.event("reset", stream, code="LOST", untouched=untouched, reason="")
            self.forget(stream)

    def timer(self, now: float) -> None:
        self.now = now
        heartbeat_s, silence_s = self.limits["heartbeat_s"], self.limits["silence_s"]
        patient = not self.questions or now - self.questions[0] < min(heartbeat_s, silence_s - heartbeat_s)
        if now - self.received_at >= silence_s and not patient:
            if not self.silent:
                self.events.append({"event": "silent"})
            self.silent = True
        elif now - max(self.received_at, self.asked_at) >= heartbeat_s:
            self.ask()

    def ask(self) -> None:
        self.counted = None
        self.questions.append(self.now)
        self.asked_at = self.now
        self.asked = self.next_id
        self.answer("HEARTBEAT", self.next_id, [])
        self.next_id += 1

    def take_events(self) -> list[Value]:
        events, self.events = self.events, []
        return events

    def take_sent(self, turns: int | None = None) -> list[Value]:
        """What leaves now: all control, then so many messages of the streams in turn, or all of them."""
        messages, self.control = self.control, []
        while turns != 0 and (name := self.next()):
            messages.append(self.sent(name))
            if self.queues.get(name):  # Behind the others.
                self.queues[name] = self.queues.pop(name)
                self.allowance[name] -= len(encode(self.queues[name][0]))
            self.forget_who_went_ahead()
            turns = None if turns is None else turns - 1
        return messages

    def forget_who_went_ahead(self) -> None:
        """When nobody takes turns any more (RPC-62)."""
        if not any(self.allowance[name] < 0 for name in self.queues if self.queues[name]):
            self.went_ahead = 0

    def next(self) -> str | None:
        """Whose turn it is: those that go ahead (RPC-61), unless they have had enough (RPC-62)."""
        ready = [name for name in self.queues if self.queues[name]]
        ahead = [name for name in ready if self.allowance[name] >= 0]
        others = [name for name in ready if self.allowance[name] < 0]
        if ahead and (not others or self.went_ahead < self.limits["data_bytes_max"]):
            self.went_ahead = self.went_ahead + len(encode(self.queues[ahead[0]][0])) if others else 0
            return ahead[0]
        if not others:
            return None
        self.went_ahead = max(0, self.went_ahead - len(encode(self.queues[others[0]][0])))
        return others[0]

    def sent(self, name: str) -> Value:
        """The transport took the next message of a stream."""
        message = self.queues[name].pop(0)
        if name in self.streams:
            self.streams[name].head_left = True
        if name not in self.streams and not self.queues[name]:
            del self.queues[name]
            del self.leaving[name]
        return message

    # Messages.

    def receive(self, message: bytes) -> None:
        need(len(message) >= 12, "RPC-1")
        self.received_at = self.now
        self.questions = []
        kind = TYPES.get(number(message[0:2]))
        ident = number(message[2:10])
        response = message[10] >= 128
        if message[10] // 64 % 2 == 1:
            self.receive_unsupported(kind, f"ours:{ident}", response)
        elif kind in (None, "PROXY-HTTP"):
            if response:
                self.late += 1
            else:
                self.answer(number(message[0:2]), ident, ["RESPONSE", "UNSUPPORTED"])
        elif kind == "HEARTBEAT":
            if not response:
                self.answer("HEARTBEAT", ident, ["RESPONSE"])
            elif ident == self.asked:
                self.asked = None
                self.measured(self.now - self.asked_at)
            else:
                self.late += 1
        elif kind == "GOAWAY":
            value = decode(message, self.limits)
            if not self.goaway_received:
                self.goaway_received = True
                self.events.append({"event": "goaway", "reason": value["reason"]})
        elif kind == "HEAD" and not response:
            self.receive_request(decode(message, self.limits))
        else:
            name = ("ours:" if response else "theirs:") + str(ident)
            if kind in ("RESET", "WINDOW"):
                decode(message, self.limits)
            need(ident < self.next_id if response else ident <= self.highest, "RPC-37")
            if name in self.streams:
                self.receive_on(self.streams[name], decode(message, self.limits))
            else:
                self.late += 1  # Dropped without its body being looked at (RPC-13).

    def receive_unsupported(self, kind: str | None, name: str, response: bool) -> None:
        if kind != "HEAD" or not response or name not in self.streams:
            self.late += 1
            return
        stream = self.streams[name]
        self.event("reset", stream, code="REFUSED", untouched=not stream.final_head, reason=None)
        self.forget(stream)

    def receive_request(self, value: Value) -> None:
        need(value["id"] > self.highest, "RPC-26")
        self.highest = value["id"]
        accepted = {name for name in [*self.streams, *self.queues] if name.startswith("theirs")}
        if self.goaway_sent or len(accepted) >= self.limits["streams_max"]:
            self.answer("RESET", value["id"], ["RESPONSE"], code="REFUSED", untouched=True, reason=None)
            return
        name = f"theirs:{value['id']}"
        stream = SlowStream(name, value["head"], self.limits["window_bytes"])
        stream.receiving.step("HEAD", "END" in value["flags"])
        stream.receiving.carry(len(value["body"]))
        stream.held += len(value["body"])
        stream.arrived += len(value["body"])
        self.streams[name] = stream
        self.queues[name] = []
        self.event("opened", stream, head=value["head"], body=value["body"], end="END" in value["flags"])

    def receive_on(self, stream: SlowStream, value: Value) -> None:
        end = "END" in value["flags"]
        if value["type"] == "RESET":
            untouched = value["untouched"] and stream.ours and not stream.final_head
            code = "INTERNAL" if stream.ours and value["code"] == "CANCELLED" else value["code"]  # RPC-51
            self.event("reset", stream, code=code, untouched=untouched, reason=value["reason"])
            self.forget(stream)
            return
        if value["type"] == "WINDOW":
            if stream.sending.state != "ENDED":
                stream.sending.credit += value["credit"]
                need(self.ahead(stream) <= self.limits["window_bytes_max"], "RPC-41")
                need(self.lifted() <= self.limits["growth_bytes_max"], "RPC-41")
                self.event("credit", stream)
            return
        if value["type"] == "HEAD":
            stream.receiving.step("INFORMATIONAL" if informational(value["head"]) else "HEAD", end)
            if not informational(value["head"]):
                stream.response_head(value["head"])
                stream.final_head = True
                stream.receiving.carry(len(value["body"]))
            self.event("head", stream, head=value["head"], body=value["body"], end=end)
        elif value["type"] == "DATA":
            stream.receiving.step("DATA", end)
            stream.receiving.carry(len(value["body"]))
            self.event("data", stream, body=value["body"], end=end)
        else:
            stream.receiving.step("TRAILERS", False)
            stream.receiving.carry(0)
            self.event("trailers", stream, block=value["block"])
        stream.held += len(value.get("body", ""))
        stream.arrived += len(value.get("body", ""))
        self.end_if_complete(stream)
        if value["type"] == "DATA":
            self.count(stream, len(value["body"]))

    # How far the peer may go, and we.

    def count(self, stream: SlowStream, size: int) -> None:
        """Measure from here, these bytes included, if it is time (RPC-58, RPC-60)."""
        long_enough = stream.arrived >= self.limits["window_bytes"]
        worth_it = long_enough or self.least is None
        may_grow = stream.window < self.limits["window_bytes_max"] and self.goes_on(stream)
        if self.asked is None and self.now >= self.counted_at + self.limits["probe_s"] and worth_it and may_grow:
            self.ask()
            self.counted = (stream, stream.arrived - size) if long_enough else None
            self.counted_at = self.now

    def measured(self, seconds: float) -> None:
        self.least = seconds if self.least is None else min(seconds, self.least)
        counted, self.counted = self.counted, None
        if counted is None or not self.goes_on(counted[0]) or counted[0].held > self.limits["window_bytes"] / 2:
            return
        stream, before = counted
        arrived = stream.arrived - before
        in_the_least = arrived * (self.least / seconds if seconds else 1)
        if in_the_least * 3 < stream.window * 2:
            return
        grown = sum(map(self.grown, [*self.streams.values(), *self.gone]))
        lift = min(
            stream.window, self.limits["window_bytes_max"] - stream.window, self.limits["growth_bytes_max"] - grown
        )
        if lift > 0:
            stream.window += lift
            stream.receiving.credit += lift
            self.answer("WINDOW", stream.id, [] if stream.ours else ["RESPONSE"], credit=lift)

    def grown(self, stream: SlowStream) -> int:
        """By how much its window is more than the first one; of one that is gone, what its owner still has of that."""
        grown = stream.window - self.limits["window_bytes"]
        if stream.name in self.streams or stream.name in self.leaving:
            return grown
        return min(grown, max(0, stream.held - self.limits["window_bytes"]))

    def goes_on(self, stream: SlowStream) -> bool:
        """Whether more of its body is to come."""
        return self.streams.get(stream.name) is stream and stream.receiving.state != "ENDED"

    def ahead(self, stream: SlowStream) -> int:
        """What its owner may have us hold: credit, and what waits behind the next message."""
        behind = [value for value in self.queues.get(stream.name, [])[1:] if value["type"] in ("HEAD", "DATA")]
        credit = stream.sending.credit if stream.sending.state != "ENDED" else 0
        return credit + sum(len(value["body"]) for value in behind)

    def lifted(self) -> int:
        """What all of this is above the windows with which streams open."""
        streams = [*self.streams.values(), *self.leaving.values()]
        return sum(max(0, self.ahead(stream) - self.limits["window_bytes"]) for stream in streams)

    # What both use.

    def event(self, kind: str, stream: SlowStream, **more: Any) -> None:
        self.events.append({"event": kind, "stream": stream.name, **more})

    def answer(self, kind: str | int, ident: int, flags: list[str], **more: Any) -> None:
        self.control.append({"type": TYPES.get(kind, kind), "id": ident, "flags": flags, **more})  # type: ignore[call-overload]

    def say(self, stream: SlowStream, kind: str, end: bool, **more: Any) -> None:
        flags = ([] if stream.ours else ["RESPONSE"]) + (["END"] if end else [])
        message = {"type": kind, "id": stream.id, "flags": flags, **more}
        if not self.queues[stream.name]:  # It becomes ready now, behind the others.
            del self.queues[stream.name]
            self.allowance[stream.name] = self.limits["ahead_bytes"] - len(encode(message))
        self.queues.setdefault(stream.name, []).append(message)

    def forget(self, stream: SlowStream) -> None:
        self.gone.append(stream)
        del self.streams[stream.name]
        del self.queues[stream.name]
        self.forget_who_went_ahead()

    def end_if_complete(self, stream: SlowStream) -> None:
        if stream.sending.state == stream.receiving.state == "ENDED":
            del self.streams[stream.name]  # What is queued is still sent.
            self.gone.append(stream)
            self.leaving[stream.name] = stream
            if not self.queues[stream.name]:
                del self.queues[stream.name]
                del self.leaving[stream.name]


# The payload of the base protocol.


def split_http(payload: str) -> Value:
    """The parts of one whole HTTP/1.1 message that is framed by Content-Length, by chunks, or has no body."""
    head, blank, rest = payload.partition("\r\n\r\n")
    need(blank != "", "RPC-18")
    start, *lines = head.split("\r\n")
    fields = [(line.partition(":")[0].lower(), line.partition(":")[2].strip(" \t")) for line in lines]
    named = dict(fields)
    if named.get("transfer-encoding") == "chunked":
        body, rest = join_chunks(rest)
    else:
        size = int(named.get("content-length", "0"))
        body, rest = rest[:size], rest[size:]
        need(len(body) == size, "RPC-18")
    need(rest == "", "RPC-18")
    return {"start": start.split(" ", 2), "fields": fields, "body": body}


def join_chunks(rest: str) -> tuple[str, str]:
    body = ""
    while True:
        line, end, rest = rest.partition("\r\n")
        need(end != "", "RPC-18")
        size = int(line.partition(";")[0], 16)
        if size == 0:
            _, end, rest = ("\r\n" + rest).partition("\r\n\r\n")
            need(end != "", "RPC-18")
            return body, rest
        body += rest[:size]
        need(rest[size : size + 2] == "\r\n", "RPC-18")
        rest = rest[size + 2 :]
