"""Both protocols refine one abstract model of a call: one state machine, two bindings."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from tests.property.rpc_calls import BASE, STREAMING, Binding, Play
from tests.rules import covers

sides = st.integers(0, 1)
calls = st.integers(0, 5)
sizes = st.one_of(st.integers(0, 40), st.just(350))  # two large ones are too much for the base protocol
ends = st.booleans()
rarely = st.sampled_from([False] * 9 + [True])


class CallMachine(RuleBasedStateMachine):
    """Owners of any number of calls do what they may do; the wire delivers one message here or there, or is cut."""

    binding: Binding

    def __init__(self) -> None:
        super().__init__()
        self.play = Play(self.binding)

    @initialize(who=sides, size=sizes, end=ends, declare=ends)
    def open_the_first(self, who: int, size: int, end: bool, declare: bool) -> None:
        self.play.open(who, size, end, declare)

    @rule(who=sides, size=sizes, end=ends, declare=ends)
    def open(self, who: int, size: int, end: bool, declare: bool) -> None:
        self.play.open(who, size, end, declare)

    @rule(call=calls, size=sizes, end=ends)
    def send_request(self, call: int, size: int, end: bool) -> None:
        self.play.send_request(self.play.pick(call), size, end)

    @rule(call=calls, status=st.sampled_from([103, 200, 200, 404]), size=sizes, end=ends)
    def send_head(self, call: int, status: int, size: int, end: bool) -> None:
        self.play.send_head(self.play.pick(call), status, size, end)

    @rule(call=calls, size=sizes, end=ends)
    def send_response(self, call: int, size: int, end: bool) -> None:
        self.play.send_response(self.play.pick(call), size, end)

    @rule(call=calls, who=sides)
    def send_trailers(self, call: int, who: int) -> None:
        self.play.trailers(self.play.pick(call), who)

    @rule(call=calls, code=st.sampled_from(["CANCELLED", "DEADLINE"]))
    def cancel(self, call: int, code: str) -> None:
        self.play.cancel(self.play.pick(call), code)

    @rule(
        call=calls,
        code=st.sampled_from(["SERVICE_UNREACHABLE", "SERVICE_CLOSED", "DEADLINE", "NOT_WANTED", "REFUSED"]),
        untouched=ends,
    )
    def fail(self, call: int, code: str, untouched: bool) -> None:
        self.play.fail(self.play.pick(call), code, untouched)

    @rule(who=sides, call=calls, size=sizes)
    def take(self, who: int, call: int, size: int) -> None:
        self.play.take(who, self.play.pick(call).names[who], size)

    @rule(who=sides, size=st.sampled_from([0, 1, 1 << 30, 1 << 30]), count=st.integers(1, 5))
    def move(self, who: int, size: int, count: int) -> None:
        self.play.post(who, size)
        for _ in range(count):
            self.play.deliver(1 - who)

    @rule(who=sides, count=st.integers(1, 3))
    def deliver(self, who: int, count: int) -> None:
        for _ in range(count):
            self.play.deliver(who)

    @rule(who=sides, now=rarely)
    def goaway(self, who: int, now: bool) -> None:
        if now:
            self.play.goaway(who)

    @rule(now=rarely)
    def lose(self, now: bool) -> None:
        if now:
            self.play.lose()

    def teardown(self) -> None:
        self.play.finish()


@covers("RPC-12", "RPC-13", "RPC-14", "RPC-15", "RPC-33", "RPC-38", "RPC-39", "RPC-46", "RPC-48", "RPC-49", "RPC-50")
@covers("RPC-52", "RPC-53", "RPC-54", "RPC-55")
class StreamingCalls(CallMachine):
    binding = STREAMING


@covers("RPC-12", "RPC-13", "RPC-14", "RPC-15", "RPC-18", "RPC-19", "RPC-20", "RPC-24", "RPC-25", "RPC-54")
class BaseCalls(CallMachine):
    binding = BASE


_settings = settings(stateful_step_count=50)
TestStreamingCalls = StreamingCalls.TestCase
TestStreamingCalls.settings = _settings
TestBaseCalls = BaseCalls.TestCase
TestBaseCalls.settings = _settings
