"""``arbstr providers``: what is configured, keys masked. Nobody is contacted."""

from __future__ import annotations

import os
from argparse import Namespace

from arbstr.cli._amounts import format_decimal
from arbstr.cli._output import on_terminal, print_json, print_table
from arbstr.cli._prices import written_rates
from arbstr.config import Model, ProviderConfig, load
from arbstr.units import MSAT_PER_SAT, Price

_UNITS = {"sats_per_1k_tokens": "sats/1k", "sats_per_1m_tokens": "sats/1M"}


def run(arguments: Namespace) -> int:
    config = load(arguments.config, os.environ)
    if arguments.json:
        print_json([_json(provider) for provider in config.providers])
        return 0
    if not config.providers:
        print("No providers configured.")
        return 0
    print("Configured providers:")
    if on_terminal():
        print_table(
            ("Name", "URL", "Models", "Tier", "Rates", "Base fee", "Key", "More"),
            [_cells(provider) for provider in config.providers],
        )
    else:
        for provider in config.providers:
            _print_block(provider)
    return 0


def _cells(provider: ProviderConfig) -> tuple[str, ...]:
    return (
        provider.name,
        provider.url,
        ", ".join(model.id for model in provider.models) or _without_list(provider),
        provider.tier,
        _rates(provider),
        _base_fee(provider.price),
        _key(provider),
        "\n".join([*_model_lines(provider), *_settings(provider)]),
    )


def _without_list(provider: ProviderConfig) -> str:
    return "any" if provider.any_model else "its own list"


def _print_block(provider: ProviderConfig) -> None:
    """The lines of the contract (section 1); what is set beyond it follows."""
    print(f"\n  {provider.name} ({provider.url})")
    if provider.models:
        print(f"    Models: {', '.join(model.id for model in provider.models)}")
    print(f"    Rates: {_rates(provider)}")
    if fee := _base_fee(provider.price):
        print(f"    Base fee: {fee}")
    if key := _key(provider):
        print(f"    Key: {key}")
    for line in (*_model_lines(provider), *_settings(provider)):
        print(f"    {line}")


def _rates(provider: ProviderConfig) -> str:
    """In the unit in which they were written."""
    if provider.price is not None:
        return _rates_of(provider.price, provider.rate_unit)
    return "by model" if any(model.price for model in provider.models) else "unknown, provider is not used"


def _rates_of(price: Price, rate_unit: str) -> str:
    """Prompt, completion, and cached prompt tokens when these cost something else."""
    unit = _UNITS[rate_unit]
    prompt, cached = price.input_rate_sats(rate_unit), price.cached_input_rate_sats(rate_unit)
    text = f"{format_decimal(prompt)} {unit} input, {format_decimal(price.output_rate_sats(rate_unit))} {unit} output"
    return text if cached == prompt else f"{text}, {format_decimal(cached)} {unit} cached input"


def _base_fee(price: Price | None) -> str:
    if price is None or price.base_fee_msat == 0:
        return ""
    return f"{format_decimal(price.base_fee_msat / MSAT_PER_SAT)} sats"


def _key(provider: ProviderConfig) -> str:
    return "" if provider.api_key is None else provider.api_key.masked()


def _model_lines(provider: ProviderConfig) -> list[str]:
    """Of the models of which more is said than their name."""
    return [f"{model.id}: {facts}" for model in provider.models if (facts := _model_facts(provider, model))]


def _model_facts(provider: ProviderConfig, model: Model) -> str:
    facts = []
    if model.price is not None:
        facts.append(_rates_of(model.price, provider.rate_unit))
        if fee := _base_fee(model.price):
            facts.append(f"base fee {fee}")
    if model.context_tokens is not None:
        facts.append(f"context {model.context_tokens}")
    if model.max_output_tokens is not None:
        facts.append(f"at most {model.max_output_tokens} out")
    if model.upstream_id not in ("", model.id):
        facts.append(f"called {model.upstream_id} there")
    if model.excluded is not None:
        facts.append(f"not used: {model.excluded}")
    return ", ".join(facts)


def _settings(provider: ProviderConfig) -> list[str]:
    """What is not as it is by default."""
    lines = []
    if provider.weight != 1:
        lines.append(f"Weight: {provider.weight}")
    if provider.on_disconnect != "close":
        lines.append(f"On disconnect: {provider.on_disconnect}")
    if provider.auto_discover:
        lines.append("Models are discovered")
    return lines


def _json(provider: ProviderConfig) -> dict[str, object]:
    return {
        "name": provider.name,
        "url": provider.url,
        "tier": provider.tier,
        "rate_unit": provider.rate_unit,
        **written_rates(provider.price, provider.rate_unit),
        "models": [
            {
                "id": model.id,
                "upstream_id": model.upstream_id or model.id,
                **written_rates(model.price or provider.price, provider.rate_unit),
                "context_tokens": model.context_tokens,
                "max_output_tokens": model.max_output_tokens,
                "not_used": model.excluded,
            }
            for model in provider.models
        ],
        "any_model": provider.any_model,
        "auto_discover": provider.auto_discover,
        "weight": provider.weight,
        "on_disconnect": provider.on_disconnect,
        "key": _key(provider) or None,
        "key_source": provider.key_source,
    }
