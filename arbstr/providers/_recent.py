"""How many requests came back lately, and how many of them by the provider's fault: pure.

Each count fades by ``e`` in a minute, so that under an even load it is about the number of the last minute. Two floats
and a time, whatever the load.
"""

from __future__ import annotations

from math import exp
from typing import Final

from attrs import frozen

FADE_S: Final = 60.0


@frozen
class RecentCounts:
    """Faded counts as they were at ``at`` (seconds of the clock that fed them). They go on fading: ask with a time."""

    at: float = 0.0
    requests_then: float = 0.0
    errors_then: float = 0.0

    def requests(self, now: float) -> float:
        """Of about the last minute."""
        return self.requests_then * _faded(now - self.at)

    def errors(self, now: float) -> float:
        """Of about the last minute: those that failed by the provider's doing."""
        return self.errors_then * _faded(now - self.at)

    @property
    def error_share(self) -> float:
        """Errors by requests, 0 to 1; 0 when there were none. Fading does not change it."""
        return self.errors_then / self.requests_then if self.requests_then else 0.0


NONE_RECENT: Final = RecentCounts()


class Recent:
    """The counter itself. Times never decrease."""

    __slots__ = ("_at", "_errors", "_requests")

    def __init__(self) -> None:
        self._at = 0.0
        self._requests = 0.0
        self._errors = 0.0

    def record(self, now: float, *, error: bool) -> None:
        """Count one request that has come back."""
        if now != self._at:
            fade = _faded(now - self._at)
            self._requests *= fade
            self._errors *= fade
            self._at = now
        self._requests += 1.0
        if error:
            self._errors += 1.0

    def counts(self) -> RecentCounts:
        """As of the last request; the value fades by itself."""
        return RecentCounts(self._at, self._requests, self._errors)


def _faded(elapsed_s: float) -> float:
    return exp(-elapsed_s / FADE_S)
