"""Deposits for programs that may block: the command line, and start-up before anything runs."""

from __future__ import annotations

import time

from arbstr.accounts import _rules as rules
from arbstr.store import AccountChange, AccountRow, AuditEntry, DuplicateKey, Store, StoreError, read_account


def deposit_now(store: Store, agent: str, amount_msat: int, key: str) -> AccountRow:
    """Credit an agent, named by its id or by a name that only one has. Durable when this returns.

    A repeat with the same ``key`` changes nothing and returns the account as it is. Raises StoreError for an agent that
    is unknown or ambiguous, ValueError for an amount that is not positive.
    """
    agent_id = find_agent(store, agent)
    account = store.wait_for(lambda db: read_account(db, agent_id))
    move = rules.deposit(account, amount_msat)
    change = AccountChange(
        key=f"deposit:{key}",
        kind="deposit",
        at_ns=time.time_ns(),
        before_version=account.version,
        after=move.after,
        postings=move.postings,
        audit=AuditEntry("DEPOSIT", {"key": key, "amount_msat": amount_msat}),
    )
    try:
        store.commit_now(change)
    except DuplicateKey:
        return store.wait_for(lambda db: read_account(db, agent_id))
    return move.after


def find_agent(store: Store, agent: str) -> str:
    """The id of the agent with this id or name."""
    rows = store.agents_now()
    if any(row.agent_id == agent for row in rows):
        return agent
    matches = [row.agent_id for row in rows if row.name == agent]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise StoreError(f"{len(matches)} agents are named {agent!r}; use an id: {', '.join(matches)}")
    raise StoreError(f"there is no agent {agent!r}; `arbstr agents list` shows those there are")
