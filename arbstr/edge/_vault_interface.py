"""What the vault's pages ask for: one call per command, values in and out. Who keeps the promises is elsewhere.

All amounts are msat, all times ns UTC. A command is on disk when it returns. Each raises ArbstrError: NotFound for an
agent, approval, token, budget, event or reservation that is not there; BillingRefused with the ``reason`` of a refusal
(402, 403, 429) or of a conflict (409); LedgerUnavailable when nothing has happened and the caller may ask again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar

from attrs import field, frozen

from arbstr.accounts import Holder
from arbstr.secrets import Secret
from arbstr.store import ApprovalRow, BearerRow, BudgetRow, Connection, EventRow, PaymentRow, PolicyRow

T = TypeVar("T")


@frozen
class Registered:
    agent_id: str
    token: str = field(repr=False)
    created_ns: int


@frozen
class PolicyWish:
    """A new version of a policy; ``keep`` names the fields that are to stay as they are in the latest one."""

    max_transaction_msat: int | None = None
    daily_limit_msat: int | None = None
    max_fee_msat: int | None = None
    approval_timeout_ms: int | None = None
    alert_floor_msat: int | None = None
    alert_cooldown_ms: int | None = None
    models: tuple[str, ...] = ()
    max_holds: int | None = None
    keep: frozenset[str] = frozenset()


@frozen
class Deposited:
    transaction_id: str
    balance_msat: int
    """Beside the holds; negative while there is a debt."""


@frozen
class PayWish:
    amount_msat: int
    asset: str
    purpose: str
    destination_type: str
    destination: str
    preferred_rail: str | None = None


@frozen
class Resolved:
    approval: ApprovalRow
    payment: PaymentRow | None
    """None when it was a request's."""


@frozen
class Reserved:
    reservation_id: str
    amount_msat: int
    remaining_msat: int
    agent_id: str | None = None
    """Whose it is, for a core that knows only the token."""
    lease_s: float | None = None
    """Without a sign of life it is kept so long."""


@frozen
class Usage:
    """What a settlement says of the request it is for."""

    tokens_in: int | None
    tokens_out: int | None
    provider: str
    latency_ms: int


@frozen
class Settled:
    held_msat: int
    charged_msat: int
    remaining_msat: int
    debt_msat: int = 0
    """What the balance did not cover."""


@frozen
class BudgetWish:
    name: str
    amount_msat: int
    models: tuple[str, ...] = ()
    max_holds: int | None = None
    expires_in_s: int | None = None


@frozen
class IssuedToken:
    row: BearerRow
    token: str = field(repr=False)
    """Shown once."""


@frozen
class MintedBudget:
    budget: BudgetRow
    token: IssuedToken


class VaultServices(Protocol):
    """The commands. What is only read goes through ``read``."""

    @property
    def admin_token(self) -> Secret | None:
        """None, or shorter than 32 characters: the operator's routes do not exist."""

    @property
    def internal_token(self) -> Secret | None:
        """None: the ``/internal`` routes do not exist."""

    def holder_of(self, token: str) -> Holder | None:
        """Whose token it is; None when it is nobody's, or has expired. In a time that says nothing about any token."""

    def now_ns(self) -> int: ...

    async def read(self, function: Callable[[Connection], T]) -> T:
        """Run a query off the event loop. Raises StoreError."""

    # By the operator

    async def register(self, name: str, metadata: Mapping[str, str] | None) -> Registered: ...

    async def set_policy(self, agent_id: str, wish: PolicyWish) -> PolicyRow: ...

    async def deposit(self, agent_id: str, amount_msat: int, key: str | None) -> Deposited:
        """A repeat of the key has the first one's transaction id, and credits nothing."""

    async def freeze(self, agent_id: str, reason: str) -> int:
        """Since when it is frozen."""

    async def unfreeze(self, agent_id: str) -> None: ...

    async def issue_token(self, agent_id: str, name: str, expires_in_s: int | None) -> IssuedToken: ...

    async def rotate_token(self, agent_id: str, token_id: str, grace_s: int) -> IssuedToken:
        """A new token in the place of an old one, which ends after the grace."""

    async def revoke_token(self, agent_id: str, token_id: str) -> BearerRow: ...

    async def approve(self, approval_id: str, by: str, reason: str | None) -> Resolved:
        """``by`` and ``reason`` are for the audit log."""

    async def deny(self, approval_id: str, by: str, reason: str | None) -> Resolved: ...

    async def replay(self, event_id: str) -> EventRow: ...

    # By an agent

    async def pay(self, agent_id: str, wish: PayWish, key: str | None, wait_s: float | None) -> PaymentRow:
        """As it is after at most ``wait_s``; None: as long as the vault waits for a wallet by itself."""

    async def withdraw(self, agent_id: str, amount_msat: int, destination: str, key: str | None) -> PaymentRow:
        """Waiting for its approval. A refusal is BillingRefused with the policy's reason."""

    async def mint_budget(self, agent_id: str, wish: BudgetWish) -> MintedBudget: ...

    async def revoke_budget(self, agent_id: str, budget_id: str) -> BudgetRow: ...

    # By a routing core

    async def reserve(self, agent_token: str, amount_msat: int, correlation_id: str, model: str) -> Reserved:
        """AuthenticationFailed when it is nobody's token. The same correlation id gives the same hold; an empty one
        names nothing."""

    async def extend(self, reservation_id: str, to_msat: int) -> Reserved: ...

    async def settle(self, reservation_id: str, actual_msat: int, usage: Usage) -> Settled: ...

    async def release(self, reservation_id: str, reason: str) -> None: ...
