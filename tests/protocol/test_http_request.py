"""The reader of requests as its owner uses it; what it accepts and refuses is among the vectors."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pico.config import HttpLimits
from pico.errors import LocalProtocolError, RemoteProtocolError
from pico.protocol.http import Failure, Request, RequestReader, RequestRejected
from tests.actors.census import found_by_the_collector
from tests.protocol.http_playbook import read_requests
from tests.rules import covers

GET = b"GET / HTTP/1.1\r\nHost: a.b\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a.b\r\nContent-Length: 5\r\n\r\n"


def reader_with(data: bytes, limits: HttpLimits | None = None) -> RequestReader:
    reader = RequestReader(limits or HttpLimits())
    reader.receive_data(data)
    return reader


def read_all(reader: RequestReader) -> None:
    while reader.next_head() is not None:
        while not reader.next_body()[1]:
            pass


def failure_of(reader: RequestReader) -> Failure:
    with pytest.raises(RequestRejected) as caught:
        read_all(reader)
    assert isinstance(caught.value, RemoteProtocolError)
    return caught.value.failure


@pytest.mark.parametrize("data", [b"GET / HTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n"])
def test_what_was_refused_once_is_refused_for_ever_and_keeps_nothing(data: bytes):
    """The reader does not keep what it raises: that leads by its traceback to whoever keeps the reader."""

    def refuse() -> None:
        reader = reader_with(data)
        said = set()
        for read in (reader.next_head, reader.next_head, reader.next_body):
            try:
                read()
            except RequestRejected as rejected:
                said.add((rejected.failure, str(rejected)))
            reader.receive_data(GET)
        assert len(said) == 1

    refuse()
    with found_by_the_collector() as found:
        refuse()
    assert not found


@covers("HTTP-59")
def test_no_head_before_the_body_in_front_of_it_was_read():
    reader = reader_with(GET + GET)
    assert reader.next_head() is not None
    with pytest.raises(LocalProtocolError):
        reader.next_head()
    assert reader.next_body() == (b"", True)
    with pytest.raises(LocalProtocolError):
        reader.next_body()
    assert reader.next_head() is not None


@covers("HTTP-59", "HTTP-63")
def test_what_is_there_of_a_body_is_handed_out_and_what_is_behind_it_waits():
    reader = reader_with(POST + b"he")
    assert reader.next_head() is not None
    assert reader.next_body() == (b"he", False)
    assert reader.next_body() == (b"", False)
    assert reader.buffered == 0
    reader.receive_data(b"llo" + GET)
    assert reader.buffered == 3 + len(GET)
    assert reader.next_body() == (b"llo", True)
    assert reader.buffered == len(GET)
    assert reader.next_head() is not None


@covers("HTTP-11")
def test_what_was_refused_stays_refused_and_is_forgotten():
    reader = reader_with(b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n" + GET)
    assert failure_of(reader) is Failure.BAD_REQUEST
    reader.receive_data(GET)
    assert reader.buffered == 0
    assert not reader.started
    assert failure_of(reader) is Failure.BAD_REQUEST
    with pytest.raises(RequestRejected):
        reader.next_body()


@covers("HTTP-11")
def test_a_body_that_was_refused_leaves_nothing_to_read():
    reader = reader_with(b"POST / HTTP/1.1\r\nHost: a.b\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n" + GET)
    assert failure_of(reader) is Failure.BAD_REQUEST
    with pytest.raises(RequestRejected):
        reader.next_body()
    with pytest.raises(RequestRejected):
        reader.next_head()


@covers("HTTP-14")
def test_an_end_of_file_between_requests_is_quiet():
    reader = reader_with(GET)
    reader.receive_eof()
    assert reader.at_eof
    assert reader.next_head() is not None
    assert reader.next_body() == (b"", True)
    assert reader.next_head() is None
    assert reader.next_head() is None


@covers("HTTP-2", "HTTP-14")
def test_an_end_of_file_after_an_empty_line_is_quiet():
    reader = reader_with(b"\r\n")
    reader.receive_eof()
    assert reader.next_head() is None
    assert not reader.started


@covers("HTTP-28")
@pytest.mark.parametrize(
    "body", [b"Content-Length: 5\r\n\r\nhe", b"Transfer-Encoding: chunked\r\n\r\n5\r\nhe"], ids=["length", "chunked"]
)
def test_bytes_before_the_end_of_file_are_handed_out_before_the_failure(body):
    reader = reader_with(b"POST / HTTP/1.1\r\nHost: a.b\r\n" + body)
    reader.receive_eof()
    assert reader.next_head() is not None
    assert reader.next_body() == (b"he", False)
    with pytest.raises(RequestRejected) as caught:
        reader.next_body()
    assert caught.value.failure is Failure.BODY_INCOMPLETE


@covers("HTTP-62")
def test_whether_a_head_has_begun_tells_a_slow_client_from_an_idle_one():
    reader = RequestReader(HttpLimits())
    assert not reader.started
    reader.receive_data(b"G")
    assert reader.next_head() is None
    assert reader.started
    reader.receive_data(GET[1:])
    assert reader.next_head() is not None
    assert reader.started
    assert reader.next_body() == (b"", True)
    assert not reader.started


@covers("HTTP-13")
def test_a_first_byte_that_can_begin_nothing_is_not_waited_upon():
    assert failure_of(reader_with(b"\x16")) is Failure.BAD_REQUEST
    assert failure_of(reader_with(b"\x80")) is Failure.BAD_REQUEST
    assert failure_of(reader_with(b"\rG")) is Failure.BAD_REQUEST
    waiting = reader_with(b"\r")
    assert waiting.next_head() is None
    waiting.receive_data(b"\n")
    assert waiting.next_head() is None
    waiting.receive_data(b"\r\n")
    assert failure_of(waiting) is Failure.BAD_REQUEST


@covers("HTTP-1")
def test_a_bad_request_line_is_not_waited_upon():
    assert failure_of(reader_with(b"GET /\r\n")) is Failure.BAD_REQUEST
    assert failure_of(reader_with(b"GET / HTTP/1.1\r\nHost: a.b\r\nX y:\r\n")) is Failure.BAD_REQUEST


@covers("HTTP-49")
def test_bytes_behind_an_upgrade_are_handed_over():
    reader = reader_with(
        b"GET / HTTP/1.1\r\nHost: a.b\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n\x81\x00more"
    )
    request = reader.next_head()
    assert request is not None
    assert request.upgrade == b"websocket"
    assert reader.take_rest() == b"\x81\x00more"
    assert reader.buffered == 0
    assert not reader.started
    assert reader.take_rest() == b""


def test_every_field_is_there_for_who_asks():
    reader = reader_with(b"GET / HTTP/1.1\r\nHost:a.b\r\nConnection: close\r\nX-Y: \tz \r\nUser-Agent: me/1\r\n\r\n")
    request = reader.next_head()
    assert request is not None
    assert request.user_agent == b"me/1"
    assert request.fields == [
        (b"Host", b"host", b"a.b"),
        (b"Connection", b"connection", b"close"),
        (b"X-Y", b"x-y", b"z"),
        (b"User-Agent", b"user-agent", b"me/1"),
    ]


@covers("HTTP-33")
def test_trailers_are_announced():
    request = reader_with(b"GET / HTTP/1.1\r\nHost: a.b\r\nTE: trailers\r\n\r\n").next_head()
    assert request is not None
    assert request.te_trailers
    request = reader_with(GET).next_head()
    assert request is not None
    assert not request.te_trailers


# Limits to the byte.


@covers("HTTP-8")
@pytest.mark.parametrize("size", [29, 20, 1])
@pytest.mark.parametrize(
    "limit, exact, failure",
    [
        ("method_bytes_max", 3, Failure.NOT_IMPLEMENTED),
        ("request_line_bytes_max", 16, Failure.TARGET_TOO_LONG),
        ("field_line_bytes_max", 11, Failure.FIELDS_TOO_LARGE),
        ("head_bytes_max", 29, Failure.FIELDS_TOO_LARGE),
        ("fields_max", 1, Failure.FIELDS_TOO_LARGE),
    ],
)
def test_a_head_may_be_as_large_as_each_limit(limit, exact, failure, size):
    assert len(GET) == 29
    pieces = [GET[at : at + size] for at in range(0, len(GET), size)]
    fits = RequestReader(replace(HttpLimits(), **{limit: exact}))
    for piece in pieces:
        assert fits.next_head() is None
        fits.receive_data(piece)
    assert fits.next_head() is not None
    assert read_requests(pieces, replace(HttpLimits(), **{limit: exact - 1})).failure == failure.code


@covers("HTTP-8")
def test_a_large_head_that_keeps_every_limit_is_accepted():
    limits = replace(HttpLimits(), request_line_bytes_max=8192)
    lines = b"".join(b"X-%d: %b\r\n" % (number, b"v" * 1000) for number in range(60))
    request = reader_with(b"GET / HTTP/1.1\r\nHost: a.b\r\n" + lines + b"\r\n", limits).next_head()
    assert request is not None
    assert request.field_block() == b"Host: a.b\r\n" + lines


@covers("HTTP-63")
def test_a_head_that_never_ends_is_held_up_to_the_limit():
    reader = RequestReader(HttpLimits())
    reader.receive_data(b"GET / HTTP/1.1\r\n" + (b"X: " + b"v" * 995 + b"\r\n") * 65)
    assert reader.next_head() is None
    assert reader.buffered == 16 + 65_000
    reader.receive_data(b"v" * 521)
    assert failure_of(reader) is Failure.FIELDS_TOO_LARGE
    assert reader.buffered == 0


REFUSED = b"TRACE /a?b=c HTTP/1.1\r\nHost: web.x\r\nUser-Agent: u\r\nx-pico-endpoint: e\r\n\r\n"


def known_of(data: bytes, size: int) -> Request:
    """What is there for the log of a request that is refused, fed in pieces of that size."""
    reader = RequestReader(HttpLimits())
    with pytest.raises(RequestRejected) as caught:
        feed(reader, [data[at : at + size] for at in range(0, len(data), size)])
    known = caught.value.request
    assert known is not None
    assert not known.lines and not known.block, "nothing of it is passed on"
    return known


def feed(reader: RequestReader, pieces: list[bytes]) -> None:
    for piece in pieces:
        reader.receive_data(piece)
        reader.next_head()
    reader.receive_eof()
    reader.next_head()


@pytest.mark.parametrize(
    "data",
    [
        REFUSED,
        REFUSED.replace(b"TRACE", b"GET").replace(b"\r\n\r\n", b"\r\nExpect: more\r\n\r\n"),
        REFUSED.replace(b"TRACE", b"GET").replace(b"\r\n\r\n", b"\r\nX: " + b"v" * 17_000),
        REFUSED.replace(b"TRACE", b"GET").replace(b"\r\n\r\n", b"\r\nX: y" * 130),
        REFUSED.replace(b"TRACE", b"GET").replace(b"\r\n\r\n", b"\r\nHost: two.x\r\n\r\n"),
        REFUSED.replace(b"TRACE", b"GET").replace(b"\r\n\r\n", b"\r\nse cret\r\n\r\n"),
        REFUSED.replace(b"TRACE", b"GET").replace(b"\r\n\r\n", b"\r\nContent-Len"),
    ],
    ids=["method", "expectation", "field too long", "fields too many", "two hosts", "bad field", "not whole"],
)
@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_of_a_request_that_is_refused_it_is_known_who_asked_for_what(data: bytes, size: int) -> None:
    known = known_of(data, size)
    assert (known.method, known.target) == (data.partition(b" ")[0], b"/a?b=c")
    assert (known.authority, known.endpoint_field, known.user_agent) == (b"web.x", b"e", b"u")


@pytest.mark.parametrize(
    "data,method,target",
    [
        (b"CONNECT web.x:443 HTTP/1.1\r\nHost: web.x:443\r\n\r\n", b"CONNECT", b"web.x:443"),
        (b"GET /" + b"a" * 17_000, b"GET", b"/" + b"a" * 17_000),
        (b"GET / HTTP/2.0\r\nHost: web.x\r\n\r\n", b"GET", b"/"),
        (b"M" * 33 + b" / HTTP/1.1\r\nHost: web.x\r\n\r\n", b"M" * 32, b"/"),
        (b"GET http://u:secret@web.x/ HTTP/1.1\r\nHost: web.x\r\n\r\n", b"GET", b"http://web.x/"),
        (b"CONNECT u:secret@web.x:1 HTTP/1.1\r\nHost: web.x:1\r\n\r\n", b"CONNECT", b"web.x:1"),
        (b"GET /a\x01b HTTP/1.1\r\nHost: web.x\r\n\r\n", b"GET", b"/a"),
        (b"nonsense\r\n", b"", b""),
    ],
    ids=["authority", "too long", "version", "long method", "password", "password for CONNECT", "control", "nonsense"],
)
def test_of_a_first_line_that_is_refused_as_much_is_known_as_can_be_read(
    data: bytes, method: bytes, target: bytes
) -> None:
    known = known_of(data, len(data))
    assert (known.method, known.target) == (method, target)


def test_of_what_is_no_http_nothing_is_known() -> None:
    reader = reader_with(b"\x16\x03\x01\x02\x00")
    with pytest.raises(RequestRejected) as caught:
        reader.next_head()
    assert caught.value.request is None


@covers("HTTP-8")
def test_the_sentence_says_what_is_wrong_and_repeats_nothing_that_was_sent():
    for fields, sentence in (
        (b" secret: x\r\n", "begins with whitespace"),
        (b"secret\r\n", "no colon"),
        (b"secret : x\r\n", "whitespace before the colon"),
        (b"se(cret: x\r\n", "not a token"),
        (b"secret: \x00\r\n", "control character"),
        (b"secret: x\n", "LF alone"),
    ):
        reader = reader_with(b"GET / HTTP/1.1\r\nHost: a.b\r\n" + fields + b"\r\n")
        with pytest.raises(RequestRejected, match=sentence) as caught:
            reader.next_head()
        assert "secret" not in str(caught.value)
