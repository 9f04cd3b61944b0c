"""Who may answer, in which order, and why the others may not."""

from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from arbstr.config import Model, PolicyRule, Strategy, Tier
from arbstr.errors import InvalidRequest, NoProviderAvailable
from arbstr.routing import Demand, FixedEstimate, Offer, Offers, Selection, select
from arbstr.units import Price

NOW = 100.0
ASKED = Demand("m", 1_000, 2_000, 1_000, 4_000)


def price_of(input_rate: int | str, output_rate: int | str, base_fee: int | str = 0) -> Price:
    """In sats per 1,000 tokens; the fee in sats."""
    return Price.of(Decimal(input_rate), Decimal(output_rate), Decimal(base_fee))


def offer(provider: str, price: Price | None = None, **fields: Any) -> Offer:
    tier = fields.pop("tier", Tier.STANDARD)
    return Offer(provider, fields.pop("models", ("m",)), price or price_of(1, 1), tier, **fields)


def with_model(provider: str, price: Price | None = None, **particulars: Any) -> Offer:
    return offer(provider, price, models=(Model("m", **particulars),))


def choose(*offers: Offer, asked: Demand = ASKED, rule: PolicyRule | None = None, **options: Any) -> Selection:
    return select(asked if rule is None else evolve(asked, policy=rule), offers, now=NOW, **options)


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
        choose(asked=Demand("x" * 10_000, 1, 1, 1, 1))
    assert len(caught.value.message) < 300


def test_a_listed_model_has_its_own_price_and_name_when_it_says_so() -> None:
    own = offer("a", price_of(5, 5), models=(Model("m", upstream_id="vendor/m-v2", price=price_of(1, 2)), Model("x")))
    [candidate] = choose(own).candidates
    assert (candidate.price, candidate.upstream_model) == (price_of(1, 2), "vendor/m-v2")
    [candidate] = choose(own, asked=evolve(ASKED, model="x")).candidates
    assert (candidate.price, candidate.upstream_model) == (price_of(5, 5), "x")


def test_a_model_can_be_bought_when_only_it_has_a_price() -> None:
    own = Offer("a", (Model("m", price=price_of(1, 2)), Model("x")), None, Tier.STANDARD)
    assert names(choose(own)) == ["a"]
    with pytest.raises(InvalidRequest, match="price of a is not known"):
        choose(own, asked=evolve(ASKED, model="x"))


def test_what_it_lists_holds_when_a_provider_takes_any_model() -> None:
    any_model = offer("a", models=(Model("m", price=price_of(1, 2)),), any_model=True)
    assert choose(any_model).candidates[0].price == price_of(1, 2)
    assert choose(any_model, asked=evolve(ASKED, model="other")).candidates[0].price == price_of(1, 1)


def test_a_provider_is_out_when_its_model_is_quarantined() -> None:
    chosen = choose(with_model("a", excluded="30 times the median"), offer("b"))
    assert names(chosen) == ["b"]
    assert [(out.provider, out.reason, out.detail) for out in chosen.left_out] == [
        ("a", "quarantined", "30 times the median")
    ]


def test_the_caller_may_come_back_when_the_model_is_quarantined_everywhere() -> None:
    with pytest.raises(NoProviderAvailable, match=r"No providers available.*'m'.*a \(too dear\)") as caught:
        choose(with_model("a", excluded="too dear"), Offer("b", ("m",), None, Tier.STANDARD))
    assert caught.value.retry_after_s == 60.0


def test_the_message_names_few_when_a_market_has_many() -> None:
    unpriced = [Offer(f"p{number}", ("m",), None, Tier.STANDARD) for number in range(300)]
    with pytest.raises(InvalidRequest, match="and 295 others is not known"):
        choose(*unpriced)


def test_both_names_are_told_when_the_caller_used_an_alias() -> None:
    with pytest.raises(InvalidRequest, match=r"'fast' \('m'\)"):
        choose(asked=evolve(ASKED, requested_model="fast"))


# Policies


def test_the_rules_strategy_wins_over_the_default_when_a_rule_matches() -> None:
    rule = PolicyRule("turns", strategy=Strategy.ROUND_ROBIN)
    chosen = choose(offer("a"), rule=rule, default=Strategy.LOWEST_LATENCY)
    assert (chosen.policy, chosen.strategy) == ("turns", Strategy.ROUND_ROBIN)
    chosen = choose(offer("a"), default=Strategy.LOWEST_LATENCY)
    assert (chosen.policy, chosen.strategy) == (None, Strategy.LOWEST_LATENCY)


