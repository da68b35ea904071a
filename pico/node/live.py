"""What has changed at a node, every second, to whoever listens.

Responsible for: server-sent events: the whole report to who comes and the difference to who stays, made once for
all who look at the same. Refuses to know: what a report says, and how it is shown.

Nothing runs while nobody listens. There is no queue: who has missed a report gets the next one whole.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

import gevent
from gevent.event import Event

from pico.observability.admin import Refused, Request, Route, Stream, reads
from pico.observability.merge_patch import difference
from pico.transport.clock import Clock

__all__ = ["EVENTS", "Live", "View"]

EVENTS: Final = "/status/events"

INTERVAL_S: Final = 1.0
HEARTBEAT_S: Final = 10.0
RETRY_MS: Final = 2000
"""After which a browser that has lost the connection comes again."""

NAME_CHARS_MAX: Final = 63
"""Of what is looked for: no endpoint ID is longer."""

_log = logging.getLogger("pico.live")


class View(NamedTuple):
    """What somebody looks at: one endpoint, or all, of which only those with ``filter`` in their name are listed."""

    endpoint: str = ""
    filter: str = ""


class _Channel:
    """The reports of one view."""

    def __init__(self) -> None:
        self.listeners = 0
        self.number = 0  # of the latest report; 0 before the first
        self.changed = b""
        self.ended = False
        self._value: Mapping[str, Any] = {}
        self._whole = (0, b"")
        self._next = Event()

    def take(self, value: Mapping[str, Any]) -> None:
        self.changed = _event(b"change", _json(difference(self._value, value)))
        self._value = value
        self.number += 1
        self._wake()

    def end(self) -> None:
        self.ended = True
        self._wake()

    def wait(self) -> bool:
        """For the next report; False when it takes so long that the connection should show that it lives."""
        return bool(self._next.wait(HEARTBEAT_S))

    def whole(self) -> tuple[int, bytes]:
        """The latest report and its number."""
        number, value = self.number, self._value
        if self._whole[0] != number:
            parts = []
            for name, part in value.items():
                parts.append(_json(name) + b":" + _json(part))
                gevent.sleep(0)  # each may be a long list
            self._whole = number, _event(b"whole", b"{" + b",".join(parts) + b"}")
        return number, self._whole[1]

    def _wake(self) -> None:
        waiting, self._next = self._next, Event()
        waiting.set()


class Live:
    """One per node. ``report`` makes the report of a view; it may let others run meanwhile."""

    def __init__(self, report: Callable[[View], Mapping[str, Any]], clock: Clock) -> None:
        self._report = report
        self._clock = clock
        self._channels: dict[View, _Channel] = {}
        self._came = Event()

    @property
    def views(self) -> int:
        """So many different views are looked at."""
        return len(self._channels)

    def routes(self) -> tuple[Route, ...]:
        """What of it is told at the admin door."""
        return (reads(EVENTS, self._answer),)

    def _answer(self, request: Request) -> Stream:
        request.allow("endpoint", "filter")
        for name, value in request.query.items():
            if len(value) > NAME_CHARS_MAX:
                raise Refused(400, "bad_query", f"{name}: expected at most {NAME_CHARS_MAX} characters")
        # A proxy in between that collects what it passes on would make it worthless.
        return Stream(
            self.events(View(**request.query)), "text/event-stream; charset=utf-8", (("X-Accel-Buffering", "no"),)
        )

    def events(self, view: View) -> Iterator[bytes]:
        """Pieces of an event stream, for as long as somebody asks for the next."""
        channel = self._enter(view)
        try:
            yield b"retry: %d\n\n" % RETRY_MS
            seen = 0
            while not channel.ended:
                if channel.number == seen:
                    if not channel.wait():
                        yield b": alive\n\n"
                elif channel.number == seen + 1 and seen:
                    seen = channel.number
                    yield channel.changed
                else:
                    seen, whole = channel.whole()
                    yield whole
        finally:
            self._leave(view, channel)

    def _enter(self, view: View) -> _Channel:
        if not self._channels:
            gevent.spawn(self._produce)
        channel = self._channels.setdefault(view, _Channel())
        channel.listeners += 1
        self._came.set()
        return channel

    def _leave(self, view: View, channel: _Channel) -> None:
        channel.listeners -= 1
        if not channel.listeners and self._channels.get(view) is channel:
            del self._channels[view]
            self._came.set()  # without any the producer ends

    def _produce(self) -> None:
        try:
            self._produce_until_alone()
        except Exception:
            _log.exception("the live page has no report")
            channels, self._channels = self._channels, {}
            for channel in channels.values():
                channel.end()

    def _produce_until_alone(self) -> None:
        due = self._clock.now()
        while self._channels:
            on_time = self._clock.now() >= due
            if on_time:
                due = self._clock.now() + INTERVAL_S
            for view, channel in list(self._channels.items()):
                if channel.listeners and (on_time or not channel.number):
                    channel.take(self._report(view))
            self._came.wait(max(0.0, due - self._clock.now()))
            self._came.clear()


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _event(name: bytes, data: bytes) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name, data)
