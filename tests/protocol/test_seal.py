"""Rings of keys, files of keys, and what a node remembers of packets (``spec/seal.md``, Rules)."""

from __future__ import annotations

import re
from base64 import b64encode
from dataclasses import fields
from pathlib import Path

import pytest

from pico.config import GossipLimits, SealLimits
from pico.errors import ConfigError
from pico.protocol.gossip import MessageType, PacketCodec, Records
from pico.protocol.gossip.wire import encode_records
from pico.protocol.seal import (
    ClearSeal,
    Forged,
    KeyRing,
    KeySeal,
    Replayed,
    UnknownKey,
    key_id,
    parse_key_file,
)
from tests import seal_slow
from tests.rules import covers

SPEC = (Path(__file__).parents[2] / "spec" / "seal.md").read_text()

OLD, NEW = bytes(range(32)), bytes(range(32, 64))
RING = KeyRing((OLD,))


def boot_id(number: int) -> bytes:
    return bytes((number,)) * 16


def sealer(number: int = 1, ring: KeyRing = RING, cluster: str = "prod", **limits: int) -> KeySeal:
    return KeySeal(ring, cluster, boot_id(number), SealLimits(**limits))


def test_the_parameters_of_the_document_are_those_of_the_configuration() -> None:
    written = {
        name: int(default.replace(",", ""))
        for name, default in re.findall(r"^\| `(\w+)` \| .*? \| ([\d,]+) ", SPEC, re.M)
    }
    assert written == {field.name: field.default for field in fields(SealLimits)}


def test_the_file_in_the_document_is_one() -> None:
    [text] = re.findall(r"```\n(# made with.*?)```", SPEC, re.S)
    assert len(parse_key_file(text).keys) == 2


class TestKeys:
    @covers("SEAL-5")
    def test_a_key_is_called_by_its_hash(self) -> None:
        assert key_id(OLD) == seal_slow.key_id(OLD)
        assert list(KeyRing((OLD, NEW)).by_id) == [key_id(OLD), key_id(NEW)]
        assert KeyRing((NEW, OLD)).primary == NEW

    @covers("SEAL-5")
    @pytest.mark.parametrize("keys", [(), (OLD, OLD), (OLD[:31],), (OLD, NEW + b"x"), (b"",)])
    def test_a_ring_that_could_not_be_used_is_refused(self, keys: tuple[bytes, ...]) -> None:
        with pytest.raises(ConfigError) as caught:
            KeyRing(keys)
        assert caught.value.field == "cluster_keys"

    @covers("SEAL-13")
    def test_nobody_reads_a_key_in_what_is_printed(self) -> None:
        assert repr(KeyRing((OLD, NEW))) == "KeyRing()"

    @covers("SEAL-13")
    def test_a_file_has_a_key_a_line(self) -> None:
        text = f"# first\n\n  {b64encode(NEW).decode()}  # by ada\n{OLD.hex().upper()}\r\n#{NEW.hex()}\n"
        assert parse_key_file(text) == KeyRing((NEW, OLD))

    @covers("SEAL-13")
    @pytest.mark.parametrize(
        "text,place",
        [
            ("", "a file without keys"),
            ("# nothing\n", "a file without keys"),
            (f"{OLD.hex()}\nsecret\n", "line 2"),
            (f"\n{OLD.hex()[:-2]}", "line 2"),
            (f"{OLD.hex()}00", "line 1"),
            (b64encode(OLD[:-1]).decode(), "line 1"),
            (b64encode(OLD).decode().rstrip("="), "line 1"),
            (b64encode(OLD).decode()[:20] + " " + b64encode(OLD).decode()[20:], "line 1"),
            (f"{OLD.hex()} {NEW.hex()}", "line 1"),
            (f"{OLD.hex()}\n{b64encode(OLD).decode()}", "line 2"),
            ("schlüssel", "line 1"),
        ],
    )
    def test_anything_else_is_refused_by_its_line(self, text: str, place: str) -> None:
        with pytest.raises(ConfigError) as caught:
            parse_key_file(text)
        assert caught.value.field == "cluster_key_file" and caught.value.value == place
        assert "secret" not in str(caught.value)