def test_the_request_is_refused_when_its_policy_does_not_allow_the_model() -> None:
    rule = PolicyRule("mini", allowed_models=("m-mini",))
    with pytest.raises(InvalidRequest, match=r"^Invalid request: .*'mini'.*'m'") as caught:
        choose(offer("a"), rule=rule)
    assert (caught.value.status, caught.value.reason) == (400, "model_not_allowed")


@pytest.mark.parametrize("allowed", ["m", "fast"])
def test_a_rule_may_allow_a_model_by_either_name_when_the_caller_used_an_alias(allowed: str) -> None:
    asked = evolve(ASKED, requested_model="fast")
    assert names(choose(offer("a"), asked=asked, rule=PolicyRule("p", allowed_models=(allowed,)))) == ["a"]


def test_the_model_is_unknown_rather_than_forbidden_when_it_is_both() -> None:
    with pytest.raises(InvalidRequest, match="No providers available"):
        choose(offer("a", models=("x",)), rule=PolicyRule("mini", allowed_models=("m-mini",)))


def test_a_provider_is_out_when_its_output_rate_is_above_the_cap() -> None:
    chosen = choose(
        offer("dear", price_of(0, "10.000001")),
        offer("equal", price_of(50, 10)),
        offer("own", price_of(50, 11), models=(Model("m", price=price_of(9, 9)),)),
        rule=PolicyRule("cap", max_output_rate=Fraction(10)),
    )
    assert names(chosen) == ["own", "equal"]
    assert reasons(chosen) == {"dear": "policy_price_cap"}


def test_the_request_is_refused_when_the_cap_leaves_nobody() -> None:
    with pytest.raises(InvalidRequest, match="policy constraints") as caught:
        choose(offer("a"), rule=PolicyRule("cap", max_output_rate=Fraction(1, 2)))
    assert (caught.value.status, caught.value.reason) == (400, "policy_price_cap")
    assert caught.value.details == {"policy": "cap"}


# Size

LONG = evolve(ASKED, prompt_tokens=9_000, prompt_tokens_bound=36_000, prompt_tokens_least=2_000, max_tokens=500)


def test_a_provider_is_out_when_not_even_the_least_fits_into_its_context() -> None:
    chosen = choose(
        with_model("small", context_tokens=2_499),
        with_model("even", context_tokens=2_500),
        with_model("large", price_of(9, 9), context_tokens=9_500),
        with_model("unknown", price_of(10, 10)),
        asked=LONG,
    )
    assert reasons(chosen) == {"small": "context_too_long"}
    assert names(chosen) == ["large", "unknown", "even"]


def test_those_where_the_prompt_probably_fits_come_first_when_others_may_be_too_small() -> None:
    offers = [with_model("tight", price_of(1, 1), context_tokens=9_499), with_model("wide", price_of(9, 9))]
    for strategy in Strategy:
        assert names(choose(*offers, asked=LONG, default=strategy, rotation=1)) == ["wide", "tight"]


def test_a_provider_is_out_when_more_output_is_asked_for_than_it_gives() -> None:
    offers = [with_model("short", max_output_tokens=499), with_model("even", max_output_tokens=500)]
    chosen = choose(*offers, asked=LONG)
    assert (names(chosen), reasons(chosen)) == (["even"], {"short": "output_too_long"})
    assert names(choose(*offers, asked=evolve(LONG, max_tokens=None))) == ["even", "short"]


def test_the_request_is_refused_with_the_numbers_when_it_fits_nowhere() -> None:
    offers = [with_model("a", context_tokens=1_000), with_model("b", context_tokens=2_000), offer("c", models=("x",))]
    with pytest.raises(InvalidRequest, match=r"'m'.*2000 tokens of prompt and 500 .*context length is 2000") as caught:
        choose(*offers, asked=LONG)
    assert (caught.value.status, caught.value.reason) == (400, "context_length_exceeded")
    assert caught.value.param == "messages"
    assert caught.value.details == {"prompt_tokens_least": 2_000, "max_tokens": 500, "context_tokens": 2_000}
    with pytest.raises(InvalidRequest, match="maximum output is 100 tokens") as caught:
        choose(with_model("a", max_output_tokens=100), asked=LONG)
    assert (caught.value.reason, caught.value.param) == ("context_length_exceeded", "max_tokens")


