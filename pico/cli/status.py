"""``pico status``: what a node says of itself and of the cluster, as tables or as JSON.

Responsible for: asking the admin door and showing the answer. Refuses to know: how a node comes to know it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import requests
from requests.exceptions import RequestException

from pico.cli.command_line import UsageError
from pico.cli.values import duration
from pico.errors import PicoError

__all__ = ["USAGE", "run_status"]

USAGE = """\
pico status: what a node says of itself and of the cluster.

Usage:
  pico status [<what>] [--admin=URL] [--json] [--watch] [--interval=DURATION]

What, by default nodes:
  node         this node
  nodes        every node that it knows
  endpoints    every endpoint, with the nodes that have it
  upstreams    every tunnel that is registered at this node
  gossip       how this node stands with the others

  --admin=URL            the admin door; default: http://127.0.0.1:8001
  --json                 as JSON, for machines
  --watch                again and again, until Ctrl-C
  --interval=DURATION    with --watch; default: 1s
  -h, --help             print this text

Exit code: 0 when the node has answered, 1 when it has not, 2 for a wrong word.
"""

PAGES: Final = ("node", "nodes", "endpoints", "upstreams", "gossip")
ANSWER_S: Final = 5.0
CLEAR: Final = "\x1b[2J\x1b[H"


class NoStatus(PicoError):
    """The node has not answered; says why."""


def run_status(arguments: Mapping[str, Any]) -> int:
    """Runs with the arguments of ``USAGE``. Raises ``NoStatus`` and ``UsageError``."""
    page = arguments["<what>"] or "nodes"
    if page not in PAGES:
        raise UsageError(f"unknown page {page}: one of {', '.join(PAGES)}")
    url = f"{(arguments['--admin'] or 'http://127.0.0.1:8001').rstrip('/')}/status/{page}"
    interval_s = duration("--interval", arguments["--interval"] or "1s")
    show = _show_json if arguments["--json"] else _show_table
    with requests.Session() as session:
        session.trust_env = False
        show(_fetch(session, url))
        while arguments["--watch"]:
            time.sleep(interval_s)
            answer = _fetch(session, url)
            if sys.stdout.isatty():
                print(CLEAR, end="")
            show(answer)
    return 0


def _fetch(session: requests.Session, url: str) -> Any:
    try:
        response = session.get(url, timeout=ANSWER_S)
        response.raise_for_status()
        return response.json()
    except (RequestException, ValueError) as error:
        raise NoStatus(f"no status from {url}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    text = str(error)
    return "connection refused" if "refused" in text else text


def _show_json(answer: Any) -> None:
    print(json.dumps(answer, indent=2), flush=True)


def _show_table(answer: Any) -> None:
    """A list as a table, one thing as lines of name and value."""
    if "items" in answer and "total" in answer:
        _print_rows(answer["items"])
    else:
        width = max(map(len, answer), default=0)
        for name, value in answer.items():
            print(f"{name:<{width}}  {_text(value)}")
    sys.stdout.flush()


def _print_rows(rows: Sequence[Mapping[str, Any]]) -> None:
    if not rows:
        print("nothing")
        return
    names = list(dict.fromkeys(name for row in rows for name in row if name not in ("life", "self")))
    table = [[name.upper() for name in names], *([_text(row.get(name)) for name in names] for row in rows)]
    widths = [max(len(line[column]) for line in table) for column in range(len(names))]
    for line in table:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def _text(value: Any) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}" if value < 1000 else f"{value:.0f}"
    if isinstance(value, dict):
        return " ".join(f"{name}={_text(one)}" for name, one in value.items()) or "-"
    return str(value)
