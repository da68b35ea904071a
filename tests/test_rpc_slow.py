"""The slow decoder and model are only worth something if they are right: by hand, from the tables of the spec."""

from __future__ import annotations

import pytest

from tests import rpc_slow
from tests.rpc_side import request_head, response_head
from tests.rpc_slow import Broken, SlowHalf, SlowSide, decode, encode, split_http

GET = bytes.fromhex(
    "0003 0000000000000007 0001"  # HEAD, ID 7, END
    "0000000000000000 03 00 0002 0000000b"  # no body, sizes of method, upgrade, target and block
)


def broken(message: bytes, **limits: int) -> str:
    with pytest.raises(Broken) as caught:
        decode(message, limits)
    return caught.value.rule


def test_integers_are_big_endian_both_ways() -> None:
    assert rpc_slow.number(b"\x01\x02") == 258
    assert rpc_slow.octets(258, 4) == b"\x00\x00\x01\x02"
    assert rpc_slow.signed(b"\xff" * 8) == -1
    assert rpc_slow.octets(-1, 8) == b"\xff" * 8
    assert rpc_slow.signed(b"\x7f" + b"\xff" * 7) == 2**63 - 1


def test_a_request_head_is_read_field_by_field() -> None:
    assert decode(GET + b"GET" + b"/a" + b"Host: b.c\r\n" + b"") == {
        "type": "HEAD",
        "id": 7,
        "flags": ["END"],
        "head": {"method": "GET", "upgrade": "", "target": "/a", "block": "Host: b.c\r\n", "body_length": 0},
        "body": "",
    }


def test_a_response_head_is_read_field_by_field() -> None:
    message = bytes.fromhex("0003 0000000000000007 8001 0000000000000005 00c8 02 00 00000006") + b"OKA: b\r\nhello"
    assert decode(message) == {
        "type": "HEAD",
        "id": 7,
        "flags": ["RESPONSE", "END"],
        "head": {"status": 200, "reason": "OK", "upgrade": "", "block": "A: b\r\n", "body_length": 5},
        "body": "hello",
    }


@pytest.mark.parametrize(
    "value",
    [
        {"type": "HEARTBEAT", "id": 9, "flags": ["RESPONSE"]},
        {"type": "PROXY-HTTP", "id": 2**64 - 1, "flags": [], "payload": "GET / HTTP/1.1\r\n\r\n"},
        {"type": "HEAD", "id": 1, "flags": [], "head": request_head(upgrade="websocket"), "body": "ab"},
        {"type": "HEAD", "id": 1, "flags": ["RESPONSE"], "head": response_head(404, "No\xe9"), "body": "\x00\xff"},
        {"type": "DATA", "id": 1, "flags": ["RESPONSE", "END"], "body": ""},
        {"type": "TRAILERS", "id": 1, "flags": ["END"], "block": "X: y\r\n"},
        {"type": "RESET", "id": 1, "flags": [], "code": "DEADLINE", "untouched": False, "reason": "späť"},
        {"type": "WINDOW", "id": 1, "flags": [], "credit": 65536},
        {"type": "GOAWAY", "id": 0, "flags": [], "reason": "bye"},
        {"type": 77, "id": 3, "flags": ["RESPONSE", "UNSUPPORTED"]},
    ],
)
def test_encoding_and_decoding_are_inverse(value: rpc_slow.Value) -> None:
    assert decode(encode(value)) == value


def test_each_message_knows_the_rule_that_it_breaks() -> None:
    header = bytes.fromhex("0000000000000001 0000")
    assert broken(b"\x00" * 11) == "RPC-1"
    assert broken(b"\x00\x03" + header + b"\x00" * 15) == "RPC-27"
    assert broken(b"\x00\x04" + header) == "RPC-35"
    assert broken(b"\x00\x04" + header + b"12345", data_bytes_max=4) == "RPC-35"
    assert broken(b"\x00\x05" + header + b"no colon\r\n") == "RPC-36"
    assert broken(b"\x00\x05" + header + b"A: b\r\n", trailer_bytes_max=5) == "RPC-36"
    assert broken(b"\x00\x06" + header + b"\x00\x01") == "RPC-51"
    assert broken(b"\x00\x06" + header + b"\x00\x01\x00ab", reason_bytes_max=1) == "RPC-51"
    assert broken(b"\x00\x07" + header + b"\x00\x00\x00\x00") == "RPC-41"
    assert broken(b"\x00\x07" + header + b"\x00\x00\x01") == "RPC-41"
    assert broken(b"\x00\x08" + header) == "RPC-56"
    assert broken(GET + b"GET/aHost: b.c\r\n", head_bytes_max=15) == "RPC-28"
    assert broken(GET + b"GET/aHost: b.c\r") == "RPC-27"
    assert broken(GET + b"GET/aHost: b.c\r\n12345", data_bytes_max=4) == "RPC-35"


@pytest.mark.parametrize(
    "block", ["", "A:\r\n", "A: b\r\nA: b\r\n", "te: trailers\r\n", "X-Y:\tz \xff\r\n", "Trailer: x\r\n"]
)
def test_blocks_that_are_valid(block: str) -> None:
    assert rpc_slow.valid_block(block)


