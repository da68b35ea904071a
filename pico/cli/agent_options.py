"""What can be set of an agent.

Responsible for: the rows of the table, and which values do not go together. Refuses to know: where a value comes from,
and what an agent does with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from pico.cli import common_settings as common
from pico.cli.kinds import (
    COUNT,
    COUNT_OR_ZERO,
    DURATION,
    DURATION_OR_ZERO,
    ENDPOINTS,
    FIELD_VALUE,
    FILE,
    HOST,
    PORT,
    SERVERS,
    count,
    size,
)
from pico.cli.relations import Conflict, require_more
from pico.cli.settings import Change, Program, Section, Setting
from pico.config import AgentConfig
from pico.errors import ConfigError

__all__ = ["AGENT"]

RELOAD = Change.RELOAD

CONNECTIONS_MAX: Final = 1024
"""Each is an actor with timers from the start on, and of one endpoint a node takes 256 by default."""

PLACES: Final = Section(
    "Where from and where to",
    "",
    (
        Setting(
            "servers", "servers", SERVERS,
            "upstream door of a node, http://HOST:PORT or https://HOST:PORT; given several times, the next is tried "
            "when one fails", option="server",
        ),
        Setting(
            "endpoints", "endpoints", ENDPOINTS,
            "an endpoint ID and the service behind it: web=3000, web=localhost:3000, web=http://10.0.0.7:3000 or "
            "web=https://intranet.example; several times, if need be", RELOAD, option="endpoint",
        ),
        Setting(
            "host_header", "host_header", FIELD_VALUE, "what the service reads as Host", RELOAD,
            none="what the client sent",
        ),
        Setting(
            "ca_file", "ca_file", FILE, "authorities for https servers, in PEM", RELOAD, none="those of the system"
        ),
        Setting(
            "service_ca_file", "service_ca_file", FILE, "authorities for https services, in PEM", RELOAD,
            none="those of the system",
        ),
    ),
)  # fmt: skip

BEHAVIOUR: Final = Section(
    "Behaviour",
    "A duration is 500ms, 10s, 5m or 1h",
    (
        common.ACCESS_LOG,
        common.TRACING,
        common.LOG_FORMAT,
        common.LOG_LEVEL,
        Setting("admin_port", "admin_port", PORT, "for /livez, /readyz and /metrics; 0: none"),
        Setting("admin_host", "admin_host", HOST, none="every address"),
        Setting(
            "grace_period", "link_timers.grace_period_s", DURATION_OR_ZERO,
            "for requests in flight when the agent stops", RELOAD,
        ),
        Setting(
            "connections", "connections", count(CONNECTIONS_MAX),
            f"tunnels of each endpoint, at most {CONNECTIONS_MAX}, each to another node where there are so many",
        ),
        Setting("connect_timeout", "connect_s", DURATION, "to the service", RELOAD),
        Setting(
            "response_head_timeout", "response_head_s", DURATION,
            "from the whole request to the head of its response", RELOAD,
        ),
        Setting("response_idle_timeout", "response_idle_s", DURATION, "no byte of a response body", RELOAD),
        Setting(
            "idle_connections_max", "idle_connections_max", COUNT_OR_ZERO,
            "kept open to one service; with 0 each request has its own", RELOAD,
        ),
        Setting("idle_connection_timeout", "idle_connection_s", DURATION, "how long", RELOAD),
        Setting("dial_timeout", "link_timers.dial_s", DURATION, "to a server, with TLS and the handshake", RELOAD),
        Setting("backoff_max", "link_timers.backoff_max_s", DURATION, "the longest wait before another try", RELOAD),
        common.HEARTBEAT,
        common.SILENCE,
    ),
)  # fmt: skip

RARE_LINKS: Final = Section(
    "Tunnels, rarely changed",
    "Tunnels that are open keep what they began with",
    (
        Setting("backoff_first", "link_timers.backoff_first_s", DURATION, "the first wait before another try", RELOAD),
        Setting(
            "stable_after", "link_timers.stable_s", DURATION,
            "a tunnel that lived so long starts the waits anew", RELOAD,
        ),
        Setting(
            "retry_after_max", "link_timers.retry_after_max_s", DURATION_OR_ZERO,
            "the longest Retry-After that is obeyed", RELOAD,
        ),
        Setting(
            "linger_timeout", "link_timers.linger_s", DURATION_OR_ZERO,
            "from the goodbye to the earliest close, for requests that cross it", RELOAD,
        ),
        Setting("draining_max", "link_timers.draining_max", COUNT, "old tunnels that finish what they have", RELOAD),
        Setting(
            "choosy_max", "link_timers.choosy_max", COUNT,
            "tries to come to a node where the endpoint has no tunnel yet, before another one will do", RELOAD,
        ),
        Setting(
            "choosy_wait", "link_timers.choosy_s", DURATION, "the longest wait from one of these to the next", RELOAD
        ),
        common.TUNNEL_STREAMS_MAX,
        Setting(
            "tunnel_control_bytes_max", "rpc_limits.control_bytes_max", size(lowest=1024),
            "answers queued towards a node that does not read", RELOAD,
        ),
        common.TUNNEL_FRAGMENTS_MAX,
        Setting(
            "base_body_bytes_max", "rpc_limits.base_body_bytes_max", size(lowest=0, highest=1024**3),
            "one body, for nodes that speak the base protocol only", RELOAD,
        ),
        Setting(
            "base_streams_max", "rpc_limits.base_streams_max", COUNT, "requests in a tunnel to such a node", RELOAD
        ),
    ),
    rare=True,
)  # fmt: skip

RARE_RESPONSES: Final = Section(
    "Responses, rarely changed",
    "",
    (
        Setting(
            "head_bytes_max", "http_limits.head_bytes_max", size(lowest=1024, highest=64 * 1024), "one response head",
            RELOAD,
        ),
        Setting("fields_max", "http_limits.fields_max", COUNT, "fields of one response", RELOAD),
        common.FIELD_LINE_BYTES_MAX,
        common.CHUNK_LINE_BYTES_MAX,
        common.TRAILER_BYTES_MAX,
        Setting(
            "informational_max", "http_limits.informational_max", COUNT, "1xx responses before the final one", RELOAD
        ),
    ),
    rare=True,
)  # fmt: skip


def _check(config: AgentConfig, named: Callable[[str], str]) -> Iterator[Conflict]:
    limits, timers = config.rpc_limits, config.link_timers
    yield from require_more("silence", limits.silence_s, "heartbeat", limits.heartbeat_s, named)
    yield from require_more(
        "backoff_max", timers.backoff_max_s, "backoff_first", timers.backoff_first_s, named, equal=True
    )
    seen = set()
    for target in config.endpoints:
        if target.endpoint_id in seen:
            expected = "each endpoint ID once; a second agent may register it too"
            yield Conflict(("endpoints",), ConfigError(named("endpoints"), target.endpoint_id, expected))
        seen.add(target.endpoint_id)


AGENT: Final = Program(
    name="pico-agent",
    intro="makes a service reachable under an endpoint ID, through a tunnel that it opens to a node.",
    defaults=AgentConfig(servers=(), endpoints=()),
    sections=(PLACES, BEHAVIOUR, RARE_LINKS, RARE_RESPONSES),
    check=_check,
    required=("servers", "endpoints"),
    example="admin_port: 8004",
)
