"""What holds for a link whatever happens to it, in whatever order."""

from __future__ import annotations

from random import Random
from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pico.config import LinkTimers
from pico.errors import RemoteProtocolError
from pico.protocol.http.values import ResponseHead
from pico.protocol.tunnel import (
    HOPELESS_STATUSES,
    LINK,
    Abort,
    Announce,
    Close,
    Dial,
    GiveUp,
    Goaway,
    Link,
    LinkState,
    Refusal,
    RegistrationRefused,
    Serve,
    Spread,
    Unfinished,
    check_acceptance,
    check_registration,
    printable,
    refusal_of,
)
from tests.rules import covers

TIMERS = LinkTimers()
DIALS = (LinkState.WAITING, LinkState.DIALLING)
STATUSES = st.sampled_from([200, 302, 400, 401, 403, 404, 408, 426, 429, 500, 502, 503])


@covers(
    "TUN-20",
    "TUN-21",
    "TUN-22",
    "TUN-37",
    "TUN-39",
    "TUN-40",
    "TUN-24",
    "TUN-25",
    "TUN-26",
    "TUN-29",
    "TUN-31",
    "TUN-32",
)
class LinkMachine(RuleBasedStateMachine):
    """One link; the machine is the network and keeps, for each tunnel, what it has been told to do."""

    @initialize(
        servers=st.integers(1, 4), seed=st.integers(0, 2**32), draining=st.integers(1, 3), dials=st.integers(0, 12)
    )
    def begin(self, servers: int, seed: int, draining: int, dials: int) -> None:
        self.now = 0.0
        self.servers = servers
        self.timers = LinkTimers(draining_max=draining)
        self.spread = Spread()
        self.link = Link(servers, self.timers, Random(seed), now=0.0, spread=self.spread)
        self.dialled = 0
        self.pending: int | None = None
        self.alive: set[int] = set()  # accepted and neither aborted nor ended
        self.served: set[int] = set()
        self.closing: set[int] = set()
        self.said_goaway: set[int] = set()
        self.at_once: list[float] = []
        self.statuses: dict[int, int] = {}
        self.server = 0
        self.gave_up = False
        self.stops = 0
        self.stops_from = dials  # before a stop that much happens: most would come before anything is open
        self.pump()

    def pump(self) -> None:
        for command in self.link.outgoing():
            if isinstance(command, Dial):
                assert self.pending is None, "two dials at once"
                assert command.tunnel == self.dialled + 1
                assert 0 <= command.server < self.servers
                assert self.stops == 0
                self.pending, self.dialled, self.server = command.tunnel, command.tunnel, command.server
            elif isinstance(command, Abort):
                if self.pending == command.tunnel:
                    self.pending = None
                self.alive.discard(command.tunnel)
                self.closing.discard(command.tunnel)
            elif isinstance(command, Close):
                assert command.tunnel in self.alive
                assert command.tunnel not in self.closing, "closed twice"
                assert command.code in (1000, 1001)
                assert command.reason
                self.closing.add(command.tunnel)
            elif isinstance(command, Goaway):
                assert command.tunnel in self.alive
                assert command.tunnel not in self.closing
            elif isinstance(command, Serve):
                assert command.tunnel in self.alive
                assert command.tunnel not in self.served, "served twice"
                self.served.add(command.tunnel)
            elif isinstance(command, GiveUp):
                assert int(command.reason.split()[0]) in HOPELESS_STATUSES
                assert set(self.statuses) == set(range(self.servers))
                assert all(status in HOPELESS_STATUSES for status in self.statuses.values())
                self.gave_up = True
            else:
                assert isinstance(command, Announce)
                assert command.reason.isprintable()

    def answered(self) -> int:
        tunnel, self.pending = self.pending, None
        assert tunnel is not None
        return tunnel

    @rule(seconds=st.one_of(st.floats(0, 0.5), st.floats(0, 100)))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.link.handle_timer(now=self.now)
        self.pump()

    @rule()
    def the_timer_fires(self) -> None:
        self.fire()

    def fire(self) -> None:
        at = self.link.next_timer()
        if at is not None:
            self.now = max(self.now, at)
            self.link.handle_timer(now=self.now)
            self.pump()
            after = self.link.next_timer()
            assert after is None or after > self.now or after != at, "a timer that fires for ever"

    @precondition(lambda self: self.pending is not None)
    @rule(node=st.sampled_from(["", "a", "b"]))
    def the_dial_is_accepted(self, node: str) -> None:
        self.accept(node)

    @precondition(lambda self: self.link.state in DIALS)
    @rule(node=st.sampled_from(["", "a", "b"]))
    def the_next_dial_is_accepted(self, node: str) -> None:
        """At one go: step by step it seldom comes to a second tunnel."""
        while self.pending is None:
            self.fire()
        self.accept(node)

    def accept(self, node: str) -> None:
        tunnel = self.answered()
        self.alive.add(tunnel)
        self.statuses.pop(self.server, None)
        self.link.accepted(tunnel, node=node, now=self.now)
        self.pump()

    @precondition(lambda self: self.pending is not None)
    @rule(status=STATUSES, after=st.none() | st.floats(0, 1e9), by_node=st.booleans(), reason=st.text(max_size=8))
    def the_dial_is_refused(self, status: int, after: float | None, by_node: bool, reason: str) -> None:
        self.statuses[self.server] = status
        self.link.refused(self.answered(), Refusal(status, reason, after, by_node), now=self.now)
        self.pump()

    @precondition(lambda self: self.pending is not None)
    @rule(reason=st.text(max_size=8))
    def the_dial_fails(self, reason: str) -> None:
        self.link.failed(self.answered(), reason, now=self.now)
        self.pump()

    @precondition(lambda self: self.pending is not None)
    @rule()
    def the_dial_is_sent_elsewhere(self) -> None:
        self.statuses[self.server] = 503
        self.link.refused(self.answered(), Refusal(503, "there", None, True, "elsewhere"), now=self.now)
        self.pump()

    @rule(node=st.sampled_from(["", "a", "b"]))
    def another_link_comes_to_a_node(self, node: str) -> None:
        self.spread.hold(1, node)

    @precondition(lambda self: self.alive)
    @rule(data=st.data(), reason=st.sampled_from(["leaving", "move"]))
    def the_node_says_goaway(self, data: st.DataObject, reason: str) -> None:
        tunnel = data.draw(st.sampled_from(sorted(self.alive)))
        was_current = self.link.snapshot().current == tunnel
        self.link.goaway(tunnel, reason, now=self.now)
        if was_current and self.link.next_timer() == self.now:
            self.at_once.append(self.now)
        self.pump()

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def a_tunnel_is_idle(self, data: st.DataObject) -> None:
        self.link.idle(data.draw(st.sampled_from(sorted(self.alive))), now=self.now)
        self.pump()

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def a_tunnel_ends(self, data: st.DataObject) -> None:
        tunnel = data.draw(st.sampled_from(sorted(self.alive)))
        self.alive.discard(tunnel)
        self.closing.discard(tunnel)
        self.link.ended(tunnel, "lost", now=self.now)
        self.pump()

    @rule(number=st.integers(0, 50), what=st.integers(0, 5))
    def something_is_said_of_a_tunnel_that_is_no_more(self, number: int, what: int) -> None:
        if number in self.alive or number == self.pending:
            return
        says = [
            lambda: self.link.failed(number, "late", now=self.now),
            lambda: self.link.refused(number, Refusal(404, "late", None, True), now=self.now),
            lambda: self.link.goaway(number, "late", now=self.now),
            lambda: self.link.idle(number, now=self.now),
            lambda: self.link.ended(number, "late", now=self.now),
            lambda: self.link.accepted(number, now=self.now),
        ]
        before = self.link.snapshot()
        says[what]()
        assert self.link.snapshot() == before
        self.pump()

    @precondition(lambda self: self.stops < 2 and self.dialled >= self.stops_from)
    @rule()
    def our_side_stops(self) -> None:
        self.stops += 1
        self.link.stop(now=self.now)
        self.pump()
        if self.stops == 2:
            assert self.link.finished

    @invariant()
    def the_state_is_listed(self) -> None:
        assert self.link.state in LINK

    @invariant()
    def tunnels_are_bounded(self) -> None:
        snapshot = self.link.snapshot()
        # A stop makes the current tunnel one of those that leave.
        room = self.timers.draining_max + (1 if self.stops or self.gave_up else 0)
        assert len(snapshot.leaving) <= room
        assert len(snapshot.closing) <= self.timers.draining_max + 1
        assert set(snapshot.closing) == self.closing

    @invariant()
    def the_machine_and_the_link_know_the_same_tunnels(self) -> None:
        snapshot = self.link.snapshot()
        current = () if snapshot.current is None else (snapshot.current,)
        assert {*current, *snapshot.leaving, *snapshot.closing} == self.alive
        assert self.alive <= self.served

    @invariant()
    def a_tunnel_that_moves_serves_until_another_does_or_the_link_ends(self) -> None:
        for old in self.link._leaving.values():
            assert not old.moving or (self.link.state in DIALS and not (old.closing or old.replaced))

    @invariant()
    def waits_are_bounded(self) -> None:
        at = self.link.next_timer()
        if self.link.state is LinkState.WAITING:
            assert at is not None
            assert at <= self.now + self.timers.backoff_max_s + self.timers.retry_after_max_s + 1e-6
        if self.link.state is LinkState.DIALLING:
            assert at is not None
            assert at <= self.now + self.timers.dial_s

    @invariant()
    def dials_at_once_are_rare(self) -> None:
        gaps = [later - earlier for earlier, later in zip(self.at_once, self.at_once[1:], strict=False)]
        # The backoff draws zero now and then; a gap below stable_s is a coincidence of that kind.
        assert len([gap for gap in gaps if gap < self.timers.stable_s]) <= 2

    def teardown(self) -> None:
        """A stop always ends, whatever the network does or does not do."""
        if not hasattr(self, "link"):
            return
        if not self.stops and not self.gave_up:
            self.link.stop(now=self.now)
            self.stops = 1
        self.pump()
        wakes = 0
        while (at := self.link.next_timer()) is not None:
            self.now = max(self.now, at)
            self.link.handle_timer(now=self.now)
            self.pump()
            wakes += 1
            assert wakes < 40, "the link never ends"
            for tunnel in sorted(self.alive - self.closing):
                self.link.idle(tunnel, now=self.now)
            self.pump()
        assert self.link.finished
        assert self.pending is None
        assert not self.alive
        assert self.link.state is (LinkState.GIVEN_UP if self.gave_up else LinkState.CLOSED)


