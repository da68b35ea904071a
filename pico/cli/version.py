"""``pico version``: what a report of a fault has to name.

Responsible for: the version of Pico, and of what it runs on. Refuses to know: anything of a running node.
"""

from __future__ import annotations

import platform
import ssl
from importlib.metadata import version
from typing import Final

import gevent
from gevent.hub import get_hub

from pico import __version__
from pico.cli.command_line import Arguments
from pico.compiling import is_compiled
from pico.transport.websocket import mask_implementation

__all__ = ["USAGE", "run_version"]

USAGE: Final = """\
pico version: the version of Pico, and what it runs on.

Usage:
  pico version [--help]

  -h, --help  print this text
"""

_MASKING: Final = {"c": "in C", "python": "in Python, slow: the websockets package has no speedups here"}


def run_version(_: Arguments) -> int:
    """Print it, a fact a line."""
    facts = {
        "pico": f"{__version__}, {'compiled' if is_compiled() else 'interpreted'}",
        "python": f"{platform.python_version()}, {platform.python_implementation()}",
        "gevent": f"{gevent.__version__}, {type(get_hub().loop).__module__.removeprefix('gevent.')}",
        "pykka": version("pykka"),
        "masking": _MASKING[mask_implementation()],
        "openssl": ssl.OPENSSL_VERSION.removeprefix("OpenSSL "),
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
    }
    for name, fact in facts.items():
        print(name, fact)
    return 0
