"""What policies and budgets allow: the order of the checks, the numbers at the limits, and what a refusal says."""

from collections.abc import Callable
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from arbstr.accounts import PaymentDecision, Verdict, check_payment, check_request
from arbstr.accounts._budgets import charged, check_budget, check_budget_growth
from arbstr.accounts._policy import check_growth, current_policy
from arbstr.errors import BillingRefused
from arbstr.store import AccountRow, BudgetRow, PolicyRow

AMOUNTS = st.one_of(st.none(), st.integers(0, 1_000))


def policy(max_transaction: int | None = 100, daily: int | None = 1_000, **more: Any) -> PolicyRow:
    return PolicyRow("ag_1", 2, max_transaction, daily, **more)


NEVER_SET = PolicyRow("ag_1", 1, 0, 0, set_by_operator=False)


def account(available: int = 1_000, debt: int = 0) -> AccountRow:
    return AccountRow("ag_1", 1, available, 0, 0, available, 0, debt)


def refused(check: Callable[..., None], *args: Any, **kwargs: Any) -> tuple[int, str] | None:
    refusal: BillingRefused | None = None
    try:
        check(*args, **kwargs)
    except BillingRefused as error:
        refusal = error
    if refusal is None:
        return None
    assert ("Policy denied" in refusal.message) == (refusal.status == 403)
    return refusal.status, refusal.reason


# Versions


def test_the_highest_version_counts_whose_time_has_come() -> None:
    versions = [policy(effective_ns=at, created_ns=1) for at in (5, 10, 7)]
    versions = [evolve(row, version=number) for number, row in enumerate(versions, 1)]
    counts = [row.version if (row := current_policy(versions, now)) else 0 for now in (4, 5, 6, 7, 10, 99)]
    assert counts == [0, 1, 1, 3, 3, 3]


def test_a_version_that_was_in_force_stays_in_force_when_the_clock_steps_back() -> None:
    old, new = policy(effective_ns=10, created_ns=10), policy(effective_ns=50, created_ns=50)
    assert current_policy([old, new], 20) is new
    assert current_policy([], 20) is None


# Requests


@pytest.mark.parametrize(
    ("row", "spend", "holds", "amount", "model", "expected"),
    [
        (policy(), 0, 0, 100, "m", None),
        (policy(), 0, 0, 101, "m", (403, "exceeds_max_transaction")),
        (policy(), 900, 0, 100, "m", None),
        (policy(), 901, 0, 100, "m", (403, "exceeds_daily_limit")),
        (policy(0, 0), 0, 0, 0, "m", (403, "deny_all_policy")),
        (policy(0, 5), 0, 0, 1, "m", (403, "exceeds_max_transaction")),
        (policy(5, 0), 0, 0, 1, "m", (403, "exceeds_daily_limit")),
        (policy(None, None), 10**15, 10**6, 10**15, "m", None),
        (policy(models=("m", "n")), 0, 0, 1, "n", None),
        (policy(models=("m", "n")), 0, 0, 1, "o", (403, "model_not_allowed")),
        (policy(max_holds=3), 0, 2, 1, "m", None),
        (policy(max_holds=3), 0, 3, 1, "m", (429, "too_many_holds")),
        (policy(max_holds=0), 0, 0, 1, "m", (429, "too_many_holds")),
        (NEVER_SET, 10**15, 10**6, 10**15, "m", None),
        (None, 0, 0, 1, "m", (403, "no_policy_configured")),
    ],
)
def test_a_request_is_allowed_or_refused_by_the_policy(
    row: PolicyRow | None, spend: int, holds: int, amount: int, model: str, expected: tuple[int, str] | None
) -> None:
    assert refused(check_request, row, spend, holds, amount, model, False) == expected
    assert refused(check_request, row, spend, holds, amount, model, True) == (403, "frozen")


def test_a_human_may_allow_more_than_one_transaction_may_be_and_nothing_else() -> None:
    assert refused(check_request, policy(), 0, 0, 500, "m", False, approved=True) is None
    assert refused(check_request, policy(), 501, 0, 500, "m", False, approved=True) == (403, "exceeds_daily_limit")
    assert refused(check_growth, policy(), 500, 500, 1, False) == (403, "exceeds_max_transaction")


def test_the_limit_of_one_transaction_is_for_the_whole_hold_when_it_grows() -> None:
    assert refused(check_growth, policy(), 60, 60, 40, False) is None
    assert refused(check_growth, policy(), 60, 60, 41, False) == (403, "exceeds_max_transaction")
    assert refused(check_growth, policy(), 990, 60, 10, False) is None
    assert refused(check_growth, policy(), 990, 60, 11, False) == (403, "exceeds_daily_limit")
    assert refused(check_growth, NEVER_SET, 10**9, 60, 10**9, False) is None
    assert refused(check_growth, policy(), 60, 60, 1, True) == (403, "frozen")


def test_a_refusal_says_the_limit_the_value_and_what_would_fix_it() -> None:
    with pytest.raises(BillingRefused) as refusal:
        check_request(policy(2_000, 9_000), 0, 0, 3_000, "m", False)
    assert "3 sats" in refusal.value.message
    assert "2 sats" in refusal.value.message
    assert "lower max_tokens" in refusal.value.message
    assert refusal.value.details == {"max_transaction_msat": 2_000, "requested_msat": 3_000}


@given(AMOUNTS, AMOUNTS, st.integers(0, 2_000), st.integers(0, 2_000))
def test_what_is_allowed_never_passes_a_limit(maximum: int | None, daily: int | None, spend: int, amount: int) -> None:
    allowed = refused(check_request, policy(maximum, daily), spend, 0, amount, "m", False) is None
    fits = (maximum is None or amount <= maximum) and (daily is None or spend + amount <= daily)
    assert allowed == (fits and (maximum, daily) != (0, 0))


