"""A few gossip tables in virtual time, and a network that is worse than life.

Responsible for: a heap of what happens when, the trouble that packets get into, and what must hold after each event.
Refuses to know: how tables work. The rounds are the simplest there could be, one digest to one node by chance; they
stand in for the engine that will decide when to speak.

Everything comes from one seed: the same seed gives the same log. Packets are encoded and decoded on their way.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from pico.config import GossipLimits
from pico.protocol.gossip import GossipTable, PacketCodec, Rank, Record
from tests.gossip_side import answered, by_stream, digest_of
from tests.property.gossip_history import KEYS, VALUES, History

ROUND_S = 0.2


@dataclass
class Network:
    """What may happen to a packet; streams share it but for reordering by repeats."""

    loss: float = 0.0
    repeat: float = 0.0
    delay_s: float = 0.01
    """The longest: delays of several rounds reorder everything."""


class Node:
    """One process: a table, and the owner's history that outlives it."""

    def __init__(self, world: World, node_id: str) -> None:
        self.world = world
        self.node_id = node_id
        self.seen: dict[str, tuple[Record, int, int]] = {}
        self.lives = 0
        self.histories: list[History] = []
        self.start()

    def start(self) -> None:
        """A process with a memory of nothing and a higher life."""
        self.lives += 1
        limits = self.world.limits
        codec = PacketCodec("prod", self.node_id, limits)
        life = (1 << 30) + (self.lives << 22) + self.world.rng.getrandbits(22)
        self.codec, self.table = codec, GossipTable(codec, life, limits, self.world.rng)
        self.histories.append(History(self.table.own))
        self.seen = {}
        self.up = True

    def history_of(self, life: int) -> History | None:
        for history in self.histories:
            if life in history.writes or life == history.own.life:
                return history
        return None


class World:
    """Time, the nodes and what is on its way."""

    def __init__(self, seed: int, count: int, network: Network, **limits: float) -> None:
        self.rng = Random(seed)
        self.limits = GossipLimits(**limits)  # type: ignore[arg-type]
        self.network = network
        self.now = 0.0
        self.log: list[str] = []
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = 0
        self.nodes = {name: Node(self, name) for name in [f"n{number}" for number in range(count)]}
        for node in self.nodes.values():
            self.at(self.rng.random() * ROUND_S, self._round(node))

    def at(self, delay_s: float, event: Callable[[], None]) -> None:
        self._sequence += 1
        heapq.heappush(self._heap, (self.now + delay_s, self._sequence, event))

    def run(self, seconds: float) -> None:
        until = self.now + seconds
        while self._heap and self._heap[0][0] <= until:
            self.now, _, event = heapq.heappop(self._heap)
            event()
        self.now = until

    def up(self) -> list[Node]:
        return [node for node in self.nodes.values() if node.up]

    # What nodes do.

    def write(self, node: Node) -> None:
        key, value = self.rng.choice(KEYS), self.rng.choice((None, *VALUES))
        node.histories[-1].write("delete" if value is None else "put", key, value)

    def compact(self, node: Node) -> None:
        node.table.own.compact(self.rng.randrange(node.table.own.applied + 1))

    def _round(self, node: Node) -> Callable[[], None]:
        def speak() -> None:
            others = [other.node_id for other in self.nodes.values() if other is not node]
            if node.up:
                node.table.handle_timer(now=self.now)
                self.check(node)
                to = self.rng.choice(others)
                for packet in digest_of(node.table):
                    self.send(node.node_id, to, packet)
            self.at(ROUND_S * self.rng.uniform(0.9, 1.1), speak)

        return speak

    def send(self, source: str, to: str, packet: bytes, *, stream: bool = False) -> None:
        assert stream or len(packet) <= self.limits.packet_bytes_max
        copies = 1 + (self.rng.random() < self.network.repeat)
        for _ in range(copies):
            if self.rng.random() >= self.network.loss:
                self.at(self.rng.random() * self.network.delay_s, lambda: self._arrive(source, to, packet))

    def _arrive(self, source: str, to: str, packet: bytes) -> None:
        node = self.nodes[to]
        if not node.up:
            return
        packets_max = self.limits.answer_packets_max
        answer = answered(node.table, node.codec.decode(packet), packets_max=packets_max, now=self.now)
        node.histories[-1].note()  # A new life writes all again.
        self.log.append(f"{self.now:.6f} {source}>{to} {len(packet)} {len(answer.packets)}")
        self.check(node)
        for data in answer.packets:
            self.send(to, source, data)
        for node_id in answer.behind:
            [data] = by_stream(node.table, node_id)
            self.send(to, source, data, stream=True)

    # What must hold.

    def check(self, node: Node) -> None:
        """Safety, after every event: nothing that was not said, nothing missing, nothing goes back."""
        for node_id, record in node.table.members().items():
            state = node.table.state_of(node_id)
            assert state is not None and state.life == record.life
            history = self.nodes[node_id].history_of(record.life)
            assert history is not None, "a life that nobody had"
            history.check(state)
            seen = node.seen.get(node_id)
            if seen is not None:
                assert record >= seen[0], "a record went back"
                if record.life == seen[0].life and not record.gone and not seen[0].gone:
                    assert (state.applied, state.floor) >= seen[1:], "a copy went back"
            node.seen[node_id] = record, state.applied, state.floor
        for node_id, (record, _, _) in node.seen.items():
            if node_id not in node.table.members():
                known = node.table.record_of(node_id)
                assert known is not None and known >= record and known.gone, "forgotten without a memory"

    def agree(self) -> bool:
        """Everybody who is up knows everybody who is up, and nobody else, by what they say now."""
        names = {node.node_id for node in self.up()}
        for node in self.up():
            alive = {name for name, record in node.table.members().items() if not record.gone}
            if alive | {node.node_id} != names:
                return False
            for name in names:
                state, own = node.table.state_of(name), self.nodes[name].table.own
                if state is None or state.life != own.life or state.live() != own.live():
                    return False
        return True

    def judge(self, node: Node, node_id: str, rank: Rank) -> None:
        record = node.table.record_of(node_id)
        if record is not None:
            node.table.judge(node_id, record, rank, now=self.now)
