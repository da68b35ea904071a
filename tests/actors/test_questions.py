"""A question and its answer over a link: real multiplexers on streams in memory, and a clock moved by hand."""

from __future__ import annotations

from collections.abc import Callable

import gevent
import pytest
from gevent.util import wrap_errors

from pico.actors import questions
from pico.actors.peers import PeerUpstream
from pico.actors.questions import ANSWER_BYTES_MAX, NoAnswer, Questions, Told, ask
from pico.actors.relay import Forwarding
from pico.actors.routes import Routes
from pico.config import RpcLimits, WebSocketLimits
from pico.observability.admin import Answer, json_answer
from pico.observability.metrics import NodeMetrics
from pico.protocol.http import UNKNOWN_LENGTH, RequestHead, ResponseHead
from pico.protocol.routing import addressed, question
from pico.protocol.rpc import CreditReceived, ResetCode, StreamingEngine, StreamReset
from pico.transport.clock import ManualClock
from pico.transport.memory import memory_pair
from pico.transport.multiplexer import Multiplexer
from pico.transport.websocket import WebSocketCodec
from tests.rules import covers
from tests.values import but

WITHIN_S = 5.0
SMALL = RpcLimits(window_bytes=1000, data_bytes_max=400, base_body_bytes_max=1000)


class Silent:
    """Whoever owns the asking end."""

    def stream_opened(self, event) -> None:
        raise AssertionError(event)

    def goaway_received(self, reason: str) -> None:
        pass

    def connection_ended(self, reason: str) -> None:
        pass


class World:
    """A node that asks, the link, and a node that is asked."""

    def __init__(self, answer: Callable[[str], Answer] | None) -> None:
        self.clock = ManualClock()
        routes, metrics = (
            Routes(self.clock, 2.0, 100),
            NodeMetrics(node_id="n", version="0", failure_codes=[]),
        )
        self.forwarding = Forwarding(routes, metrics, attempts_max=3, informational_max=16)
        if answer is not None:
            self.forwarding.questions = Questions(self.clock, answer)
        near, far = memory_pair(self.clock)
        self.near = self.build(near, "client", Silent())
        self.far = self.forwarding.accept("asker", lambda owner: self.build(far, "server", owner)).multiplexer
        self.near.start()
        self.far.start()
        self.peer = PeerUpstream("n", lambda: None, self.clock, 1.0)
        self.peer.opened(self.near)

    def build(self, stream, role, owner) -> Multiplexer:
        engine = StreamingEngine(SMALL, now=self.clock.now())
        return Multiplexer(stream, WebSocketCodec(role, WebSocketLimits()), engine, self.clock, owner)

    def ask(self, target: str = "/status/node", timeout_s: float = WITHIN_S) -> Told:
        """Time goes on while the question is on its way."""
        asking = asking_of(self, target, timeout_s)
        with gevent.Timeout(WITHIN_S):
            while not asking.dead:
                self.clock.advance(0.001)
                gevent.sleep(0)
        self.clock.advance(0.001)
        return answer_of(asking)

    def raw(self, head: RequestHead, data: bytes = b"", end: bool = True) -> StreamReset:
        """What becomes of a stream that breaks a rule."""
        events: list = []
        self.near.open(head, data, end, events.append)
        self.clock.advance(0.001)
        (event,) = events
        assert isinstance(event, StreamReset)
        return event

    def nothing_open(self) -> bool:
        return not self.near.in_flight and not self.far.in_flight


def asking_of(world: World, target: str = "/status/node", timeout_s: float = WITHIN_S) -> gevent.Greenlet:
    return gevent.spawn(wrap_errors(NoAnswer, ask), world.peer, target, timeout_s)


def answer_of(asking: gevent.Greenlet) -> Told:
    told = asking.get(timeout=WITHIN_S)
    if isinstance(told, NoAnswer):
        raise told
    assert isinstance(told, Told)
    return told


def why(world: World, **settings) -> str:
    with pytest.raises(NoAnswer) as caught:
        world.ask(**settings)
    assert world.nothing_open()
    return caught.value.code


@covers("ROUTING-22")
def test_the_answer_is_that_of_the_node_that_is_asked():
    asked = []

    def answer(target: str) -> Answer:
        asked.append(target)
        return json_answer({"node": "n"}, 404)

    world = World(answer)
    assert world.ask("/status/nodes?limit=3&after=%20x") == Told(404, b'{"node": "n"}\n')
    assert asked == ["/status/nodes?limit=3&after=%20x"]
    assert world.nothing_open()


