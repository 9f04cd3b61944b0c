"""Holds whose request will never come back (M7): charge the evidence on record, else release, and audit it."""

from __future__ import annotations

import logging
import threading
import time

from attrs import evolve

from arbstr.accounts import _rules as rules
from arbstr.store import (
    AccountChange,
    AccountRow,
    AttemptRow,
    AuditEntry,
    HoldRow,
    HoldState,
    ReceiptRow,
    Store,
    StoreError,
    read_account,
    read_open_holds,
)

logger = logging.getLogger(__name__)


def resolve_lost_hold(account: AccountRow, hold: HoldRow, now_ns: int, why: str) -> AccountChange:
    """The change that ends ``hold`` by the stated rule. ``why`` is kept in the audit log and the receipt."""
    charge = hold.evidence_msat
    move = rules.settle(account, hold.amount_msat, charge)
    ended = evolve(
        hold, state=HoldState.SETTLED if charge else HoldState.RELEASED, charged_msat=charge, ended_ns=now_ns
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
        before_version=account.version,
        after=move.after,
        postings=move.postings,
        audit=AuditEntry("HOLD_RESOLVED", details),
        hold=ended,
        receipt=receipt,
    )


def resolve_orphans(store: Store) -> int:
    """End every open hold of earlier processes; for start-up, before anything can be reserved. Returns how many.

    The database is locked to one process, so whoever made these holds is gone. Blocks until the ends are on disk;
    raises the StoreError of the first that could not be written.
    """
    holds = store.wait_for(read_open_holds)
    if not holds:
        return 0
    accounts: dict[str, AccountRow] = {}
    errors: list[StoreError] = []
    left = threading.Semaphore(0)

    def done(_result: object, error: StoreError | None) -> None:
        if error is not None:
            errors.append(error)
        left.release()

    now = time.time_ns()
    for hold in holds:
        account = accounts.get(hold.agent_id)
        if account is None:
            agent_id = hold.agent_id
            account = store.wait_for(lambda db, agent_id=agent_id: read_account(db, agent_id))  # type: ignore[misc]
        change = resolve_lost_hold(account, hold, now, "the process that held it ended")
        accounts[hold.agent_id] = change.after
        store.submit(change, done)
    for _ in holds:
        left.acquire()
    if errors:
        raise errors[0]
    logger.warning("resolved %d holds of a process that ended without ending them", len(holds))
    return len(holds)
