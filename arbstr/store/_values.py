"""Rows as values, and the changes that the writer commits. Amounts are integers of msat, times are ns UTC.

A change is decided elsewhere (``arbstr.accounts``); the store commits it whole or not at all. Whoever decides says what
the account and the hold were like: the commit is a compare-and-set on all of that, so a decision made on anything but
what is on disk can never reach it, whichever process made it. A version alone would not do: decisions are piled on
decisions that may fail, and somebody else's change may take the number that the failed one was to have.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from attrs import field, frozen


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
    token: str = field(repr=False)
    """Shown once; the store keeps only its hash."""


@frozen
class TokenRow:
    """A token that is not revoked, and whose it is."""

    agent_id: str
    name: str
    """Of the agent."""
    token_hash: str
    token_id: str = ""
    budget_id: str | None = None
    expires_ns: int | None = None


@frozen
class PolicyRow:
    """One version of what an agent may do; versions are only added. Limits in msat, None: no such limit.

    The version that counts is the highest whose ``effective_ns`` has come. Version 1 is made with the agent: 0 and 0,
    and by nobody's decision (``set_by_operator`` False).
    """

    agent_id: str
    version: int
    max_transaction_msat: int | None = None
    daily_limit_msat: int | None = None
    max_fee_msat: int | None = None
    approval_timeout_ms: int | None = None
    """What exceeds ``max_transaction_msat`` waits this long for a human; None: it is refused."""
    alert_floor_msat: int | None = None
    alert_cooldown_ms: int | None = None
    models: tuple[str, ...] = ()
    """Empty: any."""
    max_holds: int | None = None
    """Open at once."""
    set_by_operator: bool = True
    effective_ns: int = 0
    created_ns: int = 0


@frozen
class BudgetRow:
    """A part of an agent's account that a token of its own may spend: a cap, not money set aside.

    ``spent_msat`` is what has been charged; what its open holds hold is in ``holds``.
    """

    budget_id: str
    agent_id: str
    name: str
    amount_msat: int
    spent_msat: int = 0
    models: tuple[str, ...] = ()
    max_holds: int | None = None
    expires_ns: int | None = None
    created_ns: int = 0
    revoked_ns: int | None = None


@frozen
class BearerRow:
    """A token, by its hash. One with a ``budget_id`` spends from that budget only."""

    token_id: str
    token_hash: str
    agent_id: str
    name: str
    budget_id: str | None = None
    created_ns: int = 0
    expires_ns: int | None = None
    revoked_ns: int | None = None


class ApprovalStatus(StrEnum):
    PENDING = "pending"
    APPROVED = "approved"
    DENIED = "denied"
    TIMED_OUT = "timed_out"
    """Nobody decided in time; or, of a request, nobody came for what was granted."""
    USED = "used"
    """Of a request: what was granted has been taken, once."""


@frozen
class ApprovalRow:
    """A question to a human. ``kind`` is ``payment``, ``withdrawal`` or ``request``.

    A payment goes on by itself when it is approved. A request has to come for its money: it is *open* until it has, or
    until ``expires_ns``, which is then the time for that.
    """

    approval_id: str
    agent_id: str
    kind: str
    transaction_id: str
    amount_msat: int
    destination: str | None
    status: ApprovalStatus
    created_ns: int
    expires_ns: int
    resolved_ns: int | None = None
    decided_by: str | None = None
    reason: str | None = None

    @property
    def is_open(self) -> bool:
        """It waits for a human, or for the request that a human has allowed; money is held for it."""
        granted = self.status is ApprovalStatus.APPROVED and self.kind == "request"
        return granted or self.status is ApprovalStatus.PENDING


class PaymentState(StrEnum):
    """Of a payment's life; ``_machine`` in ``arbstr.accounts`` says which follows which."""

    DENIED = "denied"
    PENDING_APPROVAL = "pending_approval"
    HELD = "held"
    """Money is set aside and the wallet has not been asked: a crash here means that nothing was sent."""
    SENDING = "sending"
    """The wallet has been asked, or is about to be: only it knows what came of it."""
    UNKNOWN = "unknown"
    """It was asked and has not said; it is asked again until it says."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@frozen
class PaymentRow:
    """Money that leaves, by an agent's wish. ``transaction_id`` is also the key of its hold and for the wallet."""

    transaction_id: str
    agent_id: str
    kind: str
    """``payment`` or ``withdrawal``."""
    amount_msat: int
    state: PaymentState
    created_ns: int
    updated_ns: int
    key: str | None = None
    """The caller's idempotency key; one per agent."""
    fee_limit_msat: int = 0
    fee_msat: int | None = None
    asset: str | None = None
    purpose: str | None = None
    destination_type: str | None = None
    destination: str | None = None
    preferred_rail: str | None = None
    first_rail: str | None = None
    rail: str | None = None
    """Where it was sent last: another than the first one after a fallback."""
    decision: str | None = None
    reason: str | None = None
    payment_hash: str | None = None
    preimage: str | None = None
    error: str | None = None
    approval_id: str | None = None
    settled_ns: int | None = None
    fingerprint: str = ""
    """Of what was asked for: a repeat of the key with another one is refused."""


