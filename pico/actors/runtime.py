"""Pykka actors on gevent.

Responsible for: how an actor runs, ends and is reached. Refuses to know: what an actor is for, and who restarts it
(``pico.actors.supervisor``).

pykka brings the model: an actor with one inbox, references that may be passed along, ``tell``, ``ask`` and ``stop``.
This module supplies what pykka leaves to a runtime (inbox, future, loop) and changes three of its habits:

* **One actor's trouble stays its own.** pykka answers a ``BaseException`` in a handler by stopping every actor of the
  process, and gevent's timeouts and kills are such exceptions. Here anything that a hook or a handler raises, and
  anything that is thrown into an idle actor, ends that one actor. An expected error (a ``PicoError``) raised while
  answering an ask goes to the asker and nothing else happens; any other is answered too, and then ends the actor,
  whose state nobody can vouch for.
* **There is one way out.** Stop, failure and a failing ``on_start`` all end in ``on_exit(reason)``, called exactly
  once. What an actor owns is released there.
* **An actor is cheap.** A counter in place of a random URN, a plain flag in place of an event with a lock, a registry
  that does not search, no log lines at debug level. An ``InlineActor`` needs no greenlet of its own either.

Names that pykka marks as private are used: its version is pinned and ``tests/actors/test_runtime.py`` holds each of
them fast. All actors of a process live in one OS thread, that of the gevent hub.
"""

from __future__ import annotations

import itertools
import logging
import queue
import sys
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Final, Generic, NoReturn, Self, TypeVar, cast

import gevent
import pykka
from gevent.event import AsyncResult
from pykka import messages as pykka_messages
from pykka._envelope import Envelope

from pico.actors.mailbox import Mailbox, Posted, StopFlag
from pico.errors import LocalProtocolError, PicoError

__all__ = [
    "ExitListener",
    "GeventActor",
    "GeventFuture",
    "InlineActor",
    "Mailbox",
    "RegistryTable",
    "StopFlag",
    "depth",
    "inboxes",
    "install_registry",
    "is_expected",
    "tell",
]

A = TypeVar("A", bound=pykka.Actor)
T = TypeVar("T")

ExitListener = Callable[[pykka.ActorRef[Any], BaseException | None], None]
"""Called last of all, with the reason as ``on_exit`` got it."""

ExcInfo = tuple[type[BaseException] | None, BaseException | None, TracebackType | None]

_log = logging.getLogger("pico.actors")
_serial = itertools.count(1)

_OF_PYKKA: Final = frozenset(
    {
        pykka_messages._ActorStop,
        pykka_messages.ProxyCall,
        pykka_messages.ProxyGetAttr,
        pykka_messages.ProxySetAttr,
    }
)


def is_expected(error: BaseException) -> bool:
    """Whether ``error`` was raised on purpose: about a peer, the network or a setting, and not about our own code."""
    return isinstance(error, PicoError) and not isinstance(error, LocalProtocolError)


def tell(ref: pykka.ActorRef[Any], message: object) -> bool:
    """Put ``message`` into the actor's inbox; False when the actor is dead. Never raises, never blocks."""
    if ref.actor_stopped.is_set():
        return False
    inbox: Any = ref.actor_inbox
    inbox.put(Posted(message))
    return True


def depth(ref: pykka.ActorRef[Any]) -> int:
    """How many messages wait in the inbox of an actor of this runtime."""
    return len(cast(Mailbox, ref.actor_inbox))


class GeventFuture(pykka.Future[T]):
    """A future that parks only the greenlet that asks for its value."""

    def __init__(self) -> None:
        super().__init__()
        self._outcome = AsyncResult()  # of (value, exc_info)

    def done(self) -> bool:
        """Whether ``get`` would return, or raise what was set, at once."""
        return bool(self._outcome.ready())

    def get(self, *, timeout: float | None = None) -> T:
        """The value; raises what was set as an exception, or ``pykka.Timeout`` when nothing was set in time."""
        if self._get_hook is not None:
            return super().get(timeout=timeout)
        # wait() swallows its own timeout alone: one that the caller has set around this passes through.
        self._outcome.wait(timeout=timeout)
        if not self._outcome.ready():
            raise pykka.Timeout(f"{timeout} seconds")
        value, exc_info = self._outcome.get_nowait()
        if exc_info is not None:
            _raise_again(exc_info)
        return cast(T, value)

    def set(self, value: T | None = None) -> None:
        """Set the value; raises ``queue.Full`` when there is one."""
        self._settle((value, None))

    def set_exception(self, exc_info: ExcInfo | None = None) -> None:
        """Set what ``get`` raises, by default the exception being handled; raises ``queue.Full`` as ``set`` does."""
        self._settle((None, sys.exc_info() if exc_info is None else exc_info))

    def set_get_hook(self, func: Callable[[float | None], T]) -> None:
        """Have ``get`` call ``func``; raises ``queue.Full`` as ``set`` does."""
        if self._outcome.ready():
            raise queue.Full
        super().set_get_hook(func)

    def _settle(self, outcome: tuple[T | None, ExcInfo | None]) -> None:
        if self._outcome.ready() or self._get_hook is not None:
            raise queue.Full
        self._outcome.set(outcome)


