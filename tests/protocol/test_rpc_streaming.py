"""The streaming engine rule by rule: this goes in, this comes out, in order."""

from __future__ import annotations

import tracemalloc

import pytest

from pico.config import RpcLimits
from pico.errors import LocalProtocolError, RemoteProtocolError
from pico.protocol.http.values import RequestHead, ResponseHead
from pico.protocol.rpc import DataReceived, PeerSilent, ResetCode, StreamingEngine
from tests.calls import calls_of
from tests.rpc_side import EngineSide, Pair, head_message, message, request_head, response_head, streaming_side
from tests.rpc_slow import Value, encode, octets
from tests.rules import covers

ASKED = request_head()
ANSWER = response_head()
UPGRADE = request_head(upgrade="websocket")
SWITCHED = response_head(101, "Switching Protocols", upgrade="websocket")


def acceptor(head: Value = ASKED, body: str = "", *flags: str, **limits: int) -> EngineSide:
    """A side whose peer has opened stream 1."""
    side = streaming_side(**limits)
    side.hear(head_message(1, head, body, *flags))
    return side


def opener(head: Value = ASKED, body: str = "", end: bool = False, **limits: int) -> EngineSide:
    """A side that has opened stream 1, and its head has left."""
    side = streaming_side(**limits)
    side.open(head, body, end)
    side.take_sent()
    return side


def reset_message(ident: int, code: str, *flags: str, untouched: bool = False, reason: str = "") -> Value:
    return message("RESET", ident, *flags, code=code, untouched=untouched, reason=reason)


# Messages.


@covers("RPC-1", "RPC-2")
@pytest.mark.parametrize("size", range(12))
def test_a_message_shorter_than_the_header_is_a_violation(size: int) -> None:
    with pytest.raises(RemoteProtocolError):
        streaming_side().receive(encode(message("HEARTBEAT", 1))[:size])


@covers("RPC-2")
def test_a_violation_is_raised_by_receiving_and_by_nothing_else() -> None:
    side = acceptor()
    with pytest.raises(RemoteProtocolError):
        side.hear(message("GOAWAY", 1, reason=""))
    side.timer(100.0)
    side.timer(110.0)
    side.take_sent()
    side.lost()
    assert [event["event"] for event in side.take_events()] == ["silent", "reset"]


@covers("RPC-3")
@pytest.mark.parametrize("kind", [0, 2, 9, 255, 256, 65535])
def test_an_unknown_type_is_answered_as_unsupported(kind: int) -> None:
    side = acceptor()
    side.receive(octets(kind, 2) + octets(2**63, 8) + octets(0, 2) + b"whatever")
    assert [bytes(sent) for sent in side.engine.outgoing(1)] == [octets(kind, 2) + octets(2**63, 8) + b"\xc0\x00"]
    assert side.hear(message("DATA", 1, body="on")) == [
        {"event": "data", "stream": "theirs:1", "body": "on", "end": False}
    ]


@covers("RPC-4")
@pytest.mark.parametrize("flags", [["RESPONSE"], ["RESPONSE", "UNSUPPORTED"]])
def test_an_answer_of_an_unknown_type_is_never_answered(flags: list[str]) -> None:
    side = streaming_side()
    assert side.hear(message(9, 1, *flags)) == []
    assert side.take_sent() == []
    assert side.engine.late_messages == 1


@covers("RPC-5")
@pytest.mark.parametrize("bit", range(1, 14))
def test_flag_bits_without_a_name_change_nothing(bit: int) -> None:
    spoiled = bytearray(encode(head_message(1, ASKED, "body")))
    spoiled[10:12] = octets(1 << bit, 2)
    side = streaming_side()
    side.receive(bytes(spoiled))
    assert side.take_events() == [
        {"event": "opened", "stream": "theirs:1", "head": ASKED, "body": "body", "end": False}
    ]


@covers("RPC-5")
def test_only_named_flag_bits_are_sent() -> None:
    side = acceptor(UPGRADE, "abc")
    side.open(ASKED, end=True)
    side.head("theirs:1", SWITCHED, "x")
    side.data("theirs:1", "y", True)
    side.consumed("theirs:1", 3)
    side.reset("theirs:1", "INTERNAL")
    side.goaway()
    side.timer(5.0)
    for sent in side.engine.outgoing(1 << 30):
        assert int.from_bytes(sent[10:12], "big") & ~0xC001 == 0


@covers("RPC-6")
def test_a_response_carries_the_type_and_the_id_of_its_request() -> None:
    side = streaming_side()
    for ident in (3, 900, 2**64 - 1):
        side.hear(head_message(ident, ASKED))
        side.head(f"theirs:{ident}", ANSWER, end=True)
        assert side.take_sent() == [head_message(ident, ANSWER, "", "END")]


@covers("RPC-7")
def test_ids_grow_over_heads_and_heartbeats() -> None:
    side, idents = streaming_side(), []
    for turn in range(1, 5):
        side.open(ASKED)
        side.timer(5.0 * turn - 0.1)
        side.timer(5.0 * turn)
        side.hear(message("HEARTBEAT", 7))  # A sign of life, so that it is not given up.
        idents += sorted(sent["id"] for sent in side.take_sent() if "RESPONSE" not in sent["flags"])
    assert idents == sorted(set(idents))
    assert len(idents) > 4


@covers("RPC-7", "RPC-49")
def test_the_id_of_a_head_that_never_left_is_not_used_again() -> None:
    side = streaming_side()
    first = side.open(ASKED)
    side.reset(first, "CANCELLED")
    assert side.open(ASKED) != first


# Heartbeats.


@covers("RPC-8", "RPC-44")
def test_a_heartbeat_is_answered_ahead_of_body_bytes_and_its_payload_ignored() -> None:
    side = opener()
    side.data("ours:1", "x" * 200_000)
    side.receive(encode(message("HEARTBEAT", 2**64 - 1)) + b"noise")
    assert side.take_sent(1)[0] == message("HEARTBEAT", 2**64 - 1, "RESPONSE")


@covers("RPC-8")
def test_each_heartbeat_is_answered_by_itself() -> None:
    side = streaming_side()
    side.hear(message("HEARTBEAT", 4), message("HEARTBEAT", 4), message("HEARTBEAT", 2))
    assert [sent["id"] for sent in side.take_sent()] == [4, 4, 2]


@covers("RPC-9")
def test_a_quiet_side_asks_at_each_interval() -> None:
    side = streaming_side(heartbeat_s=2.0, silence_s=7.0)
    beats = []
    for tenth in range(70):
        side.timer(tenth / 10)
        beats += [tenth / 10 for _ in side.take_sent()]
    assert beats == [2.0, 4.0, 6.0]


@covers("RPC-9")
def test_what_is_received_puts_the_heartbeat_off() -> None:
    side = streaming_side(heartbeat_s=2.0, silence_s=7.0)
    side.timer(1.5)
    side.hear(message("HEARTBEAT", 1, "RESPONSE"))
    side.timer(3.4)
    assert side.take_sent() == []
    side.timer(3.5)
    assert [sent["type"] for sent in side.take_sent()] == ["HEARTBEAT"]


@covers("RPC-9", "RPC-10")
def test_the_timer_is_wanted_when_something_is_to_be_done_and_not_before() -> None:
    side = streaming_side(heartbeat_s=2.0, silence_s=7.0)
    assert side.engine.next_timer() == 2.0
    side.timer(1.5)
    side.hear(message("HEARTBEAT", 9))
    assert side.engine.next_timer() == 3.5
    for at, then in ((3.5, 5.5), (5.5, 7.5), (7.5, 8.5)):
        side.timer(at)
        assert side.engine.next_timer() == then
    side.timer(9.0)
    assert side.engine.events() == [PeerSilent(7.5)]


@covers("RPC-9", "RPC-10")
def test_whoever_obeys_next_timer_misses_nothing() -> None:
    side = streaming_side(heartbeat_s=2.0, silence_s=7.0)
    told, wakes = [], 0
    while (at := side.engine.next_timer()) is not None and wakes < 50:
        assert at >= side.now
        wakes += 1
        side.timer(at)
        told += [(at, sent["type"]) for sent in side.take_sent()]
        told += [(at, event["event"]) for event in side.take_events()]
    assert told == [(2.0, "HEARTBEAT"), (4.0, "HEARTBEAT"), (6.0, "HEARTBEAT"), (7.0, "silent")]
    assert wakes < 10


@covers("RPC-10")
@pytest.mark.parametrize(
    "sign",
    [
        message("HEARTBEAT", 1),
        message("HEARTBEAT", 1, "RESPONSE"),
        message(99, 1, "RESPONSE"),
        head_message(1, ASKED),
        message("GOAWAY", 0, reason=""),
    ],
)
def test_any_message_is_a_sign_of_life(sign: Value) -> None:
    side = streaming_side()
    side.timer(14.0)
    side.hear(sign)
    side.timer(19.0)
    side.timer(28.9)
    assert {"event": "silent"} not in side.take_events()
    side.timer(29.0)
    assert {"event": "silent"} in side.take_events()


@covers("RPC-10")
def test_a_part_of_a_message_is_a_sign_of_life() -> None:
    side = streaming_side()
    for at in (5.0, 10.0, 14.5):
        side.timer(at)
    side.engine.heard(now=14.5)
    assert side.engine.asked_at is None
    for at in (19.5, 24.5, 29.0):
        side.timer(at)
    assert side.take_events() == []
    assert side.engine.asked_at == 19.5
    side.timer(29.5)
    assert side.take_events() == [{"event": "silent"}]


@covers("RPC-10")
@pytest.mark.parametrize("silence_s, answer_s", [(15.0, 5.0), (7.0, 2.0)])
def test_a_side_that_did_not_run_asks_before_it_gives_the_peer_up(silence_s: float, answer_s: float) -> None:
    side = streaming_side(heartbeat_s=5.0, silence_s=silence_s)
    side.timer(60.0)
    assert [sent["type"] for sent in side.take_sent()] == ["HEARTBEAT"]
    assert side.engine.next_timer() == 60.0 + answer_s
    side.timer(60.0 + answer_s - 0.1)
    assert side.take_events() == []
    side.timer(60.0 + answer_s)
    assert side.take_events() == [{"event": "silent"}]


@covers("RPC-10")
def test_silence_is_reported_once() -> None:
    side = streaming_side()
    side.timer(10.0)
    side.timer(15.0)
    side.timer(15.1)
    side.timer(1000.0)
    assert side.take_events() == [{"event": "silent"}]
    assert side.engine.next_timer() is None


