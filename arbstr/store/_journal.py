"""How one change becomes rows: plain functions over the write connection, inside the transaction of its batch."""

from __future__ import annotations

import hashlib
import logging
import sqlite3
from collections.abc import Mapping, Sequence

from attrs import frozen

from arbstr.store._errors import DuplicateKey, UnknownAgent, Unwritable, VersionConflict
from arbstr.store._rows import (
    ACCOUNT_COLUMNS,
    APPROVAL_COLUMNS,
    ATTEMPT_COLUMNS,
    BUDGET_COLUMNS,
    COLUMNS,
    EVENT_COLUMNS,
    HOLD_COLUMNS,
    PAYMENT_COLUMNS,
    POLICY_COLUMNS,
    RECEIPT_COLUMNS,
    REMOTE_HOLD_COLUMNS,
    TOKEN_COLUMNS,
    attempt_values,
    hold_row,
    hold_values,
    insert,
    receipt_values,
    replace,
    to_json,
    values,
)
from arbstr.store._values import (
    AccountChange,
    AccountRow,
    AgentAdded,
    AlertSent,
    Also,
    ApprovalRow,
    AuditEntry,
    BearerRow,
    BudgetRow,
    Change,
    DropRemoteHold,
    EventProgress,
    EventRow,
    Frozen,
    HoldChange,
    HoldRenewal,
    HoldRow,
    HoldState,
    KeepRemoteHold,
    LedgerAccount,
    PaymentRow,
    PolicyRow,
    ReceiptOnly,
    ReceiptRow,
    RemoteHoldRow,
)

logger = logging.getLogger(__name__)

GENESIS = bytes(32)
"""What the first audit row names as the hash before it."""

MAX_INTEGER = (1 << 63) - 1
"""What an INTEGER column can hold."""

REMOTE = "vault:"
"""What the hold of a receipt begins with when it is in the books of another vault."""

ENDS_OF_HOLDS = frozenset({"settle", "release", "resolve"})
"""Kinds of changes that end a hold; ``reserve`` is the one that makes one."""

_INSERT_TRANSACTION = insert("transactions", "key, kind, agent_id, at_ns")
_INSERT_POSTINGS = [insert("postings", "transaction_id, agent_id, ledger, amount_msat", n) for n in range(7)]
"""By their number: one statement is half the price of as many as there are postings."""
_INSERT_HOLD = insert("holds", HOLD_COLUMNS)
_INSERT_RECEIPT = insert("receipts", RECEIPT_COLUMNS)
_INSERT_ATTEMPT = insert("attempts", ATTEMPT_COLUMNS)
_INSERT_AUDIT = insert("audit", "sequence, at_ns, agent_id, action, details, previous_hash, hash")
_INSERT_AGENT = insert("agents", "agent_id, name, token_hash, created_ns, metadata")
_INSERT_POLICY = insert("policies", POLICY_COLUMNS)
_REPLACE: dict[type, str] = {
    BudgetRow: replace("budgets", BUDGET_COLUMNS),
    BearerRow: replace("tokens", TOKEN_COLUMNS),
    ApprovalRow: replace("approvals", APPROVAL_COLUMNS),
    PaymentRow: replace("payments", PAYMENT_COLUMNS),
    EventRow: replace("outbox", EVENT_COLUMNS),
    RemoteHoldRow: replace("remote_holds", REMOTE_HOLD_COLUMNS),
    AlertSent: replace("alerts", "agent_id, at_ns"),
}
_DROP_REMOTE_HOLD = "DELETE FROM remote_holds WHERE reservation_id = ?"
_MOVE_EVENT = "UPDATE outbox SET due_ns = ?, attempts = ?, state = ?, last_error = ?, ended_ns = ? WHERE event_id = ?"
_UPDATE_ACCOUNT = (
    "UPDATE accounts SET version = ?, available_msat = ?, held_msat = ?, spent_msat = ?, deposited_msat = ?, "
    "withdrawn_msat = ?, debt_msat = ? WHERE agent_id = ? AND version = ? AND available_msat = ? AND held_msat = ? "
    "AND spent_msat = ? AND deposited_msat = ? AND withdrawn_msat = ? AND debt_msat = ?"
)
# A hold that has ended stays ended (M3): the condition makes that a property of the database.
_UPDATE_HOLD = (
    "UPDATE holds SET amount_msat = ?, state = ?, provider = ?, lease_ns = ?, extensions = ?, charged_msat = ?, "
    "ended_ns = ? WHERE hold_id = ? AND state = 'open' AND amount_msat = ? AND agent_id = ?"
)
_RENEW_HOLD = (
    "UPDATE holds SET lease_ns = max(lease_ns, ?), evidence_msat = max(evidence_msat, ?) "
    "WHERE hold_id = ? AND state = 'open'"
)


