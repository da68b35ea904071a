"""What the tunnels of a node hold of messages that have not ended or left, and who is ended when it is too much.

Responsible for: the account of it, by tunnel and by source address (``spec/tunnel.md``, Messages that do not end).
Refuses to know: where the bytes are, and how a tunnel is ended.
"""

from __future__ import annotations

from collections import Counter

__all__ = ["Unfinished"]


class _Held:
    """What one tunnel has of messages each way, and since when; moments are numbers that grow."""

    __slots__ = ("arriving", "arriving_since", "counted", "leaving", "leaving_since")

    def __init__(self) -> None:
        self.arriving = self.leaving = self.counted = 0
        self.arriving_since = self.leaving_since = 0

    def note(self, arriving: int, leaving: int, moment: int) -> None:
        """So much it is now. Who takes some of what leaves is not done with it, who has less that arrives is."""
        if not self.arriving or arriving < self.arriving:
            self.arriving_since = moment
        if not self.leaving or not leaving:
            self.leaving_since = moment
        self.arriving, self.leaving = arriving, leaving

    @property
    def since(self) -> int:
        """Of both ways the earlier one."""
        return min(self.arriving_since, self.leaving_since)


class Unfinished:
    """The account of one node. Whoever is ended for another reason must be released."""

    def __init__(self, bytes_max: int, free_bytes: int) -> None:
        """Of each tunnel ``free_bytes`` are not counted; ``bytes_max`` may be changed, and counts from then on."""
        self.bytes_max = bytes_max
        self._free_bytes = free_bytes
        self._held: dict[str, dict[str, _Held]] = {}  # by address and tunnel
        self._charged: Counter[str] = Counter()  # by address
        self._moment = 0
        self.held_bytes = 0
        """All that is counted."""

    def hold(self, tunnel: str, address: str, *, arriving: int = 0, leaving: int = 0) -> list[str]:
        """A tunnel has so many bytes of messages each way; the tunnels that must be ended for it, released already."""
        counted = max(0, arriving + leaving - self._free_bytes)  # TUN-42
        if not counted:
            self.release(tunnel, address)
            return []
        held = self._held.setdefault(address, {}).setdefault(tunnel, _Held())
        self._moment += 1
        held.note(arriving, leaving, self._moment)
        self._charge(address, counted - held.counted)
        held.counted = counted
        return self._too_many()

    def release(self, tunnel: str, address: str) -> None:
        """The tunnel holds nothing any more; nothing happens when it never did."""
        tunnels = self._held.get(address, {})
        if tunnel not in tunnels:
            return
        self._charge(address, -tunnels.pop(tunnel).counted)
        if not tunnels:
            del self._held[address], self._charged[address]

    def _charge(self, address: str, size: int) -> None:
        self._charged[address] += size
        self.held_bytes += size

    def _too_many(self) -> list[str]:
        losers = []
        while self.held_bytes > self.bytes_max:  # TUN-43
            address = max(self._charged, key=self._charged.__getitem__)
            tunnels = self._held[address]
            tunnel = min(tunnels, key=lambda one: tunnels[one].since)
            self.release(tunnel, address)
            losers.append(tunnel)
        return losers
