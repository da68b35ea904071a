"""Every limit, timer and address that can be set, with its default and unit.

Responsible for: the words and the defaults. Refuses to know: where a value came from (flag, file, environment) and
what is done with it. Field names end in their unit; a field named ``..._max`` is a limit.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

__all__ = [
    "AgentConfig",
    "ChannelLimits",
    "EndpointTarget",
    "GossipLimits",
    "GossipTimers",
    "HttpLimits",
    "HttpTimers",
    "LinkTimers",
    "NodeConfig",
    "PeerLimits",
    "RebalanceLimits",
    "RpcLimits",
    "SealLimits",
    "TlsFiles",
    "WebSocketLimits",
    "address_text",
    "websocket_limits",
]

KIB = 1024
MIB = 1024 * KIB


def address_text(host: str, port: int) -> str:
    """``host:port`` for people, settings and other nodes: an IPv6 address in brackets, ``*`` for every address."""
    return f"[{host}]:{port}" if ":" in host else f"{host or '*'}:{port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpLimits:
    """What one HTTP/1.1 message may take (``spec/http.md``, Limits)."""

    method_bytes_max: int = 32
    request_line_bytes_max: int = 16 * KIB
    field_line_bytes_max: int = 16 * KIB
    head_bytes_max: int = 64 * KIB  # request line or status line and all fields together
    fields_max: int = 128
    chunk_line_bytes_max: int = 1 * KIB  # size and extension of one chunk
    trailer_bytes_max: int = 16 * KIB
    informational_max: int = 16  # 1xx responses before the final one
    body_bytes_max: int = 0  # 0: no limit; a larger request body gets 413
    discard_bytes_max: int = 256 * KIB  # unread body that is drained before a connection is closed


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpTimers:
    """How long the proxy door waits, and for what (``spec/http.md``, Timers)."""

    tls_handshake_s: float = 10.0
    request_head_s: float = 20.0  # absolute, from the first byte of the head
    keep_alive_s: float = 75.0  # idle between requests
    body_idle_s: float = 30.0  # no byte of a request body
    body_rate_bytes_min: int = 256  # a second, averaged, after body_rate_grace_s
    body_rate_grace_s: float = 30.0
    response_head_s: float = 60.0  # from the whole request sent to the response head
    response_idle_s: float = 300.0  # no byte of a response body from the service
    write_stall_s: float = 60.0  # a client that takes no byte
    upgrade_idle_s: float = 3600.0  # no byte in either direction after a 101
    linger_s: float = 2.0  # lingering close after an error
    last_call_s: float = 0.5  # for one more request on a connection, once a node that drains takes no more of them
    request_total_s: float = 0.0  # 0: no limit


@dataclass(frozen=True, slots=True, kw_only=True)
class RpcLimits:
    """What one tunnel may hold (``spec/rpc.md``, Parameters)."""

    head_bytes_max: int = 80 * KIB
    trailer_bytes_max: int = 16 * KIB
    data_bytes_max: int = 128 * KIB
    window_bytes: int = 256 * KIB  # per stream and direction, when a stream opens
    window_bytes_max: int = 4 * MIB  # ... and where its path is long
    growth_bytes_max: int = 16 * MIB  # by how much all windows of one side may have grown
    probe_s: float = 0.05  # between two measurements of the round trip on which windows grow
    ahead_bytes: int = 16 * KIB  # that a stream with nothing waiting sends ahead of those that take turns
    streams_max: int = 1024  # open at one time, opened by one side
    reason_bytes_max: int = 256
    control_bytes_max: int = 64 * KIB  # answers queued towards a peer that does not read
    base_body_bytes_max: int = 4 * MIB  # base protocol: one body, buffered
    base_streams_max: int = 64
    heartbeat_s: float = 5.0
    silence_s: float = 15.0  # a peer silent for so long is given up


@dataclass(frozen=True, slots=True, kw_only=True)
class WebSocketLimits:
    """What one WebSocket connection may send (``spec/tunnel.md``, Limits)."""

    message_bytes_max: int = 224 * KIB  # 12-byte header + head + data with room to spare
    fragments_max: int = 64
    close_s: float = 5.0  # from our close frame to the peer's


def websocket_limits(limits: WebSocketLimits, rpc: RpcLimits, http: HttpLimits, *, streaming: bool) -> WebSocketLimits:
    """The limits for one tunnel: a message of the base protocol holds a whole body."""
    if streaming:
        return limits
    return replace(limits, message_bytes_max=rpc.base_body_bytes_max + 2 * http.head_bytes_max)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkTimers:
    """How the agent keeps its tunnel (``spec/tunnel.md``, Parameters)."""

    dial_s: float = 10.0  # name, TCP, TLS and WebSocket handshake together
    backoff_first_s: float = 0.1
    backoff_factor: float = 2.0
    backoff_max_s: float = 15.0
    stable_s: float = 1.0  # a tunnel that lived so long resets the backoff
    retry_after_max_s: float = 60.0  # the longest Retry-After that is obeyed
    grace_period_s: float = 30.0  # for requests in flight when the agent stops
    linger_s: float = 0.5  # from our goaway to the earliest close, for requests that cross it
    abort_s: float = 8.0  # from our close to the end of our patience
    draining_max: int = 4  # old tunnels that finish what they have while a new one serves
    choosy_max: int = 8  # dials in a row that may end at a node which the link would rather not have
    choosy_s: float = 0.25  # the longest wait from one of these to the next


@dataclass(frozen=True, slots=True, kw_only=True)
class GossipLimits:
    """What a node may say and has to remember of a cluster (``spec/gossip.md``, Parameters)."""

    packet_bytes_max: int = 1_200  # one UDP payload: fits the smallest MTU of IPv6
    state_bytes_max: int = 16 * MIB  # the entries of one node as they are written in a snapshot; the same on every node
    nodes_max: int = 10_000  # in the table, this node not counted
    tombstones_max: int = 1_024  # kept by the owner, or as many as it has live entries
    answer_packets_max: int = 16  # to one packet
    lives_max: int = 8  # taken by one process after its first
    dead_state_s: float = 60.0  # entries of a dead node, so that a short partition ends with a delta
    dead_record_s: float = 600.0  # in the table and in digests
    memory_s: float = 86_400.0  # after that
    memory_nodes_max: int = 4_096


@dataclass(frozen=True, slots=True, kw_only=True)
class GossipTimers:
    """When a node speaks to the others, and how long it waits for them (``spec/gossip.md``, Parameters)."""

    probe_s: float = 0.5  # from one probe to the next, each of another node; stretched by bad health
    probe_timeout_s: float = 0.2  # for the answer to a direct probe, after which others are asked to help
    probe_helpers: int = 3
    probe_rate: float = 200.0  # of probes out of turn, a second: of hearsay and of who is suspected
    suspicion_factor: float = 4.0  # times probe_s times the decimal logarithm of the number of nodes, at least one
    suspicion_stretch: float = 6.0  # the longest suspicion, in terms of the shortest
    suspicion_confirmations: int = 2  # further witnesses with which it is the shortest
    health_max: int = 7  # steps by which a node in trouble slows its own judgement
    pause_s: float = 1.0  # a node that did not run for so long blames nobody for it
    round_s: float = 0.2  # from one comparison with another node to the next, while something has changed of late
    quiet_round_s: float = 1.0  # ... and while nothing has
    busy_s: float = 5.0  # for so long after a change, or after a comparison that found a difference
    exchange_s: float = 30.0  # from one whole exchange over a stream to the next
    exchange_timeout_s: float = 10.0
    exchange_pause_s: float = 1.0  # between two exchanges with one node that has not been reached otherwise
    push_delay_s: float = 0.005  # from a change to its telling, for what else changes
    push_repeats_s: tuple[float, ...] = (0.04, 0.08, 0.2)  # to who has not answered; after the last it is given up
    push_all_max: int = 32  # other nodes up to which each is told directly
    push_fanout: int = 8  # delegates, when there are more
    push_window: int = 8  # packets to one node that it has not answered
    packets_rate: float = 2_000.0  # of pushes, a second
    reconnect_s: float = 1.0  # from one attempt to reach one of the absent to the next
    seed_first_s: float = 0.1  # from the end of the first attempt with a seed to the second, then twice as long
    seed_max_s: float = 5.0
    resolve_s: float = 30.0  # from one look at the names of the seeds to the next
    linger_s: float = 1.0  # after leaving, for who has not heard of it


@dataclass(frozen=True, slots=True, kw_only=True)
class SealLimits:
    """What a node remembers of the sealed packets that it has opened (``spec/seal.md``, Parameters)."""

    window_counters: int = 1_024  # of one process: what comes later than that many others is too late
    senders_max: int = 16_384  # processes


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelLimits:
    """What one connection between two nodes may take (``spec/channel.md``, Parameters)."""

    handshake_s: float = 5.0  # from its beginning to the peer's confirmation
    hello_bytes_max: int = 1 * KIB
    exchange_frame_bytes_max: int = 17 * MIB  # a snapshot of state_bytes_max, and names
    link_frame_bytes_max: int = 256 * KIB  # an RPC message
    close_s: float = 5.0  # from our last frame to the peer's


def _peer_rpc_limits() -> RpcLimits:
    return RpcLimits(heartbeat_s=1.0, silence_s=2.5, streams_max=16_384)


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerLimits:
    """What a node keeps up with the others beside the gossip itself."""

    connections_max: int = 4_096  # accepted at the gossip port
    exchanges_max: int = 8  # under way at one time, begun by this node; others wait for their turn
    exchanges_served_max: int = 64  # ... and begun by others
    exchange_bytes_max: int = 512 * MIB  # of bodies that have not been taken in, in all exchanges together
    inbox_max: int = 2_000  # packets that were received and not looked at; what comes then is dropped
    dial_s: float = 1.0  # name, TCP and handshake of a link; what a dead peer costs a request at most
    redial_first_s: float = 0.1  # from one failed dial to the next, then twice as long each time
    redial_max_s: float = 2.0
    link_stable_s: float = 1.0  # a link that lived so long is dialled again at once when it is lost
    rpc_limits: RpcLimits = field(default_factory=_peer_rpc_limits)
    channel_limits: ChannelLimits = field(default_factory=ChannelLimits)

    @property
    def accepted_rpc_limits(self) -> RpcLimits:
        """The same on the side that accepted a link: it asks later, so that of two who hear nothing one asks."""
        limits = self.rpc_limits
        return replace(limits, heartbeat_s=limits.heartbeat_s + (limits.silence_s - limits.heartbeat_s) / 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class RebalanceLimits:
    """How upstreams are spread over the nodes (``spec/rebalancing.md``, Parameters)."""

    slack: float = 0.1  # how far from the mean is even enough
    rate: float = 10.0  # upstreams asked to move, a second
    interval_s: float = 1.0
    interval_max_s: float = 64.0  # while asking brings nothing
    settle_s: float = 5.0  # of unevenness before anybody is asked
    move_s: float = 10.0  # for an agent to move


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """Certificate chain and key of one door, PEM."""

    certificate: str
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """One ``pico-node`` process."""

    proxy_host: str = ""  # empty: every address
    proxy_port: int = 8000
    admin_host: str = "127.0.0.1"
    admin_port: int = 8001
    upstream_host: str = ""
    upstream_port: int = 8002
    gossip_host: str = ""
    gossip_port: int = 8003
    node_id: str = ""  # empty: from the name of the host and chance
    cluster_name: str = "pico"
    join: tuple[tuple[str, int], ...] = ()  # gossip ports of other nodes, names or addresses
    cluster_key_file: str = ""  # empty: what nodes say to each other is not encrypted
    cluster_key: str = field(default="", repr=False)  # what would stand in that file
    advertise_gossip: str = ""  # host, or host:port, under which other nodes reach this one; empty: found out
    advertise_proxy: str = ""
    advertise_upstream: str = ""
    advertise_admin: str = ""
    proxy_tls: TlsFiles | None = None
    admin_tls: TlsFiles | None = None
    upstream_tls: TlsFiles | None = None
    trusted_proxies: tuple[str, ...] = ()  # networks, CIDR
    proxy_protocol: str = "off"  # doors at which they say who is calling: "off", "proxy", "upstream" or "both"
    balance: str = "least-in-flight"  # or "round-robin"
    access_log: str = "json"  # "json", "keyvalue", "combined" or "off"
    tracing: str = "off"  # "off" or "otlp"
    metrics_endpoints_max: int = 0  # endpoints with series of their own; 0: no metric has an endpoint for a label
    log_format: str = "keyvalue"  # or "json"
    log_level: str = "info"  # "debug", "info", "warning" or "error"
    client_connections_max: int = 10_000
    upstreams_max: int = 10_000
    upstreams_per_endpoint_max: int = 256
    upstreams_per_address_max: int = 4_096
    unfinished_bytes_max: int = 256 * MIB  # of messages on their way, in all tunnels (TUN-42)
    base_waiting_bytes_max: int = 256 * MIB  # of bodies of the base protocol, in all tunnels (RPC-64)
    requests_per_endpoint_max: int = 10_000
    handshake_s: float = 10.0  # upstream door: first byte to accepted upgrade
    attempts_max: int = 3  # upstreams tried for one request
    abort_on_close: str = "off"  # or "on": a client that half-closes has gone
    endpoint_wait_s: float = 2.0  # for the return of an endpoint whose last upstream has just left
    drain_delay_s: float = 1.0  # from the failing readiness to the closing of the proxy door
    grace_period_s: float = 30.0  # for requests in flight when the node stops
    http_limits: HttpLimits = field(default_factory=HttpLimits)
    http_timers: HttpTimers = field(default_factory=HttpTimers)
    rpc_limits: RpcLimits = field(default_factory=RpcLimits)
    websocket_limits: WebSocketLimits = field(default_factory=WebSocketLimits)
    gossip_limits: GossipLimits = field(default_factory=GossipLimits)
    gossip_timers: GossipTimers = field(default_factory=GossipTimers)
    peer_limits: PeerLimits = field(default_factory=PeerLimits)
    rebalance: str = "on"  # or "off"
    rebalance_limits: RebalanceLimits = field(default_factory=RebalanceLimits)


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointTarget:
    """One endpoint of an agent and the local service behind it."""

    endpoint_id: str
    host: str
    port: int
    tls: bool = False


def _agent_rpc_limits() -> RpcLimits:
    # An agent has few tunnels, and until it finds a node silent its endpoints cannot be reached: it asks more often.
    return RpcLimits(heartbeat_s=2.0, silence_s=6.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentConfig:
    """One ``pico-agent`` process."""

    servers: tuple[str, ...]  # http:// or https:// URLs of upstream doors
    endpoints: tuple[EndpointTarget, ...]
    host_header: str = ""  # empty: pass the client's Host unchanged
    ca_file: str = ""  # empty: the system's authorities
    service_ca_file: str = ""
    admin_host: str = "127.0.0.1"
    admin_port: int = 0  # 0: no admin door
    connect_s: float = 5.0  # to the local service
    response_head_s: float = 60.0
    response_idle_s: float = 300.0
    connections: int = 1  # tunnels of each endpoint, each to another node if there are so many
    idle_connections_max: int = 64  # kept alive to one local service; 0: each request has its own
    idle_connection_s: float = 1.5  # gunicorn closes after 2, uvicorn after 5, and neither says so
    access_log: str = "off"
    tracing: str = "off"
    log_format: str = "keyvalue"
    log_level: str = "info"
    http_limits: HttpLimits = field(default_factory=HttpLimits)
    rpc_limits: RpcLimits = field(default_factory=_agent_rpc_limits)
    websocket_limits: WebSocketLimits = field(default_factory=WebSocketLimits)
    link_timers: LinkTimers = field(default_factory=LinkTimers)
