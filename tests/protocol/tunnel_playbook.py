"""A script for a link: what happens, and what the link must ask for, as short texts.

Responsible for: turning steps such as ``accepted 1`` into calls on the engine and its commands into texts such as
``dial 1 server 0``, so that tests and vectors read alike. Refuses to know: what is right.
"""

from __future__ import annotations

from collections.abc import Callable

from pico.config import LinkTimers
from pico.protocol.tunnel import (
    ELSEWHERE,
    Abort,
    Announce,
    Close,
    Command,
    Dial,
    GiveUp,
    Goaway,
    Link,
    Refusal,
    Serve,
    Spread,
)


class Longest:
    """Chance that always draws the ceiling."""

    def uniform(self, a: float, b: float, /) -> float:
        return b


class Playbook:
    """A link, a time that the test moves, and steps with their outcome."""

    def __init__(self, servers: int = 1, spread: Spread | None = None, place: int = 0, **timers: float) -> None:
        self.now = 100.0
        self.link = Link(servers, LinkTimers(**timers), Longest(), now=self.now, spread=spread, place=place)  # type: ignore[arg-type]

    def step(self, text: str) -> list[str]:
        """Let one thing happen; what the link asks for then, announcements too."""
        word, *rest = text.split()
        steps: dict[str, Callable[..., None]] = {
            "after": self._after,
            "timer": self._timer,
            "accepted": lambda tunnel, node="": self.link.accepted(int(tunnel), node=node, now=self.now),
            "refused": self._refused,
            "failed": lambda tunnel, *why: self.link.failed(int(tunnel), " ".join(why), now=self.now),
            "goaway": lambda tunnel, *why: self.link.goaway(int(tunnel), " ".join(why), now=self.now),
            "idle": lambda tunnel: self.link.idle(int(tunnel), now=self.now),
            "ended": lambda tunnel, *why: self.link.ended(int(tunnel), " ".join(why), now=self.now),
            "stop": lambda: self.link.stop(now=self.now),
        }
        steps[word](*rest)
        return [said(command) for command in self.link.outgoing()]

    def asked(self, text: str) -> list[str]:
        """The same without announcements."""
        return [command for command in self.step(text) if not command.startswith("log ")]

    def run(self, *steps: str) -> list[str]:
        """Several steps; what the last one asks for, without announcements."""
        for text in steps[:-1]:
            self.step(text)
        return self.asked(steps[-1])

    def _after(self, seconds: str) -> None:
        self.now += float(seconds)
        self.link.handle_timer(now=self.now)

    def _timer(self) -> None:
        at = self.link.next_timer()
        assert at is not None, "no timer is wanted"
        self.now = max(self.now, at)
        self.link.handle_timer(now=self.now)

    def _refused(self, tunnel: str, status: str, *more: str) -> None:
        words = list(more)
        by_node = "node" in words
        code = ELSEWHERE if "elsewhere" in words else ""
        after = next((float(word.removeprefix("after=")) for word in words if word.startswith("after=")), None)
        reason = " ".join(word for word in words if word != "node" and not word.startswith("after="))
        self.link.refused(int(tunnel), Refusal(int(status), reason, after, by_node, code), now=self.now)


def said(command: Command) -> str:
    """A command as a short text."""
    if isinstance(command, Dial):
        text = f"dial {command.tunnel} server {command.server}"
        return f"{text} not {' '.join(command.elsewhere)}" if command.elsewhere else text
    if isinstance(command, Serve):
        return f"serve {command.tunnel}"
    if isinstance(command, Goaway):
        return f"goaway {command.tunnel}"
    if isinstance(command, Close):
        return f"close {command.tunnel} {command.code}"
    if isinstance(command, Abort):
        return f"abort {command.tunnel}"
    if isinstance(command, GiveUp):
        return f"give up {command.reason.partition(' ')[0]}"
    assert isinstance(command, Announce)
    text = f"log {command.change.value} server {command.server}"
    return f"{text}: {command.reason}" if command.reason else text
