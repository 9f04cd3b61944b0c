"""One agent's account as an actor: it decides in memory at once, and answers when the decision is on disk.

The next message is decided while the commits of earlier ones are still under way, on the balances as they will be;
each commit is a compare-and-set on what it was decided on. When one fails, all that were decided after it fail too, and
the account is read again from disk before anything else is decided: what was refused is refused, what must not be lost
(ends of holds) is decided anew, for as long as it takes.
"""

from __future__ import annotations

import logging
import random
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

import trio
from attrs import define, evolve

from actors import TrioActor, TrioActorRef
from arbstr.accounts import _operator_desk as operator_desk
from arbstr.accounts import _payments_desk as payments_desk
from arbstr.accounts import _policy as policy
from arbstr.accounts import _rules as rules
from arbstr.accounts._books import Books, Job, OpenHold, Operation
from arbstr.accounts._budgets import charged, check_budget, check_budget_growth
from arbstr.accounts._messages import (
    Balance,
    Deposit,
    Disown,
    Ended,
    Extend,
    Held,
    Owner,
    Release,
    Renew,
    Reserve,
    Settle,
    Sweep,
)
from arbstr.accounts._now import deposit_change
from arbstr.accounts._recovery import is_remote, resolve_lost_hold
from arbstr.errors import (
    ArbstrError,
    BillingRefused,
    InternalError,
    InvalidRequest,
    LedgerUnavailable,
    NotFound,
)
from arbstr.store import (
    AccountChange,
    AccountRow,
    AuditEntry,
    BearerRow,
    BudgetRow,
    Committed,
    DuplicateKey,
    FindDeposit,
    FindHold,
    FoundDeposit,
    HoldChange,
    HoldRenewal,
    HoldRow,
    HoldState,
    Ledger,
    LoadAccount,
    LoadedAccount,
    Question,
    ReceiptOnly,
    ReceiptRow,
    StoreError,
    StoreUnavailable,
    UnknownAgent,
    VersionConflict,
    new_hold_id,
)

logger = logging.getLogger(__name__)

A = TypeVar("A")

NS = 1_000_000_000
MAX_PARKED = 10_000
"""Messages that wait for the account to be read, beside ends of holds, of which there are no more than holds."""
REMEMBERED_ENDS = 256
"""Whose repeats are answered without a look at the disk."""
FIRST_RETRY_S = 0.05
LAST_RETRY_S = 2.0
STOP_POLL_S = 0.005
IDLE_S = 600.0


@define(eq=False)
class _EndedHold:
    charged_msat: int
    answer: Ended
    operation: Operation | None
    """None once the end is on disk."""


class Registry(Protocol):
    """Where the accounts of a process are found; told by them on the thread of their system."""

    def retired(self, agent_id: str, ref: TrioActorRef[Any]) -> None:
        """This account is about to end itself: whoever asks for it next gets another."""

    def tokens_changed(self, name: str, rows: tuple[BearerRow, ...]) -> None:
        """These are on disk; ``name`` is the agent's."""


