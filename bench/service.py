#!/usr/bin/env python3
"""The sample service of the benchmark: cheap enough never to be what is measured.

Responsible for: ``GET /SIZE`` is answered with a body of so many bytes; a request with a body, whatever its path, is
read to its end, the body is dropped, and the answer's body is its length in decimal. Connections are kept.

Refuses to know: anything else of HTTP. One process, one epoll, no gevent, no pipelining.

Usage:
  service.py --port=PORT
  service.py (-h | --help)
"""

from __future__ import annotations

import gc
import re
import select
import socket

from docopt import docopt

RECEIVE_BYTES = 64 * 1024
DISCARD = bytearray(256 * 1024)  # every body ends here
CONTENT_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
TARGET = re.compile(rb"GET /(\d+) ")
HEAD = b"HTTP/1.1 200 OK\r\nServer: bench\r\nContent-Type: application/octet-stream\r\nContent-Length: %d\r\n\r\n"
NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"


class Responses(dict[int, memoryview]):
    """Whole responses by the size of their body, each made once."""

    def __missing__(self, size: int) -> memoryview:
        self[size] = memoryview(HEAD % size + bytes(size))
        return self[size]


RESPONSES = Responses()


class Connection:
    """One client: how much of its body is still to come, and what it has not yet taken of its response."""

    __slots__ = ("_body_bytes", "_epoll", "_head", "_left", "_sock", "_unsent")

    def __init__(self, epoll: select.epoll, sock: socket.socket) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._epoll = epoll
        self._sock = sock
        self._body_bytes = 0
        self._head = b""  # as long as it is incomplete
        self._left = 0
        self._unsent = memoryview(b"")
        epoll.register(sock.fileno(), select.EPOLLIN)

    def ready(self, events: int) -> bool:
        """Does what the socket now allows. False: the client has gone, and the socket is closed."""
        try:
            alive = self._send() if events & select.EPOLLOUT else self._receive()
        except BlockingIOError:
            return True
        except OSError:
            alive = False
        if not alive:
            self._sock.close()
        return alive

    def _receive(self) -> bool:
        if self._left:
            received = self._sock.recv_into(DISCARD)
            return received > 0 and self._took(received)
        data = self._sock.recv(RECEIVE_BYTES)
        return bool(data) and self._begin(self._head + data)

    def _begin(self, head: bytes) -> bool:
        end = head.find(b"\r\n\r\n")
        self._head = head if end < 0 else b""
        if end < 0:
            return True
        declared = CONTENT_LENGTH.search(head)
        if declared is not None and int(declared[1]):
            self._body_bytes = self._left = int(declared[1])
            return self._took(len(head) - end - 4)
        asked = TARGET.match(head)
        return self._answer(RESPONSES[int(asked[1])] if asked else memoryview(NOT_FOUND))

    def _took(self, received: int) -> bool:
        self._left -= received
        if self._left:
            return True
        body = b"%d" % self._body_bytes
        return self._answer(memoryview(HEAD % len(body) + body))

    def _answer(self, response: memoryview) -> bool:
        self._unsent = response[self._sock.send(response) :]
        if self._unsent:
            self._epoll.modify(self._sock.fileno(), select.EPOLLOUT)
        return True

    def _send(self) -> bool:
        self._unsent = self._unsent[self._sock.send(self._unsent) :]
        if not self._unsent:
            self._epoll.modify(self._sock.fileno(), select.EPOLLIN)
        return True


def serve(port: int) -> None:
    """Never returns."""
    listener = socket.create_server(("127.0.0.1", port), backlog=4096)
    epoll = select.epoll()
    epoll.register(listener.fileno(), select.EPOLLIN)
    connections: dict[int, Connection] = {}
    gc.freeze()
    while True:
        for fd, events in epoll.poll():
            if fd == listener.fileno():
                sock, _ = listener.accept()
                connections[sock.fileno()] = Connection(epoll, sock)
            elif not connections[fd].ready(events):
                del connections[fd]


if __name__ == "__main__":
    serve(int(docopt(__doc__)["--port"]))
