"""A node: the doors, the actors behind them, and how they start and stop.

Responsible for: building every part of one node, starting them in order, draining, and stopping in reverse. Refuses to
know: what the parts do, and what there is once in a process (``pico.node.process``). Several nodes live in one process:
everything hangs on an instance of ``Node``.
"""

from __future__ import annotations

import logging
import socket
import sys
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import partial
from math import inf
from random import Random
from typing import TYPE_CHECKING, Any, Final

import pykka
from gevent.event import Event

from pico import __version__
from pico.actors.admin_door import AdminDoor
from pico.actors.cluster import GOSSIP_PEER
from pico.actors.endpoint_pool import Endpoints
from pico.actors.listener import Listener
from pico.actors.messages import DrainCluster, LeaveCluster, StopAccepting
from pico.actors.questions import Questions
from pico.actors.reload import Proposal, Reload
from pico.actors.request_services import RequestServices
from pico.actors.routes import Routes
from pico.actors.runtime import GeventActor, inboxes, tell
from pico.actors.spares import Spares
from pico.actors.supervisor import Child, Supervisor
from pico.config import NodeConfig
from pico.node.actions import Actions
from pico.node.entrances import Entrances
from pico.node.gossip_door import GossipDoor
from pico.node.live import Live
from pico.node.materials import NodeMaterials
from pico.node.page import page_routes
from pico.node.rebalancing import Rebalancing
from pico.node.report import Report
from pico.node.status import ActorPages, Elsewhere, EndpointPages, NodePages, Status
from pico.node.system import System
from pico.node.upstream_door import UpstreamDoor
from pico.observability.access_log import AccessLog, Write
from pico.observability.admin import AdminApp, Route
from pico.observability.history import History
from pico.observability.hub import HubWatch
from pico.observability.log_levels import log_routes
from pico.observability.metrics import DURATION_BOUNDS_S, NodeMetrics
from pico.observability.probes import process_routes
from pico.protocol.http import Failure
from pico.transport.clock import Clock, HubClock
from pico.transport.open_files import descriptors_for_strangers
from pico.transport.parking import give_way, sleep
from pico.transport.stream import SocketStream

if TYPE_CHECKING:
    from pico.observability.tracing import Tracing

__all__ = ["Node"]

HANDSHAKES_MAX: Final = 1024
"""Connections at the upstream door whose handshake is not complete."""

POLL_S: Final = 0.05
LAST_HEAD_S: Final = 0.5
"""For a head that has begun when the time for a last request is over, and for that to be noticed."""

STOP_S: Final = 10.0
LEAVE_S: Final = 5.0
LOG_FLUSH_S: Final = 2.0

_log = logging.getLogger("pico.node")


