"""What a node counts of the cluster.

Responsible for: the names and the meaning of ``pico_gossip_...`` and of what concerns links between nodes. Refuses to
know: where these things happen; the cluster's actor says how it stands when somebody scrapes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from pico.observability.tally import Tally, counter_family

__all__ = ["CHANNELS", "ClusterMetrics", "ClusterStanding"]

NODE_STATUSES: Final = ("alive", "suspect", "hearsay", "dead", "left")

CHANNELS: Final = (
    "exchange", "link", "cluster", "version", "malformed", "unsealed", "no_key", "unknown_key", "forged",
    "frame_too_large", "same_name", "other_node", "connected_to_self", "no_answer", "connection_lost", "too_many",
)  # fmt: skip
"""What an accepted channel was for, or why it was refused; what datagrams know, too, has the same name there."""

VIOLATIONS: Final = ("cluster", "version", "malformed", "unsealed", "no_key", "unknown_key", "forged", "replayed")


@dataclass(frozen=True, slots=True)
class ClusterStanding:
    """How the cluster looks from here at one moment."""

    nodes: dict[str, int] = field(default_factory=dict)
    """Other nodes by status."""
    remote_endpoints: int = 0
    health: int = 0
    joined: bool = False
    links_out: int = 0
    links_in: int = 0
    datagrams_sent: int = 0
    datagrams_received: int = 0
    datagrams_not_sent: int = 0
    datagrams_not_received: int = 0
    datagrams_too_large: int = 0
    violations: dict[str, int] = field(default_factory=dict)
    nodes_refused: int = 0
    messages_not_understood: int = 0
    cards_not_understood: int = 0


class ClusterMetrics:
    """Counters are counted up by whoever knows; ``standing`` is set by the node's composition."""

    def __init__(self) -> None:
        self.dropped = 0
        """Packets that came while too many waited."""
        self.exchanges = Tally(("begun", "served", "failed"))
        self.channels = Tally(CHANNELS)
        self.corrections: Callable[[], int] = int
        self.standing: Callable[[], ClusterStanding] = ClusterStanding

    def collect(self) -> Iterator[Metric]:
        """Everything that is told of the cluster."""
        now = self.standing()
        nodes = GaugeMetricFamily("pico_gossip_nodes", "Other nodes that are known, by status.", labels=["status"])
        for status in NODE_STATUSES:
            nodes.add_metric([status], now.nodes.get(status, 0))
        yield nodes
        yield CounterMetricFamily(
            "pico_gossip_nodes_refused_total",
            "How often a node was heard of that is one too many for the table.",
            now.nodes_refused,
        )
        yield GaugeMetricFamily("pico_gossip_joined", "1 when another node has been reached.", int(now.joined))
        yield GaugeMetricFamily(
            "pico_gossip_health", "0 is good; each step makes this node slower to judge.", now.health
        )
        yield GaugeMetricFamily("pico_remote_endpoints", "Endpoints that other nodes have.", now.remote_endpoints)
        links = GaugeMetricFamily("pico_peer_links", "Links to peers, by who dialled.", labels=["direction"])
        links.add_metric(["out"], now.links_out)
        links.add_metric(["in"], now.links_in)
        yield links
        yield counter_family(
            "pico_gossip_datagrams_total",
            "Datagrams of gossip.",
            "direction",
            {"sent": now.datagrams_sent, "received": now.datagrams_received},
        )
        yield counter_family(
            "pico_gossip_datagram_errors_total",
            "Datagrams that the system did not take, or above our limit.",
            "reason",
            {
                "not_sent": now.datagrams_not_sent,
                "not_received": now.datagrams_not_received,
                "too_large": now.datagrams_too_large,
            },
        )
        yield CounterMetricFamily(
            "pico_gossip_dropped_total", "Datagrams not looked at: too many waited.", self.dropped
        )
        yield counter_family(
            "pico_gossip_violations_total",
            "Datagrams that were not for this node, by why.",
            "reason",
            {reason: now.violations.get(reason, 0) for reason in VIOLATIONS},
        )
        yield counter_family(
            "pico_gossip_not_understood_total",
            "What members said that this node cannot read: of a later version, perhaps.",
            "what",
            {"message": now.messages_not_understood, "card": now.cards_not_understood},
        )
        yield self.exchanges.family("pico_gossip_exchanges_total", "Exchanges over a stream.", "result")
        yield self.channels.family(
            "pico_gossip_channels_total", "Channels that peers dialled: what for, or why they were refused.", "result"
        )
        yield CounterMetricFamily(
            "pico_view_corrections_total", "Peers that no longer had an endpoint when asked.", self.corrections()
        )
