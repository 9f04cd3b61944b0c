"""Choosing: each offer becomes a candidate or is left out, with the reason; the candidates are put in order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from math import lcm
from typing import Literal

from attrs import field, frozen

from arbstr.config import Model, PoliciesConfig, PolicyRule, Strategy, Tier
from arbstr.errors import InvalidRequest, NoProviderAvailable
from arbstr.routing._demand import Demand
from arbstr.units import Price

LeftOutReason = Literal["does_not_serve_model", "unknown_price", "policy_price_cap", "breaker_open", "busy"]

_CAP_UNIT = "sats_per_1k_tokens"

_SOON_S = 1.0
"""When to come back for a provider that is only busy or being probed: nobody knows, the answer may be near."""


def _by_name(models: Mapping[str, Model] | Iterable[str | Model]) -> Mapping[str, Model]:
    if isinstance(models, Mapping):
        return models
    made = (one if isinstance(one, Model) else Model(one) for one in models)
    return {model.id: model for model in made}


@frozen
class Offer:
    """What one provider's snapshot says: ``models`` by name, ``any_model`` if also others.

    ``ttfb_ms`` None: never measured.

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
    any_model: bool = field()

    @any_model.default
    def _any_without_a_list(self) -> bool:
        return not self.models


@frozen
class Candidate:
    """A provider that may answer, what the answer is expected to cost there, and what it can cost at most, in msat."""

    provider: str
    price: Price
    expected_msat: int
    bound_msat: int
    tier: Tier
    upstream_model: str = ""
    """The provider's own name of the model."""


@frozen
class LeftOut:
    """A provider that may not answer, and why; ``detail`` is for people."""

    provider: str
    reason: LeftOutReason
    detail: str


@frozen
class Selection:
    """``candidates`` in the order to try them; ``left_out`` by name. ``policy`` names the rule that matched."""

    candidates: tuple[Candidate, ...]
    left_out: tuple[LeftOut, ...]
    policy: str | None
    strategy: Strategy
    tier: Tier = Tier.FRONTIER
    """The ceiling that was chosen under, after escalation."""
    complexity_score: float | None = None
    """None when the caller said how complex it is."""


def select(
    demand: Demand, offers: Sequence[Offer], policies: PoliciesConfig, *, now: float, rotation: int = 0
) -> Selection:
    """Find who may answer ``demand`` and in which order to try.

    ``cheapest``: least expected cost of this request, compared exactly (not after rounding to msat), then name.
    ``lowest_latency``: shortest time to the first byte, the unmeasured first so that they get measured, then as
    ``cheapest``. ``round_robin``: by name, beginning ``rotation`` places further. The order of ``offers`` is without
    effect.

    Raises InvalidRequest (400) when nobody who serves the model has a known price, when the policy does not allow the
    model, and when its price cap leaves nobody; NoProviderAvailable (503, with ``retry_after_s``) when all who qualify
    are shut or busy.
    """
    rule = _rule_for(demand, policies)
    left_out: list[LeftOut] = []
    serving = _serving(demand.model, offers, left_out)
    if rule is not None and rule.allowed_models and demand.model not in rule.allowed_models:
        raise InvalidRequest(
            f"Invalid request: policy {rule.name!r} does not allow model {_shown(demand.model)}",
            reason="model_not_allowed",
            param="model",
            details={"policy": rule.name},
        )
    if rule is not None and rule.max_output_rate is not None:
        serving = _below_cap(demand.model, serving, rule.name, rule.max_output_rate, left_out)
    admitting = _admitting(demand.model, serving, now, left_out)
    strategy = policies.default if rule is None else rule.strategy
    return Selection(
        tuple(_candidate(demand, offer, price) for offer, price in _ordered(demand, admitting, strategy, rotation)),
        tuple(sorted(left_out, key=lambda out: out.provider)),
        None if rule is None else rule.name,
        strategy,
    )


_Priced = tuple[Offer, Price]


def _rule_for(demand: Demand, policies: PoliciesConfig) -> PolicyRule | None:
    """The rule that the caller names, exactly; else the first with a keyword in the last user text (section 7.2)."""
    if not policies.rules:
        return None
    named = next((rule for rule in policies.rules if rule.name == demand.policy_header), None)
    if named is not None or not demand.last_user_text:
        return named
    text = demand.last_user_text.casefold()
    return next((rule for rule in policies.rules if _has_keyword(rule, text)), None)


def _has_keyword(rule: PolicyRule, text: str) -> bool:
    return any(keyword and keyword.casefold() in text for keyword in rule.keywords)


