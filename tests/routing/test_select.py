"""Who may answer, in which order, and why the others may not."""

from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from arbstr.config import PoliciesConfig, PolicyRule, Strategy, Tier
from arbstr.errors import InvalidRequest, NoProviderAvailable
from arbstr.routing import Demand, Offer, Selection, select
from arbstr.units import Price

NOW = 100.0
ASKED = Demand("m", 1_000, 2_000, 1_000, 4_000)


def price_of(input_rate: int | str, output_rate: int | str, base_fee: int | str = 0) -> Price:
    """In sats per 1,000 tokens; the fee in sats."""
    return Price.of(Decimal(input_rate), Decimal(output_rate), Decimal(base_fee))


def offer(provider: str, price: Price | None = None, **fields: Any) -> Offer:
    return Offer(provider, fields.pop("models", ("m",)), price or price_of(1, 1), Tier.STANDARD, **fields)


def choose(*offers: Offer, asked: Demand = ASKED, rules: tuple[PolicyRule, ...] = (), **options: Any) -> Selection:
    policies = PoliciesConfig(default=options.pop("default", Strategy.CHEAPEST), rules=rules)
    return select(asked, offers, policies, now=NOW, **options)


def names(selection: Selection) -> list[str]:
    return [candidate.provider for candidate in selection.candidates]


def reasons(selection: Selection) -> dict[str, str]:
    return {out.provider: out.reason for out in selection.left_out}


# Who serves the model


def test_only_those_who_list_the_model_or_nothing_qualify_when_a_model_is_asked_for() -> None:
    chosen = choose(offer("a", models=("M", "m2")), offer("b"), offer("any", models=()))
    assert names(chosen) == ["any", "b"]
    assert reasons(chosen) == {"a": "does_not_serve_model"}


def test_the_request_is_refused_when_nobody_serves_the_model() -> None:
    with pytest.raises(InvalidRequest, match=r"No providers available.*'m'") as caught:
        choose(offer("a", models=("x",)))
    assert (caught.value.status, caught.value.reason, caught.value.param) == (400, "model_not_found", "model")


def test_the_request_is_refused_when_there_are_no_offers() -> None:
    with pytest.raises(InvalidRequest, match="No providers available"):
        choose()


def test_a_provider_is_out_when_its_price_is_unknown() -> None:
    unknown = Offer("a", ("m",), None, Tier.STANDARD)
    assert reasons(choose(unknown, offer("b"))) == {"a": "unknown_price"}
    with pytest.raises(InvalidRequest, match=r"No providers available.*'m'.*price of a") as caught:
        choose(unknown)
    assert caught.value.reason == "model_not_found"


def test_the_message_stays_short_when_the_model_name_is_long() -> None:
    with pytest.raises(InvalidRequest) as caught:
        choose(asked=evolve(ASKED, model="x" * 10_000))
    assert len(caught.value.message) < 300


# Policies


FREE = PolicyRule("free", max_output_rate=Fraction(1), keywords=("cheap",))
CODE = PolicyRule("code", strategy=Strategy.ROUND_ROBIN, keywords=("code", "implement"))


@pytest.mark.parametrize(
    ("header", "text", "policy"),
    [
        (None, "hello", None),
        (None, "", None),
        ("code", "hello", "code"),
        ("code", "cheap", "code"),
        ("CODE", "cheap", "free"),
        ("nosuch", "hello", None),
        ("nosuch", "decode this", "code"),
        (None, "IMPLEMENTing it", "code"),
        (None, "cheap code", "free"),
    ],
)
def test_the_rule_is_the_callers_or_the_first_with_a_keyword_when_the_request_says(
    header: str | None, text: str, policy: str | None
) -> None:
    asked = evolve(ASKED, policy_header=header, last_user_text=text)
    assert choose(offer("a"), asked=asked, rules=(FREE, CODE)).policy == policy


@pytest.mark.parametrize(("text", "strategy"), [("code", Strategy.ROUND_ROBIN), ("x", Strategy.LOWEST_LATENCY)])
def test_the_rules_strategy_wins_over_the_default_when_a_rule_matches(text: str, strategy: Strategy) -> None:
    asked = evolve(ASKED, last_user_text=text)
    chosen = choose(offer("a"), asked=asked, rules=(CODE,), default=Strategy.LOWEST_LATENCY)
    assert chosen.strategy is strategy


def test_the_request_is_refused_when_its_policy_does_not_allow_the_model() -> None:
    rule = PolicyRule("mini", allowed_models=("m-mini",))
    with pytest.raises(InvalidRequest, match=r"^Invalid request: .*'mini'.*'m'") as caught:
        choose(offer("a"), asked=evolve(ASKED, policy_header="mini"), rules=(rule,))
    assert (caught.value.status, caught.value.reason) == (400, "model_not_allowed")


def test_the_model_is_unknown_rather_than_forbidden_when_it_is_both() -> None:
    rule = PolicyRule("mini", allowed_models=("m-mini",))
    with pytest.raises(InvalidRequest, match="No providers available"):
        choose(offer("a", models=("x",)), asked=evolve(ASKED, policy_header="mini"), rules=(rule,))


