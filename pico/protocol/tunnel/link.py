"""The life of an agent's link: when to dial which server, which tunnel serves, when to end.

Responsible for: everything of ``spec/tunnel.md`` about the link. Refuses to know: sockets, handshakes, what travels in
a tunnel, the clock and where chance comes from. The owner tells it what happened, then does what ``outgoing()`` asks,
and calls ``handle_timer`` when ``next_timer()`` has come.

At most one dial is under way. At most one tunnel is *current*; the others are *leaving*: one side said goaway, and they
finish what they have. Their number is bounded, so a node that says goaway at every turn gains nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pico.config import LinkTimers
from pico.protocol.tunnel.backoff import Backoff, Chance
from pico.protocol.tunnel.commands import Abort, Announce, Change, Close, Command, Dial, GiveUp, Goaway, Serve
from pico.protocol.tunnel.registration import ELSEWHERE, HOPELESS_STATUSES, Refusal, printable, told
from pico.protocol.tunnel.spread import MOVE, Spread
from pico.protocol.tunnel.states import LINK, LinkInput, LinkState

__all__ = ["Link", "LinkSnapshot"]

CLOSE_NORMAL: Final = 1000
CLOSE_GOING_AWAY: Final = 1001

REASONS_MAX: Final = 8
"""Failures of one server that are remembered, so that each is told once."""

_NEVER: Final = float("inf")
_FINAL: Final = frozenset((LinkState.CLOSED, LinkState.GIVEN_UP))
_ENDING: Final = frozenset((LinkState.DRAINING, LinkState.CLOSED, LinkState.GIVEN_UP))


@dataclass(slots=True)
class _Tunnel:
    """One connection that was accepted and has not ended."""

    number: int
    opened_at: float
    node: str = ""
    moving: bool = False  # the node still gives it streams; the last that left, so neither closing nor replaced
    replaced: bool = False  # a later one was accepted
    idle: bool = False
    closing: bool = False
    close_from: float = 0.0  # our goaway may still be crossing a stream until then
    deadline: float = _NEVER


@dataclass(frozen=True, slots=True)
class LinkSnapshot:
    """What a link is doing, for status and for tests."""

    state: LinkState
    current: int | None
    leaving: tuple[int, ...]
    closing: tuple[int, ...]
    failures: int


class Link:
    """One endpoint's link; ``rng`` gives the jitter.

    An endpoint may have several: they share a ``spread``, and each has a ``place`` in it.
    """

    def __init__(
        self,
        server_count: int,
        timers: LinkTimers,
        rng: Chance,
        *,
        now: float,
        spread: Spread | None = None,
        place: int = 0,
    ) -> None:
        assert server_count >= 1, "a link needs a server"
        self.state = LinkState.WAITING
        self._timers = timers
        self._server_count = server_count
        self._backoff = Backoff(timers, server_count, rng)
        self._rng = rng
        self._spread = Spread() if spread is None else spread
        self._place = place
        self._choosy_left = timers.choosy_max
        self._elsewhere: tuple[str, ...] = ()  # what the dial under way says
        self._commands: list[Command] = []
        self._server = place % server_count  # TUN-41
        self._number = 0  # of the last dial
        self._dial_deadline = _NEVER
        self._due = now
        self._at_once_from = now  # when the next goaway may be followed by a dial at once
        self._current: _Tunnel | None = None
        self._leaving: dict[int, _Tunnel] = {}
        self._stopped = False
        self._registered_once = False
        self._held_until: dict[int, float] = {}
        self._hopeless: set[int] = set()  # servers whose last answer will not change
        self._announced: dict[int, dict[str, None]] = {}  # by server, the oldest reason first

    # Drained by the owner.

    def outgoing(self) -> list[Command]:
        """What is to be done, in order."""
        commands, self._commands = self._commands, []
        return commands

    @property
    def finished(self) -> bool:
        """The link has ended and no tunnel is left: nothing will be asked any more."""
        return self.state in _FINAL and not self._leaving

    def reconfigure(self, timers: LinkTimers) -> None:
        """Other times for what begins from now on; what was begun ends when it was to."""
        self._timers = self._backoff.timers = timers

    @property
    def serving(self) -> bool:
        """Whether a node gives streams to a tunnel of this link."""
        return self._current is not None or any(old.moving for old in self._leaving.values())

    def snapshot(self) -> LinkSnapshot:
        """What the link is doing now."""
        return LinkSnapshot(
            state=self.state,
            current=self._current.number if self._current else None,
            leaving=tuple(t.number for t in self._leaving.values() if not t.closing),
            closing=tuple(t.number for t in self._leaving.values() if t.closing),
            failures=self._backoff.failures,
        )

    # What happened.

    def accepted(self, tunnel: int, *, node: str = "", now: float) -> None:
        """The dial of this number was answered with 101, by the node of this name if it has said that."""
        if not self._is_dialled(tunnel):  # TUN-21
            self._commands.append(Abort(tunnel))
            return
        self._step(LinkInput.ACCEPTED)
        current = self._current = _Tunnel(tunnel, now, node)
        self._spread.hold(self._place, node)
        self._registered_once = True
        self._announced.clear()
        self._hopeless.discard(self._server)
        self._commands.append(Serve(tunnel))
        self._announce(Change.REGISTERED)
        self._replace_others(now)
        if node and self._choosy_left and node in self._spread.others(self._place):
            self._choosy_left -= 1
            self._move(current, "another tunnel is at this node already", now)  # TUN-39

    def _replace_others(self, now: float) -> None:
        """There is another tunnel now, be it for a moment: those before it are not needed any more."""
        for old in list(self._leaving.values()):
            old.replaced = True
            if old.moving:  # TUN-40
                self._commands.append(Goaway(old.number))
                old.moving, old.idle, old.close_from = False, False, now + self._timers.linger_s
            elif old.idle and not old.closing and now >= old.close_from:  # TUN-28
                self._close(old, CLOSE_NORMAL, "moved to another tunnel", now)

    def refused(self, tunnel: int, refusal: Refusal, *, now: float) -> None:
        """The dial of this number was answered with another status."""
        if not self._is_dialled(tunnel):
            return
        if refusal.code == ELSEWHERE and self._elsewhere:
            self._choosy_left -= 1
            self._hopeless.discard(self._server)
            self._step(LinkInput.FAILED)
            self._wait(self._rng.uniform(0.0, self._timers.choosy_s), now)  # TUN-38
            return
        if refusal.retry_after_s is not None:  # TUN-25
            self._held_until[self._server] = now + min(refusal.retry_after_s, self._timers.retry_after_max_s)
        if self._is_hopeless(refusal):
            self._hopeless.add(self._server)
        else:
            self._hopeless.discard(self._server)
        reason = told(refusal)
        if len(self._hopeless) == self._server_count:  # TUN-26
            self._give_up(refusal, reason, now)
        else:
            self._retry(reason, now)

    def failed(self, tunnel: int, reason: str, *, now: float) -> None:
        """The dial of this number came to nothing."""
        if self._is_dialled(tunnel):
            self._retry(printable(reason), now)

    def goaway(self, tunnel: int, reason: str, *, now: float) -> None:
        """The node takes no new streams on this tunnel, or would like to be rid of it."""
        old = self._leaving.get(tunnel)
        if old is not None and reason != MOVE:
            # It was the link that wanted to move: until now the node gave this tunnel requests, however idle it was.
            old.moving = old.idle = False
        current = self._current
        if current is None or current.number != tunnel:
            return
        self._choosy_left = self._timers.choosy_max
        self._forgive_if_stable(current, now)
        if reason == MOVE:
            self._move(current, "the node has more than its share", now)  # TUN-40
            return
        self._step(LinkInput.GOAWAY)
        self._announce(Change.GOING_AWAY, printable(reason))
        self._leave(current)
        self._push_out(now)
        self._wait_after_goaway(now)

    def _move(self, current: _Tunnel, reason: str, now: float) -> None:
        """Look for another node while this one still serves."""
        current.moving = True
        self._step(LinkInput.GOAWAY)
        self._announce(Change.MOVING, reason)
        self._leave(current)
        self._push_out(now)
        self._wait_after_goaway(now)

    def _wait_after_goaway(self, now: float) -> None:
        if now >= self._at_once_from:  # TUN-24
            self._at_once_from = now + self._timers.stable_s
            self._wait(0.0, now)
        else:
            self._wait(self._backoff.failed(), now)

    def idle(self, tunnel: int, *, now: float) -> None:
        """A leaving tunnel has no stream any more, and nothing left to send."""
        old = self._leaving.get(tunnel)
        if old is None:
            return
        old.idle = True
        if now >= self._close_at(old):
            self._close_idle(old, now)

    def ended(self, tunnel: int, reason: str, *, now: float) -> None:
        """This tunnel is no more."""
        old = self._leaving.pop(tunnel, None)
        if old is not None:
            self._finish_if_empty()
            if self._current is None and not old.closing:
                self._begin_waits_anew(old, now)
            return
        current = self._current
        if current is None or current.number != tunnel:
            return
        self._step(LinkInput.ENDED)
        self._current = None
        self._spread.release(self._place)
        self._choosy_left = self._timers.choosy_max
        self._forgive_if_stable(current, now)
        self._announce(Change.LOST, printable(reason))
        self._wait(self._backoff.failed(), now)

    def _begin_waits_anew(self, old: _Tunnel, now: float) -> None:
        """Its node took its time to leave, and all that while no other was to be had: the next may be there at once."""
        forgiven = self._forgive_if_stable(old, now)
        if forgiven and self.state is LinkState.WAITING and self._due > now + self._timers.backoff_first_s:
            self._wait(self._backoff.failed(), now)  # TUN-23

    # What our side wants.

    def stop(self, *, now: float) -> None:
        """Finish what is in flight, then end; a second call ends at once."""
        if self._stopped:
            self._stop_at_once()
            return
        self._stopped = True
        if self.state is LinkState.GIVEN_UP:  # what is in flight has its grace period already
            return
        self._step(LinkInput.STOP)
        self._announce(Change.STOPPING)
        self._end_dial()
        if self._current is not None:
            self._leave(self._current)
        self._drain(now)
        self._finish_if_empty()

    def _stop_at_once(self) -> None:
        """TUN-32."""
        self._commands.extend(Abort(tunnel) for tunnel in self._leaving)
        self._leaving.clear()
        self._finish_if_empty()

    # Time.

    def next_timer(self) -> float | None:
        """When ``handle_timer`` wants to be called next; None when nothing is waited for."""
        at = self._due if self.state is LinkState.WAITING else self._dial_deadline
        for old in self._leaving.values():
            at = min(at, old.deadline, self._close_at(old))
        return None if at == _NEVER else at

    def handle_timer(self, *, now: float) -> None:
        """Do what has become due."""
        if self.state is LinkState.WAITING and now >= self._due:
            self._dial(now)
        elif now >= self._dial_deadline:  # TUN-21
            self._commands.append(Abort(self._number))
            self._retry(f"no answer in {self._timers.dial_s:g} s", now)
        for old in list(self._leaving.values()):
            self._handle_timer_of(old, now)
        self._finish_if_empty()

    def _handle_timer_of(self, old: _Tunnel, now: float) -> None:
        if now >= old.deadline and old.closing:  # TUN-31
            self._commands.append(Abort(old.number))
            del self._leaving[old.number]
        elif now >= old.deadline:  # TUN-31
            self._close(old, CLOSE_GOING_AWAY, "the grace period is over", now)
        elif now >= self._close_at(old):
            self._close_idle(old, now)

    def _close_at(self, old: _Tunnel) -> float:
        """When an idle tunnel may be closed."""
        if not old.idle or old.closing:
            return _NEVER
        return old.close_from if self.state in _ENDING or old.replaced else _NEVER

    def _close_idle(self, old: _Tunnel, now: float) -> None:
        if self.state in _ENDING:  # TUN-30
            self._close(old, CLOSE_GOING_AWAY, "the agent stops", now)
        else:  # TUN-28, TUN-40
            self._close(old, CLOSE_NORMAL, "moved to another tunnel", now)

    # Dialling and waiting.

    def _dial(self, now: float) -> None:
        self._step(LinkInput.DUE)
        self._number += 1
        self._dial_deadline = now + self._timers.dial_s
        self._elsewhere = self._nodes_to_avoid()
        self._commands.append(Dial(self._number, self._server, self._elsewhere))

    def _nodes_to_avoid(self) -> tuple[str, ...]:
        """TUN-37."""
        if not self._choosy_left:
            return ()
        moving = {old.node for old in self._leaving.values() if old.moving and old.node}
        return tuple(sorted(moving | self._spread.others(self._place)))

    def _is_dialled(self, tunnel: int) -> bool:
        """Whether this number is the dial under way; it is over then."""
        if self.state is not LinkState.DIALLING or tunnel != self._number:
            return False
        self._dial_deadline = _NEVER
        return True

    def _end_dial(self) -> None:
        if self._dial_deadline != _NEVER:
            self._dial_deadline = _NEVER
            self._commands.append(Abort(self._number))

    def _retry(self, reason: str, now: float) -> None:
        self._step(LinkInput.FAILED)
        self._dial_deadline = _NEVER
        server = self._server
        self._wait(self._backoff.failed(), now)
        known = self._announced.setdefault(server, {})
        if reason not in known:  # TUN-33
            if len(known) == REASONS_MAX:
                del known[next(iter(known))]
            known[reason] = None
            self._commands.append(Announce(Change.RETRYING, server, reason))

    def _wait(self, delay_s: float, now: float) -> None:
        """The next server in turn, after the delay; a held one is passed over while another is not held."""
        order = [(self._server + step) % self._server_count for step in range(1, self._server_count + 1)]
        held = self._held_until
        free = [server for server in order if held.get(server, now) <= now]
        self._server = free[0] if free else min(order, key=lambda server: held[server])  # TUN-19
        self._due = max(now, held.get(self._server, now)) + delay_s  # TUN-25

    def _forgive_if_stable(self, tunnel: _Tunnel, now: float) -> bool:
        stable = now - tunnel.opened_at >= self._timers.stable_s
        if stable:  # TUN-23
            self._backoff.reset()
        return stable

    def _is_hopeless(self, refusal: Refusal) -> bool:
        """TUN-26, TUN-27."""
        return refusal.status in HOPELESS_STATUSES and (refusal.by_node or not self._registered_once)

    def _give_up(self, refusal: Refusal, reason: str, now: float) -> None:
        self._step(LinkInput.HOPELESS)
        self._announce(Change.GIVEN_UP, reason)
        self._commands.append(GiveUp(self._server, reason))
        self._drain(now)

    # Tunnels that leave.

    def _leave(self, tunnel: _Tunnel) -> None:
        """The current tunnel is one no more."""
        self._current = None
        self._spread.release(self._place)
        self._leaving[tunnel.number] = tunnel

    def _push_out(self, now: float) -> None:
        finishing = [old for old in self._leaving.values() if not old.closing]
        if len(finishing) > self._timers.draining_max:  # TUN-29
            self._close(finishing[0], CLOSE_GOING_AWAY, "too many tunnels are leaving", now)

    def _close(self, old: _Tunnel, code: int, reason: str, now: float) -> None:
        closing = [other for other in self._leaving.values() if other.closing]
        if len(closing) > self._timers.draining_max:  # TUN-29
            self._commands.append(Abort(closing[0].number))
            del self._leaving[closing[0].number]
        old.closing = True
        old.deadline = now + self._timers.abort_s
        self._commands.append(Close(old.number, code, reason))

    def _drain(self, now: float) -> None:
        """The link ends: say so on every tunnel, and give what is in flight its grace period."""
        for old in self._leaving.values():
            if not old.closing:
                self._commands.append(Goaway(old.number))  # TUN-30
                old.moving = old.idle = False
                old.close_from = now + self._timers.linger_s
                old.deadline = now + self._timers.grace_period_s

    def _finish_if_empty(self) -> None:
        if self.state is LinkState.DRAINING and not self._leaving:
            self._step(LinkInput.EMPTIED)
            self._announce(Change.CLOSED)

    def _step(self, given: LinkInput) -> None:
        self.state = LINK[self.state][given]  # TUN-20

    def _announce(self, change: Change, reason: str = "") -> None:
        self._commands.append(Announce(change, self._server, reason))
