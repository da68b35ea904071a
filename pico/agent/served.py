"""One endpoint that an agent serves: its links, the service behind it, and what starts a link anew.

Responsible for: building these, changing what can change while they run, and their end. Refuses to know: which
endpoints there are, and when one comes or goes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any, Final

import pykka

from pico.actors.runtime import tell
from pico.actors.supervisor import Child, Restart, Supervisor
from pico.agent.dialling import Server
from pico.agent.link import LinkActor
from pico.agent.materials import AgentMaterials
from pico.agent.messages import StopLink
from pico.agent.service import Service
from pico.agent.service_exchange import Forwarder
from pico.config import AgentConfig, EndpointTarget
from pico.observability.access_log import AccessLog
from pico.observability.metrics import AgentMetrics
from pico.protocol.tunnel import Spread
from pico.transport.clock import Clock
from pico.transport.deadlines import Deadlines

if TYPE_CHECKING:
    from pico.observability.tracing import Tracing

__all__ = ["LINK", "Common", "Served", "tell_to_stop"]

LINK: Final = "link"
STOP_S: Final = 5.0

_log = logging.getLogger("pico.agent")


@dataclass(frozen=True, slots=True)
class Common:
    """What all endpoints of an agent share."""

    servers: tuple[Server, ...]
    clock: Clock
    rng: Random
    deadlines: Deadlines
    metrics: AgentMetrics
    access_log: AccessLog
    gave_up: Callable[[Served, str], None]
    """Told when an endpoint will not be served any more, and why the last of its links gave up."""
    make_room: Callable[[], None]
    """Closes what idle connections there are to services."""
    ended: Callable[[Served], None]
    """Told when the last of an endpoint's links is no more, whether it was stopped or gave up."""
    tracing: Tracing | None = None


class Served:
    """``launch``, then ``stop`` once or twice, until ``Common.ended`` was told; then ``close``."""

    def __init__(self, target: EndpointTarget, config: AgentConfig, materials: AgentMaterials, common: Common) -> None:
        self.target = target
        self.links: dict[int, LinkActor] = {}
        """By their places: one for each tunnel that is wanted."""
        self._config = config
        self._materials = materials
        self._common = common
        self._stopping = False
        self._spread = Spread()
        self._services = [self._build_service()]  # the last one is in use, others finish what they have
        self._forwarder = Forwarder(
            self._services[-1], config, common.clock, common.metrics, common.access_log, common.tracing
        )
        # What befalls one link is not the trouble of the others.
        self._supervisors = [self._supervised(place) for place in range(config.connections)]
        self._given_up: set[int] = set()  # places of links that will not dial again
        self._over: set[int] = set()  # ... and of those that are no more

    @property
    def registered(self) -> bool:
        """Whether a node has the endpoint from this agent."""
        return any(link.serving for place, link in self.links.items() if place not in self._over)

    @property
    def given_up(self) -> bool:
        """Whether none of its links will dial again, though nobody has stopped them."""
        return len(self._given_up) == len(self._supervisors)

    @property
    def over(self) -> bool:
        """Whether ``Common.ended`` was told."""
        return len(self._over) == len(self._supervisors)

    @property
    def streams(self) -> int:
        """Requests in flight."""
        return sum(link.streams for link in self.links.values())

    @property
    def service_connections(self) -> int:
        """Connections that are open, idle ones included."""
        return sum(map(len, self._services))

    def launch(self) -> None:
        """Begin to dial."""
        for supervisor in self._supervisors:
            supervisor.launch()

    def stop(self) -> None:
        """Finish what is in flight and end; the second time, at once."""
        self._stopping = True
        for link in self.links.values():
            tell(link.actor_ref, StopLink())

    def close(self) -> None:
        """Give back what is left; blocks until it is done."""
        for supervisor in self._supervisors:
            tell_to_stop(supervisor.actor_ref)
        for service in self._services:
            service.close()

    def close_idle(self) -> None:
        """Close the connections to the service that nobody uses."""
        for service in self._services:
            service.close_idle()

    def reconfigure(self, target: EndpointTarget, config: AgentConfig, materials: AgentMaterials) -> None:
        """For what comes from now on. Tunnels stay, also when another service is behind it. Does not block.

        In a place whose link was refused for good, and has ended, a new one asks again.
        """
        moved = target != self.target
        self.target, self._config, self._materials = target, config, materials
        if moved:
            self._services[-1].close()
            self._services = [service for service in self._services if len(service)]
            self._services.append(self._build_service())
        else:
            self._services[-1].reconfigure(config, self._service_tls())
        self._forwarder.reconfigure(self._services[-1], config)
        for link in self.links.values():
            link.reconfigure(config, materials.server_tls)
        for place in sorted(self._given_up & self._over):
            self._supervisors[place].actor_ref.stop(block=False)  # nothing may come between: a stop, above all
            self._given_up.discard(place)
            self._over.discard(place)
            self._supervisors[place] = self._supervised(place)
            self._supervisors[place].launch()

    def _service_tls(self) -> Any:
        return self._materials.service_tls if self.target.tls else None

    def _build_service(self) -> Service:
        common = self._common
        return Service(
            self.target,
            self._config,
            common.clock,
            common.deadlines,
            common.metrics,
            self._service_tls(),
            common.make_room,
        )

    def _supervised(self, place: int) -> Supervisor:
        common = self._common
        return Supervisor(
            [Child(name=LINK, build=partial(self._build_link, place), restart=Restart.TRANSIENT)],
            now=common.clock.now,
            escalate=partial(self._failed, place),
            restarted=common.metrics.actor_restarts.add,
        )

    def _build_link(self, place: int) -> LinkActor:
        common = self._common
        link = self.links[place] = LinkActor(
            self._forwarder,
            common.servers,
            self._config,
            common.clock,
            common.rng,
            common.metrics,
            self._materials.server_tls,
            gave_up=partial(self._link_gave_up, place),
            ended=partial(self._link_ended, place),
            spread=self._spread,
            place=place,
        )
        if self._stopping:
            tell(link.actor_ref, StopLink())
        return link

    def _link_gave_up(self, place: int, reason: str) -> None:
        self._given_up.add(place)
        if self.given_up:
            self._common.gave_up(self, reason)

    def _link_ended(self, place: int) -> None:
        self._over.add(place)
        if self.over:
            self._common.ended(self)

    def _failed(self, place: int, reason: BaseException) -> None:
        self._link_gave_up(place, f"endpoint {self.target.endpoint_id}: {reason}")
        self._link_ended(place)


def tell_to_stop(ref: pykka.ActorRef[Any]) -> None:
    """Stop an actor that may have ended already; waits for it."""
    try:
        ref.stop(timeout=STOP_S)
    except pykka.Timeout:
        _log.warning("%s did not stop in time", ref)
