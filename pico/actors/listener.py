"""One port: its listening socket, and a greenlet for each connection.

Responsible for: binding, accepting within a limit, running the handler of each connection where its errors hurt nobody
else, and closing the port before the connections. Refuses to know: what is spoken on a connection; TLS, too, is the
handler's business, in the connection's own greenlet.

At its limit the listener has a connection that can be spared make room for who comes (``pico.actors.spares``). Where
there is none it accepts nobody: who comes then waits in the system's queue, and that is the back-pressure. It is the
same where the process has few descriptors left, because others need some, too: a node that answers no probe is ended.
Connections are accepted in the hub by one watcher that lives as long as the port, which costs no greenlet and no
message for each. The handler gets a non-blocking socket of the standard library, in a patched program, too.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import sys
from collections.abc import Callable
from math import inf
from select import POLLIN
from typing import TYPE_CHECKING, Any, Final

import gevent
import gevent.monkey
from gevent.event import Event
from gevent.hub import get_hub

from pico.actors.messages import StopAccepting
from pico.actors.runtime import GeventActor
from pico.config import address_text
from pico.errors import TransportError
from pico.transport.accepting import OF_ONE_CONNECTION, TROUBLE_PAUSE_S
from pico.transport.addresses import bound_at, readable

if TYPE_CHECKING:
    from pico.actors.spares import Spares
    from pico.transport.clock import Clock

__all__ = ["CannotListen", "Handler", "Listener", "listening_socket"]

ACCEPTS_MAX: Final = 64
"""Connections taken in one turn of the hub; who waits longer is taken in the next."""

BACKLOG: Final = 1024
"""Connections that may wait in the system's queue."""

STOP_WAIT_S: Final = 1.0
"""For handlers to return after their connections were shut down."""

_Socket: Final = gevent.monkey.get_original("socket", "socket")
_poll: Final[Any] = gevent.monkey.get_original("select", "poll")  # gevent's would let other greenlets run

Handler = Callable[[socket.socket, tuple[str, int]], None]
"""Serves one connection: non-blocking socket, host and port of the peer.

It owns the socket: it closes it or hands it on before it returns. When it raises, the listener closes it, unless the
handler has taken the descriptor out (``detach``), as a stream does.
"""

_log = logging.getLogger("pico.listener")


class CannotListen(TransportError):
    """The port cannot be had; says which, by which option, and why."""


