"""Rows as values and back: which table has which columns, and what of a value goes into them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from attrs import astuple

from arbstr.store._values import (
    AccountRow,
    AlertSent,
    ApprovalRow,
    ApprovalStatus,
    AttemptRow,
    BearerRow,
    BudgetRow,
    EventRow,
    EventState,
    HoldRow,
    HoldState,
    PaymentRow,
    PaymentState,
    PolicyRow,
    ReceiptRow,
    RemoteHoldRow,
    RemoteHoldState,
)

Row = Sequence[Any]

HOLD_COLUMNS = (
    "hold_id, key, agent_id, amount_msat, state, model, provider, created_ns, lease_ns, extensions, evidence_msat, "
    "charged_msat, ended_ns, correlation_id, kind, budget_id"
)
ACCOUNT_COLUMNS = "agent_id, version, available_msat, held_msat, spent_msat, deposited_msat, withdrawn_msat, debt_msat"
RECEIPT_COLUMNS = (
    "request_id, agent_id, correlation_id, hold_id, started_ns, duration_us, model, provider, policy, stream, outcome, "
    "http_status, error, prompt_tokens, completion_tokens, estimated, expected_msat, cost_msat, saved_median_msat, "
    "saved_dearest_msat, selection, endpoint, tier, complexity_score, policy_header, cached_tokens, upstream_model, "
    "latency_us, error_status, provider_cost_msat"
)
ATTEMPT_COLUMNS = "request_id, position, provider, started_ns, duration_us, ttfb_us, http_status, outcome, error"
POLICY_COLUMNS = (
    "agent_id, version, max_transaction_msat, daily_limit_msat, max_fee_msat, approval_timeout_ms, alert_floor_msat, "
    "alert_cooldown_ms, models, max_holds, set_by_operator, effective_ns, created_ns"
)
BUDGET_COLUMNS = (
    "budget_id, agent_id, name, amount_msat, spent_msat, models, max_holds, expires_ns, created_ns, revoked_ns"
)
TOKEN_COLUMNS = "token_id, token_hash, agent_id, name, budget_id, created_ns, expires_ns, revoked_ns"
APPROVAL_COLUMNS = (
    "approval_id, agent_id, kind, transaction_id, amount_msat, destination, status, created_ns, expires_ns, "
    "resolved_ns, decided_by, reason"
)
PAYMENT_COLUMNS = (
    "transaction_id, agent_id, kind, amount_msat, state, created_ns, updated_ns, key, fee_limit_msat, fee_msat, asset, "
    "purpose, destination_type, destination, preferred_rail, first_rail, rail, decision, reason, payment_hash, "
    "preimage, error, approval_id, settled_ns, fingerprint"
)
EVENT_COLUMNS = "event_id, event, agent_id, body, created_ns, due_ns, attempts, state, last_error, ended_ns"
REMOTE_HOLD_COLUMNS = (
    "reservation_id, key, agent_id, amount_msat, model, provider, created_ns, state, evidence_msat, charge_msat, "
    "tokens_in, tokens_out, latency_ms, reason, attempts, last_error, correlation_id"
)

COLUMNS = {
    "agents": "agent_id, name, token_hash, created_ns, metadata, frozen_ns",
    "accounts": ACCOUNT_COLUMNS,
    "transactions": "id, key, kind, agent_id, at_ns",
    "postings": "transaction_id, agent_id, ledger, amount_msat",
    "budgets": BUDGET_COLUMNS,
    "holds": HOLD_COLUMNS,
    "receipts": RECEIPT_COLUMNS,
    "attempts": ATTEMPT_COLUMNS,
    "tokens": TOKEN_COLUMNS,
    "policies": POLICY_COLUMNS,
    "approvals": APPROVAL_COLUMNS,
    "payments": PAYMENT_COLUMNS,
    "outbox": EVENT_COLUMNS,
    "alerts": "agent_id, at_ns",
    "audit": "sequence, at_ns, agent_id, action, details, previous_hash, hash",
    "remote_holds": REMOTE_HOLD_COLUMNS,
}
"""All tables of the books, those that others refer to first."""

to_json = json.JSONEncoder(separators=(",", ":")).encode


def insert(table: str, columns: str, rows: int = 1) -> str:
    """A statement that adds as many rows."""
    places = "(" + ", ".join("?" * (columns.count(",") + 1)) + ")"
    return f"INSERT INTO {table} ({columns}) VALUES {', '.join([places] * rows)}"  # noqa: S608 - constant names


def replace(table: str, columns: str) -> str:
    """Add a row, or replace the one of its key (the first column) if it is of the same agent."""
    key, *others = columns.split(", ")
    changes = ", ".join(f"{name} = excluded.{name}" for name in others if name != "agent_id")
    whose = "" if key == "agent_id" else " WHERE agent_id = excluded.agent_id"
    return f"{insert(table, columns)} ON CONFLICT ({key}) DO UPDATE SET {changes}{whose}"


# To the database


def _plain(row: Any) -> tuple[object, ...]:
    return astuple(row, recurse=False)


def hold_values(row: HoldRow) -> tuple[object, ...]:
    return (
        row.hold_id,
        row.key,
        row.agent_id,
        row.amount_msat,
        row.state._value_,
        row.model,
        row.provider,
        row.created_ns,
        row.lease_ns,
        row.extensions,
        row.evidence_msat,
        row.charged_msat,
        row.ended_ns,
        row.correlation_id,
        row.kind,
        row.budget_id,
    )


def receipt_values(
    row: ReceiptRow, request_id: str, agent_id: str | None, hold_id: str | None, cost_msat: int
) -> tuple[object, ...]:
    """What it was filed with takes the place of what it says itself."""
    return (
        request_id,
        agent_id,
        row.correlation_id,
        hold_id,
        row.started_ns,
        row.duration_us,
        row.model,
        row.provider,
        row.policy,
        row.stream,
        row.outcome,
        row.http_status,
        row.error,
        row.prompt_tokens,
        row.completion_tokens,
        row.estimated,
        row.expected_msat,
        cost_msat,
        row.saved_median_msat,
        row.saved_dearest_msat,
        row.selection,
        row.endpoint,
        row.tier,
        row.complexity_score,
        row.policy_header,
        row.cached_tokens,
        row.upstream_model,
        row.latency_us,
        row.error_status,
        row.provider_cost_msat,
    )


def attempt_values(row: AttemptRow, request_id: str, position: int) -> tuple[object, ...]:
    return (
        request_id,
        position,
        row.provider,
        row.started_ns,
        row.duration_us,
        row.ttfb_us,
        row.http_status,
        row.outcome,
        row.error,
    )


def _with(row: Row, position: int, value: object) -> list[Any]:
    values = list(row)
    values[position] = value
    return values


def _policy_values(row: PolicyRow) -> tuple[object, ...]:
    return tuple(_with(_plain(row), 8, to_json(row.models)))


def _budget_values(row: BudgetRow) -> tuple[object, ...]:
    return tuple(_with(_plain(row), 5, to_json(row.models)))


_VALUES: dict[type, Callable[[Any], tuple[object, ...]]] = {
    AccountRow: _plain,
    AlertSent: _plain,
    ApprovalRow: _plain,
    AttemptRow: _plain,
    BearerRow: _plain,
    BudgetRow: _budget_values,
    EventRow: _plain,
    HoldRow: hold_values,
    PaymentRow: _plain,
    PolicyRow: _policy_values,
    RemoteHoldRow: _plain,
    ReceiptRow: lambda row: receipt_values(row, row.request_id, row.agent_id, row.hold_id, row.cost_msat),
}


def values(row: object) -> tuple[object, ...]:
    """In the order of the table's columns; an attempt without the two that say of what it is one."""
    return _VALUES[type(row)](row)


# From the database


def hold_row(row: Row) -> HoldRow:
    return HoldRow(*_with(row, 4, HoldState(row[4])))


def policy_row(row: Row) -> PolicyRow:
    return PolicyRow(*_with(_with(row, 8, tuple(json.loads(row[8]))), 10, bool(row[10])))


def budget_row(row: Row) -> BudgetRow:
    return BudgetRow(*_with(row, 5, tuple(json.loads(row[5]))))


def token_row(row: Row) -> BearerRow:
    return BearerRow(*row)


def approval_row(row: Row) -> ApprovalRow:
    return ApprovalRow(*_with(row, 6, ApprovalStatus(row[6])))


def payment_row(row: Row) -> PaymentRow:
    return PaymentRow(*_with(row, 4, PaymentState(row[4])))


def event_row(row: Row) -> EventRow:
    return EventRow(*_with(row, 7, EventState(row[7])))


def remote_hold_row(row: Row) -> RemoteHoldRow:
    return RemoteHoldRow(*_with(row, 7, RemoteHoldState(row[7])))
