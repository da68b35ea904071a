"""What one hop changes in a head, towards the tunnel and towards the client (``spec/http.md``)."""

from __future__ import annotations

import pytest

from pico.config import HttpLimits
from pico.errors import ConfigError
from pico.protocol.http import (
    UNKNOWN_LENGTH,
    Failure,
    Framing,
    Request,
    RequestReader,
    RequestRejected,
    ResponseHead,
    TrustedProxies,
    client_response_head,
    options_response,
    request_head,
    request_id_of,
    valid_field_block,
)
from tests.rules import covers

DATE = b"Mon, 23 Nov 2026 20:30:43 GMT"


def parsed(data: bytes) -> Request:
    reader = RequestReader(HttpLimits())
    reader.receive_data(data)
    request = reader.next_head()
    assert request is not None
    return request


def get(fields: bytes = b"", line: bytes = b"GET / HTTP/1.1", host: bytes = b"Host: ep.example:8000\r\n") -> Request:
    return parsed(line + b"\r\n" + host + fields + b"\r\n")


def forwarded(
    request: Request, *, trusted: bool = False, client_host: str = "10.0.0.9", scheme: str = "http"
) -> list[bytes]:
    head = request_head(
        request, client_host=client_host, scheme=scheme, trusted=trusted, request_id="made-1", via=b"1.1 node-a"
    )
    assert valid_field_block(head.field_block)
    return head.field_block.split(b"\r\n")[:-1]


# Who is calling.


@covers("HTTP-37", "HTTP-40", "HTTP-41", "HTTP-42")
def test_the_usual_request_gets_five_fields_and_nothing_else():
    assert forwarded(get(b"Accept: */*\r\ntraceparent: 00-a-b-01\r\n"), scheme="https") == [
        b"Host: ep.example:8000",
        b"Accept: */*",
        b"traceparent: 00-a-b-01",
        b"X-Forwarded-For: 10.0.0.9",
        b"X-Forwarded-Proto: https",
        b"X-Forwarded-Host: ep.example:8000",
        b"X-Request-Id: made-1",
        b"Via: 1.1 node-a",
    ]


@covers("HTTP-76")
@pytest.mark.parametrize(
    "said,client",
    [
        (b"", "10.0.0.1"),
        (b"X-Forwarded-For: 203.0.113.9", "203.0.113.9"),
        (b"X-Forwarded-For: 6.6.6.6, 203.0.113.9", "203.0.113.9"),
        (b"X-Forwarded-For: 6.6.6.6,203.0.113.9 ,\t10.0.0.2", "203.0.113.9"),
        (b"X-Forwarded-For: 6.6.6.6\r\nX-Real-IP: 7.7.7.7\r\nx-forwarded-for: 203.0.113.9, 10.9.9.9", "203.0.113.9"),
        (b"X-Forwarded-For: 10.0.0.3, 10.0.0.2", "10.0.0.3"),
        (b"X-Forwarded-For: 203.0.113.9:4711", "203.0.113.9"),
        (b"X-Forwarded-For: 2001:DB8::9", "2001:DB8::9"),
        (b"X-Forwarded-For: [2001:db8::9]", "2001:db8::9"),
        (b"X-Forwarded-For: [2001:db8::9]:4711, 10.0.0.2:80", "2001:db8::9"),
        (b"X-Forwarded-For: ::ffff:203.0.113.9", "203.0.113.9"),
        (b"X-Forwarded-For: 203.0.113.9, ::ffff:10.0.0.2", "203.0.113.9"),
        (b"X-Forwarded-For: 203.0.113.9, unknown", "10.0.0.1"),
        (b"X-Forwarded-For: 203.0.113.9, unknown, 10.0.0.2", "10.0.0.2"),
        (b"X-Forwarded-For: 203.0.113.9, fe80::1%<b>", "10.0.0.1"),
        (b"X-Forwarded-For: 203.0.113.9, ", "10.0.0.1"),
        (b"X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: ", "10.0.0.1"),
        (b"X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: ,10.0.0.2", "10.0.0.2"),
        (b"X-Forwarded-For: " + b"1" * 5000, "10.0.0.1"),
        (b"X-Forwarded-For: 203.0.113.9" + b", 10.0.0.2" * 15, "203.0.113.9"),
        (b"X-Forwarded-For: 203.0.113.9, 10.0.0.3" + b", 10.0.0.2" * 15, "10.0.0.3"),
    ],
)
def test_the_client_is_the_last_whom_the_trusted_did_not_know(said: bytes, client: str) -> None:
    request = get(said + b"\r\n" if said else b"")
    assert TrustedProxies(["10.0.0.0/8"]).client_of(request, "10.0.0.1") == client
    assert TrustedProxies(["10.0.0.0/8"]).client_of(request, "192.0.2.7") == "192.0.2.7", "nobody asked this one"


