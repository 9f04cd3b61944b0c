"""What a request asks for: the model, the tokens expected, and the tokens that it cannot exceed."""

from __future__ import annotations

from attrs import frozen

from arbstr.routing._estimate import EXPECTED_COMPLETION_TOKENS
from arbstr.wire import ModelCall

BYTES_PER_TOKEN = 4
"""Of English text, on average."""


@frozen
class Demand:
    """Tokens of one request: ``prompt_tokens`` and ``completion_tokens`` are expected, their bounds are for the hold.

    ``policy_header`` is what the caller named; ``last_user_text`` is where keywords are looked for.
    """

    model: str
    prompt_tokens: int
    prompt_tokens_bound: int
    completion_tokens: int
    completion_tokens_bound: int
    policy_header: str | None = None
    last_user_text: str = ""


def demand_of(call: ModelCall, *, default_reserve_tokens: int, policy: str | None) -> Demand:
    """Estimate a request.

    A token is at least one byte of text, so the text's length bounds its tokens; what a chat template adds per message
    and what an image may cost are bounded generously. ``default_reserve_tokens`` stands in, per choice, for a limit of
    the completion that the caller did not give. A limit of 0 is a limit.
    """
    limit = default_reserve_tokens if call.max_tokens is None else call.max_tokens
    completion_bound = call.n * limit
    text_tokens = -(-call.messages_text_bytes // BYTES_PER_TOKEN)
    return Demand(
        model=call.model,
        prompt_tokens=text_tokens + 4 * call.messages + 1_000 * call.images,
        prompt_tokens_bound=call.messages_text_bytes + 16 * call.messages + 4_096 * call.images + 64,
        completion_tokens=min(completion_bound, call.n * EXPECTED_COMPLETION_TOKENS),
        completion_tokens_bound=completion_bound,
        policy_header=policy,
        last_user_text=call.last_user_text,
    )
