"""``pico drain``, ``disconnect``, ``forget``, ``log-level`` and ``reload``: what an operator can have a node do.

Responsible for: their words. Refuses to know: how a node does it, and who may: it takes them from its own machine only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from pico.cli.admin_client import AdminClient, understanding
from pico.cli.tables import printable
from pico.cli.values import one_of
from pico.observability.log_levels import DEFAULT, LEVELS, ROOT

__all__ = [
    "DISCONNECT_USAGE",
    "DRAIN_USAGE",
    "FORGET_USAGE",
    "LOG_LEVEL_USAGE",
    "RELOAD_USAGE",
    "run_disconnect",
    "run_drain",
    "run_forget",
    "run_log_level",
    "run_reload",
]

_COMMON = """\
  --admin=URL       the admin door of a node on this machine; default: PICO_ADMIN, else http://127.0.0.1:8001
  --ca-file=FILE    who vouches for it, with https; default: PICO_ADMIN_CA_FILE, else those of the system
  --json            the answer as JSON, for machines
  -h, --help        print this text

Exit code: 0 when the node does it, 1 when it does not, 2 for a wrong word.
"""

DRAIN_USAGE = f"""\
pico drain: have a node finish what is in flight, and end, as with SIGTERM.

Usage:
  pico drain [--admin=URL] [--ca-file=FILE] [--json]

{_COMMON}"""

DISCONNECT_USAGE = f"""\
pico disconnect: have the agent of an upstream move to a new tunnel; what is in flight goes on.

Usage:
  pico disconnect <upstream> [--force] [--admin=URL] [--ca-file=FILE] [--json]

  --force           cut it off at once: requests in flight fail
{_COMMON}"""

FORGET_USAGE = f"""\
pico forget: have a node forget another one that is dead or has left, before it does so by itself.

Usage:
  pico forget <node> [--admin=URL] [--ca-file=FILE] [--json]

{_COMMON}"""

LOG_LEVEL_USAGE = f"""\
pico log-level: how much a node or an agent writes to its log from now on; pico status logs shows it.

Usage:
  pico log-level <level> [<logger>] [--admin=URL] [--ca-file=FILE] [--json]

Level: debug, info, warning, error, or default, that of the logger above. Logger: by default pico, which is all.

{_COMMON}"""


RELOAD_USAGE = f"""\
pico reload: have a node or an agent read its settings again, as with SIGHUP.

Usage:
  pico reload [--admin=URL] [--ca-file=FILE] [--json]

{_COMMON}"""


def run_drain(arguments: Mapping[str, Any]) -> int:
    """Runs with the arguments of ``DRAIN_USAGE``. Raises ``NoAnswer`` and ``ConfigError``."""
    return _act(arguments, "/-/drain", {}, lambda _: "the node drains")


def run_disconnect(arguments: Mapping[str, Any]) -> int:
    """Runs with the arguments of ``DISCONNECT_USAGE``. Raises ``NoAnswer`` and ``ConfigError``."""
    upstream, force = arguments["<upstream>"], bool(arguments["--force"])
    said = f"upstream {upstream} is {'cut off' if force else 'about to leave'}"
    return _act(arguments, "/-/disconnect", {"upstream": upstream, "force": force}, lambda _: said)


def run_forget(arguments: Mapping[str, Any]) -> int:
    """Runs with the arguments of ``FORGET_USAGE``. Raises ``NoAnswer`` and ``ConfigError``."""
    node = arguments["<node>"]
    return _act(arguments, "/-/forget", {"node": node}, lambda _: f"node {node} is forgotten")


def run_log_level(arguments: Mapping[str, Any]) -> int:
    """Runs with the arguments of ``LOG_LEVEL_USAGE``. Raises ``NoAnswer`` and ``ConfigError``."""
    level = one_of(*LEVELS, DEFAULT)("the level", arguments["<level>"])
    return _act(arguments, "/-/log-level", {"logger": arguments["<logger>"] or ROOT, "level": level}, _said_of_level)


def run_reload(arguments: Mapping[str, Any]) -> int:
    """Runs with the arguments of ``RELOAD_USAGE``. Raises ``NoAnswer`` and ``ConfigError``."""
    return _act(arguments, "/-/reload", {}, _said_of_reload)


def _said_of_level(answer: Mapping[str, Any]) -> str:
    said = printable(f"{answer['logger']} writes from {answer['effective']} on")
    return f"{said}, as the logger above does" if answer["level"] == DEFAULT else said


def _said_of_reload(answer: Mapping[str, Any]) -> str:
    changed, waiting = (printable(", ".join(answer[name])) for name in ("changed", "needs_restart"))
    said = f"changed: {changed or 'nothing'}"
    return f"{said}\nneeds a restart: {waiting}" if waiting else said


def _act(arguments: Mapping[str, Any], path: str, body: dict[str, Any], say: Callable[[Mapping[str, Any]], str]) -> int:
    with AdminClient(arguments["--admin"], arguments["--ca-file"]) as client:
        answer = client.act(path, body)
    with understanding():
        said = json.dumps(answer, indent=2) if arguments["--json"] else say(answer)
    print(said, flush=True)
    return 0
