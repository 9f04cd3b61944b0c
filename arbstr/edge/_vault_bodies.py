"""The vault's answers, from values to JSON (contract: vault, section 6). Pure.

Members without a value are left out, unless the contract calls them nullable. What is not in the contract appears only
where something of ours was used, so that a client of the predecessor sees what it knows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any, Final

from arbstr.edge._vault_interface import Deposited, IssuedToken, MintedBudget, Registered, Reserved, Resolved, Settled
from arbstr.store import (
    AgentBalance,
    AgentPage,
    ApprovalRow,
    AuditRow,
    BearerRow,
    BudgetRow,
    Dashboard,
    DashboardAgent,
    EventRow,
    HistoryRow,
    HoldRow,
    HoldState,
    ListPage,
    PaymentRow,
    PaymentState,
    PolicyRow,
    request_hold_id,
)

Body = dict[str, Any]

NS_PER_MS: Final = 1_000_000
SIMULATED: Final = "simulated"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

OPTIONAL_LIMITS: Final = ("max_fee_msat", "approval_timeout_ms", "alert_floor_msat", "alert_cooldown_ms")


def iso(at_ns: int) -> str:
    """ISO 8601 in UTC with milliseconds and ``Z``."""
    at = _EPOCH + timedelta(milliseconds=at_ns // NS_PER_MS)
    return at.strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1_000:03d}Z"


def iso_or_none(at_ns: int | None) -> str | None:
    return None if at_ns is None else iso(at_ns)


def _present(**members: object) -> Body:
    """Those that have a value."""
    return {name: value for name, value in members.items() if value is not None}


# Errors


def application_error(code: str, message: str, **more: object) -> Body:
    """``reason`` stands within ``error``; the amounts of a 402 stand beside it, as they always have."""
    reason = more.pop("reason", None)
    return {"error": {"code": code, "message": message, **_present(reason=reason)}, **more}


def framework_error(status: int, code: str, message: str) -> Body:
    phrase = "Payload Too Large" if status == 413 else HTTPStatus(status).phrase  # as the framework has it
    return {"statusCode": status, "code": code, "error": phrase, "message": message}


def no_route(method: str, url: str) -> Body:
    return {"message": f"Route {method}:{url} not found", "error": "Not Found", "statusCode": 404}


# Agents


def registered(agent: Registered) -> Body:
    return {"agent_id": agent.agent_id, "token": agent.token, "created_at": iso(agent.created_ns)}


def _metadata(agent: AgentPage) -> object:
    return None if agent.metadata is None else json.loads(agent.metadata)


def agents(page: ListPage[AgentPage]) -> Body:
    rows = [
        {"id": one.agent_id, "name": one.name, "metadata": _metadata(one), "created_at": iso(one.created_ns)}
        for one in page.rows
    ]
    return {"agents": rows, **_cursor(page.rows[-1].agent_id if page.rows else None, page.more)}


def _cursor(last: str | None, more: bool) -> Body:
    return {"next_cursor": last if more else None, "has_more": more}


def agent(one: AgentPage, policy: PolicyRow | None) -> Body:
    limits = {
        "max_transaction_msat": policy.max_transaction_msat if policy else 0,
        "daily_limit_msat": policy.daily_limit_msat if policy else 0,
    }
    return {
        "agent_id": one.agent_id,
        "name": one.name,
        "metadata": _metadata(one),
        "policy": limits,
        "created_at": iso(one.created_ns),
        **_present(frozen_at=iso_or_none(one.frozen_ns)),
    }


def _limits(policy: PolicyRow) -> Body:
    return {
        "version": policy.version,
        "max_transaction_msat": policy.max_transaction_msat,
        "daily_limit_msat": policy.daily_limit_msat,
        **{name: getattr(policy, name) for name in OPTIONAL_LIMITS},
        **_present(models=list(policy.models) or None, max_holds=policy.max_holds),
    }


def policy(row: PolicyRow) -> Body:
    return {"agent_id": row.agent_id, "policy": {**_limits(row), "effective_from": iso(row.effective_ns)}}


def legacy_policy(row: PolicyRow) -> Body:
    limits = {"max_transaction_msat": row.max_transaction_msat, "daily_limit_msat": row.daily_limit_msat}
    return {"agent_id": row.agent_id, "policy": {**limits, "updated_at": iso(row.created_ns)}}


def deposited(agent_id: str, amount_msat: int, made: Deposited) -> Body:
    return {
        "agent_id": agent_id,
        "amount_msat": amount_msat,
        "balance_msat": made.balance_msat,
        "transaction_id": made.transaction_id,
    }


def balance(agent_id: str, found: AgentBalance) -> Body:
    return {"agent_id": agent_id, "balance_msat": found.balance_msat, "asset": "BTC_simulated"}


def frozen(agent_id: str, since_ns: int | None) -> Body:
    return {"agent_id": agent_id, "frozen": since_ns is not None, "frozen_at": iso_or_none(since_ns)}


# Tokens and budgets


def token(row: BearerRow) -> Body:
    return {
        "token_id": row.token_id,
        "name": row.name,
        "budget_id": row.budget_id,
        "created_at": iso(row.created_ns),
        "expires_at": iso_or_none(row.expires_ns),
        "revoked_at": iso_or_none(row.revoked_ns),
    }


def issued(made: IssuedToken) -> Body:
    return {"agent_id": made.row.agent_id, "token": made.token, **token(made.row)}


def budget(row: BudgetRow, held_msat: int | None = None) -> Body:
    return {
        "budget_id": row.budget_id,
        "agent_id": row.agent_id,
        "name": row.name,
        "amount_msat": row.amount_msat,
        "spent_msat": row.spent_msat,
        **_present(held_msat=held_msat),
        "models": list(row.models),
        "max_holds": row.max_holds,
        "expires_at": iso_or_none(row.expires_ns),
        "revoked_at": iso_or_none(row.revoked_ns),
        "created_at": iso(row.created_ns),
    }


def minted(made: MintedBudget) -> Body:
    return {**budget(made.budget, 0), "token": made.token.token, "token_id": made.token.row.token_id}


def budgets(page: ListPage[tuple[BudgetRow, int]]) -> Body:
    last = page.rows[-1][0].budget_id if page.rows else None
    return {"budgets": [budget(row, held) for row, held in page.rows], **_cursor(last, page.more)}


# Payments

STATUS: Final = {
    PaymentState.DENIED: "FAILED",
    PaymentState.PENDING_APPROVAL: "PENDING_APPROVAL",
    PaymentState.HELD: "PENDING",
    PaymentState.SENDING: "PENDING",
    PaymentState.UNKNOWN: "PENDING",
    PaymentState.SUCCEEDED: "SETTLED",
    PaymentState.FAILED: "FAILED",
}
_HOLD_STATUS = {HoldState.OPEN: "PENDING", HoldState.SETTLED: "SETTLED", HoldState.RELEASED: "FAILED"}


def _is_sent(row: PaymentRow) -> bool:
    """Over a real rail, or soon."""
    waits = row.state in (PaymentState.DENIED, PaymentState.PENDING_APPROVAL)
    return not waits and (row.rail or SIMULATED) != SIMULATED


def _rails(row: PaymentRow) -> Body:
    first = row.first_rail or row.rail
    return {
        **_present(initial_rail=first, final_rail=row.rail),
        **({"fallback_occurred": True} if first != row.rail else {}),
    }


def paid(row: PaymentRow) -> Body:
    """Of a simulated payment only the first members; rails are told of real ones."""
    body: Body = {
        "transaction_id": row.transaction_id,
        "policy_decision": row.decision,
        **_present(reason=row.reason if row.decision == "DENY" else None),
        "mode": row.rail or SIMULATED,
        "status": STATUS[row.state],
    }
    if not _is_sent(row):
        return body
    hash_and_fee = _present(payment_hash=row.payment_hash, fee_msat=row.fee_msat)
    return {**body, **hash_and_fee, "rail_used": row.rail, **_rails(row)}


def payment(row: PaymentRow) -> Body:
    sent = _is_sent(row)
    return {
        "transaction_id": row.transaction_id,
        **_present(payment_hash=row.payment_hash),
        "status": STATUS[row.state],
        "mode": row.rail or SIMULATED,
        "amount_msat": row.amount_msat,
        **_present(fee_msat=row.fee_msat if sent else None),
        "created_at": iso(row.created_ns),
        **_present(settled_at=iso_or_none(row.settled_ns)),
        **(_rails(row) if sent else {}),
        **_present(reason=row.reason if row.decision == "DENY" else None, error=row.error),
    }


def reservation(hold: HoldRow, transaction_id: str) -> Body:
    """There is no fee; ``charged_msat`` is what it came to."""
    settled = hold.state is HoldState.SETTLED
    return {
        "transaction_id": transaction_id,
        "status": _HOLD_STATUS[hold.state],
        "mode": SIMULATED,
        "amount_msat": hold.amount_msat,
        "created_at": iso(hold.created_ns),
        **_present(settled_at=iso_or_none(hold.ended_ns), charged_msat=hold.charged_msat if settled else None),
    }


def withdrawal(row: PaymentRow) -> Body:
    return {
        "withdrawal_id": row.approval_id,
        "transaction_id": row.transaction_id,
        "status": STATUS[row.state],
        "amount_msat": row.amount_msat,
    }


# Approvals


def approvals(page: ListPage[ApprovalRow], *, paged: bool) -> Body:
    """The cursor is told when one was used, or is needed."""
    rows = [
        {
            "id": row.approval_id,
            "agent_id": row.agent_id,
            "type": row.kind,
            "transaction_id": _transaction_of(row),
            "amount_msat": row.amount_msat,
            "destination": row.destination,
            "status": row.status.value,
            "expires_at": iso(row.expires_ns),
            "resolved_at": iso_or_none(row.resolved_ns),
            "created_at": iso(row.created_ns),
            **_present(decided_by=row.decided_by, reason=row.reason),
        }
        for row in page.rows
    ]
    last = page.rows[-1].approval_id if page.rows else None
    return {"approvals": rows, **(_cursor(last, page.more) if paged or page.more else {})}


def _transaction_of(row: ApprovalRow) -> str:
    return request_hold_id(row.approval_id) if row.kind == "request" else row.transaction_id


def resolved(found: Resolved, *, granted: bool) -> Body:
    row = found.approval
    body: Body = {
        "approval_id": row.approval_id,
        "status": row.status.value,
        "transaction_id": _transaction_of(row),
        "agent_id": row.agent_id,
        "amount_msat": row.amount_msat,
    }
    if granted and found.payment is not None:
        body["payment_status"] = STATUS[found.payment.state]
    return {**body, **_present(reason=row.reason)}


# Dashboard


def dashboard(found: Dashboard, sort_by: str, *, descending: bool) -> Body:
    rows = [_dashboard_agent(one) for one in found.agents]
    keys = {
        "balance": lambda row: row["balance_msat"],
        "daily_spend": lambda row: row["daily_spend_msat"],
        "name": lambda row: row["name"].lower(),
    }
    return {
        "agents": sorted(rows, key=keys[sort_by], reverse=descending),
        "total_agents": found.total_agents,
        "total_pending_approvals": found.total_pending_approvals,
    }


def _dashboard_agent(one: DashboardAgent) -> Body:
    floor_msat = one.policy.alert_floor_msat if one.policy else None
    return {
        "agent_id": one.agent.agent_id,
        "name": one.agent.name,
        "balance_msat": one.balance.balance_msat,
        "daily_spend_msat": one.day_spend_msat,
        "daily_utilization_pct": _percent(one.day_spend_msat, one.policy.daily_limit_msat if one.policy else None),
        "pending_approvals_count": one.pending_approvals,
        "policy": None if one.policy is None else _limits(one.policy),
        "last_payment_at": iso_or_none(one.last_payment_ns),
        "balance_below_floor": bool(floor_msat) and one.balance.balance_msat < (floor_msat or 0),
        "created_at": iso(one.agent.created_ns),
        **_present(frozen_at=iso_or_none(one.agent.frozen_ns)),
    }


def _percent(part: int, whole: int | None) -> int:
    """Rounded half up; of nothing it is 0."""
    return (200 * part + whole) // (2 * whole) if whole else 0


# History, audit and events

SEQUENCE_DIGITS: Final = 16

_PAYMENT_SETTLED: Final = "PAYMENT_SETTLED"
SHOWN_AS: Final[Mapping[str, str]] = {"HOLD_SETTLED": _PAYMENT_SETTLED}
"""Actions of the audit log that the history shows under the contract's name."""