@covers("RPC-11")
def test_an_answer_is_taken_once_and_only_when_asked() -> None:
    side = streaming_side()
    side.timer(5.0)
    [beat] = side.take_sent()
    side.hear(message("HEARTBEAT", beat["id"] + 1, "RESPONSE"))
    assert side.engine.late_messages == 1
    side.hear(message("HEARTBEAT", beat["id"], "RESPONSE"))
    assert side.engine.late_messages == 1
    side.hear(message("HEARTBEAT", beat["id"], "RESPONSE"))
    assert side.engine.late_messages == 2


@covers("RPC-11")
@pytest.mark.parametrize("ident", [0, 1, 2**64 - 1])
def test_an_answer_is_not_taken_before_anything_was_asked(ident: int) -> None:
    side = streaming_side()
    side.hear(message("HEARTBEAT", ident, "RESPONSE"))
    assert side.engine.late_messages == 1
    assert side.engine.snapshot().round_trip_s is None


@covers("RPC-11")
def test_the_round_trip_is_measured_by_the_answer() -> None:
    side = streaming_side()
    side.timer(5.0)
    [beat] = side.take_sent()
    side.now = 5.25
    side.hear(message("HEARTBEAT", beat["id"], "RESPONSE"))
    assert side.engine.snapshot().round_trip_s == 0.25


# Calls.


@covers("RPC-12", "RPC-29")
def test_a_small_call_is_one_message_each_way_and_ends_once_for_both() -> None:
    pair = Pair(streaming_side(), streaming_side())
    left, right = pair.sides
    left.open(request_head(body_length=2), "hi", True)
    assert len(pair.post(0)) == 1
    pair.deliver(1)
    assert [event["event"] for event in right.take_events()] == ["opened"]
    right.head("theirs:1", response_head(body_length=2), "ho", True)
    assert len(pair.post(1)) == 1
    pair.deliver(0)
    assert (left.engine.open_streams, right.engine.open_streams) == (0, 0)
    assert left.streams["ours:1"].ended
    assert [event["event"] for event in left.take_events()] == ["head"]
    pair.lose()
    assert left.take_events() == []


@covers("RPC-13")
@pytest.mark.parametrize(
    "late",
    [
        message("DATA", 1, "RESPONSE", body="x"),
        message("DATA", 1, "RESPONSE", "END", body=""),
        message("TRAILERS", 1, "RESPONSE", "END", block=""),
        reset_message(1, "INTERNAL", "RESPONSE"),
        message("WINDOW", 1, "RESPONSE", credit=1),
        head_message(1, ANSWER),
        message("HEAD", 1, "RESPONSE", "UNSUPPORTED"),
    ],
)
def test_a_message_for_a_call_that_has_ended_is_dropped_and_counted(late: Value) -> None:
    side = opener(body="x")
    side.reset("ours:1", "CANCELLED")
    side.take_sent()
    assert side.hear(late) == []
    assert side.take_sent() == []
    assert side.engine.late_messages == 1


@covers("RPC-13")
@pytest.mark.parametrize("size", [12, 13])
def test_what_is_dropped_is_not_looked_at(size: int) -> None:
    """It may well be against a rule that no longer concerns the call, such as credit after a reset."""
    side = opener()
    side.reset("ours:1", "CANCELLED")
    for kind in (3, 4, 5):
        side.receive((octets(kind, 2) + octets(1, 8) + octets(0x8000, 2) + b"?" * 100)[:size])
    assert side.engine.late_messages == 3


@covers("RPC-37")
@pytest.mark.parametrize(
    "stray",
    [
        message("DATA", 2, body="x"),
        message("DATA", 1, "RESPONSE", body="x"),
        message("TRAILERS", 2, "END", block=""),
        head_message(1, ANSWER),
        message("WINDOW", 2, credit=1),
        reset_message(2, "CANCELLED"),
        reset_message(1, "CANCELLED", "RESPONSE"),
    ],
)
def test_a_message_for_a_stream_that_was_never_opened_is_a_violation(stray: Value) -> None:
    side = acceptor()
    with pytest.raises(RemoteProtocolError):
        side.hear(stray)


@covers("RPC-14")
def test_a_side_and_an_id_together_name_a_stream() -> None:
    side = opener()
    side.hear(head_message(1, ASKED))
    events = side.hear(
        head_message(1, ANSWER, "to ours"),
        message("DATA", 1, body="to theirs"),
        message("DATA", 1, "RESPONSE", body="o"),
    )
    assert [(event["stream"], event["body"]) for event in events] == [
        ("ours:1", "to ours"),
        ("theirs:1", "to theirs"),
        ("ours:1", "o"),
    ]


@covers("RPC-15")
def test_a_lost_connection_ends_every_call_and_says_what_may_be_tried_again() -> None:
    side = opener()
    side.open(ASKED)
    side.hear(head_message(9, ASKED))
    side.lost()
    assert {(event["stream"], event["code"], event["untouched"]) for event in side.take_events()} == {
        ("ours:1", "LOST", False),
        ("ours:2", "LOST", True),
        ("theirs:9", "LOST", False),
    }
    side.lost()
    assert side.take_events() == []
    assert side.engine.open_streams == 0


@covers("RPC-15")
def test_a_call_behind_others_in_the_queue_is_untouched() -> None:
    side = streaming_side()
    for _ in range(3):
        side.open(ASKED, "x" * 60_000)
    assert len(side.take_sent(1)) == 1
    side.lost()
    assert [event["untouched"] for event in side.take_events()] == [False, True, True]


@covers("RPC-15", "RPC-17")
def test_a_lost_connection_has_nothing_left_to_count() -> None:
    side = acceptor(ASKED, "", "END", streams_max=1)
    side.open(ASKED)
    side.head("theirs:1", ANSWER, "queued", True)
    side.lost()
    assert side.engine.may_open
    assert len(side.hear(head_message(2, ASKED))) == 2  # LOST, and what a caller that goes on would be told.


@covers("RPC-15")
def test_nothing_leaves_after_the_connection_is_lost() -> None:
    side = opener()
    side.data("ours:1", "x")
    side.hear(message("HEARTBEAT", 1))
    side.lost()
    side.take_events()
    side.data("ours:1", "y")
    side.reset("ours:1", "CANCELLED")
    assert side.take_sent() == []
    assert side.engine.snapshot().queued_bytes == 0
    assert side.engine.snapshot().control_bytes == 0
    assert side.engine.may_open


@covers("RPC-16")
def test_an_opener_that_is_not_understood_is_refused_untouched() -> None:
    side = opener(body="x")
    side.data("ours:1", "never leaves")
    assert [
        (event["event"], event["code"], event["untouched"])
        for event in side.hear(message("HEAD", 1, "RESPONSE", "UNSUPPORTED"))
    ] == [("reset", "REFUSED", True)]
    assert side.engine.open_streams == 0
    assert side.take_sent() == []


@covers("RPC-16")
def test_an_opener_that_was_answered_and_then_is_not_understood_is_not_untouched() -> None:
    side = opener()
    side.hear(head_message(1, ANSWER))
    (event,) = side.hear(message("HEAD", 1, "RESPONSE", "UNSUPPORTED"))
    assert (event["event"], event["code"], event["untouched"]) == ("reset", "REFUSED", False)


@covers("RPC-16")
@pytest.mark.parametrize(
    "other",
    [
        message("HEAD", 1, "UNSUPPORTED"),
        message("DATA", 1, "RESPONSE", "UNSUPPORTED"),
        message("HEAD", 2, "RESPONSE", "UNSUPPORTED"),
        message("PROXY-HTTP", 1, "RESPONSE", "UNSUPPORTED"),
    ],
)
def test_unsupported_about_anything_else_is_dropped_and_counted(other: Value) -> None:
    side = opener()
    assert side.hear(other) == []
    assert side.take_sent() == []
    assert side.engine.late_messages == 1
    assert side.engine.open_streams == 1


@covers("RPC-17", "RPC-31")
def test_one_stream_more_than_the_limit_is_the_callers_fault() -> None:
    side = streaming_side(streams_max=2)
    side.open(ASKED)
    assert side.engine.may_open
    side.open(ASKED)
    assert not side.engine.may_open
    with pytest.raises(LocalProtocolError):
        side.open(ASKED)
    side.reset("ours:1", "CANCELLED")
    assert side.engine.may_open
    side.open(ASKED)


@covers("RPC-17", "RPC-31")
def test_a_complete_stream_counts_until_its_last_message_has_left() -> None:
    """Else whoever asks much and reads nothing would make the other side hold its responses without end."""
    side = acceptor(ASKED, "", "END", streams_max=1)
    side.head("theirs:1", ANSWER, "whole", True)
    assert side.engine.open_streams == 0
    assert side.hear(head_message(2, ASKED)) == []
    assert [sent["type"] for sent in side.take_sent()] == ["RESET", "HEAD"]
    assert len(side.hear(head_message(3, ASKED))) == 1
    opening = opener(streams_max=1)
    opening.data("ours:1", "", True)
    opening.hear(head_message(1, ANSWER, "", "END"))
    assert not opening.engine.may_open
    opening.take_sent()
    assert opening.engine.may_open


@covers("RPC-17", "RPC-31")
def test_each_complete_stream_counts_until_its_own_last_message_has_left() -> None:
    side, opening = streaming_side(streams_max=2), streaming_side(streams_max=2)
    for ident in (1, 2):
        side.hear(head_message(ident, ASKED, "", "END"))
        side.head(f"theirs:{ident}", ANSWER, "whole", True)
        opening.open(ASKED)
    opening.take_sent()
    for ident in (1, 2):
        opening.data(f"ours:{ident}", "", True)
        opening.hear(head_message(ident, ANSWER, "", "END"))
    assert side.hear(head_message(3, ASKED), head_message(4, ASKED)) == []
    for left in (1, 2):
        assert not (opening.engine.may_open and left == 1)
        assert side.take_sent(1)[-1] == head_message(left, ANSWER, "whole", "END")
        opening.take_sent(1)
        assert opening.engine.may_open
        assert len(side.hear(head_message(10 * left, ASKED))) == 1
        assert side.hear(head_message(10 * left + 1, ASKED)) == []


@covers("RPC-17", "RPC-49")
def test_opening_and_cancelling_for_ever_holds_nothing() -> None:
    side = streaming_side(streams_max=1)
    for _ in range(100):
        side.reset(side.open(ASKED, "x" * 1000), "CANCELLED")
    assert side.engine.snapshot().queued_bytes == 0
    assert not side.engine.has_outgoing
    other = opener(streams_max=1)
    other.data("ours:1", "x" * 200_000)
    other.reset("ours:1", "CANCELLED")
    assert other.engine.may_open
    assert other.engine.snapshot().queued_bytes == 0


