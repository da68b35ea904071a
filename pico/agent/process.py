"""An agent as a process of its own: what it takes from its environment, its signals, and its exit code.

Responsible for: what there is once in a process, and that one signal lets requests finish and a second one does not.
Refuses to know: what an agent consists of.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import Final

import gevent
from gevent import signal_handler
from gevent.event import Event

from pico.actors.heap import Heap
from pico.actors.reload import Proposal
from pico.actors.runtime import install_registry
from pico.agent.agent import Agent
from pico.config import AgentConfig
from pico.observability.access_log import cooperative_writer
from pico.observability.traces import start_tracing
from pico.transport.allocator import keep_freed
from pico.transport.notify import Notifier
from pico.transport.open_files import raise_open_files_max
from pico.transport.parking import sleep

__all__ = ["run_agent"]

POLL_S: Final = 0.05

_log = logging.getLogger("pico.agent")


def run_agent(config: AgentConfig, read_settings: Callable[[], Proposal[AgentConfig]] | None = None) -> int:
    """Run one agent until it is told to stop; 0 after an orderly stop, 1 when no endpoint is left that can be served.

    SIGTERM and SIGINT drain; a second one stops at once. SIGHUP has the settings read again. A service manager is told
    of each step.
    """
    notifier = Notifier.from_environment(os.environ, os.getpid())
    install_registry()
    keep_freed()
    raise_open_files_max()
    tracing = start_tracing(config.tracing, "pico-agent", socket.gethostname())
    agent = Agent(
        config,
        write_access_log=cooperative_writer(sys.stdout.fileno()),
        read_settings=read_settings,
        announce_reload=lambda begins: notifier.reloading() if begins else notifier.reloaded(),
        tracing=tracing,
    )
    asked = Event()

    def on_signal() -> None:
        if asked.is_set() or not agent.failed.is_set():  # else it stops by itself, and this is the first signal
            agent.stop()
        asked.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal_handler(number, on_signal)
    if agent.reload is not None:
        signal_handler(signal.SIGHUP, agent.reload.ask)
    agent.start()
    heap = Heap(agent.clock)
    heap.settle()
    notifier.watch(agent.clock)
    announcing = gevent.spawn(_announce, agent, notifier) if notifier.wanted else None
    gevent.wait([asked, agent.failed, agent.ended], count=1)
    if announcing is not None:
        announcing.kill()
    notifier.stopping(agent.failure or "finishing requests")
    if agent.failed.is_set() and not agent.stopping:
        _log.error("the agent ends: %s", agent.failure)
        agent.stop()
    agent.ended.wait()
    heap.close()
    agent.close()
    if tracing is not None:
        tracing.close()
    _log.info("the agent stopped")
    return 1 if agent.failed.is_set() else 0


def _announce(agent: Agent, notifier: Notifier) -> None:
    """Say that the agent is ready once each of its endpoints is registered, and until then which is not.

    One that was refused for good keeps no service manager waiting, because it would end the others.
    """
    said = ""
    while not agent.settled:
        missing = agent.ready()[1]
        if missing != said:
            notifier.status(said := missing)
        sleep(agent.clock, POLL_S)
    names = ", ".join(target.endpoint_id for target in agent.config.endpoints)
    notifier.ready(agent.ready()[1] or f"serving {names}")
