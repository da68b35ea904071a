"""Pico: a clustered reverse proxy that tunnels to services which cannot be reached from outside.

Importing this package changes nothing in the program that imports it: only the console entry points patch the
standard library.
"""

from importlib.util import find_spec

__version__ = "0.1.0"

__all__ = ["__version__", "is_compiled"]


def is_compiled() -> bool:
    """Whether the modules that a request passes through are compiled; a wheel may bring them so."""
    module = find_spec("pico.transport.stream")
    return module is not None and module.origin is not None and not module.origin.endswith(".py")
