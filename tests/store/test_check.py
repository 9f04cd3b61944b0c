"""What must never change is refused by the database; what was changed all the same is found."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from arbstr.store import KeepRemoteHold, ReceiptOnly, RemoteHoldRow, RemoteHoldState, Store
from arbstr.store import _store as store_module

APPEND_ONLY = ("transactions", "postings", "receipts", "attempts", "audit")


@pytest.fixture
def books(store: Store, hand: Any, new_hand: Callable[[], Any], receipt: Callable[..., Any], path: Path) -> Path:
    """Closed books of two agents, with an open hold, a settled one, a hold of nothing and a receipt nobody paid for."""
    other = new_hand()
    for change in (
        hand.reserve("open", 100),
        hand.reserve("done", 200),
        hand.settle("done", 150),
        other.reserve("free", 0),
        other.settle("free", 0),
        ReceiptOnly(receipt("nobody", 5)),
    ):
        store.commit_now(change)
    store.wait_for(
        lambda db: db.execute("INSERT INTO attempts VALUES ('done', 0, 'p', 1, 2, NULL, 200, 'success', NULL)")
    )
    store.close()
    return path


def tamper(path: Path, *statements: str) -> None:
    """Change rows the way somebody with the file in hand would."""
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA ignore_check_constraints = ON")
        triggers = db.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for name, _ in triggers:
            db.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            assert db.execute(statement).rowcount != 0
        for _, text in triggers:
            db.execute(text)
        db.commit()


def test_books_are_clean_when_nobody_has_touched_them(books: Path) -> None:
    report = Store.check(books)
    assert report.problems == ()
    assert report.clean
    assert (report.open_holds, report.spent_msat, report.receipts_msat, report.debt_msat) == (1, 150, 150, 0)


@pytest.mark.parametrize("table", APPEND_ONLY)
@pytest.mark.parametrize("statement", ["UPDATE {0} SET {1} = {1}", "DELETE FROM {0}"])
def test_rows_that_must_never_change_are_refused_by_the_database(books: Path, table: str, statement: str) -> None:
    with closing(sqlite3.connect(books)) as db:
        ((column, *_), *_) = db.execute("SELECT name FROM pragma_table_info(?)", (table,)).fetchall()
        assert db.execute(f"SELECT count(*) FROM {table}").fetchone() > (0,)  # noqa: S608 - our own table
        with pytest.raises(sqlite3.IntegrityError, match=f"{table} is append-only"):
            db.execute(statement.format(table, column))


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("UPDATE accounts SET available_msat = available_msat + 1 WHERE held_msat > 0", "available + held + spent is"),
        (
            "UPDATE accounts SET available_msat = available_msat + 1, deposited_msat = deposited_msat + 1 "
            "WHERE held_msat > 0",
            "received in the journal is 1000 msat, expected 1001",
        ),
        (
            "UPDATE accounts SET available_msat = available_msat + 1, held_msat = held_msat - 1 WHERE held_msat > 0",
            "the sum of open holds is 100 msat, expected 99",
        ),
        ("UPDATE accounts SET available_msat = -5 WHERE available_msat = 0", "available is negative"),
        ("UPDATE accounts SET debt_msat = 3 WHERE held_msat > 0", "debt in the journal is 0 msat, expected 3"),
        (
            "DELETE FROM postings WHERE ledger = 'held' "
            "AND transaction_id = (SELECT max(transaction_id) FROM postings)",
            "transaction end:done does not balance",
        ),
        (
            "DELETE FROM postings WHERE transaction_id = (SELECT id FROM transactions WHERE key = 'end:done')",
            "spent in the journal is 0 msat, expected 150",
        ),
        ("DELETE FROM transactions WHERE key = 'end:free'", "1 ends of holds, but 2 holds have ended"),
        ("DELETE FROM transactions WHERE key = 'reserve:open'", "2 reservations, but there are 3 holds"),
        ("DELETE FROM transactions WHERE key = 'end:done'", "postings row"),
        ("UPDATE postings SET agent_id = 'ag_nobody' WHERE ledger = 'spent'", "there is no such account"),
        ("UPDATE holds SET amount_msat = 1 WHERE key = 'open'", "the sum of open holds is 1 msat, expected 100"),
        ("UPDATE holds SET charged_msat = 1 WHERE key = 'done'", "the sum charged by holds is 1 msat, expected 150"),
        ("UPDATE holds SET state = 'open' WHERE key = 'done'", "is open with a charge of 150"),
        ("UPDATE holds SET state = 'released' WHERE key = 'done'", "is released with a charge of 150"),
        ("UPDATE holds SET state = 'settled' WHERE key = 'open'", "is settled with a charge of None"),
        ("DELETE FROM holds WHERE key = 'open'", "the sum of open holds is 0 msat, expected 100"),
        ("UPDATE receipts SET cost_msat = 1 WHERE request_id = 'done'", "the sum of receipts is 1 msat, expected 150"),
        ("DELETE FROM audit WHERE sequence = 3", "audit row 3 is missing"),
        ("DELETE FROM audit WHERE sequence = (SELECT max(sequence) FROM audit)", "its end is missing"),
        ("UPDATE audit SET details = '{}' WHERE sequence = 3", "audit row 3 does not follow"),
        ("UPDATE audit SET at_ns = at_ns + 1 WHERE sequence = 1", "audit row 1 does not follow"),
        ("UPDATE audit SET hash = zeroblob(32) WHERE sequence = 3", "audit row 3 does not follow"),
    ],
)
def test_a_changed_row_is_found(books: Path, statement: str, problem: str) -> None:
    tamper(books, statement)
    report = Store.check(books)
    assert not report.clean
    assert any(problem in found for found in report.problems), report.problems


def test_a_few_of_many_unbalanced_transactions_are_told(books: Path) -> None:
    with closing(sqlite3.connect(books)) as db:
        for number in range(1000, 1040):
            db.execute("INSERT INTO transactions VALUES (?, ?, 'odd', 'ag', 1)", (number, f"k{number}"))
            db.execute("INSERT INTO postings VALUES (?, 'ag', 'spent', 1)", (number,))
        db.commit()
    told = [problem for problem in Store.check(books).problems if "does not balance" in problem]
    assert 0 < len(told) <= 10


def test_the_number_of_statements_stays_the_same_when_there_is_much_to_check(
    store: Store, new_hand: Callable[[], Any], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    statements: list[str] = []
    connect = sqlite3.connect

    def traced(*arguments: Any, **options: Any) -> sqlite3.Connection:
        db: sqlite3.Connection = connect(*arguments, **options)
        db.set_trace_callback(statements.append)
        return db

    monkeypatch.setattr(store_module.sqlite3, "connect", traced)
    assert Store.check(path).clean
    few, statements[:] = len(statements), []

    hands = [new_hand() for _ in range(100)]
    for number, hand in enumerate(hands):
        store.submit(hand.deposit(str(number), 100_000))
    for number in range(4_950):
        hand = hands[number % len(hands)]
        store.submit(hand.reserve(f"r{number}", 10))
        store.submit(hand.settle(f"r{number}", 7))
    store.wait_for(lambda _: None)
    report = Store.check(path)
    assert report.problems == ()
    assert report.spent_msat == 4_950 * 7
    assert len(statements) == few


def test_sums_are_exact_when_they_exceed_what_a_float_holds(store: Store, hand: Any, path: Path) -> None:
    amount = 2**53 + 1
    store.commit_now(hand.deposit("big", amount))
    store.commit_now(hand.reserve("a", amount))
    (agent,) = Store.check(path).agents
    assert agent == Store.read_agents(path)[0]
    assert (agent.held_msat, agent.available_msat) == (amount, 1000)


def test_what_another_vault_is_owed_must_have_been_bought(books: Path, receipt: Callable[..., Any]) -> None:
    hold = RemoteHoldRow("tx_1", "r1", "ag_far", 90, "m", "p", 1, RemoteHoldState.ENDING, charge_msat=40)
    with Store.open(books) as store:
        store.commit_now(KeepRemoteHold(hold, receipt("r1", 40)))
        store.commit_now(KeepRemoteHold(evolve(hold, reservation_id="tx_2"), receipt("r1", 40)))
    assert Store.check(books).problems == ()
    tamper(books, "DELETE FROM receipts WHERE hold_id = 'vault:tx_2'", "UPDATE remote_holds SET charge_msat = 41")
    assert Store.check(books).problems == (
        "reservation tx_1 at another vault is to be charged 41 msat, its receipt says 40",
        "reservation tx_2 at another vault is to be charged 41 msat, its receipt says None",
    )
