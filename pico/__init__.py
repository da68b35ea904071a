"""Pico: a clustered reverse proxy that tunnels to services which cannot be reached from outside.

Importing this package changes nothing in the program that imports it: only the console entry points patch the
standard library.
"""

__version__ = "0.1.0"

__all__ = ["__version__"]
