"""Datagrams: what sends and receives them, once on a UDP socket and once in a network in memory.

Responsible for: getting datagrams out and in without ever blocking, and a network for tests and simulators that loses,
repeats, delays and cuts as it is told. Refuses to know: what the bytes mean, names that must be resolved, and whether
anything arrives.

A receiver is called in the hub and must not block. One that raises is a bug of ours: the fault is reported, and what
comes next is delivered as ever. Nothing that a peer or a network does ends the receiving; it is counted.
"""

from __future__ import annotations

import _socket
import errno
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from random import Random
from socket import (
    AF_INET6,
    AI_NUMERICHOST,
    AI_V4MAPPED,
    IPPROTO_IPV6,
    IPV6_V6ONLY,
    SO_RCVBUF,
    SOCK_CLOEXEC,
    SOCK_DGRAM,
    SOCK_NONBLOCK,
    SOL_SOCKET,
)
from typing import Any, Final, Protocol

from gevent.hub import get_hub

from pico.transport.addresses import bound_at, readable
from pico.transport.clock import Clock

__all__ = [
    "DATAGRAM_BYTES_MAX",
    "Address",
    "DatagramCounts",
    "DatagramReceiver",
    "DatagramSocket",
    "Datagrams",
    "LinkQuality",
    "MemoryDatagrams",
    "MemoryNetwork",
]

DATAGRAM_BYTES_MAX: Final = 65_507
"""The largest payload of UDP over IPv4."""

RECV_BYTES: Final = 65_535  # no datagram is larger, so none is cut without our seeing it
TURN_MAX: Final = 64
"""Datagrams that one turn of the hub may bring."""

SYSTEM_BUFFER_BYTES: Final = 1 << 20  # asked of the system, which may give less

ADDRESSES_MAX: Final = 4096
"""Addresses of which it is remembered how the system takes them."""

_READ: Final = 1  # event of the loop
_NUMERIC: Final = AI_NUMERICHOST | AI_V4MAPPED

_log = logging.getLogger("pico.transport")

Address = tuple[str, int]
"""A numeric host, an IPv4 one always as such, and a port."""

DatagramReceiver = Callable[[bytes, Address], object]
"""Takes one datagram, and where it came from."""


@dataclass(slots=True)
class DatagramCounts:
    """What happened since the beginning."""

    sent: int = 0
    received: int = 0
    send_failures: int = 0  # the system or the network would not take it
    receive_errors: int = 0
    oversized: int = 0  # above our own limit, sent or received


class Datagrams(Protocol):
    """Something bound to an address that sends and receives datagrams."""

    address: Address
    counts: DatagramCounts

    def send(self, data: bytes, address: Address) -> bool:
        """Whether the datagram left; that it did says nothing about its arrival."""

    def close(self) -> None:
        """Send and receive nothing more."""


def _deliver(counts: DatagramCounts, received: DatagramReceiver, bytes_max: int, data: bytes, source: Address) -> None:
    """Give one datagram to its receiver."""
    if len(data) > bytes_max:
        counts.oversized += 1
        return
    counts.received += 1
    try:
        received(data, source)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:
        _log.exception("a receiver of datagrams failed")


class DatagramSocket:
    """Datagrams on a UDP socket. Raises ``OSError`` when the address cannot be bound.

    An empty ``host`` is every address of both families; a port 0 is one that the system chooses. A socket that is
    ``bound`` already is taken over, and the address not looked at.
    """

    def __init__(
        self,
        host: str,
        port: int,
        received: DatagramReceiver,
        *,
        bytes_max: int = DATAGRAM_BYTES_MAX,
        turn_max: int = TURN_MAX,
        bound: Any = None,
    ) -> None:
        self._received = received
        self._bytes_max = bytes_max
        self._turn_max = turn_max
        self._scratch = memoryview(bytearray(RECV_BYTES))
        self._sock = bound_at(host, port, _bound) if bound is None else _socket.socket(fileno=bound.detach())
        self.address: Address = self._sock.getsockname()[:2]
        self.counts = DatagramCounts()
        self._reader: Any = get_hub().loop.io(self._sock.fileno(), _READ)
        self._reader.start(self._on_readable)

    def send(self, data: bytes, address: Address) -> bool:
        """See ``Datagrams``; a host that is not numeric is one to which nothing can be sent."""
        if len(data) > self._bytes_max:
            self.counts.oversized += 1
            return False
        try:
            self._sock.sendto(data, _system_address(self._sock.family, address))
        except (OSError, UnicodeError, OverflowError):
            self.counts.send_failures += 1
            return False
        self.counts.sent += 1
        return True

    def close(self) -> None:
        """See ``Datagrams``."""
        if self._reader is not None:
            self._reader.close()  # first, because the descriptor's number is used again
            self._reader = None
            self._sock.close()

    def _on_readable(self) -> None:
        for _ in range(self._turn_max):
            if self._reader is None:  # closed by the receiver
                return
            try:
                size, source = self._sock.recvfrom_into(self._scratch)
            except BlockingIOError:
                return
            except OSError:
                self.counts.receive_errors += 1
                return
            _deliver(self.counts, self._received, self._bytes_max, bytes(self._scratch[:size]), readable(source))