TestLink = LinkMachine.TestCase


@covers("TUN-22")
@given(
    failures=st.integers(1, 400),
    servers=st.integers(1, 9),
    first=st.floats(0.001, 10),
    factor=st.floats(1, 10),
    cap=st.floats(10, 1000),
    seed=st.integers(),
)
def test_every_wait_is_within_its_bounds(
    failures: int, servers: int, first: float, factor: float, cap: float, seed: int
) -> None:
    timers = LinkTimers(backoff_first_s=first, backoff_factor=factor, backoff_max_s=cap)
    link = Link(servers, timers, Random(seed), now=0.0)
    now, ceiling = 0.0, first
    for number in range(1, failures + 1):
        link.handle_timer(now=now)
        link.failed(number, "x", now=now)
        due = link.next_timer()
        assert due is not None
        if number > 1 and (number - 1) % servers == 0:
            ceiling = min(cap, ceiling * factor)
        assert 0.0 <= due - now <= ceiling * (1 + 1e-9) + 1e-9 * max(1.0, now)
        now = due


@covers("TUN-19")
@given(servers=st.integers(1, 6), failures=st.integers(1, 60), seed=st.integers())
def test_every_server_is_tried_before_one_is_tried_again(servers: int, failures: int, seed: int) -> None:
    link = Link(servers, TIMERS, Random(seed), now=0.0)
    tried = []
    now = 0.0
    for _ in range(failures):
        now = max(now, link.next_timer() or 0.0)
        link.handle_timer(now=now)
        (dial,) = [command for command in link.outgoing() if isinstance(command, Dial)]
        tried.append(dial.server)
        link.failed(dial.tunnel, "x", now=now)
    for start in range(max(0, failures - servers + 1)):
        assert sorted(tried[start : start + servers]) == list(range(servers))


