"""Deliberate defects of the vault: payments, approvals, limits, budgets, tokens, events, other cores' reservations."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from attrs import evolve

from arbstr.accounts import (
    Accounts,
    AgentAccountActor,
    Approvals,
    Payments,
    TokenTable,
    Webhooks,
    _actor,
    _books,
    _budgets,
    _payments,
    _payments_desk,
    _recovery,
    _rules,
    _webhooks,
)
from arbstr.accounts._machine import AFTER_CRASH, AfterCrash, Next
from arbstr.accounts._payment_messages import Decide, Decided, MovePayment, Pay
from arbstr.store import AccountChange, EventState, PaymentState
from arbstr.wallets import Rails, WalletState
from tests.simulation.mutations import Mutation, Patch

S = PaymentState


# Payments


def pay_again_after_a_lost_answer(patch: Patch) -> None:
    """The wallet will know that it has paid."""
    original = Payments._pay

    async def pay(self: Any, row: Any) -> Any:
        return await original(self, row) or await original(self, row)

    patch.setattr(Payments, "_pay", pay)


def _answers(patch: Patch, change: Callable[[Any, Any, str | None], Next | None]) -> None:
    original = _payments.after_answer

    def after(before: Any, answer: Any, fallback: str | None) -> Next | None:
        return change(before, answer, fallback) or original(before, answer, fallback)

    patch.setattr(_payments, "after_answer", after)


def take_unknown_for_failed(patch: Patch) -> None:
    def change(_: Any, answer: Any, __: str | None) -> Next | None:
        return Next(S.FAILED) if answer is not None and answer.state is WalletState.UNKNOWN else None

    _answers(patch, change)


def take_silence_for_failed(patch: Patch) -> None:
    """Whoever does not answer in half a minute has not paid."""
    _answers(patch, lambda _, answer, __: Next(S.FAILED) if answer is None else None)


def take_pending_for_succeeded(patch: Patch) -> None:
    def change(_: Any, answer: Any, __: str | None) -> Next | None:
        return Next(S.SUCCEEDED) if answer is not None and answer.state is WalletState.PENDING else None

    _answers(patch, change)


def try_elsewhere_what_is_in_doubt(patch: Patch) -> None:
    """There is another wallet, and the agent is waiting."""

    def change(before: Any, answer: Any, fallback: str | None) -> Next | None:
        doubt = answer is None or not answer.state.definite
        return Next(S.SENDING, fallback) if doubt and fallback and before is S.SENDING else None

    def fallback(self: Rails, first: str, tried: str, _: WalletState) -> str | None:
        return next((rail for rail in self.wallets if rail != tried and tried == first), None)

    _answers(patch, change)
    patch.setattr(Rails, "fallback", fallback)
    original = Payments._pay

    async def pay(self: Any, row: Any) -> Any:
        return await original(self, row) or _payments.Result(WalletState.UNKNOWN)

    patch.setattr(Payments, "_pay", pay)


def ask_the_wallet_before_the_disk(patch: Patch) -> None:
    """That it is being sent is written down meanwhile."""
    original = Payments._move

    async def move(self: Any, message: Any) -> Any:
        driven = self._driven.get(message.move.transaction_id)
        if message.move.before is not S.HELD or message.move.after is not S.SENDING or driven is None:
            return await original(self, message)
        self._account(message.agent_id).tell(message.move)
        return evolve(driven.row, state=S.SENDING)

    patch.setattr(Payments, "_move", move)


def give_up_what_was_being_sent(patch: Patch) -> None:
    """After a crash nobody can know, so the agent has its money back."""
    patch.setitem(AFTER_CRASH, S.SENDING, AfterCrash.RELEASE)


def send_again_after_a_crash(patch: Patch) -> None:
    original = Payments._resume

    async def resume(self: Any, row: Any) -> None:
        await self._pay(row)
        await original(self, row)

    patch.setattr(Payments, "_resume", resume)


def charge_nothing_for_the_fee(patch: Patch) -> None:
    original = _payments._moving

    def moving(*arguments: Any, **more: Any) -> Any:
        made = original(*arguments, **more)
        return evolve(made, move=evolve(made.move, fee_msat=0))

    patch.setattr(_payments, "_moving", moving)


def spend_what_is_withdrawn(patch: Patch) -> None:
    def withdraw(account: Any, held_msat: int, amount_msat: int, fee_msat: int) -> Any:
        return _rules.settle(account, held_msat, amount_msat + fee_msat)

    patch.setattr(_rules, "withdraw", withdraw)


def hold_without_the_fee(patch: Patch) -> None:
    """It is small, and will be there."""
    original = _payments_desk._hold

    def hold(desk: Any, job: Any, payment: Any, *more: Any) -> None:
        original(desk, job, evolve(payment, fee_limit_msat=0), *more)

    patch.setattr(_payments_desk, "_hold", hold)


def forget_the_key_of_a_payment(patch: Patch) -> None:
    """Every call is a payment of its own."""
    original = _payments_desk.pay
    numbers = iter(range(10**9))

    def pay(desk: Any, job: Any, message: Any) -> None:
        if message.key is not None and not message.looked_up:
            message = evolve(message, key=f"{message.key}.{next(numbers)}", looked_up=True)
        original(desk, job, message)

    patch.setitem(_actor.HANDLERS, Pay, pay)  # type: ignore[arg-type]  # a dict, shown as a mapping


def pay_what_the_agent_says(patch: Patch) -> None:
    """Whatever its invoice asks for."""
    patch.setattr(_payments_desk, "_invoice_objection", lambda draft, now_ns: None)


# Approvals


def _decides(patch: Patch, decide: Callable[[Any, Any, Any], bool]) -> None:
    """``decide`` is True when it has seen to the message."""
    original = _payments_desk.decide

    def handler(desk: Any, job: Any, message: Any) -> None:
        if not decide(desk, job, message):
            original(desk, job, message)

    patch.setitem(_actor.HANDLERS, Decide, handler)  # type: ignore[arg-type]


def grant_after_expiry(patch: Patch) -> None:
    """Better late than never."""

    def decide(desk: Any, job: Any, message: Any) -> bool:
        approval, now_ns = desk.books.approvals.get(message.approval_id), time.time_ns()
        if approval is None or message.verdict != "approve":
            return False
        if _payments_desk._objection(desk.books, approval, now_ns) is not None:
            return False
        _payments_desk._grant(desk, job, approval, message, now_ns)
        return True

    _decides(patch, decide)


def grant_without_checking_again(patch: Patch) -> None:
    """A human has said so."""
    patch.setattr(_payments_desk, "_objection", lambda books, approval, now_ns: None)


def expire_a_little_early(patch: Patch) -> None:
    """By a clock of whole seconds."""

    def decide(desk: Any, job: Any, message: Any) -> bool:
        approval, now_ns = desk.books.approvals.get(message.approval_id), time.time_ns() + 1_000_000_000
        if approval is None or now_ns < approval.expires_ns:
            return False
        status = _payments_desk.ApprovalStatus.TIMED_OUT
        _payments_desk._close(desk, job, approval, status, "expiry", "approval_timeout", time.time_ns())
        return True

    _decides(patch, decide)


def expire_what_was_granted(patch: Patch) -> None:
    """And give back what was held for it a second time."""

    def decide(desk: Any, job: Any, message: Any) -> bool:
        books = desk.books
        found = [row for row in books.payments.values() if row.approval_id == message.approval_id]
        if message.verdict != "expire" or message.approval_id in books.approvals or not found:
            return False
        failed = evolve(found[0], state=S.FAILED, updated_ns=time.time_ns(), error="approval_timeout")
        move = MovePayment(failed.transaction_id, found[0].state, S.FAILED)
        _payments_desk._fail(desk, job, found[0], failed, move)
        return True

    _decides(patch, decide)


def tell_everybody_that_they_decided(patch: Patch) -> None:
    def ask(desk: Any, job: Any, approval_id: str) -> None:
        question = _payments_desk.FindApproval(approval_id=approval_id)
        _payments_desk._ask(desk, job, question, lambda row: job.reply.set(Decided(row)))

    patch.setattr(_payments_desk, "_ask_resolved", ask)


def forget_approvals_at_a_restart(patch: Patch) -> None:
    """Only those that were asked for while it lives expire."""
    original_start, original_watch = Approvals.on_start, Approvals._watch

    def on_start(self: Any) -> None:
        self._begun_ns = time.time_ns()
        original_start(self)

    def watch(self: Any, approvals: Any, error: Any) -> None:
        fresh = approvals and tuple([row for row in approvals if row.created_ns >= self._begun_ns])
        original_watch(self, fresh, error)

    patch.setattr(Approvals, "on_start", on_start)
    patch.setattr(Approvals, "_watch", watch)


def give_back_twice_what_is_denied(patch: Patch) -> None:
    original = _payments_desk._close

    def close(desk: Any, job: Any, approval: Any, *more: Any) -> None:
        hold = desk.books.holds[approval.transaction_id].row
        original(desk, job, approval, *more)
        account = desk.books.account
        move = _rules.deposit(account, hold.amount_msat)
        audit = _actor.AuditEntry("HOLD_RELEASED", {"key": hold.key})
        key = f"again:{hold.key}"
        change = AccountChange(key, "payment", time.time_ns(), account, move.after, move.postings, audit)
        desk.commit(change, None, key, None)

    patch.setattr(_payments_desk, "_close", close)


# Limits, budgets, tokens


def forget_what_is_held_in_the_day(patch: Patch) -> None:
    patch.setattr(_books.Books, "day_spend_msat", lambda self, now_ns: self.day.spent_msat(now_ns))


def forget_the_day_at_a_restart(patch: Patch) -> None:
    original = _books.Day
    patch.setattr(_books, "Day", lambda spends=(): original())


def let_a_policy_count_before_its_time(patch: Patch) -> None:
    patch.setattr(_books, "current_policy", lambda policies, now_ns: policies[-1] if policies else None)


def extend_for_the_frozen(patch: Patch) -> None:
    """What has begun may go on."""
    original = _actor.policy.check_growth
    patch.setattr(_actor.policy, "check_growth", lambda *arguments: original(*arguments[:-1], False))


def forget_a_freeze_at_a_restart(patch: Patch) -> None:
    original = _books.Books.load.__func__  # type: ignore[attr-defined]
    patch.setattr(_books.Books, "load", classmethod(lambda cls, found: original(cls, evolve(found, frozen_ns=None))))


def spend_past_a_budget(patch: Patch) -> None:
    """By holds that are open at the same time."""
    original = _actor.check_budget
    patch.setattr(_actor, "check_budget", lambda budget, held, *more: original(budget, 0, *more))


def forget_what_a_budget_has_spent(patch: Patch) -> None:
    patch.setattr(_actor, "charged", lambda budget, charge_msat: ())


def spend_from_a_budget_that_has_ended(patch: Patch) -> None:
    patch.setattr(_budgets, "lives", lambda budget, now_ns: True)


def keep_a_revoked_token(patch: Patch) -> None:
    original = Accounts.tokens_changed

    def changed(self: Any, name: str, rows: Any) -> None:
        original(self, name, tuple([row for row in rows if row.revoked_ns is None]))

    patch.setattr(Accounts, "tokens_changed", changed)


def keep_an_expired_token(patch: Patch) -> None:
    original = TokenTable.change

    def change(self: Any, learned: Any, forgotten: Any) -> None:
        original(self, tuple([evolve(row, expires_ns=None) for row in learned]), forgotten)

    patch.setattr(TokenTable, "change", change)


def let_a_budgets_token_spend_everything(patch: Patch) -> None:
    """Once it has been loaded again, it is its agent's."""
    original = Accounts.__init__

    def init(self: Any, system: Any, ledger: Any, tokens: Any, **more: Any) -> None:
        original(self, system, ledger, [evolve(row, budget_id=None) for row in tokens], **more)

    patch.setattr(Accounts, "__init__", init)


