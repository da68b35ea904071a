"""What the documentation takes from the code: ``make reference`` writes it.

Responsible for: which table of the code becomes which picture or part of a page. Refuses to know: how it is drawn, and
everything that the tables do not say.

A part of a page stands between the comments ``<!-- generated: NAME -->`` and ``<!-- end of what is generated -->``.
What is around it is written by hand.
"""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from importlib import import_module
from pathlib import Path

import yaml
from prometheus_client.parser import text_string_to_metric_families

from docs.drawing import Arrow, Column, Message, columns, sequence, states
from pico.cli import pico as commands
from pico.cli.agent_options import AGENT
from pico.cli.node_options import NODE
from pico.observability.metrics import AgentMetrics, NodeMetrics
from pico.protocol.cluster import Condition, Standing, standing_of, status_of
from pico.protocol.gossip.values import Rank, Record
from pico.protocol.http.failures import Failure
from pico.protocol.rpc.messages import MessageType
from pico.protocol.rpc.states import HALF, HalfState, Input
from pico.protocol.tunnel.states import LINK, LinkState

__all__ = ["PARTS", "PICTURES", "main", "parts_of", "stale"]

DOCS = Path(__file__).parent
PART = re.compile(r"(<!-- generated: ([a-z-]+) -->\n).*?(<!-- end of what is generated -->)", re.DOTALL)


# -- pictures ----------------------------------------------------------------------------------------------------------


def link() -> str:
    """The life of an agent's wish to have one endpoint registered."""
    places = {
        LinkState.WAITING: (0, 1),
        LinkState.DIALLING: (1, 0),
        LinkState.GIVEN_UP: (2, 0),
        LinkState.OPEN: (2, 1),
        LinkState.DRAINING: (1, 2),
        LinkState.CLOSED: (2, 2),
    }
    return states(
        {state.value: place for state, place in places.items()},
        [Arrow(a.value, b.value, cause.value) for a, row in LINK.items() for cause, b in row.items()],
        start=LinkState.WAITING.value,
        ends=[state.value for state in LinkState if not LINK[state]],
        title="The states of a link",
    )


def half() -> str:
    """One direction of a stream."""
    arrows = [Arrow(a.name, b.name, cause.name) for a, row in HALF.items() for cause, b in row.items()]
    for state, row in HALF.items():
        ending = [cause.name for cause, after in row.items() if not (cause is Input.INFORMATIONAL or not HALF[after])]
        arrows += [Arrow(state.name, HalfState.ENDED.name, f"{cause} with END") for cause in ending]
    return states(
        {HalfState.HEAD.name: (0, 0.4), HalfState.BODY.name: (1.4, 0.4), HalfState.ENDED.name: (0.7, 1.4)},
        arrows,
        start=HalfState.HEAD.name,
        ends=[state.name for state in HalfState if not HALF[state]],
        title="The states of one half of a stream",
    )


CHANGES: dict[str, Callable[[Record, bool], tuple[Record, bool]]] = {
    "it answers": lambda record, verified: (record, True),
    "no answer": lambda record, verified: (_ranked(record, Rank.SUSPECT), verified),
    "it contradicts": lambda record, verified: (_ranked(record, Rank.ALIVE), verified),
    "no answer for long": lambda record, verified: (_ranked(record, Rank.DEAD), verified),
    "it says goodbye": lambda record, verified: (record._replace(left=True), verified),
}
"""What can happen to a node in the eyes of another one."""


def _ranked(record: Record, rank: Rank) -> Record:
    """One step: nobody is declared dead who was not suspected, and the dead contradict nobody."""
    steps = {(Rank.ALIVE, Rank.SUSPECT), (Rank.SUSPECT, Rank.ALIVE), (Rank.SUSPECT, Rank.DEAD)}
    return record._replace(rank=rank) if (record.rank, rank) in steps else record


def node() -> str:
    """Under which word a node is shown, and what moves it to another; found by asking ``status_of`` for each."""
    places = {"hearsay": (0, 0.75), "alive": (1.2, 0), "left": (2.4, 0), "suspect": (1.2, 1.5), "dead": (2.4, 1.5)}
    arrows: dict[Arrow, None] = {}
    for rank, left, verified in itertools.product(Rank, (False, True), (False, True)):
        before = Record(life=1, left=left, rank=rank)
        if before.gone:
            continue
        for change, happen in CHANGES.items():
            after, seen = happen(before, verified)
            source, target = status_of(before, verified=verified), status_of(after, verified=seen)
            if source is not target:
                arrows[Arrow(source.value, target.value, change)] = None
    return states(places, arrows, start="hearsay", ends=["dead", "left"], title="The words under which a node is shown")


