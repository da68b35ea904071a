"""What must hold in a simulated cluster: the safety of every step, and the agreement that follows trouble.

Responsible for: an oracle of what was really written, said and done, and one small class for each claim that is
compared with it after every event. Refuses to know: how an engine works, and what trouble there is.

What is exempt: the copy of a node that is gone may be dropped, and starts again at nothing; so does that of a node that
was forgotten. What two processes of one name say of themselves at once is held against each by its own life.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from pico.protocol.gossip import Packet, Rank, Record
from pico.protocol.gossip.events import Datagram, NodeChanged
from pico.protocol.gossip.state import NodeState
from pico.protocol.gossip.values import Ack, Delta, Digest, Entry, Push, Records, Snapshot
from pico.protocol.gossip.wire import encode_message
from tests.simulation.world import Process, World

ALL_ENTRIES_EVERY = 32
"""Events of a process after which it is looked at whole, and not only at what seems to have changed."""


class Said:
    """What one life of a node has said of itself."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.versions: dict[bytes, list[int]] = {}
        self.floor = 0
        self.inc = 0
        self.left = False

    def add(self, entry: Entry) -> None:
        assert entry.version == len(self.entries) + 1, "S9: a version was repeated or left out"
        self.entries.append(entry)
        self.versions.setdefault(entry.key, []).append(entry.version)

    def at(self, key: bytes, applied: int) -> Entry | None:
        """The last write of the key up to a version."""
        versions = self.versions[key]
        index = bisect_right(versions, applied)
        return self.entries[versions[index - 1] - 1] if index else None


class View(NamedTuple):
    """What one process knows of one other node, and what it knew before."""

    process: Process
    node_id: str
    record: Record
    state: NodeState
    verified: bool
    said: Said | None
    before: Before | None


class Before(NamedTuple):
    """Of a view, what the next one is compared with."""

    record: Record
    life: int
    applied: int
    floor: int
    size: int
    verified: bool
    versions: dict[bytes, int]


class Check:
    """One claim. Each method is called when there is something to look at."""

    def __init__(self, oracle: Checks) -> None:
        self.oracle = oracle

    def view(self, view: View) -> None:
        """Something is known of a node that was not, or all is looked at again."""

    def forgotten(self, process: Process, node_id: str, before: Before) -> None:
        """A node is not in the table any more."""

    def own(self, process: Process) -> None:
        """Something happened in the process."""

    def received(self, process: Process, packet: Packet) -> None:
        """A packet was read and all of it learned."""

    def sent(self, process: Process, datagrams: Sequence[Datagram], events: Sequence[object]) -> None:
        """What came of one event."""

    def judged(self, process: Process, node_id: str, rank: Rank) -> None:
        """The process is about to say something bad of a node."""


class S1Authority(Check):
    """Whatever is held was written by its owner, in that life and with that version."""

    def view(self, view: View) -> None:
        if view.state.entries:
            assert view.said is not None, "S1: entries of a life that nobody had"
            for entry in view.state.entries.values():
                assert entry.version <= len(view.said.entries), "S1: a version that was never given"
                assert entry == view.said.entries[entry.version - 1], "S1: not what its owner wrote"


class S2Monotone(Check):
    """A copy never goes back while it is there."""

    def view(self, view: View) -> None:
        before, state = view.before, view.state
        if before is None:
            return
        assert state.life >= before.life, "S2: a life went back"
        if state.life > before.life or view.record.gone or before.record.gone:
            return  # begun anew, or dropped
        assert state.applied >= before.applied and state.floor >= before.floor, "S2: a copy went back"
        for key, version in before.versions.items():
            entry = state.entries.get(key)
            assert entry is None or entry.version >= version, "S2: a key went back"


class S3Complete(Check):
    """Up to its version a copy has for each key the last write, unless that was a deletion that may be gone."""

    def view(self, view: View) -> None:
        said, state = view.said, view.state
        if said is None:
            assert not state.applied, "S3: a version of a life that nobody had"
            return
        assert state.applied <= len(said.entries), "S3: more than was ever written"
        for key, versions in said.versions.items():
            if versions[0] > state.applied or versions[-1] > state.applied:
                continue
            last = said.at(key, state.applied)
            assert last is not None
            held = state.entries.get(key)
            gone = last.value is None and last.version <= state.floor
            assert held == (None if gone else last), f"S3: {key!r} of {view.node_id} is {held}, not {last}"


