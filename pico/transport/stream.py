"""Byte streams: what one is, and one on a socket.

Responsible for: bytes in order, both ways, without ever blocking, and telling a receiver in the hub what came. Refuses
to know: what the bytes mean, and how long anyone should wait for them.

A receiver's methods run in the hub and must not block. One that raises is a bug of ours and not of the peer: the fault
is reported, the connection is reset, and the receiver hears ``crashed(error)`` where it has such a method and ``lost``
where it has not, so whoever waits for that connection is never left waiting.

Nothing that a peer or a network does raises in the caller of a stream. A write that fails is reported later, from the
hub, as ``lost``; before it the receiver still gets what had arrived, because a peer that refuses a request early and
closes has often said why; all of it, if the owner is patient. A stream that is paused, or that has ended, is not
watched: its loss shows at the next write or when reading goes on.
"""

from __future__ import annotations

import _socket
import logging
import sys
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from fcntl import ioctl
from itertools import islice
from select import POLLIN
from socket import (
    AF_INET,
    AF_INET6,
    IPPROTO_TCP,
    SHUT_WR,
    SO_LINGER,
    SOL_SOCKET,
    TCP_INFO,
    TCP_NODELAY,
    TCP_NOTSENT_LOWAT,
)
from struct import Struct
from termios import FIONREAD, TIOCOUTQ
from typing import Any, Final, Protocol, TypeAlias
from weakref import WeakKeyDictionary

from gevent.hub import get_hub
from gevent.monkey import get_original

from pico.errors import ConnectionLost, LocalProtocolError
from pico.transport.addresses import readable

__all__ = [
    "FLUSH_S",
    "READ_BYTES_MAX",
    "RECV_BYTES",
    "Piece",
    "Receiver",
    "SocketStream",
    "Stream",
    "keep_piece",
    "report_crash",
]

Piece: TypeAlias = bytes | memoryview | bytearray
"""Of bytes that wait; a ``bytearray`` belongs to the queue that it waits in."""

RECV_BYTES: Final = 64 * 1024
"""Read at a time, unless ``read_bytes_max`` says otherwise; one connection gets no more of one turn of the hub."""

READ_BYTES_MAX: Final = 256 * 1024
"""The most that ``read_bytes_max`` may be."""

JOIN_BYTES_MAX: Final = 64 * 1024
"""Up to here one copy and one ``send`` cost less than a ``sendmsg`` of many buffers."""

SHORT_BYTES_MAX: Final = 4096
"""Of what waits, pieces up to here are joined, up to ``JOIN_BYTES_MAX``."""

BUFFERS_MAX: Final = 256  # of one sendmsg; the system's own limit is 1024
LAST_READS_MAX: Final = 64  # what is left to read of a connection that was reset
FLUSH_S: Final = 5.0
"""How long a closed stream tries to get rid of what is unsent."""

_INT_BYTES: Final = 4
_DELIVERY_RATE: Final = Struct("=160xQ")  # in struct tcp_info of linux/tcp.h, since Linux 4.9
_READ: Final = 1  # events of the loop
_WRITE: Final = 2
_poll: Final[Any] = get_original("select", "poll")  # gevent's would let other greenlets run
_RESET_ON_CLOSE: Final = b"\x01\x00\x00\x00\x00\x00\x00\x00"  # struct linger: on, no time

_log = logging.getLogger("pico.transport")


class Receiver(Protocol):
    """Who is told what comes; in the hub, and never again after ``lost`` or after the stream was closed."""

    def received(self, data: bytes) -> None:
        """Bytes, at least one."""

    def ended(self) -> None:
        """The peer will send no more; we still may. At most once."""

    def lost(self, error: ConnectionLost) -> None:
        """The connection broke, by a reset or a failed write. At most once, and the last call."""

    def drained(self) -> None:
        """``unsent_bytes`` went to 0 after a write had left something."""