# Other cores


def end_reservations_at_a_restart(patch: Patch) -> None:
    patch.setattr(_recovery, "is_remote", lambda hold: False)


def take_no_repeat_for_a_sign_of_life(patch: Patch) -> None:
    original = AgentAccountActor._answer_from_hold
    patch.setattr(
        AgentAccountActor, "_answer_from_hold", lambda self, job, hold, lease_s: original(self, job, hold, None)
    )


# What the operator is told


def count_an_event_as_told_when_it_is_sent(patch: Patch) -> None:
    original = Webhooks._deliver

    async def deliver(self: Any, event: Any) -> None:
        delivered = evolve(event, state=EventState.DELIVERED, ended_ns=time.time_ns())
        self._ledger.submit(_webhooks.EventProgress(delivered))
        await original(self, event)

    patch.setattr(Webhooks, "_deliver", deliver)


def forget_an_event_after_a_failure(patch: Patch) -> None:
    original = _webhooks.after_attempt

    def after(event: Any, failure: str | None, now_ns: int, spread: float) -> Any:
        return original(event, failure if failure and failure.startswith("status") else None, now_ns, spread)

    patch.setattr(_webhooks, "after_attempt", after)


def forget_events_at_a_restart(patch: Patch) -> None:
    """Whatever is in the outbox by then is old."""
    original_start, original_tell = Webhooks.on_start, Webhooks._tell

    def on_start(self: Any) -> None:
        self._begun_ns = time.time_ns()
        original_start(self)

    def tell(self: Any, events: Any, error: Any) -> None:
        fresh = None if events is None else tuple([row for row in events if row.created_ns >= self._begun_ns])
        original_tell(self, fresh, error)

    patch.setattr(Webhooks, "on_start", on_start)
    patch.setattr(Webhooks, "_tell", tell)


