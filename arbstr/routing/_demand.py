"""What a request asks for: the model, the tokens expected, those that it cannot exceed, and the class of answer."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import field, frozen

from arbstr.config import PolicyRule, Tier
from arbstr.routing._estimate import EXPECTED_COMPLETION_TOKENS
from arbstr.routing._tokens import expected_prompt_tokens, least_prompt_tokens, most_prompt_tokens
from arbstr.wire import Endpoint, ModelCall


@frozen
class Demand:
    """Tokens of one request: ``prompt_tokens`` and ``completion_tokens`` are expected, their bounds are for the hold.

    ``model`` is the real one, ``requested_model`` what the caller said. ``policy`` is the rule that matched,
    ``policy_header`` the one that the caller named, whether there is such a rule or not.
    """

    model: str
    prompt_tokens: int
    prompt_tokens_bound: int
    completion_tokens: int
    completion_tokens_bound: int
    policy_header: str | None = None
    policy: PolicyRule | None = None
    requested_model: str = field()
    tier: Tier = Tier.FRONTIER
    """The ceiling to begin with."""
    floor: Tier = Tier.LOCAL
    """Below which nobody may answer."""
    complexity_score: float | None = None
    """None when the scorer did not run: the caller said how complex it is, or it is for an embedding."""
    prompt_tokens_least: int = 0
    """What the prompt has at least, so that nobody is left out for an estimate that was too high."""
    max_tokens: int | None = None
    """What the caller allows each choice; None: no limit."""

    @requested_model.default
    def _as_it_is_called(self) -> str:
        return self.model


def demand_of(
    call: ModelCall,
    *,
    default_reserve_tokens: int,
    model: str | None = None,
    policy_header: str | None = None,
    policy: PolicyRule | None = None,
    tier: Tier = Tier.FRONTIER,
    floor: Tier = Tier.LOCAL,
    complexity_score: float | None = None,
    expected_completion_tokens: int = EXPECTED_COMPLETION_TOKENS,
) -> Demand:
    """Count the tokens of a request; the rest is as it is given.

    ``default_reserve_tokens`` stands in, per choice, for a limit of the completion that the caller did not give. Of a
    limit of 0 nothing is expected, and the bound is as if there were none: some providers take it so.
    ``expected_completion_tokens`` is of one choice, and bounded here. An embedding has no completion.
    """
    limit = default_reserve_tokens if call.max_tokens is None else call.max_tokens
    bound = limit or default_reserve_tokens
    if call.endpoint is Endpoint.EMBEDDINGS:
        limit = bound = 0
    return Demand(
        model=call.model if model is None else model,
        prompt_tokens=expected_prompt_tokens(call),
        prompt_tokens_bound=most_prompt_tokens(call),
        completion_tokens=call.n * min(limit, expected_completion_tokens),
        completion_tokens_bound=call.n * bound,
        policy_header=policy_header,
        policy=policy,
        requested_model=call.model,
        tier=tier,
        floor=floor,
        complexity_score=complexity_score,
        prompt_tokens_least=least_prompt_tokens(call),
        max_tokens=call.max_tokens,
    )


def rule_for(rules: Sequence[PolicyRule], header: str | None, last_user_text: str) -> PolicyRule | None:
    """The rule that the caller names, exactly; else the first with a keyword in the last user text (section 7.2)."""
    if not rules:
        return None
    named = next((rule for rule in rules if rule.name == header), None)
    if named is not None or not last_user_text:
        return named
    text = last_user_text.casefold()
    return next((rule for rule in rules if _has_keyword(rule, text)), None)


def _has_keyword(rule: PolicyRule, text: str) -> bool:
    return any(keyword and keyword.casefold() in text for keyword in rule.keywords)
