"""Configuration, what was learned and a request become a demand and a selection."""

import json
from fractions import Fraction
from typing import Any

import pytest
from attrs import evolve

from arbstr.config import Model, PoliciesConfig, PolicyRule, RoutingConfig, Strategy, Tier
from arbstr.errors import InvalidRequest
from arbstr.routing import Offer, Router, RunningMean
from arbstr.units import Price
from arbstr.wire import Endpoint, ModelCall, Usage, parse_chat

PLAIN = "four plain words go here"


def call_of(text: str = PLAIN, **members: Any) -> ModelCall:
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": text}], **members}
    return parse_chat(json.dumps(body).encode())


def offer(provider: str, rate: int = 5, tier: Tier = Tier.STANDARD, **fields: Any) -> Offer:
    return Offer(provider, fields.pop("models", ("gpt-4o",)), Price.of(rate, 3 * rate), tier, **fields)


THREE = [offer("local", 1, Tier.LOCAL), offer("standard", 5), offer("frontier", 10, Tier.FRONTIER)]


def outcome(router: Router, call: ModelCall, complexity: str | None, *offers: Offer) -> tuple[str, Tier, float | None]:
    chosen = router.select(router.demand(call, policy=None, complexity=complexity), offers or THREE, now=0.0)
    return chosen.candidates[0].provider, chosen.tier, chosen.complexity_score


# Tiers (contract, black-box cases 8 to 16)


@pytest.mark.parametrize(
    ("complexity", "tier"), [("low", Tier.LOCAL), ("medium", Tier.STANDARD), ("HIGH", Tier.FRONTIER)]
)
def test_the_cheapest_under_the_callers_ceiling_answers_when_it_names_one(complexity: str, tier: Tier) -> None:
    assert outcome(Router(), call_of(), complexity) == ("local", tier, None)


@pytest.mark.parametrize("complexity", [None, "banana"])
def test_the_scorer_runs_when_the_caller_does_not_say(complexity: str | None) -> None:
    provider, tier, score = outcome(Router(), call_of(), complexity)
    assert (provider, tier, f"{score:.3f}") == ("local", Tier.LOCAL, "0.025")


def test_the_ceiling_rises_when_the_tier_is_empty() -> None:
    assert outcome(Router(), call_of(), "low", THREE[2]) == ("frontier", Tier.FRONTIER, None)
    assert outcome(Router(), call_of(), None, THREE[1])[:2] == ("standard", Tier.STANDARD)


def test_a_cap_that_empties_the_lowest_tier_is_no_refusal_when_the_next_is_below_it() -> None:
    router = Router(PoliciesConfig(rules=(PolicyRule("cap", max_output_rate=Fraction(50)),)))
    demand = router.demand(call_of(), policy="cap", complexity=None)
    chosen = router.select(demand, [offer("local", 300, Tier.LOCAL), offer("standard", 3)], now=0.0)
    assert (chosen.candidates[0].provider, chosen.tier) == ("standard", Tier.STANDARD)


def test_everything_may_answer_when_there_are_no_messages() -> None:
    assert outcome(Router(), call_of(messages=[]), None) == ("local", Tier.FRONTIER, 1.0)


def test_the_tier_is_a_floor_too_when_that_is_configured() -> None:
    strict = Router(routing=RoutingConfig(enforce_tier=True))
    assert outcome(strict, call_of(), "high") == ("frontier", Tier.FRONTIER, None)
    assert outcome(strict, call_of(), "medium") == ("standard", Tier.STANDARD, None)
    assert outcome(strict, call_of(), None)[:2] == ("local", Tier.LOCAL)
    with pytest.raises(InvalidRequest, match="which this request needs"):
        outcome(strict, call_of(), "high", THREE[0])


def test_thresholds_and_keywords_are_the_operators_when_a_request_is_scored() -> None:
    router = Router(routing=RoutingConfig(complexity_threshold_low=0.05, extra_keywords=("Plain",)))
    assert outcome(router, call_of(), None)[1] is Tier.STANDARD
    assert outcome(evolve(router, routing=RoutingConfig()), call_of(), None)[1] is Tier.LOCAL


def test_an_embedding_is_not_scored_when_nobody_says_how_complex_it_is() -> None:
    call = evolve(call_of(), endpoint=Endpoint.EMBEDDINGS)
    strict = Router(routing=RoutingConfig(enforce_tier=True))
    demand = strict.demand(call, policy=None, complexity=None)
    assert (demand.tier, demand.floor, demand.complexity_score) == (Tier.FRONTIER, Tier.LOCAL, None)
    assert (demand.completion_tokens, demand.completion_tokens_bound) == (0, 0)
    assert strict.demand(call, policy=None, complexity="low").tier is Tier.LOCAL


# Names


