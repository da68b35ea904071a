"""From a host name to a connected stream.

Responsible for: resolving, trying each address in turn, TLS when asked for, all under one deadline, and saying which
step failed. Refuses to know: what is dialled for, and whether to try again.
"""

from __future__ import annotations

import _socket
import ssl
import sys
import time
from errno import ECONNREFUSED, EINPROGRESS, EMFILE, ENFILE, ETIMEDOUT
from os import strerror
from socket import (
    EAI_NODATA,
    EAI_NONAME,
    SO_ERROR,
    SOCK_CLOEXEC,
    SOCK_NONBLOCK,
    SOL_SOCKET,
)
from typing import Any, Final

import gevent
from gevent.hub import Waiter, get_hub

from pico.errors import ConnectFailed, NoFileLeft, TransportError, TransportTimeout
from pico.transport.names import Address, addresses_of
from pico.transport.stream import SocketStream, Stream
from pico.transport.tls import connect_tls

__all__ = ["dial"]

_WRITE: Final = 2  # event of the loop
_ERRORS: Final[dict[int, type[TransportError]]] = {
    ETIMEDOUT: TransportTimeout,
    EMFILE: NoFileLeft,
    ENFILE: NoFileLeft,
}
"""What is raised for an error of the system, if not ``ConnectFailed``."""


def dial(
    host: str,
    port: int,
    *,
    timeout_s: float,
    tls: ssl.SSLContext | None = None,
    server_name: str = "",
    descriptors_max: int = sys.maxsize,
) -> Stream:
    """A stream to ``host``, which is a name or an address; ``server_name`` is what TLS verifies, by default ``host``.

    Where the next descriptor of the process is ``descriptors_max`` or above, it is as if there were none.
    Raises ``ConnectFailed``, whose text names the step that failed (``NoFileLeft`` where that is why), or
    ``TransportTimeout``. Blocks the calling greenlet only.
    """
    deadline = time.monotonic() + timeout_s
    stream = SocketStream(_connect(host, port, deadline, descriptors_max))
    if tls is None:
        return stream
    name = (server_name or host).removesuffix(".")  # the root of DNS is no part of it (RFC 6066 §3)
    return connect_tls(stream, tls, name, timeout_s=deadline - time.monotonic())


def _connect(host: str, port: int, deadline: float, descriptors_max: int) -> _socket.socket:
    """A connected socket to the first address that answers; each gets its share of the time that is left."""
    addresses = _resolve(host, port, deadline)
    failures = []
    error_number = 0
    for position, address in enumerate(addresses):
        left_s = deadline - time.monotonic()
        outcome = _connect_one(address, left_s / (len(addresses) - position), descriptors_max)
        if not isinstance(outcome, int):
            return outcome
        error_number = outcome
        where, why = str(address[4][0]), strerror(error_number).lower()
        failures.append(why if where == host else f"{where} {why}")
    sentence = f"cannot connect to {host} port {port}: {', '.join(failures)}"
    raise _ERRORS.get(error_number, ConnectFailed)(sentence)


def _resolve(host: str, port: int, deadline: float) -> list[Address]:
    try:
        found = addresses_of(host, port, max(0.0, deadline - time.monotonic()))
    except gevent.Timeout as late:  # a BaseException, which would stop every actor there is
        raise TransportTimeout(f"the name {host} was not resolved in time") from late
    except UnicodeError as error:
        raise ConnectFailed(f"cannot resolve {host[:80]!r}: not a valid name") from error
    if isinstance(found, OSError):  # a gaierror, or what the system says when no open file is left for the question
        unknown = found.errno in (EAI_NONAME, EAI_NODATA)
        why = "the name is not known" if unknown else str(found.strerror).lower()
        raise _ERRORS.get(found.errno or 0, ConnectFailed)(f"cannot resolve {host}: {why}") from found
    return found


def _connect_one(address: Address, timeout_s: float, descriptors_max: int) -> _socket.socket | int:
    """The connected socket, or the number of the error."""
    family, kind, protocol, _, where = address
    try:
        sock = _socket.socket(family, kind | SOCK_NONBLOCK | SOCK_CLOEXEC, protocol)
    except OSError as error:
        return error.errno or ETIMEDOUT
    if sock.fileno() >= descriptors_max:
        sock.close()
        return EMFILE
    failed = True
    try:
        error_number = sock.connect_ex(where)
        if error_number == EINPROGRESS:
            error_number = _wait_connected(sock, timeout_s)
        if not error_number and _leads_to_itself(sock):
            error_number = ECONNREFUSED
        failed = error_number != 0
        return error_number if failed else sock
    finally:
        if failed:
            sock.close()


def _leads_to_itself(sock: _socket.socket) -> bool:
    """Nobody listened, and the system gave this side the very port that it dialled: that is a connection in TCP."""
    try:
        return bool(sock.getsockname() == sock.getpeername())
    except OSError:  # reset by now, which the first read says
        return False


def _wait_connected(sock: _socket.socket, timeout_s: float) -> int:
    """Wait until the system knows; 0 or the number of the error."""
    loop: Any = get_hub().loop
    waiter = Waiter()
    io = loop.io(sock.fileno(), _WRITE)
    timer = loop.timer(max(0.0, timeout_s))
    try:
        io.start(waiter.switch, 0)
        timer.start(waiter.switch, ETIMEDOUT, update=True)
        outcome: int = waiter.get()
    except gevent.Timeout as timeout:
        raise TransportTimeout("the time of the caller ran out while connecting") from timeout
    finally:
        io.close()
        timer.close()
    return outcome or sock.getsockopt(SOL_SOCKET, SO_ERROR)
