"""What stays of an actor when its instance is replaced: ref, inbox, end, and whoever wants to know about that.

An actor without a supervisor has one instance, and its cell ends with it. A supervised one may end without its cell:
then the inbox stays open, the ref stays alive and registered, and the next instance goes on with what is queued.
"""

from __future__ import annotations

import logging
import queue
import threading
import weakref
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pykka.messages import _ActorStop
from trio.lowlevel import enable_ki_protection

from actors._errors import ActorDeadError
from actors._future import TrioFuture
from actors._inbox import Envelope, Inbox
from actors._registry import unregister

if TYPE_CHECKING:
    from actors._actor import TrioActor
    from actors._life import Life
    from actors._ref import TrioActorRef
    from actors._system import ActorSystem

__all__ = ["Cell", "Exit", "Keeper", "Reason", "Watcher", "answer_stops", "claim", "nobody_claims", "settle"]

Reason = Literal["stopped", "failed", "cancelled"]

_logger = logging.getLogger("pykka")


@dataclass(frozen=True, slots=True)
class Exit:
    """How an instance has ended. ``error`` is what it failed with."""

    reason: Reason
    error: BaseException | None = None


class Keeper(Protocol):
    """Who decides over the instances of a cell. Called on the thread of the actor, and must not raise."""

    def is_up(self) -> None:
        """``on_start`` has returned."""

    def goes_on(self, exit: Exit) -> bool:
        """Whether the cell outlives this exit, for the keeper to revive or end it."""

    def is_down(self) -> None:
        """The instance has ended, and with it the cell if that does not go on."""


class Watcher(Protocol):
    def notify(self, exit: Exit) -> None:
        """The cell has ended. On the thread of its actor, or at once in ``Cell.watch``."""


_claimable: ContextVar[Cell | None] = ContextVar("claimable_cell", default=None)
_watchers_lock = threading.Lock()  # one for all: held for a few bytecodes, and one per actor would cost memory


def claim() -> Cell | None:
    """The cell that the actor under construction is to take over, if it is made to replace another."""
    cell = _claimable.get()
    if cell is not None:
        _claimable.set(None)
    return cell


class nobody_claims:
    """Context manager: for actors that are started, not made to replace another, while one is being made."""

    # Each start pays for this. So it is a class, at a quarter of a generator's price, and sets nothing without need:
    # setting makes a new map of the context's variables, which the actor's task then keeps.
    __slots__ = ("_outer",)

    def __enter__(self) -> None:
        self._outer = None if _claimable.get() is None else _claimable.set(None)

    def __exit__(self, *_: object) -> None:
        if self._outer is not None:
            _claimable.reset(self._outer)


