"""Every vector of ``spec/vectors/gossip_*.json``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pico.config import GossipLimits
from pico.errors import RemoteProtocolError
from pico.protocol.gossip import (
    Delta,
    Entry,
    ForeignCluster,
    MessageType,
    OtherVersion,
    PacketCodec,
    Rank,
    Record,
    Records,
    Replica,
)
from pico.protocol.gossip.values import Range, Snapshot
from pico.protocol.gossip.wire import encode_message
from tests.gossip_side import Side
from tests.gossip_slow import TYPES, Value, decode, encode, entry_value, payload, summary_hash, value_of
from tests.rules import covers

VECTORS = Path(__file__).parents[2] / "spec" / "vectors"


def load(name: str) -> list[Value]:
    vectors: list[Value] = json.loads((VECTORS / name).read_text())["vectors"]
    return vectors


PACKETS = load("gossip_packets.json")
COPIES = load("gossip_copies.json")
SUMMARIES = load("gossip_summaries.json")
KINDS = {"version": OtherVersion, "cluster": ForeignCluster, "violation": RemoteProtocolError}


NEWER = {"unknown", "skipped"}
"""Vectors of packets that only a later revision writes."""


def name_of(vector: Value) -> str:
    return vector["name"].replace(" ", "-")


def codec(cluster: str = "prod", node_id: str = "a") -> PacketCodec:
    return PacketCodec(cluster, node_id, GossipLimits())


def test_vectors_have_names_of_their_own_and_name_their_rules() -> None:
    for vectors in (PACKETS, COPIES, SUMMARIES):
        assert len({vector["name"] for vector in vectors}) == len(vectors)
        assert all(vector["rules"] for vector in vectors)


@pytest.mark.parametrize("vector", [v for v in PACKETS if "value" in v], ids=name_of)
@covers("GOSSIP-3", "GOSSIP-4", "GOSSIP-10", "GOSSIP-12", "GOSSIP-24", "GOSSIP-28", "GOSSIP-29", "GOSSIP-30")
@covers("GOSSIP-32", "GOSSIP-49", "GOSSIP-52", "GOSSIP-53", "GOSSIP-54")
def test_a_packet_is_read(vector: Value) -> None:
    value = vector["value"]
    packet = codec(value["cluster"]).decode(bytes.fromhex(vector["bytes"]))
    assert value_of(packet, value["cluster"]) == value
    assert packet.unknown == vector.get("unknown", 0)
    assert decode(bytes.fromhex(vector["bytes"])) == value


@pytest.mark.parametrize("vector", [v for v in PACKETS if "value" in v and not NEWER & v.keys()], ids=name_of)
@covers("GOSSIP-12", "GOSSIP-24", "GOSSIP-53", "GOSSIP-54")
def test_a_packet_is_written(vector: Value) -> None:
    value, data = vector["value"], bytes.fromhex(vector["bytes"])
    assert encode(value) == data
    node = codec(value["cluster"], value["sender"])
    messages = list(map(encode_message, node.decode(data).messages))
    assert [type_.name for type_, _ in messages] == [message["type"] for message in value["messages"]]
    assert node.encode(value["life"], messages) == data


def test_messages_have_the_numbers_of_the_document() -> None:
    assert {type_.name: type_.value for type_ in MessageType} == TYPES
    assert {vector_type for vector in PACKETS if "value" in vector for vector_type in types_in(vector)} == set(TYPES)


def types_in(vector: Value) -> list[str]:
    return [message["type"] for message in vector["value"]["messages"]]


@pytest.mark.parametrize("vector", [v for v in PACKETS if "violation" in v], ids=name_of)
@covers("GOSSIP-24", "GOSSIP-25", "GOSSIP-26", "GOSSIP-27", "GOSSIP-29", "GOSSIP-30", "GOSSIP-31", "GOSSIP-32")
@covers("GOSSIP-49")
def test_a_violation_raises(vector: Value) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        codec().decode(bytes.fromhex(vector["bytes"]))
    assert type(caught.value) is KINDS[vector["violation"]]


def copy_of(value: Value) -> Replica:
    replica = Replica(value["life"])
    replica.applied, replica.floor = value["applied"], value["floor"]
    replica.entries = {entry.key: entry for entry in map(entry_of, value["entries"])}
    return replica


def entry_of(fields: list[object]) -> Entry:
    version, key, value = fields
    assert isinstance(version, int) and isinstance(key, str)
    return Entry(version, key.encode(), value.encode() if isinstance(value, str) else None)


def copy_value(replica: Replica) -> Value:
    entries = list(map(entry_value, replica.entries.values()))
    return {"life": replica.life, "applied": replica.applied, "floor": replica.floor, "entries": entries}


@pytest.mark.parametrize("vector", COPIES, ids=name_of)
@covers("GOSSIP-6", "GOSSIP-7", "GOSSIP-12", "GOSSIP-15", "GOSSIP-16", "GOSSIP-17", "GOSSIP-18")
def test_a_copy_takes_what_it_is_sent(vector: Value) -> None:
    replica = copy_of(vector["copy"])
    for step in vector["steps"]:
        received = step["receive"]
        # As it comes from the wire, so that no vector speaks of a message that could not.
        message_type = MessageType[received["type"]]
        [message] = codec().decode(codec().encode(1, [(message_type, payload(received))])).messages
        if isinstance(message, Delta):
            outcome = replica.apply_delta(message)
        else:
            assert isinstance(message, Snapshot)
            outcome = replica.apply_snapshot(message)
        assert outcome.name == step["outcome"]
        assert copy_value(replica) == step["copy"]


@pytest.mark.parametrize("vector", SUMMARIES, ids=name_of)
@covers("GOSSIP-54", "GOSSIP-53")
def test_a_range_has_its_hash(vector: Value) -> None:
    side = Side("0")
    for node, known, applied, hearsay in vector["nodes"]:
        record = Record(known["life"], known["left"], known["inc"], Rank[known["rank"]])
        delta = Delta(node, record.life, 0, 0, (Entry(applied or 1, b"k", b"v"),))
        said = [Records(((node, record),)), *([delta] if applied else [])]
        side.hear("00", *said) if hearsay else side.hear(node, *said, life=record.life)
    above, upto = vector["above"], vector["upto"]
    expected = int(vector["hash"], 16)
    assert summary_hash(vector["nodes"], above, upto) == expected
    # The member itself and who spoke of others stand before "1".
    speakers = side.table.summary(Range("", "1")) if not above else 0
    assert (side.table.summary(Range(above, upto)) - speakers) % 2**64 == expected