FORGED, ADDED = b"X-Forwarded-For: 6.6.6.6\r\n", b"X-Forwarded-For: 203.0.113.9\r\n"


@covers("HTTP-76")
@pytest.mark.parametrize(
    "fields,client",
    [
        (FORGED + b"bad name: x\r\n" + ADDED + b"\r\n", "203.0.113.9"),
        (b"bad name: x\r\n" + ADDED + b"Content-Length: 30\r\n\r\n\r\n" + FORGED + b"\r\n", "203.0.113.9"),
        (b"bad name: x\r\n" + ADDED + b"\r\nGET / HTTP/1.1\r\n" + FORGED + b"\r\n", "203.0.113.9"),
        (FORGED + b"bad name: x\r\n", "10.0.0.1"),
        (FORGED + b"a: b\r\n" * 200 + ADDED + b"\r\n", "10.0.0.1"),
        (FORGED + b"a: " + b"b" * 100_000 + b"\r\n" + ADDED + b"\r\n", "10.0.0.1"),
    ],
)
def test_what_may_not_be_all_of_a_head_does_not_say_who_is_calling(fields: bytes, client: str) -> None:
    reader = RequestReader(HttpLimits())
    reader.receive_data(b"POST / HTTP/1.1\r\nHost: ep.example\r\n" + fields)
    with pytest.raises(RequestRejected) as refused:
        reader.next_head()
    assert refused.value.request is not None
    assert TrustedProxies(["10.0.0.0/8"]).client_of(refused.value.request, "10.0.0.1") == client


FORGED = (
    b"X-Forwarded-For: 1.1.1.1\r\nx-forwarded-proto: https\r\nX-FORWARDED-HOST: bank.example\r\n"
    b"X-Forwarded-Port: 443\r\nX-Forwarded-User: root\r\n"
    b"X-Real-IP: 1.1.1.1\r\nForwarded: for=1.1.1.1\r\nX-Request-Id: theirs\r\nA: b\r\n"
)


@covers("HTTP-37")
@pytest.mark.parametrize("nomination", [b"", b"Connection: X-Forwarded-For, X-Forwarded-Proto, X-Real-IP\r\n"])
def test_a_stranger_is_not_believed(nomination):
    assert forwarded(get(nomination + FORGED)) == [b"Host: ep.example:8000", b"A: b", *forwarded(get())[1:]]


@covers("HTTP-38")
def test_a_trusted_peer_is_believed_and_appended():
    assert forwarded(get(FORGED), trusted=True) == [
        b"Host: ep.example:8000",
        b"x-forwarded-proto: https",
        b"X-FORWARDED-HOST: bank.example",
        b"X-Forwarded-Port: 443",
        b"X-Forwarded-User: root",
        b"X-Real-IP: 1.1.1.1",
        b"Forwarded: for=1.1.1.1",
        b"A: b",
        b"X-Forwarded-For: 1.1.1.1, 10.0.0.9",
        b"X-Request-Id: made-1",
        b"Via: 1.1 node-a",
    ]


@covers("HTTP-38")
def test_what_a_trusted_peer_leaves_out_is_added():
    assert forwarded(
        get(b"X-Forwarded-For: 1.1.1.1\r\nX-Forwarded-For:\r\nX-Forwarded-For: 2.2.2.2 , 3.3.3.3\r\n"), trusted=True
    )[1:] == [
        b"X-Forwarded-For: 1.1.1.1, 2.2.2.2 , 3.3.3.3, 10.0.0.9",
        b"X-Forwarded-Proto: http",
        b"X-Forwarded-Host: ep.example:8000",
        b"X-Request-Id: made-1",
        b"Via: 1.1 node-a",
    ]


@covers("HTTP-39")
@pytest.mark.parametrize("trusted", [True, False])
def test_underscores_make_no_other_name(trusted):
    fields = b"X_Forwarded_For: 1.1.1.1\r\nx-forwarded_for: 2\r\nX_Pico_Endpoint: x\r\nX_REAL_IP: 3\r\nKeep_Me: 1\r\n"
    names = [line.partition(b":")[0] for line in forwarded(get(fields), trusted=trusted)]
    assert names[:2] == [b"Host", b"Keep_Me"]
    assert not [name for name in names if b"_" in name and name != b"Keep_Me"]


