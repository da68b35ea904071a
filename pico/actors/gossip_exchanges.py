"""Exchanges over channels: the greenlets that carry the turns of two engines to each other.

Responsible for: dialling, the turns of either side, the deadline of the whole, how many are under way at one time, and
who waits. Refuses to know: what a turn says (``pico.protocol.gossip.exchange``), and when an exchange is wanted.

A greenlet asks the cluster's actor about each body and for each turn: only that actor touches its engine.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final, cast

import gevent
import pykka

from pico.actors.messages import BeginExchange, ExchangeDone, TakeBody, TakeTurn
from pico.actors.runtime import tell
from pico.config import GossipTimers, PeerLimits, address_text
from pico.errors import PicoError, RemoteProtocolError, TransportTimeout
from pico.observability.metrics import NodeMetrics
from pico.protocol.channel import Channel, ChannelViolation, ConnectedToSelf
from pico.protocol.gossip.events import ExchangeWanted
from pico.protocol.gossip.exchange import Exchange
from pico.protocol.gossip.values import Address
from pico.transport.blocking_reader import BlockingReader
from pico.transport.clock import Clock
from pico.transport.stream import Stream

__all__ = ["DialExchange", "GossipExchanges"]

DialExchange = Callable[[Address, str], tuple[Stream, Channel]]
"""A channel for an exchange with the node of that name, or with whoever is there."""

_END_OF_TURN = b""

WAITING_MAX: Final = 64
"""With nodes that are known; seeds wait besides, each once."""

TROUBLES_MAX: Final = 1_000
"""Addresses of which it is remembered what was last said of them."""

_log = logging.getLogger("pico.cluster")


class GossipExchanges:
    """Those that this node begins, and those that others begin with it."""

    def __init__(
        self,
        dial: DialExchange,
        cluster: Callable[[], pykka.ActorRef[Any] | None],
        clock: Clock,
        timers: GossipTimers,
        limits: PeerLimits,
        metrics: NodeMetrics,
        node_id: str,
    ) -> None:
        self._dial = dial
        self._cluster = cluster
        self._clock = clock
        self._timers = timers
        self._limits = limits
        self._metrics = metrics
        self._node_id = node_id
        self._under_way = 0
        self._waiting: dict[str | Address, ExchangeWanted] = {}
        self._troubles: dict[Address, str] = {}  # with the addresses of ``--join``, as it was last said
        self._served = 0
        self._held_bytes = 0

    def begin(self, wanted: ExchangeWanted) -> None:
        """Make one, in a greenlet of its own, as soon as there is room; until then each node and each seed waits once.

        Where too many nodes wait, one more fails at once and is wanted again.
        """
        cluster = self._cluster()
        if cluster is None:
            return  # it wanted one while it was being stopped
        subject = wanted.node_id or wanted.address
        waits = subject in self._waiting
        nodes = sum(1 for one in self._waiting.values() if one.node_id)
        if wanted.node_id and not waits and nodes >= WAITING_MAX:
            tell(cluster, ExchangeDone(wanted, None))
            return
        if not waits or wanted.sequence is not None:  # else the one that waits is as good, or answers a probe, too
            self._waiting[subject] = wanted
        self._begin_waiting()

    def _begin_waiting(self) -> None:
        cluster = self._cluster()
        if cluster is None:
            self._waiting.clear()  # who wanted them is being stopped
            return
        while self._waiting and self._under_way < self._limits.exchanges_max:
            wanted = self._waiting.pop(next(iter(self._waiting)))
            self._under_way += 1
            gevent.spawn_raw(self._run, wanted, cluster)

    def serve(self, stream: Stream, channel: Channel) -> None:
        """Take part in one that another node has begun; runs in the connection's greenlet."""
        cluster = self._cluster()
        self._served += 1
        try:
            if self._served > self._limits.exchanges_served_max:
                raise RemoteProtocolError(f"{self._served - 1} others are under way")
            if cluster is not None:
                _Conversation(self, stream, channel, cluster).converse(opens=False)
                self._metrics.cluster.exchanges.add("served")
        except (PicoError, pykka.ActorDeadError, pykka.Timeout) as error:
            self._metrics.cluster.exchanges.add("failed")
            _log.info("an exchange with node %s failed: %s", channel.node_id, error)
        finally:
            self._served -= 1
            stream.close()

    def _run(self, wanted: ExchangeWanted, cluster: pykka.ActorRef[Any]) -> None:
        node_id: str | None = None
        try:
            node_id = self._exchange(wanted, cluster)
            self._metrics.cluster.exchanges.add("begun")
            self._note(wanted, "")
        except ConnectedToSelf:
            node_id = self._node_id  # a seed that is this node: there is nothing to be done about it
        except (PicoError, pykka.ActorDeadError, pykka.Timeout) as error:
            self._metrics.cluster.exchanges.add("failed")
            self._note(wanted, str(error))
        finally:
            self._under_way -= 1
            tell(cluster, ExchangeDone(wanted, node_id))
            self._begin_waiting()

    def _note(self, wanted: ExchangeWanted, trouble: str) -> None:
        """Say of an address of ``--join`` why it cannot be joined: once for each reason, and when it is over."""
        if wanted.node_id:
            if trouble:
                _log.debug("no exchange with %s: %s", wanted.node_id, trouble)
            return
        before = self._troubles.pop(wanted.address, "")
        if trouble:
            self._troubles[wanted.address] = trouble
            if len(self._troubles) > TROUBLES_MAX:
                del self._troubles[next(iter(self._troubles))]
        if trouble != before:
            where = address_text(*wanted.address)
            if trouble:
                _log.warning("cannot join the node at %s: %s; retrying", where, trouble)
            else:
                _log.info("the node at %s answers now", where)

    def _exchange(self, wanted: ExchangeWanted, cluster: pykka.ActorRef[Any]) -> str:
        stream, channel = self._dial(wanted.address, wanted.node_id)
        try:
            _Conversation(self, stream, channel, cluster).converse(opens=True)
        finally:
            stream.close()
        return channel.node_id

    def hold(self, size: int) -> None:
        """So many bytes more, or fewer, are kept that were not taken in. Raises when it is too much."""
        self._held_bytes += size
        if size > 0 and self._held_bytes > self._limits.exchange_bytes_max:
            raise RemoteProtocolError(f"exchange: {self._held_bytes} bytes of bodies that do not end")

    @property
    def clock(self) -> Clock:
        return self._clock

    @property
    def timeout_s(self) -> float:
        return self._timers.exchange_timeout_s


