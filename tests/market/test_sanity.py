"""Which prices cannot be meant, judged on markets made up for it."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbstr.market import Listing, quarantined

Asked = tuple[str, int | str, int | str]


def market(*asked: Asked, model: str = "m", trusted: str = "") -> list[Listing]:
    """Listings of one model from (host, input, output); hosts named in ``trusted`` are the operator's own."""
    return [Listing(host, model, Fraction(i), Fraction(o), host in trusted.split()) for host, i, o in asked]


def hosts_out(listings: list[Listing], factor: int = 8) -> set[str]:
    return {listings[at].host for at in quarantined(listings, factor=factor)}


HONEST: tuple[Asked, ...] = (("a", 100, 300), ("b", 120, 350), ("c", 90, 310), ("d", 110, 400))


def test_nothing_is_quarantined_when_prices_are_of_one_size() -> None:
    assert quarantined(market(*HONEST)) == {}


def test_the_cheapest_stays_when_it_asks_a_fifth_of_the_others() -> None:
    assert hosts_out(market(*HONEST, ("cheap", 20, 60))) == set()


@pytest.mark.parametrize("times", [Fraction(1, 1_000_000), Fraction(1, 1_000), Fraction(1_000), Fraction(1_000_000)])
def test_a_price_is_quarantined_when_its_unit_was_mistaken(times: Fraction) -> None:
    listings = [*market(*HONEST), Listing("wrong", "m", 100 * times, 320 * times)]

    assert hosts_out(listings) == {"wrong"}


def test_the_reason_has_the_numbers_when_a_price_is_too_far() -> None:
    listings = market(("a", 2, 3), ("b", 2, 3), ("c", 2, 3), ("wrong", 2_000, "4500"))

    assert quarantined(listings) == {
        3: "input rate 2,000 is 1,000 times above 2, the median of 3 other hosts, and output rate 4,500 is "
        "1,500 times above 3, the median of 3 other hosts (sats per 1M tokens); the limit is 8 times"
    }


def test_the_reason_names_the_unit_when_another_one_is_used() -> None:
    assert quarantined(market(("a", -1, "-0.5")), unit="usd per 1M tokens") == {
        0: "input rate -1 is negative and output rate -0.5 is negative (usd per 1M tokens)"
    }


@pytest.mark.parametrize(("asked", "out"), [(7_999, False), (8_000, True), (126, False), (125, True)])
def test_the_limit_itself_is_too_far_when_both_rates_reach_it(asked: int, out: bool) -> None:
    listings = market(("a", 1_000, 1_000), ("b", 1_000, 1_000), ("c", 1_000, 1_000), ("x", asked, asked))

    assert hosts_out(listings) == ({"x"} if out else set())


def test_the_rates_are_judged_together_when_only_one_is_far() -> None:
    assert hosts_out(market(*HONEST, ("x", 100, 320 * 20))) == set()
    assert hosts_out(market(*HONEST, ("x", 100, 320 * 100))) == {"x"}


def test_distances_add_up_when_they_point_in_opposite_directions() -> None:
    assert hosts_out(market(*HONEST, ("x", 105 * 50, 2))) == {"x"}


def test_a_narrower_factor_catches_more_when_it_is_set() -> None:
    listings = market(*HONEST, ("x", 400, 1_300))

    assert (hosts_out(listings, 3), hosts_out(listings, 8)) == ({"x"}, set())


def test_distance_is_not_judged_when_fewer_than_three_others_charge() -> None:
    assert hosts_out(market(("a", 1, 1), ("b", 1, 1), ("x", 10**9, 10**9))) == set()
    assert hosts_out(market(("a", 1, 1), ("b", 1, 1), ("c", 1, 1), ("x", 10**9, 10**9))) == {"x"}


def test_a_host_counts_once_when_it_lists_a_model_many_times() -> None:
    many = [("spam", 10**6, 10**6)] * 20

    assert hosts_out(market(("a", 1, 1), ("b", 1, 1), *many)) == set()
    assert hosts_out(market(*HONEST, *many)) == {"spam"}


def test_its_own_other_listings_are_no_evidence_when_a_host_is_judged() -> None:
    listings = market(*HONEST, ("x", 10**5, 10**5), ("x", 100, 300))

    assert list(quarantined(listings)) == [4]


def test_models_are_apart_when_their_prices_differ() -> None:
    assert quarantined(market(*HONEST) + market(("a", 10**6, 10**6), model="large")) == {}


@pytest.mark.parametrize("others", [0, 1, 5])
def test_a_negative_rate_is_quarantined_when_others_are_few_or_many(others: int) -> None:
    listings = market(*[(f"h{n}", 5, 5) for n in range(others)], ("x", 5, -1))

    assert hosts_out(listings) == {"x"}


def test_a_negative_rate_is_no_evidence_when_others_are_judged() -> None:
    listings = market(("a", -7_000_000, -7_000_000), ("b", -7_000_000, 2), ("c", 1, 1), ("d", 1, 1), ("e", 1, 1))

    assert hosts_out(listings) == {"a", "b"}


def test_a_free_model_stays_when_it_is_free_everywhere() -> None:
    assert hosts_out(market(("a", 0, 0), ("b", 0, 0), ("c", 0, 0), ("d", 0, 0))) == set()


