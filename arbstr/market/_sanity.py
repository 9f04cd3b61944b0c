"""Which prices of a market cannot be meant: negative, nothing where others charge, or absurdly far away (M9).

Pure: takes all listings of one moment and gives the reason for each that is quarantined. Knows nothing of feeds,
providers or money; the rates of all listings of one call are in one unit, whichever it is.

The rule for distance, and what it was chosen over. A rate's distance is how many times it is above or below the median
of the *other* hosts of its model; where their number is even, the nearer of the two middle rates is taken. A listing is
too far when the geometric mean of its distances (input and output) reaches the factor. Judged by the public price
history of 2025-02 to 2026-07 (``python -m bench price-history``), rows with three other hosts or more, 50 of them
known to be wrong, 1,690 honest; factor 8:

==================================================  ==========  ====================
rule                                                caught      honest ones hit
==================================================  ==========  ====================
either rate too far                                 50          27 (1.60 %)
both rates too far, in one direction                48          8 (0.47 %)
geometric mean, mean of the two middle rates        50          16 (0.95 %)
geometric mean, nearer middle rate (this one)       50          13 (0.77 %)
the same at factor 6 / 10                           50 / 48     28 (1.66 %) / 7 (0.41 %)
==================================================  ==========  ====================

A host that gives one of the two rates away, or asks double for the one, is common and honest; a mistaken unit moves
both. That is why the two are judged together.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Final, NamedTuple

from attrs import frozen

FACTOR: Final = Fraction(8)
"""The cheapest real hosts of a model ask up to five times less than the median of the others."""
MIN_OTHERS: Final = 3
"""Other hosts that must charge for a model before distance is judged: two may both be the odd ones."""

_GRAIN: Final = 10**18
"""Rates are compared as integers of this part of the unit: no rate in use is finer, and integers sort fast."""


@frozen
class Listing:
    """What one host asks for one model. Rates in any unit that is the same for all, exact."""

    host: str
    model: str
    input_rate: Fraction
    output_rate: Fraction
    trusted: bool = False
    """The operator's own word: evidence about the others, never quarantined itself. Where it is free of charge it is
    no evidence: a machine of one's own says nothing about what a market asks."""


def quarantined(
    listings: Sequence[Listing], *, factor: Fraction | int = FACTOR, unit: str = "sats per 1M tokens"
) -> dict[int, str]:
    """The reason for each listing that must not be bought, by its position. ``unit`` is the word for the reasons.

    * A negative rate is always out.
    * A rate of 0 is out when at least half of the other hosts charge for it. A model that is free everywhere is free.
    * Otherwise the distance from the other hosts decides (above), where at least three of them charge.

    A host counts once, with the middle one of its listings of the model, however many it has. Negative rates and zeros
    are no evidence. Listings that are out are none either: all are judged once against everything, and then again
    against those that passed; where fewer than three of these are left, the first judgement stands. A majority of
    honest hosts is enough.
    """
    by_model: defaultdict[str, list[int]] = defaultdict(list)
    for at, listing in enumerate(listings):
        by_model[listing.model].append(at)
    found: dict[int, str] = {}
    for members in by_model.values():
        found.update(_judge_model(listings, members, Fraction(factor), unit))
    return dict(sorted(found.items()))


class _Rates(NamedTuple):
    """Both rates of a listing in grains."""

    input: int
    output: int


class _Distance(NamedTuple):
    """How far a rate is from ``middle``, as an exact ratio of at least one."""

    high: int
    low: int
    middle: int
    others: int


def _judge_model(listings: Sequence[Listing], members: list[int], factor: Fraction, unit: str) -> dict[int, str]:
    found: dict[int, str] = {}
    rates: dict[int, _Rates] = {}
    for at in members:
        listing = listings[at]
        if listing.input_rate.numerator >= 0 and listing.output_rate.numerator >= 0:
            rates[at] = _Rates(_grains(listing.input_rate), _grains(listing.output_rate))
        elif not listing.trusted:
            found[at] = _negative(listing, unit)
    first = _too_far(listings, rates, rates, factor, unit)
    passed = [at for at in rates if first[at] in ("", None)]
    second = _too_far(listings, rates, passed, factor, unit) if len(passed) < len(rates) else first
    for at in rates:
        # None: nothing to judge by. An acquittal by fewer witnesses than the charge had does not count.
        reason = first[at] if second[at] is None else second[at]
        if reason:
            found[at] = reason
    return found


