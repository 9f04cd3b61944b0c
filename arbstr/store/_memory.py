"""The books without a disk, for simulations: what ``Store`` would refuse is refused here, for the same reason.

Time passes when the simulation says so: what is queued is committed in batches, by ``step``, ``tick`` or ``run``.
``crash`` forgets what was not committed and leaves a new ledger over what was.
"""

from __future__ import annotations

import copy
import logging
import sqlite3
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

import trio
from attrs import frozen

from arbstr.store._errors import Refused, StoreBusy, StoreError, StoreUnavailable
from arbstr.store._ledger import Committed, Question
from arbstr.store._memory_books import MemoryBooks
from arbstr.store._values import Change, CheckReport
from arbstr.store._writer import MAX_BATCH, MAX_WAITING

logger = logging.getLogger(__name__)

A = TypeVar("A")


@frozen
class _Write:
    change: Change
    done: Committed | None


@frozen
class _Ask:
    question: Question[Any]
    done: Committed


class MemoryLedger:
    """A ``Ledger`` in dictionaries. For one thread.

    While ``at_once`` is True, as it is at first, everything is done inside ``submit`` and ``ask``: for set-up, before
    there are actors. ``ask_now`` and ``commit_now`` do everything that is queued, whatever else is set.
    """

    def __init__(
        self, books: MemoryBooks | None = None, *, max_batch: int = MAX_BATCH, max_waiting: int = MAX_WAITING
    ) -> None:
        self._books = books or MemoryBooks()
        self._queue: deque[_Write | _Ask] = deque()
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._failures: deque[StoreError] = deque()
        self._ticks = 0
        self._crashed = False
        self._stepping = False
        self._queued = trio.Event()
        self.at_once = True
        self.busy = False
        """Take nothing, like a full queue."""
        self.unreadable = False
        """Answer every question with StoreUnavailable."""

    # Ledger

    def submit(self, change: Change, done: Committed | None = None) -> None:
        self._put(_Write(change, done))

    def ask(self, question: Question[A], done: Callable[[A | None, StoreError | None], None]) -> None:
        self._put(_Ask(question, done))

    def commit_now(self, change: Change) -> None:
        errors: list[StoreError | None] = []
        self._put(_Write(change, lambda _, error: errors.append(error)))
        self.drain()
        if errors[0] is not None:
            raise errors[0]

    def ask_now(self, question: Question[A]) -> A:
        answers: list[tuple[Any, StoreError | None]] = []
        self._put(_Ask(question, lambda answer, error: answers.append((answer, error))))
        self.drain()
        ((answer, failure),) = answers
        if failure is not None:
            raise failure
        answered: A = answer
        return answered

    async def read(self, function: Callable[[sqlite3.Connection], A]) -> A:
        """Run a query over what is committed, like ``Store.read``. Raises StoreUnavailable."""
        await trio.lowlevel.checkpoint()
        if self.unreadable or self._crashed:
            raise StoreUnavailable("the disk cannot be read, says the simulation")
        return self._books.query(function)

    # Time

    @property
    def waiting(self) -> int:
        """Changes and questions that are queued."""
        return len(self._queue)

    @property
    def next_is_change(self) -> bool:
        """Whether a change, and not a question, is first in the queue."""
        return bool(self._queue) and isinstance(self._queue[0], _Write)

    def step(self) -> int:
        """Commit one batch and answer; how much of the queue it was."""
        jobs = [self._queue.popleft() for _ in range(min(self._max_batch, len(self._queue)))]
        answers: list[tuple[Committed, Any, StoreError | None]] = []
        failure = self._failures.popleft() if self._failures and any(isinstance(job, _Write) for job in jobs) else None
        for job in jobs:
            result, error = self._do(job, failure)
            if job.done is not None:
                answers.append((job.done, result, error))
            elif error is not None:
                logger.error("%s was not written and nobody waits for it: %s", type(job).__name__, error)
        for done, result, error in answers:
            done(result, error)
        return len(jobs)

    def drain(self) -> None:
        """Commit and answer until nothing is queued."""
        while self._queue:
            self.step()

    def tick(self, ticks_per_batch: int = 1) -> None:
        """One tick of a clock of which a batch takes so many: the last of them commits it."""
        self._ticks = self._ticks + 1 if self._queue else 0
        if self._ticks >= ticks_per_batch:
            self._ticks = 0
            self.step()

    async def run(self, delay_s: Callable[[], float] = lambda: 0.0) -> None:
        """Commit batches until cancelled or crashed, each so long after it has begun to gather."""
        self.at_once = False
        while not self._crashed:
            if not self._queue:
                self._queued = trio.Event()
                await self._queued.wait()
            await trio.sleep(delay_s())
            if not self._crashed:
                self.step()

    # Faults

    def fail_next(self, batches: int = 1, error: StoreError | None = None) -> None:
        """The next batches with changes in them fail whole, with StoreUnavailable unless told otherwise."""
        self._failures.extend([error or StoreUnavailable("the disk failed, says the simulation")] * batches)

    def crash(self, committed: int = 0) -> MemoryLedger:
        """End here, and begin again with what was committed: a new ledger.

        The first ``committed`` jobs of the queue reach the books, but nobody hears of it. This ledger takes nothing
        more.
        """
        for job in list(self._queue)[:committed]:
            self._do(job, None)
        self._queue.clear()
        self._crashed = True
        self._queued.set()
        return MemoryLedger(copy.deepcopy(self._books), max_batch=self._max_batch, max_waiting=self._max_waiting)

    # What is in the books

    def check(self) -> CheckReport:
        """What ``Store.check`` finds, over what is committed."""
        return self._books.check()

    def tables(self) -> dict[str, list[tuple[object, ...]]]:
        """All committed rows as a database has them, by table."""
        return self._books.tables()

    def _put(self, job: _Write | _Ask) -> None:
        if self._crashed:
            raise StoreUnavailable("the store is closed")
        if self.busy or len(self._queue) >= self._max_waiting:
            raise StoreBusy(f"{len(self._queue)} changes wait for the disk already")
        self._queue.append(job)
        self._queued.set()
        if self.at_once and not self._stepping:
            self._stepping = True
            try:
                self.drain()
            finally:
                self._stepping = False

    def _do(self, job: _Write | _Ask, failure: StoreError | None) -> tuple[Any, StoreError | None]:
        try:
            if isinstance(job, _Ask):
                if self.unreadable:
                    raise StoreUnavailable("the disk cannot be read, says the simulation")
                return self._books.answer(job.question), None
            if failure is not None:
                raise failure
            self._books.apply(job.change)
        except StoreError as error:
            if isinstance(error, Refused):
                logger.debug("refused: %s", error)
            return None, error
        return None, None
