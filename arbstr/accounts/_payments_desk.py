"""What an account does about payments, withdrawals and approvals: handlers that run inside the account's actor.

Each is one decision on the books and one change of them: the payment's row, its hold, its approval and what the
operator's webhook is told reach the disk together or not at all. Wallets are asked elsewhere (``_payments``), between
two of these.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TypeVar

from attrs import evolve

from arbstr.accounts import _rules as rules
from arbstr.accounts._alerts import balance_alert, is_alert_due
from arbstr.accounts._books import Books, Desk, Handler, Job
from arbstr.accounts._budgets import check_budget
from arbstr.accounts._events import payment_event
from arbstr.accounts._machine import Money, step
from arbstr.accounts._messages import Ended, Held, Release, Reserve
from arbstr.accounts._payment_messages import Decide, Decided, Draft, MovePayment, Pay, RequestApproval, Withdraw
from arbstr.accounts._policy import PaymentDecision, Verdict, check_payment, check_request
from arbstr.errors import BillingRefused, LedgerUnavailable, NotFound
from arbstr.store import (
    AccountChange,
    AccountRow,
    Also,
    ApprovalRow,
    ApprovalStatus,
    AuditEntry,
    FindApproval,
    FindPayment,
    HoldChange,
    HoldRow,
    HoldState,
    PaymentRow,
    PaymentState,
    PolicyRow,
    Question,
    ReceiptRow,
    StoreError,
    new_approval_id,
    request_hold_id,
)
from arbstr.wallets import SIMULATED, InvoiceUnreadable, read_invoice

NS_PER_MS = 1_000_000

DEFAULT_FEE_LIMIT_MSAT = 1_000
DEFAULT_APPROVAL_MS = 300_000
"""For a withdrawal of an agent without an approval timeout (contract: vault, section 8)."""
CLAIM_NS = 15 * 60 * 1_000_000_000
"""An approved request has so long to come for its money."""
MAX_APPROVALS = 1_000
"""Of one agent at once: a human has no use for more, and each waits in memory."""
NO_LEASE_NS = (1 << 63) - 1
"""A payment's hold ends with the payment, never with a lease."""

S = PaymentState
A = TypeVar("A")


# Opening


def pay(desk: Desk, job: Job, message: Pay) -> None:
    if not _is_known(desk, job, message, "payment"):
        _open(desk, job, message, "payment")


def withdraw(desk: Desk, job: Job, message: Withdraw) -> None:
    if not _is_known(desk, job, message, "withdrawal"):
        _open(desk, job, message, "withdrawal")


def _is_known(desk: Desk, job: Job, message: Pay | Withdraw, kind: str) -> bool:
    """Whether the key was used before, or has to be looked up first: then the job is seen to."""
    if message.key is None:
        return False
    # Two of a key that were looked up at the same time: the first is among the open ones by now, or was denied, and
    # then the ledger refuses the second.
    if message.looked_up and not any(row.key == message.key for row in desk.books.payments.values()):
        return False
    _look_up_key(desk, job, message, kind)
    return True


def _look_up_key(desk: Desk, job: Job, message: Pay | Withdraw, kind: str) -> None:
    def found(row: PaymentRow | None) -> None:
        if row is None:
            job.message = evolve(message, looked_up=True)
            desk.again(job)
        elif row.fingerprint != message.draft.fingerprint(kind):
            desk.refuse(job, _key_reused(message.key or ""))
        else:
            job.reply.set(row)

    _ask(desk, job, FindPayment(agent_id=desk.agent_id, key=message.key), found)