# Tiers

LOCAL = offer("local", price_of(2, 2), tier=Tier.LOCAL)
STANDARD = offer("standard", price_of(1, 1), tier=Tier.STANDARD)
FRONTIER = offer("frontier", price_of(3, 3), tier=Tier.FRONTIER)
SIMPLE, MEDIUM, HARD = (evolve(ASKED, tier=tier) for tier in Tier)


@pytest.mark.parametrize(
    ("asked", "order", "above"),
    [
        (SIMPLE, ["local"], ["standard", "frontier"]),
        (MEDIUM, ["standard", "local"], ["frontier"]),
        (HARD, ["standard", "local", "frontier"], []),
    ],
)
def test_who_is_above_the_ceiling_comes_last_when_others_can_answer(
    asked: Demand, order: list[str], above: list[str]
) -> None:
    chosen = choose(LOCAL, STANDARD, FRONTIER, asked=asked)
    assert names(chosen) == order + above
    assert reasons(chosen) == {}
    assert chosen.tier is asked.tier


def test_the_tier_of_an_answer_is_above_the_ceiling_when_its_provider_is() -> None:
    chosen = choose(LOCAL, STANDARD, FRONTIER, asked=SIMPLE)
    tiers = [chosen.tier_of(name) for name in ("local", "standard", "frontier", None)]
    assert tiers == [Tier.LOCAL, Tier.STANDARD, Tier.FRONTIER, Tier.LOCAL]


def test_the_score_is_kept_when_there_is_one() -> None:
    assert choose(LOCAL, asked=evolve(SIMPLE, complexity_score=0.025)).complexity_score == 0.025


@pytest.mark.parametrize(
    ("offers", "order", "tier", "why"),
    [
        ([FRONTIER], ["frontier"], Tier.FRONTIER, {}),
        ([STANDARD, FRONTIER], ["standard", "frontier"], Tier.STANDARD, {}),
        (
            [evolve(LOCAL, open_until=NOW + 9), STANDARD, FRONTIER],
            ["standard", "frontier"],
            Tier.STANDARD,
            {"local": "breaker_open"},
        ),
        (
            [evolve(LOCAL, busy=True), evolve(STANDARD, probing=True), FRONTIER],
            ["frontier"],
            Tier.FRONTIER,
            {"local": "busy", "standard": "breaker_open"},
        ),
        (
            [evolve(LOCAL, price=price_of(0, 900)), STANDARD, FRONTIER],
            ["standard", "frontier"],
            Tier.STANDARD,
            {"local": "policy_price_cap"},
        ),
        (
            [evolve(LOCAL, models={"m": Model("m", max_output_tokens=10)}), STANDARD],
            ["standard"],
            Tier.STANDARD,
            {"local": "output_too_long"},
        ),
        ([evolve(LOCAL, models={"m": Model("m", excluded="odd")}), FRONTIER], ["frontier"], Tier.FRONTIER, None),
    ],
)
def test_the_ceiling_rises_as_far_as_it_must_when_nobody_below_it_can_answer(
    offers: list[Offer], order: list[str], tier: Tier, why: dict[str, str] | None
) -> None:
    rule = PolicyRule("cap", max_output_rate=Fraction(50))
    chosen = choose(*offers, asked=evolve(SIMPLE, max_tokens=100), rule=rule)
    assert (names(chosen), chosen.tier) == (order, tier)
    assert reasons(chosen) == ({"local": "quarantined"} if why is None else why)


def test_nobody_below_the_floor_is_asked_when_there_is_one() -> None:
    asked = evolve(MEDIUM, floor=Tier.STANDARD)
    chosen = choose(evolve(LOCAL, price=price_of(0, 0)), STANDARD, FRONTIER, asked=asked)
    assert (names(chosen), chosen.tier) == (["standard", "frontier"], Tier.STANDARD)
    assert reasons(chosen) == {"local": "below_tier"}
    chosen = choose(LOCAL, evolve(STANDARD, busy=True), FRONTIER, asked=asked)
    assert (names(chosen), chosen.tier) == (["frontier"], Tier.FRONTIER)
    assert reasons(chosen) == {"local": "below_tier", "standard": "busy"}


