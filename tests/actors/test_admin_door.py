"""The admin door over real sockets, with ``requests`` as the client."""

from __future__ import annotations

import datetime
import logging
import os
import resource
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import gevent
import gevent.socket
import gevent.ssl
import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from gevent.event import Event

from pico.actors.admin_door import AdminDoor, admin_context
from pico.actors.listener import CannotListen
from pico.config import TlsFiles
from pico.errors import ConfigError
from pico.observability import admin, admin_server
from pico.observability.admin import AdminApp, Answer, Request, Stream, acts, json_answer, reads
from pico.observability.metrics import NodeMetrics
from pico.observability.probes import process_routes
from tests.actors.census import let_others_run, nothing_left_behind

DEADLINE_S = 5.0


class Operator:
    """Asks the admin door from a thread of its own, as the outside does."""

    def __init__(self, url: str, verify: str | bool = True) -> None:
        self.url = url
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.verify = verify

    def ask(self, path: str, method: str = "GET", **settings: Any) -> requests.Response:
        def call() -> requests.Response:
            return self.session.request(method, self.url + path, timeout=DEADLINE_S, **settings)

        answer: requests.Response = gevent.get_hub().threadpool.apply(call)
        return answer


class Process:
    """What stands behind the door."""

    def __init__(self) -> None:
        self.ready = (True, "")
        self.metrics = NodeMetrics(node_id="n1", version="0.1.0", failure_codes=())
        self.render: Callable[[], Iterator[bytes]] = self.metrics.slices
        self.turned: list[Request] = []
        self.ended = 0

    def app(self) -> AdminApp:
        self.admin = AdminApp(
            (
                *process_routes(self._render, lambda: self.ready),
                reads("/things/{name}", lambda request: json_answer([request.names, request.query])),
                acts("/things/{name}/turn", self._turn),
                reads("/pieces", lambda _: Answer(self._counted(3))),
                reads("/broken/value", lambda _: Answer(self._broken(ValueError("secret inside")))),
                reads("/broken/file", lambda _: Answer(self._broken(OSError(24, "secret inside")))),
                reads("/stream", lambda _: Stream(self._endless(), "text/event-stream")),
            )
        )
        return self.admin

    def _render(self) -> Iterator[bytes]:
        return self.render()

    def _turn(self, request: Request) -> Answer:
        self.turned.append(request)
        return json_answer(request.arguments("far"))

    def _counted(self, count: int) -> Iterator[bytes]:
        try:
            for number in range(count):
                yield b"%d\n" % number
        finally:
            self.ended += 1

    def _broken(self, error: Exception) -> Iterator[bytes]:
        yield b"first\n"
        raise error

    def _endless(self) -> Iterator[bytes]:
        try:
            yield b"data: first\n\n"
            Event().wait()
        finally:
            self.ended += 1


def exchanged(address: tuple[str, int], said: bytes) -> bytes:
    """What a client is answered that says this, and then no more."""
    with closing(gevent.socket.create_connection(address, timeout=DEADLINE_S)) as client:
        client.sendall(said)
        client.shutdown(gevent.socket.SHUT_WR)
        answer = b""
        with suppress(ConnectionResetError):
            while piece := client.recv(65_536):
                answer += piece
        return answer


@pytest.fixture(scope="module", autouse=True)
def worker_threads() -> None:
    """The hub's threads are there before anything is counted."""
    gevent.get_hub().threadpool.apply(time.monotonic)
    gevent.socket.getaddrinfo("127.0.0.1", 1)


@pytest.fixture
def process() -> Process:
    return Process()


def opened(process: Process, tls: gevent.ssl.SSLContext | None = None) -> AdminDoor:
    door = AdminDoor("127.0.0.1", 0, process.app(), tls=tls)
    door.launch()
    door.started.get(timeout=DEADLINE_S)
    return door


@pytest.fixture
def address(process: Process) -> Iterator[tuple[str, int]]:
    with nothing_left_behind():
        door = opened(process)
        yield door.address
        assert door.actor_ref.stop(timeout=DEADLINE_S)


