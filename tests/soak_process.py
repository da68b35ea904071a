"""A node or an agent that can also be asked what it holds: ``python -m tests.soak_process node|agent FILE OPTION...``.

Everything is the console entry point's, which has no use for SIGRTMIN: on it the numbers of greenlets, actors and
descriptors go into FILE.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
from importlib import import_module
from pathlib import Path


def counts() -> dict[str, int]:
    """What must not grow. Threads of the hub's pool have descriptors but no greenlets of their own."""
    import greenlet
    import pykka

    gc.collect()
    greenlets = [one for one in gc.get_objects() if isinstance(one, greenlet.greenlet) and not one.dead]
    return {
        "greenlets": len(greenlets),
        "actors": len(pykka.ActorRegistry.get_all()),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "sockets": sum("socket:" in _link(name) for name in os.listdir("/proc/self/fd")),
    }


def _link(name: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{name}")
    except OSError:
        return ""


def main() -> int:
    program, file, *options = sys.argv[1:]
    entry_point = import_module(f"pico.cli.{program}")

    def answer(number: int, frame: object) -> None:
        part = Path(f"{file}.part")
        part.write_text(json.dumps(counts()))
        part.rename(file)

    signal.signal(signal.SIGRTMIN, answer)
    sys.argv = [f"pico-{program}", *options]
    code: int = entry_point.main()
    return code


if __name__ == "__main__":
    sys.exit(main())
