"""What a node asks of the machine it runs on, apart from the ports that it opens itself.

Responsible for: the time of day, chance, names, and the ways to other nodes, as one argument, so that a simulator can
give a node another machine. Refuses to know: what any of it is for. The time that passes is the ``Clock``'s.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from errno import EADDRNOTAVAIL

from pico.protocol.gossip.values import Address
from pico.transport.datagrams import Datagrams, DatagramSocket
from pico.transport.dial import dial
from pico.transport.inherited import Inherited
from pico.transport.names import addresses_of
from pico.transport.stream import Stream

__all__ = ["System"]


class System:
    """The real machine."""

    inherited = Inherited()
    """Doors that were opened before the process was started."""

    time_of_day = staticmethod(time.time)
    """Seconds since 1970."""

    random_bytes = staticmethod(os.urandom)
    """So many bytes that nobody can foresee."""

    def dial(self, address: Address, timeout_s: float) -> Stream:
        """A stream to that address; raises ``ConnectFailed`` or ``TransportTimeout``. Blocks the calling greenlet."""
        return dial(*address, timeout_s=timeout_s)

    def bind_datagrams(self, host: str, port: int, received: Callable[[bytes, Address], None]) -> Datagrams:
        """Datagrams at that address. Raises ``OSError`` when it cannot be had."""
        return DatagramSocket(host, port, received, bound=self.inherited.datagram("gossip"))

    def resolve(self, host: str, port: int) -> list[Address]:
        """Where a name leads; nothing when it leads nowhere now. Blocks the calling greenlet only."""
        try:
            found = addresses_of(host, port, None)
        except UnicodeError:
            return []
        return [] if isinstance(found, OSError) else list(dict.fromkeys((str(info[4][0]), port) for info in found))

    def own_address_towards(self, address: Address) -> str:
        """By which of its addresses this machine would speak to that one, or nothing; nothing is sent."""
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as sock:
                sock.connect(address)
                return str(sock.getsockname()[0])
        except OSError:
            return ""

    def has_address(self, host: str) -> bool:
        """Whether that address, written as numbers, is one of this machine's now."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as sock:
                sock.bind((host, 0))
        except OSError as error:
            return error.errno != EADDRNOTAVAIL  # no open file is left, say
        return True
