"""Envelopes: any bytes, any order, and nothing twice (``spec/seal.md``)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pico.config import SealLimits
from pico.errors import RemoteProtocolError
from pico.protocol.seal import ClearSeal, Forged, KeyRing, KeySeal, Replayed
from tests.gossip_slow import envelope
from tests.rules import covers
from tests.seal_slow import key_id, sealed

KEYS = (bytes(range(32)), bytes(range(32, 64)))
RING = KeyRing(KEYS)

bodies = st.binary(max_size=60)
boot_ids = st.integers(2, 9).map(lambda number: bytes((number,)) * 16)


def reader(ring: KeyRing = RING, **limits: int) -> KeySeal:
    return KeySeal(ring, "prod", b"\x01" * 16, SealLimits(**limits))


@covers("SEAL-1", "SEAL-2", "SEAL-3", "SEAL-4")
@given(boot_ids, st.lists(bodies, max_size=4), st.sampled_from([RING, KeyRing(KEYS[::-1])]))
def test_what_is_sealed_is_what_is_opened_and_what_the_document_says(boot_id, said, ring):
    writer, opener = KeySeal(ring, "prod", boot_id), reader()
    for counter, body in enumerate(said):
        packet = writer.seal(body)
        assert packet == sealed(ring.primary, "prod", boot_id, counter, body)
        assert len(packet) == len(body) + writer.overhead_bytes
        assert opener.open(packet) == body
        assert ClearSeal().seal(body) == envelope(body)
        assert ClearSeal().open(envelope(body)) == body


@covers("SEAL-3", "SEAL-8")
@given(bodies, st.data())
def test_a_packet_spoilt_at_one_place_is_refused_and_changes_nothing(body, data):
    for packet, opener in ((sealed(KEYS[0], "prod", b"\x02" * 16, 7, body), reader()), (envelope(body), ClearSeal())):
        at = data.draw(st.integers(0, len(packet) - 1))
        bit = 1 << data.draw(st.integers(0, 7))
        for spoilt in (packet[:at] + bytes((packet[at] ^ bit,)) + packet[at + 1 :], packet[:at]):
            try:
                opener.open(spoilt)
            except RemoteProtocolError:
                pass
            else:
                raise AssertionError("spoilt, and nobody saw it")
        assert opener.open(packet) == body


STARTS = [b"", b"pg", b"pg\x01", b"pg\x01\x00", b"pg\x01\x01", b"pg\x01\x01" + key_id(KEYS[0])]


@covers("SEAL-7", "SEAL-8")
@given(st.sampled_from(STARTS), st.binary(max_size=80))
def test_any_bytes_are_a_violation(start, more):
    for opener in (reader(), ClearSeal()):
        try:
            opener.open(start + more)
        except RemoteProtocolError:
            continue
        raise AssertionError("bytes that nobody sealed were opened")


counters = st.integers(0, 40) | st.integers(2**64 - 20, 2**64 - 1)


@covers("SEAL-9", "SEAL-11")
@given(
    st.integers(1, 16),
    st.integers(1, 3),
    st.lists(st.tuples(boot_ids, counters, st.sampled_from(KEYS), st.booleans()), max_size=30),
)
def test_a_packet_is_taken_as_a_model_says(window, senders_max, packets):
    """The model: for each process, the last heard first, the set of all counters that were taken."""
    opener = reader(window_counters=window, senders_max=senders_max)
    taken: dict[bytes, set[int]] = {}
    for boot_id, counter, key, whole in packets:
        packet = sealed(key, "prod", boot_id, counter, b"x")
        known = taken.get(boot_id, set())
        fresh = counter not in known and counter > max(known, default=counter) - window
        try:
            opener.open(packet if whole else packet[:-1] + bytes((packet[-1] ^ 1,)))
            outcome = "taken"
        except (Forged, Replayed) as refused:
            outcome = type(refused).__name__
        assert outcome == (("taken" if fresh else "Replayed") if whole else "Forged")
        if outcome == "taken":
            taken.pop(boot_id, None)
            taken[boot_id] = known | {counter}
            if len(taken) > senders_max:
                del taken[next(iter(taken))]


@given(st.randoms(use_true_random=False), st.integers(2, 6))
def test_keys_are_changed_node_by_node_in_any_order_and_no_two_lose_each_other(rng, count):
    """Added below, moved up, removed: each step ends everywhere before the next begins, as the operator is told.

    S18 and L11 of the cluster's promises: nothing that is said on the way is lost, and all end with the new key.
    """
    old, new = KEYS
    nodes = [KeySeal(KeyRing((old,)), "prod", bytes((number + 1,)) * 16) for number in range(count)]
    for ring in (KeyRing((old, new)), KeyRing((new, old)), KeyRing((new,))):
        for node in rng.sample(nodes, count):
            node.rotate(ring)
            for writer in nodes:
                for opener in nodes:
                    if opener is not writer:
                        assert opener.open(writer.seal(b"said")) == b"said"
    assert all(key_id(new) in node.seal(b"") for node in nodes)
