"""Who is sent next: control first, then what is little, then streams in turn, and the order within each is kept."""

from __future__ import annotations

from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from pico.config import RpcLimits
from pico.protocol.rpc.connection import CUT_BYTES_MIN
from tests.rpc_side import Pair, head_message, message, request_head, response_head, streaming_side
from tests.rpc_slow import Value, encode
from tests.rules import covers

AHEAD_BYTES = 60  # a head, or some DATA: a part of the streams goes ahead, and not for long
CONTROL = {"HEARTBEAT", "RESET", "WINDOW", "GOAWAY", 77}
bodies = st.integers(0, 12)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("open"), bodies),
        st.tuples(st.just("data"), st.integers(0, 20), bodies),
        st.tuples(st.just("answer"), st.integers(0, 20), bodies),
        st.tuples(st.just("control"), st.integers(0, 3)),
        st.tuples(st.just("leave"), st.integers(0, 5)),
    ),
    max_size=60,
)


def letters(start: int, size: int) -> str:
    return "".join(chr(97 + (start + place) % 26) for place in range(size))


class Sender:
    """One engine with streams of both sides, and what each of them has still to send."""

    def __init__(self, data_bytes_max: int) -> None:
        self.side = streaming_side(data_bytes_max=data_bytes_max, ahead_bytes=AHEAD_BYTES)
        self.piece = data_bytes_max
        self.names: list[str] = []
        self.queued: dict[str, list[int]] = defaultdict(list)  # sizes of messages
        self.since_idle: dict[str, int] = defaultdict(int)  # bytes sent and to be sent next since nothing was queued
        self.left: dict[str, list[Value]] = defaultdict(list)
        self.sent: dict[str, str] = defaultdict(str)
        self.opening: list[str] = []  # whose first message has not left
        self.control = 0
        self.went_ahead = 0  # bytes, more than were sent in turn since
        self.waited: dict[str, set[str]] = {}  # by each that is ready: for whom of its kind

    def ready(self, name: str, sizes: list[int]) -> None:
        if sizes and not self.queued[name]:
            self.waited[name] = set()
            self.since_idle[name] = sizes[0]
        self.queued[name] += sizes

    def goes_ahead(self, name: str) -> bool:
        return self.since_idle[name] <= AHEAD_BYTES or name in self.opening

    def do(self, step: tuple[object, ...]) -> None:
        getattr(self, f"_{step[0]}")(*step[1:])

    def _open(self, size: int) -> None:
        body = "abcdefghijklmnopq"[: min(size, self.piece)]
        name = self.side.open(request_head(), body)
        self.names.append(name)
        self.opening.append(name)
        self.sent[name] += body
        self.ready(name, [len(encode(head_message(1, request_head(), body)))])

    def _data(self, number: int, size: int) -> None:
        if self.names:
            name = self.names[number % len(self.names)]
            body = letters(len(self.sent[name]), size)
            self.side.data(name, body)
            self.sent[name] += body
            queue, pieces = self.queued[name], [min(self.piece, size - at) for at in range(0, size, self.piece)]
            if pieces and len(queue) > 1 and queue[-1] - 12 + pieces[0] <= self.piece:  # RPC-63
                queue[-1] += pieces.pop(0)
            self.ready(name, [12 + piece for piece in pieces])

    def _answer(self, number: int, size: int) -> None:
        self.side.hear(head_message(len(self.side.streams) + 1000, request_head()))
        name = list(self.side.streams)[-1]
        self.names.append(name)
        self.side.head(name, response_head())
        self.ready(name, [len(encode(head_message(1, response_head())))])

    def _control(self, kind: int) -> None:
        if kind == 0:
            self.side.hear(message("HEARTBEAT", 5))
        elif kind == 1:
            self.side.hear(message(77, 5))
        elif kind == 2:
            self.side.goaway()
            self.side.engine.goaway_sent = False  # So that it can be said again.
        else:
            self.side.timer(self.side.now + 5.0)
            self.side.hear(message("HEARTBEAT", 0, "RESPONSE"))
        self.control += 1

    def _leave(self, turns: int) -> None:
        for _ in range(turns):
            self.check(self.side.take_sent(1))

    def check(self, sent: list[Value]) -> None:
        kinds = [value["type"] in CONTROL for value in sent]
        assert kinds == sorted(kinds, reverse=True)  # RPC-44
        assert sum(kinds) == self.control
        self.control = 0
        for value in sent[len([kind for kind in kinds if kind]) :]:
            self.turn(value)

    def turn(self, value: Value) -> None:
        name = f"{'theirs' if 'RESPONSE' in value['flags'] else 'ours'}:{value['id']}"
        ahead, size = self.goes_ahead(name), self.queued[name].pop(0)
        assert size == len(encode(value))
        for waiting, since in self.waited.items():
            if waiting != name and self.goes_ahead(waiting) is ahead:
                assert name not in since, f"{name} was sent twice while {waiting} waited"  # RPC-45
                since.add(name)
        others = [other for other in self.waited if other != name and self.goes_ahead(other) is not ahead]
        if ahead:
            assert not others or self.went_ahead < self.piece  # RPC-62
            self.went_ahead = self.went_ahead + size if others else 0
        else:
            assert not others or self.went_ahead >= self.piece  # RPC-61
            self.went_ahead = max(0, self.went_ahead - size)
        if name.startswith("ours") and value["type"] == "HEAD":
            assert name == self.opening.pop(0), "an opening HEAD overtook another one"  # RPC-26
        self.left[name].append(value)
        self.waited[name] = set()
        if self.queued[name]:
            self.since_idle[name] += self.queued[name][0]
        else:
            del self.waited[name]
        if all(map(self.goes_ahead, self.waited)):
            self.went_ahead = 0


