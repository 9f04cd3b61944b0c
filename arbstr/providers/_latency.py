"""Latency of one provider, remembered with decay: pure.

An observation weighs ``DECAY`` to the power of its age, counted in observations, so about the last 50 matter. The
distribution is a histogram whose buckets grow by 10 %: a percentile is off by at most 5 %, in constant memory.
"""

from __future__ import annotations

from math import ceil, exp, log
from typing import Final

from attrs import frozen

DECAY: Final = 0.98
_SMALLEST_S: Final = 0.001
_STEP: Final = log(1.1)
_BUCKETS: Final = 160
"""1 ms times 1.1 ** 159 is about an hour; longer observations fall into the last bucket."""
_RESCALE_AT: Final = 1e100


@frozen
class LatencySummary:
    """All None before the first observation."""

    mean_ms: float | None
    p50_ms: float | None
    p99_ms: float | None


class LatencyStats:
    """Decayed mean and percentiles of a duration, in milliseconds; None until the first observation."""

    __slots__ = ("_buckets", "_sum", "_total", "_weight", "count")

    def __init__(self) -> None:
        self.count = 0
        """Observations so far."""
        self._weight = 1.0  # of the next observation; grows instead of all old ones shrinking
        self._sum = 0.0
        self._total = 0.0
        self._buckets = [0.0] * _BUCKETS

    def record(self, duration_s: float) -> None:
        """Take one observation. Raises ValueError for a negative or non-finite duration."""
        if not 0 <= duration_s < float("inf"):
            raise ValueError(f"a duration must be finite and not negative, got {duration_s}")
        self.count += 1
        self._sum += self._weight * duration_s
        self._total += self._weight
        self._buckets[_bucket_of(duration_s)] += self._weight
        self._weight /= DECAY
        if self._weight > _RESCALE_AT:
            self._rescale()

    @property
    def mean_ms(self) -> float | None:
        return self._sum / self._total * 1_000 if self.count else None

    @property
    def p50_ms(self) -> float | None:
        return self._percentile_ms(0.50)

    @property
    def p99_ms(self) -> float | None:
        return self._percentile_ms(0.99)

    def summary(self) -> LatencySummary:
        return LatencySummary(self.mean_ms, self.p50_ms, self.p99_ms)

    def _percentile_ms(self, share: float) -> float | None:
        if not self.count:
            return None
        wanted, seen = share * self._total, 0.0
        last = 0
        for index, weight in enumerate(self._buckets):
            if weight:
                seen += weight
                last = index
                if seen >= wanted:
                    break
        return _middle_ms(last)

    def _rescale(self) -> None:
        factor = 1.0 / self._weight
        self._sum *= factor
        self._total *= factor
        self._buckets = [weight * factor for weight in self._buckets]
        self._weight = 1.0


def _bucket_of(duration_s: float) -> int:
    if duration_s <= _SMALLEST_S:
        return 0
    return min(ceil(log(duration_s / _SMALLEST_S) / _STEP), _BUCKETS - 1)


def _middle_ms(index: int) -> float:
    """Geometric middle of the bucket ``(1.1 ** (index - 1), 1.1 ** index]`` in milliseconds."""
    return _SMALLEST_S * 1_000 * exp(_STEP * (index - 0.5))
