"""``arbstr models``: what can be asked for, from whom, and at which price. Nobody is contacted."""

from __future__ import annotations

import os
from argparse import Namespace
from collections import defaultdict
from collections.abc import Iterable
from fractions import Fraction

from arbstr.cli._output import print_json, print_table
from arbstr.cli._prices import Serving, everything_served, typical_cost, written_rates
from arbstr.config import Config, load
from arbstr.units import RATE_UNITS

ANY = "*"
_NUMBERS = frozenset(("INPUT", "OUTPUT", "CACHED", "BASE FEE", "CONTEXT", "MAX OUTPUT"))


def run(arguments: Namespace) -> int:
    config = load(arguments.config, os.environ)
    found = _cheapest_first(everything_served(config))
    aliases = _aliases(config)
    unit = _unit(config)
    if arguments.json:
        print_json([_json(one, aliases, unit) for one in found])
    elif not found:
        print("No models configured.")
    else:
        print(f"Rates in {unit.replace('sats_per_', 'sats per ').replace('_', ' ')}, fees in sats per request:")
        headers = ("MODEL", "PROVIDER", "INPUT", "OUTPUT", "CACHED", "BASE FEE", "CONTEXT", "MAX OUTPUT", "NOTE")
        print_table(headers, [_cells(one, aliases, unit) for one in found], numbers=_NUMBERS)
    return 0


def _cheapest_first(found: Iterable[Serving]) -> list[Serving]:
    """Models by their best price, the offers of one model together; what cannot be bought comes last."""
    best: dict[str, tuple[bool, Fraction]] = {}
    for one in found:
        best[_name(one)] = min(_rank(one), best.get(_name(one), (True, Fraction(0))))
    return sorted(found, key=lambda one: (best[_name(one)], _name(one), _rank(one), one.provider.name))


def _rank(one: Serving) -> tuple[bool, Fraction]:
    price = one.price
    if one.obstacle is not None or price is None:
        return True, Fraction(0)
    return False, typical_cost(price)


def _name(one: Serving) -> str:
    return ANY if one.model is None else one.model.id


def _aliases(config: Config) -> dict[str, list[str]]:
    """By the model they stand for."""
    found = defaultdict(list)
    for alias, model in config.aliases.items():
        found[model].append(alias)
    return found


def _unit(config: Config) -> str:
    """The one that all providers are written in; else per 1,000 tokens."""
    units = {provider.rate_unit for provider in config.providers}
    return units.pop() if len(units) == 1 else next(iter(RATE_UNITS))


def _cells(one: Serving, aliases: dict[str, list[str]], unit: str) -> tuple[str, ...]:
    rates, model = written_rates(one.price, unit), one.model
    notes = []
    if one.obstacle is not None:
        notes.append(f"not used: {one.obstacle}")
    if names := aliases.get(_name(one)):
        notes.append(f"also {', '.join(names)}")
    if model is None:
        notes.append("any other model")
    if one.provider.auto_discover:
        notes.append("list is replaced by the provider's own")
    return (
        _name(one),
        one.provider.name,
        *(rates[name] or "-" for name in ("input_rate", "output_rate", "cached_input_rate", "base_fee")),
        "-" if model is None or model.context_tokens is None else str(model.context_tokens),
        "-" if model is None or model.max_output_tokens is None else str(model.max_output_tokens),
        "; ".join(notes),
    )


def _json(one: Serving, aliases: dict[str, list[str]], unit: str) -> dict[str, object]:
    model = one.model
    return {
        "model": None if model is None else model.id,
        "aliases": aliases.get(_name(one), []),
        "provider": one.provider.name,
        "upstream_model": None if model is None else model.upstream_id or model.id,
        "tier": one.provider.tier,
        "rate_unit": unit,
        **written_rates(one.price, unit),
        "context_tokens": None if model is None else model.context_tokens,
        "max_output_tokens": None if model is None else model.max_output_tokens,
        "not_used": one.obstacle,
    }
