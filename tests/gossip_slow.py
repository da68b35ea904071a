"""Packets of gossip as plain values, and a slow encoder and decoder of them, written from ``spec/gossip.md`` alone.

A value is what JSON can hold; text stands for bytes of Latin-1. ``value_of`` says what the product has read in the same
words, so that the two can be compared; ``decode`` reads the bytes without the product.
"""

from __future__ import annotations

import hashlib
import zlib
from typing import Any

from pico.protocol.gossip import Delta, Digest, Entry, Packet, Record, Records, Snapshot
from pico.protocol.gossip.values import Ack, Message, Nack, Ping, PingRequest, Push, Pushed, Summary

Value = dict[str, Any]

TYPES = {
    "RECORDS": 1,
    "DIGEST": 2,
    "DELTA": 3,
    "SNAPSHOT": 4,
    "SUMMARY": 5,
    "PING": 6,
    "ACK": 7,
    "PING_REQUEST": 8,
    "NACK": 9,
    "PUSH": 10,
    "PUSHED": 11,
}
RANKS = ["ALIVE", "SUSPECT", "DEAD"]
HEARSAY = 8
WITNESSED = 16


# Values to bytes.


def number(value: int, size: int) -> bytes:
    return value.to_bytes(size, "big")


def name(text: str) -> bytes:
    return number(len(text), 1) + text.encode("latin-1")


def record(value: Value, flag: int = 0) -> bytes:
    state = value["rank"] if isinstance(value["rank"], int) else RANKS.index(value["rank"])
    return number(value["life"], 8) + number(state + 4 * value["left"] + flag, 1) + number(value["inc"], 4)


def entry(version: int, key: str, value: str | None) -> bytes:
    value_size = 0xFFFF if value is None else len(value)
    head = number(version, 8) + number(len(key), 2) + number(value_size, 2)
    return head + key.encode("latin-1") + (value or "").encode("latin-1")


def payload(message: Value) -> bytes:
    kind = message["type"]
    if kind == "RECORDS":
        return b"".join(
            name(node) + record(known, WITNESSED * (node in message["witnessed"])) for node, known in message["records"]
        )
    if kind == "DIGEST":
        return (
            name(message["above"])
            + name(message["upto"])
            + b"".join(
                name(node) + record(known, HEARSAY * hearsay) + number(applied, 8)
                for node, known, applied, hearsay in message["entries"]
            )
        )
    if kind == "SUMMARY":
        return b"".join(name(above) + name(upto) + number(hash_, 8) for above, upto, hash_ in message["parts"])
    if kind in ("DELTA", "SNAPSHOT"):
        return state(message, kind == "DELTA")
    head = number(message["sequence"], 4)
    if kind == "PUSH":
        return head + name(message["above"]) + name(message["upto"]) + state(message, True)
    if kind == "PUSHED":
        return head + number(message["life"], 8) + number(message["applied"], 8)
    if kind == "NACK":
        return head
    head += name(message["node"])
    if kind == "ACK":
        return head + number(message["life"], 8)
    return head + name(message["host"]) + number(message["port"], 2) if kind == "PING_REQUEST" else head


def state(message: Value, is_delta: bool) -> bytes:
    start = number(message["start"], 8) if is_delta else b""
    head = name(message["node"]) + number(message["life"], 8) + start + number(message["floor"], 8)
    return head + b"".join(entry(*fields) for fields in message["entries"])


def summary_hash(nodes: list[list[Any]], above: str, upto: str) -> int:
    """The hash of a range; a node is what stands in a digest."""
    total = 0
    for node, known, applied, _ in nodes:
        if above < node and (node <= upto or not upto) and not known["left"] and known["rank"] != "DEAD":
            told = name(node) + record(known) + number(applied, 8)
            total += int.from_bytes(hashlib.blake2b(told, digest_size=8).digest(), "big")
    return total % 2**64


def section(message: Value) -> bytes:
    if "payload" in message:
        body, type_ = bytes.fromhex(message["payload"]), message["type"]
    else:
        body, type_ = payload(message), TYPES[message["type"]]
    return number(type_, 1) + number(len(body), 4) + body


def envelope(body: bytes, *, magic: bytes = b"pg", version: int = 1, flags: int = 0) -> bytes:
    head = magic + bytes((version, flags))
    return head + number(zlib.crc32(head + body), 4) + body


def encode(value: Value) -> bytes:
    names = name(value["cluster"]) + name(value["sender"]) + number(value["life"], 8)
    return envelope(names + b"".join(map(section, value["messages"])))


# Bytes to values, of packets that break no rule: slow, and without a thought for what an attacker sends.