@pytest.mark.parametrize(
    ("free", "charging", "out"),
    [(1, 1, True), (1, 0, False), (2, 1, True), (3, 1, False), (4, 3, True), (5, 3, False)],
)
def test_a_zero_is_quarantined_when_half_of_the_others_charge(free: int, charging: int, out: bool) -> None:
    zeros = [(f"free{n}", 0, 0) for n in range(free)]
    listings = market(*zeros, *[(f"paid{n}", 5, 5) for n in range(charging)])

    assert hosts_out(listings) == ({name for name, _, _ in zeros} if out else set())


def test_the_reason_says_who_charges_when_a_zero_is_quarantined() -> None:
    assert quarantined(market(("x", 0, 5), ("a", 5, 5), ("b", 4, 5))) == {
        0: "input rate is 0 where 2 of 2 other hosts charge"
    }


def test_output_alone_decides_when_input_is_free_everywhere() -> None:
    listings = market(*[(name, 0, 10) for name in "abcd"], ("x", 0, 90))

    assert hosts_out(listings) == {"x"}


def test_the_honest_ones_stay_when_wrong_prices_are_just_fewer() -> None:
    wrong = [(f"w{n}", 10**7, 10**7) for n in range(3)]

    assert hosts_out(market(*HONEST, *wrong)) == {"w0", "w1", "w2"}


def test_an_edge_of_the_market_stays_when_wrong_prices_pull_the_median_away() -> None:
    # Against all nine others 60 is too far from 500; against the six that remain it is not.
    honest = [("a", 60, 60), ("b", 70, 70), ("c", 80, 80), ("d", 100, 100), ("e", 500, 500), ("f", 500, 500)]
    wrong = [(f"w{n}", 10**6, 10**6) for n in range(4)]

    assert hosts_out(market(*honest, *wrong)) == {"w0", "w1", "w2", "w3"}


def test_all_are_out_when_two_camps_are_equal() -> None:
    # Nobody can say which half is wrong; the judgement of the first look stands, and nothing absurd is bought.
    assert len(hosts_out(market(("a", 1, 1), ("b", 1, 1), ("x", 10**6, 10**6), ("y", 10**6, 10**6)))) == 4


def test_the_operators_word_is_not_quarantined_when_it_is_far_from_the_market() -> None:
    listings = market(*HONEST, ("own", 10**6, 10**6), ("free", 0, 0), trusted="own free")

    assert quarantined(listings) == {}


def test_the_operators_word_is_evidence_when_the_market_is_judged() -> None:
    listings = market(("a", 1, 1), ("b", 1, 1), ("own", 1, 1), ("x", 99, 99), trusted="own")

    assert hosts_out(listings) == {"x"}


def test_an_own_machine_that_is_free_is_no_evidence_when_a_market_price_is_zero() -> None:
    own = [("own", 0, 0), ("own2", 0, 0)]

    assert hosts_out(market(*own, ("a", 5, 5), ("x", 0, 0), trusted="own own2")) == {"x"}


rates = st.one_of(st.fractions(min_value=-1, max_value=10**7, max_denominator=10**6), st.integers(1, 100).map(Fraction))
listings_strategy = st.lists(
    st.builds(Listing, st.sampled_from("abcdefgh"), st.sampled_from("mn"), rates, rates, st.booleans()), max_size=30
)


@given(listings_strategy)
def test_only_what_is_judged_is_quarantined_when_a_market_is_arbitrary(listings: list[Listing]) -> None:
    found = quarantined(listings)

    assert all(reason for reason in found.values())
    for at, listing in enumerate(listings):
        negative = min(listing.input_rate, listing.output_rate) < 0
        assert not (listing.trusted and at in found)
        assert not (negative and not listing.trusted and at not in found)


@given(listings_strategy, st.randoms(use_true_random=False))
def test_the_order_does_not_matter_when_listings_are_shuffled(listings: list[Listing], draw: object) -> None:
    order = list(range(len(listings)))
    draw.shuffle(order)  # type: ignore[attr-defined]
    shuffled = quarantined([listings[at] for at in order])

    assert {order[at]: reason for at, reason in shuffled.items()} == quarantined(listings)


@given(listings_strategy, st.sampled_from([Fraction(1, 10**3), Fraction(10**3), Fraction(10**6)]))
def test_the_unit_does_not_matter_when_all_rates_are_scaled(listings: list[Listing], scale: Fraction) -> None:
    whole = [
        Listing(one.host, one.model, Fraction(int(one.input_rate)), Fraction(int(one.output_rate)), one.trusted)
        for one in listings
    ]
    scaled = [
        Listing(one.host, one.model, one.input_rate * scale, one.output_rate * scale, one.trusted) for one in whole
    ]

    assert set(quarantined(whole)) == set(quarantined(scaled))


@given(
    st.lists(st.integers(50, 200), min_size=4, max_size=9),
    st.lists(st.sampled_from([Fraction(1, 10**6), Fraction(1, 10**3), Fraction(10**3), Fraction(10**6)]), max_size=9),
)
def test_exactly_the_wrong_ones_are_out_when_the_honest_are_the_majority(
    honest: list[int], mistakes: list[Fraction]
) -> None:
    mistakes = mistakes[: len(honest) - 1]
    listings = [Listing(f"h{n}", "m", Fraction(rate), Fraction(3 * rate)) for n, rate in enumerate(honest)]
    listings += [Listing(f"w{n}", "m", 100 * times, 300 * times) for n, times in enumerate(mistakes)]

    assert set(quarantined(listings)) == set(range(len(honest), len(listings)))
