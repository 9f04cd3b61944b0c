"""Whom to try next, and when: rounds over the candidates. Pure: times come in, decisions go out.

The first round tries everybody once, in order and at once. Another round begins only when somebody failed in a way that
is worth another try; it waits first, ever longer, and is over those alone, and over those who had no room when they
were asked. Who is not reported as worth it (it may have done the work, or refuses us) is never tried again.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from attrs import frozen

MAX_RETRY_AFTER_S = 60.0
"""A provider that asks for a longer pause is not waited for: this request is not tried there again."""


@frozen
class Wait:
    """Do nothing for ``seconds``, then ask again."""

    seconds: float


class Plan:
    """Ask ``next`` until it is None, and report what came of each try before the next question.

    Candidates are numbers from 0 on. ``retries`` is the most further rounds, so also the most further tries of each.
    The n-th wait is ``backoff_s * 2**(n - 1)``, shortened at random by up to a half, or the shortest time that one of
    those to be tried asked for, if that is longer. No wait ends at or behind ``deadline``. ``chance`` gives numbers
    from 0 to 1.
    """

    __slots__ = ("_backoff_s", "_chance", "_deadline", "_ready", "_retries", "_round", "_shut", "_waits")

    def __init__(
        self,
        candidates: int,
        *,
        retries: int,
        backoff_s: float,
        deadline: float,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._round: Sequence[int] = range(candidates)
        self._retries = retries
        self._backoff_s = backoff_s
        self._deadline = deadline
        self._chance = chance
        self._ready: dict[int, float] = {}  # worth another try -> from when on
        self._shut: list[int] = []
        self._waits = 0

    def next(self, now: float) -> int | Wait | None:
        """The candidate to try now, or how long to wait before asking again; None: it is over."""
        if self._round:
            first, self._round = self._round[0], self._round[1:]
            return first
        if not self._ready or self._waits >= self._retries:
            return None
        seconds = max(self._pause_s(), min(self._ready.values()) - now)
        begins = now + seconds
        if begins >= self._deadline:
            return None
        self._waits += 1
        due = [one for one, at in self._ready.items() if at <= begins]
        for one in due:
            del self._ready[one]
        self._round = sorted([*due, *self._shut])
        self._shut = []
        return Wait(seconds)

    def _pause_s(self) -> float:
        return self._backoff_s * float(2**self._waits) * (1 - self._chance() / 2)

    def failed(self, candidate: int, now: float, retry_after_s: float | None) -> None:
        """It failed, and another try may go well, ``retry_after_s`` from now at the earliest if it said so."""
        if retry_after_s is None:
            self._ready[candidate] = now
        elif retry_after_s <= MAX_RETRY_AFTER_S:
            self._ready[candidate] = now + retry_after_s

    def shut(self, candidate: int) -> None:
        """It could not be tried. A later round asks again, but none is begun for that alone."""
        self._shut.append(candidate)
