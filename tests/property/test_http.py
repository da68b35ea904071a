"""HTTP: whatever is sent is read in one way, by our own other half and, where both accept it, by h11 and http.client.

Valid messages are built from parts whose meaning is known, so that what is read can be compared with what was meant.
Invalid ones are valid ones with one thing spoilt.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass, replace
from http.client import HTTPException, HTTPResponse
from ipaddress import ip_address, ip_network

import h11
import pytest
from hypothesis import assume, event, example, given
from hypothesis import strategies as st

from pico.config import HttpLimits
from pico.errors import RemoteProtocolError
from pico.protocol.http import (
    UNKNOWN_LENGTH,
    Framing,
    InvalidEndpoint,
    RequestHead,
    RequestReader,
    RequestRejected,
    ResponseHead,
    ResponseRejected,
    TrustedProxies,
    client_response_head,
    encode_chunk,
    encode_whole_request,
    encode_whole_response,
    endpoint_id,
    endpoint_of,
    last_chunk,
    parse_whole_request,
    parse_whole_response,
    request_head,
    service_request,
    valid_field_block,
)
from pico.protocol.http.endpoint import _first_label
from pico.protocol.http.fields import may_be_trailer
from tests.protocol.http_playbook import LIMITS, Outcome, read_requests, read_response
from tests.rules import covers
from tests.values import but

SMALL = HttpLimits(
    method_bytes_max=7,
    request_line_bytes_max=60,
    field_line_bytes_max=50,
    head_bytes_max=150,
    fields_max=5,
    chunk_line_bytes_max=20,
    trailer_bytes_max=60,
    informational_max=2,
    body_bytes_max=40,
)

TOKEN_BYTES = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
SPECIAL = {
    b"host", b"connection", b"content-length", b"transfer-encoding", b"upgrade", b"te", b"expect", b"keep-alive",
    b"via", b"max-forwards", b"forwarded", b"http2-settings", b"date", b"x-real-ip", b"x-request-id",
}  # fmt: skip

JUNK = [b"\r", b"\n", b"\0", b" ", b"\t", b":", b",", b"\x0b", b"\xff", b"0", b"\r\n", b";", b"+"]
METHODS = st.sampled_from([b"GET", b"HEAD"])


def bytes_of(alphabet: bytes, least: int = 0, most: int = 20) -> st.SearchStrategy[bytes]:
    return st.lists(st.sampled_from(alphabet), min_size=least, max_size=most).map(bytes)


def is_plain(name: bytes) -> bool:
    lower = name.lower().replace(b"_", b"-")
    return lower not in SPECIAL and not lower.startswith((b"x-forwarded-", b"x-pico-", b"proxy-"))


tokens = bytes_of(TOKEN_BYTES, 1)
values = bytes_of(bytes([*range(0x20, 0x7F), *range(0x80, 0x100), 9])).map(lambda value: value.strip(b" \t"))
names = (tokens | st.sampled_from([b"Accept", b"cookie", b"X-A", b"Set-Cookie", b"X_B", b"ETag"])).filter(is_plain)
fields = st.lists(st.tuples(names, values), max_size=6)
spaces = st.sampled_from([b"", b" ", b"\t", b" \t "])
targets = bytes_of(bytes(range(0x21, 0x7F))).map(lambda rest: b"/" + rest)
bodies = st.binary(max_size=60)
pieces_of_bodies = st.lists(st.binary(min_size=1, max_size=20), max_size=5)
hosts = st.sampled_from([b"ep.example.com", b"EP.example:80", b"10.0.0.1", b"a.b.", b"localhost"])


def lines(pairs: Iterable[tuple[bytes, bytes]], space: bytes = b" ") -> bytes:
    return b"".join(name + b":" + space + value + b"\r\n" for name, value in pairs)


@dataclass(frozen=True)
class Sent:
    """A message, and what it means."""

    data: bytes
    method: bytes
    target: bytes
    fields: list[tuple[bytes, bytes]]
    body: bytes
    trailers: list[tuple[bytes, bytes]]
    length: int


@st.composite
def framed(draw: st.DrawFn) -> tuple[bytes, bytes, bytes, int, list[tuple[bytes, bytes]]]:
    """Framing field, body on the wire, body, declared length and trailers."""
    kind = draw(st.sampled_from(["none", "length", "chunked"]))
    if kind == "none":
        return b"", b"", b"", 0, []
    if kind == "length":
        body = draw(bodies)
        return b"Content-Length: %d\r\n" % len(body), body, body, len(body), []
    pieces = draw(pieces_of_bodies)
    trailers = [pair for pair in draw(fields) if may_be_trailer(pair[0])]
    wire = b"".join(map(encode_chunk, pieces)) + last_chunk(lines(trailers))
    return b"Transfer-Encoding: chunked\r\n", wire, b"".join(pieces), UNKNOWN_LENGTH, trailers


@st.composite
def requests(draw: st.DrawFn) -> Sent:
    method = draw(tokens.filter(lambda method: method not in (b"CONNECT", b"TRACE", b"HEAD")))
    target, host, own, space = draw(targets), draw(hosts), draw(fields), draw(spaces)
    framing, wire, body, length, trailers = draw(framed())
    before = draw(st.integers(0, len(own)))
    block = lines(own[:before], space) + b"Host: " + host + b"\r\n" + lines(own[before:], space)
    data = method + b" " + target + b" HTTP/1.1\r\n" + framing + block + b"\r\n" + wire
    every = [*own[:before], (b"Host", host), *own[before:]]
    return Sent(data, method, target, every, body, trailers, length)


@st.composite
def cut(draw: st.DrawFn, data: bytes) -> list[bytes]:
    places = sorted(draw(st.lists(st.integers(0, len(data)), max_size=6)))
    return [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True)]


def meant(sent: Sent) -> dict[str, object]:
    return {
        "method": sent.method.decode("latin-1"),
        "target": sent.target.decode("latin-1"),
        "length": sent.length,
        "body": sent.body.decode("latin-1"),
        "trailers": lines(sent.trailers).decode("latin-1"),
    }


def pairs(block: str) -> list[tuple[bytes, bytes]]:
    split = (line.partition(b":") for line in block.encode("latin-1").split(b"\r\n")[:-1])
    return [(name, value.strip(b" \t")) for name, _, value in split]


# Requests.


@covers("HTTP-6", "HTTP-10", "HTTP-12", "HTTP-27", "HTTP-54", "HTTP-59")
@given(st.data(), st.lists(requests(), min_size=1, max_size=4))
def test_what_was_meant_is_read_however_it_is_cut(data, sent):
    pieces = data.draw(cut(b"".join(one.data for one in sent)))
    outcome = read_requests(pieces)
    assert (outcome.failure, outcome.left, len(outcome.messages)) == (None, 0, len(sent))
    for seen, one in zip(outcome.messages, sent, strict=True):
        wanted = meant(one)
        assert {name: seen[name] for name in wanted} == wanted
        assert pairs(seen["block"]) == one.fields


@st.composite
def spoilt(draw: st.DrawFn, messages: st.SearchStrategy[bytes]) -> bytes:
    """A valid message with one thing spoilt: a byte changed, put in or taken out, a line doubled, or cut short."""
    data = draw(messages)
    at = draw(st.integers(0, len(data)))
    junk = draw(
        st.sampled_from([b"\r", b"\n", b"\0", b" ", b"\t", b":", b",", b"\x0b", b"\xff", b"0", b"\r\n", b";", b"+"])
    )
    how = draw(st.sampled_from(["change", "insert", "remove", "double", "cut"]))
    if how == "change":
        return data[:at] + junk + data[at + 1 :]
    if how == "insert":
        return data[:at] + junk + data[at:]
    if how == "remove":
        return data[:at] + data[at + 1 :]
    if how == "cut":
        return data[:at]
    start = data.rfind(b"\n", 0, at) + 1
    end = data.find(b"\n", at) + 1 or len(data)
    return data[:end] + data[start:end] + data[end:]


anything = (
    st.binary(max_size=200)
    | spoilt(requests().map(lambda one: one.data))
    | bytes_of(b"GET / HTP1.\r\n:;0ax,chunkedTransfer-Encoding", 0, 120)
)


@covers("HTTP-8", "HTTP-10", "HTTP-63")
@given(st.data(), anything, st.sampled_from([LIMITS, SMALL]))
@example(None, b"GET / HTTP/1.1\r\nHost: a.b\r\n\r\r\n", LIMITS)
@example(None, b"\r\n\r", LIMITS)
@example(None, b"GET / HTTP/1.1\r\nHost: a.b\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r", LIMITS)
def test_any_bytes_are_read_or_refused_and_how_they_are_cut_does_not_matter(data, wire, limits):
    whole = read_requests([wire], limits)
    pieces = [wire[at : at + 1] for at in range(len(wire))] if data is None else data.draw(cut(wire))
    event(f"failure: {whole.failure}")
    assert read_requests(pieces, limits) == whole


@covers("HTTP-63", "HTTP-11")
@given(st.lists(st.binary(max_size=80) | anything, max_size=8))
def test_a_reader_holds_no_more_than_its_limits_and_what_was_just_fed(pieces):
    reader = RequestReader(SMALL)
    try:
        for piece in pieces:
            reader.receive_data(piece)
            while reader.next_head() is not None:
                while not (step := reader.next_body())[1]:
                    if not step[0]:
                        break
                else:
                    continue
                break
            assert reader.buffered <= SMALL.head_bytes_max + len(piece)
    except RequestRejected:
        assert reader.buffered == 0
    except Exception as error:  # a body that is not complete: the next head may not be asked for
        assert "has not been read" in str(error)


def by_h11(data: bytes) -> tuple[bytes, bytes, list[tuple[bytes, bytes]], bytes, list[tuple[bytes, bytes]]] | None:
    """One request as h11 understands it, or None where it refuses it."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=100_000)
    try:
        connection.receive_data(data)
        connection.receive_data(b"")
        request = connection.next_event()
        if not isinstance(request, h11.Request):
            return None
        body = b""
        while not isinstance(found := connection.next_event(), h11.EndOfMessage):
            if not isinstance(found, h11.Data):
                return None
            body += bytes(found.data)
    except h11.RemoteProtocolError:
        return None
    return request.method, request.target, list(request.headers), body, list(found.headers)


