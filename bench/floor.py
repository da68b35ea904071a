#!/usr/bin/env python3
"""The floor: the thinnest gevent relay that makes the system calls of a node and of an agent.

Responsible for: being what ``pico bench`` divides by. Two processes, as the product: a *node* that accepts clients on
one port and one agent on another, and an *agent* that dials the node and relays to keep-alive connections of a local
service. For each small request both make exactly the calls that any such relay must make: the client's receive, one
send on the tunnel for all that was queued in one turn of the loop, the receive at the far end, the service's send and
receive, and the same way back.

Refuses to know: HTTP. The node relays bytes of numbered clients and never looks at them. The agent looks for the end
of a response (the empty line and Content-Length, by ``find``), because it must know when a connection of its pool is
free again. There are no limits, timers, checks, errors, metrics or logs, and no flow control.

A frame on the tunnel is a header of eight bytes, the client's number and a length, and so many bytes; the length 0
says that the client has gone. A frame that arrives in pieces is relayed in pieces, so no body is ever put together.

Two styles. ``callback``: one persistent libev watcher per connection, whose callback receives and sends on the raw
non-blocking socket in the hub. ``greenlet``: one greenlet per connection around gevent's sockets, as a plain gevent
program is written. The first is the thinner one, and the bars are measured against it.

Usage:
  floor.py node --client-port=PORT --agent-port=PORT [--style=STYLE]
  floor.py agent --server=HOST:PORT --service=HOST:PORT [--style=STYLE]
  floor.py (-h | --help)

Options:
  --client-port=PORT   Where clients connect.
  --agent-port=PORT    Where the agent connects.
  --server=HOST:PORT   The node's agent port.
  --service=HOST:PORT  The service behind the agent.
  --style=STYLE        callback or greenlet [default: callback].
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import socket
import struct
import sys
from collections.abc import Callable
from typing import Any, Protocol

import gevent
from docopt import docopt
from gevent import socket as gevent_socket
from gevent.hub import get_hub

RECEIVE_BYTES = 64 * 1024
JOIN_BYTES_MAX = 64 * 1024  # more is handed to sendmsg in pieces, which costs less than copying it together
SENDMSG_BUFFERS_MAX = 64
HEADER = struct.Struct("!II")  # client, bytes that follow
READ, WRITE = 1, 2  # libev's event bits
cooperative: Any = gevent_socket  # its names are made at import, out of sight of a type checker

Received = Callable[[bytes], None]  # called with b"" once, when the connection has ended
Drained = Callable[[], None]


class Link(Protocol):
    """One connected socket: ``received`` is called with what arrives, writing never raises.

    ``write_all`` says whether the kernel took everything; if not, ``drained`` is called when it has.
    """

    received: Received
    drained: Drained

    def write(self, data: bytes) -> None: ...

    def write_all(self, buffers: list[bytes]) -> bool: ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def close(self) -> None: ...


class CallbackLink:
    """A persistent read watcher; writes go out at once, and what the kernel does not take waits for a write watcher."""

    __slots__ = ("_loop", "_reading", "_sock", "_unsent", "_writing", "drained", "received")

    def __init__(self, sock: socket.socket, received: Received) -> None:
        sock.setblocking(False)
        self.received = received
        self.drained: Drained = nothing
        self._sock = sock
        self._unsent: list[memoryview] = []
        self._loop: Any = get_hub().loop
        self._writing: Any = None
        self._reading: Any = self._loop.io(sock.fileno(), READ)
        self._reading.start(self._readable)

    def _readable(self) -> None:
        try:
            data = self._sock.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
        self.received(data)

    def write(self, data: bytes) -> None:
        if self._unsent:
            self._unsent.append(memoryview(data))
            return
        try:
            sent = self._sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            return  # the read watcher hears of it as well, and ends the connection
        if sent < len(data):
            self._keep([memoryview(data)[sent:]])

    def write_all(self, buffers: list[bytes]) -> bool:
        if len(buffers) == 1 or sum(map(len, buffers)) <= JOIN_BYTES_MAX:
            self.write(b"".join(buffers))
        elif self._unsent:
            self._unsent.extend(memoryview(each) for each in buffers)
        else:
            self._keep([memoryview(each) for each in buffers])
            self._writable()
        return not self._unsent

    def _keep(self, views: list[memoryview]) -> None:
        self._unsent = views
        if self._writing is None:
            self._writing = self._loop.io(self._sock.fileno(), WRITE)
        self._writing.start(self._writable)

    def _writable(self) -> None:
        try:
            while self._unsent:
                self._sent(self._sock.sendmsg(self._unsent[:SENDMSG_BUFFERS_MAX]))
        except BlockingIOError:
            return
        except OSError:
            self._unsent.clear()
        self._writing.stop()
        self.drained()

    def pause(self) -> None:
        self._reading.stop()

    def resume(self) -> None:
        self._reading.start(self._readable)

    def _sent(self, count: int) -> None:
        whole = 0
        for view in self._unsent:
            if count < len(view):
                break
            count -= len(view)
            whole += 1
        del self._unsent[:whole]
        if count:
            self._unsent[0] = self._unsent[0][count:]

    def close(self) -> None:
        for watcher in (self._reading, self._writing):
            if watcher is not None:
                watcher.stop()
                watcher.close()
        self._writing = None
        self._unsent = []
        self._sock.close()


class GreenletLink:
    """A greenlet that receives; writes are ``sendall``, so a reader of one connection may wait for another."""

    __slots__ = ("_sock", "drained", "received")

    def __init__(self, sock: socket.socket, received: Received) -> None:
        self.received = received
        self.drained: Drained = nothing  # never called: whoever writes waits
        self._sock = cooperative.socket(fileno=sock.detach())
        gevent.spawn(self._read)

    def _read(self) -> None:
        try:
            while data := self._sock.recv(RECEIVE_BYTES):
                self.received(data)
        except OSError:
            pass
        self.close()
        self.received(b"")

    def write(self, data: bytes) -> None:
        try:
            self._sock.sendall(data)
        except OSError:
            return

    def write_all(self, buffers: list[bytes]) -> bool:
        self.write(b"".join(buffers))
        return True

    def pause(self) -> None:
        raise NotImplementedError

    resume = pause

    def close(self) -> None:
        self._sock.close()


LinkType = type[CallbackLink] | type[GreenletLink]
LINKS: dict[str, LinkType] = {"callback": CallbackLink, "greenlet": GreenletLink}


class Tunnel:
    """Frames over one connection: all that is queued in one turn of the loop leaves in one send."""

    __slots__ = (
        "_client",
        "_flushing",
        "_loop",
        "_partial",
        "_queued",
        "_remaining",
        "arrived",
        "congested",
        "link",
        "style",
    )

    def __init__(self, sock: socket.socket, style: LinkType, arrived: Callable[[int, bytes], None]) -> None:
        self.arrived = arrived  # called with the client and its bytes; b"" when the client has gone
        self.congested: Drained = nothing  # called when the kernel did not take everything
        self.style = style
        self._loop: Any = get_hub().loop
        self._queued: list[bytes] = []
        self._flushing = False  # scheduled, or a greenlet waits in the middle of a send
        self._partial = b""  # of a header
        self._client = 0
        self._remaining = 0  # of the frame that is being received
        self.link: Link = style(sock, self._received)

    def queue(self, client: int, data: bytes) -> None:
        if not self._flushing:
            self._flushing = True
            self._schedule()
        if len(data) < JOIN_BYTES_MAX:
            self._queued.append(HEADER.pack(client, len(data)) + data)
        else:
            self._queued += (HEADER.pack(client, len(data)), data)

    def _schedule(self) -> None:
        if self.style is CallbackLink:
            self._loop.run_callback(self._flush)
        else:
            gevent.spawn(self._flush)

    def _flush(self) -> None:
        while queued := self._queued:
            self._queued = []
            if not self.link.write_all(queued):
                self.congested()
        self._flushing = False

    def _received(self, data: bytes) -> None:
        if not data:
            sys.exit(0)  # the other half has gone, and this one is of no use alone
        if self._partial:
            data = self._partial + data
            self._partial = b""
        offset, size = self._remaining, len(data)
        if offset:
            if size <= offset:
                self._remaining = offset - size
                self.arrived(self._client, data)
                return
            self.arrived(self._client, data[:offset])
            self._remaining = 0
        while size - offset >= HEADER.size:
            client, length = HEADER.unpack_from(data, offset)
            offset += HEADER.size
            end = offset + length
            if end > size:
                self._client, self._remaining = client, end - size
                if offset < size:
                    self.arrived(client, data[offset:])
                return
            self.arrived(client, data[offset:end])
            offset = end
        self._partial = data[offset:]


class Node:
    """Gives each client a number and relays its bytes to the agent, and the agent's bytes to it."""

    def __init__(self, client_port: int, agent_port: int, style: LinkType) -> None:
        self._style = style
        self._clients: dict[int, Link] = {}
        self._last_client = 0
        agent_listener = listen(agent_port)
        self._client_listener = listen(client_port)
        agent_sock, _ = agent_listener.accept()
        agent_listener.close()
        self._tunnel = Tunnel(without_delay(agent_sock), style, self._from_agent)
        self._client_listener.setblocking(False)
        self._accepting = get_hub().loop.io(self._client_listener.fileno(), READ)
        self._accepting.start(self._accept)

    def _accept(self) -> None:
        try:
            while True:
                sock, _ = self._client_listener.accept()
                self._last_client += 1
                client = self._last_client
                self._clients[client] = self._style(without_delay(sock), self._from_client(client))
        except BlockingIOError:
            return

    def _from_client(self, client: int) -> Received:
        queue, clients = self._tunnel.queue, self._clients

        def received(data: bytes) -> None:
            if not data:
                clients.pop(client, None)
            queue(client, data)

        return received

    def _from_agent(self, client: int, data: bytes) -> None:
        link = self._clients.get(client)
        if link is not None:
            link.write(data)