class _Conversation:
    """One exchange on one channel."""

    def __init__(
        self, exchanges: GossipExchanges, stream: Stream, channel: Channel, cluster: pykka.ActorRef[Any]
    ) -> None:
        self._exchanges = exchanges
        self._clock = exchanges.clock
        self._deadline = exchanges.clock.now() + exchanges.timeout_s
        self._stream = stream
        self._frames = channel.frames
        self._cluster = cluster
        self._reader = BlockingReader(stream, exchanges.clock)
        self._leftover = channel.leftover
        self._received: deque[bytes] = deque()
        self._violation: ChannelViolation | None = None
        self._held_bytes = 0

    def converse(self, *, opens: bool) -> None:
        """To the last turn. Raises ``PicoError``, or what an ask of an actor that ends raises."""
        try:
            self._take_turns(opens=opens)
        finally:
            self._hold(-self._held_bytes)

    def _take_turns(self, *, opens: bool) -> None:
        exchange, turn = cast("tuple[Exchange, list[bytes]]", self._ask(BeginExchange(opens)))
        if opens:
            self._say(turn)
        while not exchange.over:
            is_last = not self._hear(exchange)
            turn = cast("list[bytes]", self._ask(TakeTurn(exchange)))
            if not is_last:
                self._say(turn)

    def _say(self, turn: Iterable[bytes]) -> None:
        self._stream.writev(self._frames.encode(*turn, _END_OF_TURN))

    def _hear(self, exchange: Exchange) -> bool:
        """The other side's next turn; whether it had bodies.

        Each is taken in as soon as it is there: it counts, whatever becomes of the turn (GOSSIP-71).
        """
        had_bodies = False
        while (body := self._next_frame()) != _END_OF_TURN:
            had_bodies = True
            self._ask(TakeBody(exchange, body))
            self._hold(-len(body) - self._frames.overhead_bytes)
        self._hold(-self._frames.overhead_bytes)
        return had_bodies

    def _next_frame(self) -> bytes:
        while not self._received:
            if self._violation is not None:
                raise self._violation
            data, self._leftover = self._leftover or self._reader.receive(self._left_s()), b""
            if not data:
                raise RemoteProtocolError("exchange: the peer ended in the middle of a turn")
            self._hold(len(data))
            try:
                self._received += self._frames.receive_data(data)
            except ChannelViolation as violation:
                self._received += violation.frames  # CHANNEL-20
                self._violation = violation
        return self._received.popleft()

    def _hold(self, size: int) -> None:
        self._held_bytes += size
        self._exchanges.hold(size)

    def _ask(self, message: BeginExchange | TakeBody | TakeTurn) -> object:
        return self._cluster.ask(message, timeout=self._left_s())

    def _left_s(self) -> float:
        left_s = self._deadline - self._clock.now()
        if left_s <= 0.0:
            raise TransportTimeout("the exchange took too long")
        return left_s
