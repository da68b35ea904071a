"""From a host name to its addresses.

Responsible for: asking the system in threads of their own, for each name once at a time, however many wait for it; and
where a host of this machine can be bound to. Refuses to know: what the addresses are for, and how long anyone waits.

A name server that does not answer holds a thread for as long as the system has patience. So these threads are no
others' (files and pipes have those of the hub), and a name that hangs holds one of them, not one for each dial.
"""

from __future__ import annotations

import _socket
from errno import EAGAIN, EINVAL
from socket import AF_INET, AF_UNSPEC, AI_NUMERICHOST, IPPROTO_TCP, SOCK_STREAM, gaierror
from typing import Any, Final

import gevent
from gevent.hub import get_hub
from gevent.threadpool import ThreadPool

__all__ = ["Address", "Names", "names", "own_address"]

LOOK_UPS_MAX: Final = 32
"""Names that are asked for at one time; further ones wait."""

Address = tuple[int, int, int, str, Any]
"""Of one row: family, kind and protocol of a socket, a name, and where it is to connect."""


def names() -> Names:
    """The look-ups of the calling hub, which no other may use."""
    hub = get_hub()
    found = _names.get(hub)
    if found is None:
        found = _names[hub] = Names()
    return found


def own_address(host: str, port: int) -> tuple[int, Any]:
    """Family and address of a socket that is to be bound to that host, IPv4 where it has both. Raises ``OSError``.

    Blocks the calling greenlet only. An address needs no resolver, and so no thread.
    """
    try:
        found = _socket.getaddrinfo(host, port, AF_UNSPEC, SOCK_STREAM, IPPROTO_TCP, AI_NUMERICHOST)
    except (gaierror, UnicodeError):
        try:
            name = host.encode("idna")
        except UnicodeError as error:
            raise OSError(EINVAL, "not a valid name") from error
        outcome = names().look_up(name, None)
        if isinstance(outcome, OSError):
            raise outcome from None
        found = outcome
    family, _, _, _, where = min(found, key=lambda info: info[0] != AF_INET)
    return family, (where[0], port, *where[2:])


class Names:
    """The look-ups that are under way."""

    def __init__(self) -> None:
        self._threads: Any = ThreadPool(LOOK_UPS_MAX)
        self._under_way: dict[bytes, Any] = {}  # greenlets

    def look_up(self, name: bytes, timeout_s: float | None) -> list[Address] | OSError:
        """The addresses of a name in the order of the system, with port 0, or why there are none.

        Raises ``gevent.Timeout``, without a time never; the look-up goes on, for whoever asks for that name next.
        """
        asked = self._under_way.get(name)
        if asked is None:
            asked = self._under_way[name] = gevent.spawn(self._ask, name)
        outcome: list[Address] | OSError = asked.get(timeout=timeout_s)
        return outcome

    def _ask(self, name: bytes) -> list[Address] | OSError:
        try:
            return self._threads.apply(_outcome, (name,))  # type: ignore[no-any-return]
        except RuntimeError as error:  # the system has no thread left
            return OSError(EAGAIN, str(error))
        finally:
            del self._under_way[name]


def _outcome(name: bytes) -> list[Address] | OSError:
    """What was found or raised: the thread would print what is raised."""
    try:
        return _socket.getaddrinfo(name, 0, AF_UNSPEC, SOCK_STREAM, IPPROTO_TCP)
    except OSError as error:
        return error


_names: Final[dict[Any, Names]] = {}  # by hub, of which a program has one for each thread that uses any