def _too_far(
    listings: Sequence[Listing], rates: dict[int, _Rates], evidence: Iterable[int], factor: Fraction, unit: str
) -> dict[int, str | None]:
    """For each listing the reason why it is out, "" when it is not, None when there is too little to judge by."""
    evidence = list(evidence)
    books = [_Book(listings, rates, evidence, side) for side in (0, 1)]
    return {at: "" if listings[at].trusted else _verdict(listings[at], rates[at], books, factor, unit) for at in rates}


def _verdict(listing: Listing, rates: _Rates, books: list[_Book], factor: Fraction, unit: str) -> str | None:
    for name, rate, book in zip(("input", "output"), rates, books, strict=True):
        charging, free = book.others(listing.host)
        if rate == 0 and charging and charging >= free:
            return f"{name} rate is 0 where {charging} of {_hosts(charging + free)} charge"
    distances = [
        distance
        for rate, book in zip(rates, books, strict=True)
        if rate and (distance := book.distance(listing.host, rate)) is not None
    ]
    if not distances:
        return None
    high = low = 1
    for distance in distances:
        high, low = high * distance.high, low * distance.low
    if high * factor.denominator ** len(distances) < low * factor.numerator ** len(distances):
        return ""
    parts = (
        f"{name} rate {_shown(rate)} is {_times(rate, distance)}, the median of {_hosts(distance.others)}"
        for name, rate, distance in _paired(rates, books, listing.host)
    )
    return f"{', and '.join(parts)} ({unit}); the limit is {_number(factor)} times"


def _paired(rates: _Rates, books: list[_Book], host: str) -> Iterable[tuple[str, int, _Distance]]:
    for name, rate, book in zip(("input", "output"), rates, books, strict=True):
        if rate and (distance := book.distance(host, rate)) is not None:
            yield name, rate, distance


class _Book:
    """What the hosts of one model ask on one side (input or output), ready to leave any one of them out."""

    def __init__(self, listings: Sequence[Listing], rates: dict[int, _Rates], evidence: list[int], side: int) -> None:
        asked: defaultdict[str, list[int]] = defaultdict(list)
        free: set[str] = set()
        for at in evidence:
            listing, rate = listings[at], rates[at][side]
            if rate:
                asked[listing.host].append(rate)
            elif not listing.trusted:
                free.add(listing.host)
        self._level = {host: sorted(all_rates)[(len(all_rates) - 1) // 2] for host, all_rates in asked.items()}
        self._free = free - self._level.keys()
        self._sorted = sorted(self._level.values())

    def others(self, host: str) -> tuple[int, int]:
        """How many other hosts charge, and how many do not."""
        return len(self._level) - (host in self._level), len(self._free) - (host in self._free)

    def distance(self, host: str, rate: int) -> _Distance | None:
        """From the nearer middle rate of the other hosts; None when too few of them charge."""
        level = self._level.get(host)
        count = len(self._sorted) - (level is not None)
        if count < MIN_OTHERS:
            return None
        gap = len(self._sorted) if level is None else bisect_left(self._sorted, level)
        below, above = (
            self._sorted[place + (place >= gap)] for place in ((count - 1) // 2, count // 2)
        )  # as if the host's own were not in the list
        middle = min(max(rate, below), above)
        return _Distance(max(rate, middle), min(rate, middle), middle, count)


def _grains(rate: Fraction) -> int:
    """Nearest, but what is not nothing stays something."""
    scaled = (2 * rate.numerator * _GRAIN + rate.denominator) // (2 * rate.denominator)
    return scaled if scaled or not rate.numerator else 1


def _negative(listing: Listing, unit: str) -> str:
    sides = (("input", listing.input_rate), ("output", listing.output_rate))
    return " and ".join(f"{name} rate {_number(rate)} is negative" for name, rate in sides if rate < 0) + f" ({unit})"


def _hosts(count: int) -> str:
    return f"{count} other {'host' if count == 1 else 'hosts'}"


def _times(rate: int, distance: _Distance) -> str:
    ratio = _number(Fraction(distance.high, distance.low))
    where = "above" if rate > distance.middle else "below"
    return f"{ratio} times {where} {_shown(distance.middle)}"


def _shown(grains: int) -> str:
    return _number(Fraction(grains, _GRAIN))


def _number(value: Fraction) -> str:
    """For reading: three digits that count, whole above a hundred."""
    size = abs(value)
    if size >= 100:
        return f"{round(value):,}"
    places = 2
    while size and places < 12 and size * 10**places < 100:
        places += 1
    scaled = round(value * 10**places)
    text = f"{abs(scaled) // 10**places}.{abs(scaled) % 10**places:0{places}d}".rstrip("0").rstrip(".")
    return f"-{text}" if scaled < 0 else text