@covers("HTTP-1", "HTTP-22", "HTTP-23", "HTTP-24")
@given(requests().map(lambda one: one.data) | anything)
def test_what_both_accept_means_the_same_to_h11(wire):
    ours, theirs = read_requests([wire]), by_h11(wire.removeprefix(b"\r\n"))
    if not ours.messages or (len(ours.messages) == 1 and ours.failure is not None):
        return  # nothing to compare; no assumption, because of ``anything`` hardly anything would be left
    seen = ours.messages[0]
    target = str(seen["target"])
    assume(seen["minor"] == 1 and target.isascii())  # h11 admits no bytes from 0x80 in a target
    assume(b" http" not in wire and b" HTTP:" not in wire)  # h11 leaves absolute-form as it is
    assert theirs is not None, "h11 is stricter"
    method, their_target, headers, body, trailers = theirs
    event("both accept")
    assert (method.decode("latin-1"), their_target.decode("latin-1")) == (seen["method"], target)
    assert body.decode("latin-1") == seen["body"]
    kept = {name.lower() for name, _ in pairs(str(seen["block"]))}
    assert [pair for pair in headers if pair[0] in kept] == [
        (name.lower(), value) for name, value in pairs(str(seen["block"]))
    ]
    assert [(name, value) for name, value in trailers if may_be_trailer(name)] == [
        (name.lower(), value) for name, value in pairs(str(seen["trailers"]))
    ]


