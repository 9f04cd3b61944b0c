"""The ledger in memory and the one on disk are given the same changes, right and wrong, and must not differ."""

import contextlib
import itertools
import sqlite3
import tempfile
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
from attrs import evolve
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, rule

from arbstr.store import (
    AccountRow,
    ActiveTokens,
    AlertSent,
    ApprovalRow,
    ApprovalStatus,
    BearerRow,
    BudgetRow,
    Change,
    DropRemoteHold,
    DueEvents,
    DuplicateKey,
    EventProgress,
    EventRow,
    EventState,
    FindApproval,
    FindDeposit,
    FindHold,
    FindPayment,
    Frozen,
    HoldRenewal,
    KeepRemoteHold,
    ListAgents,
    LoadAccount,
    MemoryLedger,
    OrphanedHolds,
    PaymentRow,
    PaymentState,
    PendingApprovals,
    PolicyRow,
    ReceiptOnly,
    RemoteHoldRow,
    RemoteHolds,
    RemoteHoldState,
    Store,
    StoreError,
    UnfinishedPayments,
)
from arbstr.store._rows import COLUMNS
from tests.store.maker import Maker, added, receipt

AGENTS = ("ag_a", "ag_b")
agents = st.sampled_from(AGENTS)
keys = st.sampled_from("abcdef")
amounts = st.integers(-5, 60)
small = st.integers(0, 3)
moments = st.none() | st.integers(0, 40)
owners = st.sampled_from((*AGENTS, "ag_c"))
ids = st.sampled_from(("1", "2", "3"))

rows_beside = st.one_of(
    st.builds(
        PolicyRow,
        agents,
        st.integers(0, 6),
        st.none() | amounts,
        models=st.sampled_from([(), ("m", "n")]),
        effective_ns=st.integers(0, 40),
    ),
    st.builds(
        BudgetRow,
        ids.map("bu_{}".format),
        agents,
        st.just("part"),
        amounts,
        small,
        expires_ns=moments,
        revoked_ns=moments,
    ),
    st.builds(
        BearerRow,
        ids.map("tk_{}".format),
        st.sampled_from(["h1", "h2", "h3", "hash of ag_a"]),
        agents,
        st.just(""),
        st.none() | st.sampled_from(["bu_1", "bu_2"]),
        revoked_ns=moments,
    ),
    st.builds(
        ApprovalRow,
        ids.map("apr_{}".format),
        agents,
        st.sampled_from(["payment", "request", "gift"]),
        keys,
        amounts,
        st.none(),
        st.sampled_from(ApprovalStatus),
        small,
        small,
        moments,
    ),
    st.builds(
        PaymentRow,
        ids.map("tx_{}".format),
        agents,
        st.sampled_from(["payment", "withdrawal"]),
        st.sampled_from([5, -1]),
        st.sampled_from(PaymentState),
        small,
        small,
        st.none() | st.sampled_from(["k", "l"]),
        small,
        st.none() | small,
    ),
    st.builds(
        EventRow,
        ids.map("evt_{}".format),
        st.just("balance_alert"),
        agents,
        st.sampled_from(["{}", "{}", "{}", "[]"]),
        small,
        small,
        st.integers(-1, 2),
        st.sampled_from(EventState),
    ),
    st.builds(AlertSent, agents, small),
    st.builds(Frozen, agents, moments),
)


remote_holds = st.builds(
    RemoteHoldRow,
    ids.map("res_{}".format),
    keys,
    owners,
    amounts,
    st.just("m"),
    st.just("p"),
    small,
    st.sampled_from(RemoteHoldState),
    amounts,
    st.none() | small,
    attempts=st.integers(-1, 2),
)


def told(error: StoreError | None) -> tuple[object, ...]:
    """What a caller can make out of a refusal."""
    return (type(error), error.key if isinstance(error, DuplicateKey) else None)