@covers("HTTP-37")
def test_an_address_that_came_over_an_ipv6_socket_is_written_as_what_it_is():
    assert forwarded(get(), client_host="::ffff:10.1.2.3")[1] == b"X-Forwarded-For: 10.1.2.3"
    assert forwarded(get(), client_host="::ffff:a")[1] == b"X-Forwarded-For: ::ffff:a"


@covers("HTTP-16", "HTTP-37")
def test_the_host_of_an_absolute_target_is_the_one_that_is_told():
    request = get(line=b"GET http://other.example/x HTTP/1.1")
    lines = forwarded(request)
    assert lines[0] == b"Host: other.example"
    assert b"X-Forwarded-Host: other.example" in lines


def test_a_request_without_a_host_gets_its_endpoint_for_one():
    request = get(b"x-pico-endpoint: my-ep\r\n", b"GET / HTTP/1.0", b"")
    assert forwarded(request) == [
        b"X-Forwarded-For: 10.0.0.9",
        b"X-Forwarded-Proto: http",
        b"Host: my-ep",
        b"X-Request-Id: made-1",
        b"Via: 1.0 node-a",
    ]


@covers("HTTP-26", "HTTP-36")
@pytest.mark.parametrize(
    "fields, length",
    [(b"", 0), (b"Content-Length: 5\r\n", 5), (b"Transfer-Encoding: chunked\r\n", UNKNOWN_LENGTH)],
)
def test_the_length_travels_and_the_framing_does_not(fields, length):
    request = get(fields, b"POST /x HTTP/1.1")
    head = request_head(request, client_host="h", scheme="http", trusted=False, request_id="r", via=b"1.1 n")
    assert (head.method, head.target, head.body_length, head.upgrade) == (b"POST", b"/x", length, b"")
    assert head.field_block.startswith(b"Host: ep.example:8000\r\nX-Forwarded-For: h\r\n")


@covers("HTTP-47")
def test_an_upgrade_travels_beside_the_block_and_its_length_is_unknown():
    request = get(b"Upgrade: websocket\r\nConnection: upgrade\r\n")
    head = request_head(request, client_host="h", scheme="http", trusted=False, request_id="r", via=b"1.1 n")
    assert (head.upgrade, head.body_length) == (b"websocket", UNKNOWN_LENGTH)
    assert b"pgrade" not in head.field_block


# Via and loops.


@covers("HTTP-40")
def test_via_is_added_behind_the_others():
    assert [line for line in forwarded(get(b"Via: 1.1 a, 1.0 b (c)\r\n")) if line[:3] == b"Via"] == [
        b"Via: 1.1 a, 1.0 b (c)",
        b"Via: 1.1 node-a",
    ]


@covers("HTTP-40")
@pytest.mark.parametrize("line", [b"GET / HTTP/1.0"])
def test_via_names_the_version_that_was_received(line):
    assert forwarded(get(line=line))[-1] == b"Via: 1.0 node-a"


@covers("HTTP-40")
def test_three_passes_are_no_loop_and_four_are():
    forwarded(get(b"Via: 1.1 node-a\r\nVia: 1.1 x, 1.0 Node-A (y),1.1 node-a, 1.1 node-ab, node-a\r\n"))
    with pytest.raises(RequestRejected) as caught:
        forwarded(get(b"Via: 1.1 node-a, 1.1 node-a\r\nVia: 1.1 node-a,, 1.1 NODE-A (again)\r\n"))
    assert caught.value.failure is Failure.LOOP_DETECTED


# Request IDs.


@covers("HTTP-41")
@pytest.mark.parametrize(
    "given, trusted, wanted",
    [
        (b"X-Request-Id: abc-1.2_3~4+5/6=7:8@9\r\n", True, "abc-1.2_3~4+5/6=7:8@9"),
        (b"x-request-id:  abc \r\n", True, "abc"),
        (b"X-Request-Id: abc\r\n", False, "made"),
        (b"", True, "made"),
        (b"X-Forwarded-For: abc\r\n", True, "made"),
        (b"X-Request-Id:\r\n", True, "made"),
        (b"X-Request-Id: a b\r\n", True, "made"),
        (b'X-Request-Id: a"b\r\n', True, "made"),
        (b"X-Request-Id: \xe9\r\n", True, "made"),
        (b"X-Request-Id: a\r\nX-Request-Id: a\r\n", True, "made"),
        (b"X-Request-Id: " + b"a" * 128 + b"\r\n", True, "a" * 128),
        (b"X-Request-Id: " + b"a" * 129 + b"\r\n", True, "made"),
    ],
)
def test_a_request_id_is_taken_from_a_trusted_peer_if_it_is_a_word(given, trusted, wanted):
    assert request_id_of(get(given), trusted=trusted, generated="made") == wanted


