"""How often processes may end unasked before that is the end of the program. Pure: times come in."""

from __future__ import annotations

from collections import deque
from typing import Final

from attrs import define, field

MAX_CRASHES: Final = 10
PERIOD_S: Final = 60.0
FIRST_WAIT_S: Final = 0.1
LAST_WAIT_S: Final = 5.0


@define(eq=False)
class Crashes:
    """Of all processes together."""

    _times: deque[float] = field(factory=deque)

    def count(self, now: float) -> float | None:
        """One more. How long to wait before its place is filled: not at all for the first in a while, doubling then.

        None: there were more than ``MAX_CRASHES`` in ``PERIOD_S``.
        """
        while self._times and self._times[0] <= now - PERIOD_S:
            self._times.popleft()
        before = len(self._times)
        self._times.append(now)
        if before >= MAX_CRASHES:
            return None
        return 0.0 if before == 0 else min(LAST_WAIT_S, FIRST_WAIT_S * 2.0 ** (before - 1))
