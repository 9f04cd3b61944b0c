"""The audit finds what is wrong with payments, approvals, budgets, policies and tokens; a start finds what it can."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from attrs import evolve

from arbstr.store import (
    ApprovalRow,
    ApprovalStatus,
    BearerRow,
    BudgetRow,
    PaymentRow,
    PaymentState,
    PolicyRow,
    Store,
    quick_check,
)
from arbstr.store._answers import _UNFINISHED
from tests.store.maker import Maker, added

A, B = "ag_a", "ag_b"


@pytest.fixture
def books(tmp_path: Path) -> Path:
    """One of everything, all of it right."""
    path = tmp_path / "books.db"
    payment = PaymentRow("tx_paid", A, "payment", 100, PaymentState.HELD, 1, 1, fee_limit_msat=10)
    asked = PaymentRow("tx_asked", A, "withdrawal", 50, PaymentState.PENDING_APPROVAL, 1, 1, approval_id="apr_1")
    approval = ApprovalRow("apr_1", A, "withdrawal", "tx_asked", 50, None, ApprovalStatus.PENDING, 1, 9)
    question = ApprovalRow("apr_2", A, "request", "big", 70, None, ApprovalStatus.PENDING, 1, 9)
    budget = BudgetRow("bu_1", A, "part", 500)
    maker = Maker.of(A)
    changes = [
        added(A),
        added(B),
        maker.deposit("start", 1_000),
        maker.note("mint", budget, BearerRow("tk_sub", "sub hash", A, "sub", "bu_1"), PolicyRow(A, 2, 5, 6)),
        maker.reserve("tx_paid", 110, (payment,), kind="payment"),
        maker.end("tx_paid", 103, also=(evolve(payment, state=PaymentState.SUCCEEDED, fee_msat=3),)),
        maker.reserve("tx_asked", 50, (asked, approval), kind="withdrawal"),
        maker.reserve("big", 70, (question,)),
        maker.reserve("sub", 40, budget_id="bu_1"),
        maker.end("sub", 30, also=(evolve(budget, spent_msat=30),)),
    ]
    with Store.open(path, durability="process") as store:
        for change in changes:
            store.commit_now(change)
    return path


def tamper(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as db:
        for (trigger,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            db.execute(f"DROP TRIGGER {trigger}")
        for statement in statements:
            db.execute(statement)
        db.commit()


def test_right_books_are_right(books: Path) -> None:
    assert Store.check(books).problems == ()
    assert Store.read_from(books, quick_check).problems == ()
    assert Store.verify(books).problem is None


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("UPDATE payments SET fee_msat = 4 WHERE transaction_id = 'tx_paid'", "payment tx_paid"),
        ("UPDATE payments SET state = 'failed' WHERE transaction_id = 'tx_paid'", "payment tx_paid"),
        ("UPDATE payments SET state = 'sending' WHERE transaction_id = 'tx_paid'", "payment tx_paid"),
        ("UPDATE payments SET agent_id = 'ag_b' WHERE transaction_id = 'tx_paid'", "payment tx_paid"),
        ("UPDATE payments SET amount_msat = 51 WHERE transaction_id = 'tx_asked'", "payment tx_asked"),
        ("UPDATE payments SET state = 'denied' WHERE transaction_id = 'tx_asked'", "payment tx_asked"),
        ("UPDATE payments SET state = 'held' WHERE transaction_id = 'tx_asked'", "approval apr_1 is pending"),
        ("DELETE FROM payments WHERE transaction_id = 'tx_paid'", "of a payment that there is not"),
        ("UPDATE approvals SET transaction_id = 'x' WHERE approval_id = 'apr_2'", "approval apr_2 is pending"),
        ("UPDATE approvals SET amount_msat = 71 WHERE approval_id = 'apr_2'", "approval apr_2 is pending"),
        ("DELETE FROM approvals WHERE approval_id = 'apr_1'", "approval tx_asked is pending"),
        ("UPDATE budgets SET spent_msat = 29", "budget bu_1 has spent 29"),
        ("UPDATE budgets SET agent_id = 'ag_b'", "another agent's"),
        ("UPDATE policies SET version = 3 WHERE version = 2", "policy has 2 versions"),
        ("DELETE FROM policies WHERE agent_id = 'ag_b'", "policy has 0 versions"),
        ("UPDATE receipts SET cost_msat = 31", "sum of receipts"),
    ],
)
def test_what_does_not_fit_is_found(books: Path, statement: str, problem: str) -> None:
    tamper(books, statement)
    assert any(problem in found for found in Store.check(books).problems)


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        (
            "UPDATE accounts SET held_msat = held_msat + 1, available_msat = available_msat - 1 WHERE held_msat > 0",
            "sum of open holds",
        ),
        ("UPDATE accounts SET deposited_msat = deposited_msat + 1, available_msat = available_msat + 1", "journal has"),
        ("DELETE FROM postings WHERE ledger = 'held' AND transaction_id = 3", "does not balance"),
        ("UPDATE audit SET at_ns = 8 WHERE sequence = 5", "audit row 5"),
        ("DELETE FROM audit WHERE sequence > 5", "its end is missing"),
    ],
)
def test_a_start_finds_what_is_wrong_with_short_books(books: Path, statement: str, problem: str) -> None:
    tamper(books, statement)
    report = Store.read_from(books, quick_check)
    assert report.complete
    assert any(problem in found for found in report.problems)


def test_a_start_looks_at_the_newest_rows_only_when_there_are_many(books: Path) -> None:
    tamper(books, "UPDATE audit SET at_ns = 8 WHERE sequence = 3")
    report = Store.read_from(books, lambda db: quick_check(db, 3))
    assert (report.complete, report.problems) == (False, ())
    tamper(books, "UPDATE audit SET at_ns = 8 WHERE sequence = 9")
    assert Store.read_from(books, lambda db: quick_check(db, 3)).problems


@pytest.mark.parametrize(
    ("statement", "index"),
    [
        ("SELECT * FROM payments WHERE agent_id = ? AND " + _UNFINISHED, "payments_unfinished"),  # noqa: S608 - ours
        ("SELECT * FROM payments WHERE agent_id = ? AND key = ?", "sqlite_autoindex_payments_2"),
        ("SELECT * FROM approvals WHERE agent_id = ? AND status = 'pending'", "approvals_pending"),
        ("SELECT * FROM outbox WHERE state = 'pending' AND due_ns <= ? ORDER BY due_ns, event_id", "outbox_due"),
        ("SELECT * FROM holds WHERE agent_id = ? AND state = 'open'", "holds_open"),
        (
            "SELECT ended_ns, charged_msat FROM holds WHERE agent_id = ? AND charged_msat > 0 AND ended_ns > ?",
            "COVERING INDEX holds_charged",
        ),
        (
            "SELECT * FROM budgets WHERE agent_id = ? AND revoked_ns IS NULL "
            "AND coalesce(expires_ns, 9223372036854775807) > ?",
            "budgets_live (agent_id=? AND <expr>>?)",
        ),
    ],
)
def test_what_an_owner_loads_does_not_take_longer_with_more_rows(books: Path, statement: str, index: str) -> None:
    with closing(sqlite3.connect(books)) as db:
        plan = db.execute(f"EXPLAIN QUERY PLAN {statement}", (1,) * statement.count("?")).fetchall()
    assert len(plan) <= 2
    assert index in plan[0][3]
