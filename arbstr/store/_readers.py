"""Reading beside the writer: a few read-only connections, each with its own snapshot, in threads of their own.

In WAL mode readers do not keep the writer waiting, but a snapshot that stays open keeps the log from being folded into
the database: every read has an end, at the latest its timeout.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import trio

from arbstr.store._errors import ReadTimedOut, StoreUnavailable

if TYPE_CHECKING:
    from outcome import Outcome

T = TypeVar("T")

MAX_READERS = 3
BUSY_S = 5.0
"""For another program that has locked the file, before a statement fails."""
_KEPT_OPEN = "SELECT count(*) FROM sqlite_schema UNION ALL VALUES (1), (2), (3)"
"""Reads the file at its first row and has more of them."""


def connect_read_only(path: Path) -> sqlite3.Connection:
    """A connection that cannot write, for any one thread at a time. Raises sqlite3.Error."""
    db = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None, check_same_thread=False, timeout=BUSY_S
    )
    db.execute("PRAGMA query_only = ON")
    return db


class _Query(Generic[T]):
    """One function on its way through a connection. ``run`` is for the worker thread, the rest for the loop's."""

    def __init__(self, path: Path, function: Callable[[sqlite3.Connection], T], db: sqlite3.Connection | None) -> None:
        self._path = path
        self._function = function
        self.db = db
        """None: still to be opened, or closed for good."""
        self._stopped = False

    def stop(self) -> None:
        """Let the thread come to its end: what is running is interrupted, and so is what would run after it."""
        self._stopped = True
        if (db := self.db) is not None:
            # Closed under our hands: then there is nothing left to interrupt.
            with contextlib.suppress(sqlite3.ProgrammingError):
                db.interrupt()

    def run(self) -> T:
        """Open if need be, take a snapshot, call the function. After anything but success the connection is closed."""
        try:
            if self.db is None:
                self.db = connect_read_only(self._path)
            return self._on_snapshot(self.db)
        except BaseException:
            broken, self.db = self.db, None
            if broken is not None:
                broken.close()
            raise

    def _on_snapshot(self, db: sqlite3.Connection) -> T:
        db.execute("BEGIN")
        # A statement kept open begins the snapshot, and makes an interruption stick until the end of this query: one
        # that comes between two statements would otherwise be lost.
        with contextlib.closing(db.execute(_KEPT_OPEN)) as guard:
            guard.fetchone()
            if self._stopped:
                db.interrupt()
            result = self._function(db)
        db.execute("ROLLBACK")
        return result


class Readers:
    """Connections to one database: at most ``MAX_READERS``, kept for the next query. For one Trio run."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._idle: list[sqlite3.Connection] = []
        self._running: set[_Query[Any]] = set()
        self._limiter = trio.CapacityLimiter(MAX_READERS)
        self._closed = False

    async def read(self, function: Callable[[sqlite3.Connection], T], timeout_s: float) -> T:
        """See ``Store.read``."""
        self._refuse_when_closed()
        with trio.move_on_after(timeout_s):
            turn = object()  # not the task: nothing keeps one from reading while it reads
            await self._limiter.acquire_on_behalf_of(turn)
            try:
                self._refuse_when_closed()
                return await self._run(_Query(self._path, function, self._idle.pop() if self._idle else None))
            finally:
                self._limiter.release_on_behalf_of(turn)
        raise ReadTimedOut(timeout_s)

    def _refuse_when_closed(self) -> None:
        if self._closed:
            raise StoreUnavailable("the store is closed")

    async def _run(self, query: _Query[T]) -> T:
        self._running.add(query)
        try:
            return await _in_thread(query)
        except sqlite3.Error as error:
            self._refuse_when_closed()
            raise StoreUnavailable(f"cannot read database {self._path}: {error}") from error
        finally:
            self._running.discard(query)
            if query.db is not None:
                self._give_back(query.db)

    def _give_back(self, db: sqlite3.Connection) -> None:
        if self._closed:
            db.close()
        else:
            self._idle.append(db)

    def close(self) -> None:
        """Refuse from now on, interrupt what is running. Connections in use are closed by whoever uses them."""
        self._closed = True
        for query in self._running:
            query.stop()
        while self._idle:
            self._idle.pop().close()


async def _in_thread(query: _Query[T]) -> T:
    """Run it in a worker thread. Cancellation stops the query and waits for the thread, so that none is left behind.

    Raises what the function raised, or Cancelled. A result that is there when the cancellation comes is returned.
    """
    task, token = trio.lowlevel.current_task(), trio.lowlevel.current_trio_token()
    results: list[Outcome[T]] = []
    cancellations: list[Callable[[], Any]] = []

    def deliver(result: Outcome[T]) -> None:
        results.append(result)
        token.run_sync_soon(trio.lowlevel.reschedule, task)

    def abort(raise_cancel: Callable[[], Any]) -> trio.lowlevel.Abort:
        cancellations.append(raise_cancel)
        query.stop()
        return trio.lowlevel.Abort.FAILED

    await trio.lowlevel.checkpoint_if_cancelled()
    trio.lowlevel.start_thread_soon(query.run, deliver, "arbstr-reader")
    await trio.lowlevel.wait_task_rescheduled(abort)
    try:
        return results[0].unwrap()
    except sqlite3.Error:
        if cancellations:
            cancellations[0]()
        raise