class Stream(Protocol):
    """A connected, ordered stream of bytes."""

    @property
    def peer_host(self) -> str:
        """The peer's address in text; empty when there is none."""

    @property
    def peer_port(self) -> int:
        """The peer's port, or 0."""

    @property
    def unsent_bytes(self) -> int:
        """What was written and has not left; a writer that goes on while this grows is the only limit there is."""

    @property
    def untaken_bytes(self) -> int:
        """These, and those that have left and the peer's system has not confirmed: slow is where they become fewer."""

    @property
    def closed(self) -> bool:
        """Closed, aborted or lost; writing does nothing any more."""

    @property
    def more_waits(self) -> bool:
        """Whether it is certain that more can be received at once, unless reading is paused."""

    @property
    def unread_bytes(self) -> int:
        """What has arrived and was not read, as far as the system says."""

    @property
    def delivery_rate(self) -> int | None:
        """Bytes per second that the peer's system has confirmed of late, as ours saw it; None when it does not say."""

    @property
    def quiet(self) -> bool:
        """Whether nothing of the peer's waits to be told, neither bytes nor an end, as far as the system knows now.

        The hub may not have come to what has arrived: who uses a connection again that was idle asks here. In doubt no.
        """

    def limit_backlog(self, size: int) -> None:
        """Let the system keep about ``size`` bytes that it has not sent, where it can be told; the rest stays here."""

    read_bytes_max: int
    """What one turn of the hub may bring. The owner may raise it to ``READ_BYTES_MAX``."""

    patient: bool
    """False at first. With True a write that fails is not told as such: what has arrived comes at the receiver's own
    pace, pauses and all, and the end shows when it has been read."""

    def set_receiver(self, receiver: Receiver | None) -> None:
        """Begin to read for ``receiver``, or stop for None.

        A receiver that comes after the end or the loss of the connection is told of it soon.
        """

    def pause_reading(self) -> None:
        """Leave what comes to the peer's flow control."""

    def resume_reading(self) -> None:
        """Go on; nothing happens when reading is not paused."""

    def write(self, data: bytes | memoryview) -> None:
        """Send at once what can be sent and keep the rest; does nothing when closed.

        Raises ``LocalProtocolError`` after ``half_close``: those bytes would silently be missing.
        """

    def writev(self, buffers: Sequence[bytes | memoryview]) -> None:
        """Send several buffers as one ``write`` would send them joined."""

    def half_close(self) -> None:
        """Send no more; the peer learns it when what is unsent is out."""

    def close(self) -> None:
        """Flush what is unsent, within a bound, and close; the receiver hears nothing more."""

    def abort(self) -> None:
        """Reset the connection now; the receiver hears nothing more."""


def report_crash(receiver: Receiver | None, error: BaseException) -> None:
    """The receiver raised: tell it through ``crashed`` where it has that, else log the fault and say ``lost``.

    What the process as a whole was meant to get is raised again.
    """
    if isinstance(error, (KeyboardInterrupt, SystemExit)):
        raise error
    crashed = getattr(receiver, "crashed", None)
    try:
        if crashed is not None:
            crashed(error)
        else:
            _log.error("a receiver of bytes failed", exc_info=error)
            if receiver is not None:
                receiver.lost(ConnectionLost("our side failed"))
    except Exception:
        _log.exception("a receiver of bytes failed again")


def keep_piece(waiting: deque[Piece], piece: bytes | memoryview) -> None:
    """Append ``piece``; a short one goes into what waits last, since many would hold many times their bytes."""
    last = waiting[-1] if waiting else None
    if last is None or len(piece) > SHORT_BYTES_MAX:
        waiting.append(piece)
    elif isinstance(last, bytearray) and len(last) < JOIN_BYTES_MAX:
        last += piece
    else:
        waiting.append(bytearray(piece))


_scratches: WeakKeyDictionary[Any, memoryview] = WeakKeyDictionary()


def _scratch_of(hub: Any) -> memoryview:
    """Where the streams of one hub read into. Each takes its bytes out at once, so all of them need one such room.

    It spares every small read an allocation of the largest size, and lets large reads cost nothing while they are not.
    Where one fills it another is likely to, and reads into room of its own: then it is the copy that would cost more.
    """
    scratch = _scratches.get(hub)
    if scratch is None:
        scratch = _scratches[hub] = memoryview(bytearray(READ_BYTES_MAX))
    return scratch


