"""What do hosts of one model ask, in sats? List prices in USD, converted exactly, or a seeded generator."""

from __future__ import annotations

import csv
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from pathlib import Path

from attrs import frozen

from arbstr.units import Price

DEFAULT_FAMILY = "llama-3.3-70b"
"""The family with the most hosts whose rows are near equal in what they run (44 hosts; kimi-k2.6 has 49)."""

BTC_USD = Decimal("81996.44")
"""Median of the 21,043 hourly closes from 2024-01-01 to 2026-05-26 in ``btcusd_hourly.csv.gz``. A stated constant, so
that two runs of the bench pay the same sats."""

SATS_PER_BTC = Decimal(100_000_000)
RATE_STEP = Decimal("0.001")
RATE_UNIT = "sats_per_1m_tokens"

GENERATED_MEDIAN_INPUT, GENERATED_MEDIAN_OUTPUT, GENERATED_SIGMA = 200.0, 600.0, 0.6


class PriceListError(Exception):
    """A price list that cannot be used; the message says which and why."""


@frozen
class HostPrice:
    """One host and its rates in sats per 1,000,000 tokens, exact. ``name`` fits a configuration file and a URL."""

    name: str
    input_rate: Decimal
    output_rate: Decimal

    @property
    def price(self) -> Price:
        return Price.of(self.input_rate, self.output_rate, unit=RATE_UNIT)

    @property
    def blended(self) -> Decimal:
        """Three prompt tokens to one completion token; only for putting hosts in an order."""
        return 3 * self.input_rate + self.output_rate


def sats_per_1m(usd_per_1m: Decimal, btc_usd: Decimal = BTC_USD) -> Decimal:
    """Convert USD to sats, to the nearest 0.001 sat (half to even); no float takes part."""
    return (usd_per_1m * SATS_PER_BTC / btc_usd).quantize(RATE_STEP, rounding=ROUND_HALF_EVEN)


def read_prices(path: Path, family: str = DEFAULT_FAMILY) -> list[HostPrice]:
    """The hosts of one family, cheapest first. Rows marked ``suspect`` are left out; a host with several rows is
    taken at its cheapest one. Raises PriceListError."""
    try:
        with path.open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row.get("family") == family]
    except OSError as error:
        raise PriceListError(f"{path}: cannot be read: {error}") from None
    if not rows:
        raise PriceListError(f"{path}: no rows of family {family!r}")
    hosts = cheapest_per_host(rows)
    if len(hosts) < 4:
        raise PriceListError(f"{path}: family {family!r} has {len(hosts)} usable hosts, 4 are needed")
    return hosts


def cheapest_per_host(rows: Iterable[Mapping[str, str]]) -> list[HostPrice]:
    best: dict[str, HostPrice] = {}
    for row in rows:
        if row["suspect"] != "0":
            continue
        host = HostPrice(_name(row["provider"]), _usd(row["usd_in_per_m"]), _usd(row["usd_out_per_m"]))
        known = best.get(host.name)
        if known is None or (host.blended, host.output_rate) < (known.blended, known.output_rate):
            best[host.name] = host
    return in_order(best.values())


def _usd(text: str) -> Decimal:
    try:
        value = Decimal(text)
    except InvalidOperation:
        raise PriceListError(f"a price is not a number: {text!r}") from None
    if not value.is_finite() or value < 0:
        raise PriceListError(f"a price must be finite and not negative: {text!r}")
    return sats_per_1m(value)


def _name(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def in_order(hosts: Iterable[HostPrice]) -> list[HostPrice]:
    return sorted(hosts, key=lambda host: (host.blended, host.name))


def spread(hosts: Sequence[HostPrice], count: int) -> list[HostPrice]:
    """``count`` of the hosts, evenly over the order, first and last included."""
    if count >= len(hosts):
        return list(hosts)
    return [hosts[rank * (len(hosts) - 1) // (count - 1)] for rank in range(count)]


def generate_prices(count: int, seed: int) -> list[HostPrice]:
    """Lognormal rates around the medians above, cheapest first; the same seed gives the same list."""
    draw = random.Random(seed)

    def rate(median: float) -> Decimal:
        return Decimal(str(median * draw.lognormvariate(0.0, GENERATED_SIGMA))).quantize(RATE_STEP)

    return in_order(
        HostPrice(f"host-{number:02d}", rate(GENERATED_MEDIAN_INPUT), rate(GENERATED_MEDIAN_OUTPUT))
        for number in range(count)
    )
