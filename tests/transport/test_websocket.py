"""WebSocket frames: examples per rule, any cut, any bytes, and two other implementations."""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from websockets.exceptions import PayloadTooBig, ProtocolError
from websockets.frames import Frame, Opcode
from websockets.streams import StreamReader
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, Pong

from pico.config import WebSocketLimits
from pico.errors import LocalProtocolError, RemoteProtocolError
from pico.transport import websocket
from pico.transport.websocket import (
    Kind,
    Message,
    WebSocketCodec,
    WebSocketViolation,
    mask_implementation,
    parse_close,
    pooled_masks,
)
from tests.rules import covers

LIMITS = WebSocketLimits(message_bytes_max=1000, fragments_max=4)
MASK = b"\x11\x22\x33\x44"
CODES = [*range(1000, 1004), *range(1007, 1015), 3000, 3999, 4000, 4999]
WRONG_CODES = [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535]


def server(limits: WebSocketLimits = LIMITS) -> WebSocketCodec:
    return WebSocketCodec("server", limits)


def client(limits: WebSocketLimits = LIMITS) -> WebSocketCodec:
    return WebSocketCodec("client", limits, lambda: MASK)


def frame(
    first: int, payload: bytes = b"", *, masked: bool = True, length: int | None = None, form: int | None = None
) -> bytes:
    """A frame that may be wrong: ``length`` is what it declares, ``form`` how many bytes the length takes (0, 2, 8)."""
    length = len(payload) if length is None else length
    form = form if form is not None else 0 if length < 126 else 2 if length < 65536 else 8
    bit = 0x80 if masked else 0
    head = bytes((first, bit | {0: length, 2: 126, 8: 127}[form]))
    head += {0: b"", 2: struct.pack(">H", length & 0xFFFF), 8: struct.pack(">Q", length)}[form]
    if not masked:
        return head + payload
    return head + MASK + bytes(byte ^ MASK[index % 4] for index, byte in enumerate(payload))


