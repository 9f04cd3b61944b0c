"""The tables of ``MemoryLedger``: dictionaries that take what a database would take, and refuse the rest likewise."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, TypeVar

from attrs import define, evolve, field, fields, frozen

from arbstr.store import _rows as rows
from arbstr.store._check import check_books
from arbstr.store._errors import DuplicateKey, Refused, UnknownAgent, Unwritable, VersionConflict
from arbstr.store._journal import (
    GENESIS,
    MAX_INTEGER,
    also_key,
    audit_hash,
    is_sound,
    refuse_foreign_rows,
    refuse_mismatch,
    remote_hold_id,
    storable,
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
from arbstr.store._schema import create_in_memory
from arbstr.store._values import (
    AccountChange,
    AccountRow,
    AgentAdded,
    AgentRow,
    AlertSent,
    Also,
    ApprovalRow,
    ApprovalStatus,
    AuditEntry,
    BearerRow,
    BudgetRow,
    Change,
    CheckReport,
    DropRemoteHold,
    EventProgress,
    EventRow,
    EventState,
    Frozen,
    HoldChange,
    HoldRenewal,
    HoldRow,
    HoldState,
    KeepRemoteHold,
    LedgerAccount,
    PaymentRow,
    PaymentState,
    PolicyRow,
    Posting,
    ReceiptOnly,
    ReceiptRow,
    RemoteHoldRow,
    RemoteHoldState,
    TokenRow,
)

A = TypeVar("A")
R = TypeVar("R")

_POLICY_NUMBERS = (
    "max_transaction_msat",
    "daily_limit_msat",
    "max_fee_msat",
    "approval_timeout_ms",
    "alert_floor_msat",
    "alert_cooldown_ms",
    "max_holds",
)
FINAL = frozenset({PaymentState.DENIED, PaymentState.SUCCEEDED, PaymentState.FAILED})
_MISSING = object()


@frozen
class _Agent:
    name: str
    token_hash: str
    created_ns: int
    metadata: str | None
    frozen_ns: int | None = None


@frozen
class _Transaction:
    number: int
    key: str
    kind: str
    agent_id: str
    at_ns: int
    postings: tuple[Posting, ...]


@frozen
class _Audit:
    at_ns: int
    agent_id: str
    action: str
    details: str
    previous: bytes
    digest: bytes


@define
class MemoryBooks:
    """The tables. Every write goes through ``put``, so that a change that is refused leaves nothing."""

    agents: dict[str, _Agent] = field(factory=dict)
    accounts: dict[str, AccountRow] = field(factory=dict)
    transactions: dict[str, _Transaction] = field(factory=dict)
    holds: dict[str, HoldRow] = field(factory=dict)
    hold_ids: dict[str, str] = field(factory=dict)
    """By key."""
    receipts: dict[str, ReceiptRow] = field(factory=dict)
    audit: dict[int, _Audit] = field(factory=dict)
    tokens: dict[str, BearerRow] = field(factory=dict)
    policies: dict[str, tuple[PolicyRow, ...]] = field(factory=dict)
    """By agent."""
    budgets: dict[str, BudgetRow] = field(factory=dict)
    approvals: dict[str, ApprovalRow] = field(factory=dict)
    payments: dict[str, PaymentRow] = field(factory=dict)
    payment_ids: dict[tuple[str, str], str] = field(factory=dict)
    """By agent and idempotency key."""
    hashes: dict[str, str] = field(factory=dict)
    """Of tokens: whose."""
    outbox: dict[str, EventRow] = field(factory=dict)
    alerts: dict[str, int] = field(factory=dict)
    remote_holds: dict[str, RemoteHoldRow] = field(factory=dict)
    agent_hashes: dict[str, str] = field(factory=dict)
    _undo: list[tuple[dict[Any, Any], Any, Any]] = field(factory=list)

    def put(self, table: dict[Any, Any], key: Any, value: Any) -> None:
        self._undo.append((table, key, table.get(key, _MISSING)))
        table[key] = value

    def take(self, table: dict[Any, Any], key: Any) -> None:
        self._undo.append((table, key, table.pop(key)))

    def apply(self, change: Change) -> None:
        """Write one change whole. Raises Refused with nothing of it written."""
        self._undo.clear()
        try:
            _APPLY[type(change)](self, change)
        except Refused:
            for table, key, before in reversed(self._undo):
                if before is _MISSING:
                    table.pop(key, None)
                else:
                    table[key] = before
            raise

    # Changes

    def change_account(self, change: AccountChange) -> None:
        refuse_mismatch(change)
        after = change.after
        if change.key in self.transactions:
            raise DuplicateKey(change.key)
        _require(len({p.ledger for p in change.postings}) == len(change.postings), "two postings to one account")
        transaction = _Transaction(
            len(self.transactions) + 1, change.key, change.kind, after.agent_id, change.at_ns, change.postings
        )
        self.put(self.transactions, change.key, transaction)
        if self.accounts.get(after.agent_id) != change.before:
            raise VersionConflict(after.agent_id, change.before.version)
        _require(is_sound(after), "balances that break M2")
        self.put(self.accounts, after.agent_id, after)
        for row in change.also:
            self.write(row)
        match change.hold:
            case HoldRow() as hold:
                self._add_hold(hold)
            case HoldChange() as hold:
                self._change_hold(hold, change)
        self._append_audit(change.at_ns, after.agent_id, change.audit)

    def _add_hold(self, hold: HoldRow) -> None:
        _require(hold.amount_msat >= 0 and hold.evidence_msat >= 0, "a negative hold")
        _require(hold.kind in ("request", "payment", "withdrawal"), "a hold of no kind")
        if hold.hold_id in self.holds or hold.key in self.hold_ids:
            raise DuplicateKey(hold.key)
        _require(hold.budget_id is None or hold.budget_id in self.budgets, "a hold of no budget")
        self.put(self.holds, hold.hold_id, _stored(hold))
        self.put(self.hold_ids, hold.key, hold.hold_id)

    def _change_hold(self, change: HoldChange, of: AccountChange) -> None:
        hold, agent_id = self.holds.get(change.hold_id), of.after.agent_id
        is_as_it_was = hold is not None and (hold.state, hold.amount_msat) == (HoldState.OPEN, change.before_msat)
        if hold is None or not is_as_it_was or hold.agent_id != agent_id:
            raise VersionConflict(agent_id, of.before.version)
        _require(change.amount_msat >= 0, "a negative hold")
        changed = evolve(
            hold,
            amount_msat=change.amount_msat,
            state=change.state,
            provider=change.provider,
            lease_ns=change.lease_ns,
            extensions=change.extensions,
            charged_msat=change.charged_msat,
            ended_ns=change.ended_ns,
        )
        self.put(self.holds, change.hold_id, _stored(changed))
        if of.receipt is not None:
            self._file_receipt(of.receipt, agent_id, change)

    def _file_receipt(self, receipt: ReceiptRow, agent_id: str, end: HoldChange) -> None:
        filed = evolve(receipt, agent_id=agent_id, hold_id=end.hold_id, cost_msat=end.charged_msat or 0)
        if receipt.request_id in self.receipts:
            filed = evolve(filed, request_id=f"{receipt.request_id}:{end.hold_id}")
        self.file_receipt(ReceiptOnly(filed))

    def file_receipt(self, change: ReceiptOnly) -> None:
        receipt = change.receipt
        _require(receipt.cost_msat >= 0, "a negative cost")
        if receipt.request_id in self.receipts:
            raise DuplicateKey(receipt.request_id)
        self.put(self.receipts, receipt.request_id, _stored(receipt))

    def renew_hold(self, change: HoldRenewal) -> None:
        hold = self.holds.get(change.hold_id)
        if hold is not None and hold.state is HoldState.OPEN:
            evidence_msat = max(hold.evidence_msat, min(change.evidence_msat, MAX_INTEGER))
            longer = evolve(hold, lease_ns=max(hold.lease_ns, change.lease_ns), evidence_msat=evidence_msat)
            self.put(self.holds, change.hold_id, longer)

    def add_agent(self, added: AgentAdded) -> None:
        refuse_foreign_rows(added)
        token_hash = added.token.token_hash
        if added.agent_id in self.agents or token_hash in self.agent_hashes:
            raise DuplicateKey(f"agent:{added.agent_id}")
        self.put(self.agents, added.agent_id, _Agent(added.name, token_hash, added.at_ns, added.metadata))
        self.put(self.agent_hashes, token_hash, added.agent_id)
        self.put(self.accounts, added.agent_id, AccountRow(added.agent_id))
        self.write(added.policy)
        self.write(added.token)
        self._append_audit(added.at_ns, added.agent_id, AuditEntry("AGENT_REGISTERED", {"name": added.name}))

    def move_event(self, change: EventProgress) -> None:
        event = change.event
        known = self.outbox.get(event.event_id)
        if known is None:
            raise Unwritable(f"there is no event {event.event_id}")
        _require(event.attempts >= 0, "negative attempts")
        moved = evolve(
            known,
            due_ns=event.due_ns,
            attempts=event.attempts,
            state=event.state,
            last_error=event.last_error,
            ended_ns=event.ended_ns,
        )
        self.put(self.outbox, event.event_id, _stored(moved))

    # Holds at another vault

    def keep_remote(self, change: KeepRemoteHold) -> None:
        hold, is_open = change.hold, change.hold.state is RemoteHoldState.OPEN
        _require(_none_negative(hold, ("amount_msat", "evidence_msat", "charge_msat", "attempts")), "a negative hold")
        _require(is_open == (hold.charge_msat is None), "an end that is none")
        known = self.remote_holds.get(hold.reservation_id)
        if known is not None:
            if known.agent_id != hold.agent_id:
                raise DuplicateKey(f"remote hold:{hold.reservation_id}")
            same_end = known.state is RemoteHoldState.OPEN or known.charge_msat == hold.charge_msat
            _require(known.key == hold.key and same_end, "a hold that ends twice")
        self.put(self.remote_holds, hold.reservation_id, _stored(hold))
        if change.receipt is not None:
            self._file_remote(change.receipt, hold)

    def _file_remote(self, receipt: ReceiptRow, hold: RemoteHoldRow) -> None:
        hold_id, known = remote_hold_id(hold), self.receipts.get(receipt.request_id)
        if known is not None and known.hold_id == hold_id:
            return
        request_id = receipt.request_id if known is None else f"{receipt.request_id}:{hold_id}"
        filed = evolve(receipt, request_id=request_id, agent_id=hold.agent_id, hold_id=hold_id)
        self.file_receipt(ReceiptOnly(evolve(filed, cost_msat=hold.charge_msat or 0)))

    def drop_remote(self, change: DropRemoteHold) -> None:
        known = self.remote_holds.get(change.reservation_id)
        if known is not None:
            _require(known.state is not RemoteHoldState.OPEN, "a hold that is forgotten")
            self.take(self.remote_holds, change.reservation_id)

    # Rows beside an account

    def write(self, row: Also) -> None:
        _WRITE[type(row)](self, row)

    def write_policy(self, row: PolicyRow) -> None:
        known = self.policies.get(row.agent_id, ())
        _require(row.version <= len(known) + 1, "a policy that leaves a gap")
        _require(row.version >= 1 and _none_negative(row, _POLICY_NUMBERS), "a negative limit")
        if row.version <= len(known):
            raise DuplicateKey(also_key(row))
        self.put(self.policies, row.agent_id, (*known, _stored(row)))

    def write_budget(self, row: BudgetRow) -> None:
        _require(_none_negative(row, ("amount_msat", "spent_msat", "max_holds")), "a negative budget")
        known = self._replaced(self.budgets, row.budget_id, row)
        if known is not None:
            given_back = known.revoked_ns is not None and row.revoked_ns is None
            _require(row.spent_msat >= known.spent_msat and not given_back, "a budget that is spent less")
        self.put(self.budgets, row.budget_id, _stored(row))

    def write_token(self, row: BearerRow) -> None:
        known = self._replaced(self.tokens, row.token_id, row)
        if known is not None:
            _require(known.revoked_ns is None or row.revoked_ns is not None, "a token that comes back")
        if self.hashes.get(row.token_hash, row.token_id) != row.token_id:
            raise DuplicateKey(also_key(row))
        _require(row.budget_id is None or row.budget_id in self.budgets, "a token of no budget")
        if known is not None and known.token_hash != row.token_hash:
            self.put(self.hashes, known.token_hash, "")
        self.put(self.tokens, row.token_id, _stored(row))
        self.put(self.hashes, row.token_hash, row.token_id)

    def write_approval(self, row: ApprovalRow) -> None:
        _require(row.kind in ("payment", "withdrawal", "request") and row.amount_msat >= 0, "no approval")
        _require((row.status is ApprovalStatus.PENDING) == (row.resolved_ns is None), "an approval half decided")
        known = self._replaced(self.approvals, row.approval_id, row)
        if known is not None:
            later = (ApprovalStatus.USED, ApprovalStatus.TIMED_OUT)
            goes_on = known.is_open and known.status is ApprovalStatus.APPROVED and row.status in later
            decided_twice = known.status not in (ApprovalStatus.PENDING, row.status) and not goes_on
            _require(not decided_twice, "an approval decided twice")
        self.put(self.approvals, row.approval_id, _stored(row))

    def write_payment(self, row: PaymentRow) -> None:
        _require(row.kind in ("payment", "withdrawal"), "a payment of no kind")
        _require(_none_negative(row, ("amount_msat", "fee_limit_msat", "fee_msat")), "a negative payment")
        known = self._replaced(self.payments, row.transaction_id, row)
        if known is not None:
            same = (known.amount_msat, known.kind, known.key) == (row.amount_msat, row.kind, row.key)
            ended_otherwise = known.state in FINAL and (known.state, known.fee_msat) != (row.state, row.fee_msat)
            _require(same and not ended_otherwise, "a payment that ends twice")
        if row.key is not None:
            of_key = (row.agent_id, row.key)
            if self.payment_ids.get(of_key, row.transaction_id) != row.transaction_id:
                raise DuplicateKey(also_key(row))
            self.put(self.payment_ids, of_key, row.transaction_id)
        self.put(self.payments, row.transaction_id, _stored(row))

    def write_event(self, row: EventRow) -> None:
        _require(row.attempts >= 0, "negative attempts")
        known = self._replaced(self.outbox, row.event_id, row)
        if known is not None:
            _require((known.body, known.event) == (row.body, row.event), "an event that becomes another")
        self.put(self.outbox, row.event_id, _stored(row))

    def write_alert(self, row: AlertSent) -> None:
        self.put(self.alerts, row.agent_id, row.at_ns)

    def write_frozen(self, row: Frozen) -> None:
        self.put(self.agents, row.agent_id, evolve(self.agents[row.agent_id], frozen_ns=row.since_ns))

    def _replaced(self, table: dict[str, R], key: str, row: Any) -> R | None:
        """What the row takes the place of. Raises DuplicateKey when that is another agent's."""
        known = table.get(key)
        if known is not None and known.agent_id != row.agent_id:  # type: ignore[attr-defined]  # rows of an agent
            raise DuplicateKey(also_key(row))
        return known

    def _append_audit(self, at_ns: int, agent_id: str, entry: AuditEntry) -> None:
        sequence, details = len(self.audit) + 1, rows.to_json(entry.details)
        previous = self.audit[sequence - 1].digest if sequence > 1 else GENESIS
        digest = audit_hash(previous, sequence, at_ns, agent_id, entry.action, details)
        self.put(self.audit, sequence, _Audit(at_ns, agent_id, entry.action, details, previous, digest))

    # Questions

    def load_account(self, question: LoadAccount) -> LoadedAccount:
        agent_id, now_ns = question.agent_id, question.now_ns
        account = self.read_account(agent_id)
        holds = [hold for hold in self.holds.values() if hold.agent_id == agent_id]
        is_open = [hold for hold in holds if hold.state is HoldState.OPEN]
        held = {hold.budget_id for hold in is_open}
        spends = [
            (hold.ended_ns, hold.charged_msat)
            for hold in holds
            if hold.charged_msat and hold.ended_ns is not None and hold.ended_ns > now_ns - DAY_NS
        ]
        return LoadedAccount(
            account=account,
            open_holds=tuple(sorted(is_open, key=lambda hold: hold.hold_id)),
            policies=self._policies(agent_id, now_ns),
            budgets=tuple(
                sorted(
                    (
                        b
                        for b in self.budgets.values()
                        if b.agent_id == agent_id and (_lives(b, now_ns) or b.budget_id in held)
                    ),
                    key=lambda budget: budget.budget_id,
                )
            ),
            payments=tuple([p for p in self.unfinished_payments() if p.agent_id == agent_id]),
            approvals=tuple([a for a in self._pending() if a.agent_id == agent_id]),
            spends=tuple(sorted(spends)),
            frozen_ns=self.agents[agent_id].frozen_ns,
            last_alert_ns=self.alerts.get(agent_id),
            name=self.agents[agent_id].name,
            tokens=tuple(
                [
                    row
                    for _, row in sorted(self.tokens.items())
                    if row.agent_id == agent_id
                    and row.revoked_ns is None
                    and (row.expires_ns is None or row.expires_ns > now_ns)
                ]
            ),
        )

    def read_account(self, agent_id: str) -> AccountRow:
        if agent_id not in self.accounts:
            raise UnknownAgent(agent_id)
        return self.accounts[agent_id]

    def _policies(self, agent_id: str, now_ns: int) -> tuple[PolicyRow, ...]:
        known = self.policies.get(agent_id, ())
        current = max((row.version for row in known if row.effective_ns <= now_ns), default=0)
        return tuple([row for row in known if row.version >= current])

    def find_hold(self, question: FindHold) -> HoldRow | None:
        hold_id = question.hold_id if question.hold_id is not None else self.hold_ids.get(question.key or "")
        return self.holds.get(hold_id or "")

    def find_deposit(self, question: FindDeposit) -> FoundDeposit | None:
        transaction = self.transactions.get(f"deposit:{question.key}")
        for posting in transaction.postings if transaction else ():
            if transaction is not None and posting.ledger is LedgerAccount.WORLD:
                return FoundDeposit(-posting.amount_msat, self.accounts[transaction.agent_id])
        return None

    def find_payment(self, question: FindPayment) -> PaymentRow | None:
        transaction_id = question.transaction_id
        if transaction_id is None:
            transaction_id = self.payment_ids.get((question.agent_id or "", question.key or ""), "")
        return self.payments.get(transaction_id)

    def find_approval(self, question: FindApproval) -> ApprovalRow | None:
        if question.approval_id is not None:
            return self.approvals.get(question.approval_id)
        found = [row for row in self.approvals.values() if row.transaction_id == question.transaction_id]
        return max(found, key=lambda row: (row.created_ns, row.approval_id), default=None)

    def list_agents(self) -> tuple[AgentRow, ...]:
        return tuple(
            [
                AgentRow(
                    agent_id,
                    agent.name,
                    agent.created_ns,
                    account.available_msat,
                    account.held_msat,
                    account.spent_msat,
                    account.deposited_msat,
                    account.withdrawn_msat,
                    account.debt_msat,
                )
                for agent_id, agent in sorted(self.agents.items())
                for account in (self.accounts[agent_id],)
            ]
        )

    def active_tokens(self, agent_id: str | None = None) -> tuple[TokenRow, ...]:
        return tuple(
            [
                TokenRow(
                    row.agent_id,
                    self.agents[row.agent_id].name,
                    row.token_hash,
                    row.token_id,
                    row.budget_id,
                    row.expires_ns,
                )
                for _, row in sorted(self.tokens.items())
                if row.revoked_ns is None and agent_id in (None, row.agent_id)
            ]
        )

    def orphaned_holds(self) -> tuple[HoldRow, ...]:
        pending = {row.transaction_id for row in self._pending()}
        return tuple(
            [
                hold
                for _, hold in sorted(self.holds.items())
                if hold.state is HoldState.OPEN and hold.kind == "request" and hold.key not in pending
            ]
        )

    def unfinished_payments(self) -> tuple[PaymentRow, ...]:
        return tuple([row for _, row in sorted(self.payments.items()) if row.state not in FINAL])

    def _pending(self) -> list[ApprovalRow]:
        return [row for _, row in sorted(self.approvals.items()) if row.is_open]

    def pending_approvals(self) -> tuple[ApprovalRow, ...]:
        return tuple(sorted(self._pending(), key=lambda row: (row.expires_ns, row.approval_id)))

    def due_events(self, question: DueEvents) -> tuple[EventRow, ...]:
        now_ns = MAX_INTEGER if question.now_ns is None else question.now_ns
        due = [row for row in self.outbox.values() if row.state is EventState.PENDING and row.due_ns <= now_ns]
        return tuple(sorted(due, key=lambda row: (row.due_ns, row.event_id))[: question.limit])

    def dead_events(self, question: DeadEvents) -> tuple[EventRow, ...]:
        dead = [row for row in self.outbox.values() if row.state is EventState.DEAD]
        older = [row for row in dead if question.before is None or row.event_id < question.before]
        return tuple(sorted(older, key=lambda row: row.event_id, reverse=True)[: question.limit])

    def find_remote_holds(self, question: RemoteHolds) -> tuple[RemoteHoldRow, ...]:
        found = [row for row in self.remote_holds.values() if row.state is question.state]
        return tuple(sorted(found, key=lambda row: (row.created_ns, row.reservation_id)))

    # For the audit

    def tables(self) -> dict[str, list[tuple[object, ...]]]:
        """All rows, as a database has them: by table, in the order of ``rows.COLUMNS``."""
        return {
            "agents": [
                (key, row.name, row.token_hash, row.created_ns, row.metadata, row.frozen_ns)
                for key, row in self.agents.items()
            ],
            "accounts": [rows.values(row) for row in self.accounts.values()],
            "transactions": [
                (row.number, row.key, row.kind, row.agent_id, row.at_ns) for row in self.transactions.values()
            ],
            "postings": [
                (row.number, row.agent_id, posting.ledger.value, posting.amount_msat)
                for row in self.transactions.values()
                for posting in row.postings
            ],
            "budgets": [rows.values(row) for row in self.budgets.values()],
            "holds": [rows.values(row) for row in self.holds.values()],
            "receipts": [rows.values(row) for row in self.receipts.values()],
            "attempts": [
                (row.request_id, position, *rows.values(attempt))
                for row in self.receipts.values()
                for position, attempt in enumerate(row.attempts)
            ],
            "tokens": [rows.values(row) for row in self.tokens.values()],
            "policies": [rows.values(row) for versions in self.policies.values() for row in versions],
            "approvals": [rows.values(row) for row in self.approvals.values()],
            "payments": [rows.values(row) for row in self.payments.values()],
            "outbox": [rows.values(row) for row in self.outbox.values()],
            "alerts": list(self.alerts.items()),
            "remote_holds": [rows.values(row) for row in self.remote_holds.values()],
            "audit": [
                (key, row.at_ns, row.agent_id, row.action, row.details, row.previous, row.digest)
                for key, row in self.audit.items()
            ],
        }

    def check(self) -> CheckReport:
        """The rules of the database over the same rows."""
        with contextlib.closing(create_in_memory()) as db:
            for table, table_rows in self.tables().items():
                db.executemany(rows.insert(table, rows.COLUMNS[table]), table_rows)
            return check_books(db)

    def answer(self, question: Question[A]) -> A:
        """Raises UnknownAgent where the question says so."""
        answered: A = _ANSWERS[type(question)](self, question)
        return answered


