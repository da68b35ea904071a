"""What the entries of a node mean, and where in the cluster each endpoint is (``spec/cluster.md``).

Responsible for: the keys that a node says of itself and how they are written and read, how often the number of an
endpoint's upstreams is said, and the view: endpoint → nodes that have it. Refuses to know: how entries travel and who
is alive (``pico.protocol.gossip``; a condition is handed in), and which place a request goes to
(``pico.protocol.routing``).

The view follows the copies of the other nodes. It remembers up to which version it has followed each, and a copy
is in the order of its versions: so k changes cost k steps, however many entries the node has. What is indexed is
ready to be used as it is: for each endpoint one immutable tuple, replaced when it changes, of nodes that may be asked.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from ipaddress import ip_address
from typing import Final, NamedTuple, Protocol

from pico.errors import LocalProtocolError
from pico.protocol.gossip.state import NodeState
from pico.protocol.gossip.values import CARD, ENTRY_BYTES_MAX, Address, Entry, Rank, Record

__all__ = [
    "CARD",
    "COUNT_INTERVAL_S",
    "DRAINING",
    "Card",
    "ClusterView",
    "Condition",
    "EndpointVanished",
    "EntryVersion",
    "LocalEndpoints",
    "NodeStatus",
    "NodeView",
    "Place",
    "PlaceGained",
    "Standing",
    "StatusNews",
    "decode_card",
    "decode_count",
    "encode_card",
    "endpoint_key",
    "endpoint_of_key",
    "gossip_address_of",
    "standing_of",
    "status_of",
]

DRAINING: Final = b"draining"
_ENDPOINT: Final = b"e:"

COUNT_INTERVAL_S: Final = 0.25
"""At least between two times at which changed numbers of upstreams are said."""

WIRE_VERSION_MAX: Final = 255

_PORT: Final = rb"(?:[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]|[1-9][0-9]{0,3})"
_ADDRESS: Final = rb"(?:[0-9A-Za-z._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]):" + _PORT
_CARD = re.compile(
    rb"1\n([1-9][0-9]{0,2})-([1-9][0-9]{0,2})\n(%b)\n(%b|)\n(%b|)\n(%b|)\n([!-~]{1,64})\n.*" % ((_ADDRESS,) * 4),
    re.DOTALL,
).fullmatch
_COUNT = re.compile(rb"[1-9][0-9]{0,8}").fullmatch
_ENDPOINT_KEY = re.compile(rb"e:([0-9a-z](?:[0-9a-z-]{0,61}[0-9a-z])?)").fullmatch


# What is written under a key.


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """Who a node is: where its doors are, as ``host:port``, and what it speaks. A door that it has not is empty."""

    gossip: str
    proxy: str
    admin: str
    upstream: str
    wire_min: int
    wire_max: int
    version: str


def encode_card(card: Card) -> bytes:
    """The value of ``card``; raises ``LocalProtocolError`` for a card that no reader would take."""
    doors = "\n".join((card.gossip, card.proxy, card.admin, card.upstream))
    value = f"1\n{card.wire_min}-{card.wire_max}\n{doors}\n{card.version}\n".encode("ascii", "replace")
    if len(CARD) + len(value) > ENTRY_BYTES_MAX or decode_card(value) != card:  # CLUSTER-1
        raise LocalProtocolError(f"{card!r} is not a valid card of at most {ENTRY_BYTES_MAX - len(CARD)} bytes")
    return value


def decode_card(value: bytes) -> Card | None:
    """The card; None for bytes that are none (CLUSTER-2). What stands behind the version is a later format's."""
    match = _CARD(value)
    if match is None:
        return None
    wire_min, wire_max = int(match[1]), int(match[2])
    if not wire_min <= wire_max <= WIRE_VERSION_MAX:
        return None
    gossip, proxy, admin, upstream, version = (part.decode("ascii") for part in match.groups()[2:])
    return Card(
        gossip=gossip,
        proxy=proxy,
        admin=admin,
        upstream=upstream,
        wire_min=wire_min,
        wire_max=wire_max,
        version=version,
    )


def gossip_address_of(card: bytes) -> Address | None:
    """Where the gossip port of the node with that card is; None unless the card says an IP address."""
    decoded = decode_card(card)
    if decoded is None:
        return None
    host, _, port = decoded.gossip.rpartition(":")
    try:
        return str(ip_address(host.strip("[]"))), int(port)
    except ValueError:
        return None