def refusal(data: bytes, codec: WebSocketCodec | None = None) -> WebSocketViolation:
    with pytest.raises(WebSocketViolation) as caught:
        (codec or server()).receive_data(data)
    assert isinstance(caught.value, RemoteProtocolError) and str(caught.value)
    return caught.value


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, 125, 126, 127, 1000, 1024, 65535, 65536, 200_000])
def test_a_message_of_any_size_survives_both_directions(size: int) -> None:
    limits = WebSocketLimits(message_bytes_max=200_000)
    payload = bytes(range(256)) * (size // 256 + 1)
    payload = payload[:size]
    for sender, receiver in ((client(limits), server(limits)), (server(limits), client(limits))):
        wire = b"".join(sender.encode(payload))
        assert receiver.receive_data(wire) == [(Kind.BINARY, payload)]
        assert receiver.receive_data(wire[:1]) == []
        assert receiver.receive_data(wire[1:] + wire) == [Message(Kind.BINARY, payload)] * 2


def test_the_bytes_of_the_rfc() -> None:
    """RFC 6455 §5.7, with binary in place of text where we never send any."""
    assert client().receive_data(bytes.fromhex("810548656c6c6f")) == [(Kind.TEXT, b"Hello")]
    assert server().receive_data(bytes.fromhex("818537fa213d7f9f4d5158")) == [(Kind.TEXT, b"Hello")]
    assert client().receive_data(bytes.fromhex("010348656c80026c6f")) == [(Kind.TEXT, b"Hello")]
    assert client().receive_data(bytes.fromhex("890548656c6c6f")) == [(Kind.PING, b"Hello")]
    assert server().receive_data(bytes.fromhex("8a8537fa213d7f9f4d5158")) == [(Kind.PONG, b"Hello")]
    assert server().encode(bytes(256))[0] == bytes.fromhex("827e0100")
    assert server().encode(bytes(65536))[0] == bytes.fromhex("827f0000000000010000")


def test_a_payload_is_bytes_however_it_came() -> None:
    for codec, masked in ((server(), True), (client(), False)):
        wire = frame(0x82, b"abc", masked=masked) + frame(0x89, b"p", masked=masked)
        messages = [message for byte in wire for message in codec.receive_data(bytes((byte,)))]
        assert [(type(message.payload), message.payload) for message in messages] == [(bytes, b"abc"), (bytes, b"p")]


@covers("TUN-12")
def test_a_server_wants_masks_and_a_client_forbids_them() -> None:
    for size in (0, 5, 126, 70_000):
        limits = WebSocketLimits(message_bytes_max=100_000)
        assert refusal(frame(0x82, bytes(size), masked=False), server(limits)).close_code == 1002
        assert refusal(frame(0x82, bytes(size), masked=True), client(limits)).close_code == 1002


@covers("TUN-12")
def test_a_client_takes_a_fresh_mask_for_each_frame() -> None:
    masks = iter([b"aaaa", b"bbbb", b"cccc", b"dddd"])
    codec = WebSocketCodec("client", LIMITS, lambda: next(masks))
    wire = [b"".join(codec.encode(bytes(4))), codec.encode_ping(bytes(4)), codec.encode_pong(bytes(4))]
    assert [piece[2:6] for piece in wire] == [b"aaaa", b"bbbb", b"cccc"] == [piece[6:] for piece in wire]
    assert codec.encode_close(1000)[2:6] == b"dddd"


@covers("TUN-12", "TUN-13")
@pytest.mark.parametrize("size", [0, 1, 113, 114, 70_000])
@pytest.mark.parametrize("codec", [client, server])
def test_a_message_in_two_pieces_is_the_frame_of_the_whole(codec: Callable[[], WebSocketCodec], size: int) -> None:
    first, rest = b"its 12 bytes", bytes(range(256)) * 300
    pieces = codec().encode(b"before", (first, memoryview(rest)[:size]), b"after")
    assert b"".join(pieces) == b"".join(codec().encode(b"before", first + rest[:size], b"after"))


def test_a_first_piece_that_would_leave_the_mask_out_of_step_is_a_mistake() -> None:
    with pytest.raises(AssertionError):
        client().encode((b"odd", memoryview(b"rest")))


def test_masks_come_from_a_pool_and_none_is_used_twice() -> None:
    asked: list[int] = []

    def random_bytes(size: int) -> bytes:
        asked.append(size)
        return b"".join(struct.pack(">I", len(asked) << 16 | index) for index in range(size // 4))

    source = pooled_masks(random_bytes)
    taken = [source() for _ in range(1000)]
    assert len(set(taken)) == 1000 and {len(mask) for mask in taken} == {4}
    assert 1 < len(asked) < 10
    assert len({pooled_masks()() for _ in range(20)}) > 15


@covers("TUN-13")
@pytest.mark.parametrize("first", [0x82 | bit for bit in (0x10, 0x20, 0x40, 0x70)] + [0x89 | 0x40, 0x02 | 0x10])
def test_a_reserved_bit_is_a_violation(first: int) -> None:
    assert refusal(frame(first, b"x")).close_code == 1002


@covers("TUN-13")
@pytest.mark.parametrize("opcode", [3, 4, 5, 6, 7, 11, 12, 13, 14, 15])
def test_an_unknown_opcode_is_a_violation(opcode: int) -> None:
    assert refusal(frame(0x80 | opcode, b"x")).close_code == 1002
    assert refusal(frame(opcode, b"x")).close_code == 1002


@covers("TUN-13")
@pytest.mark.parametrize("length,form", [(0, 2), (125, 2), (0, 8), (125, 8), (126, 8), (65535, 8), (1 << 63, 8)])
def test_a_length_has_one_form(length: int, form: int) -> None:
    assert refusal(frame(0x82, length=length, form=form)).close_code == 1002


@covers("TUN-13")
@pytest.mark.parametrize("opcode", [8, 9, 10])
def test_a_control_frame_is_short_and_whole(opcode: int) -> None:
    assert refusal(frame(0x80 | opcode, length=126)).close_code == 1002
    assert refusal(frame(0x80 | opcode, length=1 << 40)).close_code == 1002
    assert refusal(frame(opcode, b"xx")).close_code == 1002


@covers("TUN-13")
def test_a_continuation_needs_a_beginning_and_a_beginning_its_end() -> None:
    assert refusal(frame(0x80, b"x")).close_code == 1002
    assert refusal(frame(0x00, b"x")).close_code == 1002
    for second in (0x82, 0x02, 0x81, 0x01):
        assert refusal(frame(0x02, b"x") + frame(second, b"x")).close_code == 1002
    assert refusal(frame(0x02, b"x") + frame(0x80, b"x") + frame(0x80, b"x")).close_code == 1002


@covers("TUN-15")
@pytest.mark.parametrize("length", [1001, 65536, 1 << 40, (1 << 63) - 1])
@pytest.mark.parametrize("first", [0x82, 0x02, 0x81])
def test_too_long_a_message_is_refused_when_its_length_is_known(length: int, first: int) -> None:
    assert refusal(frame(first, length=length)[:-4]).close_code == 1009


@covers("TUN-15")
def test_the_limit_is_of_the_whole_message_and_not_of_a_frame() -> None:
    codec = server()
    assert codec.receive_data(frame(0x02, bytes(600)) + frame(0x00, bytes(300))) == []
    assert refusal(frame(0x00, length=101)[:-4], codec).close_code == 1009
    codec = server()
    wire = (frame(0x02, bytes(600)) + frame(0x80, bytes(400))) * 2 + frame(0x82, bytes(1000))
    assert [len(message.payload) for message in codec.receive_data(wire)] == [1000, 1000, 1000]


@covers("TUN-16")
def test_fragments_make_one_message_with_control_frames_between_them() -> None:
    wire = (
        frame(0x02, b"a")
        + frame(0x89, b"ping")
        + frame(0x00, b"")
        + frame(0x8A)
        + frame(0x00, b"b")
        + frame(0x80, b"c")
    )
    expected = [(Kind.PING, b"ping"), (Kind.PONG, b""), (Kind.BINARY, b"abc")]
    assert server().receive_data(wire) == expected
    codec = server()
    assert [message for byte in wire for message in codec.receive_data(bytes((byte,)))] == expected


@covers("TUN-16")
def test_too_many_fragments_are_refused() -> None:
    four = frame(0x02) + frame(0x00) * 2 + frame(0x80)
    assert server().receive_data(four * 3) == [(Kind.BINARY, b"")] * 3
    assert refusal(frame(0x02) + frame(0x00) * 3 + frame(0x80)).close_code == 1009
    assert refusal(frame(0x02) + frame(0x00) * 4).close_code == 1009


@covers("TUN-18")
def test_a_close_frame_may_be_empty_or_have_a_code_that_may_travel() -> None:
    assert server().receive_data(frame(0x88)) == [(Kind.CLOSE, b"")]
    assert parse_close(b"") == (1005, "")
    for code in CODES:
        [(kind, payload)] = server().receive_data(frame(0x88, struct.pack(">H", code) + "grüße".encode()))
        assert (kind, parse_close(payload)) == (Kind.CLOSE, (code, "grüße"))
    for code in WRONG_CODES:
        assert refusal(frame(0x88, struct.pack(">H", code))).close_code == 1002
    violation = refusal(frame(0x88, b"\x03"))
    assert violation.close_code == 1002 and "one byte" in str(violation)
    assert refusal(frame(0x88, b"\x03\xe8\xff")).close_code == 1007


def test_nothing_is_taken_after_a_close() -> None:
    codec = server()
    late = frame(0x82, b"late") + b"\xff" * 100
    assert codec.receive_data(frame(0x82, b"a") + frame(0x88) + late) == [(Kind.BINARY, b"a"), (Kind.CLOSE, b"")]
    assert codec.receive_data(late) == []
    codec = server()
    assert codec.receive_data(frame(0x88)[:3]) == []
    assert codec.receive_data(frame(0x88)[3:] + late) == [(Kind.CLOSE, b"")]
    codec = server()
    wire = frame(0x88) + late
    assert [message for byte in wire for message in codec.receive_data(bytes((byte,)))] == [(Kind.CLOSE, b"")]


def test_a_violation_keeps_what_came_before_it_and_takes_nothing_after() -> None:
    codec = server()
    violation = refusal(frame(0x82, b"good") + frame(0x83, b"bad") + frame(0x82, b"late"), codec)
    assert violation.messages == [(Kind.BINARY, b"good")]
    assert codec.receive_data(frame(0x82, b"late")) == []


def test_what_we_close_with() -> None:
    for code in CODES:
        assert client().receive_data(server().encode_close(code, "bye")) == [
            (Kind.CLOSE, struct.pack(">H", code) + b"bye")
        ]
    for code in WRONG_CODES:
        with pytest.raises(LocalProtocolError):
            server().encode_close(code)


@pytest.mark.parametrize("reason", ["x" * 500, "ü" * 100, "a" + "𝄞" * 40, "\ud800"])
def test_a_long_reason_is_cut_between_characters(reason: str) -> None:
    [(_, payload)] = client().receive_data(server().encode_close(1000, reason))
    _, cut = parse_close(payload)
    assert len(payload) <= 125 and (len(payload) > 120 or len(reason) == 1)
    assert reason.startswith(cut) or cut == "?"


def test_a_control_frame_of_ours_is_not_too_long() -> None:
    for codec, peer in ((server(), client()), (client(), server())):
        assert peer.receive_data(codec.encode_ping(b"x" * 125)) == [(Kind.PING, b"x" * 125)]
        assert peer.receive_data(codec.encode_pong(b"")) == [(Kind.PONG, b"")]
        with pytest.raises(LocalProtocolError):
            codec.encode_ping(b"x" * 126)


@given(data=st.binary(max_size=300), mask=st.binary(min_size=4, max_size=4))
def test_both_ways_of_masking_agree(data: bytes, mask: bytes) -> None:
    expected = bytes(byte ^ mask[index % 4] for index, byte in enumerate(data))
    for form in (bytes, bytearray, memoryview):
        assert websocket._mask_with_integers(form(data), mask) == expected
        assert websocket._apply_mask(form(data), mask) == expected


def test_the_fast_masking_is_the_one_in_use() -> None:
    assert mask_implementation() == "c"


# Anything at all.

_payload = st.one_of(st.binary(max_size=20), st.integers(0, 1200).map(bytes))
_good_frame = st.builds(frame, st.sampled_from((0x82, 0x82, 0x02, 0x00, 0x80, 0x81, 0x89, 0x8A)), _payload)
_close_payload = st.one_of(st.binary(max_size=6), st.sampled_from(CODES).map(struct.Struct(">H").pack))
_any_frame = st.one_of(
    _good_frame,
    st.builds(frame, st.integers(0, 255), _payload, masked=st.booleans()),
    st.builds(frame, st.integers(0, 255), st.just(b""), length=st.integers(0, (1 << 64) - 1), form=st.just(8)),
    st.builds(
        frame, st.just(0x88), st.one_of(st.binary(max_size=6), st.sampled_from(CODES).map(struct.Struct(">H").pack))
    ),
    st.binary(max_size=30),
)
_wire = st.lists(_any_frame, max_size=8).map(b"".join)


def pieces(wire: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(wire), *(cut % (len(wire) + 1) for cut in cuts)})
    return [wire[start:end] for start, end in pairwise(places)]


def outcome(codec: WebSocketCodec, parts: list[bytes]) -> tuple[list[Message], int | None]:
    messages: list[Message] = []
    try:
        for part in parts:
            messages += codec.receive_data(part)
    except WebSocketViolation as violation:
        return messages + violation.messages, violation.close_code
    return messages, None


@given(wire=_wire, cuts=st.lists(st.integers(0, 5000), max_size=10))
@example(wire=frame(0x82, b"x", form=2), cuts=[1, 2, 3])
def test_cuts_change_nothing(wire: bytes, cuts: list[int]) -> None:
    for make in (server, client):
        whole = outcome(make(), [wire])
        assert outcome(make(), pieces(wire, cuts)) == whole
        assert outcome(make(), pieces(wire, list(range(len(wire))))) == whole


@given(wire=_wire, cuts=st.lists(st.integers(0, 5000), max_size=10))
def test_whatever_comes_what_is_held_is_bounded(wire: bytes, cuts: list[int]) -> None:
    codec = server()
    for part in pieces(wire, cuts):
        try:
            messages = codec.receive_data(part)
        except WebSocketViolation:
            messages = []
        assert all(len(message.payload) <= LIMITS.message_bytes_max for message in messages)
        assert held(codec) == codec.unfinished_bytes <= 2 * LIMITS.message_bytes_max + 14


def held(codec: WebSocketCodec) -> int:
    return len(codec._partial or b"") + sum(map(len, codec._fragments))


@covers("TUN-42")
def test_what_is_kept_of_a_message_is_told_until_it_ends_or_is_not_wanted() -> None:
    codec = server()
    assert codec.receive_data(frame(0x82, b"whole") + frame(0x02, b"first") + frame(0x80, b"second")[:-1]) == [
        (Kind.BINARY, b"whole")
    ]
    assert codec.unfinished_bytes == len(b"first") + len(frame(0x80, b"second")) - 1
    codec.receive_data(frame(0x80, b"second")[-1:])
    assert codec.unfinished_bytes == 0
    codec.receive_data(frame(0x02, b"first") + frame(0x80, b"second")[:-1])
    codec.discard()
    assert codec.unfinished_bytes == held(codec) == 0
    assert codec.receive_data(frame(0x80, b"second")[-1:]) == []


def test_a_dribbled_message_costs_no_more_than_its_bytes() -> None:
    codec = server(WebSocketLimits(message_bytes_max=1 << 20))
    wire = frame(0x82, bytes(1 << 20))
    messages = [message for start in range(0, len(wire), 3) for message in codec.receive_data(wire[start : start + 3])]
    assert [len(message.payload) for message in messages] == [1 << 20]
    # The sum of what is kept for each byte, in the middle of it.
    for start in range(0, 1 << 19, 3):
        codec.receive_data(wire[start : start + 3])
    assert sys.getsizeof(codec._partial) < 2 << 19


# Differential tests: the same bytes through others.


def websockets_outcome(wire: bytes, limits: WebSocketLimits) -> tuple[list[Message], bool]:
    """The frames as ``websockets`` parses them, assembled as §5.4 says."""
    reader, messages, parts, kind = StreamReader(), list[Message](), list[bytes](), None
    reader.feed_data(wire)
    while True:
        try:
            parser = Frame.parse(reader.read_exact, mask=True, max_size=limits.message_bytes_max)
            next(parser)
            return messages, False
        except StopIteration as done:
            parsed: Frame = done.value
        except (ProtocolError, PayloadTooBig):
            return messages, True
        if parsed.opcode in (Opcode.PING, Opcode.PONG, Opcode.CLOSE):
            messages.append(Message(Kind(parsed.opcode.value), bytes(parsed.data)))
            if parsed.opcode is Opcode.CLOSE:
                return messages, False
            continue
        if (parsed.opcode is Opcode.CONT) != (kind is not None):
            return messages, True
        kind = kind or Kind(parsed.opcode.value)
        parts.append(bytes(parsed.data))
        if sum(map(len, parts)) > limits.message_bytes_max or len(parts) > limits.fragments_max:
            return messages, True
        if parsed.fin:
            messages.append(Message(kind, b"".join(parts)))
            parts, kind = [], None


_strict_frame = st.one_of(
    _good_frame, st.builds(frame, st.integers(0, 255), st.binary(max_size=20), masked=st.booleans())
)


@given(wire=st.lists(_strict_frame, max_size=8).map(b"".join))
def test_websockets_sees_the_same(wire: bytes) -> None:
    ours, code = outcome(server(), [wire])
    theirs, violation = websockets_outcome(wire, LIMITS)
    if code == 1002 and not violation:
        # Stricter: no mask, and what a close frame may hold.
        assert ours == theirs[: len(ours)]
        return
    assert (ours, code is not None) == (theirs, violation)


def content(event: Event) -> bytes:
    return bytes(event.data if isinstance(event, BytesMessage) else event.payload)


def wsproto_events(role: ConnectionType, wire: bytes) -> list[Event]:
    connection = Connection(role)
    connection.receive_data(wire)
    return list(connection.events())


@given(
    payloads=st.lists(
        st.tuples(st.sampled_from(("encode", "encode_ping", "encode_pong")), st.integers(0, 125)), max_size=6
    )
)
def test_wsproto_understands_what_we_send(payloads: list[tuple[str, int]]) -> None:
    for codec, role in ((server(), ConnectionType.CLIENT), (client(), ConnectionType.SERVER)):
        wire = b""
        expected: list[tuple[type[Event], bytes]] = []
        for method, size in payloads:
            encoded = getattr(codec, method)(b"x" * size)
            wire += encoded if isinstance(encoded, bytes) else b"".join(encoded)
            kinds: dict[str, type[Event]] = {"encode": BytesMessage, "encode_ping": Ping, "encode_pong": Pong}
            expected.append((kinds[method], b"x" * size))
        wire += codec.encode_close(1001, "done")
        events = wsproto_events(role, wire)
        closing = events.pop()
        assert [
            (type(event), bytes(getattr(event, "payload", getattr(event, "data", b"")))) for event in events
        ] == expected
        assert isinstance(closing, CloseConnection) and (closing.code, closing.reason) == (1001, "done")


@given(
    sizes=st.lists(st.tuples(st.booleans(), st.integers(0, 300)), max_size=6),
    cuts=st.lists(st.integers(0, 3000), max_size=6),
)
def test_we_understand_what_wsproto_sends(sizes: list[tuple[bool, int]], cuts: list[int]) -> None:
    limits = WebSocketLimits(message_bytes_max=10_000)
    for codec, role in ((server(limits), ConnectionType.CLIENT), (client(limits), ConnectionType.SERVER)):
        peer = Connection(role)
        wire, expected, size_so_far = b"", list[Message](), b""
        for end, size in sizes:
            wire += peer.send(BytesMessage(data=b"y" * size, message_finished=end))
            size_so_far += b"y" * size
            if end:
                expected.append(Message(Kind.BINARY, size_so_far))
                size_so_far = b""
        assert outcome(codec, pieces(wire, cuts)) == (expected, None)
        assert peer.state is ConnectionState.OPEN
