#!/usr/bin/env python3
"""Many nodes in one process, for whoever needs a large cluster around one real node.

Responsible for: starting so many ``Node`` on free ports of the loopback address, all of which join the same one, until
the process is ended. Refuses to know: what is measured.

Usage:
  crowd.py --nodes=COUNT --join=HOST:PORT
  crowd.py (-h | --help)
"""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import signal  # noqa: E402
from contextlib import suppress  # noqa: E402

import gevent  # noqa: E402
from docopt import docopt  # noqa: E402
from gevent.event import Event  # noqa: E402

from pico.actors.runtime import install_registry  # noqa: E402
from pico.config import NodeConfig  # noqa: E402
from pico.node.node import Node  # noqa: E402

HOST = "127.0.0.1"
DOORS = ("proxy", "admin", "upstream", "gossip")


def main() -> None:
    arguments = docopt(__doc__)
    host, _, port = arguments["--join"].rpartition(":")
    install_registry()
    config = NodeConfig(
        **{f"{door}_host": HOST for door in DOORS},
        **{f"{door}_port": 0 for door in DOORS},
        join=((host, int(port)),),
        access_log="off",
    )
    for number in range(int(arguments["--nodes"])):
        Node(config, node_id=f"crowd-{number}", write_access_log=print).start()
    ended = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        gevent.signal_handler(number, ended.set)
    with suppress(KeyboardInterrupt):
        ended.wait()


if __name__ == "__main__":
    main()
