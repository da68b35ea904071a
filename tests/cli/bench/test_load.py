"""The load counts only what was answered as it should be."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pico.cli.bench.load import Job, Load, Outcome

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


@contextmanager
def answering(answer: bytes, *, pieces: bool = False) -> Iterator[int]:
    """A server on a free port that gives every received head this answer; an empty one closes."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(sock: socket.socket) -> None:
        with sock:
            while sock.recv(65536) and answer:
                for piece in [answer[n : n + 1] for n in range(len(answer))] if pieces else [answer]:
                    sock.sendall(piece)

    def accept() -> None:
        try:
            while True:
                threading.Thread(target=quiet, args=(listener.accept()[0],), daemon=True).start()
        except OSError:
            return

    def quiet(sock: socket.socket) -> None:
        try:
            serve(sock)
        except OSError:
            return

    acceptor = threading.Thread(target=accept, daemon=True)
    acceptor.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        acceptor.join(5)


def run(answer: bytes, *, response_bytes: int = 5, pieces: bool = False) -> Outcome:
    with answering(answer, pieces=pieces) as port:
        job = Job(
            port=port,
            authority="a.example",
            target="/",
            connections=2,
            response_bytes=response_bytes,
            seconds=0.05,
            warm_up_s=0.0,
            groups={"us": [os.getpid()]},
        )
        return Load(job).run()


@pytest.mark.parametrize("pieces", [False, True])
def test_right_answers_are_counted_with_their_latencies_and_the_cpu_time(pieces: bool) -> None:
    outcome = run(OK, pieces=pieces)
    assert outcome.failures == {}
    assert outcome.requests == len(outcome.latencies_us) == outcome.work > 0
    assert min(outcome.latencies_us) >= 0
    assert outcome.elapsed_s >= 0.05
    assert outcome.cpu_ns["us"] > 0


@pytest.mark.parametrize(
    "answer,reason",
    [
        (OK.replace(b"200 OK", b"502 Bad"), "status: 502"),
        (OK.replace(b": 5", b": 6"), "response: not of the length that was asked for"),
        (OK.replace(b"Content-Length", b"X-Length"), "response: not of the length that was asked for"),
        (OK + b"!", "response: more than its length"),
        (b"", "connection: closed by the server"),
    ],
)
def test_a_wrong_answer_is_a_failure_and_no_request(answer: bytes, reason: str) -> None:
    outcome = run(answer)
    assert outcome.requests == 0
    assert outcome.failures[reason] > 0


def test_nobody_listening_is_a_failure() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        job = Job(port=unused.getsockname()[1], authority="a", target="/", connections=1, seconds=0.05)
        outcome = Load(job).run()
    assert outcome.requests == 0
    assert any(reason.startswith("connect: ") for reason in outcome.failures)
