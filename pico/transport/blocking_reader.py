"""Reading a stream from a greenlet, piece by piece, as a handshake does.

Responsible for: waiting with a deadline, and giving back what arrived and was not asked for. Refuses to know: what is
read, and who is told of the stream's bytes afterwards.
"""

from __future__ import annotations

from typing import Any

import gevent
from gevent.hub import Waiter, get_hub

from pico.errors import ConnectionLost, TransportTimeout
from pico.transport.clock import Clock, HubClock
from pico.transport.stream import RECV_BYTES, Stream

__all__ = ["BlockingReader"]


class BlockingReader:
    """Lets one greenlet read a stream; it is the stream's receiver until ``detach``.

    It holds at most what two reads of the socket give; the rest waits outside.
    """

    def __init__(self, stream: Stream, clock: Clock | None = None) -> None:
        self.stream = stream
        self._clock = clock if clock is not None else HubClock()
        self._chunks: list[bytes] = []
        self._chunks_bytes = 0
        self._ended = False
        self._error: ConnectionLost | None = None
        self._waiter: Any = None
        stream.set_receiver(self)

    def receive(self, timeout_s: float) -> bytes:
        """What has arrived, at least one byte; ``b""`` when the peer has ended.

        Raises ``TransportTimeout`` when nothing comes in time and ``ConnectionLost`` when the connection broke. No
        other greenlet may be waiting.
        """
        if not self._is_ready():
            self._wait(timeout_s)
        if self._chunks:
            data = self._take()
            self.stream.resume_reading()
            return data
        if self._error is not None:
            raise self._error
        if self._ended:
            return b""
        raise TransportTimeout(f"nothing arrived within {timeout_s:.1f} s")

    def detach(self) -> bytes:
        """Stop reading and give back what arrived and was not asked for; the stream has no receiver now."""
        self.stream.set_receiver(None)
        self.stream.resume_reading()
        return self._take()

    def _take(self) -> bytes:
        data = b"".join(self._chunks)
        self._chunks.clear()
        self._chunks_bytes = 0
        return data

    def _is_ready(self) -> bool:
        return bool(self._chunks) or self._ended or self._error is not None

    def _wait(self, timeout_s: float) -> None:
        assert self._waiter is None, "one greenlet at a time"
        self._waiter = Waiter()
        timer = self._clock.timer(self._wake)
        timer.start(timeout_s)
        try:
            self._waiter.get()
        except gevent.Timeout as timeout:  # a BaseException, which would stop every actor there is
            raise TransportTimeout("the time of the caller ran out") from timeout
        finally:
            self._waiter = None
            timer.stop()

    def _wake(self) -> None:
        if self._waiter is not None:
            # From the hub itself: callbacks of a manual clock run elsewhere. A second switch is kept and not seen.
            get_hub().loop.run_callback(self._waiter.switch, None)

    def received(self, data: bytes) -> None:
        """See ``Receiver``."""
        self._chunks.append(data)
        self._chunks_bytes += len(data)
        if self._chunks_bytes >= RECV_BYTES:
            self.stream.pause_reading()
        self._wake()

    def ended(self) -> None:
        """See ``Receiver``."""
        self._ended = True
        self._wake()

    def lost(self, error: ConnectionLost) -> None:
        """See ``Receiver``."""
        self._error = error
        self._wake()

    def drained(self) -> None:
        """See ``Receiver``."""
