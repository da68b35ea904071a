"""What is left when something has ended: greenlets, entries in the registry, and what only the collector frees.

Greenlets are counted by the garbage collector, so that one which nobody can reach any more counts as well.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import gevent
import pykka
from greenlet import getcurrent, greenlet


def live_greenlets() -> int:
    """Greenlets of this thread that have begun and not ended; the hub's worker threads come and go by themselves."""
    gc.collect()
    here = _root(getcurrent())
    return sum(1 for one in gc.get_objects() if isinstance(one, greenlet) and not one.dead and _root(one) is here)


def _root(one: greenlet) -> greenlet:
    while one.parent is not None:
        one = one.parent
    return one


def let_others_run(turns: int = 10) -> None:
    """Give everything that can run its turn; nothing is waited for."""
    for _ in range(turns):
        gevent.sleep(0)


@contextmanager
def nothing_left_behind() -> Iterator[None]:
    """Fails when the block leaves a greenlet running or an actor registered."""
    let_others_run()
    before = {ref.actor_urn for ref in pykka.ActorRegistry.get_all()}
    running = live_greenlets()
    yield
    let_others_run()
    # Fewer is no leak: something older may end meanwhile.
    assert [ref for ref in pykka.ActorRegistry.get_all() if ref.actor_urn not in before] == []
    assert live_greenlets() <= running


@contextmanager
def found_by_the_collector() -> Iterator[Counter[str]]:
    """Counts, by type, what of ours the block leaves that keeps itself: reference counts alone never free it.

    What stood before is kept meanwhile: the last of an earlier test may become garbage at any turn of the hub.
    """
    found: Counter[str] = Counter()
    let_others_run()
    gc.collect()
    before = [one for one in gc.get_objects() if _is_ours(one)]
    gc.disable()
    try:
        yield found
        let_others_run()
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        found.update(type(one).__qualname__ for one in gc.garbage if _is_ours(one))
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        before.clear()
        gc.enable()


def _is_ours(one: object) -> bool:
    # A class may have a descriptor of that name.
    return str(type(one).__module__).startswith("pico.")
