"""Snapshots of providers, made by hand."""

from __future__ import annotations

from typing import Any

from arbstr.config import Model, ProviderConfig, Tier
from arbstr.providers import BreakerState, ProviderView
from arbstr.secrets import Secret
from arbstr.units import Price


def view_of(name: str = "p", *models: str | Model, **fields: Any) -> ProviderView:
    """A provider's snapshot."""
    config = ProviderConfig(name, f"http://{name}.internal/v1", models=models, api_key=Secret("sk-very-secret"))
    values: dict[str, Any] = {
        "name": name,
        "url": config.url,
        "models": config.models,
        "any_model": config.any_model,
        "price": Price.of(5, 15),
        "tier": Tier.STANDARD,
        "breaker_state": BreakerState.CLOSED,
        "failure_count": 0,
        "open_until": None,
        "probing": False,
        "in_flight": 0,
        "max_concurrent": 256,
        "ttfb_ms": None,
        "has_key": True,
        "masked_key": "sk-ver...***",
        "config": config,
    }
    return ProviderView(**{**values, **fields})