class Node:
    """One member of the cluster: ``start``, then ``drain`` and ``stop``."""

    def __init__(
        self,
        config: NodeConfig,
        *,
        node_id: str,
        write_access_log: Write,
        clock: Clock | None = None,
        system: System | None = None,
        read_settings: Callable[[], Proposal[NodeConfig]] | None = None,
        announce_reload: Callable[[bool], None] = lambda begins: None,
        tracing: Tracing | None = None,
    ) -> None:
        """``read_settings`` reads again what was read for ``config``; without it there is no reload."""
        system = system or System()
        self._inherited = system.inherited
        self._time_of_day = system.time_of_day
        self.config = config
        self._materials = NodeMaterials.read(config)
        self.node_id = node_id
        self.clock = clock if clock is not None else HubClock()
        self.failed = Event()  # set when a part failed for good
        self.asked = Event()  # set when the node is to drain and end
        self._is_succeeded = False
        children = self._children()
        restarted = (*(child.name for child in children), GOSSIP_PEER)  # the last one by the cluster's actor
        self.metrics = NodeMetrics(
            node_id=node_id,
            version=__version__,
            failure_codes=[failure.code for failure in Failure],
            actors=restarted,
            endpoint_series_max=config.metrics_endpoints_max,
        )
        self.reload = (
            None
            if read_settings is None
            else Reload(
                read_settings,
                lambda proposal: self.reconfigure(proposal.config, proposal.needs_restart),
                self.metrics.reloads,
                time_of_day=system.time_of_day,
                announce=announce_reload,
            )
        )
        self.access_log = AccessLog(
            config.access_log, write_access_log, self.clock, node_id=node_id, wall_clock=system.time_of_day
        )
        self.routes = Routes(self.clock, config.endpoint_wait_s, config.requests_per_endpoint_max)
        self.services = RequestServices(
            config,
            self.clock,
            self.routes,
            self.metrics,
            self.access_log,
            node_id=node_id,
            request_id_prefix=system.random_bytes(6).hex(),
            time_of_day=system.time_of_day,
            tracing=tracing,
        )
        self.upstream_door = UpstreamDoor(config, self.clock, self._endpoints, self.metrics, node_id=node_id)
        self._entrances = Entrances(config, self._materials, self.services, self.upstream_door)
        self.gossip_door = GossipDoor(
            config,
            self.clock,
            self.routes,
            self.metrics,
            node_id=node_id,
            cluster=self._cluster,
            door_address=self._door_address,
            contested=self._contested,
            keys=self._materials.cluster_keys,
            system=system,
        )
        self.status = Status(
            NodePages(
                node_id,
                self.clock,
                self.metrics,
                self.gossip_door,
                self.upstream_door,
                endpoints=lambda: self.routes.endpoints,
                ready=self.ready,
            ),
            EndpointPages(node_id, self.clock, self.routes, self.upstream_door, self.services.recent),
            ActorPages(self.metrics, restarted, partial(give_way, self.clock)),
            self.services.recent,
            Elsewhere(self.gossip_door),
        )
        self.gossip_door.forwarding.questions = Questions(self.clock, AdminApp(self.status.routes_here()).read)
        self.history = History(self.clock, self.metrics.totals, DURATION_BOUNDS_S)
        self.live = Live(Report(self.status, self.history, self.clock, system.time_of_day), self.clock)
        self._rebalancing = Rebalancing(
            config,
            self.clock,
            self.gossip_door,
            self.upstream_door,
            node_id=node_id,
            own=lambda: self.routes.upstreams,
            settled=lambda: self.ready()[0] and self.gossip_door.caught_up_at() < inf,
            rng=Random(system.random_bytes(16)),
        )
        self._hub_watch = HubWatch(self.clock, self.metrics.hub_blocked)
        self._supervisor = Supervisor(
            children,
            now=self.clock.now,
            escalate=self._escalated,
            restarted=self.metrics.actor_restarts.add,
        )
        self._listening: dict[str, Any] = {}
        self._set_gauges()

    def start(self) -> None:
        """Open the doors; raises ``PicoError`` when a part cannot start. Blocks the calling greenlet until then."""
        self._warn_of_certificates()
        self._supervisor.launch()
        self._supervisor.started.get()
        self.gossip_door.start()
        self._rebalancing.start()
        self._hub_watch.start()
        self.history.start()

    def address(self, door: str) -> tuple[str, int]:
        """Where ``proxy-door``, ``upstream-door``, ``admin-door`` or ``gossip-door`` listens."""
        address: tuple[str, int] = self._listening[door].address
        return address

    def ready(self) -> tuple[bool, str]:
        """Whether new work is welcome here, and why not."""
        if self.services.draining:
            return False, "draining"
        return (True, "") if self.gossip_door.ready else (False, "joining")

    def reconfigure(self, config: NodeConfig, waiting: Collection[str] = ()) -> None:
        """Live by other settings from now on; what is open stays open.

        Of ``config`` only that counts which can change while a node runs; the rest must be as it was. Of the settings
        that are ``waiting`` for a restart no file is read. Raises ``ConfigError``, and has changed nothing then.
        """
        materials = self._materials.renewed(config, waiting)
        self.config, self._materials = config, materials
        self.services.reconfigure(config)
        self._entrances.reconfigure(config, materials)
        self.routes.reconfigure(config.endpoint_wait_s, config.requests_per_endpoint_max)
        self.upstream_door.reconfigure(config)
        self._rebalancing.reconfigure(config)
        self.gossip_door.reconfigure(config, materials.cluster_keys)
        self.access_log.change_format(config.access_log)
        self._tell_limits()
        proxy_door, admin_door = self._listening.get("proxy-door"), self._listening.get("admin-door")
        if proxy_door is not None:
            proxy_door.limit(config.client_connections_max)
        if admin_door is not None and materials.admin_tls is not None:
            admin_door.renew(materials.admin_tls)
        self._warn_of_certificates()

    def drain(self) -> None:
        """Stop taking new work and finish what is in flight, within the grace period; blocks until then."""
        config = self.config
        self.services.draining = True
        self._tell_cluster(DrainCluster())
        # Requests come until balancers have noticed, so agents must still be here; unless a successor has the name by
        # now, for then the others look for them there.
        until = self.clock.now() + config.drain_delay_s
        while self.clock.now() < until:
            if self._is_succeeded and not self.upstream_door.draining:
                self._send_agents_away()
            sleep(self.clock, min(POLL_S, until - self.clock.now()))
        self._close_door("proxy-door")
        self.services.leaving = True
        for connection in tuple(self.services.connections):
            connection.last_call()
        self._hear_last_calls(self.clock.now() + config.http_timers.last_call_s + LAST_HEAD_S)
        self._send_agents_away()
        forwarding = self.gossip_door.forwarding
        forwarding.drain("the node is going away")
        until = self.clock.now() + config.grace_period_s
        self._finish(until)
        self._leave()
        self._finish(until)  # of a head that was on its way

    def _close_door(self, name: str) -> None:
        """Who waits at it has been let in when this returns."""
        ref = self._supervisor.ref(name)
        if ref is not None:
            with suppress(pykka.Timeout, pykka.ActorDeadError):
                ref.ask(StopAccepting(), timeout=STOP_S)

    def _send_agents_away(self) -> None:
        self._close_door("upstream-door")
        self.upstream_door.drain("the node is going away")

    def _contested(self) -> None:
        """Another process has this node's ID: in a drain it is the successor (GOSSIP-79), else this node fails."""
        if self.services.draining:
            self._is_succeeded = True
        else:
            self.failed.set()

    def _hear_last_calls(self, until: float) -> None:
        """Wait for connections on which a request may come: perhaps nobody else has its endpoint."""
        while self.clock.now() < until and self._somebody_may_ask():
            sleep(self.clock, POLL_S)

    def _somebody_may_ask(self) -> bool:
        connections = self.services.connections
        accepted: int = self._listening["proxy-door"].connections  # more, while a handshake is not complete
        return accepted > len(connections) or any(connection.may_ask for connection in connections)

    def _finish(self, until: float) -> None:
        """Wait for all that is in flight, and for connections on which another request may come."""
        while self.clock.now() < until and (
            self.metrics.requests_in_flight
            or self.gossip_door.forwarding.busy
            or any(connection.idle for connection in self.services.connections)
        ):
            sleep(self.clock, POLL_S)

    def stop(self) -> None:
        """Close everything, in reverse order; blocks until it is done."""
        self._rebalancing.stop()
        self._hub_watch.stop()
        self.history.stop()
        self.gossip_door.stop()
        if self.metrics.requests_in_flight:
            _log.warning("%d requests are cut off by the stop", self.metrics.requests_in_flight)
        for connection in tuple(self.services.connections):
            connection.shut_down()
        self.upstream_door.close("the node is going away")
        self._supervisor.actor_ref.stop(timeout=STOP_S)
        self.gossip_door.forwarding.close("the node is going away")  # links that came until the door was closed
        self.access_log.close(LOG_FLUSH_S)

    def _children(self) -> list[Child]:
        """The parts, each after what it relies on; nothing is built before the supervisor starts it."""
        return [
            Child(name="endpoints", build=self._build_endpoints),
            Child(name="cluster", build=self._build_cluster),
            Child(name="gossip-door", build=self._build_gossip_door),
            Child(
                name="upstream-door",
                build=lambda: self._listener(
                    "upstream",
                    self._entrances.serve_upstream,
                    self.upstream_door.handshakes,
                    HANDSHAKES_MAX,
                ),
            ),
            Child(
                name="proxy-door",
                build=lambda: self._listener(
                    "proxy",
                    self._entrances.serve_client,
                    self.services.spares,
                    self.config.client_connections_max,
                ),
            ),
            Child(name="admin-door", build=self._build_admin_door),
        ]

    def _build_endpoints(self) -> Endpoints:
        # Upstreams that joined an Endpoints before this one are unknown to it: their agents come back at once.
        self.upstream_door.close("a part of the node was started anew")
        return Endpoints(self.routes, self.config.balance)

    def _endpoints(self) -> pykka.ActorRef[Endpoints]:
        ref = self._supervisor.ref("endpoints")
        assert ref is not None, "the upstream door is open only while there are endpoints"
        return ref

    def _build_cluster(self) -> GeventActor:
        cluster = self.gossip_door.build_cluster()
        if self.services.draining:
            tell(cluster.actor_ref, DrainCluster())
        return cluster

    def _build_gossip_door(self) -> GeventActor:
        return self._listener(
            "gossip",
            self.gossip_door.serve,
            self.gossip_door.handshakes,
            self.config.peer_limits.connections_max,
            port=self.gossip_door.port,
        )

    def _listener(
        self,
        name: str,
        serve: Callable[[SocketStream], None],
        spares: Spares,
        connections_max: int,
        *,
        port: int | None = None,
    ) -> GeventActor:
        listener = Listener(
            getattr(self.config, f"{name}_host"),
            getattr(self.config, f"{name}_port") if port is None else port,
            partial(_serve_socket, serve, spares, self.clock),
            clock=self.clock,
            option=f"--{name}-port",
            connections_max=connections_max,
            accepted=lambda: self.metrics.connections.add(name),
            failed=lambda: self.metrics.connection_failures.add(name),
            inherited=self._inherited.stream(name),
            spares=spares,
            # Links are for other nodes, and as few as these.
            descriptors_max=sys.maxsize if name == "gossip" else descriptors_for_strangers(),
        )
        self._listening[f"{name}-door"] = listener
        if self.services.leaving and name != "gossip":  # a part has failed while the node drains
            tell(listener.actor_ref, StopAccepting())
        return listener

    def _build_admin_door(self) -> GeventActor:
        door = AdminDoor(
            self.config.admin_host,
            self.config.admin_port,
            AdminApp(self._admin_routes()),
            tls=self._materials.admin_tls,
            tls_failed=lambda: self.metrics.tls_handshake_failures.add("admin"),
            inherited=self._inherited.stream("admin"),
        )
        self._listening["admin-door"] = door
        return door

    def _admin_routes(self) -> tuple[Route, ...]:
        """What the admin door answers; a part of the node that has something to tell adds its own."""
        return (
            *process_routes(self.metrics.slices, self.ready),
            *log_routes(),
            *(() if self.reload is None else (self.reload.route(),)),
            *self.status.routes(),
            *Actions(self.gossip_door, self.upstream_door, self.asked.set).routes(),
            *self.live.routes(),
            *page_routes(),
        )

    def _cluster(self) -> pykka.ActorRef[Any] | None:
        return self._supervisor.ref("cluster")

    def _tell_cluster(self, message: object) -> None:
        ref = self._cluster()
        if ref is not None:
            tell(ref, message)

    def _leave(self) -> None:
        """Say goodbye to the other nodes, for as long as that takes and no longer."""
        ref = self._cluster()
        if ref is not None:
            with suppress(pykka.Timeout, pykka.ActorDeadError):
                ref.ask(LeaveCluster(), timeout=LEAVE_S).get(timeout=LEAVE_S)

    def _door_address(self, door: str) -> tuple[str, int] | None:
        listening = self._listening.get(door)
        return None if listening is None else listening.address

    def _set_gauges(self) -> None:
        self.metrics.upstreams = lambda: float(self.upstream_door.upstreams)
        self.metrics.unfinished_bytes = lambda: float(self.upstream_door.unfinished_bytes)
        self.metrics.base_waiting_bytes = lambda: float(self.upstream_door.waiting_bytes)
        self.metrics.endpoints = lambda: float(self.routes.endpoints)
        self.metrics.actors.inboxes = inboxes
        self.metrics.ready = lambda: float(self.ready()[0])
        self.metrics.streams = lambda: (streams for _, _, streams in self.upstream_door.loads())
        self.metrics.by_endpoint.loads = self.upstream_door.loads
        self.metrics.by_endpoint.exists = lambda name: self.routes.registered(name) or self.upstream_door.has(name)
        self.metrics.by_endpoint.counted = self.services.recent.counted
        self.metrics.requests_waiting = lambda: float(self.routes.waiting)
        self.metrics.relays_in_flight = lambda: float(self.gossip_door.forwarding.relays)
        self._tell_limits()
        self.metrics.client_connections = lambda: float(len(self.services.connections))
        self.metrics.access_log_dropped = lambda: float(self.access_log.dropped)
        self.metrics.cluster.standing = self.gossip_door.standing
        self.metrics.tls_not_after = lambda: self._materials.not_after

    def _warn_of_certificates(self) -> None:
        for door, matter in self._materials.not_valid(self._time_of_day()):
            _log.warning("--%s-tls-cert: the certificate %s: whoever verifies it refuses to connect", door, matter)

    def _tell_limits(self) -> None:
        self.metrics.client_connections_max = self.config.client_connections_max
        self.metrics.upstreams_max = self.config.upstreams_max

    def _escalated(self, reason: BaseException) -> None:
        if self._supervisor.started.done():  # else ``start`` raises it
            _log.error("the node ends: %s", reason)
        self.failed.set()


def _serve_socket(
    serve: Callable[[SocketStream], None],
    spares: Spares,
    clock: Clock,
    connection: socket.socket,
    peer: tuple[str, int],
) -> None:
    """A handler that raises leaves no socket open; one that returns has closed it or handed it on.

    The connection can be spared until it has returned, or says otherwise before.
    """
    stream = SocketStream(connection, peer)
    spares.add(stream, clock.now())
    try:
        serve(stream)
    except BaseException:
        stream.abort()
        raise
    finally:
        spares.discard(stream)
