"""What is on offer and how its sellers are doing, rendered from the directory's snapshot: models, providers, health.

Pure but for a cache: a snapshot is immutable, so its list of models is made once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import ceil

from attrs import define, field

from arbstr import wire
from arbstr.config import Model
from arbstr.providers import BreakerState, ProviderView
from arbstr.requests import Caller
from arbstr.units import MSAT_PER_SAT, Price
from arbstr.wire import ModelEntry, ModelOffer

Snapshot = tuple[ProviderView, ...]

RATE_UNIT = "sats_per_1m_tokens"

NO_FEED: Mapping[str, object] = {
    "enabled": False,
    "url": None,
    "last_poll_at": None,
    "last_success_at": None,
    "quotes_seen": 0,
    "nodes_seen": 0,
    "routable_market_providers": 0,
    "skipped": [],
    "notes": ["no market feed is configured; [tokenstats] in the configuration switches one on"],
}
"""The ``market`` object without a feed (contract section 16.4)."""


@define(eq=False)
class Catalogue:
    """The models of the current snapshot."""

    providers: Callable[[], Snapshot]
    created: int
    """When the models are said to have been made, in seconds since 1970: nobody tells."""
    _shown: Snapshot | None = None
    _entries: dict[str, ModelEntry] = field(factory=dict)
    _body: bytes = b""

    def body(self) -> bytes:
        self._refresh()
        return self._body

    def entry(self, model: str) -> ModelEntry | None:
        self._refresh()
        return self._entries.get(model)

    def _refresh(self) -> None:
        snapshot = self.providers()
        if snapshot is not self._shown:
            self._entries = {entry.id: entry for entry in entries_of(snapshot, self.created)}
            self._body = wire.models_body(self._entries.values())
            self._shown = snapshot


def entries_of(snapshot: Snapshot, created: int) -> list[ModelEntry]:
    """One entry for each model that anybody lists, in the order of first occurrence."""
    served: dict[str, list[ModelOffer]] = {}
    for view in snapshot:
        for model in view.models:
            served.setdefault(model.id, []).append(_offer(view, model))
    return [_entry(model, tuple(offers), created) for model, offers in served.items()]


def _entry(model: str, offers: tuple[ModelOffer, ...], created: int) -> ModelEntry:
    prices = [offer.price for offer in offers if offer.price is not None and offer.excluded is None]
    best = min(prices, key=lambda price: price.cost_msat(1_000_000, 1_000_000), default=None)
    return ModelEntry(model, created, "arbstr", offers, best)


def _offer(view: ProviderView, model: Model) -> ModelOffer:
    price = view.price if model.price is None else model.price
    return ModelOffer(view.name, price, view.tier, model.context_tokens, model.max_output_tokens, model.excluded)


# Health


def health_of(snapshot: Snapshot, timestamp: str | None = None) -> tuple[bytes, int]:
    """Body and status: 200 while one provider can be tried, 503 when all circuits are open (contract section 4.10).

    ``timestamp`` is told where there is a vault, whose clients look for it (contract: vault, section 6).
    """
    states = [view.breaker_state for view in snapshot]
    if states and all(state is BreakerState.OPEN for state in states):
        status, code = "unhealthy", 503
    elif any(state is not BreakerState.CLOSED for state in states):
        status, code = "degraded", 200
    else:
        status, code = "ok", 200
    providers = {
        view.name: {"state": view.breaker_state, "failure_count": view.failure_count, "tier": view.tier}
        for view in snapshot
    }
    body = {"status": status, "providers": providers}
    return wire.dumps(body if timestamp is None else {**body, "timestamp": timestamp}), code


# Providers


def providers_body(snapshot: Snapshot, market: Mapping[str, object], caller: Caller, now: float) -> bytes:
    """The body of ``GET /providers`` (contract section 4.11). ``now`` is on the clock of the circuit breakers.

    An agent sees who sells, how well and for how much, but not where: ``url``, ``api_key`` and the feed's address are
    the operator's.
    """
    operator = caller.role != "agent"
    return wire.dumps(
        {
            "providers": [_provider(view, now, operator=operator) for view in snapshot],
            "market": dict(market) if operator else {"enabled": market["enabled"]},
            "rate_unit": RATE_UNIT,
        }
    )


def _provider(view: ProviderView, now: float, *, operator: bool) -> dict[str, object]:
    config, price = view.config, view.price
    open_for_s = 0.0 if view.open_until is None else max(0.0, view.open_until - now)
    return {
        "name": view.name,
        "url": view.url if operator else None,
        "models": [model.id for model in view.models],
        "any_model": view.any_model,
        **rates(price),
        "pricing": wire.pricing(price),
        "model_rate_count": sum(model.price is not None for model in view.models),
        "tier": view.tier,
        "source": config.source if config is not None else None,
        "provider_id": config.provider_id if config is not None else None,
        "routable": price is not None or any(model.price is not None for model in view.models),
        "has_api_key": view.has_key,
        "api_key": view.masked_key if operator else None,
        "weight": config.weight if config is not None else 1,
        "breaker": {
            "state": view.breaker_state,
            "failure_count": view.failure_count,
            "probing": view.probing,
            "open_for_s": ceil(open_for_s * 1_000) / 1_000,
        },
        "in_flight": view.in_flight,
        "max_concurrent": view.max_concurrent,
        "latency": {"ttfb_ms": view.ttfb_ms, "ttfb_ms_p50": view.ttfb_ms_p50, "ttfb_ms_p99": view.ttfb_ms_p99},
        "excluded_models": [
            {"model": model.id, "reason": model.excluded} for model in view.models if model.excluded is not None
        ],
    }


def rates(price: Price | None) -> dict[str, float | None]:
    """A price in the predecessor's unit, as the numbers it gave; the exact ones are in ``pricing``."""
    known: tuple[float | None, ...] = (None, None, None)
    if price is not None:
        exact = (
            price.input_rate_sats(RATE_UNIT),
            price.output_rate_sats(RATE_UNIT),
            price.base_fee_msat / MSAT_PER_SAT,
        )
        known = tuple(map(float, exact))
    return dict(zip(("input_rate_sats_per_1m", "output_rate_sats_per_1m", "base_fee_sats"), known, strict=True))
