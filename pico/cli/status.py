"""``pico status``: what a node says of itself and of the cluster, as tables or as JSON.

Responsible for: the words, and showing the answers again and again where that is wanted. Refuses to know: how a node
comes to know them, how they are asked for and how tables are drawn.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import time
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from pico.cli.admin_client import AdminClient, NoAnswer, understanding
from pico.cli.command_line import UsageError
from pico.cli.tables import Column, age, amount, rate, round_trip, table, things
from pico.cli.values import count, duration

__all__ = ["USAGE", "run_status"]

USAGE = """\
pico status: what a node says of itself and of the cluster.

Usage:
  pico status [<what> [<id>]] [--admin=URL] [--ca-file=FILE] [--node=ID] [--endpoint=ID] [--here]
              [--limit=N] [--json] [--watch] [--interval=DURATION] [--no-color]

What, by default nodes:
  node         this node; node ID: another one, as this node sees it
  nodes        every node that it knows
  endpoints    every endpoint, with the nodes that have it; counts are those of this node
  endpoint ID  one of them
  upstreams    every tunnel that is registered at this node
  upstream ID  one of them
  gossip       how this node stands with the others
  actors       the parts of the process, and what waits for them
  requests     the last requests that entered at this node
  errors       the last of them that failed
  logs         how much each part writes to the log

  --admin=URL            the admin door; default: PICO_ADMIN, else http://127.0.0.1:8001
  --ca-file=FILE         who vouches for it, with https; default: PICO_ADMIN_CA_FILE, else those of the system
  --node=ID              ask that node, by way of this one
  --endpoint=ID          upstreams, requests and errors of that endpoint only
  --here                 endpoints with an upstream at this node only
  --limit=N              rows at most; default: what the node finds enough
  --json                 as JSON, for machines; with --watch one line for each answer
  --watch                again and again, until Ctrl-C
  --interval=DURATION    with --watch; default: 1s
  --no-color             no colours on a terminal, as with NO_COLOR in the environment
  -h, --help             print this text

