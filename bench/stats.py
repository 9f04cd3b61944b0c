"""Which number stands for many?"""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil


def percentile(values: Iterable[float], share: float) -> float | None:
    """Nearest rank: the smallest value with at least ``share`` (0..1] of all values at or below it. None when empty."""
    if not 0 < share <= 1:
        raise ValueError(f"share must lie in (0, 1], got {share}")
    ordered = sorted(values)
    return ordered[ceil(share * len(ordered)) - 1] if ordered else None


def milliseconds(values_s: Iterable[float], share: float) -> float | None:
    """A percentile of seconds, in milliseconds with three decimals."""
    value = percentile(values_s, share)
    return None if value is None else round(value * 1_000, 3)
