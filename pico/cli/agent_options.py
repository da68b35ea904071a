"""The options of an agent, and the configuration that they make.

Responsible for: the usage text of ``pico-agent`` and which option sets which field. Refuses to know: what an agent
does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

from pico.cli.command_line import parse
from pico.cli.flags import Flag, configured, require_longer_silence
from pico.cli.values import (
    bind_host,
    count,
    duration,
    field_value,
    host_port,
    host_port_of_url,
    one_of,
    port,
    readable_file,
    server_url,
)
from pico.config import AgentConfig, EndpointTarget
from pico.errors import ConfigError, RemoteProtocolError
from pico.protocol.http.endpoint import endpoint_id

__all__ = ["FLAGS", "PROGRAM", "USAGE", "config_of", "target"]

PROGRAM = "pico-agent"

USAGE = """\
pico-agent: makes a service reachable under an endpoint ID, through a tunnel that it opens to a node.

Usage:
  pico-agent (--server=URL)... (--endpoint=TARGET)... [options]

  -h, --help                     print this text
  --version                      print the version

Where from and where to:
  --server=URL                   upstream door of a node, http://HOST:PORT or https://HOST:PORT; given several times,
                                 the next is tried when one fails
  --endpoint=TARGET              an endpoint ID and the service behind it: web=3000, web=localhost:3000,
                                 web=http://10.0.0.7:3000 or web=https://intranet.example; several times, if need be
  --host-header=HOST             what the service reads as Host; default: what the client sent
  --ca-file=FILE                 authorities for https servers, in PEM; default: those of the system
  --service-ca-file=FILE         authorities for https services, in PEM; default: those of the system

Behaviour. A duration is 500ms, 10s, 5m or 1h:
  --access-log=FORMAT            json, keyvalue or off; default: off
  --log-format=FORMAT            keyvalue or json; default: keyvalue
  --log-level=LEVEL              debug, info, warning or error; default: info
  --admin-port=PORT              for /livez, /readyz and /metrics; default: none
  --admin-host=HOST              default: 127.0.0.1
  --grace-period=DURATION        for requests in flight when the agent stops; default: 30s
  --connect-timeout=DURATION         to the service; default: 5s
  --response-head-timeout=DURATION   from the whole request to the head of its response; default: 1m
  --response-idle-timeout=DURATION   no byte of a response body; default: 5m
  --idle-connections-max=COUNT       kept open to one service; default: 64
  --idle-connection-timeout=DURATION how long; default: 30s
  --dial-timeout=DURATION            to a server, with TLS and the handshake; default: 10s
  --backoff-max=DURATION             the longest wait before another try; default: 15s
  --heartbeat=DURATION               quiet time after which a tunnel is asked for a sign of life; default: 2s
  --silence=DURATION                 quiet time after which a tunnel is given up; default: 6s
"""

_or_zero = partial(duration, zero=True)

FLAGS = (
    Flag("--host-header", "host_header", field_value),
    Flag("--ca-file", "ca_file", readable_file),
    Flag("--service-ca-file", "service_ca_file", readable_file),
    Flag("--access-log", "access_log", one_of("json", "keyvalue", "off")),
    Flag("--log-format", "log_format", one_of("keyvalue", "json")),
    Flag("--log-level", "log_level", one_of("debug", "info", "warning", "error")),
    Flag("--admin-port", "admin_port", port),
    Flag("--admin-host", "admin_host", bind_host),
    Flag("--grace-period", "link_timers.grace_period_s", _or_zero),
    Flag("--connect-timeout", "connect_s", duration),
    Flag("--response-head-timeout", "response_head_s", duration),
    Flag("--response-idle-timeout", "response_idle_s", duration),
    Flag("--idle-connections-max", "idle_connections_max", count),
    Flag("--idle-connection-timeout", "idle_connection_s", duration),
    Flag("--dial-timeout", "link_timers.dial_s", duration),
    Flag("--backoff-max", "link_timers.backoff_max_s", duration),
    Flag("--heartbeat", "rpc_limits.heartbeat_s", duration),
    Flag("--silence", "rpc_limits.silence_s", duration),
)


def config_of(words: Sequence[str]) -> AgentConfig:
    """The configuration that a command line asks for. Raises ``UsageError`` and ``ConfigError``."""
    arguments = parse(USAGE, words, program=PROGRAM)
    servers, endpoints = arguments["--server"], arguments["--endpoint"]
    assert isinstance(servers, list) and isinstance(endpoints, list)  # both repeat in the usage text
    required = AgentConfig(
        servers=tuple(server_url("--server", text) for text in servers), endpoints=_distinct(map(target, endpoints))
    )
    config = configured(required, FLAGS, arguments)
    require_longer_silence(config.rpc_limits)
    return config


def target(text: str) -> EndpointTarget:
    """What one ``--endpoint`` says: an ID, and where its service is. Raises ``ConfigError``."""
    option = "--endpoint"
    name, equals, where = text.partition("=")
    if not equals or not where:
        raise ConfigError(option, text, "an endpoint ID and a service, such as web=localhost:3000")
    try:
        checked = endpoint_id(name)
    except RemoteProtocolError as error:
        raise ConfigError(option, text, f"an endpoint ID before the equals sign ({error})") from error
    tls = False
    if "://" in where:
        (host, number), tls = host_port_of_url(option, where)
    elif ":" in where:
        host, number = host_port(option, where)
    else:
        host, number = "localhost", port(option, where, lowest=1)
    return EndpointTarget(endpoint_id=checked, host=host, port=number, tls=tls)


def _distinct(targets: Iterable[EndpointTarget]) -> tuple[EndpointTarget, ...]:
    distinct: dict[str, EndpointTarget] = {}
    for one in targets:
        if distinct.setdefault(one.endpoint_id, one) is not one:
            raise ConfigError(
                "--endpoint", one.endpoint_id, "each endpoint ID once; a second agent may register it too"
            )
    return tuple(distinct.values())
