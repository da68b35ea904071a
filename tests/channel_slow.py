"""Hellos, keys and frames of a channel, slowly: written from ``spec/channel.md`` alone.

A side is a plain value: cluster, node, life, random (hexadecimal), and where it has them keys (hexadecimal, the primary
one first), versions, purpose, wanted. Nothing is shared with the product.
"""

from __future__ import annotations

import hashlib
import zlib
from typing import Any

from tests.gossip_slow import name, number
from tests.seal_slow import gcm, hkdf, key_id

Value = dict[str, Any]

PURPOSES = {None: 0, "EXCHANGE": 1, "LINK": 2}


def side(node: str = "a", **more: Any) -> Value:
    """A node of the cluster ``prod`` that says nothing unusual."""
    return {"cluster": "prod", "node": node, "life": 7, "random": node.encode().hex().ljust(32, "0"), **more}


def hello(said: Value, *, magic: bytes = b"pc", flags: int | None = None, more: bytes = b"") -> bytes:
    """A hello; what no node says can be said too."""
    keys = said.get("keys", [])
    lowest, highest = said.get("versions", [1, 1])
    purpose = said.get("purpose")
    fields = bytes.fromhex(said["random"]) + (key_id(bytes.fromhex(keys[0])) if keys else bytes(4))
    fields += number(said["life"], 8) + name(said["cluster"]) + name(said["node"]) + name(said.get("wanted", "")) + more
    if flags is None:
        flags = 1 if keys else 0
    purpose = purpose if isinstance(purpose, int) else PURPOSES[purpose]
    head = magic + bytes((lowest, highest, flags, purpose)) + number(len(fields) + 4, 2)
    return head + fields + number(zlib.crc32(head + fields), 4)


def traffic_key(dials: Value, dialled: Value, *, from_dialler: bool, version: int = 1) -> bytes | None:
    """The key of one direction; None in the clear."""
    sender = dials if from_dialler else dialled
    if not sender.get("keys"):
        return None
    hellos = hashlib.sha256(hello(dials) + hello(dialled)).digest()
    info = b"pico channel" + bytes((version,)) + hellos + bytes((0 if from_dialler else 1,))
    return hkdf(bytes.fromhex(sender["keys"][0]), info)


def frame(key: bytes | None, count: int, payload: bytes) -> bytes:
    """The frame with this number in its direction."""
    if key is None:
        return number(len(payload), 4) + number(zlib.crc32(payload), 4) + payload
    return number(len(payload), 4) + gcm(key, bytes(4) + number(count, 8), payload, b"")


def frames(key: bytes | None, *payloads: bytes) -> bytes:
    """A confirmation and then these."""
    return b"".join(frame(key, count, payload) for count, payload in enumerate((b"", *payloads)))
