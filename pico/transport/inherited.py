"""Sockets that a service manager has opened: systemd's socket activation.

Responsible for: finding them, and judging whether each is what its name says. Refuses to know: what is spoken on them.

The manager keeps them open while a process is exchanged for another, so clients wait and are not refused. Whoever
listens on one gets a copy, because a part that is started anew needs it again.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, MutableMapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Final

import gevent.monkey

from pico.errors import ConfigError

__all__ = ["DOORS", "Inherited"]

FIRST_DESCRIPTOR: Final = 3
DESCRIPTORS_MAX: Final = 64
DOORS: Final = ("proxy", "upstream", "admin", "gossip")
NAMES: Final = f"{', '.join(DOORS[:-1])} or {DOORS[-1]}, for each socket in turn"

_Socket: Any = gevent.monkey.get_original("socket", "socket")


@dataclass(frozen=True, slots=True)
class Inherited:
    """By the name of a door, the descriptor on which it is open already."""

    streams: Mapping[str, int] = field(default_factory=dict)
    datagrams: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def from_environment(
        cls, environment: MutableMapping[str, str], pid: int, first: int = FIRST_DESCRIPTOR
    ) -> Inherited:
        """What was handed to this process. It is taken out of the environment, and no child inherits it.

        Raises ``ConfigError`` when something of it cannot be used.
        """
        given = environment.pop("LISTEN_FDS", "")
        named = environment.pop("LISTEN_FDNAMES", "")
        if environment.pop("LISTEN_PID", "") != str(pid) or not given:
            return cls()  # meant for another process
        if not (given.isascii() and given.isdigit() and int(given) <= DESCRIPTORS_MAX):
            raise ConfigError("LISTEN_FDS", given, f"a number of sockets, {DESCRIPTORS_MAX} at most")
        names = named.split(":") if named else []
        if len(names) != int(given):
            raise ConfigError("LISTEN_FDNAMES", named, f"{given} names: {NAMES}")
        streams: dict[str, int] = {}
        datagrams: dict[str, int] = {}
        for descriptor, name in enumerate(names, first):
            if name not in DOORS:
                raise ConfigError("LISTEN_FDNAMES", name, NAMES)
            kind = streams if _is_stream(descriptor, name) else datagrams
            if name in kind or (kind is datagrams and name != "gossip"):
                raise ConfigError("LISTEN_FDNAMES", name, "one TCP socket for each door, and one UDP socket for gossip")
            kind[name] = descriptor
        _check_gossip(streams.get("gossip"), datagrams.get("gossip"))
        return cls(streams, datagrams)

    def stream(self, door: str) -> Any:
        """A copy of what listens for a door, or None."""
        return _copy(self.streams.get(door))

    def datagram(self, door: str) -> Any:
        """A copy of what gets datagrams for a door, or None."""
        return _copy(self.datagrams.get(door))

    def address(self, door: str) -> tuple[str, int] | None:
        """Where a door has been opened."""
        descriptor = self.streams.get(door)
        return None if descriptor is None else _address(descriptor)


def _is_stream(descriptor: int, name: str) -> bool:
    """Whether it brings connections; else it brings datagrams. Raises ``ConfigError`` when it is neither."""
    expected = f"a listening TCP socket for {name}" + (", or a UDP socket" if name == "gossip" else "")
    try:
        os.set_inheritable(descriptor, False)
        with closing(_copy(descriptor)) as sock:
            if sock.family in (socket.AF_INET, socket.AF_INET6):
                if sock.type == socket.SOCK_DGRAM:
                    return False
                if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    return True
    except OSError as error:
        raise ConfigError("LISTEN_FDS", f"descriptor {descriptor}: {error.strerror}", expected) from error
    raise ConfigError("LISTEN_FDS", f"descriptor {descriptor}", expected)


def _check_gossip(stream: int | None, datagram: int | None) -> None:
    """Both or neither, on one port: a node tells the others one number. Raises ``ConfigError``."""
    ports = [_address(descriptor)[1] for descriptor in (stream, datagram) if descriptor is not None]
    if ports and (len(ports) != 2 or ports[0] != ports[1]):
        raise ConfigError("LISTEN_FDNAMES", "gossip", "a TCP and a UDP socket on the same port")


def _address(descriptor: int) -> tuple[str, int]:
    with closing(_copy(descriptor)) as sock:
        host, port = sock.getsockname()[:2]
        return host, port


def _copy(descriptor: int | None) -> Any:
    """A socket of the standard library, with a descriptor of its own that no child inherits."""
    if descriptor is None:
        return None
    sock = _Socket(fileno=os.dup(descriptor))
    sock.setblocking(False)
    return sock
