"""One endpoint's link: the actor that keeps a tunnel open.

Responsible for: doing what the link's engine asks (dial, goaway, close), telling it what happened, and logging each
change of state. Refuses to know: when and whom to dial and when to give up (``pico.protocol.tunnel``), and what the
streams of a tunnel carry (``pico.agent.service_exchange``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from random import Random
from ssl import SSLContext
from typing import Any, Final

import gevent
import pykka

from pico.actors.runtime import GeventActor, tell
from pico.agent.dialling import Connected, Server, connect
from pico.agent.messages import DialEnded, StopLink, TimerFired, TunnelEnded, TunnelGoaway
from pico.agent.service_exchange import Forwarder
from pico.config import AgentConfig, websocket_limits
from pico.errors import PicoError
from pico.observability.metrics import AgentMetrics
from pico.protocol.rpc import BaseEngine, StreamingEngine, StreamOpened
from pico.protocol.tunnel import (
    ELSEWHERE,
    Abort,
    Announce,
    Change,
    Close,
    Command,
    Dial,
    GiveUp,
    Goaway,
    Link,
    LinkState,
    Refusal,
    Serve,
    Spread,
)
from pico.transport.clock import Clock
from pico.transport.multiplexer import End, Multiplexer
from pico.transport.stream import Stream
from pico.transport.websocket import WebSocketCodec

__all__ = ["LinkActor", "Tunnel"]

IDLE_POLL_S: Final = 0.1
"""How often a tunnel that leaves is asked whether it is idle."""

GOAWAY_REASON: Final = "the agent moves or stops"

_log = logging.getLogger("pico.agent")


class Tunnel:
    """One accepted connection: passes its streams on to the forwarder and its fate to the link."""

    def __init__(
        self,
        number: int,
        connected: Connected,
        config: AgentConfig,
        clock: Clock,
        forwarder: Forwarder,
        link: pykka.ActorRef[Any],
    ) -> None:
        self._number = number
        self._stream = connected.stream
        self._leftover = connected.leftover
        self._forwarder = forwarder
        self._link = link
        limits = websocket_limits(
            config.websocket_limits, config.rpc_limits, config.http_limits, streaming=connected.streaming
        )
        engine: StreamingEngine | BaseEngine
        if connected.streaming:
            engine = StreamingEngine(config.rpc_limits, now=clock.now())
        else:
            engine = BaseEngine(config.rpc_limits, config.http_limits, now=clock.now())
        self.multiplexer = Multiplexer(connected.stream, WebSocketCodec("client", limits), engine, clock, self)

    def start(self) -> None:
        """Begin to serve."""
        leftover, self._leftover = self._leftover, b""
        self.multiplexer.start(leftover)

    @property
    def idle(self) -> bool:
        """No stream is open, and nothing waits to be sent."""
        multiplexer = self.multiplexer
        return not (multiplexer.in_flight or multiplexer.engine.has_outgoing or self._stream.unsent_bytes)

    # What the multiplexer says, in the hub.

    def stream_opened(self, event: StreamOpened) -> None:
        """A request has arrived."""
        self._forwarder.forward(self.multiplexer, event)

    def goaway_received(self, reason: str) -> None:
        """The node takes no new streams."""
        tell(self._link, TunnelGoaway(self._number, reason))

    def connection_ended(self, reason: str) -> None:
        """The tunnel is over."""
        tell(self._link, TunnelEnded(self._number, reason))


class LinkActor(GeventActor):
    """Keeps one tunnel of an endpoint; ends by itself once it was stopped, or has given up.

    ``gave_up`` is called with the reason for the latter, ``ended`` after either.
    """

    def __init__(
        self,
        forwarder: Forwarder,
        servers: Sequence[Server],
        config: AgentConfig,
        clock: Clock,
        rng: Random,
        metrics: AgentMetrics,
        tls: SSLContext | None,
        *,
        gave_up: Callable[[str], None],
        ended: Callable[[], None],
        spread: Spread | None = None,
        place: int = 0,
    ) -> None:
        super().__init__()
        self.endpoint_id = forwarder.endpoint_id
        self._forwarder = forwarder
        self._servers = servers
        self._config = config
        self._clock = clock
        self._metrics = metrics
        self._tls = tls
        self._gave_up = gave_up
        self._ended = ended
        self._tunnels: dict[int, Tunnel] = {}
        self._arrived: dict[int, Stream] = {}  # dialled, by tunnel, and not taken yet
        self._timer = clock.timer(self._wake)
        self._link = Link(len(servers), config.link_timers, rng, now=clock.now(), spread=spread, place=place)
        self._counted = False  # in the metric of tunnels
        self._ended_by = End.LOST  # of the last tunnel that ended
        self._node = ""  # that has accepted last, if it said who it is

    @property
    def state(self) -> LinkState:
        """Where the link stands."""
        return self._link.state

    @property
    def serving(self) -> bool:
        """Whether the endpoint can be reached through this link."""
        return self._link.serving

    @property
    def streams(self) -> int:
        """Requests in flight on all tunnels."""
        return sum(tunnel.multiplexer.in_flight for tunnel in self._tunnels.values())

    def reconfigure(self, config: AgentConfig, tls: SSLContext | None) -> None:
        """For tunnels that are dialled from now on, and for the end of those that are there."""
        self._config = config
        self._link.reconfigure(config.link_timers)
        self._tls = tls

    def on_start(self) -> None:
        """The first dial is due at once."""
        self._pump()

    def on_receive(self, message: Any) -> None:
        """Tell the engine, then do what it asks."""
        now = self._clock.now()
        if isinstance(message, DialEnded):
            self._dial_ended(message, now)
        elif isinstance(message, TunnelGoaway):
            self._link.goaway(message.tunnel, message.reason, now=now)
        elif isinstance(message, TunnelEnded):
            self._tunnel_ended(message, now)
        elif isinstance(message, TimerFired):
            self._timer_fired(now)
        elif isinstance(message, StopLink):
            self._link.stop(now=now)
        self._pump()

    def on_exit(self, reason: BaseException | None) -> None:
        """Leave no tunnel open, whatever the way out."""
        self._timer.stop()
        for tunnel in list(self._tunnels.values()):
            tunnel.multiplexer.abort("the link ended")
        while self._arrived:
            self._arrived.popitem()[1].abort()
        if self._counted:
            self._metrics.tunnel_down(self.endpoint_id)
        if reason is None:
            self._ended()

    def _dial_ended(self, message: DialEnded, now: float) -> None:
        number, outcome = message.tunnel, message.outcome
        if isinstance(outcome, Connected):
            del self._arrived[number]
            self._tunnels[number] = Tunnel(number, outcome, self._config, self._clock, self._forwarder, self.actor_ref)
            self._node = outcome.node
            self._link.accepted(number, node=outcome.node, now=now)
        elif isinstance(outcome, Refusal):
            self._metrics.tunnel_ended("moved" if outcome.code == ELSEWHERE else "refused")
            self._link.refused(number, outcome, now=now)
        else:
            self._metrics.tunnel_ended("connect_failed")
            self._link.failed(number, outcome, now=now)

    def _tunnel_ended(self, message: TunnelEnded, now: float) -> None:
        tunnel = self._tunnels.pop(message.tunnel, None)
        if tunnel is not None:
            multiplexer = tunnel.multiplexer
            self._ended_by = multiplexer.end
            self._metrics.connection_ended(multiplexer.engine.late_messages, multiplexer.violated)
        self._link.ended(message.tunnel, message.reason, now=now)

    def _timer_fired(self, now: float) -> None:
        self._link.handle_timer(now=now)
        for number in self._link.snapshot().leaving:
            tunnel = self._tunnels.get(number)
            if tunnel is None or tunnel.idle:
                self._link.idle(number, now=now)

    def _pump(self) -> None:
        """Do what the engine asks until it asks nothing, then set its timer."""
        while commands := self._link.outgoing():
            for command in commands:
                _DO[type(command)](self, command)
        self._count_serving()
        if self._link.finished:
            self.finish()
            return
        at = self._link.next_timer()
        now = self._clock.now()
        delay_s = at - now if at is not None else None
        if self._link.snapshot().leaving:
            delay_s = IDLE_POLL_S if delay_s is None else min(delay_s, IDLE_POLL_S)
        if delay_s is None:
            self._timer.stop()
        else:
            self._timer.start(max(0.0, delay_s))

    def _count_serving(self) -> None:
        if self._counted is not self.serving:
            self._counted = self.serving
            (self._metrics.tunnel_up if self._counted else self._metrics.tunnel_down)(self.endpoint_id)

    def _wake(self) -> None:
        tell(self.actor_ref, TimerFired())

    # What the engine asks for.

    def _dial(self, command: Dial) -> None:
        gevent.spawn_raw(self._connect, command.tunnel, self._servers[command.server], command.elsewhere)

    def _connect(self, number: int, server: Server, elsewhere: tuple[str, ...]) -> None:
        """Runs in a greenlet of its own, and outlives nothing: its deadline is the dial's."""
        config = self._config
        outcome: Connected | Refusal | str = "the dial failed"
        try:
            outcome = connect(
                server,
                self.endpoint_id,
                timeout_s=config.link_timers.dial_s,
                tls=self._tls if server.tls else None,
                limits=config.http_limits,
                elsewhere=elsewhere,
            )
        except PicoError as error:
            outcome = str(error)
        finally:
            told = tell(self.actor_ref, DialEnded(number, outcome))
            if isinstance(outcome, Connected):
                if told:
                    self._arrived[number] = outcome.stream
                else:
                    outcome.stream.abort()

    def _serve(self, command: Serve) -> None:
        self._tunnels[command.tunnel].start()

    def _goaway(self, command: Goaway) -> None:
        tunnel = self._tunnels.get(command.tunnel)
        if tunnel is not None:
            tunnel.multiplexer.goaway(GOAWAY_REASON)

    def _close(self, command: Close) -> None:
        tunnel = self._tunnels.get(command.tunnel)
        if tunnel is not None:
            tunnel.multiplexer.close(command.code, command.reason)

    def _abort(self, command: Abort) -> None:
        tunnel = self._tunnels.pop(command.tunnel, None)
        if tunnel is not None:
            tunnel.multiplexer.abort("given up")

    def _give_up(self, command: GiveUp) -> None:
        server = self._servers[command.server]
        self._gave_up(f"endpoint {self.endpoint_id} was refused for good by {server}: {command.reason}")

    def _announce(self, command: Announce) -> None:
        change, server, reason = command.change, self._servers[command.server], command.reason
        endpoint = self.endpoint_id
        # The server may be a balancer, and then only the node itself says which of them it is about.
        where = f"{server} (node {self._node})" if self._node else str(server)
        if change is Change.REGISTERED:
            _log.info("endpoint %s is registered at %s", endpoint, where)
        elif change is Change.GOING_AWAY:
            self._metrics.tunnel_ended("goaway")
            _log.info("endpoint %s moves: %s goes away (%s)", endpoint, where, reason)
        elif change is Change.MOVING:
            self._metrics.tunnel_ended("moved")
            _log.info("endpoint %s moves from %s: %s", endpoint, where, reason)
        elif change is Change.LOST:
            self._metrics.tunnel_ended(self._ended_by.value)
            _log.warning("endpoint %s lost its tunnel to %s: %s", endpoint, where, reason)
        elif change is Change.RETRYING:
            _log.warning("endpoint %s is not registered at %s: %s; retrying", endpoint, server, reason)
        elif change is Change.GIVEN_UP:
            _log.error("endpoint %s gives up at %s: %s", endpoint, server, reason)
        else:
            _log.info("endpoint %s: %s", endpoint, "finishes its requests" if change is Change.STOPPING else "closed")


_DO: Final[dict[type[Command], Any]] = {
    Dial: LinkActor._dial,
    Serve: LinkActor._serve,
    Goaway: LinkActor._goaway,
    Close: LinkActor._close,
    Abort: LinkActor._abort,
    GiveUp: LinkActor._give_up,
    Announce: LinkActor._announce,
}
