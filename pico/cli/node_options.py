"""What can be set of a node.

Responsible for: the rows of the table, and which values do not go together. Refuses to know: where a value comes from,
and what a node does with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Final

from pico.cli import common_settings as common
from pico.cli.kinds import (
    ADDRESSES,
    ADVERTISED,
    COUNT,
    COUNT_OR_ZERO,
    DURATION,
    DURATION_OR_ZERO,
    FACTOR,
    FILE,
    HOST,
    NAME,
    NETWORKS,
    NUMBER,
    PORT,
    TEXT,
    choice,
    size,
)
from pico.cli.relations import Conflict, require_both_files, require_less, require_more
from pico.cli.settings import Change, Program, Section, Setting
from pico.cli.values import size_text
from pico.config import NodeConfig
from pico.errors import ConfigError

__all__ = ["NODE"]

RELOAD, REPLACE = Change.RELOAD, Change.REPLACE

DOORS: Final = Section(
    "Doors",
    "A host is an address or a name to listen on, empty for every address; port 0 takes any free port",
    (
        Setting("proxy_host", "proxy_host", HOST, "for clients", none="every address"),
        Setting("proxy_port", "proxy_port", PORT),
        Setting("admin_host", "admin_host", HOST, "for operators and probes", none="every address"),
        Setting("admin_port", "admin_port", PORT),
        Setting("upstream_host", "upstream_host", HOST, "for agents", none="every address"),
        Setting("upstream_port", "upstream_port", PORT),
        Setting("gossip_host", "gossip_host", HOST, "for other nodes", none="every address"),
        Setting("gossip_port", "gossip_port", PORT, "UDP and TCP"),
    ),
)

CLUSTER: Final = Section(
    "The cluster",
    "Any number of nodes that know one of the others behave as one server",
    (
        Setting(
            "join", "join", ADDRESSES, "gossip ports of other nodes, host or host:port, between commas", RELOAD
        ),
        Setting(
            "node_id", "node_id", NAME, "name of this node; keep it the same across restarts",
            none="the host's name and a random suffix",
        ),
        Setting("cluster_name", "cluster_name", NAME, "nodes of another cluster are not listened to"),
        Setting(
            "cluster_key_file", "cluster_key_file", FILE,
            "keys with which nodes encrypt what they say to each other", REPLACE,
        ),
        Setting(
            "cluster_key", "cluster_key", TEXT, "what would stand in that file", REPLACE, option="-", secret=True
        ),
        Setting(
            "advertise_gossip", "advertise_gossip", ADVERTISED,
            "where other nodes reach this one, host or host:port", none="it is found out",
        ),
        Setting(
            "advertise_proxy", "advertise_proxy", ADVERTISED, "where clients reach it, for status",
            none="the host of the gossip port",
        ),
        Setting(
            "advertise_upstream", "advertise_upstream", ADVERTISED, "where agents reach it", none="likewise"
        ),
        Setting("advertise_admin", "advertise_admin", ADVERTISED, "where operators reach it", none="likewise"),
    ),
)  # fmt: skip

HTTPS: Final = Section(
    "HTTPS, door by door",
    "Files in PEM; the certificate first, then its chain",
    (
        Setting("proxy_tls_cert", "proxy_tls.certificate", FILE, "certificate of the proxy door", REPLACE),
        Setting("proxy_tls_key", "proxy_tls.key", FILE, "its key", REPLACE),
        Setting(
            "upstream_tls_cert", "upstream_tls.certificate", FILE,
            "certificate of the upstream door: agents then connect with https://", REPLACE,
        ),
        Setting("upstream_tls_key", "upstream_tls.key", FILE, "its key", REPLACE),
        Setting("admin_tls_cert", "admin_tls.certificate", FILE, "certificate of the admin door", REPLACE),
        Setting("admin_tls_key", "admin_tls.key", FILE, "its key", REPLACE),
    ),
)  # fmt: skip

BEHAVIOUR: Final = Section(
    "Behaviour",
    "",
    (
        Setting(
            "trusted_proxies", "trusted_proxies", NETWORKS,
            "whose X-Forwarded-* fields are believed, between commas", RELOAD, none="nobody's",
        ),
        Setting(
            "proxy_protocol", "proxy_protocol", choice("off", "proxy", "upstream", "both"),
            "doors at which trusted proxies send a PROXY protocol header first: off, proxy, upstream or both",
        ),
        Setting("balance", "balance", choice("least-in-flight", "round-robin"), "least-in-flight or round-robin"),
        common.ACCESS_LOG,
        Setting(
            "metrics_endpoints", "metrics_endpoints_max", COUNT_OR_ZERO,
            "endpoints with metrics of their own; the rest is counted together",
        ),
        common.TRACING,
        common.LOG_FORMAT,
        common.LOG_LEVEL,
        Setting("attempts_max", "attempts_max", COUNT, "upstreams tried for one request", RELOAD),
        Setting(
            "abort_on_close", "abort_on_close", choice("on", "off"),
            "treat a client that closes its sending side as gone: on or off", RELOAD,
        ),
        Setting(
            "endpoint_wait", "endpoint_wait_s", DURATION_OR_ZERO,
            "how long a request waits for an endpoint that has just left; 0: not", RELOAD,
        ),
        Setting(
            "drain_delay", "drain_delay_s", DURATION_OR_ZERO,
            "from the failing readiness to the closing of the proxy door", RELOAD,
        ),
        Setting(
            "grace_period", "grace_period_s", DURATION_OR_ZERO, "for requests in flight when the node stops", RELOAD
        ),
        Setting(
            "rebalance", "rebalance", choice("on", "off"),
            "whether agents are asked to move to a node that has fewer: on or off", RELOAD,
        ),
        Setting("rebalance_rate", "rebalance_limits.rate", FACTOR, "agents that are asked, a second"),
    ),
)  # fmt: skip

LIMITS: Final = Section(
    "Limits",
    "A size is a number of bytes or 64KiB, 10MiB, 1GiB",
    (
        Setting(
            "body_bytes_max", "http_limits.body_bytes_max", size(lowest=0), "one request body; 0: no limit", RELOAD
        ),
        Setting(
            # More than this fits into no tunnel: spec/rpc.md, head_bytes_max.
            "head_bytes_max", "http_limits.head_bytes_max", size(lowest=1024, highest=64 * 1024), "one request head",
            RELOAD,
        ),
        Setting("fields_max", "http_limits.fields_max", COUNT, "fields of one request", RELOAD),
        Setting("client_connections_max", "client_connections_max", COUNT, "", RELOAD),
        Setting("upstreams_max", "upstreams_max", COUNT, "", RELOAD),
        Setting("upstreams_per_endpoint_max", "upstreams_per_endpoint_max", COUNT, "", RELOAD),
        Setting("upstreams_per_address_max", "upstreams_per_address_max", COUNT, "", RELOAD),
        Setting(
            "requests_per_endpoint_max", "requests_per_endpoint_max", COUNT, "in flight at one time", RELOAD
        ),
    ),
)  # fmt: skip

TIMERS: Final = Section(
    "Timers",
    "A duration is 500ms, 10s, 5m or 1h",
    (
        Setting("tls_handshake_timeout", "http_timers.tls_handshake_s", DURATION, "", RELOAD),
        Setting(
            "handshake_timeout", "handshake_s", DURATION, "an agent's, from its first byte to the accepted upgrade",
            RELOAD,
        ),
        Setting(
            "request_head_timeout", "http_timers.request_head_s", DURATION,
            "from the first byte of a head to its last", RELOAD,
        ),
        Setting("keep_alive_timeout", "http_timers.keep_alive_s", DURATION, "between requests", RELOAD),
        Setting("body_idle_timeout", "http_timers.body_idle_s", DURATION, "no byte of a request body", RELOAD),
        Setting(
            "response_head_timeout", "http_timers.response_head_s", DURATION,
            "from the whole request to the head of its response", RELOAD,
        ),
        Setting(
            "response_idle_timeout", "http_timers.response_idle_s", DURATION, "no byte of a response body", RELOAD
        ),
        Setting("write_stall_timeout", "http_timers.write_stall_s", DURATION, "a client that takes no byte", RELOAD),
        Setting(
            "upgrade_idle_timeout", "http_timers.upgrade_idle_s", DURATION,
            "no byte in either direction after an upgrade", RELOAD,
        ),
        Setting(
            "request_total_timeout", "http_timers.request_total_s", DURATION_OR_ZERO, "a whole request; 0: no limit",
            RELOAD,
        ),
        common.HEARTBEAT,
        common.SILENCE,
        Setting(
            "link_heartbeat", "peer_limits.rpc_limits.heartbeat_s", DURATION, "the same for the link to another node"
        ),
        Setting("link_silence", "peer_limits.rpc_limits.silence_s", DURATION),
        Setting(
            "gossip_probe", "gossip_timers.probe_s", DURATION, "from one probe of another node to the next"
        ),
        Setting(
            "gossip_probe_timeout", "gossip_timers.probe_timeout_s", DURATION,
            "for its answer, after which others are asked to help",
        ),
        Setting(
            "gossip_round", "gossip_timers.round_s", DURATION, "from one comparison with another node to the next"
        ),
    ),
)  # fmt: skip

RARE_REQUESTS: Final = Section(
    "Requests, rarely changed",
    "",
    (
        Setting(
            "request_line_bytes_max", "http_limits.request_line_bytes_max", size(lowest=8 * 1024, highest=64 * 1024),
            "method, target and version", RELOAD,
        ),
        common.FIELD_LINE_BYTES_MAX,
        common.CHUNK_LINE_BYTES_MAX,
        common.TRAILER_BYTES_MAX,
        Setting(
            "discard_bytes_max", "http_limits.discard_bytes_max", size(lowest=0),
            "unread body that is drained before a connection is closed", RELOAD,
        ),
        Setting(
            "body_rate_min", "http_timers.body_rate_bytes_min", size(),
            "of a request body, a second, averaged, after the time below", RELOAD,
        ),
        Setting("body_rate_grace", "http_timers.body_rate_grace_s", DURATION, "", RELOAD),
        Setting(
            "linger_timeout", "http_timers.linger_s", DURATION_OR_ZERO,
            "for a client to read the answer to a request that was refused", RELOAD,
        ),
        Setting(
            "last_call_timeout", "http_timers.last_call_s", DURATION_OR_ZERO,
            "for one more request on a connection, once a node that drains takes no more of them", RELOAD,
        ),
    ),
    rare=True,
)  # fmt: skip

RARE_TUNNELS: Final = Section(
    "Tunnels and links, rarely changed",
    "Tunnels that are open keep what they began with",
    (
        common.TUNNEL_STREAMS_MAX,
        Setting(
            "tunnel_control_bytes_max", "rpc_limits.control_bytes_max", size(lowest=1024),
            "answers queued towards an agent that does not read", RELOAD,
        ),
        common.TUNNEL_FRAGMENTS_MAX,
        Setting(
            "tunnel_close_timeout", "websocket_limits.close_s", DURATION, "from our close frame to the agent's", RELOAD
        ),
        Setting(
            "base_body_bytes_max", "rpc_limits.base_body_bytes_max", size(lowest=0, highest=1024**3),
            "one body, for agents that speak the base protocol only", RELOAD,
        ),
        Setting(
            "base_streams_max", "rpc_limits.base_streams_max", COUNT, "requests in a tunnel of such an agent", RELOAD
        ),
        Setting(
            "unfinished_bytes_max", "unfinished_bytes_max", size(lowest=0),
            "of messages of such agents that have not ended, in all tunnels", RELOAD,
        ),
        Setting(
            "base_waiting_bytes_max", "base_waiting_bytes_max", size(lowest=0),
            "of bodies of such requests that wait in the node, in all tunnels", RELOAD,
        ),
        Setting(
            "link_streams_max", "peer_limits.rpc_limits.streams_max", COUNT,
            "requests forwarded to one node at one time",
        ),
        Setting(
            "link_dial_timeout", "peer_limits.dial_s", DURATION, "what a dead node costs a request at most"
        ),
        Setting(
            "link_redial_max", "peer_limits.redial_max_s", DURATION, "the longest wait between two dials"
        ),
    ),
    rare=True,
)  # fmt: skip

RARE_GOSSIP: Final = Section(
    "Gossip, rarely changed",
    "All nodes of a cluster should agree; spec/gossip.md has the meaning of each",
    (
        Setting(
            "gossip_packet_bytes_max", "gossip_limits.packet_bytes_max", size(lowest=1024, highest=65507),
            "one UDP packet",
        ),
        Setting("gossip_nodes_max", "gossip_limits.nodes_max", COUNT, "other nodes in the table"),
        Setting("gossip_dead_state", "gossip_limits.dead_state_s", DURATION, "what a dead node had is kept so long"),
        Setting("gossip_dead_record", "gossip_limits.dead_record_s", DURATION, "that it was there, so long"),
        Setting("gossip_memory", "gossip_limits.memory_s", DURATION, "that it must not come back, so long"),
        Setting(
            "gossip_suspicion_factor", "gossip_timers.suspicion_factor", NUMBER,
            "the shortest suspicion, in probes, for ten nodes",
        ),
        Setting(
            "gossip_suspicion_stretch", "gossip_timers.suspicion_stretch", FACTOR,
            "the longest suspicion, in terms of the shortest",
        ),
        Setting(
            "gossip_probe_helpers", "gossip_timers.probe_helpers", COUNT_OR_ZERO,
            "nodes that are asked to try when one does not answer",
        ),
        Setting(
            "gossip_pause", "gossip_timers.pause_s", DURATION,
            "a node that was not running for this long blames nobody for it",
        ),
        Setting(
            "gossip_quiet_round", "gossip_timers.quiet_round_s", DURATION,
            "from one comparison to the next while nothing changes",
        ),
        Setting("gossip_exchange", "gossip_timers.exchange_s", DURATION, "from one whole exchange to the next"),
        Setting("gossip_exchange_timeout", "gossip_timers.exchange_timeout_s", DURATION),
        Setting("gossip_packets_rate", "gossip_timers.packets_rate", FACTOR, "of pushes, a second"),
        Setting(
            "gossip_reconnect", "gossip_timers.reconnect_s", DURATION,
            "from one try to reach an absent node to the next",
        ),
        Setting(
            "gossip_seed_max", "gossip_timers.seed_max_s", DURATION,
            "the longest wait between two tries to reach a node of --join",
        ),
        Setting(
            "gossip_resolve", "gossip_timers.resolve_s", DURATION, "from one look at the names of --join to the next"
        ),
        Setting(
            "gossip_connections_max", "peer_limits.connections_max", COUNT, "accepted at the gossip port"
        ),
        Setting("gossip_exchanges_max", "peer_limits.exchanges_max", COUNT, "begun by this node, at one time"),
        Setting("gossip_exchanges_served_max", "peer_limits.exchanges_served_max", COUNT, "begun by others"),
        Setting(
            "gossip_exchange_bytes_max", "peer_limits.exchange_bytes_max", size(lowest=1024**2),
            "held for all exchanges together",
        ),
        Setting("gossip_inbox_max", "peer_limits.inbox_max", COUNT, "packets received and not looked at"),
    ),
    rare=True,
)  # fmt: skip


def _check(config: NodeConfig, named: Callable[[str], str]) -> Iterator[Conflict]:
    yield from _require_ports_apart(config, named)
    for door in ("proxy", "upstream", "admin"):
        yield from require_both_files(getattr(config, f"{door}_tls"), f"{door}_tls_cert", f"{door}_tls_key", named)
    tunnel, link, gossip = config.rpc_limits, config.peer_limits.rpc_limits, config.gossip_timers
    limits = config.gossip_limits
    # A tunnel or link is given up only after it was asked for a sign of life.
    yield from require_more("silence", tunnel.silence_s, "heartbeat", tunnel.heartbeat_s, named)
    yield from require_more("link_silence", link.silence_s, "link_heartbeat", link.heartbeat_s, named)
    # Whoever does not answer in time leaves some of the round for others to try.
    yield from require_less("gossip_probe_timeout", gossip.probe_timeout_s, "gossip_probe", gossip.probe_s, named)
    yield from require_more(
        "gossip_dead_record", limits.dead_record_s, "gossip_dead_state", limits.dead_state_s, named, equal=True
    )
    yield from require_more(
        "gossip_quiet_round", gossip.quiet_round_s, "gossip_round", gossip.round_s, named, equal=True
    )
    # Else one honest message or body would be too much.
    for key, bytes_max in (
        ("unfinished_bytes_max", config.unfinished_bytes_max),
        ("base_waiting_bytes_max", config.base_waiting_bytes_max),
    ):
        yield from require_more(
            key, bytes_max, "base_body_bytes_max", tunnel.base_body_bytes_max, named, equal=True, text=size_text
        )
    # Who is calling is asked of nobody but trusted proxies.
    if config.proxy_protocol != "off" and not config.trusted_proxies:
        expected = f"off, because {named('trusted_proxies')} names nobody"
        error = ConfigError(named("proxy_protocol"), config.proxy_protocol, expected)
        yield Conflict(("proxy_protocol", "trusted_proxies"), error)
    if config.cluster_key and config.cluster_key_file:
        expected = f"one of the two, and {named('cluster_key_file')} is set, too"
        yield Conflict(("cluster_key", "cluster_key_file"), ConfigError(named("cluster_key"), "...", expected))


def _require_ports_apart(config: NodeConfig, named: Callable[[str], str]) -> Iterator[Conflict]:
    """No door is where another one listens; names are not looked up for it."""
    for one, other in combinations(("proxy", "admin", "upstream", "gossip"), 2):
        port = getattr(config, f"{other}_port")
        hosts = {getattr(config, f"{one}_host"), getattr(config, f"{other}_host")}
        if port and port == getattr(config, f"{one}_port") and (len(hosts) == 1 or "" in hosts):
            error = ConfigError(named(f"{other}_port"), str(port), f"another one than {named(f'{one}_port')}")
            yield Conflict((f"{one}_host", f"{one}_port", f"{other}_host", f"{other}_port"), error)


NODE: Final = Program(
    name="pico-node",
    intro="one node of Pico. Agents connect to its upstream door, clients to its proxy door.",
    defaults=NodeConfig(),
    sections=(
        DOORS, CLUSTER, HTTPS, BEHAVIOUR, LIMITS, TIMERS, RARE_REQUESTS, RARE_TUNNELS, RARE_GOSSIP
    ),
    check=_check,
    example="proxy_port: 8000",
)  # fmt: skip