HEAD, DATA, WINDOW = (kind.name for kind in (MessageType.HEAD, MessageType.DATA, MessageType.WINDOW))


def request() -> str:
    """One request that enters at one node and is served through another."""
    client, entry, owner, agent, service = lanes = ["client", "entry node", "node with tunnel", "agent", "service"]
    return sequence(
        lanes,
        [
            Message(client, entry, "POST /x\nHost: web.example"),
            Message(entry, owner, f"{HEAD}, first bytes\n(peer link)"),
            Message(owner, agent, f"{HEAD}, first bytes\n(tunnel)"),
            Message(agent, service, "POST /x\n(keep-alive)"),
            Message(client, entry, "body"),
            Message(entry, owner, DATA),
            Message(owner, agent, DATA),
            Message(agent, service, "body"),
            Message(agent, owner, f"{WINDOW}: bytes taken"),
            Message(owner, entry, f"{WINDOW}: passed on"),
            Message(service, agent, "200, body"),
            Message(agent, owner, f"{HEAD}, {DATA}, END"),
            Message(owner, entry, f"{HEAD}, {DATA}, END"),
            Message(entry, client, "200, body"),
        ],
        title="One request, hop by hop",
    )


WHO = {
    "client": [
        Failure.BAD_REQUEST,
        Failure.BODY_INCOMPLETE,
        Failure.ENDPOINT_MISSING,
        Failure.INVALID_ENDPOINT,
        Failure.METHOD_NOT_ALLOWED,
        Failure.HEADER_TIMEOUT,
        Failure.BODY_TIMEOUT,
        Failure.BODY_TOO_LARGE,
        Failure.TARGET_TOO_LONG,
        Failure.EXPECTATION_FAILED,
        Failure.FIELDS_TOO_LARGE,
        Failure.NOT_IMPLEMENTED,
        Failure.VERSION_NOT_SUPPORTED,
        Failure.CLIENT_CLOSED,
        Failure.CLIENT_STALLED,
    ],
    "node": [Failure.INTERNAL, Failure.LOOP_DETECTED, Failure.NODE_STOPPED],
    "agent, tunnel": [Failure.ENDPOINT_NOT_FOUND, Failure.TUNNEL_LOST, Failure.RESPONSE_TOO_LARGE, Failure.OVERLOADED],
    "service": [
        Failure.SERVICE_UNREACHABLE,
        Failure.SERVICE_MALFORMED,
        Failure.SERVICE_CLOSED,
        Failure.SERVICE_TIMEOUT,
        Failure.RESPONSE_TIMEOUT,
    ],
}
"""The part to look at first."""


def failures() -> str:
    """Which part to look at, by code."""
    return columns(
        [Column(who, tuple(f"{one.status} {one.code}" for one in several)) for who, several in WHO.items()],
        title="Where a request fails, by status and code",
    )


PICTURES: dict[str, Callable[[], str]] = {
    "link": link,
    "half": half,
    "node": node,
    "request": request,
    "failures": failures,
}


# -- parts of pages ----------------------------------------------------------------------------------------------------


def failure_table() -> str:
    """The table of failures, one row for each, by status."""
    rows = ["| status | `x-pico-error` | what the client reads | look first at |", "| --- | --- | --- | --- |"]
    for failure in sorted(Failure, key=lambda one: one.status):
        who = next(who for who, several in WHO.items() if failure in several)
        again = f" `Retry-After: {failure.retry_after_s}`" if failure.retry_after_s else ""
        code = f"[`{failure.code}`](troubleshooting.md#{failure.status}-{failure.code})"
        said = failure.message if failure.status != 499 else f"nothing: it is in the log only. {failure.message}"
        rows.append(f"| {failure.status} | {code} | {said}{again} | {who} |")
    return "\n".join(rows)


