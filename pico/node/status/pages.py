"""The pages of status: what is told at which path of the admin door.

Responsible for: paths, queries and which list is told with which head. Refuses to know: what the rows say; nothing here
changes anything.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Final

from pico.node.status.actors import ActorPages
from pico.node.status.elsewhere import Elsewhere
from pico.node.status.endpoints import EndpointPages
from pico.node.status.lists import Row, listing, no_such, page_of
from pico.node.status.nodes import NodePages
from pico.node.upstream_door import UpstreamDoor
from pico.observability.admin import Answer, Handler, Refused, Request, Route, Stream, json_answer, reads
from pico.observability.recent import ERRORS_MAX, REQUESTS_MAX, Recent

__all__ = ["Status"]

RECENT_DEFAULT: Final = 100


class Status:
    """One per node."""

    def __init__(
        self,
        nodes: NodePages,
        endpoints: EndpointPages,
        actors: ActorPages,
        recent: Recent,
        elsewhere: Elsewhere,
    ) -> None:
        self.nodes = nodes
        self.endpoints = endpoints
        self.actors = actors
        self.recent = recent
        self._elsewhere = elsewhere

    def routes(self) -> tuple[Route, ...]:
        """What is told at the admin door: of this node, or of the one that ``node`` names in the query."""
        return tuple(reads(route.path, partial(self._here_or_there, route.handle)) for route in self.routes_here())

    def _here_or_there(self, page: Handler, request: Request) -> Answer | Stream:
        node_id = request.name("node")
        if node_id is not None and node_id != self.nodes.node_id:
            return self._elsewhere.tell(node_id, request)
        query = {name: value for name, value in request.query.items() if name != "node"}
        return page(replace(request, query=query, taken=("node",)))

    def routes_here(self) -> tuple[Route, ...]:
        """What this node tells of itself, to other nodes, too."""
        return tuple(
            reads(f"/status/{path}", page)
            for path, page in (
                ("node", self._node),
                ("nodes", self._all_nodes),
                ("nodes/{id}", self._one_node),
                ("endpoints", self._all_endpoints),
                ("endpoints/{id}", self._one_endpoint),
                ("upstreams", self._all_upstreams),
                ("upstreams/{id}", self._one_upstream),
                ("gossip", self._gossip),
                ("requests", self._requests),
                ("errors", self._errors),
                ("actors", self._actors),
            )
        )

    def _node(self, request: Request) -> Answer:
        request.allow()
        return json_answer(self.nodes.own())

    def _all_nodes(self, request: Request) -> Answer:
        request.allow("limit", "after")
        return page_of(request, self.nodes.names(), self.nodes.row)

    def _one_node(self, request: Request) -> Answer:
        return _one(request, "node", self.nodes.row)

    def _all_endpoints(self, request: Request) -> Answer:
        request.allow("limit", "after", "where")
        where = request.query.get("where", "cluster")
        if where not in ("cluster", "here"):
            raise Refused(400, "bad_query", f"where: {where[:40]!r} is not usable: expected cluster or here")
        names = self.endpoints.names_here() if where == "here" else self.endpoints.names()
        return page_of(request, names, self.endpoints.row)

    def _one_endpoint(self, request: Request) -> Answer:
        return _one(request, "endpoint", self.endpoints.row)

    def _all_upstreams(self, request: Request) -> Answer:
        request.allow("limit", "after", "endpoint")
        endpoint_id = request.name("endpoint")
        pages = self.endpoints
        names = pages.upstream_names() if endpoint_id is None else pages.upstream_names_of(endpoint_id)
        return page_of(request, names, pages.upstream, order=_upstream_number)

    def _one_upstream(self, request: Request) -> Answer:
        return _one(request, "upstream", self.endpoints.upstream)

    def _gossip(self, request: Request) -> Answer:
        request.allow()
        return listing(self.nodes.gossip(), self.nodes.gossip_rows())

    def _requests(self, request: Request) -> Answer:
        request.allow("limit", "endpoint")
        limit = request.number("limit", RECENT_DEFAULT, 1, REQUESTS_MAX)
        return listing({}, self.recent.requests(request.name("endpoint") or "", limit))

    def _errors(self, request: Request) -> Answer:
        request.allow("limit", "endpoint")
        limit = request.number("limit", RECENT_DEFAULT, 1, ERRORS_MAX)
        return listing({}, self.recent.errors(request.name("endpoint") or "", limit))

    def _actors(self, request: Request) -> Answer:
        request.allow()
        return listing({"restarts": self.actors.restarts()}, self.actors.rows())


def _one(request: Request, what: str, row: Callable[[str], Row | None]) -> Answer:
    request.allow()
    made = row(request.names["id"])
    if made is None:
        raise no_such(what, request.names["id"])
    return json_answer(made)


def _upstream_number(upstream_id: str) -> int:
    number = UpstreamDoor.number_of(upstream_id)
    if number < 0:
        raise Refused(400, "bad_query", f"after: {upstream_id[:40]!r} is not usable: expected the ID of an upstream")
    return number