def recorded_as(action: str) -> tuple[str, ...]:
    """The actions of the audit log that are shown as this one."""
    return (action, *(recorded for recorded, shown in SHOWN_AS.items() if shown == action))


def sequence_text(sequence: int) -> str:
    """An audit row's place as a text that sorts as it does."""
    return f"{sequence:0{SEQUENCE_DIGITS}d}"


def sequence_of(cursor: str) -> int:
    """The row after which a page begins; what is no number has its place before or behind all of them, as a text."""
    if cursor.isascii() and cursor.isdigit() and len(cursor) <= SEQUENCE_DIGITS:
        return int(cursor)
    return 0 if cursor < "0" else 10**SEQUENCE_DIGITS


_AMOUNTS = ("amount_msat", "charged_msat", "held_msat")
_REFERENCES = ("ref_id", "transaction_id")
_DECISIONS = ("policy_decision", "decision")
_REASONS = ("policy_reason",)


def history(page: ListPage[HistoryRow]) -> Body:
    last = sequence_text(page.rows[-1].audit.sequence) if page.rows else None
    return {"entries": [_entry(row) for row in page.rows], **_cursor(last, page.more)}


def _entry(row: HistoryRow) -> Body:
    """What the contract has members for is taken out of the details; the rest is ``metadata``."""
    audit = row.audit
    rest = dict(audit.details)
    amount = _take(rest, _AMOUNTS)
    reference = _take(rest, _REFERENCES) or _key_or_hold(rest, row.hold_id)
    decision, reason = _take(rest, _DECISIONS), _take(rest, _REASONS)
    return {
        "id": sequence_text(audit.sequence),
        "agent_id": audit.agent_id,
        "action": SHOWN_AS.get(audit.action, audit.action),
        "policy_decision": decision,
        "policy_reason": reason,
        "amount_msat": amount,
        "ref_id": reference,
        "metadata": ({**rest, **(row.usage or {})}) or None,
        "created_at": iso(audit.at_ns),
    }