def standings() -> str:
    """How readily requests are given to a node, for each condition that it can be in."""
    rows = ["| the node | requests are given to it |", "| --- | --- |"]
    said = {
        Standing.ROUTABLE: "yes",
        Standing.LAST_RESORT: "only when no other node has the endpoint",
        Standing.NOT: "no",
    }
    cases = {
        "answers": (Condition(verified=True), False),
        "answers and says that it drains": (Condition(verified=True), True),
        "is suspected": (Condition(verified=True, suspect=True), False),
        "did not answer this node's own probe, or its link broke": (Condition(verified=True, lowered=True), False),
        "is known from others only": (Condition(), False),
        "is dead or has left": (Condition(verified=True, gone=True), False),
    }
    for what, (condition, draining) in cases.items():
        rows.append(f"| {what} | {said[standing_of(condition, draining=draining)]} |")
    return "\n".join(rows)


def usages() -> str:
    """The usage text of every program and of every command."""
    texts = {"pico-node": NODE.usage, "pico-agent": AGENT.usage, "pico": commands.USAGE}
    for name, command in commands.COMMANDS.items():
        texts[f"pico {name}"] = getattr(import_module(command.module), command.usage)
    return "\n\n".join(f"## `{program}`\n\n```text\n{text.strip()}\n```" for program, text in texts.items())


def admin_paths() -> str:
    """What the admin door answers, from its description."""
    rows = ["| method and path | |", "| --- | --- |"]
    for path, methods in yaml.safe_load((DOCS / "openapi.yaml").read_text())["paths"].items():
        rows += [f"| `{method.upper()} {path}` | {what['summary']} |" for method, what in methods.items()]
    return "\n".join(rows)


def node_metrics() -> str:
    """What a node tells at ``/metrics``."""
    metrics = NodeMetrics(
        node_id="n", version="1", failure_codes=[one.code for one in Failure], actors=["x"], endpoint_series_max=1
    )
    metrics.request_finished(b"GET", 200, 0.1, 0.1, 0, 0)
    metrics.tls_not_after = lambda: {"proxy": 0.0}
    metrics.actors.inboxes = lambda: [(Path, 0)]
    metrics.by_endpoint.loads = lambda: [("web", 1, 0)]
    return _metrics_table(metrics.slices())


def agent_metrics() -> str:
    """What an agent tells beyond what a node does."""
    metrics = AgentMetrics(version="1", endpoints=["web"], failure_codes=[one.code for one in Failure])
    metrics.request_finished(200, 0.1, 0.1, 0, 0)
    metrics.actors.inboxes = lambda: [(Path, 0)]
    return _metrics_table(metrics.slices(), without=set(re.findall(r"^\| `(\w+)`", node_metrics(), re.MULTILINE)))


def _metrics_table(slices: Iterable[bytes], without: Collection[str] = ()) -> str:
    rows = []
    for family in text_string_to_metric_families(b"".join(slices).decode()):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = sorted({label for sample in family.samples for label in sample.labels} - {"le"})
        if name not in without:
            named = ", ".join(f"`{label}`" for label in labels)
            rows.append(f"| `{name}` | {family.type} | {named} | {family.documentation} |")
    return "\n".join(["| metric | type | labels | what it tells |", "| --- | --- | --- | --- |", *sorted(rows)])


PARTS: dict[str, Callable[[], str]] = {
    "node-metrics": node_metrics,
    "agent-metrics": agent_metrics,
    "failures": failure_table,
    "standings": standings,
    "usages": usages,
    "admin-paths": admin_paths,
}


# -- writing and comparing ---------------------------------------------------------------------------------------------


def parts_of(text: str) -> str:
    """The text of a page with every generated part made anew."""
    return PART.sub(lambda match: f"{match[1]}{PARTS[match[2]]()}\n{match[3]}", text)


def wanted() -> Iterator[tuple[Path, str]]:
    """Every file that is generated, or has a generated part, with what is to be in it."""
    for name, draw in PICTURES.items():
        yield DOCS / "pictures" / f"{name}.svg", draw()
    for page in sorted(DOCS.glob("*.md")):
        yield page, parts_of(page.read_text())


def stale() -> list[str]:
    """The files that are not as they would be generated now."""
    return [path.name for path, text in wanted() if not path.is_file() or path.read_text() != text]


def main(words: list[str]) -> int:
    """Write what is stale; with ``--check`` only name it, and 1 if there is any."""
    if words == ["--check"]:
        print(*stale(), sep="\n")
        return int(bool(stale()))
    (DOCS / "pictures").mkdir(exist_ok=True)
    for path, text in wanted():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