class Listener(GeventActor):
    """Listens on one port from ``on_start`` until it is told ``StopAccepting`` or stopped.

    A failing ``on_start`` raises ``CannotListen`` (``started`` and the supervisor get it).
    """

    def __init__(
        self,
        host: str,
        port: int,
        handler: Handler,
        *,
        clock: Clock,
        option: str,
        connections_max: int,
        accepted: Callable[[], None] = lambda: None,
        failed: Callable[[], None] = lambda: None,
        inherited: Any = None,
        spares: Spares | None = None,
        descriptors_max: int = sys.maxsize,
    ) -> None:
        """``inherited`` is a socket that listens already: then ``host`` and ``port`` are not looked at.

        ``spares`` are those connections that may end for others; the handler adds and discards them. Where the next
        descriptor of the process is ``descriptors_max`` or above, the door counts as full.
        """
        assert connections_max > 0
        super().__init__()
        self.address: tuple[str, int] = (host, port)
        self._handler = handler
        self._option = option
        self._connections_max = connections_max
        self._accepted = accepted
        self._failed = failed
        self._inherited = inherited
        self._spares = spares
        self._descriptors_max = descriptors_max
        self._few_once = False  # from the first such descriptor on it is looked before each connection
        self._socket: Any = None
        self._question: Any = None  # what polls it
        self._watcher: Any = None
        self._pause = clock.timer(self._update_watcher)
        self._connections: set[socket.socket] = set()
        self._emptied = Event()

    @property
    def connections(self) -> int:
        """Connections whose handlers run."""
        return len(self._connections)

    def limit(self, connections_max: int) -> None:
        """Take so many from now on; whoever is here stays."""
        assert connections_max > 0
        self._connections_max = connections_max
        self._update_watcher()

    def on_start(self) -> None:
        """Bind and listen."""
        self._socket = self._inherited or listening_socket(*self.address, option=self._option)
        self.address = readable(self._socket.getsockname())
        self._watcher = get_hub().loop.io(self._socket.fileno(), 1)
        self._question = _poll()
        self._question.register(self._socket.fileno(), POLLIN)
        if self._spares is not None:
            self._spares.came = self._update_watcher
        self._update_watcher()
        _log.info("%s listens on %s", self._option, address_text(*self.address))

    def on_receive(self, message: Any) -> None:
        """Close the port; who waits at it already is taken first."""
        if isinstance(message, StopAccepting):
            self._spares = None  # whoever is here has been promised a last call (HTTP-67)
            self._accept_waiting(BACKLOG)
            self._close_port()

    def on_exit(self, reason: BaseException | None) -> None:
        """Close the port and the connections that are left, but not those that a stream has taken over."""
        self._close_port()
        ours = sum(_shut_down(connection) for connection in self._connections)
        if not ours:
            return  # who has taken a connection ends it; a restart must not wait for clients
        self._emptied.clear()
        if not self._emptied.wait(STOP_WAIT_S):
            _log.warning("%s: %d connections go on after the stop", self._option, len(self._connections))

    # Called in the hub.

    def _update_watcher(self) -> None:
        """Watch the port if and only if there is room for a connection, or might be made."""
        if self._watcher is None:
            return
        if self._spares is None and self._is_full():
            self._watcher.stop()
        elif not self._watcher.active:
            self._watcher.start(self._accept_waiting)

    def _is_full(self) -> bool:
        leaving = 0 if self._spares is None else self._spares.leaving
        return len(self._connections) - leaving >= self._connections_max

    def _accept_waiting(self, accepts_max: int = ACCEPTS_MAX) -> None:
        """Take connections until nobody waits, or there is no room and none can be made."""
        for _ in range(accepts_max):
            if self._socket is None:
                break
            if self._is_full():
                if not self._make_room():
                    return
                continue
            if self._has_few_descriptors():
                self._make_room_in_the_process()
                return
            try:
                fd, address = self._accept()
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno in OF_ONE_CONNECTION:
                    continue  # it broke while it waited
                self._pause_accepting(error.strerror or str(error))
                return
            self._few_once |= fd + 1 >= self._descriptors_max
            self._begin(_Socket(self._socket.family, self._socket.type, self._socket.proto, fileno=fd), address)
        self._update_watcher()

    def _make_room(self) -> bool:
        """For one who waits; where that does not help now, the port is not watched until it may."""
        wait_s = inf
        if self._spares is not None:
            if not self._question.poll(0):
                return False  # nobody waits, and for nobody no connection ends
            wait_s = self._spares.make_room()
        if wait_s == 0.0:
            return True
        self._watcher.stop()
        if wait_s < inf:
            self._pause.start(wait_s)
        return False

    def _has_few_descriptors(self) -> bool:
        """The system gives the lowest that is free: a high one means that nearly all are taken."""
        if not self._few_once:
            return False
        try:
            lowest = os.dup(self._socket.fileno())
        except OSError:
            return True  # there is none
        os.close(lowest)
        return lowest >= self._descriptors_max

    def _make_room_in_the_process(self) -> None:
        """One connection ends in this turn of the hub, and the next can be taken when its descriptor is free."""
        leaving = self._spares is not None and self._spares.leaving > 0
        if leaving or not self._question.poll(0):
            return
        wait_s = inf if self._spares is None else self._spares.make_room()
        if wait_s == inf:
            self._pause_accepting(os.strerror(errno.EMFILE))
        elif wait_s > 0.0:
            self._watcher.stop()
            self._pause.start(min(wait_s, TROUBLE_PAUSE_S))  # any door may free one, and does not say so

    def _accept(self) -> tuple[int, Any]:
        fd, address = self._socket._accept()  # accept() would wrap it in a gevent socket in a patched program
        return fd, address

    def _pause_accepting(self, reason: str) -> None:
        _log.warning("%s accepts nobody for a moment: %s", self._option, reason)
        self._watcher.stop()
        self._pause.start(TROUBLE_PAUSE_S)

    def _begin(self, connection: socket.socket, address: Any) -> None:
        connection.setblocking(False)
        self._connections.add(connection)
        self._accepted()
        gevent.spawn_raw(self._serve, connection, readable(address))

    # In the connection's greenlet.

    def _serve(self, connection: socket.socket, address: tuple[str, int]) -> None:
        try:
            self._handler(connection, address)
        except gevent.GreenletExit:
            connection.close()
        except BaseException as error:
            self._failed()
            _log.error("%s: the handler of a connection from %s failed", self._option, address[0], exc_info=error)
            connection.close()
        finally:
            self._ended(connection)

    def _ended(self, connection: socket.socket) -> None:
        self._connections.discard(connection)
        self._update_watcher()
        if not self._connections:
            self._emptied.set()

    def _close_port(self) -> None:
        self._pause.stop()
        if self._watcher is not None:
            self._watcher.close()
            self._watcher = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def listening_socket(host: str, port: int, *, option: str) -> Any:
    """A socket that listens, for an empty host on every address; raises ``CannotListen``."""
    try:
        return bound_at(host, port, _listening)
    except OSError as error:
        reason = error.strerror or str(error)
        raise CannotListen(f"{option}: cannot listen on {address_text(host, port)}: {reason}") from error


def _listening(family: int, address: Any) -> Any:
    listening = _Socket(family, socket.SOCK_STREAM)
    try:
        listening.setblocking(False)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if address[0] == "::" else 1)
        listening.bind(address)
        listening.listen(BACKLOG)
    except BaseException:
        listening.close()
        raise
    return listening


def _shut_down(connection: socket.socket) -> bool:
    """Both ends see the end of the stream; closing stays with the handler, whose watcher is on the descriptor.

    False when the handler has taken the descriptor out, or the connection is closed.
    """
    if connection.fileno() < 0:
        return False
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # never connected
    return True
