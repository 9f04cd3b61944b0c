"""What every ledger does, on disk and in memory."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from arbstr.store import (
    DAY_NS,
    ActiveTokens,
    AlertSent,
    ApprovalRow,
    ApprovalStatus,
    BearerRow,
    BudgetRow,
    CheckReport,
    DeadEvents,
    DueEvents,
    DuplicateKey,
    EventProgress,
    EventRow,
    EventState,
    FindApproval,
    FindBudget,
    FindDeposit,
    FindEvent,
    FindHold,
    FindPayment,
    FoundDeposit,
    Frozen,
    HoldRenewal,
    HoldState,
    Ledger,
    ListAgents,
    LoadAccount,
    MemoryLedger,
    OrphanedHolds,
    PaymentRow,
    PaymentState,
    PendingApprovals,
    PolicyRow,
    ReadAccount,
    ReceiptOnly,
    Store,
    TokensOf,
    UnfinishedPayments,
    UnknownAgent,
    Unwritable,
    VersionConflict,
)
from tests.store.maker import Maker, added, receipt

A, B = "ag_a", "ag_b"


@pytest.fixture(params=["disk", "memory"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ledger]:
    if request.param == "memory":
        yield MemoryLedger()
        return
    with Store.open(tmp_path / "books.db", durability="process") as store:
        yield store


@pytest.fixture
def check(ledger: Any) -> Callable[[], CheckReport]:
    return lambda: ledger.check(ledger.path) if isinstance(ledger, Store) else ledger.check()


@pytest.fixture
def maker(ledger: Ledger) -> Maker:
    """Of an agent with 1000 msat."""
    ledger.commit_now(added(A))
    maker = Maker.of(A)
    ledger.commit_now(maker.deposit("start", 1_000))
    return maker


def payment(transaction_id: str = "tx_1", **changes: Any) -> PaymentRow:
    return evolve(PaymentRow(transaction_id, A, "payment", 100, PaymentState.HELD, 1, 1), **changes)


def approval(approval_id: str = "apr_1", **changes: Any) -> ApprovalRow:
    row = ApprovalRow(approval_id, A, "payment", "tx_1", 100, "lnbc1", ApprovalStatus.PENDING, 1, 50)
    return evolve(row, **changes)


GRANTED: dict[str, Any] = {"status": ApprovalStatus.APPROVED, "resolved_ns": 5}
USED: dict[str, Any] = {"status": ApprovalStatus.USED, "resolved_ns": 5}


def event(event_id: str = "evt_1", **changes: Any) -> EventRow:
    return evolve(EventRow(event_id, "approval_required", A, '{"a":1}', 1, 10), **changes)


# Agents and tokens


def test_an_agent_begins_with_nothing_a_token_and_the_first_policy(ledger: Ledger) -> None:
    ledger.commit_now(added(A))
    loaded = ledger.ask_now(LoadAccount(A, 10))
    assert (loaded.account.available_msat, loaded.account.version, loaded.frozen_ns) == (0, 0, None)
    assert loaded.policies == (PolicyRow(A, 1, 0, 0, set_by_operator=False),)
    (token,) = ledger.ask_now(ActiveTokens())
    assert (token.agent_id, token.name, token.token_hash) == (A, f"name of {A}", f"hash of {A}")
    assert [agent.agent_id for agent in ledger.ask_now(ListAgents())] == [A]


@pytest.mark.parametrize("again", [added(A, "other hash"), added(B, f"hash of {A}")])
def test_an_agent_is_refused_when_its_id_or_its_token_is_taken(ledger: Ledger, again: Any) -> None:
    ledger.commit_now(added(A))
    with pytest.raises(DuplicateKey):
        ledger.commit_now(again)
    assert len(ledger.ask_now(ListAgents())) == len(ledger.ask_now(ActiveTokens())) == 1


@pytest.mark.parametrize("question", [LoadAccount("ag_x", 1), ReadAccount("ag_x")])
def test_it_is_said_when_there_is_no_such_agent(ledger: Ledger, question: Any) -> None:
    with pytest.raises(UnknownAgent, match="ag_x"):
        ledger.ask_now(question)


def test_tokens_are_added_and_revoked_with_a_change(ledger: Ledger, maker: Maker) -> None:
    budget = BudgetRow("bu_1", A, "part", 500)
    token = BearerRow("tk_new", "new hash", A, "sub", "bu_1", 5, expires_ns=99)
    ledger.commit_now(maker.note("mint", budget, token))
    assert [(row.token_hash, row.budget_id, row.expires_ns) for row in ledger.ask_now(TokensOf(A))] == [
        (f"hash of {A}", None, None),
        ("new hash", "bu_1", 99),
    ]
    first = BearerRow(f"tk_{A}", f"hash of {A}", A, "first", revoked_ns=8)
    ledger.commit_now(maker.note("revoke", first))
    assert [row.token_hash for row in ledger.ask_now(ActiveTokens())] == ["new hash"]
    with pytest.raises(Unwritable):
        ledger.commit_now(Maker(maker.account).note("again", evolve(first, revoked_ns=None)))


def test_a_token_is_refused_when_its_hash_is_anothers(ledger: Ledger, maker: Maker) -> None:
    with pytest.raises(DuplicateKey):
        ledger.commit_now(maker.note("steal", BearerRow("tk_2", f"hash of {A}", A, "")))
    assert len(ledger.ask_now(TokensOf(A))) == 1


# Money


def test_a_change_is_refused_when_the_account_is_not_what_it_was_decided_on(ledger: Ledger, maker: Maker) -> None:
    stale = Maker(evolve(maker.account, available_msat=999, spent_msat=1))
    with pytest.raises(VersionConflict):
        ledger.commit_now(stale.reserve("a", 1))
    assert ledger.ask_now(ReadAccount(A)) == maker.account
    assert ledger.ask_now(FindHold(key="a")) is None


def test_a_change_is_refused_when_its_key_was_used(ledger: Ledger, maker: Maker) -> None:
    for change in (maker.deposit("start", 5), Maker(ledger.ask_now(ReadAccount(A))).deposit("start", 1_000)):
        with pytest.raises(DuplicateKey) as refusal:
            ledger.commit_now(change)
        assert refusal.value.key == "deposit:start"
    assert ledger.ask_now(FindDeposit("start")) == FoundDeposit(1_000, ledger.ask_now(ReadAccount(A)))
    assert ledger.ask_now(FindDeposit("other")) is None


def test_nothing_of_a_change_stays_when_its_last_row_is_refused(
    ledger: Ledger, maker: Maker, check: Callable[[], CheckReport]
) -> None:
    before = maker.account
    rows = (PolicyRow(A, 2, 5, 6), BudgetRow("bu_1", A, "part", 5), event(), AlertSent(A, 4), Frozen(A, 5))
    with pytest.raises(Unwritable):
        ledger.commit_now(maker.reserve("a", 7, (*rows, payment(amount_msat=-1))))
    loaded = ledger.ask_now(LoadAccount(A, 10))
    assert (loaded.account, loaded.open_holds, loaded.budgets, loaded.frozen_ns) == (before, (), (), None)
    assert [policy.version for policy in loaded.policies] == [1]
    assert ledger.ask_now(FindEvent("evt_1")) is None
    assert check().problems == ()


def test_a_hold_lives_and_ends_once(ledger: Ledger, maker: Maker, check: Callable[[], CheckReport]) -> None:
    for change in (maker.reserve("a", 100), maker.reserve("b", 100)):
        ledger.commit_now(change)
    ledger.commit_now(HoldRenewal("tx_a", 77, 40))
    ledger.commit_now(HoldRenewal("tx_a", 5, 4))
    hold = ledger.ask_now(FindHold(hold_id="tx_a"))
    assert hold is not None
    assert (hold.lease_ns, hold.evidence_msat, hold.kind, hold.budget_id) == (77, 40, "request", None)
    ended = maker.end("a", 60)
    ledger.commit_now(ended)
    found = ledger.ask_now(FindHold(key="a"))
    assert found is not None
    assert (found.state, found.charged_msat, found.ended_ns) == (HoldState.SETTLED, 60, 9)
    again = Maker(maker.account, maker.holds).end("a", 60)
    with pytest.raises(VersionConflict):
        ledger.commit_now(evolve(again, key="other"))
    assert check().problems == ()


def test_a_change_is_refused_when_it_ends_another_agents_hold(ledger: Ledger, maker: Maker) -> None:
    ledger.commit_now(added(B))
    other = Maker.of(B)
    for change in (other.deposit("b", 500), maker.reserve("a", 100), other.reserve("b", 100)):
        ledger.commit_now(change)
    thief = Maker(other.account, {"a": maker.holds["a"]})
    with pytest.raises(VersionConflict):
        ledger.commit_now(thief.end("a", 100))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda maker: evolve(maker.reserve("a", 5), kind="settle"),
        lambda maker: evolve(maker.deposit("b", 5), kind="reserve"),
        lambda maker: evolve(maker.note("n"), kind="release"),
        lambda maker: maker.note("n", AlertSent(B, 5)),
        lambda maker: maker.reserve("a", 5, agent_id=B),
        lambda maker: maker.reserve("a", 2_000),
        lambda maker: maker.reserve("a", 5, kind="gift"),
        lambda maker: maker.reserve("a", 5, budget_id="bu_none"),
        lambda maker: maker.note("n", BearerRow("tk_1", "h", A, "", budget_id="bu_none")),
        lambda maker: maker.note("n", PolicyRow(A, 3)),
        lambda maker: maker.note("n", PolicyRow(A, 2, max_transaction_msat=-1)),
        lambda maker: maker.note("n", BudgetRow("bu_1", A, "", -1)),
        lambda maker: maker.note("n", approval(status=ApprovalStatus.DENIED)),
        lambda maker: maker.note("n", approval(kind="gift")),
        lambda maker: maker.note("n", payment(kind="gift")),
        lambda maker: maker.note("n", event(attempts=-1)),
    ],
)
def test_a_change_is_refused_when_it_breaks_a_rule_of_the_books(
    ledger: Ledger, maker: Maker, spoil: Callable[[Maker], Any], check: Callable[[], CheckReport]
) -> None:
    ledger.commit_now(added(B))
    before = maker.account
    with pytest.raises(Unwritable):
        ledger.commit_now(spoil(maker))
    assert ledger.ask_now(ReadAccount(A)) == before
    assert check().problems == ()


def test_a_receipt_is_filed_once(ledger: Ledger) -> None:
    ledger.commit_now(ReceiptOnly(receipt("r")))
    with pytest.raises(DuplicateKey):
        ledger.commit_now(ReceiptOnly(receipt("r")))


def test_a_hold_ends_all_the_same_when_its_request_has_a_receipt(
    ledger: Ledger, maker: Maker, check: Callable[[], CheckReport]
) -> None:
    for change in (ReceiptOnly(receipt("a")), maker.reserve("a", 5), maker.end("a", 5)):
        ledger.commit_now(change)
    assert check().problems == ()
    assert check().receipts_msat == 5


# What an owner loads


def test_the_rolling_day_is_what_ended_later_than_a_day_ago(ledger: Ledger, maker: Maker) -> None:
    for key, charge, at_ns in (("a", 10, 100), ("b", 20, 101), ("c", 0, 102), ("d", 30, 90)):
        ledger.commit_now(maker.reserve(key, 50))
        ledger.commit_now(maker.end(key, charge, at_ns))
    ledger.commit_now(maker.reserve("open", 5))
    assert ledger.ask_now(LoadAccount(A, 100 + DAY_NS)).spends == ((101, 20),)
    assert ledger.ask_now(LoadAccount(A, 99 + DAY_NS)).spends == ((100, 10), (101, 20))
    assert ledger.ask_now(LoadAccount(A, 50)).spends == ((90, 30), (100, 10), (101, 20))


def test_policies_are_the_one_that_counts_and_those_to_come(ledger: Ledger, maker: Maker) -> None:
    versions = [PolicyRow(A, 2, 1, 2, models=("m", "n"), effective_ns=10), PolicyRow(A, 3, effective_ns=30)]
    for row in versions:
        ledger.commit_now(maker.note(f"policy:{row.version}", row))
    assert ledger.ask_now(LoadAccount(A, 29)).policies == tuple(versions)
    assert ledger.ask_now(LoadAccount(A, 30)).policies == tuple(versions[1:])
    assert [row.version for row in ledger.ask_now(LoadAccount(A, 9)).policies] == [1, 2, 3]
    with pytest.raises(DuplicateKey):
        ledger.commit_now(maker.note("policy:again", PolicyRow(A, 2)))


def test_budgets_are_those_that_can_be_spent_and_those_of_open_holds(ledger: Ledger, maker: Maker) -> None:
    rows = [
        BudgetRow("bu_1", A, "live", 500, models=("m",)),
        BudgetRow("bu_2", A, "expired", 500, expires_ns=20),
        BudgetRow("bu_3", A, "revoked", 500),
        BudgetRow("bu_4", A, "revoked, and held from", 500),
    ]
    ledger.commit_now(maker.note("mint", *rows))
    ledger.commit_now(maker.reserve("a", 5, budget_id="bu_4"))
    revoked = [evolve(row, revoked_ns=9) for row in rows[2:]]
    ledger.commit_now(maker.note("revoke", *revoked))
    assert ledger.ask_now(LoadAccount(A, 20)).budgets == (rows[0], revoked[1])
    assert ledger.ask_now(LoadAccount(A, 19)).budgets == (rows[0], rows[1], revoked[1])
    assert ledger.ask_now(FindBudget("bu_3")) == revoked[0]


def test_what_a_budget_has_spent_is_never_less(ledger: Ledger, maker: Maker) -> None:
    row = BudgetRow("bu_1", A, "part", 500, spent_msat=5)
    ledger.commit_now(maker.note("mint", row))
    with pytest.raises(Unwritable):
        ledger.commit_now(Maker(maker.account).note("less", evolve(row, spent_msat=4)))
    ledger.commit_now(maker.note("more", evolve(row, spent_msat=6)))


def test_freezing_and_alerts_are_remembered(ledger: Ledger, maker: Maker) -> None:
    ledger.commit_now(maker.note("freeze", Frozen(A, 5), AlertSent(A, 6)))
    ledger.commit_now(maker.note("alert", AlertSent(A, 7)))
    loaded = ledger.ask_now(LoadAccount(A, 10))
    assert (loaded.frozen_ns, loaded.last_alert_ns) == (5, 7)
    ledger.commit_now(maker.note("thaw", Frozen(A, None)))
    assert ledger.ask_now(LoadAccount(A, 10)).frozen_ns is None


# Payments and approvals


def test_a_payment_is_found_until_it_ends(ledger: Ledger, maker: Maker, check: Callable[[], CheckReport]) -> None:
    row = payment(key="k", fee_limit_msat=10)
    ledger.commit_now(maker.reserve("tx_1", 110, (row,), kind="payment"))
    assert ledger.ask_now(LoadAccount(A, 10)).payments == ledger.ask_now(UnfinishedPayments()) == (row,)
    assert ledger.ask_now(FindPayment(agent_id=A, key="k")) == row
    assert ledger.ask_now(FindPayment(agent_id=B, key="k")) is None
    sent = evolve(row, state=PaymentState.SENDING, payment_hash="h", updated_ns=2)
    ledger.commit_now(maker.note("send", sent))
    assert ledger.ask_now(FindPayment("tx_1")) == sent
    done = evolve(sent, state=PaymentState.SUCCEEDED, fee_msat=3, settled_ns=5)
    ledger.commit_now(maker.end("tx_1", 103, also=(done,)))
    assert ledger.ask_now(UnfinishedPayments()) == ()
    assert ledger.ask_now(FindPayment("tx_1")) == done
    with pytest.raises(Unwritable):
        ledger.commit_now(Maker(maker.account).note("undo", evolve(done, state=PaymentState.FAILED)))
    assert check().problems == ()


def test_a_payment_is_refused_when_its_key_was_used_for_another(ledger: Ledger, maker: Maker) -> None:
    ledger.commit_now(maker.note("p1", payment("tx_1", key="k", state=PaymentState.DENIED)))
    with pytest.raises(DuplicateKey):
        ledger.commit_now(Maker(maker.account).note("p2", payment("tx_2", key="k")))
    ledger.commit_now(maker.note("p3", payment("tx_3", state=PaymentState.DENIED)))
    ledger.commit_now(maker.note("p4", payment("tx_4", state=PaymentState.DENIED)))


def test_a_row_is_refused_when_its_key_is_another_agents(ledger: Ledger, maker: Maker) -> None:
    ledger.commit_now(added(B))
    other = Maker.of(B)
    ledger.commit_now(maker.note("rows", approval(), payment(state=PaymentState.DENIED), event()))
    for number, row in enumerate([approval(agent_id=B), payment(agent_id=B), event(agent_id=B)]):
        with pytest.raises(DuplicateKey):
            ledger.commit_now(Maker(other.account).note(f"take {number}", row))


def test_an_approval_is_decided_once(ledger: Ledger, maker: Maker) -> None:
    ledger.commit_now(maker.note("ask", approval(), approval("apr_2", expires_ns=40, created_ns=2)))
    assert [row.approval_id for row in ledger.ask_now(PendingApprovals())] == ["apr_2", "apr_1"]
    assert [row.approval_id for row in ledger.ask_now(LoadAccount(A, 10)).approvals] == ["apr_1", "apr_2"]
    found = ledger.ask_now(FindApproval(transaction_id="tx_1"))
    assert found is not None
    assert found.approval_id == "apr_2"
    denied = approval(status=ApprovalStatus.DENIED, resolved_ns=5, decided_by="ada", reason="no")
    ledger.commit_now(maker.note("deny", denied))
    assert ledger.ask_now(FindApproval("apr_1")) == denied
    granted = evolve(denied, status=ApprovalStatus.APPROVED)
    with pytest.raises(Unwritable):
        ledger.commit_now(Maker(maker.account).note("grant", granted))
    assert [row.approval_id for row in ledger.ask_now(PendingApprovals())] == ["apr_2"]


@pytest.mark.parametrize("end", [ApprovalStatus.USED, ApprovalStatus.TIMED_OUT])
def test_a_requests_approval_is_open_until_somebody_has_come_for_it(
    ledger: Ledger, maker: Maker, end: ApprovalStatus
) -> None:
    asked = approval(kind="request")
    granted = evolve(asked, status=ApprovalStatus.APPROVED, resolved_ns=5, expires_ns=60)
    for number, row in enumerate([asked, granted]):
        ledger.commit_now(maker.note(f"row {number}", row))
        assert ledger.ask_now(PendingApprovals()) == (row,)
        assert ledger.ask_now(LoadAccount(A, 10)).approvals == (row,)
    for wrong in (ApprovalStatus.PENDING, ApprovalStatus.DENIED):
        row = evolve(granted, status=wrong, resolved_ns=None if wrong is ApprovalStatus.PENDING else 5)
        with pytest.raises(Unwritable):
            ledger.commit_now(Maker(maker.account).note("wrong", row))
    ledger.commit_now(maker.note("end", evolve(granted, status=end)))
    assert ledger.ask_now(PendingApprovals()) == ledger.ask_now(LoadAccount(A, 10)).approvals == ()
    with pytest.raises(Unwritable):
        ledger.commit_now(Maker(maker.account).note("again", granted))


@pytest.mark.parametrize("end", [ApprovalStatus.USED, ApprovalStatus.TIMED_OUT])
def test_a_payments_approval_ends_with_its_grant(ledger: Ledger, maker: Maker, end: ApprovalStatus) -> None:
    granted = approval(status=ApprovalStatus.APPROVED, resolved_ns=5)
    ledger.commit_now(maker.note("ask", granted))
    assert ledger.ask_now(PendingApprovals()) == ()
    with pytest.raises(Unwritable):
        ledger.commit_now(Maker(maker.account).note("end", evolve(granted, status=end)))


def test_holds_without_an_owner_are_those_of_requests_that_nobody_has_to_approve(ledger: Ledger, maker: Maker) -> None:
    for change in (
        maker.reserve("a", 5),
        maker.reserve("b", 5, (approval(transaction_id="b", kind="request"),)),
        maker.reserve("e", 5, (approval("apr_2", transaction_id="e", kind="request", **GRANTED),)),
        maker.reserve("f", 5, (approval("apr_3", transaction_id="f", kind="request", **USED),)),
        maker.reserve("c", 5, kind="payment"),
        maker.reserve("d", 5),
        maker.end("d", 5),
    ):
        ledger.commit_now(change)
    assert [hold.key for hold in ledger.ask_now(OrphanedHolds())] == ["a", "f"]
    assert [hold.key for hold in ledger.ask_now(LoadAccount(A, 10)).open_holds] == ["a", "b", "c", "e", "f"]


# Events


def test_events_are_due_in_order_until_they_are_told(ledger: Ledger, maker: Maker) -> None:
    ledger.commit_now(maker.note("events", event("evt_1", due_ns=30), event("evt_2"), event("evt_3", due_ns=20)))
    assert [row.event_id for row in ledger.ask_now(DueEvents(29, 10))] == ["evt_2", "evt_3"]
    assert [row.event_id for row in ledger.ask_now(DueEvents(None, 2))] == ["evt_2", "evt_3"]
    told = event("evt_2", state=EventState.DELIVERED, attempts=1, ended_ns=12)
    failed = event("evt_3", due_ns=90, attempts=1, last_error="500")
    for row in (told, failed):
        ledger.commit_now(EventProgress(row))
    assert ledger.ask_now(DueEvents(None, 10)) == (event("evt_1", due_ns=30), failed)
    assert ledger.ask_now(FindEvent("evt_2")) == told
    with pytest.raises(Unwritable):
        ledger.commit_now(EventProgress(event("evt_9")))
    with pytest.raises(Unwritable):
        ledger.commit_now(Maker(maker.account).note("forge", event("evt_2", body="{}")))


def test_dead_events_are_listed_newest_first(ledger: Ledger, maker: Maker) -> None:
    ids = [f"evt_{number}" for number in range(1, 5)]
    ledger.commit_now(maker.note("events", *[event(event_id) for event_id in ids]))
    for event_id in ids[:3]:
        ledger.commit_now(EventProgress(event(event_id, state=EventState.DEAD, attempts=9, ended_ns=12)))
    assert [row.event_id for row in ledger.ask_now(DeadEvents(2))] == ["evt_3", "evt_2"]
    assert [row.event_id for row in ledger.ask_now(DeadEvents(2, "evt_2"))] == ["evt_1"]


def test_text_that_cannot_be_stored_is_bent(ledger: Ledger, maker: Maker) -> None:
    ledger.commit_now(maker.reserve("a", 5, model="\ud800", correlation_id="x"))
    hold = ledger.ask_now(FindHold(key="a"))
    assert hold is not None
    assert (hold.model, hold.correlation_id) == ("?", "x")
