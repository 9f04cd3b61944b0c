"""What a request would cost: the body of ``POST /v1/cost`` (contract section 4.7, and what we go by beside it)."""

from __future__ import annotations

from fractions import Fraction

from arbstr import wire
from arbstr.edge._catalogue import RATE_UNIT, rates
from arbstr.requests import Quote
from arbstr.units import MSAT_PER_SAT, Price
from arbstr.wire import Endpoint, ModelCall

BYTES_PER_TOKEN = 4
ASSUMED_COMPLETION_TOKENS = 256
"""Of a request without a limit, in the predecessor's fields."""


def quote_body(call: ModelCall, quote: Quote) -> bytes:
    """``estimated_*`` are counted as the predecessor did, from the length of the text and the limit; the candidates
    have what is expected of this request, by which they are ordered, and the most that it can cost there."""
    selection, demand = quote.selection, quote.demand
    best = selection.candidates[0]
    prompt = max(1, wire.content_bytes(call) // BYTES_PER_TOKEN)
    completion = _completion_tokens(call)
    exact = _exact_msat(best.price, prompt, completion)
    return wire.dumps(
        {
            "model": call.model,
            "provider": best.provider,
            "estimated_input_tokens": prompt,
            "estimated_output_tokens": completion,
            "estimated_cost_sats": float(exact / MSAT_PER_SAT),
            "estimated_cost_msat": best.price.cost_msat(prompt, completion),
            "rates": rates(best.price),
            "rate_unit": RATE_UNIT,
            "pricing": wire.pricing(best.price),
            "expected_input_tokens": demand.prompt_tokens,
            "expected_output_tokens": demand.completion_tokens,
            "expected_cost_msat": best.expected_msat,
            "bound_msat": best.bound_msat,
            "policy": selection.policy,
            "strategy": selection.strategy,
            "candidates": [
                {
                    "provider": one.provider,
                    "tier": one.tier,
                    "expected_cost_msat": one.expected_msat,
                    "bound_msat": one.bound_msat,
                }
                for one in selection.candidates
            ],
            "left_out": [
                {"provider": one.provider, "reason": one.reason, "detail": one.detail} for one in selection.left_out
            ],
        }
    )


def _completion_tokens(call: ModelCall) -> int:
    if call.endpoint is Endpoint.EMBEDDINGS:
        return 0
    return call.n * (ASSUMED_COMPLETION_TOKENS if call.max_tokens is None else call.max_tokens)


def _exact_msat(price: Price, prompt: int, completion: int) -> Fraction:
    return Fraction(prompt * price.prompt + completion * price.completion + price.base, price.denominator)
