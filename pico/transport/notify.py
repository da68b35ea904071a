"""What the service manager is told of this process: systemd's notification protocol.

Responsible for: the datagrams to ``$NOTIFY_SOCKET``, and a sign of life that only a hub that turns can give. Refuses to
know: when a node is ready, and what a reload is. Without a service manager every call does nothing.
"""

from __future__ import annotations

import _socket
import logging
import time
from collections.abc import MutableMapping
from socket import AF_UNIX, SOCK_CLOEXEC, SOCK_DGRAM, SOCK_NONBLOCK
from typing import Final

from pico.errors import ConfigError
from pico.transport.clock import Clock

__all__ = ["Notifier"]

SIGNS_EACH_LIMIT: Final = 2  # of life, in the time after which the manager takes us for dead

_log = logging.getLogger("pico.notify")


class Notifier:
    """``ready``, ``reloading``, ``reloaded`` and ``stopping`` are states; ``status`` is a sentence for people.

    A message that cannot be delivered is logged once and has no other consequence: the manager's trouble is not ours.
    """

    def __init__(self, address: str = "", watchdog_s: float = 0.0) -> None:
        self._address = f"\0{address[1:]}" if address.startswith("@") else address  # of the abstract namespace
        self._watchdog_s = watchdog_s
        self._complained = False
        self._serving = ""  # what was said last of a process that is ready

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str], pid: int) -> Notifier:
        """What the manager has asked of this process; taken out, so that no child speaks in its name.

        Raises ``ConfigError``.
        """
        address = environment.pop("NOTIFY_SOCKET", "")
        limit = environment.pop("WATCHDOG_USEC", "")
        asked = environment.pop("WATCHDOG_PID", "")
        if address and (address[0] not in "/@" or len(address) < 2):
            raise ConfigError("NOTIFY_SOCKET", address, "an absolute path, or @ and a name")
        if limit and not (limit.isascii() and limit.isdigit() and int(limit)):
            raise ConfigError("WATCHDOG_USEC", limit, "microseconds, at least 1")
        ours = bool(limit) and asked in ("", str(pid))
        return cls(address, int(limit) / 1_000_000 if ours else 0.0)

    def watch(self, clock: Clock) -> None:
        """Give signs of life from now on, as often as was asked for: twice in the time that is allowed."""
        if not self.wanted or not self._watchdog_s:
            return

        def give_sign() -> None:
            self._send("WATCHDOG=1")
            timer.start(self._watchdog_s / SIGNS_EACH_LIMIT)

        timer = clock.timer(give_sign)
        give_sign()

    @property
    def wanted(self) -> bool:
        """Whether anybody listens."""
        return bool(self._address)

    def ready(self, status: str) -> None:
        """Serving."""
        self._serving = status
        self._send("READY=1", f"STATUS={status}")

    def status(self, status: str) -> None:
        """What it does, in one line."""
        self._send(f"STATUS={status}")

    def reloading(self) -> None:
        """The configuration is being read again; ``reloaded`` must follow, whether it was accepted or refused.

        Neither is said of a process that the manager does not hold for ready: it would end the wait for that.
        """
        if self._serving:
            self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}", "STATUS=reloading")

    def reloaded(self) -> None:
        """Serving as before."""
        if self._serving:
            self.ready(self._serving)

    def stopping(self, status: str) -> None:
        """The end has begun."""
        self._serving = ""
        self._send("STOPPING=1", f"STATUS={status}")

    def _send(self, *assignments: str) -> None:
        if not self.wanted:
            return
        # A plain socket for each: they are few, and so none is left over.
        sock = _socket.socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC)
        try:
            sock.sendto("\n".join(assignments).encode(), self._address)
        except OSError as error:
            if not self._complained:
                self._complained = True
                _log.warning("the service manager is not told of %s: %s", assignments[0], error.strerror)
        finally:
            sock.close()
