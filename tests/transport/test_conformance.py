"""One suite for every stream: sockets, memory, and TLS over either."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Callable, Iterator

import gevent
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pico.errors import ConnectionLost, LocalProtocolError, TransportTimeout
from pico.transport.blocking_reader import BlockingReader
from pico.transport.certificates import client_context, server_context
from pico.transport.clock import HubClock
from pico.transport.memory import MemoryStream, memory_pair
from pico.transport.stream import SocketStream, Stream
from pico.transport.tls import TlsStream, accept_tls, connect_tls
from tests.certificates import Authority
from tests.transport.recorder import CrashRecorder, Recorder, open_files, settle, socket_pair

Pair = tuple[Stream, Stream]
MakePair = Callable[[], Pair]

KINDS = ("socket", "memory", "tls over socket", "tls over memory")
BIG = os.urandom(1 << 16) * 48  # 3 MiB: more than systems take in one go


@pytest.fixture(scope="module", params=KINDS)
def make_pair(request: pytest.FixtureRequest, authority: Authority) -> MakePair:
    plain: MakePair = socket_pair if "socket" in request.param else lambda: memory_pair(HubClock())
    if not request.param.startswith("tls"):
        return plain
    server, client = server_context(authority.issue("localhost")), client_context(authority.ca_file)

    def secure() -> Pair:
        near, far = plain()
        accepting = gevent.spawn(accept_tls, far, server, 10.0)
        return connect_tls(near, client, "localhost", 10.0), accepting.get(timeout=10.0)

    return secure


@pytest.fixture
def pair(make_pair: MakePair) -> Iterator[Pair]:
    near, far = make_pair()
    yield near, far
    for stream in (near, far):
        stream.abort()


def test_bytes_arrive_in_order_both_ways(pair: Pair) -> None:
    near, far = pair
    one, other = Recorder(near), Recorder(far)
    for number in range(200):
        near.write(b"%d," % number)
        far.write(b"%d;" % number)
    expected = b"".join(b"%d," % number for number in range(200))
    assert other.wait_for_bytes(len(expected)) == expected
    assert one.wait_for_bytes(len(expected)) == expected.replace(b",", b";")
    assert near.unsent_bytes == far.unsent_bytes == 0
    assert one.events == other.events == ["received"]


def test_a_big_write_pushes_back_and_then_drains_once(pair: Pair) -> None:
    near, far = pair
    one = Recorder(near)
    near.write(BIG)
    settle()
    assert near.unsent_bytes > len(BIG) // 4
    other = Recorder(far)
    other.wait_for_bytes(len(BIG))
    one.wait_for("drained")
    assert other.data == BIG
    assert near.unsent_bytes == 0
    assert one.events == ["drained"]


def test_what_is_written_while_something_is_unsent_comes_after_it(pair: Pair) -> None:
    near, far = pair
    Recorder(near)
    near.write(BIG)
    near.write(b"small")
    near.writev([b"a", b"", b"b"])
    near.writev([BIG, b"last"])
    expected = BIG + b"smallab" + BIG + b"last"
    assert Recorder(far).wait_for_bytes(len(expected)) == expected


@pytest.mark.parametrize(
    "sizes", [(), (0,), (1, 2, 3), (0, 70_000, 0, 3), (1,) * 3000, (100,) * 2000, (64 * 1024,) * 30]
)
def test_writev_is_one_write_of_the_joined_buffers(pair: Pair, sizes: tuple[int, ...]) -> None:
    near, far = pair
    buffers = [os.urandom(size) for size in sizes]
    Recorder(near)
    near.writev(buffers)
    near.half_close()
    other = Recorder(far)
    other.wait_for("ended")
    assert other.data == b"".join(buffers)


def test_a_half_close_leaves_the_other_direction_open(pair: Pair) -> None:
    near, far = pair
    one, other = Recorder(near), Recorder(far)
    near.write(b"question")
    near.half_close()
    near.half_close()
    other.wait_for("ended")
    assert other.events == ["received", "ended"]
    far.write(BIG)
    assert one.wait_for_bytes(len(BIG)) == BIG
    far.half_close()
    one.wait_for("ended")
    assert not near.closed and not far.closed
    assert "lost" not in one.events + other.events


@pytest.mark.parametrize("paused", [False, True])
def test_it_says_whether_something_of_the_peer_waits_that_was_not_told(pair: Pair, paused: bool) -> None:
    near, far = pair
    one, other = Recorder(near), Recorder(far)
    near.write(b"a")
    far.write(b"b")
    one.wait_for_bytes(1)
    other.wait_for_bytes(1)
    assert near.quiet and far.quiet
    if paused:
        near.pause_reading()
    far.write(b"c")
    assert not near.quiet, "the hub has had no turn"
    assert far.quiet
    if paused:
        settle()
        assert not near.quiet
        near.resume_reading()
    one.wait_for_bytes(2)
    assert near.quiet
    far.half_close()
    assert not near.quiet
    one.wait_for("ended")
    assert not near.quiet
    assert far.quiet
    near.abort()
    assert not near.quiet


def test_half_closing_waits_for_what_is_unsent(pair: Pair) -> None:
    near, far = pair
    Recorder(near)
    near.write(BIG)
    near.half_close()
    other = Recorder(far)
    other.wait_for("ended")
    assert other.data == BIG


def test_both_ends_may_half_close_at_once(pair: Pair) -> None:
    near, far = pair
    one, other = Recorder(near), Recorder(far)
    near.half_close()
    far.half_close()
    one.wait_for("ended")
    other.wait_for("ended")
    assert one.events == other.events == ["ended"]


def test_bytes_that_came_before_a_half_close_of_ours_are_not_lost(pair: Pair) -> None:
    near, far = pair
    far.write(b"early")
    settle()
    near.half_close()
    far.write(b" and late")
    far.half_close()
    one = Recorder(near)
    one.wait_for("ended")
    assert one.data == b"early and late"


def test_writing_after_a_half_close_is_our_own_fault(pair: Pair) -> None:
    near, _ = pair
    near.half_close()
    with pytest.raises(LocalProtocolError):
        near.write(b"x")
    with pytest.raises(LocalProtocolError):
        near.writev([b"x"])


def test_closing_flushes_first(pair: Pair) -> None:
    near, far = pair
    one = Recorder(near)
    near.write(BIG)
    near.close()
    assert near.closed
    other = Recorder(far)
    other.wait_for("ended")
    assert other.data == BIG
    settle()
    assert one.events == []


def test_writing_to_a_closed_peer_is_lost_at_most_once(pair: Pair) -> None:
    near, far = pair
    one = Recorder(near)
    far.close()
    one.wait_for("ended")
    for _ in range(3):
        near.write(b"x")
        settle()
    one.wait_for("lost")
    near.write(b"x")
    near.writev([b"y", b"z"])
    near.half_close()
    settle()
    assert one.events == ["ended", "lost"]
    assert near.closed and near.unsent_bytes == 0


def test_an_abort_is_a_loss_for_the_peer_and_silence_for_us(pair: Pair) -> None:
    near, far = pair
    one, other = Recorder(near), Recorder(far)
    near.write(b"x" * 10)
    near.abort()
    other.wait_for("lost")
    settle()
    assert one.events == []
    assert other.events.count("lost") == 1 and other.events[-1] == "lost"
    assert isinstance(other.errors[0], ConnectionLost) and str(other.errors[0])
    assert near.closed and far.closed


@pytest.mark.parametrize("end", ["close", "abort"])
def test_nothing_happens_after_the_end(pair: Pair, end: str) -> None:
    near, far = pair
    one = Recorder(near)
    getattr(near, end)()
    far.write(b"too late")
    near.write(b"x")
    near.writev([b"x"])
    near.half_close()
    near.pause_reading()
    near.resume_reading()
    near.close()
    near.abort()
    near.close()
    settle()
    assert one.events == []
    assert near.closed and near.unsent_bytes == 0


def test_an_abort_forgets_what_is_unsent(pair: Pair) -> None:
    near, far = pair
    near.write(BIG)
    near.close()
    near.abort()
    assert near.unsent_bytes == 0
    Recorder(far).wait_for("lost")


def test_a_paused_stream_is_silent_until_it_goes_on(pair: Pair) -> None:
    near, far = pair
    other = Recorder(far)
    far.pause_reading()
    far.pause_reading()
    near.write(b"x" * 1000)
    settle()
    assert other.events == []
    far.resume_reading()
    far.resume_reading()
    assert other.wait_for_bytes(1000) == b"x" * 1000


def test_pausing_within_received_stops_the_next_piece_and_pushes_back(pair: Pair) -> None:
    near, far = pair
    Recorder(near)
    other = Recorder(far)
    other.on_received = lambda data: far.pause_reading()
    near.write(BIG)
    other.wait_for_bytes(1)
    settle()
    got = len(other.data)
    assert got < len(BIG) // 4
    assert near.unsent_bytes > 0
    other.on_received = lambda data: None
    far.resume_reading()
    other.wait_for_bytes(len(BIG))
    assert other.data == BIG


def test_an_end_is_not_told_while_paused(pair: Pair) -> None:
    near, far = pair
    other = Recorder(far)
    far.pause_reading()
    near.write(b"x")
    near.half_close()
    settle()
    assert other.events == []
    far.resume_reading()
    other.wait_for("ended")
    assert other.events == ["received", "ended"]


def test_bytes_wait_for_a_receiver_and_the_receiver_may_change(pair: Pair) -> None:
    near, far = pair
    near.write(b"first")
    settle()
    one = Recorder(far)
    assert one.wait_for_bytes(5) == b"first"
    far.set_receiver(None)
    near.write(b"second")
    settle()
    assert one.data == b"first"
    two = Recorder(far)
    assert two.wait_for_bytes(6) == b"second"


def test_a_later_receiver_learns_of_the_end(pair: Pair) -> None:
    near, far = pair
    near.half_close()
    Recorder(far).wait_for("ended")
    later = Recorder(far)
    later.wait_for("ended")
    assert later.events == ["ended"]
    far.write(b"still open")
    assert Recorder(near).wait_for_bytes(10) == b"still open"


def test_a_later_receiver_learns_of_the_loss(pair: Pair) -> None:
    near, far = pair
    first = Recorder(far)
    near.abort()
    first.wait_for("lost")
    later = Recorder(far)
    later.wait_for("lost")
    settle()
    assert later.events == ["lost"]


@pytest.mark.parametrize("end", ["close", "abort"])
def test_a_receiver_may_end_the_stream_from_within(pair: Pair, end: str) -> None:
    near, far = pair
    other, one = Recorder(far), Recorder(near)
    other.on_received = lambda data: getattr(far, end)()
    near.write(BIG)
    one.wait(lambda: near.closed or "ended" in one.events)
    assert other.events == ["received"]


def test_a_receiver_that_fails_is_told_and_the_connection_is_reset(pair: Pair) -> None:
    near, far = pair
    one, other = Recorder(near), CrashRecorder(far)
    fault = ValueError("a bug")

    def fail(data: bytes) -> None:
        raise fault

    other.on_received = fail
    near.write(b"x")
    other.wait_for("crashed")
    one.wait_for("lost")
    assert other.crashes == [fault]
    assert other.events == ["received", "crashed"]
    assert far.closed


def test_a_failing_receiver_without_a_hook_is_logged_and_loses_the_connection(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    near, far = pair
    one, other = Recorder(near), Recorder(far)

    def fail(data: bytes) -> None:
        raise gevent.Timeout(1)  # a BaseException, which must not escape either

    other.on_received = fail
    with caplog.at_level(logging.ERROR, logger="pico.transport"):
        near.write(b"x")
        other.wait_for("lost")
        one.wait_for("lost")
    assert "receiver" in caplog.text
    assert far.closed


def test_a_blocking_reader_reads_pieces_and_the_end(pair: Pair) -> None:
    near, far = pair
    reader = BlockingReader(far)
    near.write(b"one")
    assert reader.receive(10.0) == b"one"
    near.write(b"two")
    near.half_close()
    assert reader.receive(10.0) == b"two"
    assert reader.receive(10.0) == b""
    assert reader.receive(10.0) == b""


def test_a_blocking_reader_has_a_deadline_and_learns_of_a_loss(pair: Pair) -> None:
    near, far = pair
    reader = BlockingReader(far)
    with pytest.raises(TransportTimeout):
        reader.receive(0.01)
    near.abort()
    with pytest.raises(ConnectionLost):
        reader.receive(10.0)


def test_a_blocking_reader_that_comes_after_a_loss_does_not_wait(pair: Pair) -> None:
    near, far = pair
    reader = BlockingReader(far)
    near.abort()
    settle()
    with gevent.Timeout(10.0), pytest.raises(ConnectionLost):
        reader.receive(60.0)


def test_the_time_of_one_read_is_not_that_of_the_next(pair: Pair) -> None:
    near, far = pair
    reader = BlockingReader(far)
    first = gevent.spawn(reader.receive, 0.05)
    settle()
    near.write(b"one")
    assert first.get(timeout=10.0) == b"one"
    second = gevent.spawn(reader.receive, 60.0)
    gevent.sleep(0.1)
    near.write(b"two")
    assert second.get(timeout=10.0) == b"two"


def test_a_blocking_reader_that_waits_learns_of_a_loss_at_once(pair: Pair) -> None:
    near, far = pair
    reading = gevent.spawn(BlockingReader(far).receive, 60.0)
    settle()
    near.abort()
    with pytest.raises(ConnectionLost):
        reading.get(timeout=10.0)


def test_a_blocking_reader_reads_on_after_it_was_full(pair: Pair) -> None:
    near, far = pair
    reader, pieces = BlockingReader(far), [b""]
    near.write(BIG)
    near.half_close()
    while piece := reader.receive(10.0):
        settle()  # so that it is full again
        pieces.append(piece)
    assert b"".join(pieces) == BIG


def test_a_blocking_reader_that_was_emptied_has_room_again(pair: Pair) -> None:
    near, far = pair
    reader, size = BlockingReader(far), 0
    near.write(BIG[: 64 * 1024])
    while size < 64 * 1024:
        size += len(reader.receive(10.0))
    for piece in (b"one", b"two"):
        near.write(piece)
        settle()
    assert reader.detach() == b"onetwo"


def test_a_blocking_reader_gives_back_what_nobody_asked_for(pair: Pair) -> None:
    near, far = pair
    reader = BlockingReader(far)
    near.write(b"leftover")
    settle()
    leftover = reader.detach()
    near.write(b" and more")
    settle()
    rest = b"leftover and more"[len(leftover) :]
    assert Recorder(far).wait_for_bytes(len(rest)) == rest


def test_a_blocking_reader_does_not_hold_more_than_a_little(pair: Pair) -> None:
    near, far = pair
    reader = BlockingReader(far)
    near.write(BIG)
    settle()
    leftover = reader.detach()
    assert len(leftover) <= 2 * 64 * 1024
    other = Recorder(far)
    other.wait_for_bytes(len(BIG) - len(leftover))
    assert leftover + other.data == BIG


def test_a_foreign_timeout_does_not_escape_a_blocking_reader(pair: Pair) -> None:
    reader = BlockingReader(pair[1])
    with pytest.raises(TransportTimeout), gevent.Timeout(0.01):
        reader.receive(10.0)


def test_nothing_is_left_behind(make_pair: MakePair) -> None:
    def use(end: str) -> None:
        near, far = make_pair()
        one, other = Recorder(near), Recorder(far)
        near.write(b"x")
        other.wait_for_bytes(1)
        getattr(near, end)()
        other.wait_for("lost" if end == "abort" else "ended")
        far.close()
        assert one.events == []

    use("close")
    gc.collect()
    files, streams = open_files(), _living_streams()
    gc.disable()  # what goes, goes by itself: a cycle would keep a connection's memory for long
    try:
        for _ in range(5):
            use("close")
            use("abort")
        settle()
        assert open_files() <= files
        if _is_socket(make_pair):
            assert _living_streams() <= streams
    finally:
        gc.enable()


def _is_socket(make_pair: MakePair) -> bool:
    return make_pair is socket_pair


def _living_streams() -> int:
    return sum(isinstance(thing, (SocketStream, MemoryStream, TlsStream)) for thing in gc.get_objects())


_operation = st.one_of(
    st.tuples(st.just("write"), st.sampled_from((0, 1, 7, 1000, 70_000, 300_000))),
    st.tuples(st.just("writev"), st.sampled_from((0, 1, 7, 1000, 40_000))),
    st.tuples(st.sampled_from(("pause", "resume", "turn", "half_close")), st.just(0)),
)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(operations=st.lists(st.tuples(st.booleans(), _operation), max_size=25))
def test_any_mixture_of_operations_delivers_exactly_what_was_written(
    make_pair: MakePair, operations: list[tuple[bool, tuple[str, int]]]
) -> None:
    ends = make_pair()
    recorders = [Recorder(end) for end in ends]
    written = [bytearray(), bytearray()]
    half_closed = [False, False]
    for which, (name, size) in operations:
        end = ends[which]
        if name in ("write", "writev") and not half_closed[which]:
            data = os.urandom(min(size, 97)) * (size // 97 + 1)
            written[which] += data if name == "write" else data * 3
            end.write(data) if name == "write" else end.writev([data] * 3)
        elif name == "half_close":
            half_closed[which] = True
            end.half_close()
        elif name == "pause":
            end.pause_reading()
        elif name == "resume":
            end.resume_reading()
        elif name == "turn":
            gevent.sleep(0)
    for end in ends:
        end.resume_reading()
        end.half_close()
    for which in (0, 1):
        recorders[1 - which].wait_for("ended")
        assert recorders[1 - which].data == written[which]
        assert ends[which].unsent_bytes == 0
        assert "lost" not in recorders[which].events
    for end in ends:
        end.close()
