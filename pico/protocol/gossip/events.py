"""What a member asks of its driver, and what it tells it: one small value for each.

Responsible for: the words between ``GossipEngine`` and whoever drives it. Refuses to know: when they are said.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from pico.protocol.gossip.values import Address, Entry, Record

__all__ = ["Contested", "Datagram", "Event", "ExchangeWanted", "GossipSnapshot", "NodeChanged"]


class Datagram(NamedTuple):
    """To be sent."""

    address: Address
    data: bytes
    node_id: str
    """Whose address it is, if that is known."""


class NodeChanged(NamedTuple):
    """Something else is known of a node, this one perhaps: ``GossipEngine.table`` has it all."""

    node_id: str
    entries: tuple[Entry, ...] | None
    """What was added to its copy; None: look at all of it, and at its record."""


class ExchangeWanted(NamedTuple):
    """Make an exchange over a stream; call ``exchange_ended`` afterwards, whatever came of it.

    While one with that node has not begun, another one that is wanted is the same.
    """

    address: Address
    node_id: str
    """Who should be there; empty for a seed."""
    sequence: int | None
    """Of the probe that the exchange answers when it succeeds."""


class Contested(NamedTuple):
    """Another process has this node's ID, and neither gives way: this one must stop."""


Event = NodeChanged | ExchangeWanted | Contested


@dataclass(frozen=True, slots=True)
class GossipSnapshot:
    """The engine at one moment, for status and metrics."""

    record: Record
    records: dict[str, Record]
    health: int
    joined: bool
    absent: int
    rounds: int
    received: int
    violations: dict[str, int]
