"""One member of the cluster, without I/O: what it says, when and to whom, and what it makes of what it hears.

Responsible for: joining the table, the failure detector, the pusher and the search; rounds, rumours and leaving; and
turning all of it into datagrams and wishes for exchanges. Refuses to know: sockets, clocks, what the
entries of a node mean beyond where its gossip port is, and how an exchange travels.

The driver hands in what arrives: a datagram, once ``decode`` has read it, by ``receive_packet``; a body of an exchange
by ``receive_body``. In between a datagram may wait, and what ``quick_answer`` says to it need not. The driver calls
``handle_timer`` when ``next_timer`` says so, and after each call takes what there is to do: ``outgoing`` datagrams and
``events``.

Three ways lead from one node to another, each covering for the one before: a push within milliseconds, a round several
times a second that compares hashes and repairs what differs, and an exchange over a stream that carries what fits no
datagram and works where datagrams do not pass.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from heapq import nlargest
from math import ceil, inf, log2, log10
from typing import Final

from pico.config import GossipLimits, GossipTimers
from pico.errors import RemoteProtocolError
from pico.protocol.gossip import probing, pushing
from pico.protocol.gossip.events import Contested, Datagram, Event, ExchangeWanted, GossipSnapshot, NodeChanged
from pico.protocol.gossip.helping import Helping
from pico.protocol.gossip.packets import ForeignCluster, Packet, PacketBuilder, PacketCodec
from pico.protocol.gossip.probing import AskDirectly, AskHelpers, FailureDetector, Verdict
from pico.protocol.gossip.pushing import GiveUp, Pusher, SendPush
from pico.protocol.gossip.search import Search, TrySeed
from pico.protocol.gossip.state import NodeState
from pico.protocol.gossip.table import EVERYBODY, NOBODY, Change, GossipTable, Reply
from pico.protocol.gossip.values import (
    CARD,
    NAME_BYTES_MAX,
    Ack,
    Address,
    Chance,
    Digest,
    Message,
    Nack,
    Ping,
    PingRequest,
    Push,
    Pushed,
    Rank,
    Record,
    Records,
    Summary,
)
from pico.protocol.gossip.wire import (
    PUSH_HEAD_BYTES_MAX,
    MessageType,
    delta_head_bytes,
    encode_records,
    push_head_bytes,
)
from pico.protocol.seal import Forged, NoKey, OtherVersion, Replayed, UnknownKey, Unsealed

__all__ = ["STREAM_BODIES_MAX", "STREAM_BODY_BYTES_MAX", "GossipEngine", "kind_of_violation"]

STREAM_BODY_BYTES_MAX: Final = 64 * 1024
STREAM_BODIES_MAX: Final = 1_024
"""Of one turn of an exchange, snapshots besides; what is left is said by the next exchange or round."""

RUMOURS_IN_A_PACKET: Final = 8
URGENT_FANOUT: Final = 4
LEAVE_EXCHANGES: Final = 16
PUSHES_MAX: Final = 1_024
"""That were told on, remembered so that their repeats are not."""

LARGE_CLUSTER: Final = 32


class GossipEngine:
    """One member. ``locate`` finds in the value of a node's card where its gossip port is, or None."""

    def __init__(
        self,
        codec: PacketCodec,
        life: int,
        limits: GossipLimits,
        timers: GossipTimers,
        rng: Chance,
        *,
        locate: Callable[[bytes], Address | None],
        now: float,
    ) -> None:
        self.node_id = codec.node_id
        self.nodes_max = limits.nodes_max
        self.table = GossipTable(codec, life, limits, rng)
        self.detector = FailureDetector(self.node_id, timers, rng, now=now)
        self._pusher = Pusher(self.node_id, life, timers, rng, now=now)
        self._search = Search(self, limits, timers, rng, now=now)
        self._helping = Helping(timers, rng)
        self._codec = codec
        self._limits = limits
        self._timers = timers
        self._rng = rng
        self._locate = locate
        self._now = now
        self._pause_s = max(timers.pause_s, 2 * timers.probe_s)
        self._life = life
        self._live: list[str] = []  # the others that are not gone, in order
        self._ring: list[str] = []  # of rounds
        self._next_round = now + timers.round_s * rng.random()
        self._busy_until = now + timers.busy_s
        self._next_exchange = now + timers.exchange_s * rng.random()
        self._records: dict[str, Record] = {}  # of the others, as they were when they were last followed
        self._told: dict[str, Record] = {}  # ... and as they were last told on
        self._rumours: dict[str, int] = {}  # how often each is still to be told
        self._pushes: dict[tuple[str, int], None] = {}  # the last that were told on
        self._exchanged_at: dict[str, float] = {}
        self._left_at: float | None = None
        self._goodbyes: list[float] = []
        self._datagrams: list[Datagram] = []
        self._events: list[Event] = []
        self._contested = False
        self._rounds = 0
        self._received = 0
        self._violations: Counter[str] = Counter()

    # What there is to do.

    def outgoing(self) -> list[Datagram]:
        """Datagrams to send, in order."""
        datagrams, self._datagrams = self._datagrams, []
        return datagrams

    def events(self) -> list[Event]:
        """What happened."""
        events, self._events = self._events, []
        return events

    def snapshot(self) -> GossipSnapshot:
        """For status and metrics."""
        return GossipSnapshot(
            self.table.record,
            self.table.members(),
            self.detector.health,
            self.joined,
            len(self._search.absent),
            self._rounds,
            self._received,
            dict(self._violations),
        )

    @property
    def joined(self) -> bool:
        """Whether another node is there: one that reaches only itself has not joined (GOSSIP-70)."""
        return any(map(self.table.verified, self._live))

    @property
    def seeds_tried(self) -> bool:
        """Whether each seed was tried at least once, or need not be."""
        return self._search.seeds_tried

    @property
    def alone(self) -> bool:
        """Whether no other node lives, as far as is known."""
        return not self._live

    def lives(self, node_id: str) -> bool:
        """Whether it is another node in the table that is not gone."""
        record = self._records.get(node_id)
        return record is not None and not record.gone

    def taken(self) -> set[Address]:
        """Where this node and the others that live are."""
        addresses = map(self.address_of, (self.node_id, *self._live))
        return {address for address in addresses if address is not None}

    def address_of(self, node_id: str) -> Address | None:
        """Where a node is: by its card, else from where it spoke last."""
        state = self.table.state_of(node_id)
        card = None if state is None else state.entries.get(CARD)
        located = self._locate(card.value) if card is not None and card.value is not None else None
        return located or self.table.source_of(node_id)

    # What this node says.

    def put(self, key: bytes, value: bytes, *, now: float) -> None:
        """Say that ``key`` is ``value``. Raises ``LocalProtocolError`` for what could not be told to everyone."""
        if self.table.own.put(key, value):
            self._pusher.changed(now=now)
            self._get_busy(now)

    def delete(self, key: bytes, *, now: float) -> None:
        """Say that ``key`` is no more."""
        if self.table.own.delete(key):
            self._pusher.changed(now=now)
            self._get_busy(now)

    def set_seeds(self, addresses: Sequence[Address], *, now: float) -> None:
        """Where others may be; known ones keep their state."""
        self._search.set_seeds(addresses, now=now)

    def leave(self, *, now: float) -> None:
        """Say that this process will not come back; from now on it answers and begins nothing (GOSSIP-72)."""
        if self._left_at is not None:
            return
        self._advance(now)
        self.table.leave()
        self._left_at = now
        self._goodbyes = [now, *(now + pause_s for pause_s in self._timers.push_repeats_s)]
        for node_id in self._some_of(self._live, LEAVE_EXCHANGES):
            self._want_exchange(node_id)
        self._say_goodbye(now)
        self._settle()

    @property
    def left(self) -> bool:
        """Whether the node has said that it leaves, and everybody who could has heard it."""
        if self._left_at is None:
            return False
        return not self._live or self._now >= self._left_at + self._timers.linger_s

    # What it hears.

    def decode(self, data: bytes) -> Packet | None:
        """What a datagram says; None when it is not for this node, which is counted."""
        self._received += 1
        try:
            return self._codec.decode(data)
        except RemoteProtocolError as violation:
            self._violations[kind_of_violation(violation)] += 1
            return None

    def quick_answer(self, packet: Packet) -> bytes | None:
        """The answer to a ping that asks this process, without looking at anything else (GOSSIP-58)."""
        acks = [
            Ack(message.sequence, self.node_id, self.table.own.life)
            for message in packet.messages
            if isinstance(message, Ping) and message.node_id == self.node_id
        ]
        if not acks or packet.sender == self.node_id:
            return None
        builder = self.table.builder(packets_max=1)
        for ack in acks:
            builder.say(ack)
        return builder.packets()[0]

    def receive_packet(self, packet: Packet, source: Address, *, now: float, acked: bool = False) -> None:
        """Take one packet that was decoded; ``acked``: ``quick_answer`` has answered its pings."""
        self._advance(now)
        acks, pushes = self._answers_to(packet, source, acked=acked)
        reply = self.table.learn(packet, now=now, source=source)
        self._follow_changes()
        self._note_news(packet, reply)
        builder = self.table.builder(packets_max=self._limits.answer_packets_max)
        for ack in acks:
            builder.say(ack)
        for push, news in pushes:
            self._answer_push(push, news, builder)
        if reply.digests or reply.summaries:
            self._get_busy(now)
        behind = self.table.answer(reply, builder)
        self._send_all(builder, source, packet.sender)
        if behind:
            self._want_exchange(packet.sender)
        self._settle()

    def unsent(self, node_id: str, *, now: float) -> None:
        """A datagram for the node could not be sent (GOSSIP-59)."""
        self._advance(now)
        self.detector.could_not_send(node_id, now=now)
        self._settle()

    def failed(self, node_id: str, *, now: float) -> None:
        """A connection with the node broke or could not be made: ask it now. That alone says nothing to others."""
        self._advance(now)
        self.detector.probe(node_id, now=now)
        self._settle()

    def forget(self, node_id: str, *, now: float) -> bool:
        """Speak and think no more of a node that is gone; False when there is none of that name (GOSSIP-76)."""
        self._advance(now)
        forgotten = self.table.forget(node_id, now=now)
        if forgotten:
            self._search.miss_no_more(node_id)
        self._settle()
        return forgotten

    # Exchanges.

    def open_exchange(self) -> list[bytes]:
        """The bodies with which this node begins an exchange."""
        return self.table.digest_bodies(STREAM_BODY_BYTES_MAX)

    def answer_builder(self) -> PacketBuilder:
        """For what there is to be answered to one turn of the other side."""
        return self.table.builder(packets_max=STREAM_BODIES_MAX, stream_bytes_max=STREAM_BODY_BYTES_MAX)

    def receive_body(self, body: bytes, answer: PacketBuilder, *, now: float) -> None:
        """Take one body of an exchange, and add what is to be answered to it.

        Raises ``RemoteProtocolError`` for one that cannot be read.
        """
        self._advance(now)
        try:
            packet = self._decode_body(body)
        except RemoteProtocolError as violation:
            self._violations[kind_of_violation(violation)] += 1
            raise
        reply = self.table.learn(packet, now=now)
        self._follow_changes()
        self._note_news(packet, reply)
        self.table.answer(reply, answer)
        self._settle()

    def _decode_body(self, body: bytes) -> Packet:
        if len(body) > STREAM_BODY_BYTES_MAX and not self._codec.is_snapshot(body):  # GOSSIP-71
            raise RemoteProtocolError(f"exchange: a body of {len(body)} bytes that is no snapshot")
        return self._codec.decode_body(body)

    def exchange_ended(self, wanted: ExchangeWanted, node_id: str | None, *, now: float) -> None:
        """What became of an exchange: who was there, or None when there was none."""
        self._advance(now)
        if not wanted.node_id:
            self._search.seed_tried(wanted.address, node_id, now=now)
        if node_id is not None and node_id != self.node_id and wanted.sequence is not None:
            self._answered(wanted.sequence, node_id)
        self._settle()

    # Time.

    def next_timer(self) -> float:
        """When ``handle_timer`` wants to be called."""
        maybe = [self._helping.next_timer(), self.table.next_timer()]
        if self._left_at is not None:  # GOSSIP-72
            end = self._left_at + self._timers.linger_s
            dues = [*self._goodbyes, *([end] if self._now < end else [])]
        else:
            maybe += [self._pusher.next_timer(), self._search.next_timer()]
            # The last one so that to have nothing to do is not taken for a pause.
            dues = [self._next_round, self._next_exchange, self.detector.next_timer(), self._now + self._pause_s / 2]
        return min([*dues, *(due for due in maybe if due is not None)], default=inf)

    def handle_timer(self, *, now: float) -> None:
        """Do what it is time for."""
        self._advance(now)
        self.table.handle_timer(now=now)
        for answer in self._helping.handle_timer(now=now):
            self._send_messages(answer.address, "", [answer.message])
        if self._left_at is not None:
            self._say_goodbye(now)
        else:
            self.detector.handle_timer(now=now)
            self._pusher.handle_timer(self._live, self.table.own.applied, now=now)
            self._hold_round()
            self._reach_out()
        self._settle()

    def _advance(self, now: float) -> None:
        """Time has passed; more than it should have when the process did not run (GOSSIP-63)."""
        gap_s = now - self._now
        if gap_s > self._pause_s:
            self.detector.paused(gap_s, now=now)
        self._now = now

    def _hold_round(self) -> None:
        now = self._now
        if now >= self._next_round:
            round_s = self._timers.round_s if now < self._busy_until else self._timers.quiet_round_s
            self._next_round = now + round_s * (0.9 + 0.2 * self._rng.random())
            node_id = self._next_in_ring()
            if node_id is not None:
                self._rounds += 1
                self._say(node_id, self._summary())
        if now >= self._next_exchange:
            stretch = 1.0 + max(0.0, log2(max(1, len(self._live)) / LARGE_CLUSTER))
            self._next_exchange = now + self._timers.exchange_s * stretch * (0.9 + 0.2 * self._rng.random())
            if self._live:
                self._want_exchange(self._rng.sample(self._live, 1)[0])
                self.table.own.collect(self._pusher.acknowledged(self._live))  # GOSSIP-75
            absent = self._search.any_absent()
            if absent is not None:
                self._events.append(ExchangeWanted(absent.address, absent.node_id, None))
            seed = self._search.any_seed()
            if seed is not None:  # GOSSIP-77
                self._events.append(ExchangeWanted(seed.address, "", None))

    def _get_busy(self, now: float | None = None) -> None:
        """Something differs, somewhere: compare often, and begin now if that was seldom (GOSSIP-65)."""
        now = self._now if now is None else now
        self._busy_until = now + self._timers.busy_s
        self._next_round = min(self._next_round, now + self._timers.round_s)

    def _next_in_ring(self) -> str | None:
        """Each of the others in turn; a new order after each time around (GOSSIP-65)."""
        live = set(self._live)
        while self._ring:
            node_id = self._ring.pop()
            if node_id in live:
                return node_id
        self._ring = list(self._live)
        self._rng.shuffle(self._ring)
        return self._ring.pop() if self._ring else None

    def _summary(self) -> Summary:
        return Summary(((EVERYBODY, self.table.summary()),))

    def _reach_out(self) -> None:
        """To one of the absent, and to the seeds behind which nobody is known (GOSSIP-69)."""
        for target in self._search.handle_timer(now=self._now):
            if isinstance(target, TrySeed):
                self._events.append(ExchangeWanted(target.address, "", None))
            else:
                ping = Ping(self._rng.getrandbits(32), target.node_id)
                said: list[Message] = [ping, self._records_message([target.node_id]), self._summary()]
                self._send_messages(target.address, "", said)

    # Answers that are not the table's.

    def _answers_to(self, packet: Packet, source: Address, *, acked: bool) -> tuple[list[Ack], list[tuple[Push, bool]]]:
        """Pings, pushes, whether each is to be told on, and what helpers say: looked at before the table learns."""
        acks: list[Ack] = []
        pushes: list[tuple[Push, bool]] = []
        if packet.sender == self.node_id:
            return acks, pushes
        for message in packet.messages:
            if isinstance(message, Ping):
                if message.node_id == self.node_id and not acked:
                    acks.append(Ack(message.sequence, self.node_id, self.table.own.life))
            elif isinstance(message, Ack):
                self._receive_ack(message)
            elif isinstance(message, PingRequest):
                self._help(message, source)
            elif isinstance(message, Nack):
                self.detector.helper_answered(message.sequence)
            elif isinstance(message, Push):
                pushes.append((message, self._is_news(packet.sender, message)))
            elif isinstance(message, Pushed):
                self._pusher.answered(message.sequence, packet.sender, message.life, message.applied)
        return acks, pushes

    def _answer_push(self, push: Push, news: bool, builder: PacketBuilder) -> None:
        """Say what is applied now, and tell on what has not come before (GOSSIP-67)."""
        state = self.table.state_of(push.delta.node_id)
        applied = state.applied if state is not None and state.life == push.delta.life else 0
        builder.say(Pushed(push.sequence, push.delta.life, applied))
        if news:
            names = [node_id for node_id in self._live if push.range.holds(node_id) and node_id != push.delta.node_id]
            self._pusher.relay(push.delta.node_id, push.delta.start, push.range, names)

    def _is_news(self, sender: str, push: Push) -> bool:
        """Whether a push has not come before: then it is told on, also when a round was faster than it."""
        if push.range == NOBODY or (sender, push.sequence) in self._pushes:
            return False
        self._pushes[sender, push.sequence] = None
        if len(self._pushes) > PUSHES_MAX:
            del self._pushes[next(iter(self._pushes))]
        return True

    def _receive_ack(self, ack: Ack) -> None:
        passed_on = self._helping.answered(ack)
        if passed_on is not None:
            self._send_messages(passed_on.address, "", [passed_on.message])
        elif self._answered(ack.sequence, ack.node_id):
            self.table.verify(ack.node_id, ack.life)

    def _answered(self, sequence: int, node_id: str) -> bool:
        answers_again = not self.detector.answers(node_id)
        if not self.detector.answered(sequence, node_id, now=self._now):
            return False
        if answers_again:
            self._events.append(NodeChanged(node_id, ()))
        return True

    def _help(self, request: PingRequest, origin: Address) -> None:
        """Ping a node for another (GOSSIP-60)."""
        ping = self._helping.begin(request, origin, now=self._now) if request.node_id != self.node_id else None
        if ping is not None:
            self._send_messages(request.address, request.node_id, [ping])

    def _note_news(self, packet: Packet, reply: Reply) -> None:
        """Witnesses among what was said, and how much the sender has of ours; the packet is learned and followed."""
        if not self.lives(packet.sender):
            return
        if any(range_.holds(self.node_id) for range_ in reply.agreed):
            self._pusher.has_applied(packet.sender, self.table.own.applied)
        for message in packet.messages:
            if isinstance(message, Records):
                for node_id, record in message.records:
                    if node_id in message.witnessed:
                        self.detector.confirm(node_id, record, packet.sender)
            elif isinstance(message, Digest):
                for entry in message.entries:
                    if entry.node_id == self.node_id and entry.record.life == self.table.own.life:
                        self._pusher.has_applied(packet.sender, entry.applied)

    # After everything: what follows from what was learned.

    def _settle(self) -> None:
        """Follow up on changes and commands until there are none."""
        busy = True
        while busy:
            busy = self._follow_changes()
            for command in self.detector.commands():
                busy = True
                self._obey_detector(command)
            for push in self._pusher.commands():
                busy = True
                self._obey_pusher(push)
        if self.table.contested and not self._contested:
            self._contested = True
            self._events.append(Contested())

    def _follow_changes(self) -> bool:
        changes = self.table.changes()
        for change in changes:
            self._follow(change)
        return bool(changes)

    def _follow(self, change: Change) -> None:
        node_id = change.node_id
        self._events.append(NodeChanged(node_id, change.entries))
        self._get_busy()
        if node_id == self.node_id:
            self._follow_self()
        elif change.entries is None:
            self._follow_node(node_id)
        elif any(entry.key == CARD for entry in change.entries):
            self._verify(node_id)

    def _follow_self(self) -> None:
        if self.table.own.life != self._life:
            self._life = self.table.own.life
            self._pusher.life_began(self._life, now=self._now)
        elif self._left_at is None:
            self.detector.accused()
        self._start_rumour(self.node_id, urgent=self._left_at is None)

    def _follow_node(self, node_id: str) -> None:
        """Another node's record is not what it was, or its whole copy."""
        record = self.table.member(node_id)
        before = self._records.get(node_id)
        self.detector.update(node_id, record, now=self._now)
        known = self.table.record_of(node_id)
        if known is not None and known.left:
            self._search.miss_no_more(node_id)
        if record is None:
            self._records.pop(node_id, None)
            self._lose(node_id)
            return
        self._records[node_id] = record
        if record.gone:
            self._lose(node_id)
            if not record.left and (before is None or not before.gone):  # later on its card is gone, too
                self._miss(node_id)
        else:
            self._find(node_id)
            if before is not None and before.life != record.life:
                self._pusher.forget(node_id)
            if record.rank is Rank.SUSPECT and not self.detector.witnessed(node_id):
                self.detector.probe_soon(node_id, now=self._now)  # GOSSIP-62
            self._verify(node_id)
        if self.table.may_tell(node_id) and self._told.get(node_id) != record:
            self._told[node_id] = record
            self._start_rumour(node_id, urgent=len(self._live) > self._timers.push_all_max and record.rank > Rank.ALIVE)

    def _find(self, node_id: str) -> None:
        at = bisect_left(self._live, node_id)
        if at == len(self._live) or self._live[at] != node_id:
            self._live.insert(at, node_id)

    def _lose(self, node_id: str) -> None:
        at = bisect_left(self._live, node_id)
        if at < len(self._live) and self._live[at] == node_id:
            del self._live[at]
        self._pusher.forget(node_id)
        self._exchanged_at.pop(node_id, None)
        if node_id not in self._records:
            self._told.pop(node_id, None)

    def _miss(self, node_id: str) -> None:
        """Remember where the dead one was: it may only have been cut off (GOSSIP-69)."""
        address = self.address_of(node_id)
        if address is not None:
            self._search.miss(node_id, address)

    def _verify(self, node_id: str) -> None:
        """Ask a node of which there is only hearsay, as soon as it is known where it is (GOSSIP-53).

        Until then it is looked for where it was when it died (GOSSIP-69).
        """
        if not self.lives(node_id) or self.address_of(node_id) is None:
            return
        self._search.miss_no_more(node_id)
        if not self.table.verified(node_id):
            self.detector.probe_soon(node_id, now=self._now)

    def _obey_detector(self, command: probing.Command) -> None:
        node_id = command.node_id
        if self._left_at is not None or not self.lives(node_id):  # GOSSIP-72; a verdict has just come before
            return
        if isinstance(command, Verdict):
            self._judge(command)
            return
        address = self.address_of(node_id)
        if address is None:
            self.detector.could_not_ask(command.sequence)
        elif isinstance(command, AskDirectly):
            record = self._records[node_id]
            messages: list[Message] = [Ping(command.sequence, node_id)]
            if record.rank is not Rank.ALIVE:  # GOSSIP-57
                messages.append(self._records_message([node_id]))
            self._send_messages(address, node_id, messages)
        elif isinstance(command, AskHelpers):
            for helper in command.helpers:
                self._say(helper, PingRequest(command.sequence, node_id, address))
        else:
            self._events.append(ExchangeWanted(address, node_id, command.sequence))

    def _judge(self, verdict: Verdict) -> None:
        node_id, judged, rank = verdict
        said = judged._replace(rank=rank)
        changed = self.table.judge(node_id, judged, rank, now=self._now)
        if changed and self.table.may_tell(node_id):
            self._told[node_id] = said  # here, and not again when the change is followed
        self._follow_changes()
        witnessed = self.detector.confirm(node_id, said, self.node_id)
        if (changed or witnessed) and self.table.may_tell(node_id):  # GOSSIP-53
            self._start_rumour(node_id, urgent=True)
        self._events.append(NodeChanged(node_id, ()))

    def _obey_pusher(self, command: pushing.Command) -> None:
        if isinstance(command, GiveUp):
            self._want_exchange(command.node_id)
            return
        state, address = self.table.state_of(command.owner), self.address_of(command.node_id)
        if self._left_at is not None or state is None or address is None or not self.lives(command.node_id):
            self._pusher.drop(command.sequence)
        elif command.start < state.floor:  # GOSSIP-13
            self._pusher.drop(command.sequence)
            self._want_exchange(command.node_id)
        else:
            self._push(command, state, address)

    def _push(self, command: SendPush, state: NodeState, address: Address) -> None:
        builder = self.table.builder(packets_max=1)
        head_bytes = push_head_bytes(command.range) + delta_head_bytes(command.owner)
        if command.owner == self.node_id and command.range != NOBODY:  # what is told on must fit there, too
            head_bytes += PUSH_HEAD_BYTES_MAX - push_head_bytes(command.range) + NAME_BYTES_MAX - len(self.node_id)
        delta = next(
            state.deltas(command.owner, command.start, lambda least: builder.room_for(head_bytes + least) - head_bytes),
            None,
        )
        if delta is None:  # the node has not got so far itself
            self._pusher.drop(command.sequence)
            return
        builder.say(Push(command.sequence, command.range, delta))
        self._send_all(builder, address, command.node_id)
        self._pusher.sent(command, delta.upto, now=self._now)

    def _want_exchange(self, node_id: str) -> None:
        """With a node that datagrams do not help, or not enough; not again and again (GOSSIP-66)."""
        address = self.address_of(node_id) if self.lives(node_id) else None
        at = self._exchanged_at.get(node_id)
        if address is None or (at is not None and self._now < at + self._timers.exchange_pause_s):
            return
        self._exchanged_at[node_id] = self._now
        self._events.append(ExchangeWanted(address, node_id, None))

    # Rumours: who has changed, told on with whatever is sent, and at once where it matters.

    def _start_rumour(self, node_id: str, *, urgent: bool) -> None:
        if not self.table.may_tell(node_id):  # GOSSIP-53
            return
        self._rumours.pop(node_id, None)
        if urgent:
            few = len(self._live) <= self._timers.push_all_max
            for other in self._live if few else self._some_of(self._live, URGENT_FANOUT):
                if other != node_id:
                    self._say(other, self._records_message([node_id]))
        self._rumours[node_id] = 4 * ceil(log10(len(self._live) + 2))

    def _some_of(self, node_ids: Sequence[str], count: int) -> list[str]:
        return self._rng.sample(node_ids, min(count, len(node_ids)))

    def _records_message(self, node_ids: Iterable[str]) -> Records:
        known = tuple(
            (node_id, record) for node_id in node_ids if (record := self.table.record_of(node_id)) is not None
        )
        return Records(known, frozenset(node_id for node_id, _ in known if self.detector.witnessed(node_id)))

    def _say_rumours(self, builder: PacketBuilder, to: str) -> None:
        """The least told first, as far as there is room in the packet; to nobody about itself (GOSSIP-56)."""
        others = (node_id for node_id in self._rumours if node_id != to)
        fresh = nlargest(RUMOURS_IN_A_PACKET, others, key=self._rumours.__getitem__)
        for node_id in fresh:
            message = self._records_message([node_id] if self.table.may_tell(node_id) else [])  # GOSSIP-53
            payload = encode_records(message)
            if len(payload) > builder.spare_bytes:
                return
            if message.records:
                builder.add(MessageType.RECORDS, payload)
            self._rumours[node_id] -= 1
            if not self._rumours[node_id] or not message.records:
                del self._rumours[node_id]

    def _say_goodbye(self, now: float) -> None:
        due = [at for at in self._goodbyes if now >= at]
        if due:
            self._goodbyes = [at for at in self._goodbyes if now < at]
            for node_id in self._live:
                self._say(node_id, self._records_message([self.node_id]))

    # Sending.

    def _say(self, node_id: str, *messages: Message) -> None:
        address = self.address_of(node_id)
        if address is not None:
            self._send_messages(address, node_id, messages)

    def _send_messages(self, address: Address, node_id: str, messages: Iterable[Message]) -> None:
        builder = self.table.builder(packets_max=1)
        for message in messages:
            builder.say(message)
        self._send_all(builder, address, node_id)

    def _send_all(self, builder: PacketBuilder, address: Address, node_id: str) -> None:
        if builder.has_messages:
            self._say_rumours(builder, node_id)
        for data in builder.packets():
            self._datagrams.append(Datagram(address, data, node_id))


_KINDS: Final[dict[type[RemoteProtocolError], str]] = {
    ForeignCluster: "cluster",
    OtherVersion: "version",
    Unsealed: "unsealed",
    NoKey: "no_key",
    UnknownKey: "unknown_key",
    Forged: "forged",
    Replayed: "replayed",
}


def kind_of_violation(violation: RemoteProtocolError) -> str:
    """The word by which it is counted."""
    return _KINDS.get(type(violation), "malformed")
