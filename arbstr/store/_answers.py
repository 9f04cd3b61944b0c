"""How a database answers a ledger's questions: one function per question, over any connection."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any, TypeVar

from arbstr.store._check import read_agents
from arbstr.store._journal import (
    MAX_INTEGER,
    read_account,
    read_deposit,
    read_hold,
    read_open_holds,
)
from arbstr.store._ledger import (
    DAY_NS,
    ActiveTokens,
    DeadEvents,
    DueEvents,
    FindApproval,
    FindBudget,
    FindDeposit,
    FindEvent,
    FindHold,
    FindPayment,
    FoundDeposit,
    ListAgents,
    LoadAccount,
    LoadedAccount,
    OrphanedHolds,
    PendingApprovals,
    Question,
    ReadAccount,
    RemoteHolds,
    TokensOf,
    UnfinishedPayments,
)
from arbstr.store._rows import (
    APPROVAL_COLUMNS,
    BUDGET_COLUMNS,
    EVENT_COLUMNS,
    PAYMENT_COLUMNS,
    POLICY_COLUMNS,
    REMOTE_HOLD_COLUMNS,
    TOKEN_COLUMNS,
    approval_row,
    budget_row,
    event_row,
    payment_row,
    policy_row,
    remote_hold_row,
    token_row,
)
from arbstr.store._values import (
    AgentRow,
    ApprovalRow,
    BudgetRow,
    EventRow,
    HoldRow,
    PaymentRow,
    PolicyRow,
    RemoteHoldRow,
    TokenRow,
)

A = TypeVar("A")
Row = tuple[Any, ...]
Connection = sqlite3.Connection

AFTER_ALL_IDS = "~"
_UNFINISHED = "state IN ('pending_approval', 'held', 'sending', 'unknown')"
"""As in the index, which is not used otherwise."""
_WAITING, _GRANTED = "status = 'pending'", "status = 'approved' AND kind = 'request'"
"""Approvals that are open, each with its index."""


def answer(db: Connection, question: Question[A]) -> A:
    """Raises UnknownAgent where the question says so, and sqlite3's errors."""
    answered: A = _ANSWERS[type(question)](db, question)
    return answered


def _load_account(db: Connection, question: LoadAccount) -> LoadedAccount:
    agent_id, now_ns = question.agent_id, question.now_ns
    account = read_account(db, agent_id)
    holds = tuple(read_open_holds(db, agent_id))
    frozen_ns, name = db.execute("SELECT frozen_ns, name FROM agents WHERE agent_id = ?", (agent_id,)).fetchone()
    alert = db.execute("SELECT at_ns FROM alerts WHERE agent_id = ?", (agent_id,)).fetchone()
    return LoadedAccount(
        account=account,
        open_holds=holds,
        policies=_policies(db, agent_id, now_ns),
        budgets=_budgets(db, agent_id, now_ns, {hold.budget_id for hold in holds if hold.budget_id is not None}),
        payments=_select(
            db,
            payment_row,
            PAYMENT_COLUMNS,
            f"payments WHERE agent_id = ? AND {_UNFINISHED} ORDER BY transaction_id",
            agent_id,
        ),
        approvals=_open_approvals(db, agent_id),
        spends=tuple(
            db.execute(
                "SELECT ended_ns, charged_msat FROM holds WHERE agent_id = ? AND charged_msat > 0 AND ended_ns > ? "
                "ORDER BY ended_ns, charged_msat",
                (agent_id, now_ns - DAY_NS),
            )
        ),
        frozen_ns=frozen_ns,
        last_alert_ns=alert[0] if alert else None,
        name=name,
        tokens=_select(
            db,
            token_row,
            TOKEN_COLUMNS,
            f"tokens WHERE agent_id = ? AND revoked_ns IS NULL AND coalesce(expires_ns, {MAX_INTEGER}) > ? "
            "ORDER BY token_id",
            agent_id,
            now_ns,
        ),
    )


