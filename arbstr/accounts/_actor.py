"""One agent's account as an actor: it decides in memory at once, and answers when the decision is on disk.

The next message is decided while the commits of earlier ones are still under way, on the balances as they will be;
each commit is a compare-and-set on the version it was decided on. When one fails, all that were decided after it fail
too, and the account is read again from disk before anything else is decided: what was refused is refused, what must not
be lost (ends of holds) is decided anew, for as long as it takes.
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
from arbstr.accounts._recovery import resolve_lost_hold
from arbstr.errors import ArbstrError, BillingRefused, InternalError, LedgerUnavailable
from arbstr.store import (
    AccountChange,
    AccountRow,
    AuditEntry,
    Connection,
    DuplicateKey,
    HoldRenewal,
    HoldRow,
    HoldState,
    Store,
    StoreError,
    StoreUnavailable,
    VersionConflict,
    new_hold_id,
    read_account,
    read_hold,
    read_open_holds,
)

logger = logging.getLogger(__name__)

NS = 1_000_000_000
MAX_PARKED = 10_000
REMEMBERED_ENDS = 4_096
FIRST_RETRY_S = 0.05
LAST_RETRY_S = 2.0


@define(eq=False)
class _Job:
    """A message and the way back to whoever sent it."""

    message: Any
    reply: Reply | None

    def answer(self, value: object) -> None:
        if self.reply is not None:
            self.reply.set(value)

    def refuse(self, error: BaseException) -> None:
        if self.reply is not None:
            self.reply.set_exception(error)


@define(eq=False)
class _Operation:
    """A commit under way and everybody who waits for it; repeats of a message join its operation."""

    key: str
    kind: str
    answer: object
    jobs: list[_Job]


@define(eq=False)
class _OpenHold:
    row: HoldRow
    owner: TrioActorRef[Any] | None
    operation: _Operation | None = None


@define(eq=False)
class _EndedHold:
    charged_msat: int
    answer: Ended
    operation: _Operation | None = None
    """None once the end is on disk."""


@define(eq=False)
class _Books:
    """What was read from disk, and everything decided since."""

    account: AccountRow
    holds: dict[str, _OpenHold] = field(factory=dict)


class AgentAccountActor(TrioActor):
    """Owns one agent's balance and holds. See ``_messages`` for what it answers."""

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
        self._loading = False
        self._retry_s = FIRST_RETRY_S

    def on_start(self) -> None:
        self._load()

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
        elif len(self._parked) < MAX_PARKED or isinstance(job.message, Settle | Release):
            self._parked.append(job)
        else:
            job.refuse(LedgerUnavailable("the account waits for its ledger and its queue is full", retry_after_s=1))

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
                    job.answer(books.account)
                case other:
                    job.refuse(TypeError(f"an account does not understand {type(other).__name__}"))
        except ArbstrError as refusal:
            job.refuse(refusal)
        except _Postponed:
            pass

    # Decisions

    def _reserve(self, job: _Job, message: Reserve, books: _Books) -> None:
        known = books.holds.get(message.key)
        if known is not None:
            if known.operation is not None:
                known.operation.jobs.append(job)
            else:
                job.answer(Held(message.key, known.row.amount_msat, books.account.available_msat))
            return
        if message.key in self._ended:
            raise _used(message.key)
        move = rules.reserve(books.account, message.amount_msat)
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
        hold = _OpenHold(row, message.owner)
        hold.operation = self._commit(
            AccountChange(
                key=f"reserve:{message.key}",
                kind="reserve",
                at_ns=now,
                before_version=books.account.version,
                after=move.after,
                postings=move.postings,
                audit=AuditEntry(
                    "HOLD_RESERVED",
                    {"key": message.key, "hold_id": row.hold_id, "held_msat": message.amount_msat, "model": row.model},
                ),
                hold=row,
            ),
            job,
            message.key,
            Held(message.key, message.amount_msat, move.after.available_msat),
            books,
        )
        books.holds[message.key] = hold
        if message.owner is not None:
            self._owners[message.key] = message.owner

    def _extend(self, job: _Job, message: Extend, books: _Books) -> None:
        hold = books.holds.get(message.key)
        if hold is None:
            raise BillingRefused(f"there is no open hold {message.key}", status=409, reason="no_open_hold")
        row = hold.row
        if message.to_msat <= row.amount_msat:
            job.answer(Held(message.key, row.amount_msat, books.account.available_msat))
            return
        move = rules.reserve(books.account, message.to_msat - row.amount_msat)
        now = time.time_ns()
        larger = evolve(
            row,
            amount_msat=message.to_msat,
            extensions=row.extensions + 1,
            lease_ns=now + self._lease_ns,
            provider=message.provider,
        )
        hold.operation = self._commit(
            AccountChange(
                key=f"extend:{message.key}:{larger.extensions}",
                kind="extend",
                at_ns=now,
                before_version=books.account.version,
                after=move.after,
                postings=move.postings,
                audit=AuditEntry("HOLD_EXTENDED", {"key": message.key, "held_msat": message.to_msat}),
                hold=larger,
            ),
            job,
            message.key,
            Held(message.key, message.to_msat, move.after.available_msat),
            books,
        )
        hold.row = larger

    def _end_hold(self, job: _Job, message: Settle | Release, charge_msat: int, books: _Books) -> None:
        hold = books.holds.get(message.key)
        if hold is None:
            self._repeat_end(job, message, charge_msat)
            return
        row = hold.row
        move = rules.settle(books.account, row.amount_msat, charge_msat)
        now = time.time_ns()
        settled = isinstance(message, Settle)
        ended_row = evolve(
            row,
            state=HoldState.SETTLED if settled else HoldState.RELEASED,
            charged_msat=charge_msat,
            ended_ns=now,
        )
        details: dict[str, object] = {"key": message.key, "held_msat": row.amount_msat, "charged_msat": charge_msat}
        if isinstance(message, Release):
            details["reason"] = message.reason
        elif move.after.debt_msat > books.account.debt_msat:
            details["debt_msat"] = move.after.debt_msat
        receipt = message.receipt and evolve(message.receipt, hold_id=row.hold_id)
        answer = Ended(message.key, charge_msat, move.after.available_msat, move.after.debt_msat)
        operation = self._commit(
            AccountChange(
                key=f"end:{message.key}",
                kind="settle" if settled else "release",
                at_ns=now,
                before_version=books.account.version,
                after=move.after,
                postings=move.postings,
                audit=AuditEntry("HOLD_SETTLED" if settled else "HOLD_RELEASED", details),
                hold=ended_row,
                receipt=receipt,
            ),
            job,
            message.key,
            answer,
            books,
        )
        self._remember_end(message.key, _EndedHold(charge_msat, answer, operation), books)

    def _remember_end(self, key: str, ended: _EndedHold, books: _Books) -> None:
        del books.holds[key]
        self._owners.pop(key, None)
        self._ended[key] = ended
        if len(self._ended) > REMEMBERED_ENDS:
            self._ended.popitem(last=False)

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
            job.answer(ended.answer)

    def _look_up_end(self, job: _Job, message: Settle | Release, charge_msat: int) -> None:
        def found(row: HoldRow | None, error: StoreError | None) -> None:
            if error is not None:
                job.refuse(LedgerUnavailable(f"the ledger cannot be read: {error}", retry_after_s=1))
            elif row is None and isinstance(message, Release):
                job.answer(Ended(message.key, 0, 0, 0, recorded=False))
            elif row is None or row.charged_msat is None:
                job.refuse(BillingRefused(f"there is no hold {message.key}", status=404, reason="no_open_hold"))
            elif row.charged_msat != charge_msat:
                job.refuse(_ended_otherwise(message.key, row.charged_msat, charge_msat))
            else:
                account = self._books.account if self._books else AccountRow(self._agent_id)
                job.answer(Ended(message.key, charge_msat, account.available_msat, account.debt_msat))

        try:
            self._store.call(lambda db: read_hold(db, key=message.key), found)
        except StoreUnavailable as error:
            raise _unavailable(error) from error

    def _deposit(self, job: _Job, message: Deposit, books: _Books) -> None:
        move = rules.deposit(books.account, message.amount_msat)
        self._commit(
            AccountChange(
                key=f"deposit:{message.key}",
                kind="deposit",
                at_ns=time.time_ns(),
                before_version=books.account.version,
                after=move.after,
                postings=move.postings,
                audit=AuditEntry("DEPOSIT", {"key": message.key, "amount_msat": message.amount_msat}),
            ),
            job,
            message.key,
            move.after,
            books,
        )

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
            if owned or hold.row.lease_ns > now or hold.operation is not None:
                continue
            change = resolve_lost_hold(books.account, hold.row, now, "its lease ran out and its request is gone")
            answer = Ended(key, hold.row.evidence_msat, change.after.available_msat, change.after.debt_msat)
            try:
                operation = self._commit(change, None, key, answer, books)
            except LedgerUnavailable:
                return  # the next sweep tries again
            self._remember_end(key, _EndedHold(hold.row.evidence_msat, answer, operation), books)

    # Commits

    def _commit(self, change: AccountChange, job: _Job | None, key: str, answer: object, books: _Books) -> _Operation:
        """Hand a change to the writer and go on as if it were done.

        Raises LedgerUnavailable if it was not taken; ``_Postponed`` for the end of a hold, which is never dropped.
        """
        operation = _Operation(key, change.kind, answer, [job] if job else [])
        try:
            self._store.submit(change, lambda _, error: self._committed(operation, error))
        except StoreUnavailable as error:
            if job is not None and isinstance(job.message, Settle | Release):
                self._parked.append(job)
                self._read_again(self._retry_s)
                raise _Postponed from error
            raise _unavailable(error) from error
        self._in_flight += 1
        books.account = change.after
        return operation

    def _committed(self, operation: _Operation, error: StoreError | None) -> None:
        self._in_flight -= 1
        if error is None:
            self._retry_s = FIRST_RETRY_S
            self._forget(operation)
            for job in operation.jobs:
                job.answer(operation.answer)
        else:
            self._commit_failed(operation, error)
        if self._books is None and self._in_flight == 0 and not self._loading:
            self._read_again(0 if isinstance(error, VersionConflict) or error is None else self._retry_s)

    def _forget(self, operation: _Operation) -> None:
        """The operation is on disk: later repeats are answered at once."""
        hold = self._books.holds.get(operation.key) if self._books else None
        if hold is not None and hold.operation is operation:
            hold.operation = None
        ended = self._ended.get(operation.key)
        if ended is not None and ended.operation is operation:
            ended.operation = None

    def _commit_failed(self, operation: _Operation, error: StoreError) -> None:
        self._books = None
        ended = self._ended.get(operation.key)
        if ended is not None and ended.operation is operation:
            del self._ended[operation.key]
        for job in operation.jobs:
            if isinstance(job.message, Settle | Release) or isinstance(error, VersionConflict):
                self._parked.append(job)
            elif isinstance(error, DuplicateKey):
                job.refuse(_used(operation.key))
            else:
                job.refuse(_unavailable(error))

    # Reading

    def _read_again(self, delay_s: float) -> None:
        self._books = None
        if self._loading or self._in_flight:
            return
        if delay_s <= 0:
            self._load()
            return
        self._loading = True
        self._retry_s = min(self._retry_s * 2, LAST_RETRY_S)
        self.spawn(self._load_later, delay_s)

    async def _load_later(self, delay_s: float) -> None:
        await trio.sleep(delay_s)
        self._load()

    def _load(self) -> None:
        def read(db: Connection) -> _Books:
            holds = {row.key: _OpenHold(row, None) for row in read_open_holds(db, self._agent_id)}
            return _Books(read_account(db, self._agent_id), holds)

        self._loading = True
        try:
            self._store.call(read, self._loaded)
        except StoreUnavailable as error:
            self._loaded(None, error)

    def _loaded(self, books: _Books | None, error: StoreError | None) -> None:
        self._loading = False
        if books is None:
            logger.error("account %s cannot be read: %s", self._agent_id, error)
            self._refuse_parked(_unavailable(error))
            self._read_again(self._retry_s)
            return
        for key, hold in books.holds.items():
            hold.owner = self._owners.get(key)
        self._owners = {key: owner for key, owner in self._owners.items() if key in books.holds}
        self._books = books
        waiting, self._parked = self._parked, deque()
        for job in waiting:
            try:
                self._take(job)
            except Exception:  # this is the actor's loop for what was parked: one bad message must not stop the others
                logger.exception("account %s failed at %s", self._agent_id, type(job.message).__name__)
                job.refuse(InternalError("the account failed at this request"))

    def _refuse_parked(self, error: LedgerUnavailable) -> None:
        """Ends of holds go on waiting; the others have an asker who should hear now."""
        keep: deque[_Job] = deque()
        for job in self._parked:
            if isinstance(job.message, Settle | Release):
                keep.append(job)
            else:
                job.refuse(error)
        self._parked = keep


class _Postponed(Exception):
    """The job was parked: it is decided anew after the account has been read again."""


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
