"""The vault's commands as messages to whoever keeps them: accounts, payments, approvals, webhooks.

Knows which message a command is and what an answer means for the caller; decides nothing about money.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import trio
from attrs import asdict, evolve, frozen

from actors import ActorDeadError, AskTimeout, InboxFull, SystemNotRunning, TrioActorRef
from arbstr.accounts import (
    Accounts,
    Approvals,
    Decided,
    Deposit,
    Ended,
    Extend,
    Freeze,
    Held,
    Holder,
    IssueToken,
    MintBudget,
    Payments,
    Release,
    Replay,
    Reserve,
    Resolve,
    RevokeBudget,
    RevokeToken,
    RotateToken,
    SendPayment,
    SetPolicy,
    Settle,
    Unfreeze,
    Webhooks,
)
from arbstr.accounts import IssuedToken as Issued
from arbstr.accounts import MintedBudget as Minted
from arbstr.edge._vault_interface import (
    BudgetWish,
    Deposited,
    IssuedToken,
    MintedBudget,
    PayWish,
    PolicyWish,
    Registered,
    Reserved,
    Resolved,
    Settled,
    Usage,
)
from arbstr.errors import AuthenticationFailed, BillingRefused, ClientError, LedgerUnavailable, NotFound
from arbstr.secrets import Secret
from arbstr.store import (
    AccountRow,
    BearerRow,
    BudgetRow,
    Connection,
    EventRow,
    FindHold,
    HoldRow,
    HoldState,
    PaymentRow,
    PolicyRow,
    Question,
    ReceiptRow,
    Store,
    StoreError,
    StoreUnavailable,
    derived_hold_id,
    find_agent,
    find_receipt,
    new_hold_id,
)

T = TypeVar("T")

NS = 1_000_000_000

PAY_WAIT_S = 30.0
"""For the wallet, unless the caller says how long; the payment goes on in any case."""
MARGIN_S = 15.0
"""Beyond that wait, for the decisions before and after it."""
EXECUTION_WAIT_S = 35.0
LEDGER_S = 10.0

_UNANSWERED = (ActorDeadError, AskTimeout, InboxFull, SystemNotRunning)


@frozen
class AccountsVault:
    """Accounts in this process (``arbstr.edge.VaultServices``). ``webhooks`` None: nobody is told of events."""

    accounts: Accounts
    store: Store
    payments: TrioActorRef[Payments]
    approvals: TrioActorRef[Approvals]
    webhooks: TrioActorRef[Webhooks] | None = None
    admin_token: Secret | None = None
    internal_token: Secret | None = None
    reservation_lease_s: float = 3_600.0
    """A reservation of another process is kept so long after its last sign of life."""

    def holder_of(self, token: str) -> Holder | None:
        return self.accounts.holder_of(token)

    def now_ns(self) -> int:
        return time.time_ns()

    async def read(self, function: Callable[[Connection], T]) -> T:
        return await self.store.read(function)

    # By the operator

    async def register(self, name: str, metadata: Mapping[str, str] | None) -> Registered:
        made = await self.accounts.add(name, metadata)
        row = await self.store.read(lambda db: find_agent(db, made.agent_id))
        return Registered(made.agent_id, made.token, row.created_ns if row else self.now_ns())

    async def set_policy(self, agent_id: str, wish: PolicyWish) -> PolicyRow:
        row: PolicyRow = await self.accounts.ask(agent_id, SetPolicy(**asdict(wish)))
        return row

    async def deposit(self, agent_id: str, amount_msat: int, key: str | None) -> Deposited:
        transaction_id = new_hold_id() if key is None else derived_hold_id("deposit", agent_id, key)
        account: AccountRow = await self.accounts.ask(agent_id, Deposit(transaction_id, amount_msat))
        return Deposited(transaction_id, account.available_msat - account.debt_msat)

    async def freeze(self, agent_id: str, reason: str) -> int:
        view = await self.accounts.ask(agent_id, Freeze(reason))
        return int(view.frozen_ns)

    async def unfreeze(self, agent_id: str) -> None:
        await self.accounts.ask(agent_id, Unfreeze())

    async def issue_token(self, agent_id: str, name: str, expires_in_s: int | None) -> IssuedToken:
        return _issued(await self.accounts.ask(agent_id, IssueToken(name, self._in(expires_in_s))))

    async def rotate_token(self, agent_id: str, token_id: str, grace_s: int) -> IssuedToken:
        return _issued(await self.accounts.ask(agent_id, RotateToken(token_id, float(grace_s))))

    async def revoke_token(self, agent_id: str, token_id: str) -> BearerRow:
        row: BearerRow = await self.accounts.ask(agent_id, RevokeToken(token_id))
        return row

    async def approve(self, approval_id: str, by: str, reason: str | None) -> Resolved:
        return await self._resolve(Resolve(approval_id, "approve", by, reason, wait_s=EXECUTION_WAIT_S))

    async def deny(self, approval_id: str, by: str, reason: str | None) -> Resolved:
        return await self._resolve(Resolve(approval_id, "deny", by, reason))

    async def _resolve(self, message: Resolve) -> Resolved:
        decided: Decided = await _ask_actor(self.approvals, message, 2 * message.wait_s + MARGIN_S)
        return Resolved(decided.approval, decided.payment)

    async def replay(self, event_id: str) -> EventRow:
        if self.webhooks is None:
            message = "no [vault] webhook_url is configured, so nobody is told"
            raise ClientError(message, status=409, reason="no_webhook")
        event: EventRow = await _ask_actor(self.webhooks, Replay(event_id), LEDGER_S)
        return event

    # By an agent

    async def pay(self, agent_id: str, wish: PayWish, key: str | None, wait_s: float | None) -> PaymentRow:
        wait_s = PAY_WAIT_S if wait_s is None else wait_s
        message = SendPayment(
            agent_id,
            wish.amount_msat,
            wish.destination,
            asset=wish.asset,
            purpose=wish.purpose,
            destination_type=wish.destination_type,
            preferred_rail=wish.preferred_rail,
            key=key,
            wait_s=wait_s,
        )
        row: PaymentRow = await _ask_actor(self.payments, message, wait_s + MARGIN_S)
        return row

    async def withdraw(self, agent_id: str, amount_msat: int, destination: str, key: str | None) -> PaymentRow:
        message = SendPayment(agent_id, amount_msat, destination, key=key, kind="withdrawal", wait_s=0.0)
        row: PaymentRow = await _ask_actor(self.payments, message, MARGIN_S)
        if row.decision == "DENY":
            raise BillingRefused("the policy denies it", status=400, reason=row.reason)
        return row

    async def mint_budget(self, agent_id: str, wish: BudgetWish) -> MintedBudget:
        message = MintBudget(wish.name, wish.amount_msat, wish.models, wish.max_holds, self._in(wish.expires_in_s))
        made: Minted = await self.accounts.ask(agent_id, message)
        return MintedBudget(made.budget, _issued(made.token))

    async def revoke_budget(self, agent_id: str, budget_id: str) -> BudgetRow:
        row: BudgetRow = await self.accounts.ask(agent_id, RevokeBudget(budget_id))
        return row

    # By a routing core

    async def reserve(self, agent_token: str, amount_msat: int, correlation_id: str, model: str) -> Reserved:
        holder = self.accounts.holder_of(agent_token)
        if holder is None:
            raise AuthenticationFailed("Invalid agent token")
        key = derived_hold_id("reserve", holder.agent_id, correlation_id) if correlation_id else new_hold_id()
        message = Reserve(
            key,
            amount_msat,
            model,
            provider="",
            correlation_id=correlation_id or None,
            budget_id=holder.budget_id,
            lease_s=self.reservation_lease_s,
        )
        held: Held = await self.accounts.ask(holder.agent_id, message)
        if held.amount_msat != amount_msat:
            raise BillingRefused(
                f"the correlation id {correlation_id!r} holds {held.amount_msat} msat already; use another one",
                status=409,
                reason="key_used",
            )
        return Reserved(key, held.amount_msat, held.available_msat, holder.agent_id, self.reservation_lease_s)

    async def extend(self, reservation_id: str, to_msat: int) -> Reserved:
        hold = await self._reservation(reservation_id)
        message = Extend(hold.key, to_msat, hold.provider, self.reservation_lease_s)
        held: Held = await self.accounts.ask(hold.agent_id, message)
        return Reserved(reservation_id, held.amount_msat, held.available_msat)

    async def settle(self, reservation_id: str, actual_msat: int, usage: Usage) -> Settled:
        hold = await self._reservation(reservation_id)
        if hold.state is HoldState.RELEASED:
            return await self._settle_late(hold, actual_msat, usage)
        message = Settle(hold.key, actual_msat, _receipt(hold, usage, actual_msat))
        try:
            ended: Ended = await self.accounts.ask(hold.agent_id, message)
        except BillingRefused as error:
            if error.reason != "ended_otherwise" or hold.state is not HoldState.OPEN:
                raise
            return await self._settle_overtaken(reservation_id, actual_msat, usage, error)
        if not actual_msat and hold.state is HoldState.OPEN:
            # That is also what the account says when the hold was given back before.
            hold = await self._reservation(reservation_id)
            if hold.state is HoldState.RELEASED:
                return await self._settle_late(hold, actual_msat, usage)
        return Settled(hold.amount_msat, ended.charged_msat, ended.available_msat, ended.debt_msat)

    async def _settle_overtaken(
        self, reservation_id: str, actual_msat: int, usage: Usage, refusal: BillingRefused
    ) -> Settled:
        """It was open when we looked, and has ended since: by its core, or because its lease ran out."""
        hold = await self._reservation(reservation_id)
        if hold.state is HoldState.OPEN:
            raise LedgerUnavailable("the end of the reservation was not written; ask again", retry_after_s=1)
        if hold.state is HoldState.SETTLED:
            raise refusal
        return await self._settle_late(hold, actual_msat, usage)

    async def _settle_late(self, hold: HoldRow, actual_msat: int, usage: Usage) -> Settled:
        """A core that could not reach us has used what we gave back in the meantime: it is charged all the same.

        What its core has released itself is a conflict.
        """
        if not await self._lost_its_lease(hold):
            raise _ended(hold, "released")
        key = await self._hold_late(hold, actual_msat, usage.provider)
        receipt = evolve(_receipt(hold, usage, actual_msat), request_id=key, error=f"settled late: {hold.key}")
        ended: Ended = await self.accounts.ask(hold.agent_id, Settle(key, actual_msat, receipt))
        return Settled(actual_msat, ended.charged_msat, ended.available_msat, ended.debt_msat)

    async def _lost_its_lease(self, hold: HoldRow) -> bool:
        """Whether it was we who ended it; the last word on it is then its core's."""
        found = await self.store.read(lambda db: find_receipt(db, hold.key, hold.agent_id))
        return found is not None and found.receipt.outcome == "crashed"

    async def _hold_late(self, hold: HoldRow, owed_msat: int, provider: str) -> str:
        """The key of a hold for the end of one whose lease has run out.

        A hold ends once (M3), so this is another one, for nothing. Whoever comes first says how it ends: all that come
        later are repeats or conflicts, also when we die before it has ended and its lease runs out in turn.
        """
        key = derived_hold_id("late", hold.agent_id, hold.key)
        message = Reserve(
            key,
            0,
            hold.model,
            provider,
            hold.correlation_id,
            budget_id=hold.budget_id,
            lease_s=self.reservation_lease_s,
            owed_msat=owed_msat,
        )
        try:
            await self.accounts.ask(hold.agent_id, message)
        except BillingRefused as error:
            if error.reason != "key_used":  # it has ended before
                raise
        return key

    async def release(self, reservation_id: str, reason: str) -> None:
        hold = await self._reservation(reservation_id)
        if hold.state is HoldState.SETTLED:
            raise _ended(hold, "settled")
        reason = reason or "released by its core"
        await self.accounts.ask(hold.agent_id, Release(hold.key, reason, None))
        given_back = hold.state is HoldState.RELEASED or hold.lease_ns <= self.now_ns()
        if given_back and await self._lost_its_lease(hold):
            key = await self._hold_late(hold, 0, hold.provider)
            await self.accounts.ask(hold.agent_id, Release(key, f"{reason}; late: {hold.key}", None))

    async def _reservation(self, reservation_id: str) -> HoldRow:
        """What ``reserve`` made, open or ended, and nothing else that holds money. Raises NotFound."""
        hold = None
        # The keys of our own requests are other ones.
        if reservation_id.startswith("tx_") and reservation_id.isascii():
            hold = await self._ask_ledger(FindHold(key=reservation_id))
        if hold is None or hold.kind != "request":
            raise NotFound("Reservation not found")
        return hold

    # Helpers

    def _in(self, seconds: int | None) -> int | None:
        return None if seconds is None else self.now_ns() + seconds * NS

    async def _ask_ledger(self, question: Question[T]) -> T | None:
        """What is on disk after all that was decided before. Raises LedgerUnavailable."""
        arrived = trio.Event()
        found: list[tuple[T | None, StoreError | None]] = []

        def answered(answer: T | None, error: StoreError | None) -> None:
            found.append((answer, error))
            arrived.set()

        try:
            self.store.ask(question, answered)
        except StoreUnavailable as error:
            raise LedgerUnavailable(f"the ledger cannot be read: {error}", retry_after_s=1) from error
        with trio.move_on_after(LEDGER_S):
            await arrived.wait()
        answer, failure = found[0] if found else (None, StoreUnavailable("no answer in time"))
        if failure is not None:
            raise LedgerUnavailable(f"the ledger cannot be read: {failure}", retry_after_s=1)
        return answer


