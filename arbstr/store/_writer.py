"""The writer: one thread, the only write connection, many changes per commit.

While one batch is being written and synced, the changes of everybody else gather and become the next batch: the more
callers wait, the cheaper each change is. A change that is refused is undone by itself and its neighbours are committed
together; when it is the disk that fails, the batch fails whole.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from queue import Empty, SimpleQueue
from typing import Any

import trio

from arbstr.store._errors import Refused, StoreBusy, StoreError, StoreUnavailable, Unwritable
from arbstr.store._frozen import frozen
from arbstr.store._journal import Journal
from arbstr.store._values import Change

logger = logging.getLogger(__name__)

MAX_BATCH = 512
MAX_WAITING = 20_000
TOGETHER_FROM = 3
"""Changes in a batch: one alone costs 25 µs more when it is written as if there were many."""

Done = Callable[[Any, StoreError | None], None]
"""Called once with (result, None) or (None, error). Must not raise."""


@frozen
class _Write:
    change: Change
    done: Done | None


@frozen
class _Call:
    function: Callable[[sqlite3.Connection], Any]
    done: Done | None


class _Stop:
    pass


_Job = _Write | _Call | _Stop
_Answers = list[tuple[Done, Any, StoreError | None]]


class Writer:
    """Owns ``connection`` from ``start`` to ``stop``; nobody else may use it in between."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        self._journal = Journal(connection)
        self._queue: SimpleQueue[_Job] = SimpleQueue()
        self._deliver: Callable[[Callable[[], None]], None] = lambda run: run()
        self._thread = threading.Thread(target=self._run, name="arbstr-writer", daemon=True)
        self._stopped = False

    def start(self) -> None:
        self._thread.start()

    def deliver_through(self, deliver: Callable[[Callable[[], None]], None]) -> None:
        """Where results are handed out: ``deliver(run)`` calls ``run`` in the caller's world, once per batch."""
        self._deliver = deliver

    @property
    def waiting(self) -> int:
        """Changes that have not been taken into a batch yet."""
        return self._queue.qsize()

    def submit(self, change: Change, done: Done | None) -> None:
        """Queue a change. It is committed even if nobody waits for it. Raises StoreBusy at the bound."""
        self._put(_Write(change, done))

    def call(self, function: Callable[[sqlite3.Connection], Any], done: Done | None) -> None:
        """Run ``function(connection)`` after everything that was submitted before, outside a transaction."""
        self._put(_Call(function, done))

    def _put(self, job: _Job) -> None:
        if self._stopped:
            raise StoreUnavailable("the store is closed")
        if self._queue.qsize() >= MAX_WAITING:
            raise StoreBusy(f"{MAX_WAITING} changes wait for the disk already")
        self._queue.put(job)

    def stop(self) -> None:
        """Write what is queued, then end the thread. For the one who submits, or after all of them."""
        if self._stopped:
            return
        self._stopped = True
        self._queue.put(_Stop())
        self._thread.join()

    # The thread

    def _run(self) -> None:
        while not self._process(self._gather()):
            pass

    def _gather(self) -> list[_Job]:
        """Wait for a job, and take all that came with it."""
        jobs = [self._queue.get()]
        try:
            while len(jobs) < MAX_BATCH:
                jobs.append(self._queue.get_nowait())
        except Empty:
            pass
        return jobs

    def _process(self, jobs: list[_Job]) -> bool:
        """Commit runs of writes together; calls keep their place between them. True when told to stop."""
        answers: _Answers = []
        batch: list[_Write] = []
        stop = False
        for job in jobs:
            if isinstance(job, _Write):
                batch.append(job)
                continue
            self._commit(batch, answers)
            batch = []
            if isinstance(job, _Call):
                self._call(job, answers)
            else:
                stop = True
        self._commit(batch, answers)
        if answers:
            self._hand_out(answers)
        return stop

    def _commit(self, batch: list[_Write], answers: _Answers) -> None:
        if not batch:
            return
        for job, error in zip(batch, self._write([job.change for job in batch]), strict=True):
            if job.done is not None:
                answers.append((job.done, None, error))
            elif error is not None:
                logger.error("%s was not written and nobody waits for it: %s", type(job.change).__name__, error)

    def _write(self, changes: list[Change]) -> Sequence[StoreError | None]:
        """Commit what can be committed; what became of each, in order."""
        try:
            try:
                return self._transaction(self._apply_all, changes)
            except Refused:
                return self._transaction(self._apply_each, changes)
        except sqlite3.Error as error:
            logger.error("commit of %d changes failed: %s", len(changes), error)
            return [StoreUnavailable(str(error))] * len(changes)

    def _transaction(
        self, apply: Callable[[list[Change]], Sequence[StoreError | None]], changes: list[Change]
    ) -> Sequence[StoreError | None]:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            errors = apply(changes)
            self._db.execute("COMMIT")
        except BaseException:
            self._rollback()
            raise
        return errors

    def _apply_all(self, changes: list[Change]) -> Sequence[StoreError | None]:
        if len(changes) < TOGETHER_FROM:
            for change in changes:
                self._apply(change)
        else:
            with _faults_of_changes():
                self._journal.apply_together(changes)
        return [None] * len(changes)

    def _apply_each(self, changes: list[Change]) -> Sequence[StoreError | None]:
        """For when one was refused. Not always so: under a savepoint SQLite copies each page before it changes it."""
        return [self._attempt(change) for change in changes]

    def _attempt(self, change: Change) -> StoreError | None:
        head, refusal = self._journal.head, None
        self._db.execute("SAVEPOINT change")
        try:
            self._apply(change)
        except Refused as error:
            self._db.execute("ROLLBACK TO change")
            self._journal.head = head
            refusal = error
            if isinstance(error, Unwritable):
                logger.error("a change cannot be written", exc_info=error)
        self._db.execute("RELEASE change")
        return refusal

    def _apply(self, change: Change) -> None:
        """Raises Refused when the change is at fault, sqlite3.Error when the disk is."""
        with _faults_of_changes():
            self._journal.apply(change)

    def _rollback(self) -> None:
        self._journal.head = None
        try:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
        except sqlite3.Error as error:  # the next BEGIN fails and brings us here again
            logger.error("rollback failed: %s", error)

    def _call(self, job: _Call, answers: _Answers) -> None:
        result, failure = None, None
        try:
            result = job.function(self._db)
        except StoreError as error:
            failure = error
        except sqlite3.Error as error:
            failure = StoreUnavailable(str(error))
        except Exception as error:  # this thread's loop again: whoever asked hears of it
            logger.exception("a call on the write connection failed")
            failure = StoreError(f"{type(error).__name__}: {error}")
        self._rollback()  # the function may have left a transaction open or written to the audit log itself
        if job.done is not None:
            answers.append((job.done, result, failure))

    def _hand_out(self, answers: _Answers) -> None:
        def run() -> None:
            for done, result, error in answers:
                try:
                    done(result, error)
                except Exception:  # one receiver's defect must not keep the others from their answers
                    logger.exception("an answer of the store was not taken")

        try:
            self._deliver(run)
        except trio.RunFinishedError:
            logger.warning("%d answers of the store had nobody to go to: the Trio run has ended", len(answers))


@contextlib.contextmanager
def _faults_of_changes() -> Iterator[None]:
    """What is wrong with a change and not with the disk becomes Unwritable."""
    try:
        yield
    except Refused:
        raise
    except Exception as error:  # this thread's loop: no change may end it, or nothing is ever written again
        if isinstance(error, sqlite3.Error) and not isinstance(error, _FAULTS_OF_A_CHANGE):
            raise
        raise Unwritable(f"{type(error).__name__}: {error}") from error


_FAULTS_OF_A_CHANGE = (
    sqlite3.IntegrityError,
    sqlite3.DataError,
    sqlite3.ProgrammingError,
    sqlite3.InterfaceError,
    sqlite3.NotSupportedError,
)
