"""Whether there is tracing.

Responsible for: loading it only where it is wanted, and saying what is missing then. Refuses to know: what a span is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pico.errors import ConfigError

if TYPE_CHECKING:
    from pico.observability.tracing import Tracing

__all__ = ["start_tracing"]


def start_tracing(choice: str, service: str, instance: str) -> Tracing | None:
    """None when it is off; raises ``ConfigError`` where the packages are missing."""
    if choice == "off":
        return None
    try:
        from pico.observability.tracing import Tracing

        return Tracing(service, instance)
    except ImportError as error:
        expected = f"off, or the packages of pico-tunnel[otel]: {error.name} is not installed"
        raise ConfigError("tracing", choice, expected) from error