def test_the_request_is_refused_rather_than_answered_below_the_floor_when_nobody_is_as_good() -> None:
    with pytest.raises(InvalidRequest, match=r"'m' is of tier frontier.*the best is standard") as caught:
        choose(LOCAL, STANDARD, asked=evolve(HARD, floor=Tier.FRONTIER))
    assert (caught.value.status, caught.value.reason) == (400, "below_tier")
    with pytest.raises(NoProviderAvailable) as shut:
        choose(LOCAL, evolve(FRONTIER, open_until=NOW + 3), asked=evolve(HARD, floor=Tier.FRONTIER))
    assert shut.value.retry_after_s == 3.0


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


def test_everybody_who_qualifies_is_asked_when_load_and_breakers_are_ignored() -> None:
    offers = [offer("a", open_until=NOW + 20), offer("b", busy=True), offer("c", price_of("0.5", 1), probing=True)]
    assert names(choose(*offers, heedless=True, default=Strategy.ROUND_ROBIN)) == ["c", "a", "b"]


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


def test_first_places_go_by_weight_when_the_strategy_is_round_robin() -> None:
    offers = [offer("a", weight=5), offer("b", weight=1), offer("c", weight=2), offer("d", weight=0)]
    chosen = [choose(*offers, default=Strategy.ROUND_ROBIN, rotation=turn) for turn in range(1_000, 1_008)]
    firsts = [names(one)[0] for one in chosen]
    assert {name: firsts.count(name) for name in "abcd"} == {"a": 5, "b": 1, "c": 2, "d": 0}
    assert "aaaa" not in "".join(firsts * 2)
    assert all(names(one)[-1] == "d" for one in chosen)


def test_those_without_weight_take_turns_when_nobody_else_is_left() -> None:
    offers = [offer("a", weight=0), offer("b", weight=0), offer("c", weight=3, busy=True)]
    chosen = [choose(*offers, default=Strategy.ROUND_ROBIN, rotation=turn) for turn in range(4)]
    assert [names(one) for one in chosen] == [["a", "b"], ["b", "a"]] * 2


class Cached(FixedEstimate):
    """Expects that a provider has cached the share of a prompt that is given for it."""

    def __init__(self, **shares: Fraction) -> None:
        self.shares = shares

    def cached_tokens(self, provider: str, model: str, prompt_tokens: int) -> int:
        return int(prompt_tokens * self.shares.get(provider, Fraction(0)))


def test_cached_tokens_count_at_their_own_price_when_they_are_expected() -> None:
    offers = [offer("a", Price.of(10, 0, cached_input_rate=1)), offer("b", Price.of(9, 0)), offer("c", Price.of(1, 0))]
    estimator = Cached(a=Fraction(1, 2), c=Fraction(1))
    chosen = choose(*offers, estimator=estimator)
    assert [(one.provider, one.expected_msat) for one in chosen.candidates] == [
        ("c", 1_000),
        ("a", 5_500),
        ("b", 9_000),
    ]
    assert chosen.candidates[1].bound_msat == 20_000


def test_the_bound_covers_either_price_when_cached_tokens_are_the_dearer() -> None:
    [candidate] = choose(offer("a", Price.of(1, 0, cached_input_rate=3)), estimator=Cached(a=Fraction(1))).candidates
    assert (candidate.expected_msat, candidate.bound_msat) == (3_000, 6_000)


# One snapshot


def test_the_choice_is_the_same_when_the_snapshot_is_prepared() -> None:
    offers = [LOCAL, STANDARD, FRONTIER, offer("x", models=("x",)), offer("any", price_of(7, 7), models=())]
    prepared = Offers.of(offers)
    assert Offers.of(prepared) is prepared
    for model in ("m", "x", "m", "nobody's", "nobody's either"):
        asked = evolve(ASKED, model=model)
        assert select(asked, prepared, now=NOW) == select(asked, offers, now=NOW)


def test_memory_does_not_grow_when_callers_invent_models() -> None:
    prepared = Offers.of([offer("any", models=()), offer("a")])
    assert prepared.market("invented 1") is prepared.market("invented 2")
    assert prepared.market("m") is not prepared.market("invented 1")


