"""Services that fail, clients that leave and clients that take nothing, all at once: nothing may be left."""

from __future__ import annotations

import gc
from collections import Counter
from random import Random
from typing import Any

import gevent
import pytest
from gevent.pool import Pool

from pico.agent.service_exchange import ServiceExchange
from pico.protocol.rpc import ResetCode
from tests.agent.harness import Bench, bench, eventually, fields_of, read_exactly, read_head

REQUESTS = 600
AT_ONE_TIME = 40


def service(rng: Random) -> Any:
    def handle(sock: Any, _: Any) -> None:
        rest = b""
        while True:
            head, rest = read_head(sock, rest)
            if not head or b" /close " in head:
                return
            size = int(fields_of(head).get("content-length", "0"))
            rest = read_exactly(sock, size, rest)[size:] if size else rest
            if b" /slow " in head:
                gevent.sleep(rng.random() * 0.02)
            size = rng.choice([0, 10, 70_000, 600_000])
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size // 2))
            if b" /cut " in head:
                return
            sock.sendall(bytes(size - size // 2))

    return handle


def request(made: Bench, rng: Random, outcomes: Counter[str]) -> None:
    target = rng.choice([b"/close", b"/slow", b"/ok", b"/ok", b"/cut"])
    size = rng.choice([0, 0, 5, 200_000])
    takes = rng.random() < 0.8
    call = made.node.open(rng.choice([b"GET", b"POST"]), target, length=size, end=not size, takes=takes)
    upload = gevent.spawn(call.send, bytes(size), True) if size else None
    if rng.random() < 0.3:
        gevent.sleep(rng.random() * 0.02)
    else:
        with gevent.Timeout(0.3, False):
            call.done()
    outcomes["ended" if call.ended else call.reset.code.name if call.reset else "cancelled"] += 1
    made.node.multiplexer.reset(call.stream, ResetCode.CANCELLED)
    if upload is not None:
        upload.kill()


@pytest.mark.parametrize("seed", range(2))
def test_nothing_is_left_after_trouble(seed: int) -> None:
    rng = Random(seed)
    outcomes: Counter[str] = Counter()
    with bench(service(rng)) as made:
        pool = Pool(AT_ONE_TIME)
        for _ in range(REQUESTS):
            pool.spawn(request, made, rng, outcomes)
        pool.join()
        eventually(lambda: made.metrics.requests_in_flight == 0, "the end of every exchange")
        eventually(lambda: len(made.service) == made.service.idle, "the end of every connection in use")
        for side in (made.node, made.agent):
            snapshot = side.multiplexer.engine.snapshot()
            assert (snapshot.opened, snapshot.accepted, snapshot.held_bytes) == (0, 0, 0)
        assert sum(outcomes.values()) == REQUESTS
        assert {"ended", "cancelled", "SERVICE_CLOSED"} <= set(outcomes)
    gc.collect()
    assert not [thing for thing in gc.get_objects() if isinstance(thing, ServiceExchange)]
