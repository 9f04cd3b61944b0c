"""Group commit, and what a refusal, a failure of the disk or a defect does to the neighbours."""

import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from attrs import evolve

from arbstr.store import (
    DuplicateKey,
    HoldRenewal,
    ReceiptOnly,
    Store,
    StoreBusy,
    StoreError,
    StoreUnavailable,
    Unwritable,
    VersionConflict,
    read_account,
    read_deposit,
    read_hold,
    read_open_holds,
)
from arbstr.store import _writer as writer_module

Submit = Callable[..., list[StoreError | None]]


def commits_of(store: Store) -> list[str]:
    """Transactions from now on, by their last statement."""
    seen: list[str] = []

    def trace(statement: str) -> None:
        if statement in ("COMMIT", "ROLLBACK"):
            seen.append(statement)

    store.wait_for(lambda db: db.set_trace_callback(trace))
    return seen


def account(store: Store, hand: Any) -> Any:
    return store.wait_for(lambda db: read_account(db, hand.account.agent_id))


def clean(path: Path) -> None:
    assert Store.check(path).problems == ()


# Group commit


def test_one_transaction_commits_all_that_waited_when_the_writer_was_busy(
    store: Store, hand: Any, submit_batch: Submit, path: Path
) -> None:
    seen = commits_of(store)
    assert submit_batch(*(hand.reserve(f"r{n}", 1) for n in range(100))) == [None] * 100
    assert seen == ["COMMIT"]
    assert account(store, hand) == hand.account
    clean(path)


def test_a_call_sees_what_was_submitted_before_it_and_nothing_after(
    store: Store, hand: Any, gate: Any, path: Path
) -> None:
    seen: list[int] = []
    with gate:
        for number in range(3):
            store.submit(hand.reserve(f"r{number}", 1))
            store.call(lambda db: len(read_open_holds(db)), lambda found, _: seen.append(found))
    assert seen == [1, 2, 3]
    clean(path)


def test_answers_come_in_one_delivery_per_batch_when_attached(store: Store, hand: Any, gate: Any, answers: Any) -> None:
    deliveries: list[int] = []

    def deliver(run: Callable[[], None]) -> None:
        before = len(answers.errors)
        run()
        deliveries.append(len(answers.errors) - before)

    with gate:
        store._writer.deliver_through(deliver)
        for number in range(20):
            store.submit(hand.reserve(f"r{number}", 1), answers.of(str(number)))
    assert 20 in deliveries
    assert list(answers.errors) == [str(number) for number in range(20)]


async def test_answers_are_delivered_on_the_trio_thread_when_attached(store: Store, hand: Any, answers: Any) -> None:
    store.attach(trio.lowlevel.current_trio_token())
    arrived = trio.Event()
    store.submit(hand.reserve("r", 1), answers.of("r"))
    store.call(lambda db: read_open_holds(db), lambda *_: arrived.set())
    with trio.fail_after(10):
        await arrived.wait()
    store.detach()
    assert answers.threads == {threading.current_thread().name}


async def test_blocking_calls_are_refused_when_their_answer_would_need_this_very_thread(store: Store) -> None:
    assert store.tokens_now() == []  # before the run has begun to serve
    store.attach(trio.lowlevel.current_trio_token())
    with pytest.raises(RuntimeError, match="must not block"):
        store.tokens_now()
    store.detach()
    assert store.tokens_now() == []


