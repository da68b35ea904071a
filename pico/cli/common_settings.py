"""The settings that a node and an agent have alike: the same key, field, kind and text.

Responsible for: their rows. Refuses to know: in which section of which program they stand.
"""

from __future__ import annotations

from typing import Final

from pico.cli.kinds import COUNT, DURATION, choice, size
from pico.cli.settings import Change, Setting

RELOAD: Final = Change.RELOAD

ACCESS_LOG: Final = Setting(
    "access_log",
    "access_log",
    choice("json", "keyvalue", "combined", "off"),
    "json, keyvalue, combined or off",
    RELOAD,
)
LOG_FORMAT: Final = Setting("log_format", "log_format", choice("keyvalue", "json"), "keyvalue or json", RELOAD)
LOG_LEVEL: Final = Setting(
    "log_level", "log_level", choice("debug", "info", "warning", "error"), "debug, info, warning or error", RELOAD
)
TRACING: Final = Setting(
    "tracing",
    "tracing",
    choice("off", "otlp"),
    "off or otlp: spans of OpenTelemetry to where OTEL_EXPORTER_OTLP_ENDPOINT says",
)

HEARTBEAT: Final = Setting(
    "heartbeat",
    "rpc_limits.heartbeat_s",
    DURATION,
    "quiet time after which a tunnel is asked for a sign of life",
    RELOAD,
)
SILENCE: Final = Setting(
    "silence", "rpc_limits.silence_s", DURATION, "quiet time after which a tunnel is given up", RELOAD
)
TUNNEL_STREAMS_MAX: Final = Setting(
    "tunnel_streams_max", "rpc_limits.streams_max", COUNT, "requests in one tunnel at one time", RELOAD
)
TUNNEL_FRAGMENTS_MAX: Final = Setting(
    "tunnel_fragments_max", "websocket_limits.fragments_max", COUNT, "frames of one WebSocket message", RELOAD
)

FIELD_LINE_BYTES_MAX: Final = Setting(
    "field_line_bytes_max",
    "http_limits.field_line_bytes_max",
    size(lowest=256, highest=64 * 1024),
    "one field with its name",
    RELOAD,
)
CHUNK_LINE_BYTES_MAX: Final = Setting(
    "chunk_line_bytes_max",
    "http_limits.chunk_line_bytes_max",
    size(lowest=32, highest=64 * 1024),
    "size and extension of one chunk",
    RELOAD,
)
TRAILER_BYTES_MAX: Final = Setting(
    "trailer_bytes_max",
    "http_limits.trailer_bytes_max",
    size(lowest=0, highest=16 * 1024),
    "fields after a body",
    RELOAD,
)