def _raise_again(exc_info: ExcInfo) -> NoReturn:
    kind, error, traceback = exc_info
    assert kind is not None
    raise (error if error is not None else kind()).with_traceback(traceback)


class _NativeActor(pykka.Actor):
    """What both kinds of actor have in common."""

    exit_listener: ExitListener | None = None
    """Set by a supervisor before the start."""

    exit_reason: BaseException | None = None
    """Why the actor ended; None while it lives, and after an orderly stop."""

    actor_inbox: Mailbox
    actor_stopped: StopFlag  # type: ignore[assignment]  # has the face of the Event that pykka declares

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        # In place of pykka's, not before it: its URN from the system's randomness and its Event cost more than all
        # the rest of a short-lived actor.
        self.actor_urn = f"urn:pico:actor:{next(_serial)}"
        self.actor_inbox = Mailbox()
        self.actor_stopped = StopFlag()
        self._actor_ref: pykka.ActorRef[Any] = pykka.ActorRef(self)

    def on_exit(self, reason: BaseException | None) -> None:
        """Release what the actor owns: called exactly once, whatever the way out, after ``on_stop`` or ``on_failure``.

        ``reason`` is None after an orderly stop, else what was raised. Messages no longer arrive.
        """

    def post(self, message: object) -> bool:
        """As ``tell``, for the callbacks that an actor has given away itself: two calls fewer."""
        if self.actor_stopped.stopped:
            return False
        self.actor_inbox.put(Posted(message))
        return True

    def finish(self) -> None:
        """End cleanly, here and now; to be called in the actor's own hooks and handlers.

        What waits in the inbox is not handled any more: asks are answered with ``pykka.ActorDeadError``.
        """
        self._end(None)

    # What pykka calls on the way.

    @staticmethod
    def _create_actor_inbox() -> Mailbox:
        return Mailbox()

    @staticmethod
    def _create_future() -> GeventFuture[Any]:
        return GeventFuture()

    def _register(self) -> None:
        pykka.ActorRegistry._actor_refs.append(self._actor_ref)

    def _stop(self) -> None:
        self._end(None)

    def _actor_loop(self) -> None:
        self._actor_loop_setup()
        self._actor_loop_running()
        self._actor_loop_teardown()

    def _actor_loop_setup(self) -> None:
        try:
            self.on_start()
        except BaseException as error:
            self._fail(error)

    def _actor_loop_running(self) -> None:
        stop_flag, get, on_receive = self.actor_stopped, self.actor_inbox.get, self.on_receive
        while not stop_flag.stopped:
            envelope = message = None  # while it waits it keeps nothing of the last one, which may bring a whole body
            try:
                envelope = get()
                message = envelope.message
                answer = self._handle_receive(message) if type(message) in _OF_PYKKA else on_receive(message)
                if envelope.reply_to is not None:
                    envelope.reply_to.set(answer)
            except BaseException as error:
                self._raised(envelope, error)

    def _raised(self, envelope: Envelope[Any] | None, error: BaseException) -> None:
        """Answer the asker if there is one; end the actor unless that was all."""
        asker = envelope.reply_to if envelope is not None else None
        if asker is None or not is_expected(error):
            self._fail(error)
        if asker is not None:
            _answer_with(asker, error, self)

    def _actor_loop_teardown(self) -> None:
        inbox = self.actor_inbox
        while inbox:
            envelope = inbox.get()
            if envelope.reply_to is None:
                continue
            if type(envelope.message) is pykka_messages._ActorStop:
                envelope.reply_to.set(None)
            else:
                _answer_with(envelope.reply_to, pykka.ActorDeadError(f"{self._actor_ref} stopped first"), self)
        if self.exit_listener is not None:
            self.exit_listener(self._actor_ref, self.exit_reason)

    def _fail(self, error: BaseException) -> None:
        if is_expected(error):
            _log.error("%s ended: %s", self, error)
        else:
            _log.error("%s failed", self, exc_info=error)
        self._end(error)

    def _end(self, reason: BaseException | None) -> None:
        """The one way out: unregister, tell the hooks, once."""
        if self.actor_stopped.stopped:
            return
        self.actor_stopped.stopped = True
        self._unregister()
        self.exit_reason = reason
        try:
            if reason is None:
                self.on_stop()
            else:
                self.on_failure(type(reason), reason, reason.__traceback__)
        except BaseException as error:
            _log.error("%s failed in a hook while ending", self, exc_info=error)
            self.exit_reason = reason if reason is not None else error
        try:
            self.on_exit(self.exit_reason)
        except BaseException as error:
            _log.error("%s failed in on_exit", self, exc_info=error)

    def _unregister(self) -> None:
        try:
            pykka.ActorRegistry._actor_refs.remove(self._actor_ref)
        except ValueError:
            pass  # built, never started


