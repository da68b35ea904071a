"""The nodes that were named, and where they are.

Responsible for: looking up the names of ``--join`` for as long as the node runs, each at its own pace, and remembering
where one led before. Refuses to know: what is done with an address.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from typing import Any, Final

import gevent

from pico.config import NodeConfig
from pico.node.system import System
from pico.protocol.gossip.values import Address
from pico.transport.clock import Clock

__all__ = ["Seeds"]

Seed = tuple[str, int]
"""Where another node is said to be: a name or an address, and a port."""

LOOK_AGAIN_S: Final = 1.0
"""From one look at the names to the next while one of them leads nowhere."""

FIRST_LOOK_S: Final = 1.0
"""For the names before the doors are opened; one that takes longer says later by which address this node is reached."""

_log = logging.getLogger("pico.cluster")


class Seeds:
    """One per node; ``look`` begins, ``stop`` ends. ``changed`` is called whenever there is something to be told."""

    def __init__(self, config: NodeConfig, clock: Clock, system: System, changed: Callable[[], None]) -> None:
        self._config = config
        self._clock = clock
        self._system = system
        self._changed = changed
        self._found: dict[Seed, list[Address]] = {}  # empty where a name leads nowhere
        self._looking: Any = None  # the greenlet that looks them up
        self._timer = clock.timer(self.look)

    @property
    def named(self) -> bool:
        """Whether there are any."""
        return bool(self._config.join)

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Where they are as far as is known, each once, in the order in which they were named."""
        return tuple(dict.fromkeys(address for seed in self._config.join for address in self._found.get(seed, ())))

    @property
    def complete(self) -> bool:
        """Whether each of the names has been looked up."""
        return all(seed in self._found for seed in self._config.join)

    def reconfigure(self, config: NodeConfig) -> None:
        """Look for others where others are named; what is known of those that stay is kept."""
        others = config.join != self._config.join
        self._config = config
        if others:
            self._found = {seed: found for seed, found in self._found.items() if seed in config.join}
            if self._looking is not None:
                self._looking.kill(block=False)
                self._looking = None
            self.look()

    def look(self) -> None:
        """Look them up, and tell what is known."""
        if self._looking is None or self._looking.dead:
            self._looking = gevent.spawn(self._look)
        else:
            self._changed()  # the rest is told by that greenlet, as it is found

    def look_soon(self) -> None:
        """The same, once what is being built is there to be told."""
        self._timer.start(0.0)

    def stop(self) -> None:
        """Look no longer."""
        self._timer.stop()
        if self._looking is not None:
            self._looking.kill()

    def first(self, fits: Callable[[Address], bool]) -> Address | None:
        """One of them, and one that fits if there is one; None when no name has led to one soon enough.

        Blocks the calling greenlet until then.
        """
        known = [address for seed in self._config.join if (address := _literal(*seed)) is not None]

        def look() -> None:
            for _, found in self._look_up(self._config.join):
                known.extend(found)
                if any(map(fits, found)):
                    return

        if self._config.join and not any(map(fits, known)):
            looking = gevent.spawn(look)
            timer = self._clock.timer(lambda: looking.kill(block=False))
            timer.start(FIRST_LOOK_S)
            looking.join()
            timer.stop()
        return next(filter(fits, known), next(iter(known), None))

    def _look(self) -> None:
        """In a greenlet of its own, since it blocks. What is known is told at once: a name may take long."""
        join = self._config.join
        self._found |= {seed: [address] for seed in join if (address := _literal(*seed)) is not None}
        self._changed()
        each = True
        for seed, found in self._look_up(join):
            if not found:
                each = False
                if self._found.get(seed) != []:
                    _log.warning("--join: the name %s leads nowhere now", seed[0])
            self._found[seed] = found or self._found.get(seed, [])  # where it led before
            self._changed()
        self._timer.start(self._config.gossip_timers.resolve_s if each else LOOK_AGAIN_S)

    def _look_up(self, seeds: tuple[Seed, ...]) -> Iterator[tuple[Seed, list[Address]]]:
        """Where each of those that are names leads, in the order in which that turns out."""
        lookups = {gevent.spawn(self._system.resolve, *seed): seed for seed in seeds if _literal(*seed) is None}
        try:
            for lookup in gevent.iwait(lookups):
                yield lookups[lookup], lookup.get()
        finally:
            gevent.killall(lookups, block=False)


def _literal(host: str, port: int) -> Address | None:
    """The address that is written there; None when it is a name."""
    try:
        return str(ip_address(host)), port
    except ValueError:
        return None