class S4NoResurrection(Check):
    """Nothing lives on that was deleted up to the version of the copy."""

    def view(self, view: View) -> None:
        said, state = view.said, view.state
        for entry in state.entries.values() if said is not None else ():
            assert said is not None
            versions = said.versions.get(entry.key, [])
            if entry.value is None or not versions or versions[-1] > state.applied:
                continue
            last = said.entries[versions[-1] - 1]
            assert last.value is not None or entry.version >= last.version, "S4: a key came back"


class S5Floor(Check):
    """A floor is one that the owner gave, and never above the copy."""

    def view(self, view: View) -> None:
        assert view.state.floor <= view.state.applied, "S5: a floor above what is applied"
        if view.state.floor:
            assert view.said is not None and view.state.floor <= view.said.floor, "S5: a floor its owner never had"

    def own(self, process: Process) -> None:
        own = process.engine.table.own
        assert own.floor <= own.applied, "S5: an owner's floor above its last version"


class S6Lives(Check):
    """A copy is of the life that is known, and no two processes share one."""

    def view(self, view: View) -> None:
        assert view.state.life == view.record.life, "S6: a copy of another life than the record"

    def own(self, process: Process) -> None:
        owner = self.oracle.owners.setdefault((process.name, process.engine.table.own.life), process.number)
        assert owner == process.number, "S6: two processes of one life"


class S7Join(Check):
    """What is known of a node is at least all that was heard, and nothing that was neither said nor judged."""

    def received(self, process: Process, packet: Packet) -> None:
        table = process.engine.table
        if packet.sender == process.name:
            return  # our own words, or those of another process of our name: no evidence of anybody
        for node_id, record in evidence(packet):
            if node_id == process.name:
                right = table.contested or process.left or table.record >= record
                assert right, f"S7: {process.name} heard {record} of itself and says {table.record}"
                continue
            known = table.record_of(node_id)
            full = len(table.members()) >= self.oracle.world.limits.nodes_max
            assert full or (known is not None and known >= record), f"S7: {record} was heard, {known} is known"

    def view(self, view: View) -> None:
        record, before, said = view.record, view.before, view.said
        if before is not None:
            assert record >= before.record, "S7: a record went back"
        if said is not None:
            assert record.inc <= said.inc, "S7: an incarnation that its owner never had"
            assert said.left or not record.left, "S7: somebody was said to have left and had not"


class S8Bounds(Check):
    """A datagram has its limit, and what is read is what was written."""

    def sent(self, process: Process, datagrams: Sequence[Datagram], events: Sequence[object]) -> None:
        codec = self.oracle.codec_of(process)
        for datagram in datagrams:
            assert len(datagram.data) <= codec.packet_bytes_max, "S8: a datagram over the limit"
            packet = codec.decode(datagram.data)
            again = codec.encode(packet.life, [encode_message(message) for message in packet.messages])
            assert again == datagram.data, "S8: read otherwise than written"


class S9Self(Check):
    """Nobody else changes what a node says of itself, and its versions are never given twice."""

    def own(self, process: Process) -> None:
        own = process.engine.table.own
        if (own.life, own.applied) != self.oracle.last_own.get(process.number):
            self.oracle.last_own[process.number] = own.life, own.applied
            assert own.live() == process.written, f"S9: {process.name} says what it was not told to"


class S10Isolation(Check):
    """What is spoiled or foreign changes nothing: see ``Checks.spoiled``, which every such packet comes to."""


class S11Graveyard(Check):
    """Who was forgotten is remembered for what it was, and comes back only with more."""

    def forgotten(self, process: Process, node_id: str, before: Before) -> None:
        known = process.engine.table.record_of(node_id)
        assert known is not None and known.gone and known >= before.record, "S11: forgotten without a memory"
        self.oracle.buried[process.number, node_id] = known

    def view(self, view: View) -> None:
        grave = self.oracle.buried.get((view.process.number, view.node_id))
        assert grave is None or view.record > grave, "S11: back from the dead with nothing new"


class S12Verified(Check):
    """A node is verified only when it has spoken itself in that life, to this process or to a helper."""

    def view(self, view: View) -> None:
        if view.verified:
            heard = self.oracle.heard_of.get(view.process.number, set())
            assert (view.node_id, view.record.life) in heard, "S12: verified by hearsay"
            assert view.node_id != view.process.name, "S12: a node in its own table"


