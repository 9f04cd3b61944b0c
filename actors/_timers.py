"""Messages that an actor sends itself later. On Trio's clock, all on the one timer task of the system."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import trio

from actors._errors import ActorDeadError
from actors._inbox import Envelope
from actors._parcel import NOTHING, Parcel

if TYPE_CHECKING:
    from actors._deadlines import Entry
    from actors._inbox import Inbox
    from actors._system import ActorSystem

__all__ = ["Timer", "Timers"]


class Timers:
    """Those of one instance of an actor. On its thread."""

    def __init__(self, system: ActorSystem, inbox: Inbox) -> None:
        self.system = system
        self.inbox = inbox
        self.active: set[Timer] = set()

    def start(self, first_s: float, period_s: float | None, message: Any) -> Timer:
        if not 0 <= first_s < math.inf:
            raise ValueError(f"a timer needs a finite time that is not negative, not {first_s} s")
        if period_s is not None and not 0 < period_s < math.inf:
            raise ValueError(f"a timer needs a finite period above zero, not {period_s} s")
        timer = Timer(self, message, trio.current_time() + first_s, period_s)
        self.active.add(timer)
        return timer

    def cancel_all(self) -> None:
        for timer in list(self.active):
            timer.cancel()


class Timer:
    """From ``send_after`` or ``send_every``. On the thread of its actor.

    ``dropped``: ticks that were due and not sent, because the inbox was full, the tick before was still queued, or the
    loop was late by more than a period.
    """

    __slots__ = ("_at", "_entry", "_message", "_period_s", "_queued", "_timers", "dropped")

    def __init__(self, timers: Timers, message: Any, at: float, period_s: float | None) -> None:
        self._timers = timers
        self._message = message
        self._period_s = period_s
        self._at = at
        self._queued = False
        self.dropped = 0
        self._entry: Entry | None = timers.system.deadlines.add(at, self)

    @property
    def active(self) -> bool:
        """A message is still to come: neither cancelled nor, if it was for once, begun to be handled or dropped."""
        return self in self._timers.active

    def cancel(self) -> bool:
        """No message of this timer is handled from now on, also none that is queued. False if none was to come."""
        if self not in self._timers.active:
            return False
        self._timers.active.discard(self)
        if self._entry is not None:
            self._timers.system.deadlines.discard(self._entry)
        self._message = None
        return True

    def resume(self) -> None:
        """The time has come; called by the timer task."""
        self._entry = None
        if self._queued or not self._send():
            self.dropped += 1
        if self._period_s is not None:
            self._entry = self._timers.system.deadlines.add(self._next(self._period_s), self)
        elif not self._queued:
            self._timers.active.discard(self)

    def _send(self) -> bool:
        inbox = self._timers.inbox
        self._queued = True  # first: an inbox that drops messages may open this one on the spot
        try:
            if inbox.offer(Envelope(Parcel(self._open, passes_bound=False))):
                return True
            inbox.dead_letter(self._message, "full")
        except ActorDeadError:  # it is about to end, and this timer with it
            pass
        self._queued = False
        return False

    def _next(self, period_s: float) -> float:
        now = trio.current_time()
        missed = max(0, math.floor((now - self._at) / period_s))
        self.dropped += missed
        self._at = max(self._at + (missed + 1) * period_s, math.nextafter(now, math.inf))
        return self._at

    def _open(self) -> Any:
        self._queued = False
        if self not in self._timers.active:
            return NOTHING
        if self._period_s is None:
            self._timers.active.discard(self)
        return self._message
