"""What a choice was worth."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbstr.config import Strategy, Tier
from arbstr.routing import Candidate, Saved, Selection, savings
from arbstr.units import Price
from arbstr.wire import Usage

USED = Usage(1_000, 1_000)


def selection_of(*rates: int | Decimal) -> Selection:
    """Candidates a, b, c ... with these rates, in sats per 1,000 tokens of either kind."""
    candidates = [
        Candidate(name, Price.of(rate, rate), 0, 0, Tier.STANDARD)
        for name, rate in zip("abcdefgh", rates, strict=False)
    ]
    return Selection(tuple(candidates), (), None, Strategy.CHEAPEST)


@pytest.mark.parametrize(
    ("rates", "winner", "saved"),
    [
        ((1,), "a", Saved(0, 0)),
        ((1, 2), "a", Saved(1_000, 2_000)),
        ((1, 2, 9), "a", Saved(2_000, 16_000)),
        ((1, 2, 9), "b", Saved(0, 14_000)),
        ((1, 2, 9), "c", Saved(0, 0)),
        ((1, 2, 4, 9), "a", Saved(4_000, 16_000)),
    ],
)
def test_savings_are_against_the_median_and_the_dearest_when_others_qualified(
    rates: tuple[int, ...], winner: str, saved: Saved
) -> None:
    chosen = selection_of(*rates)
    assert savings(chosen, winner, USED) == saved
    [candidate] = [one for one in chosen.candidates if one.provider == winner]
    assert savings(chosen, candidate, USED) == saved


def test_the_median_is_rounded_down_when_it_falls_between_two_amounts() -> None:
    chosen = selection_of(Decimal("0.001"), Decimal("0.002"))
    assert savings(chosen, "a", Usage(1_000, 0)) == Saved(0, 1)


def test_cached_tokens_count_at_each_ones_price_for_them_when_some_were_cached() -> None:
    with_discount = Candidate("a", Price.of(2, 2, cached_input_rate=1), 0, 0, Tier.STANDARD)
    without = Candidate("b", Price.of(3, 3), 0, 0, Tier.STANDARD)
    chosen = Selection((with_discount, without), (), None, Strategy.CHEAPEST)
    assert savings(chosen, "a", Usage(1_000, 0, 400)).dearest_msat == 3_000 - (1_200 + 400)


def test_the_winner_must_be_a_candidate_when_savings_are_asked_for() -> None:
    with pytest.raises(ValueError, match="'z' is not among the candidates: a, b"):
        savings(selection_of(1, 2), "z", USED)


@given(
    st.lists(st.decimals(0, 100, places=5), min_size=1, max_size=8),
    st.integers(0, 7),
    st.builds(Usage, st.integers(0, 10**6), st.integers(0, 10**6)),
)
def test_savings_are_never_negative_when_usage_is_not_what_was_expected(
    rates: list[Decimal], winner: int, usage: Usage
) -> None:
    chosen = selection_of(*rates)
    saved = savings(chosen, chosen.candidates[winner % len(rates)], usage)
    assert 0 <= saved.median_msat <= saved.dearest_msat