def test_a_provider_is_out_when_its_output_rate_is_above_the_cap() -> None:
    rule = PolicyRule("cap", max_output_rate=Fraction(10))
    chosen = choose(
        offer("dear", price_of(0, "10.000001")),
        offer("equal", price_of(50, 10)),
        asked=evolve(ASKED, policy_header="cap"),
        rules=(rule,),
    )
    assert names(chosen) == ["equal"]
    assert reasons(chosen) == {"dear": "policy_price_cap"}


def test_the_request_is_refused_when_the_cap_leaves_nobody() -> None:
    rule = PolicyRule("cap", max_output_rate=Fraction(1, 2))
    with pytest.raises(InvalidRequest, match="policy constraints") as caught:
        choose(offer("a"), asked=evolve(ASKED, policy_header="cap"), rules=(rule,))
    assert (caught.value.status, caught.value.reason) == (400, "policy_price_cap")
    assert caught.value.details == {"policy": "cap"}


# Shut and busy


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"open_until": NOW + 1}, "breaker_open"),
        ({"open_until": NOW - 1, "probing": True}, "breaker_open"),
        ({"probing": True}, "breaker_open"),
        ({"busy": True}, "busy"),
    ],
)
def test_a_provider_is_out_when_it_is_shut_or_busy(fields: dict[str, Any], reason: str) -> None:
    chosen = choose(offer("a", **fields), offer("b", price_of(9, 9)))
    assert names(chosen) == ["b"]
    assert reasons(chosen) == {"a": reason}


@pytest.mark.parametrize("open_until", [NOW, NOW - 1])
def test_a_provider_may_be_probed_when_its_open_time_is_over(open_until: float) -> None:
    assert names(choose(offer("a", open_until=open_until))) == ["a"]


def test_the_caller_is_told_when_to_come_back_when_everybody_is_shut_out() -> None:
    shut = [offer("a", open_until=NOW + 20), offer("b", open_until=NOW + 7.5)]
    with pytest.raises(NoProviderAvailable, match=r"'m'.*open circuits") as caught:
        choose(*shut, offer("c", models=("x",)))
    assert (caught.value.status, caught.value.retry_after_s) == (503, 7.5)
    with pytest.raises(NoProviderAvailable, match="open circuits") as caught:
        choose(*shut, offer("c", busy=True))
    assert caught.value.retry_after_s == 1.0
    with pytest.raises(NoProviderAvailable, match="open circuits"):
        choose(offer("a", probing=True))


# Order


def test_the_cheapest_for_this_request_is_first_when_fees_and_rates_differ() -> None:
    by_fee, by_rate = offer("fee", price_of(1, 1, 8)), offer("rate", price_of(3, 3))
    assert names(choose(by_fee, by_rate)) == ["rate", "fee"]
    assert names(choose(by_fee, by_rate, asked=evolve(ASKED, prompt_tokens=5_000))) == ["fee", "rate"]


def test_prices_are_compared_exactly_when_they_round_to_the_same_msat() -> None:
    asked = evolve(ASKED, prompt_tokens=1, completion_tokens=0)
    chosen = choose(offer("a", price_of("0.0003", 0)), offer("b", price_of("0.0002", 0)), asked=asked)
    assert names(chosen) == ["b", "a"]
    assert [candidate.expected_msat for candidate in chosen.candidates] == [1, 1]


def test_the_name_decides_when_costs_are_equal() -> None:
    assert names(choose(offer("zed"), offer("amy"))) == ["amy", "zed"]


def test_costs_are_those_of_the_request_when_a_candidate_is_made() -> None:
    [candidate] = choose(offer("a", price_of(5, 15, 1))).candidates
    assert (candidate.expected_msat, candidate.bound_msat) == (21_000, 71_000)


def test_the_unmeasured_then_the_fastest_come_first_when_latency_decides() -> None:
    offers = [offer("slow", ttfb_ms=90.0), offer("new"), offer("fast", ttfb_ms=5.0), offer("dear", price_of(2, 2))]
    assert names(choose(*offers, default=Strategy.LOWEST_LATENCY)) == ["new", "dear", "fast", "slow"]


def test_cost_then_name_decide_when_latencies_are_equal() -> None:
    offers = [offer("b", ttfb_ms=5.0), offer("a", ttfb_ms=5.0), offer("z", price_of("0.5", 1), ttfb_ms=5.0)]
    assert names(choose(*offers, default=Strategy.LOWEST_LATENCY)) == ["z", "a", "b"]


@pytest.mark.parametrize(("rotation", "order"), [(0, "abc"), (1, "bca"), (2, "cab"), (3, "abc"), (10**9 + 1, "cab")])
def test_each_comes_first_in_turn_when_the_strategy_is_round_robin(rotation: int, order: str) -> None:
    offers = [offer("c"), offer("b", price_of(9, 9)), offer("a"), offer("shut", probing=True)]
    assert names(choose(*offers, default=Strategy.ROUND_ROBIN, rotation=rotation)) == list(order)