class S13Bounded(Check):
    """One event causes so much and no more, and what is kept has bounds."""

    def sent(self, process: Process, datagrams: Sequence[Datagram], events: Sequence[object]) -> None:
        others = len(process.engine.table.members())
        changes = len({event.node_id for event in events if isinstance(event, NodeChanged)})
        limits, timers = self.oracle.world.limits, self.oracle.world.timers
        most = limits.answer_packets_max + timers.push_fanout * 8 + (others + 4) * (2 + changes)
        assert len(datagrams) <= most + timers.push_window * others, f"S13: {len(datagrams)} datagrams of one event"

    def own(self, process: Process) -> None:
        engine, limits = process.engine, self.oracle.world.limits
        table = engine.table
        assert table._lives_taken <= limits.lives_max, "S13: lives without end"
        known = len(table.members()) + 1
        # Under a thousand nodes everything that is kept of others is kept of those in the table.
        for name in ("_told", "_exchanged_at", "_records"):
            kept = getattr(engine, name)
            assert len(kept) <= known, f"S13: {name} of {len(kept)} nodes, {known} are known"
        assert len(engine._rumours) <= known + len(table._memory), "S13: rumours of nobody"
        assert len(engine._search.absent) <= limits.memory_nodes_max, "S13: too many are waited for"
        assert len(engine._pusher._told) <= known, "S13: pushes to nobody"


class S17LocalPause(Check):
    """A process that did not run blames nobody for what it did not hear."""

    def judged(self, process: Process, node_id: str, rank: Rank) -> None:
        quiet_s = self.oracle.world.clock(process) - process.resumed_at
        assert quiet_s >= self.oracle.world.timers.probe_s - 1e-6, f"S17: a verdict {quiet_s:.3f} s after a pause"


SAFETY: tuple[type[Check], ...] = (
    S1Authority,
    S2Monotone,
    S3Complete,
    S4NoResurrection,
    S5Floor,
    S6Lives,
    S7Join,
    S8Bounds,
    S9Self,
    S10Isolation,
    S11Graveyard,
    S12Verified,
    S13Bounded,
    S17LocalPause,
)


def evidence(packet: Packet) -> Iterator[tuple[str, Record]]:
    """Every record that a packet speaks of as known."""
    yield packet.sender, Record(packet.life)
    for message in packet.messages:
        if isinstance(message, Records):
            yield from message.records
        elif isinstance(message, Digest):
            yield from ((entry.node_id, entry.record) for entry in message.entries if not entry.hearsay)
        elif isinstance(message, Push):
            yield message.delta.node_id, Record(message.delta.life)
        elif isinstance(message, (Delta, Snapshot)):
            yield message.node_id, Record(message.life)


