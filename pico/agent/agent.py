"""An agent: its links, the services behind them, and how they start and stop.

Responsible for: building every part of one agent, the signals of the process, and its exit code. Refuses to know: what
the parts do. Several agents live in one process: everything hangs on an instance of ``Agent``.
"""

from __future__ import annotations

import gc
import logging
import os
import random
import signal
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import gevent
import pykka
from gevent import signal_handler
from gevent.event import Event

from pico import __version__
from pico.actors.admin_door import AdminDoor
from pico.actors.runtime import install_registry, registered_actors, tell
from pico.actors.supervisor import Child, Restart, Supervisor
from pico.agent.dialling import Server, server_of
from pico.agent.forwarding import Forwarder
from pico.agent.link import LinkActor
from pico.agent.materials import AgentMaterials
from pico.agent.messages import StopLink
from pico.agent.service import Service
from pico.config import AgentConfig, EndpointTarget
from pico.observability.access_log import AccessLog, cooperative_writer
from pico.observability.admin import AdminApp, Route
from pico.observability.hub import HubWatch
from pico.observability.log_levels import log_routes
from pico.observability.metrics import AgentMetrics
from pico.observability.probes import process_routes
from pico.protocol.http import Failure
from pico.protocol.tunnel import LinkState
from pico.transport.clock import Clock, HubClock
from pico.transport.deadlines import Deadlines
from pico.transport.notify import Notifier
from pico.transport.parking import sleep

__all__ = ["Agent", "run_agent"]

LINK: Final = "link"
ADMIN_STOP_S: Final = 5.0
POLL_S: Final = 0.05

_log = logging.getLogger("pico.agent")