@covers("TUN-19", "TUN-25")
@given(
    servers=st.integers(1, 4),
    answers=st.lists(st.tuples(st.booleans(), st.floats(0, 120)), min_size=1, max_size=40),
    seed=st.integers(),
)
def test_a_held_server_is_dialled_only_when_its_time_has_passed(
    servers: int, answers: list[tuple[bool, float]], seed: int
) -> None:
    link = Link(servers, TIMERS, Random(seed), now=0.0)
    held: dict[int, float] = {}
    now = 0.0
    for refuses, after in answers:
        now = max(now, link.next_timer() or 0.0)
        link.handle_timer(now=now)
        (dial,) = [command for command in link.outgoing() if isinstance(command, Dial)]
        assert held.get(dial.server, 0.0) <= now
        if refuses:
            held[dial.server] = now + min(after, TIMERS.retry_after_max_s)
            link.refused(dial.tunnel, Refusal(503, "", after), now=now)
        else:
            link.failed(dial.tunnel, "x", now=now)


# The handshake: whatever the other side writes.


class Handshake(NamedTuple):
    """A parsed request head, as far as a registration looks at it."""

    method: bytes
    target: bytes
    minor: int
    fields: list[tuple[bytes, bytes, bytes]]


@covers("TUN-42", "TUN-43")
class UnfinishedMachine(RuleBasedStateMachine):
    """The account of a node against a list of who holds how much, the oldest first."""

    FREE, MOST = 10, 100

    @initialize()
    def begin(self) -> None:
        self.unfinished = Unfinished(self.MOST, free_bytes=self.FREE)
        self.counted: dict[str, int] = {}  # by tunnel; the first letter of its name is its address
        self.begun: list[tuple[str, str, int]] = []  # tunnel, way and size, the one that has been there longest first

    @rule(
        address=st.sampled_from("abc"),
        number=st.integers(0, 4),
        arriving=st.integers(0, 40),
        leaving=st.integers(0, 40),
    )
    def hold(self, address: str, number: int, arriving: int, leaving: int) -> None:
        tunnel, counted = f"{address}{number}", arriving + leaving - self.FREE
        if counted <= 0:
            self.forget(tunnel)
        else:
            self.counted[tunnel] = counted
            self.note(tunnel, "arriving", arriving, anew=arriving < self.size(tunnel, "arriving"))
            self.note(tunnel, "leaving", leaving, anew=False)
        for loser in self.unfinished.hold(tunnel, address, arriving=arriving, leaving=leaving):
            assert self.total() > self.MOST
            assert self.total(loser[0]) == max(map(self.total, "abc"))
            assert next(one for one, _, _ in self.begun if one[0] == loser[0]) == loser
            self.forget(loser)

    def size(self, tunnel: str, way: str) -> int:
        return sum(size for one, which, size in self.begun if (one, which) == (tunnel, way))

    def note(self, tunnel: str, way: str, size: int, *, anew: bool) -> None:
        at = next((index for index, one in enumerate(self.begun) if one[:2] == (tunnel, way)), len(self.begun))
        del self.begun[at : at + 1]
        if size:
            self.begun.insert(len(self.begun) if anew else at, (tunnel, way, size))

    def forget(self, tunnel: str) -> None:
        self.counted.pop(tunnel, None)
        self.begun = [one for one in self.begun if one[0] != tunnel]

    @rule(address=st.sampled_from("abc"), number=st.integers(0, 4))
    def end(self, address: str, number: int) -> None:
        self.unfinished.release(f"{address}{number}", address)
        self.forget(f"{address}{number}")

    def total(self, address: str = "") -> int:
        return sum(counted for tunnel, counted in self.counted.items() if tunnel.startswith(address))

    @invariant()
    def what_is_held_is_within_the_limit(self) -> None:
        assert self.unfinished.held_bytes == self.total() <= self.MOST


