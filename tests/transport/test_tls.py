"""TLS: contexts, handshakes, and real clients and servers on the other side. What any stream does is in the suite."""

from __future__ import annotations

import shutil
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import gevent
import gevent.subprocess
import pytest
import requests
from gevent import socket
from gevent.hub import get_hub
from gevent.server import StreamServer

from pico.config import TlsFiles
from pico.errors import ConnectFailed, ConnectionLost, TransportTimeout
from pico.transport.blocking_reader import BlockingReader
from pico.transport.certificates import client_context, server_context
from pico.transport.clock import HubClock, ManualClock
from pico.transport.dial import dial
from pico.transport.memory import memory_pair
from pico.transport.stream import SocketStream, Stream
from pico.transport.tls import TlsStream, accept_tls, connect_tls
from tests.certificates import Authority
from tests.transport.recorder import DEADLINE_S, Recorder, open_files, settle, socket_pair, tcp_sockets

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
GARBAGE = b"\x17\x03\x03\x00\x10" + b"x" * 16
BIG = bytes(range(256)) * (8 << 10)  # 2 MiB


@pytest.fixture(scope="module")
def files(authority: Authority) -> TlsFiles:
    return authority.issue("localhost", "127.0.0.1")


@pytest.fixture(scope="module")
def trusting(authority: Authority) -> ssl.SSLContext:
    return client_context(authority.ca_file)


class Door:
    """Accepts TLS and runs ``serve`` in the connection's greenlet."""

    def __init__(self, context: ssl.SSLContext, serve: Callable[[TlsStream], object]) -> None:
        self.errors: list[Exception] = []
        self._context = context
        self._serve = serve
        self._server = StreamServer(("127.0.0.1", 0), self._handle)
        self._server.start()
        self.port = int(self._server.server_port)

    def _handle(self, sock: socket.socket, address: tuple[str, int]) -> None:
        try:
            stream = accept_tls(SocketStream(sock, address), self._context, DEADLINE_S)
        except (ConnectionLost, TransportTimeout) as error:
            self.errors.append(error)
        else:
            self._serve(stream)

    def stop(self) -> None:
        self._server.stop(timeout=DEADLINE_S)


def answer_http(stream: TlsStream) -> None:
    reader = BlockingReader(stream)
    head = b""
    while b"\r\n\r\n" not in head:
        head += reader.receive(DEADLINE_S)
    stream.write(ANSWER)
    stream.close()


def echo_until_end(stream: TlsStream) -> None:
    reader = BlockingReader(stream)
    while data := reader.receive(DEADLINE_S):
        stream.write(data)
    stream.close()


@pytest.fixture
def web(files: TlsFiles) -> Iterator[Door]:
    door = Door(server_context(files), answer_http)
    yield door
    door.stop()


def in_thread(function: Callable[[], object]) -> object:
    """Run what blocks in a real thread, while the hub goes on."""
    with gevent.Timeout(DEADLINE_S):
        return get_hub().threadpool.apply(function)


# Real clients.


def test_requests_is_served(web: Door, authority: Authority) -> None:
    def get() -> requests.Response:
        return requests.get(f"https://localhost:{web.port}/", verify=authority.ca_file, timeout=DEADLINE_S)

    assert in_thread(get).text == "ok"  # type: ignore[attr-defined]


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("arguments", [[], ["--tls-max", "1.2"], ["--http2"]])
def test_curl_is_served(web: Door, authority: Authority, arguments: list[str]) -> None:
    command = ["curl", "-sS", "--cacert", authority.ca_file, *arguments, f"https://localhost:{web.port}/"]
    done = gevent.subprocess.run(command, capture_output=True, timeout=DEADLINE_S, check=False)
    assert (done.stdout, done.stderr) == (b"ok", b"")


def stdlib_client(port: int, authority: Authority, **settings: object) -> ssl.SSLSocket:
    import socket as stdlib_socket

    context = ssl.create_default_context(cafile=authority.ca_file)
    for name, value in settings.items():
        if name == "alpn":
            context.set_alpn_protocols(value)  # type: ignore[arg-type]
        else:
            setattr(context, name, value)
    plain = stdlib_socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S)
    return context.wrap_socket(plain, server_hostname="localhost")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_the_standard_library_exchanges_much_and_ends_cleanly(
    files: TlsFiles, authority: Authority, version: ssl.TLSVersion
) -> None:
    door = Door(server_context(files), echo_until_end)

    def talk() -> tuple[bytes, str | None, str | None]:
        with stdlib_client(door.port, authority, maximum_version=version, alpn=["h2", "http/1.1"]) as client:
            got = b""
            for start in range(0, len(BIG), 1 << 16):
                client.sendall(BIG[start : start + (1 << 16)])
                while len(got) < start + (1 << 16):
                    got += client.recv(1 << 16)
            chosen, used = client.selected_alpn_protocol(), client.version()
            client.unwrap().close()
            return got, chosen, used

    got, chosen, used = in_thread(talk)  # type: ignore[misc]
    assert got == BIG
    assert chosen == "http/1.1"
    assert used == version.name.replace("_", ".")
    door.stop()


