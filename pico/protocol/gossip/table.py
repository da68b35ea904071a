"""One node's view of the cluster: its own state, a record and a replica of every other node, and the dead.

Responsible for: what a packet changes here and what is answered to it, digests, defending what this node says of itself
against what others say of it, and forgetting the dead. Refuses to know: when to speak and to whom, who is alive (a
verdict is handed in), and how packets travel.

Everything that arrives is evidence: a record of some node. Evidence is learned in one place, ``_learn``, where records
merge by ``max``; so the table is the join of all that was heard, whatever the order. Who says less than what is known
here is told what is known: that is how the wrongly accused hear of it and can answer.

What others say of a node is *hearsay* until the node itself has spoken in that life. Hearsay is probed; it is not told
on and carries no request. So a ghost cannot go around, however many have heard of it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from math import inf
from typing import Final, NamedTuple

from pico.config import GossipLimits
from pico.errors import ConfigError
from pico.protocol.gossip.memory import Memory
from pico.protocol.gossip.packets import Packet, PacketBuilder, PacketCodec
from pico.protocol.gossip.state import Applied, NodeState, OwnState, Replica, cut
from pico.protocol.gossip.values import (
    INC_MAX,
    LIFE_MAX,
    Address,
    Chance,
    Delta,
    Digest,
    DigestEntry,
    Entry,
    Push,
    Range,
    Rank,
    Record,
    Records,
    Snapshot,
    Summary,
    next_life,
)
from pico.protocol.gossip.wire import (
    MessageType,
    delta_head_bytes,
    digest_entry_bytes,
    encode_delta,
    encode_digest,
    encode_digest_entry,
    encode_records,
    encode_snapshot,
    encode_summary_part,
    snapshot_head_bytes,
)

__all__ = ["EVERYBODY", "NOBODY", "Change", "GossipTable", "Reply"]

RANGE_BYTES_MAX: Final = 2 * 65
"""The two names at the head of a digest."""

EVERYBODY: Final = Range()
NOBODY: Final = Range("0", "0")
"""A range that holds no name."""

DIGEST_NODES_MAX: Final = 24
"""Nodes in a range of which a digest is told at once; of more, the hashes of smaller ranges."""

SUMMARY_RANGES_MAX: Final = 128
"""Of one packet that are compared; of the default size it has no more."""

SUMMARY_PARTS: Final = 16
"""Into which a range is divided that differs; with the longest names they fill three packets, usually half of one."""

PULL_PAUSE_S: Final = 0.05
"""Between two questions for what is missing before deltas that came: as long as an answer with all of it may take."""

HASHES: Final = 1 << 64


class _Member:
    """Another node."""

    __slots__ = ("_hash", "_hash_of", "gone_since", "pulled_at", "record", "replica", "source", "verified")

    def __init__(self, record: Record) -> None:
        self.record = record
        self.replica = Replica(record.life)
        self.gone_since = 0.0  # of a record that is gone
        self.pulled_at = -inf
        self.verified = False  # it has spoken itself, in this life
        self.source: Address | None = None  # from where it spoke last
        self._hash_of: tuple[Record, int] | None = None
        self._hash = 0

    def hash_as(self, node_id: str) -> int:
        """The hash of what a digest says of it, hearsay or not, computed once for each change."""
        known = self.record, self.replica.applied
        if known != self._hash_of:
            self._hash_of, self._hash = known, _hash(DigestEntry(node_id, *known))
        return self._hash


class Change(NamedTuple):
    """Something else is known of a node."""

    node_id: str
    entries: tuple[Entry, ...] | None
    """What was added to its copy; None: look at all of it, and at its record."""


@dataclass(slots=True)
class Reply:
    """What one packet asks for, gathered before it is written."""

    records: dict[str, Record] = field(default_factory=dict)
    claims: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Life and version that the sender has applied of a node."""
    wants: set[str] = field(default_factory=set)
    """Nodes, or lives of them, that were not known before."""
    digests: list[Range] = field(default_factory=list)
    summaries: list[Range] = field(default_factory=list)
    """Ranges in which what is known differs, with few nodes and with many."""
    agreed: list[Range] = field(default_factory=list)
    """Ranges in which the sender knows exactly what is known here."""


