"""What account owners need of the books: changes committed whole, questions answered after them.

``Store`` keeps it on disk, ``MemoryLedger`` in dictionaries for simulations; both refuse the same changes with the same
errors. Questions are values, so that neither side knows how the other works.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from attrs import frozen

from arbstr.store._errors import StoreError
from arbstr.store._values import (
    AccountRow,
    AgentRow,
    ApprovalRow,
    BearerRow,
    BudgetRow,
    Change,
    EventRow,
    HoldRow,
    PaymentRow,
    PolicyRow,
    RemoteHoldRow,
    RemoteHoldState,
    TokenRow,
)

A = TypeVar("A")

DAY_NS = 86_400_000 * 1_000_000
"""The rolling day: what ended strictly later than this long ago counts (contract: vault, section 7.3)."""

Committed = Callable[[Any, StoreError | None], None]
"""Called once, with (None, None) when the change is committed or (None, error). Must not raise."""


class Question(Generic[A]):
    """Something to be asked of a ledger; ``A`` is what the answer is."""


@frozen
class LoadAccount(Question["LoadedAccount"]):
    """All that an account's owner goes by, in as much time as there is of it. UnknownAgent when there is none."""

    agent_id: str
    now_ns: int


@frozen
class LoadedAccount:
    account: AccountRow
    open_holds: tuple[HoldRow, ...] = ()
    policies: tuple[PolicyRow, ...] = ()
    """By version: the one that counts now, and those that are to count later."""
    budgets: tuple[BudgetRow, ...] = ()
    """Those that are neither revoked nor expired, and those of open holds."""
    payments: tuple[PaymentRow, ...] = ()
    """Those without an end, oldest first."""
    approvals: tuple[ApprovalRow, ...] = ()
    """Those that are open, oldest first."""
    spends: tuple[tuple[int, int], ...] = ()
    """When a hold ended and what it was charged, oldest first: all of the last day that were charged anything."""
    frozen_ns: int | None = None
    last_alert_ns: int | None = None
    name: str = ""
    """Of the agent."""
    tokens: tuple[BearerRow, ...] = ()
    """Those that are neither revoked nor expired."""


@frozen
class ReadAccount(Question[AccountRow]):
    """The balances alone. UnknownAgent when there is none."""

    agent_id: str


@frozen
class FindHold(Question[HoldRow | None]):
    """By the key it was made with, or by its id; open or ended."""

    key: str | None = None
    hold_id: str | None = None


@frozen
class FindDeposit(Question["FoundDeposit | None"]):
    """The deposit that was made with this key."""

    key: str


@frozen
class FoundDeposit:
    amount_msat: int
    account: AccountRow
    """Whose it was, as it is now."""


@frozen
class FindPayment(Question[PaymentRow | None]):
    """By its transaction id, or by an agent and its idempotency key."""

    transaction_id: str | None = None
    agent_id: str | None = None
    key: str | None = None


@frozen
class FindApproval(Question[ApprovalRow | None]):
    """By its id, or the newest for a transaction."""

    approval_id: str | None = None
    transaction_id: str | None = None


@frozen
class FindBudget(Question[BudgetRow | None]):
    """Whatever has become of it."""

    budget_id: str


@frozen
class ListAgents(Question[tuple[AgentRow, ...]]):
    """All agents with their balances, by id."""


@frozen
class ActiveTokens(Question[tuple[TokenRow, ...]]):
    """Tokens that are not revoked, expired or not: the owner of the list looks at its clock."""


@frozen
class TokensOf(Question[tuple[TokenRow, ...]]):
    """The active tokens of one agent."""

    agent_id: str


@frozen
class OrphanedHolds(Question[tuple[HoldRow, ...]]):
    """Open holds of requests that are not an open approval's: at start nobody owns these."""


@frozen
class UnfinishedPayments(Question[tuple[PaymentRow, ...]]):
    """Of all agents, oldest first: what a start has to take up again."""


@frozen
class PendingApprovals(Question[tuple[ApprovalRow, ...]]):
    """Those that are open, of all agents, the one that expires first first."""


@frozen
class DueEvents(Question[tuple[EventRow, ...]]):
    """Events to be told, the one due first first; ``now_ns`` None: also those that are due later."""

    now_ns: int | None
    limit: int


@frozen
class DeadEvents(Question[tuple[EventRow, ...]]):
    """Events that could not be told, newest first; ``before``: only those with a smaller id, for the next page."""

    limit: int
    before: str | None = None


@frozen
class FindEvent(Question[EventRow | None]):
    event_id: str


@frozen
class RemoteHolds(Question[tuple[RemoteHoldRow, ...]]):
    """Holds at a vault in another process that are in this state, oldest first."""

    state: RemoteHoldState


class Ledger(Protocol):
    """Commits changes in the order they were submitted, many at once, and answers what is asked after them."""

    def submit(self, change: Change, done: Committed | None = None) -> None:
        """Queue a change; ``done(None, error or None)`` comes when it is committed or refused. Never blocks.

        Raises StoreUnavailable when it is not taken. Once queued it is committed whether or not anyone waits.
        ``error`` is a ``Refused`` when the change is at fault, and StoreUnavailable when the disk is.
        """

    def ask(self, question: Question[A], done: Callable[[A | None, StoreError | None], None]) -> None:
        """Answer after all that was submitted before; ``done(answer, error)``. Raises StoreUnavailable like submit."""

    # For start-up and the command line: both wait, and everything submitted before has been answered when they return

    def commit_now(self, change: Change) -> None:
        """Commit one change. Raises what ``submit`` raises or answers."""

    def ask_now(self, question: Question[A]) -> A:
        """Raises the StoreError of an answer that could not be given."""