def test_old_versions_of_tls_are_refused(files: TlsFiles, trusting: ssl.SSLContext) -> None:
    for context in (server_context(files), trusting):
        assert context.minimum_version is ssl.TLSVersion.TLSv1_2
        assert context.options & ssl.OP_NO_RENEGOTIATION
        assert not context.options & ssl.OP_IGNORE_UNEXPECTED_EOF


def test_a_truncated_stream_is_a_loss(files: TlsFiles, authority: Authority) -> None:
    recorders: list[Recorder] = []
    door = Door(server_context(files), lambda stream: recorders.append(Recorder(stream)))

    def talk() -> None:
        # In 1.3 session tickets would be left unread, and closing be a reset.
        client = stdlib_client(door.port, authority, maximum_version=ssl.TLSVersion.TLSv1_2)
        client.sendall(b"half a mess")
        client.close()  # of the socket, without a word of TLS

    in_thread(talk)
    with gevent.Timeout(DEADLINE_S):
        while not recorders:
            gevent.sleep(0.001)
    recorders[0].wait_for("lost")
    assert recorders[0].data == b"half a mess"
    assert recorders[0].events == ["received", "lost"]
    assert "close_notify" in str(recorders[0].errors[0])
    door.stop()


# Handshakes that fail.


def test_plain_http_on_a_tls_port_is_told_so(web: Door) -> None:
    with socket.create_connection(("127.0.0.1", web.port), timeout=DEADLINE_S) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = b"".join(iter(lambda: client.recv(4096), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 This port speaks HTTPS\r\n") and b"Content-Length: %d\r\n" % len(body) in head
    assert b"https" in body
    assert len(web.errors) == 1 and isinstance(web.errors[0], ConnectionLost)
    assert str(web.errors[0]) == "plain HTTP to a port that speaks HTTPS"


@pytest.mark.parametrize("noise", [b"\x00" * 100, b"SSH-2.0-x\r\n", b"\x16\x03\x01\xff\xff" + b"x" * 100])
def test_noise_on_a_tls_port_ends_the_connection(web: Door, noise: bytes) -> None:
    with socket.create_connection(("127.0.0.1", web.port), timeout=DEADLINE_S) as client:
        client.sendall(noise)
        client.shutdown(socket.SHUT_WR)
        b"".join(iter(lambda: client.recv(4096), b""))
    assert len(web.errors) == 1 and isinstance(web.errors[0], ConnectionLost)


def shake_hands(role: str, stream: Stream, files: TlsFiles, trusting: ssl.SSLContext, timeout_s: float) -> None:
    if role == "accept":
        accept_tls(stream, server_context(files), timeout_s)
    else:
        connect_tls(stream, trusting, "localhost", timeout_s)


@pytest.mark.parametrize("role", ["accept", "connect"])
def test_a_silent_peer_is_given_up_and_dropped(files: TlsFiles, trusting: ssl.SSLContext, role: str) -> None:
    number = open_files()
    near, far = tcp_sockets()
    with pytest.raises(TransportTimeout):
        shake_hands(role, SocketStream(near), files, trusting, 0.02)
    far.close()
    assert open_files() <= number


@pytest.mark.parametrize("end", ["close", "abort"])
@pytest.mark.parametrize("role,error", [("accept", ConnectionLost), ("connect", ConnectFailed)])
def test_a_peer_that_leaves_during_the_handshake(
    files: TlsFiles, trusting: ssl.SSLContext, role: str, error: type[Exception], end: str
) -> None:
    near, far = socket_pair()
    getattr(far, end)()
    with pytest.raises(error):
        shake_hands(role, near, files, trusting, DEADLINE_S)
    assert near.closed


def refusal(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> str:
    near, far = memory_pair(HubClock())
    accepting = gevent.spawn(accept_tls, far, server, DEADLINE_S)
    with pytest.raises(ConnectFailed) as caught:
        connect_tls(near, client, name, DEADLINE_S)
    with pytest.raises(ConnectionLost):
        accepting.get(timeout=DEADLINE_S)
    assert near.closed
    return str(caught.value)


def test_a_wrong_certificate_is_refused_and_the_error_says_why(
    authority: Authority, trusting: ssl.SSLContext, files: TlsFiles, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path)
    assert refusal(server_context(files), trusting, "other.example").endswith("not valid for 'other.example'")
    assert "expired" in refusal(server_context(authority.issue("localhost", expired=True)), trusting, "localhost")
    assert "issuer" in refusal(server_context(stranger.issue("localhost")), trusting, "localhost")
    assert "issuer" in refusal(server_context(files), client_context(), "localhost")


def test_a_name_that_cannot_be_is_refused(trusting: ssl.SSLContext) -> None:
    for name in ("a..b", ".example", "x" * 300):
        near, _ = memory_pair(HubClock())
        with pytest.raises(ConnectFailed):
            connect_tls(near, trusting, name, DEADLINE_S)
        assert near.closed


# Dialling.


def test_dialling_with_tls(web: Door, trusting: ssl.SSLContext) -> None:
    for host, name in (("localhost", ""), ("127.0.0.1", ""), ("127.0.0.1", "localhost")):
        stream = dial(host, web.port, timeout_s=DEADLINE_S, tls=trusting, server_name=name)
        assert isinstance(stream, TlsStream) and stream.version == "TLSv1.3"
        assert (stream.peer_host, stream.peer_port) == ("127.0.0.1", web.port)
        stream.write(b"GET / HTTP/1.1\r\n\r\n")
        recorder = Recorder(stream)
        recorder.wait_for("ended")
        assert recorder.data == ANSWER
        stream.close()


def test_dialling_plain_http_with_tls_says_what_failed(trusting: ssl.SSLContext) -> None:
    def not_tls(sock: socket.socket, _: object) -> None:
        sock.recv(4096)
        sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    server = StreamServer(("127.0.0.1", 0), not_tls)
    server.start()
    with pytest.raises(ConnectFailed, match="TLS handshake .* failed: the other side does not speak TLS"):
        dial("127.0.0.1", server.server_port, timeout_s=DEADLINE_S, tls=trusting)
    server.stop()


# Streams, beyond the suite of every stream.


def pair(files: TlsFiles, trusting: ssl.SSLContext) -> tuple[TlsStream, TlsStream]:
    near, far = memory_pair(HubClock())
    accepting = gevent.spawn(accept_tls, far, server_context(files), DEADLINE_S)
    return connect_tls(near, trusting, "localhost", DEADLINE_S), accepting.get(timeout=DEADLINE_S)


def in_one_piece(stream: TlsStream, *writes: Callable[[], object]) -> None:
    """What these write reaches the other end by one read."""
    raw, written = stream._raw, bytearray()
    stream._raw = SimpleNamespace(write=written.extend, writev=lambda pieces: written.extend(b"".join(pieces)))  # type: ignore[assignment]
    for write in writes:
        write()
    stream._raw = raw
    raw.write(bytes(written))


def test_what_came_behind_the_handshake_is_not_lost(files: TlsFiles, trusting: ssl.SSLContext) -> None:
    near, far = memory_pair(HubClock())
    accepting = gevent.spawn(accept_tls, far, server_context(files), DEADLINE_S)
    client = connect_tls(near, trusting, "localhost", DEADLINE_S)
    client.write(b"in the same segment as Finished")
    assert Recorder(accepting.get(timeout=DEADLINE_S)).wait_for_bytes(31) == b"in the same segment as Finished"


def test_what_came_behind_the_handshake_is_not_lost_by_a_half_close(files: TlsFiles, trusting: ssl.SSLContext) -> None:
    near, far = memory_pair(HubClock())
    accepting = gevent.spawn(accept_tls, far, server_context(files), DEADLINE_S)
    client = connect_tls(near, trusting, "localhost", DEADLINE_S)
    client.write(b"in the same segment as Finished")
    server = accepting.get(timeout=DEADLINE_S)
    server.half_close()
    client.half_close()
    recorder = Recorder(server)
    recorder.wait_for("ended")
    assert recorder.data == b"in the same segment as Finished"


def test_an_end_without_a_fin_is_told_when_a_paused_stream_goes_on(files: TlsFiles, trusting: ssl.SSLContext) -> None:
    near, far = pair(files, trusting)
    other = Recorder(far)
    other.on_received = lambda data: far.pause_reading()
    in_one_piece(near, lambda: near.write(b"last"), near._say_end)
    other.wait_for("received")
    settle()
    assert other.events == ["received"]
    far.resume_reading()
    other.wait_for("ended")


@pytest.mark.parametrize("end", ["close", "abort", "half_close"])
def test_what_has_broken_while_it_was_paused_may_be_written_to_and_ended(
    files: TlsFiles, trusting: ssl.SSLContext, end: str
) -> None:
    near, far = pair(files, trusting)
    one, other = Recorder(near), Recorder(far)
    other.on_received = lambda data: far.pause_reading()
    in_one_piece(near, lambda: near.write(b"good"), lambda: near._raw.write(GARBAGE))
    other.wait_for("received")
    far.write(b"answer")
    getattr(far, end)()
    far.write(b"and more")
    one.wait_for("lost")
    settle()
    assert other.events == ["received", *(["lost"] if end == "half_close" else [])]


def test_garbage_in_the_middle_is_a_loss(files: TlsFiles, trusting: ssl.SSLContext) -> None:
    near, far = pair(files, trusting)
    one, other = Recorder(near), Recorder(far)
    near.write(b"good")
    other.wait_for_bytes(4)
    near._raw.write(GARBAGE)
    other.wait_for("lost")
    one.wait_for("lost")  # by the alert
    assert other.data == b"good" and far.closed


def test_bytes_before_a_truncation_are_delivered_even_when_paused(files: TlsFiles, trusting: ssl.SSLContext) -> None:
    near, far = pair(files, trusting)
    other = Recorder(far)
    far.pause_reading()
    near.write(b"x" * 50_000)
    near._raw.half_close()
    settle()
    far.resume_reading()
    other.wait_for("lost")
    assert len(other.data) == 50_000


@pytest.mark.parametrize("heard", [True, False])
def test_a_stream_that_is_paused_or_has_no_receiver_takes_no_more_than_one_read(
    files: TlsFiles, trusting: ssl.SSLContext, heard: bool
) -> None:
    near, far = pair(files, trusting)
    Recorder(far)
    if heard:
        far.pause_reading()
    else:
        far.set_receiver(None)
    near.write(BIG)
    settle()
    assert near.unsent_bytes > len(BIG) - 256 * 1024
    assert far._incoming.pending < 128 * 1024


def test_an_idle_stream_keeps_no_buffers_of_a_busy_past(files: TlsFiles, trusting: ssl.SSLContext) -> None:
    near, far = memory_pair(HubClock(), capacity_bytes=len(BIG))
    accepting = gevent.spawn(accept_tls, far, server_context(files), DEADLINE_S)
    client, server = connect_tls(near, trusting, "localhost", DEADLINE_S), accepting.get(timeout=DEADLINE_S)
    seen = Watched(client, server)
    recorder = Recorder(server)
    client.write(BIG)
    assert recorder.wait_for_bytes(len(BIG)) == BIG
    assert 0 < seen.pending_max < 64 * 1024


class Watched:
    """The buffers between the library and us, and how full they ever were."""

    def __init__(self, *streams: TlsStream) -> None:
        self.pending_max = 0
        for stream in streams:
            stream._incoming = self._watch(stream._incoming)  # type: ignore[assignment]
            stream._outgoing = self._watch(stream._outgoing)  # type: ignore[assignment]

    def _watch(self, bio: ssl.MemoryBIO) -> SimpleNamespace:
        def look(operation: Callable[..., object]) -> Callable[..., object]:
            def looking(*arguments: object) -> object:
                self.pending_max = max(self.pending_max, bio.pending)
                result = operation(*arguments)
                self.pending_max = max(self.pending_max, bio.pending)
                return result

            return looking

        return SimpleNamespace(write=look(bio.write), read=look(bio.read), write_eof=bio.write_eof, pending=0)


class Demanding:
    """A session whose peer demands an answer to everything it sends."""

    def __init__(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> None:
        self._incoming = incoming
        self._outgoing = outgoing

    def read(self, size: int) -> bytes:
        if self._incoming.read():
            self._outgoing.write(b"a" * 1000)
        raise ssl.SSLWantReadError


def test_a_peer_that_demands_answers_and_reads_none_is_dropped() -> None:
    clock = ManualClock()
    near, far = memory_pair(clock, capacity_bytes=5000)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    stream = TlsStream(far, Demanding(incoming, outgoing), incoming, outgoing, clock)  # type: ignore[arg-type]
    recorder = Recorder(stream)
    reader = Recorder(near)
    for _ in range(200):  # one that reads may demand as much as it likes
        near.write(b"x")
        clock.advance()
    assert recorder.events == [] and len(reader.data) == 200_000
    near.pause_reading()
    for _ in range(80):
        near.write(b"x")
        clock.advance()
    assert recorder.events == ["lost"]
    assert far.unsent_bytes < 100_000


def test_a_handshake_that_is_killed_leaves_nothing(files: TlsFiles) -> None:
    number = open_files()
    near, far = tcp_sockets()
    shaking = gevent.spawn(accept_tls, SocketStream(near), server_context(files), DEADLINE_S)
    settle()
    shaking.kill(timeout=DEADLINE_S)
    far.close()
    assert open_files() <= number
