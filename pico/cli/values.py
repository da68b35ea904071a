"""Readers: from the text of one option to a typed value.

Responsible for: what a port, an address, a URL, a duration or a size looks like when a person types it. Refuses to
know: which option it is for. Every reader takes the name of the option and its text, and raises ``ConfigError`` with
the option, the text and what was expected.
"""

from __future__ import annotations

import ipaddress
import math
import re
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple, TypeVar
from urllib.parse import SplitResult, urlsplit

from pico.config import NodeConfig
from pico.errors import ConfigError
from pico.protocol.gossip.values import NAME_BYTES_MAX, valid_name

__all__ = [
    "HostPort",
    "Reader",
    "address",
    "admin_url",
    "advertised",
    "bind_host",
    "count",
    "duration",
    "duration_text",
    "field_value",
    "host_port",
    "host_port_of_url",
    "name",
    "network",
    "number",
    "one_of",
    "port",
    "readable_file",
    "server_url",
    "size",
    "size_text",
    "without_credentials",
]

T_co = TypeVar("T_co", covariant=True)
Reader = Callable[[str, str], T_co]

_NUMBER = re.compile(r"[0-9]{1,12}")
_CREDENTIALS = re.compile(r"^([a-z][a-z0-9+.-]*://)?.*@", re.IGNORECASE | re.DOTALL)
_QUANTITY = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)([A-Za-z]*)")
_HOST_NAME = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_](?:[A-Za-z0-9_-]*)(?:\.[A-Za-z0-9_-]+)*\.?")
_VISIBLE = re.compile(r"[!-~]{1,255}")

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_BYTES = {"": 1, "B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}
_DURATION_MAX_S = 30 * 24 * 3600.0
_DEFAULT_PORTS = {"http": 80, "https": 443}
GOSSIP_PORT = NodeConfig().gossip_port


FILE_BYTES_MAX: Final = 16 * 1024**2
"""Of a file that a setting names: certificates, authorities, keys."""


class HostPort(NamedTuple):
    """Where to connect to. An IPv6 address stands without its brackets."""

    host: str
    port: int


def port(field: str, text: str, *, lowest: int = 0) -> int:
    """0 asks the system for a free port, where that makes sense."""
    if not _NUMBER.fullmatch(text) or not lowest <= int(text) <= 65535:
        raise ConfigError(field, text, f"a port, {lowest} to 65535")
    return int(text)


def count(field: str, text: str, *, lowest: int = 1, highest: int | None = None) -> int:
    if not _NUMBER.fullmatch(text) or int(text) < lowest or (highest is not None and int(text) > highest):
        bounds = f"{lowest} or more" if highest is None else f"{lowest} to {highest}"
        raise ConfigError(field, text, f"a whole number, {bounds}")
    return int(text)


def number(field: str, text: str, *, lowest: float = 0.0) -> float:
    match = _QUANTITY.fullmatch(text)
    if not match or match[2] or float(match[1]) <= 0 or float(match[1]) < lowest:
        raise ConfigError(field, text, f"a number, {lowest:g} or more" if lowest else "a number greater than 0")
    return float(match[1])


def bind_host(field: str, text: str) -> str:
    """An address or a name to listen on; nothing stands for every address."""
    return _host(field, text) if text else ""


def host_port(field: str, text: str) -> HostPort:
    """``host:port``, ``[IPv6]:port``."""
    host, colon, number = text.rpartition(":")
    if not colon or (":" in host and not host.startswith("[")):
        raise ConfigError(field, text, "host:port; an IPv6 address in brackets")
    return HostPort(_host(field, host), port(field, number, lowest=1))


def address(field: str, text: str) -> HostPort:
    """A host with or without a port; the default port is that of gossip."""
    return _host_or_host_port(field, text, GOSSIP_PORT)


def advertised(field: str, text: str) -> str:
    """A host, or host:port, that others can reach; kept as it is."""
    host, _ = _host_or_host_port(field, text, GOSSIP_PORT)
    with suppress(ValueError):  # of a name
        if ipaddress.ip_address(host).is_unspecified:
            raise ConfigError(field, text, "an address of one machine")
    return text


def name(field: str, text: str) -> str:
    """What a node or a cluster may be called."""
    if not valid_name(text):
        raise ConfigError(field, text, f"1 to {NAME_BYTES_MAX} of A-Z a-z 0-9 . _ -")
    return text


def server_url(field: str, text: str) -> str:
    """An ``http`` or ``https`` URL that names a server and nothing on it, without a slash at its end."""
    expected = "a URL such as http://node.example:8002"
    parts = _split_url(field, text, expected)
    if parts.path not in ("", "/"):
        raise ConfigError(field, text, f"{expected}, without a path")
    return f"{parts.scheme}://{parts.netloc}"


def admin_url(field: str, text: str) -> str:
    """Where an admin door is: a URL, by default of ``http``, perhaps with a path, without a slash at its end."""
    url = text if "://" in text else f"http://{text}"
    try:
        _split_url(field, url, "a URL such as http://node.example:8001")
    except ConfigError as error:
        raise ConfigError(field, without_credentials(text), error.expected) from error
    return url.rstrip("/")


def host_port_of_url(field: str, text: str) -> tuple[HostPort, bool]:
    """Where an ``http`` or ``https`` URL leads, and whether by TLS. The port of the scheme is the default."""
    expected = "a URL such as http://localhost:3000, without a path"
    parts = _split_url(field, text, expected)
    if parts.path not in ("", "/"):
        raise ConfigError(field, text, expected)
    number = parts.port if parts.port is not None else _DEFAULT_PORTS[parts.scheme]
    return HostPort(str(parts.hostname), number), parts.scheme == "https"


def duration(field: str, text: str, *, zero: bool = False) -> float:
    """Seconds, from ``500ms``, ``10s``, ``1.5m`` or ``1h``; with ``zero`` also ``0``."""
    match = _QUANTITY.fullmatch(text)
    if zero and match and not float(match[1]):
        return 0.0
    if not match or match[2] not in _SECONDS or not 0 < float(match[1]) * _SECONDS[match[2]] <= _DURATION_MAX_S:
        raise ConfigError(field, text, f"a duration such as 500ms, 10s or 5m{', or 0' if zero else ''}")
    return float(match[1]) * _SECONDS[match[2]]


def duration_text(seconds: float) -> str:
    """As ``duration`` reads it, in the largest unit of which it is a whole number."""
    for unit in ("h", "m", "s"):
        if seconds and seconds % _SECONDS[unit] == 0:
            return f"{int(seconds // _SECONDS[unit])}{unit}"
    return f"{seconds * 1000:.6f}".rstrip("0").rstrip(".") + "ms" if seconds else "0"


def size(field: str, text: str, *, lowest: int = 1, highest: int = 1024**5) -> int:
    """Bytes, from ``512``, ``64KiB``, ``1.5MiB`` or ``1GiB``."""
    match = _QUANTITY.fullmatch(text)
    found = float(match[1]) * _BYTES.get(match[2], math.nan) if match else math.nan
    if lowest <= found <= highest and found.is_integer():
        return int(found)
    bounds = f", {size_text(lowest)} to {size_text(highest)}" if highest < 1024**5 else ""
    raise ConfigError(field, text, f"a size such as 512, 64KiB or 10MiB{bounds}")


def one_of(*choices: str) -> Reader[str]:
    def read(field: str, text: str) -> str:
        if text not in choices:
            raise ConfigError(field, text, f"one of {', '.join(choices)}")
        return text

    return read


def network(field: str, text: str) -> str:
    """A network or an address: ``10.0.0.0/8``, ``::1``."""
    try:
        return str(ipaddress.ip_network(text))
    except ValueError as error:
        raise ConfigError(field, text, "a network such as 10.0.0.0/8 or an address") from error


def readable_file(field: str, text: str) -> str:
    """No pipe and no device: a pipe can be read once, and a reload would wait for ever or find nothing."""
    try:
        found = Path(text).stat()  # first, because to open a pipe is to wait for a writer
        is_for_once = not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode))
        if not is_for_once:
            Path(text).open("rb").close()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "no usable name"
        raise ConfigError(field, text, f"a file that can be read ({reason})") from error
    if is_for_once:
        raise ConfigError(field, text, "a regular file, because a reload reads it again")
    if found.st_size > FILE_BYTES_MAX:
        raise ConfigError(field, text, f"a file of at most {size_text(FILE_BYTES_MAX)}")
    return text


