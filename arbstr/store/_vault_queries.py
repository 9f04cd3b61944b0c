"""What the vault's pages show: agents, history, dashboard, payments, approvals, budgets, events and the audit log.

Pure functions over a connection; values out. Each page is found through an index and is at most ``MAX_LIST`` rows; what
comes next begins strictly after the last row's key. A filter by action reads the rows of one agent, or of all, until
the page is full: the reader's timeout is its bound. Times are nanoseconds UTC, amounts msat.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping
from typing import Any, Generic, Literal, TypeVar

from attrs import frozen

from arbstr.store._journal import MAX_INTEGER, storable
from arbstr.store._ledger import DAY_NS
from arbstr.store._rows import (
    APPROVAL_COLUMNS,
    BUDGET_COLUMNS,
    EVENT_COLUMNS,
    HOLD_COLUMNS,
    PAYMENT_COLUMNS,
    POLICY_COLUMNS,
    TOKEN_COLUMNS,
    approval_row,
    budget_row,
    event_row,
    hold_row,
    payment_row,
    policy_row,
)
from arbstr.store._values import (
    ApprovalRow,
    BearerRow,
    BudgetRow,
    EventRow,
    EventState,
    HoldRow,
    PaymentRow,
    PolicyRow,
)

T = TypeVar("T")

MAX_LIST = 1_000
"""Rows of one page, whatever was asked for; also the agents of a dashboard."""


@frozen
class ListPage(Generic[T]):
    rows: tuple[T, ...]
    more: bool
    """There are others after these."""


@frozen
class AgentPage:
    """An agent as an operator sees it, without its money."""

    agent_id: str
    name: str
    created_ns: int
    metadata: str | None
    """A JSON object."""
    frozen_ns: int | None


@frozen
class AgentBalance:
    available_msat: int
    held_msat: int
    debt_msat: int

    @property
    def balance_msat(self) -> int:
        """What is there beside the holds; negative while there is a debt."""
        return self.available_msat - self.debt_msat


@frozen
class DashboardAgent:
    agent: AgentPage
    balance: AgentBalance
    day_spend_msat: int
    """Charged in the last 24 hours, and held."""
    pending_approvals: int
    policy: PolicyRow | None
    """The highest version."""
    last_payment_ns: int | None
    """When money was last charged, or a payment last failed."""


@frozen
class Dashboard:
    agents: tuple[DashboardAgent, ...]
    """The first ``MAX_LIST`` by id."""
    total_agents: int
    total_pending_approvals: int


@frozen
class AuditRow:
    sequence: int
    at_ns: int
    agent_id: str
    action: str
    details: Mapping[str, Any]
    digest: str
    """Hex SHA-256, over the one before it too."""


@frozen
class HistoryRow:
    """An audit row, and what the end of a hold says beside it."""

    audit: AuditRow
    hold_id: str | None = None
    usage: Mapping[str, Any] | None = None
    """Of a settled hold with a receipt: ``tokens_in``, ``tokens_out``, ``provider``, ``latency_ms``."""


@frozen
class HistoryFilter:
    """Bounds of time are inclusive; ``actions`` empty: all."""

    after_sequence: int = 0
    since_ns: int = 0
    until_ns: int = MAX_INTEGER
    actions: tuple[str, ...] = ()


EventFilter = Literal["pending", "delivered", "dead", "all"]


def _rows(db: sqlite3.Connection, make: Callable[[Any], T], columns: str, rest: str, *values: object) -> list[T]:
    statement = f"SELECT {columns} FROM {rest}"  # noqa: S608 - constant names
    return [make(row) for row in db.execute(statement, [storable(value) for value in values])]


def _page(
    db: sqlite3.Connection, make: Callable[[Any], T], columns: str, rest: str, *values: object, limit: int
) -> ListPage[T]:
    limit = max(1, min(limit, MAX_LIST))
    rows = _rows(db, make, columns, f"{rest} LIMIT ?", *values, limit + 1)
    return ListPage(tuple(rows[:limit]), len(rows) > limit)


# Agents

_AGENT = "agent_id, name, created_ns, metadata, frozen_ns"


def list_agents(db: sqlite3.Connection, *, after: str = "", limit: int) -> ListPage[AgentPage]:
    """By id; any text will do for ``after``."""
    rest = "agents WHERE agent_id > ? ORDER BY agent_id"
    return _page(db, lambda row: AgentPage(*row), _AGENT, rest, after, limit=limit)


def find_agent(db: sqlite3.Connection, agent_id: str) -> AgentPage | None:
    return next(iter(_rows(db, lambda row: AgentPage(*row), _AGENT, "agents WHERE agent_id = ?", agent_id)), None)


def latest_policy(db: sqlite3.Connection, agent_id: str) -> PolicyRow | None:
    """The highest version, whether or not it counts yet."""
    rest = "policies WHERE agent_id = ? ORDER BY version DESC LIMIT 1"
    return next(iter(_rows(db, policy_row, POLICY_COLUMNS, rest, agent_id)), None)


def read_balance(db: sqlite3.Connection, agent_id: str) -> AgentBalance | None:
    columns = "available_msat, held_msat, debt_msat"
    found = _rows(db, lambda row: AgentBalance(*row), columns, "accounts WHERE agent_id = ?", agent_id)
    return found[0] if found else None


_DAY_SPEND = (
    "a.held_msat + coalesce((SELECT sum(charged_msat) FROM holds h "
    "WHERE h.agent_id = g.agent_id AND h.charged_msat > 0 AND h.ended_ns > ?1), 0)"
)
_LAST_PAYMENT = (
    "(SELECT max(at) FROM (SELECT max(ended_ns) AS at FROM holds h "
    "WHERE h.agent_id = g.agent_id AND h.charged_msat > 0 "
    "UNION ALL SELECT max(updated_ns) FROM payments p WHERE p.agent_id = g.agent_id AND p.state = 'failed'))"
)
_PENDING = "(SELECT count(*) FROM approvals q WHERE q.agent_id = g.agent_id AND q.status = 'pending')"


def read_dashboard(db: sqlite3.Connection, now_ns: int) -> Dashboard:
    """Reads the last day's charges and the failed payments of each agent; the rest is a few looks into indexes."""
    statement = (
        "SELECT g.agent_id, g.name, g.created_ns, g.metadata, g.frozen_ns, a.available_msat, a.held_msat, a.debt_msat, "  # noqa: S608 - constant names
        f"{_DAY_SPEND}, {_PENDING}, {_LAST_PAYMENT} FROM agents g JOIN accounts a USING (agent_id) "
        "ORDER BY g.agent_id LIMIT ?2"
    )
    agents = [
        DashboardAgent(AgentPage(*row[:5]), AgentBalance(*row[5:8]), row[8], row[9], latest_policy(db, row[0]), row[10])
        for row in db.execute(statement, (now_ns - DAY_NS, MAX_LIST))
    ]
    (total,) = db.execute("SELECT count(*) FROM agents").fetchone()
    (pending,) = db.execute("SELECT count(*) FROM approvals WHERE status = 'pending'").fetchone()
    return Dashboard(tuple(agents), total, pending)


