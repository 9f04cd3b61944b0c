"""Questions to a human: answers on their way to the account, expiry on time, and whoever waits for the outcome.

Which answer wins is decided by the account (``_payments_desk.decide``), once, on disk. This actor carries answers
there, executes what was approved, and knows which approvals are about to expire: by the wall clock, from disk, so that
a restart loses none.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from typing import Any, Literal

import trio
from attrs import field, frozen

from actors import ActorDeadError, Reply, Timer, TrioActor, TrioActorRef
from arbstr.accounts._payment_messages import Decide, Decided, RequestApproval
from arbstr.accounts._payments import UNANSWERED, AccountOf, Execute, Payments
from arbstr.accounts._payments_desk import approval_resolved
from arbstr.errors import ArbstrError, LedgerUnavailable, NotFound, Overloaded
from arbstr.store import (
    ApprovalRow,
    ApprovalStatus,
    FindApproval,
    Ledger,
    PaymentRow,
    PaymentState,
    PendingApprovals,
    StoreError,
    StoreUnavailable,
)

logger = logging.getLogger(__name__)

NS = 1_000_000_000

LOOK_S = 10.0
"""Between two looks at what is pending. An approval lives 30 s at least, so each is seen before it expires."""
DECISION_S = 10.0
EXECUTION_S = 35.0
MAX_WAITERS = 10_000


@frozen
class Resolve:
    """Approve or deny. Answer: Decided, of an approved payment once it was sent or ``wait_s`` is over.

    Approving may be answered by a denial: its ``reason`` says which check failed. NotFound; BillingRefused (409
    ``approval_resolved``), also when it has expired just now; LedgerUnavailable.
    """

    approval_id: str
    verdict: Literal["approve", "deny"]
    by: str
    why: str | None = None
    wait_s: float = field(default=EXECUTION_S, kw_only=True)


@frozen
class WaitFor:
    """Answer: the ApprovalRow once it is resolved, however long that takes. NotFound, Overloaded, LedgerUnavailable."""

    approval_id: str


@frozen
class _Look:
    pass


@frozen
class _Expire:
    approval: ApprovalRow


class Approvals(TrioActor):
    """One for all agents of a ledger; everybody who decides does it here."""

    def __init__(self, ledger: Ledger, account: AccountOf, payments: TrioActorRef[Payments]) -> None:
        super().__init__()
        self._ledger = ledger
        self._account = account
        self._payments = payments
        self._waiting: dict[str, list[Reply]] = {}
        self._timers: dict[str, Timer] = {}
        self._ending: set[str] = set()

    def on_start(self) -> None:
        self._look()
        self.send_every(LOOK_S, _Look())

    def on_receive(self, message: Any) -> None:
        match message:
            case _Look():
                self._look()
            case _Expire(approval):
                self._expire_on_time(approval)
            case Resolve():
                self.spawn(self._resolve, message, self.take_reply())
            case WaitFor(approval_id):
                self._wait_for(approval_id, self.take_reply())

    # Answers

    async def _resolve(self, message: Resolve, reply: Reply) -> None:
        try:
            decided = await self._decide(message)
        except ArbstrError as error:
            reply.set_exception(error)
            return
        except UNANSWERED as error:
            # It may be decided all the same; asking again says so (409).
            reply.set_exception(LedgerUnavailable(f"the account did not answer: {error}", retry_after_s=1))
            return
        if decided.approval.status is ApprovalStatus.TIMED_OUT:
            reply.set_exception(approval_resolved(decided.approval))
        else:
            reply.set(decided)

    async def _decide(self, message: Resolve) -> Decided:
        approval = await self._find(message.approval_id)
        decide = Decide(message.approval_id, message.verdict, message.by, message.why)
        decided: Decided = await self._account(approval.agent_id).request(decide, timeout_s=DECISION_S)
        self._is_resolved(decided.approval)
        if decided.payment is None or decided.payment.state is not PaymentState.HELD:
            return decided
        sent: PaymentRow = await self._payments.request(
            Execute(decided.payment, wait_s=message.wait_s), timeout_s=message.wait_s + DECISION_S
        )
        return Decided(decided.approval, sent)

    async def _find(self, approval_id: str) -> ApprovalRow:
        arrived = trio.Event()
        found: list[tuple[ApprovalRow | None, StoreError | None]] = []

        def answered(row: ApprovalRow | None, error: StoreError | None) -> None:
            found.append((row, error))
            arrived.set()

        try:
            self._ledger.ask(FindApproval(approval_id=approval_id), answered)
        except StoreUnavailable as error:
            raise _unavailable(error) from error
        with trio.move_on_after(DECISION_S):
            await arrived.wait()
        if not found:
            raise LedgerUnavailable("the ledger did not answer in time", retry_after_s=1)
        row, failure = found[0]
        if failure is not None:
            raise _unavailable(failure)
        if row is None:
            raise NotFound("Approval not found")
        return row

    # Whoever waits

    def _wait_for(self, approval_id: str, reply: Reply) -> None:
        waiting = {key: [r for r in replies if not r.abandoned] for key, replies in self._waiting.items()}
        self._waiting = {key: replies for key, replies in waiting.items() if replies}
        if sum(map(len, self._waiting.values())) >= MAX_WAITERS:
            raise Overloaded(f"{MAX_WAITERS} requests wait for approvals already", retry_after_s=5)
        self._waiting.setdefault(approval_id, []).append(reply)
        self.spawn(self._was_it_resolved, approval_id, reply)

    async def _was_it_resolved(self, approval_id: str, reply: Reply) -> None:
        """Before anybody waited for it, by what the ledger says."""
        try:
            approval = await self._find(approval_id)
        except ArbstrError as error:
            waiting = self._waiting.get(approval_id, [])
            if reply in waiting:
                waiting.remove(reply)
                reply.set_exception(error)
            return
        if approval.status is not ApprovalStatus.PENDING:
            self._is_resolved(approval)

    def _is_resolved(self, approval: ApprovalRow) -> None:
        for reply in self._waiting.pop(approval.approval_id, []):
            reply.set(approval)

    # Expiry

    def _look(self) -> None:
        try:
            self._ledger.ask(PendingApprovals(), self._pending)
        except StoreUnavailable as error:
            self._pending(None, error)

    def _pending(self, approvals: tuple[ApprovalRow, ...] | None, error: StoreError | None) -> None:
        with suppress(ActorDeadError):  # we have failed since, and another instance asks for itself
            self._watch(approvals, error)

    def _watch(self, approvals: tuple[ApprovalRow, ...] | None, error: StoreError | None) -> None:
        if self.actor_stopped.is_set():
            return
        if approvals is None:
            logger.warning("pending approvals cannot be read: %s", error)
            return  # the next look is not far
        soon_ns = time.time_ns() + int(2 * LOOK_S * NS)
        for approval in approvals:
            if approval.expires_ns > soon_ns:
                break
            self._expire_on_time(approval)

    def _expire_on_time(self, approval: ApprovalRow) -> None:
        """Timers run on another clock than the one that approvals expire by: each look sets them anew."""
        key, left_ns = approval.approval_id, approval.expires_ns - time.time_ns()
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()
        if left_ns > 0:
            self._timers[key] = self.send_after(left_ns / NS, _Expire(approval))
        elif key not in self._ending:
            self._ending.add(key)
            self.spawn(self._expire, approval)

    async def _expire(self, approval: ApprovalRow) -> None:
        decide = Decide(approval.approval_id, "expire", "expiry")
        try:
            decided: Decided = await self._account(approval.agent_id).request(decide, timeout_s=DECISION_S)
        except ArbstrError as error:
            logger.info("approval %s did not expire: %s", approval.approval_id, error)
        except UNANSWERED as error:
            logger.warning("approval %s did not expire yet: %s", approval.approval_id, error)
        else:
            self._is_resolved(decided.approval)
        finally:
            self._ending.discard(approval.approval_id)  # if it is pending yet, the next look finds it


async def request_approval(
    account: TrioActorRef[Any], approvals: TrioActorRef[Approvals], message: RequestApproval, *, wait_s: float
) -> ApprovalRow:
    """Ask a human about a request and wait up to ``wait_s`` for the answer; 0: do not wait.

    PENDING when nobody has decided by then: the caller polls by the approval's id, and repeats its request with the
    same key when it is approved. APPROVED: ``Reserve`` with the key of ``message`` finds the money held. The approval
    stays, and so does its hold, when this is cancelled. Raises as ``RequestApproval`` and ``WaitFor`` do, and what
    asking an actor raises.
    """
    approval: ApprovalRow = await account.request(message, timeout_s=DECISION_S)
    if wait_s > 0 and approval.status is ApprovalStatus.PENDING:
        with trio.move_on_after(wait_s):
            resolved: ApprovalRow = await approvals.request(WaitFor(approval.approval_id), timeout_s=2 * wait_s)
            return resolved
    return approval


def _unavailable(error: StoreError) -> LedgerUnavailable:
    return LedgerUnavailable(f"the ledger cannot be read: {error}", retry_after_s=1)
