"""The store: opening a database, the way to its writer, and what may be read without it."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import trio

from arbstr.store._answers import answer, read_tokens
from arbstr.store._check import ChainReport, check_books, read_agents, verify_chain
from arbstr.store._errors import StoreError, StoreTooNew, StoreTooOld, StoreUnavailable
from arbstr.store._ids import hash_token, new_agent_id, new_agent_token, new_token_id
from arbstr.store._ledger import Question
from arbstr.store._lock import ProcessLock
from arbstr.store._readers import BUSY_S, Readers, connect_read_only
from arbstr.store._schema import SCHEMA_VERSION, migrate, migrations
from arbstr.store._values import (
    AgentAdded,
    AgentRow,
    BearerRow,
    Change,
    CheckReport,
    NewAgent,
    PolicyRow,
    TokenRow,
)
from arbstr.store._writer import Done, Writer

T = TypeVar("T")

Durability = Literal["full", "process"]

MAX_NAME = 100
READ_TIMEOUT_S = 10.0
CACHE_KIB = 8_192
"""Of pages that the writer keeps: the inner ones of every index of millions of rows."""

CHECKPOINT_PAGES = 4_000
"""Of 4 KiB in the log, before they are copied into the file. A page that many commits change is copied once."""


class Store:
    """One database, held by this process. Open with ``Store.open``; a context manager that closes it.

    ``durability="full"`` syncs each batch to the disk before it is acknowledged; ``"process"`` survives the end of the
    program but not of the machine.
    """

    def __init__(self, path: Path, lock: ProcessLock, connection: sqlite3.Connection) -> None:
        self.path = path
        self._lock = lock
        self._db = connection
        self._attached = False
        self._writer = Writer(connection)
        self._writer.start()
        self._readers = Readers(path)

    @classmethod
    def open(cls, path: Path, durability: Durability = "full", lock: ProcessLock | None = None) -> Self:
        """Take the database, create or migrate it, start the writer.

        Raises StoreInUse when another arbstr holds it, StoreTooNew when a later version wrote it, StoreError when it is
        another program's, StoreUnavailable when it cannot be opened or written, always with the file as it was.
        ``lock`` is the database's, where it has been taken already; it is closed with the store.
        """
        path = Path(path)
        with contextlib.ExitStack() as undo:
            try:
                lock = lock or ProcessLock(path)
                undo.callback(lock.close)
                connection = sqlite3.connect(
                    path, isolation_level=None, check_same_thread=False, timeout=BUSY_S, cached_statements=512
                )
                undo.callback(connection.close)
                refuse_newer(connection, path)
                refuse_foreign(connection, path)
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute(f"PRAGMA synchronous = {'FULL' if durability == 'full' else 'NORMAL'}")
                connection.execute("PRAGMA fullfsync = ON")  # macOS: without it a sync stops at the drive's cache
                connection.execute("PRAGMA foreign_keys = ON")
                connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
                connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
                migrate(connection, SCHEMA_VERSION)
                store = cls(path, lock, connection)
            except (OSError, sqlite3.Error) as error:
                raise StoreUnavailable(f"cannot open database {path}: {error}") from error
            undo.pop_all()
        return store

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Write what is queued, then let go of the database. Blocks for that long; a second time does nothing.

        Reads that are under way are interrupted.
        """
        self._readers.close()
        self._writer.stop()
        try:
            self._db.close()
        finally:
            self._lock.close()

    # From the Trio thread

    def attach(self, token: trio.lowlevel.TrioToken) -> None:
        """From now on results are delivered on the thread of this Trio run."""
        self._attached = True
        self._writer.deliver_through(token.run_sync_soon)

    def detach(self) -> None:
        """From now on results are delivered on the writer's own thread; for the time after the Trio run's last task."""
        self._attached = False
        self._writer.deliver_through(lambda run: run())

    def submit(self, change: Change, done: Done | None = None) -> None:
        """Queue a change; ``done(None, error or None)`` comes when it is on disk or refused. Never blocks.

        Raises StoreBusy at the bound of the queue. Once queued the change is committed whether or not anyone waits.
        """
        self._writer.submit(change, done)

    def ask(self, question: Question[T], done: Callable[[T | None, StoreError | None], None]) -> None:
        """Answer through the writer, after all that was submitted before; ``done(answer, error)``. Never blocks.

        Raises StoreBusy like ``submit``.
        """
        self._writer.call(lambda db: answer(db, question), done)

    def call(self, function: Callable[[sqlite3.Connection], T], done: Done) -> None:
        """Read through the writer, after all that was submitted before; ``done(result, error)``."""
        self._writer.call(function, done)

    @property
    def waiting(self) -> int:
        """Changes queued for the writer."""
        return self._writer.waiting

    async def read(self, function: Callable[[sqlite3.Connection], T], *, timeout_s: float = READ_TIMEOUT_S) -> T:
        """Run ``function`` in a worker thread on a snapshot of what is on disk. Never keeps the writer waiting.

        The connection cannot write and is only to be used inside the function: values come out, no cursors. At most
        three run at once; ``timeout_s`` includes the wait for a turn. A query that is cancelled or out of time is
        interrupted, and this returns when its thread has noticed. Raises ReadTimedOut, StoreUnavailable for the
        database's own errors and for a store that is closed, and whatever the function raises.
        """
        return await self._readers.read(function, timeout_s)

    # From any thread that may block: start-up and command line

    def wait_for(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """Run ``function`` on the write connection and wait. Refused on the Trio thread once ``attach`` was called."""
        return self._wait(lambda done: self._writer.call(function, done))  # type: ignore[no-any-return]  # its result

    def ask_now(self, question: Question[T]) -> T:
        """Wait for an answer. Refused where ``wait_for`` is."""
        return self.wait_for(lambda db: answer(db, question))

    def commit_now(self, change: Change) -> None:
        """Commit one change and wait until it is on disk. Refused where ``wait_for`` is."""
        self._wait(lambda done: self._writer.submit(change, done))

    def _wait(self, begin: Callable[[Done], None]) -> Any:
        if self._attached and trio.lowlevel.in_trio_run():
            raise RuntimeError("the answer is delivered on this thread, so it must not block; use submit or call")
        arrived = threading.Event()
        box: list[tuple[Any, StoreError | None]] = []

        def done(result: Any, error: StoreError | None) -> None:
            box.append((result, error))
            arrived.set()

        begin(done)
        arrived.wait()
        ((result, error),) = box
        if error is not None:
            raise error
        return result

    def add_agent_now(self, name: str, metadata: Mapping[str, object] | None = None) -> NewAgent:
        """Register an agent with an empty account. The token in the answer is shown this once."""
        agent, change = new_agent(name, metadata)
        self.commit_now(change)
        return agent

    def agents_now(self) -> list[AgentRow]:
        return self.wait_for(read_agents)

    def tokens_now(self) -> list[TokenRow]:
        return self.wait_for(read_tokens)

    # Without holding the database

    @staticmethod
    def read_agents(path: Path) -> list[AgentRow]:
        """Agents and balances of a database that may be in use. Raises StoreError when there is none."""
        with _reader(path) as db:
            return read_agents(db)

    @staticmethod
    def read_from(path: Path, function: Callable[[sqlite3.Connection], T]) -> T:
        """Run ``function`` on one snapshot of a database that may be in use; values come out, no cursors.

        Raises StoreError when there is none, StoreTooOld when it lacks what this version asks for.
        """
        with _reader(path) as db:
            _refuse_older(db, path)
            return function(db)

    @staticmethod
    def check(path: Path) -> CheckReport:
        """Audit the books of a database that may be in use."""
        with _reader(path) as db:
            return check_books(db)

    @staticmethod
    def verify(path: Path) -> ChainReport:
        """Walk the audit log of a database that may be in use."""
        with _reader(path) as db:
            return verify_chain(db)


def new_agent(name: str, metadata: Mapping[str, object] | None = None) -> tuple[NewAgent, AgentAdded]:
    """An agent that may not spend but its own balance on requests, and the change that registers it.

    Raises StoreError for a name that is none.
    """
    name = name.strip()
    if not 0 < len(name) <= MAX_NAME or not name.isprintable():
        raise StoreError(f"an agent's name has 1 to {MAX_NAME} printable characters, got {name!r}")
    agent, now = NewAgent(new_agent_id(), name, new_agent_token()), time.time_ns()
    return agent, AgentAdded(
        agent_id=agent.agent_id,
        name=name,
        token=BearerRow(new_token_id(), hash_token(agent.token), agent.agent_id, name, created_ns=now),
        policy=PolicyRow(agent.agent_id, 1, 0, 0, set_by_operator=False, effective_ns=now, created_ns=now),
        at_ns=now,
        metadata=None if metadata is None else json.dumps(metadata),
    )


def refuse_newer(connection: sqlite3.Connection, path: Path) -> None:
    """Raises StoreTooNew."""
    (found,) = connection.execute("PRAGMA user_version").fetchone()
    if found > SCHEMA_VERSION:
        raise StoreTooNew(path, found, SCHEMA_VERSION)


def _refuse_older(connection: sqlite3.Connection, path: Path) -> None:
    (found,) = connection.execute("PRAGMA user_version").fetchone()
    if found < SCHEMA_VERSION:
        raise StoreTooOld(path, found, SCHEMA_VERSION)


def refuse_foreign(connection: sqlite3.Connection, path: Path) -> None:
    """Somebody else's database has tables and no record of our migrations; an arbstr of another line may name it so."""
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if tables and migrations.migrations_table not in tables:
        raise StoreError(f"database {path} belongs to another program; name another file")


@contextlib.contextmanager
def _reader(path: Path) -> Iterator[sqlite3.Connection]:
    """One snapshot of a database that may be in use."""
    path = Path(path).absolute()
    if not path.exists():
        raise StoreError(f"there is no database {path}")
    try:
        with contextlib.closing(connect_read_only(path)) as db:
            refuse_newer(db, path)
            db.execute("BEGIN")
            yield db
    except sqlite3.Error as error:
        raise StoreUnavailable(f"cannot read database {path}: {error}") from error