def list_tokens(db: sqlite3.Connection, agent_id: str) -> tuple[BearerRow, ...]:
    """Those that are not revoked, without the tokens themselves, by id; at most ``MAX_LIST``."""
    rest = "tokens WHERE agent_id = ? AND revoked_ns IS NULL ORDER BY token_id LIMIT ?"
    return tuple(_rows(db, lambda row: BearerRow(*row), TOKEN_COLUMNS, rest, agent_id, MAX_LIST))


# Payments and approvals


def find_payment(db: sqlite3.Connection, agent_id: str, transaction_id: str) -> PaymentRow | None:
    """A payment or withdrawal of this agent."""
    rest = "payments WHERE transaction_id = ? AND agent_id = ?"
    return next(iter(_rows(db, payment_row, PAYMENT_COLUMNS, rest, transaction_id, agent_id)), None)


def find_reservation(db: sqlite3.Connection, agent_id: str, name: str) -> HoldRow | None:
    """A hold that a request made, not a payment's, by its key or by its id."""
    rest = "holds WHERE (key = ? OR hold_id = ?) AND agent_id = ? AND kind = 'request'"
    return next(iter(_rows(db, hold_row, HOLD_COLUMNS, rest, name, name, agent_id)), None)


def find_approval(db: sqlite3.Connection, approval_id: str, agent_id: str | None = None) -> ApprovalRow | None:
    """One that a request asked for, of this agent; None: of anyone."""
    rest = "approvals WHERE approval_id = ? AND kind = 'request' AND agent_id = coalesce(?, agent_id)"
    return next(iter(_rows(db, approval_row, APPROVAL_COLUMNS, rest, approval_id, agent_id)), None)


def list_approvals(
    db: sqlite3.Connection, *, pending_only: bool, after: str = "", limit: int = MAX_LIST
) -> ListPage[ApprovalRow]:
    """By id, which is the order in which they were asked for, but for those of one millisecond."""
    which = "status = 'pending' AND " if pending_only else ""
    rest = f"approvals WHERE {which}approval_id > ? ORDER BY approval_id"
    return _page(db, approval_row, APPROVAL_COLUMNS, rest, after, limit=limit)