def audit_hash(previous: bytes, sequence: int, at_ns: int, agent_id: str, action: str, details: str) -> bytes:
    """SHA-256 over the hash before and this row's fields, each behind its length, so that no two rows collide."""
    parts = [previous]
    for data in (b"%d" % sequence, b"%d" % at_ns, agent_id.encode(), action.encode(), details.encode()):
        size = len(data)
        parts += (_SIZES[size] if size < len(_SIZES) else size.to_bytes(8, "big"), data)
    return hashlib.sha256(b"".join(parts)).digest()


_SIZES = [size.to_bytes(8, "big") for size in range(1_024)]


class Batch:
    """Rows of many changes on their way into as few statements; what is not as it should be raises Refused."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        (self._transaction,) = connection.execute("SELECT coalesce(max(id), 0) FROM transactions").fetchone()
        self._accounts: dict[str, tuple[AccountRow, AccountRow]] = {}
        """What each was before the first change, and is after the last one."""
        self._transactions: list[object] = []
        self._postings: list[object] = []
        self._holds: list[object] = []
        self._renewals: list[tuple[int, int, str]] = []
        self._renewing: set[str] = set()
        self._moves: list[object] = []
        self._moving: set[str] = set()
        self._receipts: list[object] = []
        self._attempts: list[object] = []
        self.audit: list[object] = []

    def add(self, change: AccountChange, audit: tuple[object, ...]) -> None:
        """All of it but the rows beside the account."""
        refuse_mismatch(change)
        before, after, hold = change.before, change.after, change.hold
        agent_id = after.agent_id
        self._transaction = number = self._transaction + 1
        self._transactions += (number, change.key, change.kind, agent_id, change.at_ns)
        for posting in change.postings:
            # Not ``value``, which is two calls: there are seven of them in a reservation and its end.
            self._postings += (number, agent_id, posting.ledger._value_, posting.amount_msat)
        first, last = self._accounts.get(agent_id) or (before, before)
        if last is not before and last != before:
            raise VersionConflict(agent_id, before.version)
        if not is_sound(after):
            raise Unwritable(f"{change.key} breaks M2")
        self._accounts[agent_id] = first, after
        self.audit += audit
        if isinstance(hold, HoldRow):
            if hold.hold_id in self._moving or hold.hold_id in self._renewing:
                self._write_holds()  # what came before it was not for it
            self._holds += hold_values(hold)
        elif hold is not None:
            self._move(hold, agent_id)
            if change.receipt is not None:
                self.file(change.receipt, agent_id, hold.hold_id, hold.charged_msat or 0)

    def _move(self, hold: HoldChange, agent_id: str) -> None:
        if hold.hold_id in self._moving:
            self._write_holds()
        self._moving.add(hold.hold_id)
        self._moves += (
            hold.hold_id,
            hold.amount_msat,
            hold.state._value_,
            hold.provider,
            hold.lease_ns,
            hold.extensions,
            hold.charged_msat,
            hold.ended_ns,
            hold.before_msat,
            agent_id,
        )

    def renew(self, hold_id: str, lease_ns: int, evidence_msat: int) -> None:
        if hold_id in self._moving:
            self._write_holds()
        self._renewing.add(hold_id)
        self._renewals.append((lease_ns, evidence_msat, hold_id))

    def file(self, receipt: ReceiptRow, agent_id: str | None, hold_id: str | None, cost_msat: int) -> None:
        self._receipts += receipt_values(receipt, receipt.request_id, agent_id, hold_id, cost_msat)
        for position, attempt in enumerate(receipt.attempts):
            self._attempts += attempt_values(attempt, receipt.request_id, position)

    def write(self) -> None:
        self._many(_INSERTED["transactions"], self._transactions)
        self._many(_INSERTED["postings"], self._postings)
        self._write_holds()
        self._many(_INSERTED["receipts"], self._receipts)
        self._many(_INSERTED["attempts"], self._attempts)
        self._many(_INSERTED["audit"], self.audit)
        accounts: list[object] = []
        for first, last in self._accounts.values():
            accounts += account_move(first, last)
        if self._many(_MOVED_ACCOUNTS, accounts) != len(self._accounts):
            raise VersionConflict(", ".join(self._accounts), -1)

    def _write_holds(self) -> None:
        """Those that are new, then leases, then what became of others: none of them is in there twice."""
        self._many(_INSERTED["holds"], self._holds)
        if self._renewals:
            self._db.executemany(_RENEW_HOLD, self._renewals)
        if self._many(_MOVED_HOLDS, self._moves) != len(self._moving):
            raise VersionConflict(", ".join(self._moving), -1)
        self._holds, self._renewals, self._moves = [], [], []
        self._renewing, self._moving = set(), set()

    def _many(self, of: Many, values: list[object]) -> int:
        """Execute for all rows, as many at a time as there is a statement for; how many rows were changed."""
        changed, start = 0, 0
        while start < len(values):
            rows = min(MOST_ROWS, 1 << (((len(values) - start) // of.width).bit_length() - 1))
            part = values[start : start + rows * of.width]
            start += len(part)
            try:
                changed += self._db.execute(of.statements[rows], part).rowcount
            except (OverflowError, UnicodeEncodeError):
                changed += self._db.execute(of.statements[rows], [storable(value) for value in part]).rowcount
        return changed


MOST_ROWS = 64
"""In one statement; beyond it a row becomes hardly cheaper."""


@frozen
class Many:
    """A statement for 1, 2, 4 ... ``MOST_ROWS`` rows of ``width`` values."""

    width: int
    statements: Mapping[int, str]


def _many(before: str, width: int, after: str = "") -> Many:
    places = "(" + ", ".join("?" * width) + ")"
    sizes = [1 << power for power in range(MOST_ROWS.bit_length())]
    return Many(width, {rows: f"{before}{', '.join([places] * rows)}{after}" for rows in sizes})


_INSERTED = {
    table: _many(f"INSERT INTO {table} ({COLUMNS[table]}) VALUES ", COLUMNS[table].count(",") + 1)  # noqa: S608 - ours
    for table in ("transactions", "postings", "holds", "receipts", "attempts", "audit")
}
_MOVED_ACCOUNTS = _many(
    "UPDATE accounts SET version = column9, available_msat = column10, held_msat = column11, spent_msat = column12, "
    "deposited_msat = column13, withdrawn_msat = column14, debt_msat = column15 FROM (VALUES ",
    15,
    ") WHERE agent_id = column1 AND version = column2 AND available_msat = column3 AND held_msat = column4 "
    "AND spent_msat = column5 AND deposited_msat = column6 AND withdrawn_msat = column7 AND debt_msat = column8",
)
_MOVED_HOLDS = _many(
    "UPDATE holds SET amount_msat = column2, state = column3, provider = column4, lease_ns = column5, "
    "extensions = column6, charged_msat = column7, ended_ns = column8 FROM (VALUES ",
    10,
    ") WHERE hold_id = column1 AND state = 'open' AND amount_msat = column9 AND agent_id = column10",
)


def account_move(before: AccountRow, after: AccountRow) -> tuple[object, ...]:
    return (
        before.agent_id,
        before.version,
        before.available_msat,
        before.held_msat,
        before.spent_msat,
        before.deposited_msat,
        before.withdrawn_msat,
        before.debt_msat,
        after.version,
        after.available_msat,
        after.held_msat,
        after.spent_msat,
        after.deposited_msat,
        after.withdrawn_msat,
        after.debt_msat,
    )


def is_sound(account: AccountRow) -> bool:
    """The CHECKs of ``accounts``, for balances that are replaced before they are written."""
    available, held, spent = account.available_msat, account.held_msat, account.spent_msat
    deposited, withdrawn = account.deposited_msat, account.withdrawn_msat
    return (
        available + held + spent == deposited - withdrawn
        and available >= 0
        and held >= 0
        and spent >= 0
        and deposited >= 0
        and withdrawn >= 0
        and account.debt_msat >= 0
    )


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
            case AgentAdded():
                self.append_audit(change.at_ns, change.agent_id, self._add_agent(change))
            case EventProgress(event):
                self._move_event(event)
            case KeepRemoteHold(hold, receipt):
                self._keep_remote(hold)
                if receipt is not None:
                    self._file_remote(receipt, hold)
            case DropRemoteHold(reservation_id):
                self._db.execute(_DROP_REMOTE_HOLD, (reservation_id,))

    def apply_together(self, changes: Sequence[Change]) -> None:
        """Write changes of which none is refused, in a few statements: many rows each, so that a row costs less.

        What is visible after it is what ``apply`` of one after the other leaves. Raises Refused or sqlite3's errors
        when any of them is at fault, with part of them written: then they are to be written one by one.
        """
        batch = Batch(self._db)
        for change in changes:
            match change:
                case AccountChange():
                    batch.add(change, self._next_audit(change.at_ns, change.after.agent_id, change.audit))
                    for row in change.also:
                        self._write(row)
                case HoldRenewal(hold_id, lease_ns, evidence_msat):
                    batch.renew(hold_id, lease_ns, min(evidence_msat, MAX_INTEGER))
                case ReceiptOnly(receipt):
                    batch.file(receipt, receipt.agent_id, receipt.hold_id, receipt.cost_msat)
                case AgentAdded():
                    batch.audit += self._next_audit(change.at_ns, change.agent_id, self._add_agent(change))
                case EventProgress(event):
                    self._move_event(event)
                case KeepRemoteHold(hold, receipt):
                    self._keep_remote(hold)
                    if receipt is not None:
                        batch.file(receipt, hold.agent_id, remote_hold_id(hold), hold.charge_msat or 0)
                case DropRemoteHold(reservation_id):
                    self._db.execute(_DROP_REMOTE_HOLD, (reservation_id,))
        batch.write()

    def _apply_account(self, change: AccountChange) -> None:
        refuse_mismatch(change)
        after = change.after
        self._insert_transaction(change)
        self._update_account(change.before, after)
        for row in change.also:
            self._write(row)
        match change.hold:
            case HoldRow() as hold:
                self._insert_hold(hold)
            case HoldChange() as hold:
                self._update_hold(hold, change)
        self.append_audit(change.at_ns, after.agent_id, change.audit)

    def _add_agent(self, added: AgentAdded) -> AuditEntry:
        refuse_foreign_rows(added)
        agent = (added.agent_id, added.name, added.token.token_hash, added.at_ns, added.metadata)
        self._insert(_INSERT_AGENT, agent, f"agent:{added.agent_id}")
        self._db.execute("INSERT INTO accounts VALUES (?, 0, 0, 0, 0, 0, 0, 0)", (added.agent_id,))
        self._write(added.policy)
        self._write(added.token)
        return AuditEntry("AGENT_REGISTERED", {"name": added.name})

    def _move_event(self, event: EventRow) -> None:
        values = (event.due_ns, event.attempts, event.state.value, event.last_error, event.ended_ns, event.event_id)
        if self._db.execute(_MOVE_EVENT, [storable(value) for value in values]).rowcount != 1:
            raise Unwritable(f"there is no event {event.event_id}")

    def _keep_remote(self, hold: RemoteHoldRow) -> None:
        if self._execute_with_text(_REPLACE[RemoteHoldRow], values(hold)).rowcount != 1:
            raise DuplicateKey(f"remote hold:{hold.reservation_id}")

    def _file_remote(self, receipt: ReceiptRow, hold: RemoteHoldRow) -> None:
        """Once for each hold, however often its end is told."""
        hold_id, known = remote_hold_id(hold), "SELECT 1 FROM receipts WHERE request_id = ? AND hold_id = ?"
        if self._db.execute(known, (receipt.request_id, hold_id)).fetchone() is None:
            self._file_receipt(receipt, hold.agent_id, hold_id, hold.charge_msat or 0)

    def _write(self, row: Also) -> None:
        """Add a policy; add or replace one of the others."""
        if isinstance(row, PolicyRow):
            self._insert(_INSERT_POLICY, values(row), also_key(row))
        elif isinstance(row, Frozen):
            self._db.execute("UPDATE agents SET frozen_ns = ? WHERE agent_id = ?", (row.since_ns, row.agent_id))
        elif self._insert(_REPLACE[type(row)], values(row), also_key(row)) != 1:
            raise DuplicateKey(also_key(row))

    def _insert(self, statement: str, values: Sequence[object], key: str) -> int:
        """Number of rows written. Raises DuplicateKey when a key of the row is another row's."""
        try:
            return self._execute_with_text(statement, values).rowcount
        except sqlite3.IntegrityError as error:
            if error.sqlite_errorcode in _TAKEN:
                raise DuplicateKey(key) from None
            raise

    def _insert_transaction(self, change: AccountChange) -> None:
        agent_id = change.after.agent_id
        try:
            cursor = self._db.execute(_INSERT_TRANSACTION, (change.key, change.kind, agent_id, change.at_ns))
        except sqlite3.IntegrityError:  # the only rule of that table
            raise DuplicateKey(change.key) from None
        if change.postings:
            posted: list[object] = []
            for posting in change.postings:
                posted += (cursor.lastrowid, agent_id, posting.ledger.value, posting.amount_msat)
            self._db.execute(_INSERT_POSTINGS[len(change.postings)], posted)

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
        self._insert(
            _INSERT_HOLD,
            hold_values(hold),
            hold.key,
        )

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
                change.after.agent_id,
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
        self._insert(
            _INSERT_RECEIPT,
            receipt_values(receipt, request_id, agent_id, hold_id, cost_msat),
            request_id,
        )
        for position, attempt in enumerate(receipt.attempts):
            self._execute_with_text(_INSERT_ATTEMPT, attempt_values(attempt, request_id, position))

    def _execute_with_text(self, statement: str, values: Sequence[object]) -> sqlite3.Cursor:
        """Execute with values that others chose: what SQLite cannot hold is bent until it can.

        A lone surrogate in a model's name or a token count of 10**30 says something of the provider or the client; it
        must not keep a hold from ending.
        """
        try:
            return self._db.execute(statement, values)
        except (OverflowError, UnicodeEncodeError):
            return self._db.execute(statement, [storable(value) for value in values])

    def append_audit(self, at_ns: int, agent_id: str, entry: AuditEntry) -> None:
        """Chain one more row to the audit log."""
        self._db.execute(_INSERT_AUDIT, self._next_audit(at_ns, agent_id, entry))

    def _next_audit(self, at_ns: int, agent_id: str, entry: AuditEntry) -> tuple[object, ...]:
        """The row that follows the head, which is then the head."""
        sequence, previous = self.head or self._read_head()
        sequence += 1
        details = to_json(entry.details)
        digest = audit_hash(previous, sequence, at_ns, agent_id, entry.action, details)
        self.head = sequence, digest
        return sequence, at_ns, agent_id, entry.action, details, previous, digest

    def _read_head(self) -> tuple[int, bytes]:
        row = self._db.execute("SELECT sequence, hash FROM audit ORDER BY sequence DESC LIMIT 1").fetchone()
        return (row[0], row[1]) if row else (0, GENESIS)


