"""How one change becomes rows: plain functions over the write connection, inside the transaction of its batch."""

from __future__ import annotations

import hashlib
import json
import logging
import sqlite3
from collections.abc import Sequence

from attrs import frozen

from arbstr.store._errors import DuplicateKey, StoreError, VersionConflict
from arbstr.store._values import (
    AccountChange,
    AccountRow,
    AttemptRow,
    AuditEntry,
    Change,
    HoldChange,
    HoldRenewal,
    HoldRow,
    HoldState,
    Ledger,
    ReceiptOnly,
    ReceiptRow,
)

logger = logging.getLogger(__name__)

GENESIS = bytes(32)
"""What the first audit row names as the hash before it."""

MAX_INTEGER = (1 << 63) - 1
"""What an INTEGER column can hold."""

_ACCOUNT_COLUMNS = "agent_id, version, available_msat, held_msat, spent_msat, deposited_msat, withdrawn_msat, debt_msat"
_HOLD_COLUMNS = (
    "hold_id, key, agent_id, amount_msat, state, model, provider, created_ns, lease_ns, extensions, evidence_msat, "
    "charged_msat, ended_ns, correlation_id"
)
RECEIPT_COLUMNS = (
    "request_id, agent_id, correlation_id, hold_id, started_ns, duration_us, model, provider, policy, stream, outcome, "
    "http_status, error, prompt_tokens, completion_tokens, estimated, expected_msat, cost_msat, saved_median_msat, "
    "saved_dearest_msat, selection, endpoint, tier, complexity_score, policy_header, cached_tokens, upstream_model, "
    "latency_us, error_status, provider_cost_msat"
)
ATTEMPT_COLUMNS = "request_id, position, provider, started_ns, duration_us, ttfb_us, http_status, outcome, error"


def _insert(table: str, columns: str, rows: int = 1) -> str:
    places = "(" + ", ".join("?" * (columns.count(",") + 1)) + ")"
    return f"INSERT INTO {table} ({columns}) VALUES {', '.join([places] * rows)}"  # noqa: S608 - constant names


_INSERT_TRANSACTION = _insert("transactions", "key, kind, agent_id, at_ns")
_INSERT_POSTINGS = [_insert("postings", "transaction_id, agent_id, ledger, amount_msat", n) for n in range(7)]
"""By their number: one statement is half the price of as many as there are postings."""
_INSERT_HOLD = _insert("holds", _HOLD_COLUMNS)
_INSERT_RECEIPT = _insert("receipts", RECEIPT_COLUMNS)
_INSERT_ATTEMPT = _insert("attempts", ATTEMPT_COLUMNS)
_INSERT_AUDIT = _insert("audit", "sequence, at_ns, agent_id, action, details, previous_hash, hash")
_UPDATE_ACCOUNT = (
    "UPDATE accounts SET version = ?, available_msat = ?, held_msat = ?, spent_msat = ?, deposited_msat = ?, "
    "withdrawn_msat = ?, debt_msat = ? WHERE agent_id = ? AND version = ? AND available_msat = ? AND held_msat = ? "
    "AND spent_msat = ? AND deposited_msat = ? AND withdrawn_msat = ? AND debt_msat = ?"
)
# A hold that has ended stays ended (M3): the condition makes that a property of the database.
_UPDATE_HOLD = (
    "UPDATE holds SET amount_msat = ?, state = ?, provider = ?, lease_ns = ?, extensions = ?, charged_msat = ?, "
    "ended_ns = ? WHERE hold_id = ? AND state = 'open' AND amount_msat = ?"
)
_RENEW_HOLD = (
    "UPDATE holds SET lease_ns = max(lease_ns, ?), evidence_msat = max(evidence_msat, ?) "
    "WHERE hold_id = ? AND state = 'open'"
)

_to_json = json.JSONEncoder(separators=(",", ":")).encode


def audit_hash(previous: bytes, sequence: int, at_ns: int, agent_id: str, action: str, details: str) -> bytes:
    """SHA-256 over the hash before and this row's fields, each behind its length, so that no two rows collide."""
    parts = [previous]
    for text in (str(sequence), str(at_ns), agent_id, action, details):
        data = text.encode()
        parts += (len(data).to_bytes(8, "big"), data)
    return hashlib.sha256(b"".join(parts)).digest()


