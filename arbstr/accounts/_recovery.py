"""Holds whose request will never come back (M7): charge the evidence on record, else release, and audit it."""

from __future__ import annotations

import logging
import threading
import time
from functools import partial

from arbstr.accounts import _rules as rules
from arbstr.store import (
    AccountChange,
    AccountRow,
    AttemptRow,
    AuditEntry,
    HoldChange,
    HoldRow,
    HoldState,
    ReceiptRow,
    Store,
    StoreError,
    read_account,
    read_open_holds,
)

logger = logging.getLogger(__name__)

AT_ONCE = 1_000
"""Ends in flight at start-up: well below what the writer's queue takes."""


def resolve_lost_hold(account: AccountRow, hold: HoldRow, now_ns: int, why: str) -> AccountChange:
    """The change that ends ``hold`` by the stated rule. ``why`` is kept in the audit log and the receipt."""
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
    )


def resolve_orphans(store: Store) -> int:
    """End every open hold of earlier processes; for start-up, before anything can be reserved. Returns how many.

    The database is locked to one process, so whoever made these holds is gone. Blocks until the ends are on disk;
    raises the StoreError of the first that could not be written; what was written stays, a repeat does the rest.
    """
    holds = store.wait_for(read_open_holds)
    accounts: dict[str, AccountRow] = {}
    for start in range(0, len(holds), AT_ONCE):
        _resolve(store, holds[start : start + AT_ONCE], accounts)
    if holds:
        logger.warning("resolved %d holds of a process that ended without ending them", len(holds))
    return len(holds)


def _resolve(store: Store, holds: list[HoldRow], accounts: dict[str, AccountRow]) -> None:
    """End these, all in flight at once; ``accounts`` are those already read, as they will be."""
    errors: list[StoreError] = []
    left = threading.Semaphore(0)

    def done(_result: object, error: StoreError | None) -> None:
        if error is not None:
            errors.append(error)
        left.release()

    for hold in holds:
        account = accounts.get(hold.agent_id) or store.wait_for(partial(read_account, agent_id=hold.agent_id))
        change = resolve_lost_hold(account, hold, time.time_ns(), "the process that held it ended")
        accounts[hold.agent_id] = change.after
        store.submit(change, done)
    for _ in holds:
        left.acquire()
    if errors:
        raise errors[0]
