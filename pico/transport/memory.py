"""The in-memory twin of a socket, for tests and simulators.

Responsible for: two streams that are joined, with a bounded capacity between them that pushes back, half-close, reset
and a cut cable, all on a clock that may be turned by hand. Refuses to know: what the bytes mean.

It passes the same conformance suite as real sockets. Where systems differ it is harsh: a reset discards what had not
been delivered.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from pico.errors import ConnectionLost, LocalProtocolError
from pico.transport.clock import Clock, Timer
from pico.transport.stream import FLUSH_S, RECV_BYTES, Receiver, report_crash

__all__ = ["MemoryStream", "memory_pair"]

CAPACITY_BYTES: Final = 64 * 1024


def memory_pair(clock: Clock, capacity_bytes: int = CAPACITY_BYTES) -> tuple[MemoryStream, MemoryStream]:
    """Two ends; in each direction ``capacity_bytes`` are on their way before the rest counts as unsent."""
    one, other = MemoryStream(clock, capacity_bytes, 1), MemoryStream(clock, capacity_bytes, 2)
    one._peer, other._peer = other, one
    return one, other


class MemoryStream:
    """One end; made by ``memory_pair``. See ``Stream`` for what its methods promise."""

    _peer: MemoryStream

    def __init__(self, clock: Clock, capacity_bytes: int, peer_port: int) -> None:
        self.peer_host = "127.0.0.1"
        self.peer_port = peer_port
        self.closed = False
        self.unsent_bytes = 0
        self.read_bytes_max = RECV_BYTES
        self.patient = False  # it loses nothing either way: a peer that has gone has left nothing behind
        self._clock = clock
        self._capacity_bytes = capacity_bytes
        self._receiver: Receiver | None = None
        self._paused = False
        self._scheduled = False
        self._inbox: deque[bytes] = deque()  # what a system would hold for us
        self._inbox_bytes = 0
        self._peer_ended = False  # a FIN stands behind the inbox
        self._end_told = False
        self._unsent: deque[bytes] = deque()
        self._shut = False
        self._fin_wanted = False
        self._error: ConnectionLost | None = None
        self._flush_timer: Timer | None = None

    # What the owner asks for.

    def set_receiver(self, receiver: Receiver | None) -> None:
        """See ``Stream``."""
        self._receiver = receiver
        self._end_told = False
        self._schedule()

    def pause_reading(self) -> None:
        """See ``Stream``."""
        self._paused = True

    def resume_reading(self) -> None:
        """See ``Stream``."""
        self._paused = False
        self._schedule()

    @property
    def more_waits(self) -> bool:
        """See ``Stream``."""
        return bool(self._inbox) and self._error is None

    @property
    def unread_bytes(self) -> int:
        """See ``Stream``."""
        return self._inbox_bytes

    @property
    def delivery_rate(self) -> int | None:
        """See ``Stream``: memory knows no rate."""
        return None

    def limit_backlog(self, size: int) -> None:
        """See ``Stream``: the capacity is what memory keeps."""

    @property
    def quiet(self) -> bool:
        """See ``Stream``."""
        return not (self.closed or self._inbox or self._peer_ended)

    @property
    def untaken_bytes(self) -> int:
        """See ``Stream``."""
        return self.unsent_bytes + self._peer._inbox_bytes

    def write(self, data: bytes | memoryview) -> None:
        """See ``Stream``."""
        if self.closed or self._error is not None:
            return
        if self._shut:
            raise LocalProtocolError("write after half_close")
        if self._peer.closed:
            self._break_soon(ConnectionLost("the connection was lost: broken pipe"))
        elif data:
            self._unsent.append(bytes(data))
            self.unsent_bytes += len(data)
            self._push()

    def writev(self, buffers: Sequence[bytes | memoryview]) -> None:
        """See ``Stream``."""
        self.write(b"".join(buffers))

    def half_close(self) -> None:
        """See ``Stream``."""
        if not (self._shut or self.closed):
            self._shut = self._fin_wanted = True
            self._push()

    def close(self) -> None:
        """See ``Stream``."""
        self._receiver = None
        if self.closed:
            return
        self.closed = True
        if not self._shut:
            self._shut = self._fin_wanted = True
            self._push()
        if self._unsent:
            self._flush_timer = self._clock.timer(self.abort)
            self._flush_timer.start(FLUSH_S)

    def abort(self) -> None:
        """See ``Stream``."""
        self._receiver = None
        self.closed = True
        self._forget()
        self._peer._break_soon(ConnectionLost("the connection was lost: connection reset by peer"))

    def cut(self) -> None:
        """The cable is cut, and both ends notice soon."""
        for end in (self, self._peer):
            end._break_soon(ConnectionLost("the connection was lost: no route to host"))

    # From one end to the other, as a system does it.

    def _push(self) -> None:
        peer = self._peer
        while self._unsent and (room := self._capacity_bytes - peer._inbox_bytes) > 0:
            piece = self._unsent.popleft()
            if len(piece) > room:
                self._unsent.appendleft(piece[room:])
            peer._inbox.append(piece[:room])
            peer._inbox_bytes += len(peer._inbox[-1])
            self.unsent_bytes -= len(peer._inbox[-1])
        if self._fin_wanted and not self._unsent:
            self._fin_wanted = False
            peer._peer_ended = True
        peer._schedule()

    def _room_was_made(self) -> None:
        """The peer took something."""
        had_unsent = bool(self._unsent)
        self._push()
        if had_unsent and not self._unsent:
            if self._flush_timer is not None:
                self._flush_timer.stop()
            if self._receiver is not None:
                self._tell(self._receiver.drained)

    # What the receiver is told, always from the clock.

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._clock.call_soon(self._deliver)

    def _deliver(self) -> None:
        self._scheduled = False
        receiver = self._receiver
        if receiver is None:
            return
        if self._error is not None:
            self._receiver = None
            self._tell(receiver.lost, self._error)
        elif self._paused:
            return
        elif self._inbox:
            data = self._take()
            self._clock.call_soon(self._peer._room_was_made)
            self._schedule()
            self._tell(receiver.received, data)
        elif self._peer_ended and not self._end_told:
            self._end_told = True
            self._tell(receiver.ended)

    def _take(self) -> bytes:
        """One read."""
        pieces, size = [], 0
        while self._inbox and size < self.read_bytes_max:
            piece = self._inbox.popleft()
            if size + len(piece) > self.read_bytes_max:
                self._inbox.appendleft(piece[self.read_bytes_max - size :])
                piece = piece[: self.read_bytes_max - size]
            pieces.append(piece)
            size += len(piece)
        self._inbox_bytes -= size
        return b"".join(pieces)

    def _tell(self, method: Callable[..., None], *arguments: object) -> None:
        try:
            method(*arguments)
        except BaseException as error:
            receiver = self._receiver
            self.abort()
            report_crash(receiver, error)

    def _break_soon(self, error: ConnectionLost) -> None:
        """This end is over; its receiver, which may come later, is told so."""
        self._forget()
        if not self.closed:
            self._error = error
            self.closed = True
            self._schedule()

    def _forget(self) -> None:
        self._inbox.clear()
        self._unsent.clear()
        self._inbox_bytes = self.unsent_bytes = 0
        self._fin_wanted = False
        if self._flush_timer is not None:
            self._flush_timer.stop()
