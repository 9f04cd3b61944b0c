"""Deposits for programs that may block: the command line, and start-up before anything runs."""

from __future__ import annotations

import time

from arbstr.accounts import _rules as rules
from arbstr.store import (
    AccountChange,
    AccountRow,
    AuditEntry,
    DuplicateKey,
    FindDeposit,
    Ledger,
    ListAgents,
    ReadAccount,
    StoreError,
)


def deposit_now(ledger: Ledger, agent: str, amount_msat: int, key: str) -> AccountRow:
    """Credit an agent, named by its id or by a name that only one has. Durable when this returns.

    A repeat with the same ``key`` changes nothing and returns the account as it is. Raises StoreError for an agent that
    is unknown or ambiguous, and for a key that was used for another agent or amount; ValueError for an amount that is
    not positive or absurd.
    """
    agent_id = find_agent(ledger, agent)
    account = ledger.ask_now(ReadAccount(agent_id))
    move = rules.deposit(account, amount_msat)
    try:
        ledger.commit_now(deposit_change(account, move, amount_msat, key))
    except DuplicateKey:
        return _repeated(ledger, agent_id, amount_msat, key)
    return move.after


def deposit_change(account: AccountRow, move: rules.Move, amount_msat: int, key: str) -> AccountChange:
    """The commit of a deposit."""
    return AccountChange(
        key=f"deposit:{key}",
        kind="deposit",
        at_ns=time.time_ns(),
        before=account,
        after=move.after,
        postings=move.postings,
        audit=AuditEntry("DEPOSIT", {"key": key, "amount_msat": amount_msat}),
    )


def _repeated(ledger: Ledger, agent_id: str, amount_msat: int, key: str) -> AccountRow:
    first = ledger.ask_now(FindDeposit(key))
    if first is None or (first.account.agent_id, first.amount_msat) != (agent_id, amount_msat):
        whom, amount = (first.account.agent_id, first.amount_msat) if first else ("another operation", 0)
        raise StoreError(f"the key {key!r} was used before, for {amount} msat to {whom}; use another key")
    return first.account


def find_agent(ledger: Ledger, agent: str) -> str:
    """The id of the agent with this id or name."""
    rows = ledger.ask_now(ListAgents())
    if any(row.agent_id == agent for row in rows):
        return agent
    matches = [row.agent_id for row in rows if row.name == agent]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise StoreError(f"{len(matches)} agents are named {agent!r}; use an id: {', '.join(matches)}")
    raise StoreError(f"there is no agent {agent!r}; `arbstr agents list` shows those there are")