class Journal:
    """Applies changes to a connection and carries the head of the audit chain.

    The caller owns the transaction. After a rollback it puts ``head`` back, to None if need be: then it is read again.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        self.head: tuple[int, bytes] | None = None
        """Sequence and hash of the last audit row; None when they must be read."""

    def apply(self, change: Change) -> None:
        """Write one change. Raises VersionConflict, DuplicateKey or sqlite3's errors with part of it written."""
        match change:
            case AccountChange():
                self._apply_account(change)
            case HoldRenewal(hold_id, lease_ns, evidence_msat):
                self._db.execute(_RENEW_HOLD, (lease_ns, min(evidence_msat, MAX_INTEGER), hold_id))
            case ReceiptOnly(receipt):
                self._insert_receipt(receipt, receipt.request_id, receipt.agent_id, receipt.hold_id, receipt.cost_msat)

    def _apply_account(self, change: AccountChange) -> None:
        after = change.after
        self._insert_transaction(change)
        self._update_account(change.before, after)
        match change.hold:
            case HoldRow() as hold:
                self._insert_hold(hold)
            case HoldChange() as hold:
                self._update_hold(hold, change)
        self.append_audit(change.at_ns, after.agent_id, change.audit)

    def _insert_transaction(self, change: AccountChange) -> None:
        agent_id = change.after.agent_id
        try:
            cursor = self._db.execute(_INSERT_TRANSACTION, (change.key, change.kind, agent_id, change.at_ns))
        except sqlite3.IntegrityError:
            raise DuplicateKey(change.key) from None
        if change.postings:
            values: list[object] = []
            for posting in change.postings:
                values += (cursor.lastrowid, agent_id, posting.ledger.value, posting.amount_msat)
            self._db.execute(_INSERT_POSTINGS[len(change.postings)], values)

    def _update_account(self, before: AccountRow, after: AccountRow) -> None:
        updated = self._db.execute(
            _UPDATE_ACCOUNT,
            (
                after.version,
                after.available_msat,
                after.held_msat,
                after.spent_msat,
                after.deposited_msat,
                after.withdrawn_msat,
                after.debt_msat,
                after.agent_id,
                before.version,
                before.available_msat,
                before.held_msat,
                before.spent_msat,
                before.deposited_msat,
                before.withdrawn_msat,
                before.debt_msat,
            ),
        )
        if updated.rowcount != 1:
            raise VersionConflict(after.agent_id, before.version)

    def _insert_hold(self, hold: HoldRow) -> None:
        try:
            self._execute_with_text(
                _INSERT_HOLD,
                (
                    hold.hold_id,
                    hold.key,
                    hold.agent_id,
                    hold.amount_msat,
                    hold.state.value,
                    hold.model,
                    hold.provider,
                    hold.created_ns,
                    hold.lease_ns,
                    hold.extensions,
                    hold.evidence_msat,
                    hold.charged_msat,
                    hold.ended_ns,
                    hold.correlation_id,
                ),
            )
        except sqlite3.IntegrityError:
            raise DuplicateKey(hold.key) from None

    def _update_hold(self, hold: HoldChange, change: AccountChange) -> None:
        updated = self._db.execute(
            _UPDATE_HOLD,
            (
                hold.amount_msat,
                hold.state.value,
                hold.provider,
                hold.lease_ns,
                hold.extensions,
                hold.charged_msat,
                hold.ended_ns,
                hold.hold_id,
                hold.before_msat,
            ),
        )
        if updated.rowcount != 1:
            raise VersionConflict(change.after.agent_id, change.before.version)
        if change.receipt is not None:
            self._file_receipt(change.receipt, change.after.agent_id, hold.hold_id, hold.charged_msat or 0)

    def _file_receipt(self, receipt: ReceiptRow, agent_id: str, hold_id: str, cost_msat: int) -> None:
        """Under another id if need be: a hold must end, whatever was filed under its request's id before."""
        try:
            self._insert_receipt(receipt, receipt.request_id, agent_id, hold_id, cost_msat)
        except DuplicateKey:
            logger.error("request %s has a receipt already; this one goes by its hold, %s", receipt.request_id, hold_id)
            self._insert_receipt(receipt, f"{receipt.request_id}:{hold_id}", agent_id, hold_id, cost_msat)

    def _insert_receipt(
        self, receipt: ReceiptRow, request_id: str, agent_id: str | None, hold_id: str | None, cost_msat: int
    ) -> None:
        try:
            self._execute_with_text(
                _INSERT_RECEIPT,
                (
                    request_id,
                    agent_id,
                    receipt.correlation_id,
                    hold_id,
                    receipt.started_ns,
                    receipt.duration_us,
                    receipt.model,
                    receipt.provider,
                    receipt.policy,
                    receipt.stream,
                    receipt.outcome,
                    receipt.http_status,
                    receipt.error,
                    receipt.prompt_tokens,
                    receipt.completion_tokens,
                    receipt.estimated,
                    receipt.expected_msat,
                    cost_msat,
                    receipt.saved_median_msat,
                    receipt.saved_dearest_msat,
                    receipt.selection,
                    receipt.endpoint,
                    receipt.tier,
                    receipt.complexity_score,
                    receipt.policy_header,
                    receipt.cached_tokens,
                    receipt.upstream_model,
                    receipt.latency_us,
                    receipt.error_status,
                    receipt.provider_cost_msat,
                ),
            )
        except sqlite3.IntegrityError:
            raise DuplicateKey(request_id) from None
        for position, attempt in enumerate(receipt.attempts):
            self._insert_attempt(request_id, position, attempt)

    def _insert_attempt(self, request_id: str, position: int, attempt: AttemptRow) -> None:
        self._execute_with_text(
            _INSERT_ATTEMPT,
            (
                request_id,
                position,
                attempt.provider,
                attempt.started_ns,
                attempt.duration_us,
                attempt.ttfb_us,
                attempt.http_status,
                attempt.outcome,
                attempt.error,
            ),
        )

    def _execute_with_text(self, statement: str, values: Sequence[object]) -> None:
        """Execute with values that others chose: what SQLite cannot hold is bent until it can.

        A lone surrogate in a model's name or a token count of 10**30 says something of the provider or the client; it
        must not keep a hold from ending.
        """
        try:
            self._db.execute(statement, values)
        except (OverflowError, UnicodeEncodeError):
            self._db.execute(statement, [storable(value) for value in values])

    def append_audit(self, at_ns: int, agent_id: str, entry: AuditEntry) -> None:
        """Chain one more row to the audit log."""
        sequence, previous = self.head or self._read_head()
        sequence += 1
        details = _to_json(entry.details)
        digest = audit_hash(previous, sequence, at_ns, agent_id, entry.action, details)
        self._db.execute(_INSERT_AUDIT, (sequence, at_ns, agent_id, entry.action, details, previous, digest))
        self.head = sequence, digest

    def _read_head(self) -> tuple[int, bytes]:
        row = self._db.execute("SELECT sequence, hash FROM audit ORDER BY sequence DESC LIMIT 1").fetchone()
        return (row[0], row[1]) if row else (0, GENESIS)