TestUnfinished = UnfinishedMachine.TestCase


NAMES = st.sampled_from(
    [b"host", b"upgrade", b"connection", b"sec-websocket-key", b"sec-websocket-version", b"sec-websocket-protocol"]
)
VALUES = st.sampled_from(
    [b"websocket", b"upgrade", b"13", b"dGhlIHNhbXBsZSBub25jZQ==", b"pico.stream.v1", b"close, Upgrade", b""]
) | st.binary(max_size=30)


@covers("TUN-2", "TUN-3", "TUN-4", "TUN-5")
@given(
    method=st.sampled_from([b"GET", b"POST"]),
    target=st.binary(max_size=80) | st.binary(max_size=70).map(lambda name: b"/pico/v1/listener/" + name),
    minor=st.integers(0, 9),
    fields=st.lists(st.tuples(NAMES, VALUES), max_size=8),
)
def test_a_handshake_is_a_registration_or_is_refused(
    method: bytes, target: bytes, minor: int, fields: list[tuple[bytes, bytes]]
) -> None:
    request = Handshake(method, target, minor, [(name, name, value) for name, value in fields])
    try:
        registration = check_registration(request)
    except RegistrationRefused as refused:
        assert refused.status in (400, 404, 426)
        assert str(refused)
    else:
        assert method == b"GET"
        assert minor >= 1
        assert 1 <= len(registration.endpoint_id) <= 63
        assert registration.endpoint_id == registration.endpoint_id.lower()
        assert len(registration.key) == 24


@covers("TUN-9", "TUN-27", "TUN-33")
@given(status=st.integers(100, 599), reason=st.binary(max_size=300), block=st.binary(max_size=200), body=st.binary())
def test_an_answer_is_an_acceptance_a_violation_or_a_refusal(
    status: int, reason: bytes, block: bytes, body: bytes
) -> None:
    head = ResponseHead(status, reason, block, -1, b"")
    try:
        check_acceptance(head, b"dGhlIHNhbXBsZSBub25jZQ==")
    except RemoteProtocolError:
        pass
    refusal = refusal_of(head, body)
    assert refusal.status == status
    assert refusal.reason.isprintable()
    assert len(refusal.reason) <= 200


@covers("TUN-33")
@given(text=st.text())
def test_a_printable_text_is_one_short_line(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert len(shown) == min(len(text), 200)
    assert printable(shown) == shown
