"""Telling changes at once: who has been told what, and who has said that it came (``spec/gossip.md``, Pushes).

Responsible for: when a change of this node is told and to whom, repeating it to those who do not answer, how many
packets may be on their way, and passing on what others push. Refuses to know: packets, addresses, and what is told.

Up to some thirty other nodes each is told directly, from the last version on that it has said to have. With more, the
names are divided into ranges, and one node of each range, chosen by chance, is told and tells the others of its range
in the same way: a tree that reaches everyone once, with answers and repeats on each of its edges. A repeat or two, and
then the rounds do the rest: a push is there for speed, not for certainty.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from pico.config import GossipTimers
from pico.protocol.gossip.table import EVERYBODY, NOBODY
from pico.protocol.gossip.values import Chance, Range

__all__ = ["GiveUp", "Pusher", "SendPush", "delegates"]


class SendPush(NamedTuple):
    """Tell the node what there is of the owner after ``start``, for it to tell on to the range."""

    node_id: str
    owner: str
    start: int
    range: Range
    sequence: int
    direct: bool = False
    """It is one of several to this node, each beginning where the one before ends."""


class GiveUp(NamedTuple):
    """The node has not answered: it may be reached by a stream."""

    node_id: str


Command = SendPush | GiveUp


SEQUENCES: Final = 1 << 32


@dataclass(slots=True)
class _Pending:
    """A push that was not answered yet."""

    push: SendPush
    due: float
    repeats: int = 0


@dataclass(slots=True)
class _Told:
    """What a node has of ours, as far as it has said, and how far it was told."""

    applied: int = 0
    upto: int = 0
    unanswered: int = 0  # packets
    early: list[int] = field(default_factory=list)
    """The sequences of those that came before what is to be applied first."""


def delegates(teller: str, names: Sequence[str], range_: Range, fanout: int, rng: Chance) -> list[tuple[str, Range]]:
    """For each part of the names, which are in order and lie in the range, one of them and the range that it is for.

    No part has the teller between its names, for it would be told its own words by whoever tells that part.
    """
    split = bisect_left(names, teller)
    before, after = names[:split], names[split:]
    parts = min(fanout, len(names))
    parts_before = max(min(1, len(before)), parts * len(before) // max(1, len(names)))
    parts_after = min(len(after), max(1, parts - parts_before))
    chosen = _choose(before, range_.above, before[-1] if before else "", parts_before, rng)
    return chosen + _choose(after, max(teller, range_.above), range_.upto, parts_after, rng)


def _choose(names: Sequence[str], above: str, last: str, parts: int, rng: Chance) -> list[tuple[str, Range]]:
    chosen = []
    for part in range(parts):
        chunk = names[len(names) * part // parts : len(names) * (part + 1) // parts]
        upto = last if part == parts - 1 else chunk[-1]
        delegate = chunk[rng.getrandbits(32) % len(chunk)]
        chosen.append((delegate, Range(above, upto) if len(chunk) > 1 else NOBODY))
        above = upto
    return chosen


class Pusher:
    """What this node tells unasked; one for all of its peers."""

    def __init__(self, node_id: str, life: int, timers: GossipTimers, rng: Chance, *, now: float) -> None:
        self._node_id = node_id
        self._life = life
        self._timers = timers
        self._rng = rng
        self._told: dict[str, _Told] = {}
        self._pending: dict[int, _Pending] = {}
        self._sequence = rng.getrandbits(32)
        self._due: float | None = None
        self._applied = 0  # our last version, when it was last looked at
        self._relayed = 0  # ... and that up to which a tree was told
        self._tokens = timers.packets_rate
        self._filled_at = now
        self._commands: list[Command] = []

    def commands(self) -> list[Command]:
        """What is to be sent, in order."""
        commands, self._commands = self._commands, []
        return commands

    # What happens.

    def changed(self, *, now: float) -> None:
        """This node has something new to say of itself; what else changes within a moment goes with it."""
        if self._due is None:
            self._due = now + self._timers.push_delay_s

    def life_began(self, life: int, *, now: float) -> None:
        """All is said anew, and nobody has any of it."""
        self._life = life
        self._told.clear()
        self._pending.clear()
        self._applied = self._relayed = 0
        self.changed(now=now)

    def forget(self, node_id: str) -> None:
        """The node is gone, or another process."""
        self._told.pop(node_id, None)
        for sequence, pending in list(self._pending.items()):
            if pending.push.node_id == node_id:
                del self._pending[sequence]

    def has_applied(self, node_id: str, applied: int) -> None:
        """A node that lives has said, in whatever message, how much it has of ours."""
        told = self._told.setdefault(node_id, _Told())
        if applied <= told.applied:
            return
        told.applied = applied
        told.upto = max(told.upto, applied)
        waiting, told.early = told.early, []
        for sequence in waiting:
            pending = self._pending.get(sequence)
            if pending is None:
                continue
            if pending.push.start <= told.applied:
                self._commands.append(pending.push)
            else:
                told.early.append(sequence)

    def answered(self, sequence: int, node_id: str, life: int, applied: int) -> None:
        """A push came to the node, which has so much now of that life of its owner; there may be more to tell.

        One that came before what is to be applied first is told again as soon as that has come.
        """
        pending = self._pending.get(sequence)
        if pending is None or pending.push.node_id != node_id:
            return
        if pending.push.owner == self._node_id and life == self._life:
            self.has_applied(node_id, applied)
            if pending.push.direct and applied < pending.push.start:
                self._told[node_id].early.append(sequence)
                return
        self.drop(sequence)
        if not pending.push.direct:
            return
        told = self._told[node_id]
        if told.unanswered or told.applied >= told.upto:
            self._go_on(node_id)
        else:
            told.upto = told.applied  # it would not have it: what comes next begins where it is, but not at once

    def drop(self, sequence: int) -> None:
        """No answer to the push is waited for any more."""
        pending = self._pending.pop(sequence, None)
        if pending is None or not pending.push.direct:
            return
        self._told[pending.push.node_id].unanswered -= 1

    def sent(self, push: SendPush, upto: int, *, now: float) -> None:
        """A push left that told up to a version; its answer is waited for."""
        self._tokens -= 1
        if push.sequence in self._pending:
            return  # again
        self._pending[push.sequence] = _Pending(push, now + self._timers.push_repeats_s[0])
        if push.direct:
            told = self._told.setdefault(push.node_id, _Told())
            told.upto = max(told.upto, upto)
            told.unanswered += 1
            self._go_on(push.node_id)
        elif push.owner == self._node_id and upto < self._relayed:
            self._relayed = upto  # the packet was full: the rest is told next
            self.changed(now=now)

    def relay(self, owner: str, start: int, range_: Range, names: Sequence[str]) -> None:
        """Tell on to a range, of which these are the names in order, what came of another node."""
        if self._tokens < 1:  # GOSSIP-68
            return
        for delegate, part in delegates(self._node_id, names, range_, self._timers.push_fanout, self._rng):
            self._push(delegate, owner, start, part)

    def acknowledged(self, names: Iterable[str]) -> int:
        """Up to which version each of these nodes has said that it has what this one says (GOSSIP-75)."""
        return min((told.applied if (told := self._told.get(name)) else 0 for name in names), default=0)

    # Time.

    def next_timer(self) -> float | None:
        """When ``handle_timer`` wants to be called."""
        dues = [pending.due for pending in self._pending.values()]
        return min(dues if self._due is None else [*dues, self._due], default=None)

    def handle_timer(self, names: Sequence[str], applied: int, *, now: float) -> None:
        """Tell what is new, up to version ``applied``, to those nodes, in order; repeat what was not answered."""
        self._fill(now)
        self._applied = applied
        for pending in list(self._pending.values()):
            if now >= pending.due:
                self._repeat(pending, now=now)
        if self._due is None or now < self._due:
            return
        if self._tokens < 1:
            # GOSSIP-68: the latest value of a key is what is told then.
            self._due = now + 4 * self._timers.push_delay_s
            return
        self._due = None
        if len(names) > self._timers.push_all_max:  # GOSSIP-67
            self._tell_tree(names)
        else:
            for node_id in names:
                self._tell(node_id)
            self._relayed = applied  # should there be more nodes the next time

    def _tell(self, node_id: str) -> None:
        """Tell one node what it does not have, unless enough is on its way to it."""
        told = self._told.setdefault(node_id, _Told())
        if told.upto < self._applied and told.unanswered < self._timers.push_window:
            self._push(node_id, self._node_id, told.upto, NOBODY, direct=True)

    def _tell_tree(self, names: Sequence[str]) -> None:
        if self._relayed < self._applied:
            self.relay(self._node_id, self._relayed, EVERYBODY, names)
            self._relayed = self._applied

    def _push(self, node_id: str, owner: str, start: int, range_: Range, *, direct: bool = False) -> None:
        self._sequence = (self._sequence + 1) % SEQUENCES
        self._commands.append(SendPush(node_id, owner, start, range_, self._sequence, direct))

    def _go_on(self, node_id: str) -> None:
        if self._tokens >= 1:
            self._tell(node_id)
        elif self._due is None:
            self._due = self._filled_at + 4 * self._timers.push_delay_s  # GOSSIP-68

    def _repeat(self, pending: _Pending, *, now: float) -> None:
        pending.repeats += 1
        if pending.repeats < len(self._timers.push_repeats_s):
            pending.due = now + self._timers.push_repeats_s[pending.repeats]
            self._commands.append(pending.push)
            return
        self.drop(pending.push.sequence)
        if pending.push.direct:
            told = self._told[pending.push.node_id]
            told.upto = told.applied  # what comes next begins where it is known to be
        self._commands.append(GiveUp(pending.push.node_id))

    def _fill(self, now: float) -> None:
        rate = self._timers.packets_rate
        self._tokens = min(rate, self._tokens + (now - self._filled_at) * rate)
        self._filled_at = now
