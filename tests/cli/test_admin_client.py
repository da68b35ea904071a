"""Why there is no answer from an admin door, in one sentence of ours, whatever the libraries call it."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest

from pico.actors.admin_door import AdminDoor, admin_context
from pico.cli.admin_client import AdminClient, NoAnswer, understanding
from pico.config import TlsFiles
from pico.errors import ConfigError
from pico.observability.admin import AdminApp, json_answer, reads
from tests.agent.harness import WAIT_S, read_head, serving
from tests.certificates import Authority


def ask(url: str, ca_file: str | None = None) -> Any:
    """What is answered, or why nothing; in a thread, since whoever answers runs on this one."""

    def call() -> Any:
        try:
            with AdminClient(url, ca_file) as client:
                return client.read("/status/nodes", {})
        except NoAnswer as error:  # the pool would print what is raised
            return str(error)

    return gevent.get_hub().threadpool.apply(call)


def why(url: str, ca_file: str | None = None) -> str:
    beginning, middle, reason = ask(url, ca_file).partition("/status/nodes: ")
    assert beginning.startswith("no answer from http") and middle
    return reason


def answering(answer: bytes) -> Callable[[Any, Any], None]:
    def handle(sock: Any, _: Any) -> None:
        read_head(sock)
        sock.sendall(answer)

    return handle


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def launched(app: AdminApp, files: TlsFiles | None = None) -> AdminDoor:
    door = AdminDoor("127.0.0.1", 0, app, tls=files and admin_context(files))
    door.launch()
    door.started.get(timeout=WAIT_S)
    return door


@pytest.fixture
def door() -> Iterator[Callable[..., str]]:
    """Opens an admin door, by default without a certificate, and gives its URL as if it had one."""
    opened: list[AdminDoor] = []

    def door(files: TlsFiles | None = None) -> str:
        app = AdminApp((reads("/status/nodes", lambda request: json_answer({})),))
        opened.append(launched(app, files))
        return f"https://localhost:{opened[-1].address[1]}"

    yield door
    for one in opened:
        one.actor_ref.stop(timeout=WAIT_S)


def test_a_door_with_a_certificate_answers_who_believes_its_authority(authority: Authority, door: Any) -> None:
    assert ask(door(authority.issue("localhost")), authority.ca_file) == {}


def test_what_tls_failed_of_is_told_in_words(authority: Authority, door: Any) -> None:
    good, old = door(authority.issue("localhost")), door(authority.issue("localhost", expired=True))
    assert why(good) == "TLS failed: unable to get local issuer certificate"
    assert why(old, authority.ca_file) == "TLS failed: certificate has expired"
    by_address = good.replace("localhost", "127.0.0.1")
    assert why(by_address, authority.ca_file).startswith("TLS failed: IP address mismatch")


def test_https_to_a_door_without_a_certificate(door: Any) -> None:
    assert why(door()) == "TLS failed: the other side does not speak TLS"


def test_plain_http_to_a_door_with_a_certificate(authority: Authority, door: Any) -> None:
    url = door(authority.issue("localhost")).replace("https:", "http:")
    assert why(url) == "this port speaks HTTPS: write https://"


def reset(sock: Any, _: Any) -> None:
    read_head(sock)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.parametrize(
    "handle,reason",
    [
        (answering(b""), "the connection was lost"),
        (answering(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{"), "the connection was lost"),
        (reset, "connection reset by peer"),
        (answering(b"SSH-2.0-x\r\n"), "what answers there does not speak HTTP"),
        (
            answering(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
            "what answers there does not speak HTTP",
        ),
        (answering(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>"), "200, and not JSON"),
    ],
)
def test_what_is_no_answer_is_told_in_words(handle: Any, reason: str) -> None:
    with serving(handle) as server:
        assert why(f"127.0.0.1:{server.server_port}") == reason


def as_json(body: bytes, status: bytes = b"200 OK") -> Callable[[Any, Any], None]:
    return answering(b"HTTP/1.1 %b\r\nConnection: close\r\n\r\n%b" % (status, body))


@pytest.mark.parametrize("body", [b"[]", b'"x"', b"null", b"3", b"NaN"])
def test_json_that_is_no_node_s_is_told_as_such(body: bytes) -> None:
    with serving(as_json(body)) as server:
        assert why(f"127.0.0.1:{server.server_port}").startswith("what answers there is no node")


def test_json_of_any_depth_is_no_fault_of_ours() -> None:
    with serving(as_json(b"[" * 100_000)) as server:
        assert why(f"127.0.0.1:{server.server_port}") == "200, and not JSON"


def test_what_others_say_does_not_reach_the_terminal_as_it_is() -> None:
    with serving(as_json(rb'{"error": {"code": "x", "message": "\u001b]0;owned\u0007"}}', b"404 No")) as server:
        assert ask(f"127.0.0.1:{server.server_port}") == "?]0;owned? (404 x)"


def test_the_admin_port_of_an_agent_is_told_as_such(door: Any) -> None:
    with AdminClient(door().replace("https", "http")) as client:

        def call() -> str:
            with pytest.raises(NoAnswer) as caught:
                client.read("/status/actors", {})
            return str(caught.value)

        assert "(404 not_found)" in gevent.get_hub().threadpool.apply(call), "a node that does not have the page"
    app = AdminApp((reads("/livez", lambda request: json_answer({})),))
    agents = launched(app)
    try:
        reason = why(f"127.0.0.1:{agents.address[1]}")
        assert reason == "this is no node's admin port but perhaps an agent's; it has /livez"
    finally:
        agents.actor_ref.stop(timeout=WAIT_S)


@pytest.mark.parametrize("error", [AttributeError, KeyError, OverflowError, TypeError, ValueError])
def test_an_answer_that_lacks_what_is_shown(error: type[Exception]) -> None:
    with pytest.raises(NoAnswer, match="what answers there is no node"), understanding():
        raise error


@pytest.mark.parametrize(
    "url,reason",
    [
        ("127.0.0.1:1", "connection refused"),
        ("nowhere.invalid", "the name leads nowhere"),
        (f"{'a' * 64}.example", "the name leads nowhere"),
    ],
)
def test_where_nobody_is(url: str, reason: str) -> None:
    assert why(url) == reason


@pytest.mark.parametrize(
    "url", ["foo://x", "://nonsense", "ftp://127.0.0.1", "localhost:99999", "http://", "http://x y"]
)
def test_what_is_no_url_is_a_wrong_word(url: str) -> None:
    with pytest.raises(ConfigError, match=r"^--admin: '.*' is not usable: expected a ") as caught:
        AdminClient(url)
    assert caught.value.value in (url, url.removeprefix("http://"))


def test_a_url_may_have_a_path_and_a_slash_at_its_end() -> None:
    assert AdminClient("https://pico.example/node-a/").url == "https://pico.example/node-a"


def test_the_environment_may_say_where_and_the_command_line_goes_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PICO_ADMIN", "localhost:9001/")
    assert AdminClient(None).url == "http://localhost:9001"
    assert AdminClient("localhost:9002").url == "http://localhost:9002"
    monkeypatch.setenv("PICO_ADMIN", "")
    assert AdminClient(None).url == "http://127.0.0.1:8001"
    monkeypatch.setenv("PICO_ADMIN", "ftp://localhost")
    with pytest.raises(ConfigError, match="^PICO_ADMIN: 'ftp://localhost' is not usable"):
        AdminClient(None)


def test_the_environment_may_say_who_vouches(
    monkeypatch: pytest.MonkeyPatch, door: Callable[..., str], authority: Authority
) -> None:
    url = door(authority.issue("localhost"))
    monkeypatch.setenv("PICO_ADMIN_CA_FILE", authority.ca_file)
    assert ask(url) == {}
    assert AdminClient("http://localhost:1").url, "nobody vouches for it, and nobody is asked to"
    monkeypatch.setenv("PICO_ADMIN_CA_FILE", "/nope")
    with pytest.raises(ConfigError, match="^PICO_ADMIN_CA_FILE: '/nope' is not usable"):
        AdminClient(url)


def test_authorities_that_are_not_usable_are_a_wrong_word(authority: Authority) -> None:
    key = authority.issue("localhost").key
    for ca_file, expected in (("/nope", "a readable file (no such file or directory)"), (key, "certificates in PEM")):
        with pytest.raises(ConfigError) as caught:
            AdminClient("https://localhost:1", ca_file)
        assert str(caught.value) == f"--ca-file: {ca_file!r} is not usable: expected {expected}"


@pytest.mark.parametrize("url", [None, "localhost:8001", "http://localhost:8001"])
def test_authorities_are_for_https(url: str | None) -> None:
    with pytest.raises(ConfigError, match="^--admin: .* expected an https URL, because --ca-file is given"):
        AdminClient(url, os.devnull)