@pytest.fixture
def operator(address: tuple[str, int]) -> Iterator[Operator]:
    operator = Operator(f"http://{address[0]}:{address[1]}")
    yield operator
    operator.session.close()


def test_metrics_are_prometheus_text(operator: Operator) -> None:
    answer = operator.ask("/metrics")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert answer.headers["Cache-Control"] == "no-store"
    assert 'pico_node_info{node="n1",version="0.1.0"} 1.0' in answer.text


@pytest.mark.parametrize("path", ["/livez", "/health"])
def test_a_process_that_answers_is_live_even_when_it_is_not_ready(
    operator: Operator, process: Process, path: str
) -> None:
    process.ready = (False, "draining")
    answer = operator.ask(path)
    assert (answer.status_code, answer.json()) == (200, {"status": "live"})


@pytest.mark.parametrize("path", ["/readyz", "/ready"])
def test_readiness_says_why_not(operator: Operator, process: Process, path: str) -> None:
    answer = operator.ask(path)
    assert (answer.status_code, answer.json()) == (200, {"status": "ready"})
    process.ready = (False, "draining")
    answer = operator.ask(path)
    assert (answer.status_code, answer.json()) == (503, {"status": "not ready", "reason": "draining"})


@pytest.mark.parametrize("path", ["/", "/metrics/", "/LIVEZ", "/%2e%2e/etc/passwd", "/debug"])
def test_anything_else_is_not_there(operator: Operator, path: str) -> None:
    answer = operator.ask(path)
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"


def test_a_query_changes_nothing(operator: Operator) -> None:
    assert operator.ask("/livez?verbose=1").status_code == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "BREW"])
def test_only_reading_is_allowed(operator: Operator, method: str) -> None:
    answer = operator.ask("/metrics", method)
    assert answer.status_code == 405
    assert answer.headers["Allow"] == "GET, HEAD"


def test_head_is_get_without_the_body(operator: Operator) -> None:
    answer = operator.ask("/livez", "HEAD")
    assert (answer.status_code, answer.content) == (200, b"")
    assert int(answer.headers["Content-Length"]) == len(operator.ask("/livez").content)


@pytest.mark.parametrize("path", ["/pieces", "/stream"])
def test_head_tells_no_length_that_get_does_not_tell(operator: Operator, path: str) -> None:
    answer = operator.ask(path, "HEAD")
    assert (answer.status_code, answer.content) == (200, b"")
    assert "Content-Length" not in answer.headers
    assert operator.ask("/livez").json() == {"status": "live"}  # on the same connection