def test_changes_are_written_when_the_trio_run_of_their_askers_has_ended(
    store: Store, hand: Any, answers: Any, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        store.attach(trio.lowlevel.current_trio_token())

    trio.run(main)
    store.submit(hand.reserve("r", 10), answers.of("r"))
    store.close()
    assert answers.errors == {}
    assert "nobody to go to" in caplog.text
    assert Store.check(path).open_holds == 1


# Refusals


def test_neighbours_are_committed_when_a_change_among_them_repeats_a_key(
    store: Store, hand: Any, new_hand: Callable[[], Any], submit_batch: Submit, path: Path
) -> None:
    other = new_hand()
    again = new_hand().deposit("start", 5)
    seen = commits_of(store)
    errors = submit_batch(hand.reserve("a", 1), again, other.deposit("o", 9), hand.reserve("b", 2))
    assert [type(error) for error in errors] == [type(None), DuplicateKey, type(None), type(None)]
    assert seen == ["ROLLBACK", "COMMIT"]
    assert account(store, hand) == hand.account
    assert account(store, other).available_msat == 9
    clean(path)


def test_all_that_was_decided_on_a_refused_change_is_refused_too(
    store: Store, hand: Any, new_hand: Callable[[], Any], submit_batch: Submit, path: Path
) -> None:
    before, other = hand.account, new_hand()
    doomed = [hand.deposit("start", 1), hand.reserve("b", 2), hand.settle("b", 1)]
    errors = submit_batch(doomed[0], other.deposit("o", 9), *doomed[1:])
    assert [type(error) for error in errors] == [DuplicateKey, type(None), VersionConflict, VersionConflict]
    assert account(store, hand) == before
    clean(path)


def test_a_decision_on_another_state_is_refused_when_it_has_the_version_of_this_one(
    store: Store, hand: Any, submit_batch: Submit, path: Path
) -> None:
    """Version numbers alone would let through what was decided on a change that failed."""
    base = hand.account
    failed, after_it = hand.deposit("lost", 500), hand.reserve("a", 1200)
    hand.account = base
    store.commit_now(hand.deposit("other writer", 100))
    errors = submit_batch(failed, after_it)
    assert [type(error) for error in errors] == [VersionConflict, VersionConflict]
    assert account(store, hand) == hand.account
    clean(path)


def test_an_end_is_refused_when_the_hold_on_disk_has_another_amount(store: Store, hand: Any, path: Path) -> None:
    store.commit_now(hand.reserve("a", 100))
    end = hand.settle("a", 10)
    with pytest.raises(VersionConflict):
        store.commit_now(evolve(end, hold=evolve(end.hold, before_msat=200)))
    store.commit_now(end)
    clean(path)


def test_a_hold_ends_once_when_it_is_ended_under_two_keys(store: Store, hand: Any, path: Path) -> None:
    for change in (hand.reserve("a", 100), hand.reserve("b", 100), hand.settle("a", 10)):
        store.commit_now(change)
    with pytest.raises(VersionConflict):
        store.commit_now(evolve(hand.settle("a", 20), key="resolve:a"))
    clean(path)


@pytest.mark.parametrize("amount", [1 << 64, -1])
def test_the_writer_lives_when_a_change_breaks_the_rules_of_the_database(
    store: Store, hand: Any, submit_batch: Submit, amount: int, path: Path
) -> None:
    before = hand.account
    bad = hand.deposit("bad", 1)
    bad = evolve(bad, after=evolve(bad.after, debt_msat=amount))
    hand.account = before
    assert [type(error) for error in submit_batch(bad, hand.reserve("a", 1))] == [Unwritable, type(None)]
    clean(path)


def test_a_hold_is_made_and_ended_when_others_chose_text_and_numbers_that_no_column_holds(
    store: Store, hand: Any, receipt: Callable[..., Any], path: Path
) -> None:
    store.commit_now(hand.reserve("a", 100, model="gpt-\ud800", correlation_id="\udfff"))
    row = receipt("a", error="\ud800 broke", prompt_tokens=10**30, selection="{}")
    store.commit_now(hand.settle("a", 10, row))
    hold = store.wait_for(lambda db: read_hold(db, key="a"))
    assert hold is not None
    assert (hold.model, hold.charged_msat) == ("gpt-?", 10)
    tokens = store.wait_for(lambda db: db.execute("SELECT prompt_tokens, error FROM receipts").fetchone())
    assert tokens == ((1 << 63) - 1, "? broke")
    clean(path)


def test_a_hold_ends_when_its_request_has_a_receipt_already(
    store: Store, hand: Any, receipt: Callable[..., Any], path: Path
) -> None:
    store.commit_now(ReceiptOnly(receipt("a")))
    store.commit_now(hand.reserve("a", 100))
    store.commit_now(hand.settle("a", 10, receipt("a")))
    clean(path)


def test_a_receipt_takes_agent_hold_and_cost_from_the_change_it_is_filed_with(
    store: Store, hand: Any, receipt: Callable[..., Any]
) -> None:
    store.commit_now(hand.reserve("a", 100))
    store.commit_now(hand.settle("a", 10, receipt("a", 77, agent_id="somebody", hold_id="tx_no")))
    filed = store.wait_for(lambda db: db.execute("SELECT agent_id, hold_id, cost_msat FROM receipts").fetchone())
    assert filed == (hand.account.agent_id, hand.holds["a"].hold_id, 10)


def test_a_receipt_is_refused_when_it_was_filed_before(store: Store, receipt: Callable[..., Any]) -> None:
    store.commit_now(ReceiptOnly(receipt("a")))
    with pytest.raises(DuplicateKey):
        store.commit_now(ReceiptOnly(receipt("a")))


def test_a_renewal_changes_nothing_when_the_hold_has_ended_and_never_takes_evidence_back(
    store: Store, hand: Any
) -> None:
    store.commit_now(hand.reserve("a", 100))
    hold_id = hand.holds["a"].hold_id
    store.commit_now(HoldRenewal(hold_id, 50, 7))
    store.commit_now(HoldRenewal(hold_id, 40, 3))
    hold = store.wait_for(lambda db: read_hold(db, hold_id=hold_id))
    assert hold is not None
    assert (hold.lease_ns, hold.evidence_msat) == (50, 7)
    store.commit_now(hand.settle("a", 7))
    store.commit_now(HoldRenewal(hold_id, 999, 99))
    hold = store.wait_for(lambda db: read_hold(db, hold_id=hold_id))
    assert hold is not None
    assert (hold.evidence_msat, hold.charged_msat) == (7, 7)


def test_a_deposit_is_found_by_its_key(store: Store, hand: Any) -> None:
    assert store.wait_for(lambda db: read_deposit(db, "start")) == (hand.account.agent_id, 1000)
    assert store.wait_for(lambda db: read_deposit(db, "other")) is None


# The disk


def test_batches_fail_whole_when_the_disk_is_full_and_succeed_when_it_is_not(
    store: Store, hand: Any, receipt: Callable[..., Any], submit_batch: Submit, path: Path
) -> None:
    def limit(pages: int) -> None:
        store.wait_for(lambda db: db.execute(f"PRAGMA max_page_count = {pages}").fetchone())

    (pages,) = store.wait_for(lambda db: db.execute("PRAGMA page_count").fetchone())
    before = hand.account
    limit(pages)
    seen = commits_of(store)
    errors = submit_batch(hand.reserve("a", 1), ReceiptOnly(receipt("x", error="x" * 9000)), hand.reserve("b", 1))
    assert {type(error) for error in errors} == {StoreUnavailable}
    assert "COMMIT" not in seen
    assert account(store, hand) == before
    hand.account = before
    limit(1 << 30)
    changes = hand.reserve("a", 1), ReceiptOnly(receipt("x", error="x" * 9000)), hand.reserve("b", 1)
    assert submit_batch(*changes) == [None, None, None]
    clean(path)


def test_batches_fail_whole_when_the_file_cannot_be_written_and_succeed_when_it_can(
    store: Store, hand: Any, submit_batch: Submit, path: Path
) -> None:
    def writable(is_writable: bool) -> None:
        """SQLite gives the error of a file that is read-only, whoever runs the test."""
        switch = "OFF" if is_writable else "ON"
        store.wait_for(lambda db: db.execute(f"PRAGMA query_only = {switch}").fetchone())

    before = hand.account
    writable(False)
    errors = submit_batch(hand.reserve("a", 1), hand.reserve("b", 1))
    assert {type(error) for error in errors} == {StoreUnavailable}
    assert account(store, hand) == before
    hand.account = before
    writable(True)
    assert submit_batch(hand.reserve("a", 1), hand.reserve("b", 1)) == [None, None]
    clean(path)


def test_a_batch_fails_once_and_whole_when_another_program_has_locked_the_file(
    store: Store, hand: Any, submit_batch: Submit, path: Path
) -> None:
    store.wait_for(lambda db: db.execute("PRAGMA busy_timeout = 1").fetchone())
    seen: list[str] = []
    store.wait_for(lambda db: db.set_trace_callback(seen.append))
    intruder = sqlite3.connect(path, isolation_level=None)
    intruder.execute("BEGIN IMMEDIATE")
    before = hand.account
    errors = submit_batch(*(hand.reserve(f"r{n}", 1) for n in range(50)))
    assert {type(error) for error in errors} == {StoreUnavailable}
    assert seen.count("BEGIN IMMEDIATE") == 1
    intruder.execute("ROLLBACK")
    intruder.close()
    hand.account = before
    store.commit_now(hand.reserve("a", 1))
    clean(path)


# Calls


def test_the_next_change_is_committed_when_a_call_has_left_a_transaction_open(
    store: Store, hand: Any, path: Path
) -> None:
    with pytest.raises(StoreError, match="ZeroDivisionError"):
        store.wait_for(lambda db: db.execute("BEGIN IMMEDIATE") and 1 // 0)
    store.commit_now(hand.reserve("a", 1))
    clean(path)


def test_a_call_reports_the_database_error_of_its_function(store: Store) -> None:
    with pytest.raises(StoreUnavailable, match="no such table"):
        store.wait_for(lambda db: db.execute("SELECT * FROM no_table"))


def test_others_are_answered_when_a_receiver_of_answers_breaks(
    store: Store, hand: Any, gate: Any, answers: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with gate:
        store.submit(hand.reserve("a", 1), lambda *_: 1 // 0)  # type: ignore[arg-type, return-value]  # that is the point
        store.submit(hand.reserve("b", 1), answers.of("b"))
    assert answers.errors == {"b": None}
    assert "was not taken" in caplog.text


def test_an_unattended_change_that_fails_is_logged(
    store: Store, receipt: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        store.submit(ReceiptOnly(receipt("a")))
    store.wait_for(lambda _: None)
    assert "ReceiptOnly was not written" in caplog.text


# Bounds and the end


def test_changes_are_refused_when_too_many_wait(
    store: Store, hand: Any, gate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "MAX_WAITING", 3)
    with gate:
        for number in range(3):
            store.submit(hand.reserve(f"r{number}", 1))
        assert store.waiting == 3
        with pytest.raises(StoreBusy):
            store.submit(hand.reserve("more", 1))
        monkeypatch.undo()


def test_all_that_was_queued_is_on_disk_when_the_store_is_closed(
    store: Store, hand: Any, answers: Any, path: Path
) -> None:
    for number in range(600):
        store.submit(hand.reserve(f"r{number}", 1), answers.of(str(number)))
    store.close()
    assert set(answers.errors.values()) == {None}
    assert Store.check(path).open_holds == 600
    with pytest.raises(StoreUnavailable, match="closed"):
        store.submit(hand.reserve("late", 1))
    store.close()