@covers("RPC-17")
def test_the_streams_of_the_peer_do_not_count_as_ours() -> None:
    side = acceptor(streams_max=1)
    assert side.engine.may_open
    side.open(ASKED)
    assert side.engine.open_streams == 2


# Heads.


@covers("RPC-26")
def test_ids_may_leave_gaps_but_never_go_back() -> None:
    side = streaming_side()
    assert len(side.hear(head_message(5, ASKED), head_message(6, ASKED), head_message(2**64 - 1, ASKED))) == 3
    for ident in (0, 1, 6, 2**64 - 1):
        with pytest.raises(RemoteProtocolError):
            side.hear(head_message(ident, ASKED))


@covers("RPC-26")
def test_a_refused_stream_uses_its_id_up() -> None:
    side = acceptor(streams_max=1)
    side.hear(head_message(7, ASKED))
    with pytest.raises(RemoteProtocolError):
        side.hear(head_message(7, ASKED))


@covers("RPC-27", "RPC-28")
def test_sizes_that_promise_gigabytes_allocate_nothing() -> None:
    side = streaming_side()
    promise = octets(3, 2) + octets(1, 8) + octets(0, 2) + octets(-1, 8) + b"\xff\xff\xff\xff" + b"\xff\xff\xff\xff"
    tracemalloc.start()
    try:
        with pytest.raises(RemoteProtocolError):
            side.receive(promise + b"x" * 100)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


@covers("RPC-28")
@pytest.mark.parametrize("response", [False, True])
def test_a_head_may_be_as_large_as_the_limit_and_no_larger(response: bool) -> None:
    line = "A: " + "b" * (1024 - 3 - 2)
    for size, good in ((1024, True), (1025, False)):
        head = response_head(reason="") if response else request_head("G", "/")
        block = line + "\r\n"
        head["block"] = block[: size - (0 if response else 2) - 2] + "\r\n" if good else "A: " + "b" * 2000 + "\r\n"
        if not good:
            head["block"] = "A: " + "b" * (size - 5 - (0 if response else 2)) + "\r\n"
        side = opener(head_bytes_max=1024)
        if good:
            assert len(side.hear(head_message(1, head))) == 1
        else:
            with pytest.raises(RemoteProtocolError):
                side.hear(head_message(1, head))


@covers("RPC-28")
def test_the_body_does_not_count_as_head() -> None:
    side = streaming_side(head_bytes_max=1024)
    assert len(side.hear(head_message(1, ASKED, "x" * 60_000))) == 1


@covers("RPC-30")
@pytest.mark.parametrize("body, end", [("x", False), ("", True), ("x", True)])
def test_an_informational_head_with_anything_more_is_the_callers_fault(body: str, end: bool) -> None:
    side = acceptor()
    with pytest.raises(LocalProtocolError):
        side.head("theirs:1", response_head(103), body, end)
    assert side.take_sent() == []


@covers("RPC-30")
def test_informational_heads_pass_in_order_before_the_final_one() -> None:
    side = acceptor()
    for status in (100, 103, 199, 200):
        side.head("theirs:1", response_head(status))
    assert [sent["head"]["status"] for sent in side.take_sent()] == [100, 103, 199, 200]
    with pytest.raises(LocalProtocolError):
        side.head("theirs:1", response_head(103))


@covers("RPC-31", "RPC-50")
def test_streams_over_the_limit_are_refused_untouched_and_nobody_hears_of_them() -> None:
    side = acceptor(streams_max=1)
    assert side.hear(head_message(2, ASKED, "body"), head_message(3, ASKED, "", "END")) == []
    refusals = side.take_sent()
    assert [(sent["type"], sent["id"], sent["code"], sent["untouched"]) for sent in refusals] == [
        ("RESET", 2, "REFUSED", True),
        ("RESET", 3, "REFUSED", True),
    ]
    assert all(sent["flags"] == ["RESPONSE"] for sent in refusals)
    assert side.engine.open_streams == 1


@covers("RPC-32")
def test_opaque_bytes_flow_both_ways_after_101_and_each_half_ends_by_itself() -> None:
    side = acceptor(UPGRADE)
    side.head("theirs:1", SWITCHED, "hello")
    side.data("theirs:1", "more", True)
    assert side.take_sent() == [
        head_message(1, SWITCHED, "hello"),
        message("DATA", 1, "RESPONSE", "END", body="more"),
    ]
    assert side.hear(message("DATA", 1, body="up"), message("DATA", 1, "END", body="")) == [
        {"event": "data", "stream": "theirs:1", "body": "up", "end": False},
        {"event": "data", "stream": "theirs:1", "body": "", "end": True},
    ]
    assert side.engine.open_streams == 0


@covers("RPC-32")
def test_after_101_the_declared_length_of_the_request_no_longer_binds() -> None:
    pair = Pair(streaming_side(), streaming_side())
    left, right = pair.sides
    left.open(request_head(upgrade="websocket", body_length=0))
    pair.post(0)
    pair.deliver(1)
    right.take_events()
    right.head("theirs:1", SWITCHED)
    pair.post(1)
    pair.deliver(0)
    left.data("ours:1", "opaque", True)
    pair.post(0)
    pair.deliver(1)
    assert right.take_events() == [{"event": "data", "stream": "theirs:1", "body": "opaque", "end": True}]


@covers("RPC-32")
def test_101_that_was_not_asked_for_is_a_fault_of_whoever_sends_it() -> None:
    with pytest.raises(LocalProtocolError):
        acceptor().head("theirs:1", SWITCHED)
    with pytest.raises(RemoteProtocolError):
        opener().hear(head_message(1, SWITCHED))


@covers("RPC-27", "RPC-32")
@pytest.mark.parametrize("cut", [1, 9, 10])
def test_a_101_that_is_cut_is_a_violation(cut: int) -> None:
    with pytest.raises(RemoteProtocolError):
        opener(UPGRADE).receive(encode(head_message(1, response_head(101, "", "", -1, "websocket")))[:-cut])


@covers("RPC-32")
def test_101_is_final() -> None:
    side = opener(UPGRADE)
    side.hear(head_message(1, SWITCHED))
    with pytest.raises(RemoteProtocolError):
        side.hear(head_message(1, ANSWER))


# Bodies.


@covers("RPC-33", "RPC-46")
def test_body_bytes_arrive_in_the_order_in_which_they_were_sent() -> None:
    pair = Pair(streaming_side(data_bytes_max=3), streaming_side())
    left, right = pair.sides
    name = left.open(ASKED, "012")
    for piece in ("3", "456789", "abcdefgh"):
        left.data(name, piece)
    left.trailers(name, "X: y\r\n")
    pair.post(0)
    while pair.deliver(1):
        pass
    events = right.take_events()
    assert "".join(event.get("body", "") for event in events) == "0123456789abcdefgh"
    assert events[-1]["event"] == "trailers"


@covers("RPC-34")
@pytest.mark.parametrize(
    "head, answer, good",
    [
        (ASKED, response_head(body_length=2), "ab"),
        (ASKED, response_head(body_length=0), ""),
        (ASKED, response_head(), "any"),
        (ASKED, response_head(204), ""),
        (ASKED, response_head(304, body_length=7), ""),
        (request_head("HEAD"), response_head(body_length=7), ""),
        (request_head("HEAD"), response_head(), ""),
        (ASKED, response_head(205, body_length=1), "x"),
        (request_head("head"), response_head(body_length=1), "x"),
    ],
)
def test_a_response_carries_exactly_what_its_head_promises(head: Value, answer: Value, good: str) -> None:
    assert len(opener(head).hear(head_message(1, answer, good, "END"))) == 1
    assert len(opener(head).hear(head_message(1, answer), message("DATA", 1, "RESPONSE", "END", body=good))) == 2
    acceptor(head).head("theirs:1", answer, good, True)
    if good != "any":
        with pytest.raises(RemoteProtocolError):
            opener(head).hear(head_message(1, answer, good + "x"))
        with pytest.raises(RemoteProtocolError):
            opener(head).hear(head_message(1, answer), message("DATA", 1, "RESPONSE", body=good + "x"))
        with pytest.raises(LocalProtocolError):
            acceptor(head).head("theirs:1", answer, good + "x")
    if answer["body_length"] > 0 and good:
        with pytest.raises(RemoteProtocolError):
            opener(head).hear(head_message(1, answer, good[1:], "END"))
        with pytest.raises(RemoteProtocolError):
            opener(head).hear(head_message(1, answer), message("TRAILERS", 1, "RESPONSE", "END", block=""))


@covers("RPC-34", "RPC-38")
def test_an_incomplete_body_cannot_be_ended_only_reset() -> None:
    side = acceptor()
    side.head("theirs:1", response_head(body_length=5), "abc")
    with pytest.raises(LocalProtocolError):
        side.data("theirs:1", "d", True)
    with pytest.raises(LocalProtocolError):
        side.trailers("theirs:1", "")
    side.reset("theirs:1", "SERVICE_CLOSED")
    assert not any("END" in sent["flags"] for sent in side.take_sent())


@covers("RPC-38")
def test_a_body_that_is_cut_short_is_never_taken_for_a_whole_one() -> None:
    side = opener()
    events = side.hear(head_message(1, ANSWER, "half"), reset_message(1, "SERVICE_CLOSED", "RESPONSE"))
    assert [(event["event"], event.get("end")) for event in events] == [("head", False), ("reset", None)]


@covers("RPC-34")
def test_a_declared_request_body_is_counted() -> None:
    side = acceptor(request_head("PUT", body_length=4), "ab")
    with pytest.raises(RemoteProtocolError):
        side.hear(message("DATA", 1, "END", body="c"))
    sender = opener(request_head("PUT", body_length=4), "ab")
    with pytest.raises(LocalProtocolError):
        sender.data("ours:1", "cde")


@covers("RPC-35")
def test_nothing_to_say_is_not_said() -> None:
    side = opener()
    side.data("ours:1", "")
    assert side.take_sent() == []
    side.data("ours:1", "", True)
    assert side.take_sent() == [message("DATA", 1, "END", body="")]


@covers("RPC-35")
def test_data_is_cut_to_the_size_that_a_message_may_have() -> None:
    side = opener(data_bytes_max=4)
    side.data("ours:1", "abcdefghi", True)
    assert side.take_sent() == [
        message("DATA", 1, body="abcd"),
        message("DATA", 1, body="efgh"),
        message("DATA", 1, "END", body="i"),
    ]
    with pytest.raises(RemoteProtocolError):
        acceptor(data_bytes_max=4).hear(message("DATA", 1, body="abcde"))


