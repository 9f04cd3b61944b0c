"""In which order to try those who may answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import gcd

from arbstr.config import Strategy
from arbstr.routing._offers import Row

GOLDEN = 0.618
"""A stride of this part of a circle comes close to no place twice before it has been everywhere."""

Priced = tuple[Row, int]
"""A row, and what this request is expected to cost there in units of 1/``row.price.denominator`` msat."""


def in_order(by_name: Sequence[Priced], strategy: Strategy, rotation: int) -> list[Priced]:
    """``cheapest``: expected cost, compared exactly (not after rounding to msat), then name. ``lowest_latency``: time
    to the first byte, the unmeasured first so that they get measured, then as ``cheapest``. ``round_robin``: by name,
    beginning elsewhere with each ``rotation``; a provider is first as often as its weight says, and after all others
    with weight 0.
    """
    if len(by_name) < 2:
        return list(by_name)
    if strategy is Strategy.ROUND_ROBIN:
        regulars = [one for one in by_name if one[0].offer.weight]
        reserves = [one for one in by_name if not one[0].offer.weight]
        return _turned(regulars, rotation) + _turned(reserves, rotation)
    cheapest = sorted(by_name, key=_comparable(by_name))  # stable: the name decides between equals
    if strategy is Strategy.LOWEST_LATENCY:
        cheapest.sort(key=lambda one: one[0].offer.ttfb_ms or 0.0)
    return cheapest


def _comparable(priced: Sequence[Priced]) -> Callable[[Priced], int]:
    """Costs as integers that compare as the exact costs do.

    Two fractions over b and d that differ, differ by 1/bd at least: cut after as many binary places as b and d have
    together, they still differ. A common multiple of all denominators would do too, and grows with every provider.
    """
    denominators = {row.price.denominator for row, _ in priced}
    if len(denominators) == 1:
        return lambda one: one[1]
    places = 2 * max(denominators).bit_length()
    return lambda one: (one[1] << places) // one[0].price.denominator


def _turned(by_name: list[Priced], rotation: int) -> list[Priced]:
    """``by_name`` from whoever's turn it is. One round has as many places as all weights together."""
    if len(by_name) < 2:
        return by_name
    weights = [max(1, row.offer.weight) for row, _ in by_name]
    shared = gcd(*weights)
    places = sum(weights) // shared
    place = rotation * _stride(places, len(by_name)) % places
    first = 0
    while place >= weights[first] // shared:
        place -= weights[first] // shared
        first += 1
    return by_name[first:] + by_name[:first]


def _stride(places: int, providers: int) -> int:
    """From one place to the next: all are met before any is met again, and a heavy provider's not one after another."""
    if places == providers:
        return 1
    stride = max(1, int(places * GOLDEN))
    while gcd(stride, places) != 1:
        stride += 1
    return stride
