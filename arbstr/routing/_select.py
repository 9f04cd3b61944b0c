"""Choosing: each offer becomes a candidate or is left out, with the reason; the candidates are put in order.

What decides about an offer, in this order: whether the model can be bought there at all, the policy, whether the
request fits, whether its class of answers is good enough, whether it is not too good (unless nobody else can answer),
whether it can answer now.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from operator import attrgetter

from attrs import frozen

from arbstr.config import PolicyRule, Strategy, Tier
from arbstr.errors import ArbstrError, InvalidRequest, NoProviderAvailable
from arbstr.routing._demand import Demand
from arbstr.routing._estimate import Estimator, FixedEstimate
from arbstr.routing._offers import LeftOut, Market, Offer, Offers, Row
from arbstr.routing._order import Priced, in_order
from arbstr.units import Price

SOON_S = 1.0
"""When to come back for a provider that is only busy or being probed: nobody knows, the answer may be near."""

QUARANTINE_S = 60.0
"""When to come back for a model whose offers are all excluded: a market is read about once a minute."""

_TIERS = tuple(Tier)
_PROVIDER = attrgetter("provider")
_LEVEL = attrgetter("level")
_KNOWS_NOTHING = FixedEstimate()


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
class Selection:
    """``candidates`` in the order to try them; ``left_out`` by name. ``policy`` names the rule that matched.

    Behind the candidates of ``tier`` and below stand those above it, tier by tier: for the case that the others fail.
    """

    candidates: tuple[Candidate, ...]
    left_out: tuple[LeftOut, ...]
    policy: str | None
    strategy: Strategy
    tier: Tier = Tier.FRONTIER
    """The ceiling that was chosen under, after escalation."""
    complexity_score: float | None = None
    """None when the scorer did not run."""

    def tier_of(self, provider: str | None) -> Tier:
        """The ceiling that an answer of this provider was given under."""
        tiers = [one.tier for one in self.candidates if one.provider == provider]
        return max([self.tier, *tiers], key=_LEVEL)


def select(
    demand: Demand,
    offers: Sequence[Offer] | Offers,
    *,
    now: float,
    rotation: int = 0,
    default: Strategy = Strategy.CHEAPEST,
    estimator: Estimator = _KNOWS_NOTHING,
    heedless: bool = False,
) -> Selection:
    """Find who may answer ``demand`` and in which order to try: by the strategy of its policy, else by ``default``.

    The ceiling of the tiers rises, as far as it must and no further, when nobody below it qualifies or can answer now;
    it never falls. Who is above it comes after all others, tier by tier. The order of ``offers`` is without effect.
    ``heedless`` asks who would be the cheapest if everybody were free: breakers, load and the strategy are ignored.

    An offer is left out for the size of its context when not even the least that the prompt may have fits into it.
    Where the expected prompt does not fit, the offer stands behind those where it does.

    Raises InvalidRequest (400) when nobody who serves the model has a known price (``model_not_found``), when the
    policy does not allow the model or its price cap leaves nobody (``model_not_allowed``, ``policy_price_cap``), when
    the request fits nowhere (``context_length_exceeded``), and when nobody is as good as the demand's floor
    (``below_tier``): an answer below it is never given instead. NoProviderAvailable (503, with ``retry_after_s``) when
    all who qualify are shut or busy, and when the model is quarantined wherever its price is known.
    """
    market = Offers.of(offers).market(demand.model)
    if not market.rows:
        raise _nobody_serves(demand, market)
    rule = demand.policy
    left_out: list[LeftOut] = []
    rows: Sequence[Row] = market.rows
    if rule is not None:
        _check_allowed(demand, rule)
        if rule.max_output_rate is not None:
            rows = _below_cap(demand, rows, rule.name, rule.max_output_rate, left_out)
    rows = _large_enough(demand, rows, left_out)
    rows = _good_enough(demand, rows, left_out)
    able, shut = (rows, []) if heedless else _able(rows, now)
    if not able:
        raise _all_shut(demand, shut, now)
    ceiling = max(demand.tier.level, min([row.level for row in able]))
    left_out += [refusal for _, refusal in shut]
    strategy = default if rule is None else rule.strategy
    if heedless:
        strategy = Strategy.CHEAPEST
    candidates = _candidates(demand, [row for row in able if row.level <= ceiling], strategy, rotation, estimator)
    for level in range(ceiling + 1, len(_TIERS)):
        above = [row for row in able if row.level == level]
        if above:
            candidates += _candidates(demand, above, strategy, rotation, estimator)
    return Selection(
        tuple(candidates),
        tuple(sorted([*market.left_out, *left_out], key=_PROVIDER)) if left_out else market.left_out,
        None if rule is None else rule.name,
        strategy,
        _TIERS[ceiling],
        demand.complexity_score,
    )


# Who qualifies


def _nobody_serves(demand: Demand, market: Market) -> ArbstrError:
    message = f"No providers available for model {_shown(demand)}"
    quarantined = [f"{out.provider} ({out.detail})" for out in market.left_out if out.reason == "quarantined"]
    if quarantined:
        return NoProviderAvailable(f"{message} at present: {_some(quarantined)}", retry_after_s=QUARANTINE_S)
    unpriced = [out.provider for out in market.left_out if out.reason == "unknown_price"]
    if unpriced:
        message += f": the price of {_some(unpriced)} is not known"
    return InvalidRequest(message, reason="model_not_found", param="model")


def _check_allowed(demand: Demand, rule: PolicyRule) -> None:
    """A rule may name a model as the caller does, or as it is called."""
    allowed = rule.allowed_models
    if allowed and demand.model not in allowed and demand.requested_model not in allowed:
        raise InvalidRequest(
            f"Invalid request: policy {rule.name!r} does not allow model {_shown(demand)}",
            reason="model_not_allowed",
            param="model",
            details={"policy": rule.name},
        )


def _below_cap(
    demand: Demand, rows: Sequence[Row], policy: str, cap: Fraction, left_out: list[LeftOut]
) -> Sequence[Row]:
    """The cap is in sats per 1,000 tokens, which is msat per token as prices are."""
    kept: list[Row] = []
    for row in rows:
        price = row.price
        if price.completion * cap.denominator <= cap.numerator * price.denominator:
            kept.append(row)
        else:
            rate = f"{price.completion / price.denominator:g}"
            detail = f"output rate {rate} is above {_sats(cap)} sats per 1k tokens, the cap of policy {policy!r}"
            left_out.append(LeftOut(row.offer.provider, "policy_price_cap", detail))
    if kept:
        return kept
    raise InvalidRequest(
        f"No provider of model {_shown(demand)} meets the policy constraints: "
        f"policy {policy!r} caps the output rate at {_sats(cap)} sats per 1k tokens",
        reason="policy_price_cap",
        param="model",
        details={"policy": policy},
    )


def _large_enough(demand: Demand, rows: Sequence[Row], left_out: list[LeftOut]) -> Sequence[Row]:
    asked = demand.max_tokens or 0
    least = demand.prompt_tokens_least + asked
    kept: list[Row] = []
    for row in rows:
        if row.max_output_tokens is not None and asked > row.max_output_tokens:
            detail = f"gives {row.max_output_tokens} tokens of output at most, not {asked}"
            left_out.append(LeftOut(row.offer.provider, "output_too_long", detail))
        elif row.context_tokens is not None and least > row.context_tokens:
            detail = f"has {row.context_tokens} tokens of context, not {least}"
            left_out.append(LeftOut(row.offer.provider, "context_too_long", detail))
        else:
            kept.append(row)
    if kept:
        return kept
    raise _fits_nowhere(demand, rows)


def _fits_nowhere(demand: Demand, rows: Sequence[Row]) -> InvalidRequest:
    least, asked = demand.prompt_tokens_least, demand.max_tokens or 0
    wanted = f"at least {least} tokens of prompt"
    if asked:
        wanted = f"{wanted} and {asked} tokens of output"
    contexts = [row.context_tokens for row in rows if row.context_tokens is not None]
    outputs = [row.max_output_tokens for row in rows if row.max_output_tokens is not None]
    details: dict[str, int | str] = {"prompt_tokens_least": least, "max_tokens": asked}
    offered: list[str] = []
    if contexts:
        details["context_tokens"] = max(contexts)
        offered.append(f"maximum context length is {max(contexts)} tokens")
    if outputs:
        details["max_output_tokens"] = max(outputs)
        offered.append(f"maximum output is {max(outputs)} tokens")
    return InvalidRequest(
        f"No provider of model {_shown(demand)} can take {wanted}: its {' and its '.join(offered)}; "
        "shorten the messages or the completion",
        reason="context_length_exceeded",
        param="max_tokens" if outputs and asked > max(outputs) else "messages",
        details=details,
    )


def _good_enough(demand: Demand, rows: Sequence[Row], left_out: list[LeftOut]) -> Sequence[Row]:
    if demand.floor is Tier.LOCAL:
        return rows
    floor = demand.floor.level
    kept = [row for row in rows if row.level >= floor]
    if not kept:
        best = max([row.level for row in rows])
        raise InvalidRequest(
            f"No provider of model {_shown(demand)} is of tier {demand.floor}, which this request needs: "
            f"the best is {_TIERS[best]}; say how complex it is with x-arbstr-complexity, or use another model",
            reason="below_tier",
            param="model",
            details={"tier": str(demand.floor)},
        )
    if len(kept) < len(rows):
        detail = f"is below tier {demand.floor}, which this request needs"
        left_out += [LeftOut(row.offer.provider, "below_tier", detail) for row in rows if row.level < floor]
    return kept


# Who can answer now


def _able(rows: Iterable[Row], now: float) -> tuple[Sequence[Row], list[tuple[Row, LeftOut]]]:
    able: list[Row] = []
    shut: list[tuple[Row, LeftOut]] = []
    for row in rows:
        refusal = _refusal(row.offer, now)
        if refusal is None:
            able.append(row)
        else:
            shut.append((row, refusal))
    return able, shut


def _refusal(offer: Offer, now: float) -> LeftOut | None:
    """Why a provider that qualifies cannot take a request now; None when it can."""
    if offer.open_until is not None and offer.open_until > now:
        return LeftOut(offer.provider, "breaker_open", f"circuit open for another {offer.open_until - now:.1f} s")
    if offer.probing:
        return LeftOut(offer.provider, "breaker_open", "circuit half open, another request is probing")
    if offer.busy:
        return LeftOut(offer.provider, "busy", "as many requests in flight as it takes")
    return None


def _all_shut(demand: Demand, shut: Sequence[tuple[Row, LeftOut]], now: float) -> NoProviderAvailable:
    busy = sum(refusal.reason == "busy" for _, refusal in shut)
    opens = [row.offer.open_until for row, _ in shut]
    return NoProviderAvailable(
        f"No provider of model {_shown(demand)} can answer now: {len(shut) - busy} with open circuits, {busy} busy; "
        "try again later",
        retry_after_s=min([SOON_S if until is None or until <= now else until - now for until in opens]),
    )


# In which order, and at what cost


def _candidates(
    demand: Demand, chosen: Sequence[Row], strategy: Strategy, rotation: int, estimator: Estimator
) -> list[Candidate]:
    expected = demand.prompt_tokens + (demand.max_tokens or 0)
    fitting: list[Priced] = []
    doubtful: list[Priced] = []
    for row in chosen:
        group = fitting if row.context_tokens is None or expected <= row.context_tokens else doubtful
        group.append((row, _exact(demand, row, estimator)))
    ordered = in_order(fitting, strategy, rotation)
    if doubtful:
        ordered += in_order(doubtful, strategy, rotation)
    return [_candidate(demand, row, cost) for row, cost in ordered]


def _exact(demand: Demand, row: Row, estimator: Estimator) -> int:
    """Expected cost, in units of 1/denominator msat."""
    price, prompt_tokens = row.price, demand.prompt_tokens
    exact = prompt_tokens * price.prompt + demand.completion_tokens * price.completion + price.base
    if price.cached != price.prompt:
        cached = estimator.cached_tokens(row.offer.provider, demand.model, prompt_tokens)
        exact += cached * (price.cached - price.prompt)
    return exact


def _candidate(demand: Demand, row: Row, cost: int) -> Candidate:
    offer, price = row.offer, row.price
    dearest = price.prompt if price.prompt >= price.cached else price.cached
    most = demand.prompt_tokens_bound * dearest + demand.completion_tokens_bound * price.completion + price.base
    return Candidate(
        offer.provider,
        price,
        -(-cost // price.denominator),
        -(-most // price.denominator),
        offer.tier,
        row.upstream_model or demand.model,
    )


# For people


def _shown(demand: Demand) -> str:
    """Quoted, and cut: the caller chose its length."""
    asked = demand.requested_model
    shown = repr(asked if len(asked) <= 200 else f"{asked[:200]}...")
    return shown if demand.model == asked else f"{shown} ({demand.model!r})"


def _some(names: Sequence[str]) -> str:
    """A market may have hundreds."""
    return ", ".join(names) if len(names) <= 5 else f"{', '.join(names[:5])} and {len(names) - 5} others"


def _sats(rate: Fraction) -> str:
    """For people: rounded to six digits."""
    return f"{float(rate):g}"