@covers("RPC-35")
@pytest.mark.parametrize("end", [False, True])
def test_data_as_large_as_a_message_may_be_is_one_message(end: bool) -> None:
    side = opener(data_bytes_max=4)
    side.data("ours:1", "abcd", end)
    assert side.take_sent() == [message("DATA", 1, *(["END"] if end else []), body="abcd")]


@covers("RPC-35")
def test_a_long_body_is_not_copied_to_put_its_header_in_front() -> None:
    side, data = opener(), bytes(10_000)
    side.engine.send_data(side.streams["ours:1"], data)
    side.engine.send_data(side.streams["ours:1"], memoryview(data)[:100], end=True)
    first, last = side.engine.outgoing(1 << 30)[-2:]
    assert isinstance(first, tuple) and first[1].obj is data and bytes(first[1]) == data
    assert last == octets(4, 2) + octets(1, 8) + octets(1, 2) + bytes(100)
    assert side.engine.snapshot().queued_bytes == 0


@covers("RPC-49")
def test_a_long_body_that_is_not_to_leave_any_more_is_forgotten() -> None:
    side = opener()
    side.take_sent()
    for _ in range(3):
        side.engine.send_data(side.streams["ours:1"], bytes(10_000))
    assert side.engine.snapshot().queued_bytes == 3 * 10_012
    side.reset("ours:1", "CANCELLED")
    assert side.engine.snapshot().queued_bytes == 0
    assert [sent["type"] for sent in side.take_sent()] == ["RESET"]


@covers("RPC-35")
def test_a_head_with_more_body_than_a_message_may_have_is_a_fault() -> None:
    with pytest.raises(LocalProtocolError):
        streaming_side(data_bytes_max=4).open(ASKED, "abcde")
    with pytest.raises(LocalProtocolError):
        acceptor(data_bytes_max=4).head("theirs:1", ANSWER, "abcde")
    with pytest.raises(RemoteProtocolError):
        streaming_side(data_bytes_max=4).hear(head_message(1, ASKED, "abcde"))


@covers("RPC-36")
def test_trailers_end_their_half() -> None:
    side = acceptor()
    side.head("theirs:1", ANSWER, "body")
    side.trailers("theirs:1", "Server-Timing: db;dur=5\r\n")
    assert side.take_sent() == [
        head_message(1, ANSWER, "body"),
        message("TRAILERS", 1, "RESPONSE", "END", block="Server-Timing: db;dur=5\r\n"),
    ]
    with pytest.raises(LocalProtocolError):
        side.data("theirs:1", "x")
    assert side.hear(message("TRAILERS", 1, "END", block="A: b\r\n")) == [
        {"event": "trailers", "stream": "theirs:1", "block": "A: b\r\n"}
    ]
    assert side.engine.open_streams == 0


@covers("RPC-36")
@pytest.mark.parametrize("block", ["no colon\r\n", "A: b", "Content-Length: 4\r\n", "A: " + "b" * 20 + "\r\n"])
def test_trailers_that_are_not_valid_are_a_violation(block: str) -> None:
    with pytest.raises(RemoteProtocolError):
        acceptor(trailer_bytes_max=20).hear(message("TRAILERS", 1, "END", block=block))


@covers("RPC-36", "RPC-39")
def test_trailers_need_no_credit_and_no_length() -> None:
    side = acceptor(request_head(body_length=4), "abcd", window_bytes=4)
    assert len(side.hear(message("TRAILERS", 1, "END", block=""))) == 1
    side.head("theirs:1", response_head(body_length=4), "abcd")
    side.trailers("theirs:1", "")
    assert side.engine.open_streams == 0


@covers("RPC-36")
def test_trailers_over_the_limit_are_the_callers_fault() -> None:
    side = opener(trailer_bytes_max=20)
    with pytest.raises(LocalProtocolError):
        side.trailers("ours:1", "A: " + "b" * 16 + "\r\n")
    assert side.take_sent() == []


@covers("RPC-36")
def test_trailers_may_be_as_large_as_the_limit() -> None:
    block = "A: " + "b" * 15 + "\r\n"
    assert len(acceptor(trailer_bytes_max=20).hear(message("TRAILERS", 1, "END", block=block))) == 1
    opener(trailer_bytes_max=20).trailers("ours:1", block)


@covers("RPC-37")
def test_what_the_state_does_not_admit_is_the_callers_fault_when_sending() -> None:
    side = acceptor()
    with pytest.raises(LocalProtocolError):
        side.data("theirs:1", "x")
    with pytest.raises(LocalProtocolError):
        side.trailers("theirs:1", "")
    side.head("theirs:1", ANSWER)
    with pytest.raises(LocalProtocolError):
        side.head("theirs:1", ANSWER)
    side.data("theirs:1", "", True)
    for again in (lambda: side.data("theirs:1", "x"), lambda: side.trailers("theirs:1", "")):
        with pytest.raises(LocalProtocolError):
            again()
    with pytest.raises(LocalProtocolError):
        opener().head("ours:1", ANSWER)


# Credit.


@covers("RPC-39")
def test_credit_starts_as_the_window_and_bytes_in_the_head_count() -> None:
    side = opener(body="abcd", window_bytes=10)
    assert side.streams["ours:1"].credit == 6
    with pytest.raises(LocalProtocolError):
        side.data("ours:1", "1234567")
    side.data("ours:1", "123456")
    assert side.streams["ours:1"].credit == 0
    with pytest.raises(LocalProtocolError):
        side.data("ours:1", "1")
    side.data("ours:1", "", True)


@covers("RPC-39")
def test_the_head_may_carry_the_window_and_no_more() -> None:
    streaming_side(window_bytes=4).open(ASKED, "abcd")
    with pytest.raises(LocalProtocolError):
        streaming_side(window_bytes=4).open(ASKED, "abcde")
    with pytest.raises(RemoteProtocolError):
        streaming_side(window_bytes=4).hear(head_message(1, ASKED, "abcde"))
    with pytest.raises(LocalProtocolError):
        acceptor(window_bytes=4).head("theirs:1", ANSWER, "abcde")
    acceptor(window_bytes=4).head("theirs:1", ANSWER, "abcd")


@covers("RPC-17", "RPC-39")
@pytest.mark.parametrize("body, end", [("abcde", False), ("abcdefghi", False), ("abc", True)])
def test_an_open_that_is_refused_to_the_caller_leaves_nothing_behind(body: str, end: bool) -> None:
    side = streaming_side(window_bytes=4, data_bytes_max=8)
    with pytest.raises(LocalProtocolError):
        side.open(request_head(body_length=4), body, end)
    assert side.engine.open_streams == 0
    assert not side.engine.has_outgoing


@covers("RPC-33")
@pytest.mark.parametrize("size", [1, 4083, 4084, 4085, 131_072])
def test_body_bytes_arrive_whole_whether_they_are_copied_or_a_view_of_their_message(size: int) -> None:
    side, body = acceptor(), bytes(index % 251 for index in range(size))
    side.take_events()
    side.receive(encode(message("DATA", 1, body=body.decode("latin-1"))))
    (event,) = side.engine.events()
    assert isinstance(event, DataReceived)
    assert event.data == body
    assert len(event.data) == size
    assert isinstance(event.data, memoryview) == (size >= 4084), "a view keeps a small message alive for nothing"


@covers("RPC-33", "RPC-35")
def test_a_view_can_be_sent_on_as_it_is() -> None:
    side = opener(data_bytes_max=3)
    side.engine.send_data(side.streams["ours:1"], memoryview(b"-abcdefg-")[1:8], True)
    assert [(sent["body"], sent["flags"]) for sent in side.take_sent()] == [("abc", []), ("def", []), ("g", ["END"])]


@covers("RPC-39")
def test_the_default_window_is_that_of_the_document() -> None:
    side = acceptor()
    for _ in range(4):
        side.hear(message("DATA", 1, body="x" * 65_536))
    with pytest.raises(RemoteProtocolError):
        side.hear(message("DATA", 1, body="x"))


@covers("RPC-40")
def test_credit_is_given_for_what_was_taken_and_by_quarters() -> None:
    side = acceptor(body="x" * 40, window_bytes=40)
    given = []
    for _ in range(40):
        side.consumed("theirs:1", 1)
        given += [sent["credit"] for sent in side.take_sent()]
    assert given == [10, 10, 10, 10]


@covers("RPC-40")
def test_an_opener_gives_credit_back_for_the_response() -> None:
    side = opener(window_bytes=8)
    side.hear(head_message(1, ANSWER, "12345678"))
    side.consumed("ours:1", 8)
    assert side.take_sent() == [message("WINDOW", 1, credit=8)]
    assert len(side.hear(message("DATA", 1, "RESPONSE", body="12345678"))) == 1


@covers("RPC-40")
def test_no_credit_without_taking() -> None:
    side = acceptor(body="x" * 40, window_bytes=40)
    assert side.take_sent() == []
    side.consumed("theirs:1", 0)
    assert side.take_sent() == []
    with pytest.raises(LocalProtocolError):
        side.consumed("theirs:1", 41)


@covers("RPC-40", "RPC-42")
def test_no_credit_is_given_to_a_half_that_has_ended() -> None:
    side = acceptor(ASKED, "x" * 40, "END", window_bytes=40)
    side.consumed("theirs:1", 40)
    assert side.take_sent() == []


@covers("RPC-40")
def test_taking_after_the_stream_has_ended_does_nothing() -> None:
    side = acceptor(body="x" * 40, window_bytes=40)
    side.hear(reset_message(1, "CANCELLED"))
    side.consumed("theirs:1", 40)
    assert side.take_sent() == []


@covers("RPC-41")
@pytest.mark.parametrize("credit", [0, 5, 2**32 - 1])
def test_credit_beyond_the_window_is_a_violation(credit: int) -> None:
    side = opener(body="abcd", window_bytes=10)
    with pytest.raises(RemoteProtocolError):
        side.hear(message("WINDOW", 1, "RESPONSE", credit=credit))


@covers("RPC-41")
def test_credit_is_reported_and_lifts_what_may_be_sent() -> None:
    side = opener(body="abcd", window_bytes=10)
    assert side.hear(message("WINDOW", 1, "RESPONSE", credit=4)) == [{"event": "credit", "stream": "ours:1"}]
    assert side.streams["ours:1"].credit == 10


