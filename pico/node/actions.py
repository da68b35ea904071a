"""What an operator can have a node do at its admin door.

Responsible for: reading what is wanted, and having the part do it that can. Refuses to know: who may ask
(``pico.observability.admin_guard``), and how it is done. What is wanted is wanted of this node: no action travels.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

import pykka

from pico.actors.messages import ForgetNode
from pico.node.gossip_door import GossipDoor
from pico.node.status.lists import no_such
from pico.node.upstream_door import UpstreamDoor
from pico.observability.admin import Answer, Refused, Request, Route, acts, json_answer
from pico.observability.logs import EACH

__all__ = ["Actions"]

ASK_S: Final = 5.0

_log = logging.getLogger("pico.admin")


class Actions:
    """One per node. ``drain`` begins it, and does not wait."""

    def __init__(self, gossip_door: GossipDoor, upstream_door: UpstreamDoor, drain: Callable[[], None]) -> None:
        self._gossip_door = gossip_door
        self._upstream_door = upstream_door
        self._drain = drain

    def routes(self) -> tuple[Route, ...]:
        """At the admin door."""
        return (
            acts("/-/drain", self._act_drain),
            acts("/-/disconnect", self._act_disconnect),
            acts("/-/forget", self._act_forget),
        )

    def _act_drain(self, request: Request) -> Answer:
        """As with a signal: the process ends when it has finished what is in flight. Again is no second signal."""
        request.arguments()
        _log.warning("the operator wants this node to drain", extra=EACH)
        self._drain()
        return json_answer({"status": "draining"}, 202)

    def _act_disconnect(self, request: Request) -> Answer:
        said = request.arguments("upstream", "force")
        upstream_id, force = _text(said, "upstream"), said.get("force", False)
        if not isinstance(force, bool):
            raise Refused(400, "bad_body", "force: expected true or false")
        upstream = self._upstream_door.find(upstream_id)
        if upstream is None:
            raise no_such("upstream", upstream_id)
        if not upstream.streaming and not force:
            raise Refused(409, "base_protocol", "its agent cannot be told to move: force cuts it off")
        self._upstream_door.disconnect(upstream_id, "the operator disconnects it", force=force)
        by_force = " by force" if force else ""
        _log.warning("the operator disconnects upstream %s%s", upstream_id, by_force, extra=EACH)
        return json_answer({"upstream": upstream_id, "status": "cut" if force else "leaving"}, 202)

    def _act_forget(self, request: Request) -> Answer:
        node_id = _text(request.arguments("node"), "node")
        cluster = self._gossip_door.actor
        if cluster is None or cluster.engine.table.record_of(node_id) is None:
            raise no_such("node", node_id)
        try:
            forgotten = cluster.actor_ref.ask(ForgetNode(node_id), timeout=ASK_S)
        except (pykka.Timeout, pykka.ActorDeadError) as error:
            raise Refused(503, "busy", "the cluster's actor does not answer; try again") from error
        if not forgotten and node_id in (*cluster.engine.table.members(), cluster.engine.node_id):
            raise Refused(409, "not_gone", f"{node_id}: only a node that is dead or has left can be forgotten")
        _log.warning("the operator wants node %s to be forgotten", node_id, extra=EACH)
        return json_answer({"node": node_id, "status": "forgotten"})


def _text(said: dict[str, Any], name: str) -> str:
    value = said.get(name)
    if not isinstance(value, str) or not value:
        raise Refused(400, "bad_body", f"{name}: expected the ID of one")
    return value
