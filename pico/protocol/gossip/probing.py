"""Who answers: probes, suspicion and verdicts (SWIM with Lifeguard; ``spec/gossip.md``, Probing).

Responsible for: whom to ask when, what to do when no answer comes, when a suspect is dead, and how far this node may
trust itself. Refuses to know: addresses, packets, and what else is said of a node; verdicts are handed out, and what
became of them is handed in again by ``update``.

Each round asks one node. Without an answer in time others are asked to try, and a stream is tried beside them; without
any answer by the end of the round the node is suspected. A suspect has time to hear of it and to contradict: the more
witnesses, the less time. Whoever gets no answers from anybody is itself in trouble more likely than all the others:
its *health* slows it down, and a process that did not run at all for a while blames nobody for that.

Sources: Das, Gupta, Motivala, "SWIM" (DSN 2002); Dadgar, Phillips, Currey, "Lifeguard" (arXiv 1707.00788).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import log, log10
from typing import Final, NamedTuple

from pico.config import GossipTimers
from pico.protocol.gossip.values import Chance, Rank, Record

__all__ = ["AskDirectly", "AskHelpers", "AskOverStream", "Command", "FailureDetector", "Verdict", "suspicion_s"]

FEW_NODES: Final = 4
"""With fewer there are no two further witnesses to wait for."""

SEQUENCES: Final = 1 << 32

SMOOTHING: Final = 0.2
"""The weight of a new round-trip time in the running mean."""

PROBE_BURST_S: Final = 0.05
"""So much of ``probe_rate`` may go out of turn at once."""

ROUNDING: Final = 1e-6
"""A timer that is due may find a hair less than what it was set for."""


class AskDirectly(NamedTuple):
    """Send a ping to the node."""

    node_id: str
    sequence: int


class AskHelpers(NamedTuple):
    """Have others ping the node."""

    node_id: str
    sequence: int
    helpers: tuple[str, ...]


class AskOverStream(NamedTuple):
    """Make an exchange with the node over a stream; its success answers the probe."""

    node_id: str
    sequence: int


class Verdict(NamedTuple):
    """Say of the process of that record that it is of this rank."""

    node_id: str
    judged: Record
    rank: Rank


Command = AskDirectly | AskHelpers | AskOverStream | Verdict


@dataclass(slots=True)
class _Probe:
    node_id: str
    judged: Record
    sent_at: float
    direct_until: float
    until: float
    asked_others: bool = False
    nacks_missing: int = 0


@dataclass(slots=True)
class _Suspicion:
    record: Record
    began_at: float
    witnesses: set[str] = field(default_factory=set)


def suspicion_s(timers: GossipTimers, nodes: int, confirmations: int) -> float:
    """How long a suspect has, with so many nodes in the cluster and so many witnesses besides the first (GOSSIP-64)."""
    shortest = timers.suspicion_factor * max(1.0, log10(nodes)) * timers.probe_s
    wanted = timers.suspicion_confirmations
    if nodes < FEW_NODES or confirmations >= wanted:
        return shortest
    longest = shortest * timers.suspicion_stretch
    return longest - (longest - shortest) * log(confirmations + 1) / log(wanted + 1)


def _expires_at(suspicion: _Suspicion, patience_s: Sequence[float]) -> float:
    others = max(0, len(suspicion.witnesses) - 1)
    return suspicion.began_at + patience_s[min(others, len(patience_s) - 1)]


class FailureDetector:
    """Asks the nodes that it is told of, one after the other."""

    def __init__(self, node_id: str, timers: GossipTimers, rng: Chance, *, now: float) -> None:
        self.node_id = node_id
        self.health = 0
        """0 is good; each step makes this node slower to judge."""
        self._timers = timers
        self._rng = rng
        self._records: dict[str, Record] = {}
        self._ring: list[str] = []
        self._turn = 0
        self._sequence = rng.getrandbits(32)
        self._probes: dict[int, _Probe] = {}
        self._probed: dict[str, int] = {}  # the sequence of the probe that is under way
        self._waiting: dict[str, None] = {}  # for a probe out of turn, the longest first
        self._tokens = max(1.0, PROBE_BURST_S * timers.probe_rate)  # for such probes
        self._filled_at = now
        self._suspicions: dict[str, _Suspicion] = {}
        self._unanswering: dict[str, bool] = {}  # who did not answer the last probe; True: asked again out of turn
        self._round_trips_s: dict[str, float] = {}
        self._next_round = now + timers.probe_s * rng.random()
        self._quiet_until = now
        self._commands: list[Command] = []

    def commands(self) -> list[Command]:
        """What is to be done, in order."""
        commands, self._commands = self._commands, []
        return commands

    # Who there is.

    def update(self, node_id: str, record: Record | None, *, now: float) -> None:
        """What is known of a node now; None, or gone: it is asked no more."""
        if record is None or record.gone:
            self._forget(node_id)
            return
        if node_id not in self._records:
            at = self._rng.getrandbits(32) % (len(self._ring) + 1)
            self._ring.insert(at, node_id)
            self._turn += at < self._turn
        self._records[node_id] = record
        suspicion = self._suspicions.get(node_id)
        if record.rank is not Rank.SUSPECT:
            self._suspicions.pop(node_id, None)
        elif suspicion is None or suspicion.record != record:
            self._suspicions[node_id] = _Suspicion(record, now)
        self._ask_again(node_id, now=now)

    def _ask_again(self, node_id: str, *, now: float) -> None:
        """Who did not answer and is alive all the same is not to wait for its turn (GOSSIP-78).

        Where many do not answer in time, there is no good in asking even more.
        """
        alive = self._records[node_id].rank is Rank.ALIVE
        if alive and not self.health and self._unanswering.get(node_id) is False and node_id not in self._probed:
            self._unanswering[node_id] = True
            self.probe_soon(node_id, now=now)

    def confirm(self, node_id: str, record: Record, witness: str) -> bool:
        """Somebody had no answer either; whether that was not known."""
        suspicion = self._suspicions.get(node_id)
        if suspicion is None or suspicion.record != record or witness in suspicion.witnesses:
            return False
        suspicion.witnesses.add(witness)
        return True

    def witnessed(self, node_id: str) -> bool:
        """Whether this node itself had no answer from the suspect."""
        suspicion = self._suspicions.get(node_id)
        return suspicion is not None and self.node_id in suspicion.witnesses

    def answers(self, node_id: str) -> bool:
        """Whether the last probe of the node was answered, or is still under way."""
        return node_id not in self._unanswering

    def round_trip_s(self, node_id: str) -> float | None:
        """The running mean of the time to a direct answer."""
        return self._round_trips_s.get(node_id)

    def _forget(self, node_id: str) -> None:
        if self._records.pop(node_id, None) is None:
            return
        at = self._ring.index(node_id)
        del self._ring[at]
        self._turn -= at < self._turn  # GOSSIP-65
        self._waiting.pop(node_id, None)
        self._suspicions.pop(node_id, None)
        self._unanswering.pop(node_id, None)
        self._round_trips_s.pop(node_id, None)
        self._probes.pop(self._probed.pop(node_id, -1), None)
        if not self._ring:
            self.health = 0  # there is nobody left by whom it could get better

    # Asking.

    def probe_soon(self, node_id: str, *, now: float) -> None:
        """Ask a node out of its turn, as soon as ``probe_rate`` allows it (GOSSIP-74)."""
        if node_id in self._records and node_id not in self._probed:
            self._waiting[node_id] = None
            self._probe_waiting(now=now)

    def _probe_waiting(self, *, now: float) -> None:
        rate = self._timers.probe_rate
        self._tokens = min(max(1.0, PROBE_BURST_S * rate), self._tokens + (now - self._filled_at) * rate)
        self._filled_at = now
        while self._waiting and self._tokens > 1 - ROUNDING:
            node_id = next(iter(self._waiting))
            del self._waiting[node_id]
            self._tokens -= 1
            self.probe(node_id, now=now)

    def probe(self, node_id: str, *, now: float) -> None:
        """Ask a node now, out of its turn; nothing when it is being asked."""
        self._waiting.pop(node_id, None)
        judged = self._records.get(node_id)
        if judged is None or node_id in self._probed:
            return
        self._sequence = (self._sequence + 1) % SEQUENCES
        direct_s = max(self._timers.probe_timeout_s, 4 * self._round_trips_s.get(node_id, 0.0)) * (1 + self.health)
        until = now + max(self._round_s(), 2 * direct_s)
        self._probes[self._sequence] = _Probe(node_id, judged, now, now + direct_s, until)
        self._probed[node_id] = self._sequence
        self._commands.append(AskDirectly(node_id, self._sequence))

    def answered(self, sequence: int, node_id: str, *, now: float) -> bool:
        """An answer of the node came, by whatever way; whether it was still waited for."""
        probe = self._probes.get(sequence)
        if probe is None or probe.node_id != node_id:  # GOSSIP-58
            return False
        del self._probes[sequence], self._probed[node_id]
        self._unanswering.pop(node_id, None)
        if not probe.asked_others:
            self._note_round_trip(node_id, now - probe.sent_at)
        self.health = max(0, self.health - 1)  # GOSSIP-73
        for other in list(self._unanswering):
            self._ask_again(other, now=now)
        return True

    def helper_answered(self, sequence: int) -> None:
        """A helper had no answer either: it at least is there, and so is the network between us."""
        probe = self._probes.get(sequence)
        if probe is not None and probe.nacks_missing:
            probe.nacks_missing -= 1

    def could_not_send(self, node_id: str, *, now: float) -> None:
        """The ping did not leave: there is no use in waiting for its answer (GOSSIP-59)."""
        probe = self._probes.get(self._probed.get(node_id, -1))
        if probe is not None:
            probe.direct_until = min(probe.direct_until, now)

    def could_not_ask(self, sequence: int) -> None:
        """Not even others can ask the node, for nobody knows where it is: that says nothing about this one."""
        probe = self._probes.get(sequence)
        if probe is not None:
            probe.nacks_missing = 0

    def accused(self) -> None:
        """This node was suspected and had to contradict: perhaps it is slow."""
        self._worsen(1)

    def _note_round_trip(self, node_id: str, seconds: float) -> None:
        known = self._round_trips_s.get(node_id, seconds)
        self._round_trips_s[node_id] = known + SMOOTHING * (seconds - known)

    # Time.

    def next_timer(self) -> float:
        """When ``handle_timer`` wants to be called."""
        dues = [probe.until if probe.asked_others else probe.direct_until for probe in self._probes.values()]
        if self._suspicions:
            patience_s = self._patience_s()
            first = min(_expires_at(suspicion, patience_s) for suspicion in self._suspicions.values())
            dues.append(max(first, self._quiet_until))
        if self._waiting:
            dues.append(self._filled_at + (1 - self._tokens) / self._timers.probe_rate)
        return min([self._next_round, *dues])

    def handle_timer(self, *, now: float) -> None:
        """Begin a round, ask helpers, suspect and judge, when it is time."""
        for sequence, probe in list(self._probes.items()):
            if not probe.asked_others and now >= probe.direct_until:
                self._ask_others(sequence, probe)
            if probe.asked_others and now >= probe.until:
                self._no_answer(sequence, probe, now=now)
        if self._suspicions and now >= self._quiet_until:
            patience_s = self._patience_s()
            for node_id, suspicion in list(self._suspicions.items()):
                if now >= _expires_at(suspicion, patience_s):
                    del self._suspicions[node_id]
                    self._commands.append(Verdict(node_id, suspicion.record, Rank.DEAD))  # GOSSIP-64
        self._probe_waiting(now=now)
        if now >= self._next_round:
            self._next_round = now + self._round_s()
            self._probe_next(now=now)

    def paused(self, gap_s: float, *, now: float) -> None:
        """This process did not run: what it did not hear meanwhile says nothing about the others (GOSSIP-63)."""
        self._probes.clear()
        self._probed.clear()
        self._filled_at = now
        for suspicion in self._suspicions.values():
            suspicion.began_at += gap_s
        self._quiet_until = now + self._timers.probe_s
        self._next_round = max(self._next_round, now)
        self._worsen(2)

    def _round_s(self) -> float:
        return self._timers.probe_s * (1 + self.health)

    def _patience_s(self) -> list[float]:
        """How long a suspect has, by the number of witnesses besides the first; the last is for all who have more."""
        stretch = 1 + self.health if self._alone() else 1
        wanted = range(self._timers.suspicion_confirmations + 1)
        return [suspicion_s(self._timers, len(self._ring) + 1, others) * stretch for others in wanted]

    def _alone(self) -> bool:
        """Nobody answers: whoever is cut off from all of them had better wait."""
        return len(self._ring) > 1 and len(self._unanswering) == len(self._ring)

    def _probe_next(self, *, now: float) -> None:
        """The next in the ring that is not being asked already; a new order after each time around."""
        for _ in range(len(self._ring)):
            if self._turn >= len(self._ring):
                self._turn = 0
                self._rng.shuffle(self._ring)
            node_id = self._ring[self._turn]
            self._turn += 1
            if node_id not in self._probed:
                self.probe(node_id, now=now)
                return

    def _ask_others(self, sequence: int, probe: _Probe) -> None:
        probe.asked_others = True  # GOSSIP-61
        helpers = self._helpers(probe.node_id)
        probe.nacks_missing = len(helpers) or 1
        if helpers:
            self._commands.append(AskHelpers(probe.node_id, sequence, helpers))
        self._commands.append(AskOverStream(probe.node_id, sequence))

    def _helpers(self, node_id: str) -> tuple[str, ...]:
        """Others that are well, so many as there are up to the number that is wanted: never none by chance."""
        well = [
            other
            for other, record in self._records.items()
            if other != node_id and record.rank is Rank.ALIVE and self.answers(other)
        ]
        return tuple(self._rng.sample(well, min(self._timers.probe_helpers, len(well))))

    def _no_answer(self, sequence: int, probe: _Probe, *, now: float) -> None:
        del self._probes[sequence]
        del self._probed[probe.node_id]
        self._unanswering.setdefault(probe.node_id, False)
        # A helper that did not even say that it failed is a sign that it is we who are not heard (GOSSIP-73).
        self._worsen(probe.nacks_missing)
        self._commands.append(Verdict(probe.node_id, probe.judged, Rank.SUSPECT))
        if self._records[probe.node_id] != probe.judged:  # it has contradicted meanwhile, or is another process
            self._ask_again(probe.node_id, now=now)

    def _worsen(self, steps: int) -> None:
        self.health = min(self._timers.health_max, self.health + steps)
