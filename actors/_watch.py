"""Death watch: an actor learns, by a message, that another has ended for good."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from actors._cell import Exit, Reason
from actors._errors import ActorDeadError
from actors._parcel import NOTHING, Parcel

if TYPE_CHECKING:
    from actors._inbox import Inbox
    from actors._ref import TrioActorRef

__all__ = ["Terminated", "Watches"]


@dataclass(frozen=True, slots=True)
class Terminated:
    """The watched actor has ended: its hooks have run, its tasks have ended, its askers have been answered.

    ``reason``: ``stopped`` when it was asked to, ``failed`` with the exception as ``error``, ``cancelled`` when it was
    cancelled, also for having taken too long to stop. A restart by a supervisor is no end.
    """

    ref: TrioActorRef[Any]
    reason: Reason
    error: BaseException | None = None


class Watches:
    """Those that one instance of an actor watches. All but ``notify`` of a watch on the thread of that actor."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox
        self._watches: dict[TrioActorRef[Any], _Watch] = {}

    def add(self, ref: TrioActorRef[Any]) -> None:
        if not hasattr(ref, "cell"):
            raise TypeError(f"only what has a TrioActorRef can be watched, not {ref!r}")
        if ref.actor_inbox is self._inbox:
            raise ValueError("an actor cannot watch itself: nobody is left to be told")
        if ref not in self._watches:
            watch = self._watches[ref] = _Watch(self._watches, ref, self._inbox)
            ref.cell.watch(watch)

    def discard(self, ref: TrioActorRef[Any]) -> bool:
        watch = self._watches.pop(ref, None)
        if watch is None:
            return False
        ref.cell.unwatch(watch)
        return True

    def discard_all(self) -> None:
        for ref in list(self._watches):
            self.discard(ref)


class _Watch:
    __slots__ = ("_exit", "_inbox", "_ref", "_watches")

    def __init__(self, watches: dict[TrioActorRef[Any], _Watch], ref: TrioActorRef[Any], inbox: Inbox) -> None:
        self._watches = watches
        self._ref = ref
        self._inbox = inbox
        self._exit: Exit

    def notify(self, exit: Exit) -> None:
        """The watched has ended; on its thread, which may be another."""
        self._exit = exit
        with contextlib.suppress(ActorDeadError):
            self._inbox.push(Parcel(self._open, passes_bound=True))

    def _open(self) -> object:
        if self._watches.get(self._ref) is not self:
            return NOTHING  # no longer watched, or by an instance that has ended
        del self._watches[self._ref]
        return Terminated(self._ref, self._exit.reason, self._exit.error)
