"""`arbstr audit`: right books, and books that somebody has touched."""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from arbstr.store import Store

Run = Callable[..., Any]


@pytest.fixture
def books(run: Run, write: Callable[..., Path], tmp_path: Path) -> Path:
    """A database with an agent that has two deposits: three rows in the audit log."""
    write('[database]\npath = "books.db"\ndurability = "process"\n[vault]\n')
    for amount in ("5", "7"):
        assert run("agents", "add" if amount == "5" else "deposit", "ada", *(["7"] if amount == "7" else [])).code == 0
    assert run("agents", "deposit", "ada", "3").code == 0
    return tmp_path / "books.db"


def tamper(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as db:
        for (trigger,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            db.execute(f"DROP TRIGGER {trigger}")
        for statement in statements:
            db.execute(statement)
        db.commit()


def test_right_books_are_said_to_be_right(run: Run, books: Path) -> None:
    verified, checked = run("audit", "verify"), run("audit", "check")
    assert (verified.code, checked.code, verified.err + checked.err) == (0, 0, "")
    assert "3 rows" in verified.out
    assert "1 agents" in checked.out


def test_audits_work_while_the_database_is_in_use(run: Run, books: Path) -> None:
    with Store.open(books):
        assert run("audit", "verify").code == run("audit", "check").code == 0


def test_the_first_row_that_does_not_follow_is_named(run: Run, books: Path) -> None:
    tamper(books, "UPDATE audit SET details = '{}' WHERE sequence = 2")
    result = run("audit", "verify")
    assert (result.code, result.out) == (1, "")
    assert "audit row 2 does not follow" in result.err
    as_json = run("audit", "verify", "--json")
    assert as_json.code == 1
    assert json.loads(as_json.out) == {
        "rows": 1,
        "broken_sequence": 2,
        "problem": "audit row 2 does not follow from the row before it",
    }


def test_a_row_that_is_missing_is_named(run: Run, books: Path) -> None:
    tamper(books, "DELETE FROM audit WHERE sequence = 2")
    assert "audit row 2 is missing" in run("audit", "verify").err


def test_money_that_nobody_posted_is_found(run: Run, books: Path) -> None:
    tamper(books, "UPDATE accounts SET available_msat = available_msat + 1, deposited_msat = deposited_msat + 1")
    result = run("audit", "check")
    assert (result.code, result.out) == (1, "")
    assert "available in the journal" in result.err
    found = json.loads(run("audit", "check", "--json").out)
    assert (found["right"], found["agents"]) == (False, 1)
    assert found["problems"]


@pytest.mark.parametrize("action", ["verify", "check"])
def test_it_is_said_when_there_is_no_database(run: Run, write: Callable[..., Path], action: str) -> None:
    write("")
    result = run("audit", action)
    assert result.code == 1
    assert "there is no database" in result.err
