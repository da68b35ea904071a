"""Flow control: credit is never lost, nobody holds more than the windows, and no stream waits for another.

The equation that holds for each half at every moment: what the sender may still send, what is on its way, what was
received and not taken, and what was taken and not given back make up the window.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.rpc_side import Pair, request_head, response_head, streaming_side
from tests.rpc_slow import Value, decode
from tests.rules import covers

DATA_MAX = 16
windows = st.sampled_from([1, 2, 3, 7, 16, 32, 50])
streams = st.integers(0, 3)
sides = st.integers(0, 1)
sizes = st.integers(0, 60)


@dataclass
class Half:
    """One direction of one stream, counted from outside."""

    name: str  # of the stream at the sender, and the other way round at the receiver
    sent: int = 0  # by the owner
    received: int = 0  # by the other owner
    taken: int = 0
    given: int = 0  # credit that left the receiver
    returned: int = 0  # credit that reached the sender


class FlowMachine(RuleBasedStateMachine):
    """Four streams, two opened by each side, with bodies without end in both directions."""

    def __init__(self) -> None:
        super().__init__()
        self.halves: list[list[Half]] = [[], []]  # by sender

    @initialize(window=windows)
    def connect(self, window: int) -> None:
        self.window = window
        limits = {"window_bytes": window, "data_bytes_max": DATA_MAX}
        self.pair = Pair(streaming_side(**limits), streaming_side(**limits))
        for who in (0, 1, 0, 1):
            self.pair.sides[who].open(request_head())
        self.settle()
        for who in (0, 1):
            for name in list(self.pair.sides[who].streams):
                if name.startswith("theirs"):
                    self.pair.sides[who].head(name, response_head())
        self.settle()
        for who in (0, 1):
            self.halves[who] = [Half(name) for name in sorted(self.pair.sides[who].streams)]

    def half(self, sender: int, name: str) -> Half:
        return next(half for half in self.halves[sender] if half.name == name)

    @rule(who=sides, stream=streams, size=sizes)
    def send(self, who: int, stream: int, size: int) -> None:
        half = self.halves[who][stream]
        size = min(size, self.pair.sides[who].streams[half.name].credit)
        self.pair.sides[who].data(half.name, "x" * size)
        half.sent += size

    @rule(who=sides, stream=streams, size=sizes)
    def take(self, who: int, stream: int, size: int) -> None:
        half = self.halves[1 - who][stream]
        size = min(size, half.received - half.taken)
        self.pair.sides[who].consumed(other(half.name), size)
        half.taken += size

    @rule(who=sides, size=st.sampled_from([0, 1, 40, 1 << 30]))
    def post(self, who: int, size: int) -> None:
        for octets in self.pair.post(who, size):
            value = decode(octets)
            if value["type"] == "WINDOW":
                self.half(1 - who, other(named(value))).given += value["credit"]

    @rule(who=sides, count=st.integers(1, 4))
    def deliver(self, who: int, count: int) -> None:
        for _ in range(count):
            self.deliver_one(who)

    def deliver_one(self, who: int) -> bool:
        if not self.pair.wires[who]:
            return False
        value = decode(self.pair.wires[who][0])
        self.pair.deliver(who)
        events = self.pair.sides[who].take_events()
        if value["type"] == "WINDOW":
            self.half(who, reverse(value)).returned += value["credit"]
        for event in events:
            if event["event"] == "data":
                self.half(1 - who, other(event["stream"])).received += len(event["body"])
        return True

    def settle(self) -> None:
        moved = True
        while moved:
            moved = False
            for who in (0, 1):
                self.post(1 - who, 1 << 30)
                while self.deliver_one(who):
                    moved = True

    @invariant()
    def credit_is_never_lost(self) -> None:
        for who in (0, 1):
            for half in self.halves[who]:
                credit = self.pair.sides[who].streams[half.name].credit
                assert 0 <= credit <= self.window
                assert credit == self.window - half.sent + half.returned
                assert half.returned <= half.given <= half.taken <= half.received <= half.sent
                assert half.sent - half.given <= self.window

    @invariant()
    def nobody_holds_more_than_the_windows(self) -> None:
        for who in (0, 1):
            snapshot = self.pair.sides[who].engine.snapshot() if self.halves[who] else None
            if snapshot is not None:
                incoming, outgoing = self.halves[1 - who], self.halves[who]
                assert snapshot.held_bytes == sum(half.received - half.taken for half in incoming)
                assert snapshot.held_bytes <= len(incoming) * self.window
                assert snapshot.queued_bytes <= len(outgoing) * self.window * (1 + 12)

    def teardown(self) -> None:
        """At rest, all taken, less than a quarter of the window is kept back, and every stream can go on."""
        for _ in range(3):
            self.settle()
            for who in (0, 1):
                for stream in range(len(self.halves[who])):
                    self.take(who, stream, 1 << 30)
        self.settle()
        for who in (0, 1):
            for half in self.halves[who]:
                assert half.sent == half.received == half.taken
                assert half.given == half.returned
                kept = half.taken - half.given
                assert kept == 0 or kept * 4 < self.window
                assert self.pair.sides[who].streams[half.name].credit > 0


def named(value: Value) -> str:
    """The stream that a message is about, as its sender names it."""
    return f"{'theirs' if 'RESPONSE' in value['flags'] else 'ours'}:{value['id']}"


def reverse(value: Value) -> str:
    """The stream that a message is about, as its receiver names it."""
    return other(named(value))


def other(name: str) -> str:
    side, _, ident = name.partition(":")
    return f"{'theirs' if side == 'ours' else 'ours'}:{ident}"


@covers("RPC-39", "RPC-40", "RPC-41")
class Flow(FlowMachine):
    pass


TestFlow = Flow.TestCase
TestFlow.settings = settings(stateful_step_count=40)


@covers("RPC-43", "RPC-39")
@given(
    stalled=st.sets(streams, max_size=3),
    window=windows,
    want=st.integers(1, 200),
    upload=st.booleans(),
)
def test_a_stalled_stream_never_holds_another_back(stalled: set[int], window: int, want: int, upload: bool) -> None:
    """Streams whose bytes nobody takes stop at their window; the others move as much as they want."""
    limits = {"window_bytes": window, "data_bytes_max": DATA_MAX}
    pair = Pair(streaming_side(**limits), streaming_side(**limits))
    left, right = pair.sides
    for _ in range(4):
        left.open(request_head())
    run(pair)
    for name in list(right.streams):
        right.head(name, response_head())
    sender, receiver, prefix = (left, right, "ours") if upload else (right, left, "theirs")
    moved = dict.fromkeys(range(4), 0)
    for _ in range(2 * want + 2):
        for number in range(4):
            name = f"{prefix}:{number + 1}"
            size = min(sender.streams[name].credit, want - moved[number])
            sender.data(name, "x" * size)
            moved[number] += size
        for event in run(pair)[1 if upload else 0]:
            number = int(event["stream"].partition(":")[2]) - 1
            if event["event"] in ("data", "head") and number not in stalled:
                receiver.consumed(event["stream"], len(event["body"]))
    for number in range(4):
        assert moved[number] == (min(window, want) if number in stalled else want)


@covers("RPC-57", "RPC-40")
@given(
    window=st.integers(1, 60),
    data_max=st.integers(1, 40),
    want=st.integers(0, 400),
    takes=st.lists(st.integers(1, 60), min_size=1),
    upload=st.booleans(),
)
def test_whoever_waits_for_whole_pieces_never_waits_for_ever(
    window: int, data_max: int, want: int, takes: list[int], upload: bool
) -> None:
    """However little the receiver takes at a time, once it has taken all there is credit for more."""
    limits = {"window_bytes": window, "data_bytes_max": data_max}
    pair = Pair(streaming_side(**limits), streaming_side(**limits))
    left, right = pair.sides
    left.open(request_head())
    run(pair)
    right.head("theirs:1", response_head())
    run(pair)
    sender, receiver = (left, right) if upload else (right, left)
    name, far_name = ("ours:1", "theirs:1") if upload else ("theirs:1", "ours:1")
    left_over, held, step = want, 0, 0
    while left_over or held:
        if left_over:
            room = sender.engine.room(sender.streams[name], left_over)
            assert room or held, "nothing is on its way, and nothing may be sent"
            sender.data(name, "x" * room)
            left_over -= room
        held += sum(len(event["body"]) for event in run(pair)[1 if upload else 0] if event["event"] == "data")
        size = min(held, takes[step % len(takes)])
        step += 1
        receiver.consumed(far_name, size)
        run(pair)
        held -= size


class Path:
    """Two sides on a path of so many bytes a second with so long a way; time is the next arrival's."""

    def __init__(self, rate: float, way_s: float, **limits: float) -> None:
        self.pair = Pair(streaming_side(**limits), streaming_side(**limits))
        self.rate, self.way_s = rate, way_s
        self.free_at = [0.0, 0.0]  # by the side that sends
        self.arrivals: list[tuple[float, int, int, bytes]] = []  # when, the how manyth, at which side
        self.now = 0.0
        self.sent = 0

    def post(self) -> None:
        for who in (0, 1):
            for octets in self.pair.post(who):
                self.free_at[who] = max(self.now, self.free_at[who]) + len(octets) / self.rate
                self.sent += 1
                heapq.heappush(self.arrivals, (self.free_at[who] + self.way_s, self.sent, 1 - who, octets))
            self.pair.wires[1 - who].clear()

    def step(self) -> list[Value]:
        """The next message arrives; what the receiver of bodies, who is on the right, is told of it."""
        self.post()
        self.now, _, who, octets = heapq.heappop(self.arrivals)
        side = self.pair.sides[who]
        side.now = self.now
        side.receive(octets)
        told = side.take_events()
        return told if who == 1 else []


