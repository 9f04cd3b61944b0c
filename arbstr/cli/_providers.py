"""``arbstr providers``: what is configured, keys masked. Nobody is contacted."""

from __future__ import annotations

import os
from argparse import Namespace
from fractions import Fraction

from arbstr.cli._output import on_terminal, print_table
from arbstr.config import ProviderConfig, load
from arbstr.units import MSAT_PER_SAT


def run(arguments: Namespace) -> int:
    config = load(arguments.config, os.environ)
    if not config.providers:
        print("No providers configured.")
        return 0
    print("Configured providers:")
    if on_terminal():
        print_table(
            ("Name", "URL", "Models", "Tier", "Rates", "Base fee", "Key"),
            [_cells(provider) for provider in config.providers],
        )
    else:
        for provider in config.providers:
            _print_block(provider)
    return 0


def _cells(provider: ProviderConfig) -> tuple[str, ...]:
    models = ", ".join(model.id for model in provider.models) or "any"
    return (provider.name, provider.url, models, provider.tier, _rates(provider), _base_fee(provider), _key(provider))


def _print_block(provider: ProviderConfig) -> None:
    print(f"\n  {provider.name} ({provider.url})")
    if provider.models:
        print(f"    Models: {', '.join(model.id for model in provider.models)}")
    print(f"    Rates: {_rates(provider)}")
    if fee := _base_fee(provider):
        print(f"    Base fee: {fee}")
    if key := _key(provider):
        print(f"    Key: {key}")


def _rates(provider: ProviderConfig) -> str:
    """In the unit in which they were written."""
    if provider.price is None:
        return "unknown, provider is not used"
    unit = {"sats_per_1k_tokens": "sats/1k", "sats_per_1m_tokens": "sats/1M"}[provider.rate_unit]
    prompt = _decimal(provider.price.input_rate_sats(provider.rate_unit))
    completion = _decimal(provider.price.output_rate_sats(provider.rate_unit))
    return f"{prompt} {unit} input, {completion} {unit} output"


def _base_fee(provider: ProviderConfig) -> str:
    if provider.price is None or provider.price.base_fee_msat == 0:
        return ""
    return f"{_decimal(provider.price.base_fee_msat / MSAT_PER_SAT)} sats"


def _key(provider: ProviderConfig) -> str:
    return "" if provider.api_key is None else provider.api_key.masked()


def _decimal(value: Fraction) -> str:
    """Shortest exact decimal form: rates are written as decimals, so there is one (``5``, ``1.5``)."""
    places = 0
    while value.denominator != 1:
        value, places = value * 10, places + 1
    digits = str(value.numerator).rjust(places + 1, "0")
    return f"{digits[:-places]}.{digits[-places:]}" if places else digits
