"""What the live page shows of a node and its cluster, as one value for each view.

Responsible for: choosing what is worth showing of what is much, in slices, and leaving out what changes without meaning
anything. Refuses to know: how a row is made (``pico.node.status``), how it travels, and how it looks.

A report is made for being compared with the next: tables are mappings by name, what is not known is left out, and a
moment is told in place of a duration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from heapq import nsmallest
from itertools import islice
from typing import Any, Final, TypeVar

from pico.node.live import View
from pico.node.status import Status
from pico.node.status.lists import Row
from pico.observability.history import History, Sample
from pico.protocol.cluster import NodeStatus
from pico.transport.clock import Clock
from pico.transport.parking import give_way

__all__ = ["ROWS_MAX", "Report"]

ROWS_MAX: Final = 100
"""Of endpoints, those with the most requests; and of upstreams, those that came first."""

NODES_MAX: Final = 200
"""Those first with which something is not as it should be."""

ERRORS_MAX: Final = 30
REQUESTS_MAX: Final = 100

ROWS_AT_ONCE: Final = 50
NAMES_AT_ONCE: Final = 1000
"""Looked at before others have their turn: either takes about a millisecond."""

NODE: Final = (
    "status", "self", "since_s", "version", "gossip", "endpoints", "upstreams", "in_flight", "draining", "standing",
    "link", "round_trip_s",
)  # fmt: skip
UPSTREAM: Final = (
    "endpoint", "address", "agent", "protocol", "up_s", "in_flight", "leaving", "bytes_received", "bytes_sent",
    "round_trip_s",
)  # fmt: skip
ENDPOINT: Final = ("upstreams", "nodes", "in_flight", "requests", "errors", "requests_per_s", "errors_per_s")
REQUEST: Final = ("time", "endpoint", "method", "path", "status", "outcome", "total_s", "upstream", "peer", "reason")
GOSSIP: Final = (
    "joined", "health", "absent", "version", "entries", "rounds", "exchanges_failed", "datagrams_sent",
    "datagrams_received", "violations", "corrections", "mailbox", "links_out", "links_in",
)  # fmt: skip

T = TypeVar("T")
Make = Callable[[str], Row | None]


class Report:
    """One per node; calling it makes the report of a view, and lets others run meanwhile."""

    def __init__(
        self,
        status: Status,
        history: History,
        clock: Clock,
        time_of_day: Callable[[], float],
        *,
        breathe: Callable[[], None] | None = None,
    ) -> None:
        """``breathe`` lets others have their turn, by default on that clock."""
        self._status = status
        self._history = history
        self._clock = clock
        self._time_of_day = time_of_day
        self._breathe = breathe or partial(give_way, clock)

    def __call__(self, view: View) -> Mapping[str, Any]:
        """The report of this moment."""
        own = self._status.nodes.own()
        node = self._told(own, ("node", "version", "ready", "reason", "up_s"))
        report = {"at": round(self._time_of_day(), 1), "node": node}
        return report | (self._endpoint(view.endpoint) if view.endpoint else self._overview(view.filter))

    def _overview(self, wanted: str) -> Row:
        endpoints = self._status.endpoints
        names = endpoints.names()
        matching = [name for name in self._sliced(names, NAMES_AT_ONCE) if wanted in name] if wanted else names
        nodes = self._table(self._status.nodes.names(), self._status.nodes.row, NODE)
        upstreams = endpoints.upstream_names()
        counts = {
            "nodes": len(nodes),
            "alive": sum(row["status"] == NodeStatus.ALIVE.value for row in nodes.values()),
            "endpoints": len(names),
            "upstreams": len(upstreams),
        }
        if wanted:
            counts["matching"] = len(matching)
        return {
            "counts": counts,
            "history": self._samples(),
            "gossip": self._told(self._status.nodes.gossip(), GOSSIP),
            "nodes": dict(sorted(nodes.items(), key=_worth_showing)[:NODES_MAX]),
            "endpoints": self._table(self._busiest(matching), endpoints.row, ENDPOINT),
            "upstreams": self._table(upstreams[:ROWS_MAX], endpoints.upstream, UPSTREAM),
            "errors": self._requests(self._status.recent.errors(limit=ERRORS_MAX)),
        }

    def _endpoint(self, name: str) -> Row:
        endpoints = self._status.endpoints
        row = endpoints.row(name)
        nodes: dict[str, int] = row["nodes"] if row is not None else {}
        tunnels = endpoints.upstream_names_of(name)[:ROWS_MAX]
        return {
            "endpoint": self._told(row, ENDPOINT) if row is not None else {},
            "nodes": {
                node_id: {**made, "upstreams": nodes[node_id]}
                for node_id, made in self._table(
                    list(nodes)[:NODES_MAX], self._status.nodes.row, ("status", "draining")
                ).items()
            },
            "upstreams": self._table(tunnels, endpoints.upstream, UPSTREAM),
            "requests": self._requests(self._status.recent.requests(name, REQUESTS_MAX)),
        }

    def _busiest(self, names: list[str]) -> list[str]:
        """Those with the most requests of late, in the order of their names where there are none."""
        if len(names) <= ROWS_MAX:
            return names
        best: list[tuple[float, str]] = []
        for some in _slices(names, NAMES_AT_ONCE):
            best = nsmallest(ROWS_MAX, [*best, *map(self._rank, some)])
            self._breathe()
        return [name for _, name in best]

    def _rank(self, name: str) -> tuple[float, str]:
        counter = self._status.recent.of(name)
        return (0.0 if counter is None else -counter.rates(self._clock.now())[0]), name

    def _samples(self) -> Row:
        """By their numbers, so that the next report differs by the newest and the oldest."""
        samples = self._history.samples
        return {str(number): _figures(one) for number, one in enumerate(samples, self._history.taken - len(samples))}

    # Rows.

    def _table(self, names: Iterable[str], make: Make, fields: tuple[str, ...]) -> dict[str, Row]:
        rows = ((name, make(name)) for name in names)
        return {name: self._told(row, fields) for name, row in self._sliced(rows, ROWS_AT_ONCE) if row is not None}

    def _requests(self, rows: Iterator[Row]) -> dict[str, Row]:
        return {row["request"]: self._told(row, REQUEST) for row in self._sliced(rows, ROWS_AT_ONCE)}

    def _told(self, row: Row, fields: tuple[str, ...]) -> Row:
        """These fields of a row, as far as there is something in them."""
        told = {}
        for name in fields:
            value = row.get(name)
            if value is None or value == "":
                continue
            if name in ("up_s", "since_s"):
                name, value = "since", round(self._time_of_day() - value)
            elif name == "round_trip_s":
                value = round(value, 5)
            told[name] = value
        return told

    def _sliced(self, things: Iterable[T], size: int) -> Iterator[T]:
        """The same, with a turn for others after each slice."""
        for some in _slices(things, size):
            yield from some
            self._breathe()


def _slices(things: Iterable[T], size: int) -> Iterator[list[T]]:
    rest = iter(things)
    while some := list(islice(rest, size)):
        yield some


def _worth_showing(named: tuple[str, Row]) -> tuple[bool, bool, str]:
    """This node first, and then those with which something is not as it should be."""
    node_id, row = named
    return not row["self"], row["status"] == NodeStatus.ALIVE.value, node_id


def _figures(sample: Sample) -> list[float | None]:
    """Requests and errors a second, requests in flight, median and 99th percentile in seconds."""
    percentiles = (None if one is None else round(one, 5) for one in (sample.p50_s, sample.p99_s))
    return [round(sample.rate, 2), round(sample.errors, 2), sample.in_flight, *percentiles]
