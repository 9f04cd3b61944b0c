"""Reading beside the writer: never in its way, never without an end, and never on a connection that is closed."""

import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from arbstr.store import (
    ReadTimedOut,
    Store,
    StoreError,
    StoreUnavailable,
    read_account,
)
from arbstr.store import _readers as readers_module

ENDLESS = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"


def endless(db: sqlite3.Connection) -> Any:
    return db.execute(ENDLESS).fetchone()


def count_agents(db: sqlite3.Connection) -> int:
    return int(db.execute("SELECT count(*) FROM agents").fetchone()[0])


class Turnstile:
    """A function for a reader that says when it is in its thread, and stays there until it is let out."""

    def __init__(self) -> None:
        self.inside = 0
        self.most = 0
        self.entered = threading.Semaphore(0)
        self.exit = threading.Semaphore(0)
        self._guard = threading.Lock()

    def __call__(self, db: sqlite3.Connection) -> int:
        with self._guard:
            self.inside += 1
            self.most = max(self.most, self.inside)
        self.entered.release()
        assert self.exit.acquire(timeout=20)
        with self._guard:
            self.inside -= 1
        return count_agents(db)

    async def wait_for(self, number: int) -> None:
        for _ in range(number):
            assert await trio.to_thread.run_sync(self.entered.acquire, True, 20)

    def let_out(self, number: int) -> None:
        self.exit.release(number)


@pytest.fixture
def turnstile() -> Turnstile:
    return Turnstile()


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[sqlite3.Connection]]:
    """Every read-only connection that was made."""
    made: list[sqlite3.Connection] = []
    connect = readers_module.connect_read_only

    def counted(path: Path) -> sqlite3.Connection:
        made.append(connect(path))
        return made[-1]

    monkeypatch.setattr(readers_module, "connect_read_only", counted)
    return made


def is_closed(db: sqlite3.Connection) -> bool:
    try:
        db.execute("SELECT 1")
    except sqlite3.ProgrammingError:
        return True
    return False


async def test_what_is_on_disk_is_read_while_the_writer_is_busy(
    store: Store, hand: Any, gate: Any, turnstile: Turnstile
) -> None:
    with gate:
        assert (await store.read(lambda db: read_account(db, hand.account.agent_id))).available_msat == 1000


async def test_the_writer_commits_while_a_read_is_open_and_the_read_keeps_its_snapshot(
    store: Store, hand: Any, turnstile: Turnstile, new_hand: Callable[[], Any]
) -> None:
    seen: list[int] = []

    async def read() -> None:
        seen.append(await store.read(turnstile))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await turnstile.wait_for(1)
        await trio.to_thread.run_sync(new_hand)
        assert await trio.to_thread.run_sync(store.wait_for, count_agents) == 2
        turnstile.let_out(1)
    assert seen == [1]
    assert await store.read(count_agents) == 2


async def test_nothing_can_be_written_by_a_reader(store: Store) -> None:
    for statement in ("DELETE FROM holds", "PRAGMA query_only = OFF"):
        with pytest.raises(StoreUnavailable, match="readonly"):
            await store.read(lambda db, do=statement: [db.execute(do), db.execute("DELETE FROM agents")])


async def test_three_read_at_once_and_the_rest_wait_for_their_turn(
    store: Store, turnstile: Turnstile, opened: list[sqlite3.Connection]
) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(store.read, turnstile)
        await turnstile.wait_for(3)
        await trio.testing.wait_all_tasks_blocked()
        assert not turnstile.entered.acquire(blocking=False)
        turnstile.let_out(10)
    assert turnstile.most == 3
    assert len(opened) == 3


async def test_one_connection_serves_all_who_come_one_after_another(
    store: Store, opened: list[sqlite3.Connection]
) -> None:
    for _ in range(5):
        assert await store.read(count_agents) == 0
    assert len(opened) == 1


async def test_a_query_is_interrupted_when_it_takes_too_long(
    store: Store, autojump_clock: Any, opened: list[sqlite3.Connection]
) -> None:
    with pytest.raises(ReadTimedOut, match="given up after") as timeout:
        await store.read(endless, timeout_s=2.5)
    assert timeout.value.timeout_s == 2.5
    assert is_closed(opened[0])


async def test_a_loop_of_small_statements_is_interrupted_too(store: Store, autojump_clock: Any) -> None:
    def loop(db: sqlite3.Connection) -> None:
        while True:
            db.execute("SELECT 1").fetchall()

    with pytest.raises(ReadTimedOut):
        await store.read(loop)


def test_nothing_is_run_when_the_query_was_stopped_before_its_thread_began(store: Store, path: Path) -> None:
    query = readers_module._Query(path, endless, None)
    query.stop()
    with pytest.raises(sqlite3.OperationalError, match="interrupted"):
        query.run()
    assert query.db is None