class TestSealing:
    @covers("SEAL-1", "SEAL-4")
    def test_each_packet_takes_the_next_counter_whatever_the_key(self) -> None:
        one = sealer(1)
        packets = [one.seal(b"a"), one.seal(b"b")]
        one.rotate(KeyRing((NEW, OLD)))
        packets.append(one.seal(b"c"))
        keys = (OLD, OLD, NEW)
        assert packets == [
            seal_slow.sealed(key, "prod", boot_id(1), count, body)
            for count, (key, body) in enumerate(zip(keys, (b"a", b"b", b"c"), strict=True))
        ]

    @covers("SEAL-2", "SEAL-4")
    def test_two_processes_never_encrypt_alike(self) -> None:
        one, other = sealer(1).seal(b"hello"), sealer(2).seal(b"hello")
        assert one[32:] != other[32:]

    @covers("SEAL-6", "SEAL-12")
    def test_keys_are_added_promoted_and_removed_without_a_packet_lost(self) -> None:
        one, other = sealer(1), sealer(2)
        for ring in (KeyRing((OLD, NEW)), KeyRing((NEW, OLD)), KeyRing((NEW,))):
            one.rotate(ring)
            assert other.open(one.seal(b"from one")) == b"from one"
            assert one.open(other.seal(b"from other")) == b"from other"
            other.rotate(ring)
            assert other.open(one.seal(b"from one")) == b"from one"
            assert one.open(other.seal(b"from other")) == b"from other"

    @covers("SEAL-6")
    def test_a_key_that_was_removed_is_unknown(self) -> None:
        one, other = sealer(1), sealer(2)
        other.open(one.seal(b"x"))
        other.rotate(KeyRing((NEW,)))
        with pytest.raises(UnknownKey):
            other.open(one.seal(b"x"))

    @covers("SEAL-12")
    def test_a_new_ring_does_not_make_old_packets_new(self) -> None:
        one, other = sealer(1), sealer(2)
        packet = one.seal(b"x")
        other.open(packet)
        other.rotate(KeyRing((NEW, OLD)))
        with pytest.raises(Replayed):
            other.open(packet)


class TestRemembering:
    @covers("SEAL-8", "SEAL-9")
    def test_what_is_forged_does_not_move_the_window(self) -> None:
        one, other = sealer(1), sealer(2)
        first = one.seal(b"first")
        forged = seal_slow.sealed(OLD, "prod", boot_id(1), 10**9, b"x")[:-1] + b"?"
        for _ in range(2):
            with pytest.raises(Forged):
                other.open(forged)
        assert other.open(first) == b"first"

    @covers("SEAL-8", "SEAL-11")
    def test_what_is_forged_pushes_nobody_out(self) -> None:
        one, other = sealer(1), sealer(2, senders_max=2)
        packet = one.seal(b"x")
        other.open(packet)
        for number in range(3, 9):
            with pytest.raises(Forged):
                other.open(sealer(number).seal(b"x")[:-1] + b"?")
        other.open(sealer(9).seal(b"x"))
        with pytest.raises(Replayed):
            other.open(packet)

    @covers("SEAL-11")
    def test_who_was_silent_for_the_longest_is_forgotten_first(self) -> None:
        one, two, three, me = sealer(1), sealer(2), sealer(3), sealer(4, senders_max=2)
        early, kept = one.seal(b"1"), two.seal(b"2")
        me.open(kept)
        me.open(early)
        me.open(two.seal(b"2"))
        me.open(three.seal(b"3"))
        with pytest.raises(Replayed):
            me.open(kept)
        assert me.open(early) == b"1", "remembered no more, which is the price of the bound"

    @covers("SEAL-11")
    def test_an_old_packet_keeps_nobody_remembered(self) -> None:
        one, two, three, me = sealer(1), sealer(2), sealer(3), sealer(4, senders_max=2)
        early, kept = one.seal(b"1"), two.seal(b"2")
        me.open(early)
        me.open(kept)
        with pytest.raises(Replayed):
            me.open(early)
        me.open(three.seal(b"3"))
        with pytest.raises(Replayed):
            me.open(kept)

    @covers("SEAL-9")
    @pytest.mark.parametrize("window", [1, 2, 64])
    def test_the_window_is_as_wide_as_it_says(self, window: int) -> None:
        me = sealer(2, window_counters=window)
        for counter in (100, *range(99, 100 - window, -1)):
            me.open(seal_slow.sealed(OLD, "prod", boot_id(1), counter, b""))
        with pytest.raises(Replayed):
            me.open(seal_slow.sealed(OLD, "prod", boot_id(1), 100 - window, b""))


def test_a_packet_with_a_seal_has_room_for_it() -> None:
    plain = PacketCodec("prod", "a", GossipLimits())
    codec = PacketCodec("prod", "a", GossipLimits(), sealer(1))
    assert codec.envelope_bytes - plain.envelope_bytes == KeySeal.overhead_bytes - ClearSeal.overhead_bytes == 40
    messages = [(MessageType.RECORDS, encode_records(Records(())))]
    packet, body = codec.encode(7, messages), codec.encode_body(7, messages)
    assert len(packet) == codec.envelope_bytes + 5 == len(body) + KeySeal.overhead_bytes
    reader = PacketCodec("prod", "b", GossipLimits(), sealer(2))
    assert reader.decode(packet) == plain.decode(plain.encode(7, messages)) == reader.decode_body(body)