def _open(desk: Desk, job: Job, message: Pay | Withdraw, kind: str) -> None:
    books, now_ns, draft = desk.books, time.time_ns(), message.draft
    if draft.amount_msat <= 0 or draft.amount_msat > rules.MAX_MSAT:
        raise ValueError(f"a payment must be between 1 and {rules.MAX_MSAT} msat, got {draft.amount_msat} msat")
    policy = books.policy(now_ns)
    fee_limit_msat = _fee_limit_msat(policy, draft.rail)
    decision = check_payment(
        policy,
        books.account,
        books.day_spend_msat(now_ns),
        draft.amount_msat,
        books.frozen_ns is not None,
        fee_limit_msat=fee_limit_msat,
    )
    objection = _invoice_objection(draft, now_ns)
    if objection is not None and decision.verdict is not Verdict.DENY:
        decision = PaymentDecision(Verdict.DENY, objection)
    if kind == "withdrawal" and decision.verdict is Verdict.ALLOW:
        decision = PaymentDecision(Verdict.ASK, "withdrawal_requires_approval")
    payment = PaymentRow(
        transaction_id=message.transaction_id,
        agent_id=desk.agent_id,
        kind=kind,
        amount_msat=draft.amount_msat,
        state=_FIRST_STATE[decision.verdict],
        created_ns=now_ns,
        updated_ns=now_ns,
        key=message.key,
        fee_limit_msat=fee_limit_msat,
        asset=draft.asset,
        purpose=draft.purpose,
        destination_type=draft.destination_type,
        destination=draft.destination,
        preferred_rail=draft.preferred_rail,
        first_rail=draft.rail,
        rail=draft.rail,
        decision=decision.verdict.value,
        reason=decision.reason,
        fingerprint=draft.fingerprint(kind),
    )
    duplicate = _duplicate(desk, message, kind)
    if decision.verdict is Verdict.DENY:
        _deny(desk, job, payment, duplicate)
        return
    approval = None
    if decision.verdict is Verdict.ASK:
        _check_room(books)
        approval = _new_approval(desk, kind, payment.transaction_id, draft.amount_msat, draft.destination, policy)
        payment = evolve(payment, approval_id=approval.approval_id)
    _hold(desk, job, payment, approval, duplicate)


def _invoice_objection(draft: Draft, now_ns: int) -> str | None:
    """Why an invoice must not be paid as what the agent says that it pays; None when nothing speaks against it.

    A simulation pays to any text, but an invoice is an invoice there too.
    """
    if draft.destination_type not in (None, "lightning_invoice"):
        return None
    try:
        invoice = read_invoice(draft.destination)
    except InvoiceUnreadable:
        looks_like_one = draft.destination.lower().removeprefix("lightning:").startswith("ln")
        return "invoice_unreadable" if looks_like_one and draft.rail != SIMULATED else None
    if invoice.amount_msat is not None and invoice.amount_msat != draft.amount_msat:
        return "invoice_amount_differs"
    return "invoice_expired" if invoice.expires_at_s * 1_000_000_000 <= now_ns else None


_FIRST_STATE = {Verdict.DENY: S.DENIED, Verdict.ASK: S.PENDING_APPROVAL, Verdict.ALLOW: S.HELD}


def _fee_limit_msat(policy: PolicyRow | None, rail: str) -> int:
    """What may come on top; a simulation asks nothing."""
    if rail == SIMULATED:
        return 0
    return DEFAULT_FEE_LIMIT_MSAT if policy is None or policy.max_fee_msat is None else policy.max_fee_msat


def _duplicate(desk: Desk, message: Pay | Withdraw, kind: str) -> Callable[[Job], None] | None:
    return None if message.key is None else lambda job: _look_up_key(desk, job, message, kind)


def _deny(desk: Desk, job: Job, payment: PaymentRow, duplicate: Callable[[Job], None] | None) -> None:
    """Nothing moves, but it is on record, and its id can be looked up."""
    change = _change(desk, payment, "denied", "PAYMENT_REQUEST", _request_details(payment))
    desk.commit(change, job, payment.transaction_id, payment, duplicate)


