"""Every vector of ``spec/vectors/seal.json``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pico.errors import RemoteProtocolError
from pico.protocol.seal import (
    ClearSeal,
    Forged,
    KeyRing,
    KeySeal,
    NoKey,
    OtherVersion,
    Replayed,
    Seal,
    UnknownKey,
    Unsealed,
)
from tests.gossip_slow import envelope
from tests.rules import covers
from tests.seal_slow import sealed

Value = dict[str, Any]

VECTORS: list[Value] = json.loads((Path(__file__).parents[2] / "spec" / "vectors" / "seal.json").read_text())["vectors"]
OWN_BOOT_ID = b"\x11" * 16
KINDS = {
    "violation": RemoteProtocolError,
    "version": OtherVersion,
    "unsealed": Unsealed,
    "no key": NoKey,
    "unknown key": UnknownKey,
    "forged": Forged,
    "replayed": Replayed,
}


def name_of(vector: Value) -> str:
    return vector["name"].replace(" ", "-")


def seal_of(vector: Value) -> Seal:
    keys = tuple(map(bytes.fromhex, vector["keys"]))
    return KeySeal(KeyRing(keys), "prod", OWN_BOOT_ID) if keys else ClearSeal()


def test_vectors_have_names_of_their_own_and_name_their_rules() -> None:
    assert len({vector["name"] for vector in VECTORS}) == len(VECTORS)
    assert all(vector["rules"] for vector in VECTORS)


@covers("GOSSIP-24", "GOSSIP-25", "GOSSIP-26", "GOSSIP-30")
@covers("SEAL-2", "SEAL-3", "SEAL-6", "SEAL-7", "SEAL-8", "SEAL-9", "SEAL-10")
@pytest.mark.parametrize("vector", VECTORS, ids=name_of)
def test_packets_are_opened_or_refused(vector: Value) -> None:
    seal = seal_of(vector)
    for packet in vector["packets"]:
        data = bytes.fromhex(packet["bytes"])
        if "body" in packet:
            assert seal.open(data) == bytes.fromhex(packet["body"])
        else:
            with pytest.raises(RemoteProtocolError) as caught:
                seal.open(data)
            assert type(caught.value) is KINDS[packet["violation"]]


@covers("SEAL-1", "SEAL-2", "SEAL-3")
@pytest.mark.parametrize("vector", VECTORS, ids=name_of)
def test_packets_are_what_the_document_says(vector: Value) -> None:
    for packet in vector["packets"]:
        if "seal" in packet:
            said, body = packet["seal"], bytes.fromhex(packet["body"])
            key, boot_id = bytes.fromhex(said["key"]), bytes.fromhex(said["boot_id"])
            assert sealed(key, "prod", boot_id, said["counter"], body).hex() == packet["bytes"]
        elif "body" in packet:
            assert ClearSeal().seal(bytes.fromhex(packet["body"])).hex() == packet["bytes"]
            assert envelope(bytes.fromhex(packet["body"])).hex() == packet["bytes"]
