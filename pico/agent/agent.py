"""An agent: its links, the services behind them, and how they start and stop.

Responsible for: building every part of one agent, and whether it is ready, has failed or has ended. Refuses to know:
what the parts do, and what there is once in a process (``pico.agent.process``). Several agents live in one process:
everything hangs on an instance of ``Agent``.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import gevent
from gevent.event import Event

from pico import __version__
from pico.actors.admin_door import AdminDoor
from pico.actors.reload import Proposal, Reload
from pico.actors.runtime import inboxes
from pico.agent.dialling import server_of
from pico.agent.materials import AgentMaterials
from pico.agent.served import LINK, Common, Served, tell_to_stop
from pico.config import AgentConfig, EndpointTarget
from pico.observability.access_log import AccessLog
from pico.observability.admin import AdminApp, Route
from pico.observability.hub import HubWatch
from pico.observability.log_levels import log_routes
from pico.observability.metrics import AgentMetrics
from pico.observability.probes import process_routes
from pico.protocol.http import Failure
from pico.transport.clock import HubClock
from pico.transport.deadlines import Deadlines

if TYPE_CHECKING:
    from pico.observability.tracing import Tracing

__all__ = ["Agent"]

LOG_FLUSH_S: Final = 2.0

_log = logging.getLogger("pico.agent")


class Agent:
    """One agent; ``start``, then ``stop`` once or twice, until ``ended`` is set."""

    def __init__(
        self,
        config: AgentConfig,
        *,
        write_access_log: Callable[[str], None],
        rng: random.Random | None = None,
        read_settings: Callable[[], Proposal[AgentConfig]] | None = None,
        announce_reload: Callable[[bool], None] = lambda begins: None,
        tracing: Tracing | None = None,
    ) -> None:
        """``read_settings`` reads again what was read for ``config``; without it there is no reload."""
        self.config = config
        self.clock = HubClock()
        self.ended = Event()
        """Set when no link is left."""
        self.failed = Event()
        """Set when none of the endpoints will be served any more; ``failure`` says why the last one is not."""
        self.failure = ""
        self._left = 0  # endpoints whose link has not ended
        self.metrics = AgentMetrics(
            version=__version__,
            endpoints=[target.endpoint_id for target in config.endpoints],
            failure_codes=[failure.code for failure in Failure],
            actors=(LINK,),
        )
        self.access_log = AccessLog(config.access_log, write_access_log, self.clock, node_id="")
        self.reload = (
            None
            if read_settings is None
            else Reload(
                read_settings,
                lambda proposal: self.reconfigure(proposal.config),
                self.metrics.reloads,
                announce=announce_reload,
            )
        )
        self._materials = AgentMaterials.read(config)
        self._common = Common(
            servers=tuple(server_of(url) for url in config.servers),
            clock=self.clock,
            rng=rng if rng is not None else random.SystemRandom(),
            deadlines=Deadlines(self.clock),
            metrics=self.metrics,
            access_log=self.access_log,
            gave_up=self._gave_up,
            make_room=self._make_room,
            ended=self._ended,
            tracing=tracing,
        )
        self._served = {target.endpoint_id: self._serve(target) for target in config.endpoints}
        self._leaving: set[Served] = set()
        self._stopping = False
        self._admin: AdminDoor | None = None
        self._hub_watch = HubWatch(self.clock, self.metrics.hub_blocked)
        self.metrics.service_connections = lambda: float(sum(one.service_connections for one in self._each()))
        self.metrics.actors.inboxes = inboxes
        self.metrics.access_log_dropped = lambda: float(self.access_log.dropped)
        self.metrics.ready = lambda: float(self.ready()[0])
        self.metrics.streams = lambda: [one.streams for one in self._each()]

    def start(self) -> None:
        """Open the admin door if there is one, and begin to dial; raises ``PicoError`` when the door cannot open."""
        config = self.config
        each = self._each()  # what a reload brings while the admin door opens, it launches itself
        if config.admin_port:
            self._admin = AdminDoor(config.admin_host, config.admin_port, AdminApp(self._routes()))
            self._admin.launch()
            self._admin.started.get()
        for served in each:
            served.launch()
        self._hub_watch.start()

    def _routes(self) -> tuple[Route, ...]:
        """What the admin door answers."""
        reload = () if self.reload is None else (self.reload.route(),)
        return (*process_routes(self.metrics.slices, self.ready), *log_routes(), *reload)

    def ready(self) -> tuple[bool, str]:
        """Whether every endpoint has at least one tunnel, and if not, which has none."""
        missing = sorted(name for name, one in self._served.items() if not one.registered)
        return not missing, f"not registered: {', '.join(missing)}" if missing else ""

    @property
    def stopping(self) -> bool:
        """Whether it was told to stop."""
        return self._stopping

    @property
    def settled(self) -> bool:
        """Whether every endpoint has a tunnel, or none to hope for."""
        return all(one.registered or one.given_up for one in self._served.values())

    def reconfigure(self, config: AgentConfig) -> None:
        """Live by other settings from now on: endpoints come, go and move to other services; tunnels that stay stay.

        What was refused for good is asked for again: whoever has settings read again may have mended that. Of
        ``config`` only that counts which can change while an agent runs; the rest must be as it was. Raises
        ``ConfigError``, and has changed nothing then.
        """
        materials = AgentMaterials.read(config)
        if self._stopping:
            return
        self.config, self._materials = config, materials
        self.access_log.change_format(config.access_log)
        wanted = {target.endpoint_id: target for target in config.endpoints}
        for name, target in wanted.items():
            served = self._served.get(name)
            if served is not None and not served.given_up:
                served.reconfigure(target, config, materials)
            else:
                self._take_out(name)
                self._served[name] = served = self._serve(target)
                served.launch()
        for name in self._served.keys() - wanted.keys():
            self._take_out(name)

    def _take_out(self, name: str) -> None:
        """Have what serves this endpoint, if anything does, finish and end."""
        served = self._served.pop(name, None)
        if served is not None:
            self._leaving.add(served)
            served.stop()
            if served.over:
                gevent.spawn_raw(self._forget, served)

    def stop(self) -> None:
        """Have every link finish what is in flight and end; the second time, at once."""
        again, self._stopping = self._stopping, True
        for served in self._each() if again else self._served.values():  # those that leave were stopped once
            served.stop()

    def close(self) -> None:
        """Give back what is left; blocks until it is done."""
        for served in self._each():
            served.close()
        self._hub_watch.stop()
        if self._admin is not None:
            tell_to_stop(self._admin.actor_ref)
        self.access_log.close(LOG_FLUSH_S)

    def _each(self) -> list[Served]:
        return [*self._served.values(), *self._leaving]

    def _serve(self, target: EndpointTarget) -> Served:
        self.metrics.add_endpoint(target.endpoint_id)
        self._left += 1
        return Served(target, self.config, self._materials, self._common)

    def _make_room(self) -> None:
        for served in self._each():
            served.close_idle()

    def _gave_up(self, served: Served, reason: str) -> None:
        if served in self._leaving:
            return
        if all(one.given_up for one in self._served.values()):
            self.failure = reason
            self.failed.set()
        else:
            _log.error("the agent goes on with its other endpoints: %s", reason)

    def _ended(self, served: Served) -> None:
        self._left -= 1
        if not self._left:
            self.ended.set()
        if served in self._leaving:
            gevent.spawn_raw(self._forget, served)

    def _forget(self, served: Served) -> None:
        """One that was taken out of the settings has finished."""
        served.close()
        self._leaving.discard(served)
        name = served.target.endpoint_id
        if not any(one.target.endpoint_id == name for one in self._each()):
            self.metrics.drop_endpoint(name)
