"""What is on offer: one snapshot of all providers, ready to be asked who serves a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Literal

from attrs import define, field, frozen

from arbstr.config import Model, Tier
from arbstr.units import Price

LeftOutReason = Literal[
    "does_not_serve_model",
    "quarantined",
    "unknown_price",
    "policy_price_cap",
    "context_too_long",
    "output_too_long",
    "below_tier",
    "breaker_open",
    "busy",
]


@frozen
class LeftOut:
    """A provider that may not answer, and why; ``detail`` is for people."""

    provider: str
    reason: LeftOutReason
    detail: str


def _by_name(models: Mapping[str, Model] | Iterable[str | Model]) -> Mapping[str, Model]:
    if isinstance(models, Mapping):
        return models
    made = (one if isinstance(one, Model) else Model(one) for one in models)
    return {model.id: model for model in made}


@frozen
class Offer:
    """What one provider's snapshot says: ``models`` by name, ``any_model`` if also others.

    ``ttfb_ms`` is decayed; None: never measured.

    ``open_until`` is the time, on the clock of ``select``'s ``now``, until which its breaker refuses; None when it is
    closed. A time that has passed means that the next request may probe. ``probing``: one is doing so already.
    """

    provider: str
    models: Mapping[str, Model] = field(converter=_by_name)
    price: Price | None
    """Of the models without one of their own."""
    tier: Tier
    ttfb_ms: float | None = None
    open_until: float | None = None
    probing: bool = False
    busy: bool = False
    weight: int = 1
    """Its share of first places under ``round_robin``; 0: only when nobody else is left."""
    any_model: bool = field()

    @any_model.default
    def _any_without_a_list(self) -> bool:
        return not self.models


@frozen
class Row:
    """An offer of one model, that can be bought. ``level`` is its tier's."""

    offer: Offer
    price: Price
    level: int
    upstream_model: str
    """Empty: the name that the model has here."""
    context_tokens: int | None
    max_output_tokens: int | None


@frozen
class Market:
    """Everything of one model that no request can change, in the order of the providers' names."""

    rows: tuple[Row, ...]
    left_out: tuple[LeftOut, ...]


_LEVELS = {tier: tier.level for tier in Tier}
_PROVIDER = attrgetter("provider")
_NO_PARTICULARS = Model("any")


@define(eq=False)
class Offers:
    """One snapshot of what is on offer. Make it once per snapshot, with ``of``; then each model is looked up once.

    It is read as if it never changed. What it remembers is bounded by what is listed: a model that nobody lists is
    kept under no name.
    """

    all: tuple[Offer, ...]
    """By name."""
    _markets: dict[str | None, Market] = field(factory=dict, init=False, repr=False)

    @classmethod
    def of(cls, offers: Sequence[Offer] | Offers) -> Offers:
        return offers if isinstance(offers, Offers) else cls(tuple(sorted(offers, key=_PROVIDER)))

    def market(self, model: str) -> Market:
        """Who can be bought ``model`` from, and why not from the others."""
        known = self._markets.get(model)
        if known is None:
            name = model if any(model in offer.models for offer in self.all) else None
            known = self._markets.get(name)
            if known is None:
                known = self._markets[name] = self._market_of(name)
        return known

    def _market_of(self, model: str | None) -> Market:
        rows: list[Row] = []
        left_out: list[LeftOut] = []
        for offer in self.all:
            listed = offer.models.get(model) if model is not None else None
            if listed is None:
                if not offer.any_model:
                    left_out.append(LeftOut(offer.provider, "does_not_serve_model", "does not list the model"))
                    continue
                listed = _NO_PARTICULARS
            price = offer.price if listed.price is None else listed.price
            if listed.excluded is not None:
                left_out.append(LeftOut(offer.provider, "quarantined", listed.excluded))
            elif price is None:
                left_out.append(LeftOut(offer.provider, "unknown_price", "its price is not known"))
            else:
                sizes = listed.context_tokens, listed.max_output_tokens
                rows.append(Row(offer, price, _LEVELS[offer.tier], listed.upstream_id, *sizes))
        return Market(tuple(rows), tuple(left_out))
