"""Holds whose request will never come back (M7): charge the evidence on record, else release, and audit it."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from arbstr.accounts import _rules as rules
from arbstr.accounts._budgets import charged
from arbstr.store import (
    AccountChange,
    AccountRow,
    AttemptRow,
    AuditEntry,
    BudgetRow,
    FindBudget,
    HoldChange,
    HoldRow,
    HoldState,
    Ledger,
    OrphanedHolds,
    ReadAccount,
    ReceiptRow,
    StoreError,
)

logger = logging.getLogger(__name__)

AT_ONCE = 1_000
"""Ends in flight at start-up: well below what the writer's queue takes."""


def resolve_lost_hold(
    account: AccountRow, hold: HoldRow, now_ns: int, why: str, budget: BudgetRow | None = None
) -> AccountChange:
    """The change that ends ``hold`` by the stated rule. ``why`` is kept in the audit log and the receipt.

    ``budget`` is the one that the hold is of, as it is.
    """
    charge = hold.evidence_msat
    move = rules.settle(account, hold.amount_msat, charge)
    ended = HoldChange(
        hold_id=hold.hold_id,
        before_msat=hold.amount_msat,
        amount_msat=hold.amount_msat,
        state=HoldState.SETTLED if charge else HoldState.RELEASED,
        provider=hold.provider,
        lease_ns=hold.lease_ns,
        extensions=hold.extensions,
        charged_msat=charge,
        ended_ns=now_ns,
    )
    duration_us = max(0, (now_ns - hold.created_ns) // 1_000)
    receipt = ReceiptRow(
        request_id=hold.key,
        agent_id=hold.agent_id,
        correlation_id=hold.correlation_id,
        hold_id=hold.hold_id,
        started_ns=hold.created_ns,
        duration_us=duration_us,
        model=hold.model,
        provider=hold.provider,
        policy=None,
        stream=False,
        outcome="crashed",
        http_status=0,
        error=why,
        prompt_tokens=None,
        completion_tokens=None,
        estimated=True,
        expected_msat=None,
        cost_msat=charge,
        saved_median_msat=None,
        saved_dearest_msat=None,
        attempts=(AttemptRow(hold.provider, hold.created_ns, duration_us, None, None, "unknown", why),),
    )
    details = {
        "key": hold.key,
        "hold_id": hold.hold_id,
        "held_msat": hold.amount_msat,
        "charged_msat": charge,
        "why": why,
    }
    return AccountChange(
        key=f"resolve:{hold.key}",
        kind="resolve",
        at_ns=now_ns,
        before=account,
        after=move.after,
        postings=move.postings,
        audit=AuditEntry("HOLD_RESOLVED", details),
        hold=ended,
        receipt=receipt,
        also=charged(budget, charge),
    )


def is_remote(hold: HoldRow) -> bool:
    """Made over HTTP for a process that has the hold's key as the reservation's id; ours have the requests' ids."""
    return hold.kind == "request" and hold.key.startswith("tx_")


def resolve_orphans(ledger: Ledger) -> int:
    """End every open hold that a request of an earlier process left; for start-up, before anything can be reserved.

    The database is locked to one process, so whoever made these holds is gone. Those of payments, and of requests that
    wait for an approval, are not touched; those that somebody else's process made over HTTP not before their lease has
    run out. Returns how many were ended. Blocks until the ends are on disk; raises the
    StoreError of the first that could not be written; what was written stays, a repeat does the rest.
    """
    now_ns = time.time_ns()
    holds = [hold for hold in ledger.ask_now(OrphanedHolds()) if not is_remote(hold) or hold.lease_ns <= now_ns]
    accounts: dict[str, AccountRow] = {}
    budgets: dict[str, BudgetRow] = {}
    for start in range(0, len(holds), AT_ONCE):
        _resolve(ledger, holds[start : start + AT_ONCE], accounts, budgets)
    if holds:
        logger.warning("resolved %d holds of a process that ended without ending them", len(holds))
    return len(holds)


def _resolve(
    ledger: Ledger, holds: Sequence[HoldRow], accounts: dict[str, AccountRow], budgets: dict[str, BudgetRow]
) -> None:
    """End these, all in flight at once; ``accounts`` and ``budgets`` are those already read, as they will be."""
    errors: list[StoreError] = []

    def done(_result: object, error: StoreError | None) -> None:
        if error is not None:
            errors.append(error)

    for hold in holds:
        account = accounts.get(hold.agent_id) or ledger.ask_now(ReadAccount(hold.agent_id))
        budget = None
        if hold.budget_id is not None:
            budget = budgets.get(hold.budget_id) or ledger.ask_now(FindBudget(hold.budget_id))
        change = resolve_lost_hold(account, hold, time.time_ns(), "the process that held it ended", budget)
        accounts[hold.agent_id] = change.after
        budgets.update({row.budget_id: row for row in change.also if isinstance(row, BudgetRow)})
        ledger.submit(change, done)
    ledger.ask_now(OrphanedHolds())  # answered after all of these
    if errors:
        raise errors[0]