# Budgets


def list_budgets(
    db: sqlite3.Connection, agent_id: str, *, live_at_ns: int | None, after: str = "", limit: int
) -> ListPage[tuple[BudgetRow, int]]:
    """Each with what its open holds hold. ``live_at_ns`` None: also those that are revoked or expired."""
    held = "coalesce((SELECT sum(h.amount_msat) FROM holds h WHERE h.agent_id = b.agent_id AND h.state = 'open' "
    held += "AND h.budget_id = b.budget_id), 0)"
    live = "" if live_at_ns is None else f"revoked_ns IS NULL AND coalesce(expires_ns, {MAX_INTEGER}) > ? AND "
    values: tuple[object, ...] = () if live_at_ns is None else (live_at_ns,)
    return _page(
        db,
        lambda row: (budget_row(row[:-1]), int(row[-1])),
        f"{BUDGET_COLUMNS}, {held}",
        f"budgets b WHERE {live}agent_id = ? AND budget_id > ? ORDER BY budget_id",
        *values,
        agent_id,
        after,
        limit=limit,
    )


# Events


def list_events(db: sqlite3.Connection, state: EventFilter, *, after: str = "", limit: int) -> ListPage[EventRow]:
    """By id. Those that are dead have an index of their own; the others are found among all."""
    which = "" if state == "all" else f"state = '{EventState(state).value}' AND "
    return _page(
        db, event_row, EVENT_COLUMNS, f"outbox WHERE {which}event_id > ? ORDER BY event_id", after, limit=limit
    )


# The audit log

_AUDIT = "sequence, at_ns, agent_id, action, details, hash"


def _audit_row(row: tuple[Any, ...]) -> AuditRow:
    sequence, at_ns, agent_id, action, details, digest = row
    return AuditRow(sequence, at_ns, agent_id, action, json.loads(details), digest.hex())


def list_audit(
    db: sqlite3.Connection, wanted: HistoryFilter, *, agent_id: str | None = None, limit: int
) -> ListPage[AuditRow]:
    """In the order of the chain; of one agent, or of all."""
    parts = ["sequence > ?"]
    conditions: list[object] = [max(0, min(wanted.after_sequence, MAX_INTEGER))]
    if agent_id is not None:
        parts.append("agent_id = ?")
        conditions.append(agent_id)
    if wanted.since_ns > 0:
        parts.append("at_ns >= ?")
        conditions.append(min(wanted.since_ns, MAX_INTEGER))
    if wanted.until_ns < MAX_INTEGER:
        parts.append("at_ns <= ?")
        conditions.append(wanted.until_ns)
    if wanted.actions:
        parts.append(f"action IN ({', '.join('?' * len(wanted.actions))})")
        conditions += wanted.actions
    return _page(
        db, _audit_row, _AUDIT, f"audit WHERE {' AND '.join(parts)} ORDER BY sequence", *conditions, limit=limit
    )


def read_history(db: sqlite3.Connection, agent_id: str, wanted: HistoryFilter, *, limit: int) -> ListPage[HistoryRow]:
    """What happened to one agent, in order."""
    page = list_audit(db, wanted, agent_id=agent_id, limit=limit)
    return ListPage(tuple([_with_hold(db, row) for row in page.rows]), page.more)


def _with_hold(db: sqlite3.Connection, row: AuditRow) -> HistoryRow:
    """What a hold's rows name is its key."""
    key = row.details.get("key")
    if not row.action.startswith("HOLD_") or not isinstance(key, str):
        return HistoryRow(row)
    statement = (
        "SELECT h.hold_id, r.request_id, r.prompt_tokens, r.completion_tokens, r.provider, r.duration_us "
        "FROM holds h LEFT JOIN receipts r ON r.request_id IN (h.key, h.hold_id, ?) AND r.hold_id = h.hold_id "
        "WHERE h.key = ? AND h.agent_id = ?"
    )
    found = db.execute(statement, (row.details.get("request_id"), key, row.agent_id)).fetchone()
    if found is None:
        return HistoryRow(row)
    hold_id, request_id, tokens_in, tokens_out, provider, duration_us = found
    if row.action != "HOLD_SETTLED" or request_id is None:
        return HistoryRow(row, hold_id)
    usage = {
        "tokens_in": tokens_in,
        "tokens_out": tokens_out,
        "provider": provider,
        "latency_ms": duration_us // 1_000,
    }
    return HistoryRow(row, hold_id, usage)
