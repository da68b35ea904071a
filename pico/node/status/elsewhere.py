"""What another node tells, asked through the link to it.

Responsible for: finding that node, and saying clearly why it has not answered. Refuses to know: what is asked, and how
a question travels (``pico.actors.questions``).
"""

from __future__ import annotations

from typing import Final
from urllib.parse import quote, urlencode

from pico.actors.questions import NoAnswer, ask
from pico.node.gossip_door import GossipDoor
from pico.node.status.lists import no_such
from pico.observability.admin import JSON_TYPE, Answer, Refused, Request

__all__ = ["Elsewhere"]

STATUSES: Final = {"timeout": 504, "busy": 503, "too_long": 400}
"""For why there is no answer; else it is 502."""


class Elsewhere:
    """One per node."""

    def __init__(self, gossip_door: GossipDoor) -> None:
        self._gossip_door = gossip_door

    def tell(self, node_id: str, request: Request) -> Answer:
        """What that node answers to the same question; raises ``Refused``. Waits for it."""
        cluster = self._gossip_door.actor
        if cluster is None or cluster.engine.table.member(node_id) is None:
            raise no_such("node", node_id)
        query = urlencode({name: value for name, value in request.query.items() if name != "node"})
        target = quote(request.path) + (f"?{query}" if query else "")
        peer = cluster.upstream_of(node_id)
        try:
            if peer is None:
                status = cluster.status_of(node_id)
                raise NoAnswer("unreachable", f"it is {status[0].value if status else 'not known well enough'}")
            told = ask(peer, target)
        except NoAnswer as error:
            raise Refused(STATUSES.get(error.code, 502), f"node_{error.code}", f"{node_id}: {error}") from error
        return Answer(told.body, JSON_TYPE, told.status)