# Responses.


@st.composite
def responses(draw: st.DrawFn) -> tuple[bytes, int, list[tuple[bytes, bytes]], bytes]:
    status = draw(st.sampled_from([200, 206, 301, 404, 500, 599]))
    own = draw(fields)
    framing, wire, body, _, _ = draw(framed())
    if not framing:
        body = wire = draw(bodies)
    data = b"HTTP/1.1 %d Some Reason\r\n%b%b\r\n%b" % (status, framing, lines(own), wire)
    return data, status, own, body


class Answer(io.BytesIO):
    """As much of a socket as http.client looks at."""

    def makefile(self, _: str) -> io.BytesIO:
        return self


@covers("HTTP-51", "HTTP-53", "HTTP-54")
@given(st.data(), responses(), METHODS)
def test_what_a_service_meant_is_read_and_http_client_reads_the_same(data, sent, method):
    wire, status, own, body = sent
    if method == b"HEAD":
        wire, body = wire[: wire.index(b"\r\n\r\n") + 4], b""
    outcome = read_response(data.draw(cut(wire)), method)
    assert outcome.failure is None
    seen = outcome.messages[0]
    assert (seen["status"], seen["body"], pairs(str(seen["block"]))) == (status, body.decode("latin-1"), own)
    theirs = HTTPResponse(Answer(wire), method=method.decode())  # type: ignore[arg-type]
    theirs.begin()
    assert (theirs.status, theirs.read()) == (status, body)