def test_the_real_model_is_asked_for_when_the_caller_uses_an_alias() -> None:
    router = Router(aliases={"fast": "gpt-4o"}, estimator=RunningMean())
    call = call_of(model="fast")
    demand = router.demand(call, policy=None, complexity=None)
    assert (demand.model, demand.requested_model) == ("gpt-4o", "fast")
    chosen = router.select(demand, [offer("a"), offer("b", models=(Model("gpt-4o", upstream_id="o4"),))], now=0.0)
    assert {one.provider: one.upstream_model for one in chosen.candidates} == {"a": "gpt-4o", "b": "o4"}
    for _ in range(500):
        router.observe(call, chosen, "a", Usage(10, 7))
    assert router.demand(call_of(), policy=None, complexity=None).completion_tokens == 7


def test_the_rule_is_found_when_the_caller_names_it_or_uses_its_keyword() -> None:
    turns = PolicyRule("turns", strategy=Strategy.ROUND_ROBIN, keywords=("plain",))
    router = Router(PoliciesConfig(rules=(turns, PolicyRule("fast", strategy=Strategy.LOWEST_LATENCY))))
    assert router.demand(call_of(), policy=None, complexity=None).policy == turns
    demand = router.demand(call_of(), policy="fast", complexity=None)
    chosen = router.select(demand, THREE, now=0.0)
    assert (demand.policy_header, chosen.policy, chosen.strategy) == ("fast", "fast", Strategy.LOWEST_LATENCY)
    assert router.demand(call_of("hi"), policy="none", complexity=None).policy is None


# What was learned


def test_the_pick_changes_when_answers_turn_out_short() -> None:
    router = Router(estimator=RunningMean())
    market = [
        Offer("cheap to read", ("gpt-4o",), Price.of(1, 8), Tier.STANDARD),
        Offer("cheap to write", ("gpt-4o",), Price.of(3, 1), Tier.STANDARD),
    ]
    call = call_of("word " * 400)

    def pick(call: ModelCall) -> str:
        chosen = router.select(router.demand(call, policy=None, complexity=None), market, now=0.0)
        router.observe(call, chosen, chosen.candidates[0].provider, Usage(504, 20))
        return chosen.candidates[0].provider

    assert pick(call) == "cheap to write"
    assert [pick(call) for _ in range(100)][-1] == "cheap to read"
    assert router.demand(call_of(max_tokens=5), policy=None, complexity=None).completion_tokens == 5


def test_the_expectation_survives_when_the_configuration_is_replaced() -> None:
    first = Router(estimator=RunningMean())
    chosen = first.select(first.demand(call_of(), policy=None, complexity=None), THREE, now=0.0)
    for _ in range(500):
        first.observe(call_of(), chosen, "local", Usage(10, 40))
    second = Router(default_reserve_tokens=10_000, estimator=first.estimator)
    assert second.demand(call_of(), policy=None, complexity=None).completion_tokens == 40


def test_the_provider_that_caches_is_picked_when_that_makes_it_the_cheapest() -> None:
    router = Router(estimator=RunningMean())
    caching = Offer("caching", ("gpt-4o",), Price.of(11, 10, cached_input_rate=1), Tier.STANDARD)
    plain = Offer("plain", ("gpt-4o",), Price.of(10, 10), Tier.STANDARD)
    demand = router.demand(call_of(), policy=None, complexity=None)
    assert router.select(demand, [caching, plain], now=0.0).candidates[0].provider == "plain"
    for _ in range(20):
        router.observe(call_of(), router.select(demand, [caching], now=0.0), "caching", Usage(1_000, 256, 800))
    assert router.select(demand, [caching, plain], now=0.0).candidates[0].provider == "caching"


# Quotes (contract 4.7, black-box cases 95 and 96)


def test_a_quote_is_the_cheapest_of_any_tier_when_everybody_is_shut() -> None:
    router = Router(PoliciesConfig(default=Strategy.ROUND_ROBIN), RoutingConfig(enforce_tier=True))
    shut = [evolve(one, open_until=1e9, busy=True) for one in THREE]
    demand = router.demand(call_of("hello"), policy=None, complexity="high")
    quote = router.quote(evolve(demand, prompt_tokens=1, completion_tokens=256), shut)
    assert [one.provider for one in quote.candidates] == ["local", "standard", "frontier"]
    assert quote.candidates[1].expected_msat == 3_845
    assert quote.left_out == ()


def test_a_quote_is_refused_when_the_policy_leaves_nobody() -> None:
    router = Router(PoliciesConfig(rules=(PolicyRule("mini", allowed_models=("gpt-4o-mini",)),)))
    with pytest.raises(InvalidRequest, match=r"^Invalid request: .*'mini'.*'gpt-4o'"):
        router.quote(router.demand(call_of(), policy="mini", complexity=None), THREE)