@covers("RPC-41")
@pytest.mark.parametrize("payload", [b"", b"\x00", b"\x00\x00\x01", b"\x00\x00\x00\x00\x01"])
def test_a_window_of_another_size_is_a_violation(payload: bytes) -> None:
    side = opener(body="abcd")
    with pytest.raises(RemoteProtocolError):
        side.receive(octets(7, 2) + octets(1, 8) + octets(0x8000, 2) + payload)


@covers("RPC-42")
def test_credit_for_a_half_that_has_ended_is_ignored() -> None:
    side = opener(body="abcd", end=True)
    assert side.hear(message("WINDOW", 1, "RESPONSE", credit=4)) == []
    assert side.hear(message("WINDOW", 1, "RESPONSE", credit=4)) == []
    assert len(side.hear(head_message(1, ANSWER, "", "END"))) == 1


@covers("RPC-43")
def test_a_stream_without_credit_holds_nothing_back() -> None:
    side = streaming_side(window_bytes=4)
    side.open(ASKED, "full")
    side.take_sent()
    assert side.streams["ours:1"].credit == 0
    side.open(ASKED, "free")
    side.goaway("bye")
    side.hear(message("HEARTBEAT", 3))
    side.reset("ours:1", "DEADLINE")
    assert [sent["type"] for sent in side.take_sent()] == ["GOAWAY", "HEARTBEAT", "RESET", "HEAD"]


@covers("RPC-57")
def test_what_must_wait_for_credit_goes_in_whole_pieces() -> None:
    side = opener(window_bytes=40, data_bytes_max=8)
    stream = side.streams["ours:1"]
    assert [side.engine.room(stream, wanted) for wanted in (0, 5, 40, 41, 1000)] == [0, 5, 40, 40, 40]
    side.data("ours:1", "x" * 3)
    assert [side.engine.room(stream, wanted) for wanted in (5, 37, 38)] == [5, 37, 32]
    side.data("ours:1", "x" * 30)
    assert [side.engine.room(stream, wanted) for wanted in (7, 8)] == [7, 0]


