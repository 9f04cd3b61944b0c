"""What ``bench.ledger`` measures: reserve and settle through account actors, or with one transaction per call.

CPU time is the whole process's: the actors, the writer's thread and the callers. Keys sort by time, as request ids do.
"""

from __future__ import annotations

import random
import sqlite3
import time
from functools import partial
from pathlib import Path

import trio
from attrs import frozen

from actors import ActorSystem
from arbstr.accounts import Accounts, Release, Reserve, Settle
from arbstr.accounts import _rules as rules
from arbstr.store import (
    AccountChange,
    AccountRow,
    AttemptRow,
    AuditEntry,
    HoldChange,
    HoldRow,
    HoldState,
    ReceiptRow,
    Store,
    TokenRow,
    new_agent,
    new_ulid,
)
from arbstr.store._journal import Journal

ACTORS, NAIVE = "actors", "one transaction per call"
MODEL, PROVIDER = "llama-3.3-70b", "provider-7"
DEPOSIT_MSAT = 10**12
HELD_MSAT, CHARGED_MSAT = 50_000, 30_000
LEASE_S = 600.0
DEADLINE_S = 60.0
WARM_PAIRS = 500
"""Before the clock runs: caches fill, the log grows to its usual length."""
FILL_BATCH = 2_000
ROWS_PER_PAIR = 12
"""That a pair leaves in all tables: 2 transactions, 5 postings, a hold, a receipt, an attempt, 2 of the audit log."""


def receipt_of(key: str, cost_msat: int = CHARGED_MSAT) -> ReceiptRow:
    """One as requests file them."""
    now = time.time_ns()
    return ReceiptRow(
        request_id=key,
        agent_id=None,
        correlation_id=None,
        hold_id=None,
        started_ns=now,
        duration_us=800_000,
        model=MODEL,
        provider=PROVIDER,
        policy="default",
        stream=True,
        outcome="ok",
        http_status=200,
        error=None,
        prompt_tokens=500,
        completion_tokens=150,
        estimated=False,
        expected_msat=CHARGED_MSAT,
        cost_msat=cost_msat,
        saved_median_msat=1_000,
        saved_dearest_msat=5_000,
        attempts=(AttemptRow(PROVIDER, now, 800_000, 200_000, 200, "success"),),
        selection='{"candidates":[[PROVIDER,30000],["provider-2",31000]]}',
        tier="standard",
        complexity_score=0.4,
    )


@frozen
class Round:
    pairs: int
    wall_s: float
    cpu_s: float


def new_books(path: Path, agents: int) -> list[str]:
    """A database with so many agents that can pay; their ids."""
    ids = []
    with Store.open(path, durability="process") as store:
        for number in range(agents):
            agent, added = new_agent(f"agent {number}")
            store.submit(added)
            before = AccountRow(agent.agent_id)
            move = rules.deposit(before, DEPOSIT_MSAT)
            change = AccountChange(
                f"deposit:{number}", "deposit", 1, before, move.after, move.postings, AuditEntry("DEPOSIT", {})
            )
            ids.append(agent.agent_id)
            if number % 1_000 == 999:
                store.commit_now(change)
            else:
                store.submit(change)
        store.wait_for(lambda _: None)
    return ids


def fill(path: Path, agent_ids: list[str], rows: int) -> None:
    """Pairs of the past, until all tables together have so many rows. Written by the journal: the books are right."""
    with Store.open(path, durability="process") as store:
        accounts = {agent_id: AccountRow(agent_id, 1, DEPOSIT_MSAT, 0, 0, DEPOSIT_MSAT) for agent_id in agent_ids}
        draw = random.Random(1)

        def write(pairs: int, db: sqlite3.Connection) -> None:
            db.execute("BEGIN IMMEDIATE")
            journal = Journal(db)
            changes = []
            for _ in range(pairs):
                agent_id = agent_ids[draw.randrange(len(agent_ids))]
                changes += pair_of(accounts[agent_id], new_ulid())
                accounts[agent_id] = changes[-1].after
            journal.apply_together(changes)
            db.execute("COMMIT")

        pairs = rows // ROWS_PER_PAIR
        for first in range(0, pairs, FILL_BATCH):
            store.wait_for(partial(write, min(FILL_BATCH, pairs - first)))


