"""Taking a database, giving it back, and reading one that somebody else holds."""

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from arbstr.store import (
    ProcessLock,
    Store,
    StoreError,
    StoreInUse,
    StoreTooNew,
    StoreUnavailable,
    hash_token,
    holder_of,
    new_hold_id,
)
from arbstr.store import _lock as lock_module
from arbstr.store import _store as store_module
from arbstr.store._schema import SCHEMA_VERSION, migrations


def pragma(store: Store, name: str) -> Any:
    return store.wait_for(lambda db: db.execute(f"PRAGMA {name}").fetchone()[0])


# Opening


def test_a_database_is_created_when_there_is_none(path: Path) -> None:
    with Store.open(path) as store:
        assert pragma(store, "user_version") == SCHEMA_VERSION
        assert pragma(store, "journal_mode") == "wal"
        assert pragma(store, "foreign_keys") == 1
        assert store.agents_now() == []
    assert Store.check(path).clean


@pytest.mark.parametrize(("durability", "synchronous"), [("full", 2), ("process", 1)])
def test_commits_are_synced_as_the_durability_says(path: Path, durability: Any, synchronous: int) -> None:
    with Store.open(path, durability=durability) as store:
        assert pragma(store, "synchronous") == synchronous


def test_the_schema_version_counts_the_migrations() -> None:
    assert len(migrations._migrations) == SCHEMA_VERSION


def test_rows_are_there_when_the_database_is_opened_again(path: Path) -> None:
    with Store.open(path) as store:
        agent = store.add_agent_now("  Ada ")
    with Store.open(path) as store:
        (row,) = store.agents_now()
        (token,) = store.tokens_now()
    assert (row.agent_id, row.name, row.available_msat) == (agent.agent_id, "Ada", 0)
    assert token.token_hash == hash_token(agent.token)
    assert agent.token not in repr(agent)
    assert agent.token.encode() not in path.read_bytes()


def test_a_second_process_is_refused_and_told_who_holds_the_database(path: Path) -> None:
    program = "import sys; from arbstr.store import Store\nwith Store.open(sys.argv[1]): print(1, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "1\n"
        with pytest.raises(StoreInUse, match=f"process {holder.pid}") as refusal:
            Store.open(path)
        assert refusal.value.pid == holder.pid
        assert Store.read_agents(path) == []
        holder.communicate("\n", timeout=20)
    Store.open(path).close()


def test_the_same_process_is_refused_when_it_opens_a_database_twice(store: Store, path: Path) -> None:
    with pytest.raises(StoreInUse) as refusal:
        Store.open(path)
    assert refusal.value.pid == os.getpid()


def test_a_database_can_be_opened_when_its_holder_was_killed(path: Path) -> None:
    program = "import os, sys; from arbstr.store import Store\nStore.open(sys.argv[1]).add_agent_now('a'); os._exit(9)"
    assert subprocess.run([sys.executable, "-c", program, str(path)], check=False).returncode == 9
    with Store.open(path) as store:
        assert len(store.agents_now()) == 1


def test_a_newer_database_is_refused_and_left_as_it_was(path: Path) -> None:
    Store.open(path).close()
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 3}")
    db.close()
    before = path.read_bytes()
    with pytest.raises(StoreTooNew) as refusal:
        Store.open(path)
    assert (refusal.value.found, refusal.value.known) == (SCHEMA_VERSION + 3, SCHEMA_VERSION)
    with pytest.raises(StoreTooNew):
        Store.check(path)
    assert path.read_bytes() == before


def test_the_database_of_another_program_is_refused_and_left_as_it_was(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE requests (id INTEGER PRIMARY KEY)")
    db.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match="another program"):
        Store.open(path)
    assert path.read_bytes() == before


def test_a_file_that_is_no_database_is_refused_and_left_as_it_was(path: Path) -> None:
    path.write_text("not a database, but long enough to be looked at as one" * 20)
    before = path.read_bytes()
    with pytest.raises(StoreUnavailable, match="not a database"):
        Store.open(path)
    with pytest.raises(StoreUnavailable, match="not a database"):
        Store.check(path)
    assert path.read_bytes() == before