@covers("RPC-44", "RPC-45", "RPC-46", "RPC-61", "RPC-62", "RPC-63")
@given(steps, st.sampled_from([3, 3, 70]))
def test_control_first_then_what_goes_ahead_then_each_ready_stream_once_before_any_twice(
    sequence: list[tuple[object, ...]], data_bytes_max: int
) -> None:
    sender = Sender(data_bytes_max)
    for step in sequence:
        sender.do(step)
    while sender.side.engine.has_outgoing:
        sender._leave(1)
    assert not any(sender.queued.values())
    for name, values in sender.left.items():
        assert [value["type"] for value in values] == ["HEAD"] + ["DATA"] * (len(values) - 1)
        assert "".join(value["body"] for value in values) == sender.sent[name]  # RPC-46


@covers("RPC-45", "RPC-61", "RPC-62")
@given(st.lists(st.integers(1, 30), min_size=2, max_size=20), st.integers(1, 400))
def test_any_amount_of_room_gives_the_same_order(sizes: list[int], room: int) -> None:
    orders = []
    for amount in (room, 1 << 30):
        side = streaming_side(data_bytes_max=3, ahead_bytes=AHEAD_BYTES)
        for size in sizes:
            side.data(side.open(request_head()), "x" * size)
        order: list[Value] = []
        while sent := side.take_sent(amount):
            assert sum(12 + len(value.get("body", "")) for value in sent[:-1]) < amount
            order += sent
        orders.append(order)
    assert orders[0] == orders[1]


writes = st.one_of(
    st.tuples(st.just("open"), st.just(0), st.integers(0, 40_000)),
    st.tuples(st.just("data"), st.integers(0, 5), st.integers(1, 12_000)),
    st.tuples(st.just("leave"), st.just(0), st.integers(1, 9000)),
)


@covers("RPC-26", "RPC-33", "RPC-38", "RPC-46")
@given(st.lists(writes, max_size=20), st.lists(st.integers(1, 9000), min_size=1, max_size=6))
def test_however_bodies_are_cut_the_peer_gets_them_whole(steps: list[tuple[str, int, int]], rooms: list[int]) -> None:
    pair = Pair(streaming_side(), streaming_side())
    sent, got, ended = dict[str, str](), defaultdict[str, str](str), list[str]()

    def leave(room: int) -> bool:
        messages = pair.post(0, room)
        assert sum(map(len, messages)) < room + 100 + max(room, CUT_BYTES_MIN, RpcLimits().ahead_bytes, 40_000)
        return bool(messages)

    for what, number, size in steps:
        if what == "leave":
            leave(size)
        elif what == "open":
            name = pair.sides[0].open(request_head(), letters(0, size))
            sent[name] = letters(0, size)
        elif sent:
            name = list(sent)[number % len(sent)]
            body = letters(len(sent[name]), size)
            pair.sides[0].data(name, body)
            sent[name] += body
    for name in sent:
        pair.sides[0].data(name, "", True)
    turn = 0
    while leave(rooms[turn % len(rooms)]):
        turn += 1
    while pair.deliver(1):
        pass
    for event in pair.sides[1].take_events():
        name = event["stream"].replace("theirs", "ours")
        got[name] += event["body"]
        ended += [name] * event["end"]
    assert got == sent
    assert sorted(ended) == sorted(sent)
    assert pair.sides[0].engine.snapshot().queued_bytes == 0
