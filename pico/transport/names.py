"""From a host name to its addresses.

Responsible for: asking the system in threads of their own, for each name once at a time, however many wait for it, and
not at all for what is an address. Refuses to know: what the addresses are for, and how long anyone waits.

A name server that does not answer holds a thread for as long as the system has patience. So these threads are no
others' (files and pipes have those of the hub), and a name that hangs holds one of them, not one for each dial.
"""

from __future__ import annotations

import _socket
from errno import EAGAIN
from socket import AF_UNSPEC, AI_NUMERICHOST, IPPROTO_TCP, SOCK_STREAM, gaierror
from typing import Any, Final

import gevent
from gevent.hub import get_hub
from gevent.threadpool import ThreadPool

__all__ = ["Address", "Names", "addresses_of", "names"]

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


def addresses_of(host: str, port: int, timeout_s: float | None) -> list[Address] | OSError:
    """The addresses of a host, which may be one itself, in the order of the system, or why there are none.

    Raises ``UnicodeError`` for what is no valid name, and ``gevent.Timeout``, without a time never. Blocks the calling
    greenlet only, and only for a name: an address needs no resolver, and so no thread.
    """
    try:
        return _socket.getaddrinfo(host, port, AF_UNSPEC, SOCK_STREAM, IPPROTO_TCP, AI_NUMERICHOST)
    except (gaierror, UnicodeError):
        pass
    found = names().look_up(host.encode("idna"), timeout_s)
    if isinstance(found, OSError):
        return found
    return [(family, kind, protocol, "", (where[0], port, *where[2:])) for family, kind, protocol, _, where in found]


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
