"""How long to wait before the next dial.

Responsible for: the growth of the waits and their chance. Refuses to know: the time, and what failed. The waits are
drawn from the whole range below a growing ceiling (*full jitter*), so that agents which lost the same node at the same
moment do not come back at the same moment. The ceiling grows once for each round through the servers, so that the
second server is not punished for the first.
"""

from __future__ import annotations

from typing import Protocol

from pico.config import LinkTimers

__all__ = ["Backoff", "Chance"]

EXPONENT_MAX = 64
"""Past this the ceiling is the cap, with any factor worth setting; it keeps the power from overflowing."""


class Chance(Protocol):
    """What is asked of a random generator: ``random.Random`` has it."""

    def uniform(self, a: float, b: float, /) -> float:
        """A number between ``a`` and ``b``."""


class Backoff:
    """The waits after failures in a row."""

    def __init__(self, timers: LinkTimers, server_count: int, rng: Chance) -> None:
        self.timers = timers
        self._server_count = server_count
        self._rng = rng
        self.failures = 0

    def ceiling_s(self) -> float:
        """The longest wait that may be drawn now (TUN-22)."""
        rounds = min(max(0, self.failures - 1) // self._server_count, EXPONENT_MAX)
        timers = self.timers
        return min(timers.backoff_max_s, timers.backoff_first_s * timers.backoff_factor**rounds)

    def failed(self) -> float:
        """Count a failure; the wait before the next dial."""
        self.failures += 1
        return self._rng.uniform(0.0, self.ceiling_s())  # TUN-22

    def reset(self) -> None:
        """The last tunnel was stable: the next failure is the first again (TUN-23)."""
        self.failures = 0
