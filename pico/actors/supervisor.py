"""Starts parts in order, restarts what fails, stops them in reverse.

Responsible for: the order, the restarts and their budget. Refuses to know: what the parts do. Connections and requests
are not among its children: they are many, short-lived and never restarted, and belong to whoever accepted them.

The policy is rest-for-one: a part may rely on those before it, so when one is started anew, those after it are stopped
first and started anew as well. A part that cannot start at all while the supervisor itself starts is not tried again:
a port that is taken now is taken in a millisecond, too.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

import pykka

from pico.actors.messages import ChildExited
from pico.actors.runtime import GeventActor, is_expected, tell
from pico.errors import LocalProtocolError, PicoError

__all__ = ["Child", "ChildDidNotStart", "Restart", "RestartsExhausted", "Supervisor"]

RESTARTS_MAX: Final = 5
RESTARTS_INTERVAL_S: Final = 30.0
"""So many in so long; one more, and the supervisor ends."""

_log = logging.getLogger("pico.actors")


class Restart(Enum):
    """When an exit is followed by a new start."""

    PERMANENT = "permanent"  # always
    TRANSIENT = "transient"  # after a failure


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """One part: how to build it, and what to do when it ends."""

    name: str
    build: Callable[[], GeventActor]  # a new actor each time, not started
    restart: Restart = Restart.PERMANENT
    start_s: float = 10.0
    stop_s: float = 5.0


class ChildDidNotStart(PicoError):
    """The ``on_start`` of a child failed, or took too long; of a bug, the child's own log line has the traceback."""


class RestartsExhausted(PicoError):
    """Too many restarts in too short a time: the trouble is not one that a restart cures."""


class Supervisor(GeventActor):
    """Lives as long as its children are to live.

    ``started`` is set when all of them have started; it raises ``ChildDidNotStart`` when one could not. When the
    supervisor ends otherwise than by ``stop``, it stops the children and calls ``escalate`` with the reason: the
    process is to exit. ``restarted`` is told the name of each child that is started again.
    """

    def __init__(
        self,
        children: Sequence[Child],
        *,
        now: Callable[[], float],
        escalate: Callable[[BaseException], None],
        restarted: Callable[[str], None],
    ) -> None:
        super().__init__()
        self._children = tuple(children)
        self._running: list[pykka.ActorRef[Any] | None] = [None] * len(children)
        self._now = now
        self._escalate = escalate
        self._restarted = restarted
        self._restarts: deque[float] = deque()

    def ref(self, name: str) -> pykka.ActorRef[Any] | None:
        """The child of that name as it runs now, if it does; to be read when needed, since a restart changes it."""
        for child, ref in zip(self._children, self._running, strict=True):
            if child.name == name:
                return ref
        raise LocalProtocolError(f"no child is named {name}")

    def on_start(self) -> None:
        """Start the children in order."""
        for index in range(len(self._children)):
            self._start(index)

    def on_receive(self, message: Any) -> None:
        """See to a child that has ended; one that was stopped or replaced from here is no news."""
        assert isinstance(message, ChildExited)
        if message.ref in self._running:
            self._exited(self._running.index(message.ref), message.reason)

    def on_exit(self, reason: BaseException | None) -> None:
        """Stop the children in reverse."""
        for index in reversed(range(len(self._children))):
            self._stop_child(index)
        if reason is not None:
            self._escalate(reason)

    def _exited(self, index: int, reason: BaseException | None) -> None:
        self._running[index] = None
        if self._children[index].restart is Restart.PERMANENT or reason is not None:
            self._restart_from(index, reason)

    def _restart_from(self, index: int, reason: BaseException | None) -> None:
        """Start the child anew and with it the rest, as often as the budget allows."""
        rest = [later for later in range(index + 1, len(self._children)) if self._running[later] is not None]
        for later in reversed(rest):
            self._stop_child(later)
        wanted = [index, *rest]
        while wanted:
            self._spend(self._children[wanted[0]].name, reason)
            try:
                while wanted:
                    self._start(wanted[0])
                    wanted.pop(0)
            except ChildDidNotStart as error:
                reason = error

    def _spend(self, name: str, reason: BaseException | None) -> None:
        now = self._now()
        while self._restarts and self._restarts[0] <= now - RESTARTS_INTERVAL_S:
            self._restarts.popleft()
        if len(self._restarts) >= RESTARTS_MAX:
            raise RestartsExhausted(
                f"{name} ended again after {RESTARTS_MAX} restarts in {RESTARTS_INTERVAL_S:g} s"
            ) from reason
        self._restarts.append(now)
        self._restarted(name)
        _log.warning("starting %s again, it ended: %s", name, reason or "stopped")

    def _start(self, index: int) -> None:
        child = self._children[index]
        actor = child.build()
        actor.exit_listener = self._child_exited
        self._running[index] = ref = actor.launch()
        try:
            actor.started.get(timeout=child.start_s)
        except Exception as error:
            self._running[index] = None
            ref.stop(block=False)  # one that is merely late ends when it gets there
            raise ChildDidNotStart(f"{child.name} did not start: {_why(actor, child, error)}") from error

    def _stop_child(self, index: int) -> None:
        ref, self._running[index] = self._running[index], None
        if ref is None:
            return
        child = self._children[index]
        try:
            ref.stop(timeout=child.stop_s)
        except pykka.Timeout:
            # Nobody kills an actor's greenlet: what it holds would be lost with it.
            _log.error("%s did not stop within %g s", child.name, child.stop_s)

    def _child_exited(self, ref: pykka.ActorRef[Any], reason: BaseException | None) -> None:
        tell(self.actor_ref, ChildExited(ref, reason))


def _why(actor: GeventActor, child: Child, error: Exception) -> str:
    if not actor.started.done():
        return f"not within {child.start_s:g} s"
    return str(error) if is_expected(error) else repr(error)
