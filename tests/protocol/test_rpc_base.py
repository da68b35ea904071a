"""The base engine rule by rule: this goes in, this comes out, in order. The vectors hold the plain cases."""

from __future__ import annotations

import pytest

from pico.errors import LocalProtocolError, RemoteProtocolError
from pico.protocol.http.values import RequestHead, ResponseHead
from tests.rpc_side import EngineSide, Pair, base_side, head_message, message, request_head, response_head
from tests.rpc_slow import Value, encode, octets, split_http
from tests.rules import covers

GET = request_head(target="/a", body_length=0)
POST = request_head("POST", "/a")
WIRE_GET = "GET /a HTTP/1.1\r\nHost: a.example\r\n\r\n"


def request(ident: int, payload: str = WIRE_GET) -> Value:
    return message("PROXY-HTTP", ident, payload=payload)


def response(ident: int, payload: str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok") -> Value:
    return message("PROXY-HTTP", ident, "RESPONSE", payload=payload)


def opener(head: Value = GET, **limits: int) -> EngineSide:
    side = base_side(**limits)
    side.open(head, end=True)
    side.take_sent()
    return side


def acceptor(payload: str = WIRE_GET, **limits: int) -> EngineSide:
    side = base_side(**limits)
    side.hear(request(1, payload))
    return side


def answers(side: EngineSide) -> list[tuple[int, str, str]]:
    """ID, status and body of each response that leaves."""
    parts = [(sent["id"], split_http(sent["payload"])) for sent in side.take_sent() if sent["type"] == "PROXY-HTTP"]
    return [(ident, part["start"][1], part["body"]) for ident, part in parts]


@covers("RPC-18", "RPC-6", "RPC-12")
def test_a_call_between_two_engines() -> None:
    pair = Pair(base_side(), base_side())
    left, right = pair.sides
    head = request_head("POST", "/a?b", "Host: a.example\r\nX-A: b\r\n", 4)
    left.open(head, "ab")
    assert pair.post(0) == []
    left.data("ours:1", "cd", True)
    assert len(pair.post(0)) == 1
    pair.deliver(1)
    assert right.take_events() == [{"event": "opened", "stream": "theirs:1", "head": head, "body": "abcd", "end": True}]
    answer = response_head(201, "Created", "X-C: d\r\n", 3)
    right.head("theirs:1", answer, "e")
    assert pair.post(1) == []
    right.data("theirs:1", "fg", True)
    pair.post(1)
    pair.deliver(0)
    assert left.take_events() == [{"event": "head", "stream": "ours:1", "head": answer, "body": "efg", "end": True}]
    assert [side.engine.open_streams for side in pair.sides] == [0, 0]


@covers("RPC-18")
def test_trailers_and_a_body_of_unknown_length_pass() -> None:
    pair = Pair(base_side(), base_side())
    left, right = pair.sides
    left.open(POST, "body")
    left.trailers("ours:1", "X-T: u\r\n")
    pair.post(0)
    pair.deliver(1)
    events = right.take_events()
    assert [(event["event"], event.get("body"), event.get("end")) for event in events] == [
        ("opened", "body", False),
        ("trailers", None, None),
    ]
    assert events[1]["block"] == "X-T: u\r\n"
    right.head("theirs:1", response_head(), "answer")
    right.trailers("theirs:1", "X-V: w\r\n")
    pair.post(1)
    pair.deliver(0)
    events = left.take_events()
    assert [(event["event"], event.get("body"), event.get("end")) for event in events] == [
        ("head", "answer", False),
        ("trailers", None, None),
    ]
    assert events[1]["block"] == "X-V: w\r\n"
    assert [side.engine.open_streams for side in pair.sides] == [0, 0]


@covers("RPC-18", "RPC-34")
def test_a_response_to_head_declares_a_length_and_has_no_body() -> None:
    pair = Pair(base_side(), base_side())
    left, right = pair.sides
    left.open(request_head("HEAD", body_length=0), end=True)
    pair.post(0)
    pair.deliver(1)
    right.take_events()
    right.head("theirs:1", response_head(body_length=900), "", True)
    pair.post(1)
    pair.deliver(0)
    [event] = left.take_events()
    assert (event["event"], event["head"]["body_length"], event["body"], event["end"]) == ("head", 900, "", True)


@covers("RPC-19", "RPC-14")
@pytest.mark.parametrize("order", [[1, 2, 3], [3, 2, 1], [2, 3, 1]])
def test_responses_come_in_any_order(order: list[int]) -> None:
    side = base_side()
    for _ in range(3):
        side.open(GET, end=True)
    side.take_sent()
    events = side.hear(*(response(i, f"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{i}") for i in order))
    assert [(event["stream"], event["body"]) for event in events] == [(f"ours:{i}", str(i)) for i in order]


@covers("RPC-19", "RPC-2")
def test_a_second_request_with_the_id_of_an_open_call_is_a_violation() -> None:
    side = acceptor()
    with pytest.raises(RemoteProtocolError):
        side.hear(request(1))


@covers("RPC-20")
@pytest.mark.parametrize("declared", [-1, 5])
def test_a_request_over_the_limit_ends_untouched_and_is_not_sent(declared: int) -> None:
    side = base_side(base_body_bytes_max=4)
    side.open({**POST, "body_length": declared}, "abcde")
    [event] = side.take_events()
    assert (event["event"], event["code"], event["untouched"]) == ("reset", "TOO_LARGE", True)
    assert side.take_sent() == []
    assert side.engine.open_streams == 0


@covers("RPC-20")
def test_the_credit_lets_an_owner_find_out_that_a_body_is_too_large() -> None:
    side = base_side(base_body_bytes_max=4)
    side.open(POST)
    assert side.streams["ours:1"].credit == 5
    side.data("ours:1", "abcd")
    assert side.streams["ours:1"].credit == 1
    with pytest.raises(LocalProtocolError):
        side.data("ours:1", "ef")
    side.data("ours:1", "e")
    assert [event["code"] for event in side.take_events()] == ["TOO_LARGE"]


@covers("RPC-20")
def test_a_declared_length_as_large_as_the_limit_is_sent() -> None:
    side = base_side(base_body_bytes_max=4)
    side.open({**POST, "body_length": 4}, "abcd", True)
    assert side.take_events() == []
    assert len(side.take_sent()) == 1


@covers("RPC-20")
def test_an_acceptor_has_the_same_credit() -> None:
    assert acceptor(base_body_bytes_max=4).streams["theirs:1"].credit == 5


def test_the_first_bytes_may_be_a_whole_body_and_one_byte_more() -> None:
    assert base_side(base_body_bytes_max=4).engine.first_bytes_max == 5


def test_nothing_is_sent_and_nothing_ended_that_was_not_asked_for() -> None:
    side = acceptor()
    theirs, context = side.streams["theirs:1"], object()
    ours = side.engine.open(RequestHead(b"POST", b"/", b"", -1, b""), context=context)
    side.engine.send_head(theirs, ResponseHead(200, b"", b"", -1, b""))
    side.engine.send_data(theirs, b"x")
    assert side.take_sent() == []
    side.engine.send_data(theirs, b"", True)
    side.engine.send_data(ours, b"y", True)
    assert ours.context is context
    assert theirs.context is None
    assert [split_http(sent["payload"])["body"] for sent in side.take_sent()] == ["x", "y"]


@covers("RPC-20")
def test_a_response_over_the_limit_is_replaced_by_an_error() -> None:
    side = acceptor(base_body_bytes_max=4)
    side.head("theirs:1", response_head(), "abcd")
    side.data("theirs:1", "e")
    assert [event["code"] for event in side.take_events()] == ["TOO_LARGE"]
    [(ident, status, body)] = answers(side)
    assert (ident, status) == (1, "502")
    assert "abcd" not in body
    side.data("theirs:1", "more")
    assert side.take_sent() == []


@covers("RPC-20")
def test_a_response_over_the_limit_is_not_taken() -> None:
    side = opener(base_body_bytes_max=4)
    [event] = side.hear(response(1, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabcde"))
    assert (event["event"], event["code"], event["untouched"]) == ("reset", "TOO_LARGE", False)


@covers("RPC-20")
def test_bodies_as_large_as_the_limit_pass() -> None:
    side = opener(base_body_bytes_max=4)
    [event] = side.hear(response(1, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabcd"))
    assert event["body"] == "abcd"
    side = acceptor("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nabcd", base_body_bytes_max=4)
    side.head("theirs:1", response_head(), "abcd", True)
    assert answers(side) == [(1, "200", "abcd")]


@covers("RPC-20", "RPC-22")
def test_a_request_over_the_limit_is_not_taken() -> None:
    side = base_side(base_body_bytes_max=4)
    assert side.hear(request(1, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nabcde")) == []
    [(_, status, _)] = answers(side)
    assert status in ("400", "413")


@covers("RPC-21")
def test_a_response_that_is_not_http_ends_its_own_call_and_nothing_else() -> None:
    side = opener()
    side.open(GET, end=True)
    side.take_sent()
    [event] = side.hear(response(1, "\x00"))
    assert (event["stream"], event["code"], event["untouched"]) == ("ours:1", "SERVICE_MALFORMED", False)
    assert len(event["reason"]) > 10  # It says what is wrong.
    assert [event["event"] for event in side.hear(response(2))] == ["head"]


@covers("RPC-21", "RPC-30")
def test_informational_responses_before_the_final_one_are_told() -> None:
    side = opener()
    events = side.hear(response(1, "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n"))
    assert [(event["head"]["status"], event["body"], event["end"]) for event in events] == [
        (103, "", False),
        (204, "", True),
    ]


@covers("RPC-21")
def test_an_informational_response_alone_is_not_a_whole_response() -> None:
    [event] = opener().hear(response(1, "HTTP/1.1 103 Early Hints\r\n\r\n"))
    assert event["code"] == "SERVICE_MALFORMED"


@covers("RPC-22")
def test_a_request_that_is_not_http_is_answered_and_forgotten() -> None:
    side = acceptor("nonsense")
    assert side.engine.open_streams == 0
    assert [(ident, status) for ident, status, _ in answers(side)] == [(1, "400")]
    assert [event["event"] for event in side.hear(request(1))] == ["opened"]


@covers("RPC-22")
def test_the_answer_to_a_request_that_is_not_http_says_what_is_wrong() -> None:
    said = set()
    for payload in ("nonsense", "GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n", WIRE_GET + "more"):
        said.add(answers(acceptor(payload))[0][2])
    assert len(said) == 3


@covers("RPC-23")
def test_an_upgrade_is_refused_untouched() -> None:
    side = base_side()
    side.open(request_head(upgrade="websocket"))
    [event] = side.take_events()
    assert (event["code"], event["untouched"]) == ("REFUSED", True)
    assert side.take_sent() == []
    with pytest.raises(LocalProtocolError):
        acceptor().head("theirs:1", response_head(101, upgrade="websocket"))


@covers("RPC-24", "RPC-12")
def test_a_call_that_its_owner_resets_is_answered_once() -> None:
    side = acceptor()
    side.head("theirs:1", response_head(), "half")
    side.reset("theirs:1", "SERVICE_TIMEOUT")
    side.reset("theirs:1", "INTERNAL")
    [(ident, status, body)] = answers(side)
    assert (ident, status) == (1, "504")
    assert "half" not in body
    assert side.take_events() == []
    assert side.engine.open_streams == 0


@covers("RPC-25", "RPC-47")
def test_requests_over_the_limit_are_answered_one_by_one_until_reading_stops() -> None:
    side = acceptor(base_streams_max=1, control_bytes_max=4096)
    heard = 1
    while side.engine.wants_reading:
        heard += 1
        assert side.hear(request(heard)) == []
        assert heard < 1000
    snapshot = side.engine.snapshot()
    assert snapshot.queued_bytes + snapshot.control_bytes < 8192
    assert {status for _, status, _ in answers(side)} == {"503"}
    assert side.engine.wants_reading


@covers("RPC-22", "RPC-47")
def test_nonsense_is_answered_until_reading_stops() -> None:
    side = base_side(control_bytes_max=4096)
    heard = 0
    while side.engine.wants_reading:
        heard += 1
        side.hear(request(heard, "nonsense"))
        assert heard < 1000
    assert len(answers(side)) == heard


@covers("RPC-25")
def test_a_call_counts_until_its_answer_has_left() -> None:
    side = acceptor(base_streams_max=1)
    side.head("theirs:1", response_head(), "ok", True)
    assert side.hear(request(2)) == []
    assert sorted(answers(side))[0] == (1, "200", "ok")
    assert len(side.hear(request(3))) == 1


@covers("RPC-17")
def test_one_call_more_than_the_limit_is_the_callers_fault() -> None:
    side = opener(base_streams_max=1)
    assert not side.engine.may_open
    with pytest.raises(LocalProtocolError):
        side.open(GET, end=True)
    side.hear(response(1))
    assert side.engine.may_open


@covers("RPC-13", "RPC-12")
def test_a_cancelled_call_waits_for_nobody_and_its_late_answer_is_dropped() -> None:
    side = opener()
    side.reset("ours:1", "CANCELLED")
    assert side.engine.open_streams == 0
    assert side.hear(response(1), response(1)) == []
    assert side.engine.late_messages == 2
    assert side.take_sent() == []


@covers("RPC-13")
def test_an_answer_to_what_has_not_been_asked_is_dropped() -> None:
    side = base_side()
    side.open(POST, "not sent yet")
    assert side.hear(response(1), response(7)) == []
    assert side.engine.late_messages == 2
    assert side.engine.open_streams == 1


@covers("RPC-3", "RPC-4")
@pytest.mark.parametrize("kind", [0, 3, 4, 5, 6, 7, 8, 9, 65535])
def test_messages_of_the_extension_are_unknown_here(kind: int) -> None:
    side = acceptor()
    side.receive(octets(kind, 2) + octets(9, 8) + octets(0, 2) + b"payload")
    assert side.engine.outgoing(1) == [octets(kind, 2) + octets(9, 8) + b"\xc0\x00"]
    side.receive(octets(kind, 2) + octets(9, 8) + octets(0x8000, 2) + b"payload")
    assert not side.engine.has_outgoing
    assert side.engine.late_messages == 1


@covers("RPC-16")
def test_a_peer_that_does_not_know_the_call_refuses_it_untouched() -> None:
    side = opener()
    [event] = side.hear(message("PROXY-HTTP", 1, "RESPONSE", "UNSUPPORTED"))
    assert (event["code"], event["untouched"]) == ("REFUSED", True)
    assert side.hear(head_message(1, response_head()) | {"flags": ["RESPONSE", "UNSUPPORTED"]}) == []


@covers("RPC-15")
def test_a_call_that_is_still_gathered_is_untouched_when_the_connection_is_lost() -> None:
    side = opener()
    side.open(POST, "gathering")
    side.open(GET, end=True)
    side.hear(request(5))
    side.lost()
    assert {(event["stream"], event["untouched"]) for event in side.take_events()} == {
        ("ours:1", False),
        ("ours:2", True),
        ("ours:3", True),
        ("theirs:5", False),
    }


@covers("RPC-34", "RPC-38")
def test_an_incomplete_body_is_never_sent_as_a_whole_one() -> None:
    side = base_side()
    side.open({**POST, "body_length": 4}, "abc")
    with pytest.raises(LocalProtocolError):
        side.data("ours:1", "", True)
    assert side.take_sent() == []
    with pytest.raises(LocalProtocolError):
        side.open({**POST, "body_length": 4}, "abc", True)
    assert side.engine.open_streams == 1
    side = acceptor()
    with pytest.raises(LocalProtocolError):
        side.head("theirs:1", response_head(body_length=4), "abcde", True)
    side.reset("theirs:1", "SERVICE_CLOSED")
    assert [status for _, status, _ in answers(side)] == ["502"]


@covers("RPC-37")
def test_what_the_state_does_not_admit_is_the_callers_fault() -> None:
    side = acceptor()
    with pytest.raises(LocalProtocolError):
        side.data("theirs:1", "x")
    with pytest.raises(LocalProtocolError):
        side.trailers("theirs:1", "")
    side.head("theirs:1", response_head())
    with pytest.raises(LocalProtocolError):
        side.head("theirs:1", response_head())
    with pytest.raises(LocalProtocolError):
        opener().head("ours:1", response_head())


@covers("RPC-8", "RPC-9", "RPC-10", "RPC-44")
def test_heartbeats_are_the_same_here() -> None:
    side = opener()
    side.open(GET, end=True)
    side.hear(message("HEARTBEAT", 3))
    assert [sent["type"] for sent in side.take_sent()] == ["HEARTBEAT", "PROXY-HTTP"]
    side.timer(5.0)
    assert [sent["type"] for sent in side.take_sent()] == ["HEARTBEAT"]
    side.timer(15.0)
    assert side.take_events() == [{"event": "silent"}]


@covers("RPC-54")
def test_after_goaway_requests_are_answered_with_503() -> None:
    side = acceptor()
    side.goaway("moving")
    assert side.take_sent() == []
    assert side.hear(request(2)) == []
    assert [(ident, status) for ident, status, _ in answers(side)] == [(2, "503")]
    side.head("theirs:1", response_head(), "still here", True)
    assert answers(side) == [(1, "200", "still here")]


@covers("RPC-1", "RPC-2")
def test_only_a_short_message_ends_the_connection() -> None:
    for size in range(12):
        with pytest.raises(RemoteProtocolError):
            base_side().receive(encode(request(1))[:size])


@covers("RPC-48")
def test_whoever_has_not_yet_heard_of_the_end_may_still_try_to_send() -> None:
    side = acceptor()
    side.reset("theirs:1", "INTERNAL")
    side.take_sent()
    side.head("theirs:1", response_head(), "x")
    side.data("theirs:1", "y", True)
    side.trailers("theirs:1", "")
    assert side.take_sent() == []
    assert side.engine.open_streams == 0
