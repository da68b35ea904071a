"""Which option sets which field of a configuration.

Responsible for: walking a table of flags over what the command line says. Refuses to know: the fields themselves, and
how a value is read. A field that no option names keeps the default that ``pico.config`` gives it, so that a default
stands in one place.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from pico.cli.values import Reader, readable_file
from pico.config import RpcLimits, TlsFiles
from pico.errors import ConfigError

if TYPE_CHECKING:
    from pico.cli.command_line import Arguments

__all__ = ["Flag", "configured", "require_longer_silence", "tls_files"]

Config = TypeVar("Config")


class Flag(NamedTuple):
    """One option and the field that it sets; a dot leads into a part of the configuration."""

    option: str
    field: str
    read: Reader[object] | partial[object]


def configured(defaults: Config, flags: Sequence[Flag], arguments: Arguments) -> Config:
    """``defaults`` with the fields that the command line names. Raises ``ConfigError``."""
    for flag in flags:
        text = arguments[flag.option]
        if text is not None:
            defaults = _with(defaults, flag.field.split("."), flag.read(flag.option, str(text)))
    return defaults


def tls_files(arguments: Arguments, door: str) -> TlsFiles | None:
    """The certificate and the key of one door: both or neither. Raises ``ConfigError``."""
    certificate_option, key_option = f"--{door}-tls-cert", f"--{door}-tls-key"
    certificate, key = arguments[certificate_option], arguments[key_option]
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        missing, present = (certificate_option, key_option) if certificate is None else (key_option, certificate_option)
        raise ConfigError(missing, "", f"a file, because {present} is given")
    return TlsFiles(
        certificate=readable_file(certificate_option, str(certificate)), key=readable_file(key_option, str(key))
    )


def require_longer_silence(limits: RpcLimits, *, prefix: str = "") -> None:
    """A tunnel or link is given up only after it was asked for a sign of life. Raises ``ConfigError``."""
    if limits.silence_s <= limits.heartbeat_s:
        expected = f"more than --{prefix}heartbeat, {limits.heartbeat_s:g}s"
        raise ConfigError(f"--{prefix}silence", f"{limits.silence_s:g}s", expected)


def _with(config: Config, path: Sequence[str], value: object) -> Config:
    changed: Any = value if len(path) == 1 else _with(getattr(config, path[0]), path[1:], value)
    return dataclasses.replace(config, **{path[0]: changed})  # type: ignore[type-var]