class AgentAccountActor(TrioActor):
    """Owns everything of one agent. See ``_messages`` for what it answers; it is the ``Desk`` of its handlers.

    Nothing is awaited in a handler, so a cancellation finds the actor between two messages. Stopping, it waits for the
    commits under way and goes on trying to end holds, for ``shutdown_timeout_s``.
    """

    inbox_capacity = 20_000
    burst = 64

    def __init__(
        self,
        agent_id: str,
        ledger: Ledger,
        hold_lease_s: float,
        idle_s: float = IDLE_S,
        registry: Registry | None = None,
    ) -> None:
        super().__init__()
        self.agent_id = agent_id
        self.ledger = ledger
        self.lease_ns = int(hold_lease_s * NS)
        self._idle_s = idle_s
        self._registry = registry
        self._used_at = 0.0  # on Trio's clock
        self._retiring = False
        self._books: Books | None = None  # None: must be read from disk before the next decision
        self._owners: dict[str, Owner] = {}
        self._claimed_by: dict[str, str] = {}  # key of a hold -> the request that has taken it by its approval
        self._owners_known_at = 0.0  # on Trio's clock
        self._ended: OrderedDict[str, _EndedHold] = OrderedDict()
        self._parked: deque[Job] = deque()
        self._in_flight = 0
        self._looking_up = 0
        self._reading = False  # the ledger has been asked for the books
        self._waiting_to_read = False
        self._never_read = True
        self._first_since_read = True
        self._name = ""
        self._ledger_down = False  # a commit or a read failed since the books were last read
        self._retry_s = FIRST_RETRY_S

    def on_start(self) -> None:
        self._used_at = trio.current_time()
        self._read_when_idle()

    async def on_stop(self) -> None:
        """Let those who wait hear. What the ledger does not take in time is resolved at the next start (M7)."""
        while self._in_flight or self._looking_up or self._reading or self._parked:
            if self._books is None and not self._in_flight and not self._reading:
                self._read()
                await trio.sleep(FIRST_RETRY_S)
            else:
                await trio.sleep(STOP_POLL_S)

    def on_receive(self, message: Any) -> None:
        if isinstance(message, Renew):
            self._renew(message)
        elif isinstance(message, Sweep):
            self._sweep()
        elif isinstance(message, Disown):
            self._resolve_lost("its process has ended", lambda hold: hold.owner is message.owner)
        else:
            self._used_at = trio.current_time()
            self._take(Job(message, self.take_reply(), type(message) in MUST_END))

    def _take(self, job: Job) -> None:
        if self._books is not None:
            self._decide(job)
        elif len(self._parked) < MAX_PARKED or job.must_end:
            self._park(job)
        else:
            job.reply.set_exception(
                LedgerUnavailable("the account waits for its ledger and its queue is full", retry_after_s=1)
            )

    def _park(self, job: Job) -> None:
        job.awaited = job.awaited or not job.reply.abandoned
        self._parked.append(job)

    def _decide(self, job: Job) -> None:
        handler = HANDLERS.get(type(job.message))
        try:
            if handler is None:
                raise InvalidRequest(f"an account does not understand {type(job.message).__name__}")
            handler(self, job, job.message)
        except LedgerUnavailable as error:
            if job.must_end:
                self.park(job, ledger_down=True)
            else:
                self.refuse(job, error)
        except ArbstrError as refusal:
            self.refuse(job, refusal)
        except ValueError as absurd:
            self.refuse(job, InvalidRequest(str(absurd), status=422, reason="absurd_amount"))

    # What handlers may do

    @property
    def books(self) -> Books:
        assert self._books is not None, "decided without books"
        return self._books

    def refuse(self, job: Job, error: ArbstrError) -> None:
        if job.must_end:
            what, key = type(job.message).__name__, getattr(job.message, "key", "")
            logger.error("account %s: %s %s was refused: %s", self.agent_id, what, key, error)
        job.reply.set_exception(error)

    def again(self, job: Job) -> None:
        self._take(job)

    def park(self, job: Job, *, ledger_down: bool) -> None:
        self._park(job)
        self._forget_books(ledger_down=ledger_down)

    def remind(self, delay_s: float, message: Any) -> None:
        self.send_after(delay_s, message)

    def look_up(self, question: Question[A], found: Callable[[A | None, StoreError | None], None]) -> None:
        def answered(answer: A | None, error: StoreError | None) -> None:
            self._looking_up -= 1
            found(answer, error)

        self._looking_up += 1
        try:
            self.ledger.ask(question, answered)
        except StoreUnavailable as error:
            answered(None, error)

    # Decisions

    def _reserve(self, job: Job, message: Reserve) -> None:
        if message.approval_id is not None:
            self._claim(job, message, message.approval_id)
            return
        books = self.books
        known = books.holds.get(message.key)
        if known is not None:
            self._answer_from_hold(job, self._same_hold(known, message), message.lease_s)
            return
        if message.key in self._ended:
            raise _used(message.key)
        before, now = books.account, time.time_ns()
        budget_id = message.budget_id
        if message.owed_msat is not None:
            move = rules.owe(before, message.amount_msat, message.owed_msat)
            budget_id = budget_id if budget_id in books.budgets else None  # one that has ended counts no more
        else:
            self._check_request(message, now)
            move = rules.reserve(before, message.amount_msat)
        row = HoldRow(
            hold_id=new_hold_id(),
            key=message.key,
            agent_id=self.agent_id,
            amount_msat=message.amount_msat,
            state=HoldState.OPEN,
            model=message.model,
            provider=message.provider,
            created_ns=now,
            lease_ns=self._lease_until(message, now),
            evidence_msat=message.owed_msat or 0,
            correlation_id=message.correlation_id,
            budget_id=budget_id,
        )
        details: dict[str, object] = {
            "key": message.key,
            "hold_id": row.hold_id,
            "held_msat": message.amount_msat,
            "model": row.model,
        }
        if budget_id is not None:
            details["budget_id"] = budget_id
        change = AccountChange(
            key=f"reserve:{message.key}",
            kind="reserve",
            at_ns=now,
            before=before,
            after=move.after,
            postings=move.postings,
            audit=AuditEntry("HOLD_RESERVED", details),
            hold=row,
        )
        self.commit(change, job, message.key, Held(message.key, message.amount_msat, move.after.available_msat))
        self._own(books.holds[message.key], message)

    def _claim(self, job: Job, message: Reserve, approval_id: str) -> None:
        granted = payments_desk.claim(self, job, message, approval_id)
        if granted is not None:
            self._claimed_by[granted] = message.key
            self._own(self.books.holds[granted], message)

    def _check_request(self, message: Reserve, now_ns: int) -> None:
        """Whether policy and budget allow it. Raises BillingRefused."""
        books = self.books
        policy.check_request(
            books.policy(now_ns),
            books.day_spend_msat(now_ns),
            len(books.holds),
            message.amount_msat,
            message.model,
            books.frozen_ns is not None,
        )
        if message.budget_id is not None:
            budget, (held, holds) = books.budgets.get(message.budget_id), books.budget_use(message.budget_id)
            check_budget(budget, held, holds, message.amount_msat, message.model, now_ns)

    def _lease_until(self, message: Reserve | Extend | Renew, now_ns: int) -> int:
        return now_ns + (self.lease_ns if message.lease_s is None else int(message.lease_s * NS))

    def _same_hold(self, hold: OpenHold, message: Reserve) -> OpenHold:
        """The open hold that ``message`` asks for once more. Raises BillingRefused (409) when it is something else."""
        if hold.row.kind != "request" or hold.row.budget_id != message.budget_id:
            raise _used(message.key)
        if self.books.awaits_approval(message.key):
            raise _pending(message.key)
        self._own(hold, message)
        return hold

    def _own(self, hold: OpenHold, message: Reserve | Renew) -> None:
        if message.owner is not None:
            hold.owner = self._owners[hold.row.key] = message.owner

    def _answer_from_hold(self, job: Job, hold: OpenHold, lease_s: float | None) -> None:
        """It holds enough as it is; said only when that is on disk (M6), and with it the longer lease of whoever has
        one of their own: they have shown that they live."""
        renew = None if lease_s is None else Renew(hold.row.key, 0, lease_s)
        if hold.operation is not None:
            if renew is not None:
                self._renew(renew)
            hold.operation.jobs.append(job)
            return
        held = Held(hold.row.key, hold.row.amount_msat, self.books.account.available_msat)

        def renewed(_: object, error: StoreError | None) -> None:
            self._looking_up -= 1
            if error is None:
                job.reply.set(held)
            else:
                self.refuse(job, _unavailable(error))

        if renew is None:
            job.reply.set(held)
        else:
            self._looking_up += 1
            self._renew(renew, renewed)

    def _extend(self, job: Job, message: Extend) -> None:
        books, hold = self.books, self._open_request(message.key)
        if hold is None:
            raise BillingRefused(f"there is no open hold {message.key}", status=409, reason="no_open_hold")
        row = hold.row
        more_msat = message.to_msat - row.amount_msat
        if more_msat <= 0:
            self._answer_from_hold(job, hold, message.lease_s)
            return
        before, now = books.account, time.time_ns()
        policy.check_growth(
            books.policy(now), books.day_spend_msat(now), row.amount_msat, more_msat, books.frozen_ns is not None
        )
        if row.budget_id is not None:
            check_budget_growth(books.budgets.get(row.budget_id), books.budget_use(row.budget_id)[0], more_msat, now)
        move = rules.reserve(before, more_msat)
        change = AccountChange(
            key=f"extend:{message.key}:{row.extensions + 1}",
            kind="extend",
            at_ns=now,
            before=before,
            after=move.after,
            postings=move.postings,
            audit=AuditEntry("HOLD_EXTENDED", {"key": message.key, "held_msat": message.to_msat}),
            hold=HoldChange(
                hold_id=row.hold_id,
                before_msat=row.amount_msat,
                amount_msat=message.to_msat,
                state=HoldState.OPEN,
                provider=message.provider,
                lease_ns=max(row.lease_ns, self._lease_until(message, now)),
                extensions=row.extensions + 1,
            ),
        )
        self.commit(change, job, message.key, Held(message.key, message.to_msat, move.after.available_msat))

    def _settle(self, job: Job, message: Settle) -> None:
        self._end_hold(job, message, message.charge_msat)

    def _release(self, job: Job, message: Release) -> None:
        if not self.books.awaits_approval(message.key):
            if self._is_anothers(message):
                self._end_nothing(job, message)
            else:
                self._end_hold(job, message, 0)
        elif message.withdraw:
            payments_desk.withdraw_request(self, job, message)
        elif message.receipt is not None:
            self._end_nothing(job, message)
        else:
            raise _pending(message.key)

    def _is_anothers(self, message: Release) -> bool:
        """A request that has come for an approval names it as its key, and may leave before it hears that it gets
        nothing: it must not give back what another request spends from, by whatever key it came."""
        key, receipt = message.key, message.receipt
        if receipt is None or (key not in self.books.holds and key not in self._ended):
            return False
        return receipt.request_id != self._claimed_by.get(key, key)

    def _end_hold(self, job: Job, message: Settle | Release, charge_msat: int) -> None:
        books, hold = self.books, self._open_request(message.key)
        if hold is None:
            self._repeat_end(job, message, charge_msat)
            return
        row = hold.row
        before, move = books.account, rules.settle(books.account, row.amount_msat, charge_msat)
        now = time.time_ns()
        settled = isinstance(message, Settle)
        details: dict[str, object] = {"key": message.key, "held_msat": row.amount_msat, "charged_msat": charge_msat}
        if isinstance(message, Release):
            details["reason"] = message.reason
        elif move.after.debt_msat > before.debt_msat:
            details["debt_msat"] = move.after.debt_msat
        if message.receipt is not None and message.receipt.request_id != message.key:
            details["request_id"] = message.receipt.request_id  # it is held under its approval's id
        change = AccountChange(
            key=f"end:{message.key}",
            kind="settle" if settled else "release",
            at_ns=now,
            before=before,
            after=move.after,
            postings=move.postings,
            audit=AuditEntry("HOLD_SETTLED" if settled else "HOLD_RELEASED", details),
            hold=HoldChange(
                hold_id=row.hold_id,
                before_msat=row.amount_msat,
                amount_msat=row.amount_msat,
                state=HoldState.SETTLED if settled else HoldState.RELEASED,
                provider=row.provider,
                lease_ns=row.lease_ns,
                extensions=row.extensions,
                charged_msat=charge_msat,
                ended_ns=now,
            ),
            receipt=message.receipt,
            also=charged(self._budget_of(row), charge_msat),
        )
        answer = Ended(message.key, charge_msat, move.after.available_msat, move.after.debt_msat)
        self.commit(change, job, message.key, answer)

    def _open_request(self, key: str) -> OpenHold | None:
        """The open hold of a request. Raises BillingRefused for one that is a payment's or waits for an approval."""
        hold = self.books.holds.get(key)
        if hold is not None:
            if hold.row.kind != "request":
                raise _no_hold(key)
            if self.books.awaits_approval(key):
                raise _pending(key)
        return hold

    def _budget_of(self, row: HoldRow) -> BudgetRow | None:
        return None if row.budget_id is None else self.books.budgets[row.budget_id]

    def _deposit(self, job: Job, message: Deposit) -> None:
        before = self.books.account
        move = rules.deposit(before, message.amount_msat)
        change = deposit_change(before, move, message.amount_msat, message.key)

        def used(job: Job) -> None:
            self._look_up_deposit(job, message)

        self.commit(change, job, message.key, move.after, used)

    def _balance(self, job: Job, _: Balance) -> None:
        job.reply.set(self.books.account)

    # Repeats of what is on disk

    def _repeat_end(self, job: Job, message: Settle | Release, charge_msat: int) -> None:
        """The hold is not open: answer as it was answered the first time, or refuse another amount (M3)."""
        ended = self._ended.get(message.key)
        if ended is None:
            self._look_up_end(job, message, charge_msat)
        elif ended.charged_msat != charge_msat:
            raise _ended_otherwise(message.key, ended.charged_msat, charge_msat)
        elif _is_withdrawal(message):
            self._end_nothing(job, message)
        elif ended.operation is not None:
            ended.operation.jobs.append(job)
        else:
            job.reply.set(ended.answer)

    def _look_up_end(self, job: Job, message: Settle | Release, charge_msat: int) -> None:
        def found(row: HoldRow | None, error: StoreError | None) -> None:
            if error is not None:
                self.park(job, ledger_down=True)
            elif row is None or row.agent_id != self.agent_id:
                self._end_nothing(job, message)
            elif row.kind != "request":
                self.refuse(job, _no_hold(message.key))
            elif row.charged_msat is None:  # open on disk, so our books are old
                self.park(job, ledger_down=False)
            elif row.charged_msat != charge_msat:
                self.refuse(job, _ended_otherwise(message.key, row.charged_msat, charge_msat))
            elif _is_withdrawal(message):
                self._end_nothing(job, message)
            else:
                account = self._books.account if self._books else AccountRow(self.agent_id)
                job.reply.set(Ended(message.key, charge_msat, account.available_msat, account.debt_msat))

        self.look_up(FindHold(key=message.key), found)

    def _end_nothing(self, job: Job, message: Settle | Release) -> None:
        if isinstance(message, Settle):
            self.refuse(job, _no_hold(message.key))
        elif message.receipt is None:
            job.reply.set(Ended(message.key, 0, 0, 0))
        else:
            self._file(job, evolve(message.receipt, agent_id=self.agent_id, cost_msat=0))

    def _file(self, job: Job, receipt: ReceiptRow) -> None:
        """A request that never held anything leaves its receipt all the same."""

        def filed(_: object, error: StoreError | None) -> None:
            self._looking_up -= 1
            recorded = error is None or isinstance(error, DuplicateKey)
            job.reply.set(Ended(job.message.key, 0, 0, 0, recorded=recorded))

        self._looking_up += 1
        try:
            self.ledger.submit(ReceiptOnly(receipt), filed)
        except StoreUnavailable as error:
            filed(None, error)

    def _look_up_deposit(self, job: Job, message: Deposit) -> None:
        def found(first: FoundDeposit | None, error: StoreError | None) -> None:
            if error is not None:
                self.refuse(job, _unavailable(error))
            elif first is None or (first.account.agent_id, first.amount_msat) != (self.agent_id, message.amount_msat):
                self.refuse(job, _used(message.key))
            else:
                job.reply.set(first.account)

        self.look_up(FindDeposit(message.key), found)

    # Leases

    def _renew(self, message: Renew, done: Committed | None = None) -> None:
        hold = self._books.holds.get(message.key) if self._books else None
        if hold is None:
            return
        self._own(hold, message)
        lease_ns = max(hold.row.lease_ns, self._lease_until(message, time.time_ns()))  # the clock may have stepped back
        hold.row = evolve(hold.row, lease_ns=lease_ns, evidence_msat=max(hold.row.evidence_msat, message.evidence_msat))
        try:
            self.ledger.submit(HoldRenewal(hold.row.hold_id, lease_ns, message.evidence_msat), done)
        except StoreUnavailable as error:
            logger.warning("hold %s keeps its old lease: %s", message.key, error)
            if done is not None:
                done(None, error)

    def _sweep(self) -> None:
        """End holds that nobody owns any more. A slow disk or a stopped clock never ends the hold of a live request."""
        now = time.time_ns()

        def is_lost(hold: OpenHold) -> bool:
            if hold.owner is None and not is_remote(hold.row) and trio.current_time() < self._owners_known_at:
                return False  # another core's has no owner at any time
            return hold.row.lease_ns <= now and (hold.owner is None or not hold.owner.is_alive())

        if self._resolve_lost("its lease ran out and its request is gone", is_lost) and self._is_idle(self.books):
            self._retire()

    def _resolve_lost(self, why: str, is_lost: Callable[[OpenHold], bool]) -> bool:
        """False when not all could be looked at: the next sweep tries again."""
        books = self._books
        if books is None:
            return False
        for key, hold in list(books.holds.items()):
            if hold.row.kind != "request" or books.awaits_approval(key) or not is_lost(hold):
                continue
            change = resolve_lost_hold(books.account, hold.row, time.time_ns(), why, self._budget_of(hold.row))
            answer = Ended(key, hold.row.evidence_msat, change.after.available_msat, change.after.debt_msat)
            try:
                self.commit(change, None, key, answer)
            except LedgerUnavailable:
                return False
        return True

    # Ending for want of anything to do

    def _is_idle(self, books: Books) -> bool:
        busy = books.holds or books.payments or books.approvals or self._in_flight or self._looking_up or self._parked
        return (
            not busy
            and not self._reading
            and self.actor_inbox.empty()
            and trio.current_time() - self._used_at >= self._idle_s
        )

    def _retire(self) -> None:
        """End, without losing a message: what was sent is handled before, and who asks from now on gets another.

        Nothing comes between the last look into the inbox and the registry's forgetting us: both are in this handler.
        Only who has kept a ref across a wait may find it dead, as after a crash.
        """
        if self._registry is not None and not self._retiring:
            self._retiring = True
            self._registry.retired(self.agent_id, self.actor_ref)
            self.stop()

    # Commits

    def commit(
        self,
        change: AccountChange,
        job: Job | None,
        key: str,
        answer: object,
        duplicate: Callable[[Job], None] | None = None,
    ) -> Operation:
        books = self.books
        if self._first_since_read:
            # Not the next number: of two owners who both read this version, and whose first change moves no money, the
            # one that failed would else have its second one taken for decided on the other's.
            after = evolve(change.after, version=change.after.version + random.getrandbits(31))
            answer = after if answer is change.after else answer
            change = evolve(change, after=after)
        tokens = tuple([row for row in change.also if isinstance(row, BearerRow)]) if change.also else ()
        operation = Operation(key, answer, [job] if job else [], tokens, duplicate)
        try:
            self.ledger.submit(change, lambda _, error: self._committed(operation, error))
        except StoreUnavailable as error:
            raise _unavailable(error) from error
        self._in_flight += 1
        self._first_since_read = False
        ends = isinstance(change.hold, HoldChange) and change.hold.state is not HoldState.OPEN
        if ends and books.holds[key].row.kind == "request":
            self._remember_end(key, operation, change)
        books.apply(change, key, operation)
        payments_desk.follow(self, change)
        return operation

    def _remember_end(self, key: str, operation: Operation, change: AccountChange) -> None:
        assert isinstance(change.hold, HoldChange)
        after, charge_msat, answer = change.after, change.hold.charged_msat or 0, operation.answer
        if not isinstance(answer, Ended):  # a human's no ends a hold as well
            answer = Ended(key, charge_msat, after.available_msat, after.debt_msat)
        self._owners.pop(key, None)
        self._ended[key] = _EndedHold(charge_msat, answer, operation)
        if len(self._ended) > REMEMBERED_ENDS:
            forgotten, _ = self._ended.popitem(last=False)
            self._claimed_by.pop(forgotten, None)

    def _committed(self, operation: Operation, error: StoreError | None) -> None:
        self._in_flight -= 1
        if error is None:
            self._retry_s = FIRST_RETRY_S
            self._is_on_disk(operation)
            if operation.tokens and self._registry is not None:
                self._registry.tokens_changed(self._name, operation.tokens)
            for job in operation.jobs:
                job.reply.set(operation.answer)
        else:
            self._commit_failed(operation, error)
        if self._books is None:
            self._read_when_idle()

    def _is_on_disk(self, operation: Operation) -> None:
        """Later repeats are answered at once."""
        hold = self._books.holds.get(operation.key) if self._books else None
        if hold is not None and hold.operation is operation:
            hold.operation = None
        ended = self._ended.get(operation.key)
        if ended is not None and ended.operation is operation:
            ended.operation = None

    def _commit_failed(self, operation: Operation, error: StoreError) -> None:
        ended = self._ended.get(operation.key)
        if ended is not None and ended.operation is operation:
            del self._ended[operation.key]
        for job in operation.jobs:
            self._take_back(job, operation, error)
        self._forget_books(ledger_down=isinstance(error, StoreUnavailable))

    def _take_back(self, job: Job, operation: Operation, error: StoreError) -> None:
        """What becomes of a message whose commit failed."""
        if isinstance(error, VersionConflict) or (job.must_end and isinstance(error, StoreUnavailable)):
            self._park(job)
        elif isinstance(error, StoreUnavailable):
            self.refuse(job, _unavailable(error))
        elif not isinstance(error, DuplicateKey):
            self.refuse(job, InternalError("the ledger will not take this"))
        elif operation.duplicate is not None:
            operation.duplicate(job)
        elif job.must_end:
            self._park(job)
        else:
            self.refuse(job, _used(operation.key))

    # Reading

    def _forget_books(self, *, ledger_down: bool = False) -> None:
        """What we believe is not what is on disk: read it again, as soon as everything under way has come back."""
        self._books = None
        self._ledger_down = self._ledger_down or ledger_down
        self._read_when_idle()

    def _read_when_idle(self) -> None:
        if self._in_flight or self._reading or self._waiting_to_read or self.actor_stopped.is_set():
            return  # whatever is under way brings us here again, or ``on_stop`` does
        if not self._ledger_down:
            self._read()
            return
        self._waiting_to_read = True
        self.spawn(self._read_later, self._retry_s)
        self._retry_s = min(self._retry_s * 2, LAST_RETRY_S)

    async def _read_later(self, delay_s: float) -> None:
        await trio.sleep(delay_s)
        self._waiting_to_read = False
        self._read()

    def _read(self) -> None:
        self._reading = True
        try:
            self.ledger.ask(LoadAccount(self.agent_id, time.time_ns()), self._have_read)
        except StoreUnavailable as error:
            self._have_read(None, error)

    def _have_read(self, found: LoadedAccount | None, error: StoreError | None) -> None:
        self._reading = False
        if isinstance(error, UnknownAgent):
            self._is_nobody()
            return
        if found is None:
            logger.error("account %s cannot be read: %s", self.agent_id, error)
            self._refuse_parked(_unavailable(error))
            self._forget_books(ledger_down=True)
            return
        self._ledger_down = False
        self._books = self._with_owners(found)
        self._first_since_read = True
        self._name = found.name
        parked, self._parked = self._parked, deque()
        for job in parked:
            try:
                if not _pointless(job):
                    self._take(job)
            except Exception:  # the actor's loop for what was parked: one bad message must not stop the others
                logger.exception("account %s failed at %s", self.agent_id, type(job.message).__name__)
                job.reply.set_exception(InternalError("the account failed at this request"))

    def _is_nobody(self) -> None:
        """There is no such agent: say so to everybody, and end."""
        parked, self._parked = self._parked, deque()
        for job in parked:
            self.refuse(job, NotFound("Agent not found"))
        self._retire()

    def _with_owners(self, found: LoadedAccount) -> Books:
        rows = found.open_holds
        if self._never_read:
            # An actor died before us. Who owned these is not known; whoever lives will renew within a lease, which is
            # not measured by the wall clock: that may jump.
            lease_ns = time.time_ns() + self.lease_ns
            rows = tuple([evolve(row, lease_ns=max(row.lease_ns, lease_ns)) for row in rows])
            self._owners_known_at = trio.current_time() + self.lease_ns / NS
            self._never_read = False
        books = Books.load(evolve(found, open_holds=rows))
        for key, hold in books.holds.items():
            hold.owner = self._owners.get(key)
        self._owners = {key: owner for key, owner in self._owners.items() if key in books.holds}
        self._claimed_by = {
            key: request_id for key, request_id in self._claimed_by.items() if key in books.holds or key in self._ended
        }
        return books

    def _refuse_parked(self, error: LedgerUnavailable) -> None:
        """Ends of holds go on waiting; the others have an asker who should hear now."""
        keep: deque[Job] = deque()
        for job in self._parked:
            if job.must_end:
                keep.append(job)
            else:
                job.reply.set_exception(error)
        self._parked = keep


