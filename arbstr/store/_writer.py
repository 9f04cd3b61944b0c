"""The writer: one thread, the only write connection, many changes per commit.

While one batch is being written and synced, the changes of everybody else gather and become the next batch: the more
callers wait, the cheaper each change is. A batch that fails is taken apart and its changes are tried one by one, so
that one refused change cannot take its neighbours with it.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any

from attrs import frozen

from arbstr.store._errors import StoreBusy, StoreError, StoreUnavailable
from arbstr.store._journal import Journal
from arbstr.store._values import Change

logger = logging.getLogger(__name__)

MAX_BATCH = 256
MAX_WAITING = 20_000

Done = Callable[[Any, StoreError | None], None]
"""Called once with (result, None) or (None, error)."""


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


class Writer:
    """Owns ``connection`` from ``start`` to ``stop``; nobody else may use it in between."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        self._journal = Journal(connection)
        self._queue: SimpleQueue[_Write | _Call | _Stop] = SimpleQueue()
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

    def _put(self, job: _Write | _Call) -> None:
        if self._stopped:
            raise StoreUnavailable("the store is closed")
        if self._queue.qsize() >= MAX_WAITING:
            raise StoreBusy(f"{MAX_WAITING} changes wait for the disk already")
        self._queue.put(job)

    def stop(self) -> None:
        """Write what is queued, then end the thread."""
        if self._stopped:
            return
        self._stopped = True
        self._queue.put(_Stop())
        self._thread.join()

    def _run(self) -> None:
        while True:
            jobs: list[_Write | _Call | _Stop] = [self._queue.get()]
            try:
                while len(jobs) < MAX_BATCH:
                    jobs.append(self._queue.get_nowait())
            except Empty:
                pass
            if self._process(jobs):
                return

    def _process(self, jobs: list[_Write | _Call | _Stop]) -> bool:
        """Commit runs of writes together; calls keep their place between them. True when told to stop."""
        answers: list[tuple[Done, Any, StoreError | None]] = []
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

    def _commit(self, batch: list[_Write], answers: list[tuple[Done, Any, StoreError | None]]) -> None:
        if not batch:
            return
        error = self._transaction(batch)
        if error is not None and len(batch) > 1:
            for job in batch:
                self._commit([job], answers)
            return
        answers.extend((job.done, None, error) for job in batch if job.done is not None)

    def _transaction(self, batch: list[_Write]) -> StoreError | None:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            for job in batch:
                self._journal.apply(job.change)
            self._db.execute("COMMIT")
        except StoreError as error:
            self._rollback()
            return error
        except sqlite3.Error as error:
            logger.error("commit of %d changes failed: %s", len(batch), error)
            self._rollback()
            return StoreUnavailable(str(error))
        return None

    def _rollback(self) -> None:
        try:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            self._journal.rewind()
        except sqlite3.Error as error:
            logger.error("rollback failed: %s", error)

    def _call(self, job: _Call, answers: list[tuple[Done, Any, StoreError | None]]) -> None:
        result, error = None, None
        try:
            result = job.function(self._db)
        except StoreError as raised:
            error = raised
        except sqlite3.Error as raised:
            error = StoreUnavailable(str(raised))
        self._journal.rewind()  # the function may have written to the audit log itself
        if job.done is not None:
            answers.append((job.done, result, error))

    def _hand_out(self, answers: list[tuple[Done, Any, StoreError | None]]) -> None:
        def run() -> None:
            for done, result, error in answers:
                done(result, error)

        try:
            self._deliver(run)
        except RuntimeError as gone:  # trio.RunFinishedError: the loop ended before its answers came
            logger.warning("%d answers of the store had nobody to go to: %s", len(answers), gone)