class Bytes:
    """What is left to read."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def take(self, size: int) -> bytes:
        assert size <= len(self.data), "past the end"
        taken, self.data = self.data[:size], self.data[size:]
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def name(self) -> str:
        return self.take(self.number(1)).decode("latin-1")

    def record(self) -> tuple[Value, int]:
        """The record, and the flags beside its state."""
        life, state, inc = self.number(8), self.number(1), self.number(4)
        return {"life": life, "left": bool(state & 4), "inc": inc, "rank": RANKS[state & 3]}, state & ~7

    def entries(self) -> list[list[Any]]:
        found = []
        while self.data:
            version, key_size, value_size = self.number(8), self.number(2), self.number(2)
            key = self.take(key_size).decode("latin-1")
            found.append([version, key, None if value_size == 0xFFFF else self.take(value_size).decode("latin-1")])
        return found


def decode(data: bytes) -> Value:
    """The value of a packet; messages of unknown types are left out."""
    assert data[:4] == b"pg\x01\x00" and number(zlib.crc32(data[:4] + data[8:]), 4) == data[4:8]
    left = Bytes(data[8:])
    value: Value = {"cluster": left.name(), "sender": left.name(), "life": left.number(8), "messages": []}
    kinds = {number: kind for kind, number in TYPES.items()}
    while left.data:
        kind, body = kinds.get(left.number(1)), left.take(left.number(4))
        if kind is not None:
            value["messages"].append({"type": kind, **fields_of(kind, Bytes(body))})
    return value


def fields_of(kind: str, left: Bytes) -> Value:
    if kind == "RECORDS":
        records, witnessed = [], []
        while left.data:
            node, (known, flags) = left.name(), left.record()
            records.append([node, known])
            witnessed += [node] * (flags == WITNESSED)
        return {"records": records, "witnessed": sorted(set(witnessed))}
    if kind == "DIGEST":
        value: Value = {"above": left.name(), "upto": left.name(), "entries": []}
        while left.data:
            node, (known, flags) = left.name(), left.record()
            value["entries"].append([node, known, left.number(8), flags == HEARSAY])
        return value
    if kind == "SUMMARY":
        parts = []
        while left.data:
            parts.append([left.name(), left.name(), left.number(8)])
        return {"parts": parts}
    if kind in ("DELTA", "SNAPSHOT"):
        return state_of(left, kind == "DELTA")
    sequence = {"sequence": left.number(4)}
    if kind == "PUSH":
        return sequence | {"above": left.name(), "upto": left.name()} | state_of(left, True)
    if kind == "PUSHED":
        return sequence | {"life": left.number(8), "applied": left.number(8)}
    if kind == "NACK":
        return sequence
    named = sequence | {"node": left.name()}
    if kind == "ACK":
        return named | {"life": left.number(8)}
    return named if kind == "PING" else named | {"host": left.name(), "port": left.number(2)}


def state_of(left: Bytes, is_delta: bool) -> Value:
    value: Value = {"node": left.name(), "life": left.number(8)}
    if is_delta:
        value["start"] = left.number(8)
    return value | {"floor": left.number(8), "entries": left.entries()}


# What the product has read, in the same words.


def value_of(packet: Packet, cluster: str) -> Value:
    messages = list(map(message_value, packet.messages))
    return {"cluster": cluster, "sender": packet.sender, "life": packet.life, "messages": messages}


def record_value(known: Record) -> Value:
    return {"life": known.life, "left": known.left, "inc": known.inc, "rank": known.rank.name}


def message_value(message: Message) -> Value:
    if isinstance(message, Records):
        records = [[node, record_value(known)] for node, known in message.records]
        return {"type": "RECORDS", "records": records, "witnessed": sorted(message.witnessed)}
    if isinstance(message, Digest):
        entries = [[one.node_id, record_value(one.record), one.applied, one.hearsay] for one in message.entries]
        return {"type": "DIGEST", "above": message.above, "upto": message.upto, "entries": entries}
    if isinstance(message, Summary):
        return {"type": "SUMMARY", "parts": [[*range_, hash_] for range_, hash_ in message.parts]}
    if isinstance(message, Delta):
        return {"type": "DELTA", "start": message.start, **state_value(message)}
    if isinstance(message, Snapshot):
        return {"type": "SNAPSHOT", **state_value(message)}
    head = {"sequence": message.sequence}
    if isinstance(message, Push):
        above, upto = message.range
        delta = {"start": message.delta.start, **state_value(message.delta)}
        return {"type": "PUSH", **head, "above": above, "upto": upto, **delta}
    if isinstance(message, Pushed):
        return {"type": "PUSHED", **head, "life": message.life, "applied": message.applied}
    if isinstance(message, Nack):
        return {"type": "NACK", **head}
    if isinstance(message, Ack):
        return {"type": "ACK", **head, "node": message.node_id, "life": message.life}
    if isinstance(message, PingRequest):
        host, port = message.address
        return {"type": "PING_REQUEST", **head, "node": message.node_id, "host": host, "port": port}
    assert isinstance(message, Ping)
    return {"type": "PING", **head, "node": message.node_id}


def state_value(message: Delta | Snapshot) -> Value:
    entries = list(map(entry_value, message.entries))
    return {"node": message.node_id, "life": message.life, "floor": message.floor, "entries": entries}


def entry_value(found: Entry) -> list[Any]:
    value = None if found.value is None else found.value.decode("latin-1")
    return [found.version, found.key.decode("latin-1"), value]
