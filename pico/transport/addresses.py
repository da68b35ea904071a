"""Addresses of sockets: which one a host stands for, and how one is told.

Responsible for: the address to bind, whatever families a system has, and an IPv4 address that is always written as one.
Refuses to know: whose address it is, and what kind of socket has it.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from socket import AF_INET, AF_INET6
from typing import Any, Final, TypeVar

from pico.transport.names import addresses_of

__all__ = ["bound_at", "readable"]

_MAPPED: Final = "::ffff:"  # before an IPv4 address at a socket that serves both families

S = TypeVar("S")


def bound_at(host: str, port: int, bind: Callable[[int, Any], S]) -> S:
    """What ``bind`` makes of the family and the address of ``host``, or of every address where it is empty.

    Raises ``OSError``. Blocks the calling greenlet only, and only for a name.
    """
    if host:
        return bind(*_own_address(host, port))
    try:
        return bind(AF_INET6, ("::", port))  # serves both families
    except OSError as error:
        if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
            raise
        return bind(AF_INET, ("0.0.0.0", port))


def _own_address(host: str, port: int) -> tuple[int, Any]:
    """Family and address of the host, of IPv4 where it has both."""
    try:
        found = addresses_of(host, port, None)
    except UnicodeError as error:
        raise OSError(errno.EINVAL, "not a valid name") from error
    if isinstance(found, OSError):
        raise found
    family, _, _, _, where = min(found, key=lambda info: info[0] != AF_INET)
    return family, where


def readable(address: tuple[Any, ...]) -> tuple[str, int]:
    """Host and port of an address as the system has it, of either family."""
    host: str = address[0]
    return (host[len(_MAPPED) :] if host.startswith(_MAPPED) and "." in host else host), address[1]