def storable(value: object) -> object:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, int):
        return max(-MAX_INTEGER, min(value, MAX_INTEGER))
    return value


def read_account(db: sqlite3.Connection, agent_id: str) -> AccountRow:
    """The balances as committed. Raises StoreError for an agent that does not exist."""
    row = db.execute(f"SELECT {_ACCOUNT_COLUMNS} FROM accounts WHERE agent_id = ?", (agent_id,)).fetchone()  # noqa: S608 - constant names
    if row is None:
        raise StoreError(f"no agent {agent_id}")
    return AccountRow(*row)


def _hold(row: tuple[object, ...]) -> HoldRow:
    values = dict(zip(_HOLD_COLUMNS.split(", "), row, strict=True))
    values["state"] = HoldState(str(values["state"]))
    return HoldRow(**values)  # type: ignore[arg-type]  # column types are enforced by STRICT tables


def read_open_holds(db: sqlite3.Connection, agent_id: str | None = None) -> list[HoldRow]:
    """Open holds, of one agent or of all."""
    where, values = ("", ()) if agent_id is None else (" AND agent_id = ?", (agent_id,))
    rows = db.execute(f"SELECT {_HOLD_COLUMNS} FROM holds WHERE state = 'open'{where}", values)  # noqa: S608 - constant names
    return [_hold(row) for row in rows]


@frozen
class HoldTotals:
    """Open holds at one moment."""

    count: int
    held_msat: int
    oldest_ns: int | None
    """When the oldest was made; None when there are none."""


def read_hold_totals(db: sqlite3.Connection) -> HoldTotals:
    """In as much time as there are open holds."""
    row = db.execute("SELECT count(*), coalesce(sum(amount_msat), 0), min(created_ns) FROM holds WHERE state = 'open'")
    return HoldTotals(*row.fetchone())


def read_hold(db: sqlite3.Connection, *, hold_id: str | None = None, key: str | None = None) -> HoldRow | None:
    """One hold by its id or by the key it was made with."""
    column, value = ("hold_id", hold_id) if hold_id is not None else ("key", key)
    row = db.execute(f"SELECT {_HOLD_COLUMNS} FROM holds WHERE {column} = ?", (value,)).fetchone()  # noqa: S608 - constant names
    return _hold(row) if row else None


def read_deposit(db: sqlite3.Connection, key: str) -> tuple[str, int] | None:
    """Agent and amount of the deposit that was made with this key."""
    row = db.execute(
        "SELECT t.agent_id, -p.amount_msat FROM transactions t JOIN postings p ON p.transaction_id = t.id "
        "WHERE t.key = ? AND p.ledger = ?",
        (f"deposit:{key}", Ledger.WORLD.value),
    ).fetchone()
    return (row[0], row[1]) if row else None