def endpoint_key(endpoint_id: str) -> bytes:
    """The key under which a node says how many upstreams an endpoint has."""
    return _ENDPOINT + endpoint_id.encode("ascii")


def endpoint_of_key(key: bytes) -> str:
    """The endpoint that a key speaks of; empty when it speaks of none."""
    match = _ENDPOINT_KEY(key)
    return "" if match is None else match[1].decode("ascii")


def decode_count(value: bytes | None) -> int:
    """How many upstreams; 0 for what is not a count (CLUSTER-3)."""
    return int(value) if value is not None and _COUNT(value) else 0


# What this node says.


class Entries(Protocol):
    """What this node says of itself: ``OwnState`` has this face."""

    def put(self, key: bytes, value: bytes, /) -> object:
        """Say that ``key`` is ``value``."""

    def delete(self, key: bytes, /) -> object:
        """Say that ``key`` is no more."""


class LocalEndpoints:
    """Says how many upstreams each endpoint of this node has, without saying every number on the way."""

    def __init__(self, entries: Entries) -> None:
        self._entries = entries
        self._said: dict[str, int] = {}
        self._waiting: dict[str, int] = {}
        self._quiet_until = 0.0

    def set(self, endpoint_id: str, count: int, *, now: float) -> None:
        """The endpoint has so many upstreams now."""
        said = self._said.get(endpoint_id, 0)
        if (said > 0) is not (count > 0):  # CLUSTER-6
            self._say(endpoint_id, count)
        elif count == said:
            self._waiting.pop(endpoint_id, None)
        else:
            self._waiting[endpoint_id] = count
            self.handle_timer(now=now)

    def next_timer(self) -> float | None:
        """When ``handle_timer`` wants to be called next; None when everything is said."""
        return self._quiet_until if self._waiting else None

    def handle_timer(self, *, now: float) -> None:
        """Say what has changed, when it is time (CLUSTER-7)."""
        if not self._waiting or now < self._quiet_until:
            return
        self._quiet_until = now + COUNT_INTERVAL_S
        for endpoint_id, count in list(self._waiting.items()):
            self._say(endpoint_id, count)

    def _say(self, endpoint_id: str, count: int) -> None:
        self._waiting.pop(endpoint_id, None)
        if count:
            self._said[endpoint_id] = count
            self._entries.put(endpoint_key(endpoint_id), b"%d" % count)
        else:
            del self._said[endpoint_id]
            self._entries.delete(endpoint_key(endpoint_id))


# What the others say.


class Standing(Enum):
    """How readily requests are given to a node."""

    ROUTABLE = "routable"
    LAST_RESORT = "last resort"  # when no other node has the endpoint
    NOT = "not"


class Condition(NamedTuple):
    """How a node is doing, seen from here."""

    verified: bool = False
    """It has answered, itself or through a helper: hearsay alone carries no request."""
    gone: bool = False
    suspect: bool = False
    lowered: bool = False
    """Its link broke or fell silent, or it did not answer a probe of our own; nobody else is told."""

    @property
    def admitted(self) -> bool:
        """Whether requests may be given to it at all."""
        return self.verified and not self.gone


def standing_of(condition: Condition, *, draining: bool) -> Standing:
    """The one place where a condition becomes a standing."""
    if not condition.admitted:  # CLUSTER-9
        return Standing.NOT
    if condition.suspect or condition.lowered or draining:  # CLUSTER-10
        return Standing.LAST_RESORT
    return Standing.ROUTABLE


class NodeStatus(Enum):
    """The one word under which a node is shown."""

    ALIVE = "alive"
    SUSPECT = "suspect"
    HEARSAY = "hearsay"  # others speak of it, and it has not been heard itself
    DEAD = "dead"
    LEFT = "left"


def status_of(record: Record, *, verified: bool) -> NodeStatus:
    """Under which word a node in the table is shown (CLUSTER-17)."""
    if record.left:
        return NodeStatus.LEFT
    if record.rank is Rank.DEAD:
        return NodeStatus.DEAD
    if not verified:
        return NodeStatus.HEARSAY
    return NodeStatus.SUSPECT if record.rank is Rank.SUSPECT else NodeStatus.ALIVE