@covers("ROUTING-22")
def test_an_answer_larger_than_the_window_comes_at_the_pace_of_who_asks():
    body = bytes(range(256)) * 100
    world = World(lambda _: Answer(body))
    assert world.ask().body == body
    pieces = [b"x" * 500] * 50
    assert World(lambda _: Answer(iter(pieces))).ask().body == b"".join(pieces)


@covers("ROUTING-21")
@pytest.mark.parametrize(
    "head,data,end",
    [
        (but(question("/status/node"), method=b"POST"), b"", True),
        (but(question("/status/node"), target=b"/-/drain"), b"", True),
        (but(question("/status/node"), target=b"/status/" + b"x" * 2000), b"", True),
        (but(question("/status/node"), field_block=b"x-pico-status: 2\r\n"), b"", True),
        (but(question("/status/node"), field_block=b"x-pico-status: 1\r\nHost: x\r\n"), b"", True),
        (but(question("/status/node"), body_length=1), b"x", True),
        (but(question("/status/node"), body_length=-1), b"", False),
    ],
)
def test_what_is_no_question_is_refused(head, data, end):
    reset = World(lambda _: Answer(b"")).raw(head, data, end)
    assert (reset.code, reset.untouched) == (ResetCode.REFUSED, True)


@covers("ROUTING-21")
def test_a_request_whose_client_sends_the_line_is_a_request():
    world = World(lambda _: Answer(b""))
    head = RequestHead(b"GET", b"/status/node", b"x-pico-status: 1\r\n", 0, b"")
    assert world.raw(addressed(head, "web")).code is ResetCode.NO_ENDPOINT


@covers("ROUTING-21")
@pytest.mark.parametrize("target", ["/metrics", "/status/" + "x" * 2000, "/status/\x00", "status/node"])
def test_what_cannot_be_asked_is_not_sent(target):
    assert why(World(lambda _: Answer(b"")), target=target) == "too_long"


@covers("ROUTING-23")
def test_too_many_questions_at_one_time_are_refused():
    def slow(_: str) -> Answer:
        return Answer(iter(lambda: b"x", b""))

    world = World(slow)
    asking = [asking_of(world) for _ in range(questions.QUESTIONS_MAX)]
    for _ in range(3):
        gevent.sleep(0)
        world.clock.advance(0.001)
    with pytest.raises(NoAnswer, match="takes no question now: too many") as caught:
        world.ask()
    assert caught.value.code == "busy"
    gevent.killall(asking)
    for _ in range(5):
        world.clock.advance(0.001)
        gevent.sleep(0)
    assert world.nothing_open()
    with pytest.raises(NoAnswer, match="no answer within"):
        world.ask(timeout_s=0.01)


@covers("ROUTING-24")
@pytest.mark.parametrize("made", [lambda: b"x" * (ANSWER_BYTES_MAX + 1), lambda: iter([b"x" * 300_000] * 4)])
def test_an_answer_has_a_limit(made):
    assert why(World(lambda _: Answer(made()))) == "too_large"


class Endless:
    """A node that goes on and on."""

    def __init__(self) -> None:
        self.heard: list = []

    def begin(self, link, event) -> None:
        self.link = link
        event.stream.context = self.hear
        link.send_head(event.stream, ResponseHead(200, b"", b"", UNKNOWN_LENGTH, b""))
        self.hear(CreditReceived(event.stream))

    def hear(self, event) -> None:
        self.heard.append(event)
        stream = event.stream
        while isinstance(event, CreditReceived) and stream.credit:
            self.link.send_data(stream, b"x" * min(stream.credit, 400))


@covers("ROUTING-24")
def test_who_asks_takes_no_more_than_that():
    world, endless = World(None), Endless()
    world.forwarding.questions = endless  # type: ignore[assignment]
    assert why(world) == "too_large"
    assert endless.heard[-1].code is ResetCode.CANCELLED


@covers("ROUTING-24")
def test_nobody_waits_for_ever():
    world = World(lambda _: Answer(iter(lambda: b"x", b"")))
    assert why(world, timeout_s=0.02) == "timeout"


@covers("ROUTING-25")
def test_an_older_node_knows_no_questions():
    assert why(World(None)) == "too_old"


def test_a_node_that_cannot_answer_says_so(caplog):
    def fail(_: str) -> Answer:
        raise ValueError("inside")

    assert why(World(fail)) == "failed"
    assert "inside" in caplog.text


def test_a_link_that_is_lost_or_was_never_there():
    world = World(lambda _: Answer(iter(lambda: b"x", b"")))
    asking = asking_of(world)
    gevent.sleep(0)
    world.clock.advance(0.001)
    world.near.abort("cut")
    with pytest.raises(NoAnswer) as caught:
        answer_of(asking)
    assert caught.value.code == "unreachable"
    world.peer.closed(world.near)
    assert why(world) == "unreachable"
