"""TLS over any stream.

Responsible for: the handshake in the greenlet of whoever asks for it, and a stream whose bytes are records on the
stream beneath. Refuses to know: where a context comes from (``pico.transport.certificates``), and what the bytes mean.

How the ends of TLS and of TCP are told apart: ``close_notify`` is the peer's end (``ended``); an end of the stream
beneath without it is a loss (``lost``), because anyone on the way can forge a FIN and so cut a message short.

Backpressure passes through: nothing is decrypted while reading is paused, and ``unsent_bytes`` counts the records that
the stream beneath has not sent. What is held here is at most what one read brought.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from typing import Final

from pico.errors import ConnectFailed, ConnectionLost, LocalProtocolError
from pico.transport.blocking_reader import BlockingReader
from pico.transport.clock import Clock, HubClock
from pico.transport.stream import Receiver, Stream, report_crash

__all__ = [
    "PLAIN_HTTP_ANSWER",
    "TlsStream",
    "accept_tls",
    "connect_tls",
    "is_plain_http",
    "tls_reason",
]

REASONS: Final = {
    "HTTP_REQUEST": "plain HTTP to a port that speaks HTTPS",
    "WRONG_VERSION_NUMBER": "the other side does not speak TLS",
    "TLSV1_ALERT_UNKNOWN_CA": "the other side does not know who signed our certificate",
    "SSLV3_ALERT_BAD_CERTIFICATE": "the other side does not accept our certificate",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "our certificate has expired, says the other side",
}
"""What the library calls otherwise."""

RECORD_BYTES_MAX: Final = 16 * 1024
ANSWERS_BYTES_MAX: Final = 64 * 1024
"""Of the protocol's own making, waiting for a peer that asks for more."""

PLAIN_HTTP_ANSWER: Final = (
    b"HTTP/1.1 400 This port speaks HTTPS\r\n"
    b"Content-Type: text/plain\r\nContent-Length: 42\r\nConnection: close\r\n\r\n"
    b"This port speaks HTTPS: use an https URL.\n"
)
"""For who speaks plain HTTP to a door with a certificate."""


def accept_tls(
    stream: Stream, context: ssl.SSLContext, timeout_s: float, *, clock: Clock | None = None, received: bytes = b""
) -> TlsStream:
    """The server's side of the handshake, in the calling greenlet; ``received`` is what was read of it already.

    Raises ``TransportTimeout`` or ``ConnectionLost``; the stream is closed then, and a client that spoke plain HTTP
    was told so.
    """
    try:
        return _handshake(stream, context, timeout_s, clock or HubClock(), server_side=True, received=received)
    except ssl.SSLError as error:
        if is_plain_http(error):
            stream.write(PLAIN_HTTP_ANSWER)
        stream.close()
        raise ConnectionLost(tls_reason(error)) from error


def connect_tls(stream: Stream, context: ssl.SSLContext, server_name: str, timeout_s: float) -> TlsStream:
    """The client's side, which verifies that the peer is ``server_name``, in the calling greenlet.

    Raises ``TransportTimeout`` or ``ConnectFailed``; the stream is closed then.
    """
    try:
        return _handshake(stream, context, timeout_s, HubClock(), server_name=server_name)
    except ssl.SSLError as error:
        stream.close()
        raise ConnectFailed(f"the TLS handshake with {server_name} failed: {tls_reason(error)}") from error
    except ConnectionLost as error:
        raise ConnectFailed(f"the TLS handshake with {server_name} failed: {error}") from error
    except ValueError as error:  # a name that no certificate can have
        stream.close()
        raise ConnectFailed(f"the TLS handshake with {server_name!r} failed: not a valid name") from error


def is_plain_http(error: BaseException) -> bool:
    """Whether a handshake failed because the client sent a request of plain HTTP."""
    return isinstance(error, ssl.SSLError) and getattr(error, "reason", None) == "HTTP_REQUEST"


