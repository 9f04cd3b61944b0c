"""One agent's account as an actor: it decides in memory at once, and answers when the decision is on disk.

The next message is decided while the commits of earlier ones are still under way, on the balances as they will be;
each commit is a compare-and-set on what it was decided on. When one fails, all that were decided after it fail too, and
the account is read again from disk before anything else is decided: what was refused is refused, what must not be lost
(ends of holds) is decided anew, for as long as it takes.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict, deque
from typing import Any

import trio
from attrs import define, evolve, field

from actors import Reply, TrioActor, TrioActorRef
from arbstr.accounts import _rules as rules
from arbstr.accounts._messages import (
    Balance,
    Deposit,
    Ended,
    Extend,
    Held,
    Release,
    Renew,
    Reserve,
    Settle,
    Sweep,
)
from arbstr.accounts._now import deposit_change
from arbstr.accounts._recovery import resolve_lost_hold
from arbstr.errors import ArbstrError, BillingRefused, InternalError, InvalidRequest, LedgerUnavailable
from arbstr.store import (
    AccountChange,
    AccountRow,
    AuditEntry,
    DuplicateKey,
    HoldChange,
    HoldRenewal,
    HoldRow,
    HoldState,
    ReceiptOnly,
    ReceiptRow,
    Store,
    StoreError,
    StoreUnavailable,
    VersionConflict,
    new_hold_id,
    read_account,
    read_deposit,
    read_hold,
    read_open_holds,
)

logger = logging.getLogger(__name__)

NS = 1_000_000_000
MAX_PARKED = 10_000
"""Messages that wait for the account to be read, beside ends of holds, of which there are no more than holds."""
REMEMBERED_ENDS = 4_096
FIRST_RETRY_S = 0.05
LAST_RETRY_S = 2.0
STOP_POLL_S = 0.005


@define(eq=False)
class _Job:
    """A message and the way back to whoever sent it."""

    message: Any
    reply: Reply
    awaited: bool = False
    """When it was parked, somebody waited for the answer."""

    @property
    def ends_a_hold(self) -> bool:
        return isinstance(self.message, Settle | Release)

    @property
    def pointless(self) -> bool:
        """Whoever asked to hold money has gone away since; a release of it is on its way, or its lease runs out."""
        return self.awaited and self.reply.abandoned and isinstance(self.message, Reserve | Extend | Balance)


@define(eq=False)
class _Operation:
    """A commit under way and everybody who waits for it; repeats of a message join its operation."""

    key: str
    answer: object
    jobs: list[_Job]


@define(eq=False)
class _OpenHold:
    row: HoldRow
    owner: TrioActorRef[Any] | None
    operation: _Operation | None = None
    """The last change of it, until that is on disk."""


@define(eq=False)
class _EndedHold:
    charged_msat: int
    answer: Ended
    operation: _Operation | None
    """None once the end is on disk."""


@define(eq=False)
class _Books:
    """What was read from disk, and everything decided since."""

    account: AccountRow
    holds: dict[str, _OpenHold] = field(factory=dict)


class AgentAccountActor(TrioActor):
    """Owns one agent's balance and holds. See ``_messages`` for what it answers.

    Nothing is awaited in a handler, so a cancellation finds the actor between two messages. Stopping, it waits for the
    commits under way and goes on trying to end holds, for ``shutdown_timeout_s``.
    """

    inbox_capacity = 20_000
    burst = 64

    def __init__(self, agent_id: str, store: Store, hold_lease_s: float) -> None:
        super().__init__()
        self._agent_id = agent_id
        self._store = store
        self._lease_ns = int(hold_lease_s * NS)
        self._books: _Books | None = None  # None: must be read from disk before the next decision
        self._owners: dict[str, TrioActorRef[Any]] = {}
        self._ended: OrderedDict[str, _EndedHold] = OrderedDict()
        self._parked: deque[_Job] = deque()
        self._in_flight = 0
        self._reading = False  # the store has been asked for the books
        self._waiting_to_read = False
        self._never_read = True
        self._ledger_down = False  # a commit or a read failed since the books were last read
        self._retry_s = FIRST_RETRY_S

    def on_start(self) -> None:
        self._read_when_idle()

    async def on_stop(self) -> None:
        """Let those who wait hear. What the ledger does not take in time is resolved at the next start (M7)."""
        while self._in_flight or self._reading or self._parked:
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
        else:
            self._take(_Job(message, self.take_reply()))

    def _take(self, job: _Job) -> None:
        if self._books is not None:
            self._decide(job, self._books)
        elif len(self._parked) < MAX_PARKED or job.ends_a_hold:
            self._park(job)
        else:
            job.reply.set_exception(
                LedgerUnavailable("the account waits for its ledger and its queue is full", retry_after_s=1)
            )

    def _park(self, job: _Job) -> None:
        job.awaited = job.awaited or not job.reply.abandoned
        self._parked.append(job)

    def _decide(self, job: _Job, books: _Books) -> None:
        try:
            match job.message:
                case Reserve():
                    self._reserve(job, job.message, books)
                case Extend():
                    self._extend(job, job.message, books)
                case Settle():
                    self._end_hold(job, job.message, job.message.charge_msat, books)
                case Release():
                    self._end_hold(job, job.message, 0, books)
                case Deposit():
                    self._deposit(job, job.message, books)
                case Balance():
                    job.reply.set(books.account)
                case other:
                    raise InvalidRequest(f"an account does not understand {type(other).__name__}")
        except ArbstrError as refusal:
            self._refuse(job, refusal)
        except ValueError as absurd:
            self._refuse(job, InvalidRequest(str(absurd), status=422, reason="absurd_amount"))

    def _refuse(self, job: _Job, error: ArbstrError) -> None:
        if job.ends_a_hold:
            logger.error("hold %s: %s was refused: %s", job.message.key, type(job.message).__name__, error)
        job.reply.set_exception(error)

    # Decisions

    def _reserve(self, job: _Job, message: Reserve, books: _Books) -> None:
        known = books.holds.get(message.key)
        if known is not None:
            self._own(known, message)
            self._answer_from_hold(job, known, books)
            return
        if message.key in self._ended:
            raise _used(message.key)
        before, move = books.account, rules.reserve(books.account, message.amount_msat)
        now = time.time_ns()
        row = HoldRow(
            hold_id=new_hold_id(),
            key=message.key,
            agent_id=self._agent_id,
            amount_msat=message.amount_msat,
            state=HoldState.OPEN,
            model=message.model,
            provider=message.provider,
            created_ns=now,
            lease_ns=now + self._lease_ns,
            correlation_id=message.correlation_id,
        )
        change = AccountChange(
            key=f"reserve:{message.key}",
            kind="reserve",
            at_ns=now,
            before=before,
            after=move.after,
            postings=move.postings,
            audit=AuditEntry(
                "HOLD_RESERVED",
                {"key": message.key, "hold_id": row.hold_id, "held_msat": message.amount_msat, "model": row.model},
            ),
            hold=row,
        )
        answer = Held(message.key, message.amount_msat, move.after.available_msat)
        hold = _OpenHold(row, None, self._commit(change, job, message.key, answer, books))
        books.holds[message.key] = hold
        self._own(hold, message)

    def _own(self, hold: _OpenHold, message: Reserve) -> None:
        if message.owner is not None:
            hold.owner = self._owners[message.key] = message.owner

    def _answer_from_hold(self, job: _Job, hold: _OpenHold, books: _Books) -> None:
        """It holds enough as it is; said only when that is on disk (M6)."""
        if hold.operation is not None:
            hold.operation.jobs.append(job)
        else:
            job.reply.set(Held(hold.row.key, hold.row.amount_msat, books.account.available_msat))

    def _extend(self, job: _Job, message: Extend, books: _Books) -> None:
        hold = books.holds.get(message.key)
        if hold is None:
            raise BillingRefused(f"there is no open hold {message.key}", status=409, reason="no_open_hold")
        row = hold.row
        if message.to_msat <= row.amount_msat:
            self._answer_from_hold(job, hold, books)
            return
        before, move = books.account, rules.reserve(books.account, message.to_msat - row.amount_msat)
        now = time.time_ns()
        larger = evolve(
            row,
            amount_msat=message.to_msat,
            extensions=row.extensions + 1,
            lease_ns=now + self._lease_ns,
            provider=message.provider,
        )
        change = AccountChange(
            key=f"extend:{message.key}:{larger.extensions}",
            kind="extend",
            at_ns=now,
            before=before,
            after=move.after,
            postings=move.postings,
            audit=AuditEntry("HOLD_EXTENDED", {"key": message.key, "held_msat": message.to_msat}),
            hold=HoldChange(
                hold_id=row.hold_id,
                before_msat=row.amount_msat,
                amount_msat=larger.amount_msat,
                state=HoldState.OPEN,
                provider=larger.provider,
                lease_ns=larger.lease_ns,
                extensions=larger.extensions,
            ),
        )
        answer = Held(message.key, message.to_msat, move.after.available_msat)
        hold.operation = self._commit(change, job, message.key, answer, books)
        hold.row = larger

    def _end_hold(self, job: _Job, message: Settle | Release, charge_msat: int, books: _Books) -> None:
        hold = books.holds.get(message.key)
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
        )
        answer = Ended(message.key, charge_msat, move.after.available_msat, move.after.debt_msat)
        try:
            operation = self._commit(change, job, message.key, answer, books)
        except LedgerUnavailable:
            self._park(job)
            self._forget_books(ledger_down=True)
            return
        self._remember_end(message.key, _EndedHold(charge_msat, answer, operation), books)

    def _remember_end(self, key: str, ended: _EndedHold, books: _Books) -> None:
        del books.holds[key]
        self._owners.pop(key, None)
        self._ended[key] = ended
        if len(self._ended) > REMEMBERED_ENDS:
            self._ended.popitem(last=False)

    def _deposit(self, job: _Job, message: Deposit, books: _Books) -> None:
        move = rules.deposit(books.account, message.amount_msat)
        change = deposit_change(books.account, move, message.amount_msat, message.key)
        self._commit(change, job, message.key, move.after, books)

    # Repeats of what is on disk

    def _repeat_end(self, job: _Job, message: Settle | Release, charge_msat: int) -> None:
        """The hold is not open: answer as it was answered the first time, or refuse another amount (M3)."""
        ended = self._ended.get(message.key)
        if ended is None:
            self._look_up_end(job, message, charge_msat)
        elif ended.charged_msat != charge_msat:
            raise _ended_otherwise(message.key, ended.charged_msat, charge_msat)
        elif ended.operation is not None:
            ended.operation.jobs.append(job)
        else:
            job.reply.set(ended.answer)

    def _look_up_end(self, job: _Job, message: Settle | Release, charge_msat: int) -> None:
        def found(row: HoldRow | None, error: StoreError | None) -> None:
            if error is not None:
                self._park(job)
                self._forget_books(ledger_down=True)
            elif row is None or row.agent_id != self._agent_id:
                self._end_nothing(job, message)
            elif row.charged_msat is None:  # open on disk, so our books are old
                self._park(job)
                self._forget_books()
            elif row.charged_msat != charge_msat:
                self._refuse(job, _ended_otherwise(message.key, row.charged_msat, charge_msat))
            else:
                account = self._books.account if self._books else AccountRow(self._agent_id)
                job.reply.set(Ended(message.key, charge_msat, account.available_msat, account.debt_msat))

        try:
            self._store.call(lambda db: read_hold(db, key=message.key), found)
        except StoreUnavailable as error:
            found(None, error)

    def _end_nothing(self, job: _Job, message: Settle | Release) -> None:
        if isinstance(message, Settle):
            refusal = BillingRefused(f"there is no hold {message.key}", status=404, reason="no_open_hold")
            self._refuse(job, refusal)
        elif message.receipt is None:
            job.reply.set(Ended(message.key, 0, 0, 0))
        else:
            self._file(job, evolve(message.receipt, agent_id=self._agent_id, cost_msat=0))

    def _file(self, job: _Job, receipt: ReceiptRow) -> None:
        """A request that never held anything leaves its receipt all the same."""

        def filed(_: object, error: StoreError | None) -> None:
            recorded = error is None or isinstance(error, DuplicateKey)
            job.reply.set(Ended(job.message.key, 0, 0, 0, recorded=recorded))

        try:
            self._store.submit(ReceiptOnly(receipt), filed)
        except StoreUnavailable as error:
            filed(None, error)

    def _look_up_deposit(self, job: _Job, message: Deposit) -> None:
        def found(first: tuple[tuple[str, int] | None, AccountRow] | None, error: StoreError | None) -> None:
            if first is None:
                self._refuse(job, _unavailable(error))
            elif first[0] != (self._agent_id, message.amount_msat):
                self._refuse(job, _used(message.key))
            else:
                job.reply.set(first[1])

        try:
            self._store.call(lambda db: (read_deposit(db, message.key), read_account(db, self._agent_id)), found)
        except StoreUnavailable as error:
            self._refuse(job, _unavailable(error))

    # Leases

    def _renew(self, message: Renew) -> None:
        hold = self._books.holds.get(message.key) if self._books else None
        if hold is None:
            return
        lease_ns = time.time_ns() + self._lease_ns
        hold.row = evolve(hold.row, lease_ns=lease_ns, evidence_msat=max(hold.row.evidence_msat, message.evidence_msat))
        try:
            self._store.submit(HoldRenewal(hold.row.hold_id, lease_ns, message.evidence_msat))
        except StoreUnavailable as error:
            logger.warning("hold %s keeps its old lease: %s", message.key, error)

    def _sweep(self) -> None:
        """End holds that nobody owns any more. A slow disk or a stopped clock never ends the hold of a live request."""
        books, now = self._books, time.time_ns()
        if books is None:
            return
        for key, hold in list(books.holds.items()):
            owned = hold.owner is not None and hold.owner.is_alive()
            if owned or hold.row.lease_ns > now:
                continue
            change = resolve_lost_hold(books.account, hold.row, now, "its lease ran out and its request is gone")
            charged = hold.row.evidence_msat
            answer = Ended(key, charged, change.after.available_msat, change.after.debt_msat)
            try:
                operation = self._commit(change, None, key, answer, books)
            except LedgerUnavailable:
                return  # the next sweep tries again
            self._remember_end(key, _EndedHold(charged, answer, operation), books)

    # Commits

    def _commit(self, change: AccountChange, job: _Job | None, key: str, answer: object, books: _Books) -> _Operation:
        """Hand a change to the writer and go on as if it were done. Raises LedgerUnavailable if it was not taken."""
        operation = _Operation(key, answer, [job] if job else [])
        try:
            self._store.submit(change, lambda _, error: self._committed(operation, error))
        except StoreUnavailable as error:
            raise _unavailable(error) from error
        self._in_flight += 1
        books.account = change.after
        return operation

    def _committed(self, operation: _Operation, error: StoreError | None) -> None:
        self._in_flight -= 1
        if error is None:
            self._retry_s = FIRST_RETRY_S
            self._is_on_disk(operation)
            for job in operation.jobs:
                job.reply.set(operation.answer)
        else:
            self._commit_failed(operation, error)
        if self._books is None:
            self._read_when_idle()

    def _is_on_disk(self, operation: _Operation) -> None:
        """Later repeats are answered at once."""
        hold = self._books.holds.get(operation.key) if self._books else None
        if hold is not None and hold.operation is operation:
            hold.operation = None
        ended = self._ended.get(operation.key)
        if ended is not None and ended.operation is operation:
            ended.operation = None

    def _commit_failed(self, operation: _Operation, error: StoreError) -> None:
        ended = self._ended.get(operation.key)
        if ended is not None and ended.operation is operation:
            del self._ended[operation.key]
        for job in operation.jobs:
            self._take_back(job, error)
        self._forget_books(ledger_down=isinstance(error, StoreUnavailable))

    def _take_back(self, job: _Job, error: StoreError) -> None:
        """What becomes of a message whose commit failed."""
        again = isinstance(error, VersionConflict) or (
            job.ends_a_hold and isinstance(error, StoreUnavailable | DuplicateKey)
        )
        if again:
            self._park(job)
        elif isinstance(error, StoreUnavailable):
            self._refuse(job, _unavailable(error))
        elif not isinstance(error, DuplicateKey):
            self._refuse(job, InternalError("the ledger will not take this"))
        elif isinstance(job.message, Deposit):
            self._look_up_deposit(job, job.message)
        else:
            self._refuse(job, _used(job.message.key))

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
            self._store.call(
                lambda db: (read_account(db, self._agent_id), read_open_holds(db, self._agent_id)), self._have_read
            )
        except StoreUnavailable as error:
            self._have_read(None, error)

    def _have_read(self, found: tuple[AccountRow, list[HoldRow]] | None, error: StoreError | None) -> None:
        self._reading = False
        if found is None:
            logger.error("account %s cannot be read: %s", self._agent_id, error)
            self._refuse_parked(_unavailable(error))
            self._forget_books(ledger_down=True)
            return
        self._ledger_down = False
        self._books = self._with_owners(*found)
        parked, self._parked = self._parked, deque()
        for job in parked:
            try:
                if not job.pointless:
                    self._take(job)
            except Exception:  # the actor's loop for what was parked: one bad message must not stop the others
                logger.exception("account %s failed at %s", self._agent_id, type(job.message).__name__)
                job.reply.set_exception(InternalError("the account failed at this request"))

    def _with_owners(self, account: AccountRow, rows: list[HoldRow]) -> _Books:
        if self._never_read:
            # An actor died before us. Who owned these is not known; whoever lives will renew within a lease.
            lease_ns = time.time_ns() + self._lease_ns
            rows = [evolve(row, lease_ns=max(row.lease_ns, lease_ns)) for row in rows]
            self._never_read = False
        holds = {row.key: _OpenHold(row, self._owners.get(row.key)) for row in rows}
        self._owners = {key: owner for key, owner in self._owners.items() if key in holds}
        return _Books(account, holds)

    def _refuse_parked(self, error: LedgerUnavailable) -> None:
        """Ends of holds go on waiting; the others have an asker who should hear now."""
        keep: deque[_Job] = deque()
        for job in self._parked:
            if job.ends_a_hold:
                keep.append(job)
            else:
                job.reply.set_exception(error)
        self._parked = keep


def _unavailable(error: StoreError | None) -> LedgerUnavailable:
    return LedgerUnavailable(f"the ledger cannot be written, so nothing can be spent: {error}", retry_after_s=1)


def _used(key: str) -> BillingRefused:
    return BillingRefused(f"the key {key} was used before", status=409, reason="key_used")


def _ended_otherwise(key: str, first_msat: int, now_msat: int) -> BillingRefused:
    return BillingRefused(
        f"hold {key} ended with a charge of {first_msat} msat and cannot be ended with {now_msat} msat",
        status=409,
        reason="ended_otherwise",
        details={"charged_msat": first_msat},
    )
