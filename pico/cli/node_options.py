"""The options of a node, and the configuration that they make.

Responsible for: the usage text of ``pico-node`` and which option sets which field. Refuses to know: what a node does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial

from pico.cli.command_line import parse
from pico.cli.flags import Flag, configured, require_longer_silence, tls_files
from pico.cli.values import (
    addresses,
    advertised,
    bind_host,
    count,
    duration,
    name,
    networks,
    one_of,
    port,
    readable_file,
    size,
)
from pico.config import GossipTimers, NodeConfig
from pico.errors import ConfigError

__all__ = ["FLAGS", "PROGRAM", "USAGE", "config_of"]

PROGRAM = "pico-node"

USAGE = """\
pico-node: one node of Pico. Agents connect to its upstream door, clients to its proxy door.

Usage:
  pico-node [options]

  -h, --help                     print this text
  --version                      print the version

Doors. A host is an address or a name to listen on, empty for every address; port 0 takes any free port:
  --proxy-host=HOST              for clients; default: every address
  --proxy-port=PORT              default: 8000
  --admin-host=HOST              for operators and probes; default: 127.0.0.1
  --admin-port=PORT              default: 8001
  --upstream-host=HOST           for agents; default: every address
  --upstream-port=PORT           default: 8002
  --gossip-host=HOST             for other nodes; default: every address
  --gossip-port=PORT             UDP and TCP; default: 8003

The cluster. Any number of nodes that know one of the others behave as one server:
  --join=ADDRESSES               gossip ports of other nodes, host or host:port, between commas; default: none
  --node-id=NAME                 of this node, the same after a restart; default: none, one is made of the
                                 host's name and chance
  --cluster-name=NAME            nodes of another cluster are not listened to; default: pico
  --cluster-key-file=FILE        keys with which nodes encrypt what they say to each other; default: none
  --advertise-gossip=ADDRESS     where other nodes reach this one, host or host:port; default: none, it is found out
  --advertise-proxy=ADDRESS      where clients reach it, for status; default: none, the host of the gossip port
  --advertise-upstream=ADDRESS   where agents reach it; default: none, likewise
  --advertise-admin=ADDRESS      where operators reach it; default: none, likewise

HTTPS, door by door. Files in PEM; the certificate first, then its chain:
  --proxy-tls-cert=FILE          certificate of the proxy door
  --proxy-tls-key=FILE           its key
  --upstream-tls-cert=FILE       certificate of the upstream door: agents then connect with https://
  --upstream-tls-key=FILE        its key
  --admin-tls-cert=FILE          certificate of the admin door
  --admin-tls-key=FILE           its key

Behaviour:
  --trusted-proxies=NETWORKS     whose X-Forwarded-* fields are believed, between commas; default: nobody's
  --proxy-protocol=DOORS         where they say who is calling before all else, by the PROXY protocol: off, proxy,
                                 upstream or both; default: off
  --balance=HOW                  least-in-flight or round-robin; default: least-in-flight
  --access-log=FORMAT            json, keyvalue or off; default: json
  --log-format=FORMAT            keyvalue or json; default: keyvalue
  --log-level=LEVEL              debug, info, warning or error; default: info
  --attempts-max=COUNT           upstreams tried for one request; default: 3
  --endpoint-wait=DURATION       how long a request waits for an endpoint that has just left; 0: not; default: 2s
  --drain-delay=DURATION         from the failing readiness to the closing of the proxy door; default: 1s
  --grace-period=DURATION        for requests in flight when the node stops; default: 30s

Limits. A size is a number of bytes or 64KiB, 10MiB, 1GiB:
  --body-bytes-max=SIZE          one request body; 0: no limit; default: 0
  --head-bytes-max=SIZE          one request head; default: 64KiB
  --fields-max=COUNT             fields of one request; default: 128
  --client-connections-max=COUNT        default: 10000
  --upstreams-max=COUNT                 default: 10000
  --upstreams-per-endpoint-max=COUNT    default: 256
  --upstreams-per-address-max=COUNT     default: 4096
  --requests-per-endpoint-max=COUNT     in flight at one time; default: 10000

Timers. A duration is 500ms, 10s, 5m or 1h:
  --tls-handshake-timeout=DURATION   default: 10s
  --handshake-timeout=DURATION       an agent's, from its first byte to the accepted upgrade; default: 10s
  --request-head-timeout=DURATION    from the first byte of a head to its last; default: 20s
  --keep-alive-timeout=DURATION      between requests; default: 75s
  --body-idle-timeout=DURATION       no byte of a request body; default: 30s
  --response-head-timeout=DURATION   from the whole request to the head of its response; default: 1m
  --response-idle-timeout=DURATION   no byte of a response body; default: 5m
  --write-stall-timeout=DURATION     a client that takes no byte; default: 1m
  --upgrade-idle-timeout=DURATION    no byte in either direction after an upgrade; default: 1h
  --request-total-timeout=DURATION   a whole request; 0: no limit; default: 0
  --heartbeat=DURATION               quiet time after which a tunnel is asked for a sign of life; default: 5s
  --silence=DURATION                 quiet time after which a tunnel is given up; default: 15s
  --link-heartbeat=DURATION          the same for the link to another node; default: 1s
  --link-silence=DURATION            default: 2500ms
  --gossip-probe=DURATION            from one probe of another node to the next; default: 500ms
  --gossip-probe-timeout=DURATION    for its answer, after which others are asked to help; default: 200ms
  --gossip-round=DURATION            from one comparison with another node to the next; default: 200ms