class GossipTable:
    """The pure part of a member of the cluster. Time and chance are arguments."""

    def __init__(self, codec: PacketCodec, life: int, limits: GossipLimits, rng: Chance) -> None:
        if not 0 < limits.dead_state_s <= limits.dead_record_s:  # GOSSIP-33
            raise ConfigError("dead_state_s", limits.dead_state_s, f"above 0, at most {limits.dead_record_s}")
        self.node_id = codec.node_id
        self.own = OwnState(life, limits)
        self._inc = 0
        self._left = False
        self._codec = codec
        self._limits = limits
        self._rng = rng
        self._members: dict[str, _Member] = {}
        self._names = [self.node_id]  # of this node and the others in the table, in order
        self._due: float | None = None  # when there is something of the dead in the table to forget
        self._due_known = True  # ... computed anew only when another is dead, or less so
        self._changes: list[Change] = []
        self._reply = Reply()  # to the packet that is being read
        self._memory = Memory(limits)
        self._lives_taken = 0
        self.nodes_refused = 0
        """How often a node was heard of for which there is no room (GOSSIP-48)."""
        self.unknown_messages = 0
        """Messages of a kind that this version does not know, in packets that were for it."""
        self.gives_way = False
        """This process is about to leave: another one of its name is its successor (GOSSIP-79)."""
        self.contested = False
        """Another process has the same node ID, and will not give way: this one must stop."""

    # What is known.

    @property
    def record(self) -> Record:
        """What this node says of itself."""
        return Record(self.own.life, self._left, self._inc)

    def record_of(self, node_id: str) -> Record | None:
        """What is known of a node, be it in the table or among the dead."""
        if node_id == self.node_id:
            return self.record
        member = self._members.get(node_id)
        return self._memory.recall(node_id) if member is None else member.record

    def state_of(self, node_id: str) -> NodeState | None:
        """The copy of what a node says; None for one that is not in the table."""
        if node_id == self.node_id:
            return self.own
        member = self._members.get(node_id)
        return None if member is None else member.replica

    def member(self, node_id: str) -> Record | None:
        """What is known of another node in the table."""
        member = self._members.get(node_id)
        return None if member is None else member.record

    def members(self) -> dict[str, Record]:
        """The other nodes in the table."""
        return {node_id: member.record for node_id, member in self._members.items()}

    def verified(self, node_id: str) -> bool:
        """Whether the node in the table has spoken itself, in the life that is known of it (GOSSIP-53)."""
        member = self._members.get(node_id)
        return member is not None and member.verified

    def source_of(self, node_id: str) -> Address | None:
        """From where the node spoke last."""
        member = self._members.get(node_id)
        return None if member is None else member.source

    def changes(self) -> list[Change]:
        """What has changed since the last call, in order."""
        changes, self._changes = self._changes, []
        return changes

    # What is said unasked.

    def summary(self, range_: Range = EVERYBODY) -> int:
        """A hash of what a digest of the range would say of the nodes that are not gone (GOSSIP-54)."""
        total = 0
        for node_id in self._names_in(range_):
            member = self._members.get(node_id)
            if not (self.record if member is None else member.record).gone:
                total += _hash(self._digest_entry(node_id)) if member is None else member.hash_as(node_id)
        return total % HASHES

    def digest_bodies(self, bytes_max: int) -> list[bytes]:
        """All that is known of everybody, in bodies for a stream. Each is a digest by itself."""
        builder = self.builder(packets_max=len(self._members) + 1, stream_bytes_max=bytes_max)
        self._tell_digest(EVERYBODY, builder)
        return builder.packets()

    def builder(self, packets_max: int, *, stream_bytes_max: int = 0) -> PacketBuilder:
        """For packets that this node sends: of datagrams, or bodies of so many bytes for a stream."""
        return PacketBuilder(self._codec, self.own.life, packets_max, stream_bytes_max=stream_bytes_max)

    def _tell_digest(self, range_: Range, builder: PacketBuilder) -> None:
        waiting = [self._digest_entry(node_id) for node_id in self._names_in(range_)]
        above, last = range_
        while True:
            least_bytes = RANGE_BYTES_MAX + (digest_entry_bytes(waiting[0]) if waiting else 0)
            room_bytes = builder.room_for(least_bytes) - RANGE_BYTES_MAX
            if room_bytes < 0:
                return
            count = _fitting(map(digest_entry_bytes, waiting), room_bytes)
            entries, waiting = waiting[:count], waiting[count:]
            upto = entries[-1].node_id if waiting else last  # GOSSIP-10
            builder.add(MessageType.DIGEST, encode_digest(Digest(above, upto, tuple(entries))))
            if not waiting:
                return
            above = upto

    def _names_in(self, range_: Range) -> Sequence[str]:
        if range_ is EVERYBODY:
            return self._names
        first = bisect_right(self._names, range_.above)
        return self._names[first : bisect_right(self._names, range_.upto)] if range_.upto else self._names[first:]

    # What is heard.

    def learn(self, packet: Packet, *, now: float, source: Address | None = None) -> Reply:
        """Learn what a packet says, ``source`` being where it came from; what is to be answered."""
        reply = self._reply = Reply()
        self.unknown_messages += packet.unknown
        if packet.sender == self.node_id:  # GOSSIP-39: our own words, or another process of our name
            self._hear_of_self(Record(packet.life))
            return reply
        self._hear_itself(packet.sender, packet.life, source, now=now)
        for message in packet.messages:
            if isinstance(message, Digest):
                self._receive_digest(message, reply, now=now)
            elif isinstance(message, Records):
                for node_id, record in message.records:
                    self._learn(node_id, record, now=now)
                    self._correct(node_id, record, reply)
            elif isinstance(message, Summary):
                self._receive_summary(message, reply)
            elif isinstance(message, Push):  # GOSSIP-50
                awaited = packet.sender == message.delta.node_id and message.range == NOBODY
                self._receive_state(message.delta, reply, now=now, may_pull=not awaited)
            elif isinstance(message, (Delta, Snapshot)):
                self._receive_state(message, reply, now=now)
        known = self.record_of(packet.sender)
        if known is None or (known.left and self._left):  # two that have left would tell each other without end
            return reply
        if known.life > packet.life or known.rank or known.left:  # GOSSIP-55
            reply.records[packet.sender] = known
        return reply

    def verify(self, node_id: str, life: int) -> None:
        """The node has answered, in that life: by itself, or through a helper (GOSSIP-53)."""
        member = self._members.get(node_id)
        if member is not None and member.record.life == life and not member.verified:
            member.verified = True
            self._changes.append(Change(node_id, None))

    def _hear_itself(self, node_id: str, life: int, source: Address | None, *, now: float) -> None:
        self._learn(node_id, Record(life), now=now)  # GOSSIP-51
        member = self._members.get(node_id)
        if member is not None and member.record.life == life:
            self.verify(node_id, life)
            member.source = source or member.source

    def judge(self, node_id: str, judged: Record, rank: Rank, *, now: float) -> bool:
        """A verdict about the process of that record; whether anything changed. A verdict never makes anyone better."""
        if node_id not in self._members:
            return False
        return self._learn(node_id, judged._replace(rank=rank), now=now)  # GOSSIP-36

    def _receive_digest(self, digest: Digest, reply: Reply, *, now: float) -> None:
        for node_id, record, applied, hearsay in digest.entries:
            if not hearsay:  # GOSSIP-53
                self._learn(node_id, record, now=now)
            self._correct(node_id, record, reply)
            if node_id == self.node_id and record.life == self.own.life and applied > self.own.applied:  # GOSSIP-40
                self._begin_life(self.own.life)
            reply.claims[node_id] = record.life, applied
        named = {entry.node_id for entry in digest.entries}
        for node_id in self._names_in(Range(digest.above, digest.upto)):
            if node_id not in named and node_id not in reply.claims and self.may_tell(node_id):
                known = self.record_of(node_id)
                assert known is not None
                if not known.gone:  # GOSSIP-45
                    reply.records[node_id] = known
                    reply.claims[node_id] = known.life, 0

    def _receive_summary(self, summary: Summary, reply: Reply) -> None:
        """Answer what differs with what is known of it (GOSSIP-54)."""
        compared = len(reply.agreed) + len(reply.digests) + len(reply.summaries)
        for range_, hash_ in summary.parts[: max(0, SUMMARY_RANGES_MAX - compared)]:
            if self.summary(range_) == hash_:
                reply.agreed.append(range_)
            elif len(self._names_in(range_)) <= DIGEST_NODES_MAX:
                reply.digests.append(range_)
            else:
                reply.summaries.append(range_)

    def may_tell(self, node_id: str) -> bool:
        """Whether the node may be spoken of: hearsay is not told on, but a verdict is (GOSSIP-53)."""
        member = self._members.get(node_id)
        return member is None or member.verified or member.record.gone

    def _correct(self, node_id: str, record: Record, reply: Reply) -> None:
        """Tell who says less of a node than is known what is known."""
        known = self.record_of(node_id)
        if known is not None and known > record and self.may_tell(node_id):  # GOSSIP-38
            reply.records[node_id] = known

    def _receive_state(self, message: Delta | Snapshot, reply: Reply, *, now: float, may_pull: bool = True) -> None:
        """A delta or a snapshot, which is evidence of the life it speaks of, too.

        What starts after what is here is asked for, unless its sender waits for an answer and sees that itself; and not
        once for each of many that overtook the first.
        """
        node_id = message.node_id
        self._learn(node_id, Record(message.life), now=now)  # GOSSIP-20
        known, member = self.record_of(node_id), self._members.get(node_id)
        if known is not None and (known.life > message.life or known.gone):  # GOSSIP-38
            reply.records[node_id] = known
        if member is None or member.record.gone:  # GOSSIP-19, GOSSIP-42
            return
        replica, before = member.replica, member.replica.applied
        if isinstance(message, Snapshot):
            if replica.apply_snapshot(message) is Applied.NEWS:
                self._changes.append(Change(node_id, None))
            return
        outcome = replica.apply_delta(message)
        if outcome is Applied.NEWS:
            self._changes.append(Change(node_id, tuple(one for one in message.entries if one.version > before)))
        elif outcome is Applied.GAP and may_pull and now >= member.pulled_at + PULL_PAUSE_S:
            member.pulled_at = now
            reply.claims[node_id] = message.life, message.upto  # GOSSIP-16

    def _learn(self, node_id: str, record: Record, *, now: float) -> bool:
        """The one place where evidence changes what is known; whether it did."""
        if node_id == self.node_id:
            return self._hear_of_self(record)
        member = self._members.get(node_id)
        known = self.record_of(node_id)
        if known is not None and record <= known:  # GOSSIP-35, GOSSIP-46
            return False
        if member is not None:
            if record.life > member.record.life:
                self._reply.wants.add(node_id)
            self._merge(member, record, now=now)
        elif record.gone:
            self._memory.bury(node_id, record, now=now)  # GOSSIP-45
        elif len(self._members) >= self._limits.nodes_max:  # GOSSIP-48
            self.nodes_refused += 1
            return False
        else:
            self._memory.release(node_id)
            self._members[node_id] = _Member(record)
            insort(self._names, node_id)
            self._reply.wants.add(node_id)
        self._changes.append(Change(node_id, None))
        return True

    def _merge(self, member: _Member, record: Record, *, now: float) -> None:
        assert record > member.record, "a record went back"
        if record.life > member.replica.life or record.left:  # GOSSIP-14, GOSSIP-43
            member.replica = Replica(record.life)
        if record.life > member.record.life:
            member.verified = False  # GOSSIP-53
        if record.gone:  # again, perhaps: it has contradicted in between
            member.gone_since = now
        if record.gone or member.record.gone:
            self._due_known = False
        member.record = record

    # What others say of this node.

    def leave(self) -> None:
        """This process will not come back."""
        self._left = True
        self._changes.append(Change(self.node_id, None))

    def _hear_of_self(self, record: Record) -> bool:
        if record.life > self.own.life or (record.life == self.own.life and record.left):  # GOSSIP-39
            return self._begin_life(record.life)
        if record <= self.record:
            return False
        if record.inc == INC_MAX:  # GOSSIP-39
            return self._begin_life(record.life)
        self._inc = record.inc + 1  # GOSSIP-37
        self._changes.append(Change(self.node_id, None))
        return True

    def _begin_life(self, heard: int) -> bool:
        """Become a new process of the same name, unless that was done too often to be an accident."""
        if self._left:  # GOSSIP-72
            return False
        life = next_life(heard, self._rng)
        # GOSSIP-79, GOSSIP-41
        if self.gives_way or self._lives_taken == self._limits.lives_max or life > LIFE_MAX:
            self.contested = True
            return False
        self._lives_taken += 1
        self._inc = 0
        self.own.begin_life(life)
        self._changes.append(Change(self.node_id, None))
        return True

    # What is answered.

    def answer(self, reply: Reply, builder: PacketBuilder) -> list[str]:
        """By what is known now that the whole packet is read; of whom only a snapshot can help that does not fit."""
        known = ((node_id, self.record_of(node_id) or record) for node_id, record in reply.records.items())
        _pack(builder, MessageType.RECORDS, b"", (encode_records(Records((named,))) for named in known))
        starts, pulls = self._compare(reply.claims)
        nothing = encode_digest(Digest(*NOBODY, ()))
        wanted = (node_id for node_id in reply.wants if self._is_empty(node_id))
        asked = map(self._digest_entry, sorted({*pulls, *wanted}))  # GOSSIP-31
        _pack(builder, MessageType.DIGEST, nothing, map(encode_digest_entry, asked))
        parts = (part for range_ in reply.summaries for part in self._divided(range_))
        _pack(builder, MessageType.SUMMARY, b"", map(encode_summary_part, parts))
        for range_ in reply.digests:
            self._tell_digest(range_, builder)
        return [node_id for node_id in self._in_turn(starts) if not self._tell(node_id, starts[node_id], builder)]

    def _is_empty(self, node_id: str) -> bool:
        """Whether nothing is known of the node but that it is there (GOSSIP-53)."""
        member = self._members.get(node_id)
        return member is not None and not member.record.gone and not member.replica.applied

    def _divided(self, range_: Range) -> list[tuple[Range, int]]:
        """Smaller ranges that together are this one, with their hashes."""
        names = self._names_in(range_)
        bounds = [names[len(names) * part // SUMMARY_PARTS] for part in range(1, SUMMARY_PARTS)]
        ranges = [Range(*pair) for pair in zip([range_.above, *bounds], [*bounds, range_.upto], strict=True)]
        return [(part, self.summary(part)) for part in ranges]

    def _compare(self, claims: dict[str, tuple[int, int]]) -> tuple[dict[str, int], list[str]]:
        """Of which nodes we have more, and from where on; and of which the sender has."""
        starts, pulls = {}, []
        for node_id, (life, applied) in claims.items():
            state, known = self.state_of(node_id), self.record_of(node_id)
            if state is None or known is None or known.gone or state.life < life:  # GOSSIP-11, GOSSIP-42
                continue
            if state.life > life:  # GOSSIP-11
                applied = 0
            if state.applied > applied and self.may_tell(node_id):
                starts[node_id] = applied
            elif state.applied < applied and node_id != self.node_id:
                pulls.append(node_id)
        return starts, pulls

    def _tell(self, node_id: str, start: int, builder: PacketBuilder) -> bool:
        """What there is room for of a node's state; False when only a snapshot can help and no packet can hold it."""
        state = self.state_of(node_id)
        assert state is not None
        if start < state.floor:  # GOSSIP-13
            return self._tell_all(state.snapshot(node_id), builder)
        head_bytes = delta_head_bytes(node_id)
        for delta in state.deltas(node_id, start, lambda least: builder.room_for(head_bytes + least) - head_bytes):
            builder.add(MessageType.DELTA, encode_delta(delta))
        return True

    @staticmethod
    def _tell_all(snapshot: Snapshot, builder: PacketBuilder) -> bool:
        room_bytes = builder.whole_room_bytes - snapshot_head_bytes(snapshot.node_id)
        if not builder.is_stream and cut(snapshot.entries, 0, room_bytes) < len(snapshot.entries):  # GOSSIP-22
            return False
        payload = encode_snapshot(snapshot)
        if builder.is_stream:
            builder.add_alone(MessageType.SNAPSHOT, payload)
        elif builder.room_for(len(payload)):
            builder.add(MessageType.SNAPSHOT, payload)
        return True

    def _in_turn(self, node_ids: Iterable[str]) -> list[str]:
        """In a circle, from a place that chance chooses: so no node is always behind one that has much to say."""
        ring = sorted(node_ids)
        first = self._rng.getrandbits(32) % len(ring) if len(ring) > 1 else 0
        return ring[first:] + ring[:first]

    def _digest_entry(self, node_id: str) -> DigestEntry:
        record, state = self.record_of(node_id), self.state_of(node_id)
        assert record is not None and state is not None
        member = self._members.get(node_id)
        return DigestEntry(node_id, record, state.applied, member is not None and not member.verified)

    # The dead.

    def next_timer(self) -> float | None:
        """When there is somebody to forget."""
        due, memory = self._next_due(), self._memory.next_timer()
        return memory if due is None else due if memory is None else min(due, memory)

    def handle_timer(self, *, now: float) -> None:
        """Forget what it is time to forget."""
        due = self._next_due()
        if due is not None and due <= now:
            self._forget_some(now=now)
        self._memory.expire(now=now)

    def _next_due(self) -> float | None:
        if not self._due_known:
            dues = (self._due_of(member) for member in self._members.values() if member.record.gone)
            self._due, self._due_known = min(dues, default=None), True
        return self._due

    def _forget_some(self, *, now: float) -> None:
        for node_id, member in list(self._members.items()):
            if not member.record.gone:
                continue
            if member.gone_since + self._limits.dead_record_s <= now:  # GOSSIP-44
                self._forget(node_id, member, now=now)
            elif member.replica.applied and member.gone_since + self._limits.dead_state_s <= now:  # GOSSIP-43
                member.replica = Replica(member.record.life)
                self._changes.append(Change(node_id, None))
        self._due_known = False

    def forget(self, node_id: str, *, now: float) -> bool:
        """Forget a node that is gone before it is time to; False when there is none of that name (GOSSIP-76)."""
        member = self._members.get(node_id)
        if member is None or not member.record.gone:
            return False
        self._forget(node_id, member, now=now)
        return True

    def _forget(self, node_id: str, member: _Member, *, now: float) -> None:
        del self._members[node_id]
        del self._names[bisect_left(self._names, node_id)]
        self._memory.bury(node_id, member.record, now=now)
        self._due_known = False
        self._changes.append(Change(node_id, None))

    def _due_of(self, member: _Member) -> float:
        if member.replica.applied:
            return member.gone_since + self._limits.dead_state_s
        return member.gone_since + self._limits.dead_record_s


def _hash(entry: DigestEntry) -> int:
    return int.from_bytes(blake2b(encode_digest_entry(entry), digest_size=8).digest(), "big")


def _fitting(sizes_bytes: Iterable[int], room_bytes: int) -> int:
    """How many of them fit, from the first on."""
    count = 0
    for size_bytes in sizes_bytes:
        room_bytes -= size_bytes
        if room_bytes < 0:
            break
        count += 1
    return count


def _pack(builder: PacketBuilder, type_: MessageType, head: bytes, items: Iterable[bytes]) -> None:
    """The items in order, in as few messages of the type as they fill, each after the head."""
    waiting = list(items)
    while waiting:
        room_bytes = builder.room_for(len(head) + len(waiting[0])) - len(head)
        count = _fitting(map(len, waiting), room_bytes)
        if not count:
            return
        builder.add(type_, head + b"".join(waiting[:count]))
        waiting = waiting[count:]