class Agent:
    """One agent; ``start``, then ``stop`` once or twice, until ``ended`` is set."""

    def __init__(
        self,
        config: AgentConfig,
        *,
        write_access_log: Callable[[str], None],
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.config = config
        self.clock = clock if clock is not None else HubClock()
        self.ended = Event()
        """Set when no link is left."""
        self.failed = Event()
        """Set when an endpoint will not be served any more; ``failure`` says why."""
        self.failure = ""
        self.metrics = AgentMetrics(
            version=__version__,
            endpoints=[target.endpoint_id for target in config.endpoints],
            failure_codes=[failure.code for failure in Failure],
            actors=(LINK,),
        )
        self.access_log = AccessLog(config.access_log, write_access_log, self.clock, node_id="")
        self._rng = rng if rng is not None else random.SystemRandom()
        self._deadlines = Deadlines(self.clock)
        self._servers: tuple[Server, ...] = tuple(server_of(url) for url in config.servers)
        self._materials = AgentMaterials.read(config)
        self._services: list[Service] = []
        self._links: dict[str, LinkActor] = {}
        self._supervisors = [self._supervised(target) for target in config.endpoints]
        self._left = len(self._supervisors)
        self._stopping = False
        self._admin: AdminDoor | None = None
        self._hub_watch = HubWatch(self.clock, self.metrics.hub_blocked)
        self.metrics.service_connections = lambda: float(sum(map(len, self._services)))
        self.metrics.actors = lambda: float(registered_actors())
        self.metrics.streams = lambda: float(sum(link.streams for link in self._links.values()))

    def start(self) -> None:
        """Open the admin door if there is one, and begin to dial; raises ``PicoError`` when the door cannot open."""
        config = self.config
        if config.admin_port:
            self._admin = AdminDoor(config.admin_host, config.admin_port, AdminApp(self._routes()))
            self._admin.launch()
            self._admin.started.get()
        for supervisor in self._supervisors:
            supervisor.launch()
        self._hub_watch.start()

    def _routes(self) -> tuple[Route, ...]:
        """What the admin door answers."""
        return (*process_routes(self.metrics.render, self.ready), *log_routes())

    def ready(self) -> tuple[bool, str]:
        """Whether every endpoint is registered, and if not, which is not."""
        missing = sorted(name for name, link in self._links.items() if link.state is not LinkState.OPEN)
        if len(self._links) < len(self.config.endpoints):
            return False, "starting"
        return not missing, f"not registered: {', '.join(missing)}" if missing else ""

    def stop(self) -> None:
        """Have every link finish what is in flight and end; the second time, at once."""
        self._stopping = True
        for link in self._links.values():
            tell(link.actor_ref, StopLink())

    def close(self) -> None:
        """Give back what is left; blocks until it is done."""
        for supervisor in self._supervisors:
            tell_to_stop(supervisor.actor_ref)
        for service in self._services:
            service.close()
        self._hub_watch.stop()
        if self._admin is not None:
            tell_to_stop(self._admin.actor_ref)
        self.access_log.flush()

    def _supervised(self, target: EndpointTarget) -> Supervisor:
        """A link that is started anew when it fails; what befalls one is not the trouble of the others."""
        tls = self._materials.service_tls if target.tls else None
        service = Service(target, self.config, self.clock, self._deadlines, self.metrics, tls)
        self._services.append(service)
        forwarder = Forwarder(service, self.config, self.clock, self.metrics, self.access_log)
        return Supervisor(
            [Child(name=LINK, build=partial(self._build_link, forwarder), restart=Restart.TRANSIENT)],
            now=self.clock.now,
            escalate=partial(self._fail, f"endpoint {target.endpoint_id}"),
            restarted=self.metrics.actor_restarts.add,
        )

    def _build_link(self, forwarder: Forwarder) -> LinkActor:
        link = LinkActor(
            forwarder,
            self._servers,
            self.config,
            self.clock,
            self._rng,
            self.metrics,
            self._materials.server_tls,
            gave_up=self._gave_up,
            ended=self._link_ended,
        )
        self._links[forwarder.endpoint_id] = link
        if self._stopping:
            tell(link.actor_ref, StopLink())
        return link

    def _gave_up(self, reason: str) -> None:
        self.failure = self.failure or reason
        self.failed.set()

    def _fail(self, what: str, reason: BaseException) -> None:
        self._gave_up(f"{what}: {reason}")
        self._link_ended()

    def _link_ended(self) -> None:
        """A link has ended in good order, or for good."""
        self._left -= 1
        if not self._left:
            self.ended.set()


def tell_to_stop(ref: pykka.ActorRef[Any]) -> None:
    """Stop an actor that may have ended already; waits for it."""
    try:
        ref.stop(timeout=ADMIN_STOP_S)
    except pykka.Timeout:
        _log.warning("%s did not stop in time", ref)


def _announce(agent: Agent, notifier: Notifier) -> None:
    """Say that the agent is ready once each of its endpoints is registered, and until then which is not."""
    said = ""
    while not (answer := agent.ready())[0]:
        if answer[1] != said:
            notifier.status(said := answer[1])
        sleep(agent.clock, POLL_S)
    notifier.ready(f"serving {', '.join(target.endpoint_id for target in agent.config.endpoints)}")


def run_agent(config: AgentConfig) -> int:
    """Run one agent until it is told to stop; 0 after an orderly stop, 1 when an endpoint cannot be served any more.

    SIGTERM and SIGINT drain; a second one stops at once. A service manager is told of each step.
    """
    notifier = Notifier.from_environment(os.environ, os.getpid())
    install_registry()
    agent = Agent(config, write_access_log=cooperative_writer(sys.stdout.fileno()))
    asked = Event()

    def on_signal() -> None:
        asked.set()
        agent.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal_handler(number, on_signal)
    agent.start()
    gc.collect()
    gc.freeze()  # what lives as long as the process need not be looked at again
    notifier.watch(agent.clock)
    announcing = gevent.spawn(_announce, agent, notifier) if notifier.wanted else None
    gevent.wait([asked, agent.failed, agent.ended], count=1)
    if announcing is not None:
        announcing.kill()
    notifier.stopping(agent.failure or "finishing requests")
    if agent.failed.is_set() and not asked.is_set():
        _log.error("the agent ends: %s", agent.failure)
        agent.stop()
    agent.ended.wait()
    agent.close()
    _log.info("the agent stopped")
    return 1 if agent.failed.is_set() else 0
