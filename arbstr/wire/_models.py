"""The list of models, in OpenAI's shape with the price beside each."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal, localcontext
from fractions import Fraction

from attrs import frozen

from arbstr.units import MSAT_PER_SAT, Price
from arbstr.wire._json import dumps


@frozen
class ModelOffer:
    """One model at one provider. What is None is not known; ``excluded`` says why it cannot be bought there now."""

    provider: str
    price: Price | None = None
    tier: str | None = None
    context_tokens: int | None = None
    max_output_tokens: int | None = None
    excluded: str | None = None


@frozen
class ModelEntry:
    """One model on offer. ``created`` is in seconds since 1970, ``price`` the best one, None when none is known."""

    id: str
    created: int
    owned_by: str
    offers: tuple[ModelOffer, ...] = ()
    price: Price | None = None


def models_body(entries: Iterable[ModelEntry]) -> bytes:
    """The body of ``GET /v1/models``."""
    return dumps({"object": "list", "data": [_model(entry) for entry in entries]})


def model_body(entry: ModelEntry) -> bytes:
    """The body of ``GET /v1/models/{id}``."""
    return dumps(_model(entry))


def _model(entry: ModelEntry) -> dict[str, object]:
    return {
        "id": entry.id,
        "object": "model",
        "created": entry.created,
        "owned_by": entry.owned_by,
        "context_tokens": _most(offer.context_tokens for offer in entry.offers),
        "max_output_tokens": _most(offer.max_output_tokens for offer in entry.offers),
        "pricing": pricing(entry.price),
        "providers": [offer.provider for offer in entry.offers],
        "offers": [
            {
                "provider": offer.provider,
                "tier": offer.tier,
                "pricing": pricing(offer.price),
                "context_tokens": offer.context_tokens,
                "max_output_tokens": offer.max_output_tokens,
                "excluded": offer.excluded,
            }
            for offer in entry.offers
        ],
    }


def _most(counts: Iterable[int | None]) -> int | None:
    """The largest that is known: what a request may be to be answered by anybody."""
    return max((count for count in counts if count is not None), default=None)


def pricing(price: Price | None) -> dict[str, str] | None:
    """Exact amounts as strings, so that no reader's float can round them; None for a price that is not known."""
    if price is None:
        return None
    unit = "sats_per_1m_tokens"
    return {
        "input_msat_per_1m_tokens": exact_text(price.input_rate_sats(unit) * MSAT_PER_SAT),
        "cached_input_msat_per_1m_tokens": exact_text(price.cached_input_rate_sats(unit) * MSAT_PER_SAT),
        "output_msat_per_1m_tokens": exact_text(price.output_rate_sats(unit) * MSAT_PER_SAT),
        "base_fee_msat": exact_text(price.base_fee_msat),
    }


def exact_text(value: Fraction) -> str:
    """The number in decimal when it ends there (``12.5``), else as a fraction (``1/3``)."""
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    if rest != 1:
        return str(value)
    digits = len(str(value.numerator)) + value.denominator.bit_length() + 1
    with localcontext() as context:
        context.prec = max(digits, 28)
        decimal = Decimal(value.numerator) / Decimal(value.denominator)
    text = f"{decimal:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