def test_a_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(StoreUnavailable, match="folder"):
        Store.open(tmp_path / "folder")
    with pytest.raises(StoreUnavailable):
        Store.check(tmp_path / "folder")


def test_a_path_into_nowhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="nowhere"):
        Store.open(tmp_path / "nowhere" / "books.db")


def test_a_database_that_cannot_be_written_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Store.open(path).close()
    connect = sqlite3.connect

    def read_only(database: Path, **options: Any) -> sqlite3.Connection:
        return connect(f"{Path(database).as_uri()}?mode=ro", uri=True, **options)

    monkeypatch.setattr(store_module.sqlite3, "connect", read_only)
    with pytest.raises(StoreUnavailable, match="readonly"):
        Store.open(path)
    monkeypatch.undo()
    Store.open(path).close()  # the lock was given back


def test_nothing_is_kept_when_a_migration_fails(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(db: Any) -> None:
        db.execute("CREATE TABLE agents (half TEXT)")
        raise sqlite3.OperationalError("the disk went away")

    monkeypatch.setattr(migrations._migrations[0], "fn", fail)
    with pytest.raises(StoreUnavailable, match="went away"):
        Store.open(path)
    monkeypatch.undo()
    with Store.open(path) as store:
        assert store.agents_now() == []


def test_the_lock_is_given_back_when_it_cannot_be_written(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(lock_module.os, "write", full)
    with pytest.raises(StoreUnavailable, match="No space"):
        Store.open(path)
    monkeypatch.undo()
    Store.open(path).close()


def test_closing_twice_does_nothing_the_second_time(path: Path) -> None:
    store = Store.open(path)
    store.close()
    with Store.open(path):  # may well have been given the file descriptor that the first one had
        store.close()
        with pytest.raises(StoreInUse):
            Store.open(path)


# Reading beside a writer


def test_balances_can_be_read_and_checked_while_the_database_is_in_use(store: Store, hand: Any, path: Path) -> None:
    store.commit_now(hand.reserve("a", 300))
    (agent,) = Store.read_agents(path)
    assert (agent.available_msat, agent.held_msat) == (700, 300)
    assert Store.check(path).open_holds == 1


def test_a_path_with_characters_that_mean_something_in_a_url_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "what? 100%41 #1.db"
    Store.open(path).close()
    assert Store.check(path).clean


def test_reading_says_so_when_there_is_no_database(path: Path) -> None:
    with pytest.raises(StoreError, match="there is no database"):
        Store.read_agents(path)
    assert not path.exists()


# Agents


@pytest.mark.parametrize("name", ["", "   ", "x" * 101, "two\nlines", "\ud800"])
def test_a_name_that_cannot_be_shown_is_refused(store: Store, name: str, path: Path) -> None:
    with pytest.raises(StoreError, match="printable"):
        store.add_agent_now(name)
    assert store.agents_now() == []
    assert Store.check(path).clean


def test_the_audit_chain_goes_on_when_an_agent_is_added_between_changes(
    store: Store, new_hand: Callable[[], Any], path: Path
) -> None:
    for number in range(5):
        store.commit_now(new_hand().deposit(str(number), 1))
    assert Store.check(path).problems == ()


def test_ids_of_holds_do_not_repeat() -> None:
    assert len({new_hold_id() for _ in range(10_000)}) == 10_000


def test_the_lock_stays_when_the_process_that_borrowed_it_ends_and_goes_with_the_last(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    lock = ProcessLock(path)
    code = os.fork()
    if not code:
        lock.borrow()
        Store.open(path, lock=lock).close()
        os._exit(0)
    assert os.waitpid(code, 0)[1] == 0
    with pytest.raises(StoreInUse, match=str(os.getpid())):
        Store.open(path)
    assert holder_of(path) == os.getpid()
    lock.close()
    Store.open(path).close()