# Properties

RATES = st.decimals(0, 100, places=6)
PRICES = st.builds(
    Price.of,
    RATES | st.fractions(0, 100, max_denominator=10**6),
    RATES,
    RATES,
    cached_input_rate=st.none() | RATES,
    unit=st.sampled_from(["sats_per_1k_tokens", "sats_per_1m_tokens"]),
)
TOKENS = st.integers(0, 10**7)
SIZES = st.none() | st.integers(1, 2 * 10**7)
MODELS = st.builds(
    Model,
    st.just("m"),
    price=st.none() | PRICES,
    context_tokens=SIZES,
    max_output_tokens=SIZES,
    excluded=st.sampled_from([None, None, None, "odd"]),
)
OFFERS = st.lists(
    st.builds(
        Offer,
        provider=st.text("abcdef", min_size=1, max_size=3),
        models=st.sampled_from([(), ("x",)]) | st.tuples(MODELS),
        price=st.none() | PRICES,
        tier=st.sampled_from(Tier),
        ttfb_ms=st.none() | st.floats(0, 1_000),
        open_until=st.none() | st.floats(NOW - 10, NOW + 10),
        probing=st.booleans(),
        busy=st.booleans(),
        weight=st.integers(0, 5),
    ),
    max_size=8,
    unique_by=lambda one: one.provider,
)
RULES = st.builds(
    PolicyRule,
    name=st.just("cap"),
    strategy=st.sampled_from(Strategy),
    max_output_rate=st.none() | st.fractions(0, 100),
)


@st.composite
def demands(draw: st.DrawFn) -> Demand:
    expected, completion = draw(TOKENS), draw(TOKENS)
    tier = draw(st.sampled_from(Tier))
    return Demand(
        "m",
        prompt_tokens=expected,
        prompt_tokens_bound=10**7,
        completion_tokens=completion,
        completion_tokens_bound=10**7,
        policy=draw(st.none() | RULES),
        tier=tier,
        floor=draw(st.sampled_from([Tier.LOCAL, tier])),
        prompt_tokens_least=draw(st.integers(0, expected)),
        max_tokens=draw(st.none() | TOKENS),
    )


DEMANDS = demands()
SHARES = st.builds(
    lambda shares: Cached(**shares), st.dictionaries(st.text("abcdef", min_size=1, max_size=3), st.fractions(0, 1))
)
SURE = st.builds(offer, st.just("sure"), st.builds(price_of, RATES, st.just(0), RATES), tier=st.just(Tier.FRONTIER))
"""Qualifies whatever the demand and the policy of these tests."""
ANSWERABLE = st.builds(lambda sure, others: [*others, sure], SURE, OFFERS)


def listing(one: Offer) -> Model:
    return one.models.get("m") or Model("m")


def price_at(one: Offer) -> Price:
    price = listing(one).price or one.price
    assert price is not None
    return price


def qualifies(one: Offer, demand: Demand) -> bool:
    """The rules once more, one by one; all but the ceiling."""
    model = listing(one)
    price = model.price or one.price
    cap = None if demand.policy is None else demand.policy.max_output_rate
    asked = demand.max_tokens or 0
    return (
        ("m" in one.models or one.any_model)
        and model.excluded is None
        and price is not None
        and (cap is None or price.output_rate_sats("sats_per_1k_tokens") <= cap)
        and (model.max_output_tokens is None or asked <= model.max_output_tokens)
        and (model.context_tokens is None or demand.prompt_tokens_least + asked <= model.context_tokens)
        and one.tier.level >= demand.floor.level
        and (one.open_until is None or one.open_until <= NOW)
        and not one.probing
        and not one.busy
    )


def within(offers: list[Offer], demand: Demand) -> list[tuple[int, Offer]]:
    """Who qualifies, with the ceiling, or the tier above it, that it comes under."""
    able = [one for one in offers if qualifies(one, demand)]
    level = max(demand.tier.level, min(one.tier.level for one in able))
    return [(max(level, one.tier.level), one) for one in able]


def probably_fits(one: Offer, demand: Demand) -> bool:
    context = listing(one).context_tokens
    return context is None or demand.prompt_tokens + (demand.max_tokens or 0) <= context