def _serving(model: str, offers: Sequence[Offer], left_out: list[LeftOut]) -> list[_Priced]:
    priced: list[_Priced] = []
    unpriced: list[str] = []
    for offer in offers:
        listed = offer.models.get(model)
        price = offer.price if listed is None or listed.price is None else listed.price
        if listed is None and not offer.any_model:
            left_out.append(LeftOut(offer.provider, "does_not_serve_model", f"does not list model {_shown(model)}"))
        elif price is None:
            unpriced.append(offer.provider)
            left_out.append(LeftOut(offer.provider, "unknown_price", "its price is not known"))
        else:
            priced.append((offer, price))
    if priced:
        return priced
    message = f"No providers available for model {_shown(model)}"
    if unpriced:
        message += f": the price of {', '.join(sorted(unpriced))} is not known"
    raise InvalidRequest(message, reason="model_not_found", param="model")


def _below_cap(model: str, priced: list[_Priced], policy: str, cap: Fraction, left_out: list[LeftOut]) -> list[_Priced]:
    kept: list[_Priced] = []
    for offer, price in priced:
        rate = price.output_rate_sats(_CAP_UNIT)
        if rate <= cap:
            kept.append((offer, price))
        else:
            detail = f"output rate {_sats(rate)} is above {_sats(cap)} sats per 1k tokens, the cap of policy {policy!r}"
            left_out.append(LeftOut(offer.provider, "policy_price_cap", detail))
    if kept:
        return kept
    raise InvalidRequest(
        f"No provider of model {_shown(model)} meets the policy constraints: "
        f"policy {policy!r} caps the output rate at {_sats(cap)} sats per 1k tokens",
        reason="policy_price_cap",
        param="model",
        details={"policy": policy},
    )


def _admitting(model: str, priced: list[_Priced], now: float, left_out: list[LeftOut]) -> list[_Priced]:
    kept: list[_Priced] = []
    waits_s: list[float] = []
    shut: list[LeftOut] = []
    for offer, price in priced:
        refusal = _refusal(offer, now)
        if refusal is None:
            kept.append((offer, price))
            continue
        shut.append(refusal)
        waits_s.append(_SOON_S if offer.open_until is None or offer.open_until <= now else offer.open_until - now)
    left_out += shut
    if kept:
        return kept
    busy = sum(out.reason == "busy" for out in shut)
    raise NoProviderAvailable(
        f"No provider of model {_shown(model)} can answer now: {len(shut) - busy} with open circuits, {busy} busy; "
        "try again later",
        retry_after_s=min(waits_s),
    )


def _refusal(offer: Offer, now: float) -> LeftOut | None:
    """Why a provider that qualifies cannot take a request now; None when it can."""
    if offer.open_until is not None and offer.open_until > now:
        return LeftOut(offer.provider, "breaker_open", f"circuit open for another {offer.open_until - now:.1f} s")
    if offer.probing:
        return LeftOut(offer.provider, "breaker_open", "circuit half open, another request is probing")
    if offer.busy:
        return LeftOut(offer.provider, "busy", "as many requests in flight as it takes")
    return None


def _ordered(demand: Demand, admitting: list[_Priced], strategy: Strategy, rotation: int) -> list[_Priced]:
    if strategy is Strategy.ROUND_ROBIN:
        by_name = sorted(admitting, key=lambda priced: priced[0].provider)
        first = rotation % len(by_name)
        return by_name[first:] + by_name[:first]
    common = lcm(*(price.denominator for _, price in admitting))

    def cost(price: Price) -> int:
        """In units of 1/common msat, so that integers compare exactly."""
        exact = demand.prompt_tokens * price.prompt + demand.completion_tokens * price.completion + price.base
        return exact * (common // price.denominator)

    if strategy is Strategy.LOWEST_LATENCY:
        return sorted(admitting, key=lambda priced: (priced[0].ttfb_ms or 0.0, cost(priced[1]), priced[0].provider))
    return sorted(admitting, key=lambda priced: (cost(priced[1]), priced[0].provider))


def _candidate(demand: Demand, offer: Offer, price: Price) -> Candidate:
    return Candidate(
        offer.provider,
        price,
        price.cost_msat(demand.prompt_tokens, demand.completion_tokens),
        price.cost_msat(demand.prompt_tokens_bound, demand.completion_tokens_bound),
        offer.tier,
        _upstream_model(demand.model, offer),
    )


def _upstream_model(model: str, offer: Offer) -> str:
    listed = offer.models.get(model)
    return model if listed is None or not listed.upstream_id else listed.upstream_id


def _shown(model: str) -> str:
    """Quoted, and cut: the caller chose its length."""
    return repr(model if len(model) <= 200 else f"{model[:200]}...")


def _sats(rate: Fraction) -> str:
    """For people: rounded to six digits."""
    return f"{float(rate):g}"