class Checks:
    """The oracle, and all the claims that are held against it."""

    def __init__(self, claims: Iterable[type[Check]] = SAFETY) -> None:
        self.world: World
        self.said: dict[tuple[str, int], Said] = {}
        self.owners: dict[tuple[str, int], int] = {}
        self.last_own: dict[int, tuple[int, int]] = {}
        self.buried: dict[tuple[int, str], Record] = {}
        self.heard_of: dict[int, set[tuple[str, int]]] = {}
        """Who has spoken to each process, in which life."""
        self.events = 0
        self._before: dict[int, dict[str, Before]] = {}
        self._looked: dict[int, int] = {}
        made = [claim(self) for claim in claims]
        self._claims = {
            method: [claim for claim in made if getattr(type(claim), method) is not getattr(Check, method)]
            for method in ("view", "forgotten", "own", "received", "sent", "judged")
        }

    # What happened.

    def started(self, process: Process) -> None:
        self.heard_of[process.number] = set()
        self._before[process.number] = {}
        self._note(process)

    def wrote(self, process: Process) -> None:
        self._note(process)

    def received(self, process: Process, packet: Packet) -> None:
        heard = self.heard_of[process.number]
        if packet.sender != process.name:
            heard.add((packet.sender, packet.life))
        for message in packet.messages:
            if isinstance(message, Ack):
                heard.add((message.node_id, message.life))
        for claim in self._claims["received"]:
            claim.received(process, packet)

    def heard(self, process: Process, bodies: Sequence[bytes]) -> None:
        """The same over a stream."""
        codec = self.codec_of(process)
        packets = [codec.decode_body(body) for body in bodies]
        for packet in packets:
            self.received(process, packet)

    def judged(self, process: Process, node_id: str, rank: Rank) -> None:
        for claim in self._claims["judged"]:
            claim.judged(process, node_id, rank)

    def fingerprint(self, process: Process) -> object:
        """All that a packet could change in the table."""
        table = process.engine.table
        states = [(name, record, *_numbers(table.state_of(name))) for name, record in sorted(table.members().items())]
        return table.record, _numbers(table.own), states, len(table._memory)

    def spoiled(self, process: Process, before: object) -> None:
        assert self.fingerprint(process) == before, "S10: something was made of what nobody said"

    def after_event(self, process: Process, datagrams: Sequence[Datagram], events: Sequence[object]) -> None:
        self.events += 1
        self._note(process)
        for claim in self._claims["own"]:
            claim.own(process)
        self._look(process)
        for claim in self._claims["sent"]:
            claim.sent(process, datagrams, events)

    # The oracle.

    @staticmethod
    def codec_of(process: Process):  # type: ignore[no-untyped-def]
        return process.engine._codec

    def _note(self, process: Process) -> None:
        table = process.engine.table
        own, record = table.own, table.record
        said = self.said.get((process.name, own.life))
        if said is None:
            said = self.said[process.name, own.life] = Said()
        if own.applied != len(said.entries):
            for entry in own.after(len(said.entries)):
                said.add(entry)
            assert own.applied == len(said.entries), "S9: a write without an entry"
        said.floor, said.inc, said.left = own.floor, max(said.inc, record.inc), said.left or record.left

    def _look(self, process: Process) -> None:
        """At what seems to have changed, now and then at everything."""
        table = process.engine.table
        looked = self._looked[process.number] = self._looked.get(process.number, 0) + 1
        whole = looked % ALL_ENTRIES_EVERY == 0
        known, members = self._before[process.number], table.members()
        claims = self._claims["view"]
        for node_id, record in members.items():
            state, before = table.state_of(node_id), known.get(node_id)
            assert state is not None
            now = (record, *_numbers(state), table.verified(node_id))
            if before is not None and now == before[:-1] and not whole:
                continue
            view = View(process, node_id, record, state, now[-1], self.said.get((node_id, record.life)), before)
            for claim in claims:
                claim.view(view)
            versions = {key: entry.version for key, entry in state.entries.items()}
            known[node_id] = Before(*now, versions)
        for node_id in [name for name in known if name not in members]:
            before = known.pop(node_id)
            for claim in self._claims["forgotten"]:
                claim.forgotten(process, node_id, before)


def _numbers(state: NodeState | None) -> tuple[int, int, int, int]:
    assert state is not None
    return state.life, state.applied, state.floor, len(state.entries)


# Liveness: what must be so some time after the trouble has ended.


def differences(world: World) -> Iterator[str]:
    """Why the living do not agree: on who lives, that all of it is first hand, and on all that each of them says."""
    processes = [process for process in world.up() if not process.left]
    names = {process.name: process for process in processes}
    for process in processes:
        table = process.engine.table
        present = {name for name, record in table.members().items() if not record.gone} | {process.name}
        if present != names.keys():
            yield f"{process.name}: lacks {sorted(names.keys() - present)}, has {sorted(present - names.keys())}"
            continue
        for name, owner in names.items():
            record, own, state = table.record_of(name), owner.engine.table.own, table.state_of(name)
            assert record is not None and state is not None
            if name == process.name:
                continue
            if record != owner.engine.table.record:
                yield f"{process.name}: {name} is {record}, and says {owner.engine.table.record}"
            elif not table.verified(name):
                yield f"{process.name}: knows {name} only from others"
            elif state.applied != own.applied or state.live() != own.live():
                yield f"{process.name}: has {state.applied} of {own.applied} of {name}"


def agree(world: World) -> bool:
    return next(differences(world), None) is None


def knows(process: Process, name: str, key: bytes) -> bytes | None:
    """The value of another's key, as the process has it."""
    table = process.engine.table
    state, record = table.state_of(name), table.record_of(name)
    if state is None or record is None or (record.gone and name != process.name):
        return None
    entry = state.entries.get(key)
    return None if entry is None else entry.value


def routable(process: Process, name: str) -> bool:
    """Whether the process would send requests to the node while others have the endpoint, too."""
    engine = process.engine
    record = engine.table.members().get(name)
    if record is None or record.gone or record.rank is not Rank.ALIVE:
        return False
    return engine.table.verified(name) and engine.detector.answers(name)
