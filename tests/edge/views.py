"""Snapshots of providers, made by hand."""

from __future__ import annotations

from typing import Any

import attrs

from arbstr.config import Model, ProviderConfig
from arbstr.providers import ProviderView
from arbstr.secrets import Secret
from arbstr.units import Price

_SETTINGS = attrs.fields_dict(ProviderConfig)


def view_of(name: str = "p", *models: str | Model, **fields: Any) -> ProviderView:
    """A provider's snapshot. Fields are those of its configuration or of the view itself."""
    settings = {key: fields.pop(key) for key in list(fields) if key in _SETTINGS}
    usual: dict[str, Any] = {"models": models, "api_key": Secret("sk-very-secret"), "price": Price.of(5, 15)}
    config = ProviderConfig(name, f"http://{name}.internal/v1", **{**usual, **settings})
    return ProviderView(config, **fields)