def _key_or_hold(details: Body, hold_id: str | None) -> object:
    """A key that was given out as an id, else the id of the hold that was made with it, else the key."""
    key, hold_id = details.pop("key", None), details.pop("hold_id", hold_id)
    return key if hold_id is None or str(key).startswith("tx_") else hold_id


def _take(details: Body, names: tuple[str, ...]) -> object:
    """The first of these that is there, taken out; the others stay."""
    for name in names:
        if name in details:
            return details.pop(name)
    return None


def audit(page: ListPage[AuditRow]) -> Body:
    rows = [
        {
            "sequence": row.sequence,
            "agent_id": row.agent_id,
            "action": row.action,
            "details": dict(row.details),
            "hash": row.digest,
            "created_at": iso(row.at_ns),
        }
        for row in page.rows
    ]
    return {"entries": rows, **_cursor(sequence_text(page.rows[-1].sequence) if page.rows else None, page.more)}


def event(row: EventRow) -> Body:
    return {
        "id": row.event_id,
        "event": row.event,
        "agent_id": row.agent_id,
        "state": row.state.value,
        "attempts": row.attempts,
        "last_error": row.last_error,
        "created_at": iso(row.created_ns),
        "due_at": iso(row.due_ns),
        "ended_at": iso_or_none(row.ended_ns),
        "body": json.loads(row.body),
    }


def events(page: ListPage[EventRow]) -> Body:
    last = page.rows[-1].event_id if page.rows else None
    return {"events": [event(row) for row in page.rows], **_cursor(last, page.more)}


# Internal billing: the names end in ``msats`` there


def reserved(made: Reserved) -> Body:
    return {
        "reservation_id": made.reservation_id,
        "remaining_balance_msats": made.remaining_msat,
        **_present(agent_id=made.agent_id, lease_s=made.lease_s),
    }


def extended(made: Reserved) -> Body:
    return {**reserved(made), "amount_msats": made.amount_msat}


def settled(made: Settled) -> Body:
    """No amount is negative, for the predecessor's core could not read it (contract section 19)."""
    return {
        "settled": True,
        "refunded_msats": max(0, made.held_msat - made.charged_msat),
        "actual_msats": made.charged_msat,
        "remaining_balance_msats": made.remaining_msat,
        **_present(debt_msats=made.debt_msat or None),
    }
