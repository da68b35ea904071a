"""Values: equal when they were made of the same."""

from __future__ import annotations

from pico.protocol.http.values import RequestHead, ResponseHead
from pico.protocol.rpc import CreditReceived, DataReceived, HeadReceived, StreamOpened
from pico.protocol.rpc.stream import RpcStream
from pico.protocol.value import Value
from tests.values import but

STREAM = RpcStream(1, True, 10)
OK = ResponseHead(200, b"OK", b"", 0, b"")
HEAD = RequestHead(b"GET", b"/", b"A: b\r\n", 0, b"")


def test_two_of_one_class_with_equal_parts_are_equal():
    assert RequestHead(b"GET", b"/", b"A: b\r\n", 0, b"") == HEAD
    assert hash(HEAD) == hash(RequestHead(b"GET", b"/", b"A: b\r\n", 0, b""))
    assert Value() == Value()


def test_any_other_part_makes_another_value():
    for name in HEAD.__match_args__:
        other = but(HEAD, **{name: b"other" if name != "body_length" else 1})
        assert other != HEAD
        assert but(other, **{name: getattr(HEAD, name)}) == HEAD


def test_the_class_counts_and_nothing_else_is_equal():
    assert HeadReceived(STREAM, OK, b"", True) != StreamOpened(STREAM, HEAD, b"", True)
    assert CreditReceived(STREAM) != Value()
    assert HEAD.parts != HEAD
    assert HEAD != None  # noqa: E711


def test_a_value_is_shown_and_matched_with_its_parts():
    assert repr(HEAD) == r"RequestHead(b'GET', b'/', b'A: b\r\n', 0, b'')"
    match HEAD:
        case RequestHead(method, target, _, body_length, _):
            assert (method, target, body_length) == (b"GET", b"/", 0)
    match DataReceived(STREAM, b"abc", True):
        case DataReceived(stream, data, end):
            assert (stream, data, end) == (STREAM, b"abc", True)