class StatusNews:
    """Which changes of a node's status its operators are told of, each once (CLUSTER-19)."""

    def __init__(self) -> None:
        self._told: dict[str, NodeStatus] = {}  # of nodes that were heard

    def follow(self, node_id: str, status: NodeStatus) -> NodeStatus | None:
        """This is its status now: ``ALIVE``, ``DEAD`` or ``LEFT`` if that is news."""
        told = self._told.get(node_id)
        if status is NodeStatus.HEARSAY or (told is None and status in (NodeStatus.DEAD, NodeStatus.LEFT)):
            return None
        news = NodeStatus.ALIVE if status is NodeStatus.SUSPECT else status
        if news is told:
            return None
        self._told[node_id] = news
        return news

    def forget(self, node_id: str) -> None:
        """It is in the table no more."""
        self._told.pop(node_id, None)


class Place(NamedTuple):
    """A node that has an endpoint, and how many upstreams there."""

    node_id: str
    upstreams: int


class EntryVersion(NamedTuple):
    """One version of an entry, over all lives of its node."""

    life: int
    version: int


class PlaceGained(NamedTuple):
    """One node more has the endpoint."""

    endpoint_id: str


class EndpointVanished(NamedTuple):
    """No other node has the endpoint any more."""

    endpoint_id: str


@dataclass(frozen=True, slots=True)
class NodeView:
    """One node as this one sees it, for status."""

    standing: Standing
    condition: Condition
    draining: bool
    card: Card | None
    endpoints: int
    upstreams: int


class _Said(NamedTuple):
    entry: EntryVersion
    upstreams: int


class _Node:
    """What is followed of another node."""

    __slots__ = (
        "absent",
        "applied",
        "card",
        "condition",
        "draining",
        "endpoints",
        "entries",
        "life",
        "standing",
        "upstreams",
    )

    def __init__(self) -> None:
        self.life = 0
        self.applied = 0
        self.entries: dict[bytes, Entry] = {}  # of the copy, which is another one when it was replaced
        self.condition = Condition()
        self.standing = Standing.NOT
        self.card: Card | None = None
        self.draining = False
        self.endpoints: dict[str, _Said] = {}
        self.upstreams = 0  # of all its endpoints
        self.absent: dict[str, int] = {}  # corrections: the version that turned out to be wrong


