"""What an agent is allowed to do by its policy: values in, decisions out. Amounts in msat.

Nothing here knows of balances beyond what it is told, of clocks, disks or actors (contract: vault, section 7).
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from attrs import frozen

from arbstr.errors import ApprovalNeeded, BillingRefused
from arbstr.store import AccountRow, PolicyRow
from arbstr.units import format_sats


def current_policy(policies: Sequence[PolicyRow], now_ns: int) -> PolicyRow | None:
    """The highest version whose time has come; ``policies`` by version.

    One that was in force when it was made stays so, also when the clock steps back.
    """
    for row in reversed(policies):
        if row.effective_ns <= now_ns or row.effective_ns <= row.created_ns:
            return row
    return None


# Requests to models


def check_request(
    policy: PolicyRow | None,
    day_spend_msat: int,
    open_holds: int,
    amount_msat: int,
    model: str,
    frozen: bool,
    *,
    approved: bool = False,
) -> None:
    """Whether a hold of ``amount_msat`` for a request to ``model`` may be made.

    ``day_spend_msat`` is what was charged in the last day and what is held; ``approved``: a human has allowed this
    amount. Raises BillingRefused: 403, or 429 when more may be held once something else has ended; ApprovalNeeded
    when the amount is too large and the policy lets a human be asked.
    """
    limits = _limits(policy, frozen)
    if limits is None:
        return
    _check_model(limits.models, model, f"version {limits.version} of the agent's policy")
    _check_amount(limits, amount_msat, approved, ask=bool(limits.approval_timeout_ms))
    _check_day(limits, day_spend_msat, amount_msat)
    if limits.max_holds is not None and open_holds >= limits.max_holds:
        raise too_many_holds(open_holds, limits.max_holds, "the agent")


def check_growth(
    policy: PolicyRow | None,
    day_spend_msat: int,
    held_msat: int,
    more_msat: int,
    frozen: bool,
    *,
    approved: bool = False,
) -> None:
    """Whether a hold of ``held_msat``, which ``day_spend_msat`` contains, may grow by ``more_msat``.

    The limit of one transaction is for the whole of it. Raises BillingRefused (403).
    """
    limits = _limits(policy, frozen)
    if limits is not None:
        _check_amount(limits, held_msat + more_msat, approved)
        _check_day(limits, day_spend_msat, more_msat)


def _limits(policy: PolicyRow | None, frozen: bool) -> PolicyRow | None:
    """What binds; None for an agent whose policy nobody has set: its balance is its limit."""
    if frozen:
        raise agent_frozen()
    if policy is None:
        raise BillingRefused(
            "Policy denied: the agent has no policy; set one", status=403, reason="no_policy_configured"
        )
    if not policy.set_by_operator:
        return None
    if _denies_all(policy):
        raise BillingRefused(
            f"Policy denied: version {policy.version} of the agent's policy allows nothing (both limits are 0); "
            "have the operator set limits",
            status=403,
            reason="deny_all_policy",
        )
    return policy


def _denies_all(policy: PolicyRow) -> bool:
    return policy.max_transaction_msat == 0 and policy.daily_limit_msat == 0


def _check_model(models: tuple[str, ...], model: str, whose: str) -> None:
    if models and model not in models:
        raise BillingRefused(
            f"Policy denied: {whose} allows the models {', '.join(models)}, not {model!r}; use one of them",
            status=403,
            reason="model_not_allowed",
            param="model",
        )


def _check_amount(policy: PolicyRow, amount_msat: int, approved: bool, *, ask: bool = False) -> None:
    limit = policy.max_transaction_msat
    if limit is not None and amount_msat > limit and not approved:
        raise (ApprovalNeeded if ask else BillingRefused)(
            f"Policy denied: this request may cost up to {format_sats(amount_msat)} sats and one transaction may be "
            f"{format_sats(limit)} sats at most; lower max_tokens, or have the operator raise the limit",
            status=403,
            reason="exceeds_max_transaction",
            details={"max_transaction_msat": limit, "requested_msat": amount_msat},
        )


def _check_day(policy: PolicyRow, day_spend_msat: int, amount_msat: int) -> None:
    limit = policy.daily_limit_msat
    if limit is not None and day_spend_msat + amount_msat > limit:
        raise BillingRefused(
            f"Policy denied: {format_sats(day_spend_msat)} of {format_sats(limit)} sats of the last 24 hours are spent "
            f"or held and this takes up to {format_sats(amount_msat)} sats; wait, or have the operator raise the limit",
            status=403,
            reason="exceeds_daily_limit",
            details={"daily_limit_msat": limit, "day_spend_msat": day_spend_msat, "requested_msat": amount_msat},
        )


def agent_frozen() -> BillingRefused:
    return BillingRefused(
        "Policy denied: the agent is frozen; have the operator unfreeze it", status=403, reason="frozen"
    )


def too_many_holds(open_holds: int, max_holds: int, whose: str) -> BillingRefused:
    return BillingRefused(
        f"{whose} has {open_holds} requests open and may have {max_holds} at once; wait for one to end",
        status=429,
        reason="too_many_holds",
        retry_after_s=1,
        details={"open_holds": open_holds, "max_holds": max_holds},
    )


# Payments and withdrawals


class Verdict(StrEnum):
    ALLOW = "ALLOW"
    DENY = "DENY"
    ASK = "REQUIRE_HUMAN_APPROVAL"


@frozen
class PaymentDecision:
    verdict: Verdict
    reason: str
    """As the contract names it; ``frozen`` and ``outstanding_debt`` are ours."""


def check_payment(
    policy: PolicyRow | None,
    account: AccountRow,
    day_spend_msat: int,
    amount_msat: int,
    frozen: bool,
    *,
    fee_limit_msat: int = 0,
    approved: bool = False,
    withdrawal: bool = False,
) -> PaymentDecision:
    """Whether ``amount_msat`` may leave, in the order of the contract, section 7.2.

    Unlike the predecessor's, a payment that waits for a human must fit the day and the balance, since it is held. Both
    are asked of the amount with its fee; the limit of one transaction is for the amount. ``approved``: a human has said
    yes, everything else is asked again. A withdrawal always waits for one. ``day_spend_msat`` and ``account`` must not
    contain this payment's own hold.
    """
    verdict, reason = Verdict.ALLOW, "policy_passed"
    if frozen:
        return PaymentDecision(Verdict.DENY, "frozen")
    if policy is None:
        return PaymentDecision(Verdict.DENY, "no_policy_configured")
    if not policy.set_by_operator or _denies_all(policy):
        return PaymentDecision(Verdict.DENY, "deny_all_policy")
    limit, whole_msat = policy.max_transaction_msat, amount_msat + fee_limit_msat
    if limit is not None and amount_msat > limit and not approved:
        if not policy.approval_timeout_ms:
            return PaymentDecision(Verdict.DENY, "exceeds_max_transaction")
        verdict, reason = Verdict.ASK, "exceeds_max_transaction_requires_approval"
    elif withdrawal and not approved:
        verdict, reason = Verdict.ASK, "withdrawal_requires_approval"
    if policy.daily_limit_msat is not None and day_spend_msat + whole_msat > policy.daily_limit_msat:
        return PaymentDecision(Verdict.DENY, "exceeds_daily_limit")
    if account.debt_msat > 0:
        return PaymentDecision(Verdict.DENY, "outstanding_debt")
    if account.available_msat < whole_msat:
        return PaymentDecision(Verdict.DENY, "insufficient_balance")
    return PaymentDecision(verdict, reason)