@pytest.mark.parametrize(
    "block",
    [
        "A: b",
        "A: b\n",
        "A: b\r\n\r\n",
        " A: b\r\n",
        "A : b\r\n",
        ": b\r\n",
        "A: b\rc\r\n",
        "A: b\x00\r\n",
        "A: b\r\n folded\r\n",
        "Connection: close\r\n",
        "CONTENT-LENGTH: 3\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Upgrade: x\r\n",
        "Keep-Alive: 1\r\n",
        "Proxy-Connection: close\r\n",
        "TE: gzip\r\n",
    ],
)
def test_blocks_that_are_not_valid(block: str) -> None:
    assert not rpc_slow.valid_block(block)


def test_a_half_goes_through_its_states() -> None:
    half = SlowHalf("HEAD", 10)
    half.step("INFORMATIONAL", False)
    half.step("HEAD", False)
    half.step("DATA", False)
    assert half.state == "BODY"
    half.step("TRAILERS", False)
    assert half.state == "ENDED"
    with pytest.raises(Broken, match="RPC-37"):
        half.step("DATA", True)


def test_a_half_keeps_account_of_credit_and_length() -> None:
    half = SlowHalf("BODY", 10)
    half.left = 8
    half.carry(6)
    with pytest.raises(Broken, match="RPC-39"):
        half.carry(5)
    half.credit += 6
    with pytest.raises(Broken, match="RPC-34"):
        half.carry(3)
    half.state, half.left = "ENDED", 1
    with pytest.raises(Broken, match="RPC-34"):
        half.carry(0)


def test_a_side_plays_a_call_to_its_end() -> None:
    opener, acceptor = SlowSide(), SlowSide()
    name = opener.open(request_head(body_length=3), "abc", True)
    acceptor.receive(encode(opener.sent(name)))
    assert [event["event"] for event in acceptor.events] == ["opened"]
    acceptor.head("theirs:1", response_head(body_length=2), "hi", True)
    opener.receive(encode(acceptor.sent("theirs:1")))
    assert opener.events == [
        {"event": "head", "stream": "ours:1", "head": response_head(body_length=2), "body": "hi", "end": True}
    ]
    assert not opener.streams
    assert not acceptor.streams


def test_only_an_opener_cancels() -> None:
    side = SlowSide()
    side.open(request_head())
    side.receive(encode({"type": "HEAD", "id": 1, "flags": [], "head": request_head(), "body": ""}))
    for flags in (["RESPONSE"], []):
        reset = {"type": "RESET", "id": 1, "flags": flags, "code": "CANCELLED", "untouched": False, "reason": ""}
        side.receive(encode(reset))
    assert [event["code"] for event in side.events[1:]] == ["INTERNAL", "CANCELLED"]


def test_a_side_gives_credit_back_by_quarters() -> None:
    acceptor = SlowSide({"window_bytes": 16})
    head = {"type": "HEAD", "id": 1, "flags": [], "head": request_head(), "body": "123456789"}
    acceptor.receive(encode(head))
    acceptor.consumed("theirs:1", 3)
    assert acceptor.control == []
    acceptor.consumed("theirs:1", 2)
    assert acceptor.control == [{"type": "WINDOW", "id": 1, "flags": ["RESPONSE"], "credit": 5}]


def test_a_side_asks_for_a_sign_of_life_and_gives_up() -> None:
    side = SlowSide({"heartbeat_s": 5, "silence_s": 15})
    for now in (4, 5, 6, 10, 15, 20):
        side.timer(now)
    assert [value["type"] for value in side.take_sent()] == ["HEARTBEAT", "HEARTBEAT"]
    assert side.take_events() == [{"event": "silent"}]


def test_streams_take_turns() -> None:
    side = SlowSide({"data_bytes_max": 1})
    names = [side.open(request_head()) for _ in range(2)]
    for name in names:
        side.data(name, "ab")
    assert [value["id"] for value in side.take_sent(3)] == [1, 2, 1]
    assert [value["id"] for value in side.take_sent()] == [2, 1, 2]
    assert side.take_sent() == []


def test_agreement_leaves_reasons_open() -> None:
    assert rpc_slow.agrees([{"a": 1, "reason": None}], [{"a": 1, "reason": "full"}])
    assert not rpc_slow.agrees([{"a": 1}], [{"a": 1, "reason": "full"}])
    assert not rpc_slow.agrees([{"a": 1}], [{"a": 2}])
    assert not rpc_slow.agrees([{"a": 1}], [])


def test_whole_messages_are_split_by_length_and_by_chunks() -> None:
    assert split_http("GET / HTTP/1.1\r\nHost: a\r\n\r\n") == {
        "start": ["GET", "/", "HTTP/1.1"],
        "fields": [("host", "a")],
        "body": "",
    }
    assert split_http("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")["body"] == "hi"
    assert split_http("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n")["body"] == "hi"
    for cut in ("HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nh", "GET / HTTP/1.1\r\n\r\nx"):
        with pytest.raises(Broken, match="RPC-18"):
            split_http(cut)
