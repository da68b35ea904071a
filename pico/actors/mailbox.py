"""An actor's inbox, and the flag that says that it has ended.

Responsible for: bringing messages from anybody to one receiver, and waking it. Refuses to know: actors, and what is
done with a message. Every request passes here, so this is a module of its own, which can be compiled; an actor's class
cannot, because it extends one of pykka's.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import gevent
from gevent.hub import get_hub

__all__ = ["Mailbox", "Posted", "StopFlag"]


class Posted:
    """A message that was told: it has the face of pykka's envelope, and nobody waits for an answer."""

    reply_to = None

    def __init__(self, message: object) -> None:
        self.message = message


class StopFlag:
    """Stands where pykka has a ``threading.Event``; nobody waits on it."""

    stopped = False

    def is_set(self) -> bool:
        """Whether the actor has ended or is about to."""
        return self.stopped

    def set(self) -> None:
        """Never undone."""
        self.stopped = True


class Mailbox:
    """An actor's inbox: any number of senders, one receiver.

    While something is there ``get`` takes it without a switch. A receiver that finds nothing parks its greenlet, and
    the first ``put`` has the hub let it go on; whatever arrives until then is found in the same turn.
    """

    _receiver: Any = None  # the greenlet that is parked
    _loop: Any = None  # ... and its hub's
    _waking = False

    def __init__(self) -> None:
        self._items: deque[Any] = deque()  # envelopes: ours, and those of pykka

    def __len__(self) -> int:
        return len(self._items)

    def empty(self) -> bool:
        """Whether ``get`` would wait."""
        return not self._items

    def put(self, envelope: Any, /) -> None:
        """Append; never blocks, so it may be called in the hub."""
        self._items.append(envelope)
        if self._receiver is not None and not self._waking:
            self._waking = True
            self._loop.run_callback(self._wake)

    def get(self) -> Any:
        """Take the oldest, waiting for one if need be."""
        items = self._items
        while not items:
            self._park()
        return items.popleft()

    def _park(self) -> None:
        assert self._receiver is None, "an inbox has one receiver"
        hub = get_hub()
        self._loop = hub.loop
        self._receiver = gevent.getcurrent()
        try:
            hub.switch()
        finally:
            # Also when something was thrown in: a wake-up on its way then finds nobody, instead of waking this
            # greenlet out of whatever it waits for by then.
            self._receiver = None

    def _wake(self) -> None:
        self._waking = False
        if self._receiver is not None:
            self._receiver.switch()