class EventState(StrEnum):
    PENDING = "pending"
    DELIVERED = "delivered"
    DEAD = "dead"


@frozen
class EventRow:
    """Something that the operator's webhook is told. ``body`` is what is signed and sent, byte for byte."""

    event_id: str
    event: str
    agent_id: str
    body: str
    created_ns: int
    due_ns: int
    attempts: int = 0
    state: EventState = EventState.PENDING
    last_error: str | None = None
    ended_ns: int | None = None


@frozen
class AlertSent:
    """When an agent's balance alert was last raised: its cooldown outlives the process."""

    agent_id: str
    at_ns: int


@frozen
class Frozen:
    """An agent that may not spend (``since_ns``), or may again (None)."""

    agent_id: str
    since_ns: int | None


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
    kind: str = "request"
    """``request``, ``payment`` or ``withdrawal``: what may end it."""
    budget_id: str | None = None


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


class LedgerAccount(StrEnum):
    """The accounts of the double-entry journal, per agent. Postings of one transaction sum to zero."""

    WORLD = "world"
    AVAILABLE = "available"
    HELD = "held"
    SPENT = "spent"
    DEBT = "debt"
    ARREARS = "arrears"


@frozen
class Posting:
    ledger: LedgerAccount
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
    """``ok``, ``failed``, ``stream_incomplete``, ``client_disconnected``, ``budget_exhausted``, ``pending_approval``,
    ``shutdown`` or ``crashed``."""
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
class AgentAdded:
    """A new agent with an empty account, its first token and the first version of its policy, in one transaction."""

    agent_id: str
    name: str
    token: BearerRow
    policy: PolicyRow
    at_ns: int
    metadata: str | None = None
    """A JSON object, for whoever registered it."""


Also = PolicyRow | BudgetRow | BearerRow | ApprovalRow | PaymentRow | EventRow | AlertSent | Frozen
"""What may be written in the transaction of a change of an account. A policy is only ever added; the others replace the
row of their key, which only the account's owner writes."""


@frozen
class AccountChange:
    """One operation on one account: balances, postings, hold, receipt and audit row, in one transaction (M8)."""

    key: str
    """Transaction id and idempotency key of the operation."""
    kind: str
    """``reserve`` makes a hold; ``settle``, ``release`` and ``resolve`` end one; others have nothing to do with holds'
    ends, like ``deposit``, ``extend`` and ``policy``."""
    at_ns: int
    before: AccountRow
    after: AccountRow
    postings: tuple[Posting, ...]
    audit: AuditEntry
    hold: HoldRow | HoldChange | None = None
    """A row is a new hold."""
    receipt: ReceiptRow | None = None
    """Filed with the end of a hold: agent, hold and cost are taken from this change, whatever the receipt says."""
    also: tuple[Also, ...] = ()
    """Rows of the same agent that are written with it, in this order and before the hold: new ones by their key, those
    that exist replaced whole."""


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


@frozen
class EventProgress:
    """What became of telling an event: its attempts, state, due time and last error are replaced."""

    event: EventRow


class RemoteHoldState(StrEnum):
    OPEN = "open"
    """Its request lives, or the process that it lived in has died."""
    ENDING = "ending"
    """It has ended, and the vault is to be told of it until it has heard."""
    DEAD = "dead"
    """The vault will not take its end: somebody has to look into it."""


@frozen
class RemoteHoldRow:
    """What a vault in another process holds for a request of ours. It is forgotten when the vault has heard of its end.

    No row of the journal: the money is in the vault's books, this is what we owe it word of.
    """

    reservation_id: str
    """The vault's name for it."""
    key: str
    """The request id."""
    agent_id: str
    """As receipts have it."""
    amount_msat: int
    model: str
    provider: str
    created_ns: int
    state: RemoteHoldState = RemoteHoldState.OPEN
    evidence_msat: int = 0
    """What had provably been consumed at the last renewal; charged if the request never comes back (M7)."""
    charge_msat: int | None = None
    """What it ended with; 0 is a release."""
    tokens_in: int | None = None
    tokens_out: int | None = None
    latency_ms: int = 0
    reason: str = ""
    """Of a release."""
    attempts: int = 0
    """To tell the vault of the end."""
    last_error: str | None = None
    correlation_id: str | None = None


@frozen
class KeepRemoteHold:
    """Write the row, in the place of the one of its id, and the receipt of its request with it.

    A receipt that is there already for the same hold is left as it is.
    """

    hold: RemoteHoldRow
    receipt: ReceiptRow | None = None


@frozen
class DropRemoteHold:
    """The vault has heard of its end."""

    reservation_id: str


Change = AccountChange | HoldRenewal | ReceiptOnly | AgentAdded | EventProgress | KeepRemoteHold | DropRemoteHold


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
