"""Packets of gossip as plain values, and a slow encoder of them that was written from ``spec/gossip.md`` alone.

A value is what JSON can hold; text stands for bytes of Latin-1. ``value_of`` says what the product has read in the same
words, so that the two can be compared.
"""

from __future__ import annotations

import zlib
from typing import Any

from pico.protocol.gossip import Delta, Digest, Entry, Packet, Record, Records, Snapshot
from pico.protocol.gossip.values import Message

Value = dict[str, Any]

TYPES = {"RECORDS": 1, "DIGEST": 2, "DELTA": 3, "SNAPSHOT": 4}
RANKS = ["ALIVE", "SUSPECT", "DEAD"]


def number(value: int, size: int) -> bytes:
    return value.to_bytes(size, "big")


def name(text: str) -> bytes:
    return number(len(text), 1) + text.encode("latin-1")


def record(value: Value) -> bytes:
    state = value["rank"] if isinstance(value["rank"], int) else RANKS.index(value["rank"])
    return number(value["life"], 8) + number(state + 4 * value["left"], 1) + number(value["inc"], 4)


def entry(version: int, key: str, value: str | None) -> bytes:
    value_size = 0xFFFF if value is None else len(value)
    head = number(version, 8) + number(len(key), 2) + number(value_size, 2)
    return head + key.encode("latin-1") + (value or "").encode("latin-1")


def payload(message: Value) -> bytes:
    kind = message["type"]
    if kind == "RECORDS":
        return b"".join(name(node) + record(known) for node, known in message["records"])
    if kind == "DIGEST":
        entries = [name(node) + record(known) + number(applied, 8) for node, known, applied in message["entries"]]
        return name(message["above"]) + name(message["upto"]) + b"".join(entries)
    entries = [entry(*fields) for fields in message["entries"]]
    start = number(message["start"], 8) if kind == "DELTA" else b""
    head = name(message["node"]) + number(message["life"], 8) + start + number(message["floor"], 8)
    return head + b"".join(entries)


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


# What the product has read, in the same words.


def value_of(packet: Packet, cluster: str) -> Value:
    messages = list(map(message_value, packet.messages))
    return {"cluster": cluster, "sender": packet.sender, "life": packet.life, "messages": messages}


def record_value(known: Record) -> Value:
    return {"life": known.life, "left": known.left, "inc": known.inc, "rank": known.rank.name}


def message_value(message: Message) -> Value:
    if isinstance(message, Records):
        return {"type": "RECORDS", "records": [[node, record_value(known)] for node, known in message.records]}
    if isinstance(message, Digest):
        entries = [[node, record_value(known), applied] for node, known, applied in message.entries]
        return {"type": "DIGEST", "above": message.above, "upto": message.upto, "entries": entries}
    state: Value = {"node": message.node_id, "life": message.life, "floor": message.floor}
    state["entries"] = list(map(entry_value, message.entries))
    if isinstance(message, Delta):
        return {"type": "DELTA", "start": message.start, **state}
    assert isinstance(message, Snapshot)
    return {"type": "SNAPSHOT", **state}


def entry_value(found: Entry) -> list[Any]:
    value = None if found.value is None else found.value.decode("latin-1")
    return [found.version, found.key.decode("latin-1"), value]
