"""What bodies that wait make a node hold, whatever happens to its calls, against a list of who holds how much."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pico.config import HttpLimits, RpcLimits
from pico.protocol.http.values import RequestHead
from pico.protocol.rpc import BaseEngine, ResetCode, ResponseShed, RpcStream, StreamEvent, StreamReset, WaitingBodies
from pico.protocol.rpc.messages import RESPONSE, MessageType, encode_header
from tests.rules import covers

POST = RequestHead(b"POST", b"/a", b"Host: a.example\r\n", -1, b"")
LIMITS = RpcLimits(ahead_bytes=10, base_body_bytes_max=60, base_streams_max=20)
MOST = 100

calls = st.integers(0, 30)
sizes = st.integers(0, 65)


class Call:
    """What the test knows of one call."""

    def __init__(self, tunnel: int, stream: RpcStream, size: int) -> None:
        self.tunnel = tunnel
        self.stream = stream
        self.size = size  # of its request so far


@covers("RPC-64", "RPC-65", "RPC-66")
class WaitingMachine(RuleBasedStateMachine):
    """Two tunnels of each of three endpoints; owners do what they may do, in any order."""

    @initialize()
    def begin(self) -> None:
        self.told: list[StreamEvent] = []
        self.waiting = WaitingBodies(MOST, self.told.append)
        self.engines: list[BaseEngine] = []
        self.calls: list[Call] = []
        self.held: dict[RpcStream, tuple[str, int]] = {}  # endpoint and size, the oldest first
        for tunnel in range(6):
            self.engines.append(self.engine(tunnel))

    def engine(self, tunnel: int) -> BaseEngine:
        endpoint_id = "abc"[tunnel % 3]
        return BaseEngine(LIMITS, HttpLimits(), now=0.0, waiting=self.waiting, endpoint_id=endpoint_id)

    def pick(self, number: int) -> Call:
        return self.calls[number % len(self.calls)]

    def engine_of(self, call: Call) -> BaseEngine:
        return self.engines[call.tunnel]

    @rule(tunnel=st.integers(0, 5), size=sizes, end=st.booleans())
    def open(self, tunnel: int, size: int, end: bool) -> None:
        engine = self.engines[tunnel]
        if not engine.may_open:
            return
        size = min(size, LIMITS.base_body_bytes_max + 1)
        call = Call(tunnel, engine.open(POST, bytes(size), end), size)
        self.calls.append(call)
        self.sent(call)

    @precondition(lambda self: self.calls)
    @rule(number=calls, size=sizes, end=st.booleans())
    def send(self, number: int, size: int, end: bool) -> None:
        call = self.pick(number)
        if call.stream.ended or call.stream.sending.name != "BODY":
            return
        size = min(size, call.stream.credit)
        call.size += size
        self.engine_of(call).send_data(call.stream, bytes(size), end)
        self.sent(call)

    def sent(self, call: Call) -> None:
        if call.size > LIMITS.base_body_bytes_max:
            self.held.pop(call.stream, None)
        elif call.size > LIMITS.ahead_bytes:
            self.held[call.stream] = "abc"[call.tunnel % 3], call.size
        self.settle()

    @rule(tunnel=st.integers(0, 5), bytes_max=st.sampled_from([1, 100, 1 << 20]))
    def leave(self, tunnel: int, bytes_max: int) -> None:
        self.engines[tunnel].outgoing(bytes_max)
        for call in self.calls:
            if call.tunnel == tunnel and call.stream.head_left and not call.stream.ended:
                self.held.pop(call.stream, None)

    @precondition(lambda self: self.calls)
    @rule(number=calls, size=sizes)
    def respond(self, number: int, size: int) -> None:
        call = self.pick(number)
        if not call.stream.ended and call.stream.head_left:
            self.answer(call, size)

    @rule(tunnel=st.integers(0, 5), size=sizes)
    def exchange(self, tunnel: int, size: int) -> None:
        """The usual: a request without a body, and its response."""
        if self.engines[tunnel].may_open:
            self.open(tunnel, 0, True)
            self.leave(tunnel, 1 << 20)
            self.answer(self.calls[-1], size)

    def answer(self, call: Call, size: int) -> None:
        payload = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size)
        message = encode_header(MessageType.PROXY_HTTP, call.stream.id, RESPONSE) + payload
        self.engine_of(call).receive_message(message, now=0.0)
        if LIMITS.ahead_bytes < size <= LIMITS.base_body_bytes_max:
            self.held[call.stream] = "abc"[call.tunnel % 3], size
        shed = self.settle()
        given = [event for event in self.engine_of(call).events() if event.stream is call.stream]
        assert bool(given) == (call.stream not in shed)

    @precondition(lambda self: self.calls)
    @rule(number=calls)
    def let_go(self, number: int) -> None:
        """The owner has no more use for it."""
        call = self.pick(number)
        if not call.stream.ended:
            self.engine_of(call).reset(call.stream, ResetCode.CANCELLED)
        self.engine_of(call).release(call.stream)
        self.held.pop(call.stream, None)

    @rule(tunnel=st.integers(0, 5))
    def lose(self, tunnel: int) -> None:
        """Its tunnel is lost: what came before is still with its owner."""
        for call in self.calls:
            if call.tunnel == tunnel and not call.stream.ended:
                self.held.pop(call.stream, None)
        self.engines[tunnel].lost()
        assert self.engines[tunnel].open_streams == 0

    def settle(self) -> list[RpcStream]:
        """Whose calls were ended, each by right."""
        shed = []
        for event in self.told:
            stream, had_ended = event.stream, isinstance(event, ResponseShed)
            assert self.total() > MOST
            endpoint, _ = self.held[stream]
            assert self.total(endpoint) == max(map(self.total, "abc"))
            mine = [(one, held) for one, (where, held) in self.held.items() if where == endpoint]
            assert next(one for one, held in mine if 2 * held * len(mine) >= self.total(endpoint)) is stream
            assert had_ended or (isinstance(event, StreamReset) and event.untouched and not stream.head_left)
            assert had_ended == stream.head_left
            assert stream.ended
            assert not stream.queued
            assert len(stream.body) == 0
            del self.held[stream]
            shed.append(stream)
        self.told.clear()
        return shed

    def total(self, endpoint: str = "") -> int:
        return sum(size for where, size in self.held.values() if where == endpoint or not endpoint)

    @invariant()
    def what_waits_is_within_the_limit(self) -> None:
        assert self.told == []
        assert self.waiting.waiting_bytes == self.total() <= MOST
        for call in self.calls:
            assert call.stream.waiting_bytes == self.held.get(call.stream, ("", 0))[1]
            # Nothing is at hand of a request but what is counted, or is small.
            assert call.stream.body_bytes == sum(map(len, call.stream.body))
            assert call.stream.body_bytes <= max(LIMITS.ahead_bytes, call.stream.waiting_bytes)

    def teardown(self) -> None:
        for number in reversed(range(len(getattr(self, "calls", ())))):
            self.let_go(number)
        if hasattr(self, "waiting"):
            assert self.waiting.waiting_bytes == 0
            assert not self.waiting._calls
            assert not self.waiting._charged


TestWaiting = WaitingMachine.TestCase