Exit code: 0 when the node has answered, 1 when it has not, 2 for a wrong word, 130 after Ctrl-C.
"""

_is_id = re.compile(r"[0-9A-Za-z_-][0-9A-Za-z._-]*").fullmatch

HOME: Final = "\x1b[H"
CLEAR: Final = "\x1b[2J\x1b[H"
END_OF_LINE: Final = "\x1b[K"
END_OF_SCREEN: Final = "\x1b[J"

_NODES: Final = (
    Column("NODE", "node"),
    Column("STATUS", "status"),
    Column("SINCE", "since_s", age, right=True),
    Column("VERSION", "version"),
    Column("PROXY", "proxy"),
    Column("ENDPOINTS", "endpoints", right=True),
    Column("UPSTREAMS", "upstreams", right=True),
    Column("DRAINING", "draining"),
    Column("LINK", "link"),
    Column("ROUND-TRIP", "round_trip_s", round_trip, right=True),
)
_ENDPOINTS: Final = (
    Column("ENDPOINT", "endpoint"),
    Column("UPSTREAMS", "upstreams", right=True),
    Column("NODES", "nodes"),
    Column("IN-FLIGHT", "in_flight", right=True),
    Column("REQUESTS", "requests", right=True),
    Column("RATE", "requests_per_s", rate, right=True),
    Column("ERRORS", "errors", right=True),
    Column("ERROR-RATE", "errors_per_s", rate, right=True),
)
_UPSTREAMS: Final = (
    Column("UPSTREAM", "upstream"),
    Column("ENDPOINT", "endpoint"),
    Column("ADDRESS", "address"),
    Column("AGENT", "agent"),
    Column("PROTOCOL", "protocol"),
    Column("SINCE", "up_s", age, right=True),
    Column("IN-FLIGHT", "in_flight", right=True),
    Column("LEAVING", "leaving"),
    Column("RECEIVED", "bytes_received", amount, right=True),
    Column("SENT", "bytes_sent", amount, right=True),
    Column("ROUND-TRIP", "round_trip_s", round_trip, right=True),
)
_GOSSIP: Final = (
    Column("NODE", "node"),
    Column("STATUS", "status"),
    Column("SINCE", "since_s", age, right=True),
    Column("LIFE", "life", right=True),
    Column("VERSION", "version", right=True),
    Column("ENTRIES", "entries", right=True),
    Column("ANSWERS", "answers"),
    Column("ROUND-TRIP", "round_trip_s", round_trip, right=True),
)
_ACTORS: Final = (
    Column("ACTOR", "actor"),
    Column("COUNT", "count", right=True),
    Column("WAITING", "waiting", right=True),
    Column("DEEPEST", "deepest", right=True),
)
_REQUESTS: Final = (
    Column("TIME", "time"),
    Column("ENDPOINT", "endpoint"),
    Column("METHOD", "method"),
    Column("PATH", "path"),
    Column("STATUS", "status", right=True),
    Column("OUTCOME", "outcome"),
    Column("TOOK", "total_s", round_trip, right=True),
    Column("UPSTREAM", "upstream"),
    Column("PEER", "peer"),
)
_ERRORS: Final = (*_REQUESTS[:6], Column("REASON", "reason"), *_REQUESTS[7:])
_LOGS: Final = (Column("LOGGER", "logger"), Column("LEVEL", "level"), Column("EFFECTIVE", "effective"))


class Page(NamedTuple):
    """What a word of the command line stands for."""

    path: str
    columns: tuple[Column, ...] = ()
    takes_id: bool = False
    takes_endpoint: bool = False
    takes_limit: bool = False


PAGES: Final = {
    "node": Page("node", takes_id=True),
    "nodes": Page("nodes", _NODES, takes_limit=True),
    "endpoints": Page("endpoints", _ENDPOINTS, takes_limit=True),
    "endpoint": Page("endpoints", takes_id=True),
    "upstreams": Page("upstreams", _UPSTREAMS, takes_endpoint=True, takes_limit=True),
    "upstream": Page("upstreams", takes_id=True),
    "gossip": Page("gossip", _GOSSIP),
    "actors": Page("actors", _ACTORS),
    "requests": Page("requests", _REQUESTS, takes_endpoint=True, takes_limit=True),
    "errors": Page("errors", _ERRORS, takes_endpoint=True, takes_limit=True),
    "logs": Page("logs", _LOGS),
}


class Asked(NamedTuple):
    """One thing to ask, as often as wanted."""

    page: Page
    path: str
    query: dict[str, str]


def run_status(arguments: Mapping[str, Any]) -> int:
    """Runs with the arguments of ``USAGE``. Raises ``NoAnswer``, ``UsageError`` and ``ConfigError``."""
    asked = _asked(arguments)
    interval_s = duration("--interval", arguments["--interval"] or "1s")
    colour = not (arguments["--no-color"] or os.environ.get("NO_COLOR"))
    as_json = bool(arguments["--json"])
    with AdminClient(arguments["--admin"], arguments["--ca-file"]) as client:
        answer = client.read(asked.path, asked.query)
        if not arguments["--watch"]:
            print(_shown(asked, answer, as_json=as_json, colour=colour), end="", flush=True)
            return 0
        in_place = sys.stdout.isatty() and not as_json
        print(CLEAR if in_place else "", end="")
        while True:
            shown = _json(answer, lines=True) if as_json else _shown(asked, answer, as_json=False, colour=colour)
            print(_in_place(shown) if in_place else shown, end="", flush=True)
            time.sleep(interval_s)
            answer = _again(client, asked)


def _asked(arguments: Mapping[str, Any]) -> Asked:
    what, name = arguments["<what>"] or "nodes", arguments["<id>"]
    page = PAGES.get(what)
    if page is None:
        raise UsageError(f"unknown page {what}: one of {', '.join(PAGES)}")
    if name is None:
        if page.takes_id and what != "node":
            raise UsageError(f"{what} needs an ID")
        path = page.path
    elif not page.takes_id:
        raise UsageError(f"{what} takes no ID")
    elif not _is_id(name):
        raise UsageError(f"{name!r} is not an ID")
    else:
        path = f"{'nodes' if what == 'node' else page.path}/{name}"
    return Asked(page, f"/status/{path}", _query(what, page, arguments))


def _query(what: str, page: Page, arguments: Mapping[str, Any]) -> dict[str, str]:
    query = {}
    for option, allowed in (("endpoint", page.takes_endpoint), ("limit", page.takes_limit), ("node", what != "logs")):
        value = arguments[f"--{option}"]
        if value is not None:
            if not allowed:
                raise UsageError(f"{what} takes no --{option}")
            query[option] = value
    if "limit" in query:
        count("--limit", query["limit"])
    if arguments["--here"]:
        if what != "endpoints":
            raise UsageError(f"{what} takes no --here")
        query["where"] = "here"
    return query


def _again(client: AdminClient, asked: Asked) -> Any:
    """A node that does not answer for a while, as when it is updated, does not end the watching."""
    try:
        return client.read(asked.path, asked.query)
    except NoAnswer as error:
        return {"error": str(error)}


def _shown(asked: Asked, answer: Any, *, as_json: bool, colour: bool) -> str:
    if as_json:
        return _json(answer, lines=False)
    with understanding():
        return _drawn(asked, answer, colour=colour)


def _drawn(asked: Asked, answer: Any, *, colour: bool) -> str:
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    rows = answer.get("items")
    if rows is None:
        return things(answer, width=width, colour=colour)
    head = {name: value for name, value in answer.items() if name not in ("items", "total", "next")}
    shown = things(head, width=width, colour=colour)
    if head and rows:
        shown += "\n"
    if rows or not head:
        shown += table(rows, asked.page.columns, width=width, colour=colour)
    if answer.get("next") is not None:
        shown += f"... {len(rows)} of {answer['total']}: --limit=N shows more\n"
    return shown


def _json(answer: Any, *, lines: bool) -> str:
    return json.dumps(answer, indent=None if lines else 2) + "\n"


def _in_place(shown: str) -> str:
    """Over what was there, without clearing it first, so that nothing flickers; as much as fits."""
    lines = shown.splitlines()[: max(1, shutil.get_terminal_size().lines - 1)]
    return HOME + "".join(f"{line}{END_OF_LINE}\n" for line in lines) + END_OF_SCREEN
