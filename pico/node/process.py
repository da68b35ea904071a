"""A node as a process of its own: what it takes from its environment, its signals, and its exit code.

Responsible for: what there is once in a process: the limit of open files, standard output, the service manager, the
name that was not given, and that one signal drains and a second one stops. Refuses to know: what a node consists of.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
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
from pico.config import NodeConfig
from pico.node.node import Node
from pico.node.system import System
from pico.observability.access_log import cooperative_writer
from pico.observability.traces import start_tracing
from pico.transport.allocator import keep_freed
from pico.transport.inherited import Inherited
from pico.transport.notify import Notifier
from pico.transport.open_files import raise_open_files_max
from pico.transport.parking import sleep

__all__ = ["run_node", "warn_of_open_files"]

POLL_S: Final = 0.05

_log = logging.getLogger("pico.node")


def run_node(config: NodeConfig, read_settings: Callable[[], Proposal[NodeConfig]] | None = None) -> int:
    """Run one node until it is told to stop; 0 after an orderly stop, 1 when a part failed.

    SIGTERM and SIGINT drain; a second one stops at once. SIGHUP has the settings read again. A service manager is told
    of each step, and what it has opened is listened on.
    """
    notifier = Notifier.from_environment(os.environ, os.getpid())
    system = System()
    system.inherited = Inherited.from_environment(os.environ, os.getpid())
    install_registry()
    keep_freed()
    warn_of_open_files(config, raise_open_files_max())
    node_id = config.node_id or _made_up_name()
    tracing = start_tracing(config.tracing, "pico-node", node_id)
    node = Node(
        config,
        node_id=node_id,
        write_access_log=cooperative_writer(sys.stdout.fileno()),
        system=system,
        read_settings=read_settings,
        announce_reload=lambda begins: notifier.reloading() if begins else notifier.reloaded(),
        tracing=tracing,
    )
    told, again = Event(), Event()

    def on_signal() -> None:
        (again if told.is_set() else told).set()  # the operator's wish for a drain is no signal
        node.asked.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal_handler(number, on_signal)
    if node.reload is not None:
        signal_handler(signal.SIGHUP, node.reload.ask)
    node.start()
    heap = Heap(node.clock)
    heap.settle()
    notifier.watch(node.clock)
    announcing = gevent.spawn(_announce, node, notifier)
    gevent.wait([node.asked, node.failed], count=1)
    announcing.kill()
    notifier.stopping("failed" if node.failed.is_set() else "draining")
    if not node.failed.is_set():
        _log.info("node %s drains", node_id)
        drained = gevent.spawn(node.drain)
        gevent.wait([drained, again, node.failed], count=1)
    heap.close()
    node.stop()
    if tracing is not None:
        tracing.close()
    _log.info("node %s stopped", node_id)
    return 1 if node.failed.is_set() else 0


def _made_up_name() -> str:
    """From the name of the host and chance: unique, and readable in a list of nodes."""
    host = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname().split(".")[0].lower())[:50]
    return f"{host or 'node'}-{secrets.token_hex(3)}"


def warn_of_open_files(config: NodeConfig, files_max: int) -> None:
    """Say that the system allows for fewer open files than the settings for connections; -1 is no limit."""
    needed = config.client_connections_max + config.upstreams_max
    if 0 <= files_max < needed:
        _log.warning(
            "the limit of open files is %d, and --client-connections-max and --upstreams-max together need %d",
            files_max,
            needed,
        )


def _announce(node: Node, notifier: Notifier) -> None:
    """Say that the node is ready once it is: its doors are open and what it knows of the cluster is known."""
    notifier.status("joining")
    while not node.ready()[0]:
        sleep(node.clock, POLL_S)
    _log.info("node %s is ready", node.node_id)
    notifier.ready(f"serving as {node.node_id}")