class Service:
    """A pooled connection to the service; finds the end of the response that is on it."""

    __slots__ = ("_agent", "_left", "client", "link")

    def __init__(self, agent: Agent, sock: socket.socket, style: LinkType) -> None:
        self._agent = agent
        self._left = -1  # bytes of the body to come; -1: the head is to come
        self.client = 0
        self.link: Link = style(sock, self._received)

    def _received(self, data: bytes) -> None:
        if not data:
            self._agent.service_ended(self)
            return
        self._agent.tunnel.queue(self.client, data)
        if self._left < 0:
            self._left = body_bytes(data)
        self._left -= len(data)
        if self._left == 0:
            self._left = -1
            self._agent.free(self)


def body_bytes(data: bytes) -> int:
    """The length of the whole response that begins with ``data``, head included. The head arrives in one piece."""
    head_end = data.find(b"\r\n\r\n") + 4
    start = data.find(b"Content-Length: ") + 16
    return head_end + int(data[start : data.find(b"\r", start)])


class Agent:
    """Relays each client's bytes to a connection of the pool for as long as the response lasts."""

    def __init__(self, server: tuple[str, int], service: tuple[str, int], style: LinkType) -> None:
        self._style = style
        self._service = service
        self._busy: dict[int, Service] = {}
        self._idle: list[Service] = []
        self._paused: list[Service] = []
        self.tunnel = Tunnel(without_delay(dial_patiently(server)), style, self._from_node)
        self.tunnel.congested = self._pause
        self.tunnel.link.drained = self._resume

    def _from_node(self, client: int, data: bytes) -> None:
        service = self._busy.get(client)
        if service is None:
            if not data:
                return
            service = self._idle.pop() if self._idle else self._open()
            service.client = client
            self._busy[client] = service
        elif not data:
            del self._busy[client]
            service.link.close()
            return
        service.link.write(data)

    def _open(self) -> Service:
        return Service(self, without_delay(socket.create_connection(self._service)), self._style)

    def _pause(self) -> None:
        """The services wait while the tunnel is full: bytes that pile up leave the cache and cost more."""
        if not self._paused:
            self._paused = list(self._busy.values())
            for service in self._paused:
                service.link.pause()

    def _resume(self) -> None:
        for service in self._paused:
            service.link.resume()
        self._paused.clear()

    def free(self, service: Service) -> None:
        del self._busy[service.client]
        self._idle.append(service)

    def service_ended(self, service: Service) -> None:
        if service in self._idle:
            self._idle.remove(service)
        elif self._busy.get(service.client) is service:
            del self._busy[service.client]


