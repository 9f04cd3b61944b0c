"""What an account actor is asked. Amounts in msat. A hold is named by ``key``, the request id it was made for (M5)."""

from __future__ import annotations

from typing import Protocol

from attrs import field, frozen

from arbstr.store import AccountRow, ApprovalRow, BearerRow, BudgetRow, HoldRow, PaymentRow, PolicyRow, ReceiptRow


class Owner(Protocol):
    """Whoever a hold is for: an actor, or a process on the other side of a link."""

    def is_alive(self) -> bool: ...


@frozen
class Reserve:
    """Set an upper bound aside, durably. Answer: ``Held``.

    BillingRefused with 402 (``insufficient_balance``, ``outstanding_debt``, ``budget_exhausted``), 403 (``frozen``,
    ``deny_all_policy``, ``model_not_allowed``, ``exceeds_max_transaction``, ``exceeds_daily_limit``, ``budget_ended``),
    429 (``too_many_holds``) or 409 (``key_used``, ``approval_pending``); LedgerUnavailable (503). ApprovalNeeded where
    ``RequestApproval`` would have a human asked.

    With ``approval_id`` it takes what a human has granted, once: ``Held`` names the key and the amount that were
    granted. 404 (``approval_not_found``), 409 (``approval_pending``), 403 (``approval_denied``, ``approval_timed_out``,
    ``approval_used``, ``approval_mismatch``), and what the policy says against it by now.
    """

    key: str
    amount_msat: int
    model: str
    provider: str
    correlation_id: str | None = None
    owner: Owner | None = None
    """Whose life keeps the hold: it is not taken for lost while this actor lives."""
    budget_id: str | None = None
    """Of the token that asks: it may spend from this budget only."""
    lease_s: float | None = None
    """Kept so long without a sign of life; None: as long as the account is told for all."""
    approval_id: str | None = None
    owed_msat: int | None = None
    """What has been used already and is to be charged: no policy, limit or budget is asked, and the amount must be 0.
    It is the evidence from the beginning: whatever becomes of the asker, it is charged when the lease runs out."""


@frozen
class Extend:
    """Raise an open hold to ``to_msat`` in all. Same answers as ``Reserve``; a hold that is larger already stays.

    The limit of one transaction is for the whole hold.
    """

    key: str
    to_msat: int
    provider: str
    lease_s: float | None = None


@frozen
class Renew:
    """Lengthen the lease and record what has been consumed so far. A tell."""

    key: str
    evidence_msat: int
    lease_s: float | None = None
    owner: Owner | None = None
    """Whose the hold is from now on; None: whose it was."""


@frozen
class Settle:
    """End the hold by charging ``charge_msat``. Answer: ``Ended``, once it is on disk.

    A repeat with the same amount is answered like the first; with another, BillingRefused (409) (M3). A release is a
    charge of 0. A hold that is not there, or is another agent's, is BillingRefused (404).
    """

    key: str
    charge_msat: int
    receipt: ReceiptRow


@frozen
class Release:
    """End the hold without a charge. Answer: ``Ended``; also for a key that never held anything: the receipt is filed.

    Sent as a tell by an asker that was cancelled before it learned whether its ``Reserve`` went through. What an
    approval that is open holds is given back only by ``withdraw``: then nobody need decide any more. Else the receipt
    is filed and the approval stays open; without a receipt it is BillingRefused (409 ``approval_pending``).
    """

    key: str
    reason: str
    receipt: ReceiptRow | None
    withdraw: bool = False


@frozen
class Deposit:
    """Credit the account. Answer: ``AccountRow`` once on disk.

    A repeat with the same ``key`` changes nothing; with another amount or for another agent, BillingRefused (409).
    """

    key: str
    amount_msat: int


@frozen
class Balance:
    """Answer: ``AccountRow`` as decided, which may be a commit ahead of the disk."""


@frozen
class Sweep:
    """Resolve holds whose lease has run out and whose owner is gone (M7). A tell.

    An account with nothing left to do, that nobody has asked for a while, ends itself; it is started on demand.
    """


@frozen
class Disown:
    """``owner`` has died: resolve what it held now, whatever the lease (M7). A tell."""

    owner: Owner


# By the operator


@frozen
class SetPolicy:
    """Add a version of the policy. Answer: ``PolicyRow``. Negative numbers are InvalidRequest (422).

    ``keep`` names fields that are as in the latest version, whatever is said here: for a caller that knows only some.
    """

    max_transaction_msat: int | None = None
    daily_limit_msat: int | None = None
    max_fee_msat: int | None = None
    approval_timeout_ms: int | None = None
    alert_floor_msat: int | None = None
    alert_cooldown_ms: int | None = None
    models: tuple[str, ...] = ()
    max_holds: int | None = None
    effective_ns: int | None = None
    """From when on it counts; None or past: at once."""
    keep: frozenset[str] = frozenset()


@frozen
class Freeze:
    """Nothing can be held, extended or paid any more; what is open ends as it may. Answer: ``AccountView``."""

    reason: str = ""


@frozen
class Unfreeze:
    """Answer: ``AccountView``."""


@frozen
class MintBudget:
    """Let a new token spend a part of the account, up to ``amount_msat`` in all. Answer: ``MintedBudget``.

    It is a cap, not money set aside, and not above what is available now: else BillingRefused (402). 403 when the agent
    is frozen, 429 (``too_many_budgets``).
    """

    name: str
    amount_msat: int
    models: tuple[str, ...] = ()
    max_holds: int | None = None
    expires_ns: int | None = None


@frozen
class RevokeBudget:
    """End a budget and its tokens; its open holds end as they may. Answer: ``BudgetRow``; NotFound (404)."""

    budget_id: str


@frozen
class IssueToken:
    """One more token for the agent, or for a budget of it. Answer: ``IssuedToken``; NotFound for the budget, 429."""

    name: str = ""
    expires_ns: int | None = None
    budget_id: str | None = None


@frozen
class RotateToken:
    """A new token in the place of an old one, which ends now or ``grace_s`` later. Answer: ``IssuedToken``; 404."""

    token_id: str
    grace_s: float = 0.0


@frozen
class RevokeToken:
    """Answer: ``BearerRow``, as it is now; NotFound (404) when there is none, or it has ended."""

    token_id: str


@frozen
class Describe:
    """Answer: ``AccountView``."""


@frozen
class IssuedToken:
    row: BearerRow
    token: str = field(repr=False)
    """Shown once."""


@frozen
class MintedBudget:
    budget: BudgetRow
    token: IssuedToken


@frozen
class AccountView:
    """One agent as decided, which may be a commit ahead of the disk."""

    account: AccountRow
    name: str
    day_spend_msat: int
    """Charged in the last 24 hours, and held."""
    policy: PolicyRow | None
    """The version that counts."""
    coming_policies: tuple[PolicyRow, ...]
    frozen_ns: int | None
    holds: tuple[HoldRow, ...]
    budgets: tuple[BudgetRow, ...]
    """Not revoked, not expired, or still holding something."""
    tokens: tuple[BearerRow, ...]
    payments: tuple[PaymentRow, ...]
    """Those without an end."""
    approvals: tuple[ApprovalRow, ...]
    """Those that are pending."""


# Answers


@frozen
class Held:
    key: str
    amount_msat: int
    available_msat: int


@frozen
class Ended:
    """A hold's end. ``charged_msat`` is 0 for a release; ``debt_msat`` is what could not be covered."""

    key: str
    charged_msat: int
    available_msat: int
    debt_msat: int
    recorded: bool = True
    """False when there was no hold to end and the receipt could not be filed."""