def _bound(family: int, address: Any) -> _socket.socket:
    # The plain C object: a gevent socket would bring watchers of its own.
    sock = _socket.socket(family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC)
    try:
        sock.setsockopt(SOL_SOCKET, SO_RCVBUF, SYSTEM_BUFFER_BYTES)
        if family == AF_INET6:
            sock.setsockopt(IPPROTO_IPV6, IPV6_V6ONLY, 0 if address[0] == "::" else 1)
        sock.bind(address)
    except BaseException:
        sock.close()
        raise
    return sock


@lru_cache(maxsize=ADDRESSES_MAX)
def _system_address(family: int, address: Address) -> Any:
    """As a socket of this family takes it; asks nobody, and so never waits."""
    return _socket.getaddrinfo(address[0], address[1], family, SOCK_DGRAM, 0, _NUMERIC)[0][4]


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkQuality:
    """What a network in memory does to the datagrams from one address to another."""

    loss: float = 0.0
    """How many of them are lost, from 0 to 1."""
    duplication: float = 0.0
    """How many of the others arrive twice."""
    delay_s: float = 0.0
    jitter_s: float = 0.0
    """Drawn evenly for each, on top of the delay; so they overtake each other."""
    cut: bool = False
    """Nothing arrives, also of what is on its way; the sender sees nothing of it."""
    unreachable: bool = False
    """Nothing can be sent, and the sender sees it."""


class MemoryNetwork:
    """A network of addresses on one clock, for tests and simulators.

    ``links`` says how the way from one address to another is where it is not as ``quality``; both may change at any
    time. All chance is that of ``rng``: on a ``ManualClock`` the same calls give the same run.
    """

    def __init__(self, clock: Clock, rng: Random, quality: LinkQuality | None = None) -> None:
        self.quality = quality or LinkQuality()
        self.links: dict[tuple[Address, Address], LinkQuality] = {}
        self._clock = clock
        self._rng = rng
        self._bound: dict[Address, MemoryDatagrams] = {}

    def bind(
        self, host: str, port: int, received: DatagramReceiver, *, bytes_max: int = DATAGRAM_BYTES_MAX
    ) -> MemoryDatagrams:
        """Datagrams at this address; a port 0 is the next free one. Raises ``OSError`` when it is in use."""
        if not port:
            port = next(free for free in range(49_152, 65_536) if (host, free) not in self._bound)
        if (host, port) in self._bound:
            raise OSError(errno.EADDRINUSE, "Address already in use")
        bound = self._bound[host, port] = MemoryDatagrams(self, (host, port), received, bytes_max)
        return bound

    def quality_of(self, source: Address, target: Address) -> LinkQuality:
        """What happens to datagrams on this way now."""
        return self.links.get((source, target), self.quality)

    def _carry(self, data: bytes, source: Address, target: Address) -> None:
        quality, rng = self.quality_of(source, target), self._rng
        if quality.cut or rng.random() < quality.loss:
            return
        for _ in range(2 if rng.random() < quality.duplication else 1):
            delay_s = quality.delay_s + rng.random() * quality.jitter_s
            self._clock.timer(partial(self._arrive, data, source, target)).start(delay_s)

    def _arrive(self, data: bytes, source: Address, target: Address) -> None:
        bound = self._bound.get(target)
        if bound is not None and not self.quality_of(source, target).cut:
            _deliver(bound.counts, bound._received, bound._bytes_max, data, source)

    def _release(self, bound: MemoryDatagrams) -> None:
        if self._bound.get(bound.address) is bound:
            del self._bound[bound.address]


class MemoryDatagrams:
    """Datagrams at one address of a network in memory; made by ``MemoryNetwork.bind``."""

    def __init__(self, network: MemoryNetwork, address: Address, received: DatagramReceiver, bytes_max: int) -> None:
        self.address = address
        self.counts = DatagramCounts()
        self._network = network
        self._received = received
        self._bytes_max = bytes_max
        self._closed = False

    def send(self, data: bytes, address: Address) -> bool:
        """See ``Datagrams``."""
        if len(data) > self._bytes_max:
            self.counts.oversized += 1
            return False
        if self._closed or self._network.quality_of(self.address, address).unreachable:
            self.counts.send_failures += 1
            return False
        self.counts.sent += 1
        self._network._carry(data, self.address, address)
        return True

    def close(self) -> None:
        """See ``Datagrams``."""
        self._closed = True
        self._network._release(self)
