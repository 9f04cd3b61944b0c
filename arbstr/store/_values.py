"""Rows as values, and the changes that the writer commits. Amounts are integers of msat, times are ns UTC.

A change is decided elsewhere (``arbstr.accounts``); the store commits it whole or not at all. Whoever decides says what
the account and the hold were like: the commit is a compare-and-set on all of that, so a decision made on anything but
what is on disk can never reach it, whichever process made it. A version alone would not do: decisions are piled on
decisions that may fail, and somebody else's change may take the number that the failed one was to have.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from attrs import frozen


@frozen
class AccountRow:
    """Balances of one agent. ``available + held + spent == deposited - withdrawn`` always (M2)."""

    agent_id: str
    version: int = 0
    available_msat: int = 0
    held_msat: int = 0
    spent_msat: int = 0
    deposited_msat: int = 0
    withdrawn_msat: int = 0
    debt_msat: int = 0
    """Charged but not covered; paid off by the next deposit, and no hold is granted until then (M4)."""


@frozen
class AgentRow:
    """An agent with its balances, for lists."""

    agent_id: str
    name: str
    created_ns: int
    available_msat: int
    held_msat: int
    spent_msat: int
    deposited_msat: int
    withdrawn_msat: int
    debt_msat: int


@frozen
class NewAgent:
    agent_id: str
    name: str
    token: str
    """Shown once; the store keeps only its hash."""


@frozen
class TokenRow:
    agent_id: str
    name: str
    token_hash: str


class HoldState(StrEnum):
    OPEN = "open"
    SETTLED = "settled"
    RELEASED = "released"


@frozen
class HoldRow:
    """Money set aside for one request. ``key`` is the caller's idempotency key (M5)."""

    hold_id: str
    key: str
    agent_id: str
    amount_msat: int
    state: HoldState
    model: str
    provider: str
    """Whom the hold was first made for; what a crash leaves behind names it."""
    created_ns: int
    lease_ns: int
    """Until when its request is believed to live."""
    extensions: int = 0
    evidence_msat: int = 0
    """What had provably been consumed at the last renewal; charged if the request never comes back (M7)."""
    charged_msat: int | None = None
    ended_ns: int | None = None
    correlation_id: str | None = None


@frozen
class HoldChange:
    """What becomes of a hold that is open on disk with ``before_msat`` in it: it grows, or it ends, once (M3)."""

    hold_id: str
    before_msat: int
    amount_msat: int
    state: HoldState
    provider: str
    lease_ns: int
    extensions: int = 0
    charged_msat: int | None = None
    ended_ns: int | None = None


class Ledger(StrEnum):
    """The accounts of the double-entry journal, per agent. Postings of one transaction sum to zero."""

    WORLD = "world"
    AVAILABLE = "available"
    HELD = "held"
    SPENT = "spent"
    DEBT = "debt"
    ARREARS = "arrears"


@frozen
class Posting:
    ledger: Ledger
    amount_msat: int


@frozen
class AuditEntry:
    action: str
    details: Mapping[str, object]


@frozen
class AttemptRow:
    """One call to one provider."""

    provider: str
    started_ns: int
    duration_us: int
    ttfb_us: int | None
    http_status: int | None
    outcome: str
    error: str | None = None


@frozen
class ReceiptRow:
    """What a request was, who answered it and what it cost. One per request that reached the choice of a provider."""

    request_id: str
    agent_id: str | None
    correlation_id: str | None
    hold_id: str | None
    started_ns: int
    duration_us: int
    model: str
    provider: str | None
    policy: str | None
    stream: bool
    outcome: str
    """``ok``, ``failed``, ``stream_incomplete``, ``client_disconnected``, ``budget_exhausted``, ``shutdown`` or
    ``crashed``."""
    http_status: int
    error: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    estimated: bool
    """True when the token counts are ours and not the provider's."""
    expected_msat: int | None
    cost_msat: int
    saved_median_msat: int | None
    saved_dearest_msat: int | None
    attempts: tuple[AttemptRow, ...] = ()
    selection: str = "{}"
    """JSON: the candidates in order with their expected cost, and those left out with the reason."""
    endpoint: str = "chat/completions"
    tier: str | None = None
    """The ceiling that was chosen under; None when it did not come to that."""
    complexity_score: float | None = None
    """None when the caller named the complexity."""
    policy_header: str | None = None
    """What the caller named, whether or not there is such a policy."""
    cached_tokens: int | None = None
    """Of the prompt tokens."""
    upstream_model: str | None = None
    """The provider's own name of the model."""
    latency_us: int | None = None
    """Of a stream until it began, of a plain answer the whole; None: as ``duration_us``."""
    error_status: int | None = None
    """Of a request that failed: the provider's status where it was the provider that failed, else ours."""
    provider_cost_msat: int | None = None
    """What the provider says it cost; nothing is paid by it."""


@frozen
class AccountChange:
    """One operation on one account: balances, postings, hold, receipt and audit row, in one transaction (M8)."""

    key: str
    """Transaction id and idempotency key of the operation."""
    kind: str
    at_ns: int
    before: AccountRow
    after: AccountRow
    postings: tuple[Posting, ...]
    audit: AuditEntry
    hold: HoldRow | HoldChange | None = None
    """A row is a new hold."""
    receipt: ReceiptRow | None = None
    """Filed with the end of a hold: agent, hold and cost are taken from this change, whatever the receipt says."""


@frozen
class HoldRenewal:
    """A longer lease and newer evidence for an open hold. Moves no money."""

    hold_id: str
    lease_ns: int
    evidence_msat: int


@frozen
class ReceiptOnly:
    """A receipt that no account paid for."""

    receipt: ReceiptRow


Change = AccountChange | HoldRenewal | ReceiptOnly


@frozen
class CheckReport:
    """What a full audit of the books found; ``problems`` is empty when they are right."""

    agents: tuple[AgentRow, ...]
    open_holds: int
    receipts_msat: int
    spent_msat: int
    debt_msat: int
    problems: tuple[str, ...]

    @property
    def clean(self) -> bool:
        return not self.problems