def _answer_with(asker: pykka.Future[Any], error: BaseException, actor: pykka.Actor) -> None:
    if not isinstance(error, Exception):
        # A timeout or a kill was meant for the actor. Raised in the asker it would count as one of the asker's own.
        dead = pykka.ActorDeadError(f"{actor} failed: {error!r}")
        dead.__cause__ = error
        error = dead
    try:
        asker.set_exception((type(error), error, error.__traceback__))
    except queue.Full:
        pass  # what failed came after the answer


class GeventActor(_NativeActor):
    """An actor with a greenlet of its own.

    ``GeventActor.start(...)`` builds and starts, as in pykka; ``launch`` starts one that is built.
    """

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        super().__init__()
        self.started: GeventFuture[None] = GeventFuture()
        """Set when ``on_start`` has returned; raises what it raised."""

    @classmethod
    def start(cls, *args: Any, **kwargs: Any) -> pykka.ActorRef[Self]:
        """Build an actor and start it."""
        return cls(*args, **kwargs).launch()

    def launch(self) -> pykka.ActorRef[Self]:
        """Start the actor; ``on_start`` runs soon, in the actor's greenlet."""
        assert not self.actor_stopped.stopped, "an actor lives once"
        self._register()
        self._start_actor_loop()
        return self.actor_ref

    def _start_actor_loop(self) -> None:
        gevent.spawn_raw(self._actor_loop)

    def _actor_loop_setup(self) -> None:
        try:
            self.on_start()
        except BaseException as error:
            if is_expected(error):
                self._end(error)  # ``started`` tells whoever wanted the actor: a log line would say it twice
            else:
                self._fail(error)
        if self.exit_reason is None:
            self.started.set(None)
        else:
            _answer_with(self.started, self.exit_reason, self)


class InlineActor(_NativeActor):
    """An actor whose loop runs in the greenlet of its caller: build it, then ``run`` it."""

    @classmethod
    def start(cls, *_args: Any, **_kwargs: Any) -> NoReturn:
        """Always raises: there is nothing to start it in."""
        raise LocalProtocolError(f"{cls.__name__} runs in the greenlet of its caller: build it and call run()")

    def run(self) -> BaseException | None:
        """Live from ``on_start`` to ``on_exit``; returns the reason as ``on_exit`` got it.

        A failure is returned and not raised, except ``GreenletExit``: who kills the greenlet means the caller too.
        """
        assert not self.actor_stopped.stopped, "an actor lives once"
        self._register()
        self._actor_loop()
        if isinstance(self.exit_reason, gevent.GreenletExit):
            raise self.exit_reason
        return self.exit_reason

    def _start_actor_loop(self) -> None:
        """Nothing: ``run`` is the loop."""


class RegistryTable(Generic[A]):
    """What pykka's registry does with its list of references, without searching it."""

    def __init__(self, refs: list[pykka.ActorRef[A]]) -> None:
        self._refs: dict[pykka.ActorRef[A], None] = dict.fromkeys(refs)

    def __len__(self) -> int:
        return len(self._refs)

    def __iter__(self) -> Iterator[pykka.ActorRef[A]]:
        return iter(list(self._refs))

    def __contains__(self, ref: object) -> bool:
        return ref in self._refs

    def __getitem__(self, index: slice) -> list[pykka.ActorRef[A]]:
        return list(self._refs)[index]

    def append(self, ref: pykka.ActorRef[A]) -> None:
        """Last in the order of starting."""
        self._refs[ref] = None

    def remove(self, ref: pykka.ActorRef[A]) -> None:
        """Raises ValueError when it is not there, as a list does."""
        try:
            del self._refs[ref]
        except KeyError:
            raise ValueError(f"{ref} is not registered") from None


def inboxes() -> Iterator[tuple[type[pykka.Actor], int]]:
    """Each actor of this process, as its class and how many messages wait for it; others may run in between."""
    for ref in list(pykka.ActorRegistry._actor_refs):
        yield ref.actor_class, depth(ref)


def install_registry() -> None:
    """Replace the list in pykka's registry by a table; to be called once by a program that starts, harmless again.

    Without it actors work as well, and ending one takes time in proportion to their number.
    """
    with pykka.ActorRegistry._actor_refs_lock:
        refs: Any = pykka.ActorRegistry._actor_refs
        if not isinstance(refs, RegistryTable):
            pykka.ActorRegistry._actor_refs = RegistryTable(refs)  # type: ignore[assignment]  # does what a list does there