# Payments


@pytest.mark.parametrize(
    ("row", "amount", "spend", "available", "expected"),
    [
        (None, 1, 0, 1_000, "no_policy_configured"),
        (NEVER_SET, 1, 0, 1_000, "deny_all_policy"),
        (policy(0, 0, approval_timeout_ms=60_000), 1, 0, 1_000, "deny_all_policy"),
        (policy(), 101, 0, 1_000, "exceeds_max_transaction"),
        (policy(approval_timeout_ms=0), 101, 0, 1_000, "exceeds_max_transaction"),
        (policy(), 100, 901, 1_000, "exceeds_daily_limit"),
        (policy(), 100, 900, 99, "insufficient_balance"),
        (policy(approval_timeout_ms=60_000), 101, 900, 1_000, "exceeds_daily_limit"),
        (policy(approval_timeout_ms=60_000), 101, 0, 100, "insufficient_balance"),
    ],
)
def test_a_payment_is_denied_in_the_order_of_the_contract(
    row: PolicyRow | None, amount: int, spend: int, available: int, expected: str
) -> None:
    assert check_payment(row, account(available), spend, amount, False) == PaymentDecision(Verdict.DENY, expected)
    assert check_payment(row, account(available), spend, amount, True).reason == "frozen"


def test_a_payment_passes_when_it_is_exactly_at_every_limit() -> None:
    decision = check_payment(policy(), account(100), 900, 100, False)
    assert decision == PaymentDecision(Verdict.ALLOW, "policy_passed")


def test_a_fee_must_fit_the_balance_and_the_day_but_not_one_transaction() -> None:
    assert check_payment(policy(), account(105), 895, 100, False, fee_limit_msat=5).verdict is Verdict.ALLOW
    assert check_payment(policy(), account(104), 895, 100, False, fee_limit_msat=5).reason == "insufficient_balance"
    assert check_payment(policy(), account(105), 896, 100, False, fee_limit_msat=5).reason == "exceeds_daily_limit"


def test_a_human_is_asked_when_one_transaction_is_too_large_or_it_is_a_withdrawal() -> None:
    asks = policy(approval_timeout_ms=60_000)
    decision = check_payment(asks, account(), 0, 101, False)
    assert decision == PaymentDecision(Verdict.ASK, "exceeds_max_transaction_requires_approval")
    assert check_payment(asks, account(), 0, 101, False, approved=True).verdict is Verdict.ALLOW
    assert check_payment(policy(), account(), 0, 1, False, withdrawal=True).verdict is Verdict.ASK
    assert check_payment(policy(), account(), 0, 1, False, withdrawal=True, approved=True).verdict is Verdict.ALLOW
    assert check_payment(policy(), account(), 0, 101, False, withdrawal=True).reason == "exceeds_max_transaction"


def test_nothing_leaves_while_a_debt_is_open() -> None:
    assert check_payment(policy(), account(500, debt=1), 0, 1, False).reason == "outstanding_debt"


@given(AMOUNTS, AMOUNTS, st.integers(0, 2_000), st.integers(1, 2_000), st.integers(0, 50), st.booleans())
def test_a_payment_that_is_not_denied_fits_the_balance_and_the_day(
    maximum: int | None, daily: int | None, available: int, amount: int, fee: int, asks: bool
) -> None:
    row = policy(maximum, daily, approval_timeout_ms=60_000 if asks else None)
    decision = check_payment(row, account(available), 300, amount, False, fee_limit_msat=fee)
    if decision.verdict is not Verdict.DENY:
        assert amount + fee <= available
        assert daily is None or 300 + amount + fee <= daily
    if decision.verdict is Verdict.ALLOW:
        assert maximum is None or amount <= maximum


# Budgets


def budget(**changes: Any) -> BudgetRow:
    return evolve(BudgetRow("bu_1", "ag_1", "night shift", 100, spent_msat=20), **changes)


@pytest.mark.parametrize(
    ("row", "held", "holds", "amount", "model", "expected"),
    [
        (budget(), 50, 1, 30, "m", None),
        (budget(), 50, 1, 31, "m", (402, "budget_exhausted")),
        (budget(spent_msat=500), 0, 0, 1, "m", (402, "budget_exhausted")),
        (budget(spent_msat=500), 0, 0, 0, "m", None),
        (budget(models=("n",)), 0, 0, 1, "m", (403, "model_not_allowed")),
        (budget(max_holds=1), 10, 1, 1, "m", (429, "too_many_holds")),
        (budget(expires_ns=8), 0, 0, 1, "m", None),
        (budget(expires_ns=7), 0, 0, 1, "m", (403, "budget_ended")),
        (budget(revoked_ns=99), 0, 0, 1, "m", (403, "budget_ended")),
        (None, 0, 0, 1, "m", (403, "budget_ended")),
    ],
)
def test_a_budget_allows_what_is_left_of_it(
    row: BudgetRow | None, held: int, holds: int, amount: int, model: str, expected: tuple[int, str] | None
) -> None:
    assert refused(check_budget, row, held, holds, amount, model, 7) == expected


def test_a_hold_of_a_budget_grows_as_far_as_the_budget_goes() -> None:
    assert refused(check_budget_growth, budget(max_holds=1, models=("n",)), 50, 30, 7) is None
    assert refused(check_budget_growth, budget(), 50, 31, 7) == (402, "budget_exhausted")
    assert refused(check_budget_growth, budget(revoked_ns=1), 50, 1, 7) == (403, "budget_ended")


def test_a_charge_spends_the_budget() -> None:
    assert charged(budget(), 30) == (budget(spent_msat=50),)
    assert charged(budget(), 0) == ()
    assert charged(None, 30) == ()
