"""Whom would each way of choosing have picked? Families of hosts, and rules that see only a list of prices."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from itertools import groupby
from pathlib import Path

from attrs import frozen

from arbstr.config import Model, Tier
from arbstr.routing import Offer, Offers
from arbstr.units import Price
from bench.prices import RATE_STEP, RATE_UNIT, PriceListError, sats_per_1m

MODEL = "any-family"
"""What every family is called. All are asked the same requests, so one memory of their lengths serves for all."""


@frozen
class Host:
    """One listing of one family. Rates are in steps of 0.001 sat per 1,000,000 tokens, so that costs are integers."""

    name: str
    input_rate: int
    output_rate: int

    @property
    def price(self) -> Price:
        return Price.of(self.input_rate * RATE_STEP, self.output_rate * RATE_STEP, unit=RATE_UNIT)

    def cost(self, prompt_tokens: int, completion_tokens: int) -> int:
        """In 1e-9 sat, exact."""
        return prompt_tokens * self.input_rate + completion_tokens * self.output_rate


@frozen
class Family:
    """All hosts of one model. ``suspect`` ones are on offer too, as quarantined: nobody may pick them."""

    name: str
    hosts: tuple[Host, ...]
    suspect: tuple[Host, ...] = ()

    def offers(self) -> Offers:
        good = [_offer(host, None) for host in self.hosts]
        return Offers.of(good + [_offer(host, "suspect price") for host in self.suspect])

    def frontier(self) -> tuple[Host, ...]:
        """The hosts that are the cheapest for some mix of tokens, by name: whoever looks for the cheapest picks one."""
        by_input = sorted(self.hosts, key=lambda host: (host.input_rate, host.output_rate, host.name))
        kept: list[Host] = []
        for host in by_input:
            if kept and host.output_rate >= kept[-1].output_rate:
                continue
            while len(kept) > 1 and _is_never_least(kept[-1], kept[-2], host):
                kept.pop()
            kept.append(host)
        return tuple(sorted(kept, key=lambda host: host.name))


def _is_never_least(middle: Host, before: Host, after: Host) -> bool:
    """Whether ``before`` or ``after`` costs no more for every mix: ``middle`` is not below the line between them."""
    rise = (middle.input_rate - before.input_rate) * (before.output_rate - after.output_rate)
    fall = (after.input_rate - before.input_rate) * (before.output_rate - middle.output_rate)
    return rise >= fall


def _offer(host: Host, excluded: str | None) -> Offer:
    return Offer(host.name, (Model(MODEL, excluded=excluded),), host.price, Tier.STANDARD)


def read_families(path: Path) -> tuple[Family, ...]:
    """Every row of a ``provider_prices.csv`` is a host of its family. Raises PriceListError."""
    try:
        with path.open(newline="") as file:
            rows = sorted(csv.DictReader(file), key=lambda row: row["family"])
            return tuple([_family(name, of) for name, of in groupby(rows, key=lambda row: row["family"])])
    except OSError as error:
        raise PriceListError(f"{path}: cannot be read: {error}") from None
    except (KeyError, InvalidOperation, ValueError) as error:
        raise PriceListError(f"{path}: not a list of prices: {error!r}") from None


def _family(name: str, rows: Iterable[Mapping[str, str]]) -> Family:
    good: list[Host] = []
    suspect: list[Host] = []
    for number, row in enumerate(rows):
        host = Host(f"{row['provider']}-{number}", _steps(row["usd_in_per_m"]), _steps(row["usd_out_per_m"]))
        (good if row["suspect"] == "0" else suspect).append(host)
    if not good:
        raise ValueError(f"no usable rows of family {name!r}")
    return Family(name, tuple(good), tuple(suspect))


def _steps(usd: str) -> int:
    steps = sats_per_1m(Decimal(usd)) / RATE_STEP
    if steps < 0:
        raise ValueError(f"a price must not be negative: {usd}")
    return int(steps)


# Rules that do not look at the request

LIST_RULES: dict[str, Callable[[Host], tuple[int, ...]]] = {
    "output rate only": lambda host: (host.output_rate, host.input_rate),
    "input + output": lambda host: (host.input_rate + host.output_rate, host.input_rate),
    "3 input : 1 output": lambda host: (3 * host.input_rate + host.output_rate, host.input_rate),
    "1 input : 3 output": lambda host: (host.input_rate + 3 * host.output_rate, host.input_rate),
}
"""What each makes least; of equals the one with the lower input rate. The last is the predecessor's (contract 7.1)."""


def list_pick(rule: str, hosts: Sequence[Host]) -> Host:
    return min(hosts, key=lambda host: (*LIST_RULES[rule](host), host.name))