def pair_of(account: AccountRow, key: str) -> tuple[AccountChange, AccountChange]:
    """The two changes that an account actor would make of a request."""
    now = time.time_ns()
    held = rules.reserve(account, HELD_MSAT)
    hold = HoldRow(f"tx_{key}", key, account.agent_id, HELD_MSAT, HoldState.OPEN, MODEL, PROVIDER, now, now)
    details = {"key": key, "hold_id": hold.hold_id, "held_msat": HELD_MSAT, "model": hold.model}
    reserve = AccountChange(
        f"reserve:{key}",
        "reserve",
        now,
        account,
        held.after,
        held.postings,
        AuditEntry("HOLD_RESERVED", details),
        hold,
    )
    ended = rules.settle(held.after, HELD_MSAT, CHARGED_MSAT)
    end = HoldChange(hold.hold_id, HELD_MSAT, HELD_MSAT, HoldState.SETTLED, hold.provider, now, 0, CHARGED_MSAT, now)
    spent = {"key": key, "held_msat": HELD_MSAT, "charged_msat": CHARGED_MSAT}
    settle = AccountChange(
        f"end:{key}",
        "settle",
        now,
        held.after,
        ended.after,
        ended.postings,
        AuditEntry("HOLD_SETTLED", spent),
        end,
        receipt_of(key),
    )
    return reserve, settle


async def by_actors(path: Path, durability: str, in_flight: int, pairs: int, rounds: int) -> list[Round]:
    """So many callers at once, each reserving and settling one after the other; every agent's actor runs already."""
    with Store.open(path, durability=durability) as store:  # type: ignore[arg-type]  # one of the two
        ids = [agent.agent_id for agent in store.agents_now()]
        store.attach(trio.lowlevel.current_trio_token())
        try:
            async with ActorSystem.run() as system:
                accounts = Accounts(system, store, list[TokenRow](), hold_lease_s=LEASE_S)
                await _warm(accounts, ids)
                await _pairs(accounts, in_flight, requests(ids, WARM_PAIRS))
                found = []
                for _ in range(rounds):
                    work = requests(ids, pairs)
                    wall_s, cpu_s = time.perf_counter(), time.process_time()
                    await _pairs(accounts, in_flight, work)
                    found.append(Round(pairs, time.perf_counter() - wall_s, time.process_time() - cpu_s))
                await system.stop_all(grace_s=10)
        finally:
            store.detach()
    return found


async def _warm(accounts: Accounts, ids: list[str]) -> None:
    for agent_id in ids:
        await accounts.ref(agent_id).request(Release(f"none:{agent_id}", "none", None), timeout_s=DEADLINE_S)


Request = tuple[str, str, ReceiptRow]
"""Agent, key and receipt: what a caller brings."""


def requests(ids: list[str], pairs: int) -> list[Request]:
    """Made before the clock runs."""
    draw = random.Random(pairs)
    keys = [new_ulid() for _ in range(pairs)]
    return [(ids[draw.randrange(len(ids))], key, receipt_of(key)) for key in keys]


async def _pairs(accounts: Accounts, in_flight: int, all_of_them: list[Request]) -> None:
    left = iter(all_of_them)

    async def caller() -> None:
        for agent_id, key, receipt in left:
            ref = accounts.ref(agent_id)
            await ref.request(Reserve(key, HELD_MSAT, MODEL, PROVIDER), timeout_s=DEADLINE_S)
            await ref.request(Settle(key, CHARGED_MSAT, receipt), timeout_s=DEADLINE_S)

    async with trio.open_nursery() as nursery:
        for _ in range(in_flight):
            nursery.start_soon(caller)


def naive(path: Path, durability: str, pairs: int, rounds: int) -> list[Round]:
    """The same rows, one SQLite transaction per call, the next call when the one before is on disk."""
    db = sqlite3.connect(path, isolation_level=None)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute(f"PRAGMA synchronous = {'FULL' if durability == 'full' else 'NORMAL'}")
        db.execute("PRAGMA foreign_keys = ON")
        ids = [agent_id for (agent_id,) in db.execute("SELECT agent_id FROM agents")]
        _one_by_one(db, ids, min(WARM_PAIRS, pairs), "warm")
        found = []
        for number in range(rounds):
            wall_s, cpu_s = time.perf_counter(), time.process_time()
            _one_by_one(db, ids, pairs, f"naive {number}")
            found.append(Round(pairs, time.perf_counter() - wall_s, time.process_time() - cpu_s))
        return found
    finally:
        db.close()


def _one_by_one(db: sqlite3.Connection, ids: list[str], pairs: int, name: str) -> None:
    draw = random.Random(name)
    for _ in range(pairs):
        agent_id = ids[draw.randrange(len(ids))]
        row = db.execute(
            "SELECT agent_id, version, available_msat, held_msat, spent_msat, deposited_msat, withdrawn_msat, "
            "debt_msat FROM accounts WHERE agent_id = ?",
            (agent_id,),
        ).fetchone()
        for change in pair_of(AccountRow(*row), new_ulid()):
            db.execute("BEGIN IMMEDIATE")
            Journal(db).apply(change)
            db.execute("COMMIT")