class SocketStream:
    """A stream on a connected socket, which it takes over: the object that was given is detached.

    ``peer_host`` and ``peer_port`` may be set by who knows better, because a balancer has said who its client is.

    One watcher for reading lives as long as the connection and is touched only to pause; one for writing exists only
    once something could not be sent. There are no buffers of its own.
    """

    __slots__ = (
        "_error",
        "_fin_wanted",
        "_flush_timer",
        "_loop",
        "_much",
        "_paused",
        "_peer_ended",
        "_question",
        "_reader",
        "_receiver",
        "_scratch",
        "_shut",
        "_sock",
        "_unsent",
        "_writer",
        "closed",
        "patient",
        "peer_host",
        "peer_port",
        "read_bytes_max",
        "unsent_bytes",
    )

    def __init__(self, sock: Any, peer: tuple[Any, ...] | None = None) -> None:
        """Take over ``sock``; ``peer`` is its address when the caller has it, as from ``accept``."""
        hub = get_hub()
        self._loop: Any = hub.loop
        self._scratch = _scratch_of(hub)
        # The plain C object: a gevent socket brings two watchers and a dictionary for each connection.
        self._sock = _socket.socket(fileno=sock.detach())
        self._sock.setblocking(False)
        self._receiver: Receiver | None = None
        self._reader: Any = self._loop.io(self._sock.fileno(), _READ)
        self._writer: Any = None
        self._flush_timer: Any = None
        self._unsent: deque[Piece] | None = None
        self._error: ConnectionLost | None = None
        self._much = False  # the last read brought all that it could
        self._paused = False
        self._peer_ended = False
        self._question: Any = None  # what polls, once somebody has asked
        self._shut = False  # half-closed by us
        self._fin_wanted = False  # ... once everything is out
        self.unsent_bytes = 0
        self.read_bytes_max = RECV_BYTES
        self.patient = False
        self.closed = False
        self.peer_host, self.peer_port = _prepare(self._sock, peer)

    # Reading.

    @property
    def more_waits(self) -> bool:
        """See ``Stream``. The system is asked only where the last read says that it is likely."""
        if not self._much or self._error is not None or self.closed or self._peer_ended:
            return False
        return self.unread_bytes > 0

    @property
    def unread_bytes(self) -> int:
        """See ``Stream``."""
        return 0 if self.closed else self._ask_system(FIONREAD)

    @property
    def untaken_bytes(self) -> int:
        """See ``Stream``."""
        return self.unsent_bytes + (0 if self.closed else self._ask_system(TIOCOUTQ))

    @property
    def delivery_rate(self) -> int | None:
        """See ``Stream``."""
        try:
            info = self._sock.getsockopt(IPPROTO_TCP, TCP_INFO, _DELIVERY_RATE.size)
        except OSError:  # closed, or no TCP
            return None
        if len(info) < _DELIVERY_RATE.size:
            return None
        rate: int = _DELIVERY_RATE.unpack(info)[0]
        return rate or None

    def limit_backlog(self, size: int) -> None:
        """See ``Stream``."""
        with suppress(OSError):  # closed, or no TCP
            self._sock.setsockopt(IPPROTO_TCP, TCP_NOTSENT_LOWAT, size)

    @property
    def quiet(self) -> bool:
        """See ``Stream``. To poll costs half of what a read that raises costs."""
        if self.closed or self._peer_ended or self._error is not None:
            return False
        question = self._question
        if question is None:
            question = self._question = _poll()
            question.register(self._sock.fileno(), POLLIN)  # an end is readable, too
        return not question.poll(0)

    def _ask_system(self, what: int) -> int:
        answer = bytearray(_INT_BYTES)
        ioctl(self._sock.fileno(), what, answer)
        return int.from_bytes(answer, sys.byteorder)

    def set_receiver(self, receiver: Receiver | None) -> None:
        """See ``Stream``."""
        self._receiver = receiver
        if self._error is not None or self._peer_ended:
            if receiver is not None:
                self._loop.run_callback(self._tell_fate, receiver)
        else:
            self._regulate()

    def pause_reading(self) -> None:
        """See ``Stream``."""
        self._paused = True
        self._regulate()

    def resume_reading(self) -> None:
        """See ``Stream``."""
        self._paused = False
        self._regulate()

    def _regulate(self) -> None:
        """Watch exactly while there is someone to tell."""
        if self._reader is None:
            return
        if self._receiver is None or self._paused or self._peer_ended:
            self._reader.stop()
        elif not self._reader.active:
            self._reader.start(self._on_readable)

    def _on_readable(self) -> None:
        size_max = self.read_bytes_max
        try:
            if self._much:
                data = self._sock.recv(size_max)
            else:
                size = self._sock.recv_into(self._scratch, size_max)
                data = bytes(self._scratch[:size])
        except BlockingIOError:
            return
        except OSError as error:
            self._break(_lost(error))
            return
        except MemoryError as shortage:  # what the system has given is lost: nothing may follow it
            self._crashed(shortage)
            return
        self._much = len(data) == size_max
        if data:
            try:
                self._receiver.received(data)  # type: ignore[union-attr] # the watcher runs only for a receiver
            except BaseException as fault:
                self._crashed(fault)
        elif self._error is not None:  # no clean end, behind a write that failed
            self._break(self._error)
        else:
            self._end()

    def _end(self) -> None:
        self._peer_ended = True
        self._regulate()
        try:
            if self._receiver is not None:
                self._receiver.ended()
        except BaseException as error:
            self._crashed(error)

    def _tell_fate(self, receiver: Receiver) -> None:
        """What a receiver missed that was set after it happened."""
        if self._receiver is not receiver:
            return
        if self._error is not None:
            self._tell_lost(self._error)
        elif not self.closed:
            self._end()

    # Writing.

    def write(self, data: bytes | memoryview) -> None:
        """See ``Stream``."""
        if self._shut or self.closed:
            self._refuse_write()
        elif self._unsent:
            self._keep(memoryview(data))
        else:
            try:
                sent = self._sock.send(data)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                self._write_failed(error)
                return
            if sent < len(data):
                self._keep(memoryview(data)[sent:])

    def writev(self, buffers: Sequence[bytes | memoryview]) -> None:
        """See ``Stream``."""
        size = sum(map(len, buffers))
        if size < JOIN_BYTES_MAX:
            self.write(b"".join(buffers))
        elif self._shut or self.closed:
            self._refuse_write()
        elif self._unsent:
            self._keep_all(buffers)
        else:
            self._send_all(buffers, size)

    def _send_all(self, buffers: Sequence[bytes | memoryview], size: int) -> None:
        try:
            sent = self._sock.sendmsg(buffers[:BUFFERS_MAX])
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._write_failed(error)
            return
        if sent < size:
            self._keep_all(buffers, sent)

    def _keep_all(self, buffers: Sequence[bytes | memoryview], sent: int = 0) -> None:
        """Keep what comes behind the first ``sent`` bytes."""
        for buffer in buffers:
            if sent < len(buffer):
                self._keep(memoryview(buffer)[sent:], watch=False)
            sent = max(0, sent - len(buffer))
        self._watch_writing()

    def half_close(self) -> None:
        """See ``Stream``."""
        if self._shut or self.closed:
            return
        self._shut = True
        if self._unsent:
            self._fin_wanted = True
        else:
            self._send_fin()

    def _refuse_write(self) -> None:
        if not self.closed and self._error is None:
            raise LocalProtocolError("write after half_close")

    def _keep(self, rest: memoryview, watch: bool = True) -> None:
        if self._unsent is None:
            self._unsent = deque()
        keep_piece(self._unsent, rest)
        self.unsent_bytes += len(rest)
        if watch:
            self._watch_writing()

    def _watch_writing(self) -> None:
        if self._writer is None:
            self._writer = self._loop.io(self._sock.fileno(), _WRITE)
        if not self._writer.active:
            self._writer.start(self._on_writable)

    def _on_writable(self) -> None:
        self._send_unsent()
        if self._unsent or self._error is not None or self._writer is None:  # None: the flush has failed
            return
        self._writer.stop()
        if self.closed:
            self._release_gently()
            return
        if self._fin_wanted:
            self._send_fin()
        try:
            if self._receiver is not None:
                self._receiver.drained()
        except BaseException as error:
            self._crashed(error)

    def _send_unsent(self) -> None:
        """Send once from the queue."""
        unsent = self._unsent
        assert unsent is not None
        try:
            sent = self._sock.sendmsg(list(islice(unsent, BUFFERS_MAX)))
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._write_failed(error)
            return
        self.unsent_bytes -= sent
        while unsent and sent >= len(unsent[0]):
            sent -= len(unsent.popleft())
        if sent:
            unsent[0] = unsent[0][sent:]

    def _send_fin(self) -> None:
        self._fin_wanted = False
        try:
            self._sock.shutdown(SHUT_WR)
        except OSError as error:
            self._write_failed(error)

    def _write_failed(self, error: OSError) -> None:
        """Nothing can be sent any more; say so from the hub, after what can still be read."""
        if self.closed:  # was being flushed, nobody listens
            self._release()
            return
        self._error = _lost(error)
        self._shut = True
        self._forget_unsent()
        if self._writer is not None:
            self._writer.stop()
        if not self.patient or self._peer_ended:
            self._loop.run_callback(self._read_the_rest)

    def _read_the_rest(self) -> None:
        for _ in range(LAST_READS_MAX):
            if self.closed or self._paused or self._peer_ended or self._receiver is None:
                break
            try:
                data = self._sock.recv(RECV_BYTES)
            except OSError:
                break
            if not data:  # no clean end, behind a write that failed
                break
            try:
                self._receiver.received(data)
            except BaseException as error:
                self._crashed(error)
        if not self.closed:
            assert self._error is not None
            self._break(self._error)

    # Ending.

    def close(self) -> None:
        """See ``Stream``."""
        self._receiver = None
        if self.closed:
            return
        self.closed = True
        if self._unsent:
            self._regulate()
            self._flush_timer = self._loop.timer(FLUSH_S)
            self._flush_timer.start(self.abort, update=True)
        else:
            self._release_gently()

    def abort(self) -> None:
        """See ``Stream``."""
        self._receiver = None
        self.closed = True
        if self._reader is not None:
            try:
                self._sock.setsockopt(SOL_SOCKET, SO_LINGER, _RESET_ON_CLOSE)
            except OSError:
                pass
            self._release()

    def give_up(self) -> None:
        """Close now what nobody is to wait for any longer; the receiver hears that it is lost."""
        if not self.closed:
            self._break(ConnectionLost("the connection was given up: another one needed its place"))

    def _release_gently(self) -> None:
        """Take what has arrived before closing: unread bytes would make the system reset the connection instead.

        The peer could then lose what it has not read yet. TLS session tickets are such bytes that nobody asked for.
        """
        try:
            for _ in range(LAST_READS_MAX):
                if not self._sock.recv(RECV_BYTES):
                    break
        except OSError:
            pass
        self._release()

    def _break(self, error: ConnectionLost) -> None:
        self._error = error
        self.closed = True
        self._release()
        self._tell_lost(error)

    def _tell_lost(self, error: ConnectionLost) -> None:
        receiver, self._receiver = self._receiver, None
        try:
            if receiver is not None:
                receiver.lost(error)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:
            _log.exception("a receiver of bytes failed when its connection was lost")

    def _crashed(self, error: BaseException) -> None:
        receiver = self._receiver
        self.abort()
        report_crash(receiver, error)

    def _forget_unsent(self) -> None:
        self._unsent = None
        self.unsent_bytes = 0

    def _release(self) -> None:
        """Give everything back to the system, once; watchers first, because the descriptor's number is used again."""
        if self._reader is None:
            return
        for watcher in (self._reader, self._writer, self._flush_timer):
            if watcher is not None:
                watcher.close()
        self._reader = self._writer = self._flush_timer = None
        self._forget_unsent()
        self._sock.close()


def _lost(error: OSError) -> ConnectionLost:
    lost = ConnectionLost(f"the connection was lost: {error.strerror or error}")
    # Its traceback would tie the stream into a cycle through the frame that caught it.
    lost.__cause__ = error.with_traceback(None)
    return lost


def _prepare(sock: _socket.socket, peer: tuple[Any, ...] | None) -> tuple[str, int]:
    """Turn off Nagle's delay and find the peer's address; a peer that is gone by now shows at the first read."""
    try:
        if sock.family in (AF_INET, AF_INET6):
            sock.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
            return readable(peer or sock.getpeername())
    except OSError:
        pass
    return "", 0