_TAKEN = frozenset({sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY, sqlite3.SQLITE_CONSTRAINT_UNIQUE})


def refuse_mismatch(change: AccountChange) -> None:
    """A change is of one agent, and its kind says what it does to a hold. Raises Unwritable."""
    agent_id, hold, kind = change.after.agent_id, change.hold, change.kind
    if hold is None:
        right = kind != "reserve" and kind not in ENDS_OF_HOLDS
    elif isinstance(hold, HoldRow):
        right = kind == "reserve" and hold.agent_id == agent_id
    else:
        right = kind != "reserve" and (hold.state is not HoldState.OPEN) == (kind in ENDS_OF_HOLDS)
    if not right:
        raise Unwritable(f"{change.key} is a {kind!r} and does something else, or something to another agent's hold")
    if change.before.agent_id != agent_id:
        raise Unwritable(f"{change.key} is of {agent_id} and of {change.before.agent_id}")
    for row in change.also:
        if row.agent_id != agent_id:
            raise Unwritable(f"{change.key} is of {agent_id} and would write {also_key(row)} of {row.agent_id}")


def refuse_foreign_rows(added: AgentAdded) -> None:
    """Raises Unwritable when an agent would be made with something of another's."""
    if not added.agent_id == added.token.agent_id == added.policy.agent_id:
        raise Unwritable(f"{added.agent_id} would be added with rows of another agent")


