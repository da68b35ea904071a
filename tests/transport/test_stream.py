"""What only a real socket can show, and the reader for handshakes on a manual clock."""

from __future__ import annotations

import gc
import logging
import os
import socket as stdlib_socket
import struct
import subprocess
import sys
from typing import Never

import gevent
import pytest
from gevent import socket

from pico.errors import ConnectionLost, TransportTimeout
from pico.transport import stream as stream_module
from pico.transport.blocking_reader import BlockingReader
from pico.transport.clock import ManualClock
from pico.transport.memory import memory_pair
from pico.transport.stream import SocketStream
from tests.compiled import interpreted_only
from tests.transport.recorder import DEADLINE_S, Recorder, open_files, settle, socket_pair, tcp_sockets

BIG = bytes(4 << 20)


def test_the_socket_that_was_given_is_taken_over() -> None:
    near, far = tcp_sockets()
    stream = SocketStream(near)
    assert near.fileno() == -1
    far.sendall(b"x")
    assert Recorder(stream).wait_for_bytes(1) == b"x"
    stream.close()
    far.close()


def test_a_plain_socket_serves_as_well() -> None:
    with stdlib_socket.create_server(("127.0.0.1", 0)) as listener:
        near = SocketStream(stdlib_socket.create_connection(listener.getsockname()))
        accepted, address = listener.accept()
    far = SocketStream(accepted, address)
    near.write(b"x")
    assert Recorder(far).wait_for_bytes(1) == b"x"
    near.close()
    far.close()