def _unavailable(error: StoreError | None) -> LedgerUnavailable:
    return LedgerUnavailable(f"the ledger cannot be written, so nothing can be spent: {error}", retry_after_s=1)


def _used(key: str) -> BillingRefused:
    return BillingRefused(f"the key {key} was used before", status=409, reason="key_used")


def _no_hold(key: str) -> BillingRefused:
    return BillingRefused(f"there is no hold {key}", status=404, reason="no_open_hold")


def _pending(key: str) -> BillingRefused:
    return BillingRefused(f"request {key} waits for an approval", status=409, reason="approval_pending")


def _pointless(job: Job) -> bool:
    """Whoever asked has gone away since. Of a hold, a release is on its way, or its lease runs out."""
    return job.awaited and job.reply.abandoned and type(job.message) in NOTHING_UNHEARD


def _is_withdrawal(message: Settle | Release) -> bool:
    """Of a request whose approval was denied or has timed out by itself, which has filed no receipt."""
    return isinstance(message, Release) and message.withdraw


def _ended_otherwise(key: str, first_msat: int, now_msat: int) -> BillingRefused:
    return BillingRefused(
        f"hold {key} ended with a charge of {first_msat} msat and cannot be ended with {now_msat} msat",
        status=409,
        reason="ended_otherwise",
        details={"charged_msat": first_msat},
    )


HANDLERS: Mapping[type, Callable[[AgentAccountActor, Job, Any], None]] = {
    Reserve: AgentAccountActor._reserve,
    Extend: AgentAccountActor._extend,
    Settle: AgentAccountActor._settle,
    Release: AgentAccountActor._release,
    Deposit: AgentAccountActor._deposit,
    Balance: AgentAccountActor._balance,
    **operator_desk.HANDLERS,
    **payments_desk.HANDLERS,
}
"""By type of message."""

MUST_END = frozenset({Settle, Release}) | payments_desk.MUST_END
NOTHING_UNHEARD = frozenset({Reserve, Extend, Balance}) | operator_desk.NOTHING_UNHEARD | payments_desk.NOTHING_UNHEARD
