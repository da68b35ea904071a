"""The memory of the dead: what was known of a node when its record left the table.

Responsible for: keeping the last record of each node that was forgotten, for a stated time, and not more of them than
stated. Refuses to know: why a node is gone. Nothing here is told unless somebody says less than what is here, so the
dead do not circulate; and nobody is learned anew who was known to be worse (``spec/gossip.md``, The dead).
"""

from __future__ import annotations

from typing import NamedTuple

from pico.config import GossipLimits
from pico.protocol.gossip.values import Record

__all__ = ["Memory"]


class _Grave(NamedTuple):
    record: Record
    buried: float


class Memory:
    """The forgotten, in the order in which they were last buried."""

    def __init__(self, limits: GossipLimits) -> None:
        self._limits = limits
        self._graves: dict[str, _Grave] = {}

    def __len__(self) -> int:
        return len(self._graves)

    def recall(self, node_id: str) -> Record | None:
        """What was known of the node."""
        grave = self._graves.get(node_id)
        return None if grave is None else grave.record

    def bury(self, node_id: str, record: Record, *, now: float) -> None:
        """Remember the record, which is more than what was known. The oldest makes room."""
        known = self._graves.pop(node_id, None)
        assert known is None or known.record < record, "what was known of the dead went back"
        self._graves[node_id] = _Grave(record, now)
        if len(self._graves) > self._limits.memory_nodes_max:  # GOSSIP-47
            del self._graves[next(iter(self._graves))]

    def release(self, node_id: str) -> None:
        """The node is known again."""
        self._graves.pop(node_id, None)

    def next_timer(self) -> float | None:
        """When the oldest is forgotten for good."""
        for grave in self._graves.values():
            return grave.buried + self._limits.memory_s
        return None

    def expire(self, *, now: float) -> None:
        """Forget for good whom it is time to forget."""
        while (due := self.next_timer()) is not None and due <= now:  # GOSSIP-47
            del self._graves[next(iter(self._graves))]