class ClusterView:
    """Endpoint → places, kept equal to what the copies of the other nodes say (CLUSTER-11).

    Read ``places`` at any time; take ``events`` after each change.
    """

    def __init__(self, node_id: str) -> None:
        self.node_id = node_id
        self.places: dict[str, tuple[Place, ...]] = {}
        self.broken_cards = 0
        self.corrections = 0
        self._nodes: dict[str, _Node] = {}
        self._events: list[PlaceGained | EndpointVanished] = []

    # What has changed.

    def follow(self, node_id: str, state: NodeState, condition: Condition) -> None:
        """Take in what is new in a node's copy, or in how it is doing; harmless when nothing is."""
        if node_id == self.node_id:  # CLUSTER-9
            return
        node = self._nodes.get(node_id)
        if node is None:
            node = self._nodes[node_id] = _Node()
        if not condition.admitted:
            self._stand(node_id, node, condition)
        self._catch_up(node_id, node, state)
        self._stand(node_id, node, condition)

    def forget(self, node_id: str) -> None:
        """The node has left the table, or its copy was dropped."""
        node = self._nodes.get(node_id)
        if node is not None:
            self._stand(node_id, node, Condition())
            del self._nodes[node_id]

    def absent(self, node_id: str, endpoint_id: str, entry: EntryVersion) -> bool:
        """The node has denied what that entry says: no place until it says something newer; whether this was news."""
        node = self._nodes.get(node_id)
        if node is None or self.version_of(node_id, endpoint_id) != entry:  # CLUSTER-13
            return False
        if node.absent.get(endpoint_id) == entry.version:
            return False
        node.absent[endpoint_id] = entry.version
        self.corrections += 1
        self._place(node_id, node, endpoint_id, 0)
        return True

    def events(self) -> list[PlaceGained | EndpointVanished]:
        """What has appeared and vanished since the last call (CLUSTER-14)."""
        events, self._events = self._events, []
        return events

    # What is known.

    def standing(self, node_id: str) -> Standing:
        """How readily requests are given to the node."""
        node = self._nodes.get(node_id)
        return Standing.NOT if node is None else node.standing

    def version_of(self, node_id: str, endpoint_id: str) -> EntryVersion | None:
        """Which entry says that the node has the endpoint."""
        node = self._nodes.get(node_id)
        said = None if node is None else node.endpoints.get(endpoint_id)
        return None if said is None else said.entry

    def node(self, node_id: str) -> NodeView | None:
        """One node that is followed, for status; None for one that is not."""
        node = self._nodes.get(node_id)
        return None if node is None else _shown(node)

    def nodes(self) -> dict[str, NodeView]:
        """Every node that is followed, for status and metrics."""
        return {node_id: _shown(node) for node_id, node in self._nodes.items()}

    # Following a copy.

    def _catch_up(self, node_id: str, node: _Node, state: NodeState) -> None:
        if state.entries is not node.entries or not state.floor <= node.applied <= state.applied:
            self._start_over(node_id, node, state)
        else:
            for entry in state.after(node.applied):  # CLUSTER-15
                self._take(node_id, node, entry)
        node.applied = state.applied

    def _start_over(self, node_id: str, node: _Node, state: NodeState) -> None:
        """A copy of another life, or one that was replaced: what it does not say any more is gone in the same step."""
        if state.life != node.life:  # CLUSTER-12
            node.life = state.life
            node.absent = {}
        node.entries = state.entries
        before, node.endpoints = node.endpoints, {}
        node.upstreams = 0
        node.card, node.draining = None, False
        for entry in state.entries.values():
            self._take(node_id, node, entry)
        for endpoint_id in before:
            if endpoint_id not in node.endpoints:
                node.absent.pop(endpoint_id, None)
                self._place(node_id, node, endpoint_id, 0)

    def _take(self, node_id: str, node: _Node, entry: Entry) -> None:
        version, key, value = entry
        if key.startswith(_ENDPOINT):
            endpoint_id = endpoint_of_key(key)
            if endpoint_id:
                said = _Said(EntryVersion(node.life, version), decode_count(value))
                self._take_count(node_id, node, endpoint_id, said)
        elif key == CARD:
            node.card = None if value is None else decode_card(value)
            self.broken_cards += value is not None and node.card is None
        elif key == DRAINING:
            node.draining = value is not None  # CLUSTER-5

    def _take_count(self, node_id: str, node: _Node, endpoint_id: str, said: _Said) -> None:
        before = node.endpoints.pop(endpoint_id, None)
        node.upstreams += said.upstreams - (before.upstreams if before is not None else 0)
        if said.upstreams:
            node.endpoints[endpoint_id] = said
        # Else it is what was corrected, in a copy that was replaced.
        if node.absent.get(endpoint_id) != said.entry.version:
            node.absent.pop(endpoint_id, None)
            self._place(node_id, node, endpoint_id, said.upstreams)

    def _stand(self, node_id: str, node: _Node, condition: Condition) -> None:
        before = node.standing
        after = standing_of(condition, draining=node.draining)
        node.condition = condition
        if before is not Standing.NOT and after is Standing.NOT:
            for endpoint_id in node.endpoints:
                self._place(node_id, node, endpoint_id, 0)
        node.standing = after
        if before is Standing.NOT and after is not Standing.NOT:
            for endpoint_id, said in node.endpoints.items():
                if endpoint_id not in node.absent:
                    self._place(node_id, node, endpoint_id, said.upstreams)

    def _place(self, node_id: str, node: _Node, endpoint_id: str, count: int) -> None:
        """The index's one writer."""
        if node.standing is Standing.NOT:
            return
        before = self.places.get(endpoint_id, ())
        after = [place for place in before if place.node_id != node_id]
        gained = len(after) == len(before)
        if count:
            after.append(Place(node_id, count))
            self.places[endpoint_id] = tuple(sorted(after))
            if gained:
                self._events.append(PlaceGained(endpoint_id))
        elif after:
            self.places[endpoint_id] = tuple(after)
        elif before:
            del self.places[endpoint_id]
            self._events.append(EndpointVanished(endpoint_id))


def _shown(node: _Node) -> NodeView:
    return NodeView(
        node.standing,
        node.condition,
        node.draining,
        node.card,
        endpoints=len(node.endpoints),
        upstreams=node.upstreams,
    )
