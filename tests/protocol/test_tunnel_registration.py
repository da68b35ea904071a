"""The opening handshake: what is a registration, what is refused and how, what an answer means."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pico.protocol.tunnel import (
    HOPELESS_STATUSES,
    LISTENER_PATH,
    SUBPROTOCOL,
    Registration,
    RegistrationRefused,
    check_registration,
    listener_path,
    printable,
    retry_after_s,
)
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
    assert str(refused)


@covers("TUN-3")
def test_an_endpoint_id_is_lower_cased_and_a_query_is_no_part_of_it() -> None:
    assert check_registration(handshake(target=b"/pico/v1/listener/My-EP?x=1")).endpoint_id == "my-ep"


@covers("TUN-4")
@pytest.mark.parametrize("target", [b"/", b"*", b"/pico/v1/listener", b"/pico/v2/listener/a", b"/x/pico/v1/listener/a"])
def test_another_path_gets_404(target: bytes) -> None:
    refused = refusal(handshake(target=target))
    assert (refused.status, refused.code) == (404, "not_found")


@covers("TUN-5")
@pytest.mark.parametrize("version", [b"8", b"14", b"013", b"13, 8", b""])
def test_another_version_gets_426_and_the_one_that_is_spoken(version: bytes) -> None:
    refused = refusal(handshake(("Sec-WebSocket-Version", version)))
    assert (refused.status, refused.code) == (426, "version_not_supported")
    assert refused.fields == (("Sec-WebSocket-Version", "13"),)


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
