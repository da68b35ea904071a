"""What an agent reads from files that its configuration names: the authorities that it believes.

Responsible for: reading all of it before any of it is used, so that one bad file changes nothing. Refuses to know: when
it is read, and what is done with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from ssl import SSLContext

from pico.config import AgentConfig
from pico.errors import ConfigError
from pico.transport.certificates import client_context

__all__ = ["AgentMaterials"]


@dataclass(frozen=True, slots=True)
class AgentMaterials:
    """Nothing where no side speaks TLS."""

    server_tls: SSLContext | None
    service_tls: SSLContext | None

    @classmethod
    def read(cls, config: AgentConfig) -> AgentMaterials:
        """Raises ``ConfigError``, which names the setting and the file at fault."""
        return cls(
            server_tls=_context("ca_file", config.ca_file)
            if any(url.startswith("https:") for url in config.servers)
            else None,
            service_tls=_context("service_ca_file", config.service_ca_file)
            if any(target.tls for target in config.endpoints)
            else None,
        )


def _context(field: str, ca_file: str) -> SSLContext:
    try:
        return client_context(ca_file)
    except ConfigError as error:
        raise ConfigError(field, error.value, error.expected) from error
