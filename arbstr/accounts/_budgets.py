"""What a sub-token may spend of its agent's account: pure, like ``_policy``, which it stands beside.

A budget is a cap. It is spent down by what its holds are charged; what they hold counts until they end.
"""

from __future__ import annotations

from attrs import evolve

from arbstr.accounts._policy import too_many_holds
from arbstr.errors import BillingRefused
from arbstr.store import BudgetRow
from arbstr.units import format_sats


def lives(budget: BudgetRow, now_ns: int) -> bool:
    """Whether anything may still be held for it."""
    return budget.revoked_ns is None and (budget.expires_ns is None or budget.expires_ns > now_ns)


def check_budget(
    budget: BudgetRow | None, held_msat: int, open_holds: int, amount_msat: int, model: str, now_ns: int
) -> None:
    """Whether ``amount_msat`` more may be held, in a new hold, beside the ``open_holds`` that hold ``held_msat``.

    Raises BillingRefused: 402, 403, or 429.
    """
    live = _alive(budget, now_ns)
    if live.models and model not in live.models:
        raise BillingRefused(
            f"Policy denied: budget {live.name!r} allows the models {', '.join(live.models)}, not {model!r}; "
            "use one of them, or another token",
            status=403,
            reason="model_not_allowed",
            param="model",
        )
    _check_room(live, held_msat, amount_msat)
    if live.max_holds is not None and open_holds >= live.max_holds:
        raise too_many_holds(open_holds, live.max_holds, f"budget {live.name!r}")


def check_budget_growth(budget: BudgetRow | None, held_msat: int, more_msat: int, now_ns: int) -> None:
    """Whether a hold of this budget may grow by ``more_msat``. Raises BillingRefused (402, 403)."""
    _check_room(_alive(budget, now_ns), held_msat, more_msat)


def charged(budget: BudgetRow | None, charge_msat: int) -> tuple[BudgetRow, ...]:
    """What is written beside the end of a hold of this budget."""
    if budget is None or not charge_msat:
        return ()
    return (evolve(budget, spent_msat=budget.spent_msat + charge_msat),)


def _alive(budget: BudgetRow | None, now_ns: int) -> BudgetRow:
    if budget is not None and lives(budget, now_ns):
        return budget
    if budget is None:
        how = "the budget of this token has ended"
    else:
        how = f"budget {budget.name!r} {'has expired' if budget.revoked_ns is None else 'was revoked'}"
    raise BillingRefused(
        f"Policy denied: {how}; ask whoever issued the token for another", status=403, reason="budget_ended"
    )


def _check_room(budget: BudgetRow, held_msat: int, amount_msat: int) -> None:
    room = max(0, budget.amount_msat - budget.spent_msat - held_msat)
    if amount_msat > room:
        raise BillingRefused(
            f"Insufficient balance: this request may cost up to {format_sats(amount_msat)} sats and "
            f"{format_sats(room)} of the {format_sats(budget.amount_msat)} sats of budget {budget.name!r} are left; "
            "lower max_tokens, or ask for a larger budget",
            reason="budget_exhausted",
            details={
                "budget_msat": budget.amount_msat,
                "spent_msat": budget.spent_msat,
                "held_msat": held_msat,
                "requested_msat": amount_msat,
            },
        )