def also_key(row: Also) -> str:
    """Names a row beside an account, in messages and in what a refusal says."""
    match row:
        case PolicyRow():
            return f"policy:{row.agent_id}:{row.version}"
        case BudgetRow():
            return f"budget:{row.budget_id}"
        case BearerRow():
            return f"token:{row.token_id}"
        case ApprovalRow():
            return f"approval:{row.approval_id}"
        case PaymentRow():
            return f"payment:{row.transaction_id}"
        case EventRow():
            return f"event:{row.event_id}"
        case AlertSent():
            return f"alert:{row.agent_id}"
        case Frozen():
            return f"frozen:{row.agent_id}"


def remote_hold_id(hold: RemoteHoldRow) -> str:
    """In receipts: of no row of ours, which the audit must know."""
    return f"{REMOTE}{hold.reservation_id}"


def storable(value: object) -> object:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, int):
        return max(-MAX_INTEGER, min(value, MAX_INTEGER))
    return value


def read_account(db: sqlite3.Connection, agent_id: str) -> AccountRow:
    """The balances as committed. Raises UnknownAgent when there is no such agent."""
    row = db.execute(f"SELECT {ACCOUNT_COLUMNS} FROM accounts WHERE agent_id = ?", (agent_id,)).fetchone()  # noqa: S608 - constant names
    if row is None:
        raise UnknownAgent(agent_id)
    return AccountRow(*row)


def read_open_holds(db: sqlite3.Connection, agent_id: str | None = None) -> list[HoldRow]:
    """Open holds, of one agent or of all."""
    where, values = ("", ()) if agent_id is None else (" AND agent_id = ?", (agent_id,))
    rows = db.execute(f"SELECT {HOLD_COLUMNS} FROM holds WHERE state = 'open'{where} ORDER BY hold_id", values)  # noqa: S608 - constant names
    return [hold_row(row) for row in rows]


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
    row = db.execute(f"SELECT {HOLD_COLUMNS} FROM holds WHERE {column} = ?", (value,)).fetchone()  # noqa: S608 - constant names
    return hold_row(row) if row else None


def read_deposit(db: sqlite3.Connection, key: str) -> tuple[str, int] | None:
    """Agent and amount of the deposit that was made with this key."""
    row = db.execute(
        "SELECT t.agent_id, -p.amount_msat FROM transactions t JOIN postings p ON p.transaction_id = t.id "
        "WHERE t.key = ? AND p.ledger = ?",
        (f"deposit:{key}", LedgerAccount.WORLD.value),
    ).fetchone()
    return (row[0], row[1]) if row else None