@covers("RPC-57")
@pytest.mark.parametrize("window", [1, 2, 3, 7, 8, 100, 262_144])
def test_with_half_of_the_window_there_is_always_something_to_send(window: int) -> None:
    side = streaming_side(window_bytes=window)
    stream = side.engine.open(RequestHead(b"PUT", b"/", b"", -1, b""))
    for credit in {max(1, window // 2), window - window // 4, window}:
        stream.credit = credit
        assert 0 < side.engine.room(stream, window + 1) <= credit


@covers("RPC-35")
def test_a_long_body_is_cut_so_that_each_piece_fits_two_segments() -> None:
    side = opener()
    side.data("ours:1", "x" * 262_144)
    sizes = [len(sent["body"]) for sent in side.take_sent()]
    assert sizes == [130_048, 130_048, 2_048]
    header_bytes = 12 + 14  # ours and that of a masked WebSocket frame
    assert sizes[0] + header_bytes <= 2 * 65_160, "45 segments of 1448 bytes, which is what fits 64 KiB on Ethernet"


# Long paths.

GROWING = {"window_bytes": 16, "window_bytes_max": 64, "growth_bytes_max": 40, "probe_s": 0.0}


def measured(side: EngineSide, ident: int, size: int, seconds: float = 1.0) -> list[int]:
    """So many bytes arrive, are measured and taken; the credit that is given for more than these."""
    asked = []
    while size:
        piece = min(size, 16)
        side.hear(message("DATA", ident, body="x" * piece))
        asked += side.take_sent()
        assert take(side, f"theirs:{ident}", piece) == piece
        size -= piece
    assert [value["type"] for value in asked] == ["HEARTBEAT"]
    side.now += seconds
    side.hear(message("HEARTBEAT", asked[0]["id"], "RESPONSE"))
    sent = side.take_sent()
    assert all((value["type"], value["id"]) == ("WINDOW", ident) for value in sent)
    return [value["credit"] for value in sent]


def after_silence(side: EngineSide, now: float, size: int) -> list[Value]:
    """A heartbeat is sent for silence, so many bytes arrive before its answer; what is sent for that."""
    side.timer(now)
    (asked,) = side.take_sent()
    side.hear(message("DATA", 1, body="x" * size))
    take(side, "theirs:1", size)
    side.hear(message("HEARTBEAT", asked["id"], "RESPONSE"))
    return side.take_sent()


def uploads(**limits: float) -> EngineSide:
    """Two streams of the peer with bodies to come."""
    side = streaming_side(**GROWING | limits)
    side.hear(head_message(1, ASKED), head_message(2, ASKED))
    return side


def take(side: EngineSide, name: str, size: int) -> int:
    """The owner takes so much; the credit that is given back."""
    side.consumed(name, size)
    return sum(value["credit"] for value in side.take_sent())


@covers("RPC-58")
def test_a_window_grows_by_doubling_up_to_what_is_left_for_all() -> None:
    side = uploads()
    assert measured(side, 1, 16) == [16]
    assert measured(side, 1, 32) == [24], "40 for all windows together"
    assert measured(side, 2, 16) == []
    side.hear(reset_message(1, "CANCELLED"))
    assert measured(side, 2, 16) == [16]


@covers("RPC-58")
def test_no_window_grows_beyond_the_largest_one() -> None:
    side = uploads(window_bytes_max=40)
    assert measured(side, 1, 16) == [16]
    assert measured(side, 1, 32) == [8]
    side.hear(message("DATA", 1, body="x" * 40))
    assert side.take_sent() == [], "nothing to measure for"


@covers("RPC-58", "RPC-60")
def test_the_first_bytes_of_a_connection_measure_the_round_trip_and_nothing_more() -> None:
    side = uploads()
    side.hear(message("DATA", 1, body="x" * 15))
    (asked,) = side.take_sent()
    side.consumed("theirs:1", 15)
    side.take_sent()
    side.now = 1.0
    side.hear(message("DATA", 1, body="x" * 15), message("HEARTBEAT", asked["id"], "RESPONSE"))
    assert side.engine.least_round_trip_s == 1.0
    assert side.take_sent() == []
    side.hear(message("DATA", 2, body="x" * 15))
    assert side.take_sent() == [], "once; and what is short is not measured"


@covers("RPC-58")
@pytest.mark.parametrize(
    "size, seconds, lift",
    [(11, 1.0, [16]), (10, 1.0, []), (16, 1.5, [16]), (16, 1.6, []), (16, 0.5, [16]), (10, 0.0, [])],
)
def test_two_thirds_of_the_window_within_the_least_round_trip_make_it_grow(
    size: int, seconds: float, lift: list[int]
) -> None:
    side = uploads()
    side.timer(5.0)
    side.take_sent()
    side.now = 6.0
    side.hear(message("HEARTBEAT", 1, "RESPONSE"))
    assert side.engine.least_round_trip_s == 1.0
    side.hear(message("DATA", 1, body="x" * 15))
    assert take(side, "theirs:1", 15) == 15
    assert measured(side, 1, size, seconds) == lift


@covers("RPC-58")
@pytest.mark.parametrize("end", [reset_message(1, "CANCELLED"), message("DATA", 1, "END", body="")])
def test_nothing_is_given_to_what_has_ended_meanwhile(end: Value) -> None:
    side = uploads()
    side.hear(message("DATA", 1, body="x" * 16))
    (asked,) = side.take_sent()
    side.consumed("theirs:1", 16)
    side.take_sent()
    side.now += 1.0
    side.hear(end, message("HEARTBEAT", asked["id"], "RESPONSE"))
    assert side.take_sent() == []
    assert measured(side, 2, 16) == [16]
    assert measured(side, 2, 32) == [24], "all is left for the other stream"


@covers("RPC-58")
def test_a_heartbeat_that_was_sent_for_silence_measures_nothing() -> None:
    side = uploads(window_bytes_max=1000, growth_bytes_max=1000)
    assert measured(side, 1, 16) == [16]
    assert after_silence(side, 7.0, 32) == []


@covers("RPC-59")
def test_what_a_slow_owner_takes_of_a_grown_window_is_kept_back() -> None:
    side = uploads()
    assert measured(side, 1, 16) == [16]
    side.hear(message("DATA", 1, body="x" * 32))
    (asked,) = side.take_sent()
    assert take(side, "theirs:1", 20) == 10
    assert take(side, "theirs:1", 12) == 12
    assert side.streams["theirs:1"].window_left == 22
    side.now += 3.0
    side.hear(message("HEARTBEAT", asked["id"], "RESPONSE"))
    assert side.take_sent() == []
    assert measured(side, 2, 16) == [16]
    assert measured(side, 2, 32) == [18], "what was kept back is there for others"


@covers("RPC-58")
def test_what_the_owner_of_an_ended_stream_still_holds_is_not_given_to_others() -> None:
    side = uploads()
    assert measured(side, 1, 16) == [16]
    side.hear(message("DATA", 1, "END", body="x" * 32), reset_message(1, "CANCELLED"))
    assert measured(side, 2, 16) == [16]
    assert measured(side, 2, 32) == [8]
    side.engine.consumed(side.streams["theirs:1"], 6)
    assert measured(side, 2, 40) == [6]
    side.engine.release(side.streams["theirs:1"])
    assert measured(side, 2, 46) == [10]
    assert side.engine._growth_bytes == side.streams["theirs:2"].growth_bytes


@covers("RPC-41", "RPC-58")
def test_a_reset_behind_a_response_frees_the_window_when_it_has_left() -> None:
    side = uploads()
    assert measured(side, 1, 16) == [16]
    side.head("theirs:1", ANSWER, "whole", True)
    side.reset("theirs:1", "NOT_WANTED")
    assert side.engine._growth_bytes == 16
    side.take_sent()
    assert side.engine._growth_bytes == 0


@covers("RPC-60")
def test_a_heartbeat_for_silence_ends_a_measurement() -> None:
    side = uploads()
    side.hear(message("DATA", 1, body="x" * 16))
    side.consumed("theirs:1", 16)
    assert [value["type"] for value in side.take_sent()] == ["HEARTBEAT", "WINDOW"]
    assert after_silence(side, 5.0, 16) == []


@covers("RPC-59")
@pytest.mark.parametrize("untaken, lift", [(9, []), (8, [16])])
def test_no_window_grows_for_an_owner_who_leaves_half_of_it(untaken: int, lift: list[int]) -> None:
    side = uploads()
    side.hear(message("DATA", 1, body="x" * 16))
    (asked,) = side.take_sent()
    side.consumed("theirs:1", 16 - untaken)
    side.take_sent()
    side.now += 1.0
    side.hear(message("HEARTBEAT", asked["id"], "RESPONSE"))
    assert [value["credit"] for value in side.take_sent()] == lift


@covers("RPC-60")
def test_a_measurement_waits_for_the_last_one() -> None:
    side = uploads(probe_s=3.0, window_bytes_max=1000, growth_bytes_max=1000)
    assert measured(side, 1, 16) == [16]
    side.now += 1.5
    side.hear(message("DATA", 1, body="x"))
    assert side.take_sent() == [], "too soon"
    side.now += 0.5
    side.hear(message("DATA", 1, body="x"))
    assert [value["type"] for value in side.take_sent()] == ["HEARTBEAT"]
    side.now += 4.0
    side.hear(message("DATA", 1, body="x"))
    assert side.take_sent() == [], "unanswered"


def three_responses(**limits: int) -> EngineSide:
    """Three streams of the peer that we answer; it may lift all windows by 20."""
    side = streaming_side(**{"window_bytes": 10, "window_bytes_max": 30, "growth_bytes_max": 20} | limits)
    for ident in (1, 2, 3):
        side.hear(head_message(ident, ASKED))
        side.head(f"theirs:{ident}", ANSWER)
    side.take_sent()
    return side


@covers("RPC-41")
def test_windows_may_be_lifted_only_so_far_together() -> None:
    side = three_responses()
    side.hear(message("WINDOW", 1, credit=10), message("WINDOW", 2, credit=10))
    with pytest.raises(RemoteProtocolError):
        side.hear(message("WINDOW", 3, credit=1))


@covers("RPC-41")
def test_what_has_left_makes_room_for_other_windows() -> None:
    side = three_responses()
    side.hear(message("WINDOW", 1, credit=10), message("WINDOW", 2, credit=10))
    side.data("theirs:1", "x" * 5)
    side.take_sent()
    side.hear(message("WINDOW", 3, credit=5))
    with pytest.raises(RemoteProtocolError):
        side.hear(message("WINDOW", 3, credit=1))


@covers("RPC-41")
def test_credit_for_what_has_not_left_is_a_lift_too() -> None:
    side = three_responses(data_bytes_max=1, growth_bytes_max=100)
    side.data("theirs:1", "x" * 10)
    side.hear(message("WINDOW", 1, credit=10))
    side.data("theirs:1", "x" * 10)
    side.hear(message("WINDOW", 1, credit=10))
    with pytest.raises(RemoteProtocolError):
        side.hear(message("WINDOW", 1, credit=2))


@covers("RPC-41")
def test_a_stream_that_has_ended_counts_until_it_has_left() -> None:
    side = three_responses(data_bytes_max=1)
    side.hear(message("WINDOW", 1, credit=20))
    side.data("theirs:1", "x" * 30, True)
    side.hear(message("DATA", 1, "END", body=""))
    assert side.engine.open_streams == 2
    side.hear(message("WINDOW", 2, credit=1))
    with pytest.raises(RemoteProtocolError):
        side.hear(message("WINDOW", 2, credit=1))
    side.take_sent()
    side.hear(message("WINDOW", 3, credit=9))


@covers("RPC-41")
@pytest.mark.parametrize("how", ["reset", "half"])
def test_credit_of_what_has_ended_counts_no_more(how: str) -> None:
    side = three_responses()
    side.hear(message("WINDOW", 1, credit=20))
    if how == "reset":
        side.hear(reset_message(1, "CANCELLED"))
    else:
        side.data("theirs:1", "", True)
        side.take_sent()
    side.hear(message("WINDOW", 2, credit=20))


# Turns.


@covers("RPC-44")
def test_every_kind_of_control_goes_before_what_is_queued() -> None:
    side = acceptor(body="x" * 40, window_bytes=40, streams_max=2)
    side.hear(head_message(2, ASKED))
    side.open(ASKED, "queued")
    side.head("theirs:1", ANSWER, "queued")
    side.consumed("theirs:1", 40)
    side.reset("theirs:2", "INTERNAL")
    side.timer(5.0)
    side.goaway()
    side.hear(message("HEARTBEAT", 9), message(77, 10), head_message(11, ASKED))
    kinds = [sent["type"] for sent in side.take_sent()]
    assert kinds == ["WINDOW", "RESET", "HEARTBEAT", "GOAWAY", "HEARTBEAT", 77, "RESET", "HEAD", "HEAD"]


@covers("RPC-44")
def test_control_leaves_even_when_there_is_room_for_nothing() -> None:
    side = opener()
    side.data("ours:1", "x")
    side.hear(message("HEARTBEAT", 1))
    assert [sent["type"] for sent in side.take_sent(0)] == ["HEARTBEAT"]


@covers("RPC-45")
@pytest.mark.parametrize("ahead_bytes", [0, 16_384])
def test_streams_take_turns_one_message_each(ahead_bytes: int) -> None:
    side = streaming_side(data_bytes_max=1, ahead_bytes=ahead_bytes)
    names = [side.open(ASKED) for _ in range(3)]
    side.take_sent()
    for name, body in zip(names, ("aaa", "bb", "c"), strict=True):
        side.data(name, body)
    assert [sent["id"] for sent in side.take_sent()] == [1, 2, 3, 1, 2, 1]


@covers("RPC-45", "RPC-46")
def test_turns_go_on_where_they_stopped() -> None:
    side, idents = streaming_side(data_bytes_max=1, ahead_bytes=0), []
    names = [side.open(ASKED), side.open(ASKED)]
    side.take_sent()
    for name in names:
        side.data(name, "aaaa")
    while sent := side.take_sent(1):
        assert len(sent) == 1
        idents.append(sent[0]["id"])
    assert idents == [1, 2] * 4
    assert not side.engine.has_outgoing


@covers("RPC-45")
def test_room_is_filled_but_not_far_exceeded() -> None:
    side = opener(data_bytes_max=65_536)
    side.data("ours:1", "x" * 262_144)
    assert len(side.take_sent(100_000)) == 2
    assert len(side.take_sent()) == 2


def busy(idle: int, **limits: int) -> EngineSide:
    """A side of whose streams 1 and 2 wait for their turns, with three messages each, and so many more are idle."""
    side = streaming_side(data_bytes_max=50, **limits)
    for _ in range(2 + idle):
        side.open(ASKED)
    side.take_sent()
    for name in ("ours:1", "ours:2"):
        side.data(name, "x" * 150)
    return side


@covers("RPC-61")
@pytest.mark.parametrize("size, order", [(10, [3, 1, 2, 1]), (11, [1, 2, 3, 1])])
def test_only_what_is_short_goes_ahead(size: int, order: list[int]) -> None:
    side = busy(1, ahead_bytes=22)
    side.data("ours:3", "y" * size)
    assert [sent["id"] for sent in side.take_sent()][:4] == order


@covers("RPC-26", "RPC-61")
def test_a_head_that_opens_a_stream_goes_ahead_whatever_its_size_and_what_follows_takes_turns() -> None:
    side = busy(0, ahead_bytes=40)
    side.open(ASKED, "y" * 50)
    side.data("ours:3", "z")
    assert [sent["id"] for sent in side.take_sent()][:4] == [3, 1, 2, 3]


@covers("RPC-61", "RPC-46")
@pytest.mark.parametrize("size, order", [(6, [3, 3, 1, 2, 1]), (7, [3, 1, 2, 3, 1])])
def test_what_follows_goes_ahead_while_all_of_it_is_short(size: int, order: list[int]) -> None:
    side = busy(1, ahead_bytes=40)
    side.data("ours:3", "y" * 10)
    side.data("ours:3", "z" * size)
    assert [sent["id"] for sent in side.take_sent()][:5] == order


@covers("RPC-61", "RPC-45")
def test_those_that_go_ahead_take_turns_among_themselves() -> None:
    side = busy(2, ahead_bytes=40)
    for name in ("ours:3", "ours:4"):
        side.data(name, "y")
        side.data(name, "z")
    assert [sent["id"] for sent in side.take_sent(48)] == [3, 4, 3, 4]


@covers("RPC-61")
def test_whoever_took_turns_goes_ahead_when_nothing_of_it_waits_any_more() -> None:
    side = busy(0, ahead_bytes=22)
    side.take_sent()
    side.data("ours:1", "x" * 50)
    side.data("ours:2", "y")
    assert [sent["id"] for sent in side.take_sent()] == [2, 1]


@covers("RPC-62")
def test_turns_go_on_however_much_goes_ahead() -> None:
    """Three messages of seventeen bytes are more than fifty, two are not; more in turn is not lent."""
    side = busy(7, ahead_bytes=22)
    for number in range(7):
        side.data(f"ours:{3 + number}", "y" * 5)
    assert "".join(sent["body"][0] for sent in side.take_sent()) == "yyyxyyyxyxxxx"


@covers("RPC-62")
def test_half_is_left_for_those_that_take_turns_when_their_messages_are_short_as_well() -> None:
    side = streaming_side(data_bytes_max=50, ahead_bytes=22)
    names = [side.open(ASKED) for _ in range(12)]
    side.take_sent()
    for name in names[:5]:
        side.data(name, "x" * 12)  # 24 bytes, a little more than what goes ahead
    for name in names[5:]:
        side.data(name, "y" * 8)
    assert "".join(sent["body"][0] for sent in side.take_sent()) == "yyyxyxyxyyxx"


@covers("RPC-62")
@pytest.mark.parametrize("how", ["it left", "it was reset"])
def test_what_went_ahead_of_a_stream_that_takes_no_turns_any_more_is_forgotten(how: str) -> None:
    side = streaming_side(data_bytes_max=50, ahead_bytes=22)
    names = [side.open(ASKED) for _ in range(8)]
    side.take_sent()
    side.data(names[0], "x" * 12)
    for name in names[1:4]:
        side.data(name, "y" * 8)
    assert "".join(sent["body"][0] for sent in side.take_sent(60)) == "yyy"
    if how == "it was reset":
        side.reset(names[0], "CANCELLED")
    side.take_sent()
    side.data(names[7], "x" * 12)
    for name in names[4:7]:
        side.data(name, "y" * 8)
    assert "".join(sent["body"][0] for sent in side.take_sent()) == "yyyx"


@covers("RPC-63")
def test_short_data_behind_other_data_goes_with_it() -> None:
    side = opener()
    for _ in range(5000):
        side.data("ours:1", "x")
    side.data("ours:1", "y", True)
    sent = side.take_sent()
    assert [(one["type"], len(one["body"]), one["flags"]) for one in sent] == [
        ("DATA", 1, []),
        ("DATA", 4096, []),
        ("DATA", 904, ["END"]),
    ]
    assert side.engine.snapshot().queued_bytes == 0


@covers("RPC-63")
@pytest.mark.parametrize("first, second", [(4096, 1), (1, 4096), (2049, 2048)])
def test_data_that_is_not_short_together_is_not_joined(first: int, second: int) -> None:
    side = opener()
    for size in (1, first, second):
        side.data("ours:1", "x" * size)
    assert [len(one["body"]) for one in side.take_sent()] == [1, first, second]


@covers("RPC-63")
def test_what_comes_behind_a_head_is_not_joined_with_its_body() -> None:
    side = acceptor()
    side.head("theirs:1", response_head(103, "Early Hints"))
    side.head("theirs:1", ANSWER, "head")
    side.data("theirs:1", "data")
    side.data("theirs:1", "more", True)
    assert [one["body"] for one in side.take_sent()] == ["", "head", "datamore"]


@covers("RPC-49", "RPC-61")
def test_a_reset_discards_what_would_have_gone_ahead() -> None:
    side = busy(2, ahead_bytes=40)
    for name in ("ours:3", "ours:4"):
        side.data(name, "y")
    side.reset("ours:4", "CANCELLED")
    assert [(sent["type"], sent["id"]) for sent in side.take_sent()[:3]] == [("RESET", 4), ("DATA", 3), ("DATA", 1)]


@covers("RPC-33", "RPC-35", "RPC-45")
def test_long_data_is_cut_for_little_room_and_takes_a_turn_for_each_piece() -> None:
    side = opener(ahead_bytes=0)
    side.open(ASKED)
    side.take_sent()
    side.data("ours:1", "a" * 9000 + "b", True)
    side.data("ours:2", "c" * 5000)
    side.data("ours:2", "d" * 5000, True)
    pieces = []
    while sent := side.take_sent(4096):
        pieces += [(value["id"], value["body"][-1], len(value["body"]), *value["flags"]) for value in sent]
    assert side.engine.snapshot().queued_bytes == 0
    assert pieces == [
        (1, "a", 4096),
        (2, "c", 4096),
        (1, "a", 4096),
        (2, "c", 904),
        (1, "b", 809, "END"),
        (2, "d", 4096),
        (2, "d", 904, "END"),
    ]


@covers("RPC-33")
@pytest.mark.parametrize("size, room, sizes", [(4096, 1, [4096]), (4097, 1, [4096, 1]), (9000, 9000, [9000])])
def test_it_is_not_cut_without_need(size: int, room: int, sizes: list[int]) -> None:
    side = acceptor(ahead_bytes=0)
    side.head("theirs:1", ANSWER)
    side.take_sent()
    side.data("theirs:1", "x" * size)
    pieces = []
    while sent := side.take_sent(room):
        pieces += sent
    assert [len(value["body"]) for value in pieces] == sizes
    assert all(value["flags"] == ["RESPONSE"] for value in pieces)


@covers("RPC-49")
def test_a_reset_discards_the_rest_of_what_was_cut() -> None:
    side = opener(ahead_bytes=0)
    side.data("ours:1", "x" * 10_000)
    side.take_sent(4096)
    side.reset("ours:1", "CANCELLED")
    assert [sent["type"] for sent in side.take_sent()] == ["RESET"]
    assert side.engine.snapshot().queued_bytes == 0


def test_little_that_goes_ahead_is_more_than_control() -> None:
    side = opener()
    side.take_sent()
    side.hear(message("HEARTBEAT", 1))
    assert side.engine.has_only_control
    side.data("ours:1", "x")
    assert not side.engine.has_only_control


@covers("RPC-47")
def test_reading_stops_while_the_peer_does_not_take_its_answers() -> None:
    side = streaming_side(control_bytes_max=1024)
    heard = 0
    while side.engine.wants_reading:
        side.hear(message("HEARTBEAT", heard))
        heard += 1
        assert heard < 1000
    assert side.engine.snapshot().control_bytes <= 1024 + 12
    assert heard == 1024 // 12 + 1
    assert len(side.take_sent(0)) == heard
    assert side.engine.wants_reading
    assert side.engine.snapshot().control_bytes == 0


# Ending early.


@covers("RPC-48", "RPC-12")
@pytest.mark.parametrize("when", ["opened", "head", "body", "half closed"])
def test_either_side_may_reset_at_any_time(when: str) -> None:
    for resetting in (0, 1):
        pair = Pair(streaming_side(), streaming_side())
        name = pair.sides[0].open(ASKED)
        pair.post(0)
        pair.deliver(1)
        right = pair.sides[1]
        right.take_events()
        if when != "opened":
            right.head("theirs:1", ANSWER, "" if when == "head" else "x", when == "half closed")
        pair.post(1)
        pair.deliver(0)
        pair.sides[0].take_events()
        pair.sides[resetting].reset((name, "theirs:1")[resetting], "INTERNAL", reason="why")
        pair.post(resetting)
        pair.deliver(1 - resetting)
        [event] = pair.sides[1 - resetting].take_events()
        assert (event["event"], event["code"], event["reason"]) == ("reset", "INTERNAL", "why")
        assert pair.sides[resetting].take_events() == []
        assert [side.engine.open_streams for side in pair.sides] == [0, 0]


@covers("RPC-49")
def test_what_is_queued_is_discarded_with_the_stream() -> None:
    side = opener()
    other = side.open(ASKED)
    side.data("ours:1", "x" * 200_000)
    side.data(other, "kept")
    side.reset("ours:1", "CANCELLED")
    assert [(sent["type"], sent["id"]) for sent in side.take_sent()] == [("RESET", 1), ("HEAD", 2), ("DATA", 2)]
    assert side.engine.snapshot().queued_bytes == 0


@covers("RPC-49")
def test_what_is_queued_is_discarded_when_the_peer_resets() -> None:
    side = opener()
    side.data("ours:1", "x" * 200_000)
    side.hear(reset_message(1, "INTERNAL", "RESPONSE"))
    assert side.engine.snapshot().queued_bytes == 0
    assert side.take_sent() == []
    assert not side.engine.has_outgoing


@covers("RPC-49")
@pytest.mark.parametrize("ahead_bytes", [0, 10_000])
def test_to_discard_what_is_queued_costs_the_same_however_much_is(ahead_bytes: int) -> None:
    costs = []
    for count in (10, 1000):
        side = streaming_side(ahead_bytes=ahead_bytes)
        names = [side.open(ASKED, "x") for _ in range(count)]
        costs.append(calls_of(lambda side=side, name=names[-2]: side.reset(name, "CANCELLED")))
        sent = [value["id"] for value in side.take_sent() if value["type"] == "HEAD"]
        assert sent == [*range(1, count - 1), count]
    assert costs[0] == costs[1]


@covers("RPC-49")
@pytest.mark.parametrize("ahead_bytes", [0, 10_000])
def test_what_was_discarded_is_not_kept_while_nothing_leaves(ahead_bytes: int) -> None:
    side = streaming_side(ahead_bytes=ahead_bytes)
    first = side.open(ASKED, "x")
    last = [side.open(ASKED, "x") for _ in range(3)]
    for _ in range(1000):
        name = side.open(ASKED, "x")
        side.reset(name, "CANCELLED")
        assert len(side.engine._ahead) + len(side.engine._ring) <= 2 * (1 + len(last))
    for name in (first, *last):
        side.reset(name, "CANCELLED")
    assert not side.engine.has_outgoing
    assert side.engine.snapshot().queued_bytes == 0


@covers("RPC-49")
@pytest.mark.parametrize("ahead_bytes", [0, 10_000])
@pytest.mark.parametrize("discarded", [(4, 5, 6), (1, 2, 3), (2, 4, 6), (5, 6, 7)])
def test_what_was_discarded_leaves_no_trace_in_what_leaves(ahead_bytes: int, discarded: tuple[int, ...]) -> None:
    side = streaming_side(ahead_bytes=ahead_bytes)
    names = [side.open(ASKED, "x") for _ in range(7)]
    for number in discarded:
        side.reset(names[number - 1], "CANCELLED")
    sent = [value["id"] for value in side.take_sent()]
    assert sent == [number for number in range(1, 8) if number not in discarded]
    assert not side.engine.has_outgoing


@covers("RPC-62")
def test_a_turn_that_was_discarded_is_no_turn_that_is_waited_for() -> None:
    """Only where somebody waits for a turn is what goes ahead counted against it."""
    side = opener(ahead_bytes=100, data_bytes_max=200)
    side.data("ours:1", "x" * 150)  # takes turns
    small = [side.open(ASKED, "y") for _ in range(9)]
    side.reset("ours:1", "CANCELLED")
    sent = [value["id"] for value in side.take_sent() if value["type"] == "HEAD"]
    assert len(sent) == len(small)
    assert side.engine._ahead_bytes == 0


@covers("RPC-49")
def test_no_reset_is_sent_for_a_head_that_never_left() -> None:
    side = streaming_side()
    side.reset(side.open(ASKED, "x"), "CANCELLED")
    assert side.take_sent() == []
    assert side.engine.snapshot().queued_bytes == 0


@covers("RPC-49")
def test_an_acceptor_resets_even_before_its_own_head_has_left() -> None:
    side = acceptor()
    side.head("theirs:1", ANSWER)
    side.reset("theirs:1", "INTERNAL")
    assert [sent["type"] for sent in side.take_sent()] == ["RESET"]


@covers("RPC-50")
@pytest.mark.parametrize("before, believed", [([], True), ([103], True), ([200], False), ([103, 404], False)])
def test_untouched_is_believed_until_a_final_head_has_come(before: list[int], believed: bool) -> None:
    side = opener()
    side.hear(*(head_message(1, response_head(status)) for status in before))
    [event] = side.hear(reset_message(1, "SERVICE_UNREACHABLE", "RESPONSE", untouched=True))
    assert event["untouched"] is believed


@covers("RPC-50")
def test_untouched_is_not_believed_from_an_opener() -> None:
    [event] = acceptor().hear(reset_message(1, "CANCELLED", untouched=True))
    assert event["untouched"] is False


@covers("RPC-50")
def test_untouched_is_sent_as_the_owner_says() -> None:
    for untouched in (False, True):
        side = acceptor()
        side.reset("theirs:1", "SERVICE_UNREACHABLE", untouched=untouched, reason="refused")
        assert side.take_sent() == [
            reset_message(1, "SERVICE_UNREACHABLE", "RESPONSE", untouched=untouched, reason="refused")
        ]


@covers("RPC-51")
@pytest.mark.parametrize("code", [0, 12, 14, 255, 256, 65535])
def test_an_unknown_code_is_read_as_internal(code: int) -> None:
    side = opener()
    side.receive(octets(6, 2) + octets(1, 8) + octets(0x8000, 2) + octets(code, 2) + b"\x00" + b"\xc3(\xff")
    [event] = side.take_events()
    assert event["code"] == "INTERNAL"
    assert event["reason"].startswith("\ufffd(")


@covers("RPC-51")
def test_only_an_opener_says_that_the_client_went_away() -> None:
    [event] = opener().hear(reset_message(1, "CANCELLED", "RESPONSE"))
    assert event["code"] == "INTERNAL"
    [event] = acceptor().hear(reset_message(1, "CANCELLED"))
    assert event["code"] == "CANCELLED"


@covers("RPC-51")
def test_a_long_reason_is_cut_before_it_is_sent() -> None:
    side = acceptor()
    side.reset("theirs:1", "INTERNAL", reason="ü" * 300)
    [sent] = side.engine.outgoing(1)
    assert 250 <= len(sent) - 15 <= 256
    assert opener().engine.receive_message(sent, now=0.0) is None


@covers("RPC-51", "RPC-56")
def test_a_reason_that_has_no_utf_8_is_sent_as_well_as_it_can_be() -> None:
    side = acceptor()
    side.goaway("\udc80 gone")
    side.reset("theirs:1", "INTERNAL", reason="\udc80 bad")
    assert [sent["reason"] for sent in side.take_sent()] == ["? gone", "? bad"]


@covers("RPC-50", "RPC-56")
def test_an_owner_that_says_nothing_more_says_touched_and_gives_no_reason() -> None:
    side = acceptor()
    side.engine.reset(side.streams["theirs:1"], ResetCode.INTERNAL)
    side.engine.goaway()
    assert side.take_sent() == [reset_message(1, "INTERNAL", "RESPONSE"), message("GOAWAY", 0, reason="")]


@covers("RPC-51")
def test_the_code_that_nobody_sends_is_not_sent() -> None:
    with pytest.raises(LocalProtocolError):
        acceptor().reset("theirs:1", "LOST")


@covers("RPC-52")
def test_resets_that_cross_end_the_stream_once_on_each_side() -> None:
    pair = Pair(streaming_side(), streaming_side())
    pair.sides[0].open(ASKED)
    pair.post(0)
    pair.deliver(1)
    pair.sides[1].take_events()
    pair.sides[0].reset("ours:1", "CANCELLED")
    pair.sides[1].reset("theirs:1", "INTERNAL")
    pair.post(0)
    pair.post(1)
    pair.deliver(0)
    pair.deliver(1)
    for side in pair.sides:
        assert side.take_events() == []
        assert side.engine.late_messages == 1
        assert side.take_sent() == []


@covers("RPC-52")
def test_a_reset_that_crosses_the_end_is_dropped() -> None:
    side = opener(end=True)
    side.hear(head_message(1, ANSWER, "", "END"))
    assert side.hear(reset_message(1, "INTERNAL", "RESPONSE")) == []
    assert side.engine.late_messages == 1


@covers("RPC-48")
def test_a_second_reset_by_the_owner_does_nothing() -> None:
    side = opener()
    side.reset("ours:1", "CANCELLED")
    side.reset("ours:1", "DEADLINE")
    assert [sent["code"] for sent in side.take_sent()] == ["CANCELLED"]
    side.data("ours:1", "x")
    side.trailers("ours:1", "")
    assert side.take_sent() == []


@covers("RPC-53", "RPC-50")
def test_a_reset_after_a_complete_response_only_stops_the_request() -> None:
    side = opener()
    events = side.hear(
        head_message(1, ANSWER, "whole", "END"), reset_message(1, "NOT_WANTED", "RESPONSE", untouched=True)
    )
    assert [(event["event"], event.get("end")) for event in events] == [("head", True), ("reset", None)]
    assert events[1]["code"] == "NOT_WANTED"
    assert events[1]["untouched"] is False
    side.data("ours:1", "no more")
    assert side.take_sent() == []


@covers("RPC-53")
@pytest.mark.parametrize("left", [0, 1, 2])
def test_a_complete_response_leaves_before_the_word_that_the_rest_is_not_wanted(left: int) -> None:
    """Control goes first (RPC-44), yet a reset must not overtake the response that it lets stand."""
    side = acceptor()
    side.head("theirs:1", ANSWER, "whole")
    side.data("theirs:1", "answer", True)
    sent = [one for _ in range(left) for one in side.take_sent(1)]
    side.reset("theirs:1", "NOT_WANTED")
    assert side.engine.open_streams == 0
    sent += side.take_sent()
    assert [one["type"] for one in sent] == ["HEAD", "DATA", "RESET"]
    assert sent[-1] == reset_message(1, "NOT_WANTED", "RESPONSE")


# Going away.


@covers("RPC-54")
def test_after_goaway_new_streams_are_refused_and_open_ones_go_on() -> None:
    side = acceptor()
    side.goaway("moving")
    side.goaway("twice")
    assert side.take_sent() == [message("GOAWAY", 0, reason="moving")]
    assert side.engine.goaway_sent
    assert side.hear(head_message(2, ASKED)) == []
    [refusal] = side.take_sent()
    assert (refusal["code"], refusal["untouched"], refusal["id"]) == ("REFUSED", True, 2)
    side.head("theirs:1", ANSWER, "still here", True)
    assert side.take_sent() == [head_message(1, ANSWER, "still here", "END")]


@covers("RPC-54")
def test_a_side_that_goes_away_may_still_open_streams() -> None:
    side = streaming_side()
    side.goaway()
    assert side.engine.may_open
    side.open(ASKED)


@covers("RPC-55")
def test_after_hearing_goaway_opening_is_the_callers_fault() -> None:
    side = opener()
    assert side.hear(message("GOAWAY", 0, reason="moving")) == [{"event": "goaway", "reason": "moving"}]
    assert side.engine.goaway_received
    assert not side.engine.may_open
    with pytest.raises(LocalProtocolError):
        side.open(ASKED)
    side.data("ours:1", "goes on")
    assert side.take_sent() == [message("DATA", 1, body="goes on")]


@covers("RPC-56")
def test_goaway_has_no_id_and_a_bounded_reason() -> None:
    with pytest.raises(RemoteProtocolError):
        streaming_side().hear(message("GOAWAY", 1, reason=""))
    with pytest.raises(RemoteProtocolError):
        streaming_side().hear(message("GOAWAY", 0, reason="x" * 257))
    side = streaming_side()
    assert len(side.hear(message("GOAWAY", 0, reason="x" * 256), message("GOAWAY", 0, reason="again"))) == 1
    side.goaway("y" * 1000)
    [sent] = side.take_sent()
    assert sent == message("GOAWAY", 0, reason="y" * 256)


@covers("RPC-56")
def test_the_reason_of_goaway_is_read_leniently() -> None:
    side = streaming_side()
    side.receive(octets(8, 2) + octets(0, 8) + octets(0, 2) + b"bye \xff")
    assert side.take_events() == [{"event": "goaway", "reason": "bye \ufffd"}]


# What one connection holds.


def test_the_first_bytes_may_be_as_many_as_one_message_and_the_window_allow() -> None:
    assert streaming_side().engine.first_bytes_max == 130_048
    assert streaming_side(window_bytes=7).engine.first_bytes_max == 7
    assert streaming_side(data_bytes_max=9).engine.first_bytes_max == 9


def test_nothing_is_sent_and_nothing_ended_that_was_not_asked_for() -> None:
    side = acceptor()
    theirs, context = side.streams["theirs:1"], object()
    ours = side.engine.open(RequestHead(b"GET", b"/", b"", -1, b""), context=context)
    side.engine.send_head(theirs, ResponseHead(200, b"", b"", -1, b""))
    side.engine.send_data(theirs, b"x")
    assert ours.context is context
    assert theirs.context is None
    assert [(sent["flags"], sent["body"]) for sent in side.take_sent()] == [
        ([], ""),
        (["RESPONSE"], ""),
        (["RESPONSE"], "x"),
    ]


@covers("RPC-13", "RPC-54", "RPC-55")
def test_the_snapshot_says_how_the_connection_stands() -> None:
    side = streaming_side()
    snapshot = side.engine.snapshot()
    assert (snapshot.late_messages, snapshot.goaway_sent, snapshot.goaway_received) == (0, False, False)
    side.hear(message("HEARTBEAT", 1, "RESPONSE"))
    side.goaway()
    snapshot = side.engine.snapshot()
    assert (snapshot.late_messages, snapshot.goaway_sent, snapshot.goaway_received) == (1, True, False)
    side.hear(message("GOAWAY", 0, reason=""))
    assert side.engine.snapshot().goaway_received is True


@covers("RPC-12", "RPC-40")
def test_the_snapshot_counts_what_is_held() -> None:
    engine = StreamingEngine(RpcLimits(), now=0.0)
    side = EngineSide(engine)
    side.hear(head_message(1, ASKED, "received"))
    side.open(ASKED, "queued")
    side.hear(message("HEARTBEAT", 5))
    snapshot = engine.snapshot()
    assert (snapshot.opened, snapshot.accepted, snapshot.held_bytes) == (1, 1, 8)
    assert snapshot.queued_bytes >= 6
    assert snapshot.control_bytes == 12
    side.take_sent()
    side.consumed("theirs:1", 8)
    side.reset("ours:1", "CANCELLED")
    snapshot = engine.snapshot()
    assert (snapshot.opened, snapshot.held_bytes, snapshot.queued_bytes) == (0, 0, 0)


def test_a_stream_says_in_a_log_whose_it_is_and_where_it_stands() -> None:
    side = opener()
    side.hear(head_message(7, ASKED, "", "END"))
    assert repr(side.streams["ours:1"]) == "<RpcStream 1 ours sending=BODY receiving=HEAD>"
    assert repr(side.streams["theirs:7"]) == "<RpcStream 7 theirs sending=HEAD receiving=ENDED>"


@covers("RPC-48")
def test_whoever_has_not_yet_heard_of_the_end_may_still_try_to_send() -> None:
    side = acceptor()
    side.hear(reset_message(1, "CANCELLED"))
    side.head("theirs:1", ANSWER, "x")
    side.data("theirs:1", "y", True)
    side.trailers("theirs:1", "")
    assert side.take_sent() == []
    assert side.engine.open_streams == 0


def test_the_engine_says_whether_there_is_something_to_be_told() -> None:
    side = streaming_side()
    assert not side.engine.has_events
    side.receive(encode(head_message(1, ASKED)))
    assert side.engine.has_events
    side.take_events()
    assert not side.engine.has_events
