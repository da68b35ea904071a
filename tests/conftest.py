"""Hypothesis profiles, Ctrl-C, who runs beside whom, what nobody caught, and what the collector need not look at.

Nothing else is global.

``HYPOTHESIS_PROFILE`` names one: ``dev`` (quick, for the editor), ``ci`` (fixed examples, the same on every run) or
``deep`` (long, by ``make property``). Without it a machine that says ``CI=true`` gets ``ci`` and a person gets ``dev``.
"""

from __future__ import annotations

import gc
import os
import signal
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gevent.hub import Hub
from hypothesis import HealthCheck, settings

from pico.errors import PicoError

# Deadlines per example measure the machine and not the code; each suite has its own timeout.
settings.register_profile("dev", max_examples=25, deadline=None)
settings.register_profile(
    "ci", max_examples=200, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("deep", max_examples=5000, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def _profile() -> str:
    default = "ci" if os.environ.get("CI", "").lower() in ("1", "true", "yes") else "dev"
    return os.environ.get("HYPOTHESIS_PROFILE") or default


settings.load_profile(_profile())

# A suite that a shell started in the background ignores SIGINT, and so would every program that it starts; a handler of
# our own is not inherited.
signal.signal(signal.SIGINT, signal.default_int_handler)


_GROUPS = {"actors": "sockets", "agent": "sockets", "transport": "sockets", "node": "node", "deploy": "deploy"}
_HERE = Path(__file__).parent
_ROOT = _HERE.parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """For `--dist loadgroup`: each group runs in one process and in its order, so that a run is like the one before.

    What has sockets is apart from what is only rules, for some of it counts what is left of what came before. Among the
    tests of how Pico is deployed is one that compiles it.
    """
    for item in items:
        suite = item.path.relative_to(_HERE).parts[0]
        item.add_marker(pytest.mark.xdist_group(_GROUPS.get(suite, "rules")))


def pytest_collection_finish() -> None:
    """What is there when the tests begin lives as long as they; to look at it each time took a fifth of the time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def nothing_uncaught(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a greenlet or a callback of the hub raises and nobody catches, gevent prints and goes on.

    Errors of a test's own, and those of the network, to which a test may have led a greenlet that it reads from, are
    no concern here.
    """
    errors: list[BaseException] = []
    prints = Hub.print_exception

    def note(hub: Hub, context: Any, kind: Any, error: BaseException, trace: Any) -> None:
        if not isinstance(error, PicoError) and _is_pico(error):
            errors.append(error)
        prints(hub, context, kind, error, trace)

    monkeypatch.setattr(Hub, "print_exception", note)
    yield
    assert not errors, "nobody has caught this"


def _is_pico(error: BaseException) -> bool:
    """Whether Pico has raised it, and no stand-in of a test's."""
    files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    ours = [file for file in files if file.startswith(("pico/", str(_ROOT / "pico"), str(_ROOT / "tests")))]
    return bool(ours) and not ours[-1].startswith(str(_ROOT / "tests"))
