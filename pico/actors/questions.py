"""What one node asks another about itself, over the link between them (``spec/routing.md``, Questions).

Responsible for: both ends of one question: bounded in number, size and time. Refuses to know: what is asked and
answered; it is what the admin door of the node that is asked would say.

A question is a stream like that of a request, so it needs no connection of its own, and a link that works for requests
works for it. It only reads.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import gevent
from gevent.event import Event

from pico.actors.peers import PeerUpstream
from pico.errors import PicoError
from pico.observability.admin import Answer
from pico.protocol.http import ResponseHead
from pico.protocol.routing import QUESTION_BYTES_MAX, question, question_of
from pico.protocol.rpc import (
    CreditReceived,
    DataReceived,
    HeadReceived,
    ResetCode,
    StreamEvent,
    StreamOpened,
    StreamReset,
)
from pico.transport.clock import Clock
from pico.transport.multiplexer import Multiplexer
from pico.transport.parking import give_way

__all__ = ["ANSWER_BYTES_MAX", "NoAnswer", "Questions", "Told", "ask"]

QUESTIONS_MAX: Final = 8
"""That one node works on at one time."""

ANSWER_BYTES_MAX: Final = 1024 * 1024

QUESTION_S: Final = 5.0
"""From the question to the end of its answer."""

_log = logging.getLogger("pico.forwarding")


class NoAnswer(PicoError):
    """The other node has not answered; ``code`` says in one word why."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Told:
    """What the other node has answered."""

    status: int
    body: bytes


# The side that asks.


def ask(peer: PeerUpstream, target: str, timeout_s: float = QUESTION_S) -> Told:
    """Ask a peer and wait for its answer; raises ``NoAnswer``. Blocks the calling greenlet."""
    if not peer.may_open:
        raise NoAnswer("unreachable", "there is no link to it, or it is about to leave")
    head = question(target)
    if head is None:
        raise NoAnswer("too_long", f"a question has at most {QUESTION_BYTES_MAX} bytes")
    answer = _Answer(peer.multiplexer)
    stream = answer.multiplexer.open(head, b"", True, answer.said)
    try:
        if not answer.over.wait(timeout_s):
            raise NoAnswer("timeout", f"no answer within {timeout_s:g} s")
    finally:
        stream.context = None
        if not stream.ended:
            answer.multiplexer.reset(stream, ResetCode.CANCELLED)
    return answer.told()


class _Answer:
    """An answer on its way."""

    def __init__(self, multiplexer: Multiplexer) -> None:
        self.multiplexer = multiplexer
        self.over = Event()
        self._status = 0
        self._body = b""
        self._failure: NoAnswer | None = None

    def said(self, event: StreamEvent) -> None:
        """The sink of the stream."""
        if isinstance(event, HeadReceived):
            self._status = event.head.status
        if isinstance(event, (HeadReceived, DataReceived)):
            self._body += event.data
            if len(self._body) > ANSWER_BYTES_MAX:  # ROUTING-24
                self._failure = NoAnswer("too_large", f"the answer has more than {ANSWER_BYTES_MAX} bytes")
                self.over.set()
                return
            self.multiplexer.consumed(event.stream, len(event.data))
            if event.end:
                self.over.set()
        elif isinstance(event, StreamReset):
            self._failure = _why(event)
            self.over.set()

    def told(self) -> Told:
        """Whole, or raises ``NoAnswer``."""
        if self._failure is not None:
            raise self._failure
        return Told(self._status, self._body)


def _why(reset: StreamReset) -> NoAnswer:
    if reset.code is ResetCode.LOST:
        return NoAnswer("unreachable", "the link to it was lost")
    if reset.code is ResetCode.REFUSED:
        return NoAnswer("busy", f"it takes no question now: {reset.reason}")
    if reset.code is ResetCode.TOO_LARGE:
        return NoAnswer("too_large", reset.reason)
    if reset.untouched:  # ROUTING-25
        return NoAnswer("too_old", "it is of a version that answers no questions")
    return NoAnswer("failed", f"it could not answer: {reset.reason}")


# The side that is asked.


class Questions:
    """What other nodes ask this one; ``answer`` gives what the admin door would say to a GET of that target."""

    def __init__(self, clock: Clock, answer: Callable[[str], Answer]) -> None:
        self._clock = clock
        self._answer = answer
        self._open = 0

    def begin(self, link: Multiplexer, event: StreamOpened) -> None:
        """A peer has opened a question; called in the hub."""
        target = question_of(event.head) if event.end and not event.data else None
        if target is None:  # ROUTING-21
            link.reset(event.stream, ResetCode.REFUSED, untouched=True, message="not a question")
        elif self._open >= QUESTIONS_MAX:  # ROUTING-23
            link.reset(event.stream, ResetCode.REFUSED, untouched=True, message="too many questions")
        else:
            self._open += 1
            speech = _Speech(link, event, self._ended)
            event.stream.context = speech.heard
            gevent.spawn_raw(self._run, speech, target)

    def _run(self, speech: _Speech, target: str) -> None:
        """In a greenlet of its own, since making an answer takes turns with everybody else."""
        try:
            answer = self._answer(target)
            body = self._whole(answer.body, speech)
        except Exception:
            _log.exception("a question could not be answered: %s", target)
            speech.fail(ResetCode.INTERNAL, "the log has more")
            return
        if body is None:
            speech.fail(ResetCode.TOO_LARGE, f"the answer has more than {ANSWER_BYTES_MAX} bytes: ask for less")
        else:
            speech.say(answer.status, body)

    def _whole(self, pieces: bytes | Iterable[bytes], speech: _Speech) -> bytes | None:
        """All of it; None when that is too much, or nobody waits for it any more."""
        if isinstance(pieces, bytes):
            return pieces if len(pieces) <= ANSWER_BYTES_MAX else None
        body = b""
        for piece in pieces:
            body += piece
            if len(body) > ANSWER_BYTES_MAX or speech.over:
                return None
            give_way(self._clock)
        return body

    def _ended(self) -> None:
        self._open -= 1


class _Speech:
    """One answer as it leaves, at the pace of whoever takes it."""

    def __init__(self, link: Multiplexer, event: StreamOpened, ended: Callable[[], None]) -> None:
        self._link = link
        self._stream = event.stream
        self._ended = ended
        self._rest: bytes | None = None
        self.over = False

    def heard(self, event: StreamEvent) -> None:
        """The sink of the stream."""
        if isinstance(event, StreamReset):
            self._finish()
        elif isinstance(event, CreditReceived) and self._rest is not None:
            self._send(self._rest)

    def say(self, status: int, body: bytes) -> None:
        """Begin with the answer."""
        if not self.over:
            self._link.send_head(self._stream, ResponseHead(status, b"", b"", len(body), b""))
            self._send(body)

    def fail(self, code: ResetCode, reason: str) -> None:
        """There is none."""
        if not self.over:
            self._link.reset(self._stream, code, message=reason)
            self._finish()

    def _send(self, rest: bytes) -> None:
        piece, self._rest = rest[: self._stream.credit], rest[self._stream.credit :]
        end = not self._rest
        if piece or end:
            self._link.send_data(self._stream, piece, end)
        if end:
            self._finish()

    def _finish(self) -> None:
        if not self.over:
            self.over = True
            self._stream.context = None
            self._ended()
