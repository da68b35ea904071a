"""The opening handshake: what is a registration, what is refused and how, what an answer means."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pico.config import HttpLimits
from pico.errors import RemoteProtocolError
from pico.observability.admin import AdminApp, json_answer, reads
from pico.protocol.http import Failure, ResponseReader
from pico.protocol.http.endpoint import endpoint_id
from pico.protocol.http.values import UNKNOWN_LENGTH, ResponseHead
from pico.protocol.tunnel import (
    HOPELESS_STATUSES,
    LISTENER_PATH,
    SUBPROTOCOL,
    Refusal,
    Registration,
    RegistrationRefused,
    check_acceptance,
    check_registration,
    listener_path,
    node_of,
    printable,
    refusal_of,
    refusal_response,
    registration_request,
    retry_after_s,
)
from pico.protocol.tunnel.registration import ADMIN_DOOR, ELSEWHERE_MAX, told
from tests.rules import covers

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[2] / "spec" / "vectors" / "tunnel.json").read_text())
KEY = b"dGhlIHNhbXBsZSBub25jZQ=="


class Handshake(NamedTuple):
    """A parsed request head, as far as a registration looks at it."""

    method: bytes
    target: bytes
    minor: int
    fields: list[tuple[bytes, bytes, bytes]]


def handshake(
    *changes: tuple[str, bytes | None],
    target: bytes = b"/pico/v1/listener/my-endpoint",
    method: bytes = b"GET",
    minor: int = 1,
) -> Handshake:
    """A good handshake with fields replaced, or left out with None; a name with + is there twice."""
    fields: dict[str, list[bytes]] = {
        "Host": [b"node:8002"],
        "Upgrade": [b"websocket"],
        "Connection": [b"Upgrade"],
        "Sec-WebSocket-Key": [KEY],
        "Sec-WebSocket-Version": [b"13"],
        "Sec-WebSocket-Protocol": [b"pico.stream.v1"],
    }
    for name, value in changes:
        if value is None:
            del fields[name]
        elif name.startswith("+"):
            fields[name[1:]].append(value)
        else:
            fields[name] = [value]
    lines = [(name.encode(), name.lower().encode(), value) for name, values in fields.items() for value in values]
    return Handshake(method, target, minor, lines)


def refusal(request: Handshake) -> RegistrationRefused:
    with pytest.raises(RegistrationRefused) as caught:
        check_registration(request)
    return caught.value


@pytest.mark.parametrize("vector", VECTORS["registrations"], ids=lambda vector: vector["name"])
def test_a_registration_of_the_vectors(vector: dict[str, Any]) -> None:
    fields = [(name.encode(), name.lower().encode(), value.encode()) for name, value in vector["fields"]]
    request = Handshake(b"GET", vector["target"].encode(), 1, fields)
    if "status" in vector:
        refused = refusal(request)
        assert (refused.status, refused.code) == (vector["status"], vector["code"])
    else:
        expected = Registration(vector["endpoint"], KEY, vector["streaming"])
        assert check_registration(request) == expected


@covers("TUN-1", "TUN-6")
def test_the_path_and_the_subprotocol_are_what_the_specification_says() -> None:
    assert listener_path("my-endpoint") == "/pico/v1/listener/my-endpoint" == LISTENER_PATH + "my-endpoint"
    assert SUBPROTOCOL == "pico.stream.v1"
    assert check_registration(handshake()) == Registration("my-endpoint", KEY, True)


@covers("TUN-6")
@pytest.mark.parametrize(
    "offered, streaming",
    [
        (None, False),
        (b"chat", False),
        (b"PICO.STREAM.V1", False),
        (b"pico.stream.v10", False),
        (b"a,pico.stream.v1", True),
    ],
)
def test_the_streaming_extension_is_chosen_when_it_is_offered(offered: bytes | None, streaming: bool) -> None:
    assert check_registration(handshake(("Sec-WebSocket-Protocol", offered))).streaming is streaming


@covers("TUN-2", "TUN-6")
def test_a_list_may_be_given_in_several_lines() -> None:
    request = handshake(
        ("Sec-WebSocket-Protocol", b"chat"), ("+Sec-WebSocket-Protocol", b"pico.stream.v1"),
        ("Connection", b"keep-alive"), ("+Connection", b"upgrade"),
    )  # fmt: skip
    assert check_registration(request).streaming


@covers("TUN-2")
@pytest.mark.parametrize(
    "request_, detail",
    [
        (handshake(method=b"POST"), "GET"),
        (handshake(minor=0), "HTTP/1.1"),
        (handshake(("Connection", None)), "Connection"),
        (handshake(("Connection", b"keep-alive")), "Connection"),
        (handshake(("Connection", b"xupgrade")), "Connection"),
        (handshake(("Connection", b"upgrade-insecure")), "Connection"),
        (handshake(("Upgrade", None)), "Upgrade"),
        (handshake(("Upgrade", b"websocketx")), "Upgrade"),
        (handshake(("Upgrade", b"h2c, websocket")), "Upgrade"),
        (handshake(("Sec-WebSocket-Key", None)), "sec-websocket-key"),
        (handshake(("+Sec-WebSocket-Key", KEY)), "sec-websocket-key"),
        (handshake(("Sec-WebSocket-Key", b"")), "16 bytes"),
        (handshake(("Sec-WebSocket-Key", b"c2hvcnQ=")), "16 bytes"),
        (handshake(("Sec-WebSocket-Key", KEY + b"x")), "16 bytes"),
        (handshake(("Sec-WebSocket-Key", b"!" * 22 + b"==")), "16 bytes"),
        (handshake(("Sec-WebSocket-Version", None)), "sec-websocket-version"),
        (handshake(("+Sec-WebSocket-Version", b"13")), "sec-websocket-version"),
    ],
)
def test_what_is_not_a_handshake_gets_400_and_the_reason(request_: Handshake, detail: str) -> None:
    refused = refusal(request_)
    assert (refused.status, refused.code) == (400, "bad_request")
    assert detail in str(refused)


@covers("TUN-2")
@pytest.mark.parametrize("connection", [b"Upgrade", b"UPGRADE", b"keep-alive, Upgrade", b"upgrade,x", b"x,\tupgrade "])
def test_the_token_upgrade_is_found_among_others_and_in_any_case(connection: bytes) -> None:
    assert check_registration(handshake(("Connection", connection), ("Upgrade", b"WebSocket")))


@covers("TUN-3")
@pytest.mark.parametrize("name", [b"", b"-a", b"a-", b"a_b", b"a.b", b"a/b", b"a%62", b"x" * 64, b"\xc3\xa9"])
def test_an_endpoint_id_that_is_not_valid_gets_400_and_the_reason(name: bytes) -> None:
    refused = refusal(handshake(target=b"/pico/v1/listener/" + name))
    assert (refused.status, refused.code) == (400, "invalid_endpoint")
    with pytest.raises(RemoteProtocolError) as said:
        endpoint_id(name)
    assert str(refused) == str(said.value)


@covers("TUN-3")
def test_an_endpoint_id_is_lower_cased_and_a_query_is_no_part_of_it() -> None:
    assert check_registration(handshake(target=b"/pico/v1/listener/My-EP?x=1")).endpoint_id == "my-ep"


@covers("TUN-4")
@pytest.mark.parametrize("target", [b"/", b"*", b"/pico/v1/listener", b"/pico/v2/listener/a", b"/x/pico/v1/listener/a"])
def test_another_path_gets_404(target: bytes) -> None:
    refused = refusal(handshake(target=target))
    assert (refused.status, refused.code) == (404, "not_found")
    assert "/pico/v1/listener/<endpoint ID>" in str(refused)


@covers("TUN-5")
@pytest.mark.parametrize("version", [b"8", b"14", b"013", b"13, 8", b""])
def test_another_version_gets_426_and_the_one_that_is_spoken(version: bytes) -> None:
    refused = refusal(handshake(("Sec-WebSocket-Version", version)))
    assert (refused.status, refused.code) == (426, "version_not_supported")
    assert refused.fields == (("Sec-WebSocket-Version", "13"),)
    assert "13" in str(refused)


# The agent's side. The key and its answer are those of RFC 6455 §1.3.

ACCEPT = b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"


def answer(block: bytes, status: int = 101) -> ResponseHead:
    return ResponseHead(status, b"Reason", block, UNKNOWN_LENGTH, b"websocket" if status == 101 else b"")


@covers("TUN-1", "TUN-6")
def test_the_request_of_a_registration() -> None:
    request = registration_request("my-endpoint", host="node.example:8002", key=KEY, agent="pico-agent/1")
    assert request == (
        b"GET /pico/v1/listener/my-endpoint HTTP/1.1\r\n"
        b"Host: node.example:8002\r\n"
        b"Upgrade: websocket\r\n"
        b"Connection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        b"Sec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Protocol: pico.stream.v1\r\n"
        b"User-Agent: pico-agent/1\r\n"
        b"\r\n"
    )


@covers("TUN-6", "TUN-9")
def test_an_acceptance_says_whether_streaming_was_chosen() -> None:
    assert check_acceptance(answer(ACCEPT), KEY) is False
    assert check_acceptance(answer(b"X: y\r\n" + ACCEPT + b"sec-websocket-protocol:  pico.stream.v1 \r\n"), KEY) is True


@covers("TUN-9")
@pytest.mark.parametrize(
    "block, detail",
    [
        (b"", "Sec-WebSocket-Accept"),
        (ACCEPT.lower(), "Sec-WebSocket-Accept"),
        (ACCEPT + ACCEPT, "Sec-WebSocket-Accept"),
        (ACCEPT + b"Sec-WebSocket-Extensions: permessage-deflate\r\n", "extension"),
        (ACCEPT + b'Sec-WebSocket-Extensions: x; y=":"\r\n', "extension"),
        (ACCEPT + b"Sec-WebSocket-Protocol: chat\r\n", "subprotocol"),
        (ACCEPT + b"Sec-WebSocket-Protocol: pico.stream.v1\r\n" * 2, "subprotocol"),
    ],
)
def test_what_accepts_something_else_accepts_nothing(block: bytes, detail: str) -> None:
    with pytest.raises(RemoteProtocolError, match=detail):
        check_acceptance(answer(block), KEY)


@covers("TUN-8", "TUN-25", "TUN-27")
def test_a_refusal_of_a_node_is_known_by_its_body() -> None:
    body = b'{"error": {"code": "too_many", "message": "4096 upstreams"}}'
    head = answer(b"Content-Type: application/json\r\nRetry-After: 2\r\n", 503)
    assert refusal_of(head, body) == Refusal(503, "4096 upstreams", 2.0, by_node=True, code="too_many")


@covers("TUN-8")
def test_a_refusal_of_a_door_is_whole_and_says_the_same_to_programs_and_to_people() -> None:
    written = refusal_response(426, "version_not_supported", "a sentence", (("Sec-WebSocket-Version", "13"),))
    reader = ResponseReader(HttpLimits(), of_node=True)
    reader.begin(b"GET", b"websocket")
    reader.receive_data(written)
    head = reader.next_head()
    assert head is not None
    assert reader.next_body() == (b'{"error": {"code": "version_not_supported", "message": "a sentence"}}\n', True)
    assert head.status == 426
    lines = head.field_block.split(b"\r\n")
    assert b"x-pico-error: version_not_supported" in lines and b"Sec-WebSocket-Version: 13" in lines
    assert b"\r\nConnection: close\r\n" in written


def test_every_status_of_a_refusal_has_its_words() -> None:
    for failure in Failure:
        assert refusal_response(failure.status, failure.code, "").startswith(b"HTTP/1.1 %d " % failure.status)


@pytest.mark.parametrize("code", ["endpoint_missing", "endpoint_not_found"])
def test_an_agent_at_the_door_for_clients_is_told_which_one_it_wants(code: str) -> None:
    body = json.dumps({"error": {"code": code, "message": "as a client would understand it"}}).encode()
    refusal = refusal_of(answer(b"", 502), body)
    assert "upstream port" in refusal.reason
    assert refusal.by_node


def test_an_agent_at_an_admin_door_is_told_which_one_it_wants() -> None:
    app = AdminApp((reads("/livez", lambda request: json_answer({})),))
    refusal = refusal_of(answer(b"", 404), app.read("/pico/v1/listener/web").body)
    assert told(refusal) == f"404 {ADMIN_DOOR}"
    assert "upstream port" in ADMIN_DOOR


@covers("TUN-27")
@pytest.mark.parametrize(
    "refusal,sentence",
    [
        (Refusal(200, "OK"), "200 OK, said by something that is no upstream port of a node"),
        (Refusal(301, ""), "301, said by something that is no upstream port of a node"),
        (Refusal(404, "Not Found"), "404 Not Found, said by something that is no upstream port of a node"),
        (Refusal(404, "of the node", by_node=True), "404 of the node"),
        (Refusal(400, "This port speaks HTTPS"), "400 This port speaks HTTPS"),
        (Refusal(401, "Unauthorized"), "401 Unauthorized"),
        (Refusal(502, "Bad Gateway"), "502 Bad Gateway"),
    ],
)
def test_what_no_node_says_is_told_as_that(refusal: Refusal, sentence: str) -> None:
    assert told(refusal) == sentence


@covers("TUN-25", "TUN-27")
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"\xff",
        b"null",
        b"[]",
        b'{"error": {}}',
        b'{"error": {"message": "m"}}',
        b'{"error": {"code": 1, "message": "m"}}',
        b'{"error": {"code": "c", "message": null}}',
        b'{"error": {"code": "c", "message": "cut',
        b"[" * 100_000,
    ],
)
def test_any_other_refusal_is_not_a_nodes(body: bytes) -> None:
    head = answer(b"Retry-After: 1\r\nRetry-After: 2\r\n", 404)
    assert refusal_of(head, body) == Refusal(404, "Reason", None, by_node=False)


@covers("TUN-26")
def test_the_answers_that_cannot_heal() -> None:
    assert {400, 401, 403, 404} == HOPELESS_STATUSES


@covers("TUN-25")
@pytest.mark.parametrize(
    "value, seconds",
    [(None, None), (b"0", 0.0), (b"120", 120.0), (b"999999999", 999999999.0), (b"9999999999", None)]
    + [(bad, None) for bad in (b"", b"-1", b"+1", b"1.5", b"1_0", b" 1", b"Wed, 21 Oct 2015 07:28:00 GMT")],
)
def test_retry_after_is_a_number_of_seconds(value: bytes | None, seconds: float | None) -> None:
    assert retry_after_s(value) == seconds


@covers("TUN-33")
@pytest.mark.parametrize("text", ["a\nb", "a\x00b", "a\x1bb", "a\u2028b", "a\u202eb", "a\ud800b"])
def test_text_of_the_peer_is_made_printable(text: str) -> None:
    assert printable(text) == "a?b"
    assert printable("é ü") == "é ü"


# Nodes by name.


@covers("TUN-35")
@pytest.mark.parametrize(
    "values, named",
    [
        ([], ()),
        ([b"a"], ("a",)),
        ([b"a, b-1", b"c"], ("a", "b-1", "c")),
        ([b"no node, ,\xff, a"], ("a",)),
        ([b",".join(b"n%d" % number for number in range(20))], tuple(f"n{number}" for number in range(16))),
    ],
)
def test_the_nodes_where_an_agent_would_rather_not_be(values: list[bytes], named: tuple[str, ...]) -> None:
    request = handshake()
    request.fields.extend((b"X-Pico-Elsewhere", b"x-pico-elsewhere", value) for value in values)
    assert check_registration(request).elsewhere == named


@covers("TUN-35")
def test_an_agent_writes_them_as_the_door_reads_them() -> None:
    head = registration_request("web", host="n", key=KEY, agent="x", elsewhere=("a", "b"))
    assert b"\r\nx-pico-elsewhere: a, b\r\n" in head
    assert b"elsewhere" not in registration_request("web", host="n", key=KEY, agent="x")
    many = [str(number) for number in range(ELSEWHERE_MAX + 1)]
    head = registration_request("web", host="n", key=KEY, agent="x", elsewhere=many)
    assert b"x-pico-elsewhere: %s\r\n" % ", ".join(many[:-1]).encode() in head, "the door reads no more"


@covers("TUN-34")
@pytest.mark.parametrize(
    "block, name",
    [
        (b"", ""),
        (b"X-Pico-Node: n-1\r\n", "n-1"),
        (b"x-pico-node: a\r\nx-pico-node: b\r\n", ""),
        (b"x-pico-node: no node\r\n", ""),
    ],
)
def test_who_has_accepted(block: bytes, name: str) -> None:
    assert node_of(answer(block)) == name