async def test_the_wait_for_a_turn_counts_when_all_readers_are_taken(
    store: Store, turnstile: Turnstile, autojump_clock: Any
) -> None:
    called: list[object] = []

    async def hold() -> None:
        with pytest.raises(ReadTimedOut):  # its virtual time flies while its thread stands still
            await store.read(endless, timeout_s=100)

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(hold)
        await trio.testing.wait_all_tasks_blocked()
        start = trio.current_time()
        with pytest.raises(ReadTimedOut):
            await store.read(called.append, timeout_s=7)
        assert trio.current_time() - start == 7
    assert called == []


async def test_a_query_is_interrupted_and_its_thread_awaited_when_the_reader_is_cancelled(
    store: Store, opened: list[sqlite3.Connection]
) -> None:
    started, ended = threading.Event(), threading.Event()

    def query(db: sqlite3.Connection) -> None:
        started.set()
        try:
            endless(db)
        finally:
            ended.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.read, query)
        assert await trio.to_thread.run_sync(started.wait, 20)
        nursery.cancel_scope.cancel()
    assert ended.is_set()
    assert is_closed(opened[0])
    assert await store.read(count_agents) == 0


async def test_the_turn_is_given_to_the_next_when_one_who_waits_is_cancelled(
    store: Store, turnstile: Turnstile
) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(store.read, turnstile)
        await turnstile.wait_for(3)
        with trio.CancelScope() as impatience:
            impatience.cancel()
            await store.read(turnstile)
        assert impatience.cancelled_caught
        turnstile.let_out(3)
    assert turnstile.most == 3
    assert await store.read(count_agents) == 0


async def test_a_result_is_returned_when_it_is_there_before_the_cancellation_is_noticed(
    store: Store, turnstile: Turnstile
) -> None:
    results: list[int] = []

    def stubborn(db: sqlite3.Connection) -> int:
        turnstile.entered.release()
        turnstile.exit.acquire(timeout=20)
        return 7

    async def read() -> None:
        results.append(await store.read(stubborn))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await turnstile.wait_for(1)
        nursery.cancel_scope.cancel()
        turnstile.let_out(1)
    assert results == [7]


@pytest.mark.parametrize(
    ("statement", "words"),
    [("SELECT absent FROM agents", "no such column"), ("SELECT * FROM nowhere", "no such table")],
)
async def test_the_databases_own_words_are_passed_on_when_a_query_fails(
    store: Store, statement: str, words: str
) -> None:
    with pytest.raises(StoreUnavailable, match=words):
        await store.read(lambda db: db.execute(statement))
    assert await store.read(count_agents) == 0


async def test_errors_of_the_function_come_out_as_they_are(store: Store, opened: list[sqlite3.Connection]) -> None:
    def fail(db: sqlite3.Connection) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await store.read(fail)
    assert is_closed(opened[0])


async def test_reads_are_refused_when_the_store_is_closed(path: Path, opened: list[sqlite3.Connection]) -> None:
    store = Store.open(path)
    await store.read(count_agents)
    store.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        await store.read(count_agents)
    assert [is_closed(db) for db in opened] == [True]


async def test_reads_under_way_end_and_those_that_wait_are_refused_when_the_store_closes(
    path: Path, opened: list[sqlite3.Connection]
) -> None:
    store = Store.open(path)
    refused: list[StoreError] = []

    async def read() -> None:
        with pytest.raises(StoreUnavailable, match="closed") as refusal:
            await store.read(endless)
        refused.append(refusal.value)

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        store.close()
    assert len(refused) == 5
    assert all(map(is_closed, opened))


async def test_many_readers_come_and_go_while_the_books_are_kept(
    store: Store, hand: Any, path: Path, opened: list[sqlite3.Connection]
) -> None:
    """Balances read at any moment are those of some commit; cancelled readers leave nothing behind."""
    store.attach(trio.lowlevel.current_trio_token())
    sums: list[int] = []

    async def read(number: int) -> None:
        with trio.CancelScope() as scope:
            if number % 3 == 0:
                scope.cancel()
            account = await store.read(lambda db: read_account(db, hand.account.agent_id))
            sums.append(account.available_msat + account.held_msat + account.spent_msat)

    async with trio.open_nursery() as nursery:
        for number in range(60):
            store.submit(hand.reserve(f"r{number}", 10))
            store.submit(hand.settle(f"r{number}", 7))
            nursery.start_soon(read, number)
            await trio.lowlevel.checkpoint()
    store.detach()
    assert sums == [1000] * 40
    assert len(opened) <= 3
    store.close()
    assert Store.check(path).problems == ()
