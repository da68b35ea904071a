"""What the tunnels of a node hold of messages that have not ended or left, and who is ended when it is too much.

Responsible for: the account of it, by tunnel and by source address (``spec/tunnel.md``, Messages that do not end).
Refuses to know: where the bytes are, and how a tunnel is ended.
"""

from __future__ import annotations

from collections import Counter

__all__ = ["Unfinished"]


class Unfinished:
    """The account of one node. Whoever is ended for another reason must be released."""

    def __init__(self, bytes_max: int, free_bytes: int) -> None:
        """Of each message ``free_bytes`` are not counted; ``bytes_max`` may be changed, and counts from then on."""
        self.bytes_max = bytes_max
        self._free_bytes = free_bytes
        self._held: dict[str, dict[str, int]] = {}  # by address and tunnel, of each address the oldest first
        self._charged: Counter[str] = Counter()  # by address
        self.held_bytes = 0
        """All that is counted."""

    def hold(self, tunnel: str, address: str, size: int) -> list[str]:
        """A tunnel has ``size`` bytes of messages now; the tunnels that must be ended for it, released already."""
        counted = max(0, size - self._free_bytes)  # TUN-42
        before = self._held.get(address, {}).get(tunnel, 0)
        if counted < before:  # TUN-43: of another message
            self.release(tunnel, address)
            before = 0
        if counted == before:
            return []
        self._held.setdefault(address, {})[tunnel] = counted
        self._charge(address, counted - before)
        return self._too_many()

    def release(self, tunnel: str, address: str) -> None:
        """The tunnel holds nothing any more; nothing happens when it never did."""
        tunnels = self._held.get(address, {})
        if tunnel not in tunnels:
            return
        self._charge(address, -tunnels.pop(tunnel))
        if not tunnels:
            del self._held[address], self._charged[address]

    def _charge(self, address: str, size: int) -> None:
        self._charged[address] += size
        self.held_bytes += size

    def _too_many(self) -> list[str]:
        losers = []
        while self.held_bytes > self.bytes_max:  # TUN-43
            address = max(self._charged, key=self._charged.__getitem__)
            tunnel = next(iter(self._held[address]))
            self.release(tunnel, address)
            losers.append(tunnel)
        return losers