def field_value(field: str, text: str) -> str:
    """What may stand in a Host field."""
    if not _VISIBLE.fullmatch(text):
        raise ConfigError(field, text, "a host name, with its port if need be")
    return text


def _host_or_host_port(field: str, text: str, default_port: int) -> HostPort:
    if ":" not in text or text.endswith("]"):
        return HostPort(_host(field, text), default_port)
    return host_port(field, text)


def _host(field: str, text: str) -> str:
    """A name or an address; brackets around an IPv6 address are taken away."""
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        ipaddress.ip_address(bare)
    except ValueError:
        if bare != text or not _HOST_NAME.fullmatch(text):
            raise ConfigError(field, text, "a host name or an address") from None
    return bare


def _split_url(field: str, text: str, expected: str) -> SplitResult:
    shown = without_credentials(text)
    try:
        parts = urlsplit(text)
        number = parts.port
    except ValueError as error:
        raise ConfigError(field, shown, expected) from error
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname or number == 0 or parts.netloc.endswith(":"):
        raise ConfigError(field, shown, expected)
    if "@" in parts.netloc or parts.query or parts.fragment or text.endswith(("?", "#")):
        raise ConfigError(field, shown, f"{expected}, and nothing else in it")
    _host(field, parts.hostname)
    return parts


def without_credentials(url: str) -> str:
    """As it may be shown: a message goes to a terminal or to a log, and a password to neither."""
    return _CREDENTIALS.sub(r"\1...@", url)


def size_text(number: int) -> str:
    """As ``size`` reads it, in the largest unit of which it is a whole number."""
    for unit in ("GiB", "MiB", "KiB"):
        if number and number % _BYTES[unit] == 0:
            return f"{number // _BYTES[unit]}{unit}"
    return str(number)