def _hold(
    desk: Desk, job: Job, payment: PaymentRow, approval: ApprovalRow | None, duplicate: Callable[[Job], None] | None
) -> None:
    move = rules.reserve(desk.books.account, payment.amount_msat + payment.fee_limit_msat)
    hold = _hold_row(desk, payment.transaction_id, payment.amount_msat + payment.fee_limit_msat, payment.kind)
    also: list[Also] = [payment]
    action, details = "PAYMENT_REQUEST", _request_details(payment)
    if approval is not None:
        is_payment = payment.kind == "payment"
        event = "approval_required" if is_payment else "withdrawal_requested"
        also += (approval, payment_event(event, payment, payment.created_ns))
        details |= {"approval_id": approval.approval_id, "expires_at": approval.expires_ns // NS_PER_MS}
        action = action if is_payment else "WITHDRAWAL_REQUESTED"
    change = AccountChange(
        key=f"reserve:{payment.transaction_id}",
        kind="reserve",
        at_ns=payment.created_ns,
        before=desk.books.account,
        after=move.after,
        postings=move.postings,
        audit=AuditEntry(action, details),
        hold=evolve(hold, provider=payment.rail or "", created_ns=payment.created_ns),
        also=tuple(also),
    )
    desk.commit(change, job, payment.transaction_id, payment, duplicate)
    if approval is not None and payment.kind == "payment":
        _note(desk, f"requested:{approval.approval_id}", "APPROVAL_REQUESTED", _approval_details(approval, payment))


def _hold_row(desk: Desk, key: str, amount_msat: int, kind: str) -> HoldRow:
    """The hold of a payment has the payment's id."""
    return HoldRow(
        hold_id=key,
        key=key,
        agent_id=desk.agent_id,
        amount_msat=amount_msat,
        state=HoldState.OPEN,
        model="",
        provider="",
        created_ns=time.time_ns(),
        lease_ns=NO_LEASE_NS,
        kind=kind,
    )


def _new_approval(
    desk: Desk, kind: str, transaction_id: str, amount_msat: int, destination: str | None, policy: PolicyRow | None
) -> ApprovalRow:
    timeout_ms = (policy.approval_timeout_ms if policy else None) or DEFAULT_APPROVAL_MS
    now_ns = time.time_ns()
    return ApprovalRow(
        approval_id=new_approval_id(),
        agent_id=desk.agent_id,
        kind=kind,
        transaction_id=transaction_id,
        amount_msat=amount_msat,
        destination=destination,
        status=ApprovalStatus.PENDING,
        created_ns=now_ns,
        expires_ns=now_ns + timeout_ms * NS_PER_MS,
    )


# Moving


def move_payment(desk: Desk, job: Job, message: MovePayment) -> None:
    payment = desk.books.payments.get(message.transaction_id)
    if payment is None or payment.state is not message.before or _is_repeat(payment, message):
        _look_up_move(desk, job, message)
        return
    way = step(payment.state, message.after)
    if way is None or payment.state is S.PENDING_APPROVAL:  # that is for ``decide``
        raise _moved(payment)
    now_ns = time.time_ns()
    moved = evolve(
        payment,
        state=message.after,
        updated_ns=now_ns,
        rail=message.rail or payment.rail,
        payment_hash=message.payment_hash or payment.payment_hash,
        preimage=message.preimage or payment.preimage,
        error=message.error or payment.error,
    )
    match way.money:
        case Money.CHARGE:
            _succeed(desk, job, payment, evolve(moved, fee_msat=message.fee_msat, settled_ns=now_ns), message)
        case Money.RELEASE:
            _fail(desk, job, payment, moved, message)
        case _:
            _go_on(desk, job, payment, moved)


def _is_repeat(payment: PaymentRow, message: MovePayment) -> bool:
    return payment.state is message.after and message.rail in (None, payment.rail)


def _look_up_move(desk: Desk, job: Job, message: MovePayment) -> None:
    """It is not where it would start from: where it has arrived already, by an earlier message, or elsewhere."""

    def found(row: PaymentRow | None) -> None:
        if row is None or row.agent_id != desk.agent_id:
            desk.refuse(job, NotFound(f"Payment {message.transaction_id} not found"))
        elif _is_repeat(row, message):
            job.reply.set(row)
        else:
            desk.refuse(job, _moved(row))

    _ask(desk, job, FindPayment(transaction_id=message.transaction_id), found)


def _go_on(desk: Desk, job: Job, before: PaymentRow, after: PaymentRow) -> None:
    details: dict[str, object] = {"ref_id": after.transaction_id, "amount_msat": after.amount_msat, "rail": after.rail}
    also: tuple[Also, ...] = ()
    action = "PAYMENT_SENDING"
    if after.state is S.UNKNOWN:
        action = "PAYMENT_IN_DOUBT"
        details |= {"error": after.error, "payment_hash": after.payment_hash}
        also = _granted(before, after, "PENDING")
    elif before.state is S.SENDING:
        action = "PAYMENT_FAILED"
        details |= {"rail": before.rail, "fallback_to": after.rail, "error": after.error}
        details |= {"payment_hash": after.payment_hash}
    name = f"{after.state}:{after.rail}"
    change = _change(desk, after, name, action, details, also=also)
    desk.commit(change, job, after.transaction_id, after)


def _succeed(desk: Desk, job: Job, before: PaymentRow, after: PaymentRow, message: MovePayment) -> None:
    hold, fee_msat = desk.books.holds[after.transaction_id].row, message.fee_msat
    if not 0 <= fee_msat <= rules.MAX_MSAT:
        raise ValueError(f"a fee must be between 0 and {rules.MAX_MSAT} msat, got {fee_msat} msat")
    account = desk.books.account
    if after.kind == "withdrawal":
        move = rules.withdraw(account, hold.amount_msat, after.amount_msat, fee_msat)
    else:
        move = rules.settle(account, hold.amount_msat, after.amount_msat + fee_msat)
    details = _end_details(after, message)
    details |= {"fee_msat": fee_msat}
    if move.after.debt_msat > account.debt_msat:
        details["debt_msat"] = move.after.debt_msat
    event = payment_event("payment_settled", after, after.updated_ns, fee_msat=fee_msat)
    also = (*_granted(before, after, "SETTLED"), event)
    charge_msat = after.amount_msat + fee_msat
    change = _change(desk, after, "end", "PAYMENT_SETTLED", details, also=also, move=move, charge_msat=charge_msat)
    desk.commit(change, job, after.transaction_id, after)


def _fail(desk: Desk, job: Job, before: PaymentRow, after: PaymentRow, message: MovePayment) -> None:
    hold = desk.books.holds[after.transaction_id].row
    move = rules.settle(desk.books.account, hold.amount_msat, 0)
    details = _end_details(after, message)
    details |= {"reason": after.error}
    event = payment_event("payment_failed", after, after.updated_ns, reason=after.error)
    also = (*_granted(before, after, "FAILED"), event)
    change = _change(desk, after, "end", "PAYMENT_FAILED", details, also=also, move=move, charge_msat=0)
    desk.commit(change, job, after.transaction_id, after)


def _granted(before: PaymentRow, after: PaymentRow, status: str) -> tuple[Also, ...]:
    """The operator who approved hears what came of it, once: the first time that there is something to say."""
    if after.approval_id is None or before.state is S.UNKNOWN:
        return ()
    return (payment_event("approval_granted", after, after.updated_ns, payment_status=status),)


def alert_if_due(desk: Desk, now_ns: int) -> None:
    """After the end of any hold: raise the balance alert if the balance as decided is below its floor."""
    books = desk.books
    policy = books.policy(now_ns)
    if policy is None or not policy.alert_floor_msat:
        return
    if is_alert_due(books.account, policy, books.last_alert_ns, now_ns):
        change = balance_alert(books.account, policy, now_ns)
        _commit_quietly(desk, change, change.key)


# Approvals


def request_approval(desk: Desk, job: Job, message: RequestApproval) -> None:
    books, now_ns = desk.books, time.time_ns()
    if message.approval_id in books.holds:
        _ask_approval(desk, job, message.approval_id)
        return
    policy = books.policy(now_ns)
    if policy is None or not policy.set_by_operator or not policy.approval_timeout_ms:
        raise BillingRefused(
            "Policy denied: this request exceeds what one transaction may cost, and nobody is asked about it",
            status=403,
            reason="exceeds_max_transaction",
        )
    _check_room(books)
    day_msat, frozen = books.day_spend_msat(now_ns), books.frozen_ns is not None
    check_request(policy, day_msat, len(books.holds), message.amount_msat, message.model, frozen, approved=True)
    if message.budget_id is not None:
        held_msat, holds = books.budget_use(message.budget_id)
        budget = books.budgets.get(message.budget_id)
        check_budget(budget, held_msat, holds, message.amount_msat, message.model, now_ns)
    move = rules.reserve(books.account, message.amount_msat)
    approval = _new_approval(desk, "request", message.approval_id, message.amount_msat, message.model, policy)
    approval = evolve(approval, approval_id=message.approval_id)
    hold = evolve(
        _hold_row(desk, message.approval_id, message.amount_msat, "request"),
        hold_id=_reference(approval),
        model=message.model,
        provider=message.provider,
        lease_ns=approval.expires_ns,
        correlation_id=message.correlation_id,
        budget_id=message.budget_id,
    )
    event = payment_event("approval_required", _as_payment(approval), now_ns, model=message.model)
    details: dict[str, object] = {"model": message.model, "request_id": message.request_id}
    change = AccountChange(
        key=f"reserve:{message.approval_id}",
        kind="reserve",
        at_ns=now_ns,
        before=books.account,
        after=move.after,
        postings=move.postings,
        audit=AuditEntry("APPROVAL_REQUESTED", _approval_details(approval, None) | details),
        hold=hold,
        also=(approval, event),
    )
    desk.commit(change, job, message.approval_id, approval)


def _check_room(books: Books) -> None:
    """Raises BillingRefused (429)."""
    if len(books.approvals) >= MAX_APPROVALS:
        raise BillingRefused(
            f"{MAX_APPROVALS} approvals of the agent are open already; have the operator decide",
            status=429,
            reason="too_many_approvals",
            retry_after_s=60,
        )


def decide(desk: Desk, job: Job, message: Decide) -> None:
    books, now_ns = desk.books, time.time_ns()
    approval = books.approvals.get(message.approval_id)
    if approval is None:
        _ask_resolved(desk, job, message.approval_id)
        return
    granted, expired = approval.status is ApprovalStatus.APPROVED, now_ns >= approval.expires_ns
    if granted and message.verdict != "expire":
        raise approval_resolved(approval)
    if message.verdict == "expire" and not expired:
        raise BillingRefused("the approval has not expired", status=409, reason="not_expired")
    if expired:
        why = "not_used" if granted else "approval_timeout"
        _close(desk, job, approval, ApprovalStatus.TIMED_OUT, "expiry", why, now_ns)
    elif message.verdict == "deny":
        _close(desk, job, approval, ApprovalStatus.DENIED, message.by, message.why, now_ns)
    elif (objection := _objection(books, approval, now_ns)) is not None:
        _close(desk, job, approval, ApprovalStatus.DENIED, "policy", objection, now_ns)
    else:
        _grant(desk, job, approval, message, now_ns)


def _objection(books: Books, approval: ApprovalRow, now_ns: int) -> str | None:
    """Why it must not be granted any more; everything is asked again as if its own hold were not there."""
    hold = books.holds[approval.transaction_id].row
    policy, frozen = books.policy(now_ns), books.frozen_ns is not None
    day_msat = books.day_spend_msat(now_ns) - hold.amount_msat
    if approval.kind != "request":
        payment = books.payments[approval.transaction_id]
        decision = check_payment(
            policy,
            evolve(books.account, available_msat=books.account.available_msat + hold.amount_msat),
            day_msat,
            payment.amount_msat,
            frozen,
            fee_limit_msat=payment.fee_limit_msat,
            approved=True,
        )
        return decision.reason if decision.verdict is Verdict.DENY else None
    try:
        _check_again(books, hold, now_ns)
    except BillingRefused as refusal:
        return refusal.reason
    return None


def _check_again(books: Books, hold: HoldRow, now_ns: int) -> None:
    """What ``Reserve`` asks, of a request's hold that is there already. Raises BillingRefused."""
    policy, frozen = books.policy(now_ns), books.frozen_ns is not None
    day_msat = books.day_spend_msat(now_ns) - hold.amount_msat
    check_request(policy, day_msat, len(books.holds) - 1, hold.amount_msat, hold.model, frozen, approved=True)
    if hold.budget_id is not None:
        held_msat, holds = books.budget_use(hold.budget_id)
        budget, others_msat = books.budgets.get(hold.budget_id), held_msat - hold.amount_msat
        check_budget(budget, others_msat, holds - 1, hold.amount_msat, hold.model, now_ns)
    if books.account.debt_msat > 0:
        raise BillingRefused(
            f"Insufficient balance: a debt of {books.account.debt_msat} msat is open; deposit more than that",
            reason="outstanding_debt",
            details={"debt_msat": books.account.debt_msat},
        )


def _grant(desk: Desk, job: Job, approval: ApprovalRow, message: Decide, now_ns: int) -> None:
    granted = evolve(
        approval,
        status=ApprovalStatus.APPROVED,
        resolved_ns=now_ns,
        decided_by=message.by,
        reason=message.why,
    )
    payment = desk.books.payments.get(approval.transaction_id)
    also: tuple[Also, ...] = (granted,)
    lease_ns = NO_LEASE_NS
    if payment is not None:
        payment = evolve(payment, state=S.HELD, updated_ns=now_ns)
        also = (granted, payment)
    else:
        lease_ns = now_ns + CLAIM_NS
        granted = evolve(granted, expires_ns=lease_ns)  # it is open until somebody comes for it
        also = (granted, payment_event("approval_granted", _as_payment(approval), now_ns, payment_status="HELD"))
    hold = desk.books.holds[approval.transaction_id].row
    account = desk.books.account
    change = AccountChange(
        key=f"approval:{approval.approval_id}",
        kind="approval",
        at_ns=now_ns,
        before=account,
        after=_next(account),
        postings=(),
        audit=AuditEntry("APPROVAL_GRANTED", _approval_details(granted, payment)),
        hold=_held(hold, lease_ns),
        also=also,
    )
    desk.commit(change, job, approval.transaction_id, Decided(granted, payment))


def _close(
    desk: Desk,
    job: Job,
    approval: ApprovalRow,
    status: ApprovalStatus,
    by: str,
    why: str | None,
    now_ns: int,
    receipt: ReceiptRow | None = None,
) -> None:
    """Denied or timed out: its hold is given back, and its payment has failed. ``why`` None: nobody said.

    ``receipt``: of the request that withdraws it, which hears that its hold has ended.
    """
    timed_out = status is ApprovalStatus.TIMED_OUT
    closed = evolve(approval, status=status, resolved_ns=now_ns, decided_by=by, reason=why)
    payment = desk.books.payments.get(approval.transaction_id)
    also: tuple[Also, ...] = (closed,)
    if payment is not None:
        payment = evolve(payment, state=S.FAILED, updated_ns=now_ns, error=why or "approval_denied")
        also = (closed, payment)
    about = payment or _as_payment(approval)
    more = {} if timed_out or why is None else {"reason": why}
    event = payment_event("approval_timeout" if timed_out else "approval_denied", about, now_ns, **more)
    hold = desk.books.holds[approval.transaction_id].row
    move = rules.settle(desk.books.account, hold.amount_msat, 0)
    change = AccountChange(
        key=f"end:{approval.transaction_id}",
        kind="release",
        at_ns=now_ns,
        before=desk.books.account,
        after=move.after,
        postings=move.postings,
        audit=AuditEntry(
            "APPROVAL_TIMEOUT" if timed_out else "APPROVAL_DENIED",
            _approval_details(closed, payment) | {"reason": why or "approval_denied", "by": by},
        ),
        hold=_ended(hold, 0, now_ns),
        also=(*also, event),
        receipt=receipt,
    )
    answer: object = Decided(closed, payment)
    if isinstance(job.message, Release):
        answer = Ended(approval.transaction_id, 0, move.after.available_msat, move.after.debt_msat)
    desk.commit(change, job, approval.transaction_id, answer)


# Requests that come for what was granted


def claim(desk: Desk, job: Job, message: Reserve, approval_id: str) -> str | None:
    """Let a request have, once, what a human has allowed. The key of the hold, or None when the job is seen to later.

    Everything is asked again at this moment but the limit that the human has lifted.
    """
    books, now_ns = desk.books, time.time_ns()
    approval = books.approvals.get(approval_id)
    if approval is None or approval.kind != "request":
        _look_up_claim(desk, job, approval_id)
        return None
    if now_ns >= approval.expires_ns:
        raise not_granted(evolve(approval, status=ApprovalStatus.TIMED_OUT))
    if approval.status is ApprovalStatus.PENDING:
        raise not_granted(approval)
    hold = books.holds[approval.transaction_id].row
    _check_claim(message, approval, hold)
    _check_again(books, hold, now_ns)
    used = evolve(approval, status=ApprovalStatus.USED)
    details: dict[str, object] = {"request_id": message.key, "provider": message.provider}
    change = AccountChange(
        key=f"claim:{approval_id}",
        kind="approval",
        at_ns=now_ns,
        before=books.account,
        after=_next(books.account),
        postings=(),
        audit=AuditEntry("APPROVAL_USED", _approval_details(used, None) | details),
        hold=_held(hold, now_ns + desk.lease_ns),
        also=(used,),
    )
    answer = Held(hold.key, hold.amount_msat, books.account.available_msat)
    desk.commit(change, job, hold.key, answer)
    return hold.key


def _check_claim(message: Reserve, approval: ApprovalRow, hold: HoldRow) -> None:
    """A grant is for a model, up to an amount, and for whoever asked: the agent, or a budget of it."""
    if message.budget_id != hold.budget_id or message.model != hold.model:
        raise BillingRefused(
            f"Policy denied: approval {approval.approval_id} is for the model {hold.model!r} and for the token that "
            "asked; send the request as it was when it was put off",
            status=403,
            reason="approval_mismatch",
            details={"approval_id": approval.approval_id},
        )
    if message.amount_msat > hold.amount_msat:
        raise BillingRefused(
            f"Policy denied: this request may cost up to {message.amount_msat} msat and approval "
            f"{approval.approval_id} allows {hold.amount_msat} msat; send the request as it was, or ask anew without "
            "the approval",
            status=403,
            reason="approval_mismatch",
            details={
                "approval_id": approval.approval_id,
                "approved_msat": hold.amount_msat,
                "requested_msat": message.amount_msat,
            },
        )


def _look_up_claim(desk: Desk, job: Job, approval_id: str) -> None:
    """It is not open as far as we know: what has become of it?"""

    def found(row: ApprovalRow | None) -> None:
        if row is None or row.agent_id != desk.agent_id or row.kind != "request":
            desk.refuse(job, BillingRefused("Approval not found", status=404, reason="approval_not_found"))
        elif row.is_open:  # on disk: our books are old
            desk.park(job, ledger_down=False)
        else:
            desk.refuse(job, not_granted(row))

    _ask(desk, job, FindApproval(approval_id=approval_id), found)


def not_granted(approval: ApprovalRow) -> BillingRefused:
    """Why nobody gets anything for it, now or ever."""
    match approval.status:
        case ApprovalStatus.PENDING:
            return _nothing(approval, "waits for a human", status=409, reason="approval_pending")
        case ApprovalStatus.DENIED:
            said = f": {approval.reason}" if approval.reason else ""
            return _nothing(approval, f"was denied{said}", reason="approval_denied")
        case ApprovalStatus.USED:
            return _nothing(approval, "has been used; it is good for one request", reason="approval_used")
        case _:
            what = "has timed out; send the request without it to ask anew"
            return _nothing(approval, what, reason="approval_timed_out")


def _nothing(approval: ApprovalRow, what: str, *, reason: str, status: int = 403) -> BillingRefused:
    details: dict[str, int | str] = {
        "approval_id": approval.approval_id,
        "amount_msat": approval.amount_msat,
        "expires_ns": approval.expires_ns,
    }
    message = f"Policy denied: approval {approval.approval_id} {what}"
    return BillingRefused(message, status=status, reason=reason, details=details)


def withdraw_request(desk: Desk, job: Job, message: Release) -> None:
    """Whoever asked has left without learning of its approval, which is open: nobody would come for it."""
    approval = desk.books.approvals.get(message.key)
    if approval is None or approval.kind != "request":
        raise BillingRefused(f"{message.key} is not a request's approval", status=409, reason="approval_pending")
    # A decision stands.
    how = ApprovalStatus.TIMED_OUT if approval.status is ApprovalStatus.APPROVED else ApprovalStatus.DENIED
    _close(desk, job, approval, how, "requester", "withdrawn", time.time_ns(), message.receipt)


def _ask_resolved(desk: Desk, job: Job, approval_id: str) -> None:
    def found(row: ApprovalRow | None) -> None:
        if row is None or row.agent_id != desk.agent_id:
            desk.refuse(job, NotFound("Approval not found"))
        elif row.status is ApprovalStatus.PENDING:  # on disk it waits: our books are old
            desk.park(job, ledger_down=False)
        else:
            desk.refuse(job, approval_resolved(row))

    _ask(desk, job, FindApproval(approval_id=approval_id), found)


def _ask_approval(desk: Desk, job: Job, approval_id: str) -> None:
    def found(row: ApprovalRow | None) -> None:
        if row is None or row.agent_id != desk.agent_id:
            desk.refuse(job, BillingRefused(f"the key {approval_id} was used before", status=409, reason="key_used"))
        else:
            job.reply.set(row)

    _ask(desk, job, FindApproval(approval_id=approval_id), found)


# Parts


def _ask(desk: Desk, job: Job, question: Question[A | None], found: Callable[[A | None], None]) -> None:
    """Ask the ledger, which answers after all that was decided before."""

    def answered(row: A | None, error: StoreError | None) -> None:
        if error is None:
            found(row)
        else:
            desk.refuse(job, LedgerUnavailable(f"the ledger cannot be read: {error}", retry_after_s=1))

    desk.look_up(question, answered)


def _change(
    desk: Desk,
    payment: PaymentRow,
    name: str,
    action: str,
    details: dict[str, object],
    *,
    also: tuple[Also, ...] = (),
    move: rules.Move | None = None,
    charge_msat: int | None = None,
) -> AccountChange:
    """The change that writes ``payment``; with ``charge_msat`` it ends the hold, 0 being a release."""
    account = desk.books.account
    hold = desk.books.holds.get(payment.transaction_id)
    kind, held = "payment", None
    if charge_msat is not None and hold is not None:
        kind = "settle" if payment.state is S.SUCCEEDED else "release"
        held = _ended(hold.row, charge_msat, payment.updated_ns, payment.state)
    return AccountChange(
        key=f"{name}:{payment.transaction_id}",
        kind=kind,
        at_ns=payment.updated_ns,
        before=account,
        after=move.after if move else _next(account),
        postings=move.postings if move else (),
        audit=AuditEntry(action, details),
        hold=held,
        also=(payment, *also),
    )


def _ended(hold: HoldRow, charge_msat: int, now_ns: int, state: PaymentState = S.FAILED) -> HoldChange:
    return evolve(
        _held(hold, hold.lease_ns),
        state=HoldState.SETTLED if state is S.SUCCEEDED else HoldState.RELEASED,
        charged_msat=charge_msat,
        ended_ns=now_ns,
    )


def _held(hold: HoldRow, lease_ns: int) -> HoldChange:
    return HoldChange(
        hold_id=hold.hold_id,
        before_msat=hold.amount_msat,
        amount_msat=hold.amount_msat,
        state=HoldState.OPEN,
        provider=hold.provider,
        lease_ns=lease_ns,
        extensions=hold.extensions,
    )


def _next(account: AccountRow) -> AccountRow:
    return evolve(account, version=account.version + 1)


def _note(desk: Desk, key: str, action: str, details: dict[str, object]) -> None:
    """A second audit row about what was just decided. It moves nothing."""
    account = desk.books.account
    entry = AuditEntry(action, details)
    change = AccountChange(key, "note", time.time_ns(), account, _next(account), (), entry)
    _commit_quietly(desk, change, key)


def _commit_quietly(desk: Desk, change: AccountChange, key: str) -> None:
    """Nobody waits for it, and what it follows stands without it."""
    with suppress(LedgerUnavailable):
        desk.commit(change, None, key, None)


def _as_payment(approval: ApprovalRow) -> PaymentRow:
    """What events say about an approval of a request, in the words of a payment."""
    return PaymentRow(
        transaction_id=_reference(approval),
        agent_id=approval.agent_id,
        kind="payment",
        amount_msat=approval.amount_msat,
        state=S.HELD,
        created_ns=approval.created_ns,
        updated_ns=approval.created_ns,
    )


def _request_details(payment: PaymentRow) -> dict[str, object]:
    details: dict[str, object] = {
        "ref_id": payment.transaction_id,
        "amount_msat": payment.amount_msat,
        "policy_decision": payment.decision,
        "policy_reason": payment.reason,
        "asset": payment.asset,
        "purpose": payment.purpose,
        "destination_type": payment.destination_type,
        "initial_rail": None if payment.first_rail == SIMULATED else payment.first_rail,
        "preferred_rail": payment.preferred_rail,
    }
    if payment.kind == "withdrawal":
        details["destination"] = payment.destination
    return {name: value for name, value in details.items() if value is not None}


def _end_details(payment: PaymentRow, message: MovePayment) -> dict[str, object]:
    details: dict[str, object] = {
        "ref_id": payment.transaction_id,
        "amount_msat": payment.amount_msat,
        "payment_hash": payment.payment_hash,
        "recovery": message.recovery or None,
        "approval_execution": payment.approval_id is not None or None,
    }
    if payment.first_rail != SIMULATED:
        details |= {"initial_rail": payment.first_rail, "final_rail": payment.rail}
        details |= {"fallback_occurred": payment.rail != payment.first_rail or None}
    return {name: value for name, value in details.items() if value is not None}


def _approval_details(approval: ApprovalRow, payment: PaymentRow | None) -> dict[str, object]:
    details: dict[str, object] = {"ref_id": _reference(approval), "amount_msat": approval.amount_msat}
    if approval.status is ApprovalStatus.PENDING and payment is not None:
        details["policy_decision"] = payment.decision
    details["approval_id"] = approval.approval_id
    if approval.status is ApprovalStatus.PENDING:
        details["expires_at"] = approval.expires_ns // NS_PER_MS
    elif approval.decided_by is not None:
        details["by"] = approval.decided_by
        if approval.reason is not None:
            details["reason"] = approval.reason
    return details


def _reference(approval: ApprovalRow) -> str:
    """What it is about, by the name under which anybody may ask: a request's hold has the approval's id as its key."""
    return request_hold_id(approval.approval_id) if approval.kind == "request" else approval.transaction_id


def _key_reused(key: str) -> BillingRefused:
    return BillingRefused(
        f"the idempotency key {key} was used for another payment; use another key",
        status=409,
        reason="idempotency_key_reused",
    )


def _moved(payment: PaymentRow) -> BillingRefused:
    return BillingRefused(
        f"payment {payment.transaction_id} is {payment.state}",
        status=409,
        reason="payment_moved",
        details={"state": payment.state.value},
    )


def approval_resolved(approval: ApprovalRow) -> BillingRefused:
    return BillingRefused(
        "Approval already resolved", status=409, reason="approval_resolved", details={"status": approval.status.value}
    )


HANDLERS: Mapping[type, Handler] = {
    Pay: pay,
    Withdraw: withdraw,
    MovePayment: move_payment,
    RequestApproval: request_approval,
    Decide: decide,
}
"""By the message's type; for the account's actor."""

MUST_END: frozenset[type] = frozenset({MovePayment})
"""Messages that are decided anew until the ledger has taken them."""

NOTHING_UNHEARD: frozenset[type] = frozenset({Pay, Withdraw, RequestApproval})
"""Messages that are dropped when they had to wait for the books and nobody waits for their answer any more."""


def follow(desk: Desk, change: AccountChange) -> None:
    """What is to be decided because of a change: called when it was handed over and the books are as it makes them.

    The end of a hold may bring the balance below its floor, whatever it was for.
    """
    if isinstance(change.hold, HoldChange) and change.hold.charged_msat:
        alert_if_due(desk, change.at_ns)