class LedgersAgree(RuleBasedStateMachine):
    """Changes are decided on what is on disk, or on what was once, and committed in batches of any size."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "books.db"
        self.store = Store.open(self.path, durability="process")
        self.memory = MemoryLedger()
        self.makers = {agent_id: Maker.of(agent_id) for agent_id in AGENTS}
        self.batch: list[Change] = []
        self.numbers = itertools.count()
        for agent_id in AGENTS:
            first = (added(agent_id), self.makers[agent_id].deposit(f"first of {agent_id}", 500))
            for ledger, change in itertools.product((self.store, self.memory), first):
                ledger.commit_now(change)

    def teardown(self) -> None:
        try:
            self.commit()
            assert self.disk_tables() == {name: sorted(rows, key=repr) for name, rows in self.memory.tables().items()}
            assert self.store.check(self.path) == self.memory.check()
        finally:
            self.store.close()
            self.folder.cleanup()

    def disk_tables(self) -> dict[str, list[tuple[object, ...]]]:
        with contextlib.closing(sqlite3.connect(self.path)) as db:
            return {
                table: sorted(db.execute(f"SELECT {columns} FROM {table}").fetchall(), key=repr)  # noqa: S608 - our names
                for table, columns in COLUMNS.items()
            }

    def commit_both(self, *changes: Change) -> None:
        """In one batch; both answer the same."""
        answers: list[list[StoreError | None]] = [[], []]
        self.memory.at_once = False
        for change in changes:
            self.memory.submit(change, lambda _, error: answers[0].append(error))
        self.memory.drain()
        # One job that submits the others keeps the writer busy meanwhile: they are taken as one batch.
        self.store.call(
            lambda _: [self.store.submit(change, lambda _, error: answers[1].append(error)) for change in changes],
            lambda *_: None,
        )
        self.store.wait_for(lambda _: None)
        self.store.wait_for(lambda _: None)
        assert [told(error) for error in answers[0]] == [told(error) for error in answers[1]], answers
        for agent_id in AGENTS:
            self.makers[agent_id].account = self.memory.ask_now(LoadAccount(agent_id, 0)).account

    def add(self, change: Change) -> None:
        self.batch.append(change)

    @rule()
    def commit(self) -> None:
        self.commit_both(*self.batch)
        self.batch.clear()

    @rule(agent_id=agents, key=keys, amount=amounts)
    def deposit(self, agent_id: str, key: str, amount: int) -> None:
        self.add(self.makers[agent_id].deposit(key, amount))

    @rule(
        agent_id=agents,
        key=keys,
        amount=amounts,
        kind=st.sampled_from(["request", "request", "payment", "gift"]),
        budget_id=st.sampled_from([None, None, "bu_1"]),
        rows=st.lists(rows_beside, max_size=2),
    )
    def reserve(self, agent_id: str, key: str, amount: int, kind: str, budget_id: str | None, rows: list[Any]) -> None:
        maker = self.makers[agent_id]
        self.add(maker.reserve(key, amount, tuple(rows), kind=kind, budget_id=budget_id))

    @rule(agent_id=agents, key=keys, charge=small, at_ns=st.integers(1, 40))
    def end(self, agent_id: str, key: str, charge: int, at_ns: int) -> None:
        maker = self.makers[agent_id]
        if key in maker.holds:
            self.add(maker.end(key, charge, at_ns))

    @rule(hold=remote_holds, filed=st.booleans())
    def keep_remote(self, hold: RemoteHoldRow, filed: bool) -> None:
        self.add(KeepRemoteHold(hold, receipt(hold.key, 9) if filed else None))

    @rule(reservation_id=ids.map("res_{}".format))
    def drop_remote(self, reservation_id: str) -> None:
        self.add(DropRemoteHold(reservation_id))

    @rule(agent_id=agents, rows=st.lists(rows_beside, min_size=1, max_size=3))
    def note(self, agent_id: str, rows: list[Any]) -> None:
        theirs = [evolve(row, agent_id=agent_id) for row in rows]
        self.add(self.makers[agent_id].note(f"note {next(self.numbers)}", *theirs))

    @rule(agent_id=agents, row=rows_beside)
    def note_of_anyone(self, agent_id: str, row: Any) -> None:
        self.add(self.makers[agent_id].note(f"note {next(self.numbers)}", row))

    @rule(agent_id=agents, key=keys, missing=st.integers(-2, 2))
    def stale(self, agent_id: str, key: str, missing: int) -> None:
        account = self.makers[agent_id].account
        old = evolve(account, available_msat=account.available_msat + missing, spent_msat=account.spent_msat - missing)
        self.add(Maker(old).deposit(f"stale {key}", 1))

    @rule(agent_id=agents)
    def forget(self, agent_id: str) -> None:
        """Decide the next on something that never was."""
        self.makers[agent_id].account = AccountRow(agent_id)

    @rule(key=keys, lease_ns=st.integers(0, 9), evidence=small)
    def renew(self, key: str, lease_ns: int, evidence: int) -> None:
        self.add(HoldRenewal(f"tx_{key}", lease_ns, evidence))

    @rule(key=keys)
    def file(self, key: str) -> None:
        self.add(ReceiptOnly(receipt(key)))

    @rule(agent_id=owners, token_hash=st.sampled_from(["h1", "h9", None]))
    def add_agent(self, agent_id: str, token_hash: str | None) -> None:
        self.add(added(agent_id, token_hash))

    @rule(number=ids, due_ns=small, state=st.sampled_from(EventState), attempts=st.integers(-1, 3))
    def tell(self, number: str, due_ns: int, state: EventState, attempts: int) -> None:
        self.add(EventProgress(EventRow(f"evt_{number}", "x", "ag_a", "", 1, due_ns, attempts, state)))

    @rule(now_ns=st.integers(0, 60), key=keys, number=ids)
    def ask(self, now_ns: int, key: str, number: str) -> None:
        for question in (
            *(LoadAccount(agent_id, now_ns) for agent_id in AGENTS),
            ListAgents(),
            ActiveTokens(),
            FindHold(key=key),
            FindDeposit(key),
            FindPayment(f"tx_{number}"),
            FindPayment(agent_id="ag_a", key="k"),
            FindApproval(f"apr_{number}"),
            FindApproval(transaction_id=key),
            OrphanedHolds(),
            UnfinishedPayments(),
            PendingApprovals(),
            DueEvents(now_ns, 2),
            RemoteHolds(RemoteHoldState.OPEN),
            RemoteHolds(RemoteHoldState.ENDING),
        ):
            assert self.store.ask_now(question) == self.memory.ask_now(question), question  # type: ignore[comparison-overlap]


LedgersAgree.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
test_ledgers_agree_on_whatever_they_are_given = LedgersAgree.TestCase
