"""How one change becomes rows: plain functions over the write connection, inside the transaction of its batch."""

from __future__ import annotations

import hashlib
import json
import sqlite3

from arbstr.store._errors import DuplicateKey, StoreError, VersionConflict
from arbstr.store._values import (
    AccountChange,
    AccountRow,
    AuditEntry,
    Change,
    HoldRenewal,
    HoldRow,
    HoldState,
    ReceiptOnly,
    ReceiptRow,
)

GENESIS = bytes(32)
"""What the first audit row names as the hash before it."""

_HOLD_COLUMNS = (
    "hold_id, key, agent_id, amount_msat, state, model, provider, created_ns, lease_ns, extensions, evidence_msat, "
    "charged_msat, ended_ns, correlation_id"
)
_ACCOUNT_COLUMNS = "agent_id, version, available_msat, held_msat, spent_msat, deposited_msat, withdrawn_msat, debt_msat"


def audit_hash(previous: bytes, sequence: int, at_ns: int, agent_id: str, action: str, details: str) -> bytes:
    """SHA-256 over the hash before and this row's fields, each behind its length, so that no two rows collide."""
    digest = hashlib.sha256(previous)
    for part in (str(sequence), str(at_ns), agent_id, action, details):
        data = part.encode()
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.digest()


class Journal:
    """Applies changes to a connection and carries the head of the audit chain.

    The caller owns the transaction. After a rollback it calls ``rewind``, which reads the head again.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        self._sequence = 0
        self._head = GENESIS
        self.rewind()

    def rewind(self) -> None:
        """Take the head of the audit chain from the database."""
        row = self._db.execute("SELECT sequence, hash FROM audit ORDER BY sequence DESC LIMIT 1").fetchone()
        self._sequence, self._head = (row[0], row[1]) if row else (0, GENESIS)

    def apply(self, change: Change) -> None:
        """Write one change. Raises VersionConflict or DuplicateKey with part of it written: roll back."""
        match change:
            case AccountChange():
                self._apply_account(change)
            case HoldRenewal(hold_id, lease_ns, evidence_msat):
                self._db.execute(
                    "UPDATE holds SET lease_ns = ?, evidence_msat = max(evidence_msat, ?) "
                    "WHERE hold_id = ? AND state = 'open'",
                    (lease_ns, evidence_msat, hold_id),
                )
            case ReceiptOnly(receipt):
                self._insert_receipt(receipt)

    def _apply_account(self, change: AccountChange) -> None:
        after = change.after
        try:
            cursor = self._db.execute(
                "INSERT INTO transactions (key, kind, agent_id, at_ns) VALUES (?, ?, ?, ?)",
                (change.key, change.kind, after.agent_id, change.at_ns),
            )
        except sqlite3.IntegrityError:
            raise DuplicateKey(change.key) from None
        self._db.executemany(
            "INSERT INTO postings (transaction_id, agent_id, ledger, amount_msat) VALUES (?, ?, ?, ?)",
            [(cursor.lastrowid, after.agent_id, p.ledger, p.amount_msat) for p in change.postings],
        )
        updated = self._db.execute(
            "UPDATE accounts SET version = ?, available_msat = ?, held_msat = ?, spent_msat = ?, deposited_msat = ?, "
            "withdrawn_msat = ?, debt_msat = ? WHERE agent_id = ? AND version = ?",
            (
                after.version,
                after.available_msat,
                after.held_msat,
                after.spent_msat,
                after.deposited_msat,
                after.withdrawn_msat,
                after.debt_msat,
                after.agent_id,
                change.before_version,
            ),
        )
        if updated.rowcount != 1:
            raise VersionConflict(after.agent_id, change.before_version)
        if change.hold is not None:
            self._write_hold(change.hold)
        if change.receipt is not None:
            self._insert_receipt(change.receipt)
        self.append_audit(change.at_ns, after.agent_id, change.audit)

    def _write_hold(self, hold: HoldRow) -> None:
        if hold.state is HoldState.OPEN and hold.extensions == 0:
            try:
                self._db.execute(
                    f"INSERT INTO holds ({_HOLD_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608 - constant names
                    (
                        hold.hold_id,
                        hold.key,
                        hold.agent_id,
                        hold.amount_msat,
                        hold.state,
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
            return
        # A hold that has ended stays ended (M3): the condition makes that a property of the database.
        updated = self._db.execute(
            "UPDATE holds SET amount_msat = ?, state = ?, provider = ?, lease_ns = ?, extensions = ?, "
            "charged_msat = ?, ended_ns = ? WHERE hold_id = ? AND state = 'open'",
            (
                hold.amount_msat,
                hold.state,
                hold.provider,
                hold.lease_ns,
                hold.extensions,
                hold.charged_msat,
                hold.ended_ns,
                hold.hold_id,
            ),
        )
        if updated.rowcount != 1:
            raise DuplicateKey(hold.hold_id)

    def _insert_receipt(self, receipt: ReceiptRow) -> None:
        try:
            self._db.execute(
                "INSERT INTO receipts (request_id, agent_id, correlation_id, hold_id, started_ns, duration_us, model, "
                "provider, policy, stream, outcome, http_status, error, prompt_tokens, completion_tokens, estimated, "
                "expected_msat, cost_msat, saved_median_msat, saved_dearest_msat, selection) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    receipt.request_id,
                    receipt.agent_id,
                    receipt.correlation_id,
                    receipt.hold_id,
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
                    receipt.cost_msat,
                    receipt.saved_median_msat,
                    receipt.saved_dearest_msat,
                    receipt.selection,
                ),
            )
        except sqlite3.IntegrityError:
            raise DuplicateKey(receipt.request_id) from None
        if receipt.attempts:
            self._db.executemany(
                "INSERT INTO attempts (request_id, position, provider, started_ns, duration_us, ttfb_us, http_status, "
                "outcome, error) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (
                        receipt.request_id,
                        position,
                        attempt.provider,
                        attempt.started_ns,
                        attempt.duration_us,
                        attempt.ttfb_us,
                        attempt.http_status,
                        attempt.outcome,
                        attempt.error,
                    )
                    for position, attempt in enumerate(receipt.attempts)
                ],
            )

    def append_audit(self, at_ns: int, agent_id: str, entry: AuditEntry) -> None:
        """Chain one more row to the audit log."""
        details = json.dumps(entry.details, sort_keys=True, separators=(",", ":"))
        sequence = self._sequence + 1
        digest = audit_hash(self._head, sequence, at_ns, agent_id, entry.action, details)
        self._db.execute(
            "INSERT INTO audit (sequence, at_ns, agent_id, action, details, previous_hash, hash) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            (sequence, at_ns, agent_id, entry.action, details, self._head, digest),
        )
        self._sequence, self._head = sequence, digest


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


def read_hold(db: sqlite3.Connection, *, hold_id: str | None = None, key: str | None = None) -> HoldRow | None:
    """One hold by its id or by the key it was made with."""
    column, value = ("hold_id", hold_id) if hold_id is not None else ("key", key)
    row = db.execute(f"SELECT {_HOLD_COLUMNS} FROM holds WHERE {column} = ?", (value,)).fetchone()  # noqa: S608 - constant names
    return _hold(row) if row else None
