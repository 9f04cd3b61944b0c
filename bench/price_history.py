"""Would the price sanity of the market have caught the wrong listings of the past, and left the honest ones alone?

Every listing that was added or changed in a public price history is judged against the book of its family at that
moment by the rule that the running market uses. The goal is stated, and missing it is a finding.
"""

from __future__ import annotations

import csv
import gzip
from collections import defaultdict
from collections.abc import Iterable, Mapping
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from pathlib import Path

from attrs import define, field, frozen

from arbstr.market import Listing, quarantined
from bench import machine, render
from bench.prices import PriceListError

EVENTS = ("new", "change", "removed")
COLUMNS = ("source", "unix", "family", "provider", "model_id", "usd_in_per_m", "usd_out_per_m", "event", "suspect")
MIN_OTHER_HOSTS = 3
MIN_CAUGHT = Fraction(48, 50)
"""Share of the wrong rows that must be caught."""
MAX_HIT = Fraction(1, 100)
"""Share of the honest rows that may be quarantined beside them."""


@frozen
class Row:
    """One edit of a price list. ``provider`` is empty where a removal names only the listing."""

    unix: int
    source: str
    family: str
    provider: str
    model_id: str
    input_rate: Fraction
    output_rate: Fraction
    event: str
    suspect: bool

    @property
    def listing(self) -> Listing:
        return Listing(self.provider, self.family, self.input_rate, self.output_rate)


@define
class Verdicts:
    """The counts. ``alone`` rows had fewer than three other hosts and are no part of the goal."""

    caught: int = 0
    missed: int = 0
    honest: int = 0
    hit: int = 0
    alone: int = 0
    missed_rows: list[str] = field(factory=list)
    hit_rows: list[str] = field(factory=list)

    @property
    def clean(self) -> bool:
        wrong, honest = self.caught + self.missed, self.honest + self.hit
        return self.caught >= MIN_CAUGHT * wrong and self.hit <= MAX_HIT * honest

    def count(self, row: Row, reason: str | None) -> None:
        if row.suspect:
            self.caught += reason is not None
            self.missed += reason is None
            if reason is None:
                self.missed_rows.append(_named(row))
        else:
            self.hit += reason is not None
            self.honest += reason is None
            if reason is not None:
                self.hit_rows.append(f"{_named(row)}: {reason}")


def _named(row: Row) -> str:
    return f"{row.family} at {row.provider} ({row.model_id})"


class Book:
    """The listings of one family that stand at one moment."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str, str], Row] = {}

    def apply(self, row: Row) -> None:
        """Add, change or remove. A removal that names no provider takes the listing with that name in its source."""
        key = (row.source, row.model_id, row.provider)
        if row.event != "removed":
            self._rows[key] = row
            return
        same = [each for each in self._rows if each[:2] == key[:2] and row.provider in ("", each[2])]
        for each in same[:1]:
            del self._rows[each]

    def other_hosts(self, row: Row) -> int:
        return len({each.provider for each in self._rows.values()} - {row.provider})

    def judge(self, row: Row) -> str | None:
        """Why ``row``, which stands in the book, is quarantined; None when it is not."""
        at = list(self._rows.values()).index(row)
        return quarantined([each.listing for each in self._rows.values()], unit="usd per 1M tokens").get(at)


def read_history(path: Path) -> list[Row]:
    """The edits, earliest first, in the order of the file where they have one time. Raises PriceListError."""
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", newline="") as file:
            rows = [_row(path, number, raw) for number, raw in enumerate(csv.DictReader(file), 2)]
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise PriceListError(f"{path}: cannot be read: {error}") from None
    if not rows:
        raise PriceListError(f"{path}: no rows below the header")
    return sorted(rows, key=lambda row: row.unix)


def _row(path: Path, number: int, raw: Mapping[str, str | None]) -> Row:
    absent = [name for name in COLUMNS if raw.get(name) is None]
    if absent:
        raise PriceListError(f"{path}:{number}: no {', '.join(absent)}")
    text = {name: raw[name] or "" for name in COLUMNS}
    if text["event"] not in EVENTS or text["suspect"] not in ("0", "1"):
        raise PriceListError(f"{path}:{number}: event {text['event']!r}, suspect {text['suspect']!r} are not known")
    try:
        input_rate, output_rate = (_rate(text[name]) for name in ("usd_in_per_m", "usd_out_per_m"))
        unix = int(text["unix"])
    except (InvalidOperation, ValueError):
        raise PriceListError(f"{path}:{number}: a time or a price is not a number") from None
    return Row(
        unix=unix,
        source=text["source"],
        family=text["family"],
        provider=text["provider"],
        model_id=text["model_id"],
        input_rate=input_rate,
        output_rate=output_rate,
        event=text["event"],
        suspect=text["suspect"] == "1",
    )


def _rate(text: str) -> Fraction:
    value = Decimal(text)
    if not value.is_finite() or abs(value.adjusted()) > 18:
        raise ValueError(text)
    return Fraction(value)


def replay(rows: Iterable[Row]) -> Verdicts:
    """Judge each new or changed row at its moment."""
    books: defaultdict[str, Book] = defaultdict(Book)
    verdicts = Verdicts()
    for row in rows:
        book = books[row.family]
        book.apply(row)
        if row.event == "removed":
            continue
        if book.other_hosts(row) < MIN_OTHER_HOSTS:
            verdicts.alone += 1
            continue
        verdicts.count(row, book.judge(row))
    return verdicts


async def main(history: Path, json_file: Path | None) -> int:
    """The verb: replay, print, write. Exit code 1 when the goal is missed."""
    verdicts = replay(read_history(history))
    wrong, honest = verdicts.caught + verdicts.missed, verdicts.honest + verdicts.hit
    share = 100 * verdicts.hit / honest if honest else 0.0
    print(f"wrong prices: {verdicts.caught} of {wrong} caught (goal: {float(100 * MIN_CAUGHT):g} %)")
    print(f"honest prices: {verdicts.hit} of {honest} quarantined, {share:.2f} % (goal: at most 1 %)")
    print(f"not judged, fewer than {MIN_OTHER_HOSTS} other hosts: {verdicts.alone}")
    for line in verdicts.missed_rows:
        print(f"  missed: {line}")
    for line in verdicts.hit_rows:
        print(f"  quarantined: {line}")
    print("the goal is reached" if verdicts.clean else "the goal is MISSED")
    if json_file is not None:
        render.write_json(json_file, "price-history", {**machine.facts(), "history": history.name}, verdicts)
    return 0 if verdicts.clean else 1