"""

_or_zero = partial(duration, zero=True)

FLAGS = (
    Flag("--proxy-host", "proxy_host", bind_host),
    Flag("--proxy-port", "proxy_port", port),
    Flag("--admin-host", "admin_host", bind_host),
    Flag("--admin-port", "admin_port", port),
    Flag("--upstream-host", "upstream_host", bind_host),
    Flag("--upstream-port", "upstream_port", port),
    Flag("--gossip-host", "gossip_host", bind_host),
    Flag("--gossip-port", "gossip_port", port),
    Flag("--join", "join", addresses),
    Flag("--node-id", "node_id", name),
    Flag("--cluster-name", "cluster_name", name),
    Flag("--cluster-key-file", "cluster_key_file", readable_file),
    Flag("--advertise-gossip", "advertise_gossip", advertised),
    Flag("--advertise-proxy", "advertise_proxy", advertised),
    Flag("--advertise-upstream", "advertise_upstream", advertised),
    Flag("--advertise-admin", "advertise_admin", advertised),
    Flag("--trusted-proxies", "trusted_proxies", networks),
    Flag("--proxy-protocol", "proxy_protocol", one_of("off", "proxy", "upstream", "both")),
    Flag("--balance", "balance", one_of("least-in-flight", "round-robin")),
    Flag("--access-log", "access_log", one_of("json", "keyvalue", "off")),
    Flag("--log-format", "log_format", one_of("keyvalue", "json")),
    Flag("--log-level", "log_level", one_of("debug", "info", "warning", "error")),
    Flag("--attempts-max", "attempts_max", count),
    Flag("--endpoint-wait", "endpoint_wait_s", _or_zero),
    Flag("--drain-delay", "drain_delay_s", _or_zero),
    Flag("--grace-period", "grace_period_s", _or_zero),
    Flag("--body-bytes-max", "http_limits.body_bytes_max", partial(size, lowest=0)),
    # More than this fits into no tunnel: spec/rpc.md, head_bytes_max.
    Flag("--head-bytes-max", "http_limits.head_bytes_max", partial(size, lowest=1024, highest=64 * 1024)),
    Flag("--fields-max", "http_limits.fields_max", count),
    Flag("--client-connections-max", "client_connections_max", count),
    Flag("--upstreams-max", "upstreams_max", count),
    Flag("--upstreams-per-endpoint-max", "upstreams_per_endpoint_max", count),
    Flag("--upstreams-per-address-max", "upstreams_per_address_max", count),
    Flag("--requests-per-endpoint-max", "requests_per_endpoint_max", count),
    Flag("--tls-handshake-timeout", "http_timers.tls_handshake_s", duration),
    Flag("--handshake-timeout", "handshake_s", duration),
    Flag("--request-head-timeout", "http_timers.request_head_s", duration),
    Flag("--keep-alive-timeout", "http_timers.keep_alive_s", duration),
    Flag("--body-idle-timeout", "http_timers.body_idle_s", duration),
    Flag("--response-head-timeout", "http_timers.response_head_s", duration),
    Flag("--response-idle-timeout", "http_timers.response_idle_s", duration),
    Flag("--write-stall-timeout", "http_timers.write_stall_s", duration),
    Flag("--upgrade-idle-timeout", "http_timers.upgrade_idle_s", duration),
    Flag("--request-total-timeout", "http_timers.request_total_s", _or_zero),
    Flag("--heartbeat", "rpc_limits.heartbeat_s", duration),
    Flag("--silence", "rpc_limits.silence_s", duration),
    Flag("--link-heartbeat", "peer_limits.rpc_limits.heartbeat_s", duration),
    Flag("--link-silence", "peer_limits.rpc_limits.silence_s", duration),
    Flag("--gossip-probe", "gossip_timers.probe_s", duration),
    Flag("--gossip-probe-timeout", "gossip_timers.probe_timeout_s", duration),
    Flag("--gossip-round", "gossip_timers.round_s", duration),
)


def config_of(words: Sequence[str]) -> NodeConfig:
    """The configuration that a command line asks for. Raises ``UsageError`` and ``ConfigError``."""
    arguments = parse(USAGE, words, program=PROGRAM)
    config = configured(NodeConfig(), FLAGS, arguments)
    require_longer_silence(config.rpc_limits)
    require_longer_silence(config.peer_limits.rpc_limits, prefix="link-")
    _require_shorter_timeout(config.gossip_timers)
    _require_balancers(config)
    return dataclasses.replace(
        config,
        proxy_tls=tls_files(arguments, "proxy"),
        upstream_tls=tls_files(arguments, "upstream"),
        admin_tls=tls_files(arguments, "admin"),
    )


def _require_balancers(config: NodeConfig) -> None:
    """Who is calling is asked of nobody but trusted proxies. Raises ``ConfigError``."""
    if config.proxy_protocol != "off" and not config.trusted_proxies:
        raise ConfigError("--proxy-protocol", config.proxy_protocol, "off, because --trusted-proxies names nobody")


def _require_shorter_timeout(timers: GossipTimers) -> None:
    """Whoever does not answer in time leaves some of the round for others to try. Raises ``ConfigError``."""
    if timers.probe_timeout_s >= timers.probe_s:
        text = f"{timers.probe_timeout_s:g}s"
        raise ConfigError("--gossip-probe-timeout", text, f"less than --gossip-probe, {timers.probe_s:g}s")
