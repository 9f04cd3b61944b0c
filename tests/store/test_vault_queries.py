"""What the vault's pages show, over a database that the journal wrote."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest
from attrs import define, evolve, field
from hypothesis import given
from hypothesis import strategies as st

from arbstr.store import (
    DAY_NS,
    ApprovalRow,
    ApprovalStatus,
    BudgetRow,
    Change,
    EventRow,
    EventState,
    HistoryFilter,
    ListPage,
    PaymentRow,
    PaymentState,
    PolicyRow,
    find_agent,
    find_payment,
    find_reservation,
    latest_policy,
    list_agents,
    list_approvals,
    list_audit,
    list_budgets,
    list_events,
    list_tokens,
    read_balance,
    read_dashboard,
    read_history,
)
from arbstr.store._journal import Journal
from arbstr.store._schema import create_in_memory
from tests.store.maker import Maker, added, receipt

A, B = "ag_a", "ag_b"
NOW = DAY_NS * 1_000


@define
class Books:
    db: sqlite3.Connection
    makers: dict[str, Maker] = field(factory=dict)

    def add(self, agent_id: str) -> Maker:
        self.apply(added(agent_id))
        self.makers[agent_id] = Maker.of(agent_id)
        return self.makers[agent_id]

    def apply(self, *changes: Change) -> None:
        for change in changes:
            self.db.execute("BEGIN")
            Journal(self.db).apply(change)
            self.db.execute("COMMIT")


@pytest.fixture
def books() -> Iterator[Books]:
    db = create_in_memory()
    yield Books(db)
    db.close()


@pytest.fixture
def maker(books: Books) -> Maker:
    """Agent A with 1,000 msat."""
    maker = books.add(A)
    books.apply(maker.deposit("d1", 1_000))
    return maker


def payment(transaction_id: str, state: PaymentState, at_ns: int = 5, agent_id: str = A) -> PaymentRow:
    return PaymentRow(transaction_id, agent_id, "payment", 100, state, 1, at_ns)


def approval(approval_id: str, agent_id: str = A, status: ApprovalStatus = ApprovalStatus.PENDING) -> ApprovalRow:
    resolved_ns = None if status is ApprovalStatus.PENDING else 9
    return ApprovalRow(approval_id, agent_id, "payment", f"tx_{approval_id}", 5, None, status, 1, 2, resolved_ns)


def ids(page: ListPage[Any], name: str) -> list[str]:
    return [getattr(row, name) for row in page.rows]


def test_agents_come_by_id_a_page_at_a_time(books: Books) -> None:
    for agent_id in ("ag_b", "ag_a", "ag_c"):
        books.add(agent_id)
    first = list_agents(books.db, limit=2)
    assert (ids(first, "agent_id"), first.more) == (["ag_a", "ag_b"], True)
    last = list_agents(books.db, after="ag_b", limit=2)
    assert (ids(last, "agent_id"), last.more) == (["ag_c"], False)
    assert list_agents(books.db, after="zzz", limit=2) == ListPage((), False)


@given(st.integers(-5, 30), st.text(max_size=4))
def test_any_limit_and_cursor_give_a_page(limit: int, after: str) -> None:
    books = Books(create_in_memory())
    for number in range(3):
        books.add(f"ag_{number}")
    page = list_agents(books.db, after=after, limit=limit)
    assert len(page.rows) <= max(1, limit)
    assert all(row.agent_id.encode() > after.encode("utf-8", "replace") for row in page.rows)
    books.db.close()


def test_agent_is_found_with_what_it_was_registered_with(books: Books, maker: Maker) -> None:
    agent = find_agent(books.db, A)
    assert agent is not None
    assert (agent.name, agent.metadata, agent.frozen_ns) == ("name of ag_a", '{"team": "a"}', None)
    assert find_agent(books.db, "ag_zz") is None
    (token,) = list_tokens(books.db, A)
    assert (token.token_id, token.revoked_ns) == ("tk_ag_a", None)


def test_latest_policy_is_the_highest_version_whether_or_not_it_counts_yet(books: Books, maker: Maker) -> None:
    books.apply(maker.note("p", PolicyRow(A, 2, 10, 20, models=("m",), effective_ns=NOW)))
    found = latest_policy(books.db, A)
    assert found is not None
    assert (found.version, found.models) == (2, ("m",))
    assert latest_policy(books.db, "ag_zz") is None


def test_balance_leaves_out_what_is_held(books: Books, maker: Maker) -> None:
    books.apply(maker.reserve("r", 300))
    balance = read_balance(books.db, A)
    assert balance is not None
    assert (balance.balance_msat, balance.held_msat) == (700, 300)
    assert read_balance(books.db, "ag_zz") is None


def test_dashboard_adds_up_the_last_day_and_what_is_held(books: Books, maker: Maker) -> None:
    books.add(B)
    books.apply(maker.reserve("edge", 10), maker.end("edge", 10, at_ns=NOW - DAY_NS))
    books.apply(maker.reserve("inside", 20), maker.end("inside", 15, at_ns=NOW - DAY_NS + 1))
    books.apply(maker.reserve("open", 40))
    books.apply(maker.note("ask", approval("apr_1"), approval("apr_2", status=ApprovalStatus.DENIED)))
    dashboard = read_dashboard(books.db, NOW)
    assert (dashboard.total_agents, dashboard.total_pending_approvals) == (2, 1)
    a, b = dashboard.agents
    assert (a.day_spend_msat, a.pending_approvals, a.last_payment_ns) == (55, 1, NOW - DAY_NS + 1)
    assert (a.balance.balance_msat, b.balance.balance_msat) == (935, 0)
    assert (b.day_spend_msat, b.pending_approvals, b.last_payment_ns) == (0, 0, None)
    assert b.policy is not None
    assert (b.policy.version, b.policy.set_by_operator) == (1, False)


def test_last_payment_is_also_one_that_failed_but_none_that_was_denied(books: Books, maker: Maker) -> None:
    books.apply(maker.note("p", payment("tx_1", PaymentState.DENIED, 8), payment("tx_2", PaymentState.FAILED, 7)))
    assert read_dashboard(books.db, NOW).agents[0].last_payment_ns == 7


def test_dashboard_looks_nothing_up_by_reading_a_table(books: Books, maker: Maker) -> None:
    plans: list[str] = []
    db = sqlite3.connect(":memory:", isolation_level=None)
    db.deserialize(books.db.serialize())
    statements: list[str] = []
    db.set_trace_callback(statements.append)
    read_dashboard(db, NOW)
    db.set_trace_callback(None)
    for statement in statements:
        plans += [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {statement}")]
    db.close()
    scans = [plan for plan in plans if plan.startswith("SCAN") and "CONSTANT" not in plan]
    assert all(plan.startswith(("SCAN g", "SCAN agents", "SCAN approvals USING", "SCAN (subquery")) for plan in scans)


def test_payment_is_its_own_agents_only(books: Books, maker: Maker) -> None:
    books.add(B)
    books.apply(maker.note("p", payment("tx_1", PaymentState.DENIED)))
    assert find_payment(books.db, A, "tx_1") == payment("tx_1", PaymentState.DENIED)
    assert find_payment(books.db, B, "tx_1") is None


def test_reservation_is_found_by_its_key_and_its_id_but_not_the_hold_of_a_payment(books: Books, maker: Maker) -> None:
    books.apply(maker.reserve("r", 10), maker.reserve("p", 20, kind="payment"))
    found = find_reservation(books.db, A, "tx_r")
    assert found is not None
    assert found.amount_msat == 10
    assert find_reservation(books.db, A, "r") == found
    assert find_reservation(books.db, A, "tx_p") is None
    assert find_reservation(books.db, B, "tx_r") is None


def test_approvals_are_listed_pending_or_all(books: Books, maker: Maker) -> None:
    books.apply(maker.note("ask", approval("apr_2"), approval("apr_1", status=ApprovalStatus.APPROVED)))
    assert ids(list_approvals(books.db, pending_only=True), "approval_id") == ["apr_2"]
    assert ids(list_approvals(books.db, pending_only=False), "approval_id") == ["apr_1", "apr_2"]
    page = list_approvals(books.db, pending_only=False, limit=1)
    assert (ids(page, "approval_id"), page.more) == (["apr_1"], True)


def test_budgets_are_listed_with_what_they_hold(books: Books, maker: Maker) -> None:
    live = BudgetRow("bu_1", A, "live", 500, models=("m",))
    expired = BudgetRow("bu_2", A, "expired", 500, expires_ns=NOW)
    revoked = BudgetRow("bu_3", A, "revoked", 500, revoked_ns=3)
    books.apply(maker.note("mint", live, expired, revoked))
    books.apply(maker.reserve("r", 30, budget_id="bu_1"), maker.reserve("other", 40))
    assert list_budgets(books.db, A, live_at_ns=NOW, limit=9).rows == ((live, 30),)
    page = list_budgets(books.db, A, live_at_ns=None, after="bu_1", limit=9)
    assert page.rows == ((expired, 0), (revoked, 0))


def test_events_are_listed_by_what_became_of_them(books: Books, maker: Maker) -> None:
    due = EventRow("evt_1", "balance_alert", A, "{}", 1, 2)
    dead = evolve(due, event_id="evt_2", state=EventState.DEAD, attempts=9, last_error="500", ended_ns=4)
    books.apply(maker.note("tell", due, dead))
    assert list_events(books.db, "pending", limit=9).rows == (due,)
    assert list_events(books.db, "dead", limit=9).rows == (dead,)
    assert list_events(books.db, "all", after="evt_1", limit=9).rows == (dead,)


def test_history_is_one_agents_and_in_order(books: Books, maker: Maker) -> None:
    books.add(B)
    books.apply(maker.reserve("r", 10))
    page = read_history(books.db, A, HistoryFilter(), limit=9)
    assert [row.audit.action for row in page.rows] == ["AGENT_REGISTERED", "DEPOSIT", "RESERVE"]
    assert [row.audit.sequence for row in page.rows] == [1, 2, 4]
    first = read_history(books.db, A, HistoryFilter(), limit=1)
    assert first.more
    rest = read_history(books.db, A, HistoryFilter(after_sequence=1), limit=9)
    assert [row.audit.sequence for row in rest.rows] == [2, 4]


@pytest.mark.parametrize(
    ("wanted", "actions"),
    [
        (HistoryFilter(actions=("DEPOSIT",)), ["DEPOSIT"]),
        (HistoryFilter(since_ns=7), ["DEPOSIT", "RESERVE"]),
        (HistoryFilter(since_ns=8), []),
        (HistoryFilter(until_ns=3), ["AGENT_REGISTERED"]),
        (HistoryFilter(after_sequence=2**80), []),
        (HistoryFilter(since_ns=2**80), []),
    ],
)
def test_history_is_narrowed_by_action_and_time(
    books: Books, maker: Maker, wanted: HistoryFilter, actions: list[str]
) -> None:
    books.apply(maker.reserve("r", 10))
    assert [row.audit.action for row in read_history(books.db, A, wanted, limit=9).rows] == actions


def test_settled_hold_is_in_the_history_with_its_id_and_usage(books: Books, maker: Maker) -> None:
    books.apply(maker.reserve("r", 10))
    end = maker.end("r", 4)
    details = {"key": "r", "held_msat": 10, "charged_msat": 4}
    audit = evolve(end.audit, action="HOLD_SETTLED", details=details)
    filed = evolve(receipt("r"), prompt_tokens=3, completion_tokens=5, provider="p", duration_us=42_000)
    books.apply(evolve(end, audit=audit, receipt=filed))
    row = read_history(books.db, A, HistoryFilter(actions=("HOLD_SETTLED",)), limit=9).rows[0]
    assert row.hold_id == "tx_r"
    assert row.usage == {"tokens_in": 3, "tokens_out": 5, "provider": "p", "latency_ms": 42}


def test_audit_is_everybodys_and_names_the_chain(books: Books, maker: Maker) -> None:
    books.add(B)
    page = list_audit(books.db, HistoryFilter(), limit=9)
    assert [(row.sequence, row.agent_id) for row in page.rows] == [(1, A), (2, A), (3, B)]
    assert all(len(row.digest) == 64 for row in page.rows)
    assert [row.sequence for row in list_audit(books.db, HistoryFilter(), agent_id=B, limit=9).rows] == [3]