@covers("HTTP-10", "HTTP-53", "HTTP-31")
@given(st.data(), spoilt(responses().map(lambda one: one[0])) | st.binary(max_size=100), METHODS)
def test_any_answer_is_read_or_refused_and_how_it_is_cut_does_not_matter(data, wire, method):
    for limits in (LIMITS, SMALL):
        whole = read_response([wire], method, limits=limits)
        event(f"failure: {whole.failure}")
        assert read_response(data.draw(cut(wire)), method, limits=limits) == whole


@covers("HTTP-53")
@given(spoilt(responses().map(lambda one: one[0])))
def test_what_is_accepted_means_the_same_to_http_client(wire):
    outcome = read_response([wire])
    assume(
        outcome.failure is None and outcome.messages and outcome.messages[-1]["status"] not in (100, 101, 204, 205, 304)
    )
    theirs = HTTPResponse(Answer(wire), method="GET")  # type: ignore[arg-type]
    try:
        theirs.begin()
        body = theirs.read()
    except (HTTPException, ValueError) as error:
        pytest.fail(f"http.client is stricter: {error!r}")
    assert theirs.status == outcome.messages[-1]["status"]
    assert body.decode("latin-1") == outcome.messages[-1]["body"]


# From one end to the other.


@covers("HTTP-26", "HTTP-32", "HTTP-36", "HTTP-37", "HTTP-40", "HTTP-56")
@given(requests(), st.booleans())
def test_a_request_reaches_the_service_as_it_was_meant(sent, trusted):
    reader = RequestReader(LIMITS)
    reader.receive_data(sent.data)
    request = reader.next_head()
    assert request is not None
    head = request_head(request, client_host="10.0.0.9", scheme="http", trusted=trusted, request_id="r", via=b"1.1 n")
    assert valid_field_block(head.field_block)
    wire, framing = service_request(head)
    body = sent.body
    if framing is Framing.CHUNKED:
        body = (encode_chunk(body) if body else b"") + last_chunk(lines(sent.trailers))
    outcome = read_requests([wire + body])
    assert (outcome.failure, len(outcome.messages)) == (None, 1)
    wanted = meant(sent)
    assert {name: outcome.messages[0][name] for name in wanted} == wanted
    assert pairs(str(outcome.messages[0]["block"]))[: len(sent.fields)] == sent.fields


NEXT = b"GET /next HTTP/1.1\r\nHost: a.b\r\n\r\n"


def what_the_service_gets(wire: bytes) -> list[tuple[bytes, bytes, bytes, bytes]]:
    """Method, target and body of each request that is accepted, and what is written of it."""
    reader, written = RequestReader(LIMITS), []
    reader.receive_data(wire)
    try:
        while (request := reader.next_head()) is not None:
            head = request_head(
                request, client_host="10.0.0.9", scheme="http", trusted=False, request_id="r", via=b"1.1 n"
            )
            body, end = reader.next_body()
            if not end:
                break
            out, framing = service_request(head)
            if framing is Framing.CHUNKED:
                out += (encode_chunk(body) if body else b"") + last_chunk(reader.trailer_block)
            else:
                out += body
            written.append((head.method, head.target, body, out))
    except RequestRejected:
        pass
    return written


OURS = ip_network("10.0.0.0/8")
trusted_hosts = st.ip_addresses(network=OURS).map(str)
# Since Python 3.13 a mapped one is written with its IPv4 address, and so is one of ours.
no_mapped = st.ip_addresses(v=6).filter(lambda address: address.ipv4_mapped is None)
addresses = st.one_of(trusted_hosts, st.ip_addresses(v=4).map(str), no_mapped.map(str))
noise = st.text("0123456789abcdef.:[]%, \t-x", max_size=20)