@covers("RPC-58", "RPC-60")
@settings(max_examples=20)
@given(
    way_s=st.sampled_from([0.001, 0.01, 0.1]),
    windows_per_round_trip=st.sampled_from([0.1, 0.5, 1.0, 3.0, 8.0, 100.0]),
    piece=st.integers(50, 500),
)
def test_a_window_grows_to_what_its_path_carries_and_little_further(
    way_s: float, windows_per_round_trip: float, piece: int
) -> None:
    """The path is put to use, up to the largest window. Where a first window fills it more than once, so that no round
    trip was ever without a queue, the window doubles once."""
    window, largest = 1000, 16_000
    rate = windows_per_round_trip * window / (2 * way_s)
    path = Path(rate, way_s, window_bytes=window, window_bytes_max=largest, data_bytes_max=piece, probe_s=0.0)
    sender, receiver = path.pair.sides
    sender.open(request_head())
    stream = sender.streams["ours:1"]
    arrived: list[tuple[float, int]] = []
    while path.now < 40 * way_s + 40 * window / rate:
        while room := sender.engine.room(stream, 1 << 20):
            sender.data("ours:1", "x" * room)
        for event in path.step():
            if event["event"] == "data":
                receiver.consumed("theirs:1", len(event["body"]))
                arrived.append((path.now, len(event["body"])))
    grown = window + receiver.streams["theirs:1"].growth_bytes
    late = [size for at, size in arrived if at > path.now / 2]
    moved = sum(late) / (path.now / 2)
    carries = rate * piece / (piece + 12)
    assert moved > 0.7 * min(carries, grown / (2 * way_s + piece / rate))
    assert grown <= max(2 * window, 4 * rate * 2 * way_s + 4 * piece)
    assert grown >= min(largest, rate * 2 * way_s * 0.7)


def run(pair: Pair) -> tuple[list[Value], list[Value]]:
    """Move everything that moves; what both sides were told of it."""
    told: tuple[list[Value], list[Value]] = ([], [])
    moved = True
    while moved:
        moved = False
        for who in (0, 1):
            pair.post(who)
            while pair.deliver(1 - who):
                moved = True
            told[who].extend(pair.sides[who].take_events())
    for who in (0, 1):
        told[who].extend(pair.sides[who].take_events())
    return told