def keep_freed() -> None:
    """Have glibc keep what is freed: else a run is cheap or dear by how the end of the heap happens to lie."""
    with contextlib.suppress(AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-1, 16 << 20)  # M_TRIM_THRESHOLD
        mallopt(-3, 1 << 20)  # M_MMAP_THRESHOLD


def nothing() -> None:
    """What is called where nobody minds."""


def listen(port: int) -> socket.socket:
    return socket.create_server(("127.0.0.1", port), backlog=1024)


def without_delay(sock: socket.socket) -> socket.socket:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def dial_patiently(address: tuple[str, int], *, attempts: int = 100) -> socket.socket:
    """Both halves are started together: the node may listen a moment later."""
    for _ in range(attempts):
        try:
            return socket.create_connection(address)
        except ConnectionRefusedError:
            gevent.sleep(0.05)
    raise SystemExit(f"floor: nobody listens at {address[0]}:{address[1]}")


def address_of(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port)


def main() -> None:
    arguments = docopt(__doc__)
    style = LINKS[arguments["--style"]]
    role: object
    if arguments["node"]:
        role = Node(int(arguments["--client-port"]), int(arguments["--agent-port"]), style)
    else:
        role = Agent(address_of(arguments["--server"]), address_of(arguments["--service"]), style)
    keep_freed()
    gc.freeze()
    gevent.wait([gevent.spawn(run_for_ever, role)])


def run_for_ever(_role: object) -> None:
    """Keeps the hub alive, and what it works for: watchers alone do not keep their owner."""
    while True:
        gevent.sleep(3600)


if __name__ == "__main__":
    main()
