"""Deliberate defects, one at a time: each is what somebody could have written, and the simulation must find it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from attrs import evolve

from arbstr.accounts import AgentAccountActor, Ended, Extend, Held, Reserve, _actor, _recovery, _rules
from arbstr.providers import Report
from arbstr.requests import _attempts, _books, _purse, _record
from arbstr.requests._actor import Stay
from arbstr.requests._attempts import Attempts, Missed
from arbstr.requests._relay import StreamRelay
from arbstr.store import (
    AccountChange,
    MemoryBooks,
    MemoryLedger,
    Posting,
)
from arbstr.store import LedgerAccount as Account

Patch = pytest.MonkeyPatch
Mutation = Callable[[Patch], None]


def settle_twice(patch: Patch) -> None:
    """A repeated settle is charged again, for whoever repeats must mean it."""
    original = AgentAccountActor._repeat_end

    def repeat(self: Any, job: Any, message: Any, charge_msat: int) -> None:
        books, ended = self._books, self._ended.get(message.key)
        if ended is not None and books is not None and 0 < charge_msat <= books.account.available_msat:
            held = _rules.reserve(books.account, charge_msat).after
            move = _rules.settle(held, charge_msat, charge_msat)
            after = evolve(move.after, version=books.account.version + 1)
            postings = (Posting(Account.AVAILABLE, -charge_msat), Posting(Account.SPENT, charge_msat))
            audit = _actor.AuditEntry("HOLD_SETTLED", {"key": message.key})
            key = f"end:{message.key}:{after.version}"
            change = AccountChange(key, "again", 1, books.account, after, postings, audit)
            self.commit(change, job, message.key, Ended(message.key, charge_msat, 0, 0))
        else:
            original(self, job, message, charge_msat)

    patch.setattr(AgentAccountActor, "_repeat_end", repeat)


def forget_the_hold_on_cancel(patch: Patch) -> None:
    """A client that leaves ends its request, and nobody thinks of what was held for it."""
    original = _purse.AccountPurse.end

    async def end(self: Any, charge_msat: int, receipt: Any, *, delivered: bool) -> bool:
        if receipt.outcome == "client_disconnected":
            return True
        return await original(self, charge_msat, receipt, delivered=delivered)

    patch.setattr(_purse.AccountPurse, "end", end)


def forget_the_hold_on_a_stop(patch: Patch) -> None:
    """A program that stops has other things to think of."""
    original = _purse.AccountPurse.end

    async def end(self: Any, charge_msat: int, receipt: Any, *, delivered: bool) -> bool:
        if receipt.outcome == "shutdown":
            return True
        return await original(self, charge_msat, receipt, delivered=delivered)

    patch.setattr(_purse.AccountPurse, "end", end)


def _answer_at_once(patch: Patch, answers: type) -> None:
    original = AgentAccountActor.commit

    def commit(self: Any, change: Any, job: Any, key: str, answer: object, *more: Any) -> Any:
        operation = original(self, change, job, key, answer, *more)
        if job is not None and isinstance(answer, answers):
            operation.jobs.remove(job)
            job.reply.set(answer)
        return operation

    patch.setattr(AgentAccountActor, "commit", commit)


def hold_after_the_reply(patch: Patch) -> None:
    _answer_at_once(patch, Held)


def answer_before_the_commit(patch: Patch) -> None:
    _answer_at_once(patch, Ended)


def lose_the_last_change_in_a_crash(patch: Patch) -> None:
    """It was acknowledged, and was not on disk yet."""
    original = MemoryLedger.crash

    def crash(self: MemoryLedger, committed: int = 0) -> MemoryLedger:
        books = self._books
        for table, key, before in reversed(books._undo):
            if type(before) is object:  # there was nothing
                del table[key]
            else:
                table[key] = before
        return original(self, committed)

    patch.setattr(MemoryLedger, "crash", crash)


def charge_above_the_hold_silently(patch: Patch) -> None:
    """What neither hold nor balance covers is forgotten."""
    original = _rules.settle

    def settle(account: Any, held_msat: int, charge_msat: int) -> Any:
        return original(account, held_msat, min(charge_msat, held_msat + account.available_msat))

    patch.setattr(_rules, "settle", settle)


def release_what_was_delivered(patch: Patch) -> None:
    """A client that has left is not charged, whatever it got."""
    original = _purse.AccountPurse.end

    async def end(self: Any, charge_msat: int, receipt: Any, *, delivered: bool) -> bool:
        delivered = delivered and receipt.outcome == "ok"
        return await original(self, charge_msat, receipt, delivered=delivered)

    patch.setattr(_purse.AccountPurse, "end", end)


def renew_without_evidence(patch: Patch) -> None:
    original = _purse.AccountPurse.renew
    patch.setattr(_purse.AccountPurse, "renew", lambda self, evidence_msat: original(self, 0))


def drop_the_evidence_at_recovery(patch: Patch) -> None:
    original = _recovery.resolve_lost_hold

    def resolve(account: Any, hold: Any, *more: Any) -> Any:
        return original(account, evolve(hold, evidence_msat=0), *more)

    patch.setattr(_recovery, "resolve_lost_hold", resolve)


def keep_the_permit(patch: Patch) -> None:
    """Of an attempt that was abandoned."""
    original = Attempts._give_back

    def give_back(self: Any, ref: Any, report: Report) -> None:
        if report.outcome is not _attempts.Outcome.ABANDONED:
            original(self, ref, report)

    patch.setattr(Attempts, "_give_back", give_back)


def ask_again_after_an_answer(patch: Patch) -> None:
    """An answer that was cut off is asked for once more, and billed once more."""
    original = Attempts._try

    async def attempt(self: Any, candidate: Any, admission: Any) -> Any:
        try:
            return await original(self, candidate, admission)
        except Missed as missed:
            raise evolve(missed, again=True) from None

    patch.setattr(Attempts, "_try", attempt)


def recovery_leaves_holds_open(patch: Patch) -> None:
    from arbstr.sim import _process

    patch.setattr(_process, "resolve_orphans", lambda ledger: 0)


def ignore_an_extension(patch: Patch) -> None:
    """It is granted, and nothing more is held."""

    def extend(self: Any, job: Any, message: Any) -> None:
        job.reply.set(Held(message.key, message.to_msat, self.books.account.available_msat))

    patch.setitem(_actor.HANDLERS, Extend, extend)  # type: ignore[arg-type]  # a dict, shown as a mapping


def charge_the_price_of_the_moment(patch: Patch) -> None:
    """And not the one that the request was begun with."""
    now: dict[str, Any] = {}
    from arbstr.providers import Directory

    original = Directory.publish

    def publish(self: Any, view: Any, ref: Any) -> None:
        now[view.name] = view.price
        original(self, view, ref)

    def cost_msat(self: Any) -> int:
        price = now.get(self.candidate.provider) or self.candidate.price
        used = self.usage
        return int(price.cost_msat(used.prompt_tokens, used.completion_tokens, used.cached_tokens))

    patch.setattr(Directory, "publish", publish)
    patch.setattr(_record.Consumption, "cost_msat", property(cost_msat))


def accept_a_key_again(patch: Patch) -> None:
    """A repeat holds a second time, under a key that was made different."""
    original = AgentAccountActor._reserve

    def reserve(self: Any, job: Any, message: Any) -> None:
        if message.key in self.books.holds:
            message = evolve(message, key=f"{message.key}+")
        original(self, job, message)

    patch.setitem(_actor.HANDLERS, Reserve, reserve)  # type: ignore[arg-type]


def credit_a_deposit_again(patch: Patch) -> None:
    numbers = iter(range(10**9))
    original = _actor.deposit_change

    def change(account: Any, move: Any, amount_msat: int, key: str) -> Any:
        return evolve(original(account, move, amount_msat, key), key=f"deposit:{key}:{next(numbers)}")

    patch.setattr(_actor, "deposit_change", change)


def another_amount_is_taken_for_a_repeat(patch: Patch) -> None:
    original = AgentAccountActor._repeat_end

    def repeat(self: Any, job: Any, message: Any, charge_msat: int) -> None:
        ended = self._ended.get(message.key)
        if ended is not None and ended.operation is None:
            job.reply.set(evolve(ended.answer, charged_msat=charge_msat))
        else:
            original(self, job, message, charge_msat)

    patch.setattr(AgentAccountActor, "_repeat_end", repeat)


def spend_beside_a_debt(patch: Patch) -> None:
    original = _rules.reserve

    def reserve(account: Any, amount_msat: int) -> Any:
        move = original(evolve(account, debt_msat=0), amount_msat)
        return evolve(move, after=evolve(move.after, debt_msat=account.debt_msat))

    patch.setattr(_rules, "reserve", reserve)


def no_audit_row_for_a_release(patch: Patch) -> None:
    original = MemoryBooks._append_audit

    def append(self: Any, at_ns: int, agent_id: str, entry: Any) -> None:
        if entry.action != "HOLD_RELEASED":
            original(self, at_ns, agent_id, entry)

    patch.setattr(MemoryBooks, "_append_audit", append)


def sell_without_a_ledger(patch: Patch) -> None:
    """When it cannot be asked, the request goes on: it will be settled later."""
    original = _purse.AccountPurse.cover

    async def cover(self: Any, candidate: Any, bound_msat: int) -> None:
        try:
            await original(self, candidate, bound_msat)
        except _purse.LedgerUnavailable:
            self.held_msat = bound_msat

    patch.setattr(_purse.AccountPurse, "cover", cover)


def keep_the_place_of_a_stream(patch: Patch) -> None:
    """Whoever leaves in the middle still counts among the requests in flight."""
    original = Stay.end

    def end(self: Any) -> None:
        if self.detached:
            return
        original(self)

    patch.setattr(Stay, "end", end)


def believe_every_claim(patch: Patch) -> None:
    """Of what a provider says it used, and so charge more than the client allowed."""
    patch.setattr(_books.Books, "_credible", lambda self, claimed: claimed)


def count_a_stream_from_its_last_piece(patch: Patch) -> None:
    original = StreamRelay.feed

    def feed(self: Any, chunk: bytes) -> bytes:
        self._content_bytes = self._pieces = 0
        return original(self, chunk)

    patch.setattr(StreamRelay, "feed", feed)


def sell_what_has_no_price(patch: Patch) -> None:
    """As if it cost nothing."""
    from arbstr.requests import _context
    from arbstr.units import Price

    original = _context._offer
    free = Price.of(0, 0)
    patch.setattr(_context, "_offer", lambda view: evolve(original(view), price=view.price or free))


def round_a_cost_down(patch: Patch) -> None:
    def cost_msat(self: Any) -> int:
        used, price = self.usage, self.candidate.price
        return max(0, int(price.cost_msat(used.prompt_tokens, used.completion_tokens, used.cached_tokens)) - 1)

    patch.setattr(_record.Consumption, "cost_msat", property(cost_msat))


OF_REQUESTS: tuple[Mutation, ...] = (
    settle_twice,
    forget_the_hold_on_cancel,
    forget_the_hold_on_a_stop,
    hold_after_the_reply,
    answer_before_the_commit,
    lose_the_last_change_in_a_crash,
    charge_above_the_hold_silently,
    release_what_was_delivered,
    renew_without_evidence,
    drop_the_evidence_at_recovery,
    keep_the_permit,
    ask_again_after_an_answer,
    recovery_leaves_holds_open,
    ignore_an_extension,
    charge_the_price_of_the_moment,
    accept_a_key_again,
    credit_a_deposit_again,
    another_amount_is_taken_for_a_repeat,
    spend_beside_a_debt,
    no_audit_row_for_a_release,
    sell_without_a_ledger,
    keep_the_place_of_a_stream,
    believe_every_claim,
    count_a_stream_from_its_last_piece,
    sell_what_has_no_price,
    round_a_cost_down,
)
