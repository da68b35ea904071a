"""The kinds of value that a setting can have: how each is read, written, described and drawn in a schema.

Responsible for: tying a reader of ``pico.cli.values`` to the word that stands for it in a usage text, to the way back
into text, and to what JSON Schema can say of it. Refuses to know: which setting has which kind.

In a file the text of a scalar is what counts, as it was written, and not what YAML takes it for: ``off`` is a word here
and never a false. So the schema takes for text whatever YAML may make of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, NamedTuple

from pico.cli import values
from pico.cli.values import HostPort, Reader, duration_text, size_text
from pico.config import EndpointTarget, address_text
from pico.errors import ConfigError, RemoteProtocolError
from pico.protocol.http.endpoint import endpoint_id

__all__ = [
    "ADDRESSES",
    "ADVERTISED",
    "COUNT",
    "COUNT_OR_ZERO",
    "DURATION",
    "DURATION_OR_ZERO",
    "ENDPOINTS",
    "EXPANDED",
    "FACTOR",
    "FIELD_VALUE",
    "FILE",
    "HOST",
    "NAME",
    "NETWORKS",
    "NUMBER",
    "PORT",
    "SERVERS",
    "TEXT",
    "Kind",
    "choice",
    "count",
    "size",
    "target",
]

EXPANDED: Final = r"\$\{"
"""What a schema cannot judge: text with a variable in it."""

Schema = Mapping[str, Any]


class Kind(NamedTuple):
    """``read`` and ``schema`` of a kind with ``many`` are of one item."""

    metavar: str
    read: Reader[Any]
    schema: Schema
    sample: str
    """A value as one may write it; of a kind with ``many``, one item."""
    write: Callable[[Any], str] = str
    many: bool = False
    is_file: bool = False


def _pattern(pattern: str, **more: Any) -> Schema:
    return {"type": "string", "pattern": f"{pattern}|{EXPANDED}", **more}


def _whole(lowest: int, highest: int | None = None) -> Schema:
    bounds = {"minimum": lowest} if highest is None else {"minimum": lowest, "maximum": highest}
    return {"type": ["integer", "string"], **bounds, "pattern": f"^[0-9]+$|{EXPANDED}"}


_ANY_TEXT: Final[Schema] = {"type": ["string", "number", "boolean"]}
_DURATION_PATTERN: Final = r"^[0-9]+(\.[0-9]+)?(ms|s|m|h)$"


def choice(*words: str) -> Kind:
    """One of a few words."""
    expanded = {"type": "string", "pattern": EXPANDED}
    return Kind("WORD", values.one_of(*words), {"anyOf": [{"enum": list(words)}, expanded]}, words[-1])


def size(*, lowest: int = 1, highest: int = 1024**5) -> Kind:
    """Bytes within bounds."""
    bounds = {"minimum": lowest, **({"maximum": highest} if highest < 1024**5 else {})}
    schema = {"type": ["integer", "string"], **bounds, "pattern": rf"^[0-9]+(\.[0-9]+)?(B|KiB|MiB|GiB)?$|{EXPANDED}"}
    sample = size_text(min(max(lowest, 32 * 1024), highest))
    return Kind("SIZE", partial(values.size, lowest=lowest, highest=highest), schema, sample, size_text)


def count(highest: int) -> Kind:
    """A whole number within bounds."""
    return Kind("COUNT", partial(values.count, highest=highest), _whole(1, highest), "77")


PORT: Final = Kind("PORT", values.port, _whole(0, 65535), "8443")
COUNT: Final = Kind("COUNT", values.count, _whole(1), "77")
COUNT_OR_ZERO: Final = Kind("COUNT", partial(values.count, lowest=0), _whole(0), "77")
NUMBER: Final = Kind(
    "NUMBER",
    values.number,
    {"type": ["number", "string"], "exclusiveMinimum": 0, "pattern": rf"^[0-9]+(\.[0-9]+)?$|{EXPANDED}"},
    "2.5",
    "{:g}".format,
)
FACTOR: Final = Kind(
    "NUMBER",
    partial(values.number, lowest=1.0),
    {"type": ["number", "string"], "minimum": 1, "pattern": rf"^[0-9]+(\.[0-9]+)?$|{EXPANDED}"},
    "2.5",
    "{:g}".format,
)
DURATION: Final = Kind("DURATION", values.duration, _pattern(_DURATION_PATTERN), "7s", duration_text)
DURATION_OR_ZERO: Final = Kind(
    "DURATION",
    partial(values.duration, zero=True),
    {"anyOf": [{"const": 0}, _pattern(f"{_DURATION_PATTERN}|^0$")]},
    "7s",
    duration_text,
)
HOST: Final = Kind("HOST", values.bind_host, _ANY_TEXT, "192.0.2.7")
NAME: Final = Kind("NAME", values.name, _ANY_TEXT, "node-1")
TEXT: Final = Kind("TEXT", lambda field, text: text, _ANY_TEXT, "text")
FIELD_VALUE: Final = Kind("HOST", values.field_value, _ANY_TEXT, "service.internal")
ADVERTISED: Final = Kind("ADDRESS", values.advertised, _ANY_TEXT, "node-1.example:8003")
FILE: Final = Kind("FILE", values.readable_file, _ANY_TEXT, "/etc/pico/file.pem", is_file=True)
NETWORKS: Final = Kind("NETWORKS", values.network, _ANY_TEXT, "10.0.0.0/8", many=True)
SERVERS: Final = Kind("URL", values.server_url, _ANY_TEXT, "https://pico.example:8002", many=True)


def _write_address(place: HostPort) -> str:
    return address_text(*place)


def _write_target(one: EndpointTarget) -> str:
    scheme = "https://" if one.tls else ""
    return f"{one.endpoint_id}={scheme}{address_text(one.host, one.port)}"


def target(field: str, text: str) -> EndpointTarget:
    """An endpoint ID, and where its service is."""
    name, equals, where = text.partition("=")
    if not equals or not where:
        raise ConfigError(field, text, "an endpoint ID and a service, such as web=localhost:3000")
    try:
        checked = endpoint_id(name)
    except RemoteProtocolError as error:
        raise ConfigError(field, text, f"an endpoint ID before the equals sign ({error})") from error
    tls = False
    if "://" in where:
        (host, number), tls = values.host_port_of_url(field, where)
    elif ":" in where:
        host, number = values.host_port(field, where)
    else:
        host, number = "localhost", values.port(field, where, lowest=1)
    return EndpointTarget(endpoint_id=checked, host=host, port=number, tls=tls)


ADDRESSES: Final = Kind("ADDRESSES", values.address, _ANY_TEXT, "node-1.example:8003", _write_address, many=True)
ENDPOINTS: Final = Kind(
    "TARGET",
    target,
    {
        "anyOf": [
            {"type": "string"},
            {
                "type": "object",
                "properties": {"endpoint": _ANY_TEXT, "service": _ANY_TEXT},
                "required": ["endpoint", "service"],
                "additionalProperties": False,
            },
        ]
    },
    "web=http://localhost:3000",
    _write_target,
    many=True,
)
