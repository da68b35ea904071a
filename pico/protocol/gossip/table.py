"""One node's view of the cluster: its own state, a record and a replica of every other node, and the dead.

Responsible for: what a packet changes here and what is answered to it, digests, defending what this node says of itself
against what others say of it, and forgetting the dead. Refuses to know: when to speak and to whom, who is alive (a
verdict is handed in), and how packets travel.

Everything that arrives is evidence: a record of some node. Evidence is learned in one place, ``_learn``, where records
merge by ``max``; so the table is the join of all that was heard, whatever the order. Who says less than what is known
here is told what is known: that is how the wrongly accused hear of it and can answer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from pico.config import GossipLimits
from pico.errors import ConfigError
from pico.protocol.gossip.memory import Memory
from pico.protocol.gossip.state import Applied, NodeState, OwnState, Replica, cut
from pico.protocol.gossip.values import (
    INC_MAX,
    LIFE_MAX,
    Chance,
    Delta,
    Digest,
    DigestEntry,
    Rank,
    Record,
    Records,
    Snapshot,
    next_life,
)
from pico.protocol.gossip.wire import (
    MessageType,
    Packet,
    PacketBuilder,
    PacketCodec,
    delta_head_bytes,
    digest_entry_bytes,
    encode_delta,
    encode_digest,
    encode_digest_entry,
    encode_records,
    encode_snapshot,
    snapshot_head_bytes,
)

__all__ = ["Answer", "GossipTable", "TableSnapshot"]

RANGE_BYTES_MAX = 2 * 65
"""The two names at the head of a digest."""


class _Member:
    """Another node."""

    __slots__ = ("gone_since", "record", "replica")

    def __init__(self, record: Record) -> None:
        self.record = record
        self.replica = Replica(record.life)
        self.gone_since = 0.0  # of a record that is gone


@dataclass(frozen=True, slots=True)
class Answer:
    """What to send to whoever sent a packet."""

    packets: list[bytes]
    behind: list[str]
    """The nodes of which only a snapshot can help that is too large for a datagram: ``snapshot_of`` makes it."""


@dataclass(frozen=True, slots=True)
class TableSnapshot:
    """The table at one moment."""

    record: Record
    records: dict[str, Record]
    remembered: int
    refused: int
    unknown_messages: int
    contested: bool


@dataclass(slots=True)
class _Reply:
    """What one packet asks for, gathered before it is written."""

    records: dict[str, Record] = field(default_factory=dict)
    claims: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Life and version that the sender has applied of a node."""


