"""Deadlines of many waiting tasks, and the timers of actors, on one timer task.

A cancel scope per ask costs about 10 µs, most of an ask, and nearly every ask is answered long before its deadline. So
asks put an entry on a heap instead, and one task of the system sleeps until the earliest. Entries that are no longer
needed stay on the heap, empty, until their time comes or until they outnumber the live ones.
"""

from __future__ import annotations

import heapq
import itertools
import math
from typing import Any, Protocol

import trio

__all__ = ["Deadlines"]

_TIDY_ABOVE = 1_000  # empty entries that are tolerated on top of as many as there are live ones

# [time on Trio's clock, tie-breaker, waker or None once it is no longer needed]: a list, because heapq compares lists
# in C and because it can be emptied in place.
Entry = list[Any]


class Resumable(Protocol):
    def resume(self) -> None:
        """The time has come. Must not raise."""


class Deadlines:
    """All methods belong to one Trio run. ``run`` is the timer task; without it nothing ever expires."""

    def __init__(self) -> None:
        self._heap: list[Entry] = []
        self._live = 0
        self._order = itertools.count()
        self._sleep = trio.CancelScope()

    def add(self, at: float, waker: Resumable) -> Entry:
        """Have ``waker`` woken at ``at`` (Trio's clock), unless the entry is discarded before."""
        entry: Entry = [at, next(self._order), waker]
        heapq.heappush(self._heap, entry)
        self._live += 1
        if at < self._sleep.deadline:
            self._sleep.deadline = at
        return entry

    def discard(self, entry: Entry) -> None:
        """The deadline is no longer needed. Harmless after it has expired."""
        if entry[2] is None:
            return
        entry[2] = None
        self._live -= 1
        if len(self._heap) > 2 * self._live + _TIDY_ABOVE:
            self._heap = [each for each in self._heap if each[2] is not None]
            heapq.heapify(self._heap)

    async def run(self) -> None:
        """Expire entries for ever; ended by cancellation."""
        while True:
            with trio.CancelScope(deadline=self._next()) as self._sleep:
                await trio.sleep_forever()
            self._expire(trio.current_time())

    def _next(self) -> float:
        while self._heap and self._heap[0][2] is None:
            heapq.heappop(self._heap)
        at: float = self._heap[0][0] if self._heap else math.inf
        return at

    def _expire(self, now: float) -> None:
        while self._next() <= now:
            entry = heapq.heappop(self._heap)
            waker: Resumable = entry[2]
            self.discard(entry)
            waker.resume()
