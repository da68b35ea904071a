"""The abstract model of a call, and two engines that are played against it.

A call is opened with a request head, carries a body in each direction, and ends exactly once for each of its two
owners: complete, reset, refused, cancelled by a deadline, or lost. The model says only what each owner may see,
whatever the binding: bytes that the other one gave, in order, none twice and none of another call; an end only where
the other one ended; a reset only with a code that someone gave; *untouched* only where it is true.

``Play`` holds a pair of engines, is told what owners do and what the wire does, and compares what each owner sees with
the model as it goes. ``Binding`` says how far the base protocol may differ: what it cannot say, it says as a response.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from pico.protocol.rpc import BaseEngine, StreamingEngine
from pico.protocol.rpc.messages import size_of
from tests.rpc_side import EngineSide, Pair, base_side, request_head, response_head, streaming_side
from tests.rpc_slow import Value, octets, text

WINDOW = 32
BASE_BODY_MAX = 600  # an error response has to fit, and is a sentence or two
STREAMS_MAX = 3


@dataclass(frozen=True)
class Binding:
    """One way to carry calls."""

    name: str
    side: Callable[[], EngineSide]
    streaming: bool


STREAMING = Binding(
    "streaming",
    lambda: streaming_side(window_bytes=WINDOW, data_bytes_max=16, streams_max=STREAMS_MAX),
    True,
)
BASE = Binding(
    "base",
    lambda: base_side(base_body_bytes_max=BASE_BODY_MAX, base_streams_max=STREAMS_MAX),
    False,
)


def tagged(call: int, direction: int, start: int, size: int) -> str:
    """Body bytes that say to which call and direction they belong, and where they stand in it."""
    first, last = start // 4, (start + size) // 4 + 1
    cells = b"".join(octets(call, 1) + octets(direction, 1) + octets(cell, 2) for cell in range(first, last))
    return text(cells[start - first * 4 :][:size])


@dataclass
class Way:
    """One direction of a call: what was given, and what has been seen."""

    given: int = 0
    ended: bool = False
    seen: str = ""
    seen_end: bool = False


@dataclass
class Call:
    """What the model knows of one call."""

    number: int
    opener: int
    names: list[str]  # of its stream, on the left and on the right side
    request: Way = field(default_factory=Way)
    response: Way = field(default_factory=Way)
    accepted: bool = False
    heads: list[int] = field(default_factory=list)  # statuses that the acceptor sent
    heads_seen: list[int] = field(default_factory=list)
    over: list[str | None] = field(default_factory=lambda: [None, None])  # for the owner on each side
    said: list[set[str]] = field(default_factory=lambda: [set(), set()])  # codes that each owner gave
    said_untouched: bool = False
    told_untouched: bool = False
    afterwards: int = 0  # resets that the opener saw after the whole response

    @property
    def acceptor(self) -> int:
        return 1 - self.opener

    def may(self, who: int) -> bool:
        """Whether the owner on this side has still something to do with the call."""
        return self.over[who] is None and (who == self.opener or self.accepted)


class Play:
    """Two engines, their owners, and the wire."""

    def __init__(self, binding: Binding) -> None:
        self.binding = binding
        self.pair = Pair(binding.side(), binding.side())
        self.calls: list[Call] = []
        self.by_name: list[dict[str, Call]] = [{}, {}]
        self.gone_away = [False, False]
        self.untaken: list[dict[str, int]] = [{}, {}]

    # What owners do. Each is a no-op where the owner may not do it, so that any sequence of them makes sense.

    def open(self, who: int, size: int, end: bool, declare: bool) -> None:
        side = self.pair.sides[who]
        if self.pair.cut or not side.engine.may_open:
            return
        call = Call(len(self.calls), who, ["", ""])
        self.calls.append(call)
        size = min(size, 16)
        head = request_head("POST", f"/{call.number}", body_length=size if declare and end else -1)
        call.request.given, call.request.ended = size, end
        name = side.open(head, tagged(call.number, 0, 0, size), end)
        call.names[who] = name
        self.by_name[who][name] = call
        self.look()

    def send_request(self, call: Call, size: int, end: bool) -> None:
        if call.over[call.opener] not in (None, "complete") or call.request.ended:
            return
        self._send(call, call.opener, call.request, 0, size, end)

    def send_head(self, call: Call, status: int, size: int, end: bool) -> None:
        who = call.acceptor
        if not call.may(who) or any(status >= 200 for status in call.heads):
            return
        size, end = (min(size, 16), end) if status >= 200 else (0, False)
        call.heads.append(status)
        call.response.given, call.response.ended = size, end
        body = tagged(call.number, 1, 0, size)
        self.pair.sides[who].head(call.names[who], response_head(status, f"n{call.number}"), body, end)
        self.look()

    def send_response(self, call: Call, size: int, end: bool) -> None:
        if call.may(call.acceptor) and call.heads and call.heads[-1] >= 200 and not call.response.ended:
            self._send(call, call.acceptor, call.response, 1, size, end)

    def _send(self, call: Call, who: int, way: Way, direction: int, size: int, end: bool) -> None:
        side = self.pair.sides[who]
        size = min(size, side.streams[call.names[who]].credit)
        body = tagged(call.number, direction, way.given, size)
        way.given += size
        way.ended = end
        side.data(call.names[who], body, end)
        self.look()

    def trailers(self, call: Call, who: int) -> None:
        way = call.request if who == call.opener else call.response
        ready = who == call.opener or (call.heads and call.heads[-1] >= 200)
        if call.over[who] is None and call.names[who] and ready and not way.ended:
            way.ended = True
            self.pair.sides[who].trailers(call.names[who], f"X-Call: {call.number}\r\n")
            self.look()

    def cancel(self, call: Call, code: str) -> None:
        """The opener's client went away, or its deadline has passed."""
        self._reset(call, call.opener, code, False)

    def fail(self, call: Call, code: str, untouched: bool) -> None:
        if call.accepted:
            self._reset(call, call.acceptor, code, untouched and not call.heads)

    def _reset(self, call: Call, who: int, code: str, untouched: bool) -> None:
        if not call.may(who) or self.pair.cut:
            return
        call.said[who].add(code)
        call.said_untouched |= untouched
        call.over[who] = code
        self.pair.sides[who].reset(call.names[who], code, untouched, "why")
        self.look()

    def take(self, who: int, name: str, size: int) -> None:
        """An owner takes body bytes that it has received."""
        size = min(size, self.untaken[who].get(name, 0))
        if size:
            self.untaken[who][name] -= size
            self.pair.sides[who].consumed(name, size)
            self.look()

    def goaway(self, who: int) -> None:
        self.gone_away[who] = True
        self.pair.sides[who].goaway("moving")
        self.look()

    # What the wire does.

    def post(self, who: int, bytes_max: int) -> None:
        self.pair.post(who, bytes_max)

    def deliver(self, who: int) -> bool:
        moved = self.pair.deliver(who)
        self.look()
        return moved

    def lose(self) -> None:
        self.pair.lose()
        self.look()

    # What owners see.

    def look(self) -> None:
        for who, side in enumerate(self.pair.sides):
            for event in side.take_events():
                self._see(who, event)
            self._check_bounds(side)

    def _see(self, who: int, event: Value) -> None:
        kind = event["event"]
        if kind == "goaway":
            assert self.gone_away[1 - who]
        elif kind == "opened":
            self._see_opened(who, event)
        elif kind == "credit":
            assert self.by_name[who][event["stream"]].over[who] in (None, "complete")
        elif kind == "reset":
            self._see_reset(self.by_name[who][event["stream"]], who, event["code"], event["untouched"])
        else:
            self._see_message(self.by_name[who][event["stream"]], who, event)

    def _see_opened(self, who: int, event: Value) -> None:
        call = self.calls[int(event["head"]["target"][1:])]
        assert call.acceptor == who
        assert not call.accepted
        assert not call.told_untouched
        call.accepted = True
        call.names[who] = event["stream"]
        self.by_name[who][event["stream"]] = call
        self._see_bytes(call, call.request, 0, who, event)

    def _see_message(self, call: Call, who: int, event: Value) -> None:
        assert call.over[who] is None, f"{event} after {call.over[who]}"
        if who == call.acceptor:
            assert event["event"] in ("data", "trailers")
            self._see_bytes(call, call.request, 0, who, event)
            self._close(call)
            return
        if event["event"] == "head":
            if event["head"]["reason"] != f"n{call.number}":  # It is no head that an owner gave.
                assert not self.binding.streaming
                self._see_error(call, event["head"]["status"])
                return
            call.heads_seen.append(event["head"]["status"])
            sent = call.heads if self.binding.streaming else [status for status in call.heads if status >= 200]
            assert call.heads_seen == sent[: len(call.heads_seen)]
        self._see_bytes(call, call.response, 1, who, event)
        if call.response.seen_end:
            call.over[who] = "complete"

    def _see_bytes(self, call: Call, way: Way, direction: int, who: int, event: Value) -> None:
        assert not way.seen_end
        body = event.get("body", "")
        way.seen += body
        assert way.seen == tagged(call.number, direction, 0, len(way.seen))
        assert len(way.seen) <= way.given
        if body:
            name = event["stream"]
            self.untaken[who][name] = self.untaken[who].get(name, 0) + len(body)
        if event["event"] == "trailers":
            assert event["block"] == f"X-Call: {call.number}\r\n"
        if event.get("end", True):
            assert way.ended
            assert len(way.seen) == way.given
            way.seen_end = True

    def _see_error(self, call: Call, status: int) -> None:
        """The base protocol says a reset, a refusal and a body over the limit with a response of its own."""
        assert status >= 400
        assert call.said[call.acceptor] or not call.accepted or call.response.given > BASE_BODY_MAX
        call.over[call.opener] = "error"

    def _see_reset(self, call: Call, who: int, code: str, untouched: bool) -> None:
        if call.over[who] == "complete":
            assert who == call.opener
            assert not call.request.ended or not call.request.seen_end
            assert not untouched
            call.afterwards += 1
            assert call.afterwards == 1
        else:
            assert call.over[who] is None, f"{code} after {call.over[who]}"
            call.over[who] = code
        if code == "LOST":
            assert self.pair.cut
            assert not (untouched and call.accepted)
        elif code == "TOO_LARGE" and not self.binding.streaming:
            assert (call.request if who == call.opener else call.response).given > BASE_BODY_MAX
        elif code == "REFUSED" and not call.accepted:
            assert untouched
        else:
            assert code in call.said[1 - who]
        if untouched:
            assert who == call.opener
            assert not call.accepted or call.said_untouched
            assert all(status < 200 for status in call.heads_seen)
            call.told_untouched = True

    def _close(self, call: Call) -> None:
        if call.request.seen_end and call.response.ended and call.over[call.acceptor] is None:
            call.over[call.acceptor] = "complete"

    def _check_bounds(self, side: EngineSide) -> None:
        snapshot = side.engine.snapshot()
        body = WINDOW if self.binding.streaming else BASE_BODY_MAX
        message = 12 + 16 + 80  # header, head, and the words of the heads that are used here
        assert snapshot.queued_bytes <= 2 * STREAMS_MAX * (body + 500 + 12 * body + 4 * message)
        assert snapshot.held_bytes <= 2 * STREAMS_MAX * body
        assert snapshot.opened <= STREAMS_MAX
        assert snapshot.accepted <= STREAMS_MAX
        self._check_queues(side.engine)

    def _check_queues(self, engine: StreamingEngine | BaseEngine) -> None:
        """The counts are those of what is there; each stream is queued once, and the first of a queue is alive."""
        queues = (engine._ahead, engine._ring)
        streams = [stream for queue in queues for stream in queue]
        alive = [stream for stream in streams if stream.queued]
        assert len(set(alive)) == len(alive)
        assert engine._dead == len(streams) - len(alive) <= len(alive)
        assert not any(stream.message or stream.backlog for stream in streams if not stream.queued)
        assert all(queue[0].queued for queue in queues if queue)
        waiting = [(stream.message, *(each for each, _ in stream.backlog or ())) for stream in alive]
        assert engine.queued_bytes == sum(size_of(each) for several in waiting for each in several)
        leaving = [stream.opened_here for stream in alive if stream.ended]
        assert (engine._opened_leaving, engine._accepted_leaving) == (sum(leaving), len(leaving) - sum(leaving))

    # The end of an example.

    def settle(self) -> None:
        """Move and take everything until nothing moves."""
        moved = True
        while moved:
            moved = False
            for who in (0, 1):
                self.post(1 - who, 1 << 30)
                while self.deliver(who):
                    moved = True
                for name in list(self.untaken[who]):
                    moved |= self.untaken[who][name] > 0
                    self.take(who, name, 1 << 30)

    def finish(self) -> None:
        """Every owner does what is left to be done; then every call must have ended, for each owner, and once."""
        self.settle()
        for _ in range(2):
            for call in self.calls:
                self.send_request(call, 0, True)
                self.settle()
                self.send_head(call, 200, 0, True)
                self.send_response(call, 0, True)
                self._close(call)
                self.settle()
        for call in self.calls:
            self._close(call)
            assert call.over[call.opener] is not None, call
            assert call.over[call.acceptor] is not None or not call.accepted, call
        for side in self.pair.sides:
            assert side.engine.open_streams == 0
            snapshot = side.engine.snapshot()
            assert (snapshot.queued_bytes, snapshot.held_bytes) == (0, 0)
            assert self.pair.cut or not side.engine.has_outgoing

    def pick(self, number: int) -> Call:
        return self.calls[number % len(self.calls)]
