"""The service behind the load: gives each token back, after a moment, and remembers how often it saw each.

Responsible for: having many requests in flight at every moment, so that whoever is killed takes some along. Refuses to
know: how many agents there are. asyncio in a thread, because hundreds of connections are not hundreds of threads.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Callable
from types import TracebackType

from tests.system.load import HOST, body_of

__all__ = ["TokenService"]

DELAY_S = 0.03


class _Connection(asyncio.Protocol):
    def __init__(self, service: TokenService) -> None:
        self._service = service
        self._received = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._service.transports.add(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._service.transports.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found:
            return
        lines = (line.partition(": ") for line in head.decode("latin-1").split("\r\n")[1:])
        fields = {name.lower(): value for name, _, value in lines}
        if len(body) >= int(fields.get("content-length", "0")):
            self._received = b""
            self._answer(fields["x-token"], body)

    def _answer(self, token: str, body: bytes) -> None:
        self._service.seen[token] += 1
        expected = body_of(token)
        if body and body != expected:
            self._service.wrong.append(token)
        response = f"HTTP/1.1 200 OK\r\nX-Token: {token}\r\nContent-Length: {len(expected)}\r\n\r\n".encode() + expected
        asyncio.get_running_loop().call_later(random.random() * DELAY_S, self._write, response)

    def _write(self, response: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(response)


class TokenService:
    """Serves on ``port`` in a thread of its own while the block runs."""

    def __init__(self, enter: Callable[[], object] = bool) -> None:
        """``enter`` is called first of all in the thread: whatever network that thread then is in."""
        self._enter = enter
        self.seen: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.transports: set[asyncio.Transport | None] = set()
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> TokenService:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _run(self) -> None:
        self._enter()
        server = self._loop.run_until_complete(
            self._loop.create_server(lambda: _Connection(self), HOST, 0, backlog=1024)
        )
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        server.close()
        for transport in self.transports:
            if transport is not None:
                transport.abort()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()
