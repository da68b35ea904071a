"""Channels: any bytes, cut anywhere, changed on the way (``spec/channel.md``)."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from pico.errors import RemoteProtocolError
from pico.protocol.channel import Channel, ChannelViolation, Frames, Handshake
from tests.channel_side import begin, connect
from tests.channel_slow import Value, frame, frames, hello, side, traffic_key
from tests.rules import covers

KEY = bytes(range(32)).hex()
DIALS, DIALLED = side("a", purpose="LINK"), side("b", life=9)

modes = st.sampled_from([[], [KEY]])
payloads = st.lists(st.binary(max_size=40) | st.just(bytes(1_500)), max_size=5)
cuts = st.lists(st.integers(1, 60), max_size=12)


def sides(keys: list[str]) -> tuple[Value, Value]:
    return {**DIALS, "keys": keys}, {**DIALLED, "keys": keys}


def pieces(data: bytes, sizes: list[int]) -> Iterator[bytes]:
    for size in sizes:
        if not data:
            return
        yield data[:size]
        data = data[size:]
    yield data


def taken(frames_: Frames, data: bytes, sizes: list[int]) -> tuple[list[bytes], str]:
    """All payloads that came out, and the name of the violation."""
    got: list[bytes] = []
    try:
        for piece in pieces(data, sizes):
            got += frames_.receive_data(piece)
    except ChannelViolation as violation:
        return got + violation.frames, type(violation).__name__
    return got, ""


@covers("CHANNEL-12", "CHANNEL-13", "CHANNEL-16", "CHANNEL-17", "CHANNEL-19")
@given(modes, payloads, cuts, st.booleans())
def test_payloads_arrive_whole_and_in_order_wherever_bytes_are_cut(keys, said, sizes, from_dialler):
    near, far = connect(*sides(keys))
    sender, receiver = (near, far) if from_dialler else (far, near)
    data = b"".join(sender.frames.encode(*said))
    key = traffic_key(*sides(keys), from_dialler=from_dialler)
    assert frames(key) + data == frames(key, *said)
    assert taken(receiver.frames, data, sizes) == (said, "")


@covers("CHANNEL-1", "CHANNEL-12", "CHANNEL-19")
@given(modes, payloads, cuts, st.booleans())
def test_a_handshake_may_be_cut_anywhere(keys, said, sizes, dials):
    me, peer = sides(keys) if dials else sides(keys)[::-1]
    handshake, got, channel = begin(me), [], None
    key = traffic_key(*sides(keys), from_dialler=not dials)
    for piece in pieces(hello(peer) + frames(key, *said), sizes):
        if channel is None:
            channel = handshake.receive_data(piece, now=0.0)
            piece = channel.leftover if channel else b""
        if channel is not None:
            got += channel.frames.receive_data(piece)
    assert channel is not None and channel.node_id == peer["node"] and channel.life == peer["life"]
    assert got == said


def opens(handshake: Handshake, data: bytes, sizes: list[int]) -> Channel | None:
    """Nothing but a ``RemoteProtocolError``."""
    try:
        for piece in pieces(data, sizes):
            channel = handshake.receive_data(piece, now=0.0)
            if channel is not None:
                return channel
    except RemoteProtocolError:
        assert handshake.receive_data(b"more", now=0.0) is None
    return None


@covers("CHANNEL-2", "CHANNEL-7", "CHANNEL-12")
@given(modes, st.booleans(), st.sampled_from([0, 2, 8, 36, 44]), st.binary(max_size=120), cuts)
def test_any_bytes_are_a_hello_or_a_violation(keys, dials, kept, more, sizes):
    me, peer = sides(keys) if dials else sides(keys)[::-1]
    assert opens(begin(me), hello(peer)[:kept] + more, sizes) is None


@covers("CHANNEL-12", "CHANNEL-13")
@given(modes, st.booleans(), st.data())
def test_a_handshake_spoilt_at_one_place_does_not_open(keys, dials, data):
    me, peer = sides(keys) if dials else sides(keys)[::-1]
    whole = hello(peer) + frames(traffic_key(*sides(keys), from_dialler=not dials))
    at = data.draw(st.integers(0, len(whole) - 1))
    spoilt = whole[:at] + bytes((whole[at] ^ 1 << data.draw(st.integers(0, 7)),)) + whole[at + 1 :]
    assert opens(begin(me), spoilt, []) is None


changes: st.SearchStrategy[Value] = st.sampled_from(
    [
        {"life": 8},
        {"random": "01" * 16},
        {"versions": [1, 1]},
        {"versions": [2, 3]},
        {"node": "c"},
        {"purpose": "EXCHANGE"},
        {"wanted": ""},
        {},
    ]
)


@covers("CHANNEL-13")
@given(changes, changes)
def test_what_somebody_in_between_changes_opens_for_nobody(first, second):
    """The one in between can make checksums, and has no key; each side believes the hello that it was given."""
    dials, dialled = sides([KEY])
    dials, dialled = {**dials, "versions": [1, 3], "wanted": "b"}, {**dialled, "versions": [1, 3]}
    one, other = begin(dials), begin(dialled)
    told_dialled = {**dials, **first}
    told_dials = {**dialled, **{name: value for name, value in second.items() if name not in ("purpose", "wanted")}}
    untouched = told_dialled == dials and told_dials == dialled
    near = far = None
    try:
        other.receive_data(hello(told_dialled), now=0.0)
        answer = b"".join(other.outgoing())
        near = one.receive_data(hello(told_dials) + answer[len(hello(dialled)) :], now=0.0)
        far = other.receive_data(b"".join(one.outgoing())[len(hello(dials)) :], now=0.0)
    except RemoteProtocolError:
        assert not untouched
    if not untouched:
        assert near is None and far is None
    else:
        assert near is not None and far is not None


@covers("CHANNEL-17", "CHANNEL-20")
@given(payloads, st.lists(st.integers(0, 4), max_size=8), cuts)
def test_sealed_frames_arrive_in_their_order_or_not_at_all(said, order, sizes):
    """Frames left out, again and out of order: what comes out is the beginning of what was said."""
    _, far = connect(*sides([KEY]))
    key = traffic_key(*sides([KEY]), from_dialler=True)
    sent = [(number, said[number]) for number in order if number < len(said)]
    good = next((at for at, (number, _) in enumerate(sent) if number != at), len(sent))
    data = b"".join(frame(key, 1 + number, payload) for number, payload in sent)
    violation = "ForgedFrame" if good < len(sent) else ""
    assert taken(far.frames, data, sizes) == (said[:good], violation)


@covers("CHANNEL-15", "CHANNEL-16", "CHANNEL-17", "CHANNEL-20")
@given(modes, payloads, st.data(), cuts)
def test_frames_spoilt_at_one_place_are_a_violation_or_incomplete(keys, said, data, sizes):
    near, far = connect(*sides(keys))
    whole = b"".join(near.frames.encode(*said, b"last"))
    at = data.draw(st.integers(0, len(whole) - 1))
    spoilt = whole[:at] + bytes((whole[at] ^ 1 << data.draw(st.integers(0, 7)),)) + whole[at + 1 :]
    got, _ = taken(far.frames, spoilt, sizes)
    assert got == said[: len(got)]
    assert far.frames.receive_data(b"") == []