def _open_approvals(db: Connection, agent_id: str) -> tuple[ApprovalRow, ...]:
    found = [
        row
        for which in (_WAITING, _GRANTED)
        for row in _select(db, approval_row, APPROVAL_COLUMNS, f"approvals WHERE agent_id = ? AND {which}", agent_id)
    ]
    return tuple(sorted(found, key=lambda row: row.approval_id))


def _pending_approvals(db: Connection, _: PendingApprovals) -> tuple[ApprovalRow, ...]:
    found = [
        row
        for which in (_WAITING, _GRANTED)
        for row in _select(db, approval_row, APPROVAL_COLUMNS, f"approvals WHERE {which}")
    ]
    return tuple(sorted(found, key=lambda row: (row.expires_ns, row.approval_id)))


def _policies(db: Connection, agent_id: str, now_ns: int) -> tuple[PolicyRow, ...]:
    current = "SELECT version FROM policies WHERE agent_id = ?1 AND effective_ns <= ?2 ORDER BY version DESC LIMIT 1"
    return _select(
        db,
        policy_row,
        POLICY_COLUMNS,
        f"policies WHERE agent_id = ?1 AND version >= coalesce(({current}), 0) ORDER BY version",
        agent_id,
        now_ns,
    )


def _budgets(db: Connection, agent_id: str, now_ns: int, held: set[str]) -> tuple[BudgetRow, ...]:
    live = _select(
        db,
        budget_row,
        BUDGET_COLUMNS,
        f"budgets WHERE agent_id = ? AND revoked_ns IS NULL AND coalesce(expires_ns, {MAX_INTEGER}) > ?",
        agent_id,
        now_ns,
    )
    ended = sorted(held - {row.budget_id for row in live})
    found = [_one(db, budget_row, BUDGET_COLUMNS, "budgets WHERE budget_id = ?", budget_id) for budget_id in ended]
    return tuple(sorted([*live, *(row for row in found if row is not None)], key=lambda row: row.budget_id))


def _select(db: Connection, make: Callable[[Row], A], columns: str, rest: str, *values: object) -> tuple[A, ...]:
    statement = f"SELECT {columns} FROM {rest}"  # noqa: S608 - constant names
    return tuple([make(row) for row in db.execute(statement, values)])


def _one(db: Connection, make: Callable[[Row], A], columns: str, rest: str, *values: object) -> A | None:
    return next(iter(_select(db, make, columns, rest, *values)), None)


def _find_deposit(db: Connection, question: FindDeposit) -> FoundDeposit | None:
    found = read_deposit(db, question.key)
    return FoundDeposit(found[1], read_account(db, found[0])) if found else None


def _find_payment(db: Connection, question: FindPayment) -> PaymentRow | None:
    if question.transaction_id is not None:
        return _one(db, payment_row, PAYMENT_COLUMNS, "payments WHERE transaction_id = ?", question.transaction_id)
    return _one(
        db, payment_row, PAYMENT_COLUMNS, "payments WHERE agent_id = ? AND key = ?", question.agent_id, question.key
    )


def _find_approval(db: Connection, question: FindApproval) -> ApprovalRow | None:
    if question.approval_id is not None:
        return _one(db, approval_row, APPROVAL_COLUMNS, "approvals WHERE approval_id = ?", question.approval_id)
    newest = "approvals WHERE transaction_id = ? ORDER BY created_ns DESC, approval_id DESC LIMIT 1"
    return _one(db, approval_row, APPROVAL_COLUMNS, newest, question.transaction_id)


_TOKENS = (
    "SELECT t.agent_id, a.name, t.token_hash, t.token_id, t.budget_id, t.expires_ns FROM tokens t "
    "JOIN agents a USING (agent_id) WHERE t.revoked_ns IS NULL"
)


def read_tokens(db: Connection) -> list[TokenRow]:
    """Whose token has which hash: those that are not revoked."""
    return [TokenRow(*row) for row in db.execute(f"{_TOKENS} ORDER BY t.token_id")]


