"""``pico bench``: what a request costs, next to what it could cost at the least.

Responsible for: exporting the command. The rest is split by what it knows: ``targets`` starts what is measured,
``load`` sends requests, ``counters`` reads the kernel's figures, ``memory`` holds upstreams and streams open, ``plan``
says what is measured when, ``figures`` and ``report`` what came of it.
"""

from __future__ import annotations

from pico.cli.bench.command import USAGE, run_bench

__all__ = ["USAGE", "run_bench"]