async def _ask_actor(ref: TrioActorRef[Any], message: object, timeout_s: float) -> Any:
    try:
        return await ref.request(message, timeout_s=timeout_s)
    except _UNANSWERED as error:
        raise LedgerUnavailable(f"no answer came: {error}", retry_after_s=1) from error


def _issued(made: Issued) -> IssuedToken:
    return IssuedToken(made.row, made.token)


def _ended(hold: HoldRow, how: str) -> BillingRefused:
    """A hold ends once, in one way (M3); an end without a charge is still one or the other."""
    message = f"the reservation {hold.key} was {how} already"
    return BillingRefused(message, status=409, reason=f"already_{how}")


def _receipt(hold: HoldRow, usage: Usage, actual_msat: int) -> ReceiptRow:
    """Of a request that another core has served: what it says of it."""
    return ReceiptRow(
        request_id=hold.key,
        agent_id=hold.agent_id,
        correlation_id=hold.correlation_id,
        hold_id=hold.hold_id,
        started_ns=hold.created_ns,
        duration_us=usage.latency_ms * 1_000,
        model=hold.model,
        provider=usage.provider,
        policy=None,
        stream=False,
        outcome="ok",
        http_status=200,
        error=None,
        prompt_tokens=usage.tokens_in,
        completion_tokens=usage.tokens_out,
        estimated=False,
        expected_msat=None,
        cost_msat=actual_msat,
        saved_median_msat=None,
        saved_dearest_msat=None,
    )