def find_agent_id(db: Connection, agent: str) -> str | None:
    """Of the agent with this id or, failing that, of the first with this name; also of another vault's agent, by its
    id, when there are receipts of it."""
    named = db.execute(
        "SELECT agent_id FROM agents WHERE agent_id = ?1 OR name = ?1 ORDER BY agent_id != ?1, agent_id LIMIT 1",
        (agent,),
    ).fetchone()
    named = named or db.execute("SELECT agent_id FROM receipts WHERE agent_id = ? LIMIT 1", (agent,)).fetchone()
    return named[0] if named else None


def read_remote_holds(db: Connection) -> list[RemoteHoldRow]:
    """All that a vault in another process has not heard the end of, or will not take, oldest first."""
    rest = "remote_holds ORDER BY created_ns, reservation_id"
    return list(_select(db, remote_hold_row, REMOTE_HOLD_COLUMNS, rest))


def _tokens_of(db: Connection, question: TokensOf) -> tuple[TokenRow, ...]:
    rows = db.execute(f"{_TOKENS} AND t.agent_id = ? ORDER BY t.token_id", (question.agent_id,))
    return tuple([TokenRow(*row) for row in rows])


def _orphaned_holds(db: Connection, _: OrphanedHolds) -> tuple[HoldRow, ...]:
    open_ones = {row.transaction_id for row in _pending_approvals(db, PendingApprovals())}
    return tuple([hold for hold in read_open_holds(db) if hold.kind == "request" and hold.key not in open_ones])


def _due_events(db: Connection, question: DueEvents) -> tuple[EventRow, ...]:
    now_ns = MAX_INTEGER if question.now_ns is None else question.now_ns
    due = "outbox WHERE state = 'pending' AND due_ns <= ? ORDER BY due_ns, event_id LIMIT ?"
    return _select(db, event_row, EVENT_COLUMNS, due, now_ns, question.limit)


def _dead_events(db: Connection, question: DeadEvents) -> tuple[EventRow, ...]:
    dead = "outbox WHERE state = 'dead' AND event_id < ? ORDER BY event_id DESC LIMIT ?"
    return _select(db, event_row, EVENT_COLUMNS, dead, question.before or AFTER_ALL_IDS, question.limit)


def _list_agents(db: Connection, _: ListAgents) -> tuple[AgentRow, ...]:
    return tuple(read_agents(db))


_ANSWERS: dict[type, Callable[[Connection, Any], Any]] = {
    LoadAccount: _load_account,
    ReadAccount: lambda db, question: read_account(db, question.agent_id),
    FindHold: lambda db, question: read_hold(db, hold_id=question.hold_id, key=question.key),
    FindDeposit: _find_deposit,
    FindPayment: _find_payment,
    FindApproval: _find_approval,
    FindBudget: lambda db, question: _one(
        db, budget_row, BUDGET_COLUMNS, "budgets WHERE budget_id = ?", question.budget_id
    ),
    ListAgents: _list_agents,
    ActiveTokens: lambda db, _: tuple(read_tokens(db)),
    TokensOf: _tokens_of,
    OrphanedHolds: _orphaned_holds,
    UnfinishedPayments: lambda db, _: _select(
        db, payment_row, PAYMENT_COLUMNS, f"payments WHERE {_UNFINISHED} ORDER BY transaction_id"
    ),
    PendingApprovals: _pending_approvals,
    DeadEvents: _dead_events,
    DueEvents: _due_events,
    RemoteHolds: lambda db, question: _select(
        db,
        remote_hold_row,
        REMOTE_HOLD_COLUMNS,
        "remote_holds WHERE state = ? ORDER BY created_ns, reservation_id",
        question.state.value,
    ),
    FindEvent: lambda db, question: _one(db, event_row, EVENT_COLUMNS, "outbox WHERE event_id = ?", question.event_id),
}