# Max-Forwards.


@covers("HTTP-43")
def test_options_that_may_go_no_further_is_answered_here():
    request = get(b"Max-Forwards: 0\r\n", b"OPTIONS * HTTP/1.1")
    assert request.max_forwards == 0
    assert get(b"Max-Forwards: 0\r\n").max_forwards == -1
    assert options_response(request, keep_alive=True, request_id="r", date=DATE) == (
        b"HTTP/1.1 204 No Content\r\nAllow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\nDate: " + DATE + b"\r\n"
        b"X-Request-Id: r\r\n\r\n"
    )


# Trusted proxies.


def test_networks_of_both_families():
    trusted = TrustedProxies(("10.0.0.0/8", " 192.168.1.7 ", "fd00::/8", "10.1.2.3/16"))
    for host in ("10.0.0.1", "10.255.255.255", "192.168.1.7", "fd00::1", "fd12:3::4%eth0", "::ffff:10.0.0.1"):
        assert trusted.contains(host), host
        assert trusted.contains(host), host
    for host in ("11.0.0.1", "192.168.1.8", "fe80::1", "::ffff:11.0.0.1", "::1", "", "unix", "localhost"):
        assert not trusted.contains(host), host
        assert not trusted.contains(host), host


def test_nobody_is_trusted_by_default():
    assert not TrustedProxies().contains("127.0.0.1")


def test_what_is_remembered_of_peers_is_bounded():
    trusted = TrustedProxies(("10.0.0.0/8",))
    for number in range(5000):
        assert trusted.contains(f"10.0.{number // 250}.{number % 250}")
        assert len(trusted._known) <= 1024


@pytest.mark.parametrize("text", ["", "10.0.0.0/33", "localhost", "10.0.0.0/8/8", "10.0.0", "::1/129"])
def test_a_network_that_is_none_is_a_wrong_setting(text):
    with pytest.raises(ConfigError) as caught:
        TrustedProxies(("10.0.0.0/8", text))
    assert str(caught.value) == (
        f"trusted_proxies: {text!r} is not usable: expected an address or a network in CIDR notation"
    )


# Towards the client.


def answer(
    head: ResponseHead, request: Request | None = None, *, keep_alive: bool = True, date: bytes = b""
) -> tuple[list[bytes], Framing]:
    data, framing = client_response_head(head, request or get(), keep_alive=keep_alive, request_id="r", date=date)
    assert data.endswith(b"\r\n\r\n")
    return data[:-4].split(b"\r\n"), framing


ONE_ZERO = get(line=b"GET / HTTP/1.0")
HEAD = get(line=b"HEAD / HTTP/1.1")


@covers("HTTP-52", "HTTP-42")
def test_a_response_with_a_length():
    head = ResponseHead(200, b"OK", b"Server: x\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n", 5, b"")
    assert answer(head, date=DATE) == (
        [
            b"HTTP/1.1 200 OK",
            b"Server: x",
            b"Set-Cookie: a",
            b"Set-Cookie: b",
            b"Date: " + DATE,
            b"X-Request-Id: r",
            b"Content-Length: 5",
        ],
        Framing.LENGTH,
    )


@covers("HTTP-52", "HTTP-58")
@pytest.mark.parametrize(
    "request_, keep_alive, length, framing, last",
    [
        (get(), True, 0, Framing.LENGTH, [b"Content-Length: 0"]),
        (get(), True, -1, Framing.CHUNKED, [b"Transfer-Encoding: chunked"]),
        (get(), False, -1, Framing.CHUNKED, [b"Transfer-Encoding: chunked", b"Connection: close"]),
        (get(), False, 7, Framing.LENGTH, [b"Content-Length: 7", b"Connection: close"]),
        (ONE_ZERO, True, 7, Framing.LENGTH, [b"Content-Length: 7", b"Connection: keep-alive"]),
        (ONE_ZERO, False, 7, Framing.LENGTH, [b"Content-Length: 7", b"Connection: close"]),
        (ONE_ZERO, True, -1, Framing.CLOSE, [b"Connection: close"]),
        (ONE_ZERO, False, -1, Framing.CLOSE, [b"Connection: close"]),
    ],
)
def test_every_framing_of_the_clients_hop(request_, keep_alive, length, framing, last):
    lines, got = answer(ResponseHead(200, b"", b"", length, b""), request_, keep_alive=keep_alive)
    assert (lines, got) == ([b"HTTP/1.1 200 ", b"X-Request-Id: r", *last], framing)


