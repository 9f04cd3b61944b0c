"""What an account's owner goes by, and what a handler of one of its messages may do.

``Books`` is what was read from disk plus everything decided since. A handler decides on it, hands over one
``AccountChange`` with ``Desk.commit``, and the books are at once as that change makes them: balances, hold, and every
row in ``also``. When the commit fails they are thrown away and read again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, Self, TypeVar

from attrs import define, evolve, field

from actors import Reply, TrioActorRef
from arbstr.accounts._day import Day
from arbstr.accounts._policy import current_policy
from arbstr.errors import ArbstrError
from arbstr.store import (
    AccountChange,
    AccountRow,
    AlertSent,
    Also,
    ApprovalRow,
    BearerRow,
    BudgetRow,
    Frozen,
    HoldChange,
    HoldRow,
    HoldState,
    Ledger,
    LoadedAccount,
    PaymentRow,
    PaymentState,
    PolicyRow,
    Question,
    StoreError,
)

A = TypeVar("A")

FINAL = frozenset({PaymentState.DENIED, PaymentState.SUCCEEDED, PaymentState.FAILED})


@define(eq=False)
class Job:
    """A message and the way back to whoever sent it."""

    message: Any
    reply: Reply
    must_end: bool = False
    """It is decided again until the ledger has taken it, for as long as that takes."""
    awaited: bool = False
    """When it was parked, somebody waited for the answer."""


@define(eq=False)
class Operation:
    """A commit under way and everybody who waits for it; repeats of a message join its operation."""

    key: str
    answer: object
    jobs: list[Job]
    tokens: tuple[BearerRow, ...] = ()
    duplicate: Callable[[Job], None] | None = None
    """What to do for each job when the ledger says that a key of the change was used before; None: refuse it."""


@define(eq=False)
class OpenHold:
    row: HoldRow
    owner: TrioActorRef[Any] | None = None
    operation: Operation | None = None
    """The last change of it, until that is on disk."""


@define(eq=False)
class _Use:
    """What the open holds of one budget hold, and how many they are."""

    held_msat: int = 0
    holds: int = 0


@define(eq=False)
class Books:
    """All that decisions about one agent go by. Amounts in msat."""

    account: AccountRow
    name: str = ""
    holds: dict[str, OpenHold] = field(factory=dict)
    """Open ones, by key."""
    policies: tuple[PolicyRow, ...] = ()
    """By version: the one that counts, and those that are to count later."""
    budgets: dict[str, BudgetRow] = field(factory=dict)
    tokens: dict[str, BearerRow] = field(factory=dict)
    """Those that are not revoked, by id."""
    payments: dict[str, PaymentRow] = field(factory=dict)
    """Those without an end, by transaction id."""
    approvals: dict[str, ApprovalRow] = field(factory=dict)
    """Those that are open, by id."""
    day: Day = field(factory=Day)
    frozen_ns: int | None = None
    last_alert_ns: int | None = None
    _use: dict[str, _Use] = field(factory=dict)

    @classmethod
    def load(cls, found: LoadedAccount) -> Self:
        books = cls(
            account=found.account,
            name=found.name,
            policies=found.policies,
            budgets={row.budget_id: row for row in found.budgets},
            tokens={row.token_id: row for row in found.tokens},
            payments={row.transaction_id: row for row in found.payments},
            approvals={row.approval_id: row for row in found.approvals},
            day=Day(found.spends),
            frozen_ns=found.frozen_ns,
            last_alert_ns=found.last_alert_ns,
        )
        for row in found.open_holds:
            books._add_hold(row)
        return books

    # What is asked of them

    def policy(self, now_ns: int) -> PolicyRow | None:
        """The version that counts."""
        return current_policy(self.policies, now_ns)

    def day_spend_msat(self, now_ns: int) -> int:
        """Charged in the last day, and everything that is still held."""
        return self.day.spent_msat(now_ns) + self.account.held_msat

    def budget_use(self, budget_id: str) -> tuple[int, int]:
        """What the open holds of a budget hold in all, and how many they are."""
        use = self._use.get(budget_id)
        return (use.held_msat, use.holds) if use else (0, 0)

    def awaits_approval(self, key: str) -> bool:
        """Whether a request's hold is an open approval's, whose id it then has as its key: nobody else may end it."""
        return key in self.approvals

    # What is done to them

    def apply(self, change: AccountChange, key: str, operation: Operation | None) -> None:
        """Be as ``change`` makes the account; ``key`` is that of its hold, if it has one."""
        self.account = change.after
        for row in change.also:
            self._write(row)
        hold = change.hold
        if isinstance(hold, HoldRow):
            self._add_hold(hold).operation = operation
        elif hold is not None:
            self._change_hold(hold, key, operation)

    def _add_hold(self, row: HoldRow) -> OpenHold:
        hold = self.holds[row.key] = OpenHold(row)
        self._count(row.budget_id, row.amount_msat, 1)
        return hold

    def _change_hold(self, change: HoldChange, key: str, operation: Operation | None) -> None:
        hold = self.holds[key]
        if change.state is not HoldState.OPEN:
            del self.holds[key]
            self._count(hold.row.budget_id, -hold.row.amount_msat, -1)
            self.day.add(change.ended_ns or 0, change.charged_msat or 0)
            return
        self._count(hold.row.budget_id, change.amount_msat - hold.row.amount_msat, 0)
        hold.operation = operation
        hold.row = evolve(
            hold.row,
            amount_msat=change.amount_msat,
            provider=change.provider,
            lease_ns=change.lease_ns,
            extensions=change.extensions,
        )

    def _count(self, budget_id: str | None, held_msat: int, holds: int) -> None:
        if budget_id is None:
            return
        use = self._use.setdefault(budget_id, _Use())
        use.held_msat += held_msat
        use.holds += holds
        if not use.holds:
            del self._use[budget_id]

    def _write(self, row: Also) -> None:
        match row:
            case BudgetRow():
                self.budgets[row.budget_id] = row
            case PaymentRow():
                _keep(self.payments, row.transaction_id, row, row.state not in FINAL)
            case ApprovalRow():
                _keep(self.approvals, row.approval_id, row, row.is_open)
            case BearerRow():
                _keep(self.tokens, row.token_id, row, row.revoked_ns is None)
            case PolicyRow():
                self.policies = (*self.policies, row)
            case Frozen():
                self.frozen_ns = row.since_ns
            case AlertSent():
                self.last_alert_ns = row.at_ns
            case _:  # an event is its deliverer's
                pass


def _keep(rows: dict[str, Any], key: str, row: object, kept: bool) -> None:
    if kept:
        rows[key] = row
    else:
        rows.pop(key, None)


class Desk(Protocol):
    """What a handler of an account's message may go by and do; the account actor is one.

    A handler is ``handler(desk, job, message)``. It awaits nothing. It answers ``job.reply``, or commits a change that
    answers it, or raises an ArbstrError or ValueError (the job is refused with that; nothing has happened).
    """

    agent_id: str
    ledger: Ledger
    lease_ns: int
    """How long a new hold is believed to live without a word from its request."""

    @property
    def books(self) -> Books:
        """Only while a handler runs; in what the ledger calls back later they may be gone."""
        ...

    def commit(
        self,
        change: AccountChange,
        job: Job | None,
        key: str,
        answer: object,
        duplicate: Callable[[Job], None] | None = None,
    ) -> Operation:
        """Hand over a decision: the books are as it makes them at once; ``job`` hears ``answer`` when it is on disk.

        ``key`` is that of the hold it makes or changes, else any name of the operation. Raises LedgerUnavailable, with
        nothing changed, when the ledger does not take it; let it pass: a job that must end is then decided again.
        """
        ...

    def look_up(self, question: Question[A], found: Callable[[A | None, StoreError | None], None]) -> None:
        """Ask the ledger, after all that was committed before; ``found(answer, error)`` comes whatever happens.

        The account does not end before. In ``found`` the books may be gone: decide by ``again``.
        """
        ...

    def again(self, job: Job) -> None:
        """Decide a job anew, now or when the books have been read: for answers that the ledger was asked for."""
        ...

    def park(self, job: Job, *, ledger_down: bool) -> None:
        """Decide a job anew after the books have been read again: what we believe is not so, or the ledger failed."""
        ...

    def refuse(self, job: Job, error: ArbstrError) -> None: ...

    def remind(self, delay_s: float, message: Any) -> None:
        """Have this account told ``message`` later, if it still lives: not to be relied upon."""
        ...


Handler = Callable[[Desk, Job, Any], None]
