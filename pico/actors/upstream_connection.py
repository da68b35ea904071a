"""One registered WebSocket of a service: the actor that owns its tunnel.

Responsible for: the life of one upstream: joining its endpoint's pool, leaving it, draining, and ending with nothing
left open. Refuses to know: the handshake before it (``pico.node.upstream_door``), the protocol inside
(``pico.protocol.rpc``), and the requests that open streams on its multiplexer directly.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pykka

from pico.actors.endpoint_pool import Endpoints
from pico.actors.messages import (
    AgentGoesAway,
    CloseUpstream,
    DrainUpstream,
    MoveUpstream,
    TunnelEnded,
    UpstreamJoined,
    UpstreamLeft,
)
from pico.actors.runtime import GeventActor, tell
from pico.actors.upstream import Upstream
from pico.observability.metrics import NodeMetrics
from pico.protocol.rpc import BaseEngine, ResetCode, StreamingEngine, StreamOpened
from pico.protocol.tunnel import MOVE
from pico.transport.clock import Clock
from pico.transport.multiplexer import CLOSE_GOING_AWAY, End, Multiplexer
from pico.transport.stream import Stream
from pico.transport.websocket import WebSocketCodec

__all__ = ["UpstreamConnection"]

_log = logging.getLogger("pico.upstream")


class UpstreamConnection(GeventActor):
    """Owns one tunnel; ``on_gone`` is called exactly once when it is over, on whatever way out."""

    def __init__(
        self,
        stream: Stream,
        codec: WebSocketCodec,
        engine: StreamingEngine | BaseEngine,
        *,
        upstream_id: str,
        endpoint_id: str,
        agent: str,
        leftover: bytes,
        clock: Clock,
        endpoints: pykka.ActorRef[Endpoints],
        metrics: NodeMetrics,
        on_gone: Callable[[], None],
        held_changed: Callable[[], None] | None = None,
    ) -> None:
        super().__init__()
        self._codec = codec
        self._leftover = leftover
        self._endpoints = endpoints
        self._metrics = metrics
        self._on_gone = on_gone
        self._multiplexer = Multiplexer(stream, codec, engine, clock, self, held_changed)
        self.upstream = Upstream(
            upstream_id,
            endpoint_id,
            self._multiplexer,
            streaming=isinstance(engine, StreamingEngine),
            address=stream.peer_host,
            agent=agent,
            since=clock.now(),
        )
        self._end_reason = ""

    def shed(self, reason: str) -> None:
        """End the tunnel now, and keep nothing of messages that have not ended (TUN-42); called in the hub."""
        self._multiplexer.shed(reason)
        self._codec.discard()

    # The actor's side.

    def on_start(self) -> None:
        """Begin to read, and join."""
        tell(self._endpoints, UpstreamJoined(self.upstream))
        self._multiplexer.start(self._leftover)
        self._leftover = b""
        _log.info("upstream %s registered endpoint %s", self.upstream.id, self.upstream.endpoint_id)

    def on_receive(self, message: Any) -> None:
        """Follow what happened to the tunnel, or what the node wants of it."""
        if isinstance(message, TunnelEnded):
            self._end_reason = message.reason
            self.finish()
        elif isinstance(message, AgentGoesAway):
            self._leave()
        elif isinstance(message, DrainUpstream):
            self._leave()
            if self.upstream.streaming:
                self._multiplexer.goaway(message.reason)
            else:  # TUN-45: it cannot be told
                self._multiplexer.close_when_idle(CLOSE_GOING_AWAY, message.reason)
        elif isinstance(message, MoveUpstream):
            self._multiplexer.goaway(MOVE)  # TUN-40: it stays in its pool
        elif isinstance(message, CloseUpstream):
            self._multiplexer.close(CLOSE_GOING_AWAY, message.reason)

    def on_exit(self, reason: BaseException | None) -> None:
        """Leave the pool and end the tunnel, whatever the way out."""
        self._leave()
        self._multiplexer.abort("the upstream's actor ended")
        self._metrics.connection_ended(self._multiplexer.engine.late_messages, self._multiplexer.violated)
        if self._multiplexer.end is End.SHED:
            self._metrics.upstreams_shed += 1
        self._on_gone()
        _log.info(
            "upstream %s left endpoint %s: %s",
            self.upstream.id,
            self.upstream.endpoint_id,
            self._end_reason or reason,
        )

    def _leave(self) -> None:
        tell(self._endpoints, UpstreamLeft(self.upstream))

    # The multiplexer's side: called in the hub, so only told onward.

    def stream_opened(self, event: StreamOpened) -> None:
        """Agents serve requests, they do not make any."""
        self._multiplexer.reset(
            event.stream, ResetCode.REFUSED, untouched=True, message="a node takes no requests here"
        )

    def goaway_received(self, reason: str) -> None:
        """The agent takes no new requests."""
        tell(self.actor_ref, AgentGoesAway())

    def connection_ended(self, reason: str) -> None:
        """The tunnel is over."""
        tell(self.actor_ref, TunnelEnded(reason))