@covers("HTTP-51")
@pytest.mark.parametrize(
    "status, request_, length, last",
    [
        (200, HEAD, 7, [b"Content-Length: 7"]),
        (200, HEAD, 0, [b"Content-Length: 0"]),
        (200, HEAD, -1, []),
        (204, get(), 0, []),
        (204, get(), -1, []),
        (204, HEAD, 7, []),
        (304, get(), 7, [b"Content-Length: 7"]),
        (304, get(), -1, []),
        (304, ONE_ZERO, -1, [b"Connection: keep-alive"]),
    ],
)
def test_a_response_that_has_no_body(status, request_, length, last):
    lines, framing = answer(ResponseHead(status, b"x", b"", length, b""), request_)
    assert (lines[2:], framing) == (last, Framing.NONE)


@covers("HTTP-51")
def test_an_agent_that_sends_bytes_with_a_205_breaks_no_framing():
    assert answer(ResponseHead(205, b"x", b"", -1, b""))[1] is Framing.CHUNKED
    assert answer(ResponseHead(205, b"x", b"", 5, b""))[1] is Framing.LENGTH


@covers("HTTP-42")
@pytest.mark.parametrize(
    "block, added",
    [
        (b"", True),
        (b"Date: x\r\n", False),
        (b"A: b\r\ndATE: x\r\n", False),
        (b"X-Date: x\r\n", True),
        (b"Updated: x\r\nA: Date: x\r\n", True),
    ],
)
def test_a_date_is_added_only_where_there_is_none(block, added):
    lines, _ = answer(ResponseHead(200, b"OK", block, 0, b""), date=DATE)
    assert (b"Date: " + DATE in lines) is added
    assert not any(line.endswith(DATE) for line in answer(ResponseHead(200, b"OK", block, 0, b""))[0])


@covers("HTTP-41", "HTTP-44")
def test_of_what_pico_says_only_its_own_word_reaches_the_client():
    block = (
        b"X-Request-Id: theirs\r\nx-pico-endpoint: x\r\nA: x-request-id: y\r\nx-pico-error: overloaded\r\n"
        b"X-PICO-errors: x\r\nx-request-id:\r\nB: c\r\n"
    )
    lines, _ = answer(ResponseHead(503, b"x", block, 0, b""))
    assert lines[1:-2] == [b"A: x-request-id: y", b"x-pico-error: overloaded", b"B: c"]
    assert lines[-2] == b"X-Request-Id: r"


@covers("HTTP-41", "HTTP-44")
@pytest.mark.parametrize("block", [b"X-Request-ID: theirs\r\n", b"x-PICO-other: x\r\n"])
def test_each_of_them_alone_is_taken_out(block):
    assert answer(ResponseHead(200, b"x", block, 0, b""))[0] == [
        b"HTTP/1.1 200 x",
        b"X-Request-Id: r",
        b"Content-Length: 0",
    ]


@covers("HTTP-45")
def test_an_informational_head_is_passed_on_as_it_is_and_not_to_http_1_0():
    head = ResponseHead(103, b"Early Hints", b"Link: </a>\r\n", 0, b"")
    assert client_response_head(head, get(), keep_alive=False, request_id="r", date=DATE) == (
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n",
        Framing.NONE,
    )
    assert client_response_head(head, ONE_ZERO, keep_alive=True, request_id="r") == (b"", Framing.NONE)


@covers("HTTP-48")
def test_a_switch_names_the_protocol():
    head = ResponseHead(101, b"Switching Protocols", b"Sec-WebSocket-Accept: x\r\n", -1, b"websocket")
    assert client_response_head(head, get(), keep_alive=False, request_id="r", date=DATE) == (
        (
            b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: x\r\n"
            b"Upgrade: websocket\r\nConnection: upgrade\r\n\r\n"
        ),
        Framing.CLOSE,
    )