def exact_msat(one: Offer, demand: Demand, estimator: Cached) -> Fraction:
    price, per_1k = price_at(one), "sats_per_1k_tokens"
    cached = estimator.cached_tokens(one.provider, "m", demand.prompt_tokens)
    prompt = price.input_rate_sats(per_1k) * (demand.prompt_tokens - cached)
    prompt += price.cached_input_rate_sats(per_1k) * cached
    return prompt + price.output_rate_sats(per_1k) * demand.completion_tokens + price.base_fee_msat


@given(DEMANDS, ANSWERABLE, SHARES)
def test_the_pick_costs_least_among_the_qualified_when_the_strategy_is_cheapest(
    demand: Demand, offers: list[Offer], estimator: Cached
) -> None:
    if demand.policy is not None:
        demand = evolve(demand, policy=evolve(demand.policy, strategy=Strategy.CHEAPEST))
    chosen = select(demand, offers, now=NOW, estimator=estimator)
    keys = [
        (level, not probably_fits(one, demand), exact_msat(one, demand, estimator), one.provider)
        for level, one in within(offers, demand)
    ]
    assert names(chosen) == [name for *_, name in sorted(keys)]
    assert [one.expected_msat for one in chosen.candidates] == [-(-cost // 1) for *_, cost, _ in sorted(keys)]


@given(DEMANDS, ANSWERABLE, SHARES)
def test_each_provider_is_candidate_or_left_out_once_when_a_choice_is_made(
    demand: Demand, offers: list[Offer], estimator: Cached
) -> None:
    chosen = select(demand, offers, now=NOW, estimator=estimator)
    assert sorted(names(chosen) + list(reasons(chosen))) == sorted(one.provider for one in offers)
    assert len(chosen.left_out) == len(reasons(chosen))
    assert [out.provider for out in chosen.left_out] == sorted(reasons(chosen))
    assert set(names(chosen)) == {one.provider for _, one in within(offers, demand)}
    assert all(candidate.expected_msat <= candidate.bound_msat for candidate in chosen.candidates)


@given(DEMANDS, ANSWERABLE)
def test_the_ceiling_never_falls_and_nobody_is_outside_when_a_choice_is_made(
    demand: Demand, offers: list[Offer]
) -> None:
    chosen = select(demand, offers, now=NOW)
    levels = [candidate.tier.level for candidate in chosen.candidates]
    assert chosen.tier.level >= demand.tier.level
    assert demand.floor.level <= min(levels)
    assert levels[0] <= chosen.tier.level
    above = [level for level in levels if level > chosen.tier.level]
    assert levels[len(levels) - len(above) :] == sorted(above)
    if chosen.tier is not demand.tier:
        assert min(levels) == chosen.tier.level


@given(DEMANDS, ANSWERABLE, st.integers(0, 20), st.randoms(use_true_random=False), SHARES)
def test_nothing_changes_when_the_offers_come_in_another_order(
    demand: Demand, offers: list[Offer], rotation: int, random: Any, estimator: Cached
) -> None:
    chosen = select(demand, offers, now=NOW, rotation=rotation, estimator=estimator)
    shuffled = list(offers)
    random.shuffle(shuffled)
    assert select(demand, shuffled, now=NOW, rotation=rotation, estimator=estimator) == chosen


@given(DEMANDS, OFFERS)
def test_somebody_qualified_is_never_refused_when_an_error_is_raised(demand: Demand, offers: list[Offer]) -> None:
    try:
        chosen = select(demand, offers, now=NOW)
    except (InvalidRequest, NoProviderAvailable):
        assert not any(qualifies(one, demand) for one in offers)
    else:
        assert chosen.candidates


@given(st.lists(st.integers(0, 9), min_size=1, max_size=5), st.integers(0, 10**6))
def test_first_places_are_proportional_to_the_weights_when_a_round_is_complete(weights: list[int], begin: int) -> None:
    offers = Offers.of([offer(f"p{index}", weight=weight) for index, weight in enumerate(weights)])
    shares = weights if any(weights) else [1] * len(weights)
    firsts = [
        names(select(ASKED, offers, now=NOW, rotation=begin + turn, default=Strategy.ROUND_ROBIN))[0]
        for turn in range(sum(shares))
    ]
    assert [firsts.count(f"p{index}") for index in range(len(weights))] == shares
