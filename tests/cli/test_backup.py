"""`arbstr backup` and `arbstr restore`, by what is in the files afterwards."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from arbstr.store import Store
from arbstr.store import _backup as backup_module

Run = Callable[..., Any]


@pytest.fixture
def books(run: Run, write: Callable[..., Path], tmp_path: Path) -> Path:
    write('[database]\npath = "books.db"\ndurability = "process"\n[vault]\n')
    assert run("agents", "add", "ada", "--deposit", "5").code == 0
    return tmp_path / "books.db"


def spoil(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE accounts SET available_msat = 1, deposited_msat = 1")
        db.commit()


def files(folder: Path) -> set[str]:
    """Without the log of the database, which comes and goes."""
    return {path.name for path in folder.iterdir() if not path.name.startswith("books.db-")}


def test_a_backup_is_one_file_with_the_same_books(run: Run, books: Path, tmp_path: Path) -> None:
    before = files(tmp_path)
    result = run("backup", "copy.db")
    assert (result.code, result.err) == (0, "")
    assert "1 agents" in result.out
    copy = tmp_path / "copy.db"
    assert Store.read_agents(copy) == Store.read_agents(books)
    assert files(tmp_path) - before == {"copy.db"}
    assert copy.stat().st_mode & 0o777 == 0o600


def test_a_backup_is_made_of_what_is_committed_while_the_database_is_in_use(
    run: Run, books: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup_module, "STEP_PAGES", 1)
    with Store.open(books) as store:
        for number in range(50):
            store.add_agent_now(f"agent {number}")
        assert run("backup", "copy.db").code == 0
        store.add_agent_now("later")
    assert len(Store.read_agents(tmp_path / "copy.db")) == 51


def test_a_file_is_overwritten_only_when_told_to(run: Run, books: Path, tmp_path: Path) -> None:
    (tmp_path / "copy.db").write_text("precious")
    result = run("backup", "copy.db")
    assert result.code == 1
    assert "--force" in result.err
    assert (tmp_path / "copy.db").read_text() == "precious"
    assert run("backup", "copy.db", "--force").code == 0
    assert len(Store.read_agents(tmp_path / "copy.db")) == 1


def test_there_is_no_backup_when_the_books_are_wrong(run: Run, books: Path, tmp_path: Path) -> None:
    spoil(books)
    before = files(tmp_path)
    result = run("backup", "copy.db")
    assert result.code == 1
    assert "the books are wrong" in result.err
    assert files(tmp_path) - before == set()


def test_a_database_is_as_it_was_when_it_is_restored(run: Run, books: Path, tmp_path: Path) -> None:
    before = Store.read_agents(books)
    assert run("backup", "copy.db").code == 0
    assert run("agents", "deposit", "ada", "7").code == 0
    result = run("restore", "copy.db")
    assert result.code == 0
    assert Store.read_agents(books) == before
    (former,) = tmp_path.glob("books.db.before-*")
    assert former.name in result.err
    assert Store.read_agents(former)[0].available_msat == 12_000
    with Store.open(books) as store:
        store.add_agent_now("next")
    assert run("audit", "check").code == 0


def test_what_is_in_the_log_is_kept_with_the_former_database(run: Run, books: Path, tmp_path: Path) -> None:
    assert run("backup", "copy.db").code == 0
    with closing(sqlite3.connect(books, isolation_level=None)) as left_open:  # keeps the log from being folded in
        left_open.execute("SELECT count(*) FROM agents").fetchone()
        with Store.open(books) as store:
            store.add_agent_now("only in the log")
        assert (tmp_path / "books.db-wal").stat().st_size > 0
        assert run("restore", "copy.db").code == 0
        (former,) = (path for path in tmp_path.glob("books.db.before-*") if not path.name.endswith(("-wal", "-shm")))
    assert len(Store.read_agents(former)) == 2
    assert len(Store.read_agents(books)) == 1


def test_nothing_is_restored_while_the_database_is_in_use(run: Run, books: Path) -> None:
    assert run("backup", "copy.db").code == 0
    with Store.open(books) as store:
        store.add_agent_now("new")
        result = run("restore", "copy.db")
    assert result.code == 1
    assert "in use" in result.err
    assert len(Store.read_agents(books)) == 2


def test_nothing_is_restored_when_the_backup_is_wrong(run: Run, books: Path, tmp_path: Path) -> None:
    assert run("backup", "copy.db").code == 0
    spoil(tmp_path / "copy.db")
    before = files(tmp_path)
    result = run("restore", "copy.db")
    assert result.code == 1
    assert "the books are wrong" in result.err
    assert files(tmp_path) - before == set()
    assert Store.read_agents(books)[0].available_msat == 5_000


@pytest.mark.parametrize(("content", "why"), [(b"not a database" * 99, "not a database"), (None, "no database")])
def test_nothing_is_restored_when_the_file_is_no_backup(
    run: Run, books: Path, tmp_path: Path, content: bytes | None, why: str
) -> None:
    if content is not None:
        (tmp_path / "copy.db").write_bytes(content)
    result = run("restore", "copy.db")
    assert result.code == 1
    assert why in result.err
    assert len(Store.read_agents(books)) == 1


def test_a_database_is_restored_where_there_is_none(run: Run, books: Path, tmp_path: Path) -> None:
    assert run("backup", "copy.db").code == 0
    books.unlink()
    result = run("restore", "copy.db")
    assert (result.code, result.err) == (0, "")
    assert len(Store.read_agents(books)) == 1
