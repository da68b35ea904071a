"""At which address others reach this node.

Responsible for: finding it out, again where it was no more than a guess or is no address of the machine any more.
Refuses to know: the ports, and who is told.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Final

from pico.errors import ConfigError, TransportError
from pico.node.seeds import Seeds
from pico.node.system import System
from pico.protocol.gossip.values import Address

__all__ = ["OwnAddress"]

SOMEWHERE: Final = ("192.0.2.1", 9)
"""An address that is nobody's (RFC 5737): the system is asked by which of its own addresses it would go there."""

NOWHERE: Final = ("127.0.0.1", "::1")
"""Where only processes of the same machine reach a node: it has found nothing better."""

_log = logging.getLogger("pico.cluster")


class OwnAddress:
    """One per node. ``host`` is an address as it is written, and empty before ``find``."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._is_named = False  # by an option, so it stays
        self._has_moved = False
        self._towards: Address = SOMEWHERE  # by whom it was found out; no more than a guess as long as it is this
        self.host = ""

    @property
    def is_guess(self) -> bool:
        """Whether another node may show it better."""
        return not self._is_named and (self._towards == SOMEWHERE or self.host in NOWHERE)

    def find(self, named: str, seeds: Seeds) -> None:
        """``named`` is what options say, if they do. Blocks the calling greenlet for a name, and for names of seeds.

        Raises ``ConfigError`` for a name that leads nowhere, and ``TransportError`` when there is no address now at
        which nodes that were named reach this one.
        """
        self._is_named = bool(named) and not _is_everywhere(named)
        if self._is_named:
            self.host = self._numeric(named)
            return
        self._towards = seeds.first(self._is_elsewhere) or SOMEWHERE
        host = self._system.own_address_towards(self._towards)
        if not host and seeds.named:
            raise TransportError(
                "no address was found at which other nodes reach this one: --advertise-gossip names one"
            )
        self.host = host or NOWHERE[0]

    def look_again(self, others: Sequence[Address]) -> bool:
        """Find it out again when these others say it better, or it has gone (CLUSTER-20). Whether it is another one."""
        before = self.host
        if self._is_named or not before:
            return False
        # What was found while an address was away may be a way round: from then on it is looked at each time.
        self._has_moved |= not self._system.has_address(before)
        if self._has_moved or self.is_guess:
            self._towards = next(filter(self._is_elsewhere, others), self._towards)
            self.host = self._system.own_address_towards(self._towards) or before
        if self._has_moved and self.host != before:
            _log.warning("others reach this node at %s now, and no more at %s", self.host, before)
        return self.host != before

    def _is_elsewhere(self, other: Address) -> bool:
        """Whether this machine speaks to it by an address at which others reach this one (CLUSTER-22)."""
        return self._system.own_address_towards(other) not in ("", *NOWHERE)

    def _numeric(self, host: str) -> str:
        try:
            return str(ip_address(host))
        except ValueError:
            found = self._system.resolve(host, 1)
        if not found:
            raise ConfigError("--advertise-gossip", host, "an address, or a name that leads to one")
        return found[0][0]


def _is_everywhere(host: str) -> bool:
    try:
        return ip_address(host).is_unspecified
    except ValueError:
        return False