@pytest.mark.parametrize("authority", ["http://127.0.0.1:8001", "HTTPS://admin.example", "http://"])
def test_a_target_may_be_in_absolute_form(address: tuple[str, int], authority: str) -> None:
    answer = exchanged(address, f"GET {authority}/things/a?limit=3 HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert answer.endswith(b'[{"name": "a"}, {"limit": "3"}]\n')


def test_a_request_with_a_body_is_answered_and_ends_the_connection(operator: Operator) -> None:
    answer = operator.ask("/livez", data=b"x" * 1000)
    assert answer.status_code == 200
    assert answer.headers["Connection"] == "close"


def test_a_failing_answer_is_500_without_internals_and_the_log_has_more(
    operator: Operator, process: Process, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> Iterator[bytes]:
        raise ValueError("secret inside")
        yield b""

    process.render = fail
    answer = operator.ask("/metrics")
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert "secret inside" in caplog.text
    assert operator.ask("/livez").status_code == 200


@pytest.mark.parametrize("path", ["/broken/value", "/broken/file"])
def test_what_breaks_an_answer_that_has_begun_is_in_the_log_and_nowhere_else(
    address: tuple[str, int], path: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    answer = exchanged(address, f"GET {path}?a=1 HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert b"secret" not in answer
    (said,) = [one for one in caplog.records if one.exc_info]
    assert (said.getMessage(), said.levelname) == (f"the answer to GET {path} failed", "ERROR")
    assert capfd.readouterr().err == ""


def test_too_many_header_fields_are_refused_without_a_traceback(
    address: tuple[str, int], caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level("INFO", "pico.admin")
    answer = exchanged(address, b"GET /livez HTTP/1.1\r\n" + b"x: y\r\n" * 101 + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 400")
    assert [one for one in caplog.messages if "is not valid: " in one and "got more than 100 headers" in one]
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "sent,fault",
    [
        (b"\x16\x03\x01\x02\x00\x01\x00 of a greeting\r\n", "HTTPS to a port that speaks plain HTTP"),
        (b"SSH-2.0-x\r\n", r"Invalid HTTP method: 'SSH-2.0-x\r\n'"),
        (b"GET " + b"x" * 500 + b" and more\r\n", "Invalid HTTP method: 'GET " + "x" * 174),
    ],
)
def test_what_is_no_request_is_one_short_line(
    address: tuple[str, int], sent: bytes, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "pico.admin")
    assert exchanged(address, sent).startswith(b"HTTP/1.1 400")
    assert caplog.messages[-1] == f"the request of 127.0.0.1 is not valid: {fault}"


def test_a_connection_is_kept_and_answers_do_not_wait_for_acknowledgements(operator: Operator) -> None:
    operator.ask("/livez")
    best = float("inf")
    for _ in range(5):
        began = time.monotonic()
        operator.ask("/livez")
        best = min(best, time.monotonic() - began)
    assert best < 0.035  # a delayed acknowledgement takes 0.04


@pytest.mark.parametrize(
    "nonsense",
    [
        b"nonsense\r\n\r\n",
        b"GET /livez HTTP/9.9\r\n\r\n",
        b"GET " + b"x" * 10_000 + b" HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\r\n",
    ],
    ids=["no-request", "version", "long", "tls"],
)
def test_what_is_not_http_is_turned_away(address: tuple[str, int], nonsense: bytes) -> None:
    client = gevent.socket.create_connection(address, timeout=DEADLINE_S)
    client.sendall(nonsense)
    answer = client.recv(100)
    assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.0 414", b"HTTP/1.1 414", b"HTTP/1.0 400"))
    client.close()


def test_a_client_that_does_not_finish_its_request_is_let_go(
    address: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin_server, "REQUEST_S", 0.02)
    client = gevent.socket.create_connection(address, timeout=DEADLINE_S)
    client.sendall(b"GET /livez HTTP/1.1\r\nHost:")
    while client.recv(100):
        pass  # an answer, or none: the end is what counts
    client.close()


def test_the_longest_idle_connection_makes_room_for_another(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin_server, "CONNECTIONS_MAX", 4)
    with nothing_left_behind():
        door = opened(process)
        idle = [gevent.socket.create_connection(door.address, timeout=DEADLINE_S) for _ in range(10)]
        assert exchanged(door.address, b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").startswith(b"HTTP/1.1 200 OK")
        assert idle[0].recv(1) == b""
        idle[-1].sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert idle[-1].recv(15) == b"HTTP/1.1 200 OK"
        for client in idle:
            client.close()
        assert door.actor_ref.stop(timeout=DEADLINE_S)


def test_an_idle_connection_does_not_delay_the_stop(process: Process) -> None:
    with nothing_left_behind():
        door = opened(process)
        client = gevent.socket.create_connection(door.address, timeout=DEADLINE_S)
        client.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(15) == b"HTTP/1.1 200 OK"
        began = time.monotonic()
        assert door.actor_ref.stop(timeout=DEADLINE_S)
        assert time.monotonic() - began < 0.5
        client.close()


def test_a_port_that_is_taken_is_one_sentence(address: tuple[str, int], process: Process) -> None:
    door = AdminDoor(*address, process.app())
    door.launch()
    with pytest.raises(CannotListen, match=f"--admin-port: cannot listen on 127.0.0.1:{address[1]}: Address already"):
        door.started.get(timeout=DEADLINE_S)


def test_a_segment_of_the_path_may_be_a_name(operator: Operator) -> None:
    assert operator.ask("/things/a%20b?limit=3").json() == [{"name": "a b"}, {"limit": "3"}]
    for path in ("/things", "/things/", "/things/a/b", "/things/a/turn/"):
        assert operator.ask(path).status_code == 404, path


@pytest.mark.parametrize("query", ["a=1&a=2", "&".join(f"n{number}=1" for number in range(17))])
def test_a_query_that_cannot_be_read_is_refused(operator: Operator, query: str) -> None:
    answer = operator.ask(f"/things/a?{query}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "bad_query")


class TestActions:
    def act(self, operator: Operator, body: str = '{"far": 1}', **fields: str | None) -> requests.Response:
        return operator.ask(
            "/things/a/turn", "POST", data=body, headers={"Content-Type": "application/json", **_named(fields)}
        )

    def test_an_operator_of_this_machine_acts(self, operator: Operator, process: Process) -> None:
        assert self.act(operator).json() == {"far": 1}
        assert [request.names for request in process.turned] == [{"name": "a"}]

    @pytest.mark.parametrize("method,allowed", [("GET", "POST"), ("PUT", "POST")])
    def test_it_is_a_post(self, operator: Operator, method: str, allowed: str) -> None:
        answer = operator.ask("/things/a/turn", method)
        assert (answer.status_code, answer.headers["Allow"]) == (405, allowed)

    def test_who_may_not_act_is_told_why(self, operator: Operator, process: Process) -> None:
        answer = self.act(operator, sec_fetch_site="cross-site")
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "cross_site")
        assert answer.headers["Connection"] == "close"
        assert process.turned == []

    @pytest.mark.parametrize("authority,status", [("localhost:8001", 200), ("evil.example", 403)])
    def test_the_authority_of_an_absolute_target_counts_in_place_of_the_host(
        self, address: tuple[str, int], authority: str, status: int
    ) -> None:
        head = f"POST http://{authority}/things/a/turn HTTP/1.1\r\nHost: localhost\r\n"
        rest = "Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
        assert exchanged(address, (head + rest).encode()).startswith(f"HTTP/1.1 {status} ".encode())

    def test_a_query_is_refused_and_not_ignored(self, operator: Operator, process: Process) -> None:
        kind = {"Content-Type": "application/json"}
        answer = operator.ask("/things/a/turn?node=b", "POST", data='{"far": 1}', headers=kind)
        assert answer.status_code == 400
        assert answer.json()["error"] == {"code": "bad_query", "message": "node: unknown; expected no query"}
        assert process.turned == []

    @pytest.mark.parametrize("body", ["[]", "{", "[" * 10_000, '{"near": 1}'])
    def test_a_body_that_is_not_what_was_expected_is_refused(self, operator: Operator, body: str) -> None:
        answer = self.act(operator, body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "bad_body")

    @pytest.mark.parametrize(
        "body",
        [b"Content-Length: 100\r\n\r\n{", b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"],
        ids=["short", "no-chunk"],
    )
    def test_a_body_that_is_not_whole_is_refused_without_a_traceback(
        self, address: tuple[str, int], process: Process, body: bytes, capfd: pytest.CaptureFixture[str]
    ) -> None:
        head = b"POST /things/a/turn HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        answer = exchanged(address, head + body)
        assert answer.startswith(b"HTTP/1.1 400")
        assert b'"code": "bad_body"' in answer
        assert answer.count(b"HTTP/1.1") == 1
        assert process.turned == []
        assert capfd.readouterr().err == ""

    def test_a_body_has_a_limit(self, operator: Operator, process: Process) -> None:
        answer = self.act(operator, " " * (admin.BODY_BYTES_MAX - 1) + "{}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")
        assert process.turned == []


def _named(fields: dict[str, str | None]) -> dict[str, str | None]:
    return {name.replace("_", "-"): value for name, value in fields.items()}


class TestPieces:
    def test_an_answer_in_pieces_is_whole(self, operator: Operator, process: Process) -> None:
        answer = operator.ask("/pieces")
        assert (answer.headers["Transfer-Encoding"], answer.text) == ("chunked", "0\n1\n2\n")
        assert operator.ask("/pieces", "HEAD").content == b""
        assert operator.ask("/livez").status_code == 200


class Listener:
    """Reads an answer without an end."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.sock = gevent.socket.create_connection(address, timeout=DEADLINE_S)
        self.sock.sendall(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n")
        self.read = b""

    def reads_until(self, text: bytes) -> None:
        while text not in self.read:
            piece = self.sock.recv(1000)
            assert piece, self.read
            self.read += piece


class TestStreams:
    def test_a_piece_leaves_at_once(self, address: tuple[str, int]) -> None:
        listener = Listener(address)
        listener.reads_until(b"data: first\n\n")
        assert b"\r\nContent-Type: text/event-stream\r\n" in listener.read
        listener.sock.close()

    def test_it_ends_when_the_reader_has_gone(
        self, address: tuple[str, int], process: Process, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(admin_server, "STREAM_LOOK_S", 0.01)
        listener = Listener(address)
        listener.reads_until(b"first")
        assert process.admin.streams == 1
        listener.sock.close()
        with gevent.Timeout(DEADLINE_S):
            while not process.ended:
                gevent.sleep(0.001)
        assert process.admin.streams == 0

    def test_it_outlives_the_time_for_an_answer(
        self, address: tuple[str, int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(admin_server, "REQUEST_S", 0.02)
        listener = Listener(address)
        listener.reads_until(b"first")
        listener.sock.settimeout(0.1)
        with pytest.raises(TimeoutError):
            listener.sock.recv(1)
        listener.sock.close()

    def test_streams_have_a_limit_and_probes_are_answered_all_the_same(
        self, address: tuple[str, int], operator: Operator, process: Process
    ) -> None:
        listeners = [Listener(address) for _ in range(admin.STREAMS_MAX)]
        for listener in listeners:
            listener.reads_until(b"first")
        answer = operator.ask("/stream")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "too_many_streams")
        assert operator.ask("/livez").status_code == 200
        for listener in listeners:
            listener.sock.close()

    def test_it_ends_with_the_door(self, process: Process) -> None:
        with nothing_left_behind():
            door = opened(process)
            listener = Listener(door.address)
            listener.reads_until(b"first")
            assert door.actor_ref.stop(timeout=DEADLINE_S)
            listener.sock.close()
        assert process.ended == 1


@pytest.fixture(scope="module")
def tls_files(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    """A certificate for localhost, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    directory: Path = tmp_path_factory.mktemp("tls")
    (directory / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (directory / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return TlsFiles(certificate=str(directory / "cert.pem"), key=str(directory / "key.pem"))


class TestTls:
    @pytest.fixture
    def port(self, process: Process, tls_files: TlsFiles) -> Iterator[int]:
        with nothing_left_behind():
            door = opened(process, admin_context(tls_files))
            yield door.address[1]
            assert door.actor_ref.stop(timeout=DEADLINE_S)

    def test_it_serves_over_tls(self, port: int, tls_files: TlsFiles) -> None:
        operator = Operator(f"https://localhost:{port}", verify=tls_files.certificate)
        assert operator.ask("/readyz").json() == {"status": "ready"}
        operator.session.close()

    def test_who_speaks_no_tls_or_nothing_hurts_nobody(
        self, port: int, tls_files: TlsFiles, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(admin_server, "TLS_HANDSHAKE_S", 0.02)
        for first in (b"GET / HTTP/1.1\r\n\r\n", b""):
            client = gevent.socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S)
            client.sendall(first)
            with suppress(ConnectionResetError):
                while client.recv(100):
                    pass
            client.close()
        assert capfd.readouterr().err == ""
        operator = Operator(f"https://localhost:{port}", verify=tls_files.certificate)
        assert operator.ask("/livez").status_code == 200
        operator.session.close()

    @pytest.mark.parametrize("path", ["/metrics", "/stream"])
    def test_a_client_that_leaves_early_is_no_fault(
        self,
        port: int,
        process: Process,
        path: str,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        def endless() -> Iterator[bytes]:
            try:
                while True:
                    yield b"#" * 10_000 + b"\n"
            finally:
                process.ended += 1

        monkeypatch.setattr(process, "render", endless)
        monkeypatch.setattr(process, "_endless", endless)
        caplog.set_level("DEBUG", "pico.admin")
        context = gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        client = context.wrap_socket(gevent.socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S))
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        client.recv(1000)
        client.close()
        with gevent.Timeout(DEADLINE_S):
            while not process.ended:
                gevent.sleep(0.001)
        let_others_run()
        # Which error it is depends on OpenSSL: gevent keeps the one of 3.6 to itself, that of 3.0 comes to us.
        assert [one for one in caplog.records if one.levelno >= logging.WARNING] == []
        assert capfd.readouterr().err == ""

    def test_a_client_of_plain_http_is_told_so(self, port: int, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level("INFO", "pico.admin")
        # More than the handshake reads of it: what is left unread must not reset the connection.
        answer = Operator(f"http://127.0.0.1:{port}").ask("/readyz", "POST", data=b"x" * 100_000)
        assert (answer.status_code, answer.reason) == (400, "This port speaks HTTPS")
        assert answer.text == "This port speaks HTTPS: use an https URL.\n"
        (said,) = [one.getMessage() for one in caplog.records if "handshake" in one.getMessage()]
        assert said == "the TLS handshake with 127.0.0.1 failed: plain HTTP to a port that speaks HTTPS"

    def test_who_has_gone_before_the_handshake_hurts_nobody(
        self, port: int, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
    ) -> None:
        caplog.set_level("INFO", "pico.admin")
        for first in (b"", b"hello"):
            with closing(socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S)) as client:
                client.sendall(first)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with gevent.Timeout(DEADLINE_S):
            while sum("the TLS handshake with 127.0.0.1 failed" in one for one in caplog.messages) < 2:
                gevent.sleep(0.001)
        assert capfd.readouterr().err == ""

    @pytest.mark.parametrize(
        "first,ends,within_s,why",
        [
            (b"", False, 0.02, "it was not complete within 0.02 s"),
            (b"", True, DEADLINE_S, "the other side ended the connection"),
            (b"SSH-2.0-x\r\n", False, DEADLINE_S, "the other side does not speak TLS"),
        ],
    )
    def test_why_a_handshake_failed_is_told_in_words(
        self,
        port: int,
        first: bytes,
        ends: bool,
        within_s: float,
        why: str,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        monkeypatch.setattr(admin_server, "TLS_HANDSHAKE_S", within_s)
        caplog.set_level("INFO", "pico.admin")
        with closing(gevent.socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S)) as client:
            client.sendall(first)
            if ends:
                client.shutdown(gevent.socket.SHUT_WR)
            with suppress(ConnectionResetError):
                while client.recv(100):
                    pass
        assert f"the TLS handshake with 127.0.0.1 failed: {why}" in caplog.messages


@contextmanager
def no_file_left() -> Iterator[None]:
    """Within, the system gives this process no other descriptor."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_without_a_file_for_a_connection_it_pauses_and_prints_no_traceback(
    address: tuple[str, int], caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    client = gevent.socket.socket()
    client.settimeout(DEADLINE_S)
    with no_file_left():
        client.connect(address)
        with gevent.Timeout(DEADLINE_S):
            while len(caplog.messages) < 2:
                gevent.sleep(0.001)
    assert set(caplog.messages) == {"--admin-port accepts nobody for a moment: Too many open files"}
    client.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
    assert client.recv(15) == b"HTTP/1.1 200 OK"
    client.close()
    assert capfd.readouterr().err == ""


def test_the_certificate_must_be_there() -> None:
    with pytest.raises(ConfigError, match="certificate: '/nowhere/c.pem' is not usable"):
        admin_context(TlsFiles(certificate="/nowhere/c.pem", key="/nowhere/k.pem"))