@covers("HTTP-76")
@given(st.lists(st.lists(st.one_of(addresses, noise), min_size=1, max_size=4), max_size=4), trusted_hosts)
def test_whatever_is_said_of_the_client_it_is_an_address_and_no_stranger_is_believed(lines, peer):
    """Told from behind, by a list of what stands there: strangers are whom the search never passes."""
    fields = "".join(f"X-Forwarded-For: {','.join(line)}\r\n" for line in lines).encode()
    reader = RequestReader(LIMITS)
    reader.receive_data(b"GET / HTTP/1.1\r\nHost: ep.example\r\n" + fields + b"\r\n")
    request = reader.next_head()
    client = TrustedProxies([str(OURS)]).client_of(request, peer)
    assert ip_address(client)
    words = [word.strip() for line in lines for word in ",".join(line).split(",")]
    if client != peer and client in words:
        behind = words[len(words) - words[::-1].index(client) :]
        assert all(ip_address(host) in OURS for host in behind if "[" not in host and host.count(":") != 1)


@covers("HTTP-26", "HTTP-56")
@given(st.lists(requests().map(lambda one: one.data) | spoilt(requests().map(lambda one: one.data)), max_size=3))
@example(
    [b"GET / HTTP/1.1\r\nHost: a.b\r\nX-TE: trailers\r\nTransfer_Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n"]
)
@example([b"POST / HTTP/1.1\r\nHost: a.b\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: /a HTTP/1.1\r\n\r\n"])
def test_whatever_is_accepted_is_one_request_with_that_body_to_h11(pieces):
    for method, target, body, wire in what_the_service_gets(b"".join(pieces)):
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=100_000)
        connection.receive_data(wire + NEXT)
        try:
            request = connection.next_event()
            assert isinstance(request, h11.Request)
            found, seen = connection.next_event(), b""
            while isinstance(found, h11.Data):
                seen += bytes(found.data)
                found = connection.next_event()
        except h11.RemoteProtocolError:
            assert not target.isascii()  # h11 admits no bytes from 0x80 there
            continue
        assert isinstance(found, h11.EndOfMessage)
        assert (request.method, request.target, seen) == (method, target, body)
        assert connection.trailing_data[0] == NEXT


heads_of_responses = st.builds(
    ResponseHead,
    st.sampled_from([200, 204, 304, 404, 503]),
    st.sampled_from([b"", b"OK", b"Not \xe9"]),
    fields.map(lines),
    st.integers(-1, 1),
    st.just(b""),
)


@covers("HTTP-52", "HTTP-51", "HTTP-54", "HTTP-58", "HTTP-71")
@given(
    heads_of_responses,
    st.binary(max_size=30),
    METHODS,
    st.sampled_from([0, 1]),
    st.booleans(),
)
def test_a_client_reads_the_response_as_it_was_meant(head, body, method, minor, keep_alive):
    bodiless = method == b"HEAD" or head.status in (204, 304)
    body = b"" if bodiless else body
    if head.body_length >= 0 and not bodiless:
        head = but(head, body_length=len(body))
    request = RequestReader(LIMITS)
    request.receive_data(b"%b / HTTP/1.%d\r\nHost: a.b\r\n\r\n" % (method, minor))
    asked = request.next_head()
    assert asked is not None
    wire, framing = client_response_head(head, asked, keep_alive=keep_alive, request_id="r", date=b"now")
    if framing is Framing.CHUNKED:
        wire += (encode_chunk(body) if body else b"") + last_chunk()
    else:
        wire += body
    outcome = read_response([wire], method, eof=framing is Framing.CLOSE)
    assert outcome.failure is None
    seen = outcome.messages[0]
    assert (seen["status"], seen["reason"], seen["body"]) == (
        head.status,
        head.reason.decode("latin-1"),
        body.decode("latin-1"),
    )
    own = pairs(head.field_block.decode("latin-1"))
    assert pairs(str(seen["block"]))[: len(own)] == own
    if head.status == 304:
        more_may_follow = head.body_length > 0
    else:
        more_may_follow = method == b"HEAD" and head.status != 204 and head.body_length != 0
    assert seen["reusable"] is (keep_alive and framing is not Framing.CLOSE and not more_may_follow)
    if minor == 0:
        assert framing is not Framing.CHUNKED