_APPLY: dict[type, Callable[[MemoryBooks, Any], None]] = {
    AccountChange: MemoryBooks.change_account,
    HoldRenewal: MemoryBooks.renew_hold,
    ReceiptOnly: MemoryBooks.file_receipt,
    AgentAdded: MemoryBooks.add_agent,
    EventProgress: MemoryBooks.move_event,
    KeepRemoteHold: MemoryBooks.keep_remote,
    DropRemoteHold: MemoryBooks.drop_remote,
}
_WRITE: dict[type, Callable[[MemoryBooks, Any], None]] = {
    PolicyRow: MemoryBooks.write_policy,
    BudgetRow: MemoryBooks.write_budget,
    BearerRow: MemoryBooks.write_token,
    ApprovalRow: MemoryBooks.write_approval,
    PaymentRow: MemoryBooks.write_payment,
    EventRow: MemoryBooks.write_event,
    AlertSent: MemoryBooks.write_alert,
    Frozen: MemoryBooks.write_frozen,
}
_ANSWERS: dict[type, Callable[[MemoryBooks, Any], Any]] = {
    LoadAccount: MemoryBooks.load_account,
    ReadAccount: lambda books, question: books.read_account(question.agent_id),
    FindHold: MemoryBooks.find_hold,
    FindDeposit: MemoryBooks.find_deposit,
    FindPayment: MemoryBooks.find_payment,
    FindApproval: MemoryBooks.find_approval,
    FindBudget: lambda books, question: books.budgets.get(question.budget_id),
    ListAgents: lambda books, _: books.list_agents(),
    ActiveTokens: lambda books, _: books.active_tokens(),
    TokensOf: lambda books, question: books.active_tokens(question.agent_id),
    OrphanedHolds: lambda books, _: books.orphaned_holds(),
    UnfinishedPayments: lambda books, _: books.unfinished_payments(),
    PendingApprovals: lambda books, _: books.pending_approvals(),
    DeadEvents: MemoryBooks.dead_events,
    DueEvents: MemoryBooks.due_events,
    RemoteHolds: MemoryBooks.find_remote_holds,
    FindEvent: lambda books, question: books.outbox.get(question.event_id),
}


def _require(right: bool, wrong: str) -> None:
    """What a CHECK or a trigger of the database does."""
    if not right:
        raise Unwritable(wrong)


def _none_negative(row: object, names: tuple[str, ...]) -> bool:
    numbers = [getattr(row, name) for name in names]
    return all(number is None or number >= 0 for number in numbers)


def _lives(budget: BudgetRow, now_ns: int) -> bool:
    return budget.revoked_ns is None and (budget.expires_ns is None or budget.expires_ns > now_ns)


def _stored(row: Any) -> Any:
    """As it would be read again: what SQLite cannot hold is bent until it can."""
    bent = {name: storable(getattr(row, name)) for name in _fields_of(type(row))}
    return evolve(row, **{name: value for name, value in bent.items() if value != getattr(row, name)})


def _fields_of(kind: type) -> tuple[str, ...]:
    if kind not in _FIELDS:
        _FIELDS[kind] = tuple([attribute.name for attribute in fields(kind)])
    return _FIELDS[kind]


_FIELDS: dict[type, tuple[str, ...]] = {}
