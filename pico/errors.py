"""The kinds of failure that everyone in Pico shares.

Responsible for: the names of the failures. Refuses to know: who raises them, and what answer a client gets for one
(that is the table in ``pico.protocol.http.failures``).

There are exactly two kinds of protocol error. A peer that breaks the rules is a ``RemoteProtocolError``; our own code
that misuses an engine is a ``LocalProtocolError``. Anything else that escapes is a bug, and a supervisor sees it.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = [
    "ConfigError",
    "ConnectFailed",
    "ConnectionLost",
    "LocalProtocolError",
    "NoFileLeft",
    "PicoError",
    "ProtocolError",
    "RemoteProtocolError",
    "TransportError",
    "TransportTimeout",
]


class PicoError(Exception):
    """The base of every error that Pico raises on purpose."""


class ProtocolError(PicoError):
    """Abstract: raise one of its two kinds."""

    def __init__(self, message: str) -> None:
        if type(self) is ProtocolError:
            raise TypeError("raise LocalProtocolError or RemoteProtocolError")
        super().__init__(message)


class LocalProtocolError(ProtocolError):
    """Our side asked an engine for something that its state does not allow: a bug in the caller."""


class RemoteProtocolError(ProtocolError):
    """The peer sent something that the protocol does not allow. Raised only while receiving."""


class TransportError(PicoError):
    """A byte stream cannot do what was asked of it."""


class ConnectFailed(TransportError):
    """No connection could be made: the name, the network, the peer or its TLS said no."""


class NoFileLeft(ConnectFailed):
    """... because this process, or its machine, may open no further file: closing one helps."""


class ConnectionLost(TransportError):
    """An established connection ended without a proper close."""


class TransportTimeout(TransportError):
    """The deadline passed before the operation was done."""


class ConfigError(PicoError):
    """A setting is not usable.

    Names the field, the value that was given and what was expected, in one line.
    """

    def __init__(self, field: str, value: object, expected: str) -> None:
        super().__init__(f"{field}: {value!r} is not usable: expected {expected}")
        self.field = field
        self.value = value
        self.expected = expected

    def renamed(self, named: Callable[[str], str]) -> ConfigError:
        """The same by another name: a part knows a setting by its key, and who has set it by an option, say."""
        return ConfigError(named(self.field), self.value, self.expected)