@covers("HTTP-57")
@given(requests())
def test_a_whole_request_there_and_back(sent):
    block = lines(pair for pair in sent.fields)
    head = RequestHead(sent.method, sent.target, block, sent.length, b"")
    payload = encode_whole_request(head, sent.body, lines(sent.trailers))
    read, body, trailers = parse_whole_request(payload, LIMITS, 1000)
    assert (read, body, trailers) == (but(head, body_length=len(sent.body)), sent.body, lines(sent.trailers))


@covers("HTTP-57")
@given(heads_of_responses, bodies, fields, METHODS)
def test_a_whole_response_there_and_back(head, body, trailers, method):
    if method == b"HEAD" or head.status in (204, 304):
        body, trailers = b"", []
    block = lines(pair for pair in trailers if may_be_trailer(pair[0]))
    payload = encode_whole_response(head, body, block, method)
    heads, read, read_trailers = parse_whole_response(payload, method, LIMITS)
    assert (heads[0].parts[:3], read, read_trailers) == (head.parts[:3], body, block)


@covers("HTTP-57", "HTTP-63")
@given(anything | responses().map(lambda one: one[0]) | spoilt(responses().map(lambda one: one[0])))
def test_a_payload_of_any_bytes_raises_nothing_but_its_own_failure(payload):
    try:
        parse_whole_request(payload, SMALL, 20)
    except RequestRejected:
        pass
    try:
        parse_whole_response(payload, b"GET", SMALL)
    except ResponseRejected:
        pass


# Names.


@covers("HTTP-18", "HTTP-19")
@given(st.lists(bytes_of(b"abZ019-_~.", 0, 5), max_size=4).map(b".".join), st.sampled_from([b"", b":80", b".", b".:1"]))
@example(b"ep.example", b"")
@example(b"a.0x7", b"")
@example(b"a.b-", b"")
def test_the_quick_way_to_an_endpoint_is_the_slow_way(host, rest):
    reader = RequestReader(LIMITS)
    reader.receive_data(b"GET / HTTP/1.1\r\nHost: " + host + rest + b"\r\n\r\n")
    try:
        request = reader.next_head()
    except RequestRejected:
        return
    assert request is not None
    label = _first_label(request.authority.lower())
    found = endpoint_of(request)
    try:
        assert found == endpoint_id(label)
    except InvalidEndpoint:
        assert not isinstance(found, str)
        assert found.code == ("invalid_endpoint" if label else "endpoint_missing")


@covers("HTTP-18")
@given(st.text(max_size=70) | st.binary(max_size=70))
def test_an_endpoint_id_is_a_label_or_an_error(raw):
    try:
        found = endpoint_id(raw)
    except RemoteProtocolError:
        return
    assert 1 <= len(found) <= 63
    assert found == found.lower() == endpoint_id(found)
    assert set(found) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert found.strip("-") == found


@covers("HTTP-36")
@given(fields | st.lists(st.tuples(st.sampled_from(sorted(SPECIAL)), values), max_size=2))
def test_a_block_is_valid_if_every_line_is(block):
    own = {b"connection", b"content-length", b"transfer-encoding", b"upgrade", b"keep-alive"}
    good = all(
        name.lower() not in own and (name.lower() != b"te" or value.lower() == b"trailers") for name, value in block
    )
    assert valid_field_block(lines(block)) is good


def test_the_playbook_shows_a_difference():
    """The helper is no oracle if it cannot tell two readings apart."""
    one = read_requests([b"GET /1 HTTP/1.1\r\nHost: a.b\r\n\r\n"])
    assert one != read_requests([b"GET /2 HTTP/1.1\r\nHost: a.b\r\n\r\n"])
    assert one == read_requests([b"GET /1 HT", b"TP/1.1\r\nHost: a.b\r\n\r\n"])
    assert read_requests([b"x"]) == Outcome([], "bad_request")
    assert read_response([b""], limits=replace(SMALL), eof=False) == Outcome([], None)
