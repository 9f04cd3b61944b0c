"""What an actor has done so far. The counting is in the actor's loop; here are the numbers and their sum."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import copy
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from actors._dead_letters import Reason
    from actors._inbox import Inbox

__all__ = ["ActorStatistics", "SystemStatistics", "Tally", "Totals", "of_actor", "of_system"]


@dataclass(frozen=True, slots=True)
class ActorStatistics:
    """One look at an actor; after its end, the last one.

    ``depth``: messages queued now; ``high_water``: the most there have been; ``capacity``: the bound, which messages of
    the system pass. ``handled``: messages whose handler has ended; ``failed``: those of them that raised, whoever was
    told. ``skipped``: asks not begun because the asker was gone. ``refused``: messages that found no room and were
    handed back, and those that DROP_OLDEST has pushed out. ``restarts``: by a supervisor. ``busy_s``: seconds from
    taking a message to being ready for the next, waits of async handlers included, on the machine's clock even where
    Trio's is virtual.
    """

    depth: int
    high_water: int
    capacity: int
    handled: int
    failed: int
    restarts: int
    skipped: int
    refused: int
    busy_s: float


@dataclass(frozen=True, slots=True)
class SystemStatistics:
    """One look at a system. ``actors``: those that live now, and ``depth`` theirs; the other numbers are of all actors
    since the system started. ``high_water``: the most messages any one inbox has held. ``dead_letters``: by reason.
    """

    actors: int
    started: int
    depth: int
    high_water: int
    handled: int
    failed: int
    restarts: int
    skipped: int
    refused: int
    busy_s: float
    dead_letters: Mapping[Reason, int]


class Tally:
    """The running numbers of one actor, written by its own task only and read from anywhere.

    ``busy_since`` is set while messages are handled: once per burst, since two looks at the clock cost 0.1 µs, which is
    too much for each message and nothing for thirty-two.
    """

    __slots__ = ("busy_s", "busy_since", "failed", "handled", "restarts", "skipped")

    def __init__(self) -> None:
        self.handled = self.failed = self.skipped = self.restarts = 0
        self.busy_s = 0.0
        self.busy_since: float | None = None

    def rest(self) -> None:
        """No message in hand any more."""
        since, self.busy_since = self.busy_since, None
        if since is not None:
            self.busy_s += perf_counter() - since

    def busy_until_now_s(self) -> float:
        since = self.busy_since
        return self.busy_s if since is None else self.busy_s + perf_counter() - since


def of_actor(inbox: Inbox) -> ActorStatistics:
    """The numbers of one actor."""
    tally = inbox.tally
    return ActorStatistics(
        depth=inbox.depth,
        high_water=inbox.high_water,
        capacity=inbox.capacity,
        handled=tally.handled,
        failed=tally.failed,
        restarts=tally.restarts,
        skipped=tally.skipped,
        refused=inbox.refused,
        busy_s=tally.busy_until_now_s(),
    )


class Totals:
    """Sums over actors, one added after the other."""

    def __init__(self) -> None:
        self.actors = 0
        self.depth = self.high_water = self.handled = self.failed = self.restarts = self.skipped = self.refused = 0
        self.busy_s = 0.0

    def add(self, inbox: Inbox) -> None:
        tally = inbox.tally
        self.actors += 1
        self.depth += inbox.depth
        self.high_water = max(self.high_water, inbox.high_water)
        self.handled += tally.handled
        self.failed += tally.failed
        self.restarts += tally.restarts
        self.skipped += tally.skipped
        self.refused += inbox.refused
        self.busy_s += tally.busy_until_now_s()


def of_system(ended: Totals, living: Iterable[Inbox], letters: Mapping[Reason, int]) -> SystemStatistics:
    """The numbers of a system: of the actors that have ended and of those that live."""
    all_of_them = copy(ended)
    for inbox in living:
        all_of_them.add(inbox)
    sums = vars(all_of_them)
    started = sums.pop("actors")
    return SystemStatistics(actors=started - ended.actors, started=started, dead_letters=letters, **sums)