class Cell:
    __slots__ = ("__weakref__", "_ref", "ended", "exit", "inbox", "keeper", "life", "stopped", "system", "watchers")

    def __init__(self, actor: TrioActor, life: Life) -> None:
        self.inbox: Inbox = actor.actor_inbox
        self.stopped: threading.Event = actor.actor_stopped
        self.life = life
        self.system: ActorSystem | None = None
        self.keeper: Keeper | None = None
        self.exit: Exit | None = None
        self.ended: TrioFuture[None] = TrioFuture()
        self.watchers: dict[Watcher, None] | None = None
        self._ref: weakref.ref[TrioActorRef[Any]]

    @property
    def ref(self) -> TrioActorRef[Any]:
        """Held by the actor until it is started, and by its system from then to the end."""
        ref = self._ref()
        assert ref is not None, "whoever asks for the ref of an actor that has ended must have kept it"
        return ref

    @ref.setter
    def ref(self, ref: TrioActorRef[Any]) -> None:
        self._ref = weakref.ref(ref)

    def __str__(self) -> str:
        return self.inbox.name

    def bind(self, system: ActorSystem, keeper: Keeper | None) -> None:
        """The actor has been started in ``system``; its task comes next."""
        self.system = system
        self.keeper = keeper
        self.inbox.bind(system)

    def cancel(self) -> None:
        """On the thread of the actor."""
        self.life.cancel()

    # -- instances

    def revive(self, make: Callable[[], TrioActor]) -> Life:
        """Have another instance made for this cell, whose own has ended; its task comes next.

        Raises what ``make`` raises, and TypeError if that makes no new actor.
        """
        old = self.life
        outer = _claimable.set(self)
        try:
            actor = make()
            if self.life is old or getattr(actor, "_actor_life", None) is not self.life:
                raise TypeError(f"the factory for {self} must make one new actor and return it, not {actor!r}")
        except BaseException:
            self.life = old
            self.ref.point_at(old.actor)
            raise
        finally:
            _claimable.reset(outer)
        old.let_go()
        self.inbox.tally.restarts += 1
        life: Life = self.life
        return life

    def adopt(self, actor: TrioActor, life: Life) -> None:
        """The instance under construction takes over. From here on its ref is this one, also in its constructor."""
        actor._actor_ref = self.ref
        actor.actor_urn = self.ref.actor_urn
        actor.actor_inbox = self.inbox
        actor.actor_stopped = self.stopped
        self.life = life
        self.ref.point_at(actor)

    # -- the end

    def goes_on(self, exit: Exit) -> bool:
        return self.keeper is not None and self.keeper.goes_on(exit)

    def mark_stopped(self) -> None:
        if not self.stopped.is_set():
            unregister(self.ref)
            self.stopped.set()
            _logger.debug("Stopped %s", self)

    def close(self) -> list[Envelope]:
        """Refuse what is queued and whatever comes. Returns the stop messages, to be answered at the end."""
        self.mark_stopped()
        stops = []
        for envelope in self.inbox.close():
            if type(envelope.message) is _ActorStop:
                stops.append(envelope)
            else:
                self.refuse(envelope, "before handling the message")
                self.inbox.dead_letter(envelope.message, "stopped")
        return stops

    def refuse(self, envelope: Envelope, when: str) -> None:
        if envelope.reply_to is not None and not envelope.reply_to.settled:
            settle(envelope.reply_to, None, ActorDeadError(f"{self} stopped {when}"))

    @enable_ki_protection
    def end(self, exit: Exit, stops: Sequence[Envelope] = ()) -> None:
        """For good; ``stops`` are the stop messages taken before. Does nothing a second time."""
        if self.exit is not None:
            return
        answer_stops([*stops, *self.close()])
        if self.system is not None:
            self.system.forget(self.ref)
        self.life.let_go()
        self.keeper = None
        with _watchers_lock:
            self.exit = exit
            watchers, self.watchers = self.watchers, None
        self.ended.set(None)
        for watcher in watchers or ():
            watcher.notify(exit)

    def bury(self) -> None:
        """End an actor that has no task and gets none."""
        self.life.bury()
        self.end(self.life.exit or Exit("cancelled"))

    # -- being watched: any thread

    @enable_ki_protection
    def watch(self, watcher: Watcher) -> None:
        """Have ``watcher`` notified once of the end, at once if it has come already."""
        with _watchers_lock:
            exit = self.exit
            if exit is None:
                if self.watchers is None:
                    self.watchers = {}
                self.watchers[watcher] = None
        if exit is not None:
            watcher.notify(exit)

    @enable_ki_protection
    def unwatch(self, watcher: Watcher) -> None:
        with _watchers_lock:
            if self.watchers is not None:
                self.watchers.pop(watcher, None)


def settle(future: TrioFuture[Any], value: Any, error: BaseException | None) -> None:
    try:
        future.settle(value, None if error is None else (type(error), error, error.__traceback__))
    except queue.Full:
        _logger.warning("an asker has set the answer to its own question")


def answer_stops(stops: list[Envelope]) -> None:
    for envelope in stops:
        if envelope.reply_to is not None:
            settle(envelope.reply_to, None, None)
