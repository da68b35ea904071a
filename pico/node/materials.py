"""What a node reads from files that its configuration names: certificates and the keys of the cluster.

Responsible for: reading all of it before any of it is used, so that one bad file changes nothing. Refuses to know: when
it is read, and what is done with it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from ssl import SSLContext
from typing import Any, Final, TypeVar

from gevent.ssl import SSLContext as CooperativeContext

from pico.actors.admin_door import admin_context
from pico.config import NodeConfig, TlsFiles
from pico.errors import ConfigError
from pico.protocol.seal import KeyRing, parse_key_file
from pico.transport.certificates import server_context, validity

__all__ = ["NodeMaterials"]

Made = TypeVar("Made")

DOORS: Final = ("proxy", "upstream", "admin")
"""Those that may have a certificate."""


@dataclass(frozen=True, slots=True)
class NodeMaterials:
    """Nothing where nothing is configured."""

    proxy_tls: SSLContext | None
    upstream_tls: SSLContext | None
    admin_tls: CooperativeContext | None
    cluster_keys: KeyRing | None
    validity: dict[str, tuple[float, float]]
    """By door, in seconds since 1970: from when and until when its certificate is valid."""

    def renewed(self, config: NodeConfig, waiting: Collection[str]) -> NodeMaterials:
        """Read again, but for settings that are ``waiting`` for a restart: their files may be gone. Raises likewise."""
        doors = [door for door in DOORS if f"{door}_tls_cert" in waiting]
        kept: dict[str, Any] = {f"{door}_tls": getattr(self, f"{door}_tls") for door in doors}
        left_out: dict[str, Any] = dict.fromkeys(kept)
        if "cluster_key_file" in waiting or "cluster_key" in waiting:
            kept["cluster_keys"] = self.cluster_keys
            left_out |= {"cluster_key_file": "", "cluster_key": ""}
        read = NodeMaterials.read(replace(config, **left_out))
        validity = {door: self.validity[door] for door in doors if door in self.validity}
        return replace(read, **kept, validity=read.validity | validity)

    @property
    def not_after(self) -> dict[str, float]:
        """By door, in seconds since 1970: until when its certificate is valid."""
        return {door: until for door, (_, until) in self.validity.items()}

    def not_valid(self, time_of_day: float) -> list[tuple[str, str]]:
        """The doors whose certificate is not valid now, and what is the matter with it."""
        return [
            (door, "has expired" if until <= time_of_day else "is not valid yet")
            for door, (since, until) in self.validity.items()
            if not since <= time_of_day < until
        ]

    @classmethod
    def read(cls, config: NodeConfig) -> NodeMaterials:
        """Raises ``ConfigError``, which names the setting and the file at fault."""
        return cls(
            proxy_tls=_context("proxy", config.proxy_tls, server_context),
            upstream_tls=_context("upstream", config.upstream_tls, server_context),
            admin_tls=_context("admin", config.admin_tls, admin_context),
            cluster_keys=_keys(config),
            validity={
                door: _of_door(door, files, lambda files: validity(files.certificate))
                for door, files in zip(DOORS, (config.proxy_tls, config.upstream_tls, config.admin_tls), strict=True)
                if files is not None
            },
        )


def _context(door: str, files: TlsFiles | None, build: Callable[[TlsFiles], Made]) -> Made | None:
    return None if files is None else _of_door(door, files, build)


def _of_door(door: str, files: TlsFiles, build: Callable[[TlsFiles], Made]) -> Made:
    """Have a file at fault called by its setting."""
    try:
        return build(files)
    except ConfigError as error:
        settings = {"certificate": f"{door}_tls_cert", "key": f"{door}_tls_key"}
        raise error.renamed(settings.__getitem__) from error


def _keys(config: NodeConfig) -> KeyRing | None:
    path = config.cluster_key_file
    try:
        if path:
            return parse_key_file(Path(path).read_text())
        return parse_key_file(config.cluster_key) if config.cluster_key else None
    except ConfigError as error:
        what = f"{path}: {error.value}" if path else error.value
        raise ConfigError("cluster_key_file" if path else "cluster_key", what, error.expected) from error
    except OSError as error:
        raise ConfigError("cluster_key_file", path, f"a readable file ({error.strerror})") from error
    except UnicodeError as error:
        raise ConfigError("cluster_key_file", path, "a text") from error
