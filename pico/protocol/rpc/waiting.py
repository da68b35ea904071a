"""What a node holds of bodies of the base protocol while they wait, and whose call is ended when it is too much.

Responsible for: the account of it, by endpoint and call (``spec/rpc.md``, Bodies that wait). Refuses to know: where the
bytes are, and how a call is ended: its engine knows both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Protocol

from pico.protocol.rpc.events import StreamEvent
from pico.protocol.rpc.stream import RpcStream

__all__ = ["Holder", "WaitingBodies"]


class Holder(Protocol):
    """The engine of a call, as far as the account needs it."""

    def shed(self, stream: RpcStream) -> StreamEvent:
        """End the call, hold nothing of it and release it; what its owner is to be told."""


class WaitingBodies:
    """The account of one node. Whatever ends must be released."""

    def __init__(self, bytes_max: int, tell: Callable[[StreamEvent], None]) -> None:
        """``tell`` brings an event to the owner of its stream, and not before ``hold`` has returned.

        ``bytes_max`` may be changed, and counts from then on.
        """
        self.bytes_max = bytes_max
        self._tell = tell
        self._calls: dict[str, dict[RpcStream, Holder]] = {}  # by endpoint, of each the oldest first
        self._charged: Counter[str] = Counter()  # by endpoint
        self.waiting_bytes = 0
        """All that is counted."""

    def hold(self, endpoint_id: str, stream: RpcStream, holder: Holder, size: int) -> None:
        """The call makes the node hold ``size`` bytes now, at least one; calls are ended until all are few enough."""
        self._calls.setdefault(endpoint_id, {})[stream] = holder
        self._charge(endpoint_id, size - stream.waiting_bytes)
        stream.waiting_bytes = size
        while self.waiting_bytes > self.bytes_max:  # RPC-64
            self._shed()

    def release(self, endpoint_id: str, stream: RpcStream) -> None:
        """The call, which holds something, makes the node hold nothing any more."""
        calls = self._calls[endpoint_id]
        del calls[stream]
        self._charge(endpoint_id, -stream.waiting_bytes)
        stream.waiting_bytes = 0
        if not calls:
            del self._calls[endpoint_id], self._charged[endpoint_id]

    def _charge(self, endpoint_id: str, size: int) -> None:
        self._charged[endpoint_id] += size
        self.waiting_bytes += size

    def _shed(self) -> None:
        endpoint_id = max(self._charged, key=self._charged.__getitem__)  # RPC-65
        calls = self._calls[endpoint_id]
        least_bytes = self._charged[endpoint_id] / len(calls) / 2
        stream = next(one for one in calls if one.waiting_bytes >= least_bytes)
        self._tell(calls[stream].shed(stream))