class GossipTable:
    """The pure part of a member of the cluster. Time and chance are arguments."""

    def __init__(self, codec: PacketCodec, life: int, limits: GossipLimits, rng: Chance) -> None:
        if not 0 < limits.dead_state_s <= limits.dead_record_s:  # GOSSIP-33
            raise ConfigError("dead_state_s", limits.dead_state_s, f"above 0, at most {limits.dead_record_s}")
        self.node_id = codec.node_id
        self.own = OwnState(life, limits)
        self._inc = 0
        self._codec = codec
        self._limits = limits
        self._rng = rng
        self._members: dict[str, _Member] = {}
        self._memory = Memory(limits)
        self._lives_taken = 0
        self._refused = 0
        self._unknown_messages = 0
        self.contested = False
        """Another process has the same node ID, and neither gives way: this one must stop."""

    # What is known.

    @property
    def record(self) -> Record:
        """What this node says of itself."""
        return Record(self.own.life, inc=self._inc)

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

    def members(self) -> dict[str, Record]:
        """The other nodes in the table."""
        return {node_id: member.record for node_id, member in self._members.items()}

    def snapshot(self) -> TableSnapshot:
        """For status and metrics."""
        return TableSnapshot(
            self.record, self.members(), len(self._memory), self._refused, self._unknown_messages, self.contested
        )

    # What is said unasked.

    def digest(self) -> list[bytes]:
        """All that is known, in as few packets as it fills. Each is a digest by itself and may be sent alone."""
        builder = self._builder(packets_max=len(self._members) + 1)
        waiting = [self._digest_entry(node_id) for node_id in sorted((self.node_id, *self._members))]
        above = ""
        while waiting:
            room_bytes = builder.room_for(RANGE_BYTES_MAX + digest_entry_bytes(waiting[0])) - RANGE_BYTES_MAX
            count = _fitting(map(digest_entry_bytes, waiting), room_bytes)
            entries, waiting = waiting[:count], waiting[count:]
            upto = entries[-1].node_id if waiting else ""  # GOSSIP-10
            builder.add(MessageType.DIGEST, encode_digest(Digest(above, upto, tuple(entries))))
            above = upto
        return builder.packets()

    def snapshot_of(self, node_id: str) -> bytes | None:
        """One packet for a stream with all that a node says; None when there is nothing to tell of it."""
        state, known = self.state_of(node_id), self.record_of(node_id)
        if state is None or known is None or known.gone:  # GOSSIP-42
            return None
        payload = encode_snapshot(state.snapshot(node_id))
        return self._codec.encode(self.own.life, [(MessageType.SNAPSHOT, payload)])

    # What is heard.

    def receive(self, packet: Packet, *, now: float) -> Answer:
        """Learn what a packet says; the answer is for its sender."""
        reply = _Reply()
        self._unknown_messages += packet.unknown
        if packet.sender == self.node_id:  # GOSSIP-39: our own words, or another process of our name
            self._hear_of_self(Record(packet.life))
            return Answer([], [])
        for message in packet.messages:
            if isinstance(message, Digest):
                self._receive_digest(message, reply, now=now)
            elif isinstance(message, Records):
                for node_id, record in message.records:
                    self._hear(node_id, record, reply, now=now)
            else:
                self._receive_state(message, reply, now=now)
        return self._answer(reply)

    def judge(self, node_id: str, judged: Record, rank: Rank, *, now: float) -> bool:
        """A verdict about the process of that record; whether anything changed. A verdict never makes anyone better."""
        if node_id not in self._members:
            return False
        return self._learn(node_id, judged._replace(rank=rank), now=now)  # GOSSIP-36

    def _receive_digest(self, digest: Digest, reply: _Reply, *, now: float) -> None:
        for node_id, record, applied in digest.entries:
            self._hear(node_id, record, reply, now=now)
            if node_id == self.node_id and record.life == self.own.life and applied > self.own.applied:  # GOSSIP-40
                self._begin_life(self.own.life)
            reply.claims[node_id] = record.life, applied
        named = {entry.node_id for entry in digest.entries}
        for node_id in (self.node_id, *self._members):
            if digest.speaks_of(node_id) and node_id not in named:
                known = self.record_of(node_id)
                assert known is not None
                if not known.gone:  # GOSSIP-45
                    reply.records[node_id] = known
                    reply.claims[node_id] = known.life, 0

    def _hear(self, node_id: str, record: Record, reply: _Reply, *, now: float) -> None:
        self._learn(node_id, record, now=now)
        known = self.record_of(node_id)
        if known is not None and known > record:  # GOSSIP-38
            reply.records[node_id] = known

    def _receive_state(self, message: Delta | Snapshot, reply: _Reply, *, now: float) -> None:
        """A delta or a snapshot, which is evidence of the life it speaks of, too."""
        node_id = message.node_id
        self._learn(node_id, Record(message.life), now=now)  # GOSSIP-20
        known, member = self.record_of(node_id), self._members.get(node_id)
        if known is not None and (known.life > message.life or known.gone):  # GOSSIP-38
            reply.records[node_id] = known
        if member is None or member.record.gone:  # GOSSIP-19, GOSSIP-42
            return
        replica = member.replica
        if isinstance(message, Snapshot):
            replica.apply_snapshot(message)
        elif replica.apply_delta(message) is Applied.GAP:
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
            self._merge(member, record, now=now)
        elif record.gone:
            self._memory.bury(node_id, record, now=now)  # GOSSIP-45
        elif len(self._members) >= self._limits.nodes_max:  # GOSSIP-48
            self._refused += 1
            return False
        else:
            self._memory.release(node_id)
            self._members[node_id] = _Member(record)
        return True

    @staticmethod
    def _merge(member: _Member, record: Record, *, now: float) -> None:
        assert record > member.record, "a record went back"
        if record.life > member.replica.life or record.left:  # GOSSIP-14, GOSSIP-43
            member.replica = Replica(record.life)
        member.record = record
        member.gone_since = now

    # What others say of this node.

    def _hear_of_self(self, record: Record) -> bool:
        if record.life > self.own.life or (record.life == self.own.life and record.left):  # GOSSIP-39
            return self._begin_life(record.life)
        if record <= self.record:
            return False
        if record.inc == INC_MAX:  # GOSSIP-39
            return self._begin_life(record.life)
        self._inc = record.inc + 1  # GOSSIP-37
        return True

    def _begin_life(self, heard: int) -> bool:
        """Become a new process of the same name, unless that was done too often to be an accident."""
        life = next_life(heard, self._rng)
        if self._lives_taken == self._limits.lives_max or life > LIFE_MAX:  # GOSSIP-41
            self.contested = True
            return False
        self._lives_taken += 1
        self._inc = 0
        self.own.begin_life(life)
        return True

    # What is answered.

    def _answer(self, reply: _Reply) -> Answer:
        """By what is known now that the whole packet is read."""
        builder = self._builder(packets_max=self._limits.answer_packets_max)
        records = [(node_id, self.record_of(node_id) or record) for node_id, record in reply.records.items()]
        _pack(builder, MessageType.RECORDS, b"", (encode_records([named]) for named in records))
        starts, pulls = self._compare(reply.claims)
        nothing = encode_digest(Digest(self.node_id, self.node_id, ()))  # A range that holds no name.
        asked = map(self._digest_entry, sorted(pulls))  # GOSSIP-31
        _pack(builder, MessageType.DIGEST, nothing, map(encode_digest_entry, asked))
        behind = [node_id for node_id in self._in_turn(starts) if not self._tell(node_id, starts[node_id], builder)]
        return Answer(builder.packets(), behind)

    def _compare(self, claims: dict[str, tuple[int, int]]) -> tuple[dict[str, int], list[str]]:
        """Of which nodes we have more, and from where on; and of which the sender has."""
        starts, pulls = {}, []
        for node_id, (life, applied) in claims.items():
            state, known = self.state_of(node_id), self.record_of(node_id)
            if state is None or known is None or known.gone or state.life < life:  # GOSSIP-11, GOSSIP-42
                continue
            if state.life > life:  # GOSSIP-11
                applied = 0
            if state.applied > applied:
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
        if cut(snapshot.entries, 0, room_bytes) < len(snapshot.entries):  # GOSSIP-22
            return False
        payload = encode_snapshot(snapshot)
        if builder.room_for(len(payload)):
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
        return DigestEntry(node_id, record, state.applied)

    def _builder(self, packets_max: int) -> PacketBuilder:
        return PacketBuilder(self._codec, self.own.life, packets_max)

    # The dead.

    def next_timer(self) -> float | None:
        """When there is somebody to forget."""
        dues = [self._due(member) for member in self._members.values() if member.record.gone]
        memory = self._memory.next_timer()
        return min(dues if memory is None else [*dues, memory], default=None)

    def handle_timer(self, *, now: float) -> None:
        """Forget what it is time to forget."""
        for node_id, member in list(self._members.items()):
            if not member.record.gone:
                continue
            if member.gone_since + self._limits.dead_record_s <= now:  # GOSSIP-44
                del self._members[node_id]
                self._memory.bury(node_id, member.record, now=now)
            elif member.gone_since + self._limits.dead_state_s <= now:  # GOSSIP-43
                member.replica = Replica(member.record.life)
        self._memory.expire(now=now)

    def _due(self, member: _Member) -> float:
        if member.replica.applied:
            return member.gone_since + self._limits.dead_state_s
        return member.gone_since + self._limits.dead_record_s


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