def tls_reason(error: ssl.SSLError) -> str:
    """What went wrong, in a few words for people."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return str(error.verify_message).rstrip(".")  # it stands within a sentence of ours
    if isinstance(error, ssl.SSLEOFError):
        return "the other side ended the connection"
    # Not every one that the library makes has a reason, and ours has none either.
    reason = getattr(error, "reason", None) or str(error)
    return REASONS.get(reason, reason.replace("_", " ").lower())


def _handshake(
    stream: Stream,
    context: ssl.SSLContext,
    timeout_s: float,
    clock: Clock,
    *,
    server_side: bool = False,
    server_name: str | None = None,
    received: bytes = b"",
) -> TlsStream:
    """Shake hands, or raise and leave the stream ready to be closed (``ssl.SSLError``) or aborted."""
    deadline = clock.now() + timeout_s
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    incoming.write(received)
    session = context.wrap_bio(incoming, outgoing, server_side, server_name)
    reader = BlockingReader(stream, clock)
    try:
        while not _step(session, outgoing, stream):
            data = reader.receive(max(0.0, deadline - clock.now()))
            if not data:
                raise ConnectionLost("the peer closed the connection during the TLS handshake")
            incoming.write(data)
    except ssl.SSLError:
        raise
    except BaseException:  # a greenlet that is killed, too, leaves nothing behind
        stream.abort()
        raise
    incoming.write(reader.detach())
    return TlsStream(stream, session, incoming, outgoing, clock)


def _step(session: ssl.SSLObject, outgoing: ssl.MemoryBIO, stream: Stream) -> bool:
    """Go as far as the bytes allow; whether the handshake is complete. An alert is sent even when it fails."""
    try:
        session.do_handshake()
        return True
    except ssl.SSLWantReadError:
        return False
    finally:
        if outgoing.pending:
            stream.write(outgoing.read())


class TlsStream:
    """A stream of plaintext; made by ``accept_tls`` and ``connect_tls``."""

    __slots__ = (
        "_answers_bytes",
        "_clock",
        "_end_told",
        "_error",
        "_fault",
        "_incoming",
        "_outgoing",
        "_paused",
        "_peer_ended",
        "_plain",
        "_raw",
        "_receiver",
        "_session",
        "_shut",
        "closed",
    )

    def __init__(
        self, raw: Stream, session: ssl.SSLObject, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, clock: Clock
    ) -> None:
        self._raw = raw
        self._session = session
        self._incoming = incoming
        self._outgoing = outgoing
        self._clock = clock
        self._receiver: Receiver | None = None
        self._plain = b""  # decrypted before a half-close and not taken yet
        self._paused = False
        self._peer_ended = False
        self._end_told = False
        self._answers_bytes = 0
        self._fault: ssl.SSLError | None = None
        self._error: ConnectionLost | None = None
        self._shut = False
        self.closed = False
        raw.pause_reading()
        raw.set_receiver(self)

    @property
    def read_bytes_max(self) -> int:
        """See ``Stream``; counted in what travels."""
        return self._raw.read_bytes_max

    @read_bytes_max.setter
    def read_bytes_max(self, size: int) -> None:
        self._raw.read_bytes_max = size

    @property
    def patient(self) -> bool:
        """See ``Stream``."""
        return self._raw.patient

    @patient.setter
    def patient(self, patient: bool) -> None:
        self._raw.patient = patient

    @property
    def more_waits(self) -> bool:
        """See ``Stream``: nobody can say, what waits may be no more than a part of a record."""
        return False

    @property
    def peer_host(self) -> str:
        """See ``Stream``."""
        return self._raw.peer_host

    @property
    def peer_port(self) -> int:
        """See ``Stream``."""
        return self._raw.peer_port

    @property
    def unsent_bytes(self) -> int:
        """See ``Stream``; records, not plaintext."""
        return self._raw.unsent_bytes

    @property
    def untaken_bytes(self) -> int:
        """See ``Stream``."""
        return self._raw.untaken_bytes

    @property
    def unread_bytes(self) -> int:
        """See ``Stream``; records, not plaintext."""
        return self._raw.unread_bytes

    @property
    def delivery_rate(self) -> int | None:
        """See ``Stream``."""
        return self._raw.delivery_rate

    def limit_backlog(self, size: int) -> None:
        """See ``Stream``."""
        self._raw.limit_backlog(size)

    @property
    def quiet(self) -> bool:
        """See ``Stream``; a record of the protocol's own is no quiet either."""
        if self.closed or self._peer_ended or self._error is not None or self._fault is not None:
            return False
        return not self._plain and not self._incoming.pending and self._raw.quiet

    @property
    def version(self) -> str:
        """Of TLS, for logs."""
        return self._session.version() or ""

    # What the owner asks for.

    def set_receiver(self, receiver: Receiver | None) -> None:
        """See ``Stream``."""
        self._receiver = receiver
        self._end_told = False
        self._regulate()
        if receiver is not None:
            self._clock.call_soon(self._catch_up)

    def pause_reading(self) -> None:
        """See ``Stream``."""
        self._paused = True
        self._regulate()

    def resume_reading(self) -> None:
        """See ``Stream``."""
        if self._paused:
            self._paused = False
            self._regulate()
            self._clock.call_soon(self._catch_up)

    def _regulate(self) -> None:
        if self._receiver is None or self._paused:
            self._raw.pause_reading()
        else:
            self._raw.resume_reading()

    def write(self, data: bytes | memoryview) -> None:
        """See ``Stream``."""
        if self.closed or self._shut:
            if not self.closed and self._error is None:
                raise LocalProtocolError("write after half_close")
            return
        rest = memoryview(data)
        records = []
        try:
            while rest:
                rest = rest[self._session.write(rest[:RECORD_BYTES_MAX]) :]
                # One record at a time: what the library buffers in between never shrinks again.
                records.append(self._outgoing.read())
        except ssl.SSLError as error:
            self._break_soon(error)
            return
        self._raw.writev(records)

    def writev(self, buffers: Sequence[bytes | memoryview]) -> None:
        """See ``Stream``."""
        self.write(b"".join(buffers))

    def half_close(self) -> None:
        """See ``Stream``; the peer gets ``close_notify``, and a FIN after it."""
        if not (self._shut or self.closed):
            self._shut = True
            self._say_end()
            self._raw.half_close()

    def close(self) -> None:
        """See ``Stream``."""
        self._receiver = None
        if not self.closed:
            self.closed = True
            if not self._shut:
                self._say_end()
            self._raw.close()

    def abort(self) -> None:
        """See ``Stream``."""
        self._receiver = None
        self.closed = True
        self._raw.abort()

    def _say_end(self) -> None:
        """Send ``close_notify``. The library looks for the peer's in the same call and chokes on data: take it out."""
        try:
            self._plain += self._decrypt()
            self._session.unwrap()
        except ssl.SSLError:  # the peer's is not there, as a rule
            pass
        if self._outgoing.pending:
            self._raw.write(self._outgoing.read())

    # What the stream beneath says.

    def received(self, data: bytes) -> None:
        """See ``Receiver``."""
        self._incoming.write(data if len(data) <= RECORD_BYTES_MAX else self._decrypt_in_pieces(data))
        self._pump()

    def ended(self) -> None:
        """See ``Receiver``."""
        self._incoming.write_eof()
        self._pump()

    def lost(self, error: ConnectionLost) -> None:
        """See ``Receiver``."""
        self._tell_lost(error)

    def drained(self) -> None:
        """See ``Receiver``."""
        if self._receiver is not None:
            self._receiver.drained()

    def crashed(self, error: BaseException) -> None:
        """Our receiver raised in one of its calls; the stream beneath is reset."""
        self.closed = True
        receiver, self._receiver = self._receiver, None
        report_crash(receiver, error)

    def _catch_up(self) -> None:
        """Deliver what came while nobody listened."""
        if self._receiver is None:
            return
        try:
            if self._error is not None:
                self._tell_lost(self._error)
            elif not self.closed:
                self._pump()
        except BaseException as error:
            self._raw.abort()
            self.crashed(error)

    def _decrypt_in_pieces(self, data: bytes) -> memoryview:
        """All but the last piece, which is given back: what the library buffers never shrinks again."""
        pieces, rest = [self._plain], memoryview(data)
        while len(rest) > RECORD_BYTES_MAX:
            self._incoming.write(rest[:RECORD_BYTES_MAX])
            pieces.append(self._decrypt())
            rest = rest[RECORD_BYTES_MAX:]
        self._plain = b"".join(pieces)
        return rest

    def _pump(self) -> None:
        if self._receiver is None or self._paused or self.closed:
            return
        plain, self._plain = self._plain + self._decrypt(), b""
        if self._outgoing.pending:
            self._answer()
        if plain:
            self._receiver.received(plain)
        self._tell_end()

    def _answer(self) -> None:
        """Send what TLS itself wants sent: an alert, or a new key, which a peer may demand without reading."""
        answer = self._outgoing.read()
        self._answers_bytes = self._answers_bytes + len(answer) if self._raw.unsent_bytes else 0
        if self._answers_bytes > ANSWERS_BYTES_MAX:
            self._fault = ssl.SSLError("answers that the peer does not read")
        self._raw.write(answer)

    def _tell_end(self) -> None:
        """What followed the last bytes, if the receiver still wants to know."""
        if self._receiver is None or self._paused or self._end_told:
            return
        if self._fault is not None:
            self._raw.close()
            self._tell_lost(_lost(self._fault))
        elif self._peer_ended:
            self._end_told = True
            self._receiver.ended()

    def _decrypt(self) -> bytes:
        """All plaintext that is there; notes the peer's end, or its breach of TLS."""
        pieces = []
        while not self._peer_ended and self._fault is None:
            try:
                piece = self._session.read(RECORD_BYTES_MAX)
            except ssl.SSLWantReadError:
                break
            except ssl.SSLZeroReturnError:  # the peer's end, once we have said ours
                piece = b""
            except ssl.SSLError as error:
                self._fault = error
                break
            self._peer_ended = not piece
            pieces.append(piece)
        return b"".join(pieces)

    def _break_soon(self, error: ssl.SSLError) -> None:
        self._error = _lost(error)
        self._raw.abort()
        self._clock.call_soon(self._catch_up)

    def _tell_lost(self, error: ConnectionLost) -> None:
        self._error = error
        self.closed = True
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.lost(error)


def _lost(error: ssl.SSLError) -> ConnectionLost:
    truncated = isinstance(error, ssl.SSLEOFError) or getattr(error, "reason", "") == "UNEXPECTED_EOF_WHILE_READING"
    lost = ConnectionLost(
        "the connection ended without close_notify" if truncated else f"TLS failed: {tls_reason(error)}"
    )
    lost.__cause__ = error.with_traceback(None)  # which would tie the stream into a cycle
    return lost
