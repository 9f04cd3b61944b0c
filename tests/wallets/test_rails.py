"""Which rail, and when the other one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbstr.wallets import Rails, SimulatedWallet, WalletState, choose_rail, fallback_rail

BOTH = ("lightning", "cashu")


@pytest.mark.parametrize(
    ("rails", "amount", "preferred", "chosen"),
    [
        (BOTH, 500_000, None, "cashu"),
        (BOTH, 999_999, None, "cashu"),
        (BOTH, 1_000_000, None, "lightning"),
        (BOTH, 5_000_000, "cashu", "cashu"),
        (BOTH, 500_000, "lightning", "lightning"),
        (BOTH, 500_000, "elsewhere", "cashu"),
        (("cashu",), 5_000_000, "lightning", "cashu"),
        (("lightning",), 1, "cashu", "lightning"),
        ((), 1, "lightning", "simulated"),
        (("simulated",), 1, "cashu", "simulated"),
    ],
)
def test_a_rail_is_chosen_by_hint_and_amount(rails: tuple[str, ...], amount: int, preferred: str, chosen: str) -> None:
    assert choose_rail(rails, amount, preferred) == chosen


def test_the_threshold_is_the_operators() -> None:
    rails = Rails({rail: SimulatedWallet() for rail in BOTH}, threshold_msat=10)
    assert [rails.choose(amount) for amount in (9, 10)] == ["cashu", "lightning"]
    assert rails.wallet("lightning") is rails.wallets["lightning"]
    assert rails.wallet("simulated") is None


@given(
    st.sets(st.sampled_from([*BOTH, "simulated"])),
    st.sampled_from(BOTH),
    st.sampled_from(BOTH),
    st.sampled_from(WalletState),
)
def test_the_other_rail_is_tried_once_and_only_after_a_definite_failure(
    rails: set[str], first: str, tried: str, state: WalletState
) -> None:
    other = fallback_rail(rails, first, tried, state)
    may = state is WalletState.FAILED and first == tried and set(BOTH) - {tried} <= rails
    assert other == ((set(BOTH) - {tried}).pop() if may else None)
    if other is not None:
        assert fallback_rail(rails, first, other, WalletState.FAILED) is None
