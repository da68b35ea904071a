"""Who is sent next: control first, then streams in turn, and the order within each is kept."""

from __future__ import annotations

from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from tests.rpc_side import head_message, message, request_head, response_head, streaming_side
from tests.rpc_slow import Value
from tests.rules import covers

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


class Sender:
    """One engine with streams of both sides, and what each of them has still to send."""

    def __init__(self) -> None:
        self.side = streaming_side(data_bytes_max=3)
        self.names: list[str] = []
        self.queued: dict[str, int] = defaultdict(int)  # messages
        self.left: dict[str, list[Value]] = defaultdict(list)
        self.sent: dict[str, str] = defaultdict(str)
        self.control = 0
        self.waited: dict[str, set[str]] = {}  # for a stream that is ready: who has been sent since its last turn

    def ready(self, name: str, count: int) -> None:
        if count and not self.queued[name]:
            self.waited[name] = set()
        self.queued[name] += count

    def do(self, step: tuple[object, ...]) -> None:
        getattr(self, f"_{step[0]}")(*step[1:])

    def _open(self, size: int) -> None:
        body = "abcdefghijklmnopq"[: min(size, 3)]
        name = self.side.open(request_head(), body)
        self.names.append(name)
        self.sent[name] += body
        self.ready(name, 1)

    def _data(self, number: int, size: int) -> None:
        if self.names:
            name = self.names[number % len(self.names)]
            body = "".join(chr(97 + (len(self.sent[name]) + place) % 26) for place in range(size))
            self.side.data(name, body)
            self.sent[name] += body
            self.ready(name, -(-size // 3))

    def _answer(self, number: int, size: int) -> None:
        self.side.hear(head_message(len(self.side.streams) + 1000, request_head()))
        name = list(self.side.streams)[-1]
        self.names.append(name)
        self.side.head(name, response_head())
        self.ready(name, 1)

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
        for waiting, since in self.waited.items():
            if waiting != name:
                assert name not in since, f"{name} was sent twice while {waiting} waited"  # RPC-45
                since.add(name)
        self.left[name].append(value)
        self.queued[name] -= 1
        self.waited[name] = set()
        if not self.queued[name]:
            del self.waited[name]


@covers("RPC-44", "RPC-45", "RPC-46")
@given(steps)
def test_control_first_then_each_ready_stream_once_before_any_twice(sequence: list[tuple[object, ...]]) -> None:
    sender = Sender()
    for step in sequence:
        sender.do(step)
    while sender.side.engine.has_outgoing:
        sender._leave(1)
    assert not any(sender.queued.values())
    for name, values in sender.left.items():
        assert [value["type"] for value in values] == ["HEAD"] + ["DATA"] * (len(values) - 1)
        assert "".join(value["body"] for value in values) == sender.sent[name]  # RPC-46


@covers("RPC-45")
@given(st.lists(st.integers(1, 30), min_size=2, max_size=20), st.integers(1, 400))
def test_any_amount_of_room_gives_the_same_order(sizes: list[int], room: int) -> None:
    orders = []
    for amount in (room, 1 << 30):
        side = streaming_side(data_bytes_max=3)
        for size in sizes:
            side.data(side.open(request_head()), "x" * size)
        order: list[Value] = []
        while sent := side.take_sent(amount):
            assert sum(12 + len(value.get("body", "")) for value in sent[:-1]) < amount
            order += sent
        orders.append(order)
    assert orders[0] == orders[1]
