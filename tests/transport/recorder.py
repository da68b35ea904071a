"""What tests of streams share: a receiver that remembers, and pairs of connected streams of each kind."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

import gevent
from gevent import socket
from gevent.event import Event

from pico.errors import ConnectionLost
from pico.transport.stream import SocketStream, Stream

DEADLINE_S = 10.0


class Recorder:
    """Remembers what it was told, in order, and lets a test wait for it."""

    def __init__(self, stream: Stream | None = None) -> None:
        self.data = bytearray()
        self.events: list[str] = []
        self.errors: list[ConnectionLost] = []
        self.on_received: Callable[[bytes], object] = lambda data: None
        self._changed = Event()
        if stream is not None:
            stream.set_receiver(self)

    def received(self, data: bytes) -> None:
        assert data, "an empty piece means nothing"
        self.data += data
        self._note("received")
        self.on_received(data)

    def ended(self) -> None:
        self._note("ended")

    def lost(self, error: ConnectionLost) -> None:
        self.errors.append(error)
        self._note("lost")

    def drained(self) -> None:
        self._note("drained")

    def _note(self, event: str) -> None:
        if not self.events or event != "received" or self.events[-1] != event:
            self.events.append(event)
        self._changed.set()

    def wait(self, condition: Callable[[], object], seconds: float = DEADLINE_S) -> None:
        """Return as soon as the condition holds; it is looked at after each event."""
        with gevent.Timeout(seconds, False):
            while not condition():
                self._changed.clear()
                self._changed.wait()
        assert condition(), f"in vain: {self.events}, {len(self.data)} bytes"

    def wait_for(self, event: str) -> None:
        self.wait(lambda: event in self.events)

    def wait_for_bytes(self, size: int) -> bytes:
        self.wait(lambda: len(self.data) >= size)
        return bytes(self.data)


class CrashRecorder(Recorder):
    """A receiver with a bug, and with the hook that is told so."""

    def __init__(self, stream: Stream) -> None:
        self.crashes: list[BaseException] = []
        super().__init__(stream)

    def crashed(self, error: BaseException) -> None:
        self.crashes.append(error)
        self._note("crashed")


def settle() -> None:
    """Let the hub do everything that can be done without waiting."""
    for _ in range(10):
        gevent.sleep(0)
        gevent.idle()


def listen(host: str = "127.0.0.1", family: int = socket.AF_INET) -> socket.socket:
    """A listening socket of gevent; ``create_server`` would make a blocking one of the standard library."""
    listener = socket.socket(family)
    listener.bind((host, 0))
    listener.listen(16)
    return listener


def tcp_sockets() -> tuple[socket.socket, socket.socket]:
    """Two ends of one TCP connection; the buffers are small, so that little is needed to fill them."""
    with listen() as listener:
        # Set before the connection exists, because the window's scale is agreed on then.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        near = socket.socket()
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            near.setsockopt(socket.SOL_SOCKET, option, 64 * 1024)
        near.connect(listener.getsockname())
        far, _ = listener.accept()
        far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
        return near, far


def socket_pair() -> tuple[SocketStream, SocketStream]:
    near, far = tcp_sockets()
    return SocketStream(near), SocketStream(far)


def open_files() -> set[str]:
    """Each by a name of its own, since what an earlier test left may be closed in the middle of this one."""
    files = set()
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the directory itself, which is closed by now
            files.add(os.readlink(f"/proc/self/fd/{number}"))
    return files
