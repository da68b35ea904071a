"""One known peer: the actor that keeps the link to it.

Responsible for: dialling the link when the peer appears and whenever it is lost, at once and then with growing pauses,
saying of the peer what its link says: that it can be reached, or that it cannot; and, when another process is the node,
keeping the link until what is in flight on it has ended. Refuses to know: what requests do on the link
(``pico.actors.peers`` is what they see), what is said of the peer elsewhere, and the bytes of a channel.

A link is also a witness: a process that ends takes its connections with it, and one that hangs falls silent. Either is
told to the cluster's actor, which asks the peer itself before it believes anything.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

import gevent

from pico.actors.messages import DialLink, LinkDialled, LinkEnded, LinkNotDialled, RetirePeer
from pico.actors.peers import PeerUpstream
from pico.actors.runtime import GeventActor, tell
from pico.config import PeerLimits
from pico.errors import PicoError
from pico.protocol.channel import Channel
from pico.protocol.gossip.values import Address
from pico.protocol.rpc import ResetCode, StreamingEngine, StreamOpened
from pico.transport.channel import ChannelCodec
from pico.transport.clock import Clock
from pico.transport.multiplexer import CLOSE_GOING_AWAY, Multiplexer
from pico.transport.stream import Stream

__all__ = ["DialPeer", "GossipPeer"]

FORMER_LOOK_S: Final = 0.1
"""How often it is looked whether anything is in flight on the link to a process that is the node no more."""

DialPeer = Callable[[Address, str], tuple[Stream, Channel]]
"""A link to the node of that name at that address; blocks its greenlet, and raises ``PicoError``."""

_log = logging.getLogger("pico.cluster")


class GossipPeer(GeventActor):
    """Keeps a link to one process of one node; ``changed`` is told with the node ID whether there is one."""

    def __init__(
        self,
        node_id: str,
        address: Address,
        dial: DialPeer,
        clock: Clock,
        limits: PeerLimits,
        changed: Callable[[str, bool], None],
    ) -> None:
        super().__init__()
        self.node_id = node_id
        self._address = address
        self._dial_peer = dial
        self._clock = clock
        self._limits = limits
        self._changed = changed
        self._dialling = False
        self._link: Multiplexer | None = None
        self._arrived: Stream | None = None  # a channel that was dialled and that nobody has taken yet
        self._opened_at = 0.0
        self._pause_s = 0.0
        self._redial = clock.timer(lambda: self.post(DialLink()))
        self._retired = False
        self._look = clock.timer(lambda: self.post(RetirePeer()))
        self.upstream = PeerUpstream(node_id, self._want_link, clock, limits.dial_s)

    # The actor's side.

    def on_start(self) -> None:
        """Dial at once: the first request should find the link."""
        self._dial()

    def on_receive(self, message: Any) -> None:
        """Follow the link."""
        if isinstance(message, RetirePeer):
            self._retire()
        elif self._retired:
            if isinstance(message, LinkEnded):
                _log.info("the link to a former process of node %s ended: %s", self.node_id, message.reason)
                self.finish()
        elif isinstance(message, DialLink):
            self._dial()
        elif isinstance(message, LinkDialled):
            self._dialling = False
            self._open(message.stream, message.channel)
        elif isinstance(message, LinkNotDialled):
            self._dialling = False
            self._try_later(message.reason)
        elif isinstance(message, LinkEnded) and message.link is self._link:
            self._lose(message.reason)

    def on_exit(self, reason: BaseException | None) -> None:
        """Close the link; what is in flight on it is lost unless the process ends cleanly."""
        self._redial.stop()
        self._look.stop()
        self.upstream.unreachable()
        link, self._link = self._link, None
        arrived, self._arrived = self._arrived, None
        if arrived is not None:
            arrived.abort()
        if link is not None:
            self.upstream.closed(link)
            link.close(CLOSE_GOING_AWAY, "this node knows the peer no more")

    def _want_link(self) -> None:
        """Called by whoever has a request for the peer."""
        self.post(DialLink())

    def _dial(self) -> None:
        if self._link is None and not self._dialling:
            self._dialling = True
            self._redial.stop()
            gevent.spawn_raw(self._run_dial)

    def _run_dial(self) -> None:
        """In a greenlet of its own, since it blocks."""
        try:
            stream, channel = self._dial_peer(self._address, self.node_id)
        except PicoError as error:
            tell(self.actor_ref, LinkNotDialled(str(error)))
            return
        except Exception as error:
            tell(self.actor_ref, LinkNotDialled(repr(error)))
            raise
        if tell(self.actor_ref, LinkDialled(stream, channel)):
            self._arrived = stream
        else:
            stream.abort()

    def _open(self, stream: Stream, channel: Channel) -> None:
        engine = StreamingEngine(self._limits.rpc_limits, now=self._clock.now())
        codec = ChannelCodec(channel.frames, self._limits.channel_limits)
        self._link, self._arrived = Multiplexer(stream, codec, engine, self._clock, self), None
        self._link.start(channel.leftover)
        self._opened_at = self._clock.now()
        self.upstream.opened(self._link)
        self._changed(self.node_id, True)
        _log.info("the link to node %s is open", self.node_id)

    def _lose(self, reason: str) -> None:
        assert self._link is not None
        link, self._link = self._link, None
        self.upstream.closed(link)
        self._changed(self.node_id, False)
        _log.info("the link to node %s ended: %s", self.node_id, reason)
        if self._clock.now() >= self._opened_at + self._limits.link_stable_s:
            self._pause_s = 0.0
            self._dial()
        else:  # whoever takes links and drops them is not dialled as fast as it can drop them
            self._wait_longer()

    def _retire(self) -> None:  # CLUSTER-23
        self._retired = True
        self._redial.stop()
        self.upstream.unreachable()
        if self._link is None or not self._link.in_flight:
            self.finish()
            return
        self.upstream.closed(self._link)
        self._look.start(FORMER_LOOK_S)

    def _try_later(self, reason: str) -> None:
        if not self._pause_s:
            _log.info("no link to node %s: %s", self.node_id, reason)
        self.upstream.unreachable()
        self._changed(self.node_id, False)
        self._wait_longer()

    def _wait_longer(self) -> None:
        limits = self._limits
        self._pause_s = min(limits.redial_max_s, 2 * self._pause_s or limits.redial_first_s)
        self._redial.start(self._pause_s)

    # The multiplexer's side: called in the hub, so only told onward.

    def stream_opened(self, event: StreamOpened) -> None:
        """Who accepts a link opens nothing on it."""
        assert self._link is not None
        self._link.reset(event.stream, ResetCode.REFUSED, untouched=True, message="this side takes no requests")

    def goaway_received(self, reason: str) -> None:
        """The peer takes no new requests; the link says so itself."""

    def connection_ended(self, reason: str) -> None:
        """The link is over."""
        if self._link is not None:
            self.post(LinkEnded(self._link, reason))
