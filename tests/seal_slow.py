"""AES-256-GCM, HKDF and the sealed packet, slowly: written from FIPS 197, SP 800-38D, RFC 5869 and ``spec/seal.md``.

Nothing here is shared with the product: a key of traffic or a nonce that is derived otherwise there opens nothing here.
"""

from __future__ import annotations

import hashlib
import hmac

Block = list[int]


def number(value: int, size: int) -> bytes:
    return value.to_bytes(size, "big")


def hkdf(key: bytes, info: bytes) -> bytes:
    """32 bytes: one round of RFC 5869 without a salt."""
    extracted = hmac.digest(bytes(32), key, "sha256")
    return hmac.digest(extracted, info + b"\x01", "sha256")


# AES-256 (FIPS 197), encryption only: GCM needs no more.


def doubled(byte: int) -> int:
    return (byte << 1) ^ (0x11B if byte & 0x80 else 0)


def multiplied(one: int, other: int) -> int:
    product = 0
    while other:
        product ^= one if other & 1 else 0
        one, other = doubled(one), other >> 1
    return product


def substituted(byte: int) -> int:
    inverse = next((other for other in range(256) if multiplied(byte, other) == 1), 0)
    rotated = inverse
    for shift in range(1, 5):
        rotated ^= (inverse << shift | inverse >> (8 - shift)) & 0xFF
    return rotated ^ 0x63


SBOX = [substituted(byte) for byte in range(256)]


def round_keys(key: bytes) -> list[Block]:
    words = [list(key[at : at + 4]) for at in range(0, 32, 4)]
    rcon = 1
    for index in range(8, 60):
        word = words[-1]
        if index % 8 == 0:
            word = [SBOX[byte] for byte in word[1:] + word[:1]]
            word[0] ^= rcon
            rcon = doubled(rcon)
        elif index % 8 == 4:
            word = [SBOX[byte] for byte in word]
        words.append([one ^ other for one, other in zip(words[index - 8], word, strict=True)])
    return [[byte for word in words[at : at + 4] for byte in word] for at in range(0, 60, 4)]


def mixed(column: Block) -> Block:
    a, b, c, d = column
    all_of = a ^ b ^ c ^ d
    pairs = ((a, b), (b, c), (c, d), (d, a))
    return [one ^ all_of ^ doubled(one ^ other) for one, other in pairs]


def aes(keys: list[Block], block: bytes) -> bytes:
    state = [one ^ other for one, other in zip(block, keys[0], strict=True)]
    for number_of_round in range(1, 15):
        state = [SBOX[state[(at + 4 * (at % 4)) % 16]] for at in range(16)]
        if number_of_round < 14:
            state = [byte for at in range(0, 16, 4) for byte in mixed(state[at : at + 4])]
        state = [one ^ other for one, other in zip(state, keys[number_of_round], strict=True)]
    return bytes(state)


# GCM (SP 800-38D), with nonces of 12 bytes.


def product(one: int, other: int) -> int:
    result = 0
    for bit in range(127, -1, -1):
        if one >> bit & 1:
            result ^= other
        other = (other >> 1) ^ (0xE1 << 120 if other & 1 else 0)
    return result


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 16)


def gcm(key: bytes, nonce: bytes, plain: bytes, known: bytes) -> bytes:
    """Ciphertext and tag."""
    keys = round_keys(key)
    stream = b"".join(aes(keys, nonce + number(count, 4)) for count in range(2, 3 + len(plain) // 16))
    secret = bytes(one ^ other for one, other in zip(plain, stream, strict=False))
    subkey = int.from_bytes(aes(keys, bytes(16)))
    hashed = 0
    whole = padded(known) + padded(secret) + number(len(known) * 8, 8) + number(len(secret) * 8, 8)
    for at in range(0, len(whole), 16):
        hashed = product(hashed ^ int.from_bytes(whole[at : at + 16]), subkey)
    tag = hashed ^ int.from_bytes(aes(keys, nonce + number(1, 4)))
    return secret + number(tag, 16)


def key_id(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()[:4]


# Packets (``spec/seal.md``, Bytes).


def sealed(
    key: bytes, cluster: str, boot_id: bytes, counter: int, body: bytes, *, version: int = 1, flags: int = 1
) -> bytes:
    header = b"pg" + bytes((version, flags)) + key_id(key) + boot_id + number(counter, 8)
    traffic = hkdf(key, b"pico packet" + bytes((version,)) + boot_id + cluster.encode())
    return header + gcm(traffic, bytes(4) + number(counter, 8), body, header + cluster.encode())