def tell_nobody_of_a_success(patch: Patch) -> None:
    """The agent knows."""
    original = _payments_desk._change

    def change(desk: Any, payment: Any, *arguments: Any, **more: Any) -> Any:
        silent = {"also": ()} if payment.state is S.SUCCEEDED else {}
        return original(desk, payment, *arguments, **{**more, **silent})

    patch.setattr(_payments_desk, "_change", change)


def forget_alerts_at_a_restart(patch: Patch) -> None:
    """And raise them again before their time."""
    original = _books.Books.load.__func__  # type: ignore[attr-defined]
    patch.setattr(
        _books.Books, "load", classmethod(lambda cls, found: original(cls, evolve(found, last_alert_ns=None)))
    )


def raise_no_alert_for_a_request(patch: Patch) -> None:
    """But for payments."""
    original = _payments_desk.follow

    def follow(desk: Any, change: Any) -> None:
        if change.receipt is None:
            original(desk, change)

    patch.setattr(_payments_desk, "follow", follow)


OF_THE_VAULT: tuple[Mutation, ...] = (
    pay_again_after_a_lost_answer,
    take_unknown_for_failed,
    take_silence_for_failed,
    take_pending_for_succeeded,
    try_elsewhere_what_is_in_doubt,
    ask_the_wallet_before_the_disk,
    give_up_what_was_being_sent,
    send_again_after_a_crash,
    charge_nothing_for_the_fee,
    spend_what_is_withdrawn,
    hold_without_the_fee,
    forget_the_key_of_a_payment,
    pay_what_the_agent_says,
    grant_after_expiry,
    grant_without_checking_again,
    expire_a_little_early,
    expire_what_was_granted,
    tell_everybody_that_they_decided,
    forget_approvals_at_a_restart,
    give_back_twice_what_is_denied,
    forget_what_is_held_in_the_day,
    forget_the_day_at_a_restart,
    let_a_policy_count_before_its_time,
    extend_for_the_frozen,
    forget_a_freeze_at_a_restart,
    spend_past_a_budget,
    forget_what_a_budget_has_spent,
    spend_from_a_budget_that_has_ended,
    keep_a_revoked_token,
    keep_an_expired_token,
    let_a_budgets_token_spend_everything,
    end_reservations_at_a_restart,
    take_no_repeat_for_a_sign_of_life,
    count_an_event_as_told_when_it_is_sent,
    forget_an_event_after_a_failure,
    forget_events_at_a_restart,
    tell_nobody_of_a_success,
    forget_alerts_at_a_restart,
    raise_no_alert_for_a_request,
)