def test_it_works_in_a_patched_program() -> None:
    program = """
from gevent import monkey; monkey.patch_all()
import socket
from pico.transport.blocking_reader import BlockingReader
from pico.transport.stream import SocketStream
listener = socket.create_server(("127.0.0.1", 0))
near = SocketStream(socket.create_connection(listener.getsockname()))
far = SocketStream(listener.accept()[0])
near.write(b"patched")
assert BlockingReader(far).receive(5.0) == b"patched"
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30, env=environment)


def test_nagle_is_off_and_the_peer_is_known() -> None:
    near, far = tcp_sockets()
    name = near.getsockname()
    stream = SocketStream(far)
    assert (stream.peer_host, stream.peer_port) == name
    assert stream._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    stream.abort()
    near.close()


def test_an_ipv4_client_of_a_dual_socket_has_its_ipv4_address() -> None:
    near, far = tcp_sockets()
    stream = SocketStream(far, ("::ffff:192.0.2.1", 7, 0, 0))
    assert (stream.peer_host, stream.peer_port) == ("192.0.2.1", 7)
    stream.abort()
    near.close()


def test_a_unix_socket_has_no_address() -> None:
    near, far = stdlib_socket.socketpair()
    one, other = SocketStream(near), SocketStream(far)
    assert (one.peer_host, one.peer_port) == ("", 0)
    one.write(b"x")
    assert Recorder(other).wait_for_bytes(1) == b"x"
    one.close()
    other.close()


def test_a_peer_that_is_gone_before_we_look_is_lost_and_no_exception() -> None:
    near, far = tcp_sockets()
    near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    near.close()
    stream = SocketStream(far)
    recorder = Recorder(stream)
    recorder.wait_for("lost")
    assert recorder.events == ["lost"]


def test_an_abort_is_a_reset_on_the_wire() -> None:
    near, far = tcp_sockets()
    SocketStream(near).abort()
    with pytest.raises(ConnectionResetError):
        far.recv(1)
    far.close()


def test_what_a_peer_said_before_it_reset_us_is_still_heard() -> None:
    """A server that refuses an upload early answers, closes, and so resets what we still send."""
    near, far = tcp_sockets()
    stream = SocketStream(near)
    recorder = Recorder(stream)
    stream.write(BIG)
    settle()
    assert stream.unsent_bytes
    far.sendall(b"413, too much")
    far.close()  # with unread bytes: a reset
    recorder.wait_for("lost")
    assert recorder.data == b"413, too much"
    assert recorder.events[-1] == "lost" and recorder.events.count("lost") == 1
    assert stream.closed and stream.unsent_bytes == 0


def test_what_was_cut_off_does_not_end_cleanly_for_a_write_that_failed() -> None:
    near, far = tcp_sockets()
    stream = SocketStream(near)
    recorder = Recorder(stream)
    stream.write(b"unread")
    settle()
    far.sendall(b"half of it")
    far.close()  # with something unread: a reset, which the next write takes note of
    stream.write(b"x")
    recorder.wait_for("lost")
    assert recorder.data == b"half of it"
    assert recorder.events == ["received", "lost"]


def test_a_write_that_fails_while_nobody_reads_is_told_to_who_comes(caplog: pytest.LogCaptureFixture) -> None:
    near, far = tcp_sockets()
    stream = SocketStream(near)
    stream.write(b"unread")
    far.sendall(b"not read either")
    far.close()
    stream.write(b"x")
    settle()
    recorder = Recorder(stream)
    recorder.wait_for("lost")
    assert recorder.events == ["lost"]
    assert caplog.text == ""


def test_a_failed_write_is_told_though_reading_is_paused() -> None:
    near, far = tcp_sockets()
    stream = SocketStream(near)
    recorder = Recorder(stream)
    stream.pause_reading()
    far.close()
    for _ in range(3):
        stream.write(b"x")
        settle()
    recorder.wait_for("lost")
    assert recorder.events == ["lost"]


def test_a_patient_receiver_gets_all_that_had_arrived_before_a_write_failed() -> None:
    near, far = tcp_sockets()
    stream = SocketStream(near)
    stream.patient = True
    recorder = Recorder(stream)
    stream.pause_reading()
    sent = os.urandom(100_000)
    writer = gevent.spawn(far.sendall, sent)
    writer.join(DEADLINE_S)
    assert writer.successful()
    stream.write(b"unread")
    settle()
    far.close()  # with something unread: a reset
    for _ in range(3):
        stream.write(b"x")
        settle()
    assert recorder.events == []
    stream.resume_reading()
    assert recorder.wait_for_bytes(len(sent)) == sent
    recorder.wait_for("lost")
    assert "ended" not in recorder.events, "what was cut off would look complete"
    assert stream.closed


def test_a_patient_receiver_is_told_of_a_failed_write_when_there_is_nothing_to_read_any_more() -> None:
    near, far = tcp_sockets()
    stream = SocketStream(near)
    stream.patient = True
    recorder = Recorder(stream)
    far.shutdown(stdlib_socket.SHUT_WR)
    recorder.wait_for("ended")
    far.close()
    with gevent.Timeout(DEADLINE_S):
        while "lost" not in recorder.events:
            stream.write(b"x")
            settle()


def test_a_failed_write_is_never_told_from_within_the_write() -> None:
    near, far = tcp_sockets()
    stream = SocketStream(near)
    far.close()
    recorder = Recorder(stream)
    for _ in range(100):
        before = list(recorder.events)
        stream.writev([b"x", b"y"])
        assert recorder.events == before
        if "lost" in recorder.events:
            break
        settle()
    assert recorder.events[-1] == "lost"


def test_closing_after_a_failed_write_is_silent() -> None:
    near, far = tcp_sockets()
    stream = SocketStream(near)
    recorder = Recorder(stream)
    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    far.close()
    stream.write(b"x")
    stream.close()
    settle()
    assert recorder.events == []


def test_a_close_gives_up_flushing_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "FLUSH_S", 0.02)
    files = open_files()
    near, far = tcp_sockets()
    stream = SocketStream(near)
    stream.write(BIG)
    stream.close()
    settle()
    assert stream.unsent_bytes > 0
    with gevent.Timeout(DEADLINE_S):
        while stream.unsent_bytes:
            gevent.sleep(0.005)
    with pytest.raises(ConnectionResetError):
        b"".join(iter(lambda: far.recv(1 << 20), b""))
    far.close()
    assert open_files() <= files


def test_a_peer_that_resets_during_the_flush_ends_it() -> None:
    files = open_files()
    near, far = tcp_sockets()
    stream = SocketStream(near)
    stream.write(BIG)
    stream.close()
    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    far.close()
    with gevent.Timeout(DEADLINE_S):
        while stream.unsent_bytes:
            gevent.sleep(0.001)
    assert open_files() <= files


def test_one_busy_connection_does_not_starve_another() -> None:
    busy, busy_far = socket_pair()
    quiet, quiet_far = socket_pair()
    turns: list[str] = []
    one, other = Recorder(busy_far), Recorder(quiet_far)
    one.on_received = lambda data: turns.append("busy")
    other.on_received = lambda data: turns.append("quiet")
    Recorder(busy)
    busy.write(BIG)
    quiet.write(b"x")
    other.wait_for_bytes(1)
    assert turns.index("quiet") <= 2
    for stream in (busy, busy_far, quiet, quiet_far):
        stream.abort()


def test_an_idle_stream_has_no_writer_and_one_reader() -> None:
    near, far = socket_pair()
    Recorder(near)
    near.write(b"x")
    assert near._writer is None and near._reader.active
    far.close()
    near.close()
    assert near._reader is None


def test_a_fault_of_the_process_itself_is_not_swallowed() -> None:
    for fatal in (KeyboardInterrupt(), SystemExit()):
        with pytest.raises(type(fatal)):
            stream_module.report_crash(None, fatal)


def test_a_receiver_that_fails_when_told_of_its_fault_is_only_logged(caplog: pytest.LogCaptureFixture) -> None:
    near, far = socket_pair()

    class Hopeless(Recorder):
        def received(self, data: bytes) -> None:
            raise ValueError("a bug")

        def lost(self, error: ConnectionLost) -> None:
            raise ValueError("another bug")

    Hopeless(far)
    other = Hopeless()
    with caplog.at_level(logging.ERROR, logger="pico.transport"):
        near.write(b"x")
        one = Recorder(near)
        one.wait_for("lost")
        assert "another bug" in caplog.text
        near, far = socket_pair()
        far.set_receiver(other)
        near.abort()
        settle()
    assert far.closed
    far.abort()


@pytest.mark.parametrize("event", ["ended", "drained"])
def test_a_fault_in_any_callback_ends_the_connection(event: str) -> None:
    near, far = socket_pair()

    class Faulty(Recorder):
        crashes = 0

        def crashed(self, error: BaseException) -> None:
            self.crashes += 1

        def ended(self) -> None:
            raise ValueError("a bug")

        drained = ended

    faulty = Faulty(far)
    one = Recorder(near)
    if event == "drained":
        far.write(BIG)
    else:
        near.half_close()
    one.wait_for("lost")
    assert faulty.crashes == 1 and far.closed


@interpreted_only
def test_bytes_for_which_there_is_no_memory_end_the_connection() -> None:
    """They have left the system: what comes after them would look like the next ones."""

    class Full(bytearray):
        def __getitem__(self, _: object) -> Never:
            raise MemoryError

    near, far = socket_pair()
    far._scratch = Full(far.read_bytes_max)
    one, other = Recorder(near), Recorder(far)
    near.write(b"x")
    one.wait_for("lost")
    assert far.closed
    assert other.events == ["lost"] and not other.data


def test_a_cut_cable_is_noticed_at_both_ends() -> None:
    clock = ManualClock()
    near, far = memory_pair(clock)
    one, other = Recorder(near), Recorder(far)
    near.write(b"on its way")
    near.cut()
    clock.advance()
    far.write(b"too late")
    clock.advance()
    assert one.events == other.events == ["lost"]
    assert near.closed and far.closed


def test_a_reader_has_its_deadline_from_its_clock() -> None:
    clock = ManualClock()
    near, far = memory_pair(clock)
    reader = BlockingReader(far, clock)
    reading = gevent.spawn(reader.receive, 5.0)
    settle()
    clock.advance(4.9)
    settle()
    assert not reading.dead
    clock.advance(0.1)
    with pytest.raises(TransportTimeout):
        reading.get(timeout=DEADLINE_S)
    reading = gevent.spawn(reader.receive, 5.0)
    settle()
    near.write(b"x")
    clock.advance()
    assert reading.get(timeout=DEADLINE_S) == b"x"
    assert clock.next_due() is None


def test_a_reader_that_is_killed_leaves_no_timer() -> None:
    clock = ManualClock()
    _, far = memory_pair(clock)
    reading = gevent.spawn(BlockingReader(far, clock).receive, 5.0)
    settle()
    assert clock.next_due() == 5.0
    reading.kill(timeout=DEADLINE_S)
    assert clock.next_due() is None


def test_many_connections_leave_nothing() -> None:
    files, before = open_files(), open_streams()
    for _ in range(200):
        near, far = socket_pair()
        one, other = Recorder(near), Recorder(far)
        near.write(b"x")
        other.wait_for_bytes(1)
        far.abort()
        one.wait_for("lost")
    assert open_files() <= files
    gc.collect()
    assert not [stream for stream in open_streams() if not any(stream is one for one in before)]


def open_streams() -> list[SocketStream]:
    return [thing for thing in gc.get_objects() if isinstance(thing, SocketStream) and not thing.closed]


def test_reads_that_fill_their_room_and_others_bring_the_same_bytes() -> None:
    near, far = tcp_sockets()
    stream = SocketStream(near)
    stream.read_bytes_max = 1000
    seen = Recorder(stream)
    sent = b""
    for turn, size in enumerate((10, 1000, 1000, 2500, 999, 1, 1000)):
        piece = bytes([turn]) * size
        far.sendall(piece)
        sent += piece
        assert seen.wait_for_bytes(len(sent)) == sent
    stream.close()
    far.close()


@pytest.mark.parametrize("size", [999, 1000])
@pytest.mark.parametrize("fate", ["ended", "lost"])
def test_the_end_and_a_reset_are_seen_after_a_read_of_either_kind(size: int, fate: str) -> None:
    near, far = tcp_sockets()
    stream = SocketStream(near)
    stream.read_bytes_max = 1000
    seen = Recorder(stream)
    far.sendall(bytes(size))
    seen.wait_for_bytes(size)
    if fate == "lost":
        far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    far.close()
    seen.wait_for(fate)
    assert seen.events == ["received", fate]
    stream.close()


def test_it_says_whether_more_can_be_received_at_once() -> None:
    near, far = tcp_sockets()
    stream = SocketStream(near)
    assert not stream.more_waits
    far.sendall(b"four")
    seen = Recorder()
    stream.read_bytes_max = 3
    said = []
    seen.on_received = lambda data: said.append(stream.more_waits)
    stream.set_receiver(seen)
    assert seen.wait_for_bytes(4) == b"four"
    assert said == [True, False]
    far.close()
    seen.wait_for("ended")
    assert not stream.more_waits, "the end is nothing to receive"
    stream.close()
    assert not stream.more_waits


def test_many_small_pieces_that_wait_take_little_more_than_their_bytes() -> None:
    near, far = tcp_sockets()
    stream, written = SocketStream(near), bytearray()

    def write(data: bytes) -> None:
        written.extend(data)
        stream.write(data)

    while not stream.unsent_bytes:
        write(bytes(65536))
    for number in range(200_000):
        write(b"%c" % (number % 251))
        if number in (7_000, 100_000):
            write(b"large" * 2000)
    unsent = stream._unsent
    assert unsent is not None
    assert len(unsent) < 10
    assert sum(map(len, unsent)) == stream.unsent_bytes
    other = SocketStream(far)
    assert Recorder(other).wait_for_bytes(len(written)) == written
    stream.close()
    other.close()


def test_the_system_keeps_little_of_what_it_has_not_sent() -> None:
    """A peer that reads nothing: what its system takes has been sent, and is the same for both."""
    left = []
    for limit in (None, 16 * 1024):
        near, far = tcp_sockets()
        near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 200 * 1024)
        stream = SocketStream(near)
        if limit is not None:
            stream.limit_backlog(limit)
        written = 0
        while not stream.unsent_bytes:
            stream.write(bytes(8192))
            written += 8192
        left.append(written)
        stream.abort()
        far.close()
    assert left[1] < left[0] - 100 * 1024
    stream.limit_backlog(1000)  # closed: nothing happens


def test_it_says_how_fast_the_peer_takes_what_is_sent() -> None:
    near, far = tcp_sockets()
    stream, seen = SocketStream(near), Recorder(SocketStream(far))
    assert stream.delivery_rate is None, "nothing was sent yet"
    stream.write(BIG)
    seen.wait_for_bytes(len(BIG))
    rate = stream.delivery_rate
    assert rate is not None and 1_000_000 < rate < 1 << 40, "bytes per second, on a path that takes some gigabytes"
    stream.abort()
    assert stream.delivery_rate is None


def test_a_stream_that_is_no_tcp_knows_no_rate_and_has_no_backlog_to_limit() -> None:
    near, far = stdlib_socket.socketpair()
    stream = SocketStream(near)
    stream.limit_backlog(1000)
    assert stream.delivery_rate is None
    stream.abort()
    far.close()


def test_one_that_is_given_up_is_lost_to_its_receiver_and_ends_at_its_peer() -> None:
    near, far = socket_pair()
    receiver, peer = Recorder(near), Recorder(far)
    files = open_files()
    near.give_up()
    assert near.closed and open_files() < files
    assert receiver.events == ["lost"]
    peer.wait_for("ended")
    near.give_up()
    near.write(b"nothing")
    near.close()
    settle()
    assert receiver.events == ["lost"]
    far.close()


def test_who_comes_after_it_was_given_up_is_told() -> None:
    near, far = socket_pair()
    near.give_up()
    with pytest.raises(ConnectionLost, match="given up"):
        BlockingReader(near).receive(DEADLINE_S)
    far.close()