# Properties

RATES = st.decimals(0, 100, places=6)
PRICES = st.builds(Price.of, RATES, RATES, RATES, unit=st.sampled_from(["sats_per_1k_tokens", "sats_per_1m_tokens"]))
OFFERS = st.lists(
    st.builds(
        Offer,
        provider=st.text("abcdef", min_size=1, max_size=3),
        models=st.sampled_from([(), ("m",), ("x",), ("x", "m")]),
        price=st.none() | PRICES,
        tier=st.sampled_from(Tier),
        ttfb_ms=st.none() | st.floats(0, 1_000),
        open_until=st.none() | st.floats(NOW - 10, NOW + 10),
        probing=st.booleans(),
        busy=st.booleans(),
    ),
    max_size=8,
    unique_by=lambda one: one.provider,
)
TOKENS = st.integers(0, 10**7)
DEMANDS = st.builds(
    Demand,
    model=st.just("m"),
    prompt_tokens=TOKENS,
    prompt_tokens_bound=st.just(10**7),
    completion_tokens=TOKENS,
    completion_tokens_bound=st.just(10**7),
    policy_header=st.sampled_from([None, "cap"]),
    last_user_text=st.just(""),
)
POLICIES = st.builds(
    PoliciesConfig,
    default=st.sampled_from(Strategy),
    rules=st.tuples(
        st.builds(
            PolicyRule,
            name=st.just("cap"),
            strategy=st.sampled_from(Strategy),
            max_output_rate=st.none() | st.fractions(0, 100),
        )
    ),
)


SURE = st.builds(offer, st.just("sure"), st.builds(price_of, RATES, st.just(0), RATES))
"""Qualifies whatever the demand and the policy of these tests."""
ANSWERABLE = st.builds(lambda sure, others: [*others, sure], SURE, OFFERS)


def qualifies(one: Offer, demand: Demand, policies: PoliciesConfig) -> bool:
    """The rules once more, one by one."""
    cap = policies.rules[0].max_output_rate if demand.policy_header == "cap" else None
    return (
        (not one.models or demand.model in one.models)
        and one.price is not None
        and (cap is None or one.price.output_rate_sats("sats_per_1k_tokens") <= cap)
        and (one.open_until is None or one.open_until <= NOW)
        and not one.probing
        and not one.busy
    )


def exact_msat(price: Price, demand: Demand) -> Fraction:
    prompt = price.input_rate_sats("sats_per_1k_tokens") * demand.prompt_tokens
    completion = price.output_rate_sats("sats_per_1k_tokens") * demand.completion_tokens
    return prompt + completion + price.base_fee_msat


@given(DEMANDS, ANSWERABLE, POLICIES)
def test_the_pick_costs_least_among_the_qualified_when_the_strategy_is_cheapest(
    demand: Demand, offers: list[Offer], policies: PoliciesConfig
) -> None:
    rules = tuple(evolve(rule, strategy=Strategy.CHEAPEST) for rule in policies.rules)
    policies = PoliciesConfig(default=Strategy.CHEAPEST, rules=rules)
    chosen = select(demand, offers, policies, now=NOW)
    qualified = [one.price for one in offers if qualifies(one, demand, policies)]
    costs = [exact_msat(price, demand) for price in qualified if price is not None]
    assert exact_msat(chosen.candidates[0].price, demand) == min(costs)
    assert [exact_msat(candidate.price, demand) for candidate in chosen.candidates] == sorted(costs)


@given(DEMANDS, ANSWERABLE, POLICIES)
def test_each_provider_is_candidate_or_left_out_once_when_a_choice_is_made(
    demand: Demand, offers: list[Offer], policies: PoliciesConfig
) -> None:
    chosen = select(demand, offers, policies, now=NOW)
    assert sorted(names(chosen) + list(reasons(chosen))) == sorted(one.provider for one in offers)
    assert len(chosen.left_out) == len(reasons(chosen))
    assert set(names(chosen)) == {one.provider for one in offers if qualifies(one, demand, policies)}
    assert all(candidate.expected_msat <= candidate.bound_msat for candidate in chosen.candidates)


@given(DEMANDS, ANSWERABLE, POLICIES, st.integers(0, 20), st.randoms(use_true_random=False))
def test_nothing_changes_when_the_offers_come_in_another_order(
    demand: Demand, offers: list[Offer], policies: PoliciesConfig, rotation: int, random: Any
) -> None:
    chosen = select(demand, offers, policies, now=NOW, rotation=rotation)
    shuffled = list(offers)
    random.shuffle(shuffled)
    assert select(demand, shuffled, policies, now=NOW, rotation=rotation) == chosen


@given(DEMANDS, OFFERS, POLICIES)
def test_somebody_qualified_is_never_refused_when_an_error_is_raised(
    demand: Demand, offers: list[Offer], policies: PoliciesConfig
) -> None:
    try:
        chosen = select(demand, offers, policies, now=NOW)
    except (InvalidRequest, NoProviderAvailable):
        assert not any(qualifies(one, demand, policies) for one in offers)
    else:
        assert chosen.candidates
