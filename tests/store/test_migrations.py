"""A database of an earlier version becomes one of this version, with all that is in it."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from arbstr.store import LoadAccount, RequestFilter, Store, StoreTooOld, find_receipt, statistics_of
from arbstr.store._schema import SCHEMA_VERSION, migrations

OLD_RECEIPT = (
    "request_id, agent_id, correlation_id, hold_id, started_ns, duration_us, model, provider, policy, stream, outcome, "
    "http_status, error, prompt_tokens, completion_tokens, estimated, expected_msat, cost_msat, saved_median_msat, "
    "saved_dearest_msat, selection"
)


@pytest.fixture
def first_version(
    path: Path, hand: Any, store: Store, receipt: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Path:
    """A database as the first version left it, with paid and unpaid receipts: the rows of ``store`` copied over."""
    for change in (hand.reserve("a", 100), hand.settle("a", 70, receipt("a", 70, model="m1")), hand.reserve("b", 5)):
        store.commit_now(change)
    store.close()
    old = tmp_path / "old.db"
    with monkeypatch.context() as earlier:
        earlier.setattr(migrations, "_migrations", migrations._migrations[:1])
        earlier.setattr("arbstr.store._store.SCHEMA_VERSION", 1)
        Store.open(old).close()
    with closing(sqlite3.connect(old)) as db:
        db.execute("ATTACH ? AS new", (str(path),))
        for table in ("agents", "accounts", "transactions", "postings", "holds", "audit"):
            columns = ", ".join(name for (name,) in db.execute("SELECT name FROM pragma_table_info(?)", (table,)))
            db.execute(f"INSERT INTO main.{table} SELECT {columns} FROM new.{table}")  # noqa: S608 - our own tables
        db.execute(f"INSERT INTO main.receipts SELECT {OLD_RECEIPT} FROM new.receipts")  # noqa: S608 - our own table
        db.execute("INSERT INTO attempts VALUES ('a', 0, 'p', 1, 2, NULL, 200, 'success', NULL)")
        db.commit()
    return old


@pytest.fixture
def second_version(first_version: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    with monkeypatch.context() as earlier:
        earlier.setattr(migrations, "_migrations", migrations._migrations[:2])
        earlier.setattr("arbstr.store._store.SCHEMA_VERSION", 2)
        Store.open(first_version).close()
    return first_version


@pytest.fixture(params=["first_version", "second_version"])
def earlier_version(request: pytest.FixtureRequest) -> Path:
    path: Path = request.getfixturevalue(request.param)
    assert user_version(path) == (1 if request.param == "first_version" else 2)
    return path


def user_version(path: Path) -> int:
    with closing(sqlite3.connect(path)) as db:
        return int(db.execute("PRAGMA user_version").fetchone()[0])


def test_books_stay_right_when_a_database_of_the_first_version_is_opened(first_version: Path) -> None:
    assert user_version(first_version) == 1
    before = Store.check(first_version)
    assert before.problems == ()
    assert (before.spent_msat, before.receipts_msat, before.open_holds) == (70, 70, 1)
    Store.open(first_version).close()
    assert user_version(first_version) == SCHEMA_VERSION
    assert Store.check(first_version) == before


def test_old_receipts_are_found_with_the_defaults_of_what_they_lack(first_version: Path) -> None:
    Store.open(first_version).close()
    found = Store.read_from(first_version, lambda db: find_receipt(db, "a"))
    assert found is not None
    assert (found.receipt.model, found.receipt.cost_msat, len(found.receipt.attempts)) == ("m1", 70, 1)
    assert (found.receipt.endpoint, found.receipt.tier) == ("chat/completions", None)
    assert (found.receipt.complexity_score, found.receipt.cached_tokens) == (None, None)


def test_receipts_are_still_append_only_when_they_got_new_columns(first_version: Path) -> None:
    Store.open(first_version).close()
    with closing(sqlite3.connect(first_version)) as db:
        for statement in ("UPDATE receipts SET tier = 'local'", "DELETE FROM receipts"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                db.execute(statement)


def test_money_moves_on_when_the_database_was_migrated(first_version: Path, hand: Any) -> None:
    with Store.open(first_version) as store:
        store.commit_now(hand.settle("b", 5))
    report = Store.check(first_version)
    assert report.problems == ()
    assert (report.spent_msat, report.open_holds) == (75, 0)


def test_the_way_out_is_named_when_the_database_is_too_old_for_a_query(first_version: Path) -> None:
    with pytest.raises(StoreTooOld, match="start arbstr once"):
        Store.read_from(first_version, lambda db: statistics_of(db, RequestFilter()))
    assert user_version(first_version) == 1


def test_everything_is_done_again_when_the_second_migration_failed(
    first_version: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(db: Any) -> None:
        db.execute("ALTER TABLE receipts ADD COLUMN endpoint TEXT")
        raise sqlite3.OperationalError("the disk went away")

    monkeypatch.setattr(migrations._migrations[1], "fn", fail)
    with pytest.raises(Exception, match="went away"):
        Store.open(first_version)
    monkeypatch.undo()
    Store.open(first_version).close()
    assert Store.check(first_version).problems == ()


def test_tokens_go_on_working_when_they_get_a_table_of_their_own(earlier_version: Path) -> None:
    with closing(sqlite3.connect(earlier_version)) as db:
        ((agent_id, token_hash),) = db.execute("SELECT agent_id, token_hash FROM agents").fetchall()
    with Store.open(earlier_version) as store:
        (token,) = store.tokens_now()
        assert (token.agent_id, token.token_hash, token.name) == (agent_id, token_hash, "agent")
        assert (token.token_id, token.budget_id, token.expires_ns) == ("tk_" + agent_id[3:], None, None)
        new = store.add_agent_now("new", {"team": "a"})
        assert {row.agent_id for row in store.tokens_now()} == {agent_id, new.agent_id}
    assert Store.check(earlier_version).problems == ()


def test_agents_of_an_earlier_version_have_a_policy_that_nobody_set(earlier_version: Path, hand: Any) -> None:
    with Store.open(earlier_version) as store:
        loaded = store.ask_now(LoadAccount(hand.account.agent_id, 10**18))
    (policy,) = loaded.policies
    assert (policy.version, policy.max_transaction_msat, policy.daily_limit_msat) == (1, 0, 0)
    assert not policy.set_by_operator
    assert [hold.kind for hold in loaded.open_holds] == ["request"]


@pytest.mark.parametrize("statement", ["UPDATE policies SET version = 9", "DELETE FROM policies"])
def test_policies_are_only_added(earlier_version: Path, statement: str) -> None:
    Store.open(earlier_version).close()
    with closing(sqlite3.connect(earlier_version)) as db, pytest.raises(sqlite3.IntegrityError, match="append-only"):
        db.execute(statement)
